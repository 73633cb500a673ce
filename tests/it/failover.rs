//! Local endpoints go one by one, under load: the other cluster serves, and no call fails; they return, and so do the calls.

use weft_tests::host::until;
use weft_tests::load::Protocol;
use weft_tests::reviews::{OWN_NAME, Reviews, none_failed};

use crate::federation::PEER;

/// Calls a second: 500 requests, and beside them streams and conversations, of which each takes a while.
const LOAD: [(Protocol, u32); 3] = [(Protocol::Http, 500), (Protocol::Grpc, 40), (Protocol::Tcp, 40)];

/// With clusters of this mode, by this name of the Service.
#[track_caller]
pub(crate) fn fails_over_and_back(mode: &str, host: &str) {
    let reviews = Reviews::new(PEER);
    let clusters = reviews.two(mode);
    let ready = |count: usize| {
        let status = clusters.weft("a", "status", &["-n", "shop", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("status is JSON");
        let pods = status["pods"].as_array().expect("pods").iter();
        let own = pods.filter(|pod| pod["name"].as_str().is_some_and(|name| name.starts_with("reviews-")));
        let own: Vec<&serde_json::Value> = own.collect();
        own.len() == count && own.iter().all(|pod| pod["ready"] == true)
    };
    until("a's own serve its client", || {
        reviews.calls_at(&clusters, "a", host, 20).keys().eq(["a"])
    });
    let load = reviews.load_at(&clusters, "a", host, &LOAD);
    for left in [1, 0] {
        reviews.scale(&clusters, "a", left);
        until(&format!("{left} are left"), || ready(left as usize));
    }
    reviews.until_answered_by(&clusters, "a", 20, &["b"]);
    for back in [1, 2] {
        reviews.scale(&clusters, "a", back);
        until(&format!("{back} are back"), || ready(back as usize));
    }
    reviews.until_answered_by(&clusters, "a", 20, &["a"]);
    let answers = load.enough();
    println!("{mode} {host}: {answers:?}");
    none_failed(&answers, &["a", "b"]);
}

#[test]
fn requests_streams_and_connections_fail_over_and_back_in_a_flat_network() {
    fails_over_and_back("--flat", OWN_NAME);
}

#[test]
fn requests_streams_and_connections_fail_over_and_back_through_gateways_where_networks_overlap() {
    fails_over_and_back("--overlapping-networks", OWN_NAME);
}
