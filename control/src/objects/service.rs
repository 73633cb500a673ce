//! Views of Service and EndpointSlice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use weft_model::destination::Protocol;

use super::{DecodeError, Object, decode};

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service: its addresses and TCP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its addresses. Empty: headless, external, or not assigned yet.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `type: ExternalName`.
    pub external: bool,
    /// Whether pods that are not ready count as ready.
    pub publish_not_ready: bool,
    /// Its TCP ports, in the order they were written.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods. Empty: its endpoints are somebody else's business.
    pub selector: BTreeMap<String, String>,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where the Service has one port without a name.
    pub name: String,
    /// The Service's port.
    pub port: u16,
    /// The pods' port. EndpointSlices say what a name means for which pod.
    pub target: TargetPort,
    /// What the Service itself declares: `appProtocol`, else the prefix of the name.
    pub protocol: Protocol,
}

/// The pods' port of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name of a container's port.
    Name(String),
}

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service's name. `None`: it belongs to none.
    pub service: Option<String>,
    /// Its TCP ports: name, and the pods' number.
    pub ports: Vec<(String, u16)>,
    /// What is behind them.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address: the first, for all are the same endpoint (API reference: "consumers should use the first").
    pub address: IpAddr,
    /// Whether it takes new traffic.
    pub ready: bool,
    /// Whether it answers, terminating or not.
    pub serving: bool,
    /// Whether it is going away.
    pub terminating: bool,
    /// The pod.
    pub pod: Option<PodReference>,
    /// The node, or empty.
    pub node: String,
    /// The zone, or empty.
    pub zone: String,
    /// Its host name before a headless Service, or empty.
    pub hostname: String,
}

/// Names a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty: any pod of that name.
    pub uid: String,
}

#[derive(Deserialize)]
struct RawService {
    #[serde(default)]
    spec: RawServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServiceSpec {
    #[serde(default)]
    r#type: String,
    #[serde(default, rename = "clusterIP")]
    cluster_ip: String,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(default)]
    publish_not_ready_addresses: bool,
    #[serde(default)]
    ports: Vec<RawServicePort>,
    #[serde(default)]
    selector: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    #[serde(default)]
    name: String,
    port: u16,
    #[serde(default)]
    target_port: Option<TargetPort>,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    app_protocol: Option<String>,
}

#[derive(Deserialize)]
struct RawSlice {
    #[serde(default)]
    ports: Vec<RawSlicePort>,
    #[serde(default)]
    endpoints: Vec<RawEndpoint>,
}

#[derive(Deserialize)]
struct RawSlicePort {
    #[serde(default)]
    name: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: RawConditions,
    #[serde(default)]
    target_ref: Option<RawTarget>,
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    hostname: String,
}

#[derive(Default, Deserialize)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawTarget {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

impl Service {
    /// Reads a Service object.
    ///
    /// # Errors
    /// A field that is needed has the wrong type, an address is none, a port is 0 or given twice.
    pub fn of(object: &Object) -> Result<Self, DecodeError> {
        Self::of_document(&object.raw)
    }

    /// The same of a document that is no object yet.
    pub(crate) fn of_document(document: &Value) -> Result<Self, DecodeError> {
        let RawServiceSpec {
            r#type,
            cluster_ip,
            cluster_ips,
            publish_not_ready_addresses,
            ports,
            selector,
        } = decode::<RawService>(document)?.value.spec;
        let headless = cluster_ip == "None" || cluster_ips.first().is_some_and(|ip| ip == "None");
        let written = match cluster_ips.is_empty() {
            true => vec![("spec.clusterIP".to_owned(), cluster_ip)],
            false => cluster_ips
                .into_iter()
                .enumerate()
                .map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip))
                .collect(),
        };
        let mut addresses = Vec::new();
        for (field, ip) in written.into_iter().filter(|(_, ip)| !ip.is_empty() && ip != "None") {
            let message = format!("{ip:?} is no IP address");
            addresses.push(ip.parse().map_err(|_| DecodeError { field, message })?);
        }
        Ok(Self {
            cluster_ips: addresses,
            headless,
            external: r#type == "ExternalName",
            publish_not_ready: publish_not_ready_addresses,
            ports: service_ports(ports)?,
            selector,
        })
    }

    /// The TCP port of this number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|declared| declared.port == port)
    }
}

