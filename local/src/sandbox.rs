//! The room around a mesh: a process tree of its own with mount, pid, net, ipc and uts namespaces of its own.
//!
//! In (outside): [`Settings`], before any thread exists. Out (outside): a [`Sandbox`] to wait for; (inside): the
//! supervisor named in the settings runs with an [`Inside`].

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the outside decides about a sandbox.
#[derive(Debug, Clone)]
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
    /// The one address of the host that [`Inside::relay`] reaches.
    pub relay: Option<SocketAddr>,
}

/// A function that runs as the first ordinary process inside, on its main thread, with no other thread yet.
pub type Supervisor = fn(Inside) -> ExitCode;

/// A running sandbox, seen from outside. Dropping it ends everything inside at once.
#[derive(Debug)]
pub struct Sandbox {}

impl Sandbox {
    /// Starts the sandbox. Call it from the main thread before any other thread exists: what is inside dies with the
    /// thread that called this.
    ///
    /// # Errors
    /// What the machine lacks, in one line with its fix.
    pub fn enter(settings: &Settings) -> Result<Self, SandboxError> {
        let _ = settings;
        todo!()
    }

    /// Serves the sandbox until it ends: the relay, and SIGINT, SIGTERM and SIGHUP, which ask the supervisor to stop (a
    /// second one ends everything at once). Returns the supervisor's exit code.
    pub fn run(self) -> ExitCode {
        todo!()
    }
}

/// What the supervisor gets.
#[derive(Debug)]
pub struct Inside {
    /// [`Settings::arguments`].
    pub arguments: Vec<OsString>,
}

impl Inside {
    /// Resolves when the outside asks the supervisor to stop, or is gone. Needs a tokio runtime. Cancel safe.
    pub async fn stop_requested(&self) {
        todo!()
    }

    /// Hands a listener of this side to the outside, which connects what it accepts to [`Settings::relay`], and to
    /// nothing else.
    ///
    /// # Errors
    /// No relay was set, or the outside is gone.
    pub fn relay(&self, listener: std::net::TcpListener) -> std::io::Result<()> {
        let _ = listener;
        todo!()
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Namespaces need a right that this process does not have.
    #[error("making namespaces needs root: run it with sudo")]
    NotPermitted,
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
