//! Kinds and names of resources, their versions, and what a proxy asks for.

use std::collections::HashSet;

use weft_model::destination::Target;
use weft_model::version::{Source, Version};

use super::field::{self, FieldError};
use crate::discovery;

/// The key of a proxy's own inbound configuration.
pub const INBOUND: &str = "inbound";
/// The key of the trust bundles.
pub const BUNDLES: &str = "bundles";
/// The key of the mesh's networks and defaults.
pub const MESH: &str = "mesh";
/// The key of what a cluster says of itself.
pub const CLUSTER: &str = "cluster";
/// The key of what a gateway passes.
pub const GATEWAY: &str = "gateway";

/// What a resource is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What is at an address.
    Lookup,
    /// One port of a Service.
    Service,
    /// A set of endpoints.
    Endpoints,
    /// The proxy's own inbound side.
    Inbound,
    /// The trust bundles.
    Bundles,
    /// The mesh's networks and defaults.
    Mesh,
    /// What a cluster says of itself to another.
    Cluster,
    /// A Service that a cluster exports.
    Export,
    /// The endpoints behind a port of it.
    Exported,
    /// What a gateway passes.
    Gateway,
}

/// Names a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// What it is about.
    pub kind: Kind,
    /// Which: opaque, but for the keys of this file and those of lookups, which are printed targets.
    pub key: String,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Lookup,
        Self::Service,
        Self::Endpoints,
        Self::Inbound,
        Self::Bundles,
        Self::Mesh,
        Self::Cluster,
        Self::Export,
        Self::Exported,
        Self::Gateway,
    ];

    /// The wire's number.
    pub fn to_wire(self) -> discovery::Kind {
        match self {
            Self::Lookup => discovery::Kind::Lookup,
            Self::Service => discovery::Kind::Service,
            Self::Endpoints => discovery::Kind::Endpoints,
            Self::Inbound => discovery::Kind::Inbound,
            Self::Bundles => discovery::Kind::Bundles,
            Self::Mesh => discovery::Kind::Mesh,
            Self::Cluster => discovery::Kind::Cluster,
            Self::Export => discovery::Kind::Export,
            Self::Exported => discovery::Kind::Exported,
            Self::Gateway => discovery::Kind::Gateway,
        }
    }

    /// Reads the wire's number.
    pub fn from_wire(kind: i32) -> Result<Self, FieldError> {
        Self::ALL
            .into_iter()
            .find(|known| known.to_wire() as i32 == kind)
            .ok_or_else(|| FieldError::new("kind", format!("is {kind}, which this proxy does not know")))
    }

    /// In lower case, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Service => "service",
            Self::Endpoints => "endpoints",
            Self::Inbound => "inbound",
            Self::Bundles => "bundles",
            Self::Mesh => "mesh",
            Self::Cluster => "cluster",
            Self::Export => "export",
            Self::Exported => "exported",
            Self::Gateway => "gateway",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

impl Name {
    /// The name of a resource.
    pub fn new(kind: Kind, key: impl Into<String>) -> Self {
        Self { kind, key: key.into() }
    }

    /// The name of the answer to a target.
    pub fn lookup(target: &Target) -> Self {
        Self::new(Kind::Lookup, target.to_string())
    }

    /// Writes the name.
    pub fn to_wire(&self) -> discovery::ResourceName {
        discovery::ResourceName {
            kind: self.kind.to_wire() as i32,
            key: self.key.clone(),
        }
    }

    /// Reads a name. The key must be one that its kind can have.
    pub fn from_wire(wire: Option<discovery::ResourceName>) -> Result<Self, FieldError> {
        let wire = wire.ok_or_else(|| FieldError::new("", "is missing"))?;
        let kind = Kind::from_wire(wire.kind)?;
        let key = field::key("key", wire.key)?;
        let fits = match kind {
            Kind::Lookup => key.parse::<Target>().is_ok_and(|target| target.to_string() == key),
            Kind::Inbound => key == INBOUND,
            Kind::Bundles => key == BUNDLES,
            Kind::Mesh => key == MESH,
            Kind::Cluster => key == CLUSTER,
            Kind::Gateway => key == GATEWAY,
            Kind::Export => exported(&key).is_some_and(|(_, _, port)| port.is_none()),
            Kind::Exported => exported(&key).is_some_and(|(_, _, port)| port.is_some()),
            Kind::Service | Kind::Endpoints => true,
        };
        if !fits {
            return Err(FieldError::new(
                "key",
                format!("is {key:?}, which is no key of kind {kind}"),
            ));
        }
        Ok(Self { kind, key })
    }
}

