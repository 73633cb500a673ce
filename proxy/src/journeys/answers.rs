//! Whether an app took an opaque stream, said between two proxies: another endpoint where not a byte reached one.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::Protocol;
use weft_model::name::ObjectRef;
use weft_model::policy::Policy;
use weft_model::reason::Reason;

use super::world::*;
use crate::io::Io;
use crate::mtls::{self, Hello};

/// What an app has heard, by connection, once each has ended.
type Heard = Rc<RefCell<Vec<Vec<u8>>>>;

/// An app that reads until the client ends, then says how much it was.
async fn listener_app() -> (SocketAddr, Heard) {
    let (listener, heard) = (listen().await, Heard::default());
    let (address, all) = (listener.local_addr().unwrap(), heard.clone());
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let all = all.clone();
            spawn_local(async move {
                let mut bytes = Vec::new();
                let _ = socket.read_to_end(&mut bytes).await;
                let _ = socket.write_all(format!("{}", bytes.len()).as_bytes()).await;
                all.borrow_mut().push(bytes);
            });
        }
    });
    (address, heard)
}

/// A client whose service, of a protocol, has these inbound sides as its endpoints.
async fn client_of(world: &World, protocol: Protocol, endpoints: &[SocketAddr]) -> Pod {
    let mut told = world.told("web");
    told.service(protocol, None);
    let endpoint = |(n, at): (usize, &SocketAddr)| world.endpoint(n as u64, *at, Some("reviews"));
    told.endpoints("all", endpoints.iter().enumerate().map(endpoint).collect());
    told.start(nobody().await, VIP.parse().unwrap()).await
}

#[test]
fn a_stream_whose_app_is_gone_goes_to_another_endpoint_with_every_byte_once() {
    story(async {
        let world = World::new();
        let (address, heard) = listener_app().await;
        let well = world.told("reviews").strict().start(address, nobody().await).await;
        let gone = [
            world
                .told("reviews")
                .strict()
                .start(nobody().await, nobody().await)
                .await,
            world
                .told("reviews")
                .strict()
                .start(nobody().await, nobody().await)
                .await,
        ];
        let endpoints = [gone[0].inbound, gone[1].inbound, well.inbound];
        let mut sent = Vec::new();
        for round in 0..12_usize {
            // Undeclared as well: what a client says at once is known to be opaque before anything is dialled.
            let protocol = [Protocol::Opaque, Protocol::Undeclared][round % 2];
            let client = client_of(&world, protocol, &endpoints).await;
            let length = [1, 5_000, 300_000][round % 3];
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251 + round) as u8 & 0x7f | 0x80).collect();
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, length.to_string(), "round {round}");
            sent.push(bytes);
            let up = format!("flow=\"up\"}} {length}");
            assert!(client.metrics().contains(&up), "{up} in {}", client.metrics());
        }
        assert!(*heard.borrow() == sent, "each once, each whole, in order");
        let refused: u64 = gone.iter().map(|pod| pod.refusals(Reason::AppUnreachable)).sum();
        assert!(refused > 0, "no client was unlucky");
    });
}

#[test]
fn a_silent_client_hears_the_greeting_of_another_endpoint() {
    story(async {
        let world = World::new();
        let greeter = listen().await;
        let well = world
            .told("reviews")
            .start(greeter.local_addr().unwrap(), nobody().await)
            .await;
        spawn_local(async move {
            loop {
                let (mut socket, _) = greeter.accept().await.unwrap();
                socket.write_all(b"220 hello\r\n").await.unwrap();
            }
        });
        let gone = world.told("reviews").start(nobody().await, nobody().await).await;
        for round in 0..12 {
            let protocol = [Protocol::Opaque, Protocol::Undeclared][round % 2];
            let client = client_of(&world, protocol, &[gone.inbound, well.inbound]).await;
            let begun = Instant::now();
            let mut greeting = [0; 11];
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"220 hello\r\n");
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        }
        assert!(gone.refusals(Reason::AppUnreachable) > 0, "no client was unlucky");
    });
}

#[test]
fn an_endpoint_whose_app_is_gone_is_left_alone() {
    story(async {
        let world = World::new();
        let (address, _heard) = listener_app().await;
        let well = world.told("reviews").start(address, nobody().await).await;
        let gone = world.told("reviews").start(nobody().await, nobody().await).await;
        let client = client_of(&world, Protocol::Opaque, &[gone.inbound, well.inbound]).await;
        let begun = Instant::now();
        for _ in 0..40 {
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.write_all(&[0]).await.unwrap();
            socket.shutdown().await.unwrap();
            assert_eq!(socket.read_to_end(&mut Vec::new()).await.unwrap(), 1);
        }
        // An ejection lasts longer than this.
        let ejections = 1 + begun.elapsed().as_millis() as u64 / 350;
        let tried = gone.refusals(Reason::AppUnreachable);
        assert!(
            (1..=ejections).contains(&tried),
            "{tried} times in {:?}",
            begun.elapsed()
        );
        let metrics = client.metrics();
        let ejected =
            |line: &str| line.starts_with("weft_endpoint_ejections_total{") && line.contains("app-unreachable");
        assert!(metrics.lines().any(ejected), "{metrics}");
    });
}

