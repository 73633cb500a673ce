//! Gateway: how much of it others may take.
//!
//! In: who dials. Out: a place for the connection, one among strangers until it has asked for something that is exported, and
//! another one for as long as its endpoint is dialled; or that there are too many already.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::config::Settings;
use crate::connect::VANISHED;

/// Endpoints that one worker of a gateway dials at a time.
const DIALS: usize = 1024;
/// How long a connection through a gateway may carry nothing: kept ones of proxies are idle for less, and streams of apps may
/// be for long.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// Connections to a gateway's worker that have not asked for anything that is exported yet: each may have 32 KiB of a ClientHello.
/// Half of them may come from one address, which may be that of all pods of another cluster.
const STRANGERS: usize = 2048;

/// What one worker of a gateway holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of all workers together: each takes two files. The kernel gives each worker what it likes to (`SO_REUSEPORT`),
    /// so one may have many while others have room.
    pub connections: usize,
    /// Of these, such as have not asked for anything that is exported yet.
    pub strangers: usize,
    /// Of these, from one source: an IPv4 address, or a /64 of IPv6. Another cluster's pods may all come from one address, so
    /// those that are passed on are not counted so.
    pub per_source: usize,
    /// Endpoints that are being dialled.
    pub dials: usize,
    /// How long a connection may carry nothing either way.
    pub idle: Duration,
    /// How long a side may leave what it is sent unacknowledged, before what is carried makes it several times that.
    pub silence: Duration,
    /// How long it goes on to accept once it is told to end: so long may it take until nothing leads here any more.
    pub linger: Duration,
    /// How long connections may last once the process drains.
    pub drain: Duration,
}

/// How many connections all workers hold.
#[derive(Clone, Debug, Default)]
pub struct Open(Arc<AtomicUsize>);

/// What is taken.
#[derive(Debug)]
pub struct Bounds {
    limits: Limits,
    open: Open,
    dials: Cell<usize>,
    strangers: Cell<usize>,
    /// Of strangers.
    sources: RefCell<HashMap<IpAddr, usize>>,
}

/// A connection's place. Given back when dropped.
#[derive(Debug)]
pub struct Seat {
    bounds: Rc<Bounds>,
    /// Whence it comes, as long as it has not asked for anything that is exported.
    stranger: Option<IpAddr>,
}

/// A dial's place. Given back when dropped.
#[derive(Debug)]
pub struct Dial<'a>(&'a Bounds);

impl Limits {
    /// As the settings say, where a worker has so many places for connections.
    pub fn new(settings: &Settings, slots: usize) -> Self {
        Self {
            connections: slots.saturating_mul(settings.workers),
            strangers: STRANGERS.min(slots),
            per_source: (STRANGERS / 2).min(slots),
            dials: DIALS,
            idle: IDLE,
            silence: VANISHED,
            linger: settings.drain_min,
            drain: settings.drain,
        }
    }
}

impl Bounds {
    /// All free, but for what other workers hold of the connections.
    pub fn new(limits: Limits, open: Open) -> Rc<Self> {
        Rc::new(Self {
            limits,
            open,
            dials: Cell::new(0),
            strangers: Cell::new(0),
            sources: RefCell::default(),
        })
    }

    /// A stranger's place for a connection. `None`: there are too many, in all or from there.
    pub fn seat(self: &Rc<Self>, client: IpAddr) -> Option<Seat> {
        let (source, mut sources) = (source(client), self.sources.borrow_mut());
        let taken = sources.get(&source).copied().unwrap_or_default();
        if self.strangers.get() >= self.limits.strangers || taken >= self.limits.per_source {
            return None;
        }
        if !self.open.take(self.limits.connections) {
            return None;
        }
        sources.insert(source, taken + 1);
        self.strangers.set(self.strangers.get() + 1);
        Some(Seat {
            bounds: self.clone(),
            stranger: Some(source),
        })
    }

    /// A place for a dial. `None`: too many are under way.
    pub fn dial(&self) -> Option<Dial<'_>> {
        (self.dials.get() < self.limits.dials).then(|| {
            self.dials.set(self.dials.get() + 1);
            Dial(self)
        })
    }
}

