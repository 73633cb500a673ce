//! Commands that are run in a running container.
//!
//! A thread enters the container's namespaces but for its mounts, and starts this very program there, from the mesh's own
//! mounts. It enters the rest, gives its rights away, and becomes the command: a container's own files are never executed
//! with rights that the container does not have.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::InitPlan;
use super::identity::{Identity, Standing};
use crate::mounts::Context;
use crate::net::on_thread;
use crate::sandbox::BIN_DIR;
use crate::stage;

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
    child: Child,
}

impl Exec {
    /// Waits for the end: the exit code (128 + n for signal n; 126 or 127 if it could not be run). Cancel safe.
    pub async fn wait(&mut self) -> i32 {
        match self.child.wait().await {
            Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            Err(_) => 255,
        }
    }
}

/// What the new process has to do.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    identity: Identity,
    working_dir: PathBuf,
    command: Vec<String>,
    env: Vec<(String, String)>,
    /// Standard input is a terminal, which is to be the command's own.
    terminal: bool,
}

/// Runs a command in the container behind `pidfd`, which was started from `init`.
pub(crate) async fn exec(pidfd: Arc<OwnedFd>, init: Arc<InitPlan>, plan: ExecPlan) -> io::Result<Exec> {
    let entry = Entry {
        identity: init.identity.clone(),
        working_dir: init.working_dir.clone(),
        command: plan.command,
        env: init.env.iter().cloned().chain(plan.env).collect(),
        terminal: matches!(plan.stdio, ExecStdio::Terminal { .. }),
    };
    let mut command = std::process::Command::new(Path::new(BIN_DIR).join("weft"));
    command.arg(stage::STAGE).arg("exec").env_clear();
    stage::attach(&mut command, &entry)?;
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    let terminal = match plan.stdio {
        ExecStdio::Fds { stdin, stdout, stderr } => {
            for fd in [&stdin, &stdout, &stderr].into_iter().flatten() {
                init.identity.own_pipe(fd)?;
            }
            command.stdin(stdio(stdin)).stdout(stdio(stdout)).stderr(stdio(stderr));
            None
        }
        ExecStdio::Terminal { rows, columns } => {
            let (pidfd, identity) = (Arc::clone(&pidfd), init.identity.clone());
            let (ours, theirs) = on_thread(move || open_terminal(&pidfd, &identity, rows, columns)).await?;
            command
                .stdin(theirs.try_clone()?)
                .stdout(theirs.try_clone()?)
                .stderr(theirs);
            Some(ours)
        }
    };
    let runtime = tokio::runtime::Handle::current();
    let child = on_thread(move || {
        let namespaces =
            CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        setns(&*pidfd, namespaces).context("entering the container")?;
        let _guard = runtime.enter();
        command.spawn().context("starting a process in the container")
    })
    .await?;
    Ok(Exec { terminal, child })
}

/// Opens a terminal of the container with no more rights than it has itself: the controlling end, and the other.
fn open_terminal(pidfd: &OwnedFd, identity: &Identity, rows: u16, columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    unshare(CloneFlags::CLONE_FS).context("separating a thread")?;
    setns(pidfd, CloneFlags::CLONE_NEWNS).context("entering the container")?;
    identity.assume_here()?;
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&ours)?;
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size)?;
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((ours, theirs))
}

fn stdio(fd: Option<OwnedFd>) -> Stdio {
    fd.map_or_else(Stdio::null, Stdio::from)
}

/// As shells say it: 127 there is no such program, 126 it can't be run.
fn code_of(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

/// The new process: one thread, already in the container's pids and network.
pub(crate) fn enter() -> ExitCode {
    let complain = |what: &str| {
        // If they can't be heard, the exit code still says it.
        let _ = writeln!(io::stderr(), "weft exec: {what}");
    };
    let entry = match become_container() {
        Ok(entry) => entry,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(126);
        }
    };
    let Some((program, arguments)) = entry.command.split_first() else {
        return ExitCode::from(64);
    };
    let env = entry.env.iter().map(|(key, value)| (key, value));
    let error = std::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(env)
        .exec();
    complain(&format!("{program}: {error}"));
    ExitCode::from(code_of(&error))
}

fn become_container() -> io::Result<Entry> {
    let entry: Entry = stage::attached().context("reading what to run")?;
    let first = pidfd_open(Pid::INIT, PidfdFlags::empty()).context("the container's first process")?;
    setns(&first, CloneFlags::CLONE_NEWNS).context("entering the container")?;
    if entry.identity.standing == Standing::Nested {
        setns(&first, CloneFlags::CLONE_NEWUSER).context("entering the container's user namespace")?;
    }
    entry.identity.assume()?;
    std::env::set_current_dir(&entry.working_dir).context("entering workingDir")?;
    if entry.terminal {
        // A session can only be begun, and get its terminal, from inside the new process.
        nix::unistd::setsid().context("beginning a session")?;
        rustix::process::ioctl_tiocsctty(io::stdin().as_fd()).context("taking the terminal")?;
    }
    Ok(entry)
}
