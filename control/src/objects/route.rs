//! HTTPRoute and GRPCRoute as the Gateway API writes them (v1.6, standard and experimental channels). Fields that this
//! version does not honour are named here all the same, so that they can be refused by name.

use serde::Deserialize;
use serde_json::Value;

use super::decode::Skip;
use super::filter::{Filter, Retry, Timeouts};

/// An HTTPRoute or a GRPCRoute.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route<M> {
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    #[serde(rename = "kind")]
    _kind: Skip,
    #[serde(rename = "metadata")]
    _metadata: Skip,
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
    /// What the route says.
    pub spec: RouteSpec<M>,
}

/// What a route says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec<M> {
    /// What it is attached to.
    #[serde(default = "Vec::new")]
    pub parent_refs: Vec<ParentRef>,
    /// Not honoured: mesh routes match the Service, not the host (GEP-1294).
    pub hostnames: Option<Value>,
    /// Not honoured: it is about gateways.
    pub use_default_gateways: Option<Value>,
    /// Its rules.
    #[serde(default = "Vec::new")]
    pub rules: Vec<RouteRule<M>>,
}

/// What a route is attached to.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Default: the Gateway API's group.
    pub group: Option<String>,
    /// Default: `Gateway`.
    pub kind: Option<String>,
    /// Default: the route's namespace.
    pub namespace: Option<String>,
    /// The parent's name.
    pub name: String,
    /// For a Service: the name of a port.
    pub section_name: Option<String>,
    /// For a Service: a port. Default: all.
    pub port: Option<u16>,
}

/// A rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule<M> {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// One of them must match. Empty: everything does.
    #[serde(default = "Vec::new")]
    pub matches: Vec<M>,
    /// What is done beside choosing a backend.
    #[serde(default = "Vec::new")]
    pub filters: Vec<Filter>,
    /// Where requests go.
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    /// How long requests may take (HTTPRoute).
    pub timeouts: Option<Timeouts>,
    /// When another try is made (HTTPRoute).
    pub retry: Option<Retry>,
    /// Not honoured yet.
    pub session_persistence: Option<Value>,
}

/// Where requests go.
#[derive(Clone, Debug, Deserialize)]
pub struct BackendRef {
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
    /// Its share. Default: 1.
    pub weight: Option<i64>,
    /// What is done to requests that go here.
    #[serde(default = "Vec::new")]
    pub filters: Vec<Filter>,
}

/// What an HTTP request must be like.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// Default: the prefix `/`.
    pub path: Option<HttpPathMatch>,
    /// All must match.
    #[serde(default)]
    pub headers: Vec<NamedMatch>,
    /// All must match.
    #[serde(default)]
    pub query_params: Vec<NamedMatch>,
    /// Default: any.
    pub method: Option<String>,
}

/// A match of the path.
#[derive(Clone, Debug, Deserialize)]
pub struct HttpPathMatch {
    /// `Exact`, `PathPrefix` (the default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// Default: `/`.
    pub value: Option<String>,
}

/// A match of a header or a query parameter.
#[derive(Clone, Debug, Deserialize)]
pub struct NamedMatch {
    /// `Exact` (the default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// The header's or parameter's name.
    pub name: String,
    /// What its value must be like.
    pub value: String,
}

/// What a gRPC call must be like.
#[derive(Clone, Debug, Deserialize)]
pub struct GrpcMatch {
    /// Default: any.
    pub method: Option<GrpcMethodMatch>,
    /// All must match.
    #[serde(default)]
    pub headers: Vec<NamedMatch>,
}

/// A match of a gRPC service and method: at least one of them.
#[derive(Clone, Debug, Deserialize)]
pub struct GrpcMethodMatch {
    /// `Exact` (the default) or `RegularExpression`.
    pub r#type: Option<String>,
    /// `package.Service`.
    pub service: Option<String>,
    /// `Method`.
    pub method: Option<String>,
}

/// A TCPRoute or a TLSRoute.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRoute {
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    #[serde(rename = "kind")]
    _kind: Skip,
    #[serde(rename = "metadata")]
    _metadata: Skip,
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
    /// What the route says.
    pub spec: StreamRouteSpec,
}

/// What a TCPRoute or a TLSRoute says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRouteSpec {
    /// What it is attached to.
    #[serde(default = "Vec::new")]
    pub parent_refs: Vec<ParentRef>,
    /// The server names of a TLSRoute.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// Not honoured: it is about gateways.
    pub use_default_gateways: Option<Value>,
    /// Its rules.
    #[serde(default = "Vec::new")]
    pub rules: Vec<StreamRouteRule>,
}

/// A rule of a TCPRoute or a TLSRoute.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamRouteRule {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Where streams go.
    #[serde(default = "Vec::new")]
    pub backend_refs: Vec<BackendRef>,
}