impl Open {
    /// Takes one. `false`: there are so many already.
    fn take(&self, most: usize) -> bool {
        // Relaxed: nothing else is read by it.
        let one_more = |open| (open < most).then_some(open + 1);
        self.0.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    #[cfg(test)]
    fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// What connections are counted together by.
fn source(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        // Whoever has one address of a network of IPv6 has them all (RFC 4291 section 2.5.1).
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
    }
}

impl Seat {
    /// It has asked for something that is exported: it is no stranger any more.
    pub fn known(&mut self) {
        let Some(source) = self.stranger.take() else {
            return;
        };
        let bounds = &self.bounds;
        bounds.strangers.set(bounds.strangers.get() - 1);
        let mut sources = bounds.sources.borrow_mut();
        match sources.get_mut(&source) {
            Some(taken) if *taken > 1 => *taken -= 1,
            _ => drop(sources.remove(&source)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.known();
        self.bounds.open.give_back();
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        self.0.dials.set(self.0.dials.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 7,
        strangers: 5,
        per_source: 2,
        dials: 1,
        idle: Duration::from_secs(60),
        silence: Duration::from_secs(60),
        linger: Duration::ZERO,
        drain: Duration::from_secs(60),
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_takes_its_share_and_leaves_the_rest_to_others() {
        let bounds = Bounds::new(LIMITS, Open::default());
        let one = bounds.seat(ip("192.0.2.1")).unwrap();
        let _two = bounds.seat(ip("::ffff:192.0.2.1")).unwrap();
        assert!(bounds.seat(ip("192.0.2.1")).is_none());
        let _other = bounds.seat(ip("192.0.2.2")).unwrap();
        drop(one);
        assert!(bounds.seat(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn who_asked_for_something_that_is_exported_leaves_its_place_to_other_strangers() {
        let bounds = Bounds::new(LIMITS, Open::default());
        let mut seats: Vec<Seat> = (0..2).map(|_| bounds.seat(ip("192.0.2.1")).unwrap()).collect();
        assert!(bounds.seat(ip("192.0.2.1")).is_none());
        seats.iter_mut().for_each(Seat::known);
        for _ in 0..5 {
            let mut seat = bounds.seat(ip("192.0.2.1")).unwrap();
            seat.known();
            seats.push(seat);
        }
        assert!(bounds.seat(ip("192.0.2.2")).is_none(), "there is no room in all");
        seats.clear();
        assert_eq!((bounds.open.get(), bounds.strangers.get()), (0, 0));
    }

    #[test]
    fn all_sources_together_take_no_more_than_there_is_and_are_forgotten() {
        let bounds = Bounds::new(LIMITS, Open::default());
        let seats: Vec<Seat> = (1..=5)
            .map(|n| bounds.seat(IpAddr::from([192, 0, 2, n])).unwrap())
            .collect();
        assert!(bounds.seat(ip("192.0.2.6")).is_none());
        assert_eq!(
            bounds.sources.borrow().len(),
            5,
            "who was refused leaves nothing behind"
        );
        drop(seats);
        assert!(bounds.sources.borrow().is_empty());
        assert_eq!(bounds.open.get(), 0);
    }

    #[test]
    fn a_worker_has_whatever_others_leave_of_the_connections() {
        let open = Open::default();
        let [one, two] = [(); 2].map(|()| Bounds::new(LIMITS, open.clone()));
        let take = |bounds: &Rc<Bounds>, last| {
            let mut seat = bounds.seat(IpAddr::from([192, 0, 2, last]))?;
            seat.known();
            Some(seat)
        };
        let mut seats: Vec<Seat> = (1..=6).map(|last| take(&one, last).unwrap()).collect();
        let _seventh = take(&two, 7).unwrap();
        assert!(take(&one, 8).is_none() && take(&two, 8).is_none());
        assert!(two.sources.borrow().is_empty(), "who was refused leaves nothing behind");
        seats.pop();
        assert!(take(&two, 8).is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let bounds = Bounds::new(LIMITS, Open::default());
        let _seats = (
            bounds.seat(ip("2001:db8::1")).unwrap(),
            bounds.seat(ip("2001:db8::2:3")).unwrap(),
        );
        assert!(bounds.seat(ip("2001:db8::ffff:4")).is_none());
        assert!(bounds.seat(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn dials_have_places_of_their_own() {
        let bounds = Bounds::new(LIMITS, Open::default());
        let dial = bounds.dial().unwrap();
        assert!(bounds.dial().is_none());
        drop(dial);
        assert!(bounds.dial().is_some());
    }
}
