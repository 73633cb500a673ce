//! Exchanges over pipes: a client, the proxy's server and forwarding, and servers, in one thread under paused time.
//!
//! What is written here by hand is what stands on the wire. A wait that lasts a simulated second fails.

mod h1;
mod h2;
mod internal;
mod limits;
mod translate;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ::h2::client::SendRequest;
use ::h2::server::SendResponse;
use ::h2::{RecvStream, SendStream};
use ::http::{HeaderMap, Request};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::*;
use crate::http::client::{handshake_h1, handshake_h2};
use crate::http::closing::Closing;
use crate::http::limits::Limits;
use crate::http::server::{ConnError, RequestService, ServeContext, serve};
use crate::http::{HttpVersion, Origin};
use crate::io::Io;

const SECOND: Duration = Duration::from_secs(1);
/// What a pipe holds in each direction.
const PIPE: usize = 4096;

/// Forwards every request to the first upstream there is, and to the next where that is allowed.
#[derive(Default)]
struct Service {
    upstreams: RefCell<VecDeque<Upstream>>,
    outcomes: RefCell<Vec<Result<Done, ForwardError>>>,
    refusals: RefCell<Vec<Reason>>,
}

impl RequestService for Service {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        loop {
            let Some(mut upstream) = self.upstreams.borrow_mut().pop_front() else {
                return exchange.refuse(Reason::NoEndpoints).await;
            };
            let shared = match &upstream {
                Upstream::H2(client) => Some(client.clone()),
                Upstream::H1(_) => None,
            };
            if let Some(client) = shared {
                self.upstreams.borrow_mut().push_back(Upstream::H2(client));
            }
            let outcome = exchange.forward(&mut upstream).await;
            let again = match &outcome {
                Ok(done) => {
                    if let (true, Upstream::H1(_)) = (done.reusable, &upstream) {
                        self.upstreams.borrow_mut().push_front(upstream);
                    }
                    None
                }
                Err(error) => Some((error.reason, error.replayable)),
            };
            self.outcomes.borrow_mut().push(outcome);
            assert!(self.outcomes.borrow().len() < 1000, "it is tried again without end");
            match again {
                None => return,
                Some((_, true)) => {
                    // An HTTP/2 connection that gave the request back is not asked again.
                    self.upstreams
                        .borrow_mut()
                        .retain(|other| matches!(other, Upstream::H1(_)) || is_open(other));
                }
                Some((reason, false)) => return exchange.refuse(reason).await,
            }
        }
    }

    fn refused(&self, reason: Reason) {
        self.refusals.borrow_mut().push(reason);
    }
}

fn is_open(upstream: &Upstream) -> bool {
    matches!(upstream, Upstream::H2(client) if client.is_open())
}

impl Service {
    /// The only outcome so far.
    #[track_caller]
    fn outcome(&self) -> Result<Done, ForwardError> {
        let mut outcomes = self.outcomes.borrow_mut();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        outcomes.remove(0)
    }
}

struct Proxy {
    service: Rc<Service>,
    closing: Closing,
    task: JoinHandle<Result<(), ConnError>>,
}

impl Proxy {
    /// How the connection ended.
    async fn ended(self) -> Result<(), ConnError> {
        timeout(100 * SECOND, self.task)
            .await
            .expect("the connection ends")
            .unwrap()
    }
}

/// A proxy before these upstreams, and the client's end of a connection to it.
fn proxy(version: HttpVersion, upstreams: Vec<Upstream>) -> (Io, Proxy) {
    proxy_for(Origin::Outside, version, upstreams)
}

/// The same for a client of this origin.
fn proxy_for(origin: Origin, version: HttpVersion, upstreams: Vec<Upstream>) -> (Io, Proxy) {
    proxy_within(Limits::default(), origin, version, upstreams)
}

/// The same within these limits.
fn proxy_within(limits: Limits, origin: Origin, version: HttpVersion, upstreams: Vec<Upstream>) -> (Io, Proxy) {
    let (client, near) = Io::pipe(PIPE);
    let service = Rc::new(Service {
        upstreams: RefCell::new(upstreams.into()),
        ..Service::default()
    });
    let closing = Closing::new();
    let context = ServeContext {
        limits,
        closing: closing.clone(),
        origin,
        authority: Some("10.0.0.1:80".parse().unwrap()),
    };
    let task = spawn_local(serve(near, version, service.clone(), context));
    (client, Proxy { service, closing, task })
}

fn h1_upstream() -> (Upstream, Io) {
    let (near, server) = Io::pipe(PIPE);
    (Upstream::H1(handshake_h1(near, None)), server)
}

