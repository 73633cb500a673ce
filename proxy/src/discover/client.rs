//! Discover, the back side: follows the control plane and publishes what it says.
//!
//! In: questions of the workers, batches of the stream, credentials. Out: states to the workers, acknowledgements to the
//! control plane once every worker decides by them, snapshots to the tmpfs. All of it is one task; what it decides is in
//! [`Store`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use weft_certs::bundle::TrustBundles;
use weft_daemon::ready::Gate;
use weft_model::destination::Target;
use weft_proto::discovery::{self, from_proxy};
use weft_proto::resource::name::target_to_wire;

use super::dial::chain;
use super::link::{Event, Link};
use super::store::{Applied, Followed, Store};
use super::view::{Ask, Shared};
use crate::identity::News;
use crate::identity::issue::Trust;
use crate::observe::metrics::{Counter, Writer, table};
use crate::snapshot;

/// The first and the longest pause before a stream is opened again; half of it is random.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Changes that come within so long make one snapshot.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// While the control plane confirms the configuration, the snapshot is written anew this often, so that the next process
/// knows how old it is.
const REFRESH: Duration = Duration::from_secs(30);
/// A connection that rests on a root which is no longer trusted ends within this time, and not at once, so that not all
/// proxies come back together.
const ROOT_REMOVED: Duration = Duration::from_secs(30);

/// Follows the control plane. Made by [`super::start`].
#[derive(Debug)]
pub(super) struct Client {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) settings: Following,
    pub(super) renew_now: Arc<Notify>,
    pub(super) gates: Gates,
    pub(super) meters: Meters,
    pub(super) link: Option<Link>,
    /// When to open the next stream.
    pub(super) open_at: Instant,
    pub(super) pause: Duration,
    /// When to open a stream anew although one is open.
    pub(super) reopen_at: Option<Instant>,
    pub(super) snapshot_at: Option<Instant>,
}

/// Whom to follow, as whom.
#[derive(Clone, Debug)]
pub(super) struct Following {
    pub(super) address: String,
    pub(super) mark: Option<u32>,
    pub(super) trust_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) pod: discovery::Pod,
}

/// What must be known before the proxy is ready.
#[derive(Debug)]
pub(super) struct Gates {
    pub(super) certificate: Gate,
    pub(super) configuration: Gate,
}

/// The metrics of discovery.
#[derive(Debug)]
pub(super) struct Meters {
    writer: Writer,
    batches: Counter,
    opened: Counter,
    failed: Counter,
    written: Counter,
    unwritten: Counter,
}

impl Meters {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            batches: writer.counter(&table::BATCHES, &[]),
            opened: writer.counter(&table::RECONNECTS, &["opened"]),
            failed: writer.counter(&table::RECONNECTS, &["failed"]),
            written: writer.counter(&table::SNAPSHOTS, &["written"]),
            unwritten: writer.counter(&table::SNAPSHOTS, &["failed"]),
            writer,
        }
    }
}

impl Client {
    /// Follows, for ever.
    pub(super) async fn run(mut self, mut news: mpsc::Receiver<News>) {
        self.publish();
        loop {
            let due = self.due_at();
            tokio::select! {
                Some(ask) = self.asks.recv() => self.answer(ask),
                Some(news) = news.recv() => self.take_news(&news),
                event = next(&mut self.link) => self.happened(event),
                () = self.shared.advanced.notified() => self.acknowledge(),
                () = sleep_until(due) => self.due(Instant::now()),
            }
        }
    }

