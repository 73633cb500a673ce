//! Tunnels, from an app through two proxies to an app: upgrades, WebSocket over both versions of HTTP, CONNECT.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::script::client_of;
use super::world::*;

const ASKS: &str = "GET /chat?room=1 HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An app whose part the test plays itself, and a client that is routed to it over mutual TLS.
async fn stage() -> (TcpListener, Pod) {
    let listener = listen().await;
    let app = listener.local_addr().unwrap();
    (listener, client_of(&World::new(), &[app], |_| {}).await)
}

/// The app's next connection, and the head of the request that comes on it.
async fn asked(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut buffer = Vec::new();
    let head = read_head(&mut socket, &mut buffer).await.unwrap();
    let follows = String::from_utf8(buffer).unwrap();
    assert!(follows.is_empty() || head.starts_with("PRI "), "{follows}");
    (socket, head)
}

async fn hears(socket: &mut TcpStream, want: &str) {
    let mut got = vec![0; want.len()];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), want);
}

/// A client's HTTP/2 connection, once the server's settings are there.
async fn http2(to: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(to).await.unwrap();
    let (sender, mut connection) = h2::client::handshake(socket).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    // Its answer comes behind the settings.
    pings.ping(h2::Ping::opaque()).await.unwrap();
    sender
}

fn extended(protocol: &'static str) -> Request<()> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://reviews/chat?room=1")
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static(protocol));
    request.body(()).unwrap()
}

/// An app that speaks HTTP/2 and echoes each tunnel, with what was asked in the response.
async fn echo_by_http2(upgrades: bool) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut builder = h2::server::Builder::new();
                if upgrades {
                    builder.enable_connect_protocol();
                }
                let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else {
                    return;
                };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    spawn_local(echo(request, respond));
                }
            });
        }
    });
    address
}

async fn echo(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let protocol = request.extensions().get::<Protocol>().map_or("", Protocol::as_str);
    let response = Response::builder()
        .header(
            "asked",
            format!("{} {} {protocol}", request.method(), request.uri()).trim_end(),
        )
        .header("key", request.headers().contains_key("sec-websocket-key").to_string())
        .header("internal", request.headers().contains_key("x-weft-version").to_string());
    let mut body = request.into_body();
    let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        send.send_data(data, false).unwrap();
    }
    send.send_data(Bytes::from_static(b"bye"), true).unwrap();
}

async fn said(body: &mut h2::RecvStream) -> Option<Bytes> {
    loop {
        let data = body.data().await?.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        // The end may come by itself.
        if !data.is_empty() {
            return Some(data);
        }
    }
}

#[test]
fn an_upgrade_is_a_tunnel_both_ways_and_half_closes() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection.write_all(ASKS.as_bytes()).await.unwrap();
        let (mut app, head) = asked(&listener).await;
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
        for line in [
            "upgrade: websocket",
            "connection: upgrade",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert!(head.contains(line), "{head}");
        }
        app.write_all(format!("{SWITCHES}first").as_bytes()).await.unwrap();
        let head = read_head(&mut connection, &mut Vec::new()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(
            head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{head}"
        );
        connection.write_all(b"to the app").await.unwrap();
        hears(&mut app, "to the app").await;
        app.write_all(b"to the client").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(app.read(&mut [0; 9]).await.unwrap(), 0, "the end of one direction");
        app.write_all(b", still").await.unwrap();
        drop(app);
        let mut rest = String::new();
        connection.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("to the client, still"), "{rest}");
    });
}

/// A tunnel in which one word has gone each way.
async fn tunnel(listener: &TcpListener, client: &Pod) -> (TcpStream, TcpStream) {
    let mut connection = TcpStream::connect(client.outbound).await.unwrap();
    connection.write_all(ASKS.as_bytes()).await.unwrap();
    let (mut app, _) = asked(listener).await;
    app.write_all(SWITCHES.as_bytes()).await.unwrap();
    read_head(&mut connection, &mut Vec::new()).await.unwrap();
    connection.write_all(b"half").await.unwrap();
    hears(&mut app, "half").await;
    app.write_all(b"half").await.unwrap();
    hears(&mut connection, "half").await;
    (connection, app)
}

