//! HTTP: bytes in, exchanges out; and exchanges in, bytes out.
//!
//! | file | what it is |
//! |---|---|
//! | [`limits`] | every limit, with the numbers that hold when nobody sets others |
//! | [`head`] | what a request or a response says before its body |
//! | [`headers`] | which headers end at a hop, which are ours alone, and who the caller is |
//! | `h1` | HTTP/1.1: strict parsing, framing generated anew (RFC 9112) |
//! | `h2` | HTTP/2: the `h2` crate within our limits (RFC 9113) |
//! | `message` | one side of an exchange, whichever the version: pieces of a body in, pieces out |
//! | `upgrade` | tunnels between the two versions |
//! | `refuse` | responses that Weft makes itself |
//! | [`exchange`] | one request and its response, seen from the side that asks |
//! | [`server`] | serves a connection that was accepted |
//! | [`client`] | speaks on a connection that was dialled |
//! | `spare` | memory that requests hand on to each other |
//! | `timer` | one coarse timer per connection |
//! | [`closing`] | tells connections that this process is ending |
//!
//! What moves an exchange to the other side is the next room, [`crate::forward`].

// Peers choose the bytes here: nothing may depend on where they end.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used)
)]

pub mod limits;

pub mod head;
pub mod headers;

pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod message;
pub(crate) mod refuse;
pub(crate) mod spare;
pub(crate) mod timer;
pub(crate) mod upgrade;

pub mod client;
pub mod closing;
pub mod exchange;
pub mod server;

/// The protocol of a connection, not of a message: an HTTP/1.0 request is `H1` as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1 and 1.0.
    H1,
    /// HTTP/2.
    H2,
}

/// Where a connection comes from: how much of what it says is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An app of this pod, or a stranger: what is reserved to the mesh is stripped.
    Outside,
    /// A peer's proxy, with a verified identity: internal headers (`x-weft-*`) are there to be read, and go no further than to
    /// another verified peer.
    Mesh,
}
