//! HTTP/1.1 (RFC 9112), and 1.0 where it is met.
//!
//! In: bytes of a connection. Out: heads and pieces of bodies; and back. What frames a message is read strictly, never
//! copied, and written anew.

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod parse;
pub(crate) mod write;

pub(crate) use connection::Connection;
