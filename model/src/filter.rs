//! What a rule does to a request and its response, beside choosing a backend (Gateway API's filters).
//!
//! Resolved: a replaced prefix knows the prefix that it replaces, so nothing has to be looked up per request.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::endpoint::BackendPlace;
use crate::name::ServicePort;
use crate::traffic::Traffic;

/// What is done to the requests of a rule, or of one of its backends. The rule's come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Before the request is forwarded.
    pub request_headers: HeaderChanges,
    /// Before the response is passed on. Responses of Weft's own are not changed.
    pub response_headers: HeaderChanges,
    /// Another host or path for the backend.
    pub rewrite: Option<Rewrite>,
    /// Copies of the request go here as well. Nobody waits for them, and their answers are thrown away.
    pub mirrors: Vec<Mirror>,
}

/// Changes of headers: first the removals, then what is set, then what is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// All values go.
    pub remove: Vec<HeaderName>,
    /// One value in the place of all.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// One value more.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// Another host or path for the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The request's authority.
    pub host: Option<String>,
    /// The request's path.
    pub path: Option<PathChange>,
}

/// Another path. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// In the place of the whole path.
    Full(String),
    /// In the place of the prefix that the rule matched.
    Prefix {
        /// The prefix, as the match has it.
        from: String,
        /// What comes in its place.
        to: String,
    },
}

/// The answer to a request that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`. `None`: the request's.
    pub scheme: Option<Scheme>,
    /// `None`: the request's.
    pub host: Option<String>,
    /// `None`: the scheme's own where a scheme is named, else the request's.
    pub port: Option<u16>,
    /// `None`: the request's.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A scheme that a redirect may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Port 80.
    Http,
    /// Port 443.
    Https,
}

/// Where copies go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where.
    pub place: BackendPlace,
    /// The Service that it belongs to.
    pub service: ServicePort,
    /// The ServiceSubset's name, or empty.
    pub subset: String,
    /// The share of requests that are copied: `numerator` of `denominator`.
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
    /// How copies are spread. `None`: as the traffic of the Service that was called.
    pub traffic: Option<Arc<Traffic>>,
}

impl Filters {
    /// Whether requests and responses stay as they are, and go nowhere else.
    pub fn is_empty(&self) -> bool {
        self.request_headers.is_empty()
            && self.response_headers.is_empty()
            && self.rewrite.is_none()
            && self.mirrors.is_empty()
    }
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Changes headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

impl PathChange {
    /// The new path for a path without its query. Always begins with `/`.
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Full(full) => rooted(full),
            Self::Prefix { from, to } => {
                let from = from.strip_suffix('/').unwrap_or(from);
                let rest = path.strip_prefix(from).unwrap_or(path);
                let to = to.strip_suffix('/').unwrap_or(to);
                match rest.strip_prefix('/') {
                    // Gateway API: `/foo/` with `/foo` replaced by `/xyz` becomes `/xyz/`.
                    Some(rest) => rooted(&format!("{to}/{rest}")),
                    None => rooted(&format!("{to}{rest}")),
                }
            }
        }
    }
}

impl Scheme {
    /// As a URI has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URI of this scheme means when it names none.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Redirect {
    /// The `Location` for a request: its scheme, its authority as it was written, the port that was dialled, and its path and
    /// query.
    pub fn location(&self, scheme: Scheme, authority: &str, dialled: u16, path: &str, query: Option<&str>) -> String {
        let host = self.host.as_deref().unwrap_or_else(|| host_of(authority));
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => scheme.port(),
            (None, None) => dialled,
        };
        let scheme = self.scheme.unwrap_or(scheme);
        let port = match port == scheme.port() {
            true => String::new(),
            false => format!(":{port}"),
        };
        let path = self
            .path
            .as_ref()
            .map_or_else(|| rooted(path), |change| change.apply(path));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}://{host}{port}{path}{query}", scheme.as_str())
    }
}

impl Mirror {
    /// Whether a request is copied, for a number drawn uniformly from all of `u64`.
    pub fn takes(&self, drawn: u64) -> bool {
        let here = (u128::from(drawn) * u128::from(self.denominator.max(1))) >> 64;
        here < u128::from(self.numerator)
    }
}

/// An authority without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The colons of `[::1]` are no port's.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

#[cfg(test)]
mod tests;
