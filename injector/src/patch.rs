//! The pod patch: a pod and its namespace in, the patched pod or the reason why not out. Pure and idempotent: a patched pod
//! comes back unchanged.

use serde_json::{Map, Value, json};

pub use crate::annotations::INJECT_LABEL;
use crate::annotations::{SIDECAR_ANNOTATION, VERSION_ANNOTATION};
use crate::probes::Originals;
use crate::redirect::{ADMIN_PORT, INBOUND_PORT, LOCAL_ADMIN_PORT, OUTBOUND_PORT, PROXY_UID};
use crate::settings::InjectSettings;
use crate::sidecar::{self, Sidecar};
pub use crate::tuned::is_strict;
use crate::tuned::{self, Tuned};

/// Sidecars of other meshes: two redirects in one pod would fight.
const FOREIGN: [&str; 5] = [
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
    "envoy-sidecar",
];

/// Where the sidecar listens.
const OWN_PORTS: [u16; 4] = [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT, LOCAL_ADMIN_PORT];
/// The kubelet marks the pods so that it only mirrors.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The label of a node that tells its system.
const OS_LABEL: &str = "kubernetes.io/os";
/// Where the API server mounts a token for itself, which the proxy has no use for.
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One variable of a process has at most 128 KiB on Linux.
const VARIABLE_MAX: usize = 100 << 10;

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The pod with its sidecar.
    Inject(Box<Value>),
    /// Left as it is; why.
    Skip(Skip),
    /// A pod that can't be meshed and must not run unmeshed in this namespace; for people: why, and the fix.
    Refuse(String),
}

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The namespace has no label `weft.dev/inject: enabled`.
    NamespaceNotLabelled,
    /// The pod has the label `weft.dev/inject: disabled`.
    OptedOut,
    /// It mirrors a static pod, which the kubelet has started already.
    Mirror,
}

/// Decides about a pod of a namespace, both as their objects.
pub fn inject(pod: &Value, namespace: &Value, settings: &InjectSettings) -> Decision {
    inject_with(pod, namespace, settings, rand::random())
}

/// The same. `token`: 128 random bits, for the paths of lifecycle hooks.
pub fn inject_with(pod: &Value, namespace: &Value, settings: &InjectSettings, token: u128) -> Decision {
    if label(namespace) != Some("enabled") {
        return Decision::Skip(Skip::NamespaceNotLabelled);
    }
    match label(pod) {
        Some("disabled") => return Decision::Skip(Skip::OptedOut),
        Some("enabled") | None => {}
        Some(other) => {
            return Decision::Refuse(format!(
                "label {INJECT_LABEL}: {other:?} is neither \"enabled\" nor \"disabled\""
            ));
        }
    }
    if pod["metadata"]["annotations"].get(MIRROR_ANNOTATION).is_some() {
        return Decision::Skip(Skip::Mirror);
    }
    if let Some(reason) = obstacle(pod) {
        return Decision::Refuse(reason);
    }
    match patched(pod, namespace, settings, token) {
        Ok(pod) => Decision::Inject(Box::new(pod)),
        Err(reason) => Decision::Refuse(reason),
    }
}

/// The JSON Patch (RFC 6902) from one pod to another.
pub fn diff(before: &Value, after: &Value) -> json_patch::Patch {
    json_patch::diff(before, after)
}

fn label(object: &Value) -> Option<&str> {
    object["metadata"]["labels"].get(INJECT_LABEL)?.as_str()
}

/// Why a pod can't be meshed.
fn obstacle(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let opt_out = format!("or opt the pod out with the label {INJECT_LABEL}: disabled");
    if spec["hostNetwork"] == json!(true) {
        return Some(format!(
            "spec.hostNetwork: a pod on the host's network can't be redirected; remove it, {opt_out}"
        ));
    }
    if let Some(field) = windows(spec) {
        return Some(format!("{field}: Windows pods can't be redirected; {opt_out}"));
    }
    let pod_uid = &spec["securityContext"]["runAsUser"];
    let marks = &pod["metadata"]["annotations"];
    let is_marked = [VERSION_ANNOTATION, SIDECAR_ANNOTATION]
        .iter()
        .all(|mark| marks.get(mark).is_some());
    // Marks alone are written easily, and what is named like ours would be taken away. A copy may have lost them: `kubectl debug
    // --copy-to` keeps the containers, and no annotation.
    let was_injected = is_whole(spec) && (is_marked || runs_weft(spec));
    if let Some((path, name)) = taken(spec).filter(|_| !was_injected) {
        return Some(format!(
            "{path}: the name {name} is that of Weft's own; take another, or remove all of Weft's from a copy of a meshed pod"
        ));
    }
    for (path, container) in containers(spec) {
        if sidecar::is_ours(&container["name"]) {
            continue;
        }
        let (path_of_uid, uid) = match container["securityContext"].get("runAsUser") {
            Some(uid) => (path.as_str(), uid),
            None => ("spec", pod_uid),
        };
        if *uid == json!(PROXY_UID) {
            return Some(format!(
                "{path_of_uid}.securityContext.runAsUser: {PROXY_UID} is the proxy's own uid; take another"
            ));
        }
        let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_tcp = |port: &Value| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        let taken = |port: &Value| OWN_PORTS.iter().any(|own| port["containerPort"] == json!(own));
        if let Some(at) = ports.iter().position(|port| is_tcp(port) && taken(port)) {
            return Some(format!(
                "{path}.ports[{at}].containerPort: {} is the sidecar's own; take another, {opt_out}",
                ports[at]["containerPort"]
            ));
        }
        let name = container["name"].as_str().unwrap_or_default();
        if FOREIGN.contains(&name) {
            return Some(format!(
                "{path}: {name} is the sidecar of another mesh; inject only one, {opt_out}"
            ));
        }
    }
    None
}

