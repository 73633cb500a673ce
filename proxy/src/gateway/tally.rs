//! Gateway: what is told of connections: counters, and a line for some of those that are refused.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::forward::tcp::Flow;
use crate::observe::metrics::{Counter, Gauge, Registry, table};

/// Lines about refused connections in one second. Strangers decide how many there could be.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is passed on.
    Passed,
    /// It was passed on, and carried nothing for too long.
    Idle,
    /// It was passed on, and its endpoint has vanished.
    EndpointVanished,
    /// It was passed on, and its client has vanished.
    ClientVanished,
    /// The client went before it had said what it wants, as port checks do.
    Closed,
    /// What it began with is a broken ClientHello, or names what is no name of the mesh.
    Malformed,
    /// It names nothing.
    NoSni,
    /// It names what is not ours, not exported, or not there any more.
    NotExported,
    /// It is not mutual TLS of the mesh.
    NotMesh,
    /// It did not say in time what it wants.
    Timeout,
    /// Its endpoint could not be connected to.
    Unreachable,
    /// There are too many.
    TooMany,
}

/// One worker's counters.
#[derive(Debug)]
pub struct Tally {
    fates: [Counter; Fate::ALL.len()],
    open: Gauge,
    up: Counter,
    down: Counter,
    /// When this second began, lines in it, and what was not said of the one before.
    second: Cell<Instant>,
    lines: Cell<u32>,
}

/// A connection that is open. Counts until dropped.
#[derive(Debug)]
pub struct Open<'a>(&'a Tally);

impl Fate {
    const ALL: [Self; 12] = [
        Self::Passed,
        Self::Idle,
        Self::EndpointVanished,
        Self::ClientVanished,
        Self::Closed,
        Self::Malformed,
        Self::NoSni,
        Self::NotExported,
        Self::NotMesh,
        Self::Timeout,
        Self::Unreachable,
        Self::TooMany,
    ];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Idle => "idle",
            Self::EndpointVanished => "endpoint-vanished",
            Self::ClientVanished => "client-vanished",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::NoSni => "no-sni",
            Self::NotExported => "not-exported",
            Self::NotMesh => "not-mesh",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::TooMany => "too-many",
        }
    }
}

impl Tally {
    /// For one worker.
    pub fn new(registry: &Arc<Registry>) -> Self {
        let writer = registry.writer();
        Self {
            fates: Fate::ALL.map(|fate| writer.counter(&table::GATEWAY_CONNECTIONS, &[fate.as_str()])),
            open: writer.gauge(&table::GATEWAY_OPEN, &[]),
            up: writer.counter(&table::GATEWAY_BYTES, &["up"]),
            down: writer.counter(&table::GATEWAY_BYTES, &["down"]),
            second: Cell::new(Instant::now()),
            lines: Cell::new(0),
        }
    }

    /// Counts a connection that is open.
    pub fn open(&self) -> Open<'_> {
        self.open.add(1.0);
        Open(self)
    }

    /// Counts what became of one.
    pub fn count(&self, fate: Fate) {
        self.fates[fate as usize].add(1);
    }

    /// Counts one that is refused, and says so unless much was said already.
    pub fn refused(&self, fate: Fate, client: SocketAddr, name: Option<&str>) {
        self.count(fate);
        if let Some(unsaid) = self.may_say(Instant::now()) {
            let reason = fate.as_str();
            tracing::debug!(%client, name, reason, unsaid, "connection refused by the gateway");
        }
    }

    /// Counts bytes.
    pub fn moved(&self, flow: Flow, bytes: u64) {
        match flow {
            Flow::Up => self.up.add(bytes),
            Flow::Down => self.down.add(bytes),
        }
    }

    /// Whether there is a line left in this second; if so, how many went unsaid in the one before, once.
    fn may_say(&self, now: Instant) -> Option<u32> {
        let mut unsaid = 0;
        if now.saturating_duration_since(self.second.get()) >= SECOND {
            unsaid = self.lines.get().saturating_sub(LINES);
            self.second.set(now);
            self.lines.set(0);
        }
        self.lines.set(self.lines.get().saturating_add(1));
        (self.lines.get() <= LINES).then_some(unsaid)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.add(-1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_fill_the_log() {
        let tally = Tally::new(&Registry::new());
        let now = Instant::now();
        let said = (0..1000).filter(|_| tally.may_say(now).is_some()).count();
        assert_eq!(said, 10);
        assert_eq!(tally.may_say(now + SECOND), Some(990), "and what was left out is said");
        assert_eq!(tally.may_say(now + SECOND), Some(0));
    }

    #[test]
    fn each_fate_has_its_own_counter() {
        for (place, fate) in Fate::ALL.into_iter().enumerate() {
            assert_eq!(fate as usize, place, "{}", fate.as_str());
        }
    }
}
