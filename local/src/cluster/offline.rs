//! A mesh on paper: what is wrong with manifests, and what the control plane would read if all that they ask for ran.
//!
//! In: files and directories. Out: the same words that `weft up` and a running mesh have for them, from the same readers;
//! and, for questions about routes, finished objects: every pod there and ready, every Service with an address. Nothing is
//! started, and nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Value, json};
use weft_control::index::Settings as IndexSettings;
use weft_control::manifests::{
    Directory, Manifests, OpenError, Selection, Settings as ManifestSettings, Snapshot, Writer, parse,
};
use weft_control::objects::{Kinds, Object, Problem, Severity, uid_of};
use weft_injector::patch::{Decision, inject};
use weft_injector::redirect::{Exempt, MARK};
use weft_injector::settings::InjectSettings;

use super::addresses::{Assigned, ServiceAddresses};
use super::build::{Blueprint, labels, object};
use super::publish::finished;
use super::system::{self, System};
use super::{Review, combined};
use crate::manifest::place::{allowed, place};
use crate::manifest::raw::PodSpec;
use crate::manifest::{DEFAULT_NAMESPACE, Desired, Key, Owner, Reader, Template, Workload};
use crate::slices::{Endpoint, Member, endpoints, slices};
use crate::source::Sources;

/// The first address of a pod on paper.
const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);

/// Where manifests are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory, or a file.
    Path(PathBuf),
    /// A text that was read from somewhere else, and its name.
    Text(PathBuf, String),
}

/// A mesh on paper.
#[derive(Clone, Debug)]
pub struct Offline {
    /// What is wrong, in order of file and line.
    pub problems: Vec<Problem>,
    /// How many objects were read.
    pub read: usize,
    /// What the control plane would read if everything ran.
    pub finished: Vec<Arc<Object>>,
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file is not readable.
    #[error("reading {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A directory is not readable.
    #[error(transparent)]
    Directory(#[from] OpenError),
}

/// The ranges of Services, as `weft up` has them by default.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Ipv6Net,
}

/// Reads manifests as `weft up` and the control plane do.
///
/// # Errors
/// A file or directory is not readable. What is wrong with what they say is a problem, and no error.
pub fn read(
    sources: &[Source],
    kinds: &Kinds,
    settings: IndexSettings,
    ranges: Ranges,
) -> Result<Offline, SourceError> {
    let Snapshot { objects, problems } = gather(sources, kinds)?;
    let mut addresses = ServiceAddresses::new(ranges.v4, Some(ranges.v6));
    let (whole, strangers) = system(&addresses).with(objects.clone());
    let (desired, found) = Reader::default().read(&whole);
    let refused = Review::new(settings).problems(&objects, &desired);
    let Assigned { ips, wrong } = addresses.assign(desired.services.iter());
    let misplaced = wrong.into_iter().filter_map(|wrong| {
        let service = desired.services.get(&wrong.service)?;
        Some(
            service
                .object
                .problem(Severity::Error, wrong.field, wrong.message, wrong.fix),
        )
    });
    let misplaced = misplaced.collect();
    let mut paper = Paper::default();
    paper.pods(&desired);
    let problems = [
        problems.to_vec(),
        strangers,
        found,
        refused,
        misplaced,
        paper.problems.clone(),
    ]
    .concat();
    Ok(Offline {
        problems: combined(problems),
        read: objects.len(),
        finished: paper.finished(&objects, &desired, &ips),
    })
}

/// The objects of all sources. An object that is written twice counts where it stands first.
fn gather(sources: &[Source], kinds: &Kinds) -> Result<Snapshot, SourceError> {
    let is_directory = |source: &&Source| matches!(source, Source::Path(path) if path.is_dir());
    let (directories, texts): (Vec<&Source>, Vec<&Source>) = sources.iter().partition(is_directory);
    let directories = directories.into_iter().filter_map(|source| match source {
        Source::Path(path) => Some(Directory {
            path: path.clone(),
            writer: Writer::User,
            kinds: kinds.clone(),
            files: Selection::Here,
        }),
        Source::Text(..) => None,
    });
    let Snapshot { objects, problems } = Manifests::open(ManifestSettings {
        directories: directories.collect(),
        state_dir: None,
    })?
    .snapshot();
    let mut all: BTreeMap<_, Arc<Object>> = objects.into_iter().map(|object| (object.reference(), object)).collect();
    let mut problems = problems.to_vec();
    for source in texts {
        let (path, text) = text_of(source)?;
        match parse(&path, &text, Writer::User, kinds) {
            Err(faults) => problems.extend(faults),
            Ok(read) => {
                problems.extend(read.problems.iter().cloned());
                for object in read.objects {
                    let first = all.entry(object.reference()).or_insert_with(|| object.clone());
                    if let Some(acts) = first.origin.as_ref().filter(|_| !Arc::ptr_eq(first, &object)) {
                        let message = format!("is written twice; the one at {acts} acts");
                        problems.push(object.problem(Severity::Error, "metadata.name", message, "keep one of the two"));
                    }
                }
            }
        }
    }
    problems.sort();
    Ok(Snapshot {
        objects: all.into_values().collect(),
        problems: problems.into(),
    })
}

