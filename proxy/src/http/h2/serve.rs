//! Serves an HTTP/2 connection: accepts streams, and gives each a local task.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use ::h2::server::{Builder, SendResponse};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::Request;
use tokio::time::{Instant, timeout};
use weft_model::{reason, route};

use super::guard::Guard;
use super::{Stream, convert};
use crate::http::exchange::Exchange;
use crate::http::limits::{
    CONNECTION_WINDOW, HASTY_RESETS, HEAD_BYTES, Limits, STREAM_SEND_BUFFER, STREAM_WINDOW, STREAMS,
};
use crate::http::message::Message;
use crate::http::refuse;
use crate::http::server::{ConnError, RequestService, ServeContext};
use crate::http::timer::Timer;
use crate::io::Io;

/// What the streams of one connection tell it.
#[derive(Debug)]
struct Load {
    /// Tasks that run.
    running: Cell<usize>,
    /// Streams that were accepted.
    accepted: Cell<u64>,
    /// Streams that were reset soon, before anything was answered.
    hasty: Cell<u64>,
    /// When a stream last began or ended.
    changed: Cell<Instant>,
}

/// Counts a task for as long as it runs, and notices when it ends by a panic.
struct Running<S: RequestService> {
    load: Rc<Load>,
    service: Rc<S>,
}

#[expect(clippy::large_enum_variant, reason = "lives on the stack for a moment")]
enum Event {
    Stream(Request<RecvStream>, SendResponse<Bytes>),
    Failed(::h2::Error),
    Ended,
    Closing,
    Due,
}

/// Serves one connection to its end.
pub(crate) async fn serve<S: RequestService + 'static>(
    io: Io,
    service: Rc<S>,
    context: Rc<ServeContext>,
) -> Result<(), ConnError> {
    let (guard, transport) = Guard::new(io);
    let limits = context.limits;
    let handshake = timeout(limits.header_time, builder().handshake::<_, Bytes>(guard)).await;
    let mut connection = handshake.map_err(|_| ConnError::Refused(reason::Reason::RequestTimeout))??;
    let load = Rc::new(Load::new());
    let watch = context.closing.watch();
    let mut timer = Timer::default();
    let mut closing = false;
    let mut looked = Instant::now();
    loop {
        let event = poll_fn(|cx| {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    return Poll::Ready(Event::Stream(request, respond));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Failed(error)),
                Poll::Ready(None) => return Poll::Ready(Event::Ended),
                Poll::Pending => {}
            }
            if !closing && watch.poll(cx).is_ready() {
                return Poll::Ready(Event::Closing);
            }
            timer.poll(cx, load.due(looked, closing, &limits)).map(|()| Event::Due)
        })
        .await;
        match event {
            Event::Stream(request, respond) => {
                load.count_accepted();
                if load.is_flooded() {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    let _ = timeout(limits.linger_time, poll_fn(|cx| connection.poll_closed(cx))).await;
                    return Err(ConnError::Refused(reason::Reason::Overloaded));
                }
                spawn(request, respond, &service, &context, &load);
            }
            // A peer that was told to go has gone.
            Event::Failed(_) if closing && load.running.get() == 0 => return Ok(()),
            Event::Failed(error) => return Err(error.into()),
            Event::Ended => return Ok(()),
            Event::Closing => {
                closing = true;
                connection.graceful_shutdown();
            }
            Event::Due => {
                looked = Instant::now();
                if transport
                    .blocked_since()
                    .is_some_and(|since| looked - since >= limits.stall_time)
                {
                    return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
                }
                if load.running.get() == 0 && looked - load.changed.get() >= limits.header_time {
                    // Said once, and waited for: a peer that has not gone by now is left.
                    if closing {
                        return Ok(());
                    }
                    closing = true;
                    connection.graceful_shutdown();
                }
            }
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buffer_size(STREAM_SEND_BUFFER);
    builder
}

fn spawn<S: RequestService + 'static>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    service: &Rc<S>,
    context: &Rc<ServeContext>,
    load: &Rc<Load>,
) {
    let (parts, recv) = request.into_parts();
    let grpc = route::is_grpc(&parts.headers);
    let bodiless = parts.method == http::Method::HEAD;
    match convert::request(parts, recv.is_end_stream(), context.origin) {
        Ok(head) => {
            load.running.set(load.running.get() + 1);
            let running = Running {
                load: load.clone(),
                service: service.clone(),
            };
            let context = context.clone();
            tokio::task::spawn_local(async move {
                let side = Message::H2(Stream::accepted(recv, respond));
                let mut exchange = Exchange::new(side, head, &context);
                running.service.handle(&mut exchange).await;
                exchange.end().await;
                if exchange.was_hasty() {
                    running.load.hasty.set(running.load.hasty.get() + 1);
                }
            });
        }
        Err(reason) => {
            service.refused(reason);
            answer(respond, reason, grpc, bodiless);
        }
    }
}

/// Answers a request that could not become an exchange.
fn answer(mut respond: SendResponse<Bytes>, reason: reason::Reason, grpc: bool, bodiless: bool) {
    let (head, body) = refuse::response(reason, grpc);
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    let ends = body.is_empty() || bodiless;
    // Fails only for a stream that is gone.
    if let Ok(mut send) = respond.send_response(response, ends)
        && !ends
    {
        let _ = send.send_data(body, true);
    }
}

impl Load {
    fn new() -> Self {
        Self {
            running: Cell::new(0),
            accepted: Cell::new(0),
            hasty: Cell::new(0),
            changed: Cell::new(Instant::now()),
        }
    }

    /// When the connection is to be looked at again.
    fn due(&self, looked: Instant, closing: bool, limits: &Limits) -> Instant {
        match (self.running.get(), closing) {
            (0, false) => self.changed.get().max(looked) + limits.idle_time,
            (0, true) => self.changed.get().max(looked) + limits.header_time,
            _ => looked + limits.stall_time,
        }
    }

    fn count_accepted(&self) {
        self.accepted.set(self.accepted.get() + 1);
        self.changed.set(Instant::now());
    }

    /// Streams that are reset as soon as they are opened cost us a task and an upstream request each, and count against no
    /// limit of the protocol's (CVE-2023-44487). Clients that cancel some of many are not meant.
    fn is_flooded(&self) -> bool {
        let hasty = self.hasty.get();
        (hasty >= HASTY_RESETS && hasty * 2 >= self.accepted.get()) || self.running.get() >= 2 * STREAMS as usize
    }
}

impl<S: RequestService> Drop for Running<S> {
    fn drop(&mut self) {
        self.load.running.set(self.load.running.get().saturating_sub(1));
        self.load.changed.set(Instant::now());
        if std::thread::panicking() {
            self.service.refused(reason::Reason::Internal);
        }
    }
}
