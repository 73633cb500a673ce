//! East-west gateways: they see nothing of what they pass, pass nothing that is not exported, and end without a failed call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde_json::Value;
use weft_model::endpoint::{EndpointId, EndpointKey};
use weft_model::sni;
use weft_tests::Clusters;
use weft_tests::capture::Capture;
use weft_tests::foreign::caller::{ask, config, say};
use weft_tests::foreign::root::{Leaf, Root};
use weft_tests::host::until;
use weft_tests::load::Protocol;
use weft_tests::reviews::{Reviews, none_failed};

use crate::federation::PEER;

const MARKER: &str = "marker-77a1c0de";
const GATEWAYS: [&str; 2] = ["weft-gateway-1", "weft-gateway-2"];

const PAGE: usize = 4096;
const LOAD: [(Protocol, u32); 3] = [(Protocol::Http, 200), (Protocol::Grpc, 20), (Protocol::Tcp, 20)];
/// A gateway has ended by then, whoever is still connected through it.
const DRAIN: Duration = Duration::from_secs(40);
/// Two clusters with networks of their own, where b serves a's clients, through b's gateways.
fn through_gateways(reviews: &Reviews) -> Clusters {
    let clusters = reviews.two("--overlapping-networks");
    reviews.scale(&clusters, "a", 0);
    reviews.until_answered_by(&clusters, "a", 20, &["b"]);
    clusters
}

/// What became of connections to b's gateways, of both together. Those that ended before they asked for anything do not count: a's
/// control plane tries the gateways so, again and again.
fn fates(clusters: &Clusters) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for gateway in GATEWAYS {
        let metrics = clusters.admin("b", "weft-system", gateway, "/metrics");
        let lines = metrics.lines().filter_map(|line| {
            let (reason, count) = line
                .strip_prefix("weft_gateway_connections_total{reason=\"")?
                .split_once("\"} ")?;
            let read = || (reason.to_owned(), count.parse::<u64>().expect("a count"));
            (reason != "closed").then(read)
        });
        lines.for_each(|(reason, count)| *all.entry(reason).or_default() += count);
    }
    all
}

/// Where b's gateways are, from a's node.
fn gateway(clusters: &Clusters) -> SocketAddr {
    format!("{}:15443", clusters.nodes("b")[0]).parse().expect("an address")
}

/// The private keys in a container's state, each as its number is written: 32 bytes, the highest first.
#[track_caller]
fn keys(clusters: &Clusters, namespace: &str, pod: &str, container: &str) -> Vec<Vec<u8>> {
    let find = [
        "find",
        "/var/run/weft/state",
        "-name",
        "credential.pem",
        "-exec",
        "cat",
        "{}",
        "+",
    ];
    let options = ["-n", namespace, pod, "-c", container, "--"];
    let output = clusters.weft("b", "exec", &[&options[..], &find].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !output.stdout.is_empty(), "{pod}: {said}");
    let each = PrivatePkcs8KeyDer::pem_slice_iter(&output.stdout).map(|key| {
        let key = key.expect("a key");
        let der = key.secret_pkcs8_der();
        // RFC 5915: the key is the first OCTET STRING of 32 bytes.
        let at = der
            .windows(2)
            .position(|tag| tag == [0x04, 0x20])
            .expect("a key of P-256");
        der[at + 2..at + 34].to_vec()
    });
    each.collect()
}

/// Which of these keys a process has in its memory, whichever end of the number comes first.
fn held(pid: Pid, keys: &[Vec<u8>]) -> BTreeSet<&[u8]> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the gateway runs");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the gateway runs");
    let forms = keys
        .iter()
        .flat_map(|key| [(key, key.clone()), (key, key.iter().rev().copied().collect())]);
    let forms: Vec<(&Vec<u8>, Vec<u8>)> = forms.collect();
    let begins: BTreeSet<u8> = forms.iter().map(|(_, form)| form[0]).collect();
    let begins: Vec<bool> = (0..=u8::MAX).map(|byte| begins.contains(&byte)).collect();
    let mut found = BTreeSet::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some((from, to)), Some(rights)) = (words.next().and_then(|range| range.split_once('-')), words.next())
        else {
            continue;
        };
        if !rights.starts_with("rw") {
            continue;
        }
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).expect("a region")];
        // What is a device's cannot be read, and holds no keys.
        let read = memory.read_at(&mut bytes, from).unwrap_or_default();
        // Most of it was never written to.
        let pages = bytes[..read]
            .chunks(PAGE)
            .filter(|page| *page != &[0; PAGE][..page.len()]);
        let bytes = pages.collect::<Vec<_>>().concat();
        for at in 0..bytes.len() {
            if begins[usize::from(bytes[at])] {
                let here = forms.iter().filter(|(_, form)| bytes[at..].starts_with(form));
                found.extend(here.map(|(key, _)| key.as_slice()));
            }
        }
    }
    found
}

