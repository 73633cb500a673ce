//! A real Jaeger shows what proxies say of a request.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use weft_tests::host::{processes_with, until};
use weft_tests::mesh::weft_bin;
use weft_tests::shop::shop;

/// As `./x jaeger` leaves it.
fn program() -> PathBuf {
    let home = || Path::new(&std::env::var_os("HOME").expect("HOME")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let versions = std::fs::read_dir(cache.join("weft")).expect("the cache: run ./x jaeger");
    let found = versions.flatten().map(|entry| entry.path().join("jaeger-all-in-one"));
    found
        .filter(|path| path.is_file())
        .max()
        .expect("Jaeger in the cache: run ./x jaeger")
}

/// Ends with the test.
struct Jaeger {
    child: Child,
    page: String,
    otlp: String,
}

impl Jaeger {
    fn start() -> Self {
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("its address").to_string()
        };
        let (page, otlp) = (free(), free());
        let mut command = Command::new(program());
        command.arg(format!("--query.http-server.host-port={page}"));
        command.arg(format!("--collector.otlp.grpc.host-port={otlp}"));
        for flag in [
            "query.grpc-server",
            "collector.otlp.http",
            "collector.grpc-server",
            "collector.http-server",
            "admin.http",
        ] {
            command.arg(format!("--{flag}.host-port={}", free()));
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Jaeger starts");
        let jaeger = Self { child, page, otlp };
        until("Jaeger answers", || jaeger.get("/api/services").is_some());
        jaeger
    }

    fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://{}{path}", self.page);
        let output = Command::new("curl").args(["-sf", &url]).output().expect("curl runs");
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    fn spans(&self, trace: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/traces/{trace}")).unwrap_or_default();
        answer["data"][0]["spans"].as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An app before `web` that knows B3 alone, as Zipkin's libraries do: of a trace it passes nothing else on.
const RELAY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: relay, namespace: shop, labels: {app: relay}}
spec:
  containers:
    - name: relay
      command:
        - python3
        - -c
        - |
          import http.server, socket, urllib.request

          class Relay(http.server.BaseHTTPRequestHandler):
              protocol_version = "HTTP/1.1"

              def do_GET(self):
                  b3 = {k: v for k, v in self.headers.items() if k.lower() == "b3" or k.lower().startswith("x-b3-")}
                  body = b"ready"
                  if self.path != "/ready":
                      request = urllib.request.Request("http://web" + self.path, headers=b3)
                      body = urllib.request.urlopen(request, timeout=10).read()
                  self.send_response(200)
                  self.send_header("content-type", "application/json")
                  self.send_header("content-length", str(len(body)))
                  self.end_headers()
                  self.wfile.write(body)

              def log_message(self, *words):
                  pass

          class Server(http.server.ThreadingHTTPServer):
              address_family = socket.AF_INET6

          Server(("::", 8080), Relay).serve_forever()
      readinessProbe: {httpGet: {port: 8080, path: /ready}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: relay, namespace: shop}
spec:
  selector: {app: relay}
  ports: [{port: 80, targetPort: 8080, appProtocol: http}]
"#;

/// The caller's own span.
const SPAN: &str = "00f067aa0ba902b7";

/// The kinds of a trace's spans, from the only one whose parent is the caller's own on, each the child of the one before.
fn walked(spans: &[Value]) -> Vec<String> {
    let parent_of = |span: &Value| span["references"][0]["spanID"].as_str().unwrap_or_default().to_owned();
    let mut parent = SPAN.to_owned();
    let mut kinds = Vec::new();
    while let Some(span) = spans.iter().find(|span| parent_of(span) == parent) {
        let tags = span["tags"].as_array().expect("tags");
        let kind = tags.iter().find(|tag| tag["key"] == "span.kind").expect("a kind");
        kinds.push(kind["value"].as_str().unwrap_or_default().to_owned());
        parent = span["spanID"].as_str().expect("an id").to_owned();
    }
    kinds
}

#[test]
fn jaeger_has_the_demos_trace_with_every_parent_in_its_place_also_with_b3_in() {
    let jaeger = Jaeger::start();
    let endpoint = format!("http://{}", jaeger.otlp);
    let mesh = shop()
        .file("relay.yaml", RELAY)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .up();
    let (w3c, single, multi) = (
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "463ac35c9f6413ad48485a3953bb6124",
        "a3ce929d0e0e4736",
    );
    // As the caller says its trace, the trace's id as Jaeger knows it (one of 64 bits has zeros before it), and the hops.
    let told = [
        (
            "web",
            w3c.to_owned(),
            vec![format!("traceparent: 00-{w3c}-{SPAN}-01")],
            3,
        ),
        ("relay", single.to_owned(), vec![format!("b3: {single}-{SPAN}-1")], 4),
        (
            "relay",
            format!("{multi:0>32}"),
            vec![
                format!("x-b3-traceid: {multi}"),
                format!("x-b3-spanid: {SPAN}"),
                "x-b3-sampled: 1".to_owned(),
            ],
            4,
        ),
    ];
    for (at, trace, headers, hops) in told {
        let options: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        mesh.visit("shop", "visitor", &format!("http://{at}/products/1"), &options)
            .none_failed();
        until(&format!("all spans of {headers:?} are there"), || {
            jaeger.spans(&trace).len() == 2 * hops
        });
        let spans = jaeger.spans(&trace);
        assert_eq!(
            walked(&spans),
            ["client", "server"].repeat(hops),
            "{headers:?}: {spans:#?}"
        );
    }
}

#[test]
fn the_demo_starts_a_jaeger_that_has_its_trace_and_ends_it() {
    let name = format!("demo-jaeger-{}", std::process::id());
    let output = Command::new(weft_bin())
        .args(["demo", "--json", "--jaeger", "--name", &name])
        .output()
        .expect("weft demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let steps: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(output.status.success(), "{steps:#}\n{said}");
    let last = steps["steps"].as_array().and_then(|steps| steps.last()).expect("steps");
    let saw = last["saw"].as_str().expect("words");
    let (_, link) = saw.split_once("http://").expect("the link");
    let (page, _) = link.split_once("/trace/").expect("the link to a trace");
    assert!(
        std::net::TcpStream::connect(page).is_err(),
        "Jaeger still answers at {page}"
    );
    assert_eq!(
        processes_with(&format!("http-server.host-port={page}")),
        Vec::<String>::new()
    );
}
