//! The status of objects: what the control plane says of them there, to whom it leaves what, and when every proxy has it.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_tests::kube::{Cluster, Namespace, PATIENCE, image, said, until, x_cluster};
use weft_tests::mesh::weft_bin;

use super::control::{together, world};

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n---\n";

/// A route of Service `web` with one rule that sends to this Service.
fn route(kind: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: web}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web}}]
  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]
"
    )
}

/// The conditions that a controller has said of an object, by type; empty while it has said none.
fn conditions(object: &Value, controller: &str) -> Vec<Value> {
    let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
    let ours = parents
        .into_iter()
        .find(|parent| parent["controllerName"] == controller);
    let own = ours.map_or_else(
        || object["status"]["conditions"].clone(),
        |ours| ours["conditions"].clone(),
    );
    own.as_array().cloned().unwrap_or_default()
}

/// Waits until the latest generation has a condition that fits.
#[track_caller]
fn said_of(namespace: &Namespace<'_>, name: &str, condition: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let look = || namespace.get(&[name]);
    let so = || {
        let object = look();
        let all = conditions(&object, "weft.dev/mesh");
        let current = |each: &Value| each["observedGeneration"] == object["metadata"]["generation"];
        all.into_iter()
            .find(|each| each["type"] == condition && current(each) && fits(each))
    };
    until(&format!("{condition} of {name}"), so, || {
        format!("{:#}", look()["status"])
    })
}

fn is(status: &'static str, reason: &'static str) -> impl Fn(&Value) -> bool {
    move |condition| condition["status"] == status && condition["reason"] == reason
}

/// `weft wait -n NAMESPACE ARGS`.
fn wait(cluster: &Cluster, namespace: &str, args: &[&str]) -> Output {
    let mut command = Command::new(weft_bin());
    command.args(["wait", "-n", namespace]).args(args);
    let output = command.env("KUBECONFIG", cluster.kubeconfig()).output();
    output.expect("weft runs")
}

#[test]
fn every_kind_of_route_and_our_own_kinds_say_what_became_of_them() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[]);
    namespace.apply(SERVICE);
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"] {
        let hosts = if kind == "TLSRoute" {
            "\n  hostnames: [a.example]"
        } else {
            ""
        };
        let route = |backend: &str| route(kind, backend).replace("\nspec:", &format!("\nspec:{hosts}"));
        let object = format!("{}/web", kind.to_ascii_lowercase());
        namespace.apply(&route("nothing"));
        said_of(&namespace, &object, "Accepted", is("True", "Accepted"));
        let refs = said_of(&namespace, &object, "ResolvedRefs", is("False", "BackendNotFound"));
        let message = refs["message"].as_str().unwrap_or_default();
        assert!(
            message.starts_with("spec.rules[0].backendRefs[0].name: ") && message.contains("(fix: "),
            "{message}"
        );
        // An edit is a new generation, and what is said is said of it.
        namespace.apply(&route("web"));
        said_of(&namespace, &object, "ResolvedRefs", is("True", "ResolvedRefs"));
        said_of(&namespace, &object, "Applied", is("True", "NoSubscribers"));
        let object = namespace.get(&[object.as_str()]);
        assert_eq!(object["metadata"]["generation"], 2);
        let port = json!([{"op": "add", "path": "/spec/parentRefs/0/port", "value": 81}]).to_string();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        namespace.kubectl(&["patch", kind, name, "--type=json", "-p", &port]);
        let object = format!("{}/web", kind.to_ascii_lowercase());
        said_of(&namespace, &object, "Accepted", is("False", "NoMatchingParent"));
        namespace.kubectl(&["delete", &object]);
    }
}

