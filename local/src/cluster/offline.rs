//! A mesh on paper: what is wrong with manifests, and what the control plane would read if all that they ask for ran.
//!
//! In: files, directories, standard input. Out: the same words that `weft up` and a running mesh have for them, from the same readers;
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
use weft_control::manifests::{Manifests, OpenError, Settings as ManifestSettings, Snapshot, Writer, parse};
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
use crate::source::{Source, Sources};

/// The first address of a pod on paper.
const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);

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

/// The ranges of Services, as `weft up` has them by default.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Ipv6Net,
}

/// Reads manifests as `weft up` and the control plane do. `stdin`: what standard input says, if it is one of the places.
///
/// # Errors
/// A directory is not readable. What is wrong with what they say is a problem, and no error.
pub fn read(
    sources: &Sources,
    stdin: &[u8],
    kinds: &Kinds,
    settings: IndexSettings,
    ranges: Ranges,
) -> Result<Offline, OpenError> {
    let Snapshot { objects, problems } = gather(sources, stdin, kinds)?;
    let mut addresses = ServiceAddresses::new(ranges.v4, Some(ranges.v6));
    let (whole, strangers) = system(&addresses).with(objects.clone());
    let (desired, found) = Reader::default().read(&whole);
    let refused = Review::new(settings).problems(&objects, desired.workloads());
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

/// The objects of all places. An object that is written twice counts where it stands first, on standard input last.
pub(super) fn gather(sources: &Sources, stdin: &[u8], kinds: &Kinds) -> Result<Snapshot, OpenError> {
    let (here, elsewhere): (Vec<Source>, Vec<Source>) = sources.places.iter().cloned().partition(|place| place.stdin);
    let files = Sources {
        places: elsewhere,
        recursive: sources.recursive,
    };
    let Snapshot { objects, problems } = Manifests::open(ManifestSettings {
        directories: files.directories(kinds),
        state_dir: None,
    })?
    .snapshot();
    let mut all: BTreeMap<_, Arc<Object>> = objects.into_iter().map(|object| (object.reference(), object)).collect();
    let mut problems = problems.to_vec();
    for place in here {
        match parse(&place.shown(), stdin, Writer::User, kinds) {
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

/// The mesh's own objects, as far as they matter on paper.
fn system(addresses: &ServiceAddresses) -> System {
    System {
        manifests: Sources::default(),
        objects: PathBuf::new(),
        control: PathBuf::new(),
        user: 0,
        flags: Vec::new(),
        federated: false,
        gateways: false,
        env: Vec::new(),
        dns: addresses.dns(),
        node: Vec::new(),
        pods: Vec::new(),
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
            for i in each.ordinals() {
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
        ..InjectSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_paper(sources: &Sources, stdin: &str) -> Offline {
        let settings = IndexSettings {
            trust_domain: weft_model::identity::TrustDomain::new("td").unwrap(),
            cluster: "one".to_owned(),
            network: "one".to_owned(),
            cluster_domain: crate::dns::DOMAIN.to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        };
        let ranges = Ranges {
            v4: "10.96.0.0/16".parse().unwrap(),
            v6: "fd00:10:96::/112".parse().unwrap(),
        };
        read(sources, stdin.as_bytes(), &crate::manifest::kinds(), settings, ranges).unwrap()
    }

    const SET: &str = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  replicas: 3\n  ordinals: {start: START}\n  \
                       selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    \
                       spec: {containers: [{name: c, command: [sleep, infinity]}]}\n";

    #[test]
    fn a_stateful_set_may_begin_at_any_number() {
        let pods = |start: &str| {
            let paper = on_paper(
                &Sources::new(vec![Source::stdin("/nowhere")], false),
                &SET.replace("START", start),
            );
            let pods = paper.finished.iter().filter(|object| object.kind == "Pod");
            pods.map(|pod| pod.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(pods("4"), ["db-4", "db-5", "db-6"]);
        assert_eq!(pods("4294967295"), Vec::<String>::new());
    }

    #[test]
    fn places_are_those_of_a_running_mesh() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let service = |name: &str| {
            format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
        };
        std::fs::write(directory.path().join("a.yaml"), service("a")).unwrap();
        std::fs::write(below.join("b.yaml"), service("b")).unwrap();
        // Longer than any file may be.
        std::fs::write(below.join("long"), " ".repeat(9 << 20)).unwrap();
        let of = |places: Vec<Source>, recursive, stdin: &str| {
            let paper = on_paper(&Sources::new(places, recursive), stdin);
            (
                paper.read,
                paper.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        let all = || vec![Source::directory(directory.path()), Source::directory(&below)];
        assert_eq!(of(all()[..1].to_vec(), false, ""), (1, Vec::new()));
        assert_eq!(of(all()[..1].to_vec(), true, ""), (2, Vec::new()));
        assert_eq!(of(all(), true, ""), (2, Vec::new()), "each place once");
        let (read, said) = of(
            [all(), vec![Source::stdin("/nowhere")]].concat(),
            false,
            &(service("c") + &service("a")),
        );
        assert_eq!(read, 3);
        assert!(
            said.len() == 1 && said[0].starts_with("stdin:9: Service default/a"),
            "{said:?}"
        );
        let (read, said) = of(vec![Source::file(&below, "long")], false, "");
        assert!(
            read == 0 && said.len() == 1 && said[0].contains("larger than 8 MiB"),
            "{said:?}"
        );
    }
}
