//! Two real clusters that share a Service: linked by two documents, first through gateways and then in one network of pods. What
//! is not exported crosses neither, and what is wrong with a link is named.

use std::thread;
use std::time::Instant;

use serde_json::Value;
use weft_tests::kube::{said, until, x_cluster};
use weft_tests::load::Protocol;
use weft_tests::reviews::{OWN_NAME, SHARED_NAME};

use sides::{Side, all_answered, weft};

mod broken;
mod outage;
mod sides;

/// Calls a second by each name: requests, and beside them streams and conversations, of which each takes a while.
const LOAD: [(Protocol, u32); 3] = [(Protocol::Http, 500), (Protocol::Grpc, 40), (Protocol::Tcp, 40)];

/// The addresses of a name.
const LOOKUP: &str = r"
import socket, sys
print(*sorted({at[4][0] for at in socket.getaddrinfo(sys.argv[1], 80, socket.AF_INET)}))
";

/// A headless Service that only one of them has.
const HEADLESS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: reviews}, ports: [{name: http, port: 8080}]}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: db, namespace: shop}
";

/// Two clusters, each with Weft.
struct Pair {
    east: Side,
    west: Side,
}

impl Pair {
    fn new() -> Self {
        let (east, west) = sides::two();
        Self { east, west }
    }

    fn both(&self) -> [(&Side, &Side); 2] {
        [(&self.east, &self.west), (&self.west, &self.east)]
    }

    /// Exchanges the two documents, and waits until both clusters find all well with the link.
    #[track_caller]
    fn link(&self) {
        for (here, there) in self.both() {
            let peer = there.printed(&["cluster", "export-peer", "--imports", "shop"]);
            let judged = weft(here.cluster.kubeconfig(), &["cluster", "check", "-f", "-"], Some(&peer));
            // From this machine nobody answers at the nodes' addresses: what else there is must be right.
            let judged = String::from_utf8_lossy(&judged.stdout).into_owned();
            assert!(
                judged.contains(&format!("ClusterPeer {} beside this cluster", there.name)),
                "{judged}"
            );
            here.cluster.apply(&[], &peer);
        }
        for (here, _) in self.both() {
            let check = || here.weft(&["cluster", "check"]);
            // By the link, and by the bundle endpoint, which is looked at beside it.
            let connected = || {
                let status = here.printed(&["cluster", "status", "-o", "json"]);
                let status: Value = serde_json::from_str(&status).expect("JSON");
                let peer = &status["peers"][0];
                peer["link"]["state"] == "Connected" && peer["bundleEndpoint"]["fetched"].is_string()
            };
            let green = || (check().status.success() && connected()).then_some(());
            until(&format!("{}'s links are well", here.name), green, || said(&check()));
        }
    }

    /// Own endpoints first; the other cluster's when they go, one by one; and back: under load of every protocol, by either name of
    /// the Service, and without a failed call.
    #[track_caller]
    fn fails_over_and_back(&self) {
        let east = &self.east;
        for host in [OWN_NAME, SHARED_NAME] {
            let own = || east.calls(host, 3).keys().eq(["east"]).then_some(());
            until(&format!("east's own answer at {host}"), own, || {
                format!("{:?}", east.calls(host, 3))
            });
        }
        let load = east.load(&[OWN_NAME, SHARED_NAME], &LOAD);
        // Until these are answered, the load goes on as well.
        let all_of = |who: &str| assert!(east.calls(OWN_NAME, 50).keys().eq([who]), "{who} does not serve alone");
        all_of("east");
        for left in [1, 0] {
            east.scale(left);
            east.rolled_out("shop", "reviews");
        }
        east.answered_by("west");
        all_of("west");
        for back in [1, 2] {
            east.scale(back);
            east.rolled_out("shop", "reviews");
        }
        east.answered_by("east");
        all_of("east");
        all_answered([&self.east, &self.west], load.enough(), &["east", "west"]);
    }

