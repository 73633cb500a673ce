//! The rules of a Service's port: every match of every route that is attached, in order of precedence, with every reference
//! followed.

use std::cmp::Ordering;
use std::sync::Arc;

use weft_model::endpoint::BackendPlace;
use weft_model::filter::{self, Filters, Mirror, PathChange};
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::route::{Backend, PathMatch, Rule, Rules};
use weft_model::traffic::Traffic;

use super::key::SetKey;
use super::ledger::Ledger;
use super::policies;
use crate::index::{self, Index, Name, NewPath, Rank, Route, Weighted, age};
use crate::objects::Object;

/// Matches of all routes on one port of a Service: what a proxy takes.
const RULES_MAX: usize = 4096;

/// A Service's port as the model names it.
pub(super) fn service_port(name: &Name, port: u16) -> ServicePort {
    ServicePort {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        port,
    }
}

/// The Service that is called, and how traffic to it is spread.
pub(super) type Called<'a> = (&'a Name, &'a Traffic);

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
pub(super) fn rules(
    index: &Index,
    (service, traffic): Called<'_>,
    port: (u16, &str),
    client: Option<&str>,
    ledger: &mut Ledger,
) -> Option<Rules> {
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
        if route.about.is_of_streams() {
            continue;
        }
        if !route
            .parents
            .iter()
            .any(|parent| parent.service == *service && parent.covers(port.0, port.1))
        {
            continue;
        }
        attached = true;
        ledger.source(object);
        candidates.extend(candidates_of(
            index,
            object,
            reference,
            route,
            (service, traffic),
            ledger,
        ));
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
    called: Called<'_>,
    ledger: &mut Ledger,
) -> Vec<Candidate<'a>> {
    let (service, _) = called;
    let mut candidates = Vec::new();
    for (i, rule) in route.rules.iter().enumerate() {
        let terms = policies::terms(index, service, Some((reference, i, rule)), ledger);
        for (m, ranked) in rule.matches.iter().enumerate() {
            let path = ranked.matches.path.as_ref();
            let redirect = rule.filters.redirect.as_ref();
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
                    backends: rule
                        .backends
                        .iter()
                        .map(|each| backend(index, each, path, called, ledger))
                        .collect(),
                    redirect: redirect.map(|redirect| self::redirect(redirect, path)),
                    filters: filters(index, &rule.filters, path, called, ledger),
                    timeouts: terms.timeouts,
                    retry: terms.retry.clone(),
                },
            });
        }
    }
    candidates
}

fn redirect(redirect: &index::Redirect, path: Option<&PathMatch>) -> filter::Redirect {
    filter::Redirect {
        scheme: redirect.scheme,
        host: redirect.host.clone(),
        port: redirect.port,
        path: change(redirect.path.as_ref(), path),
        status: redirect.status,
    }
}

fn change(new: Option<&NewPath>, path: Option<&PathMatch>) -> Option<PathChange> {
    new.map(|new| new.after(path))
}

fn filters(
    index: &Index,
    filters: &index::Filters,
    path: Option<&PathMatch>,
    called: Called<'_>,
    ledger: &mut Ledger,
) -> Filters {
    let mirror = |mirror: &index::Mirror| {
        let (place, service, subset) = resolve(index, &mirror.backend, ledger);
        let traffic = traffic(index, (&place, &service), called, ledger);
        Mirror {
            place,
            service,
            subset,
            numerator: mirror.numerator,
            denominator: mirror.denominator,
            traffic,
        }
    };
    Filters {
        request_headers: filters.request_headers.clone(),
        response_headers: filters.response_headers.clone(),
        rewrite: filters.rewrite.as_ref().map(|rewrite| filter::Rewrite {
            host: rewrite.host.clone(),
            path: change(rewrite.path.as_ref(), path),
        }),
        mirrors: filters.mirrors.iter().map(mirror).collect(),
    }
}

pub(super) fn backend(
    index: &Index,
    written: &Weighted,
    path: Option<&PathMatch>,
    called: Called<'_>,
    ledger: &mut Ledger,
) -> Backend {
    let (place, service, subset) = resolve(index, &written.backend, ledger);
    let traffic = traffic(index, (&place, &service), called, ledger);
    Backend {
        weight: written.weight,
        place,
        service,
        subset,
        filters: filters(index, &written.filters, path, called, ledger),
        traffic,
    }
}

/// How the traffic to a place of another Service is spread. `None`: as that of the Service that is called.
fn traffic(
    index: &Index,
    (place, service): (&BackendPlace, &ServicePort),
    (called, as_called): Called<'_>,
    ledger: &mut Ledger,
) -> Option<Arc<Traffic>> {
    let owner = Name::new(service.namespace.as_str(), service.name.as_str());
    let other = owner != *called && matches!(place, BackendPlace::Endpoints(_));
    let traffic = other.then(|| policies::traffic(index, &owner, ledger));
    traffic.filter(|traffic| traffic != as_called).map(Arc::new)
}

/// Where a reference leads: the place, the Service that it belongs to, and the subset's name or nothing.
fn resolve(index: &Index, backend: &index::Backend, ledger: &mut Ledger) -> (BackendPlace, ServicePort, String) {
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
                import: resolved.import,
            };
            let place = BackendPlace::Endpoints(key.to_string());
            (place, service_port(&service, backend.port), subset.unwrap_or_default())
        }
        Err(unresolved) => {
            ledger.hold(unresolved.hold);
            let place = BackendPlace::Unresolved(unresolved.message);
            (place, service_port(&backend.name, backend.port), String::new())
        }
    }
}
