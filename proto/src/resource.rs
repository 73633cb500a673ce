//! Resources: what travels on the discovery stream, wire to model and back.
//!
//! The wire comes in as a [`discovery::Resource`] or as the bytes of a body, and goes out as the model's nouns, valid in
//! every field, or as a [`FieldError`] that names the field. The other way, a noun becomes bytes and their hash, once, and
//! the bytes fan out. All validation of received configuration happens here, and only here.
//!
//! | file | noun |
//! |---|---|
//! | [`field`] | errors that name the field, and the limits |
//! | [`name`] | kinds, names, versions, targets |
//! | [`lookup`] | what is at an address |
//! | [`service`] | one port of a Service: routes, locality |
//! | [`endpoints`] | endpoints and sets of them |
//! | [`inbound`] | what a pod accepts, and its policies |
//! | [`bundles`] | trust bundles |
//! | [`mesh`] | networks and defaults |
//! | [`federation`] | what clusters export to each other |

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use prost::Message;
use weft_model::destination::{Lookup, Service};
use weft_model::endpoint::EndpointSet;
use weft_model::feature;
use weft_model::inbound::Inbound;
use weft_model::locality::Locality;
use weft_model::route::{Backend, Rule, Timeouts};
use weft_model::traffic::{Balance, Traffic};
use weft_model::version::{Source, Version};

use crate::parts::PARTS_MAX;
use crate::{discovery, parts};

pub mod field;
pub mod name;

pub mod bundles;
pub mod endpoints;
pub mod federation;
pub mod inbound;
pub mod lookup;
pub mod mesh;
pub mod service;

mod filter;
mod stream;
mod traffic;

pub use bundles::TrustRoots;
pub use federation::{Cluster, Export, Exported};
pub use field::FieldError;
pub use mesh::Mesh;
pub use name::{Kind, Name};

/// The content of a resource.
#[derive(Clone, Debug)]
pub enum Body {
    /// What is at an address.
    Lookup(Lookup),
    /// One port of a Service.
    Service(Service),
    /// A set of endpoints.
    Endpoints(EndpointSet),
    /// The proxy's own inbound side.
    Inbound(Inbound),
    /// The trust bundles: all of them.
    Bundles(Vec<TrustRoots>),
    /// The mesh's networks and defaults.
    Mesh(Mesh),
    /// What a cluster says of itself.
    Cluster(Cluster),
    /// A Service that a cluster exports.
    Export(Export),
    /// The endpoints behind a port of it.
    Exported(Exported),
    /// What a gateway passes: keys of [`Body::Exported`].
    Gateway(Vec<String>),
}

/// A body as it travels: encoded once, sent to many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The encoded message.
    pub bytes: Bytes,
    /// The first 16 bytes of its SHA-256.
    pub hash: [u8; 16],
}

/// A resource that was received and is valid.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which resource.
    pub name: Name,
    /// Which version of it.
    pub version: Version,
    /// What to do.
    pub change: Change,
}

/// What to do with a resource.
#[derive(Clone, Debug)]
pub enum Change {
    /// This is it now.
    Body(Box<Body>),
    /// Its source is invalid: keep what you have. For people: why.
    Hold(String),
    /// Its source is gone.
    Removed,
}

impl Body {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Lookup(_) => Kind::Lookup,
            Self::Service(_) => Kind::Service,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Inbound(_) => Kind::Inbound,
            Self::Bundles(_) => Kind::Bundles,
            Self::Mesh(_) => Kind::Mesh,
            Self::Cluster(_) => Kind::Cluster,
            Self::Export(_) => Kind::Export,
            Self::Exported(_) => Kind::Exported,
            Self::Gateway(_) => Kind::Gateway,
        }
    }

    /// The features that a proxy needs to honour it, in order. Policies carry their own lists.
    pub fn requires(&self) -> Vec<String> {
        let service = match self {
            Self::Service(service) => service,
            Self::Endpoints(set) if set.endpoints.iter().any(|endpoint| endpoint.gateways.is_some()) => {
                return vec![feature::GATEWAYS.to_owned()];
            }
            _ => return Vec::new(),
        };
        let mut features = BTreeSet::new();
        needs_of_places(&service.locality, service.balance, &mut features);
        if let Some(streams) = &service.streams {
            features.insert(feature::STREAMS);
            let backends = streams.rules.iter().flat_map(|rule| &rule.backends);
            needs_of_backends(backends, &mut features);
        }
        if let Some(rules) = &service.rules {
            features.insert(feature::HTTP_ROUTES);
            rules.rules.iter().for_each(|rule| needs(rule, &mut features));
        }
        features.into_iter().map(str::to_owned).collect()
    }
}

