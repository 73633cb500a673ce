//! What people read: matches, filters, limits, in words.

use std::time::Duration;

use weft_model::destination::Protocol;
use weft_model::filter::{Filters, HeaderChanges, PathChange};
use weft_model::pattern;
use weft_model::route::{Match, Mismatch, PathMatch, RequestHead, Retry, ValueMatch, decode};

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Undeclared => "undeclared",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Opaque => "opaque",
        Protocol::Tls => "tls",
    }
}

/// What a match wants.
pub(super) fn wants(matches: &Match) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(matches.method.as_ref().map(|method| format!("method {method}")));
    parts.extend(matches.path.as_ref().map(path));
    if matches.grpc {
        parts.push("gRPC".to_owned());
    }
    let headers = matches.headers.iter();
    parts.extend(headers.map(|(name, wanted)| format!("header {name} {}", value(wanted))));
    let query = matches.query.iter();
    parts.extend(query.map(|(name, wanted)| format!("query {name} {}", value(wanted))));
    if parts.is_empty() {
        return "everything".to_owned();
    }
    parts.join(", ")
}

fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(exact) => format!("path {exact}"),
        PathMatch::Prefix(prefix) => format!("path prefix {prefix}"),
        PathMatch::Regex(regex) => format!("path like {}", pattern::source(regex)),
    }
}

fn value(wanted: &ValueMatch) -> String {
    match wanted {
        ValueMatch::Exact(exact) => format!("= {exact:?}"),
        ValueMatch::Regex(regex) => format!("like {}", pattern::source(regex)),
    }
}

/// Why a request is not like a match.
pub(super) fn why(other: &Mismatch<'_>, head: &RequestHead<'_>) -> String {
    match other {
        Mismatch::Method(wanted) => format!("the method is {}, and {wanted} is wanted", head.method),
        Mismatch::Path(PathMatch::Exact(exact)) => format!("the path is {}, and not {exact}", head.path),
        Mismatch::Path(PathMatch::Prefix(prefix)) => format!("the path {} does not begin with {prefix}", head.path),
        Mismatch::Path(PathMatch::Regex(regex)) => {
            format!("the path {} is not like {}", head.path, pattern::source(regex))
        }
        Mismatch::NotGrpc => "it is no gRPC (content-type application/grpc)".to_owned(),
        Mismatch::Header(name, wanted) => match head.headers.contains_key(*name) {
            false => format!("there is no header {name}"),
            true => format!("the header {name} is not {}", value(wanted)),
        },
        Mismatch::Query(name, wanted) => {
            let pairs = head.query.unwrap_or_default().split('&');
            match pairs
                .filter_map(|pair| pair.split('=').next())
                .any(|key| decode(key) == *name)
            {
                false => format!("there is no query parameter {name}"),
                true => format!("the query parameter {name} is not {}", value(wanted)),
            }
        }
    }
}

/// What filters do, one sentence each.
pub(super) fn filters(filters: &Filters) -> Vec<String> {
    let mut all = Vec::new();
    changes(&filters.request_headers, "request", &mut all);
    changes(&filters.response_headers, "response", &mut all);
    if let Some(rewrite) = &filters.rewrite {
        all.extend(rewrite.host.iter().map(|host| format!("rewrite the host to {host}")));
        all.extend(rewrite.path.iter().map(|path| match path {
            PathChange::Full(full) => format!("rewrite the path to {full}"),
            PathChange::Prefix { from, to } => format!("replace the path prefix {from} by {to}"),
        }));
    }
    for mirror in &filters.mirrors {
        let percent = f64::from(mirror.numerator) * 100.0 / f64::from(mirror.denominator.max(1));
        let subset = match mirror.subset.as_str() {
            "" => String::new(),
            subset => format!(" subset {subset}"),
        };
        all.push(format!("mirror {percent}% to {}{subset}", mirror.service));
    }
    all
}

fn changes(changes: &HeaderChanges, of: &str, all: &mut Vec<String>) {
    let shown = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    all.extend(changes.remove.iter().map(|name| format!("remove {of} header {name}")));
    let set = changes.set.iter();
    all.extend(set.map(|(name, value)| format!("set {of} header {name}: {}", shown(value))));
    let add = changes.add.iter();
    all.extend(add.map(|(name, value)| format!("add {of} header {name}: {}", shown(value))));
}

pub(super) fn request(limit: Duration) -> String {
    format!("request timeout {limit:?}")
}

pub(super) fn backend_request(limit: Duration) -> String {
    format!("backendRequest timeout {limit:?}")
}

/// What is retried.
pub(super) fn retry(retry: &Retry) -> String {
    let list = |numbers: &[u16]| numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("up to {} retries, back-off {:?}", retry.attempts, retry.backoff);
    if !retry.codes.is_empty() {
        text.push_str(&format!(", after status {}", list(&retry.codes)));
    }
    if !retry.grpc_statuses.is_empty() {
        text.push_str(&format!(", after gRPC status {}", list(&retry.grpc_statuses)));
    }
    text
}
