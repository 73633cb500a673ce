//! What an HTTPRoute or a GRPCRoute means: parents, rules, backends. What this version does not honour refuses the whole
//! route, by name, rather than obeying half of it.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use weft_model::route::{PathMatch, Retry};

use super::Name;
use super::backend::{self, Backend, Reference};
use super::filter::{self, Filters, Place};
use super::kept::{Formed, Refusal};
use super::matches::{Matching, Ranked};
use super::patience::{self, Limits};
use crate::federation::derived::derived_name;
use crate::objects::kinds::MULTICLUSTER_GROUP;
use crate::objects::route::{BackendRef, GrpcMatch, HttpMatch, ParentRef, RouteRule, RouteSpec};
use crate::objects::{Object, decode, route};

/// Gateway API's limits.
pub(super) const PARENTS_MAX: usize = 32;
const RULES_MAX: usize = 16;
const MATCHES_MAX: usize = 64;
pub(super) const BACKENDS_MAX: usize = 16;
const WEIGHT_MAX: i64 = 1_000_000;

/// A route, as far as the mesh acts on it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// What it is about.
    pub(crate) about: About,
    /// The Services and ServiceImports that it is attached to. Other parents are other controllers' business.
    pub(crate) parents: Vec<Parent>,
    /// Its rules, in order.
    pub(crate) rules: Vec<Rule>,
}

/// What a kind of route is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TCPRoute.
    Tcp,
    /// TLSRoute: the server names that it is for.
    Tls(Vec<String>),
}

/// A Service, or the import of one, that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    /// The Service that is called. Of an import it is the one that is derived from it: what has its clusterset address (GEP-1748).
    pub(crate) service: Name,
    /// Of a ServiceImport: what it is an import of, which is its own name.
    pub(crate) import: Option<Name>,
    /// `None`: all ports.
    pub(crate) port: Option<u16>,
    /// A port's name.
    pub(crate) section: Option<String>,
    /// `spec.parentRefs[0]`.
    pub(crate) field: String,
}

/// A rule of a route.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) matches: Vec<Ranked>,
    pub(crate) backends: Vec<Weighted>,
    pub(crate) filters: Filters,
    pub(crate) limits: Limits,
    pub(crate) retry: Option<Retry>,
}

/// A backend of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    pub(crate) backend: Backend,
    pub(crate) weight: u32,
    pub(crate) filters: Filters,
}

impl Rule {
    /// Everything that it sends requests to, or copies of them.
    pub(crate) fn references(&self) -> impl Iterator<Item = &Backend> {
        let of_backends = self.backends.iter().map(|backend| &backend.filters);
        let mirrors = of_backends.chain([&self.filters]).flat_map(|filters| &filters.mirrors);
        let backends = self.backends.iter().map(|backend| &backend.backend);
        backends.chain(mirrors.map(|mirror| &mirror.backend))
    }
}

impl Route {
    /// Reads a route object.
    pub(crate) fn of(object: &Object) -> Formed<Self> {
        match object.kind.as_str() {
            "TCPRoute" | "TLSRoute" => super::streams::read(object),
            "GRPCRoute" => read::<GrpcMatch>(object, About::Grpc),
            _ => read::<HttpMatch>(object, About::Http),
        }
    }
}

impl About {
    /// Whether it is about streams of bytes, and not about requests.
    pub(crate) fn is_of_streams(&self) -> bool {
        matches!(self, Self::Tcp | Self::Tls(_))
    }
}

impl Parent {
    /// What it names, for people.
    pub(crate) fn named(&self) -> String {
        match &self.import {
            Some(import) => format!("the ServiceImport {import}"),
            None => format!("the Service {}", self.service),
        }
    }

    /// Whether the parent names a port, and not just the Service.
    pub(crate) fn names_port(&self) -> bool {
        self.port.is_some() || self.section.is_some()
    }

    /// Whether this port of the Service is meant.
    pub(crate) fn covers(&self, port: u16, name: &str) -> bool {
        self.port.is_none_or(|wanted| wanted == port) && self.section.as_deref().is_none_or(|wanted| wanted == name)
    }
}

/// What a parentRef of this group and kind is, if it is the mesh's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParentKind {
    Service,
    Import,
}

