//! Who answers at an endpoint's address must be who discovery says.

use std::process::Command;

use serde_json::Value;
use weft_tests::capture::Capture;
use weft_tests::{Mesh, MeshBuilder};

const MARKER: &str = "marker-1d7e44a2";

fn pod(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec:
  serviceAccountName: {app}
  containers: [{{name: app, command: [web]}}]
"
    )
}

const PLACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/inject: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: caller, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: honest, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: impostor, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: honest, namespace: shop}
spec:
  selector: {app: honest}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

fn places() -> MeshBuilder {
    Mesh::builder()
        .file("places.yaml", PLACES)
        .file("caller.yaml", &pod("caller", "caller"))
        .file("impostor.yaml", &pod("impostor", "impostor"))
        .file("honest.yaml", &pod("honest-1", "honest"))
}

fn of(mesh: &Mesh, name: &str) -> Value {
    mesh.pods(name).remove(0)
}

fn v4(pod: &Value) -> String {
    pod["addresses"][0].as_str().expect("an address").to_owned()
}

/// From now on (`-I`), or not any more (`-D`), the caller's proxy finds the impostor at this address.
#[track_caller]
fn impostor_at(address: &str, mesh: &Mesh, verb: &str) {
    let (pid, impostor) = (of(mesh, "caller")["proxyPid"].to_string(), v4(&of(mesh, "impostor")));
    let output = Command::new("nsenter")
        .args(["-t", &pid, "-n", "iptables", "-w", "-t", "nat", verb, "OUTPUT"])
        .args([
            "-p", "tcp", "-d", address, "--dport", "8080", "-m", "mark", "--mark", "0x5745",
        ])
        .args(["-j", "DNAT", "--to-destination", &impostor])
        .output()
        .expect("nsenter and iptables run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One call with a marker: the head and the body of the answer.
fn call(mesh: &Mesh, host: &str) -> String {
    let (header, url) = (format!("x-marker: {MARKER}"), format!("http://{host}/headers"));
    mesh.exec_ok("shop", "caller", &["curl", "-s", "-i", "-m", "10", "-H", &header, &url])
}

/// Whether the app of this service account was reached, as its proxy tells it.
fn reached(answer: &str, account: &str) -> bool {
    answer.starts_with("HTTP/1.1 200") && answer.contains("By=spiffe://") && answer.contains(&format!("/sa/{account};"))
}

#[test]
fn a_valid_certificate_of_another_account_at_an_endpoints_address_is_refused() {
    let mesh = places().up();
    let address = v4(&of(&mesh, "honest-1"));
    let capture = Capture::begin(&mesh);
    impostor_at(&address, &mesh, "-I");
    // By the Service's name, and by the pod's own address.
    for host in ["honest", &format!("{address}:8080")] {
        let answer = call(&mesh, host);
        assert!(answer.starts_with("HTTP/1.1 502"), "{host}: {answer}");
        let why = answer
            .lines()
            .find(|line| line.to_lowercase().starts_with("proxy-status:"));
        assert!(
            why.is_some_and(|why| why.contains("identity-mismatch")),
            "{host}: {answer}"
        );
    }
    // The impostor is a good peer where it is called by its own name.
    let impostor = v4(&of(&mesh, "impostor"));
    let answer = call(&mesh, &format!("{impostor}:8080"));
    assert!(reached(&answer, "impostor"), "{answer}");

    impostor_at(&address, &mesh, "-D");
    mesh.until("the honest pod is reached again", |_| {
        reached(&call(&mesh, "honest"), "honest")
    });
    let (_, bytes) = capture.end();
    assert!(
        !bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()),
        "a request went out in clear"
    );
}

#[test]
fn where_another_endpoint_is_who_it_should_be_no_request_fails() {
    let mesh = places().file("honest-2.yaml", &pod("honest-2", "honest")).up();
    let address = v4(&of(&mesh, "honest-1"));
    impostor_at(&address, &mesh, "-I");
    let options = ["--count", "200", "--rate", "100"];
    mesh.visit("shop", "caller", "http://honest/headers", &options)
        .none_failed();
    let metrics = mesh.admin("shop", "caller", "/metrics");
    let refused = metrics.lines().any(|line| {
        line.starts_with("weft_endpoint_ejections_total{")
            && line.contains("reason=\"identity-mismatch\"")
            && !line.ends_with(" 0")
    });
    assert!(refused, "the impostor was never tried:\n{metrics}");
    assert!(reached(&call(&mesh, "honest"), "honest"));
}
