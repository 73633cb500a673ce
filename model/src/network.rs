//! What counts as inside the mesh.

use std::net::IpAddr;

use ipnet::IpNet;

/// The mesh's networks: private ranges, 100.64.0.0/10 and unique-local v6, widened by what the control plane saw.
///
/// A destination inside waits, bounded, for discovery, and is then refused; one outside is passed through at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks {
    inside: Vec<IpNet>,
    outside: Vec<IpNet>,
}

impl Networks {
    /// The built-in ranges, with those that the control plane and the settings add and remove.
    pub fn new(inside: impl IntoIterator<Item = IpNet>, outside: impl IntoIterator<Item = IpNet>) -> Self {
        const BUILT_IN: [&str; 5] = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
        ];
        let built_in = BUILT_IN.iter().map(|net| net.parse().expect("a literal network"));
        Self {
            inside: built_in.chain(inside).collect(),
            outside: outside.into_iter().collect(),
        }
    }

    /// Whether an address is inside. What is taken out explicitly is outside, whatever else contains it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !self.outside.iter().any(|net| net.contains(&address)) && self.inside.iter().any(|net| net.contains(&address))
    }
}

impl Default for Networks {
    fn default() -> Self {
        Self::new([], [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn private_shared_and_unique_local_ranges_are_inside() {
        let networks = Networks::default();
        let inside = [
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "fc00::1",
            "fdff::1",
        ];
        for address in inside {
            assert!(networks.contains(ip(address)), "{address}");
        }
        let outside = [
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.169.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "1.1.1.1",
            "2001:db8::1",
            "fe80::1",
            "fbff::1",
            "fe00::1",
            "::1",
        ];
        for address in outside {
            assert!(!networks.contains(ip(address)), "{address}");
        }
    }

    #[test]
    fn the_control_plane_widens() {
        let networks = Networks::new([net("2001:db8::/64"), net("203.0.113.7/32")], []);
        assert!(networks.contains(ip("2001:db8::7")) && networks.contains(ip("203.0.113.7")));
        assert!(!networks.contains(ip("2001:db8:0:1::7")) && !networks.contains(ip("203.0.113.8")));
        assert!(networks.contains(ip("10.1.2.3")), "beside what is built in");
    }

    #[test]
    fn what_is_taken_out_is_outside_whatever_contains_it() {
        let networks = Networks::new([net("203.0.113.0/24")], [net("10.9.0.0/16"), net("203.0.113.7/32")]);
        assert!(!networks.contains(ip("10.9.1.1")) && !networks.contains(ip("203.0.113.7")));
        assert!(networks.contains(ip("10.8.1.1")) && networks.contains(ip("203.0.113.8")));
    }

    #[test]
    fn a_v4_address_in_v6_clothes_is_itself() {
        assert!(Networks::default().contains(ip("::ffff:10.0.0.1")));
        assert!(!Networks::default().contains(ip("::ffff:1.1.1.1")));
        assert!(!Networks::new([], [net("10.0.0.1/32")]).contains(ip("::ffff:10.0.0.1")));
    }
}
