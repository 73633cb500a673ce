//! Proxies that are ahead of us: everything is looked at again, and only if that is older too, a new epoch begins.

use std::time::{Duration, Instant};

use weft_model::version::Source;

use super::{Joined, NotNow, Thread};
use crate::authority::Chain;
use crate::serve::hub::{Join, Subject};
use crate::serve::rate::{Buckets, Rate};

/// All objects are read again, and a new epoch may begin, so often because of what proxies say.
const LOOKS: Rate = Rate {
    per_second: 0.1,
    burst: 3.0,
};
/// The same because of what one pod says. After a true restore each is ahead once: one that is so again and again lies.
const LOOKS_OF_POD: Rate = Rate {
    per_second: 1.0 / 60.0,
    burst: 3.0,
};
/// Pods that are told apart at a time.
const PODS: usize = 4096;
/// A look at an API server's objects is over within this, or the proxies that wait for it call again.
const LOOK: Duration = Duration::from_secs(10);
/// While the epoch could not be kept, this thread waits for that only so often: each attempt may take seconds.
pub(super) const KEEP_AGAIN: Duration = Duration::from_secs(10);
/// Proxies that wait for a look at once. As few are ahead of us at first; the others call again.
const LOOKERS: usize = 64;

/// Looks at everything that proxies wait for, and how often one may begin.
pub(super) struct Looks {
    rate: Buckets<()>,
    of_pod: Buckets<Subject>,
    /// Those that the look which is under way was begun for.
    waiting: Vec<Waiting>,
    /// Those that came since: of what they hold it may have been too early. The next one is for all of them.
    next: Vec<Waiting>,
    /// When the look that is under way is given up.
    until: Option<tokio::time::Instant>,
}

/// A proxy that waits for a look.
pub(super) struct Waiting {
    pub(super) join: Box<Join>,
    pub(super) sources: Vec<Source>,
    pub(super) answer: Joined,
}

/// What is known of a proxy's epoch.
enum Settling {
    /// It may join.
    Settled,
    /// When we have looked again.
    Looking,
    /// When we have looked once more after that.
    LookingOnceMore,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            rate: Buckets::new(LOOKS, 1),
            of_pod: Buckets::new(LOOKS_OF_POD, PODS),
            waiting: Vec::new(),
            next: Vec::new(),
            until: None,
        }
    }

    /// When the look that is under way is given up.
    pub(super) fn until(&self) -> Option<tokio::time::Instant> {
        self.until
    }

    /// Whether a pod may have its word acted on now. `joins`: it waits for a look that others have as well.
    fn take(&mut self, who: &Subject, joins: bool, now: Instant) -> Result<(), NotNow> {
        let full = self.waiting.len() + self.next.len() >= LOOKERS;
        // What there is none of for anybody costs nobody anything.
        let may = !full && (joins || self.rate.has(&(), now)) && self.of_pod.take(who.clone(), now).is_ok();
        match may && (joins || self.rate.take((), now).is_ok()) {
            true => Ok(()),
            false => Err(NotNow::Later),
        }
    }
}

impl Thread {
    /// A proxy is here: it joins, or waits for a look, or hears that it is to call again.
    pub(super) fn meet(&mut self, who: Waiting, now: Instant) {
        match self.settle_epoch(&who.join.who.subject, who.join.epoch, &who.sources, now) {
            Ok(Settling::Settled) => self.join(*who.join, who.answer),
            Ok(Settling::Looking) => self.looks.waiting.push(who),
            Ok(Settling::LookingOnceMore) => self.looks.next.push(who),
            Err(not_now) => drop(who.answer.send(Err(not_now))),
        }
    }

    /// Makes sure that a proxy may believe us: if it knows something newer than we do, we look again; and only if that is
    /// older too (a state directory or an API server that was restored), a new epoch begins. All proxies together make us do
    /// so only so often, and each pod: one that lies must neither keep the desk busy nor take the turn of others. After a true
    /// restore the first epoch serves them all.
    fn settle_epoch(&mut self, who: &Subject, epoch: u64, held: &[Source], now: Instant) -> Result<Settling, NotNow> {
        let current = self.hub.epoch.current();
        if !self.hub.epoch.plausible(epoch) {
            tracing::warn!(seen = epoch, current, "a proxy says an epoch that it cannot have seen");
            return Err(NotNow::Epoch { seen: epoch, current });
        }
        if let Some(source) = self.hub.behind(epoch, held) {
            let under_way = self.looks.until.is_some();
            self.looks.take(who, under_way, now)?;
            if under_way {
                return Ok(Settling::LookingOnceMore);
            }
            tracing::warn!(
                %who,
                object = source.object,
                resource_version = source.resource_version,
                "a proxy is ahead of us: looking again"
            );
            if self.begin_look() {
                return Ok(Settling::Looking);
            }
        } else if epoch > current {
            // That is kept before it counts.
            self.looks.take(who, false, now)?;
        }
        match self.enter_epoch(epoch, held) {
            true => Ok(Settling::Settled),
            false => Err(NotNow::Later),
        }
    }

