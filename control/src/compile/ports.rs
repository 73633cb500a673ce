//! What is declared of ports: of a Service's, and of a pod's behind Services.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::destination::Protocol;

use super::ledger::Ledger;
use crate::index::{About, Index, Name};
use crate::objects::pod::Pod;
use crate::objects::service::{Service, ServicePort};

/// A port of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodPort {
    /// What is declared of it.
    pub(super) protocol: Protocol,
    /// The Services that lead there.
    pub(super) services: BTreeSet<String>,
    /// Services declare different things.
    disputed: bool,
}

/// What is declared of a Service's port: by the Service, else by the kind of a route that names the port. Routes of other
/// namespaces declare it for their own clients only.
pub(super) fn of_service(
    index: &Index,
    name: &Name,
    service: &Service,
    port: &ServicePort,
    client: Option<&str>,
    ledger: &mut Ledger,
) -> Protocol {
    if port.protocol != Protocol::Undeclared || !crate::index::takes_routes(service) {
        return port.protocol;
    }
    let mut declared = Protocol::Undeclared;
    let (mut requests, mut streams) = (false, Protocol::Undeclared);
    for reference in index.routes_by_service.of(name) {
        if reference.namespace != name.namespace && Some(reference.namespace.as_str()) != client {
            continue;
        }
        let Some((object, route)) = index.routes.get(reference).and_then(|kept| kept.valid.as_ref()) else {
            continue;
        };
        let parents = route.parents.iter().filter(|parent| parent.service == *name);
        let covering: Vec<_> = parents.filter(|parent| parent.covers(port.port, &port.name)).collect();
        if covering.is_empty() {
            continue;
        }
        match &route.about {
            About::Tcp if streams == Protocol::Undeclared => streams = Protocol::Opaque,
            About::Tcp => {}
            About::Tls(_) => streams = Protocol::Tls,
            About::Http | About::Grpc => requests = true,
        }
        let names_it = covering.iter().any(|parent| parent.names_port());
        if !names_it && !route.about.is_of_streams() {
            continue;
        }
        ledger.source(object);
        declared = match (declared, &route.about) {
            (declared, About::Tcp | About::Tls(_)) => declared,
            (Protocol::Undeclared | Protocol::Grpc, About::Grpc) => Protocol::Grpc,
            // Routes of both kinds: HTTP of either version, told by the preface.
            _ => Protocol::Http,
        };
    }
    match (declared, requests) {
        // Only routes of streams: whatever comes is one. Beside routes of requests the bytes decide.
        (Protocol::Undeclared, false) => streams,
        (declared, _) => declared,
    }
}

/// What is declared of a Service's port for clients of its own namespace, and by which routes, if not by the Service itself.
/// For people.
pub(super) fn said_of_service(index: &Index, name: &Name, port: u16) -> (Protocol, Vec<String>) {
    let service = index.services.get(name).and_then(|kept| kept.valid.as_ref());
    let found = service.and_then(|(_, service)| Some((service, service.ports.iter().find(|own| own.port == port)?)));
    let Some((service, port)) = found else {
        return (Protocol::Undeclared, Vec::new());
    };
    let mut ledger = Ledger::default();
    let protocol = of_service(index, name, service, port, None, &mut ledger);
    let mut routes: Vec<String> = ledger
        .close(())
        .sources
        .into_iter()
        .map(|source| source.object)
        .collect();
    routes.sort();
    (protocol, routes)
}

/// The ports of a pod that Services lead to, ready or not.
///
/// EndpointSlices and routes are no sources of it: of them it takes only which ports there are and their kind, and they
/// change with every other pod of the Service and every shift of a weight.
pub(super) fn of_pod(index: &Index, name: &Name, pod: &Pod, ledger: &mut Ledger) -> BTreeMap<u16, PodPort> {
    let by_address = pod.ips.iter().flat_map(|ip| index.slices_by_ip.of(ip));
    let slices: BTreeSet<&(Name, Name)> = index.slices_by_pod.of(name).chain(by_address).collect();
    let mut ports: BTreeMap<u16, PodPort> = BTreeMap::new();
    for (service_name, slice_name) in slices {
        let service = index.services.get(service_name).and_then(|kept| kept.valid.as_ref());
        let slice = index.slices.get(slice_name).and_then(|kept| kept.valid.as_ref());
        let (Some((service_object, service)), Some((_, slice))) = (service, slice) else {
            continue;
        };
        ledger.source(service_object);
        for port in &service.ports {
            let protocol = of_service(index, service_name, service, port, None, &mut Ledger::default());
            for (_, number) in slice.ports.iter().filter(|(name, _)| *name == port.name) {
                ports.entry(*number).or_default().lead(&service_name.name, protocol);
            }
        }
    }
    ports
}

impl PodPort {
    fn lead(&mut self, service: &str, protocol: Protocol) {
        self.services.insert(service.to_owned());
        if self.disputed || protocol == Protocol::Undeclared || protocol == self.protocol {
            return;
        }
        self.disputed = self.protocol != Protocol::Undeclared;
        // Where Services disagree, the bytes decide.
        self.protocol = if self.disputed { Protocol::Undeclared } else { protocol };
    }
}
