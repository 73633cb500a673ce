//! An installation as a whole: it is well, it says what is not, and it goes without a trace.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;
use weft_tests::kube::{Cluster, PATIENCE, image, said, until};
use weft_tests::mesh::weft_bin;

const OWN: &str = "weft-system";
const APP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: ratings}
spec:
  selector: {matchLabels: {app: ratings}}
  template:
    metadata: {labels: {app: ratings}}
    spec: {containers: [{name: ratings, image: SHOP_IMAGE, command: [ratings]}]}
";

/// With what is there only where it is asked for: more replicas, a policy in a meshed namespace, and what other clusters reach.
const VALUES: &str = "control.replicas=2,injector.replicas=2,networkPolicy.egressNamespaces={shop},\
    cluster=east,federation.enabled=true,federation.service.type=NodePort,gateways.enabled=true,gateways.service.type=NodePort";

/// `weft ARGS` against the cluster.
fn weft(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(weft_bin());
    command.args(args).env("KUBECONFIG", cluster.kubeconfig());
    command.output().expect("weft runs")
}

/// What `weft check` finds wrong.
fn wrong(cluster: &Cluster) -> Vec<String> {
    let output = weft(cluster, &["check", "-o", "json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let wrong: Vec<String> = findings
        .iter()
        .filter(|f| f["level"] == "wrong")
        .map(Value::to_string)
        .collect();
    assert_eq!(
        output.status.code(),
        Some(if wrong.is_empty() { 0 } else { 79 }),
        "{report:#}"
    );
    wrong
}

/// Every object of every kind, but for what comes and goes by itself.
fn everything(cluster: &Cluster) -> BTreeSet<String> {
    let kinds = cluster.kubectl(["api-resources", "--verbs=list", "-o", "name"]);
    let passing = ["events", "events.events.k8s.io", "leases.coordination.k8s.io"];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !passing.contains(kind)).collect();
    let columns = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name";
    let args = [
        "get",
        &kinds.join(","),
        "-A",
        "-o",
        columns,
        "--no-headers",
        "--ignore-not-found",
    ];
    let listed = cluster.kubectl(args);
    let objects = listed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    // Every rollout of the app makes others of these.
    objects
        .filter(|object| !object.starts_with("Pod shop ") && !object.starts_with("ReplicaSet shop "))
        .collect()
}

/// The pods of the app that are not on their way out, and have a proxy.
fn meshed(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.get(["-n", "shop", "pods"]);
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter(|pod| pod["spec"]["initContainers"].to_string().contains("weft-proxy"))
        .map(|pod| pod["metadata"]["name"].to_string())
        .collect()
}

#[track_caller]
fn rolled_out(cluster: &Cluster, namespace: &str, deployment: &str) {
    let patience = format!("--timeout={}s", PATIENCE.as_secs());
    let output = cluster.try_kubectl(["-n", namespace, "rollout", "status", deployment, &patience]);
    let state = || said(&cluster.try_kubectl(["-n", namespace, "describe", "pods"]));
    assert!(output.status.success(), "{}\n{}", said(&output), state());
}

#[test]
fn an_installation_is_well_says_what_is_not_and_goes_without_a_trace() {
    let name = format!("i{}", std::process::id());
    let cluster = Cluster::held(
        &name,
        &["--nodes", "1", "--bare", "--crds", "standard"],
        &["weft", "shop"],
    );
    // It is there before Weft, and stays: what Weft leaves in a meshed namespace would be seen.
    let app = APP.replace("SHOP_IMAGE", &image("shop"));
    cluster.kubectl(["create", "namespace", "shop"]);
    cluster.apply(&["-n", "shop"], &app);
    rolled_out(&cluster, "shop", "deployment/ratings");
    let before = everything(&cluster);

    let printed = weft(&cluster, &["install", "--set", VALUES]);
    cluster.apply(&["--server-side"], &String::from_utf8_lossy(&printed.stdout));
    for deployment in [
        "deployment/weft-control",
        "deployment/weft-injector",
        "deployment/weft-gateway",
    ] {
        rolled_out(&cluster, OWN, deployment);
    }
    let well = || Some(wrong(&cluster)).filter(Vec::is_empty).map(drop);
    until("a new installation is well", well, || wrong(&cluster).join("\n"));

    // A pod from before the label has no proxy, and that is told; the command that is told with it helps.
    cluster.kubectl(["label", "namespace", "shop", "weft.dev/inject=enabled"]);
    let told = || {
        wrong(&cluster)
            .iter()
            .any(|found| found.contains("-n shop rollout restart deployment ratings"))
            .then_some(())
    };
    until("the pod without a proxy is told of", told, || {
        wrong(&cluster).join("\n")
    });
    cluster.kubectl(["-n", "shop", "rollout", "restart", "deployment", "ratings"]);
    rolled_out(&cluster, "shop", "deployment/ratings");
    until("a meshed namespace is well", well, || wrong(&cluster).join("\n"));
    assert_eq!(meshed(&cluster).len(), 1);

    cluster.kubectl(["label", "namespaces", "--all", "weft.dev/inject-"]);
    cluster.kubectl(["-n", "shop", "rollout", "restart", "deployment", "ratings"]);
    rolled_out(&cluster, "shop", "deployment/ratings");
    assert_eq!(meshed(&cluster), Vec::<String>::new());
    let printed = weft(&cluster, &["uninstall"]);
    let names = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(names.path(), &printed.stdout).expect("a file");
    let names = names.path().to_string_lossy().into_owned();
    cluster.kubectl(["delete", "--ignore-not-found", "-f", &names]);
    cluster.kubectl([
        "delete",
        "configmaps,networkpolicies",
        "-A",
        "-l",
        "app.kubernetes.io/part-of=weft",
    ]);
    let left = || everything(&cluster).difference(&before).cloned().collect::<Vec<_>>();
    until(
        "nothing is left",
        || left().is_empty().then_some(()),
        || left().join("\n"),
    );
    assert_eq!(before.difference(&everything(&cluster)).count(), 0, "nothing else went");
}
