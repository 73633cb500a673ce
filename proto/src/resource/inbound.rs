//! What a pod accepts: `weft.discovery.v1.Inbound`.
//!
//! Everything here fails closed. A mode that is not known is strict; a policy is never dropped and never narrowed, so what
//! cannot be read of it makes it cover more.

use weft_model::endpoint::Place;
use weft_model::feature;
use weft_model::identity::TrustDomain;
use weft_model::inbound::{Inbound, InboundPort, Mode, Workload};
use weft_model::name::ObjectRef;
use weft_model::policy::Policy;

use super::field::{self, FieldError};
use super::lookup::{protocol, protocol_to_wire};
use super::service::object_to_wire;
use crate::discovery;

/// Reads a pod's inbound configuration.
pub fn decode(wire: discovery::Inbound) -> Result<Inbound, FieldError> {
    let mode = match discovery::Mode::try_from(wire.mode) {
        Ok(discovery::Mode::Permissive) => Mode::Permissive,
        Ok(discovery::Mode::Strict | discovery::Mode::Unspecified) | Err(_) => Mode::Strict,
    };
    Ok(Inbound {
        mode,
        ports: field::list("ports", wire.ports, field::PORTS_MAX, decode_port)?,
        policies: decode_policies(wire.policies),
        workload: Workload {
            namespace: field::name("namespace", wire.namespace)?,
            name: field::word("workload", wire.workload)?,
            version: field::word("version", wire.version)?,
            service_account: field::name("service_account", wire.service_account)?,
            place: Place {
                region: field::word("region", wire.region)?,
                zone: field::word("zone", wire.zone)?,
                cluster: field::word("cluster", wire.cluster)?,
            },
        },
    })
}

/// Writes a pod's inbound configuration.
pub fn encode(inbound: &Inbound) -> discovery::Inbound {
    let mode = match inbound.mode {
        Mode::Permissive => discovery::Mode::Permissive,
        Mode::Strict => discovery::Mode::Strict,
    };
    let workload = &inbound.workload;
    discovery::Inbound {
        mode: mode as i32,
        ports: inbound.ports.iter().map(encode_port).collect(),
        policies: inbound.policies.iter().map(encode_policy).collect(),
        namespace: workload.namespace.clone(),
        workload: workload.name.clone(),
        version: workload.version.clone(),
        region: workload.place.region.clone(),
        zone: workload.place.zone.clone(),
        service_account: workload.service_account.clone(),
        cluster: workload.place.cluster.clone(),
    }
}

fn decode_port(wire: discovery::InboundPort) -> Result<InboundPort, FieldError> {
    let trust_domain = |text: String| {
        TrustDomain::new(&text).map_err(|error| FieldError::new("", format!("is none: {error}")))
    };
    Ok(InboundPort {
        port: field::port("port", wire.port)?,
        protocol: protocol(wire.protocol)?,
        foreign: field::list(
            "foreign_trust_domains",
            wire.foreign_trust_domains,
            field::BUNDLES_MAX,
            trust_domain,
        )?,
        services: field::list("services", wire.services, field::PORTS_MAX, |service| {
            field::word("", service)
        })?,
    })
}

fn encode_port(port: &InboundPort) -> discovery::InboundPort {
    discovery::InboundPort {
        port: u32::from(port.port),
        protocol: protocol_to_wire(port.protocol) as i32,
        foreign_trust_domains: port.foreign.iter().map(ToString::to_string).collect(),
        services: port.services.clone(),
    }
}

/// Reads policies, all of them: more than can be kept become one that covers everything.
fn decode_policies(wire: Vec<discovery::Policy>) -> Vec<Policy> {
    if wire.len() > field::POLICIES_MAX {
        let name = format!(
            "{} policies, and {} is the limit",
            wire.len(),
            field::POLICIES_MAX
        );
        let object = ObjectRef {
            kind: "AccessPolicy".to_owned(),
            namespace: String::new(),
            name,
        };
        return vec![Policy {
            object,
            missing: Vec::new(),
            ports: Vec::new(),
        }];
    }
    wire.into_iter().map(decode_policy).collect()
}

fn decode_policy(wire: discovery::Policy) -> Policy {
    let object = wire.object.unwrap_or_default();
    let object = ObjectRef {
        kind: field::words(object.kind),
        namespace: field::words(object.namespace),
        name: field::words(object.name),
    };
    // One port that cannot be read, and it covers all.
    let ports: Option<Vec<u16>> = wire
        .ports
        .iter()
        .map(|&port| field::port("", port).ok())
        .collect();
    let ports = ports
        .filter(|ports| ports.len() <= field::PORTS_MAX)
        .unwrap_or_default();
    Policy {
        object,
        missing: feature::missing(wire.requires.iter().map(String::as_str)),
        ports,
    }
}

/// Writes a policy. This version knows no rules: what it lacked is what it requires of others.
fn encode_policy(policy: &Policy) -> discovery::Policy {
    discovery::Policy {
        object: Some(object_to_wire(&policy.object)),
        requires: policy.missing.clone(),
        ports: policy.ports.iter().copied().map(u32::from).collect(),
    }
}
