//! What names there are, and what they lead to.
//!
//! In: Services with their addresses and the pods behind headless ones. Out: the records of
//! [Kubernetes' DNS specification](https://github.com/kubernetes/dns/blob/master/docs/specification.md): A and AAAA of
//! Services and of single pods, SRV of ports, CNAME of `ExternalName`, PTR. Services that clusters share have the same in a
//! domain of their own, as [KEP-1645](https://github.com/kubernetes/enhancements/blob/master/keps/sig-multicluster/1645-multi-cluster-services-api/specification.md)
//! has it, but for PTR.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CLUSTERSET, DOMAIN};

/// All names of the mesh. Immutable once it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, Records>,
    /// Every name that has a name below it: it exists, and has no records (RFC 8020).
    interior: BTreeSet<String>,
    /// The names of addresses, by the name that a query for them has (RFC 1035, section 3.5; RFC 3596, section 2.5).
    reverse: HashMap<String, Vec<String>>,
}

/// The records of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// For A.
    pub v4: Vec<Ipv4Addr>,
    /// For AAAA.
    pub v6: Vec<Ipv6Addr>,
    /// For SRV: where a port is served.
    pub srv: Vec<Srv>,
    /// The name that this one stands for. It has no other records then.
    pub cname: Option<String>,
}

/// An SRV record (RFC 2782). Priority and weight are the same for all of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// The host.
    pub target: String,
    /// The port there.
    pub port: u16,
}

/// A Service, as far as names go.
#[derive(Clone, Debug, Default)]
pub struct Named<'a> {
    /// What clusters share under its name, and not what this one alone has.
    pub shared: bool,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its own addresses; none if it is headless.
    pub addresses: Vec<IpAddr>,
    /// Its ports: name (or nothing), `tcp` or `udp`, number.
    pub ports: Vec<(&'a str, &'static str, u16)>,
    /// The pods that a headless Service's name leads to.
    pub pods: Vec<NamedPod<'a>>,
    /// The name outside that it stands for (`ExternalName`).
    pub external: Option<&'a str>,
}

/// A pod behind a headless Service.
#[derive(Clone, Debug, Default)]
pub struct NamedPod<'a> {
    /// The cluster that it runs in, which is part of its name where the Service is shared.
    pub cluster: &'a str,
    /// Its `hostname`, if its `subdomain` is the Service.
    pub hostname: Option<&'a str>,
    /// Its addresses of the Service's families.
    pub ips: Vec<IpAddr>,
    /// Its number for each of the Service's ports.
    pub ports: Vec<Option<u16>>,
}

/// What a zone knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// The name exists and has these records, of which there may be none.
    Records(&'a Records),
    /// The name exists because there are names below it.
    Empty,
    /// The name is that of an address, which has these names.
    Address(&'a [String]),
    /// The name is a domain's own: it has the SOA record.
    Apex,
    /// The name lies in one of the domains and does not exist.
    Nothing,
    /// The name lies outside the zone, where nothing exists for a pod.
    Outside,
}

impl Zone {
    /// The zone of these Services.
    pub fn new<'a>(services: impl IntoIterator<Item = Named<'a>>) -> Self {
        let mut zone = Self::default();
        let sorted: BTreeMap<_, _> = services
            .into_iter()
            .map(|s| ((s.shared, s.namespace, s.name), s))
            .collect();
        zone.interior.insert(format!("svc.{DOMAIN}"));
        zone.interior.insert(format!("svc.{CLUSTERSET}"));
        for service in sorted.values() {
            zone.interior
                .insert(format!("{}.svc.{}", service.namespace, service.domain()));
            zone.service(service);
        }
        zone
    }

    fn service(&mut self, service: &Named<'_>) {
        let base = format!("{}.{}.svc.{}", service.name, service.namespace, service.domain());
        let own = self.names.entry(base.clone()).or_default();
        if let Some(external) = service.external {
            own.cname = Some(external.trim_end_matches('.').to_ascii_lowercase());
            return;
        }
        for ip in &service.addresses {
            own.add(*ip);
        }
        if !service.addresses.is_empty() {
            for (name, protocol, port) in &service.ports {
                self.port(&base, name, protocol, &base, *port);
            }
            for ip in service.addresses.iter().filter(|_| !service.shared) {
                self.reverse.entry(reverse(*ip)).or_default().push(base.clone());
            }
        }
        for pod in &service.pods {
            let above = match service.shared {
                true => format!("{}.{base}", pod.cluster),
                false => base.clone(),
            };
            for ip in &pod.ips {
                self.names.entry(base.clone()).or_default().add(*ip);
                let host = pod.hostname.map_or_else(|| dashed(*ip), str::to_owned);
                let host = format!("{host}.{above}");
                self.names.entry(host.clone()).or_default().add(*ip);
                self.interior.insert(above.clone());
                for ((name, protocol, _), port) in service.ports.iter().zip(&pod.ports) {
                    if let Some(port) = port {
                        self.port(&base, name, protocol, &host, *port);
                    }
                }
                if !service.shared {
                    self.reverse.entry(reverse(*ip)).or_default().push(host);
                }
            }
        }
    }

    /// A port is served by a host: known by the Service's own name, and by the port's where it has one.
    fn port(&mut self, base: &str, name: &str, protocol: &str, host: &str, port: u16) {
        let srv = Srv {
            target: host.to_owned(),
            port,
        };
        self.names.entry(base.to_owned()).or_default().serve(srv.clone());
        if !name.is_empty() {
            let below = format!("_{protocol}.{base}");
            self.names.entry(format!("_{name}.{below}")).or_default().serve(srv);
            self.interior.insert(below);
        }
    }

    /// Looks a name up, written in any case, with or without the dot at its end.
    pub fn find(&self, name: &str) -> Found<'_> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(names) = self.reverse.get(&name) {
            return Found::Address(names);
        }
        let Some(domain) = domain_of(&name) else {
            return Found::Outside;
        };
        match self.names.get(&name) {
            Some(found) => Found::Records(found),
            None if name == domain => Found::Apex,
            None if self.interior.contains(&name) => Found::Empty,
            None => Found::Nothing,
        }
    }
}

/// The domain of ours that a name, in lower case and without the dot at its end, is or lies in.
pub(super) fn domain_of(name: &str) -> Option<&'static str> {
    [DOMAIN, CLUSTERSET].into_iter().find(|domain| {
        name.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

impl Named<'_> {
    const fn domain(&self) -> &'static str {
        match self.shared {
            true => CLUSTERSET,
            false => DOMAIN,
        }
    }
}

impl Records {
    fn add(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.v4.push(ip),
            IpAddr::V6(ip) => self.v6.push(ip),
        }
    }

    fn serve(&mut self, srv: Srv) {
        // A pod of two families has one host, and so one record.
        if !self.srv.contains(&srv) {
            self.srv.push(srv);
        }
    }
}

/// The name of a pod that has none: its address with dashes.
fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let hex: Vec<String> = format!("{:032x}", ip.to_bits())
                .chars()
                .rev()
                .map(String::from)
                .collect();
            format!("{}.ip6.arpa", hex.join("."))
        }
    }
}
