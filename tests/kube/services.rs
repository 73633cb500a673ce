//! Services as clusters have them: traffic from outside of the mesh, NetworkPolicies, and pods that are called by name.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use weft_tests::kube::{Cluster, image, said, until, x_cluster};
use weft_tests::mesh::weft_bin;

const SERVICES: &str = include_str!("services.yaml");
const TRACES: &str = "traces.endpoint=http://collector.outside:4317";
/// A pod of a namespace that denies egress.
const LATE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: tools, image: TOOLS_IMAGE, command: [sleep, infinity]}
    - name: web
      image: SHOP_IMAGE
      command: [web]
      readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
";
const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-egress}
spec: {podSelector: {}, policyTypes: [Egress]}
";

/// A cluster of two nodes with Weft on it, and everything of `services.yaml`.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    name: String,
}

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let name = format!("net{}", std::process::id());
        let cluster = Cluster::held(
            &name,
            &["--nodes", "2", "--bare", "--crds", "standard"],
            &["weft", "shop", "tools"],
        );
        let world = World { cluster, name };
        world.install(&[TRACES]);
        for workload in ["deployment/weft-control", "deployment/weft-injector"] {
            world.rolled_out("weft-system", workload);
        }
        world.cluster.apply(&[], &with_images(SERVICES));
        let workloads = [
            ("open", "deployment/tools"),
            ("open", "deployment/web"),
            ("open", "deployment/guarded"),
            ("strict", "deployment/web"),
            ("edge", "deployment/ingress"),
            ("db", "statefulset/db"),
            ("outside", "deployment/tools"),
            ("outside", "deployment/collector"),
        ];
        for (namespace, workload) in workloads {
            world.rolled_out(namespace, workload);
        }
        // Pods are ready before the rules of each node lead to them.
        for node in world.nodes() {
            let url = format!("http://{node}:30082/headers");
            answered("strict pods refuse", 403, || world.ask_from_node(&url));
        }
        world
    })
}

pub(crate) fn with_images(manifests: &str) -> String {
    manifests
        .replace("SHOP_IMAGE", &image("shop"))
        .replace("TOOLS_IMAGE", &image("tools"))
}

/// What came of a call: 0 where no answer came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Answer {
    /// What `curl -i` printed.
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let head = format!("{head}\n{}", String::from_utf8_lossy(&output.stderr));
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        Self {
            status: status.filter(|_| output.status.success()).unwrap_or(0),
            head: head.to_ascii_lowercase(),
            body,
        }
    }

    /// Who called, as mutual TLS told the app.
    fn caller(&self) -> &str {
        self.body["x-forwarded-client-cert"].as_str().unwrap_or_default()
    }
}

impl World {
    fn weft(&self, args: &[&str]) -> Output {
        let mut command = Command::new(weft_bin());
        command.args(args).env("KUBECONFIG", self.cluster.kubeconfig());
        command.output().expect("weft runs")
    }

    /// `weft install --set VALUE… | kubectl apply --server-side -f -`
    #[track_caller]
    fn install(&self, values: &[&str]) {
        let set = values.iter().flat_map(|value| ["--set", value]);
        let args: Vec<&str> = ["install"].into_iter().chain(set).collect();
        let printed = self.weft(&args);
        assert!(printed.status.success(), "{}", said(&printed));
        let objects = String::from_utf8_lossy(&printed.stdout);
        self.cluster.apply(&["--server-side"], &objects);
    }

    #[track_caller]
    fn rolled_out(&self, namespace: &str, workload: &str) {
        let args = ["-n", namespace, "rollout", "status", workload, "--timeout=90s"];
        let output = self.cluster.try_kubectl(args);
        let state = || said(&self.cluster.try_kubectl(["-n", namespace, "describe", "pods"]));
        assert!(output.status.success(), "{}\n{}", said(&output), state());
    }

