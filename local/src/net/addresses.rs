//! Which addresses pods have. Pure.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::PodAddresses;

/// Pods of one mesh at once, however large the range.
const MOST: u32 = 1 << 16;

/// The addresses of a range, each given out by its index; index 1 is the node's.
#[derive(Debug)]
pub(crate) struct Pool {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
    used: BTreeSet<u32>,
    next: u32,
    end: u32,
}

impl Pool {
    /// A pool with all addresses free.
    pub(crate) fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> io::Result<Self> {
        let bits_v4 = 32 - u32::from(v4.prefix_len());
        let bits_v6 = v6.map_or(128, |range| 128 - u32::from(range.prefix_len()));
        if bits_v4 < 3 || bits_v6 < 3 {
            let message = "the range of pod addresses is too small: use at least a /29 and a /125";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // The last address of an IPv4 range is its broadcast address.
        let end = MOST
            .min((1_u64 << bits_v4.min(16)) as u32 - 1)
            .min(1_u32 << bits_v6.min(16));
        Ok(Self {
            v4: v4.trunc(),
            v6: v6.map(|range| range.trunc()),
            used: BTreeSet::new(),
            next: 2,
            end,
        })
    }

    /// The node's addresses.
    pub(crate) fn gateway(&self) -> PodAddresses {
        self.at(1)
    }

    /// A free index and its addresses. What was just given back comes last: neighbours may still remember it.
    pub(crate) fn take(&mut self) -> io::Result<(u32, PodAddresses)> {
        let order = (self.next..self.end).chain(2..self.next);
        let Some(index) = order.into_iter().find(|index| !self.used.contains(index)) else {
            let message = format!("all pod addresses of {} are in use; use a larger --pod-cidr", self.v4);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
        };
        self.used.insert(index);
        self.next = index + 1;
        Ok((index, self.at(index)))
    }

    /// The index is free again.
    pub(crate) fn give_back(&mut self, index: u32) {
        self.used.remove(&index);
    }

    fn at(&self, index: u32) -> PodAddresses {
        let v4 = Ipv4Addr::from(u32::from(self.v4.network()) + index);
        let v6 = self
            .v6
            .map(|range| Ipv6Addr::from(u128::from(range.network()) + u128::from(index)));
        PodAddresses { v4, v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_until_given_back_and_then_come_last() {
        let mut pool = Pool::new("10.9.0.0/29".parse().unwrap(), Some("fd00::/64".parse().unwrap())).unwrap();
        assert_eq!(pool.gateway().v4, Ipv4Addr::new(10, 9, 0, 1));
        let all: Vec<_> = std::iter::from_fn(|| pool.take().ok()).collect();
        let last: Vec<_> = all.iter().map(|(_, addresses)| addresses.v4.octets()[3]).collect();
        assert_eq!(last, [2, 3, 4, 5, 6]);
        assert_eq!(all[0].1.v6, Some("fd00::2".parse().unwrap()));
        pool.give_back(all[1].0);
        assert_eq!(pool.take().unwrap().1, all[1].1);
        assert!(pool.take().is_err());
    }

    #[test]
    fn an_address_just_freed_is_not_the_next_one() {
        let mut pool = Pool::new("10.9.0.0/16".parse().unwrap(), None).unwrap();
        let (index, _) = pool.take().unwrap();
        pool.give_back(index);
        assert_ne!(pool.take().unwrap().0, index);
    }

    #[test]
    fn a_range_without_room_is_refused() {
        assert!(Pool::new("10.9.0.0/30".parse().unwrap(), None).is_err());
    }
}
