//! One call of gRPC's health protocol, `grpc.health.v1.Health/Check`, as kubelet makes it: plaintext HTTP/2, one call.
//!
//! For pods outside the mesh: in the mesh the proxy asks, because the injector has rewritten the probe.

use std::net::SocketAddr;
use std::pin::pin;

use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use tokio::net::TcpStream;
use tokio_util::bytes::Bytes;

/// The method's path.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// How much of an answer is read: it is a frame's head and an enum.
const ANSWER_MAX: usize = 4096;
/// `SERVING`, of `HealthCheckResponse.ServingStatus`.
const SERVING: u8 = 1;

/// Asks whether a server, or one of its services, serves. The error is for people.
pub(super) async fn check(address: SocketAddr, service: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let wrong = |error: h2::Error| format!("the answer: {error}");
    let (send, connection) = h2::client::handshake(stream).await.map_err(wrong)?;
    let mut answer = pin!(call(send, address, service));
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
    body: Vec<u8>,
    /// Where the gRPC status lies: the trailers, or the headers where there was nothing else.
    last: HeaderMap,
}

async fn call(send: SendRequest<Bytes>, address: SocketAddr, service: &str) -> Result<Answer, h2::Error> {
    let malformed = |_| h2::Error::from(Reason::PROTOCOL_ERROR);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{address}{CHECK}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/weft")
        .body(())
        .map_err(malformed)?;
    let mut send = send.ready().await?;
    let (response, mut body) = send.send_request(request, false)?;
    body.send_data(question(service), true)?;
    let (head, mut body) = response.await?.into_parts();
    let read = read(&mut body).await?;
    let last = body.trailers().await?.unwrap_or(head.headers);
    Ok(Answer {
        status: head.status,
        body: read,
        last,
    })
}

/// `HealthCheckRequest {service}` with its length in front: field 1, text.
fn question(service: &str) -> Bytes {
    let service: Vec<u8> = service.bytes().take(127).collect();
    let mut message = Vec::new();
    if let (Ok(length), false) = (u8::try_from(service.len()), service.is_empty()) {
        message.extend([0x0a, length]);
        message.extend(service);
    }
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap_or(u8::MAX)];
    framed.extend(message);
    framed.into()
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut read = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        if read.len() + piece.len() > ANSWER_MAX {
            return Err(Reason::ENHANCE_YOUR_CALM.into());
        }
        read.extend_from_slice(&piece);
    }
    Ok(read)
}

fn judge(answer: &Answer) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("status {}", answer.status.as_u16()));
    }
    let said = |name| answer.last.get(name).and_then(|value| value.to_str().ok());
    match said("grpc-status") {
        Some("0") => {}
        Some("12") => return Err(format!("{CHECK} is not implemented (gRPC status 12)")),
        Some(status) => {
            let message = said("grpc-message").unwrap_or_default();
            return Err(format!("gRPC status {status} {message}"));
        }
        None => return Err("the answer has no gRPC status".to_owned()),
    }
    // Not compressed, of this length; then field 1, a small number. A server that says nothing says 0: unknown.
    match answer.body[..] {
        [0, 0, 0, 0, 2, 0x08, SERVING] => Ok(()),
        [0, 0, 0, 0, 2, 0x08, status] => Err(format!("the app is not serving (status {status})")),
        _ => Err("the app does not say that it is serving".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one call so; what was asked comes back.
    async fn ask(service: &str, status: &'static str, message: &'static [u8]) -> (Result<(), String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!(request.uri().path(), CHECK);
            let answering = tokio::spawn(async move {
                let asked = read(&mut request.into_body()).await.unwrap();
                let head = http::Response::builder()
                    .header("content-type", "application/grpc")
                    .body(())
                    .unwrap();
                let mut body = respond.send_response(head, false).unwrap();
                body.send_data(Bytes::from_static(message), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                body.send_trailers(trailers).unwrap();
                asked
            });
            while connection.accept().await.is_some() {}
            answering.await.unwrap()
        });
        let result = check(address, service).await;
        (result, serve.await.unwrap())
    }

    #[tokio::test]
    async fn only_a_server_that_says_it_serves_is_well() {
        assert_eq!(
            ask("", "0", &[0, 0, 0, 0, 2, 8, 1]).await,
            (Ok(()), vec![0, 0, 0, 0, 0])
        );
        let (named, asked) = ask("shop", "0", &[0, 0, 0, 0, 2, 8, 1]).await;
        assert_eq!((named, asked.as_slice()), (Ok(()), &b"\0\0\0\0\x06\x0a\x04shop"[..]));
        for (status, message, wanted) in [
            ("0", &[0, 0, 0, 0, 2, 8, 2][..], "not serving (status 2)"),
            ("0", &[0, 0, 0, 0, 0], "does not say"),
            ("12", &[], "not implemented"),
            ("5", &[], "gRPC status 5"),
        ] {
            let said = ask("", status, message).await.0.unwrap_err();
            assert!(said.contains(wanted), "{said}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(check(address, "").await.is_err());
    }
}