impl ParentKind {
    pub(super) fn of(group: Option<&str>, kind: Option<&str>) -> Option<Self> {
        match (group?, kind?) {
            // `core` is what the documentation's examples write for the group without a name.
            ("" | "core", "Service") => Some(Self::Service),
            (MULTICLUSTER_GROUP, "ServiceImport") => Some(Self::Import),
            _ => None,
        }
    }

    /// The Service that is called where something of this kind and name is the parent.
    fn called(self, name: Name) -> Name {
        match self {
            Self::Service => name,
            Self::Import => Name::new(name.namespace.as_str(), derived_name(&name)),
        }
    }
}

/// The Services that an invalid object may be about, as far as it can be told. `pointer`: `/spec/parentRefs`.
pub(crate) fn possible_services(object: &Object, pointer: &str) -> Vec<Name> {
    let entries = object
        .raw
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let text = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
    let called = entries.filter_map(|entry| {
        let kind = match entry.get("kind").and_then(Value::as_str)? {
            "Service" => ParentKind::Service,
            "ServiceImport" => ParentKind::Import,
            _ => return None,
        };
        let namespace = text(entry, "namespace").unwrap_or_else(|| object.namespace.clone());
        let name = text(entry, "name")?;
        Some(kind.called(Name { namespace, name }))
    });
    called.take(PARENTS_MAX).collect()
}

fn read<M: Matching + DeserializeOwned>(object: &Object, about: About) -> Formed<Route> {
    let decoded = decode::<route::Route<M>>(&object.raw).map_err(|error| vec![Refusal::from(error)])?;
    let RouteSpec {
        parent_refs,
        hostnames,
        use_default_gateways,
        rules,
    } = decoded.value.spec;
    let mut refusals = Vec::new();
    if hostnames
        .as_ref()
        .is_some_and(|hostnames| hostnames.as_array().is_none_or(|all| !all.is_empty()))
    {
        let message = "a route of the mesh matches the Service that was called, and no host names (GEP-1294)";
        refusals.push(Refusal::value(
            "spec.hostnames",
            message,
            "remove hostnames, or match the header Host",
        ));
    }
    if use_default_gateways.is_some() {
        let message = "is about gateways, and this is none";
        refusals.push(Refusal::value("spec.useDefaultGateways", message, "remove it"));
    }
    bound(parent_refs.len(), PARENTS_MAX, "spec.parentRefs", &mut refusals);
    bound(rules.len(), RULES_MAX, "spec.rules", &mut refusals);
    let parents = parent_refs
        .iter()
        .enumerate()
        .filter_map(|(i, parent)| read_parent(object, i, parent))
        .collect();
    let rules: Vec<Rule> = match rules.is_empty() {
        // The CustomResourceDefinition's default: one rule that matches everything.
        true => vec![Rule {
            name: String::new(),
            matches: vec![M::everything()],
            backends: Vec::new(),
            filters: Filters::default(),
            limits: Limits::default(),
            retry: None,
        }],
        false => rules
            .into_iter()
            .enumerate()
            .map(|(i, rule)| read_rule(object, i, rule, &mut refusals))
            .collect(),
    };
    match refusals.is_empty() {
        true => Ok((Route { about, parents, rules }, decoded.unknown)),
        false => Err(refusals),
    }
}

pub(super) fn read_parent(object: &Object, i: usize, parent: &ParentRef) -> Option<Parent> {
    let ParentRef {
        group,
        kind,
        namespace,
        name,
        section_name,
        port,
    } = parent;
    let kind = ParentKind::of(group.as_deref(), kind.as_deref())?;
    let name = Name {
        namespace: namespace.as_ref().unwrap_or(&object.namespace).clone(),
        name: name.clone(),
    };
    Some(Parent {
        import: (kind == ParentKind::Import).then(|| name.clone()),
        service: kind.called(name),
        port: *port,
        section: section_name.clone(),
        field: format!("spec.parentRefs[{i}]"),
    })
}

