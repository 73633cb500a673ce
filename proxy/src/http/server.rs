//! Serves a connection that was accepted.

use std::rc::Rc;

use http::uri::Authority;
use weft_model::reason::Reason;

use crate::http::closing::Closing;
use crate::http::exchange::Exchange;
use crate::http::limits::Limits;
use crate::http::{HttpVersion, Origin};
use crate::io::Io;

/// Answers the requests of one connection. Statically dispatched; one per connection, so it may hold who called.
pub trait RequestService {
    /// Answers one request. On HTTP/1.1 requests come one after another; on HTTP/2 many at once. Dropped where it stands
    /// when the client goes away and the exchange is not being forwarded.
    fn handle(&self, exchange: &mut Exchange<'_>) -> impl Future<Output = ()>;

    /// A request was refused before it became an exchange. For counting.
    fn refused(&self, _reason: Reason) {}
}

/// What a connection is served with.
#[derive(Clone, Debug)]
pub struct ServeContext {
    /// Times.
    pub limits: Limits,
    /// When to end.
    pub closing: Closing,
    /// How much of what it says is believed.
    pub origin: Origin,
    /// The authority of HTTP/1.0 requests that name none: the original destination.
    pub authority: Option<Authority>,
}

/// Why a connection ended other than by agreement.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// What was sent is not acceptable; it was answered with this where it could be.
    #[error("refused: {0}")]
    Refused(Reason),
    /// HTTP/2 ended it.
    #[error("HTTP/2 failed")]
    H2(#[from] ::h2::Error),
}

/// Serves one connection to its end: HTTP/1.1 in this very task, HTTP/2 with one local task per stream (so it runs within
/// a `LocalSet`). Honours [`ServeContext::closing`]. Not cancel safe: dropping it ends the connection.
pub async fn serve<S: RequestService + 'static>(
    _io: Io,
    _version: HttpVersion,
    _service: Rc<S>,
    _context: ServeContext,
) -> Result<(), ConnError> {
    todo!()
}
