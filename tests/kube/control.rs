//! `weft control --kubernetes` as a process of this machine, on a cluster of its own: it writes to every labelled namespace, and
//! one test kills the API server.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use weft_tests::kube::{Cluster, until};
use weft_tests::mesh::weft_bin;

/// A pod that does nothing, in an image that every node has.
pub(crate) const APP: &str = "{apiVersion: v1, kind: Pod, metadata: {name: app}, \
                    spec: {containers: [{name: app, image: 'localhost/pause:1', imagePullPolicy: Never}]}}";

/// The namespace of the control plane.
pub(crate) const OWN: &str = "weft-system";

/// The cluster, with one control plane on it.
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) cluster: Cluster,
    pub(crate) control: Control,
}

/// Held for reading by tests that share the API server and the one control plane; for writing by those that take the former
/// away, or start others of the latter, which write to labelled namespaces, too.
static SHARED: RwLock<()> = RwLock::new(());

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let name = format!("s{}", std::process::id());
        let cluster = Cluster::held(&name, &["--nodes", "1", "--bare", "--crds", "standard"], &[]);
        cluster.kubectl(["create", "namespace", OWN]);
        let control = Control::start(&cluster, &[]);
        World { name, cluster, control }
    })
}

pub(crate) fn together() -> RwLockReadGuard<'static, ()> {
    SHARED.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    SHARED.write().unwrap_or_else(PoisonError::into_inner)
}

/// A process of Weft. Ends when it is dropped, or with this process.
pub(crate) struct Process {
    pub(crate) child: Child,
    directory: TempDir,
}

impl Process {
    pub(crate) fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = File::create(directory.path().join("log")).expect("a log");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(weft_bin())
            .args(args)
            .env("WEFT_STATE_DIR", directory.path().join("state"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = spawn(command);
        Self { child, directory }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// Starts a process that ends with this one, even if this one is killed. What is watched for that is the thread that starts it:
/// so it is one that stays.
fn spawn(command: Command) -> Child {
    type Order = (Command, SyncSender<Child>);
    static SPAWNER: OnceLock<SyncSender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (order, orders) = sync_channel::<Order>(16);
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                answer
                    .send(command.spawn().expect("setpriv and weft run"))
                    .expect("it is waited for");
            }
        });
        order
    });
    let (answer, child) = sync_channel(1);
    spawner.send((command, answer)).expect("the thread stays");
    child.recv().expect("it runs")
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A control plane.
pub(crate) struct Control {
    pub(crate) process: Process,
    /// Where proxies and admin are answered.
    pub(crate) listen: String,
    admin: String,
}

impl Control {
    pub(crate) fn start(cluster: &Cluster, flags: &[&str]) -> Self {
        let kubeconfig = cluster.kubeconfig().to_str().expect("a path of text");
        let flags = [&["--kubernetes", "--federation-listen", "127.0.0.1:0"], flags].concat();
        Self::run(&flags, &[("KUBECONFIG", kubeconfig)])
    }

    /// One with these flags, wherever its objects come from.
    pub(crate) fn run(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut args = vec!["control", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        args.extend(flags);
        let process = Process::start(&args, environment);
        let serving = || {
            let log = process.log();
            let line = log.lines().find(|line| line.contains("serving address="))?;
            let of = |key: &str| Some(line.split_once(key)?.1.split_whitespace().next()?.to_owned());
            Some((of(" address=")?, of(" admin=")?))
        };
        let (listen, admin) = until("the control plane serves", serving, || process.log());
        Self { process, listen, admin }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).expect("admin answers");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a socket");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("admin reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status")).expect("status is JSON")
    }

    /// How a kind is doing.
    pub(crate) fn kind(&self, kind: &str) -> Value {
        let status = self.status();
        let kinds = status["source"].as_array().cloned().unwrap_or_default();
        kinds
            .into_iter()
            .find(|each| each["kind"] == kind)
            .expect("a kind that is followed")
    }

    /// The status of a condition of an object.
    pub(crate) fn condition(&self, kind: &str, namespace: &str, name: &str, condition: &str) -> Option<Value> {
        let status = self.status();
        let objects = status["objects"].as_array()?;
        let of = |object: &&Value| object["kind"] == kind && object["namespace"] == namespace && object["name"] == name;
        let conditions = objects.iter().find(of)?["conditions"].as_array()?.clone();
        conditions.into_iter().find(|each| each["type"] == condition)
    }

    /// Where it publishes whom to trust.
    pub(crate) fn trust(&self) -> PathBuf {
        self.process.directory.path().join("state/trust")
    }

    pub(crate) fn root(&self) -> String {
        std::fs::read_to_string(self.trust().join("roots.pem")).expect("the roots are published")
    }
}
