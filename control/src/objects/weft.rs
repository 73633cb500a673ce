//! Our own kinds, group `weft.dev`, version `v1alpha1`. These types are the source of the CustomResourceDefinitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::crd;
use super::decode::Skip;
use super::filter::Timeouts;

/// `ServiceSubset`: a part of one Service's endpoints, by pod label and region. A route's backendRef may name it
/// (group `weft.dev`, kind `ServiceSubset`, and a port of the Service).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServiceSubset {
    /// `weft.dev/v1alpha1`.
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    /// `ServiceSubset`.
    #[serde(rename = "kind")]
    _kind: Skip,
    /// The object's metadata.
    #[serde(rename = "metadata")]
    _metadata: Skip,
    /// What the subset is.
    pub spec: ServiceSubsetSpec,
    /// What the control plane says of it.
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
}

/// What a ServiceSubset is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServiceSubsetSpec {
    /// The name of the Service, in the same namespace.
    #[cfg_attr(test, schemars(regex(pattern = crd::SERVICE_NAME), length(max = 63)))]
    pub service: String,
    /// Only pods with these labels, each with exactly this value, as a Service's selector. Nothing given: all of the
    /// Service's pods.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Only pods that run in one of these regions (`topology.kubernetes.io/region` of their Node). Empty: any region.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 64), inner(length(min = 1))))]
    pub regions: Vec<String>,
}

/// `XBackendTrafficPolicy` (group `gateway.networking.x-k8s.io`, `v1alpha1`; GEP-3388).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicy {
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    #[serde(rename = "kind")]
    _kind: Skip,
    #[serde(rename = "metadata")]
    _metadata: Skip,
    /// What the policy says.
    pub spec: BackendTrafficPolicySpec,
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
}

/// What an XBackendTrafficPolicy says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicySpec {
    /// The Services that it is about, in the same namespace.
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// How much retries may add.
    pub retry_constraint: Option<RetryConstraint>,
    /// Not honoured.
    pub session_persistence: Option<serde_json::Value>,
}

/// `TrafficPolicy`: how traffic to a Service is spread, how long it may take, and what is tried again.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrafficPolicy {
    /// `weft.dev/v1alpha1`.
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    /// `TrafficPolicy`.
    #[serde(rename = "kind")]
    _kind: Skip,
    /// The object's metadata.
    #[serde(rename = "metadata")]
    _metadata: Skip,
    /// What the policy says.
    pub spec: TrafficPolicySpec,
    /// What the control plane says of it.
    #[serde(default, rename = "status")]
    _status: Option<Skip>,
}

/// What a TrafficPolicy says. What it does not name is somebody else's to say, or stays at its default.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::of_services))]
pub struct TrafficPolicySpec {
    /// The Services, HTTPRoutes and GRPCRoutes that it is about, in the same namespace. Of several policies that say the same
    /// of one of them the oldest acts.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(min = 1, max = 64), transform = crd::as_a_whole))]
    pub target_refs: Vec<TargetRef>,
    /// How long requests may take. What a route's rule says itself comes first, then a policy on the route, then one on the
    /// Service that is called.
    pub timeouts: Option<Timeouts>,
    /// When another try is made; in the same order.
    pub retry: Option<RetrySpec>,
    /// How much retries may add to a Service's load (GEP-3388). For Services only, as all that follows.
    pub retry_constraint: Option<RetryConstraint>,
    /// Which places are preferred.
    pub locality: Option<LocalitySpec>,
    /// How an endpoint is chosen within a place: `PeakEwma` (the default), `LeastRequest`, `RoundRobin` or `Random`.
    #[cfg_attr(test, schemars(extend("enum" = crd::balancers())))]
    pub balancer: Option<String>,
}

/// Names what a policy is about (Gateway API, GEP-713).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::target))]
pub struct TargetRef {
    /// The API group: empty for Service, `gateway.networking.k8s.io` for routes.
    #[serde(default)]
    pub group: String,
    /// `Service`, `HTTPRoute` or `GRPCRoute`.
    pub kind: String,
    /// The object's name.
    #[cfg_attr(test, schemars(regex(pattern = crd::SUBDOMAIN), length(min = 1, max = 253)))]
    pub name: String,
    /// Of a route: the name of one of its rules. Default: all of them.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(min = 1, max = 253)))]
    pub section_name: Option<String>,
}

