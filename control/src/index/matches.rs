//! Matches of HTTPRoute and GRPCRoute in, the model's matches and their precedence out.

use std::cmp::Reverse;

use http::{HeaderName, Method};
use weft_model::pattern;
use weft_model::route::{Match, PathMatch, ValueMatch};

use super::kept::Refusal;
use crate::objects::route::{GrpcMatch, GrpcMethodMatch, HttpMatch, NamedMatch};

/// The longest path or value (Gateway API: 1,024 for paths, 4,096 for values).
const PATH_MAX: usize = 1024;
const VALUE_MAX: usize = 4096;
/// Headers or query parameters of one match (Gateway API).
const CONDITIONS_MAX: usize = 16;
/// The methods that the Gateway API knows.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// Gateway API's precedence of a match, most specific first. Ties are broken by the route's age and place.
///
/// What the API leaves open: a regular expression comes after all prefixes but `/`, which would otherwise make it useless;
/// among equals, a match for gRPC calls only comes before one for all requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    path: PathRank,
    any_protocol: bool,
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
}

/// GRPCRoute: characters of the service, then of the method, decide where neither is a path of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Prefix(Reverse<usize>),
    Pattern(Reverse<usize>, Reverse<usize>),
    Any,
}

/// A match and its precedence.
#[derive(Clone, Debug)]
pub(crate) struct Ranked {
    pub(crate) matches: Match,
    pub(crate) rank: Rank,
}

/// A kind of route's matches.
pub(crate) trait Matching {
    /// Whether the route is a GRPCRoute.
    const GRPC: bool;

    /// Reads a match that stands in `field`; what is wrong goes to `refusals`.
    fn ranked(&self, field: &str, refusals: &mut Vec<Refusal>) -> Option<Ranked>;

    /// What a rule without matches matches.
    fn everything() -> Ranked;
}

impl Matching for HttpMatch {
    const GRPC: bool = false;

    fn ranked(&self, field: &str, refusals: &mut Vec<Refusal>) -> Option<Ranked> {
        let before = refusals.len();
        let path = http_path(self, &format!("{field}.path"), refusals);
        let headers = headers(&self.headers, &format!("{field}.headers"), refusals);
        let query = query(&self.query_params, &format!("{field}.queryParams"), refusals);
        let method = method(self.method.as_deref(), &format!("{field}.method"), refusals);
        if refusals.len() > before {
            return None;
        }
        let (path, rank) = path?;
        Some(rank_of(
            Match {
                path: Some(path),
                headers,
                query,
                method,
                grpc: false,
            },
            rank,
        ))
    }

    fn everything() -> Ranked {
        let matches = Match {
            path: Some(PathMatch::Prefix("/".to_owned())),
            ..Match::default()
        };
        rank_of(matches, PathRank::Any)
    }
}

impl Matching for GrpcMatch {
    const GRPC: bool = true;

    fn ranked(&self, field: &str, refusals: &mut Vec<Refusal>) -> Option<Ranked> {
        let before = refusals.len();
        let path = match &self.method {
            Some(method) => {
                grpc_path(method, &format!("{field}.method"), refusals).map(|(path, rank)| (Some(path), rank))
            }
            None => Some((None, PathRank::Any)),
        };
        let headers = headers(&self.headers, &format!("{field}.headers"), refusals);
        if refusals.len() > before {
            return None;
        }
        let (path, rank) = path?;
        Some(rank_of(
            Match {
                path,
                headers,
                grpc: true,
                ..Match::default()
            },
            rank,
        ))
    }

    fn everything() -> Ranked {
        rank_of(
            Match {
                grpc: true,
                ..Match::default()
            },
            PathRank::Any,
        )
    }
}

fn rank_of(matches: Match, path: PathRank) -> Ranked {
    let rank = Rank {
        path,
        any_protocol: !matches.grpc,
        any_method: matches.method.is_none(),
        headers: Reverse(matches.headers.len()),
        query: Reverse(matches.query.len()),
    };
    Ranked { matches, rank }
}

