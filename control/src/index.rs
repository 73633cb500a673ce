//! The index: objects by what they mean for each other. Pure and synchronous: no files, no wire, no clock.
//!
//! In: objects and changes. Out: [`Changed`], the topics that anything compiled may depend on. An object that becomes
//! invalid keeps its last valid form (it is *held*); one that was never valid since the start is known as such.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use weft_model::endpoint::Place;
use weft_model::identity::TrustDomain;

use crate::manifests::{Changes, Snapshot};
use crate::objects::mcs::{ServiceExport, ServiceImport};
use crate::objects::peer::Peer;
use crate::objects::pod::Pod;
use crate::objects::service::{EndpointSlice, Service};
use crate::objects::{Object, ObjectRef, Origin, Problem};

mod backend;
mod declared;
mod doubts;
mod effect;
mod federation;
mod filter;
mod imports;
mod judge;
mod kept;
mod links;
mod matches;
mod offers;
mod opaque;
mod own;
mod patience;
mod policy;
mod remote;
mod resolve;
mod route;
mod spelling;
mod spread;
mod status;
mod streams;
mod subset;
mod tables;

pub(crate) use backend::Backend;
pub(crate) use declared::{Declared, is_of_requests};
pub(crate) use filter::{Filters, Mirror, NewPath, Redirect};
pub(crate) use imports::topics_of_import;
pub(crate) use judge::turn;
pub(crate) use kept::Kept;
pub(crate) use links::Links;
pub(crate) use matches::Rank;
pub(crate) use own::Own;
pub(crate) use patience::Limits;
pub(crate) use policy::{Part, Policy};
pub(crate) use remote::Remote;
pub(crate) use resolve::takes_routes;
pub(crate) use route::{About, Route, Rule, Weighted, age};
pub(crate) use subset::Subset;

/// What the mesh is called.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain of its identities.
    pub trust_domain: TrustDomain,
    /// The cluster's name.
    pub cluster: String,
    /// The network that its pods are in: clusters that name the same one reach each other's pods directly.
    pub network: String,
    /// The suffix of the names of Services: `cluster.local`.
    pub cluster_domain: String,
    /// The mesh's own networks, inside beside the private ranges. Whatever is there is a Pod, a Service or written in an
    /// EndpointSlice: of any other address there nothing is said until something is known of it.
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
    /// A ServiceSubset.
    Subset(Name),
    /// Which Service or pod has this address.
    Address(IpAddr),
    /// What a pod accepts.
    Pod(Name),
    /// What counts as inside the mesh.
    Networks,
    /// Where this cluster's pods are, as its Nodes say.
    PodNetworks,
    /// The ClusterPeers.
    Peers,
    /// A ServiceExport.
    Export(Name),
    /// Which ServiceExports there are.
    Exports,
    /// Whether there is an import of a Service of this name, and what the exports of other clusters come to; a ServiceImport.
    Import(Name),
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
    /// What would be right; may be empty.
    pub fix: String,
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
    /// Of a ServiceExport: what it exports is there (KEP-1645).
    Valid,
    /// Of a ServiceExport: other clusters can have it.
    Ready,
    /// Of a ServiceExport: other clusters export something else by that name. True is what is wrong.
    Conflict,
}

/// An object's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectRef,
    /// Where it was written.
    pub origin: Option<Origin>,
    /// Its conditions, in order of type.
    pub conditions: Vec<Condition>,
    /// Of a route: what is said for each Service that it names as a parent, in order.
    pub parents: Vec<ParentStatus>,
}

/// What is said of a route for one of its parents. Parents that are no Services are other controllers' business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parentRef, as it is written.
    pub reference: Value,
    /// The conditions, in order of type.
    pub conditions: Vec<Condition>,
}

/// A pod that the index knows.
#[derive(Clone, Debug)]
pub struct PodEntry {
    /// Its uid.
    pub uid: String,
    /// Its object.
    pub object: Arc<Object>,
    /// What the object says.
    pub pod: Pod,
}

