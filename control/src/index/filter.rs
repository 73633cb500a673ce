//! What filters of HTTPRoute and GRPCRoute mean. What this version does not honour refuses the whole route, by name.

use std::collections::BTreeSet;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use weft_model::filter::{HeaderChanges, PathChange, Scheme};
use weft_model::route::PathMatch;

use super::backend::{self, Backend, Reference};
use super::kept::Refusal;
use crate::objects::Object;
use crate::objects::filter::{
    Filter, Fraction, Header, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
};
use crate::objects::names::is_subdomain;
use crate::objects::near::near;

/// Gateway API's limits.
const FILTERS_MAX: usize = 16;
const HEADERS_MAX: usize = 16;
const PATH_MAX: usize = 1024;
const VALUE_MAX: usize = 4096;
/// Headers that frame a message, or that the mesh speaks with itself: no route may touch them.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "grpc-timeout",
];

/// What is done to requests of a rule, or of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters {
    pub(crate) request_headers: HeaderChanges,
    pub(crate) response_headers: HeaderChanges,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) mirrors: Vec<Mirror>,
}

/// Another host or path for the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    pub(crate) host: Option<String>,
    pub(crate) path: Option<NewPath>,
}

/// The answer to a request that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<NewPath>,
    pub(crate) status: u16,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NewPath {
    Full(String),
    /// In the place of the prefix of whichever match it was.
    Prefix(String),
}

/// Copies of requests go there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) backend: Backend,
    pub(crate) numerator: u32,
    pub(crate) denominator: u32,
}

/// Where filters stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) object: &'a Object,
    /// Of a GRPCRoute.
    pub(crate) grpc: bool,
    /// Of a backend, and not of a rule.
    pub(crate) of_backend: bool,
}

impl NewPath {
    /// The change for requests that this match took.
    pub(crate) fn after(&self, matched: Option<&PathMatch>) -> PathChange {
        match (self, matched) {
            (Self::Full(full), _) => PathChange::Full(full.clone()),
            (Self::Prefix(to), Some(PathMatch::Prefix(from))) => PathChange::Prefix {
                from: from.clone(),
                to: to.clone(),
            },
            // Refused before: a prefix is replaced only where one was matched.
            (Self::Prefix(to), _) => PathChange::Prefix {
                from: "/".to_owned(),
                to: to.clone(),
            },
        }
    }
}

impl Filters {
    /// Whether some path's prefix is replaced.
    pub(crate) fn replaces_prefix(&self) -> bool {
        let of_rewrite = self.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        let of_redirect = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        [of_rewrite, of_redirect]
            .into_iter()
            .flatten()
            .any(|path| matches!(path, NewPath::Prefix(_)))
    }
}

