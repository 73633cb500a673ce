//! The objects that an import becomes: its ServiceImport, and the Services through which it is called.
//!
//! They are whole documents for server-side apply, as one field manager writes them. The replica that leads applies them,
//! and takes away those of which nothing is imported any more. What a peer says becomes a port, a label of a ServiceImport
//! or the name of a cluster, and nothing else: no selector, no address, no label that a controller of this cluster acts on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::merge::{ImportType, IpFamily, Merged, Port, SessionAffinity};
use crate::index::Name;
use crate::objects::Object;

/// The label that names the imported Service, on Services and EndpointSlices derived from it (KEP-1645).
pub const SERVICE_NAME_LABEL: &str = "multicluster.kubernetes.io/service-name";
/// How the names of derived Services begin.
const DERIVED: &str = "weft-import-";
/// The label of every object that is here only because of an import.
pub const IMPORT_LABEL: &str = "weft.dev/import";
/// How a port of a derived Service is called that has no name where it is exported, if it needs one here.
const UNNAMED: &str = "unnamed";
/// Domains whose labels and annotations mean something to controllers here.
const RESERVED: [&str; 4] = ["kubernetes.io", "k8s.io", "x-k8s.io", "weft.dev"];
/// The form of a ServiceImport.
const VERSION: &str = "multicluster.x-k8s.io/v1beta1";

/// Whether an import can be called: its condition `Ready`, in words of the API (`ServiceImportConditionReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It can.
    Ready,
    /// Its derived Service has no address yet.
    Pending,
    /// This cluster has no family of addresses in common with those that export it.
    IpFamilyNotSupported,
}

/// The name of the Service that is derived from an import: `weft-import-` and the first ten hexadecimal digits of SHA-256 over
/// `namespace/name`. It fits wherever the Service's own name does, and says nothing but what it is of.
pub fn derived_name(service: &Name) -> String {
    let hash = digest(&SHA256, service.to_string().as_bytes());
    let hex: String = hash.as_ref()[..5].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{DERIVED}{hex}")
}

/// Whether a name is one that derived Services have.
pub(crate) fn is_derived(name: &str) -> bool {
    name.starts_with(DERIVED)
}

/// Whether an object is here only because of an import.
pub(crate) fn is_import(object: &Object) -> bool {
    object.labels.get(IMPORT_LABEL).is_some_and(|value| value == "true")
}

/// The Service that a derived Service is of. `None`: it is none.
pub(crate) fn imported(service: &Object) -> Option<Name> {
    let of = service.labels.get(SERVICE_NAME_LABEL)?;
    let of = Name::new(service.namespace.as_str(), of.as_str());
    (is_import(service) && service.name == derived_name(&of)).then_some(of)
}

/// The ServiceImport of a Service. `ips`: the addresses of its derived Service; none where it is headless, or has none yet.
/// `since`: since when its condition is so, RFC 3339.
pub fn service_import(service: &Name, merged: &Merged, ips: &[IpAddr], (ready, since): (Ready, &str)) -> Value {
    let headless = merged.kind == ImportType::Headless;
    let ips: &[IpAddr] = if headless { &[] } else { ips };
    let mut labels = carried(&merged.labels);
    labels.insert(IMPORT_LABEL.to_owned(), "true".to_owned());
    let families: Vec<&str> = match ips {
        [] => merged.ip_families.iter().map(|family| family.as_str()).collect(),
        // What is asked is how the import can be called; its endpoints are the proxies' business.
        ips => ips.iter().map(|ip| family_of(*ip).as_str()).collect(),
    };
    let mut spec = json!({
        "type": merged.kind.as_str(),
        "ports": merged.ports.iter().map(port).collect::<Vec<_>>(),
        "internalTrafficPolicy": merged.internal_traffic_policy.as_str(),
    });
    if !ips.is_empty() {
        spec["ips"] = ips.iter().map(ToString::to_string).collect();
    }
    if !families.is_empty() {
        spec["ipFamilies"] = families.into();
    }
    if let Some(distribution) = &merged.traffic_distribution {
        spec["trafficDistribution"] = distribution.as_str().into();
    }
    affinity(&mut spec, merged);
    let cluster = |cluster: &String| json!({"cluster": cluster});
    json!({
        "apiVersion": VERSION,
        "kind": "ServiceImport",
        "metadata": {
            "namespace": service.namespace, "name": service.name,
            "labels": labels, "annotations": carried(&merged.annotations),
        },
        "spec": spec,
        "status": {
            "clusters": merged.clusters.iter().map(cluster).collect::<Vec<_>>(),
            "conditions": [ready.condition(since)],
        },
    })
}

