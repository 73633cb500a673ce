//! What the exports of one Service by several clusters come to (KEP-1645, "Constraints and Conflict Resolution").
//!
//! What differs and cannot be merged is as the oldest export has it, and every one of the exports is told. Of two exports of
//! one age the one comes first whose cluster's name does, so that every cluster decides alike; an age that nobody knows comes
//! last. What is compared in which way is said by the KEP, or else by the reason's description in the API (`v1beta1`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use crate::objects::mcs::ImportType;

/// Clusters that one message names; the others are counted.
const NAMED_MAX: usize = 4;
/// Ports that one message names.
const PORTS_NAMED_MAX: usize = 4;

/// A Service as one cluster exports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The cluster.
    pub cluster: String,
    /// When its ServiceExport was made, in milliseconds of Unix time. 0: nobody knows.
    pub created_ms: u64,
    /// Whether the Service has an address of its own.
    pub kind: ImportType,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Whether a client stays with an endpoint.
    pub session_affinity: SessionAffinity,
    /// The families of its addresses, the first one preferred. Empty: the cluster does not say.
    pub ip_families: Vec<IpFamily>,
    /// Which endpoints its own cluster's nodes may choose.
    pub internal_traffic_policy: InternalTrafficPolicy,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<String>,
    /// The labels that the export carries.
    pub labels: BTreeMap<String, String>,
    /// The annotations that it carries.
    pub annotations: BTreeMap<String, String>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name; may be empty.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// What it carries.
    pub protocol: Protocol,
    /// What is spoken there.
    pub app_protocol: Option<String>,
}

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names of the protocols")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Whether a client stays with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAffinity {
    /// It does not.
    None,
    /// A client of one address does, until it has been silent for so long.
    ClientIp {
        /// In seconds; Kubernetes' default is 10800.
        timeout_seconds: u32,
    },
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names of the families")]
pub enum IpFamily {
    V4,
    V6,
}

/// Which endpoints nodes may choose (`spec.internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalTrafficPolicy {
    /// All of them.
    Cluster,
    /// Those on the same node.
    Local,
}

/// What all exports of a Service come to: the `spec` of its ServiceImport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Whether it has an address of its own.
    pub kind: ImportType,
    /// All ports that do not clash with those of an older export.
    pub ports: Vec<Port>,
    /// Whether a client stays with an endpoint. Means nothing where the import is headless.
    pub session_affinity: SessionAffinity,
    /// The families that the exports have in common.
    pub ip_families: Vec<IpFamily>,
    /// As the oldest export has it.
    pub internal_traffic_policy: InternalTrafficPolicy,
    /// As the oldest export has it.
    pub traffic_distribution: Option<String>,
    /// As the oldest export has them.
    pub labels: BTreeMap<String, String>,
    /// As the oldest export has them.
    pub annotations: BTreeMap<String, String>,
    /// The clusters that export it, in order.
    pub clusters: BTreeSet<String>,
    /// The condition of each of the ServiceExports.
    pub conflict: Conflict,
}

impl Merged {
    /// The TCP port of this number.
    pub(crate) fn tcp(&self, number: u16) -> Option<&Port> {
        let mut ports = self.ports.iter();
        ports.find(|port| (port.protocol, port.port) == (Protocol::Tcp, number))
    }
}

/// The condition `Conflict`, which all ServiceExports of one Service have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Whether there is a conflict.
    pub status: bool,
    /// The reasons of the API, with commas between several of them; or `NoConflicts`.
    pub reason: String,
    /// What differs where, for people.
    pub message: String,
}

/// What exports differ in, in words of the API (`ServiceExportConditionReason`) and in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Port,
    Type,
    SessionAffinity,
    SessionAffinityConfig,
    Annotations,
    Labels,
    InternalTrafficPolicy,
    TrafficDistribution,
    IpFamily,
}

