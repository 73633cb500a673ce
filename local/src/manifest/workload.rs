//! What makes pods of a template: the kinds, and names of such objects.

use std::fmt;

use super::Key;

/// A kind of object that makes pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// Any number of equal pods.
    Deployment,
    /// Pods with names and directories of their own.
    StatefulSet,
    /// One pod on each node.
    DaemonSet,
    /// Pods that end.
    Job,
}

/// Who owns a pod. Printed as `Deployment shop/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The kind.
    pub kind: Workload,
    /// Namespace and name.
    pub key: Key,
}

/// Words by which people name them on a command line, before a slash.
const WORDS: [(&str, Workload); 11] = [
    ("deploy", Workload::Deployment),
    ("deployment", Workload::Deployment),
    ("deployments", Workload::Deployment),
    ("sts", Workload::StatefulSet),
    ("statefulset", Workload::StatefulSet),
    ("statefulsets", Workload::StatefulSet),
    ("ds", Workload::DaemonSet),
    ("daemonset", Workload::DaemonSet),
    ("daemonsets", Workload::DaemonSet),
    ("job", Workload::Job),
    ("jobs", Workload::Job),
];

impl Workload {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
        }
    }

    /// Its group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet => "apps/v1",
            Self::Job => "batch/v1",
        }
    }

    /// The kind and the name that `deploy/web` and the like mean.
    pub fn named(text: &str) -> Option<(Self, &str)> {
        let (word, name) = text.split_once('/')?;
        let kind = WORDS.iter().find(|(known, _)| *known == word)?.1;
        Some((kind, name))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.key)
    }
}
