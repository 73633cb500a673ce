use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;
use weft_control::objects::Object;

use super::addresses::{Assigned, ServiceAddresses};
use super::build::{pod_name, uuid};
use crate::manifest::place::{ONLY_NODE, place};
use crate::manifest::tests::object;
use crate::manifest::{Key, Owner, Service, Template, Workload};

fn service(name: &str, spec: serde_json::Value) -> (Key, Service) {
    let raw =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    (
        Key::new("shop", name),
        Service::read(&object(raw), &mut Vec::new()).unwrap(),
    )
}

fn addresses() -> ServiceAddresses {
    ServiceAddresses::new(
        "10.96.0.0/16".parse().unwrap(),
        Some("fd00:10:96::/112".parse().unwrap()),
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn services_get_addresses_of_the_families_that_they_ask_for() {
    let services = BTreeMap::from([
        service("one", json!({"ports": [{"port": 80}]})),
        service(
            "dual",
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}),
        ),
        service("six", json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6"]})),
        service("none", json!({"clusterIP": "None"})),
        service(
            "outside",
            json!({"type": "ExternalName", "externalName": "example.com"}),
        ),
        service(
            "first-six",
            json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}),
        ),
        service(
            "half-given",
            json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.200", "ipFamilyPolicy": "PreferDualStack"}),
        ),
        service("given", json!({"clusterIP": "10.96.0.16", "ports": [{"port": 80}]})),
    ]);
    let Assigned { ips: assigned, wrong } = addresses().assign(services.iter());
    assert_eq!(wrong, []);
    let of = |name: &str| &assigned[&Key::new("shop", name)];
    assert_eq!(*of("given"), [ip("10.96.0.16")]);
    assert_eq!(*of("dual"), [ip("10.96.0.17"), ip("fd00:10:96::10")]);
    assert_eq!(*of("first-six"), [ip("fd00:10:96::11"), ip("10.96.0.18")]);
    assert_eq!(*of("half-given"), [ip("10.96.0.200"), ip("fd00:10:96::12")]);
    assert_eq!(*of("one"), [ip("10.96.0.19")]);
    assert_eq!(*of("six"), [ip("fd00:10:96::13")]);
    assert!(of("none").is_empty() && of("outside").is_empty());
}

#[test]
fn without_ipv6_who_prefers_both_families_has_one_and_who_requires_it_is_refused() {
    let port = json!([{"port": 80}]);
    let services = BTreeMap::from([
        service("prefers", json!({"ports": port, "ipFamilyPolicy": "PreferDualStack"})),
        service("requires", json!({"ports": port, "ipFamilyPolicy": "RequireDualStack"})),
        service("six", json!({"ports": port, "ipFamilies": ["IPv6"]})),
    ]);
    let mut addresses = addresses();
    addresses.without_v6();
    let Assigned { ips, wrong } = addresses.assign(services.iter());
    assert_eq!(ips[&Key::new("shop", "prefers")].len(), 1);
    let wrong: Vec<&str> = wrong.iter().map(|wrong| wrong.service.name.as_str()).collect();
    assert_eq!(wrong, ["requires", "six"]);
}

#[test]
fn an_address_outside_the_range_or_taken_is_refused() {
    let services = BTreeMap::from([
        service("a", json!({"clusterIP": "10.96.0.20", "ports": [{"port": 80}]})),
        service("b", json!({"clusterIP": "10.96.0.20", "ports": [{"port": 80}]})),
        service("c", json!({"clusterIP": "192.168.0.1", "ports": [{"port": 80}]})),
    ]);
    let Assigned { ips: assigned, wrong } = addresses().assign(services.iter());
    assert_eq!(assigned.len(), 1);
    let wrong: Vec<&str> = wrong.iter().map(|wrong| wrong.service.name.as_str()).collect();
    assert_eq!(wrong, ["b", "c"]);
}

