//! A hostile peer: a control plane with a root of its own that says, to a real one, what it may not. Nothing of it is taken, each
//! time with a reason, and our own traffic goes on.
//!
//! | file | what is said there |
//! |---|---|
//! | [`resources`] | resources: of others, of ours, too many, too large, broken |
//! | [`callers`] | certificates, and calls of its own |

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_tests::Clusters;
use weft_tests::foreign::{Foreign, Session};
use weft_tests::host::until;
use weft_tests::load::Protocol;
use weft_tests::processes::memory;
use weft_tests::reviews::{Reviews, none_failed};

use crate::federation::PEER;

mod callers;
mod resources;

/// Where the hostile cluster answers, at b's node.
const PORT: u16 = 15_999;
/// Shapes that there are at least.
const SHAPES: usize = 50;
/// What breaks a link is seen within this.
const LONG: Duration = Duration::from_secs(20);
/// What the control plane may need meanwhile, in KiB: its memory is limited to 1 GiB where the charts install it.
const MEMORY_MAX: u64 = 768 << 10;

/// The API server, as a cluster has it: behind a Service without a selector.
const API_SERVER: &str = "apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec: {ports: [{name: https, port: 443, targetPort: 6443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, port: 6443}]
endpoints: [{addresses: [192.0.2.9], conditions: {ready: true}}]
";

/// The cluster a, its honest peer b, and the hostile one, which is in a's own network as far as a knows.
struct World<'a> {
    clusters: &'a Clusters,
    foreign: Foreign,
    session: Session,
    shapes: usize,
}

impl<'a> World<'a> {
    #[track_caller]
    fn new(clusters: &'a Clusters) -> Self {
        let foreign = Foreign::new("hostile", clusters.node("b"), PORT);
        let endpoint = format!("{}:{PORT}", clusters.nodes("b")[0]);
        let network = clusters.status("a")["network"].clone();
        let more = format!("  network: {network}\n  imports: [{{namespaces: [shop]}}]\n");
        clusters.manifest("a", "peer-hostile.yaml", &foreign.document(&endpoint, &more));
        let session = foreign.session();
        Self {
            clusters,
            foreign,
            session,
            shapes: 0,
        }
    }

    /// What a's control plane says of it.
    fn status(&self) -> Value {
        self.clusters.peer_called("a", &self.foreign.name)
    }

    fn reason(&self) -> String {
        let status = self.status();
        format!("{}: {}", status["link"]["fault"], status["link"]["reason"])
    }

    /// Waits until the link is broken for this reason.
    #[track_caller]
    fn is_broken_by(&self, what: &str, words: &str) {
        let began = Instant::now();
        while !self.reason().contains(words) {
            assert!(began.elapsed() < LONG, "{what}: {}", self.reason());
        }
    }

    /// That nothing of what it said counts: no endpoint, no other bundle, nothing of b's.
    #[track_caller]
    fn took_nothing(&self, what: &str) {
        let status = self.status();
        let imported = status["imported"].as_array().expect("imported");
        assert!(imported.iter().all(|one| one["endpoints"] == 0), "{what}: {status:#}");
        assert_eq!(status["bundleSequence"], 5, "{what}: {status:#}");
        let honest = self.clusters.peer_of("a", "b");
        assert_eq!(honest["imported"][0]["endpoints"], 2, "{what}: {honest:#}");
    }
}

/// An address of something in a.
#[track_caller]
fn address(value: &Value) -> IpAddr {
    let text = value.as_str().expect("an address");
    text.parse().expect("an address")
}

#[test]
fn nothing_that_a_hostile_peer_says_is_taken_and_each_has_its_reason() {
    let reviews = Reviews::new(PEER);
    let clusters = Clusters::builder()
        .cluster("a", &format!("{}---\n{API_SERVER}", reviews.manifest("a", 2)))
        .cluster("b", &reviews.manifest("b", 2))
        .up();
    clusters.link_up("a", "b");
    until("both export", || {
        clusters.peer_of("a", "b")["imported"][0]["endpoints"] == 2
    });
    let control = clusters.role("a", "control")[0];
    let before = memory(control, "VmRSS");
    let load = reviews.load(&clusters, "a", &[(Protocol::Http, 100)]);
    let began = Instant::now();

    let mut world = World::new(&clusters);
    resources::all(&mut world);
    callers::all(&mut world);
    let shapes = world.shapes;
    world.took_nothing("in the end");
    let most = memory(control, "VmHWM");
    println!(
        "{shapes} shapes in {:.1?}; {before} KiB before, {most} KiB at most",
        began.elapsed()
    );
    none_failed(&load.enough(), &["a"]);
    assert!(shapes >= SHAPES, "{shapes}");
    assert!(most < MEMORY_MAX, "{most} KiB");
    // Nor was a proxy told of any of it.
    let config = clusters.client("a", &["curl", "-sS", "http://127.0.0.1:15021/config"]);
    let config = String::from_utf8_lossy(&config.stdout).into_owned();
    assert!(config.contains("reviews"), "{config}");
    assert!(!config.contains("hostile.weft.internal/ns/"), "{config}");
    // And people are told: of a peer that says what it may not, and what.
    let check = clusters
        .run(&["cluster", "check", "--name", clusters.name("a")])
        .output();
    let check = String::from_utf8_lossy(&check.expect("weft runs").stdout).into_owned();
    assert!(
        check.contains("ClusterPeer hostile") && check.contains("is not taken"),
        "{check}"
    );
}
