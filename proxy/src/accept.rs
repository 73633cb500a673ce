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
    most: usize,
    open: Cell<usize>,
    /// Those of nobody known.
    strangers: Cell<usize>,
    changed: Notify,
}

/// One connection's place. Given back when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Rc<Slots>,
    stranger: Cell<bool>,
}

impl Slots {
    /// So many.
    pub fn new(most: usize, direction: Direction, metrics: Rc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            direction,
            metrics,
            most: most.max(1),
            open: Cell::new(0),
            strangers: Cell::new(0),
            changed: Notify::new(),
        })
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

    async fn any_free(&self) {
        while self.open.get() >= self.most {
            self.changed.notified().await;
        }
    }

    /// Takes one, and one more than there are if need be.
    pub(crate) fn take(self: &Rc<Self>) -> Slot {
        self.open.set(self.open.get() + 1);
        Slot {
            slots: self.clone(),
            stranger: Cell::new(false),
        }
    }
}

impl Slot {
    /// Says that nobody knows whose connection it is. `false`: strangers have three quarters of all places already, and the
    /// rest is for peers.
    #[must_use]
    pub fn is_of_stranger(&self) -> bool {
        let slots = &self.slots;
        if !self.stranger.get() {
            let share = (slots.most - slots.most / 4).max(1);
            if slots.strangers.get() >= share {
                return false;
            }
            slots.strangers.set(slots.strangers.get() + 1);
            self.stranger.set(true);
        }
        true
    }

    /// Says that it is known whose connection it is.
    pub fn is_of_peer(&self) {
        if self.stranger.replace(false) {
            self.slots.strangers.set(self.slots.strangers.get() - 1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.is_of_peer();
        let slots = &self.slots;
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
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
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
        // Several listeners share the slots, so they may be overdrawn by one connection each.
        slots.any_free().await;
        match listener.accept().await {
            Ok((socket, client)) => {
                // The connection may be gone already; then its first read says so.
                let _ = tune(&SockRef::from(&socket));
                each(socket, client, slots.take());
            }
            Err(error) if ends_soon(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::observe::metrics::Registry;

    #[tokio::test]
    async fn a_panic_costs_one_connection_and_is_counted() {
        let registry = Registry::new();
        let metrics = Rc::new(Metrics::new(&registry));
        let slots = Slots::new(10, Direction::Inbound, metrics);
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let to = listener.local_addr().unwrap();
        let local = LocalSet::new();
        let seen = Rc::new(Cell::new(0));
        let accepting = async {
            let each = |socket: TcpStream, _, slot: Slot| {
                let number = seen.get();
                seen.set(number + 1);
                spawn_local(async move {
                    let _held = (slot, socket);
                    assert!(number != 0, "a defect, in the first connection only");
                    std::future::pending::<()>().await;
                });
            };
            accept(&listener, &slots, each).await;
        };
        let clients = async {
            let mut first = TcpStream::connect(to).await.unwrap();
            // It ends with the task; the loop goes on.
            let _ = first.read(&mut [0]).await;
            let _second = TcpStream::connect(to).await.unwrap();
            while seen.get() < 2 {
                tokio::task::yield_now().await;
            }
            slots.open()
        };
        let open = local.run_until(async {
            tokio::select! {
                () = accepting => unreachable!(),
                open = clients => open,
            }
        });
        assert_eq!(open.await, 1, "the second");
        let text = registry.text().finish();
        assert!(
            text.lines()
                .any(|l| l.starts_with("weft_refusals_total{") && l.contains("\"internal\"")),
            "{text}"
        );
    }

    #[test]
    fn strangers_leave_a_quarter_of_the_slots_to_peers() {
        let slots = Slots::new(8, Direction::Inbound, Rc::new(Metrics::new(&Registry::new())));
        let mut held: Vec<Slot> = (0..6).map(|_| slots.take()).collect();
        assert!(held.iter().all(Slot::is_of_stranger));
        assert!(held[0].is_of_stranger(), "counted once");
        let seventh = slots.take();
        assert!(!seventh.is_of_stranger());
        // One turns out to be a peer, another leaves.
        held[0].is_of_peer();
        assert!(seventh.is_of_stranger());
        let eighth = slots.take();
        assert!(!eighth.is_of_stranger());
        held.pop();
        assert!(eighth.is_of_stranger());
    }

    #[tokio::test]
    async fn more_connections_than_there_are_slots_wait_in_the_kernel() {
        let metrics = Rc::new(Metrics::new(&Registry::new()));
        let slots = Slots::new(1, Direction::Inbound, metrics);
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let to = listener.local_addr().unwrap();
        let held = std::cell::RefCell::new(Vec::new());
        let accepting = accept(&listener, &slots, |socket, _, slot| {
            held.borrow_mut().push((socket, slot))
        });
        let clients = async {
            let _both = (
                TcpStream::connect(to).await.unwrap(),
                TcpStream::connect(to).await.unwrap(),
            );
            while held.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(held.borrow().len(), 1);
            let first = held.borrow_mut().pop();
            drop(first);
            while held.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = accepting => unreachable!(),
            () = clients => {}
        }
    }
}
