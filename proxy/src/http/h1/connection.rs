//! One HTTP/1.1 connection: buffers, and where in a message each direction is.
//!
//! In: an [`Io`]. Out: heads and pieces of bodies, by polling, so that one task drives both sides of an exchange. A
//! connection at rest holds no buffer: what is read goes through a buffer of the thread first.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method};
use tokio::io::{AsyncRead, ReadBuf};
use weft_model::reason::Reason;

use super::chunked::{Chunked, Next};
use super::parse::{self, Framing};
use crate::http::Origin;
use crate::http::head::{Length, RequestHead, ResponseHead};
use crate::http::message::Broken;
use crate::io::Io;

mod send;

/// What one read takes through the thread's buffer. One that is filled means that there is more where it came from: then
/// reads go to a buffer of the connection's own.
const STEP: usize = 16 * 1024;
/// The connection's own buffer, while a body streams in.
const BULK: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; STEP].into_boxed_slice());
}

/// One HTTP/1.1 connection, either role.
#[derive(Debug)]
pub(crate) struct Connection {
    io: Io,
    /// Read, and not taken.
    input: BytesMut,
    /// To be written.
    output: BytesMut,
    /// How much of `input` has been searched for the end of a head.
    scanned: usize,
    reading: Reading,
    writing: Writing,
    /// The last read filled the thread's buffer.
    bulk: bool,
    /// The other side has ended.
    ended: bool,
    /// The transport has taken bytes that it may not have sent.
    unflushed: bool,
    /// The transport took nothing when it was asked last.
    blocked: bool,
    /// Bytes that the transport has taken.
    written: u64,
    /// Another message may follow.
    keep_alive: bool,
}

/// Where in a message the input is.
#[derive(Debug)]
enum Reading {
    /// Between messages.
    Rest,
    Exact(u64),
    Chunked(Chunked),
    UntilEnd,
    /// The body has ended; its trailers have not been taken.
    Ended(Option<HeaderMap>),
}

/// Where in a message the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// Between messages, or before a response.
    Rest,
    Exact(u64),
    Chunked,
    UntilEnd,
    /// The message has been written.
    Ended,
}