fn text_of(source: &Source) -> Result<(PathBuf, String), SourceError> {
    match source {
        Source::Text(path, text) => Ok((path.clone(), text.clone())),
        Source::Path(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| SourceError::File {
                path: path.clone(),
                source,
            })?;
            Ok((path.clone(), text))
        }
    }
}

/// The mesh's own objects, as far as they matter on paper.
fn system(addresses: &ServiceAddresses) -> System {
    System {
        manifests: Sources::default(),
        objects: PathBuf::new(),
        control: PathBuf::new(),
        user: 0,
        flags: Vec::new(),
        env: Vec::new(),
        dns: addresses.dns(),
        node: Vec::new(),
    }
}

/// The pods of a mesh on paper.
#[derive(Default)]
struct Paper {
    pods: Vec<Drawn>,
    problems: Vec<Problem>,
}

/// What pods are drawn from.
struct Sheet<'a> {
    source: &'a Object,
    template: &'a Template,
    namespace: &'a str,
    owner: Option<Owner>,
    service: Option<&'a str>,
}

impl<'a> Sheet<'a> {
    fn of(source: &'a Object, template: &'a Template, kind: Workload, key: &'a Key) -> Self {
        let owner = Owner { kind, key: key.clone() };
        Self {
            source,
            template,
            namespace: &key.namespace,
            owner: Some(owner),
            service: None,
        }
    }
}

/// A pod that would be there.
struct Drawn {
    key: Key,
    uid: String,
    owner: Option<Owner>,
    node: String,
    ip: IpAddr,
    labels: BTreeMap<String, String>,
    spec: Arc<PodSpec>,
    object: Value,
}

impl Paper {
    fn pods(&mut self, desired: &Desired) {
        for (key, each) in &desired.deployments {
            let sheet = Sheet::of(&each.object, &each.template, Workload::Deployment, key);
            for i in 1..=each.rollout.replicas {
                self.pod(desired, &sheet, format!("{}-{i}", key.name), None);
            }
        }
        for (key, each) in &desired.stateful_sets {
            let mut sheet = Sheet::of(&each.object, &each.template, Workload::StatefulSet, key);
            sheet.service = Some(&each.service);
            for i in (each.start..).take(each.replicas as usize) {
                self.pod(desired, &sheet, format!("{}-{i}", key.name), None);
            }
        }
        for (key, each) in &desired.daemon_sets {
            let sheet = Sheet::of(&each.object, &each.template, Workload::DaemonSet, key);
            for node in allowed(&each.template, &desired.nodes) {
                self.pod(desired, &sheet, format!("{}-{node}", key.name), Some(node));
            }
        }
        for (key, each) in &desired.jobs {
            let sheet = Sheet::of(&each.object, &each.template, Workload::Job, key);
            for i in 1..=each.completions.unwrap_or(1).min(each.parallelism) {
                self.pod(desired, &sheet, format!("{}-{i}", key.name), None);
            }
        }
        for (key, bare) in &desired.pods {
            let sheet = Sheet {
                source: &bare.object,
                template: &bare.template,
                namespace: &key.namespace,
                owner: None,
                service: None,
            };
            self.pod(desired, &sheet, key.name.clone(), None);
        }
    }