fn reset(socket: TcpStream) {
    let at_once = Some(std::time::Duration::ZERO);
    socket2::SockRef::from(&socket).set_linger(at_once).unwrap();
}

async fn breaks(mut socket: TcpStream) {
    let end = socket.read(&mut [0]).await;
    assert!(end.is_err(), "it must not look ended: {end:?}");
}

#[test]
fn a_tunnel_that_breaks_on_one_side_does_not_end_on_the_other() {
    story(async {
        let (listener, client) = stage().await;
        let (connection, app) = tunnel(&listener, &client).await;
        reset(app);
        breaks(connection).await;
        let (connection, app) = tunnel(&listener, &client).await;
        reset(connection);
        breaks(app).await;
        // Nobody vouches for the endpoint any more.
        let (connection, app) = tunnel(&listener, &client).await;
        client.tell(|told| told.trust(2, &[&World::new()])).await;
        breaks(connection).await;
        breaks(app).await;
    });
}

#[test]
fn an_extended_connect_reaches_an_app_that_knows_upgrades_only() {
    story(async {
        let (listener, client) = stage().await;
        let mut sender = http2(client.outbound).await;
        let (response, mut send) = sender.send_request(extended("websocket"), false).unwrap();
        send.send_data(Bytes::from_static(b"early"), false).unwrap();
        // The app does not know HTTP/2, and says so to those who ask by it.
        let (mut app, head) = loop {
            let (mut socket, head) = asked(&listener).await;
            if !head.starts_with("PRI ") {
                break (socket, head);
            }
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        };
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("upgrade: websocket\r\n") && !head.contains("x-weft-"),
            "{head}"
        );
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: "));
        let mut answer = http::HeaderMap::new();
        let mut asked = http::HeaderMap::new();
        asked.insert("sec-websocket-key", key.unwrap().parse().unwrap());
        crate::http::upgrade::prove(&asked, &mut answer);
        let proof = answer["sec-websocket-accept"].to_str().unwrap();
        let switches = SWITCHES.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", proof);
        app.write_all(switches.as_bytes()).await.unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("sec-websocket-accept"), "{response:?}");
        hears(&mut app, "early").await;
        app.write_all(b"hello").await.unwrap();
        let mut body = response.into_body();
        assert_eq!(said(&mut body).await.unwrap(), "hello");
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(app.read(&mut [0; 9]).await.unwrap(), 0, "the end of one direction");
        app.write_all(b"bye").await.unwrap();
        drop(app);
        assert_eq!(said(&mut body).await.unwrap(), "bye");
        assert!(said(&mut body).await.is_none());
    });
}

#[test]
fn an_extended_connect_reaches_an_app_that_knows_it_too() {
    story(async {
        let app = echo_by_http2(true).await;
        let client = client_of(&World::new(), &[app], |_| {}).await;
        // Twice: over a connection that is new to the app, and over one that is kept.
        for protocol in ["websocket", "connect-ip"] {
            let mut sender = http2(client.outbound).await;
            let (response, mut send) = sender.send_request(extended(protocol), false).unwrap();
            let response = response.await.unwrap();
            let (status, headers) = (response.status(), response.headers());
            assert_eq!(status, StatusCode::OK);
            assert_eq!(
                headers["asked"],
                format!("CONNECT http://reviews/chat?room=1 {protocol}")
            );
            assert_eq!(
                (&headers["key"], &headers["internal"]),
                (&"false".parse().unwrap(), &"false".parse().unwrap())
            );
            let mut body = response.into_body();
            send.send_data(Bytes::from_static(b"hello"), false).unwrap();
            assert_eq!(said(&mut body).await.unwrap(), "hello");
            send.send_data(Bytes::new(), true).unwrap();
            assert_eq!(said(&mut body).await.unwrap(), "bye");
            assert!(said(&mut body).await.is_none());
        }
    });
}

