//! `weft` against a cluster: what it shows and answers comes from the API server alone, as the one who asks may see it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use weft_tests::kube::{Cluster, image, said, until};
use weft_tests::mesh::weft_bin;

const SHOP: &str = include_str!("shop.yaml");
const OWN: &str = "weft-system";
/// Replicas of the control plane.
const REPLICAS: usize = 2;

/// A cluster with Weft on it, and the demo's apps in a meshed namespace.
struct World {
    cluster: Cluster,
    /// Nothing runs here that could be meant instead.
    state: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let name = format!("c{}", std::process::id());
        let cluster = Cluster::held(
            &name,
            &["--nodes", "1", "--bare", "--crds", "standard"],
            &["weft", "shop", "tools"],
        );
        let world = World {
            cluster,
            state: tempfile::tempdir().expect("a directory"),
        };
        let printed = world.weft(&["install", "--set", &format!("control.replicas={REPLICAS}")]);
        world
            .cluster
            .apply(&["--server-side"], &String::from_utf8_lossy(&printed.stdout));
        for deployment in ["deployment/weft-control", "deployment/weft-injector"] {
            world.rolled_out(OWN, deployment);
        }
        world.cluster.kubectl(["create", "namespace", "shop"]);
        world
            .cluster
            .kubectl(["label", "namespace", "shop", "weft.dev/inject=enabled"]);
        let shop = SHOP
            .replace("SHOP_IMAGE", &image("shop"))
            .replace("TOOLS_IMAGE", &image("tools"));
        world.cluster.apply_meshed(&["-n", "shop"], &one_node(&shop));
        for app in ["ratings", "reviews", "web"] {
            world.rolled_out("shop", &format!("deployment/{app}"));
        }
        world.cluster.kubectl([
            "-n",
            "shop",
            "wait",
            "pod/tools",
            "--for=condition=Ready",
            "--timeout=90s",
        ]);
        world
    })
}

/// The apps where there is one node only.
fn one_node(shop: &str) -> String {
    shop.replace("whenUnsatisfiable: DoNotSchedule", "whenUnsatisfiable: ScheduleAnyway")
}