/// Reads the pods of the namespace shop in b: their names and uids.
fn pods(clusters: &Clusters) -> BTreeMap<String, String> {
    let objects = std::fs::read_dir(clusters.state("b").join("objects")).expect("its objects");
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).ok()?).ok();
    let all = objects.flatten().filter_map(|entry| read(entry.path()));
    let pods = all.filter(|object| object["kind"] == "Pod" && object["metadata"]["namespace"] == "shop");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"])))
        .collect()
}

/// An endpoint's key, as the exporting cluster makes it.
fn key(clusters: &Clusters, uid: &str, port: u16) -> EndpointKey {
    let hash = weft_proto::resource::hash(format!("{}/{uid}", clusters.name("b")).as_bytes());
    let id = EndpointId(u64::from_be_bytes(hash[..8].try_into().expect("eight bytes")));
    EndpointKey { id, port }
}

#[test]
fn a_gateway_sees_nothing_of_what_it_passes_and_holds_no_key_of_a_workload() {
    let reviews = Reviews::new(PEER);
    let clusters = through_gateways(&reviews);
    let gateways = clusters.role("b", "gateway");
    let file = |at: usize| clusters.manifests("b").with_file_name(format!("gateway-{at}.pcap"));
    let captures: Vec<Capture> = gateways
        .iter()
        .enumerate()
        .map(|(at, pid)| Capture::at(*pid, "eth0", file(at)))
        .collect();
    let header = format!("x-marker: {MARKER}");
    for _ in 0..20 {
        let output = clusters.client("a", &["/usr/bin/curl", "-s", "-H", &header, "http://reviews/"]);
        assert!(
            String::from_utf8_lossy(&output.stdout).starts_with("b By="),
            "{output:?}"
        );
    }
    // So that it is known what a capture would show.
    let stranger = format!("stranger-{MARKER}");
    assert_eq!(say(clusters.node("a"), gateway(&clusters), stranger.as_bytes()), b"");
    until("the stranger was seen", || {
        captures.iter().any(|capture| capture.has_seen(stranger.as_bytes()))
    });
    let (mut passed, plain) = (0, format!("x-marker: {MARKER}"));
    for capture in captures {
        let (streams, bytes) = capture.end();
        let mut windows = bytes.windows(plain.len());
        assert!(
            !windows.any(|window| window == plain.as_bytes()),
            "a request went through a gateway in clear"
        );
        // Towards the pods, and from the other cluster.
        for (flow, stream) in &streams {
            let both = [flow.from.port(), flow.to.port()];
            let is_passed = both.iter().any(|port| [8080, 15443].contains(port));
            if is_passed && !stream.joined().starts_with(b"stranger") {
                assert!(stream.is_tls(), "{flow:?}");
                passed += usize::from(flow.to.port() == 8080);
            }
        }
    }
    assert!(passed > 0, "nothing was passed while it was captured");

    // Its own key is what is found in it, and nobody else's.
    let own: Vec<Vec<u8>> = GATEWAYS
        .iter()
        .flat_map(|gateway| keys(&clusters, "weft-system", gateway, "weft-gateway"))
        .collect();
    assert_eq!(own.len(), 2);
    let workloads: Vec<Vec<u8>> = pods(&clusters)
        .keys()
        .flat_map(|pod| keys(&clusters, "shop", pod, "weft-proxy"))
        .collect();
    assert_eq!(workloads.len(), 3, "two of reviews, and the client");
    for pid in gateways {
        let all = [&own[..], &workloads].concat();
        let held = held(pid, &all);
        assert!(
            held.len() == 1 && own.iter().any(|key| held.contains(&key[..])),
            "{} keys",
            held.len()
        );
    }
}

/// The trust domain of b.
fn domain(clusters: &Clusters) -> String {
    format!("{}.weft.internal", clusters.name("b"))
}

