//! Typed views of what the tables call honoured, decoded as they were written.

mod volume;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

pub use volume::*;

/// A number or a name: `targetPort`, `maxSurge`, a probe's `port`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum NumberOrName {
    /// A number.
    Number(u32),
    /// Anything else.
    Name(String),
}

impl fmt::Display for NumberOrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// A Pod or a pod template.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    /// Its specification.
    pub spec: PodSpec,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct PodSpec {
    #[serde(default)]
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    pub restart_policy: Option<String>,
    pub termination_grace_period_seconds: Option<u32>,
    pub service_account_name: Option<String>,
    pub service_account: Option<String>,
    pub node_name: Option<String>,
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    pub hostname: Option<String>,
    pub subdomain: Option<String>,
    #[serde(default)]
    pub host_aliases: Vec<HostAlias>,
    #[serde(default)]
    pub security_context: Security,
}

/// `spec.hostAliases[]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct HostAlias {
    pub ip: String,
    #[serde(default)]
    pub hostnames: Vec<String>,
}

/// `securityContext` of a pod or container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Security {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub fs_group: Option<u32>,
    #[serde(default)]
    pub supplemental_groups: Vec<u32>,
    pub read_only_root_filesystem: Option<bool>,
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// `securityContext.capabilities`.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Capabilities {
    #[serde(default)]
    pub add: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Container {
    pub name: String,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    #[serde(default)]
    pub env_from: Vec<EnvSource>,
    #[serde(default)]
    pub env: Vec<EnvVar>,
    #[serde(default)]
    pub resources: Resources,
    pub lifecycle: Option<Lifecycle>,
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
    pub startup_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub liveness_probe: Option<Probe>,
    pub restart_policy: Option<String>,
    #[serde(default)]
    pub security_context: Security,
}

/// `env[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct EnvVar {
    pub name: String,
    pub value: Option<String>,
    pub value_from: Option<ValueFrom>,
}

/// `env[].valueFrom`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct ValueFrom {
    pub field_ref: Option<FieldRef>,
    pub config_map_key_ref: Option<KeyRef>,
    pub secret_key_ref: Option<KeyRef>,
    pub resource_field_ref: Option<ResourceRef>,
}

/// `envFrom[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct EnvSource {
    #[serde(default)]
    pub prefix: String,
    pub config_map_ref: Option<WholeRef>,
    pub secret_ref: Option<WholeRef>,
}

/// A ConfigMap or Secret as a whole.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct WholeRef {
    pub name: String,
    #[serde(default)]
    pub optional: bool,
}

/// `resourceFieldRef`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct ResourceRef {
    #[serde(default)]
    pub container_name: String,
    pub resource: String,
    pub divisor: Option<Value>,
}

/// `resources` of a container: quantities as they were written.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Resources {
    #[serde(default)]
    pub limits: BTreeMap<String, Value>,
    #[serde(default)]
    pub requests: BTreeMap<String, Value>,
}

/// `lifecycle` of a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Lifecycle {
    pub post_start: Option<Hook>,
    pub pre_stop: Option<Hook>,
}

/// `postStart` and `preStop`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Hook {
    pub exec: Option<Exec>,
    pub http_get: Option<HttpGet>,
    pub sleep: Option<Sleep>,
}

/// `sleep`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Sleep {
    pub seconds: u32,
}

/// A field of the pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct FieldRef {
    pub field_path: String,
}

/// A key of a ConfigMap or Secret.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct KeyRef {
    pub name: String,
    pub key: String,
    #[serde(default)]
    pub optional: bool,
}

/// `ports[]` of a container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct ContainerPort {
    #[serde(default)]
    pub name: String,
    pub container_port: u16,
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    /// `TCP` or `UDP`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A probe.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Probe {
    pub http_get: Option<HttpGet>,
    pub tcp_socket: Option<TcpSocket>,
    pub exec: Option<Exec>,
    pub grpc: Option<Grpc>,
    pub initial_delay_seconds: Option<u32>,
    pub period_seconds: Option<u32>,
    pub timeout_seconds: Option<u32>,
    pub success_threshold: Option<u32>,
    pub failure_threshold: Option<u32>,
    pub termination_grace_period_seconds: Option<u32>,
}

/// `httpGet`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct HttpGet {
    pub path: Option<String>,
    pub port: NumberOrName,
    pub host: Option<String>,
    pub scheme: Option<String>,
    #[serde(default)]
    pub http_headers: Vec<Header>,
}

/// `grpc`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Grpc {
    pub port: u16,
    pub service: Option<String>,
}

/// `httpGet.httpHeaders[]`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Header {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

/// `tcpSocket`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct TcpSocket {
    pub port: NumberOrName,
    pub host: Option<String>,
}

/// `exec`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Exec {
    #[serde(default)]
    pub command: Vec<String>,
}
