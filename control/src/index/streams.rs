//! What a TCPRoute or a TLSRoute means: parents, server names, one rule with its backends.

use super::filter::{Filters, Place};
use super::kept::{Formed, Refusal};
use super::patience::Limits;
use super::route::{About, BACKENDS_MAX, PARENTS_MAX, Route, Rule, bound, read_backend, read_parent};
use crate::objects::names::is_subdomain;
use crate::objects::route::{StreamRoute, StreamRouteRule, StreamRouteSpec};
use crate::objects::{Object, decode};

/// Server names of one route (Gateway API).
const HOSTS_MAX: usize = 16;

/// Reads a route object.
pub(super) fn read(object: &Object) -> Formed<Route> {
    let decoded = decode::<StreamRoute>(&object.raw).map_err(|error| vec![Refusal::from(error)])?;
    let StreamRouteSpec {
        parent_refs,
        hostnames,
        use_default_gateways,
        rules,
    } = decoded.value.spec;
    let mut refusals = Vec::new();
    let about = match object.kind.as_str() {
        "TLSRoute" => About::Tls(hosts(&hostnames, &mut refusals)),
        _ if hostnames.is_empty() => About::Tcp,
        _ => {
            let message = "TCP has no names of servers";
            refusals.push(Refusal::value(
                "spec.hostnames",
                message,
                "remove it, or write a TLSRoute",
            ));
            About::Tcp
        }
    };
    if use_default_gateways.is_some() {
        let message = "is about gateways, and this is none";
        refusals.push(Refusal::value("spec.useDefaultGateways", message, "remove it"));
    }
    bound(parent_refs.len(), PARENTS_MAX, "spec.parentRefs", &mut refusals);
    if rules.len() != 1 {
        let message = format!(
            "has {} entries, and needs exactly one: streams have nothing to tell rules apart",
            rules.len()
        );
        refusals.push(Refusal::value(
            "spec.rules",
            message,
            "write one rule, with several backendRefs",
        ));
    }
    let parents = parent_refs.iter().enumerate();
    let parents = parents
        .filter_map(|(i, parent)| read_parent(object, i, parent))
        .collect();
    let rules = rules
        .iter()
        .take(1)
        .map(|rule| read_rule(object, rule, &mut refusals))
        .collect();
    match refusals.is_empty() {
        true => Ok((Route { about, parents, rules }, decoded.unknown)),
        false => Err(refusals),
    }
}

fn hosts(written: &[String], refusals: &mut Vec<Refusal>) -> Vec<String> {
    if written.is_empty() || written.len() > HOSTS_MAX {
        let message = format!("must have 1 to {HOSTS_MAX} entries");
        let fix = "name the servers that clients ask for, or write a TCPRoute";
        refusals.push(Refusal::value("spec.hostnames", message, fix));
    }
    for (i, host) in written.iter().enumerate().take(HOSTS_MAX) {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if !is_subdomain(name) || name.parse::<std::net::IpAddr>().is_ok() {
            let message = format!("{host:?} is no name of a server");
            let fix = "a host name in lower case, with *. at its front or without";
            refusals.push(Refusal::value(format!("spec.hostnames[{i}]"), message, fix));
        }
    }
    written.to_vec()
}

fn read_rule(object: &Object, rule: &StreamRouteRule, refusals: &mut Vec<Refusal>) -> Rule {
    let StreamRouteRule { name, backend_refs } = rule;
    bound(backend_refs.len(), BACKENDS_MAX, "spec.rules[0].backendRefs", refusals);
    if backend_refs.is_empty() {
        let message = "names no backend";
        refusals.push(Refusal::value(
            "spec.rules[0].backendRefs",
            message,
            "name a Service and its port",
        ));
    }
    if name.len() > 253 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "is no name of a rule";
        refusals.push(Refusal::value(
            "spec.rules[0].name",
            message,
            "a-z, 0-9 and '-', at most 253",
        ));
    }
    let place = Place {
        object,
        grpc: false,
        of_backend: true,
    };
    let mut backends = Vec::new();
    for (i, backend) in backend_refs.iter().enumerate().take(BACKENDS_MAX) {
        let field = format!("spec.rules[0].backendRefs[{i}]");
        if !backend.filters.is_empty() {
            let message = "filters are about requests, and this route is about streams";
            refusals.push(Refusal::value(format!("{field}.filters"), message, "remove filters"));
            continue;
        }
        backends.extend(read_backend(place, field, backend, refusals));
    }
    Rule {
        name: name.clone(),
        matches: Vec::new(),
        backends,
        filters: Filters::default(),
        limits: Limits::default(),
        retry: None,
    }
}
