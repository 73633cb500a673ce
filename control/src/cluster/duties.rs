//! What one replica keeps in the cluster, the one that leads: trust bundles, events on pods without a sidecar and on namespaces
//! that refuse it, the status of objects, what imports come to, and what is known of other clusters. What there is to be told of it
//! is found by every replica.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use weft_daemon::drain::Tasks;
use weft_daemon::prometheus::Text;

use super::Cluster;
use super::api::Fault;
use super::events::Teller;
use super::imports::Imports;
use super::lease::Lease;
use super::pause::Pause;
use super::peers::Peers;
use super::replicas;
use super::secured;
use super::shown::Shown;
use super::statuses::{self, Statuses};
use super::trust::{Again, Trust};
use super::unmeshed::{self, Finder, Unmeshed};
use crate::peering::Copies;
use crate::serve::desk::Desk;

/// Changes that come together are acted on together.
const GATHER: Duration = Duration::from_millis(200);
/// Everything is looked at again after this, whether it changed or not: owners are told again, failures tried again.
const LOOK: Duration = Duration::from_secs(300);

/// What is told of it all. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Duties {
    leads: watch::Receiver<bool>,
    /// Locked to copy it in and out.
    told: Arc<Mutex<Told>>,
    statuses: statuses::Told,
    imports: statuses::Told,
    /// Since when proxies can connect.
    serving: Arc<OnceLock<Instant>>,
}

#[derive(Clone, Debug, Default)]
struct Told {
    trust: BTreeMap<String, String>,
    unmeshed: Vec<Unmeshed>,
}

/// The same, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DutiesStatus {
    /// Whether this replica writes to the cluster.
    pub(crate) leads: bool,
    /// Namespaces whose trust bundle cannot be kept, and why. Of the replica that leads.
    pub(crate) trust: BTreeMap<String, String>,
    /// Pods that should have a sidecar and have none.
    pub(crate) unmeshed: Vec<Unmeshed>,
    /// Objects whose status cannot be written, and why; at most a few. Of the replica that leads.
    pub(crate) statuses: BTreeMap<String, String>,
    /// Imports that are not as they should be, and why; at most a few. Of the replica that leads.
    pub(crate) imports: BTreeMap<String, String>,
}

/// The task that does it.
struct Work {
    cluster: Cluster,
    trust: Trust,
    shown: Arc<Shown>,
    maps: Arc<Shown>,
    duties: Duties,
    finder: Finder,
    teller: Teller,
}

impl Duties {
    /// Begins. `data` is what the trust bundle says. `imports`: how many imports of peers may become objects; `None`: this cluster is
    /// not linked with others. `copies`: what is to be kept of peers.
    pub(crate) fn begin(
        cluster: &Cluster,
        namespace: &str,
        data: BTreeMap<String, String>,
        shown: Arc<Shown>,
        desk: &Desk,
        (imports, copies): (Option<usize>, Copies),
        tasks: &Tasks,
    ) -> Self {
        let lease = Lease::new(cluster.api.clone(), namespace);
        let duties = Self {
            leads: lease.leads(),
            told: Arc::default(),
            statuses: statuses::Told::default(),
            imports: statuses::Told::default(),
            serving: Arc::default(),
        };
        let replicas = cluster.follow(vec![replicas::maps(namespace)], tasks);
        let statuses = Statuses::new(
            (cluster.api.clone(), namespace, lease.holder()),
            desk.clone(),
            duties.leads.clone(),
            duties.statuses.clone(),
            (replicas, shown.clone()),
            duties.serving.clone(),
        );
        let lease_tasks = tasks.named("lease");
        lease_tasks.spawn({
            let (tasks, shown) = (lease_tasks.clone(), shown.clone());
            async move {
                // Who knows nothing yet, or cannot, leaves it to those who do.
                tokio::select! {
                    () = tasks.draining() => return,
                    () = shown.all_listed() => {}
                }
                lease.run(tasks).await;
            }
        });
        let work = Work {
            cluster: cluster.clone(),
            trust: Trust {
                api: cluster.api.clone(),
                data,
                own: namespace.to_owned(),
            },
            shown: shown.clone(),
            maps: cluster.follow(vec![Trust::maps()], tasks),
            duties: duties.clone(),
            finder: Finder::default(),
            teller: Teller::default(),
        };
        let status_tasks = tasks.named("statuses");
        status_tasks.spawn(statuses.keep(status_tasks.clone()));
        // Who is not linked with others may write nothing of theirs, and need not: ServiceExports may be somebody else's.
        if let Some(most) = imports {
            let imports = Imports {
                api: cluster.api.clone(),
                desk: desk.clone(),
                shown: work.shown.clone(),
                leads: duties.leads.clone(),
                told: duties.imports.clone(),
                most,
            };
            until_draining(&tasks.named("imports"), imports.run());
        }
        let peers = Peers {
            api: cluster.api.clone(),
            namespace: namespace.to_owned(),
            shown,
            leads: duties.leads.clone(),
            copies,
        };
        until_draining(&tasks.named("peers"), peers.run());
        until_draining(&tasks.named("duties"), work.run());
        duties
    }

