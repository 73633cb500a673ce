//! Why a link is not connected, and what to do: from the word that the control plane has for it, and from the reason beside it,
//! which holds what TLS says.

use serde_json::Value;

use crate::check::finding::{Finding, note, wrong};
use crate::status::text::word;

/// What is known of a link that is not connected.
pub(super) struct Fault<'a> {
    /// The peer's cluster.
    peer: &'a str,
    /// Our own.
    own: &'a str,
    endpoint: String,
    word: String,
    reason: String,
}

/// How a certificate of the other side was not taken, in rustls' words.
const EXPIRED: &str = "certificate expired";
const NOT_YET: &str = "certificate not valid yet";
const UNKNOWN: &str = "UnknownIssuer";
/// The same of a root that has the name of one that is known: it was made anew.
const ANEW: &str = "InvalidSignatureForPublicKey";
/// And how the other side did not take ours: the control plane's words or rustls', then the name of the alert (RFC 8446, section 6).
const ALERTS: [&str; 2] = ["TLS alert ", "fatal alert: "];
/// What is left of it where the connection is gone before the alert is read.
const DROPPED: &str = "not connected";
const CLOCKS: &str = "`date -u` where both control planes run, and NTP on all nodes: certificates are valid from two minutes before they \
                      are made";

impl<'a> Fault<'a> {
    /// What is wrong with the link to a peer, if it is not connected.
    pub(super) fn of(peer: &'a str, own: &'a str, link: &Value) -> Option<Finding> {
        let state = word(&link["state"]);
        if state == "Connected" {
            return None;
        }
        let fault = Self {
            peer,
            own,
            endpoint: word(&link["endpoint"]),
            word: word(&link["fault"]),
            reason: word(&link["reason"]),
        };
        let at = format!("ClusterPeer {peer}");
        if fault.word.is_empty() && fault.reason.is_empty() && state == "Connecting" {
            return Some(note(at, "is being connected for the first time", "look again"));
        }
        let (what, fix) = fault.told();
        let kept = match state.as_str() {
            "Stale" => "; what it exported is kept for now, as it was",
            "Forgotten" => "; what it exported is not used any more, for it was silent for longer than keepFor",
            _ => "",
        };
        Some(wrong(at, format!("{what}{kept}"), fix))
    }

    /// That the peer ends what it has just taken: who does not take a certificate says so only then (RFC 8446, 4.4.2.4), and a
    /// control plane that has no ClusterPeer of that trust domain takes none.
    fn dropped(&self) -> Option<(String, String)> {
        let Self {
            peer,
            own,
            endpoint,
            reason,
            ..
        } = self;
        if self.word != "stream" || !reason.contains(DROPPED) {
            return None;
        }
        let what = format!(
            "who answers at {endpoint} ends each connection at once, as {peer} does if it does not take this cluster's certificate: {reason}"
        );
        let fix = format!(
            "in {peer}: ClusterPeer {own}, with this cluster's trustBundle: `weft cluster export-peer` here, `kubectl apply -f -` there; and \
             {endpoint} leads to its WEFT_FEDERATION_LISTEN (usually 15013), not to the port of proxies"
        );
        Some((what, fix))
    }

