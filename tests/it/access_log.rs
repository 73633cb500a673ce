//! The access log of a running pod, switched without a restart; and what detection found, on the loopback.

use serde_json::Value;
use weft_tests::Mesh;
use weft_tests::host::until;
use weft_tests::shop::shop;

/// What the proxy of a pod has written to its standard output.
fn lines(mesh: &Mesh, pod: &str) -> Vec<Value> {
    let output = mesh.weft("logs", ["-n", "shop", pod, "-c", "weft-proxy"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line.get("weft.direction").is_some())
        .collect()
}

fn switch(mesh: &Mesh, args: &[&str]) -> String {
    let output = mesh.weft("access-log", [&["-n", "shop", "visitor"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace whose pods begin with their access logs on, but for one.
const LOUD: &str = "
apiVersion: v1
kind: Service
metadata: {name: nobody-calls, namespace: shop}
spec: {selector: {app: nobody}, ports: [{port: 4000}]}
---
apiVersion: v1
kind: Namespace
metadata:
  name: loud
  labels: {weft.dev/inject: enabled}
  annotations: {config.weft.dev/access-log: 'on'}
---
apiVersion: v1
kind: Pod
metadata: {name: loud, namespace: loud}
spec: {containers: [{name: app, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: quiet, namespace: loud, annotations: {config.weft.dev/access-log: 'off'}}
spec: {containers: [{name: app, command: [sleep, infinity]}]}
";

#[test]
fn a_pods_access_log_begins_as_its_annotation_says_and_is_switched_while_it_runs() {
    let mesh = shop().file("loud.yaml", LOUD).up();
    for (pod, said) in [("loud", "on\n"), ("quiet", "off\n")] {
        let output = mesh.weft("access-log", ["-n", "loud", pod]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{pod}");
    }
    let visit = |path: &str| {
        let url = format!("http://reviews{path}");
        mesh.visit("shop", "visitor", &url, &["--count", "1"]).none_failed();
    };
    assert_eq!(switch(&mesh, &[]), "off\n");
    visit("/reviews/1?before=1");
    assert_eq!(switch(&mesh, &["on"]), "on\n");
    visit("/reviews/2?secret=1");
    until("the request is logged", || !lines(&mesh, "visitor").is_empty());
    assert_eq!(switch(&mesh, &["off"]), "off\n");
    visit("/reviews/3");
    assert_eq!(switch(&mesh, &["on"]), "on\n");
    visit("/reviews/4");
    until("the log is on again", || lines(&mesh, "visitor").len() >= 2);
    let lines = lines(&mesh, "visitor");
    let paths: Vec<_> = lines
        .iter()
        .map(|line| line["url.path"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(paths, ["/reviews/2", "/reviews/4"], "{lines:#?}");
    let line = &lines[0];
    assert_eq!(line["http.response.status_code"], 200, "{line:#}");
    for (field, part) in [
        ("weft.source.identity", "spiffe://"),
        ("weft.destination.identity", "spiffe://"),
        ("weft.endpoint.pod", "shop/reviews-"),
        ("weft.route.object", "HTTPRoute shop/"),
    ] {
        assert!(
            line[field].as_str().is_some_and(|said| said.contains(part)),
            "{field} of {line:#}"
        );
    }
    assert!(!line.to_string().contains("secret"), "{line:#}");
    let pod = mesh.weft("access-log", ["-n", "shop", "nobody", "on"]);
    assert_eq!(pod.status.code(), Some(1), "a pod that is not there");
    let config = mesh.config("shop", "visitor");
    let detected = config["detected"].as_array().expect("what was detected");
    assert!(
        detected
            .iter()
            .any(|one| one["protocol"] == "http/1" && one["direction"] == "outbound"),
        "{detected:#?}"
    );
    status_says_what_each_port_speaks(&mesh);
}

fn status_says_what_each_port_speaks(mesh: &Mesh) {
    let status = mesh.status();
    let service = |name: &str| {
        let services = status["services"].as_array().expect("services");
        services.iter().find(|service| service["name"] == name).expect(name)["ports"][0].clone()
    };
    let reviews = service("reviews");
    assert_eq!(reviews["declared"]["protocol"], "http", "{reviews:#}");
    assert_eq!(reviews["detected"][0]["protocol"], "http/1", "{reviews:#}");
    let ratings = service("ratings");
    assert_eq!(ratings["declared"]["by"], "appProtocol", "{ratings:#}");
    let text = mesh.weft("status", ["-n", "shop"]);
    let text = String::from_utf8_lossy(&text.stdout);
    for said in ["gRPC (appProtocol)", "HTTP/1.1 (port name)", "not seen yet"] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
}