/// Reads the key of an export, `shop/reviews`, or of the endpoints behind a port of it, `shop/reviews:80`.
pub fn exported(key: &str) -> Option<(&str, &str, Option<u16>)> {
    let (namespace, rest) = key.split_once('/')?;
    let (service, port) = match rest.split_once(':') {
        None => (rest, None),
        Some((service, text)) => (
            service,
            Some(text.parse().ok().filter(|port: &u16| port.to_string() == text)?),
        ),
    };
    let label = |text: &str| field::label("", text.to_owned()).is_ok();
    (label(namespace) && label(service) && port != Some(0)).then_some((namespace, service, port))
}

/// Writes a version.
pub fn version_to_wire(version: &Version) -> discovery::Version {
    discovery::Version {
        hash: bytes::Bytes::copy_from_slice(&version.hash),
        sources: version.sources.iter().map(source_to_wire).collect(),
    }
}

/// Reads a version. The sources are put in order, by uid.
pub fn version_from_wire(wire: Option<discovery::Version>) -> Result<Version, FieldError> {
    let wire = wire.ok_or_else(|| FieldError::new("", "is missing"))?;
    let hash = <[u8; 16]>::try_from(&wire.hash[..])
        .map_err(|_| FieldError::new("hash", format!("must have 16 bytes, and has {}", wire.hash.len())))?;
    let mut sources = field::list("sources", wire.sources, field::SOURCES_MAX, source_from_wire)?;
    sources.sort_by(|one, other| one.uid.cmp(&other.uid));
    Ok(Version { hash, sources })
}

/// Writes a source.
pub fn source_to_wire(source: &Source) -> discovery::Source {
    discovery::Source {
        object: source.object.clone(),
        uid: source.uid.clone(),
        resource_version: source.resource_version,
    }
}

/// Reads a source.
pub fn source_from_wire(wire: discovery::Source) -> Result<Source, FieldError> {
    let uid = field::key("uid", wire.uid)?;
    field::at_most("object", wire.object.len(), field::KEY_MAX)?;
    Ok(Source {
        object: field::words(wire.object),
        uid,
        resource_version: wire.resource_version,
    })
}

/// Writes a target.
pub fn target_to_wire(target: &Target) -> discovery::Target {
    use discovery::target::Target as Wire;
    let wire = match target {
        Target::Address(address) => Wire::Address(discovery::Address {
            ip: field::ip_bytes(address.ip()),
            port: u32::from(address.port()),
        }),
        Target::Host { host, port } => Wire::Host(discovery::HostPort {
            host: host.clone(),
            port: u32::from(*port),
        }),
    };
    discovery::Target { target: Some(wire) }
}

/// Reads a target.
pub fn target_from_wire(wire: discovery::Target) -> Result<Target, FieldError> {
    use discovery::target::Target as Wire;
    match field::required("target", wire.target)? {
        Wire::Address(wire) => {
            let ip = field::ip("ip", &wire.ip).map_err(|error| error.within("address"))?;
            let port = field::port("port", wire.port).map_err(|error| error.within("address"))?;
            Ok(Target::Address((ip, port).into()))
        }
        Wire::Host(wire) => {
            let host = field::name("host", wire.host).map_err(|error| error.within("host"))?;
            let port = field::port("port", wire.port).map_err(|error| error.within("host"))?;
            Ok(Target::Host { host, port })
        }
    }
}

/// Writes what a proxy holds.
pub fn held_to_wire(name: &Name, version: &Version) -> discovery::Held {
    discovery::Held {
        name: Some(name.to_wire()),
        version: Some(version_to_wire(version)),
    }
}

/// Reads what a proxy holds.
pub fn held_from_wire(wire: discovery::Held) -> Result<(Name, Version), FieldError> {
    let name = Name::from_wire(wire.name).map_err(|error| error.within("name"))?;
    let version = version_from_wire(wire.version).map_err(|error| error.within("version"))?;
    Ok((name, version))
}

/// Reads a list of targets, at most so many, each once.
pub fn targets_from_wire(wire: Vec<discovery::Target>, limit: usize) -> Result<Vec<Target>, FieldError> {
    let mut seen = HashSet::new();
    let mut targets = field::list("targets", wire, limit, target_from_wire)?;
    targets.retain(|target| seen.insert(target.clone()));
    Ok(targets)
}
