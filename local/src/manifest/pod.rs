//! From a Pod object to a plan that the runtime can carry out.
//!
//! In: the pod as it is to run (injected, with `spec.nodeName`, `metadata.uid` and `status` addresses), and the [`Facts`]
//! around it. Out: a [`PodPlan`], or what is still [`Missing`]. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use weft_control::objects::decode;

use super::check::{port_of, quantity};
use super::expand::expand;
use super::raw::{self, Container, EnvVar, NumberOrName, PodSpec, TokenSource};
use super::{Files, Key, fields};
use crate::spec::{
    Capability, ContainerPlan, Dns, FileEntry, Mount, PodPlan, Privilege, Probe, ProbeAction, RestartPolicy, Volume,
    VolumeSource,
};

/// What a pod's plan depends on besides the pod.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// `/etc/resolv.conf`.
    pub dns: Dns,
    /// All ConfigMaps.
    pub config_maps: &'a BTreeMap<Key, Arc<Files>>,
    /// All Secrets.
    pub secrets: &'a BTreeMap<Key, Arc<Files>>,
    /// The contents of the ConfigMap [`TRUST_CONFIG_MAP`], which every namespace has.
    pub trust: Option<&'a Files>,
    /// Signed tokens, by audience and lifetime in seconds.
    pub tokens: &'a BTreeMap<(String, u64), String>,
    /// The containers that the injector added, and that may do what they ask for.
    pub ours: &'a BTreeSet<String>,
}

/// The ConfigMap with the trust bundle.
pub const TRUST_CONFIG_MAP: &str = "weft-trust";

impl Facts<'_> {
    fn config_map(&self, key: &Key) -> Option<&Files> {
        let written = self.config_maps.get(key).map(|files| &**files);
        written.or(self.trust.filter(|_| key.name == TRUST_CONFIG_MAP))
    }

    fn secret(&self, key: &Key) -> Option<&Files> {
        self.secrets.get(key).map(|files| &**files)
    }
}

/// What a pod waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Where it is asked for: `spec.volumes[1].configMap.name`.
    pub field: String,
    /// What it is.
    pub message: String,
}

/// Mode of files that names none (`defaultMode`).
const FILE_MODE: u32 = 0o644;
/// How long a token lives that names no time, and the least and most (API reference, `serviceAccountToken`).
pub const TOKEN_SECONDS: u64 = 3600;
const TOKEN_SECONDS_MIN: u64 = 600;
/// Kubernetes' grace period.
const GRACE_SECONDS: u32 = 30;

/// The audience of a token that names none: the API server's own.
const API_SERVER: &str = "https://kubernetes.default.svc.cluster.local";

impl TokenSource {
    /// Whom it is for.
    pub fn audience(&self) -> &str {
        if self.audience.is_empty() { API_SERVER } else { &self.audience }
    }

    /// How long it lives.
    pub fn seconds(&self) -> u64 {
        self.expiration_seconds.unwrap_or(TOKEN_SECONDS).max(TOKEN_SECONDS_MIN)
    }
}

/// The plan of a pod.
///
/// # Errors
/// What it waits for. A pod that was checked before can't fail in another way.
pub fn plan(pod: &Value, facts: &Facts<'_>) -> Result<PodPlan, Missing> {
    let spec = view(pod)?;
    let metadata = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    let name = metadata("name");
    let list = |list: &[Container], path: &str| {
        let numbered = list.iter().enumerate();
        numbered.map(|(i, c)| container(pod, &spec, c, &format!("spec.{path}[{i}]"), facts)).collect::<Result<Vec<_>, _>>()
    };
    Ok(PodPlan {
        namespace: metadata("namespace"),
        uid: metadata("uid"),
        hostname: spec.hostname.clone().unwrap_or_else(|| name.chars().take(63).collect()),
        name,
        dns: facts.dns.clone(),
        host_aliases: spec.host_aliases.iter().filter_map(|a| Some((a.ip.parse().ok()?, a.hostnames.clone()))).collect(),
        init_containers: list(&spec.init_containers, "initContainers")?,
        containers: list(&spec.containers, "containers")?,
        volumes: volumes_of(pod, &spec, facts)?,
        restart_policy: match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        },
        grace: seconds(spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS)),
        fs_group: spec.security_context.fs_group,
    })
}

