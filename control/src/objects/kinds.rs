//! Which kinds of objects a reader understands, and what it says of the others.

use super::near::near;
use super::strangers::{self, Left};

/// The API group of our own kinds.
pub const WEFT_GROUP: &str = "weft.dev";
/// The API group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The API group of the Gateway API's experiments.
pub const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";

/// The API group of the Multi-Cluster Services API (KEP-1645).
pub const MULTICLUSTER_GROUP: &str = "multicluster.x-k8s.io";

/// The kinds that a reader of manifests understands. Start from [`Kinds::control`] and add.
#[derive(Clone, Debug)]
pub struct Kinds {
    known: Vec<Kind>,
    /// Where objects are that name no namespace.
    namespace: String,
}

#[derive(Clone, Debug)]
struct Kind {
    group: String,
    kind: String,
    versions: Vec<String>,
    scope: Scope,
    elsewhere: bool,
}

/// Whether objects of a kind belong to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They do.
    Namespaced,
    /// They don't: `Namespace`, `Node`.
    Cluster,
}

/// What a reader does with an object, by its group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Takes it.
    Understood(Scope),
    /// Leaves it, silently: another reader of the same files takes it, or it changes nothing here.
    Elsewhere,
    /// Cannot take it, as this version of the kind is not understood: a fault, which keeps what was there before.
    Version {
        /// The versions that are understood.
        understood: Vec<String>,
    },
    /// Leaves it, and says so: an error, because it is a kind of ours that people would rely on.
    NotHonoured,
    /// Leaves it, and warns: nothing enforces it here.
    NotEnforced,
    /// Leaves it, with a notice and what to do instead.
    Missing(&'static str),
    /// Leaves it, with a notice.
    Unknown,
}

impl Kinds {
    /// No kinds at all.
    pub fn none() -> Self {
        Self {
            known: Vec::new(),
            namespace: "default".to_owned(),
        }
    }

    /// Puts objects that name no namespace into this one, and not into `default`.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The kinds that the control plane acts on. Kinds that only `local` acts on are left to it silently.
    pub fn control() -> Self {
        Self::none()
            .with("", "Namespace", &["v1"], Scope::Cluster)
            .with("", "Node", &["v1"], Scope::Cluster)
            .with("", "Pod", &["v1"], Scope::Namespaced)
            .with("", "Service", &["v1"], Scope::Namespaced)
            .with("discovery.k8s.io", "EndpointSlice", &["v1"], Scope::Namespaced)
            .with(GATEWAY_GROUP, "HTTPRoute", &["v1", "v1beta1"], Scope::Namespaced)
            .with(GATEWAY_GROUP, "GRPCRoute", &["v1"], Scope::Namespaced)
            .with(GATEWAY_GROUP, "TCPRoute", &["v1", "v1alpha2"], Scope::Namespaced)
            .with(
                GATEWAY_GROUP,
                "TLSRoute",
                &["v1", "v1alpha3", "v1alpha2"],
                Scope::Namespaced,
            )
            .with(WEFT_GROUP, "ServiceSubset", &["v1alpha1"], Scope::Namespaced)
            .with(WEFT_GROUP, "TrafficPolicy", &["v1alpha1"], Scope::Namespaced)
            .with(
                EXPERIMENTAL_GROUP,
                "XBackendTrafficPolicy",
                &["v1alpha1"],
                Scope::Namespaced,
            )
            .with(WEFT_GROUP, "ClusterPeer", &["v1alpha1"], Scope::Cluster)
            .with(
                MULTICLUSTER_GROUP,
                "ServiceExport",
                &["v1beta1", "v1alpha1"],
                Scope::Namespaced,
            )
            .with(
                MULTICLUSTER_GROUP,
                "ServiceImport",
                &["v1beta1", "v1alpha1"],
                Scope::Namespaced,
            )
            .elsewhere("", "ServiceAccount")
            .elsewhere("apps", "Deployment")
            .elsewhere("apps", "StatefulSet")
            .elsewhere("apps", "DaemonSet")
            .elsewhere("batch", "Job")
            .elsewhere("", "ConfigMap")
            .elsewhere("", "Secret")
    }

