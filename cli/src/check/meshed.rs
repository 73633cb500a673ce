//! Whether namespaces that are labelled for the mesh, and their pods, are in it.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_injector::annotations::{INJECT_LABEL, Tune, VERSION_ANNOTATION};
use weft_injector::patch::is_strict;
use weft_injector::review::is_exempt;
use weft_injector::security;
use weft_injector::sidecar::{INIT, PROXY};
use weft_model::pod_security::Refusal;

use super::finding::{Finding, Report, note, wrong};
use super::installed::install;
use super::seen::{Meshed, Seen};
use crate::cluster::api::Answer;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The control plane's port.
const CONTROL_PORT: u64 = 15012;

/// Labels, Pod Security, roots, NetworkPolicies, pods.
pub(super) fn check(seen: &Seen, report: &mut Report) {
    let (exempt, labelled): (Vec<&Meshed>, Vec<&Meshed>) = seen
        .meshed
        .iter()
        .partition(|each| is_exempt(&each.name, &seen.namespace));
    let (meshed, other): (Vec<&Meshed>, Vec<&Meshed>) =
        labelled.into_iter().partition(|each| label(each) == Some("enabled"));
    let mut labels: Vec<Finding> = other.into_iter().filter_map(mislabelled).collect();
    // Of Weft's own something is said where it is looked at.
    let exempt = exempt.into_iter().filter(|each| each.name != seen.namespace);
    labels.extend(exempt.map(|each| {
        let what = "is labelled for the mesh, but the cluster's own namespaces are never meshed";
        let fix = format!("kubectl label namespace {} {INJECT_LABEL}-", each.name);
        note(format!("Namespace {}", each.name), what, fix)
    }));
    if let Answer::Forbidden(why) = &seen.namespaces {
        labels.push(note("Namespaces", format!("you may not list them: {why}"), ""));
    }
    let count = match meshed.len() {
        0 if seen.namespaces.object().is_none() => "which namespaces are labelled for the mesh".to_owned(),
        1 => "1 namespace is labelled for the mesh".to_owned(),
        many => format!("{many} namespaces are labelled for the mesh"),
    };
    report.tell(count, labels);
    if meshed.is_empty() {
        return;
    }
    let each = |look: fn(&Seen, &Meshed) -> Vec<Finding>| meshed.iter().flat_map(|each| look(seen, each)).collect();
    report.tell(
        "their Pod Security levels let the redirect's rules be set",
        each(pod_security),
    );
    report.tell("they have the roots that proxies trust", each(trust));
    report.tell(
        "their NetworkPolicies let proxies reach the control plane",
        each(egress),
    );
    report.tell("their pods have their proxies", each(bare));
    report.tell("no port of those is left out", each(left_out));
    report.tell("what comes from outside is not refused", each(outside));
    report.tell("the redirect is in place in those", each(redirect));
    report.tell(format!("those proxies are of this version, {VERSION}"), each(versions));
}

fn label(of: &Meshed) -> Option<&str> {
    of.namespace["metadata"]["labels"][INJECT_LABEL].as_str()
}

fn mislabelled(of: &Meshed) -> Option<Finding> {
    let label = label(of).unwrap_or_default();
    (label != "disabled").then(|| {
        wrong(
            format!("Namespace {}", of.name),
            format!("{INJECT_LABEL} is {label:?}, which means nothing"),
            format!("kubectl label --overwrite namespace {} {INJECT_LABEL}=enabled", of.name),
        )
    })
}

pub(super) fn items(answer: &Answer) -> impl Iterator<Item = &Value> {
    answer.object().and_then(Value::as_array).into_iter().flatten()
}

fn pod_security(_: &Seen, of: &Meshed) -> Vec<Finding> {
    let refusal = security::refusal(&of.namespace).into_iter();
    let finding = |Refusal { what, fix }| wrong(format!("Namespace {}", of.name), what, fix);
    refusal.map(finding).collect()
}

