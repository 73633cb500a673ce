//! Passive health: an endpoint that cannot be connected to is left alone for a while.
//!
//! In: how connection attempts went. Out: whether an endpoint may be chosen, and when it is due for a single probe. A
//! refused connection or a wrong identity is proof; anything else (a lost packet, say) must happen twice in a row.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The first ejection; each one that follows soon lasts twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// The longest ejection.
const LONGEST: Duration = Duration::from_secs(30);
/// An endpoint that was well for so long starts again with the first ejection.
const FORGET: Duration = Duration::from_secs(60);
/// Failures in a row that eject, where a single one proves nothing.
const DOUBTS: u32 = 2;

/// How an attempt to connect failed, as far as health is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens, or somebody else does: proof.
    Proof,
    /// It took too long, or broke: perhaps the network.
    Doubt,
}

/// The health of one endpoint.
#[derive(Debug)]
pub struct Health {
    state: Cell<State>,
    failures: Cell<u32>,
    ejections: Cell<u32>,
    recovered: Cell<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Well,
    Ejected { until: Instant },
    Probing,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: Cell::new(State::Well),
            failures: Cell::new(0),
            ejections: Cell::new(0),
            recovered: Cell::new(None),
        }
    }
}

impl Health {
    /// Whether it may be chosen.
    pub fn is_well(&self) -> bool {
        matches!(self.state.get(), State::Well)
    }

    /// An attempt failed. `spared`: too many others are ejected already for one more on a mere doubt. `jitter` is drawn
    /// from 0..1. Returns whether this ejected it.
    pub fn failed(&self, failure: Failure, spared: bool, now: Instant, jitter: f64) -> bool {
        self.failures.set(self.failures.get().saturating_add(1));
        let was_well = self.is_well();
        let enough = failure == Failure::Proof || self.failures.get() >= DOUBTS;
        if was_well && (!enough || (spared && failure == Failure::Doubt)) {
            return false;
        }
        if matches!(self.state.get(), State::Ejected { until } if until > now) {
            // A request that was under way, or a last resort, failed as well: nothing new.
            return false;
        }
        if self
            .recovered
            .get()
            .is_some_and(|at| now.saturating_duration_since(at) > FORGET)
        {
            self.ejections.set(0);
        }
        let doubled = FIRST.saturating_mul(1 << self.ejections.get().min(16)).min(LONGEST);
        self.ejections.set(self.ejections.get().saturating_add(1));
        // Three quarters to five quarters, so that workers and proxies do not probe in step.
        self.state.set(State::Ejected {
            until: now + doubled.mul_f64(0.75 + jitter / 2.0),
        });
        was_well
    }

    /// An attempt succeeded. Returns whether this ended an ejection.
    pub fn succeeded(&self, now: Instant) -> bool {
        self.failures.set(0);
        let ended = !self.is_well();
        if ended {
            self.state.set(State::Well);
            self.recovered.set(Some(now));
        }
        ended
    }

    /// Whether its ejection has lasted long enough for a probe; if so, the caller makes it, and nobody else does until it
    /// has succeeded or failed.
    pub fn take_probe(&self, now: Instant) -> bool {
        let due = matches!(self.state.get(), State::Ejected { until } if until <= now);
        if due {
            self.state.set(State::Probing);
        }
        due
    }

    /// The probe could not be made, or says nothing of the endpoint: it is due again before long. `before`: how many in a row
    /// have said nothing already; each of these doubles the wait, as a failure does.
    pub fn give_probe_back(&self, before: u32, now: Instant) {
        if matches!(self.state.get(), State::Probing) {
            let doubled = FIRST.saturating_mul(1 << before.min(16)).min(LONGEST);
            self.state.set(State::Ejected { until: now + doubled });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: f64 = 0.5;

    #[tokio::test(start_paused = true)]
    async fn proof_ejects_at_once_and_doubt_only_twice_in_a_row() {
        let now = Instant::now();
        let refused = Health::default();
        assert!(refused.failed(Failure::Proof, false, now, HALF));
        assert!(!refused.is_well());

        let slow = Health::default();
        assert!(!slow.failed(Failure::Doubt, false, now, HALF));
        assert!(slow.is_well());
        slow.succeeded(now);
        assert!(
            !slow.failed(Failure::Doubt, false, now, HALF),
            "a success in between forgives"
        );
        assert!(slow.failed(Failure::Doubt, false, now, HALF));
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_does_not_eject_where_too_many_are_ejected_but_proof_does() {
        let now = Instant::now();
        let health = Health::default();
        for _ in 0..10 {
            assert!(!health.failed(Failure::Doubt, true, now, HALF));
        }
        assert!(health.is_well());
        assert!(health.failed(Failure::Proof, true, now, HALF));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_each_failure_doubles_the_wait() {
        let mut now = Instant::now();
        let health = Health::default();
        health.failed(Failure::Proof, false, now, HALF);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(!health.take_probe(now), "not yet");
            let begun = now;
            while !health.take_probe(now) {
                now += Duration::from_millis(100);
            }
            assert!(!health.take_probe(now), "one probe is under way");
            waits.push(now - begun);
            assert!(
                !health.failed(Failure::Doubt, false, now, HALF),
                "it was ejected before"
            );
        }
        assert!(waits.windows(2).all(|w| w[1] > w[0] || w[1] >= LONGEST), "{waits:?}");
        assert!(waits.iter().all(|w| *w <= LONGEST + Duration::from_millis(100)));
        now += LONGEST * 2;
        assert!(health.take_probe(now));
        assert!(health.succeeded(now));
        assert!(health.is_well());
    }
}
