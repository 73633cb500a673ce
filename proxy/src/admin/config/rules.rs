//! Admin: rules, as JSON: what they match, where they send, and what else they do.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use weft_model::endpoint::BackendPlace;
use weft_model::filter::{Filters, HeaderChanges, Mirror, PathChange, Redirect, Rewrite};
use weft_model::locality::{Distribution, Locality, Prefer, Share};
use weft_model::route::{Backend, Match, PathMatch, Retry, RetryBudget, Rule, Timeouts, ValueMatch};

use weft_model::stream::StreamRule;
use weft_model::traffic::Traffic;

use super::set_name;
use crate::discover::state::State;

/// One rule for streams.
pub(super) fn stream(state: &State, rule: &StreamRule) -> Value {
    json!({
        "route": rule.route.to_string(),
        "index": rule.index,
        "name": rule.name,
        "host": rule.host,
        "backends": rule.backends.iter().map(|each| backend(state, each)).collect::<Vec<_>>(),
    })
}

fn backend(state: &State, backend: &Backend) -> Value {
    let mut value = json!({
        "weight": backend.weight,
        "service": backend.service.to_string(),
        "subset": backend.subset,
    });
    place(state, &backend.place, &mut value);
    add(&mut value, "filters", filters(state, &backend.filters));
    add(&mut value, "traffic", backend.traffic.as_deref().map(traffic));
    value
}

/// One rule.
pub(super) fn rule(state: &State, rule: &Rule) -> Value {
    let mut value = json!({
        "route": rule.route.to_string(),
        "index": rule.index,
        "name": rule.name,
        "match": matched(&rule.matches),
        "backends": rule.backends.iter().map(|each| backend(state, each)).collect::<Vec<_>>(),
    });
    add(&mut value, "redirect", rule.redirect.as_ref().map(redirect));
    add(&mut value, "filters", filters(state, &rule.filters));
    add(&mut value, "timeouts", timeouts(&rule.timeouts));
    add(&mut value, "retry", rule.retry.as_ref().map(retry));
    value
}

/// Which places are preferred.
pub(super) fn locality(locality: &Locality) -> Value {
    let Locality {
        prefer,
        spill_below_percent,
        failover,
        distribute,
    } = locality;
    let prefer = match prefer {
        Prefer::Zone => "zone",
        Prefer::Region => "region",
        Prefer::None => "none",
    };
    let mut all = json!({ "prefer": prefer, "spill_below_percent": spill_below_percent });
    add(&mut all, "failover", (!failover.is_empty()).then(|| json!(failover)));
    let share = |share: &Share| json!({ "region": share.region, "zone": share.zone, "weight": share.weight });
    let each = |each: &Distribution| json!({ "from": each.from, "to": each.to.iter().map(share).collect::<Vec<_>>() });
    let distribute: Vec<Value> = distribute.iter().map(each).collect();
    add(
        &mut all,
        "distribute",
        (!distribute.is_empty()).then(|| json!(distribute)),
    );
    all
}

/// How traffic to a backend is spread, where its own Service says it.
fn traffic(traffic: &Traffic) -> Value {
    json!({
        "locality": locality(&traffic.locality),
        "balancer": traffic.balance.as_str(),
        "retry_budget": budget(&traffic.retry_budget),
    })
}

/// What a Service allows of retries.
pub(super) fn budget(budget: &RetryBudget) -> Value {
    json!({
        "percent": budget.percent,
        "interval_ms": millis(budget.interval),
        "min_retries": budget.min_retries,
        "min_interval_ms": millis(budget.min_interval),
    })
}

/// What a rule does not say is not shown either.
fn add(to: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(to), Some(value)) = (to.as_object_mut(), value) {
        to.insert(name.to_owned(), value);
    }
}

fn place(state: &State, place: &BackendPlace, value: &mut Value) {
    match place {
        BackendPlace::Endpoints(key) => value["endpoints"] = set_name(state, key),
        BackendPlace::Unresolved(reason) => value["unresolved"] = json!(reason),
    }
}