/// Reads a list of filters that stands in `field`.
pub(crate) fn read(place: Place<'_>, filters: &[Filter], field: &str, refusals: &mut Vec<Refusal>) -> Filters {
    let mut read = Filters::default();
    let mut types = BTreeSet::new();
    if filters.len() > FILTERS_MAX {
        let message = format!("has {} entries, and {FILTERS_MAX} is the limit", filters.len());
        refusals.push(Refusal::value(field, message, "split the rule"));
    }
    for (i, filter) in filters.iter().enumerate().take(FILTERS_MAX) {
        let field = format!("{field}[{i}]");
        if !types.insert(filter.r#type.as_str()) && filter.r#type != "RequestMirror" {
            let message = format!("{} stands twice", filter.r#type);
            refusals.push(incompatible(
                format!("{field}.type"),
                message,
                "write both as one filter",
            ));
        }
        read_one(place, filter, &field, &mut read, refusals);
    }
    if read.redirect.is_some() && read.rewrite.is_some() {
        let message = "a rule either redirects or rewrites, and not both";
        refusals.push(incompatible(field.to_owned(), message.to_owned(), "remove one of them"));
    }
    read
}

fn incompatible(field: String, message: String, fix: &str) -> Refusal {
    Refusal {
        reason: "IncompatibleFilters",
        field,
        message,
        fix: fix.to_owned(),
    }
}

fn read_one(place: Place<'_>, filter: &Filter, field: &str, read: &mut Filters, refusals: &mut Vec<Refusal>) {
    let r#type = filter.r#type.as_str();
    let Some(own) = field_of(place, r#type) else {
        return refusals.push(not_honoured(place, r#type, field));
    };
    for other in given(filter).filter(|other| *other != own) {
        let message = format!("belongs to another type of filter than {type}");
        refusals.push(Refusal::value(
            format!("{field}.{other}"),
            message,
            "write a filter of its own for it",
        ));
    }
    let own = format!("{field}.{own}");
    let is_missing = match r#type {
        "RequestHeaderModifier" => {
            let written = filter.request_header_modifier.as_ref();
            changes(written, &own, &mut read.request_headers, refusals)
        }
        "ResponseHeaderModifier" => {
            let written = filter.response_header_modifier.as_ref();
            changes(written, &own, &mut read.response_headers, refusals)
        }
        "RequestRedirect" => {
            let written = filter.request_redirect.as_ref();
            read.redirect = written.map(|written| redirect(written, &own, refusals));
            read.redirect.is_none()
        }
        "URLRewrite" => {
            let written = filter.url_rewrite.as_ref();
            read.rewrite = written.map(|written| rewrite(written, &own, refusals));
            read.rewrite.is_none()
        }
        _ => {
            let written = filter.request_mirror.as_ref();
            read.mirrors
                .extend(written.and_then(|written| mirror(place, written, &own, refusals)));
            written.is_none()
        }
    };
    if is_missing {
        let message = format!("is missing, and the type is {type}");
        refusals.push(Refusal::value(own, message, "write what the filter is to do"));
    }
}

fn not_honoured(place: Place<'_>, r#type: &str, field: &str) -> Refusal {
    let what = if place.of_backend { "a backend" } else { "a rule" };
    const TYPES: [&str; 8] = [
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "URLRewrite",
        "RequestRedirect",
        "CORS",
        "ExternalAuth",
        "ExtensionRef",
    ];
    if let Some(meant) = near(r#type, TYPES).filter(|_| !TYPES.contains(&r#type)) {
        let message = format!("there is no filter {type}");
        return incompatible(format!("{field}.type"), message, &format!("did you mean {meant}?"));
    }
    let message = format!(
        "the filter {type} is not honoured by Weft on {what} of a {}",
        place.object.kind
    );
    let fix = match place.of_backend {
        true if r#type == "RequestRedirect" => "write it on the rule",
        _ => "remove the filter",
    };
    incompatible(format!("{field}.type"), message, fix)
}

/// The fields of a filter that were written, but for its type.
fn given(filter: &Filter) -> impl Iterator<Item = &'static str> {
    let Filter {
        r#type: _,
        request_header_modifier,
        response_header_modifier,
        request_redirect,
        url_rewrite,
        request_mirror,
        cors,
        external_auth,
        extension_ref,
    } = filter;
    let all = [
        ("requestHeaderModifier", request_header_modifier.is_some()),
        ("responseHeaderModifier", response_header_modifier.is_some()),
        ("requestRedirect", request_redirect.is_some()),
        ("urlRewrite", url_rewrite.is_some()),
        ("requestMirror", request_mirror.is_some()),
        ("cors", cors.is_some()),
        ("externalAuth", external_auth.is_some()),
        ("extensionRef", extension_ref.is_some()),
    ];
    all.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name)
}

