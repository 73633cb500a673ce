//! What people see of the cluster when they ask: its state as JSON, and its pods by name.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use weft_control::objects::cluster::{OPAQUE_PORTS_ANNOTATION, opaque_ports_of};
use weft_control::objects::{Problem, Severity};

use super::publish::phase;
use super::record::{Found, Record};
use super::{Cluster, system};
use crate::find::{self, Candidate, near};
use crate::manifest::pod::resolve_port;
use crate::manifest::raw::Protocol;
use crate::manifest::{Address, Key, Owner, ServicePort};
use crate::pod::{ContainerState, Kind, Phase};

impl Cluster {
    /// The pods of the user.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Record> {
        let mut pods: Vec<&Record> = self.records.values().filter(|record| !record.system).collect();
        pods.sort_by(|a, b| (&a.key, a.order).cmp(&(&b.key, b.order)));
        pods.into_iter()
    }

    /// The pods of the control plane: one, and for a moment the one that it takes the place of.
    pub(super) fn control(&self) -> impl Iterator<Item = &Record> {
        let is_control = |record: &&Record| record.system && record.key.name == system::CONTROL;
        self.records.values().filter(is_control)
    }

    /// The state of everything.
    pub(super) fn status(&self) -> Value {
        let pods: Vec<Value> = self.pods().map(|record| self.pod_status(record)).collect();
        let control = self.control().max_by_key(|record| record.order);
        let services = self
            .desired
            .services
            .iter()
            .filter(|(key, _)| key.namespace != system::NAMESPACE);
        let nodes = self.desired.nodes.values().map(|node| {
            let label = |name: &str| node.labels.get(name).cloned().unwrap_or_default();
            let (region, zone) = (
                label("topology.kubernetes.io/region"),
                label("topology.kubernetes.io/zone"),
            );
            json!({"name": node.name, "region": region, "zone": zone})
        });
        json!({
            "ready": self.telling.ready,
            "pods": pods,
            "services": services.map(|(key, _)| self.service_status(key)).collect::<Vec<_>>(),
            "imports": self.imports.status(),
            "jobs": self.desired.jobs.keys().filter_map(|key| self.job_status(key)).collect::<Vec<_>>(),
            "nodes": nodes.collect::<Vec<_>>(),
            "control": control.map(|record| json!({
                "pid": record.pid(system::CONTROL),
                "ready": record.ready(),
                "restarts": record.restarts(),
                "addresses": record.ips,
                "reason": trouble(record),
            })),
            "problems": self.read_problems.iter().chain(&self.problems).map(problem).collect::<Vec<_>>(),
        })
    }

    fn pod_status(&self, record: &Record) -> Value {
        let node = self.desired.nodes.get(&record.node);
        let label = |name: &str| node.and_then(|node| node.labels.get(name)).cloned().unwrap_or_default();
        let version = ["app.kubernetes.io/version", "version"]
            .iter()
            .find_map(|name| record.labels.get(*name));
        let status = &record.status;
        let containers = status.containers.iter().map(|container| {
            let (state, reason) = match &container.state {
                ContainerState::Waiting { reason, message } => ("waiting", join(reason, message)),
                ContainerState::Running { .. } => ("running", String::new()),
                ContainerState::Terminated(end) => {
                    ("terminated", format!("{} (exit code {})", end.reason, end.exit_code))
                }
            };
            let since = match &container.state {
                ContainerState::Running { since, .. } => since.duration_since(UNIX_EPOCH).ok(),
                _ => None,
            };
            json!({
                "name": container.name, "since": since.map(|since| since.as_secs_f64()),
                "kind": match container.kind { Kind::Init => "init", Kind::Sidecar => "sidecar", Kind::Main => "main" },
                "pid": record.pid(&container.name), "state": state, "reason": reason, "ready": container.ready,
                "restarts": container.restarts,
            })
        });
        json!({
            "namespace": record.key.namespace, "name": record.key.name, "uid": record.uid,
            "phase": if record.deleting { "Terminating" } else { phase(status.phase) },
            // A pod that has done its work will never be ready, and nothing is wrong with it.
            "ready": record.ready(), "reason": trouble(record),
            "addresses": record.ips, "node": record.node,
            "region": label("topology.kubernetes.io/region"), "zone": label("topology.kubernetes.io/zone"),
            "version": version.cloned().unwrap_or_default(),
            "workload": weft_injector::patch::workload(&record.object),
            "serviceAccount": record.object["spec"]["serviceAccountName"],
            "meshed": record.meshed, "restarts": record.restarts(),
            "proxyPid": record.pid(weft_injector::sidecar::PROXY),
            "containers": containers.collect::<Vec<_>>(),
        })
    }

    fn service_status(&self, key: &Key) -> Value {
        let service = &self.desired.services[key];
        let selected = self.records.values().filter(|record| {
            let matches = service
                .selector
                .iter()
                .all(|(name, value)| record.labels.get(name) == Some(value));
            record.key.namespace == key.namespace && !service.selector.is_empty() && matches && !record.deleting
        });
        let selected: Vec<&Record> = selected.collect();
        let ready = selected.iter().filter(|record| record.ready()).count();
        let mut names: Vec<&str> = selected.iter().map(|record| record.key.name.as_str()).collect();
        names.sort_unstable();
        let target = |record: &Record, port: &ServicePort| resolve_port(&record.spec, &port.target, port.protocol);
        let ports = service.ports.iter().map(|port| {
            let numbers = selected.iter().filter_map(|record| target(record, port));
            let mut behind = selected.iter();
            let annotated = behind.any(|record| target(record, port).is_some_and(|at| self.is_opaque(record, at)));
            json!({
                "name": port.name, "port": port.port, "protocol": port.protocol.as_str(),
                "appProtocol": port.app_protocol, "declared": self.declared(key, port, annotated),
                "podPorts": numbers.collect::<BTreeSet<u16>>(),
            })
        });
        json!({
            "namespace": key.namespace, "name": key.name, "import": self.imports.of(key).map(|of| &of.name),
            "addresses": self.cluster_ips.get(key), "headless": service.address == Address::Headless,
            "externalName": match &service.address { Address::External(name) => Some(name), _ => None },
            "ports": ports.collect::<Vec<_>>(), "pods": {"ready": ready, "all": selected.len(), "names": names},
        })
    }

    /// Whether an annotation says that a pod's port carries mere bytes.
    fn is_opaque(&self, record: &Record, port: u16) -> bool {
        let namespace = self.desired.namespaces.get(&record.key.namespace);
        let namespace = namespace.and_then(|namespace| namespace.annotations.get(OPAQUE_PORTS_ANNOTATION));
        let own = record.object["metadata"]["annotations"][OPAQUE_PORTS_ANNOTATION].as_str();
        opaque_ports_of(own, namespace.map(String::as_str)).contains(&port)
    }

    /// What is declared of a Service's port, and by what: `appProtocol`, the port's `name`, routes, or an annotation.
    fn declared(&self, key: &Key, port: &ServicePort, annotated: bool) -> Option<Value> {
        if port.protocol != Protocol::Tcp {
            return None;
        }
        let app_protocol = port.app_protocol.as_deref();
        self.parts.review.told(key, port.port, app_protocol, annotated)
    }

    /// The pod that is meant by what was typed.
    pub(super) fn find(&self, namespace: &str, pod: &str) -> Result<Found, String> {
        let records: Vec<&Record> = self.records.values().filter(|record| !record.deleting).collect();
        let candidates: Vec<Candidate<'_>> = records
            .iter()
            .map(|record| Candidate {
                namespace: &record.key.namespace,
                name: &record.key.name,
                owner: record.owner.clone(),
                ready: record.ready(),
                order: record.order,
                own: record.system,
            })
            .collect();
        find::pod(namespace, pod, &candidates, |owner| self.podless(owner)).map(|at| found(records[at]))
    }
}

