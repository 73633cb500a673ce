//! Token buckets by key, bounded: how often one caller may ask. The clock is a parameter.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Requests per second in the long run.
    pub(crate) per_second: f64,
    /// Requests at once.
    pub(crate) burst: f64,
}

/// Buckets under construction as callers appear. A full bucket is the same as none, so those are forgotten.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    capacity: usize,
    buckets: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: f64,
    at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    /// No callers yet. At most `capacity` are told apart at a time; when there are more, new ones wait.
    pub(crate) fn new(rate: Rate, capacity: usize) -> Self {
        Self {
            rate,
            capacity,
            buckets: HashMap::new(),
        }
    }

    /// Whether there is a token. Takes none.
    pub(crate) fn has(&self, key: &K, now: Instant) -> bool {
        let bucket = self.buckets.get(key);
        bucket.is_none_or(|bucket| bucket.filled(self.rate, now) >= 1.0)
    }

    /// Takes one token, or says how long to wait for it.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        self.take_many(key, 1.0, now)
    }

    /// Takes so many tokens, at most a burst, or says how long to wait for them.
    pub(crate) fn take_many(&mut self, key: K, many: f64, now: Instant) -> Result<(), Duration> {
        if self.buckets.len() >= self.capacity && !self.buckets.contains_key(&key) {
            let rate = self.rate;
            self.buckets.retain(|_, bucket| bucket.filled(rate, now) < rate.burst);
            if self.buckets.len() >= self.capacity {
                return Err(Duration::from_secs(1));
            }
        }
        let rate = self.rate;
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            level: rate.burst,
            at: now,
        });
        bucket.level = bucket.filled(rate, now);
        bucket.at = now;
        let many = many.min(rate.burst);
        if bucket.level < many {
            return Err(Duration::from_secs_f64((many - bucket.level) / rate.per_second));
        }
        bucket.level -= many;
        Ok(())
    }
}

/// Lines of the log of one kind about one caller: some at once, and then one each few seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    bucket: Option<Bucket>,
    unsaid: u64,
}

impl Lines {
    const RATE: Rate = Rate {
        per_second: 0.2,
        burst: 10.0,
    };

    /// Whether there is room for one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let filled = |bucket: Bucket| bucket.filled(Self::RATE, now);
        let level = self.bucket.map_or(Self::RATE.burst, filled);
        let has_room = level >= 1.0;
        let level = if has_room { level - 1.0 } else { level };
        self.bucket = Some(Bucket { level, at: now });
        self.unsaid += u64::from(!has_room);
        has_room
    }

    /// How many had no room since this was asked last.
    pub(crate) fn take_unsaid(&mut self) -> u64 {
        std::mem::take(&mut self.unsaid)
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 2.0,
        burst: 3.0,
    };

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut buckets = Buckets::new(RATE, 10);
        let start = Instant::now();
        for _ in 0..3 {
            buckets.take("a", start).unwrap();
        }
        assert_eq!(buckets.take("a", start), Err(Duration::from_millis(500)));
        assert!(!buckets.has(&"a", start) && buckets.has(&"b", start));
        buckets.take("b", start).unwrap();
        assert!(buckets.has(&"a", start + Duration::from_millis(500)));
        buckets.take("a", start + Duration::from_millis(500)).unwrap();
        assert!(buckets.take("a", start + Duration::from_millis(501)).is_err());
    }

    #[test]
    fn ten_lines_at_once_and_then_one_each_five_seconds() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        assert_eq!((0..100).filter(|_| lines.take(start)).count(), 10);
        let later = (1..=600).filter(|n| lines.take(start + Duration::from_millis(100 * n)));
        assert_eq!(later.count(), 12);
        assert_eq!([lines.take_unsaid(), lines.take_unsaid()], [90 + 588, 0]);
    }

    #[test]
    fn what_costs_more_takes_more_and_never_more_than_a_burst() {
        let mut buckets = Buckets::new(RATE, 10);
        let start = Instant::now();
        buckets.take_many("a", 2.0, start).unwrap();
        assert_eq!(buckets.take_many("a", 2.0, start), Err(Duration::from_millis(500)));
        buckets.take("a", start).unwrap();
        assert_eq!(buckets.take_many("a", 9.0, start), Err(Duration::from_millis(1500)));
        buckets
            .take_many("a", 9.0, start + Duration::from_millis(1500))
            .unwrap();
    }

    #[test]
    fn a_million_callers_cost_no_more_than_the_capacity() {
        let mut buckets = Buckets::new(RATE, 100);
        let start = Instant::now();
        let refused = (0..1_000_000)
            .filter(|caller| buckets.take(*caller, start).is_err())
            .count();
        assert_eq!(refused, 1_000_000 - 100);
        assert_eq!(buckets.buckets.len(), 100);
        // Those that were quiet are forgotten, and others have their turn.
        buckets.take(1_000_001, start + Duration::from_secs(2)).unwrap();
        assert_eq!(buckets.buckets.len(), 1);
    }
}
