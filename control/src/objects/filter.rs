//! Filters, timeouts and retries of HTTPRoute and GRPCRoute as the Gateway API writes them (v1.6, standard and experimental
//! channels). What this version does not honour is named here all the same, so that it can be refused by name.

use serde::Deserialize;
use serde_json::Value;

/// A filter of a rule or of a backend: its type, and the field that belongs to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// `RequestHeaderModifier`, …
    pub r#type: String,
    /// Of `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Of `ResponseHeaderModifier`.
    pub response_header_modifier: Option<HeaderModifier>,
    /// Of `RequestRedirect`.
    pub request_redirect: Option<RequestRedirect>,
    /// Of `URLRewrite`.
    pub url_rewrite: Option<UrlRewrite>,
    /// Of `RequestMirror`.
    pub request_mirror: Option<RequestMirror>,
    /// Not honoured.
    pub cors: Option<Value>,
    /// Not honoured.
    pub external_auth: Option<Value>,
    /// Not honoured: Weft has no filters of its own.
    pub extension_ref: Option<Value>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct HeaderModifier {
    /// One value in the place of all.
    #[serde(default)]
    pub set: Vec<Header>,
    /// One value more.
    #[serde(default)]
    pub add: Vec<Header>,
    /// All values go.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The answer to a request that goes elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// A host without a port.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathModifier>,
    /// Another port.
    pub port: Option<i64>,
    /// Default: 302.
    pub status_code: Option<i64>,
}

/// Another host or path for the backend.
#[derive(Clone, Debug, Deserialize)]
pub struct UrlRewrite {
    /// A host without a port.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathModifier>,
}

/// Another path.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    pub r#type: String,
    /// Of `ReplaceFullPath`.
    pub replace_full_path: Option<String>,
    /// Of `ReplacePrefixMatch`.
    pub replace_prefix_match: Option<String>,
}

/// Copies of requests go there.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// Where.
    pub backend_ref: MirrorRef,
    /// The share of requests, from 0 to 100. Default: all.
    pub percent: Option<i64>,
    /// The share of requests as a fraction.
    pub fraction: Option<Fraction>,
}

/// Where copies go.
#[derive(Clone, Debug, Deserialize)]
pub struct MirrorRef {
    /// Default: the core group.
    pub group: Option<String>,
    /// Default: `Service`.
    pub kind: Option<String>,
    /// Default: the route's namespace.
    pub namespace: Option<String>,
    /// The backend's name.
    pub name: String,
    /// The Service's port.
    pub port: Option<i64>,
}

/// A share.
#[derive(Clone, Debug, Deserialize)]
pub struct Fraction {
    /// From 0 to the denominator.
    pub numerator: i64,
    /// Default: 100.
    pub denominator: Option<i64>,
}

/// How long requests may take, in the form of GEP-2257: `500ms`, `1h30m`. `0s`: as long as they do.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = super::crd::limits))]
pub struct Timeouts {
    /// From the request to the end of the response.
    #[cfg_attr(test, schemars(regex(pattern = super::crd::DURATION)))]
    pub request: Option<String>,
    /// One try.
    #[cfg_attr(test, schemars(regex(pattern = super::crd::DURATION)))]
    pub backend_request: Option<String>,
}

/// When another try is made (GEP-1731).
#[derive(Clone, Debug, Deserialize)]
pub struct Retry {
    /// Statuses of responses.
    #[serde(default)]
    pub codes: Vec<i64>,
    /// Tries beyond the first.
    pub attempts: Option<i64>,
    /// Before the next try, in the form of GEP-2257.
    pub backoff: Option<String>,
}
