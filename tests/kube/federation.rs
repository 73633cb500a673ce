//! Two real clusters that share a Service: linked by two documents, first through gateways and then in one network of pods. What
//! is not exported crosses neither.

use std::collections::BTreeMap;
use std::process::Output;
use std::thread;
use std::time::Instant;

use serde_json::Value;
use weft_tests::kube::{Cluster, PATIENCE, image, said, until, x_cluster};
use weft_tests::mesh::weft_bin;

/// Answers with its cluster.
const APP: &str = r#"
import http.server, os
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = os.environ["CLUSTER"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", 8080), App).serve_forever()
"#;

/// Calls as often as it is told, one after the other, or until a file is there, and counts what is answered by whom.
const LOAD: &str = r#"
import collections, http.client, os, sys, time
count = collections.Counter()
host, calls = sys.argv[1], int(sys.argv[2])
connection = None
for _ in range(calls):
    if os.path.exists("/tmp/enough"):
        break
    try:
        connection = connection or http.client.HTTPConnection(host, 80, timeout=5)
        connection.request("GET", "/")
        answer = connection.getresponse()
        body = answer.read().decode()
        count[body if answer.status == 200 else f"failed {answer.status} {answer.headers['proxy-status']}"] += 1
    except Exception as error:
        count[f"failed {error!r}"] += 1
        connection = None
    time.sleep(0.02)
for who, number in count.items():
    print(number, who)
"#;

/// The addresses of a name.
const LOOKUP: &str = r"
import socket, sys
print(*sorted({at[4][0] for at in socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET)}))
";

/// A strict namespace with the app behind two Services, of which one is exported, a client, and one that is not in the mesh.
const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/inject: enabled}, annotations: {config.weft.dev/inbound: strict}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}]}
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
      # The app takes no notice of SIGTERM.
      terminationGracePeriodSeconds: 5
      containers:
        - name: reviews
          image: TOOLS_IMAGE
          command: [python3, -c, APP]
          env: [{name: CLUSTER, value: SIDE}]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: client, image: TOOLS_IMAGE, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: stranger, image: TOOLS_IMAGE, command: [sleep, infinity]}]
"#;

/// What all of them are installed with: the nodes' ports are what clusters on one wire reach of each other.
const VALUES: &str =
    "federation.enabled=true,federation.service.type=NodePort,gateways.enabled=true,gateways.service.type=NodePort";

/// One of the two clusters.
struct Side {
    /// What it calls itself.
    name: &'static str,
    /// What `./x cluster` calls it.
    machine: String,
    cluster: Cluster,
}

impl Side {
    fn new(name: &'static str) -> Self {
        let machine = format!("{}{}", &name[..1], std::process::id());
        let options = ["--nodes", "1", "--bare", "--crds", "standard"];
        let cluster = Cluster::held(&machine, &options, &["weft", "tools"]);
        Self { name, machine, cluster }
    }

    fn weft(&self, args: &[&str]) -> Output {
        weft(self.cluster.kubeconfig(), args, None)
    }