#[test]
fn a_status_is_written_when_there_is_something_to_say_and_leaves_others_alone() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[]);
    namespace.apply(&format!("{SERVICE}{}", route("HTTPRoute", "web")));
    said_of(&namespace, "httproute/web", "Applied", is("True", "NoSubscribers"));
    let seen = namespace.get(&["httproute", "web"]);

    // Another controller says something of another parent, and of the same.
    let parent = |kind: &str, group: &str| json!({"group": group, "kind": kind, "name": "web"});
    let foreign = |parent: Value| {
        let condition = json!({
            "type": "Accepted", "status": "False", "reason": "Example", "message": "mine",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1
        });
        json!({"parentRef": parent, "controllerName": "example.net/other", "conditions": [condition]})
    };
    let others = [
        foreign(parent("Gateway", "gateway.networking.k8s.io")),
        foreign(parent("Service", "")),
    ];
    let mut parents = others.to_vec();
    parents.extend(seen["status"]["parents"].as_array().cloned().unwrap_or_default());
    let patch = json!({"status": {"parents": parents}}).to_string();
    namespace.kubectl(&[
        "patch",
        "httproute",
        "web",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ]);
    namespace.apply(&route("HTTPRoute", "nothing"));
    said_of(
        &namespace,
        "httproute/web",
        "ResolvedRefs",
        is("False", "BackendNotFound"),
    );
    let now = namespace.get(&["httproute", "web"]);
    assert_eq!(now["status"]["parents"].as_array().map(Vec::len), Some(3));
    assert_eq!(now["status"]["parents"][0], others[0]);
    assert_eq!(now["status"]["parents"][1], others[1]);
    // What has not changed has not changed its time.
    let since = |object: &Value| {
        let all = conditions(object, "weft.dev/mesh");
        let of = all.into_iter().find(|each| each["type"] == "Accepted");
        of.expect("a condition")["lastTransitionTime"].clone()
    };
    assert_eq!(since(&now), since(&seen));

    // A Service that comes is something to say; a label is not, and neither is what was written.
    namespace.apply(&SERVICE.replace("name: web", "name: nothing"));
    said_of(&namespace, "httproute/web", "ResolvedRefs", is("True", "ResolvedRefs"));
    let before = namespace.get(&["httproute", "web"])["metadata"]["resourceVersion"].clone();
    let wrote = || {
        let metrics = world.control.get("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with("weft_control_status_writes_total{result=\"written\"}"));
        line.map(str::to_owned).expect("a metric")
    };
    // Other tests write meanwhile; a marker that was written after it shows that this one was looked at again.
    namespace.apply(&route("GRPCRoute", "web").replace("{name: web}", "{name: marker}"));
    said_of(&namespace, "grpcroute/marker", "Accepted", is("True", "Accepted"));
    let after = namespace.get(&["httproute", "web"])["metadata"]["resourceVersion"].clone();
    assert_eq!(before, after, "{}", wrote());
}

#[test]
fn weft_wait_ends_when_it_is_so_and_says_what_is_missing() {
    let (world, _there) = (world(), together());
    let namespace = world.cluster.namespace(&[]);
    namespace.apply(&format!("{SERVICE}{}", route("HTTPRoute", "web")));
    let wait = |args: &[&str]| wait(&world.cluster, namespace.name(), args);
    let done = wait(&["httproute/web", "--for", "applied", "--timeout", "60s"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    namespace.apply(&route("HTTPRoute", "nothing"));
    said_of(
        &namespace,
        "httproute/web",
        "ResolvedRefs",
        is("False", "BackendNotFound"),
    );
    let late = wait(&["httproute/web", "--for", "resolved-refs", "--timeout", "2s"]);
    assert_eq!(late.status.code(), Some(75), "{}", said(&late));
    assert!(said(&late).contains("there is no Service"), "{}", said(&late));
    // It ends with what comes while it waits.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| wait(&["httproute/web", "--for", "resolved-refs", "--timeout", "60s"]));
        namespace.apply(&route("HTTPRoute", "web"));
        let done = waiting.join().expect("it ends");
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    });
    let none = wait(&["httproute/nobody"]);
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    let no_kind = wait(&["trafficpolicy/web"]);
    assert_eq!(no_kind.status.code(), Some(1), "{}", said(&no_kind));
    assert!(said(&no_kind).contains("weft check"), "{}", said(&no_kind));
}

const APPS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: web
      image: SHOP_IMAGE
      command: [web]
      readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: tools, image: TOOLS_IMAGE, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: tools, image: TOOLS_IMAGE, command: [sleep, infinity]}]
";

/// A cluster of its own with Weft installed, from nothing.
fn installed(name: &str) -> Cluster {
    let cluster = Cluster::held(
        name,
        &["--nodes", "1", "--bare", "--crds", "standard"],
        &["weft", "shop", "tools"],
    );
    let printed = Command::new(weft_bin())
        .args(["install", "--set", "control.replicas=2"])
        .output();
    let printed = printed.expect("weft runs");
    assert!(printed.status.success(), "{}", said(&printed));
    cluster.apply(&["--server-side"], &String::from_utf8_lossy(&printed.stdout));
    for deployment in ["deployment/weft-control", "deployment/weft-injector"] {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        let output = cluster.try_kubectl(["-n", "weft-system", "rollout", "status", deployment, &patience]);
        let pods = || said(&cluster.try_kubectl(["-n", "weft-system", "describe", "pods"]));
        assert!(output.status.success(), "{}\n{}", said(&output), pods());
    }
    cluster
}

