//! What each caller may have of an admin server, so that none keeps the others out: connections, and large answers that it is
//! slow to read.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::{Limits, Response};
use crate::addresses::{Addresses, Place};

/// Answers of no more bytes are not counted: the bound of connections is enough for them, and probes get no others.
const SMALL: usize = 64 << 10;

/// Counts what all callers have.
#[derive(Debug)]
pub(super) struct Callers {
    hosts: Addresses<Held>,
    /// Where pods' addresses are routed, somebody outside may have a /64 of IPv6 for himself.
    networks: Addresses<()>,
    held: Arc<Held>,
    /// So many bytes at most.
    large: usize,
}

/// Bytes of large answers that are held.
#[derive(Debug, Default)]
pub(super) struct Held(AtomicUsize);

/// A part of them: one answer.
#[derive(Debug)]
struct Share {
    of: Arc<Held>,
    bytes: usize,
}

/// An answer, counted for as long as it is held.
struct Counted {
    body: Bytes,
    _shares: [Share; 2],
}

impl Callers {
    /// Nobody yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            hosts: Addresses::of_hosts(limits.per_address),
            networks: Addresses::new((limits.connections * 3 / 4).max(limits.per_address)),
            held: Arc::default(),
            large: limits.large,
        }
    }

    /// A place for one connection more. `None`: its address or its network has too many.
    pub(super) fn take(&self, address: IpAddr) -> Option<(Place<Held>, Place<()>)> {
        Some((self.hosts.take(address)?, self.networks.take(address)?))
    }

    /// A response whose body is counted until it is gone, if it is large. `None`: it would be too much.
    pub(super) fn hold(&self, response: Response, of_address: &Arc<Held>) -> Option<Response> {
        let bytes = response.body().len();
        if bytes <= SMALL {
            return Some(response);
        }
        let shares = [
            self.held.add(bytes, self.large)?,
            of_address.add(bytes, self.large / 2)?,
        ];
        Some(response.map(|body| Bytes::from_owner(Counted { body, _shares: shares })))
    }
}

impl Held {
    /// Counts one more, within a bound. One alone may be larger than that.
    fn add(self: &Arc<Self>, bytes: usize, most: usize) -> Option<Share> {
        let more = |held: usize| Some(held.saturating_add(bytes)).filter(|all| held == 0 || *all <= most);
        let counted = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then(|| Share {
            of: self.clone(),
            bytes,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(limits: Limits) -> Callers {
        Callers::new(&limits)
    }

    #[test]
    fn addresses_of_one_v6_network_keep_out_neither_each_other_nor_other_networks() {
        let callers = callers(Limits {
            connections: 16,
            per_address: 4,
            ..Limits::default()
        });
        let take = |address: &str| callers.take(address.parse().unwrap());
        let of_host = |host: &str| (0..5).map_while(|_| take(host)).collect::<Vec<_>>();
        let first = of_host("2001:db8::1");
        assert_eq!(first.len(), 4);
        // A pod's node is of the same network.
        let rest: Vec<_> = ["2001:db8::2", "2001:db8::3", "2001:db8::4"].map(of_host).into();
        assert_eq!(rest.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 0]);
        assert!(take("2001:db8:0:1::1").is_some());
        drop(first);
        assert!(take("2001:db8::4").is_some());
    }

    #[test]
    fn large_answers_are_held_up_to_a_bound_of_one_address_up_to_half_of_it_and_small_ones_always() {
        let callers = callers(Limits {
            large: 8 << 20,
            ..Limits::default()
        });
        let [one, other, third] = [0; 3].map(|_| Arc::new(Held::default()));
        let hold = |mib: usize, of: &Arc<Held>| callers.hold(Response::new(vec![b'x'; mib << 20].into()), of);
        let mut held = vec![hold(2, &one).unwrap(), hold(2, &one).unwrap()];
        assert!(hold(1, &one).is_none());
        held.push(hold(3, &other).unwrap());
        assert!(hold(2, &third).is_none());
        held.push(hold(1, &third).unwrap());
        let small = Response::new(vec![b'x'; SMALL].into());
        assert!(callers.hold(small, &one).is_some());

        // A part of a body is held as the whole.
        let mut body = held.remove(0).into_body();
        drop(body.split_to(1 << 20));
        assert!(hold(1, &one).is_none());
        drop(body);
        assert!(hold(1, &one).is_some());
        held.clear();
        assert_eq!(callers.held.0.load(Ordering::Relaxed), 0);
        assert!(hold(9, &one).is_some(), "one alone may be larger");
    }
}
