//! Links, addresses, routes and settings, one request each.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::PodAddresses;
use crate::ids::Ids;
use crate::mounts::Context;

/// The bridge's link-layer address, a locally administered one. Without one of its own a bridge takes the lowest of its
/// ports', which changes as pods come and go, and pods that remember the old one reach the node no more for a while.
const BRIDGE_ADDRESS: [u8; 6] = [0x02, b'w', b'e', b'f', b't', 0x00];

/// A netlink socket of the namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

/// A way to a network through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// Where it leads.
    pub(crate) to: IpNet,
    /// The next hop, at the link's other end; none if that end is meant itself.
    pub(crate) by: Option<IpAddr>,
}

impl Way {
    /// Whether both are of one family, and of one that the machine has.
    pub(crate) fn is_sound(&self, v6: bool) -> bool {
        let to_v4 = self.to.addr().is_ipv4();
        (v6 || to_v4) && self.by.is_none_or(|by| by.is_ipv4() == to_v4)
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Needs a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Makes a bridge with these addresses, and brings the loopback up. Returns the bridge's index.
    pub(crate) async fn bridge(&self, name: &str, addresses: &[(IpAddr, u8)]) -> io::Result<u32> {
        self.up("lo").await?;
        // Snooping would hold back IPv6 neighbour discovery, which is multicast.
        let options = InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]);
        let bridge = LinkBridge::new(name)
            .address(BRIDGE_ADDRESS.to_vec())
            .set_info_data(options)
            .build();
        let step = format!("making the bridge {name} (the kernel's bridge module is needed)");
        self.handle
            .link()
            .add(bridge)
            .execute()
            .await
            .map_err(kernel)
            .context(&step)?;
        let index = self.index(name).await?;
        for (ip, prefix) in addresses {
            self.address(index, *ip, *prefix).await?;
        }
        self.nowhere(addresses.iter().any(|(ip, _)| ip.is_ipv6())).await?;
        Ok(index)
    }

    /// Has addresses that nothing else leads to answered at once ("no route") rather than never.
    pub(crate) async fn nowhere(&self, v6: bool) -> io::Result<()> {
        let mut routes = vec![
            RouteMessageBuilder::<Ipv4Addr>::new()
                .kind(RouteType::Unreachable)
                .build(),
        ];
        if v6 {
            let unreachable = RouteMessageBuilder::<Ipv6Addr>::new().kind(RouteType::Unreachable);
            routes.push(unreachable.build());
        }
        for route in routes {
            let added = self.handle.route().add(route).execute().await;
            added.map_err(kernel).context("the node's default route")?;
        }
        Ok(())
    }

    /// Brings a link up with these addresses, each of them alone on it, and leads these ways through it.
    pub(crate) async fn wire(&self, link: &str, addresses: &[IpAddr], ways: &[Way]) -> io::Result<()> {
        let index = self.up(link).await?;
        for ip in addresses {
            self.address(index, *ip, if ip.is_ipv4() { 32 } else { 128 }).await?;
        }
        for way in ways {
            let step = format!("the route to {}", way.to);
            let route = RouteMessageBuilder::<IpAddr>::new().output_interface(index);
            let route = route.destination_prefix(way.to.network(), way.to.prefix_len());
            let route = route.map_err(io::Error::other).context(&step)?;
            let route = match way.by {
                // No network of the link has it.
                Some(by) => route.gateway(by).map_err(io::Error::other).context(&step)?.onlink(),
                None => route.scope(RouteScope::Link),
            };
            let added = self.handle.route().add(route.build()).execute().await;
            added.map_err(kernel).context(&step)?;
        }
        Ok(())
    }

    /// Makes a pair of links: `outer` here, joined to the bridge if there is one, and `inner` in `namespace`.
    pub(crate) async fn veth(&self, bridge: Option<u32>, outer: &str, inner: &str, namespace: &File) -> io::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(inner)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let pair = LinkVeth::new(outer, inner).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let pair = match bridge {
            Some(bridge) => pair.controller(bridge),
            None => pair,
        };
        let pair = pair.up().build();
        let step = format!("making the link {outer}");
        let made = self.handle.link().add(pair.clone()).execute().await.map_err(kernel);
        match made {
            // The last pod of that address: what is left of its namespace goes without the link too.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let old = self.index(outer).await?;
                self.handle
                    .link()
                    .del(old)
                    .execute()
                    .await
                    .map_err(kernel)
                    .context(&step)?;
                self.handle
                    .link()
                    .add(pair)
                    .execute()
                    .await
                    .map_err(kernel)
                    .context(&step)
            }
            made => made.context(&step),
        }
    }

    /// Brings a pod's links up, with its addresses and its default routes.
    pub(crate) async fn pod(
        &self,
        link: &str,
        addresses: &PodAddresses,
        prefixes: (u8, u8),
        gateway: &PodAddresses,
    ) -> io::Result<()> {
        self.up("lo").await?;
        let index = self.up(link).await?;
        self.address(index, IpAddr::V4(addresses.v4), prefixes.0).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway.v4).build();
        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .map_err(kernel)
            .context("a pod's default route")?;
        if let (Some(address), Some(gateway)) = (addresses.v6, gateway.v6) {
            self.address(index, IpAddr::V6(address), prefixes.1).await?;
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build();
            self.handle
                .route()
                .add(route)
                .execute()
                .await
                .map_err(kernel)
                .context("a pod's default IPv6 route")?;
        }
        Ok(())
    }

    /// Brings a link up. Returns its index.
    pub(crate) async fn up(&self, name: &str) -> io::Result<u32> {
        let index = self.index(name).await?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(kernel)
            .context(&format!("bringing {name} up"))?;
        Ok(index)
    }

    async fn index(&self, name: &str) -> io::Result<u32> {
        let step = format!("looking for the link {name}");
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        let link = found.map_err(kernel).context(&step)?;
        link.map(|link| link.header.index)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, step))
    }

    async fn address(&self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let mut request = self.handle.address().add(index, ip, prefix);
        if ip.is_ipv6() {
            // Duplicate detection would keep the address unusable for a second; ours are unique by construction.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request
            .execute()
            .await
            .map_err(kernel)
            .context(&format!("adding the address {ip}/{prefix}"))
    }
}

