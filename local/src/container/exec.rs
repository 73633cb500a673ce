//! Commands that are run in a running container.
//!
//! The thread that starts one enters the container's namespaces and gives its rights away before anything of the
//! container is loaded: a container's own files are never executed with rights that the container does not have.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::{Child, Command};

use super::InitPlan;
use crate::mounts::Context;
use crate::net::on_thread;
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
    ended: Result<Child, i32>,
}

impl Exec {
    /// Waits for the end: the exit code (128 + n for signal n; 126 or 127 if it could not be run). Cancel safe.
    pub async fn wait(&mut self) -> i32 {
        match &mut self.ended {
            Ok(child) => match child.wait().await {
                Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
                Err(_) => 255,
            },
            Err(code) => *code,
        }
    }
}

/// Runs a command in the container behind `pidfd`, which was started from `init`.
pub(crate) async fn exec(pidfd: Arc<OwnedFd>, init: Arc<InitPlan>, plan: ExecPlan) -> io::Result<Exec> {
    let runtime = tokio::runtime::Handle::current();
    on_thread(move || {
        unshare(CloneFlags::CLONE_FS).context("separating a thread")?;
        let namespaces = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        setns(&*pidfd, namespaces).context("entering the container")?;
        if let ExecStdio::Fds { stdin, stdout, stderr } = &plan.stdio {
            for fd in [stdin, stdout, stderr].into_iter().flatten() {
                init.identity.own_pipe(fd)?;
            }
        }
        init.identity.assume()?;
        std::env::set_current_dir(&init.working_dir).context("entering workingDir")?;
        let _guard = runtime.enter();
        run(&init, plan)
    })
    .await
}

fn run(init: &InitPlan, plan: ExecPlan) -> io::Result<Exec> {
    let (program, arguments) = plan.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (mut command, terminal, mut complaints) = match plan.stdio {
        ExecStdio::Fds { stdin, stdout, stderr } => {
            let mut command = Command::new(program);
            let complaints = stderr
                .as_ref()
                .map(OwnedFd::try_clone)
                .transpose()?
                .map(std::fs::File::from);
            command.stdin(stdio(stdin)).stdout(stdio(stdout)).stderr(stdio(stderr));
            (command, None, complaints)
        }
        ExecStdio::Terminal { rows, columns } => {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            unlockpt(&master)?;
            tcsetwinsize(
                &master,
                Winsize {
                    ws_row: rows,
                    ws_col: columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                },
            )?;
            let ours = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            // A session can only be begun, and get its terminal, from inside the new process.
            let mut command = Command::new("/proc/self/exe");
            command.arg(stage::STAGE).arg("terminal").arg(program);
            command.stdin(ours.try_clone()?).stdout(ours.try_clone()?).stderr(ours);
            (command, Some(master), None)
        }
    };
    command.args(arguments).env_clear().kill_on_drop(true);
    command.envs(init.env.iter().chain(&plan.env).map(|(key, value)| (key, value)));
    let ended = match command.spawn() {
        Ok(child) => Ok(child),
        Err(error) => {
            if let Some(complaints) = &mut complaints {
                // If they can't be heard, the exit code still says it.
                let _ = writeln!(complaints, "weft exec: {program}: {error}");
            }
            Err(code_of(&error))
        }
    };
    Ok(Exec { terminal, ended })
}

fn stdio(fd: Option<OwnedFd>) -> Stdio {
    fd.map_or_else(Stdio::null, Stdio::from)
}

/// As shells say it: 127 there is no such program, 126 it can't be run.
fn code_of(error: &io::Error) -> i32 {
    if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    }
}

/// Begins a session on the terminal that is standard input, and becomes the command.
pub(crate) fn terminal(command: Vec<OsString>) -> ExitCode {
    let begun = nix::unistd::setsid().map_err(io::Error::from).and_then(|_| {
        rustix::process::ioctl_tiocsctty(io::stdin().as_fd())?;
        Ok(())
    });
    if let Err(error) = begun {
        eprintln!("weft exec: beginning a session: {error}");
        return ExitCode::from(126);
    }
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(64);
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("weft exec: {}: {error}", program.display());
    ExitCode::from(u8::try_from(code_of(&error)).unwrap_or(126))
}
