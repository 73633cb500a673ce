//! What the API server has shown: all objects, what is wrong with them, how each kind is doing, and what of it the desk has
//! not taken yet. One entry for each object, however often it changes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::api::Fault;
use super::kinds::Kind;
use crate::manifests::{Changes, Snapshot};
use crate::objects::{Object, ObjectRef, Problem};
use crate::source::News;

/// Objects that are refused and told of. What is over it is refused all the same.
const PROBLEMS_MAX: usize = 1000;

/// An object that was read, or why it is refused.
pub(super) type Read = Result<Object, (Option<ObjectRef>, Box<Problem>)>;

/// See the head of the file. The tasks that follow kinds write it; the desk, and whoever acts on objects, read it.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Held for copies and comparisons only, never over a wait.
    inner: Mutex<Inner>,
    /// Rises with every change.
    revision: watch::Sender<u64>,
    /// The number of the latest look at everything that was asked for.
    looks: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    problems: BTreeMap<ObjectRef, Problem>,
    kinds: BTreeMap<String, State>,
    /// What the desk has not taken.
    pending: BTreeMap<ObjectRef, Option<Arc<Object>>>,
    pending_problems: bool,
    /// The problems as the desk has them.
    told: Arc<[Problem]>,
    /// The desk has taken everything once.
    begun: bool,
    /// The look that the desk waits for.
    look: Option<u64>,
    /// A list was older than what was known before: the API server's store was restored.
    older: bool,
}

/// How a kind is doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// The version that is read.
    pub(crate) version: String,
    /// Why nothing new is known of it now.
    pub(crate) error: Option<String>,
    /// Requests that failed.
    pub(crate) errors: u64,
    /// When the API server last said anything of it, be it that nothing changed.
    pub(crate) heard: Option<Instant>,
    pub(crate) objects: usize,
    /// The highest resource version of the whole collection.
    collection: u64,
    /// The latest look that its list answers.
    looked: u64,
}

/// What is known of a kind as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It was not listed yet.
    #[default]
    Starting,
    /// It was listed, and is followed.
    Listed,
    /// The API server has no such kind.
    Absent,
}

impl Phase {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Listed => "listed",
            Self::Absent => "absent",
        }
    }
}

