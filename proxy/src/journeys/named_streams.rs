//! Opaque streams that routes send to one backend or another: by weight, and by the server name of the app's own TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::{Protocol, Service};
use weft_model::name::ObjectRef;
use weft_model::route::Rules;
use weft_model::stream::{StreamRule, Streams};

use super::routes::backend;
use super::world::*;

/// An app that says its name, once anything has come.
async fn named(name: &'static [u8]) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut first = [0; 1];
                if socket.read_exact(&mut first).await.is_ok() {
                    let _ = socket.write_all(name).await;
                }
            });
        }
    });
    address
}

fn rule(host: Option<&str>, backends: &[(u32, Option<&str>)]) -> Arc<StreamRule> {
    Arc::new(StreamRule {
        route: ObjectRef {
            kind: "TLSRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: "r".to_owned(),
        },
        index: 0,
        name: String::new(),
        host: host.map(str::to_owned),
        backends: backends.iter().map(|(weight, key)| backend(*weight, *key)).collect(),
    })
}

/// A client whose Service has these rules, and the backends `a` and `b`.
async fn client(world: &World, protocol: Protocol, rules: Vec<Arc<StreamRule>>) -> Pod {
    let mut told = world.told("web");
    told.service(protocol, None);
    let mut service = Service::clone(&told.state.services["reviews"].value);
    service.streams = Some(Streams { rules });
    told.state.services.insert("reviews".into(), held(service));
    told.endpoints("all", Vec::new());
    told.endpoints("a", vec![world.endpoint(1, named(b"a").await, None)]);
    told.endpoints("b", vec![world.endpoint(2, named(b"b").await, None)]);
    told.start(nobody().await, VIP.parse().unwrap()).await
}

/// The name of who answers to these first bytes. `None`: nobody does.
async fn answers(client: &Pod, first: &[u8]) -> Option<u8> {
    answers_late(client, Duration::ZERO, first).await
}

/// The same, of a client that is silent first.
async fn answers_late(client: &Pod, pause: Duration, first: &[u8]) -> Option<u8> {
    let mut socket = TcpStream::connect(client.outbound).await.unwrap();
    tokio::time::sleep(pause).await;
    // Whoever was turned away meanwhile cannot be told anything.
    socket.write_all(first).await.ok()?;
    socket.read_u8().await.ok()
}

