//! The iptables rules that bring a pod's TCP to its proxy. Pure: settings in, text for `iptables-restore` out.

use std::fmt::Write;

use ipnet::IpNet;

/// The proxy's outbound listener, on 127.0.0.1 and ::1.
pub const OUTBOUND_PORT: u16 = 15001;
/// The proxy's inbound listener.
pub const INBOUND_PORT: u16 = 15006;
/// The proxy's admin listener on the pod's address: readiness, metrics and rewritten probes.
pub const ADMIN_PORT: u16 = 15020;
/// The proxy's admin listener on the loopback.
pub const LOCAL_ADMIN_PORT: u16 = 15021;
/// The uid that the proxy runs as.
pub const PROXY_UID: u32 = 1882;
/// The packet mark that exempts the proxy's own connections in local modes.
pub const MARK: u32 = 0x5745;

/// The chain that a pod's outgoing TCP passes.
pub const OUTPUT_CHAIN: &str = "WEFT_OUTPUT";
/// The chain that a pod's incoming TCP passes.
pub const INBOUND_CHAIN: &str = "WEFT_INBOUND";

/// What exempts the proxy's own connections from the redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// Its uid: in Kubernetes, where the proxy has no capability.
    Uid(u32),
    /// A packet mark, which only a process with CAP_NET_RAW can set: in local modes.
    Mark(u32),
}

/// What to redirect and what not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectSettings {
    /// What exempts the proxy.
    pub exempt: Exempt,
    /// The pod's own ports that are left alone.
    pub skip_inbound_ports: Vec<u16>,
    /// Destination ports that are left alone.
    pub skip_outbound_ports: Vec<u16>,
    /// Destination networks that are left alone.
    pub skip_outbound_subnets: Vec<IpNet>,
}

/// Text for `iptables-restore --noflush` and `ip6tables-restore --noflush`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// For IPv4.
    pub v4: String,
    /// For IPv6.
    pub v6: String,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The rules for a pod. `jumps`: whether the built-in chains still need their jump (they must not get it twice).
///
/// Order in the output chain: the proxy's own connections go out; what stays within the pod stays (containers talk on
/// localhost, and to the pod's own address); what the settings skip goes out; everything else meets the outbound listener.
pub fn rules(settings: &RedirectSettings, jumps: bool) -> Rules {
    Rules {
        v4: table(settings, Family::V4, jumps),
        v6: table(settings, Family::V6, jumps),
    }
}

/// The line of `iptables-save` that shows that the jumps are in place.
pub fn jump_line() -> String {
    format!("-A OUTPUT -p tcp -j {OUTPUT_CHAIN}")
}

fn table(settings: &RedirectSettings, family: Family, jumps: bool) -> String {
    let mut text = format!("*nat\n:{INBOUND_CHAIN} - [0:0]\n:{OUTPUT_CHAIN} - [0:0]\n");
    let mut rule = |rule: &str| text.push_str(&format!("-A {rule}\n"));
    if jumps {
        rule(&format!("PREROUTING -p tcp -j {INBOUND_CHAIN}"));
        rule(&format!("OUTPUT -p tcp -j {OUTPUT_CHAIN}"));
    }
    rule(&format!("{INBOUND_CHAIN} -p tcp --dport {ADMIN_PORT} -j RETURN"));
    for port in &settings.skip_inbound_ports {
        rule(&format!("{INBOUND_CHAIN} -p tcp --dport {port} -j RETURN"));
    }
    rule(&format!("{INBOUND_CHAIN} -p tcp -j REDIRECT --to-ports {INBOUND_PORT}"));

    let exempt = match settings.exempt {
        Exempt::Uid(uid) => format!("-m owner --uid-owner {uid}"),
        Exempt::Mark(mark) => format!("-m mark --mark {mark:#x}"),
    };
    rule(&format!("{OUTPUT_CHAIN} {exempt} -j RETURN"));
    rule(&format!("{OUTPUT_CHAIN} -o lo -j RETURN"));
    for port in &settings.skip_outbound_ports {
        rule(&format!("{OUTPUT_CHAIN} -p tcp --dport {port} -j RETURN"));
    }
    for subnet in settings
        .skip_outbound_subnets
        .iter()
        .filter(|subnet| family_of(subnet) == family)
    {
        rule(&format!("{OUTPUT_CHAIN} -d {subnet} -j RETURN"));
    }
    rule(&format!("{OUTPUT_CHAIN} -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}"));
    writeln!(text, "COMMIT").expect("writing to a string");
    text
}

fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RedirectSettings {
        RedirectSettings {
            exempt: Exempt::Mark(MARK),
            skip_inbound_ports: vec![],
            skip_outbound_ports: vec![],
            skip_outbound_subnets: vec![],
        }
    }

    #[test]
    fn the_proxy_is_exempt_before_anything_is_redirected() {
        for (exempt, wanted) in [
            (Exempt::Mark(MARK), "-m mark --mark 0x5745 -j RETURN"),
            (Exempt::Uid(PROXY_UID), "-m owner --uid-owner 1882 -j RETURN"),
        ] {
            let text = rules(&RedirectSettings { exempt, ..settings() }, true).v4;
            let exempt = text.find(wanted).expect("the exemption is there");
            let redirect = text
                .find("-A WEFT_OUTPUT -p tcp -j REDIRECT")
                .expect("the redirect is there");
            assert!(exempt < redirect, "{text}");
        }
    }

    #[test]
    fn both_families_redirect_the_same_but_for_subnets() {
        let nets = ["192.0.2.0/24", "2001:db8::/32"].map(|net| net.parse().expect("a network"));
        let settings = RedirectSettings {
            skip_outbound_subnets: nets.to_vec(),
            ..settings()
        };
        let both = rules(&settings, true);
        assert!(both.v4.contains("-d 192.0.2.0/24 -j RETURN") && !both.v4.contains("2001:db8"));
        assert!(both.v6.contains("-d 2001:db8::/32 -j RETURN") && !both.v6.contains("192.0.2"));
        let plain = |text: &str| {
            text.lines()
                .filter(|line| !line.contains(" -d "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(plain(&both.v4), plain(&both.v6));
    }

    #[test]
    fn skipped_ports_return_before_the_redirect_and_no_other_port_does() {
        let settings = RedirectSettings {
            skip_inbound_ports: vec![9090],
            skip_outbound_ports: vec![25],
            ..settings()
        };
        let text = rules(&settings, true).v4;
        let returns: Vec<&str> = text.lines().filter(|line| line.contains("--dport")).collect();
        assert_eq!(
            returns,
            [
                "-A WEFT_INBOUND -p tcp --dport 15020 -j RETURN",
                "-A WEFT_INBOUND -p tcp --dport 9090 -j RETURN",
                "-A WEFT_OUTPUT -p tcp --dport 25 -j RETURN",
            ]
        );
    }

    #[test]
    fn a_second_run_adds_no_second_jump() {
        let text = rules(&settings(), false).v4;
        assert!(!text.contains("-A OUTPUT") && !text.contains("-A PREROUTING"));
    }
}
