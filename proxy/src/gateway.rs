//! Gateway: the door of a network that others do not reach.
//!
//! In: connections of other clusters' proxies. Out: the same bytes, at exactly the endpoint that the client chose. What is
//! looked at is the ClientHello, and nothing of it is answered here: TLS is between the two pods, and so are identity and
//! policy. No key is here that could open it. The rooms come in this order: accept, [`bounds`], mtls (the ClientHello),
//! [`table`], connect, forward. What is not the mesh's, or not exported, is closed without a byte, and counted ([`tally`]).

pub mod bounds;
pub mod follow;
pub mod table;
pub mod tally;
pub mod vanished;

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use rustls::server::Accepted;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};
use weft_model::sni;

use crate::accept::{Slots, accept};
use crate::connect::Dialer;
use crate::forward::tcp::{Ended, Flow, Outcome, pump_until};
use crate::io::Io;
use crate::mtls::{self, Begins, Hop};
use crate::observe::metrics::{Direction, Metrics, Registry};
use crate::refuse;
use crate::serve::Phase;

use bounds::{Bounds, Limits, Open, Seat};
use table::Table;
use tally::{Fate, Tally};
use vanished::Watch;

/// The port that other clusters dial.
pub const PORT: u16 = 15_443;

/// How often, while the process drains, it is looked whether what was said has been answered.
const OWED: Duration = Duration::from_secs(1);
/// How many times longer than between two pods a side of a connection of HTTP/1.1 may be silent: of what it carries, requests
/// with a body and streams can't be asked again by the client, and the gateway doesn't see which it is.
const H1_PATIENCE: u32 = 2;
/// The same of HTTP/2, whose clients notice by themselves that an endpoint has vanished (they ask it), and of mere bytes. Most of
/// what these carry can't be asked again, and outlasts a short outage so.
const LONG_PATIENCE: u32 = 10;

/// One worker of a gateway.
#[derive(Debug)]
pub struct Gateway {
    table: watch::Receiver<Arc<Table>>,
    dialer: Dialer,
    limits: Limits,
    bounds: Rc<Bounds>,
    tally: Tally,
    metrics: Rc<Metrics>,
}

/// What a client asks for.
#[derive(Debug)]
struct Asked {
    /// The name of the endpoint that it has chosen.
    name: String,
    /// What it is to carry, as it says.
    hop: Hop,
}

/// A connection that is not passed on.
#[derive(Debug)]
struct Refused {
    fate: Fate,
    /// What it asked for.
    name: Option<String>,
}

impl Gateway {
    /// For one worker, called on its thread. `table`: where connections may go, as it changes; the dialer's handshake
    /// timeout is how long a ClientHello may take; `open`: what all workers hold.
    pub fn new(
        table: watch::Receiver<Arc<Table>>,
        dialer: Dialer,
        limits: Limits,
        open: Open,
        registry: &Arc<Registry>,
    ) -> Rc<Self> {
        Rc::new(Self {
            table,
            dialer,
            limits,
            bounds: Bounds::new(limits, open),
            tally: Tally::new(registry),
            metrics: Rc::new(Metrics::new(registry)),
        })
    }

    /// Passes connections on until the process ends: once it drains it accepts for a while yet, and this is over when none is
    /// left after that. To be run within a `LocalSet`: what is still open when the process has ended is dropped with that.
    pub async fn serve(self: Rc<Self>, listeners: Vec<TcpListener>, mut phase: watch::Receiver<Phase>) {
        // One more than there is room for, so that those who come then are refused and try another gateway, instead of
        // waiting in the kernel.
        let slots = Slots::new(
            self.limits.connections.saturating_add(1),
            Direction::Inbound,
            self.metrics.clone(),
        );
        for listener in listeners {
            spawn_local(self.clone().listen(listener, slots.clone(), phase.clone()));
        }
        // An error says that whoever decides is gone: then it is over as well.
        let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
        let rest = async {
            sleep(self.limits.linger).await;
            slots.all_free().await;
        };
        tokio::select! {
            () = rest => {}
            _ = phase.wait_for(|phase| *phase >= Phase::Ended) => {}
        }
    }

    /// Accepts until the process drains, and for a while after: who was led here must not be refused.
    async fn listen(self: Rc<Self>, listener: TcpListener, slots: Rc<Slots>, mut phase: watch::Receiver<Phase>) {
        let own = phase.clone();
        let each = |socket: TcpStream, client: SocketAddr, slot| {
            let Some(seat) = self.bounds.seat(client.ip()) else {
                self.tally.refused(Fate::TooMany, client, None);
                return refuse::close(&Io::plain(socket));
            };
            let (gateway, phase) = (self.clone(), own.clone());
            spawn_local(async move {
                let _slot = slot;
                gateway.connection(socket, client, seat, phase).await;
            });
        };
        let over = async {
            // An error as above.
            let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
            sleep(self.limits.linger).await;
        };
        tokio::select! {
            () = accept(&listener, &slots, each) => {}
            () = over => {}
        }
    }

    /// Serves one connection to its end.
    async fn connection(&self, socket: TcpStream, client: SocketAddr, mut seat: Seat, phase: watch::Receiver<Phase>) {
        let _open = self.tally.open();
        let mut io = Io::plain(socket);
        // Boxed: it is over once bytes are passed on, for as long as that lasts.
        match Box::pin(self.lead(&mut io, &mut seat)).await {
            Ok((endpoint, hop)) => self.pass(io, endpoint, hop, phase).await,
            Err(Refused { fate, name }) => {
                self.tally.refused(fate, client, name.as_deref());
                refuse::close(&io);
            }
        }
    }