impl Connection {
    pub(crate) fn new(io: Io) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            output: BytesMut::new(),
            scanned: 0,
            reading: Reading::Rest,
            writing: Writing::Rest,
            bulk: false,
            ended: false,
            unflushed: false,
            blocked: false,
            written: 0,
            keep_alive: true,
        }
    }

    // --- heads, coming

    /// The next request's head. None: the client has ended between requests. Cancel safe.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        origin: Origin,
    ) -> Poll<Result<Option<RequestHead>, Broken>> {
        let Some(head) = ready!(self.poll_head(cx))? else {
            return Poll::Ready(Ok(None));
        };
        let parse::Request {
            head,
            chunked,
            keep_alive,
        } = parse::request(head, origin).map_err(Broken::Refused)?;
        self.keep_alive = keep_alive;
        self.writing = Writing::Rest;
        self.reading = match head.length {
            Length::Empty => Reading::Ended(None),
            Length::Exact(n) => Reading::Exact(n),
            Length::Unknown if chunked => Reading::Chunked(Chunked::default()),
            Length::Unknown => Reading::Ended(None),
        };
        Poll::Ready(Ok(Some(head)))
    }

    /// The response's head, or an interim one. `method` and `upgrade` are the request's.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        upgrade: bool,
    ) -> Poll<Result<ResponseHead, Broken>> {
        let upstream = |broken| match broken {
            Broken::Refused(_) => Broken::Refused(Reason::UpstreamProtocol),
            other => other,
        };
        let Some(head) = ready!(self.poll_head(cx)).map_err(upstream)? else {
            return Poll::Ready(Err(Broken::Ended));
        };
        let parsed = parse::response(head, method, upgrade).map_err(Broken::Refused)?;
        if parsed.head.status.is_informational() && parsed.framing != Framing::Tunnel {
            return Poll::Ready(Ok(parsed.head));
        }
        self.keep_alive = parsed.keep_alive;
        self.reading = match parsed.framing {
            Framing::Exact(0) => Reading::Ended(None),
            Framing::Exact(n) => Reading::Exact(n),
            Framing::Chunked => Reading::Chunked(Chunked::default()),
            Framing::UntilEnd => Reading::UntilEnd,
            Framing::Tunnel => {
                self.enter_tunnel();
                Reading::UntilEnd
            }
        };
        Poll::Ready(Ok(parsed.head))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            if let Some(end) = parse::find_end(&self.input, &mut self.scanned).map_err(Broken::Refused)? {
                self.scanned = 0;
                // The usual case hands the buffer on as it is, and leaves none behind.
                let head = if end == self.input.len() {
                    std::mem::take(&mut self.input)
                } else {
                    self.input.split_to(end)
                };
                return Poll::Ready(Ok(Some(head.freeze())));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                let whole = self.input.is_empty();
                return Poll::Ready(if whole { Ok(None) } else { Err(Broken::Ended) });
            }
        }
    }

    // --- bodies, coming

    /// How many bytes of the body lie in front: not 0. None: it has ended.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Broken>> {
        loop {
            let here = match &mut self.reading {
                Reading::Rest | Reading::Ended(_) => return Poll::Ready(Ok(None)),
                Reading::Exact(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len()),
                Reading::UntilEnd => self.input.len(),
                Reading::Chunked(chunked) => match chunked.next(&mut self.input).map_err(Broken::Refused)? {
                    Next::Data(n) => n,
                    Next::More => 0,
                    Next::End(trailers) => {
                        self.reading = Reading::Ended(trailers);
                        self.give_back();
                        return Poll::Ready(Ok(None));
                    }
                },
            };
            if here > 0 {
                return Poll::Ready(Ok(Some(here)));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                if !matches!(self.reading, Reading::UntilEnd) {
                    return Poll::Ready(Err(Broken::Ended));
                }
                self.reading = Reading::Ended(None);
                return Poll::Ready(Ok(None));
            }
        }
    }

    /// The first `n` bytes in front, as [`Connection::poll_data`] counted them.
    pub(crate) fn data(&self, n: usize) -> &[u8] {
        self.input.get(..n).unwrap_or_default()
    }

    /// Takes bytes from the front.
    pub(crate) fn consume(&mut self, n: usize) {
        let n = n.min(self.input.len());
        self.input.advance(n);
        match &mut self.reading {
            Reading::Exact(left) => {
                *left = left.saturating_sub(n as u64);
                if *left == 0 {
                    self.reading = Reading::Ended(None);
                }
            }
            Reading::Chunked(chunked) => chunked.taken(n),
            _ => {}
        }
        if self.input.is_empty() && (!self.bulk || self.has_read_all()) {
            self.give_back();
        }
    }

    /// Whether the body is known to have ended, without trailers to come.
    pub(crate) fn has_read_all(&self) -> bool {
        matches!(self.reading, Reading::Ended(None) | Reading::Rest)
    }

    /// The trailers behind the body, which stay there.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        match &self.reading {
            Reading::Ended(trailers) => trailers.as_ref(),
            _ => None,
        }
    }

    /// The trailers behind the body.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.reading {
            Reading::Ended(trailers) => trailers.take(),
            _ => None,
        }
    }

    /// Whether the other side has gone while nothing was expected of it. Bytes that it sends early are kept for later, but no
    /// more of them than one read takes.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.is_empty() && !self.ended {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the other side has ended its direction, having said that no other message would come from it.
    pub(crate) fn has_said_all(&self) -> bool {
        self.ended && !self.keep_alive
    }

    /// Whether the other side has broken the connection off: asked of the kernel, because one that has ended says no more.
    pub(crate) fn is_broken(&self) -> bool {
        let socket = self.io.socket();
        socket.is_some_and(|socket| !matches!(socket.take_error(), Ok(None)))
    }

    /// Reads once. 0: the other side has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let read = if self.bulk {
            self.poll_fill_own(cx)
        } else {
            self.poll_fill_shared(cx)
        };
        let n = ready!(read).map_err(Broken::Io)?;
        self.ended = n == 0;
        Poll::Ready(Ok(n))
    }

    fn poll_fill_shared(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            self.bulk = read.len() == STEP;
            self.input.extend_from_slice(read);
            Poll::Ready(Ok(read.len()))
        })
    }

    fn poll_fill_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(BULK.saturating_sub(self.input.len()).max(1));
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input);
        if read.is_pending() {
            self.bulk = false;
            if self.input.is_empty() {
                self.give_back();
            }
        }
        read
    }

    fn give_back(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    // --- between messages

    /// Whether the message that came and the one that went have both ended, and another may follow.
    pub(crate) fn may_go_on(&self) -> bool {
        let read = matches!(self.reading, Reading::Ended(_) | Reading::Rest);
        self.keep_alive && !self.ended && read && self.writing == Writing::Ended && self.output.is_empty()
    }

    /// Whether another message may follow once the one that comes has ended.
    pub(crate) fn only_lacks_input(&self) -> bool {
        self.keep_alive && !self.ended && self.writing == Writing::Ended && self.output.is_empty()
    }

    /// Reads and drops whatever comes. 0: nothing more will.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.input.is_empty() && ready!(self.poll_fill(cx)).is_err() {
            return Poll::Ready(0);
        }
        let dropped = self.input.len();
        self.input = BytesMut::new();
        Poll::Ready(dropped)
    }

    /// Whether nothing is there that has not been taken, and nothing has come since.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.input.is_empty() && !self.ended && self.io.is_quiet()
    }

    /// Whether bytes of a message lie in front.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether bytes wait to be written because the other side takes none.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Bytes that the transport has taken so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// What is held in buffers.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// No message may follow this one.
    pub(crate) fn end_after_this(&mut self) {
        self.keep_alive = false;
    }

    /// The message that goes is not whole. Where only the end of the stream would tell its end, the connection is to be
    /// dropped now: that breaks it.
    pub(crate) fn abort(&mut self) {
        self.keep_alive = false;
        self.output = BytesMut::new();
    }
}

impl Drop for Connection {
    /// What was cut short must not look whole: an end of the stream would say that all has been said.
    fn drop(&mut self) {
        if self.ends_by_closing() {
            self.io.break_off();
        }
    }
}