    /// The kinds that are understood: group, kind, versions (the best first), scope.
    pub fn understood(&self) -> impl Iterator<Item = (&str, &str, &[String], Scope)> {
        let understood = self.known.iter().filter(|known| !known.elsewhere);
        understood.map(|known| {
            (
                known.group.as_str(),
                known.kind.as_str(),
                &known.versions[..],
                known.scope,
            )
        })
    }

    /// Adds a kind that is understood. A kind that is known already is replaced.
    #[must_use]
    pub fn with(self, group: &str, kind: &str, versions: &[&str], scope: Scope) -> Self {
        self.add(group, kind, versions, scope, false)
    }

    /// Adds a kind that another reader of the same files understands: left alone without a word.
    #[must_use]
    pub fn elsewhere(self, group: &str, kind: &str) -> Self {
        self.add(group, kind, &[], Scope::Namespaced, true)
    }

    fn add(mut self, group: &str, kind: &str, versions: &[&str], scope: Scope, elsewhere: bool) -> Self {
        self.known.retain(|known| known.group != group || known.kind != kind);
        let versions = versions.iter().map(|&version| version.to_owned()).collect();
        self.known.push(Kind {
            group: group.to_owned(),
            kind: kind.to_owned(),
            versions,
            scope,
            elsewhere,
        });
        self
    }

    /// What an object may be meant to be whose kind nobody knows: the same kind of another group, or one that is written
    /// nearly so. In the groups that Kubernetes and we have; who else has a kind of that name means it.
    pub(crate) fn meant(&self, api_version: &str, kind: &str) -> Option<String> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let of_group = |known: &&Kind| known.group == group;
        if !self.known.iter().any(|known| of_group(&known)) {
            return None;
        }
        let named = |name: &str, known: &Kind| match (known.group.as_str(), known.versions.first()) {
            _ if known.group == group => format!("did you mean kind: {name}?"),
            ("", _) => format!("did you mean kind: {name} with apiVersion: v1?"),
            (group, Some(version)) => format!("did you mean kind: {name} with apiVersion: {group}/{version}?"),
            (group, None) => format!("did you mean kind: {name} of the group {group}?"),
        };
        let near = |all: &mut dyn Iterator<Item = &Kind>| {
            let all: Vec<&Kind> = all.collect();
            let name = near(kind, all.iter().map(|known| known.kind.as_str()))?;
            let known = all.iter().find(|known| known.kind == name)?;
            Some(named(name, known))
        };
        near(&mut self.known.iter().filter(of_group)).or_else(|| near(&mut self.known.iter()))
    }

    /// What to do with an object of this `apiVersion` and `kind`.
    pub fn standing(&self, api_version: &str, kind: &str) -> Standing {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(known) = self
            .known
            .iter()
            .find(|known| known.group == group && known.kind == kind)
        {
            return match known {
                Kind { elsewhere: true, .. } => Standing::Elsewhere,
                Kind { versions, scope, .. } if versions.iter().any(|understood| understood == version) => {
                    Standing::Understood(*scope)
                }
                Kind { versions, .. } => {
                    let full = |version: &String| match group {
                        "" => version.clone(),
                        group => format!("{group}/{version}"),
                    };
                    Standing::Version {
                        understood: versions.iter().map(full).collect(),
                    }
                }
            };
        }
        if group == WEFT_GROUP {
            return Standing::NotHonoured;
        }
        match strangers::left(group, kind) {
            Some(Left::Nothing) => Standing::Elsewhere,
            Some(Left::Unenforced) => Standing::NotEnforced,
            Some(Left::Missing(instead)) => Standing::Missing(instead),
            None => Standing::Unknown,
        }
    }
}