    fn told(&self) -> (String, String) {
        let Self {
            peer, endpoint, reason, ..
        } = self;
        let because = |what: &str| format!("{what}: {reason}");
        if let Some(told) = self.certificate().or_else(|| self.alert()).or_else(|| self.dropped()) {
            return told;
        }
        let fix = match self.word.as_str() {
            "name" => format!(
                "spec.endpoints: names that this cluster's control plane resolves, or addresses; {endpoint} is none"
            ),
            "port" => format!(
                "in {peer}: WEFT_FEDERATION_LISTEN is set, and a Service or load balancer leads to it from {endpoint}; between both: \
                 firewalls and NetworkPolicies let it pass; here: spec.endpoints is as `weft cluster export-peer` prints it in {peer}"
            ),
            "identity" => {
                format!(
                    "spec.controlPlane and spec.trustBundle as `weft cluster export-peer` prints them in {peer}; {endpoint} leads there"
                )
            }
            "tls" => format!(
                "{endpoint} leads to the port of WEFT_FEDERATION_LISTEN of {peer} (usually 15013), and TLS is passed on as it is: a load \
                 balancer before {peer} must not end it, nor speak HTTP"
            ),
            "protocol" => format!(
                "{endpoint} leads to the port of WEFT_FEDERATION_LISTEN of {peer} (usually 15013), and to no other"
            ),
            "slow" => format!(
                "look at the load of {peer}'s control plane, and at what lies between: packets of full size may be lost (MTU)"
            ),
            "refused" => return self.refused(),
            "message" => format!(
                "upgrade the older of the two control planes, if they are of different versions; else {peer} says more than is taken of one \
                 peer: narrow spec.imports here, or spec.exports there"
            ),
            "version" => format!(
                "upgrade the older of the two control planes: {peer} does not speak this one's federation protocol"
            ),
            _ => format!("it is begun anew by itself; if it stays so, the log of {peer}'s control plane says more"),
        };
        let what = match self.word.as_str() {
            "name" => because("the name of its endpoint does not resolve"),
            "port" => because("nothing answers at its endpoint"),
            "identity" => because("who answers at its endpoint is not its control plane"),
            "tls" => because("its endpoint does not shake hands as the mesh does"),
            "protocol" => because("who answers at its endpoint does not speak the federation protocol"),
            "slow" => because("it does not answer in time"),
            "message" => because("what it says cannot be taken in"),
            "version" => because("it speaks another version of the federation protocol"),
            "ended" => because("it ended the link"),
            _ => because("the link is broken"),
        };
        (what, fix)
    }

    /// What is wrong with the certificate that the peer shows. Other reasons are the peer's own words.
    fn certificate(&self) -> Option<(String, String)> {
        let Self {
            peer, endpoint, reason, ..
        } = self;
        if !["identity", "tls"].contains(&self.word.as_str()) {
            return None;
        }
        let told = if reason.contains(EXPIRED) {
            let fix = format!(
                "{CLOCKS}; if they are right, the log of {peer}'s control plane says why it does not renew its own"
            );
            (
                format!("the certificate of {peer}'s control plane has ended: {reason}"),
                fix,
            )
        } else if reason.contains(NOT_YET) {
            let what = format!(
                "the certificate of {peer}'s control plane is not valid yet, so one of both clocks is wrong: {reason}"
            );
            (what, CLOCKS.to_owned())
        } else if let Some((expected, found)) = unexpected(reason) {
            let what = format!("{found} answers at {endpoint}, and spec.controlPlane is {expected}");
            let fix = format!(
                "spec.controlPlane: {found}, if that is {peer}'s control plane; else spec.endpoints that lead to it"
            );
            (what, fix)
        } else if [UNKNOWN, ANEW].iter().any(|word| reason.contains(word)) {
            let what = format!(
                "the roots of spec.trustBundle do not vouch for who answers at {endpoint}: they are not {peer}'s, or it is of another \
                 trust domain ({reason})"
            );
            let fix = format!(
                "spec.trustBundle and spec.trustDomain as `weft cluster export-peer` prints them in {peer}; and {endpoint} is {peer}'s"
            );
            (what, fix)
        } else {
            return None;
        };
        Some(told)
    }

    /// What the peer says of the certificate that this cluster's control plane shows. It says so after the handshake; what ends
    /// that itself has seen no certificate yet.
    fn alert(&self) -> Option<(String, String)> {
        let Self { peer, own, reason, .. } = self;
        if self.word == "tls" {
            return None;
        }
        let (_, alert) = ALERTS.iter().find_map(|words| reason.split_once(words))?;
        let alert = alert
            .split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default();
        let what = format!("{peer} does not take the certificate of this cluster's control plane ({alert}): {reason}");
        let fix = match alert {
            // Also said of one that is not valid yet.
            "CertificateExpired" => format!(
                "{CLOCKS}; if they are right, the log of this cluster's control plane says why it does not renew its own"
            ),
            _ => format!(
                "in {peer}: ClusterPeer {own} has the trust bundle of this cluster: `weft cluster export-peer` here, `kubectl apply -f -` there"
            ),
        };
        Some((what, fix))
    }