/// What a proxy must honour to spread traffic so.
fn needs_of_places(locality: &Locality, balance: Balance, features: &mut BTreeSet<&'static str>) {
    if *locality != Locality::default() {
        features.insert(feature::LOCALITY);
    }
    if !locality.failover.is_empty() || !locality.distribute.is_empty() {
        features.insert(feature::PLACES);
    }
    if balance != Balance::default() {
        features.insert(feature::BALANCE);
    }
}

/// What a proxy must honour to spread the traffic of backends by their own Services' words.
fn needs_of_backends<'a>(backends: impl Iterator<Item = &'a Backend>, features: &mut BTreeSet<&'static str>) {
    for traffic in backends.filter_map(|backend| backend.traffic.as_ref()) {
        needs_of_traffic(traffic, features);
    }
}

fn needs_of_traffic(traffic: &Traffic, features: &mut BTreeSet<&'static str>) {
    features.insert(feature::BACKEND_TRAFFIC);
    needs_of_places(&traffic.locality, traffic.balance, features);
}

/// What a proxy must honour to act on a rule.
fn needs(rule: &Rule, features: &mut BTreeSet<&'static str>) {
    let of_backends = rule.backends.iter().map(|backend| &backend.filters);
    for filters in of_backends.chain([&rule.filters]) {
        let changes = !filters.request_headers.is_empty() || !filters.response_headers.is_empty();
        if changes || filters.rewrite.is_some() {
            features.insert(feature::FILTERS);
        }
        if !filters.mirrors.is_empty() {
            features.insert(feature::MIRROR);
        }
        let mirrors = filters.mirrors.iter().filter_map(|mirror| mirror.traffic.as_ref());
        mirrors.for_each(|traffic| needs_of_traffic(traffic, features));
    }
    needs_of_backends(rule.backends.iter(), features);
    if rule.redirect.is_some() {
        features.insert(feature::FILTERS);
    }
    if rule.timeouts != Timeouts::default() {
        features.insert(feature::TIMEOUTS);
    }
    if rule.retry.is_some() {
        features.insert(feature::RETRY);
    }
}

/// Reads a body of a kind.
pub fn decode(kind: Kind, body: &[u8]) -> Result<Body, FieldError> {
    field::at_most("body", body.len(), field::BODY_MAX)?;
    let most = parts_max(kind);
    if parts_of(kind, body).is_none() {
        let reason = format!("is broken, or has more than {most} parts (messages and strings)");
        return Err(FieldError::new("body", reason));
    }
    Ok(match kind {
        Kind::Lookup => Body::Lookup(lookup::decode(message(body)?)?),
        Kind::Service => Body::Service(service::decode(message(body)?)?),
        Kind::Endpoints => Body::Endpoints(endpoints::decode(message(body)?)?),
        Kind::Inbound => Body::Inbound(inbound::decode(message(body)?)),
        Kind::Bundles => Body::Bundles(bundles::decode(message(body)?)?),
        Kind::Mesh => Body::Mesh(mesh::decode(message(body)?)?),
        Kind::Cluster => Body::Cluster(federation::decode_cluster(message(body)?)?),
        Kind::Export => Body::Export(federation::decode_export(message(body)?)?),
        Kind::Exported => Body::Exported(federation::decode_exported(message(body)?)?),
        Kind::Gateway => Body::Gateway(federation::decode_gateway(message(body)?)?),
    })
}

/// How many parts a body has ([`parts`]). `None`: more than its kind may have, or it is broken.
pub fn parts_of(kind: Kind, body: &[u8]) -> Option<usize> {
    parts::of(message_of(kind), body, parts_max(kind))
}

/// What other clusters say has a bound of its own; of what our own control plane says, the bytes are bounded.
const fn parts_max(kind: Kind) -> usize {
    match kind {
        Kind::Cluster | Kind::Export | Kind::Exported => PARTS_MAX,
        _ => 4 * PARTS_MAX,
    }
}

