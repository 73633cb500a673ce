//! Whether a cluster can share Services with others, as it is installed. How its links are, `weft cluster check` says.

use serde_json::Value;

use super::finding::{Finding, Report, note, wrong};
use super::installed::{deployment, install};
use super::seen::Seen;
use crate::cluster::api::Answer;
use crate::cluster::reach;

/// What turns it on.
const ENABLE: &str = " --set federation.enabled=true";

/// What there is of it.
struct Parts<'a> {
    /// Names of ClusterPeers.
    peers: Vec<&'a str>,
    /// The Service of the federation listener.
    federation: Option<&'a Value>,
    /// The Service of the gateways.
    gateway: Option<&'a Value>,
}

impl<'a> Parts<'a> {
    fn of(seen: &'a Seen) -> Self {
        let object = |key: &str| seen.own.get(key).and_then(Answer::object);
        let peers = object("ClusterPeers").and_then(Value::as_array).into_iter().flatten();
        Self {
            peers: peers.filter_map(|peer| peer["metadata"]["name"].as_str()).collect(),
            federation: object("Service weft-federation"),
            gateway: object("Service weft-gateway"),
        }
    }

    fn is_any(&self) -> bool {
        !self.peers.is_empty() || self.federation.is_some() || self.gateway.is_some()
    }
}

/// Whether this cluster is to share Services with others.
pub(super) fn is_wanted(seen: &Seen) -> bool {
    Parts::of(seen).is_any()
}

/// Listener, gateways, names and networks; nothing, where none of it is there.
pub(super) fn check(seen: &Seen, report: &mut Report) {
    let parts = Parts::of(seen);
    if !parts.is_any() {
        return;
    }
    if parts.gateway.is_some() {
        report.tell("Deployment weft-gateway", deployment(seen, "weft-gateway"));
    }
    report.tell("it can share Services with other clusters", shared(seen, &parts));
}

fn shared(seen: &Seen, parts: &Parts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if parts.federation.is_none() {
        let at = format!("Namespace {}", seen.namespace);
        let because = match parts.peers.as_slice() {
            [] => "there are gateways".to_owned(),
            peers => format!("there are ClusterPeers ({})", peers.join(", ")),
        };
        let what = format!(
            "{because}, and nothing listens for other clusters: they can't follow what is exported here, and the control plane may not \
             write what their Services need"
        );
        findings.push(wrong(at, what, install(&seen.namespace, ENABLE)));
    }
    let services = [
        (
            parts.federation,
            reach::FEDERATION,
            "WEFT_FEDERATION_ENDPOINTS",
            "federation",
            "endpoints",
        ),
        (parts.gateway, reach::GATEWAY, "WEFT_GATEWAYS", "gateways", "addresses"),
    ];
    for (service, name, variable, value, list) in services {
        let Some(why) = service.and_then(reach::unreached) else {
            continue;
        };
        if variable_of(seen, variable).is_none() {
            let fix = format!(
                "--set {value}.service.type=LoadBalancer, where something gives load balancers addresses, or NodePort; or --set \
                 {value}.{list}={{HOST:PORT}}, where others reach it: {}",
                install(&seen.namespace, "")
            );
            findings.push(wrong(format!("Service {}/{name}", seen.namespace), why, fix));
        }
    }
    findings.extend(named(seen, parts));
    findings
}

/// What is right by itself, and hardly meant.
fn named(seen: &Seen, parts: &Parts<'_>) -> Vec<Finding> {
    let (mut findings, at) = (Vec::new(), format!("Deployment {}/weft-control", seen.namespace));
    let cluster = variable_of(seen, "WEFT_CLUSTER");
    if cluster == Some("local") {
        let what =
            "this cluster is called local, as every one is by default; clusters that are linked have different names";
        findings.push(note(&at, what, install(&seen.namespace, " --set cluster=NAME")));
    }
    let network = variable_of(seen, "WEFT_NETWORK");
    if parts.federation.is_some() && parts.gateway.is_none() && (network.is_none() || network == cluster) {
        let what = "it has no gateways, and a network of its own: no other cluster reaches its pods";
        let fix = install(
            &seen.namespace,
            " --set gateways.enabled=true (or network=NAME, where pods reach each other)",
        );
        findings.push(note(&at, what, fix));
    }
    findings
}

