//! Who is connected, what each of them needs, and what of it changed. Synchronous: no socket, no clock.
//!
//! In: changes of objects, and what proxies say. Out: each proxy's [`Outlet`], from which its stream sends. One thread owns
//! the hub; streams talk to it through the [`desk`](super::desk).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use weft_model::destination::Target;
use weft_model::version::Source;
use weft_proto::resource::Kind;

use super::ages::Ages;
use super::cache::{Cache, Difference, Facts, Item, ProxyId};
use super::outbox::{Hash, Outbox};
use super::rate::Lines;
use super::wire::Name;
use crate::epoch::{Epoch, EpochError};
use crate::index::{Changed, Index, Topic};
use crate::manifests::{Changes, Snapshot};
use crate::objects::{Problem, Severity};
use crate::remembered::Remembered;
use crate::status::applied::decided;

mod links;
mod pace;
mod proxy;
mod trusted;

pub(crate) use links::{Faults, Fetched, Heard, Lasting, Link, LinkState, Linked, Tried, Unwelcome, unreadable};
use pace::Pace;
use proxy::blame;
pub(crate) use proxy::{Follower, Join, Outlet, Proxy, Refused, Settled, Subject, Who};
use trusted::Told;
pub(crate) use trusted::Trusted;

/// Proxies that are gone but still told of in status.
const GONE_MAX: usize = 1024;

/// Resources that a proxy may come with, for each destination that it may follow: its own, its Service, and the sets that
/// this refers to. What it has beyond that it is told again.
pub(crate) const HELD_PER_TARGET: usize = 8;