/// The field by which a pod is one for Windows, if it is.
fn windows(spec: &Value) -> Option<&'static str> {
    let windows = json!("windows");
    if spec["os"]["name"] == windows {
        return Some("spec.os.name");
    }
    if spec["nodeSelector"][OS_LABEL] == windows {
        return Some("spec.nodeSelector");
    }
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let is_for_windows = |term: &Value| {
        let mut expressions = term["matchExpressions"].as_array().into_iter().flatten();
        expressions.any(|each| {
            each["key"] == OS_LABEL && each["operator"] == "In" && each["values"] == json!([windows.clone()])
        })
    };
    // One of the terms is enough for a node, so each must ask for it.
    let terms = required["nodeSelectorTerms"]
        .as_array()
        .filter(|terms| !terms.is_empty())?;
    terms.iter().all(is_for_windows).then_some("spec.affinity.nodeAffinity")
}

fn containers(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(move |list| {
        let items = spec[list].as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .enumerate()
            .map(move |(i, container)| (format!("spec.{list}[{i}]"), container))
    })
}

/// A container or volume of a name of ours.
fn taken(spec: &Value) -> Option<(String, &Value)> {
    let volumes = spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let volumes = volumes
        .enumerate()
        .map(|(i, volume)| (format!("spec.volumes[{i}]"), volume));
    let mut named = containers(spec)
        .chain(volumes)
        .map(|(path, each)| (path, &each["name"]));
    named.find(|(_, name)| sidecar::is_ours(name))
}

/// What the author of an injected pod should know although nothing is refused.
pub fn warnings(pod: &Value, namespace: &Value) -> Vec<String> {
    tuned::warnings(pod, namespace)
}

fn patched(pod: &Value, namespace: &Value, settings: &InjectSettings, token: u128) -> Result<Value, String> {
    let tuned = Tuned::read(pod, namespace, settings)?;
    let sidecar = Sidecar::new(settings, &tuned, &workload(pod));
    let digest = sidecar.digest();
    let is_there = pod["metadata"]["annotations"][SIDECAR_ANNOTATION] == digest && is_whole(&pod["spec"]);
    let known = Originals::read(&proxy_env(&pod["spec"]), token);
    let mut originals = Originals {
        probes: Map::new(),
        hooks: Map::new(),
        token: known.token.clone(),
    };
    let mut pod = pod.clone();
    let spec = pod
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or("spec: missing")?;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if !sidecar::is_ours(&container["name"]) {
                originals
                    .rewrite(container, &known)
                    .map_err(|reason| format!("spec.{list}: {reason}"))?;
            }
        }
    }
    let variables = originals.variables();
    if let Some((name, text)) = variables.iter().find(|(_, text)| text.len() > VARIABLE_MAX) {
        let size = text.len();
        return Err(format!(
            "spec.containers: probes and hooks of {size} bytes do not fit into {name}; shorten them"
        ));
    }
    if is_there {
        keep(spec, &variables)?;
    } else {
        put(spec, sidecar, &variables)?;
    }
    let metadata = pod
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or("metadata: missing")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    let annotations = annotations
        .as_object_mut()
        .ok_or("metadata.annotations: must be a map")?;
    annotations.insert(VERSION_ANNOTATION.to_owned(), json!(settings.version));
    annotations.insert(SIDECAR_ANNOTATION.to_owned(), json!(digest));
    Ok(pod)
}

/// Whether all that injection adds is in its place.
fn is_whole(spec: &Value) -> bool {
    let has = |list: &str, name: &str| {
        let mut items = spec[list].as_array().into_iter().flatten();
        items.any(|item| item["name"] == name)
    };
    [sidecar::INIT, sidecar::PROXY]
        .iter()
        .all(|name| has("initContainers", name))
        && sidecar::VOLUMES.iter().all(|name| has("volumes", name))
}

