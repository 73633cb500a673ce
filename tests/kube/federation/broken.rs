//! What can be wrong with a link between two clusters: `weft cluster check` names it with its fix, and where it is the ClusterPeer's,
//! so do its conditions.

use serde_json::{Value, json};
use weft_tests::kube::{said, until};

use super::sides::{Side, condition};

/// A node that is not there, where both clusters would have their pods.
const NODE: &str = "{apiVersion: v1, kind: Node, metadata: {name: nowhere}, spec: {podCIDR: 10.98.0.0/24}}";

/// Two linked clusters, and what is wrong in the first.
struct Broken<'a> {
    here: &'a Side,
    there: &'a Side,
    /// The ClusterPeer by which it knows the other one, as it should be.
    peer: Value,
    found: usize,
}

/// What `weft cluster export-peer` prints.
#[track_caller]
fn exported(side: &Side) -> Value {
    let printed = side.printed(&["cluster", "export-peer", "--imports", "shop", "-o", "json"]);
    serde_json::from_str(&printed).expect("JSON")
}

/// What `weft cluster check` finds wrong: what it is, and the fix.
#[track_caller]
fn findings(side: &Side) -> Vec<String> {
    let output = side.weft(&["cluster", "check", "-o", "json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    let all = report["findings"].as_array().expect("findings").iter();
    let wrong = all.filter(|one| one["level"] == "wrong" && one["fix"] != "");
    wrong
        .map(|one| format!("{}: {} (fix: {})", one["where"], one["what"], one["fix"]))
        .collect()
}

impl Broken<'_> {
    /// That it is found here, all words of it in one finding.
    #[track_caller]
    fn found(&mut self, what: &str, words: &[&str]) {
        let has = |finding: &String| words.iter().all(|word| finding.contains(word));
        let one = || findings(self.here).into_iter().find(has);
        let now = || format!("{words:?} are not in one of {:#?}", findings(self.here));
        println!("{what}: {}", until(&format!("{what} is found"), one, now));
        self.found += 1;
    }

    /// That the ClusterPeer is found to be wrong with this change of its spec.
    #[track_caller]
    fn finds(&mut self, what: &str, change: Value, words: &[&str]) {
        let mut peer = self.peer.clone();
        for (field, value) in change.as_object().expect("fields") {
            peer["spec"][field] = value.clone();
        }
        assert_ne!(peer, self.peer, "{what}: nothing is broken");
        self.here.cluster.apply(&[], &peer.to_string());
        self.found(what, words);
    }

    /// That the ClusterPeer, as it is now, says False of this.
    #[track_caller]
    fn is_told(&self, kind: &str) {
        let look = || self.here.cluster.get(["clusterpeer", self.there.name]);
        let so = || (condition(&look(), kind)["status"] == "False").then_some(());
        until(&format!("{kind} is False"), so, || format!("{:#}", look()["status"]));
    }
}

/// Leaves it broken: the two documents, applied anew, mend it.
#[track_caller]
pub(super) fn each_is_named(here: &Side, there: &Side) {
    let own = exported(here);
    let mut broken = Broken {
        here,
        there,
        peer: exported(there),
        found: 0,
    };
    of_who_it_is(&mut broken, &own["spec"]);
    of_where_it_is(&mut broken);
    of_networks(&mut broken, &own["spec"]);
    of_objects(&mut broken, &own);
    assert!(broken.found >= 10, "{} broken set-ups", broken.found);
}

fn of_who_it_is(broken: &mut Broken<'_>, own: &Value) {
    broken.finds(
        "wrong bundle",
        json!({"trustBundle": own["trustBundle"]}),
        &["spec.trustBundle", "do not vouch"],
    );
    broken.is_told("Connected");
    broken.finds(
        "same trust domain",
        json!({"trustDomain": own["trustDomain"], "controlPlane": own["controlPlane"]}),
        &["spec.trustDomain", "of this cluster", "another trust domain"],
    );
    broken.is_told("Accepted");
    let domain = broken.peer["spec"]["trustDomain"].as_str().expect("a trust domain");
    let identity = format!("spiffe://{domain}/ns/mesh/sa/weft-control");
    broken.finds(
        "another control plane",
        json!({"controlPlane": identity}),
        &["spec.controlPlane", &identity],
    );
    broken.is_told("Connected");
}

fn of_where_it_is(broken: &mut Broken<'_>) {
    let endpoint = broken.peer["spec"]["endpoints"][0].as_str().expect("an endpoint");
    let (host, _) = endpoint.rsplit_once(':').expect("a port");
    // Nobody listens there.
    let closed = format!("{host}:1");
    broken.finds(
        "closed port",
        json!({"endpoints": [closed]}),
        &["nothing answers", "WEFT_FEDERATION_LISTEN"],
    );
    broken.is_told("Connected");
    broken.finds(
        "a name of nobody",
        json!({"endpoints": ["weft.nobody.svc.cluster.local:15013"]}),
        &["does not resolve", "spec.endpoints"],
    );
    broken.finds(
        "closed port of the bundle endpoint",
        json!({"bundleEndpoint": format!("https://{closed}/")}),
        &["bundle endpoint", "WEFT_BUNDLE_LISTEN"],
    );
}

fn of_networks(broken: &mut Broken<'_>, own: &Value) {
    broken.finds("no gateways", json!({"gateways": []}), &["spec.gateways"]);
    broken.is_told("Reachable");
    let sides = [broken.here, broken.there];
    for side in sides {
        side.cluster.apply(&[], NODE);
    }
    broken.finds(
        "overlapping networks as one",
        json!({"network": own["network"]}),
        &["10.98.0.0/24", "WEFT_NETWORK"],
    );
    broken.is_told("Reachable");
    for side in sides {
        side.cluster.kubectl(["delete", "node", "nowhere"]);
    }
}

/// Objects of another name, or that are not there.
fn of_objects(broken: &mut Broken<'_>, own: &Value) {
    let (here, there) = (broken.here, broken.there);
    here.cluster.kubectl(["delete", "clusterpeer", there.name]);
    let mut named = broken.peer.clone();
    named["metadata"]["name"] = json!("north");
    here.cluster.apply(&[], &named.to_string());
    broken.found("wrong name", &["metadata.name"]);
    here.cluster.kubectl(["delete", "clusterpeer", "north"]);
    here.cluster.apply(&[], &broken.peer.to_string());
    let name = own["metadata"]["name"].as_str().expect("a name");
    there.cluster.kubectl(["delete", "clusterpeer", name]);
    broken.found(
        "no ClusterPeer on the other side",
        &["ClusterPeer", "export-peer", name],
    );
}
