//! From record to running pod, and back: network, rules, runtime; volumes that change; the end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::record::{Event, Stage, StartError};
use super::{Cluster, RETRY, RULES_PATIENCE, system};
use crate::manifest::pod;
use crate::net::PodNet;
use crate::pod::PodHandle;
use crate::services::{self, Table};
use crate::spec::{PodPlan, VolumeSource};

impl Cluster {
    /// Takes an event in.
    pub(super) fn happened(&mut self, event: Event) {
        match event {
            Event::Network(uid, made) => self.networked(&uid, made),
            Event::Started(uid, started, table) => self.started(&uid, started, table),
            Event::Changed(uid, status) => {
                if let Some(record) = self.records.get_mut(&uid) {
                    record.update(status);
                }
            }
            Event::Gone(uid) => drop(self.records.remove(&uid)),
            Event::NodeRules(applied, table) => self.node.applied(applied, table),
            Event::Rules(uid, applied, table) => {
                let Some(record) = self.records.get_mut(&uid) else {
                    return;
                };
                record.rules.busy = false;
                record.rules.retry = None;
                match applied {
                    Ok(()) => {
                        record.rules.applied = Some(table);
                        record.rules.jumps = true;
                    }
                    Err(error) => {
                        tracing::warn!(%error, pod = %record.key, "the rules for service addresses");
                        record.rules.retry = Some(Instant::now() + RETRY);
                    }
                }
            }
        }
    }

    /// Makes a pod's network in the background.
    pub(super) fn make_network(&self, uid: &str) {
        let (net, events, uid) = (self.parts.net.clone(), self.events.0.clone(), uid.to_owned());
        self.tasks.spawn(async move {
            let made = net.pod().await;
            // The cluster may have ended.
            let _ = events.send(Event::Network(uid, made)).await;
        });
    }

    fn networked(&mut self, uid: &str, made: std::io::Result<PodNet>) {
        let Some(record) = self.records.get_mut(uid) else {
            return;
        };
        match made {
            Ok(net) => {
                record.ips = net.addresses().all().collect();
                record.net = Some(net);
                record.stage = Stage::Waiting(String::new());
                let ips: Vec<_> = record.ips.iter().map(|ip| json!({"ip": ip})).collect();
                let node: Vec<_> = self.parts.system.node.iter().map(|ip| json!({"ip": ip})).collect();
                // What `fieldRef` may ask for. The status that is published is made anew each time.
                record.object["status"] = json!({
                    "podIP": record.ips.first(), "podIPs": ips,
                    "hostIP": self.parts.system.node.first(), "hostIPs": node,
                });
            }
            Err(error) => record.stage = Stage::Failed(format!("making its network: {error}"), Instant::now() + RETRY),
        }
    }

    /// Starts what can be started now.
    pub(super) fn advance(&mut self) {
        let now = Instant::now();
        let waiting = |stage: &Stage| match stage {
            Stage::Waiting(_) => true,
            Stage::Failed(_, retry) => now >= *retry,
            _ => false,
        };
        let uids: Vec<String> = self
            .records
            .values()
            .filter(|record| !record.deleting && waiting(&record.stage))
            .map(|record| record.uid.clone())
            .collect();
        for uid in uids {
            self.start(&uid);
        }
    }

    fn start(&mut self, uid: &str) {
        self.refresh_tokens(uid);
        let Some(record) = self.records.get(uid) else { return };
        let Some(net) = record.net.clone() else {
            self.set_stage(uid, Stage::Network);
            return self.make_network(uid);
        };
        let is_gateway = record.system && record.key.name != system::CONTROL;
        if (record.meshed || is_gateway) && self.trust.is_none() {
            // The control plane makes it within its first moments; nobody has to be told.
            return self.set_stage(uid, Stage::Waiting(String::new()));
        }
        let plan = match pod::plan(&record.object, &self.facts(record)) {
            Ok(mut plan) => {
                if record.system {
                    self.parts.system.furnish(&mut plan);
                }
                plan
            }
            Err(missing) => {
                return self.set_stage(uid, Stage::Waiting(format!("{}: {}", missing.field, missing.message)));
            }
        };
        let table = if record.meshed {
            Arc::new(self.table.udp())
        } else {
            self.table.clone()
        };
        let volumes = plan.volumes.clone();
        let (runtime, events) = (self.parts.runtime.clone(), self.events.0.clone());
        let (v6, owned) = (self.parts.net.gateway_v6().is_some(), uid.to_owned());
        self.tasks.spawn(async move {
            let started = start(&runtime, plan, net, &table, v6).await;
            // The cluster may have ended.
            let _ = events.send(Event::Started(owned, started, table)).await;
        });
        self.set_stage(uid, Stage::Starting);
        if let Some(record) = self.records.get_mut(uid) {
            record.volumes = volumes;
        }
    }

    fn set_stage(&mut self, uid: &str, stage: Stage) {
        if let Some(record) = self.records.get_mut(uid) {
            record.stage = stage;
        }
    }

