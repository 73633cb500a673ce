//! Whether another try is made after a response, instead of passing it on.
//!
//! In: a response's head, and where it may depend on them, its trailers. Out: the head, to be passed on; or that what has come
//! is dropped, because the request's rule has another try made.

use std::task::{Context, Poll, ready};

use super::{Attempt, Stop};
use crate::http::head::ResponseHead;
use crate::http::limits::LINGER_BYTES;
use crate::http::message::{Broken, Message, grpc_status};
use crate::terms::{Cause, Terms};

impl Attempt<'_, '_, '_> {
    /// The response's head: one that was held back, once it may begin. That is when it is known whether a message comes; or
    /// when the client may be waiting for the head, because it has more to say or has waited for long.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Broken>> {
        let Some(terms) = self.exchange.terms.as_deref_mut().filter(|terms| terms.held.is_some()) else {
            return self.up.poll_response(cx, &self.exchange.head);
        };
        if self.up.poll_data(cx)?.is_pending() && self.request.is_done() && self.exchange.replay.is_whole() {
            ready!(terms.poll_held(cx));
        }
        match terms.held.take() {
            Some((head, _)) => Poll::Ready(Ok(head)),
            None => Poll::Pending,
        }
    }

    /// Whether a response is passed on now. `None`: it is held back, until it is known whether a message comes.
    pub(super) fn consider(&mut self, cx: &mut Context<'_>, head: ResponseHead) -> Result<Option<ResponseHead>, Stop> {
        let Some(terms) = self.exchange.terms.as_deref().filter(|terms| terms.may_try_again()) else {
            return Ok(Some(head));
        };
        let held = self.has_been_held;
        let wanted = match (held, terms.wants(&head, self.peer)) {
            // There is nothing left of it but its trailers.
            (true, _) if self.up.has_read_all() || self.up.trailers().is_some() => {
                self.up.trailers().and_then(|trailers| terms.wants_after(trailers))
            }
            (true, _) => None,
            (false, wanted) => wanted,
        };
        if wanted.is_none() && !held && !head.status.is_informational() && terms.holds(&head) {
            self.has_been_held = true;
            if let Some(terms) = &mut self.exchange.terms {
                terms.hold(head);
            }
            return Ok(None);
        }
        match wanted {
            Some(cause) if self.may_try_again(cause) => {
                self.exchange.answered_after = Some(self.exchange.started.elapsed());
                self.status = head.status.as_u16();
                self.grpc_status = match cause {
                    Cause::Grpc(status) => Some(status),
                    _ => grpc_status(&head.headers),
                };
                self.skip_response(cx);
                Err(Stop::Again(cause))
            }
            _ => Ok(Some(head)),
        }
    }

    /// Asks for another try: it is counted where the answer is yes.
    pub(super) fn may_try_again(&mut self, cause: Cause) -> bool {
        let whole = self.interims == 0 && self.exchange.replay.is_whole();
        whole && self.exchange.terms().is_some_and(|terms| Terms::again(terms, cause))
    }

    /// Takes what has already come of a response that nobody wants: often all of it, and then its connection can go on.
    fn skip_response(&mut self, cx: &mut Context<'_>) {
        let mut left = LINGER_BYTES as usize;
        while let (Poll::Ready(Ok(Some(n))), 1..) = (self.up.poll_data(cx), left) {
            self.up.consume(n);
            left = left.saturating_sub(n);
        }
        let over = self.up.has_read_all() && self.request.is_done();
        if let (false, Message::H2(up)) = (over, &mut self.up) {
            up.cancel(::h2::Reason::CANCEL);
        }
    }
}
