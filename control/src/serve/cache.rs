//! Everything that somebody is subscribed to, compiled and encoded once.
//!
//! An item is made when its first subscriber comes, made again when something that it depends on changes, and forgotten
//! with its last subscriber.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weft_certs::bundle::TrustBundles;
use weft_model::destination::{Lookup, Service, Target};
use weft_model::identity::{Identity, TrustDomain};
use weft_model::name::ObjectRef;
use weft_model::version::Version;
use weft_proto::resource::bundles::TrustRoots;
use weft_proto::resource::federation::{ExportedPort, Transport};
use weft_proto::resource::name::exported;
use weft_proto::resource::name::{BUNDLES, CLUSTER, GATEWAY, INBOUND, MESH};
use weft_proto::resource::{self, Body, Cluster, Kind, Mesh};

use super::hub::Follower;
use super::wire::{Made, Name};
use crate::compile::{self, Compiled};
use crate::index::{self, Index, Topic};

/// What a resource is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    /// What is at a target, for clients of a namespace.
    Lookup(Target, Arc<str>),
    /// A port of a Service, by key.
    Service(Arc<str>),
    /// A set of endpoints, by key.
    Endpoints(Arc<str>),
    /// The inbound side of a pod.
    Inbound(index::Name),
    /// The mesh's networks and defaults.
    Mesh,
    /// The trust bundles.
    Bundles,
    /// What our cluster says of itself to a peer, and which Services are exported to it.
    Cluster(Arc<Follower>),
    /// What our gateways pass.
    Gateway,
    /// An exported Service.
    Export(index::Name),
    /// The endpoints behind a port of it, by key.
    Exported(Arc<str>),
}

/// What the index does not know.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) cluster: String,
    pub(crate) discovery_wait: Duration,
    /// Our own trust domain's.
    pub(crate) bundles: Arc<TrustBundles>,
    /// The network that our pods are in.
    pub(crate) network: String,
    /// Our east-west gateways, as others reach them.
    pub(crate) gateways: Vec<String>,
    /// Where other clusters reach the control plane, and who it is.
    pub(crate) federation_endpoints: Vec<String>,
    /// Where they see our trust bundle.
    pub(crate) bundle_endpoint: Option<String>,
    pub(crate) control_plane: Identity,
}

/// Number of a connected proxy, never used twice.
pub(crate) type ProxyId = u64;

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Item, Entry>,
    by_topic: HashMap<Topic, HashSet<Item>>,
}

/// One item, made.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// `None`: there is no such thing (any more).
    pub(crate) made: Option<Arc<Made>>,
    /// Why proxies that have a version from before are to keep it.
    pub(crate) hold: Option<Arc<str>>,
    /// The route of each rule, to tell which object a refused field is of.
    pub(crate) rules: Vec<ObjectRef>,
    topics: BTreeSet<Topic>,
    /// Who is subscribed.
    pub(crate) users: BTreeSet<ProxyId>,
}

/// What making an item again has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// Nothing that a proxy would see.
    None,
    /// Its content.
    Content,
    /// Its content, and what it refers to or whether it is held.
    References,
}

impl Item {
    pub(crate) fn name(&self) -> Name {
        match self {
            Self::Lookup(target, _) => Name::new(Kind::Lookup, target.to_string()),
            Self::Service(key) => Name::new(Kind::Service, key.clone()),
            Self::Endpoints(key) => Name::new(Kind::Endpoints, key.clone()),
            Self::Inbound(_) => Name::new(Kind::Inbound, INBOUND),
            Self::Mesh => Name::new(Kind::Mesh, MESH),
            Self::Bundles => Name::new(Kind::Bundles, BUNDLES),
            Self::Cluster(_) => Name::new(Kind::Cluster, CLUSTER),
            Self::Gateway => Name::new(Kind::Gateway, GATEWAY),
            Self::Export(name) => Name::new(Kind::Export, name.to_string()),
            Self::Exported(key) => Name::new(Kind::Exported, key.clone()),
        }
    }

