//! Moves one request to an upstream, and its response back.
//!
//! One future drives both directions by polling, in the task of whoever asked: an idle HTTP/1.1 upstream has no task of its own
//! that would have to be woken. Order within a poll: the request first, so that head and small body leave in one write; then
//! the response; then whether the client is still there.

mod again;
mod ending;

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;
use weft_model::reason::Reason;

use crate::http::client::Upstream;
use crate::http::exchange::{Done, Exchange, ForwardError};
use crate::http::h2::{Stream, convert};
use crate::http::head::{Length, ResponseHead};
use crate::http::headers;
use crate::http::limits::INTERIM_RESPONSES;
use crate::http::message::{Broken, Fault, Message, Replay, Transfer, grpc_status};
use crate::http::timer::Timer;
use crate::http::upgrade;
use crate::terms::Cause;

/// How soon after its request a client that has said all ends its direction.
const HALF_CLOSE: Duration = Duration::from_secs(1);
/// How long it may take nothing then.
const HALF_CLOSED: Duration = Duration::from_secs(3600);

impl Exchange<'_> {
    /// Forwards the request and answers with the response, both as they come: the response may begin, and end, before the
    /// request's body has ended. Returns when both have ended, an upgraded connection included. After an error that is
    /// `replayable` the same exchange may be forwarded elsewhere; after one that is not `answered` it may be refused.
    /// Not cancel safe: dropping it cancels the request on both sides.
    pub async fn forward(&mut self, upstream: &mut Upstream) -> Result<Done, ForwardError> {
        if self.answered || !self.replay.is_whole() {
            return Err(failure(Reason::Internal, false, self.answered, None));
        }
        self.answered_after = None;
        let reused = matches!(upstream, Upstream::H1(client) if client.uses > 0);
        let idempotent = self.head.method.is_idempotent();
        let peer = upstream.is_to_peer();
        if !peer {
            headers::strip_internal(&mut self.head.headers);
        }
        let tries_again = self.terms.as_ref().is_some_and(|terms| terms.may_try_again());
        self.replay
            .begin(peer || tries_again || matches!(upstream, Upstream::H2(_)) || (reused && idempotent));
        if let Some(terms) = &mut self.terms {
            // Whatever another try has brought is not this one's.
            terms.held = None;
            terms.tell(&mut self.head.headers);
        }
        let _open = match upstream {
            Upstream::H2(client) => Some(client.count()),
            Upstream::H1(_) => None,
        };
        let mut proof = match upstream {
            Upstream::H1(client) => client.proof.take(),
            // The driver of the connection looks at it.
            Upstream::H2(_) => None,
        };
        let up = self.send_head(upstream)?;
        let mut attempt = Attempt {
            peer,
            ..Attempt::new(self, up, reused)
        };
        let result = poll_fn(|cx| {
            let Some(proof) = &mut proof else {
                return attempt.poll(cx);
            };
            // First: what comes from somebody who is not trusted any more must not get to the client.
            if proof.is_void() {
                return Poll::Ready(Err(Stop::Void));
            }
            let polled = attempt.poll(cx);
            if polled.is_pending() {
                // It is good, as was just seen: this only has the task woken.
                let _ = proof.poll_void(cx);
            }
            polled
        })
        .await;
        attempt.note_silence(&result);
        let (result, reusable) = attempt.conclude(result);
        self.moved = match &result {
            Ok(done) => (done.request_bytes, done.response_bytes),
            Err(error) => (error.request_bytes, error.response_bytes),
        };
        if let Upstream::H1(client) = upstream {
            client.sound = reusable;
            if let Some(proof) = &mut proof {
                proof.rest();
            }
            client.proof = proof;
        }
        result
    }

    /// Queues the request's head. An error means that nothing was sent.
    fn send_head<'u>(&mut self, upstream: &'u mut Upstream) -> Result<Message<'u>, ForwardError> {
        let fallback = self.context.authority.as_ref();
        match upstream {
            Upstream::H1(client) => {
                if client.uses > 0 && !client.is_quiet() {
                    return Err(failure(Reason::UpstreamClosed, true, false, None));
                }
                client.uses += 1;
                // Whoever drops the exchange in the middle leaves a connection that nobody may use again.
                client.sound = false;
                upgrade::ask_by_http1(&mut self.head);
                client.connection.send_request(&self.head, fallback);
                Ok(Message::H1(&mut client.connection))
            }
            Upstream::H2(client) => {
                let upgrades = client.sender.is_extended_connect_protocol_enabled();
                if self.head.upgrade.is_some() && !upgrades {
                    return Err(failure(Reason::Internal, false, false, None));
                }
                let ends = self.head.length == Length::Empty && !self.head.is_tunnel();
                let request =
                    convert::to_request(&self.head, fallback).map_err(|reason| failure(reason, false, false, None))?;
                let opened = Stream::open(&mut client.sender, request, ends);
                let stream =
                    opened.map_err(|e| failure(Reason::UpstreamClosed, true, false, Broken::H2(e).into_io()))?;
                Ok(Message::H2(stream))
            }
        }
    }
}

