//! Admit: may this caller speak to this port.
//!
//! In: who calls (verified, or nobody knows), the port, and the tables of the moment. Out: a permit, or why not. The decision
//! is `weft_model::policy::admit`, always; what is missing here refuses.

use weft_model::policy::{Caller, Permit, admit as decide};
use weft_model::reason::Reason;

use crate::route::Tables;

/// Decides about a connection, or about one more request on it after the configuration changed.
pub fn admit(tables: &Tables, port: u16, caller: Caller) -> Result<Permit, Reason> {
    let inbound = tables.inbound().ok_or(Reason::DiscoveryTimeout)?;
    let credential = tables.state.credential.as_ref().ok_or(Reason::NoCertificate)?;
    decide(inbound, credential.identity(), port, caller)
}
