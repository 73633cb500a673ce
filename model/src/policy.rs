//! Who may call what: the one place that allows.

use crate::identity::Identity;
use crate::inbound::{Inbound, Mode};
use crate::name::ObjectRef;
use crate::reason::Reason;

/// A policy of a workload. This version knows no rules, so each policy refuses the traffic that it covers: a newer control
/// plane's policy never turns into an allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The object that says it.
    pub object: ObjectRef,
    /// The features that it needs and this build lacks; may be empty.
    pub missing: Vec<String>,
    /// The ports that it covers. Empty: all.
    pub ports: Vec<u16>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody knows: plaintext, or TLS that is the app's own.
    Plaintext,
    /// A verified certificate.
    Verified(Identity),
}

/// A connection may go on to the app. There is no other way to make one than [`admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    caller: Caller,
}

impl Permit {
    /// Who was let in.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// Decides about a connection to a port of this workload. `own` is an identity of this workload's own trust domain.
pub fn admit(inbound: &Inbound, own: &Identity, port: u16, caller: Caller) -> Result<Permit, Reason> {
    match &caller {
        Caller::Plaintext if inbound.mode == Mode::Strict => return Err(Reason::PlaintextRefused),
        Caller::Plaintext => {}
        Caller::Verified(identity) if identity.trust_domain() == own.trust_domain() => {}
        Caller::Verified(identity) => {
            let exported = inbound
                .port(port)
                .is_some_and(|p| p.foreign.contains(identity.trust_domain()));
            if !exported {
                return Err(Reason::ForeignTrustDomain);
            }
        }
    }
    if inbound
        .policies
        .iter()
        .any(|policy| policy.ports.is_empty() || policy.ports.contains(&port))
    {
        return Err(Reason::PolicyUnsupported);
    }
    Ok(Permit { caller })
}

#[cfg(test)]
mod tests;
