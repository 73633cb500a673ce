//! What the types of a pod's fields can't say: names that must be unique, references that must lead somewhere, values that
//! would change behaviour and can't be honoured.

use std::collections::BTreeSet;

use weft_control::objects::names::{is_label, is_subdomain};

use super::raw::{Container, NumberOrName, PodSpec, Probe, Security, Volume};
use super::{Workload, doubts, fields, resources};
use crate::spec::PROXY_UID;

/// A mistake: where, what, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// `spec.containers[0].env[2].name`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: String,
}

/// Names that injection gives to what it adds.
const RESERVED: [&str; 5] = ["weft-init", "weft-proxy", "weft-token", "weft-trust", "weft-state"];

/// All mistakes of a user's pod. `kind`: of what it is the template.
pub(super) fn pod(spec: &PodSpec, kind: Option<Workload>) -> Vec<Mistake> {
    let mut out = Mistakes(vec![]);
    match (kind, spec.restart_policy.as_deref()) {
        (Some(Workload::Job), None | Some("Always")) => out.add(
            "spec.restartPolicy",
            "a Job's pods end, and are not always restarted",
            "take OnFailure or Never",
        ),
        (None | Some(Workload::Job), _) | (Some(_), None | Some("Always")) => {}
        (Some(kind), Some(_)) => out.add(
            "spec.restartPolicy",
            format!("a {}'s pods are always restarted", kind.as_str()),
            "remove it, or write a Job or a Pod",
        ),
    }
    if spec.containers.is_empty() {
        out.add(
            "spec.containers",
            "a pod needs a container",
            "add one with a name and a command",
        );
    }
    for (field, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|name| !is_label(name)) {
            let message = format!("{name:?} is no DNS label");
            out.add(field, message, "take a-z, 0-9 and '-', at most 63");
        }
    }
    for (i, alias) in spec.host_aliases.iter().enumerate() {
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            out.add(
                &format!("spec.hostAliases[{i}].ip"),
                format!("{:?} is no IP address", alias.ip),
                "",
            );
        }
    }
    security(&spec.security_context, "spec.securityContext", &mut out);
    volumes(&spec.volumes, &mut out);
    containers(spec, &mut out);
    out.0
}

struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, field: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Mistake {
            field: field.to_owned(),
            message: message.into(),
            fix: fix.into(),
        });
    }
}

fn security(security: &Security, path: &str, out: &mut Mistakes) {
    if security.run_as_user == Some(0) || security.run_as_group == Some(0) {
        let field = if security.run_as_user == Some(0) {
            "runAsUser"
        } else {
            "runAsGroup"
        };
        out.add(
            &format!("{path}.{field}"),
            "a local container can't run as root: its files are this machine's",
            "remove it; without, it runs as an unprivileged user that may listen on low ports",
        );
    }
    for (field, id) in [
        ("runAsUser", security.run_as_user),
        ("runAsGroup", security.run_as_group),
    ] {
        if id == Some(PROXY_UID) {
            out.add(
                &format!("{path}.{field}"),
                format!("{PROXY_UID} is the proxy's own"),
                "take another",
            );
        }
    }
    // Low ports may be listened on anyhow, so this one is honoured by what is there.
    for (i, capability) in security
        .capabilities
        .add
        .iter()
        .enumerate()
        .filter(|(_, c)| *c != "NET_BIND_SERVICE")
    {
        out.add(
            &format!("{path}.capabilities.add[{i}]"),
            format!("{capability} is not given to local containers"),
            "remove it",
        );
    }
}

fn volumes(volumes: &[Volume], out: &mut Mistakes) {
    let mut names = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        name(&volume.name, &format!("{path}.name"), &mut names, out);
        let Volume {
            name: _,
            empty_dir,
            config_map,
            secret,
            downward_api,
            projected,
            persistent_volume_claim,
        } = volume;
        let kinds = [
            empty_dir.is_some(),
            config_map.is_some(),
            secret.is_some(),
            downward_api.is_some(),
            projected.is_some(),
            persistent_volume_claim.is_some(),
        ];
        if kinds.iter().filter(|kind| **kind).count() != 1 {
            let fix = "give it one of emptyDir, configMap, secret, projected, downwardAPI";
            out.add(&path, "a volume needs exactly one source", fix);
        }
        if let Some(limit) = empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref())
            && quantity(limit).is_none()
        {
            out.add(
                &format!("{path}.emptyDir.sizeLimit"),
                "is no quantity",
                "write it like 64Mi",
            );
        }
        let downward = downward_api.iter().map(|d| (format!("{path}.downwardAPI"), d));
        let sources = projected.iter().flat_map(|p| p.sources.iter().enumerate());
        let deeper = sources.filter_map(|(j, s)| {
            Some((
                format!("{path}.projected.sources[{j}].downwardAPI"),
                s.downward_api.as_ref()?,
            ))
        });
        for (place, downward) in downward.chain(deeper) {
            for (j, item) in downward.items.iter().enumerate() {
                if !fields::in_volumes(&item.field_ref.field_path) {
                    let fix = format!("take one of {}", fields::IN_VOLUMES);
                    out.add(
                        &format!("{place}.items[{j}].fieldRef.fieldPath"),
                        "is not known here",
                        fix,
                    );
                }
            }
        }
    }
}

