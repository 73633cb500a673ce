//! What is told of the whole: proxies, what they have acknowledged, objects with their conditions, problems.

use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_model::name::ObjectRef;

use crate::cluster::{DutiesStatus, KindStatus};
use crate::objects::Severity;
use crate::serve::hub::{Hub, Proxy};

pub(crate) mod applied;
mod imports;
mod peers;
mod wanted;

use applied::Holders;
pub(crate) use imports::Imports;
pub(crate) use peers::{PeerStatus, PeerVerdict, Way};
pub(crate) use wanted::{Import, Wanted};

/// The version of this program.
pub(crate) const BUILD: &str = env!("CARGO_PKG_VERSION");

/// `GET /status`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) epoch: u64,
    pub(crate) build: String,
    pub(crate) mesh: MeshStatus,
    pub(crate) proxies: Vec<ProxyStatus>,
    pub(crate) objects: Vec<ObjectStatus>,
    pub(crate) problems: Vec<ProblemStatus>,
    /// Other clusters.
    pub(crate) peers: Vec<PeerStatus>,
    /// Kind by kind, where objects come from an API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Vec<KindStatus>>,
    /// What is kept in that cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<DutiesStatus>,
}

/// What the mesh is called, and which networks are its own.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshStatus {
    pub(crate) trust_domain: String,
    pub(crate) cluster: String,
    pub(crate) cluster_domain: String,
    /// As they were set.
    pub(crate) inside: Vec<String>,
    pub(crate) outside: Vec<String>,
    /// What other clusters need to know of this one.
    pub(crate) federation: FederationStatus,
}

/// What another cluster's ClusterPeer says of this one.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FederationStatus {
    pub(crate) cluster: String,
    pub(crate) trust_domain: String,
    pub(crate) control_plane: String,
    pub(crate) network: String,
    /// Where other clusters reach us, as it was set.
    pub(crate) endpoints: Vec<String>,
    pub(crate) gateways: Vec<String>,
    /// Where they see our trust bundle, as it was set.
    pub(crate) bundle_endpoint: Option<String>,
    pub(crate) bundle_sequence: u64,
    /// How far that has come with our own proxies, as far as they are connected to this replica.
    pub(crate) bundle_here: peers::TrustedStatus,
    /// The sequence that our own proxies and those of all peers have reached, as they say: a root that is in neither this
    /// bundle nor a later one is needed by nobody.
    pub(crate) bundle_reached: u64,
    /// PEM.
    pub(crate) roots: String,
}

/// One proxy, connected or not.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProxyStatus {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) build: String,
    pub(crate) features: Vec<String>,
    pub(crate) connected: bool,
    pub(crate) since: String,
    pub(crate) resources: Vec<ResourceStatus>,
    pub(crate) refusals: Vec<RefusalStatus>,
}

/// One resource of a proxy.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ResourceStatus {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    /// The version that it is to have; of a proxy that is not connected: that it had.
    pub(crate) version: String,
    /// Whether every worker of it decides by that version.
    pub(crate) acked: bool,
}

/// One refusal of a proxy.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RefusalStatus {
    pub(crate) object: String,
    pub(crate) field: String,
    pub(crate) reason: String,
}

/// One object, and who decides by it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ObjectStatus {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) conditions: Vec<ConditionStatus>,
    /// Connected proxies that need it.
    pub(crate) subscribers: usize,
    /// Those of them that decide by its current version.
    pub(crate) applied: usize,
    /// Those that do not, by name; at most a few.
    pub(crate) waiting: Vec<String>,
    /// Those that are not connected, and decided by an older version when they last were; at most a few.
    pub(crate) apart: Vec<String>,
}

/// One condition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConditionStatus {
    pub(crate) r#type: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) field: String,
}

/// One problem with an object or a file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProblemStatus {
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) object: Option<String>,
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) fix: String,
    pub(crate) severity: &'static str,
}

/// What scrapers get of the hub.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) epoch: u64,
    pub(crate) connected: usize,
    /// Distinct resources that somebody is subscribed to.
    pub(crate) resources: usize,
    /// Subscriptions to them.
    pub(crate) subscriptions: usize,
    /// Resources that wait to be sent, over all proxies.
    pub(crate) waiting: usize,
    /// Versions that a proxy would not take, and has not got a better one since.
    pub(crate) refused: usize,
    /// Objects with conditions that are not accepted.
    pub(crate) not_accepted: usize,
    pub(crate) problems: usize,
}

impl Hub {
    /// Everything, for people. Also forgets the proxies of pods that are gone for good.
    pub(crate) fn status(&mut self) -> Status {
        let index = &self.index;
        self.gone.retain(|proxy| {
            let pod = proxy
                .who
                .subject
                .pod()
                .and_then(|pod| index.pod(&pod.namespace, &pod.name));
            pod.is_some_and(|pod| pod.uid == proxy.who.uid)
        });
        let connected = self.proxies.values().filter_map(|proxy| self.proxy_status(proxy, true));
        let gone = self.gone.iter().filter_map(|proxy| self.proxy_status(proxy, false));
        let mut proxies: Vec<ProxyStatus> = connected.chain(gone).collect();
        proxies.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        Status {
            epoch: self.epoch.current(),
            build: BUILD.to_owned(),
            mesh: self.mesh_status(),
            proxies,
            objects: self.object_statuses(),
            problems: self.problem_statuses(),
            peers: self.peer_statuses(),
            source: None,
            cluster: None,
        }
    }

