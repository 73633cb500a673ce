//! Speaks on a connection that was dialled.

use crate::http::limits::Limits;
use crate::http::server::ConnError;
use crate::io::Io;

/// A connection that a request can be forwarded to.
#[derive(Debug)]
pub enum Upstream {
    /// HTTP/1.1: one request at a time, driven by whoever forwards.
    H1(H1Client),
    /// HTTP/2: a clone per request; driven by [`H2Driver`].
    H2(H2Client),
}

/// An HTTP/1.1 connection, idle between exchanges. No task belongs to it.
#[derive(Debug)]
pub struct H1Client {
    io: Io,
}

/// An HTTP/2 connection; clones share it. When the last clone is gone and its streams have ended, it closes.
#[derive(Clone, Debug)]
pub struct H2Client {
    marker: (),
}

/// Moves the bytes of one HTTP/2 connection. Spawn [`H2Driver::run`] as a local task.
#[derive(Debug)]
pub struct H2Driver {
    marker: (),
}

/// Takes a connection for HTTP/1.1. Nothing is sent.
pub fn handshake_h1(io: Io, _limits: Limits) -> H1Client {
    H1Client { io }
}

/// Takes a connection for HTTP/2 and sends the preface.
pub async fn handshake_h2(_io: Io, _limits: Limits) -> Result<(H2Client, H2Driver), ConnError> {
    todo!()
}

impl H1Client {
    /// Whether it can take a request: kept alive by the last one, silent since, and not closed. Makes no system call unless
    /// the socket has become readable. A pool asks before it hands the connection out.
    pub fn is_quiet(&mut self) -> bool {
        self.io.is_quiet()
    }

    /// Whether it has carried a request before.
    pub fn is_reused(&self) -> bool {
        todo!()
    }
}

impl H2Client {
    /// Whether new streams may still be opened: no GOAWAY came, and the connection stands.
    pub fn is_open(&self) -> bool {
        todo!()
    }

    /// Streams that are open on it now.
    pub fn streams(&self) -> usize {
        todo!()
    }

    /// Whether another stream may be opened at once, without waiting for one to end.
    pub fn has_room(&self) -> bool {
        todo!()
    }
}

impl H2Driver {
    /// Runs until the connection ends. Not cancel safe: dropping it ends the connection.
    pub async fn run(self) -> Result<(), ConnError> {
        todo!()
    }
}
