//! The addresses of Services: chosen from the service ranges, the same again after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::manifest::{Address, Family, Key, Service};

/// Hands out ClusterIPs.
#[derive(Debug)]
pub struct ServiceAddresses {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
    /// Chosen ones, by `namespace/name`; kept for Services that are gone, so that one that returns has its address again.
    chosen: BTreeMap<String, Vec<IpAddr>>,
    file: Option<PathBuf>,
    dirty: bool,
}

/// The addresses of all Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// By Service. Empty: it is headless, or stands for a name outside.
    pub ips: BTreeMap<Key, Vec<IpAddr>>,
    /// Those that can't have what they ask for.
    pub wrong: Vec<Impossible>,
}

/// A Service that can't have the addresses that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// The Service.
    pub service: Key,
    /// The field.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: &'static str,
}

/// Addresses below this are for those who ask for them by number: the DNS server has the tenth (KEP-3070).
const FIRST_CHOSEN: u32 = 16;

impl ServiceAddresses {
    /// The addresses that were given out before, as `file` says.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(v4: Ipv4Net, v6: Option<Ipv6Net>, file: &Path) -> io::Result<Self> {
        let chosen: BTreeMap<String, Vec<IpAddr>> = match std::fs::read(file) {
            // What can't be read is chosen anew: nothing that runs knows the old addresses.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            file: Some(file.to_owned()),
            chosen,
            ..Self::new(v4, v6)
        })
    }

    /// Without a memory.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Self {
        Self {
            v4,
            v6,
            chosen: BTreeMap::new(),
            file: None,
            dirty: false,
        }
    }

    /// Without IPv6, where the machine has none.
    pub fn without_v6(&mut self) {
        self.v6 = None;
    }

    /// The address of the DNS server: the tenth of the range.
    pub fn dns(&self) -> Vec<IpAddr> {
        let v4 = IpAddr::V4(nth_v4(self.v4, 10));
        std::iter::once(v4)
            .chain(self.v6.map(|net| IpAddr::V6(nth_v6(net, 10))))
            .collect()
    }

    /// The addresses of all Services.
    pub fn assign<'a>(&mut self, services: impl Iterator<Item = (&'a Key, &'a Service)> + Clone) -> Assigned {
        let mut assigned = Assigned::default();
        let mut taken: BTreeMap<IpAddr, Key> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        // Those who ask come first, so that none of theirs is given away.
        for (key, service) in services.clone() {
            let Address::Given(asked) = &service.address else {
                continue;
            };
            match asked.iter().find_map(|ip| self.obstacle(*ip, &taken)) {
                Some(message) => {
                    refused.insert(key);
                    assigned.wrong.push(Impossible {
                        service: key.clone(),
                        field: "spec.clusterIP",
                        message,
                        fix: "remove it, or take a free address of that range",
                    });
                }
                None => taken.extend(asked.iter().map(|ip| (*ip, key.clone()))),
            }
        }
        for (key, service) in services.filter(|(key, _)| !refused.contains(key)) {
            let asked = match &service.address {
                Address::Headless | Address::External(_) => {
                    assigned.ips.insert(key.clone(), Vec::new());
                    continue;
                }
                Address::Chosen => &[][..],
                Address::Given(ips) => ips,
            };
            match self.choose(key, service, asked, &taken) {
                Ok(ips) => {
                    taken.extend(ips.iter().map(|ip| (*ip, key.clone())));
                    assigned.ips.insert(key.clone(), ips);
                }
                Err(wrong) => assigned.wrong.push(wrong),
            }
        }
        self.save();
        assigned
    }

    fn obstacle(&self, ip: IpAddr, taken: &BTreeMap<IpAddr, Key>) -> Option<String> {
        let inside = match ip {
            IpAddr::V4(ip) => self.v4.contains(&ip),
            IpAddr::V6(ip) => self.v6.is_some_and(|net| net.contains(&ip)),
        };
        if !inside {
            return Some(format!("{ip} is not in the mesh's service range {}", self.v4));
        }
        taken
            .get(&ip)
            .map(|other| format!("{ip} is already that of Service {other}"))
    }

    /// One address of each family: the one that was asked for, the one that it had, or the next.
    fn choose(
        &mut self,
        key: &Key,
        service: &Service,
        asked: &[IpAddr],
        taken: &BTreeMap<IpAddr, Key>,
    ) -> Result<Vec<IpAddr>, Impossible> {
        let wrong = |field, message: &str, fix| Impossible {
            service: key.clone(),
            field,
            message: message.to_owned(),
            fix,
        };
        let name = key.to_string();
        let before = self.chosen.get(&name).cloned().unwrap_or_default();
        let (mut ips, mut chosen) = (Vec::new(), Vec::new());
        for (i, family) in service.families.iter().enumerate() {
            if let Some(ip) = asked.get(i) {
                ips.push(*ip);
                continue;
            }
            if *family == Family::V6 && self.v6.is_none() {
                if service.one_family_will_do && service.families.len() > 1 {
                    continue;
                }
                let message = "the mesh has no IPv6, which is switched off on this machine";
                return Err(wrong("spec.ipFamilies", message, "take IPv4, or PreferDualStack"));
            }
            let kept = before
                .iter()
                .find(|ip| Family::of(**ip) == *family && self.obstacle(**ip, taken).is_none())
                .copied();
            let ip = kept.or_else(|| self.free(*family == Family::V4, &name, taken));
            let none = || {
                wrong(
                    "spec.clusterIP",
                    "the service range has no free address",
                    "take a larger --service-cidr",
                )
            };
            chosen.push(ip.ok_or_else(none)?);
            ips.extend(chosen.last());
        }
        if chosen != before && !chosen.is_empty() {
            self.chosen.insert(name, chosen);
            self.dirty = true;
        }
        Ok(ips)
    }

    /// The next address that nobody has or had; if there is none, the next that nobody has.
    fn free(&mut self, v4: bool, name: &str, taken: &BTreeMap<IpAddr, Key>) -> Option<IpAddr> {
        let remembered: std::collections::BTreeSet<IpAddr> = self
            .chosen
            .iter()
            .filter(|(other, _)| *other != name)
            .flat_map(|(_, ips)| ips.iter().copied())
            .collect();
        let (net4, net6) = (self.v4, self.v6);
        let size = if v4 {
            bits(net4.prefix_len(), 32)
        } else {
            net6.map_or(0, |net| bits(net.prefix_len(), 128))
        };
        let nth = move |n: u32| {
            if v4 {
                Some(IpAddr::V4(nth_v4(net4, n)))
            } else {
                net6.map(|net| IpAddr::V6(nth_v6(net, n)))
            }
        };
        // The last one is the broadcast address.
        let candidates = move || (FIRST_CHOSEN..size.saturating_sub(1)).filter_map(nth);
        let free = candidates().find(|ip| !taken.contains_key(ip) && !remembered.contains(ip));
        if let Some(ip) = free {
            return Some(ip);
        }
        let reused = candidates().find(|ip| !taken.contains_key(ip))?;
        self.chosen.retain(|_, ips| !ips.contains(&reused));
        Some(reused)
    }

    /// Writes down what is new. Failing costs stability across a restart, nothing else.
    fn save(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| self.dirty) else {
            return;
        };
        let text = serde_json::to_vec_pretty(&self.chosen).expect("a map of texts is JSON");
        match weft_daemon::file::replace(file, 0o600, &text) {
            Ok(()) => self.dirty = false,
            Err(error) => tracing::warn!(%error, file = %file.display(), "service addresses are not kept"),
        }
    }
}

/// How many addresses a prefix leaves, at most 65,536: more are never looked at.
fn bits(prefix: u8, width: u8) -> u32 {
    1 << (width - prefix).min(16)
}

fn nth_v4(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() | n)
}

fn nth_v6(net: Ipv6Net, n: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(net.network().to_bits() | u128::from(n))
}
