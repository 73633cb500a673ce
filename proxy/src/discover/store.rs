//! Discover, the heart: what the proxy believes, and how it follows what it is told.
//!
//! In: batches of the control plane, destinations that workers ask for, credentials. Out: the next [`State`], and what is to
//! be said to the control plane. Pure and synchronous: no socket, no clock of its own. A batch takes effect as one; what does
//! not validate is refused and the last good version stays; what is still referred to is not taken away.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_certs::bundle::TrustBundles;
use weft_certs::credential::Credential;
use weft_model::destination::Target;
use weft_model::network::Networks;
use weft_model::reason::Reason;
use weft_proto::discovery;
use weft_proto::resource::name::{BUNDLES, GATEWAY, INBOUND, MESH, held_to_wire, target_to_wire};
use weft_proto::resource::{self, Kind, Name};

use super::stage::{Refused, Staged};
use super::state::{Found, Mesh, Note, Passes, State, Used, Wire};

/// A destination that was used, or asked for, this recently is not given up for another.
const IDLE: Duration = Duration::from_secs(60);
/// A destination that was never answered is given up for another sooner.
const UNANSWERED: Duration = Duration::from_secs(10);
/// The control plane is asked about one destination at most this often.
const ASK_SPACING: Duration = Duration::from_secs(1);

/// What the proxy believes and follows.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) state: State,
    pub(super) follows: HashMap<Target, Follow>,
    pub(super) limit: usize,
    /// Batches that are applied here, and wait until every worker decides by them.
    unacknowledged: VecDeque<Unacknowledged>,
    /// What the control plane took away, but something here still refers to.
    pub(super) doomed: BTreeSet<Name>,
    /// The roots that are trusted: the newest of what the stream and the identity service said.
    trust: Option<Arc<TrustBundles>>,
    /// Counts credentials, those with the same leaf and other bundles too.
    credentials: u64,
}

/// One destination that is followed.
#[derive(Debug)]
pub(super) struct Follow {
    /// When the control plane was asked last.
    asked: Instant,
    pub(super) used: Arc<Used>,
}

#[derive(Debug)]
struct Unacknowledged {
    generation: u64,
    nonce: u64,
    refusals: Vec<discovery::Refusal>,
}

/// What a batch did.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Applied {
    /// Resources that were not taken: for metrics and the log.
    pub(crate) refused: Vec<NotTaken>,
    /// The bundles changed.
    pub(crate) bundles: bool,
}

/// A resource that was not taken.
#[derive(Debug, PartialEq)]
pub(crate) struct NotTaken {
    /// `None`: one that is not known here.
    pub(crate) kind: Option<Kind>,
    /// As it came.
    pub(crate) key: String,
    /// Why.
    pub(crate) note: Note,
}

/// What following a destination did.
#[derive(Debug, PartialEq)]
pub(crate) enum Followed {
    /// It was followed already.
    Already,
    /// The control plane is to be told.
    New {
        /// The destination that was given up for it.
        given_up: Option<Target>,
    },
}

impl NotTaken {
    fn of(refused: &Refused) -> Self {
        Self {
            kind: refused.kind(),
            key: refused.key().to_owned(),
            note: Note::of(&refused.error),
        }
    }
}

impl Store {
    /// Of an east-west gateway, which is told what to pass.
    #[must_use]
    pub(crate) fn of_gateway(mut self) -> Self {
        self.state.passes = Some(Passes::default());
        self
    }

    /// Knows nothing yet. `wait`: how long connections wait for discovery until the control plane says otherwise; `limit`:
    /// how many destinations are followed at once.
    pub(crate) fn new(wait: Duration, limit: usize) -> Self {
        let mesh = Mesh {
            networks: Arc::new(Networks::default()),
            discovery_wait: wait,
            held: None,
        };
        let state = State {
            generation: 1,
            epoch: 0,
            lookups: HashMap::new(),
            services: HashMap::new(),
            endpoints: HashMap::new(),
            inbound: None,
            passes: None,
            mesh,
            bundles: None,
            credential: None,
            notes: BTreeMap::new(),
        };
        let (follows, unacknowledged, doomed) = (HashMap::new(), VecDeque::new(), BTreeSet::new());
        Self {
            state,
            follows,
            limit,
            unacknowledged,
            doomed,
            trust: None,
            credentials: 0,
        }
    }

    /// What is believed now.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// How many destinations are followed.
    pub(crate) fn followed(&self) -> usize {
        self.follows.len()
    }

