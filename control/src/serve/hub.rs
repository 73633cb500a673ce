//! Who is connected, what each of them needs, and what of it changed. Synchronous: no socket, no clock.
//!
//! In: changes of objects, and what proxies say. Out: each proxy's [`Outlet`], from which its stream sends. One thread owns
//! the hub; streams talk to it through the [`desk`](super::desk).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_model::destination::Target;
use weft_model::version::Source;
use weft_proto::resource::Kind;

use super::ages::Ages;
use super::cache::{Cache, Difference, Entry, Facts, Item, ProxyId};
use super::outbox::{Hash, Outbox};
use super::wire::{Made, Name};
use crate::epoch::{Epoch, EpochError};
use crate::index::{self, Changed, Index};
use crate::manifests::{Changes, Snapshot};
use crate::objects::Problem;

/// Proxies that are gone but still told of in status.
const GONE_MAX: usize = 1024;

/// Resources that are kept for one proxy because something old that it decides by may refer to them.
const KEPT_MAX: usize = 4096;

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) index: Index,
    pub(crate) cache: Cache,
    pub(crate) proxies: BTreeMap<ProxyId, Proxy>,
    /// Those that were connected, the latest last.
    pub(crate) gone: VecDeque<Proxy>,
    pub(crate) epoch: Epoch,
    /// What is wrong with files.
    pub(crate) file_problems: Arc<[Problem]>,
    facts: Facts,
    ages: Ages,
    next: ProxyId,
    /// How many destinations one proxy may subscribe to.
    targets_max: usize,
}

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
    targets: BTreeSet<Target>,
    /// What it needs now: its own configuration, its targets, and all that those refer to.
    pub(crate) needs: BTreeMap<Name, Item>,
    /// What every worker of it decides by.
    pub(crate) acked: HashMap<Name, Hash>,
    /// What it would not take.
    pub(crate) refusals: BTreeMap<Name, Refused>,
    /// What it had when it came, and has not heard of since.
    inherited: HashMap<Name, Hash>,
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
    /// Another stream of the same pod has come, and this one is to end.
    pub(crate) replaced: CancellationToken,
    epoch: AtomicU64,
}

impl Outlet {
    fn new(has: HashMap<Name, Hash>, epoch: u64) -> Self {
        let (wake, replaced) = (Notify::new(), CancellationToken::new());
        Self { outbox: Mutex::new(Outbox::new(has)), wake, replaced, epoch: AtomicU64::new(epoch) }
    }

    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

impl Hub {
    pub(crate) fn new(index: Index, facts: Facts, epoch: Epoch, targets_max: usize) -> Self {
        Self {
            index,
            cache: Cache::default(),
            proxies: BTreeMap::new(),
            gone: VecDeque::new(),
            epoch,
            file_problems: Arc::default(),
            facts,
            ages: Ages::default(),
            next: 1,
            targets_max,
        }
    }

    /// Takes changes of objects in.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        self.ages.apply(changes);
        self.file_problems = changes.problems.clone();
        let changed = self.index.apply(changes);
        self.spread(&changed);
    }

    /// Takes in all objects that there are.
    pub(crate) fn replace(&mut self, snapshot: &Snapshot) {
        self.ages.replace(snapshot);
        self.file_problems = snapshot.problems.clone();
        let changed = self.index.replace(snapshot);
        self.spread(&changed);
    }

