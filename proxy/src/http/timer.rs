//! One coarse timer per connection.
//!
//! A deadline that moves away with every request would touch the runtime's timers with every request. This one is set
//! once, and looks at the deadline of the moment when it fires: a busy connection touches the timers once per limit.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that may move.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready when `due` has come. Each call may name another one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_away_is_not_met_early() {
        let start = Instant::now();
        let mut timer = Timer::default();
        let _ = poll_fn(|cx| Poll::Ready(timer.poll(cx, start + SECOND))).await;
        poll_fn(|cx| timer.poll(cx, start + 10 * SECOND)).await;
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_comes_nearer_is_met() {
        let start = Instant::now();
        let mut timer = Timer::default();
        let _ = poll_fn(|cx| Poll::Ready(timer.poll(cx, start + 60 * SECOND))).await;
        poll_fn(|cx| timer.poll(cx, start + 5 * SECOND)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }
}