fn service_ports(raw: Vec<RawServicePort>) -> Result<Vec<ServicePort>, DecodeError> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (
        i,
        RawServicePort {
            name,
            port,
            target_port,
            protocol,
            app_protocol,
        },
    ) in raw.into_iter().enumerate()
    {
        let wrong = |field: &str, message: String| DecodeError {
            field: format!("spec.ports[{i}].{field}"),
            message,
        };
        match protocol.as_str() {
            "" | "TCP" => {}
            "UDP" | "SCTP" => continue,
            other => {
                return Err(wrong("protocol", format!("{other:?} is none of TCP, UDP and SCTP")));
            }
        }
        if port == 0 {
            return Err(wrong("port", "0 is no port".to_owned()));
        }
        if ports.iter().any(|other| other.port == port) {
            return Err(wrong("port", format!("{port} is given twice")));
        }
        if ports.iter().any(|other| other.name == name) {
            return Err(wrong(
                "name",
                format!("ports of one Service need different names, and {name:?} is given twice"),
            ));
        }
        let protocol = declared(app_protocol.as_deref(), &name);
        ports.push(ServicePort {
            target: target_port.unwrap_or(TargetPort::Number(port)),
            name,
            port,
            protocol,
        });
    }
    Ok(ports)
}

/// What an `appProtocol` may be that declares something.
pub(crate) const APP_PROTOCOLS: [&str; 10] = [
    "http",
    "http2",
    "h2c",
    "grpc",
    "tcp",
    "https",
    "tls",
    "kubernetes.io/h2c",
    "kubernetes.io/ws",
    "kubernetes.io/wss",
];

/// What `appProtocol`, or else the prefix of the port's name, declares. An unknown `appProtocol` declares nothing.
fn declared(app_protocol: Option<&str>, name: &str) -> Protocol {
    if let Some(app_protocol) = app_protocol {
        return match app_protocol.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Protocol::Http,
            "kubernetes.io/h2c" | "http2" | "h2c" => Protocol::Http2,
            "grpc" => Protocol::Grpc,
            "tcp" => Protocol::Opaque,
            "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
            _ => Protocol::Undeclared,
        };
    }
    match name.split('-').next().unwrap_or_default() {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Opaque,
        "https" | "tls" => Protocol::Tls,
        _ => Protocol::Undeclared,
    }
}

impl EndpointSlice {
    /// Reads an EndpointSlice object. Endpoints without an IP address (`addressType: FQDN`) are left out.
    ///
    /// # Errors
    /// A field that is needed has the wrong type.
    pub fn of(object: &Object) -> Result<Self, DecodeError> {
        let RawSlice { ports, endpoints } = decode::<RawSlice>(&object.raw)?.value;
        let tcp = ports
            .into_iter()
            .filter(|port| matches!(port.protocol.as_str(), "" | "TCP"));
        Ok(Self {
            service: object
                .labels
                .get(SERVICE_NAME_LABEL)
                .filter(|name| !name.is_empty())
                .cloned(),
            ports: tcp
                .filter_map(|port| Some((port.name, port.port.filter(|&port| port != 0)?)))
                .collect(),
            endpoints: endpoints
                .into_iter()
                .filter_map(|raw| slice_endpoint(raw, &object.namespace))
                .collect(),
        })
    }
}

fn slice_endpoint(raw: RawEndpoint, namespace: &str) -> Option<SliceEndpoint> {
    let RawEndpoint {
        addresses,
        conditions,
        target_ref,
        node_name,
        zone,
        hostname,
    } = raw;
    // API reference: an unknown `ready` counts as ready, an unknown `serving` as `ready`.
    let ready = conditions.ready.unwrap_or(true);
    let pod = target_ref
        .filter(|target| target.kind == "Pod")
        .map(|target| PodReference {
            namespace: if target.namespace.is_empty() {
                namespace.to_owned()
            } else {
                target.namespace
            },
            name: target.name,
            uid: target.uid,
        });
    Some(SliceEndpoint {
        address: addresses.first()?.parse().ok()?,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        pod,
        node: node_name,
        zone,
        hostname,
    })
}
