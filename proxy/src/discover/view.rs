//! Discover, the workers' side: what is at a destination, and the state that everything is decided by.
//!
//! In: the destination that an app dialled. Out: what is there, at once where it is known, else after a bounded wait for the
//! control plane. One view belongs to one worker; reading a known destination takes no lock and wakes nobody.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use weft_model::destination::{Lookup, Target};
use weft_model::reason::Reason;

use super::state::{Found, State};

/// Questions of the workers that may wait for the store. A connection that finds it full waits within its own bound.
const ASKS: usize = 256;

/// How long an answer that lets plaintext out to an address inside the mesh is good while nobody confirms it. A control
/// plane restarts, or is upgraded, in less; and an address that a pod gave up is not left to a meshed pod for long.
const UNCONFIRMED: Duration = Duration::from_secs(5 * 60);

/// One worker's view of what the control plane says.
#[derive(Debug)]
pub struct View {
    shared: Arc<Shared>,
    worker: usize,
    states: RefCell<watch::Receiver<Arc<State>>>,
    current: RefCell<Arc<State>>,
    asks: mpsc::Sender<Ask>,
}

/// What the views and the store share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The newest state.
    pub(crate) states: watch::Sender<Arc<State>>,
    /// The generation that each worker decides by. `u64::MAX`: that worker has ended.
    applied: Box<[AtomicU64]>,
    /// A worker has applied something.
    pub(crate) advanced: Notify,
    /// Whether the stream to the control plane is up.
    pub(crate) connected: AtomicBool,
    /// Whether this stream has said already what changed since the last one: from then on everything is as it says.
    current: AtomicBool,
    /// When that was so last, in milliseconds since `started`; before it where an earlier process heard it.
    confirmed: AtomicI64,
    /// How many destinations are followed.
    pub(crate) followed: AtomicUsize,
    /// Since when uses of destinations are counted.
    started: Instant,
    /// When the proxy's own leaf ends. Locked by the back thread alone, to note and to report.
    leaf_end: Mutex<Option<Instant>>,
}

/// What a worker wants of the store.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Follow a destination. The answer says whether it is followed now, not what is there.
    Follow(Target, oneshot::Sender<Result<(), Reason>>),
    /// Ask anew what is there: the negative answer grows old.
    Renew(Target),
    /// What is known seems to be wrong.
    Suspect(Target),
}

/// Makes a view for each worker, and what the store needs of them. `confirmed`: when the control plane confirmed the
/// configuration last.
pub(crate) fn channel(
    first: State,
    workers: usize,
    confirmed: SystemTime,
) -> (Arc<Shared>, mpsc::Receiver<Ask>, Vec<View>) {
    let (asks, questions) = mpsc::channel(ASKS);
    let shared = Arc::new(Shared {
        states: watch::Sender::new(Arc::new(first)),
        applied: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        advanced: Notify::new(),
        connected: AtomicBool::new(false),
        current: AtomicBool::new(false),
        confirmed: AtomicI64::new(-millis(confirmed.elapsed().unwrap_or_default())),
        followed: AtomicUsize::new(0),
        started: Instant::now(),
        leaf_end: Mutex::new(None),
    });
    let views = (0..workers)
        .map(|worker| View::new(shared.clone(), worker, asks.clone()))
        .collect();
    (shared, questions, views)
}

/// What a view finds of a destination without asking.
enum Known {
    /// Good.
    Fresh(Lookup),
    /// Good for now, but soon too old: it should be asked again.
    Aging(Lookup),
    /// A negative answer that is too old, and when it was heard.
    Old(Lookup, Instant),
    /// Nothing.
    Nothing,
}

impl View {
    fn new(shared: Arc<Shared>, worker: usize, asks: mpsc::Sender<Ask>) -> Self {
        let mut states = shared.states.subscribe();
        let current = states.borrow_and_update().clone();
        Self {
            shared,
            worker,
            states: RefCell::new(states),
            current: RefCell::new(current),
            asks,
        }
    }

    /// The newest state. Costs two atomic loads and a reference count where nothing changed.
    pub fn state(&self) -> Arc<State> {
        let mut states = self.states.borrow_mut();
        // An error says that the store has ended: the last state stays good.
        if states.has_changed().unwrap_or(false) {
            *self.current.borrow_mut() = states.borrow_and_update().clone();
        }
        self.current.borrow().clone()
    }

