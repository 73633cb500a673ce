//! What an app dialled, and what is there.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::locality::Locality;
use crate::name::ServicePort;
use crate::route::{RetryBudget, Rules};
use crate::stream::Streams;
use crate::traffic::{Balance, Traffic};

/// What an app dialled. Printed as the key of its resource on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The original destination of a connection.
    Address(SocketAddr),
    /// A host name: lower case, no trailing dot.
    Host {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A port of a Service: the key of its resource.
    Service(String),
    /// A pod addressed directly.
    Direct {
        /// The pod's port.
        endpoint: Arc<Endpoint>,
        /// What is declared of the port.
        protocol: Protocol,
    },
    /// Positively nothing of the mesh: plaintext to the address as dialled. Good for so long.
    Outside {
        /// How long the answer may be used.
        ttl: Duration,
    },
    /// Something of the mesh, but not this port.
    NoSuchPort {
        /// For people.
        reason: String,
        /// The Service that was called, if it is one. For what is counted, not for what is decided.
        service: Option<ServicePort>,
        /// How long the answer may be used.
        ttl: Duration,
    },
}

/// What is declared of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nothing: look at the bytes.
    #[default]
    Undeclared,
    /// HTTP/1.1 or HTTP/2, by the preface.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Any bytes.
    Opaque,
    /// The app's own TLS: opaque, but routable by SNI.
    Tls,
}

/// One port of a Service, as one client sees it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub port: ServicePort,
    /// What is declared of it.
    pub protocol: Protocol,
    /// `None`: no route is attached, everything goes to `endpoints`. `Some`: what no rule matches is refused.
    pub rules: Option<Rules>,
    /// The same for opaque streams.
    pub streams: Option<Streams>,
    /// The key of the endpoint set that serves where no route is attached.
    pub endpoints: String,
    /// Which places are preferred.
    pub locality: Locality,
    /// How an endpoint is chosen within a place.
    pub balance: Balance,
    /// How much retries may add to its load, whichever route allows them.
    pub retry_budget: RetryBudget,
}

impl Service {
    /// How traffic to it is spread.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            locality: self.locality.clone(),
            balance: self.balance,
            retry_budget: self.retry_budget,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host { host, port } => write!(f, "name:{host}:{port}"),
        }
    }
}

/// Why a string is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither ADDRESS:PORT, [ADDRESS]:PORT nor name:HOST:PORT")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    /// Reads what [`Target`] prints.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || TargetError(s.to_owned());
        let Some(name) = s.strip_prefix("name:") else {
            return s.parse().map(Self::Address).map_err(|_| error());
        };
        let (host, port) = name.rsplit_once(':').ok_or_else(error)?;
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || host.len() > 253 || host.ends_with('.') || !host.bytes().all(valid) {
            return Err(error());
        }
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self::Host {
                host: host.to_owned(),
                port,
            }),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_it_is_printed() {
        for text in ["10.96.0.7:80", "[fd00::7]:80", "name:reviews.shop.svc.cluster.local:80"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "reviews:80",
            "10.96.0.7",
            "name:",
            "name::80",
            "name:a",
            "name:a.:80",
            "name:A:80",
            "name:a:0",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