fn http_path(matches: &HttpMatch, field: &str, refusals: &mut Vec<Refusal>) -> Option<(PathMatch, PathRank)> {
    let path = matches.path.as_ref();
    let kind = path.and_then(|path| path.r#type.as_deref()).unwrap_or("PathPrefix");
    let value = path.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let value_field = format!("{field}.value");
    match kind {
        "Exact" | "PathPrefix" => {
            if let Err((message, fix)) = check_path(value) {
                refusals.push(Refusal::value(value_field, message, fix));
                return None;
            }
            if kind == "Exact" {
                return Some((PathMatch::Exact(value.to_owned()), PathRank::Exact));
            }
            // `/a/` and `/a` are the same prefix (Gateway API), so they have the same length.
            let prefix = value
                .strip_suffix('/')
                .filter(|prefix| !prefix.is_empty())
                .unwrap_or(value);
            let rank = if prefix == "/" {
                PathRank::Any
            } else {
                PathRank::Prefix(Reverse(prefix.chars().count()))
            };
            Some((PathMatch::Prefix(prefix.to_owned()), rank))
        }
        "RegularExpression" => {
            let regex = regex(value, &value_field, refusals)?;
            Some((PathMatch::Regex(regex), PathRank::Pattern(Reverse(0), Reverse(0))))
        }
        other => {
            let fix = "Exact, PathPrefix or RegularExpression";
            refusals.push(Refusal::value(
                format!("{field}.type"),
                format!("{other:?} is no type of path match"),
                fix,
            ));
            None
        }
    }
}

/// What the Gateway API's CustomResourceDefinition asks of a path.
fn check_path(path: &str) -> Result<(), (String, &'static str)> {
    if !path.starts_with('/') {
        return Err((format!("{path:?} is no absolute path"), "begin it with /"));
    }
    if path.len() > PATH_MAX {
        return Err((
            format!("has {} bytes, and {PATH_MAX} is the limit", path.len()),
            "shorten it",
        ));
    }
    let odd = ["//", "/./", "/../", "%2f", "%2F", "#", "?"]
        .into_iter()
        .find(|odd| path.contains(odd));
    let odd = odd.or_else(|| ["/..", "/."].into_iter().find(|odd| path.ends_with(odd)));
    match odd {
        Some(odd) => Err((format!("no request's path can match {path:?}"), odd_fix(odd))),
        None => Ok(()),
    }
}

fn odd_fix(odd: &str) -> &'static str {
    match odd {
        "?" => "match the query with queryParams",
        "#" => "a request has no fragment: leave it out",
        _ => "write the path as it is after normalisation",
    }
}

fn grpc_path(method: &GrpcMethodMatch, field: &str, refusals: &mut Vec<Refusal>) -> Option<(PathMatch, PathRank)> {
    let service = method.service.as_deref().filter(|service| !service.is_empty());
    let name = method.method.as_deref().filter(|name| !name.is_empty());
    if service.is_none() && name.is_none() {
        refusals.push(Refusal::value(
            field,
            "names neither a service nor a method",
            "give one of them, or leave it out",
        ));
        return None;
    }
    let characters = |text: Option<&str>| Reverse(text.map_or(0, |text| text.chars().count()));
    let rank = PathRank::Pattern(characters(service), characters(name));
    match method.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => {
            let valid =
                is_grpc_part(service, "service", field, refusals) & is_grpc_part(name, "method", field, refusals);
            if !valid {
                return None;
            }
            match (service, name) {
                (Some(service), Some(name)) => Some((PathMatch::Exact(format!("/{service}/{name}")), PathRank::Exact)),
                (Some(service), None) => {
                    let prefix = format!("/{service}");
                    let rank = PathRank::Prefix(Reverse(prefix.chars().count()));
                    Some((PathMatch::Prefix(prefix), rank))
                }
                (None, name) => {
                    let pattern = format!("/[^/]+/{}", name.unwrap_or_default());
                    let regex = regex(&pattern, &format!("{field}.method"), refusals)?;
                    Some((PathMatch::Regex(regex), rank))
                }
            }
        }
        "RegularExpression" => {
            let service = grpc_pattern(service, "service", field, refusals);
            let name = grpc_pattern(name, "method", field, refusals);
            let pattern = format!("/{}/{}", service?, name?);
            Some((PathMatch::Regex(regex(&pattern, field, refusals)?), rank))
        }
        other => {
            let message = format!("{other:?} is no type of method match");
            let fix = "Exact or RegularExpression";
            refusals.push(Refusal::value(format!("{field}.type"), message, fix));
            None
        }
    }
}

/// The pattern of one part: alone first, so that an error names its field, and so that it cannot break out of its group.
fn grpc_pattern(text: Option<&str>, part: &str, field: &str, refusals: &mut Vec<Refusal>) -> Option<String> {
    match text {
        Some(text) => regex(text, &format!("{field}.{part}"), refusals).map(|_| format!("(?:{text})")),
        None => Some("[^/]+".to_owned()),
    }
}