fn failure(reason: Reason, replayable: bool, answered: bool, source: Option<std::io::Error>) -> ForwardError {
    ForwardError {
        reason,
        replayable,
        answered,
        status: None,
        grpc_status: None,
        granted: false,
        request_bytes: 0,
        response_bytes: 0,
        source,
    }
}

/// One try to forward.
struct Attempt<'e, 'a, 'u> {
    exchange: &'e mut Exchange<'a>,
    up: Message<'u>,
    /// The upstream connection has carried a request before.
    reused: bool,
    /// The response was held back, and is no more.
    has_been_held: bool,
    /// The upstream is a peer's proxy: what it says of the request's fate is believed.
    peer: bool,
    /// What the upstream's transport had taken before this request.
    written_before: u64,
    request: Transfer,
    /// The upstream takes no more of the request. It may have answered all the same.
    cut: Option<Broken>,
    /// Once the response has begun.
    response: Option<Transfer>,
    /// It ended too early, and what came of it is not handed over yet.
    broken: Option<Broken>,
    /// The client's connection has had its turn since.
    left_to_driver: bool,
    no_replay: Replay,
    interims: u32,
    tunnel: bool,
    /// The client has ended its direction, and waits for the response.
    half_closed: bool,
    status: u16,
    grpc_status: Option<u16>,
    stall: Stall,
    /// The client's: with its body, and once it has ended its direction.
    pause: Stall,
}

/// Why an attempt ended.
enum Stop {
    /// Because of the client.
    Down(Broken),
    /// Because of the upstream.
    Up(Broken),
    /// No root vouches any more for who is there.
    Void,
    /// The peer's proxy did not pass the request on.
    Unsent(Reason),
    /// It has to be over.
    Late(Reason),
    /// Another try is made, for this, and what has come is not passed on.
    Again(Cause),
}

/// Whether somebody has taken, or given, nothing for too long.
#[derive(Default)]
struct Stall {
    timer: Timer,
    /// How far it had come when it was looked at last, and since when.
    seen: Option<(u64, Instant)>,
}

impl Stall {
    /// Ready when it has been no further than here for so long.
    fn poll(&mut self, cx: &mut Context<'_>, here: u64, limit: Duration) -> Poll<()> {
        let since = match self.seen {
            Some((seen, since)) if seen == here => since,
            _ => Instant::now(),
        };
        self.seen = Some((here, since));
        self.timer.poll(cx, since + limit)
    }
}

