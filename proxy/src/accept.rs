//! Accept: connections in, one local task each.
//!
//! In: a listening socket. Out: a socket, the caller's address and a slot, which bounds how many there are at once. The loop
//! never ends by itself: a full table of open files is waited out.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use weft_model::reason::Reason;

use crate::connect::tune;
use crate::observe::metrics::{Direction, Metrics};

/// Connections that the kernel completes before we take them.
const BACKLOG: i32 = 4096;
/// How long a lack of file descriptors is waited out.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How many connections of one direction a worker holds at once.
#[derive(Debug)]
pub struct Slots {
    direction: Direction,
    metrics: Rc<Metrics>,
    free: Cell<usize>,
    open: Cell<usize>,
    changed: Notify,
}

/// One connection's place. Given back when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Rc<Slots>,
}

impl Slots {
    /// So many.
    pub fn new(most: usize, direction: Direction, metrics: Rc<Metrics>) -> Rc<Self> {
        Rc::new(Self { direction, metrics, free: Cell::new(most.max(1)), open: Cell::new(0), changed: Notify::new() })
    }

    /// How many are taken.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Waits until none is taken. Cancel safe.
    pub async fn all_free(&self) {
        while self.open.get() > 0 {
            self.changed.notified().await;
        }
    }

    async fn take(self: &Rc<Self>) -> Slot {
        while self.free.get() == 0 {
            self.changed.notified().await;
        }
        self.free.set(self.free.get() - 1);
        self.open.set(self.open.get() + 1);
        Slot { slots: self.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.slots;
        slots.free.set(slots.free.get() + 1);
        slots.open.set(slots.open.get() - 1);
        slots.changed.notify_waiters();
        // A defect costs the one connection whose task unwinds here, and is counted.
        if std::thread::panicking() {
            slots.metrics.refused(Reason::Internal, slots.direction);
        }
    }
}

/// A listener that shares its port with those of the other workers. A v6 wildcard takes v4 as well.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections for ever, and hands each to `each`, which spawns its task. While all slots are taken, connections wait
/// in the kernel.
pub async fn accept(listener: &TcpListener, slots: &Rc<Slots>, each: impl Fn(TcpStream, SocketAddr, Slot)) {
    loop {
        let slot = slots.take().await;
        match listener.accept().await {
            Ok((socket, client)) => {
                // The connection may be gone already; then its first read says so.
                let _ = tune(&SockRef::from(&socket));
                each(socket, client, slot);
            }
            Err(error) if ends_soon(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                drop(slot);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Errors of the one connection that was to be accepted, not of the listener.
fn ends_soon(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Lets the other side see a reset instead of an orderly end.
pub fn reset(socket: &TcpStream) {
    // A socket that is gone needs no reset.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