#[test]
fn an_answer_that_has_not_read_the_key_is_no_websocket() {
    story(async {
        // The app proves the key of somebody else's handshake.
        let app = scripted(SWITCHES).await;
        let client = client_of(&World::new(), &[app], |_| {}).await;
        let mut sender = http2(client.outbound).await;
        let (response, _send) = sender.send_request(extended("websocket"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert!(
            response.headers()["proxy-status"]
                .to_str()
                .unwrap()
                .contains("upstream-protocol")
        );
    });
}

#[test]
fn an_extended_connect_that_makes_no_sense_is_refused() {
    story(async {
        let (_listener, client) = stage().await;
        for protocol in ["h2c", "not a token"] {
            let mut sender = http2(client.outbound).await;
            let (response, _send) = sender.send_request(extended(protocol), false).unwrap();
            assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST, "{protocol}");
        }
        let mut sender = http2(client.outbound).await;
        let mut request = extended("websocket");
        request.headers_mut().insert("content-length", 5.into());
        let (response, _send) = sender.send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
    });
}

#[test]
fn an_upgrade_with_a_body_is_a_request_like_any_other() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        let smuggled = "GET /secret HTTP/1.1\r\nhost: reviews\r\n\r\n";
        let request = format!(
            "POST / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut buffer = Vec::new();
        let head = read_head(&mut app, &mut buffer).await.unwrap();
        assert!(!head.contains("upgrade"), "{head}");
        assert!(head.contains(&format!("content-length: {}", smuggled.len())), "{head}");
        app.write_all(SWITCHES.as_bytes()).await.unwrap();
        let head = read_head(&mut connection, &mut Vec::new()).await.unwrap();
        assert!(
            head.starts_with("HTTP/1.1 502 ") && head.contains("upstream-protocol"),
            "{head}"
        );
    });
}

#[test]
fn a_switch_that_nobody_asked_for_is_refused() {
    story(async {
        let app = scripted(SWITCHES).await;
        let client = client_of(&World::new(), &[app], |_| {}).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 502, "{answer:?}");
        let from_1_0 = ASKS.replace("HTTP/1.1", "HTTP/1.0");
        let answer = Client::to(client.outbound).await.send(&from_1_0).await.unwrap();
        assert_eq!(answer.status, 502, "HTTP/1.0 has no upgrade: {answer:?}");
        let without_connection = ASKS.replace("connection: Upgrade\r\n", "");
        let answer = Client::to(client.outbound)
            .await
            .send(&without_connection)
            .await
            .unwrap();
        assert_eq!(answer.status, 502, "{answer:?}");
    });
}

#[test]
fn an_upgrade_to_http2_is_answered_over_http1() {
    story(async {
        let client = client_of(&World::new(), &[app("reviews").await], |_| {}).await;
        let mut connection = Client::to(client.outbound).await;
        let asks = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
            http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
        let answer = connection.send(asks).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.body.to_lowercase();
        assert!(!body.contains("upgrade") && !body.contains("http2-settings"), "{body}");
        assert_eq!(
            connection.get("/next").await.unwrap().status,
            200,
            "the connection goes on"
        );
    });
}

#[test]
fn a_connect_goes_to_what_was_dialled_and_never_elsewhere() {
    story(async {
        let elsewhere = listen().await;
        let named = elsewhere.local_addr().unwrap();
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        let connect = format!("CONNECT {named} HTTP/1.1\r\nhost: {named}\r\n\r\n");
        connection.write_all(connect.as_bytes()).await.unwrap();
        let (mut app, head) = asked(&listener).await;
        assert!(head.starts_with(&format!("CONNECT {named} HTTP/1.1\r\n")), "{head}");
        app.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let head = read_head(&mut connection, &mut Vec::new()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        connection.write_all(b"through").await.unwrap();
        hears(&mut app, "through").await;
        let nobody_came = tokio::time::timeout(std::time::Duration::from_millis(100), elsewhere.accept()).await;
        assert!(nobody_came.is_err(), "Weft dials nobody whom a request names");
    });
}

#[test]
fn a_connect_by_http2_reaches_the_app_by_http2() {
    story(async {
        let app = echo_by_http2(false).await;
        let client = client_of(&World::new(), &[app], |_| {}).await;
        let mut sender = http2(client.outbound).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("db:5432")
            .body(())
            .unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["asked"], "CONNECT db:5432");
        assert_eq!(response.headers()["internal"], "false");
        let mut body = response.into_body();
        send.send_data(Bytes::from_static(b"hello"), false).unwrap();
        assert_eq!(said(&mut body).await.unwrap(), "hello");
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(said(&mut body).await.unwrap(), "bye");
    });
}
