//! What clusters export to each other: `weft.federation.v1`.
//!
//! Here only form is judged. Whether a peer may say it (that it is the peer's own, and that we import it) is for the control
//! plane, which knows the peer.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use weft_model::destination::Protocol;
use weft_model::endpoint::Endpoint;

use super::bundles::{self, TrustRoots};
use super::field::{self, FieldError};
use super::name::exported;
use super::{endpoints, lookup, mesh};
use crate::{discovery, federation};

/// What a cluster says of itself. The trust domain is that of its bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Clusters that name the same network reach each other's pods directly.
    pub network: String,
    /// Its east-west gateways, `host:port`.
    pub gateways: Vec<String>,
    /// Where its pods are.
    pub pod_networks: Vec<IpNet>,
    /// Its roots.
    pub bundle: TrustRoots,
}

/// A Service that a cluster exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it has no address.
    pub headless: bool,
    /// Its ports, in its order.
    pub ports: Vec<ExportedPort>,
    /// When it was exported, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// `None`: no affinity. Else that of the client's address, for so many seconds.
    pub affinity_seconds: Option<u32>,
    /// `IPv4`, `IPv6`.
    pub ip_families: Vec<String>,
    /// `Local`, `Cluster` or empty.
    pub internal_traffic_policy: String,
    /// As it was written, or empty.
    pub traffic_distribution: String,
    /// The exported labels.
    pub labels: BTreeMap<String, String>,
    /// The exported annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A port of an exported Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedPort {
    /// Its name; empty where it is the only one and has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// As the Service has it, or empty.
    pub app_protocol: String,
    /// What is declared of it.
    pub protocol: Protocol,
    /// What it carries.
    pub transport: Transport,
}

/// What a port carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP. Only such ports have endpoints.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// The endpoints behind a port of an exported Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// Each key once.
    pub endpoints: Vec<ExportedEndpoint>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedEndpoint {
    /// The endpoint. It has an identity.
    pub endpoint: Endpoint,
    /// Of a headless Service: the pod's host name, or empty.
    pub hostname: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
}

/// The type of a Service without an address, and of one with.
const HEADLESS: i32 = federation::Type::Headless as i32;
const CLUSTER_SET_IP: i32 = federation::Type::ClusterSetIp as i32;
/// What an affinity is called.
const CLIENT_IP: &str = "ClientIP";

/// Reads what a cluster says of itself.
pub fn decode_cluster(wire: federation::Cluster) -> Result<Cluster, FieldError> {
    let bundle = field::required("bundle", wire.bundle)?;
    let bundle =
        bundles::roots(bundle.trust_domain, bundle.roots, bundle.sequence).map_err(|error| error.within("bundle"))?;
    if wire.trust_domain != bundle.trust_domain.to_string() {
        return Err(FieldError::new("trust_domain", "is not that of the bundle"));
    }
    Ok(Cluster {
        name: field::label("name", wire.name)?,
        network: field::word("network", wire.network)?,
        gateways: field::list("gateways", wire.gateways, field::GATEWAYS_MAX, |text| {
            field::word("", text)
        })?,
        pod_networks: field::list("pod_networks", wire.pod_networks, field::NETWORKS_MAX, mesh::network)?,
        bundle,
    })
}

/// Writes what a cluster says of itself.
pub fn encode_cluster(cluster: &Cluster) -> federation::Cluster {
    federation::Cluster {
        name: cluster.name.clone(),
        trust_domain: cluster.bundle.trust_domain.to_string(),
        network: cluster.network.clone(),
        gateways: cluster.gateways.clone(),
        pod_networks: cluster.pod_networks.iter().map(ToString::to_string).collect(),
        bundle: Some(bundles::encode_one(&cluster.bundle)),
    }
}

/// Reads an exported Service.
pub fn decode_export(wire: federation::Export) -> Result<Export, FieldError> {
    let headless = match wire.r#type {
        HEADLESS => true,
        CLUSTER_SET_IP => false,
        other => return Err(FieldError::new("type", format!("is {other}, which is none"))),
    };
    let ports = field::list("ports", wire.ports, field::PORTS_MAX, decode_port)?;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut each = ports.iter();
    if let Some(index) = each.position(|port| {
        let number = (port.port, port.transport);
        !names.insert(&port.name) || !numbers.insert(number)
    }) {
        return Err(FieldError::new(
            format!("ports[{index}]"),
            "has the name or the number of another",
        ));
    }
    let affinity_seconds = match wire.session_affinity.as_str() {
        "" | "None" => None,
        CLIENT_IP => Some(wire.session_affinity_seconds),
        _ => return Err(FieldError::new("session_affinity", "is neither None nor ClientIP")),
    };
    Ok(Export {
        namespace: field::label("namespace", wire.namespace)?,
        name: field::label("name", wire.name)?,
        headless,
        ports,
        created_ms: wire.created_unix_ms,
        affinity_seconds,
        ip_families: field::list("ip_families", wire.ip_families, 2, |text| field::word("", text))?,
        internal_traffic_policy: field::word("internal_traffic_policy", wire.internal_traffic_policy)?,
        traffic_distribution: field::word("traffic_distribution", wire.traffic_distribution)?,
        labels: field::labels("labels", wire.labels, field::LABELS)?,
        annotations: field::labels("annotations", wire.annotations, field::ANNOTATIONS)?,
    })
}

