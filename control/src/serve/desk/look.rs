//! Proxies that are ahead of us: everything is looked at again, and only if that is older too, a new epoch begins.

use std::time::{Duration, Instant};

use weft_model::version::Source;

use super::{Joined, NotNow, Thread};
use crate::authority::Chain;
use crate::serve::hub::Join;
use crate::serve::rate::Rate;

/// All objects are read again, and a new epoch may begin, so often because of what proxies say.
pub(super) const LOOKS: Rate = Rate {
    per_second: 0.1,
    burst: 3.0,
};
/// A look at an API server's objects is over within this, or the proxies that wait for it call again.
const LOOK: Duration = Duration::from_secs(10);
/// While the epoch could not be kept, this thread waits for that only so often: each attempt may take seconds.
pub(super) const KEEP_AGAIN: Duration = Duration::from_secs(10);
/// Proxies that wait for a look at once. As few are ahead of us at first; the others call again.
const LOOKERS: usize = 64;

/// A proxy that waits for a look.
pub(super) struct Waiting {
    pub(super) join: Box<Join>,
    pub(super) sources: Vec<Source>,
    pub(super) answer: Joined,
}

/// What is known of a proxy's epoch.
pub(super) enum Settling {
    /// It may join.
    Settled,
    /// When we have looked again.
    Looking,
}

impl Thread {
    /// Makes sure that a proxy may believe us: if it knows something newer than we do, we look again; and only if that is
    /// older too (a state directory or an API server that was restored), a new epoch begins. All proxies together make us do
    /// so only so often: one that lies must not keep the desk busy. After a true restore the first epoch serves them all.
    pub(super) fn settle_epoch(&mut self, epoch: u64, held: &[Source], now: Instant) -> Result<Settling, NotNow> {
        if !self.hub.epoch.plausible(epoch) {
            let current = self.hub.epoch.current();
            tracing::warn!(seen = epoch, current, "a proxy says an epoch that it cannot have seen");
            return Err(NotNow::Epoch { seen: epoch, current });
        }
        if let Some(source) = self.hub.behind(epoch, held) {
            if self.waiting.len() >= LOOKERS || self.looks.take((), now).is_err() {
                return Err(NotNow::Later);
            }
            tracing::warn!(
                object = source.object,
                resource_version = source.resource_version,
                "a proxy is ahead of us: looking again"
            );
            if self.open_again() {
                self.look_until = Some(tokio::time::Instant::now() + LOOK);
                return Ok(Settling::Looking);
            }
        }
        match self.enter_epoch(epoch, held) {
            true => Ok(Settling::Settled),
            false => Err(NotNow::Later),
        }
    }

    /// Takes a proxy's epoch, or begins one above it where the proxy is ahead of us even though we have looked. Says whether
    /// the proxy may believe us now: not where the epoch could not be kept.
    fn enter_epoch(&mut self, epoch: u64, held: &[Source]) -> bool {
        let behind = self.hub.behind(epoch, held).cloned();
        let news = behind.is_some() || epoch > self.hub.epoch.current();
        if news && self.not_kept.is_some_and(|at| at.elapsed() < KEEP_AGAIN) {
            return false;
        }
        let settled = match &behind {
            None => self.hub.join_epoch(epoch),
            Some(source) => {
                tracing::warn!(
                    object = source.object,
                    seen = epoch,
                    "a proxy is still ahead of us: a new epoch begins"
                );
                let begun = self.hub.begin_epoch(epoch);
                begun.map(|()| self.hub.tell_epoch())
            }
        };
        if let Err(error) = &settled {
            tracing::error!(error = %Chain(error), "the epoch could not be kept");
            self.not_kept = Some(Instant::now());
        }
        settled.is_ok()
    }

    /// Everything was looked at: whoever waited for it joins.
    pub(super) fn end_look(&mut self) {
        self.look_until = None;
        for Waiting { join, sources, answer } in std::mem::take(&mut self.waiting) {
            match self.enter_epoch(join.epoch, &sources) {
                true => self.join(*join, answer),
                false => drop(answer.send(Err(NotNow::Later))),
            }
        }
    }

    /// The API server has not shown everything in time: nobody knows who is right, so whoever waits calls again.
    pub(super) fn give_up_looking(&mut self) {
        self.look_until = None;
        self.source.forget_look();
        tracing::warn!(
            proxies = self.waiting.len(),
            "objects could not be looked at again in time"
        );
        for Waiting { answer, .. } in self.waiting.drain(..) {
            let _ = answer.send(Err(NotNow::Later)); // It may have gone meanwhile.
        }
    }
}

/// Waits for a time, if there is one.
pub(super) async fn over(until: Option<tokio::time::Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tokio::sync::watch;
    use weft_certs::bundle::TrustBundles;
    use weft_model::identity::TrustDomain;

    use super::super::{Buckets, CompileTimes, Hub, Objects, Thread};
    use super::*;
    use crate::epoch::Epoch;
    use crate::index::{Index, Settings};
    use crate::manifests;
    use crate::serve::cache::Facts;

    pub(in super::super) fn thread(state: &Path, objects: &Path) -> Thread {
        let trust_domain = TrustDomain::new("test.weft.internal").unwrap();
        let index = Index::new(Settings {
            trust_domain: trust_domain.clone(),
            cluster: "c".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        let facts = Facts {
            trust_domain,
            cluster: "c".to_owned(),
            discovery_wait: Duration::from_secs(1),
            bundles: Arc::new(TrustBundles::new([]).unwrap()),
        };
        let settings = manifests::Settings::control(&[objects.to_owned()], false, None);
        Thread {
            hub: Hub::new(index, facts, Epoch::open(state).unwrap(), 64),
            source: Objects::directories(settings).unwrap(),
            times: Arc::new(CompileTimes::default()),
            tell: watch::Sender::new(1),
            stir: watch::Sender::new(1),
            looks: Buckets::new(LOOKS, 1),
            waiting: Vec::new(),
            look_until: None,
            owed: None,
            not_kept: None,
        }
    }

    #[test]
    fn an_epoch_that_cannot_be_kept_is_not_tried_again_for_each_proxy() {
        let (state, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = state.path().join("state");
        std::fs::create_dir(&kept).unwrap();
        let mut thread = thread(&kept, objects.path());
        std::fs::remove_dir_all(&kept).unwrap();
        let now = Instant::now();
        assert!(matches!(thread.settle_epoch(5, &[], now), Err(NotNow::Later)));
        std::fs::create_dir(&kept).unwrap();
        assert!(
            matches!(thread.settle_epoch(5, &[], now), Err(NotNow::Later)),
            "not yet"
        );
        assert!(thread.settle_epoch(1, &[], now).is_ok(), "it knows nothing newer");
        thread.not_kept = None;
        assert!(thread.settle_epoch(5, &[], now).is_ok());
        assert_eq!(thread.hub.epoch.current(), 5);
    }
}