#[test]
fn an_address_is_the_same_after_a_restart_and_when_a_service_returns() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("addresses.json");
    let open = || ServiceAddresses::open("10.96.0.0/16".parse().unwrap(), None, &file).unwrap();
    let port = || json!({"ports": [{"port": 80}]});
    let both = BTreeMap::from([service("a", port()), service("b", port())]);
    let first = open().assign(both.iter()).ips;
    let only_b = BTreeMap::from([service("b", port())]);
    let mut again = open();
    assert_eq!(
        again.assign(only_b.iter()).ips[&Key::new("shop", "b")],
        first[&Key::new("shop", "b")]
    );
    let with_new = BTreeMap::from([service("b", port()), service("c", port())]);
    let new = again.assign(with_new.iter()).ips[&Key::new("shop", "c")].clone();
    assert_ne!(
        new,
        first[&Key::new("shop", "a")],
        "the address of one that may return is not given away"
    );
    assert_eq!(again.assign(both.iter()).ips, first);
}

#[test]
fn a_range_that_is_used_up_gives_what_nobody_has() {
    let mut small = ServiceAddresses::new("10.96.0.0/27".parse().unwrap(), None);
    let many: BTreeMap<_, _> = (0..15)
        .map(|i| service(&format!("s{i}"), json!({"ports": [{"port": 80}]})))
        .collect();
    assert_eq!(small.assign(many.iter()).ips.len(), 15);
    let others: BTreeMap<_, _> = (0..16)
        .map(|i| service(&format!("t{i}"), json!({"ports": [{"port": 80}]})))
        .collect();
    let Assigned { ips: assigned, wrong } = small.assign(others.iter());
    assert_eq!((assigned.len(), wrong.len()), (15, 1));
}

fn template(spec: serde_json::Value) -> Template {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "command": ["c"]}]);
    let raw = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    Template::of_pod(&object(raw), &mut Vec::new()).unwrap()
}

fn nodes() -> BTreeMap<String, Arc<Object>> {
    let node = |name: &str, region: &str| {
        let labels = json!({"topology.kubernetes.io/region": region});
        let raw = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        (name.to_owned(), object(raw))
    };
    BTreeMap::from([node("east-1", "east"), node("west-1", "west"), node("west-2", "west")])
}

#[test]
fn pods_are_spread_over_the_nodes_that_their_selector_allows() {
    let any = template(json!({}));
    assert_eq!(place(&any, &nodes(), |_| (0, 0)).unwrap(), "east-1");
    assert_eq!(
        place(&any, &nodes(), |node| (usize::from(node == "east-1"), 0)).unwrap(),
        "west-1"
    );
    let west =
        template(json!({"nodeSelector": {"topology.kubernetes.io/region": "west", "kubernetes.io/os": "linux"}}));
    assert_eq!(
        place(&west, &nodes(), |node| (usize::from(node == "west-1"), 0)).unwrap(),
        "west-2"
    );
    let named = template(json!({"nodeName": "west-2"}));
    assert_eq!(place(&named, &nodes(), |_| (9, 9)).unwrap(), "west-2");
}

#[test]
fn a_node_that_is_not_there_is_named_by_field() {
    for (spec, field) in [
        (json!({"nodeName": "north-1"}), "spec.nodeName"),
        (
            json!({"nodeSelector": {"topology.kubernetes.io/region": "north"}}),
            "spec.nodeSelector",
        ),
    ] {
        assert_eq!(place(&template(spec), &nodes(), |_| (0, 0)).unwrap_err().0, field);
    }
    assert_eq!(
        place(&template(json!({})), &BTreeMap::new(), |_| (0, 0)).unwrap(),
        ONLY_NODE
    );
    assert!(
        place(
            &template(json!({"nodeSelector": {"disk": "ssd"}})),
            &BTreeMap::new(),
            |_| (0, 0)
        )
        .is_err()
    );
}

fn deployment(name: &str) -> Owner {
    Owner {
        kind: Workload::Deployment,
        key: Key::new("shop", name),
    }
}

#[test]
fn pod_names_are_names_however_long_their_deployments_are() {
    let name = pod_name(&deployment(&"d".repeat(70)), &template(json!({})), u64::MAX);
    assert!(weft_control::objects::names::is_label(&name), "{name}");
    let other = pod_name(&deployment("web"), &template(json!({})), 7);
    assert!(
        other.starts_with("web-") && other.len() == "web-".len() + 10 + 1 + 5,
        "{other}"
    );
}

#[test]
fn uids_are_version_four() {
    assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
}
