//! Apps that answer by a script, over HTTP/1.1 and HTTP/2, and what a client sees of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use weft_model::destination::Protocol;
use weft_model::route::{Rule, Rules};

use super::routes::{backend, prefix, rule};
use super::world::*;

/// Both versions, in the order in which they are tried.
pub(super) const BOTH: [Speaks; 2] = [Speaks::H1, Speaks::H2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    H1,
    H2,
}

/// What an app does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// This status, with the body `said`.
    Status(u16),
    /// A gRPC response without a message, of one head.
    GrpcHead(u16),
    /// The same, with a head and trailers.
    GrpcTrailers(u16),
    /// One message, and this status.
    GrpcMessage(u16),
    /// Nothing, ever.
    Nothing,
    /// A response that begins and does not go on.
    Begins,
    /// The connection ends, or the stream is reset.
    Breaks,
}

/// A request that an app has got: its first line and its headers as text, and its body.
pub(super) type Got = Rc<RefCell<Vec<(String, String)>>>;

/// What a client has seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: HeaderMap,
    /// The response has come to its proper end.
    pub(super) whole: bool,
}

impl Seen {
    /// The status of gRPC, wherever it stood.
    pub(super) fn grpc(&self) -> Option<u16> {
        let status = self.headers.get("grpc-status").or(self.trailers.get("grpc-status"))?;
        status.to_str().ok()?.parse().ok()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// An app that does one thing after the other, and then the last for ever.
pub(super) async fn scripted_app(speaks: Speaks, script: &[Does]) -> (SocketAddr, Got) {
    let listener = listen().await;
    let (address, got) = (listener.local_addr().unwrap(), Got::default());
    let script = Rc::new(RefCell::new(script.iter().copied().collect::<VecDeque<_>>()));
    spawn_local(accept(listener, speaks, script, got.clone()));
    (address, got)
}

type Script = Rc<RefCell<VecDeque<Does>>>;

fn next(script: &Script) -> Does {
    let mut script = script.borrow_mut();
    match script.len() {
        1 => script[0],
        _ => script.pop_front().unwrap(),
    }
}

async fn accept(listener: TcpListener, speaks: Speaks, script: Script, got: Got) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (script, got) = (script.clone(), got.clone());
        match speaks {
            Speaks::H1 => _ = spawn_local(h1(socket, script, got)),
            Speaks::H2 => _ = spawn_local(h2(socket, script, got)),
        }
    }
}