fn trust(seen: &Seen, of: &Meshed) -> Vec<Finding> {
    let at = format!("ConfigMap {}/weft-trust", of.name);
    let logs = format!(
        "the control plane keeps it: kubectl -n {} logs deploy/weft-control",
        seen.namespace
    );
    match &of.trust {
        Answer::Forbidden(why) => vec![note(at, format!("you may not read it: {why}"), "")],
        Answer::Missing => vec![wrong(at, "is missing: pods can't start", logs)],
        Answer::Is(map) => {
            let roots = map["data"]["roots.pem"].as_str().unwrap_or_default();
            let own = map["data"]["control-namespace"].as_str();
            if !roots.contains("-----BEGIN CERTIFICATE-----") {
                vec![wrong(at, "has no roots", logs)]
            } else if own != Some(seen.namespace.as_str()) {
                let what = format!("names {} as Weft's own namespace", own.unwrap_or("nothing"));
                vec![wrong(
                    at,
                    what,
                    format!("weft check -n {}, or {logs}", own.unwrap_or_default()),
                )]
            } else {
                Vec::new()
            }
        }
    }
}

fn egress(seen: &Seen, of: &Meshed) -> Vec<Finding> {
    if let Answer::Forbidden(why) = &of.policies {
        let what = format!("you may not list its NetworkPolicies: {why}");
        return vec![note(format!("Namespace {}", of.name), what, "")];
    }
    match denies_all(of, &seen.namespace) {
        None => denies_some(of, &seen.namespace),
        Some(denies) => vec![wrong(
            format!("Namespace {}", of.name),
            format!(
                "NetworkPolicy {} denies egress, and none lets all pods reach port {CONTROL_PORT} of weft-control",
                name(denies)
            ),
            install(
                &seen.namespace,
                &format!(" --set 'networkPolicy.egressNamespaces={{{}}}'", fenced(seen).join(",")),
            ),
        )],
    }
}

/// Namespaces for which the chart has a policy, or should have one: a list that is given replaces the one before.
fn fenced(seen: &Seen) -> Vec<&str> {
    let has_ours = |of: &Meshed| items(&of.policies).any(is_ours);
    let lacks = |of: &Meshed| label(of) == Some("enabled") && denies_all(of, &seen.namespace).is_some();
    let all = seen.meshed.iter().filter(|of| !is_exempt(&of.name, &seen.namespace));
    all.filter(|of| has_ours(of) || lacks(of))
        .map(|of| of.name.as_str())
        .collect()
}

/// Whether the chart has made this policy.
fn is_ours(policy: &Value) -> bool {
    policy["metadata"]["name"] == "weft-egress" && policy["metadata"]["labels"]["app.kubernetes.io/part-of"] == "weft"
}

pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn of_egress(of: &Meshed) -> impl Iterator<Item = &Value> {
    items(&of.policies).filter(|policy| is_of_egress(policy))
}

/// A policy that denies egress to all pods, where none lets all of them reach the control plane. Only there the chart's own is
/// offered: it is one of all pods, and denies egress itself where nothing else did.
fn denies_all<'a>(of: &'a Meshed, own: &str) -> Option<&'a Value> {
    let of_all = || of_egress(of).filter(|policy| is_empty(&policy["spec"]["podSelector"]));
    of_all().next().filter(|_| !of_all().any(|policy| allows(policy, own)))
}

/// Policies of some pods: they allow and deny for those alone.
fn denies_some(of: &Meshed, own: &str) -> Vec<Finding> {
    let mut cut_off: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in items(&of.pods).filter(|pod| runs(pod) && is_redirected(pod)) {
        let picks = |policy: &&Value| selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"]);
        let of_pod = || of_egress(of).filter(picks);
        if let Some(denies) = of_pod().next().filter(|_| !of_pod().any(|policy| allows(policy, own))) {
            *cut_off.entry(name(denies)).or_default() += 1;
        }
    }
    let told = |(policy, count): (&str, usize)| {
        wrong(
            format!("NetworkPolicy {}/{policy}", of.name),
            format!(
                "denies egress to {count} of its pods, and none lets them reach port {CONTROL_PORT} of weft-control"
            ),
            format!("let it allow TCP port {CONTROL_PORT} of pods of Namespace {own}, and DNS"),
        )
    };
    cut_off.into_iter().map(told).collect()
}

/// Whether pods with these labels are picked.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let holds = |expression: &Value| {
        let label = &labels[expression["key"].as_str().unwrap_or_default()];
        let values = expression["values"].as_array();
        let is_listed = values.is_some_and(|values| values.contains(label));
        match expression["operator"].as_str() {
            Some("In") => is_listed,
            Some("NotIn") => !is_listed,
            Some("Exists") => !label.is_null(),
            Some("DoesNotExist") => label.is_null(),
            _ => false,
        }
    };
    wanted.into_iter().all(|(key, value)| labels[key] == *value) && expressions.into_iter().all(holds)
}

