//! A mesh with pods, or two clusters, and commands in them: what a user does with `weft`, done by the benchmark.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// A mesh that isn't ready by then never will be.
const START_TIME: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// A running mesh, or a cluster of several. When the last of them is dropped, it ends.
pub struct Lab {
    weft: PathBuf,
    name: String,
    running: Rc<Running>,
}

/// `weft up`, and the directory of what it needs.
struct Running {
    scratch: TempDir,
    up: RefCell<Child>,
}

impl Lab {
    /// Starts a mesh of these manifests, with this `weft`. `make`: manifests from the path of a directory that pods can
    /// read, with the programs that were named in it.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn up(weft: &Path, programs: &[&Path], make: impl FnOnce(&Path) -> String) -> Result<Self> {
        let scratch = scratch(programs)?;
        let manifests = manifests(&scratch, "manifests", &make(scratch.path()))?;
        let name = format!("bench-{}", std::process::id());
        let args = ["--name".as_ref(), name.as_ref(), "-f".as_ref(), manifests.as_os_str()];
        let running = Rc::new(Running::start(weft, scratch, &args)?);
        let lab = Self {
            weft: weft.to_owned(),
            name,
            running,
        };
        lab.wait()?;
        Ok(lab)
    }

    /// Starts two clusters of one `weft up`, with more arguments of it, and links them: each takes all that the other exports.
    ///
    /// # Errors
    /// They do not become ready, or are not linked.
    pub fn two(
        weft: &Path,
        programs: &[&Path],
        args: &[&str],
        make: [&dyn Fn(&Path) -> String; 2],
    ) -> Result<[Self; 2]> {
        let scratch = scratch(programs)?;
        let names = ["a", "b"].map(|short| format!("bench-{}-{short}", std::process::id()));
        let mut all: Vec<OsString> = args.iter().map(OsString::from).collect();
        for (name, make) in names.iter().zip(make) {
            let manifests = manifests(&scratch, name, &make(scratch.path()))?;
            all.extend(["--cluster".into(), name.into(), "-f".into(), manifests.into()]);
        }
        let all: Vec<&OsStr> = all.iter().map(OsString::as_os_str).collect();
        let running = Rc::new(Running::start(weft, scratch, &all)?);
        let labs = names.map(|name| Self {
            weft: weft.to_owned(),
            name,
            running: running.clone(),
        });
        labs.iter().try_for_each(Self::wait)?;
        let [one, other] = &labs;
        one.knows(other)?;
        other.knows(one)?;
        Ok(labs)
    }

    /// Tells this cluster of another one.
    fn knows(&self, other: &Self) -> Result<()> {
        let export = ["cluster", "export-peer", "--imports", "*"];
        let peer = printed("weft cluster export-peer", other.weft(&export).output()?)?;
        let place = self.scratch().join(&self.name).join("peer.yaml");
        Ok(fs::write(place, peer)?)
    }

    fn wait(&self) -> Result<()> {
        let end = Instant::now() + START_TIME;
        let ready = || -> Result<bool> {
            let output = self.weft(&["status", "-o", "json"]).output()?;
            let status: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            Ok(status.is_some_and(|status| status["ready"] == true))
        };
        while !ready()? {
            let ended = self.running.up.borrow_mut().try_wait()?;
            if let Some(status) = ended {
                bail!("weft up ended ({status}):\n{}", self.said());
            }
            ensure!(Instant::now() < end, "the mesh is not ready:\n{}", self.said());
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.running.scratch.path().join("up.log")).unwrap_or_default()
    }

    /// Where the programs lie, also for pods.
    pub fn scratch(&self) -> &Path {
        self.running.scratch.path()
    }

    fn weft(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.weft);
        command
            .args(args)
            .env("XDG_STATE_HOME", self.running.scratch.path().join("state"))
            .env("WEFT_MESH", &self.name)
            .stdin(Stdio::null());
        command
    }

    /// A command in a pod's first container, not started yet.
    pub fn command(&self, namespace: &str, pod: &str, args: &[&str]) -> Command {
        let mut command = self.weft(&["exec", "-n", namespace, pod, "--"]);
        command.args(args);
        command
    }

    /// Runs a command in a container of a pod.
    pub fn in_container(&self, namespace: &str, pod: &str, container: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.weft(&["exec", "-n", namespace, pod, "-c", container, "--"]);
        Ok(command.args(args).output()?)
    }

    /// Runs a command in a pod's first container, and gives what it printed.
    pub fn exec(&self, namespace: &str, pod: &str, args: &[&str]) -> Result<String> {
        let output = self.command(namespace, pod, args).output()?;
        printed(&format!("{} in {namespace}/{pod}", args.join(" ")), output)
    }

    /// What `weft status -o json` says of a pod.
    pub fn pod(&self, namespace: &str, pod: &str) -> Result<Value> {
        let output = self.weft(&["status", "-o", "json"]).output()?;
        let status: Value = serde_json::from_str(&printed("weft status", output)?)?;
        let pods = status["pods"].as_array().context("weft status has no pods")?;
        let found = pods
            .iter()
            .find(|found| found["namespace"] == namespace && found["name"] == pod);
        found
            .cloned()
            .with_context(|| format!("there is no pod {namespace}/{pod}"))
    }

    /// The pid of the process of a container that runs this program.
    pub fn pid(&self, namespace: &str, pod: &str, container: &str, program: &str) -> Result<u32> {
        let status = self.pod(namespace, pod)?;
        let containers = status["containers"].as_array().context("containers")?;
        let found = containers.iter().find(|found| found["name"] == container);
        let pid = found
            .and_then(|found| found["pid"].as_u64())
            .context("a container's pid")?;
        crate::account::family(u32::try_from(pid)?)
            .into_iter()
            .find(|&pid| crate::account::command(pid).is_some_and(|name| name == program))
            .with_context(|| format!("{program} does not run in {namespace}/{pod}"))
    }

    /// The processes of the mesh, or of all clusters, that run `weft ROLE`.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_role(&self, role: &str) -> Result<Vec<u32>> {
        let up = self.running.up.borrow().id();
        let mut all = crate::account::of_role(role)?;
        all.retain(|&pid| crate::account::is_below(pid, up));
        Ok(all)
    }

    /// The first address of a pod.
    pub fn address(&self, namespace: &str, pod: &str) -> Result<String> {
        let status = self.pod(namespace, pod)?;
        let address = status["addresses"][0].as_str().context("a pod's address")?;
        Ok(address.to_owned())
    }
}

