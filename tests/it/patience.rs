//! Timeouts, retries, budgets and mirrors, seen from both ends: what the client got, and how often the app was called.

use weft_tests::Mesh;

/// An app that does what its path says, and counts: `/status/503`, `/flaky/2` (503 twice, then 200), `/sleep/3`,
/// `/count/PATH`.
const MOODY: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: guests
  labels: {weft.dev/inject: enabled}
  annotations: {config.weft.dev/inbound: strict}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: guests}
spec:
  containers: [{name: client, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: moody, namespace: guests, labels: {app: moody}}
spec:
  containers:
    - name: moody
      command:
        - python3
        - -c
        - |
          import collections, http.server, socket, threading, time
          counts, lock = collections.Counter(), threading.Lock()

          class Moody(http.server.BaseHTTPRequestHandler):
              protocol_version = "HTTP/1.1"

              def do_GET(self):
                  part = self.path.split("/")
                  if part[1] == "count":
                      return self.answer(200, str(counts["/" + "/".join(part[2:])]))
                  with lock:
                      counts[self.path] += 1
                      count = counts[self.path]
                  if part[-2] == "status":
                      return self.answer(int(part[-1]))
                  if part[-2] == "flaky":
                      return self.answer(503 if count <= int(part[-1]) else 200)
                  time.sleep(float(part[-1]))
                  self.answer(200)

              def answer(self, status, text=""):
                  self.send_response(status)
                  self.send_header("content-length", str(len(text)))
                  self.end_headers()
                  self.wfile.write(text.encode())

              def log_message(self, *words):
                  pass

          class Server(http.server.ThreadingHTTPServer):
              address_family, daemon_threads, request_queue_size = socket.AF_INET6, True, 128

          Server(("::", 8080), Moody).serve_forever()
      readinessProbe: {httpGet: {port: 8080, path: /count/ready}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: moody, namespace: guests}
spec:
  selector: {app: moody}
  ports: [{port: 80, targetPort: 8080, appProtocol: http}]
"#;

/// One rule for each first part of a path.
const RULES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: moody, namespace: guests}
spec:
  parentRefs: [{group: '', kind: Service, name: moody}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /thrice}}]
      retry: {attempts: 2, codes: [503], backoff: 10ms}
      backendRefs: [{name: moody, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /others}}]
      retry: {attempts: 2, codes: [500], backoff: 10ms}
      backendRefs: [{name: moody, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /short}}]
      timeouts: {request: 300ms}
      backendRefs: [{name: moody, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /tries}}]
      timeouts: {request: 5s, backendRequest: 300ms}
      retry: {attempts: 1, codes: [503], backoff: 10ms}
      backendRefs: [{name: moody, port: 80}]
    - backendRefs: [{name: moody, port: 80}]
";

/// What the client gets for a path, and how often the app is called for it.
const TABLE: [(&str, u16, u32); 10] = [
    ("/status/503", 503, 1),
    ("/flaky/1", 503, 1),
    ("/sleep/0.1", 200, 1),
    ("/thrice/status/503", 503, 3),
    ("/thrice/flaky/1", 200, 2),
    ("/thrice/status/500", 500, 1),
    ("/others/status/503", 503, 1),
    ("/short/sleep/3", 504, 1),
    ("/short/sleep/0", 200, 1),
    ("/tries/sleep/3", 504, 2),
];

fn get(mesh: &Mesh, path: &str, more: &[&str]) -> String {
    let url = format!("http://moody{path}");
    mesh.exec_ok("guests", "client", &[&["curl", "-s"], more, &[url.as_str()]].concat())
}

fn called(mesh: &Mesh, path: &str) -> u32 {
    get(mesh, &format!("/count{path}"), &[]).parse().expect("a count")
}

#[test]
fn timeouts_and_retries_are_as_written_for_the_client_and_for_the_app() {
    let mesh = Mesh::builder().file("moody.yaml", MOODY).file("rules.yaml", RULES).up();
    for (path, status, calls) in TABLE {
        let got = get(&mesh, path, &["-o", "/dev/null", "-w", "%{http_code}"]);
        let seen = (got.as_str(), called(&mesh, path));
        assert_eq!(seen, (status.to_string().as_str(), calls), "{path}");
    }
}

