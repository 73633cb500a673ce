//! What injection is set up with: the same for every pod of a cluster.

use clap::Args;
use weft_daemon::settings::{self, SettingError};

use crate::annotations::{self, Tune};
use crate::redirect::{Exempt, PROXY_UID};

/// What injection is set up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectSettings {
    /// The image of the added containers.
    pub image: String,
    /// When the kubelet fetches it: `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Their command, before the role: `["weft"]`.
    pub command: Vec<String>,
    /// `host:port` of the control plane.
    pub control_address: String,
    /// What exempts the proxy from the redirect.
    pub exempt: Exempt,
    /// What the proxy's container asks for and gets, where no annotation says otherwise.
    pub resources: Resources,
    /// More variables for the proxy: `OTEL_EXPORTER_OTLP_ENDPOINT`, say.
    pub proxy_env: Vec<(String, String)>,
    /// Added to `weft.dev/proxy-version`.
    pub version: String,
}

/// Requests and limits of a container, as Kubernetes writes quantities (`10m`, `64Mi`). `None`: not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU that the scheduler keeps free.
    pub cpu_request: Option<String>,
    /// CPU at most.
    pub cpu_limit: Option<String>,
    /// Memory that the scheduler keeps free.
    pub memory_request: Option<String>,
    /// Memory at most; beyond it the kernel ends the proxy.
    pub memory_limit: Option<String>,
}

impl Default for InjectSettings {
    /// As on a cluster, with nothing to tune.
    fn default() -> Self {
        Self {
            image: default_image(),
            pull_policy: "IfNotPresent".to_owned(),
            command: vec!["/usr/bin/weft".to_owned()],
            control_address: control_address("weft-system"),
            exempt: Exempt::Uid(PROXY_UID),
            resources: Resources::default(),
            proxy_env: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What can be typed about the sidecar, for the webhook and for `weft inject` alike. An empty value counts as none.
#[derive(Clone, Debug, Args)]
pub struct SidecarArgs {
    /// The namespace of Weft itself.
    #[arg(
        long,
        env = "WEFT_CONTROL_NAMESPACE",
        value_name = "NAME",
        default_value = "weft-system"
    )]
    pub control_namespace: String,
    /// The control plane, as proxies reach it. [default: weft-control.NAMESPACE.svc.cluster.local:15012]
    #[arg(
        long,
        env = "WEFT_CONTROL_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "",
        hide_default_value = true
    )]
    pub control_address: String,
    /// The image of the sidecar. [default: weft.dev/weft of this version]
    #[arg(
        long,
        env = "WEFT_IMAGE",
        value_name = "IMAGE",
        default_value = "",
        hide_default_value = true
    )]
    pub image: String,
    /// When nodes fetch the image.
    #[arg(long, env = "WEFT_IMAGE_PULL_POLICY", value_name = "WHEN", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,
    /// CPU that is kept free for each proxy.
    #[arg(long, env = "WEFT_PROXY_CPU_REQUEST", value_name = "QUANTITY", default_value = "10m", value_parser = quantity)]
    pub proxy_cpu_request: String,
    /// CPU that a proxy gets at most.
    #[arg(long, env = "WEFT_PROXY_CPU_LIMIT", value_name = "QUANTITY", default_value = "", hide_default_value = true, value_parser = quantity)]
    pub proxy_cpu_limit: String,
    /// Memory that is kept free for each proxy.
    #[arg(long, env = "WEFT_PROXY_MEMORY_REQUEST", value_name = "QUANTITY", default_value = "32Mi", value_parser = quantity)]
    pub proxy_memory_request: String,
    /// Memory that a proxy gets at most; one that needs more is ended by the kernel and started again.
    #[arg(long, env = "WEFT_PROXY_MEMORY_LIMIT", value_name = "QUANTITY", default_value = "1Gi", value_parser = quantity)]
    pub proxy_memory_limit: String,
    /// What proxies log. [default: info]
    #[arg(
        long,
        env = "WEFT_PROXY_LOG",
        value_name = "FILTER",
        default_value = "",
        hide_default_value = true,
        value_parser = filter
    )]
    pub proxy_log: String,
    /// Where proxies send traces: an OTLP/gRPC endpoint without TLS, http://HOST:PORT. [default: nowhere]
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        default_value = "",
        hide_default_value = true,
        value_parser = collector
    )]
    pub otlp_endpoint: String,
    /// The share of new traces that proxies keep, from 0 to 1. [default: 1]
    #[arg(long, env = "WEFT_TRACE_SAMPLING", value_name = "SHARE", default_value = "", hide_default_value = true, value_parser = share)]
    pub trace_sampling: String,
}

