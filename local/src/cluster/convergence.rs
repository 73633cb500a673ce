//! Which pods there are to be: Deployments and Pods against records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use weft_control::objects::{Object, Problem, Severity};
use weft_injector::patch::{Decision, inject};

use super::build::{Blueprint, labels, object, pod_name, uuid};
use super::offline::not_injected;
use super::record::Record;
use super::{Cluster, FAREWELL};
use crate::manifest::place::place;
use crate::manifest::{Key, Template};
use crate::plan::{Owned, Steps, steps};

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
                None => self
                    .desired
                    .pods
                    .get(&record.key)
                    .is_some_and(|pod| pod.template.hash == record.hash),
            };
            !record.deleting && (!wanted || !self.desired.nodes.contains_key(&record.node))
        };
        let orphans: Vec<String> = self
            .records
            .values()
            .filter(orphan)
            .map(|record| record.uid.clone())
            .collect();
        for uid in orphans {
            self.delete(&uid);
        }
    }

    fn deployment_steps(&self) -> Vec<(Key, Steps)> {
        let now = Instant::now();
        let mut owned: BTreeMap<&Key, (Vec<Owned<'_>>, usize)> = BTreeMap::new();
        for record in self.records.values() {
            let Some(owner) = &record.owner else { continue };
            let Some(deployment) = self.desired.deployments.get(owner) else {
                continue;
            };
            let entry = owned.entry(owner).or_default();
            if record.deleting {
                entry.1 += 1;
                continue;
            }
            let ready = record.ready();
            let available = ready
                && record
                    .ready_since
                    .is_some_and(|since| now >= since + deployment.min_ready);
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
            let (owned, leaving) = owned
                .get(key)
                .map_or((&[][..], 0), |(owned, leaving)| (owned, *leaving));
            (key.clone(), steps(deployment.rollout, owned, leaving))
        });
        steps.filter(|(_, steps)| *steps != Steps::default()).collect()
    }

    /// A Pod that no Deployment owns: its labels may change while it runs; for anything else it makes way for a new one.
    fn bare(&mut self, key: &Key) -> Result<(), Box<Problem>> {
        let Some(wanted) = self.desired.pods.get(key) else {
            return Ok(());
        };
        let Some(record) = self.records.values_mut().find(|record| record.key == *key) else {
            return self.create(key, false);
        };
        let (new_labels, annotations) = (labels(&wanted.template, None), &wanted.template.annotations);
        if record.labels != new_labels && !record.deleting {
            record.object["metadata"]["labels"] = json!(new_labels);
            record.labels = new_labels;
        }
        // What injection adds to the annotations stays; what the user took away goes.
        if let Some(all) = record.object["metadata"]["annotations"].as_object_mut() {
            all.retain(|name, _| annotations.contains_key(name) || !record.annotations.contains_key(name));
            all.extend(annotations.iter().map(|(name, value)| (name.clone(), json!(value))));
        }
        record.annotations.clone_from(annotations);
        Ok(())
    }

    /// Makes a pod: its record, and its network in the background.
    fn create(&mut self, wanted: &Key, deployed: bool) -> Result<(), Box<Problem>> {
        let (source, template) = self.blueprint(wanted, deployed);
        if !self.desired.has_account(&wanted.namespace, template.service_account()) {
            // Named among the problems of the manifests already.
            return Ok(());
        }
        let problem = |field: &str, message: String, fix: &str| {
            let field = format!("{}{field}", template.prefix);
            Box::new(source.problem(Severity::Error, &field, message, fix))
        };
        let on = |node: &str| self.pods_on(node, wanted);
        let node = place(&template, &self.desired.nodes, on);
        let Ok(node) = node else {
            // As above.
            return Ok(());
        };
        let name = match deployed {
            true => pod_name(wanted, &template, rand::random()),
            false => wanted.name.clone(),
        };
        let (key, uid) = (Key::new(&wanted.namespace, name), uuid(rand::random()));
        let before = object(&Blueprint {
            template: &template,
            key: &key,
            uid: &uid,
            owner: deployed.then_some(wanted),
            node: &node,
            created: SystemTime::now(),
        });
        let after = match inject(&before, &self.namespace(&key.namespace), &self.parts.inject) {
            Decision::Inject(pod) => Some(*pod),
            Decision::Skip(_) => None,
            Decision::Refuse(why) => return Err(Box::new(not_injected(&source, &template, &why))),
        };
        let mut record = Record::new(key, uid.clone(), before, after)
            .map_err(|missing| problem(&missing.field, missing.message, ""))?;
        record.owner = deployed.then(|| wanted.clone());
        record.labels = labels(&template, record.owner.as_ref());
        record.annotations = template.annotations;
        record.hash = template.hash;
        record.node = node;
        record.order = self.order;
        self.order += 1;
        self.records.insert(uid.clone(), record);
        self.refresh_tokens(&uid);
        self.make_network(&uid);
        Ok(())
    }

    /// What a pod is made from: a Deployment's template, or a Pod's own.
    fn blueprint(&self, wanted: &Key, deployed: bool) -> (Arc<Object>, Template) {
        let (object, template) = match deployed {
            true => {
                let deployment = &self.desired.deployments[wanted];
                (&deployment.object, &deployment.template)
            }
            false => {
                let pod = &self.desired.pods[wanted];
                (&pod.object, &pod.template)
            }
        };
        (object.clone(), template.clone())
    }

    /// How many pods are on a node: those of the same owner, and all.
    fn pods_on(&self, node: &str, owner: &Key) -> (usize, usize) {
        let mut counts = (0, 0);
        for record in self
            .records
            .values()
            .filter(|record| record.node == node && !record.deleting)
        {
            counts.0 += usize::from(record.owner.as_ref() == Some(owner));
            counts.1 += 1;
        }
        counts
    }

    /// A Namespace as an object; `default` may be there without one.
    fn namespace(&self, name: &str) -> Value {
        let written = self.desired.namespaces.get(name).map(|namespace| namespace.raw.clone());
        written.unwrap_or_else(|| json!({"metadata": {"name": name}}))
    }

    /// Takes a pod out of service at once, and tells it a little later.
    fn delete(&mut self, uid: &str) {
        let Some(record) = self.records.get_mut(uid) else {
            return;
        };
        record.delete();
        // Nobody sends anything to a pod that never was ready.
        let farewell = if record.status.ready { FAREWELL } else { Duration::ZERO };
        self.stop(uid, farewell, None);
    }
}
