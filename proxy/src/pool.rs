//! Pool: connections to one endpoint (or one port of the app) that wait for their next request.
//!
//! One pool belongs to one worker and one destination: endpoint, expected identity and SNI. Within it, connections are told
//! apart by version and by the generation of our own leaf, so that a renewal replaces them gracefully: those of an older
//! leaf take no new request. Everything is bounded: idle connections by number and time, shared ones by number.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connect::{Carries, ConnectError};
use crate::http::client::{H1Client, H2Client};

/// Idle HTTP/1.1 connections kept per pool.
const IDLE_H1: usize = 256;
/// HTTP/2 connections per pool; beyond, requests wait for room on the ones there are.
const SHARED_H2: usize = 8;
/// An idle connection is kept for so long. Below what common servers keep (nginx: 75 s).
const IDLE_TIME: Duration = Duration::from_secs(55);

/// A connection through a gateway takes new requests for so long: half of a gateway's drain time by default. What it carries is
/// sealed, so a gateway that is to end cannot say so in it; but its clients have left it by then.
const BEHIND_GATEWAY: Duration = Duration::from_secs(15);

/// The connections to one destination.
#[derive(Debug, Default)]
pub struct Pool {
    /// How long a connection takes new requests. `None`: for as long as it stands.
    lasts: Option<Duration>,
    h1: RefCell<Vec<Idle>>,
    h2: RefCell<Vec<Shared>>,
    /// The dial of an HTTP/2 connection that is under way, which others wait for.
    dialling: RefCell<Option<Rc<Gate>>>,
}

/// All pools of a worker, to be swept.
#[derive(Debug, Default)]
pub struct Pools {
    pools: RefCell<Vec<Weak<Pool>>>,
}

/// What a request that needs an HTTP/2 connection is to do.
#[derive(Debug)]
pub enum Turn {
    /// Use this one.
    Use(H2Client),
    /// Dial, then say how it went: [`Ticket::dialled`].
    Dial(Ticket),
}

/// The right to dial. Dropped without a word, another takes over.
#[derive(Debug)]
pub struct Ticket {
    pool: Rc<Pool>,
    gate: Rc<Gate>,
}

#[derive(Debug)]
struct Idle {
    client: H1Client,
    leaf: u64,
    carries: Carries,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    client: H2Client,
    leaf: u64,
    since: Instant,
    used: Cell<Instant>,
}

#[derive(Debug, Default)]
struct Gate {
    failed: Cell<Option<ConnectError>>,
    done: Notify,
}

impl Pool {
    /// An idle HTTP/1.1 connection for this under this leaf or a newer one, the most recently used first.
    pub fn take_h1(&self, leaf: u64, carries: Carries) -> Option<H1Client> {
        let mut idle = self.h1.borrow_mut();
        while let Some(at) = idle.iter().rposition(|idle| idle.carries == carries) {
            let mut candidate = idle.remove(at);
            if candidate.leaf >= leaf && self.takes(candidate.client.since()) && candidate.client.is_quiet() {
                return Some(candidate.client);
            }
        }
        None
    }

    /// Keeps a connection that can take another request.
    pub fn put_h1(&self, client: H1Client, leaf: u64, carries: Carries, now: Instant) {
        let mut idle = self.h1.borrow_mut();
        if idle.len() < IDLE_H1 {
            idle.push(Idle {
                client,
                leaf,
                carries,
                since: now,
            });
        }
    }

    /// A shared HTTP/2 connection under this leaf or a newer one that has room, or the right to dial one. While another request dials,
    /// this waits for it, and shares its failure. Cancel safe.
    pub async fn turn_h2(self: &Rc<Self>, leaf: u64, now: Instant) -> Result<Turn, ConnectError> {
        loop {
            if let Some(client) = self.take_h2(leaf, now) {
                return Ok(Turn::Use(client));
            }
            let under_way = self.dialling.borrow().clone();
            let Some(gate) = under_way else {
                let gate = Rc::new(Gate::default());
                *self.dialling.borrow_mut() = Some(gate.clone());
                return Ok(Turn::Dial(Ticket {
                    pool: self.clone(),
                    gate,
                }));
            };
            gate.done.notified().await;
            if let Some(error) = gate.failed.get() {
                return Err(error);
            }
        }
    }

    fn take_h2(&self, leaf: u64, now: Instant) -> Option<H2Client> {
        let mut shared = self.h2.borrow_mut();
        // What is left of an older leaf, is too old itself, or is closing, ends with its last stream: the pool's was the handle that kept it.
        // Nor does one of a newer leaf go because of a request that has waited since before the renewal.
        shared.retain(|shared| shared.leaf >= leaf && self.takes(shared.since) && shared.client.is_open());
        let with_room = shared.iter().find(|shared| shared.client.has_room());
        let full = shared.len() >= SHARED_H2;
        let least = || {
            shared
                .iter()
                .filter(|_| full)
                .min_by_key(|shared| shared.client.streams())
        };
        let found = with_room.or_else(least)?;
        found.used.set(now);
        Some(found.client.clone())
    }

    /// Drops what has been idle for long, or was closed by the other side. Says whether anything is left.
    fn sweep(&self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE_TIME;
        self.h1
            .borrow_mut()
            .retain_mut(|idle| fresh(idle.since) && self.takes(idle.client.since()) && idle.client.is_quiet());
        let in_use = |shared: &Shared| shared.client.streams() > 0 || fresh(shared.used.get());
        self.h2
            .borrow_mut()
            .retain(|shared| shared.client.is_open() && self.takes(shared.since) && in_use(shared));
    }

