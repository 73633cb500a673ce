//! What clusters say to each other comes back as it went, and one field wrong is named.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;
use weft_model::endpoint::Endpoint;

use super::super::federation::{Export, ExportedEndpoint, ExportedPort, Transport};
use super::super::*;
use super::{arbitrary, round_trip};
use crate::federation as wire;

fn label() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-z]{1,9}(/[a-z]{1,9})?", "[a-zA-Z0-9-]{0,20}", 0..4)
}

prop_compose! {
    fn cluster()(
        name in label(),
        network in "[a-z0-9.-]{0,20}",
        gateways in proptest::collection::vec("[a-z]{1,9}:[1-9][0-9]{0,3}", 0..4),
        mesh in arbitrary::mesh(),
        bundle in arbitrary::bundles().prop_filter_map("a bundle", |mut all| all.pop()),
    ) -> Cluster {
        Cluster { name, network, gateways, pod_networks: mesh.inside, bundle }
    }
}

prop_compose! {
    fn export()(
        namespace in label(),
        name in label(),
        headless in any::<bool>(),
        ports in proptest::collection::btree_map(label(), 1..=u16::MAX, 0..4),
        created_ms in any::<u64>(),
        affinity_seconds in any::<Option<u32>>(),
        ip_families in proptest::collection::vec("IPv[46]", 0..2),
        words in ("[A-Za-z]{0,9}", "[A-Za-z]{0,9}"),
        labels in labels(),
        annotations in labels(),
    ) -> Export {
        let mut numbers = std::collections::BTreeSet::new();
        let ports = ports.into_iter().filter(|(_, port)| numbers.insert(*port));
        let ports = ports.map(|(name, port)| ExportedPort {
            name,
            port,
            app_protocol: "kubernetes.io/h2c".to_owned(),
            protocol: weft_model::destination::Protocol::Http2,
            transport: [Transport::Tcp, Transport::Udp, Transport::Sctp][usize::from(port % 3)],
        });
        Export {
            namespace, name, headless, ports: ports.collect(), created_ms, affinity_seconds, ip_families,
            internal_traffic_policy: words.0, traffic_distribution: words.1, labels, annotations,
        }
    }
}

prop_compose! {
    fn exported()(
        service in (label(), label(), 1..=u16::MAX),
        set in arbitrary::endpoint_set(),
        labels in labels(),
        hostname in proptest::option::of(label()),
    ) -> Exported {
        let mut keys = std::collections::BTreeSet::new();
        let meshed = set.endpoints.into_iter().filter(|one| one.identity.is_some() && keys.insert(one.key));
        let endpoints = meshed.map(|one| ExportedEndpoint {
            // Behind which gateways is for the importing side to say.
            endpoint: Endpoint {
                gateways: None,
                ..one.as_ref().clone()
            },
            hostname: hostname.clone().unwrap_or_default(),
            labels: labels.clone(),
        });
        Exported { namespace: service.0, service: service.1, port: service.2, endpoints: endpoints.collect() }
    }
}

proptest! {
    #[test]
    fn clusters_come_back(cluster in cluster()) {
        round_trip(&Body::Cluster(cluster));
    }

    #[test]
    fn exports_come_back(export in export()) {
        round_trip(&Body::Export(export));
    }

    #[test]
    fn exported_endpoints_come_back(exported in exported()) {
        round_trip(&Body::Exported(exported));
    }

    #[test]
    fn bytes_that_are_anything_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for kind in [Kind::Cluster, Kind::Export, Kind::Exported] {
            let _ = decode(kind, &bytes);
        }
    }
}

fn good_export() -> wire::Export {
    let port = |name: &str, port| wire::Port {
        name: name.to_owned(),
        port,
        app_protocol: String::new(),
        protocol: 0,
        transport: String::new(),
    };
    wire::Export {
        namespace: "shop".to_owned(),
        name: "reviews".to_owned(),
        r#type: wire::Type::ClusterSetIp.into(),
        ports: vec![port("http", 80), port("grpc", 81)],
        ..wire::Export::default()
    }
}

#[track_caller]
fn refused(kind: Kind, message: &impl prost::Message, field: &str) {
    assert_eq!(decode(kind, &message.encode_to_vec()).unwrap_err().field, field);
}

