//! Real clients and servers of TLS, on both sides of a gateway on loopback.

use std::collections::BTreeMap;
use std::time::SystemTime;

use clap::Parser as _;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::{JoinHandle, LocalSet};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_certs::authority::Authority;
use weft_certs::bundle::TrustBundles;
use weft_certs::credential::Credential;
use weft_certs::key::Key;
use weft_model::endpoint::{Endpoint, EndpointId, EndpointKey, EndpointSet};
use weft_model::identity::{Identity, TrustDomain};

use super::*;
use crate::config::Settings;
use crate::discover::testing;
use crate::mtls::Hop;

const LIMITS: Limits = Limits {
    connections: 100,
    strangers: 100,
    per_source: 100,
    dials: 100,
    idle: Duration::from_secs(3600),
    silence: Duration::from_secs(3600),
    linger: Duration::ZERO,
    drain: Duration::from_secs(3600),
};
const DIALER: Dialer = Dialer {
    mark: None,
    connect_timeout: Duration::from_secs(5),
    handshake_timeout: Duration::from_secs(10),
};
const REVIEWS: &str = "p9080.0000000000000001.reviews.shop.svc.one";

/// A trust domain.
struct World {
    authority: Authority,
    bundles: Arc<TrustBundles>,
}

/// A gateway, and who decides over it.
struct Door {
    address: SocketAddr,
    tables: watch::Sender<Arc<Table>>,
    phase: watch::Sender<Phase>,
    served: JoinHandle<()>,
    registry: Arc<Registry>,
}

fn story(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), story)
            .await
            .expect("the story comes to its end");
    });
}

async fn listen() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

impl World {
    fn new() -> Self {
        let trust_domain = TrustDomain::new("one").unwrap();
        let authority = Authority::create(trust_domain, SystemTime::now()).unwrap();
        let bundles = Arc::new(TrustBundles::new([authority.bundle(1)]).unwrap());
        Self { authority, bundles }
    }

    fn identity(&self, account: &str) -> Identity {
        Identity::new(self.authority.trust_domain().clone(), "shop", account).unwrap()
    }

    fn credential(&self, account: &str) -> Credential {
        let key = Key::generate().unwrap();
        let hour = Duration::from_secs(3600);
        let leaf = self
            .authority
            .issue(key.public(), &self.identity(account), hour, SystemTime::now());
        Credential::new(leaf.unwrap().chain, key, self.bundles.clone(), 1).unwrap()
    }

    /// A pod that sends back what it has got once all was said, and its own account before that.
    async fn server(&self, account: &'static str) -> (SocketAddr, Credential) {
        let (listener, credential) = (listen().await, self.credential(account));
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(credential.server_config(&Hop::ALL.map(Hop::token)));
        spawn_local(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                spawn_local(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else {
                        return;
                    };
                    stream.write_all(account.as_bytes()).await.unwrap();
                    let mut all = Vec::new();
                    // A client that breaks off gets nothing.
                    if stream.read_to_end(&mut all).await.is_ok() {
                        stream.write_all(&all).await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                });
            }
        });
        (address, credential)
    }

    fn endpoint(&self, id: u64, account: &str, address: SocketAddr) -> Endpoint {
        Endpoint {
            key: EndpointKey {
                id: EndpointId(id),
                port: 9080,
            },
            address,
            identity: Some(self.identity(account)),
            ..testing::endpoint(account, 1)
        }
    }

    fn table(&self, endpoints: Vec<Endpoint>) -> Arc<Table> {
        let set = EndpointSet {
            namespace: "shop".into(),
            service: "reviews".into(),
            port: 80,
            subset: String::new(),
            endpoints: endpoints.into_iter().map(Arc::new).collect(),
        };
        Arc::new(Table::new(self.authority.trust_domain().clone(), [&set]))
    }

    /// A client's configuration that expects this account.
    fn client(&self, expected: &str) -> ClientConfig {
        let config = self
            .credential("web")
            .client_config_expecting(&self.identity(expected), &[Hop::Tcp.token()]);
        ClientConfig::clone(&config)
    }

    /// The first bytes of a client that asks for a name.
    fn hello(&self, name: &str) -> Vec<u8> {
        self.hello_of(name, Hop::Tcp)
    }

    fn hello_of(&self, name: &str, hop: Hop) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut config = self.client("reviews");
        config.alpn_protocols = vec![hop.token().to_vec()];
        let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        bytes
    }
}

