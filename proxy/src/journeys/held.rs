//! Calls of gRPC whose rule may have another try made after their response has begun: when that is passed on, and what never is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::route::{Retry, Rule};

use super::script::*;
use super::world::*;

/// What an app does with one call, once its head is there. A number names the try to its client.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// The head of a response at once; a message when one has come; trailers when no more comes.
    Converses,
    /// The head of a response, a message after so long, and trailers.
    IsSlow(Duration),
    /// The head of a response, and a reset that says that the call was not worked on.
    TakesBack(u8),
    /// A whole response.
    Answers(u8),
}

/// An app that does one thing after the other, and then the last for ever.
async fn app(script: &'static [Does]) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let mut at = 0;
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            spawn_local(answer(request, respond, script[at]));
            at = (at + 1).min(script.len() - 1);
        }
    });
    address
}

async fn answer(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>, does: Does) {
    let mut asked = request.into_body();
    let begin = |attempt: u8| {
        let response = Response::builder().header("content-type", "application/grpc");
        response.header("x-try", u16::from(attempt)).body(()).unwrap()
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    match does {
        Does::Converses => {
            let mut send = respond.send_response(begin(1), false).unwrap();
            while let Some(Ok(data)) = asked.data().await {
                let _ = asked.flow_control().release_capacity(data.len());
                send.send_data(data, false).unwrap();
            }
            send.send_trailers(trailers).unwrap();
        }
        Does::IsSlow(wait) => {
            let mut send = respond.send_response(begin(1), false).unwrap();
            tokio::time::sleep(wait).await;
            let _ = send.send_data(Bytes::from_static(b"said"), false);
            let _ = send.send_trailers(trailers);
        }
        Does::TakesBack(attempt) => {
            let mut send = respond.send_response(begin(attempt), false).unwrap();
            // So that the one does not overtake the other.
            tokio::time::sleep(Duration::from_millis(20)).await;
            send.send_reset(h2::Reason::REFUSED_STREAM);
        }
        Does::Answers(attempt) => {
            let mut send = respond.send_response(begin(attempt), false).unwrap();
            send.send_data(Bytes::from_static(b"said"), false).unwrap();
            send.send_trailers(trailers).unwrap();
        }
    }
}

fn tried_again(rule: &mut Rule) {
    rule.retry = Some(Retry {
        attempts: 2,
        backoff: Duration::ZERO,
        codes: vec![],
        grpc_statuses: vec![14],
    });
}

/// A client of this app: over mutual TLS, or directly.
async fn client(world: &World, app: SocketAddr, meshed: bool) -> Pod {
    if meshed {
        return client_of(world, &[app], tried_again).await;
    }
    let plain = vec![world.endpoint(1, app, None)];
    client_told(world, &[], tried_again, |told| _ = told.endpoints("all", plain)).await
}

/// Begins a call.
async fn begin(client: &Pod) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let socket = TcpStream::connect(client.outbound).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    let request = Request::post("http://reviews/shop.Reviews/Talk").header("content-type", "application/grpc");
    let mut sender = sender.ready().await.unwrap();
    sender.send_request(request.body(()).unwrap(), false).unwrap()
}

#[test]
fn a_client_that_waits_for_metadata_before_its_first_message_gets_it() {
    story(async {
        let world = World::new();
        for meshed in [true, false] {
            let client = client(&world, app(&[Does::Converses]).await, meshed).await;
            let (response, mut send) = begin(&client).await;
            let mut body = response.await.unwrap().into_body();
            for message in [&b"one"[..], b"two"] {
                send.send_data(Bytes::from_static(message), false).unwrap();
                assert_eq!(body.data().await.unwrap().unwrap(), message);
            }
            send.send_data(Bytes::new(), true).unwrap();
            assert!(body.data().await.is_none());
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["grpc-status"], "0");
        }
    });
}

#[test]
fn metadata_is_not_held_back_for_long_behind_a_whole_request() {
    story(async {
        let world = World::new();
        const WAIT: Duration = Duration::from_secs(5);
        const SCRIPT: &[Does] = &[Does::IsSlow(WAIT), Does::Answers(2)];
        let client = client(&world, app(SCRIPT).await, true).await;
        let (response, mut send) = begin(&client).await;
        send.send_data(Bytes::from_static(b"asked"), true).unwrap();
        let begun = Instant::now();
        assert_eq!(response.await.unwrap().headers()["x-try"], "1");
        assert!(begun.elapsed() < WAIT);
    });
}

#[test]
fn the_head_of_one_try_is_never_that_of_anothers_answer() {
    story(async {
        let world = World::new();
        // The first call leaves a connection behind: one that is not new may have ended before it was used.
        const SCRIPT: &[Does] = &[Does::Answers(1), Does::TakesBack(2), Does::Answers(3)];
        let client = client(&world, app(SCRIPT).await, false).await;
        for attempt in ["1", "3"] {
            let seen = call(&client, &[]).await;
            assert_eq!(
                (seen.header("x-try"), &seen.body[..], seen.grpc()),
                (attempt, &b"said"[..], Some(0)),
                "{seen:?}"
            );
        }
    });
}
