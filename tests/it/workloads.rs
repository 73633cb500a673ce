//! Manifests as clusters have them: StatefulSets, Jobs, DaemonSets, headless Services, lists, hooks, from several places.

use std::net::IpAddr;

use serde_json::Value;
use weft_tests::capture::Capture;
use weft_tests::host::until;
use weft_tests::{Mesh, MeshBuilder};

const MARKER: &str = "marker-2c8e61d0";

/// A strict namespace on two Nodes, a StatefulSet of servers that say who they are, how often they were asked and by whom,
/// and a client of another service account. A server that is told to end writes that down.
const SHOP: &str = r#"
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Namespace
    metadata:
      name: shop
      labels: {weft.dev/inject: enabled}
      annotations: {config.weft.dev/inbound: strict}
  - {apiVersion: v1, kind: Node, metadata: {name: east}}
  - {apiVersion: v1, kind: Node, metadata: {name: west}}
  - {apiVersion: v1, kind: ServiceAccount, metadata: {name: client, namespace: shop}}
  - apiVersion: v1
    kind: Service
    metadata: {name: db, namespace: shop}
    spec:
      clusterIP: None
      selector: {app: db}
      ports: [{name: http, port: 8080}]
  - apiVersion: v1
    kind: Service
    metadata: {name: any-db, namespace: shop}
    spec:
      selector: {app: db}
      ports: [{name: http, port: 80, targetPort: http}]
  - apiVersion: v1
    kind: Pod
    metadata: {name: client, namespace: shop}
    spec:
      serviceAccountName: client
      containers: [{name: client, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: StatefulSetList
items:
  - metadata: {name: db, namespace: shop}
    spec:
      serviceName: db
      replicas: 3
      selector: {matchLabels: {app: db}}
      template:
        metadata: {labels: {app: db}}
        spec:
          containers:
            - name: db
              command:
                - python3
                - -c
                - |
                  import http.server, os, socket
                  class Server(http.server.ThreadingHTTPServer):
                      address_family = socket.AF_INET6
                  class Handler(http.server.BaseHTTPRequestHandler):
                      def do_GET(self):
                          with open("/data/asked", "a") as asked:
                              asked.write(self.path + "\n")
                          asked = open("/data/asked").read().split()
                          says = [os.uname().nodename, str(len(asked)), str("/ending" in asked),
                                  os.environ["GENERATION"], self.headers.get("x-forwarded-client-cert", "nobody")]
                          body = " ".join(says).encode()
                          self.send_response(200)
                          self.send_header("content-length", str(len(body)))
                          self.end_headers()
                          self.wfile.write(body)
                  Server(("::", 8080), Handler).serve_forever()
              env: [{name: GENERATION, value: first}]
              ports: [{name: http, containerPort: 8080}]
              readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
              lifecycle: {preStop: {httpGet: {path: /ending, port: http}}}
              volumeMounts: [{name: data, mountPath: /data}]
      volumeClaimTemplates:
        - metadata: {name: data}
          spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;

fn shop() -> MeshBuilder {
    Mesh::builder().file("shop.yaml", SHOP)
}

fn pods<'a>(status: &'a Value, prefix: &str) -> Vec<&'a Value> {
    let pods = status["pods"].as_array().expect("pods").iter();
    pods.filter(|pod| pod["name"].as_str().is_some_and(|name| name.starts_with(prefix)))
        .collect()
}

fn three_are_ready(status: &Value) -> bool {
    let db = pods(status, "db-");
    db.len() == 3 && db.iter().all(|pod| pod["ready"] == true)
}

#[track_caller]
fn ask(mesh: &Mesh, url: &str) -> String {
    mesh.exec_ok("shop", "client", &["curl", "--fail", "-sS", "--max-time", "5", url])
}

