//! What another cluster exports, as objects of this one: they come and go with the export, and what people bring is theirs. The
//! other cluster is a control plane that reads a directory; both name one network.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use weft_tests::kube::{Cluster, Namespace, root, until};

use super::control::{Control, World, together, world};

/// The other cluster.
struct West {
    manifests: TempDir,
    _control: Control,
}

/// One for all tests, which each export what is in their own namespace.
fn west(world: &World) -> &'static West {
    static WEST: OnceLock<West> = OnceLock::new();
    WEST.get_or_init(|| {
        let manifests = tempfile::tempdir().expect("a directory");
        let directory = manifests.path().to_str().expect("a path of text").to_owned();
        let ours = &world.control.status()["mesh"]["federation"];
        std::fs::write(
            manifests.path().join("peer.yaml"),
            peer(ours, "127.0.0.1:1").to_string(),
        )
        .expect("a file");
        let flags = [
            "--manifests",
            &directory,
            "--cluster",
            "west",
            "--trust-domain",
            "west.example",
            "--network",
            // That of the other one, which is called so.
            "local",
            "--federation-listen",
            "127.0.0.1:0",
        ];
        let control = Control::run(&flags, &[]);
        let log = control.process.log();
        let (_, address) = log
            .split_once("federation=Some(")
            .expect("it listens for other clusters");
        let (address, _) = address.split_once(')').expect("an address");
        let definition = root().join("charts/weft-crds/templates/clusterpeers.yaml");
        let definition = std::fs::read_to_string(definition).expect("the CRD");
        world.cluster.apply(&["--server-side"], &definition);
        world
            .cluster
            .kubectl(["wait", "--for=condition=Established", "crd/clusterpeers.weft.dev"]);
        let theirs = &control.status()["mesh"]["federation"];
        world.cluster.apply(&[], &peer(theirs, address).to_string());
        let linked = || {
            let peer = world.cluster.get(["clusterpeer", "west"]);
            let conditions = peer["status"]["conditions"].as_array()?.clone();
            conditions
                .into_iter()
                .find(|one| one["type"] == "Connected" && one["status"] == "True")
        };
        until("the link stands", linked, || {
            world.cluster.get(["clusterpeer", "west"]).to_string()
        });
        West {
            manifests,
            _control: control,
        }
    })
}

/// The ClusterPeer of a cluster, by what it says of itself.
fn peer(of: &Value, endpoint: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer", "metadata": {"name": of["cluster"]},
        "spec": {
            "trustDomain": of["trustDomain"], "endpoints": [endpoint], "network": of["network"],
            "imports": [{"namespaces": ["*"]}],
            "trustBundle": {"sequence": of["bundleSequence"], "roots": of["roots"]},
        }
    })
}

impl West {
    /// Exports these Services of a namespace, each with a pod behind it; none: nothing of it any more.
    fn export(&self, namespace: &str, services: &[&str]) {
        let head = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}\n");
        static POD: AtomicU8 = AtomicU8::new(1);
        let of = |name: &&str| {
            let ip = format!("172.29.0.{}", POD.fetch_add(1, Ordering::Relaxed));
            format!(
                "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{serviceAccountName: {name}, containers: [{{name: app}}, {{name: weft-proxy}}]}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}, namespace: {namespace}}}}}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: {name}, namespace: {namespace}}}
"
            )
        };
        let all: String = services.iter().map(of).collect();
        let (file, aside) = (format!("{namespace}.yaml"), format!("{namespace}.tmp"));
        let path = |name: &str| self.manifests.path().join(name);
        std::fs::write(path(&aside), head + &all).expect("a file");
        std::fs::rename(path(&aside), path(&file)).expect("it takes its place");
    }
}

/// What there is of a kind in a namespace that is here because of imports.
fn imported(namespace: &Namespace<'_>, kind: &str) -> Vec<Value> {
    let list = namespace.get(&[kind, "-l", "weft.dev/import=true"]);
    list["items"].as_array().cloned().unwrap_or_default()
}

