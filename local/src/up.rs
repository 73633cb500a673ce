//! `weft up`: a mesh from manifests, from its first process to its last.
//!
//! In (outside): [`Settings`], before any thread exists. Out: the exit code, when the mesh has ended. Inside the sandbox
//! [`supervise`] puts the parts together: manifests, network, names, control plane, pods, and the socket to ask them.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use weft_daemon::exit;

use crate::sandbox::{self, Sandbox};
use crate::services;
use crate::source::Sources;
use crate::state::StateDir;

mod assemble;
mod tell;

pub use assemble::supervise;

/// The name by which [`crate::stage::main`] knows [`supervise`].
pub const SUPERVISOR: &str = "mesh";

/// The name of a mesh that nobody named.
pub const DEFAULT_MESH: &str = "local";

/// What a mesh is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Its name.
    pub mesh: String,
    /// The user's manifests.
    pub manifests: Sources,
    /// What standard input said, if it is one of them.
    #[serde(skip)]
    pub stdin: Vec<u8>,
    /// Where it keeps its state.
    pub state: StateDir,
    /// The trust domain of its identities.
    pub trust_domain: String,
    /// The range of pods.
    pub pods_v4: Ipv4Net,
    /// The range of pods.
    pub pods_v6: Ipv6Net,
    /// The range of Services.
    pub services_v4: Ipv4Net,
    /// The range of Services.
    pub services_v6: Ipv6Net,
    /// How long leaves live, as `weft control --leaf-lifetime` takes it.
    pub leaf_lifetime: Option<String>,
    /// The collector of traces on this machine, which proxies reach through the mesh's relay.
    pub collector: Option<SocketAddr>,
    /// `OTEL_*` and `WEFT_LOG*` of `weft up`, for proxies and the control plane.
    pub env: Vec<(String, String)>,
    /// Names of programs that are this very program.
    pub aliases: Vec<String>,
    /// It runs in the background, where no Ctrl-C reaches it.
    pub detached: bool,
}

/// Tools that a mesh needs on this machine.
const TOOLS: [&str; 4] = [
    "iptables-restore",
    "iptables-save",
    "ip6tables-restore",
    "ip6tables-save",
];
/// `weft status` and `weft down` look at the lock for a moment.
const LOCK_TRIES: u32 = 20;

/// Runs a mesh until it ends. Call it from the main thread, before any other thread exists.
pub fn run(settings: &Settings) -> ExitCode {
    match start(settings) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft up: {error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn start(settings: &Settings) -> Result<ExitCode> {
    missing_tools(&services::search_path())?;
    settings.state.make()?;
    let lock = lock(settings)?;
    settings.manifests.keep_stdin(&settings.stdin)?;
    // Under root the control plane is a user of its own, and must be able to read what the user wrote.
    if sandbox::is_root() {
        settings.manifests.readable()?;
    }
    let arguments = vec![OsString::from(serde_json::to_string(settings)?)];
    let under_run = |path: &&Path| path.starts_with("/run") || path.starts_with("/var/run");
    let places = settings.manifests.places.iter().map(|place| place.directory.as_path());
    let keep = std::iter::once(settings.state.base())
        .chain(places)
        .filter(under_run)
        .map(Path::to_owned);
    let sandbox = sandbox::Settings {
        hostname: "weft".to_owned(),
        supervisor: SUPERVISOR.to_owned(),
        arguments,
        aliases: settings.aliases.clone(),
        programs: Vec::new(),
        keep: keep.collect(),
        relay: settings.collector,
    };
    let code = Sandbox::enter(&sandbox)?.run();
    // What came by standard input, and what pods kept, is gone with the mesh; a socket that answers nobody would only puzzle.
    let _ = fs::remove_dir_all(settings.state.stdin());
    let _ = fs::remove_dir_all(settings.state.volumes());
    let _ = fs::remove_file(settings.state.socket());
    drop(lock);
    // A second signal ends all at once, which is an end as well.
    if code == ExitCode::SUCCESS || code == ExitCode::from(sandbox::ASKED_TWICE) {
        let mut out = std::io::stdout();
        // Nobody may be reading any more.
        let _ = writeln!(
            out,
            "mesh {} ended: nothing of it is left but its logs and keys",
            settings.mesh
        );
    }
    Ok(code)
}

fn missing_tools(path: &std::ffi::OsStr) -> Result<()> {
    let there = |tool: &&&str| !std::env::split_paths(path).any(|directory| directory.join(tool).is_file());
    let missing: Vec<&str> = TOOLS.iter().filter(there).copied().collect();
    match missing.is_empty() {
        true => Ok(()),
        false => bail!(
            "{} missing: install the package iptables (apt-get install iptables)",
            missing.join(", ")
        ),
    }
}

/// Takes the mesh's name for as long as it runs.
fn lock(settings: &Settings) -> Result<File> {
    let path = settings.state.lock();
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(25)),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
    bail!(already(&settings.mesh))
}

/// What is said to whoever starts a mesh that runs.
pub fn already(name: &str) -> String {
    format!("a mesh named {name} is already running: end it with `weft down --name {name}`, or take another --name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().as_os_str();
        let said = missing_tools(path).unwrap_err().to_string();
        assert!(
            said.contains("ip6tables-restore") && said.contains("apt-get install iptables"),
            "{said}"
        );
        for tool in TOOLS {
            fs::write(directory.path().join(tool), "").unwrap();
        }
        missing_tools(path).unwrap();
    }
}
