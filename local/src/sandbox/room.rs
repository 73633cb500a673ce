//! What runs in a sandbox before its supervisor does: the room, and init.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::control::{Control, Message};
use super::{BIN_DIR, HOST_PROC, Inside, Mode, Settings, Supervisor, mode};
use crate::mounts::{self, Context};
use crate::stage;

/// The namespaces of a sandbox, besides a user namespace where there is no root.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// The outermost process: makes the namespaces, starts init in them, and waits for it.
pub(crate) fn room() -> ExitCode {
    let control = match Control::from_stdin() {
        Ok(control) => control,
        Err(error) => return fail(None, &format!("its wire to the outside: {error}")),
    };
    let started = (|| {
        let (settings, mode): (Settings, Mode) = stage::attached().context("reading its settings")?;
        die_with_parent(&control)?;
        // Within another room the user namespace is that one's.
        if settings.within.is_none() && mode != Mode::Root {
            enter_user_namespace(&control, &mode)?;
        }
        unshare(NAMESPACES).map_err(|error| explain_unshare(&mode, error))?;
        if settings.within.is_some() {
            await_wire(&control)?;
        }
        let mut command = Command::new("/proc/self/exe");
        let stdin = control
            .as_fd()
            .try_clone_to_owned()
            .context("its wire to the outside")?;
        command.arg(stage::STAGE).arg("init").stdin(Stdio::from(stdin));
        stage::attach(&mut command, &(settings, mode)).context("encoding the settings")?;
        command.spawn().context("starting init in the new namespaces")
    })();
    match started {
        Ok(mut child) => match child.wait() {
            Ok(status) => exit_code(
                status
                    .code()
                    .or_else(|| status.signal().map(|signal| 128 + signal))
                    .unwrap_or(1),
            ),
            Err(error) => fail(Some(&control), &format!("waiting for init: {error}")),
        },
        Err(error) => fail(Some(&control), &error.to_string()),
    }
}

