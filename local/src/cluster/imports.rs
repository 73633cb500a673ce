//! What other clusters share with this one: Services and ServiceImports beside those of the files, which come first.
//!
//! In: what the control plane says is imported ([`Imports`]). Out: the Services through which it is called, what is behind
//! each of them, names of the clusterset, and ServiceImports. An import is here as long as its namespace is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};
use weft_control::federation::derived::SERVICE_NAME_LABEL;
use weft_control::objects::{Object, Problem, Severity};

use super::build::rfc3339;
use super::system::object;
use crate::manifest::raw::Protocol;
use crate::manifest::{Desired, Key, Service, ServicePort};
use crate::slices::Endpoint;

/// Imports that one local mesh takes: each is a Service or two, and pods outside the mesh have rules for all of them.
const MOST: usize = 1000;
/// What no pod here can listen on, or dial.
const SCTP: &str = "SCTP";

/// `GET /imports` of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Imports {
    /// Another one where anything of it is.
    pub version: String,
    imports: Vec<Value>,
    services: Vec<Value>,
    endpoints: Vec<Reached>,
}

/// One port of another cluster's pod, in a network that both share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Reached {
    namespace: String,
    service: String,
    port: u16,
    cluster: String,
    pod: String,
    hostname: String,
    address: SocketAddr,
}

/// What of it is here.
#[derive(Debug, Default)]
pub(super) struct Taken {
    told: Imports,
    /// By the name of the imported Service.
    imports: BTreeMap<Key, Import>,
    /// The Services that are here because of them, and the one that each is of.
    services: BTreeMap<Key, Key>,
}

#[derive(Debug)]
pub(super) struct Import {
    /// The ServiceImport.
    object: Value,
    /// Its ports, in the order of its Services' ports.
    pub(super) ports: Vec<ImportPort>,
    /// Whether this cluster exports it too.
    own: bool,
    /// What is behind it in other clusters, as far as it is dialled from here as it is.
    remote: Vec<Endpoint>,
}

/// A port of an import. What is behind it has its number, by whatever name (KEP-1645, "Service Port").
#[derive(Debug)]
pub(super) struct ImportPort {
    /// May be empty.
    pub(super) name: String,
    number: u64,
    protocol: Protocol,
}

impl Taken {
    /// The files were read anew: nothing is beside them yet.
    pub(super) fn begin_anew(&mut self) {
        self.services.clear();
    }

    /// What the control plane says now.
    pub(super) fn hear(&mut self, told: Imports) {
        self.told = told;
    }

    /// Puts the Services of imports beside those of the files. `cluster`: this one's name; `written`: the files' objects.
    pub(super) fn put_beside(
        &mut self,
        desired: &mut Desired,
        cluster: &str,
        written: &[Arc<Object>],
    ) -> (Vec<Arc<Object>>, Vec<Problem>) {
        for key in std::mem::take(&mut self.services).into_keys() {
            desired.services.remove(&key);
        }
        let before = std::mem::take(&mut self.imports);
        let mut remote = remote(&self.told.endpoints);
        for import in &self.told.imports {
            let key = key_of(import);
            if desired.has_namespace(&key.namespace) && self.imports.len() < MOST {
                let remote = remote.remove(&key).unwrap_or_default();
                let import = Import::new(import, before.get(&key), cluster, &remote);
                self.imports.insert(key, import);
            }
        }
        let mut added = Vec::new();
        for raw in &self.told.services {
            let key = key_of(raw);
            let of = raw["metadata"]["labels"][SERVICE_NAME_LABEL]
                .as_str()
                .unwrap_or_default();
            let of = Key::new(key.namespace.as_str(), of);
            // What somebody wrote is theirs.
            let is_free = !desired.services.contains_key(&key) && !has(written, "Service", &key);
            if !is_free || !self.imports.contains_key(&of) {
                continue;
            }
            let object = object(without_sctp(raw));
            // What is wrong with it is nobody's here to mend.
            let Some(service) = Service::read(&object, &mut Vec::new()) else {
                tracing::warn!(service = %key, "an imported Service can't be had");
                continue;
            };
            desired.services.insert(key.clone(), service);
            self.services.insert(key, of);
            added.push(object);
        }
        (added, self.too_many().into_iter().collect())
    }