impl World {
    /// `weft ARGS`, not started yet.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(weft_bin());
        command
            .args(args)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("WEFT_STATE_DIR", self.state.path())
            .env_remove("WEFT_MESH")
            .stdin(Stdio::null());
        command
    }

    fn weft(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("weft runs")
    }

    /// What `weft ARGS -o json` prints. It must succeed.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let output = self.weft(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
    }

    fn context(&self) -> String {
        self.cluster.kubectl(["config", "current-context"]).trim().to_owned()
    }

    #[track_caller]
    fn rolled_out(&self, namespace: &str, deployment: &str) {
        let args = ["-n", namespace, "rollout", "status", deployment, "--timeout=90s"];
        let output = self.cluster.try_kubectl(args);
        let state = || said(&self.cluster.try_kubectl(["-n", namespace, "describe", "pods"]));
        assert!(output.status.success(), "{}\n{}", said(&output), state());
    }
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn status_shows_what_runs_and_the_proxies_of_all_replicas() {
    let world = world();
    let status = || world.json(&["status", "--context", &world.context(), "-n", "shop"]);
    let pods = world.cluster.get(["-n", "shop", "pods"]);
    let number = list(&pods, "items").len();
    let connected = |status: &Value| {
        let proxies = list(status, "proxies").iter();
        proxies
            .filter(|proxy| proxy["connected"] == true && proxy["node"].is_string())
            .count()
    };
    let so = || Some(status()).filter(|status| connected(status) == number);
    let status = until("every proxy is connected, to one replica or the other", so, || {
        format!("{:#}", status())
    });
    assert_eq!(list(&status, "pods").len(), number);
    assert!(
        list(&status, "pods").iter().all(|pod| pod["meshed"] == true),
        "{status:#}"
    );
    let replicas = list(&status["control"], "replicas");
    assert_eq!(
        replicas.iter().filter(|replica| replica["answers"] == true).count(),
        REPLICAS,
        "{status:#}"
    );
    let ratings = list(&status, "services")
        .iter()
        .find(|service| service["name"] == "ratings");
    let declared = &ratings.expect("the Service")["ports"][0]["declared"];
    assert_eq!(
        (declared["protocol"].as_str(), declared["by"].as_str()),
        (Some("grpc"), Some("appProtocol"))
    );
    let trust_domain = status["trustDomain"].as_str().unwrap_or_default();
    assert!(trust_domain.ends_with(".weft.internal"), "{status:#}");

    let output = world.weft(&["status", "-n", "shop", "-o", "wide"]);
    let shown = text(&output.stdout);
    for part in ["2 of 2 replicas answer", "ratings", "SERVICE ACCOUNT"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

#[test]
fn without_a_name_it_is_the_current_contexts_cluster_and_its_namespace() {
    let world = world();
    let output = world.weft(&["status"]);
    let told = text(&output.stderr);
    assert!(
        text(&output.stdout).starts_with(&format!("context {}", world.context())),
        "{}",
        said(&output)
    );
    assert!(!told.contains("asking the cluster"), "KUBECONFIG says it: {told}");
    assert!(
        told.contains("nothing is in the namespace default") || text(&output.stdout).contains("kubernetes"),
        "{told}"
    );
    assert!(
        !text(&output.stdout).contains("reviews"),
        "the context's namespace is default"
    );
    let all = world.json(&["status", "-A"]);
    let namespaces: Vec<&Value> = list(&all, "pods").iter().map(|pod| &pod["namespace"]).collect();
    assert!(
        !namespaces.is_empty() && namespaces.iter().all(|namespace| **namespace == "shop"),
        "{namespaces:?}"
    );
    let named = world.weft(&["status", "--name", "nobody"]);
    assert!(
        !named.status.success() && text(&named.stderr).contains("no mesh named \"nobody\""),
        "{}",
        said(&named)
    );
    let nowhere = world.weft(&["status", "--context", "nowhere"]);
    assert!(
        text(&nowhere.stderr).contains(&format!("it has {}", world.context())),
        "{}",
        said(&nowhere)
    );
}

#[test]
fn proxies_are_listed_with_their_nodes_and_how_long_their_certificates_last() {
    let world = world();
    let listed = || world.json(&["proxy", "list", "-A"]);
    let whole = |proxy: &Value| {
        let resources = list(proxy, "resources");
        let left = proxy["certificateSecondsLeft"].as_f64().unwrap_or_default();
        proxy["connected"] == true
            && proxy["node"].as_str().is_some_and(|node| !node.is_empty())
            && proxy["since"].is_string()
            && !resources.is_empty()
            && resources.iter().all(|resource| resource["acked"] == true)
            && (3600.0..=86_400.0).contains(&left)
    };
    let so = || Some(listed()).filter(|all| !list(all, "proxies").is_empty() && list(all, "proxies").iter().all(whole));
    let all = until("every proxy has acknowledged all that it has", so, || {
        format!("{:#}", listed())
    });
    assert!(list(&all, "proxies").iter().any(|proxy| proxy["pod"] == "tools"));
    let wide = text(&world.weft(&["proxy", "list", "-n", "shop", "-o", "wide"]).stdout);
    for part in ["CERTIFICATE", "23h", "inbound", "NODE"] {
        assert!(wide.contains(part), "{part:?} is not in\n{wide}");
    }
}

#[test]
fn what_a_proxy_knows_is_read_from_its_loopback() {
    let world = world();
    let config = world.json(&["proxy", "config", "-n", "shop", "deploy/web"]);
    let identity = config["identity"]["identity"].as_str().unwrap_or_default();
    assert!(identity.ends_with("/ns/shop/sa/default"), "{config:#}");
    assert_eq!(config["inbound"]["workload"]["name"], "web");
    let shown = text(&world.weft(&["proxy", "config", "-n", "shop", "web"]).stdout);
    assert!(
        shown.contains("workload   shop/web") && shown.contains("certificate ends in 23h"),
        "{shown}"
    );
    let none = world.weft(&["proxy", "config", "-n", OWN, "deploy/weft-injector"]);
    assert!(text(&none.stderr).contains("has no sidecar"), "{}", said(&none));
}

#[test]
fn logs_are_the_proxys_unless_another_container_is_named_and_are_followed() {
    let world = world();
    let last = world.weft(&["logs", "-n", "shop", "web", "--tail", "1"]);
    assert!(last.status.success(), "{}", said(&last));
    let line = text(&last.stdout);
    assert_eq!(line.lines().count(), 1, "{line}");
    // Of one pod, and first what is to be in the other: the proxy may say more meanwhile.
    let pods = world.cluster.get(["-n", "shop", "pods", "-l", "app=web"]);
    let pod = pods["items"][0]["metadata"]["name"].as_str().expect("a pod of web");
    let same = world
        .cluster
        .kubectl(["-n", "shop", "logs", pod, "-c", "weft-proxy", "--tail", "1"]);
    let all = text(&world.weft(&["logs", "-n", "shop", pod]).stdout);
    assert!(
        !same.trim().is_empty() && all.contains(same.trim()),
        "{same}\nis not in\n{all}"
    );
    let wrong = world.weft(&["logs", "-n", "shop", "tools", "-c", "nope"]);
    assert!(text(&wrong.stderr).contains("it has tools"), "{}", said(&wrong));

    let apply = "{apiVersion: v1, kind: Pod, metadata: {name: talker}, spec: {terminationGracePeriodSeconds: 0, \
                 containers: [{name: talker, image: TOOLS, command: [sh, -c, 'i=0; while :; do echo said $i; i=$((i+1)); sleep 0.2; done']}]}}";
    world
        .cluster
        .apply(&["-n", "shop"], &apply.replace("TOOLS", &image("tools")));
    world.cluster.kubectl([
        "-n",
        "shop",
        "wait",
        "pod/talker",
        "--for=condition=Ready",
        "--timeout=90s",
    ]);
    let mut follows = world
        .command(&["logs", "-n", "shop", "pod/talker", "-c", "talker", "-f", "--tail", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("weft runs");
    let mut lines = BufReader::new(follows.stdout.take().expect("its output")).lines();
    let mut number = || {
        let line = lines.next().expect("it goes on").expect("text");
        line.strip_prefix("said ")
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
    };
    let first = number();
    assert_eq!(
        (number(), number()),
        (first + 1, first + 2),
        "it goes on as more is printed"
    );
    world
        .cluster
        .kubectl(["-n", "shop", "delete", "pod", "talker", "--wait=false"]);
    // The log ends with the pod, and the command with the log.
    while lines.next().is_some_and(|line| line.is_ok()) {}
    assert!(follows.wait().expect("weft ends").success());
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  \
                     parentRefs: [{group: '', kind: Service, name: web}]\n  \
                     rules: [{backendRefs: [{name: BACKEND, port: 8080}]}]\n";

fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("route.yaml");
    std::fs::write(&path, content).expect("a file");
    (directory, path)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// The API server takes it, and Weft does not honour its filter.
const REFUSED: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: refused}\nspec:\n  \
                       parentRefs: [{group: '', kind: Service, name: web}]\n  rules:\n    - filters: [{type: ExtensionRef, \
                       extensionRef: {group: example.com, kind: Filter, name: f}}]\n      \
                       backendRefs: [{name: web, port: 8080}]\n";

#[test]
fn manifests_are_checked_beside_what_the_cluster_has_and_so_is_what_it_has() {
    let world = world();
    let context = world.context();
    let check = |args: &[&str]| {
        let output = world.weft(&[&["validate", "-o", "json"], args].concat());
        let said: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
        let findings = list(&said, "findings").iter();
        let found: Vec<String> = findings
            .map(|finding| format!("{} {}", finding["object"], finding["field"]).replace('"', ""))
            .collect();
        (found, output.status.code())
    };
    let beside = |content: &str| {
        let (_kept, file) = file(content);
        check(&["--context", &context, "-n", "shop", "-f", path(&file)])
    };
    assert_eq!(beside(&ROUTE.replace("BACKEND", "reviews")), (Vec::new(), Some(0)));
    let (found, code) = beside(&ROUTE.replace("BACKEND", "nobody"));
    assert_eq!(found, ["HTTPRoute shop/web spec.rules[0].backendRefs[0].name"]);
    assert_eq!(code, Some(0), "its share is answered with 500, and the rest acts");
    assert_eq!(beside(REFUSED).1, Some(65));
    let (_kept, alone) = file(&ROUTE.replace("BACKEND", "reviews"));
    assert!(
        !check(&["-f", path(&alone)]).0.is_empty(),
        "a file alone knows no Service"
    );

    let namespace = world.cluster.namespace(&[]);
    namespace.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 8080}]}}");
    namespace.apply(REFUSED);
    let (found, code) = check(&["-n", namespace.name()]);
    let object = format!("HTTPRoute {}/refused ", namespace.name());
    assert!(
        !found.is_empty() && found.iter().all(|found| found.starts_with(&object)),
        "{found:?}"
    );
    assert_eq!(code, Some(65));
    let (elsewhere, code) = check(&["-n", "shop"]);
    assert!(
        code == Some(0) && !elsewhere.iter().any(|found| found.contains("refused")),
        "{elsewhere:?}"
    );
    assert_eq!(check(&["-A"]).1, Some(65));
}

