//! From a Pod object to a plan that the runtime can carry out.
//!
//! In: the pod as it is to run (injected, with `spec.nodeName`, `metadata.uid` and `status` addresses), and the [`Facts`]
//! around it. Out: a [`PodPlan`], or what is still [`Missing`]. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use weft_control::objects::decode;

use super::check::port_of;
use super::env::environment;
use super::expand::expand;
use super::raw::{self, Container, NumberOrName, PodSpec, TokenSource};
use super::{Facts, Missing, volumes};
use crate::spec::{
    Capability, ContainerPlan, Hook, Mount, PodPlan, Privilege, Probe, ProbeAction, RestartPolicy, Volume,
};

/// Kubernetes' grace period.
const GRACE_SECONDS: u32 = 30;

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
        numbered
            .map(|(i, c)| container(pod, &spec, c, &format!("spec.{path}[{i}]"), facts))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(PodPlan {
        namespace: metadata("namespace"),
        uid: metadata("uid"),
        full_name: spec.subdomain.as_ref().map(|subdomain| {
            let (namespace, domain) = (metadata("namespace"), crate::dns::DOMAIN);
            format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(&spec, &name))
        }),
        hostname: hostname(&spec, &name),
        name,
        dns: facts.dns.clone(),
        host_aliases: spec
            .host_aliases
            .iter()
            .filter_map(|a| Some((a.ip.parse().ok()?, a.hostnames.clone())))
            .collect(),
        init_containers: list(&spec.init_containers, "initContainers")?,
        containers: list(&spec.containers, "containers")?,
        volumes: volumes::all(pod, &spec, facts)?,
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
    volumes::all(pod, &view(pod)?, facts)
}

/// The tokens that a pod's volumes hold.
pub fn tokens(pod: &Value) -> Vec<TokenSource> {
    let volumes = view(pod).map(|spec| spec.volumes).unwrap_or_default();
    let sources = volumes
        .into_iter()
        .filter_map(|volume| volume.projected)
        .flat_map(|projected| projected.sources);
    sources.filter_map(|source| source.service_account_token).collect()
}

/// The pod's specification, decoded.
///
/// # Errors
/// It was not checked before.
pub fn view(pod: &Value) -> Result<PodSpec, Missing> {
    let decoded = decode::<raw::Pod>(pod).map_err(|error| Missing {
        field: error.field,
        message: error.message,
    })?;
    Ok(decoded.value.spec)
}

fn hostname(spec: &PodSpec, name: &str) -> String {
    spec.hostname.clone().unwrap_or_else(|| name.chars().take(63).collect())
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

fn container(
    pod: &Value,
    spec: &PodSpec,
    c: &Container,
    path: &str,
    facts: &Facts<'_>,
) -> Result<ContainerPlan, Missing> {
    let env = environment(pod, spec, c, path, facts)?;
    let known: BTreeMap<&str, &str> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let words = c.command.iter().chain(&c.args);
    let command = words
        .map(|word| expand(word, |name| known.get(name).copied()))
        .collect();
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
        post_start: hook(c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()), c),
        pre_stop: hook(c.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()), c),
        user: security.run_as_user.or(pod_security.run_as_user),
        group: security.run_as_group.or(pod_security.run_as_group),
        groups: pod_security.supplemental_groups.clone(),
        read_only_root: security.read_only_root_filesystem.unwrap_or(false),
        privilege: if facts.ours.contains(&c.name) {
            Privilege::Weft(capabilities(security))
        } else {
            Privilege::App
        },
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
        sub_path: mount
            .sub_path
            .as_ref()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        read_only: mount.read_only,
    }
}

/// The path of a GET, which begins with a slash.
fn rooted(get: &raw::HttpGet) -> String {
    let path = get.path.as_deref().unwrap_or("/");
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

fn headers(get: &raw::HttpGet) -> Vec<(String, String)> {
    let headers = get.http_headers.iter();
    headers
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect()
}

fn hook(hook: Option<&raw::Hook>, container: &Container) -> Option<Hook> {
    let hook = hook?;
    if let Some(get) = &hook.http_get {
        return Some(Hook::Http {
            host: get.host.clone().filter(|host| !host.is_empty()),
            port: port_of(&get.port, container)?,
            path: rooted(get),
            https: get.scheme.as_deref() == Some("HTTPS"),
            headers: headers(get),
        });
    }
    if let Some(sleep) = hook.sleep {
        return Some(Hook::Sleep(seconds(sleep.seconds)));
    }
    let command = hook.exec.as_ref()?.command.clone();
    Some(Hook::Exec { command })
}

fn probe(probe: &raw::Probe, container: &Container) -> Option<Probe> {
    let action = if let Some(get) = &probe.http_get {
        ProbeAction::Http {
            host: get.host.clone().filter(|host| !host.is_empty()),
            port: port_of(&get.port, container)?,
            path: rooted(get),
            https: get.scheme.as_deref() == Some("HTTPS"),
            headers: headers(get),
        }
    } else if let Some(grpc) = &probe.grpc {
        ProbeAction::Grpc {
            port: grpc.port,
            service: grpc.service.clone().unwrap_or_default(),
        }
    } else if let Some(socket) = &probe.tcp_socket {
        let host = socket.host.clone().filter(|host| !host.is_empty());
        ProbeAction::Tcp {
            host,
            port: port_of(&socket.port, container)?,
        }
    } else {
        ProbeAction::Exec {
            command: probe.exec.as_ref()?.command.clone(),
        }
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

/// The number of a container's port by the name or number that a Service names; None: no container has it.
pub fn resolve_port(spec: &PodSpec, port: &NumberOrName, protocol: raw::Protocol) -> Option<u16> {
    match port {
        NumberOrName::Number(number) => u16::try_from(*number).ok(),
        NumberOrName::Name(name) => {
            // The sidecars' ports count as well (KEP-753).
            let sidecars = spec
                .init_containers
                .iter()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| &container.ports);
            let mut named = ports.filter(|port| port.name == *name && port.protocol == protocol);
            named.next().map(|port| port.container_port)
        }
    }
}
