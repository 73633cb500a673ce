//! Speaks on a connection that was dialled.
//!
//! In: an [`Io`] to an app or a peer. Out: an [`Upstream`] that an exchange can be forwarded to.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::h2::client::SendRequest;
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::http::h1::Connection;
use crate::http::h2::guard::{Guard, State};
use crate::http::limits::{CONNECTION_WINDOW, HEAD_BYTES, Limits, STREAM_SEND_BUFFER, STREAM_WINDOW, STREAMS};
use crate::http::server::ConnError;
use crate::http::timer::Timer;
use crate::io::{Io, IoKind};
use crate::trust::Proof;

/// A peer of the mesh that says nothing for so long while streams are open is asked whether it is there; and given up after as
/// long again. Apps are not asked: gRPC servers take frequent pings for an attack.
const PING_AFTER: Duration = Duration::from_secs(5);

/// How long an app may take to say what its HTTP/2 can do. It says so at once, or never.
const SETTINGS_TIME: Duration = Duration::from_secs(1);

/// A connection that a request can be forwarded to.
#[expect(
    clippy::large_enum_variant,
    reason = "made and dropped on the stack; a box would be an allocation per request"
)]
#[derive(Debug)]
pub enum Upstream {
    /// HTTP/1.1: one request at a time, driven by whoever forwards.
    H1(H1Client),
    /// HTTP/2: a clone per request; driven by [`H2Driver`].
    H2(H2Client),
}

/// An HTTP/1.1 connection, idle between exchanges. No task belongs to it.
#[derive(Debug)]
pub struct H1Client {
    pub(crate) connection: Connection,
    /// Requests that were begun on it.
    pub(crate) uses: u64,
    since: Instant,
    /// No exchange is under way, and the last one ended so that another may follow.
    pub(crate) sound: bool,
    /// It leads to a peer of the mesh, whose identity was verified.
    pub(crate) peer: bool,
    /// What proves that.
    pub(crate) proof: Option<Proof>,
}

/// An HTTP/2 connection; clones share it. When the last clone is gone and its streams have ended, it closes.
#[derive(Clone, Debug)]
pub struct H2Client {
    pub(crate) sender: SendRequest<Bytes>,
    streams: Streams,
    state: Rc<State>,
    /// It leads to a peer of the mesh, whose identity was verified.
    pub(crate) peer: bool,
}

/// Exchanges that are under way on one HTTP/2 connection. Counted here, because the `h2` crate does not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Rc<Cell<usize>>);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenStream(Streams);

/// Moves the bytes of one HTTP/2 connection. Spawn [`H2Driver::run`] as a local task.
#[derive(Debug)]
pub struct H2Driver {
    connection: ::h2::client::Connection<Guard, Bytes>,
    state: Rc<State>,
    streams: Streams,
    limits: Limits,
    asks: bool,
}

/// Takes a connection for HTTP/1.1. Nothing is sent. `proof`: of who is there, if he has shown anything.
pub fn handshake_h1(io: Io, proof: Option<Proof>) -> H1Client {
    H1Client {
        peer: io.kind() == IoKind::Client,
        connection: Connection::new(io),
        uses: 0,
        since: Instant::now(),
        sound: true,
        proof,
    }
}

/// Takes a connection for HTTP/2 and sends the preface. Bounded by [`Limits::header_time`].
pub async fn handshake_h2(io: Io, limits: Limits) -> Result<(H2Client, H2Driver), ConnError> {
    let asks = io.kind() == IoKind::Client;
    let (guard, state) = Guard::new(io);
    let mut builder = ::h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buffer_size(STREAM_SEND_BUFFER);
    let handshake = timeout(limits.header_time, builder.handshake(guard)).await;
    let (sender, connection) = handshake.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let streams = Streams::default();
    Ok((
        H2Client {
            sender,
            streams: streams.clone(),
            state: state.clone(),
            peer: asks,
        },
        H2Driver {
            connection,
            state,
            streams,
            limits,
            asks,
        },
    ))
}

impl Upstream {
    /// Whether it leads to a peer of the mesh, whose identity was verified.
    pub(crate) fn is_to_peer(&self) -> bool {
        match self {
            Self::H1(client) => client.peer,
            Self::H2(client) => client.peer,
        }
    }
}

impl H1Client {
    /// Whether it can take a request: kept alive by the last one, silent since, and not closed. Makes no system call unless
    /// the socket has become readable. A pool asks before it hands the connection out.
    pub fn is_quiet(&mut self) -> bool {
        self.sound && !self.proof.as_mut().is_some_and(Proof::is_void) && self.connection.is_quiet()
    }

    /// Since when it is there.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Whether it has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.uses > 1
    }
}

