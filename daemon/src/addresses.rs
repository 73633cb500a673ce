//! How many connections each address has: so that one caller does not keep the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections by address.
#[derive(Clone, Debug)]
pub struct Addresses<T> {
    counts: Arc<Mutex<Counts<T>>>,
    most: usize,
    /// Bits of an IPv6 address that tell one caller from another.
    v6: u32,
}

/// The connections of each address, and what they share. Only locked to count.
type Counts<T> = HashMap<IpAddr, (usize, Arc<T>)>;

/// One connection of an address, as long as it lives.
#[derive(Debug)]
pub struct Place<T> {
    counts: Arc<Mutex<Counts<T>>>,
    address: IpAddr,
    /// What the connections of the address share.
    pub shared: Arc<T>,
}

impl<T: Default> Addresses<T> {
    /// `most`: the connections that one address may have; of IPv6, one /64: whoever has one address there has them all.
    pub fn new(most: usize) -> Self {
        Self {
            counts: Arc::default(),
            most,
            v6: 64,
        }
    }

    /// The same by whole addresses: for what mostly the cluster's own pods and nodes reach. A pod has one, and its node's, from
    /// which the kubelet asks, is of the same /64.
    pub fn of_hosts(most: usize) -> Self {
        Self {
            v6: 128,
            ..Self::new(most)
        }
    }

    /// A place for one connection more. `None`: its address has too many.
    pub fn take(&self, address: IpAddr) -> Option<Place<T>> {
        let address = network(address, self.v6);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, shared) = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            counts: self.counts.clone(),
            address,
            shared: shared.clone(),
        })
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What an address is counted by: of IPv6, so many bits.
fn network(address: IpAddr, v6: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(v6).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !rest).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_as_many_places_as_it_may_and_gets_back_those_that_it_leaves() {
        let addresses = Addresses::<()>::new(2);
        let take = |address: &str| addresses.take(address.parse().unwrap());
        let held = [take("192.0.2.1"), take("192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        drop(held);
        assert!(take("192.0.2.1").is_some());
        assert!(addresses.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn addresses_of_one_v6_network_are_one_and_mapped_ones_are_those_of_v4() {
        let of = |address: &str| network(address.parse().unwrap(), 64);
        let host = |address: &str| network(address.parse().unwrap(), 128);
        assert_ne!(host("2001:db8::1"), host("2001:db8::2"));
        assert_eq!(host("2001:db8::1"), host("2001:db8::1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("::ffff:192.0.2.1"), of("::ffff:192.0.2.2"));
    }
}
