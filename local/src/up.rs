//! `weft up`: a mesh from manifests, from its first process to its last; or several, as clusters beside each other.
//!
//! In (outside): [`Settings`], before any thread exists. Out: the exit code, when the mesh has ended. Inside the sandbox
//! [`supervise`] puts the parts together: manifests, network, names, control plane, pods, and the socket to ask them.
//! Of several clusters each has a sandbox of its own within the one of [`clusters`], where the wire between them lies.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use weft_daemon::exit;

use crate::iptables::search_path;
use crate::sandbox::{self, Mode, Sandbox};
use crate::source::Sources;
use crate::state::StateDir;
use crate::volumes;

mod assemble;
pub mod clusters;
mod imports;
pub mod links;
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
    /// Its place among several clusters; none if it is alone.
    pub among: Option<Among>,
}

/// A cluster's place among several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Among {
    /// Which one it is, from 0.
    pub number: u8,
    /// The names of all, in order.
    pub names: Vec<String>,
    /// The network that its pods are in: pods of clusters that name the same one reach each other as they are.
    pub network: String,
    /// Networks of other clusters' pods that are reached so.
    pub flat: Vec<IpNet>,
}

impl Settings {
    /// What a line begins with that could as well be of another cluster.
    fn prefix(&self) -> String {
        match &self.among {
            Some(_) => format!("[{}] ", self.mesh),
            None => String::new(),
        }
    }
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

/// Runs a mesh until it ends, or several clusters until the first of them does. Call it from the main thread, before any
/// other thread exists.
pub fn run(all: &[Settings]) -> ExitCode {
    match start(all) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weft up: {error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn start(all: &[Settings]) -> Result<ExitCode> {
    missing_tools(&search_path())?;
    let locks = all.iter().map(prepare).collect::<Result<Vec<File>>>()?;
    let supervisor = match all {
        [_] => SUPERVISOR,
        _ => clusters::SUPERVISOR,
    };
    let relay = all.first().and_then(|settings| settings.collector);
    let code = Sandbox::enter(&room(all, supervisor, relay, None)?)?.run();
    for (settings, lock) in all.iter().zip(locks) {
        clean_up(settings, lock, code);
    }
    Ok(code)
}

/// Makes what a mesh needs outside of its sandbox. Returns its lock.
fn prepare(settings: &Settings) -> Result<File> {
    settings.state.make()?;
    let lock = lock(settings)?;
    settings.manifests.keep_stdin(&settings.stdin)?;
    // Under root the control plane is a user of its own, and must be able to read what the user wrote.
    if sandbox::is_root() {
        settings.manifests.readable()?;
    }
    Ok(lock)
}

/// The sandbox for meshes: of one, or around those of several.
fn room(
    all: &[Settings],
    supervisor: &str,
    relay: Option<SocketAddr>,
    within: Option<Mode>,
) -> Result<sandbox::Settings> {
    let under_run = |path: &&Path| path.starts_with("/run") || path.starts_with("/var/run");
    let places = all.iter().flat_map(|settings| {
        let places = settings.manifests.places.iter().map(|place| place.directory.as_path());
        std::iter::once(settings.state.base()).chain(places)
    });
    let mut keep: Vec<_> = places.filter(under_run).map(Path::to_owned).collect();
    keep.sort();
    keep.dedup();
    let arguments = all
        .iter()
        .map(|settings| -> Result<OsString> { Ok(serde_json::to_string(settings)?.into()) });
    Ok(sandbox::Settings {
        hostname: "weft".to_owned(),
        supervisor: supervisor.to_owned(),
        arguments: arguments.collect::<Result<_>>()?,
        aliases: all.first().map(|settings| settings.aliases.clone()).unwrap_or_default(),
        programs: Vec::new(),
        keep,
        relay,
        within,
    })
}

/// Removes what is left of a mesh outside of its sandbox, and says so.
fn clean_up(settings: &Settings, lock: File, code: ExitCode) {
    // What came by standard input, and what pods kept, is gone with the mesh; a socket that answers nobody would only puzzle.
    let _ = fs::remove_dir_all(settings.state.stdin());
    let volumes = settings.state.volumes();
    let left = volumes::remove_all(&volumes).err();
    let _ = fs::remove_file(settings.state.socket());
    let _ = fs::remove_file(settings.state.links());
    drop(lock);
    // A second signal ends all at once, which is an end as well.
    if code == ExitCode::SUCCESS || code == ExitCode::from(sandbox::ASKED_TWICE) {
        let mut out = std::io::stdout();
        let name = &settings.mesh;
        let also = match left {
            None => String::new(),
            Some(error) => format!(
                ", and what pods kept in {} ({error}): the next mesh of this name removes it",
                volumes.display()
            ),
        };
        // Nobody may be reading any more.
        let _ = writeln!(
            out,
            "mesh {name} ended: nothing of it is left but its logs and keys{also}"
        );
    }
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
    format!("a mesh named {name} is already running: end it with `weft down --name {name}`, or take another name")
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
