//! The desk: one thread that owns the hub. Changes of objects come in on one side, what proxies say on the other.
//!
//! Whoever asks waits for an answer through a bounded queue; the desk itself waits for nobody, so no proxy can hold up
//! another.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use weft_model::destination::Target;
use weft_model::version::Source;

use super::cache::ProxyId;
use super::hub::{Hub, Join, Linked, Outlet, Settled, Subject, Unwelcome};
use crate::authority::Chain;
use crate::manifests::{OpenError, Snapshot};
use crate::source::{Look, News, Source as Objects};
use crate::status::applied::Verdicts;
use crate::status::{Figures, Imports, Status, Wanted};

mod look;
mod owed;
mod peers;

use look::{Looks, Waiting, over};
use owed::Owed;
use peers::OfPeer;

/// Questions that wait at once: as many as a burst of reconnecting proxies; the rest waits in its own task.
const QUEUE: usize = 1024;
/// A watch that ended is begun anew so often.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// Upper bounds of the histogram of compile durations, in seconds.
pub(crate) const COMPILE_BUCKETS: [f64; 8] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5];

/// Resolves when the desk's thread ends, however that comes.
pub(crate) type DeskEnd = oneshot::Receiver<Infallible>;

/// The way to the desk. Clones lead to the same.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    questions: mpsc::Sender<Question>,
    /// Rises with every change of objects, of what peers say, and of how the links to them are.
    changed: watch::Receiver<u64>,
    /// Rises with all that may change a verdict: objects, and what proxies need and have.
    stirred: watch::Receiver<u64>,
    linked: watch::Receiver<Arc<Linked>>,
}

/// The desk does not answer: the process is ending.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is ending")]
pub(crate) struct Closed;

/// Why a proxy may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotNow {
    /// Its epoch is none that it can have seen.
    #[error(
        "the epoch {seen} is none that this proxy can have seen: {current} is the current one. Restart its pod; or, if the \
         state directory was lost, write the proxy's epoch into the file epoch in it (on a cluster, into the ConfigMap \
         weft-state), and restart weft-control"
    )]
    Epoch {
        /// What it says.
        seen: u64,
        /// Ours.
        current: u64,
    },
    /// It is ahead of us, and we have looked again too often lately, or the epoch cannot be kept.
    #[error(
        "this proxy has seen newer objects, which are looked for only so often, or its epoch cannot be kept now; call again"
    )]
    Later,
    /// It is a replica of another cluster that may not follow.
    #[error(transparent)]
    Follower(#[from] Unwelcome),
}

/// What is known of a pod, to check a caller against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) uid: String,
    pub(crate) service_account: String,
    pub(crate) ips: Vec<IpAddr>,
    /// It has ended: its address may be another's by now.
    pub(crate) finished: bool,
}

/// How long changes took to compile.
#[derive(Debug, Default)]
pub(crate) struct CompileTimes {
    /// Observations by bucket; the last is above all bounds.
    pub(crate) buckets: [AtomicU64; COMPILE_BUCKETS.len() + 1],
    /// Their sum, in microseconds.
    pub(crate) micros: AtomicU64,
}

enum Question {
    Pod {
        namespace: String,
        name: String,
        answer: oneshot::Sender<Option<PodFacts>>,
    },
    PodAt {
        address: IpAddr,
        answer: oneshot::Sender<Option<(String, PodFacts)>>,
    },
    Runs {
        namespace: String,
        account: String,
        answer: oneshot::Sender<bool>,
    },
    Join {
        join: Box<Join>,
        sources: Vec<Source>,
        answer: Joined,
    },
    Leave(ProxyId),
    Subscribe {
        id: ProxyId,
        targets: Vec<Target>,
        answer: oneshot::Sender<usize>,
    },
    Unsubscribe {
        id: ProxyId,
        targets: Vec<Target>,
    },
    Refresh(ProxyId),
    Settle {
        id: ProxyId,
        settled: Vec<Settled>,
        answer: oneshot::Sender<()>,
    },
    /// Of another cluster.
    OfPeer(OfPeer),
    Status(oneshot::Sender<Status>),
    Verdicts(oneshot::Sender<Verdicts>),
    Figures(oneshot::Sender<Figures>),
    Imports(oneshot::Sender<Imports>),
    Wanted(oneshot::Sender<Wanted>),
}