impl SidecarArgs {
    /// What they mean for injection on a cluster.
    pub fn settings(&self) -> InjectSettings {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut proxy_env = Vec::new();
        proxy_env.extend(given(&self.proxy_log).map(|filter| ("WEFT_LOG".to_owned(), filter)));
        proxy_env.extend(given(&self.otlp_endpoint).map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), url)));
        proxy_env.extend(
            given(&self.trace_sampling)
                .into_iter()
                .flat_map(|share| sampling(&share)),
        );
        InjectSettings {
            image: given(&self.image).unwrap_or_else(default_image),
            pull_policy: self.image_pull_policy.clone(),
            control_address: given(&self.control_address).unwrap_or_else(|| control_address(&self.control_namespace)),
            resources: Resources {
                cpu_request: given(&self.proxy_cpu_request),
                cpu_limit: given(&self.proxy_cpu_limit),
                memory_request: given(&self.proxy_memory_request),
                memory_limit: given(&self.proxy_memory_limit),
            },
            proxy_env,
            ..InjectSettings::default()
        }
    }
}

/// The variables that make a proxy keep this share of the traces that begin with it.
pub(crate) fn sampling(share: &str) -> [(String, String); 2] {
    [
        ("OTEL_TRACES_SAMPLER".to_owned(), "parentbased_traceidratio".to_owned()),
        ("OTEL_TRACES_SAMPLER_ARG".to_owned(), share.trim().to_owned()),
    ]
}

fn default_image() -> String {
    format!("weft.dev/weft:{}", env!("CARGO_PKG_VERSION"))
}

fn control_address(namespace: &str) -> String {
    format!("weft-control.{namespace}.svc.cluster.local:15012")
}

fn quantity(text: &str) -> Result<String, String> {
    match text.is_empty() || annotations::is_quantity(text) {
        true => Ok(text.to_owned()),
        false => Err("a quantity is a number with or without m, k, M, G, Ki, Mi, Gi: 100m, 64Mi".to_owned()),
    }
}

fn share(text: &str) -> Result<String, String> {
    match text.is_empty() || Tune::TraceSampling.check(text).is_ok() {
        true => Ok(text.to_owned()),
        false => Err("a share is a number from 0 to 1".to_owned()),
    }
}

/// What a proxy does not start with is refused here: so that it is the injector which does not start, and its roll-out stops,
/// and not every pod that it would inject.
fn filter(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        true => Ok(String::new()),
        false => match Tune::LogLevel.check(text.trim()) {
            Ok(()) => Ok(text.to_owned()),
            Err(wanted) => Err(format!("it must be {wanted}")),
        },
    }
}

fn collector(text: &str) -> Result<String, SettingError> {
    match text.trim() {
        "" => Ok(String::new()),
        url => settings::collector(url).map(|_| url.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        sidecar: SidecarArgs,
    }

    #[test]
    fn what_a_proxy_could_not_start_with_is_refused_before_there_is_a_proxy() {
        let typed = |flag: &str, value: &str| Typed::try_parse_from(["weft", flag, value]);
        for (flag, good, bad) in [
            ("--otlp-endpoint", "http://otel.obs:4317", "https://otel.obs:4317"),
            ("--otlp-endpoint", "", "http://otel:4318/v1/traces"),
            ("--proxy-log", "weft_proxy=debug,info", "nonsense=="),
            ("--proxy-log", "", "info,weft_proxy=loud"),
            ("--trace-sampling", "0.5", "5"),
            ("--proxy-cpu-limit", "500m", "much"),
        ] {
            assert!(typed(flag, good).is_ok(), "{flag} {good}");
            assert!(typed(flag, bad).is_err(), "{flag} {bad}");
        }
        let settings = typed("--otlp-endpoint", "http://otel.obs:4317")
            .unwrap()
            .sidecar
            .settings();
        let (name, url) = &settings.proxy_env[0];
        assert_eq!(
            (name.as_str(), url.as_str()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel.obs:4317")
        );
    }
}