    /// Whether a connection that is there since then takes new requests.
    fn takes(&self, since: Instant) -> bool {
        self.lasts.is_none_or(|lasts| since.elapsed() < lasts)
    }

    /// Whether no connection waits here.
    pub fn is_empty(&self) -> bool {
        self.h1.borrow().is_empty() && self.h2.borrow().is_empty()
    }
}

impl Ticket {
    /// Says how the dial went. The others who waited go on.
    pub fn dialled(self, result: Result<(&H2Client, u64), ConnectError>, now: Instant) {
        match result {
            Ok((client, leaf)) => {
                let shared = Shared {
                    client: client.clone(),
                    leaf,
                    since: now,
                    used: Cell::new(now),
                };
                self.pool.h2.borrow_mut().push(shared);
            }
            Err(error) => self.gate.failed.set(Some(error)),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        *self.pool.dialling.borrow_mut() = None;
        self.gate.done.notify_waiters();
    }
}

impl Pools {
    /// A pool that will be swept.
    pub fn open(&self) -> Rc<Pool> {
        self.add(Pool::default())
    }

    /// The same, of a destination that is reached through gateways.
    pub fn open_behind_gateways(&self) -> Rc<Pool> {
        self.add(Pool {
            lasts: Some(BEHIND_GATEWAY),
            ..Pool::default()
        })
    }

    fn add(&self, pool: Pool) -> Rc<Pool> {
        let pool = Rc::new(pool);
        let mut pools = self.pools.borrow_mut();
        // Amortised: the list is at most twice as long as what lives.
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.strong_count() > 0);
        }
        pools.push(Rc::downgrade(&pool));
        pool
    }

    /// Drops what has been idle for long, everywhere.
    pub fn sweep(&self, now: Instant) {
        self.pools.borrow_mut().retain(|pool| {
            pool.upgrade().is_some_and(|pool| {
                pool.sweep(now);
                true
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::client::{handshake_h1, handshake_h2};
    use crate::http::limits::Limits;
    use crate::io::Io;

    #[tokio::test]
    async fn connections_for_heads_and_for_bodies_are_kept_apart() {
        let (pool, now) = (Pool::default(), Instant::now());
        let (near, _far) = Io::pipe(1024);
        pool.put_h1(handshake_h1(near, None), 0, Carries::Heads, now);
        assert!(pool.take_h1(0, Carries::Bodies).is_none());
        assert!(pool.take_h1(0, Carries::Heads).is_some());
        assert!(pool.take_h1(0, Carries::Heads).is_none());
    }

    #[tokio::test]
    async fn a_request_from_before_a_renewal_takes_the_new_connection_and_one_from_after_not_the_old() {
        let pool = Rc::new(Pool::default());
        let (near, _far) = Io::pipe(64 * 1024);
        let (client, _driver) = handshake_h2(near, Limits::default()).await.unwrap();
        let now = Instant::now();
        let Turn::Dial(ticket) = pool.turn_h2(2, now).await.unwrap() else {
            panic!("there is none yet");
        };
        ticket.dialled(Ok((&client, 2)), now);
        assert!(
            matches!(pool.turn_h2(1, now).await.unwrap(), Turn::Use(_)),
            "older: it will do"
        );
        assert!(
            matches!(pool.turn_h2(2, now).await.unwrap(), Turn::Use(_)),
            "it is still there"
        );
        assert!(
            matches!(pool.turn_h2(3, now).await.unwrap(), Turn::Dial(_)),
            "newer: another is needed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_through_a_gateway_takes_no_new_requests_when_it_is_older_than_half_of_a_drain() {
        let pools = Pools::default();
        let (direct, behind) = (pools.open(), pools.open_behind_gateways());
        let start = Instant::now();
        let mut ends = Vec::new();
        for pool in [&direct, &behind] {
            let (near, far) = Io::pipe(64 * 1024);
            pool.put_h1(handshake_h1(near, None), 0, Carries::Bodies, start);
            ends.push(far);
            let (near, far) = Io::pipe(64 * 1024);
            let (client, driver) = handshake_h2(near, Limits::default()).await.unwrap();
            let Turn::Dial(ticket) = pool.turn_h2(0, start).await.unwrap() else {
                panic!("there is none yet");
            };
            ticket.dialled(Ok((&client, 0)), start);
            ends.push(far);
            std::mem::forget(driver);
        }
        let shares = async |pool: &Rc<Pool>| matches!(pool.turn_h2(0, Instant::now()).await, Ok(Turn::Use(_)));
        tokio::time::advance(BEHIND_GATEWAY - Duration::from_millis(1)).await;
        assert!(shares(&direct).await && shares(&behind).await);
        // In use or not; the moment of its last use does not matter.
        let used = behind.take_h1(0, Carries::Bodies).unwrap();
        behind.put_h1(used, 0, Carries::Bodies, Instant::now());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(shares(&direct).await && direct.take_h1(0, Carries::Bodies).is_some());
        assert!(!shares(&behind).await);
        pools.sweep(Instant::now());
        assert!(behind.is_empty(), "and what is idle is closed");
    }
}
