//! Two real clusters with Weft, and in each a shop: what a person does with them, and calls from one of them.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;
use weft_tests::kube::{Cluster, PATIENCE, image, root, said, until};
use weft_tests::load::{ENOUGH, Protocol};
use weft_tests::mesh::weft_bin;
use weft_tests::reviews::{Answers, OWN_NAME, read};

/// A strict namespace with the app behind two Services, of which one is exported, and a client that is not in the mesh.
const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/inject: enabled}, annotations: {config.weft.dev/inbound: strict}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  selector: {app: reviews}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: grpc, port: 7000, targetPort: 8081}
    - {name: lines, port: 9000, targetPort: 8082}
---
apiVersion: v1
kind: Service
metadata: {name: private, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: reviews, namespace: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews, namespace: shop}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews}}
    spec:
      terminationGracePeriodSeconds: 15
      containers:
        - name: reviews
          image: LOAD_IMAGE
          command: [weft-load-peer, serve]
          env: [{name: CLUSTER, value: SIDE}]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          # Callers hear that it goes before it stops accepting.
          lifecycle: {preStop: {sleep: {seconds: 3}}}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: stranger, image: TOOLS_IMAGE, command: [sleep, infinity]}]
";

/// A client in the mesh.
const CLIENT: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: shop}
spec:
  terminationGracePeriodSeconds: 0
  # Each stream and conversation looks the name up: a datagram of DNS that is lost costs a second, and not the five of the default.
  dnsConfig: {options: [{name: timeout, value: '1'}, {name: attempts, value: '4'}]}
  containers: [{name: client, image: LOAD_IMAGE, command: [sleep, infinity]}]
";
/// The pods of the gateways.
const GATEWAYS: &str = "app.kubernetes.io/component=gateway";
/// The one that is there from the beginning.
const FIRST: &str = "client";

/// What all of them are installed with: the nodes' ports are what clusters on one wire reach of each other.
const VALUES: &str = "federation.enabled=true,federation.bundleEndpoint.enabled=true,federation.service.type=NodePort,\
                      gateways.enabled=true,gateways.service.type=NodePort";

/// One of the two clusters.
pub(super) struct Side {
    /// What it calls itself.
    pub(super) name: &'static str,
    /// What `./x cluster` calls it.
    pub(super) machine: String,
    pub(super) cluster: Cluster,
}

impl Side {
    pub(super) fn new(name: &'static str) -> Self {
        let machine = format!("{}{}", &name[..1], std::process::id());
        let options = ["--nodes", "1", "--bare", "--crds", "standard"];
        let cluster = Cluster::held(&machine, &options, &["weft", "tools", "load"]);
        Self { name, machine, cluster }
    }

    pub(super) fn weft(&self, args: &[&str]) -> Output {
        weft(self.cluster.kubeconfig(), args, None)
    }

