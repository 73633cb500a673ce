//! What a pod accepts: `weft.discovery.v1.Inbound`.
//!
//! Everything here fails closed, and nothing here is refused: if one field of a newer version kept the old configuration in
//! force, a stricter mode or a new policy beside it would not act. A mode that is not known is strict; a policy is never
//! dropped and never narrowed, so what cannot be read of it makes it cover more. What cannot be read of a declared port is
//! left out, down to the port itself: it is undeclared then, and mode and policies cover it all the same.

use weft_model::endpoint::Place;
use weft_model::feature;
use weft_model::identity::TrustDomain;
use weft_model::inbound::{Inbound, InboundPort, Mode, Workload};
use weft_model::name::ObjectRef;
use weft_model::policy::Policy;

use super::field;
use super::lookup::{protocol, protocol_to_wire};
use super::service::object_to_wire;
use crate::discovery;

/// Reads a pod's inbound configuration. There is none that cannot be read: see the head of the file.
pub fn decode(wire: discovery::Inbound) -> Inbound {
    let mode = match discovery::Mode::try_from(wire.mode) {
        Ok(discovery::Mode::Permissive) => Mode::Permissive,
        Ok(discovery::Mode::Strict | discovery::Mode::Unspecified) | Err(_) => Mode::Strict,
    };
    let name = |name| field::name("", name).unwrap_or_default();
    let word = |word| field::word("", word).unwrap_or_default();
    Inbound {
        mode,
        ports: wire
            .ports
            .into_iter()
            .filter_map(decode_port)
            .take(field::PORTS_MAX)
            .collect(),
        policies: decode_policies(wire.policies),
        // For telemetry; who the pod is follows from its own leaf.
        workload: Workload {
            namespace: name(wire.namespace),
            name: word(wire.workload),
            version: word(wire.version),
            service_account: name(wire.service_account),
            place: Place {
                region: word(wire.region),
                zone: word(wire.zone),
                cluster: word(wire.cluster),
            },
        },
    }
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

/// `None`: it is no port. A protocol that is not known is as good as none declared: the bytes decide. A trust domain that
/// cannot be read is not let in.
fn decode_port(wire: discovery::InboundPort) -> Option<InboundPort> {
    let foreign = wire
        .foreign_trust_domains
        .iter()
        .filter_map(|text| TrustDomain::new(text).ok());
    let services = wire
        .services
        .into_iter()
        .filter_map(|service| field::word("", service).ok());
    Some(InboundPort {
        port: field::port("", wire.port).ok()?,
        protocol: protocol(wire.protocol).unwrap_or_default(),
        foreign: foreign.take(field::BUNDLES_MAX).collect(),
        services: services.take(field::PORTS_MAX).collect(),
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
        let name = format!("{} policies, and {} is the limit", wire.len(), field::POLICIES_MAX);
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
    let ports: Option<Vec<u16>> = wire.ports.iter().map(|&port| field::port("", port).ok()).collect();
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
