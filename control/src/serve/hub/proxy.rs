//! A subscriber, as the hub knows it: what it needs, what it has, what it would not take. A pod's proxy; or the control plane
//! of another cluster, which follows what is exported to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_model::destination::Target;
use weft_model::identity::Identity;
use weft_proto::resource::Kind;

use super::Trusted;
use crate::compile;
use crate::index::{self, Index};
use crate::objects::peer::Selection;
use crate::serve::cache::{Cache, Entry, Facts, Item, ProxyId};
use crate::serve::outbox::{Hash, Outbox};
use crate::serve::rate::Lines;
use crate::serve::wire::{Made, Name};

/// Bytes of a reason where there are very many.
const SHORT: usize = 64;

/// Who subscribes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// The proxy of a pod.
    Pod(index::Name),
    /// An east-west gateway, which is a pod of our own namespace.
    Gateway(index::Name),
    /// A replica of the control plane of another cluster.
    Peer(Arc<Follower>),
}

/// A replica of a peer's control plane, and what its cluster imports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Follower {
    /// Its cluster, as our ClusterPeer calls it.
    pub(crate) cluster: String,
    /// Which of its replicas.
    pub(crate) instance: String,
    /// Who it has proved to be.
    pub(crate) control_plane: Identity,
    pub(crate) imports: Vec<Selection>,
}

/// Who a proxy is.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) subject: Subject,
    /// Of a pod.
    pub(crate) uid: String,
    pub(crate) build: String,
    pub(crate) features: Vec<String>,
    pub(crate) since: SystemTime,
    /// How far the clock of another cluster is ahead of ours, in milliseconds, as it came with its first message.
    pub(crate) skew_ms: Option<i64>,
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
    /// What of it was logged.
    pub(super) refusals_told: Lines,
    /// What it had when it came, and has not heard of since.
    pub(super) inherited: HashMap<Name, Hash>,
    /// Of a proxy that is gone: the objects that it decided by (see [`decided`](crate::status::applied::decided)).
    pub(crate) decided: Vec<(String, u64)>,
    /// Of another cluster's control plane: how far our bundle has come there, as it says.
    pub(crate) trusts: Option<Trusted>,
}

/// A version that a proxy would not take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) hash: Hash,
    pub(crate) field: String,
    pub(crate) reason: String,
    /// The object that the field is of, as far as one can tell.
    pub(crate) object: String,
    /// Where there are very many, field and reason are told in few words.
    pub(super) is_whole: bool,
}

impl Refused {
    pub(super) fn new(hash: Hash, [mut field, mut reason]: [String; 2], object: String, is_whole: bool) -> Self {
        for words in [&mut field, &mut reason] {
            if !is_whole && words.len() > SHORT {
                words.truncate(words.floor_char_boundary(SHORT));
                words.push('…');
            }
            words.shrink_to_fit();
        }
        Self {
            hash,
            field,
            reason,
            object,
            is_whole,
        }
    }
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

impl Subject {
    /// The pod, where it is one's proxy or a gateway's.
    pub(crate) fn pod(&self) -> Option<&index::Name> {
        match self {
            Self::Pod(pod) | Self::Gateway(pod) => Some(pod),
            Self::Peer(_) => None,
        }
    }

    /// Whether a new stream of this one takes the place of the other's.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Peer(one), Self::Peer(other)) => (&one.cluster, &one.instance) == (&other.cluster, &other.instance),
            (one, other) => one.pod().is_some() && one.pod() == other.pod(),
        }
    }

    /// Whether it may say that it holds this: what it says is kept current for it.
    pub(super) fn may_hold(&self, name: &Name) -> bool {
        let of_pods = matches!(
            name.kind,
            Kind::Lookup | Kind::Endpoints | Kind::Inbound | Kind::Bundles | Kind::Mesh
        );
        match self {
            // Views of other namespaces are not believed.
            Self::Pod(pod) if name.kind == Kind::Service => compile::is_in_view(&name.key, &pod.namespace),
            Self::Pod(_) => of_pods,
            Self::Gateway(_) => matches!(name.kind, Kind::Gateway | Kind::Exported | Kind::Bundles | Kind::Mesh),
            Self::Peer(_) => matches!(name.kind, Kind::Cluster | Kind::Export | Kind::Exported),
        }
    }

    /// What it needs without asking.
    fn roots(&self) -> Vec<Item> {
        match self {
            Self::Pod(pod) => vec![Item::Bundles, Item::Mesh, Item::Inbound(pod.clone())],
            Self::Gateway(_) => vec![Item::Bundles, Item::Mesh, Item::Gateway],
            Self::Peer(follower) => vec![Item::Cluster(follower.clone())],
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) | Self::Gateway(pod) => pod.fmt(f),
            Self::Peer(follower) => write!(f, "cluster {}", follower.cluster),
        }
    }
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
        let mut open = self.who.subject.roots();
        if let Subject::Pod(pod) = &self.who.subject {
            let namespace: Arc<str> = pod.namespace.as_str().into();
            let lookup = |target: &Target| Item::Lookup(target.clone(), namespace.clone());
            open.extend(self.targets.iter().map(lookup));
        }
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

    /// Knows nothing any more of what it came with and does not need: that waits to be removed, and no more is made of it.
    pub(super) fn forget_all_but_needs(&mut self) {
        let Self {
            needs,
            acked,
            inherited,
            ..
        } = self;
        acked.retain(|name, _| needs.contains_key(name));
        acked.shrink_to_fit();
        inherited.shrink_to_fit();
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
        Kind::Export => "ServiceExport ",
        Kind::Exported => "Service ",
        Kind::Bundles | Kind::Mesh | Kind::Cluster | Kind::Gateway => "",
    };
    let own = sources.iter().find(|source| source.object.starts_with(kind));
    own.or(sources.first())
        .map_or_else(|| name.to_string(), |source| source.object.clone())
}
