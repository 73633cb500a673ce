use std::sync::Arc;

use serde_json::json;
use weft_control::objects::Object;

use super::*;
use crate::manifest::tests::{object, yaml};

fn service(spec: Value) -> Service {
    let object: Arc<Object> = object(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "reviews", "namespace": "shop"}, "spec": spec}),
    );
    Service::read(&object, &mut Vec::new()).expect("a good service")
}

fn reviews() -> Service {
    service(
        json!({"ipFamilyPolicy": "PreferDualStack", "selector": {"app": "reviews"}, "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"},
            {"name": "grpc", "port": 90, "targetPort": 9090},
        ]}),
    )
}

struct Pod {
    name: &'static str,
    labels: BTreeMap<String, String>,
    spec: PodSpec,
    ips: Vec<IpAddr>,
}

fn pod(name: &'static str, app: &str, port: u16) -> Pod {
    let spec =
        format!("spec: {{containers: [{{name: c, command: [c], ports: [{{name: web, containerPort: {port}}}]}}]}}");
    Pod {
        name,
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        spec: crate::manifest::pod::view(&yaml(&spec)).unwrap(),
        ips: vec![
            format!("10.244.0.{}", name.len()).parse().unwrap(),
            format!("fd00::{}", name.len()).parse().unwrap(),
        ],
    }
}

fn member(pod: &Pod, ready: bool, terminating: bool) -> Member<'_> {
    Member {
        namespace: "shop",
        name: pod.name,
        uid: pod.name,
        labels: &pod.labels,
        spec: &pod.spec,
        ips: &pod.ips,
        node: "n1",
        zone: "a",
        ready,
        terminating,
    }
}

#[test]
fn conditions_follow_readiness_and_deletion() {
    let (a, b, c, other) = (
        pod("a", "reviews", 80),
        pod("bb", "reviews", 80),
        pod("ccc", "reviews", 80),
        pod("dddd", "web", 80),
    );
    let members = [
        member(&a, true, false),
        member(&b, false, false),
        member(&c, true, true),
        member(&other, true, false),
    ];
    let endpoints = endpoints(&reviews(), &members);
    let conditions: Vec<_> = endpoints
        .iter()
        .map(|e| (e.pod.as_str(), e.ready, e.serving, e.terminating))
        .collect();
    assert_eq!(
        conditions,
        [
            ("a", true, true, false),
            ("bb", false, false, false),
            ("ccc", false, true, true)
        ]
    );
}

#[test]
fn unready_pods_count_where_the_service_says_so() {
    let a = pod("a", "reviews", 80);
    let spec = json!({"selector": {"app": "reviews"}, "ports": [{"port": 80}], "publishNotReadyAddresses": true});
    let endpoints = endpoints(&service(spec), &[member(&a, false, false)]);
    assert!(endpoints[0].ready && endpoints[0].serving);
}

#[test]
fn a_service_without_a_selector_has_no_pods_of_ours() {
    let a = pod("a", "reviews", 80);
    assert_eq!(
        endpoints(&service(json!({"ports": [{"port": 80}]})), &[member(&a, true, false)]),
        []
    );
}

#[test]
fn slices_name_ports_by_number_for_each_pod_and_family() {
    let (a, b) = (pod("a", "reviews", 8080), pod("bb", "reviews", 9999));
    let service = reviews();
    let all = slices(
        &service,
        &endpoints(&service, &[member(&a, true, false), member(&b, true, false)]),
    );
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["reviews-ipv4-0", "reviews-ipv4-1", "reviews-ipv6-0", "reviews-ipv6-1"]
    );
    let first = &all[0].1;
    assert_eq!(first["metadata"]["labels"]["kubernetes.io/service-name"], "reviews");
    assert_eq!(
        first["ports"],
        json!([
            {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"},
            {"name": "grpc", "port": 9090, "protocol": "TCP"},
        ])
    );
    assert_eq!(first["endpoints"][0]["targetRef"]["uid"], "a");
    assert_eq!(first["endpoints"][0]["zone"], "a");
    assert_eq!(all[2].1["endpoints"][0]["addresses"], json!(["fd00::1"]));
}

#[test]
fn connections_go_to_ready_pods_and_else_to_those_that_still_serve() {
    let (a, b) = (pod("a", "reviews", 8080), pod("bb", "reviews", 8080));
    let service = reviews();
    let going = endpoints(&service, &[member(&a, true, true), member(&b, false, false)]);
    assert_eq!(backends(&going, 0, true), [("10.244.0.1".parse().unwrap(), 8080)]);
    let one = endpoints(&service, &[member(&a, true, true), member(&b, true, false)]);
    assert_eq!(backends(&one, 1, true), [("10.244.0.2".parse().unwrap(), 9090)]);
    let none = endpoints(&service, &[member(&b, false, false)]);
    assert_eq!(backends(&none, 0, true), []);
}
