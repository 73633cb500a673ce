//! The mesh's network: a bridge in the supervisor's own namespace (the node's side), and one namespace per pod.
//!
//! In: address ranges. Out: [`PodNet`], a namespace with addresses, routes and settings, that goes when it is dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};

/// The ranges that pods get their addresses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSettings {
    /// IPv4 range of pods; its first address is the node's.
    pub v4: Ipv4Net,
    /// IPv6 range of pods, unless the machine has IPv6 switched off.
    pub v6: Option<Ipv6Net>,
    /// More addresses of the node's side, such as the DNS server's service address; pods reach them through the node.
    pub node_addresses: Vec<IpAddr>,
}

/// The bridge and the addresses given out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Net {
    settings: Arc<NetSettings>,
}

/// The addresses of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodAddresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6, if the mesh has it.
    pub v6: Option<Ipv6Addr>,
}

impl PodAddresses {
    /// Both, IPv4 first, as in `status.podIPs`.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(IpAddr::V4(self.v4)), self.v6.map(IpAddr::V6)].into_iter().flatten()
    }
}

impl Net {
    /// Makes the bridge in the calling process' network namespace, which must be a sandbox's.
    ///
    /// # Errors
    /// The kernel's answer, with the step that failed.
    pub async fn new(settings: NetSettings) -> io::Result<Self> {
        Ok(Self { settings: Arc::new(settings) })
    }

    /// The node's own address on the bridge, IPv4.
    pub fn gateway_v4(&self) -> Ipv4Addr {
        todo!()
    }

    /// The node's own address on the bridge, IPv6.
    pub fn gateway_v6(&self) -> Option<Ipv6Addr> {
        todo!()
    }

    /// Makes a pod's network namespace, joined to the bridge, with addresses that no other pod has.
    ///
    /// # Errors
    /// The range is used up, or the kernel's answer.
    pub async fn pod(&self) -> io::Result<PodNet> {
        let _ = &self.settings;
        todo!()
    }
}

/// A pod's network. Its addresses are given back, and its namespace goes, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct PodNet {}

impl PodNet {
    /// The pod's addresses.
    pub fn addresses(&self) -> PodAddresses {
        todo!()
    }

    /// Runs `work` on a thread of its own inside the pod's network namespace: sockets made there, and commands started
    /// there (iptables-restore), belong to the pod. Mounts and pids stay those of the supervisor.
    ///
    /// # Errors
    /// The namespace could not be entered, or what `work` returned.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let _ = work;
        todo!()
    }

    /// Opens a TCP connection to `port` from within the pod: to 127.0.0.1, then ::1, then the pod's own addresses.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn dial(&self, port: u16) -> io::Result<tokio::net::TcpStream> {
        let _ = port;
        todo!()
    }
}