    /// Proxies can connect from now on.
    pub(crate) fn serving(&self) {
        self.serving.get_or_init(Instant::now);
    }

    /// For people.
    pub(crate) fn status(&self) -> DutiesStatus {
        let Told { trust, unmeshed } = self.told().clone();
        DutiesStatus {
            leads: *self.leads.borrow(),
            trust,
            unmeshed,
            statuses: self.statuses.get().failures.clone(),
            imports: self.imports.get().failures.clone(),
        }
    }

    /// For scrapers.
    pub(crate) fn write(&self, text: &mut Text) {
        let status = self.status();
        text.gauge("weft_control_leads", "Whether this replica writes to the cluster.")
            .sample(&[], u64::from(status.leads));
        text.gauge(
            "weft_control_trust_bundles_failed",
            "Namespaces whose trust bundle this replica could not keep.",
        )
        .sample(&[], status.trust.len());
        let (statuses, imports) = (self.statuses.get().clone(), self.imports.get().clone());
        for (name, help, told) in [
            (
                "weft_control_status_writes_total",
                "Writes of the status of objects, by what came of them. A conflict is tried again.",
                &statuses,
            ),
            (
                "weft_control_import_writes_total",
                "Writes of what imports come to, by what came of them. A conflict is tried again.",
                &imports,
            ),
        ] {
            let writes = text.counter(name, help);
            for (result, count) in [
                ("written", told.written),
                ("conflict", told.conflicts),
                ("failed", told.failed),
            ] {
                writes.sample(&[("result", result)], count);
            }
        }
        text.gauge("weft_control_imports_failed", "Imports that are not as they should be.")
            .sample(&[], imports.failures.len());
        let pods = text.gauge(
            "weft_unmeshed_pods",
            "Pods of labelled namespaces that should have a sidecar and have none.",
        );
        for unmeshed in &status.unmeshed {
            pods.sample(&[("namespace", &unmeshed.namespace)], unmeshed.count);
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn until_draining(tasks: &Tasks, work: impl Future<Output = ()> + Send + 'static) {
    let draining = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = draining.draining() => {}
            () = work => {}
        }
    });
}

impl Work {
    async fn run(mut self) {
        let mut revisions = (self.shown.revisions(), self.maps.revisions());
        let mut leads = self.duties.leads.clone();
        let mut pause = Pause::default();
        let mut not_before = Instant::now();
        loop {
            revisions.0.mark_unchanged();
            revisions.1.mark_unchanged();
            let leading = *leads.borrow_and_update();
            // What is not listed yet is not missing.
            let known = self.shown.has_begun() && self.maps.is_complete();
            let retry = not_before <= Instant::now();
            let again = match known {
                true => self.work(leading, retry).await,
                false => Again::No,
            };
            let next = match again {
                // However much changes meanwhile.
                Again::Away => {
                    pause.wait().await;
                    continue;
                }
                Again::Later => {
                    if retry {
                        not_before = Instant::now() + pause.draw();
                    }
                    not_before
                }
                Again::No => {
                    pause.reset();
                    Instant::now() + LOOK
                }
            };
            tokio::select! {
                _ = revisions.0.changed() => {}
                _ = revisions.1.changed() => {}
                _ = leads.changed() => {}
                () = sleep_until(next) => {}
            }
            sleep(GATHER).await;
        }
    }