impl Door {
    async fn open(table: Arc<Table>, dialer: Dialer, limits: Limits) -> Self {
        let (listener, registry) = (listen().await, Registry::new());
        let address = listener.local_addr().unwrap();
        let (tables, told) = watch::channel(table);
        let (phase, phases) = watch::channel(Phase::Running);
        let gateway = Gateway::new(told, dialer, limits, Open::default(), &registry);
        Self {
            address,
            tables,
            phase,
            served: spawn_local(gateway.serve(vec![listener], phases)),
            registry,
        }
    }

    fn sample(&self, sample: &str) -> u64 {
        let text = self.registry.text().finish();
        let line = text.lines().find(|line| line.starts_with(sample));
        let value = line.and_then(|line| line.rsplit_once(' ')).expect("it is printed").1;
        value.parse::<f64>().unwrap() as u64
    }

    /// What has become of connections so far, where it is not nothing.
    fn fates(&self) -> Vec<(String, u64)> {
        let text = self.registry.text().finish();
        let of_it = text
            .lines()
            .filter_map(|line| line.strip_prefix("weft_gateway_connections_total{reason=\""));
        let fates = of_it.map(|rest| {
            let (reason, value) = rest.split_once("\"} ").unwrap();
            (reason.to_owned(), value.parse::<f64>().unwrap() as u64)
        });
        fates.filter(|(_, count)| *count > 0).collect()
    }

    async fn dial(&self, name: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    /// Says something, and waits until the gateway has closed the connection. Not a byte comes back.
    async fn is_closed_to(&self, says: &[u8], ends: bool) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        // It may be closed while it is still said.
        let _ = socket.write_all(says).await;
        if ends {
            let _ = socket.shutdown().await;
        }
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all).await;
        assert!(all.is_empty(), "{all:?} came back for {says:?}");
    }

    #[track_caller]
    fn counted(&self, want: &[(&str, u64)]) {
        let fates = self.fates();
        let fates: BTreeMap<_, _> = fates.iter().map(|(reason, count)| (&**reason, *count)).collect();
        assert_eq!(fates, want.iter().copied().collect());
    }
}

/// Waits, without sleeping, until something holds.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

async fn said_first(stream: &mut TlsStream<TcpStream>) -> String {
    let mut account = [0; 7];
    stream.read_exact(&mut account).await.unwrap();
    String::from_utf8(account.to_vec()).unwrap()
}

#[test]
fn a_connection_goes_to_exactly_the_endpoint_that_the_client_chose_and_tls_ends_there() {
    story(async {
        let world = World::new();
        let (reviews, its) = world.server("reviews").await;
        let (ratings, theirs) = world.server("ratings").await;
        let table = world.table(vec![
            world.endpoint(1, "reviews", reviews),
            world.endpoint(2, "ratings", ratings),
        ]);
        let door = Door::open(table, DIALER, LIMITS).await;
        for (id, account, credential) in [(1, "reviews", its), (2, "ratings", theirs)] {
            let name = format!("p9080.{id:016x}.reviews.shop.svc.one");
            let mut stream = door.dial(&name, world.client(account)).await.unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            assert_eq!(
                shown,
                credential.chain()[0],
                "the pod's own, and not one of the gateway's"
            );
            assert_eq!(said_first(&mut stream).await, account);
            // Large, and ended by the client alone: the answer comes after that.
            let sent = vec![7; 300_000];
            let (mut read, mut write) = tokio::io::split(stream);
            let mut back = Vec::new();
            let (_, wrote) = tokio::join!(read.read_to_end(&mut back), async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await
            });
            wrote.unwrap();
            assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
        }
        until(|| door.sample("weft_gateway_connections_open") == 0).await;
        door.counted(&[("passed", 2)]);
        for direction in ["up", "down"] {
            let bytes = door.sample(&format!("weft_gateway_bytes_total{{direction=\"{direction}\"}}"));
            assert!(bytes > 600_000, "{bytes} bytes {direction}");
        }
    });
}

