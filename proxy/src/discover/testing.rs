//! Unit tests' way to say what a control plane says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use weft_certs::authority::Authority;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::credential::Credential;
use weft_certs::key::Key;
use weft_model::destination::{Lookup, Protocol, Service, Target};
use weft_model::endpoint::{BackendPlace, Endpoint, EndpointId, EndpointKey, EndpointSet, Place};
use weft_model::filter::Filters;
use weft_model::identity::{Identity, TrustDomain};
use weft_model::inbound::{Inbound, Mode, Workload};
use weft_model::locality::Locality;
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::route::{Backend, Match, PathMatch, RetryBudget, Rule, Rules, Timeouts};
use weft_model::traffic::Balance;
use weft_model::version::Source;
use weft_proto::discovery::{self, Batch, Resource};
use weft_proto::resource::federation::{Exported, ExportedEndpoint};
use weft_proto::resource::{self, Body, Kind, Mesh, Name, TrustRoots};

pub(crate) const DOMAIN: &str = "demo.weft.internal";

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new(DOMAIN).unwrap()
}

pub(crate) fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new(domain(), namespace, account).unwrap()
}

pub(crate) fn target(text: &str) -> Target {
    text.parse().unwrap()
}

pub(crate) fn endpoint(pod: &str, last: u8) -> Endpoint {
    Endpoint {
        key: EndpointKey {
            id: EndpointId(u64::from(last)),
            port: 9080,
        },
        address: SocketAddr::from(([10, 244, 0, last], 9080)),
        gateways: None,
        identity: Some(identity("shop", "reviews")),
        namespace: "shop".into(),
        pod: pod.into(),
        workload: "reviews".into(),
        version: "v1".into(),
        place: Place {
            region: "north".into(),
            zone: "north-a".into(),
            cluster: "demo".into(),
        },
        draining: false,
        source: Source {
            object: format!("Pod shop/{pod}"),
            uid: format!("uid-{pod}"),
            resource_version: 1,
        },
    }
}

pub(crate) fn endpoints(pods: &[(&str, u8)]) -> Body {
    let endpoints = pods.iter().map(|(pod, last)| Arc::new(endpoint(pod, *last))).collect();
    Body::Endpoints(EndpointSet {
        namespace: "shop".into(),
        service: "reviews".into(),
        port: 80,
        subset: String::new(),
        endpoints,
    })
}

pub(crate) fn port(name: &str) -> ServicePort {
    ServicePort {
        namespace: "shop".into(),
        name: name.into(),
        port: 80,
    }
}

pub(crate) fn plain_service(name: &str, set: &str) -> Service {
    Service {
        port: port(name),
        protocol: Protocol::Http,
        rules: None,
        endpoints: set.into(),
        locality: Locality::default(),
        streams: None,
        balance: Balance::default(),
        retry_budget: RetryBudget::default(),
    }
}

pub(crate) fn service(set: &str) -> Body {
    Body::Service(plain_service("reviews", set))
}

