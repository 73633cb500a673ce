//! The wire between clusters of one machine, at a node's end: addresses of its own there, and ways to the other nodes.
//!
//! In: which of the clusters this one is, and whose pods it reaches as they are. Out: the end's addresses and routes, and
//! the rules by which the node lends pods its own address: pods of two clusters may have the same one, and what is sent
//! to a pod's own address would not come back. The other end is [`super::router`]'s.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::links::{self, Netlink, Way};
use super::{BRIDGE, NetSettings, PodAddresses, on_thread};
use crate::iptables::restore;

/// The name of the node's end.
pub const LINK: &str = "wire0";
/// The chain with the translations of what leaves (table nat).
const CHAIN: &str = "WEFT_WIRE";
/// The nodes' addresses, of both families: no default of pods' or Services' is near them.
const V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 24);
const V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0), 64);
/// The middle's, in each of them.
const MIDDLE: u8 = 254;

/// A cluster's place on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireEnd {
    /// Which of the clusters it is, from 0.
    pub number: u8,
    /// Networks of other clusters' pods that are reached as they are. Empty: only nodes are.
    pub flat: Vec<IpNet>,
}

/// The addresses of the node of a cluster, IPv4 first.
pub fn node(number: u8) -> [IpAddr; 2] {
    at(number + 1)
}

/// The addresses of the middle, which are the next hop of every node.
pub(super) fn middle() -> [IpAddr; 2] {
    at(MIDDLE)
}

/// The networks of all nodes.
pub fn networks() -> [IpNet; 2] {
    [V4.into(), V6.into()]
}

fn at(number: u8) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::from(u32::from(V4.network()) + u32::from(number));
    let v6 = Ipv6Addr::from(u128::from(V6.network()) + u128::from(number));
    [v4.into(), v6.into()]
}

impl WireEnd {
    /// The node's own addresses, as far as the machine has their families.
    pub(super) fn addresses(&self, v6: bool) -> Vec<IpAddr> {
        node(self.number).into_iter().filter(|ip| v6 || ip.is_ipv4()).collect()
    }

    /// Brings the end up. `gateway`: the node's addresses among its pods.
    pub(super) async fn join(
        &self,
        netlink: &Netlink,
        settings: &NetSettings,
        gateway: PodAddresses,
    ) -> io::Result<()> {
        let v6 = settings.v6.is_some();
        links::at_once(LINK)?;
        let far = |net: IpNet| {
            middle().map(|middle| Way {
                to: net,
                by: Some(middle),
            })
        };
        let networks = networks().into_iter().chain(self.flat.iter().copied());
        let ways = networks
            .flat_map(far)
            .filter(|way| way.is_sound(v6))
            .collect::<Vec<_>>();
        netlink.wire(LINK, &self.addresses(v6), &ways).await?;
        let mut work = vec![(
            "iptables-restore",
            lend(node(self.number)[0], settings.v4.into(), gateway.v4.into()),
        )];
        if let (Some(pods), Some(gateway)) = (settings.v6, gateway.v6) {
            work.push((
                "ip6tables-restore",
                lend(node(self.number)[1], pods.into(), gateway.into()),
            ));
        }
        on_thread(move || work.iter().try_for_each(|(tool, rules)| restore(tool, rules))).await
    }
}

/// Text for `iptables-restore --noflush`: pods have the node's address to other nodes; and its address among them to a pod
/// of their own that the node has translated to, whose answer would else not pass the node. Between pods that reach each
/// other as they are, nothing is changed.
fn lend(node: IpAddr, pods: IpNet, gateway: IpAddr) -> String {
    let nodes = networks()[usize::from(node.is_ipv6())];
    let mut text = format!("*nat\n:{CHAIN} - [0:0]\n-A POSTROUTING -j {CHAIN}\n");
    writeln!(
        text,
        "-A {CHAIN} -s {pods} -d {nodes} -o {LINK} -j SNAT --to-source {node}"
    )
    .expect("writing to a string");
    // Where bridges are shown to iptables, what pods say to each other passes here too.
    writeln!(
        text,
        "-A {CHAIN} -s {pods} -d {pods} -o {BRIDGE} -m conntrack --ctstate DNAT -j SNAT --to-source {gateway}"
    )
    .expect("writing to a string");
    text + "COMMIT\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_s_node_has_addresses_of_its_own_within_the_networks_of_all_nodes() {
        let all: std::collections::BTreeSet<IpAddr> = (0..8).flat_map(node).chain(middle()).collect();
        assert_eq!(all.len(), 18);
        let within = |ip: &IpAddr| networks().iter().any(|net| net.contains(ip));
        assert!(all.iter().all(within), "{all:?}");
        assert_eq!(
            node(0),
            ["172.30.0.1", "fd00:172:30::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn a_pod_s_packets_wear_the_node_s_address_towards_nodes_and_their_own_towards_pods() {
        let text = lend(
            node(1)[0],
            "10.245.0.0/16".parse().unwrap(),
            "10.245.0.1".parse().unwrap(),
        );
        let sent: Vec<&str> = text.lines().filter(|line| line.contains(LINK)).collect();
        assert_eq!(
            sent,
            ["-A WEFT_WIRE -s 10.245.0.0/16 -d 172.30.0.0/24 -o wire0 -j SNAT --to-source 172.30.0.2"]
        );
    }

    #[test]
    fn without_ipv6_the_node_has_one_address() {
        let end = WireEnd {
            number: 2,
            flat: vec![],
        };
        assert_eq!(end.addresses(false), ["172.30.0.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(end.addresses(true).len(), 2);
    }
}
