//! What a pod's plan depends on besides the pod, and what it may still wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::raw::TokenSource;
use super::{Files, Key};
use crate::spec::Dns;

/// What a pod's plan depends on besides the pod.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// `/etc/resolv.conf`.
    pub dns: Dns,
    /// All ConfigMaps.
    pub config_maps: &'a BTreeMap<Key, Arc<Files>>,
    /// All Secrets.
    pub secrets: &'a BTreeMap<Key, Arc<Files>>,
    /// The contents of the ConfigMap `weft-trust`, which every namespace has.
    pub trust: Option<&'a Files>,
    /// Signed tokens, by audience and lifetime in seconds.
    pub tokens: &'a BTreeMap<(String, u64), String>,
    /// The containers that the injector added, and that may do what they ask for.
    pub ours: &'a BTreeSet<String>,
}

/// The ConfigMap with the trust bundle.
pub(super) const TRUST_CONFIG_MAP: &str = "weft-trust";

impl Facts<'_> {
    /// The contents of a ConfigMap.
    pub(super) fn config_map(&self, key: &Key) -> Option<&Files> {
        let written = self.config_maps.get(key).map(|files| &**files);
        written.or(self.trust.filter(|_| key.name == TRUST_CONFIG_MAP))
    }

    /// The contents of a Secret.
    pub(super) fn secret(&self, key: &Key) -> Option<&Files> {
        self.secrets.get(key).map(|files| &**files)
    }
}

/// What a pod waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Where it is asked for: `spec.volumes[1].configMap.name`.
    pub field: String,
    /// What it is.
    pub message: String,
}

impl Missing {
    /// The same below a source; `name`: the field that names the source, if the source itself is missing.
    pub(super) fn below(self, path: &str, name: &str) -> Self {
        let field = if self.field.is_empty() { name } else { &self.field };
        Self {
            field: format!("{path}.{field}"),
            message: self.message,
        }
    }
}

/// How long a token lives that names no time, and the least (API reference, `serviceAccountToken`).
const TOKEN_SECONDS: u64 = 3600;
const TOKEN_SECONDS_MIN: u64 = 600;
/// The audience of a token that names none: the API server's own.
const API_SERVER: &str = "https://kubernetes.default.svc.cluster.local";

impl TokenSource {
    /// Whom it is for.
    pub fn audience(&self) -> &str {
        if self.audience.is_empty() {
            API_SERVER
        } else {
            &self.audience
        }
    }

    /// How long it lives.
    pub fn seconds(&self) -> u64 {
        self.expiration_seconds.unwrap_or(TOKEN_SECONDS).max(TOKEN_SECONDS_MIN)
    }
}
