//! The mesh's networks and defaults: `weft.discovery.v1.Mesh`.

use std::time::Duration;

use ipnet::IpNet;
use weft_model::identity::TrustDomain;
use weft_model::network::Networks;

use super::field::{self, FieldError};
use crate::discovery;

/// How long a connection waits for discovery, where the control plane does not say.
pub const DISCOVERY_WAIT: Duration = Duration::from_secs(5);
/// The longest wait for discovery.
const DISCOVERY_WAIT_MAX: u32 = 60_000;

/// The mesh's networks and defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// The cluster's name.
    pub cluster: String,
    /// What is inside beside the built-in ranges.
    pub inside: Vec<IpNet>,
    /// What is outside, whatever else contains it.
    pub outside: Vec<IpNet>,
    /// How long a connection to an unknown destination waits.
    pub discovery_wait: Duration,
}

impl Mesh {
    /// What counts as inside.
    pub fn networks(&self) -> Networks {
        Networks::new(self.inside.iter().copied(), self.outside.iter().copied())
    }
}

/// Reads the mesh's networks and defaults.
pub fn decode(wire: discovery::Mesh) -> Result<Mesh, FieldError> {
    let trust_domain = TrustDomain::new(&wire.trust_domain)
        .map_err(|error| FieldError::new("trust_domain", format!("is none: {error}")))?;
    let discovery_wait = match wire.discovery_wait_ms {
        0 => DISCOVERY_WAIT,
        1..=DISCOVERY_WAIT_MAX => Duration::from_millis(u64::from(wire.discovery_wait_ms)),
        more => {
            let reason = format!("must be at most {DISCOVERY_WAIT_MAX}, and is {more}");
            return Err(FieldError::new("discovery_wait_ms", reason));
        }
    };
    Ok(Mesh {
        trust_domain,
        cluster: field::word("cluster", wire.cluster)?,
        inside: field::list("networks", wire.networks, field::NETWORKS_MAX, network)?,
        outside: field::list("outside", wire.outside, field::NETWORKS_MAX, network)?,
        discovery_wait,
    })
}

/// Writes the mesh's networks and defaults.
pub fn encode(mesh: &Mesh) -> discovery::Mesh {
    let networks = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect();
    let wait = u32::try_from(mesh.discovery_wait.as_millis()).unwrap_or(DISCOVERY_WAIT_MAX);
    discovery::Mesh {
        trust_domain: mesh.trust_domain.to_string(),
        cluster: mesh.cluster.clone(),
        networks: networks(&mesh.inside),
        outside: networks(&mesh.outside),
        // 0 would mean the default.
        discovery_wait_ms: wait.clamp(1, DISCOVERY_WAIT_MAX),
    }
}

/// A network, or a single address.
pub(crate) fn network(text: String) -> Result<IpNet, FieldError> {
    let address = || text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| FieldError::new("", format!("must be a network like 10.0.0.0/8, and is {text:?}")))
}