    /// A Service without an export stays in its cluster, though its pods are those of one that has one.
    #[track_caller]
    fn the_private_stays_private(&self) {
        self.east.scale(0);
        self.east.answered_by("west");
        // Pods that are on their way out still answer for as long as nobody else does.
        let answered = || self.east.calls("private", 3);
        let refused = || {
            answered()
                .keys()
                .all(|who| who.starts_with("failed: HTTP/1.1 503 "))
                .then_some(())
        };
        until("nobody answers for private", refused, || format!("{:?}", answered()));
        let west = self.west.calls("private", 3);
        assert!(west.keys().all(|who| who == "west"), "{west:?}");
    }

    /// What a gateway of west shows to someone in east who asks for a name, and what it counts it as.
    #[track_caller]
    fn asks_a_gateway(&self, name: &str, reason: &str) -> String {
        let peer = self.east.cluster.get(["clusterpeer", "west"]);
        let gateway = peer["spec"]["gateways"][0].as_str().expect("a gateway");
        let before = self.west.gateways(reason);
        let command = format!("openssl s_client -connect {gateway} -servername {name} -alpn weft-h1/1 </dev/null 2>&1");
        let shown = said(&self.east.stranger(&["sh", "-c", &command]));
        let counted = || (self.west.gateways(reason) > before).then_some(());
        until(&format!("{name} is counted as {reason}"), counted, || shown.clone());
        shown
    }

    /// To the endpoint that is exported it leads anybody: who that is, the pod itself asks. To nothing else.
    #[track_caller]
    fn gateways_pass_only_what_is_exported(&self) {
        let config = self
            .east
            .printed(&["proxy", "config", "-n", "shop", "client", "-o", "json"]);
        let config: Value = serde_json::from_str(&config).expect("JSON");
        let sets = config["endpoints"].as_array().expect("endpoints").iter();
        let mut all = sets.flat_map(|set| set["endpoints"].as_array().into_iter().flatten());
        let there = all.find(|endpoint| endpoint["behind_gateways"] == true);
        let id = there
            .and_then(|endpoint| endpoint["id"].as_str())
            .expect("an endpoint of west");
        let peer = self.east.cluster.get(["clusterpeer", "west"]);
        let domain = peer["spec"]["trustDomain"].as_str().expect("a trust domain");
        let name = |service: &str| format!("p8080.{id}.{service}.shop.svc.{domain}");
        let shown = self.asks_a_gateway(&name("reviews"), "passed");
        assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
        for (name, reason) in [
            (name("private"), "not-exported"),
            (name("reviews").replace("p8080.", "p8083."), "not-exported"),
            (format!("p443.{id}.kubernetes.default.svc.{domain}"), "not-exported"),
        ] {
            let shown = self.asks_a_gateway(&name, reason);
            assert!(shown.contains("no peer certificate available"), "{name}: {shown}");
        }
    }

    /// In one network a headless Service of west alone has the addresses of its pods in east, too: by its own name, and by that of the
    /// cluster set.
    #[track_caller]
    fn a_headless_name_has_the_pods_of_the_other_cluster(&self) {
        self.west.cluster.apply(&[], HEADLESS);
        let pods = self.west.cluster.get([
            "-n",
            "shop",
            "pods",
            "-l",
            "app=reviews",
            "--field-selector=status.phase=Running",
        ]);
        let pods = pods["items"].as_array().expect("pods").iter();
        let mut pods: Vec<&str> = pods.filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
        pods.sort_unstable();
        assert!(!pods.is_empty());
        for name in ["db.shop", "db.shop.svc.clusterset.local"] {
            let found = || said(&self.east.stranger(&["python3", "-c", LOOKUP, name]));
            let has = || (found() == pods.join(" ")).then_some(());
            until(&format!("{name} has {pods:?}"), has, found);
        }
        self.west
            .cluster
            .kubectl(["-n", "shop", "delete", "serviceexport,service", "db"]);
    }

