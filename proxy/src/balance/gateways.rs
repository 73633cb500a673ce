//! Gateways: which of those that an endpoint is behind a connection goes through.
//!
//! In: the addresses that discovery names, and how earlier connections through them went. Out: one that is not tried yet:
//! of two at random the one with fewer dials under way, leaving out what cannot be connected to. A gateway is known by its
//! cluster and address, and all endpoints behind it know the same of it: one that is gone need not be found out by each. Two
//! clusters that name the same address have two gateways: what one leads to nobody by says nothing of the other's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use tokio::time::Instant;
use weft_model::reason::Reason;

use crate::balance::health::{Failure, Health};
use crate::balance::p2c::{Chance, choose};
use crate::balance::{Endpoints, Remote};
use crate::observe::metrics::Metrics;

/// So many probes in a row that say nothing of a gateway double the wait for the next one: up to four seconds.
const UNCLEAR_MOST: u32 = 3;

/// A gateway of another network, as one worker knows it.
#[derive(Debug)]
pub struct Gateway {
    /// Where to dial.
    pub address: SocketAddr,
    health: Health,
    dials: Cell<u32>,
    /// Probes in a row that have said nothing of it.
    unclear: Cell<u32>,
}

/// The gateways that an endpoint is behind.
#[derive(Debug)]
pub struct Gateways(Box<[Rc<Gateway>]>);

/// What has been left alone for long enough to be connected to once, to see whether it is back.
#[derive(Debug)]
pub enum Due {
    /// An endpoint.
    Endpoint(Rc<Remote>),
    /// A gateway, and an endpoint behind it.
    Gateway(Rc<Remote>, Rc<Gateway>),
}

/// A dial through a gateway. Counts as load until dropped.
#[derive(Debug)]
pub struct Dialling(Rc<Gateway>);

impl Gateway {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            health: Health::default(),
            dials: Cell::new(0),
            unclear: Cell::new(0),
        }
    }

    /// Counts a dial.
    pub fn dialling(self: &Rc<Self>) -> Dialling {
        self.dials.set(self.dials.get() + 1);
        Dialling(self.clone())
    }

    /// It could not be connected to, or led nowhere. Returns whether it is left alone from now on. Never spared, also where
    /// it is the last: what is behind it is taken for unwell then, and what is elsewhere is chosen.
    pub(super) fn failed(&self, failure: Failure, now: Instant, jitter: f64) -> bool {
        self.unclear.set(0);
        self.health.failed(failure, false, now, jitter)
    }

    /// A connection went through it. Returns whether it was left alone until now.
    pub(super) fn succeeded(&self, now: Instant) -> bool {
        self.unclear.set(0);
        self.health.succeeded(now)
    }

    /// A probe could not be made, for a reason that says nothing of it.
    pub(super) fn untried(&self, now: Instant) {
        self.health.give_probe_back(0, now);
    }

    /// A probe was made, and how it ended may be the endpoint's fault. The next one is later each time: it may be the gateway's.
    pub(super) fn unclear(&self, now: Instant) {
        self.health.give_probe_back(self.unclear.get(), now);
        self.unclear.set((self.unclear.get() + 1).min(UNCLEAR_MOST));
    }
}

impl Gateways {
    pub(super) fn new(gateways: impl Iterator<Item = Rc<Gateway>>) -> Self {
        Self(gateways.collect())
    }

    /// Whether any may be chosen.
    pub fn any_is_well(&self) -> bool {
        self.0.iter().any(|gateway| gateway.health.is_well())
    }

    /// Chooses one other than those that were tried; one that is not well only as the first, where none is.
    pub fn pick(&self, tried: &[Rc<Gateway>], chance: &Chance) -> Option<Rc<Gateway>> {
        let untried = |gateway: &&Rc<Gateway>| !tried.iter().any(|one| Rc::ptr_eq(one, gateway));
        let well = self.0.iter().filter(|gateway| gateway.health.is_well());
        let mut open: Vec<&Rc<Gateway>> = well.filter(untried).collect();
        if open.is_empty() && tried.is_empty() {
            open = self.0.iter().collect();
        }
        let at = choose(open.len(), chance, |at| f64::from(open[at].dials.get()))?;
        open.get(at).map(|gateway| Rc::clone(gateway))
    }

    /// One that has been left alone for long enough. The caller connects through it once, and says how that went.
    pub fn due_for_probe(&self, now: Instant) -> Option<Rc<Gateway>> {
        let mut all = self.0.iter();
        all.find(|gateway| gateway.health.take_probe(now)).cloned()
    }
}

impl Endpoints {
    /// A cluster's gateways of these addresses as this worker knows them.
    pub(super) fn gateways(&self, cluster: &str, addresses: &[SocketAddr]) -> Gateways {
        let mut known = self.gateways.borrow_mut();
        let gateways = addresses.iter().map(|address| {
            let key = (cluster.to_owned(), *address);
            known.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
                let gateway = Rc::new(Gateway::new(*address));
                known.insert(key, Rc::downgrade(&gateway));
                gateway
            })
        });
        Gateways::new(gateways)
    }

    /// Says that a connection went through a gateway.
    pub fn gateway_connected(&self, gateway: &Gateway, now: Instant) {
        if gateway.succeeded(now) {
            self.changes.set(self.changes.get() + 1);
            tracing::info!(gateway = %gateway.address, "gateway is back");
        }
    }

    /// Says that a gateway could not be connected to, or has led nowhere.
    pub fn gateway_failed(&self, gateway: &Gateway, failure: Failure, reason: Reason, now: Instant) {
        if gateway.failed(failure, now, self.chance.unit()) {
            self.changes.set(self.changes.get() + 1);
            tracing::info!(gateway = %gateway.address, %reason, "gateway is left alone for a while");
        }
    }

    /// Says that a gateway could not be tried, for a reason that says nothing of it.
    pub fn gateway_untried(&self, gateway: &Gateway, now: Instant) {
        gateway.untried(now);
    }

    /// Says that a gateway was tried, and that nothing is known of it by that.
    pub fn gateway_unclear(&self, gateway: &Gateway, now: Instant) {
        gateway.unclear(now);
    }
}

