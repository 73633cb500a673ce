//! Service addresses for pods outside the mesh: what kube-proxy does, as rules in the pod's own network namespace; and
//! load balancers' addresses, as rules in the node's.
//!
//! In: Services with their endpoints. Out: text for `iptables-restore --noflush`, which replaces our chains as a whole, so
//! that a connection sees the old rules or the new ones, and no rule piles up. A pod of the mesh gets rules for UDP only:
//! its TCP goes to the proxy.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use crate::iptables::restore;
use crate::manifest::Service;
use crate::manifest::raw::Protocol;
use crate::net::{PodNet, on_thread};
use crate::slices::{Endpoint, backends};

/// The chain with the translations (table nat), and that with the refusals (table filter).
pub const CHAIN: &str = "WEFT_SERVICES";

/// The rules of one IP family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Every port of every Service of the family, in order.
    ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    backends: Vec<(IpAddr, u16)>,
}

/// The rules of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// IPv4.
    pub v4: Rules,
    /// IPv6.
    pub v6: Rules,
}

impl Table {
    /// The rules for these Services: each with its addresses and endpoints.
    pub fn new<'a>(services: impl Iterator<Item = (&'a Service, &'a [IpAddr], &'a [Endpoint])>) -> Self {
        let mut table = Self::default();
        for (service, addresses, endpoints) in services {
            for address in addresses {
                let v4 = address.is_ipv4();
                let rules = if v4 { &mut table.v4 } else { &mut table.v6 };
                for (i, port) in service.ports.iter().enumerate() {
                    let backends = backends(endpoints, i, v4);
                    rules.ports.push(Port {
                        address: *address,
                        port: port.port,
                        protocol: port.protocol,
                        backends,
                    });
                }
            }
        }
        table
    }

    fn work(&self, place: Place, jumps: bool, v6: bool) -> Vec<(&'static str, String)> {
        let mut work = vec![("iptables-restore", self.v4.text(place, jumps))];
        if v6 {
            work.push(("ip6tables-restore", self.v6.text(place, jumps)));
        }
        work
    }

    /// The part that a pod of the mesh needs.
    pub fn udp(&self) -> Self {
        let udp = |rules: &Rules| Rules {
            ports: rules
                .ports
                .iter()
                .filter(|port| port.protocol == Protocol::Udp)
                .cloned()
                .collect(),
        };
        Self {
            v4: udp(&self.v4),
            v6: udp(&self.v6),
        }
    }
}

/// Whose packets rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A pod's own.
    Pod,
    /// Those that reach the node from elsewhere.
    Node,
}

impl Place {
    /// The built-in chains, of translations and of refusals.
    const fn chains(self) -> [&'static str; 2] {
        match self {
            Self::Pod => ["OUTPUT", "OUTPUT"],
            Self::Node => ["PREROUTING", "INPUT"],
        }
    }
}