    /// The item of a name that resources refer to. `None`: resources do not refer to such.
    pub(crate) fn referred(name: &Name) -> Option<Self> {
        match name.kind {
            Kind::Service => Some(Self::Service(name.key.clone())),
            Kind::Endpoints => Some(Self::Endpoints(name.key.clone())),
            Kind::Export => {
                let (namespace, name) = name.key.split_once('/')?;
                Some(Self::Export(index::Name::new(namespace, name)))
            }
            Kind::Exported => Some(Self::Exported(name.key.clone())),
            Kind::Lookup | Kind::Inbound | Kind::Bundles | Kind::Mesh | Kind::Cluster | Kind::Gateway => None,
        }
    }
}

impl Cache {
    /// Subscribes a proxy to an item, which is made if nobody had it.
    pub(crate) fn subscribe(&mut self, item: &Item, proxy: ProxyId, index: &Index, facts: &Facts) -> &Entry {
        if !self.entries.contains_key(item) {
            self.put(item.clone(), guarded(item, None, || make(item, index, facts)));
        }
        let entry = self.entries.entry(item.clone()).or_default();
        entry.users.insert(proxy);
        entry
    }

    /// Ends a proxy's subscription.
    pub(crate) fn unsubscribe(&mut self, item: &Item, proxy: ProxyId) {
        let Some(entry) = self.entries.get_mut(item) else {
            return;
        };
        entry.users.remove(&proxy);
        if entry.users.is_empty() {
            let topics = std::mem::take(&mut entry.topics);
            self.entries.remove(item);
            self.unlink(item, &topics);
        }
    }

    /// An item that somebody is subscribed to.
    pub(crate) fn get(&self, item: &Item) -> Option<&Entry> {
        self.entries.get(item)
    }

    /// All of them.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The items that depend on any of these topics.
    pub(crate) fn affected(&self, topics: &BTreeSet<Topic>) -> HashSet<Item> {
        topics
            .iter()
            .filter_map(|topic| self.by_topic.get(topic))
            .flatten()
            .cloned()
            .collect()
    }

    /// Makes an item again, and says what that changed.
    pub(crate) fn make_again(&mut self, item: &Item, index: &Index, facts: &Facts) -> Difference {
        let Some(old) = self.entries.get(item) else {
            return Difference::None;
        };
        let new = guarded(item, Some(old), || make(item, index, facts));
        let content = |entry: &Entry| entry.made.as_ref().map(|made| made.version.hash);
        let refers = |entry: &Entry| entry.made.as_ref().map(|made| made.refers.clone());
        let difference = if refers(old) != refers(&new) || old.hold != new.hold {
            Difference::References
        } else if content(old) != content(&new) {
            Difference::Content
        } else {
            Difference::None
        };
        self.put(item.clone(), new);
        difference
    }

    fn put(&mut self, item: Item, mut new: Entry) {
        if let Some(old) = self.entries.remove(&item) {
            new.users = old.users;
            if new.made.is_none() && new.topics.is_empty() {
                // What is not there says nothing of what it would depend on: what it did is the best guess.
                new.topics.clone_from(&old.topics);
            }
            self.unlink(&item, &old.topics);
        }
        for topic in &new.topics {
            self.by_topic.entry(topic.clone()).or_default().insert(item.clone());
        }
        self.entries.insert(item, new);
    }