/// Pid 1 of the sandbox: prepares the mounts, starts the supervisor, reaps until it ends. Its own end ends everything.
pub(crate) fn init() -> ExitCode {
    let control = match Control::from_stdin() {
        Ok(control) => control,
        Err(error) => return fail(None, &format!("its wire to the outside: {error}")),
    };
    let started = (|| {
        die_with_parent(&control)?;
        let (settings, mode): (Settings, Mode) = stage::attached().context("reading its settings")?;
        // Away from the caller's terminal: nothing inside could ever type on it.
        nix::unistd::setsid().context("starting a session")?;
        nix::unistd::sethostname(&settings.hostname).context("setting the hostname")?;
        prepare_mounts(&settings)?;
        let stdin = control
            .as_fd()
            .try_clone_to_owned()
            .context("its wire to the outside")?;
        let mut command = Command::new(Path::new(BIN_DIR).join("weft"));
        command
            .arg(stage::STAGE)
            .arg("supervisor")
            .arg(&settings.supervisor)
            .arg(serde_json::to_string(&mode)?)
            .args(&settings.arguments);
        command.stdin(Stdio::from(stdin));
        stage::detach(&mut command);
        command.spawn().context("starting the supervisor")
    })();
    let supervisor = match started {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(error) => return fail(Some(&control), &error.to_string()),
    };
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == supervisor => return exit_code(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == supervisor => {
                return exit_code(128 + signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// The supervisor's process: tells the outside, and becomes the named supervisor.
pub(crate) fn supervise(arguments: Vec<OsString>, supervisors: &[(&str, Supervisor)]) -> ExitCode {
    let control = match Control::from_stdin() {
        Ok(control) => control,
        Err(error) => return fail(None, &format!("its wire to the outside: {error}")),
    };
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_default();
    let Some((_, supervisor)) = supervisors.iter().find(|(known, _)| name == *known) else {
        return fail(Some(&control), &format!("this program has no supervisor {name:?}"));
    };
    let mode = arguments
        .next()
        .and_then(|mode| serde_json::from_str(mode.to_str()?).ok());
    let Some(mode) = mode else {
        return fail(Some(&control), "the supervisor was started without a mode");
    };
    if control.send(&Message::Ready).is_err() {
        return ExitCode::FAILURE; // nobody is outside any more
    }
    supervisor(Inside {
        arguments: arguments.collect(),
        mode,
        control,
    })
}

/// Dies when the parent does, also if that was already the case.
fn die_with_parent(control: &Control) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("tying its life to its parent's")?;
    if control.is_gone() {
        return Err(io::Error::other("the outside is gone"));
    }
    Ok(())
}

/// Makes a user namespace, and becomes its root as soon as the outside has written its maps.
fn enter_user_namespace(control: &Control, mode: &Mode) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| mode::explain("making a user namespace", error))?;
    control
        .send(&Message::Unmapped)
        .context("asking for the maps of the user namespace")?;
    let Some(Message::Mapped) = control
        .receive()
        .context("waiting for the maps of the user namespace")?
    else {
        return Err(io::Error::other("the outside is gone"));
    };
    if let Mode::Multi { .. } = mode {
        // With one user only, the kernel keeps the caller's groups for good.
        rustix::thread::set_thread_groups(&[]).context("leaving the caller's groups")?;
    }
    // Changing who one is takes this back.
    die_with_parent(control)
}

/// Waits until the outside has joined the new network namespace to its own.
fn await_wire(control: &Control) -> io::Result<()> {
    control.send(&Message::Unwired).context("asking for a wire")?;
    match control.receive().context("waiting for a wire")? {
        Some(Message::Wired) => Ok(()),
        _ => Err(io::Error::other("the outside is gone")),
    }
}

fn explain_unshare(mode: &Mode, error: Errno) -> io::Error {
    if *mode != Mode::Root && matches!(error, Errno::EPERM | Errno::EACCES) {
        return mode::explain("making namespaces in a user namespace", error);
    }
    let fix = match error {
        Errno::EPERM => ": CAP_SYS_ADMIN is missing (in a container: run it with --privileged)",
        Errno::ENOSPC => ": a limit is reached, see /proc/sys/user/max_*_namespaces",
        Errno::EINVAL | Errno::ENOSYS => ": the kernel lacks one of the pid, net, ipc, uts namespaces",
        _ => "",
    };
    io::Error::other(format!("making new namespaces: {}{fix}", error.desc()))
}

/// Private mounts, the host's `/proc` kept for the supervisor, a `/proc` and a `/run` of its own, and the programs.
fn prepare_mounts(settings: &Settings) -> io::Result<()> {
    mounts::make_private()?;
    let kept: Vec<_> = settings
        .keep
        .iter()
        .filter(|path| path.starts_with("/run") || path.starts_with("/var/run"))
        .map(|path| {
            Ok((
                path,
                std::fs::File::open(path).context(&format!("opening {}", path.display()))?,
            ))
        })
        .collect::<io::Result<_>>()?;
    let program = this_program()?;
    let host_proc = match settings.within {
        Some(_) => Path::new(HOST_PROC),
        None => Path::new("/proc"),
    };
    let host_proc = std::fs::File::open(host_proc).context("the host's /proc")?;
    let others: Vec<_> = settings
        .programs
        .iter()
        .map(|(name, path)| {
            Ok((
                name,
                std::fs::File::open(path).context(&format!("opening {}", path.display()))?,
            ))
        })
        .collect::<io::Result<_>>()?;
    mounts::tmpfs(Path::new("/run"), "mode=0755,size=256m")?;
    for dir in [BIN_DIR, HOST_PROC, "/run/lock", "/run/netns"] {
        std::fs::create_dir_all(dir).context(&format!("making {dir}"))?;
    }
    // Programs are bound, not copied: a debug build is large, and the old one runs on when a new one is built.
    let weft = Path::new(BIN_DIR).join("weft");
    match program {
        Some(program) => mounts::bind_program(&program, &weft)?,
        None => {
            std::fs::copy("/proc/self/exe", &weft).context("copying this program")?;
            std::fs::set_permissions(&weft, std::fs::Permissions::from_mode(0o755)).context("copying this program")?;
        }
    }
    for (name, file) in &others {
        mounts::bind_program(file, &Path::new(BIN_DIR).join(name))?;
    }
    for alias in settings.aliases.iter().filter(|alias| *alias != "weft") {
        std::os::unix::fs::symlink("weft", Path::new(BIN_DIR).join(alias)).context(&format!("naming {alias}"))?;
    }
    for (path, dir) in &kept {
        std::fs::create_dir_all(path).context(&format!("making {}", path.display()))?;
        mounts::bind(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())), path)?;
    }
    let host_proc = PathBuf::from(format!("/proc/self/fd/{}", host_proc.as_raw_fd()));
    mounts::bind_recursive(&host_proc, Path::new(HOST_PROC))?;
    mounts::proc(Path::new("/proc"))
}

/// This very program, opened by its path: what `/proc/self/exe` leads to is on a mount of the host, which can't be bound
/// here. `None` if something else has that path by now, or if the users of containers could not run it.
fn this_program() -> io::Result<Option<std::fs::File>> {
    let running = std::fs::metadata("/proc/self/exe").context("looking at this program")?;
    let Some(file) = std::env::current_exe()
        .ok()
        .and_then(|path| std::fs::File::open(path).ok())
    else {
        return Ok(None);
    };
    let found = file.metadata().context("looking at this program")?;
    let is_this = (found.dev(), found.ino()) == (running.dev(), running.ino());
    Ok((is_this && found.mode() & 0o005 == 0o005).then_some(file))
}

/// Says why there is no sandbox: to the outside if it can, else to people.
fn fail(control: Option<&Control>, message: &str) -> ExitCode {
    let told = control.is_some_and(|control| control.send(&Message::Failed(message.to_owned())).is_ok());
    if !told {
        eprintln!("weft: making the sandbox: {message}");
    }
    ExitCode::FAILURE
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
