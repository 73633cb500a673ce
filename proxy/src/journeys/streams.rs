//! Opaque streams, from an app through two proxies to an app.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::{Lookup, Protocol};

use super::world::*;

/// An app that greets, then echoes until the client ends.
pub(super) async fn echo(greeting: &'static str) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                socket.write_all(greeting.as_bytes()).await.unwrap();
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
        }
    });
    address
}

#[test]
fn a_client_that_speaks_first_and_half_closes_gets_everything_back() {
    story(async {
        let world = World::new();
        let server = world
            .told("reviews")
            .strict()
            .start(echo("").await, nobody().await)
            .await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        let sent = vec![7_u8; 300_000];
        let (mut read, mut write) = socket.split();
        let mut back = Vec::new();
        let (_, wrote) = tokio::join!(read.read_to_end(&mut back), async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await
        });
        wrote.unwrap();
        assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
        let counted = server.metrics();
        assert!(counted.contains("weft_tcp_bytes_total{"), "{counted}");
    });
}

#[test]
fn a_server_that_speaks_first_needs_no_annotation_and_little_time() {
    story(async {
        let world = World::new();
        let server = world
            .told("reviews")
            .start(echo("220 hello\r\n").await, nobody().await)
            .await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        for round in 0..2 {
            let begun = Instant::now();
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            let mut greeting = [0; 11];
            socket.read_exact(&mut greeting).await.unwrap();
            assert_eq!(&greeting, b"220 hello\r\n");
            assert!(
                begun.elapsed() < Duration::from_millis(500),
                "round {round} took {:?}",
                begun.elapsed()
            );
            socket.write_all(b"EHLO\r\n").await.unwrap();
            let mut back = [0; 6];
            socket.read_exact(&mut back).await.unwrap();
        }
    });
}

#[test]
fn a_declared_opaque_port_carries_http_as_bytes() {
    story(async {
        let world = World::new();
        // By its own Service: a caller's word would not do.
        let opaque = echo("").await;
        let mut told = world.told("reviews");
        told.declare(opaque.port(), Protocol::Opaque);
        let server = told.start(opaque, nobody().await).await;
        let mut told = world.told("web");
        told.service(Protocol::Opaque, None);
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        socket.write_all(request).await.unwrap();
        let mut back = vec![0; request.len()];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(back, request);
    });
}

#[test]
fn what_is_not_of_the_mesh_is_passed_through() {
    story(async {
        let world = World::new();
        let outside = echo("").await;
        let mut told = world.told("web");
        told.lookup(
            &outside.to_string(),
            Lookup::Outside {
                ttl: Duration::from_secs(60),
            },
        );
        let client = told.start("127.0.0.9:1".parse().unwrap(), outside).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    });
}

