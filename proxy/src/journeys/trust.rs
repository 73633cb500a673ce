//! Roots that are taken away while connections last: whoever none vouches for any more is not heard, and not told anything.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_model::destination::Protocol;
use weft_model::reason::Reason;

use super::streams::echo;
use super::world::*;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_connection_ends_when_no_root_vouches_for_its_peer_any_more() {
    story(async {
        let world = World::new();
        let server = world.told("reviews").start(echo("").await, nobody().await).await;
        let http = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let (mut sockets, mut clients) = (vec![], vec![]);
        for (protocol, inbound) in [(Protocol::Opaque, server.inbound), (Protocol::Http, http.inbound)] {
            let mut told = world.told("web");
            told.service(protocol, None);
            told.endpoints("all", vec![world.endpoint(1, inbound, Some("reviews"))]);
            let client = told.start(nobody().await, VIP.parse().unwrap()).await;
            sockets.push(TcpStream::connect(client.outbound).await.unwrap());
            clients.push(client);
        }
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut back = [0; 4];
        for socket in &mut sockets {
            socket.write_all(request).await.unwrap();
            socket.read_exact(&mut back).await.unwrap();
        }
        // A root beside the old one, as when roots are rotated: whoever is vouched for stays.
        for pod in [&server, &http] {
            pod.tell(|told| told.trust(2, &[&world, &World::new()])).await;
        }
        let again = sockets.first_mut().unwrap();
        let mut rest = vec![0; request.len() - back.len()];
        again.read_exact(&mut rest).await.unwrap();
        again.write_all(request).await.unwrap();
        again.read_exact(&mut back).await.unwrap();
        // The old one is taken away.
        for pod in [&server, &http] {
            pod.tell(|told| told.trust(3, &[&World::new()])).await;
        }
        let mut all = Vec::new();
        let _ = again.read_to_end(&mut all).await;
        for pod in [&server, &http] {
            while pod.refusals(Reason::TlsFailed) == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn a_stream_ends_when_no_root_vouches_for_its_endpoint_any_more() {
    story(async {
        let world = World::new();
        let server = world.told("reviews").start(echo("").await, nobody().await).await;
        let mut told = world.told("web");
        told.service(Protocol::Opaque, None);
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        let mut back = [0; 2];
        for generation in [2, 3] {
            socket.write_all(b"hi").await.unwrap();
            socket.read_exact(&mut back).await.unwrap();
            client
                .tell(|told| told.trust(generation, &[&world, &World::new()]))
                .await;
        }
        client.tell(|told| told.trust(4, &[&World::new()])).await;
        let _ = socket.read_to_end(&mut Vec::new()).await;
        assert_eq!(client.refusals(Reason::TlsFailed), 1);
    });
}

#[test]
fn a_silent_stream_of_a_peer_ends_with_its_root_and_what_it_says_then_reaches_no_app() {
    story(async {
        for _ in 0..8 {
            let world = World::new();
            let silent = listen().await;
            let at = silent.local_addr().unwrap();
            let server = world.told("reviews").strict().start(at, nobody().await).await;
            let mut told = world.told("web");
            told.service(Protocol::Opaque, None);
            told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
            let client = told.start(nobody().await, VIP.parse().unwrap()).await;
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            let (mut app, _) = silent.accept().await.unwrap();
            server.tell(|told| told.trust(3, &[&World::new()])).await;
            // It may be closed by now.
            let _ = socket.write_all(&[0, 1, 2, 3]).await;
            let mut seen = Vec::new();
            let _ = timeout(SOON, app.read_to_end(&mut seen)).await.expect("it ends");
            assert_eq!(seen, b"");
            let _ = timeout(SOON, socket.read_to_end(&mut seen)).await.expect("it ends");
        }
    });
}

#[test]
fn a_stream_that_is_cut_because_of_a_root_never_looks_whole() {
    story(async {
        for at_the_server in [true, false] {
            let world = World::new();
            let listener = listen().await;
            let at = listener.local_addr().unwrap();
            let server = world.told("reviews").start(at, nobody().await).await;
            let mut told = world.told("web");
            told.service(Protocol::Opaque, None);
            told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
            let client = told.start(nobody().await, VIP.parse().unwrap()).await;
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.write_all(&[1; 14]).await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            let mut half = [0; 14];
            app.read_exact(&mut half).await.unwrap();
            app.write_all(&half).await.unwrap();
            socket.read_exact(&mut half).await.unwrap();
            let (pod, end) = if at_the_server {
                (&server, &mut app)
            } else {
                (&client, &mut socket)
            };
            pod.tell(|told| told.trust(3, &[&World::new()])).await;
            let read = timeout(SOON, end.read(&mut half)).await.expect("it ends");
            assert!(read.is_err(), "at the server: {at_the_server}: {read:?}");
        }
    });
}

#[test]
fn an_answer_of_http1_is_cut_with_the_root_of_whoever_sends_it() {
    story(async {
        let world = World::new();
        let listener = listen().await;
        let at = listener.local_addr().unwrap();
        let server = world.told("reviews").start(at, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        read_head(&mut app, &mut Vec::new()).await.expect("the request");
        app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nAAAAA")
            .await
            .unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"AAAAA") {
            socket.read_buf(&mut seen).await.unwrap();
        }
        client.tell(|told| told.trust(3, &[&World::new()])).await;
        let _ = app.write_all(b"BBBBB").await;
        let _ = timeout(SOON, socket.read_to_end(&mut seen)).await.expect("it ends");
        assert!(seen.ends_with(b"AAAAA"), "{:?}", String::from_utf8_lossy(&seen));
        assert_eq!(client.refusals(Reason::TlsFailed), 1);
    });
}

#[test]
fn a_pooled_connection_carries_no_request_after_its_root_is_gone() {
    story(async {
        let world = World::new();
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut connection = Client::to(client.outbound).await;
        assert_eq!(connection.get("/").await.unwrap().status, 200);
        client.tell(|told| told.trust(2, &[&world, &World::new()])).await;
        assert_eq!(
            connection.get("/").await.unwrap().status,
            200,
            "a root beside the old one"
        );
        client.tell(|told| told.trust(3, &[&World::new()])).await;
        assert_eq!(connection.get("/").await.unwrap().status, 502);
        client.tell(|told| told.trust(4, &[&world])).await;
        assert_eq!(connection.get("/").await.unwrap().status, 200, "it is back");
    });
}