/// The volumes of a pod as they are to be now.
///
/// # Errors
/// What is missing.
pub fn volumes(pod: &Value, facts: &Facts<'_>) -> Result<Vec<Volume>, Missing> {
    volumes_of(pod, &view(pod)?, facts)
}

/// The tokens that a pod's volumes hold.
pub fn tokens(pod: &Value) -> Vec<TokenSource> {
    let volumes = view(pod).map(|spec| spec.volumes).unwrap_or_default();
    let sources = volumes.into_iter().filter_map(|volume| volume.projected).flat_map(|projected| projected.sources);
    sources.filter_map(|source| source.service_account_token).collect()
}

/// The pod's specification, decoded.
///
/// # Errors
/// It was not checked before.
pub fn view(pod: &Value) -> Result<PodSpec, Missing> {
    let decoded = decode::<raw::Pod>(pod).map_err(|error| Missing { field: error.field, message: error.message })?;
    Ok(decoded.value.spec)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

fn container(pod: &Value, spec: &PodSpec, c: &Container, path: &str, facts: &Facts<'_>) -> Result<ContainerPlan, Missing> {
    let env = environment(pod, c, path, facts)?;
    let known: BTreeMap<&str, &str> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let words = c.command.iter().chain(&c.args);
    let command = words.map(|word| expand(word, |name| known.get(name).copied())).collect();
    let (pod_security, security) = (&spec.security_context, &c.security_context);
    Ok(ContainerPlan {
        name: c.name.clone(),
        sidecar: c.restart_policy.as_deref() == Some("Always"),
        command,
        env,
        working_dir: c.working_dir.as_ref().map(PathBuf::from),
        mounts: c.volume_mounts.iter().map(mount).collect(),
        startup: c.startup_probe.as_ref().and_then(|p| probe(p, c)),
        readiness: c.readiness_probe.as_ref().and_then(|p| probe(p, c)),
        liveness: c.liveness_probe.as_ref().and_then(|p| probe(p, c)),
        user: security.run_as_user.or(pod_security.run_as_user),
        group: security.run_as_group.or(pod_security.run_as_group),
        groups: pod_security.supplemental_groups.clone(),
        read_only_root: security.read_only_root_filesystem.unwrap_or(false),
        privilege: if facts.ours.contains(&c.name) { Privilege::Weft(capabilities(security)) } else { Privilege::App },
    })
}

fn capabilities(security: &raw::Security) -> Vec<Capability> {
    let known = |name: &String| match name.as_str() {
        "NET_ADMIN" => Some(Capability::NetAdmin),
        "NET_RAW" => Some(Capability::NetRaw),
        _ => None,
    };
    security.capabilities.add.iter().filter_map(known).collect()
}

fn mount(mount: &raw::VolumeMount) -> Mount {
    Mount {
        volume: mount.name.clone(),
        path: PathBuf::from(&mount.mount_path),
        sub_path: mount.sub_path.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from),
        read_only: mount.read_only,
    }
}

/// The environment, in the order it was written: a variable may name those before it.
fn environment(pod: &Value, c: &Container, path: &str, facts: &Facts<'_>) -> Result<Vec<(String, String)>, Missing> {
    let mut out: Vec<(String, String)> = Vec::with_capacity(c.env.len());
    for (i, var) in c.env.iter().enumerate() {
        let Some(value) = variable(pod, var, &format!("{path}.env[{i}]"), facts)? else { continue };
        let value = match var.value_from {
            Some(_) => value,
            None => expand(&value, |name| out.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())),
        };
        out.push((var.name.clone(), value));
    }
    Ok(out)
}

