//! What an endpoint costs: peak-EWMA of its latency.
//!
//! A slower answer than expected counts at once and in full; faster ones bring the estimate down only gradually, and so
//! does silence, so that an endpoint that was slow is tried again (Finagle's peak-EWMA).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The time after which an old sample weighs 1/e.
const DECAY: Duration = Duration::from_secs(10);

/// Below this all endpoints are equally fast, and only what is in flight tells them apart.
const FLOOR_SECONDS: f64 = 50e-6;

/// A latency estimate.
#[derive(Debug)]
pub struct Ewma {
    /// What it began with.
    initial: f64,
    seconds: Cell<f64>,
    at: Cell<Instant>,
}

impl Ewma {
    /// Begins with an estimate, which fades like a sample.
    pub fn new(initial: Duration, now: Instant) -> Self {
        Self {
            initial: initial.as_secs_f64(),
            seconds: Cell::new(initial.as_secs_f64()),
            at: Cell::new(now),
        }
    }

    /// Takes a sample in.
    pub fn observe(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64();
        let faded = self.faded(now);
        self.seconds.set(if sample >= faded {
            sample
        } else {
            faded + sample * (1.0 - self.weight(now))
        });
        self.at.set(now);
    }

    /// Takes in a sample of the first answer over a new connection. Handshakes and cold apps are slow once, and that says
    /// little of the next answer: a slower one than expected only restores the estimate that there was before anybody knew,
    /// so that an endpoint is neither shunned for it nor thought fast.
    pub fn observe_first(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64();
        let faded = self.faded(now);
        if sample < faded {
            return self.observe(latency, now);
        }
        self.seconds.set(faded.max(sample.min(self.initial)));
        self.at.set(now);
    }

    /// Takes in that an answer had not come after so long: it costs that much at least. Says nothing of a try that failed
    /// sooner than an answer was expected, so that who fails fast does not pass for fast.
    pub fn observe_at_least(&self, waited: Duration, now: Instant) {
        if waited.as_secs_f64() > self.faded(now) {
            self.observe(waited, now);
        }
    }

    /// The estimate in seconds; never 0.
    pub fn cost(&self, now: Instant) -> f64 {
        self.faded(now).max(FLOOR_SECONDS)
    }

    fn faded(&self, now: Instant) -> f64 {
        self.seconds.get() * self.weight(now)
    }

    fn weight(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at.get());
        (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_peak_counts_at_once_and_fades() {
        let start = Instant::now();
        let ewma = Ewma::new(10 * MS, start);
        ewma.observe(100 * MS, start);
        assert!(ewma.cost(start) >= 0.1);
        ewma.observe(10 * MS, start + 100 * MS);
        assert!(ewma.cost(start + 100 * MS) > 0.09, "one fast answer forgives little");
        assert!(ewma.cost(start + Duration::from_secs(30)) < 0.01, "silence forgives");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_answer_over_a_new_connection_is_no_peak_and_does_not_pass_for_a_fast_one() {
        let start = Instant::now();
        let ewma = Ewma::new(10 * MS, start);
        ewma.observe_first(500 * MS, start);
        assert!(ewma.cost(start) <= 0.01);
        let later = start + Duration::from_secs(60);
        assert!(ewma.cost(later) < 0.001);
        ewma.observe_first(500 * MS, later);
        assert!(ewma.cost(later) >= 0.01, "not better than unknown");
        ewma.observe_first(MS, later + Duration::from_secs(60));
        assert!(ewma.cost(later + Duration::from_secs(60)) < 0.002, "a fast one counts");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_not_come_costs_what_was_waited_and_a_fast_failure_gains_nothing() {
        let start = Instant::now();
        let ewma = Ewma::new(10 * MS, start);
        ewma.observe_at_least(100 * MS, start);
        assert!(ewma.cost(start) >= 0.1);
        let later = start + Duration::from_secs(1);
        let before = ewma.cost(later);
        ewma.observe_at_least(MS, later);
        assert!((ewma.cost(later) - before).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_latency_is_its_own_estimate() {
        let start = Instant::now();
        let ewma = Ewma::new(50 * MS, start);
        let mut now = start;
        for _ in 0..1000 {
            now += 50 * MS;
            ewma.observe(20 * MS, now);
        }
        let cost = ewma.cost(now);
        assert!((0.019..0.022).contains(&cost), "{cost}");
    }
}
