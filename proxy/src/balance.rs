//! Balance: which endpoint a request or an opaque stream goes to.
//!
//! In: a set of endpoints, where this pod runs, and how earlier attempts went. Out: one endpoint: a tier drawn by share
//! ([`tiers`]), the better of two at random within it ([`p2c`]) by latency and load ([`ewma`]), leaving out what cannot be
//! connected to ([`health`]), also because none of the gateways that it is behind can be ([`gateways`]). All of it belongs to
//! one worker. What is known of an endpoint is kept by its key, so it survives changes of the sets that it is in.

pub mod ewma;
pub mod gateways;
pub mod health;
pub mod p2c;
pub mod tiers;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::time::Instant;
use weft_model::endpoint::{Endpoint, EndpointSet, GlobalKey, Place};
use weft_model::inbound::Inbound;
use weft_model::locality::{Locality, Tier};
use weft_model::name::ServicePort;
use weft_model::reason::Reason;
use weft_model::sni;
use weft_model::traffic::Balance;

use crate::balance::ewma::Ewma;
use crate::balance::gateways::{Due, Gateway, Gateways};
use crate::balance::health::{Failure, Health};
use crate::balance::p2c::{Chance, choose};
use crate::balance::tiers::{Seen, Tiers};
use crate::observe::metrics::{Counter, Labels, Metrics, Series, Spill};
use crate::pool::{Pool, Pools};

/// What an endpoint is taken to cost before anybody knows.
const UNKNOWN_LATENCY: Duration = Duration::from_millis(10);
/// How often a set with ejected endpoints is searched for one that is due for a probe.
const PROBE_LOOK: Duration = Duration::from_millis(50);

/// The farthest tier that a preference alone tells apart.
const FARTHEST: Tier = Tier(2);

/// All that one worker knows of endpoints, whichever sets they are in.
#[derive(Debug)]
pub struct Endpoints {
    /// The worker's source of chance.
    pub chance: Chance,
    /// The worker's pools.
    pub pools: Pools,
    /// The worker's metrics.
    pub metrics: Rc<Metrics>,
    /// How many workers the process has.
    pub workers: Cell<usize>,
    /// Rises with every change of any endpoint's health.
    changes: Cell<u64>,
    loads: RefCell<HashMap<GlobalKey, Weak<Load>>>,
    remotes: RefCell<HashMap<RemoteKey, Weak<Remote>>>,
    gateways: RefCell<HashMap<(String, SocketAddr), Weak<Gateway>>>,
}

/// An endpoint, and the namespace and name of the Service that leads there (empty for a pod addressed directly): its SNI.
type RemoteKey = (GlobalKey, String, String);

/// What is known of an endpoint: latency, load, health.
#[derive(Debug)]
struct Load {
    ewma: Ewma,
    in_flight: Cell<u32>,
    health: Health,
    /// A connection is being made for which nobody waits any more.
    straggles: Cell<bool>,
}

/// An endpoint as reached through one Service: everything that a request needs, resolved.
#[derive(Debug)]
pub struct Remote {
    /// What discovery says.
    pub endpoint: Arc<Endpoint>,
    /// What it is known by.
    pub key: GlobalKey,
    /// The name that the handshake sends. `None`: plaintext, or a name that cannot be sent.
    pub sni: Option<ServerName<'static>>,
    /// What is dialled instead of its address. `None`: it is in our own network.
    pub gateways: Option<Gateways>,
    /// Its connections.
    pub pool: Rc<Pool>,
    service: Option<ServicePort>,
    load: Rc<Load>,
    /// By route template: few, and the one in use is in front.
    series: RefCell<Vec<(Rc<str>, Rc<Series>)>>,
}

/// Chooses among the endpoints of one set.
#[derive(Debug)]
pub struct Balancer {
    /// The set, as discovery says it.
    pub set: Arc<EndpointSet>,
    /// The Service that it is balanced for. `None`: a pod addressed directly.
    pub service: Option<ServicePort>,
    endpoints: Rc<Endpoints>,
    locality: Locality,
    balance: Balance,
    here: Place,
    /// Where round robin is.
    turn: Cell<usize>,
    /// The farthest tier that metrics speak of.
    farthest: Cell<Tier>,
    members: Vec<(Tier, Rc<Remote>)>,
    /// The nearest tier that this set has had endpoints in.
    home: Option<Tier>,
    tiers: RefCell<Tiers>,
    /// The state of health that `tiers` was made of.
    seen: Cell<u64>,
    /// When to look next for an endpoint that is due for a probe. `None`: none is ejected.
    probe_at: Cell<Option<Instant>>,
    /// The counters of what went farther, by tier and cause: few.
    spills: RefCell<Vec<(Tier, Spill, Counter)>>,
}

