//! The demo's mesh, or clusters: `weft up` as a child process, asked and driven by this binary's own verbs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::tied;

/// Where traces go.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// How long the mesh may take to start and to end.
const START_TIME: Duration = Duration::from_secs(60);
const END_TIME: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// What a mesh is made from: its name, and its manifests by file.
pub(super) type Wanted<'a> = (String, &'a [(&'a str, &'a str)]);

/// A running `weft up`.
pub(super) struct Up {
    /// One, or several clusters.
    meshes: Vec<Mesh>,
    /// Holds the manifests and the log. Removed in the end, unless the mesh is kept.
    dir: TempDir,
    child: Child,
    kept: bool,
}

/// One of its meshes.
pub(super) struct Mesh {
    name: String,
    /// The directory of manifests, by which the mesh is known to be this one.
    files: PathBuf,
}

impl Up {
    /// Writes the manifests aside and starts `weft up` on them: one mesh, or several clusters. `name`: the demo's; `keep`: it
    /// may outlive this process; otherwise it ends with the thread that calls this, however that ends.
    pub(super) fn start(name: &str, wanted: &[Wanted<'_>], collector: Option<&str>, keep: bool) -> Result<Self> {
        // A new one of our own: in a directory that somebody else has made, links could lead anywhere.
        let dir = tempfile::Builder::new()
            .prefix(&format!("weft-{name}-"))
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .context("making a directory for the manifests")?;
        let meshes = wanted
            .iter()
            .map(|(name, manifests)| {
                let place = match wanted.len() {
                    1 => "manifests",
                    _ => name.as_str(),
                };
                Mesh::write_all(name, &dir.path().join(place), manifests)
            })
            .collect::<Result<Vec<Mesh>>>()?;
        let log = std::fs::File::create(dir.path().join("up.log")).context("making up.log")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("up");
        let named = if meshes.len() == 1 { "--name" } else { "--cluster" };
        for mesh in &meshes {
            command.args([named, &mesh.name, "-f"]).arg(&mesh.files);
        }
        if !keep {
            command.envs(tied::with_this_process(dir.path()));
        }
        match collector {
            Some(collector) => command.env(COLLECTOR, collector),
            None => command.env_remove(COLLECTOR),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C is for the demo, which then ends the mesh in its own order.
            .process_group(0)
            .spawn()
            .context("starting weft up")?;
        Ok(Self {
            meshes,
            dir,
            child,
            kept: false,
        })
    }

    /// Its meshes, in the order in which they were wanted.
    pub(super) fn meshes(&self) -> &[Mesh] {
        &self.meshes
    }

    /// Waits until every pod is ready. Returns how long it took.
    ///
    /// # Errors
    /// `weft up` has ended, with what it said: another mesh may have the name. That one is not taken for this one.
    pub(super) async fn ready(&mut self) -> Result<Duration> {
        let began = Instant::now();
        while began.elapsed() < START_TIME {
            if let Some(status) = self.child.try_wait()? {
                match self.last_lines() {
                    said if said.is_empty() => bail!("weft up ended with {status}"),
                    said => bail!("{}", said.strip_prefix("weft up: ").unwrap_or(&said)),
                }
            }
            let mut ready = true;
            for mesh in &self.meshes {
                ready &= mesh.is_ready().await;
            }
            if ready {
                return Ok(began.elapsed());
            }
            sleep(POLL).await;
        }
        bail!("the mesh was not ready within {START_TIME:?}:\n{}", self.last_lines())
    }

    /// Whether there is anything to end.
    pub(super) fn is_running(&self) -> bool {
        self.child.id().is_some()
    }

    /// Ends the mesh and waits for it.
    pub(super) async fn end(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("ending weft up")?;
        }
        let ended = timeout(END_TIME, self.child.wait()).await;
        let status = ended.with_context(|| format!("weft up did not end within {END_TIME:?}"))??;
        ensure!(status.success(), "weft up ended with {status}:\n{}", self.last_lines());
        Ok(())
    }

    /// Leaves the mesh to itself.
    pub(super) fn leave_running(mut self) {
        self.kept = true;
        self.dir.disable_cleanup(true);
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Mesh {
    fn write_all(name: &str, files: &Path, manifests: &[(&str, &str)]) -> Result<Self> {
        std::fs::create_dir(files).with_context(|| format!("making {}", files.display()))?;
        let files = files.canonicalize().context("looking for the manifests")?;
        let mesh = Self {
            name: name.to_owned(),
            files,
        };
        for (file, text) in manifests {
            mesh.write(file, text)?;
        }
        Ok(mesh)
    }

    /// What the verbs call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the manifests lie.
    pub(super) fn manifests(&self) -> &Path {
        &self.files
    }

    async fn is_ready(&self) -> bool {
        let status = self.status().await;
        status.is_ok_and(|status| is_on(&status, &self.files) && all_ready(&status))
    }

    /// `weft status -o json`.
    pub(super) async fn status(&self) -> Result<Value> {
        let text = self.weft(&["status", "-o", "json"]).await?;
        serde_json::from_str(&text).context("reading weft status")
    }

    /// Runs a program in a pod, and returns what it printed as JSON.
    pub(super) async fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Value> {
        let text = self
            .weft(&[&["exec", "-n", namespace, pod, "--"], command].concat())
            .await?;
        serde_json::from_str(&text).with_context(|| format!("reading what {} printed: {text:?}", command[0]))
    }

    /// Replaces text in a manifest, as an editor would: the whole file at once.
    pub(super) fn edit(&self, file: &str, from: &str, to: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.files.join(file)).with_context(|| format!("reading {file}"))?;
        ensure!(text.contains(from), "{file} has no {from:?}");
        self.write(file, &text.replace(from, to))
    }

    /// Writes a manifest, the whole file at once.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.files.join(file);
        let aside = path.with_extension("new");
        std::fs::write(&aside, text).with_context(|| format!("writing {file}"))?;
        std::fs::rename(&aside, &path).with_context(|| format!("replacing {file}"))
    }

    /// Removes a manifest.
    pub(super) fn remove(&self, file: &str) -> Result<()> {
        std::fs::remove_file(self.files.join(file)).with_context(|| format!("removing {file}"))
    }

    async fn weft(&self, args: &[&str]) -> Result<String> {
        let (verb, rest) = args.split_first().context("a verb")?;
        program(&[&[verb, "--name", &self.name], rest].concat()).await
    }
}

/// Runs this binary, as a user would. Returns what it printed.
///
/// # Errors
/// It ended with another exit code than 0; with what it said.
pub(super) async fn program(args: &[&str]) -> Result<String> {
    let verb = args.first().context("a verb")?;
    let output = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running weft {verb}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "weft {verb} ended with {}: {}",
        output.status,
        said.trim()
    );
    String::from_utf8(output.stdout).context("what it printed")
}

