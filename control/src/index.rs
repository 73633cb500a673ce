//! The index: objects by what they mean for each other. Pure and synchronous: no files, no wire, no clock.
//!
//! In: objects and changes. Out: [`Changed`], the topics that anything compiled may depend on. An object that becomes
//! invalid keeps its last valid form (it is *held*); one that was never valid since the start is known as such.

use std::net::IpAddr;
use std::collections::BTreeSet;

use ipnet::IpNet;
use weft_model::identity::TrustDomain;

use crate::manifests::{Changes, Snapshot};
use crate::objects::{ObjectRef, Problem};

/// What the mesh is called.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain of its identities.
    pub trust_domain: TrustDomain,
    /// The cluster's name.
    pub cluster: String,
    /// The suffix of the names of Services: `cluster.local`.
    pub cluster_domain: String,
    /// Networks that count as inside, beside the private ranges.
    pub inside: Vec<IpNet>,
    /// Networks that never count as inside.
    pub outside: Vec<IpNet>,
}

/// Namespace and name of an object whose kind is clear.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Something that a compiled resource depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Whether there is a Service of this name; its ports, subsets, routes and policies.
    Service(Name),
    /// What is behind a Service.
    Endpoints(Name),
    /// Which Service or pod has this address.
    Address(IpAddr),
    /// What a pod accepts.
    Pod(Name),
    /// What counts as inside the mesh.
    Networks,
}

/// What changed: whatever depends on one of these topics is to be compiled again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The topics.
    pub topics: BTreeSet<Topic>,
}

/// What the control plane says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub r#type: ConditionType,
    /// True or false.
    pub status: bool,
    /// One word, as the Gateway API defines it.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field that it is about, or empty.
    pub field: String,
    /// The generation of the object that was looked at.
    pub observed_generation: u64,
}

/// The conditions that are set here. (`Applied` is for whoever knows the proxies.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object acts as written. False: its last valid form acts, or nothing.
    Accepted,
    /// All that it refers to is there.
    ResolvedRefs,
    /// Parts of it are ignored.
    PartiallyInvalid,
}

/// An object's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// Where it was written.
    pub origin: Option<crate::objects::Origin>,
    /// Its conditions, in order of type.
    pub conditions: Vec<Condition>,
}

/// The index.
#[derive(Clone, Debug)]
pub struct Index {}

impl Index {
    /// An empty index.
    pub fn new(_settings: Settings) -> Self {
        todo!()
    }

    /// Takes changes in.
    pub fn apply(&mut self, _changes: &Changes) -> Changed {
        todo!()
    }

    /// Takes in all that there is: what the snapshot lacks is gone.
    pub fn replace(&mut self, _snapshot: &Snapshot) -> Changed {
        todo!()
    }

    /// The conditions of all routes, subsets, policies and Services that have any.
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        todo!()
    }

    /// What is wrong with objects, as far as one can tell from all of them.
    pub fn problems(&self) -> Vec<Problem> {
        todo!()
    }

    /// The pod of this name: uid, service account and addresses, to check a caller against.
    pub fn pod(&self, _namespace: &str, _name: &str) -> Option<&PodEntry> {
        todo!()
    }
}

/// A pod that the index knows.
#[derive(Clone, Debug)]
pub struct PodEntry {
    /// The pod's uid.
    pub uid: String,
    /// What its object says.
    pub pod: crate::objects::pod::Pod,
}