#[test]
fn a_stream_that_an_app_has_taken_is_never_tried_again() {
    story(async {
        let world = World::new();
        let taken = Rc::new(Cell::new(0));
        let mut pods = Vec::new();
        for hears in [true, false] {
            let app = listen().await;
            let address = app.local_addr().unwrap();
            let taken = taken.clone();
            spawn_local(async move {
                loop {
                    let (mut socket, _) = app.accept().await.unwrap();
                    taken.set(taken.get() + 1);
                    if hears {
                        let _ = socket.read_u8().await;
                    }
                }
            });
            pods.push(world.told("reviews").start(address, nobody().await).await);
        }
        let endpoints: Vec<_> = pods.iter().map(|pod| pod.inbound).collect();
        let client = client_of(&world, Protocol::Opaque, &endpoints).await;
        for round in 1..=20 {
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.write_all(b"hello").await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
            assert_eq!(taken.get(), round, "an app has taken it and closed");
        }
    });
}

#[test]
fn a_stream_that_no_app_takes_is_closed_and_counted() {
    story(async {
        let world = World::new();
        let gone = [
            world.told("reviews").start(nobody().await, nobody().await).await,
            world.told("reviews").start(nobody().await, nobody().await).await,
        ];
        let client = client_of(&world, Protocol::Opaque, &[gone[0].inbound, gone[1].inbound]).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(&[0, 1, 2]).await.unwrap();
        let mut rest = Vec::new();
        let ended = socket.read_to_end(&mut rest).await;
        assert!(
            ended.is_err() && rest.is_empty(),
            "an orderly end would look as if all had been said"
        );
        assert_eq!(client.refusals(Reason::AppUnreachable), 1);
        for pod in &gone {
            assert_eq!(pod.refusals(Reason::AppUnreachable), 1);
        }
        assert!(!client.metrics().contains("weft_tcp_connections_opened_total{"));
        // What can hear why is told.
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert!(
            answer.status == 502 && answer.head.contains("app-unreachable"),
            "{answer:?}"
        );
    });
}

#[test]
fn a_stream_that_is_not_admitted_is_refused_and_tried_nowhere_else() {
    story(async {
        let world = World::new();
        let (address, heard) = listener_app().await;
        let object = ObjectRef {
            kind: "AccessPolicy".into(),
            namespace: "shop".into(),
            name: "x".into(),
        };
        let policy = Policy {
            object,
            missing: vec![],
            ports: vec![],
        };
        let mut told = world.told("reviews");
        told.inbound(|inbound| inbound.policies.push(policy));
        let pods = [
            told.start(address, nobody().await).await,
            told.start(address, nobody().await).await,
        ];
        let client = client_of(&world, Protocol::Opaque, &[pods[0].inbound, pods[1].inbound]).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(&[0, 1, 2]).await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
        let tried: u64 = pods.iter().map(|pod| pod.refusals(Reason::PolicyUnsupported)).sum();
        assert_eq!((tried, client.refusals(Reason::PolicyUnsupported)), (1, 1));
        assert!(heard.borrow().is_empty());
        assert!(!client.metrics().contains("weft_endpoint_ejections_total{"));
    });
}

/// A peer of the right identity whose proxy ends without an answer. Counts how often.
async fn mute_peer(world: &World) -> (SocketAddr, Rc<Cell<u32>>) {
    let (listener, count) = (listen().await, Rc::new(Cell::new(0)));
    let address = listener.local_addr().unwrap();
    let (credential, counted) = (world.credential("reviews"), count.clone());
    spawn_local(async move {
        let second = Duration::from_secs(1);
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut io = Io::plain(socket);
            let Ok(Hello::Mesh) = mtls::hello(&mut io, second, second).await else {
                continue;
            };
            let Ok(mut terminated) = mtls::terminate(io, &credential, second).await else {
                continue;
            };
            counted.set(counted.get() + 1);
            // Long enough for a client that says something at once.
            let _ = tokio::time::timeout(second / 5, terminated.io.read_u8()).await;
        }
    });
    (address, count)
}