#[test]
fn the_client_finds_out_who_is_there_and_not_the_gateway() {
    story(async {
        let world = World::new();
        let (ratings, _) = world.server("ratings").await;
        let table = world.table(vec![world.endpoint(1, "reviews", ratings)]);
        let door = Door::open(table, DIALER, LIMITS).await;
        let refused = door.dial(REVIEWS, world.client("reviews")).await.unwrap_err();
        assert!(refused.get_ref().is_some_and(|error| error.is::<rustls::Error>()));
        door.counted(&[("passed", 1)]);
    });
}

#[test]
fn a_name_that_is_not_exactly_that_of_an_exported_endpoint_is_closed_and_counted() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = || world.table(vec![world.endpoint(1, "reviews", reviews)]);
        for (name, reason) in [
            ("p9080.0000000000000001.ratings.shop.svc.one", "not-exported"),
            ("p9080.0000000000000001.reviews.bank.svc.one", "not-exported"),
            ("p9080.0000000000000001.reviews.shop.svc.two", "not-exported"),
            ("p9080.0000000000000002.reviews.shop.svc.one", "not-exported"),
            ("p9081.0000000000000001.reviews.shop.svc.one", "not-exported"),
            ("p9080.0000000000000001.shop.pod.one", "not-exported"),
            ("p09080.0000000000000001.reviews.shop.svc.one", "malformed"),
            ("reviews.shop.svc.cluster.local", "malformed"),
        ] {
            let door = Door::open(table(), DIALER, LIMITS).await;
            door.is_closed_to(&world.hello(name), false).await;
            door.counted(&[(reason, 1)]);
        }
        let door = Door::open(table(), DIALER, LIMITS).await;
        assert!(door.dial(REVIEWS, world.client("reviews")).await.is_ok(), "that one is");
    });
}

#[test]
fn what_is_not_the_meshs_is_closed_and_counted() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = || world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let whole = world.hello(REVIEWS);
        let mut garbage = whole.clone();
        // A session's id that is longer than any may be.
        garbage[43] = 0xff;
        // A ClientHello of 16 MiB, in records of 16 KiB.
        let mut endless = [&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
        (0..8).for_each(|_| endless.extend([&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat()));
        for (says, ends, reason) in [
            (&b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n"[..], false, "not-mesh"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false, "not-mesh"),
            (b"SSH-2.0-OpenSSH_9.7\r\n", false, "not-mesh"),
            (&[0; 64], false, "not-mesh"),
            (&whole[..whole.len() / 2], true, "malformed"),
            (&garbage, false, "malformed"),
            (&endless, false, "malformed"),
            (b"", true, "closed"),
        ] {
            let door = Door::open(table(), DIALER, LIMITS).await;
            door.is_closed_to(says, ends).await;
            until(|| !door.fates().is_empty()).await;
            door.counted(&[(reason, 1)]);
        }
    });
}

type Change = fn(&mut ClientConfig);

#[test]
fn tls_without_a_token_of_the_mesh_or_without_a_name_is_closed_and_counted() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = || world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let changes: [(Change, &str); 3] = [
            (|config| config.alpn_protocols.clear(), "not-mesh"),
            (|config| config.alpn_protocols = vec![b"h2".to_vec()], "not-mesh"),
            (|config| config.enable_sni = false, "no-sni"),
        ];
        for (change, reason) in changes {
            let door = Door::open(table(), DIALER, LIMITS).await;
            let mut config = world.client("reviews");
            change(&mut config);
            let refused = door.dial(REVIEWS, config).await.unwrap_err();
            let alert = refused.get_ref().is_some_and(|error| error.is::<rustls::Error>());
            assert!(!alert, "closed, without a byte: {refused}");
            door.counted(&[(reason, 1)]);
        }
    });
}

