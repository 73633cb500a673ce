//! What a pod accepts.

use crate::destination::Protocol;
use crate::endpoint::Place;
use crate::identity::TrustDomain;
use crate::policy::Policy;

/// A pod's inbound configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Whether plaintext is accepted. Covers undeclared ports too.
    pub mode: Mode,
    /// The declared ports.
    pub ports: Vec<InboundPort>,
    /// The policies that select this workload. Empty: none (not: unknown).
    pub policies: Vec<Policy>,
    /// Who this pod is, for telemetry.
    pub workload: Workload,
}

/// Whether a pod accepts plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plaintext is accepted; mutual TLS of the mesh is verified all the same.
    Permissive,
    /// Only mutual TLS of the mesh is accepted.
    Strict,
}

/// A declared port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// The pod's port.
    pub port: u16,
    /// What is declared of it.
    pub protocol: Protocol,
    /// Trust domains whose certificates may be admitted here, because the port is exported to them.
    pub foreign: Vec<TrustDomain>,
    /// The Services that lead here, for telemetry.
    pub services: Vec<String>,
}

/// Who a pod is, in telemetry's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The namespace.
    pub namespace: String,
    /// The owner's name: the Deployment's, say.
    pub name: String,
    /// The version label's value, or empty.
    pub version: String,
    /// The service account.
    pub service_account: String,
    /// Where it runs.
    pub place: Place,
}

impl Inbound {
    /// The declaration of a port, if there is one.
    pub fn port(&self, port: u16) -> Option<&InboundPort> {
        self.ports.iter().find(|declared| declared.port == port)
    }
}
