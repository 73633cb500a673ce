//! The mesh's network: a bridge in the supervisor's own namespace (the node's side), and one namespace per pod.
//!
//! In: address ranges. Out: [`PodNet`], a namespace with addresses, routes and settings, that goes when it is dropped.
//! No namespace has a name: each lives as long as a descriptor of it, or a process in it, so none can be left over.

mod addresses;
mod links;
pub mod router;
pub mod wire;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use self::addresses::Pool;
use self::links::Netlink;
use self::wire::WireEnd;
use crate::mounts::Context;

/// The bridge's name on the node's side.
pub const BRIDGE: &str = "weft0";

/// The ranges that pods get their addresses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSettings {
    /// IPv4 range of pods; its first address is the node's.
    pub v4: Ipv4Net,
    /// IPv6 range of pods, ignored if the machine has IPv6 switched off.
    pub v6: Option<Ipv6Net>,
    /// More addresses of the node's side, such as the DNS server's service address; pods reach them through the node.
    pub node_addresses: Vec<IpAddr>,
    /// The node's place on the wire between several clusters, which is plugged in already; `None` if it is alone.
    pub wire: Option<WireEnd>,
}

/// The bridge and the addresses given out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Net {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: NetSettings,
    netlink: Netlink,
    bridge: u32,
    /// Guards which addresses are out; held for a look only.
    pool: Mutex<Pool>,
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
        [Some(IpAddr::V4(self.v4)), self.v6.map(IpAddr::V6)]
            .into_iter()
            .flatten()
    }
}

impl Net {
    /// Makes the bridge in the calling process' network namespace, which must be a sandbox's.
    ///
    /// # Errors
    /// The kernel's answer, with the step that failed.
    pub async fn new(mut settings: NetSettings) -> io::Result<Self> {
        if !links::has_v6() {
            settings.v6 = None;
            settings.node_addresses.retain(IpAddr::is_ipv4);
        }
        let pool = Pool::new(settings.v4, settings.v6)?;
        links::node_settings()?;
        let netlink = Netlink::open().context("opening netlink")?;
        let mut addresses = vec![(IpAddr::V4(pool.gateway().v4), settings.v4.prefix_len())];
        if let (Some(address), Some(range)) = (pool.gateway().v6, settings.v6) {
            addresses.push((IpAddr::V6(address), range.prefix_len()));
        }
        addresses.extend(
            settings
                .node_addresses
                .iter()
                .map(|ip| (*ip, if ip.is_ipv4() { 32 } else { 128 })),
        );
        let bridge = netlink.bridge(BRIDGE, &addresses).await?;
        if let Some(wire) = &settings.wire {
            wire.join(&netlink, &settings, pool.gateway()).await?;
        }
        let shared = Shared {
            settings,
            netlink,
            bridge,
            pool: Mutex::new(pool),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The node's own address on the bridge, IPv4.
    pub fn gateway_v4(&self) -> Ipv4Addr {
        self.gateway().v4
    }

    /// The node's own address on the bridge, IPv6; `None` if the mesh has none.
    pub fn gateway_v6(&self) -> Option<Ipv6Addr> {
        self.gateway().v6
    }

    /// The node's own addresses on the wire between clusters; none if it is alone.
    pub fn on_wire(&self) -> Vec<IpAddr> {
        let settings = &self.shared.settings;
        let wire = settings.wire.as_ref();
        wire.map(|wire| wire.addresses(settings.v6.is_some()))
            .unwrap_or_default()
    }

    fn gateway(&self) -> PodAddresses {
        self.shared
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .gateway()
    }

    /// Makes a pod's network namespace, joined to the bridge, with addresses that no other pod has.
    ///
    /// # Errors
    /// The range is used up, or the kernel's answer.
    pub async fn pod(&self) -> io::Result<PodNet> {
        let (index, addresses) = {
            let mut pool = self.shared.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.take()?
        };
        let mut pod = Pod {
            net: self.clone(),
            index,
            addresses,
            namespace: None,
        };
        let runtime = tokio::runtime::Handle::current();
        // The socket is bound to the namespace it is opened in; the rest is done from here.
        let (namespace, netlink) = on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            links::pod_settings()?;
            let _guard = runtime.enter();
            let namespace = File::open("/proc/thread-self/ns/net").context("opening a network namespace")?;
            Ok((namespace, Netlink::open().context("opening netlink")?))
        })
        .await?;
        let shared = &self.shared;
        shared
            .netlink
            .veth(Some(shared.bridge), &format!("pod{index}"), "eth0", &namespace)
            .await?;
        let prefixes = (
            shared.settings.v4.prefix_len(),
            shared.settings.v6.map_or(128, |range| range.prefix_len()),
        );
        netlink.pod("eth0", &addresses, prefixes, &self.gateway()).await?;
        pod.namespace = Some(namespace);
        Ok(PodNet(Arc::new(pod)))
    }
}

/// A pod's network. Its addresses are given back, and its namespace goes, when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct PodNet(Arc<Pod>);

#[derive(Debug)]
struct Pod {
    net: Net,
    index: u32,
    addresses: PodAddresses,
    /// `None` only while the namespace is being made.
    namespace: Option<File>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.net
            .shared
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .give_back(self.index);
    }
}

impl PodNet {
    /// The pod's addresses.
    pub fn addresses(&self) -> PodAddresses {
        self.0.addresses
    }

    /// The name of the pod's link on the node's side, for captures.
    pub fn link(&self) -> String {
        format!("pod{}", self.0.index)
    }

    /// Runs `work` on a thread of its own inside the pod's network namespace: sockets made there, and commands started
    /// there (iptables-restore), belong to the pod. Mounts and pids stay those of the supervisor. The thread ends with
    /// `work`; it goes on if the returned future is dropped.
    ///
    /// # Errors
    /// The namespace could not be entered, or what `work` returned.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let pod = Arc::clone(&self.0);
        on_thread(move || {
            let namespace = pod.namespace.as_ref().expect("set before a PodNet exists");
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a pod's network namespace")?;
            work()
        })
        .await
    }

    /// Opens a TCP connection to `port` from within the pod: to 127.0.0.1, then ::1, then the pod's own addresses.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for ip in loopback.into_iter().chain(self.addresses().all()) {
            let runtime = tokio::runtime::Handle::current();
            let made = self.run(move || {
                let _guard = runtime.enter();
                if ip.is_ipv4() {
                    TcpSocket::new_v4()
                } else {
                    TcpSocket::new_v6()
                }
            });
            match made.await?.connect(SocketAddr::new(ip, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Runs `work` on a thread of its own, which ends with it: what it does to its namespaces and rights ends too.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = oneshot::channel();
    std::thread::Builder::new().name("namespace".into()).spawn(move || {
        // Nobody waits any more if the caller was cancelled.
        let _ = send.send(work());
    })?;
    receive
        .await
        .unwrap_or_else(|_| Err(io::Error::other("a namespace thread ended early")))
}