impl Cluster {
    /// Why a workload has no pod: there is no such workload, or it has none now.
    fn podless(&self, owner: &Owner) -> String {
        if self.desired.workload(owner).is_some() {
            return format!("{owner} has no pod now; see weft status");
        }
        let here = self.desired.workloads().map(|(object, _)| object);
        let like = here.filter(|object| object.kind == owner.kind.as_str() && object.namespace == owner.key.namespace);
        let names: Vec<&str> = like.map(|object| object.name.as_str()).collect();
        let meant = near(&owner.key.name, &names).unwrap_or_default();
        let has = match names.is_empty() {
            true => "the namespace has none".to_owned(),
            false => format!("the namespace has {}", names.join(", ")),
        };
        format!("there is no {owner}{meant}; {has}")
    }
}

fn found(record: &Record) -> Found {
    let names = |list: &[crate::manifest::raw::Container]| list.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let mut containers = names(&record.spec.containers);
    containers.extend(names(&record.spec.init_containers));
    Found {
        key: record.key.clone(),
        handle: record.handle().cloned(),
        containers,
    }
}

/// What is wrong with a pod, if something is.
pub(super) fn trouble(record: &Record) -> Option<String> {
    if let Some((reason, message)) = record.waiting() {
        return (!message.is_empty()).then(|| format!("{reason}: {message}"));
    }
    if record.status.phase == Phase::Succeeded {
        // How its sidecars ended is nobody's concern.
        return None;
    }
    record
        .status
        .containers
        .iter()
        .find_map(|container| match &container.state {
            ContainerState::Waiting { reason, message }
                if matches!(*reason, "CrashLoopBackOff" | "RunContainerError") =>
            {
                let last = container
                    .last
                    .as_ref()
                    .map(|last| format!("exit code {} {}", last.exit_code, last.message));
                let why = if message.is_empty() {
                    last.unwrap_or_default()
                } else {
                    message.clone()
                };
                Some(format!("container {}: {}", container.name, join(reason, why.trim())))
            }
            ContainerState::Terminated(end) if end.exit_code != 0 => {
                let what = join(end.reason, &end.message);
                Some(format!(
                    "container {} ended with exit code {}: {what}",
                    container.name, end.exit_code
                ))
            }
            _ => None,
        })
}

fn join(reason: &str, message: &str) -> String {
    if message.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason}: {message}")
    }
}

/// A problem as `weft status` has it.
pub fn problem(problem: &Problem) -> Value {
    json!({
        "file": problem.file, "line": problem.line, "object": problem.object.as_ref().map(ToString::to_string),
        "field": problem.field, "message": problem.message, "fix": problem.fix, "severity": problem.severity.as_str(),
        "text": problem.to_string(),
    })
}

/// Whether something keeps a mesh from starting.
pub fn is_fatal(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}