/// Sends a signal to the proxy of a pod, whose processes have its name as their host's.
#[track_caller]
fn signal(cluster: &str, signal: &str, pod: &str) {
    let script = format!(
        "for pid in $(pgrep -x weft); do \
           if [ \"$(nsenter --target $pid --uts hostname)\" = {pod} ]; then kill -{signal} $pid && echo done; fi; done"
    );
    let node = format!("{cluster}-1");
    let output = x_cluster(["--name", cluster, "node", &node, "sh", "-c", &script]).output();
    let output = output.expect("./x runs");
    assert!(said(&output).contains("done"), "{}", said(&output));
}

/// A route of `web` that answers with this header: an edit that every caller's proxy has to hear of.
fn marked(mark: &str) -> String {
    route("HTTPRoute", "web").replace(
        "rules: [{backendRefs",
        &format!(
            "rules: [{{filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: mark, value: '{mark}'}}]}}}}], \
             backendRefs"
        ),
    )
}

/// The mark that a pod gets from `web` now.
fn mark(namespace: &Namespace<'_>, pod: &str) -> Option<String> {
    let output = namespace.exec(
        pod,
        &["curl", "-sS", "-m", "5", "-D-", "-o/dev/null", "http://web/healthz"],
    );
    let head = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("mark: ").map(str::to_owned));
    line.map(|mark| mark.trim().to_owned())
}

#[test]
fn applied_is_true_when_every_proxy_decides_by_it_and_names_who_does_not() {
    let name = format!("a{}", std::process::id());
    let cluster = installed(&name);
    let namespace = cluster.namespace(&[("weft.dev/inject", "enabled")]);
    let apps = APPS
        .replace("SHOP_IMAGE", &image("shop"))
        .replace("TOOLS_IMAGE", &image("tools"));
    namespace.apply_meshed(&apps);
    for pod in ["web", "one", "two"] {
        namespace.ready(pod);
    }
    namespace.apply(&marked("first"));
    let wait = |timeout: &str| wait(&cluster, namespace.name(), &["httproute/web", "--timeout", timeout]);
    for pod in ["one", "two"] {
        let called = || (mark(&namespace, pod).as_deref() == Some("first")).then_some(());
        until(&format!("{pod} calls web by the route"), called, || {
            format!("{:#}", namespace.get(&["httproute", "web"])["status"])
        });
    }
    said_of(&namespace, "httproute/web", "Applied", is("True", "Acknowledged"));

    // From an edit to the last proxy's acknowledgement; what was waited for is so.
    for edit in ["second", "third"] {
        namespace.apply(&marked(edit));
        let edited = Instant::now();
        let done = wait("30s");
        let took = edited.elapsed();
        assert_eq!(done.status.code(), Some(0), "{}", said(&done));
        assert!(took < Duration::from_secs(1), "{edit}: {took:?}");
        for pod in ["one", "two"] {
            assert_eq!(mark(&namespace, pod).as_deref(), Some(edit), "{pod}");
        }
    }

    // One that is stopped can acknowledge nothing.
    signal(&name, "STOP", "one");
    namespace.apply(&marked("fourth"));
    let one = format!("{}/one", namespace.name());
    let lags = said_of(&namespace, "httproute/web", "Applied", is("False", "Waiting"));
    let message = lags["message"].as_str().unwrap_or_default();
    assert!(message.contains("1 of 2") && message.contains(&one), "{message}");
    let late = wait("1s");
    assert_eq!(late.status.code(), Some(75), "{}", said(&late));
    assert!(said(&late).contains(&one), "{}", said(&late));
    // When its stream is given up, it is told of apart, and holds nobody up.
    let apart = said_of(&namespace, "httproute/web", "Applied", |each| {
        let message = each["message"].as_str().unwrap_or_default();
        each["status"] == "True"
            && message.contains("not connected, and with an older version: ")
            && message.contains(&one)
    });
    assert_eq!(apart["reason"], "Acknowledged");
    signal(&name, "CONT", "one");
    let back = said_of(&namespace, "httproute/web", "Applied", |each| {
        each["status"] == "True" && !each["message"].as_str().unwrap_or_default().contains(&one)
    });
    assert_eq!(back["reason"], "Acknowledged");
    assert_eq!(mark(&namespace, "one").as_deref(), Some("fourth"));
}