/// Whether the containers of our names do what ours do.
fn runs_weft(spec: &Value) -> bool {
    let runs = |name: &str, role: &str| {
        let mut all = spec["initContainers"].as_array().into_iter().flatten();
        all.any(|container| container["name"] == name && container["args"][0] == role)
    };
    let is_told = |variable: &Value| variable["name"] == "WEFT_CONTROL_ADDRESS";
    runs(sidecar::INIT, "init") && runs(sidecar::PROXY, "proxy") && proxy_env(spec).iter().any(is_told)
}

/// Leaves our containers as they are, but for the app's probes, and for what the proxy has no use for. They come first again
/// if somebody has put another container before them, whose probes ask the proxy.
fn keep(spec: &mut Map<String, Value>, variables: &[(&str, String)]) -> Result<(), String> {
    let containers = list_mut(spec, "initContainers")?;
    containers.sort_by_key(|container| match &container["name"] {
        name if name == sidecar::INIT => 0,
        name if name == sidecar::PROXY => 1,
        _ => 2,
    });
    for container in containers {
        if !sidecar::is_ours(&container["name"]) {
            continue;
        }
        if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
            mounts.retain(|mount| mount["mountPath"] != API_TOKEN_DIR);
        }
        if container["name"] == sidecar::PROXY {
            set(container, variables)?;
        }
    }
    Ok(())
}

/// Puts our containers before all others, and takes those of another version away.
fn put(spec: &mut Map<String, Value>, mut sidecar: Sidecar, variables: &[(&str, String)]) -> Result<(), String> {
    for list in ["initContainers", "containers", "volumes"] {
        if let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) {
            items.retain(|item| !sidecar::is_ours(&item["name"]));
        }
    }
    set(&mut sidecar.proxy, variables)?;
    list_mut(spec, "initContainers")?.splice(0..0, [sidecar.init, sidecar.proxy]);
    list_mut(spec, "volumes")?.extend(sidecar.volumes);
    Ok(())
}

/// Sets variables of the proxy, and takes away those of probes and hooks that are not there any more.
fn set(container: &mut Value, variables: &[(&str, String)]) -> Result<(), String> {
    let env = container.get_mut("env").and_then(Value::as_array_mut);
    let env = env.ok_or_else(|| format!("{}: env must be a list", sidecar::PROXY))?;
    let is_set = |name: &Value| variables.iter().any(|(set, _)| name == set);
    env.retain(|variable| {
        is_set(&variable["name"]) || !Originals::VARIABLES.iter().any(|ours| variable["name"] == *ours)
    });
    for (name, text) in variables {
        match env.iter_mut().find(|variable| variable["name"] == **name) {
            Some(variable) => variable["value"] = json!(text),
            None => env.push(json!({"name": name, "value": text})),
        }
    }
    Ok(())
}

fn list_mut<'a>(spec: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Vec<Value>, String> {
    let list = spec.entry(name).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()
        .ok_or_else(|| format!("spec.{name}: must be a list"))
}

/// The variables of a proxy that is there already.
fn proxy_env(spec: &Value) -> Vec<Value> {
    let mut all = containers(spec).map(|(_, container)| container);
    let proxy = all.find(|container| container["name"] == sidecar::PROXY);
    proxy
        .and_then(|proxy| proxy["env"].as_array().cloned())
        .unwrap_or_default()
}

/// The CronJob behind a Job of this name, which ends in the minutes since 1970. Those of this century are no date of a year
/// that is near, as other Jobs' names may end in.
fn cron_job(name: &str) -> Option<&str> {
    let (name, minutes) = name.rsplit_once('-')?;
    let is_number = minutes.bytes().all(|byte| byte.is_ascii_digit());
    let minutes = minutes.parse::<u32>().ok().filter(|_| is_number)?;
    (25_000_000..100_000_000).contains(&minutes).then_some(name)
}

/// The best name of what the pod belongs to, before the control plane says it.
pub fn workload(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    let owner = metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|o| o["controller"] == json!(true));
    let labels = &metadata["labels"];
    if let Some(owner) = owner {
        let name = owner["name"].as_str().unwrap_or_default();
        if owner["kind"] == "Job" {
            return cron_job(name).unwrap_or(name).to_owned();
        }
        let hash = labels["pod-template-hash"].as_str();
        let deployment = hash
            .and_then(|hash| name.strip_suffix(hash))
            .and_then(|name| name.strip_suffix('-'));
        return deployment.unwrap_or(name).to_owned();
    }
    let label = ["app.kubernetes.io/name", "app"]
        .iter()
        .find_map(|key| labels[*key].as_str());
    let generate = metadata["generateName"].as_str().map(|name| name.trim_end_matches('-'));
    label
        .or_else(|| metadata["name"].as_str())
        .or(generate)
        .unwrap_or("unknown")
        .to_owned()
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