#[test]
fn pods_of_a_stateful_set_are_reached_by_name_with_mutual_tls_and_the_caller_s_identity() {
    let mesh = shop().up();
    mesh.until("three pods are ready", three_are_ready);
    let capture = Capture::begin(&mesh);
    for ordinal in 0..3 {
        let said = ask(&mesh, &format!("http://db-{ordinal}.db:8080/{MARKER}"));
        assert!(said.starts_with(&format!("db-{ordinal} ")), "{said}");
        assert!(said.contains("/ns/shop/sa/client"), "{said}");
    }
    // By address, too, of either family.
    let status = mesh.status();
    for address in addresses(pods(&status, "db-1")[0]) {
        let host = match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let said = ask(&mesh, &format!("http://{host}:8080/{MARKER}"));
        assert!(
            said.starts_with("db-1 ") && said.contains("/ns/shop/sa/client"),
            "{said}"
        );
    }
    let names = "import socket; print(len({a[4][0] for a in socket.getaddrinfo('db', 1)}), socket.getfqdn('db-2.db'))";
    let said = mesh.exec_ok("shop", "client", &["python3", "-c", names]);
    assert_eq!(said.trim(), "3 db-2.db.shop.svc.cluster.local");

    let meshed: Vec<IpAddr> = status["pods"]
        .as_array()
        .expect("pods")
        .iter()
        .flat_map(addresses)
        .collect();
    let (streams, bytes) = capture.end();
    let mut between = streams
        .iter()
        .filter(|(flow, _)| meshed.contains(&flow.from.ip()) && meshed.contains(&flow.to.ip()))
        .peekable();
    assert!(between.peek().is_some(), "the capture saw no traffic between pods");
    for (flow, stream) in between {
        assert!(
            stream.is_tls(),
            "{flow:?}: {:?}",
            String::from_utf8_lossy(&stream.joined())
        );
    }
    let marker = MARKER.as_bytes();
    assert!(!bytes.windows(marker.len()).any(|window| window == marker));
}

fn addresses(pod: &Value) -> Vec<IpAddr> {
    let list = pod["addresses"].as_array().expect("addresses");
    let parse = |address: &Value| address.as_str().expect("text").parse().expect("an address");
    list.iter().map(parse).collect()
}

#[test]
fn an_edited_stateful_set_keeps_its_data_and_its_hook_is_heard_in_a_strict_namespace() {
    let mesh = shop().up();
    mesh.until("three pods are ready", three_are_ready);
    assert!(ask(&mesh, "http://db-0.db:8080/").contains(" 1 False first "));
    mesh.write("shop.yaml", &SHOP.replace("value: first", "value: second"));
    until("the last pod to be replaced is the first", || {
        let said = mesh.exec(
            "shop",
            "client",
            &["curl", "-sS", "--max-time", "2", "http://db-0.db:8080/"],
        );
        String::from_utf8_lossy(&said.stdout).contains(" True second ")
    });
    for ordinal in [1, 2] {
        let said = ask(&mesh, &format!("http://db-{ordinal}.db:8080/"));
        assert!(said.contains("second"), "{said}");
    }
}

#[test]
fn a_job_calls_a_service_of_the_mesh_and_ends_with_its_sidecar() {
    let job = |name: &str, more: &str, command: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  {more}\n  template:\n    spec:\n      \
             restartPolicy: Never\n      containers: [{{name: app, command: [sh, -c, '{command}']}}]\n---\n"
        )
    };
    let call = "curl -sS --fail --retry 30 --retry-all-errors --retry-delay 1 http://any-db/";
    let jobs = job("asks", "completions: 2", call) + &job("fails", "backoffLimit: 1", "exit 3");
    let mesh = shop().file("jobs.yaml", &jobs).without_waiting().up();
    mesh.answers();
    let of = |status: &Value, name: &str| {
        let jobs = status["jobs"].as_array().expect("jobs").iter();
        jobs.filter(|job| job["name"] == name)
            .map(|job| job["status"].as_str().unwrap_or_default().to_owned())
            .next()
    };
    let status = mesh.until("both are over", |status| {
        of(status, "asks").as_deref() == Some("Complete") && of(status, "fails").as_deref() == Some("Failed")
    });
    let done = pods(&status, "asks-");
    assert!(
        done.len() >= 2 && done.iter().all(|pod| pod["meshed"] == true),
        "{done:#?}"
    );
    for container in done
        .iter()
        .flat_map(|pod| pod["containers"].as_array().expect("containers"))
    {
        assert_eq!(container["state"], "terminated", "{container:#?}");
    }
    assert_eq!(pods(&status, "fails-").len(), 2);
    until("the mesh is ready", || mesh.log().contains("Ready after"));
    assert!(mesh.log().contains("job shop/asks: complete after"), "{}", mesh.log());
    assert!(
        mesh.log().contains("BackoffLimitExceeded, 2 failures"),
        "{}",
        mesh.log()
    );
    assert!(
        !mesh.log().contains("Ready again"),
        "a Job that ends changes nothing: {}",
        mesh.log()
    );
}