/// One choice.
#[derive(Debug)]
pub struct Picked {
    /// The endpoint.
    pub remote: Rc<Remote>,
    /// How far it is.
    pub tier: Tier,
}

/// A request or stream on its way to an endpoint. Counts as load until dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Rc<Load>,
}

/// The one connection to an endpoint that may be made although nobody waits for it any more.
#[derive(Debug)]
pub struct Straggler {
    load: Rc<Load>,
}

impl Endpoints {
    /// Knows nothing yet.
    pub fn new(seed: u64, metrics: Rc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            chance: Chance::new(seed),
            pools: Pools::default(),
            metrics,
            workers: Cell::new(1),
            changes: Cell::new(0),
            loads: RefCell::default(),
            remotes: RefCell::default(),
            gateways: RefCell::default(),
        })
    }

    /// Forgets endpoints that are in no set any more.
    pub fn sweep(&self) {
        self.loads.borrow_mut().retain(|_, load| load.strong_count() > 0);
        self.remotes.borrow_mut().retain(|_, remote| remote.strong_count() > 0);
        self.gateways
            .borrow_mut()
            .retain(|_, gateway| gateway.strong_count() > 0);
    }

    /// The endpoint as this worker knows it; `fair`: what a new one is taken to cost.
    fn remote(&self, endpoint: &Arc<Endpoint>, service: Option<&ServicePort>, fair: Duration) -> Rc<Remote> {
        let (namespace, name) = service.map_or(("", ""), |service| (&service.namespace, &service.name));
        let global = endpoint.global_key();
        let key = (global, namespace.to_owned(), name.to_owned());
        let mut remotes = self.remotes.borrow_mut();
        let known = remotes.get(&key).and_then(Weak::upgrade);
        if let Some(known) = &known
            && (Arc::ptr_eq(&known.endpoint, endpoint) || known.endpoint == *endpoint)
        {
            return known.clone();
        }
        // Connections lead to an address and an identity: where either is another, they are not for the new endpoint. Through
        // which gateway they do is all the same.
        let is_behind = endpoint.gateways.is_some();
        let same = known.filter(|k| {
            k.endpoint.address == endpoint.address
                && k.endpoint.identity == endpoint.identity
                && k.gateways.is_some() == is_behind
        });
        let pool = match (same, is_behind) {
            (Some(known), _) => known.pool.clone(),
            (None, true) => self.pools.open_behind_gateways(),
            (None, false) => self.pools.open(),
        };
        let remote = Rc::new(Remote {
            sni: sni_of(endpoint, service),
            gateways: endpoint
                .gateways
                .as_deref()
                .map(|addresses| self.gateways(&endpoint.place.cluster, addresses)),
            pool,
            service: service.cloned(),
            load: self.load(global, fair),
            series: RefCell::default(),
            endpoint: endpoint.clone(),
            key: global,
        });
        remotes.insert(key, Rc::downgrade(&remote));
        remote
    }

    fn load(&self, key: GlobalKey, fair: Duration) -> Rc<Load> {
        let mut loads = self.loads.borrow_mut();
        if let Some(load) = loads.get(&key).and_then(Weak::upgrade) {
            return load;
        }
        let ewma = Ewma::new(fair, Instant::now());
        let load = Rc::new(Load {
            ewma,
            in_flight: Cell::new(0),
            health: Health::default(),
            straggles: Cell::new(false),
        });
        loads.insert(key, Rc::downgrade(&load));
        load
    }

    /// The mean cost of those endpoints that are known already, so that a new one is neither flooded nor shunned.
    fn fair(&self, endpoints: &[Arc<Endpoint>]) -> Duration {
        let loads = self.loads.borrow();
        let now = Instant::now();
        let known = endpoints
            .iter()
            .filter_map(|e| loads.get(&e.global_key()))
            .filter_map(Weak::upgrade);
        let (sum, count) = known.fold((0.0, 0.0), |(sum, count), load| {
            (sum + load.ewma.cost(now), count + 1.0)
        });
        if count == 0.0 {
            UNKNOWN_LATENCY
        } else {
            Duration::from_secs_f64(sum / count)
        }
    }
}

fn sni_of(endpoint: &Endpoint, service: Option<&ServicePort>) -> Option<ServerName<'static>> {
    let trust_domain = endpoint.identity.as_ref()?.trust_domain().as_str();
    let name = match service {
        Some(service) => sni::of_service(endpoint.key, &service.name, &service.namespace, trust_domain),
        None => sni::of_pod(endpoint.key, &endpoint.namespace, trust_domain),
    };
    ServerName::try_from(name).ok()
}

impl Remote {
    /// Counts a request or stream on its way there.
    pub fn begin(&self) -> InFlight {
        self.load.in_flight.set(self.load.in_flight.get() + 1);
        InFlight {
            load: self.load.clone(),
        }
    }