/// The index.
#[derive(Clone, Debug)]
pub struct Index {
    pub(crate) settings: Settings,
    own: Own,
    /// Whether objects are taken in for the first time.
    initial: bool,
    pub(crate) namespaces: BTreeMap<String, Arc<Object>>,
    /// By namespace: the ports of its pods that carry mere bytes, where its annotation says so.
    opaque_ports: BTreeMap<String, BTreeSet<u16>>,
    pub(crate) nodes: BTreeMap<String, (Arc<Object>, Place)>,
    nodes_by_ip: Links<IpAddr, String>,
    pub(crate) pods: BTreeMap<Name, Kept<Pod>>,
    pub(crate) pods_by_ip: Links<IpAddr, Name>,
    pods_by_node: Links<String, Name>,
    pub(crate) services: BTreeMap<Name, Kept<Service>>,
    pub(crate) services_by_ip: Links<IpAddr, Name>,
    /// By address that leads there from outside.
    services_by_outer_ip: Links<IpAddr, Name>,
    pub(crate) slices: BTreeMap<Name, Kept<EndpointSlice>>,
    /// By Service.
    pub(crate) slices_by_service: Links<Name, Name>,
    /// By pod: Service and slice.
    pub(crate) slices_by_pod: Links<Name, (Name, Name)>,
    /// By address, where an endpoint names no pod: Service and slice.
    pub(crate) slices_by_ip: Links<IpAddr, (Name, Name)>,
    pub(crate) routes: BTreeMap<ObjectRef, Kept<Route>>,
    pub(crate) routes_by_service: Links<Name, ObjectRef>,
    pub(crate) subsets: BTreeMap<Name, Kept<Subset>>,
    /// TrafficPolicy and XBackendTrafficPolicy.
    pub(crate) policies: BTreeMap<ObjectRef, Kept<Policy>>,
    /// By Service, HTTPRoute or GRPCRoute.
    pub(crate) policies_by_target: Links<ObjectRef, ObjectRef>,
    /// By the name of the peer's cluster.
    pub(crate) peers: BTreeMap<String, Kept<Peer>>,
    /// By the trust domain of their last valid form.
    peers_by_domain: Links<TrustDomain, String>,
    /// By Service.
    pub(crate) exports: BTreeMap<Name, Kept<ServiceExport>>,
    /// By Service.
    pub(crate) imports: BTreeMap<Name, Kept<ServiceImport>>,
    /// What other clusters say, by their names.
    remotes: BTreeMap<String, Remote>,
    /// By address of a pod that ours reach directly: cluster, Service and port.
    remotes_by_ip: Links<IpAddr, (String, Name, u16)>,
}