fn name(name: &str, field: &str, seen: &mut BTreeSet<String>, out: &mut Mistakes) {
    if RESERVED.contains(&name) {
        out.add(
            field,
            format!("{name:?} is the name of what Weft itself adds"),
            "take another",
        );
    } else if !is_label(name) {
        out.add(
            field,
            format!("{name:?} is no DNS label"),
            "take a-z, 0-9 and '-', at most 63",
        );
    } else if !seen.insert(name.to_owned()) {
        out.add(field, format!("{name:?} is there twice"), "take another");
    }
}

fn containers(spec: &PodSpec, out: &mut Mistakes) {
    let mut names = BTreeSet::new();
    for (list, containers) in [
        ("initContainers", &spec.init_containers),
        ("containers", &spec.containers),
    ] {
        let init = list == "initContainers";
        for (i, container) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            name(&container.name, &format!("{path}.name"), &mut names, out);
            one(container, &path, init, spec, out);
        }
    }
}

fn one(container: &Container, path: &str, init: bool, spec: &PodSpec, out: &mut Mistakes) {
    if container.command.first().is_none_or(String::is_empty) {
        let message = "names no program: images are not used here, nor are their entry points";
        out.add(
            &format!("{path}.command"),
            message,
            "write the command of a program of this machine",
        );
    }
    let sidecar = match (init, container.restart_policy.as_deref()) {
        (_, None) => false,
        (true, Some("Always")) => true,
        (true, Some(other)) => {
            out.add(
                &format!("{path}.restartPolicy"),
                format!("{other:?} is not honoured"),
                "remove it, or take Always",
            );
            false
        }
        (false, Some(_)) => {
            out.add(
                &format!("{path}.restartPolicy"),
                "is for init containers only",
                "set the pod's restartPolicy",
            );
            false
        }
    };
    security(&container.security_context, &format!("{path}.securityContext"), out);
    if let Some(dir) = container.working_dir.as_deref().filter(|dir| !dir.starts_with('/')) {
        out.add(
            &format!("{path}.workingDir"),
            format!("{dir:?} is not an absolute path"),
            "",
        );
    }
    env(container, path, spec, out);
    lifecycle(container, path, init && !sidecar, out);
    ports(container, path, out);
    out.0.extend(doubts::container(container, path));
    mounts(container, path, spec, out);
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    for (kind, probe) in probes
        .into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
    {
        if init && !sidecar {
            out.add(
                &format!("{path}.{kind}"),
                "an init container that ends has no probes",
                "remove it",
            );
        }
        check_probe(probe, kind, container, &format!("{path}.{kind}"), out);
    }
}

fn mounts(container: &Container, path: &str, spec: &PodSpec, out: &mut Mistakes) {
    for (i, mount) in container.volume_mounts.iter().enumerate() {
        let field = format!("{path}.volumeMounts[{i}]");
        if !spec.volumes.iter().any(|volume| volume.name == mount.name) {
            out.add(
                &format!("{field}.name"),
                format!("there is no volume {:?}", mount.name),
                "add it to spec.volumes",
            );
        }
        if !mount.mount_path.starts_with('/')
            || mount.mount_path == "/"
            || mount.mount_path.split('/').any(|p| p == "..")
        {
            out.add(&format!("{field}.mountPath"), "is not an absolute path below /", "");
        }
    }
}

fn env(container: &Container, path: &str, spec: &PodSpec, out: &mut Mistakes) {
    for (i, var) in container.env.iter().enumerate() {
        let field = format!("{path}.env[{i}]");
        if var.name.is_empty() || var.name.contains(['=', '\0']) {
            out.add(
                &format!("{field}.name"),
                format!("{:?} is no name of a variable", var.name),
                "",
            );
        }
        let Some(from) = &var.value_from else { continue };
        if var.value.as_deref().is_some_and(|value| !value.is_empty()) {
            out.add(&field, "has a value and a valueFrom", "remove one");
        }
        let sources = [
            from.field_ref.is_some(),
            from.config_map_key_ref.is_some(),
            from.secret_key_ref.is_some(),
            from.resource_field_ref.is_some(),
        ];
        if sources.iter().filter(|source| **source).count() != 1 {
            let fix = "give it one of fieldRef, configMapKeyRef, secretKeyRef, resourceFieldRef";
            out.add(&format!("{field}.valueFrom"), "needs exactly one source", fix);
        }
        if let Some(reference) = &from.field_ref
            && !fields::in_env(&reference.field_path)
        {
            let fix = format!("take one of {}", fields::IN_ENV);
            let message = format!("{:?} is not known here", reference.field_path);
            out.add(&format!("{field}.valueFrom.fieldRef.fieldPath"), message, fix);
        }
        if let Some(reference) = &from.resource_field_ref
            && let Err((below, message, fix)) = resources::value(spec, container, reference)
        {
            out.add(&format!("{field}.valueFrom.resourceFieldRef{below}"), message, fix);
        }
    }
    for (i, source) in container.env_from.iter().enumerate() {
        if source.config_map_ref.is_some() == source.secret_ref.is_some() {
            let fix = "give it one of configMapRef, secretRef";
            out.add(&format!("{path}.envFrom[{i}]"), "needs exactly one source", fix);
        }
    }
}

