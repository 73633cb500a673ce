//! What a user's manifests ask for: typed views of the kinds that a local cluster plays controller and kubelet for.
//!
//! In: objects of the user's directory, with their lines. Out: [`Desired`], and problems that name file, line, object,
//! field and fix. An object that can't be honoured keeps its last form, if it had one ([`Reader`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use weft_control::objects::kinds::{Kinds, Scope};
use weft_control::objects::{Object, Problem, Severity};

mod adrift;
mod check;
mod daemon_set;
mod deployment;
mod doubts;
mod env;
pub mod expand;
mod facts;
pub mod fields;
mod files;
mod job;
mod marks;
pub(crate) mod place;
pub mod pod;
pub mod raw;
mod resources;
pub mod schema;
mod selector;
mod service;
mod stateful_set;
mod tables;
mod template;
mod together;
mod volumes;
mod workload;

pub use daemon_set::DaemonSet;
pub use deployment::{Deployment, Rollout};
pub use facts::{Facts, Missing};
pub use job::Job;
pub use service::{Address, Family, Service, ServicePort};
pub use stateful_set::StatefulSet;
pub use template::Template;
pub use workload::{Owner, Workload};

use schema::{Field, Found};

/// Names an object of a kind that belongs to namespaces. Printed as `shop/reviews`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// The contents of a ConfigMap or Secret.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A Pod that no workload owns.
#[derive(Clone, Debug)]
pub struct BarePod {
    /// As it was written.
    pub object: Arc<Object>,
    /// What it is made from.
    pub template: Template,
}

/// Everything that the manifests ask for, as far as it can be honoured.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// By name.
    pub namespaces: BTreeMap<String, Arc<Object>>,
    /// By name.
    pub nodes: BTreeMap<String, Arc<Object>>,
    /// Those that somebody wrote; each namespace has a `default` besides.
    pub service_accounts: BTreeSet<Key>,
    /// Pods that no workload owns.
    pub pods: BTreeMap<Key, BarePod>,
    /// By name.
    pub deployments: BTreeMap<Key, Deployment>,
    /// By name.
    pub stateful_sets: BTreeMap<Key, StatefulSet>,
    /// By name.
    pub daemon_sets: BTreeMap<Key, DaemonSet>,
    /// By name.
    pub jobs: BTreeMap<Key, Job>,
    /// By name.
    pub services: BTreeMap<Key, Service>,
    /// By name.
    pub config_maps: BTreeMap<Key, Arc<Files>>,
    /// By name.
    pub secrets: BTreeMap<Key, Arc<Files>>,
}

/// Reads objects again and again, and remembers the last good form of each.
#[derive(Debug, Default)]
pub struct Reader {
    last: Desired,
    /// Services of type LoadBalancer are served to other clusters.
    balances: bool,
}

/// The namespace that is always there.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Those of a cluster's own: objects may be in them, though no pod of a local mesh is.
const CLUSTER_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The service account that every namespace has.
pub const DEFAULT_ACCOUNT: &str = "default";

