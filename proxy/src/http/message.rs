//! One side of an exchange, whichever the version: pieces of a body in, pieces out.
//!
//! In: a side that a body comes from, and one that it goes to. Out: the body moved, by polling, with never more held than
//! the limits allow: nothing is taken from one side before the other has room for it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::sync::oneshot;
use weft_model::reason::Reason;

use crate::http::h1::Connection;
use crate::http::h2::Stream;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::limits::{COPY_BYTES, REPLAY_BYTES};

/// How a side of an exchange broke.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It ended in the middle of a message, or before one.
    Ended,
    /// Its transport failed.
    Io(io::Error),
    /// What it says is not acceptable.
    Refused(Reason),
    /// HTTP/2 ended the stream, or its connection.
    H2(::h2::Error),
}

impl Broken {
    /// For the log.
    pub(crate) fn into_io(self) -> Option<io::Error> {
        match self {
            Self::Ended => None,
            Self::Io(error) => Some(error),
            Self::Refused(reason) => Some(io::Error::new(io::ErrorKind::InvalidData, reason.meaning())),
            Self::H2(error) => Some(io::Error::other(error)),
        }
    }
}

/// One side of an exchange.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation per request")]
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// An HTTP/1.1 connection, for as long as the exchange lasts.
    H1(&'a mut Connection),
    /// An HTTP/2 stream.
    H2(Stream),
}

impl Message<'_> {
    /// How many bytes of the body that comes lie in front: not 0. None: it has ended.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Broken>> {
        match self {
            Self::H1(connection) => connection.poll_data(cx),
            Self::H2(stream) => stream.poll_data(cx),
        }
    }

    fn data(&self, n: usize) -> &[u8] {
        match self {
            Self::H1(connection) => connection.data(n),
            Self::H2(stream) => stream.data(n),
        }
    }

    /// Drops bytes from the front.
    pub(crate) fn consume(&mut self, n: usize) {
        match self {
            Self::H1(connection) => connection.consume(n),
            Self::H2(stream) => drop(stream.take(n)),
        }
    }

    fn take(&mut self, n: usize) -> Bytes {
        match self {
            Self::H1(connection) => {
                let taken = Bytes::copy_from_slice(connection.data(n));
                connection.consume(n);
                taken
            }
            Self::H2(stream) => stream.take(n),
        }
    }

    /// The trailers behind the body, once it has ended.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        match self {
            Self::H1(connection) => connection.trailers(),
            Self::H2(stream) => stream.trailers(),
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::H1(connection) => connection.take_trailers(),
            Self::H2(stream) => stream.take_trailers(),
        }
    }

    /// Whether the body that comes is known to have ended, without trailers to come.
    pub(crate) fn has_read_all(&self) -> bool {
        match self {
            Self::H1(connection) => connection.has_read_all(),
            Self::H2(stream) => stream.has_read_all(),
        }
    }

    /// Hands everything to the transport.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H1(connection) => connection.poll_flush(cx),
            // The connection's driver does it.
            Self::H2(_) => Poll::Ready(Ok(())),
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::H1(connection) => connection.finish(trailers.as_ref()),
            Self::H2(stream) => stream.finish(trailers),
        }
    }

    fn poll_finished(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H1(connection) if connection.ends_by_closing() => connection.poll_shutdown(cx),
            Self::H1(connection) => connection.poll_flush(cx),
            Self::H2(_) => Poll::Ready(Ok(())),
        }
    }

    /// The response's head, or an interim one; `to` is the request.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        to: &RequestHead,
    ) -> Poll<Result<ResponseHead, Broken>> {
        match self {
            Self::H1(connection) => connection.poll_response(cx, &to.method, to.upgrade.is_some()),
            Self::H2(stream) => stream.poll_response(cx, to),
        }
    }

    /// Whether the other side has gone while nothing was expected of it.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::H1(connection) => connection.poll_gone(cx),
            Self::H2(stream) => stream.poll_gone(cx),
        }
    }

    /// Whether the other side has ended its direction, having said that no other message would come from it.
    pub(crate) fn has_said_all(&self) -> bool {
        match self {
            Self::H1(connection) => connection.has_said_all(),
            Self::H2(_) => false,
        }
    }

    /// Whether the connection is known to be broken: asked of the kernel.
    pub(crate) fn is_broken(&self) -> bool {
        match self {
            Self::H1(connection) => connection.is_broken(),
            Self::H2(_) => false,
        }
    }

    /// Ends an exchange before its time, so that the other side sees that it is not whole.
    pub(crate) fn abort(&mut self, reason: ::h2::Reason) {
        match self {
            Self::H1(connection) => connection.abort(),
            Self::H2(stream) => stream.cancel(reason),
        }
    }

    /// Whether another exchange may follow on the connection.
    pub(crate) fn may_go_on(&self) -> bool {
        match self {
            Self::H1(connection) => connection.may_go_on(),
            Self::H2(_) => true,
        }
    }

    /// The code of a reset that was meant for this request, and not for the way it came.
    pub(crate) fn reset_by_app(&self) -> Option<::h2::Reason> {
        match self {
            Self::H1(_) => None,
            Self::H2(stream) => stream
                .reset_by_peer()
                .filter(|reason| *reason != ::h2::Reason::REFUSED_STREAM),
        }
    }

    /// Whether something waits for the other side to take it, and it takes nothing.
    pub(crate) fn is_blocked(&self) -> bool {
        match self {
            Self::H1(connection) => connection.is_blocked(),
            Self::H2(stream) => stream.is_blocked(),
        }
    }

    /// Bytes that the other side has taken so far.
    pub(crate) fn written(&self) -> u64 {
        match self {
            Self::H1(connection) => connection.written(),
            Self::H2(stream) => stream.written(),
        }
    }
}

