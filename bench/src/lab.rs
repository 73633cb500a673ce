//! A mesh with pods, and commands in them: what a user does with `weft`, done by the benchmark.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// A mesh that isn't ready by then never will be.
const START_TIME: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// A running mesh. Dropping it ends it.
pub struct Lab {
    weft: PathBuf,
    name: String,
    scratch: TempDir,
    up: Child,
}

impl Lab {
    /// Starts a mesh of these manifests, with this `weft`. `make`: manifests from the path of a directory that pods can
    /// read, with the programs that were named in it.
    pub fn up(weft: &Path, programs: &[&Path], make: impl FnOnce(&Path) -> String) -> Result<Self> {
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
        let manifests = scratch.path().join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("bench.yaml"), make(scratch.path()))?;
        let name = format!("bench-{}", std::process::id());
        let log = fs::File::create(scratch.path().join("up.log"))?;
        let up = Command::new(weft)
            .args(["up", "--name", &name, "-f"])
            .arg(&manifests)
            .env("XDG_STATE_HOME", scratch.path().join("state"))
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("weft up")?;
        let weft = weft.to_owned();
        let mut lab = Self {
            weft,
            name,
            scratch,
            up,
        };
        lab.wait()?;
        Ok(lab)
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + START_TIME;
        while !self.said().lines().any(|line| line.starts_with("Ready")) {
            if let Some(status) = self.up.try_wait()? {
                bail!("weft up ended ({status}):\n{}", self.said());
            }
            ensure!(Instant::now() < end, "the mesh is not ready:\n{}", self.said());
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.scratch.path().join("up.log")).unwrap_or_default()
    }

    /// Where the programs lie, also for pods.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn weft(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.weft);
        command
            .args(args)
            .env("XDG_STATE_HOME", self.scratch.path().join("state"))
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

    /// The first address of a pod.
    pub fn address(&self, namespace: &str, pod: &str) -> Result<String> {
        let status = self.pod(namespace, pod)?;
        let address = status["addresses"][0].as_str().context("a pod's address")?;
        Ok(address.to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let pid = i32::try_from(self.up.id()).map(nix::unistd::Pid::from_raw);
        if let Ok(pid) = pid {
            // If it has ended, there is nobody to tell.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.up.wait();
    }
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