/// A variable's value. None: it refers to an optional key that is not there.
fn variable(pod: &Value, var: &EnvVar, path: &str, facts: &Facts<'_>) -> Result<Option<String>, Missing> {
    let Some(from) = &var.value_from else { return Ok(Some(var.value.clone().unwrap_or_default())) };
    if let Some(reference) = &from.field_ref {
        return Ok(Some(fields::value(pod, &reference.field_path)));
    }
    let named = |name: &str| Key::new(pod["metadata"]["namespace"].as_str().unwrap_or_default(), name);
    let (reference, kind, files, field) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(of), _) => (of, "ConfigMap", facts.config_map(&named(&of.name)), "configMapKeyRef"),
        (None, Some(of)) => (of, "Secret", facts.secret(&named(&of.name)), "secretKeyRef"),
        (None, None) => return Ok(None),
    };
    let key = named(&reference.name);
    let field = |last: &str| format!("{path}.valueFrom.{field}.{last}");
    let missing = |field: String, message: String| if reference.optional { Ok(None) } else { Err(Missing { field, message }) };
    let Some(files) = files else { return missing(field("name"), format!("there is no {kind} {key}")) };
    let Some(bytes) = files.get(&reference.key) else {
        return missing(field("key"), format!("{kind} {key} has no key {:?}", reference.key));
    };
    match String::from_utf8(bytes.clone()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Missing { field: field("key"), message: format!("{kind} {key}: {:?} is no text", reference.key) }),
    }
}

fn probe(probe: &raw::Probe, container: &Container) -> Option<Probe> {
    let action = if let Some(get) = &probe.http_get {
        let path = get.path.as_deref().unwrap_or("/");
        ProbeAction::Http {
            host: get.host.clone().filter(|host| !host.is_empty()),
            port: port_of(&get.port, container)?,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            https: get.scheme.as_deref() == Some("HTTPS"),
            headers: get.http_headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
        }
    } else if let Some(socket) = &probe.tcp_socket {
        let host = socket.host.clone().filter(|host| !host.is_empty());
        ProbeAction::Tcp { host, port: port_of(&socket.port, container)? }
    } else {
        ProbeAction::Exec { command: probe.exec.as_ref()?.command.clone() }
    };
    let defaults = Probe::new(action);
    Some(Probe {
        initial_delay: seconds(probe.initial_delay_seconds.unwrap_or(0)),
        period: probe.period_seconds.map_or(defaults.period, seconds),
        timeout: probe.timeout_seconds.map_or(defaults.timeout, seconds),
        success_threshold: probe.success_threshold.unwrap_or(defaults.success_threshold),
        failure_threshold: probe.failure_threshold.unwrap_or(defaults.failure_threshold),
        grace: probe.termination_grace_period_seconds.map(seconds),
        ..defaults
    })
}

fn volumes_of(pod: &Value, spec: &PodSpec, facts: &Facts<'_>) -> Result<Vec<Volume>, Missing> {
    let numbered = spec.volumes.iter().enumerate();
    numbered.map(|(i, volume)| one_volume(pod, volume, &format!("spec.volumes[{i}]"), facts)).collect()
}

fn one_volume(pod: &Value, volume: &raw::Volume, path: &str, facts: &Facts<'_>) -> Result<Volume, Missing> {
    let mut files = Vec::new();
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let named = |name: &str| Key::new(namespace, name);
    let mut owner = None;
    if let Some(dir) = &volume.empty_dir {
        let size_limit = dir.size_limit.as_ref().and_then(quantity);
        let source = VolumeSource::EmptyDir { memory: dir.medium == "Memory", size_limit };
        return Ok(Volume { name: volume.name.clone(), source });
    }
    if let Some(of) = &volume.config_map {
        let mode = of.default_mode;
        take(of, facts.config_map(&named(&of.name)), mode, &format!("{path}.configMap"), "ConfigMap", &mut files)?;
    }
    if let Some(of) = &volume.secret {
        let mode = of.default_mode;
        take(of, facts.secret(&named(&of.name)), mode, &format!("{path}.secret"), "Secret", &mut files)?;
    }
    if let Some(downward) = &volume.downward_api {
        describe(pod, downward, downward.default_mode, &mut files);
    }
    for (i, source) in volume.projected.iter().flat_map(|p| p.sources.iter().enumerate()) {
        let path = format!("{path}.projected.sources[{i}]");
        let mode = volume.projected.as_ref().and_then(|projected| projected.default_mode);
        if let Some(of) = &source.config_map {
            take(of, facts.config_map(&named(&of.name)), mode, &format!("{path}.configMap"), "ConfigMap", &mut files)?;
        }
        if let Some(of) = &source.secret {
            take(of, facts.secret(&named(&of.name)), mode, &format!("{path}.secret"), "Secret", &mut files)?;
        }
        if let Some(downward) = &source.downward_api {
            describe(pod, downward, mode, &mut files);
        }
        if let Some(source) = &source.service_account_token {
            let field = format!("{path}.serviceAccountToken");
            let key = (source.audience().to_owned(), source.seconds());
            let token = facts.tokens.get(&key);
            let token = token.ok_or_else(|| Missing { field, message: "no token could be signed".to_owned() })?.clone();
            owner = token_reader(pod);
            let mode = if owner.is_some() { 0o600 } else { FILE_MODE };
            files.push(FileEntry { path: PathBuf::from(&source.path), mode, bytes: token.into_bytes() });
        }
    }
    Ok(Volume { name: volume.name.clone(), source: VolumeSource::Files { files, owner } })
}

