//! How a try to forward ends: what came of it, for whoever waits and for whoever may try again.

use weft_model::reason::Reason;

use super::{Attempt, Stop, failure};
use crate::http::exchange::{Done, ForwardError};
use crate::http::message::{Broken, Message};
use crate::http::refuse;
use crate::terms::Cause;

impl Attempt<'_, '_, '_> {
    /// What came of it, and whether the upstream connection can take another request.
    pub(super) fn conclude(mut self, result: Result<(), Stop>) -> (Result<Done, ForwardError>, bool) {
        let response_bytes = self.response.as_ref().map_or(0, |response| response.bytes);
        let request_bytes = self.request.bytes;
        let mut reusable = false;
        let error = match result {
            Ok(()) => {
                let sent = self.request.is_done() && self.cut.is_none();
                reusable = sent && !self.tunnel && self.up.may_go_on();
                let trailers = self.response.as_ref().and_then(|response| response.grpc_status);
                let done = Done {
                    status: self.status,
                    grpc_status: self.grpc_status.or(trailers),
                    request_bytes,
                    response_bytes,
                    upgraded: self.tunnel,
                    reusable,
                };
                return (Ok(done), reusable);
            }
            Err(Stop::Down(broken)) => self.client_failed(broken),
            Err(Stop::Up(broken)) => {
                let reason = match &broken {
                    Broken::Refused(_) => Reason::UpstreamProtocol,
                    _ => Reason::UpstreamClosed,
                };
                self.upstream_failed(reason, broken)
            }
            Err(Stop::Void) => {
                // It is not the other side that closed it.
                self.reused = false;
                self.upstream_failed(Reason::TlsFailed, Broken::Ended)
            }
            Err(Stop::Unsent(reason)) => {
                if let Message::H2(up) = &mut self.up {
                    up.cancel(::h2::Reason::CANCEL);
                }
                failure(reason, true, false, None)
            }
            Err(Stop::Late(reason)) => self.late(reason),
            Err(Stop::Again(cause)) => {
                reusable = self.request.is_done() && self.up.may_go_on();
                self.again(cause)
            }
        };
        let status = (self.status != 0).then_some(self.status);
        (
            Err(ForwardError {
                status,
                request_bytes,
                response_bytes,
                ..error
            }),
            reusable,
        )
    }

    /// Takes down how long there was no response, where that was the upstream's doing.
    pub(super) fn note_silence(&mut self, result: &Result<(), Stop>) {
        let owed = matches!(result, Err(Stop::Late(_))) || self.request.is_done() || self.up.is_blocked();
        if self.exchange.answered_after.is_none() && owed {
            self.exchange.answered_after = Some(self.exchange.started.elapsed());
        }
    }

    /// What came of it is not passed on: another try was granted.
    fn again(&mut self, cause: Cause) -> ForwardError {
        let reason = match cause {
            Cause::Failed(reason) => reason,
            // What is said where there is no endpoint left to try.
            Cause::Http(_) | Cause::Grpc(_) => Reason::NoEndpoints,
        };
        ForwardError {
            granted: true,
            grpc_status: self.grpc_status,
            ..failure(reason, false, false, None)
        }
    }

    fn client_failed(&mut self, broken: Broken) -> ForwardError {
        let reset = match &self.exchange.side {
            Message::H2(stream) => stream.reset_by_peer(),
            Message::H1(_) => None,
        };
        if let Message::H2(up) = &mut self.up {
            up.cancel(reset.unwrap_or(::h2::Reason::CANCEL));
        }
        let answered = self.exchange.answered;
        if let (Broken::Refused(reason), false) = (&broken, answered) {
            return failure(*reason, false, false, broken.into_io());
        }
        self.exchange.answered = true;
        self.exchange.side.abort(::h2::Reason::CANCEL);
        failure(Reason::ClientClosed, false, true, broken.into_io())
    }

    fn upstream_failed(&mut self, reason: Reason, broken: Broken) -> ForwardError {
        let by_app = self.up.reset_by_app();
        if let Message::H2(up) = &mut self.up {
            up.cancel(::h2::Reason::CANCEL);
        }
        if !self.exchange.answered {
            let replayable = self.is_replayable(&broken);
            if !replayable && self.may_try_again(Cause::Failed(reason)) {
                return ForwardError {
                    source: broken.into_io(),
                    ..self.again(Cause::Failed(reason))
                };
            }
            if let (false, Some(code), Message::H2(down)) = (replayable, by_app, &mut self.exchange.side) {
                // The app's own word, which its client understands better than ours.
                down.cancel(code);
                self.exchange.answered = true;
            }
            return failure(reason, replayable, self.exchange.answered, broken.into_io());
        }
        match by_app {
            Some(code) => self.exchange.side.abort(code),
            None => self.cut(reason, ::h2::Reason::INTERNAL_ERROR),
        }
        failure(reason, false, true, broken.into_io())
    }

    /// The time is over: the app need not go on, and the client learns that there is nothing, or no more, to wait for.
    fn late(&mut self, reason: Reason) -> ForwardError {
        if let Message::H2(up) = &mut self.up {
            up.cancel(::h2::Reason::CANCEL);
        }
        if self.exchange.answered {
            self.cut(reason, ::h2::Reason::CANCEL);
            return failure(reason, false, true, None);
        }
        let cause = Cause::Failed(reason);
        // At the end of all tries there is no other.
        if reason == Reason::BackendDeadline && self.may_try_again(cause) {
            return self.again(cause);
        }
        failure(reason, false, false, None)
    }

    /// Ends a response that has begun, so that the client sees that it is not whole; one of gRPC in its own words.
    fn cut(&mut self, reason: Reason, code: ::h2::Reason) {
        let grpc = self.exchange.head.is_grpc();
        let told = match &mut self.exchange.side {
            Message::H2(down) if grpc => down.finish(Some(refuse::grpc_trailers(reason))).is_ok(),
            _ => false,
        };
        if !told {
            self.exchange.side.abort(code);
        }
    }

    /// Whether the request may be sent once more: it did not reach the app, or the app cannot tell.
    fn is_replayable(&self, broken: &Broken) -> bool {
        // Once its response has begun, the request has reached the app.
        if !self.exchange.replay.is_whole() || self.interims > 0 || self.has_been_held {
            return false;
        }
        match (&self.up, broken) {
            (_, Broken::Refused(_)) => false,
            (Message::H1(up), _) => {
                let nothing_sent = up.written() == self.written_before;
                // An idle connection that the other side closes as we send: it has not read the request, as a rule, and
                // where it has, the method allows it to be sent twice (RFC 9110 section 9.2.2).
                let raced = self.reused
                    && !up.has_input()
                    && self.exchange.head.method.is_idempotent()
                    && !matches!(broken, Broken::Io(error) if is_our_stall(error));
                nothing_sent || raced
            }
            (Message::H2(_), Broken::H2(error)) => {
                // GOAWAY reaches only the streams above the last one that the peer has worked on (RFC 9113 section 6.8).
                error.is_remote() && (error.is_go_away() || error.reason() == Some(::h2::Reason::REFUSED_STREAM))
            }
            (Message::H2(_), _) => false,
        }
    }
}

/// Whether our own patience ended, with a peer that is there. The kernel's time-out says that the peer has vanished.
fn is_our_stall(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}
