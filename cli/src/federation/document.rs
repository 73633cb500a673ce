//! A ClusterPeer before it is applied: whether it can be read, whether it fits this cluster, and what to make of who answers at
//! its endpoints.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_certs::bundle::TrustBundles;
use weft_certs::verify::{Side, peer_identity, peer_not_after, verify};
use weft_control::manifests::{Writer, parse};
use weft_control::objects::host_port::HostPort;
use weft_control::objects::peer::Peer;
use weft_control::objects::{Kinds, Problem};

use super::look::Answer;
use crate::check::finding::{Finding, Report, note, wrong};
use crate::status::text::{list, word};

/// The ClusterPeers of a text, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Those that can be read.
    pub(super) peers: Vec<Peer>,
    /// All that is wrong.
    pub(super) wrong: Vec<Finding>,
    /// What says nothing.
    pub(super) notes: Vec<Finding>,
}

/// Reads the ClusterPeers of a text, with the words of the control plane.
pub(super) fn peers(path: &Path, text: &str) -> Peers {
    let said = |problem: &Problem| {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        let what = match problem.field.is_empty() {
            true => problem.message.clone(),
            false => format!("{}: {}", problem.field, problem.message),
        };
        wrong(format!("{}{line}", called(path)), what, problem.fix.clone())
    };
    let mut found = Peers::default();
    let snapshot = match parse(path, text, Writer::User, &Kinds::control()) {
        Ok(snapshot) => snapshot,
        Err(problems) => {
            found.wrong = problems.iter().map(said).collect();
            return found;
        }
    };
    found.wrong = snapshot.problems.iter().map(said).collect();
    for object in snapshot.objects.iter().filter(|object| object.kind == "ClusterPeer") {
        match Peer::of(object) {
            Ok((peer, unknown)) => {
                let at = object.reference().to_string();
                let fix = "remove it, or write what was meant";
                let told = unknown
                    .iter()
                    .map(|field| note(&at, format!("{field}: nothing understands it, so it says nothing"), fix));
                found.notes.extend(told);
                found.peers.push(peer);
            }
            Err(errors) => {
                let at = object.reference().to_string();
                let told = errors.into_iter();
                found
                    .wrong
                    .extend(told.map(|error| wrong(&at, format!("{}: {}", error.field, error.message), error.fix)));
            }
        }
    }
    if found.peers.is_empty() && found.wrong.is_empty() {
        let fix = "`weft cluster export-peer` of the other cluster prints one";
        found
            .wrong
            .push(wrong(called(path), "there is no ClusterPeer in it", fix));
    }
    found
}