/// The field that belongs to a type of filter. `None`: not honoured here.
fn field_of(place: Place<'_>, r#type: &str) -> Option<&'static str> {
    Some(match (r#type, place.grpc, place.of_backend) {
        ("RequestHeaderModifier", ..) => "requestHeaderModifier",
        ("ResponseHeaderModifier", ..) => "responseHeaderModifier",
        ("RequestMirror", ..) => "requestMirror",
        ("URLRewrite", false, _) => "urlRewrite",
        ("RequestRedirect", false, false) => "requestRedirect",
        _ => return None,
    })
}

/// Reads changes of headers. Whether there are none.
fn changes(
    written: Option<&HeaderModifier>,
    field: &str,
    read: &mut HeaderChanges,
    refusals: &mut Vec<Refusal>,
) -> bool {
    let Some(HeaderModifier { set, add, remove }) = written else {
        return true;
    };
    for (part, count) in [("set", set.len()), ("add", add.len()), ("remove", remove.len())] {
        if count > HEADERS_MAX {
            let message = format!("has {count} entries, and {HEADERS_MAX} is the limit");
            refusals.push(Refusal::value(format!("{field}.{part}"), message, "split the rule"));
        }
    }
    read.set = headers(set, &format!("{field}.set"), refusals);
    read.add = headers(add, &format!("{field}.add"), refusals);
    let names = remove.iter().enumerate().take(HEADERS_MAX);
    read.remove = names
        .filter_map(|(i, name)| header_name(name, &format!("{field}.remove[{i}]"), refusals))
        .collect();
    false
}

fn headers(written: &[Header], field: &str, refusals: &mut Vec<Refusal>) -> Vec<(HeaderName, HeaderValue)> {
    let mut seen = BTreeSet::new();
    let mut read = Vec::new();
    for (i, Header { name, value }) in written.iter().enumerate().take(HEADERS_MAX) {
        let Some(name) = header_name(name, &format!("{field}[{i}].name"), refusals) else {
            continue;
        };
        if !seen.insert(name.as_str().to_owned()) {
            let message = format!("the header {name} stands twice");
            refusals.push(Refusal::value(
                format!("{field}[{i}].name"),
                message,
                "write its values as one, with commas",
            ));
            continue;
        }
        match HeaderValue::from_str(value) {
            Ok(value) if !value.is_empty() && value.len() <= VALUE_MAX => read.push((name, value)),
            _ => {
                let message = format!("{value:?} is no value of a header");
                let fix = format!("1 to {VALUE_MAX} visible characters");
                refusals.push(Refusal::value(format!("{field}[{i}].value"), message, fix));
            }
        }
    }
    read
}

fn header_name(name: &str, field: &str, refusals: &mut Vec<Refusal>) -> Option<HeaderName> {
    let Ok(read) = HeaderName::from_bytes(name.as_bytes()) else {
        let message = format!("{name:?} is no name of a header");
        refusals.push(Refusal::value(field, message, "letters, digits and '-'"));
        return None;
    };
    if RESERVED.contains(&read.as_str()) || read.as_str().starts_with("x-weft-") {
        let message = format!("the header {read} is not a route's to change");
        let fix = match read.as_str() {
            "host" => "use a filter URLRewrite with hostname",
            _ => "remove it",
        };
        refusals.push(Refusal::value(field, message, fix));
        return None;
    }
    Some(read)
}

fn hostname(written: Option<&String>, field: &str, refusals: &mut Vec<Refusal>) -> Option<String> {
    let name = written?;
    let is_host = is_subdomain(name) && name.parse::<Authority>().is_ok() && name.parse::<std::net::IpAddr>().is_err();
    if !is_host {
        let message = format!("{name:?} is no host name");
        let fix = "a-z, 0-9, '-' and '.', without a port and without a wildcard";
        refusals.push(Refusal::value(format!("{field}.hostname"), message, fix));
        return None;
    }
    Some(name.clone())
}

fn new_path(written: Option<&PathModifier>, field: &str, refusals: &mut Vec<Refusal>) -> Option<NewPath> {
    let PathModifier {
        r#type,
        replace_full_path,
        replace_prefix_match,
    } = written?;
    let field = format!("{field}.path");
    let (own, text, other) = match r#type.as_str() {
        "ReplaceFullPath" => ("replaceFullPath", replace_full_path, replace_prefix_match),
        "ReplacePrefixMatch" => ("replacePrefixMatch", replace_prefix_match, replace_full_path),
        _ => {
            let message = format!("{type:?} is no way to replace a path");
            let fix = "ReplaceFullPath or ReplacePrefixMatch";
            refusals.push(Refusal::value(format!("{field}.type"), message, fix));
            return None;
        }
    };
    if other.is_some() {
        let message = format!("has another field than {own}, which belongs to {type}");
        refusals.push(Refusal::value(field.clone(), message, "remove the other"));
    }
    let Some(text) = text else {
        refusals.push(Refusal::value(format!("{field}.{own}"), "is missing", "the new path"));
        return None;
    };
    let is_path = |byte: u8| byte.is_ascii_graphic() && !b"?#<>`".contains(&byte);
    if text.len() > PATH_MAX || !text.bytes().all(is_path) {
        let message = format!("{text:?} is no path");
        let fix = "a path without a query, other characters percent-encoded";
        refusals.push(Refusal::value(format!("{field}.{own}"), message, fix));
        return None;
    }
    Some(match own {
        "replaceFullPath" => NewPath::Full(text.clone()),
        _ => NewPath::Prefix(text.clone()),
    })
}

