//! Responses that an app cuts short, in the same moment in which it begins them: what came of them is the client's, and so is the
//! news that there is no more.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::Protocol;

use super::world::*;

/// An app that answers each connection's first request with these bytes and ends the connection. Counts them.
async fn brief(response: &'static [u8]) -> (std::net::SocketAddr, Rc<Cell<u32>>) {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_head(&mut socket, &mut Vec::new()).await.unwrap();
            counted.set(counted.get() + 1);
            socket.write_all(response).await.unwrap();
        }
    });
    (address, calls)
}

#[test]
fn what_came_of_a_response_that_is_cut_short_arrives_and_the_app_is_called_once() {
    story(async {
        for (response, body) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc"[..], "abc"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", ""),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
                "abc",
            ),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n8\r\nda",
                "data: 1\n",
            ),
        ] {
            let world = World::new();
            let (address, calls) = brief(response).await;
            let server = world.told("reviews").start(address, nobody().await).await;
            let mut told = world.told("web");
            told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
            let client = told.start(nobody().await, VIP.parse().unwrap()).await;
            for round in 1..=5 {
                let mut socket = TcpStream::connect(client.outbound).await.unwrap();
                socket.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                let mut seen = Vec::new();
                // A reset behind what was read would do as well.
                let _ = socket.read_to_end(&mut seen).await;
                let seen = String::from_utf8_lossy(&seen);
                assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.contains(body), "{seen}");
                assert!(!seen.ends_with("\r\n0\r\n\r\n"), "it must not look whole: {seen}");
                assert_eq!(calls.get(), round);
            }
        }
    });
}

/// Where nothing but the end of the stream tells the end of a response, it must not end.
#[test]
fn a_response_to_http10_that_is_cut_short_does_not_end_but_breaks() {
    story(async {
        for (response, breaks) in [
            (
                &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"[..],
                true,
            ),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                false,
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", false),
        ] {
            let world = World::new();
            let (address, _) = brief(response).await;
            let server = world.told("reviews").start(address, nobody().await).await;
            let mut told = world.told("web");
            told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
            let client = told.start(nobody().await, VIP.parse().unwrap()).await;
            let mut socket = TcpStream::connect(client.outbound).await.unwrap();
            socket.write_all(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await.unwrap();
            let mut seen = Vec::new();
            let read = socket.read_to_end(&mut seen).await;
            assert_eq!(read.is_err(), breaks, "{read:?} {}", String::from_utf8_lossy(&seen));
            assert!(
                breaks || seen.ends_with(b"\r\n\r\nabc"),
                "{}",
                String::from_utf8_lossy(&seen)
            );
        }
    });
}

/// An app of HTTP/2 that answers a connection's first request with a head, a piece, and a reset, all in one write.
async fn brief_http2() -> std::net::SocketAddr {
    const PREFACE: usize = 24;
    const FRAME_HEAD: usize = 9;
    const HEADERS: u8 = 1;
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        socket.read_exact(&mut [0; PREFACE]).await.unwrap();
        loop {
            let mut head = [0; FRAME_HEAD];
            socket.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            socket.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == HEADERS {
                break;
            }
        }
        // HEADERS with :status 200, DATA, RST_STREAM with INTERNAL_ERROR.
        let response = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x03\0\0\0\0\0\x01abc\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02";
        socket.write_all(response).await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    address
}

#[test]
fn what_came_of_a_stream_that_is_reset_arrives_before_the_reset() {
    story(async {
        let world = World::new();
        let mut told = world.told("reviews");
        let app = brief_http2().await;
        told.declare(app.port(), Protocol::Http2);
        let server = told.start(app, nobody().await).await;
        let mut told = world.told("web");
        told.service(Protocol::Http2, None);
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let socket = TcpStream::connect(client.outbound).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        spawn_local(async move {
            let _ = connection.await;
        });
        let mut sender: h2::client::SendRequest<Bytes> = sender.ready().await.unwrap();
        let request = Request::get("http://a/").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = response.await.expect("the head");
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        assert_eq!(body.data().await.expect("a piece").expect("whole"), "abc");
        assert!(
            body.data().await.is_some_and(|more| more.is_err()),
            "it must not look whole"
        );
    });
}