/// An HTTP/1.1 client, proxy and server.
fn h1_pair() -> (Io, Proxy, Io) {
    let (upstream, server) = h1_upstream();
    let (client, proxy) = proxy(HttpVersion::H1, vec![upstream]);
    (client, proxy, server)
}

/// A server that speaks HTTP/2: streams come out of it.
struct Server {
    streams: mpsc::UnboundedReceiver<(Request<RecvStream>, SendResponse<Bytes>)>,
    stop: mpsc::UnboundedSender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn accept(&mut self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        timeout(SECOND, self.streams.recv())
            .await
            .expect("a stream comes")
            .expect("the connection stands")
    }

    /// Sends GOAWAY.
    fn stop(&self) {
        self.stop.send(()).unwrap();
    }

    /// Drops the connection.
    fn kill(&self) {
        self.task.abort();
    }
}

async fn h2_upstream() -> (Upstream, Server) {
    let (near, far) = Io::pipe(PIPE);
    let (ours, theirs) = tokio::join!(
        handshake_h2(near, Limits::default()),
        ::h2::server::Builder::new().handshake::<_, Bytes>(far)
    );
    let ((client, driver), mut connection) = (ours.unwrap(), theirs.unwrap());
    spawn_local(driver.run());
    let (give, streams) = mpsc::unbounded_channel();
    let (stop, mut stopped) = mpsc::unbounded_channel();
    let task = spawn_local(async move {
        loop {
            tokio::select! {
                stream = connection.accept() => match stream {
                    Some(Ok(stream)) => drop(give.send(stream)),
                    _ => return,
                },
                Some(()) = stopped.recv() => connection.graceful_shutdown(),
            }
        }
    });
    (Upstream::H2(client), Server { streams, stop, task })
}

/// An HTTP/2 client of a connection.
async fn h2_client(io: Io) -> SendRequest<Bytes> {
    let (sender, connection) = ::h2::client::Builder::new().handshake::<_, Bytes>(io).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    sender
}

/// An HTTP/2 client, proxy and server.
async fn h2_pair() -> (SendRequest<Bytes>, Proxy, Server) {
    let (upstream, server) = h2_upstream().await;
    let (client, proxy) = proxy(HttpVersion::H2, vec![upstream]);
    (h2_client(client).await, proxy, server)
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(Box::pin(test)).await
}

async fn send(io: &mut Io, text: &str) {
    timeout(SECOND, io.write_all(text.as_bytes()))
        .await
        .expect("it is taken")
        .unwrap();
}

/// These bytes come, and are all that comes for now.
#[track_caller]
fn expect(io: &mut Io, want: &str) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while got.len() < want.len() {
            match timeout(SECOND, io.read(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => got.extend_from_slice(&buffer[..n]),
                other => {
                    panic!(
                        "{place}: wanted {want:?}, got {:?}, then {other:?}",
                        String::from_utf8_lossy(&got)
                    )
                }
            }
        }
        assert_eq!(String::from_utf8_lossy(&got), want, "{place}");
    }
}

/// Nothing comes.
async fn expect_silence(io: &mut Io) {
    let mut buffer = [0; 64];
    let read = timeout(SECOND / 10, io.read(&mut buffer)).await;
    assert!(read.is_err(), "{read:?} {:?}", String::from_utf8_lossy(&buffer));
}

/// The stream ends, now.
async fn expect_end(io: &mut Io) {
    let mut rest = Vec::new();
    timeout(SECOND, io.read_to_end(&mut rest))
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

/// All that comes until the stream ends.
async fn read_all(io: &mut Io) -> String {
    let mut all = Vec::new();
    timeout(SECOND, io.read_to_end(&mut all))
        .await
        .expect("it ends")
        .unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// All data of a body, and its trailers.
async fn read_body(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), ::h2::Error> {
    let mut all = Vec::new();
    while let Some(piece) = timeout(SECOND, body.data()).await.expect("data comes") {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok((all, body.trailers().await?))
}

/// Nothing more comes of a body.
async fn expect_last(body: &mut RecvStream) {
    while let Some(piece) = timeout(SECOND, body.data()).await.expect("it ends") {
        assert!(piece.unwrap().is_empty());
    }
}

fn trailers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}

/// A request by HTTP/2.
fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().method(method).uri(format!("http://a{path}"));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

fn data(stream: &mut SendStream<Bytes>, text: &'static str, ends: bool) {
    stream.send_data(Bytes::from_static(text.as_bytes()), ends).unwrap();
}
