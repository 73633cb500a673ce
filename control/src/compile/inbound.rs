//! What a pod accepts, and what counts as inside the mesh.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_model::identity::TrustDomain;
use weft_model::inbound::{Inbound, InboundPort, Mode, Workload};
use weft_model::network::Networks;

use super::endpoints::{place, word};
use super::ledger::Ledger;
use super::ports::PodPort;
use super::{Compiled, MeshNetworks, exports, ports, remote};
use crate::index::{Index, Name, Topic};
use crate::objects::pod::Pod;

/// Networks that are told to proxies, beside those of the settings.
const NETWORKS_MAX: usize = 256;

/// What a pod accepts. `None`: it is not known.
pub(super) fn inbound(index: &Index, name: &Name) -> Option<Compiled<Inbound>> {
    let mut ledger = Ledger::default();
    ledger.topic(Topic::Pod(name.clone()));
    let (object, pod) = index.pods.get(name)?.valid.as_ref()?;
    ledger.source(object);
    if let Some(namespace) = index.namespaces.get(&name.namespace) {
        ledger.source(namespace);
    }
    let declared = ports::of_pod(index, name, pod, &mut ledger);
    let ports = declared.into_iter().map(|(port, declared)| InboundPort {
        port,
        protocol: declared.protocol,
        foreign: foreign(index, name, &declared, &mut ledger),
        services: declared.services.into_iter().collect(),
    });
    let ports = ports.collect();
    let inbound = Inbound {
        mode: mode(index, name, pod),
        ports,
        policies: Vec::new(),
        workload: Workload {
            namespace: name.namespace.clone(),
            name: word(&pod.workload),
            version: word(&pod.version),
            service_account: pod.service_account.clone(),
            place: place(index, &pod.node),
        },
    };
    Some(ledger.close(inbound))
}

/// Whose workloads may call a port of a pod: those of the peers to which a Service is exported that leads there.
fn foreign(index: &Index, pod: &Name, port: &PodPort, ledger: &mut Ledger) -> Vec<TrustDomain> {
    let services = port
        .services
        .iter()
        .map(|service| Name::new(pod.namespace.as_str(), service.as_str()));
    let told: BTreeSet<TrustDomain> = services
        .flat_map(|service| exports::told(index, &service, ledger))
        .collect();
    told.into_iter().collect()
}

/// A pod may only tighten; what cannot be understood is strict.
fn mode(index: &Index, name: &Name, pod: &Pod) -> Mode {
    match (index.namespace_mode(&name.namespace), &pod.inbound) {
        (Mode::Permissive, None | Some(Ok(Mode::Permissive))) => Mode::Permissive,
        _ => Mode::Strict,
    }
}

/// Addresses of Pods and Services that lie outside the private ranges, aggregated and bounded, and the settings' own.
pub(super) fn networks(index: &Index) -> Compiled<MeshNetworks> {
    let mut ledger = Ledger::default();
    ledger.topic(Topic::Networks);
    let built_in = Networks::default();
    let seen = index
        .pods_by_ip
        .keys()
        .chain(index.services_by_ip.keys())
        .copied()
        .chain(remote::addresses(index))
        .map(|ip| ip.to_canonical());
    let seen: BTreeSet<IpAddr> = seen.filter(|ip| !built_in.contains(*ip)).collect();
    let mut inside: Vec<IpNet> = aggregated(&seen);
    inside.extend(index.settings.inside.iter().map(IpNet::trunc));
    let inside = IpNet::aggregate(&inside);
    ledger.close(MeshNetworks {
        inside,
        outside: index.settings.outside.iter().map(IpNet::trunc).collect(),
    })
}

/// Networks that contain all addresses: single ones if they are few, else ever wider ones. Too wide costs a stranger in
/// the same network one look-up; too narrow would let a meshed address pass in plaintext.
fn aggregated(addresses: &BTreeSet<IpAddr>) -> Vec<IpNet> {
    const WIDTHS: [(u8, u8); 5] = [(32, 128), (24, 64), (20, 56), (16, 48), (12, 32)];
    let mut networks = Vec::new();
    for (v4, v6) in WIDTHS {
        let of = |ip: &IpAddr| {
            IpNet::new(*ip, if ip.is_ipv4() { v4 } else { v6 })
                .map(|net| net.trunc())
                .ok()
        };
        let all: BTreeSet<IpNet> = addresses.iter().filter_map(of).collect();
        networks = IpNet::aggregate(&all.into_iter().collect::<Vec<_>>());
        if networks.len() <= NETWORKS_MAX {
            return networks;
        }
    }
    // More than 256 networks of a million addresses each: then everything is inside.
    let families: BTreeSet<IpNet> = networks
        .iter()
        .filter_map(|net| IpNet::new(net.addr(), 0).ok())
        .map(|net| net.trunc())
        .collect();
    families.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_addresses_become_few_networks_that_contain_them_all() {
        let few: BTreeSet<IpAddr> = ["198.51.100.4", "198.51.100.5"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        assert_eq!(aggregated(&few), ["198.51.100.4/31".parse::<IpNet>().unwrap()]);
        let many: BTreeSet<IpAddr> = (0..60_000u32)
            .map(|i| IpAddr::from((0x0900_0000u32 + i * 512).to_be_bytes()))
            .collect();
        let networks = aggregated(&many);
        assert!(networks.len() <= NETWORKS_MAX);
        assert!(many.iter().all(|ip| networks.iter().any(|net| net.contains(ip))));
        assert!(
            !networks
                .iter()
                .any(|net| net.contains(&"198.51.100.4".parse::<IpAddr>().unwrap()))
        );
    }
}
