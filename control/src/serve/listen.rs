//! TLS: connections in, with who calls, from where, and until when.
//!
//! The accept loop never ends. Handshakes run beside it, each within its time; connections are capped, in all and for each
//! address; one that asks for nothing is cut.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use weft_certs::verify;
use weft_daemon::drain::Tasks;
use weft_model::identity::Identity;

use super::metrics::{Metrics, Turned};
use crate::authority::Issuer;

/// A handshake is two round trips and some arithmetic.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection without a call is looked at so often, and cut the second time.
const IDLE: Duration = Duration::from_secs(15);
/// Handshaken connections that wait for the server to take them: it takes them at once.
const QUEUE: usize = 16;

/// What limits callers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) per_address: usize,
}

/// For whom a port is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Door {
    /// Proxies of our own mesh.
    Proxies,
    /// Control planes of other clusters.
    Clusters,
    /// Whoever asks for our trust bundle.
    Anybody,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// From where, v4 in its own form.
    pub(crate) address: SocketAddr,
    /// The certificate that was shown and verified, if any.
    pub(crate) leaf: Option<Leaf>,
    connection: Arc<Shared>,
}

/// A verified certificate of a caller.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    pub(crate) not_after: SystemTime,
}

#[derive(Debug, Default)]
struct Shared {
    cut: CancellationToken,
    /// Calls that run.
    calls: AtomicUsize,
    /// Calls that ever began.
    begun: AtomicU64,
}

/// One call. The connection is not idle while it lives.
#[derive(Debug)]
pub(crate) struct Call(Arc<Shared>);

/// A connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct Connection {
    io: TlsStream<TcpStream>,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: OwnedSemaphorePermit,
    _seat: Seat,
}

/// How many connections there are from each address.
#[derive(Clone, Debug, Default)]
struct Seats(Arc<Mutex<HashMap<IpAddr, usize>>>);

#[derive(Debug)]
struct Seat {
    seats: Seats,
    address: IpAddr,
}

impl Peer {
    /// Marks the connection as used for as long as the value lives.
    pub(crate) fn call(&self) -> Call {
        self.connection.calls.fetch_add(1, Ordering::Relaxed);
        self.connection.begun.fetch_add(1, Ordering::Relaxed);
        Call(self.connection.clone())
    }

    /// Ends the connection where it stands: for callers that do not read what would end it gently.
    pub(crate) fn cut(&self) {
        self.connection.cut.cancel();
    }