    /// What `weft ARGS` prints, which must succeed.
    #[track_caller]
    pub(super) fn printed(&self, args: &[&str]) -> String {
        let output = self.weft(args);
        assert!(output.status.success(), "{}: {}", self.name, said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Installs Weft with the values of all and these, and waits until it is there.
    #[track_caller]
    pub(super) fn install(&self, more: &str) {
        let set = format!("cluster={},{VALUES}{more}", self.name);
        self.cluster
            .apply(&["--server-side"], &self.printed(&["install", "--set", &set]));
        for deployment in ["weft-control", "weft-injector", "weft-gateway"] {
            self.rolled_out("weft-system", deployment);
        }
        let well = || self.weft(&["check"]).status.success().then_some(());
        until("what is installed is well", well, || said(&self.weft(&["check"])));
    }

    #[track_caller]
    pub(super) fn rolled_out(&self, namespace: &str, deployment: &str) {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        let args = [
            "-n",
            namespace,
            "rollout",
            "status",
            "deployment",
            deployment,
            &patience,
        ];
        let output = self.cluster.try_kubectl(args);
        let state = || said(&self.cluster.try_kubectl(["-n", namespace, "describe", "pods"]));
        assert!(output.status.success(), "{}: {}\n{}", self.name, said(&output), state());
    }

    #[track_caller]
    fn open_shop(&self, replicas: u32) {
        let shop = SHOP
            .replace("REPLICAS", &replicas.to_string())
            .replace("TOOLS_IMAGE", &image("tools"))
            .replace("LOAD_IMAGE", &image("load"))
            .replace("SIDE", self.name);
        self.cluster.apply_meshed(&[], &shop);
        self.begin_client(FIRST);
        self.rolled_out("shop", "reviews");
        self.ready("default", "stranger");
    }

    /// Another client in the mesh, and waits until it is there.
    #[track_caller]
    pub(super) fn begin_client(&self, name: &str) {
        let client = CLIENT.replace("NAME", name).replace("LOAD_IMAGE", &image("load"));
        self.cluster.apply_meshed(&[], &client);
        self.ready("shop", name);
    }

    #[track_caller]
    fn ready(&self, namespace: &str, pod: &str) {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let pod = format!("pod/{pod}");
        self.cluster
            .kubectl(["-n", namespace, "wait", "--for=condition=Ready", &timeout, &pod]);
    }

    #[track_caller]
    pub(super) fn scale(&self, replicas: u32) {
        let replicas = format!("--replicas={replicas}");
        self.cluster
            .kubectl(["-n", "shop", "scale", "deployment", "reviews", &replicas]);
    }

    /// A command in a client's pod, not started yet.
    fn client(&self, pod: &str, command: &[&str]) -> Command {
        let exec = ["-n", "shop", "exec", pod, "-c", "client", "--"];
        self.cluster.command(exec.iter().chain(command))
    }

    /// So many calls by the first client: how many were answered by whom.
    #[track_caller]
    pub(super) fn calls(&self, host: &str, number: u32) -> Answers {
        self.calls_of(FIRST, host, number)
    }

    /// The same by another client.
    #[track_caller]
    pub(super) fn calls_of(&self, client: &str, host: &str, number: u32) -> Answers {
        let number = number.to_string();
        let drive = ["weft-load-peer", "drive", host, "http", "50", &number];
        read(&self.client(client, &drive).output().expect("kubectl runs"))
    }

    /// Begins to call each of these hosts by these protocols, each so often a second. Each was called once before: where a proxy has
    /// not been yet, the control plane tells it, which may be away soon.
    #[track_caller]
    pub(super) fn load<'a>(&'a self, hosts: &[&'a str], all: &[(Protocol, u32)]) -> Load<'a> {
        let start = |host: &'a str, protocol: Protocol, rate: u32| {
            let drive = ["weft-load-peer", "drive", host, protocol.as_str(), "1", "1"];
            let first = read(&self.client(FIRST, &drive).output().expect("kubectl runs"));
            let is_answered = first.keys().all(|who| !who.starts_with("failed"));
            assert!(is_answered, "{protocol:?} to {host}: {first:?}");
            let (rate, count) = (rate.to_string(), u32::MAX.to_string());
            let drive = ["weft-load-peer", "drive", host, protocol.as_str(), &rate, &count];
            let mut kubectl = self.client(FIRST, &drive);
            let child = kubectl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            (host, protocol, Instant::now(), child.expect("kubectl runs"))
        };
        let each = hosts
            .iter()
            .flat_map(|host| all.iter().map(move |(protocol, rate)| (*host, *protocol, *rate)));
        Load {
            from: self,
            running: each.map(|(host, protocol, rate)| start(host, protocol, rate)).collect(),
        }
    }

    /// Waits until a call is answered by a cluster.
    #[track_caller]
    pub(super) fn answered_by(&self, who: &str) {
        let so = || self.calls(OWN_NAME, 1).keys().eq([who]).then_some(());
        let now = || {
            let status = said(&self.weft(&["cluster", "status"]));
            format!("{:?}\n{status}", self.calls(OWN_NAME, 3))
        };
        until(&format!("{who} answers {}'s client", self.name), so, now);
    }

    /// Waits until the ClusterPeer of that name says how its pods are reached, and that it is so.
    #[track_caller]
    pub(super) fn reaches(&self, peer: &str, how: &str) {
        let look = || condition(&self.cluster.get(["clusterpeer", peer]), "Reachable");
        let so = || {
            let told = look();
            (told["status"] == "True" && told["reason"] == how).then_some(())
        };
        until(&format!("{peer} is reached: {how}"), so, || look().to_string());
    }

    /// A command of who is not in the mesh.
    pub(super) fn stranger(&self, command: &[&str]) -> Output {
        self.cluster
            .try_kubectl(["exec", "stranger", "--"].iter().chain(command))
    }

    /// What the gateways have made of connections, by reason.
    #[track_caller]
    pub(super) fn gateways(&self, reason: &str) -> u64 {
        let sample = format!("weft_gateway_connections_total{{reason=\"{reason}\"}}");
        let count = |output: Output| {
            assert!(output.status.success(), "{}", said(&output));
            let metrics = String::from_utf8_lossy(&output.stdout);
            let line = metrics.lines().find_map(|line| line.strip_prefix(&*sample));
            line.map_or(0, |number| number.trim().parse().expect("a number"))
        };
        self.metrics_of("weft-system", GATEWAYS).map(count).sum()
    }

    /// The metrics of all pods with these labels, as far as these answer.
    #[track_caller]
    fn metrics_of(&self, namespace: &str, selector: &str) -> impl Iterator<Item = Output> {
        let pods = self.cluster.get(["-n", namespace, "pods", "-l", selector]);
        let pods = pods["items"].as_array().expect("pods").clone();
        pods.into_iter().map(move |pod| {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:15020/proxy/metrics");
            self.cluster.try_kubectl(["get", "--raw", &path])
        })
    }

    /// What proxies and gateways have counted and logged, for who looks for the reason of a failure.
    #[track_caller]
    fn counted(&self) -> String {
        let of = |namespace, selector| self.metrics_of(namespace, selector);
        let all = of("weft-system", GATEWAYS).chain(of("shop", ""));
        let words = ["_gateway_", "refus", "denied", "fail", "ejection", "tcp_connections"];
        let says = |line: &&str| !line.starts_with('#') && words.iter().any(|word| line.contains(word));
        let counts: Vec<String> = all
            .flat_map(|output| {
                let text = String::from_utf8_lossy(&output.stdout);
                text.lines().filter(says).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        let logs = self
            .cluster
            .try_kubectl(["-n", "shop", "logs", FIRST, "-c", "weft-proxy", "--tail", "60"]);
        let gateways = ["-n", "weft-system", "logs", "-l", GATEWAYS, "--prefix", "--tail", "60"];
        let gateways = self.cluster.try_kubectl(gateways);
        format!(
            "{}:\n{}\n{}\n{}",
            self.name,
            counts.join("\n"),
            said(&logs),
            said(&gateways)
        )
    }
}

/// Calls of several protocols that go on beside the test.
pub(super) struct Load<'a> {
    from: &'a Side,
    running: Vec<(&'a str, Protocol, Instant, Child)>,
}

impl<'a> Load<'a> {
    /// Ends it, while it still goes on: how many calls of each host and protocol were answered by whom.
    #[track_caller]
    pub(super) fn enough(mut self) -> Vec<(&'a str, Protocol, Answers)> {
        for (host, protocol, _, child) in &mut self.running {
            let ended = child.try_wait().expect("the load");
            assert_eq!(ended, None, "{protocol:?} to {host} ended before the test");
        }
        let file = |verb: &str| {
            let output = self.from.client(FIRST, &[verb, ENOUGH]).output().expect("kubectl runs");
            assert!(output.status.success(), "{}", said(&output));
        };
        file("touch");
        let enough = Instant::now();
        let each = self.running.into_iter().map(|(host, protocol, began, child)| {
            let output = child.wait_with_output().expect("kubectl ends");
            let answers = read(&output);
            println!("{protocol:?} to {host} for {:?}: {answers:?}", enough - began);
            (host, protocol, answers)
        });
        let each = each.collect();
        file("rm");
        each
    }
}

/// That all calls were answered, by just these.
#[track_caller]
pub(super) fn all_answered(sides: [&Side; 2], answers: Vec<(&str, Protocol, Answers)>, by: &[&str]) {
    let failed: Vec<_> = answers
        .iter()
        .filter(|(_, _, answers)| !answers.keys().eq(by))
        .collect();
    assert!(
        failed.is_empty(),
        "{failed:#?}\n{}",
        sides.map(Side::counted).join("\n")
    );
}

/// The condition of this type of an object as it is now, or null.
pub(super) fn condition(object: &Value, r#type: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut of_now = conditions.filter(|one| one["observedGeneration"] == object["metadata"]["generation"]);
    of_now.find(|one| one["type"] == r#type).cloned().unwrap_or_default()
}

/// `weft ARGS` against a cluster, with this input.
pub(super) fn weft(kubeconfig: &Path, args: &[&str], input: Option<&str>) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(weft_bin())
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weft runs");
    let mut stdin = child.stdin.take().expect("its input");
    // One that reads nothing says by its exit what it makes of that.
    let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
    drop(stdin);
    child.wait_with_output().expect("weft ends")
}

/// Makes the image that the shop's apps and clients run: what the tests of one machine put on Services, too.
fn load_image() {
    let mut images = Command::new(root().join("cluster/images.sh"));
    images
        .arg("load")
        .env("WEFT_LOAD_PEER", env!("CARGO_BIN_EXE_weft-load-peer"));
    let output = images.output().expect("images.sh runs");
    assert!(output.status.success(), "{}", said(&output));
}

/// The clusters east, which has no pods of reviews yet, and west, which has one.
pub(super) fn two() -> (Side, Side) {
    load_image();
    let side = |name, replicas| {
        move || {
            let side = Side::new(name);
            side.install("");
            side.open_shop(replicas);
            side
        }
    };
    thread::scope(|scope| {
        let (east, west) = (scope.spawn(side("east", 0)), scope.spawn(side("west", 1)));
        (east.join().expect("east"), west.join().expect("west"))
    })
}
