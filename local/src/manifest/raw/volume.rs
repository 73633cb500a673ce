//! Views of volumes and their mounts.

use serde::Deserialize;

use super::{FieldRef, NumberOrName};

/// `volumeMounts[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    pub sub_path: Option<String>,
    #[serde(default)]
    pub read_only: bool,
}

/// `volumes[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Volume {
    pub name: String,
    pub empty_dir: Option<EmptyDir>,
    pub config_map: Option<FilesOf>,
    pub secret: Option<FilesOf>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<Downward>,
    pub projected: Option<Projected>,
    pub persistent_volume_claim: Option<Claim>,
}

/// `persistentVolumeClaim`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Claim {
    pub claim_name: String,
}

/// `emptyDir`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct EmptyDir {
    #[serde(default)]
    pub medium: String,
    pub size_limit: Option<NumberOrName>,
}

/// `configMap` and `secret`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct FilesOf {
    #[serde(alias = "secretName")]
    pub name: String,
    pub items: Option<Vec<Item>>,
    pub default_mode: Option<u32>,
    #[serde(default)]
    pub optional: bool,
}

/// A key, and the file that it becomes.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Item {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

/// `downwardAPI`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Downward {
    #[serde(default)]
    pub items: Vec<DownwardItem>,
    pub default_mode: Option<u32>,
}

/// `downwardAPI.items[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct DownwardItem {
    pub path: String,
    pub mode: Option<u32>,
    pub field_ref: FieldRef,
}

/// `projected`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Projected {
    #[serde(default)]
    pub sources: Vec<Source>,
    pub default_mode: Option<u32>,
}

/// `projected.sources[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct Source {
    pub config_map: Option<FilesOf>,
    pub secret: Option<FilesOf>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<Downward>,
    pub service_account_token: Option<TokenSource>,
}

/// `serviceAccountToken`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the API reference explains the fields, which have the same names here"
)]
pub struct TokenSource {
    #[serde(default)]
    pub audience: String,
    pub expiration_seconds: Option<u64>,
    pub path: String,
}