fn read_rule<M: Matching>(object: &Object, i: usize, rule: RouteRule<M>, refusals: &mut Vec<Refusal>) -> Rule {
    let field = format!("spec.rules[{i}]");
    let RouteRule {
        name,
        matches,
        filters,
        backend_refs,
        timeouts,
        retry,
        session_persistence,
    } = rule;
    let place = Place {
        object,
        grpc: M::GRPC,
        of_backend: false,
    };
    let filters = filter::read(place, &filters, &format!("{field}.filters"), refusals);
    let limits = patience::limits(timeouts.as_ref(), &format!("{field}.timeouts"), refusals);
    let retry = retry.map(|retry| patience::retry(&retry, &format!("{field}.retry"), refusals));
    if session_persistence.is_some() {
        let message = "sessionPersistence is not honoured by this version of Weft";
        refusals.push(Refusal::value(
            format!("{field}.sessionPersistence"),
            message,
            "remove sessionPersistence",
        ));
    }
    if name.len() > 253 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        refusals.push(Refusal::value(
            format!("{field}.name"),
            "is no name of a rule",
            "a-z, 0-9 and '-', at most 253",
        ));
    }
    bound(matches.len(), MATCHES_MAX, &format!("{field}.matches"), refusals);
    bound(
        backend_refs.len(),
        BACKENDS_MAX,
        &format!("{field}.backendRefs"),
        refusals,
    );
    let mut ranked: Vec<Ranked> = Vec::new();
    for (m, matches) in matches.iter().enumerate().take(MATCHES_MAX) {
        ranked.extend(matches.ranked(&format!("{field}.matches[{m}]"), refusals));
    }
    if matches.is_empty() {
        ranked.push(M::everything());
    }
    let mut backends = Vec::new();
    for (b, backend) in backend_refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{b}]");
        backends.extend(read_backend(place, field, backend, refusals));
    }
    let rule = Rule {
        name,
        matches: ranked,
        backends,
        filters,
        limits,
        retry,
    };
    check_paths(&rule, &field, refusals);
    rule
}

pub(super) fn read_backend(
    place: Place<'_>,
    field: String,
    written: &BackendRef,
    refusals: &mut Vec<Refusal>,
) -> Option<Weighted> {
    let BackendRef {
        group,
        kind,
        namespace,
        name,
        port,
        weight,
        filters,
    } = written;
    let place = Place {
        of_backend: true,
        ..place
    };
    let filters = filter::read(place, filters, &format!("{field}.filters"), refusals);
    let weight = weight.unwrap_or(1);
    if !(0..=WEIGHT_MAX).contains(&weight) {
        let message = format!("{weight} is no weight");
        let fix = format!("from 0 to {WEIGHT_MAX}");
        refusals.push(Refusal::value(format!("{field}.weight"), message, fix));
    }
    let reference = Reference {
        group: group.as_deref(),
        kind: kind.as_deref(),
        namespace: namespace.as_deref(),
        name,
        port: *port,
    };
    Some(Weighted {
        backend: backend::read(place.object, field, reference, refusals)?,
        weight: u32::try_from(weight).ok()?,
        filters,
    })
}

/// What filters need of the rest of their rule.
fn check_paths(rule: &Rule, field: &str, refusals: &mut Vec<Refusal>) {
    if rule.filters.redirect.is_some() && !rule.backends.is_empty() {
        refusals.push(Refusal {
            reason: "IncompatibleFilters",
            field: format!("{field}.backendRefs"),
            message: "a rule that redirects sends nowhere".to_owned(),
            fix: "remove backendRefs, or the filter RequestRedirect".to_owned(),
        });
    }
    let all = [&rule.filters]
        .into_iter()
        .chain(rule.backends.iter().map(|backend| &backend.filters));
    let replaces = all.into_iter().any(Filters::replaces_prefix);
    let is_prefix = |ranked: &Ranked| matches!(ranked.matches.path, Some(PathMatch::Prefix(_)));
    if replaces && !rule.matches.iter().all(is_prefix) {
        refusals.push(Refusal {
            reason: "IncompatibleFilters",
            field: format!("{field}.matches"),
            message: "replacePrefixMatch replaces the prefix that was matched, and not every match is of one"
                .to_owned(),
            fix: "match with type PathPrefix, or use ReplaceFullPath".to_owned(),
        });
    }
}

pub(super) fn bound(count: usize, most: usize, field: &str, refusals: &mut Vec<Refusal>) {
    if count > most {
        let message = format!("has {count} entries, and {most} is the limit");
        refusals.push(Refusal::value(field, message, "split the route"));
    }
}

/// A route's age, for precedence: by creation where the objects say it, the older first. In files nobody says it, and the
/// order of edits must not decide what a mesh does: then the name alone decides.
pub(crate) fn age(object: &Arc<Object>) -> (bool, String, String, String) {
    let created = object.created().unwrap_or_default().to_owned();
    (
        created.is_empty(),
        created,
        object.namespace.clone(),
        object.name.clone(),
    )
}
