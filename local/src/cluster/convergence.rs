//! Which pods there are to be: workloads and Pods against records.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use weft_control::objects::{Object, Problem, Severity};
use weft_injector::patch::{Decision, inject};

use super::build::{Blueprint, labels, object, pod_name, uuid};
use super::offline::not_injected;
use super::record::Record;
use super::{Cluster, FAREWELL};
use crate::manifest::place::{allowed, place};
use crate::manifest::{Key, Owner, Template, Workload};
use crate::plan::stateful::{self, Numbered};
use crate::plan::{Owned, daemon, steps};

/// What is to be made: which pod, of which workload.
pub(super) struct Wanted<'a> {
    /// The workload that owns it; none for a Pod of its own.
    pub owner: Option<&'a Owner>,
    /// Its namespace and, where it has one, its name.
    pub key: Key,
    /// Its number, if it is one of a StatefulSet's.
    pub ordinal: Option<u32>,
    /// The node, if that is settled.
    pub node: Option<String>,
}

impl<'a> Wanted<'a> {
    /// Any pod of a workload.
    pub(super) fn any(owner: &'a Owner) -> Self {
        Self {
            owner: Some(owner),
            key: Key::new(&owner.key.namespace, ""),
            ordinal: None,
            node: None,
        }
    }
}

impl Cluster {
    /// Makes and deletes pods as the manifests ask for.
    pub(super) fn converge(&mut self) {
        let mut problems = Vec::new();
        self.unmade = 0;
        self.orphans();
        self.deployments(&mut problems);
        self.stateful_sets(&mut problems);
        self.daemon_sets(&mut problems);
        self.run_jobs(&mut problems);
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
                Some(owner) => self.desired.workload(owner).is_some(),
                None => self
                    .desired
                    .pods
                    .get(&record.key)
                    .is_some_and(|pod| pod.template.hash == record.hash),
            };
            let homeless = !self.desired.nodes.contains_key(&record.node) && !record.finished();
            !record.deleting && (!wanted || homeless)
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

    /// For how long a pod of a workload is ready before it counts.
    pub(super) fn min_ready(&self, owner: &Owner) -> Duration {
        let key = &owner.key;
        let min_ready = match owner.kind {
            Workload::Deployment => self.desired.deployments.get(key).map(|of| of.min_ready),
            Workload::StatefulSet => self.desired.stateful_sets.get(key).map(|of| of.min_ready),
            Workload::DaemonSet => self.desired.daemon_sets.get(key).map(|of| of.min_ready),
            Workload::Job => None,
        };
        min_ready.unwrap_or_default()
    }

