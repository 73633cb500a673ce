//! How far a trust bundle has come: with our own proxies, and with those of other clusters, as their control planes say.
//!
//! A root may be retired once every proxy that could meet a certificate of its successor decides by the bundle that has that.

use std::collections::{BTreeMap, VecDeque};

use weft_model::identity::TrustDomain;

use super::{Hash, Hub, Item, ProxyId, Subject};

/// Versions of the bundles that are remembered: more than a proxy that is connected can be behind by.
const VERSIONS_MAX: usize = 64;

/// How far the bundle of a trust domain has come in a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trusted {
    /// The sequence that its control plane holds.
    pub(crate) sequence: u64,
    /// Its proxies that are connected, and how many of them decide by that one.
    pub(crate) proxies: usize,
    pub(crate) acknowledged: usize,
    /// The sequence that all of these have reached.
    pub(crate) reached: u64,
}

/// Which sequences were in what proxies were told, by the version of that.
#[derive(Debug, Default)]
pub(crate) struct Told {
    versions: VecDeque<(Hash, BTreeMap<TrustDomain, u64>)>,
}

impl Told {
    fn note(&mut self, version: Hash, sequences: impl FnOnce() -> BTreeMap<TrustDomain, u64>) {
        if self.versions.back().is_some_and(|(last, _)| *last == version) {
            return;
        }
        self.versions.retain(|(known, _)| *known != version);
        if self.versions.len() == VERSIONS_MAX {
            self.versions.pop_front();
        }
        self.versions.push_back((version, sequences()));
    }

    /// The sequence of a trust domain in a version. 0: it has none, or is not remembered.
    fn sequence(&self, version: Hash, trust_domain: &TrustDomain) -> u64 {
        let known = self.versions.iter().find(|(known, _)| *known == version);
        known
            .and_then(|(_, sequences)| sequences.get(trust_domain).copied())
            .unwrap_or(0)
    }
}

impl Hub {
    /// Remembers which bundles are in what proxies are told now.
    pub(super) fn note_bundles(&mut self) {
        let Some(made) = self.cache.get(&Item::Bundles).and_then(|entry| entry.made.as_ref()) else {
            return;
        };
        let (own, foreign) = (self.facts.bundles.iter(), self.index.foreign_bundles());
        let all = own.chain(foreign);
        self.told.note(made.version.hash, || {
            all.map(|bundle| (bundle.trust_domain().clone(), bundle.sequence()))
                .collect()
        });
    }

    /// How far the bundle of a peer has come here. `None`: it is no peer.
    pub(crate) fn trusted(&self, cluster: &str) -> Option<Trusted> {
        let bundle = self.index.bundle_of(self.index.peer(cluster)?);
        Some(self.reached(bundle.trust_domain(), bundle.sequence()))
    }

    /// How far our own bundle has come with our own proxies.
    pub(crate) fn trusted_here(&self) -> Trusted {
        let own = self.facts.bundles.get(&self.facts.trust_domain);
        let sequence = own.map_or(0, weft_certs::bundle::Bundle::sequence);
        self.reached(&self.facts.trust_domain, sequence)
    }

    fn reached(&self, trust_domain: &TrustDomain, sequence: u64) -> Trusted {
        let name = Item::Bundles.name();
        let pods = self.proxies.values().filter(|proxy| proxy.who.subject.pod().is_some());
        let of = |version: Option<&Hash>| version.map_or(0, |version| self.told.sequence(*version, trust_domain));
        let reached: Vec<u64> = pods.map(|proxy| of(proxy.acked.get(&name))).collect();
        Trusted {
            sequence,
            proxies: reached.len(),
            acknowledged: reached.iter().filter(|one| **one >= sequence).count(),
            reached: reached.into_iter().min().unwrap_or(sequence).min(sequence),
        }
    }

    /// A replica of a peer's control plane says how far our bundle has come there.
    pub(crate) fn hear_trusted(&mut self, id: ProxyId, trusted: Trusted) {
        if let Some(proxy) = self.proxies.get_mut(&id) {
            proxy.trusts = Some(trusted);
        }
    }

    /// The sequence of our bundle that all have reached who verify by it: our own proxies that are connected, and those of
    /// each peer as all its replicas say that follow us. 0 while one of the peers has not said. A root that was left out of
    /// this one is trusted by nobody any more, and one that came with it by everybody.
    pub(crate) fn trusted_everywhere(&self) -> u64 {
        let peers = self.index.peers().map(|(cluster, _)| {
            let said = self.trusted_by(cluster);
            said.map_or(0, |trusted| trusted.reached)
        });
        peers.chain([self.trusted_here().reached]).min().unwrap_or(0)
    }

    /// How far our bundle has come with a peer: over all its replicas that follow us, each with proxies of its own. `None`:
    /// none follows, or one has not said.
    pub(crate) fn trusted_by(&self, cluster: &str) -> Option<Trusted> {
        let replicas = self.proxies.values().filter(|proxy| match &proxy.who.subject {
            Subject::Peer(follower) => follower.cluster == cluster,
            Subject::Pod(_) | Subject::Gateway(_) => false,
        });
        let said: Option<Vec<Trusted>> = replicas.map(|proxy| proxy.trusts).collect();
        said?.into_iter().reduce(|one, other| Trusted {
            sequence: one.sequence.min(other.sequence),
            proxies: one.proxies + other.proxies,
            acknowledged: one.acknowledged + other.acknowledged,
            reached: one.reached.min(other.reached),
        })
    }
}
