//! Observe: examples of a histogram's buckets: the trace of the last sampled request in each (OpenMetrics' exemplars).
//!
//! One worker writes a slot and a scrape may read it at the same time, so a slot has a version: odd while it is written. What
//! changes under the reader is left out until the next scrape.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_daemon::prometheus::Example;

use crate::observe::trace::context::Context;

/// The last example of one bucket.
#[derive(Debug, Default)]
pub(super) struct Slot {
    version: AtomicU64,
    /// The trace's id in halves, the span's, nanoseconds that it took, and milliseconds since 1970.
    parts: [AtomicU64; 5],
}

impl Slot {
    /// Replaces it. Called by one thread only.
    pub(super) fn set(&self, trace: &Context, took: u64) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (high, low) = halves(&trace.trace);
        let parts = [
            high,
            low,
            u64::from_be_bytes(trace.span),
            took,
            u64::try_from(since.as_millis()).unwrap_or(0),
        ];
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        // What is written below is not seen by whoever has seen the version before.
        fence(Ordering::Release);
        for (slot, part) in self.parts.iter().zip(parts) {
            slot.store(part, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// What it holds. `None`: nothing yet, or it is being replaced.
    pub(super) fn get(&self) -> Option<Example> {
        let version = self.version.load(Ordering::Acquire);
        if version == 0 || version % 2 == 1 {
            return None;
        }
        let [high, low, span, took, at] = [0, 1, 2, 3, 4].map(|n| self.parts[n].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != version {
            return None;
        }
        Some(Example {
            trace_id: format!("{high:016x}{low:016x}"),
            span_id: format!("{span:016x}"),
            value: took as f64 / 1e9,
            at: Duration::from_millis(at),
        })
    }
}

fn halves(id: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_be_bytes(*id);
    ((whole >> 64) as u64, whole as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_what_was_said_last_and_never_half_of_it() {
        let slot = Slot::default();
        assert!(slot.get().is_none());
        let context = |n: u8| Context {
            trace: [n; 16],
            span: [n; 8],
            flags: 1,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000_u64).for_each(|n| slot.set(&context((n % 200) as u8 + 1), n)));
            for _ in 0..10_000 {
                if let Some(example) = slot.get() {
                    assert_eq!(example.trace_id, example.span_id.repeat(2), "both of the same moment");
                }
            }
        });
        slot.set(&context(0xab), 1_500_000_000);
        let example = slot.get().unwrap();
        assert_eq!((example.trace_id, example.value), ("ab".repeat(16), 1.5));
    }
}
