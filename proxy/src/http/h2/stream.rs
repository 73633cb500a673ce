//! One HTTP/2 stream, either role.
//!
//! Flow control is the bound on memory: the peer's window opens again only as fast as the other side of the exchange takes
//! bytes, and what we send waits for capacity before it is taken from the other side.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use weft_model::reason;

use super::convert;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::headers;
use crate::http::limits::{HEAD_FIELDS, STREAM_SEND_BUFFER};
use crate::http::message::{Broken, split};

/// One HTTP/2 stream.
pub(crate) struct Stream {
    /// Server: until the response begins.
    respond: Option<SendResponse<Bytes>>,
    /// Client: until the response has begun.
    response: Option<ResponseFuture>,
    send: Option<SendStream<Bytes>>,
    recv: Option<RecvStream>,
    /// A piece that came and was not taken. Its capacity is given back as it is.
    held: Bytes,
    trailers: Option<HeaderMap>,
    /// What comes has ended, trailers included.
    ended: bool,
    /// What goes has ended.
    finished: bool,
    blocked: bool,
    written: u64,
    /// Why the peer ended the stream before its time.
    reset: Option<Reason>,
}

impl Stream {
    /// A request that came.
    pub(crate) fn accepted(recv: RecvStream, respond: SendResponse<Bytes>) -> Self {
        Self::new(Some(recv), Some(respond), None, None, false)
    }

    /// Opens a stream for a request. An error means that nothing of it was sent.
    pub(crate) fn open(sender: &mut SendRequest<Bytes>, request: Request<()>, ends: bool) -> Result<Self, ::h2::Error> {
        let (response, send) = sender.send_request(request, ends)?;
        Ok(Self::new(None, None, Some(response), Some(send), ends))
    }

    fn new(
        recv: Option<RecvStream>,
        respond: Option<SendResponse<Bytes>>,
        response: Option<ResponseFuture>,
        send: Option<SendStream<Bytes>>,
        finished: bool,
    ) -> Self {
        let held = Bytes::new();
        let ended = recv.as_ref().is_some_and(RecvStream::is_end_stream);
        Self {
            respond,
            response,
            send,
            recv,
            held,
            trailers: None,
            ended,
            finished,
            blocked: false,
            written: 0,
            reset: None,
        }
    }

    // --- coming

