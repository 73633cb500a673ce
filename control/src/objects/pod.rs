//! A view of a Pod: who it is and where, but not what it runs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;
use weft_model::inbound::Mode;

use super::{DecodeError, Object, decode};
use crate::objects::cluster::{inbound_mode, opaque_ports};

/// The name of the container that makes a pod a part of the mesh.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// The name of the container that redirects the pod's traffic, and how it is told of ports that it leaves alone. Not the
/// annotation is read: what a running pod does was settled when it was made.
pub(crate) const INIT_CONTAINER: &str = "weft-init";
const SKIP_INBOUND: &str = "--skip-inbound-ports=";

/// Who a Pod is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The node that it runs on, or empty.
    pub node: String,
    /// The service account that it runs as.
    pub service_account: String,
    /// Whether it has the proxy's container, and so an identity in the mesh.
    pub injected: bool,
    /// Ports of its app that are not behind its proxy.
    pub skip_inbound: Vec<u16>,
    /// Whether its address is its node's.
    pub host_network: bool,
    /// Whether it has ended: its address may belong to another pod by now.
    pub finished: bool,
    /// The name of what owns it: its Deployment's, say.
    pub workload: String,
    /// The version label's value, or empty.
    pub version: String,
    /// What its own annotation says of plaintext.
    pub inbound: Option<Result<Mode, String>>,
    /// Its ports that carry mere bytes, by its own annotation. `None`: it has none that can be read.
    pub opaque_ports: Option<BTreeSet<u16>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    service_account_name: String,
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: IpAddr,
}

impl Pod {
    /// Reads a Pod object.
    ///
    /// # Errors
    /// A field that is needed has the wrong type.
    pub fn of(object: &Object) -> Result<Self, DecodeError> {
        let Raw { metadata, spec, status } = decode::<Raw>(&object.raw)?.value;
        let mut ips: Vec<IpAddr> = status.pod_ip.into_iter().collect();
        for PodIp { ip } in status.pod_ips {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        let containers = || spec.containers.iter().chain(&spec.init_containers);
        Ok(Self {
            ips,
            service_account: match spec.service_account_name.as_str() {
                "" => "default".to_owned(),
                name => name.to_owned(),
            },
            injected: containers().any(|container| container.name == PROXY_CONTAINER),
            skip_inbound: spec.init_containers.iter().flat_map(skipped).collect(),
            host_network: spec.host_network,
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            workload: workload(object, &metadata.owner_references),
            version: first_label(object, &["app.kubernetes.io/version", "version"])
                .unwrap_or_default()
                .to_owned(),
            inbound: inbound_mode(object),
            opaque_ports: opaque_ports(object).and_then(Result::ok),
            node: spec.node_name,
        })
    }
}

fn skipped(container: &Container) -> Vec<u16> {
    let is_init = container.name == INIT_CONTAINER;
    let lists = container.args.iter().filter_map(|arg| arg.strip_prefix(SKIP_INBOUND));
    let ports = lists.filter(|_| is_init).flat_map(|list| list.split(','));
    ports.filter_map(|port| port.parse().ok()).collect()
}

fn first_label<'a>(object: &'a Object, names: &[&str]) -> Option<&'a str> {
    names
        .iter()
        .find_map(|&name| object.labels.get(name))
        .map(String::as_str)
        .filter(|value| !value.is_empty())
}

/// The Deployment's name, where the owner is a ReplicaSet that carries the pod's template hash; else the owner's; else
/// what the labels say; else the pod's own.
fn workload(object: &Object, owners: &[Owner]) -> String {
    if let Some(owner) = owners.iter().find(|owner| owner.controller).or_else(|| owners.first()) {
        let hash = object
            .labels
            .get("pod-template-hash")
            .map(String::as_str)
            .unwrap_or_default();
        let deployment = owner.name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
        return match deployment {
            Some(name) if owner.kind == "ReplicaSet" && !hash.is_empty() => name.to_owned(),
            _ => owner.name.clone(),
        };
    }
    first_label(object, &["app.kubernetes.io/name", "app"])
        .unwrap_or(&object.name)
        .to_owned()
}