/// Refusals of one proxy, or peer, whose reasons are kept as they are.
const REFUSALS_WHOLE: usize = 64;

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
    /// Peers may be others than when this was last looked at.
    pub(crate) peers_changed: bool,
    /// How the links to peers are.
    pub(crate) links: BTreeMap<String, LinkState>,
    /// What peers have said that they may not.
    pub(crate) faults: BTreeMap<String, Faults>,
    /// What came of asking their bundle endpoints.
    pub(crate) fetched: BTreeMap<String, Fetched>,
    /// What came of trying their gateways.
    pub(crate) tried: BTreeMap<String, Vec<Tried>>,
    /// When their bundles were taken.
    pace: Pace,
    /// Which bundles were in what proxies were told.
    told: Told,
    facts: Facts,
    ages: Ages,
    next: ProxyId,
    /// How many destinations one proxy may subscribe to.
    targets_max: usize,
    /// What is to act after a restart as well.
    remembered: Option<Remembered>,
    /// Nothing was taken in yet.
    is_young: bool,
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
            peers_changed: false,
            links: BTreeMap::new(),
            faults: BTreeMap::new(),
            fetched: BTreeMap::new(),
            tried: BTreeMap::new(),
            pace: Pace::default(),
            told: Told::default(),
            facts,
            ages: Ages::default(),
            next: 1,
            targets_max,
            remembered: None,
            is_young: true,
        }
    }

    /// Remembers in a state directory what a restart must not end.
    pub(crate) fn remembering(self, state: &Path) -> Self {
        Self {
            remembered: Some(Remembered::of(state)),
            ..self
        }
    }

    /// Takes changes of objects in.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        self.ages.apply(changes);
        self.file_problems = changes.problems.clone();
        let changed = self.index.apply(changes);
        self.spread(&changed);
        let shares = |topic: &Topic| matches!(topic, Topic::Peers | Topic::Export(_));
        if let Some(remembered) = self.remembered.as_mut().filter(|_| changed.topics.iter().any(shares)) {
            remembered.keep(&self.index, is_whole(&changes.problems));
        }
    }

    /// Takes in all objects that there are.
    pub(crate) fn replace(&mut self, snapshot: &Snapshot) {
        self.ages.replace(snapshot);
        self.file_problems = snapshot.problems.clone();
        let is_young = std::mem::take(&mut self.is_young);
        let changed = match self.remembered.as_ref().filter(|_| is_young) {
            Some(remembered) => remembered.begin(&mut self.index, snapshot),
            None => self.index.replace(snapshot),
        };
        self.spread(&changed);
        if is_young {
            self.begin_links();
        }
        if let Some(remembered) = &mut self.remembered {
            remembered.keep(&self.index, is_whole(&snapshot.problems));
        }
    }

    /// What was just taken in is as new as these lists.
    pub(crate) fn listed(&mut self, lists: &BTreeMap<String, u64>) {
        self.ages.listed(lists);
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

    /// Begins an epoch above every epoch seen: what we say from now on counts, however old its sources are. Proxies are to be
    /// told of it when they have been told what is older: what waited for them before is not of the new epoch.
    pub(crate) fn begin_epoch(&mut self, seen: u64) -> Result<(), EpochError> {
        self.epoch.begin(seen)
    }

    /// A new epoch has begun: all that proxies need is said in it, also what they refused before.
    pub(crate) fn tell_epoch(&mut self) {
        let Self {
            cache, proxies, epoch, ..
        } = self;
        for proxy in proxies.values_mut() {
            let needs: Vec<Item> = proxy.needs.values().cloned().collect();
            let needs = needs.iter().filter_map(|item| Some((item.name(), cache.get(item)?)));
            proxy.push(epoch.current(), needs);
        }
    }

    /// A proxy is here. A stream of the same pod that was here before is told to end.
    pub(crate) fn join(&mut self, join: Join) -> (ProxyId, Arc<Outlet>) {
        let id = self.next;
        self.next += 1;
        let same = |proxy: &Proxy| proxy.who.subject.is_same(&join.who.subject);
        let replaced = self.proxies.iter().find(|(_, proxy)| same(proxy)).map(|(id, _)| *id);
        if let Some(replaced) = replaced {
            self.leave(replaced);
        }
        self.gone.retain(|proxy| !same(proxy));
        let subject = &join.who.subject;
        let held = join.held.into_iter().filter(|(name, _)| subject.may_hold(name));
        let most = match subject {
            // As much as its first message has, and as [`Hub::may_follow`] allows.
            Subject::Peer(_) => usize::MAX,
            Subject::Pod(_) | Subject::Gateway(_) => self.targets_max.saturating_mul(HELD_PER_TARGET),
        };
        let has: HashMap<Name, Hash> = held.take(most).collect();
        let outlet = Arc::new(Outlet::new(has.clone(), self.epoch.current()));
        let proxy = Proxy {
            who: join.who,
            outlet: outlet.clone(),
            targets: join.targets.into_iter().take(self.targets_max).collect(),
            needs: BTreeMap::new(),
            acked: has.clone(),
            refusals: BTreeMap::new(),
            refusals_told: Lines::default(),
            inherited: has,
            decided: Vec::new(),
            trusts: None,
        };
        self.proxies.insert(id, proxy);
        self.follow(id, &BTreeSet::new());
        if let Some(peer) = self
            .proxies
            .get_mut(&id)
            .filter(|proxy| proxy.who.subject.pod().is_none())
        {
            peer.forget_all_but_needs();
        }
        self.note_bundles();
        (id, outlet)
    }

    /// A proxy is gone.
    pub(crate) fn leave(&mut self, id: ProxyId) {
        let Some(mut proxy) = self.proxies.remove(&id) else {
            return;
        };
        let is_pod = proxy.who.subject.pod().is_some();
        proxy.decided = decided(&proxy, &self.index, &self.cache);
        for item in proxy.needs.values() {
            self.cache.unsubscribe(item, id);
        }
        // What status tells of it is what it has acknowledged.
        proxy.inherited.clear();
        proxy.targets.clear();
        *proxy.outlet.outbox() = Outbox::default();
        proxy.outlet.replaced.cancel();
        if is_pod {
            self.gone.push_back(proxy);
        }
        if self.gone.len() > GONE_MAX {
            self.gone.pop_front();
        }
    }

    /// A proxy wants to know of more. What is over the limit is left out; returns how much that was.
    pub(crate) fn subscribe(&mut self, id: ProxyId, targets: Vec<Target>) -> usize {
        let Some(proxy) = self.proxies.get_mut(&id) else {
            return 0;
        };
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
        proxy.outlet.urgent.store(true, Ordering::Release);
        self.follow(id, &BTreeSet::from([Kind::Lookup]));
        left_out
    }

    /// A proxy does not want to know of these any more.
    pub(crate) fn unsubscribe(&mut self, id: ProxyId, targets: &[Target]) {
        let Some(proxy) = self.proxies.get_mut(&id) else {
            return;
        };
        for target in targets {
            proxy.targets.remove(target);
        }
        self.follow(id, &BTreeSet::new());
    }

    /// A proxy suspects that it was told something old: what it has not got is offered again, what it refused as well.
    pub(crate) fn refresh(&mut self, id: ProxyId) {
        let Some(proxy) = self.proxies.get_mut(&id) else {
            return;
        };
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
        let Some(proxy) = self.proxies.get_mut(&id) else {
            return;
        };
        let refused_before = !proxy.refusals.is_empty();
        let lines = match &proxy.who.subject {
            Subject::Peer(peer) => &mut self.faults.entry(peer.cluster.clone()).or_default().refusals_told,
            Subject::Pod(_) | Subject::Gateway(_) => &mut proxy.refusals_told,
        };
        let mut whole = proxy.refusals.values().filter(|refused| refused.is_whole).count();
        let mut is_told = false;
        for Settled { name, has, refused } in settled {
            match has {
                Some(hash) => proxy.acked.insert(name.clone(), hash),
                None => proxy.acked.remove(&name),
            };
            let before = proxy.refusals.remove(&name);
            whole -= usize::from(before.is_some_and(|before| before.is_whole));
            // That it would not have something taken away is its own business.
            let (Some((hash, field, reason)), Some(item)) = (refused, proxy.needs.get(&name)) else {
                continue;
            };
            let entry = self.cache.get(item);
            let object = entry.map_or_else(|| name.to_string(), |entry| blame(entry, &name, &field));
            let refused = Refused::new(hash, [field, reason], object, whole < REFUSALS_WHOLE);
            // Each can refuse what it likes, as often as it likes.
            if lines.take(Instant::now()) {
                is_told = true;
                let who = &proxy.who.subject;
                let Refused {
                    object, field, reason, ..
                } = &refused;
                tracing::warn!(%who, resource = %name, object, field, reason, "a resource was refused");
            }
            whole += usize::from(refused.is_whole);
            proxy.refusals.insert(name, refused);
        }
        // Those of batches before as well, of which none had room.
        if is_told && let more @ 1.. = lines.take_unsaid() {
            let (who, refuses) = (&proxy.who.subject, proxy.refusals.len());
            tracing::warn!(%who, more, refuses, "more resources were refused");
        }
        let refuses = !proxy.refusals.is_empty();
        if refuses != refused_before {
            self.follow(id, &BTreeSet::new());
        }
    }

    /// Makes again what depends on what changed, and tells those who need it.
    fn spread(&mut self, changed: &Changed) {
        self.peers_changed |= changed.topics.contains(&Topic::Peers);
        let epoch = self.epoch.current();
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
        self.note_bundles();
        for (id, (items, rewire)) in touched {
            if rewire {
                // All kinds that can have changed: what has not is not sent.
                self.follow(id, &BTreeSet::from(Kind::ALL));
                continue;
            }
            let Some(proxy) = self.proxies.get_mut(&id) else {
                continue;
            };
            let items = items.iter();
            proxy.push(
                epoch,
                items.filter_map(|item| Some((item.name(), self.cache.get(item)?))),
            );
        }
    }

    /// Finds again what a proxy needs; tells it what is new to it, what it does not need any more, and all it needs of
    /// some kinds.
    fn follow(&mut self, id: ProxyId, kinds: &BTreeSet<Kind>) {
        let Self {
            index,
            cache,
            proxies,
            facts,
            epoch,
            ..
        } = self;
        let Some(proxy) = proxies.get_mut(&id) else {
            return;
        };
        let mut needs = proxy.reach(id, index, cache, facts);
        // Of a peer nothing is kept beside what it is told: what it may know of is said by its ClusterPeer, and not by it.
        if proxy.who.subject.pod().is_some() && proxy.keeps_old(&needs, cache) {
            let old = proxy.acked.keys().filter(|name| !needs.contains_key(*name));
            let old = old
                .filter_map(|name| Some((name.clone(), Item::referred(name)?)))
                .take(KEPT_MAX);
            for (name, item) in old.collect::<Vec<_>>() {
                cache.subscribe(&item, id, index, facts);
                needs.insert(name, item);
            }
        }
        let before = std::mem::replace(&mut proxy.needs, needs);
        let told = proxy
            .needs
            .iter()
            .filter(|(name, _)| kinds.contains(&name.kind) || !before.contains_key(*name));
        let told: Vec<Item> = told.map(|(_, item)| item.clone()).collect();
        proxy.drop_all_but_needs(&before);
        for (name, item) in before.iter().filter(|(name, _)| !proxy.needs.contains_key(*name)) {
            debug_assert_eq!(*name, item.name());
            cache.unsubscribe(item, id);
        }
        let told = told.iter().filter_map(|item| Some((item.name(), cache.get(item)?)));
        proxy.push(epoch.current(), told);
    }
}

/// Whether everything that there is could be read.
fn is_whole(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| problem.severity != Severity::Error)
}

#[cfg(test)]
mod tests;
