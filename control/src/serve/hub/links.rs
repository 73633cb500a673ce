//! Other clusters, as the hub knows them: what they say, how the links to them are, and who of them follows us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use weft_certs::bundle::{Bundle, TrustBundles};
use weft_proto::resource::{self, FieldError, Update};

use super::{Facts, Hash, Hub, Subject};
use crate::objects::peer::Peer;

/// The peers that act, and the bundles of their trust domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Linked {
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) bundles: TrustBundles,
}

/// How the link to a peer is: what it exports comes by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) state: Link,
    pub(crate) since: SystemTime,
    /// Where it leads.
    pub(crate) endpoint: String,
    /// Why it is not connected, in one word and for people; or empty.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
    /// When the peer was last heard of.
    pub(crate) heard: Option<SystemTime>,
}

/// The states of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Not connected since this process began.
    Connecting,
    /// What the peer exports comes as it changes.
    Connected,
    /// It was connected, and what is held is kept for now.
    Stale,
    /// It was broken for longer than that is kept.
    Forgotten,
}

/// What a peer has said that it may not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Since this process began.
    pub(crate) total: u64,
    /// Where it has not said anything better since.
    pub(crate) now: BTreeMap<resource::Name, FieldError>,
}

/// How much of it is told of one peer.
const FAULTS_MAX: usize = 64;

impl Link {
    /// In one word, for people.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
            Self::Stale => "Stale",
            Self::Forgotten => "Forgotten",
        }
    }
}

impl Hub {
    /// What the index does not know.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The peers that act, and the bundles of their trust domains.
    pub(crate) fn linked(&self) -> Linked {
        let peers = self.index.peers().map(|(name, peer)| (name.to_owned(), peer.clone()));
        let bundles: Vec<Bundle> = self.index.foreign_bundles().cloned().collect();
        // Two peers of one trust domain do not both act.
        let bundles = TrustBundles::new(bundles).unwrap_or_else(|error| {
            tracing::error!(%error, "no peer is trusted");
            TrustBundles::default()
        });
        Linked {
            peers: peers.collect(),
            bundles,
        }
    }

    /// Takes in what a peer says. Returns what of it was refused.
    /// `unread`: what else came, and could not be read.
    pub(crate) fn hear(
        &mut self,
        cluster: &str,
        updates: Vec<Update>,
        unread: &[(resource::Name, FieldError)],
    ) -> Vec<(resource::Name, FieldError)> {
        let said: Vec<resource::Name> = updates.iter().map(|update| update.name.clone()).collect();
        let (refused, changed) = self.index.hear(cluster, updates);
        if let Some((name, error)) = unread.iter().chain(&refused).next() {
            let (field, reason, all) = (&error.field, &error.reason, unread.len() + refused.len());
            tracing::warn!(cluster, resource = %name, field, reason, all, "a peer said what it may not");
        }
        let faults = self.faults.entry(cluster.to_owned()).or_default();
        faults.take(&said, &refused);
        faults.take(&[], unread);
        self.spread(&changed);
        refused
    }

    /// What is held of a peer.
    pub(crate) fn held(&self, cluster: &str) -> Vec<(resource::Name, Hash)> {
        let remote = self.index.heard_of(cluster);
        let held = remote.into_iter().flat_map(|(_, _, remote)| &remote.held);
        held.map(|(name, hash)| (name.clone(), *hash)).collect()
    }

    /// The addresses of a peer's gateways are these now.
    pub(crate) fn set_gateways(&mut self, cluster: &str, addresses: &[SocketAddr]) {
        let changed = self.index.set_gateways(cluster, addresses);
        self.spread(&changed);
    }

    /// What a peer has said counts no more.
    pub(crate) fn forget(&mut self, cluster: &str) {
        let changed = self.index.forget(cluster);
        self.spread(&changed);
    }

    /// How the link to a peer is. Of peers that are gone nothing is kept. Returns whether it is in another state than before.
    pub(crate) fn link(&mut self, cluster: String, state: LinkState) -> bool {
        if self.index.peer(&cluster).is_none() {
            return false;
        }
        let now = state.state;
        let before = self.links.insert(cluster, state);
        before.is_none_or(|before| before.state != now)
    }

    /// How many replicas of a cluster follow us beside this one.
    pub(crate) fn followers(&self, cluster: &str, instance: &str) -> usize {
        let other = |subject: &Subject| match subject {
            Subject::Peer(follower) => follower.cluster == cluster && follower.instance != instance,
            Subject::Pod(_) | Subject::Gateway(_) => false,
        };
        self.proxies.values().filter(|proxy| other(&proxy.who.subject)).count()
    }

    /// Ends the streams of peers whose control plane or roots are others by now: what was proved counts no more.
    pub(crate) fn drop_followers(&mut self, before: &Linked, now: &Linked) {
        let same = |cluster: &str| {
            let (Some(old), Some(new)) = (before.peers.get(cluster), now.peers.get(cluster)) else {
                return false;
            };
            let kept = |old: &Bundle, new: &Bundle| old.roots().iter().all(|root| new.roots().contains(root));
            let roots = before
                .bundles
                .get(&old.trust_domain)
                .zip(now.bundles.get(&new.trust_domain));
            old.control_plane == new.control_plane && roots.is_some_and(|(old, new)| kept(old, new))
        };
        let dropped = self.proxies.iter().filter(|(_, proxy)| match &proxy.who.subject {
            Subject::Peer(follower) => !same(&follower.cluster),
            Subject::Pod(_) | Subject::Gateway(_) => false,
        });
        for id in dropped.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.leave(id);
        }
        self.links.retain(|cluster, _| now.peers.contains_key(cluster));
        self.faults.retain(|cluster, _| now.peers.contains_key(cluster));
    }
}

impl Faults {
    fn take(&mut self, said: &[resource::Name], refused: &[(resource::Name, FieldError)]) {
        said.iter().for_each(|name| drop(self.now.remove(name)));
        self.total += refused.len() as u64;
        for (name, error) in refused.iter().take(FAULTS_MAX.saturating_sub(self.now.len())) {
            self.now.insert(name.clone(), error.clone());
        }
    }
}
