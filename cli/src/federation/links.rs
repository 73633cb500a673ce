//! How the links to other clusters are, in tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::status::text::{list, word, words};
use crate::table::{Table, clean, lasting};

/// What a cluster says of itself, as an object.
pub(super) const CLUSTER: &str = "cluster cluster";

/// For programs: what the control plane says of this cluster, of its ClusterPeers, and of its links.
pub(super) fn told(status: &Value) -> Value {
    let objects: Vec<&Value> = objects(status).collect();
    json!({"federation": status["federation"], "clusterPeers": objects, "peers": status["peers"]})
}

/// For people. `width`: of the terminal that it is for, if it is for one.
pub(super) fn text(status: &Value, now: SystemTime, width: Option<usize>) -> String {
    let own = &status["federation"];
    let endpoints: Vec<String> = list(&own["endpoints"]).iter().map(word).collect();
    let reached = match endpoints.as_slice() {
        [] => "says no endpoint to others".to_owned(),
        some => format!("reached at {}", some.join(", ")),
    };
    let mut out = String::new();
    let head = format!(
        "cluster {} · trust domain {} · network {} · {reached}",
        word(&own["cluster"]),
        word(&own["trustDomain"]),
        word(&own["network"])
    );
    // A String takes all that is written to it, here and below.
    let _ = writeln!(out, "{}", clean(&head));
    let links = links(status, now);
    if links.is_empty() && refused(status).is_empty() {
        let _ = writeln!(
            out,
            "\nNo other cluster is linked: `weft cluster export-peer` of another one is applied here."
        );
    }
    for (title, table) in [
        ("LINKS", links),
        ("TRUST BUNDLES", bundles(status, now)),
        ("IMPORTED", imported(status, now)),
        ("EXPORTED", exported(status)),
        ("REFUSED", refused(status)),
    ] {
        if !table.is_empty() {
            let _ = write!(out, "\n{title}\n{}", table.text(width));
        }
    }
    out
}

/// The ClusterPeers, whether they act or not.
pub(super) fn objects(status: &Value) -> impl Iterator<Item = &Value> {
    list(&status["objects"])
        .iter()
        .filter(|object| object["kind"] == "ClusterPeer")
}

/// Why a ClusterPeer does not act as it is written: its condition, if that is false.
pub(super) fn unaccepted(object: &Value) -> Option<&Value> {
    list(&object["conditions"])
        .iter()
        .find(|condition| condition["type"] == "Accepted" && condition["status"] != "True")
}

fn links(status: &Value, now: SystemTime) -> Table {
    let mut table = Table::new(&[
        "CLUSTER", "STATE", "SINCE", "NETWORK", "IMPORTED", "TOLD", "HEARD", "REASON",
    ]);
    for peer in list(&status["peers"]) {
        let (link, imported) = (&peer["link"], list(&peer["imported"]));
        let endpoints: u64 = imported.iter().filter_map(|one| one["endpoints"].as_u64()).sum();
        let connected = link["state"] == "Connected";
        table.row([
            word(&peer["cluster"]),
            word(&link["state"]),
            ago(&link["since"], now),
            match (list(&peer["overlaps"]), peer["flat"] == true) {
                ([], true) => "flat",
                ([], false) => "gateway",
                // Flat mode is refused.
                _ => "overlaps",
            }
            .to_owned(),
            format!("{} ({endpoints} endpoints)", imported.len()),
            match list(&peer["followers"]) {
                [] => "does not follow".to_owned(),
                _ => told_of(peer).len().to_string(),
            },
            match connected {
                // It is asked every two seconds whether it is still there.
                true => "now".to_owned(),
                false => ago(&link["heard"], now),
            },
            reason(peer),
        ]);
    }
    table
}

/// Why a link is not connected, or nothing of it is of use.
fn reason(peer: &Value) -> String {
    let reason = word(&peer["link"]["reason"]);
    if !reason.is_empty() {
        return reason;
    }
    let mut refused = list(&peer["refused"]).iter();
    let of_itself =
        |one: &&Value| one["object"] == CLUSTER && (one["field"] == "name" || one["field"] == "trust_domain");
    if let Some(unlike) = refused.find(of_itself) {
        return format!(
            "it says that its {} {}",
            word(&unlike["field"]),
            word(&unlike["reason"])
        );
    }
    let tried = list(&peer["gatewaysTried"]);
    match list(&peer["overlaps"]) {
        [] if !tried.is_empty() && tried.iter().all(|one| one["fault"] != "") => {
            "none of its gateways answers this cluster's control plane".to_owned()
        }
        [] => String::new(),
        _ => format!(
            "its pod networks overlap with this cluster's: {}",
            words(&peer["overlaps"])
        ),
    }
}

