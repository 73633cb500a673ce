//! What is declared of ports: of a Service's, and of a pod's behind Services.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::destination::Protocol;

use super::ledger::Ledger;
use crate::index::{Declared, Index, Name};
use crate::objects::cluster::OPAQUE_PORTS_ANNOTATION;
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
    /// One of them, or a route that names its port, declares that requests come.
    of_requests: bool,
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

/// What is declared of a Service's port for clients of its own namespace, and by what, if not by the Service itself: routes,
/// or the annotation of pods. `annotated`: pods behind it have that, whether the index knows them or not. For people.
pub(super) fn said_of_service(index: &Index, name: &Name, port: u16, annotated: bool) -> (Protocol, Vec<String>) {
    let service = index.services.get(name).and_then(|kept| kept.valid.as_ref());
    let found = service.and_then(|(_, service)| Some((service, service.ports.iter().find(|own| own.port == port)?)));
    let Some((service, port)) = found else {
        return (Protocol::Undeclared, Vec::new());
    };
    let declared = index.declared(name, service, port, None);
    let mut routes: Vec<String> = declared
        .said_by
        .iter()
        .map(|route| route.reference().to_string())
        .collect();
    routes.sort();
    routes.dedup();
    let by_annotation = match declared.protocol {
        Protocol::Undeclared => annotated && !declared.of_requests,
        Protocol::Opaque => declared.annotated && routes.is_empty(),
        _ => false,
    };
    match by_annotation {
        true => (Protocol::Opaque, vec![OPAQUE_PORTS_ANNOTATION.to_owned()]),
        false => (declared.protocol, routes),
    }
}

/// The ports of a pod that Services lead to, ready or not, and those that an annotation names.
///
/// EndpointSlices and routes are no sources of it: of them it takes only which ports there are and their kind, and they
/// change with every other pod of the Service and every shift of a weight.
pub(super) fn of_pod(index: &Index, name: &Name, pod: &Pod, ledger: &mut Ledger) -> BTreeMap<u16, PodPort> {
    let mut ports: BTreeMap<u16, PodPort> = BTreeMap::new();
    for front in index.fronts(name, pod) {
        ledger.source(front.object);
        for (port, number) in front.ports() {
            let declared = index.declared_at_pods(front.name, front.service, port);
            ports.entry(number).or_default().lead(&front.name.name, &declared);
        }
    }
    for number in index.opaque_ports(name, pod) {
        ports.entry(number).or_default().annotate();
    }
    ports
}

impl PodPort {
    fn lead(&mut self, service: &str, declared: &Declared<'_>) {
        self.services.insert(service.to_owned());
        self.of_requests |= declared.of_requests;
        let protocol = declared.protocol;
        if self.disputed || protocol == Protocol::Undeclared || protocol == self.protocol {
            return;
        }
        self.disputed = self.protocol != Protocol::Undeclared;
        // Where Services disagree, the bytes decide.
        self.protocol = if self.disputed { Protocol::Undeclared } else { protocol };
    }

    /// An annotation says that mere bytes come here, and counts where nothing says that requests do.
    fn annotate(&mut self) {
        if !self.of_requests && self.protocol == Protocol::Undeclared {
            self.protocol = Protocol::Opaque;
        }
    }
}
