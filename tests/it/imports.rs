//! What clusters share has names, and is there where only the other cluster has it.

use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_tests::Clusters;
use weft_tests::host::until;
use weft_tests::reviews::SHARED_NAME;

use crate::failover::fails_over_and_back;

/// HTTP at 8080: answers with its cluster and who calls. At 7000 it says its cluster, and nothing that anybody could take for
/// a protocol.
const APP: &str = r#"
import http.server, os, socketserver, threading
cluster = os.environ["CLUSTER"]
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        who = "nobody" if not self.headers.get("x-forwarded-client-cert") else "somebody"
        body = f"{cluster} called by {who}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
class Word(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(f"word of {cluster}".encode())
threading.Thread(target=socketserver.ThreadingTCPServer(("", 7000), Word).serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("", 8080), App).serve_forever()
"#;

/// What is said at a port without being asked.
const LISTEN: &str = "import socket, sys\nprint(socket.create_connection((sys.argv[1], 7000), 5).recv(99).decode())";

/// The namespace shop, and who calls: in the mesh, and outside.
const CALLERS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft.dev/inject: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: street}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: client, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: street}
spec: {containers: [{name: stranger, command: [sleep, infinity]}]}
---
";

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {{app: app}}\n  ports:\n  \
         - {{name: http, port: 80, targetPort: 8080}}\n  - {{name: tcp-word, port: 7000}}\n---\n"
    )
}

fn export(name: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {name}, namespace: shop}}\n---\n"
    )
}

/// A StatefulSet of one pod, `app-0`, and its headless Service, which is exported.
fn app(cluster: &str) -> String {
    let program = serde_json::to_string(APP).expect("text");
    format!(
        r#"apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: app, namespace: shop}}
spec:
  serviceName: app
  replicas: 1
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata: {{labels: {{app: app}}}}
    spec:
      containers:
      - name: app
        command: [/usr/bin/python3, -c, {program}]
        env: [{{name: CLUSTER, value: {cluster}}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: app, namespace: shop}}
spec: {{clusterIP: None, selector: {{app: app}}, ports: [{{name: http, port: 8080}}]}}
---
"#
    ) + &export("app")
}

/// Both have `both` and `app`; only b has `only` and, unshared, `own`.
fn two(mode: &str) -> Clusters {
    let a = format!("{CALLERS}{}{}{}", app("a"), service("both"), export("both"));
    let b = format!(
        "{CALLERS}{}{}{}{}{}",
        app("b"),
        service("both"),
        export("both"),
        service("only"),
        service("own")
    );
    let clusters = Clusters::builder().cluster("a", &a).cluster("b", &b).arg(mode).up();
    clusters.manifest("b", "export.yaml", &export("only"));
    clusters.link_up("a", "b");
    until("a has the Services of b", || {
        let of_b = |name: &&str| {
            let clusters_of = import(&clusters, name)["clusters"].clone();
            clusters_of
                .as_array()
                .is_some_and(|all| all.contains(&clusters.name("b").into()))
        };
        import(&clusters, "only")["ready"] == true && ["only", "both", "app"].iter().all(of_b)
    });
    until("the client's proxy has them", || {
        get(&clusters, "only") == "b called by somebody"
            && [of_all("both"), of_all("app") + ":8080"]
                .iter()
                .all(|host| !get(&clusters, host).is_empty())
    });
    clusters
}

/// What `weft status` says of an import of a.
fn import(clusters: &Clusters, name: &str) -> Value {
    named(&clusters.status("a")["imports"], name)
}

fn named(list: &Value, name: &str) -> Value {
    let mut all = list.as_array().expect("a list").iter();
    all.find(|one| one["name"] == name).cloned().unwrap_or_default()
}

fn of_all(service: &str) -> String {
    format!("{service}.shop.svc.clusterset.local")
}

