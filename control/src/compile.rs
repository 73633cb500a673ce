//! The compiler: index in, resources out. Pure: the same index and question give the same answer.
//!
//! A resource is named by a key that says what it is made of, so that equal resources are made once for all clients:
//! a Service's port is `shop/reviews:80`, or `shop/reviews:80@web` as the namespace `web` sees it where routes of that
//! namespace act on it; an endpoint set is `shop/reviews:80`, or `shop/reviews:80#v1` for the subset `v1`.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use weft_model::destination::{Lookup, Service, Target};
use weft_model::endpoint::EndpointSet;
use weft_model::inbound::Inbound;
use weft_model::route::BackendPlace;
use weft_model::version::Source;

use crate::index::{Index, Name, Settings, Topic};
use crate::manifests::Snapshot;
use crate::objects::{Object, Problem};

mod endpoints;
mod inbound;
mod key;
mod ledger;
mod lookup;
mod ports;
mod service;
#[cfg(test)]
mod tests;

/// Something compiled.
#[derive(Clone, Debug)]
pub struct Compiled<T> {
    /// What it is. Where `hold` is set: what it is without the object that is invalid.
    pub value: T,
    /// The objects that it was made of, in order of uid.
    pub sources: Vec<Source>,
    /// The features that a proxy needs to honour it.
    pub requires: Vec<String>,
    /// An object that belongs here is invalid, and no valid form of it is known (since a restart, say). A proxy that has
    /// this resource, or endpoint sets that it referred to, is to keep them; one that has nothing gets `value`.
    pub hold: Option<String>,
    /// What it depends on, also where that does not exist (yet).
    pub topics: BTreeSet<Topic>,
}

/// All that one subscription needs, so that it can be sent as one batch.
#[derive(Clone, Debug)]
pub struct Closure {
    /// What is there. Its key is the target, printed.
    pub lookup: Compiled<Lookup>,
    /// The port of a Service that it leads to, with its key.
    pub service: Option<(String, Compiled<Service>)>,
    /// All endpoint sets that it refers to, with their keys.
    pub endpoints: Vec<(String, Compiled<EndpointSet>)>,
}

/// What counts as inside the mesh, beside the private ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshNetworks {
    /// Inside.
    pub inside: Vec<IpNet>,
    /// Never inside.
    pub outside: Vec<IpNet>,
}

impl Closure {
    /// Everything that any part of it depends on.
    pub fn topics(&self) -> BTreeSet<Topic> {
        let service = self.service.iter().flat_map(|(_, service)| &service.topics);
        let endpoints = self.endpoints.iter().flat_map(|(_, set)| &set.topics);
        self.lookup
            .topics
            .iter()
            .chain(service)
            .chain(endpoints)
            .cloned()
            .collect()
    }
}

/// What is at a target, for a client of this namespace.
pub fn lookup(index: &Index, target: &Target, client_namespace: &str) -> Compiled<Lookup> {
    lookup::lookup(index, target, client_namespace)
}

/// The port of a Service behind a key that [`lookup`] gave. `None`: there is none (any more).
pub fn service(index: &Index, key: &str) -> Option<Compiled<Service>> {
    service::service(index, &key.parse().ok()?)
}

/// The endpoint set behind a key that [`service()`] gave. `None`: there is none (any more).
pub fn endpoint_set(index: &Index, key: &str) -> Option<Compiled<EndpointSet>> {
    endpoints::set(index, &key.parse().ok()?)
}

/// What a pod accepts. `None`: it is not known.
pub fn inbound(index: &Index, namespace: &str, pod: &str) -> Option<Compiled<Inbound>> {
    inbound::inbound(index, &Name::new(namespace, pod))
}

/// What counts as inside the mesh.
pub fn networks(index: &Index) -> Compiled<MeshNetworks> {
    inbound::networks(index)
}

/// All that a subscription to a target needs.
pub fn closure(index: &Index, target: &Target, client_namespace: &str) -> Closure {
    let lookup = lookup(index, target, client_namespace);
    let key = match &lookup.value {
        Lookup::Service(key) => Some(key.clone()),
        Lookup::Direct { .. } | Lookup::Outside { .. } | Lookup::NoSuchPort { .. } => None,
    };
    let service = key.and_then(|key| service(index, &key).map(|service| (key, service)));
    let keys: BTreeSet<String> = service
        .iter()
        .flat_map(|(_, service)| endpoint_keys(&service.value))
        .collect();
    let endpoints = keys
        .into_iter()
        .filter_map(|key| endpoint_set(index, &key).map(|set| (key, set)))
        .collect();
    Closure {
        lookup,
        service,
        endpoints,
    }
}

/// The keys of the endpoint sets that a Service refers to.
fn endpoint_keys(service: &Service) -> impl Iterator<Item = String> {
    let rules = service.rules.iter().flat_map(|rules| &rules.rules);
    let backends = rules
        .flat_map(|rule| &rule.backends)
        .filter_map(|backend| match &backend.place {
            BackendPlace::Endpoints(key) => Some(key.clone()),
            BackendPlace::Unresolved(_) => None,
        });
    backends.chain([service.endpoints.clone()])
}

/// What is wrong with these objects, taken together. For a check before the start, without a mesh.
pub fn check(settings: Settings, objects: &[Arc<Object>]) -> Vec<Problem> {
    let mut index = Index::new(settings);
    index.replace(&Snapshot {
        objects: objects.to_vec(),
        ..Snapshot::default()
    });
    index.problems()
}
