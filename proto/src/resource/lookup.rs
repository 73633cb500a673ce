//! What is at an address: `weft.discovery.v1.Lookup`.

use std::sync::Arc;
use std::time::Duration;

use weft_model::destination::{Lookup, Protocol};
use weft_model::name::ServicePort;

use super::endpoints;
use super::field::{self, FieldError};
use crate::discovery;

/// Reads an answer. A time of 0 is for as long as subscribed: [`Duration::MAX`].
pub fn decode(wire: discovery::Lookup) -> Result<Lookup, FieldError> {
    use discovery::lookup::Result as Wire;
    let ttl = match wire.ttl_seconds {
        0 => Duration::MAX,
        seconds => Duration::from_secs(u64::from(seconds)),
    };
    Ok(match field::required("result", wire.result)? {
        Wire::Service(key) => Lookup::Service(field::key("service", key)?),
        Wire::Direct(direct) => {
            let endpoint = field::required("endpoint", direct.endpoint)
                .and_then(|wire| endpoints::decode_endpoint(wire, &[]).map_err(|error| error.within("endpoint")))
                .map_err(|error| error.within("direct"))?;
            let protocol = protocol(direct.protocol).map_err(|error| error.within("direct"))?;
            Lookup::Direct {
                endpoint: Arc::new(endpoint),
                protocol,
            }
        }
        Wire::Outside(_) => Lookup::Outside { ttl },
        Wire::NoSuchPort(wire) => {
            let service = match wire.service.is_empty() {
                true => None,
                false => Some(ServicePort {
                    namespace: field::name("namespace", wire.namespace)?,
                    name: field::name("service", wire.service)?,
                    port: field::port("port", wire.port)?,
                }),
            };
            let reason = field::words(wire.reason);
            Lookup::NoSuchPort { reason, service, ttl }
        }
    })
}

/// Writes an answer.
pub fn encode(lookup: &Lookup) -> discovery::Lookup {
    use discovery::lookup::Result as Wire;
    // Rounded up: 0 would mean for ever. What the wire cannot hold is for ever.
    let seconds = |ttl: &Duration| match u32::try_from(ttl.as_secs()) {
        Ok(seconds) => seconds.saturating_add(u32::from(ttl.subsec_nanos() > 0)).max(1),
        Err(_) => 0,
    };
    let (result, ttl_seconds) = match lookup {
        Lookup::Service(key) => (Wire::Service(key.clone()), 0),
        Lookup::Direct { endpoint, protocol } => {
            // A pod addressed directly is in our own network. One that is not is refused by whoever reads this: at its
            // address there is somebody else.
            let gateway = u32::from(endpoint.gateways.is_some());
            let endpoint = Some(endpoints::encode_endpoint(endpoint, gateway));
            let protocol = protocol_to_wire(*protocol) as i32;
            (Wire::Direct(discovery::Direct { endpoint, protocol }), 0)
        }
        Lookup::Outside { ttl } => (Wire::Outside(discovery::Outside {}), seconds(ttl)),
        Lookup::NoSuchPort { reason, service, ttl } => {
            let port = service.as_ref();
            let none = discovery::NoSuchPort {
                reason: field::words(reason.clone()),
                namespace: port.map(|port| port.namespace.clone()).unwrap_or_default(),
                service: port.map(|port| port.name.clone()).unwrap_or_default(),
                port: port.map(|port| port.port.into()).unwrap_or_default(),
            };
            (Wire::NoSuchPort(none), seconds(ttl))
        }
    };
    discovery::Lookup {
        result: Some(result),
        ttl_seconds,
    }
}

const PROTOCOLS: [Protocol; 6] = [
    Protocol::Undeclared,
    Protocol::Http,
    Protocol::Http2,
    Protocol::Grpc,
    Protocol::Opaque,
    Protocol::Tls,
];

/// Reads what is declared of a port. A value that is not known is refused: to guess could route wrongly.
pub(crate) fn protocol(wire: i32) -> Result<Protocol, FieldError> {
    PROTOCOLS
        .into_iter()
        .find(|known| protocol_to_wire(*known) as i32 == wire)
        .ok_or_else(|| FieldError::new("protocol", format!("is {wire}, which this proxy does not know")))
}

/// Writes what is declared of a port.
pub(crate) fn protocol_to_wire(protocol: Protocol) -> discovery::Protocol {
    match protocol {
        Protocol::Undeclared => discovery::Protocol::Undeclared,
        Protocol::Http => discovery::Protocol::Http,
        Protocol::Http2 => discovery::Protocol::Http2,
        Protocol::Grpc => discovery::Protocol::Grpc,
        Protocol::Opaque => discovery::Protocol::Opaque,
        Protocol::Tls => discovery::Protocol::Tls,
    }
}
