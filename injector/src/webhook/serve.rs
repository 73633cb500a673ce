//! HTTPS: a review in, the answer out.
//!
//! One request for each connection: pods are made seldom enough for that, no connection idles while the certificate changes
//! or the process ends, and several replicas share the work. Whoever reaches the port may send what he likes, so everything
//! is bounded: connections, over all and from one address; the time for a handshake, headers, a body and an answer; the
//! bytes and the values of a body, and of all bodies that are held at once. What is counted is what has arrived, and never
//! what was announced.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use weft_daemon::addresses::Addresses;
use weft_daemon::drain::Tasks;

use super::metrics::Metrics;
use super::namespaces::{Found, Namespaces};
use crate::review::{self, Outcome, Review, Subject, Verdict};
use crate::settings::InjectSettings;

/// Where reviews arrive.
const PATH: &str = "/inject";
/// The bytes of a body. The API server's own objects are smaller.
const BODY_MAX: usize = 3 << 20;
/// The bytes of a usual body, which the bound of connections is enough for.
const USUAL: usize = 64 << 10;
/// The bytes of all larger bodies that are held at once: two of the largest.
const LARGE_MAX: usize = 8 << 20;
/// Larger bodies that one address may send at once. More wait.
const LARGE_PER_ADDRESS: usize = 2;
/// The values of all bodies that are read at once: a value may take some hundred bytes.
const READ_MAX: usize = 2 * review::VALUES_MAX;
/// Time for a handshake, for headers and for a body. They come from the API server's own network.
const ARRIVAL: Duration = Duration::from_secs(2);
/// Time for the answer, which leaves the API server's five seconds some room.
const ANSWER: Duration = Duration::from_secs(4);
/// Time for all of it, a peer that does not read included.
const WHOLE: Duration = Duration::from_secs(12);

/// What is served, and from what.
pub(super) struct Webhook {
    pub(super) settings: InjectSettings,
    /// Weft's own namespace.
    pub(super) own: String,
    pub(super) namespaces: Namespaces,
    pub(super) metrics: Arc<Metrics>,
    large: Semaphore,
    read: Semaphore,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) per_address: usize,
}

type Response = http::Response<Full<Bytes>>;

