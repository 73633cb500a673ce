//! What only some versions of HTTP have, from an app through two proxies to an app: interim responses, HTTP/1.0, trailers,
//! bodies that do not end.

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use weft_model::reason::Reason;

use super::script::client_of;
use super::world::*;

async fn stage() -> (TcpListener, Pod) {
    let listener = listen().await;
    let app = listener.local_addr().unwrap();
    (listener, client_of(&World::new(), &[app], |_| {}).await)
}

async fn hears(socket: &mut TcpStream, want: &str) {
    let mut got = vec![0; want.len()];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), want);
}

const EXPECTS: &str = "POST / HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

#[test]
fn a_client_that_waits_for_100_gets_it_from_the_app() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection.write_all(EXPECTS.as_bytes()).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut buffer = Vec::new();
        let head = read_head(&mut app, &mut buffer).await.unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        app.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        hears(&mut connection, "HTTP/1.1 100 Continue\r\n\r\n").await;
        connection.write_all(b"body").await.unwrap();
        hears(&mut app, "body").await;
        app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(&mut connection, &mut Vec::new()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("close"), "{head}");
    });
}

#[test]
fn a_client_that_waits_for_100_may_get_an_answer_instead() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection.write_all(EXPECTS.as_bytes()).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        read_head(&mut app, &mut Vec::new()).await.unwrap();
        app.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(&mut connection, &mut Vec::new()).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        assert!(
            head.contains("connection: close"),
            "nobody could tell a body from the next request: {head}"
        );
    });
}

#[test]
fn an_app_may_want_the_body_without_having_been_asked() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        let asks = "POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 4\r\n\r\nbody";
        connection.write_all(asks.as_bytes()).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        read_head(&mut app, &mut Vec::new()).await.unwrap();
        let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
            HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        app.write_all(answer.as_bytes()).await.unwrap();
        let mut buffer = Vec::new();
        for want in ["HTTP/1.1 100 ", "HTTP/1.1 103 ", "HTTP/1.1 200 "] {
            let head = read_head(&mut connection, &mut buffer).await.unwrap();
            assert!(head.starts_with(want), "{head}");
            assert_eq!(head.contains("link: </a.css>"), want.contains("103"), "{head}");
        }
    });
}

#[test]
fn interim_responses_without_end_are_refused() {
    story(async {
        let endless: &'static str = String::leak("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100));
        let client = client_of(&World::new(), &[scripted(endless).await], |_| {}).await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection
            .write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n")
            .await
            .unwrap();
        let (mut buffer, mut interims) = (Vec::new(), 0);
        let head = loop {
            let head = read_head(&mut connection, &mut buffer).await.unwrap();
            if !head.starts_with("HTTP/1.1 103") {
                break head;
            }
            interims += 1;
        };
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(interims <= 32, "{interims}");
    });
}

#[test]
fn an_old_client_keeps_its_connection_only_where_it_asks_to() {
    story(async {
        let client = client_of(&World::new(), &[app("reviews").await], |_| {}).await;
        let mut connection = Client::to(client.outbound).await;
        for _ in 0..3 {
            let asks = "GET / HTTP/1.0\r\nhost: reviews\r\nconnection: keep-alive\r\n\r\n";
            let answer = connection.send(asks).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.head.contains("connection: keep-alive"), "{answer:?}");
        }
        let answer = connection.send("GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(answer.head.contains("connection: close"), "{answer:?}");
        assert!(connection.get("/").await.is_none(), "it is over");
    });
}

#[test]
fn an_old_server_and_an_old_client_end_a_body_by_closing() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let head = read_head(&mut app, &mut Vec::new()).await.unwrap();
        assert!(head.contains("host: 10.96.0.7:80"), "it names what was dialled: {head}");
        app.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").await.unwrap();
        drop(app);
        let mut all = String::new();
        connection.read_to_string(&mut all).await.unwrap();
        assert!(all.ends_with("\r\n\r\nall of it") && !all.contains("chunked"), "{all}");
    });
}

#[test]
fn what_http_1_0_does_not_have_is_refused() {
    story(async {
        let (_listener, client) = stage().await;
        let asks = "POST / HTTP/1.0\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let answer = Client::to(client.outbound).await.send(asks).await.unwrap();
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(client.refusals(Reason::BadRequest), 1);
        let old = scripted("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
        let client = client_of(&World::new(), &[old], |_| {}).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 502, "{answer:?}");
    });
}