impl Running {
    fn start(weft: &Path, scratch: TempDir, args: &[&OsStr]) -> Result<Self> {
        let log = fs::File::create(scratch.path().join("up.log"))?;
        let up = Command::new(weft)
            .arg("up")
            .args(args)
            .env("XDG_STATE_HOME", scratch.path().join("state"))
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("weft up")?;
        let up = RefCell::new(up);
        Ok(Self { scratch, up })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let up = self.up.get_mut();
        let pid = i32::try_from(up.id()).map(nix::unistd::Pid::from_raw);
        if let Ok(pid) = pid {
            // If it has ended, there is nobody to tell.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = up.wait();
    }
}

/// A directory that pods can read, with these programs in it.
fn scratch(programs: &[&Path]) -> Result<TempDir> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmark makes network namespaces and changes their rules: run it as root"
    );
    // Not below /tmp, which is another one in each pod, nor in a home, which an app may not enter.
    let scratch = tempfile::Builder::new().prefix("weft-bench-").tempdir_in("/var/tmp")?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
    for program in programs {
        let name = program.file_name().context("a program's name")?;
        fs::copy(program, scratch.path().join(name)).with_context(|| program.display().to_string())?;
    }
    Ok(scratch)
}

fn manifests(scratch: &TempDir, name: &str, text: &str) -> Result<PathBuf> {
    let directory = scratch.path().join(name);
    fs::create_dir(&directory)?;
    fs::write(directory.join("bench.yaml"), text)?;
    Ok(directory)
}

/// Runs a command in the network namespace of a process, with `input` as its standard input.
pub fn inside(pid: u32, args: &[&str], input: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "--"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nsenter (Debian's package util-linux)")?;
    child
        .stdin
        .take()
        .context("standard input")?
        .write_all(input.as_bytes())?;
    printed(&args.join(" "), child.wait_with_output()?)
}

/// What a command printed, if it succeeded.
pub fn printed(what: &str, output: Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}\n{said}{error}", output.status);
    Ok(said)
}

/// Reads lines of a child until one is this.
pub fn until_says(child: &mut Child, word: &str) -> Result<()> {
    let stdout = child.stdout.as_mut().context("standard output")?;
    let mut said = Vec::new();
    let mut byte = [0];
    while stdout.read(&mut byte)? == 1 {
        said.push(byte[0]);
        if said.ends_with(format!("{word}\n").as_bytes()) {
            return Ok(());
        }
    }
    bail!("ended before it said {word:?}: {}", String::from_utf8_lossy(&said))
}