impl Index {
    /// An empty index.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            own: Own::default(),
            initial: true,
            namespaces: BTreeMap::new(),
            opaque_ports: BTreeMap::new(),
            nodes: BTreeMap::new(),
            nodes_by_ip: Links::default(),
            pods: BTreeMap::new(),
            pods_by_ip: Links::default(),
            pods_by_node: Links::default(),
            services: BTreeMap::new(),
            services_by_ip: Links::default(),
            services_by_outer_ip: Links::default(),
            slices: BTreeMap::new(),
            slices_by_service: Links::default(),
            slices_by_pod: Links::default(),
            slices_by_ip: Links::default(),
            routes: BTreeMap::new(),
            routes_by_service: Links::default(),
            subsets: BTreeMap::new(),
            policies: BTreeMap::new(),
            policies_by_target: Links::default(),
            peers: BTreeMap::new(),
            peers_by_domain: Links::default(),
            exports: BTreeMap::new(),
            imports: BTreeMap::new(),
            remotes: BTreeMap::new(),
            remotes_by_ip: Links::default(),
        }
    }

    /// Takes changes in, after [`Index::replace`] has taken in what there was.
    pub fn apply(&mut self, changes: &Changes) -> Changed {
        let mut changed = Changed::default();
        for name in &changes.deletes {
            self.delete(name, &mut changed);
        }
        for object in &changes.upserts {
            self.upsert(object, &mut changed);
        }
        changed
    }

    /// Takes in all that there is: what the snapshot lacks is gone. The first time, an object that is invalid may have
    /// been valid before this process began, so what proxies hold of it is held.
    pub fn replace(&mut self, snapshot: &Snapshot) -> Changed {
        let mut changed = Changed::default();
        let there: BTreeSet<ObjectRef> = snapshot.objects.iter().map(|object| object.reference()).collect();
        for name in self.references().into_iter().filter(|name| !there.contains(name)) {
            self.delete(&name, &mut changed);
        }
        for object in &snapshot.objects {
            self.upsert(object, &mut changed);
        }
        self.initial = false;
        changed
    }

    /// The pod of this name: uid, service account and addresses, to check a caller against.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        let (object, pod) = self.pods.get(&Name::new(namespace, name))?.valid.clone()?;
        Some(PodEntry {
            uid: object.uid.clone(),
            object,
            pod,
        })
    }

    /// Whether a pod of a namespace that has not ended runs as this account.
    pub(crate) fn runs(&self, namespace: &str, account: &str) -> bool {
        let pods = self.pods.range(Name::new(namespace, "")..);
        let mut pods = pods.take_while(|(name, _)| name.namespace == namespace);
        pods.any(|(_, kept)| {
            kept.form()
                .is_some_and(|pod| !pod.finished && pod.service_account == account)
        })
    }

    /// The pods that are part of the mesh and have not ended, with their names.
    pub fn meshed_pods(&self) -> impl Iterator<Item = (&Name, &Pod)> {
        let forms = self.pods.iter().filter_map(|(name, kept)| Some((name, kept.form()?)));
        forms.filter(|(_, pod)| pod.injected && !pod.finished)
    }

    /// The conditions of all objects that have any, in order of name.
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        status::statuses(self, true)
    }

    /// The same of routes, subsets, policies, peers and exports only: of many fewer objects.
    pub(crate) fn written_statuses(&self) -> Vec<ObjectStatus> {
        status::statuses(self, false)
    }

    /// A route, subset, policy, peer or export as it was last written, whether it is valid or not.
    pub(crate) fn written(&self, name: &ObjectRef) -> Option<&Arc<Object>> {
        let of_routes = self.routes.get(name).map(|kept| &kept.object);
        let policy = || self.policies.get(name).map(|kept| &kept.object);
        let of = || Name::new(name.namespace.as_str(), name.name.as_str());
        let named = || match name.kind.as_str() {
            "ServiceSubset" => self.subsets.get(&of()).map(|kept| &kept.object),
            "ClusterPeer" => self.peers.get(&name.name).map(|kept| &kept.object),
            "ServiceExport" => self.exports.get(&of()).map(|kept| &kept.object),
            _ => None,
        };
        of_routes.or_else(policy).or_else(named)
    }

    /// The ClusterPeers and ServiceExports, in the form that acts.
    pub(crate) fn remembered(&self) -> impl Iterator<Item = &Arc<Object>> {
        let peers = self.peers.values().filter_map(|kept| kept.valid.as_ref());
        let exports = self.exports.values().filter_map(|kept| kept.valid.as_ref());
        peers.map(|(object, _)| object).chain(exports.map(|(object, _)| object))
    }

    /// What is wrong with objects, as far as one can tell from all of them, in order of file and line.
    pub fn problems(&self) -> Vec<Problem> {
        status::problems(self)
    }

    /// An object that says something to proxies: the form of it that acts.
    pub(crate) fn object(&self, name: &ObjectRef) -> Option<&Arc<Object>> {
        fn acting<T>(kept: &Kept<T>) -> Option<&Arc<Object>> {
            kept.valid.as_ref().map(|(object, _)| object)
        }
        let policy = || self.policies.get(name).and_then(acting);
        self.routes.get(name).and_then(acting).or_else(policy)
    }

    /// The routes, subsets and policies, in the form that acts: as they were when they last were valid.
    pub fn acting_objects(&self) -> Vec<Arc<Object>> {
        fn acting<T>(kept: &Kept<T>) -> Option<Arc<Object>> {
            kept.valid.as_ref().map(|(object, _)| Arc::clone(object))
        }
        let routes = self.routes.values().filter_map(acting);
        let subsets = self.subsets.values().filter_map(acting);
        let policies = self.policies.values().filter_map(acting);
        routes.chain(subsets).chain(policies).collect()
    }

    /// The pod at an address. Where several claim it, the one that was changed last: the others are on their way out.
    pub(crate) fn pod_at(&self, ip: IpAddr) -> Option<&Name> {
        let version = |name: &&Name| self.pods.get(*name).map(|kept| kept.object.resource_version);
        self.pods_by_ip.of(&ip).max_by_key(|name| (version(name), *name))
    }

    /// Whether nothing may be said of an address at which no Pod and no Service is known: it is of the mesh's own networks,
    /// and neither a node's nor in an EndpointSlice without a pod, which says that it is not in the mesh.
    pub(crate) fn expects(&self, ip: IpAddr) -> bool {
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        within(&self.settings.inside)
            && !within(&self.settings.outside)
            && self.nodes_by_ip.of(&ip).next().is_none()
            && self.slices_by_ip.of(&ip).next().is_none()
    }

    /// Whether an address is a node's.
    pub(crate) fn is_of_node(&self, ip: IpAddr) -> bool {
        self.nodes_by_ip.of(&ip).next().is_some()
    }

    /// Where a node is. A node that is not known is nowhere, but in this cluster.
    pub(crate) fn place(&self, node: &str) -> Place {
        let unknown = || Place {
            cluster: self.settings.cluster.clone(),
            ..Place::default()
        };
        self.nodes.get(node).map_or_else(unknown, |(_, place)| place.clone())
    }
}

impl Name {
    /// Puts a name together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ConditionType {
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid`, `Valid`, `Ready` or `Conflict`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::PartiallyInvalid => "PartiallyInvalid",
            Self::Valid => "Valid",
            Self::Ready => "Ready",
            Self::Conflict => "Conflict",
        }
    }
}
