//! What is declared of ports: of a Service's, and of a pod's behind Services.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::destination::Protocol;

use super::ledger::Ledger;
use crate::index::{Index, Name};
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

/// What is declared of a Service's port: by the Service, else by the kinds of routes ([`Index::declared`]).
pub(super) fn of_service(
    index: &Index,
    name: &Name,
    service: &Service,
    port: &ServicePort,
    client: Option<&str>,
    ledger: &mut Ledger,
) -> Protocol {
    let declared = index.declared(name, service, port, client);
    declared.said_by.into_iter().for_each(|object| ledger.source(object));
    declared.protocol
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