/// Names of what is not exported, from a pod that is and one that is not, each with what is wrong with it.
fn not_exported(clusters: &Clusters, exported: &str, client: &str) -> [(&'static str, String); 8] {
    let domain = domain(clusters);
    let of = |uid: &str, port, service: &str, namespace: &str, domain: &str| {
        sni::of_service(key(clusters, uid, port), service, namespace, domain)
    };
    let directly = sni::of_pod(key(clusters, exported, 8083), "shop", &domain);
    let ours = of(exported, 8080, "weft-control", "weft-system", &domain);
    [
        (
            "a pod that is not exported",
            of(client, 8080, "reviews", "shop", &domain),
        ),
        (
            "a port that is not exported",
            of(exported, 8083, "reviews", "shop", &domain),
        ),
        ("the same, directly", directly),
        ("another Service", of(exported, 8080, "ratings", "shop", &domain)),
        ("another namespace", of(exported, 8080, "reviews", "other", &domain)),
        ("the mesh's own namespace", ours),
        (
            "another trust domain",
            of(exported, 8080, "reviews", "shop", "a.weft.internal"),
        ),
        ("nobody", of("nobody", 8080, "reviews", "shop", &domain)),
    ]
}

#[test]
fn what_is_not_exported_and_what_is_no_name_of_the_mesh_is_closed_and_counted() {
    let reviews = Reviews::new(PEER);
    let clusters = through_gateways(&reviews);
    let (here, there) = (clusters.node("a"), gateway(&clusters));
    let pods = pods(&clusters);
    let exported = pods
        .iter()
        .find(|(name, _)| name.starts_with("reviews-"))
        .expect("a pod of reviews");
    let uid = exported.1.as_str();
    let right = sni::of_service(key(&clusters, uid, 8080), "reviews", "shop", &domain(&clusters));
    // Of a root that nobody knows: who it is does not matter here.
    let root = Root::new("stranger.example");
    let shown = root.leaf(&Leaf::of(&["spiffe://stranger.example/ns/shop/sa/default"]));
    let before = fates(&clusters);
    let mut wanted = before.clone();
    let mut count = |fate: &str| *wanted.entry(fate.to_owned()).or_default() += 1;
    let shake = |name: &str, alpn: &str| {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        ask(here, there, config(Some(&shown), &[alpn]), name)
    };
    // It is passed to the pod that it names, and refused there.
    let came = shake(&right, "weft-h1/1");
    assert!(came.is_err(), "{came:?}");
    assert!(
        format!("{came:?}").contains("Alert"),
        "the pod itself says why: {came:?}"
    );
    count("passed");
    for (what, name) in not_exported(&clusters, uid, &pods["client"]) {
        let came = shake(&name, "weft-h1/1");
        assert!(came.is_err(), "{what}: {came:?}");
        count("not-exported");
    }
    for name in [
        "reviews.shop.svc.cluster.local",
        "p0.00.reviews.shop.svc.b",
        "localhost",
    ] {
        assert!(shake(name, "weft-h1/1").is_err(), "{name}");
        count("malformed");
    }
    // Not the mesh's TLS, whatever it names.
    assert!(shake(&right, "h2").is_err());
    count("not-mesh");
    assert_eq!(say(here, there, b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n"), b"");
    count("not-mesh");
    // A server without a name: an address is none (RFC 6066, section 3).
    let came = ask(
        here,
        there,
        config(Some(&shown), &["weft-h1/1"]),
        ServerName::from(there.ip()),
    );
    assert!(came.is_err(), "{came:?}");
    count("no-sni");
    // A record of a handshake, and in it nothing of the kind; then a ClientHello, and nothing in that.
    assert_eq!(say(here, there, b"\x16\x03\x01\x00\x08nonsense"), b"");
    count("not-mesh");
    assert_eq!(
        say(here, there, b"\x16\x03\x01\x00\x08\x01\x00\x00\x04\xff\xff\xff\xff"),
        b""
    );
    count("malformed");
    let sum = |fates: &BTreeMap<String, u64>| fates.values().sum::<u64>();
    until("all of it is counted", || sum(&fates(&clusters)) >= sum(&wanted));
    assert_eq!(fates(&clusters), wanted, "before: {before:?}");
    reviews.until_answered_by(&clusters, "a", 20, &["b"]);
}

#[test]
fn a_gateway_that_is_told_to_end_drains_without_a_failed_call() {
    let reviews = Reviews::new(PEER);
    let clusters = through_gateways(&reviews);
    let load = reviews.load(&clusters, "a", &LOAD);
    let before = fates(&clusters)["passed"];
    until("they carry the load", || fates(&clusters)["passed"] > before);
    let gateways = clusters.role("b", "gateway");
    kill(gateways[0], Signal::SIGTERM).expect("the gateway runs");
    let began = Instant::now();
    while clusters.role("b", "gateway").contains(&gateways[0]) {
        assert!(began.elapsed() < DRAIN, "it does not end:\n{}", clusters.log());
        reviews.until_answered_by(&clusters, "a", 20, &["b"]);
    }
    let ended = began.elapsed();
    until("it runs again", || clusters.role("b", "gateway").len() == 2);
    reviews.until_answered_by(&clusters, "a", 100, &["b"]);
    let answers = load.enough();
    println!("it has ended after {ended:.1?}: {answers:?}");
    none_failed(&answers, &["b"]);
}