    /// Finds and does what is to be done; what was refused only if it is time to `retry`.
    async fn work(&mut self, leading: bool, retry: bool) -> Again {
        let found = self.finder.find(&self.shown, &self.trust.own);
        self.duties.told().unmeshed = unmeshed::by_namespace(&found);
        if !leading {
            self.duties.told().trust.clear();
            return Again::No;
        }
        let failed = self.duties.told().trust.clone();
        let (failures, again) = self
            .trust
            .keep(&self.shown, &self.maps, &self.duties.leads, (&failed, retry))
            .await;
        for (namespace, why) in &failures {
            if self.duties.told().trust.get(namespace) != Some(why) {
                tracing::warn!(namespace, why, "the trust bundle is not kept");
            }
        }
        self.duties.told().trust = failures;
        if again == Again::Away {
            return again;
        }
        let secured = secured::find(&self.shown, &self.trust.own);
        let told = async {
            let left = self.teller.tell(&self.cluster.api, &secured).await?;
            Ok::<_, Fault>(left | self.teller.tell(&self.cluster.api, &found).await?)
        };
        match told.await {
            Ok(left) => again.max(if left { Again::Later } else { Again::No }),
            Err(fault) => {
                tracing::debug!(error = %fault, "events wait for the API server");
                Again::Away
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::kinds::Kind;
    use super::super::object;
    use super::super::tests::server;
    use super::super::trust::INJECT_LABEL;
    use super::*;

    fn namespace(kind: &Kind, name: &str, version: u64) -> super::super::shown::Read {
        let metadata = json!({
            "name": name, "uid": name, "resourceVersion": version.to_string(), "labels": {INJECT_LABEL: "enabled"}
        });
        object::read(kind, "v1", json!({"metadata": metadata}))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_tried_ever_more_rarely_and_keeps_no_other_namespace_waiting() {
        let (mut server, api) = server();
        let kind = Kind::all().into_iter().find(|kind| kind.kind == "Namespace").unwrap();
        let shown = Arc::new(Shown::new(std::slice::from_ref(&kind)));
        shown.listed(&kind, "v1", 1, 0, vec![namespace(&kind, "bad", 1)]);
        assert!(shown.take().is_some());
        let maps = Arc::new(Shown::new(&[]));
        let (_leads, leads) = watch::channel(true);
        let work = Work {
            cluster: Cluster { api: api.clone() },
            trust: Trust {
                api,
                data: BTreeMap::new(),
                own: String::new(),
            },
            shown: shown.clone(),
            maps,
            duties: Duties {
                leads,
                told: Arc::default(),
                statuses: statuses::Told::default(),
                imports: statuses::Told::default(),
                serving: Arc::default(),
            },
            finder: Finder::default(),
            teller: Teller::default(),
        };
        let duties = work.duties.clone();
        let running = tokio::task::spawn(work.run());

        let (begun, mut refused, mut version) = (Instant::now(), 0, 1);
        while begun.elapsed() < Duration::from_secs(60) {
            version += 1;
            shown.put(&kind, namespace(&kind, "bad", version));
            let asked = tokio::time::timeout(Duration::from_millis(100), server.next()).await;
            if let Ok(asked) = asked {
                asked.refuse(403, "Forbidden");
                refused += 1;
            }
        }
        assert!((8..20).contains(&refused), "{refused}");
        assert!(duties.status().trust["bad"].contains("403 Forbidden"));

        let begun = Instant::now();
        shown.put(&kind, namespace(&kind, "good", version + 1));
        loop {
            let asked = server.next().await;
            if asked.path.contains("/good/") {
                break asked.answer(201, &json!({}));
            }
            asked.refuse(403, "Forbidden");
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        running.abort();
    }
}
