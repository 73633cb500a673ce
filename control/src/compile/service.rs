//! One port of a Service, as one client sees it: protocol, rules in order of precedence, locality.

use std::cmp::Ordering;
use std::sync::Arc;

use weft_model::destination::{Protocol, Service};
use weft_model::endpoint::BackendPlace;
use weft_model::feature;
use weft_model::filter::Filters;
use weft_model::locality::Locality;
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::route::{Backend, RetryBudget, Rule, Rules, Timeouts};

use super::key::{ServiceKey, SetKey};
use super::ledger::Ledger;
use super::{Compiled, ports};
use crate::index::{self, Index, Name, Rank, Route, Topic, age, takes_routes};
use crate::objects::Object;

/// Matches of all routes on one port of a Service: what a proxy takes.
const RULES_MAX: usize = 4096;

/// The port of a Service. `None`: there is none.
pub(super) fn service(index: &Index, key: &ServiceKey) -> Option<Compiled<Service>> {
    let mut ledger = Ledger::default();
    let ServiceKey {
        service: name,
        port,
        client,
    } = key;
    ledger.topic(Topic::Service(name.clone()));
    let kept = index.services.get(name)?;
    ledger.hold(kept.hold());
    let mut value = Service {
        port: service_port(name, *port),
        protocol: Protocol::Undeclared,
        rules: None,
        endpoints: SetKey {
            service: name.clone(),
            port: *port,
            subset: None,
        }
        .to_string(),
        locality: Locality::default(),
        retry_budget: RetryBudget::default(),
    };
    let Some((object, service)) = &kept.valid else {
        return kept.hold().map(|_| ledger.close(value));
    };
    let declared = service.port(*port).filter(|_| !service.external)?;
    ledger.source(object);
    value.protocol = ports::of_service(index, name, service, declared, client.as_deref(), &mut ledger);
    value.locality = locality(index, name, &mut ledger);
    if takes_routes(service) {
        value.rules = rules(
            index,
            name,
            (declared.port, &declared.name),
            client.as_deref(),
            &mut ledger,
        );
    }
    if value.rules.is_some() {
        ledger.requires(feature::HTTP_ROUTES);
    }
    Some(ledger.close(value))
}

fn service_port(name: &Name, port: u16) -> ServicePort {
    ServicePort {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        port,
    }
}

fn locality(index: &Index, service: &Name, ledger: &mut Ledger) -> Locality {
    for policy in index.policies_by_service.of(service) {
        ledger.hold(index.policies.get(policy).and_then(|kept| kept.hold()));
    }
    let acting = index
        .acting_policy(service)
        .and_then(|name| index.policies.get(name)?.valid.as_ref());
    let Some((object, policy)) = acting else {
        return Locality::default();
    };
    ledger.source(object);
    let Some(locality) = policy.locality else {
        return Locality::default();
    };
    ledger.requires(feature::LOCALITY);
    locality
}

/// A rule with one match, before the order is made.
struct Candidate<'a> {
    /// Routes of the client's own namespace win over those of the Service's.
    of_service: bool,
    rank: &'a Rank,
    age: (bool, String, String, String),
    kind: &'a str,
    place: (usize, usize),
    rule: Rule,
}

impl Candidate<'_> {
    /// Gateway API's precedence across all routes: the match, then the route's age, then its name, then its order.
    fn precedence(&self, other: &Self) -> Ordering {
        let key = |candidate: &Self| candidate.of_service;
        key(self)
            .cmp(&key(other))
            .then_with(|| self.rank.cmp(other.rank))
            .then_with(|| self.age.cmp(&other.age))
            .then_with(|| self.kind.cmp(other.kind))
            .then_with(|| self.place.cmp(&other.place))
    }
}

/// `None`: no route is attached.
fn rules(index: &Index, service: &Name, port: (u16, &str), client: Option<&str>, ledger: &mut Ledger) -> Option<Rules> {
    let mut candidates = Vec::new();
    let mut attached = false;
    for reference in index.routes_by_service.of(service) {
        if reference.namespace != service.namespace && Some(reference.namespace.as_str()) != client {
            continue;
        }
        let Some(kept) = index.routes.get(reference) else {
            continue;
        };
        ledger.hold(kept.hold());
        let Some((object, route)) = &kept.valid else {
            continue;
        };
        if !route
            .parents
            .iter()
            .any(|parent| parent.service == *service && parent.covers(port.0, port.1))
        {
            continue;
        }
        attached = true;
        ledger.source(object);
        candidates.extend(candidates_of(index, object, reference, route, service, ledger));
    }
    if !attached {
        return None;
    }
    candidates.sort_by(Candidate::precedence);
    if candidates.len() > RULES_MAX {
        // Half of the rules would be another meaning: what proxies have stays, and no request is sent astray.
        let message = format!(
            "the routes of {service} have {} matches, and {RULES_MAX} is the limit",
            candidates.len()
        );
        tracing::error!(service = %service, matches = candidates.len(), "too many matches on one service");
        ledger.hold(Some(message));
        return Some(Rules { rules: Vec::new() });
    }
    Some(Rules {
        rules: candidates
            .into_iter()
            .map(|candidate| Arc::new(candidate.rule))
            .collect(),
    })
}

fn candidates_of<'a>(
    index: &Index,
    object: &Arc<Object>,
    reference: &'a ObjectRef,
    route: &'a Route,
    service: &Name,
    ledger: &mut Ledger,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (i, rule) in route.rules.iter().enumerate() {
        let backends: Vec<Backend> = rule
            .backends
            .iter()
            .map(|backend| resolve(index, backend, ledger))
            .collect();
        for (m, ranked) in rule.matches.iter().enumerate() {
            candidates.push(Candidate {
                of_service: reference.namespace == service.namespace,
                rank: &ranked.rank,
                age: age(object),
                kind: &reference.kind,
                place: (i, m),
                rule: Rule {
                    route: reference.clone(),
                    index: u32::try_from(i).unwrap_or(u32::MAX),
                    name: rule.name.clone(),
                    matches: ranked.matches.clone(),
                    backends: backends.clone(),
                    redirect: None,
                    filters: Filters::default(),
                    timeouts: Timeouts::default(),
                    retry: None,
                },
            });
        }
    }
    candidates
}

fn resolve(index: &Index, backend: &index::Backend, ledger: &mut Ledger) -> Backend {
    let (resolved, topics) = index.resolve(backend);
    ledger.topics(topics);
    match resolved {
        Ok(resolved) => {
            resolved.objects.into_iter().for_each(|object| ledger.source(object));
            let (service, subset) = (resolved.service, resolved.subset);
            let key = SetKey {
                service: service.clone(),
                port: backend.port,
                subset: subset.clone(),
            };
            Backend {
                weight: backend.weight,
                place: BackendPlace::Endpoints(key.to_string()),
                service: service_port(&service, backend.port),
                subset: subset.unwrap_or_default(),
                filters: Filters::default(),
            }
        }
        Err(unresolved) => {
            ledger.hold(unresolved.hold);
            Backend {
                weight: backend.weight,
                place: BackendPlace::Unresolved(unresolved.message),
                service: service_port(&backend.name, backend.port),
                subset: String::new(),
                filters: Filters::default(),
            }
        }
    }
}
