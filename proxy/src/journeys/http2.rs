//! HTTP/2 and gRPC, from an app through two proxies to an app.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::Protocol;

use super::world::*;

/// An app that echoes each request's body, with its name in the trailers.
async fn grpc(name: &'static str) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    spawn_local(echo(request, respond, name));
                }
            });
        }
    });
    address
}

async fn echo(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>, name: &'static str) {
    let caller = request.headers().get("x-forwarded-client-cert").cloned();
    let mut body = request.into_body();
    let mut response = Response::builder().header("content-type", "application/grpc");
    if let Some(caller) = caller {
        response = response.header("caller", caller);
    }
    let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        send.send_data(data, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("app", name.parse().unwrap());
    send.send_trailers(trailers).unwrap();
}

/// What a call came back with.
struct Called {
    head: http::response::Parts,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// A client's connection.
async fn connect(to: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(to).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    sender
}

async fn call(sender: &h2::client::SendRequest<Bytes>, path: &str, body: &'static [u8]) -> Called {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = Request::post(format!("http://ratings{path}")).header("content-type", "application/grpc");
    let (response, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    send.send_data(Bytes::from_static(body), true).unwrap();
    let (head, mut stream) = response.await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    Called {
        head,
        body,
        trailers: stream.trailers().await.unwrap(),
    }
}

#[test]
fn calls_go_from_app_to_app_with_their_trailers() {
    story(async {
        let world = World::new();
        let server = world
            .told("ratings")
            .strict()
            .start(grpc("ratings").await, nobody().await)
            .await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("ratings"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let sender = connect(client.outbound).await;
        let calls = (0..50).map(|_| call(&sender, "/shop.Ratings/Get", b"hello"));
        for called in futures_util::future::join_all(calls).await {
            assert_eq!(called.body, b"hello");
            assert!(called.head.headers["caller"].to_str().unwrap().ends_with("sa/web"));
            assert_eq!(called.trailers.unwrap()["app"], "ratings");
        }
        let counted = server.metrics();
        assert!(counted.contains("rpc_server_call_duration_seconds_count{"), "{counted}");
        let opened = counted
            .lines()
            .find(|line| line.starts_with("rpc_server_call_duration_seconds_count{"))
            .unwrap();
        assert!(opened.ends_with(" 50"), "{opened}");
    });
}

#[test]
fn a_call_whose_app_is_gone_goes_to_another_endpoint() {
    story(async {
        let world = World::new();
        let gone = world.told("ratings").start(nobody().await, nobody().await).await;
        let well = world.told("ratings").start(grpc("well").await, nobody().await).await;
        let mut told = world.told("web");
        told.service(Protocol::Grpc, None);
        told.endpoints(
            "all",
            vec![
                world.endpoint(1, gone.inbound, Some("ratings")),
                world.endpoint(2, well.inbound, Some("ratings")),
            ],
        );
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let sender = connect(client.outbound).await;
        for _ in 0..20 {
            let called = call(&sender, "/shop.Ratings/Get", b"hello").await;
            assert_eq!(
                (called.head.status.as_u16(), &called.body[..]),
                (200, &b"hello"[..]),
                "{:?}",
                called.head
            );
        }
    });
}

#[test]
fn a_refused_call_learns_why_in_its_own_words() {
    story(async {
        let client = World::new()
            .told("web")
            .start(nobody().await, VIP.parse().unwrap())
            .await;
        let called = call(&connect(client.outbound).await, "/shop.Ratings/Get", b"").await;
        assert_eq!(called.head.headers["grpc-status"], "14");
        assert!(
            called.head.headers["grpc-message"]
                .to_str()
                .unwrap()
                .contains("no-endpoints")
        );
    });
}
