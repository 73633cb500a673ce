//! Identity: the proxy's own certificate.
//!
//! In: the pod's token and the roots that the pod was given. Out: a credential, first and renewed. The key is made here and
//! never leaves the pod's memory; the token is sent only to the control plane's verified identity.

pub mod issue;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use weft_certs::credential::Credential;
use weft_certs::renew::{self, Life};

use crate::discover::dial::chain;
use crate::observe::metrics::{Counter, Gauge, Writer, table};
pub use issue::{IssueError, Issued, Issuer};

/// Asked to renew at once, it still waits so long since the last attempt.
const SPACING: Duration = Duration::from_secs(1);

/// What became of the credential.
#[derive(Debug)]
pub enum News {
    /// A new one, and how long it lives.
    Issued(Arc<Credential>, Life),
    /// The one that was has ended, and there is no other.
    Ended,
}

/// The metrics of certificates.
#[derive(Debug)]
pub(crate) struct Meters {
    outcomes: [Counter; 4],
    skew: Gauge,
}

impl Meters {
    pub(crate) fn new(writer: &Writer) -> Self {
        let outcomes = ["issued", "refused", "unreachable", "invalid"];
        let outcomes = outcomes.map(|outcome| writer.counter(&table::ISSUES, &[outcome]));
        Self {
            outcomes,
            skew: writer.gauge(&table::SKEW, &[]),
        }
    }
}

/// Keeps the credential fresh, for ever. `current`: one that an earlier process left. `renew_now`: the roots changed so that
/// the current one is of no use.
pub(crate) async fn keep(
    issue: impl AsyncFn(Option<Arc<Credential>>) -> Result<Issued, IssueError>,
    current: Option<(Arc<Credential>, Life)>,
    renew_now: &Notify,
    news: &mpsc::Sender<News>,
    meters: &Meters,
) {
    let mut current = current;
    let mut failures: u32 = 0;
    let mut next = match &current {
        Some((_, life)) => life.renewal(rand::random()).into(),
        None => Instant::now(),
    };
    loop {
        let end = current.as_ref().map(|(_, life)| Instant::from(life.end()));
        tokio::select! {
            biased; // The end of a credential matters more than the next attempt.
            () = at(end) => {
                current = None;
                tracing::error!("the certificate has ended, and no new one could be had");
                if news.send(News::Ended).await.is_err() {
                    return;
                }
                continue;
            }
            () = renew_now.notified() => {
                // What was asked for while an attempt was under way is answered by the next one.
                next = next.min(Instant::now() + SPACING);
                continue;
            }
            () = sleep_until(next) => {}
        }
        // A leaf that the control plane does not accept (its root is gone, say) must not stand in the way of the token, so
        // every second attempt goes without it.
        let shown = current
            .as_ref()
            .filter(|_| failures.is_multiple_of(2))
            .map(|(credential, _)| credential.clone());
        match issue(shown).await {
            Ok(issued) => {
                failures = 0;
                meters.outcomes[0].add(1);
                meters.skew.set(issued.skew);
                let life = Life {
                    received: Instant::now().into_std(),
                    valid_for: issued.valid_for,
                };
                next = life.renewal(rand::random()).into();
                tracing::info!(identity = %issued.credential.identity(), valid_for = ?issued.valid_for, "a certificate was issued");
                current = Some((issued.credential.clone(), life));
                if news.send(News::Issued(issued.credential, life)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                meters.outcomes[error.outcome()].add(1);
                let now = Instant::now().into_std();
                next = match &current {
                    Some((_, life)) => life.retry(now, failures, rand::random()),
                    None => renew::first_retry(now, failures, rand::random()),
                }
                .into();
                tracing::warn!(error = chain(&error), failures, "no certificate was issued");
            }
        }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
