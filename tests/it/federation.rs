//! Clusters that share Services: two control planes, roots and trust domains, and what crosses between them.

use std::collections::BTreeMap;
use std::process::Output;
use std::thread;

use serde_json::Value;
use weft_tests::Clusters;
use weft_tests::host::until;

/// Answers with its cluster, its pod and who calls.
const APP: &str = r#"
import http.server, os
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        who = self.headers.get("x-forwarded-client-cert") or "nobody"
        body = f"{os.environ['CLUSTER']} {who}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", 8080), App).serve_forever()
"#;

/// Calls as often as it is told, one after the other, and counts what is answered by whom.
const LOAD: &str = r#"
import collections, http.client, sys, time
count = collections.Counter()
host, calls = sys.argv[1], int(sys.argv[2])
connection = None
for _ in range(calls):
    try:
        connection = connection or http.client.HTTPConnection(host, 80, timeout=5)
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
        count[body.split()[0] if answer.status == 200 else f"failed {answer.status} {body}"] += 1
    except Exception as error:
        count[f"failed {error!r}"] += 1
        connection = None
    time.sleep(0.01)
for who, number in count.items():
    print(number, who)
"#;

/// A strict namespace with the Service reviews, exported, and a client.
fn shop(cluster: &str, replicas: u32) -> String {
    let app = serde_json::to_string(APP).expect("text");
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{weft.dev/inject: enabled}}, annotations: {{config.weft.dev/inbound: strict}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec: {{selector: {{app: reviews}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: reviews, namespace: shop}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: reviews}}}}
  template:
    metadata: {{labels: {{app: reviews}}}}
    spec:
      containers:
      - name: reviews
        command: [/usr/bin/python3, -c, {app}]
        env: [{{name: CLUSTER, value: {cluster}}}]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop}}
spec: {{containers: [{{name: client, command: [sleep, infinity]}}]}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: reviews, namespace: shop}}
"#
    )
}

fn two(mode: &str) -> Clusters {
    let clusters = Clusters::builder()
        .cluster("a", &shop("a", 2))
        .cluster("b", &shop("b", 2))
        .arg(mode)
        .up();
    clusters.link_up("a", "b");
    clusters
}

fn client(clusters: &Clusters, from: &str, command: &[&str]) -> Output {
    let whole = [&["-n", "shop", "client", "--"], command].concat();
    clusters.weft(from, "exec", &whole)
}