    /// Answers a question, with those that came together with it in one message.
    fn answer(&mut self, first: Ask) {
        let (mut subscribe, mut unsubscribe, mut refresh) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(ask) = next {
            let now = Instant::now();
            match ask {
                Ask::Follow(target, reply) => {
                    let followed = self.store.follow(&target, now, self.shared.since_start());
                    if let Ok(Followed::New { given_up }) = &followed {
                        subscribe.push(target);
                        unsubscribe.extend(given_up.clone());
                    }
                    // Who asked may have gone meanwhile.
                    let _ = reply.send(followed.map(|_| ()));
                }
                // What is asked for anew is answered anew, also where the control plane has nothing else to say.
                // Where there is nobody to ask, nothing was asked, and the next hello asks.
                Ask::Renew(_) | Ask::Suspect(_) if self.link.is_none() => {}
                Ask::Renew(target) if self.store.may_ask(&target, now) => subscribe.push(target),
                Ask::Suspect(target) if self.store.may_ask(&target, now) => refresh.push(target),
                Ask::Renew(_) | Ask::Suspect(_) => {}
            }
            next = self.asks.try_recv().ok();
        }
        if !unsubscribe.is_empty() {
            let targets = wire(&unsubscribe);
            self.say(from_proxy::Message::Unsubscribe(discovery::Unsubscribe { targets }));
            self.publish();
        }
        if !subscribe.is_empty() {
            let targets = wire(&subscribe);
            self.say(from_proxy::Message::Subscribe(discovery::Subscribe { targets }));
            self.snapshot_soon();
        }
        if !refresh.is_empty() {
            let targets = wire(&refresh);
            self.say(from_proxy::Message::Refresh(discovery::Refresh { targets }));
        }
    }

