//! What is wrong with the links to other clusters, from what this one's control plane says.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::faults::Fault;
use super::links::{CLUSTER, objects, unaccepted};
use crate::check::finding::{Finding, Report, note, wrong};
use crate::status::text::{list, word, words};

/// How far clocks may be apart, in milliseconds: a certificate is back-dated by two minutes.
const SKEW_MAX: u64 = 30_000;
/// Control planes work with each other that are so many minor versions apart.
const MINORS_MAX: u64 = 1;

/// Everything.
pub(super) fn check(status: &Value, report: &mut Report) {
    let own = word(&status["federation"]["cluster"]);
    report.tell(format!("{own}: what it says of itself to others"), of_itself(status));
    report.tell(format!("{own}: its ClusterPeers are accepted"), accepted(status));
    for peer in list(&status["peers"]) {
        let name = word(&peer["cluster"]);
        report.tell(format!("{own} → {name}: this cluster's link to it"), link(status, peer));
        report.tell(
            format!("{name} → {own}: its link to this cluster"),
            followers(status, peer),
        );
        if peer["bundleEndpoint"].is_object() {
            report.tell(format!("{name}: its bundle endpoint"), bundle_endpoint(peer));
        }
        report.tell(format!("{name}: its clock and version"), beside(status, peer));
        report.tell(
            format!("{name}: how its pods are reached"),
            [network(status, peer), gateways(peer)].concat(),
        );
        report.tell(format!("{name}: what is imported from it"), imports(peer));
    }
}

/// Whether something is not as it should be that may be so for the moment only, as when clusters were linked just now or a control
/// plane begins anew: a link that is being made, a peer that does not follow yet, gateways that are being tried. Whoever is linked
/// first is refused until the other side has its ClusterPeer as well.
pub(super) fn is_settling(status: &Value) -> bool {
    let is_reached = !list(&status["federation"]["endpoints"]).is_empty();
    list(&status["peers"]).iter().any(|peer| {
        if peer["link"]["state"] != "Connected" {
            return is_passing(peer);
        }
        let may_follow = is_reached && list(&peer["followers"]).is_empty() && !is_said_already(peer);
        may_follow || is_untried(peer)
    })
}

/// Whether a link suffers from something that may pass: what else there is, waiting does not mend.
fn is_passing(peer: &Value) -> bool {
    ["", "port", "slow", "stream", "ended", "refused"].contains(&word(&peer["link"]["fault"]).as_str())
}

/// Whether it has no ClusterPeer at all, not even one that is refused.
pub(super) fn is_alone(status: &Value) -> bool {
    list(&status["peers"]).is_empty() && objects(status).next().is_none()
}

/// The same of a link that is less than `young` old, so that the other cluster may be beginning: it is not connected, or a gateway
/// there does not answer.
pub(super) fn is_beginning(status: &Value, now: SystemTime, young: Duration) -> bool {
    list(&status["peers"]).iter().any(|peer| {
        let since = OffsetDateTime::parse(&word(&peer["link"]["since"]), &Rfc3339);
        let since = since.map(SystemTime::from).unwrap_or(now);
        let is_young = now.duration_since(since).unwrap_or_default() < young;
        let may_pass = match peer["link"]["state"] == "Connected" {
            true => is_shut(peer),
            false => is_passing(peer),
        };
        is_young && may_pass
    })
}

fn at(peer: &Value) -> String {
    format!("ClusterPeer {}", word(&peer["cluster"]))
}

