//! Streams go where TCPRoutes and TLSRoutes say, and to the places that policies say.

use serde_json::Value;
use weft_tests::Mesh;

use crate::conformance::ask::{Ask, line, tls};
use crate::conformance::{has, programs};

const STORES: &str = include_str!("../data/streams.yaml");

/// A policy on the stores.
fn policy(name: &str, locality: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: stores}}
spec:
  targetRefs: [{{group: '', kind: Service, name: store}}]
  balancer: RoundRobin
  locality: {locality}
"
    )
}

/// Puts a policy in the place of the one before, and waits until every proxy that needs it decides by it.
fn apply(mesh: &Mesh, name: &str, locality: &str) {
    mesh.write("policy.yaml", &policy(name, locality));
    mesh.until(&format!("all proxies go by {name}"), |status| {
        let objects = status["objects"].as_array().map_or(&[][..], Vec::as_slice);
        let policy = objects.iter().find(|object| object["name"] == name);
        policy.is_some_and(|policy| has(policy, ["Applied", "True", "Acknowledged"]))
    });
}

/// Asks from the client, who must get what each question wants.
#[track_caller]
fn ask(mesh: &Mesh, asks: &[Ask]) {
    let questions: Value = asks.iter().map(|ask| ask.question("")).collect();
    let said = mesh.exec_ok(
        "stores",
        "client",
        &["/usr/bin/python3", "/app/ask.py", &questions.to_string()],
    );
    let came: Value = serde_json::from_str(&said).expect("the client's JSON");
    for (at, ask) in asks.iter().enumerate() {
        let wrong = ask.wrong(&came[at]);
        assert!(wrong.is_empty(), "{}: {wrong:#?}", ask.title());
    }
}

/// Three quarters of the streams, and TLS for the vault, reach the store of a place; the rest, and TLS for others, the next.
#[track_caller]
fn reach(mesh: &Mesh, store: &'static str) {
    let lines = line()
        .to("store:9090")
        .shares(400, &[(store, 0.75), ("store-next", 0.25)]);
    let mut asks = vec![lines];
    for _ in 0..5 {
        asks.push(tls("vault.example.com").to("store:443").backend(store));
        asks.push(tls("other.example.com").to("store:443").backend("store-next"));
    }
    asks.push(tls("vault.example.org").to("store:443").status(-1));
    ask(mesh, &asks);
}

#[test]
fn streams_are_split_by_weight_and_go_to_the_places_of_a_policy_and_on_where_an_app_is_gone() {
    let mesh = Mesh::builder()
        .file("stores.yaml", STORES)
        .file("programs.yaml", &programs(&["stores"]))
        .up();
    reach(&mesh, "store-west");
    apply(
        &mesh,
        "eastward",
        "{distribute: [{from: west, to: [{region: east, weight: 1}]}]}",
    );
    reach(&mesh, "store-east");
    apply(&mesh, "homeward", "{prefer: Region}");
    reach(&mesh, "store-west");
    // The app of the west ends, its pod stays: each stream goes on in the east, with what the client has said already.
    let stop = "import socket; s = socket.create_connection(('127.0.0.1', 9090)); s.sendall(b'stop\\n'); s.recv(1)";
    mesh.exec_ok("stores", "store-west", &["/usr/bin/python3", "-c", stop]);
    reach(&mesh, "store-east");
}
