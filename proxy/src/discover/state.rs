//! Discover: what the proxy believes, as one immutable value.
//!
//! In: nothing; the store makes a new state from the last one and a batch. Out: routes, endpoints, the inbound
//! configuration, the mesh's networks, trust bundles and the proxy's own credential, which agree with each other because
//! they are published together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weft_certs::bundle::TrustBundles;
use weft_certs::credential::Credential;
use weft_model::destination::{Lookup, Service, Target};
use weft_model::endpoint::EndpointSet;
use weft_model::inbound::Inbound;
use weft_model::network::Networks;
use weft_model::version::Version;
use weft_proto::resource::{self, Exported, FieldError, Name};

/// Everything that the proxy decides by, at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// Counts publications within this process, from 1.
    pub generation: u64,
    /// The highest epoch seen. 0: none yet.
    pub epoch: u64,
    /// What is at the destinations that are followed.
    pub lookups: HashMap<Target, Found>,
    /// Ports of Services, by resource key.
    pub services: HashMap<String, Held<Service>>,
    /// Endpoint sets, by resource key.
    pub endpoints: HashMap<String, Held<EndpointSet>>,
    /// What this pod accepts. `None`: not known yet, and then the proxy is not ready.
    pub inbound: Option<Held<Inbound>>,
    /// Of an east-west gateway: what it passes. `None`: this is a sidecar.
    pub passes: Option<Passes>,
    /// The mesh's networks and names.
    pub mesh: Mesh,
    /// The trust bundles as the stream said them last, with their version.
    pub bundles: Option<Held<TrustBundles>>,
    /// The proxy's own leaf with the roots it trusts. `None`: none that is valid.
    pub credential: Option<Arc<Credential>>,
    /// What was refused, or is held because its source is invalid: for people.
    pub notes: BTreeMap<Name, Note>,
}

/// What an east-west gateway passes.
#[derive(Clone, Debug, Default)]
pub struct Passes {
    /// The keys of what is exported. `None`: not known yet.
    pub gateway: Option<Held<Vec<String>>>,
    /// The endpoints behind ports of exported Services, by resource key.
    pub exported: HashMap<String, Held<Exported>>,
}

/// Why a resource is older than its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The field that was refused; empty for a hold.
    pub field: String,
    /// Why, for people.
    pub reason: String,
}

/// A resource that the proxy took: its meaning, and how it came.
#[derive(Debug)]
pub struct Held<T> {
    /// What it says.
    pub value: Arc<T>,
    /// How it came.
    pub wire: Arc<Wire>,
}

/// How a resource came.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Its version.
    pub version: Version,
    /// The epoch that it came in: within it, its sources never get older.
    pub epoch: u64,
    /// The features that it needs.
    pub requires: Vec<String>,
    /// The encoded body, for the snapshot.
    pub body: Bytes,
}

/// The answer for a destination.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is there.
    pub lookup: Held<Lookup>,
    /// When the control plane said so last.
    pub heard: Instant,
    /// When it was used last. Shared by all states that know the destination.
    pub used: Arc<Used>,
}

/// When something was used last, in milliseconds since the process began. Written by the workers without ordering: it
/// only serves to find what is idle.
#[derive(Debug, Default)]
pub struct Used(AtomicU64);

/// The mesh's networks and names.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// What counts as inside.
    pub networks: Arc<Networks>,
    /// How long a connection may wait for discovery.
    pub discovery_wait: Duration,
    /// What the control plane said. `None`: nothing yet, so that the above are built-in values and settings.
    pub held: Option<Held<resource::Mesh>>,
}

impl State {
    /// A port of a Service, by the key that a [`Lookup::Service`] named.
    pub fn service(&self, key: &str) -> Option<&Arc<Service>> {
        self.services.get(key).map(|held| &held.value)
    }

    /// An endpoint set, by the key that a Service or a backend named.
    pub fn endpoint_set(&self, key: &str) -> Option<&Arc<EndpointSet>> {
        self.endpoints.get(key).map(|held| &held.value)
    }

    /// What this pod accepts.
    pub fn inbound(&self) -> Option<&Arc<Inbound>> {
        self.inbound.as_ref().map(|held| &held.value)
    }

    /// Whether traffic can be served by this: who we are, and what we do.
    pub fn is_complete(&self) -> bool {
        self.credential.is_some() && self.is_configured()
    }

    /// Whether the control plane has said what we do: what we accept and what is inside the mesh, or what we pass.
    pub fn is_configured(&self) -> bool {
        let knows = match &self.passes {
            Some(passes) => passes.gateway.is_some(),
            None => self.inbound.is_some(),
        };
        knows && self.mesh.held.is_some()
    }
}

impl Note {
    pub(crate) fn of(error: &FieldError) -> Self {
        Self {
            field: error.field.clone(),
            reason: error.reason.clone(),
        }
    }
}

impl Found {
    /// For how long the answer may be used without being heard again, if it is a negative one. Zero: as long as the
    /// destination is followed.
    pub(super) fn ttl(&self) -> Option<Duration> {
        match &*self.lookup.value {
            Lookup::Outside { ttl } | Lookup::NoSuchPort { ttl, .. } => Some(*ttl),
            Lookup::Service(_) | Lookup::Direct { .. } => None,
        }
    }
}

impl Used {
    /// Notes a use.
    pub fn touch(&self, since_start: Duration) {
        self.0.store(
            u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// When it was used last.
    pub fn last(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            wire: self.wire.clone(),
        }
    }
}