/// The full name of a kind's message.
const fn message_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Lookup => "weft.discovery.v1.Lookup",
        Kind::Service => "weft.discovery.v1.Service",
        Kind::Endpoints => "weft.discovery.v1.EndpointSet",
        Kind::Inbound => "weft.discovery.v1.Inbound",
        Kind::Bundles => "weft.discovery.v1.Bundles",
        Kind::Mesh => "weft.discovery.v1.Mesh",
        Kind::Cluster => "weft.federation.v1.Cluster",
        Kind::Export => "weft.federation.v1.Export",
        Kind::Exported => "weft.federation.v1.Exported",
        Kind::Gateway => "weft.discovery.v1.Gateway",
    }
}

/// Writes a body. The same content gives the same bytes.
pub fn encode(body: &Body) -> Encoded {
    let bytes = match body {
        Body::Lookup(lookup) => lookup::encode(lookup).encode_to_vec(),
        Body::Service(service) => service::encode(service).encode_to_vec(),
        Body::Endpoints(set) => endpoints::encode(set).encode_to_vec(),
        Body::Inbound(inbound) => inbound::encode(inbound).encode_to_vec(),
        Body::Bundles(bundles) => bundles::encode(bundles).encode_to_vec(),
        Body::Mesh(mesh) => mesh::encode(mesh).encode_to_vec(),
        Body::Cluster(cluster) => federation::encode_cluster(cluster).encode_to_vec(),
        Body::Export(export) => federation::encode_export(export).encode_to_vec(),
        Body::Exported(exported) => federation::encode_exported(exported).encode_to_vec(),
        Body::Gateway(exported) => discovery::Gateway {
            exported: exported.clone(),
        }
        .encode_to_vec(),
    };
    let hash = hash(&bytes);
    Encoded {
        bytes: bytes.into(),
        hash,
    }
}

/// The first 16 bytes of SHA-256.
pub fn hash(bytes: &[u8]) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..16]);
    hash
}

/// Puts a resource together for the wire. `requires` is [`Body::requires`] of the body that was encoded.
pub fn to_wire(name: &Name, sources: Vec<Source>, requires: Vec<String>, encoded: &Encoded) -> discovery::Resource {
    discovery::Resource {
        name: Some(name.to_wire()),
        version: Some(name::version_to_wire(&Version {
            hash: encoded.hash,
            sources,
        })),
        requires,
        state: Some(discovery::resource::State::Body(encoded.bytes.clone())),
    }
}

/// Reads a resource. What is refused is refused alone, in the words that go back to the control plane.
pub fn from_wire(resource: discovery::Resource) -> Result<Update, Box<discovery::Refusal>> {
    let (name, version) = (resource.name.clone(), resource.version.clone());
    read(resource).map_err(|error| Box::new(refusal(name, version, error)))
}

/// A refusal in the wire's words.
pub fn refusal(
    name: Option<discovery::ResourceName>,
    version: Option<discovery::Version>,
    error: FieldError,
) -> discovery::Refusal {
    let FieldError { field, reason, missing } = error;
    discovery::Refusal {
        name,
        version,
        field,
        reason,
        missing_features: missing,
    }
}

fn read(resource: discovery::Resource) -> Result<Update, FieldError> {
    use discovery::resource::State;
    let name = Name::from_wire(resource.name).map_err(|error| error.within("name"))?;
    // What is gone, or held back, has no content that a version could be of.
    let version = match (&resource.state, resource.version) {
        (Some(State::Removed(_) | State::Hold(_)), None) => Version::default(),
        (_, version) => name::version_from_wire(version).map_err(|error| error.within("version"))?,
    };
    let missing = feature::missing(resource.requires.iter().map(String::as_str));
    if !missing.is_empty() {
        return Err(FieldError::missing_features("requires", missing));
    }
    let change = match resource.state {
        None => {
            return Err(FieldError::new("state", "is neither a body, hold nor removed"));
        }
        Some(State::Hold(hold)) => Change::Hold(field::words(hold.reason)),
        Some(State::Removed(_)) => Change::Removed,
        Some(State::Body(body)) => {
            if hash(&body) != version.hash {
                return Err(FieldError::new("version.hash", "is not that of the body"));
            }
            Change::Body(Box::new(decode(name.kind, &body)?))
        }
    };
    Ok(Update { name, version, change })
}

fn message<M: Message + Default>(body: &[u8]) -> Result<M, FieldError> {
    M::decode(body).map_err(|error| FieldError::new("body", format!("is not the kind's message: {error}")))
}

#[cfg(test)]
mod tests;
