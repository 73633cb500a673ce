//! Clusters that share Services: two control planes, roots and trust domains, and what crosses between them.

use weft_tests::Clusters;
use weft_tests::host::until;
use weft_tests::load::Protocol;
use weft_tests::reviews::{Reviews, none_failed};

/// The program of reviews' pods.
pub(crate) const PEER: &str = env!("CARGO_BIN_EXE_weft-load-peer");

fn reviews() -> Reviews {
    Reviews::new(PEER)
}

/// Calls a second while a link of three is cut.
const LOAD: [(Protocol, u32); 3] = [(Protocol::Http, 100), (Protocol::Grpc, 10), (Protocol::Tcp, 10)];

/// A pod without a sidecar.
const PLAIN: &str = "apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop, labels: {weft.dev/inject: disabled}}
spec: {containers: [{name: plain, command: [sleep, infinity]}]}
";

#[test]
fn the_identity_that_the_app_sees_is_the_other_clusters_own() {
    let reviews = reviews();
    let clusters = reviews.two("--flat");
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 1, &["b"]);
    let output = clusters.client("a", &["/usr/bin/curl", "-s", "http://reviews/"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let (a, b) = (clusters.name("a"), clusters.name("b"));
    let who = |cluster: &str, account: &str| format!("spiffe://{cluster}.weft.internal/ns/shop/sa/{account}");
    let want = format!("b By={};URI={}", who(b, "default"), who(a, "default"));
    assert_eq!(said, want);
}

#[test]
fn a_gateway_sees_nothing_of_what_the_control_plane_keeps() {
    let clusters = reviews().two("--overlapping-networks");
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
    let reviews = reviews();
    let clusters = reviews.two("--flat");
    clusters.manifest("b", "plain.yaml", PLAIN);
    let target = clusters.addresses_in("b", "shop", "reviews-");
    let ask = |cluster: &str, pod: &str, port: u16| {
        let url = format!("http://{}:{port}/", target[0]);
        let command = ["-n", "shop", pod, "--", "/usr/bin/curl", "-s", "-m", "5", "-i", &url];
        let output = clusters.weft(cluster, "exec", &command);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let call = |port: u16| ask("a", "client", port);
    let manifest = |from: &str, to: &str| {
        let text = reviews.manifest("b", 2);
        assert!(text.contains(from), "{text}");
        clusters.manifest("b", "all.yaml", &text.replace(from, to));
    };
    let is_refused = |said: &str| said.contains("403 Forbidden") && said.contains("foreign-trust-domain");
    let exported_only = || {
        // The port that is exported, by the pod's address: its identity is known here.
        assert!(call(8080).contains("200 OK"), "{}", call(8080));
        // Another one of the same pod: the other side has nothing exported there.
        assert!(is_refused(&call(8083)), "{}", call(8083));
    };
    exported_only();
    // No more where plaintext is accepted.
    manifest("inbound: strict", "inbound: permissive");
    until("b's own pods are answered in plaintext", || {
        ask("b", "plain", 8080).contains("200 OK")
    });
    exported_only();
    // Nor the first one any more, once it is not exported: as long as `a` takes it for the other cluster's, and when it is nothing of the
    // mesh to it.
    let nothing = "ServiceExport\nmetadata: {name: nothing";
    manifest("ServiceExport\nmetadata: {name: reviews", nothing);
    until("it is refused", || {
        let said = call(8080);
        is_refused(&said) || (said.contains("403 Forbidden") && said.contains("plaintext-refused"))
    });
}

/// Three clusters with a pod of reviews each, every one linked to both others.
fn triangle(reviews: &Reviews) -> Clusters {
    let clusters = ["a", "b", "c"].into_iter().fold(Clusters::builder(), |all, cluster| {
        all.cluster(cluster, &reviews.manifest(cluster, 1))
    });
    let clusters = clusters.up();
    for (one, other) in [("a", "b"), ("b", "c"), ("a", "c")] {
        clusters.link_up(one, other);
    }
    clusters
}

#[test]
fn each_of_three_clusters_is_served_by_both_others_and_one_link_down_leaves_the_other_two() {
    let reviews = reviews();
    let clusters = triangle(&reviews);
    for (cluster, others) in [("a", ["b", "c"]), ("b", ["a", "c"]), ("c", ["a", "b"])] {
        reviews.until_answered_by(&clusters, cluster, 20, &[cluster]);
        reviews.scale(&clusters, cluster, 0);
        reviews.until_answered_by(&clusters, cluster, 60, &others);
        if cluster != "c" {
            reviews.scale(&clusters, cluster, 1);
            reviews.until_answered_by(&clusters, cluster, 20, &[cluster]);
        }
    }
    // What c is served over its two links goes on while the third is cut, wholly.
    let load = reviews.load(&clusters, "c", &LOAD);
    clusters.link("cut", "a", "b", &[]);
    until("the link is known to be down", || {
        clusters.link_state("a", "b") == "Stale" && clusters.link_state("b", "a") == "Stale"
    });
    for other in ["a", "b"] {
        assert_eq!(clusters.link_state("c", other), "Connected");
        assert_eq!(clusters.link_state(other, "c"), "Connected");
    }
    reviews.until_answered_by(&clusters, "c", 60, &["a", "b"]);
    none_failed(&load.enough(), &["a", "b"]);
    // Who had only the one across it goes to the other one.
    reviews.scale(&clusters, "c", 1);
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 60, &["c"]);
    clusters.link("heal", "a", "b", &[]);
    reviews.until_answered_by(&clusters, "a", 60, &["b", "c"]);
}

#[test]
fn of_three_clusters_each_is_told_and_served_what_is_exported_to_it() {
    let reviews = reviews();
    let clusters = triangle(&reviews);
    let exports = |exports: &str| {
        let peer = clusters.peer("b", &format!("  imports: [{{namespaces: [shop]}}]\n{exports}"));
        clusters.manifest("c", "peer-b.yaml", &peer);
    };
    let told = || clusters.peer_of("b", "c")["imported"].as_array().map_or(0, Vec::len);
    reviews.scale(&clusters, "b", 0);
    reviews.until_answered_by(&clusters, "b", 60, &["a", "c"]);
    // Narrowed for b alone, in three ways that leave nothing: b has only a left, and a goes on to have c.
    for narrowed in [
        "  exports: []\n",
        "  exports: [{namespaces: [other]}]\n",
        "  exports: [{namespaces: [shop], labels: {tier: front}}]\n",
    ] {
        exports(narrowed);
        until(&format!("b is told nothing: {narrowed}"), || told() == 0);
        reviews.until_answered_by(&clusters, "b", 60, &["a"]);
        exports("  exports: [{namespaces: [shop]}]\n");
        until("b is told of it again", || told() == 1);
        reviews.until_answered_by(&clusters, "b", 60, &["a", "c"]);
    }
    exports("  exports: []\n");
    reviews.until_answered_by(&clusters, "b", 60, &["a"]);
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 60, &["c"]);
    until("nobody is left who exports it to b", || {
        let answers = reviews.calls(&clusters, "b", 20);
        answers.keys().all(|who| who.starts_with("failed: HTTP/1.1 503"))
    });
}