    fn started(&mut self, uid: &str, started: Result<PodHandle, StartError>, table: Arc<Table>) {
        let Some(record) = self.records.get_mut(uid) else {
            return;
        };
        let handle = match started {
            Ok(handle) => handle,
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(pod = %record.key, %why, "a pod can't be started");
                record.stage = Stage::Failed(why, Instant::now() + RETRY);
                return;
            }
        };
        record.rules.jumps = *table != Table::default();
        record.rules.applied = Some(table);
        record.stage = Stage::Running(handle.clone());
        let mut status = handle.status();
        record.update(status.borrow_and_update().clone());
        let (events, uid) = (self.events.0.clone(), uid.to_owned());
        self.tasks.spawn(async move {
            while status.changed().await.is_ok() {
                let newest = status.borrow_and_update().clone();
                if events.send(Event::Changed(uid.clone(), newest)).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Ends a pod in the background: after its farewell, in Kubernetes' order.
    pub(super) fn stop(&mut self, uid: &str, farewell: Duration, grace: Option<Duration>) {
        let Some(record) = self.records.get_mut(uid) else {
            return;
        };
        let (events, owned) = (self.events.0.clone(), uid.to_owned());
        match &record.stage {
            Stage::Running(handle) => {
                let handle = handle.clone();
                // A second, shorter order reaches the pod too: the runtime takes the shorter grace.
                let gone = !std::mem::replace(&mut record.stopping, true) || grace.is_some();
                if !gone {
                    return;
                }
                let (round, mut settled) = (self.round, self.settled.subscribe());
                self.tasks.spawn(async move {
                    tokio::time::sleep(farewell).await;
                    if !farewell.is_zero() {
                        // Rules that can't be put in place somewhere must not keep the pod for ever.
                        let settled = settled.wait_for(|settled| *settled >= round);
                        let _ = tokio::time::timeout(RULES_PATIENCE, settled).await;
                    }
                    handle.stop(grace).await;
                    // The cluster may have ended.
                    let _ = events.send(Event::Gone(owned)).await;
                });
            }
            // Something is under way: what comes of it is stopped when it comes.
            Stage::Starting | Stage::Network => {}
            Stage::Waiting(_) | Stage::Failed(..) => {
                self.records.remove(uid);
            }
        }
    }

    /// Stops what came to be after it was deleted.
    pub(super) fn sweep(&mut self) {
        let late = self
            .records
            .values()
            .filter(|record| record.deleting && !record.stopping);
        let uids: Vec<String> = late.map(|record| record.uid.clone()).collect();
        let grace = self.ending.then_some(super::LAST_GRACE);
        for uid in uids {
            self.stop(&uid, Duration::ZERO, grace);
        }
    }

    /// Writes volumes anew whose contents have changed: ConfigMaps, Secrets, labels, tokens that were due.
    pub(super) fn refresh_volumes(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self
            .records
            .values()
            .filter(|record| record.handle().is_some() && record.tokens.due().is_some_and(|due| due <= now))
            .map(|record| record.uid.clone())
            .collect();
        for uid in due {
            self.refresh_tokens(&uid);
        }
        let mut changed = Vec::new();
        for record in self
            .records
            .values()
            .filter(|record| !record.deleting && !record.volumes.is_empty())
        {
            let Some(handle) = record.handle() else { continue };
            // Something that a running pod needs is gone: it keeps what it has, as with kubelet.
            let Ok(new) = pod::volumes(&record.object, &self.facts(record)) else {
                continue;
            };
            for volume in new {
                let same = record.volumes.contains(&volume);
                if let (false, VolumeSource::Files { files, .. }) = (same, &volume.source) {
                    changed.push((
                        record.uid.clone(),
                        handle.clone(),
                        volume.name.clone(),
                        files.clone(),
                        volume,
                    ));
                }
            }
        }
        for (uid, handle, name, files, volume) in changed {
            if let Some(record) = self.records.get_mut(&uid) {
                record.volumes.retain(|old| old.name != name);
                record.volumes.push(volume);
            }
            self.tasks.spawn(async move {
                if let Err(error) = handle.update_volume(&name, &files).await {
                    tracing::warn!(%error, volume = name, "a volume could not be written anew");
                }
            });
        }
    }

    /// Brings the rules for service addresses up to date in the pods that have any.
    pub(super) fn apply_rules(&mut self) {
        let now = Instant::now();
        let udp = Arc::new(self.table.udp());
        let v6 = self.parts.net.gateway_v6().is_some();
        self.rules_due = false;
        let mut settled = self.apply_node_rules();
        for record in self.records.values_mut() {
            let wanted = if record.meshed { &udp } else { &self.table };
            let (Some(net), Stage::Running(_)) = (&record.net, &record.stage) else {
                continue;
            };
            let late = record.rules.retry.is_none_or(|retry| now >= retry);
            let current = record.rules.applied.as_ref().is_some_and(|applied| applied == wanted);
            settled &= current;
            // Where they failed it is told, and nobody waits for the next try.
            self.rules_due |= !current && record.rules.retry.is_none();
            if record.rules.busy || current || !late {
                continue;
            }
            record.rules.busy = true;
            let jumps = !record.rules.jumps;
            let (net, table, events, uid) = (net.clone(), wanted.clone(), self.events.0.clone(), record.uid.clone());
            self.tasks.spawn(async move {
                let applied = services::apply(&net, &table, jumps, v6).await;
                // The cluster may have ended.
                let _ = events.send(Event::Rules(uid, applied, table)).await;
            });
        }
        if settled {
            self.settled.send_replace(self.round);
        }
    }

    pub(super) fn refresh_tokens(&mut self, uid: &str) {
        let now = (Instant::now(), SystemTime::now());
        let Some(record) = self.records.get_mut(uid) else {
            return;
        };
        if let Err(error) = record
            .tokens
            .refresh(&self.parts.tokens, &record.object, &record.token_sources, now)
        {
            tracing::warn!(%error, pod = %record.key, "no token could be signed");
        }
    }
}

async fn start(
    runtime: &crate::runtime::Runtime,
    plan: PodPlan,
    net: PodNet,
    table: &Table,
    v6: bool,
) -> Result<PodHandle, StartError> {
    // Before the first container, which may call a Service with its first instruction.
    if *table != Table::default() {
        services::apply(&net, table, true, v6)
            .await
            .map_err(StartError::Rules)?;
    }
    Ok(runtime.start(plan, net).await?)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
