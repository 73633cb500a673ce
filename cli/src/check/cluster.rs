//! What Weft needs of a cluster.

use serde_json::Value;

use super::federated;
use super::finding::{Finding, Report, note, wrong};
use super::seen::Seen;
use crate::cluster::api::Answer;

/// From here on init containers may be sidecars without a feature gate (KEP-753).
const MINOR_MIN: u64 = 29;
/// A leaf is back-dated by two minutes: from there on a new one is not valid yet where the clock is behind.
const SKEW_WRONG: u64 = 90;
/// Clocks that anybody keeps are closer.
const SKEW_NOTE: u64 = 10;
/// The Gateway API that Weft is tested with.
const GATEWAY_API: &str = "v1.6.1";
/// Where the Multi-Cluster Services API keeps its CRDs, in the version that Weft is tested with.
const MCS: &str = "https://raw.githubusercontent.com/kubernetes-sigs/mcs-api/v0.5.0/config/crd/multicluster.x-k8s.io";
/// The first in which routes may be attached to a Service (GEP-1294).
const GATEWAY_API_MIN: (u64, u64) = (1, 1);
/// Annotations of the Gateway API's CRDs.
const BUNDLE: &str = "gateway.networking.k8s.io/bundle-version";
const CHANNEL: &str = "gateway.networking.k8s.io/channel";

/// Kinds of the Gateway API that Weft honours, and the versions that it reads.
const ROUTES: [(&str, &[&str]); 4] = [
    ("httproutes.gateway.networking.k8s.io", &["v1", "v1beta1"]),
    ("grpcroutes.gateway.networking.k8s.io", &["v1"]),
    ("tcproutes.gateway.networking.k8s.io", &["v1", "v1alpha2"]),
    ("tlsroutes.gateway.networking.k8s.io", &["v1", "v1alpha3", "v1alpha2"]),
];

fn install_gateway_api() -> String {
    format!(
        "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/{GATEWAY_API}/\
         standard-install.yaml"
    )
}

/// Version, clock and the CRDs of others.
pub(super) fn check(seen: &Seen, report: &mut Report) {
    let version = seen.version["gitVersion"].as_str().unwrap_or("of an unknown version");
    report.tell(format!("the API server answers: {version}"), old(version));
    report.tell("its clock agrees with this machine's", skew(seen.ahead));
    let (title, findings) = gateway_api(seen);
    report.tell(title, findings);
    report.tell(
        "the CRDs of MCS, which only a mesh of several clusters needs",
        mcs(seen),
    );
}

