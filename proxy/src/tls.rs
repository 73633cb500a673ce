//! TLS 1.3 on a socket, with a record layer of our own.
//!
//! In: a socket and a configuration. Out: a [`TlsStream`]. The handshake is rustls's, and so are the verifiers and the key
//! schedule; once it is done, records are sealed and opened here, in place, in one buffer of the thread. Thus a byte of a
//! stream is copied by nobody but the kernel, a read takes what is there instead of 4 KiB, and an idle connection keeps no
//! buffer.

mod handshake;
mod record;
mod stream;

pub use handshake::{Shaken, accept, connect};
pub use record::TlsError;
pub use stream::{RECORDS, Records, Side, TlsStream};

#[cfg(test)]
mod tests;
