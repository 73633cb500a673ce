//! Clusters that share Services: two control planes, roots and trust domains, and what crosses between them.

use weft_tests::Clusters;
use weft_tests::host::until;
use weft_tests::reviews::{Answers, Reviews};

/// The program of reviews' pods.
pub(crate) const PEER: &str = env!("CARGO_BIN_EXE_weft-load-peer");

fn reviews() -> Reviews {
    Reviews::new(PEER)
}

/// So many answers of one cluster.
fn all_of(who: &str, count: u64) -> Answers {
    Answers::from([(who.to_owned(), count)])
}

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

#[test]
fn three_clusters_share_in_a_triangle_and_one_link_down_leaves_the_others() {
    let reviews = reviews();
    let clusters = Clusters::builder()
        .cluster("a", &reviews.manifest("a", 0))
        .cluster("b", &reviews.manifest("b", 1))
        .cluster("c", &reviews.manifest("c", 1))
        .up();
    for (one, other) in [("a", "b"), ("b", "c"), ("a", "c")] {
        clusters.link_up(one, other);
    }
    reviews.until_answered_by(&clusters, "a", 60, &["b", "c"]);
    // Traffic and link to b are cut; the rest goes on.
    clusters.link("cut", "a", "b", &[]);
    reviews.until_answered_by(&clusters, "a", 60, &["c"]);
    assert_eq!(clusters.link_state("b", "c"), "Connected");
    assert_eq!(reviews.calls(&clusters, "b", 20), all_of("b", 20));
    clusters.link("heal", "a", "b", &[]);
    reviews.until_answered_by(&clusters, "a", 60, &["b", "c"]);
}