/// Accepts until the process has drained for `linger`: until then there are API servers that know no other replica.
pub(super) async fn serve(
    webhook: Arc<Webhook>,
    listener: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    bounds: Bounds,
    linger: Duration,
    tasks: Tasks,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let addresses = Addresses::<Large>::new(bounds.per_address);
    let connections = tasks.named("reviews");
    let ending = async {
        tasks.draining().await;
        sleep(linger).await;
    };
    tokio::pin!(ending);
    loop {
        let accepted = tokio::select! {
            biased; // an end must not wait for a slot
            () = &mut ending => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (slot, stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, say: others will be freed.
                tracing::warn!(%error, "accepting a connection failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = addresses.take(from.ip()) else {
            webhook.metrics.turned_away();
            continue;
        };
        let Some(config) = tls.borrow().clone() else {
            continue; // not ready yet, as /ready says
        };
        let webhook = webhook.clone();
        connections.spawn(async move {
            match timeout(WHOLE, connection(webhook, stream, config, place.shared.clone())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, %from, "a connection failed"),
                Err(_) => tracing::debug!(%from, "a connection took too long"),
            }
            drop((slot, place));
        });
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, from) = listener.accept().await?;
    Ok((slot, stream, from))
}

async fn connection(
    webhook: Arc<Webhook>,
    stream: TcpStream,
    config: Arc<ServerConfig>,
    of_address: Arc<Large>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = timeout(ARRIVAL, TlsAcceptor::from(config).accept(stream)).await??;
    let service = service_fn(move |request| {
        let (webhook, of_address) = (webhook.clone(), of_address.clone());
        async move { Ok::<_, Infallible>(webhook.answer(request, &of_address.0).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVAL)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

impl Webhook {
    pub(super) fn new(settings: InjectSettings, own: String, namespaces: Namespaces, metrics: Arc<Metrics>) -> Self {
        Self {
            settings,
            own,
            namespaces,
            metrics,
            large: Semaphore::new(LARGE_MAX),
            read: Semaphore::new(READ_MAX),
        }
    }

    /// `of_address`: the larger bodies that whoever asks may still send.
    async fn answer(&self, request: http::Request<Incoming>, of_address: &Semaphore) -> Response {
        let began = Instant::now();
        let (outcome, response) = match timeout(ANSWER, self.reviewed(request, of_address)).await {
            Ok(answered) => answered,
            Err(_) => (
                "failed",
                text(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long"),
            ),
        };
        self.metrics.ended(outcome, began.elapsed());
        response
    }

    /// The answer, and a word for it.
    async fn reviewed(&self, request: http::Request<Incoming>, of_address: &Semaphore) -> (&'static str, Response) {
        if let Err(response) = acceptable(&request) {
            return ("malformed", *response);
        }
        // Held while the body is, and all that is made of it.
        let (body, _held) = match timeout(ARRIVAL, self.collect(request.into_body(), of_address)).await {
            Ok(Ok(body)) => body,
            Ok(Err(reason)) => return ("malformed", text(StatusCode::BAD_REQUEST, &reason)),
            Err(_) => return ("malformed", text(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        };
        // One of more values than there may be is refused before it is read.
        let values = review::values(&body).min(review::VALUES_MAX);
        let Ok(_read) = self.read.acquire_many(values.try_into().unwrap_or(u32::MAX)).await else {
            return ("failed", text(StatusCode::SERVICE_UNAVAILABLE, "the webhook ends"));
        };
        let Review { uid, subject } = match review::read(&body) {
            Ok(review) => review,
            Err(reason) => return ("malformed", text(StatusCode::BAD_REQUEST, &reason)),
        };
        let verdict = match subject {
            Subject::Other => Outcome::Skipped.into(),
            Subject::Broken(reason) => Outcome::Refused(400, reason).into(),
            Subject::Pod { namespace, pod } => self.judge(&namespace, &pod).await,
        };
        let word = verdict.outcome.word();
        match review::answer(&uid, verdict) {
            Ok(json) => (word, with_type(StatusCode::OK, "application/json", json.into())),
            Err(error) => (
                "failed",
                text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer: {error}")),
            ),
        }
    }

    /// The body, and what counts it while it is held. The error says why there is none.
    async fn collect<'a>(&'a self, mut body: Incoming, of_address: &'a Semaphore) -> Result<(Bytes, Held<'a>), String> {
        let mut all = BytesMut::new();
        let mut held = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the body could not be read: {error}"))?;
            let Ok(data) = frame.into_data() else {
                continue; // trailers
            };
            if all.len() + data.len() > BODY_MAX {
                return Err("a review has at most 3 MiB".to_owned());
            }
            if all.len() + data.len() > USUAL {
                // Only the bytes beyond the usual ones that were not counted yet.
                let more = data.len() - USUAL.saturating_sub(all.len());
                let ends = |_| "the webhook ends".to_owned();
                if held.is_none() {
                    let place = of_address.acquire().await.map_err(ends)?;
                    held = Some((place, self.large.acquire_many(0).await.map_err(ends)?));
                }
                let more = self.large.acquire_many(more.try_into().unwrap_or(u32::MAX)).await;
                let more = more.map_err(ends)?;
                if let Some((_, bytes)) = &mut held {
                    bytes.merge(more);
                }
            }
            all.extend_from_slice(&data);
        }
        Ok((all.freeze(), held))
    }

    async fn judge(&self, namespace: &str, pod: &Value) -> Verdict {
        if review::is_exempt(namespace, &self.own) {
            return Outcome::Skipped.into();
        }
        let Found { object, stale } = match self.namespaces.get(namespace).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(namespace, error = review::logged(&error), "the Namespace is not known");
                return not_known(&format!("whether pods of Namespace {namespace} are injected"), &error);
            }
        };
        let verdict = match stale {
            None => review::judge(pod, &object, &self.settings, rand::random()),
            Some(error) => {
                let error = review::logged(&error);
                tracing::warn!(namespace, error, "the last known Namespace counts");
                let judged = review::judge_by_last_known(pod, &object, &self.settings, rand::random());
                judged.unwrap_or_else(|what| not_known(&format!("{what} in Namespace {namespace}"), &error))
            }
        };
        if let Outcome::Refused(_, reason) = &verdict.outcome {
            let (pod, reason) = (review::logged(review::name(pod)), review::logged(reason));
            tracing::info!(namespace, pod, reason, "a pod is refused");
        }
        verdict
    }
}

/// What counts a body: nothing for a usual one, else a place of its address, and its bytes.
type Held<'a> = Option<(SemaphorePermit<'a>, SemaphorePermit<'a>)>;

fn not_known(what: &str, error: &str) -> Verdict {
    let reason =
        format!("{what} is not known, as the API server does not say ({error}); it is tried again with the pod");
    Outcome::Refused(503, reason).into()
}

/// Whether the request is one for us.
fn acceptable(request: &http::Request<Incoming>) -> Result<(), Box<Response>> {
    let refuse = |status, reason| Err(Box::new(text(status, reason)));
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, "there is no such path");
    }
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "reviews are sent by POST");
    }
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(|kind| {
        kind.split(|b| *b == b';')
            .next()
            .is_some_and(|kind| kind == b"application/json")
    }) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "reviews are application/json");
    }
    match request.body().size_hint().exact().map(usize::try_from) {
        Some(Ok(length)) if length <= BODY_MAX => Ok(()),
        Some(_) => refuse(StatusCode::PAYLOAD_TOO_LARGE, "a review has at most 3 MiB"),
        None => refuse(StatusCode::LENGTH_REQUIRED, "a review says how long it is"),
    }
}

fn text(status: StatusCode, reason: &str) -> Response {
    with_type(status, "text/plain; charset=utf-8", format!("{reason}\n").into())
}

fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The larger bodies that an address may still send.
#[derive(Debug)]
struct Large(Semaphore);

impl Default for Large {
    fn default() -> Self {
        Self(Semaphore::new(LARGE_PER_ADDRESS))
    }
}

#[cfg(test)]
mod tests;