impl Rules {
    /// Text for `iptables-restore --noflush`. `jumps`: the built-in chains don't have their jump to ours yet.
    pub fn text(&self, place: Place, jumps: bool) -> String {
        let mut nat = String::new();
        let mut filter = String::new();
        for port in &self.ports {
            port.translate(&mut nat);
            if port.backends.is_empty() {
                port.refuse(&mut filter);
            }
        }
        let [nat_jump, filter_jump] = place.chains().map(|chain| match jumps {
            true => format!("-A {chain} -j {CHAIN}\n"),
            false => String::new(),
        });
        format!(
            "*nat\n:{CHAIN} - [0:0]\n{nat_jump}{nat}COMMIT\n*filter\n:{CHAIN} - [0:0]\n{filter_jump}{filter}COMMIT\n"
        )
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

impl Port {
    fn matched(&self) -> String {
        let protocol = if self.protocol == Protocol::Udp { "udp" } else { "tcp" };
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        format!(
            "-A {CHAIN} -d {}/{bits} -p {protocol} -m {protocol} --dport {}",
            self.address, self.port
        )
    }

    /// Each backend with the same probability: one in `left` for the first, one in `left - 1` of the rest for the next.
    fn translate(&self, out: &mut String) {
        let matched = self.matched();
        for (i, (ip, port)) in self.backends.iter().enumerate() {
            let left = self.backends.len() - i;
            let chance = match left {
                1 => String::new(),
                _ => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
            };
            let target = if ip.is_ipv4() {
                format!("{ip}:{port}")
            } else {
                format!("[{ip}]:{port}")
            };
            writeln!(out, "{matched}{chance} -j DNAT --to-destination {target}").expect("writing to a string");
        }
    }

    /// An address behind which nothing is says so at once.
    fn refuse(&self, out: &mut String) {
        let with = match (self.protocol, self.address.is_ipv4()) {
            (Protocol::Tcp, _) => "tcp-reset",
            (Protocol::Udp, true) => "icmp-port-unreachable",
            (Protocol::Udp, false) => "icmp6-port-unreachable",
        };
        writeln!(out, "{} -j REJECT --reject-with {with}", self.matched()).expect("writing to a string");
    }
}

/// Puts rules in place in a pod. `jumps`: for the first time there. Families without rules are left alone the first time.
///
/// # Errors
/// The tool can't be run, or refused the rules.
pub async fn apply(net: &PodNet, table: &Table, jumps: bool, v6: bool) -> io::Result<()> {
    let work = table.work(Place::Pod, jumps, v6);
    net.run(move || work.iter().try_for_each(|(tool, rules)| restore(tool, rules)))
        .await
}

/// The same on the node.
///
/// # Errors
/// The same.
pub async fn apply_on_node(table: &Table, jumps: bool, v6: bool) -> io::Result<()> {
    let work = table.work(Place::Node, jumps, v6);
    on_thread(move || work.iter().try_for_each(|(tool, rules)| restore(tool, rules))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: &str, protocol: Protocol, backends: &[(&str, u16)]) -> Port {
        let backends = backends.iter().map(|(ip, port)| (ip.parse().unwrap(), *port)).collect();
        Port {
            address: address.parse().unwrap(),
            port: 80,
            protocol,
            backends,
        }
    }

    fn lines(rules: &Rules, jumps: bool) -> Vec<String> {
        rules.text(Place::Pod, jumps).lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_backend_has_the_same_chance() {
        let backends = [("10.244.0.5", 8080), ("10.244.0.6", 8080), ("10.244.0.7", 9090)];
        let rules = Rules {
            ports: vec![port("10.96.0.20", Protocol::Tcp, &backends)],
        };
        let matched = "-A WEFT_SERVICES -d 10.96.0.20/32 -p tcp -m tcp --dport 80";
        assert_eq!(
            lines(&rules, true),
            [
                "*nat".to_owned(),
                ":WEFT_SERVICES - [0:0]".to_owned(),
                "-A OUTPUT -j WEFT_SERVICES".to_owned(),
                format!(
                    "{matched} -m statistic --mode random --probability 0.3333333333 -j DNAT --to-destination 10.244.0.5:8080"
                ),
                format!(
                    "{matched} -m statistic --mode random --probability 0.5000000000 -j DNAT --to-destination 10.244.0.6:8080"
                ),
                format!("{matched} -j DNAT --to-destination 10.244.0.7:9090"),
                "COMMIT".to_owned(),
                "*filter".to_owned(),
                ":WEFT_SERVICES - [0:0]".to_owned(),
                "-A OUTPUT -j WEFT_SERVICES".to_owned(),
                "COMMIT".to_owned(),
            ]
        );
    }

    #[test]
    fn a_service_without_pods_refuses_instead_of_being_silent() {
        let rules = Rules {
            ports: vec![
                port("10.96.0.20", Protocol::Tcp, &[]),
                port("fd00::20", Protocol::Udp, &[]),
            ],
        };
        let text = rules.text(Place::Pod, false);
        assert!(text.contains("-d 10.96.0.20/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset\n"));
        assert!(
            text.contains("-d fd00::20/128 -p udp -m udp --dport 80 -j REJECT --reject-with icmp6-port-unreachable\n")
        );
        assert!(!text.contains("DNAT"));
    }

    #[test]
    fn a_second_time_adds_no_second_jump() {
        assert!(!Rules::default().text(Place::Pod, false).contains("OUTPUT"));
    }

    #[test]
    fn on_the_node_they_are_for_what_comes_from_elsewhere() {
        let text = Rules::default().text(Place::Node, true);
        assert!(text.contains("-A PREROUTING -j WEFT_SERVICES\n"), "{text}");
        assert!(!text.contains("OUTPUT"), "{text}");
    }

    #[test]
    fn v6_targets_are_in_brackets() {
        let rules = Rules {
            ports: vec![port("fd00::20", Protocol::Tcp, &[("fd00::5", 8080)])],
        };
        assert!(
            rules
                .text(Place::Pod, false)
                .contains("--to-destination [fd00::5]:8080\n")
        );
    }

    #[test]
    fn a_pod_of_the_mesh_gets_no_rule_for_tcp() {
        let v4 = Rules {
            ports: vec![
                port("10.96.0.20", Protocol::Tcp, &[("10.244.0.5", 80)]),
                port("10.96.0.20", Protocol::Udp, &[("10.244.0.5", 53)]),
            ],
        };
        let udp = Table {
            v4,
            v6: Rules::default(),
        }
        .udp();
        assert!(!udp.v4.text(Place::Pod, true).contains("tcp") && udp.v4.text(Place::Pod, true).contains("-p udp"));
    }
}