    #[cfg(test)]
    pub(crate) fn of(address: SocketAddr, leaf: Option<Leaf>) -> Self {
        Self {
            address,
            leaf,
            connection: Arc::default(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts until the tasks drain. Gives connections in order of their handshakes.
pub(crate) fn connections(
    listener: TcpListener,
    door: Door,
    issuer: Arc<Issuer>,
    limits: Limits,
    metrics: Arc<Metrics>,
    tasks: &Tasks,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (out, connections) = mpsc::channel(QUEUE);
    let handshakes = tasks.named("connections");
    tasks.named("accept").spawn(accept(
        listener,
        Accepted {
            door,
            issuer,
            metrics,
            out,
            seats: Seats::default(),
        },
        limits,
        handshakes,
    ));
    connections
}

/// What a handshake needs.
#[derive(Clone)]
struct Accepted {
    door: Door,
    issuer: Arc<Issuer>,
    metrics: Arc<Metrics>,
    out: mpsc::Sender<io::Result<Connection>>,
    seats: Seats,
}

async fn accept(listener: TcpListener, accepted: Accepted, limits: Limits, handshakes: Tasks) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut logged: Option<Instant> = None;
    loop {
        let next = async {
            // What is over the limit waits in the kernel.
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((slot, listener.accept().await))
        };
        let next = tokio::select! {
            biased; // the end first: nobody needs a connection that is about to be closed
            () = handshakes.draining() => return,
            next = next => next,
        };
        let Some((slot, next)) = next else { return };
        let (tcp, address) = match next {
            Ok(next) => next,
            Err(error) => {
                // Out of descriptors, say. Others will be freed; the log must not fill meanwhile.
                if logged.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                    tracing::warn!(%error, "accepting a connection failed");
                    logged = Some(Instant::now());
                }
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let Some(seat) = accepted.seats.take(address.ip(), limits.per_address) else {
            accepted.metrics.turned_away(Turned::Address);
            continue;
        };
        let accepted = accepted.clone();
        handshakes.spawn(async move {
            if let Some(shared) = accepted.handshake(tcp, address, slot, seat).await {
                watch_idle(&shared).await;
            }
        });
    }
}

impl Accepted {
    async fn handshake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
        seat: Seat,
    ) -> Option<Arc<Shared>> {
        // A batch is a few packets that somebody waits for. Without it everything still works.
        let _ = tcp.set_nodelay(true);
        let config = match self.door {
            Door::Proxies => self.issuer.credential().server_config_optional(&[b"h2"]),
            Door::Clusters => self.issuer.federation().server_config_optional(&[b"h2"]),
            Door::Anybody => self.issuer.credential().server_config_open(&[super::bundle::ALPN]),
        };
        let io = match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a handshake failed");
                self.metrics.turned_away(Turned::Handshake);
                return None;
            }
            Err(_) => {
                self.metrics.turned_away(Turned::Timeout);
                return None;
            }
        };
        let leaf = match io.get_ref().1.peer_certificates() {
            None => None,
            Some(chain) => {
                match verify::peer_identity(chain).and_then(|identity| Ok((identity, verify::peer_not_after(chain)?))) {
                    Ok((identity, not_after)) => Some(Leaf { identity, not_after }),
                    Err(error) => {
                        // The handshake has verified it, so this cannot be; and if it were, it is nobody.
                        tracing::error!(%address, %error, "a verified certificate cannot be read");
                        self.metrics.turned_away(Turned::Handshake);
                        return None;
                    }
                }
            }
        };
        let shared = Arc::new(Shared::default());
        let peer = Peer {
            address,
            leaf,
            connection: shared.clone(),
        };
        let cut = Box::pin(shared.cut.clone().cancelled_owned());
        let connection = Connection {
            io,
            peer,
            cut,
            _slot: slot,
            _seat: seat,
        };
        self.out.send(Ok(connection)).await.ok()?;
        Some(shared)
    }
}

/// Cuts a connection on which nothing was asked between two looks. Ends with the connection.
async fn watch_idle(shared: &Shared) {
    let mut begun = None;
    loop {
        tokio::select! {
            () = shared.cut.cancelled() => return,
            () = sleep(IDLE) => {}
        }
        let now = shared.begun.load(Ordering::Relaxed);
        if shared.calls.load(Ordering::Relaxed) == 0 && begun == Some(now) {
            shared.cut.cancel();
        }
        begun = Some(now);
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    fn cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever watches it has nothing left to watch.
        self.peer.cut();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl Seats {
    fn take(&self, address: IpAddr, most: usize) -> Option<Seat> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.entry(address).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Seat {
            seats: self.clone(),
            address,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = seats.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_no_more_than_its_seats() {
        let seats = Seats::default();
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held: Vec<_> = (0..3).map(|_| seats.take(one, 3).unwrap()).collect();
        assert!(seats.take(one, 3).is_none());
        assert!(seats.take(other, 3).is_some());
        drop(held);
        assert!(seats.0.lock().unwrap().is_empty());
        assert!(seats.take(one, 3).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_for_nothing_is_cut_and_one_in_use_is_not() {
        let idle = Arc::new(Shared::default());
        timeout(IDLE * 3, watch_idle(&idle)).await.unwrap();
        assert!(idle.cut.is_cancelled());
        let peer = Peer::of("10.0.0.1:1".parse().unwrap(), None);
        let call = peer.call();
        assert!(timeout(IDLE * 10, watch_idle(&peer.connection)).await.is_err());
        drop(call);
        timeout(IDLE * 3, watch_idle(&peer.connection)).await.unwrap();
    }
}