/// Numbers of a version: `v1.36.4` or `v1.6.1-rc.1`.
fn numbers(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.strip_prefix('v')?.split('.');
    let number = |part: Option<&str>| {
        let digits: String = part?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((number(parts.next())?, number(parts.next())?))
}

fn old(version: &str) -> Vec<Finding> {
    match numbers(version) {
        Some(found) if found < (1, MINOR_MIN) => vec![wrong(
            "API server",
            format!("{version} has no native sidecars by default"),
            format!("upgrade Kubernetes to 1.{MINOR_MIN} or newer"),
        )],
        Some(_) => Vec::new(),
        None => vec![note(
            "API server",
            format!("{version:?} is no version that can be read"),
            "",
        )],
    }
}

fn skew(ahead: Option<i64>) -> Vec<Finding> {
    let Some(ahead) = ahead else {
        return vec![note("API server", "it does not say what time it has", "")];
    };
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let what = format!("its clock is {} s {way} this machine's", ahead.unsigned_abs());
    let fix = "keep the clocks of all nodes by NTP; certificates are valid from two minutes before they are made";
    match ahead.unsigned_abs() {
        SKEW_WRONG.. => vec![wrong("API server", what, fix)],
        SKEW_NOTE.. => vec![note("API server", what, fix)],
        _ => Vec::new(),
    }
}

/// Versions that a CRD serves.
fn served(crd: &Value) -> Vec<&str> {
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    let served = versions.filter(|version| version["served"] == true);
    served.filter_map(|version| version["name"].as_str()).collect()
}

fn gateway_api(seen: &Seen) -> (String, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut bundles = Vec::new();
    for (name, versions) in ROUTES {
        let at = format!("CustomResourceDefinition {name}");
        match seen.crds.get(name) {
            Some(Answer::Is(crd)) => {
                let text = |key: &str| crd["metadata"]["annotations"][key].as_str().unwrap_or("unknown");
                let (bundle, channel) = (text(BUNDLE), text(CHANNEL));
                let served = served(crd);
                if !served.iter().any(|version| versions.contains(version)) {
                    let what = format!("serves {}, and Weft reads {}", served.join(", "), versions.join(", "));
                    findings.push(wrong(at, what, install_gateway_api()));
                } else if numbers(bundle).is_some_and(|found| found < GATEWAY_API_MIN) {
                    let what = format!("is of the Gateway API {bundle}, where routes can't be attached to a Service");
                    findings.push(wrong(at, what, install_gateway_api()));
                }
                bundles.push(format!("{bundle}, {channel} channel"));
            }
            Some(Answer::Forbidden(why)) => findings.push(note(at, format!("can't be read: {why}"), "")),
            // TCPRoute and TLSRoute came to the standard channel late.
            _ if name.starts_with('t') => findings.push(note(
                at,
                "is missing: streams can't be split by such routes",
                install_gateway_api(),
            )),
            _ => findings.push(wrong(at, "is missing: there can be no routes", install_gateway_api())),
        }
    }
    bundles.dedup();
    let title = match bundles.as_slice() {
        [] => "the CRDs of the Gateway API".to_owned(),
        [one] => format!("the CRDs of the Gateway API: {one}"),
        several => {
            let what = format!("its CRDs are of several versions or channels: {}", several.join("; "));
            findings.push(note("Gateway API", what, install_gateway_api()));
            "the CRDs of the Gateway API".to_owned()
        }
    };
    (title, findings)
}

fn mcs(seen: &Seen) -> Vec<Finding> {
    let missing = |name: &&&str| name.contains("multicluster") && seen.crds.get(**name) == Some(&Answer::Missing);
    let missing: Vec<&str> = super::seen::CRDS.iter().filter(missing).copied().collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let found = note(
        "Multi-Cluster Services API",
        format!("not there: {}", missing.join(", ")),
        format!(
            "for several clusters: kubectl apply --server-side -f {MCS}_serviceexports.yaml -f {MCS}_serviceimports.yaml"
        ),
    );
    let wrong = federated::is_wanted(seen);
    vec![Finding { wrong, ..found }]
}

/// What whoever asks may do.
pub(super) fn permissions(seen: &Seen, report: &mut Report) {
    report.tell(
        "you may install Weft",
        denied(seen, "you", "ask who administers the cluster"),
    );
}

/// What of the reviewed access is denied.
pub(super) fn denied(seen: &Seen, who: &str, fix: &str) -> Vec<Finding> {
    let denied = seen.access.iter().filter(|(_, allowed)| *allowed == Some(false));
    let mut findings: Vec<Finding> = denied
        .map(|(what, _)| wrong(who, format!("not allowed: {what}"), fix))
        .collect();
    if seen.access.iter().any(|(_, allowed)| allowed.is_none()) {
        findings.push(note(who, "you may not review this access, so it is not known", ""));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(crds: &[(&'static str, Answer)]) -> Seen {
        Seen {
            version: json!({"gitVersion": "v1.36.4"}),
            ahead: Some(0),
            crds: crds.iter().cloned().collect(),
            ..Seen::nothing("weft-system")
        }
    }

    fn crd(version: &str, bundle: &str) -> Answer {
        Answer::Is(json!({
            "metadata": {"annotations": {BUNDLE: bundle, CHANNEL: "standard"}},
            "spec": {"versions": [{"name": version, "served": true}]},
        }))
    }

    #[test]
    fn a_server_without_native_sidecars_and_a_clock_that_is_off_are_wrong() {
        assert!(old("v1.29.0").is_empty() && old("v1.36.4-gke.1").is_empty());
        assert!(old("v1.28.15").iter().all(|finding| finding.wrong) && !old("v1.28.15").is_empty());
        assert!(skew(Some(-9)).is_empty());
        assert_eq!(
            skew(Some(30)).iter().map(|finding| finding.wrong).collect::<Vec<_>>(),
            [false]
        );
        let behind = skew(Some(-100));
        assert!(behind[0].wrong && behind[0].what.contains("100 s behind"));
    }

    #[test]
    fn the_gateway_api_is_named_with_its_channel_and_what_of_it_is_missing_or_too_old() {
        let names = ROUTES.map(|(name, _)| name);
        let all = names.map(|name| (name, crd("v1", "v1.6.1")));
        let (title, findings) = gateway_api(&seen(&all));
        assert!(
            title.ends_with("v1.6.1, standard channel") && findings.is_empty(),
            "{title}: {findings:?}"
        );

        let (_, none) = gateway_api(&seen(&names.map(|name| (name, Answer::Missing))));
        let wrong = none.iter().filter(|finding| finding.wrong).count();
        assert_eq!((wrong, none.len()), (2, 4));
        assert!(none[0].fix.starts_with("kubectl apply --server-side -f https://"));

        let mut old = all.clone();
        old[0].1 = crd("v1", "v1.0.0");
        old[1].1 = crd("v1alpha2", "v1.6.1");
        let (_, findings) = gateway_api(&seen(&old));
        assert_eq!(
            findings.iter().filter(|finding| finding.wrong).count(),
            2,
            "{findings:?}"
        );
    }

    #[test]
    fn what_is_denied_is_named_and_what_nobody_knows_is_no_mistake() {
        let mut seen = seen(&[]);
        seen.access = vec![
            ("create a".into(), Some(true)),
            ("create b".into(), Some(false)),
            ("c".into(), None),
        ];
        let findings = denied(&seen, "you", "ask");
        assert_eq!(
            findings.iter().map(|finding| finding.wrong).collect::<Vec<_>>(),
            [true, false]
        );
        assert!(findings[0].what.contains("create b"));
    }
}
