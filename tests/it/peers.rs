//! Unmodified peers from packages: nginx, a gRPC pair in Python, Redis, curl.

use std::process::Command;

use weft_tests::Mesh;
use weft_tests::host::until;

/// The namespace of the guests: in the mesh and strict, so that nothing here works by accident of plaintext.
const NAMESPACE: &str = "
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
  containers:
    - name: client
      command: [sleep, infinity]
";

/// Kubernetes' own example of a Deployment (concepts, Deployment), with a command because there is no image.
const NGINX: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment
  namespace: guests
  labels:
    app: nginx
spec:
  replicas: 3
  selector:
    matchLabels:
      app: nginx
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:1.14.2
        command:
        - sh
        - -c
        - |
          mkdir -p /tmp/site && echo '<h1>Welcome to nginx!</h1>' > /tmp/site/index.html
          cat > /tmp/nginx.conf <<'END'
          daemon off;
          pid /tmp/nginx.pid;
          error_log /dev/stderr;
          events {}
          http {
            access_log /dev/stdout;
            client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
            uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
            server { listen 80; listen [::]:80; root /tmp/site; }
          }
          END
          exec /usr/sbin/nginx -e /dev/stderr -c /tmp/nginx.conf
        ports:
        - containerPort: 80
---
apiVersion: v1
kind: Service
metadata:
  name: nginx
  namespace: guests
spec:
  selector:
    app: nginx
  ports:
  - port: 80
"#;

const REDIS: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: redis
  namespace: guests
  labels: {app: redis}
spec:
  containers:
    - name: redis
      command: [redis-server, --port, '6379', --bind, '* -::*', --protected-mode, 'no', --save, '', --dir, /tmp]
      readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: guests}
spec:
  selector: {app: redis}
  ports: [{name: tcp-redis, port: 6379}]
";

const GREETER_PROTO: &str = r#"
syntax = "proto3";
package helloworld;
service Greeter {
  rpc SayHello (HelloRequest) returns (HelloReply) {}
  rpc SayHelloStream (HelloRequest) returns (stream HelloReply) {}
}
message HelloRequest { string name = 1; }
message HelloReply { string message = 1; }
"#;

/// After gRPC's Python quick start, with a stream and a status beside it.
const GREETER_SERVER: &str = r#"
from concurrent import futures
import socket
import grpc
import helloworld_pb2
import helloworld_pb2_grpc

class Greeter(helloworld_pb2_grpc.GreeterServicer):
    def SayHello(self, request, context):
        if request.name == "nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "nobody is here")
        return helloworld_pb2.HelloReply(message="Hello, %s!" % request.name)

    def SayHelloStream(self, request, context):
        for i in range(100):
            yield helloworld_pb2.HelloReply(message="%d" % i)
        context.set_trailing_metadata((("count", "100"),))

server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
helloworld_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
server.add_insecure_port("[::]:50051")
server.start()
print("started on", socket.gethostname(), flush=True)
server.wait_for_termination()
"#;

const GREETER_CLIENT: &str = r#"
import grpc
import helloworld_pb2
import helloworld_pb2_grpc

with grpc.insecure_channel("greeter:50051") as channel:
    stub = helloworld_pb2_grpc.GreeterStub(channel)
    print(stub.SayHello(helloworld_pb2.HelloRequest(name="you"), timeout=10).message)
    try:
        stub.SayHello(helloworld_pb2.HelloRequest(name="nobody"), timeout=10)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
    call = stub.SayHelloStream(helloworld_pb2.HelloRequest(name="you"), timeout=10)
    print(sum(int(reply.message) for reply in call), dict(call.trailing_metadata())["count"])
"#;

