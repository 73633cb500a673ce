//! Exports as they travel between clusters, and as they are merged.

use weft_model::destination::Protocol;
use weft_proto::resource::federation::{Export as Said, ExportedPort, Transport};

use super::merge::{self, Export, ImportType, InternalTrafficPolicy, IpFamily, Port, SessionAffinity};
use crate::index::Name;

/// What this cluster says of a Service. `declared`: what is declared of a TCP port, by whatever way.
pub(crate) fn to_peers(service: &Name, export: Export, declared: impl Fn(u16) -> Protocol) -> Said {
    let port = |port: Port| ExportedPort {
        name: port.name,
        port: port.port,
        app_protocol: port.app_protocol.unwrap_or_default(),
        protocol: match port.protocol {
            merge::Protocol::Tcp => declared(port.port),
            merge::Protocol::Udp | merge::Protocol::Sctp => Protocol::Undeclared,
        },
        transport: match port.protocol {
            merge::Protocol::Tcp => Transport::Tcp,
            merge::Protocol::Udp => Transport::Udp,
            merge::Protocol::Sctp => Transport::Sctp,
        },
    };
    Said {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        headless: export.kind == ImportType::Headless,
        ports: export.ports.into_iter().map(port).collect(),
        created_ms: export.created_ms,
        affinity_seconds: match export.session_affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
        },
        ip_families: export
            .ip_families
            .iter()
            .map(|family| family.as_str().to_owned())
            .collect(),
        internal_traffic_policy: export.internal_traffic_policy.as_str().to_owned(),
        traffic_distribution: export.traffic_distribution.unwrap_or_default(),
        labels: export.labels,
        annotations: export.annotations,
    }
}

/// What a peer says of a Service. A word that this version does not know is as if nothing were said.
pub(crate) fn by_peer(cluster: &str, said: &Said) -> Export {
    let port = |port: &ExportedPort| Port {
        name: port.name.clone(),
        port: port.port,
        protocol: match port.transport {
            Transport::Tcp => merge::Protocol::Tcp,
            Transport::Udp => merge::Protocol::Udp,
            Transport::Sctp => merge::Protocol::Sctp,
        },
        app_protocol: some(&port.app_protocol),
    };
    let family = |family: &String| match family.as_str() {
        "IPv4" => Some(IpFamily::V4),
        "IPv6" => Some(IpFamily::V6),
        _ => None,
    };
    Export {
        cluster: cluster.to_owned(),
        created_ms: said.created_ms,
        kind: match said.headless {
            true => ImportType::Headless,
            false => ImportType::ClusterSetIP,
        },
        ports: said.ports.iter().map(port).collect(),
        session_affinity: match said.affinity_seconds {
            None => SessionAffinity::None,
            Some(timeout_seconds) => SessionAffinity::ClientIp { timeout_seconds },
        },
        ip_families: said.ip_families.iter().filter_map(family).collect(),
        internal_traffic_policy: match said.internal_traffic_policy.as_str() {
            "Local" => InternalTrafficPolicy::Local,
            _ => InternalTrafficPolicy::Cluster,
        },
        traffic_distribution: some(&said.traffic_distribution),
        labels: said.labels.clone(),
        annotations: said.annotations.clone(),
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
