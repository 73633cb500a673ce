//! The admission webhook in a cluster: who gets a sidecar, what happens while the webhook is away, and its own certificate.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use weft_tests::kube::{Cluster, Namespace, image, said, until};

const MANIFESTS: &str = include_str!("injector.yaml");

/// A webhook of a test's own: only namespaces that it makes are injected by it.
struct Injector {
    cluster: &'static Cluster,
    own: String,
}

impl Injector {
    /// The one of the tests that leave it alone; it goes with the last of them.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Injector>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let injector = Arc::new(Self::new(""));
            *shared = Arc::downgrade(&injector);
            injector
        })
    }

    fn new(args: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = format!("inj{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cluster = Cluster::shared();
        let manifests = MANIFESTS
            .replace("OWN", &own)
            .replace("IMAGE", &image("weft"))
            .replace(", ARGS", args);
        cluster.apply(&[], &manifests);
        let injector = Self { cluster, own };
        injector.rolled_out();
        injector
    }

    fn rolled_out(&self) {
        let args = [
            "-n",
            &self.own,
            "rollout",
            "status",
            "deployment/weft-injector",
            "--timeout=90s",
        ];
        self.cluster.kubectl(args);
    }

    fn scale(&self, replicas: usize) {
        let replicas = format!("--replicas={replicas}");
        self.cluster
            .kubectl(["-n", &self.own, "scale", "deployment/weft-injector", &replicas]);
    }

    fn pods(&self) -> usize {
        let pods = self.cluster.get(["-n", &self.own, "pods"]);
        pods["items"].as_array().map_or(0, Vec::len)
    }

    /// A namespace whose pods it injects, once the API server reaches it: the rules for a Service's endpoint
    /// come to the API server's node some time after that endpoint is ready.
    fn namespace(&self, more: &[(&str, &str)]) -> Namespace<'_> {
        let labels = [("weft.dev/inject", "enabled"), ("weft.dev/test", &*self.own)];
        let namespace = self.cluster.namespace(&[&labels, more].concat());
        let asked = || {
            let args = ["-n", namespace.name(), "--dry-run=server"];
            said(&self.cluster.try_apply(&args, &pod("asked", "")))
        };
        let reached = || (!asked().contains("failed calling webhook")).then_some(());
        until("the API server reaches the webhook", reached, asked);
        namespace
    }

    fn bundle(&self) -> String {
        let name = format!("{}-injector", self.own);
        let configuration = self.cluster.get(["mutatingwebhookconfiguration", &name]);
        configuration["webhooks"][0]["clientConfig"]["caBundle"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn certificate(&self) -> String {
        let secret = self.cluster.get(["-n", &self.own, "secret", "weft-webhook"]);
        secret["data"]["tls.crt"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let named = format!("{}-injector", self.own);
        // The configuration first: without its webhook it would refuse pods.
        for kind in ["mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding"] {
            let _ = self.cluster.try_kubectl(["delete", kind, &named, "--ignore-not-found"]);
        }
        let _ = self
            .cluster
            .try_kubectl(["delete", "namespace", &self.own, "--wait=false"]);
    }
}

/// A pod that lies and does nothing: its image is there, and nobody waits for it.
fn pod(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}{more}}}, spec: {{containers: [{{name: app, image: \"{}\", \
         args: [--version], ports: [{{name: http, containerPort: 8080}}], \
         readinessProbe: {{httpGet: {{path: /healthz, port: http}}}}}}]}}}}",
        image("weft")
    )
}

fn names(pod: &Value) -> Vec<String> {
    let list = |name: &str| pod["spec"][name].as_array().cloned().unwrap_or_default();
    let all = [list("initContainers"), list("containers")].concat();
    all.iter()
        .map(|container| container["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What the API server would make of a manifest.
fn dry(cluster: &Cluster, namespace: &str, manifest: &str) -> Value {
    dry_all(cluster, namespace, manifest).swap_remove(0)
}

/// The same of several, in order.
fn dry_all(cluster: &Cluster, namespace: &str, manifest: &str) -> Vec<Value> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), manifest).expect("a file");
    let mut command = cluster.command(["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f"]);
    let output = command.arg(file.path()).output().expect("kubectl runs");
    assert!(output.status.success(), "{}", said(&output));
    let documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    documents.collect::<Result<_, _>>().expect("kubectl prints JSON")
}

#[test]
fn pods_of_a_labelled_namespace_get_their_sidecar_and_no_others_do() {
    let injector = Injector::shared();
    let meshed = injector.namespace(&[]);
    meshed.apply(&pod("web", ""));
    let web = meshed.get(&["pod", "web"]);
    assert_eq!(names(&web), ["weft-init", "weft-proxy", "app"]);
    assert_eq!(web["spec"]["initContainers"][1]["restartPolicy"], "Always");
    let mounts = web["spec"]["initContainers"].to_string();
    assert!(
        !mounts.contains("kube-api-access"),
        "the proxy needs no token for the API server: {mounts}"
    );
    let probe = &web["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    assert_eq!(probe["path"], "/probe/app/readiness");

    meshed.apply(&pod("out", ", labels: {weft.dev/inject: disabled}"));
    assert_eq!(names(&meshed.get(&["pod", "out"])), ["app"]);
    let plain = injector.cluster.namespace(&[]);
    plain.apply(&pod("web", ""));
    assert_eq!(names(&plain.get(&["pod", "web"])), ["app"]);
}

#[test]
fn the_clusters_own_namespace_gets_none_even_with_the_label() {
    let injector = Injector::shared();
    let labels = ["weft.dev/inject", "weft.dev/test"];
    let own = format!("{}={}", labels[1], injector.own);
    injector
        .cluster
        .kubectl(["label", "namespace", "kube-system", "weft.dev/inject=enabled", &own]);
    let asked = std::panic::catch_unwind(|| dry(injector.cluster, "kube-system", &pod("web", "")));
    // Whatever came of it: the cluster may be somebody's.
    let none = labels.map(|label| format!("{label}-"));
    injector
        .cluster
        .kubectl(["label", "namespace", "kube-system", &none[0], &none[1]]);
    let made = asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(names(&made), ["app"]);
}

#[test]
fn a_pod_that_cannot_be_in_the_mesh_is_refused_with_the_reason_and_the_fix() {
    let injector = Injector::shared();
    let meshed = injector.namespace(&[]);
    let refused = |manifest: &str, reasons: &[&str]| {
        let output = meshed.try_apply(manifest);
        assert!(!output.status.success(), "let through: {manifest}");
        for reason in reasons {
            assert!(said(&output).contains(reason), "{reason}: {}", said(&output));
        }
    };
    let host = pod("host", "").replace("spec: {", "spec: {hostNetwork: true, ");
    refused(
        &host,
        &["inject.weft.dev", "spec.hostNetwork", "weft.dev/inject: disabled"],
    );
    let mistyped = pod("typo", ", annotations: {config.weft.dev/proxy-cpu-limits: '1'}");
    refused(&mistyped, &["proxy-cpu-limits", "proxy-cpu-limit,"]);
    let same = pod("uid", "").replace("spec: {", "spec: {securityContext: {runAsUser: 1882}, ");
    refused(&same, &["runAsUser", "1882"]);
}

#[test]
fn a_level_that_refuses_the_redirect_is_told_with_its_fix() {
    let injector = Injector::shared();
    let meshed = injector.namespace(&[("pod-security.kubernetes.io/enforce", "baseline")]);
    let output = meshed.try_apply(&pod("web", ""));
    let said = said(&output);
    assert!(!output.status.success() && said.contains("NET_ADMIN"), "{said}");
    let fix = format!(
        "kubectl label ns {} pod-security.kubernetes.io/enforce=privileged",
        meshed.name()
    );
    assert!(said.contains("Warning:") && said.contains(&fix), "{said}");
}

#[test]
fn while_the_webhook_is_away_labelled_namespaces_refuse_pods_and_others_do_not() {
    let injector = Injector::new("");
    let (meshed, plain) = (injector.namespace(&[]), injector.cluster.namespace(&[]));
    injector.scale(0);
    until(
        "the webhook is gone",
        || (injector.pods() == 0).then_some(()),
        || format!("{} pods", injector.pods()),
    );
    let began = Instant::now();
    let output = meshed.try_apply(&pod("web", ""));
    assert!(!output.status.success(), "a pod without its sidecar");
    assert!(said(&output).contains("inject.weft.dev"), "{}", said(&output));
    // What the configuration says, 5 s, and what `kubectl` takes on a busy machine.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    plain.apply(&pod("web", ""));
    assert_eq!(names(&dry(injector.cluster, "kube-system", &pod("web", ""))), ["app"]);

    injector.scale(1);
    injector.rolled_out();
    // Rules for the Service's new endpoint take a moment to reach the API server's node.
    let again = || meshed.try_apply(&pod("web", ""));
    until(
        "pods are made again",
        || again().status.success().then_some(()),
        || said(&again()),
    );
    assert_eq!(names(&meshed.get(&["pod", "web"])), ["weft-init", "weft-proxy", "app"]);
}

#[test]
fn generated_pods_pass_the_api_servers_dry_run_with_every_field_that_was_written() {
    let shared = Injector::shared();
    let injector = &*shared;
    let meshed = injector.namespace(&[]);
    let mut random = StdRng::seed_from_u64(6);
    let pods: Vec<Value> = (0..2000).map(|number| generated(number, &mut random)).collect();
    // Some at once: one `kubectl` sends them one after the other.
    let made: Vec<Value> = std::thread::scope(|scope| {
        let send = |part: &[Value]| {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": part}).to_string();
            let meshed = &meshed;
            scope.spawn(move || dry_all(injector.cluster, meshed.name(), &list))
        };
        let parts: Vec<_> = pods.chunks(500).map(send).collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().expect("they are taken"))
            .collect()
    });
    assert_eq!(made.len(), pods.len());
    for (before, after) in pods.iter().zip(&made) {
        assert_eq!(names(after)[..2], ["weft-init", "weft-proxy"]);
        still_there(before, after, "pod");
    }
    let left = meshed.get(&["pods"]);
    assert_eq!(left["items"], json!([]), "a dry run has effects");
}

/// A pod that the API server takes, of some of what pods have.
fn generated(number: usize, random: &mut StdRng) -> Value {
    let mut some = |percent: u32| random.random_range(0..100) < percent;
    let mut container = |name: &str, is_main: bool| {
        let mut container = json!({"name": name, "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}]});
        let actions = [
            json!({"httpGet": {"path": "/ok", "port": "http", "httpHeaders": [{"name": "a", "value": "$(b)"}]}}),
            json!({"tcpSocket": {"port": 9000}}),
            json!({"grpc": {"port": 7070, "service": "x"}}),
            json!({"exec": {"command": ["true"]}}),
        ];
        if is_main {
            for (place, field) in ["readinessProbe", "livenessProbe", "startupProbe"].iter().enumerate() {
                if some(50) {
                    let action = &actions[(number + place) % actions.len()];
                    container[*field] = action.clone();
                    container[*field]["periodSeconds"] = json!(7);
                }
            }
            if some(30) {
                container["lifecycle"] = json!({"preStop": {"httpGet": {"path": "/bye", "port": 8080}}});
            }
        }
        if some(30) {
            container["securityContext"] = json!({"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}});
        }
        if some(30) {
            container["env"] = json!([{"name": "A", "value": "$(B)"}, {"name": "C", "value": "d"}]);
        }
        if some(30) {
            container["resources"] = json!({"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}});
        }
        if some(30) {
            container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        }
        container
    };
    let spec = json!({
        "initContainers": [container("wait", false)],
        "containers": [container("app", true), container("beside", true)],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "labels": {"app": "web"}},
        "spec": spec,
    });
    if some(30) {
        pod["metadata"]["annotations"] = json!({"config.weft.dev/proxy-memory-request": "48Mi", "example.com/a": "b"});
    }
    if some(30) {
        pod["spec"]["securityContext"] = json!({"fsGroup": 2000, "runAsNonRoot": true, "runAsUser": 1001});
    }
    if some(30) {
        pod["spec"]["shareProcessNamespace"] = json!(true);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    }
    if some(20) {
        pod["spec"]["restartPolicy"] = json!("OnFailure");
    }
    pod
}

/// Whether the proxy, asked at this path, asks the app in the place of this probe or hook: `….containers.app.readinessProbe`,
/// `….containers.app.lifecycle.preStop`.
fn is_moved(place: &str, path: &str) -> bool {
    let of = place.rsplit('.').take(3).collect::<Vec<_>>();
    match *of {
        [hook, "lifecycle", container] => path.starts_with("/hook/") && path.ends_with(&format!("/{container}/{hook}")),
        [probe, container, _] => path == format!("/probe/{container}/{}", probe.trim_end_matches("Probe")),
        _ => false,
    }
}

/// Whether all of `before` is in `after`, but for where probes and hooks go.
#[track_caller]
fn still_there(before: &Value, after: &Value, place: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let moved = matches!(key.as_str(), "httpGet" | "tcpSocket" | "grpc");
                if moved {
                    let path = after["httpGet"]["path"].as_str().unwrap_or_default();
                    let known = is_moved(place, path);
                    assert!(known && after["httpGet"]["port"] == 15020, "{place}: {after:?}");
                } else {
                    let there = after.get(key).unwrap_or_else(|| panic!("{place}.{key} is gone"));
                    still_there(value, there, &format!("{place}.{key}"));
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for item in before {
                let same = |other: &&Value| match item.get("name") {
                    Some(name) => other.get("name") == Some(name),
                    None => *other == item,
                };
                let found = after.iter().find(same);
                let found = found.unwrap_or_else(|| panic!("{place}: {item} is gone"));
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                still_there(item, found, &format!("{place}.{name}"));
            }
        }
        (before, after) => assert_eq!(before, after, "{place}"),
    }
}

#[test]
fn two_replicas_change_their_certificate_and_no_pod_notices() {
    let injector = Injector::new(", --certificate-lifetime=30s, --certificate-overlap=4s");
    injector.scale(2);
    injector.rolled_out();
    let meshed = injector.namespace(&[]);
    let began = Instant::now();
    let (mut seen, mut made) = (vec![injector.certificate()], 0);
    // The first, and two after it.
    while seen.len() < 3 || made < 20 {
        let name = format!("web-{made}");
        let pod = dry(injector.cluster, meshed.name(), &pod(&name, ""));
        assert_eq!(names(&pod).len(), 3, "not injected");
        made += 1;
        let now = injector.certificate();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "{} certificates after {made} pods",
            seen.len()
        );
    }
}

#[test]
fn a_bundle_that_somebody_overwrites_is_written_again() {
    let injector = Injector::new("");
    let before = injector.bundle();
    assert!(!before.is_empty());
    let name = format!("{}-injector", injector.own);
    let patch = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
    let args = [
        "patch",
        "mutatingwebhookconfiguration",
        &name,
        "--type=json",
        "-p",
        patch,
    ];
    injector.cluster.kubectl(args);
    until(
        "the caBundle is written again",
        || (injector.bundle() == before).then_some(()),
        || injector.bundle(),
    );
    let meshed = injector.namespace(&[]);
    let webhook = || meshed.try_apply(&pod("web", ""));
    until(
        "pods are made",
        || webhook().status.success().then_some(()),
        || said(&webhook()),
    );
}
