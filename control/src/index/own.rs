//! What is this cluster's own beside its pods, nodes and the addresses inside it: the namespaces that are never shared, and the
//! addresses at which others reach its control plane, its gateways and its Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::Index;
use crate::objects::Object;
use crate::objects::host_port::{Host, HostPort};

/// What the settings say of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// The control plane's namespace. Empty: the default.
    namespace: String,
    addresses: BTreeSet<IpAddr>,
}

impl Own {
    /// `reached`: where others reach the control plane and the gateways. A name is not resolved: what is behind it is, as a rule, a
    /// Service's load balancer or a node.
    pub(crate) fn new<'a>(namespace: &str, reached: impl Iterator<Item = &'a String>) -> Self {
        let address = |text: &String| match text.parse() {
            Ok(HostPort { host: Host::Ip(ip), .. }) => Some(ip.to_canonical()),
            _ => None,
        };
        Self {
            namespace: namespace.to_owned(),
            addresses: reached.filter_map(address).collect(),
        }
    }
}

impl Index {
    /// The same of the cluster that has this.
    pub(crate) fn owning(self, own: Own) -> Self {
        Self { own, ..self }
    }

    /// Whether a namespace is each cluster's own: the mesh's, and those of Kubernetes itself. Nothing of it is shared, whatever a
    /// selection of all namespaces says.
    pub(crate) fn is_system(&self, namespace: &str) -> bool {
        namespace == self.own.namespace || super::remote::is_system(namespace)
    }

    /// Whether others reach something of this cluster at an address.
    pub(super) fn is_reached_at(&self, ip: IpAddr) -> bool {
        self.own.addresses.contains(&ip) || self.services_by_outer_ip.of(&ip).next().is_some()
    }
}

/// The addresses of a Service that lead to it from outside.
pub(super) fn outer_addresses(service: &Object) -> BTreeSet<IpAddr> {
    let list = |pointer| {
        service
            .raw
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let balancers = list("/status/loadBalancer/ingress").filter_map(|ingress| ingress.get("ip"));
    let all = list("/spec/externalIPs").chain(balancers);
    all.filter_map(|text| Some(text.as_str()?.parse::<IpAddr>().ok()?.to_canonical()))
        .collect()
}
