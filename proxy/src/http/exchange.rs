//! One request and its response, seen from the side that asks.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use weft_model::reason::Reason;

use crate::http::head::RequestHead;

/// One request, and the way to answer it. Handed to [`RequestService::handle`](crate::http::server::RequestService::handle),
/// which answers it by [`Exchange::forward`] or [`Exchange::refuse`]; what it leaves unanswered is answered with
/// [`Reason::Internal`].
#[derive(Debug)]
pub struct Exchange<'a> {
    head: RequestHead,
    started: Instant,
    marker: std::marker::PhantomData<&'a mut ()>,
}

/// How an exchange went that was forwarded to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The response's status.
    pub status: u16,
    /// What `grpc-status` said, in trailers or in a trailers-only response. `None`: not gRPC, or it said nothing.
    pub grpc_status: Option<u16>,
    /// Bytes of the request's body (after an upgrade: all bytes towards the upstream).
    pub request_bytes: u64,
    /// Bytes of the response's body (after an upgrade: all bytes from the upstream).
    pub response_bytes: u64,
    /// The connection became a tunnel (101, or CONNECT).
    pub upgraded: bool,
    /// The upstream connection can take another request.
    pub reusable: bool,
    /// From the request's head to the response's.
    pub first_byte: Duration,
}

/// Why an exchange did not reach its end.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ForwardError {
    /// In the mesh's words. [`Reason::ClientClosed`]: nobody waits for an answer.
    pub reason: Reason,
    /// Not a byte of the request reached the app (or repeating is harmless), and nothing was answered yet: the same exchange
    /// may be forwarded to another endpoint.
    pub replayable: bool,
    /// The response had begun: [`Exchange::refuse`] cannot be heard any more, and the client sees a broken response.
    pub answered: bool,
    /// What happened beneath, for the log.
    #[source]
    pub source: Option<std::io::Error>,
}

impl Exchange<'_> {
    /// The request's head. Hop-by-hop headers and those reserved to the mesh are gone already.
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The request's headers, to add to or to take from before it is forwarded.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// Whether the request has no body.
    pub fn body_is_empty(&self) -> bool {
        todo!()
    }

    /// When the request's head was there.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether a response has begun.
    pub fn answered(&self) -> bool {
        todo!()
    }

    /// Answers with a response of Weft's own: the reason's HTTP status, or for gRPC a trailers-only response; both with
    /// `proxy-status` (RFC 9209). Does nothing where a response has begun. Not cancel safe: the connection is then closed.
    pub async fn refuse(&mut self, _reason: Reason) {
        todo!()
    }
}