    /// The response's head, or an interim one (client).
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        to: &RequestHead,
    ) -> Poll<Result<ResponseHead, Broken>> {
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(Broken::Ended));
        };
        match response.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => {
                let (parts, ()) = interim.into_parts();
                return Poll::Ready(convert::response(parts, to, false).map_err(Broken::Refused));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.failed(error))),
            Poll::Ready(None) | Poll::Pending => {}
        }
        let (parts, recv) = match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => response.into_parts(),
            Err(error) => return Poll::Ready(Err(self.failed(error))),
        };
        self.response = None;
        self.ended = recv.is_end_stream();
        self.recv = Some(recv);
        Poll::Ready(convert::response(parts, to, self.ended).map_err(Broken::Refused))
    }

    /// How many bytes of the body lie in front: not 0. None: it has ended.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Broken>> {
        loop {
            if !self.held.is_empty() {
                return Poll::Ready(Ok(Some(self.held.len())));
            }
            let Some(recv) = self.recv.as_mut().filter(|_| !self.ended) else {
                return Poll::Ready(Ok(None));
            };
            match ready!(recv.poll_data(cx)) {
                Some(Ok(piece)) => self.held = piece,
                Some(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                None => {
                    let trailers = match ready!(recv.poll_trailers(cx)) {
                        Ok(trailers) => trailers,
                        Err(error) => return Poll::Ready(Err(self.failed(error))),
                    };
                    self.ended = true;
                    self.trailers = trailers;
                    if let Some(trailers) = &mut self.trailers {
                        if trailers.len() > HEAD_FIELDS {
                            return Poll::Ready(Err(Broken::Refused(reason::Reason::HeadersTooLarge)));
                        }
                        headers::strip_trailers(trailers);
                    }
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// The first `n` bytes in front.
    pub(crate) fn data(&self, n: usize) -> &[u8] {
        self.held.get(..n).unwrap_or_default()
    }

    /// Takes bytes from the front, and lets the peer send as many more.
    pub(crate) fn take(&mut self, n: usize) -> Bytes {
        let taken = split(&mut self.held, n);
        if let Some(recv) = &mut self.recv {
            // Fails only for a stream that is gone, and then nobody waits for capacity.
            let _ = recv.flow_control().release_capacity(taken.len());
        }
        taken
    }

    /// Whether the body that comes is known to have ended, without trailers to come.
    pub(crate) fn has_read_all(&self) -> bool {
        self.held.is_empty()
            && self.trailers.is_none()
            && (self.ended || self.recv.as_ref().is_some_and(RecvStream::is_end_stream))
    }

    /// The trailers behind the body, which stay there.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Whether the peer has reset the stream, or its connection has ended.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match (&mut self.send, &mut self.respond) {
            _ if self.finished => return Poll::Pending,
            (Some(send), _) => ready!(send.poll_reset(cx)),
            (None, Some(respond)) => ready!(respond.poll_reset(cx)),
            (None, None) => return Poll::Pending,
        };
        self.reset = Some(reset.unwrap_or(Reason::CANCEL));
        Poll::Ready(())
    }

    // --- going

    /// Begins the response (server).
    pub(crate) fn send_response(&mut self, head: ResponseHead, to: &RequestHead) -> Result<(), Broken> {
        let Some(respond) = &mut self.respond else {
            return Err(Broken::Ended);
        };
        if head.status.is_informational() && head.upgrade.is_none() {
            let mut interim = Response::new(());
            *interim.status_mut() = head.status;
            *interim.headers_mut() = head.headers;
            return respond.send_informational(interim).map_err(Broken::H2);
        }
        let (response, ends) = convert::to_response(head, to);
        let send = respond.send_response(response, ends).map_err(Broken::H2)?;
        self.finished = ends;
        self.send = Some(send);
        self.respond = None;
        Ok(())
    }

    /// How many of `wanted` bytes may be sent now: not 0.
    pub(crate) fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Broken>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(Broken::Ended));
        };
        if self.finished {
            // HEAD and the like: what comes in spite of it goes nowhere.
            return Poll::Ready(Ok(wanted));
        }
        send.reserve_capacity(wanted.min(STREAM_SEND_BUFFER));
        loop {
            let capacity = send.capacity();
            if capacity > 0 {
                self.blocked = false;
                return Poll::Ready(Ok(capacity));
            }
            let polled = send.poll_capacity(cx);
            self.blocked = polled.is_pending();
            match ready!(polled) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                None => return Poll::Ready(Err(Broken::Ended)),
            }
        }
    }

    pub(crate) fn send_data(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        let Some(send) = self.send.as_mut().filter(|_| !self.finished) else {
            return Ok(());
        };
        self.written += data.len() as u64;
        send.send_data(data, ends).map_err(Broken::H2)?;
        self.finished = ends;
        Ok(())
    }

    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        let Some(send) = self.send.as_mut().filter(|_| !self.finished) else {
            return Ok(());
        };
        match trailers {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(Bytes::new(), true),
        }
        .map_err(Broken::H2)?;
        self.finished = true;
        Ok(())
    }

    /// Ends the stream before its time.
    pub(crate) fn cancel(&mut self, reason: Reason) {
        match (&mut self.send, &mut self.respond) {
            (Some(send), _) => send.send_reset(reason),
            (None, Some(respond)) => respond.send_reset(reason),
            (None, None) => {}
        }
        self.finished = true;
    }

    /// Why the peer ended the stream before its time, if it did.
    pub(crate) fn reset_by_peer(&self) -> Option<Reason> {
        self.reset
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked && !self.finished
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    fn failed(&mut self, error: ::h2::Error) -> Broken {
        if error.is_reset() && error.is_remote() {
            self.reset = error.reason();
        }
        Broken::H2(error)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("ended", &self.ended)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}