    /// Reads everything again. Says whether the answer is still to come.
    fn begin_look(&mut self) -> bool {
        let begun = self.open_again();
        self.looks.until = begun.then(|| tokio::time::Instant::now() + LOOK);
        begun
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

    /// Everything was looked at: whoever waited for it joins. One more look begins for all that came meanwhile and still are
    /// ahead of us.
    pub(super) fn end_look(&mut self, now: Instant) {
        self.looks.until = None;
        for who in std::mem::take(&mut self.looks.waiting) {
            self.admit(who);
        }
        let next = std::mem::take(&mut self.looks.next).into_iter();
        let is_ahead = |who: &Waiting| self.hub.behind(who.join.epoch, &who.sources).is_some();
        let (ahead, others): (Vec<_>, Vec<_>) = next.partition(is_ahead);
        for who in others {
            self.admit(who);
        }
        if ahead.is_empty() {
            return;
        }
        match self.looks.rate.take((), now).is_ok() && self.begin_look() {
            true => self.looks.waiting = ahead,
            false => later(ahead),
        }
    }

    /// Lets a proxy join that we have looked for.
    fn admit(&mut self, who: Waiting) {
        match self.enter_epoch(who.join.epoch, &who.sources) {
            true => self.join(*who.join, who.answer),
            false => later([who]),
        }
    }

    /// The API server has not shown everything in time: nobody knows who is right, so whoever waits calls again.
    pub(super) fn give_up_looking(&mut self) {
        self.looks.until = None;
        self.source.forget_look();
        let waiting = std::mem::take(&mut self.looks.waiting);
        let next = std::mem::take(&mut self.looks.next);
        tracing::warn!(
            proxies = waiting.len() + next.len(),
            "objects could not be looked at again in time"
        );
        later(waiting.into_iter().chain(next));
    }
}

/// These are to call again.
fn later(who: impl IntoIterator<Item = Waiting>) {
    for Waiting { answer, .. } in who {
        let _ = answer.send(Err(NotNow::Later)); // It may have gone meanwhile.
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
    use std::time::SystemTime;

    use tokio::sync::{oneshot, watch};
    use weft_certs::bundle::TrustBundles;
    use weft_model::identity::TrustDomain;

    use super::super::{CompileTimes, Hub, Objects, Thread};
    use super::*;
    use crate::cluster::Shown;
    use crate::epoch::Epoch;
    use crate::index::{self, Index, Settings};
    use crate::manifests::{self, Snapshot};
    use crate::serve::cache::Facts;
    use crate::serve::hub::Who;
    use crate::source::News;

    /// A desk that is not served, so that what it does can be seen.
    pub(in super::super) fn thread(state: &Path, objects: &Path) -> Thread {
        let settings = manifests::Settings::control(&[objects.to_owned()], false, None);
        thread_of(state, Objects::directories(settings).unwrap())
    }

    fn thread_of(state: &Path, source: Objects) -> Thread {
        let trust_domain = TrustDomain::new("test.weft.internal").unwrap();
        let index = Index::new(Settings {
            trust_domain: trust_domain.clone(),
            cluster: "c".to_owned(),
            network: "c".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        let facts = Facts {
            trust_domain,
            cluster: "c".to_owned(),
            discovery_wait: Duration::from_secs(1),
            bundles: Arc::new(TrustBundles::new([]).unwrap()),
            network: "c".to_owned(),
            gateways: Vec::new(),
            federation_endpoints: Vec::new(),
            bundle_endpoint: None,
            control_plane: "spiffe://td/ns/weft-system/sa/weft-control".parse().unwrap(),
        };
        Thread {
            hub: Hub::new(index, facts, Epoch::open(state).unwrap(), 64),
            source,
            times: Arc::new(CompileTimes::default()),
            tell: watch::Sender::new(1),
            stir: watch::Sender::new(1),
            link: watch::Sender::default(),
            looks: Looks::new(),
            owed: None,
            not_kept: None,
            bundles_due: None,
        }
    }

    fn pod(name: &str) -> Subject {
        Subject::Pod(index::Name::new("shop", name))
    }

    #[test]
    fn an_epoch_that_cannot_be_kept_is_not_tried_again_for_each_proxy() {
        let (state, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = state.path().join("state");
        std::fs::create_dir(&kept).unwrap();
        let mut thread = thread(&kept, objects.path());
        std::fs::remove_dir_all(&kept).unwrap();
        let now = Instant::now();
        let web = pod("web-1");
        assert!(matches!(thread.settle_epoch(&web, 5, &[], now), Err(NotNow::Later)));
        std::fs::create_dir(&kept).unwrap();
        assert!(
            matches!(thread.settle_epoch(&web, 5, &[], now), Err(NotNow::Later)),
            "not yet"
        );
        assert!(thread.settle_epoch(&web, 1, &[], now).is_ok(), "it knows nothing newer");
        thread.not_kept = None;
        assert!(thread.settle_epoch(&web, 5, &[], now).is_ok());
        assert_eq!(thread.hub.epoch.current(), 5);
    }

    #[test]
    fn a_pod_that_says_a_new_epoch_again_and_again_is_not_believed() {
        let (state, objects) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut thread = thread(state.path(), objects.path());
        let mut now = Instant::now();
        let mut raise = |name: &str, now: Instant| {
            let next = thread.hub.epoch.current() + 1;
            thread.settle_epoch(&pod(name), next, &[], now).is_ok()
        };
        let raised = (0..60).filter(|_| {
            now += Duration::from_secs(1);
            raise("liar", now)
        });
        assert_eq!(raised.count(), 3);
        // What it says takes nothing from others.
        assert!(raise("web-1", now));
    }

    /// All that an API server has, when it was last looked at.
    fn all(version: u64) -> News {
        News::All {
            snapshot: Snapshot::default(),
            lists: [("HTTPRoute".to_owned(), version)].into(),
            older: false,
        }
    }

    type Heard = oneshot::Receiver<Result<(u64, Arc<crate::serve::hub::Outlet>), NotNow>>;

    /// A proxy that holds what was made of a route of this version.
    fn calls(thread: &mut Thread, name: &str, version: u64, now: Instant) -> Heard {
        let (answer, heard) = oneshot::channel();
        let who = Who {
            subject: pod(name),
            uid: String::new(),
            build: String::new(),
            features: Vec::new(),
            since: SystemTime::UNIX_EPOCH,
            skew_ms: None,
        };
        let join = Join {
            who,
            epoch: thread.hub.epoch.current(),
            held: Vec::new(),
            targets: Vec::new(),
        };
        let source = Source {
            object: "HTTPRoute shop/r".to_owned(),
            uid: "uid-r".to_owned(),
            resource_version: version,
        };
        let (join, sources) = (Box::new(join), vec![source]);
        thread.meet(Waiting { join, sources, answer }, now);
        heard
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_that_come_while_we_look_wait_for_one_look_more() {
        let state = tempfile::tempdir().unwrap();
        let shown = Arc::new(Shown::new(&[]));
        let mut thread = thread_of(state.path(), Objects::cluster(shown));
        thread.take(all(10));
        let now = Instant::now();
        let mut first = calls(&mut thread, "web-0", 20, now);
        let mut others: Vec<Heard> = (1..30)
            .map(|n| calls(&mut thread, &format!("web-{n}"), 30, now))
            .collect();
        assert_eq!((thread.looks.waiting.len(), thread.looks.next.len()), (1, 29));

        thread.take(all(20));
        assert!(first.try_recv().unwrap().is_ok());
        assert!(others[0].try_recv().is_err(), "it waits for the next look");
        assert!(thread.looks.until().is_some());
        thread.take(all(30));
        assert!(others.iter_mut().all(|other| other.try_recv().unwrap().is_ok()));
        assert!(thread.looks.until().is_none());
        assert_eq!(thread.hub.epoch.current(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_pod_does_not_have_everything_read_again_and_again() {
        let state = tempfile::tempdir().unwrap();
        let shown = Arc::new(Shown::new(&[]));
        let looks = shown.looks();
        let mut thread = thread_of(state.path(), Objects::cluster(shown));
        thread.take(all(10));
        let mut now = Instant::now();
        for _ in 0..120 {
            now += Duration::from_secs(1);
            drop(calls(&mut thread, "liar", u64::MAX, now));
            thread.take(all(10));
        }
        assert_eq!(*looks.borrow(), 4, "three at once, and one each minute");
        assert_eq!(thread.hub.epoch.current(), 5);
        let mut honest = calls(&mut thread, "web-1", 20, now);
        thread.take(all(20));
        assert!(honest.try_recv().unwrap().is_ok());
    }
}