    /// Something that a proxy holds within our epoch and that is newer than what we know.
    pub(crate) fn behind<'a>(&self, epoch: u64, held: &'a [Source]) -> Option<&'a Source> {
        if epoch < self.epoch.current() {
            return None;
        }
        held.iter().find(|source| self.ages.behind(source))
    }

    /// Takes the epoch of a proxy that is not ahead of us in anything.
    pub(crate) fn join_epoch(&mut self, seen: u64) -> Result<(), EpochError> {
        if self.epoch.join(seen)? {
            self.tell_epoch();
        }
        Ok(())
    }

    /// Begins an epoch above every epoch seen: what we say now counts, however old its sources are.
    pub(crate) fn begin_epoch(&mut self, seen: u64) -> Result<(), EpochError> {
        self.epoch.begin(seen)?;
        self.tell_epoch();
        Ok(())
    }

    fn tell_epoch(&self) {
        for proxy in self.proxies.values() {
            proxy.outlet.epoch.store(self.epoch.current(), Ordering::Release);
        }
    }

    /// A proxy is here. A stream of the same pod that was here before is told to end.
    pub(crate) fn join(&mut self, join: Join) -> (ProxyId, Arc<Outlet>) {
        let id = self.next;
        self.next += 1;
        let same = |proxy: &Proxy| proxy.who.pod == join.who.pod;
        let replaced = self.proxies.iter().find(|(_, proxy)| same(proxy)).map(|(id, _)| *id);
        if let Some(replaced) = replaced {
            self.leave(replaced);
        }
        self.gone.retain(|proxy| !same(proxy));
        let has: HashMap<Name, Hash> = join.held.into_iter().collect();
        let outlet = Arc::new(Outlet::new(has.clone(), self.epoch.current()));
        let proxy = Proxy {
            who: join.who,
            outlet: outlet.clone(),
            targets: join.targets.into_iter().take(self.targets_max).collect(),
            needs: BTreeMap::new(),
            acked: has.clone(),
            refusals: BTreeMap::new(),
            inherited: has,
        };
        self.proxies.insert(id, proxy);
        self.follow(id, &BTreeSet::new());
        (id, outlet)
    }

    /// A proxy is gone.
    pub(crate) fn leave(&mut self, id: ProxyId) {
        let Some(mut proxy) = self.proxies.remove(&id) else { return };
        for item in proxy.needs.values() {
            self.cache.unsubscribe(item, id);
        }
        // What status tells of it is what it has acknowledged.
        proxy.inherited.clear();
        proxy.targets.clear();
        *proxy.outlet.outbox() = Outbox::default();
        proxy.outlet.replaced.cancel();
        self.gone.push_back(proxy);
        if self.gone.len() > GONE_MAX {
            self.gone.pop_front();
        }
    }

    /// A proxy wants to know of more. What is over the limit is left out; returns how much that was.
    pub(crate) fn subscribe(&mut self, id: ProxyId, targets: Vec<Target>) -> usize {
        let Some(proxy) = self.proxies.get_mut(&id) else { return 0 };
        let mut left_out = 0;
        {
            let mut outbox = proxy.outlet.outbox();
            for target in targets {
                if proxy.targets.len() >= self.targets_max && !proxy.targets.contains(&target) {
                    left_out += 1;
                    continue;
                }
                // It asks, so it does not know (any more), whatever we told it before.
                outbox.forget(&Name::new(Kind::Lookup, target.to_string()));
                proxy.targets.insert(target);
            }
        }
        self.follow(id, &BTreeSet::from([Kind::Lookup]));
        left_out
    }

    /// A proxy does not want to know of these any more.
    pub(crate) fn unsubscribe(&mut self, id: ProxyId, targets: &[Target]) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        for target in targets {
            proxy.targets.remove(target);
        }
        self.follow(id, &BTreeSet::new());
    }

    /// A proxy suspects that it was told something old: what it has not got is offered again, what it refused as well.
    pub(crate) fn refresh(&mut self, id: ProxyId) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        {
            let mut outbox = proxy.outlet.outbox();
            for name in proxy.refusals.keys() {
                outbox.ask_again(name);
            }
        }
        self.follow(id, &BTreeSet::from([Kind::Lookup, Kind::Service, Kind::Endpoints]));
    }

    /// A proxy has acknowledged a batch.
    pub(crate) fn settle(&mut self, id: ProxyId, settled: Vec<Settled>) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        let refused_before = !proxy.refusals.is_empty();
        for Settled { name, has, refused } in settled {
            match has {
                Some(hash) => proxy.acked.insert(name.clone(), hash),
                None => proxy.acked.remove(&name),
            };
            let Some((hash, field, reason)) = refused else {
                proxy.refusals.remove(&name);
                continue;
            };
            let entry = proxy.needs.get(&name).and_then(|item| self.cache.get(item));
            let object = entry.map_or_else(|| name.to_string(), |entry| blame(entry, &name, &field));
            tracing::warn!(pod = %proxy.who.pod, resource = %name, object, field, reason, "a proxy refused a resource");
            proxy.refusals.insert(name, Refused { hash, field, reason, object });
        }
        let refuses = !proxy.refusals.is_empty();
        if refuses != refused_before {
            self.follow(id, &BTreeSet::new());
        }
    }

    /// Makes again what depends on what changed, and tells those who need it.
    fn spread(&mut self, changed: &Changed) {
        let mut touched: BTreeMap<ProxyId, (Vec<Item>, bool)> = BTreeMap::new();
        for item in self.cache.affected(&changed.topics) {
            let difference = self.cache.make_again(&item, &self.index, &self.facts);
            if difference == Difference::None {
                continue;
            }
            for user in self.cache.get(&item).into_iter().flat_map(|entry| &entry.users) {
                let (items, rewire) = touched.entry(*user).or_default();
                items.push(item.clone());
                *rewire |= difference == Difference::References;
            }
        }
        for (id, (items, rewire)) in touched {
            if rewire {
                // All kinds that can have changed: what has not is not sent.
                self.follow(id, &BTreeSet::from([Kind::Lookup, Kind::Service, Kind::Endpoints, Kind::Inbound, Kind::Mesh]));
                continue;
            }
            let Some(proxy) = self.proxies.get_mut(&id) else { continue };
            proxy.push(items.iter().filter_map(|item| Some((item.name(), self.cache.get(item)?))));
        }
    }

    /// Finds again what a proxy needs; tells it what is new to it, what it does not need any more, and all it needs of
    /// some kinds.
    fn follow(&mut self, id: ProxyId, kinds: &BTreeSet<Kind>) {
        let Self { index, cache, proxies, facts, .. } = self;
        let Some(proxy) = proxies.get_mut(&id) else { return };
        let mut needs = proxy.reach(id, index, cache, facts);
        if proxy.keeps_old(&needs, cache) {
            let old = proxy.acked.keys().filter(|name| !needs.contains_key(*name));
            let old = old.filter_map(|name| Some((name.clone(), Item::referred(name)?))).take(KEPT_MAX);
            for (name, item) in old.collect::<Vec<_>>() {
                cache.subscribe(&item, id, index, facts);
                needs.insert(name, item);
            }
        }
        let before = std::mem::replace(&mut proxy.needs, needs);
        let told = proxy.needs.iter().filter(|(name, _)| kinds.contains(&name.kind) || !before.contains_key(*name));
        let told: Vec<Item> = told.map(|(_, item)| item.clone()).collect();
        proxy.drop_all_but_needs(&before);
        for (name, item) in before.iter().filter(|(name, _)| !proxy.needs.contains_key(*name)) {
            debug_assert_eq!(*name, item.name());
            cache.unsubscribe(item, id);
        }
        proxy.push(told.iter().filter_map(|item| Some((item.name(), cache.get(item)?))));
    }
}

