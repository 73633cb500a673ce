//! gRPC's own interoperability suite (<https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md>): grpc-go's
//! client and server, through two sidecars.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use weft_tests::Mesh;
use weft_tests::golang;
use weft_tests::programs::Programs;

/// The version of grpc-go.
const VERSION: &str = "v1.83.1";

/// The cases of grpc-go's own script (`interop/interop_test.sh`): those that need no credentials. `pick_first_unary` is not
/// among them, because grpc-go's server does not say who it is, which that case asks for.
const CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "orca_oob",
    "rpc_soak",
    "channel_soak",
];

/// Where the suite's `client` and `server` are. Built once for each version, and kept beside other caches of the user.
fn suite() -> &'static PathBuf {
    static SUITE: OnceLock<PathBuf> = OnceLock::new();
    SUITE.get_or_init(|| {
        golang::built("grpc-interop", VERSION, &["client", "server"], |to| {
            let module = "google.golang.org/grpc/interop";
            let packages = ["client", "server"].map(|name| format!("{module}/{name}"));
            golang::install(&packages.each_ref().map(String::as_str), VERSION, to);
        })
    })
}

fn manifests(server: &Path) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: interop, labels: {{weft.dev/inject: enabled}}, annotations: {{config.weft.dev/inbound: strict}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: interop, labels: {{app: server}}}}
spec:
  containers:
    - name: server
      command: [{server:?}, --port=10000]
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: interop}}
spec:
  selector: {{app: server}}
  ports: [{{name: undeclared, port: 10000}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: interop}}
spec:
  containers:
    - name: client
      command: [sleep, infinity]
"
    )
}

#[test]
fn every_case_of_grpcs_interop_suite_passes_through_two_sidecars() {
    let programs = Programs::of(&["client", "server"].map(|name| suite().join(name)));
    let manifests = manifests(&programs.path("server"));
    let mesh = Mesh::builder().file("interop.yaml", &manifests).up();
    let client = programs.path("client").display().to_string();
    let case = |name: &str| {
        let case = format!("--test_case={name}");
        // As that script has it: the cases of load reports look at what this balancer hears.
        let balancer =
            "--service_config_json={\"loadBalancingConfig\": [{\"test_backend_metrics_load_balancer\": {}}]}";
        let args = [&*client, "--server_host=server", "--server_port=10000", balancer, &case];
        mesh.exec("interop", "client", &args)
    };
    // The server has no readiness probe.
    weft_tests::host::until("the server listens", || case("empty_unary").status.success());
    let failed: Vec<String> = CASES
        .iter()
        .filter_map(|name| {
            let output = case(name);
            let said = String::from_utf8_lossy(&output.stderr);
            println!("{name}: {}", output.status);
            (!output.status.success()).then(|| format!("{name}: {said}"))
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}",
        failed.len(),
        CASES.len(),
        failed.join("\n")
    );
    let metrics = mesh.admin("interop", "server", "/metrics");
    let called = metrics.lines().any(|line| {
        line.starts_with("rpc_server_call_duration_seconds_count{")
            && line.contains("rpc_method=\"grpc.testing.TestService/EmptyCall\"")
            && line.contains("mutual_tls=\"true\"")
    });
    assert!(called, "the calls were gRPC to the mesh, over mutual TLS: {metrics}");
}