/// So many calls of reviews from a cluster's client: how many were answered by whom.
#[track_caller]
fn calls(clusters: &Clusters, from: &str, number: u32) -> BTreeMap<String, u32> {
    let number = number.to_string();
    let output = client(clusters, from, &["/usr/bin/python3", "-c", LOAD, "reviews", &number]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let count = |line: &str| {
        let (count, who) = line.split_once(' ').expect("a count");
        (who.to_owned(), count.parse().expect("a number"))
    };
    said.lines().map(count).collect()
}

fn peer(clusters: &Clusters, here: &str, there: &str) -> Value {
    let peers = clusters.peers(here);
    let mut all = peers.as_array().expect("peers").iter();
    let found = all.find(|peer| peer["cluster"] == clusters.name(there));
    found.cloned().unwrap_or_default()
}

fn state(clusters: &Clusters, here: &str, there: &str) -> String {
    peer(clusters, here, there)["link"]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Own endpoints first; when they are gone the other cluster's, and back, under load and without a failed request.
#[track_caller]
fn fails_over_and_back(mode: &str) {
    let clusters = two(mode);
    assert_eq!(calls(&clusters, "a", 50), BTreeMap::from([("a".to_owned(), 50)]));
    let answered = thread::scope(|scope| {
        let load = scope.spawn(|| calls(&clusters, "a", 1000));
        clusters.manifest("a", "all.yaml", &shop("a", 0));
        until("b serves a's clients", || calls(&clusters, "a", 1).contains_key("b"));
        clusters.manifest("a", "all.yaml", &shop("a", 2));
        until("a serves them again", || calls(&clusters, "a", 1).contains_key("a"));
        load.join().expect("the load")
    });
    assert!(answered.keys().all(|who| who == "a" || who == "b"), "{answered:?}");
    assert!(
        answered.len() == 2 && answered.values().sum::<u32>() == 1000,
        "{answered:?}"
    );
}

#[test]
fn a_service_fails_over_to_the_other_cluster_and_back_in_a_flat_network() {
    fails_over_and_back("--flat");
}

#[test]
fn a_service_fails_over_to_the_other_cluster_and_back_through_its_gateways_where_networks_overlap() {
    fails_over_and_back("--overlapping-networks");
}

#[test]
fn the_identity_that_the_app_sees_is_the_other_clusters_own() {
    let clusters = two("--flat");
    clusters.manifest("a", "all.yaml", &shop("a", 0));
    until("b serves a's clients", || calls(&clusters, "a", 1).contains_key("b"));
    let output = client(&clusters, "a", &["/usr/bin/curl", "-s", "http://reviews/"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let (a, b) = (clusters.name("a"), clusters.name("b"));
    let who = |cluster: &str, account: &str| format!("spiffe://{cluster}.weft.internal/ns/shop/sa/{account}");
    let want = format!("b By={};URI={}", who(b, "default"), who(a, "default"));
    assert_eq!(said, want);
}

#[test]
fn a_gateway_sees_nothing_of_what_the_control_plane_keeps() {
    let clusters = two("--overlapping-networks");
    let sees = |pod: &str| {
        let list = [
            "-n",
            "weft-system",
            pod,
            "--",
            "/usr/bin/find",
            "/run/weft/mesh/control",
            "-maxdepth",
            "1",
        ];
        clusters.weft("a", "exec", &list).status.success()
    };
    assert!(sees("weft-control"));
    assert!(!sees("weft-gateway-1") && !sees("weft-gateway-2"));
}

#[test]
fn a_workload_of_the_other_cluster_reaches_no_port_that_is_not_exported() {
    let clusters = two("--flat");
    let target = clusters.addresses_in("b", "shop", "reviews-");
    let call = |port: u16| {
        let url = format!("http://{}:{port}/", target[0]);
        let output = client(&clusters, "a", &["/usr/bin/curl", "-s", "-m", "5", "-i", &url]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The port that is exported, by the pod's address: its identity is known here.
    assert!(call(8080).contains("200 OK"), "{}", call(8080));
    // Another one of the same pod: the other side has nothing exported there.
    let said = call(8081);
    assert!(
        said.contains("403 Forbidden") && said.contains("foreign-trust-domain"),
        "{said}"
    );
    // Nor the first one any more, once it is not exported.
    clusters.manifest(
        "b",
        "all.yaml",
        &shop("b", 2).replace(
            "kind: ServiceExport\nmetadata: {name: reviews",
            "kind: ServiceExport\nmetadata: {name: nothing",
        ),
    );
    until("it is refused", || !call(8080).contains("200 OK"));
}

#[test]
fn a_link_that_is_cut_keeps_the_others_endpoints_marked_stale_and_heals_within_seconds() {
    let clusters = two("--flat");
    let told = |here: &str| peer(&clusters, here, if here == "a" { "b" } else { "a" })["imported"].clone();
    let before = told("a");
    assert_eq!(before[0]["endpoints"], 2, "{before}");
    clusters.link("cut", "a", "b", &[]);
    until("both know that the link is broken", || {
        state(&clusters, "a", "b") == "Stale" && state(&clusters, "b", "a") == "Stale"
    });
    assert_eq!(told("a"), before, "and keep what they knew");
    assert_eq!(calls(&clusters, "a", 100), BTreeMap::from([("a".to_owned(), 100)]));
    // What changes meanwhile on the other side is heard when it is healed.
    clusters.manifest("b", "all.yaml", &shop("b", 1));
    clusters.link("heal", "a", "b", &[]);
    until("the link is healed", || state(&clusters, "a", "b") == "Connected");
    until("and what changed is known", || told("a")[0]["endpoints"] == 1);
}

#[test]
fn a_link_that_is_cut_one_way_is_told_by_both() {
    let clusters = two("--overlapping-networks");
    clusters.link("cut", "a", "b", &["--one-way"]);
    until("both know that the link is broken", || {
        state(&clusters, "a", "b") == "Stale" && state(&clusters, "b", "a") == "Stale"
    });
    assert_eq!(calls(&clusters, "a", 50), BTreeMap::from([("a".to_owned(), 50)]));
    clusters.link("heal", "a", "b", &[]);
    until("the link is healed", || {
        state(&clusters, "a", "b") == "Connected" && state(&clusters, "b", "a") == "Connected"
    });
}

#[test]
fn three_clusters_share_in_a_triangle_and_one_link_down_leaves_the_others() {
    let clusters = Clusters::builder()
        .cluster("a", &shop("a", 0))
        .cluster("b", &shop("b", 1))
        .cluster("c", &shop("c", 1))
        .up();
    for (one, other) in [("a", "b"), ("b", "c"), ("a", "c")] {
        clusters.link_up(one, other);
    }
    let answer = |want: &[&str]| {
        let answered = calls(&clusters, "a", 60);
        answered.keys().map(String::as_str).eq(want.iter().copied())
    };
    until("both serve a's clients", || answer(&["b", "c"]));
    // Traffic and link to b are cut; the rest goes on.
    clusters.link("cut", "a", "b", &[]);
    until("c serves a's clients alone", || answer(&["c"]));
    assert_eq!(state(&clusters, "b", "c"), "Connected");
    assert_eq!(calls(&clusters, "b", 20), BTreeMap::from([("b".to_owned(), 20)]));
    clusters.link("heal", "a", "b", &[]);
    until("both serve them again", || answer(&["b", "c"]));
}
