//! Probe: gRPC's health protocol, `grpc.health.v1.Health/Check`, as the kubelet asks it: plaintext HTTP/2 without upgrade,
//! one call.
//!
//! In: a connection to the app, whom to ask about. Out: whether it serves, or what it said instead.

use std::pin::pin;

use bytes::{Buf as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};

/// The method's path.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// How much of an answer is read: it is a frame's head and an enum.
const ANSWER_MAX: usize = 4096;
/// Before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks the app whether it serves. `authority`: the address that is asked. The error is for people.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
    service: &str,
) -> Result<(), String> {
    let wrong = |error: h2::Error| format!("the app's answer: {error}");
    let (send, connection) = h2::client::handshake(stream).await.map_err(wrong)?;
    let mut answer = pin!(call(send, authority, service));
    let answered = tokio::select! {
        biased; // an app that answers and hangs up has answered
        answered = &mut answer => answered,
        // What came before the end can be read still.
        _ = connection => answer.await,
    };
    judge(&answered.map_err(wrong)?)
}

/// What came back.
struct Answer {
    status: StatusCode,
    body: Bytes,
    /// Where the gRPC status lies: the trailers, or the headers where there was nothing else.
    last: HeaderMap,
}

async fn call(send: SendRequest<Bytes>, authority: &str, service: &str) -> Result<Answer, h2::Error> {
    let malformed = |_| h2::Error::from(Reason::PROTOCOL_ERROR);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{authority}{CHECK}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", super::USER_AGENT)
        .body(())
        .map_err(malformed)?;
    let mut send = send.ready().await?;
    let (response, mut body) = send.send_request(request, false)?;
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    body.send_data(framed(&message), true)?;
    let (head, mut body) = response.await?.into_parts();
    let read = read(&mut body).await?;
    let last = body.trailers().await?.unwrap_or(head.headers);
    Ok(Answer {
        status: head.status,
        body: read,
        last,
    })
}

async fn read(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut read = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if read.len() + piece.len() > ANSWER_MAX {
            return Err(Reason::ENHANCE_YOUR_CALM.into());
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.freeze())
}

/// A message with its length in front.
pub(super) fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(message);
    framed.into()
}

fn judge(answer: &Answer) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("the app answered HTTP {}", answer.status.as_u16()));
    }
    let said = |name| answer.last.get(name).and_then(|value| value.to_str().ok());
    match said("grpc-status") {
        Some("0") => {}
        Some("12") => return Err(format!("the app does not implement {CHECK} (gRPC status 12)")),
        Some(status) => {
            let message = said("grpc-message").unwrap_or_default();
            return Err(format!("the app answered gRPC status {status} {message}"));
        }
        None => return Err("the app's answer has no gRPC status".to_owned()),
    }
    let mut body = answer.body.clone();
    if body.len() < HEAD || body.get_u8() != 0 || body.get_u32() as usize != body.len() {
        return Err("the app's answer is not one message".to_owned());
    }
    let response = HealthCheckResponse::decode(body).map_err(|error| format!("the app's answer: {error}"))?;
    match response.status() {
        ServingStatus::Serving => Ok(()),
        status => Err(format!("the app says {status:?}")),
    }
}