    /// The pods of a workload.
    pub(super) fn owned<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = &'a Record> {
        self.records
            .values()
            .filter(move |record| record.owner.as_ref() == Some(owner))
    }

    fn owned_now<'a>(&self, record: &'a Record, hash: &str, min_ready: Duration, now: Instant) -> Owned<'a> {
        Owned {
            uid: &record.uid,
            current: record.hash == hash,
            available: record.available(min_ready, now),
            ready: record.ready(),
            order: record.order,
            restarts: record.restarts(),
        }
    }

    fn deployments(&mut self, problems: &mut Vec<Problem>) {
        for key in self.desired.deployments.keys().cloned().collect::<Vec<_>>() {
            let owner = Owner {
                kind: Workload::Deployment,
                key,
            };
            let deployment = &self.desired.deployments[&owner.key];
            let (hash, now) = (&deployment.template.hash, Instant::now());
            let (leaving, staying): (Vec<&Record>, Vec<&Record>) = self.owned(&owner).partition(|r| r.deleting);
            let owned: Vec<Owned<'_>> = staying
                .into_iter()
                .map(|record| self.owned_now(record, hash, deployment.min_ready, now))
                .collect();
            let steps = steps(deployment.rollout, &owned, leaving.len());
            for uid in steps.delete {
                self.delete(&uid);
            }
            self.create_all((0..steps.create).map(|_| Wanted::any(&owner)), problems);
        }
    }

    fn stateful_sets(&mut self, problems: &mut Vec<Problem>) {
        for key in self.desired.stateful_sets.keys().cloned().collect::<Vec<_>>() {
            let owner = Owner {
                kind: Workload::StatefulSet,
                key,
            };
            let set = &self.desired.stateful_sets[&owner.key];
            let (hash, now) = (&set.template.hash, Instant::now());
            let pods: Vec<Numbered<'_>> = self
                .owned(&owner)
                .filter_map(|record| {
                    Some(Numbered {
                        uid: &record.uid,
                        ordinal: record.ordinal?,
                        current: record.hash == *hash,
                        available: record.available(set.min_ready, now),
                        leaving: record.deleting,
                    })
                })
                .collect();
            let steps = stateful::steps(set.ordinals(), set.parallel, &pods);
            let there = pods.iter().filter(|pod| set.ordinals().contains(&pod.ordinal)).count();
            let missing = (set.replicas as usize).saturating_sub(there + steps.create.len());
            for uid in steps.delete {
                self.delete(&uid);
            }
            let wanted = steps.create.into_iter().map(|ordinal| Wanted {
                key: Key::new(&owner.key.namespace, format!("{}-{ordinal}", owner.key.name)),
                ordinal: Some(ordinal),
                ..Wanted::any(&owner)
            });
            if self.create_all(wanted, problems) {
                self.unmade += missing;
            }
        }
    }

    fn daemon_sets(&mut self, problems: &mut Vec<Problem>) {
        for key in self.desired.daemon_sets.keys().cloned().collect::<Vec<_>>() {
            let owner = Owner {
                kind: Workload::DaemonSet,
                key,
            };
            let set = &self.desired.daemon_sets[&owner.key];
            let (hash, now) = (&set.template.hash, Instant::now());
            let nodes = allowed(&set.template, &self.desired.nodes);
            let pods: Vec<daemon::Placed<'_>> = self
                .owned(&owner)
                .map(|record| {
                    let owned = self.owned_now(record, hash, set.min_ready, now);
                    (record.node.as_str(), record.deleting, owned)
                })
                .collect();
            let steps = daemon::steps(&nodes, set.unavailable(nodes.len()), &pods);
            for uid in steps.delete {
                self.delete(&uid);
            }
            let wanted = steps.create.into_iter().map(|node| Wanted {
                node: Some(node),
                ..Wanted::any(&owner)
            });
            self.create_all(wanted, problems);
        }
    }

    /// Makes pods until one can't be made; whether all were.
    pub(super) fn create_all<'a>(
        &mut self,
        wanted: impl Iterator<Item = Wanted<'a>>,
        problems: &mut Vec<Problem>,
    ) -> bool {
        for wanted in wanted {
            match self.create(wanted) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(problem) => {
                    problems.push(*problem);
                    return false;
                }
            }
        }
        true
    }

    /// A Pod that no workload owns: its labels may change while it runs; for anything else it makes way for a new one.
    fn bare(&mut self, key: &Key) -> Result<(), Box<Problem>> {
        let Some(wanted) = self.desired.pods.get(key) else {
            return Ok(());
        };
        let Some(record) = self.records.values_mut().find(|record| record.key == *key) else {
            let wanted = Wanted {
                owner: None,
                key: key.clone(),
                ordinal: None,
                node: None,
            };
            return self.create(wanted).map(drop);
        };
        let (new_labels, annotations) = (labels(&wanted.template, None, &key.name), &wanted.template.annotations);
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

    /// Makes a pod: its record, and its network in the background. False: something is not there that it needs, which is
    /// named among the problems of the manifests already.
    fn create(&mut self, wanted: Wanted<'_>) -> Result<bool, Box<Problem>> {
        let Some((source, template)) = self.blueprint(&wanted) else {
            return Ok(false);
        };
        let namespace = wanted.key.namespace.clone();
        if !self.desired.has_account(&namespace, template.service_account()) {
            return Ok(false);
        }
        let problem = |field: &str, message: String, fix: &str| {
            let field = format!("{}{field}", template.prefix);
            Box::new(source.problem(Severity::Error, &field, message, fix))
        };
        let on = |node: &str| self.pods_on(node, wanted.owner);
        let node = match wanted.node {
            Some(node) => node,
            None => match place(&template, &self.desired.nodes, on) {
                Ok(node) => node,
                Err(_) => return Ok(false),
            },
        };
        let name = match wanted.owner {
            Some(owner) if wanted.key.name.is_empty() => pod_name(owner, &template, rand::random()),
            _ => wanted.key.name,
        };
        let (key, uid) = (Key::new(namespace, name), uuid(rand::random()));
        let service = wanted
            .owner
            .and_then(|owner| self.desired.stateful_sets.get(&owner.key));
        let before = object(&Blueprint {
            template: &template,
            key: &key,
            uid: &uid,
            owner: wanted.owner,
            service: service.map(|set| set.service.as_str()),
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
        record.owner = wanted.owner.cloned();
        record.ordinal = wanted.ordinal;
        record.labels = labels(&template, record.owner.as_ref(), &record.key.name);
        record.annotations = template.annotations;
        record.hash = template.hash;
        record.node = node;
        record.order = self.order;
        self.order += 1;
        self.records.insert(uid.clone(), record);
        self.refresh_tokens(&uid);
        self.make_network(&uid);
        Ok(true)
    }

    /// What a pod is made from: a workload's template, or a Pod's own.
    fn blueprint(&self, wanted: &Wanted<'_>) -> Option<(Arc<Object>, Template)> {
        let (object, template) = match wanted.owner {
            Some(owner) => self.desired.workload(owner)?,
            None => {
                let pod = self.desired.pods.get(&wanted.key)?;
                (&pod.object, &pod.template)
            }
        };
        Some((object.clone(), template.clone()))
    }

    /// How many pods are on a node: those of the same owner, and all.
    fn pods_on(&self, node: &str, owner: Option<&Owner>) -> (usize, usize) {
        let mut counts = (0, 0);
        for record in self
            .records
            .values()
            .filter(|record| record.node == node && !record.deleting)
        {
            counts.0 += usize::from(owner.is_some() && record.owner.as_ref() == owner);
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
    pub(super) fn delete(&mut self, uid: &str) {
        let Some(record) = self.records.get_mut(uid) else {
            return;
        };
        record.delete();
        // Nobody sends anything to a pod that never was ready.
        let farewell = if record.status.ready { FAREWELL } else { Duration::ZERO };
        self.stop(uid, farewell, None);
    }
}