    /// Draws a pod, as the cluster would make it, if there is a place and leave for it.
    fn pod(&mut self, desired: &Desired, sheet: &Sheet<'_>, name: String, node: Option<&str>) {
        let Sheet {
            source,
            template,
            namespace,
            owner,
            service,
        } = sheet;
        if *namespace == system::NAMESPACE {
            return;
        }
        let key = Key::new(*namespace, name);
        let on = |node: &str| {
            let here = || self.pods.iter().filter(|pod| pod.node == node);
            let like = |pod: &&Drawn| owner.is_some() && pod.owner == *owner;
            (here().filter(like).count(), here().count())
        };
        // Named among the problems of the manifests already.
        let Ok(node) = node.map_or_else(|| place(template, &desired.nodes, on), |node| Ok(node.to_owned())) else {
            return;
        };
        let uid = uid_of("Pod", &key.namespace, &key.name);
        let before = object(&Blueprint {
            template,
            key: &key,
            uid: &uid,
            owner: owner.as_ref(),
            service: *service,
            node: &node,
            created: SystemTime::UNIX_EPOCH,
        });
        let namespace = desired
            .namespaces
            .get(&key.namespace)
            .map(|namespace| namespace.raw.clone());
        let namespace = namespace.unwrap_or_else(|| json!({"metadata": {"name": key.namespace}}));
        let object = match inject(&before, &namespace, &injection()) {
            Decision::Inject(pod) => *pod,
            Decision::Skip(_) => before,
            Decision::Refuse(why) => {
                let problem = not_injected(source, template, &why);
                // All pods of a workload fail alike.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
                return;
            }
        };
        let number = u32::try_from(self.pods.len()).unwrap_or(u32::MAX);
        self.pods.push(Drawn {
            uid,
            node,
            ip: IpAddr::V4(Ipv4Addr::from(u32::from(FIRST_POD).saturating_add(number))),
            labels: labels(template, owner.as_ref(), &key.name),
            spec: template.view.clone(),
            object,
            owner: owner.clone(),
            key,
        });
    }

    fn behind(&self, desired: &Desired) -> BTreeMap<Key, Vec<Endpoint>> {
        let zone = |node: &str| {
            let node = desired.nodes.get(node)?;
            node.labels.get("topology.kubernetes.io/zone").map(String::as_str)
        };
        let members: Vec<Member<'_>> = self
            .pods
            .iter()
            .map(|pod| Member {
                namespace: &pod.key.namespace,
                name: &pod.key.name,
                uid: &pod.uid,
                labels: &pod.labels,
                spec: &pod.spec,
                ips: std::slice::from_ref(&pod.ip),
                node: &pod.node,
                zone: zone(&pod.node).unwrap_or_default(),
                ready: true,
                terminating: false,
            })
            .collect();
        let services = desired.services.iter();
        services
            .map(|(key, service)| (key.clone(), endpoints(service, &members)))
            .collect()
    }

    /// The objects that the control plane would read.
    fn finished(&self, user: &[Arc<Object>], desired: &Desired, ips: &BTreeMap<Key, Vec<IpAddr>>) -> Vec<Arc<Object>> {
        let made =
            |object: &&Arc<Object>| object.group().is_empty() && matches!(object.kind.as_str(), "Pod" | "Service");
        let mut all: Vec<Arc<Object>> = user.iter().filter(|object| !made(object)).cloned().collect();
        let known: BTreeSet<&str> = desired.namespaces.keys().map(String::as_str).collect();
        if !known.contains(DEFAULT_NAMESPACE) {
            let default = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEFAULT_NAMESPACE}});
            all.push(system::object(default));
        }
        for (key, service) in &desired.services {
            let object = Object::clone(&service.object);
            let raw = finished(service, ips.get(key).map_or(&[], Vec::as_slice));
            all.push(Arc::new(Object { raw, ..object }));
        }
        for pod in &self.pods {
            let mut raw = pod.object.clone();
            raw["status"] = json!({
                "phase": "Running", "podIP": pod.ip, "podIPs": [{"ip": pod.ip}],
                "conditions": [{"type": "Ready", "status": "True"}],
            });
            all.push(system::object(raw));
        }
        let behind = self.behind(desired);
        for (key, service) in &desired.services {
            let slices = slices(service, behind.get(key).map_or(&[][..], Vec::as_slice));
            all.extend(slices.into_iter().map(|(_, slice)| system::object(slice)));
        }
        all
    }
}

/// Why a pod gets no sidecar and is not made, as injection says it: `spec.hostNetwork: …`, or `label weft.dev/inject: …`.
pub(super) fn not_injected(source: &Object, template: &Template, why: &str) -> Problem {
    let (place, message) = why.split_once(": ").unwrap_or(("", why));
    let (field, fix) = match place.strip_prefix("label ") {
        Some(label) => (format!("metadata.labels[{label}]"), "enabled or disabled"),
        None => (
            place.to_owned(),
            "change it, or label the pod weft.dev/inject: disabled",
        ),
    };
    source.problem(Severity::Error, &format!("{}{field}", template.prefix), message, fix)
}

/// What injection adds, as far as it can be told without a mesh.
fn injection() -> InjectSettings {
    InjectSettings {
        image: "weft".to_owned(),
        command: vec!["weft".to_owned()],
        control_address: format!("{}.{}.svc:15012", system::CONTROL, system::NAMESPACE),
        exempt: Exempt::Mark(MARK),
        proxy_env: Vec::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