#[test]
fn a_hello_that_does_not_come_in_time_is_closed_and_counted() {
    story(async {
        let world = World::new();
        let whole = world.hello(REVIEWS);
        let dialer = Dialer {
            handshake_timeout: Duration::from_millis(50),
            ..DIALER
        };
        for says in [&whole[..whole.len() / 2], &whole[..3], b""] {
            let door = Door::open(world.table(vec![]), dialer, LIMITS).await;
            door.is_closed_to(says, false).await;
            door.counted(&[("timeout", 1)]);
        }
    });
}

#[test]
fn an_endpoint_that_cannot_be_connected_to_is_counted() {
    story(async {
        let world = World::new();
        let nobody = listen().await;
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let door = Door::open(world.table(vec![world.endpoint(1, "reviews", address)]), DIALER, LIMITS).await;
        door.is_closed_to(&world.hello(REVIEWS), false).await;
        door.counted(&[("unreachable", 1)]);
    });
}

#[test]
fn of_an_endpoint_that_does_not_answer_a_client_hears_before_it_gives_up() {
    story(async {
        let world = World::new();
        // Ten times as long as by default: seconds are left between the two, however busy the machine is.
        let line = "weft-proxy --pod-ips 127.0.0.1 --peer-handshake-timeout 10s --connect-timeout 10s";
        let settings = Settings::try_parse_from(line.split(' ')).unwrap();
        // The kernel takes two connections for it, and no third.
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let _taken = (
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        );
        let table = world.table(vec![world.endpoint(1, "reviews", address)]);
        let door = Door::open(table, Dialer::of_gateway(&settings), LIMITS).await;
        let hello = world.hello(REVIEWS);
        let closed = door.is_closed_to(&hello, false);
        tokio::time::timeout(settings.peer_handshake_timeout, closed)
            .await
            .expect("it is closed in time");
        door.counted(&[("unreachable", 1)]);
    });
}

#[test]
fn an_endpoint_that_is_gone_takes_nothing_new_and_keeps_what_it_has() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let door = Door::open(table, DIALER, LIMITS).await;
        let mut stream = door.dial(REVIEWS, world.client("reviews")).await.unwrap();
        door.tables.send_replace(world.table(vec![]));
        door.is_closed_to(&world.hello(REVIEWS), false).await;
        door.counted(&[("passed", 1), ("not-exported", 1)]);
        assert_eq!(said_first(&mut stream).await, "reviews");
        stream.write_all(b"still here").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "still here");
    });
}

#[test]
fn more_than_there_is_room_for_is_closed_and_counted() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = || world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let one = Limits {
            connections: 1,
            ..LIMITS
        };
        let door = Door::open(table(), DIALER, one).await;
        let first = door.dial(REVIEWS, world.client("reviews")).await.unwrap();
        door.is_closed_to(b"", false).await;
        door.counted(&[("passed", 1), ("too-many", 1)]);
        drop(first);
        until(|| door.sample("weft_gateway_connections_open") == 0).await;
        assert!(
            door.dial(REVIEWS, world.client("reviews")).await.is_ok(),
            "there is room again"
        );
        let door = Door::open(table(), DIALER, Limits { dials: 0, ..LIMITS }).await;
        door.is_closed_to(&world.hello(REVIEWS), false).await;
        door.counted(&[("too-many", 1)]);
    });
}

#[test]
fn who_says_nothing_takes_places_of_strangers_and_none_of_what_is_passed_on() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = || world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let one = |strangers, per_source| Limits {
            strangers,
            per_source,
            ..LIMITS
        };
        for limits in [one(1, 100), one(100, 1)] {
            let door = Door::open(table(), DIALER, limits).await;
            let dial = || door.dial(REVIEWS, world.client("reviews"));
            let passed = [dial().await.unwrap(), dial().await.unwrap()];
            let silent = TcpStream::connect(door.address).await.unwrap();
            until(|| door.sample("weft_gateway_connections_open") == 3).await;
            door.is_closed_to(b"", false).await;
            door.counted(&[("passed", 2), ("too-many", 1)]);
            drop((silent, passed));
            until(|| door.sample("weft_gateway_connections_open") == 0).await;
            assert!(dial().await.is_ok(), "there is room again");
        }
    });
}