    /// Waits for a state newer than this generation. Cancel safe; several tasks may wait.
    pub async fn newer(&self, than: u64) -> Arc<State> {
        let mut states = self.states.borrow().clone();
        match states.wait_for(|state| state.generation > than).await {
            Ok(state) => state.clone(),
            // The store has ended, so there will be none.
            Err(_) => std::future::pending().await,
        }
    }

    /// Says that this worker now decides by this generation and no older one. Only then is it acknowledged.
    pub fn applied(&self, generation: u64) {
        self.shared.applied[self.worker].store(generation, Ordering::Release);
        self.shared.advanced.notify_one();
    }

    /// What is at a destination.
    ///
    /// A destination outside the mesh's networks is [`Lookup::Outside`] at once, and not followed. One inside that is not
    /// known yet is followed from now on, and waited for within `discovery_wait`. The state that the view gives right after
    /// holds all that the answer refers to; when it does not any more (the destination was idle for long, and forgotten),
    /// look it up again. Cancel safe.
    ///
    /// While nobody can be asked, what is known stays good. Only the answer that nothing of the mesh is at an address inside
    /// ends some minutes after it was last confirmed: the address may be a meshed pod's by then, which must not be sent
    /// plaintext.
    ///
    /// Errors: [`Reason::DiscoveryTimeout`], [`Reason::UnknownAddress`], [`Reason::SubscriptionLimit`].
    pub async fn lookup(&self, target: &Target) -> Result<Lookup, Reason> {
        let state = self.state();
        let (old, heard) = match self.known(&state, target) {
            Known::Fresh(lookup) => return Ok(lookup),
            Known::Aging(lookup) => {
                // A full queue is no harm: the next use asks.
                let _ = self.asks.try_send(Ask::Renew(target.clone()));
                return Ok(lookup);
            }
            // See below for a stream that ends meanwhile.
            Known::Old(lookup, _) if self.serves_unasked(&state, target, &lookup) => return Ok(lookup),
            Known::Old(lookup, heard) => (Some(lookup), Some(heard)),
            Known::Nothing => (None, None),
        };
        match timeout(state.mesh.discovery_wait, self.ask(target, heard)).await {
            Ok(answer) => answer,
            // Whoever is there and says nothing knows of nothing, or is very slow; it may come, and so it was waited for.
            Err(_) if old.is_none() && self.is_connected() && self.shared.is_current() => Err(Reason::UnknownAddress),
            Err(_) => old
                .filter(|old| self.serves_unasked(&state, target, old))
                .ok_or(Reason::DiscoveryTimeout),
        }
    }

    /// Whether a negative answer that is too old serves still, because nobody can be asked.
    fn serves_unasked(&self, state: &State, target: &Target, lookup: &Lookup) -> bool {
        let lets_plaintext_in = matches!(lookup, Lookup::Outside { .. })
            && !matches!(by_networks(state, target), Known::Fresh(Lookup::Outside { .. }));
        !self.is_connected() && (!lets_plaintext_in || self.shared.config_age() <= UNCONFIRMED)
    }

    /// Says that what is known of a destination seems wrong (an endpoint showed another identity, say): the control plane
    /// is asked, at most once a second for each destination.
    pub fn suspect(&self, target: &Target) {
        // A full queue drops the hint: the next mismatch gives another.
        let _ = self.asks.try_send(Ask::Suspect(target.clone()));
    }

    fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    fn known(&self, state: &State, target: &Target) -> Known {
        let Some(found) = state.lookups.get(target) else {
            return by_networks(state, target);
        };
        found.used.touch(self.shared.started.elapsed());
        let lookup = Lookup::clone(&found.lookup.value);
        match age(found, self.shared.is_current()) {
            Age::Good => Known::Fresh(lookup),
            Age::Aging => Known::Aging(lookup),
            Age::Old => Known::Old(lookup, found.heard),
        }
    }

