//! The cluster: API server, controllers and kubelet in one task.
//!
//! In: what the manifests ask for, what the runtime reports, what people ask. Out: pods started and stopped, objects for
//! the control plane, names, service addresses. Level-triggered: after every event all that there is is compared with all
//! that there is to be (`Cluster::reconcile`), so no event has to be remembered, and a failed step is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use weft_control::objects::{Object, Problem};
use weft_daemon::drain::Tasks;
use weft_injector::settings::InjectSettings;

use crate::dns::Zone;
use crate::manifest::{Desired, Facts, Files, Key, Reader};
use crate::net::Net;
use crate::objects::Store;
use crate::runtime::Runtime;
use crate::services::Table;
use crate::spec::Dns;
use crate::token::Tokens;

pub mod addresses;
pub mod beside;
mod build;
mod convergence;
mod imports;
mod jobs;
mod node;
pub mod offline;
mod publish;
mod record;
mod refused;
mod report;
mod review;
mod start;
pub mod system;
mod tell;

pub use imports::Imports;
use imports::Taken;
pub use jobs::Jobs;
pub use record::Found;
use record::Record;
pub use report::{is_fatal, problem};
pub use review::{Review, combined};
pub use tell::{Late, NEWS, News, Report, Waiting};

use addresses::ServiceAddresses;
use jobs::JobRun;
use node::NodeSide;
use record::Event;
use tell::Telling;

/// What a cluster is made from.
pub struct Parts {
    /// Its name.
    pub name: String,
    /// Starts pods.
    pub runtime: Runtime,
    /// Makes their networks.
    pub net: Net,
    /// Where finished objects go.
    pub store: Store,
    /// The addresses of Services.
    pub addresses: ServiceAddresses,
    /// Signs tokens.
    pub tokens: Arc<Tokens>,
    /// What injection adds.
    pub inject: InjectSettings,
    /// What the mesh itself runs.
    pub system: system::System,
    /// What the control plane will say of the manifests.
    pub review: Review,
    /// Names, for the DNS server.
    pub zone: watch::Sender<Arc<Zone>>,
    /// For people who watch.
    pub news: mpsc::Sender<News>,
}

/// The cluster's state. Owned by one task.
pub struct Cluster {
    parts: Parts,
    tasks: Tasks,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    reader: Reader,
    /// What the files ask for, and what is imported beside.
    desired: Desired,
    written: Written,
    imports: Taken,
    /// Problems of the manifests; of the files, too.
    read_problems: Vec<Problem>,
    /// Problems that show only when pods are made.
    problems: Vec<Problem>,
    telling: Telling,
    /// Every pod, also those that are going, by uid.
    records: BTreeMap<String, Record>,
    cluster_ips: BTreeMap<Key, Vec<std::net::IpAddr>>,
    table: Arc<Table>,
    node: NodeSide,
    /// How often things were compared, and after which time all pods had the rules for service addresses that came of it.
    round: u64,
    settled: watch::Sender<u64>,
    /// Some running pod does not have them yet.
    rules_due: bool,
    trust: Option<Arc<Files>>,
    order: u64,
    /// How far Jobs are.
    jobs: BTreeMap<Key, JobRun>,
    /// Pods that are to be made when others are ready.
    unmade: usize,
    ending: bool,
}

/// The user's objects, as the files say them.
#[derive(Default)]
struct Written {
    objects: Vec<Arc<Object>>,
    /// What is wrong with them, before the control plane is asked.
    problems: Vec<Problem>,
}

