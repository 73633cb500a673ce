//! One pod of the cluster: what it is, how far it is, what is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::system;
use crate::manifest::raw::{PodSpec, TokenSource};
use crate::manifest::{Key, Missing, Owner, Workload, pod};
use crate::net::PodNet;
use crate::pod::{ContainerState, PodHandle, PodStatus};
use crate::runtime::RuntimeError;
use crate::services::Table;
use crate::spec::Volume;
use crate::token::PodTokens;

/// A pod.
pub(super) struct Record {
    /// Namespace and name.
    pub key: Key,
    /// `metadata.uid`.
    pub uid: String,
    /// The workload that owns it.
    pub owner: Option<Owner>,
    /// Its number, if it is one of a StatefulSet's.
    pub ordinal: Option<u32>,
    /// Of the template that it was made from.
    pub hash: String,
    /// Pods that were made earlier have smaller numbers.
    pub order: u64,
    /// When it was made.
    pub created: SystemTime,
    /// The object as it runs (injected), without status.
    pub object: Value,
    /// Its specification, decoded.
    pub spec: Arc<PodSpec>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations` as the user wrote them last.
    pub annotations: BTreeMap<String, String>,
    /// The containers that the injector added, or the mesh's own.
    pub ours: BTreeSet<String>,
    /// It has a sidecar.
    pub meshed: bool,
    /// It is one of the mesh's own.
    pub system: bool,
    /// The node that it is on.
    pub node: String,
    /// Its network, once there is one.
    pub net: Option<PodNet>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// How far it is.
    pub stage: Stage,
    /// The runtime's newest word.
    pub status: PodStatus,
    /// Since when it has been ready.
    pub ready_since: Option<Instant>,
    /// Since when it has been as ready as it is, for its condition.
    pub ready_changed: SystemTime,
    /// It is to go.
    pub deleting: bool,
    /// The task that stops it has begun.
    pub stopping: bool,
    /// Its tokens.
    pub tokens: PodTokens,
    /// What its volumes ask for.
    pub token_sources: Vec<TokenSource>,
    /// Its volumes as they were written last.
    pub volumes: Vec<Volume>,
    /// Its rules for service addresses.
    pub rules: Rules,
    /// Its troubles that have been told, since it was well for a while.
    pub told: BTreeSet<String>,
}

/// How far a pod is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its network is being made.
    Network,
    /// It waits for something that its plan needs.
    Waiting(String),
    /// It is being started.
    Starting,
    /// The runtime has it.
    Running(PodHandle),
    /// A step failed; it is tried again then.
    Failed(String, Instant),
}

/// The rules for service addresses in a pod.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// What is in place.
    pub applied: Option<Arc<Table>>,
    /// The built-in chains have their jumps.
    pub jumps: bool,
    /// Something is being put in place.
    pub busy: bool,
    /// Not before then, after a failure.
    pub retry: Option<Instant>,
}

/// What happened to a pod.
pub(super) enum Event {
    /// Its network is there, or can't be made.
    Network(String, std::io::Result<PodNet>),
    /// It was started, or can't be; with the rules that were put in place.
    Started(String, Result<PodHandle, StartError>, Arc<Table>),
    /// Something of its status changed.
    Changed(String, PodStatus),
    /// Nothing of it is left.
    Gone(String),
    /// Rules are in place, or can't be.
    Rules(String, std::io::Result<()>, Arc<Table>),
    /// The same on the node.
    NodeRules(std::io::Result<()>, Arc<Table>),
}

/// Why a pod was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The rules for service addresses.
    #[error("the rules for service addresses")]
    Rules(#[source] std::io::Error),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A pod that was asked for by name.
#[derive(Clone, Debug)]
pub struct Found {
    /// Namespace and name.
    pub key: Key,
    /// Its runtime's handle; none yet if it has not been started.
    pub handle: Option<PodHandle>,
    /// The names of its main containers, of which the first is meant where none is named; then those of the others.
    pub containers: Vec<String>,
}

impl Record {
    /// A pod that is to be made, from its object before injection and after. Owner, node and the like are still to be set.
    ///
    /// # Errors
    /// The object can't be read: it was not checked.
    pub(super) fn new(key: Key, uid: String, before: Value, after: Option<Value>) -> Result<Self, Missing> {
        let (meshed, system) = (after.is_some(), key.namespace == system::NAMESPACE);
        let users = names(&before);
        let object = after.unwrap_or(before);
        let ours = if system { users } else { &names(&object) - &users };
        let created = SystemTime::now();
        Ok(Self {
            spec: Arc::new(pod::view(&object)?),
            token_sources: pod::tokens(&object),
            key,
            uid,
            owner: None,
            ordinal: None,
            hash: String::new(),
            order: 0,
            created,
            object,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            ours,
            meshed,
            system,
            node: String::new(),
            net: None,
            ips: Vec::new(),
            stage: Stage::Network,
            status: PodStatus::default(),
            ready_since: None,
            ready_changed: created,
            deleting: false,
            stopping: false,
            tokens: PodTokens::default(),
            volumes: Vec::new(),
            rules: Rules::default(),
            told: BTreeSet::new(),
        })
    }

    /// Whether it is ready, and not going.
    pub(super) fn ready(&self) -> bool {
        self.status.ready && !self.deleting
    }

    /// Whether it has ended by itself, for good.
    pub(super) fn finished(&self) -> bool {
        use crate::pod::Phase::{Failed, Succeeded};
        matches!(self.status.phase, Succeeded | Failed)
    }

    /// Whether it is one of a Job's, which comes and goes.
    pub(super) fn is_of_a_job(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.kind == Workload::Job)
    }

    /// Whether it has been ready for this long.
    pub(super) fn available(&self, min_ready: Duration, now: Instant) -> bool {
        self.ready() && self.ready_since.is_some_and(|since| now >= since + min_ready)
    }

    /// How often its containers were started again.
    pub(super) fn restarts(&self) -> u32 {
        self.status.containers.iter().map(|container| container.restarts).sum()
    }

    /// Marks it as going. What is going does not come back.
    pub(super) fn delete(&mut self) {
        self.deleting = true;
    }

    /// Takes the runtime's newest word.
    pub(super) fn update(&mut self, status: PodStatus) {
        if status.ready != self.status.ready {
            self.ready_since = status.ready.then(Instant::now);
            self.ready_changed = SystemTime::now();
        }
        self.status = status;
    }

    /// When something is due without an event.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let retry = match &self.stage {
            Stage::Failed(_, at) => Some(*at),
            _ => None,
        };
        let soon = now + Duration::from_millis(1);
        let running = matches!(self.stage, Stage::Running(_));
        let token = self.tokens.due().filter(|_| running);
        [retry, token, self.rules.retry]
            .into_iter()
            .flatten()
            .map(|due| due.max(soon))
            .min()
    }

    /// The handle, once it runs.
    pub(super) fn handle(&self) -> Option<&PodHandle> {
        match &self.stage {
            Stage::Running(handle) => Some(handle),
            _ => None,
        }
    }

    /// Why it does not run, in one word and a sentence.
    pub(super) fn waiting(&self) -> Option<(&'static str, &str)> {
        match &self.stage {
            Stage::Network | Stage::Starting => Some(("ContainerCreating", "")),
            Stage::Waiting(what) => Some(("CreateContainerConfigError", what)),
            Stage::Failed(why, _) => Some(("RunContainerError", why)),
            Stage::Running(_) => None,
        }
    }

    /// The pid of a container's main process, as the host numbers it.
    pub(super) fn pid(&self, container: &str) -> Option<u32> {
        let container = self.status.containers.iter().find(|status| status.name == container)?;
        match container.state {
            ContainerState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }
}

/// The names of a pod's containers.
fn names(pod: &Value) -> BTreeSet<String> {
    let lists = ["initContainers", "containers"].into_iter();
    let containers = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    containers
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect()
}