fn of_itself(status: &Value) -> Vec<Finding> {
    let own = &status["federation"];
    let mut found = Vec::new();
    let at = || format!("cluster {}", word(&own["cluster"]));
    if list(&own["endpoints"]).is_empty() {
        let what = "it says no endpoint to others, so none can follow what is exported here";
        found.push(match status["unreached"]["endpoints"].as_str() {
            Some(why) => note(
                at(),
                format!("{what}: {why}"),
                "`weft check` says which value of the installation mends it",
            ),
            None => {
                let fix =
                    "WEFT_FEDERATION_LISTEN, usually [::]:15013, and WEFT_FEDERATION_ENDPOINTS, how others reach it";
                note(at(), what, fix)
            }
        });
    }
    if is_alone(status) {
        let fix = "`weft cluster export-peer` of another cluster, applied here, and the reverse";
        found.push(note(at(), "it has no ClusterPeer: no other cluster is linked", fix));
    }
    found
}

fn accepted(status: &Value) -> Vec<Finding> {
    let found = objects(status).filter_map(|object| {
        let condition = unaccepted(object)?;
        let name = format!("ClusterPeer {}", word(&object["name"]));
        let (field, message) = (word(&condition["field"]), word(&condition["message"]));
        let of_it = |problem: &&Value| problem["object"] == name.as_str() && problem["field"] == condition["field"];
        let problem = list(&status["problems"]).iter().find(of_it);
        let fix = match problem.map(|problem| word(&problem["fix"])).unwrap_or_default() {
            fix if fix.is_empty() => "`weft cluster check -f FILE` says what would be right".to_owned(),
            fix => fix,
        };
        let what = match field.is_empty() {
            true => message,
            false => format!("{field}: {message}"),
        };
        Some(wrong(name, what, fix))
    });
    found.collect()
}

fn link(status: &Value, peer: &Value) -> Vec<Finding> {
    let (name, own) = (word(&peer["cluster"]), word(&status["federation"]["cluster"]));
    let found = Fault::of(&name, &own, &peer["link"]);
    // What would have to be written otherwise is written already, and refused.
    let is_refused = objects(status).any(|object| object["name"] == name.as_str() && unaccepted(object).is_some());
    let after = |mut finding: Finding| {
        if is_refused {
            finding.fix = format!("first what is wrong with the ClusterPeer {name} itself: an earlier form of it acts");
        }
        finding
    };
    found.map(after).into_iter().collect()
}

/// Whether the peer follows this cluster, and takes what it is told.
fn followers(status: &Value, peer: &Value) -> Vec<Finding> {
    let own = &status["federation"];
    let (name, cluster) = (word(&peer["cluster"]), word(&own["cluster"]));
    let followers = list(&peer["followers"]);
    if followers.is_empty() && !is_said_already(peer) {
        let reach = match list(&own["endpoints"]) {
            [] => "here: WEFT_FEDERATION_LISTEN and WEFT_FEDERATION_ENDPOINTS are set".to_owned(),
            _ => format!("it reaches this cluster at {}", words(&own["endpoints"])),
        };
        let what = format!(
            "its control plane does not follow this one, so it has nothing of what is exported to it from {cluster}"
        );
        let fix = format!(
            "in {name}: `weft cluster check` says why; it has a ClusterPeer {cluster} as `weft cluster export-peer` prints it here, and {reach}"
        );
        return vec![wrong(at(peer), what, fix)];
    }
    if followers.is_empty() {
        let what =
            "its control plane does not follow this one either, for a reason that is told here of something else";
        return vec![note(at(peer), what, "mend that, and look again")];
    }
    let refusals = followers.iter().flat_map(|follower| list(&follower["refusals"]));
    let refused = refusals.map(|refusal| {
        let is_itself = refusal["object"] == CLUSTER;
        let (object, here) = match is_itself {
            true => ("what this cluster says of itself".to_owned(), String::new()),
            false => (word(&refusal["object"]), "; here: at that object".to_owned()),
        };
        // By another name, if that is what it does not take.
        let there = match is_itself && refusal["field"] == "name" {
            true => format!("in {name}: its ClusterPeer of this cluster is to be named {cluster}"),
            false => format!("in {name}: look at ClusterPeer {cluster}"),
        };
        let what = format!("it does not take {object}: {}", because(refusal));
        wrong(at(peer), what, format!("{there}{here}"))
    });
    let mut found: Vec<Finding> = refused.collect();
    found.dedup();
    found
}