/// The kernel's answer as an ordinary error.
fn kernel(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Whether this machine has IPv6.
pub(crate) fn has_v6() -> bool {
    Path::new("/proc/sys/net/ipv6").is_dir()
}

/// Settings of the node's side, for the calling thread's network namespace.
pub(crate) fn node_settings() -> io::Result<()> {
    // Packets to nowhere are answered, each and at once; there is nowhere to forward to.
    set("ipv4/ip_forward", "1")?;
    set("ipv4/icmp_ratelimit", "0")?;
    if has_v6() {
        set("ipv6/conf/all/disable_ipv6", "0")?;
        set("ipv6/conf/default/disable_ipv6", "0")?;
        set("ipv6/conf/all/forwarding", "1")?;
        set("ipv6/icmp/ratelimit", "0")?;
        // Else the node could not ask for its neighbours during a link's first second, and what it forwards would be lost.
        at_once("default")?;
    }
    Ok(())
}

/// Lets the IPv6 addresses of a link, also those that the kernel gives it, be used without looking for duplicates; as
/// `default`, those of all links that are made later. For the calling thread's network namespace.
pub(crate) fn at_once(link: &str) -> io::Result<()> {
    match has_v6() {
        true => set(&format!("ipv6/conf/{link}/accept_dad"), "0"),
        false => Ok(()),
    }
}

/// Settings of a pod, for the calling thread's network namespace.
pub(crate) fn pod_settings() -> io::Result<()> {
    // As container runtimes do: without capabilities, low ports and ping still work.
    set("ipv4/ip_unprivileged_port_start", "0")?;
    set("ipv4/ping_group_range", &format!("0 {}", Ids::here()?.last_group()))?;
    if has_v6() {
        for scope in ["all", "default", "lo"] {
            set(&format!("ipv6/conf/{scope}/disable_ipv6"), "0")?;
        }
        set("ipv6/conf/default/accept_ra", "0")?;
        set("ipv6/conf/default/accept_dad", "0")?;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys/net").join(name), value).context(&format!("setting net/{name}"))
}