/// A variable of the control plane, as it is installed.
fn variable_of<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    let deployment = seen.own.get("Deployment weft-control").and_then(Answer::object)?;
    let containers = deployment.pointer("/spec/template/spec/containers")?.as_array()?;
    let mut variables = containers.iter().filter_map(|one| one["env"].as_array()).flatten();
    variables.find(|variable| variable["name"] == name)?["value"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::install::WEFT;

    /// A cluster that was installed with these values, with these ClusterPeers.
    fn seen(values: &[(&str, Value)], peers: &[&str]) -> Seen {
        let mut all = WEFT.defaults().unwrap();
        for (path, value) in values {
            *all.pointer_mut(path).unwrap() = value.clone();
        }
        let objects = crate::install::documents(&WEFT.render(&all, "weft-system").unwrap()).unwrap();
        let mut seen = Seen::nothing("weft-system");
        for (key, kind, name) in [
            ("Deployment weft-control", "Deployment", "weft-control"),
            ("Deployment weft-gateway", "Deployment", "weft-gateway"),
            ("Service weft-federation", "Service", "weft-federation"),
            ("Service weft-gateway", "Service", "weft-gateway"),
        ] {
            let found = objects
                .iter()
                .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
            let answer = found.map_or(Answer::Missing, |object| {
                let mut object = object.clone();
                object["status"] = json!({"readyReplicas": 2, "updatedReplicas": 2});
                Answer::Is(object)
            });
            seen.own.insert(key, answer);
        }
        let peers = peers.iter().map(|name| json!({"metadata": {"name": name}}));
        seen.own.insert("ClusterPeers", Answer::Is(peers.collect()));
        seen
    }

    /// Levels and words of what is found.
    fn found(values: &[(&str, Value)], peers: &[&str]) -> Vec<String> {
        let mut report = Report::default();
        check(&seen(values, peers), &mut report);
        let found = report.json()["findings"].as_array().unwrap().clone();
        found.iter().map(Value::to_string).collect()
    }

    fn enabled() -> Vec<(&'static str, Value)> {
        vec![
            ("/cluster", json!("east")),
            ("/federation/enabled", json!(true)),
            ("/federation/service/type", json!("NodePort")),
        ]
    }

    #[test]
    fn a_cluster_that_shares_nothing_is_not_spoken_of() {
        assert!(found(&[], &[]).is_empty() && !is_wanted(&seen(&[], &[])));
    }

    #[test]
    fn one_that_others_reach_directly_or_by_gateways_is_well() {
        let flat = [enabled(), vec![("/network", json!("vpc"))]].concat();
        assert_eq!(found(&flat, &["west"]), Vec::<String>::new());
        let gateways = [
            enabled(),
            vec![
                ("/gateways/enabled", json!(true)),
                ("/gateways/addresses", json!(["192.0.2.7:15443"])),
            ],
        ];
        assert_eq!(found(&gateways.concat(), &[]), Vec::<String>::new());
        assert!(is_wanted(&seen(&flat, &[])));
    }

    #[test]
    fn what_cannot_work_is_wrong_and_says_which_value_mends_it() {
        let check = |more: &[(&'static str, Value)], peers: &[&str], words: &[&str]| {
            let found = found(&[enabled(), more.to_vec()].concat(), peers);
            assert_eq!(found.len(), 1, "{found:#?}");
            for word in words.iter().chain(&["\"wrong\""]) {
                assert!(found[0].contains(word), "{word:?} is not in {found:?}");
            }
        };
        let network = ("/network", json!("vpc"));
        let off = ("/federation/enabled", json!(false));
        check(
            std::slice::from_ref(&off),
            &["west"],
            &["ClusterPeers (west)", "federation.enabled=true"],
        );
        let gateways = [
            off,
            ("/gateways/enabled", json!(true)),
            ("/gateways/service/type", json!("NodePort")),
        ];
        check(&gateways, &[], &["there are gateways", "federation.enabled=true"]);
        let inside = [network.clone(), ("/federation/service/type", json!("ClusterIP"))];
        check(
            &inside,
            &[],
            &[
                "weft-federation",
                "only this cluster",
                "federation.service.type=LoadBalancer",
            ],
        );
        let pending = [network, ("/gateways/enabled", json!(true))];
        check(
            &pending,
            &[],
            &["weft-gateway", "no load balancer", "gateways.addresses"],
        );
    }

    #[test]
    fn a_default_name_and_a_network_that_nobody_reaches_are_noted() {
        let found = found(&[enabled(), vec![("/cluster", json!("local"))]].concat(), &[]);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].contains("called local") && found[1].contains("no other cluster reaches its pods"));
        assert!(found.iter().all(|finding| finding.contains("\"note\"")), "{found:#?}");
    }
}
