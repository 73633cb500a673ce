//! One port of a Service as one client sees it: `weft.discovery.v1.Service`, with its rules and locality.

use std::sync::Arc;

use http::{HeaderName, Method};
use weft_model::destination::Service;
use weft_model::endpoint::BackendPlace;
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::pattern;
use weft_model::route::{Backend, Match, PathMatch, Rule, Rules, ValueMatch};

use super::field::{self, FieldError};
use super::filter;
use super::lookup::{protocol, protocol_to_wire};
use super::stream;
use super::traffic;
use crate::discovery;

/// Reads a Service's port.
pub fn decode(wire: discovery::Service) -> Result<Service, FieldError> {
    if !wire.routed && !wire.rules.is_empty() {
        return Err(FieldError::new("routed", "is false, and there are rules"));
    }
    let rules = field::list("rules", wire.rules, field::RULES_MAX, |rule| {
        decode_rule(rule).map(Arc::new)
    })?;
    let port = ServicePort {
        namespace: field::name("namespace", wire.namespace)?,
        name: field::name("name", wire.name)?,
        port: field::port("port", wire.port)?,
    };
    Ok(Service {
        port,
        protocol: protocol(wire.protocol)?,
        rules: wire.routed.then_some(Rules { rules }),
        streams: stream::decode(wire.streamed, wire.streams)?,
        endpoints: field::key("endpoints", wire.endpoints)?,
        locality: traffic::decode_locality(wire.locality).map_err(|error| error.within("locality"))?,
        balance: traffic::decode_balance(wire.balance)?,
        retry_budget: filter::decode_budget(wire.retry_budget).map_err(|error| error.within("retry_budget"))?,
    })
}

/// Writes a Service's port.
pub fn encode(service: &Service) -> discovery::Service {
    let rules = service.rules.as_ref().map_or(&[][..], |rules| &rules.rules);
    discovery::Service {
        namespace: service.port.namespace.clone(),
        name: service.port.name.clone(),
        port: u32::from(service.port.port),
        protocol: protocol_to_wire(service.protocol) as i32,
        routed: service.rules.is_some(),
        rules: rules.iter().map(|rule| encode_rule(rule)).collect(),
        streamed: service.streams.is_some(),
        streams: stream::encode(service.streams.as_ref()),
        endpoints: service.endpoints.clone(),
        locality: Some(traffic::encode_locality(&service.locality)),
        balance: traffic::encode_balance(service.balance) as i32,
        retry_budget: Some(filter::encode_budget(&service.retry_budget)),
    }
}

