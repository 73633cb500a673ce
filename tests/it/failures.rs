//! What goes on when pods, proxies and the control plane die.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_tests::shop::{manifest, shop};
use weft_tests::{Background, Mesh, Tally};

const REVIEWS: &str = "http://reviews/reviews/1";

fn region(mesh: &Mesh, pod: &str) -> String {
    let pods = mesh.pods(pod);
    pods.first()
        .and_then(|pod| pod["region"].as_str())
        .unwrap_or("gone")
        .to_owned()
}

#[track_caller]
fn all_from(mesh: &Mesh, wanted: &str) {
    let tally = mesh.visit("shop", "visitor", REVIEWS, &["--count", "60"]);
    for pod in tally.none_failed().pods() {
        assert_eq!(region(mesh, &pod), wanted, "{pod}");
    }
}

#[test]
fn a_region_is_lost_pod_by_pod_and_comes_back_without_a_failed_request() {
    let mesh = shop().up();
    all_from(&mesh, "west");
    let load = mesh.visit_beside(
        "shop",
        "visitor",
        REVIEWS,
        &["--rate", "200", "--count", "100000", "--seconds", "15"],
    );
    let text = manifest("reviews.yaml");
    let west = |status: &Value, n: usize| {
        let pods = status["pods"].as_array().expect("pods").iter();
        let west: Vec<_> = pods
            .filter(|p| p["region"] == "west" && p["name"].as_str().is_some_and(|name| name.starts_with("reviews-")))
            .collect();
        west.len() == n && west.iter().all(|pod| pod["ready"] == true)
    };
    let fewer = text.replace("replicas: 2", "replicas: 1");
    mesh.write("reviews.yaml", &fewer);
    mesh.until("two are left in the west", |status| west(status, 2));
    mesh.write("reviews.yaml", &fewer.replacen("replicas: 1", "replicas: 0", 1));
    mesh.until("one is left in the west", |status| west(status, 1));
    mesh.write(
        "reviews.yaml",
        &text
            .replace("replicas: 2", "replicas: 0")
            .replace("replicas: 1", "replicas: 0"),
    );
    mesh.until("none is left in the west", |status| west(status, 0));
    all_from(&mesh, "east");
    let metrics = mesh.admin("shop", "visitor", "/metrics");
    let spilled = metrics
        .lines()
        .any(|line| line.starts_with("weft_spillover_total{") && !line.ends_with(" 0"));
    assert!(spilled, "the metrics do not say that traffic spilled over:\n{metrics}");
    mesh.write("reviews.yaml", text);
    mesh.until("three are back in the west", |status| west(status, 3));
    all_from(&mesh, "west");
    load.tally().none_failed();
}

/// An app outside the mesh, beside the shop's that is inside.
const KIOSK: &str = "
apiVersion: v1
kind: Service
metadata: {name: kiosk, namespace: street}
spec:
  selector: {app: kiosk}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kiosk, namespace: street}
spec:
  replicas: 4
  selector: {matchLabels: {app: kiosk}}
  template:
    metadata: {labels: {app: kiosk}}
    spec:
      containers:
        - name: kiosk
          command: [reviews]
          env: [{name: VERSION, value: v1}]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
";

#[test]
fn new_connections_find_a_deployment_that_scales_and_rolls_inside_the_mesh_and_outside() {
    let inside = "
apiVersion: v1
kind: Namespace
metadata: {name: fair, labels: {weft.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: fair}
spec: {containers: [{name: guest, command: [visitor]}]}
---
"
    .to_owned()
        + &KIOSK.replace("street", "fair");
    let mesh = shop().file("kiosk.yaml", KIOSK).file("fair.yaml", &inside).up();
    let ready = |wanted: usize, version: &'static str| {
        move |status: &Value| {
            let pods = status["pods"].as_array().expect("pods").iter();
            let kiosks: Vec<_> = pods
                .filter(|pod| pod["name"].as_str().is_some_and(|name| name.starts_with("kiosk-")))
                .collect();
            let all = kiosks.len() == 2 * wanted && kiosks.iter().all(|pod| pod["ready"] == true);
            all && kiosks.iter().all(|pod| pod["version"] == version)
        }
    };
    let load = ["--fresh", "--rate", "100", "--count", "100000", "--seconds", "20"];
    let calls = [
        mesh.visit_beside("fair", "guest", "http://kiosk/healthz", &load),
        mesh.visit_beside("street", "stranger", "http://kiosk/healthz", &load),
    ];
    let edit = |from: &str, to: &str| {
        mesh.write("kiosk.yaml", &KIOSK.replace(from, to));
        mesh.write("fair.yaml", &inside.replace(from, to));
    };
    edit("replicas: 4", "replicas: 1");
    mesh.until("one of each is left", ready(1, ""));
    edit("replicas: 4", "replicas: 5");
    mesh.until("there are five of each", ready(5, ""));
    edit("labels: {app: kiosk}}", "labels: {app: kiosk, version: v2}}");
    mesh.until("four new ones of each have come", ready(4, "v2"));
    let [inside, outside] = calls.map(Background::tally);
    let failed = |tally: &Tally| tally.calls() == 0 || tally.ok() < tally.calls();
    assert!(
        !failed(&inside) && !failed(&outside),
        "inside: {inside:#?}\noutside: {outside:#?}"
    );
}

