//! The compiler: index in, resources out. Pure: the same index and question give the same answer.
//!
//! A resource is named by a key that says what it is made of, so that equal resources are made once for all clients:
//! a Service's port is `shop/reviews:80`, or `shop/reviews:80@web` as the namespace `web` sees it where routes of that
//! namespace act on it; an endpoint set is `shop/reviews:80`, `shop/reviews:80#v1` for the subset `v1`, or
//! `shop/reviews:80+import` for what all clusters export.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use weft_model::destination::{Lookup, Protocol, Service, Target};
use weft_model::endpoint::EndpointSet;
use weft_model::inbound::Inbound;
use weft_model::version::Source;
use weft_proto::resource::{Export, Exported};

use crate::index::{Index, Name, Settings, Topic};
use crate::manifests::Snapshot;
use crate::objects::peer::Selection;
use crate::objects::{Object, Problem};

mod endpoints;
mod exports;
mod inbound;
mod key;
pub(crate) mod ledger;
mod lookup;
pub(crate) mod policies;
mod ports;
mod remote;
mod rules;
mod service;
mod streams;
#[cfg(test)]
mod tests;

/// Something compiled.
#[derive(Clone, Debug)]
pub struct Compiled<T> {
    /// What it is. Where `hold` is set: what it is without the object that is invalid.
    pub value: T,
    /// The objects that it was made of, in order of uid.
    pub sources: Vec<Source>,
    /// An object that belongs here is invalid, and no valid form of it is known (since a restart, say). A proxy that has
    /// this resource, or endpoint sets that it referred to, is to keep them; one that has nothing gets `value`.
    pub hold: Option<String>,
    /// What it depends on, also where that does not exist (yet).
    pub topics: BTreeSet<Topic>,
}

/// What counts as inside the mesh, beside the private ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshNetworks {
    /// Inside.
    pub inside: Vec<IpNet>,
    /// Never inside.
    pub outside: Vec<IpNet>,
}

/// What is at a target, for a client of this namespace. `None`: an address of the mesh's own networks of which nothing is
/// known yet. That is no answer, and above all not that it is outside.
pub fn lookup(index: &Index, target: &Target, client_namespace: &str) -> Compiled<Option<Lookup>> {
    lookup::lookup(index, target, client_namespace)
}

/// The Service that a host name would be one of, to a client of this namespace, whether there is one or not.
pub(crate) fn service_of_host(host: &str, namespace: &str, cluster_domain: &str) -> Option<Name> {
    lookup::service_of_host(host, namespace, cluster_domain)
}

/// The port of a Service behind a key that [`lookup`] gave. `None`: there is none (any more).
pub fn service(index: &Index, key: &str) -> Option<Compiled<Service>> {
    service::service(index, &key.parse().ok()?)
}

/// Whether clients of this namespace may be given the Service's port behind a key.
pub fn is_in_view(key: &str, namespace: &str) -> bool {
    key::is_in_view(key, namespace)
}

/// The endpoint set behind a key that [`service()`] gave. `None`: there is none (any more).
pub fn endpoint_set(index: &Index, key: &str) -> Option<Compiled<EndpointSet>> {
    endpoints::set(index, &key.parse().ok()?)
}

/// The key of the endpoints behind a port of an import.
pub(crate) fn import_key(import: &Name, port: u16) -> String {
    key::of_import(import, port).to_string()
}

/// What is declared of a Service's port for clients of its own namespace, and by what, if not by the Service itself: routes
/// (`HTTPRoute shop/reviews`), or the annotation `config.weft.dev/opaque-ports`. `annotated`: pods behind it have that, whether
/// the index knows them or not. For people.
pub fn declared(index: &Index, namespace: &str, service: &str, port: u16, annotated: bool) -> (Protocol, Vec<String>) {
    ports::said_of_service(index, &Name::new(namespace, service), port, annotated)
}

/// What a pod accepts. `None`: it is not known.
pub fn inbound(index: &Index, namespace: &str, pod: &str) -> Option<Compiled<Inbound>> {
    inbound::inbound(index, &Name::new(namespace, pod))
}

/// The Services that are exported to a peer, of those that it imports.
pub(crate) fn exports_to(index: &Index, cluster: &str, imports: &[Selection]) -> Compiled<Vec<Name>> {
    exports::to_peer(index, cluster, imports)
}

/// The ports of exported Services that a gateway passes connections to: keys of what is [`exported`].
pub(crate) fn passed(index: &Index) -> Compiled<Vec<String>> {
    exports::passed(index)
}

/// An exported Service. `None`: it is not exported (any more).
pub(crate) fn export(index: &Index, name: &Name) -> Option<Compiled<Export>> {
    exports::export(index, name)
}

/// The endpoints of this cluster behind a port of an exported Service. `None`: there is none (any more).
pub(crate) fn exported(index: &Index, name: &Name, port: u16) -> Option<Compiled<Exported>> {
    exports::exported(index, name, port)
}

/// What counts as inside the mesh.
pub fn networks(index: &Index) -> Compiled<MeshNetworks> {
    inbound::networks(index)
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