/// Whether a pod has a proxy, or is to have one.
fn is_redirected(pod: &Value) -> bool {
    container(pod, PROXY).is_some() || !(is_opted_out(pod) || is_of_node(pod))
}

fn is_of_egress(policy: &Value) -> bool {
    let types = policy["spec"]["policyTypes"].as_array();
    types.is_some_and(|types| types.iter().any(|each| each == "Egress"))
}

/// Whether a selector or a list says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Whether a policy lets its pods reach the control plane. What an address block or an expression holds can't be told here, and
/// is believed.
fn allows(policy: &Value, own: &str) -> bool {
    let rules = policy["spec"]["egress"].as_array();
    rules.into_iter().flatten().any(|rule| {
        let ports = rule["ports"].as_array().filter(|ports| !ports.is_empty());
        let port = ports.is_none_or(|ports| ports.iter().any(has_port));
        let to = rule["to"].as_array().filter(|to| !to.is_empty());
        port && to.is_none_or(|to| to.iter().any(|peer| is_control(peer, own)))
    })
}

fn has_port(port: &Value) -> bool {
    let tcp = port["protocol"].is_null() || port["protocol"] == "TCP";
    let first = port["port"].as_u64();
    let last = port["endPort"].as_u64().or(first);
    let named = port["port"] == "grpc" || port["port"].is_null();
    tcp && (named || first <= Some(CONTROL_PORT) && Some(CONTROL_PORT) <= last && first.is_some())
}

fn is_control(peer: &Value, own: &str) -> bool {
    if peer["ipBlock"].is_object() {
        return true;
    }
    // Without a selector of namespaces it speaks of pods beside it.
    let namespaces = &peer["namespaceSelector"];
    if namespaces.is_null() {
        return false;
    }
    let has = |selector: &Value, known: &[(&str, &str)]| {
        let labels = selector["matchLabels"].as_object();
        let mut labels = labels.into_iter().flatten();
        labels.all(|(key, value)| known.iter().all(|(name, is)| name != key || value == is))
    };
    let pod = [
        ("app.kubernetes.io/name", "weft"),
        ("app.kubernetes.io/component", "control"),
    ];
    has(namespaces, &[("kubernetes.io/metadata.name", own)]) && has(&peer["podSelector"], &pod)
}

/// Containers of a pod that are the mesh's.
fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = ["initContainers", "containers"];
    let mut all = lists
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    all.find(|container| container["name"] == name)
}

pub(super) fn runs(pod: &Value) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    !ended && pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_opted_out(pod: &Value) -> bool {
    pod["metadata"]["labels"][INJECT_LABEL] == "disabled"
}

/// Whether it is on its node's own network, or mirrors what the node's kubelet has started.
fn is_of_node(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true || !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
}

fn named(of: &Meshed, pod: &Value) -> String {
    format!("Pod {}/{}", of.name, name(pod))
}

/// How a pod is made anew, which depends on who made it.
pub(super) fn anew(namespace: &str, pod: &Value) -> String {
    let owner = &pod["metadata"]["ownerReferences"][0];
    let (name, own) = (owner["name"].as_str().unwrap_or_default(), name(pod));
    let hash = pod["metadata"]["labels"]["pod-template-hash"].as_str();
    let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    match owner["kind"].as_str() {
        // One that belongs to no Deployment makes no other pod before this one is gone.
        Some("ReplicaSet") if deployment.is_some() => {
            let deployment = deployment.unwrap_or_default();
            format!("kubectl -n {namespace} rollout restart deployment {deployment}")
        }
        Some(kind @ ("StatefulSet" | "DaemonSet")) => {
            format!("kubectl -n {namespace} rollout restart {} {name}", kind.to_lowercase())
        }
        Some(kind) => format!("kubectl -n {namespace} delete pod {own}, which its {kind} {name} makes anew"),
        None => format!(
            "kubectl -n {namespace} delete pod {own}, and apply its manifest again: no controller makes it anew"
        ),
    }
}

fn bare(_: &Seen, of: &Meshed) -> Vec<Finding> {
    if let Answer::Forbidden(why) = &of.pods {
        return vec![note(
            format!("Namespace {}", of.name),
            format!("you may not list its pods: {why}"),
            "",
        )];
    }
    let mut findings = Vec::new();
    for pod in items(&of.pods).filter(|pod| runs(pod) && container(pod, PROXY).is_none()) {
        let at = named(of, pod);
        if is_opted_out(pod) {
            findings.push(note(
                at,
                format!("is left out of the mesh by its label {INJECT_LABEL}"),
                "",
            ));
        } else if is_of_node(pod) {
            findings.push(note(at, "is on its node's own network, where there is no redirect", ""));
        } else {
            findings.push(wrong(
                at,
                "has no proxy: it began before the label, or while the webhook was away",
                anew(&of.name, pod),
            ));
        }
    }
    findings
}

