//! Moves one request to an upstream, and its response back.

use crate::http::client::Upstream;
use crate::http::exchange::{Done, Exchange, ForwardError};

impl Exchange<'_> {
    /// Forwards the request and answers with the response, both as they come: the response may begin, and end, before the
    /// request's body has ended. Returns when both have ended, an upgraded connection included. After an error that is
    /// `replayable` the same exchange may be forwarded elsewhere; after one that is not `answered` it may be refused.
    /// Not cancel safe: dropping it cancels the request on both sides.
    pub async fn forward(&mut self, _upstream: &mut Upstream) -> Result<Done, ForwardError> {
        todo!()
    }
}
