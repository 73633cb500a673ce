//! Table. The annotations `config.weft.dev/…`, which tune the mesh for a Namespace or a pod, and the labels `weft.dev/…`.
//!
//! Injection reads by this table, and `docs/settings.md` is written from it.

/// Annotations that tune the mesh begin so.
pub const PREFIX: &str = "config.weft.dev/";

/// What an annotation tunes. A pod's own counts before that of its Namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tune {
    /// Whether the proxy starts with its access log on.
    AccessLog,
    /// Whether plaintext is accepted. The control plane reads it.
    Inbound,
    /// What the proxy logs.
    LogLevel,
    /// Destination ports that are not redirected.
    SkipOutboundPorts,
    /// Destination networks that are not redirected.
    SkipOutboundSubnets,
    /// The proxy's worker threads.
    Workers,
}

impl Tune {
    /// All of them, by name.
    pub const ALL: [Self; 6] = [
        Self::AccessLog,
        Self::Inbound,
        Self::LogLevel,
        Self::SkipOutboundPorts,
        Self::SkipOutboundSubnets,
        Self::Workers,
    ];

    /// The annotation's name behind [`PREFIX`].
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "access-log",
            Self::Inbound => "inbound",
            Self::LogLevel => "log-level",
            Self::SkipOutboundPorts => "skip-outbound-ports",
            Self::SkipOutboundSubnets => "skip-outbound-subnets",
            Self::Workers => "workers",
        }
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
            Self::LogLevel => "a log filter",
            Self::SkipOutboundPorts => "ports, separated by commas",
            Self::SkipOutboundSubnets => "networks (CIDR), separated by commas",
            Self::Workers => "a number from 1 to 255",
        }
    }

    /// What holds where it is not set.
    pub fn default(self) -> &'static str {
        match self {
            Self::AccessLog => "`off`",
            Self::Inbound => "`permissive`",
            Self::LogLevel => "`info`",
            Self::SkipOutboundPorts | Self::SkipOutboundSubnets => "none",
            Self::Workers => "`1`",
        }
    }

    /// From when on a change of it acts.
    pub fn acts(self) -> &'static str {
        match self {
            Self::Inbound => "at once, in running proxies",
            Self::AccessLog | Self::LogLevel | Self::SkipOutboundPorts | Self::SkipOutboundSubnets | Self::Workers => {
                "in new pods"
            }
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AccessLog => {
                "Whether the proxy starts with its access log on (`WEFT_ACCESS_LOG`). `weft access-log` switches it in a \
                 running pod."
            }
            Self::Inbound => {
                "Whether the app's ports take plaintext from outside of the mesh. A pod can only tighten what its Namespace \
                 says; what can't be read counts as `strict`."
            }
            Self::LogLevel => "What the proxy logs (`WEFT_LOG`).",
            Self::SkipOutboundPorts => {
                "Connections to these ports leave the pod without its proxy: no mutual TLS, no routes, no metrics."
            }
            Self::SkipOutboundSubnets => "The same for connections to these networks.",
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
            // Whoever reads it takes what it can't read as strict, and says so.
            Self::Inbound => (true, ""),
            Self::LogLevel => (
                !text.trim().is_empty(),
                "a log filter such as info or weft_proxy=debug,info",
            ),
            Self::SkipOutboundPorts => (list::<u16>(text).is_some(), "a list of ports such as 25,587"),
            Self::SkipOutboundSubnets => (
                list::<ipnet::IpNet>(text).is_some(),
                "a list of networks such as 192.0.2.0/24,2001:db8::/32",
            ),
            Self::Workers => (text.parse::<std::num::NonZeroU8>().is_ok(), "a number from 1 to 255"),
        };
        if good { Ok(()) } else { Err(want) }
    }
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
        for (name, good, bad) in [
            ("access-log", "on", "yes"),
            ("log-level", "debug", " "),
            ("skip-outbound-ports", "25, 587", "smtp"),
            ("skip-outbound-subnets", "192.0.2.0/24", "192.0.2.0/99"),
            ("workers", "2", "0"),
        ] {
            let key = format!("{PREFIX}{name}");
            assert_eq!(mistake(&key, good), None, "{name}");
            assert!(mistake(&key, bad).unwrap().message.contains(bad), "{name}");
        }
    }
}
