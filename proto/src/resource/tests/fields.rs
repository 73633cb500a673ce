//! One field wrong, and the error names it.

use std::sync::Arc;
use std::time::Duration;

use weft_model::destination::{Protocol, Service};
use weft_model::endpoint::BackendPlace;
use weft_model::filter::{Filters, HeaderChanges, Mirror, PathChange, Rewrite};
use weft_model::inbound::{Inbound, Mode, Workload};
use weft_model::locality::Locality;
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::route::{Backend, Match, PathMatch, Retry, RetryBudget, Rule, Rules, Timeouts, ValueMatch};
use weft_model::stream::Streams;

use super::super::*;
use crate::discovery::{named_match, path_match};

pub(super) fn service() -> Service {
    let port = ServicePort {
        namespace: "shop".to_owned(),
        name: "reviews".to_owned(),
        port: 80,
    };
    let backend = Backend {
        weight: 9,
        place: BackendPlace::Endpoints("endpoints-1".to_owned()),
        service: port.clone(),
        subset: "v1".to_owned(),
        filters: filters(),
        traffic: Some(Arc::default()),
    };
    let header = (
        http::HeaderName::from_static("x-user"),
        ValueMatch::Exact("ann".to_owned()),
    );
    let query = ("page".to_owned(), ValueMatch::Exact("1".to_owned()));
    let matches = Match {
        path: Some(PathMatch::Prefix("/v1".to_owned())),
        headers: vec![header],
        query: vec![query],
        method: Some(http::Method::GET),
        grpc: false,
    };
    let route = ObjectRef {
        kind: "HTTPRoute".to_owned(),
        namespace: "shop".to_owned(),
        name: "reviews".to_owned(),
    };
    let rule = Rule {
        route,
        index: 0,
        name: String::new(),
        matches,
        backends: vec![backend],
        redirect: None,
        filters: filters(),
        timeouts: Timeouts {
            request: Some(Duration::from_secs(2)),
            backend_request: Some(Duration::from_secs(1)),
        },
        retry: Some(Retry {
            attempts: 2,
            backoff: Duration::from_millis(25),
            codes: vec![503],
            grpc_statuses: vec![14],
        }),
    };
    let rules = Some(Rules {
        rules: vec![Arc::new(rule.clone()), Arc::new(rule)],
    });
    let endpoints = "endpoints-1".to_owned();
    Service {
        port,
        protocol: Protocol::Http,
        rules,
        streams: Some(Streams { rules: Vec::new() }),
        endpoints,
        locality: Locality::default(),
        balance: Balance::default(),
        retry_budget: RetryBudget::default(),
    }
}

fn filters() -> Filters {
    let mirror = Mirror {
        place: BackendPlace::Endpoints("endpoints-2".to_owned()),
        service: ServicePort {
            namespace: "shop".to_owned(),
            name: "reviews".to_owned(),
            port: 80,
        },
        subset: String::new(),
        numerator: 1,
        denominator: 2,
        traffic: Some(Arc::default()),
    };
    Filters {
        request_headers: HeaderChanges {
            remove: vec![http::HeaderName::from_static("x-gone")],
            set: vec![(
                http::HeaderName::from_static("x-set"),
                http::HeaderValue::from_static("set"),
            )],
            add: Vec::new(),
        },
        response_headers: HeaderChanges::default(),
        rewrite: Some(Rewrite {
            host: Some("other".to_owned()),
            path: Some(PathChange::Prefix {
                from: "/v1".to_owned(),
                to: "/v2".to_owned(),
            }),
        }),
        mirrors: vec![mirror],
    }
}

pub(super) fn inbound() -> Inbound {
    let workload = Workload {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        ..Workload::default()
    };
    Inbound {
        mode: Mode::Strict,
        ports: Vec::new(),
        policies: Vec::new(),
        workload,
    }
}

#[track_caller]
fn service_error(change: impl FnOnce(&mut discovery::Service)) -> FieldError {
    let mut wire = service::encode(&service());
    assert!(service::decode(wire.clone()).is_ok(), "unchanged, it is valid");
    change(&mut wire);
    service::decode(wire).unwrap_err()
}

/// Changes the second rule, so that the error must say which.
#[track_caller]
fn rule_error(want: &str, change: impl FnOnce(&mut discovery::Rule)) {
    let error = service_error(|service| change(&mut service.rules[1]));
    assert_eq!(error.field, want, "{error}");
}

