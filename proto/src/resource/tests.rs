//! Every noun comes back from the wire as it went, and what is not valid is refused by name.

use proptest::prelude::*;
use weft_model::inbound::Mode;
use weft_model::locality::Prefer;

use super::*;

mod arbitrary;
mod federation;
mod fields;
mod skew;

/// Debug says all of a body: the model's rules have no equality, because regular expressions have none.
fn shown(body: &Body) -> String {
    format!("{body:?}")
}

fn round_trip(body: &Body) {
    let encoded = encode(body);
    let decoded = decode(body.kind(), &encoded.bytes).expect("what is valid in the model is valid on the wire");
    assert_eq!(shown(&decoded), shown(body));
    assert_eq!(encode(&decoded), encoded, "and the same content has the same bytes");
}

proptest! {
    #[test]
    fn lookups_come_back(lookup in arbitrary::lookup()) {
        round_trip(&Body::Lookup(lookup));
    }

    #[test]
    fn services_come_back(service in arbitrary::service()) {
        round_trip(&Body::Service(service));
    }

    #[test]
    fn endpoint_sets_come_back(set in arbitrary::endpoint_set()) {
        round_trip(&Body::Endpoints(set));
    }

    #[test]
    fn inbound_configurations_come_back(inbound in arbitrary::inbound()) {
        round_trip(&Body::Inbound(inbound));
    }

    #[test]
    fn bundles_come_back(bundles in arbitrary::bundles()) {
        prop_assert_eq!(&bundles::from_identity(bundles::to_identity(&bundles)).unwrap(), &bundles);
        round_trip(&Body::Bundles(bundles));
    }

    #[test]
    fn meshes_come_back(mesh in arbitrary::mesh()) {
        round_trip(&Body::Mesh(mesh));
    }

    #[test]
    fn targets_come_back(target in arbitrary::target()) {
        let wire = name::target_to_wire(&target);
        prop_assert_eq!(&name::target_from_wire(wire).unwrap(), &target);
        let key = Name::lookup(&target);
        prop_assert_eq!(Name::from_wire(Some(key.to_wire())).unwrap(), key);
    }

    #[test]
    fn versions_come_back(version in arbitrary::version()) {
        let name = Name::new(Kind::Service, "key");
        let held = name::held_to_wire(&name, &version);
        prop_assert_eq!(name::held_from_wire(held).unwrap(), (name, version));
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for kind in Kind::ALL {
            if let Ok(body) = decode(kind, &bytes) {
                prop_assert!(decode(kind, &encode(&body).bytes).is_ok());
            }
        }
    }

    #[test]
    fn damaged_bodies_are_read_or_refused_without_a_panic(
        service in arbitrary::service(),
        at in any::<proptest::sample::Index>(),
        flip in 1_u8..,
    ) {
        let mut bytes = encode(&Body::Service(service)).bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(body) = decode(Kind::Service, &bytes) {
            prop_assert!(decode(Kind::Service, &encode(&body).bytes).is_ok());
        }
    }
}

fn a_mesh() -> Body {
    let trust_domain = weft_model::identity::TrustDomain::new("a").unwrap();
    let discovery_wait = std::time::Duration::from_secs(2);
    Body::Mesh(Mesh {
        trust_domain,
        cluster: "one".to_owned(),
        inside: Vec::new(),
        outside: Vec::new(),
        discovery_wait,
    })
}

fn a_resource() -> discovery::Resource {
    let source = Source {
        object: "Namespace kube-system".to_owned(),
        uid: "1".to_owned(),
        resource_version: 7,
    };
    to_wire(
        &Name::new(Kind::Mesh, name::MESH),
        vec![source],
        Vec::new(),
        &encode(&a_mesh()),
    )
}

#[test]
fn a_resource_comes_back() {
    let update = from_wire(a_resource()).unwrap();
    assert_eq!(update.name, Name::new(Kind::Mesh, name::MESH));
    assert_eq!(update.version.sources[0].resource_version, 7);
    assert_eq!(update.version.hash, encode(&a_mesh()).hash);
    let Change::Body(body) = update.change else {
        panic!("a body")
    };
    assert_eq!(shown(&body), shown(&a_mesh()));
}

#[test]
fn a_body_must_be_the_one_that_the_hash_is_of() {
    let mut resource = a_resource();
    let mut other = encode(&a_mesh()).bytes.to_vec();
    other[3] ^= 1;
    resource.state = Some(discovery::resource::State::Body(other.into()));
    let refusal = from_wire(resource.clone()).unwrap_err();
    assert_eq!(refusal.field, "version.hash");
    assert_eq!(refusal.name, resource.name, "the refusal says of what");
    assert_eq!(refusal.version, resource.version);
}

