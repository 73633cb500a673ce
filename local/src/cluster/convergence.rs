//! Which pods there are to be: Deployments and Pods against records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use weft_control::objects::{Object, Problem, Severity};
use weft_injector::patch::{Decision, inject};

use super::build::{Blueprint, labels, object, pod_name, uuid};
use super::place::place;
use super::record::{Record, Rules, Stage};
use super::{Cluster, FAREWELL, system};
use crate::manifest::{Key, Template, pod};
use crate::plan::{Owned, Steps, steps};
use crate::pod::PodStatus;
use crate::token::PodTokens;

impl Cluster {
    /// Makes and deletes pods as the manifests ask for.
    pub(super) fn converge(&mut self) {
        let mut problems = Vec::new();
        self.orphans();
        for (key, steps) in self.deployment_steps() {
            for uid in steps.delete {
                self.delete(&uid);
            }
            for _ in 0..steps.create {
                if let Err(problem) = self.create(&key, true) {
                    problems.push(*problem);
                    break;
                }
            }
        }
        for key in self.desired.pods.keys().cloned().collect::<Vec<_>>() {
            if let Err(problem) = self.bare(&key) {
                problems.push(*problem);
            }
        }
        self.problems.append(&mut problems);
    }

    /// Deletes what nobody asks for any more, and what is on a node that is gone.
    fn orphans(&mut self) {
        let orphan = |record: &&Record| {
            let wanted = match &record.owner {
                Some(owner) => self.desired.deployments.contains_key(owner),
                None => self.desired.pods.get(&record.key).is_some_and(|pod| pod.template.hash == record.hash),
            };
            !record.deleting && (!wanted || !self.desired.nodes.contains_key(&record.node))
        };
        let orphans: Vec<String> = self.records.values().filter(orphan).map(|record| record.uid.clone()).collect();
        for uid in orphans {
            self.delete(&uid);
        }
    }

    fn deployment_steps(&self) -> Vec<(Key, Steps)> {
        let now = Instant::now();
        let mut owned: BTreeMap<&Key, (Vec<Owned<'_>>, usize)> = BTreeMap::new();
        for record in self.records.values() {
            let Some(owner) = &record.owner else { continue };
            let Some(deployment) = self.desired.deployments.get(owner) else { continue };
            let entry = owned.entry(owner).or_default();
            if record.deleting {
                entry.1 += 1;
                continue;
            }
            let ready = record.ready();
            let available = ready && record.ready_since.is_some_and(|since| now >= since + deployment.min_ready);
            entry.0.push(Owned {
                uid: &record.uid,
                current: record.hash == deployment.template.hash,
                available,
                ready,
                order: record.order,
                restarts: record.restarts(),
            });
        }
        let deployments = self.desired.deployments.iter();
        let steps = deployments.map(|(key, deployment)| {
            let (owned, leaving) = owned.get(key).map_or((&[][..], 0), |(owned, leaving)| (owned, *leaving));
            (key.clone(), steps(deployment.rollout, owned, leaving))
        });
        steps.filter(|(_, steps)| *steps != Steps::default()).collect()
    }

    /// A Pod that no Deployment owns: its labels may change while it runs; for anything else it makes way for a new one.
    fn bare(&mut self, key: &Key) -> Result<(), Box<Problem>> {
        let Some(wanted) = self.desired.pods.get(key) else { return Ok(()) };
        let Some(record) = self.records.values_mut().find(|record| record.key == *key) else {
            return self.create(key, false);
        };
        let (new_labels, annotations) = (labels(&wanted.template, None), &wanted.template.annotations);
        if record.labels != new_labels && !record.deleting {
            record.object["metadata"]["labels"] = json!(new_labels);
            record.labels = new_labels;
        }
        // What injection adds to the annotations stays.
        for (name, value) in annotations {
            record.object["metadata"]["annotations"][name] = json!(value);
        }
        Ok(())
    }

    /// Makes a pod: its record, and its network in the background.
    fn create(&mut self, wanted: &Key, deployed: bool) -> Result<(), Box<Problem>> {
        let (source, template): (Arc<Object>, Template) = match deployed {
            true => self.desired.deployments.get(wanted).map(|d| (d.object.clone(), d.template.clone())),
            false => self.desired.pods.get(wanted).map(|pod| (pod.object.clone(), pod.template.clone())),
        }
        .expect("it was just looked up");
        let problem = |field: &str, message: String, fix: &str| {
            let field = format!("{}{field}", template.prefix);
            Box::new(source.problem(Severity::Error, &field, message, fix))
        };
        if !self.desired.has_account(&wanted.namespace, template.service_account()) {
            // Named among the problems of the manifests already.
            return Ok(());
        }
        let on = |node: &str| {
            let here = || self.records.values().filter(|record| record.node == node && !record.deleting);
            (here().filter(|record| record.owner.as_ref() == Some(wanted)).count(), here().count())
        };
        let node = place(&template, &self.desired.nodes, on).map_err(|(field, message, fix)| problem(field, message, fix))?;
        let owner = deployed.then_some(wanted);
        let name = if deployed { pod_name(wanted, &template, rand::random()) } else { wanted.name.clone() };
        let (key, uid) = (Key::new(&wanted.namespace, name), uuid(rand::random()));
        let created = SystemTime::now();
        let before = object(&Blueprint { template: &template, key: &key, uid: &uid, owner, node: &node, created });
        let namespace = self.desired.namespaces.get(&key.namespace).map(|namespace| namespace.raw.clone());
        let namespace = namespace.unwrap_or_else(|| json!({"metadata": {"name": key.namespace}}));
        let (after, meshed) = match inject(&before, &namespace, &self.parts.inject) {
            Decision::Inject(pod) => (*pod, true),
            Decision::Skip(_) => (before.clone(), false),
            Decision::Refuse(why) => {
                let (field, message) = why.split_once(": ").unwrap_or(("", &why));
                return Err(problem(field, message.to_owned(), ""));
            }
        };
        let spec = match pod::view(&after) {
            Ok(spec) => spec,
            Err(missing) => return Err(problem(&missing.field, missing.message, "")),
        };
        let system = key.namespace == system::NAMESPACE;
        let record = Record {
            ours: if system { names(&after) } else { &names(&after) - &names(&before) },
            meshed,
            system,
            owner: owner.cloned(),
            hash: template.hash.clone(),
            order: self.order,
            created,
            labels: labels(&template, owner),
            token_sources: pod::tokens(&after),
            object: after,
            spec: Arc::new(spec),
            node,
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
            trouble: None,
            uid: uid.clone(),
            key,
        };
        self.order += 1;
        self.records.insert(uid.clone(), record);
        self.refresh_tokens(&uid);
        self.make_network(&uid);
        Ok(())
    }

    /// Takes a pod out of service at once, and tells it a little later.
    fn delete(&mut self, uid: &str) {
        let Some(record) = self.records.get_mut(uid) else { return };
        record.delete();
        // Nobody sends anything to a pod that never was ready.
        let farewell = if record.status.ready { FAREWELL } else { Duration::ZERO };
        self.stop(uid, farewell, None);
    }
}

/// The names of a pod's containers.
fn names(pod: &Value) -> std::collections::BTreeSet<String> {
    let lists = ["initContainers", "containers"].into_iter();
    let containers = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    containers.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
}