    fn too_many(&self) -> Option<Problem> {
        let told = self.told.imports.len();
        (told > MOST).then(|| Problem {
            file: None,
            line: None,
            object: None,
            field: String::new(),
            message: format!("other clusters share {told} Services with this one, which takes {MOST}"),
            fix: "narrow spec.imports of the ClusterPeers".to_owned(),
            severity: Severity::Warning,
        })
    }

    /// The imported Service that a Service is here for.
    pub(super) fn of(&self, service: &Key) -> Option<&Key> {
        self.services.get(service)
    }

    /// Each import with its Service, by which it is called.
    pub(super) fn called(&self) -> impl Iterator<Item = (&Key, &Import, &Key)> {
        // The Service of its own name is called by that name.
        let derived = self.services.iter().filter(|(key, of)| key != of);
        derived.filter_map(|(key, of)| Some((of, self.imports.get(of)?, key)))
    }

    /// The ServiceImports, but for those that files have. Only the control plane reads them.
    pub(super) fn objects(&self, written: &[Arc<Object>]) -> impl Iterator<Item = Value> {
        let free = self
            .imports
            .iter()
            .filter(|(key, _)| !has(written, "ServiceImport", key));
        free.map(|(_, import)| import.object.clone())
    }

    /// What is behind the Services that are here for imports: pods of other clusters, and this one's where it exports
    /// them. `own`: what is behind the files' Services.
    pub(super) fn behind(&self, desired: &Desired, own: &BTreeMap<Key, Vec<Endpoint>>) -> BTreeMap<Key, Vec<Endpoint>> {
        let behind = self.services.iter().filter_map(|(key, of)| {
            let import = self.imports.get(of)?;
            let local = desired.services.get(of).filter(|_| import.own && key != of);
            let local = local.map(|service| import.local(service, own.get(of).map_or(&[], Vec::as_slice)));
            let remote = import.remote.iter().cloned();
            Some((key.clone(), local.into_iter().flatten().chain(remote).collect()))
        });
        behind.collect()
    }

    /// What people see of them.
    pub(super) fn status(&self) -> Vec<Value> {
        let status = |(key, import): (&Key, &Import)| {
            let (spec, status) = (&import.object["spec"], &import.object["status"]);
            let clusters = status["clusters"].as_array().into_iter().flatten();
            json!({
                "namespace": key.namespace, "name": key.name, "type": spec["type"],
                "addresses": spec["ips"].as_array().cloned().unwrap_or_default(),
                "clusters": clusters.map(|one| &one["cluster"]).collect::<Vec<_>>(),
                "ready": status["conditions"][0]["status"] == "True",
                "reason": status["conditions"][0]["reason"],
            })
        };
        self.imports.iter().map(status).collect()
    }
}

impl Import {
    fn new(told: &Value, before: Option<&Self>, cluster: &str, remote: &BTreeMap<(&str, &str), Vec<&Reached>>) -> Self {
        let mut object = told.clone();
        for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
            let known = before.and_then(|before| known(&before.object, condition));
            let since = known.unwrap_or_else(|| rfc3339(SystemTime::now()).into());
            condition["lastTransitionTime"] = since;
        }
        let ports = told["spec"]["ports"].as_array().into_iter().flatten();
        let ports = ports.filter(|port| port["protocol"] != SCTP);
        let ports: Vec<ImportPort> = ports.map(ImportPort::read).collect();
        let mut clusters = told["status"]["clusters"].as_array().into_iter().flatten();
        Self {
            own: clusters.any(|one| one["cluster"] == cluster),
            remote: remote.values().map(|reached| endpoint(reached, &ports)).collect(),
            object,
            ports,
        }
    }

    /// This cluster's own pods, with the ports that they have for those of the import.
    fn local(&self, service: &Service, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let is_it =
            |port: &ImportPort, of: &ServicePort| (u64::from(of.port), of.protocol) == (port.number, port.protocol);
        let at = |port: &ImportPort| service.ports.iter().position(|of| is_it(port, of));
        let at: Vec<Option<usize>> = self.ports.iter().map(at).collect();
        let port = |endpoint: &Endpoint, at: Option<usize>| endpoint.ports.get(at?).copied().flatten();
        let behind = endpoints.iter().map(|endpoint| Endpoint {
            ports: at.iter().map(|at| port(endpoint, *at)).collect(),
            ..endpoint.clone()
        });
        behind.collect()
    }
}