    fn take_news(&mut self, news: &News) {
        match news {
            News::Issued(credential, life) => {
                let shown = self.store.set_credential(Some(credential));
                self.shared.set_leaf_end(Some(life.end().into()));
                // The stream is opened anew with the new leaf: the old one ends with its own.
                self.drop_link();
                self.open_at = Instant::now();
                if let Some(Err(error)) = shown.map(|shown| weft_certs::store::save(&self.settings.state_dir, &shown)) {
                    tracing::warn!(
                        error = chain(&error),
                        "the certificate was not stored: a restart needs the control plane"
                    );
                }
            }
            News::Ended => {
                self.store.set_credential(None);
                self.shared.set_leaf_end(None);
            }
        }
        self.publish();
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Opened => {
                tracing::info!(address = self.settings.address, "following the control plane");
                self.meters.opened.add(1);
                self.shared.set_connected(true);
            }
            Event::Batch(batch) => {
                self.pause = PAUSE_MIN;
                self.take_batch(batch);
            }
            Event::Ended(error) => {
                let error = chain(&error);
                if self.shared.connected.load(Ordering::Relaxed) {
                    tracing::info!(error, "the stream to the control plane ended");
                } else {
                    self.meters.failed.add(1);
                    // Said once: the metrics tell how it goes on.
                    match self.pause {
                        PAUSE_MIN => tracing::warn!(error, "the control plane is not reached"),
                        _ => tracing::debug!(error, "the control plane is not reached"),
                    }
                }
                self.drop_link();
                self.open_at = Instant::now() + self.pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    pub(super) fn take_batch(&mut self, batch: discovery::Batch) {
        let trusted = self.store.trust().cloned();
        let (nonce, epoch) = (batch.nonce, batch.epoch);
        let applied = self.store.apply(batch, Instant::now());
        self.meters.batches.add(1);
        self.report(&applied);
        tracing::debug!(
            nonce,
            epoch,
            generation = self.store.state().generation,
            "applied a batch"
        );
        if applied.bundles {
            self.bundles_changed(trusted.as_deref());
        }
        self.publish();
        self.shared.confirm();
        self.snapshot_soon();
        self.acknowledge();
    }

    fn report(&self, applied: &Applied) {
        for refused in &applied.refused {
            let kind = refused.kind.map_or("unknown", |kind| kind.as_str());
            self.meters.writer.counter(&table::REFUSED, &[kind]).add(1);
            let (key, field, reason) = (&refused.key, &refused.note.field, &refused.note.reason);
            tracing::warn!(
                kind,
                key,
                field,
                reason,
                "refused a resource and kept the last good one"
            );
        }
    }

    /// A leaf that no peer accepts any more is renewed at once, and the stream that rests on a removed root is left.
    fn bundles_changed(&mut self, before: Option<&TrustBundles>) {
        let Some(credential) = &self.store.state().credential else {
            return;
        };
        if credential.verify(SystemTime::now()).is_err() {
            tracing::info!("the certificate's root is not trusted any more: renewing");
            self.renew_now.notify_one();
        }
        let own = credential.identity().trust_domain();
        let now_trusted = self.store.trust().and_then(|trust| trust.get(own));
        let removed = before.and_then(|before| before.get(own)).is_some_and(|before| {
            before
                .roots()
                .iter()
                .any(|root| now_trusted.is_none_or(|now| !now.roots().contains(root)))
        });
        if removed {
            self.reopen_at = Some(Instant::now() + ROOT_REMOVED.mul_f64(rand::random()));
        }
    }

    fn acknowledge(&mut self) {
        for ack in self.store.acknowledge(self.shared.applied_by_all()) {
            self.say(from_proxy::Message::Ack(ack));
        }
    }

    /// Says something, where somebody listens; what is missed the next hello says.
    fn say(&mut self, said: from_proxy::Message) {
        if self.link.as_ref().is_some_and(|link| !link.say(said)) {
            tracing::warn!("the control plane does not read: leaving the stream");
            self.drop_link();
            self.open_at = Instant::now() + self.pause;
        }
    }

    fn publish(&self) {
        let state = self.store.state();
        self.gates.certificate.set(state.credential.is_some());
        self.gates.configuration.set(state.is_configured());
        self.shared.followed.store(self.store.followed(), Ordering::Relaxed);
        self.shared.states.send_replace(Arc::new(state.clone()));
    }

    pub(super) fn drop_link(&mut self) {
        self.link = None;
        self.reopen_at = None;
        if self.shared.is_current() {
            // The snapshot is to say until when it was so.
            self.snapshot_soon();
        }
        self.shared.set_connected(false);
        self.store.disconnected();
    }

    fn due_at(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let open = (self.link.is_none() && self.store.state().credential.is_some()).then_some(self.open_at);
        // Where a worker is behind, its next step wakes this task.
        let snapshot = self.snapshot_at.filter(|_| self.is_applied());
        [open, self.reopen_at, snapshot]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(far)
    }

    pub(super) fn due(&mut self, now: Instant) {
        if self.reopen_at.is_some_and(|at| at <= now) {
            self.drop_link();
            self.open_at = now;
        }
        if self.link.is_none() && self.open_at <= now {
            self.open(now);
        }
        if self.snapshot_at.is_some_and(|at| at <= now) && self.is_applied() {
            self.snapshot();
            self.snapshot_at = self.shared.is_current().then(|| now + REFRESH);
        }
    }

    fn open(&mut self, now: Instant) {
        let Some(credential) = self.store.state().credential.clone() else {
            return;
        };
        let control = match Trust::read(&self.settings.trust_dir) {
            Ok(trust) => trust.control,
            Err(error) => {
                tracing::warn!(error = chain(&error), "not known who the control plane is");
                self.open_at = now + PAUSE_MAX;
                return;
            }
        };
        let tls = credential.client_config_expecting(&control, &[b"h2"]);
        let hello = self
            .store
            .hello(self.settings.pod.clone(), env!("CARGO_PKG_VERSION"), now);
        self.link = Some(Link::open(
            self.settings.mark,
            self.settings.address.clone(),
            tls,
            hello,
        ));
    }

    /// Whether every worker decides by what is held: only that is worth being found by the next process. Should a worker
    /// fail over a state, it is not met by it again.
    fn is_applied(&self) -> bool {
        self.shared.applied_by_all() >= self.store.state().generation
    }

    fn snapshot_soon(&mut self) {
        let soon = Instant::now() + DEBOUNCE;
        self.snapshot_at = Some(self.snapshot_at.map_or(soon, |at| at.min(soon)));
    }

    fn snapshot(&self) {
        let confirmed = SystemTime::now().checked_sub(self.shared.config_age());
        let confirmed = confirmed.unwrap_or(SystemTime::UNIX_EPOCH);
        match snapshot::save(&self.settings.state_dir, &self.store, confirmed) {
            Ok(()) => self.meters.written.add(1),
            Err(error) => {
                self.meters.unwritten.add(1);
                tracing::warn!(%error, "the snapshot was not written: a restart needs the control plane");
            }
        }
    }
}

async fn next(link: &mut Option<Link>) -> Event {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

fn wire(targets: &[Target]) -> Vec<discovery::Target> {
    targets.iter().map(target_to_wire).collect()
}
