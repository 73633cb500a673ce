//! Serves a connection that was accepted.
//!
//! In: an [`Io`] that was admitted, and whether it speaks HTTP/1.1 or 2. Out: [`Exchange`]s, one after another or many at once,
//! handed to a [`RequestService`].

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use http::uri::Authority;
use tokio::time::{Instant, timeout};
use weft_model::reason::Reason;

use crate::http::closing::{Closing, Watch};
use crate::http::exchange::Exchange;
use crate::http::h1::Connection;
use crate::http::head::RequestHead;
use crate::http::limits::{LINGER_BYTES, Limits};
use crate::http::message::{Broken, Message};
use crate::http::timer::Timer;
use crate::http::{HttpVersion, Origin, h2, refuse};
use crate::io::Io;

/// Answers the requests of one connection. Statically dispatched; one per connection, so it may hold who called.
pub trait RequestService {
    /// Answers one request. On HTTP/1.1 requests come one after another; on HTTP/2 many at once. That the client has gone away
    /// is noticed while the exchange is being forwarded: everything else that this waits for needs a limit of its own.
    fn handle(&self, exchange: &mut Exchange<'_>) -> impl Future<Output = ()>;

    /// A request was refused before it became an exchange, or its handler ended by a defect. For counting.
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
    io: Io,
    version: HttpVersion,
    service: Rc<S>,
    context: ServeContext,
) -> Result<(), ConnError> {
    // Each in a box of its own, so that an idle connection is no larger than what it speaks.
    match version {
        HttpVersion::H1 => Box::pin(serve_h1(io, &*service, &context)).await,
        HttpVersion::H2 => Box::pin(h2::serve::serve(io, service, Rc::new(context))).await,
    }
}

async fn serve_h1<S: RequestService>(io: Io, service: &S, context: &ServeContext) -> Result<(), ConnError> {
    let mut connection = Connection::new(io);
    let mut rest = Rest {
        watch: context.closing.watch(),
        timer: Timer::default(),
    };
    let ended = loop {
        match rest.next_request(&mut connection, context).await {
            Ok(Some(head)) => {
                let mut exchange = Exchange::new(Message::H1(&mut connection), head, context);
                service.handle(&mut exchange).await;
                exchange.end().await;
            }
            Ok(None) => break Ok(()),
            Err(broken) => {
                break Err(refuse_connection(&mut connection, broken, service, context).await);
            }
        }
        if !connection.may_go_on() && !discard_body(&mut connection, context).await {
            break Ok(());
        }
    };
    // Else it was cut short, and breaks when it is dropped.
    if !connection.ends_by_closing() {
        close(&mut connection, context).await;
    }
    ended
}

/// A connection between requests.
struct Rest {
    watch: Watch,
    timer: Timer,
}

impl Rest {
    /// Waits for the next request. None: the client ended, or it is time to close.
    async fn next_request(
        &mut self,
        connection: &mut Connection,
        context: &ServeContext,
    ) -> Result<Option<RequestHead>, Broken> {
        let limits = &context.limits;
        let mut since = None;
        let mut begun = false;
        poll_fn(|cx| {
            if let Poll::Ready(read) = connection.poll_request(cx, context.origin) {
                return Poll::Ready(read);
            }
            let now = *since.get_or_insert_with(Instant::now);
            let due = if connection.has_input() {
                if !begun {
                    begun = true;
                    since = Some(Instant::now());
                }
                since.unwrap_or(now) + limits.header_time
            } else if self.watch.poll(cx).is_ready() {
                // The client may be about to send a request, and could not know whether it was read: it has a moment to, and
                // learns with the response that the connection closes.
                now + limits.linger_time
            } else {
                now + limits.idle_time
            };
            match self.timer.poll(cx, due) {
                Poll::Ready(()) if connection.has_input() => Poll::Ready(Err(Broken::Refused(Reason::RequestTimeout))),
                Poll::Ready(()) => Poll::Ready(Ok(None)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// Answers what could not be read as a request, as far as it can be answered.
async fn refuse_connection<S: RequestService>(
    connection: &mut Connection,
    broken: Broken,
    service: &S,
    context: &ServeContext,
) -> ConnError {
    let reason = match broken {
        Broken::Refused(reason) => reason,
        Broken::Io(error) => return ConnError::Io(error),
        Broken::H2(error) => return ConnError::H2(error),
        Broken::Ended => return ConnError::Io(std::io::ErrorKind::UnexpectedEof.into()),
    };
    service.refused(reason);
    let (head, body) = refuse::response(reason, false);
    connection.send_response(&head, &http::Method::GET, http::Version::HTTP_11, false);
    let written = poll_fn(|cx| {
        // Small enough to be gathered behind the head at once.
        match connection.poll_send(cx, &body) {
            Poll::Ready(Ok(_)) => connection.poll_flush(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    });
    // Whoever cannot be told loses nothing but the reason.
    let _ = timeout(context.limits.linger_time, written).await;
    ConnError::Refused(reason)
}

/// Reads on to the end of a body that nobody wants, if it is near: whether another request may follow.
async fn discard_body(connection: &mut Connection, context: &ServeContext) -> bool {
    if !connection.only_lacks_input() {
        return false;
    }
    let mut left = LINGER_BYTES;
    let discarded = poll_fn(|cx| {
        loop {
            match connection.poll_data(cx) {
                Poll::Ready(Ok(Some(n))) if n as u64 <= left => {
                    left -= n as u64;
                    connection.consume(n);
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(()),
                Poll::Ready(_) => {
                    connection.end_after_this();
                    return Poll::Ready(());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    timeout(context.limits.linger_time, discarded).await.is_ok() && connection.may_go_on()
}

/// Ends a connection so that the client gets to see the last response: unread input would have the kernel reset it.
async fn close(connection: &mut Connection, context: &ServeContext) {
    let mut left = LINGER_BYTES;
    let mut shut = false;
    let closed = poll_fn(|cx| {
        if !shut {
            match connection.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        loop {
            match connection.poll_discard(cx) {
                Poll::Ready(n) if n > 0 && n as u64 <= left => left -= n as u64,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    // Whoever does not end by itself is left.
    let _ = timeout(context.limits.linger_time, closed).await;
}
