//! Endpoints and sets of them: `weft.discovery.v1.EndpointSet`.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::endpoint::{Endpoint, EndpointId, EndpointKey, EndpointSet, Place};

use super::field::{self, FieldError};
use super::name;
use crate::discovery;

/// The gateways of one network.
type Group = Arc<[SocketAddr]>;

/// Reads a set of endpoints. The order stays that of the wire.
pub fn decode(wire: discovery::EndpointSet) -> Result<EndpointSet, FieldError> {
    let groups = field::list("gateways", wire.gateways, field::GATEWAY_GROUPS_MAX, decode_group)?;
    let endpoints = field::list("endpoints", wire.endpoints, field::ENDPOINTS_MAX, |endpoint| {
        decode_endpoint(endpoint, &groups).map(Arc::new)
    })?;
    Ok(EndpointSet {
        namespace: field::name("namespace", wire.namespace)?,
        service: field::name("service", wire.service)?,
        port: field::port("port", wire.port)?,
        subset: field::name_or_empty("subset", wire.subset)?,
        endpoints,
    })
}

/// Writes a set of endpoints.
pub fn encode(set: &EndpointSet) -> discovery::EndpointSet {
    let groups = groups(set);
    let endpoints = set.endpoints.iter().map(|endpoint| {
        let group = endpoint.gateways.as_ref().and_then(|group| place(&groups, group));
        // Places count from 1.
        encode_endpoint(endpoint, group.map_or(0, |place| place as u32 + 1))
    });
    discovery::EndpointSet {
        namespace: set.namespace.clone(),
        service: set.service.clone(),
        port: u32::from(set.port),
        subset: set.subset.clone(),
        endpoints: endpoints.collect(),
        gateways: groups.iter().map(|group| encode_group(group)).collect(),
    }
}

/// The groups that the endpoints of a set are behind, each once, as they come.
fn groups(set: &EndpointSet) -> Vec<&Group> {
    let mut groups = Vec::new();
    for group in set.endpoints.iter().filter_map(|endpoint| endpoint.gateways.as_ref()) {
        if place(&groups, group).is_none() {
            groups.push(group);
        }
    }
    groups
}

fn place(groups: &[&Group], group: &Group) -> Option<usize> {
    groups
        .iter()
        .position(|known| Arc::ptr_eq(known, group) || *known == group)
}

fn decode_group(wire: discovery::GatewayGroup) -> Result<Group, FieldError> {
    let addresses = field::list("addresses", wire.addresses, field::GATEWAYS_MAX, |address| {
        field::address(&address.ip, address.port)
    })?;
    if addresses.is_empty() {
        return Err(FieldError::new(
            "addresses",
            "is empty: a group has at least one gateway",
        ));
    }
    Ok(addresses.into())
}

fn encode_group(group: &[SocketAddr]) -> discovery::GatewayGroup {
    let address = |address: &SocketAddr| discovery::Address {
        ip: field::ip_bytes(address.ip()),
        port: u32::from(address.port()),
    };
    discovery::GatewayGroup {
        addresses: group.iter().map(address).collect(),
    }
}

/// Reads an endpoint, which may be behind one of `groups`. Only an empty identity means plaintext: one that cannot be read
/// refuses the endpoint, and so does one that is missing where there is a gateway.
pub(crate) fn decode_endpoint(wire: discovery::Endpoint, groups: &[Group]) -> Result<Endpoint, FieldError> {
    let address = field::address(&wire.ip, wire.port)?;
    let identity = match wire.identity.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error| FieldError::new("identity", format!("is none: {error}")))?,
        ),
    };
    let gateways = match wire.gateway {
        0 => None,
        place => Some(group(groups, place)?),
    };
    if gateways.is_some() && identity.is_none() {
        let reason = "is missing, and nothing goes through a gateway in plaintext";
        return Err(FieldError::new("identity", reason));
    }
    let source = field::required("source", wire.source)?;
    Ok(Endpoint {
        key: EndpointKey {
            id: EndpointId(wire.id),
            port: address.port(),
        },
        address,
        gateways,
        identity,
        namespace: field::name("namespace", wire.namespace)?,
        pod: field::name("pod", wire.pod)?,
        workload: field::word("workload", wire.workload)?,
        version: field::word("version", wire.version)?,
        place: Place {
            region: field::word("region", wire.region)?,
            zone: field::word("zone", wire.zone)?,
            cluster: field::word("cluster", wire.cluster)?,
        },
        draining: wire.draining,
        source: name::source_from_wire(source).map_err(|error| error.within("source"))?,
    })
}

/// The group at a place, from 1.
fn group(groups: &[Group], place: u32) -> Result<Group, FieldError> {
    let found = usize::try_from(place - 1).ok().and_then(|at| groups.get(at));
    found.cloned().ok_or_else(|| {
        let reason = format!("names group {place} of the set's gateways, which has {}", groups.len());
        FieldError::new("gateway", reason)
    })
}

/// Writes an endpoint. `gateway`: the place of its group, from 1. 0: it is behind none.
pub(crate) fn encode_endpoint(endpoint: &Endpoint, gateway: u32) -> discovery::Endpoint {
    discovery::Endpoint {
        id: endpoint.key.id.0,
        ip: field::ip_bytes(endpoint.address.ip()),
        port: u32::from(endpoint.address.port()),
        identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        namespace: endpoint.namespace.clone(),
        pod: endpoint.pod.clone(),
        workload: endpoint.workload.clone(),
        version: endpoint.version.clone(),
        region: endpoint.place.region.clone(),
        zone: endpoint.place.zone.clone(),
        cluster: endpoint.place.cluster.clone(),
        draining: endpoint.draining,
        source: Some(name::source_to_wire(&endpoint.source)),
        gateway,
    }
}