/// Sets a flag when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the control plane as often as it comes back, for as long as the story lasts.
fn without_control_plane<T>(mesh: &Mesh, story: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills = 0;
            while !over.load(Ordering::Relaxed) {
                for pid in mesh.control_pids() {
                    // It may be gone already.
                    kills += u32::from(kill(pid, Signal::SIGKILL).is_ok());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            kills
        });
        let told = {
            let _over = Over(&over);
            story()
        };
        assert!(
            killer.join().expect("the killer") > 0,
            "the control plane was never killed"
        );
        told
    })
}

/// Makes every proxy learn the destinations of its app: a proxy knows what it was asked for.
fn everybody_knows_everybody(mesh: &Mesh) {
    mesh.visit("shop", "visitor", "http://web/products/1", &["--count", "20"])
        .none_failed();
    for pod in mesh.pods("reviews-") {
        let address = pod["addresses"][0].as_str().expect("an address");
        mesh.visit("shop", "visitor", &format!("http://{address}:8080/reviews/1"), &[])
            .none_failed();
    }
    mesh.visit("shop", "visitor", REVIEWS, &["--count", "20"]).none_failed();
}

#[test]
fn without_the_control_plane_requests_go_on_also_over_new_connections() {
    let mesh = shop().up();
    everybody_knows_everybody(&mesh);
    without_control_plane(&mesh, || {
        let options = ["--rate", "100", "--count", "100000", "--seconds", "8"];
        let load = mesh.visit_beside("shop", "visitor", "http://web/products/1", &options);
        for _ in 0..5 {
            mesh.visit("shop", "visitor", REVIEWS, &["--count", "10"]).none_failed();
        }
        load.tally().none_failed();
    });
}

#[test]
fn a_killed_proxy_serves_again_from_its_snapshot_while_the_control_plane_is_gone() {
    let mesh = shop().up();
    let pod = mesh.pods("web-")[0]["name"].as_str().expect("a name").to_owned();
    let before = snapshots(&mesh, &pod);
    everybody_knows_everybody(&mesh);
    let web = &mesh.pods("web-")[0];
    let (name, proxy) = (
        web["name"].as_str().expect("a name").to_owned(),
        container_pid(web, "weft-proxy"),
    );
    // It is written a moment after something was learnt.
    weft_tests::host::until("a snapshot was written", || snapshots(&mesh, &pod) != before);
    without_control_plane(&mesh, || {
        let options = ["--rate", "100", "--count", "100000", "--seconds", "6"];
        let others = mesh.visit_beside("shop", "visitor", REVIEWS, &options);
        kill(proxy, Signal::SIGKILL).expect("the proxy runs");
        mesh.until("another proxy runs in the pod", |status| {
            let pods = status["pods"].as_array().expect("pods");
            let pod = pods.iter().find(|pod| pod["name"] == *name).expect("the pod");
            pod["ready"] == true && container_pid(pod, "weft-proxy") != proxy
        });
        mesh.visit("shop", "visitor", "http://web/products/1", &["--count", "50"])
            .none_failed();
        others.tally().none_failed();
    });
}

/// How often a pod's proxy has written its snapshot.
fn snapshots(mesh: &Mesh, pod: &str) -> String {
    let metrics = mesh.admin("shop", pod, "/metrics");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("weft_snapshot_writes_total{outcome=\"written\"}"));
    line.unwrap_or_default().to_owned()
}

fn container_pid(pod: &Value, name: &str) -> Pid {
    let containers = pod["containers"].as_array().expect("containers");
    let container = containers
        .iter()
        .find(|container| container["name"] == *name)
        .expect("the container");
    Pid::from_raw(i32::try_from(container["pid"].as_i64().unwrap_or(0)).expect("a pid"))
}

#[test]
fn an_edited_route_reaches_all_proxies_under_load_without_a_failed_request() {
    let mesh = shop().up();
    let options = ["--rate", "200", "--count", "100000", "--seconds", "8"];
    let load = mesh.visit_beside("shop", "visitor", REVIEWS, &options);
    let halves = manifest("routes.yaml")
        .replace("weight: 90", "weight: 50")
        .replace("weight: 10", "weight: 50");
    mesh.write("routes.yaml", &halves);
    let even = |mesh: &Mesh| {
        let tally = mesh.visit("shop", "visitor", REVIEWS, &["--count", "2000"]);
        tally.none_failed().version("v1") as f64 / tally.calls() as f64
    };
    mesh.until("every proxy concerned has acknowledged the new route", |status| {
        status["routes"].as_array().into_iter().flatten().any(|route| {
            route["name"] == "reviews"
                && route["waiting"].as_array().is_none_or(Vec::is_empty)
                && acknowledged_new(&mesh)
        })
    });
    let share = even(&mesh);
    assert!((share - 0.5).abs() <= 0.04, "{share}");
    load.tally().none_failed();
}

/// Whether the visitor's proxy decides by the new weights.
fn acknowledged_new(mesh: &Mesh) -> bool {
    !mesh.config("shop", "visitor").to_string().contains("\"weight\":90")
}
