//! The mesh's names: a small authoritative DNS server on the node side.
//!
//! In: a [`Zone`], made anew from Services and ready pods whenever one of them changes. Out: answers over UDP and TCP.
//! Nothing is forwarded: pods can't reach anything outside the mesh, so a name outside does not exist.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use weft_daemon::drain::Tasks;

mod answer;
mod zone;

pub use answer::answer;
pub use zone::{Named, NamedPod, Zone};

/// The domain of all names, as Kubernetes has it by default.
pub const DOMAIN: &str = "cluster.local";
/// The domain of what clusters share (KEP-1645).
pub const CLUSTERSET: &str = "clusterset.local";
/// How long a client may keep an answer. Short, because headless Services answer with pods, and pods come and go.
pub const TTL_SECONDS: u32 = 2;
/// What a UDP socket holds for us, in bytes: thousands of queries, for as long as this process is not given a processor.
const RECEIVE_BUFFER: usize = 4 << 20;
/// TCP connections served at once. A resolver holds one for moments; more than this is a fault of its own.
const TCP_SLOTS: usize = 64;
/// How long a TCP client may be silent (RFC 7766, section 6.2.3: a few seconds).
const TCP_PATIENCE: Duration = Duration::from_secs(5);
/// The largest message over TCP (RFC 1035, section 4.2.2: the length has two bytes).
const TCP_MAX: usize = u16::MAX as usize;

/// Listens on port 53 of these addresses, UDP and TCP, and answers from the newest zone, on a thread of its own: a query
/// that is lost costs its client five seconds, so it must not wait for a supervisor that starts twenty pods.
///
/// Fails where an address can't be listened on.
pub fn serve(addresses: &[IpAddr], zone: watch::Receiver<Arc<Zone>>, tasks: &Tasks) -> io::Result<()> {
    let tasks = tasks.named("dns");
    let sockets = addresses.iter().map(|address| listen(SocketAddr::new(*address, 53)));
    let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("dns".to_owned()).spawn(move || {
        runtime.block_on(async {
            if let Err(error) = answer_all(sockets, &zone, &tasks) {
                tracing::error!(%error, "names are not answered");
            }
            tasks.forced().await;
        });
    })?;
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let udp = std::net::UdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    if let Err(error) = setsockopt(&udp, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
        tracing::debug!(%error, "a larger buffer for DNS queries");
    }
    let tcp = std::net::TcpListener::bind(address)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

fn answer_all(
    sockets: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
    zone: &watch::Receiver<Arc<Zone>>,
    tasks: &Tasks,
) -> io::Result<()> {
    for (udp, tcp) in sockets {
        tasks.spawn(serve_udp(UdpSocket::from_std(udp)?, zone.clone()));
        tasks.spawn(serve_tcp(TcpListener::from_std(tcp)?, zone.clone(), tasks.clone()));
    }
    Ok(())
}

/// Which of a name's addresses an answer begins with.
fn turn() -> usize {
    usize::from(rand::random::<u16>())
}

/// Answers datagrams until it is dropped.
async fn serve_udp(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // What one client's closed socket left here (ECONNREFUSED) says nothing about the next.
            Err(error) => {
                tracing::debug!(%error, "receiving a DNS query");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let zone = zone.borrow().clone();
        let Some(reply) = answer(&zone, &buffer[..length], answer::Transport::Udp, turn()) else {
            continue;
        };
        if let Err(error) = socket.send_to(&reply, peer).await {
            tracing::debug!(%error, %peer, "sending a DNS answer");
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: watch::Receiver<Arc<Zone>>, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(TCP_SLOTS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting a DNS connection");
                // Out of descriptors, at worst: the others need time to close theirs.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let zone = zone.clone();
        tasks.spawn(async move {
            if let Err(error) = converse(stream, zone).await {
                tracing::debug!(%error, "a DNS connection");
            }
            drop(slot);
        });
    }
}

/// Answers one connection's queries until the client closes or is silent for too long.
async fn converse(mut stream: TcpStream, zone: watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        let Ok(length) = timeout(TCP_PATIENCE, stream.read_u16()).await else {
            return Ok(());
        };
        let length = match length {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::from(length?),
        };
        query.resize(length, 0);
        timeout(TCP_PATIENCE, stream.read_exact(&mut query)).await??;
        let zone = zone.borrow().clone();
        let Some(reply) = answer(&zone, &query, answer::Transport::Tcp, turn()) else {
            return Ok(());
        };
        if reply.len() > TCP_MAX {
            return Ok(());
        }
        let mut framed = Vec::with_capacity(reply.len() + 2);
        framed.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        framed.extend_from_slice(&reply);
        timeout(TCP_PATIENCE, stream.write_all(&framed)).await??;
    }
}
