//! A running pod: its handle, and what is known of it.

mod hooks;
mod order;
mod run;
mod task;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::watch;

pub(crate) use self::task::start;
use crate::container::{self, InitPlan};
pub use crate::container::{Exec, ExecPlan, ExecStdio};
use crate::net::PodNet;
use crate::runtime::RuntimeError;
use crate::spec::{FileEntry, PodPlan};
use crate::volumes::Volumes;

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Init containers have not all done their part, or no main container has started.
    #[default]
    Pending,
    /// At least one main container runs or will be started again.
    Running,
    /// All main containers ended with 0 and stay so.
    Succeeded,
    /// All main containers ended, one of them badly; or an init container failed for good.
    Failed,
}

/// Which list a container is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An init container that has to end.
    Init,
    /// An init container that stays.
    Sidecar,
    /// A main container.
    Main,
}

/// What is known of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// All init containers have done their part.
    pub initialized: bool,
    /// All containers that count (main and sidecars) are ready, and the pod is not ending.
    pub ready: bool,
    /// It is being ended, or has done its work and ends its sidecars.
    pub ending: bool,
    /// Nothing of it runs any more, and nothing will.
    pub ended: bool,
    /// Init containers first, then main containers, in the plan's order.
    pub containers: Vec<ContainerStatus>,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Which list it is from.
    pub kind: Kind,
    /// What it does now.
    pub state: ContainerState,
    /// How its last run ended.
    pub last: Option<Terminated>,
    /// Its readiness probe succeeds (or it runs and has none); for an init container: it ended with 0.
    pub ready: bool,
    /// It runs and its startup probe has succeeded (or it has none).
    pub started: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Why a probe failed last, until it succeeds again.
    pub probe_failure: Option<String>,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Not running yet, or not yet again.
    Waiting {
        /// `PodInitializing`, `ContainerCreating`, `CrashLoopBackOff`.
        reason: &'static str,
        /// More, for people.
        message: String,
    },
    /// Running.
    Running {
        /// Since when.
        since: SystemTime,
        /// Its main process, as the host numbers it.
        pid: u32,
    },
    /// Ended for good.
    Terminated(Terminated),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminated {
    /// Exit code; 128 + the signal's number if a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, or `StartError` (then `message` says why).
    pub reason: &'static str,
    /// More, for people.
    pub message: String,
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub finished: SystemTime,
}

/// A pod. Cheap to clone; all clones are the same pod.
#[derive(Debug, Clone)]
pub struct PodHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: PodPlan,
    net: PodNet,
    logs: PathBuf,
    status: watch::Sender<PodStatus>,
    /// How the pod is asked to end: the shortest grace period anyone granted.
    stop: watch::Sender<Option<Duration>>,
    /// Gone when the pod has ended.
    volumes: Mutex<Option<Arc<Volumes>>>,
    /// The containers that run now, by name: where to enter them, and as whom. Held for a look only.
    live: Mutex<BTreeMap<String, Live>>,
}

#[derive(Debug, Clone)]
struct Live {
    pidfd: Arc<OwnedFd>,
    init: Arc<InitPlan>,
}

impl PodHandle {
    /// The plan it was started from.
    pub fn plan(&self) -> &PodPlan {
        &self.shared.plan
    }

    /// What is known of the pod, now and as it changes.
    pub fn status(&self) -> watch::Receiver<PodStatus> {
        self.shared.status.subscribe()
    }

    /// Its network.
    pub fn net(&self) -> &PodNet {
        &self.shared.net
    }

    /// Where a container's log is, if the pod has that container.
    pub fn log(&self, container: &str) -> Option<PathBuf> {
        let plan = &self.shared.plan;
        let known = plan.all_containers().any(|one| one.name == container);
        known.then(|| crate::logs::file(&self.shared.logs, &plan.namespace, &plan.name, container))
    }

    /// Replaces the files of a [`crate::spec::VolumeSource::Files`] all at once, as kubelet does (`..data` is swapped).
    ///
    /// # Errors
    /// There is no such volume, or the files could not be written; the old ones are still there then.
    pub async fn update_volume(&self, volume: &str, files: &[FileEntry]) -> Result<(), RuntimeError> {
        let volumes = self
            .shared
            .volumes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (name, files) = (volume.to_owned(), files.to_vec());
        let work = tokio::task::spawn_blocking(move || volumes.and_then(|volumes| volumes.update(&name, &files)));
        match work.await {
            Ok(Some(done)) => done.map_err(|source| self.step(format!("updating the volume {volume:?}"), source)),
            Ok(None) => Err(RuntimeError::NoVolume {
                pod: self.name(),
                volume: volume.to_owned(),
            }),
            Err(error) => Err(self.step(format!("updating the volume {volume:?}"), io::Error::other(error))),
        }
    }

    /// Ends the pod in Kubernetes' order (`grace`: the plan's by default), and resolves when nothing of it is left. A
    /// second call with a shorter grace shortens it. Cancel safe: the pod goes on ending.
    pub async fn stop(&self, grace: Option<Duration>) {
        let grace = grace.unwrap_or(self.shared.plan.grace);
        self.shared
            .stop
            .send_modify(|asked| *asked = Some(asked.map_or(grace, |before| before.min(grace))));
        // An error would mean that the sender, which `shared` holds, is gone.
        let _ = self.status().wait_for(|status| status.ended).await;
    }

    /// Runs a command in a container, as the container's user, with its environment and rights.
    ///
    /// # Errors
    /// There is no such container, it isn't running, or it can't be entered.
    pub async fn exec(&self, plan: ExecPlan) -> Result<Exec, RuntimeError> {
        let spec = &self.shared.plan;
        let container = match &plan.container {
            Some(name) => name.clone(),
            None => spec
                .containers
                .first()
                .map(|first| first.name.clone())
                .unwrap_or_default(),
        };
        if !spec.all_containers().any(|one| one.name == container) {
            let known: Vec<&str> = spec.all_containers().map(|one| one.name.as_str()).collect();
            return Err(RuntimeError::NoContainer {
                pod: self.name(),
                container,
                known: known.join(", "),
            });
        }
        let live = self
            .shared
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&container)
            .cloned();
        let Some(live) = live else {
            return Err(RuntimeError::NotRunning {
                pod: self.name(),
                container,
            });
        };
        let started = container::exec(live.pidfd, live.init, plan).await;
        started.map_err(|source| self.step(format!("running a command in the container {container}"), source))
    }

    /// Opens a TCP connection to `port` from within the pod (see [`PodNet::dial`]).
    ///
    /// # Errors
    /// The last refusal.
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        self.net().dial(port).await
    }

    fn name(&self) -> String {
        format!("{}/{}", self.shared.plan.namespace, self.shared.plan.name)
    }

    fn step(&self, step: String, source: io::Error) -> RuntimeError {
        RuntimeError::Step {
            step: format!("pod {}: {step}", self.name()),
            source,
        }
    }
}
