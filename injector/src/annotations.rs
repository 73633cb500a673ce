//! Table. The annotations `config.weft.dev/…`, which tune the mesh for a Namespace or a pod, and the labels `weft.dev/…`.
//!
//! Injection reads by this table, and `docs/settings.md` is written from it.

use std::num::NonZeroU16;

/// Annotations that tune the mesh begin so.
pub const PREFIX: &str = "config.weft.dev/";

/// Ports that are taken as opaque by one annotation.
const OPAQUE_PORTS_MAX: usize = 64;
/// Bytes of a log filter.
const LOG_FILTER_MAX: usize = 1024;

/// What an annotation tunes. A pod's own counts before that of its Namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tune {
    /// Whether the proxy starts with its access log on.
    AccessLog,
    /// Whether plaintext is accepted. The control plane reads it.
    Inbound,
    /// What the proxy logs.
    LogLevel,
    /// The pod's own ports at which mere bytes come. The control plane reads it.
    OpaquePorts,
    /// CPU that the proxy gets at most.
    CpuLimit,
    /// CPU that is kept free for the proxy.
    CpuRequest,
    /// Memory that the proxy gets at most.
    MemoryLimit,
    /// Memory that is kept free for the proxy.
    MemoryRequest,
    /// The pod's own ports whose traffic does not pass the proxy.
    SkipInboundPorts,
    /// Destination ports that are not redirected.
    SkipOutboundPorts,
    /// Destination networks that are not redirected.
    SkipOutboundSubnets,
    /// The share of new traces that is kept.
    TraceSampling,
    /// The proxy's worker threads.
    Workers,
}

impl Tune {
    /// All of them, by name.
    pub const ALL: [Self; 13] = [
        Self::AccessLog,
        Self::Inbound,
        Self::LogLevel,
        Self::OpaquePorts,
        Self::CpuLimit,
        Self::CpuRequest,
        Self::MemoryLimit,
        Self::MemoryRequest,
        Self::SkipInboundPorts,
        Self::SkipOutboundPorts,
        Self::SkipOutboundSubnets,
        Self::TraceSampling,
        Self::Workers,
    ];