fn filters(state: &State, filters: &Filters) -> Option<Value> {
    let mirror = |mirror: &Mirror| {
        let mut value = json!({
            "service": mirror.service.to_string(),
            "subset": mirror.subset,
            "numerator": mirror.numerator,
            "denominator": mirror.denominator,
        });
        place(state, &mirror.place, &mut value);
        add(&mut value, "traffic", mirror.traffic.as_deref().map(traffic));
        value
    };
    let mut all = json!({});
    add(&mut all, "request_headers", changes(&filters.request_headers));
    add(&mut all, "response_headers", changes(&filters.response_headers));
    add(&mut all, "rewrite", filters.rewrite.as_ref().map(rewrite));
    let mirrors = filters.mirrors.iter().map(mirror).collect::<Vec<_>>();
    add(&mut all, "mirrors", (!mirrors.is_empty()).then(|| json!(mirrors)));
    (!filters.is_empty()).then_some(all)
}

fn changes(changes: &HeaderChanges) -> Option<Value> {
    let names = changes.remove.iter().map(ToString::to_string).collect::<Vec<_>>();
    let pairs = |pairs: &[(HeaderName, HeaderValue)]| {
        let pair =
            |(name, value): &(HeaderName, HeaderValue)| json!({ "name": name.as_str(), "value": shown(name, value) });
        pairs.iter().map(pair).collect::<Vec<_>>()
    };
    let all = json!({ "remove": names, "set": pairs(&changes.set), "add": pairs(&changes.add) });
    (!changes.is_empty()).then_some(all)
}

/// A value, unless its header is one that secrets are kept in.
fn shown(name: &HeaderName, value: &HeaderValue) -> String {
    const SECRET: [&str; 5] = ["auth", "cookie", "key", "secret", "token"];
    match SECRET.iter().any(|word| name.as_str().contains(word)) {
        true => "(hidden)".to_owned(),
        false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
    }
}

fn rewrite(rewrite: &Rewrite) -> Value {
    let mut all = json!({});
    add(&mut all, "host", rewrite.host.as_ref().map(|host| json!(host)));
    add(&mut all, "path", rewrite.path.as_ref().map(path));
    all
}

fn path(change: &PathChange) -> Value {
    match change {
        PathChange::Full(full) => json!({ "full": full }),
        PathChange::Prefix { from, to } => json!({ "prefix": from, "becomes": to }),
    }
}

fn redirect(redirect: &Redirect) -> Value {
    let mut all = json!({ "status": redirect.status });
    add(&mut all, "scheme", redirect.scheme.map(|scheme| json!(scheme.as_str())));
    add(&mut all, "host", redirect.host.as_ref().map(|host| json!(host)));
    add(&mut all, "port", redirect.port.map(|port| json!(port)));
    add(&mut all, "path", redirect.path.as_ref().map(path));
    all
}

fn timeouts(timeouts: &Timeouts) -> Option<Value> {
    let Timeouts {
        request,
        backend_request,
    } = timeouts;
    let mut all = json!({});
    add(&mut all, "request_ms", request.map(|limit| json!(millis(limit))));
    add(
        &mut all,
        "backend_request_ms",
        backend_request.map(|limit| json!(millis(limit))),
    );
    (*timeouts != Timeouts::default()).then_some(all)
}

fn retry(retry: &Retry) -> Value {
    json!({
        "attempts": retry.attempts,
        "backoff_ms": millis(retry.backoff),
        "codes": retry.codes,
        "grpc_statuses": retry.grpc_statuses,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn matched(matched: &Match) -> Value {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(exact) => json!({ "exact": exact }),
        ValueMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
    };
    let mut all = Map::new();
    if let Some(path) = &matched.path {
        let path = match path {
            PathMatch::Exact(exact) => json!({ "exact": exact }),
            PathMatch::Prefix(prefix) => json!({ "prefix": prefix }),
            PathMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
        };
        all.insert("path".to_owned(), path);
    }
    if let Some(method) = &matched.method {
        all.insert("method".to_owned(), json!(method.as_str()));
    }
    let named = |(name, wanted): (&str, &ValueMatch)| json!({ "name": name, "value": value(wanted) });
    if !matched.headers.is_empty() {
        let headers = matched
            .headers
            .iter()
            .map(|(name, wanted)| named((name.as_str(), wanted)));
        all.insert("headers".to_owned(), headers.collect());
    }
    if !matched.query.is_empty() {
        let query = matched.query.iter().map(|(name, wanted)| named((name, wanted)));
        all.insert("query".to_owned(), query.collect());
    }
    if matched.grpc {
        all.insert("grpc".to_owned(), json!(true));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests;
