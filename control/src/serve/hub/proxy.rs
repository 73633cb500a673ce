//! A proxy, as the hub knows it: what it needs, what it has, what it would not take.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_model::destination::Target;
use weft_proto::resource::Kind;

use crate::index::{self, Index};
use crate::serve::cache::{Cache, Entry, Facts, Item, ProxyId};
use crate::serve::outbox::{Hash, Outbox};
use crate::serve::wire::{Made, Name};

/// Who a proxy is.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) pod: index::Name,
    pub(crate) uid: String,
    pub(crate) build: String,
    pub(crate) features: Vec<String>,
    pub(crate) since: SystemTime,
}

/// A proxy's first word.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) who: Who,
    pub(crate) epoch: u64,
    pub(crate) held: Vec<(Name, Hash)>,
    pub(crate) targets: Vec<Target>,
}

/// A proxy, as the hub knows it.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) who: Who,
    pub(crate) outlet: Arc<Outlet>,
    pub(super) targets: BTreeSet<Target>,
    /// What it needs now: its own configuration, its targets, and all that those refer to.
    pub(crate) needs: BTreeMap<Name, Item>,
    /// What every worker of it decides by.
    pub(crate) acked: HashMap<Name, Hash>,
    /// What it would not take.
    pub(crate) refusals: BTreeMap<Name, Refused>,
    /// What it had when it came, and has not heard of since.
    pub(super) inherited: HashMap<Name, Hash>,
    /// Of a proxy that is gone: the objects that it decided by (see [`decided`](crate::status::applied::decided)).
    pub(crate) decided: Vec<(String, u64)>,
}

/// A version that a proxy would not take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) hash: Hash,
    pub(crate) field: String,
    pub(crate) reason: String,
    /// The object that the field is of, as far as one can tell.
    pub(crate) object: String,
}

/// What became of one resource of an acknowledged batch.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) name: Name,
    /// What the proxy has now. `None`: nothing.
    pub(crate) has: Option<Hash>,
    /// What it refused: version, field and reason.
    pub(crate) refused: Option<(Hash, String, String)>,
}

/// Between hub and stream: what waits to be sent.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// Held for map operations only, on either side.
    outbox: Mutex<Outbox>,
    pub(crate) wake: Notify,
    /// Somebody waits for what waits: it is an answer.
    pub(super) urgent: AtomicBool,
    /// Another stream of the same pod has come, and this one is to end.
    pub(crate) replaced: CancellationToken,
}

impl Outlet {
    pub(super) fn new(has: HashMap<Name, Hash>, epoch: u64) -> Self {
        let mut outbox = Outbox::new(has);
        outbox.enter(epoch);
        Self {
            outbox: Mutex::new(outbox),
            wake: Notify::new(),
            urgent: AtomicBool::new(false),
            replaced: CancellationToken::new(),
        }
    }

    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what waits is an answer that somebody waits for.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// All that is urgent is about to be taken.
    pub(crate) fn calm(&self) {
        self.urgent.store(false, Ordering::Release);
    }
}

impl Proxy {
    /// All that it needs, as things are now, subscribed to.
    pub(super) fn reach(&self, id: ProxyId, index: &Index, cache: &mut Cache, facts: &Facts) -> BTreeMap<Name, Item> {
        let namespace: Arc<str> = self.who.pod.namespace.as_str().into();
        let mut open = vec![Item::Bundles, Item::Mesh, Item::Inbound(self.who.pod.clone())];
        open.extend(
            self.targets
                .iter()
                .map(|target| Item::Lookup(target.clone(), namespace.clone())),
        );
        let mut needs = BTreeMap::new();
        while let Some(item) = open.pop() {
            let name = item.name();
            if needs.contains_key(&name) {
                continue;
            }
            let entry = cache.subscribe(&item, id, index, facts);
            let refers = entry.made.as_ref().map_or(&[][..], |made| &made.refers);
            open.extend(refers.iter().filter_map(Item::referred));
            needs.insert(name, item);
        }
        needs
    }

    /// Whether it decides by something that we would not send: a version that is held, or the one before a refused one.
    /// What that may refer to is kept then, and kept current.
    pub(super) fn keeps_old(&self, needs: &BTreeMap<Name, Item>, cache: &Cache) -> bool {
        let held =
            |(name, item): (&Name, &Item)| cache.get(item).is_some_and(|entry| self.holds(name, entry).is_some());
        !self.refusals.is_empty() || needs.iter().any(held)
    }

    /// Whether it is to keep what it came with, and why.
    fn holds<'a>(&self, name: &Name, entry: &'a Entry) -> Option<&'a Arc<str>> {
        let reason = entry.hold.as_ref()?;
        let has = self.inherited.get(name)?;
        let same = entry.made.as_ref().is_some_and(|made| made.version.hash == *has);
        (!same).then_some(reason)
    }

    /// Puts what these are now into the outbox, all at once, to be said in this epoch.
    pub(super) fn push<'a>(&mut self, epoch: u64, entries: impl Iterator<Item = (Name, &'a Entry)>) {
        let outlet = self.outlet.clone();
        let mut outbox = outlet.outbox();
        outbox.enter(epoch);
        for (name, entry) in entries {
            if let Some(reason) = self.holds(&name, entry) {
                outbox.hold(name, reason.clone());
            } else if let Some(made) = &entry.made {
                self.inherited.remove(&name);
                outbox.set(made.clone());
            } else if name.kind == Kind::Lookup && entry.hold.is_none() {
                // Nothing is known of the address any more, so whoever calls it waits.
                self.inherited.remove(&name);
                outbox.remove(&name);
            } else if name.kind != Kind::Inbound {
                // Kept because of something old that may refer to it. (The inbound side of a pod that is going away stays.)
                outbox.hold(
                    name,
                    "it is not there any more, but what is held may refer to it".into(),
                );
            }
        }
        drop(outbox);
        outlet.wake.notify_one();
    }

    /// Removes what it has and does not need.
    pub(super) fn drop_all_but_needs(&mut self, before: &BTreeMap<Name, Item>) {
        let needs = &self.needs;
        let mut outbox = self.outlet.outbox();
        for name in before
            .keys()
            .chain(self.inherited.keys())
            .filter(|name| !needs.contains_key(*name))
        {
            outbox.remove(name);
        }
        self.inherited.retain(|name, _| needs.contains_key(name));
    }
}

/// The object that a field of a resource is of: the route of the rule, or else what the resource was first made of.
pub(super) fn blame(entry: &Entry, name: &Name, field: &str) -> String {
    let rule = field
        .strip_prefix("rules[")
        .and_then(|rest| rest.split(']').next())
        .and_then(|n| n.parse::<usize>().ok());
    if let Some(route) = rule.and_then(|rule| entry.rules.get(rule)) {
        return route.to_string();
    }
    let sources = entry
        .made
        .as_ref()
        .map(|made: &Arc<Made>| made.version.sources.as_slice())
        .unwrap_or_default();
    let kind = match name.kind {
        Kind::Lookup | Kind::Service | Kind::Endpoints => "Service ",
        Kind::Inbound => "Pod ",
        Kind::Bundles | Kind::Mesh => "",
    };
    let own = sources.iter().find(|source| source.object.starts_with(kind));
    own.or(sources.first())
        .map_or_else(|| name.to_string(), |source| source.object.clone())
}