fn run(clusters: &Clusters, namespace: &str, pod: &str, command: &[&str]) -> Output {
    clusters.weft("a", "exec", &[&["-n", namespace, pod, "--"], command].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What the client of a is answered at `http://HOST/`; empty: nothing.
fn get(clusters: &Clusters, host: &str) -> String {
    let url = format!("http://{host}/");
    said(&run(
        clusters,
        "shop",
        "client",
        &["/usr/bin/curl", "-sf", "-m", "5", &url],
    ))
}

fn word(clusters: &Clusters, host: &str) -> String {
    said(&run(
        clusters,
        "shop",
        "client",
        &["/usr/bin/python3", "-c", LISTEN, host],
    ))
}

/// The IPv4 addresses of a name, in order; none: there is no such name.
fn resolve(clusters: &Clusters, name: &str) -> Vec<String> {
    let output = run(clusters, "shop", "client", &["/usr/bin/getent", "ahostsv4", name]);
    let lines = said(&output);
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let mut all: Vec<String> = lines.lines().filter_map(first).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn what_only_the_other_cluster_has_is_called_as_if_it_were_here_until_somebody_writes_it_or_it_goes() {
    let clusters = two("--overlapping-networks");
    // By both of its names, whatever is spoken.
    for host in ["only", &of_all("only")] {
        assert_eq!(get(&clusters, host), "b called by somebody", "{host}");
        assert_eq!(word(&clusters, host), "word of b", "{host}");
    }
    // Of what both have, the own one answers first.
    assert_eq!(get(&clusters, &of_all("both")), "a called by somebody");
    let clusters_of = |name: &str| import(&clusters, name)["clusters"].clone();
    let (a, b) = (clusters.name("a"), clusters.name("b"));
    assert_eq!(clusters_of("both"), serde_json::json!([a, b]));
    assert_eq!(clusters_of("only"), serde_json::json!([b]));
    // The address of the name is the ServiceImport's.
    assert_eq!(
        serde_json::json!(resolve(&clusters, &of_all("only"))[0]),
        import(&clusters, "only")["addresses"][0]
    );
    // What is not exported has no name here, and pods of a network that is not shared have none either.
    for name in ["own", &of_all("own"), &of_all("nobody")] {
        assert_eq!(resolve(&clusters, name), Vec::<String>::new(), "{name}");
    }
    let own = clusters.addresses_in("a", "shop", "app-0");
    assert_eq!(resolve(&clusters, &of_all("app")), own[..1]);

    // A control plane that begins anew takes nothing away.
    let address = resolve(&clusters, &of_all("only"));
    let control = clusters.status("a")["control"]["pid"].as_i64().expect("its pid");
    kill(Pid::from_raw(i32::try_from(control).expect("a pid")), Signal::SIGKILL).expect("it runs");
    until("the control plane is back", || {
        assert_eq!(resolve(&clusters, &of_all("only")), address);
        let now = clusters.status("a")["control"].clone();
        now["answers"] == true && now["ready"] == true && now["pid"] != control
    });

    // Somebody brings it to this cluster, and takes it away again.
    let is_imported = || named(&clusters.status("a")["services"], "only")["import"] == "only";
    assert!(is_imported());
    clusters.manifest("a", "only.yaml", &service("only"));
    until("it is a's own", || !is_imported());
    until("a's own pods answer", || {
        get(&clusters, "only") == "a called by somebody"
    });
    assert_eq!(
        get(&clusters, &of_all("only")),
        "b called by somebody",
        "a does not export it"
    );
    clusters.manifest("a", "only.yaml", "");
    until("it is b's again", || {
        is_imported() && get(&clusters, "only") == "b called by somebody"
    });

    // The export goes, and all of it here.
    clusters.manifest("b", "export.yaml", "");
    until("it is gone", || import(&clusters, "only").is_null());
    for name in ["only", &of_all("only")] {
        assert_eq!(resolve(&clusters, name), Vec::<String>::new(), "{name}");
    }
    assert!(named(&clusters.status("a")["services"], "only").is_null());
}

#[test]
fn in_one_network_headless_services_lead_to_the_pods_of_both_and_callers_outside_the_mesh_reach_them_too() {
    let clusters = two("--flat");
    let pod = |cluster: &str| clusters.addresses_in(cluster, "shop", "app-0")[0].clone();
    let mut both = vec![pod("a"), pod("b")];
    both.sort();
    assert_eq!(resolve(&clusters, &of_all("app")), both);
    for cluster in ["a", "b"] {
        let name = format!("app-0.{}.{}", clusters.name(cluster), of_all("app"));
        assert_eq!(resolve(&clusters, &name), [pod(cluster)]);
        assert_eq!(
            get(&clusters, &format!("{name}:8080")),
            format!("{cluster} called by somebody")
        );
    }
    assert_eq!(resolve(&clusters, "app"), [pod("a")], "its own name is this cluster's");
    let call = |host: &str| {
        let url = format!("http://{host}/");
        said(&run(
            &clusters,
            "street",
            "stranger",
            &["/usr/bin/curl", "-sf", "-m", "5", &url],
        ))
    };
    for host in ["only.shop", &of_all("only")] {
        assert_eq!(call(host), "b called by nobody", "{host}");
    }
    assert_eq!(call("own.shop"), "");
}

#[test]
fn by_the_name_of_the_cluster_set_all_protocols_fail_over_and_back_in_a_flat_network() {
    fails_over_and_back("--flat", SHARED_NAME);
}

#[test]
fn by_the_name_of_the_cluster_set_all_protocols_fail_over_and_back_through_gateways() {
    fails_over_and_back("--overlapping-networks", SHARED_NAME);
}
