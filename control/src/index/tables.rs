//! Takes one object in or out of its tables, and says which topics that touches.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use weft_model::network::Networks;

use super::kept::guarded;
use super::own::outer_addresses;
use super::policy::possible_targets;
use super::remote::node_networks;
use super::route::possible_services;
use super::{Changed, Index, Kept, Name, ObjectRef, Policy, Route, Subset, Topic};
use crate::federation::slices;
use crate::objects::cluster::{INBOUND_ANNOTATION, place};
use crate::objects::pod::Pod;
use crate::objects::service::{EndpointSlice, Service};
use crate::objects::{DecodeError, Object};

/// One row of the slice tables: the pod, and the port that is served there.
type Member = (Name, u16, String);

impl Index {
    /// The names of all objects.
    pub(super) fn references(&self) -> Vec<ObjectRef> {
        let cluster = |kind: &'static str| move |name: &String| reference(kind, &Name::new("", name.as_str()));
        let named = |kind: &'static str| move |name: &Name| reference(kind, name);
        let mut all: Vec<ObjectRef> = self.namespaces.keys().map(cluster("Namespace")).collect();
        all.extend(self.nodes.keys().map(cluster("Node")));
        all.extend(self.pods.keys().map(named("Pod")));
        all.extend(self.services.keys().map(named("Service")));
        all.extend(self.slices.keys().map(named("EndpointSlice")));
        all.extend(self.routes.keys().cloned());
        all.extend(self.subsets.keys().map(named("ServiceSubset")));
        all.extend(self.policies.keys().cloned());
        all.extend(self.peers.keys().map(cluster("ClusterPeer")));
        all.extend(self.exports.keys().map(named("ServiceExport")));
        all.extend(self.imports.keys().map(named("ServiceImport")));
        all
    }

    pub(super) fn upsert(&mut self, object: &Arc<Object>, changed: &mut Changed) {
        self.change(&object.reference(), Some(object), changed);
    }

    pub(super) fn delete(&mut self, object: &ObjectRef, changed: &mut Changed) {
        self.change(object, None, changed);
    }

    fn change(&mut self, reference: &ObjectRef, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let name = Name::new(reference.namespace.as_str(), reference.name.as_str());
        match reference.kind.as_str() {
            "Namespace" => self.namespace(&reference.name, object, changed),
            "Node" => self.node(&reference.name, object, changed),
            "Pod" => self.pod_change(name, object, changed),
            "Service" => self.service(name, object, changed),
            "EndpointSlice" => self.slice(name, object, changed),
            "HTTPRoute" | "GRPCRoute" | "TCPRoute" | "TLSRoute" => self.route(reference, object, changed),
            "ServiceSubset" => self.subset(name, object, changed),
            "TrafficPolicy" | "XBackendTrafficPolicy" => self.policy(reference, object, changed),
            "ClusterPeer" => self.peer_change(&reference.name, object, changed),
            "ServiceExport" => self.export_change(name, object, changed),
            "ServiceImport" => self.import_change(name, object, changed),
            _ => {}
        }
    }

    fn namespace(&mut self, name: &str, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let says = |object: Option<&Arc<Object>>| {
            object.and_then(|object| object.annotations.get(INBOUND_ANNOTATION).cloned())
        };
        let version = |object: Option<&Arc<Object>>| object.map(|object| (object.uid.clone(), object.resource_version));
        self.namespace_opaque(name, object, changed);
        let old = match object {
            Some(object) => self.namespaces.insert(name.to_owned(), Arc::clone(object)),
            None => self.namespaces.remove(name),
        };
        if says(old.as_ref()) == says(object) && version(old.as_ref()) == version(object) {
            return;
        }
        let first = Name::new(name, "");
        let pods = self.pods.range(first..).take_while(|(pod, _)| pod.namespace == name);
        changed.topics.extend(pods.map(|(pod, _)| Topic::Pod(pod.clone())));
    }