/// All of that by name, and what the control plane says of it: what a person would look at after a failure.
fn state(world: &World, namespace: &str) -> String {
    let kinds = "services,serviceimports,endpointslices";
    let all = world.cluster.try_kubectl(["-n", namespace, "get", kinds, "-o", "wide"]);
    let said = world.control.status()["cluster"].to_string();
    format!("{}\n{said}", String::from_utf8_lossy(&all.stdout))
}

fn names(objects: &[Value]) -> Vec<&str> {
    objects
        .iter()
        .filter_map(|object| object["metadata"]["name"].as_str())
        .collect()
}

/// Waits for a ServiceImport that has an address, and says so.
#[track_caller]
fn ready(world: &World, namespace: &Namespace<'_>, name: &str) -> Value {
    let so = || {
        let import = imported(namespace, "serviceimports").into_iter();
        let import = import.into_iter().find(|import| import["metadata"]["name"] == name)?;
        let conditions = import["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = conditions
            .iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        is_ready.then_some(import)
    };
    until(&format!("{name} is imported"), so, || state(world, namespace.name()))
}

fn service(cluster: &Cluster, namespace: &Namespace<'_>, name: &str) -> Value {
    cluster.get(["-n", namespace.name(), "service", name])
}

#[test]
fn what_another_cluster_exports_is_imported_and_goes_with_its_export() {
    let (world, _there) = (world(), together());
    let (west, namespace) = (west(world), world.cluster.namespace(&[]));
    west.export(namespace.name(), &["reviews"]);
    let import = ready(world, &namespace, "reviews");
    assert_eq!(import["status"]["clusters"], json!([{"cluster": "west"}]));
    assert_eq!(
        import["spec"]["ports"],
        json!([{"name": "http", "port": 80, "protocol": "TCP"}])
    );

    let services = imported(&namespace, "services");
    assert_eq!(services.len(), 2, "{:?}", names(&services));
    let derived = services.iter().find(|service| service["metadata"]["name"] != "reviews");
    let derived = derived.expect("a derived Service");
    assert_eq!(derived["spec"]["clusterIPs"], import["spec"]["ips"]);
    for service in &services {
        let behind = |slice: &Value| {
            let labels = &slice["metadata"]["labels"];
            labels["kubernetes.io/service-name"] == service["metadata"]["name"]
        };
        let slice = || imported(&namespace, "endpointslices").into_iter().find(behind);
        let slice = until("clients outside the mesh find its pods", slice, || {
            state(world, namespace.name())
        });
        let labels = &slice["metadata"]["labels"];
        assert_eq!(labels["multicluster.kubernetes.io/source-cluster"], "west");
        assert_eq!(slice["ports"][0]["port"], 8080);
        let conditions = json!({"ready": true, "serving": true, "terminating": false});
        assert_eq!(slice["endpoints"][0]["conditions"], conditions);
    }

    // What another one needs is no reason to write this one again.
    let versions = || {
        let all = ["services", "serviceimports"]
            .map(|kind| imported(&namespace, kind))
            .concat();
        let of_reviews = |object: &&Value| {
            let labels = &object["metadata"]["labels"]["multicluster.kubernetes.io/service-name"];
            object["metadata"]["name"] == "reviews" || labels == "reviews"
        };
        let version = |object: &Value| object["metadata"]["resourceVersion"].to_string();
        all.iter().filter(of_reviews).map(version).collect::<Vec<_>>()
    };
    let before = versions();
    assert_eq!(before.len(), 3);
    west.export(namespace.name(), &["reviews", "ratings"]);
    ready(world, &namespace, "ratings");
    assert_eq!(versions(), before);

    let peers = world.cluster.kubectl(["get", "clusterpeers"]);
    assert!(peers.contains("LINK") && peers.contains("Connected"), "{peers}");

    west.export(namespace.name(), &[]);
    let left = || {
        ["services", "serviceimports", "endpointslices"]
            .map(|kind| imported(&namespace, kind))
            .concat()
    };
    let gone = || left().is_empty().then_some(());
    until("all of it is gone", gone, || state(world, namespace.name()));
}

#[test]
fn a_service_that_somebody_applies_is_theirs_and_stays() {
    let (world, _there) = (world(), together());
    let (west, namespace) = (west(world), world.cluster.namespace(&[]));
    west.export(namespace.name(), &["reviews", "ratings"]);
    for (name, how) in [("reviews", None), ("ratings", Some("--server-side"))] {
        ready(world, &namespace, name);
        let own = service(&world.cluster, &namespace, name);
        assert_eq!(own["metadata"]["labels"]["weft.dev/import"], "true");
        let theirs = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {{team: a}}}}, spec: {{selector: {{app: {name}}}, \
             ports: [{{name: http, port: 80, targetPort: 9090}}, {{name: more, port: 81}}]}}}}"
        );
        let args: Vec<&str> = ["-n", namespace.name()].into_iter().chain(how).collect();
        world.cluster.apply(&args, &theirs);
        let given_up = || {
            let now = service(&world.cluster, &namespace, name);
            now["metadata"]["labels"]["weft.dev/import"].is_null().then_some(now)
        };
        let now = until("it is given up", given_up, || state(world, namespace.name()));
        assert_eq!(now["metadata"]["uid"], own["metadata"]["uid"]);
        assert_eq!(now["metadata"]["labels"], json!({"team": "a"}));
        assert_eq!(now["spec"]["selector"], json!({"app": name}));
        let ports = now["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let ports: Vec<(&Value, &Value)> = ports.iter().map(|port| (&port["name"], &port["targetPort"])).collect();
        assert_eq!(ports, [(&json!("http"), &json!(9090)), (&json!("more"), &json!(81))]);
        let shown = [
            "-n",
            namespace.name(),
            "get",
            "service",
            name,
            "-o",
            "json",
            "--show-managed-fields",
        ];
        let managed = world.cluster.kubectl(shown);
        assert!(!managed.contains("weft-control-imports"), "{managed}");
        // What they take away of it is gone: nobody else holds it.
        world
            .cluster
            .apply(&args, &theirs.replace(", {name: more, port: 81}", ""));
        let ports = service(&world.cluster, &namespace, name)["spec"]["ports"].clone();
        assert_eq!(ports.as_array().map(Vec::len), Some(1), "{ports}");
    }
    west.export(namespace.name(), &[]);
    let gone = || {
        let left = ["services", "endpointslices"].map(|kind| imported(&namespace, kind));
        left.concat().is_empty().then_some(())
    };
    until("what is Weft's is gone", gone, || state(world, namespace.name()));
    for name in ["reviews", "ratings"] {
        service(&world.cluster, &namespace, name);
    }
}