    /// Asks and waits, without a bound of its own.
    async fn ask(&self, target: &Target, heard: Option<Instant>) -> Result<Lookup, Reason> {
        let mut states = self.states.borrow().clone();
        if heard.is_some() {
            self.asks
                .send(Ask::Renew(target.clone()))
                .await
                .map_err(|_| Reason::DiscoveryTimeout)?;
        } else {
            let (reply, replied) = oneshot::channel();
            self.asks
                .send(Ask::Follow(target.clone(), reply))
                .await
                .map_err(|_| Reason::DiscoveryTimeout)?;
            replied.await.map_err(|_| Reason::DiscoveryTimeout)??;
        }
        let newer = |found: &Found| heard.is_none_or(|heard| found.heard > heard);
        let settled = |state: &State| match state.lookups.get(target) {
            Some(found) if newer(found) => Some(Lookup::clone(&found.lookup.value)),
            Some(_) => None,
            // The mesh's networks may become known only now.
            None => match by_networks(state, target) {
                Known::Fresh(lookup) => Some(lookup),
                _ => None,
            },
        };
        let state = states
            .wait_for(|state| settled(state).is_some())
            .await
            .map_err(|_| Reason::DiscoveryTimeout)?;
        settled(&state).ok_or(Reason::DiscoveryTimeout)
    }
}

impl Shared {
    /// The generation that every worker decides by.
    pub(crate) fn applied_by_all(&self) -> u64 {
        self.applied
            .iter()
            .map(|applied| applied.load(Ordering::Acquire))
            .min()
            .unwrap_or(u64::MAX)
    }

    /// The stream is up, or not. One that is up says first what changed meanwhile: see [`Shared::confirm`].
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        if self.current.swap(false, Ordering::Relaxed) {
            self.confirmed.store(millis(self.since_start()), Ordering::Relaxed);
        }
    }

    /// The stream has said what changed since the last one; what changes from now on it says at once.
    pub(crate) fn confirm(&self) {
        self.confirmed.store(millis(self.since_start()), Ordering::Relaxed);
        self.current.store(true, Ordering::Relaxed);
    }

    /// Whether the control plane confirms the configuration all the time.
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    /// How long ago the control plane confirmed the configuration last: nothing, while it does so all the time.
    pub(crate) fn config_age(&self) -> Duration {
        if self.is_current() {
            return Duration::ZERO;
        }
        let age = millis(self.since_start()).saturating_sub(self.confirmed.load(Ordering::Relaxed));
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// When the proxy's own leaf ends.
    pub(crate) fn set_leaf_end(&self, end: Option<Instant>) {
        *self.leaf_end() = end;
    }

    /// How long the proxy's own leaf lives still.
    pub(crate) fn leaf_left(&self) -> Duration {
        self.leaf_end()
            .map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
    }

    fn leaf_end(&self) -> MutexGuard<'_, Option<Instant>> {
        self.leaf_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the uses are counted.
    pub(crate) fn since_start(&self) -> Duration {
        self.started.elapsed()
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Drop for View {
    /// A worker that has ended decides nothing any more, so nobody waits for it.
    fn drop(&mut self) {
        self.applied(u64::MAX);
    }
}

enum Age {
    Good,
    Aging,
    Old,
}

/// Negative answers age; what the control plane says of the mesh is good until it says otherwise. `current`: whether it
/// would say.
fn age(found: &Found, current: bool) -> Age {
    let Some(ttl) = found.ttl() else { return Age::Good };
    let age = found.heard.elapsed();
    match ttl {
        // Good for as long as the destination is followed.
        Duration::ZERO if current => Age::Good,
        ttl if age <= ttl / 2 => Age::Good,
        ttl if age <= ttl => Age::Aging,
        _ => Age::Old,
    }
}

/// What the mesh's networks alone say. As long as they are not known, nothing is outside: what is not in the built-in ranges
/// might be the mesh's, and would go out in plaintext.
fn by_networks(state: &State, target: &Target) -> Known {
    match target {
        Target::Address(address) if state.mesh.held.is_some() && !state.mesh.networks.contains(address.ip()) => {
            Known::Fresh(Lookup::Outside { ttl: Duration::ZERO })
        }
        _ => Known::Nothing,
    }
}

#[cfg(test)]
mod tests;
