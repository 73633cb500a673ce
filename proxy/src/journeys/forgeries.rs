//! What a client says of its caller never reaches an app, however its proxy was told to carry it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::Protocol;
use weft_model::reason::Reason;

use super::world::*;

const FORGED: &str = "URI=spiffe://demo/ns/a/sa/b";
const CALLER: &str = "URI=spiffe://demo.weft.internal/ns/shop/sa/web";

/// A client that was told that the port carries bytes, and the app's proxy, which was told nothing of the port.
async fn pair(world: &World, protocol: Protocol, app: SocketAddr) -> (Pod, Pod) {
    let server = world.told("reviews").strict().start(app, nobody().await).await;
    let mut told = world.told("web");
    told.service(protocol, None);
    told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
    let client = told.start(nobody().await, VIP.parse().unwrap()).await;
    (client, server)
}

/// All that an app has heard, on whatever connection.
async fn hearing_app() -> (SocketAddr, Rc<RefCell<Vec<u8>>>) {
    let (listener, heard) = (listen().await, Rc::new(RefCell::new(Vec::new())));
    let (address, all) = (listener.local_addr().unwrap(), heard.clone());
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let all = all.clone();
            spawn_local(async move {
                let mut piece = [0; 1024];
                while let Ok(n @ 1..) = socket.read(&mut piece).await {
                    all.borrow_mut().extend_from_slice(&piece[..n]);
                }
            });
        }
    });
    (address, heard)
}

#[test]
fn http_that_a_peer_sends_as_bytes_to_an_undeclared_port_is_http() {
    story(async {
        let world = World::new();
        let request = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: {FORGED}\r\nx-weft-unsent: forged\r\nx-other: kept\r\n\r\n"
        );
        for protocol in [Protocol::Opaque, Protocol::Tls] {
            let (client, _server) = pair(&world, protocol, app("reviews").await).await;
            let answer = Client::to(client.outbound).await.send(&request).await.unwrap();
            assert_eq!(answer.status, 200);
            assert!(!answer.body.contains(FORGED), "{answer:?}");
            assert!(!answer.body.contains("x-weft-"), "{answer:?}");
            assert!(answer.body.contains(CALLER), "{answer:?}");
            assert!(answer.body.contains("x-other: kept"), "{answer:?}");
        }
    });
}

#[test]
fn a_request_that_comes_in_pieces_is_one_or_is_cut() {
    story(async {
        let world = World::new();
        let rest = format!(" / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: {FORGED}\r\n\r\n");
        let pause = Duration::from_millis(200);
        // The beginning of a method is waited for.
        let (client, _server) = pair(&world, Protocol::Opaque, app("reviews").await).await;
        let mut connection = Client::to(client.outbound).await;
        connection.socket.write_all(b"GE").await.unwrap();
        tokio::time::sleep(pause).await;
        let answer = connection.send(&format!("T{rest}")).await.unwrap();
        assert!(
            answer.body.contains(CALLER) && !answer.body.contains(FORGED),
            "{answer:?}"
        );
        // A word that is none passes, and must not become one.
        let (app, heard) = hearing_app().await;
        let (client, server) = pair(&world, Protocol::Opaque, app).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(b"FOO").await.unwrap();
        while heard.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        socket.write_all(rest.as_bytes()).await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
        let heard = String::from_utf8(heard.borrow().clone()).unwrap();
        assert!(!heard.contains(FORGED) && !heard.contains('\n'), "{heard:?}");
        let counted = server.metrics();
        assert!(counted.contains(Reason::BadRequest.code()), "{counted}");
    });
}

#[test]
fn bytes_that_are_no_http_pass_as_they_are_and_a_greeting_is_not_waited_for() {
    story(async {
        let world = World::new();
        let (app, heard) = hearing_app().await;
        let (client, _server) = pair(&world, Protocol::Opaque, app).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        socket.write_all(b"\x10\x0c\0\x04MQTT").await.unwrap();
        while heard.borrow().len() < 8 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*heard.borrow(), b"\x10\x0c\0\x04MQTT");

        let greeter = listen().await;
        let (client, _server) = pair(&world, Protocol::Opaque, greeter.local_addr().unwrap()).await;
        let mut socket = TcpStream::connect(client.outbound).await.unwrap();
        let (mut app, _) = greeter.accept().await.unwrap();
        app.write_all(b"220 hello\r\n").await.unwrap();
        let mut greeting = [0; 11];
        socket.read_exact(&mut greeting).await.unwrap();
        // An app that greets so reads no requests: whatever follows is its own protocol's.
        socket.write_all(b"QUIT\r\n").await.unwrap();
        let mut quit = [0; 6];
        app.read_exact(&mut quit).await.unwrap();
        assert_eq!((&greeting, &quit), (b"220 hello\r\n", b"QUIT\r\n"));
    });
}
