//! The mesh as people use it, from a cluster with nothing but the Gateway API's CRDs: install, label, the demo's own objects;
//! then what they promise.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use weft_tests::kube::{Cluster, PATIENCE, image, root, said, until, x_cluster};
use weft_tests::mesh::weft_bin;

const TOOLS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: tools}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {topology.kubernetes.io/region: west}
  containers: [{name: tools, image: TOOLS_IMAGE, command: [sleep, infinity]}]
";
/// Requests whose versions are counted. Of 200 at 10 %, all but 1 in 10,000 times from 5 to 37 go to version 2.
const REQUESTS: usize = 200;
/// What a capture looks for.
const SECRET: &str = "kept-from-the-wire";

struct World {
    name: String,
    cluster: Cluster,
}

impl World {
    fn new() -> Self {
        let name = format!("m{}", std::process::id());
        let cluster = Cluster::held(
            &name,
            &["--nodes", "2", "--bare", "--crds", "standard"],
            &["weft", "shop", "tools", "jaeger"],
        );
        Self { name, cluster }
    }

    fn weft(&self, args: &[&str]) -> Output {
        let mut command = Command::new(weft_bin());
        command.args(args).env("KUBECONFIG", self.cluster.kubeconfig());
        command.output().expect("weft runs")
    }

    /// What `weft ARGS` prints, which must succeed.
    #[track_caller]
    fn printed(&self, args: &[&str]) -> String {
        let printed = self.weft(args);
        assert!(printed.status.success(), "{}", said(&printed));
        String::from_utf8_lossy(&printed.stdout).into_owned()
    }

    #[track_caller]
    fn rolled_out(&self, namespace: &str) {
        let list = self.cluster.get(["-n", namespace, "deployments"]);
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        for deployment in list["items"].as_array().expect("a list") {
            let name = format!(
                "deployment/{}",
                deployment["metadata"]["name"].as_str().expect("a name")
            );
            let output = self
                .cluster
                .try_kubectl(["-n", namespace, "rollout", "status", &name, &patience]);
            let state = || said(&self.cluster.try_kubectl(["-n", namespace, "describe", "pods"]));
            assert!(output.status.success(), "{}\n{}", said(&output), state());
        }
    }

    fn tools(&self, namespace: &str, command: &[&str]) -> Output {
        let args = ["-n", namespace, "exec", "tools", "-c", "tools", "--"];
        self.cluster.try_kubectl(args.iter().chain(command))
    }

    /// The addresses of a namespace's pods.
    fn addresses(&self, namespace: &str) -> Vec<String> {
        let pods = self.cluster.get(["-n", namespace, "pods"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let all = pods
            .iter()
            .flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default());
        all.filter_map(|address| address["ip"].as_str().map(str::to_owned))
            .collect()
    }

    /// What many visitors are answered, one after the other.
    #[track_caller]
    fn visits(&self, count: usize, headers: &[&str]) -> Vec<Value> {
        let url = format!("http://web/products/[1-{count}]");
        let mut command = vec!["curl", "-sS", "--max-time", "10", "-w", "\n"];
        headers.iter().for_each(|header| command.extend(["-H", header]));
        command.push(&url);
        let output = self.tools("shop", &command);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answers = text
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).expect(line));
        answers.collect()
    }
}

fn word<'a>(answer: &'a Value, path: &str) -> &'a str {
    answer
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no {path} in {answer}"))
}

fn of_version_2(answers: &[Value]) -> usize {
    { answers.iter() }
        .filter(|answer| word(answer, "/reviews/version") == "v2")
        .count()
}

/// The versions, the places, and who is told to have called.
fn routes_hold(world: &World) {
    let answers = world.visits(REQUESTS, &[]);
    assert_eq!(answers.len(), REQUESTS);
    let second = of_version_2(&answers);
    assert!((5..=37).contains(&second), "{second} of {REQUESTS} of version 2");
    for answer in &answers {
        assert!(word(answer, "/reviews/pod").contains("west"), "{answer}");
        assert!(word(answer, "/reviews/caller").contains("/ns/shop/sa/web"), "{answer}");
    }
    assert_eq!(of_version_2(&world.visits(20, &["x-canary: 1"])), 20);
}

/// A caller without a sidecar, at a strict namespace.
fn strangers_are_refused(world: &World) {
    let output = world.tools(
        "street",
        &["curl", "-sSi", "--max-time", "10", "http://web.shop/products/1"],
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("HTTP/1.1 403 ") && text.contains("plaintext-refused"),
        "{}",
        said(&output)
    );
}

