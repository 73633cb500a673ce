//! Which backends a stream of bytes may go to (TCPRoute, TLSRoute).

use std::sync::Arc;

use crate::endpoint::BackendPlace;
use crate::name::ObjectRef;
use crate::route::{Backend, weighted};

/// The rules for the streams of a Service's port, in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// The first that fits wins.
    pub rules: Vec<Arc<StreamRule>>,
}

/// One server name of one rule of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRule {
    /// The route object.
    pub route: ObjectRef,
    /// The rule's place in the route, from 0.
    pub index: u32,
    /// The rule's name, or empty.
    pub name: String,
    /// The server name (SNI) that the client's TLS asks for, in lower case; `*.` at its front stands for one or more labels.
    /// `None`: any stream, TLS or not.
    pub host: Option<String>,
    /// Where it sends. All weights 0, or none at all: refused.
    pub backends: Vec<Backend>,
}

impl Streams {
    /// Whether the client's first bytes have to be looked at for a server name.
    pub fn by_name(&self) -> bool {
        self.rules.iter().any(|rule| rule.host.is_some())
    }

    /// The place of the rule that a stream falls under. `name`: the server name that its TLS asks for, if it is TLS and says.
    pub fn pick(&self, name: Option<&str>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.takes(name))
    }

    /// The keys of all endpoint sets that the rules refer to.
    pub fn endpoint_sets(&self) -> impl Iterator<Item = &str> {
        let backends = self.rules.iter().flat_map(|rule| &rule.backends);
        backends.filter_map(|backend| match &backend.place {
            BackendPlace::Endpoints(key) => Some(key.as_str()),
            BackendPlace::Unresolved(_) => None,
        })
    }
}

impl StreamRule {
    /// The backend for a number drawn uniformly from all of `u64`. `None`: there is none to choose.
    pub fn backend(&self, drawn: u64) -> Option<usize> {
        weighted(&self.backends, drawn)
    }

    fn takes(&self, name: Option<&str>) -> bool {
        match (&self.host, name) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(host), Some(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                match host.strip_prefix('*') {
                    Some(suffix) => {
                        let front = name.len().checked_sub(suffix.len());
                        let (front, rest) = match front.filter(|front| name.is_char_boundary(*front)) {
                            Some(front) => name.split_at(front),
                            None => return false,
                        };
                        !front.is_empty() && rest.eq_ignore_ascii_case(suffix)
                    }
                    None => host.eq_ignore_ascii_case(name),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(hosts: &[Option<&str>]) -> Streams {
        let rule = |(index, host): (u32, &Option<&str>)| {
            Arc::new(StreamRule {
                route: ObjectRef {
                    kind: "TLSRoute".to_owned(),
                    namespace: "shop".to_owned(),
                    name: "r".to_owned(),
                },
                index,
                name: String::new(),
                host: host.map(str::to_owned),
                backends: Vec::new(),
            })
        };
        Streams {
            rules: (0..).zip(hosts).map(rule).collect(),
        }
    }

    #[test]
    fn a_server_name_is_whole_or_anything_below_a_star() {
        let streams = streams(&[Some("a.example"), Some("*.example"), Some("*.b.example")]);
        assert!(streams.by_name());
        for (name, want) in [
            (Some("a.example"), Some(0)),
            (Some("A.Example."), Some(0)),
            (Some("c.example"), Some(1)),
            (Some("x.b.example"), Some(1)),
            (Some("example"), None),
            (Some(".example"), None),
            (Some("a.example.org"), None),
            (Some("\u{e4}example"), None),
            (None, None),
        ] {
            assert_eq!(streams.pick(name), want, "{name:?}");
        }
    }

    #[test]
    fn what_has_no_server_name_falls_under_a_rule_without_one() {
        let streams = streams(&[Some("a.example"), None]);
        assert_eq!(streams.pick(None), Some(1));
        assert_eq!(streams.pick(Some("b.example")), Some(1));
        assert!(!self::streams(&[None]).by_name());
    }
}
