//! What injection is set up with: the same for every pod of a cluster.

use crate::redirect::Exempt;

/// What injection is set up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectSettings {
    /// The image of the added containers.
    pub image: String,
    /// Their command, before the role: `["weft"]`.
    pub command: Vec<String>,
    /// `host:port` of the control plane.
    pub control_address: String,
    /// What exempts the proxy from the redirect.
    pub exempt: Exempt,
    /// More variables for the proxy: `OTEL_EXPORTER_OTLP_ENDPOINT`, say.
    pub proxy_env: Vec<(String, String)>,
    /// Added to `weft.dev/proxy-version`.
    pub version: String,
}
