//! The middle of the wire between clusters: a network namespace that every cluster's node has a link to, and that passes
//! packets on from one to another.
//!
//! In: the nodes' namespaces, and which links are cut. Out: routes, and rules that drop without a word what a cut link
//! carried, as a partition of networks does.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use ipnet::IpNet;

use super::links::{self, Netlink, Way};
use super::{on_thread, wire};
use crate::iptables::restore;
use crate::mounts::Context;

/// The chain with what is dropped (table filter).
const CHAIN: &str = "WEFT_CUTS";

/// The middle of the wire.
#[derive(Debug)]
pub struct Router {
    netlink: Netlink,
    v6: bool,
}

/// Which links are cut: from one cluster to another, by their numbers.
pub type Cuts = BTreeSet<(u8, u8)>;

impl Router {
    /// Makes it in the calling process' network namespace, which must be a sandbox's. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel's answer, with the step that failed.
    pub async fn new() -> io::Result<Self> {
        links::node_settings()?;
        let netlink = Netlink::open().context("opening netlink")?;
        let v6 = links::has_v6();
        netlink.up("lo").await?;
        netlink.nowhere(v6).await?;
        let router = Self { netlink, v6 };
        router.restore(&Cuts::new(), true).await?;
        Ok(router)
    }

    /// Makes a link to the node of a cluster, whose network namespace this is. `flat`: its pods' networks, if the others
    /// reach them as they are.
    ///
    /// # Errors
    /// The kernel's answer, with the step that failed.
    pub async fn plug(&self, number: u8, namespace: &File, flat: &[IpNet]) -> io::Result<()> {
        let link = link(number);
        self.netlink.veth(None, &link, wire::LINK, namespace).await?;
        let node = wire::node(number);
        let near = node.map(|ip| Way {
            to: ip.into(),
            by: None,
        });
        let far = flat.iter().flat_map(|net| {
            node.map(|node| Way {
                to: *net,
                by: Some(node),
            })
        });
        let ways: Vec<Way> = near
            .into_iter()
            .chain(far)
            .filter(|way| way.is_sound(self.v6))
            .collect();
        let middle: Vec<_> = wire::middle()
            .into_iter()
            .filter(|ip| self.v6 || ip.is_ipv4())
            .collect();
        self.netlink.wire(&link, &middle, &ways).await
    }

    /// Cuts these links, and heals all others.
    ///
    /// # Errors
    /// The tool can't be run, or refused the rules.
    pub async fn cut(&self, cuts: &Cuts) -> io::Result<()> {
        self.restore(cuts, false).await
    }

    async fn restore(&self, cuts: &Cuts, first: bool) -> io::Result<()> {
        let mut tools = vec!["iptables-restore"];
        tools.extend(self.v6.then_some("ip6tables-restore"));
        let text = text(cuts, first);
        on_thread(move || tools.iter().try_for_each(|tool| restore(tool, &text))).await
    }
}

/// The name of the link to a cluster's node.
fn link(number: u8) -> String {
    format!("wire{number}")
}

/// Text for `iptables-restore --noflush`, which replaces the chain as a whole.
fn text(cuts: &Cuts, first: bool) -> String {
    let jump = if first {
        format!("-A FORWARD -j {CHAIN}\n")
    } else {
        String::new()
    };
    let drop = |(from, to): &(u8, u8)| format!("-A {CHAIN} -i {} -o {} -j DROP\n", link(*from), link(*to));
    let drops: String = cuts.iter().map(drop).collect();
    format!("*filter\n:{CHAIN} - [0:0]\n{jump}{drops}COMMIT\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_link_drops_its_own_direction_and_no_other() {
        let cut = text(&Cuts::from([(0, 1)]), false);
        assert_eq!(
            cut,
            "*filter\n:WEFT_CUTS - [0:0]\n-A WEFT_CUTS -i wire0 -o wire1 -j DROP\nCOMMIT\n"
        );
        assert!(!text(&Cuts::new(), true).contains("DROP"));
    }

    #[test]
    fn only_the_first_rules_bring_the_jump() {
        assert!(text(&Cuts::new(), true).contains("-A FORWARD -j WEFT_CUTS\n"));
        assert!(!text(&Cuts::new(), false).contains("FORWARD"));
    }
}