impl Proxy {
    /// All that it needs, as things are now, subscribed to.
    fn reach(&self, id: ProxyId, index: &Index, cache: &mut Cache, facts: &Facts) -> BTreeMap<Name, Item> {
        let namespace: Arc<str> = self.who.pod.namespace.as_str().into();
        let mut open = vec![Item::Bundles, Item::Mesh, Item::Inbound(self.who.pod.clone())];
        open.extend(self.targets.iter().map(|target| Item::Lookup(target.clone(), namespace.clone())));
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
    fn keeps_old(&self, needs: &BTreeMap<Name, Item>, cache: &Cache) -> bool {
        let held = |(name, item): (&Name, &Item)| cache.get(item).is_some_and(|entry| self.holds(name, entry).is_some());
        !self.refusals.is_empty() || needs.iter().any(held)
    }

    /// Whether it is to keep what it came with, and why.
    fn holds<'a>(&self, name: &Name, entry: &'a Entry) -> Option<&'a Arc<str>> {
        let reason = entry.hold.as_ref()?;
        let has = self.inherited.get(name)?;
        let same = entry.made.as_ref().is_some_and(|made| made.version.hash == *has);
        (!same).then_some(reason)
    }

    /// Puts what these are now into the outbox, all at once.
    fn push<'a>(&mut self, entries: impl Iterator<Item = (Name, &'a Entry)>) {
        let outlet = self.outlet.clone();
        let mut outbox = outlet.outbox();
        for (name, entry) in entries {
            if let Some(reason) = self.holds(&name, entry) {
                outbox.hold(name, reason.clone());
            } else if let Some(made) = &entry.made {
                self.inherited.remove(&name);
                outbox.set(made.clone());
            } else if name.kind != Kind::Inbound {
                // Kept because of something old that may refer to it. (The inbound side of a pod that is going away stays.)
                outbox.hold(name, "it is not there any more, but what is held may refer to it".into());
            }
        }
        drop(outbox);
        outlet.wake.notify_one();
    }

    /// Removes what it has and does not need.
    fn drop_all_but_needs(&mut self, before: &BTreeMap<Name, Item>) {
        let needs = &self.needs;
        let mut outbox = self.outlet.outbox();
        for name in before.keys().chain(self.inherited.keys()).filter(|name| !needs.contains_key(*name)) {
            outbox.remove(name);
        }
        self.inherited.retain(|name, _| needs.contains_key(name));
    }
}

/// The object that a field of a resource is of: the route of the rule, or else what the resource was first made of.
fn blame(entry: &Entry, name: &Name, field: &str) -> String {
    let rule = field.strip_prefix("rules[").and_then(|rest| rest.split(']').next()).and_then(|n| n.parse::<usize>().ok());
    if let Some(route) = rule.and_then(|rule| entry.rules.get(rule)) {
        return route.to_string();
    }
    let sources = entry.made.as_ref().map(|made: &Arc<Made>| made.version.sources.as_slice()).unwrap_or_default();
    let kind = match name.kind {
        Kind::Lookup | Kind::Service | Kind::Endpoints => "Service ",
        Kind::Inbound => "Pod ",
        Kind::Bundles | Kind::Mesh => "",
    };
    let own = sources.iter().find(|source| source.object.starts_with(kind));
    own.or(sources.first()).map_or_else(|| name.to_string(), |source| source.object.clone())
}

#[cfg(test)]
mod tests;
