//! Several clusters of one `weft up`: each on its own, and what of each the others reach.

use std::process::Output;

use nix::sys::signal::{Signal, kill};
use weft_tests::host::{Host, processes_with, until};
use weft_tests::{Clusters, User};

/// In each cluster a server that says who calls and which datagram came last, and a client, both without a sidecar: what is
/// tested is the network below the mesh.
fn manifests(cluster: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}}}
spec:
  containers:
    - name: server
      command:
        - /usr/bin/python3
        - -c
        - |
          import socket, threading
          heard = ["nothing"]
          def listen():
              udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
              udp.bind(("::", 8081))
              while True:
                  heard[0] = udp.recvfrom(100)[0].decode()
          threading.Thread(target=listen, daemon=True).start()
          server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
          while True:
              client, address = server.accept()
              who = address[0].removeprefix("::ffff:")
              client.sendall(f"{cluster} sees {{who}} and heard {{heard[0]}}".encode())
              client.close()
      readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: server}}
spec: {{selector: {{app: server}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: front}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {{app: server}}
  ports: [{{name: tcp, port: 9000, targetPort: 8080}}, {{name: udp, port: 9001, targetPort: 8081, protocol: UDP}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec: {{containers: [{{name: client, command: [sleep, infinity]}}]}}
"#
    )
}

fn two() -> weft_tests::clusters::ClustersBuilder {
    Clusters::builder()
        .cluster("a", &manifests("a"))
        .cluster("b", &manifests("b"))
}

/// Calls from a cluster's client. What is refused by the network may be heard only of a second try, after a second.
fn call(clusters: &Clusters, from: &str, address: &str, port: u16) -> Output {
    let script = format!(
        "import socket; s = socket.create_connection(({address:?}, {port}), 3); print(s.makefile().read(), end='')"
    );
    clusters.exec(from, "client", &["/usr/bin/python3", "-c", &script])
}

/// What is answered to a call.
#[track_caller]
fn answer(clusters: &Clusters, from: &str, address: &str, port: u16) -> String {
    let output = call(clusters, from, address, port);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{from} to {address}:{port}: {said}\n{}",
        clusters.log()
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Why there is no answer to a call.
#[track_caller]
fn failure(clusters: &Clusters, from: &str, address: &str, port: u16) -> String {
    let output = call(clusters, from, address, port);
    let (said, why) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(!output.status.success(), "{from} to {address}:{port}: {said}");
    why.trim().lines().last().unwrap_or_default().to_owned()
}

/// Sends a datagram, which nobody answers.
#[track_caller]
fn send(clusters: &Clusters, from: &str, address: &str, text: &str) {
    let script = format!(
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto({text:?}.encode(), ({address:?}, 9001))"
    );
    let output = clusters.exec(from, "client", &["/usr/bin/python3", "-c", &script]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a cluster's pods see of another one where only nodes reach each other, and of their own.
#[track_caller]
fn only_nodes_reach_each_other(clusters: &Clusters) {
    let (a, b) = (clusters.nodes("a"), clusters.nodes("b"));
    assert_eq!((a.len(), b.len()), (2, 2), "this machine has IPv6 switched off");
    for (from, to) in a.iter().zip(&b) {
        let said = answer(clusters, "a", to, 9000);
        assert!(said.starts_with(&format!("b sees {from} and")), "{said}");
        let said = answer(clusters, "b", from, 9000);
        assert!(said.starts_with(&format!("a sees {to} and")), "{said}");
        // The port of no Service is answered by the node itself.
        let why = failure(clusters, "a", to, 9002);
        assert!(why.contains("refused"), "{why}");
    }
    for cluster in ["a", "b"] {
        let said = answer(clusters, cluster, "server", 80);
        assert!(said.starts_with(&format!("{cluster} sees")), "{said}");
        // By its own node too, where its own pod's answer comes back.
        let said = answer(clusters, cluster, &clusters.nodes(cluster)[0], 9000);
        assert!(said.starts_with(&format!("{cluster} sees")), "{said}");
    }
}

#[test]
fn pods_of_separate_clusters_reach_the_other_s_node_and_not_its_pods() {
    let clusters = two().up();
    only_nodes_reach_each_other(&clusters);
    for address in clusters.addresses("b", "server") {
        let why = failure(&clusters, "a", &address, 8080);
        assert!(why.contains("No route") || why.contains("unreachable"), "{why}");
    }
}

#[test]
fn each_cluster_is_a_mesh_of_its_own_name_root_and_trust_domain() {
    let clusters = two().up();
    let (a, b) = (clusters.status("a"), clusters.status("b"));
    let root =
        |cluster: &str| std::fs::read(clusters.state(cluster).join("control/trust/roots.pem")).expect("its root");
    assert_ne!(root("a"), root("b"));
    for (cluster, status) in [("a", &a), ("b", &b)] {
        let name = clusters.name(cluster);
        assert_eq!(status["mesh"], name);
        assert_eq!(status["trustDomain"], format!("{name}.weft.internal"));
        assert_eq!(status["network"], name);
        assert_eq!(
            status["clusters"],
            serde_json::json!([clusters.name("a"), clusters.name("b")])
        );
        let endpoint = format!("{}:15013", clusters.nodes(cluster)[0]);
        assert_eq!(status["federationEndpoints"][0], endpoint);
        let ready = format!("[{name}] Ready after");
        until("it is said to be ready", || clusters.log().contains(&ready));
    }
    assert_ne!(a["podNetworks"], b["podNetworks"]);
    let logs = clusters.weft("a", "logs", &["server"]);
    assert!(logs.status.success(), "{}", String::from_utf8_lossy(&logs.stderr));
    let wrong = clusters.weft("b", "logs", &["nobody"]);
    assert!(!wrong.status.success());
}

#[test]
fn pods_of_a_flat_network_reach_each_other_and_see_each_other_s_addresses() {
    let clusters = two().arg("--flat").up();
    let pods = |cluster: &str, pod: &str| clusters.addresses(cluster, pod);
    for (to, from) in pods("b", "server").iter().zip(pods("a", "client")) {
        let said = answer(&clusters, "a", to, 8080);
        assert!(said.starts_with(&format!("b sees {from} and")), "{said}");
    }
    for (to, from) in pods("a", "server").iter().zip(pods("b", "client")) {
        let said = answer(&clusters, "b", to, 8080);
        assert!(said.starts_with(&format!("a sees {from} and")), "{said}");
    }
    only_nodes_reach_each_other(&clusters);
    let networks = ["a", "b"].map(|cluster| clusters.status(cluster)["network"].clone());
    assert_eq!(networks[0], networks[1]);
    // Services are each cluster's own also there.
    let services = clusters.status("b");
    let service = services["services"].as_array().expect("services").iter();
    let address = service
        .filter(|one| one["name"] == "server")
        .find_map(|one| one["addresses"][0].as_str());
    failure(&clusters, "a", address.expect("its address"), 80);
}

#[test]
fn clusters_with_the_same_networks_reach_their_own_pods_and_the_other_s_node() {
    let clusters = two().arg("--overlapping-networks").up();
    let (a, b) = (clusters.status("a"), clusters.status("b"));
    assert_eq!(a["podNetworks"], b["podNetworks"]);
    assert_eq!(a["serviceNetworks"], b["serviceNetworks"]);
    // In which order pods get them is open.
    let all = |cluster: &str| {
        let control = clusters.status(cluster)["control"]["addresses"].clone();
        let control = control.as_array().expect("addresses").iter();
        let mut all: Vec<String> = control.filter_map(|one| Some(one.as_str()?.to_owned())).collect();
        all.extend(
            ["server", "client"]
                .iter()
                .flat_map(|pod| clusters.addresses(cluster, pod)),
        );
        all.sort();
        all
    };
    assert_eq!(all("a"), all("b"));
    only_nodes_reach_each_other(&clusters);
    for cluster in ["a", "b"] {
        let own = clusters.addresses(cluster, "server");
        let said = answer(&clusters, cluster, &own[0], 8080);
        assert!(said.starts_with(&format!("{cluster} sees")), "{said}");
    }
}

#[test]
fn a_link_that_is_cut_is_silent_until_it_is_healed_and_others_go_on() {
    let clusters = two().cluster("c", &manifests("c")).arg("--flat").up();
    let (b, c) = (clusters.nodes("b"), clusters.nodes("c"));
    let pod = clusters.addresses("b", "server");
    clusters.link("cut", "a", "b", &[]);
    for (address, port) in b
        .iter()
        .map(|node| (node, 9000))
        .chain(pod.iter().map(|pod| (pod, 8080)))
    {
        let why = failure(&clusters, "a", address, port);
        assert!(why.contains("timed out"), "{address}: {why}");
    }
    let why = failure(&clusters, "b", &clusters.nodes("a")[0], 9000);
    assert!(why.contains("timed out"), "{why}");
    answer(&clusters, "a", &c[0], 9000);
    answer(&clusters, "c", &b[0], 9000);
    answer(&clusters, "b", "server", 80);
    clusters.link("heal", "b", "a", &[]);
    answer(&clusters, "a", &b[0], 9000);
    answer(&clusters, "a", &pod[0], 8080);
}

#[test]
fn a_link_can_be_cut_in_one_direction() {
    let clusters = two().up();
    let (a, b) = (clusters.nodes("a"), clusters.nodes("b"));
    clusters.link("cut", "b", "a", &["--one-way"]);
    send(&clusters, "a", &b[0], "a datagram");
    until("b hears what a sends", || {
        answer(&clusters, "b", "server", 80).ends_with("heard a datagram")
    });
    assert!(failure(&clusters, "a", &b[0], 9000).contains("timed out"));
    send(&clusters, "b", &a[0], "lost");
    // A call that is answered afterwards came by the same way.
    clusters.link("heal", "a", "b", &[]);
    let said = answer(&clusters, "b", &a[0], 9000);
    assert!(said.ends_with("heard nothing"), "{said}");
}

#[test]
fn a_link_to_nobody_is_refused_by_name() {
    let clusters = two().up();
    let output = clusters.try_link("cut", "a", "nobody", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("nobody") && said.contains(clusters.name("b")),
        "{said}"
    );
    answer(&clusters, "a", &clusters.nodes("b")[0], 9000);
}

#[track_caller]
fn nothing_is_left(names: [&str; 2], before: &Host) {
    until("their processes are gone", || {
        names.iter().all(|name| processes_with(name).is_empty())
    });
    assert_eq!(Host::now(), *before);
}

#[test]
fn ctrl_c_ends_all_clusters_and_leaves_nothing() {
    let before = Host::now();
    let clusters = two().up();
    let names = ["a", "b"].map(|cluster| clusters.name(cluster).to_owned());
    let (code, said) = clusters.end();
    assert_eq!(code, Some(0), "{said}");
    for name in &names {
        let ended = format!("mesh {name} ended: nothing of it is left but its logs and keys\n");
        assert!(said.contains(&ended), "{said}");
    }
    nothing_is_left([&names[0], &names[1]], &before);
}

#[test]
fn a_kill_ends_all_clusters_and_leaves_nothing() {
    let before = Host::now();
    let clusters = two().run_by(User::single()).up();
    let names = ["a", "b"].map(|cluster| clusters.name(cluster).to_owned());
    kill(clusters.pid(), Signal::SIGKILL).expect("weft up runs");
    drop(clusters);
    nothing_is_left([&names[0], &names[1]], &before);
}

#[test]
fn down_of_one_cluster_ends_all() {
    let clusters = two().up();
    let output = clusters.weft("b", "down", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, said) = clusters.ended();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_cluster_that_cannot_start_is_named_and_ends_the_others() {
    let wrong =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  hostNetwork: true\n  containers: [{name: c}]\n";
    let clusters = Clusters::builder()
        .cluster("a", &manifests("a"))
        .cluster("b", wrong)
        .without_waiting()
        .up();
    let (a, b) = (clusters.name("a").to_owned(), clusters.name("b").to_owned());
    let (code, said) = clusters.ended();
    assert_eq!(code, Some(65), "{said}");
    assert!(
        said.contains(&format!("[{b}] error: ")) && said.contains("hostNetwork"),
        "{said}"
    );
    assert!(!said.contains(&format!("[{a}] error")), "{said}");
    until("its processes are gone", || processes_with(&a).is_empty());
}

#[test]
fn clusters_are_the_same_with_one_user() {
    let clusters = two().run_by(User::single()).arg("--overlapping-networks").up();
    assert_eq!(clusters.status("b")["mode"], "single");
    only_nodes_reach_each_other(&clusters);
    clusters.link("cut", "a", "b", &[]);
    assert!(failure(&clusters, "a", &clusters.nodes("b")[0], 9000).contains("timed out"));
}

#[test]
fn clusters_are_the_same_with_many_users() {
    let clusters = two().run_by(User::multi()).arg("--flat").up();
    assert_eq!(clusters.status("a")["mode"], "multi");
    let said = answer(&clusters, "a", &clusters.addresses("b", "server")[0], 8080);
    let from = &clusters.addresses("a", "client")[0];
    assert!(said.starts_with(&format!("b sees {from} and")), "{said}");
    only_nodes_reach_each_other(&clusters);
}