/// What all exports of one Service come to. `None`: nobody exports it, and there is no import. A cluster exports it once.
pub fn merge(exports: &[Export]) -> Option<Merged> {
    let mut by_age: Vec<&Export> = exports.iter().collect();
    by_age.sort_by_key(|export| (export.age(), &export.cluster));
    let oldest = *by_age.first()?;
    let mut differences = Differences {
        by_age: &by_age,
        found: BTreeMap::new(),
    };
    let ports = differences.ports();
    differences.of(Reason::Type, "type", |export| export.kind.as_str());
    if oldest.kind == ImportType::ClusterSetIP {
        // The API ignores it where the import is headless.
        differences.session_affinity();
    }
    differences.of(Reason::Annotations, "exportedAnnotations", |export| &export.annotations);
    differences.of(Reason::Labels, "exportedLabels", |export| &export.labels);
    let (reason, field) = (Reason::InternalTrafficPolicy, "internalTrafficPolicy");
    differences.of(reason, field, |export| export.internal_traffic_policy.as_str());
    let (reason, field) = (Reason::TrafficDistribution, "trafficDistribution");
    differences.of(reason, field, |export| &export.traffic_distribution);
    let ip_families = differences.ip_families();
    Some(Merged {
        kind: oldest.kind,
        ports,
        session_affinity: oldest.session_affinity,
        ip_families,
        internal_traffic_policy: oldest.internal_traffic_policy,
        traffic_distribution: oldest.traffic_distribution.clone(),
        labels: oldest.labels.clone(),
        annotations: oldest.annotations.clone(),
        clusters: exports.iter().map(|export| export.cluster.clone()).collect(),
        conflict: differences.conflict(),
    })
}

/// Compares exports with the oldest of them.
struct Differences<'a> {
    by_age: &'a [&'a Export],
    found: BTreeMap<Reason, String>,
}

impl<'a> Differences<'a> {
    /// The union of the ports. "MCS-API implementations should merge ports from constituent services first based on port name
    /// then by the protocol and port number pair": neither may be there twice. Exports whose ports are not all the same conflict,
    /// also where the union has room for all of them: behind a port are only the endpoints of those that expose it.
    fn ports(&mut self) -> Vec<Port> {
        let mut union: Vec<(&Port, &Export)> = Vec::new();
        let mut differ = Vec::new();
        for export in self.by_age {
            for port in &export.ports {
                match union.iter().find(|(other, _)| other.clashes(port)) {
                    None => union.push((port, export)),
                    Some((other, _)) if *other == port => {}
                    Some((other, from)) => {
                        let (cluster, why) = (&export.cluster, from.wins_over(export));
                        differ.push(format!(
                            "{port} of {cluster} gives way to {other} of {}, {why}",
                            from.cluster
                        ));
                    }
                }
            }
        }
        for export in self.by_age {
            // What clashes is told already.
            let lacks = |port: &&Port| !export.ports.iter().any(|own| own.clashes(port));
            let lacking = union.iter().map(|(port, _)| *port).filter(lacks);
            differ.extend(lacking.map(|port| format!("{} has no {port}", export.cluster)));
        }
        if !differ.is_empty() {
            let told = shortened(&differ, PORTS_NAMED_MAX);
            self.found.insert(Reason::Port, format!("ports differ: {told}"));
        }
        union.into_iter().map(|(port, _)| port.clone()).collect()
    }

    /// Of the exports with an address of their own: of the others it means nothing.
    fn session_affinity(&mut self) {
        let all = self.by_age.iter().copied();
        let mut alike: Vec<&Export> = all.filter(|export| export.kind == ImportType::ClusterSetIP).collect();
        let word = |export: &Export| export.session_affinity.as_str();
        self.among(&alike, Reason::SessionAffinity, "sessionAffinity", word);
        // Who has another affinity is told of that, and not of its configuration as well.
        let of_oldest = alike.first().map(|oldest| word(oldest));
        alike.retain(|export| Some(word(export)) == of_oldest);
        let (reason, field) = (Reason::SessionAffinityConfig, "sessionAffinityConfig");
        self.among(&alike, reason, field, |export| export.session_affinity);
    }