/// What people call a file that is read.
fn called(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// Checks a text, beside what this cluster says of itself, if it does. Returns the peers whose endpoints can be looked at.
pub(super) fn check(path: &Path, text: &str, status: Option<&Value>, report: &mut Report) -> Vec<Peer> {
    let Peers { peers, wrong, notes } = peers(path, text);
    report.tell(format!("{} can be read", called(path)), [wrong, notes].concat());
    for peer in &peers {
        report.tell(format!("ClusterPeer {}: what it says", peer.cluster), alone(peer));
        if let Some(status) = status {
            let own = word(&status["federation"]["cluster"]);
            report.tell(
                format!("ClusterPeer {} beside this cluster, {own}", peer.cluster),
                beside(peer, status),
            );
        }
    }
    peers
}

fn at(peer: &Peer) -> String {
    format!("ClusterPeer {}", peer.cluster)
}

fn alone(peer: &Peer) -> Vec<Finding> {
    let fix =
        "spec.imports: - {namespaces: [shop]}, or [\"*\"] for all; or leave it, if only the other side is to import";
    match peer.imports.is_empty() {
        true => vec![note(
            at(peer),
            "spec.imports is empty: nothing will be taken from it",
            fix,
        )],
        false => Vec::new(),
    }
}

/// What this cluster has against it.
fn beside(peer: &Peer, status: &Value) -> Vec<Finding> {
    let own = &status["federation"];
    let (cluster, domain, network) = (word(&own["cluster"]), word(&own["trustDomain"]), word(&own["network"]));
    let mut found = Vec::new();
    if peer.cluster == cluster {
        let what = format!("metadata.name: {cluster} is this cluster's own name");
        found.push(wrong(
            at(peer),
            what,
            "apply it in the other cluster; of two clusters of one name, one needs another (WEFT_CLUSTER)",
        ));
    }
    if peer.trust_domain.to_string() == domain {
        let what = format!(
            "spec.trustDomain: {domain} is this cluster's own: neither could tell the other's identities from its own"
        );
        found.push(wrong(
            at(peer),
            what,
            "give one of the two another trust domain (WEFT_TRUST_DOMAIN), with a root of its own",
        ));
    }
    let same = |other: &&Value| {
        other["trustDomain"] == peer.trust_domain.to_string().as_str() && other["cluster"] != peer.cluster.as_str()
    };
    if let Some(other) = list(&status["peers"]).iter().find(same) {
        let what = format!(
            "spec.trustDomain: ClusterPeer {} has it, too, and the older one acts",
            word(&other["cluster"])
        );
        found.push(wrong(
            at(peer),
            what,
            "remove one of the two, or give one of the clusters another trust domain",
        ));
    }
    if peer.network != network && peer.gateways.is_empty() && !peer.imports.is_empty() {
        let what = format!(
            "it is in another network ({}, this cluster in {network}), and has no gateways",
            peer.network
        );
        let fix = "spec.gateways: the peer's east-west gateways; or one network for both, if pods reach each other: WEFT_NETWORK";
        found.push(wrong(at(peer), what, fix));
    }
    found
}

/// Whether its pods are reached through its gateways, as far as one knows.
pub(super) fn needs_gateways(peer: &Peer, status: Option<&Value>) -> bool {
    let is_flat = status.is_some_and(|status| status["federation"]["network"] == peer.network.as_str());
    !is_flat && !peer.imports.is_empty()
}

/// Where a peer shows its trust bundle.
pub(super) fn bundle_endpoint(peer: &Peer) -> Option<HostPort> {
    let url = peer.bundle_endpoint.as_ref()?;
    format!("{}:{}", url.host()?, url.port_u16().unwrap_or(443))
        .parse()
        .ok()
}

/// What to make of who answers at an endpoint: what was looked at, and what is wrong.
/// `field`: which has it.
pub(super) fn answer(
    peer: &Peer,
    field: &str,
    endpoint: &HostPort,
    answer: &Answer,
    now: SystemTime,
) -> (String, Vec<Finding>) {
    let title = format!("ClusterPeer {}: {endpoint}, from this machine", peer.cluster);
    let bad = |what: String, fix: &str| vec![wrong(at(peer), what, fix)];
    let (listen, port) = match field {
        "spec.bundleEndpoint" => ("WEFT_BUNDLE_LISTEN", 15016),
        "spec.gateways" => ("`weft gateway`", 15443),
        _ => ("WEFT_FEDERATION_LISTEN", 15013),
    };
    let found = match answer {
        Answer::NoName(error) => bad(
            format!("{field}: the name of {endpoint} does not resolve: {error}"),
            "a name that this cluster's control plane resolves, or an address",
        ),
        Answer::NoPort(error) => bad(
            format!("{field}: nothing answers at {endpoint}: {error}"),
            &format!("{listen} in the peer, and a Service or load balancer that leads there; firewalls between"),
        ),
        Answer::Open => Vec::new(),
        Answer::NoTls(error) => bad(
            format!("{field}: who answers at {endpoint} does not speak TLS 1.3: {error}"),
            &format!("the port of the peer's {listen} (usually {port}), with nothing before it that ends TLS"),
        ),
        Answer::Shows(chain) => return shown(peer, field, title, chain, now),
    };
    (title, found)
}

fn shown(
    peer: &Peer,
    field: &str,
    title: String,
    chain: &[CertificateDer<'static>],
    now: SystemTime,
) -> (String, Vec<Finding>) {
    let fix = format!(
        "spec.trustBundle and {field} as `weft cluster export-peer` prints them in {}",
        peer.cluster
    );
    let (identity, end) = match peer_identity(chain).and_then(|identity| Ok((identity, peer_not_after(chain)?))) {
        Ok(read) => read,
        Err(error) => {
            let what = format!("who answers there is no part of a mesh: its certificate: {error}");
            return (title, vec![wrong(at(peer), what, fix)]);
        }
    };
    let title = format!("{title}: {identity}, until {}", rfc3339(end));
    let mut found = Vec::new();
    let vouched = |when: SystemTime| {
        let bundles = TrustBundles::new([peer.bundle.clone()]).map_err(|error| error.to_string())?;
        let when = when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let verified = verify(chain, &bundles, Side::Server, UnixTime::since_unix_epoch(when));
        verified.map(|_| ()).map_err(|error| error.to_string())
    };
    // In its last second it is valid if ever: what fails there is not the time.
    if let Err(error) = vouched(end - Duration::from_secs(1)) {
        let what = format!("spec.trustBundle: its roots do not vouch for who answers there, {identity}: {error}");
        found.push(wrong(at(peer), what, fix));
    } else if end < now {
        let what = format!("the certificate that is shown there has ended, {}", rfc3339(end));
        let fix = format!(
            "clocks (`date -u` here and there); else the log of {}'s control plane says why it does not renew it",
            peer.cluster
        );
        found.push(wrong(at(peer), what, fix));
    } else if vouched(now).is_err() {
        let what = "the certificate that is shown there is not valid yet: one of both clocks is wrong";
        found.push(wrong(at(peer), what, "`date -u` here and there, and NTP on all nodes"));
    }
    if identity != peer.control_plane {
        let what = format!(
            "spec.controlPlane is {}, and {identity} answers there",
            peer.control_plane
        );
        let fix = format!(
            "spec.controlPlane: {identity}, if that is the peer's control plane; else {field} that leads to it"
        );
        found.push(wrong(at(peer), what, fix));
    }
    (title, found)
}

fn rfc3339(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
    use serde_json::json;

    use super::super::export::tests::{roots, status};
    use super::super::export::{peer as export, text};
    use super::*;

    fn document(change: impl FnOnce(&mut Value)) -> String {
        let mut peer = export(&status("west"), &[], &["shop".to_owned()]).unwrap();
        change(&mut peer);
        text(&peer)
    }

    /// What is found of a document, beside the cluster east.
    fn findings(document: &str, change: impl FnOnce(&mut Value)) -> Vec<Value> {
        let mut east = status("east");
        change(&mut east);
        let mut report = Report::default();
        check(Path::new("west.yaml"), document, Some(&east), &mut report);
        report.json()["findings"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn found(findings: &[Value], words: &[&str]) {
        assert_eq!(findings.len(), 1, "{findings:#?}");
        for word in words {
            assert!(
                findings[0].to_string().contains(word),
                "{word:?} is not in {}",
                findings[0]
            );
        }
    }

    #[test]
    fn what_another_cluster_prints_has_nothing_wrong_and_without_imports_a_note() {
        assert_eq!(findings(&document(|_| ()), |_| ()), Vec::<Value>::new());
        let empty = findings(&document(|peer| peer["spec"]["imports"] = json!([])), |_| ());
        found(&empty, &["note", "spec.imports"]);
    }

    #[test]
    fn a_field_that_is_wrong_is_named_with_its_fix() {
        let wrong = document(|peer| peer["spec"]["controlPlane"] = json!("spiffe://other/ns/a/sa/b"));
        found(
            &findings(&wrong, |_| ()),
            &[
                "ClusterPeer west",
                "spec.controlPlane",
                "wrong",
                "spiffe://west.weft.internal/",
            ],
        );
        let mistyped = document(|peer| peer["spec"]["import"] = json!([]));
        found(&findings(&mistyped, |_| ()), &["spec.import", "imports"]);
    }

    #[test]
    fn a_field_beside_spec_that_nothing_understands_is_worth_knowing() {
        let more = document(|peer| peer["imports"] = json!([]));
        found(
            &findings(&more, |_| ()),
            &["note", "ClusterPeer west", "imports: nothing", "says nothing"],
        );
    }

    #[test]
    fn gateways_are_looked_at_where_pods_are_reached_through_them() {
        let east = status("east");
        let read = |change: &dyn Fn(&mut Value)| peers(Path::new("-"), &document(change)).peers.remove(0);
        assert!(needs_gateways(&read(&|_| ()), Some(&east)));
        assert!(needs_gateways(&read(&|_| ()), None), "nothing is known of this cluster");
        assert!(!needs_gateways(
            &read(&|peer| peer["spec"]["network"] = json!("east")),
            Some(&east)
        ));
        assert!(!needs_gateways(
            &read(&|peer| peer["spec"]["imports"] = json!([])),
            Some(&east)
        ));
        let peer = read(&|_| ());
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let look = |looked: &Answer| answer(&peer, "spec.gateways", &peer.gateways[0], looked, now()).1;
        assert!(look(&Answer::Open).is_empty());
        let closed = look(&Answer::NoPort(refused()));
        assert!(
            closed[0].wrong
                && closed[0]
                    .what
                    .contains("spec.gateways: nothing answers at 192.0.2.7:15443")
        );
        assert!(closed[0].fix.contains("`weft gateway` in the peer"), "{closed:?}");
    }

    #[test]
    fn a_text_that_is_no_yaml_or_has_no_peer_is_told_so() {
        found(&findings("a: [", |_| ()), &["west.yaml:", "YAML"]);
        let other = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        found(&findings(other, |_| ()), &["no ClusterPeer", "export-peer"]);
    }

    #[test]
    fn what_does_not_fit_this_cluster_is_found() {
        let own =
            |field: &'static str, value: &'static str| move |east: &mut Value| east["federation"][field] = json!(value);
        let west = document(|_| ());
        found(
            &findings(&west, own("cluster", "west")),
            &["metadata.name", "WEFT_CLUSTER"],
        );
        found(
            &findings(&west, own("trustDomain", "west.weft.internal")),
            &["spec.trustDomain", "WEFT_TRUST_DOMAIN"],
        );
        found(
            &findings(&west, |east| {
                east["peers"] = json!([{"cluster": "wst", "trustDomain": "west.weft.internal"}])
            }),
            &["ClusterPeer wst", "the older one acts"],
        );
        // The same one, written anew, is none of its own rivals.
        let again =
            |east: &mut Value| east["peers"] = json!([{"cluster": "west", "trustDomain": "west.weft.internal"}]);
        assert_eq!(findings(&west, again), Vec::<Value>::new());
        let without = document(|peer| peer["spec"]["gateways"] = json!([]));
        found(&findings(&without, |_| ()), &["spec.gateways", "WEFT_NETWORK"]);
        assert_eq!(findings(&without, own("network", "west")), Vec::<Value>::new());
    }

    /// A leaf by these roots, valid for these hours around now.
    fn leaf(issuer: &Issuer<'_, KeyPair>, identity: &str, hours: std::ops::Range<i64>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = OffsetDateTime::from(now());
        params.not_before = now + time::Duration::hours(hours.start);
        params.not_after = now + time::Duration::hours(hours.end);
        params
            .signed_by(&KeyPair::generate().unwrap(), issuer)
            .unwrap()
            .der()
            .clone()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    const CONTROL: &str = "spiffe://west.weft.internal/ns/weft-system/sa/weft-control";

    /// What is made of who answers with a leaf that `west`'s own roots have issued, or others.
    fn shown(identity: &str, hours: std::ops::Range<i64>, own: bool) -> (String, Vec<Value>) {
        let mut west = status("west");
        let (pem, issuer) = roots("west.weft.internal");
        if own {
            west["federation"]["roots"] = json!(pem);
        }
        let read = peers(Path::new("-"), &text(&export(&west, &[], &[]).unwrap()));
        let peer = &read.peers[0];
        let shows = Answer::Shows(vec![leaf(&issuer, identity, hours)]);
        let (title, found) = answer(peer, "spec.endpoints", &peer.endpoints[0], &shows, now());
        let mut report = Report::default();
        report.tell(title.clone(), found);
        (title, report.json()["findings"].as_array().unwrap().clone())
    }

    #[test]
    fn the_control_plane_that_is_named_is_shown_with_its_identity_and_end() {
        let (title, findings) = shown(CONTROL, -1..23, true);
        assert_eq!(findings, Vec::<Value>::new());
        assert!(
            title.contains(CONTROL) && title.ends_with("until 2027-01-16T07:00:00Z"),
            "{title}"
        );
    }

    #[test]
    fn roots_that_do_not_vouch_for_who_answers_are_told() {
        found(
            &shown(CONTROL, -1..23, false).1,
            &["spec.trustBundle", "do not vouch", "export-peer"],
        );
    }

    #[test]
    fn another_identity_is_told_beside_the_one_that_is_named() {
        let other = "spiffe://west.weft.internal/ns/mesh/sa/weft-control";
        found(&shown(other, -1..23, true).1, &["spec.controlPlane", other, CONTROL]);
    }

    #[test]
    fn a_certificate_that_has_ended_or_is_not_valid_yet_is_no_matter_of_roots() {
        found(&shown(CONTROL, -25..-1, true).1, &["has ended", "date -u"]);
        found(&shown(CONTROL, 1..25, true).1, &["not valid yet", "NTP"]);
    }

    #[test]
    fn where_nobody_of_a_mesh_answers_each_step_has_its_words() {
        let read = peers(Path::new("-"), &document(|_| ()));
        let peer = &read.peers[0];
        let error = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (looked, word) in [
            (Answer::NoName(error()), "does not resolve"),
            (Answer::NoPort(error()), "nothing answers"),
            (Answer::NoTls(error()), "TLS 1.3"),
            (
                Answer::Shows(vec![CertificateDer::from(vec![1, 2, 3])]),
                "no part of a mesh",
            ),
        ] {
            let (_, found) = answer(peer, "spec.endpoints", &peer.endpoints[0], &looked, now());
            assert!(
                found.len() == 1 && found[0].wrong && found[0].what.contains(word),
                "{found:?}"
            );
        }
    }
}