fn redirect(written: &RequestRedirect, field: &str, refusals: &mut Vec<Refusal>) -> Redirect {
    let scheme = match written.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => {
            let message = format!("{other:?} is no scheme of HTTP");
            refusals.push(Refusal::value(format!("{field}.scheme"), message, "http or https"));
            None
        }
    };
    let port = written.port.and_then(|port| {
        let read = u16::try_from(port).ok().filter(|&port| port != 0);
        if read.is_none() {
            let message = format!("{port} is no port");
            refusals.push(Refusal::value(format!("{field}.port"), message, "from 1 to 65535"));
        }
        read
    });
    let status = match written.status_code.unwrap_or(302) {
        status @ (301 | 302 | 303 | 307 | 308) => status as u16,
        other => {
            let message = format!("{other} is no status of a redirect");
            refusals.push(Refusal::value(
                format!("{field}.statusCode"),
                message,
                "301, 302, 303, 307 or 308",
            ));
            302
        }
    };
    Redirect {
        scheme,
        host: hostname(written.hostname.as_ref(), field, refusals),
        port,
        path: new_path(written.path.as_ref(), field, refusals),
        status,
    }
}

fn rewrite(written: &UrlRewrite, field: &str, refusals: &mut Vec<Refusal>) -> Rewrite {
    Rewrite {
        host: hostname(written.hostname.as_ref(), field, refusals),
        path: new_path(written.path.as_ref(), field, refusals),
    }
}

fn mirror(place: Place<'_>, written: &RequestMirror, field: &str, refusals: &mut Vec<Refusal>) -> Option<Mirror> {
    let RequestMirror {
        backend_ref,
        percent,
        fraction,
    } = written;
    let (numerator, denominator, part) = match (percent, fraction) {
        (None, None) => (1, 1, "percent"),
        (Some(percent), None) => (*percent, 100, "percent"),
        (None, Some(Fraction { numerator, denominator })) => (*numerator, denominator.unwrap_or(100), "fraction"),
        (Some(_), Some(_)) => {
            refusals.push(Refusal::value(
                field,
                "has both percent and fraction",
                "remove one of them",
            ));
            return None;
        }
    };
    let share = u32::try_from(numerator).ok().zip(u32::try_from(denominator).ok());
    let share = share.filter(|(numerator, denominator)| *denominator > 0 && numerator <= denominator);
    if share.is_none() {
        let message = format!("{numerator} of {denominator} is no share");
        refusals.push(Refusal::value(format!("{field}.{part}"), message, "from none to all"));
    }
    let reference = Reference {
        group: backend_ref.group.as_deref(),
        kind: backend_ref.kind.as_deref(),
        namespace: backend_ref.namespace.as_deref(),
        name: &backend_ref.name,
        port: backend_ref.port,
    };
    let backend = backend::read(place.object, format!("{field}.backendRef"), reference, refusals)?;
    let (numerator, denominator) = share?;
    Some(Mirror {
        backend,
        numerator,
        denominator,
    })
}
