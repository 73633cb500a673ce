//! The data plane: one process beside each pod, through which all of the pod's TCP traffic goes.
//!
//! A connection walks through the rooms in the order in which they are listed here; [`inbound`] and [`outbound`] tell the two
//! stories on a page each.
//!
//! ```text
//! inbound   accept → origin → mtls (who calls) → admit → detect ─┬→ answer → forward/tcp → the app
//!                                                                └→ http: admit each request → pool → forward → the app
//! outbound  accept → origin → discover → detect ─┬→ balance → connect (mtls) → answer → forward/tcp → peer
//!                                                └→ http: route → terms → balance → pool or connect (mtls) → forward → peer
//! gateway   accept → mtls (the ClientHello) → table → connect → forward/tcp → the peer's inbound side, in another network
//!           observe counts and traces all of it; identity feeds mtls; discover feeds admit, route and balance
//! ```
//!
//! A worker thread owns its listeners, connections, pools and counters, and shares nothing with the others but the published
//! state. One more thread ("back") runs discovery, identity, admin and the export of traces.

// What rooms hand to each other, and what they are set to.
pub mod config;
pub mod io;

// In.
pub mod accept;
pub mod origin;

// What is there.
pub mod discover;

// What it speaks, and who it is.
pub mod detect;
pub mod identity;
pub mod mtls;
pub mod tls;
pub mod trust;

// May it, and where to.
pub mod admit;
pub mod balance;
pub mod refuse;
pub mod route;
pub mod terms;

// Out, and whether it arrived.
pub mod answer;
pub mod connect;
pub mod forward;
pub mod http;
pub mod pool;

// What is told of it.
pub mod observe;
pub mod outcome;

// The two stories, the gateway's own, and who tells them.
pub mod gateway;
pub mod inbound;
pub mod outbound;
pub mod serve;
pub mod worker;

// Beside them.
pub mod admin;
pub mod probe;
pub mod snapshot;

// All joined.
mod app;
pub use app::main;

#[cfg(test)]
mod journeys;
