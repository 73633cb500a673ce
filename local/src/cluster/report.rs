//! What people see of the cluster when they ask: its state as JSON, and its pods by name.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use weft_control::objects::{Problem, Severity};

use super::publish::phase;
use super::record::{Found, Record};
use super::{Cluster, system};
use crate::manifest::pod::resolve_port;
use crate::manifest::raw::Protocol;
use crate::manifest::{Address, Key, Owner, ServicePort, Workload};
use crate::pod::{ContainerState, Kind, Phase};

impl Cluster {
    /// The pods of the user.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Record> {
        let mut pods: Vec<&Record> = self.records.values().filter(|record| !record.system).collect();
        pods.sort_by(|a, b| (&a.key, a.order).cmp(&(&b.key, b.order)));
        pods.into_iter()
    }

    /// The state of everything.
    pub(super) fn status(&self) -> Value {
        let pods: Vec<Value> = self.pods().map(|record| self.pod_status(record)).collect();
        let control = self
            .records
            .values()
            .filter(|record| record.system)
            .max_by_key(|record| record.order);
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
        let ports = service.ports.iter().map(|port| {
            let numbers = selected
                .iter()
                .filter_map(|record| resolve_port(&record.spec, &port.target, port.protocol));
            json!({
                "name": port.name, "port": port.port, "protocol": port.protocol.as_str(),
                "appProtocol": port.app_protocol, "declared": self.declared(key, port),
                "podPorts": numbers.collect::<BTreeSet<u16>>(),
            })
        });
        json!({
            "namespace": key.namespace, "name": key.name,
            "addresses": self.cluster_ips.get(key), "headless": service.address == Address::Headless,
            "externalName": match &service.address { Address::External(name) => Some(name), _ => None },
            "ports": ports.collect::<Vec<_>>(), "pods": {"ready": ready, "all": selected.len(), "names": names},
        })
    }

    /// What is declared of a Service's port, and by what: `appProtocol`, the port's `name`, or routes.
    fn declared(&self, key: &Key, port: &ServicePort) -> Option<Value> {
        if port.protocol != Protocol::Tcp {
            return None;
        }
        let (protocol, routes) = self.parts.review.declared(key, port.port)?;
        let by = match (&routes[..], &port.app_protocol) {
            ([], Some(_)) => "appProtocol".to_owned(),
            ([], None) => "name".to_owned(),
            (routes, _) => routes.join(", "),
        };
        Some(json!({"protocol": protocol, "by": by}))
    }

    /// A pod by name, by the beginning of its name if that fits one only, or the first ready one of `deploy/NAME`.
    pub(super) fn find(&self, namespace: &str, pod: &str) -> Result<Found, String> {
        let here = || {
            self.records
                .values()
                .filter(|record| record.key.namespace == namespace && !record.deleting)
        };
        fn best(mut records: Vec<&Record>) -> Vec<&Record> {
            records.sort_by(|a, b| (!a.ready(), &a.key.name).cmp(&(!b.ready(), &b.key.name)));
            records
        }
        if let Some((kind, name)) = Workload::named(pod) {
            let key = Key::new(namespace, name);
            let owner = Owner { kind, key };
            let pods = best(here().filter(|record| record.owner.as_ref() == Some(&owner)).collect());
            return pods
                .first()
                .map(|record| found(record))
                .ok_or_else(|| self.podless(&owner));
        }
        let name = pod
            .strip_prefix("pod/")
            .or_else(|| pod.strip_prefix("pods/"))
            .unwrap_or(pod);
        let exact: Vec<&Record> = here().filter(|record| record.key.name == name).collect();
        if let Some(record) = exact.iter().max_by_key(|record| record.order) {
            return Ok(found(record));
        }
        let begun = best(
            here()
                .filter(|record| record.key.name.starts_with(name) && !name.is_empty())
                .collect(),
        );
        let same_owner = begun
            .windows(2)
            .all(|two| two[0].owner.is_some() && two[0].owner == two[1].owner);
        match &begun[..] {
            [] => {
                let mut names: Vec<&str> = here().map(|record| record.key.name.as_str()).collect();
                names.sort_unstable();
                match names.is_empty() {
                    true => Err(format!(
                        "there is no pod {name:?}: the namespace {namespace} has none{}",
                        self.elsewhere(namespace, name)
                    )),
                    false => Err(format!(
                        "there is no pod {name:?} in the namespace {namespace}{}; it has {}",
                        near(name, &names).unwrap_or_else(|| self.elsewhere(namespace, name)),
                        names.join(", ")
                    )),
                }
            }
            [first, ..] if same_owner => Ok(found(first)),
            several => {
                let names: Vec<&str> = several.iter().map(|record| record.key.name.as_str()).collect();
                Err(format!("{name:?} may be any of {}", names.join(", ")))
            }
        }
    }
}

impl Cluster {
    /// What to try where a namespace has no pod of that name: the namespaces that have one, or, if it has none at all, any.
    fn elsewhere(&self, namespace: &str, name: &str) -> String {
        let live = || {
            self.records
                .values()
                .filter(|record| !record.deleting && !record.system)
        };
        let is_empty = live().all(|record| record.key.namespace != namespace);
        let all = || live().filter(|record| record.key.namespace != namespace);
        let mut having: Vec<&str> = all()
            .filter(|record| record.key.name.starts_with(name))
            .map(|record| record.key.namespace.as_str())
            .collect();
        if having.is_empty() && is_empty {
            having = all().map(|record| record.key.namespace.as_str()).collect();
        }
        having.sort_unstable();
        having.dedup();
        match having.is_empty() {
            true => String::new(),
            false => format!(" (try -n {})", having.join(", -n ")),
        }
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

/// The name that was probably meant: of a pod, or the part of it that people type.
fn near(name: &str, names: &[&str]) -> Option<String> {
    const ALIKE: f64 = 0.8;
    let likeness = |known: &str| {
        let begins = known
            .char_indices()
            .filter(|(_, c)| *c == '-')
            .map(|(at, _)| &known[..at]);
        let all = begins.chain(std::iter::once(known));
        // Two letters in the wrong order are no likeness to the one measure, in a short name.
        let score = |part: &str| match strsim::osa_distance(name, part) {
            1 => 1.0,
            _ => strsim::jaro_winkler(name, part),
        };
        let scored = all.map(|part| (score(part), part.to_owned()));
        scored.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let best = names
        .iter()
        .filter_map(|known| likeness(known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(score, _)| *score > ALIKE)
        .map(|(_, meant)| format!(" (did you mean {meant:?}?)"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_pod_is_told_what_was_probably_meant() {
        let names = ["ratings-njqthlkw8g-4n8zg", "reviews-v1-57wpdf6vkf-kwq9n", "visitor"];
        assert_eq!(near("reveiws", &names).as_deref(), Some(" (did you mean \"reviews\"?)"));
        assert_eq!(near("vistor", &names).as_deref(), Some(" (did you mean \"visitor\"?)"));
        assert_eq!(near("zookeeper", &names), None);
    }
}
