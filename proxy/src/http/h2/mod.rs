//! HTTP/2 (RFC 9113): the `h2` crate within our limits.
//!
//! In: streams that `h2` has accepted or opened. Out: heads and pieces of bodies by polling, as [`crate::http::h1`] gives
//! them.

pub(crate) mod convert;
pub(crate) mod guard;
pub(crate) mod serve;
pub(crate) mod stream;

pub(crate) use stream::Stream;