#[test]
fn a_route_is_explained_by_the_clusters_objects_and_as_if_others_were_applied() {
    let world = world();
    let (_kept, route) = file(&ROUTE.replace("BACKEND", "reviews"));
    let explain = |more: &[&str]| {
        let args = [
            "route",
            "explain",
            "-n",
            "shop",
            "--from",
            "pod/tools",
            "http://web/products/1",
        ];
        world.json(&[&args, more].concat())
    };
    let backends = |said: &Value| {
        let all = list(&said["verdict"], "backends").iter();
        all.map(|backend| backend["service"].to_string()).collect::<Vec<_>>()
    };
    let now = explain(&[]);
    assert_eq!(backends(&now), ["\"shop/web:80\""], "{now:#}");
    let pods = now["verdict"]["backends"][0]["behind"]["tiers"][0]["pods"].to_string();
    assert!(pods.contains("web-"), "the cluster's own endpoints: {now:#}");
    let then = explain(&["--context", &world.context(), "-f", path(&route)]);
    assert_eq!(backends(&then), ["\"shop/reviews:8080\""], "{then:#}");
    assert_eq!(list(&then, "rules").len(), 1);
    let nobody = world.weft(&["route", "explain", "-n", "shop", "--from", "pod/nobody", "http://web/"]);
    assert!(
        !nobody.status.success() && text(&nobody.stderr).contains("there is no pod \"nobody\""),
        "{}",
        said(&nobody)
    );
}