impl H2Client {
    /// Whether new streams may still be opened: no GOAWAY came, and the connection stands.
    pub fn is_open(&self) -> bool {
        let mut sender = self.sender.clone();
        !matches!(
            sender.poll_ready(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(Err(_))
        )
    }

    /// Whether the server takes an upgrade, as an extended CONNECT (RFC 8441). Waits, bounded, for its settings.
    /// Cancel safe.
    pub async fn takes_upgrades(&self) -> bool {
        // Who says nothing takes none.
        let _ = timeout(SETTINGS_TIME, self.state.heard()).await;
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// Exchanges that are under way on it now.
    pub fn streams(&self) -> usize {
        self.streams.0.get()
    }

    /// Whether another stream may be opened at once, without waiting for one to end.
    pub fn has_room(&self) -> bool {
        self.streams() < self.sender.current_max_send_streams().min(STREAMS as usize)
    }

    /// Counts an exchange.
    pub(crate) fn count(&self) -> OpenStream {
        self.streams.0.set(self.streams() + 1);
        OpenStream(self.streams.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Self(Streams(count)) = self;
        count.set(count.get().saturating_sub(1));
    }
}

impl H2Driver {
    /// Runs until the connection ends. Not cancel safe: dropping it ends the connection.
    pub async fn run(mut self) -> Result<(), ConnError> {
        let mut timer = Timer::default();
        let mut ping = self.connection.ping_pong().filter(|_| self.asks);
        let mut asked = false;
        let mut read = self.state.bytes_read();
        let step = if self.asks { PING_AFTER } else { self.limits.stall_time };
        let mut due = Instant::now() + step;
        poll_fn(|cx| {
            if let Poll::Ready(ended) = std::pin::Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(ended.map_err(ConnError::from));
            }
            while timer.poll(cx, due).is_ready() {
                let now = Instant::now();
                due = now + step;
                let blocked = self
                    .state
                    .blocked_since()
                    .is_some_and(|since| now - since >= self.limits.stall_time);
                let silent = self.state.bytes_read() == read && self.streams.0.get() > 0;
                if blocked || (silent && asked) {
                    return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
                }
                asked = silent
                    && ping
                        .as_mut()
                        .is_some_and(|ping| ping.send_ping(::h2::Ping::opaque()).is_ok());
                read = self.state.bytes_read();
            }
            if let Some(ping) = &mut ping
                && let Poll::Ready(Ok(_)) = ping.poll_pong(cx)
            {
                asked = false;
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// SETTINGS_ENABLE_CONNECT_PROTOCOL = 1 (RFC 8441 section 3), alone in a SETTINGS frame.
    const SETTINGS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1];

    /// What a server that says these pieces, a while after each other, is found to take; and after how long.
    async fn found(pieces: &'static [&'static [u8]], stays: bool) -> (bool, Duration) {
        let say = async move {
            let (near, mut far) = Io::pipe(4096);
            let (client, driver) = handshake_h2(near, Limits::default()).await.unwrap();
            spawn_local(driver.run());
            spawn_local(async move {
                for piece in pieces {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    far.write_all(piece).await.unwrap();
                }
                if stays {
                    std::future::pending::<()>().await;
                }
            });
            let begun = Instant::now();
            (client.takes_upgrades().await, begun.elapsed())
        };
        LocalSet::new().run_until(say).await
    }

    #[tokio::test(start_paused = true)]
    async fn settings_are_heard_in_whatever_pieces_they_come() {
        const PIECES: [&[&[u8]]; 4] = [
            &[&SETTINGS],
            &[SETTINGS.split_at(2).0, SETTINGS.split_at(2).1],
            &[SETTINGS.split_at(9).0, SETTINGS.split_at(9).1],
            &[SETTINGS.split_at(14).0, SETTINGS.split_at(14).1],
        ];
        for pieces in PIECES {
            let (takes, took) = found(pieces, true).await;
            assert!(takes && took < SETTINGS_TIME, "{pieces:?} {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_of_it_or_goes_takes_none_and_who_goes_is_not_waited_for() {
        let (takes, took) = found(&[&[0, 0, 0, 4, 0, 0, 0, 0, 0]], true).await;
        assert!(!takes && took < SETTINGS_TIME, "{took:?}");
        const PIECES: [&[&[u8]]; 3] = [&[], &[SETTINGS.split_at(5).0], &[b"HTTP/1.1 400 Bad Request\r\n\r\n"]];
        for pieces in PIECES {
            let (takes, took) = found(pieces, false).await;
            assert!(!takes && took < SETTINGS_TIME, "{pieces:?} {took:?}");
        }
        let (takes, took) = found(&[], true).await;
        assert!(!takes && took == SETTINGS_TIME, "{took:?}");
    }
}
