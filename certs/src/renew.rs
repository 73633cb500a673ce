//! When to renew a leaf. Pure: times and a random number in, a time out.
//!
//! Everything counts from when the leaf was received, on the monotonic clock, by the remaining life that the control plane
//! named: a wall clock that is wrong, or jumps, moves nothing.

use std::time::{Duration, Instant};

/// Two renewals, or two attempts, are at least so far apart (less only where the leaf's whole life is but a few seconds).
pub const SPACING_MIN: Duration = Duration::from_secs(1);
/// Two attempts after failures are at most so far apart.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// One leaf's life, as its holder counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When the leaf was received.
    pub received: Instant,
    /// How long it was still valid then.
    pub valid_for: Duration,
}

impl Life {
    /// When to renew: after two thirds of the life, less up to a tenth of it, so that pods which were made together do
    /// not renew together. `random` is drawn uniformly from all of `u64`.
    pub fn renewal(&self, random: u64) -> Instant {
        let two_thirds = self.valid_for / 3 * 2;
        let jitter = fraction(self.valid_for / 10, random);
        let after = two_thirds.saturating_sub(jitter).max(self.spacing());
        later(self.received, after)
    }

    /// When to try again at `now`, after so many failures in a row (from 1): doubling from the minimum spacing, capped,
    /// the upper half of it random, and never so late that the leaf would end in between without three more attempts.
    pub fn retry(&self, now: Instant, failures: u32, random: u64) -> Instant {
        let doubled = SPACING_MIN.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let left = self.left(now);
        let cap = if left.is_zero() {
            BACKOFF_MAX
        } else {
            BACKOFF_MAX.min(left / 4)
        };
        let pause = doubled.min(cap).max(self.spacing());
        later(now, pause / 2 + fraction(pause / 2, random))
    }

    /// What is left of the life.
    pub fn left(&self, now: Instant) -> Duration {
        self.valid_for
            .saturating_sub(now.saturating_duration_since(self.received))
    }

    /// When it ends.
    pub fn end(&self) -> Instant {
        later(self.received, self.valid_for)
    }

    /// The minimum spacing, or a tenth of a life that is shorter than ten times that.
    fn spacing(&self) -> Duration {
        SPACING_MIN.min(self.valid_for / 10).max(Duration::from_millis(100))
    }
}

/// When to try again for a first certificate, after so many failures in a row (from 1).
pub fn first_retry(now: Instant, failures: u32, random: u64) -> Instant {
    let unborn = Life {
        received: now,
        valid_for: BACKOFF_MAX * 4,
    };
    unborn.retry(now, failures, random)
}

/// A uniform part of a span.
fn fraction(of: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(nanos) * u128::from(random)) >> 64) as u64)
}

/// An `Instant` cannot be beyond the clock's range; what would be is far enough as a century.
fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by)
        .unwrap_or_else(|| from + Duration::from_secs(100 * 365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const RANDOM: [u64; 5] = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX];

    fn life(valid_for: Duration) -> Life {
        Life {
            received: Instant::now(),
            valid_for,
        }
    }

    #[test]
    fn a_leaf_is_renewed_around_two_thirds_of_its_life() {
        let life = life(DAY);
        for random in RANDOM {
            let after = life.renewal(random) - life.received;
            assert!(after <= DAY / 3 * 2, "{after:?}");
            assert!(after >= DAY / 3 * 2 - DAY / 10, "{after:?}");
        }
        assert_eq!(life.renewal(0) - life.received, DAY / 3 * 2);
    }

    #[test]
    fn the_jitter_spreads_over_the_whole_tenth() {
        let life = life(DAY);
        let (first, last) = (life.renewal(u64::MAX), life.renewal(0));
        assert!(last - first > DAY / 10 - Duration::from_secs(1));
    }

    #[test]
    fn a_leaf_of_seconds_is_renewed_before_it_ends() {
        for seconds in [1, 2, 5, 10] {
            let life = life(Duration::from_secs(seconds));
            for random in RANDOM {
                assert!(life.renewal(random) > life.received);
                assert!(life.renewal(random) < life.end());
            }
        }
    }

    #[test]
    fn a_leaf_that_has_ended_already_is_renewed_after_a_pause() {
        let life = life(Duration::ZERO);
        for random in RANDOM {
            assert!(
                life.renewal(random) - life.received >= Duration::from_millis(100),
                "never in a tight loop"
            );
            assert!(life.retry(life.received, 1, random) > life.received);
        }
    }

    #[test]
    fn failures_back_off_to_a_cap() {
        let life = life(DAY);
        let pause = |failures| life.retry(life.received, failures, u64::MAX) - life.received;
        assert!(pause(1) <= SPACING_MIN && pause(1) >= SPACING_MIN / 2);
        assert!(pause(4) > pause(3) && pause(3) > pause(2));
        assert!(pause(30) <= BACKOFF_MAX && pause(u32::MAX) <= BACKOFF_MAX);
        assert!(pause(30) >= BACKOFF_MAX - Duration::from_millis(1));
    }

    #[test]
    fn attempts_come_closer_as_the_end_does() {
        let life = life(Duration::from_secs(100));
        let now = life.received + Duration::from_secs(92);
        assert!(life.retry(now, 20, u64::MAX) - now <= Duration::from_secs(2));
        let after_the_end = life.end() + Duration::from_secs(5);
        let pause = life.retry(after_the_end, 20, u64::MAX) - after_the_end;
        assert!(pause <= BACKOFF_MAX && pause > Duration::from_secs(2), "{pause:?}");
    }

    #[test]
    fn a_first_certificate_is_asked_for_again_and_again() {
        let now = Instant::now();
        assert!(first_retry(now, 1, u64::MAX) - now <= SPACING_MIN);
        assert!(first_retry(now, 50, u64::MAX) - now <= BACKOFF_MAX);
    }

    #[test]
    fn an_absurd_life_does_not_overflow() {
        let life = life(Duration::MAX);
        for random in RANDOM {
            assert!(life.renewal(random) > life.received);
        }
    }
}