    /// The annotation's name behind [`PREFIX`].
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "access-log",
            Self::Inbound => "inbound",
            Self::LogLevel => "log-level",
            Self::OpaquePorts => "opaque-ports",
            Self::CpuLimit => "proxy-cpu-limit",
            Self::CpuRequest => "proxy-cpu-request",
            Self::MemoryLimit => "proxy-memory-limit",
            Self::MemoryRequest => "proxy-memory-request",
            Self::SkipInboundPorts => "skip-inbound-ports",
            Self::SkipOutboundPorts => "skip-outbound-ports",
            Self::SkipOutboundSubnets => "skip-outbound-subnets",
            Self::TraceSampling => "trace-sampling",
            Self::Workers => "workers",
        }
    }

    /// The annotation's whole key.
    pub fn key(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// The annotation of this key, prefix and all.
    pub fn of(key: &str) -> Option<Self> {
        let name = key.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|tune| tune.name() == name)
    }

    /// What its value is.
    pub fn value(self) -> &'static str {
        match self {
            Self::AccessLog => "`on` or `off`",
            Self::Inbound => "`permissive` or `strict`",
            Self::LogLevel => "a log filter, such as `info` or `weft_proxy=debug,info`",
            Self::CpuLimit | Self::CpuRequest => "an amount of CPU, such as `100m` or `2`",
            Self::MemoryLimit | Self::MemoryRequest => "an amount of memory, such as `64Mi`",
            Self::OpaquePorts => "container ports, separated by commas; at most 64",
            Self::SkipInboundPorts | Self::SkipOutboundPorts => "ports, separated by commas",
            Self::SkipOutboundSubnets => "networks (CIDR), separated by commas",
            Self::TraceSampling => "a number from 0 to 1",
            Self::Workers => "a number from 1 to 255",
        }
    }

    /// What holds where it is not set.
    pub fn default(self) -> &'static str {
        match self {
            Self::AccessLog => "`off`",
            Self::Inbound => "`permissive`",
            Self::LogLevel => "`info`",
            Self::OpaquePorts | Self::SkipInboundPorts | Self::SkipOutboundPorts | Self::SkipOutboundSubnets => "none",
            Self::CpuLimit | Self::CpuRequest | Self::MemoryLimit | Self::MemoryRequest | Self::TraceSampling => {
                "as the injector is set"
            }
            Self::Workers => "`1`",
        }
    }

    /// From when on a change of it acts.
    pub fn acts(self) -> &'static str {
        match self {
            Self::Inbound | Self::OpaquePorts => "at once, in running proxies",
            _ => "in new pods",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AccessLog => {
                "Whether the proxy starts with its access log on (`WEFT_ACCESS_LOG`). In a running pod it is \
                 switched by `weft access-log` in a mesh on this machine, and not at all on a cluster: there restart the pod."
            }
            Self::Inbound => {
                "Whether the app's ports take plaintext from outside of the mesh. A pod can only tighten what its Namespace \
                 says; what can't be read counts as `strict`."
            }
            Self::LogLevel => "What the proxy logs (`WEFT_LOG`).",
            Self::OpaquePorts => {
                "What comes to these ports of the pod is passed on as bytes, over mutual TLS all the same, and never looked at as \
                 HTTP: no routes of requests, no metrics of requests. What a Service, or a route of its namespace that names the \
                 port, declares counts before it; a port of a Service of which neither does is opaque to clients if it is in any \
                 of the pods. What can't be read counts as absent."
            }
            Self::CpuLimit => "CPU that the proxy gets at most.",
            Self::CpuRequest => "CPU that is kept free for the proxy.",
            Self::MemoryLimit => "Memory that the proxy gets at most; one that needs more is ended and started again.",
            Self::MemoryRequest => "Memory that is kept free for the proxy.",
            Self::SkipInboundPorts => {
                "Connections to these ports of the pod go to the app without its proxy: no mutual TLS, no policy, no \
                 metrics. Refused where `inbound` is `strict`."
            }
            Self::SkipOutboundPorts => {
                "Connections to these ports leave the pod without its proxy: no mutual TLS, no routes, no metrics."
            }
            Self::SkipOutboundSubnets => "The same for connections to these networks.",
            Self::TraceSampling => {
                "The share of the traces that begin at this proxy and are kept. What a caller has decided about a trace \
                 counts before it."
            }
            Self::Workers => "The proxy's worker threads (`WEFT_WORKERS`).",
        }
    }

    /// Whether a value can be read. The error says what it should be.
    ///
    /// # Errors
    /// It can't be read.
    pub fn check(self, text: &str) -> Result<(), &'static str> {
        let (good, want) = match self {
            Self::AccessLog => (matches!(text, "on" | "off"), "on or off"),
            // The control plane, which can refuse nothing, takes what it can't read as strict.
            Self::Inbound => (matches!(text, "permissive" | "strict"), "permissive or strict"),
            Self::LogLevel => (is_filter(text), "a log filter such as info or weft_proxy=debug,info"),
            Self::CpuLimit | Self::CpuRequest => (is_quantity(text), "an amount of CPU such as 100m or 2"),
            Self::MemoryLimit | Self::MemoryRequest => (is_quantity(text), "an amount of memory such as 64Mi"),
            Self::OpaquePorts => (
                list::<NonZeroU16>(text).is_some_and(|ports| ports.len() <= OPAQUE_PORTS_MAX),
                "a list of at most 64 ports such as 6379,9092",
            ),
            Self::SkipInboundPorts | Self::SkipOutboundPorts => {
                (list::<NonZeroU16>(text).is_some(), "a list of ports such as 25,587")
            }
            Self::SkipOutboundSubnets => (
                list::<ipnet::IpNet>(text).is_some(),
                "a list of networks such as 192.0.2.0/24,2001:db8::/32",
            ),
            Self::TraceSampling => (
                text.trim()
                    .parse::<f64>()
                    .is_ok_and(|share| (0.0..=1.0).contains(&share)),
                "a number from 0 to 1",
            ),
            Self::Workers => (text.parse::<std::num::NonZeroU8>().is_ok(), "a number from 1 to 255"),
        };
        if good { Ok(()) } else { Err(want) }
    }
}

/// Whether a proxy starts with this log filter. A longer one nobody writes, and reading it would take its time.
fn is_filter(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= LOG_FILTER_MAX && weft_daemon::log::check(text).is_ok()
}

/// Whether Kubernetes reads this as an amount of something: digits, perhaps with a fraction, and a unit.
pub(crate) fn is_quantity(text: &str) -> bool {
    const UNITS: [&str; 14] = [
        "", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |part: &str| !part.is_empty() && part.len() <= 15 && part.bytes().all(|b| b.is_ascii_digit());
    is_number(whole) && is_number(fraction) && UNITS.contains(&unit)
}

/// A mistake in the annotations of a Namespace or pod: the key, what is wrong with it, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The whole key.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: String,
}