#[test]
fn what_carries_nothing_for_too_long_is_cut_and_counted() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let limits = Limits {
            idle: Duration::from_millis(50),
            ..LIMITS
        };
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let door = Door::open(table, DIALER, limits).await;
        let mut stream = door.dial(REVIEWS, world.client("reviews")).await.unwrap();
        assert_eq!(said_first(&mut stream).await, "reviews");
        let cut = stream.read(&mut [0]).await;
        assert!(cut.is_err(), "it must not look ended: {cut:?}");
        door.counted(&[("passed", 1), ("idle", 1)]);
    });
}

#[test]
fn a_gateway_that_drains_takes_nothing_new_and_ends_with_its_last_connection() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let mut door = Door::open(table, DIALER, LIMITS).await;
        let mut stream = door.dial(REVIEWS, world.client("reviews")).await.unwrap();
        door.phase.send_replace(Phase::Draining);
        while TcpStream::connect(door.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!door.served.is_finished());
        assert_eq!(said_first(&mut stream).await, "reviews");
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        (&mut door.served).await.unwrap();
    });
}

#[test]
fn a_gateway_that_drains_still_accepts_for_as_long_as_others_may_be_led_there() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let linger = Duration::from_secs(3600);
        let mut door = Door::open(table, DIALER, Limits { linger, ..LIMITS }).await;
        door.phase.send_replace(Phase::Draining);
        for _ in 0..3 {
            let mut stream = door.dial(REVIEWS, world.client("reviews")).await.unwrap();
            assert_eq!(said_first(&mut stream).await, "reviews");
        }
        assert!(!door.served.is_finished(), "one may still come, though none is left");
        door.phase.send_replace(Phase::Ended);
        (&mut door.served).await.unwrap();
    });
}

#[test]
fn a_gateway_that_drains_ends_what_is_quiet_and_for_single_requests_and_leaves_all_else() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let drain = Duration::from_millis(200);
        let door = Door::open(table, DIALER, Limits { drain, ..LIMITS }).await;
        let mut streams = Vec::new();
        for hop in [Hop::H1, Hop::H2, Hop::Tcp] {
            let mut config = world.client("reviews");
            config.alpn_protocols = vec![hop.token().to_vec()];
            let mut stream = door.dial(REVIEWS, config).await.unwrap();
            assert_eq!(said_first(&mut stream).await, "reviews");
            streams.push(stream);
        }
        let began = Instant::now();
        door.phase.send_replace(Phase::Draining);
        let mut requests = streams.remove(0);
        // TLS has not ended it, and it did not break: the transport is at its end.
        let ended = requests.read(&mut [0]).await.unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(began.elapsed() >= drain / 3, "not at once: {:?}", began.elapsed());
        drop(requests);
        until(|| door.sample("weft_gateway_connections_open") == 2 && began.elapsed() > drain).await;
        for mut stream in streams {
            stream.write_all(b"still here").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = String::new();
            stream.read_to_string(&mut back).await.unwrap();
            assert_eq!(back, "still here");
        }
    });
}

#[test]
fn a_gateway_that_drains_leaves_a_request_that_is_not_answered_yet_as_long_as_there_is_time() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let drain = Duration::from_millis(600);
        let door = Door::open(table, DIALER, Limits { drain, ..LIMITS }).await;
        let mut config = world.client("reviews");
        config.alpn_protocols = vec![Hop::H1.token().to_vec()];
        let mut asks = door.dial(REVIEWS, config).await.unwrap();
        assert_eq!(said_first(&mut asks).await, "reviews");
        // The server, which says nothing more before its client has ended, has got it.
        let upwards = || door.sample("weft_gateway_bytes_total{direction=\"up\"}");
        let before = upwards();
        asks.write_all(b"a request").await.unwrap();
        until(|| upwards() > before).await;
        let began = Instant::now();
        door.phase.send_replace(Phase::Draining);
        let ended = asks.read(&mut [0]).await.unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(began.elapsed() >= drain, "too soon: {:?}", began.elapsed());
    });
}