    /// The families that all exports have in common, as the oldest orders them: through any of those every endpoint can be
    /// reached. An export that has none of them is left out of it, and told.
    fn ip_families(&mut self) -> Vec<IpFamily> {
        let mut common: Option<Vec<IpFamily>> = None;
        let mut apart = Vec::new();
        for export in self.by_age.iter().filter(|export| !export.ip_families.is_empty()) {
            let has = |family: &IpFamily| export.ip_families.contains(family);
            let both = match &common {
                None => export.ip_families.clone(),
                Some(common) => common.iter().copied().filter(|family| has(family)).collect(),
            };
            match both.is_empty() {
                true => apart.push(export.cluster.clone()),
                false => common = Some(both),
            }
        }
        if !apart.is_empty() {
            let told = shortened(&apart, NAMED_MAX);
            self.found.insert(
                Reason::IpFamily,
                format!("ipFamilies have nothing in common with those of {told}"),
            );
        }
        common.unwrap_or_default()
    }

    fn of<T: PartialEq>(&mut self, reason: Reason, field: &str, value: impl Fn(&'a Export) -> T) {
        self.among(self.by_age, reason, field, value);
    }

    /// Remembers which of these have another value than the first, which is the oldest.
    fn among<T: PartialEq>(
        &mut self,
        exports: &[&'a Export],
        reason: Reason,
        field: &str,
        value: impl Fn(&'a Export) -> T,
    ) {
        let [oldest, others @ ..] = exports else { return };
        let differ = others.iter().filter(|other| value(other) != value(oldest));
        let differ: Vec<&&Export> = differ.collect();
        if let Some(next) = differ.first() {
            let clusters: Vec<String> = differ.iter().map(|other| other.cluster.clone()).collect();
            let (told, from, why) = (shortened(&clusters, NAMED_MAX), &oldest.cluster, oldest.wins_over(next));
            let message = format!("{field} differs in {told}, and is as in {from}, {why}");
            self.found.insert(reason, message);
        }
    }

    fn conflict(&self) -> Conflict {
        if self.found.is_empty() {
            return Conflict {
                status: false,
                reason: "NoConflicts".to_owned(),
                message: "the clusters that export the Service agree on what it is".to_owned(),
            };
        }
        let reasons: Vec<&str> = self.found.keys().map(|reason| reason.as_str()).collect();
        let messages: Vec<&str> = self.found.values().map(String::as_str).collect();
        Conflict {
            status: true,
            reason: reasons.join(","),
            message: messages.join("; "),
        }
    }
}

/// The first few, and how many more.
fn shortened(all: &[String], most: usize) -> String {
    let named = all.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(most) {
        0 => named,
        more => format!("{named}, and {more} more"),
    }
}

impl Export {
    /// The older, the smaller. What nobody knows the age of comes last.
    const fn age(&self) -> (bool, u64) {
        (self.created_ms == 0, self.created_ms)
    }

    /// Why this one decides, and not another.
    fn wins_over(&self, other: &Self) -> &'static str {
        match self.age() < other.age() {
            true => "whose export is older",
            false => "whose name comes first, for nothing says which export is older",
        }
    }
}

impl Port {
    /// Whether a Service cannot have both.
    fn clashes(&self, other: &Self) -> bool {
        self.name == other.name || (self.protocol, self.port) == (other.protocol, other.port)
    }
}

/// `http 80/TCP (kubernetes.io/h2c)`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{} ", self.name)?;
        }
        write!(f, "{}/{}", self.port, self.protocol.as_str())?;
        match &self.app_protocol {
            Some(protocol) => write!(f, " ({protocol})"),
            None => Ok(()),
        }
    }
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Port => "PortConflict",
            Self::Type => "TypeConflict",
            Self::SessionAffinity => "SessionAffinityConflict",
            Self::SessionAffinityConfig => "SessionAffinityConfigConflict",
            Self::Annotations => "AnnotationsConflict",
            Self::Labels => "LabelsConflict",
            Self::InternalTrafficPolicy => "InternalTrafficPolicyConflict",
            Self::TrafficDistribution => "TrafficDistributionConflict",
            Self::IpFamily => "IPFamilyConflict",
        }
    }
}

impl Protocol {
    /// `TCP`, `UDP` or `SCTP`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl SessionAffinity {
    /// `None` or `ClientIP`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::ClientIp { .. } => "ClientIP",
        }
    }
}

impl IpFamily {
    /// `IPv4` or `IPv6`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl InternalTrafficPolicy {
    /// `Cluster` or `Local`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

#[cfg(test)]
mod tests;
