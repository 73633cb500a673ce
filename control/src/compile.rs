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
use weft_model::version::Source;

use crate::index::{Index, Settings, Topic};
use crate::objects::{Object, Problem};

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
        todo!()
    }
}

/// What is at a target, for a client of this namespace.
pub fn lookup(_index: &Index, _target: &Target, _client_namespace: &str) -> Compiled<Lookup> {
    todo!()
}

/// The port of a Service behind a key that [`lookup`] gave. `None`: there is none (any more).
pub fn service(_index: &Index, _key: &str) -> Option<Compiled<Service>> {
    todo!()
}

/// The endpoint set behind a key that [`service`] gave. `None`: there is none (any more).
pub fn endpoint_set(_index: &Index, _key: &str) -> Option<Compiled<EndpointSet>> {
    todo!()
}

/// What a pod accepts. `None`: it is not known.
pub fn inbound(_index: &Index, _namespace: &str, _pod: &str) -> Option<Compiled<Inbound>> {
    todo!()
}

/// What counts as inside the mesh.
pub fn networks(_index: &Index) -> Compiled<MeshNetworks> {
    todo!()
}

/// All that a subscription to a target needs.
pub fn closure(_index: &Index, _target: &Target, _client_namespace: &str) -> Closure {
    todo!()
}

/// What is wrong with these objects, taken together. For a check before the start, without a mesh.
pub fn check(_settings: Settings, _objects: &[Arc<Object>]) -> Vec<Problem> {
    todo!()
}