    /// The connection to the endpoint that a client asks for, and what it is to carry. Nothing of the client's has been sent
    /// there.
    async fn lead(&self, io: &mut Io, seat: &mut Seat) -> Result<(Io, Hop), Refused> {
        let Asked { name, hop } = self.asked(io).await?;
        let refused = |fate| Refused {
            fate,
            name: Some(name.clone()),
        };
        let Some(sni) = sni::parse(&name) else {
            return Err(refused(Fate::Malformed));
        };
        let found = self.table.borrow().find(&sni);
        let Some(to) = found else {
            return Err(refused(Fate::NotExported));
        };
        seat.known();
        let Some(_dial) = self.bounds.dial() else {
            return Err(refused(Fate::TooMany));
        };
        let dialled = self.dialer.tcp(to, None).await;
        let dialled = dialled.map_err(|_| refused(Fate::Unreachable))?;
        Ok((Io::plain(dialled), hop))
    }

    /// What the mesh's ClientHello asks for. It stays read ahead.
    async fn asked(&self, io: &mut Io) -> Result<Asked, Refused> {
        let within = self.dialer.handshake_timeout;
        let fate = match mtls::begins(io, within, within).await {
            Ok(Begins::Tls(accepted)) if mtls::is_mesh(&accepted) => match accepted.client_hello().server_name() {
                Some(name) => {
                    return Ok(Asked {
                        name: name.to_owned(),
                        hop: carries(&accepted),
                    });
                }
                None => Fate::NoSni,
            },
            Ok(Begins::Tls(_) | Begins::Plaintext) => Fate::NotMesh,
            Ok(Begins::Broken) => Fate::Malformed,
            Ok(Begins::Silent | Begins::Late) => Fate::Timeout,
            Ok(Begins::Ended) | Err(_) => Fate::Closed,
        };
        Err(Refused { fate, name: None })
    }

    /// Passes bytes on, both ways, until both sides have ended, or one has vanished, or neither has said anything for too
    /// long.
    async fn pass(&self, client: Io, endpoint: Io, hop: Hop, phase: watch::Receiver<Phase>) {
        self.tally.count(Fate::Passed);
        let moved = Cell::new((Instant::now(), Flow::Up));
        let count = |flow, bytes| {
            moved.set((Instant::now(), flow));
            self.tally.moved(flow, bytes);
        };
        let mut watch = Watch::new(self.limits.silence * patience(hop));
        let gone = |cx: &mut Context<'_>, client: &Io, endpoint: &Io| watch.poll(cx, client, endpoint);
        // What is quiet need not last as long as the process drains, where that shows that it waits for nothing.
        let ends = (hop == Hop::H1).then_some(phase);
        let pumped = pump_until(quiet(ends, self.limits.drain, &moved), gone, client, endpoint, count);
        tokio::select! {
            // Biased: what moves is looked at before the clock.
            biased;
            outcome = pumped => self.ended(&outcome),
            () = silence(&moved, self.limits.idle) => self.tally.count(Fate::Idle),
        }
    }

    fn ended(&self, outcome: &Outcome) {
        let Outcome { up, down, ended } = outcome;
        tracing::debug!(up, down, ?ended, "connection through the gateway ended");
        match ended {
            Ended::Upstream(error) if has_vanished(error) => self.tally.count(Fate::EndpointVanished),
            Ended::Downstream(error) if has_vanished(error) => self.tally.count(Fate::ClientVanished),
            Ended::Cleanly | Ended::Upstream(_) | Ended::Downstream(_) => {}
        }
    }
}

/// What a ClientHello of the mesh offers to carry. Clients offer one thing; of several it is the one that needs most care.
fn carries(accepted: &Accepted) -> Hop {
    let care = [Hop::Tcp, Hop::H2];
    care.into_iter()
        .find(|hop| mtls::offers(accepted, *hop))
        .unwrap_or(Hop::H1)
}

/// How many times longer a side may be silent than [`Limits::silence`].
fn patience(hop: Hop) -> u32 {
    match hop {
        Hop::H1 => H1_PATIENCE,
        Hop::H2 | Hop::Tcp => LONG_PATIENCE,
    }
}

/// Whether a side has failed because it is not there: by our own word ([`Watch`]), or by the kernel's, which asks where
/// nothing is under way (`connect::tune`).
fn has_vanished(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// When something has last moved, and which way.
type Moved = Cell<(Instant, Flow)>;

/// Waits until the process drains and nothing has moved for as long as is left of that. A client sends requests through a
/// gateway on connections that are younger than half of it (`pool::BEHIND_GATEWAY`), so what is quiet then, and was not the
/// client's to begin with, waits for none; it is told so by the end of what it reads, and ends the rest. TLS lies above: it
/// can't be told otherwise. A request that was not answered at all yet is waited for as long as there is time. That is
/// HTTP/1.1: of several requests on one connection, or of streams, what moves does not say whether any is left, and those have
/// `None`. Cancel safe.
async fn quiet(ends: Option<watch::Receiver<Phase>>, drain: Duration, moved: &Moved) {
    let Some(mut phase) = ends else {
        return pending().await;
    };
    // An error says that whoever decides is gone: then the process ends at once.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    let end = Instant::now() + drain;
    loop {
        let (now, (last, flow)) = (Instant::now(), moved.get());
        let (due, look) = match flow {
            Flow::Up => (end, now + OWED),
            // Half way from the last move to the end it was quiet for as long as is left.
            Flow::Down => (last + end.saturating_duration_since(last) / 2, end),
        };
        if now >= due {
            return;
        }
        sleep_until(due.min(look)).await;
    }
}

/// Waits until nothing has moved for so long. Cancel safe.
async fn silence(moved: &Moved, idle: Duration) {
    loop {
        let due = moved.get().0 + idle;
        if Instant::now() >= due {
            return;
        }
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests;