fn lifecycle(container: &Container, path: &str, ends: bool, out: &mut Mistakes) {
    let Some(lifecycle) = &container.lifecycle else { return };
    let hooks = [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (name, hook) in hooks
        .into_iter()
        .filter_map(|(name, hook)| Some((name, hook.as_ref()?)))
    {
        let path = format!("{path}.lifecycle.{name}");
        if ends {
            out.add(&path, "an init container that ends has no lifecycle hooks", "remove it");
        }
        let actions = [hook.exec.is_some(), hook.http_get.is_some(), hook.sleep.is_some()];
        if actions.iter().filter(|action| **action).count() != 1 {
            out.add(
                &path,
                "a hook needs exactly one of exec, httpGet and sleep",
                "keep one of them",
            );
        }
        if hook.exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
            out.add(&format!("{path}.exec.command"), "names no program", "");
        }
        if hook
            .http_get
            .as_ref()
            .is_some_and(|get| port_of(&get.port, container).is_none())
        {
            let fix = "take a number from 1 to 65535, or the name of one of the container's ports";
            out.add(&format!("{path}.httpGet.port"), "names no port of this container", fix);
        }
    }
}

fn ports(container: &Container, path: &str, out: &mut Mistakes) {
    let mut names = BTreeSet::new();
    for (i, port) in container.ports.iter().enumerate() {
        let field = format!("{path}.ports[{i}]");
        if port.container_port == 0 {
            out.add(&format!("{field}.containerPort"), "0 is no port", "take 1 to 65535");
        }
        let named = !port.name.is_empty();
        if named && (port.name.len() > 15 || !is_subdomain(&port.name)) {
            out.add(
                &format!("{field}.name"),
                format!("{:?} is no port name", port.name),
                "take a-z, 0-9, '-', at most 15",
            );
        }
        if named && !names.insert(port.name.as_str()) {
            out.add(
                &format!("{field}.name"),
                format!("{:?} is there twice", port.name),
                "take another",
            );
        }
    }
}

fn check_probe(probe: &Probe, kind: &str, container: &Container, path: &str, out: &mut Mistakes) {
    let actions = [
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
        probe.exec.is_some(),
        probe.grpc.is_some(),
    ];
    if actions.iter().filter(|action| **action).count() != 1 {
        let message = "a probe needs exactly one of httpGet, tcpSocket, grpc and exec";
        out.add(path, message, "keep one of them");
    }
    if probe.grpc.as_ref().is_some_and(|grpc| grpc.port == 0) {
        out.add(&format!("{path}.grpc.port"), "0 is no port", "take 1 to 65535");
    }
    if probe
        .grpc
        .as_ref()
        .and_then(|grpc| grpc.service.as_ref())
        .is_some_and(|name| name.len() > 127)
    {
        out.add(&format!("{path}.grpc.service"), "is longer than 127 bytes", "");
    }
    let http = probe.http_get.as_ref().map(|get| ("httpGet", &get.port));
    let tcp = probe.tcp_socket.as_ref().map(|socket| ("tcpSocket", &socket.port));
    for (action, port) in http.into_iter().chain(tcp) {
        if port_of(port, container).is_none() {
            let fix = "take a number from 1 to 65535, or the name of one of the container's ports";
            out.add(&format!("{path}.{action}.port"), "names no port of this container", fix);
        }
    }
    let counts = [
        ("periodSeconds", probe.period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, _) in counts.iter().filter(|(_, count)| *count == Some(0)) {
        out.add(&format!("{path}.{field}"), "must be at least 1", "");
    }
    if kind != "readinessProbe" && probe.success_threshold.is_some_and(|count| count > 1) {
        out.add(
            &format!("{path}.successThreshold"),
            "must be 1 for this probe",
            "remove it",
        );
    }
    if probe.exec.as_ref().is_some_and(|exec| exec.command.is_empty()) {
        out.add(&format!("{path}.exec.command"), "names no program", "");
    }
}

/// The number of a probe's port.
pub(super) fn port_of(port: &NumberOrName, container: &Container) -> Option<u16> {
    match port {
        NumberOrName::Number(number) => u16::try_from(*number).ok().filter(|number| *number != 0),
        NumberOrName::Name(name) => match name.parse() {
            Ok(number) => Some(number).filter(|number| *number != 0),
            Err(_) => container
                .ports
                .iter()
                .find(|port| port.name == *name)
                .map(|port| port.container_port),
        },
    }
}

/// A quantity of bytes: `64Mi`, `1G`, `4096`.
pub(super) fn quantity(value: &NumberOrName) -> Option<u64> {
    let text = match value {
        NumberOrName::Number(number) => return Some(u64::from(*number)),
        NumberOrName::Name(text) => text.trim(),
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}