impl Shown {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        let kinds = kinds.iter().map(|kind| (kind.kind.clone(), State::default()));
        Self {
            inner: Mutex::new(Inner {
                kinds: kinds.collect(),
                ..Inner::default()
            }),
            revision: watch::Sender::new(1),
            looks: watch::Sender::new(0),
        }
    }

    /// Rises with every change, also of how kinds are doing.
    pub(crate) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Rises when everything is to be listed again.
    pub(crate) fn looks(&self) -> watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// The objects of a kind.
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<Arc<Object>> {
        self.lock().of_kind(kind).map(|(_, object)| object.clone()).collect()
    }

    /// The same in one namespace.
    pub(super) fn within(&self, kind: &str, namespace: &str) -> Vec<Arc<Object>> {
        let first = ObjectRef {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let inner = self.lock();
        let from = inner.objects.range(first..);
        let all = from.take_while(|(name, _)| name.kind == kind && name.namespace == namespace);
        all.map(|(_, object)| object.clone()).collect()
    }

    /// One object.
    pub(super) fn object(&self, name: &ObjectRef) -> Option<Arc<Object>> {
        self.lock().objects.get(name).cloned()
    }

    /// The version in which a kind is read. `None`: the API server does not have it.
    pub(super) fn version(&self, kind: &str) -> Option<String> {
        let inner = self.lock();
        let state = inner.kinds.get(kind)?;
        (state.phase == Phase::Listed).then(|| state.version.clone())
    }

    /// How each kind is doing.
    pub(crate) fn states(&self) -> Vec<(String, State)> {
        let inner = self.lock();
        let count = |kind: &str| inner.of_kind(kind).count();
        let state = |(kind, state): (&String, &State)| {
            let objects = count(kind);
            let state = State {
                objects,
                ..state.clone()
            };
            (kind.clone(), state)
        };
        inner.kinds.iter().map(state).collect()
    }

    /// Whether the desk has taken everything in once.
    pub(crate) fn has_begun(&self) -> bool {
        self.lock().begun
    }

    /// Whether it is known of every kind what there is.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().is_complete()
    }

    /// Asks for all to be listed again. The next [`News::All`] is at least as new as this call.
    pub(crate) fn look_again(&self) {
        let mut inner = self.lock();
        self.looks.send_modify(|look| *look += 1);
        inner.look = Some(*self.looks.borrow());
    }

    /// Nobody waits for that look any more.
    pub(crate) fn forget_look(&self) {
        self.lock().look = None;
    }

    /// Waits until all objects are known. Cancel safe.
    pub(crate) async fn all_listed(&self) {
        let mut revisions = self.revisions();
        loop {
            revisions.mark_unchanged();
            if self.has_begun() {
                return;
            }
            // The sender lives as long as what it shows.
            let _ = revisions.changed().await;
        }
    }

    /// What is new for the desk, if anything is.
    pub(crate) fn take(&self) -> Option<News> {
        let mut inner = self.lock();
        let older = |inner: &mut Inner| std::mem::take(&mut inner.older);
        let looked = inner
            .look
            .is_some_and(|look| inner.kinds.values().all(|state| state.looked >= look));
        if (!inner.begun && inner.is_complete()) || (inner.begun && looked) {
            let first = !std::mem::replace(&mut inner.begun, true);
            if looked {
                inner.look = None;
            }
            inner.pending.clear();
            let snapshot = Snapshot {
                problems: inner.tell_problems(),
                objects: inner.objects.values().cloned().collect(),
            };
            // Of a kind that is not there nothing is known, nor how old that is.
            let there = inner.kinds.iter().filter(|(_, state)| state.phase == Phase::Listed);
            let lists = there.map(|(kind, state)| (kind.clone(), state.collection)).collect();
            let older = older(&mut inner);
            drop(inner);
            if first {
                self.changed();
            }
            return Some(News::All { snapshot, lists, older });
        }
        if !inner.begun || (inner.pending.is_empty() && !inner.pending_problems) {
            return None;
        }
        let mut changes = Changes {
            problems: inner.tell_problems(),
            ..Changes::default()
        };
        for (name, object) in std::mem::take(&mut inner.pending) {
            match object {
                Some(object) => changes.upserts.push(object),
                None => changes.deletes.push(name),
            }
        }
        let older = older(&mut inner);
        Some(News::Changes { changes, older })
    }

    /// A kind was listed as a whole, when this look had been asked for: what is not in the list is gone.
    pub(super) fn listed(&self, kind: &Kind, version: &str, collection: u64, look: u64, all: Vec<Read>) {
        let mut inner = self.lock();
        let mut gone: BTreeSet<ObjectRef> = inner.of_kind(&kind.kind).map(|(name, _)| name.clone()).collect();
        let named = inner.problems.keys().filter(|name| name.kind == kind.kind);
        gone.extend(named.cloned().collect::<Vec<_>>());
        for read in all {
            match &read {
                Ok(object) => gone.remove(&object.reference()),
                Err((Some(name), _)) => gone.remove(name),
                Err((None, _)) => false,
            };
            inner.put(read);
        }
        for name in gone {
            inner.remove(name);
        }
        let state = inner.kinds.entry(kind.kind.clone()).or_default();
        let older = collection < state.collection;
        state.phase = Phase::Listed;
        version.clone_into(&mut state.version);
        state.collection = collection;
        state.looked = state.looked.max(look);
        state.well(kind);
        inner.older |= older;
        drop(inner);
        self.changed();
    }

    /// An object came or changed.
    pub(super) fn put(&self, kind: &Kind, read: Read) {
        let mut inner = self.lock();
        let version = read.as_ref().map_or(0, |object| object.resource_version);
        inner.put(read);
        inner.heard(kind, version);
        drop(inner);
        self.changed();
    }

    /// An object is gone.
    pub(super) fn gone(&self, kind: &Kind, name: ObjectRef, version: u64) {
        let mut inner = self.lock();
        inner.remove(name);
        inner.heard(kind, version);
        drop(inner);
        self.changed();
    }

    /// Nothing has changed up to this version. Of no interest to the desk.
    pub(super) fn progressed(&self, kind: &Kind, version: u64) {
        self.lock().heard(kind, version);
    }

    /// The API server has no such kind (any more), as was found when this look had been asked for.
    pub(super) fn absent(&self, kind: &Kind, look: u64) {
        let mut inner = self.lock();
        let gone: Vec<ObjectRef> = inner.of_kind(&kind.kind).map(|(name, _)| name.clone()).collect();
        let problems = inner.problems.keys().filter(|name| name.kind == kind.kind);
        for name in gone.into_iter().chain(problems.cloned().collect::<Vec<_>>()) {
            inner.remove(name);
        }
        let state = inner.kinds.entry(kind.kind.clone()).or_default();
        let was = std::mem::replace(&mut state.phase, Phase::Absent);
        state.version.clear();
        // A definition that comes again may begin anew.
        state.collection = 0;
        state.looked = state.looked.max(look);
        state.well(kind);
        drop(inner);
        if was != Phase::Absent {
            tracing::info!(
                kind = kind.kind,
                "the API server does not have this kind: it is waited for"
            );
        }
        self.changed();
    }

    /// The API server serves the kind in no version that is understood, as was found when this look had been asked for. That
    /// lasts until people change it, so nobody waits for it. What was known stays.
    pub(super) fn unreadable(&self, kind: &Kind, look: u64, why: &Fault) {
        let mut inner = self.lock();
        let state = inner.kinds.entry(kind.kind.clone()).or_default();
        if state.phase == Phase::Starting {
            state.phase = Phase::Absent;
        }
        state.looked = state.looked.max(look);
        drop(inner);
        self.failed(kind, why);
    }

    /// Nothing new can be known of a kind now. What was known stays.
    pub(super) fn failed(&self, kind: &Kind, fault: &Fault) {
        let mut inner = self.lock();
        let state = inner.kinds.entry(kind.kind.clone()).or_default();
        state.errors = state.errors.saturating_add(1);
        let new = state.error.is_none();
        state.error = Some(fault.to_string());
        drop(inner);
        // Once for each outage, not for each attempt.
        if new {
            tracing::warn!(kind = kind.kind, error = %fault, "objects cannot be followed: what is known of them stays");
        }
        self.changed();
    }

    fn changed(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock; what is behind it is consistent either way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A request went well.
    fn well(&mut self, kind: &Kind) {
        self.heard = Some(Instant::now());
        if self.error.take().is_some() {
            tracing::info!(kind = kind.kind, "objects are followed again");
        }
    }
}