    fn node(&mut self, name: &str, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let new = object.map(|object| (Arc::clone(object), place(object, &self.settings.cluster)));
        let old = match &new {
            Some(new) => self.nodes.insert(name.to_owned(), new.clone()),
            None => self.nodes.remove(name),
        };
        self.link_node(name, old.as_ref().map(|(object, _)| object), object, changed);
        let networks = |object: Option<&Arc<Object>>| object.map(|object| node_networks(object)).unwrap_or_default();
        if networks(old.as_ref().map(|(object, _)| object)) != networks(object) {
            self.touch_pod_networks(changed);
        }
        let of = |entry: &Option<(Arc<Object>, _)>| {
            entry
                .as_ref()
                .map(|(_, place): &(_, weft_model::endpoint::Place)| place.clone())
        };
        if of(&old) == of(&new) {
            return;
        }
        let pods: Vec<Name> = self.pods_by_node.of(&name.to_owned()).cloned().collect();
        for pod in pods {
            self.touch_pod(&pod, changed);
        }
        // Endpoints that are no pods: rare, and so are nodes that move.
        for kept in self.slices.values() {
            let Some(slice) = kept.form() else { continue };
            let on_node = slice
                .endpoints
                .iter()
                .any(|endpoint| endpoint.pod.is_none() && endpoint.node == name);
            if let (true, Some(service)) = (on_node, &slice.service) {
                changed.topics.insert(Topic::Endpoints(Name::new(
                    kept.object.namespace.as_str(),
                    service.as_str(),
                )));
            }
        }
    }

    fn link_node(&mut self, name: &str, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>, changed: &mut Changed) {
        let of = |object: Option<&Arc<Object>>| object.map(|object| node_addresses(object)).unwrap_or_default();
        let (old, new) = (of(old), of(new));
        let name = name.to_owned();
        old.iter().for_each(|ip| self.nodes_by_ip.unlink(ip, &name));
        new.iter().for_each(|ip| self.nodes_by_ip.link(ip, name.clone()));
        changed
            .topics
            .extend(old.symmetric_difference(&new).map(|ip| Topic::Address(*ip)));
    }

    /// All that depends on what a pod is, and on where.
    fn touch_pod(&self, name: &Name, changed: &mut Changed) {
        changed.topics.insert(Topic::Pod(name.clone()));
        let services = self
            .slices_by_pod
            .of(name)
            .map(|(service, _)| Topic::Endpoints(service.clone()));
        changed.topics.extend(services);
        let mut ips = self.pods.get(name).map(pod_addresses).unwrap_or_default();
        // Of a pod that has ended too: its endpoints end.
        ips.extend(
            self.pods
                .get(name)
                .and_then(Kept::form)
                .into_iter()
                .flat_map(|pod| &pod.ips),
        );
        for ip in &ips {
            changed.topics.insert(Topic::Address(*ip));
            let services = self
                .slices_by_ip
                .of(ip)
                .map(|(service, _)| Topic::Endpoints(service.clone()));
            changed.topics.extend(services);
        }
    }

    fn pod_change(&mut self, name: Name, object: Option<&Arc<Object>>, changed: &mut Changed) {
        self.touch_pod(&name, changed);
        let before = self.opaque_of(&name);
        let old = self.pods.remove(&name);
        let old_ips = old.as_ref().map(pod_addresses).unwrap_or_default();
        old_ips.iter().for_each(|ip| self.pods_by_ip.unlink(ip, &name));
        if let Some(pod) = old.as_ref().and_then(Kept::form) {
            self.pods_by_node.unlink(&pod.node, &name);
        }
        if let Some(object) = object {
            let kept = Kept::new(
                Arc::clone(object),
                guarded(object, |object| formed(Pod::of(object))),
                old,
                self.initial,
            );
            pod_addresses(&kept)
                .iter()
                .for_each(|ip| self.pods_by_ip.link(ip, name.clone()));
            if let Some(pod) = kept.form() {
                self.pods_by_node.link(&pod.node, name.clone());
            }
            self.pods.insert(name.clone(), kept);
        }
        let new_ips = self.pods.get(&name).map(pod_addresses).unwrap_or_default();
        self.touch_pod(&name, changed);
        self.touch_opaque(&name, before, old_ips != new_ips, changed);
        self.touch_networks(&old_ips, &new_ips, changed);
    }