#[test]
fn a_wrong_field_of_an_export_is_named() {
    assert!(decode(Kind::Export, &good_export().encode_to_vec()).is_ok());
    let wrong = |change: fn(&mut wire::Export), field: &str| {
        let mut export = good_export();
        change(&mut export);
        refused(Kind::Export, &export, field);
    };
    wrong(|e| e.namespace = "a.b".to_owned(), "namespace");
    wrong(|e| e.namespace = "../x".to_owned(), "namespace");
    wrong(|e| e.name = String::new(), "name");
    wrong(|e| e.name = "x".repeat(64), "name");
    wrong(|e| e.r#type = 0, "type");
    wrong(|e| e.r#type = 9, "type");
    wrong(|e| e.ports[1].name = "http".to_owned(), "ports[1]");
    wrong(|e| e.ports[1].name = "a.b".to_owned(), "ports[1].name");
    wrong(|e| e.ports[0].app_protocol = "@".to_owned(), "ports[0].app_protocol");
    wrong(|e| e.ports[0].app_protocol = "../x".to_owned(), "ports[0].app_protocol");
    wrong(|e| e.ports[1].port = 80, "ports[1]");
    wrong(|e| e.ports[0].port = 0, "ports[0].port");
    wrong(|e| e.ports[0].port = 65_536, "ports[0].port");
    wrong(|e| e.ports[0].transport = "tcp".to_owned(), "ports[0].transport");
    wrong(|e| e.ports[0].protocol = 99, "ports[0].protocol");
    wrong(|e| e.ports = vec![e.ports[0].clone(); 2000], "ports");
    wrong(|e| e.session_affinity = "Cookie".to_owned(), "session_affinity");
    wrong(|e| e.ip_families = vec!["IPv4".to_owned(); 3], "ip_families");
    wrong(
        |e| e.labels = (0..65).map(|n| (n.to_string(), String::new())).collect(),
        "labels",
    );
    wrong(|e| e.labels = [("a".to_owned(), "x".repeat(64))].into(), "labels[a]");
    wrong(|e| e.labels = [(String::new(), "x".to_owned())].into(), "labels");
    wrong(
        |e| e.annotations = [("a".to_owned(), "x".repeat(5000))].into(),
        "annotations[a]",
    );
}

fn good_exported() -> wire::Exported {
    let endpoint = crate::discovery::Endpoint {
        id: 7,
        ip: bytes::Bytes::from_static(&[10, 0, 0, 1]),
        port: 8080,
        identity: "spiffe://a/ns/shop/sa/reviews".to_owned(),
        namespace: "shop".to_owned(),
        pod: "reviews-1".to_owned(),
        source: Some(crate::discovery::Source {
            object: "Pod shop/reviews-1".to_owned(),
            uid: "u".to_owned(),
            resource_version: 1,
        }),
        ..Default::default()
    };
    wire::Exported {
        namespace: "shop".to_owned(),
        service: "reviews".to_owned(),
        port: 80,
        endpoints: vec![wire::ExportedEndpoint {
            endpoint: Some(endpoint),
            hostname: String::new(),
            labels: BTreeMap::new(),
        }],
    }
}

#[test]
fn a_wrong_field_of_exported_endpoints_is_named() {
    assert!(decode(Kind::Exported, &good_exported().encode_to_vec()).is_ok());
    let wrong = |change: fn(&mut wire::Exported), field: &str| {
        let mut exported = good_exported();
        change(&mut exported);
        refused(Kind::Exported, &exported, field);
    };
    wrong(|e| e.port = 0, "port");
    wrong(|e| e.service = "a/b".to_owned(), "service");
    wrong(|e| e.endpoints[0].endpoint = None, "endpoints[0].endpoint");
    wrong(|e| e.endpoints[0].hostname = "a.b".to_owned(), "endpoints[0].hostname");
    wrong(|e| e.endpoints.push(e.endpoints[0].clone()), "endpoints[1].endpoint.id");
    wrong(|e| e.endpoints = vec![e.endpoints[0].clone(); 20_000], "endpoints");
    fn of(exported: &mut wire::Exported) -> &mut crate::discovery::Endpoint {
        exported.endpoints[0].endpoint.as_mut().unwrap()
    }
    wrong(|e| of(e).identity = String::new(), "endpoints[0].endpoint.identity");
    wrong(
        |e| of(e).identity = "spiffe://a".to_owned(),
        "endpoints[0].endpoint.identity",
    );
    wrong(
        |e| of(e).ip = bytes::Bytes::from_static(&[0, 0, 0, 0]),
        "endpoints[0].endpoint.ip",
    );
    wrong(
        |e| of(e).ip = bytes::Bytes::from_static(&[224, 0, 0, 1]),
        "endpoints[0].endpoint.ip",
    );
    wrong(|e| of(e).pod = "A b".to_owned(), "endpoints[0].endpoint.pod");
}

#[test]
fn what_a_gateway_passes_comes_back_and_a_key_that_is_none_is_named() {
    round_trip(&Body::Gateway(vec![
        "shop/ratings:80".to_owned(),
        "shop/reviews:80".to_owned(),
    ]));
    let exported = vec!["shop/reviews:80".to_owned(), "shop/reviews".to_owned()];
    refused(Kind::Gateway, &crate::discovery::Gateway { exported }, "exported[1]");
}

#[test]
fn keys_of_exports_lead_to_one_service_and_no_other_place() {
    let of = |kind: Kind, key: &str| {
        let name = crate::discovery::ResourceName {
            kind: kind.to_wire().into(),
            key: key.to_owned(),
        };
        Name::from_wire(Some(name)).is_ok()
    };
    assert!(of(Kind::Export, "shop/reviews") && of(Kind::Exported, "shop/reviews:80") && of(Kind::Cluster, "cluster"));
    for key in [
        "shop",
        "shop/",
        "/reviews",
        "shop/a/b",
        "shop/reviews:80",
        "shop/a.b",
        "SHOP/a",
        "shop/..",
        "shop/a\nb",
    ] {
        assert!(!of(Kind::Export, key), "{key}");
    }
    for key in [
        "shop/reviews",
        "shop/reviews:",
        "shop/reviews:0",
        "shop/reviews:080",
        "shop/reviews:65536",
        "shop/a:80:80",
    ] {
        assert!(!of(Kind::Exported, key), "{key}");
    }
    assert!(!of(Kind::Cluster, "a"));
}