#[test]
fn hold_is_not_removed() {
    let mut resource = a_resource();
    let hold = discovery::Hold {
        reason: "spec.rules: not a list\n".to_owned(),
    };
    resource.state = Some(discovery::resource::State::Hold(hold));
    let change = from_wire(resource.clone()).unwrap().change;
    assert!(matches!(change, Change::Hold(reason) if reason == "spec.rules: not a list "));
    resource.state = Some(discovery::resource::State::Removed(discovery::Removed {}));
    assert!(matches!(from_wire(resource.clone()).unwrap().change, Change::Removed));
    resource.version = None;
    assert!(from_wire(resource.clone()).is_ok(), "what is gone needs no version");
    resource.state = None;
    assert_eq!(from_wire(resource).unwrap_err().field, "version");
}

#[test]
fn a_resource_without_a_state_is_refused() {
    let mut resource = a_resource();
    resource.state = None;
    assert_eq!(from_wire(resource).unwrap_err().field, "state");
}

#[test]
fn names_are_checked_against_their_kind() {
    let read = |kind: i32, key: &str| {
        let wire = discovery::ResourceName {
            kind,
            key: key.to_owned(),
        };
        Name::from_wire(Some(wire)).map_err(|error| error.field)
    };
    assert!(read(Kind::Lookup.to_wire() as i32, "10.0.0.1:80").is_ok());
    assert!(read(Kind::Lookup.to_wire() as i32, "[fd00::1]:80").is_ok());
    assert!(read(Kind::Lookup.to_wire() as i32, "name:reviews.shop:80").is_ok());
    for key in [
        "",
        "10.0.0.1",
        "reviews:80",
        "name:Reviews:80",
        "name::80",
        "name:reviews:0",
        "[FD00::1]:80",
    ] {
        assert_eq!(
            read(Kind::Lookup.to_wire() as i32, key),
            Err("key".to_owned()),
            "{key:?}"
        );
    }
    for kind in [Kind::Inbound, Kind::Bundles, Kind::Mesh] {
        assert!(read(kind.to_wire() as i32, kind.as_str()).is_ok());
        assert_eq!(read(kind.to_wire() as i32, "other"), Err("key".to_owned()));
    }
    assert_eq!(read(0, "x"), Err("kind".to_owned()), "unspecified");
    assert_eq!(read(99, "x"), Err("kind".to_owned()), "newer");
    assert_eq!(
        read(Kind::Service.to_wire() as i32, &"x".repeat(field::KEY_MAX + 1)),
        Err("key".to_owned())
    );
}

#[test]
fn a_target_is_asked_for_once_and_within_the_limit() {
    let target = |port| name::target_to_wire(&weft_model::destination::Target::Address(([10, 0, 0, 1], port).into()));
    let read = name::targets_from_wire(vec![target(1), target(2), target(1)], 3).unwrap();
    assert_eq!(read.len(), 2);
    let error = name::targets_from_wire(vec![target(1), target(2), target(3)], 2).unwrap_err();
    assert_eq!(error.field, "targets");
}

#[test]
fn a_service_requires_what_it_uses() {
    assert!(a_mesh().requires().is_empty());
    let mut service = fields::service();
    service.locality.prefer = Prefer::Region;
    service.locality.failover = vec!["us".to_owned()];
    service.balance = Balance::Random;
    let mut all = feature::SUPPORTED.to_vec();
    all.retain(|feature| *feature != feature::GATEWAYS);
    all.sort_unstable();
    assert_eq!(Body::Service(service.clone()).requires(), all);
    service.rules = None;
    service.streams = None;
    service.balance = Balance::default();
    service.locality.failover.clear();
    assert_eq!(Body::Service(service.clone()).requires(), [feature::LOCALITY]);
    service.locality = Locality::default();
    assert!(Body::Service(service).requires().is_empty());
}

#[test]
fn a_set_requires_gateways_where_one_of_its_endpoints_is_behind_any() {
    let mut set = endpoints::decode(fields::endpoint_set()).unwrap();
    assert!(set.endpoints.len() > 1);
    assert_eq!(Body::Endpoints(set.clone()).requires(), [feature::GATEWAYS]);
    for endpoint in &mut set.endpoints {
        std::sync::Arc::make_mut(endpoint).gateways = None;
    }
    assert!(Body::Endpoints(set).requires().is_empty());
}

#[test]
fn a_strict_mode_stays_strict() {
    let mut inbound = fields::inbound();
    for mode in [Mode::Permissive, Mode::Strict] {
        inbound.mode = mode;
        round_trip(&Body::Inbound(inbound.clone()));
    }
}