#[test]
fn what_is_somebody_elses_is_left_and_a_namespace_that_is_not_here_is_told_of() {
    let (world, _there) = (world(), together());
    let (west, namespace) = (west(world), world.cluster.namespace(&[]));
    let told = |of: &str| {
        let status = world.control.status();
        status["cluster"]["imports"][of].as_str().map(str::to_owned)
    };
    namespace.apply(
        "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceImport, metadata: {name: reviews}, \
         spec: {type: ClusterSetIP, ports: [{port: 7}]}}",
    );
    west.export(namespace.name(), &["reviews"]);
    let of = format!("ServiceImport {}/reviews", namespace.name());
    let why = until("it is told of", || told(&of), || state(world, namespace.name()));
    assert!(why.contains("somebody else's"), "{why}");
    assert_eq!(
        namespace.get(&["serviceimport", "reviews"])["spec"]["ports"][0]["port"],
        7
    );
    namespace.kubectl(&["delete", "serviceimport", "reviews"]);
    ready(world, &namespace, "reviews");
    west.export(namespace.name(), &[]);

    let away = format!("{}-away", namespace.name());
    west.export(&away, &["reviews"]);
    let of = format!("ServiceImport {away}/reviews");
    let why = until("it is told of", || told(&of), || state(world, &away));
    assert!(
        why.contains(&format!("the Namespace {away} is not in this cluster")),
        "{why}"
    );
    world.cluster.kubectl(["create", "namespace", &away]);
    let there = || {
        let import = world
            .cluster
            .try_kubectl(["-n", &away, "get", "serviceimport", "reviews"]);
        import.status.success().then_some(())
    };
    until("it is imported once its Namespace is there", there, || {
        state(world, &away)
    });
    west.export(&away, &[]);
    world.cluster.kubectl(["delete", "namespace", &away, "--wait=false"]);
}
