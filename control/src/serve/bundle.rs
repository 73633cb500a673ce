//! The SPIFFE bundle endpoint: our own trust bundle, for anybody (SPIFFE Federation, profile `https_spiffe`).
//!
//! In: connections over TLS with our own X.509-SVID. Out: the bundle as a JWK set, to GET at any path: there is nothing else
//! here. One request for each connection, all in all within a few seconds.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::time::timeout;
use weft_certs::spiffe;
use weft_daemon::drain::Tasks;

use super::listen::Connection;
use crate::authority::Issuer;

/// What is spoken there.
pub(crate) const ALPN: &[u8] = b"http/1.1";
/// How often others are to ask: what the link tells at once comes by this within a minute.
const REFRESH_HINT: Duration = Duration::from_secs(60);
/// What one request may take, from the handshake's end to the last byte of the answer.
const REQUEST: Duration = Duration::from_secs(5);
/// The head of a request, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// Answers until the tasks drain.
pub(crate) async fn serve(mut connections: mpsc::Receiver<io::Result<Connection>>, issuer: Arc<Issuer>, tasks: Tasks) {
    loop {
        let next = tokio::select! {
            biased; // the end first: nobody needs an answer that is about to be cut
            () = tasks.draining() => return,
            next = connections.recv() => next,
        };
        match next {
            Some(Ok(connection)) => drop(tasks.spawn(one(connection, issuer.clone()))),
            Some(Err(_)) => {}
            None => return,
        }
    }
}

async fn one(connection: Connection, issuer: Arc<Issuer>) {
    let service = service_fn(|request| ready(Ok::<_, Infallible>(answer(&request, &issuer))));
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .keep_alive(false)
        .max_buf_size(HEAD_MAX);
    // Who is slow, or goes, has nothing of it; that is nobody's business here.
    let _ = timeout(REQUEST, server.serve_connection(TokioIo::new(connection), service)).await;
}

fn answer<B>(request: &Request<B>, issuer: &Issuer) -> Response<Full<Bytes>> {
    let own = issuer.bundles().get(issuer.trust_domain());
    let (&Method::GET, Some(bundle)) = (request.method(), own) else {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        refused
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET"));
        return refused;
    };
    let mut shown = Response::new(Full::from(spiffe::to_json(bundle, REFRESH_HINT)));
    shown
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    shown
}