    /// The nodes' addresses.
    fn nodes(&self) -> Vec<String> {
        let addresses = self.cluster.nodes().into_iter().flat_map(|node| {
            let all = node["status"]["addresses"].as_array().cloned();
            all.unwrap_or_default()
        });
        let own = addresses.filter(|address| address["type"] == "InternalIP");
        let own = own.filter_map(|address| address["address"].as_str().map(str::to_owned));
        own.filter(|address| !address.contains(':')).collect()
    }

    /// A call from the network of the first node, where no pod is.
    fn ask_from_node(&self, url: &str) -> Answer {
        let args = ["--name", &self.name, "node", "1", "curl", "-sS", "-i", "-m", "5", url];
        Answer::of(&x_cluster(args).output().expect("./x runs"))
    }

    /// A call from a pod or a Deployment.
    pub(crate) fn ask_from(&self, namespace: &str, what: &str, url: &str) -> Answer {
        let curl = ["curl", "-sS", "-i", "-m", "5", url];
        let args = ["-n", namespace, "exec", what, "-c", "tools", "--"];
        Answer::of(&self.cluster.try_kubectl(args.iter().chain(&curl)))
    }

    /// The addresses of pods.
    #[track_caller]
    pub(crate) fn addresses(&self, of: &[&str]) -> Vec<String> {
        let found = self.cluster.get(["pods"].iter().chain(of));
        let pods = found["items"].as_array().cloned().unwrap_or_else(|| vec![found]);
        let lists = pods.iter().flat_map(|pod| pod["status"]["podIPs"].as_array());
        let addresses = lists.flatten().filter_map(|address| address["ip"].as_str());
        addresses.map(str::to_owned).collect()
    }