impl Remote {
    /// Whether none of the gateways that it is behind may be chosen.
    pub(super) fn is_cut_off(&self) -> bool {
        self.gateways.as_ref().is_some_and(|gateways| !gateways.any_is_well())
    }

    /// Counts a try to get there through a gateway. `failed`: why it did not.
    pub fn went_through(&self, metrics: &Metrics, failed: Option<Reason>) {
        if let Some(service) = &self.service {
            metrics.went_through(service, failed);
        }
    }
}

/// A gateway that is due among those of endpoints that are cut off, and one of these at random: else one that is itself
/// gone could stand for all that are behind the same gateways.
pub(super) fn due<'a>(cut_off: impl Iterator<Item = &'a Rc<Remote>>, chance: &Chance, now: Instant) -> Option<Due> {
    let cut_off: Vec<&Rc<Remote>> = cut_off.collect();
    let remote = *cut_off.get(chance.below(cut_off.len()))?;
    let gateway = remote.gateways.as_ref()?.due_for_probe(now)?;
    Some(Due::Gateway(remote.clone(), gateway))
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.dials.set(self.0.dials.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;
    use std::time::Duration;

    use super::*;

    const HALF: f64 = 0.5;

    fn gateways(n: u8) -> Gateways {
        let gateway = |last| Rc::new(Gateway::new(([192, 0, 2, last], 15_443).into()));
        Gateways::new((0..n).map(gateway))
    }

    fn hits(gateways: &Gateways) -> Vec<u32> {
        let chance = Chance::new(7);
        let mut hits = vec![0; gateways.0.len()];
        for _ in 0..3000 {
            let picked = gateways.pick(&[], &chance).unwrap();
            hits[gateways.0.iter().position(|known| Rc::ptr_eq(known, &picked)).unwrap()] += 1;
        }
        hits
    }

    #[tokio::test(start_paused = true)]
    async fn all_take_their_share_and_one_that_is_slow_to_answer_takes_less() {
        let three = gateways(3);
        assert!(
            hits(&three).iter().all(|n| (800..1200).contains(n)),
            "{:?}",
            hits(&three)
        );
        let slow = three.0[1].dialling();
        assert_eq!(hits(&three)[1], 0, "each time beside one without a dial");
        drop(slow);
        assert!(hits(&three)[1] > 800);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_well_is_left_alone_until_a_probe_went_through_it() {
        let (two, now) = (gateways(2), Instant::now());
        assert!(two.0[0].failed(Failure::Proof, now, HALF));
        assert_eq!(hits(&two)[0], 0);
        assert!(two.any_is_well());
        assert!(two.due_for_probe(now).is_none(), "not yet");
        let later = now + Duration::from_secs(1);
        let probed = two.due_for_probe(later).unwrap();
        assert!(Rc::ptr_eq(&probed, &two.0[0]));
        assert!(two.due_for_probe(later).is_none(), "one probe is under way");
        assert_eq!(hits(&two)[0], 0, "nor is it chosen meanwhile");
        assert!(probed.succeeded(later));
        assert!(hits(&two)[0] > 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_probes_say_nothing_is_probed_ever_more_seldom_until_one_says_something() {
        let (one, mut now) = (gateways(1), Instant::now());
        let gateway = &one.0[0];
        let mut wait = |says: &dyn Fn(Instant)| {
            says(now);
            let began = now;
            while one.due_for_probe(now).is_none() {
                now += Duration::from_millis(100);
            }
            now - began
        };
        let first = wait(&|now| _ = gateway.failed(Failure::Proof, now, HALF));
        let waits: Vec<Duration> = (0..8).map(|_| wait(&|now| gateway.unclear(now))).collect();
        // One endpoint that says nothing keeps a gateway that is back from nobody for longer.
        let longest = Duration::from_secs(4);
        assert_eq!(waits[0], first, "a single one says nothing");
        assert!(waits.windows(2).all(|w| w[1] > w[0] || w[1] == longest), "{waits:?}");
        assert_eq!(waits[7], longest);
        assert_eq!(wait(&|now| gateway.untried(now)), first, "it was not asked");
        let again = wait(&|now| {
            gateway.succeeded(now);
            gateway.failed(Failure::Proof, now, HALF);
            assert!(one.due_for_probe(now + longest).is_some());
            gateway.unclear(now);
        });
        assert_eq!(again, first);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_tried_is_not_tried_again_and_what_is_not_well_only_first() {
        let (two, chance, now) = (gateways(2), Chance::new(7), Instant::now());
        let first = two.pick(&[], &chance).unwrap();
        let second = two.pick(from_ref(&first), &chance).unwrap();
        assert!(!Rc::ptr_eq(&first, &second));
        assert!(two.pick(&[first.clone(), second.clone()], &chance).is_none());
        assert!(second.failed(Failure::Proof, now, HALF));
        assert!(two.pick(from_ref(&first), &chance).is_none());
        assert!(first.failed(Failure::Proof, now, HALF));
        assert!(!two.any_is_well());
        assert!(two.pick(&[], &chance).is_some(), "there is nothing better");
    }

    #[test]
    fn where_there_is_no_gateway_there_is_no_way() {
        let none = gateways(0);
        assert!(!none.any_is_well());
        assert!(none.pick(&[], &Chance::new(7)).is_none());
    }
}