/// Whether what is wrong with the link to a peer, or with its ClusterPeer, keeps the peer from following as well: then it is one
/// thing, and said there.
fn is_said_already(peer: &Value) -> bool {
    let is_unknown = |refused: &Value| refused["field"] == "name" || refused["field"] == "trust_domain";
    // It does not know us, or we do not know it.
    let fault = peer["link"]["fault"].as_str();
    fault == Some("refused") || fault == Some("identity") || list(&peer["refused"]).iter().any(is_unknown)
}

/// What came of asking the peer's bundle endpoint.
fn bundle_endpoint(peer: &Value) -> Vec<Finding> {
    let (name, asked) = (word(&peer["cluster"]), &peer["bundleEndpoint"]);
    let (url, fault) = (word(&asked["url"]), word(&asked["fault"]));
    if fault.is_empty() {
        let never = asked["fetched"].is_null();
        let what = format!("spec.bundleEndpoint: {url} is being asked for the first time");
        return never.then(|| note(at(peer), what, "look again")).into_iter().collect();
    }
    let printed = format!("spec.bundleEndpoint as `weft cluster export-peer` prints it in {name}");
    let fix = match fault.as_str() {
        "name" => format!("{printed}: a host that this cluster's control plane resolves, or an address"),
        "port" => format!(
            "in {name}: WEFT_BUNDLE_LISTEN is set (usually [::]:15016), and a Service or load balancer leads to it from {url}; between \
             both: firewalls and NetworkPolicies let it pass; here: {printed}"
        ),
        "identity" => format!(
            "spec.trustDomain, spec.controlPlane and spec.trustBundle as `weft cluster export-peer` prints them in {name}; {url} leads to \
             its control plane, whose own certificate is shown there (https_spiffe), and not one of a public authority (https_web)"
        ),
        "tls" | "protocol" => {
            format!("{url} leads to WEFT_BUNDLE_LISTEN of {name}, with nothing before it that ends TLS")
        }
        "slow" => format!("look at the load of {name}'s control plane, and at what lies between"),
        "redirect" => format!("{printed}: write where it leads, if that is {name}'s"),
        "sequence" => format!(
            "{}; else who answers at {url} is behind the link, or is another",
            number_goes_back(&name)
        ),
        _ => format!("{printed}; it shows a JWK set as the SPIFFE Trust Domain and Bundle specification has it"),
    };
    let what = format!(
        "no trust bundle is taken from its bundle endpoint: {}",
        word(&asked["reason"])
    );
    vec![wrong(at(peer), what, fix)]
}

/// Clock and version beside ours.
fn beside(status: &Value, peer: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    let followers = list(&peer["followers"]);
    let skews = followers.iter().filter_map(|follower| follower["skewMs"].as_i64());
    if let Some(ahead) = skews
        .max_by_key(|ahead| ahead.unsigned_abs())
        .filter(|ahead| ahead.unsigned_abs() > SKEW_MAX)
    {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let what = format!("its clock is {} s {way} this cluster's", ahead.unsigned_abs() / 1000);
        found.push(wrong(
            at(peer),
            what,
            "NTP on all nodes of both: certificates are valid from two minutes before they are made",
        ));
    }
    let own = word(&status["control"]["build"]);
    let mut builds: Vec<String> = followers.iter().map(|follower| word(&follower["build"])).collect();
    builds.sort();
    builds.dedup();
    for build in builds.iter().filter(|build| **build != own && !own.is_empty()) {
        let what = format!("its control plane is {build}, this one {own}");
        found.push(match (numbers(build), numbers(&own)) {
            (Some(one), Some(other)) if one.0 == other.0 && one.1.abs_diff(other.1) <= MINORS_MAX => {
                note(at(peer), what, "")
            }
            _ => {
                let what =
                    format!("{what}: control planes work with each other that are at most one minor version apart");
                wrong(at(peer), what, "upgrade the older one")
            }
        });
    }
    found
}