/// Which side of a transfer broke.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The side that the body comes from.
    From(Broken),
    /// The side that it goes to.
    To(Broken),
}

/// One body on its way.
#[derive(Debug)]
pub(crate) struct Transfer {
    state: State,
    /// Bytes of the body that were moved.
    pub(crate) bytes: u64,
    /// What `grpc-status` in the trailers said.
    pub(crate) grpc_status: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Moving,
    Finishing,
    Done,
}

impl Transfer {
    /// A body that has yet to be moved.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Moving,
            bytes: 0,
            grpc_status: None,
        }
    }

    /// No body: only what was queued before it is handed over.
    pub(crate) fn only_the_end() -> Self {
        Self {
            state: State::Finishing,
            bytes: 0,
            grpc_status: None,
        }
    }

    /// Whether all of it, its end included, was handed over.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves what can be moved, and hands it to the transport before it waits. `replay` keeps what is moved, and gives it first.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Message<'_>,
        to: &mut Message<'_>,
        replay: &mut Replay,
    ) -> Poll<Result<(), Fault>> {
        loop {
            match self.state {
                State::Moving => match replay.poll_data(cx, from) {
                    Poll::Ready(Ok(Some(here))) => {
                        let (n, ended) = ready!(Self::poll_move(cx, from, to, replay, here))?;
                        self.bytes += n as u64;
                        if ended {
                            self.state = State::Finishing;
                        }
                    }
                    Poll::Ready(Ok(None)) => {
                        let trailers = replay.take_trailers(from);
                        self.grpc_status = trailers.as_ref().and_then(grpc_status);
                        to.finish(trailers).map_err(Fault::To)?;
                        self.state = State::Finishing;
                    }
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(Fault::From(broken))),
                    Poll::Pending => {
                        if let Poll::Ready(Err(broken)) = to.poll_flush(cx) {
                            return Poll::Ready(Err(Fault::To(broken)));
                        }
                        return Poll::Pending;
                    }
                },
                State::Finishing => {
                    ready!(to.poll_finished(cx)).map_err(Fault::To)?;
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Moves a piece: how much, and whether the end went with it.
    fn poll_move(
        cx: &mut Context<'_>,
        from: &mut Message<'_>,
        to: &mut Message<'_>,
        replay: &mut Replay,
        here: usize,
    ) -> Poll<Result<(usize, bool), Fault>> {
        match to {
            Message::H1(connection) => {
                let n = ready!(connection.poll_send(cx, replay.data(from, here))).map_err(Fault::To)?;
                replay.consume(from, n);
                Poll::Ready(Ok((n, false)))
            }
            Message::H2(stream) => {
                let n = ready!(stream.poll_capacity(cx, here)).map_err(Fault::To)?.min(here);
                let data = replay.take(from, n);
                // The end travels with the last data where it is known.
                let ended = replay.ends_here() && from.has_read_all();
                if ended {
                    replay.end();
                }
                stream.send_data(data, ended).map_err(Fault::To)?;
                Poll::Ready(Ok((n, ended)))
            }
        }
    }
}

/// What `grpc-status` says.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// The beginning of a request's body, kept so that it can be sent once more.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    kept: BytesMut,
    trailers: Option<HeaderMap>,
    /// How much of `kept` this attempt has given.
    given: usize,
    /// This attempt keeps what it takes.
    keeping: bool,
    /// The body's end has been seen.
    ended: bool,
    /// Something was taken that is not kept.
    lost: bool,
    /// Who else gets the body. Rarely anybody.
    pub(crate) tee: Option<Box<Tee>>,
}

/// A body on its way to others than the upstream: whole, or not at all.
#[derive(Debug)]
pub(crate) struct Tee {
    body: Copied,
    to: Vec<oneshot::Sender<Bytes>>,
}

/// What has come so far of a body that is copied. `None`: nobody waits for it any more.
pub(crate) type Copied = Rc<RefCell<Option<BytesMut>>>;

impl Tee {
    /// For these, who wait for it.
    pub(crate) fn new(body: Copied, to: Vec<oneshot::Sender<Bytes>>) -> Self {
        Self { body, to }
    }

    fn finish(self) {
        let Some(body) = self.body.take().map(BytesMut::freeze) else {
            return;
        };
        for to in self.to {
            // Whoever does not wait any more does not need it.
            let _ = to.send(body.clone());
        }
    }
}

impl Replay {
    /// Begins an attempt. `keeping`: what it takes is kept, as long as there is room.
    pub(crate) fn begin(&mut self, keeping: bool) {
        self.given = 0;
        self.keeping = keeping && !self.lost;
    }

    /// Whether another attempt would see all of the body.
    pub(crate) fn is_whole(&self) -> bool {
        !self.lost
    }

    /// No other attempt will be made.
    pub(crate) fn forget(&mut self) {
        self.keeping = false;
        if self.has_given_all() {
            self.kept = BytesMut::new();
            self.given = 0;
            self.lost = true;
        }
    }

    fn has_given_all(&self) -> bool {
        self.given == self.kept.len()
    }

    /// Whether nothing kept is still to be given, trailers included.
    fn ends_here(&self) -> bool {
        self.has_given_all() && self.trailers.is_none()
    }

    fn poll_data(&mut self, cx: &mut Context<'_>, from: &mut Message<'_>) -> Poll<Result<Option<usize>, Broken>> {
        if !self.has_given_all() {
            return Poll::Ready(Ok(Some(self.kept.len() - self.given)));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        from.poll_data(cx)
    }

    fn data<'m>(&'m self, from: &'m Message<'_>, n: usize) -> &'m [u8] {
        if self.has_given_all() {
            from.data(n)
        } else {
            self.kept.get(self.given..).unwrap_or_default()
        }
    }

    fn consume(&mut self, from: &mut Message<'_>, n: usize) {
        if !self.has_given_all() {
            self.given = (self.given + n).min(self.kept.len());
            return;
        }
        self.keep(from, n);
        from.consume(n);
    }

    fn take(&mut self, from: &mut Message<'_>, n: usize) -> Bytes {
        if !self.has_given_all() {
            let end = (self.given + n).min(self.kept.len());
            let taken = Bytes::copy_from_slice(self.kept.get(self.given..end).unwrap_or_default());
            self.given = end;
            return taken;
        }
        self.keep(from, n);
        from.take(n)
    }

    /// All of the body has come.
    fn end(&mut self) {
        if let Some(tee) = self.tee.take() {
            tee.finish();
        }
    }

    fn keep(&mut self, from: &Message<'_>, n: usize) {
        if let Some(tee) = &mut self.tee {
            let mut body = tee.body.borrow_mut();
            if let Some(body) = body.as_mut().filter(|body| body.len() + n <= COPY_BYTES) {
                body.extend_from_slice(from.data(n));
            } else {
                drop(body);
                self.tee = None;
            }
        }
        if self.keeping && self.kept.len() + n <= REPLAY_BYTES {
            self.kept.extend_from_slice(from.data(n));
            self.given = self.kept.len();
        } else {
            self.keeping = false;
            self.lost = true;
            self.kept = BytesMut::new();
            self.given = 0;
        }
    }

    fn take_trailers(&mut self, from: &mut Message<'_>) -> Option<HeaderMap> {
        if !self.ended {
            self.ended = true;
            self.end();
            self.trailers = from.take_trailers();
        }
        if self.keeping {
            return self.trailers.clone();
        }
        let trailers = self.trailers.take();
        self.lost |= trailers.is_some();
        trailers
    }
}

/// A piece of a body that an HTTP/2 stream holds.
pub(crate) fn split(held: &mut Bytes, n: usize) -> Bytes {
    if n >= held.remaining() {
        std::mem::take(held)
    } else {
        held.split_to(n)
    }
}
