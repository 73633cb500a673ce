//! The half of a connection that messages leave by.
//!
//! In: heads, and pieces of bodies. Out: bytes, gathered where they are small, so that a head and a
//! small body leave in one write, and written from where they lie where they are large.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::uri::Authority;
use http::{HeaderMap, Method, Version};
use tokio::io::AsyncWrite;
use weft_model::reason::Reason;

use super::super::write::{self, Body};
use super::{Connection, Reading, Writing};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::message::Broken;
use crate::http::spare;

/// Pieces of a body up to this size are gathered behind what waits to be written; larger ones are written from where they
/// lie.
const GATHER: usize = 8 * 1024;
/// What may wait to be written before no more of a body is taken.
const WAITING: usize = 16 * 1024;

impl Connection {
    /// Queues a request's head, and expects a response.
    pub(crate) fn send_request(&mut self, head: &RequestHead, fallback: Option<&Authority>) {
        self.reading = Reading::Rest;
        self.take_output();
        let body = write::request(&mut self.output, head, fallback);
        self.begin_body(body);
    }

    /// Queues a response's head. `may_follow`: whether we would take another request.
    pub(crate) fn send_response(&mut self, head: &ResponseHead, to: &Method, version: Version, may_follow: bool) {
        if head.status.is_informational() && head.upgrade.is_none() {
            self.take_output();
            if version != Version::HTTP_10 {
                write::response(&mut self.output, head, to, version, true);
            }
            return;
        }
        self.keep_alive &= may_follow;
        self.take_output();
        let body = write::response(&mut self.output, head, to, version, self.keep_alive);
        self.keep_alive &= body != Body::UntilEnd;
        self.begin_body(body);
    }

    fn take_output(&mut self) {
        if self.output.is_empty() {
            self.output = spare::buffer();
        }
    }

    fn begin_body(&mut self, body: Body) {
        self.writing = match body {
            Body::Empty => Writing::Ended,
            Body::Exact(n) => Writing::Exact(n),
            Body::Chunked => Writing::Chunked,
            Body::UntilEnd => Writing::UntilEnd,
            Body::Tunnel => {
                self.enter_tunnel();
                Writing::UntilEnd
            }
        };
    }

    /// No HTTP from here on, in either direction.
    pub(super) fn enter_tunnel(&mut self) {
        self.keep_alive = false;
        self.reading = Reading::UntilEnd;
        self.writing = Writing::UntilEnd;
    }

    /// Takes what it can of a piece of the body: how much, at least 1 byte.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Broken>> {
        let data = match self.writing {
            Writing::Exact(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                // More than was announced: nobody could tell it from the next message.
                if data.len() > most {
                    return Poll::Ready(Err(Broken::Refused(Reason::UpstreamProtocol)));
                }
                data
            }
            Writing::Chunked | Writing::UntilEnd => data,
            // HEAD and the like: what comes in spite of it goes nowhere.
            Writing::Rest | Writing::Ended => return Poll::Ready(Ok(data.len())),
        };
        if self.output.len() >= WAITING {
            ready!(self.poll_write_out(cx))?;
        }
        let sent = if self.writing == Writing::Chunked {
            let piece = data.get(..data.len().min(WAITING)).unwrap_or_default();
            write::chunk(&mut self.output, piece);
            piece.len()
        } else if data.len() <= GATHER {
            self.output.extend_from_slice(data);
            data.len()
        } else {
            ready!(self.poll_write_out(cx))?;
            let n = ready!(self.poll_write(cx, data))?;
            self.unflushed = true;
            n
        };
        if let Writing::Exact(left) = &mut self.writing {
            *left = left.saturating_sub(sent as u64);
            if *left == 0 {
                self.writing = Writing::Ended;
            }
        }
        Poll::Ready(Ok(sent))
    }

    /// Queues the end of the body. [`Connection::poll_flush`] is still to be called.
    pub(crate) fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        match self.writing {
            Writing::Exact(_) => return Err(Broken::Ended),
            Writing::Chunked => write::last_chunk(&mut self.output, trailers),
            Writing::Rest | Writing::UntilEnd | Writing::Ended => {}
        }
        if self.writing != Writing::UntilEnd {
            self.writing = Writing::Ended;
        }
        Ok(())
    }

    /// Whether the end of the body is told by ending the stream, and has not been told.
    pub(crate) fn ends_by_closing(&self) -> bool {
        self.writing == Writing::UntilEnd
    }

    /// Hands everything to the transport.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            let flushed = Pin::new(&mut self.io).poll_flush(cx);
            self.blocked = flushed.is_pending();
            ready!(flushed).map_err(Broken::Io)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the other side that nothing more comes.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(Broken::Io)?;
        if self.writing == Writing::UntilEnd {
            self.writing = Writing::Ended;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.output.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.output);
            self.blocked = written.is_pending();
            let n = self.count(ready!(written))?;
            self.output.advance(n);
            self.unflushed = true;
        }
        spare::keep_buffer(std::mem::take(&mut self.output));
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Broken>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.blocked = written.is_pending();
        Poll::Ready(self.count(ready!(written)))
    }

    fn count(&mut self, written: io::Result<usize>) -> Result<usize, Broken> {
        let n = written.map_err(Broken::Io)?;
        if n == 0 {
            return Err(Broken::Io(io::ErrorKind::WriteZero.into()));
        }
        self.written += n as u64;
        Ok(n)
    }
}
