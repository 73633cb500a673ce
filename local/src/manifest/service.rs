//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use weft_control::objects::names::{is_service_name, is_subdomain};
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
    /// Whether it is of type LoadBalancer.
    pub load_balancer: bool,
    /// Whether pods that are not ready count as ready.
    pub publish_not_ready: bool,
    /// The families of its addresses, the first being the one that it prefers.
    pub families: Vec<Family>,
    /// Whether it can do with the first family, where the machine has no other.
    pub one_family_will_do: bool,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
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
    /// These; one is chosen for a family that has none of them.
    Given(Vec<IpAddr>),
    /// It has none, and stands for a name outside (`type: ExternalName`).
    External(String),
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
    #[serde(default)]
    external_name: String,
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
                if object.raw.pointer("/spec/type").and_then(|kind| kind.as_str()) == Some("NodePort") {
                    problems.push(acts_as_cluster_ip(object, "NodePort"));
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

/// What is said of a Service that nothing but pods can reach.
pub(super) fn acts_as_cluster_ip(object: &Object, kind: &str) -> Problem {
    let message = format!("a Service of type {kind} acts as one of type ClusterIP here");
    let fix = "from this machine, reach its pods with `weft port-forward`";
    object.problem(Severity::Notice, "spec.type", message, fix)
}

type Wrong = (String, String, &'static str);

fn read(object: &Arc<Object>) -> Result<Service, Wrong> {
    let raw = decode::<Raw>(&object.raw)
        .map_err(|error| {
            let fix = error.fix();
            (error.field, error.message, fix)
        })?
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
    let families = families(&raw, &address)?;
    if raw.ports.is_empty() && matches!(address, Address::Chosen | Address::Given(_)) {
        return Err(("spec.ports".to_owned(), "a Service needs a port".to_owned(), "add one"));
    }
    let ports = ports(raw.ports)?;
    Ok(Service {
        object: object.clone(),
        selector: raw.selector,
        ports,
        address,
        load_balancer: raw.r#type == "LoadBalancer",
        publish_not_ready: raw.publish_not_ready_addresses,
        families,
        one_family_will_do: raw.ip_family_policy.as_deref() == Some("PreferDualStack"),
    })
}

impl Family {
    /// That of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `IPv4` or `IPv6`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The families of a Service, as an API server fills them in (KEP-563).
fn families(raw: &RawSpec, address: &Address) -> Result<Vec<Family>, Wrong> {
    let mut families = Vec::new();
    for (i, family) in raw.ip_families.iter().enumerate() {
        let wrong = |message: String, fix| Err((format!("spec.ipFamilies[{i}]"), message, fix));
        let family = match family.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => return wrong(format!("{other:?} is no family"), "take IPv4 or IPv6"),
        };
        if families.contains(&family) {
            return wrong(format!("{} is there twice", family.as_str()), "remove it");
        }
        families.push(family);
    }
    let given = match address {
        Address::Given(ips) => ips.as_slice(),
        _ => &[],
    };
    for (i, ip) in given.iter().enumerate() {
        let wrong = |message: String, fix| Err((format!("spec.clusterIPs[{i}]"), message, fix));
        match families.get(i) {
            Some(family) if *family == Family::of(*ip) => {}
            Some(family) => {
                let message = format!("{ip} is no {} address, which ipFamilies asks for here", family.as_str());
                return wrong(message, "put both in the same order");
            }
            None if families.contains(&Family::of(*ip)) => {
                return wrong(format!("{ip} is a second address of its family"), "remove it");
            }
            None => families.push(Family::of(*ip)),
        }
    }
    if families.is_empty() {
        families.push(Family::V4);
    }
    match (raw.ip_family_policy.as_deref(), &families[..]) {
        (Some("PreferDualStack" | "RequireDualStack"), [Family::V4]) => families.push(Family::V6),
        (Some("PreferDualStack" | "RequireDualStack"), [Family::V6]) => families.push(Family::V4),
        (Some("SingleStack"), [_, _]) => {
            let message = "a SingleStack Service has one family, and ipFamilies or clusterIPs name two".to_owned();
            return Err(("spec.ipFamilyPolicy".to_owned(), message, "take PreferDualStack"));
        }
        _ => {}
    }
    Ok(families)
}

fn address(raw: &RawSpec) -> Result<Address, Wrong> {
    let first = raw.cluster_ips.first().unwrap_or(&raw.cluster_ip);
    if !raw.cluster_ip.is_empty() && *first != raw.cluster_ip {
        let message = "is not the first of clusterIPs".to_owned();
        return Err(("spec.clusterIP".to_owned(), message, "remove one of the two"));
    }
    if raw.r#type == "ExternalName" {
        let name = raw.external_name.trim_end_matches('.').to_ascii_lowercase();
        if !is_subdomain(&name) || name.parse::<IpAddr>().is_ok() {
            let message = format!("{:?} is no name", raw.external_name);
            let fix = "write the DNS name that this Service stands for, such as api.example.com";
            return Err(("spec.externalName".to_owned(), message, fix));
        }
        return Ok(Address::External(name));
    }
    if !raw.external_name.is_empty() {
        let message = "is for a Service of type ExternalName".to_owned();
        return Err(("spec.externalName".to_owned(), message, "remove it, or set the type"));
    }
    if first.is_empty() {
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
