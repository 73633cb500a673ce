//! Our own kinds, group `weft.dev`, version `v1alpha1`. These types are the source of the CustomResourceDefinitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::decode::Skip;

/// `ServiceSubset`: a part of one Service's endpoints, by pod label and region. A route's backendRef may name it
/// (group `weft.dev`, kind `ServiceSubset`, and a port of the Service).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
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
pub struct ServiceSubsetSpec {
    /// The name of the Service, in the same namespace.
    pub service: String,
    /// Only pods with these labels, each with exactly this value, as a Service's selector. Nothing given: all of the
    /// Service's pods.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Only pods that run in one of these regions (`topology.kubernetes.io/region` of their Node). Empty: any region.
    #[serde(default)]
    pub regions: Vec<String>,
}

/// `TrafficPolicy`: how traffic to a Service is spread.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// What a TrafficPolicy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The Services that it is about, in the same namespace. Of several policies on one Service the oldest acts.
    pub target_refs: Vec<TargetRef>,
    /// Which places are preferred.
    #[serde(default)]
    pub locality: Option<LocalitySpec>,
}

/// Names what a policy is about (Gateway API, GEP-713).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRef {
    /// The API group: empty for Service.
    #[serde(default)]
    pub group: String,
    /// `Service`.
    pub kind: String,
    /// The object's name.
    pub name: String,
}

/// Which places are preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalitySpec {
    /// `Zone`: the same zone, then the same region, then the rest (the default). `Region`: the same region, then the
    /// rest. `None`: no preference.
    #[serde(default)]
    pub prefer: PreferSpec,
    /// A nearer place takes all traffic while at least this share of its endpoints, in percent (1 to 100), is healthy, as
    /// the caller's proxy finds them when it connects; below, it spills over in proportion. Pods that are not ready are no
    /// endpoints, and do not count. Default 70.
    #[serde(default)]
    pub spill_below_percent: Option<u32>,
}

/// Which place is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreferSpec {
    /// The same zone, then the same region, then the rest.
    #[default]
    Zone,
    /// The same region, then the rest.
    Region,
    /// No preference.
    None,
}