    fn unlink(&mut self, item: &Item, topics: &BTreeSet<Topic>) {
        for topic in topics {
            let Some(items) = self.by_topic.get_mut(topic) else {
                continue;
            };
            items.remove(item);
            if items.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}

/// Makes an item. Where that panics what was made last stays, and proxies keep what they have: one resource must not end the
/// process, and end it again at each start.
fn guarded(item: &Item, old: Option<&Entry>, make: impl FnOnce() -> Entry) -> Entry {
    // Compiling is pure, so nothing is left half done.
    catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| {
        tracing::error!(resource = %item.name(), "making a resource panicked: it stays as it was");
        let mut topics = own_topics(item);
        topics.extend(old.into_iter().flat_map(|old| old.topics.iter().cloned()));
        Entry {
            made: old.and_then(|old| old.made.clone()),
            rules: old.map(|old| old.rules.clone()).unwrap_or_default(),
            hold: Some("it could not be made because of a fault in the control plane".into()),
            topics,
            users: BTreeSet::new(),
        }
    })
}

/// What an item depends on whatever else it does.
fn own_topics(item: &Item) -> BTreeSet<Topic> {
    match item {
        Item::Lookup(Target::Address(address), _) => BTreeSet::from([Topic::Address(address.ip().to_canonical())]),
        Item::Service(key) | Item::Endpoints(key) | Item::Exported(key) => {
            let name = key.rsplit_once(':').and_then(|(name, _)| name.split_once('/'));
            let name = name.map(|(namespace, name)| index::Name::new(namespace, name));
            name.into_iter()
                .flat_map(|name| {
                    let (service, endpoints) = (Topic::Service(name.clone()), Topic::Endpoints(name.clone()));
                    [service, endpoints, Topic::Export(name)]
                })
                .collect()
        }
        Item::Inbound(pod) => BTreeSet::from([Topic::Pod(pod.clone())]),
        Item::Mesh => BTreeSet::from([Topic::Networks]),
        Item::Export(name) => BTreeSet::from([Topic::Export(name.clone()), Topic::Service(name.clone())]),
        Item::Cluster(_) | Item::Gateway => BTreeSet::from([Topic::Exports, Topic::Peers]),
        Item::Bundles => BTreeSet::from([Topic::Peers]),
        Item::Lookup(Target::Host { .. }, _) => BTreeSet::new(),
    }
}

/// Compiles and encodes an item.
fn make(item: &Item, index: &Index, facts: &Facts) -> Entry {
    match item {
        Item::Lookup(target, namespace) => make_lookup(item, compile::lookup(index, target, namespace)),
        Item::Service(key) => {
            let Some(compiled) = compile::service(index, key) else {
                return Entry::default();
            };
            let refers = service_refers(&compiled.value);
            let rules = compiled.value.rules.iter().flat_map(|rules| &rules.rules);
            let rules = rules.map(|rule| rule.route.clone()).collect();
            Entry {
                rules,
                ..entry(item, compiled, refers, Body::Service)
            }
        }
        Item::Endpoints(key) => {
            let Some(compiled) = compile::endpoint_set(index, key) else {
                return Entry::default();
            };
            entry(item, compiled, Vec::new(), Body::Endpoints)
        }
        Item::Inbound(pod) => {
            let Some(compiled) = compile::inbound(index, &pod.namespace, &pod.name) else {
                // Only the pod itself can bring it back.
                return Entry {
                    topics: BTreeSet::from([Topic::Pod(pod.clone())]),
                    ..Entry::default()
                };
            };
            entry(item, compiled, Vec::new(), Body::Inbound)
        }
        Item::Mesh => entry(item, compile::networks(index), Vec::new(), |networks| {
            Body::Mesh(Mesh {
                trust_domain: facts.trust_domain.clone(),
                cluster: facts.cluster.clone(),
                inside: networks.inside,
                outside: networks.outside,
                discovery_wait: facts.discovery_wait,
            })
        }),
        Item::Bundles => {
            let compiled = Compiled {
                value: trust_roots(facts.bundles.iter().chain(index.foreign_bundles())),
                sources: Vec::new(),
                hold: None,
                topics: BTreeSet::from([Topic::Peers]),
            };
            entry(item, compiled, Vec::new(), Body::Bundles)
        }
        Item::Cluster(follower) => make_cluster(item, follower, index, facts),
        Item::Gateway | Item::Export(_) | Item::Exported(_) => make_shared(item, index).unwrap_or_else(|| Entry {
            topics: own_topics(item),
            ..Entry::default()
        }),
    }
}

/// What is exported. `None`: there is no such thing (any more).
fn make_shared(item: &Item, index: &Index) -> Option<Entry> {
    Some(match item {
        Item::Gateway => {
            let compiled = compile::passed(index);
            let keys = compiled.value.iter();
            let refers = keys.map(|key| Name::new(Kind::Exported, key.as_str())).collect();
            entry(item, compiled, refers, Body::Gateway)
        }
        Item::Export(name) => {
            let compiled = compile::export(index, name)?;
            let key = |port: &ExportedPort| Name::new(Kind::Exported, format!("{name}:{}", port.port));
            let tcp = compiled
                .value
                .ports
                .iter()
                .filter(|port| port.transport == Transport::Tcp);
            let refers = tcp.map(key).collect();
            entry(item, compiled, refers, Body::Export)
        }
        Item::Exported(key) => {
            let (namespace, service, port) = exported(key)?;
            let compiled = compile::exported(index, &index::Name::new(namespace, service), port?)?;
            entry(item, compiled, Vec::new(), Body::Exported)
        }
        _ => return None,
    })
}

/// What our cluster says of itself to a peer. It refers to what is exported to that peer.
fn make_cluster(item: &Item, follower: &Follower, index: &Index, facts: &Facts) -> Entry {
    let compiled = compile::exports_to(index, &follower.cluster, &follower.imports);
    let refers = compiled
        .value
        .iter()
        .map(|name| Name::new(Kind::Export, name.to_string()))
        .collect();
    let own = facts.bundles.get(&facts.trust_domain);
    let Some(bundle) = trust_roots(own.into_iter()).pop() else {
        return Entry::default();
    };
    let cluster = Cluster {
        name: facts.cluster.clone(),
        network: facts.network.clone(),
        gateways: facts.gateways.clone(),
        pod_networks: index.pod_networks(),
        bundle,
    };
    let mut topics = compiled.topics;
    topics.insert(Topic::PodNetworks);
    let compiled = Compiled {
        value: cluster,
        sources: compiled.sources,
        hold: compiled.hold,
        topics,
    };
    entry(item, compiled, refers, Body::Cluster)
}

fn make_lookup(item: &Item, compiled: Compiled<Option<Lookup>>) -> Entry {
    let Compiled {
        value,
        sources,
        hold,
        topics,
    } = compiled;
    let Some(value) = value else {
        return Entry {
            hold: hold.map(Into::into),
            topics,
            ..Entry::default()
        };
    };
    let refers = match &value {
        Lookup::Service(key) => vec![Name::new(Kind::Service, key.as_str())],
        Lookup::Direct { .. } | Lookup::Outside { .. } | Lookup::NoSuchPort { .. } => Vec::new(),
    };
    let compiled = Compiled {
        value,
        sources,
        hold,
        topics,
    };
    entry(item, compiled, refers, Body::Lookup)
}

fn entry<T>(item: &Item, compiled: Compiled<T>, refers: Vec<Name>, body: impl FnOnce(T) -> Body) -> Entry {
    let body = body(compiled.value);
    let encoded = resource::encode(&body);
    let version = Version {
        hash: encoded.hash,
        sources: compiled.sources,
    };
    let made = Made::new(item.name(), version, body.requires(), refers, encoded.bytes);
    Entry {
        made: Some(Arc::new(made)),
        hold: compiled.hold.map(Into::into),
        topics: compiled.topics,
        ..Entry::default()
    }
}

/// Bundles, as they travel.
pub(crate) fn trust_roots<'a>(bundles: impl Iterator<Item = &'a weft_certs::bundle::Bundle>) -> Vec<TrustRoots> {
    let roots = |bundle: &weft_certs::bundle::Bundle| TrustRoots {
        trust_domain: bundle.trust_domain().clone(),
        roots: bundle.roots().iter().map(|root| Bytes::copy_from_slice(root)).collect(),
        sequence: bundle.sequence(),
    };
    bundles.map(roots).collect()
}