/// Which sequence of the trust bundle of each side the other one holds, and how many of its proxies that are connected.
fn bundles(status: &Value, now: SystemTime) -> Table {
    let mut table = Table::new(&["OF", "SEQUENCE", "HELD BY", "SEQUENCE THERE", "PROXIES", "FETCHED"]);
    let own = &status["federation"];
    let cluster = word(&own["cluster"]);
    let by = |held: &Value| match held["sequence"].as_u64() {
        None => ["has not said".to_owned(), String::new()],
        Some(sequence) => {
            let proxies = format!("{} of {}", word(&held["acknowledged"]), word(&held["proxies"]));
            [sequence.to_string(), proxies]
        }
    };
    for peer in list(&status["peers"]) {
        let name = word(&peer["cluster"]);
        let [there, theirs] = by(&peer["bundleThere"]);
        let [here, ours] = by(&peer["bundleHere"]);
        let sequence = word(&own["bundleSequence"]);
        table.row([cluster.clone(), sequence, name.clone(), there, theirs, String::new()]);
        let fetched = ago(&peer["bundleEndpoint"]["fetched"], now);
        let sequence = word(&peer["bundleSequence"]);
        table.row([name, sequence, cluster.clone(), here, ours, fetched]);
    }
    table
}

/// A row for each Service that is taken from each peer.
fn imported(status: &Value, now: SystemTime) -> Table {
    let mut table = Table::new(&["NAMESPACE", "SERVICE", "FROM", "ENDPOINTS", "AS OF"]);
    let mut rows = Vec::new();
    for peer in list(&status["peers"]) {
        let link = &peer["link"];
        let as_of = match link["state"] == "Connected" {
            true => "now".to_owned(),
            false => format!("{} (stale)", ago(&link["heard"], now)),
        };
        for one in list(&peer["imported"]) {
            let names = [&one["namespace"], &one["name"], &peer["cluster"], &one["endpoints"]].map(word);
            rows.push((names, as_of.clone()));
        }
    }
    rows.sort();
    for (names, as_of) in rows {
        table.row(names.into_iter().chain([as_of]));
    }
    table
}

/// A row for each Service that any peer has been told of, and has acknowledged.
fn exported(status: &Value) -> Table {
    let mut to: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for peer in list(&status["peers"]) {
        for service in told_of(peer) {
            to.entry(service).or_default().insert(word(&peer["cluster"]));
        }
    }
    let mut table = Table::new(&["NAMESPACE", "SERVICE", "TO"]);
    for (service, clusters) in to {
        let (namespace, name) = service.split_once('/').unwrap_or(("", &service));
        let clusters = clusters.into_iter().collect::<Vec<_>>().join(", ");
        table.row([namespace.to_owned(), name.to_owned(), clusters]);
    }
    table
}

/// What was refused, of either side's, and ClusterPeers that do not act as they are written.
fn refused(status: &Value) -> Table {
    let mut table = Table::new(&["BY", "OBJECT", "FIELD", "REASON"]);
    let own = word(&status["federation"]["cluster"]);
    for object in objects(status) {
        if let Some(condition) = unaccepted(object) {
            let name = format!("ClusterPeer {}", word(&object["name"]));
            table.row([
                own.clone(),
                name,
                word(&condition["field"]),
                word(&condition["message"]),
            ]);
        }
    }
    for peer in list(&status["peers"]) {
        let cluster = word(&peer["cluster"]);
        for refused in list(&peer["refused"]) {
            let object = format!("{cluster}'s {}", word(&refused["object"]));
            table.row([own.clone(), object, word(&refused["field"]), word(&refused["reason"])]);
        }
        for refused in list(&peer["followers"]).iter().flat_map(|one| list(&one["refusals"])) {
            table.row([
                cluster.clone(),
                word(&refused["object"]),
                word(&refused["field"]),
                word(&refused["reason"]),
            ]);
        }
    }
    table
}

/// The Services that any replica of a peer has been told of.
fn told_of(peer: &Value) -> BTreeSet<String> {
    let followers = list(&peer["followers"]).iter();
    followers.flat_map(|one| list(&one["exported"])).map(word).collect()
}

