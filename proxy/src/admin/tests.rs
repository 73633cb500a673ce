use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_daemon::admin::Listener;
use weft_model::inbound::Mode;
use weft_proto::resource::Body;

use super::*;
use crate::config::Settings;
use crate::connect::Dialer;
use crate::discover::store::Store;
use crate::discover::testing::*;
use crate::discover::{self, View};
use crate::observe::metrics::Direction;
use crate::observe::verdicts::{Found, Seen, Verdict};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A proxy that believes something, whose admin servers listen.
struct Proxy {
    _views: Vec<View>,
    _back: discover::Back,
    ready: Ready,
    public: SocketAddr,
    local: SocketAddr,
    ended: Arc<AtomicBool>,
    _directory: tempfile::TempDir,
}

async fn proxy() -> Proxy {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().display().to_string();
    let settings = [
        "weft-proxy",
        "--pod-ips",
        "127.0.0.1",
        "--trust-dir",
        &state,
        "--state-dir",
        &state,
    ];
    let settings = Settings::try_parse_from(settings).unwrap();
    let (registry, ready) = (Registry::new(), Ready::new());
    let (back, beliefs, views) = discover::start(&settings, &registry, &ready);
    let dialer = Dialer {
        mark: None,
        connect_timeout: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(1),
    };
    let probes = r#"{"web": {"readiness": {"tcpSocket": {"port": 1}}}}"#;
    let probes = Probes::new(probes, Ipv4Addr::LOCALHOST.into(), dialer).unwrap();
    let hooks = format!(r#"{{"token": "{TOKEN}", "hooks": {{"web": {{"preStop": {{"httpGet": {{"port": 1}}}}}}}}}}"#);
    let hooks = Hooks::new(&hooks, Ipv4Addr::LOCALHOST.into(), dialer).unwrap();
    let ended: Arc<AtomicBool> = Arc::default();
    let end = ended.clone();
    let (verdicts, access) = (Verdicts::default(), Switch::default());
    let seen = Seen::new(verdicts.clone());
    let verdict = Verdict {
        protocol: None,
        found: Found::ServerFirst,
    };
    seen.note(Direction::Outbound, ([10, 96, 0, 9], 5432).into(), verdict);
    let servers = [
        public(ready.clone(), registry, beliefs.clone(), probes, hooks),
        local(beliefs, verdicts, access.clone(), move || {
            end.store(true, Ordering::SeqCst)
        }),
    ];
    let mut addresses = Vec::new();
    for server in servers {
        let listener = Listener::tcp((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        addresses.push(listener.address().unwrap());
        tokio::spawn(server.serve(vec![listener]));
    }
    Proxy {
        _views: views,
        _back: back,
        ready,
        public: addresses[0],
        local: addresses[1],
        ended,
        _directory: directory,
    }
}

/// Asks, and gives the status and the body.
async fn ask(at: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn not_ready_says_what_is_missing_and_live_is_live() {
    let proxy = proxy().await;
    let (status, body) = ask(proxy.public, "GET", "/ready").await;
    assert_eq!(status, 503);
    assert!(body.contains("certificate, configuration"), "{body}");
    assert!(!proxy.ready.is_ready());
    assert_eq!(ask(proxy.public, "GET", "/live").await.0, 200);
}

#[tokio::test]
async fn metrics_tell_of_the_process_and_the_configuration() {
    let proxy = proxy().await;
    let (status, body) = ask(proxy.public, "GET", "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "weft_leaf_expiry_seconds 0\n",
        "weft_discovery_connected 0\n",
        "weft_build_info{version=\"",
    ] {
        assert!(body.contains(line), "{line} is not in {body}");
    }
    let value = |name: &str| {
        let line = body.lines().find(|line| line.starts_with(name)).unwrap();
        line.split(' ').nth(1).unwrap().parse::<f64>().unwrap()
    };
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_cpu_seconds_total ") > 0.0);
    assert!(value("weft_config_age_seconds ") < 60.0);
}

#[tokio::test]
async fn a_probe_of_a_dead_app_fails_and_an_unknown_one_is_not_found() {
    let proxy = proxy().await;
    let (status, body) = ask(proxy.public, "GET", "/probe/web/readiness").await;
    assert_eq!((status, body.as_str()), (503, "ill\n"), "and not why");
    assert_eq!(ask(proxy.public, "GET", "/probe/web/liveness").await.0, 404);
}

#[tokio::test]
async fn probes_and_hooks_are_asked_with_get_alone() {
    let proxy = proxy().await;
    let hook = format!("/hook/{TOKEN}/web/preStop");
    for path in ["/probe/web/readiness", &hook] {
        for method in ["HEAD", "POST"] {
            assert_eq!(ask(proxy.public, method, path).await.0, 405, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_hook_that_could_not_be_run_gets_no_answer_and_an_unknown_one_a_status() {
    let proxy = proxy().await;
    let mut stream = TcpStream::connect(proxy.public).await.unwrap();
    let head = format!("GET /hook/{TOKEN}/web/preStop HTTP/1.1\r\nhost: admin\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // An end or a reset: either is no answer.
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(String::from_utf8(answer).unwrap(), "");
    assert_eq!(ask(proxy.public, "GET", "/hook/other/web/preStop").await.0, 404);
}

#[tokio::test]
async fn the_pods_address_neither_shows_nor_ends_anything() {
    let proxy = proxy().await;
    for (method, path) in [
        ("GET", "/config"),
        ("POST", "/shutdown"),
        ("POST", "/ready"),
        ("POST", "/access-log/on"),
        ("GET", "/access-log"),
    ] {
        assert!(
            [404, 405].contains(&ask(proxy.public, method, path).await.0),
            "{method} {path}"
        );
    }
    assert!(!proxy.ended.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_loopback_switches_the_access_log() {
    let proxy = proxy().await;
    for (method, path, want) in [
        ("GET", "/access-log", "off\n"),
        ("POST", "/access-log/on", "on\n"),
        ("GET", "/access-log", "on\n"),
        ("POST", "/access-log/off", "off\n"),
    ] {
        let (status, body) = ask(proxy.local, method, path).await;
        assert_eq!((status, &*body), (200, want), "{method} {path}");
    }
    assert_eq!(
        ask(proxy.local, "GET", "/access-log/on").await.0,
        405,
        "looking switches nothing"
    );
}

#[tokio::test]
async fn the_loopback_shows_and_ends() {
    let proxy = proxy().await;
    let (status, body) = ask(proxy.local, "GET", "/config").await;
    assert_eq!(status, 200);
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["connected"], false);
    assert_eq!(shown["detected"][0]["found"], "server-first");
    assert_eq!(ask(proxy.local, "GET", "/shutdown").await.0, 405);
    assert!(!proxy.ended.load(Ordering::SeqCst), "only POST ends it");
    assert_eq!(ask(proxy.local, "POST", "/shutdown").await.0, 200);
    assert!(proxy.ended.load(Ordering::SeqCst));
}

/// A store that was told the same of the same mesh: `last` is where its addresses and ids begin.
fn told(at: &[&str], last: u8, resource_version: u64, epoch: u64, pods: [&str; 2]) -> Store {
    let mut store = Store::new(Duration::from_secs(3), 16);
    let mut resources = basics();
    let set = endpoints(&[(pods[0], last), (pods[1], last + 1)]);
    resources.push(says(&format!("eps-{last}"), &set, resource_version));
    let service = routed_service(&format!("eps-{last}"), &format!("eps-{last}"));
    resources.push(says(&format!("svc-{last}"), &service, resource_version));
    for at in at {
        store.follow(&target(at), Instant::now(), Duration::ZERO).unwrap();
        resources.push(says(at, &lookup(&format!("svc-{last}")), resource_version));
    }
    assert_eq!(store.apply(batch(1, epoch, resources), Instant::now()).refused, []);
    store
}

#[test]
fn two_proxies_that_believe_the_same_print_the_same_by_names() {
    let one = told(&["10.96.0.7:80"], 1, 5, 1, ["reviews-1", "reviews-2"]);
    let mut other = told(
        &["10.96.0.99:80", "[fd00:10:96::9]:80"],
        50,
        8,
        3,
        ["reviews-2", "reviews-1"],
    );
    let by_names = |store: &Store| serde_json::to_string_pretty(&config::state(store.state(), true)).unwrap();
    assert_eq!(by_names(&one), by_names(&other));
    assert_ne!(config::state(one.state(), false), config::state(other.state(), false));
    // And what they believe differently shows.
    other.apply(
        batch(2, 3, vec![says("inbound", &inbound(Mode::Permissive), 9)]),
        Instant::now(),
    );
    assert_ne!(by_names(&one), by_names(&other));
    let fewer = told(&["10.96.0.7:80"], 1, 5, 1, ["reviews-1", "reviews-3"]);
    assert_ne!(by_names(&one), by_names(&fewer));
}

#[test]
fn the_full_view_has_addresses_ids_versions_and_names() {
    let store = told(&["10.96.0.7:80"], 1, 5, 1, ["reviews-1", "reviews-2"]);
    let shown = config::state(store.state(), false);
    let first = &shown["endpoints"][0]["endpoints"][0];
    assert_eq!(first["pod"], "reviews-1");
    assert_eq!(first["address"], "10.244.0.1:9080");
    assert_eq!(first["id"], "0000000000000001");
    assert_eq!(first["identity"], "spiffe://demo.weft.internal/ns/shop/sa/reviews");
    assert_eq!(shown["targets"][0]["service"], "shop/reviews:80");
    assert_eq!(shown["targets"][0]["target"], "10.96.0.7:80");
    assert_eq!(
        shown["services"][0]["rules"][0]["backends"][0]["endpoints"],
        "shop/reviews:80"
    );
    assert_eq!(shown["services"][0]["rules"][0]["route"], "HTTPRoute shop/reviews");
    assert_eq!(shown["inbound"]["version"]["sources"][0]["resource_version"], 1);
    assert_eq!(shown["inbound"]["mode"], "strict");
}

#[test]
fn both_views_say_what_is_behind_gateways_and_the_full_one_by_which() {
    let mut store = told(&["10.96.0.7:80"], 1, 5, 1, ["reviews-1", "reviews-2"]);
    let Body::Endpoints(mut set) = endpoints(&[("reviews-1", 1), ("reviews-2", 2)]) else {
        panic!("a set")
    };
    Arc::make_mut(&mut set.endpoints[1]).gateways = Some([([192, 0, 2, 1], 15_443).into()].into());
    let changed = says("eps-1", &Body::Endpoints(set), 6);
    assert_eq!(store.apply(batch(2, 1, vec![changed]), Instant::now()).refused, []);
    for by_names in [false, true] {
        let shown = config::state(store.state(), by_names);
        let members = &shown["endpoints"][0]["endpoints"];
        assert_eq!(members[0]["behind_gateways"], false);
        assert_eq!(members[1]["behind_gateways"], true);
        let gateways = &members[1]["gateways"];
        assert_eq!(*gateways == json!(["192.0.2.1:15443"]), !by_names, "{gateways}");
    }
}

#[test]
fn no_view_shows_a_key() {
    let mut store = told(&["10.96.0.7:80"], 1, 5, 1, ["reviews-1", "reviews-2"]);
    let credential = credential(&authority(), &identity("shop", "web"), Duration::from_secs(60), 1);
    store.set_credential(Some(&credential));
    let secret = credential.key().to_pem();
    let secret = secret.lines().nth(1).unwrap();
    for by_names in [false, true] {
        let shown = config::state(store.state(), by_names).to_string();
        assert!(shown.contains("spiffe://demo.weft.internal/ns/shop/sa/web"), "{shown}");
        assert!(!shown.contains(secret) && !shown.contains("PRIVATE"), "{shown}");
    }
}
