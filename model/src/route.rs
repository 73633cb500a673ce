//! Which backends a request may go to.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use regex::Regex;

use crate::endpoint::BackendPlace;
use crate::filter::{Filters, Redirect};
use crate::name::{ObjectRef, ServicePort};
use crate::traffic::Traffic;

pub use crate::traffic::RetryBudget;

/// The rules of a Service's port, in order of precedence (Gateway API), each with one match.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The first that matches wins.
    pub rules: Vec<Arc<Rule>>,
}

/// One match of one rule of one route.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The route object.
    pub route: ObjectRef,
    /// The rule's place in the route, from 0.
    pub index: u32,
    /// The rule's name, or empty.
    pub name: String,
    /// What it matches.
    pub matches: Match,
    /// Where it sends. All weights 0, or none at all: refused with 500.
    pub backends: Vec<Backend>,
    /// It sends nowhere, and answers with this.
    pub redirect: Option<Redirect>,
    /// What it does to requests and responses.
    pub filters: Filters,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// When another try is made. `None`: only where no byte reached the app.
    pub retry: Option<Retry>,
}

/// How long requests may take. `None`: as long as they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the response, all tries together.
    pub request: Option<Duration>,
    /// One try, from its beginning to the end of the response.
    pub backend_request: Option<Duration>,
}

/// When another try is made (GEP-1731), as long as no response has begun and the backend's [`RetryBudget`] allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first.
    pub attempts: u32,
    /// How long to wait before the first of them at most; twice as long before each next one. Zero: not at all.
    pub backoff: Duration,
    /// The statuses of responses after which another try is made. Failures without a response, and tries that took too
    /// long, are retried in any case.
    pub codes: Vec<u16>,
    /// The statuses of gRPC, where no message was delivered.
    pub grpc_statuses: Vec<u16>,
}

/// What a request must be like.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The path, without the query.
    pub path: Option<PathMatch>,
    /// All must match.
    pub headers: Vec<(http::HeaderName, ValueMatch)>,
    /// All must match; the first of repeated parameters counts.
    pub query: Vec<(String, ValueMatch)>,
    /// The method.
    pub method: Option<http::Method>,
    /// Only gRPC requests ([`is_grpc`]).
    pub grpc: bool,
}

/// A path match.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole path elements from the front.
    Prefix(String),
    /// A regular expression over the whole path.
    Regex(Regex),
}

/// A value match.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Byte-equal.
    Exact(String),
    /// A regular expression over the whole value.
    Regex(Regex),
}

/// A weighted backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// 0: never chosen.
    pub weight: u32,
    /// Where.
    pub place: BackendPlace,
    /// The Service that it belongs to.
    pub service: ServicePort,
    /// The ServiceSubset's name, or empty.
    pub subset: String,
    /// What it does to requests and responses, after the rule's own.
    pub filters: Filters,
    /// How its traffic is spread. `None`: as that of the Service that was called.
    pub traffic: Option<Arc<Traffic>>,
}

/// What routing looks at of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a http::Method,
    /// The path, without the query.
    pub path: &'a str,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl Rules {
    /// The rule that a request falls under.
    pub fn pick(&self, request: &RequestHead<'_>) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.matches.matches(request))
    }
}

impl Rule {
    /// The keys of all endpoint sets that it refers to, those of mirrors among them.
    pub fn endpoint_sets(&self) -> impl Iterator<Item = &str> {
        let of_backends = self.backends.iter().map(|backend| &backend.place);
        let filters = self.backends.iter().map(|backend| &backend.filters);
        let mirrors = filters.chain([&self.filters]).flat_map(|filters| &filters.mirrors);
        let places = of_backends.chain(mirrors.map(|mirror| &mirror.place));
        places.filter_map(|place| match place {
            BackendPlace::Endpoints(key) => Some(key.as_str()),
            BackendPlace::Unresolved(_) => None,
        })
    }