    /// Loads rules for packets that are forwarded, on every node, in place of those of that name.
    #[track_caller]
    fn forward(&self, table: &str, rules: &[String]) {
        let begin = format!("table inet {table}\ndelete table inet {table}\n");
        let chain = "chain forward {\ntype filter hook forward priority 0;";
        let text = format!("{begin}table inet {table} {{\n{chain}\n{}\n}}\n}}\n", rules.join("\n"));
        for node in ["1", "2"] {
            let mut nft = x_cluster(["--name", &self.name, "node", node, "nft", "-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("./x runs");
            let mut stdin = nft.stdin.take().expect("its input");
            stdin.write_all(text.as_bytes()).expect("nft reads");
            drop(stdin);
            let output = nft.wait_with_output().expect("nft ends");
            assert!(output.status.success(), "{}\nof\n{text}", said(&output));
        }
    }

    /// What a NetworkPolicy engine writes for the egress that a policy allows.
    #[track_caller]
    fn egress_of(&self, policy: &Value) -> Vec<String> {
        let list = |of: &Value, name: &str| of[name].as_array().cloned().unwrap_or_default();
        let mut rules = Vec::new();
        for rule in list(&policy["spec"], "egress") {
            let to = list(&rule, "to");
            let mut matches: Vec<String> = to
                .iter()
                .flat_map(|peer| self.peer(peer))
                .map(of_address("daddr"))
                .collect();
            if to.is_empty() {
                matches.push(String::new());
            }
            for port in list(&rule, "ports") {
                let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
                let allowed = matches
                    .iter()
                    .map(|to| format!("{to} {protocol} dport {} accept", port["port"]));
                rules.extend(allowed);
            }
        }
        rules
    }

    /// The addresses of the pods that a peer of a NetworkPolicy selects.
    #[track_caller]
    fn peer(&self, peer: &Value) -> Vec<String> {
        let labels = |selector: &Value| {
            let labels = selector["matchLabels"].as_object().cloned().unwrap_or_default();
            let labels = labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            labels.collect::<Vec<_>>().join(",")
        };
        let namespaces = labels(&peer["namespaceSelector"]);
        assert!(!namespaces.is_empty(), "a policy picks namespaces by labels: {peer}");
        let names = self
            .cluster
            .kubectl(["get", "namespaces", "-l", &namespaces, "-o", "name"]);
        let names = names.lines().filter_map(|name| name.strip_prefix("namespace/"));
        names
            .flat_map(|name| self.addresses(&["-n", name, "-l", &labels(&peer["podSelector"])]))
            .collect()
    }

    /// What `weft check` says of a namespace's egress, with the fix.
    #[track_caller]
    fn denied_egress(&self, namespace: &str) -> Option<String> {
        let output = self.weft(&["check", "-o", "json"]);
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        let of =
            |finding: &String| finding.contains("denies egress") && finding.contains(&format!("Namespace {namespace}"));
        findings.iter().map(Value::to_string).find(of)
    }
}

/// How nft names an address of either family.
fn of_address(end: &str) -> impl Fn(String) -> String {
    move |address| {
        let family = if address.contains(':') { "ip6" } else { "ip" };
        format!("{family} {end} {address}")
    }
}

/// Asks until the answer has that status, since rules for Services and pods reach nodes and proxies a moment later.
#[track_caller]
pub(crate) fn answered(what: &str, status: u16, ask: impl Fn() -> Answer) -> Answer {
    let so = || Some(ask()).filter(|answer| answer.status == status);
    until(&format!("{what}: {status}"), so, || format!("{:?}", ask()))
}

#[test]
fn node_ports_reach_permissive_pods_and_strict_ones_refuse_with_the_reason() {
    let world = world();
    for node in world.nodes() {
        let permissive = format!("http://{node}:30081/headers");
        let answer = answered(&permissive, 200, || world.ask_from_node(&permissive));
        assert_eq!(answer.caller(), "", "nobody of the mesh called");
        let strict = format!("http://{node}:30082/headers");
        let answer = answered(&strict, 403, || world.ask_from_node(&strict));
        assert!(
            answer.head.contains("proxy-status") && answer.head.contains("plaintext-refused"),
            "{answer:?}"
        );
    }
    let inside = || world.ask_from("outside", "deploy/tools", "http://web.strict/headers");
    let answer = answered("an address in the cluster is no identity", 403, inside);
    assert!(answer.head.contains("plaintext-refused"), "{answer:?}");
}

#[test]
fn a_meshed_ingress_leads_from_outside_to_strict_pods_and_knows_who_called() {
    let world = world();
    let nodes = world.nodes();
    // It runs on the second node, and its Service hands on nothing but what comes to that one, as it comes.
    let url = format!("http://{}:30083/headers", nodes[1]);
    let answer = answered(&url, 200, || world.ask_from_node(&url));
    assert!(
        answer.caller().ends_with("/ns/edge/sa/ingress"),
        "over mutual TLS: {answer:?}"
    );
    assert_eq!(
        answer.body["x-forwarded-for"],
        Value::from(nodes[0].clone()),
        "{answer:?}"
    );
    let inside = || world.ask_from("open", "deploy/tools", "http://ingress.edge/headers");
    let answer = answered(
        "a port that passes the proxy by is plaintext for the mesh, too",
        200,
        inside,
    );
    assert!(answer.caller().ends_with("/ns/edge/sa/ingress"), "{answer:?}");
}

#[test]
fn rules_that_open_only_the_apps_port_mean_the_same_under_mutual_tls() {
    let world = world();
    let call = |port: u16| world.ask_from("open", "deploy/tools", &format!("http://guarded.open:{port}/headers"));
    for port in [80, 9090] {
        let answer = answered("without rules every port is open", 200, || call(port));
        assert!(answer.caller().ends_with("/ns/open/sa/caller"), "{answer:?}");
    }
    let addresses = world.addresses(&["-n", "open", "-l", "app=guarded"]);
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    let drop_others = |to: String| format!("ct direction original {to} tcp dport != 8080 drop");
    let rules: Vec<String> = addresses
        .into_iter()
        .map(of_address("daddr"))
        .map(drop_others)
        .collect();
    world.forward("guarded", &rules);
    for _ in 0..3 {
        let answer = call(80);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.caller().ends_with("/ns/open/sa/caller"), "{answer:?}");
    }
    let answer = call(9090);
    assert_ne!(answer.status, 200, "{answer:?}");
}

#[test]
fn under_denied_egress_the_shipped_policy_suffices_and_its_lack_is_told() {
    let world = world();
    world.cluster.apply(&["-n", "fenced"], DENY);
    let told = until("it is told", || world.denied_egress("fenced"), String::new);
    assert!(told.contains("networkPolicy.egressNamespaces={fenced}"), "{told}");
    world.install(&[TRACES, "networkPolicy.egressNamespaces={fenced}"]);
    assert_eq!(world.denied_egress("fenced"), None);

    // Every pod but those that run already is one whose egress is denied.
    let policy = world.cluster.get(["-n", "fenced", "networkpolicy", "weft-egress"]);
    let running = world.addresses(&["-A"]).into_iter().map(of_address("saddr"));
    let mut rules = vec!["ct state established,related accept".to_owned()];
    rules.extend(running.map(|from| format!("{from} accept")));
    let allowed = world.egress_of(&policy);
    assert!(allowed.len() >= 4, "{allowed:?}");
    rules.extend(allowed);
    rules.push("iifname \"veth*\" drop".to_owned());
    world.forward("fenced", &rules);
    world.cluster.apply(&["-n", "fenced"], &with_images(LATE));
    let wait = [
        "-n",
        "fenced",
        "wait",
        "pod/late",
        "--for=condition=Ready",
        "--timeout=90s",
    ];
    let output = world.cluster.try_kubectl(wait);
    let state = || said(&world.cluster.try_kubectl(["-n", "fenced", "describe", "pods"]));
    assert!(output.status.success(), "{}\n{}", said(&output), state());

    let address = world.addresses(&["-n", "fenced", "late"]).swap_remove(0);
    let url = format!("http://{address}:8080/headers");
    let answer = answered("it serves", 200, || world.ask_from("open", "deploy/tools", &url));
    let (own, caller) = answer.caller().split_once(";URI=").unwrap_or_default();
    assert!(
        own.ends_with("/ns/fenced/sa/default") && caller.ends_with("/ns/open/sa/caller"),
        "{answer:?}"
    );
    let visits = || world.cluster.kubectl(["-n", "outside", "logs", "deploy/collector"]);
    let visited = || visits().contains(&format!("from {address} ")).then_some(());
    until("its traces reach the collector", visited, visits);

    let out = || world.ask_from("fenced", "late", "http://web.open/headers");
    let answer = out();
    assert_ne!(answer.status, 200, "what nothing allows is denied: {answer:?}");
    world.forward("fenced", &[]);
    answered("without the rules it is not", 200, out);
}

#[test]
fn a_headless_services_names_lead_to_exactly_that_pod_over_mutual_tls() {
    let world = world();
    let ask = |namespace: &str, host: &str| world.ask_from(namespace, "deploy/tools", &format!("http://{host}:8080/"));
    for pod in ["db-0", "db-1", "db-2"] {
        let name = format!("{pod}.db.db.svc.cluster.local");
        let address = world.addresses(&["-n", "db", pod]).swap_remove(0);
        for host in [&format!("{pod}.db.db"), &name, &name, &name, &address] {
            let answer = answered(host, 200, || ask("open", host));
            assert_eq!(answer.body["pod"], pod, "{host}: {answer:?}");
            assert!(answer.caller().ends_with("/ns/open/sa/caller"), "{host}: {answer:?}");
        }
        let answer = answered("from outside of the mesh", 200, || ask("outside", &name));
        assert_eq!(
            (&answer.body["pod"], answer.caller()),
            (&Value::from(pod), ""),
            "{answer:?}"
        );
    }
    let answer = answered("the Service's own name", 200, || ask("open", "db.db"));
    assert!(answer.caller().ends_with("/ns/open/sa/caller"), "{answer:?}");
}
