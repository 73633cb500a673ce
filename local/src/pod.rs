//! A running pod: its handle, and what is known of it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::net::PodNet;
use crate::runtime::RuntimeError;
use crate::spec::FileEntry;

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
    /// [`PodHandle::stop`] was called.
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
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Not running yet, or not yet again.
    Waiting {
        /// `PodInitializing`, `ContainerCreating`, `CrashLoopBackOff`, `RunContainerError`.
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
pub struct PodHandle {}

/// What to run in a container.
#[derive(Debug)]
pub struct ExecPlan {
    /// In which container; the first main container by default.
    pub container: Option<String>,
    /// The command; the first is looked up in the container's PATH.
    pub command: Vec<String>,
    /// Added to the container's environment (such as TERM).
    pub env: Vec<(String, String)>,
    /// Where its input and output go.
    pub stdio: ExecStdio,
}

/// Where input and output of an [`ExecPlan`] go.
#[derive(Debug)]
pub enum ExecStdio {
    /// To these descriptors; `None` is `/dev/null`.
    Fds {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// To a new terminal of the container; [`Exec::terminal`] is its other end.
    Terminal {
        /// Size at the start.
        rows: u16,
        /// Size at the start.
        columns: u16,
    },
}

/// A command that runs in a container. Dropping it kills the command.
#[derive(Debug)]
pub struct Exec {
    /// The controlling end, if it runs in a terminal: read, write, and set its size (`TIOCSWINSZ`).
    pub terminal: Option<OwnedFd>,
}

impl Exec {
    /// Waits for the end: the exit code (128 + n for signal n; 126 or 127 if it could not be run). Cancel safe.
    pub async fn wait(&mut self) -> i32 {
        todo!()
    }
}

impl PodHandle {
    /// What is known of the pod, now and as it changes.
    pub fn status(&self) -> watch::Receiver<PodStatus> {
        todo!()
    }

    /// Its network.
    pub fn net(&self) -> &PodNet {
        todo!()
    }

    /// Replaces the files of a [`crate::spec::VolumeSource::Files`] all at once, as kubelet does (`..data` is swapped).
    ///
    /// # Errors
    /// There is no such volume, or the files could not be written; the old ones are still there then.
    pub async fn update_volume(&self, volume: &str, files: &[FileEntry]) -> Result<(), RuntimeError> {
        let _ = (volume, files);
        todo!()
    }

    /// Ends the pod in Kubernetes' order (`grace`: the plan's by default), and resolves when nothing of it is left. A
    /// second call with a shorter grace shortens it. Cancel safe: the pod goes on ending.
    pub async fn stop(&self, grace: Option<Duration>) {
        let _ = grace;
        todo!()
    }

    /// Runs a command in a container, as the container's user, with its environment and rights.
    ///
    /// # Errors
    /// There is no such container, it isn't running, or it can't be entered.
    pub async fn exec(&self, plan: ExecPlan) -> Result<Exec, RuntimeError> {
        let _ = plan;
        todo!()
    }

    /// Opens a TCP connection to `port` from within the pod (see [`PodNet::dial`]).
    ///
    /// # Errors
    /// The last refusal.
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        self.net().dial(port).await
    }
}