#[test]
fn foreign_tls_passes_where_plaintext_may() {
    story(async {
        let server = World::new().told("reviews").start(echo("").await, nobody().await).await;
        let hello = foreign_hello();
        let mut socket = TcpStream::connect(server.inbound).await.unwrap();
        for byte in hello.chunks(700) {
            socket.write_all(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut back = vec![0; hello.len()];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(back, hello, "the app sees its own TLS, untouched");
    });
}

/// A real ClientHello without a token of the mesh.
fn foreign_hello() -> Vec<u8> {
    let world = World::of("elsewhere");
    let config = world.credential("x").client_config(&[b"h2"]);
    let mut session = rustls::ClientConnection::new(config, "elsewhere.example".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes
}

/// Passes a stream on, the first bytes of the client one at a time and after a pause.
async fn trickle(to: SocketAddr, pause: Duration) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            server.set_nodelay(true).unwrap();
            spawn_local(async move {
                tokio::time::sleep(pause).await;
                for _ in 0..1_200 {
                    let byte = client.read_u8().await.unwrap();
                    server.write_u8(byte).await.unwrap();
                    tokio::task::yield_now().await;
                }
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[test]
fn the_meshs_hello_is_read_across_segments_and_however_late_it_comes() {
    story(async {
        let world = World::new();
        let app = app("reviews").await;
        let server = world.told("reviews").patient().start(app, nobody().await).await;
        // Longer than a silence that means something: by then the app has been dialled as well.
        for pause in [Duration::ZERO, Duration::from_millis(120)] {
            let slow = trickle(server.inbound, pause).await;
            let mut told = world.told("web");
            told.patient();
            told.endpoints("all", vec![world.endpoint(1, slow, Some("reviews"))]);
            let client = told.start(nobody().await, VIP.parse().unwrap()).await;
            let answer = Client::to(client.outbound).await.get("/").await.unwrap();
            assert!(answer.body.contains("x-forwarded-client-cert"), "{pause:?}: {answer:?}");
        }
    });
}

#[test]
fn a_stream_to_our_own_pod_is_handed_over_in_process() {
    story(async {
        let world = World::new();
        let own = echo("220 hello\r\n").await;
        let mut told = world.told("web");
        told.strict();
        let endpoint = weft_model::endpoint::Endpoint {
            address: own,
            pod: format!("pod-of-{own}"),
            ..weft_model::endpoint::Endpoint::clone(&world.endpoint(1, own, Some("web")))
        };
        told.endpoints("all", vec![std::sync::Arc::new(endpoint)]);
        let pod = told.start(own, VIP.parse().unwrap()).await;
        let mut socket = TcpStream::connect(pod.outbound).await.unwrap();
        let mut greeting = [0; 11];
        socket.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        assert!(
            pod.metrics()
                .contains("weft_tcp_connections_opened_total{direction=\"inbound\",source_workload=\"web\"")
        );
    });
}

#[test]
fn declared_ports_of_a_pod_are_what_they_are_declared() {
    story(async {
        let world = World::new();
        let opaque = echo("").await;
        let mut told = world.told("reviews");
        told.declare(opaque.port(), Protocol::Opaque);
        let server = told.start(opaque, nobody().await).await;
        let mut socket = TcpStream::connect(server.inbound).await.unwrap();
        let request = b"GET / HTTP/1.1\r\n\r\n";
        socket.write_all(request).await.unwrap();
        let mut back = vec![0; request.len()];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(back, request);

        let http = app("reviews").await;
        let mut told = world.told("reviews");
        told.declare(http.port(), Protocol::Http);
        let server = told.start(http, nobody().await).await;
        assert_eq!(Client::to(server.inbound).await.get("/").await.unwrap().status, 200);
        let mut socket = TcpStream::connect(server.inbound).await.unwrap();
        socket.write_all(&[0, 1, 2]).await.unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
        assert_eq!(server.refusals(weft_model::reason::Reason::NotHttp), 1);
    });
}

#[test]
fn a_connections_future_stays_small() {
    story(async {
        let pod = World::new()
            .told("web")
            .start(nobody().await, VIP.parse().unwrap())
            .await;
        let socket = async || TcpStream::connect(pod.inbound).await.unwrap();
        let from = pod.inbound;
        let slot = crate::accept::Slots::new(
            1,
            crate::observe::metrics::Direction::Inbound,
            pod.worker.metrics.clone(),
        )
        .take();
        let inbound = std::mem::size_of_val(&crate::inbound::serve(&pod.worker, socket().await, from, &slot));
        let outbound = std::mem::size_of_val(&crate::outbound::serve(&pod.worker, socket().await, from));
        assert!(
            inbound <= 4096 && outbound <= 4096,
            "inbound {inbound}, outbound {outbound} bytes"
        );
    });
}

/// An endpoint that is the very pod whose app is at `own`.
fn this_pod(world: &World, own: SocketAddr) -> std::sync::Arc<weft_model::endpoint::Endpoint> {
    std::sync::Arc::new(weft_model::endpoint::Endpoint {
        address: own,
        pod: format!("pod-of-{own}"),
        ..weft_model::endpoint::Endpoint::clone(&world.endpoint(1, own, Some("web")))
    })
}

#[test]
fn where_our_own_app_is_down_another_endpoint_answers() {
    story(async {
        let world = World::new();
        let other = world.told("reviews").start(app("other").await, nobody().await).await;
        let greeting = world
            .told("reviews")
            .start(echo("220 hello\r\n").await, nobody().await)
            .await;
        let own = nobody().await;
        for round in 0..4 {
            let mut told = world.told("web");
            told.service(Protocol::Http, None);
            let there = world.endpoint(2, other.inbound, Some("reviews"));
            told.endpoints("all", vec![this_pod(&world, own), there]);
            let pod = told.start(own, VIP.parse().unwrap()).await;
            let answer = Client::to(pod.outbound).await.get("/").await.unwrap();
            assert!(answer.body.starts_with("other\n"), "round {round}: {answer:?}");

            let mut told = world.told("web");
            told.service(Protocol::Opaque, None);
            let there = world.endpoint(2, greeting.inbound, Some("reviews"));
            told.endpoints("all", vec![this_pod(&world, own), there]);
            let pod = told.start(own, VIP.parse().unwrap()).await;
            let mut socket = TcpStream::connect(pod.outbound).await.unwrap();
            let mut hello = [0; 11];
            socket.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"220 hello\r\n");
        }
    });
}

#[test]
fn http_that_a_peer_sends_as_bytes_to_an_http_port_is_http() {
    story(async {
        let world = World::new();
        let http = app("reviews").await;
        let mut told = world.told("reviews");
        told.declare(http.port(), Protocol::Http);
        let server = told.start(http, nobody().await).await;
        let mut told = world.told("web");
        told.service(Protocol::Opaque, None);
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let forged = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://demo/ns/a/sa/b\r\n\r\n";
        let answer = Client::to(client.outbound).await.send(forged).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("URI=spiffe://demo/ns/a/sa/b"), "{answer:?}");
        assert!(
            answer.body.contains("URI=spiffe://demo.weft.internal/ns/shop/sa/web"),
            "{answer:?}"
        );

        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(&[0, 1, 2]).await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
        assert_eq!(server.refusals(weft_model::reason::Reason::NotHttp), 1);
    });
}

#[test]
fn a_hello_that_is_late_gets_no_greeting_in_plaintext() {
    story(async {
        let world = World::new();
        let server = world
            .told("reviews")
            .patient()
            .start(echo("220 hello\r\n").await, nobody().await)
            .await;
        // As if the first segment had been lost.
        let slow = trickle(server.inbound, Duration::from_millis(300)).await;
        let mut told = world.told("web");
        told.patient();
        told.service(Protocol::Opaque, None);
        told.endpoints("all", vec![world.endpoint(1, slow, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        let mut greeting = [0; 11];
        socket.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
    });
}

#[test]
fn who_may_not_speak_any_more_once_the_first_bytes_are_there_is_not_let_in() {
    story(async {
        let silent = listen().await;
        let server = World::new()
            .told("reviews")
            .start(silent.local_addr().unwrap(), nobody().await)
            .await;
        let mut socket = TcpStream::connect(server.inbound).await.unwrap();
        // It was admitted, and the app dialled to see who speaks first.
        let (mut trial, _) = silent.accept().await.unwrap();
        server.tell(|told| _ = told.strict()).await;
        socket.write_all(&[0, 1, 2]).await.unwrap();
        let mut rest = Vec::new();
        let _ = trial.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
        assert_eq!(server.refusals(weft_model::reason::Reason::PlaintextRefused), 1);
    });
}

#[test]
fn declared_bytes_pass_whatever_they_look_like() {
    story(async {
        for pause in [Duration::ZERO, Duration::from_millis(1500)] {
            let world = World::new();
            let silent = listen().await;
            let at = silent.local_addr().unwrap();
            let mut told = world.told("reviews");
            told.declare(at.port(), Protocol::Opaque);
            let server = told.start(at, nobody().await).await;
            let mut socket = TcpStream::connect(server.inbound).await.unwrap();
            tokio::time::sleep(pause).await;
            socket.write_all(b"hello").await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            socket.write_all(b" / HTTP/1.1\r\n\r\n").await.unwrap();
            socket.shutdown().await.unwrap();
            let (mut app, _) = silent.accept().await.unwrap();
            let mut seen = Vec::new();
            app.read_to_end(&mut seen).await.unwrap();
            assert_eq!(seen, b"hello / HTTP/1.1\r\n\r\n", "{pause:?}");
        }
    });
}