/// The Python programs and what protoc makes for them, as a ConfigMap and two pods.
fn greeter() -> String {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("helloworld.proto"), GREETER_PROTO).expect("the proto");
    let made = Command::new("/usr/bin/python3")
        .args([
            "-m",
            "grpc_tools.protoc",
            "-I.",
            "--python_out=.",
            "--grpc_python_out=.",
            "helloworld.proto",
        ])
        .current_dir(dir.path())
        .status()
        .expect("python3 runs");
    assert!(
        made.success(),
        "grpc_tools.protoc is missing: apt-get install python3-grpc-tools"
    );
    let generated = |file: &str| std::fs::read_to_string(dir.path().join(file)).expect("a generated file");
    let mut text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: greeter, namespace: guests}\ndata:\n".to_owned();
    for (file, body) in [
        ("helloworld_pb2.py", generated("helloworld_pb2.py")),
        ("helloworld_pb2_grpc.py", generated("helloworld_pb2_grpc.py")),
        ("server.py", GREETER_SERVER.to_owned()),
        ("client.py", GREETER_CLIENT.to_owned()),
    ] {
        let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
        text += &format!("  {file}: |\n{body}");
    }
    for (name, program) in [
        ("greeter", "[/usr/bin/python3, /app/server.py]"),
        ("caller", "[sleep, infinity]"),
    ] {
        text += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: guests, labels: {{app: {name}}}}}
spec:
  containers:
    - name: python
      command: {program}
      volumeMounts: [{{name: app, mountPath: /app}}]
  volumes: [{{name: app, configMap: {{name: greeter}}}}]
"
        );
    }
    text + "---
apiVersion: v1
kind: Service
metadata: {name: greeter, namespace: guests}
spec:
  selector: {app: greeter}
  ports: [{name: grpc, port: 50051}]
"
}

fn guests() -> weft_tests::MeshBuilder {
    Mesh::builder().file("namespace.yaml", NAMESPACE)
}

#[test]
fn a_deployment_of_nginx_answers_curl_through_the_mesh() {
    let mesh = guests().file("nginx.yaml", NGINX).up();
    for host in ["nginx", "nginx.guests", "nginx.guests.svc.cluster.local"] {
        let said = mesh.exec_ok("guests", "client", &["curl", "-sS", "-i", &format!("http://{host}/")]);
        assert!(
            said.starts_with("HTTP/1.1 200") && said.to_lowercase().contains("\nserver: nginx"),
            "{said}"
        );
        assert!(said.contains("Welcome to nginx!"), "{said}");
    }
    let missing = mesh.exec_ok(
        "guests",
        "client",
        &[
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://nginx/none",
        ],
    );
    assert_eq!(missing, "404");
    let replicas = mesh.pods("nginx-deployment-");
    assert_eq!(replicas.len(), 3);
    // What nginx has written to /dev/stdout and /dev/stderr, wherever the calls went to.
    let logged = |text: &str| {
        replicas.iter().any(|pod| {
            let name = pod["name"].as_str().expect("a name");
            let output = mesh.weft("logs", ["-n", "guests", name]);
            String::from_utf8_lossy(&output.stdout).contains(text)
        })
    };
    until("nginx's access log is there", || logged("\"GET / HTTP/1.1\" 200"));
    until("nginx's error log is there", || {
        logged("[error]") && logged("\"/tmp/site/none\" failed")
    });
}

#[test]
fn a_grpc_pair_in_python_talks_streams_and_fails_through_the_mesh() {
    let mesh = guests().file("greeter.yaml", &greeter()).up();
    // The server has no readiness probe, as in its manual: wait until it listens.
    mesh.exec_ok(
        "guests",
        "greeter",
        &[
            "sh",
            "-c",
            "until curl -s --http2-prior-knowledge -m 1 127.0.0.1:50051 -o /dev/null; do :; done",
        ],
    );
    let said = mesh.exec_ok("guests", "caller", &["/usr/bin/python3", "/app/client.py"]);
    assert_eq!(said, "Hello, you!\nNOT_FOUND nobody is here\n4950 100\n");
}

#[test]
fn redis_is_carried_as_bytes_over_mutual_tls() {
    let mesh = guests().file("redis.yaml", REDIS).up();
    let redis = |command: &[&str]| mesh.exec_ok("guests", "client", &[&["redis-cli", "-h", "redis"], command].concat());
    assert_eq!(redis(&["set", "thread", "weft"]), "OK\n");
    assert_eq!(redis(&["get", "thread"]), "weft\n");
    let metrics = mesh.admin("guests", "redis", "/metrics");
    let opened = metrics
        .lines()
        .find(|line| line.starts_with("weft_tcp_connections_opened_total{"));
    assert!(
        opened.is_some_and(|line| line.contains("mutual_tls=\"true\"")),
        "{metrics}"
    );
}