    fn refused(&self) -> (String, String) {
        let Self { peer, own, reason, .. } = self;
        let what = format!("{peer} does not know this cluster, or as another one: {reason}");
        let fix = format!(
            "in {peer}: a ClusterPeer named {own}, with this cluster's controlPlane and trustBundle: `weft cluster export-peer` here, \
             `kubectl apply -f -` there"
        );
        (what, fix)
    }
}

/// The identities of `expected A, found B`.
fn unexpected(reason: &str) -> Option<(&str, &str)> {
    const EXPECTED: &str = "expected ";
    let at = reason.find("expected spiffe://")?;
    let (expected, rest) = reason[at + EXPECTED.len()..].split_once(", found ")?;
    Some((expected, rest.split_whitespace().next()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn link(word: &str, reason: &str) -> Value {
        json!({"state": "Connecting", "endpoint": "west.example:15013", "fault": word, "reason": reason})
    }

    /// That a fault is named by these words, and mended by those.
    #[track_caller]
    fn check(word: &str, reason: &str, what: &[&str], fix: &[&str]) {
        let found = Fault::of("west", "east", &link(word, reason)).expect("a finding");
        assert!(found.wrong && found.at == "ClusterPeer west", "{found:?}");
        for part in what {
            assert!(found.what.contains(part), "{part:?} is not in {:?}", found.what);
        }
        for part in fix {
            assert!(found.fix.contains(part), "{part:?} is not in {:?}", found.fix);
        }
    }

    #[test]
    fn a_name_that_does_not_resolve_and_a_port_that_is_closed_are_the_endpoints() {
        let reason = "the name west.example:15013 does not resolve: failed to lookup address information";
        check(
            "name",
            reason,
            &["does not resolve"],
            &["spec.endpoints", "west.example:15013"],
        );
        let reason = "west.example:15013 does not answer: Connection refused (os error 111)";
        check(
            "port",
            reason,
            &["nothing answers", "refused"],
            &["WEFT_FEDERATION_LISTEN", "NetworkPolicies"],
        );
    }

    #[test]
    fn a_wrong_bundle_is_known_by_the_issuer_that_it_does_not_have() {
        // Or has by name: a root that was made anew.
        for error in ["UnknownIssuer", "InvalidSignatureForPublicKey"] {
            let reason = format!(
                "who answers at west.example:15013 is not the peer's control plane: invalid peer certificate: {error}"
            );
            check(
                "identity",
                &reason,
                &["spec.trustBundle", "do not vouch"],
                &["export-peer", "west"],
            );
        }
    }

    #[test]
    fn another_control_plane_than_the_one_that_is_named_is_shown_with_both_identities() {
        let (expected, found) = (
            "spiffe://west/ns/weft-system/sa/weft-control",
            "spiffe://west/ns/mesh/sa/weft-control",
        );
        let reason = format!(
            "who answers is not the peer's control plane: invalid peer certificate: expected {expected}, found {found}"
        );
        check(
            "identity",
            &reason,
            &[expected, found],
            &[&format!("spec.controlPlane: {found},")],
        );
        assert_eq!(unexpected(&reason), Some((expected, found)));
        assert_eq!(unexpected("expected nothing, found it"), None);
    }

    #[test]
    fn a_certificate_that_has_ended_is_not_taken_for_a_stranger() {
        let reason = "invalid peer certificate: certificate expired: verification time 9 (UNIX), but certificate is not valid after 5 (4 \
                      seconds ago)";
        for word in ["identity", "tls"] {
            check(word, reason, &["has ended", "4 seconds ago"], &["date -u", "renew"]);
        }
    }

    #[test]
    fn a_certificate_that_is_not_valid_yet_is_the_clocks() {
        let reason = "invalid peer certificate: certificate not valid yet: verification time 5 (UNIX), but certificate is not valid before 9";
        check("identity", reason, &["not valid yet", "clocks"], &["NTP"]);
    }

    #[test]
    fn an_alert_is_what_the_peer_says_of_our_certificate_whenever_it_comes() {
        for (word, reason) in [
            (
                "refused",
                "the peer does not take this cluster's certificate: TLS alert UnknownCA",
            ),
            (
                "protocol",
                "west.example:15013 does not speak gRPC: transport error: received fatal alert: UnknownCA",
            ),
        ] {
            let what = &["does not take the certificate", "UnknownCA"];
            check(word, reason, what, &["ClusterPeer east", "export-peer"]);
        }
        let reason = "the peer does not take this cluster's certificate: TLS alert CertificateExpired";
        check("refused", reason, &["CertificateExpired"], &["date -u"]);
    }

    #[test]
    fn an_alert_within_the_handshake_is_the_endpoints_tls_and_not_our_certificate() {
        for alert in ["HandshakeFailure", "ProtocolVersion", "NoApplicationProtocol"] {
            let reason = format!("the TLS handshake with west.example:15013 failed: received fatal alert: {alert}");
            check("tls", &reason, &["does not shake hands"], &["must not end it"]);
        }
    }

    #[test]
    fn a_connection_that_is_ended_at_once_is_one_without_our_roots_on_the_other_side() {
        let reason = "the peer ended the stream: The service is currently unavailable: not connected";
        check(
            "stream",
            reason,
            &["at once", "does not take this cluster's certificate"],
            &["ClusterPeer east", "WEFT_FEDERATION_LISTEN"],
        );
    }

    #[test]
    fn who_does_not_know_us_is_to_be_given_our_cluster_peer() {
        let reason = "the peer ended the stream: PermissionDenied: spiffe://east/… is not the control plane that a ClusterPeer east names here";
        check(
            "refused",
            reason,
            &["does not know this cluster"],
            &["a ClusterPeer named east", "export-peer"],
        );
    }

    #[test]
    fn what_is_between_or_older_is_named() {
        check(
            "tls",
            "the TLS handshake failed: received corrupt message",
            &["shake hands"],
            &["load balancer", "15013"],
        );
        check("protocol", "does not speak gRPC", &["federation protocol"], &["15013"]);
        check(
            "slow",
            "the peer does not open the stream in time",
            &["in time"],
            &["MTU"],
        );
        check(
            "version",
            "the peer ended the stream: Unimplemented",
            &["another version"],
            &["upgrade"],
        );
        check(
            "message",
            "the peer says something that is not read here: a message that has more than 1048576 parts",
            &["cannot be taken in"],
            &["upgrade", "spec.imports"],
        );
        check("ended", "the peer ended the stream", &["ended"], &["log"]);
        check("stream", "the peer ended the stream: Internal", &["broken"], &["log"]);
    }

    #[test]
    fn a_link_that_is_connected_has_no_fault_and_a_new_one_only_a_note() {
        assert_eq!(
            Fault::of(
                "west",
                "east",
                &json!({"state": "Connected", "fault": "", "reason": ""})
            ),
            None
        );
        let new = Fault::of("west", "east", &link("", "")).unwrap();
        assert!(!new.wrong, "{new:?}");
    }

    #[test]
    fn what_becomes_of_what_was_imported_is_told() {
        for (state, says) in [("Stale", "kept for now"), ("Forgotten", "keepFor")] {
            let link = json!({"state": state, "fault": "ended", "reason": "the peer ended the stream"});
            let found = Fault::of("west", "east", &link).unwrap();
            assert!(found.wrong && found.what.contains(says), "{found:?}");
        }
    }
}
