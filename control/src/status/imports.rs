//! What is imported, and the objects that it becomes, for whoever plays the API server.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::Value;
use weft_proto::resource;
use weft_proto::resource::federation::Transport;

use crate::federation::derived::{self, Ready};
use crate::federation::merge::{ImportType, Merged};
use crate::index::{Index, Name};
use crate::serve::hub::Hub;

/// Imports that are told: as many as one peer may export.
const IMPORTS_MAX: usize = 10_000;
/// Endpoints that are told, over all imports. A mesh that needs more of them has them from its proxies' streams.
const ENDPOINTS_MAX: usize = 20_000;

/// `GET /imports`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Imports {
    /// Another one where anything of it is.
    pub(crate) version: String,
    /// ServiceImports, each with the addresses of its derived Service as far as that has some. Since when its condition is
    /// so is left to whoever keeps it.
    pub(crate) imports: Vec<Value>,
    /// Services as the API server is to have them: those that imports are called by, and those of a name that only other
    /// clusters have.
    pub(crate) services: Vec<Value>,
    /// What is behind imports in other clusters, and dialled from here as it is: for clients that have no proxy.
    pub(crate) endpoints: Vec<Reached>,
}

/// One port of a pod of another cluster, in a network that both share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reached {
    /// The imported Service's namespace.
    namespace: String,
    /// Its name.
    service: String,
    /// The number of its port, which is TCP.
    port: u16,
    cluster: String,
    pod: String,
    /// Of a headless Service: the pod's host name. May be empty.
    hostname: String,
    address: SocketAddr,
}

impl Hub {
    pub(crate) fn imports(&self) -> Imports {
        imports(&self.index)
    }
}

/// Everything, in order of name.
fn imports(index: &Index) -> Imports {
    let mut all = Imports::default();
    for name in names(index) {
        let Some(merged) = index.merged(&name) else { continue };
        all.imports.push(service_import(index, &name, &merged));
        all.services.push(derived::derived_service(&name, &merged));
        if !index.has_own(&name) {
            all.services.push(derived::own_service(&name, &merged));
        }
        all.endpoints.extend(reached(index, &name));
    }
    all.endpoints.truncate(ENDPOINTS_MAX);
    let text = serde_json::to_vec(&all).expect("texts, numbers and lists are JSON");
    all.version = resource::hash(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    all
}

/// What any peer exports that is imported from it.
fn names(index: &Index) -> BTreeSet<Name> {
    let remotes = index.remotes();
    let names = remotes.flat_map(|(_, peer, remote)| {
        let names = remote.exports.keys();
        names.filter(|name| remote.export_of(peer, name).is_some())
    });
    let mut names: BTreeSet<Name> = names.cloned().collect();
    if names.len() > IMPORTS_MAX {
        tracing::error!(services = names.len(), limit = IMPORTS_MAX, "imports left out");
        names = names.into_iter().take(IMPORTS_MAX).collect();
    }
    names
}

fn service_import(index: &Index, name: &Name, merged: &Merged) -> Value {
    let derived = Name::new(name.namespace.as_str(), derived::derived_name(name));
    let ips: Vec<IpAddr> = match index.import_behind(&derived).as_ref() == Some(name) {
        true => index.services.get(&derived).and_then(|kept| kept.form()),
        false => None,
    }
    .map_or_else(Vec::new, |service| service.cluster_ips.clone());
    let ready = match merged.kind == ImportType::Headless || !ips.is_empty() {
        true => Ready::Ready,
        false => Ready::Pending,
    };
    derived::service_import(name, merged, &ips, (ready, ""))
}

/// The endpoints behind an import that pods of this cluster reach as they are: those of its own network, which take new
/// connections.
fn reached(index: &Index, name: &Name) -> Vec<Reached> {
    let mut all = Vec::new();
    for (_, peer, remote) in index.remotes().filter(|(_, peer, remote)| index.dials(peer, remote)) {
        let ports = remote
            .export_of(peer, name)
            .into_iter()
            .flat_map(|export| &export.ports);
        for port in ports.filter(|port| port.transport == Transport::Tcp) {
            let exported = remote.exported.get(&(name.clone(), port.port));
            let endpoints = exported.into_iter().flat_map(|exported| &exported.endpoints);
            all.extend(endpoints.filter(|one| !one.endpoint.draining).map(|one| Reached {
                namespace: name.namespace.clone(),
                service: name.name.clone(),
                port: port.port,
                cluster: peer.cluster.clone(),
                pod: one.endpoint.pod.clone(),
                hostname: one.hostname.clone(),
                address: one.endpoint.address,
            }));
        }
    }
    all
}
