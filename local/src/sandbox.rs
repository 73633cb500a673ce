//! The room around a mesh: a process tree of its own with mount, pid, net, ipc and uts namespaces of its own.
//!
//! In (outside): [`Settings`], before any thread exists. Out (outside): a [`Sandbox`] to wait for; (inside): the
//! supervisor named in the settings runs with an [`Inside`].
//!
//! Without root a user namespace comes first: the room makes it, the caller writes its maps, and all others belong to it.
//! This is the only difference.
//!
//! The tree: the caller; the *room*, which unshares the namespaces and waits; *init*, pid 1 of the new pid namespace,
//! which prepares the mounts and reaps; the *supervisor*. The caller's death kills the room (`PR_SET_PDEATHSIG`), the
//! room's death kills init, and with init the kernel kills everything inside, and with it every namespace and mount.

mod control;
mod mode;
mod room;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};

use self::control::{AsyncControl, Control, Message};
use crate::relay;
use crate::stage;

pub(crate) use self::mode::is_root;
pub use self::mode::{Mode, SubIds};
pub(crate) use self::room::{init, room, supervise};

/// Inside: programs of Weft, first on every container's PATH.
pub const BIN_DIR: &str = "/run/weft/bin";
/// Inside, for the supervisor only: `/proc` as the host sees it, to name processes by the host's numbers.
pub(crate) const HOST_PROC: &str = "/run/weft/host-proc";

/// What the outside decides about a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The hostname inside.
    pub hostname: String,
    /// Which of the supervisors known to [`crate::stage::main`] runs inside.
    pub supervisor: String,
    /// Handed to the supervisor as [`Inside::arguments`].
    pub arguments: Vec<OsString>,
    /// Names under `/run/weft/bin`, all of this very program (it looks at `argv[0]`); `weft` is always there.
    pub aliases: Vec<String>,
    /// Other programs to show under `/run/weft/bin`: name and path on the host.
    pub programs: Vec<(String, PathBuf)>,
    /// Directories that the supervisor needs although they lie below `/run`, which is new and empty inside.
    pub keep: Vec<PathBuf>,
    /// The one address of the host that [`Outside::relay`] reaches.
    pub relay: Option<SocketAddr>,
    /// It is made inside another sandbox, whose rights are from here; its network is joined to something of that one.
    pub within: Option<Mode>,
}

/// The exit code of [`Sandbox::run`] where a second signal ended everything at once.
pub const ASKED_TWICE: u8 = 130;
/// How a process ends that got SIGKILL, as shells count it.
const KILLED: u8 = 128 + 9;

/// A function that runs as the first ordinary process inside, on its main thread, with no other thread yet.
pub type Supervisor = fn(Inside) -> ExitCode;

/// A running sandbox, seen from outside. Dropping it ends everything inside at once.
#[derive(Debug)]
pub struct Sandbox {
    room: Child,
    control: Control,
    relay: Option<SocketAddr>,
    mode: Mode,
}

impl Sandbox {
    /// Starts the sandbox, and returns when its supervisor runs. Call it from the main thread before any other thread
    /// exists: what is inside dies with the thread that called this.
    ///
    /// # Errors
    /// What the machine lacks, in one line with its fix.
    pub fn enter(settings: &Settings) -> Result<Self, SandboxError> {
        Self::enter_wired(settings, |_| Ok(()))
    }

    /// The same for one [within](Settings::within) another: `wire` gets its network namespace while nothing runs there yet.
    ///
    /// # Errors
    /// The same, and those of `wire`.
    pub fn enter_wired(
        settings: &Settings,
        mut wire: impl FnMut(File) -> io::Result<()>,
    ) -> Result<Self, SandboxError> {
        let choices = settings.within.clone().map_or_else(Mode::choices, |mode| vec![mode]);
        let mut refused = None;
        for mode in choices {
            let mode = match (mode, refused.take()) {
                (Mode::Single { .. }, Some(why)) => Mode::Single { why },
                (mode, _) => mode,
            };
            match Self::enter_as(settings, mode, &mut wire)? {
                Ok(sandbox) => return Ok(sandbox),
                Err(why) => refused = Some(why.to_string()),
            }
        }
        let message = refused.unwrap_or_default();
        Err(SandboxError::Inside { message })
    }

    /// The same in one mode. The inner error: the maps of its user namespace can't be written.
    fn enter_as(
        settings: &Settings,
        mode: Mode,
        wire: &mut impl FnMut(File) -> io::Result<()>,
    ) -> Result<io::Result<Self>, SandboxError> {
        let step = |step| move |source| SandboxError::Step { step, source };
        let (outside, inside) = Control::pair().map_err(step("making a socket pair"))?;
        let mut command = Command::new("/proc/self/exe");
        // A process group of its own: Ctrl-C on the terminal reaches the caller, who then asks for an orderly end.
        command.arg(stage::STAGE).arg("room").stdin(inside).process_group(0);
        stage::attach(&mut command, &(settings, &mode)).map_err(step("encoding the sandbox's settings"))?;
        let room = command.spawn().map_err(step("starting this program again"))?;
        drop(command); // holds the other end of the wire
        let sandbox = Self {
            room,
            control: outside,
            relay: settings.relay,
            mode,
        };
        loop {
            match sandbox.control.receive().map_err(step("waiting for the sandbox"))? {
                Some(Message::Ready) => return Ok(Ok(sandbox)),
                Some(Message::Unmapped) => {
                    if let Err(error) = sandbox.mode.map(sandbox.room.id()) {
                        return Ok(Err(error));
                    }
                    let told = sandbox.control.send(&Message::Mapped);
                    told.map_err(step("answering the sandbox"))?;
                }
                Some(Message::Unwired) => {
                    let namespace = File::open(format!("/proc/{}/ns/net", sandbox.room.id()));
                    let namespace = namespace.map_err(step("opening its network namespace"))?;
                    wire(namespace).map_err(step("joining its network to the others"))?;
                    let told = sandbox.control.send(&Message::Wired);
                    told.map_err(step("answering the sandbox"))?;
                }
                Some(Message::Failed(message)) => return Err(SandboxError::Inside { message }),
                _ => {
                    let message = "it ended before it was ready".into();
                    return Err(SandboxError::Inside { message });
                }
            }
        }
    }