/// What is wrong with an annotation, if it is one of ours. A typing error must not go unseen.
pub fn mistake(key: &str, text: &str) -> Option<Mistake> {
    let name = key.strip_prefix(PREFIX)?;
    let (message, fix) = match Tune::of(key) {
        Some(tune) => (format!("{text:?} is not {}", tune.check(text).err()?), String::new()),
        None => {
            let known: Vec<&str> = Tune::ALL.iter().map(|tune| tune.name()).collect();
            (
                format!("there is no annotation {name:?} of Weft's"),
                format!("remove it, or take one of {}", known.join(", ")),
            )
        }
    };
    Some(Mistake {
        key: key.to_owned(),
        message,
        fix,
    })
}

/// The items of a list that commas separate. `None`: one of them can't be read.
pub(crate) fn list<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| item.parse().ok())
        .collect()
}

/// A label or annotation that is not tuned by but tells or switches something.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// The key.
    pub key: &'static str,
    /// Label or annotation, and of what.
    pub on: &'static str,
    /// Its value.
    pub value: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// The label of a Namespace that switches injection on, and of a Pod that opts out.
pub const INJECT_LABEL: &str = "weft.dev/inject";
/// The annotation that injection leaves on a pod.
pub const VERSION_ANNOTATION: &str = "weft.dev/proxy-version";
/// The other: what a later review knows its own work by.
pub const SIDECAR_ANNOTATION: &str = "weft.dev/sidecar";

/// All of Weft's own besides what tunes.
pub const MARKS: &[Mark] = &[
    Mark {
        key: INJECT_LABEL,
        on: "label of a Namespace",
        value: "`enabled` or `disabled`",
        meaning: "`enabled`: pods that are made in it get a sidecar. Without the label they get none.",
    },
    Mark {
        key: INJECT_LABEL,
        on: "label of a Pod or a pod template",
        value: "`enabled` or `disabled`",
        meaning: "`disabled`: this pod gets no sidecar, in a Namespace that is `enabled`.",
    },
    Mark {
        key: VERSION_ANNOTATION,
        on: "annotation of a Pod, set by injection",
        value: "a version",
        meaning: "The version of Weft that injected the sidecar.",
    },
    Mark {
        key: SIDECAR_ANNOTATION,
        on: "annotation of a Pod, set by injection",
        value: "16 hex digits",
        meaning: "A digest of what was injected: whether a pod that is reviewed again has this sidecar already.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_told_with_what_there_is() {
        let said = mistake("config.weft.dev/inbond", "strict").unwrap();
        assert!(
            said.message.contains("\"inbond\"") && said.fix.contains("inbound"),
            "{said:?}"
        );
        assert_eq!(mistake("example.com/inbond", "strict"), None);
    }

    #[test]
    fn each_value_is_read_or_told() {
        let many = ["1"; 65].join(",");
        let long = ["info"; 256].join(",");
        for (name, good, bad) in [
            ("access-log", "on", "yes"),
            ("log-level", "debug", " "),
            ("log-level", "weft_proxy=debug,info", "nonsense=="),
            ("log-level", "off", "info,weft_proxy=loud"),
            ("log-level", "info,[request{path=(a|b)*a}]=debug", long.as_str()),
            ("inbound", "strict", "Strict"),
            ("inbound", "permissive", ""),
            ("opaque-ports", "6379, 9092", "redis"),
            ("opaque-ports", "6379", "70000"),
            ("opaque-ports", "", "6379;9092"),
            ("opaque-ports", many.strip_suffix(",1").unwrap(), many.as_str()),
            ("skip-outbound-ports", "25, 587", "smtp"),
            ("skip-outbound-ports", "1", "0"),
            ("skip-inbound-ports", "9090", "metrics"),
            ("skip-outbound-subnets", "192.0.2.0/24", "192.0.2.0/99"),
            ("proxy-cpu-request", "100m", "100 m"),
            ("proxy-cpu-limit", "1.5", "-1"),
            ("proxy-memory-request", "64Mi", "64MB"),
            ("proxy-memory-limit", "1Gi", "much"),
            ("trace-sampling", "0.25", "25"),
            ("trace-sampling", "1", "NaN"),
            ("workers", "2", "0"),
        ] {
            let key = format!("{PREFIX}{name}");
            assert_eq!(mistake(&key, good), None, "{name}");
            assert!(mistake(&key, bad).unwrap().message.contains(bad), "{name}");
        }
    }
}
