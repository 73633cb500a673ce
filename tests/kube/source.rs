//! Objects come from the API server: at once, with kinds that come and go, and with an API server that does; and what the
//! control plane keeps there is kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::kube::{Namespace, until, x_cluster};

use super::control::{APP, OWN, World, alone, together, world};

const ROUTE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: BACKEND, port: 80}]}]
";

/// How long the control plane takes to find an edit of the route's backend, which decides whether it resolves.
fn edit(world: &World, namespace: &Namespace<'_>, backend: &str, resolves: &str) -> Duration {
    namespace.apply(&ROUTE.replace("BACKEND", backend));
    let begun = Instant::now();
    loop {
        let condition = world
            .control
            .condition("HTTPRoute", namespace.name(), "web", "ResolvedRefs");
        if condition
            .as_ref()
            .is_some_and(|condition| condition["status"] == resolves)
        {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{backend}: {condition:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn objects_arrive_and_an_edit_acts_within_a_second() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[]);
    edit(world, &namespace, "web", "True");
    for (backend, resolves) in [("nothing", "False"), ("web", "True")] {
        let took = edit(world, &namespace, backend, resolves);
        assert!(took < Duration::from_secs(1), "{backend}: {took:?}");
    }
    namespace.kubectl(&["delete", "httproute", "web"]);
    let gone = || {
        world
            .control
            .condition("HTTPRoute", namespace.name(), "web", "Accepted")
            .is_none()
    };
    until(
        "the route is gone",
        || gone().then_some(()),
        || world.control.get("/status"),
    );
    let metrics = world.control.get("/metrics");
    assert!(
        metrics.contains("weft_source_synced{kind=\"HTTPRoute\"} 1"),
        "{metrics}"
    );
}

#[test]
fn a_kind_is_honoured_soon_after_its_crd_and_goes_with_it() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[]);
    let phase = |wanted: &str| {
        let so = || (world.control.kind("ServiceSubset")["phase"] == wanted).then_some(());
        until(&format!("ServiceSubset is {wanted}"), so, || {
            world.control.kind("ServiceSubset").to_string()
        });
    };
    phase("absent");
    let definition = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, \
        metadata: {name: servicesubsets.weft.dev}, spec: {group: weft.dev, scope: Namespaced, \
        names: {kind: ServiceSubset, plural: servicesubsets}, versions: [{name: v1alpha1, served: true, storage: true, \
        schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}";
    world.cluster.apply(&[], definition);
    let begun = Instant::now();
    phase("listed");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    namespace.apply(
        "{apiVersion: weft.dev/v1alpha1, kind: ServiceSubset, metadata: {name: v1}, \
         spec: {service: web, selector: {matchLabels: {version: v1}}}}",
    );
    let there = || {
        world
            .control
            .condition("ServiceSubset", namespace.name(), "v1", "Accepted")
    };
    until("the subset is known", there, || world.control.get("/status"));
    world.cluster.kubectl(["delete", "crd", "servicesubsets.weft.dev"]);
    phase("absent");
    assert!(there().is_none());
}

#[test]
fn while_the_api_server_is_away_all_stays_and_what_changed_meanwhile_is_found_when_it_is_back() {
    let world = world();
    let _alone = alone();
    let namespace = world.cluster.namespace(&[]);
    edit(world, &namespace, "web", "True");
    let node = format!("{}-1", world.name);
    let kill = x_cluster(["--name", &world.name, "node", &node, "pkill", "-9", "kube-apiserver"]).output();
    assert!(kill.as_ref().is_ok_and(|output| output.status.success()), "{kill:?}");
    let away = || {
        let kind = world.control.kind("HTTPRoute");
        kind["error"]
            .as_str()
            .filter(|error| error.contains("away"))
            .map(str::to_owned)
    };
    until("it is said that the API server is away", away, || {
        world.control.get("/status")
    });
    assert!(
        world
            .control
            .get("/metrics")
            .contains("weft_source_synced{kind=\"HTTPRoute\"} 0")
    );
    let condition = world
        .control
        .condition("HTTPRoute", namespace.name(), "web", "Accepted");
    assert_eq!(condition.expect("the route stays")["status"], "True");
    let back = || {
        world
            .cluster
            .try_kubectl(["get", "--raw", "/readyz"])
            .status
            .success()
            .then_some(())
    };
    until("the API server is back", back, || "it is not".to_owned());
    edit(world, &namespace, "nothing", "False");
    let well = || (world.control.kind("HTTPRoute")["error"].is_null()).then_some(());
    until("it is followed again", well, || world.control.get("/status"));
}

#[test]
fn every_labelled_namespace_has_the_trust_bundle_and_none_that_is_not_ours_is_touched() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[("weft.dev/inject", "enabled")]);
    let roots = || {
        let map = world
            .cluster
            .try_kubectl(["-n", namespace.name(), "get", "configmap", "weft-trust", "-o", "json"]);
        let map: Value = serde_json::from_slice(&map.stdout).ok()?;
        Some(map["data"]["roots.pem"].as_str().unwrap_or_default().to_owned())
    };
    let kept = |what: &str| {
        let so = || (roots()? == world.control.root()).then_some(());
        until(what, so, || world.control.get("/status"));
    };
    kept("it is made");
    let data = namespace.get(&["configmap", "weft-trust"])["data"].clone();
    assert_eq!(data["control-namespace"], OWN);
    namespace.kubectl(&[
        "patch",
        "configmap",
        "weft-trust",
        "-p",
        "{\"data\": {\"roots.pem\": \"mine\"}}",
    ]);
    kept("an edit is undone");
    namespace.kubectl(&["delete", "configmap", "weft-trust"]);
    kept("it is made again");
    world
        .cluster
        .kubectl(["label", "namespace", namespace.name(), "weft.dev/inject-"]);
    until(
        "it goes with the label",
        || roots().is_none().then_some(()),
        || world.control.get("/status"),
    );

    namespace.kubectl(&["create", "configmap", "weft-trust", "--from-literal=roots.pem=mine"]);
    world
        .cluster
        .kubectl(["label", "namespace", namespace.name(), "weft.dev/inject=enabled"]);
    let reported = || {
        let why = world.control.status()["cluster"]["trust"][namespace.name()].clone();
        why.as_str().filter(|why| why.contains("not Weft's")).map(str::to_owned)
    };
    until("it is reported", reported, || world.control.get("/status"));
    assert_eq!(roots().as_deref(), Some("mine"));
}

