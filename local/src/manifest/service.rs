//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use weft_control::objects::names::is_service_name;
use weft_control::objects::{Object, Problem, Severity, decode};

use super::raw::{NumberOrName, Protocol};

/// A Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// As it was written.
    pub object: Arc<Object>,
    /// The labels of its pods. Empty: it has no pods.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its address.
    pub address: Address,
    /// Whether pods that are not ready count as ready.
    pub publish_not_ready: bool,
    /// Whether it has IPv4 addresses. `None`: it has what the mesh has first.
    pub v4: Option<bool>,
    /// Whether it has IPv6 addresses.
    pub v6: Option<bool>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where the Service has one port without.
    pub name: String,
    /// The Service's port.
    pub port: u16,
    /// The pods' port.
    pub target: NumberOrName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What it declares.
    pub app_protocol: Option<String>,
}

/// A Service's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// One is chosen.
    Chosen,
    /// It has none: its name leads to its pods.
    Headless,
    /// These.
    Given(Vec<IpAddr>),
}

#[derive(Deserialize)]
struct Raw {
    spec: RawSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<RawPort>,
    #[serde(default)]
    r#type: String,
    #[serde(default, rename = "clusterIP")]
    cluster_ip: String,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(default)]
    ip_families: Vec<String>,
    ip_family_policy: Option<String>,
    #[serde(default)]
    publish_not_ready_addresses: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    name: String,
    port: u16,
    target_port: Option<NumberOrName>,
    #[serde(default)]
    protocol: Protocol,
    app_protocol: Option<String>,
}

impl Service {
    /// Reads a Service. None: it can't be honoured, and the problems say why.
    pub fn read(object: &Arc<Object>, problems: &mut Vec<Problem>) -> Option<Self> {
        match read(object) {
            Ok(service) => {
                let kind = object
                    .raw
                    .pointer("/spec/type")
                    .and_then(|kind| kind.as_str())
                    .unwrap_or("ClusterIP");
                if kind != "ClusterIP" {
                    let message = format!("a Service of type {kind} acts as one of type ClusterIP here");
                    let fix = "from this machine, reach its pods with `weft port-forward`";
                    problems.push(object.problem(Severity::Notice, "spec.type", message, fix));
                }
                Some(service)
            }
            Err((field, message, fix)) => {
                problems.push(object.problem(Severity::Error, &field, message, fix));
                None
            }
        }
    }
}

type Wrong = (String, String, &'static str);

fn read(object: &Arc<Object>) -> Result<Service, Wrong> {
    let raw = decode::<Raw>(&object.raw)
        .map_err(|error| (error.field, error.message, ""))?
        .value
        .spec;
    if !is_service_name(&object.name) {
        let fix = "begin with a letter, take a-z, 0-9 and '-', at most 63";
        return Err((
            "metadata.name".to_owned(),
            format!("{:?} is no name of a Service", object.name),
            fix,
        ));
    }
    let address = address(&raw)?;
    if raw.ports.is_empty() && address != Address::Headless {
        return Err(("spec.ports".to_owned(), "a Service needs a port".to_owned(), "add one"));
    }
    let ports = ports(raw.ports)?;
    let dual = matches!(
        raw.ip_family_policy.as_deref(),
        Some("PreferDualStack" | "RequireDualStack")
    );
    let mut families = BTreeSet::new();
    for (i, family) in raw.ip_families.iter().enumerate() {
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            let field = format!("spec.ipFamilies[{i}]");
            return Err((field, format!("{family:?} is no family"), "take IPv4 or IPv6"));
        }
        families.insert(family.as_str());
    }
    let named = |family: &str| match (dual, families.is_empty()) {
        (true, _) => Some(true),
        (false, true) => None,
        (false, false) => Some(families.contains(family)),
    };
    Ok(Service {
        object: object.clone(),
        selector: raw.selector,
        ports,
        address,
        publish_not_ready: raw.publish_not_ready_addresses,
        v4: named("IPv4"),
        v6: named("IPv6"),
    })
}

fn address(raw: &RawSpec) -> Result<Address, Wrong> {
    let first = raw.cluster_ips.first().unwrap_or(&raw.cluster_ip);
    if !raw.cluster_ip.is_empty() && *first != raw.cluster_ip {
        let message = "is not the first of clusterIPs".to_owned();
        return Err(("spec.clusterIP".to_owned(), message, "remove one of the two"));
    }
    if raw.r#type == "ExternalName" || first.is_empty() {
        return Ok(Address::Chosen);
    }
    if first == "None" {
        return Ok(Address::Headless);
    }
    let single = std::slice::from_ref(&raw.cluster_ip);
    let (list, field) = match raw.cluster_ips.is_empty() {
        true => (single, "spec.clusterIP"),
        false => (&raw.cluster_ips[..], "spec.clusterIPs"),
    };
    let parse = |text: &String| {
        text.parse()
            .map_err(|_| (field.to_owned(), format!("{text:?} is no IP address"), "remove it"))
    };
    list.iter().map(parse).collect::<Result<_, _>>().map(Address::Given)
}

fn ports(raw: Vec<RawPort>) -> Result<Vec<ServicePort>, Wrong> {
    let several = raw.len() > 1;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::with_capacity(raw.len());
    for (
        i,
        RawPort {
            name,
            port,
            target_port,
            protocol,
            app_protocol,
        },
    ) in raw.into_iter().enumerate()
    {
        let wrong = |field: &str, message: String, fix: &'static str| (format!("spec.ports[{i}]{field}"), message, fix);
        if port == 0 {
            return Err(wrong(".port", "0 is no port".to_owned(), "take 1 to 65535"));
        }
        if !numbers.insert((port, protocol)) {
            return Err(wrong(".port", format!("{port} is there twice"), "take another"));
        }
        if several && name.is_empty() {
            return Err(wrong(
                "",
                "one of several ports needs a name".to_owned(),
                "add one, such as http",
            ));
        }
        if !names.insert(name.clone()) {
            return Err(wrong(".name", format!("{name:?} is there twice"), "take another"));
        }
        let target = target_port.unwrap_or(NumberOrName::Number(u32::from(port)));
        match &target {
            NumberOrName::Number(number) if *number == 0 || *number > 65535 => {
                return Err(wrong(".targetPort", format!("{number} is no port"), "take 1 to 65535"));
            }
            // A name that no container has leads nowhere for that pod, as in Kubernetes.
            _ => {}
        }
        ports.push(ServicePort {
            name,
            port,
            target,
            protocol,
            app_protocol,
        });
    }
    Ok(ports)
}
