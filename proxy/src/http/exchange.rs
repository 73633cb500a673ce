//! One request and its response, seen from the side that asks.
//!
//! In: a request whose head was read. Out: an answer, by [`Exchange::refuse`] here or `Exchange::forward` of
//! [`crate::forward`].

use std::future::poll_fn;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::{Instant, timeout};
use weft_model::reason::Reason;

use crate::http::Origin;
use crate::http::head::{Length, RequestHead, ResponseHead};
use crate::http::headers::UNSENT;
use crate::http::limits::LINGER_BYTES;
use crate::http::message::{Broken, Message, Replay, Tee};
use crate::http::server::ServeContext;
use crate::http::{refuse, spare};
use crate::observe::access::{Entry, Line};
use crate::terms::Terms;

/// One request, and the way to answer it. Handed to [`RequestService::handle`](crate::http::server::RequestService::handle),
/// which answers it by `forward` or [`Exchange::refuse`]; what it leaves unanswered is answered with
/// [`Reason::Internal`].
#[derive(Debug)]
pub struct Exchange<'a> {
    pub(crate) side: Message<'a>,
    pub(crate) head: RequestHead,
    pub(crate) replay: Replay,
    pub(crate) context: &'a ServeContext,
    pub(crate) started: Instant,
    pub(crate) answered: bool,
    /// A 100 was passed on: the client will send its body.
    pub(crate) continued: bool,
    /// What the rule that it falls under asks of it. Rarely any.
    pub(crate) terms: Option<Box<Terms>>,
    /// Bytes of bodies that the last try has moved: to the upstream, and from it.
    pub(crate) moved: (u64, u64),
    /// When the response of the last try began, or it ended without one, since the request's head. `None`: that says
    /// nothing of the endpoint, as where its client has left in the middle of a body.
    pub(crate) answered_after: Option<Duration>,
    /// What the access log will say. Dropped, and so written, with the exchange. Mostly off.
    pub(crate) line: Option<Line>,
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
    /// The response had begun, or nobody waits for it: [`Exchange::refuse`] cannot be heard any more.
    pub answered: bool,
    /// The status of the response that had begun.
    pub status: Option<u16>,
    /// What `grpc-status` of the response said that is not passed on.
    pub grpc_status: Option<u16>,
    /// The rule has another try made, and its budget allows it: the same exchange may be forwarded once more.
    pub granted: bool,
    /// Bytes of the request's body that were moved.
    pub request_bytes: u64,
    /// Bytes of the response's body that were moved.
    pub response_bytes: u64,
    /// What happened beneath, for the log.
    #[source]
    pub source: Option<std::io::Error>,
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(side: Message<'a>, head: RequestHead, context: &'a ServeContext) -> Self {
        let started = Instant::now();
        Self {
            side,
            head,
            replay: Replay::default(),
            context,
            started,
            answered: false,
            continued: false,
            terms: None,
            moved: (0, 0),
            answered_after: None,
            line: None,
        }
    }

    /// The request's head. Hop-by-hop headers and those reserved to the mesh are gone already.
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The request's headers, to add to or to take from before it is forwarded. Internal ones (`x-weft-*`) reach verified peers
    /// only: forwarding to anyone else takes them out.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// The authority that it is for: as the client wrote it, else what it dialled.
    pub fn authority(&self) -> &str {
        let authority = self.head.authority.as_ref().or(self.context.authority.as_ref());
        authority.map_or("", |authority| authority.as_str())
    }

    /// Whether the request has no body.
    pub fn body_is_empty(&self) -> bool {
        self.head.length == Length::Empty
    }

    /// When the request's head was there.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Has it keep to terms from now on.
    pub fn keep_to(&mut self, terms: Option<Box<Terms>>) {
        self.terms = terms;
    }

    /// Has a line of the access log written of it, where there is one.
    pub(crate) fn log(&mut self, line: Option<Line>) {
        if line.is_some() {
            self.line = line;
            let authority = self.head.authority.as_ref().or(self.context.authority.as_ref());
            let authority = authority.map_or("", |authority| authority.as_str());
            Line::note(&mut self.line, |entry| entry.asks(&self.head, authority));
        }
    }

    /// Adds to that line.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Entry)) {
        Line::note(&mut self.line, note);
    }

    /// The request's head, to change before it is forwarded.
    pub fn head_mut(&mut self) -> &mut RequestHead {
        &mut self.head
    }

    /// Has its body go to these as well: whole, or not at all.
    pub(crate) fn copy_to(&mut self, tee: Tee) {
        self.replay.tee = Some(Box::new(tee));
    }

    /// What it keeps to, if anything was asked.
    pub fn terms(&mut self) -> Option<&mut Terms> {
        self.terms.as_deref_mut()
    }

    /// When the try has to be over, and what it fails with then.
    pub fn due(&self) -> Option<(Instant, Reason)> {
        self.terms.as_ref()?.due()
    }

    /// Whether a response has begun, or nobody waits for one.
    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Answers with a response of Weft's own: the reason's HTTP status, or for gRPC a trailers-only response; both with
    /// `proxy-status` (RFC 9209). Does nothing where a response has begun. Not cancel safe: the connection is then closed.
    pub async fn refuse(&mut self, reason: Reason) {
        if self.answered {
            return;
        }
        self.answered = true;
        let (mut head, body) = refuse::response(reason, self.head.is_grpc());
        if self.context.origin == Origin::Mesh && refuse::is_unsent(reason) {
            head.headers
                .insert(UNSENT, http::HeaderValue::from_static(reason.code()));
        }
        self.answer(head, &body).await;
    }

    /// Sends the client elsewhere, gRPC too. Does nothing where a response has begun. Not cancel safe: the connection is then
    /// closed.
    pub async fn redirect(&mut self, status: StatusCode, location: HeaderValue) {
        if self.answered {
            return;
        }
        self.answered = true;
        let mut head = ResponseHead::new(status);
        head.headers.insert(header::LOCATION, location);
        head.declared = Some(0);
        self.answer(head, &[]).await;
    }

    async fn answer(&mut self, head: ResponseHead, body: &[u8]) {
        let read_all = self.skip_what_came().await;
        let may_follow = read_all && !self.context.closing.has_begun();
        if self.begin_response(head, may_follow).is_err() {
            return;
        }
        // An error means that the client is gone, and then nobody needs to know why.
        let _ = timeout(self.context.limits.stall_time, self.send_whole(body)).await;
    }

    async fn send_whole(&mut self, mut body: &[u8]) -> Result<(), Broken> {
        let bodiless = self.head.method == http::Method::HEAD;
        match &mut self.side {
            Message::H1(connection) => {
                while !body.is_empty() && !bodiless {
                    let n = poll_fn(|cx| connection.poll_send(cx, body)).await?;
                    body = body.get(n..).unwrap_or_default();
                }
                connection.finish(None)?;
                poll_fn(|cx| connection.poll_flush(cx)).await
            }
            // Smaller than any window that a client can do anything with; what has no room waits in the `h2` crate.
            Message::H2(stream) if bodiless || body.is_empty() => stream.finish(None),
            Message::H2(stream) => stream.send_data(bytes::Bytes::copy_from_slice(body), true),
        }
    }

    /// Takes what has already come of a body that nobody wants: whether that was all of it.
    async fn skip_what_came(&mut self) -> bool {
        let Message::H1(connection) = &mut self.side else {
            return true;
        };
        let mut skipped = 0;
        poll_fn(|cx| {
            while skipped < LINGER_BYTES {
                match connection.poll_data(cx) {
                    std::task::Poll::Ready(Ok(Some(n))) => {
                        connection.consume(n);
                        skipped += n as u64;
                    }
                    std::task::Poll::Ready(Ok(None)) => return std::task::Poll::Ready(true),
                    _ => break,
                }
            }
            std::task::Poll::Ready(false)
        })
        .await
    }

    /// Queues a response's head.
    pub(crate) fn begin_response(&mut self, head: ResponseHead, may_follow: bool) -> Result<(), Broken> {
        match &mut self.side {
            Message::H1(connection) => {
                connection.send_response(&head, &self.head.method, self.head.version, may_follow);
                spare::keep_map(head.headers);
                Ok(())
            }
            Message::H2(stream) => stream.send_response(head, &self.head),
        }
    }

    /// Whether another request may follow the response that begins now. A client that waits for 100 and gets an answer instead
    /// may or may not send its body: nobody could tell what comes next.
    pub(crate) fn may_follow(&self) -> bool {
        let unclear = !self.continued && self.head.headers.contains_key(header::EXPECT) && !self.side.has_read_all();
        !unclear && !self.context.closing.has_begun()
    }

    /// What the handler left undone.
    pub(crate) async fn end(&mut self) {
        self.refuse(Reason::Internal).await;
    }

    /// Whether the client reset the request before anything was answered, and soon.
    pub(crate) fn was_hasty(&self) -> bool {
        let reset = matches!(&self.side, Message::H2(stream) if stream.reset_by_peer().is_some());
        reset && self.started.elapsed() < Duration::from_secs(1)
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        spare::keep_map(std::mem::take(&mut self.head.headers));
    }
}