    /// Leave to go on making a connection for which nobody waits any more. `None`: another has it.
    pub fn straggler(&self) -> Option<Straggler> {
        let load = self.load.clone();
        (!load.straggles.replace(true)).then_some(Straggler { load })
    }

    /// Whether it may be chosen.
    pub fn is_well(&self) -> bool {
        self.load.health.is_well() && !self.is_cut_off()
    }

    /// The metrics of traffic there under a rule's path template. Resolved once.
    pub fn series(&self, metrics: &Metrics, own: Option<&Inbound>, template: &Rc<str>) -> Rc<Series> {
        let mut known = self.series.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(key, _)| Rc::ptr_eq(key, template)) {
            return series.clone();
        }
        let labels = own.map(|own| Labels::outbound(own, &self.endpoint, self.service.as_ref()));
        let series = metrics.series(&labels.unwrap_or_default(), template);
        // Templates change with routes; those of old ones need not be kept.
        known.truncate(31);
        known.insert(0, (template.clone(), series.clone()));
        series
    }

    fn cost(&self, now: Instant) -> f64 {
        self.load.ewma.cost(now) * f64::from(self.load.in_flight.get() + 1)
    }
}

impl InFlight {
    /// Tells how long the answer took to begin, once there was a connection. `first`: it was the first on its connection.
    pub fn observe(&self, took: Duration, first: bool, now: Instant) {
        match first {
            true => self.load.ewma.observe_first(took, now),
            false => self.load.ewma.observe(took, now),
        }
    }

    /// Tells that there was no answer after so long.
    pub fn observe_none(&self, waited: Duration, now: Instant) {
        self.load.ewma.observe_at_least(waited, now);
    }
}

impl Drop for Straggler {
    fn drop(&mut self) {
        self.load.straggles.set(false);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.set(self.load.in_flight.get().saturating_sub(1));
    }
}

impl Balancer {
    /// Balances over a set, for a client at `here`. `previous`: the balancer of the same set before it changed.
    pub fn new(
        endpoints: &Rc<Endpoints>,
        set: Arc<EndpointSet>,
        service: Option<ServicePort>,
        (locality, balance): (&Locality, Balance),
        here: &Place,
        previous: Option<&Self>,
    ) -> Self {
        let locality = locality.clone();
        let fair = endpoints.fair(&set.endpoints);
        let member = |endpoint: &Arc<Endpoint>| {
            (
                locality.tier(here, &endpoint.place),
                endpoints.remote(endpoint, service.as_ref(), fair),
            )
        };
        let members: Vec<_> = set.endpoints.iter().map(member).collect();
        let nearest = members.iter().map(|(tier, _)| *tier).min();
        let last = members.iter().map(|(tier, _)| *tier).max();
        let weighed = locality.distribution(here).is_some();
        let home = nearest
            .into_iter()
            .chain(previous.and_then(|previous| previous.home))
            .min()
            // Where places have shares, none of them is far.
            .filter(|_| !weighed);
        let before = previous.map(|previous| previous.farthest.get());
        let balancer = Self {
            set,
            service,
            endpoints: endpoints.clone(),
            // Metrics of an earlier preference must not go on saying what was.
            // Of other clusters, what there is.
            farthest: Cell::new(
                locality
                    .farthest(here)
                    .max(before.unwrap_or(FARTHEST))
                    .max(last.unwrap_or(FARTHEST)),
            ),
            turn: Cell::new(endpoints.chance.below(members.len())),
            locality,
            balance,
            here: here.clone(),
            members,
            home,
            tiers: RefCell::default(),
            seen: Cell::new(0),
            probe_at: Cell::new(None),
            spills: RefCell::default(),
        };
        balancer.look();
        balancer
    }

    /// Chooses an endpoint other than those that were tried. `None`: there is no other.
    pub fn pick(&self, tried: &[GlobalKey], now: Instant) -> Option<Picked> {
        if self.seen.get() != self.endpoints.changes.get() {
            self.look();
        }
        let chance = &self.endpoints.chance;
        let member = |place: u32| &self.members[place as usize].1;
        let cost = |place: u32| match self.balance {
            Balance::PeakEwma => member(place).cost(now),
            Balance::LeastRequest => f64::from(member(place).load.in_flight.get()),
            Balance::RoundRobin | Balance::Random => chance.unit(),
        };
        let untried = |place: &u32| !tried.contains(&member(*place).key);
        let tiers = self.tiers.borrow();
        let (tier, place) = tiers.draw(chance, |places| {
            let chosen = match self.balance {
                Balance::PeakEwma | Balance::LeastRequest => choose(places.len(), chance, |i| cost(places[i]))?,
                Balance::RoundRobin => self.next(places.len())?,
                Balance::Random => chance.below(places.len()),
            };
            let chosen = *places.get(chosen)?;
            if tried.is_empty() || untried(&chosen) {
                return Some(chosen);
            }
            // Only after a failure, so this may take its time.
            places
                .iter()
                .copied()
                .filter(untried)
                .min_by(|a, b| cost(*a).total_cmp(&cost(*b)))
        })?;
        self.count_spill(tier, &tiers);
        Some(Picked {
            remote: member(place).clone(),
            tier,
        })
    }