/// `1.7` of `1.7.3-rc.1`.
fn numbers(build: &str) -> Option<(u64, u64)> {
    let mut parts = build.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Whether traffic has a way.
fn network(status: &Value, peer: &Value) -> Vec<Finding> {
    let (name, said) = (word(&peer["cluster"]), &peer["said"]);
    let mut found = Vec::new();
    let (ours, theirs) = (word(&peer["network"]), word(&said["network"]));
    if said.is_object() && theirs != ours {
        let what = format!("it says that its network is {theirs}, and spec.network here is {ours}");
        let fix = format!("spec.network: {theirs} (clusters that name the same network dial each other's pods)");
        found.push(wrong(at(peer), what, fix));
    }
    let overlaps = list(&peer["overlaps"]);
    if !overlaps.is_empty() {
        let what = format!(
            "spec.network: both clusters are in the network {ours}, and networks of its pods overlap with this cluster's own: {}; an address \
             may be a pod's of either, so none of its endpoints is taken",
            words(&peer["overlaps"])
        );
        let fix = "give each of the two clusters a network of its own (WEFT_NETWORK there, spec.network here) and gateways, or pods other \
                   addresses";
        found.push(wrong(at(peer), what, fix));
    }
    let needs = peer["flat"] != true && peer["imports"].as_u64() > Some(0) && list(&peer["gateways"]).is_empty();
    if needs && !list(&said["gateways"]).is_empty() {
        let gateways = words(&said["gateways"]);
        let what = format!(
            "it is in another network ({ours}), and spec.gateways is empty: nothing reaches its pods, though it says that it has gateways"
        );
        // What it says of itself is not dialled: whose word counts is this side's.
        found.push(wrong(at(peer), what, format!("spec.gateways: [{gateways}]")));
    } else if needs {
        let network = word(&status["federation"]["network"]);
        let what = format!(
            "it is in another network ({ours}, this cluster in {network}), and has no gateway through which its pods are reached"
        );
        let fix = format!(
            "in {name}: an east-west gateway, and WEFT_GATEWAYS; here: spec.gateways; or one network for both, if pods reach each other: \
             WEFT_NETWORK"
        );
        found.push(wrong(at(peer), what, fix));
    }
    found
}

/// Whether nothing answers at one of its gateways, or its name does not resolve.
fn is_shut(peer: &Value) -> bool {
    list(&peer["gatewaysTried"]).iter().any(|one| one["fault"] != "")
}

/// Whether a gateway through which its pods are reached was not tried yet.
fn is_untried(peer: &Value) -> bool {
    let needs = peer["flat"] != true && peer["imports"].as_u64() > Some(0);
    // Control planes of before try none.
    let tried = peer["gatewaysTried"].as_array().map(Vec::len);
    needs && tried.is_some_and(|tried| tried < list(&peer["gateways"]).len())
}

/// The gateways that this cluster's control plane does not reach.
fn gateways(peer: &Value) -> Vec<Finding> {
    let name = word(&peer["cluster"]);
    let failed = list(&peer["gatewaysTried"]).iter().filter(|one| one["fault"] != "");
    let finding = |one: &Value| {
        let [gateway, reason, tried] = [&one["gateway"], &one["reason"], &one["tried"]].map(word);
        if one["fault"] == "name" {
            let what = format!(
                "spec.gateways: the name of {gateway} does not resolve where this cluster's control plane is: {reason}"
            );
            let fix = format!(
                "spec.gateways as `weft cluster export-peer` prints them in {name}: names that resolve here, or addresses"
            );
            return wrong(at(peer), what, fix);
        }
        let what = format!(
            "gateway {gateway} of {name} cannot be reached from this cluster's control plane (pods may have another way): {reason}, at {tried}"
        );
        let fix = format!(
            "in {name}: `weft gateway` runs, and a Service or load balancer leads to it (usually port 15443) from {gateway}; between both: \
             firewalls and NetworkPolicies let it pass; here: spec.gateways is as `weft cluster export-peer` prints it in {name}"
        );
        wrong(at(peer), what, fix)
    };
    let mut found: Vec<Finding> = failed.map(finding).collect();
    if is_untried(peer) {
        found.push(note(
            at(peer),
            "its gateways are being tried for the first time",
            "look again",
        ));
    }
    found
}

/// What is taken from the peer, and what is not.
fn imports(peer: &Value) -> Vec<Finding> {
    let name = word(&peer["cluster"]);
    let mut found: Vec<Finding> = list(&peer["refused"])
        .iter()
        .map(|refused| refusal(peer, refused))
        .collect();
    let imported = list(&peer["imported"]);
    let connected = peer["link"]["state"] == "Connected";
    if peer["imports"].as_u64() == Some(0) {
        let fix = "spec.imports: - {namespaces: [shop]}, or [\"*\"] for all; or leave it, if only the other side is to import";
        found.push(note(at(peer), "spec.imports is empty: nothing is taken from it", fix));
    } else if imported.is_empty() && connected {
        let what = "it exports nothing that spec.imports takes";
        let fix = format!("in {name}: ServiceExports, and `exports` of its ClusterPeer; here: spec.imports");
        found.push(note(at(peer), what, fix));
    }
    // Of networks that overlap none is taken, however many there are.
    let is_taken = list(&peer["overlaps"]).is_empty();
    for one in imported.iter().filter(|one| is_taken && one["endpoints"] == 0) {
        let service = format!("{}/{}", word(&one["namespace"]), word(&one["name"]));
        let what = format!("{service} has no endpoint there");
        found.push(note(
            at(peer),
            what,
            format!("in {name}: `weft status`, whether its pods are ready and have a sidecar"),
        ));
    }
    found
}

/// What to do where a peer's trust bundle has a lower number than is held here, or other roots under the same one.
fn number_goes_back(name: &str) -> String {
    format!(
        "if the ClusterPeer {name} was applied with a higher number than {name} has, or with other roots, delete it, wait some seconds, and \
         apply what `weft cluster export-peer` prints in {name}; if the roots of {name} were restored from a backup, its number has to count \
         on from the highest one"
    )
}

/// Something that the peer said and may not.
fn refusal(peer: &Value, refused: &Value) -> Finding {
    let name = word(&peer["cluster"]);
    let field = word(&refused["field"]);
    let fix = match field.as_str() {
        "name" => format!("metadata.name of the ClusterPeer is the name that {name} has itself: `weft cluster export-peer` there"),
        "trust_domain" => format!("spec.trustDomain and spec.trustBundle as `weft cluster export-peer` prints them in {name}"),
        "bundle.sequence" => number_goes_back(&name),
        "bundle.roots" => format!("in {name}: look at the roots of its control plane, and at its version; what it said before still counts"),
        field if field.ends_with(".ip") => {
            "in one network no two pods have the same address: give one cluster a network of its own and gateways, or pods other addresses"
                .to_owned()
        }
        _ => format!("in {name}: look at that object; without it the rest is taken"),
    };
    let object = match word(&refused["object"]).as_str() {
        CLUSTER => "what it says of itself".to_owned(),
        object => object.to_owned(),
    };
    wrong(at(peer), format!("{object} is not taken: {}", because(refused)), fix)
}

fn because(refused: &Value) -> String {
    match (word(&refused["field"]), word(&refused["reason"])) {
        (field, reason) if field.is_empty() => reason,
        (field, reason) => format!("{field} {reason}"),
    }
}

#[cfg(test)]
pub(super) mod tests;
