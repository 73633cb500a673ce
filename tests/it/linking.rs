//! Two clusters are linked by the commands that docs/federation.md has; and what can be wrong with it is found by `weft cluster
//! check`, with its fix.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::Pid;
use serde_json::Value;
use tonic::Status;
use weft_proto::discovery::{self, Hello};
use weft_tests::foreign::root::{Leaf, Root};
use weft_tests::host::until;
use weft_tests::reviews::Reviews;
use weft_tests::{Clusters, Foreign};

use crate::federation::PEER;

/// The commands, with the clusters' names in the place of these.
const DOCS: &str = include_str!("../../docs/federation.md");
/// Two clean clusters serve each other within this.
const WITHIN: Duration = Duration::from_secs(60);
/// Where the cluster that the test plays answers, at b's node.
const PORT: u16 = 15_999;

/// What the docs say of clusters of one machine, from this fence on to the one that ends it.
fn block(fence: &str) -> &'static str {
    let (_, section) = DOCS.split_once("## On one machine").expect("the section");
    let (_, block) = section.split_once(fence).expect("the block");
    block.split_once("```").expect("its end").0
}

#[test]
fn two_clean_clusters_serve_each_other_by_the_commands_of_the_docs_within_a_minute() {
    let [manifest, commands] = ["```yaml\n", "```\n"].map(block);
    let commands: Vec<&str> = commands.lines().collect();
    let [_, up, rest @ .., down] = &commands[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(*up, "weft up --detach --cluster east -f east --cluster west -f west");
    assert_eq!(*down, "weft down --name east");
    let began = Instant::now();
    let clusters = Clusters::builder()
        .cluster("east", manifest)
        .cluster("west", manifest)
        .up();
    let mut answers = Vec::new();
    for command in rest {
        let mut line = command.replace("reviews.yaml", "all.yaml");
        for cluster in ["east", "west"] {
            let dir = format!("{}/", clusters.manifests(cluster).display());
            line = line.replace(
                &format!("--name {cluster}"),
                &format!("--name {}", clusters.name(cluster)),
            );
            line = line.replace(&format!(" {cluster}/"), &format!(" {dir}"));
        }
        // Who checks before both documents are read, or asks before the edit is, may be early: a second, the docs say.
        let by = answers.len();
        let is_done = || {
            let output = clusters.shell(&line);
            let said = String::from_utf8_lossy(&output.stdout);
            let by = clusters.name(["east", "west"][by.min(1)]);
            let is_told = !line.contains("curl") || said.contains(&format!("By=spiffe://{by}.weft.internal/ns/books/"));
            output.status.success() && is_told
        };
        until(&format!("{command}: {}", clusters.log()), is_done);
        answers.extend(line.contains("curl").then_some(began.elapsed()));
    }
    let [_, took] = answers[..] else {
        panic!("{answers:?}");
    };
    println!("from nothing to the first request across: {took:.1?}");
    assert!(took < WITHIN, "{took:?}");
    for cluster in ["east", "west"] {
        // The link from there may be a moment younger than the first request.
        let first = findings(&clusters, cluster);
        until(&format!("nothing is wrong in {cluster}: {first:?}"), || {
            findings(&clusters, cluster).is_empty()
        });
    }
}

/// What `weft cluster check` finds wrong: what it is, and the fix.
#[track_caller]
fn findings(clusters: &Clusters, cluster: &str) -> Vec<String> {
    let output = clusters
        .run(&["cluster", "check", "-o", "json", "--name", clusters.name(cluster)])
        .output()
        .expect("weft runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let all = report["findings"].as_array().expect("findings").iter();
    let told =
        all.filter(|one| one["level"] == "wrong" || one["what"].as_str().is_some_and(|what| what.contains("imports")));
    told.map(|one| format!("{}: {} (fix: {})", one["where"], one["what"], one["fix"]))
        .collect()
}

/// Two linked clusters, a and b, and how things are broken in a.
struct Broken<'a> {
    clusters: &'a Clusters,
    /// The ClusterPeer by which a knows b, as it should be.
    peer: String,
    found: usize,
}

impl Broken<'_> {
    /// That a's ClusterPeers, with this one in the place of b's, are found to be wrong in these words.
    #[track_caller]
    fn finds(&mut self, what: &str, peer: &str, words: &[&str]) {
        assert_ne!(peer, self.peer, "{what}: nothing is broken");
        self.clusters.manifest("a", "peer-b.yaml", peer);
        self.found(what, "a", words);
    }

    /// That it is found in a cluster, all words of it in one finding.
    #[track_caller]
    fn found(&mut self, what: &str, cluster: &str, words: &[&str]) {
        let has =
            |finding: &String| words.iter().all(|word| finding.contains(word)) && !finding.ends_with("(fix: \"\")");
        let last = std::cell::RefCell::new(Vec::new());
        let began = Instant::now();
        while !last.replace(findings(self.clusters, cluster)).iter().any(has) {
            let last = last.borrow();
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{what}: no finding has {words:?}: {last:#?}"
            );
        }
        if let Some(found) = last.borrow().iter().find(|finding| has(finding)) {
            println!("{what}: {found}");
        }
        self.found += 1;
    }

    /// That it is as it should be again, and nothing is found.
    #[track_caller]
    fn mended(&self) {
        self.clusters.manifest("a", "peer-b.yaml", &self.peer);
        until(&format!("nothing is wrong: {:?}", findings(self.clusters, "a")), || {
            findings(self.clusters, "a").is_empty()
        });
    }
}