    /// Takes a batch as one. The new state is to be published, and acknowledged once every worker decides by it.
    pub(crate) fn apply(&mut self, batch: discovery::Batch, now: Instant) -> Applied {
        let mut staged = Staged::default();
        for resource in batch.resources {
            self.stage(&mut staged, resource, batch.epoch);
        }
        self.state.epoch = self.state.epoch.max(batch.epoch);
        self.refuse_dangling(&mut staged);
        let bundles = staged.bundles.is_some();
        let refusals = self.settle(staged, now);
        self.state.generation += 1;
        let refused = refusals.iter().map(NotTaken::of).collect();
        self.unacknowledged.push_back(Unacknowledged {
            generation: self.state.generation,
            nonce: batch.nonce,
            refusals: refusals
                .into_iter()
                .map(|r| resource::refusal(r.name, r.version, r.error))
                .collect(),
        });
        Applied { refused, bundles }
    }

    /// The batches that every worker decides by, given the generation that the slowest one has applied.
    pub(crate) fn acknowledge(&mut self, applied_by_all: u64) -> Vec<discovery::Ack> {
        let done = self
            .unacknowledged
            .iter()
            .take_while(|batch| batch.generation <= applied_by_all)
            .count();
        let done = self.unacknowledged.drain(..done);
        done.map(|batch| discovery::Ack {
            nonce: batch.nonce,
            refusals: batch.refusals,
        })
        .collect()
    }

    /// Forgets what was to be acknowledged: the stream that it came by has ended.
    pub(crate) fn disconnected(&mut self) {
        self.unacknowledged.clear();
    }

    /// What a new stream begins with: who calls, what is held, what is followed. Negative answers that are too old are not
    /// claimed, so that they come anew.
    pub(crate) fn hello(&self, pod: discovery::Pod, build: &str, now: Instant) -> discovery::Hello {
        let is_old = |found: &Found| found.ttl().is_some_and(|ttl| now.duration_since(found.heard) > ttl);
        let lookups = self.state.lookups.iter();
        let old: BTreeSet<Name> = lookups
            .filter(|(_, found)| is_old(found))
            .map(|(target, _)| Name::lookup(target))
            .collect();
        let mut held: Vec<_> = self.wires().filter(|(name, _)| !old.contains(name)).collect();
        held.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut targets: Vec<&Target> = self.follows.keys().collect();
        targets.sort();
        // How old an object may be is said of an epoch: what came in an earlier one, and was not sent again as it is the same,
        // would make whoever has restored objects look old for ever.
        let held = held.into_iter().map(|(name, wire)| {
            let mut held = held_to_wire(&name, &wire.version);
            if let Some(version) = &mut held.version
                && wire.epoch != self.state.epoch
            {
                version.sources.clear();
            }
            held
        });
        discovery::Hello {
            pod: Some(pod),
            build: build.to_owned(),
            features: weft_model::feature::SUPPORTED
                .iter()
                .map(|&feature| feature.to_owned())
                .collect(),
            epoch: self.state.epoch,
            held: held.collect(),
            targets: targets.into_iter().map(target_to_wire).collect(),
            peer: None,
            gateway: self.state.passes.is_some(),
        }
    }

    /// Follows a destination.
    pub(crate) fn follow(&mut self, target: &Target, now: Instant, since_start: Duration) -> Result<Followed, Reason> {
        if self.follows.contains_key(target) {
            return Ok(Followed::Already);
        }
        let given_up = match self.follows.len() < self.limit {
            true => None,
            false => Some(self.idlest(since_start).ok_or(Reason::SubscriptionLimit)?),
        };
        if let Some(target) = &given_up {
            self.forget(target);
        }
        let used = Arc::new(Used::default());
        used.touch(since_start);
        self.follows.insert(target.clone(), Follow { asked: now, used });
        Ok(Followed::New { given_up })
    }

    /// Whether the control plane is to be asked about a destination again: it is followed, and the last time is long enough
    /// ago.
    pub(crate) fn may_ask(&mut self, target: &Target, now: Instant) -> bool {
        match self.follows.get_mut(target) {
            Some(follow) if now.duration_since(follow.asked) >= ASK_SPACING => {
                follow.asked = now;
                true
            }
            _ => false,
        }
    }

    /// Takes a new credential, or none where the old one has ended. The bundles that came with it count where they are newer
    /// than what is trusted. Gives what is now shown to peers.
    pub(crate) fn set_credential(&mut self, credential: Option<&Credential>) -> Option<Arc<Credential>> {
        self.state.generation += 1;
        self.state.credential = credential.map(|credential| {
            let offered = credential.bundles();
            let trust = match &self.trust {
                Some(trust) if trust.updated(offered.iter().cloned()).is_err() => trust.clone(),
                _ => offered.clone(),
            };
            self.trust = Some(trust.clone());
            self.credentials += 1;
            Arc::new(credential.with_bundles(trust, self.credentials))
        });
        self.state.credential.clone()
    }

    /// The roots that are trusted.
    pub(crate) fn trust(&self) -> Option<&Arc<TrustBundles>> {
        self.trust.as_ref()
    }

    /// Trusts other roots from now on: the credential is a new one with the same leaf.
    pub(super) fn set_trust(&mut self, trust: Arc<TrustBundles>) {
        self.credentials += 1;
        if let Some(credential) = &mut self.state.credential {
            *credential = Arc::new(credential.with_bundles(trust.clone(), self.credentials));
        }
        self.trust = Some(trust);
    }

