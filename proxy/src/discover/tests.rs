//! The back side whole: against a control plane in this process, over real TLS.

mod control;

use std::sync::atomic::Ordering;

use clap::Parser as _;
use control::Control;
use weft_certs::authority::Authority;
use weft_model::destination::Lookup;
use weft_model::identity::Identity;
use weft_model::inbound::Mode;
use weft_model::reason::Reason;
use weft_proto::discovery::from_proxy::Message;

use super::testing::*;
use super::*;

const AT: &str = "10.96.0.7:80";
const LIFE: Duration = Duration::from_secs(3600);

/// A pod's files, and the authority that they name.
struct Pod {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
}

impl Pod {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(authority());
        let trust = directory.path().join("trust");
        std::fs::create_dir(&trust).unwrap();
        std::fs::write(trust.join("roots.pem"), authority.bundle(1).to_pem()).unwrap();
        std::fs::write(trust.join("trust-domain"), DOMAIN).unwrap();
        std::fs::write(trust.join("control-namespace"), "weft-system\n").unwrap();
        std::fs::write(directory.path().join("token"), "the-token\n").unwrap();
        Self { directory, authority }
    }

    fn settings(&self, control: &str) -> Settings {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let (trust, token, state) = (at("trust"), at("token"), at("state"));
        let fixed = [
            "weft-proxy",
            "--pod-ips",
            "127.0.0.1",
            "--pod-name",
            "web-1",
            "--workers",
            "2",
        ];
        let own = [
            "--pod-namespace",
            "shop",
            "--service-account",
            "web",
            "--control-address",
            control,
        ];
        let files = ["--trust-dir", &trust, "--token-file", &token, "--state-dir", &state];
        Settings::try_parse_from(fixed.iter().chain(&own).chain(&files)).unwrap()
    }

    fn control(&self) -> Control {
        Control::start(&self.authority, &control_plane(), LIFE)
    }

    fn state_file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("state").join(name)
    }
}

fn control_plane() -> Identity {
    identity("weft-system", "weft-control")
}

/// A proxy's back side.
struct Proxy {
    back: Back,
    beliefs: Beliefs,
    views: Vec<View>,
    ready: Ready,
    registry: Arc<Registry>,
}

fn proxy(pod: &Pod, control: &str) -> Proxy {
    let (registry, ready) = (Registry::new(), Ready::new());
    let (back, beliefs, views) = start(&pod.settings(control), &registry, &ready);
    Proxy {
        back,
        beliefs,
        views,
        ready,
        registry,
    }
}

/// Waits, bounded, until the proxy is complete. Every worker applies what it sees.
async fn complete(views: &[View]) {
    let complete = async {
        let mut generation = 0;
        loop {
            let state = views[0].newer(generation).await;
            generation = state.generation;
            views.iter().for_each(|view| view.applied(generation));
            if state.is_complete() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), complete)
        .await
        .expect("complete in time");
}

/// A control plane that told a proxy the basics, which has acknowledged them.
async fn introduced(control: &mut Control, views: &[View]) {
    let Message::Hello(hello) = control.hear().await else {
        panic!("a stream begins with hello")
    };
    assert_eq!(hello.pod.unwrap().name, "web-1");
    control.tell(batch(1, 1, basics()));
    complete(views).await;
    let Message::Ack(ack) = control.hear().await else {
        panic!("the basics are acknowledged")
    };
    assert_eq!((ack.nonce, ack.refusals.len()), (1, 0));
}

/// The control plane answers for [`AT`].
async fn asked(control: &mut Control, views: &[View]) {
    let at = target(AT);
    let told = async {
        let Message::Subscribe(asked) = control.hear().await else {
            panic!("the destination is asked for")
        };
        assert_eq!(asked.targets.len(), 1);
        control.tell(batch(2, 1, reviews(AT, &[("reviews-1", 1)], 5)));
    };
    let (found, ()) = tokio::join!(views[0].lookup(&at), told);
    assert_eq!(found, Ok(Lookup::Service("svc".into())));
}

/// Runs the back side beside a story, until the story ends.
async fn beside<T>(back: Back, story: impl Future<Output = T>) -> T {
    tokio::select! {
        () = back.run() => panic!("the back side ends never"),
        told = story => told,
    }
}