async fn h1(mut socket: TcpStream, script: Script, got: Got) {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut socket, &mut buffer).await {
        let length = content_length(&head);
        while buffer.len() < length {
            if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = buffer.drain(..length).collect();
        got.borrow_mut().push((head, String::from_utf8(body).unwrap()));
        let response = match next(&script) {
            Does::Status(status) => {
                format!("HTTP/1.1 {status} Said\r\nx-app: said\r\ncontent-length: 4\r\n\r\nsaid")
            }
            Does::Begins => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsaid".to_owned(),
            Does::Nothing => String::new(),
            Does::Breaks => return,
            does => panic!("not over HTTP/1.1: {does:?}"),
        };
        if socket.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn h2(socket: TcpStream, script: Script, got: Got) {
    let Ok(mut connection) = h2::server::handshake(socket).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(answer(request, respond, script.clone(), got.clone()));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    script: Script,
    got: Got,
) {
    let (head, mut stream) = request.into_parts();
    let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    let mut body = Vec::new();
    while let Some(Ok(data)) = stream.data().await {
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    got.borrow_mut().push((text, String::from_utf8(body).unwrap()));
    let response = |status: u16| {
        let response = Response::builder().status(status).header("x-app", "said");
        let grpc = head.headers.contains_key("content-type");
        match grpc {
            true => response.header("content-type", "application/grpc"),
            false => response,
        }
    };
    let trailers = |status: u16| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        trailers.insert("x-trailer", HeaderValue::from_static("said"));
        trailers
    };
    let said = Bytes::from_static(b"said");
    // Whoever has gone meanwhile does not hear it.
    let _ = match next(&script) {
        Does::Status(status) => respond
            .send_response(response(status).body(()).unwrap(), false)
            .and_then(|mut send| send.send_data(said, true)),
        Does::GrpcHead(status) => {
            let response = response(200).header("grpc-status", status).body(()).unwrap();
            respond.send_response(response, true).map(|_| ())
        }
        Does::GrpcTrailers(status) => respond
            .send_response(response(200).body(()).unwrap(), false)
            .and_then(|mut send| send.send_trailers(trailers(status))),
        Does::GrpcMessage(status) => {
            respond
                .send_response(response(200).body(()).unwrap(), false)
                .and_then(|mut send| {
                    send.send_data(said, false)?;
                    send.send_trailers(trailers(status))
                })
        }
        Does::Nothing => std::future::pending().await,
        Does::Begins => {
            let mut send = respond.send_response(response(200).body(()).unwrap(), false).unwrap();
            let _ = send.send_data(said, false);
            std::future::pending().await
        }
        Does::Breaks => {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            Ok(())
        }
    };
}

/// A client whose requests all fall under one rule, made by `change`, and go to these apps over mutual TLS.
pub(super) async fn client_of(world: &World, apps: &[SocketAddr], change: impl FnOnce(&mut Rule)) -> Pod {
    client_told(world, apps, change, |_| {}).await
}

/// The same, told something more.
pub(super) async fn client_told(
    world: &World,
    apps: &[SocketAddr],
    change: impl FnOnce(&mut Rule),
    more: impl FnOnce(&mut Told),
) -> Pod {
    let mut told = world.told("web");
    let mut endpoints = Vec::new();
    for (n, app) in apps.iter().enumerate() {
        let server = world.told("reviews").strict().start(*app, nobody().await).await;
        endpoints.push(world.endpoint(n as u64 + 1, server.inbound, Some("reviews")));
        // It serves as long as the story lasts.
        std::mem::forget(server);
    }
    told.endpoints("all", endpoints);
    let mut only = Rule::clone(&rule(prefix("/"), vec![backend(1, Some("all"))]));
    change(&mut only);
    told.service(
        Protocol::Undeclared,
        Some(Rules {
            rules: vec![Arc::new(only)],
        }),
    );
    more(&mut told);
    told.start(nobody().await, VIP.parse().unwrap()).await
}

/// One request of a client: over a connection of its own.
pub(super) async fn ask(client: &Pod, speaks: Speaks, path: &str, headers: &[(&str, &str)], body: &str) -> Seen {
    match speaks {
        Speaks::H1 => ask_h1(client, path, headers, body).await,
        Speaks::H2 => ask_h2(client, path, headers, body).await,
    }
}

/// One call of gRPC.
pub(super) async fn call(client: &Pod, headers: &[(&str, &str)]) -> Seen {
    let headers = [&[("content-type", "application/grpc"), ("te", "trailers")], headers].concat();
    ask(client, Speaks::H2, "/shop.Reviews/Get", &headers, "asked").await
}

async fn ask_h1(client: &Pod, path: &str, headers: &[(&str, &str)], body: &str) -> Seen {
    let mut socket = TcpStream::connect(client.outbound).await.unwrap();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: reviews\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let ended = socket.read_to_end(&mut all).await.is_ok();
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut headers = HeaderMap::new();
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let length = headers.get("content-length").map(|value| value.to_str().unwrap());
    Seen {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        whole: ended && length.is_some_and(|length| length == body.len().to_string()),
        headers,
        body: body.as_bytes().to_vec(),
        trailers: HeaderMap::new(),
    }
}

async fn ask_h2(client: &Pod, path: &str, headers: &[(&str, &str)], body: &str) -> Seen {
    let socket = TcpStream::connect(client.outbound).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    let mut request = Request::post(format!("http://reviews{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = sender.ready().await.unwrap();
    let (response, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    send.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    let (head, mut stream) = response.await.unwrap().into_parts();
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(data) = stream.data().await {
        match data {
            Ok(data) => {
                let _ = stream.flow_control().release_capacity(data.len());
                body.extend_from_slice(&data);
            }
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let trailers = match whole {
        true => stream.trailers().await,
        false => Ok(None),
    };
    whole &= trailers.is_ok();
    Seen {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers: trailers.ok().flatten().unwrap_or_default(),
        whole,
    }
}