    /// Takes both clusters into one network, in which their pods reach each other.
    #[track_caller]
    fn flatten(&self) {
        let flat = x_cluster(["flat", &self.east.machine, &self.west.machine]).status();
        assert!(
            flat.is_ok_and(|status| status.success()),
            "the clusters can't be joined"
        );
        thread::scope(|scope| {
            for (side, _) in self.both() {
                scope.spawn(|| side.install(",network=wire"));
            }
        });
        self.link();
    }
}

/// The names of `docs/federation-kubernetes.md`: CoreDNS answers what is imported, and nothing else.
#[track_caller]
fn coredns_answers_for_the_cluster_set(side: &Side) {
    let cluster = &side.cluster;
    let import = || cluster.get(["-n", "shop", "serviceimport", "reviews"]);
    let ip = || import()["spec"]["ips"][0].as_str().map(str::to_owned);
    let address = until("the import has an address", ip, || import().to_string());
    let rule = r#"[{"op": "add", "path": "/rules/-", "value":
        {"apiGroups": ["multicluster.x-k8s.io"], "resources": ["serviceimports"], "verbs": ["list", "watch"]}}]"#;
    cluster.kubectl(["patch", "clusterrole", "system:coredns", "--type=json", "-p", rule]);
    let map = cluster.get(["-n", "kube-system", "configmap", "coredns"]);
    let corefile = map["data"]["Corefile"].as_str().expect("a Corefile").replace(
        "kubernetes cluster.local in-addr.arpa ip6.arpa {",
        "kubernetes cluster.local clusterset.local in-addr.arpa ip6.arpa {\n        multicluster clusterset.local",
    );
    let patch = serde_json::json!({"data": {"Corefile": corefile}}).to_string();
    cluster.kubectl([
        "-n",
        "kube-system",
        "patch",
        "configmap",
        "coredns",
        "--type=merge",
        "-p",
        &patch,
    ]);
    cluster.kubectl(["-n", "kube-system", "rollout", "restart", "deployment", "coredns"]);
    side.rolled_out("kube-system", "coredns");
    let found = |name: &str| side.stranger(&["python3", "-c", LOOKUP, name]);
    let name = SHARED_NAME;
    let is_there = || (said(&found(name)) == address).then_some(());
    until("CoreDNS answers for clusterset.local", is_there, || said(&found(name)));
    let other = found("private.shop.svc.clusterset.local");
    assert!(said(&other).contains("gaierror"), "{}", said(&other));
}

#[test]
fn two_clusters_share_a_service_through_gateways_and_in_one_network() {
    let began = Instant::now();
    let pair = Pair::new();
    println!("two clusters with Weft, and a shop in each: {:?}", began.elapsed());
    let began = Instant::now();
    pair.link();
    pair.east.answered_by("west");
    println!(
        "from two documents to the first request of the other cluster: {:?}",
        began.elapsed()
    );
    pair.gateways_pass_only_what_is_exported();
    pair.the_private_stays_private();
    coredns_answers_for_the_cluster_set(&pair.east);
    let began = Instant::now();
    outage::is_outlived(&pair.east, &pair.west);
    println!("both control planes away: {:?}", began.elapsed());
    pair.east.scale(2);
    pair.east.rolled_out("shop", "reviews");
    pair.fails_over_and_back();

    let began = Instant::now();
    broken::each_is_named(&pair.east, &pair.west);
    println!("what can be wrong with a link: {:?}", began.elapsed());
    pair.link();

    pair.flatten();
    pair.east.reaches("west", "Direct");
    let passed = pair.west.gateways("passed");
    pair.fails_over_and_back();
    pair.a_headless_name_has_the_pods_of_the_other_cluster();
    pair.the_private_stays_private();
    assert_eq!(
        pair.west.gateways("passed"),
        passed,
        "none of it went through a gateway"
    );
}
