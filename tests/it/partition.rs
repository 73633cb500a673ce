//! The link between clusters is cut, wholly or one way; the other control plane dies; a gateway dies; a pod behind one is cut
//! off. What still works goes on.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use weft_tests::Clusters;
use weft_tests::host::until;
use weft_tests::load::Protocol;
use weft_tests::reviews::{Reviews, none_failed};

use crate::federation::PEER;

/// Calls a second while the link is cut.
const LOAD: [(Protocol, u32); 3] = [(Protocol::Http, 200), (Protocol::Grpc, 20), (Protocol::Tcp, 20)];
/// How long the link is cut: ten minutes, a sixtieth of them.
const CUT: Duration = Duration::from_secs(10);
/// How soon what is healed works.
const SOON: Duration = Duration::from_secs(2);

/// A request that went to somebody who has vanished is answered by somebody else within this, in seconds: a gateway notices it
/// after 6.
const FAILED_OVER: f64 = 15.0;

/// What a control plane has told a proxy of each resource: the versions, and how many batches the proxy has got in all.
fn told(clusters: &Clusters, cluster: &str) -> (BTreeMap<String, Value>, String) {
    let status = clusters.control(cluster);
    let proxies = status["proxies"].as_array().expect("proxies").iter();
    let client = proxies
        .clone()
        .find(|proxy| proxy["pod"] == "client")
        .expect("the client's proxy");
    let versions = client["resources"].as_array().expect("resources").iter();
    let versions = versions.map(|one| (format!("{} {}", one["kind"], one["key"]), one["version"].clone()));
    let metrics = clusters.admin(cluster, "shop", "client", "/metrics");
    let batches = metrics
        .lines()
        .find(|line| line.starts_with("weft_discovery_batches_total"));
    (versions.collect(), batches.expect("its batches").to_owned())
}

fn imported(clusters: &Clusters, here: &str, there: &str) -> Value {
    clusters.peer_of(here, there)["imported"].clone()
}

/// Waits until each of these is told of by the other side so.
fn both_are(clusters: &Clusters, state: &str) {
    until(&format!("both links are {state}"), || {
        clusters.link_state("a", "b") == state && clusters.link_state("b", "a") == state
    });
}

/// The link is cut for long, and healed: local traffic goes on, what is imported is kept, and nobody is told anything.
#[track_caller]
fn survives_a_cut(clusters: &Clusters, reviews: &Reviews, options: &[&str]) {
    // What clients are told settles with their first calls.
    none_failed(&reviews.load_for_a_moment(clusters, "a", &LOAD), &["a"]);
    let before = (imported(clusters, "a", "b"), imported(clusters, "b", "a"));
    assert_eq!(
        (&before.0[0]["endpoints"], &before.1[0]["endpoints"]),
        (&2.into(), &2.into())
    );
    let versions = told(clusters, "a");
    let load = reviews.load(clusters, "a", &LOAD);
    let began = Instant::now();
    clusters.link("cut", "a", "b", options);
    both_are(clusters, "Stale");
    let known = began.elapsed();
    let status = clusters
        .run(&["cluster", "status", "--name", clusters.name("a")])
        .output();
    let status = status.expect("weft runs");
    assert!(String::from_utf8_lossy(&status.stdout).contains("Stale"), "{status:?}");
    until("it was cut for long", || began.elapsed() >= CUT);
    assert_eq!((imported(clusters, "a", "b"), imported(clusters, "b", "a")), before);
    clusters.link("heal", "a", "b", options);
    let healed = Instant::now();
    both_are(clusters, "Connected");
    let healed = healed.elapsed();
    let answers = load.enough();
    println!("{options:?}: broken after {known:.1?}, healed after {healed:.1?}, {answers:?}");
    none_failed(&answers, &["a"]);
    assert!(healed < SOON, "healed after {healed:?}");
    assert_eq!((imported(clusters, "a", "b"), imported(clusters, "b", "a")), before);
    assert_eq!(told(clusters, "a"), versions, "a proxy was told something of a link");
}

