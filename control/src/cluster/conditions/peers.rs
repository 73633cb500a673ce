//! What the status of a ClusterPeer says beside what is said of any object: how the link to it is, and what comes of it.
//!
//! It changes with what the link is, and not with each attempt: why it is broken is what lasts ([`LinkState::lasting`]).

use serde_json::{Value, json};

use super::{Said, Scribe, of_type, short};
use crate::serve::hub::{Lasting, Link, LinkState};
use crate::status::applied::Verdict;
use crate::status::{PeerVerdict, Way, rfc3339};

/// The condition of a peer that says how the link is.
pub(super) const CONNECTED: &str = "Connected";
/// Why it is not connected though it answers: it says that it is another.
const OTHER: &str = "OtherCluster";
/// The condition of a peer that says how its pods are reached.
pub(super) const REACHABLE: &str = "Reachable";
/// The fields beside the conditions.
const FIELDS: [&str; 4] = ["imported", "exported", "trustBundle", "lastHeard"];

impl Scribe<'_> {
    /// The status of a peer, where it is another than `before`.
    pub(super) fn peer(&self, verdict: &Verdict, before: &Value) -> Option<Value> {
        let mut said = self.said(&verdict.status.conditions, &verdict.holders, &before["conditions"]);
        let mut status = json!({});
        if let Some(peer) = &verdict.peer {
            said.push(self.connected(peer, before));
            said.extend(self.reachable(peer, before));
            status = fields(peer);
        }
        let (conditions, differ) = self.ours(&said, &before["conditions"]);
        status["conditions"] = conditions.into();
        let differ = differ || FIELDS.into_iter().any(|field| status.get(field) != before.get(field));
        differ.then_some(status)
    }

    fn connected(&self, peer: &PeerVerdict, before: &Value) -> Said {
        let Some(link) = &peer.link else {
            let there = of_type(before, &CONNECTED.into());
            let there = there.filter(|there| there["observedGeneration"].as_u64() == Some(self.generation));
            return there.and_then(Said::of).unwrap_or_else(|| Said {
                r#type: CONNECTED,
                status: "Unknown",
                reason: Link::Connecting.word().to_owned(),
                message: "it was not called yet".to_owned(),
            });
        };
        let unlike = peer.unlike.as_ref().filter(|_| link.state == Link::Connected);
        let (status, reason, message) = match (link.state, unlike) {
            (_, Some(why)) => ("False", OTHER, other(why)),
            (Link::Connected, None) => ("True", link.state.word(), message(link, peer)),
            _ => ("False", link.state.word(), message(link, peer)),
        };
        Said {
            r#type: CONNECTED,
            status,
            reason: reason.to_owned(),
            message: short(&message),
        }
    }

    /// While the peer has not been heard of since the start, what was said of it before stays.
    fn reachable(&self, peer: &PeerVerdict, before: &Value) -> Option<Said> {
        let Some(way) = &peer.way else {
            let there = of_type(before, &REACHABLE.into());
            let there = there.filter(|there| there["observedGeneration"].as_u64() == Some(self.generation));
            return there.and_then(Said::of);
        };
        let (status, reason, message) = reach(way);
        Some(Said {
            r#type: REACHABLE,
            status,
            reason: reason.to_owned(),
            message: short(&message),
        })
    }
}

/// How its pods are reached: status, reason, message.
fn reach(way: &Way) -> (&'static str, &'static str, String) {
    match way {
        Way::Direct => ("True", "Direct", "its pods are dialled at their addresses".to_owned()),
        Way::Gateways => ("True", "Gateways", "its pods are reached through its gateways".to_owned()),
        Way::NoGateways => (
            "False",
            "NoGateways",
            "its pods are in another network, and spec.gateways names none of its gateways (fix: `weft cluster export-peer` there prints \
             them)"
                .to_owned(),
        ),
        Way::NothingImported => (
            "True",
            "NothingImported",
            "spec.imports is empty: none of its pods is called from here, and no gateway is needed".to_owned(),
        ),
        Way::Overlaps(networks) => (
            "False",
            "OverlappingNetworks",
            format!(
                "spec.network says that its pods are in this cluster's network, and its networks overlap with this cluster's own: {}; an \
                 address may be a pod's of either, so none of its endpoints is taken (fix: give each of the two clusters a network of its \
                 own, WEFT_NETWORK, and gateways; or pods other addresses)",
                networks.join(", ")
            ),
        ),
    }
}

/// What it says of itself is not what the ClusterPeer is about.
fn other(why: &str) -> String {
    format!(
        "it says of itself that it is another cluster than is named here, of which no endpoints are taken: {why} (fix: `weft cluster check` \
         says it)"
    )
}

fn message(link: &LinkState, peer: &PeerVerdict) -> String {
    let heard = link.heard.map(rfc3339).unwrap_or_default();
    let until = link
        .heard
        .and_then(|heard| heard.checked_add(peer.keep_for))
        .map(rfc3339)
        .unwrap_or_default();
    let Lasting { endpoint, reason, .. } = &link.lasting;
    let why = match reason.is_empty() {
        true => String::new(),
        false => format!(": {reason} ({endpoint}); `weft cluster check` says more"),
    };
    match link.state {
        Link::Connected => "what it exports comes as it changes".to_owned(),
        Link::Connecting => format!("it was never reached{why}"),
        Link::Stale => format!("it was last heard of at {heard}, and what it exported is kept until {until}{why}"),
        Link::Forgotten => format!("it was last heard of at {heard}, and nothing is imported from it any more{why}"),
    }
}

fn fields(peer: &PeerVerdict) -> Value {
    let (sequence, roots) = &peer.bundle;
    let mut fields = json!({
        "imported": peer.imported, "exported": peer.exported,
        "trustBundle": {"sequence": sequence, "roots": roots},
    });
    // While it is connected that is now, and not worth a write.
    let broken = peer.link.as_ref().filter(|link| link.state != Link::Connected);
    if let Some(heard) = broken.and_then(|link| link.heard) {
        fields["lastHeard"] = rfc3339(heard).into();
    }
    fields
}
