//! A Kubernetes cluster under test, driven by the verbs that its users have.
//!
//! One cluster serves all tests of a run, each in a namespace of its own. With `USE_EXISTING_CLUSTER=1` it is the one that
//! `KUBECONFIG` names, which must have the images of `./x image all`; else `./x cluster` makes one and loads them.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

mod namespace;

pub use namespace::Namespace;

/// What a pod, a Deployment or a webhook is waited for. A busy machine of two cores needs a tenth of it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster, and how to speak to it.
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Ends with this process, however that ends, since it reads a pipe of ours; then it takes the cluster down.
    #[expect(dead_code, reason = "held, so that the pipe stays open")]
    keeper: Option<Child>,
}

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `./x cluster ARGS`, not started yet.
#[must_use]
pub fn x_cluster<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(root().join("x"));
    command.arg("cluster").args(args).stdin(Stdio::null());
    command
}

/// The image of that name as `./x image` names it.
#[must_use]
pub fn image(name: &str) -> String {
    format!("weft.dev/{name}:{}", env!("CARGO_PKG_VERSION"))
}

/// Where `./x image` has put the image of that name.
#[must_use]
pub fn image_tar(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let tar = target.join("image").join(format!("{name}.tar"));
    assert!(tar.exists(), "{} does not exist: ./x image all makes it", tar.display());
    tar
}

impl Cluster {
    /// The one that all tests of this process share.
    #[track_caller]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| match is_existing() {
            true => Self::existing(),
            false => Self::own(),
        })
    }

    /// One that `./x cluster` has made, of two nodes: the shared one, unless that is somebody's.
    #[track_caller]
    pub fn made() -> &'static Self {
        static MADE: OnceLock<Cluster> = OnceLock::new();
        match is_existing() {
            true => MADE.get_or_init(Self::own),
            false => Self::shared(),
        }
    }

    fn existing() -> Self {
        let kubeconfig = std::env::var_os("KUBECONFIG").expect("USE_EXISTING_CLUSTER needs KUBECONFIG");
        Self {
            kubeconfig: kubeconfig.into(),
            keeper: None,
        }
    }

    fn own() -> Self {
        let name = std::env::var("WEFT_TEST_CLUSTER").unwrap_or_else(|_| format!("t{}", std::process::id()));
        Self::held(&name, &["--bare", "--crds", "standard"], &["weft", "shop", "tools"])
    }

    /// One of that name for a test alone, made with these options of `./x cluster up`, with these images on its nodes. It is
    /// taken down when this process ends.
    #[track_caller]
    pub fn held(name: &str, options: &[&str], images: &[&str]) -> Self {
        let mut keeper = x_cluster(["hold", name])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("./x runs");
        let said = BufReader::new(keeper.stdout.take().expect("its output")).lines().next();
        let line = said.and_then(Result::ok).unwrap_or_default();
        let Some(kubeconfig) = line.strip_prefix("export KUBECONFIG=") else {
            panic!("./x cluster hold did not bring a cluster up; it says why above");
        };
        let cluster = Self {
            kubeconfig: kubeconfig.into(),
            keeper: Some(keeper),
        };
        if !images.is_empty() {
            let mut load = x_cluster(["--name", name, "load"]);
            let loaded = load.args(images.iter().map(|image| image_tar(image))).status();
            assert!(
                loaded.is_ok_and(|status| status.success()),
                "the images can't be loaded"
            );
        }
        cluster
    }

    /// The configuration that leads to it.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl ARGS`, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(kubectl());
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// `kubectl ARGS`, whatever comes of it.
    pub fn try_kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().expect("kubectl runs")
    }

    /// What `kubectl ARGS` prints. It must succeed.
    #[track_caller]
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(args);
        let output = command.output().expect("kubectl runs");
        assert!(output.status.success(), "{command:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl get WHAT -o json`.
    #[track_caller]
    pub fn get<S: AsRef<OsStr>>(&self, what: impl IntoIterator<Item = S>) -> Value {
        let mut args = vec!["get".into(), "-o".into(), "json".into()];
        args.extend(what.into_iter().map(|word| word.as_ref().to_owned()));
        serde_json::from_str(&self.kubectl(args)).expect("kubectl prints JSON")
    }

    /// `kubectl apply` of manifests.
    #[track_caller]
    pub fn apply(&self, args: &[&str], manifests: &str) {
        let output = self.try_apply(args, manifests);
        assert!(output.status.success(), "{}\nof\n{manifests}", said(&output));
    }

    /// The same, whatever comes of it.
    pub fn try_apply(&self, args: &[&str], manifests: &str) -> Output {
        let mut child = self
            .command(["apply", "-f", "-"].iter().chain(args))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("its input");
        // One that has refused its arguments reads nothing; its exit says so.
        let _ = stdin.write_all(manifests.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("kubectl ends")
    }

    /// `kubectl apply` of the first pods of meshed namespaces, once the API server takes them: the rules for the webhook's endpoint
    /// come to its node some time after that is ready, and a new namespace's ServiceAccount some time after that.
    #[track_caller]
    pub fn apply_meshed(&self, args: &[&str], manifests: &str) {
        let applied = || self.try_apply(args, manifests);
        let so = || applied().status.success().then_some(());
        until("meshed pods are made", so, || said(&applied()));
    }

    /// A namespace with these labels, for one test. It goes when it is dropped.
    #[track_caller]
    pub fn namespace(&self, labels: &[(&str, &str)]) -> Namespace<'_> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Namespace::new(self, format!("t{}-{count}", std::process::id()), labels)
    }

    /// The cluster's nodes.
    #[track_caller]
    pub fn nodes(&self) -> Vec<Value> {
        self.get(["nodes"])["items"].as_array().cloned().unwrap_or_default()
    }
}

fn is_existing() -> bool {
    matches!(std::env::var("USE_EXISTING_CLUSTER").as_deref(), Ok("1" | "true"))
}

/// Waits, bounded, until something is so; `now` is what is told if it never is.
#[track_caller]
pub fn until<T>(what: &str, so: impl Fn() -> Option<T>, now: impl Fn() -> String) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = so() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", now());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What a command said, both ways.
#[must_use]
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// The `kubectl` of `KUBEBUILDER_ASSETS`, else the one that `./x cluster` has built, else the machine's.
fn kubectl() -> PathBuf {
    static KUBECTL: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let built = Command::new(root().join("cluster/cluster.sh")).arg("assets").output();
        let built = built.ok().filter(|output| output.status.success());
        let built = built.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        let places = assets.into_iter().chain(built).map(|place| place.join("kubectl"));
        places
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| "kubectl".into())
    };
    KUBECTL.get_or_init(find).clone()
}