impl Drop for Up {
    /// Whatever happens, the mesh does not outlive the demo by accident.
    fn drop(&mut self) {
        if let (false, Some(pid)) = (self.kept, self.child.id())
            && let Ok(pid) = i32::try_from(pid)
        {
            // It may have ended just now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

/// Whether this is the status of a mesh that runs on this directory. The name alone says nothing: another mesh may have it.
fn is_on(status: &Value, files: &Path) -> bool {
    let places = status["sources"]["places"].as_array();
    places.is_some_and(|places| places.iter().any(|place| place["directory"].as_str() == files.to_str()))
}

fn all_ready(status: &Value) -> bool {
    let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
    !pods.is_empty() && pods.iter().all(|pod| pod["ready"] == Value::Bool(true))
}

/// The region of each pod, from `weft status -o json`.
pub(super) fn region_of<'a>(status: &'a Value, pod: &str) -> &'a str {
    let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
    pods.iter()
        .find(|p| p["name"] == *pod)
        .and_then(|p| p["region"].as_str())
        .unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mesh_of_the_same_name_on_other_manifests_is_another_mesh() {
        let status = json!({"mesh": "demo", "sources": {"places": [{"directory": "/tmp/weft-demo-a/manifests"}]}});
        assert!(is_on(&status, Path::new("/tmp/weft-demo-a/manifests")));
        assert!(!is_on(&status, Path::new("/tmp/weft-demo-b/manifests")));
        assert!(!is_on(&json!({}), Path::new("/tmp/weft-demo-b/manifests")));
    }
}
