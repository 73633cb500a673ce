//! Endpoints and sets of them: `weft.discovery.v1.EndpointSet`.

use std::sync::Arc;

use weft_model::endpoint::{Endpoint, EndpointId, EndpointKey, EndpointSet, Place};

use super::field::{self, FieldError};
use super::name;
use crate::discovery;

/// Reads a set of endpoints. The order stays that of the wire.
pub fn decode(wire: discovery::EndpointSet) -> Result<EndpointSet, FieldError> {
    let endpoints = field::list("endpoints", wire.endpoints, field::ENDPOINTS_MAX, |endpoint| {
        decode_endpoint(endpoint).map(Arc::new)
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
    discovery::EndpointSet {
        namespace: set.namespace.clone(),
        service: set.service.clone(),
        port: u32::from(set.port),
        subset: set.subset.clone(),
        endpoints: set.endpoints.iter().map(|endpoint| encode_endpoint(endpoint)).collect(),
    }
}

/// Reads an endpoint. Only an empty identity means plaintext: one that cannot be read refuses the endpoint.
pub fn decode_endpoint(wire: discovery::Endpoint) -> Result<Endpoint, FieldError> {
    let address = field::address(&wire.ip, wire.port)?;
    let identity = match wire.identity.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error| FieldError::new("identity", format!("is none: {error}")))?,
        ),
    };
    let source = field::required("source", wire.source)?;
    Ok(Endpoint {
        key: EndpointKey {
            id: EndpointId(wire.id),
            port: address.port(),
        },
        address,
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

/// Writes an endpoint.
pub fn encode_endpoint(endpoint: &Endpoint) -> discovery::Endpoint {
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
    }
}
