//! What the webhook counts.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_daemon::log::{self, Switch};
use weft_daemon::prometheus::Text;

/// How a request ends: a review's outcomes, and what is none.
const OUTCOMES: [&str; 6] = ["injected", "unchanged", "skipped", "refused", "failed", "malformed"];
/// Upper bounds of the histogram's buckets, in microseconds: the API server waits for five seconds.
const BUCKETS: [u64; 8] = [1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 4_000_000];

/// Counters of one process.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    outcomes: [AtomicU64; OUTCOMES.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
    turned_away: AtomicU64,
    /// Seconds since 1970; 0 where there is no certificate yet.
    not_after: AtomicI64,
    /// Times that the caBundle was written.
    bundles: AtomicU64,
}

impl Metrics {
    /// A request has ended so, after so long.
    pub(super) fn ended(&self, outcome: &str, took: Duration) {
        if let Some(place) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.outcomes[place].fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|most| micros <= *most).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// A connection was closed because its address has too many.
    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// Another certificate is served.
    pub(super) fn serving_until(&self, not_after: SystemTime) {
        let seconds = not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.not_after
            .store(i64::try_from(seconds).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The caBundle was written.
    pub(super) fn bundle_written(&self) {
        self.bundles.fetch_add(1, Ordering::Relaxed);
    }

    /// As text for scrapers.
    pub(super) fn text(&self, log: &Switch) -> Text {
        let mut text = Text::new();
        let family = text.counter(
            "weft_injector_reviews_total",
            "Requests of the API server, by how they ended.",
        );
        for (outcome, count) in OUTCOMES.iter().zip(&self.outcomes) {
            family.sample(&[("outcome", *outcome)], count.load(Ordering::Relaxed));
        }
        let read = |place: usize| self.buckets[place].load(Ordering::Relaxed);
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds, for bounds and a sum of seconds"
        )]
        let seconds = |micros: u64| micros as f64 / 1e6;
        let buckets = BUCKETS.iter().enumerate().map(|(n, most)| (seconds(*most), read(n)));
        text.histogram("weft_injector_review_duration_seconds", "Time that they took.")
            .histogram_sample(
                &[],
                buckets,
                read(BUCKETS.len()),
                seconds(self.micros.load(Ordering::Relaxed)),
            );
        text.counter(
            "weft_injector_connections_refused_total",
            "Connections closed because their address had too many.",
        )
        .sample(&[], self.turned_away.load(Ordering::Relaxed));
        text.counter(
            "weft_injector_bundles_written_total",
            "Times that the caBundle of the webhook's configuration was written.",
        )
        .sample(&[], self.bundles.load(Ordering::Relaxed));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let left = self.not_after.load(Ordering::Relaxed) - i64::try_from(now).unwrap_or(i64::MAX);
        text.gauge(
            "weft_injector_certificate_expiry_seconds",
            "Seconds until the webhook's certificate ends; 0 where there is none.",
        )
        .sample(&[], left.max(0));
        text.counter("weft_panics_total", "Panics that cost a task.")
            .sample(&[], log::panics());
        text.counter(
            "weft_log_lines_dropped_total",
            "Log lines dropped because stderr was too slow.",
        )
        .sample(&[], log.dropped());
        text
    }
}