/// Ports that take plaintext past the proxy, as the pod was made: what its annotation says now does not matter.
fn left_out(_: &Seen, of: &Meshed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in items(&of.pods).filter(|pod| runs(pod)) {
        let args = container(pod, INIT).and_then(|init| init["args"].as_array());
        let mut args = args.into_iter().flatten().filter_map(Value::as_str);
        let Some(ports) = args.find_map(|arg| arg.strip_prefix("--skip-inbound-ports=")) else {
            continue;
        };
        let what = format!("takes connections to {ports} without its proxy: no mutual TLS, no policy");
        let finding = match is_strict(pod, &of.namespace) {
            true => wrong(
                named(of, pod),
                format!("{what}, though it is strict"),
                format!("remove {} and {}", Tune::SkipInboundPorts.key(), anew(&of.name, pod)),
            ),
            false => note(named(of, pod), what, ""),
        };
        findings.push(finding);
    }
    findings
}

/// A strict namespace to which traffic from outside of the cluster is led: whoever hands it on must be in the mesh.
fn outside(_: &Seen, of: &Meshed) -> Vec<Finding> {
    if !is_strict(&Value::Null, &of.namespace) {
        return Vec::new();
    }
    let is_open = |service: &&Value| matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    let services = items(&of.services).filter(is_open).map(|each| ("Service", each));
    let ingresses = items(&of.ingresses).map(|each| ("Ingress", each));
    let told = |(kind, object): (&str, &Value)| {
        let at = format!("{kind} {}/{}", of.name, name(object));
        let what = "leads here from outside, and this Namespace is strict: what comes without a proxy gets 403";
        let ingress = "an ingress controller that hands it on must be in the mesh, its own Namespace permissive";
        note(at, what, format!("{ingress}: docs/services.md, From outside"))
    };
    services.chain(ingresses).map(told).collect()
}

fn redirect(seen: &Seen, of: &Meshed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in items(&of.pods).filter(|pod| runs(pod)) {
        let statuses = pod["status"]["initContainerStatuses"].as_array().into_iter().flatten();
        for status in statuses.filter(|status| status["name"] == INIT || status["name"] == PROXY) {
            let name = status["name"].as_str().unwrap_or_default();
            let logs = format!(
                "kubectl -n {} logs {} -c {name}",
                of.name,
                pod["metadata"]["name"].as_str().unwrap_or_default()
            );
            let failed = &status["state"]["terminated"]["exitCode"];
            let waits = status["state"]["waiting"]["reason"]
                .as_str()
                .filter(|reason| *reason != "PodInitializing");
            if name == INIT && failed.as_u64().is_some_and(|code| code != 0) {
                let fix =
                    format!("{logs}; the node's kernel needs iptables with owner and REDIRECT, for IPv4 and IPv6");
                findings.push(wrong(
                    named(of, pod),
                    format!("{INIT} could not set the redirect's rules"),
                    fix,
                ));
            } else if let Some(reason) = waits {
                findings.push(wrong(named(of, pod), format!("{name} does not run: {reason}"), logs));
            } else if name == PROXY && status["started"] == false && status["state"]["running"].is_object() {
                let what = format!("{PROXY} is not ready yet");
                let fix = format!("{logs}; it needs weft-control in {}", seen.namespace);
                findings.push(note(named(of, pod), what, fix));
            }
        }
    }
    findings
}

fn versions(_: &Seen, of: &Meshed) -> Vec<Finding> {
    let mut others: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for pod in items(&of.pods).filter(|pod| runs(pod) && container(pod, PROXY).is_some()) {
        let version = pod["metadata"]["annotations"][VERSION_ANNOTATION]
            .as_str()
            .unwrap_or("of no version");
        if version != VERSION {
            others.entry(version).or_insert_with(|| (0, anew(&of.name, pod))).0 += 1;
        }
    }
    let told = |(version, (count, fix)): (&str, (usize, String))| {
        let what = format!("{count} of its pods have a proxy {version}");
        note(format!("Namespace {}", of.name), what, fix)
    };
    others.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests;