    /// Whose turn it is, of so many.
    fn next(&self, n: usize) -> Option<usize> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn.checked_rem(n)
    }

    /// Whether it spreads traffic so.
    pub fn spreads(&self, locality: &Locality, balance: Balance) -> bool {
        self.balance == balance && self.locality == *locality
    }

    /// What is due to be tried again. The caller connects to it once, and says how that went.
    pub fn due_for_probe(&self, now: Instant) -> Option<Due> {
        // Asked with every request, so it looks only now and then.
        let look_at = self.probe_at.get()?;
        if now < look_at {
            return None;
        }
        self.probe_at.set(Some(now + PROBE_LOOK));
        let ill = || {
            let members = self.members.iter().map(|(_, remote)| remote);
            members.filter(|remote| !remote.is_well())
        };
        let endpoint = ill().find(|remote| remote.load.health.take_probe(now));
        match endpoint {
            Some(remote) => Some(Due::Endpoint(remote.clone())),
            None => gateways::due(
                ill().filter(|remote| remote.load.health.is_well()),
                &self.endpoints.chance,
                now,
            ),
        }
    }

    /// Says that an endpoint could not be tried, for a reason that says nothing of it.
    pub fn untried(&self, remote: &Remote, now: Instant) {
        remote.load.health.give_probe_back(0, now);
    }

    /// Says that an endpoint could be connected to.
    pub fn connected(&self, remote: &Remote, now: Instant) {
        if remote.load.health.succeeded(now) {
            self.endpoints.changes.set(self.endpoints.changes.get() + 1);
            tracing::info!(endpoint = %remote.endpoint.key, pod = %remote.endpoint.pod, "endpoint is back");
        }
    }

    /// Says that an endpoint could not be connected to, or that no byte reached its app.
    pub fn failed(&self, remote: &Remote, failure: Failure, reason: Reason, now: Instant) {
        let ejected = self.members.iter().filter(|(_, remote)| !remote.is_well()).count();
        // Never more than half on a mere doubt: then it is rather our own network.
        let spared = (ejected + 1) * 2 > self.members.len();
        if !remote
            .load
            .health
            .failed(failure, spared, now, self.endpoints.chance.unit())
        {
            return;
        }
        self.endpoints.changes.set(self.endpoints.changes.get() + 1);
        tracing::info!(endpoint = %remote.endpoint.key, pod = %remote.endpoint.pod, %reason, "endpoint is ejected");
        if let Some(service) = &self.service {
            self.endpoints.metrics.ejected(service, reason);
        }
    }

    fn look(&self) {
        let seen: Vec<Seen> = self.members.iter().map(|(tier, remote)| see(*tier, remote)).collect();
        *self.tiers.borrow_mut() = Tiers::new(&self.locality, &self.here, &seen);
        self.seen.set(self.endpoints.changes.get());
        self.probe_at.set(
            seen.iter()
                .any(|s| !s.well)
                .then(|| self.probe_at.get().unwrap_or_else(Instant::now)),
        );
        let Some(service) = &self.service else { return };
        // All tiers: the preference may have told more of them apart before.
        for tier in 0..=self.farthest.get().0 {
            let here: Vec<&Seen> = seen.iter().filter(|s| s.tier == Tier(tier)).collect();
            let (all, healthy) = self.endpoints.metrics.endpoints(service, &self.set.subset, tier);
            all.set(here.len() as f64);
            healthy.set(here.iter().filter(|s| s.well && !s.draining).count() as f64);
        }
    }

    /// Counts what goes farther than this set has been.
    fn count_spill(&self, tier: Tier, tiers: &Tiers) {
        let (Some(home), Some(service)) = (self.home, &self.service) else {
            return;
        };
        if tier > home {
            let absent = tiers.nearest() > Some(home);
            let why = if absent { Spill::Absent } else { Spill::Unhealthy };
            let mut spills = self.spills.borrow_mut();
            if let Some((_, _, counter)) = spills.iter().find(|(t, w, _)| (*t, *w) == (tier, why)) {
                return counter.add(1);
            }
            let counter = self.endpoints.metrics.spillover(service, &self.set.subset, tier.0, why);
            counter.add(1);
            spills.push((tier, why, counter));
        }
    }
}

fn see(tier: Tier, remote: &Remote) -> Seen {
    Seen {
        tier,
        draining: remote.endpoint.draining,
        well: remote.is_well(),
    }
}

#[cfg(test)]
mod tests;