/// What a node sees of a request between two of its pods.
fn the_wire_shows_nothing(world: &World) {
    let node = format!("{}-1", world.name);
    let patience = PATIENCE.as_secs().to_string();
    let mut capture = x_cluster(["--name", &world.name, "node", &node, "timeout", &patience])
        .args([
            "tcpdump", "-i", "any", "-nn", "-A", "-s0", "-c", "200", "tcp", "port", "8080",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("./x runs");
    let told = BufReader::new(capture.stderr.take().expect("what it says"));
    let begins = told
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("listening on"));
    assert!(begins.is_some(), "tcpdump does not begin");
    let reader = std::thread::spawn(move || capture.wait_with_output().expect("tcpdump ends"));
    let header = format!("x-secret: {SECRET}");
    while !reader.is_finished() {
        world.visits(5, &[&header]);
    }
    let seen = reader.join().expect("it is read");
    let text = String::from_utf8_lossy(&seen.stdout);
    // The kubelet asks CoreDNS on that port, in plaintext: what counts is the shop's.
    let shop = world.addresses("shop");
    let packets = text
        .lines()
        .filter(|line| shop.iter().any(|address| line.contains(&format!(" {address}.8080"))))
        .count();
    assert!(packets > 20, "{packets} packets of {shop:?}: {}", said(&seen));
    // Nor the paths of the shop's requests.
    for word in [SECRET, "/products/", "/reviews/"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
}

/// An edit, until every proxy that needs it has it.
fn an_edit_acts(world: &World) {
    let edit = r#"[{"op": "replace", "path": "/spec/rules/1/backendRefs/0/weight", "value": 0},
        {"op": "replace", "path": "/spec/rules/1/backendRefs/1/weight", "value": 1}]"#;
    let patch = ["-n", "shop", "patch", "httproute", "reviews", "--type=json", "-p", edit];
    world.cluster.kubectl(patch);
    let began = Instant::now();
    let waited = world.weft(&[
        "wait",
        "httproute/reviews",
        "-n",
        "shop",
        "--for=applied",
        "--timeout=30s",
    ]);
    println!("from the edit to the last acknowledgement: {:?}", began.elapsed());
    assert!(waited.status.success(), "{}", said(&waited));
    assert_eq!(of_version_2(&world.visits(20, &[])), 20);
}

/// A request's trace, from the proxy of the first caller to that of the last.
fn jaeger_has_the_trace(world: &World) {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    world.visits(1, &[&parent]);
    let url = format!("http://jaeger.observability:16686/api/traces/{TRACE}");
    let spans = || -> Vec<Value> {
        let output = world.tools("shop", &["curl", "-sS", "--max-time", "10", &url]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        answer
            .pointer("/data/0/spans")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    // Client's and server's, of tools to web, web to reviews, and reviews to ratings.
    let six = || (spans().len() == 6).then_some(());
    until("Jaeger has six spans of the request", six, || format!("{:#?}", spans()));
}

#[test]
fn from_an_empty_cluster_to_a_working_mesh() {
    let world = World::new();
    let jaeger = std::fs::read_to_string(root().join("docs/jaeger.yaml")).expect("docs/jaeger.yaml");
    let jaeger = jaeger.replace("jaegertracing/all-in-one:1.76.0", &image("jaeger"));
    assert!(jaeger.contains(&image("jaeger")));
    world.cluster.apply(&[], &jaeger);
    let began = Instant::now();
    let install = world.printed(&["install", "--set", "traces.endpoint=http://jaeger.observability:4317"]);
    world.cluster.apply(&["--server-side"], &install);
    for namespace in ["weft-system", "observability"] {
        world.rolled_out(namespace);
    }
    println!("installed and ready: {:?}", began.elapsed());

    let began = Instant::now();
    let demo = world.printed(&["demo", "--print-manifests", "--kubernetes"]);
    world.cluster.apply_meshed(&["--server-side"], &demo);
    let tools = TOOLS.replace("TOOLS_IMAGE", &image("tools"));
    for namespace in ["shop", "street"] {
        world.cluster.apply(&["-n", namespace], &tools);
        let ready = || {
            let pod = world.cluster.get(["-n", namespace, "pod", "tools"]);
            let conditions = pod.pointer("/status/conditions")?.as_array()?.clone();
            conditions
                .iter()
                .any(|each| each["type"] == "Ready" && each["status"] == "True")
                .then_some(())
        };
        let state = || world.cluster.kubectl(["-n", namespace, "describe", "pod", "tools"]);
        until(&format!("{namespace}/tools is ready"), ready, state);
    }
    let flows = || {
        let output = world.tools("shop", &["curl", "-sSf", "--max-time", "5", "http://web/products/1"]);
        output.status.success().then_some(())
    };
    let state = || world.cluster.kubectl(["-n", "shop", "get", "pods", "-o", "wide"]);
    until("meshed traffic flows", flows, state);
    println!("from the objects to meshed traffic: {:?}", began.elapsed());
    world.rolled_out("shop");
    // Every pod is ready; that the callers' proxies know it is another matter.
    let canary = [
        "curl",
        "-sS",
        "--max-time",
        "5",
        "-H",
        "x-canary: 1",
        "http://web/products/1",
    ];
    let second = || said(&world.tools("shop", &canary));
    let answers = || second().contains("\"v2\"").then_some(());
    until("version 2 answers", answers, second);

    routes_hold(&world);
    strangers_are_refused(&world);
    the_wire_shows_nothing(&world);
    jaeger_has_the_trace(&world);
    an_edit_acts(&world);
}