    fn service(&mut self, name: Name, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.services.remove(&name);
        let old_ips: BTreeSet<IpAddr> = old.as_ref().map(service_addresses).unwrap_or_default();
        old_ips.iter().for_each(|ip| self.services_by_ip.unlink(ip, &name));
        let outer = old.as_ref().map(|old| outer_addresses(&old.object));
        outer
            .iter()
            .flatten()
            .for_each(|ip| self.services_by_outer_ip.unlink(ip, &name));
        if let Some(object) = object {
            let outer = outer_addresses(object);
            outer
                .iter()
                .for_each(|ip| self.services_by_outer_ip.link(ip, name.clone()));
            let kept = Kept::new(
                Arc::clone(object),
                guarded(object, |object| formed(Service::of(object))),
                old,
                self.initial,
            );
            service_addresses(&kept)
                .iter()
                .for_each(|ip| self.services_by_ip.link(ip, name.clone()));
            self.services.insert(name.clone(), kept);
        }
        let new_ips = self.services.get(&name).map(service_addresses).unwrap_or_default();
        changed
            .topics
            .extend(old_ips.union(&new_ips).map(|ip| Topic::Address(*ip)));
        changed.topics.insert(Topic::Service(name.clone()));
        changed.topics.insert(Topic::Endpoints(name.clone()));
        self.touch_pods_behind(&name, changed);
        self.touch_networks(&old_ips, &new_ips, changed);
    }

