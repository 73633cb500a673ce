//! Pods of a strict namespace as they begin, are asked how they are, and end: by the kubelet, which knows nothing of the mesh.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;
use weft_tests::kube::{Namespace, said, until};

use crate::services::{answered, with_images, world};

/// Separated as in a file of manifests, each with a name of its own.
const PODS: &str = include_str!("lifecycle.yaml");

/// The manifest of that name.
fn manifest(name: &str) -> String {
    let named = format!("metadata: {{name: {name}}}");
    let manifest = PODS.split("\n---\n").find(|manifest| manifest.contains(&named));
    with_images(manifest.expect("lifecycle.yaml has it"))
}

fn strict() -> Namespace<'static> {
    let namespace = world().cluster.namespace(&[("weft.dev/inject", "enabled")]);
    let annotate = [
        "annotate",
        "namespace",
        namespace.name(),
        "config.weft.dev/inbound=strict",
    ];
    world().cluster.kubectl(annotate);
    namespace
}

fn identity(namespace: &Namespace<'_>) -> String {
    format!("/ns/{}/sa/default", namespace.name())
}

#[test]
fn a_job_with_a_sidecar_ends_as_its_app_does() {
    let namespace = strict();
    for job in ["calls", "fails"] {
        namespace.apply(&manifest(job));
    }
    namespace.kubectl(&["wait", "job/calls", "--for=condition=Complete", "--timeout=90s"]);
    namespace.kubectl(&["wait", "job/fails", "--for=condition=Failed", "--timeout=90s"]);
    let answer = namespace.kubectl(&["logs", "job/calls", "-c", "tools"]);
    assert!(answer.contains(&identity(&namespace)), "{answer}");
}

#[test]
fn an_init_container_calls_as_its_pod() {
    let namespace = strict();
    namespace.apply(&manifest("begins"));
    namespace.ready("begins");
    let answer = namespace.kubectl(&["logs", "begins", "-c", "asks"]);
    assert!(answer.contains(&identity(&namespace)), "{answer}");

    let outside = world().cluster.namespace(&[]);
    outside.apply(&manifest("begins"));
    outside.kubectl(&[
        "wait",
        "pod/begins",
        "--for=jsonpath={.status.phase}=Failed",
        "--timeout=90s",
    ]);
    let answer = outside.kubectl(&["logs", "begins", "-c", "asks"]);
    assert!(answer.contains("403"), "without a sidecar it is nobody: {answer}");
}

#[test]
fn a_pod_that_ends_gets_its_hook_and_calls_out_to_the_last() {
    let namespace = strict();
    namespace.apply(&manifest("ends"));
    namespace.ready("ends");
    let mut follow = world()
        .cluster
        .command(["-n", namespace.name(), "logs", "-f", "ends", "-c", "app"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let mut lines = BufReader::new(follow.stdout.take().expect("its output")).lines();
    // A pod's log goes with it: whoever is to hear its last words has heard the first before that.
    let first = lines.next().expect("it says something").expect("text");
    assert_eq!(first, "serving");
    namespace.kubectl(&["delete", "pod", "ends"]);
    let text = lines.map_while(Result::ok).collect::<Vec<_>>().join("\n");
    follow.wait().expect("kubectl ends");
    assert!(text.contains("asked for /ending"), "{text}");
    assert!(
        text.contains("leaving: 200") && text.contains(&identity(&namespace)),
        "{text}"
    );
}

#[test]
fn a_tcp_probe_fails_while_its_listener_is_gone() {
    let namespace = strict();
    namespace.apply(&manifest("listens"));
    namespace.ready("listens");
    let signal = |signal: &str| {
        let output = namespace.exec("listens", &["sh", "-c", &format!("kill -{signal} 1")]);
        assert!(output.status.success(), "{}", said(&output));
    };
    signal("USR1");
    namespace.kubectl(&["wait", "pod/listens", "--for=condition=Ready=False", "--timeout=90s"]);
    signal("USR2");
    namespace.ready("listens");
}

#[test]
fn probes_of_every_kind_tell_the_truth_and_are_no_way_in() {
    let (world, namespace) = (world(), strict());
    for pod in ["well", "ill"] {
        namespace.apply(&manifest(pod));
    }
    namespace.ready("well");
    // Every container of the one that is not well is started again, and of the other none.
    let restarts = |pod: &str| -> Vec<u64> {
        let pod = namespace.get(&["pod", pod]);
        let containers = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let count = |container: &Value| container["restartCount"].as_u64().unwrap_or(0);
        containers.iter().map(count).collect()
    };
    let all = || Some(restarts("ill")).filter(|all| all.len() == 2 && !all.contains(&0));
    until("both containers are found ill", all, || {
        format!("{:?}", restarts("ill"))
    });
    assert_eq!(restarts("well"), [0, 0, 0]);

    let address = world.addresses(&["-n", namespace.name(), "well"]).swap_remove(0);
    let ask = |url: &str| world.ask_from("outside", "deploy/tools", &format!("http://{address}{url}"));
    let direct = answered("a stranger at the app's port", 403, || ask(":8080/healthz"));
    assert!(direct.head.contains("plaintext-refused"), "{direct:?}");
    let probe = answered("a stranger at a probe", 200, || ask(":15020/probe/http/readiness"));
    assert_eq!(
        probe.body,
        Value::from("well\n"),
        "Weft's own word, and nothing that the app said"
    );
    for other in ["http/other", "nobody/readiness", "http/readiness/../../headers"] {
        assert_eq!(ask(&format!(":15020/probe/{other}")).status, 404, "{other}");
    }
}