impl Key {
    /// Puts a key together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn of(object: &Object) -> Self {
        Self::new(&object.namespace, &object.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Desired {
    /// Whether a namespace is there: every cluster has some.
    pub fn has_namespace(&self, name: &str) -> bool {
        name == DEFAULT_NAMESPACE || CLUSTER_NAMESPACES.contains(&name) || self.namespaces.contains_key(name)
    }

    /// Whether a service account is there.
    pub fn has_account(&self, namespace: &str, name: &str) -> bool {
        name == DEFAULT_ACCOUNT || self.service_accounts.contains(&Key::new(namespace, name))
    }

    /// The object of a workload, and what its pods are made from.
    pub fn workload(&self, owner: &Owner) -> Option<(&Arc<Object>, &Template)> {
        let key = &owner.key;
        match owner.kind {
            Workload::Deployment => self.deployments.get(key).map(|of| (&of.object, &of.template)),
            Workload::StatefulSet => self.stateful_sets.get(key).map(|of| (&of.object, &of.template)),
            Workload::DaemonSet => self.daemon_sets.get(key).map(|of| (&of.object, &of.template)),
            Workload::Job => self.jobs.get(key).map(|of| (&of.object, &of.template)),
        }
    }

    /// All workloads, with what their pods are made from.
    pub fn workloads(&self) -> impl Iterator<Item = (&Arc<Object>, &Template)> {
        let deployments = self.deployments.values().map(|of| (&of.object, &of.template));
        let stateful_sets = self.stateful_sets.values().map(|of| (&of.object, &of.template));
        let daemon_sets = self.daemon_sets.values().map(|of| (&of.object, &of.template));
        let jobs = self.jobs.values().map(|of| (&of.object, &of.template));
        deployments.chain(stateful_sets).chain(daemon_sets).chain(jobs)
    }
}

impl Reader {
    /// One for a cluster among several, if `balances`: there Services of type LoadBalancer are reached from the others.
    pub fn new(balances: bool) -> Self {
        Self {
            balances,
            ..Self::default()
        }
    }

    /// Reads all objects of the user's directory. Kinds that only the control plane acts on are passed over.
    pub fn read(&mut self, objects: &[Arc<Object>]) -> (Desired, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut desired = Desired::default();
        let mut images = 0;
        for object in objects {
            let Some(fields) = fields_of(object) else { continue };
            let mut found = look(object, fields, &mut images);
            found.extend(marks::read(object));
            found.extend(doubts::labels(object));
            let sound = !found.iter().any(|problem| problem.severity == Severity::Error);
            problems.extend(found);
            let good = sound && take(object, &mut desired, &mut problems);
            if !good {
                hold(object, &self.last, &mut desired);
            }
        }
        if images > 0 {
            problems.push(image_notice(images));
        }
        together::check(&mut desired, &self.last, &mut problems);
        problems.extend(adrift::leave_out(objects, &mut desired));
        problems.extend(doubts::selections(objects, &desired));
        if !self.balances {
            let unserved = desired.services.values().filter(|service| service.load_balancer);
            problems.extend(unserved.map(|service| service::acts_as_cluster_ip(&service.object, "LoadBalancer")));
        }
        self.last = desired.clone();
        (desired, problems)
    }
}

/// The kinds that are taken from the user's manifests: the control plane's, and those that only a cluster acts on.
pub fn kinds() -> Kinds {
    let scope = Scope::Namespaced;
    Kinds::control()
        .with("apps", "Deployment", &["v1"], scope)
        .with("apps", "StatefulSet", &["v1"], scope)
        .with("apps", "DaemonSet", &["v1"], scope)
        .with("batch", "Job", &["v1"], scope)
        .with("", "ServiceAccount", &["v1"], scope)
        .with("", "ConfigMap", &["v1"], scope)
        .with("", "Secret", &["v1"], scope)
}

fn fields_of(object: &Object) -> Option<&'static [Field]> {
    Some(match (object.group(), object.kind.as_str()) {
        ("", "Namespace") => tables::NAMESPACE,
        ("", "Node") => tables::NODE,
        ("", "ServiceAccount") => tables::SERVICE_ACCOUNT,
        ("", "ConfigMap") => tables::CONFIG_MAP,
        ("", "Secret") => tables::SECRET,
        ("", "Service") => tables::SERVICE,
        ("", "Pod") => tables::POD,
        ("apps", "Deployment") => tables::DEPLOYMENT,
        ("apps", "StatefulSet") => tables::STATEFUL_SET,
        ("apps", "DaemonSet") => tables::DAEMON_SET,
        ("batch", "Job") => tables::JOB,
        _ => return None,
    })
}

fn look(object: &Object, fields: &'static [Field], images: &mut usize) -> Vec<Problem> {
    let findings = schema::walk(&object.raw, fields);
    *images += findings.iter().filter(|finding| finding.kind == Found::Image).count();
    let problem = |finding: schema::Finding| {
        let severity = match finding.kind {
            Found::Refused => Severity::Error,
            Found::Ignored => Severity::Warning,
            Found::Image => return None,
        };
        Some(object.problem(severity, &finding.field, finding.message, finding.fix))
    };
    findings.into_iter().filter_map(problem).collect()
}

fn image_notice(images: usize) -> Problem {
    Problem {
        file: None,
        line: None,
        object: None,
        field: String::new(),
        message: format!(
            "{}; images are not used here: containers run programs of this machine",
            match images {
                1 => "a container names an image".to_owned(),
                _ => format!("{images} containers name an image"),
            }
        ),
        fix: String::new(),
        severity: Severity::Notice,
    }
}

/// Takes an object over. False: it can't be honoured, and the problems say why.
fn take(object: &Arc<Object>, desired: &mut Desired, problems: &mut Vec<Problem>) -> bool {
    let before = problems.len();
    let key = Key::of(object);
    match object.kind.as_str() {
        "Namespace" => drop(desired.namespaces.insert(object.name.clone(), object.clone())),
        "Node" => drop(desired.nodes.insert(object.name.clone(), object.clone())),
        "ServiceAccount" => drop(desired.service_accounts.insert(key)),
        "ConfigMap" => {
            if let Some(files) = files::config_map(object, problems) {
                desired.config_maps.insert(key, Arc::new(files));
            }
        }
        "Secret" => {
            if let Some(files) = files::secret(object, problems) {
                desired.secrets.insert(key, Arc::new(files));
            }
        }
        "Service" => {
            if let Some(service) = Service::read(object, problems) {
                desired.services.insert(key, service);
            }
        }
        "Pod" => {
            if let Some(template) = Template::of_pod(object, problems) {
                desired.pods.insert(
                    key,
                    BarePod {
                        object: object.clone(),
                        template,
                    },
                );
            }
        }
        "Deployment" => {
            if let Some(deployment) = Deployment::read(object, problems) {
                desired.deployments.insert(key, deployment);
            }
        }
        "StatefulSet" => drop(StatefulSet::read(object, problems).map(|set| desired.stateful_sets.insert(key, set))),
        "DaemonSet" => drop(DaemonSet::read(object, problems).map(|set| desired.daemon_sets.insert(key, set))),
        "Job" => drop(Job::read(object, problems).map(|job| desired.jobs.insert(key, job))),
        _ => {}
    }
    !problems[before..]
        .iter()
        .any(|problem| problem.severity == Severity::Error)
}

/// What can't be honoured stays as it was, if it was.
fn hold(object: &Object, last: &Desired, desired: &mut Desired) {
    fn keep<K: Ord + Clone, V: Clone>(key: &K, last: &BTreeMap<K, V>, now: &mut BTreeMap<K, V>) {
        if let Some(value) = last.get(key) {
            now.insert(key.clone(), value.clone());
        }
    }
    let key = Key::of(object);
    match object.kind.as_str() {
        "Namespace" => keep(&object.name, &last.namespaces, &mut desired.namespaces),
        "Node" => keep(&object.name, &last.nodes, &mut desired.nodes),
        "ServiceAccount" => drop(
            last.service_accounts
                .get(&key)
                .cloned()
                .map(|key| desired.service_accounts.insert(key)),
        ),
        "ConfigMap" => keep(&key, &last.config_maps, &mut desired.config_maps),
        "Secret" => keep(&key, &last.secrets, &mut desired.secrets),
        "Service" => keep(&key, &last.services, &mut desired.services),
        "Pod" => keep(&key, &last.pods, &mut desired.pods),
        "Deployment" => keep(&key, &last.deployments, &mut desired.deployments),
        "StatefulSet" => keep(&key, &last.stateful_sets, &mut desired.stateful_sets),
        "DaemonSet" => keep(&key, &last.daemon_sets, &mut desired.daemon_sets),
        "Job" => keep(&key, &last.jobs, &mut desired.jobs),
        _ => {}
    }
}

#[cfg(test)]
mod page_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod workload_tests;