/// How long ago a time was.
fn ago(at: &Value, now: SystemTime) -> String {
    let Some(at) = at.as_str().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok()) else {
        return String::new();
    };
    let since = now.duration_since(SystemTime::from(at)).unwrap_or_default();
    format!("{} ago", lasting(since.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::export::tests::status as of;
    use super::super::findings::tests::peer;
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn plain(peers: Value) -> String {
        let mut status = of("east");
        status["peers"] = peers;
        text(&status, now(), None)
    }

    fn row<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
        let line = text
            .lines()
            .skip(1)
            .find(|line| line.contains(word))
            .unwrap_or_default();
        line.split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect()
    }

    #[test]
    fn each_link_has_a_row_with_its_state_and_what_goes_either_way() {
        let said = plain(json!([peer()]));
        assert!(
            said.starts_with(
                "cluster east · trust domain east.weft.internal · network east · reached at east.example:15013\n"
            ),
            "{said}"
        );
        let want = [
            "west",
            "Connected",
            "1m 40s ago",
            "gateway",
            "1 (2 endpoints)",
            "1",
            "now",
            "-",
        ];
        assert_eq!(row(&said, "Connected"), want, "{said}");
        assert_eq!(row(&said, "reviews"), ["shop", "reviews", "west", "2", "now"], "{said}");
        assert_eq!(row(&said, "ratings"), ["shop", "ratings", "west"], "{said}");
        assert!(!said.contains("REFUSED"), "{said}");
    }

    #[test]
    fn a_peer_that_says_it_is_another_is_told_so_in_its_row() {
        let mut peer = peer();
        peer["refused"] =
            json!([{"object": CLUSTER, "field": "name", "reason": "is \"ue\", and the ClusterPeer is \"west\""}]);
        let said = plain(json!([peer]));
        let row = row(&said, "Connected");
        assert_eq!(
            row.last(),
            Some(&"it says that its name is \"ue\", and the ClusterPeer is \"west\""),
            "{said}"
        );
    }

    #[test]
    fn that_none_of_its_gateways_answers_is_told_and_not_that_one_of_them_does_not() {
        let mut peer = peer();
        let gateway =
            |fault: &str| json!({"gateway": "west.example:15443", "tried": "2027-01-15T07:59:58Z", "fault": fault});
        peer["gatewaysTried"] = json!([gateway("port"), gateway("")]);
        assert_eq!(row(&plain(json!([peer.clone()])), "Connected").last(), Some(&"-"));
        peer["gatewaysTried"] = json!([gateway("port"), gateway("name")]);
        let said = plain(json!([peer]));
        assert!(said.contains("none of its gateways answers"), "{said}");
    }

    #[test]
    fn it_is_told_which_bundle_each_side_holds_and_how_many_of_its_proxies() {
        let mut peer = peer();
        let held = |acknowledged: u64| json!({"sequence": 3, "proxies": 5, "acknowledged": acknowledged, "reached": 2});
        peer["bundleThere"] = held(4);
        peer["bundleHere"] = held(5);
        peer["bundleEndpoint"] =
            json!({"url": "https://west.example/", "fetched": "2027-01-15T07:59:10Z", "fault": ""});
        let said = plain(json!([peer.clone()]));
        assert_eq!(
            row(&said, "4 of 5"),
            ["east", "3", "west", "3", "4 of 5", "-"],
            "{said}"
        );
        assert_eq!(
            row(&said, "5 of 5"),
            ["west", "1", "east", "3", "5 of 5", "50s ago"],
            "{said}"
        );
        peer["bundleThere"] = Value::Null;
        assert!(plain(json!([peer])).contains("has not said"), "an older control plane");
    }

    #[test]
    fn of_a_link_that_is_broken_the_reason_and_the_age_of_what_is_kept_are_told() {
        let mut broken = peer();
        broken["link"]["state"] = json!("Stale");
        broken["link"]["reason"] = json!("west.example:15013 does not answer:\nconnection refused");
        broken["followers"] = json!([]);
        let said = plain(json!([broken]));
        let want = "west.example:15013 does not answer: connection refused";
        let cells = row(&said, "Stale");
        assert_eq!(cells[5..], ["does not follow", "50s ago", want], "{said}");
        assert_eq!(row(&said, "reviews")[4], "50s ago (stale)", "{said}");
    }

    #[test]
    fn what_was_refused_is_told_with_who_refused_it_and_why() {
        let mut bad = peer();
        bad["refused"] = json!([{"object": "Export shop/db", "field": "namespace", "reason": "is not imported"}]);
        bad["followers"][0]["refusals"] =
            json!([{"object": "Export shop/web", "field": "ports", "reason": "too many"}]);
        let mut status = of("east");
        status["peers"] = json!([bad]);
        status["objects"] = json!([{"kind": "ClusterPeer", "name": "north", "conditions": [
            {"type": "Accepted", "status": "False", "field": "spec.trustDomain", "message": "is ours"}
        ]}]);
        let said = text(&status, now(), None);
        assert_eq!(
            row(&said, "shop/db"),
            ["east", "west's Export shop/db", "namespace", "is not imported"]
        );
        assert_eq!(row(&said, "shop/web"), ["west", "Export shop/web", "ports", "too many"]);
        assert_eq!(
            row(&said, "north"),
            ["east", "ClusterPeer north", "spec.trustDomain", "is ours"]
        );
        let told = told(&status);
        assert_eq!(told["clusterPeers"][0]["name"], "north");
        assert_eq!(told["peers"][0]["cluster"], "west");
    }

    #[test]
    fn a_cluster_without_links_says_how_one_is_made() {
        assert!(plain(json!([])).contains("export-peer"));
        assert!(!plain(json!([peer()])).contains("export-peer"));
    }
}