#[test]
fn an_endpoint_that_ends_without_an_answer_is_replaced_only_where_nothing_was_written() {
    story(async {
        let world = World::new();
        let ((mute, muted), (another, also)) = (mute_peer(&world).await, mute_peer(&world).await);
        let (address, heard) = listener_app().await;
        let well = world.told("reviews").start(address, nobody().await).await;
        // With something written: it ends with the first.
        let client = client_of(&world, Protocol::Opaque, &[mute, another]).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(b"hello").await.unwrap();
        let mut rest = Vec::new();
        assert!(socket.read_to_end(&mut rest).await.is_err() && rest.is_empty());
        assert_eq!(muted.get() + also.get(), 1);
        assert_eq!(client.refusals(Reason::UpstreamClosed), 1);

        // With nothing written: the other one.
        for _ in 0..8 {
            let client = client_of(&world, Protocol::Opaque, &[mute, well.inbound]).await;
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "0");
        }
        assert!(muted.get() > 1, "no client was unlucky");
        assert_eq!(heard.borrow().len(), 8);
    });
}

#[test]
fn an_impostor_gets_no_byte_and_its_answer_is_not_heard() {
    story(async {
        let world = World::new();
        let (address, heard) = listener_app().await;
        // Another service account, and one of another authority under the same name.
        let other = world.told("ratings").start(address, nobody().await).await;
        let foreign = World::new().told("reviews").start(address, nobody().await).await;
        for impostor in [&other, &foreign] {
            let client = client_of(&world, Protocol::Opaque, &[impostor.inbound]).await;
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.write_all(b"secret").await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
            assert!(client.refusals(Reason::IdentityMismatch) >= 1);
        }
        assert!(heard.borrow().is_empty(), "{heard:?}");
    });
}

/// An app that says `imok` to each four bytes, as ZooKeeper does to `ruok`; and what it has heard.
async fn zookeeper() -> (SocketAddr, Rc<RefCell<Vec<u8>>>) {
    let (listener, heard) = (listen().await, Rc::new(RefCell::new(Vec::new())));
    let (address, all) = (listener.local_addr().unwrap(), heard.clone());
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let all = all.clone();
            spawn_local(async move {
                let mut word = [0; 4];
                while socket.read_exact(&mut word).await.is_ok() {
                    all.borrow_mut().extend(word);
                    let _ = socket.write_all(b"imok").await;
                }
            });
        }
    });
    (address, heard)
}

#[test]
fn a_word_without_an_end_is_answered_on_a_port_of_which_nothing_is_declared() {
    story(async {
        let world = World::new();
        let (address, heard) = zookeeper().await;
        let server = world.told("reviews").start(address, nobody().await).await;
        let client = client_of(&world, Protocol::Undeclared, &[server.inbound]).await;
        // Through both proxies, and from a stranger.
        for at in [client.outbound, server.inbound] {
            let begun = Instant::now();
            let mut socket = TcpStream::connect(at).await.unwrap();
            socket.write_all(b"ruok").await.unwrap();
            let mut answer = [0; 4];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"imok");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

            // A request is not smuggled past the codec by a pause.
            heard.borrow_mut().clear();
            let mut socket = TcpStream::connect(at).await.unwrap();
            socket.write_all(b"EVIL").await.unwrap();
            socket.read_exact(&mut answer).await.unwrap();
            let forged = b" / HTTP/1.1\r\nx-forwarded-client-cert: URI=spiffe://a/ns/b/sa/c\r\n\r\n";
            socket.write_all(forged).await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "{rest:?}");
            assert_eq!(*heard.borrow(), b"EVIL");
        }
        for pod in [&client, &server] {
            let metrics = pod.metrics();
            let broken = |line: &str| {
                line.starts_with("weft_tcp_connections_closed_total{") && line.contains("reason=\"bad-request\"")
            };
            assert!(metrics.lines().any(broken), "{metrics}");
        }
    });
}

#[test]
fn a_slow_clients_request_is_http_still() {
    story(async {
        let world = World::new();
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let client = client_of(&world, Protocol::Undeclared, &[server.inbound]).await;
        for at in [client.outbound, server.inbound] {
            let mut slow = Client::to(at).await;
            for piece in [&b"G"[..], b"E", b"T", b" ", b"/ H"] {
                slow.socket.write_all(piece).await.unwrap();
                // Longer than a pause that means something elsewhere.
                tokio::time::sleep(Duration::from_millis(120)).await;
            }
            let answer = slow.send("TTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
            assert!(
                answer.status == 200 && answer.body.starts_with("reviews\n"),
                "{answer:?}"
            );
        }
    });
}
