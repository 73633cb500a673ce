//! Nothing of an app crosses the wire in clear; and bytes that are no HTTP get to an app that is there.

use std::net::IpAddr;

use weft_tests::capture::Capture;
use weft_tests::shop::{FILES, manifest};
use weft_tests::{Mesh, MeshBuilder};

const MARKER: &str = "marker-7f3a9c51";

/// Starts with the places only, so that a capture sees the very first packet of every pod.
pub(crate) fn nothing_but_places() -> MeshBuilder {
    Mesh::builder()
        .file("cluster.yaml", manifest("cluster.yaml"))
        .without_waiting()
}

pub(crate) fn nothing_in_clear(builder: MeshBuilder, address_prefix: &str) {
    let mut mesh = builder.up();
    mesh.answers();
    let capture = Capture::begin(&mesh);
    for (file, text) in FILES {
        mesh.write(file, text);
    }
    mesh.until("ten pods are ready", |status| {
        let pods = status["pods"].as_array().expect("pods");
        pods.len() == 10 && pods.iter().all(|pod| pod["ready"] == true)
    });
    mesh.ready();
    let url = format!("http://web/products/{MARKER}");
    mesh.visit(
        "shop",
        "visitor",
        &url,
        &["--count", "50", "-H", &format!("x-request-id: {MARKER}")],
    )
    .none_failed();

    // Directly by address too.
    let reviews = &mesh.pods("reviews-v1-west")[0];
    for address in addresses(reviews) {
        let url = match address {
            IpAddr::V4(v4) => format!("http://{v4}:8080/reviews/{MARKER}"),
            IpAddr::V6(v6) => format!("http://[{v6}]:8080/reviews/{MARKER}"),
        };
        mesh.visit("shop", "visitor", &url, &["--count", "5"]).none_failed();
    }

    let meshed: Vec<IpAddr> = mesh.status()["pods"]
        .as_array()
        .expect("pods")
        .iter()
        .filter(|pod| pod["namespace"] == "shop")
        .flat_map(addresses)
        .collect();
    assert!(
        meshed
            .iter()
            .any(|address| address.to_string().starts_with(address_prefix)),
        "{meshed:?}"
    );
    let (streams, bytes) = capture.end();
    let between: Vec<_> = streams
        .iter()
        .filter(|(flow, _)| meshed.contains(&flow.from.ip()) && meshed.contains(&flow.to.ip()))
        .collect();
    assert!(
        between.iter().any(|(_, stream)| stream.joined().len() > 1000),
        "the capture saw no traffic between pods"
    );
    for (flow, stream) in between {
        assert!(
            stream.is_tls(),
            "{flow:?} is not TLS: {:?}",
            String::from_utf8_lossy(&stream.joined())
        );
    }
    let marker = MARKER.as_bytes();
    assert!(
        !bytes.windows(marker.len()).any(|window| window == marker),
        "the marker crossed the wire in clear"
    );
}

fn addresses(pod: &serde_json::Value) -> Vec<IpAddr> {
    let list = pod["addresses"].as_array().expect("addresses");
    list.iter()
        .map(|address| address.as_str().expect("text").parse().expect("an address"))
        .collect()
}

#[test]
fn between_meshed_pods_every_payload_is_tls_from_the_first_packet_on() {
    nothing_in_clear(nothing_but_places(), "10.");
}

#[test]
fn so_it_is_on_shared_address_space_and_on_a_global_v6_prefix() {
    let elsewhere = nothing_but_places()
        .arg("--pod-cidr=100.64.0.0/16")
        .arg("--pod-cidr=2001:db8:7::/64");
    nothing_in_clear(elsewhere, "100.64.");
}

#[test]
fn a_capture_would_see_the_marker_where_there_is_no_mesh() {
    let plain = manifest("cluster.yaml").replace("weft.dev/inject: enabled", "weft.dev/inject: disabled");
    let mesh = FILES
        .iter()
        .filter(|(file, _)| *file != "routes.yaml")
        .fold(Mesh::builder(), |m, (file, text)| m.file(file, text));
    let mesh = mesh.file("cluster.yaml", &plain).up();
    let capture = Capture::begin(&mesh);
    mesh.visit("shop", "visitor", &format!("http://web/products/{MARKER}"), &[])
        .none_failed();
    weft_tests::host::until("the capture has the marker", || capture.has_seen(MARKER.as_bytes()));
}

/// Two pods behind one Service of which nothing is declared, and one of them has no app. The other answers ZooKeeper's
/// four-letter words, without waiting for the end of a line.
const WORDS: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: guests
  labels: {weft.dev/inject: enabled}
  annotations: {config.weft.dev/inbound: strict}
---
apiVersion: v1
kind: Node
metadata: {name: here, labels: {topology.kubernetes.io/region: one, topology.kubernetes.io/zone: one-a}}
---
apiVersion: v1
kind: Node
metadata: {name: elsewhere, labels: {topology.kubernetes.io/region: two, topology.kubernetes.io/zone: two-a}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: guests}
spec:
  nodeName: here
  containers: [{name: client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: idle, namespace: guests, labels: {app: words}}
spec:
  nodeName: here
  containers: [{name: idle, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: words, namespace: guests, labels: {app: words}}
spec:
  nodeName: elsewhere
  containers:
    - name: words
      command:
        - python3
        - -c
        - |
          import socket
          server = socket.create_server(("::", 2181), family=socket.AF_INET6, dualstack_ipv6=True)
          while True:
              connection, _ = server.accept()
              if connection.recv(4, socket.MSG_WAITALL) == b"ruok":
                  connection.sendall(b"imok")
              connection.close()
      readinessProbe: {tcpSocket: {port: 2181}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: words, namespace: guests}
spec:
  selector: {app: words}
  ports: [{port: 2181}]
"#;

#[test]
fn a_bare_word_is_answered_by_the_app_that_is_there() {
    let mesh = Mesh::builder().file("words.yaml", WORDS).up();
    let ask = "exec 3<>/dev/tcp/words/2181; printf ruok >&3; timeout 3 head -c 4 <&3";
    for _ in 0..20 {
        assert_eq!(mesh.exec_ok("guests", "client", &["bash", "-c", ask]), "imok");
    }
    let metrics = mesh.admin("guests", "idle", "/metrics");
    let turned_away = |line: &str| line.starts_with("weft_refusals_total{") && line.contains("app-unreachable");
    // The pod without the app is the nearer one: the first word goes there.
    assert!(metrics.lines().any(turned_away), "no word was turned away: {metrics}");
}