impl<'e, 'a, 'u> Attempt<'e, 'a, 'u> {
    fn new(exchange: &'e mut Exchange<'a>, up: Message<'u>, reused: bool) -> Self {
        // What follows belongs to the tunnel, and waits for it: bytes sent earlier could be read as a request.
        let request = if exchange.head.is_tunnel() {
            Transfer::only_the_end()
        } else {
            Transfer::new()
        };
        Self {
            written_before: up.written(),
            exchange,
            up,
            reused,
            has_been_held: false,
            peer: false,
            request,
            cut: None,
            response: None,
            broken: None,
            left_to_driver: false,
            no_replay: Replay::default(),
            interims: 0,
            tunnel: false,
            half_closed: false,
            status: 0,
            grpc_status: None,
            stall: Stall::default(),
            pause: Stall::default(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            self.poll_request(cx)?;
            if self.response.is_none() {
                match self.poll_head(cx) {
                    Poll::Ready(Ok(head)) => {
                        if let Some(reason) = self.unsent(&head) {
                            return Poll::Ready(Err(Stop::Unsent(reason)));
                        }
                        if let Some(head) = self.consider(cx, head)? {
                            self.begin_response(head)?;
                        }
                        continue;
                    }
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(Stop::Up(broken))),
                    Poll::Pending => {
                        // An interim response, perhaps.
                        if let Poll::Ready(Err(broken)) = self.exchange.side.poll_flush(cx) {
                            return Poll::Ready(Err(Stop::Down(broken)));
                        }
                    }
                }
            }
            break;
        }
        if let (Some(response), None) = (&mut self.response, &self.broken) {
            match response.poll(cx, &mut self.up, &mut self.exchange.side, &mut self.no_replay) {
                Poll::Ready(Ok(())) if !self.tunnel || self.request.is_done() || self.cut.is_some() => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(Fault::From(broken))) => self.broken = Some(broken),
                Poll::Ready(Err(Fault::To(broken))) => return Poll::Ready(Err(Stop::Down(broken))),
            }
        }
        if self.broken.is_some()
            && let Poll::Ready(stop) = self.poll_break(cx)
        {
            return Poll::Ready(Err(stop));
        }
        // A tunnel lasts as long as its two sides want.
        if !self.tunnel
            && let Some(terms) = &mut self.exchange.terms
            && let Poll::Ready(reason) = terms.poll_due(cx)
        {
            return Poll::Ready(Err(Stop::Late(reason)));
        }
        if self.request.is_done() && !self.tunnel && self.exchange.side.poll_gone(cx).is_ready() && self.has_gone(cx) {
            return Poll::Ready(Err(Stop::Down(Broken::Ended)));
        }
        if let Poll::Ready(stopped) = self.poll_pause(cx) {
            return Poll::Ready(stopped);
        }
        self.poll_stall(cx)
    }

    /// A response that ends too early: what has come of it is handed over before the client learns that there is no more.
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        match &mut self.exchange.side {
            // The connection's driver takes it, in its own turn, which comes before this one's next.
            Message::H2(_) if !std::mem::replace(&mut self.left_to_driver, true) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            side => {
                if let Err(broken) = ready!(side.poll_flush(cx)) {
                    return Poll::Ready(Stop::Down(broken));
                }
            }
        }
        match self.broken.take() {
            Some(broken) => Poll::Ready(Stop::Up(broken)),
            None => Poll::Pending,
        }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        if self.cut.is_some() || self.request.is_done() {
            return Ok(());
        }
        let exchange = &mut *self.exchange;
        match self
            .request
            .poll(cx, &mut exchange.side, &mut self.up, &mut exchange.replay)
        {
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            Poll::Ready(Err(Fault::From(broken))) => Err(Stop::Down(broken)),
            Poll::Ready(Err(Fault::To(broken))) => {
                self.cut = Some(broken);
                Ok(())
            }
        }
    }

    /// Whether a client that has ended its direction has gone. Some end it behind their last request, and wait: until they
    /// break the connection, as the kernel does for one that has left once it is asked, or take nothing for too long. One that
    /// ends later has waited for too long, and has gone.
    fn has_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let in_time = || self.exchange.started.elapsed() < HALF_CLOSE;
        self.half_closed |= self.exchange.side.has_said_all() && in_time();
        if !self.half_closed || self.exchange.side.is_broken() {
            return true;
        }
        let now = Instant::now();
        let taken = self.exchange.side.written();
        let since = match self.pause.seen {
            Some((seen, since)) if seen == taken => since,
            _ => now,
        };
        self.pause.seen = Some((taken, since));
        // Nobody wakes this when the connection breaks: that a stream which has ended is readable is no news.
        let _ = self.pause.timer.poll(cx, now + HALF_CLOSE);
        now - since >= HALF_CLOSED
    }

    /// Why the peer's proxy did not pass the request on, if that is what it says, and it can be passed to another.
    fn unsent(&self, head: &ResponseHead) -> Option<Reason> {
        let code = head
            .unsent
            .as_ref()
            .filter(|_| self.peer && self.interims == 0 && self.exchange.replay.is_whole())?;
        Reason::ALL
            .iter()
            .copied()
            .find(|reason| reason.code().as_bytes() == code.as_bytes())
    }

    fn begin_response(&mut self, mut head: ResponseHead) -> Result<(), Stop> {
        let connect = self.exchange.head.method == Method::CONNECT;
        if head.status.is_informational() && head.upgrade.is_none() {
            self.interims += 1;
            if self.interims > INTERIM_RESPONSES {
                return Err(Stop::Up(Broken::Refused(Reason::UpstreamProtocol)));
            }
            self.exchange.continued |= head.status == http::StatusCode::CONTINUE;
            return self.exchange.begin_response(head, true).map_err(Stop::Down);
        }
        if head.upgrade.is_some() && !upgrade::is_proven(&self.exchange.head, &head.headers) {
            return Err(Stop::Up(Broken::Refused(Reason::UpstreamProtocol)));
        }
        self.exchange.replay.forget();
        self.exchange.answered = true;
        self.exchange.answered_after = Some(self.exchange.started.elapsed());
        self.status = head.status.as_u16();
        self.grpc_status = grpc_status(&head.headers);
        self.tunnel = head.upgrade.is_some() || (connect && head.status.is_success());
        if self.tunnel {
            // What was the request's body has ended; what comes now is kept for nobody.
            self.exchange.replay = Replay::default();
            self.request = Transfer::new();
        }
        self.response = Some(Transfer::new());
        if let Some(terms) = &self.exchange.terms {
            terms.change_response(&mut head.headers);
        }
        let may_follow = self.exchange.may_follow();
        self.exchange.begin_response(head, may_follow).map_err(Stop::Down)
    }

    /// A body that comes to no end holds the app's connection: from those who may not do that it has to come.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Some(limit) = self.exchange.context.limits.body_time else {
            return Poll::Pending;
        };
        let is_over = self.request.is_done() || self.cut.is_some() || self.tunnel;
        // An app that takes nothing is not the client's fault, and has a limit of its own.
        if is_over || self.up.is_blocked() {
            if !self.half_closed {
                self.pause.seen = None;
            }
            return Poll::Pending;
        }
        let answered = self.response.as_ref().map_or(0, |response| response.bytes);
        let moved = self.request.bytes + answered + u64::from(self.interims) + u64::from(self.status);
        ready!(self.pause.poll(cx, moved, limit));
        Poll::Ready(Err(Stop::Down(Broken::Refused(Reason::RequestTimeout))))
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let (down, up) = (self.exchange.side.is_blocked(), self.up.is_blocked());
        if !down && !up {
            self.stall.seen = None;
            return Poll::Pending;
        }
        let written = self.exchange.side.written() + self.up.written();
        let limit = self.exchange.context.limits.stall_time;
        ready!(self.stall.poll(cx, written, limit));
        let broken = Broken::Io(std::io::ErrorKind::TimedOut.into());
        Poll::Ready(Err(if down { Stop::Down(broken) } else { Stop::Up(broken) }))
    }
}

#[cfg(test)]
mod tests;