    /// Takes what an earlier process left: destinations, and batches that say what is there. The batches are of different
    /// epochs and refer to each other, so they are taken as one; each resource keeps its own epoch. `heard`: when the
    /// control plane confirmed it last, from which on negative answers age.
    pub(crate) fn restore(
        &mut self,
        targets: impl IntoIterator<Item = Target>,
        batches: impl IntoIterator<Item = discovery::Batch>,
        heard: Instant,
    ) -> Result<(), NotTaken> {
        for target in targets.into_iter().take(self.limit) {
            self.follows.entry(target).or_insert_with(|| Follow {
                asked: heard,
                used: Arc::default(),
            });
        }
        let (mut staged, mut epoch) = (Staged::default(), self.state.epoch);
        for batch in batches {
            epoch = epoch.max(batch.epoch);
            for resource in batch.resources {
                self.stage(&mut staged, resource, batch.epoch);
            }
        }
        self.refuse_dangling(&mut staged);
        let refused = self.settle(staged, heard);
        self.state.epoch = epoch;
        self.state.generation += 1;
        refused.first().map_or(Ok(()), |refused| Err(NotTaken::of(refused)))
    }

    /// Every destination that is followed.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.follows.keys()
    }

    /// Everything that is held, with its name.
    pub(crate) fn wires(&self) -> impl Iterator<Item = (Name, &Arc<Wire>)> {
        let state = &self.state;
        let named = |kind: Kind, key: String| Name { kind, key };
        let lookups = state
            .lookups
            .iter()
            .map(move |(t, found)| (named(Kind::Lookup, t.to_string()), &found.lookup.wire));
        let services = state
            .services
            .iter()
            .map(move |(key, held)| (named(Kind::Service, key.clone()), &held.wire));
        let endpoints = state
            .endpoints
            .iter()
            .map(move |(key, held)| (named(Kind::Endpoints, key.clone()), &held.wire));
        let inbound = state
            .inbound
            .iter()
            .map(move |held| (named(Kind::Inbound, INBOUND.into()), &held.wire));
        let bundles = state
            .bundles
            .iter()
            .map(move |held| (named(Kind::Bundles, BUNDLES.into()), &held.wire));
        let mesh = state
            .mesh
            .held
            .iter()
            .map(move |held| (named(Kind::Mesh, MESH.into()), &held.wire));
        let passes = state.passes.iter();
        let gateway = passes
            .clone()
            .flat_map(|passes| &passes.gateway)
            .map(move |held| (named(Kind::Gateway, GATEWAY.into()), &held.wire));
        let exported = passes
            .flat_map(|passes| &passes.exported)
            .map(move |(key, held)| (named(Kind::Exported, key.clone()), &held.wire));
        bundles
            .chain(mesh)
            .chain(exported)
            .chain(gateway)
            .chain(inbound)
            .chain(endpoints)
            .chain(services)
            .chain(lookups)
    }

    pub(super) fn wire(&self, name: &Name) -> Option<&Arc<Wire>> {
        let key = name.key.as_str();
        match name.kind {
            Kind::Lookup => self
                .state
                .lookups
                .get(&key.parse().ok()?)
                .map(|found| &found.lookup.wire),
            Kind::Service => self.state.services.get(key).map(|held| &held.wire),
            Kind::Endpoints => self.state.endpoints.get(key).map(|held| &held.wire),
            Kind::Inbound => self.state.inbound.as_ref().map(|held| &held.wire),
            Kind::Bundles => self.state.bundles.as_ref().map(|held| &held.wire),
            Kind::Mesh => self.state.mesh.held.as_ref().map(|held| &held.wire),
            Kind::Exported => self.state.passes.as_ref()?.exported.get(key).map(|held| &held.wire),
            Kind::Gateway => self.state.passes.as_ref()?.gateway.as_ref().map(|held| &held.wire),
            Kind::Cluster | Kind::Export => None,
        }
    }

    /// The destination that may be given up for another: one that was never answered first, then what was idle for longest.
    fn idlest(&self, since_start: Duration) -> Option<Target> {
        let idle = |(target, follow): (&Target, &Follow)| {
            let idle = since_start.saturating_sub(follow.used.last());
            let answered = self.state.lookups.contains_key(target);
            let enough = if answered { IDLE } else { UNANSWERED };
            (idle >= enough).then(|| ((!answered, idle), target.clone()))
        };
        self.follows.iter().filter_map(idle).max().map(|(_, target)| target)
    }

    fn forget(&mut self, target: &Target) {
        self.follows.remove(target);
        self.state.lookups.remove(target);
        self.state.notes.remove(&Name::lookup(target));
        self.sweep();
        self.state.generation += 1;
    }
}

#[cfg(test)]
mod tests;