fn service_refers(service: &Service) -> Vec<Name> {
    let rules = service.rules.iter().flat_map(|rules| &rules.rules);
    let keys: BTreeSet<&str> = rules
        .flat_map(|rule| rule.endpoint_sets())
        .chain(service.streams.iter().flat_map(|streams| streams.endpoint_sets()))
        .chain([service.endpoints.as_str()])
        .filter(|key| !key.is_empty())
        .collect();
    keys.into_iter().map(|key| Name::new(Kind::Endpoints, key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_whose_making_panics_stays_as_it_was_and_is_made_again_later() {
        let item = Item::Service("shop/reviews:80".into());
        let encoded = Bytes::from_static(b"x");
        let version = Version {
            hash: [1; 16],
            sources: Vec::new(),
        };
        let made = Arc::new(Made::new(item.name(), version, Vec::new(), Vec::new(), encoded));
        let old = Entry {
            made: Some(made),
            topics: BTreeSet::from([Topic::Networks]),
            ..Entry::default()
        };
        let new = guarded(&item, Some(&old), || panic!("on purpose"));
        assert_eq!(new.made.unwrap().version.hash, [1; 16]);
        assert!(new.hold.is_some());
        let service = Topic::Service(index::Name::new("shop", "reviews"));
        assert!(new.topics.contains(&Topic::Networks) && new.topics.contains(&service));
        let first = guarded(&item, None, || panic!("on purpose"));
        assert!(first.made.is_none() && first.hold.is_some() && first.topics.contains(&service));
    }
}
