//! A control plane for unit tests: real TLS, real gRPC, a real authority; it says what the test tells it to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use weft_certs::authority::Authority;
use weft_certs::csr;
use weft_model::identity::Identity;
use weft_proto::discovery::discovery_server::{Discovery, DiscoveryServer};
use weft_proto::discovery::{FromControl, FromProxy, from_control, from_proxy};
use weft_proto::identity as wire;
use weft_proto::identity::identity_server::{Identity as Issuing, IdentityServer};
use weft_proto::resource::bundles::to_identity;

use crate::discover::testing::*;

/// A control plane that runs. Dropping it kills it.
pub(super) struct Control {
    pub(super) address: SocketAddr,
    /// What proxies say, in order.
    pub(super) said: mpsc::Receiver<from_proxy::Message>,
    /// Tokens that were sent.
    pub(super) tokens: Arc<Mutex<Vec<String>>>,
    /// Connections that were accepted, before TLS.
    pub(super) connections: Arc<AtomicUsize>,
    batches: broadcast::Sender<weft_proto::discovery::Batch>,
    /// A runtime of its own: killing it kills every task and connection.
    runtime: Option<tokio::runtime::Runtime>,
}

/// What its services share.
#[derive(Clone)]
struct Services {
    authority: Arc<Authority>,
    life: Duration,
    tokens: Arc<Mutex<Vec<String>>>,
    said: mpsc::Sender<from_proxy::Message>,
    batches: broadcast::Sender<weft_proto::discovery::Batch>,
}

impl Control {
    /// Starts one that shows this identity and issues leaves that live so long.
    pub(super) fn start(authority: &Arc<Authority>, who: &Identity, life: Duration) -> Self {
        Self::serve(
            std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            authority,
            who,
            life,
        )
    }

    pub(super) fn serve(
        listener: std::net::TcpListener,
        authority: &Arc<Authority>,
        who: &Identity,
        life: Duration,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (say, said) = mpsc::channel(64);
        let (batches, _) = broadcast::channel(64);
        let (tokens, connections): (Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>) = Default::default();
        let services = Services {
            authority: authority.clone(),
            life,
            tokens: tokens.clone(),
            said: say,
            batches: batches.clone(),
        };
        let own = credential(authority, who, Duration::from_secs(3600), 1);
        let acceptor = TlsAcceptor::from(own.server_config_optional(&[b"h2"]));
        let (accepted, incoming) = mpsc::channel(16);
        let counted = connections.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                // A proxy that refuses us ends the handshake.
                if let Ok(stream) = acceptor.accept(socket).await {
                    accepted.send(Ok::<_, std::io::Error>(Tls(stream))).await.unwrap();
                }
            }
        });
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(IdentityServer::new(services.clone()))
                .add_service(DiscoveryServer::new(services));
            server.serve_with_incoming(ReceiverStream::new(incoming)).await.unwrap();
        });
        Self {
            address,
            said,
            tokens,
            connections,
            batches,
            runtime: Some(runtime),
        }
    }

    /// Tells every proxy that listens.
    pub(super) fn tell(&self, batch: weft_proto::discovery::Batch) {
        assert!(self.batches.send(batch).is_ok(), "no proxy listens");
    }

    /// The next message.
    pub(super) async fn hear(&mut self) -> from_proxy::Message {
        tokio::time::timeout(Duration::from_secs(20), self.said.recv())
            .await
            .expect("a message")
            .unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

#[tonic::async_trait]
impl Issuing for Services {
    async fn issue(&self, request: Request<wire::IssueRequest>) -> Result<Response<wire::IssueResponse>, Status> {
        let request = request.into_inner();
        self.tokens.lock().unwrap().push(request.token);
        let key = csr::check(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = SystemTime::now();
        let leaf = self
            .authority
            .issue(&key, &identity("shop", "web"), self.life, now)
            .unwrap();
        Ok(Response::new(wire::IssueResponse {
            chain: leaf.chain.iter().map(|der| der.to_vec().into()).collect(),
            bundles: to_identity(&[roots(&self.authority.bundle(1))]),
            valid_for_ms: self.life.as_millis() as u64,
            now_unix_ms: now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64,
        }))
    }
}

#[tonic::async_trait]
impl Discovery for Services {
    type DiscoverStream = ReceiverStream<Result<FromControl, Status>>;

    async fn discover(&self, request: Request<Streaming<FromProxy>>) -> Result<Response<Self::DiscoverStream>, Status> {
        let (send, stream) = mpsc::channel(16);
        let (mut batches, said, mut incoming) = (self.batches.subscribe(), self.said.clone(), request.into_inner());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok(batch) = batches.recv() => {
                        let message = Some(from_control::Message::Batch(batch));
                        if send.send(Ok(FromControl { message })).await.is_err() {
                            return;
                        }
                    }
                    message = incoming.message() => match message {
                        Ok(Some(message)) => said.send(message.message.unwrap()).await.unwrap_or(()),
                        _ => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A TLS stream that tonic serves.
struct Tls(TlsStream<TcpStream>);

impl Connected for Tls {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
