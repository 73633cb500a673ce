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
    pub fn new(
        inside: impl IntoIterator<Item = IpNet>,
        outside: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        const BUILT_IN: [&str; 5] = [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
        ];
        let built_in = BUILT_IN
            .iter()
            .map(|net| net.parse().expect("a literal network"));
        Self {
            inside: built_in.chain(inside).collect(),
            outside: outside.into_iter().collect(),
        }
    }

    /// Whether an address is inside. What is taken out explicitly is outside, whatever else contains it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !self.outside.iter().any(|net| net.contains(&address))
            && self.inside.iter().any(|net| net.contains(&address))
    }
}

impl Default for Networks {
    fn default() -> Self {
        Self::new([], [])
    }
}
