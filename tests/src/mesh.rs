//! A mesh under test, driven by the verbs that a user has.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{below, of_role};
use crate::user::User;

/// A mesh that isn't ready by then never will be.
const START_TIME: Duration = Duration::from_secs(60);
const END_TIME: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// The binary under test.
pub fn weft_bin() -> PathBuf {
    let path = std::env::var_os("WEFT_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/weft"));
    assert!(
        path.exists(),
        "{} does not exist: build it (./x build) or name it in WEFT_BIN",
        path.display()
    );
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and needs root: run ./x test as root"
    );
    path
}

/// Says what a mesh starts with.
pub struct MeshBuilder {
    files: BTreeMap<String, String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Option<String>,
    name: Option<String>,
    wait: bool,
    user: Option<User>,
}

/// A running mesh. Dropping it ends it.
pub struct Mesh {
    name: String,
    dir: TempDir,
    child: Child,
    state: PathBuf,
    /// Whose it is, if not root's.
    user: Option<User>,
}

/// What `visitor` printed.
#[derive(Clone, Debug)]
pub struct Tally(pub Value);

/// A command that runs in a pod beside the test.
pub struct Background(Child);

impl MeshBuilder {
    /// A manifest file.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.insert(name.to_owned(), text.to_owned());
        self
    }

    /// An argument of `weft up`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// A variable of `weft up`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What `weft up` reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// A name of one's own choice.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Don't wait until every pod is ready.
    #[must_use]
    pub fn without_waiting(mut self) -> Self {
        self.wait = false;
        self
    }

    /// As somebody who is not root.
    #[must_use]
    pub fn run_by(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Starts the mesh.
    #[track_caller]
    pub fn up(self) -> Mesh {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = self.name.unwrap_or_else(|| format!("t{}-{count}", std::process::id()));
        let dir = tempfile::Builder::new()
            .prefix("weft-test-")
            .tempdir()
            .expect("a temporary directory");
        let state = dir.path().join("state");
        fs::create_dir_all(dir.path().join("manifests")).expect("the directory of manifests");
        for (file, text) in &self.files {
            fs::write(dir.path().join("manifests").join(file), text).expect("a manifest");
        }
        let log = fs::File::create(dir.path().join("up.log")).expect("the log");
        let stdin = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        if let Some(user) = &self.user {
            // The manifests stay root's, as files of an administrator may be: they can be read.
            user.give(dir.path());
        }
        let mut weft = self.user.as_ref().map_or_else(|| Command::new(weft_bin()), User::weft);
        let mut child = weft
            .args(["up", "--name", &name, "-f"])
            .arg(dir.path().join("manifests"))
            .args(&self.args)
            .env("XDG_STATE_HOME", &state)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(self.env)
            .stdin(stdin)
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("weft up starts");
        if let (Some(text), Some(mut stdin)) = (self.stdin, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).expect("weft up reads it");
        }
        let mut mesh = Mesh {
            name,
            dir,
            child,
            state,
            user: self.user,
        };
        if self.wait {
            mesh.ready();
        }
        mesh
    }
}

impl Mesh {
    /// Begins a story.
    #[must_use]
    pub fn builder() -> MeshBuilder {
        MeshBuilder {
            files: BTreeMap::new(),
            args: vec![],
            env: vec![],
            stdin: None,
            name: None,
            wait: true,
            user: None,
        }
    }

    /// The mesh's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid of `weft up`.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// A process inside the mesh's own network namespace, where the bridge is.
    #[track_caller]
    pub fn inside_pid(&self) -> Pid {
        let net = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let host = net(Pid::this());
        let mut all = below(self.pid()).into_iter();
        if let Some(inside) = all.find(|pid| net(*pid).is_some_and(|inside| Some(inside) != host)) {
            return inside;
        }
        panic!(
            "weft up has no process in a network namespace of its own:\n{}",
            self.log()
        )
    }

    /// The control plane's processes, as they are now.
    pub fn control_pids(&self) -> Vec<Pid> {
        self.role_pids("control")
    }

    /// The proxies' processes, as they are now.
    pub fn proxy_pids(&self) -> Vec<Pid> {
        self.role_pids("proxy")
    }