    /// What a pod's ports are called depends on the Services before it.
    fn touch_pods_behind(&self, service: &Name, changed: &mut Changed) {
        for slice in self.slices_by_service.of(service) {
            let Some(slice) = self.slices.get(slice).and_then(Kept::form) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                match &endpoint.pod {
                    Some(pod) => self.touch_inbound(&Name::new(&*pod.namespace, &*pod.name), changed),
                    None => self
                        .pods_by_ip
                        .of(&endpoint.address)
                        .for_each(|pod| self.touch_inbound(pod, changed)),
                }
            }
        }
    }

    pub(super) fn touch_inbound(&self, pod: &Name, changed: &mut Changed) {
        let ips: &[IpAddr] = self.pods.get(pod).and_then(Kept::form).map_or(&[], |pod| &pod.ips);
        changed.topics.extend(ips.iter().map(|ip| Topic::Address(*ip)));
        changed.topics.insert(Topic::Pod(pod.clone()));
        // What its ports are is what clients are told of the Services before them.
        if self.is_annotated(pod) {
            changed
                .topics
                .extend(self.fronts_of(pod).into_iter().map(Topic::Service));
        }
    }

    fn slice(&mut self, name: Name, object: Option<&Arc<Object>>, changed: &mut Changed) {
        // What was made of what other clusters say says nothing: it would stand beside itself, as something of this cluster.
        let object = object.filter(|object| !slices::is_slice(object));
        let old = self.slices.remove(&name);
        let old_members = self.link_slice(&name, old.as_ref(), false);
        let old_service = old.as_ref().and_then(slice_service);
        let old_ips = slice_addresses(old.as_ref());
        if let Some(object) = object {
            let kept = Kept::new(
                Arc::clone(object),
                guarded(object, |object| formed(EndpointSlice::of(object))),
                old,
                self.initial,
            );
            self.slices.insert(name.clone(), kept);
        }
        let new = self.slices.get(&name).cloned();
        let new_members = self.link_slice(&name, new.as_ref(), true);
        let new_service = new.as_ref().and_then(slice_service);
        for service in old_service.iter().chain(&new_service) {
            changed.topics.insert(Topic::Endpoints(service.clone()));
        }
        let new_ips = slice_addresses(new.as_ref());
        changed
            .topics
            .extend(old_ips.symmetric_difference(&new_ips).map(|ip| Topic::Address(*ip)));
        let moved = old_service != new_service;
        let pods: BTreeSet<&Name> = match moved {
            true => old_members.union(&new_members).map(|(pod, ..)| pod).collect(),
            false => old_members
                .symmetric_difference(&new_members)
                .map(|(pod, ..)| pod)
                .collect(),
        };
        for pod in pods {
            self.touch_inbound(pod, changed);
            if self.is_annotated(pod) {
                let services = old_service.iter().chain(&new_service);
                changed.topics.extend(services.cloned().map(Topic::Service));
            }
        }
    }

    /// Adds a slice's links, or takes them away. Returns the pods' ports that it says something of.
    fn link_slice(&mut self, name: &Name, kept: Option<&Kept<EndpointSlice>>, add: bool) -> BTreeSet<Member> {
        let mut members = BTreeSet::new();
        let (Some(kept), Some(service)) = (kept, kept.and_then(slice_service)) else {
            return members;
        };
        let Some(slice) = kept.form() else {
            return members;
        };
        let at = (service.clone(), name.clone());
        match add {
            true => self.slices_by_service.link(&service, name.clone()),
            false => self.slices_by_service.unlink(&service, name),
        }
        for endpoint in &slice.endpoints {
            let pod = match &endpoint.pod {
                Some(pod) => {
                    let pod = Name::new(pod.namespace.as_str(), pod.name.as_str());
                    match add {
                        true => self.slices_by_pod.link(&pod, at.clone()),
                        false => self.slices_by_pod.unlink(&pod, &at),
                    }
                    vec![pod]
                }
                None => {
                    match add {
                        true => self.slices_by_ip.link(&endpoint.address, at.clone()),
                        false => self.slices_by_ip.unlink(&endpoint.address, &at),
                    }
                    self.pods_by_ip.of(&endpoint.address).cloned().collect()
                }
            };
            for pod in pod {
                members.extend(
                    slice
                        .ports
                        .iter()
                        .map(|(port, number)| (pod.clone(), *number, port.clone())),
                );
            }
        }
        members
    }

    fn route(&mut self, reference: &ObjectRef, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.routes.remove(reference);
        let old_services = old.as_ref().map(route_services).unwrap_or_default();
        old_services
            .iter()
            .for_each(|service| self.routes_by_service.unlink(service, reference));
        let old_parents = old.as_ref().and_then(Kept::form).map(|route| route.parents.clone());
        if let Some(object) = object {
            let kept = Kept::new(Arc::clone(object), guarded(object, Route::of), old, self.initial);
            route_services(&kept)
                .iter()
                .for_each(|service| self.routes_by_service.link(service, reference.clone()));
            self.routes.insert(reference.clone(), kept);
        }
        let new = self.routes.get(reference);
        let services: BTreeSet<Name> = new
            .map(route_services)
            .unwrap_or_default()
            .into_iter()
            .chain(old_services)
            .collect();
        let parents = new.and_then(Kept::form).map(|route| route.parents.clone());
        for service in &services {
            // The kind of a route declares a port's protocol, for clients and for the pods behind it.
            if parents != old_parents {
                self.touch_pods_behind(service, changed);
            }
        }
        changed.topics.extend(services.into_iter().map(Topic::Service));
    }

    fn subset(&mut self, name: Name, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.subsets.remove(&name);
        if let Some(object) = object {
            let kept = Kept::new(Arc::clone(object), guarded(object, Subset::of), old, self.initial);
            self.subsets.insert(name.clone(), kept);
        }
        changed.topics.insert(Topic::Subset(name));
    }

    fn policy(&mut self, reference: &ObjectRef, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.policies.remove(reference);
        let mut targets = old.as_ref().map(policy_targets).unwrap_or_default();
        targets
            .iter()
            .for_each(|target| self.policies_by_target.unlink(target, reference));
        if let Some(object) = object {
            let kept = Kept::new(Arc::clone(object), guarded(object, Policy::of), old, self.initial);
            for target in policy_targets(&kept) {
                self.policies_by_target.link(&target, reference.clone());
                targets.insert(target);
            }
            self.policies.insert(reference.clone(), kept);
        }
        for target in &targets {
            match target.kind.as_str() {
                "Service" => {
                    let name = Name::new(target.namespace.as_str(), target.name.as_str());
                    changed.topics.insert(Topic::Service(name));
                }
                _ => {
                    let services = self.routes.get(target).map(route_services).unwrap_or_default();
                    changed.topics.extend(services.into_iter().map(Topic::Service));
                }
            }
        }
    }

    /// Addresses of the private ranges are inside anyway.
    fn touch_networks(&self, old: &BTreeSet<IpAddr>, new: &BTreeSet<IpAddr>, changed: &mut Changed) {
        let built_in = Networks::default();
        if old.symmetric_difference(new).any(|ip| !built_in.contains(*ip)) {
            changed.topics.insert(Topic::Networks);
        }
    }
}