/// One line of a document in the place of another.
#[track_caller]
fn with(document: &str, from: &str, to: &str) -> String {
    let mut lines = document.lines();
    let line = lines.find(|line| line.trim_start().starts_with(from));
    let line = line.unwrap_or_else(|| panic!("no {from} in {document}"));
    document.replacen(line, to, 1)
}

#[test]
fn each_broken_set_up_is_named_by_the_check_with_its_fix() {
    let reviews = Reviews::new(PEER);
    let clusters = Clusters::builder()
        .cluster("a", &reviews.manifest("a", 1))
        .cluster("b", &reviews.manifest("b", 1))
        .arg("--overlapping-networks")
        .up();
    clusters.link_up("a", "b");
    let [own, other] = ["a", "b"].map(|cluster| clusters.peer(cluster, "  imports: [{namespaces: [shop]}]\n"));
    let mut broken = Broken {
        clusters: &clusters,
        peer: other,
        found: 0,
    };
    broken.mended();
    by_documents(&mut broken, &own);
    broken.mended();
    by_addresses(&mut broken, &reviews);

    // The other side knows nothing of this one.
    let peer_in_b = clusters.manifests("b").join("peer-a.yaml");
    let text = std::fs::read_to_string(&peer_in_b).expect("b's ClusterPeer");
    std::fs::remove_file(&peer_in_b).expect("b's ClusterPeer");
    broken.found(
        "no ClusterPeer on the other side",
        "a",
        &["ClusterPeer", "export-peer", clusters.name("a")],
    );
    std::fs::write(&peer_in_b, text).expect("b's ClusterPeer");
    broken.mended();
    by_another(&mut broken, clusters.node("b"), &clusters.nodes("b")[0]);
    println!("{} broken set-ups", broken.found);
    assert!(broken.found >= 10);
}

/// What is wrong in the ClusterPeer of b. `own`: that of a.
fn by_documents(broken: &mut Broken<'_>, own: &str) {
    let (clusters, other) = (broken.clusters, broken.peer.clone());
    let (_, roots) = own.split_once("roots: |\n").expect("its roots");
    let (before, _) = other.split_once("roots: |\n").expect("its roots");
    broken.finds(
        "wrong bundle",
        &format!("{before}roots: |\n{roots}"),
        &["spec.trustBundle", "do not vouch"],
    );
    let domain = format!("  trustDomain: {}.weft.internal", clusters.name("a"));
    broken.finds(
        "same trust domain",
        &with(&other, "trustDomain:", &domain),
        &["spec.trustDomain", "of this cluster", "another trust domain"],
    );
    let endpoint = |at: &str| with(&other, "endpoints:", &format!("  endpoints: [\"{at}\"]"));
    let node = clusters.nodes("b")[0].clone();
    broken.finds(
        "closed port",
        &endpoint(&format!("{node}:1")),
        &["nothing answers", "WEFT_FEDERATION_LISTEN"],
    );
    broken.finds(
        "a name of nobody",
        &endpoint("weft.invalid:15013"),
        &["does not resolve", "spec.endpoints"],
    );
    let admin = endpoint(&format!("{node}:15443"));
    broken.finds(
        "another port of the same cluster",
        &admin,
        &["15443", "WEFT_FEDERATION_LISTEN"],
    );
    broken.finds(
        "wrong name",
        &with(&other, "metadata:", "metadata: {name: west}"),
        &["metadata.name"],
    );
    broken.finds(
        "no gateways",
        &with(&other, "gateways:", "  gateways: []"),
        &["spec.gateways"],
    );
    let gateways = |at: &str| with(&other, "gateways:", &format!("  gateways: [\"{at}\"]"));
    broken.finds(
        "closed port of a gateway",
        &gateways(&format!("{node}:1")),
        &[
            "cannot be reached from this cluster's control plane",
            "refused",
            "`weft gateway`",
        ],
    );
    broken.finds(
        "a gateway's name of nobody",
        &gateways("gateway.invalid:15443"),
        &["gateway.invalid:15443", "does not resolve", "spec.gateways"],
    );
    let empty = other.replace("  imports: [{namespaces: [shop]}]\n", "");
    broken.finds("nothing imported", &empty, &["spec.imports is empty"]);
    let identity = format!("spiffe://{}.weft.internal/ns/mesh/sa/weft-control", clusters.name("b"));
    let named = with(
        &other,
        "network:",
        &format!("  network: {}\n  controlPlane: {identity}", clusters.name("b")),
    );
    broken.finds("another control plane", &named, &["spec.controlPlane", &identity]);
}