#[test]
fn a_namespace_that_will_refuse_every_meshed_pod_is_told_of_before_there_is_one() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[
        ("weft.dev/inject", "enabled"),
        ("pod-security.kubernetes.io/enforce", "baseline"),
    ]);
    let event = || {
        let events = namespace.get(&["events"])["items"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        events
            .into_iter()
            .find(|event| event["reason"] == "PodSecurityRefusesSidecar")
    };
    let event = until("an event tells of it", event, || namespace.get(&["events"]).to_string());
    let note = event["message"].as_str().unwrap_or_default();
    assert!(
        note.contains(&format!("kubectl label ns {}", namespace.name())),
        "{event}"
    );
}

#[test]
fn a_pod_without_a_sidecar_in_a_labelled_namespace_is_told_of() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[]);
    namespace.apply(APP);
    namespace.apply(&APP.replace("name: app}, ", "name: out, labels: {weft.dev/inject: disabled}}, "));
    world
        .cluster
        .kubectl(["label", "namespace", namespace.name(), "weft.dev/inject=enabled"]);
    let told = || {
        let status = world.control.status();
        let unmeshed = status["cluster"]["unmeshed"].as_array()?.clone();
        unmeshed.into_iter().find(|each| each["namespace"] == namespace.name())
    };
    let unmeshed = until("status tells of it", told, || world.control.get("/status"));
    assert_eq!(unmeshed["pods"], serde_json::json!(["app"]));
    let metric = format!("weft_unmeshed_pods{{namespace=\"{}\"}} 1", namespace.name());
    assert!(world.control.get("/metrics").contains(&metric));
    let events = || {
        let events = namespace.get(&["events"])["items"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let of: Vec<Value> = events
            .into_iter()
            .filter(|event| event["reason"] == "NotMeshed")
            .collect();
        (!of.is_empty()).then_some(of)
    };
    let events = until("an event tells of it", events, || {
        namespace.get(&["events"]).to_string()
    });
    let pods: BTreeMap<String, usize> = events.iter().fold(BTreeMap::new(), |mut pods, event| {
        *pods.entry(event["involvedObject"]["name"].to_string()).or_default() += 1;
        pods
    });
    assert_eq!(
        pods,
        BTreeMap::from([("\"app\"".to_owned(), 1)]),
        "once, and nobody else"
    );
}