#[test]
fn trailers_pass_both_ways_by_http1() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        let asks = "POST / HTTP/1.1\r\nhost: reviews\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n\
            4\r\nbody\r\n0\r\nx-sum: 4\r\nauthorization: nobody\r\n\r\n";
        connection.write_all(asks.as_bytes()).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut buffer = Vec::new();
        let head = read_head(&mut app, &mut buffer).await.unwrap();
        assert!(head.contains("te: trailers"), "{head}");
        let rest = read_head(&mut app, &mut buffer).await.unwrap();
        assert_eq!(
            rest, "4\r\nbody\r\n0\r\nx-sum: 4\r\n\r\n",
            "trailers may not say who calls"
        );
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-took: 1\r\ncontent-length: 9\r\n\r\n";
        app.write_all(answer.as_bytes()).await.unwrap();
        let mut buffer = Vec::new();
        read_head(&mut connection, &mut buffer).await.unwrap();
        let rest = read_head(&mut connection, &mut buffer).await.unwrap();
        assert_eq!(rest, "2\r\nok\r\n0\r\nx-took: 1\r\n\r\n");
    });
}

#[test]
fn trailers_pass_both_ways_by_http2() {
    story(async {
        let listener = listen().await;
        let app = listener.local_addr().unwrap();
        spawn_local(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                spawn_local(async move {
                    let mut body = request.into_body();
                    while let Some(data) = body.data().await {
                        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
                    }
                    let trailers = body.trailers().await.unwrap().unwrap();
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    send.send_trailers(trailers).unwrap();
                });
            }
        });
        let client = client_of(&World::new(), &[app], |_| {}).await;
        let socket = TcpStream::connect(client.outbound).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
        spawn_local(async move { drop(connection.await) });
        let request = Request::post("http://reviews/").body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", 4.into());
        trailers.insert("x-weft-unsent", 4.into());
        send.send_trailers(trailers).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert!(body.data().await.is_none());
        let came = body.trailers().await.unwrap().unwrap();
        assert_eq!(
            (came.len(), &came["x-sum"]),
            (1, &4.into()),
            "what is ours alone goes no further"
        );
    });
}

#[test]
fn a_client_that_has_said_all_may_end_its_direction() {
    story(async {
        let (listener, client) = stage().await;
        for asks in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n",
        ] {
            let mut connection = TcpStream::connect(client.outbound).await.unwrap();
            connection.write_all(asks.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            read_head(&mut app, &mut Vec::new()).await.unwrap();
            let gone = tokio::time::timeout(std::time::Duration::from_millis(100), app.read(&mut [0; 9])).await;
            assert!(gone.is_err(), "the request stands: {gone:?}");
            app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nstill")
                .await
                .unwrap();
            let mut all = String::new();
            connection.read_to_string(&mut all).await.unwrap();
            assert!(
                all.starts_with("HTTP/1.1 200 ") && all.ends_with("\r\n\r\nstill"),
                "{all}"
            );
        }
    });
}

#[test]
fn a_client_that_has_said_all_and_leaves_then_is_noticed() {
    story(async {
        let (listener, client) = stage().await;
        for asks in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n",
        ] {
            let mut connection = TcpStream::connect(client.outbound).await.unwrap();
            connection.write_all(asks.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            read_head(&mut app, &mut Vec::new()).await.unwrap();
            let gone = tokio::time::timeout(std::time::Duration::from_millis(100), app.read(&mut [0; 9])).await;
            assert!(gone.is_err(), "the request stands: {gone:?}");
            // Its kernel says so, as it does for any that has closed once it is asked.
            socket2::SockRef::from(&connection)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
            drop(connection);
            assert_eq!(app.read(&mut [0; 9]).await.unwrap_or(0), 0, "its request is cancelled");
        }
    });
}

#[test]
fn a_client_that_would_have_asked_more_and_ends_has_gone() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection
            .write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n")
            .await
            .unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        read_head(&mut app, &mut Vec::new()).await.unwrap();
        drop(connection);
        assert_eq!(app.read(&mut [0; 9]).await.unwrap_or(0), 0, "its request is cancelled");
    });
}

#[test]
fn bodies_without_end_pass_as_they_come() {
    story(async {
        let (listener, client) = stage().await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        let asks = "POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n";
        connection.write_all(asks.as_bytes()).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        read_head(&mut app, &mut Vec::new()).await.unwrap();
        let begins = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        app.write_all(begins.as_bytes()).await.unwrap();
        read_head(&mut connection, &mut Vec::new()).await.unwrap();
        // More than all buffers and windows on the way hold, one piece at a time.
        let piece = format!("1000\r\n{}\r\n", "x".repeat(4096));
        for _ in 0..500 {
            connection.write_all(piece.as_bytes()).await.unwrap();
            hears(&mut app, &piece).await;
            app.write_all(piece.as_bytes()).await.unwrap();
            hears(&mut connection, &piece).await;
        }
        drop(connection);
        assert_eq!(
            app.read(&mut [0; 9]).await.unwrap_or(0),
            0,
            "and end with who sends them"
        );
    });
}
