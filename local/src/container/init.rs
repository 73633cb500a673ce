//! Pid 1 of a container: builds what the container sees, starts its command, reaps, forwards signals, and ends with the
//! command. The kernel then ends everything else in the container.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, openat, readlinkat};

use super::InitPlan;
use super::identity::keep_only_kill;
use crate::mounts::{Context, root};
use crate::sandbox::HOST_PROC;
use crate::stage;

/// The container's first process. Tells its supervisor, on what it was given as standard input, `started <pid>` or
/// `failed <why>`, and at last `signal <number>` if a signal ended the command.
pub(crate) fn init() -> ExitCode {
    let supervisor = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let Ok(mut supervisor) = supervisor else {
        return ExitCode::FAILURE;
    };
    // From now on signals wait until they are asked for, in `reap`.
    let blocked = SigSet::all().thread_block();
    let started = blocked.context("blocking signals").and_then(|()| start());
    // A supervisor that is gone takes this process with it; nothing else is to be done about a failed write.
    match started {
        Ok((app, host_pid)) => {
            let _ = writeln!(supervisor, "started {host_pid}");
            let (code, signal) = reap(app);
            if let Some(signal) = signal {
                let _ = writeln!(supervisor, "signal {signal}");
            }
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = writeln!(supervisor, "failed {}", error.to_string().replace('\n', " "));
            ExitCode::from(128)
        }
    }
}

/// Starts the command; returns its pid here and on the host.
fn start() -> io::Result<(Pid, u32)> {
    let plan: InitPlan = stage::attached().context("reading the container's plan")?;
    plan.identity.own_pipe(io::stdout())?;
    plan.identity.own_pipe(io::stderr())?;
    nix::unistd::dup2_stdin(File::open("/dev/null").context("/dev/null")?).context("/dev/null")?;
    // Away from any terminal that the mesh was started on.
    nix::unistd::setsid().context("starting a session")?;
    let host_proc = File::open(HOST_PROC).context("the host's /proc")?;
    root::enter(&plan.root)?;
    nix::unistd::sethostname(&plan.hostname).context("setting the hostname")?;
    plan.identity.nest()?;
    // A thread, because it gives its rights away: this process keeps one, to signal its child.
    let started = std::thread::spawn(move || run(&plan, &host_proc)).join();
    let started = started.unwrap_or_else(|_| Err(io::Error::other("starting the command panicked")))?;
    keep_only_kill()?;
    Ok(started)
}

fn run(plan: &InitPlan, host_proc: &File) -> io::Result<(Pid, u32)> {
    plan.identity.assume()?;
    // The command inherits this thread's mask. What comes meanwhile may be lost, so `reap` looks before it waits.
    SigSet::all().thread_unblock().context("unblocking signals")?;
    let (program, arguments) = plan
        .command
        .split_first()
        .ok_or_else(|| io::Error::other("there is no command"))?;
    std::env::set_current_dir(&plan.working_dir).context(&format!("workingDir {}", plan.working_dir.display()))?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(plan.env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context(&format!("running {program}"))?;
    Ok((Pid::from_raw(child.id().cast_signed()), host_pid_of_child(host_proc)?))
}

/// The only child of this thread, as the host numbers it.
fn host_pid_of_child(host_proc: &File) -> io::Result<u32> {
    let thread = readlinkat(host_proc, "thread-self", Vec::new()).context("its own number on the host")?;
    let path = [thread.as_bytes(), b"/children"].concat();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut children = String::new();
    File::from(openat(host_proc, path, flags, Mode::empty()).context("its children on the host")?)
        .read_to_string(&mut children)?;
    let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    first.ok_or_else(|| io::Error::other("the command's number on the host is unknown"))
}

/// Reaps and forwards until `app` ends: its exit code, and the signal that ended it.
fn reap(app: Pid) -> (u8, Option<i32>) {
    let signals = SigSet::all();
    loop {
        if let Some(ended) = reap_all(app) {
            return ended;
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {}
            // Those about this process' own doings are not for the command.
            Ok(Signal::SIGPIPE | Signal::SIGTTIN | Signal::SIGTTOU) | Err(_) => {}
            Ok(signal) => {
                // It has just ended, if it is not there: SIGCHLD is next.
                let _ = kill(app, signal);
            }
        }
    }
}

fn reap_all(app: Pid) -> Option<(u8, Option<i32>)> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == app => ended = Some((code.to_le_bytes()[0], None)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == app => {
                let number = signal as i32;
                ended = Some(((128 + number).to_le_bytes()[0], Some(number)));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(_) | Err(_) => {}
        }
    }
}
