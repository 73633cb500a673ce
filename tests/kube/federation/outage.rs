//! The other cluster's control plane is away, and this one's pod goes as well, with all that it held: what only the other cluster
//! serves is served, also to a client that comes meanwhile.

use std::time::Instant;

use serde_json::Value;
use weft_tests::kube::until;
use weft_tests::reviews::{OWN_NAME, SHARED_NAME};

use super::LOAD;
use super::sides::{Side, all_answered, condition};

/// A client that comes while the link is broken and this control plane is another.
const NEWCOMER: &str = "newcomer";
/// Where the control plane keeps what others have said: who they are, and in so many pieces what they export.
const MAP: &str = "weft-peers";
const PIECES: usize = 8;

/// The Service must have its pods in the other cluster only, and the link must be well.
#[track_caller]
pub(super) fn is_outlived(here: &Side, there: &Side) {
    is_kept(here, there.name);
    let load = here.load(&[OWN_NAME, SHARED_NAME], &LOAD);

    scale_control(there, 0);
    let heard = stale(here, there.name);
    let gone = control(here);
    here.cluster
        .kubectl(["-n", "weft-system", "delete", "pod", "--wait", &gone]);
    here.rolled_out("weft-system", "weft-control");
    assert_ne!(control(here), gone, "another pod has its place");

    let began = Instant::now();
    here.begin_client(NEWCOMER);
    for host in [OWN_NAME, SHARED_NAME] {
        let answers = here.calls_of(NEWCOMER, host, 50);
        assert!(answers.keys().eq([there.name]), "{host}: {answers:?}");
    }
    println!("a client that comes while the link is broken: {:?}", began.elapsed());
    let explained = here.printed(&["route", "explain", "-n", "shop", "http://reviews/"]);
    let there_too = format!("of cluster {}", there.name);
    assert!(explained.contains(&there_too), "{explained}");
    here.reaches(there.name, "Gateways");
    // The new pod says so itself, and when that was it has from the one before.
    let link = || link(here);
    let is_told = || (link()["state"] == "Stale" && link()["complete"] == false).then_some(());
    until("the new pod knows that the link is broken", is_told, || {
        link().to_string()
    });
    assert_eq!(stale(here, there.name), heard);

    scale_control(there, 1);
    there.rolled_out("weft-system", "weft-control");
    let is_back = || (link()["state"] == "Connected" && link()["complete"] == true).then_some(());
    until("the link is back", is_back, || link().to_string());
    let peer = || here.cluster.get(["clusterpeer", there.name]);
    let is_told = || {
        let peer = peer();
        let is_well = condition(&peer, "Connected")["status"] == "True";
        (is_well && peer["status"].get("lastHeard").is_none()).then_some(())
    };
    until("its ClusterPeer is Connected", is_told, || peer().to_string());

    all_answered([here, there], load.enough(), &[there.name]);
    here.cluster.kubectl(["-n", "shop", "delete", "pod", NEWCOMER]);
}

/// Waits until all of what a peer exports is kept. It is written some seconds after it was heard.
#[track_caller]
fn is_kept(side: &Side, peer: &str) {
    let maps = || side.cluster.get(["-n", "weft-system", "configmaps"]);
    let has = |maps: &Value, name: &str| {
        let mut all = maps["items"].as_array().into_iter().flatten();
        all.any(|map| map["metadata"]["name"] == name && map["binaryData"][peer].is_string())
    };
    let so = || {
        let maps = maps();
        let mut names = (0..PIECES)
            .map(|piece| format!("{MAP}-{piece}"))
            .chain([MAP.to_owned()]);
        names.all(|name| has(&maps, &name)).then_some(())
    };
    until(&format!("what {peer} has said is kept"), so, || format!("{:#}", maps()));
}

#[track_caller]
fn scale_control(side: &Side, replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    side.cluster
        .kubectl(["-n", "weft-system", "scale", "deployment", "weft-control", &replicas]);
}

/// The pod of its control plane.
#[track_caller]
fn control(side: &Side) -> String {
    let selector = "app.kubernetes.io/component=control";
    let pods = side.cluster.get(["-n", "weft-system", "pods", "-l", selector]);
    let name = pods["items"][0]["metadata"]["name"].as_str();
    name.expect("a pod of the control plane").to_owned()
}

/// What the control plane says of its link to the only peer.
#[track_caller]
fn link(side: &Side) -> Value {
    let status = side.printed(&["cluster", "status", "-o", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["peers"][0]["link"].clone()
}

/// Waits until the ClusterPeer says that the link is broken: since when.
#[track_caller]
fn stale(side: &Side, peer: &str) -> String {
    let look = || side.cluster.get(["clusterpeer", peer]);
    let so = || {
        let peer = look();
        let condition = condition(&peer, "Connected");
        let heard = peer["status"]["lastHeard"].as_str().map(str::to_owned);
        heard.filter(|heard| {
            let message = condition["message"].as_str().unwrap_or_default();
            condition["status"] == "False" && condition["reason"] == "Stale" && message.contains(heard)
        })
    };
    until(&format!("the link to {peer} is stale"), so, || look().to_string())
}