#[test]
fn a_daemon_set_has_one_pod_on_each_node_that_it_may_be_on() {
    let agents = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent, namespace: shop}\nspec:\n  selector: {matchLabels: {app: agent}}\n  \
                  template:\n    metadata: {labels: {app: agent}}\n    spec:\n      containers: [{name: agent, command: [sleep, infinity]}]\n";
    let mesh = shop().file("agents.yaml", agents).up();
    let nodes = |status: &Value| {
        let ready = pods(status, "agent-").into_iter().filter(|pod| pod["ready"] == true);
        let mut nodes: Vec<String> = ready.filter_map(|pod| Some(pod["node"].as_str()?.to_owned())).collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes(&mesh.status()), ["east", "west"]);
    let north = SHOP.replace(
        "  - {apiVersion: v1, kind: Node, metadata: {name: west}}\n",
        "  - {apiVersion: v1, kind: Node, metadata: {name: west}}\n  - {apiVersion: v1, kind: Node, metadata: {name: north}}\n",
    );
    mesh.write("shop.yaml", &north);
    mesh.until("the new node has one, too", |status| {
        nodes(status) == ["east", "north", "west"]
    });
    let chosen = agents.replace(
        "      containers:",
        "      nodeSelector: {kubernetes.io/hostname: east}\n      containers:",
    );
    mesh.write("agents.yaml", &chosen);
    mesh.until("only the chosen node has one", |status| {
        pods(status, "agent-").len() == 1 && nodes(status) == ["east"]
    });
}

#[test]
fn directories_files_and_standard_input_make_one_mesh_and_files_are_watched_wherever_they_are() {
    let place = tempfile::tempdir().expect("a directory");
    let open = |path: &std::path::Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    };
    open(place.path(), 0o755);
    let file = place.path().join("one.manifest");
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: places, labels: {{a: b}}}}\nspec:\n  \
             containers: [{{name: c, command: [sleep, infinity]}}]\n"
        )
    };
    std::fs::write(&file, pod("from-file")).expect("a manifest");
    let namespace =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: places, labels: {weft.dev/inject: enabled}}\n---\n";
    let mesh = Mesh::builder()
        .file("a.yaml", &pod("from-directory"))
        .arg("-f")
        .arg(file.to_str().expect("a path"))
        .arg("-f")
        .arg("-")
        .arg("--recursive")
        .stdin(&format!("{namespace}{}", pod("from-stdin")))
        .up();
    assert!(mesh.log().contains("one.manifest, stdin"), "{}", mesh.log());
    let names = |status: &Value| {
        let pods = pods(status, "");
        pods.iter()
            .filter_map(|pod| Some(pod["name"].as_str()?.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&mesh.status()), ["from-directory", "from-file", "from-stdin"]);
    std::fs::write(&file, pod("renamed")).expect("a manifest");
    let below = mesh.manifests().join("base/deeper");
    std::fs::create_dir_all(&below).expect("a directory");
    std::fs::write(below.join("b.yaml"), pod("from-below")).expect("a manifest");
    mesh.until("both edits are there", |status| {
        names(status) == ["from-below", "from-directory", "from-stdin", "renamed"]
    });
    // What the control plane says of standard input is said of standard input.
    let status = mesh.status();
    for part in ["manifests", "objects", "problems"] {
        assert!(!status[part].to_string().contains("stdin.yaml"), "{}", status[part]);
    }
}

#[test]
fn every_example_of_the_page_about_manifests_starts_as_it_stands() {
    let page = include_str!("../../docs/manifests.md");
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("an end"))
        .collect();
    assert!(examples.len() >= 7, "{}", examples.len());
    let mut mesh = Mesh::builder();
    for (i, example) in examples.iter().enumerate() {
        mesh = mesh.file(&format!("{i}.yaml"), example);
    }
    let mesh = mesh.without_waiting().up();
    mesh.answers();
    let status = mesh.until("all of it runs", |status| {
        let jobs = status["jobs"].as_array().expect("jobs");
        let pods = status["pods"].as_array().expect("pods").iter();
        let mut lasting = pods.filter(|pod| pod["workload"] != "ask");
        status["ready"] == true
            && jobs.iter().all(|job| job["status"] == "Complete")
            && lasting.all(|pod| pod["ready"] == true)
    });
    assert_eq!(status["problems"], serde_json::json!([]));
    let answers = |url: &str| {
        mesh.exec_ok(
            "shop",
            "ds/agent",
            &["curl", "--fail", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url],
        )
    };
    for url in [
        "http://web/",
        "http://web-dual/",
        "http://website/",
        "http://db-1.db:8000/",
    ] {
        assert_eq!(answers(url), "200", "{url}");
    }
}