/// What is asked of a cluster from outside its task.
pub enum Request {
    /// New manifests: all objects, and what is wrong with their files.
    Manifests(Vec<Arc<Object>>, Vec<Problem>),
    /// What is imported from other clusters.
    Imports(Box<Imports>),
    /// The trust bundle, for the ConfigMap `weft-trust`.
    Trust(Arc<Files>),
    /// The state of everything, as JSON.
    Status(oneshot::Sender<Value>),
    /// Routes and policies in the form that acts: where one is refused now, its last good form.
    Acting(oneshot::Sender<Vec<Value>>),
    /// A pod by name, by the beginning of its name, or as `deploy/NAME`.
    Find {
        /// The namespace.
        namespace: String,
        /// What was asked for.
        pod: String,
        /// Where the answer goes; an error is for people.
        answer: oneshot::Sender<Result<Found, String>>,
    },
    /// End all pods; answered when they are gone.
    End(oneshot::Sender<()>),
}

/// Asks a cluster.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Request>);

/// Requests and events that may wait: each pod has at most a handful of events under way.
const QUEUE: usize = 1024;
/// How long a pod that is to go is known to be going before it is told: by then its peers send it nothing new. Writing
/// and reading the change takes a few milliseconds, streaming it as many; the rest is for a machine under load.
pub(crate) const FAREWELL: Duration = Duration::from_millis(500);
/// How long it is waited, beyond that, for pods outside the mesh to have rules without the pod that is to go: a connection
/// that still goes to it when it is gone hears nothing.
const RULES_PATIENCE: Duration = Duration::from_secs(5);
/// How long a step that failed waits.
const RETRY: Duration = Duration::from_secs(2);
/// At the end of the mesh nobody waits for connections to drain.
const LAST_GRACE: Duration = Duration::from_secs(2);

impl Handle {
    /// Asks for something; the answer comes where the request says. False: the cluster is gone.
    pub async fn send(&self, request: Request) -> bool {
        self.0.send(request).await.is_ok()
    }

    /// The state of everything. None: the cluster is gone.
    pub async fn status(&self) -> Option<Value> {
        let (sender, answer) = oneshot::channel();
        self.send(Request::Status(sender)).await;
        answer.await.ok()
    }

    /// Routes and policies in the form that acts.
    pub async fn acting(&self) -> Vec<Value> {
        let (sender, answer) = oneshot::channel();
        self.send(Request::Acting(sender)).await;
        answer.await.unwrap_or_default()
    }

    /// A pod.
    ///
    /// # Errors
    /// There is none, or several; for people.
    pub async fn find(&self, namespace: &str, pod: &str) -> Result<Found, String> {
        let (answer, found) = oneshot::channel();
        self.send(Request::Find {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            answer,
        })
        .await;
        found.await.unwrap_or_else(|_| Err("the mesh is ending".to_owned()))
    }
}

