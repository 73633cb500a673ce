//! What an HTTPRoute or a GRPCRoute means: parents, rules, backends. What this version does not honour refuses the whole
//! route, by name, rather than obeying half of it.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Name;
use super::kept::{Formed, Refusal};
use super::matches::{Matching, Ranked};
use crate::objects::kinds::WEFT_GROUP;
use crate::objects::names::is_subdomain;
use crate::objects::route::{BackendRef, GrpcMatch, HttpMatch, ParentRef, RouteRule, RouteSpec};
use crate::objects::{Object, decode, route};

/// Gateway API's limits.
const PARENTS_MAX: usize = 32;
const RULES_MAX: usize = 16;
const MATCHES_MAX: usize = 64;
const BACKENDS_MAX: usize = 16;
const WEIGHT_MAX: i64 = 1_000_000;

/// A route, as far as the mesh acts on it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// Whether it is a GRPCRoute.
    pub(crate) grpc: bool,
    /// The Services that it is attached to. Other parents are other controllers' business.
    pub(crate) parents: Vec<Parent>,
    /// Its rules, in order.
    pub(crate) rules: Vec<Rule>,
}

/// A Service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) service: Name,
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
    pub(crate) backends: Vec<Backend>,
}

/// Where requests go, before anyone looked whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) kind: BackendKind,
    pub(crate) name: Name,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    /// `spec.rules[0].backendRefs[1]`.
    pub(crate) field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Service,
    Subset,
    /// Group and kind of something that cannot be a backend here.
    Other(String),
}

impl Route {
    /// Reads a route object.
    pub(crate) fn of(object: &Object) -> Formed<Self> {
        match object.kind.as_str() {
            "GRPCRoute" => read::<GrpcMatch>(object, true),
            _ => read::<HttpMatch>(object, false),
        }
    }
}

impl Parent {
    /// Whether the parent names a port, and not just the Service.
    pub(crate) fn names_port(&self) -> bool {
        self.port.is_some() || self.section.is_some()
    }

    /// Whether this port of the Service is meant.
    pub(crate) fn covers(&self, port: u16, name: &str) -> bool {
        self.port.is_none_or(|wanted| wanted == port) && self.section.as_deref().is_none_or(|wanted| wanted == name)
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
    let service = entries.filter(|entry| entry.get("kind").and_then(Value::as_str) == Some("Service"));
    let text = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
    service
        .filter_map(|entry| {
            let namespace = text(entry, "namespace").unwrap_or_else(|| object.namespace.clone());
            Some(Name {
                namespace,
                name: text(entry, "name")?,
            })
        })
        .take(PARENTS_MAX)
        .collect()
}

fn read<M: Matching + DeserializeOwned>(object: &Object, grpc: bool) -> Formed<Route> {
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
        }],
        false => rules
            .into_iter()
            .enumerate()
            .map(|(i, rule)| read_rule(object, i, rule, &mut refusals))
            .collect(),
    };
    match refusals.is_empty() {
        true => Ok((Route { grpc, parents, rules }, decoded.unknown)),
        false => Err(refusals),
    }
}

fn read_parent(object: &Object, i: usize, parent: &ParentRef) -> Option<Parent> {
    let ParentRef {
        group,
        kind,
        namespace,
        name,
        section_name,
        port,
    } = parent;
    // `core` is what the documentation's examples write for the group without a name.
    let service = matches!(group.as_deref(), Some("" | "core")) && kind.as_deref() == Some("Service");
    service.then(|| Parent {
        service: Name {
            namespace: namespace.as_ref().unwrap_or(&object.namespace).clone(),
            name: name.clone(),
        },
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
    filters_refused(filters.as_ref(), &format!("{field}.filters"), refusals);
    let unsupported = [
        ("timeouts", timeouts),
        ("retry", retry),
        ("sessionPersistence", session_persistence),
    ];
    for (part, value) in unsupported {
        if value.is_some() {
            let message = format!("{part} are not honoured by this version of Weft");
            refusals.push(Refusal::value(
                format!("{field}.{part}"),
                message,
                format!("remove {part}"),
            ));
        }
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
        backends.extend(read_backend(
            object,
            format!("{field}.backendRefs[{b}]"),
            backend,
            refusals,
        ));
    }
    Rule {
        name,
        matches: ranked,
        backends,
    }
}

fn filters_refused(filters: Option<&Value>, field: &str, refusals: &mut Vec<Refusal>) {
    let Some(filters) = filters else { return };
    let list = filters.as_array().map(Vec::as_slice).unwrap_or_default();
    if filters.is_array() && list.is_empty() {
        return;
    }
    let kinds: Vec<&str> = list
        .iter()
        .filter_map(|filter| filter.get("type").and_then(Value::as_str))
        .collect();
    let message = format!("filters are not honoured by this version of Weft: {}", kinds.join(", "));
    let fix = "remove the filters".to_owned();
    refusals.push(Refusal {
        reason: "IncompatibleFilters",
        field: field.to_owned(),
        message,
        fix,
    });
}

fn read_backend(object: &Object, field: String, backend: &BackendRef, refusals: &mut Vec<Refusal>) -> Option<Backend> {
    let BackendRef {
        group,
        kind,
        namespace,
        name,
        port,
        weight,
        filters,
    } = backend;
    let before = refusals.len();
    filters_refused(filters.as_ref(), &format!("{field}.filters"), refusals);
    let kind = match (
        group.as_deref().unwrap_or_default(),
        kind.as_deref().unwrap_or("Service"),
    ) {
        ("" | "core", "Service") => BackendKind::Service,
        (WEFT_GROUP, "ServiceSubset") => BackendKind::Subset,
        ("", kind) => BackendKind::Other(kind.to_owned()),
        (group, kind) => BackendKind::Other(format!("{kind} of {group}")),
    };
    let namespace = namespace.as_ref().unwrap_or(&object.namespace);
    for (part, value) in [("name", name), ("namespace", namespace)] {
        if !is_subdomain(value) {
            let message = format!("{value:?} is no name of an object");
            refusals.push(Refusal::value(
                format!("{field}.{part}"),
                message,
                "a-z, 0-9, '-' and '.'",
            ));
        }
    }
    let port = match (&kind, port) {
        // What cannot be a backend has no need of a port.
        (BackendKind::Other(_), None) => Some(0),
        (_, port) => backend_port(*port, &field, refusals),
    };
    let weight = weight.unwrap_or(1);
    if !(0..=WEIGHT_MAX).contains(&weight) {
        let message = format!("{weight} is no weight");
        refusals.push(Refusal::value(
            format!("{field}.weight"),
            message,
            format!("from 0 to {WEIGHT_MAX}"),
        ));
    }
    if refusals.len() > before {
        return None;
    }
    let name = Name {
        namespace: namespace.clone(),
        name: name.clone(),
    };
    Some(Backend {
        kind,
        name,
        port: port?,
        weight: u32::try_from(weight).ok()?,
        field,
    })
}

fn backend_port(port: Option<i64>, field: &str, refusals: &mut Vec<Refusal>) -> Option<u16> {
    let valid = port.and_then(|port| u16::try_from(port).ok());
    if let Some(port) = valid.filter(|&port| port != 0) {
        return Some(port);
    }
    let message = match port {
        Some(port) => format!("{port} is no port"),
        None => "is missing".to_owned(),
    };
    let fix = "the Service's port, from 1 to 65535";
    refusals.push(Refusal::value(format!("{field}.port"), message, fix));
    None
}

fn bound(count: usize, most: usize, field: &str, refusals: &mut Vec<Refusal>) {
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