/// Writes an object's name.
pub(crate) fn object_to_wire(object: &ObjectRef) -> discovery::ObjectRef {
    discovery::ObjectRef {
        kind: object.kind.clone(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
    }
}

fn decode_rule(wire: discovery::Rule) -> Result<Rule, FieldError> {
    let object = field::required("route", wire.route)?;
    let within = |error: FieldError| error.within("route");
    let route = ObjectRef {
        kind: field::word("kind", object.kind).map_err(within)?,
        namespace: field::word("namespace", object.namespace).map_err(within)?,
        name: field::word("name", object.name).map_err(within)?,
    };
    // A match that is not there could be one that this build cannot read. An empty one matches everything.
    let matches = field::required("match", wire.r#match)?;
    Ok(Rule {
        route,
        index: wire.index,
        name: field::word("name", wire.name)?,
        matches: decode_match(matches).map_err(|error| error.within("match"))?,
        backends: field::list("backends", wire.backends, field::BACKENDS_MAX, decode_backend)?,
        redirect: wire
            .redirect
            .map(filter::decode_redirect)
            .transpose()
            .map_err(|error| error.within("redirect"))?,
        filters: filter::decode_filters(wire.filters).map_err(|error| error.within("filters"))?,
        timeouts: filter::decode_timeouts(wire.request_timeout_ms, wire.backend_request_timeout_ms),
        retry: wire
            .retry
            .map(filter::decode_retry)
            .transpose()
            .map_err(|error| error.within("retry"))?,
    })
}

fn encode_rule(rule: &Rule) -> discovery::Rule {
    discovery::Rule {
        route: Some(object_to_wire(&rule.route)),
        index: rule.index,
        name: rule.name.clone(),
        r#match: Some(encode_match(&rule.matches)),
        backends: rule.backends.iter().map(encode_backend).collect(),
        redirect: rule.redirect.as_ref().map(filter::encode_redirect),
        filters: filter::encode_filters(&rule.filters),
        request_timeout_ms: filter::encode_timeout(rule.timeouts.request),
        backend_request_timeout_ms: filter::encode_timeout(rule.timeouts.backend_request),
        retry: rule.retry.as_ref().map(filter::encode_retry),
    }
}

fn decode_match(wire: discovery::Match) -> Result<Match, FieldError> {
    let path = wire
        .path
        .map(decode_path)
        .transpose()
        .map_err(|error| error.within("path"))?;
    let headers = field::list("headers", wire.headers, field::CONDITIONS_MAX, |wire| {
        let name = HeaderName::from_bytes(wire.name.as_bytes())
            .map_err(|_| FieldError::new("name", format!("must be the name of a header, and is {:?}", wire.name)))?;
        Ok((name, decode_value(wire.value)?))
    })?;
    let query = field::list("query", wire.query, field::CONDITIONS_MAX, |wire| {
        if wire.name.is_empty() {
            return Err(FieldError::new("name", "is empty"));
        }
        field::at_most("name", wire.name.len(), field::VALUE_MAX)?;
        Ok((wire.name, decode_value(wire.value)?))
    })?;
    let method = match wire.method.as_str() {
        "" => None,
        text => Some(method(text)?),
    };
    Ok(Match {
        path,
        headers,
        query,
        method,
        grpc: wire.grpc,
    })
}

fn method(text: &str) -> Result<Method, FieldError> {
    let refused = |_| FieldError::new("method", format!("must be an HTTP method, and is {text:?}"));
    field::at_most("method", text.len(), 64)?;
    Method::from_bytes(text.as_bytes()).map_err(refused)
}

fn encode_match(matches: &Match) -> discovery::Match {
    let named = |name: &str, value| discovery::NamedMatch {
        name: name.to_owned(),
        value: Some(encode_value(value)),
    };
    discovery::Match {
        path: matches.path.as_ref().map(encode_path),
        headers: matches
            .headers
            .iter()
            .map(|(name, value)| named(name.as_str(), value))
            .collect(),
        query: matches.query.iter().map(|(name, value)| named(name, value)).collect(),
        method: matches.method.as_ref().map(ToString::to_string).unwrap_or_default(),
        grpc: matches.grpc,
    }
}

fn decode_path(wire: discovery::PathMatch) -> Result<PathMatch, FieldError> {
    use discovery::path_match::Path as Wire;
    let path = |field: &str, text: String| {
        field::at_most(field, text.len(), field::VALUE_MAX)?;
        if !text.starts_with('/') {
            return Err(FieldError::new(field, format!("must begin with '/', and is {text:?}")));
        }
        Ok(text)
    };
    match field::required("path", wire.path)? {
        Wire::Exact(text) => Ok(PathMatch::Exact(path("exact", text)?)),
        Wire::Prefix(text) => Ok(PathMatch::Prefix(path("prefix", text)?)),
        Wire::Regex(text) => Ok(PathMatch::Regex(regex(&text)?)),
    }
}

fn encode_path(path: &PathMatch) -> discovery::PathMatch {
    use discovery::path_match::Path as Wire;
    let path = match path {
        PathMatch::Exact(text) => Wire::Exact(text.clone()),
        PathMatch::Prefix(text) => Wire::Prefix(text.clone()),
        PathMatch::Regex(regex) => Wire::Regex(pattern::source(regex).to_owned()),
    };
    discovery::PathMatch { path: Some(path) }
}

fn decode_value(wire: Option<discovery::named_match::Value>) -> Result<ValueMatch, FieldError> {
    use discovery::named_match::Value as Wire;
    match field::required("value", wire)? {
        Wire::Exact(text) => {
            field::at_most("exact", text.len(), field::VALUE_MAX)?;
            Ok(ValueMatch::Exact(text))
        }
        Wire::Regex(text) => Ok(ValueMatch::Regex(regex(&text)?)),
    }
}

fn encode_value(value: &ValueMatch) -> discovery::named_match::Value {
    use discovery::named_match::Value as Wire;
    match value {
        ValueMatch::Exact(text) => Wire::Exact(text.clone()),
        ValueMatch::Regex(regex) => Wire::Regex(pattern::source(regex).to_owned()),
    }
}

fn regex(text: &str) -> Result<pattern::Regex, FieldError> {
    pattern::whole(text).map_err(|error| FieldError::new("regex", error.to_string()))
}

/// Reads a backend.
pub(super) fn decode_backend(wire: discovery::Backend) -> Result<Backend, FieldError> {
    use discovery::backend::Backend as Wire;
    if wire.weight > field::WEIGHT_MAX {
        let reason = format!("must be at most {}, and is {}", field::WEIGHT_MAX, wire.weight);
        return Err(FieldError::new("weight", reason));
    }
    let (place, service) = match field::required("backend", wire.backend)? {
        Wire::Endpoints(key) => {
            let service = ServicePort {
                namespace: field::name("namespace", wire.namespace)?,
                name: field::name("service", wire.service)?,
                port: field::port("port", wire.port)?,
            };
            (BackendPlace::Endpoints(field::key("endpoints", key)?), service)
        }
        // What does not resolve may lack any part of its name: it is for people, and never dialled.
        Wire::Unresolved(unresolved) => {
            let port = u16::try_from(wire.port).unwrap_or(0);
            let service = ServicePort {
                namespace: field::words(wire.namespace),
                name: field::words(wire.service),
                port,
            };
            (BackendPlace::Unresolved(field::words(unresolved.reason)), service)
        }
    };
    Ok(Backend {
        weight: wire.weight,
        place,
        service,
        subset: field::name_or_empty("subset", wire.subset)?,
        filters: filter::decode_filters(wire.filters).map_err(|error| error.within("filters"))?,
        traffic: wire
            .traffic
            .map(traffic::decode)
            .transpose()
            .map_err(|error| error.within("traffic"))?
            .map(Arc::new),
    })
}

/// Writes a backend.
pub(super) fn encode_backend(backend: &Backend) -> discovery::Backend {
    discovery::Backend {
        weight: backend.weight,
        filters: filter::encode_filters(&backend.filters),
        traffic: backend.traffic.as_deref().map(traffic::encode),
        ..encode_place(&backend.place, &backend.service, &backend.subset)
    }
}

/// Writes where a backend leads.
pub(super) fn encode_place(place: &BackendPlace, service: &ServicePort, subset: &str) -> discovery::Backend {
    use discovery::backend::Backend as Wire;
    let place = match place {
        BackendPlace::Endpoints(key) => Wire::Endpoints(key.clone()),
        BackendPlace::Unresolved(reason) => Wire::Unresolved(discovery::Unresolved { reason: reason.clone() }),
    };
    discovery::Backend {
        weight: 0,
        backend: Some(place),
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port: u32::from(service.port),
        subset: subset.to_owned(),
        filters: None,
        traffic: None,
    }
}
