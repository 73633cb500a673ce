//! Budget: how much retries may add to a Service's load, as one worker counts it (GEP-3388).
//!
//! In: that a request comes, and that another try is wanted. Out: whether it may be made. Memory is bounded: counts of the
//! time that is looked back on, in tenths.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use weft_model::name::ServicePort;
use weft_model::route::RetryBudget;

use super::Cause;
use crate::observe::metrics::Metrics;

/// Parts of the time that is looked back on.
const PARTS: usize = 10;

/// What retries to one Service may add, and have added.
#[derive(Debug)]
pub struct Budget {
    service: ServicePort,
    metrics: Rc<Metrics>,
    /// Workers that share what is allowed whatever the load is.
    workers: u32,
    counts: RefCell<Counts>,
}

#[derive(Debug)]
struct Counts {
    allowed: RetryBudget,
    requests: Window,
    retries: Window,
    /// Retries of the shorter time.
    recent: Window,
}

/// How often something happened of late.
#[derive(Debug)]
struct Window {
    span: Duration,
    begun: Instant,
    /// The part of time that was counted last.
    part: u64,
    counts: [u32; PARTS],
}

impl Budget {
    /// Nothing was asked yet. `workers`: how many each keep one for the same Service.
    pub fn new(service: ServicePort, allowed: RetryBudget, workers: usize, metrics: Rc<Metrics>) -> Self {
        Self {
            service,
            metrics,
            workers: u32::try_from(workers).unwrap_or(u32::MAX).max(1),
            counts: RefCell::new(Counts::new(allowed, Instant::now())),
        }
    }

    /// What is allowed from now on. What was counted stays, unless other times are looked back on.
    pub fn allow(&self, allowed: RetryBudget) {
        let mut counts = self.counts.borrow_mut();
        let same_times =
            counts.allowed.interval == allowed.interval && counts.allowed.min_interval == allowed.min_interval;
        match same_times {
            true => counts.allowed = allowed,
            false => *counts = Counts::new(allowed, Instant::now()),
        }
    }

    /// A request comes.
    pub fn asked(&self, now: Instant) {
        self.counts.borrow_mut().requests.add(now);
    }

    /// Whether another try may be made. Both answers are counted.
    pub fn grant(&self, cause: Cause, now: Instant) -> bool {
        let granted = self.counts.borrow_mut().grant(self.workers, now);
        match granted {
            true => self.metrics.retried(&self.service, cause),
            false => self.metrics.retry_denied(&self.service),
        }
        granted
    }
}

impl Counts {
    fn new(allowed: RetryBudget, now: Instant) -> Self {
        Self {
            requests: Window::new(allowed.interval, now),
            retries: Window::new(allowed.interval, now),
            recent: Window::new(allowed.min_interval, now),
            allowed,
        }
    }

    fn grant(&mut self, workers: u32, now: Instant) -> bool {
        let (requests, retries) = (self.requests.sum(now), self.retries.sum(now));
        let in_share = (retries + 1) * 100 <= requests * u64::from(self.allowed.percent);
        let least = match self.allowed.min_retries {
            0 => 0,
            all => (all / workers).max(1),
        };
        let granted = in_share || self.recent.sum(now) < u64::from(least);
        if granted {
            self.retries.add(now);
            self.recent.add(now);
        }
        granted
    }
}

impl Window {
    fn new(span: Duration, begun: Instant) -> Self {
        Self {
            span: span.max(Duration::from_millis(1)),
            begun,
            part: 0,
            counts: [0; PARTS],
        }
    }

    fn add(&mut self, now: Instant) {
        self.go_to(now);
        let at = (self.part % PARTS as u64) as usize;
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
    }

    fn sum(&mut self, now: Instant) -> u64 {
        self.go_to(now);
        self.counts.iter().copied().map(u64::from).sum()
    }

    /// Forgets what lies too far back.
    fn go_to(&mut self, now: Instant) {
        let part = self.span.as_nanos() / PARTS as u128;
        let here = now.saturating_duration_since(self.begun).as_nanos() / part.max(1);
        let here = u64::try_from(here).unwrap_or(u64::MAX);
        // A request may have begun before the last that was counted.
        let passed = here.saturating_sub(self.part).min(PARTS as u64);
        for part in 1..=passed {
            let at = ((here - passed + part) % PARTS as u64) as usize;
            if let Some(count) = self.counts.get_mut(at) {
                *count = 0;
            }
        }
        self.part = self.part.max(here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counts(percent: u32, min_retries: u32) -> (Counts, Instant) {
        let now = Instant::now();
        let allowed = RetryBudget {
            percent,
            min_retries,
            ..RetryBudget::default()
        };
        (Counts::new(allowed, now), now)
    }

    fn granted(counts: &mut Counts, workers: u32, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| counts.grant(workers, now)).count()
    }

    #[test]
    fn retries_are_a_share_of_requests() {
        let (mut counts, now) = counts(20, 0);
        assert_eq!(granted(&mut counts, 1, 10, now), 0);
        (0..100).for_each(|_| counts.requests.add(now));
        assert_eq!(granted(&mut counts, 1, 100, now), 20);
    }

    #[test]
    fn a_few_are_allowed_whatever_the_share_is() {
        let (mut counts, now) = counts(0, 10);
        assert_eq!(granted(&mut counts, 1, 100, now), 10);
        assert_eq!(granted(&mut counts, 1, 100, now + 2 * SECOND), 10);
        let (mut counts, now) = self::counts(0, 10);
        assert_eq!(granted(&mut counts, 4, 100, now), 2);
        let (mut counts, now) = self::counts(0, 1);
        assert_eq!(granted(&mut counts, 4, 100, now), 1);
        let (mut counts, now) = self::counts(0, 0);
        assert_eq!(granted(&mut counts, 4, 100, now), 0);
    }

    #[test]
    fn what_lies_too_far_back_is_forgotten() {
        let (mut counts, now) = counts(20, 0);
        (0..100).for_each(|_| counts.requests.add(now));
        assert_eq!(granted(&mut counts, 1, 100, now + 8 * SECOND), 20);
        assert_eq!(granted(&mut counts, 1, 100, now + 11 * SECOND), 0, "the requests are");
        (0..100).for_each(|_| counts.requests.add(now + 30 * SECOND));
        assert_eq!(granted(&mut counts, 1, 100, now + 30 * SECOND), 20, "and the retries");
    }
}
