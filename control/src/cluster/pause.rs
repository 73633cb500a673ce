//! How long to wait before something is tried again: twice as long each time, up to a cap, never at the same moment as others.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// An API server that is back is found again within this.
const LAST: Duration = Duration::from_secs(8);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    failures: u32,
}

impl Pause {
    /// It went well: the next failure counts as the first.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether the failure that is waited for now would be the first in a row.
    pub(super) fn is_first(&self) -> bool {
        self.failures == 0
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// It failed: waits. Cancel safe.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.draw()).await;
    }

    /// It failed: how long to wait.
    pub(super) fn draw(&mut self) -> Duration {
        self.next(rand::random())
    }

    /// How long to wait now. `drawn`: from 0 to 1.
    fn next(&mut self, drawn: f64) -> Duration {
        let most = FIRST.saturating_mul(1 << self.failures.min(10)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(0.5 + drawn.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_cap_and_begin_anew_after_a_success() {
        let mut pause = Pause::default();
        let waits: Vec<u128> = (0..8).map(|_| pause.next(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 8000, 8000]);
        pause.reset();
        assert_eq!(pause.next(0.0), FIRST / 2);
    }
}
