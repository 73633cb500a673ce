//! What others see of the cluster: objects for the control plane, names, service addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_control::objects::Severity;

use super::addresses::{Assigned, Impossible};
use super::build::rfc3339;
use super::record::Record;
use super::{Cluster, system};
use crate::dns::{Named, NamedPod, Zone};
use crate::manifest::raw::Protocol;
use crate::manifest::{Address, DEFAULT_ACCOUNT, DEFAULT_NAMESPACE, Family, Key, Service};
use crate::pod::{ContainerState, ContainerStatus, Kind, Phase, Terminated};
use crate::services::Table;
use crate::slices::{Endpoint, Member, endpoints, slices};

impl Cluster {
    /// Publishes everything as it is now. Slices come before pods vanish, and addresses before names.
    pub(super) fn publish(&mut self) {
        let Assigned { ips, wrong } = self.parts.addresses.assign(self.desired.services.iter());
        for Impossible {
            service,
            field,
            message,
            fix,
        } in wrong
        {
            if let Some(service) = self.desired.services.get(&service) {
                self.problems
                    .push(service.object.problem(Severity::Error, field, message, fix));
            }
        }
        self.cluster_ips = ips;
        let mut behind = self.endpoints();
        let imported = self.imports.behind(&self.desired, &behind);
        behind.extend(imported);
        self.rules(&behind);
        self.balance(&behind);
        self.names(&behind);
        let objects = self.objects(&behind);
        if let Err(error) = self.parts.store.sync(objects) {
            tracing::error!(%error, "objects can't be written: the control plane works with old ones");
        }
    }

    fn endpoints(&self) -> BTreeMap<Key, Vec<Endpoint>> {
        let zones: BTreeMap<&str, &str> = self
            .desired
            .nodes
            .iter()
            .filter_map(|(name, node)| Some((name.as_str(), node.labels.get("topology.kubernetes.io/zone")?.as_str())))
            .collect();
        let running = self
            .records
            .values()
            .filter(|record| !record.finished() && !record.status.ended);
        let members: Vec<Member<'_>> = running
            .map(|record| Member {
                namespace: &record.key.namespace,
                name: &record.key.name,
                uid: &record.uid,
                labels: &record.labels,
                spec: &record.spec,
                ips: &record.ips,
                node: &record.node,
                zone: zones.get(record.node.as_str()).copied().unwrap_or_default(),
                // A pod that is going still serves for as long as the runtime calls it ready.
                ready: record.status.ready,
                terminating: record.deleting,
            })
            .collect();
        let services = self.desired.services.iter();
        services
            .map(|(key, service)| (key.clone(), endpoints(service, &members)))
            .collect()
    }

    fn addresses(&self, key: &Key) -> &[IpAddr] {
        self.cluster_ips.get(key).map_or(&[], Vec::as_slice)
    }

    fn rules(&mut self, behind: &BTreeMap<Key, Vec<Endpoint>>) {
        // The DNS server's address is one of the node's own.
        let ours = |key: &&Key| key.namespace == system::NAMESPACE && key.name == system::DNS_SERVICE;
        let services = self.desired.services.iter().filter(|(key, _)| !ours(key));
        let table = Table::new(services.map(|(key, service)| {
            (
                service,
                self.addresses(key),
                behind.get(key).map_or(&[][..], Vec::as_slice),
            )
        }));
        if *self.table != table {
            self.table = Arc::new(table);
        }
    }

    fn names(&self, behind: &BTreeMap<Key, Vec<Endpoint>>) {
        let endpoints = |key: &Key| behind.get(key).map_or(&[][..], Vec::as_slice);
        let shared = self.imports.called().filter_map(|(of, import, key)| {
            let service = self.desired.services.get(key)?;
            let ports = service.ports.iter().zip(&import.ports);
            Some(Named {
                shared: true,
                namespace: &of.namespace,
                name: &of.name,
                addresses: self.addresses(key).to_vec(),
                ports: ports
                    .map(|(port, of)| (of.name.as_str(), transport(port.protocol), port.port))
                    .collect(),
                pods: self.named_pods(service, endpoints(key)),
                external: None,
            })
        });
        let own = self.desired.services.iter().map(|(key, service)| Named {
            shared: false,
            namespace: &key.namespace,
            name: &key.name,
            addresses: self.addresses(key).to_vec(),
            ports: service
                .ports
                .iter()
                .map(|port| (port.name.as_str(), transport(port.protocol), port.port))
                .collect(),
            pods: self.named_pods(service, endpoints(key)),
            external: match &service.address {
                Address::External(name) => Some(name),
                _ => None,
            },
        });
        let zone = Zone::new(own.chain(shared));
        self.parts.zone.send_if_modified(|old| {
            let new = **old != zone;
            if new {
                *old = Arc::new(zone);
            }
            new
        });
    }