/// Who alone reads the tokens of a pod: the user that all containers which mount them run as. None: several, so all may,
/// as in Kubernetes.
fn token_reader(pod: &Value) -> Option<u32> {
    let spec = view(pod).ok()?;
    let holds = |mount: &raw::VolumeMount| {
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.name);
        let sources = volume.and_then(|volume| volume.projected.as_ref()).map(|projected| &projected.sources);
        sources.is_some_and(|sources| sources.iter().any(|source| source.service_account_token.is_some()))
    };
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let readers = containers.filter(|container| container.volume_mounts.iter().any(holds));
    let mut users = readers.map(|c| c.security_context.run_as_user.or(spec.security_context.run_as_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// The files of a ConfigMap or Secret: all of them, or those that `items` names.
fn take(
    of: &raw::FilesOf,
    files: Option<&Files>,
    mode: Option<u32>,
    path: &str,
    kind: &str,
    out: &mut Vec<FileEntry>,
) -> Result<(), Missing> {
    let mode = mode.unwrap_or(FILE_MODE);
    let Some(files) = files else {
        let field = if kind == "Secret" && !path.contains("projected") { "secretName" } else { "name" };
        let message = format!("there is no {kind} {:?}", of.name);
        return if of.optional { Ok(()) } else { Err(Missing { field: format!("{path}.{field}"), message }) };
    };
    let Some(items) = &of.items else {
        let all = files.iter().map(|(key, bytes)| FileEntry { path: PathBuf::from(key), mode, bytes: bytes.clone() });
        out.extend(all);
        return Ok(());
    };
    for (i, item) in items.iter().enumerate() {
        match files.get(&item.key) {
            Some(bytes) => out.push(FileEntry {
                path: PathBuf::from(&item.path),
                mode: item.mode.unwrap_or(mode),
                bytes: bytes.clone(),
            }),
            None if of.optional => {}
            None => {
                let message = format!("{kind} {:?} has no key {:?}", of.name, item.key);
                return Err(Missing { field: format!("{path}.items[{i}].key"), message });
            }
        }
    }
    Ok(())
}

fn describe(pod: &Value, downward: &raw::Downward, mode: Option<u32>, out: &mut Vec<FileEntry>) {
    out.extend(downward.items.iter().map(|item| FileEntry {
        path: PathBuf::from(&item.path),
        mode: item.mode.or(mode).unwrap_or(FILE_MODE),
        bytes: fields::value(pod, &item.field_ref.field_path).into_bytes(),
    }));
}

/// The number of a container's port by the name or number that a Service names; None: no container has it.
pub fn resolve_port(spec: &PodSpec, port: &NumberOrName, protocol: raw::Protocol) -> Option<u16> {
    match port {
        NumberOrName::Number(number) => u16::try_from(*number).ok(),
        NumberOrName::Name(name) => {
            // The sidecars' ports count as well (KEP-753).
            let sidecars = spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
            let mut named = ports.filter(|port| port.name == *name && port.protocol == protocol);
            named.next().map(|port| port.container_port)
        }
    }
}