fn is_grpc_part(text: Option<&str>, part: &str, field: &str, refusals: &mut Vec<Refusal>) -> bool {
    let Some(text) = text.filter(|text| !is_grpc_name(text, part == "service")) else {
        return true;
    };
    let message = format!("{text:?} is no name of a gRPC {part}");
    let fix = "letters, digits and _";
    refusals.push(Refusal::value(format!("{field}.{part}"), message, fix));
    false
}

fn is_grpc_name(text: &str, dots: bool) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    text.len() <= PATH_MAX && if dots { text.split('.').all(part) } else { part(text) }
}

fn headers(written: &[NamedMatch], field: &str, refusals: &mut Vec<Refusal>) -> Vec<(HeaderName, ValueMatch)> {
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    at_most(written.len(), field, refusals);
    for (i, header) in written.iter().enumerate() {
        let field = format!("{field}[{i}]");
        // Names are case-insensitive; `HeaderName` is the lower case form.
        let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) else {
            let message = format!("{:?} is no name of a header", header.name);
            refusals.push(Refusal::value(
                format!("{field}.name"),
                message,
                "letters, digits and -",
            ));
            continue;
        };
        if headers.iter().any(|(other, _)| *other == name) {
            let message = format!("the header {name} is matched twice");
            refusals.push(Refusal::value(
                format!("{field}.name"),
                message,
                "keep one, or use a regular expression",
            ));
            continue;
        }
        headers.extend(value(header, &field, refusals).map(|value| (name, value)));
    }
    headers
}

fn query(written: &[NamedMatch], field: &str, refusals: &mut Vec<Refusal>) -> Vec<(String, ValueMatch)> {
    let mut parameters: Vec<(String, ValueMatch)> = Vec::new();
    at_most(written.len(), field, refusals);
    for (i, parameter) in written.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let (name, name_field) = (&parameter.name, format!("{field}.name"));
        if name.is_empty() || name.len() > VALUE_MAX {
            refusals.push(Refusal::value(
                name_field,
                "is no name of a query parameter",
                "1 to 256 characters",
            ));
            continue;
        }
        if parameters.iter().any(|(other, _)| other == name) {
            let message = format!("the query parameter {name:?} is matched twice");
            refusals.push(Refusal::value(
                name_field,
                message,
                "keep one, or use a regular expression",
            ));
            continue;
        }
        parameters.extend(value(parameter, &field, refusals).map(|value| (name.clone(), value)));
    }
    parameters
}

fn at_most(count: usize, field: &str, refusals: &mut Vec<Refusal>) {
    if count > CONDITIONS_MAX {
        let message = format!("has {count} entries, and {CONDITIONS_MAX} is the limit");
        refusals.push(Refusal::value(field, message, "remove some"));
    }
}

fn value(named: &NamedMatch, field: &str, refusals: &mut Vec<Refusal>) -> Option<ValueMatch> {
    let value_field = format!("{field}.value");
    match named.r#type.as_deref().unwrap_or("Exact") {
        "Exact" if named.value.len() > VALUE_MAX => {
            let message = format!("has {} bytes, and {VALUE_MAX} is the limit", named.value.len());
            refusals.push(Refusal::value(value_field, message, "shorten it"));
            None
        }
        "Exact" => Some(ValueMatch::Exact(named.value.clone())),
        "RegularExpression" => regex(&named.value, &value_field, refusals).map(ValueMatch::Regex),
        other => {
            let message = format!("{other:?} is no type of match");
            refusals.push(Refusal::value(
                format!("{field}.type"),
                message,
                "Exact or RegularExpression",
            ));
            None
        }
    }
}

fn method(written: Option<&str>, field: &str, refusals: &mut Vec<Refusal>) -> Option<Method> {
    let written = written?;
    if !METHODS.contains(&written) {
        let message = format!("{written:?} is no HTTP method that routes know");
        refusals.push(Refusal::value(field, message, format!("one of {}", METHODS.join(", "))));
        return None;
    }
    Method::from_bytes(written.as_bytes()).ok()
}

fn regex(pattern: &str, field: &str, refusals: &mut Vec<Refusal>) -> Option<pattern::Regex> {
    pattern::whole(pattern)
        .map_err(|error| {
            let message = format!("no regular expression: {error}");
            refusals.push(Refusal::value(
                field,
                message,
                "RE2 syntax, without look-around and back-references",
            ));
        })
        .ok()
}