/// The Service that every import has, [named](derived_name) after what it is of: its address is the ServiceImport's. It has no
/// selector: what is behind it comes from other clusters.
pub fn derived_service(service: &Name, merged: &Merged) -> Value {
    selectorless(service, &derived_name(service), merged)
}

/// The Service of the imported one's own name, where this cluster has none, so that those who call it need not know where
/// it runs. It is to be given up as soon as another field manager owns any of it: then somebody brings the Service to this
/// cluster, and it is theirs. Whoever applies it looks at `metadata.managedFields` of the Service that is there, applies
/// nothing over another manager's, and takes off the label [`IMPORT_LABEL`] from one that it gives up.
pub fn own_service(service: &Name, merged: &Merged) -> Value {
    selectorless(service, &service.name, merged)
}

/// A Service with an import's ports. Its families are this cluster's own: mesh clients are led on from whatever address they
/// dial. Which nodes' endpoints may be chosen (`internalTrafficPolicy`) is said of the exporting cluster's nodes, and would
/// leave none here.
fn selectorless(service: &Name, name: &str, merged: &Merged) -> Value {
    let named = merged.ports.len() > 1;
    let ports: Vec<Value> = merged
        .ports
        .iter()
        .map(|of| named_port(of, named, &merged.ports))
        .collect();
    let mut spec = json!({"type": "ClusterIP", "ports": ports});
    match merged.kind {
        ImportType::Headless => spec["clusterIP"] = "None".into(),
        ImportType::ClusterSetIP => {
            spec["ipFamilyPolicy"] = "PreferDualStack".into();
            affinity(&mut spec, merged);
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": service.namespace, "name": name,
            "labels": {SERVICE_NAME_LABEL: service.name, IMPORT_LABEL: "true"},
        },
        "spec": spec,
    })
}

fn port(of: &Port) -> Value {
    let mut port = json!({"port": of.port, "protocol": of.protocol.as_str()});
    if !of.name.is_empty() {
        port["name"] = of.name.as_str().into();
    }
    if let Some(protocol) = &of.app_protocol {
        port["appProtocol"] = protocol.as_str().into();
    }
    port
}

/// The same of a Service, where each of several ports must have a name. Two clusters with one unnamed port each never come
/// to two of them, but one may stand beside a named one.
fn named_port(of: &Port, needs_name: bool, all: &[Port]) -> Value {
    let mut port = port(of);
    if needs_name && of.name.is_empty() {
        let name = |i: usize| {
            if i == 0 {
                UNNAMED.to_owned()
            } else {
                format!("{UNNAMED}-{i}")
            }
        };
        let free = |name: &String| all.iter().all(|other| other.name != *name);
        // Of one name more than there are ports, one is free.
        port["name"] = (0..=all.len()).map(name).find(free).into();
    }
    port
}

fn affinity(spec: &mut Value, merged: &Merged) {
    if merged.kind == ImportType::Headless {
        return;
    }
    spec["sessionAffinity"] = merged.session_affinity.as_str().into();
    if let SessionAffinity::ClientIp { timeout_seconds } = merged.session_affinity {
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": timeout_seconds}});
    }
}

/// Labels or annotations of an export, but for those that something in this cluster might act on.
fn carried(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let carried = all.iter().filter(|(key, _)| !is_reserved(key));
    carried.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |reserved: &str| {
        domain
            .strip_suffix(reserved)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    RESERVED.into_iter().any(below)
}

const fn family_of(ip: IpAddr) -> IpFamily {
    match ip {
        IpAddr::V4(_) => IpFamily::V4,
        IpAddr::V6(_) => IpFamily::V6,
    }
}

impl Ready {
    fn condition(self, since: &str) -> Value {
        let (status, reason, message) = match self {
            Self::Ready => ("True", "Ready", "the Service can be called"),
            Self::Pending => ("False", "Pending", "its derived Service has no address yet"),
            Self::IpFamilyNotSupported => (
                "False",
                "IPFamilyNotSupported",
                "this cluster has none of the families of addresses that the exporting clusters have in common",
            ),
        };
        json!({
            "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": since
        })
    }
}

#[cfg(test)]
mod tests;