impl Inner {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a ObjectRef, &'a Arc<Object>)> {
        let first = ObjectRef {
            kind: kind.to_owned(),
            namespace: String::new(),
            name: String::new(),
        };
        self.objects
            .range(first..)
            .take_while(move |(name, _)| name.kind == kind)
    }

    /// Whether it is known of every kind what there is.
    fn is_complete(&self) -> bool {
        self.kinds.values().all(|state| state.phase != Phase::Starting)
    }

    fn tell_problems(&mut self) -> Arc<[Problem]> {
        if std::mem::take(&mut self.pending_problems) {
            self.told = self.problems.values().cloned().collect();
        }
        self.told.clone()
    }

    fn heard(&mut self, kind: &Kind, version: u64) {
        let state = self.kinds.entry(kind.kind.clone()).or_default();
        state.collection = state.collection.max(version);
        state.well(kind);
    }

    /// Takes an object; one that is refused leaves what was known of it.
    fn put(&mut self, read: Read) {
        let object = match read {
            Ok(object) => object,
            Err((name, problem)) => {
                tracing::warn!(%problem, "an object is refused");
                if let Some(name) = name
                    && (self.problems.len() < PROBLEMS_MAX || self.problems.contains_key(&name))
                {
                    self.problems.insert(name, *problem);
                    self.pending_problems = true;
                }
                return;
            }
        };
        let name = object.reference();
        self.pending_problems |= self.problems.remove(&name).is_some();
        let same = |old: &Arc<Object>| {
            old.uid == object.uid
                && old.resource_version == object.resource_version
                && old.api_version == object.api_version
        };
        if self.objects.get(&name).is_some_and(same) {
            return;
        }
        let object = Arc::new(object);
        self.objects.insert(name.clone(), object.clone());
        self.pending.insert(name, Some(object));
    }

    fn remove(&mut self, name: ObjectRef) {
        self.pending_problems |= self.problems.remove(&name).is_some();
        if self.objects.remove(&name).is_some() {
            self.pending.insert(name, None);
        }
    }
}
