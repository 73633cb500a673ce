//! EndpointSlices: which pods are behind a Service, and in which condition. Pure.
//!
//! In: Services and pods as they are. Out: [`Endpoint`]s for names and addresses, and the objects for the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::manifest::raw::PodSpec;
use crate::manifest::{Address, Family, Service, pod};

/// A pod, as far as it matters to Services.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `metadata.labels`.
    pub labels: &'a BTreeMap<String, String>,
    /// Decoded.
    pub spec: &'a PodSpec,
    /// Its addresses.
    pub ips: &'a [IpAddr],
    /// The node that it runs on.
    pub node: &'a str,
    /// The node's zone, or empty.
    pub zone: &'a str,
    /// Its condition `Ready`.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The cluster that it runs in, if that is another one; else empty.
    pub cluster: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// Its `hostname`, if its `subdomain` is the Service: it then has a name of its own there.
    pub hostname: Option<String>,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// The pod's number for each port of the Service, in its order; `None`: the pod has no such port.
    pub ports: Vec<Option<u16>>,
    /// The node.
    pub node: String,
    /// The zone, or empty.
    pub zone: String,
    /// Takes new traffic.
    pub ready: bool,
    /// Answers, terminating or not.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
}

/// As many endpoints as an EndpointSlice may have (API reference). Controllers take 100; with more, endpoints need not
/// move from slice to slice.
const MOST_ENDPOINTS: usize = 1000;

/// The pods behind a Service, in order of their names.
pub fn endpoints(service: &Service, members: &[Member<'_>]) -> Vec<Endpoint> {
    if service.selector.is_empty() || matches!(service.address, Address::External(_)) {
        return Vec::new();
    }
    let selected = members.iter().filter(|member| {
        member.namespace == service.object.namespace
            && !member.ips.is_empty()
            && service
                .selector
                .iter()
                .all(|(key, value)| member.labels.get(key) == Some(value))
    });
    let mut endpoints: Vec<Endpoint> = selected.map(|member| endpoint(service, member)).collect();
    endpoints.sort_by(|a, b| (&a.pod, &a.uid).cmp(&(&b.pod, &b.uid)));
    endpoints
}

fn endpoint(service: &Service, member: &Member<'_>) -> Endpoint {
    // KEP-1672: `serving` is the pod's readiness, `ready` the same unless it terminates.
    let serving = member.ready || service.publish_not_ready;
    let port = |port: &crate::manifest::ServicePort| pod::resolve_port(member.spec, &port.target, port.protocol);
    Endpoint {
        cluster: String::new(),
        namespace: member.namespace.to_owned(),
        pod: member.name.to_owned(),
        uid: member.uid.to_owned(),
        hostname: member
            .spec
            .hostname
            .clone()
            .filter(|_| member.spec.subdomain.as_ref() == Some(&service.object.name)),
        ips: member.ips.to_vec(),
        ports: service.ports.iter().map(port).collect(),
        node: member.node.to_owned(),
        zone: member.zone.to_owned(),
        ready: service.publish_not_ready || (member.ready && !member.terminating),
        serving,
        terminating: member.terminating,
    }
}

/// The EndpointSlice objects of a Service: name and object. One per family and set of ports.
pub fn slices(service: &Service, endpoints: &[Endpoint]) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for family in &service.families {
        let (v4, family) = (*family == Family::V4, family.as_str());
        let mut groups: BTreeMap<&[Option<u16>], Vec<Value>> = BTreeMap::new();
        for endpoint in endpoints {
            let Some(ip) = endpoint.ips.iter().find(|ip| ip.is_ipv4() == v4) else {
                continue;
            };
            groups.entry(&endpoint.ports).or_default().push(written(endpoint, *ip));
        }
        let chunks = groups
            .iter()
            .flat_map(|(ports, group)| group.chunks(MOST_ENDPOINTS).map(move |chunk| (ports, chunk)));
        for (i, (ports, chunk)) in chunks.enumerate() {
            let name = format!("{}-{}-{i}", service.object.name, family.to_ascii_lowercase());
            out.push((name.clone(), slice(service, &name, family, ports, chunk)));
        }
    }
    out
}

fn written(endpoint: &Endpoint, ip: IpAddr) -> Value {
    let mut value = json!({
        "addresses": [ip],
        "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
        "targetRef": {"kind": "Pod", "namespace": endpoint.namespace, "name": endpoint.pod, "uid": endpoint.uid},
        "nodeName": endpoint.node,
    });
    if !endpoint.zone.is_empty() {
        value["zone"] = json!(endpoint.zone);
    }
    if let Some(hostname) = &endpoint.hostname {
        value["hostname"] = json!(hostname);
    }
    value
}

fn slice(service: &Service, name: &str, family: &str, ports: &[Option<u16>], endpoints: &[Value]) -> Value {
    let ports = service.ports.iter().zip(ports).filter_map(|(declared, number)| {
        let mut port = json!({"name": declared.name, "port": (*number)?, "protocol": declared.protocol.as_str()});
        if let Some(app_protocol) = &declared.app_protocol {
            port["appProtocol"] = json!(app_protocol);
        }
        Some(port)
    });
    let ports: Vec<Value> = ports.collect();
    let object = &service.object;
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": object.namespace,
            "labels": {
                "kubernetes.io/service-name": object.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": object.name, "uid": object.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

/// Where a connection to a Service's port may go: ready pods, or else, as kube-proxy has it, those that still serve while
/// they terminate (KEP-1669).
pub fn backends(endpoints: &[Endpoint], port: usize, v4: bool) -> Vec<(IpAddr, u16)> {
    let reachable = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let wanted = endpoints.iter().filter(|endpoint| wanted(endpoint));
        let found = wanted.filter_map(|e| Some((*e.ips.iter().find(|ip| ip.is_ipv4() == v4)?, (*e.ports.get(port)?)?)));
        found.collect::<Vec<_>>()
    };
    let ready = reachable(&|endpoint| endpoint.ready);
    if ready.is_empty() {
        reachable(&|endpoint| endpoint.serving && endpoint.terminating)
    } else {
        ready
    }
}

#[cfg(test)]
mod tests;