/// Two networks that overlap, called one: no traffic goes, and people are told why. Else it goes through gateways.
fn by_addresses(broken: &mut Broken<'_>, reviews: &Reviews) {
    let clusters = broken.clusters;
    let explained = || {
        let line = format!(
            "route explain --name {} -n shop --from client http://reviews/",
            clusters.name("a")
        );
        let output = clusters.run(&line.split(' ').collect::<Vec<&str>>()).output();
        let output = output.expect("weft runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status = |path: &str| {
        let curl: Vec<&str> = "/usr/bin/curl -s -m 5 -o /dev/null -w %{http_code}"
            .split(' ')
            .chain([path])
            .collect();
        String::from_utf8_lossy(&clusters.client("a", &curl).stdout).into_owned()
    };
    until("endpoints of both are behind reviews", || {
        let tier = explained();
        tier.contains("shop/reviews-") && tier.contains(" of cluster")
    });
    reviews.scale(clusters, "a", 0);
    reviews.until_answered_by(clusters, "a", 1, &["b"]);
    until("b's endpoints are all that is behind reviews", || {
        let said = explained();
        let of_b = format!("of cluster {}", clusters.name("b"));
        said.contains("tier")
            && said
                .lines()
                .filter(|line| line.contains("tier"))
                .all(|line| line.contains(&of_b))
    });
    let network = format!("  network: {}", clusters.name("a"));
    broken.finds(
        "overlapping networks as one",
        &with(&broken.peer.clone(), "network:", &network),
        &[
            "10.244.0.0/16",
            "WEFT_NETWORK",
            "gateways",
            "none of its endpoints is taken",
        ],
    );
    until("nothing goes there", || status("http://reviews/") == "503");
    let said = explained();
    assert!(said.contains("no endpoint"), "{said}");
    let output = clusters
        .run(&["cluster", "status", "--name", clusters.name("a")])
        .output();
    let output = output.expect("weft runs");
    let links = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        links.contains("overlaps") && links.contains("pod networks overlap"),
        "{links}"
    );
    assert_eq!(status("http://reviews/"), "503");
    broken.mended();
    reviews.until_answered_by(clusters, "a", 1, &["b"]);
    reviews.scale(clusters, "a", 1);
    reviews.until_answered_by(clusters, "a", 1, &["a"]);
}

/// What no cluster here can be: old, ended, or of another time.
fn by_another(broken: &mut Broken<'_>, network: Pid, node: &str) {
    let clusters = broken.clusters;
    let foreign = Foreign::new("other", network, PORT);
    let more = format!(
        "  network: {}\n  imports: [{{namespaces: [shop]}}]\n",
        clusters.name("a")
    );
    let document = foreign.document(&format!("{node}:{PORT}"), &more);
    // It answers as a control plane without federation does.
    foreign.refuse(Some(Status::unimplemented("")));
    clusters.manifest("a", "peer-other.yaml", &document);
    broken.found("old version", "a", &["another version", "upgrade"]);
    foreign.refuse(None);
    let control = foreign.root.control();
    foreign.show(foreign.root.leaf(&Leaf::of(&[&control]).valid_from(-48)).server());
    broken.found("expired certificate", "a", &["has ended", "NTP"]);
    let anew = Root::new(&foreign.root.trust_domain);
    foreign.show(anew.leaf(&Leaf::of(&[&control])).server());
    broken.found("a root that was made anew", "a", &["spec.trustBundle", "do not vouch"]);
    foreign.show(foreign.root.leaf(&Leaf::of(&[&control])).server());
    // It follows a with a clock of its own; then as of another time altogether.
    let to: SocketAddr = format!("{}:15013", clusters.nodes("a")[0]).parse().expect("an address");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let hello = |ahead: Duration, build: &str| Hello {
        build: build.to_owned(),
        peer: Some(discovery::Peer {
            cluster: "other".to_owned(),
            now_unix_ms: u64::try_from((now + ahead).as_millis()).expect("a time"),
            ..discovery::Peer::default()
        }),
        ..Hello::default()
    };
    foreign.follow_well(to, hello(Duration::from_secs(600), env!("CARGO_PKG_VERSION")));
    broken.found("clock", "a", &["clock", "ahead of", "NTP"]);
    foreign.follow_well(to, hello(Duration::ZERO, "9.9.9"));
    broken.found("versions far apart", "a", &["9.9.9", "upgrade"]);
}