#[tokio::test]
async fn a_new_proxy_gets_a_certificate_its_configuration_and_what_it_asks_for() {
    let pod = Pod::new();
    let mut control = pod.control();
    let Proxy {
        back,
        beliefs,
        views,
        ready,
        ..
    } = proxy(&pod, &control.address.to_string());
    assert_eq!(ready.missing(), ["certificate", "configuration"]);
    beside(back, async {
        introduced(&mut control, &views).await;
        assert!(ready.is_ready());
        assert!(beliefs.is_connected());
        assert_eq!(*control.tokens.lock().unwrap(), ["the-token"]);
        assert_eq!(
            *views[0].state().credential.clone().unwrap().identity(),
            identity("shop", "web")
        );
        asked(&mut control, &views).await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_is_acknowledged_after_the_last_worker_and_not_before() {
    let pod = Pod::new();
    let mut control = pod.control();
    let Proxy { back, views, .. } = proxy(&pod, &control.address.to_string());
    beside(back, async {
        introduced(&mut control, &views).await;
        asked(&mut control, &views).await;
        let generation = views[0].state().generation;
        views[0].applied(generation);
        // What is said after the first worker applied comes before the acknowledgement, so there was none.
        let _ = tokio::time::timeout(Duration::from_millis(50), views[0].lookup(&target("10.96.0.8:80"))).await;
        assert!(matches!(control.hear().await, Message::Subscribe(_)));
        views[1].applied(generation);
        let Message::Ack(ack) = control.hear().await else {
            panic!("now it is acknowledged")
        };
        assert_eq!(ack.nonce, 2);
    })
    .await;
}

#[tokio::test]
async fn a_refused_resource_is_reported_with_its_field_and_the_last_good_one_stays() {
    let pod = Pod::new();
    let mut control = pod.control();
    let Proxy {
        back, views, registry, ..
    } = proxy(&pod, &control.address.to_string());
    beside(back, async {
        introduced(&mut control, &views).await;
        let mut broken = says("inbound", &inbound(Mode::Permissive), 2);
        broken.requires.push("teleport/1".into());
        control.tell(batch(2, 1, vec![broken]));
        let state = views[0].newer(views[0].state().generation).await;
        views.iter().for_each(|view| view.applied(state.generation));
        let Message::Ack(ack) = control.hear().await else {
            panic!("a refusal is acknowledged too")
        };
        assert_eq!(ack.refusals[0].field, "requires");
        assert_eq!(ack.refusals[0].missing_features, ["teleport/1"]);
        assert_eq!(state.inbound().unwrap().mode, Mode::Strict);
        assert!(
            registry
                .text()
                .finish()
                .contains("weft_discovery_refused_total{kind=\"inbound\"} 1")
        );
    })
    .await;
}

#[tokio::test]
async fn somebody_else_at_the_control_planes_address_gets_no_token() {
    let pod = Pod::new();
    let other_root = Arc::new(authority());
    let impostors = [
        (&pod.authority, identity("shop", "weft-control")),
        (&other_root, control_plane()),
    ];
    for (authority, who) in impostors {
        let mut impostor = Control::start(authority, &who, LIFE);
        let Proxy {
            back,
            views,
            ready,
            registry,
            ..
        } = proxy(&pod, &impostor.address.to_string());
        beside(back, async {
            let tried = async {
                while impostor.connections.load(Ordering::SeqCst) < 2 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), tried)
                .await
                .expect("it tries again");
        })
        .await;
        assert!(impostor.tokens.lock().unwrap().is_empty(), "{who} got a token");
        assert!(impostor.said.try_recv().is_err(), "{who} heard something");
        let metrics = registry.text().finish();
        assert!(
            !metrics.contains("weft_identity_issues_total{outcome=\"unreachable\"} 0"),
            "{metrics}"
        );
        assert!(
            metrics.contains("weft_identity_issues_total{outcome=\"issued\"} 0"),
            "{metrics}"
        );
        assert!(!ready.is_ready());
        assert_eq!(views[0].state().credential.as_deref().map(Credential::identity), None);
    }
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let pod = Pod::new();
    let control = pod.control();
    let mut settings = pod.settings(&control.address.to_string());
    settings.service_account = "other".into();
    let issuer = Issuer::new(&settings);
    let error = issuer.issue(None).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("this pod is spiffe://demo.weft.internal/ns/shop/sa/other"),
        "{error}"
    );
}

/// A pod whose proxy has written certificate and snapshot, and whose control plane is gone.
async fn left_behind() -> (Pod, String) {
    let pod = Pod::new();
    let mut control = pod.control();
    let address = control.address.to_string();
    let Proxy { back, views, .. } = proxy(&pod, &address);
    let snapshot = pod.state_file(crate::snapshot::FILE);
    beside(back, async {
        introduced(&mut control, &views).await;
        asked(&mut control, &views).await;
        let generation = views[0].state().generation;
        views.iter().for_each(|view| view.applied(generation));
        let written = async {
            // The file is replaced as a whole, so its size says whether it has what was asked for.
            while std::fs::metadata(&snapshot).map_or(0, |file| file.len()) < 600 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written)
            .await
            .expect("a snapshot");
    })
    .await;
    drop(control);
    (pod, address)
}

#[tokio::test]
async fn a_proxy_that_restarts_while_the_control_plane_is_away_serves_at_once() {
    let (pod, address) = left_behind().await;
    let began = std::time::Instant::now();
    let Proxy {
        views, ready, beliefs, ..
    } = proxy(&pod, &address);
    assert!(ready.is_ready());
    assert!(began.elapsed() < Duration::from_millis(200));
    assert_eq!(views[0].lookup(&target(AT)).await, Ok(Lookup::Service("svc".into())));
    assert_eq!(views[0].state().inbound().unwrap().mode, Mode::Strict);
    assert_eq!(
        *views[0].state().credential.clone().unwrap().identity(),
        identity("shop", "web")
    );
    assert!(!beliefs.is_connected());
    for name in [crate::snapshot::FILE, "credential.pem"] {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(pod.state_file(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_discarded_and_the_proxy_is_not_ready() {
    let (pod, address) = left_behind().await;
    let path = pod.state_file(crate::snapshot::FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let Proxy { views, ready, .. } = proxy(&pod, &address);
    assert_eq!(ready.missing(), ["configuration"]);
    assert!(views[0].state().inbound().is_none());
    assert!(views[0].state().lookups.is_empty());
}

#[tokio::test]
async fn a_damaged_key_is_discarded_and_the_proxy_is_not_ready() {
    let (pod, address) = left_behind().await;
    let path = pod.state_file("credential.pem");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let Proxy { views, ready, .. } = proxy(&pod, &address);
    assert_eq!(ready.missing(), ["certificate"]);
    assert_eq!(views[0].state().credential.as_deref().map(Credential::identity), None);
}

#[tokio::test]
async fn after_a_restart_the_control_plane_hears_what_is_held_and_followed() {
    let (pod, _) = left_behind().await;
    let mut control = pod.control();
    let Proxy { back, .. } = proxy(&pod, &control.address.to_string());
    beside(back, async {
        let Message::Hello(hello) = control.hear().await else {
            panic!("a stream begins with hello")
        };
        assert_eq!(hello.epoch, 1);
        assert_eq!(hello.targets.len(), 1);
        assert_eq!(hello.held.len(), 5);
        assert!(
            control.tokens.lock().unwrap().is_empty(),
            "the certificate of before is good still"
        );
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_that_comes_back_finds_its_proxies() {
    let pod = Pod::new();
    let mut control = pod.control();
    let address = control.address;
    let Proxy {
        back, beliefs, views, ..
    } = proxy(&pod, &address.to_string());
    beside(back, async {
        introduced(&mut control, &views).await;
        drop(control);
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mut control = Control::serve(listener, &pod.authority, &control_plane(), LIFE);
        let Message::Hello(hello) = control.hear().await else {
            panic!("a stream begins with hello")
        };
        assert_eq!((hello.epoch, hello.held.len()), (1, 2));
        control.tell(batch(1, 1, vec![says("inbound", &inbound(Mode::Permissive), 2)]));
        let state = views[0].newer(views[0].state().generation).await;
        assert_eq!(state.inbound().unwrap().mode, Mode::Permissive);
        assert!(beliefs.is_connected());
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_opens_a_new_stream() {
    let pod = Pod::new();
    let mut control = Control::start(&pod.authority, &control_plane(), Duration::from_secs(3));
    let Proxy { back, views, .. } = proxy(&pod, &control.address.to_string());
    beside(back, async {
        introduced(&mut control, &views).await;
        let first = views[0].state().credential.clone().unwrap();
        let Message::Hello(hello) = control.hear().await else {
            panic!("another stream begins with hello")
        };
        assert_eq!(hello.held.len(), 2);
        let second = views[0].state().credential.clone().unwrap();
        assert!(second.generation() > first.generation());
        assert_ne!(second.chain(), first.chain());
        assert_ne!(
            second.key().public().fingerprint(),
            first.key().public().fingerprint(),
            "the key is new too"
        );
    })
    .await;
}

/// When the snapshot says that the control plane confirmed it last.
fn confirmed(pod: &Pod) -> SystemTime {
    let mut store = Store::new(Duration::from_secs(3), 16);
    let directory = pod.directory.path().join("state");
    let confirmed = snapshot::load(&directory, &mut store, Instant::now(), SystemTime::now()).unwrap();
    confirmed.expect("a snapshot")
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_keeps_saying_how_old_it_is() {
    let pod = Pod::new();
    // Without a certificate it opens no stream, so the test says what happens.
    let Proxy {
        mut back,
        views,
        beliefs,
        ..
    } = proxy(&pod, "127.0.0.1:1");
    let file = pod.state_file(snapshot::FILE);
    let wrote = async |back: &mut Back, after: Duration| {
        let _ = std::fs::remove_file(&file);
        tokio::time::advance(after).await;
        back.client.due(Instant::now());
        file.exists()
    };
    let applied = || {
        let generation = views[0].state().generation;
        views.iter().for_each(|view| view.applied(generation));
    };
    back.client.take_batch(batch(1, 1, basics()));
    applied();
    assert!(wrote(&mut back, Duration::from_millis(200)).await);
    assert!(!wrote(&mut back, Duration::from_secs(29)).await, "nothing has happened");
    assert!(wrote(&mut back, Duration::from_secs(1)).await, "it is confirmed still");
    back.client.drop_link();
    assert!(
        wrote(&mut back, Duration::from_millis(200)).await,
        "it was confirmed until now"
    );
    assert!(
        !wrote(&mut back, Duration::from_secs(3600)).await,
        "nobody confirms it any more"
    );
    // A destination that is asked for writes it anew, which makes it no younger.
    back.client.snapshot_at = Some(Instant::now());
    assert!(wrote(&mut back, Duration::ZERO).await);
    let age = confirmed(&pod).elapsed().unwrap();
    assert!((3600..3700).contains(&age.as_secs()), "{age:?}");
    drop((back, beliefs));
    let Proxy { beliefs, .. } = proxy(&pod, "127.0.0.1:1");
    assert!((3600..3700).contains(&beliefs.config_age().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_plaintext_inside_ends_when_it_would_have_without() {
    let pod = Pod::new();
    let at = target("10.0.0.1:80");
    let Proxy { mut back, views, .. } = proxy(&pod, "127.0.0.1:1");
    let client = &mut back.client;
    client.store.follow(&at, Instant::now(), Duration::ZERO).unwrap();
    let mut resources = basics();
    resources.push(says("10.0.0.1:80", &outside(30), 1));
    client.take_batch(batch(1, 1, resources));
    client.drop_link();
    drop(views);
    for (away, good) in [(240, true), (120, false)] {
        tokio::time::advance(Duration::from_secs(away)).await;
        client.snapshot_at = Some(Instant::now());
        client.due(Instant::now());
        let Proxy { views, .. } = proxy(&pod, "127.0.0.1:1");
        let answer = views[0].lookup(&at).await;
        assert_eq!(answer.is_ok(), good, "{away} s later: {answer:?}");
    }
}

#[tokio::test]
async fn a_worker_that_is_behind_holds_up_the_acknowledgement_and_the_snapshot() {
    let pod = Pod::new();
    let mut control = pod.control();
    let Proxy { back, views, .. } = proxy(&pod, &control.address.to_string());
    let file = pod.state_file(snapshot::FILE);
    beside(back, async {
        introduced(&mut control, &views).await;
        let written = async || {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let bound = Duration::from_secs(20);
        tokio::time::timeout(bound, written()).await.expect("a snapshot");
        std::fs::remove_file(&file).unwrap();
        control.tell(batch(2, 1, vec![says("inbound", &inbound(Mode::Permissive), 2)]));
        let generation = views[0].newer(views[0].state().generation).await.generation;
        // One worker is quick. The other one is busy for longer than snapshots wait for more changes.
        views[0].applied(generation);
        assert!(
            tokio::time::timeout(Duration::from_millis(600), written())
                .await
                .is_err()
        );
        assert!(control.said.try_recv().is_err(), "nothing is acknowledged");
        views[1].applied(generation);
        assert!(matches!(control.hear().await, Message::Ack(ack) if ack.nonce == 2));
        tokio::time::timeout(bound, written()).await.expect("a snapshot");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_scrape_forgets_the_services_that_are_gone() {
    use crate::observe::metrics::Metrics;
    let pod = Pod::new();
    let Proxy {
        mut back,
        beliefs,
        registry,
        ..
    } = proxy(&pod, "127.0.0.1:1");
    back.client
        .store
        .follow(&target(AT), Instant::now(), Duration::ZERO)
        .unwrap();
    let mut resources = basics();
    resources.extend(reviews(AT, &[("reviews-1", 1)], 5));
    back.client.take_batch(batch(1, 1, resources));
    let metrics = Metrics::new(&registry);
    for service in [port("reviews"), port("gone")] {
        metrics.ejected(&service, Reason::ConnectFailed);
        metrics.endpoints(&service, "", 0).0.set(1.0);
    }
    beliefs.measure(&registry);
    let text = registry.text().finish();
    assert_eq!(text.matches("destination_service=\"reviews\"").count(), 3, "{text}");
    assert_eq!(text.matches("destination_service=\"gone\"").count(), 0, "{text}");
}