    /// Where its rights come from.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The process that holds everything together, as this process numbers it.
    pub fn pid(&self) -> u32 {
        self.room.id()
    }

    /// Serves the sandbox until it ends: the relay, and SIGINT, SIGTERM and SIGHUP, which ask the supervisor to stop (a
    /// second one ends everything at once). Returns the supervisor's exit code.
    pub fn run(mut self) -> ExitCode {
        let stop = Notify::new();
        let served = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        served = self.serve(&stop) => served.map(|()| true),
                        twice = asked_twice(&stop) => twice.map(|()| false),
                    }
                })
            });
        match served.and_then(|ended| ended.then(|| self.code()).transpose()) {
            Ok(Some(code)) => {
                if code == KILLED {
                    eprintln!("weft: the mesh was killed; the next start clears away what is left of it");
                }
                ExitCode::from(code)
            }
            // Dropping ends it.
            Ok(None) => ExitCode::from(ASKED_TWICE),
            Err(error) => {
                eprintln!("weft: serving the sandbox: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Serves the sandbox until it ends by itself. Each time that `stop` is notified, its supervisor is asked to stop.
    pub(crate) async fn serve(&self, stop: &Notify) -> io::Result<()> {
        let control = self.control.to_async()?;
        let mut relays = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                message = control.receive() => match message? {
                    None => return Ok(()),
                    Some(Message::Relay(listener)) => {
                        let listener = std::net::TcpListener::from(listener);
                        listener.set_nonblocking(true)?;
                        let listener = tokio::net::TcpListener::from_std(listener)?;
                        if let Some(target) = self.relay && relays.is_empty() {
                            relays.spawn(relay::serve(listener, target));
                        }
                    }
                    Some(_) => {}
                },
                () = stop.notified() => {
                    // Already gone is what was wanted; the loop will see it.
                    let _ = control.get().send(&Message::Stop);
                }
            }
        }
    }

    /// The supervisor's exit code, once the sandbox has ended.
    pub(crate) fn code(&mut self) -> io::Result<u8> {
        let status = self.room.wait()?;
        Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
    }
}

/// Turns signals into notifications of `stop`, until a second one wants more than that.
async fn asked_twice(stop: &Notify) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut asked = false;
    loop {
        let signalled = tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            // The terminal is gone: nobody is there to ask a second time.
            _ = hangup.recv() => false,
        };
        if asked && signalled {
            return Ok(());
        }
        asked = true;
        stop.notify_one();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The room may have ended already, which is what these are for.
        let _ = self.room.kill();
        let _ = self.room.wait();
        self.control.wait_gone(Duration::from_secs(5));
    }
}

/// What the supervisor gets.
#[derive(Debug)]
pub struct Inside {
    /// [`Settings::arguments`].
    pub arguments: Vec<OsString>,
    /// Where the sandbox's rights come from.
    pub mode: Mode,
    control: Control,
}

impl Inside {
    /// Starts to listen to the outside. Needs a tokio runtime.
    ///
    /// # Errors
    /// The wire can't be registered with the runtime.
    pub fn listen(self) -> io::Result<Outside> {
        let control = self.control.to_async()?;
        Ok(Outside {
            control,
            receiving: Mutex::new(()),
            stopped: watch::Sender::new(false),
        })
    }
}

/// The outside, as the supervisor sees it.
#[derive(Debug)]
pub struct Outside {
    control: AsyncControl,
    /// Held by the one task that reads the wire; the others wait for `stopped`.
    receiving: Mutex<()>,
    stopped: watch::Sender<bool>,
}

impl Outside {
    /// Resolves when the outside asks the supervisor to stop, or is gone, and from then on at once. Cancel safe.
    pub async fn stop_requested(&self) {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = self.read_stop() => {
                self.stopped.send_replace(true);
            }
        }
    }

    async fn read_stop(&self) {
        let _reading = self.receiving.lock().await;
        loop {
            match self.control.receive().await {
                Ok(Some(Message::Stop) | None) | Err(_) => return,
                Ok(Some(_)) => {}
            }
        }
    }

    /// Hands a listener of this side to the outside, which connects what it accepts to [`Settings::relay`], and to
    /// nothing else. Without [`Settings::relay`] the listener is closed.
    ///
    /// # Errors
    /// The outside is gone.
    pub fn relay(&self, listener: std::net::TcpListener) -> io::Result<()> {
        self.control.get().send(&Message::Relay(listener.into()))
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The new processes could not prepare their namespaces.
    #[error("making the sandbox: {message}")]
    Inside {
        /// The step, the kernel's answer, and the fix if one is known.
        message: String,
    },
}
