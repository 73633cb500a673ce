//! How often the bundle of a peer changes here: each change goes to all proxies, and a peer could raise its number all the time.
//! Pure: whoever asks says what time it is.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// One bundle of a peer is taken in so long; of those that come meanwhile the newest is next.
const SPACING: Duration = Duration::from_secs(10);

/// When a bundle of each peer was last taken.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    taken: BTreeMap<String, Instant>,
}

impl Pace {
    /// Takes one now, or says from when on one may be taken.
    pub(super) fn take(&mut self, cluster: &str, now: Instant) -> Result<(), Instant> {
        if let Some(last) = self.taken.get(cluster) {
            let next = *last + SPACING;
            if next > now {
                return Err(next);
            }
        }
        self.taken.insert(cluster.to_owned(), now);
        Ok(())
    }

    /// Forgets those that are no peers any more.
    pub(super) fn retain(&mut self, is_peer: impl Fn(&str) -> bool) {
        self.taken.retain(|cluster, _| is_peer(cluster));
    }
}