pub(crate) fn routed_service(set: &str, backend: &str) -> Body {
    let rule = Rule {
        route: ObjectRef {
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
            name: "reviews".into(),
        },
        index: 0,
        name: String::new(),
        matches: Match {
            path: Some(PathMatch::Prefix("/".into())),
            ..Match::default()
        },
        backends: vec![Backend {
            weight: 1,
            place: BackendPlace::Endpoints(backend.into()),
            service: port("reviews"),
            subset: String::new(),
            filters: Filters::default(),
            traffic: None,
        }],
        redirect: None,
        filters: Filters::default(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    Body::Service(Service {
        rules: Some(Rules {
            rules: vec![Arc::new(rule)],
        }),
        ..plain_service("reviews", set)
    })
}

pub(crate) fn inbound(mode: Mode) -> Body {
    let workload = Workload {
        namespace: "shop".into(),
        name: "web".into(),
        version: "v1".into(),
        service_account: "web".into(),
        place: Place::default(),
    };
    Body::Inbound(Inbound {
        mode,
        ports: Vec::new(),
        policies: Vec::new(),
        workload,
    })
}

pub(crate) fn mesh() -> Body {
    Body::Mesh(Mesh {
        trust_domain: domain(),
        cluster: "demo".into(),
        inside: Vec::new(),
        outside: Vec::new(),
        discovery_wait: Duration::from_secs(3),
    })
}

pub(crate) fn bundles(authority: &Authority, sequence: u64) -> Body {
    Body::Bundles(vec![roots(&authority.bundle(sequence))])
}

pub(crate) fn roots(bundle: &Bundle) -> TrustRoots {
    let roots = bundle.roots().iter().map(|root| Bytes::copy_from_slice(root)).collect();
    TrustRoots {
        trust_domain: bundle.trust_domain().clone(),
        roots,
        sequence: bundle.sequence(),
    }
}

pub(crate) fn outside(seconds: u64) -> Body {
    Body::Lookup(Lookup::Outside {
        ttl: Duration::from_secs(seconds),
    })
}

pub(crate) fn lookup(service: &str) -> Body {
    Body::Lookup(Lookup::Service(service.into()))
}

/// A resource, made of one object at a resource version.
pub(crate) fn says(key: &str, body: &Body, resource_version: u64) -> Resource {
    let source = Source {
        object: format!("Object {key}"),
        uid: format!("uid-{key}"),
        resource_version,
    };
    resource::to_wire(
        &Name::new(body.kind(), key),
        vec![source],
        body.requires(),
        &resource::encode(body),
    )
}

pub(crate) fn hold(kind: Kind, key: &str) -> Resource {
    let version = discovery::Version {
        hash: Bytes::from_static(&[0; 16]),
        sources: Vec::new(),
    };
    let state = discovery::resource::State::Hold(discovery::Hold {
        reason: "the source is invalid".into(),
    });
    let name = Some(Name::new(kind, key).to_wire());
    Resource {
        name,
        version: Some(version),
        requires: Vec::new(),
        state: Some(state),
    }
}

pub(crate) fn removed(kind: Kind, key: &str) -> Resource {
    let state = discovery::resource::State::Removed(discovery::Removed {});
    Resource {
        name: Some(Name::new(kind, key).to_wire()),
        version: None,
        requires: Vec::new(),
        state: Some(state),
    }
}

pub(crate) fn batch(nonce: u64, epoch: u64, resources: Vec<Resource>) -> Batch {
    Batch {
        nonce,
        epoch,
        resources,
        complete: true,
    }
}

/// What a new proxy is told at first.
pub(crate) fn basics() -> Vec<Resource> {
    vec![says("mesh", &mesh(), 1), says("inbound", &inbound(Mode::Strict), 1)]
}

/// A Service with its endpoints, at an address.
pub(crate) fn reviews(at: &str, pods: &[(&str, u8)], resource_version: u64) -> Vec<Resource> {
    vec![
        says("eps", &endpoints(pods), resource_version),
        says("svc", &service("eps"), resource_version),
        says(at, &lookup("svc"), resource_version),
    ]
}

pub(crate) fn authority() -> Authority {
    Authority::create(domain(), SystemTime::now()).unwrap()
}

pub(crate) fn credential(authority: &Authority, who: &Identity, life: Duration, sequence: u64) -> Credential {
    let key = Key::generate().unwrap();
    let leaf = authority.issue(key.public(), who, life, SystemTime::now()).unwrap();
    let trust = TrustBundles::new([authority.bundle(sequence)]).unwrap();
    Credential::new(leaf.chain, key, Arc::new(trust), 0).unwrap()
}

/// What is exported: one port of reviews, with these pods.
pub(crate) fn exported(pods: &[(&str, u8)]) -> Body {
    let one = |(pod, last): &(&str, u8)| ExportedEndpoint {
        endpoint: endpoint(pod, *last),
        hostname: String::new(),
        labels: Default::default(),
    };
    Body::Exported(Exported {
        namespace: "shop".to_owned(),
        service: "reviews".to_owned(),
        port: 80,
        endpoints: pods.iter().map(one).collect(),
    })
}