/// Writes an exported Service.
pub fn encode_export(export: &Export) -> federation::Export {
    federation::Export {
        namespace: export.namespace.clone(),
        name: export.name.clone(),
        r#type: if export.headless { HEADLESS } else { CLUSTER_SET_IP },
        ports: export.ports.iter().map(encode_port).collect(),
        created_unix_ms: export.created_ms,
        session_affinity: export.affinity_seconds.map_or("None", |_| CLIENT_IP).to_owned(),
        session_affinity_seconds: export.affinity_seconds.unwrap_or_default(),
        ip_families: export.ip_families.clone(),
        internal_traffic_policy: export.internal_traffic_policy.clone(),
        traffic_distribution: export.traffic_distribution.clone(),
        labels: export.labels.clone(),
        annotations: export.annotations.clone(),
    }
}

fn decode_port(wire: federation::Port) -> Result<ExportedPort, FieldError> {
    Ok(ExportedPort {
        // As a Service has them: they become ports of one.
        name: match wire.name.is_empty() {
            true => wire.name,
            false => field::label("name", wire.name)?,
        },
        port: field::port("port", wire.port)?,
        app_protocol: match wire.app_protocol.is_empty() {
            true => wire.app_protocol,
            false => field::qualified("app_protocol", wire.app_protocol)?,
        },
        protocol: lookup::protocol(wire.protocol)?,
        transport: match wire.transport.as_str() {
            "" | "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            _ => return Err(FieldError::new("transport", "is none of TCP, UDP and SCTP")),
        },
    })
}

fn encode_port(port: &ExportedPort) -> federation::Port {
    federation::Port {
        name: port.name.clone(),
        port: u32::from(port.port),
        app_protocol: port.app_protocol.clone(),
        protocol: lookup::protocol_to_wire(port.protocol).into(),
        transport: match port.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Sctp => "SCTP",
        }
        .to_owned(),
    }
}

/// Reads the endpoints behind a port of an exported Service.
pub fn decode_exported(wire: federation::Exported) -> Result<Exported, FieldError> {
    let endpoints = field::list(
        "endpoints",
        wire.endpoints,
        field::ENDPOINTS_MAX,
        decode_exported_endpoint,
    )?;
    let mut keys = BTreeSet::new();
    if let Some(index) = endpoints.iter().position(|one| !keys.insert(one.endpoint.key)) {
        return Err(FieldError::new(
            format!("endpoints[{index}].endpoint.id"),
            "is there twice",
        ));
    }
    Ok(Exported {
        namespace: field::label("namespace", wire.namespace)?,
        service: field::label("service", wire.service)?,
        port: field::port("port", wire.port)?,
        endpoints,
    })
}

/// Writes the endpoints behind a port of an exported Service.
pub fn encode_exported(exported: &Exported) -> federation::Exported {
    let endpoint = |one: &ExportedEndpoint| federation::ExportedEndpoint {
        endpoint: Some(endpoints::encode_endpoint(&one.endpoint, 0)),
        hostname: one.hostname.clone(),
        labels: one.labels.clone(),
    };
    federation::Exported {
        namespace: exported.namespace.clone(),
        service: exported.service.clone(),
        port: u32::from(exported.port),
        endpoints: exported.endpoints.iter().map(endpoint).collect(),
    }
}

/// Reads what a gateway passes.
pub fn decode_gateway(wire: discovery::Gateway) -> Result<Vec<String>, FieldError> {
    field::list("exported", wire.exported, field::EXPORTED_MAX, |key| {
        match exported(&key) {
            Some((_, _, Some(_))) => Ok(key),
            _ => Err(FieldError::new(
                "",
                format!("is {key:?}, which is no key of kind exported"),
            )),
        }
    })
}

fn decode_exported_endpoint(wire: federation::ExportedEndpoint) -> Result<ExportedEndpoint, FieldError> {
    let endpoint: discovery::Endpoint = field::required("endpoint", wire.endpoint)?;
    let endpoint = endpoints::decode_endpoint(endpoint, &[]).map_err(|error| error.within("endpoint"))?;
    if endpoint.identity.is_none() {
        return Err(FieldError::new(
            "endpoint.identity",
            "is missing: plaintext does not go between clusters",
        ));
    }
    let hostname = match wire.hostname {
        none if none.is_empty() => none,
        some => field::label("hostname", some)?,
    };
    Ok(ExportedEndpoint {
        endpoint,
        hostname,
        labels: field::labels("labels", wire.labels, field::LABELS)?,
    })
}
