//! Several clusters under test, of one `weft up`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::host::until;
use crate::mesh::weft_bin;
use crate::processes::{below, of_role, words};
use crate::user::User;

/// Clusters that have not ended by then never will.
const END_TIME: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Says what clusters start with.
pub struct ClustersBuilder {
    clusters: Vec<(String, String)>,
    args: Vec<String>,
    user: Option<User>,
    wait: bool,
}

/// Running clusters. Dropping them ends them.
pub struct Clusters {
    /// Each cluster's name as tests call it, and as it is.
    names: Vec<(String, String)>,
    dir: TempDir,
    child: Child,
    user: Option<User>,
}

impl ClustersBuilder {
    /// A cluster with these manifests.
    #[must_use]
    pub fn cluster(mut self, name: &str, manifests: &str) -> Self {
        self.clusters.push((name.to_owned(), manifests.to_owned()));
        self
    }

    /// An argument of `weft up`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// As somebody who is not root.
    #[must_use]
    pub fn run_by(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Don't wait until every cluster is ready.
    #[must_use]
    pub fn without_waiting(mut self) -> Self {
        self.wait = false;
        self
    }

    /// Starts the clusters.
    #[track_caller]
    pub fn up(self) -> Clusters {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("weft-test-")
            .tempdir()
            .expect("a temporary directory");
        let log = fs::File::create(dir.path().join("up.log")).expect("the log");
        if let Some(user) = &self.user {
            user.give(dir.path());
        }
        let mut weft = command(self.user.as_ref(), &dir);
        weft.arg("up").args(&self.args);
        let mut names = Vec::new();
        for (short, manifests) in &self.clusters {
            // Processes are found by it.
            let name = format!("{short}-{}-{count}", std::process::id());
            let place = dir.path().join(format!("manifests-{short}"));
            fs::create_dir(&place).expect("the directory of manifests");
            fs::write(place.join("all.yaml"), manifests).expect("the manifests");
            weft.args(["--cluster", &name, "-f"]).arg(place);
            names.push((short.clone(), name));
        }
        let child = weft
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("weft up starts");
        let clusters = Clusters {
            names,
            dir,
            child,
            user: self.user,
        };
        if self.wait {
            clusters.ready();
        }
        clusters
    }
}

fn command(user: Option<&User>, dir: &TempDir) -> Command {
    let mut weft = user.map_or_else(|| Command::new(weft_bin()), User::weft);
    weft.env("XDG_STATE_HOME", dir.path().join("state"))
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .stdin(Stdio::null());
    weft
}

impl Clusters {
    /// Begins a story.
    #[must_use]
    pub fn builder() -> ClustersBuilder {
        ClustersBuilder {
            clusters: vec![],
            args: vec![],
            user: None,
            wait: true,
        }
    }

    /// The pid of `weft up`.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// What a cluster is really called.
    #[track_caller]
    pub fn name(&self, cluster: &str) -> &str {
        let found = self.names.iter().find(|(short, _)| short == cluster);
        &found.expect("a cluster of this name").1
    }

    /// What `weft up` has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// The state directory of a cluster.
    pub fn state(&self, cluster: &str) -> PathBuf {
        self.dir.path().join("state/weft").join(self.name(cluster))
    }

    #[track_caller]
    fn ready(&self) {
        for (short, _) in &self.names {
            until(&format!("{short} is ready: {}", self.log()), || {
                self.try_status(short).is_some_and(|status| status["ready"] == true)
            });
        }
    }

    fn try_status(&self, cluster: &str) -> Option<Value> {
        let output = self.weft(cluster, "status", &["-o", "json"]);
        let read = || serde_json::from_slice(&output.stdout).expect("status is JSON");
        output.status.success().then(read)
    }

    /// `weft status -o json` of a cluster.
    #[track_caller]
    pub fn status(&self, cluster: &str) -> Value {
        self.try_status(cluster)
            .unwrap_or_else(|| panic!("no status:\n{}", self.log()))
    }