impl Cluster {
    /// A cluster without pods, and how to ask it.
    pub fn new(parts: Parts, tasks: &Tasks) -> (Self, Handle, mpsc::Receiver<Request>) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let cluster = Self {
            reader: Reader::new(!parts.net.on_wire().is_empty()),
            parts,
            tasks: tasks.named("pods"),
            events: mpsc::channel(QUEUE),
            desired: Desired::default(),
            written: Written::default(),
            imports: Taken::default(),
            read_problems: Vec::new(),
            problems: Vec::new(),
            telling: Telling::default(),
            records: BTreeMap::new(),
            cluster_ips: BTreeMap::new(),
            table: Arc::default(),
            node: NodeSide::default(),
            round: 0,
            settled: watch::Sender::new(0),
            rules_due: false,
            trust: None,
            order: 0,
            jobs: BTreeMap::new(),
            unmade: 0,
            ending: false,
        };
        (cluster, Handle(sender), requests)
    }

    /// Runs until all pods are gone after [`Request::End`], or nobody asks any more.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut ended = None;
        loop {
            let next = self.next_due();
            tokio::select! {
                biased; // what the world did before what people want of it
                Some(event) = self.events.1.recv() => {
                    self.happened(event);
                    while let Ok(event) = self.events.1.try_recv() {
                        self.happened(event);
                    }
                }
                request = requests.recv() => match request {
                    Some(Request::End(answer)) => {
                        self.end();
                        ended = Some(answer);
                    }
                    Some(request) => self.asked(request),
                    None => return,
                },
                () = tokio::time::sleep_until(next.into()) => {}
            }
            self.reconcile();
            if self.ending && self.records.is_empty() {
                // Whoever asked may have gone.
                let _ = ended.take().map(|answer| answer.send(()));
                return;
            }
        }
    }

    fn asked(&mut self, request: Request) {
        match request {
            Request::Manifests(objects, problems) => {
                let (whole, strangers) = self.parts.system.with(objects.clone());
                let (desired, found) = self.reader.read(&whole);
                self.desired = desired;
                let empty = objects.is_empty() && problems.is_empty();
                let nothing = empty.then(|| review::nothing(&self.parts.system.manifests));
                let nothing = nothing.into_iter().collect();
                let problems = [problems, strangers, found, nothing].concat();
                self.written = Written { objects, problems };
                self.imports.begin_anew();
                self.review();
            }
            Request::Imports(told) => {
                self.imports.hear(*told);
                self.review();
            }
            Request::Trust(files) => self.trust = Some(files),
            // Whoever asked may have gone.
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Acting(answer) => drop(answer.send(self.parts.review.acting())),
            Request::Find { namespace, pod, answer } => drop(answer.send(self.find(&namespace, &pod))),
            Request::End(_) => {}
        }
    }

    /// Puts what is imported beside what the files ask for, and looks for what is wrong with all of it.
    fn review(&mut self) {
        let Written { objects, problems } = &self.written;
        let (added, limited) = self.imports.put_beside(&mut self.desired, &self.parts.name, objects);
        let whole = [objects.as_slice(), &added].concat();
        let refused = self.parts.review.problems(&whole, self.desired.workloads());
        self.read_problems = combined([problems.clone(), limited, refused].concat());
    }

    /// Compares what there is with what there is to be, and takes every step that can be taken now.
    fn reconcile(&mut self) {
        self.round += 1;
        self.problems.clear();
        if !self.ending {
            self.converge();
            self.advance();
            self.refresh_volumes();
        }
        self.sweep();
        self.publish();
        self.apply_rules();
        self.tell();
    }

    fn end(&mut self) {
        self.ending = true;
        for record in self.records.values_mut() {
            record.delete();
        }
        for uid in self.records.keys().cloned().collect::<Vec<_>>() {
            self.stop(&uid, Duration::ZERO, Some(LAST_GRACE));
        }
    }

    /// When something is due without an event: a token, a retry, a pod that will have been ready for long enough.
    fn next_due(&self) -> Instant {
        let now = Instant::now();
        let soon = now + Duration::from_millis(1);
        let records = self.records.values().filter_map(|record| record.due(now));
        let available = self.records.values().filter_map(|record| {
            let owner = record.owner.as_ref()?;
            let due = record.ready_since? + self.min_ready(owner);
            (due > now).then_some(due)
        });
        let jobs = self
            .desired
            .jobs
            .iter()
            .filter_map(|(key, job)| self.jobs.get(key)?.due(job));
        records
            .chain(available)
            .chain(
                jobs.chain(self.telling.due)
                    .chain(self.node.due())
                    .map(|due| due.max(soon)),
            )
            .min()
            .unwrap_or(now + Duration::from_secs(60))
    }

    /// What a pod's plan depends on besides the pod.
    fn facts<'a>(&'a self, record: &'a Record) -> Facts<'a> {
        Facts {
            dns: self.dns(&record.key.namespace),
            config_maps: &self.desired.config_maps,
            secrets: &self.desired.secrets,
            trust: self.trust.as_deref(),
            tokens: record.tokens.all(),
            ours: &record.ours,
        }
    }

    fn dns(&self, namespace: &str) -> Dns {
        let domain = crate::dns::DOMAIN;
        Dns {
            nameservers: self.parts.addresses.dns(),
            searches: vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ],
            options: vec!["ndots:5".to_owned()],
        }
    }
}

#[cfg(test)]
mod tests;
