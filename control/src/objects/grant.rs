//! ReferenceGrant as the Gateway API writes it (v1 and v1beta1 are the same).

use serde::Deserialize;

use super::decode::Skip;

/// `ReferenceGrant`: a namespace's leave to refer to what is in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrant {
    #[serde(rename = "apiVersion")]
    _api_version: Skip,
    #[serde(rename = "kind")]
    _kind: Skip,
    #[serde(rename = "metadata")]
    _metadata: Skip,
    /// What it allows.
    pub spec: ReferenceGrantSpec,
}

/// What a ReferenceGrant allows: any of `from` may refer to any of `to`.
#[derive(Clone, Debug, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what of the grant's own namespace.
    pub to: Vec<GrantTo>,
}

/// Objects that may refer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantFrom {
    /// Their API group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// Their namespace.
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrantTo {
    /// Their API group. Empty: the core group.
    pub group: String,
    /// Their kind.
    pub kind: String,
    /// The name of one of them. Default: all.
    pub name: Option<String>,
}