    /// The pods that a Service's name leads to: those behind a headless one.
    fn named_pods<'a>(&'a self, service: &Service, endpoints: &'a [Endpoint]) -> Vec<NamedPod<'a>> {
        if service.address != Address::Headless {
            return Vec::new();
        }
        let wanted = |ip: &&IpAddr| service.families.contains(&Family::of(**ip));
        let ready = endpoints.iter().filter(|endpoint| endpoint.ready);
        let pod = |endpoint: &'a Endpoint| NamedPod {
            cluster: match endpoint.cluster.is_empty() {
                true => &self.parts.name,
                false => &endpoint.cluster,
            },
            hostname: endpoint.hostname.as_deref(),
            ips: endpoint.ips.iter().filter(wanted).copied().collect(),
            ports: endpoint.ports.clone(),
        };
        ready.map(pod).collect()
    }

    /// All finished objects, each after those that it refers to.
    fn objects(&self, behind: &BTreeMap<Key, Vec<Endpoint>>) -> Vec<Value> {
        let mut objects = Vec::new();
        // What the user wrote is read where the user wrote it.
        let made = |object: &&Arc<weft_control::objects::Object>| object.origin.is_none();
        let (namespaces, nodes) = (self.desired.namespaces.values(), self.desired.nodes.values());
        objects.extend(namespaces.chain(nodes).filter(made).map(|object| object.raw.clone()));
        if !self.desired.namespaces.contains_key(DEFAULT_NAMESPACE) {
            objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEFAULT_NAMESPACE}}));
        }
        let names = self
            .desired
            .namespaces
            .keys()
            .map(String::as_str)
            .chain([DEFAULT_NAMESPACE]);
        let names: std::collections::BTreeSet<&str> = names.collect();
        for namespace in names {
            let written = self
                .desired
                .service_accounts
                .contains(&Key::new(namespace, DEFAULT_ACCOUNT));
            if !written {
                objects.push(account(namespace, DEFAULT_ACCOUNT));
            }
        }
        objects.push(account(system::NAMESPACE, system::CONTROL));
        objects.extend(
            self.desired
                .services
                .iter()
                .map(|(key, service)| self.service(key, service)),
        );
        objects.extend(self.imports.objects(&self.written.objects));
        let pods = self.records.values().filter(|record| !record.status.ended);
        let mut pods: Vec<&Record> = pods.collect();
        // Of two pods of one name only the newer one can be told; the older one is going.
        pods.sort_by_key(|record| record.order);
        let by_name: BTreeMap<&Key, &Record> = pods.into_iter().map(|record| (&record.key, record)).collect();
        objects.extend(by_name.values().map(|record| self.pod(record)));
        // What is behind imports the control plane knows best: it is told by other clusters, and is no pod of this one.
        let services = self.desired.services.iter();
        let services = services.filter(|(key, _)| self.imports.of(key).is_none());
        objects.extend(services.flat_map(|(key, service)| {
            let slices = slices(service, behind.get(key).map_or(&[][..], Vec::as_slice));
            slices.into_iter().map(|(_, slice)| slice)
        }));
        objects.extend(self.parts.system.dns_slices());
        objects
    }

    /// A Service with its status.
    fn service(&self, key: &Key, service: &Service) -> Value {
        let mut object = finished(service, self.addresses(key));
        if let Some(addresses) = self.node.addresses(key) {
            let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            object["status"] = json!({"loadBalancer": {"ingress": ingress}});
        }
        object
    }

    /// A pod with its status.
    fn pod(&self, record: &Record) -> Value {
        let mut object = record.object.clone();
        if record.deleting {
            // When it is to be gone: of no consequence, only that it is there.
            object["metadata"]["deletionTimestamp"] = json!(rfc3339(record.ready_changed));
        }
        let condition = |kind: &str, status: bool| {
            json!({"type": kind, "status": if status { "True" } else { "False" },
                "lastTransitionTime": rfc3339(record.ready_changed)})
        };
        let status = &record.status;
        let lists = |init: bool| {
            let statuses = status
                .containers
                .iter()
                .filter(|container| (container.kind != Kind::Main) == init);
            statuses.map(container_status).collect::<Vec<_>>()
        };
        object["status"]["phase"] = json!(phase(status.phase));
        object["status"]["startTime"] = json!(rfc3339(record.created));
        object["status"]["conditions"] = json!([
            condition("PodScheduled", true),
            condition("Initialized", status.initialized),
            condition("ContainersReady", status.ready),
            condition("Ready", status.ready),
        ]);
        object["status"]["initContainerStatuses"] = json!(lists(true));
        object["status"]["containerStatuses"] = json!(lists(false));
        object
    }
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}})
}

/// A protocol as names of ports write it.
const fn transport(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The Service as an API server would hold it: with its addresses, and defaults filled in.
pub(super) fn finished(service: &Service, addresses: &[IpAddr]) -> Value {
    let mut object = service.object.raw.clone();
    let families: Vec<&str> = addresses.iter().map(|ip| Family::of(*ip).as_str()).collect();
    let spec = &mut object["spec"];
    if service.address == Address::Headless {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        spec["ipFamilies"] = json!(
            service
                .families
                .iter()
                .map(|family| family.as_str())
                .collect::<Vec<_>>()
        );
    } else if let Some(first) = addresses.first() {
        spec["clusterIP"] = json!(first);
        spec["clusterIPs"] = json!(addresses);
        spec["ipFamilies"] = json!(families);
    }
    object["metadata"]["namespace"] = json!(service.object.namespace);
    object["metadata"]["uid"] = json!(service.object.uid);
    object
}

/// `Pending`, `Running`, …
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

fn container_status(container: &ContainerStatus) -> Value {
    let terminated = |t: &Terminated| {
        json!({"exitCode": t.exit_code, "signal": t.signal, "reason": t.reason, "message": t.message,
            "startedAt": rfc3339(t.started), "finishedAt": rfc3339(t.finished)})
    };
    let state = match &container.state {
        ContainerState::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        ContainerState::Running { since, .. } => json!({"running": {"startedAt": rfc3339(*since)}}),
        ContainerState::Terminated(end) => json!({"terminated": terminated(end)}),
    };
    let mut status = json!({
        "name": container.name, "state": state, "ready": container.ready, "started": container.started,
        "restartCount": container.restarts,
    });
    if let Some(last) = &container.last {
        status["lastState"] = json!({"terminated": terminated(last)});
    }
    status
}
