//! What this cluster says of a Service that it exports: read from the Service itself, and from its ServiceExport.

use serde::Deserialize;

use super::merge::{Export, ImportType, InternalTrafficPolicy, IpFamily, Port, Protocol, SessionAffinity};
use crate::objects::mcs::ServiceExport;
use crate::objects::{DecodeError, Object, decode};

/// How long a silent client stays with its endpoint, where the Service does not say it (API reference, `ClientIPConfig`).
const AFFINITY_SECONDS: u32 = 10_800;

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    spec: RawSpec,
}

/// The fields of a Service that an import has as well. Those that a Service does not say are at the API's defaults: in files
/// nobody has filled them in.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<RawPort>,
    session_affinity: RawAffinity,
    session_affinity_config: RawAffinityConfig,
    ip_families: Vec<RawFamily>,
    internal_traffic_policy: RawTrafficPolicy,
    traffic_distribution: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    name: String,
    port: u16,
    #[serde(default)]
    protocol: RawProtocol,
    #[serde(default)]
    app_protocol: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RawProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum RawAffinity {
    #[default]
    None,
    ClientIP,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: RawClientIp,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
enum RawFamily {
    IPv4,
    IPv6,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum RawTrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// What a cluster of this name exports of a Service.
///
/// # Errors
/// The Service has a field that no API server would take.
pub fn export(cluster: &str, service: &Object, export: &ServiceExport) -> Result<Export, DecodeError> {
    let spec = decode::<Raw>(&service.raw)?.value.spec;
    let client_ip = spec.session_affinity_config.client_ip;
    Ok(Export {
        cluster: cluster.to_owned(),
        created_ms: export.created_ms,
        kind: match spec.cluster_ip.as_str() {
            "None" => ImportType::Headless,
            _ => ImportType::ClusterSetIP,
        },
        ports: spec.ports.into_iter().map(Port::from).collect(),
        session_affinity: match spec.session_affinity {
            RawAffinity::None => SessionAffinity::None,
            RawAffinity::ClientIP => SessionAffinity::ClientIp {
                timeout_seconds: client_ip.timeout_seconds.unwrap_or(AFFINITY_SECONDS),
            },
        },
        ip_families: spec.ip_families.into_iter().map(IpFamily::from).collect(),
        internal_traffic_policy: match spec.internal_traffic_policy {
            RawTrafficPolicy::Cluster => InternalTrafficPolicy::Cluster,
            RawTrafficPolicy::Local => InternalTrafficPolicy::Local,
        },
        traffic_distribution: spec.traffic_distribution,
        labels: export.labels.clone(),
        annotations: export.annotations.clone(),
    })
}

impl From<RawPort> for Port {
    fn from(raw: RawPort) -> Self {
        Self {
            name: raw.name,
            port: raw.port,
            protocol: match raw.protocol {
                RawProtocol::Tcp => Protocol::Tcp,
                RawProtocol::Udp => Protocol::Udp,
                RawProtocol::Sctp => Protocol::Sctp,
            },
            app_protocol: raw.app_protocol,
        }
    }
}

impl From<RawFamily> for IpFamily {
    fn from(raw: RawFamily) -> Self {
        match raw {
            RawFamily::IPv4 => Self::V4,
            RawFamily::IPv6 => Self::V6,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::federation::merge::merge;

    fn service(spec: &Value) -> Object {
        Object {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: "hello".to_owned(),
            uid: "u".to_owned(),
            resource_version: 1,
            generation: 0,
            labels: [("app".to_owned(), "hello".to_owned())].into(),
            annotations: BTreeMap::new(),
            raw: json!({"metadata": {"name": "hello", "labels": {"app": "hello"}}, "spec": spec}),
            origin: None,
        }
    }

    fn of(spec: &Value) -> Export {
        export("one", &service(spec), &ServiceExport::default()).unwrap()
    }

    #[test]
    fn what_a_service_says_is_what_is_exported() {
        let exported = ServiceExport {
            created_ms: 7,
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            annotations: BTreeMap::new(),
        };
        let service = service(&json!({
            "clusterIP": "10.96.0.1",
            "ports": [
                {"name": "tcp", "port": 42, "targetPort": 4242, "protocol": "TCP", "appProtocol": "http"},
                {"name": "udp", "port": 42, "protocol": "UDP"},
                {"name": "stcp", "port": 142, "protocol": "SCTP"}
            ],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
            "ipFamilies": ["IPv6", "IPv4"],
            "internalTrafficPolicy": "Local",
            "trafficDistribution": "PreferClose"
        }));
        let export = export("one", &service, &exported).unwrap();
        assert_eq!((export.cluster.as_str(), export.created_ms), ("one", 7));
        assert_eq!(export.kind, ImportType::ClusterSetIP);
        let ports: Vec<String> = export.ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["tcp 42/TCP (http)", "udp 42/UDP", "stcp 142/SCTP"]);
        assert_eq!(
            export.session_affinity,
            SessionAffinity::ClientIp { timeout_seconds: 10 }
        );
        assert_eq!(export.ip_families, [IpFamily::V6, IpFamily::V4]);
        assert_eq!(export.internal_traffic_policy, InternalTrafficPolicy::Local);
        assert_eq!(export.traffic_distribution.as_deref(), Some("PreferClose"));
        assert_eq!(export.labels, exported.labels, "and none of the Service's own");
    }

    #[test]
    fn what_a_service_does_not_say_is_the_default_of_the_api() {
        let export = of(&json!({"ports": [{"port": 80}]}));
        assert_eq!(
            (export.ports[0].protocol, export.session_affinity),
            (Protocol::Tcp, SessionAffinity::None)
        );
        assert_eq!(export.internal_traffic_policy, InternalTrafficPolicy::Cluster);
        assert!(export.ip_families.is_empty());
        let default = SessionAffinity::ClientIp {
            timeout_seconds: 10_800,
        };
        assert_eq!(of(&json!({"sessionAffinity": "ClientIP"})).session_affinity, default);
        // As an API server fills it in, so the two don't differ.
        let filled = json!({"ports": [{"port": 80, "protocol": "TCP"}], "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"});
        assert!(
            !merge(&[
                export,
                Export {
                    cluster: "two".to_owned(),
                    ..of(&filled)
                }
            ])
            .unwrap()
            .conflict
            .status
        );
    }

    #[test]
    fn a_service_without_an_address_is_headless() {
        assert_eq!(of(&json!({"clusterIP": "None"})).kind, ImportType::Headless);
    }

    #[test]
    fn what_no_service_could_say_is_refused_by_its_field() {
        let error = |spec: &Value| {
            export("one", &service(spec), &ServiceExport::default())
                .unwrap_err()
                .field
        };
        assert_eq!(
            error(&json!({"ports": [{"port": 80, "protocol": "QUIC"}]})),
            "spec.ports[0].protocol"
        );
        assert_eq!(error(&json!({"sessionAffinity": "Cookie"})), "spec.sessionAffinity");
    }
}