/// The ClientHello of an app's own TLS.
fn hello(name: &'static str) -> Vec<u8> {
    let world = World::of("elsewhere");
    let config = world.credential("x").client_config(&[b"h2"]);
    let mut session = rustls::ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn streams_are_split_by_weight_and_the_share_of_a_backend_that_is_not_there_is_closed() {
    story(async {
        let world = World::new();
        let backends = [(3, Some("a")), (1, Some("b")), (0, Some("a"))];
        let split = client(&world, Protocol::Opaque, vec![rule(None, &backends)]).await;
        let mut hits = [0; 2];
        for _ in 0..80 {
            match answers(&split, b"x").await {
                Some(b'a') => hits[0] += 1,
                Some(b'b') => hits[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!((45..75).contains(&hits[0]), "{hits:?}");
        let nowhere = client(&world, Protocol::Opaque, vec![rule(None, &[(1, None)])]).await;
        assert_eq!(answers(&nowhere, b"x").await, None);
        let counted = nowhere.metrics();
        assert!(counted.contains("backend-unresolved"), "{counted}");
    });
}

#[test]
fn the_server_name_of_the_apps_own_tls_decides_and_what_fits_no_rule_is_closed() {
    story(async {
        let world = World::new();
        let rules = vec![
            rule(Some("a.example"), &[(1, Some("a"))]),
            rule(Some("*.example"), &[(1, Some("b"))]),
        ];
        let client = client(&world, Protocol::Tls, rules).await;
        assert_eq!(answers(&client, &hello("a.example")).await, Some(b'a'));
        assert_eq!(answers(&client, &hello("c.example")).await, Some(b'b'));
        assert_eq!(answers(&client, &hello("a.example.org")).await, None);
        assert_eq!(answers(&client, b"no TLS at all").await, None);
        let counted = client.metrics();
        assert!(counted.contains("no-route"), "{counted}");
    });
}

#[test]
fn a_rule_for_any_stream_takes_what_names_no_server() {
    story(async {
        let world = World::new();
        let rules = vec![
            rule(Some("a.example"), &[(1, Some("a"))]),
            rule(None, &[(1, Some("b"))]),
        ];
        let client = client(&world, Protocol::Tls, rules).await;
        assert_eq!(answers(&client, b"no TLS at all").await, Some(b'b'));
        assert_eq!(answers(&client, &hello("other.example")).await, Some(b'b'));
        assert_eq!(answers(&client, &hello("a.example")).await, Some(b'a'));
    });
}

/// Longer than detection waits for a client, shorter than a hello may take.
const SLOW: Duration = Duration::from_millis(200);
/// Longer than that.
const SLOWER: Duration = Duration::from_millis(800);

#[test]
fn a_hello_that_is_late_goes_where_its_name_leads() {
    story(async {
        let world = World::new();
        for protocol in [Protocol::Tls, Protocol::Undeclared] {
            let named = || rule(Some("a.example"), &[(1, Some("a"))]);
            let only = client(&world, protocol, vec![named()]).await;
            for pause in [SLOW, SLOWER] {
                let answer = answers_late(&only, pause, &hello("a.example")).await;
                assert_eq!(answer, Some(b'a'), "{protocol:?} {pause:?}");
            }
            let beside = client(&world, protocol, vec![named(), rule(None, &[(1, Some("b"))])]).await;
            assert_eq!(answers_late(&beside, SLOW, &hello("a.example")).await, Some(b'a'));
            assert_eq!(answers_late(&beside, SLOW, &hello("b.example")).await, Some(b'b'));
            // Deny: who says no name has to be in time, and goes nowhere where nothing is for it.
            assert_eq!(answers_late(&only, SLOW, b"no TLS").await, None);
        }
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_beside_names_once_no_hello_is_to_come() {
    story(async {
        let world = World::new();
        for protocol in [Protocol::Tls, Protocol::Undeclared] {
            let greeter = listen().await;
            let address = greeter.local_addr().unwrap();
            let rules = vec![
                rule(Some("a.example"), &[(1, Some("a"))]),
                rule(None, &[(1, Some("b"))]),
            ];
            let client = client(&world, protocol, rules).await;
            let there = vec![world.endpoint(3, address, None)];
            client.tell(|told| _ = told.endpoints("b", there)).await;
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            let (mut app, _) = greeter.accept().await.unwrap();
            app.write_all(b"220 hello\r\n").await.unwrap();
            let mut greeting = [0; 11];
            socket.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"220 hello\r\n");
        }
    });
}

#[test]
fn a_slow_request_is_one_beside_rules_by_name() {
    story(async {
        let world = World::new();
        let reviews = app("reviews").await;
        let mut told = world.told("web");
        let backends = vec![backend(1, Some("all"))];
        let rules = Rules {
            rules: vec![super::routes::rule(super::routes::prefix("/"), backends)],
        };
        told.service(Protocol::Undeclared, Some(rules));
        let mut service = Service::clone(&told.state.services["reviews"].value);
        let by_name = vec![rule(Some("a.example"), &[(1, Some("a"))])];
        service.streams = Some(Streams { rules: by_name });
        told.state.services.insert("reviews".into(), held(service));
        told.endpoints("all", vec![world.endpoint(1, reviews, None)]);
        told.endpoints("a", vec![world.endpoint(2, named(b"a").await, None)]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        for pause in [Duration::ZERO, SLOW, SLOWER] {
            let mut connection = Client::to(client.outbound).await;
            tokio::time::sleep(pause).await;
            let answer = connection.get("/").await.expect("it is waited for");
            assert!(answer.body.starts_with("reviews\n"), "{pause:?}: {answer:?}");
            assert_eq!(answers_late(&client, pause, &hello("a.example")).await, Some(b'a'));
        }
    });
}