    fn mesh_status(&self) -> MeshStatus {
        let settings = &self.index.settings;
        MeshStatus {
            trust_domain: settings.trust_domain.to_string(),
            cluster: settings.cluster.clone(),
            cluster_domain: settings.cluster_domain.clone(),
            inside: settings.inside.iter().map(ToString::to_string).collect(),
            outside: settings.outside.iter().map(ToString::to_string).collect(),
            federation: self.federation_status(),
        }
    }

    /// Numbers, for scrapers.
    pub(crate) fn figures(&self) -> Figures {
        let not_accepted = |status: &crate::index::ObjectStatus| !applied::is_accepted(&status.conditions);
        Figures {
            epoch: self.epoch.current(),
            connected: self
                .proxies
                .values()
                .filter(|proxy| proxy.who.subject.pod().is_some())
                .count(),
            resources: self.cache.entries().count(),
            subscriptions: self.proxies.values().map(|proxy| proxy.needs.len()).sum(),
            waiting: self.proxies.values().map(|proxy| proxy.outlet.outbox().waiting()).sum(),
            refused: self.proxies.values().map(|proxy| proxy.refusals.len()).sum(),
            not_accepted: self
                .index
                .statuses()
                .iter()
                .filter(|status| not_accepted(status))
                .count(),
            problems: self.file_problems.len() + self.index.problems().len(),
        }
    }

    fn proxy_status(&self, proxy: &Proxy, connected: bool) -> Option<ProxyStatus> {
        let pod = proxy.who.subject.pod()?;
        let resources = proxy.needs.iter().filter_map(|(name, item)| {
            let acked = proxy.acked.get(name);
            let current = self
                .cache
                .get(item)
                .and_then(|entry| entry.made.as_ref())
                .map(|made| made.version.hash);
            let version = if connected { current? } else { *acked? };
            let acked = acked == Some(&version);
            Some(ResourceStatus {
                kind: name.kind.as_str(),
                key: name.key.to_string(),
                version: hex(&version),
                acked,
            })
        });
        let refusals = proxy.refusals.values().map(|refused| RefusalStatus {
            object: refused.object.clone(),
            field: refused.field.clone(),
            reason: refused.reason.clone(),
        });
        Some(ProxyStatus {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: proxy.who.uid.clone(),
            build: proxy.who.build.clone(),
            features: proxy.who.features.clone(),
            connected,
            since: rfc3339(proxy.who.since),
            resources: resources.collect(),
            refusals: refusals.collect(),
        })
    }

    fn object_statuses(&self) -> Vec<ObjectStatus> {
        let statuses = self.index.statuses();
        let needs = self.needs(&statuses);
        let all = statuses.into_iter().map(|status| {
            let need = needs.get(&status.object.to_string());
            object_status(status, need.map(|need| self.holders(need)).unwrap_or_default())
        });
        all.collect()
    }

    fn problem_statuses(&self) -> Vec<ProblemStatus> {
        let problem = |problem: crate::objects::Problem| ProblemStatus {
            file: problem.file.map(|file| file.display().to_string()),
            line: problem.line,
            object: problem.object.map(|object| object.to_string()),
            field: problem.field,
            message: problem.message,
            fix: problem.fix,
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Notice => "notice",
            },
        };
        self.file_problems
            .iter()
            .cloned()
            .chain(self.index.problems())
            .map(problem)
            .collect()
    }
}

fn object_status(status: crate::index::ObjectStatus, mut holders: Holders) -> ObjectStatus {
    let mut conditions: Vec<ConditionStatus> = status.conditions.iter().map(condition).collect();
    let applied = holders.applied(applied::is_accepted(&status.conditions));
    conditions.push(applied::condition(applied));
    holders.apart.cut();
    let ObjectRef { kind, namespace, name } = status.object;
    ObjectStatus {
        kind,
        namespace,
        name,
        file: status.origin.as_ref().map(|origin| origin.file.display().to_string()),
        line: status.origin.as_ref().map(|origin| origin.line),
        conditions,
        subscribers: holders.subscribers,
        applied: holders.subscribers - holders.waiting.count,
        waiting: holders.waiting.names,
        apart: holders.apart.names,
    }
}

fn condition(condition: &crate::index::Condition) -> ConditionStatus {
    ConditionStatus {
        r#type: condition.r#type.as_str(),
        status: if condition.status { "True" } else { "False" },
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        field: condition.field.clone(),
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn rfc3339(at: SystemTime) -> String {
    let whole = OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    whole.format(&Rfc3339).unwrap_or_default()
}
