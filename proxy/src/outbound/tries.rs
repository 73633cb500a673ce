//! Outbound: which endpoint a request tries next, and when.
//!
//! In: the endpoints, and how the try before failed. Out: another endpoint at once where not a byte had reached the app; one
//! after a while where the request's rule has another try made; or none.

use tokio::time::{Instant, sleep};
use weft_model::endpoint::GlobalKey;

use crate::balance::{Balancer, Picked};
use crate::http::exchange::Exchange;
use crate::outbound::attempt::Failed;
use crate::terms::Cause;

/// Endpoints that a request tries in a row at most where not a byte reaches an app; and those that are remembered.
const ATTEMPTS: usize = 3;

/// What one request has tried.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The endpoints that were tried last, in a ring.
    tried: [GlobalKey; ATTEMPTS],
    made: usize,
    /// Those in a row of which not a byte reached an app.
    in_vain: usize,
}

impl Tries {
    /// Takes an endpoint down. Says how many tries there were before.
    pub(super) fn note(&mut self, key: GlobalKey) -> u32 {
        self.tried[self.made % ATTEMPTS] = key;
        self.made += 1;
        (self.made - 1) as u32
    }

    /// The next endpoint, once it is time. `None`: it is over. Cancel safe.
    pub(super) async fn next(
        &mut self,
        balancer: &Balancer,
        exchange: &mut Exchange<'_>,
        failed: Failed,
    ) -> Option<Picked> {
        if failed.granted.is_none() {
            self.in_vain += 1;
            if self.in_vain < ATTEMPTS
                && let Some(other) = balancer.pick(self.tried(), Instant::now())
            {
                return Some(other);
            }
            if !exchange.terms()?.again(Cause::Failed(failed.reason)) {
                return None;
            }
        }
        self.in_vain = 0;
        let wait = exchange.terms()?.wait();
        if !wait.is_zero() {
            sleep(wait).await;
        }
        let now = Instant::now();
        let last = [self.tried[(self.made + ATTEMPTS - 1) % ATTEMPTS]];
        let other = balancer.pick(self.tried(), now);
        other
            .or_else(|| balancer.pick(&last, now))
            .or_else(|| balancer.pick(&[], now))
    }

    fn tried(&self) -> &[GlobalKey] {
        &self.tried[..self.made.min(ATTEMPTS)]
    }
}
