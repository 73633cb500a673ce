//! One container: its processes, from outside (the supervisor) and from inside (its pid 1).
//!
//! In: an [`InitPlan`] and the pod's network. Out: [`Running`], which ends when the container's main process does, and
//! takes everything of the container with it.

mod exec;
mod identity;
mod init;
pub(crate) mod plan;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use self::exec::{Exec, ExecPlan, ExecStdio};
pub(crate) use self::exec::{enter, exec};
pub(crate) use self::identity::Identity;
pub(crate) use self::init::init;
use crate::logs::LogFile;
use crate::mounts::Context;
use crate::mounts::root::RootPlan;
use crate::net::PodNet;
use crate::sandbox::BIN_DIR;
use crate::stage;

/// What a container's pid 1 has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InitPlan {
    pub(crate) hostname: String,
    pub(crate) root: RootPlan,
    pub(crate) identity: Identity,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: std::path::PathBuf,
}

/// A running container.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pidfd: Arc<OwnedFd>,
    said: tokio::io::Lines<BufReader<UnixStream>>,
    /// What its pid 1 said last: the signal that ended the command.
    signal: Option<i32>,
    /// Its log, until its pipes end.
    written: TaskTracker,
    /// The main process, as the host numbers it.
    pub(crate) host_pid: u32,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// 128 + the signal's number if a signal ended it.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

/// The pipes of a container end with its last process, unless it has handed them to another container over a volume.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Starts a container, and returns when its command runs. An error is for people, and says why the command can't run.
/// Not cancel safe in its result only: a container started by a dropped call is killed.
pub(crate) async fn start(plan: &InitPlan, net: &PodNet, log: &LogFile) -> io::Result<Running> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = std::process::Command::new(Path::new(BIN_DIR).join("weft"));
    command.arg(stage::STAGE).arg("container").env_clear();
    stage::attach(&mut command, plan)?;
    let mut command = Command::from(command);
    command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true);
    let runtime = tokio::runtime::Handle::current();
    let mut child = net
        .run(move || {
            let namespaces = CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS;
            unshare(namespaces).context("making a container's namespaces")?;
            let _guard = runtime.enter();
            command.spawn().context("starting a container's first process")
        })
        .await?;
    let pipes = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
    let written = log.collect(stdout, stderr);
    let pid = child
        .id()
        .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    let pidfd = pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?;
    let mut said = BufReader::new(UnixStream::from_std(ours)?).lines();
    let first = said.next_line().await?.unwrap_or_default();
    match first.split_once(' ') {
        Some(("started", pid)) => {
            let host_pid = pid.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            Ok(Running {
                child,
                pidfd: Arc::new(pidfd),
                said,
                signal: None,
                written,
                host_pid,
            })
        }
        Some(("failed", why)) => Err(io::Error::other(why.to_owned())),
        _ => Err(io::Error::other("its first process ended before the command ran")),
    }
}

impl Running {
    /// Waits for the end of the main process, and until all that the container printed is in its log. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Ended {
        // The last words of pid 1; none if it was killed itself, or if they have been heard already.
        if let Ok(Some(line)) = self.said.next_line().await {
            self.signal = line.strip_prefix("signal ").and_then(|number| number.parse().ok());
        }
        let ended = match self.child.wait().await {
            Ok(status) => {
                let signal = self.signal.or(status.signal());
                Ended {
                    code: status.code().unwrap_or(128 + signal.unwrap_or(0)),
                    signal,
                }
            }
            Err(_) => Ended {
                code: 255,
                signal: self.signal,
            },
        };
        // Who follows the log is told of the end, and must find everything there.
        if timeout(LAST_WORDS, self.written.wait()).await.is_err() {
            tracing::debug!("something outside a container holds its output open");
        }
        ended
    }

    /// Asks the main process to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends every process of the container at once.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // Reaped, and so without an id, means that there is nobody left to signal.
        if let Some(id) = self.child.id() {
            let _ = kill(Pid::from_raw(id.cast_signed()), signal);
        }
    }

    /// Where its namespaces are, for [`exec`].
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_container_has_ended_when_all_that_it_printed_is_in_its_log() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"signal 9\n").await.unwrap();
        drop(theirs);
        let mut child = Command::new("false").spawn().unwrap();
        let (last_line, to_write) = oneshot::channel::<()>();
        let written = TaskTracker::new();
        written.spawn(to_write);
        written.close();
        child.wait().await.unwrap();
        let mut running = Running {
            pidfd: Arc::new(pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap()),
            child,
            said: BufReader::new(ours).lines(),
            signal: None,
            written,
            host_pid: 0,
        };
        let early = timeout(Duration::from_millis(20), running.wait()).await;
        assert!(early.is_err(), "{early:?}");
        last_line.send(()).unwrap();
        let ended = Ended {
            code: 1,
            signal: Some(9), // heard before it was asked again
        };
        assert_eq!(running.wait().await, ended);
    }
}