impl Desk {
    /// Takes in what is there, and starts the thread. It ends with the token.
    ///
    /// # Errors
    /// The thread does not start.
    pub(crate) fn open(
        mut hub: Hub,
        source: Objects,
        times: Arc<CompileTimes>,
        end: CancellationToken,
    ) -> Result<(Self, DeskEnd), OpenError> {
        if let Some(snapshot) = source.first() {
            let started = Instant::now();
            hub.replace(&snapshot);
            times.observe(started.elapsed());
        }
        let (questions, asked) = mpsc::channel(QUEUE);
        let (tell, changed) = watch::channel(1);
        let (stir, stirred) = watch::channel(1);
        let (link, linked) = watch::channel(Arc::new(hub.linked()));
        let thread = Thread {
            hub,
            source,
            times,
            tell,
            stir,
            link,
            looks: Looks::new(),
            owed: None,
            not_kept: None,
            bundles_due: None,
        };
        let (alive, ended) = oneshot::channel();
        let run = move || {
            // Dropped with the thread, also when it panics.
            let _alive = alive;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(thread.serve(asked, end)),
                Err(error) => tracing::error!(%error, "the desk's runtime did not start"),
            }
        };
        thread::Builder::new()
            .name("desk".to_owned())
            .spawn(run)
            .map_err(OpenError::Thread)?;
        let desk = Self {
            questions,
            changed,
            stirred,
            linked,
        };
        Ok((desk, ended))
    }

    /// What is known of a pod now.
    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Result<Option<PodFacts>, Closed> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.ask(|answer| Question::Pod {
            namespace,
            name,
            answer,
        })
        .await
    }

    /// The pod at an address, with its namespace.
    pub(crate) async fn pod_at(&self, address: IpAddr) -> Result<Option<(String, PodFacts)>, Closed> {
        self.ask(|answer| Question::PodAt { address, answer }).await
    }

    /// Whether a pod that has not ended runs as this account.
    pub(crate) async fn runs(&self, namespace: &str, account: &str) -> Result<bool, Closed> {
        let (namespace, account) = (namespace.to_owned(), account.to_owned());
        self.ask(|answer| Question::Runs {
            namespace,
            account,
            answer,
        })
        .await
    }

    /// Waits for a pod to be as `fits` wants it: `Ok` ends the wait, `Err` goes on until the time is over and is then the
    /// answer. The inner result is for what no waiting can mend.
    pub(crate) async fn wait_for_pod<T, E>(
        &self,
        namespace: &str,
        name: &str,
        patience: Duration,
        fits: impl Fn(Option<PodFacts>) -> Result<Result<T, E>, E>,
    ) -> Result<Result<T, E>, Closed> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            let not_yet = match fits(self.pod(namespace, name).await?) {
                Ok(answer) => return Ok(answer),
                Err(not_yet) => not_yet,
            };
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Closed),
                Err(_) => return Ok(Err(not_yet)),
            }
        }
    }

    /// A proxy is here, and holds what was made of these sources.
    pub(crate) async fn join(
        &self,
        join: Join,
        sources: Vec<Source>,
    ) -> Result<Result<(ProxyId, Arc<Outlet>), NotNow>, Closed> {
        let join = Box::new(join);
        self.ask(|answer| Question::Join { join, sources, answer }).await
    }

    /// A proxy is gone.
    pub(crate) async fn leave(&self, id: ProxyId) -> Result<(), Closed> {
        self.tell(Question::Leave(id)).await
    }

    /// A proxy wants to know of more. Returns how many are over its limit.
    pub(crate) async fn subscribe(&self, id: ProxyId, targets: Vec<Target>) -> Result<usize, Closed> {
        self.ask(|answer| Question::Subscribe { id, targets, answer }).await
    }

    /// A proxy wants to know of less.
    pub(crate) async fn unsubscribe(&self, id: ProxyId, targets: Vec<Target>) -> Result<(), Closed> {
        self.tell(Question::Unsubscribe { id, targets }).await
    }

    /// A proxy suspects that it was told something old.
    pub(crate) async fn refresh(&self, id: ProxyId) -> Result<(), Closed> {
        self.tell(Question::Refresh(id)).await
    }

    /// A proxy has acknowledged a batch. When this returns, what follows from it is in the outbox.
    pub(crate) async fn settle(&self, id: ProxyId, settled: Vec<Settled>) -> Result<(), Closed> {
        self.ask(|answer| Question::Settle { id, settled, answer }).await
    }

    /// The peers, and whom their identities are proved by, as they change.
    pub(crate) fn linked(&self) -> watch::Receiver<Arc<Linked>> {
        self.linked.clone()
    }

    /// Everything, for people.
    pub(crate) async fn status(&self) -> Result<Status, Closed> {
        self.ask(Question::Status).await
    }

    /// What is to be said of routes, subsets and policies.
    pub(crate) async fn verdicts(&self) -> Result<Verdicts, Closed> {
        self.ask(Question::Verdicts).await
    }

    /// Rises with all that may change a verdict.
    pub(crate) fn stirred(&self) -> watch::Receiver<u64> {
        self.stirred.clone()
    }

    /// Rises with every change of objects, of what peers say, and of how the links to them are.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What imports come to now.
    pub(crate) async fn wanted(&self) -> Result<Wanted, Closed> {
        self.ask(Question::Wanted).await
    }

    /// What is imported, once it is another than it was, or after so long.
    pub(crate) async fn imports(&self, known: &str, patience: Duration) -> Result<Imports, Closed> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            let imports = self.ask(Question::Imports).await?;
            if imports.version != known {
                return Ok(imports);
            }
            match tokio::time::timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Closed),
                Err(_) => return Ok(imports),
            }
        }
    }

    /// Numbers, for scrapers.
    pub(crate) async fn figures(&self) -> Result<Figures, Closed> {
        self.ask(Question::Figures).await
    }

    async fn tell(&self, question: Question) -> Result<(), Closed> {
        self.questions.send(question).await.map_err(|_| Closed)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Closed> {
        let (answer, answered) = oneshot::channel();
        self.tell(question(answer)).await?;
        answered.await.map_err(|_| Closed)
    }
}