/// Retries of everything, within a budget.
const OUTAGE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: moody, namespace: guests}
spec:
  parentRefs: [{group: '', kind: Service, name: moody}]
  rules:
    - matches: [{path: {type: PathPrefix, value: /status}}]
      retry: {attempts: 3, codes: [503], backoff: 10ms}
      backendRefs: [{name: moody, port: 80}]
    - backendRefs: [{name: moody, port: 80}]
---
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: moody, namespace: guests}
spec:
  targetRefs: [{group: '', kind: Service, name: moody}]
  retryConstraint:
    budget: {percent: 20, interval: 10s}
    minRetryRate: {count: 5, interval: 1s}
";

#[test]
fn in_a_total_outage_retries_stay_within_their_budget() {
    let mesh = Mesh::builder()
        .file("moody.yaml", MOODY)
        .file("outage.yaml", OUTAGE)
        .up();
    let began = std::time::Instant::now();
    let tally = mesh.visit(
        "guests",
        "client",
        "http://moody/status/503",
        &["--count", "1000", "--rate", "200"],
    );
    let seconds = began.elapsed().as_secs_f64().ceil();
    assert_eq!(tally.calls(), 1000);
    assert_eq!(tally.0["statuses"]["503"], 1000, "{}", tally.0);
    let calls = f64::from(called(&mesh, "/status/503"));
    assert!(calls > 1000.0, "nothing was retried: {calls}");
    assert!(calls <= 1250.0 + 5.0 * seconds, "{calls} calls in {seconds} s");
}

/// nginx, which counts its requests, and a server that takes connections and never answers.
const SHADOWS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: shadow, namespace: shop, labels: {app: shadow}}
spec:
  containers:
    - name: nginx
      command:
        - sh
        - -c
        - |
          cat > /tmp/nginx.conf <<'END'
          daemon off;
          pid /tmp/nginx.pid;
          events { worker_connections 4096; }
          http {
            access_log /tmp/calls.log;
            client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
            uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
            server { listen 8080; listen [::]:8080; return 503; }
          }
          END
          exec /usr/sbin/nginx -e /dev/stderr -c /tmp/nginx.conf
---
apiVersion: v1
kind: Service
metadata: {name: shadow, namespace: shop}
spec:
  selector: {app: shadow}
  ports: [{port: 80, targetPort: 8080, appProtocol: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: stuck, namespace: shop, labels: {app: stuck}}
spec:
  containers:
    - name: stuck
      command: [python3, -c, "import socket, time; s = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096); time.sleep(1e9)"]
---
apiVersion: v1
kind: Service
metadata: {name: stuck, namespace: shop}
spec:
  selector: {app: stuck}
  ports: [{port: 80, targetPort: 8080, appProtocol: http}]
"#;

/// The rule, with a mirror of it.
fn mirrored(to: &str, percent: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: mirrored, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews}}]
  rules:
    - filters:
        - type: RequestMirror
          requestMirror: {{backendRef: {{name: {to}, port: 80}}, percent: {percent}}}
      backendRefs: [{{name: reviews, port: 80}}]
"
    )
}

const REVIEWS: &str = "http://reviews/reviews/1";

#[test]
fn half_of_ten_thousand_requests_are_mirrored_and_the_mirror_never_answers() {
    let mesh = weft_tests::shop::shop()
        .file("routes.yaml", &mirrored("shadow", 50))
        .file("shadows.yaml", SHADOWS)
        .up();
    let options = ["--count", "10000", "--rate", "1000"];
    mesh.visit("shop", "visitor", REVIEWS, &options).none_failed();
    let count = || -> u32 {
        let lines = mesh.exec_ok("shop", "shadow", &["sh", "-c", "wc -l < /tmp/calls.log"]);
        lines.trim().parse().expect("a count")
    };
    // The last copies may still be on their way.
    weft_tests::host::until("as many copies as are due", || count() >= 4800);
    let copies = count();
    assert!((4800..=5200).contains(&copies), "{copies}");
}

#[test]
fn a_mirror_that_hangs_is_not_waited_for() {
    let mesh = weft_tests::shop::shop()
        .file("routes.yaml", &mirrored("stuck", 100))
        .file("shadows.yaml", SHADOWS)
        .up();
    let tally = mesh.visit("shop", "visitor", REVIEWS, &["--count", "2000", "--rate", "500"]);
    tally.none_failed();
    // Whoever waited for it would wait for ever.
    let slowest = tally.0["slowest_ms"].as_u64().expect("milliseconds");
    assert!(slowest < 2000, "{slowest} ms");
}