#[track_caller]
fn match_error(want: &str, change: impl FnOnce(&mut discovery::Match)) {
    rule_error(want, |rule| change(rule.r#match.as_mut().unwrap()));
}

#[test]
fn the_fields_of_a_service_are_checked() {
    let check = |want: &str, change: &dyn Fn(&mut discovery::Service)| {
        let error = service_error(change);
        assert_eq!(error.field, want, "{error}");
    };
    check("port", &|service| service.port = 0);
    check("port", &|service| service.port = 65_536);
    check("namespace", &|service| service.namespace = "Shop".to_owned());
    check("namespace", &|service| service.namespace = String::new());
    check("name", &|service| service.name = "a b".to_owned());
    check("name", &|service| service.name = "-a".to_owned());
    check("name", &|service| service.name = "a".repeat(254));
    check("protocol", &|service| service.protocol = 99);
    check("endpoints", &|service| service.endpoints = String::new());
    check("routed", &|service| service.routed = false);
    check("locality.prefer", &|service| {
        service.locality.as_mut().unwrap().prefer = 9
    });
    check("locality.spill_below_percent", &|service| {
        service.locality.as_mut().unwrap().spill_below_percent = 0
    });
    check("locality.spill_below_percent", &|service| {
        service.locality.as_mut().unwrap().spill_below_percent = 101
    });
    check("rules", &|service| {
        service.rules = vec![service.rules[0].clone(); field::RULES_MAX + 1]
    });
}

#[test]
fn the_fields_of_a_rule_are_checked() {
    rule_error("rules[1].route", |rule| rule.route = None);
    rule_error("rules[1].route.name", |rule| {
        rule.route.as_mut().unwrap().name = "a\nb".to_owned()
    });
    rule_error("rules[1].match", |rule| rule.r#match = None);
    rule_error("rules[1].backends[0].weight", |rule| {
        rule.backends[0].weight = field::WEIGHT_MAX + 1
    });
    rule_error("rules[1].backends[0].backend", |rule| rule.backends[0].backend = None);
    rule_error("rules[1].backends[0].port", |rule| rule.backends[0].port = 70_000);
    rule_error("rules[1].backends[0].service", |rule| rule.backends[0].service.clear());
    rule_error("rules[1].backends[0].subset", |rule| {
        rule.backends[0].subset = "..".to_owned()
    });
    rule_error("rules[1].backends", |rule| {
        rule.backends = vec![rule.backends[0].clone(); 65]
    });
}

#[test]
fn the_fields_of_a_match_are_checked() {
    use named_match::Value;
    use path_match::Path;
    let path = |path| Some(discovery::PathMatch { path });
    match_error("rules[1].match.path.path", |wire| wire.path = path(None));
    match_error("rules[1].match.path.exact", |wire| {
        wire.path = path(Some(Path::Exact("v1".to_owned())))
    });
    match_error("rules[1].match.path.prefix", |wire| {
        wire.path = path(Some(Path::Prefix(String::new())))
    });
    match_error("rules[1].match.path.prefix", |wire| {
        wire.path = path(Some(Path::Prefix(format!("/{}", "a".repeat(field::VALUE_MAX)))));
    });
    match_error("rules[1].match.path.regex", |wire| {
        wire.path = path(Some(Path::Regex("(".to_owned())))
    });
    match_error("rules[1].match.path.regex", |wire| {
        wire.path = path(Some(Path::Regex("a)|(?:b".to_owned())))
    });
    match_error("rules[1].match.path.regex", |wire| {
        wire.path = path(Some(Path::Regex(r"\w{1,1000}{1,1000}".to_owned())));
    });
    match_error("rules[1].match.method", |wire| wire.method = "G ET".to_owned());
    match_error("rules[1].match.headers[0].name", |wire| {
        wire.headers[0].name = "x user".to_owned()
    });
    match_error("rules[1].match.headers[0].name", |wire| wire.headers[0].name.clear());
    match_error("rules[1].match.headers[0].value", |wire| wire.headers[0].value = None);
    match_error("rules[1].match.headers[0].regex", |wire| {
        wire.headers[0].value = Some(Value::Regex("[".to_owned()));
    });
    match_error("rules[1].match.query[0].name", |wire| wire.query[0].name.clear());
    match_error("rules[1].match.query", |wire| {
        wire.query = vec![wire.query[0].clone(); 65]
    });
}

#[test]
fn a_backend_that_does_not_resolve_may_lack_its_name() {
    let mut wire = service::encode(&service());
    let reason = "no Service of this name".to_owned();
    wire.rules[0].backends[0] = discovery::Backend {
        weight: 1,
        backend: Some(discovery::backend::Backend::Unresolved(discovery::Unresolved {
            reason,
        })),
        ..Default::default()
    };
    let service = service::decode(wire).unwrap();
    let backend = &service.rules.unwrap().rules[0].backends[0];
    assert!(matches!(&backend.place, BackendPlace::Unresolved(reason) if reason.contains("no Service")));
}

fn endpoint() -> discovery::Endpoint {
    discovery::Endpoint {
        id: 7,
        ip: vec![10, 244, 1, 7].into(),
        port: 8080,
        identity: "spiffe://a/ns/shop/sa/reviews".to_owned(),
        namespace: "shop".to_owned(),
        pod: "reviews-1".to_owned(),
        source: Some(discovery::Source {
            object: String::new(),
            uid: "u".to_owned(),
            resource_version: 1,
        }),
        ..Default::default()
    }
}

fn decode_endpoint(wire: discovery::Endpoint) -> Result<weft_model::endpoint::Endpoint, FieldError> {
    endpoints::decode_endpoint(wire, &[])
}

fn gateway(last: u8) -> discovery::Address {
    discovery::Address {
        ip: vec![192, 0, 2, last].into(),
        port: 15_443,
    }
}

/// Two endpoints, of which the second is behind the second of two groups.
pub(super) fn endpoint_set() -> discovery::EndpointSet {
    let behind = discovery::Endpoint {
        id: 8,
        gateway: 2,
        ..endpoint()
    };
    discovery::EndpointSet {
        namespace: "shop".to_owned(),
        service: "reviews".to_owned(),
        port: 80,
        endpoints: vec![endpoint(), behind],
        gateways: vec![
            discovery::GatewayGroup {
                addresses: vec![gateway(1)],
            },
            discovery::GatewayGroup {
                addresses: vec![gateway(2), gateway(3)],
            },
        ],
        ..Default::default()
    }
}

#[track_caller]
fn set_error(want: &str, change: impl FnOnce(&mut discovery::EndpointSet)) {
    let mut set = endpoint_set();
    change(&mut set);
    let error = endpoints::decode(set).unwrap_err();
    assert_eq!(error.field, want, "{error}");
}

#[track_caller]
fn endpoint_error(want: &str, change: impl FnOnce(&mut discovery::Endpoint)) {
    set_error(&format!("endpoints[1].{want}"), |set| change(&mut set.endpoints[1]));
}

#[test]
fn the_fields_of_an_endpoint_are_checked() {
    assert!(decode_endpoint(endpoint()).is_ok());
    endpoint_error("ip", |endpoint| endpoint.ip = vec![10, 0, 1].into());
    endpoint_error("ip", |endpoint| endpoint.ip = Bytes::new());
    endpoint_error("ip", |endpoint| endpoint.ip = vec![0, 0, 0, 0].into());
    endpoint_error("ip", |endpoint| endpoint.ip = vec![224, 0, 0, 1].into());
    endpoint_error("port", |endpoint| endpoint.port = 0);
    endpoint_error("namespace", |endpoint| endpoint.namespace.clear());
    endpoint_error("pod", |endpoint| endpoint.pod = "a/b".to_owned());
    endpoint_error("workload", |endpoint| endpoint.workload = "a\tb".to_owned());
    endpoint_error("region", |endpoint| endpoint.region = "é".to_owned());
    endpoint_error("source", |endpoint| endpoint.source = None);
    endpoint_error("source.uid", |endpoint| endpoint.source.as_mut().unwrap().uid.clear());
}

#[test]
fn an_endpoint_has_the_gateways_of_its_group() {
    let set = endpoints::decode(endpoint_set()).unwrap();
    let gateways = |at: usize| set.endpoints[at].gateways.as_deref();
    assert_eq!(gateways(0), None);
    let want = [([192, 0, 2, 2], 15_443).into(), ([192, 0, 2, 3], 15_443).into()];
    assert_eq!(gateways(1), Some(&want[..]));
}

#[test]
fn the_gateways_of_a_set_are_checked() {
    set_error("gateways", |set| set.gateways = vec![set.gateways[0].clone(); 65]);
    set_error("gateways[1].addresses", |set| set.gateways[1].addresses.clear());
    set_error("gateways[1].addresses", |set| {
        set.gateways[1].addresses = vec![gateway(1); 17]
    });
    set_error("gateways[1].addresses[1].ip", |set| {
        set.gateways[1].addresses[1].ip = vec![192, 0, 2].into();
    });
    set_error("gateways[1].addresses[1].ip", |set| {
        set.gateways[1].addresses[1].ip = vec![0, 0, 0, 0].into();
    });
    set_error("gateways[1].addresses[1].port", |set| {
        set.gateways[1].addresses[1].port = 0
    });
    endpoint_error("gateway", |endpoint| endpoint.gateway = 3);
    endpoint_error("gateway", |endpoint| endpoint.gateway = u32::MAX);
    set_error("endpoints[1].gateway", |set| set.gateways.clear());
}

#[test]
fn plaintext_never_goes_through_a_gateway() {
    endpoint_error("identity", |endpoint| endpoint.identity.clear());
    let mut set = endpoint_set();
    set.endpoints[1].identity.clear();
    set.endpoints[1].gateway = 0;
    assert!(endpoints::decode(set).is_ok(), "what is refused is the two together");
}

#[test]
fn an_identity_that_cannot_be_read_is_never_plaintext() {
    let mut wire = endpoint();
    wire.identity.clear();
    assert_eq!(
        decode_endpoint(wire).unwrap().identity,
        None,
        "only an empty one says so"
    );
    for identity in [
        " ",
        "reviews",
        "spiffe://a/ns/shop/sa/",
        "spiffe://a/ns/shop",
        "spiffe://A/ns/shop/sa/x",
        "\0",
    ] {
        endpoint_error("identity", |endpoint| endpoint.identity = identity.to_owned());
    }
}

#[test]
fn a_v4_address_in_v6_clothes_is_one_address() {
    let mut wire = endpoint();
    let mapped = std::net::Ipv4Addr::new(10, 244, 1, 7).to_ipv6_mapped();
    wire.ip = mapped.octets().to_vec().into();
    assert_eq!(decode_endpoint(wire).unwrap().address, ([10, 244, 1, 7], 8080).into());
}

#[test]
fn a_set_has_a_limit() {
    let wire = discovery::EndpointSet {
        endpoints: vec![discovery::Endpoint::default(); field::ENDPOINTS_MAX + 1],
        ..Default::default()
    };
    assert_eq!(endpoints::decode(wire).unwrap_err().field, "endpoints");
}

#[test]
fn the_fields_of_a_lookup_are_checked() {
    let read = |result| lookup::decode(discovery::Lookup { result, ttl_seconds: 0 }).map_err(|error| error.field);
    use discovery::lookup::Result as Wire;
    assert_eq!(
        read(None).unwrap_err(),
        "result",
        "newer than this build, say: never outside"
    );
    assert_eq!(read(Some(Wire::Service(String::new()))).unwrap_err(), "service");
    let direct = |endpoint, protocol| Some(Wire::Direct(discovery::Direct { endpoint, protocol }));
    assert!(read(direct(Some(endpoint()), 1)).is_ok());
    assert_eq!(read(direct(None, 1)).unwrap_err(), "direct.endpoint");
    assert_eq!(read(direct(Some(endpoint()), 17)).unwrap_err(), "direct.protocol");
    let odd = discovery::Endpoint { port: 0, ..endpoint() };
    assert_eq!(read(direct(Some(odd), 1)).unwrap_err(), "direct.endpoint.port");
    let behind = discovery::Endpoint {
        gateway: 1,
        ..endpoint()
    };
    assert_eq!(read(direct(Some(behind), 1)).unwrap_err(), "direct.endpoint.gateway");
}

#[test]
fn a_pod_addressed_directly_is_never_dialled_beside_its_gateways() {
    let mut endpoint = decode_endpoint(endpoint()).unwrap();
    endpoint.gateways = Some([([192, 0, 2, 1], 15_443).into()].into());
    let wire = lookup::encode(&weft_model::destination::Lookup::Direct {
        endpoint: Arc::new(endpoint),
        protocol: Protocol::Undeclared,
    });
    assert_eq!(lookup::decode(wire).unwrap_err().field, "direct.endpoint.gateway");
}

#[test]
fn mode_and_policies_act_whatever_else_of_an_inbound_configuration_cannot_be_read() {
    let mut wire = inbound::encode(&inbound());
    wire.mode = discovery::Mode::Strict as i32;
    wire.policies = vec![discovery::Policy {
        requires: vec!["access-policy/7".to_owned()],
        ..Default::default()
    }];
    let port = |port: u32, protocol: i32, foreign: &[&str]| discovery::InboundPort {
        port,
        protocol,
        foreign_trust_domains: foreign.iter().map(|&domain| domain.to_owned()).collect(),
        services: vec!["web".to_owned(), "\n".to_owned()],
    };
    wire.ports = vec![
        port(80, 77, &[]),
        port(0, 1, &[]),
        port(99_999, 1, &[]),
        port(81, 1, &["A", "b.example"]),
    ];
    wire.namespace.clear();
    wire.service_account = "?".to_owned();
    wire.zone = "\n".to_owned();
    let read = inbound::decode(wire.clone());
    assert_eq!(read.mode, Mode::Strict);
    assert_eq!(read.policies[0].missing, ["access-policy/7"]);
    let ports = read
        .ports
        .iter()
        .map(|port| (port.port, port.protocol, port.foreign.len(), port.services.len()))
        .collect::<Vec<_>>();
    assert_eq!(ports, [(80, Protocol::Undeclared, 0, 1), (81, Protocol::Http, 1, 1)]);
    wire.ports = vec![port(80, 1, &[]); field::PORTS_MAX + 1];
    assert_eq!(inbound::decode(wire).ports.len(), field::PORTS_MAX);
}

#[test]
fn the_fields_of_bundles_are_checked() {
    let bundle = |trust_domain: &str, roots: Vec<Bytes>| discovery::Bundle {
        trust_domain: trust_domain.to_owned(),
        roots,
        sequence: 1,
    };
    let root = || Bytes::from_static(b"root");
    let read = |bundles| bundles::decode(discovery::Bundles { bundles }).map_err(|error| error.field);
    assert!(read(vec![bundle("a", vec![root()]), bundle("b", vec![root()])]).is_ok());
    assert_eq!(
        read(vec![bundle("", vec![root()])]).unwrap_err(),
        "bundles[0].trust_domain"
    );
    assert_eq!(read(vec![bundle("a", vec![])]).unwrap_err(), "bundles[0].roots");
    assert_eq!(
        read(vec![bundle("a", vec![root(), Bytes::new()])]).unwrap_err(),
        "bundles[0].roots[1]"
    );
    assert_eq!(
        read(vec![bundle("a", vec![root(); 17])]).unwrap_err(),
        "bundles[0].roots"
    );
    let twice = vec![bundle("a", vec![root()]), bundle("a", vec![root()])];
    assert_eq!(read(twice).unwrap_err(), "bundles[1].trust_domain", "never merged");
}

#[test]
fn the_fields_of_a_mesh_are_checked() {
    let good = || discovery::Mesh {
        trust_domain: "a".to_owned(),
        networks: vec!["10.0.0.0/8".to_owned(), "2001:db8::1".to_owned()],
        ..Default::default()
    };
    let read = mesh::decode(good()).unwrap();
    assert_eq!(
        read.discovery_wait,
        mesh::DISCOVERY_WAIT,
        "where the control plane does not say"
    );
    assert!(
        read.networks().contains("2001:db8::1".parse().unwrap()),
        "a single address is a network"
    );
    assert!(!read.networks().contains("2001:db8::2".parse().unwrap()));
    let error = |wire| mesh::decode(wire).unwrap_err().field;
    assert_eq!(
        error(discovery::Mesh {
            trust_domain: String::new(),
            ..good()
        }),
        "trust_domain"
    );
    assert_eq!(
        error(discovery::Mesh {
            networks: vec!["10.0.0.0/33".to_owned()],
            ..good()
        }),
        "networks[0]"
    );
    assert_eq!(
        error(discovery::Mesh {
            outside: vec!["all".to_owned()],
            ..good()
        }),
        "outside[0]"
    );
    assert_eq!(
        error(discovery::Mesh {
            discovery_wait_ms: 60_001,
            ..good()
        }),
        "discovery_wait_ms"
    );
}

#[test]
fn large_bodies_are_not_looked_at() {
    let body = vec![0; field::BODY_MAX + 1];
    for kind in Kind::ALL {
        assert_eq!(decode(kind, &body).unwrap_err().field, "body");
    }
}

#[test]
fn a_negative_answer_lives_as_long_as_it_says() {
    use std::time::Duration;
    use weft_model::destination::Lookup;
    let read = |ttl_seconds| {
        let result = Some(discovery::lookup::Result::Outside(discovery::Outside {}));
        match lookup::decode(discovery::Lookup { result, ttl_seconds }).unwrap() {
            Lookup::Outside { ttl } => ttl,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(0), Duration::MAX);
    assert_eq!(read(30), Duration::from_secs(30));
    let write = |ttl| lookup::encode(&Lookup::Outside { ttl }).ttl_seconds;
    assert_eq!(write(Duration::ZERO), 1, "0 would be for ever");
    assert_eq!(write(Duration::from_millis(1500)), 2);
    assert_eq!(write(Duration::MAX), 0);
}