#[test]
fn who_may_only_look_sees_what_runs_and_is_told_what_permission_is_missing() {
    let world = world();
    let cluster = &world.cluster;
    cluster.kubectl(["-n", "shop", "create", "serviceaccount", "guest"]);
    let binding = [
        "-n",
        "shop",
        "create",
        "rolebinding",
        "guest",
        "--clusterrole=view",
        "--serviceaccount=shop:guest",
    ];
    cluster.kubectl(binding);
    let token = cluster.kubectl(["-n", "shop", "create", "token", "guest"]);
    let kubeconfig = tempfile::NamedTempFile::new().expect("a file");
    let mut config = cluster.kubectl(["config", "view", "--raw", "--minify", "-o", "json"]);
    let mut parsed: Value = serde_json::from_str(&config).expect("JSON");
    parsed["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    config = parsed.to_string();
    std::fs::write(kubeconfig.path(), config).expect("a file");
    let guest = |args: &[&str]| {
        let mut command = world.command(args);
        command
            .args(["--kubeconfig", path(kubeconfig.path())])
            .output()
            .expect("weft runs")
    };
    let status = guest(&["status", "-n", "shop"]);
    assert!(status.status.success(), "{}", said(&status));
    let shown = text(&status.stdout);
    assert!(
        shown.contains("web-") && shown.contains("a Role in weft-system that allows"),
        "{shown}"
    );
    assert!(
        text(&status.stderr).contains("a ClusterRole that allows `list` on nodes"),
        "{}",
        said(&status)
    );
    let config = guest(&["proxy", "config", "-n", "shop", "web"]);
    let told = text(&config.stderr);
    assert!(
        !config.status.success() && told.contains("`create` on pods/portforward"),
        "{told}"
    );
    let logs = guest(&["logs", "-n", "shop", "web", "--tail", "1"]);
    assert!(logs.status.success(), "view may read logs: {}", said(&logs));
    let elsewhere = guest(&["logs", "-n", OWN, "weft-control"]);
    assert!(
        text(&elsewhere.stderr).contains("a Role in weft-system that allows `list` on pods"),
        "{}",
        said(&elsewhere)
    );
}

#[test]
fn kubectl_finds_it_as_a_plugin_whose_help_says_kubectl_weft() {
    let world = world();
    let directory = tempfile::tempdir().expect("a directory");
    let weft = std::fs::canonicalize(weft_bin()).expect("weft");
    std::os::unix::fs::symlink(weft, directory.path().join("kubectl-weft")).expect("a link");
    let before = std::env::var("PATH").unwrap_or_default();
    let plugin = |args: &[&str]| {
        let mut command = world.cluster.command(["weft"].iter().chain(args));
        command
            .env("PATH", format!("{}:{before}", directory.path().display()))
            .env("WEFT_STATE_DIR", world.state.path());
        command.output().expect("kubectl runs")
    };
    let status = plugin(&["status", "-n", "shop"]);
    assert!(
        status.status.success() && text(&status.stdout).contains("reviews"),
        "{}",
        said(&status)
    );
    assert_eq!(
        text(&status.stderr),
        "",
        "a plugin is for clusters: there is nothing to choose"
    );
    let list = plugin(&["proxy", "list", "-n", "shop"]);
    assert!(text(&list.stdout).contains("CERTIFICATE"), "{}", said(&list));
    let help = text(&plugin(&["status", "--help"]).stdout);
    assert!(
        help.contains("Usage: kubectl weft status") && help.contains("\n  kubectl weft status -n shop"),
        "{help}"
    );
    // What is about meshes on this machine is none of its business.
    let up = plugin(&["up", "-f", "/nowhere"]);
    assert_eq!(up.status.code(), Some(64), "{}", said(&up));
    assert!(text(&up.stderr).contains("`weft up`"), "{}", said(&up));
    let wrong = plugin(&["status", "--nope"]);
    assert_eq!(wrong.status.code(), Some(64), "{}", said(&wrong));
}
