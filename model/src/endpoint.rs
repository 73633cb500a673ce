//! One port of one pod, and the sets that traffic is balanced over.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::identity::Identity;
use crate::version::Source;

/// The first 8 bytes of SHA-256 of cluster and pod uid. Written as 16 hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

/// What an endpoint is known by in its own cluster. Never its address: networks of clusters overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// The pod.
    pub id: EndpointId,
    /// The pod's port.
    pub port: u16,
}

/// What an endpoint is known by among those of all clusters. A cluster says itself how its endpoints are called, and could call them
/// like another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GlobalKey {
    key: EndpointKey,
    /// A hash of the cluster's name, which the one that says it cannot choose.
    cluster: u64,
}

/// Where something runs. Empty strings: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// `topology.kubernetes.io/region` of the node.
    pub region: String,
    /// `topology.kubernetes.io/zone` of the node.
    pub zone: String,
    /// The cluster's name.
    pub cluster: String,
}

/// One port of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it is known by.
    pub key: EndpointKey,
    /// Where to dial, unless it is behind gateways.
    pub address: SocketAddr,
    /// The gateways of its network, where ours does not reach it: one of these is dialled instead, with the same SNI, ALPN and
    /// expected identity. Never empty. `None`: `address` is dialled.
    pub gateways: Option<Arc<[SocketAddr]>>,
    /// The identity that must be found there. `None`: discovery positively says that there is none, so plaintext.
    pub identity: Option<Identity>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The workload that owns the pod (its Deployment, say), for telemetry.
    pub workload: String,
    /// The version label's value, or empty.
    pub version: String,
    /// Where it runs.
    pub place: Place,
    /// Terminating but still serving: chosen only when nothing else is left.
    pub draining: bool,
    /// The pod object that it was made of.
    pub source: Source,
}

/// The endpoints behind one backend: a Service's port, or a subset of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// The ServiceSubset's name, or empty.
    pub subset: String,
    /// In a stable order (by key).
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Where a backend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendPlace {
    /// The key of an endpoint set.
    Endpoints(String),
    /// The reference does not resolve: its share is answered with 500. For people: why.
    Unresolved(String),
}

impl Endpoint {
    /// What it is known by among those of all clusters.
    pub fn global_key(&self) -> GlobalKey {
        let mut hasher = DefaultHasher::new();
        self.place.cluster.hash(&mut hasher);
        GlobalKey {
            key: self.key,
            cluster: hasher.finish(),
        }
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.port)
    }
}