impl CompileTimes {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = COMPILE_BUCKETS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(COMPILE_BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros
            .fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What the thread owns.
struct Thread {
    hub: Hub,
    source: Objects,
    times: Arc<CompileTimes>,
    tell: watch::Sender<u64>,
    stir: watch::Sender<u64>,
    link: watch::Sender<Arc<Linked>>,
    /// Proxies that are ahead of us, and the look that they wait for.
    looks: Looks,
    /// An epoch that has to begin, and could not be kept so far.
    owed: Option<Owed>,
    /// When a new epoch could last not be kept.
    not_kept: Option<Instant>,
    /// When bundles of peers may be taken that wait.
    bundles_due: Option<tokio::time::Instant>,
}

/// Where a proxy hears whether it has joined.
type Joined = oneshot::Sender<Result<(ProxyId, Arc<Outlet>), NotNow>>;

impl Thread {
    async fn serve(mut self, mut asked: mpsc::Receiver<Question>, end: CancellationToken) {
        loop {
            let (look_until, pay_at) = (self.looks.until(), self.owed.as_ref().map(Owed::again));
            let bundles_due = self.bundles_due;
            let withheld = self.owed.as_ref().is_some_and(Owed::withholds);
            // Not biased: neither a flood of changes nor one of questions may keep the other waiting.
            tokio::select! {
                () = end.cancelled() => return,
                news = self.source.next(), if !withheld => match news {
                    Some(news) => self.take(news),
                    None => {
                        tracing::error!("the watch of the objects has ended");
                        tokio::time::sleep(WATCH_AGAIN).await;
                        self.open_again();
                    }
                },
                () = over(look_until) => self.give_up_looking(),
                () = over(pay_at) => self.pay(),
                () = over(bundles_due) => self.take_bundles(),
                question = asked.recv() => match question {
                    Some(question) => self.answer(question),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, news: News) {
        if !news.is_older() {
            return self.hear(news);
        }
        // Before anything of it is told: within an epoch, proxies take nothing older.
        tracing::warn!("objects are older than they were: what they come from was restored, and a new epoch begins");
        self.owed = Some(Owed::new(news, self.owed.as_ref()));
        self.pay();
    }

    fn hear(&mut self, news: News) {
        match news {
            News::All { snapshot, lists, .. } => {
                self.replace(&snapshot);
                self.hub.listed(&lists);
                self.end_look(Instant::now());
            }
            News::Changes { changes, .. } => {
                let started = Instant::now();
                self.hub.apply(&changes);
                let took = started.elapsed();
                self.times.observe(took);
                tracing::debug!(
                    changed = changes.upserts.len(),
                    gone = changes.deletes.len(),
                    micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                    "objects changed"
                );
                self.changed();
            }
        }
    }

    fn replace(&mut self, snapshot: &Snapshot) {
        let started = Instant::now();
        self.hub.replace(snapshot);
        self.times.observe(started.elapsed());
        self.changed();
    }

    fn changed(&mut self) {
        self.relink();
        self.tell.send_modify(|changes| *changes += 1);
        self.stirred();
    }

    /// Tells of the peers, where they have changed; those that follow what is exported to them begin anew.
    fn relink(&mut self) {
        if !std::mem::take(&mut self.hub.peers_changed) {
            return;
        }
        let linked = self.hub.linked();
        self.hub.drop_followers(&self.link.borrow(), &linked);
        self.link.send_if_modified(|before| {
            let differs = **before != linked;
            if differs {
                *before = Arc::new(linked);
            }
            differs
        });
    }

    /// Takes the bundles that peers have offered, as far as it is time.
    fn take_bundles(&mut self) {
        self.bundles_due = self.hub.take_bundles(tokio::time::Instant::now());
        self.changed();
    }

    fn stirred(&self) {
        self.stir.send_modify(|stirs| *stirs += 1);
    }

    fn answer(&mut self, question: Question) {
        let stirs = matches!(
            question,
            Question::Leave(_) | Question::Subscribe { .. } | Question::Unsubscribe { .. } | Question::Settle { .. }
        );
        self.act(question);
        if stirs {
            self.stirred();
        }
    }

    /// The answer may come too late for whoever asked: then nobody needs it.
    fn act(&mut self, question: Question) {
        let hub = &mut self.hub;
        match question {
            Question::Pod {
                namespace,
                name,
                answer,
            } => drop(answer.send(pod_facts(hub, &namespace, &name))),
            Question::PodAt { address, answer } => {
                let name = hub.index.pod_at(address).cloned();
                let facts = name.and_then(|name| Some((pod_facts(hub, &name.namespace, &name.name)?, name.namespace)));
                drop(answer.send(facts.map(|(facts, namespace)| (namespace, facts))));
            }
            Question::Runs {
                namespace,
                account,
                answer,
            } => drop(answer.send(hub.index.runs(&namespace, &account))),
            Question::Join { join, sources, answer } => self.meet(Waiting { join, sources, answer }, Instant::now()),
            Question::Leave(id) => hub.leave(id),
            Question::Subscribe { id, targets, answer } => drop(answer.send(hub.subscribe(id, targets))),
            Question::Unsubscribe { id, targets } => hub.unsubscribe(id, &targets),
            Question::Refresh(id) => hub.refresh(id),
            Question::Settle { id, settled, answer } => {
                hub.settle(id, settled);
                let _ = answer.send(());
            }
            Question::OfPeer(question) => self.act_of_peer(question),
            Question::Status(answer) => drop(answer.send(hub.status())),
            Question::Verdicts(answer) => drop(answer.send(hub.verdicts())),
            Question::Figures(answer) => drop(answer.send(hub.figures())),
            Question::Imports(answer) => drop(answer.send(hub.imports())),
            Question::Wanted(answer) => drop(answer.send(hub.wanted())),
        }
    }

    fn join(&mut self, join: Join, answer: Joined) {
        // Now, and not when its first message came: others may have come since, and its ClusterPeer may have gone.
        if let Subject::Peer(follower) = &join.who.subject
            && let Err(unwelcome) = self.hub.may_follow(follower, join.held.len())
        {
            drop(answer.send(Err(unwelcome.into())));
            return;
        }
        let joined = self.hub.join(join);
        if let Err(Ok((id, _))) = answer.send(Ok(joined)) {
            self.hub.leave(id);
        }
        self.stirred();
    }

    /// Reads everything again, whatever the watch has said of it. Says whether the answer is still to come.
    fn open_again(&mut self) -> bool {
        match self.source.look_again() {
            Ok(Look::Now(snapshot)) => self.replace(&snapshot),
            Ok(Look::Later) => return true,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the manifests could not be read again");
            }
        }
        false
    }
}

fn pod_facts(hub: &Hub, namespace: &str, name: &str) -> Option<PodFacts> {
    let entry = hub.index.pod(namespace, name)?;
    Some(PodFacts {
        uid: entry.uid.clone(),
        service_account: entry.pod.service_account.clone(),
        ips: entry.pod.ips.iter().map(IpAddr::to_canonical).collect(),
        finished: entry.pod.finished,
    })
}
