//! A Service that several clusters share: reviews, of the namespace shop, whose pods say in which cluster they are; and a client
//! of it in each.

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use crate::clusters::Clusters;
use crate::load::{ENOUGH, Protocol};
use crate::programs::Programs;

/// How the Service is called in its own namespace.
pub const OWN_NAME: &str = "reviews";
/// How it is called in all clusters that share it.
pub const SHARED_NAME: &str = "reviews.shop.svc.clusterset.local";
/// What endpoints become is known within this.
const WITHIN: Duration = Duration::from_secs(30);

/// The manifests, with the program that the pods run.
pub struct Reviews(Programs);

/// Answers by who has given them.
pub type Answers = BTreeMap<String, u64>;

/// Calls of several protocols that go on beside the test.
pub struct Load<'a> {
    clusters: &'a Clusters,
    from: String,
    running: Vec<(Protocol, Child)>,
}

impl Reviews {
    /// With the program `weft-load-peer`.
    #[must_use]
    pub fn new(peer: &str) -> Self {
        Self(Programs::of(&[peer]))
    }

    /// A strict namespace with the Service, exported, and the client.
    #[must_use]
    pub fn manifest(&self, cluster: &str, replicas: u32) -> String {
        let peer = self.0.path("weft-load-peer").display().to_string();
        format!(
            r#"apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{weft.dev/inject: enabled}}, annotations: {{config.weft.dev/inbound: strict}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: reviews, namespace: shop}}
spec:
  selector: {{app: reviews}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: grpc, port: 7000, targetPort: 8081}}
  - {{name: lines, port: 9000, targetPort: 8082}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: reviews, namespace: shop}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: reviews}}}}
  template:
    metadata: {{labels: {{app: reviews}}}}
    spec:
      containers:
      - name: reviews
        command: [{peer}, serve]
        env: [{{name: CLUSTER, value: {cluster}}}]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop}}
spec: {{containers: [{{name: client, command: [sleep, infinity]}}]}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: reviews, namespace: shop}}
"#
        )
    }

    /// Two clusters, a and b, with two pods of it each, linked.
    #[track_caller]
    #[must_use]
    pub fn two(&self, mode: &str) -> Clusters {
        let clusters = Clusters::builder()
            .cluster("a", &self.manifest("a", 2))
            .cluster("b", &self.manifest("b", 2))
            .arg(mode)
            .up();
        clusters.link_up("a", "b");
        clusters
    }

    /// Gives a cluster so many pods of it.
    pub fn scale(&self, clusters: &Clusters, cluster: &str, replicas: u32) {
        clusters.manifest(cluster, "all.yaml", &self.manifest(cluster, replicas));
    }

    fn drive(&self, host: &str, protocol: Protocol, rate: u32, count: u32) -> Vec<String> {
        let peer = self.0.path("weft-load-peer").display().to_string();
        let (rate, count) = (rate.to_string(), count.to_string());
        [&peer, "drive", host, protocol.as_str(), &rate, &count]
            .map(str::to_owned)
            .to_vec()
    }

    /// So many calls from a cluster's client: how many were answered by whom.
    #[track_caller]
    pub fn calls(&self, clusters: &Clusters, from: &str, count: u32) -> Answers {
        self.calls_at(clusters, from, OWN_NAME, count)
    }

    /// The same by another name of the Service.
    #[track_caller]
    pub fn calls_at(&self, clusters: &Clusters, from: &str, host: &str, count: u32) -> Answers {
        let drive = self.drive(host, Protocol::Http, 100, count);
        let drive: Vec<&str> = drive.iter().map(String::as_str).collect();
        read(&clusters.client(from, &drive))
    }

    /// Waits until so many calls in a row are answered by these, all of them, and by nobody else.
    #[track_caller]
    pub fn until_answered_by(&self, clusters: &Clusters, from: &str, count: u32, who: &[&str]) {
        let began = Instant::now();
        loop {
            let answers = self.calls(clusters, from, count);
            if answers.keys().map(String::as_str).eq(who.iter().copied()) {
                return;
            }
            assert!(
                began.elapsed() < WITHIN,
                "{who:?} do not serve {from}'s clients: {answers:#?}"
            );
        }
    }

    /// Calls from a cluster's client for a second, each protocol so often.
    #[track_caller]
    #[must_use]
    pub fn load_for_a_moment(
        &self,
        clusters: &Clusters,
        from: &str,
        all: &[(Protocol, u32)],
    ) -> Vec<(Protocol, Answers)> {
        let load = self.load(clusters, from, all);
        assert!(!self.calls(clusters, from, 100).is_empty());
        load.enough()
    }

    /// Begins to call the Service by its own name from a cluster's client, each protocol so often a second.
    #[track_caller]
    #[must_use]
    pub fn load<'a>(&self, clusters: &'a Clusters, from: &str, all: &[(Protocol, u32)]) -> Load<'a> {
        self.load_at(clusters, from, OWN_NAME, all)
    }

    /// The same by another name of it.
    #[track_caller]
    #[must_use]
    pub fn load_at<'a>(&self, clusters: &'a Clusters, from: &str, host: &str, all: &[(Protocol, u32)]) -> Load<'a> {
        let start = |&(protocol, rate): &(Protocol, u32)| {
            let drive = self.drive(host, protocol, rate, u32::MAX);
            let mut weft = clusters.run(&["exec", "--name", clusters.name(from), "-n", "shop", "client", "--"]);
            let child = weft.args(drive).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            (protocol, child.expect("weft exec starts"))
        };
        Load {
            clusters,
            from: from.to_owned(),
            running: all.iter().map(start).collect(),
        }
    }
}

impl Load<'_> {
    /// Ends it, while it still goes on: how many calls of each protocol were answered by whom.
    #[track_caller]
    pub fn enough(self) -> Vec<(Protocol, Answers)> {
        let mut running = self.running;
        for (protocol, child) in &mut running {
            let ended = child.try_wait().expect("the load");
            assert_eq!(
                ended,
                None,
                "{protocol:?} ended before the test: {}",
                self.clusters.log()
            );
        }
        let told = self.clusters.client(&self.from, &["touch", ENOUGH]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let each = running.into_iter().map(|(protocol, child)| {
            let output = child.wait_with_output().expect("weft exec ends");
            (protocol, read(&output))
        });
        let each = each.collect();
        let removed = self.clusters.client(&self.from, &["rm", ENOUGH]);
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        each
    }
}

impl Clusters {
    /// Runs a command in a cluster's client.
    pub fn client(&self, from: &str, command: &[&str]) -> Output {
        let whole = [&["-n", "shop", "client", "--"], command].concat();
        self.weft(from, "exec", &whole)
    }
}

/// What a load has printed when it ended: how many calls were answered by whom.
#[track_caller]
pub fn read(output: &Output) -> Answers {
    let (said, why) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{why}");
    let count = |line: &str| {
        let (count, who) = line.split_once(' ').expect("a count");
        (who.to_owned(), count.parse().expect("a number"))
    };
    said.lines().map(count).collect()
}

/// That none has failed: every answer was of one of these, and each of them gave some.
#[track_caller]
pub fn none_failed(answers: &[(Protocol, Answers)], who: &[&str]) {
    for (protocol, answers) in answers {
        let found: Vec<&str> = answers.keys().map(String::as_str).collect();
        assert_eq!(found, who, "{protocol:?}: {answers:#?}");
    }
}
