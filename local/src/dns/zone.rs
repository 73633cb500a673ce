//! What names there are, and their addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::DOMAIN;

/// All names of the mesh. Immutable once it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, Addresses>,
    /// Every name that has a name below it: it exists, and has no records (RFC 8020).
    interior: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What a zone knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The name exists and has these addresses, of which either list may be empty.
    Addresses {
        /// For A.
        v4: &'a [Ipv4Addr],
        /// For AAAA.
        v6: &'a [Ipv6Addr],
    },
    /// The name is the zone's own: it has the SOA record.
    Apex,
    /// The name lies in the zone and does not exist.
    Nothing,
    /// The name lies outside the zone, where nothing exists for a pod.
    Outside,
}

impl Zone {
    /// The zone of these Services: namespace, name, and the addresses to answer with (the ClusterIPs, or a headless
    /// Service's ready pods, in this order).
    pub fn new<'a>(services: impl IntoIterator<Item = (&'a str, &'a str, Vec<IpAddr>)>) -> Self {
        let mut zone = Self::default();
        let sorted: BTreeMap<_, _> = services.into_iter().map(|(ns, name, ips)| ((ns, name), ips)).collect();
        zone.interior.insert(format!("svc.{DOMAIN}"));
        for ((namespace, name), addresses) in sorted {
            zone.interior.insert(format!("{namespace}.svc.{DOMAIN}"));
            let entry = zone
                .names
                .entry(format!("{name}.{namespace}.svc.{DOMAIN}"))
                .or_default();
            for address in addresses {
                match address {
                    IpAddr::V4(v4) => entry.v4.push(v4),
                    IpAddr::V6(v6) => entry.v6.push(v6),
                }
            }
        }
        zone
    }

    /// Looks a name up, written in any case, with or without the dot at its end.
    pub fn find(&self, name: &str) -> Found<'_> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name == DOMAIN {
            return Found::Apex;
        }
        if !name.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.')) {
            return Found::Outside;
        }
        match self.names.get(&name) {
            Some(found) => Found::Addresses {
                v4: &found.v4,
                v6: &found.v6,
            },
            None if self.interior.contains(&name) => Found::Addresses { v4: &[], v6: &[] },
            None => Found::Nothing,
        }
    }
}