#[test]
fn a_link_that_is_cut_leaves_local_traffic_alone_and_heals_within_two_seconds() {
    let reviews = Reviews::new(PEER);
    let clusters = reviews.two("--flat");
    survives_a_cut(&clusters, &reviews, &[]);
    survives_a_cut(&clusters, &reviews, &["--one-way"]);
    // What changes while it is cut is heard when it is healed.
    clusters.link("cut", "a", "b", &[]);
    both_are(&clusters, "Stale");
    reviews.scale(&clusters, "b", 1);
    clusters.link("heal", "a", "b", &[]);
    until("what changed is known", || {
        imported(&clusters, "a", "b")[0]["endpoints"] == 1
    });
    // The other control plane says nothing any more, and then dies: its pods answer all the same.
    let control = clusters.role("b", "control");
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 20, &["b"]);
    let load = reviews.load(&clusters, "a", &LOAD);
    for pid in &control {
        kill(*pid, Signal::SIGSTOP).expect("b's control plane runs");
    }
    until("a knows that b is silent", || clusters.link_state("a", "b") == "Stale");
    reviews.until_answered_by(&clusters, "a", 100, &["b"]);
    for pid in &control {
        kill(*pid, Signal::SIGKILL).expect("b's control plane runs");
    }
    until("b's control plane runs anew", || {
        clusters.link_state("a", "b") == "Connected"
    });
    none_failed(&load.enough(), &["b"]);
}

#[test]
fn a_gateway_that_dies_leaves_traffic_to_the_other_one_within_two_seconds() {
    let reviews = Reviews::new(PEER);
    let clusters = reviews.two("--overlapping-networks");
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 20, &["b"]);
    let gateways = clusters.role("b", "gateway");
    assert_eq!(gateways.len(), 2, "{}", clusters.log());
    let died = Instant::now();
    kill(gateways[0], Signal::SIGKILL).expect("the gateway runs");
    reviews.until_answered_by(&clusters, "a", 20, &["b"]);
    let took = died.elapsed();
    println!("all calls are answered {took:.1?} after a gateway has died");
    assert!(took < SOON, "{took:?}");
}

/// Cuts a pod off, as if its node had lost its power: nothing comes to it or from it any more, and nobody is told so.
#[track_caller]
fn cut_off(pod: &Value) {
    let pid = pod["proxyPid"].to_string();
    let rules = "set -e; for program in iptables ip6tables; do
        $program -w -I INPUT ! -i lo -j DROP; $program -w -I OUTPUT ! -o lo -j DROP; done";
    let output = Command::new("nsenter")
        .args(["-t", &pid, "-n", "sh", "-c", rules])
        .output()
        .expect("nsenter and iptables run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_pod_that_vanishes_behind_a_gateway_is_left_for_another_one_within_seconds() {
    let reviews = Reviews::new(PEER);
    let clusters = reviews.two("--overlapping-networks");
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 100, &["b"]);
    let status = clusters.weft("b", "status", &["-n", "shop", "-o", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("status is JSON");
    let mut pods = status["pods"].as_array().expect("pods").iter();
    let vanishes = pods.find(|pod| pod["name"].as_str().is_some_and(|name| name.starts_with("reviews-")));
    let vanishes = vanishes.expect("a pod of reviews");
    // Connections to both pods wait for the next request, and do for some seconds only.
    reviews.until_answered_by(&clusters, "a", 100, &["b"]);
    cut_off(vanishes);
    // Side by side, so that they need both; curl says why of one that is not answered, and how long each took.
    let all = "for n in $(seq 16); do echo $(curl -sS -m 60 -w ' %{time_total}' http://reviews/ 2>&1) & done; wait";
    let output = clusters.client("a", &["sh", "-c", all]);
    let said = String::from_utf8_lossy(&output.stdout);
    let answered = said.lines().filter(|line| line.starts_with("b ")).count();
    assert_eq!(answered, 16, "{said}");
    let times = said
        .lines()
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    let took = times.fold(0.0, f64::max);
    println!("all are answered within {took:.1} s, a pod of theirs having vanished");
    assert!(took > 0.0 && took < FAILED_OVER, "{said}");
    let noticed = ["weft-gateway-1", "weft-gateway-2"].map(|gateway| {
        let metrics = clusters.admin("b", "weft-system", gateway, "/metrics");
        let sample = "weft_gateway_connections_total{reason=\"endpoint-vanished\"} ";
        let mut counts = metrics.lines().filter_map(|line| line.strip_prefix(sample));
        counts.next().expect("it is counted").parse::<u64>().expect("a count")
    });
    assert!(noticed.iter().sum::<u64>() > 0, "no request was on its way to it");
    none_failed(&[(Protocol::Http, reviews.calls(&clusters, "a", 200))], &["b"]);
}