impl ImportPort {
    fn read(port: &Value) -> Self {
        Self {
            name: port["name"].as_str().unwrap_or_default().to_owned(),
            number: port["port"].as_u64().unwrap_or_default(),
            protocol: match port["protocol"] == "UDP" {
                true => Protocol::Udp,
                false => Protocol::Tcp,
            },
        }
    }

    /// Whether it is what another cluster's pods are behind.
    fn is_of(&self, reached: &Reached) -> bool {
        (self.number, self.protocol) == (u64::from(reached.port), Protocol::Tcp)
    }
}

/// Since when a condition is as it was.
fn known(before: &Value, now: &Value) -> Option<Value> {
    let mut conditions = before["status"]["conditions"].as_array()?.iter();
    let same = conditions.find(|one| one["type"] == now["type"] && one["status"] == now["status"])?;
    Some(same["lastTransitionTime"].clone())
}

/// What is behind each import in other clusters, by cluster and pod.
fn remote(all: &[Reached]) -> BTreeMap<Key, BTreeMap<(&str, &str), Vec<&Reached>>> {
    let mut remote: BTreeMap<Key, BTreeMap<(&str, &str), Vec<&Reached>>> = BTreeMap::new();
    for one in all {
        let of = Key::new(one.namespace.as_str(), one.service.as_str());
        let pod = (one.cluster.as_str(), one.pod.as_str());
        remote.entry(of).or_default().entry(pod).or_default().push(one);
    }
    remote
}

/// A pod of another cluster, from what is said of its ports.
fn endpoint(reached: &[&Reached], ports: &[ImportPort]) -> Endpoint {
    let number = |port: &ImportPort| {
        let mut all = reached.iter();
        all.find(|one| port.is_of(one)).map(|one| one.address.port())
    };
    let ips: BTreeSet<IpAddr> = reached.iter().map(|one| one.address.ip()).collect();
    let text = |field: fn(&Reached) -> &String| reached.first().map(|one| field(one).clone()).unwrap_or_default();
    Endpoint {
        cluster: text(|one| &one.cluster),
        namespace: text(|one| &one.namespace),
        pod: text(|one| &one.pod),
        uid: String::new(),
        hostname: Some(text(|one| &one.hostname)).filter(|name| !name.is_empty()),
        ips: ips.into_iter().collect(),
        ports: ports.iter().map(number).collect(),
        node: String::new(),
        zone: String::new(),
        ready: true,
        serving: true,
        terminating: false,
    }
}

fn key_of(object: &Value) -> Key {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    Key::new(text("namespace"), text("name"))
}

fn has(written: &[Arc<Object>], kind: &str, key: &Key) -> bool {
    let is_it =
        |object: &Arc<Object>| object.kind == kind && object.namespace == key.namespace && object.name == key.name;
    written.iter().any(is_it)
}

fn without_sctp(service: &Value) -> Value {
    let mut service = service.clone();
    if let Some(ports) = service["spec"]["ports"].as_array_mut() {
        ports.retain(|port| port["protocol"] != SCTP);
    }
    service
}

#[cfg(test)]
mod tests;