    /// `weft VERB --name CLUSTER ARGS`.
    pub fn weft(&self, cluster: &str, verb: &str, args: &[&str]) -> Output {
        self.run(&[&[verb, "--name", self.name(cluster)], args].concat())
            .output()
            .expect("weft runs")
    }

    /// `weft ARGS`, not started yet.
    pub fn run(&self, args: &[&str]) -> Command {
        let mut weft = command(self.user.as_ref(), &self.dir);
        weft.args(args);
        weft
    }

    /// `weft link VERB FROM TO`, which must succeed.
    #[track_caller]
    pub fn link(&self, verb: &str, from: &str, to: &str, options: &[&str]) {
        let output = self.try_link(verb, from, self.name(to), options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {from} {to}: {said}");
    }

    /// The same, however it ends. `to` is taken as it is.
    pub fn try_link(&self, verb: &str, from: &str, to: &str, options: &[&str]) -> Output {
        let mut weft = command(self.user.as_ref(), &self.dir);
        weft.args(["link", verb, self.name(from), to]).args(options);
        weft.output().expect("weft runs")
    }

    /// Writes one more file of manifests, or another version of one.
    pub fn manifest(&self, cluster: &str, file: &str, text: &str) {
        fs::write(self.manifests(cluster).join(file), text).expect("the manifests");
    }

    /// A line of a shell, as a user types it: `weft` is the binary under test.
    pub fn shell(&self, line: &str) -> Output {
        Command::new("sh")
            .args(["-c", &format!("weft() {{ \"$WEFT_BIN\" \"$@\"; }}\n{line}")])
            .env("WEFT_BIN", weft_bin())
            .env("XDG_STATE_HOME", self.dir.path().join("state"))
            .stdin(Stdio::null())
            .output()
            .expect("sh runs")
    }

    /// Where the manifests of a cluster lie.
    pub fn manifests(&self, cluster: &str) -> PathBuf {
        self.dir.path().join(format!("manifests-{cluster}"))
    }

    /// What a cluster's control plane says of another one. Null: it knows none of that name.
    #[track_caller]
    pub fn peer_of(&self, here: &str, there: &str) -> Value {
        self.peer_called(here, self.name(there))
    }

    /// The same, by the name that the other one really has.
    #[track_caller]
    pub fn peer_called(&self, here: &str, name: &str) -> Value {
        let peers = self.peers(here);
        let mut all = peers.as_array().expect("peers").iter();
        all.find(|peer| peer["cluster"] == name).cloned().unwrap_or_default()
    }

    /// How the link of a cluster to another one is, in a word.
    #[track_caller]
    pub fn link_state(&self, here: &str, there: &str) -> String {
        let peer = self.peer_of(here, there);
        peer["link"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// The process that a cluster's node is: its network is the node's.
    #[track_caller]
    pub fn node(&self, cluster: &str) -> Pid {
        let settings = format!("{{\"mesh\":\"{}\"", self.name(cluster));
        let is_it = |pid: &Pid| {
            let words = words(*pid);
            words.get(3).is_some_and(|word| word == "mesh") && words.iter().any(|word| word.starts_with(&settings))
        };
        // What a supervisor is about to start looks as it does itself until then; but it has nothing below it.
        let supervises = |pid: &Pid| below(*pid).iter().any(|below| !is_it(below));
        let found = below(self.pid()).into_iter().rfind(|pid| is_it(pid) && supervises(pid));
        found.unwrap_or_else(|| panic!("{cluster} has no supervisor:\n{}", self.log()))
    }

    /// The processes of a cluster that play a role: `control`, `gateway`.
    #[track_caller]
    pub fn role(&self, cluster: &str, role: &str) -> Vec<Pid> {
        of_role(below(self.node(cluster)), role)
    }

    /// What a pod's proxy or gateway says on its admin port.
    #[track_caller]
    pub fn admin(&self, cluster: &str, namespace: &str, pod: &str, path: &str) -> String {
        let url = format!("http://127.0.0.1:15020{path}");
        let output = self.weft(cluster, "exec", &["-n", namespace, pod, "--", "curl", "-sS", &url]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{cluster}: {namespace}/{pod}{path}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The control plane's own word on other clusters: its peers, by the names of `weft up`.
    #[track_caller]
    pub fn peers(&self, cluster: &str) -> Value {
        self.control(cluster)["peers"].clone()
    }

    /// `GET /status` of the control plane.
    #[track_caller]
    pub fn control(&self, cluster: &str) -> Value {
        let socket = self.state(cluster).join("control/admin.sock");
        let mut stream = UnixStream::connect(&socket).expect("the control plane's socket");
        stream
            .write_all(b"GET /status HTTP/1.0\r\nhost: x\r\n\r\n")
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }

    /// The ClusterPeer by which others know a cluster, with more fields of its spec.
    #[track_caller]
    pub fn peer(&self, cluster: &str, more: &str) -> String {
        let status = self.control(cluster);
        let mesh = &status["mesh"];
        let federation = &mesh["federation"];
        let roots = federation["roots"]
            .as_str()
            .expect("its roots")
            .replace('\n', "\n      ");
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: {}}}\nspec:\n  trustDomain: {}\n  \
             network: {}\n  endpoints: {}\n  gateways: {}\n  trustBundle:\n    sequence: {}\n    roots: |\n      {roots}\n{more}",
            text(&mesh["cluster"]),
            text(&mesh["trustDomain"]),
            text(&federation["network"]),
            federation["endpoints"],
            federation["gateways"],
            federation["bundleSequence"],
        )
    }

    /// Links two clusters, each of which imports the namespace shop of the other.
    #[track_caller]
    pub fn link_up(&self, one: &str, other: &str) {
        for (here, there) in [(one, other), (other, one)] {
            let peer = self.peer(there, "  imports: [{namespaces: [shop]}]\n");
            self.manifest(here, &format!("peer-{there}.yaml"), &peer);
        }
        for (here, there) in [(one, other), (other, one)] {
            until(&format!("{here} hears {there}"), || {
                self.link_state(here, there) == "Connected"
            });
        }
    }

    /// Runs a command in a pod of the namespace `default`.
    pub fn exec(&self, cluster: &str, pod: &str, command: &[&str]) -> Output {
        self.weft(cluster, "exec", &[&[pod, "--"], command].concat())
    }

    /// The addresses of a pod, IPv4 first.
    #[track_caller]
    pub fn addresses(&self, cluster: &str, pod: &str) -> Vec<String> {
        let status = self.status(cluster);
        let pods = status["pods"].as_array().expect("pods").iter();
        let mut found = pods.filter(|one| one["name"] == pod);
        strings(&found.next().expect("the pod")["addresses"])
    }

    /// The addresses of the first pod of a namespace whose name begins so.
    #[track_caller]
    pub fn addresses_in(&self, cluster: &str, namespace: &str, prefix: &str) -> Vec<String> {
        let output = self.weft(cluster, "status", &["-n", namespace, "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).expect("status is JSON");
        let pods = status["pods"].as_array().expect("pods").iter();
        let mut found = pods.filter(|one| one["name"].as_str().is_some_and(|name| name.starts_with(prefix)));
        strings(&found.next().expect("the pod")["addresses"])
    }

    /// The addresses of a cluster's node on the wire, IPv4 first.
    #[track_caller]
    pub fn nodes(&self, cluster: &str) -> Vec<String> {
        strings(&self.status(cluster)["nodeAddresses"])
    }

    /// Waits until `weft up` has ended: its exit code, and what it said.
    #[track_caller]
    pub fn ended(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child") {
                return (status.code(), self.log());
            }
            assert!(began.elapsed() < END_TIME, "weft up goes on:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// Ends the clusters as Ctrl-C would.
    #[track_caller]
    pub fn end(self) -> (Option<i32>, String) {
        kill(self.pid(), Signal::SIGINT).expect("weft up runs");
        self.ended()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect()
}

impl Drop for Clusters {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end just now.
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- weft up said:\n{}", self.log());
        }
    }
}
