//! The rules for opaque streams of a Service's port: those of TCPRoutes and TLSRoutes, in order of precedence.

use std::cmp::Reverse;
use std::sync::Arc;

use weft_model::stream::{StreamRule, Streams};

use super::ledger::Ledger;
use super::rules::{Called, backend};
use crate::index::{About, Index, age};

/// Server names of all routes on one port of a Service: what a proxy takes.
const RULES_MAX: usize = 4096;

/// `None`: no route is attached. Routes of the client's own namespace win; then whole server names over those with a star,
/// longer ones over shorter, any name over none; then the older route, and the name.
pub(super) fn streams(
    index: &Index,
    called: Called<'_>,
    port: (u16, &str),
    client: Option<&str>,
    ledger: &mut Ledger,
) -> Option<Streams> {
    let (service, _) = called;
    let mut candidates = Vec::new();
    for reference in index.routes_by_service.of(service) {
        let of_service = reference.namespace == service.namespace;
        if !of_service && Some(reference.namespace.as_str()) != client {
            continue;
        }
        let Some((object, route)) = index.routes.get(reference).and_then(|kept| kept.valid.as_ref()) else {
            continue;
        };
        let mut parents = route.parents.iter();
        let attached = parents.any(|parent| parent.service == *service && parent.covers(port.0, port.1));
        let hosts: Vec<Option<&String>> = match &route.about {
            About::Tcp => vec![None],
            About::Tls(hosts) => hosts.iter().map(Some).collect(),
            About::Http | About::Grpc => continue,
        };
        let Some(rule) = route.rules.first().filter(|_| attached) else {
            continue;
        };
        ledger.source(object);
        for host in hosts {
            let backends = rule.backends.iter();
            let backends = backends
                .map(|each| backend(index, each, None, called, ledger))
                .collect();
            let rank = host.map(|host| (host.starts_with('*'), Reverse(host.len())));
            let made = StreamRule {
                route: reference.clone(),
                index: 0,
                name: rule.name.clone(),
                host: host.cloned(),
                backends,
            };
            candidates.push((
                (of_service, rank.is_none(), rank, age(object), reference.kind.clone()),
                made,
            ));
        }
    }
    if candidates.is_empty() {
        return None;
    }
    if candidates.len() > RULES_MAX {
        // As for rules of requests: half of them would be another meaning.
        let count = candidates.len();
        let message = format!("the routes of {service} have {count} server names, and {RULES_MAX} is the limit");
        ledger.hold(Some(message));
        return Some(Streams { rules: Vec::new() });
    }
    candidates.sort_by(|(a, _), (b, _)| a.cmp(b));
    let rules = candidates.into_iter().map(|(_, rule)| Arc::new(rule)).collect();
    Some(Streams { rules })
}
