//! Ports of pods that carry mere bytes because an annotation says so, of the pod or else of its Namespace.
//!
//! What is declared of a port, by a Service or by a route of requests that names it, counts before the annotation. Of the
//! rest both sides are told the same: the pod takes bytes there, and clients of each Service that leads there send them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Changed, Index, Kept, Name, Topic};
use crate::objects::Object;
use crate::objects::cluster::opaque_ports;
use crate::objects::pod::Pod;
use crate::objects::service::{EndpointSlice, Service, ServicePort, SliceEndpoint};

/// A Service that leads to a pod, and a slice that says so.
pub(crate) struct Front<'a> {
    pub(crate) name: &'a Name,
    pub(crate) object: &'a Arc<Object>,
    pub(crate) service: &'a Service,
    slice: &'a EndpointSlice,
}

/// What the Services before a pod depend on of it: its annotated ports and all its addresses.
pub(super) struct Facts {
    ports: BTreeSet<u16>,
    ips: Vec<IpAddr>,
    fronts: BTreeSet<Name>,
}

impl Index {
    /// The ports of a pod that carry mere bytes by its own annotation, else by its Namespace's.
    pub(crate) fn opaque_ports<'a>(&'a self, name: &Name, pod: &'a Pod) -> impl Iterator<Item = u16> + 'a {
        let of_namespace = || self.opaque_ports.get(&name.namespace);
        let ports = pod.opaque_ports.as_ref().or_else(of_namespace);
        ports.into_iter().flatten().copied()
    }

    /// The Services that lead to a pod, ready or not; one for each slice that says so. Of its own namespace: what others write
    /// must not change what it takes.
    pub(crate) fn fronts(&self, name: &Name, pod: &Pod) -> impl Iterator<Item = Front<'_>> {
        let by_address = pod.ips.iter().flat_map(|ip| self.slices_by_ip.of(ip));
        let slices = self.slices_by_pod.of(name).chain(by_address);
        let slices: BTreeSet<&(Name, Name)> = slices
            .filter(|(service, _)| service.namespace == name.namespace)
            .collect();
        slices.into_iter().filter_map(|(name, slice)| {
            let (object, service) = self.services.get(name)?.valid.as_ref()?;
            let slice = self.slices.get(slice)?.form()?;
            Some(Front {
                name,
                object,
                service,
                slice,
            })
        })
    }

    /// Whether the annotation of a pod behind a Service's port acts there.
    pub(super) fn is_opaque_behind(&self, service: &Name, port: &ServicePort) -> bool {
        let slices = self.slices_by_service.of(service);
        let mut slices = slices.filter_map(|slice| self.slices.get(slice)?.form());
        slices.any(|slice| {
            let mut numbers = slice.ports.iter().filter(|(name, _)| *name == port.name);
            numbers.any(|(_, number)| {
                let mut endpoints = slice.endpoints.iter();
                endpoints.any(|endpoint| self.is_opaque_at(endpoint, *number))
            })
        })
    }

    fn is_opaque_at(&self, endpoint: &SliceEndpoint, port: u16) -> bool {
        match &endpoint.pod {
            Some(pod) => self.takes_bytes(&Name::new(&*pod.namespace, &*pod.name), port),
            None => {
                let mut pods = self.pods_by_ip.of(&endpoint.address);
                pods.any(|pod| self.takes_bytes(pod, port))
            }
        }
    }

    /// Whether the annotation acts on a pod's port: nothing before it declares requests there.
    fn takes_bytes(&self, name: &Name, port: u16) -> bool {
        let Some(pod) = self.pods.get(name).and_then(Kept::form) else {
            return false;
        };
        let is_declared = |front: Front<'_>| {
            let mut ports = front.ports().filter(|(_, number)| *number == port);
            ports.any(|(own, _)| self.declared_at_pods(front.name, front.service, own).of_requests)
        };
        self.opaque_ports(name, pod).any(|own| own == port) && !self.fronts(name, pod).any(is_declared)
    }

    /// Whether an annotation says something of a pod's ports.
    pub(super) fn is_annotated(&self, name: &Name) -> bool {
        let pod = self.pods.get(name).and_then(Kept::form);
        pod.is_some_and(|pod| self.opaque_ports(name, pod).next().is_some())
    }

    /// The Services that slices name before a pod, whether they are there or not.
    pub(super) fn fronts_of(&self, name: &Name) -> BTreeSet<Name> {
        let pod = self.pods.get(name).and_then(Kept::form);
        let by_address = pod.into_iter().flat_map(|pod| &pod.ips);
        let by_address = by_address.flat_map(|ip| self.slices_by_ip.of(ip));
        let slices = self.slices_by_pod.of(name).chain(by_address);
        let own = slices.filter(|(service, _)| service.namespace == name.namespace);
        own.map(|(service, _)| service.clone()).collect()
    }

    /// What the Services before a pod depend on of it, now.
    pub(super) fn opaque_of(&self, name: &Name) -> Facts {
        let pod = self.pods.get(name).and_then(Kept::form);
        Facts {
            ports: pod.into_iter().flat_map(|pod| self.opaque_ports(name, pod)).collect(),
            ips: pod.map(|pod| pod.ips.clone()).unwrap_or_default(),
            fronts: self.fronts_of(name),
        }
    }

    /// After a change of a pod: the Services before it, if what they depend on of it has changed. Of most changes nothing
    /// has, and they would be many. `moved`: its address is another's now, or its own again.
    pub(super) fn touch_opaque(&self, name: &Name, before: Facts, moved: bool, changed: &mut Changed) {
        let after = self.opaque_of(name);
        let is_same = before.ports == after.ports && before.ips == after.ips && !moved;
        if is_same || (before.ports.is_empty() && after.ports.is_empty()) {
            return;
        }
        let fronts = before.fronts.into_iter().chain(after.fronts);
        changed.topics.extend(fronts.map(Topic::Service));
    }

    /// Takes in what a Namespace's annotation says of its pods' ports.
    pub(super) fn namespace_opaque(&mut self, name: &str, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let new = object.and_then(|object| opaque_ports(object)?.ok());
        if self.opaque_ports.get(name) == new.as_ref() {
            return;
        }
        match new {
            Some(ports) => self.opaque_ports.insert(name.to_owned(), ports),
            None => self.opaque_ports.remove(name),
        };
        let first = Name::new(name, "");
        let pods = self.pods.range(first..).take_while(|(pod, _)| pod.namespace == name);
        for (pod, _) in pods {
            self.touch_inbound(pod, changed);
            changed
                .topics
                .extend(self.fronts_of(pod).into_iter().map(Topic::Service));
        }
    }
}

impl<'a> Front<'a> {
    /// The Service's ports, and the pod's that each leads to.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (&'a ServicePort, u16)> + 'a {
        let slice = self.slice;
        self.service.ports.iter().flat_map(move |port| {
            let numbers = slice.ports.iter().filter(|(name, _)| *name == port.name);
            numbers.map(move |(_, number)| (port, *number))
        })
    }
}