/// When another try is made: as in HTTPRoute (GEP-1731), and after statuses of gRPC.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RetrySpec {
    /// Statuses of responses, from 400 to 599.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 64), inner(range(min = 400, max = 599))))]
    pub codes: Vec<i64>,
    /// Statuses of gRPC, by name (`UNAVAILABLE`) or by number, where no message was delivered.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 64)))]
    pub grpc_statuses: Vec<GrpcStatus>,
    /// Tries beyond the first, from 0 to 100. Default: 2.
    #[cfg_attr(test, schemars(range(min = 0, max = 100)))]
    pub attempts: Option<i64>,
    /// Before the first of them, in the form of GEP-2257; doubled before each next one. Default: 25ms.
    #[cfg_attr(test, schemars(regex(pattern = crd::DURATION)))]
    pub backoff: Option<String>,
}

/// A status of gRPC.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::grpc_status))]
pub enum GrpcStatus {
    /// By number.
    Number(i64),
    /// By name.
    Name(String),
}

/// How much retries may add (GEP-3388): the more generous of the two.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RetryConstraint {
    /// A share of the requests.
    pub budget: Option<BudgetSpec>,
    /// A few at any load.
    pub min_retry_rate: Option<RateSpec>,
}

/// A share of the requests that may be retries.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::share_interval))]
pub struct BudgetSpec {
    /// From 0 to 100. Default: 20.
    #[cfg_attr(test, schemars(range(min = 0, max = 100)))]
    pub percent: Option<i64>,
    /// The time that is looked back on, from 1s to 1h. Default: 10s.
    #[cfg_attr(test, schemars(regex(pattern = crd::DURATION)))]
    pub interval: Option<String>,
}

/// A number of retries in a time.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::rate_interval))]
pub struct RateSpec {
    /// From 1 to 1,000,000. Default: 10.
    #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000)))]
    pub count: Option<i64>,
    /// Up to 1h. Default: 1s.
    #[cfg_attr(test, schemars(regex(pattern = crd::DURATION)))]
    pub interval: Option<String>,
}

/// Which places are preferred, or how traffic is shared among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::locality))]
pub struct LocalitySpec {
    /// `Zone`: the same zone, then the same region, then the rest (the default). `Region`: the same region, then the
    /// rest. `None`: no preference.
    #[serde(default)]
    pub prefer: PreferSpec,
    /// A nearer place takes all traffic while at least this share of its endpoints, in percent (1 to 100), is healthy, as
    /// the caller's proxy finds them when it connects; below, it spills over in proportion. Pods that are not ready are no
    /// endpoints, and do not count. Default 70.
    #[serde(default)]
    #[cfg_attr(test, schemars(range(min = 1, max = 100)))]
    pub spill_below_percent: Option<u32>,
    /// The regions in which traffic goes on, in this order, where the caller's own has too little; then all others.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 16), inner(regex(pattern = crd::PLACE), length(max = 63)), transform = crd::each_once))]
    pub failover: Vec<String>,
    /// Shares by place instead of a preference, for callers of some regions: the first that fits. Callers whom none fits have
    /// the preference.
    #[serde(default)]
    #[cfg_attr(test, schemars(length(max = 32)))]
    pub distribute: Vec<DistributionSpec>,
}

/// How the traffic of one region's callers is shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(transform = crd::distribution))]
pub struct DistributionSpec {
    /// The callers' region. Default: any.
    #[serde(default)]
    #[cfg_attr(test, schemars(regex(pattern = crd::PLACE_OR_NONE)))]
    pub from: String,
    /// The shares. An endpoint belongs to the first place that it is in.
    #[cfg_attr(test, schemars(length(min = 1, max = 32)))]
    pub to: Vec<ShareSpec>,
}

/// The share of one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ShareSpec {
    /// The region.
    #[cfg_attr(test, schemars(regex(pattern = crd::PLACE)))]
    pub region: String,
    /// The zone. Default: all of them.
    #[serde(default)]
    #[cfg_attr(test, schemars(regex(pattern = crd::PLACE_OR_NONE)))]
    pub zone: String,
    /// From 0 to 1,000,000; shares are weighed against each other.
    #[cfg_attr(test, schemars(range(min = 0, max = 1_000_000)))]
    pub weight: i64,
}

/// Which place is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum PreferSpec {
    /// The same zone, then the same region, then the rest.
    #[default]
    Zone,
    /// The same region, then the rest.
    Region,
    /// No preference.
    None,
}