fn reference(kind: &str, name: &Name) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

fn formed<T>(result: Result<T, DecodeError>) -> super::kept::Formed<T> {
    result
        .map(|form| (form, Vec::new()))
        .map_err(|error| vec![error.into()])
}

/// The addresses that are a pod's own; of one that is invalid and of which nothing valid is known, those that can be made
/// out. A pod that has ended has given its address back; one on its node's network has none of its own.
fn pod_addresses(kept: &Kept<Pod>) -> BTreeSet<IpAddr> {
    if let Some(pod) = kept.form() {
        return match pod.finished || pod.host_network {
            true => BTreeSet::new(),
            false => pod.ips.iter().copied().collect(),
        };
    }
    let at = |pointer| kept.object.raw.pointer(pointer);
    let phase = at("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") || at("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return BTreeSet::new();
    }
    let all = at("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    let all = all.filter_map(|ip| ip.get("ip").or(Some(ip)));
    parsed(all.chain(at("/status/podIP")))
}

/// A Service's addresses; of one that is invalid and of which nothing valid is known, those that can be made out.
fn service_addresses(kept: &Kept<Service>) -> BTreeSet<IpAddr> {
    if let Some(service) = kept.form() {
        return service.cluster_ips.iter().copied().collect();
    }
    let at = |pointer| kept.object.raw.pointer(pointer);
    let all = at("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
    parsed(all.chain(at("/spec/clusterIP")))
}

/// A node's own addresses.
fn node_addresses(node: &Object) -> BTreeSet<IpAddr> {
    let all = node.raw.pointer("/status/addresses").and_then(Value::as_array);
    parsed(all.into_iter().flatten().filter_map(|address| address.get("address")))
}

/// The addresses of a slice that are no pods.
fn slice_addresses(kept: Option<&Kept<EndpointSlice>>) -> BTreeSet<IpAddr> {
    let endpoints = kept.and_then(Kept::form).map_or(&[][..], |slice| &slice.endpoints);
    let strangers = endpoints.iter().filter(|endpoint| endpoint.pod.is_none());
    strangers.map(|endpoint| endpoint.address).collect()
}

fn parsed<'a>(values: impl Iterator<Item = &'a Value>) -> BTreeSet<IpAddr> {
    values.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

fn slice_service(kept: &Kept<EndpointSlice>) -> Option<Name> {
    let service = kept.form()?.service.as_ref()?;
    Some(Name::new(kept.object.namespace.as_str(), service.as_str()))
}

fn route_services(kept: &Kept<Route>) -> BTreeSet<Name> {
    match kept.form() {
        Some(route) => route.parents.iter().map(|parent| parent.service.clone()).collect(),
        None => possible_services(&kept.object, "/spec/parentRefs")
            .into_iter()
            .collect(),
    }
}

fn policy_targets(kept: &Kept<Policy>) -> BTreeSet<ObjectRef> {
    match kept.form() {
        Some(policy) => policy.targets.iter().map(|target| target.object.clone()).collect(),
        None => possible_targets(&kept.object).into_iter().collect(),
    }
}