    /// The backend for a number drawn uniformly from all of `u64`. `None`: there is none to choose.
    pub fn backend(&self, drawn: u64) -> Option<usize> {
        weighted(&self.backends, drawn)
    }
}

/// The place of the backend for a number drawn uniformly from all of `u64`. `None`: there is none to choose.
pub(crate) fn weighted(backends: &[Backend], drawn: u64) -> Option<usize> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return None;
    }
    // Multiply and shift: uniform to within total / 2^64.
    let mut left = ((u128::from(drawn) * u128::from(total)) >> 64) as u64;
    backends.iter().position(|backend| {
        let weight = u64::from(backend.weight);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

/// The first thing by which a request is not as a [`Match`] wants it.
#[derive(Clone, Copy, Debug)]
pub enum Mismatch<'a> {
    /// Another method is wanted.
    Method(&'a http::Method),
    /// Another path is wanted.
    Path(&'a PathMatch),
    /// Only gRPC is wanted.
    NotGrpc,
    /// This header is missing, or has another value.
    Header(&'a http::HeaderName, &'a ValueMatch),
    /// This query parameter is missing, or has another value.
    Query(&'a str, &'a ValueMatch),
}

impl Match {
    /// Whether a request is like this.
    pub fn matches(&self, request: &RequestHead<'_>) -> bool {
        self.mismatch(request).is_none()
    }

    /// Why a request is not like this. `None`: it is.
    pub fn mismatch(&self, request: &RequestHead<'_>) -> Option<Mismatch<'_>> {
        if let Some(method) = self.method.as_ref().filter(|method| *method != request.method) {
            return Some(Mismatch::Method(method));
        }
        if let Some(path) = self.path.as_ref().filter(|path| !path.matches(request.path)) {
            return Some(Mismatch::Path(path));
        }
        if self.grpc && !is_grpc(request.headers) {
            return Some(Mismatch::NotGrpc);
        }
        let mut headers = self.headers.iter();
        if let Some((name, value)) = headers.find(|(name, value)| !header_matches(request.headers, name, value)) {
            return Some(Mismatch::Header(name, value));
        }
        let mut query = self.query.iter();
        let other = query.find(|(name, value)| !query_matches(request.query, name, value));
        other.map(|(name, value)| Mismatch::Query(name, value))
    }
}

impl PathMatch {
    /// Whether a path is like this.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                path.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl ValueMatch {
    /// Whether a value is like this.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => value == exact,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Whether a request is gRPC: its content-type is `application/grpc`, alone or followed by `+format` or parameters. gRPC-Web
/// is another protocol.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        let (head, rest) = value.as_bytes().split_at(value.len().min(GRPC.len()));
        head.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// Repeated headers count as one value, joined with commas (RFC 9110 section 5.3; Gateway API leaves it open).
fn header_matches(headers: &HeaderMap, name: &http::HeaderName, wanted: &ValueMatch) -> bool {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else {
        return false;
    };
    match (values.next(), first.to_str()) {
        (None, Ok(value)) => wanted.matches(value),
        (None, Err(_)) => false,
        (Some(_), _) => {
            let all: Option<Vec<&str>> = headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
            all.is_some_and(|all| wanted.matches(&all.join(",")))
        }
    }
}

fn query_matches(query: Option<&str>, name: &str, wanted: &ValueMatch) -> bool {
    let mut pairs = query
        .unwrap_or("")
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .find(|(key, _)| decode(key) == name)
        .is_some_and(|(_, value)| wanted.matches(&decode(value)))
}

/// Percent-decoding, with `+` as a space (WHATWG URL, application/x-www-form-urlencoded). Bad escapes stay as they are.
/// Text without either, which is most, is not copied.
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match (
            bytes[i],
            bytes.get(i + 1).copied().and_then(hex),
            bytes.get(i + 2).copied().and_then(hex),
        ) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                i += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            (other, ..) => out.push(other),
        }
        i += 1;
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests;