    fn role_pids(&self, role: &str) -> Vec<Pid> {
        of_role(below(self.pid()), role)
    }

    /// Where the manifests lie.
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// What `weft up` has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// Waits until every pod is ready.
    #[track_caller]
    pub fn ready(&mut self) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child") {
                panic!("weft up ended with {status}:\n{}", self.log());
            }
            let status = self.try_status();
            let pods = status
                .as_ref()
                .and_then(|s| s["pods"].as_array().cloned())
                .unwrap_or_default();
            let settled = |pod: &Value| pod["ready"] == true || pod["phase"] == "Succeeded" || pod["phase"] == "Failed";
            if !pods.is_empty() && pods.iter().all(settled) {
                return;
            }
            assert!(
                began.elapsed() < START_TIME,
                "not ready within {START_TIME:?}: {pods:#?}\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the mesh answers at all.
    #[track_caller]
    pub fn answers(&self) {
        crate::host::until("weft status answers", || self.try_status().is_some());
    }

    /// Writes a manifest, the whole file at once.
    #[track_caller]
    pub fn write(&self, file: &str, text: &str) {
        let path = self.manifests().join(file);
        let aside = self.manifests().join(format!(".{file}.new"));
        fs::write(&aside, text).expect("the manifest");
        fs::rename(&aside, &path).expect("the manifest in place");
    }

    /// Writes a manifest where it lies, as some editors do: its first bytes, a pause, the rest.
    #[track_caller]
    pub fn write_in_place(&self, file: &str, text: &str, cut: usize, pause: Duration) {
        let mut out = fs::File::create(self.manifests().join(file)).expect("the manifest");
        let (first, rest) = text.as_bytes().split_at(cut);
        out.write_all(first).expect("the manifest's beginning");
        std::thread::sleep(pause);
        out.write_all(rest).expect("the manifest's end");
    }

    /// Takes a manifest away.
    #[track_caller]
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).expect("the manifest was there");
    }

    /// `weft VERB --name NAME ARGS`.
    pub fn weft<S: AsRef<OsStr>>(&self, verb: &str, args: impl IntoIterator<Item = S>) -> Output {
        self.command(verb).args(args).output().expect("weft runs")
    }

    /// The same, not started yet.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = self.user.as_ref().map_or_else(|| Command::new(weft_bin()), User::weft);
        command
            .arg(verb)
            .args(["--name", &self.name])
            .env("XDG_STATE_HOME", &self.state)
            .stdin(Stdio::null());
        command
    }

    /// `weft status -o json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.try_status()
            .unwrap_or_else(|| panic!("no status:\n{}", self.log()))
    }

    fn try_status(&self) -> Option<Value> {
        let output = self.weft("status", ["-o", "json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("status is JSON"))
    }

    /// Waits until the status is as wanted, and returns it.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                began.elapsed() < END_TIME,
                "not within {END_TIME:?}: {what}\n{status:#}\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Runs a command in a pod.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Output {
        self.weft("exec", [&["-n", namespace, pod, "--"], command].concat())
    }

    /// Runs a command in a pod, which must succeed; what it printed.
    #[track_caller]
    pub fn exec_ok(&self, namespace: &str, pod: &str, command: &[&str]) -> String {
        let output = self.exec(namespace, pod, command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{command:?} in {namespace}/{pod}: {}: {said}",
            output.status
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Starts a command in a pod beside the test.
    #[track_caller]
    pub fn spawn(&self, namespace: &str, pod: &str, command: &[&str]) -> Background {
        let mut weft = self.command("exec");
        weft.args([&["-n", namespace, pod, "--"], command].concat());
        Background(
            weft.stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("weft exec starts"),
        )
    }

    /// Calls an address from a pod with `visitor`.
    #[track_caller]
    pub fn visit(&self, namespace: &str, pod: &str, url: &str, options: &[&str]) -> Tally {
        Tally::read(&self.exec_ok(namespace, pod, &[&["visitor", url], options].concat()))
    }

    /// Calls an address from a pod with `visitor`, beside the test.
    #[track_caller]
    pub fn visit_beside(&self, namespace: &str, pod: &str, url: &str, options: &[&str]) -> Background {
        self.spawn(namespace, pod, &[&["visitor", url], options].concat())
    }

    /// The pods of the status whose name begins so.
    #[track_caller]
    pub fn pods(&self, prefix: &str) -> Vec<Value> {
        let status = self.status();
        let pods = status["pods"].as_array().expect("pods").iter();
        pods.filter(|pod| pod["name"].as_str().is_some_and(|name| name.starts_with(prefix)))
            .cloned()
            .collect()
    }

    /// What a pod's proxy says on its admin port, asked from within the pod: `/metrics`, `/ready`.
    #[track_caller]
    pub fn admin(&self, namespace: &str, pod: &str, path: &str) -> String {
        self.exec_ok(
            namespace,
            pod,
            &["curl", "-sS", &format!("http://127.0.0.1:15020{path}")],
        )
    }

    /// What a pod's proxy believes (`/config`, loopback only).
    #[track_caller]
    pub fn config(&self, namespace: &str, pod: &str) -> Value {
        let text = self.exec_ok(namespace, pod, &["curl", "-sS", "http://127.0.0.1:15021/config"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("/config: {error}: {text}"))
    }

    /// The same by names: two proxies that believe the same of two meshes print the same, but for the meshes' own names.
    #[track_caller]
    pub fn config_by_names(&self, namespace: &str, pod: &str) -> Value {
        let url = "http://127.0.0.1:15021/config?view=names";
        let text = self.exec_ok(namespace, pod, &["curl", "-sS", url]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("/config: {error}: {text}"))
    }

    /// Sends a signal to the control plane, which runs; how many processes got it.
    #[track_caller]
    pub fn signal_control(&self, signal: Signal) -> usize {
        let pids = self.control_pids();
        // One that is ending may be gone by now.
        let got = pids.iter().filter(|pid| kill(**pid, signal).is_ok()).count();
        assert!(got > 0, "the control plane does not run");
        got
    }

    /// Ends the mesh as Ctrl-C would, and returns its exit code and what it said.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        kill(self.pid(), Signal::SIGINT).expect("weft up runs");
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child") {
                return (status.code(), self.log());
            }
            assert!(
                began.elapsed() < END_TIME,
                "weft up did not end within {END_TIME:?}:\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end just now.
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- weft up {} said:\n{}", self.name, self.log());
            self.print_logs();
        }
    }
}

impl Mesh {
    /// The last words of the proxies and of the control plane.
    fn print_logs(&self) {
        const LINES: usize = 12;
        let list = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
        let logs = self.state.join("weft").join(&self.name).join("logs");
        let pods = list(logs).flat_map(|namespace| list(namespace.path()));
        for log in pods.flat_map(|pod| list(pod.path())) {
            let ours = ["weft-proxy.log", "weft-control.log"]
                .iter()
                .any(|name| log.file_name() == *name);
            if let Some(text) = ours.then(|| fs::read_to_string(log.path()).ok()).flatten() {
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
                eprintln!("--- {}:\n{last}", log.path().display());
            }
        }
    }
}

impl Background {
    /// Waits for it; what it printed.
    #[track_caller]
    pub fn output(self) -> String {
        let output = self.0.wait_with_output().expect("weft exec ends");
        assert!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits for a `visitor`; its tally.
    #[track_caller]
    pub fn tally(self) -> Tally {
        Tally::read(&self.output())
    }
}

impl Tally {
    #[track_caller]
    fn read(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_else(|error| panic!("visitor printed {text:?}: {error}")))
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        self.0["calls"].as_u64().unwrap_or(0)
    }

    /// How many were answered with 2xx.
    pub fn ok(&self) -> u64 {
        self.0["ok"].as_u64().unwrap_or(0)
    }

    /// How many were answered by this version.
    pub fn version(&self, version: &str) -> u64 {
        self.0["versions"][version].as_u64().unwrap_or(0)
    }

    /// The pods that answered.
    pub fn pods(&self) -> Vec<String> {
        self.0["pods"]
            .as_object()
            .map(|pods| pods.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Every call was made and answered.
    #[track_caller]
    pub fn none_failed(&self) -> &Self {
        assert!(self.calls() > 0 && self.calls() == self.ok(), "{:#}", self.0);
        self
    }
}
