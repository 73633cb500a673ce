//! Calls of strangers: TLS that takes any server, with or without a certificate, and a federation stream over it.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::unistd::Pid;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use weft_proto::discovery::{FromControl, FromProxy, Hello, Resource, from_control, from_proxy};
use weft_proto::federation::federation_client::FederationClient;

use super::root::Shown;
use super::{Foreign, by, runtime};

/// How long a stranger waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of following a cluster.
#[derive(Debug)]
pub enum Followed {
    /// TLS did not come to be, or was ended.
    Unheard(String),
    /// It was refused.
    Refused(Status),
    /// It was told this, at first.
    Told(Vec<Resource>),
}

/// A client that takes any server, shows this, and offers these protocols.
#[must_use]
pub fn config(shows: Option<&Shown>, alpn: &[&str]) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAnyone));
    let mut config = match shows {
        Some(shown) => config
            .with_client_auth_cert(shown.chain.clone(), shown.key.clone_key())
            .expect("the key is the leaf's"),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|token| token.as_bytes().to_vec()).collect();
    config.enable_sni = true;
    Arc::new(config)
}

/// Opens a connection from the network of a process, says these bytes, and waits for its end: what came back.
#[track_caller]
pub fn say(network: Pid, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let (runtime, bytes) = (runtime(network), bytes.to_vec());
    by(&runtime, async move {
        let mut tcp = TcpStream::connect(to).await.expect("somebody listens");
        tcp.write_all(&bytes).await.expect("it is taken");
        let mut came = Vec::new();
        let read = timeout(PATIENCE * 2, tcp.read_to_end(&mut came)).await;
        // By a reset or in order: closed it is.
        let _ = read.expect("it is closed in time");
        came
    })
}

/// Shakes hands from the network of a process, for a server of this name; then a request. What came back, or why nothing did.
#[track_caller]
pub fn ask(network: Pid, to: SocketAddr, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<String> {
    let runtime = runtime(network);
    by(&runtime, async move {
        let asked = async {
            let tcp = TcpStream::connect(to).await?;
            let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
            tls.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")
                .await?;
            let mut came = Vec::new();
            tls.read_to_end(&mut came).await?;
            Ok(String::from_utf8_lossy(&came).into_owned())
        };
        let late = |_| Err(io::ErrorKind::TimedOut.into());
        timeout(PATIENCE * 2, asked).await.unwrap_or_else(late)
    })
}

impl Foreign {
    /// Follows a cluster, as whoever it shows to be, and says these messages: with more than one, what comes of all of them.
    /// `stay`: the stream is left open for as long as this lives.
    #[track_caller]
    pub fn follow(&self, to: SocketAddr, shows: Option<&Shown>, first: &[from_proxy::Message], stay: bool) -> Followed {
        let config = config(shows, &["h2"]);
        let first = first.to_vec();
        by(&self.runtime, async move {
            match timeout(PATIENCE, follow(to, config, first, stay)).await {
                Ok(followed) => followed,
                Err(_) => Followed::Unheard("nothing in time".to_owned()),
            }
        })
    }

    /// The same with a Hello, as its own control plane, which stays.
    #[track_caller]
    pub fn follow_well(&self, to: SocketAddr, hello: Hello) {
        let shown = self.root.leaf(&super::Leaf::of(&[&self.root.control()]));
        let followed = self.follow(to, Some(&shown), &[from_proxy::Message::Hello(hello)], true);
        assert!(matches!(followed, Followed::Told(_)), "{followed:?}");
    }
}

/// A connection over which gRPC is spoken.
pub(super) async fn connect(to: SocketAddr, config: Arc<ClientConfig>) -> Result<Channel, String> {
    let shaken = async {
        let tcp = TcpStream::connect(to).await?;
        TlsConnector::from(config).connect(ServerName::from(to.ip()), tcp).await
    };
    let tls = shaken.await.map_err(|error| error.to_string())?;
    let endpoint = Endpoint::from_shared(format!("http://{to}")).expect("an address");
    let channel = endpoint.connect_with_connector(Once(Arc::new(Mutex::new(Some(tls)))));
    channel.await.map_err(|error| error.to_string())
}

async fn follow(to: SocketAddr, config: Arc<ClientConfig>, first: Vec<from_proxy::Message>, stay: bool) -> Followed {
    let channel = match connect(to, config).await {
        Ok(channel) => channel,
        Err(error) => return Followed::Unheard(error),
    };
    let says_more = first.len() > 1;
    let messages = first.into_iter().map(|message| FromProxy { message: Some(message) });
    let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let mut stream = match FederationClient::new(channel).follow(messages).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Followed::Refused(status),
    };
    let told = match stream.message().await {
        Ok(Some(FromControl {
            message: Some(from_control::Message::Batch(batch)),
        })) => batch.resources,
        Ok(other) => return Followed::Unheard(format!("{other:?}")),
        Err(status) => return Followed::Refused(status),
    };
    if says_more {
        // What comes of the first is told already; what ends the stream comes of the others.
        return loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break Followed::Unheard("the end".to_owned()),
                Err(status) => break Followed::Refused(status),
            }
        };
    }
    if stay {
        tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    }
    Followed::Told(told)
}

/// Hands over one connection, once.
#[derive(Clone)]
struct Once(Arc<Mutex<Option<TlsStream<TcpStream>>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let tls = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready(tls.map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

#[derive(Debug)]
struct TakesAnyone;

impl ServerCertVerifier for TakesAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