    /// What `weft ARGS` prints, which must succeed.
    #[track_caller]
    fn printed(&self, args: &[&str]) -> String {
        let output = self.weft(args);
        assert!(output.status.success(), "{}: {}", self.name, said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Installs Weft with the values of all and these, and waits until it is there.
    #[track_caller]
    fn install(&self, more: &str) {
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
    fn rolled_out(&self, namespace: &str, deployment: &str) {
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
            .replace("SIDE", self.name)
            .replace("APP]", &format!("{}]", Value::from(APP)));
        let applied = || self.cluster.try_apply(&[], &shop);
        // The rules for the webhook's endpoint come to the API server's node some time after that is ready.
        until(
            "the shop is applied",
            || applied().status.success().then_some(()),
            || said(&applied()),
        );
        self.rolled_out("shop", "reviews");
        for (namespace, pod) in [("shop", "client"), ("default", "stranger")] {
            let timeout = format!("--timeout={}s", PATIENCE.as_secs());
            let pod = format!("pod/{pod}");
            self.cluster
                .kubectl(["-n", namespace, "wait", "--for=condition=Ready", &timeout, &pod]);
        }
    }

    #[track_caller]
    fn scale(&self, replicas: u32) {
        let replicas = format!("--replicas={replicas}");
        self.cluster
            .kubectl(["-n", "shop", "scale", "deployment", "reviews", &replicas]);
    }

    /// A command in the client's pod, which must succeed.
    #[track_caller]
    fn client(&self, command: &[&str]) -> Output {
        let exec = ["-n", "shop", "exec", "client", "-c", "client", "--"];
        let output = self.cluster.try_kubectl(exec.iter().chain(command));
        assert!(output.status.success(), "{}", said(&output));
        output
    }

    /// So many calls by the client: how many were answered by whom.
    #[track_caller]
    fn calls(&self, host: &str, number: u32) -> BTreeMap<String, u32> {
        let output = self.client(&["python3", "-c", LOAD, host, &number.to_string()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = |line: &str| {
            let (count, who) = line.split_once(' ').expect("a count");
            (who.to_owned(), count.parse().expect("a number"))
        };
        text.lines().map(count).collect()
    }

    /// Waits until a call is answered by a cluster.
    #[track_caller]
    fn answered_by(&self, who: &str) {
        let so = || self.calls("reviews", 1).keys().eq([who]).then_some(());
        let now = || {
            let status = said(&self.weft(&["cluster", "status"]));
            format!("{:?}\n{status}", self.calls("reviews", 3))
        };
        until(&format!("{who} answers {}'s client", self.name), so, now);
    }

    /// A command of who is not in the mesh.
    fn stranger(&self, command: &[&str]) -> Output {
        self.cluster
            .try_kubectl(["exec", "stranger", "--"].iter().chain(command))
    }

    /// What the gateways have made of connections, by reason.
    #[track_caller]
    fn gateways(&self, reason: &str) -> u64 {
        let selector = "app.kubernetes.io/component=gateway";
        let pods = self.cluster.get(["-n", "weft-system", "pods", "-l", selector]);
        let pods = pods["items"].as_array().expect("pods").iter();
        let sample = format!("weft_gateway_connections_total{{reason=\"{reason}\"}}");
        let count = |pod: &Value| {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            let path = format!("/api/v1/namespaces/weft-system/pods/{name}:15020/proxy/metrics");
            let metrics = self.cluster.kubectl(["get", "--raw", &path]);
            let line = metrics.lines().find_map(|line| line.strip_prefix(&*sample));
            line.map_or(0, |number| number.trim().parse().expect("a number"))
        };
        pods.map(count).sum()
    }
}

fn weft(kubeconfig: &std::path::Path, args: &[&str], input: Option<&str>) -> Output {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
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

/// Two clusters, each with Weft.
struct Pair {
    east: Side,
    west: Side,
}

impl Pair {
    fn new() -> Self {
        let side = |name, replicas| {
            move || {
                let side = Side::new(name);
                side.install("");
                side.open_shop(replicas);
                side
            }
        };
        let (east, west) = thread::scope(|scope| {
            let (east, west) = (scope.spawn(side("east", 0)), scope.spawn(side("west", 1)));
            (east.join().expect("east"), west.join().expect("west"))
        });
        Self { east, west }
    }

    fn both(&self) -> [(&Side, &Side); 2] {
        [(&self.east, &self.west), (&self.west, &self.east)]
    }

    /// Exchanges the two documents, and waits until both clusters find all well with the link.
    #[track_caller]
    fn link(&self) {
        for (here, there) in self.both() {
            let peer = there.printed(&["cluster", "export-peer", "--imports", "shop"]);
            let judged = weft(here.cluster.kubeconfig(), &["cluster", "check", "-f", "-"], Some(&peer));
            // From this machine nobody answers at the nodes' addresses: what else there is must be right.
            let judged = String::from_utf8_lossy(&judged.stdout).into_owned();
            assert!(
                judged.contains(&format!("ClusterPeer {} beside this cluster", there.name)),
                "{judged}"
            );
            here.cluster.apply(&[], &peer);
        }
        for (here, _) in self.both() {
            let check = || here.weft(&["cluster", "check"]);
            let connected = || {
                here.printed(&["cluster", "status", "-o", "json"])
                    .contains("\"Connected\"")
            };
            let green = || (check().status.success() && connected()).then_some(());
            until(&format!("{}'s links are well", here.name), green, || said(&check()));
        }
    }

    /// Own endpoints first; the other cluster's when they are gone; and back: under load, and without a failed request.
    #[track_caller]
    fn fails_over_and_back(&self, host: &str) {
        let east = &self.east;
        east.answered_by("east");
        let answered = thread::scope(|scope| {
            let load = scope.spawn(|| east.calls(host, 4000));
            east.scale(0);
            east.answered_by("west");
            east.scale(2);
            east.rolled_out("shop", "reviews");
            east.answered_by("east");
            east.client(&["touch", "/tmp/enough"]);
            load.join().expect("the load")
        });
        east.client(&["rm", "/tmp/enough"]);
        println!("under load: {answered:?}");
        assert!(answered.keys().eq(["east", "west"]), "{answered:?}");
    }

    /// A Service without an export stays in its cluster, though its pods are those of one that has one.
    #[track_caller]
    fn the_private_stays_private(&self) {
        self.east.scale(0);
        self.east.answered_by("west");
        // Pods that are on their way out still answer for as long as nobody else does.
        let answered = || self.east.calls("private", 3);
        let refused = || {
            answered()
                .keys()
                .all(|who| who.starts_with("failed 503 "))
                .then_some(())
        };
        until("nobody answers for private", refused, || format!("{:?}", answered()));
        let west = self.west.calls("private", 3);
        assert!(west.keys().all(|who| who == "west"), "{west:?}");
    }

    /// What a gateway of west shows to someone in east who asks for a name, and what it counts it as.
    #[track_caller]
    fn asks_a_gateway(&self, name: &str, reason: &str) -> String {
        let peer = self.east.cluster.get(["clusterpeer", "west"]);
        let gateway = peer["spec"]["gateways"][0].as_str().expect("a gateway");
        let before = self.west.gateways(reason);
        let command = format!("openssl s_client -connect {gateway} -servername {name} -alpn weft-h1/1 </dev/null 2>&1");
        let shown = said(&self.east.stranger(&["sh", "-c", &command]));
        let counted = || (self.west.gateways(reason) > before).then_some(());
        until(&format!("{name} is counted as {reason}"), counted, || shown.clone());
        shown
    }

    /// To the endpoint that is exported it leads anybody: who that is, the pod itself asks. To nothing else.
    #[track_caller]
    fn gateways_pass_only_what_is_exported(&self) {
        let config = self
            .east
            .printed(&["proxy", "config", "-n", "shop", "client", "-o", "json"]);
        let config: Value = serde_json::from_str(&config).expect("JSON");
        let sets = config["endpoints"].as_array().expect("endpoints").iter();
        let mut all = sets.flat_map(|set| set["endpoints"].as_array().into_iter().flatten());
        let there = all.find(|endpoint| endpoint["behind_gateways"] == true);
        let id = there
            .and_then(|endpoint| endpoint["id"].as_str())
            .expect("an endpoint of west");
        let peer = self.east.cluster.get(["clusterpeer", "west"]);
        let domain = peer["spec"]["trustDomain"].as_str().expect("a trust domain");
        let name = |service: &str| format!("p8080.{id}.{service}.shop.svc.{domain}");
        let shown = self.asks_a_gateway(&name("reviews"), "passed");
        assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
        for (name, reason) in [
            (name("private"), "not-exported"),
            (name("reviews").replace("p8080.", "p8081."), "not-exported"),
            (format!("p443.{id}.kubernetes.default.svc.{domain}"), "not-exported"),
        ] {
            let shown = self.asks_a_gateway(&name, reason);
            assert!(shown.contains("no peer certificate available"), "{name}: {shown}");
        }
    }

    /// Takes both clusters into one network, in which their pods reach each other.
    #[track_caller]
    fn flatten(&self) {
        let flat = x_cluster(["flat", &self.east.machine, &self.west.machine]).status();
        assert!(
            flat.is_ok_and(|status| status.success()),
            "the clusters can't be joined"
        );
        thread::scope(|scope| {
            for (side, _) in self.both() {
                scope.spawn(|| side.install(",network=wire"));
            }
        });
        self.link();
    }
}

/// What CoreDNS answers with the address of the ServiceImport.
const EVERYWHERE: &str = "reviews.shop.svc.clusterset.local";

/// The names of `docs/federation-kubernetes.md`: CoreDNS answers what is imported, and nothing else.
#[track_caller]
fn coredns_answers_for_the_cluster_set(side: &Side) {
    let cluster = &side.cluster;
    let import = || cluster.get(["-n", "shop", "serviceimport", "reviews"]);
    let ip = || import()["spec"]["ips"][0].as_str().map(str::to_owned);
    let address = until("the import has an address", ip, || import().to_string());
    let rule = r#"[{"op": "add", "path": "/rules/-", "value":
        {"apiGroups": ["multicluster.x-k8s.io"], "resources": ["serviceimports"], "verbs": ["list", "watch"]}}]"#;
    cluster.kubectl(["patch", "clusterrole", "system:coredns", "--type=json", "-p", rule]);
    let map = cluster.get(["-n", "kube-system", "configmap", "coredns"]);
    let corefile = map["data"]["Corefile"].as_str().expect("a Corefile").replace(
        "kubernetes cluster.local in-addr.arpa ip6.arpa {",
        "kubernetes cluster.local clusterset.local in-addr.arpa ip6.arpa {\n        multicluster clusterset.local",
    );
    let patch = serde_json::json!({"data": {"Corefile": corefile}}).to_string();
    cluster.kubectl([
        "-n",
        "kube-system",
        "patch",
        "configmap",
        "coredns",
        "--type=merge",
        "-p",
        &patch,
    ]);
    cluster.kubectl(["-n", "kube-system", "rollout", "restart", "deployment", "coredns"]);
    side.rolled_out("kube-system", "coredns");
    let found = |name: &str| side.stranger(&["python3", "-c", LOOKUP, name]);
    let name = EVERYWHERE;
    let is_there = || (said(&found(name)) == address).then_some(());
    until("CoreDNS answers for clusterset.local", is_there, || said(&found(name)));
    let other = found("private.shop.svc.clusterset.local");
    assert!(said(&other).contains("gaierror"), "{}", said(&other));
}

#[test]
fn two_clusters_share_a_service_through_gateways_and_in_one_network() {
    let began = Instant::now();
    let pair = Pair::new();
    println!("two clusters with Weft, and a shop in each: {:?}", began.elapsed());
    let began = Instant::now();
    pair.link();
    pair.east.answered_by("west");
    println!(
        "from two documents to the first request of the other cluster: {:?}",
        began.elapsed()
    );
    pair.gateways_pass_only_what_is_exported();
    pair.the_private_stays_private();
    pair.east.scale(2);
    pair.east.rolled_out("shop", "reviews");
    pair.fails_over_and_back("reviews");
    coredns_answers_for_the_cluster_set(&pair.east);

    pair.flatten();
    let passed = pair.west.gateways("passed");
    pair.fails_over_and_back(EVERYWHERE);
    pair.the_private_stays_private();
    assert_eq!(
        pair.west.gateways("passed"),
        passed,
        "none of it went through a gateway"
    );
}
