//! Certificates that end soon are renewed, and nobody notices; those that ended are not used.

use std::time::Duration;

use nix::sys::signal::Signal;
use weft_tests::Mesh;
use weft_tests::shop::shop;

/// In the shop's namespace, which is strict.
const REDIS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: redis, namespace: shop, labels: {app: redis}}
spec:
  containers:
    - name: redis
      command: [redis-server, --port, '6379', --bind, '* -::*', --protected-mode, 'no', --save, '', --dir, /tmp]
      readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: shop}
spec:
  selector: {app: redis}
  ports: [{name: tcp-redis, port: 6379}]
";

/// The value of a metric without labels, or with exactly these.
#[track_caller]
fn metric(mesh: &Mesh, pod: &str, name: &str) -> f64 {
    let metrics = mesh.admin("shop", pod, "/metrics");
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{pod} has no {name}:\n{metrics}"))
}

#[test]
fn certificates_are_renewed_under_load_without_a_failed_request_or_a_lost_connection() {
    let mesh = shop().file("redis.yaml", REDIS).arg("--leaf-lifetime=10s").up();
    let pods: Vec<String> = mesh
        .pods("")
        .iter()
        .filter(|pod| pod["meshed"] == true)
        .map(|pod| pod["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(pods.len(), 10, "{pods:?}");
    let ends: Vec<u64> = pods.iter().map(|pod| not_after(&mesh, pod)).collect();

    let options = ["--rate", "100", "--count", "100000", "--seconds", "25"];
    let load = mesh.visit_beside("shop", "visitor", "http://web/products/1", &options);
    // The server's number of a connection: redis-cli would connect again without a word.
    let asks = "for i in $(seq 24); do echo CLIENT ID; sleep 1; done | redis-cli -h redis";
    let opaque = mesh.spawn("shop", "visitor", &["sh", "-c", asks]);
    for _ in 0..24 {
        // Each a connection, and a handshake, of its own.
        assert_eq!(
            mesh.exec_ok("shop", "visitor", &["redis-cli", "-h", "redis", "ping"]),
            "PONG\n"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    let tally = load.tally();
    assert!(tally.none_failed().calls() > 2000, "{:#}", tally.0);
    let numbers = opaque.output();
    let first = numbers.lines().next().expect("an answer");
    assert!(first.parse::<u64>().is_ok(), "{numbers}");
    assert!(
        numbers.lines().count() == 24 && numbers.lines().all(|number| number == first),
        "{numbers}"
    );

    for (pod, end) in pods.iter().zip(ends) {
        // Over 25 seconds, of which a certificate lives 10 and is renewed after two thirds.
        let issued = metric(&mesh, pod, "weft_identity_issues_total{outcome=\"issued\"}");
        assert!(issued >= 3.0, "{pod}: {issued} certificates");
        let left = metric(&mesh, pod, "weft_leaf_expiry_seconds");
        assert!(left > 0.0 && left < 10.0, "{pod}: {left} s are left");
        assert!(not_after(&mesh, pod) >= end + 10, "{pod}: not renewed");
    }
}

fn not_after(mesh: &Mesh, pod: &str) -> u64 {
    mesh.config("shop", pod)["identity"]["not_after_unix"]
        .as_u64()
        .expect("a certificate")
}

#[test]
fn a_certificate_that_ended_opens_no_connection_until_there_is_a_new_one() {
    let mesh = shop().file("redis.yaml", REDIS).arg("--leaf-lifetime=4s").up();
    let ping = || {
        mesh.exec("shop", "visitor", &["timeout", "5", "redis-cli", "-h", "redis", "ping"])
            .stdout
            == b"PONG\n"
    };
    assert!(ping());
    // Stopped, and not killed: a new one would issue at once.
    mesh.signal_control(Signal::SIGSTOP);
    mesh.until("the certificates have ended", |_| {
        ["visitor", "redis"]
            .iter()
            .all(|pod| metric(&mesh, pod, "weft_leaf_expiry_seconds") == 0.0)
    });
    // The certificates' own end is in whole seconds, and may lie up to one later.
    let end = ["visitor", "redis"].map(|pod| not_after(&mesh, pod)).into_iter().max();
    let now = || std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
    mesh.until("their last second is over", |_| Some(now()) > end.map(|end| end + 1));
    assert!(!ping(), "a connection was opened with a certificate that had ended");
    mesh.signal_control(Signal::SIGCONT);
    mesh.until("there is a connection again", |_| ping());
}
