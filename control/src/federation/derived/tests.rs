//! What an import becomes, as documents.

use std::collections::BTreeSet;

use super::*;
use crate::federation::merge::{Conflict, InternalTrafficPolicy, Protocol};

const THEN: &str = "2026-01-01T00:00:00Z";

fn reviews() -> Name {
    Name::new("shop", "reviews")
}

fn merged() -> Merged {
    Merged {
        kind: ImportType::ClusterSetIP,
        ports: vec![Port {
            name: "http".to_owned(),
            port: 80,
            protocol: Protocol::Tcp,
            app_protocol: Some("kubernetes.io/h2c".to_owned()),
        }],
        session_affinity: SessionAffinity::ClientIp { timeout_seconds: 10 },
        ip_families: vec![IpFamily::V6],
        internal_traffic_policy: InternalTrafficPolicy::Local,
        traffic_distribution: Some("PreferClose".to_owned()),
        labels: [("tier".to_owned(), "front".to_owned())].into(),
        annotations: [("example.com/who".to_owned(), "us".to_owned())].into(),
        clusters: BTreeSet::from(["east".to_owned(), "west".to_owned()]),
        conflict: Conflict {
            status: false,
            reason: "NoConflicts".to_owned(),
            message: String::new(),
        },
    }
}

fn headless() -> Merged {
    Merged {
        kind: ImportType::Headless,
        ..merged()
    }
}

fn import(merged: &Merged, ips: &[IpAddr]) -> Value {
    service_import(&reviews(), merged, ips, (Ready::Ready, THEN))
}

#[test]
fn the_derived_service_is_named_by_what_it_is_of() {
    // printf shop/reviews | sha256sum
    assert_eq!(derived_name(&reviews()), "weft-import-c1c97e5699");
    assert_ne!(derived_name(&reviews()), derived_name(&Name::new("shop", "ratings")));
    assert_ne!(
        derived_name(&Name::new("a", "b-c")),
        derived_name(&Name::new("a-b", "c"))
    );
}

#[test]
fn a_service_import_says_what_the_exports_have_come_to_and_who_they_are_of() {
    let ips = ["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    assert_eq!(
        import(&merged(), &ips),
        json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1",
            "kind": "ServiceImport",
            "metadata": {
                "namespace": "shop", "name": "reviews",
                "labels": {"tier": "front", "weft.dev/import": "true"},
                "annotations": {"example.com/who": "us"}
            },
            "spec": {
                "type": "ClusterSetIP",
                "ips": ["10.96.0.7", "fd00::7"],
                "ipFamilies": ["IPv4", "IPv6"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
                "internalTrafficPolicy": "Local",
                "trafficDistribution": "PreferClose"
            },
            "status": {
                "clusters": [{"cluster": "east"}, {"cluster": "west"}],
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Ready", "message": "the Service can be called",
                    "lastTransitionTime": THEN
                }]
            }
        })
    );
}

#[test]
fn no_clusterset_address_belongs_to_a_headless_import() {
    let import = import(&headless(), &["10.96.0.7".parse().unwrap()]);
    let spec = &import["spec"];
    assert_eq!(
        (&spec["type"], &spec["ipFamilies"]),
        (&json!("Headless"), &json!(["IPv6"]))
    );
    for field in ["ips", "sessionAffinity", "sessionAffinityConfig"] {
        assert!(spec.get(field).is_none(), "{field}");
    }
}

#[test]
fn an_import_that_cannot_be_called_says_why() {
    for (ready, reason) in [
        (Ready::Pending, "Pending"),
        (Ready::IpFamilyNotSupported, "IPFamilyNotSupported"),
    ] {
        let import = service_import(&reviews(), &merged(), &[], (ready, THEN));
        let condition = &import["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!(reason))
        );
        assert!(import["spec"].get("ips").is_none());
    }
}

#[test]
fn the_derived_service_has_the_ports_and_no_selector() {
    let service = derived_service(&reviews(), &merged());
    assert_eq!(
        service,
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": "shop", "name": derived_name(&reviews()),
                "labels": {"multicluster.kubernetes.io/service-name": "reviews", "weft.dev/import": "true"}
            },
            "spec": {
                "type": "ClusterIP",
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}],
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}}
            }
        })
    );
}

#[test]
fn the_service_of_a_headless_import_has_no_address() {
    for service in [
        derived_service(&reviews(), &headless()),
        own_service(&reviews(), &headless()),
    ] {
        assert_eq!(service["spec"]["clusterIP"], "None");
        assert!(service["spec"].get("sessionAffinity").is_none());
    }
    assert!(
        derived_service(&reviews(), &merged())["spec"]
            .get("clusterIP")
            .is_none()
    );
}

#[test]
fn the_service_of_its_own_name_differs_from_the_derived_one_in_its_name_alone() {
    let mut own = own_service(&reviews(), &merged());
    assert_eq!(own["metadata"]["name"], "reviews");
    assert_eq!(own["metadata"]["labels"][IMPORT_LABEL], "true");
    own["metadata"]["name"] = derived_name(&reviews()).into();
    assert_eq!(own, derived_service(&reviews(), &merged()));
}

/// An API server takes one port without a name, and of several none.
#[test]
fn of_several_ports_each_has_a_name_that_no_other_has() {
    let port = |name: &str, port| Port {
        name: name.to_owned(),
        port,
        protocol: Protocol::Tcp,
        app_protocol: None,
    };
    let names = |ports: Vec<Port>| {
        let service = derived_service(&reviews(), &Merged { ports, ..merged() });
        let ports = service["spec"]["ports"].as_array().unwrap().clone();
        ports.into_iter().map(|port| port["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(vec![port("", 80)]), [Value::Null]);
    assert_eq!(names(vec![port("", 80), port("b", 81)]), ["unnamed", "b"]);
    assert_eq!(names(vec![port("unnamed", 80), port("", 81)]), ["unnamed", "unnamed-1"]);
}

/// A peer decides what a Service is called there, and not what controllers here do with it.
#[test]
fn what_an_export_carries_steers_nothing_here() {
    let all = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect();
    let keys = [
        "tier",
        "example.com/a",
        "notkubernetes.io/a",
        "kubernetes.io/service-name",
        "service.kubernetes.io/headless",
        "endpointslice.kubernetes.io/managed-by",
        "multicluster.x-k8s.io/a",
        "config.weft.dev/opaque-ports",
        "weft.dev/import",
    ];
    let hostile = Merged {
        labels: all(&keys),
        annotations: all(&keys),
        ..merged()
    };
    let import = import(&hostile, &[]);
    let of = |field: &str| import["metadata"][field].as_object().unwrap().clone();
    let kept = ["example.com/a", "notkubernetes.io/a", "tier"];
    assert_eq!(Vec::from_iter(of("annotations").keys()), kept);
    assert_eq!(
        Vec::from_iter(of("labels").keys()),
        ["example.com/a", "notkubernetes.io/a", "tier", IMPORT_LABEL]
    );
    assert_eq!(of("labels")[IMPORT_LABEL], "true");
    let service = derived_service(&reviews(), &hostile);
    assert_eq!(service["metadata"]["labels"].as_object().unwrap().len(), 2);
    assert!(service["metadata"].get("annotations").is_none());
}