#[test]
fn a_gateway_whose_time_is_over_waits_for_nobody() {
    story(async {
        let world = World::new();
        let (reviews, _) = world.server("reviews").await;
        let table = world.table(vec![world.endpoint(1, "reviews", reviews)]);
        let mut door = Door::open(table, DIALER, LIMITS).await;
        let _open = door.dial(REVIEWS, world.client("reviews")).await.unwrap();
        door.phase.send_replace(Phase::Draining);
        door.phase.send_replace(Phase::Ended);
        (&mut door.served).await.unwrap();
        assert_eq!(door.sample("weft_gateway_connections_open"), 1);
    });
}

/// One side's socket hears nothing any more, and so says nothing: what comes for it is dropped before TCP sees it.
fn vanish(socket: &TcpStream) {
    const RETURN: u16 = 0x06;
    let nothing = SockFilter::new(RETURN, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[nothing]).unwrap();
}

/// An endpoint that is mere TCP, a gateway before it, and a client that has asked for it.
async fn without_tls(silence: Duration, hop: Hop) -> (Door, TcpStream, TcpStream) {
    let (world, pod) = (World::new(), listen().await);
    let address = pod.local_addr().unwrap();
    let limits = Limits { silence, ..LIMITS };
    let door = Door::open(world.table(vec![world.endpoint(1, "reviews", address)]), DIALER, limits).await;
    let mut client = TcpStream::connect(door.address).await.unwrap();
    let mut hello = world.hello_of(REVIEWS, hop);
    client.write_all(&hello).await.unwrap();
    let (mut endpoint, _) = pod.accept().await.unwrap();
    endpoint.read_exact(&mut hello).await.unwrap();
    (door, client, endpoint)
}

#[test]
fn a_side_that_vanishes_is_noticed_and_the_other_one_hears_of_it() {
    story(async {
        let silence = Duration::from_millis(600);
        // It takes several times as long as is set, by what is carried.
        for (fate, hop, set) in [
            ("endpoint-vanished", Hop::H1, silence / H1_PATIENCE),
            ("client-vanished", Hop::H1, silence / H1_PATIENCE),
            ("endpoint-vanished", Hop::H2, silence / LONG_PATIENCE),
            ("endpoint-vanished", Hop::Tcp, silence / LONG_PATIENCE),
        ] {
            let (door, client, endpoint) = without_tls(set, hop).await;
            let (gone, mut stays) = match fate {
                "endpoint-vanished" => (endpoint, client),
                _ => (client, endpoint),
            };
            vanish(&gone);
            let began = Instant::now();
            stays.write_all(b"request").await.unwrap();
            let heard = stays.read(&mut [0]).await;
            assert!(heard.is_err(), "it must not look ended: {heard:?}");
            assert!(began.elapsed() >= silence, "too soon: {:?}", began.elapsed());
            until(|| door.sample("weft_gateway_connections_open") == 0).await;
            door.counted(&[("passed", 1), (fate, 1)]);
        }
    });
}

#[test]
fn a_side_that_takes_nothing_for_long_is_left_alone() {
    story(async {
        let silence = Duration::from_millis(600);
        for slow in ["endpoint", "client"] {
            let (door, client, endpoint) = without_tls(silence / H1_PATIENCE, Hop::H1).await;
            let (mut takes, mut says) = match slow {
                "endpoint" => (endpoint, client),
                _ => (client, endpoint),
            };
            // As much as there is room for, for several times as long as somebody who has vanished would have.
            let mut sent = 0;
            let full = async {
                loop {
                    sent += says.write(&[7; 1 << 16]).await.unwrap();
                }
            };
            tokio::time::timeout(silence * 5, full).await.unwrap_err();
            says.shutdown().await.unwrap();
            let mut all = Vec::new();
            takes.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), sent, "{slow}");
            door.counted(&[("passed", 1)]);
        }
    });
}
