//! A connection to a peer's control plane: exactly the identity that its ClusterPeer names, proved by the roots of its own
//! trust domain. The connection is made before the channel, so that its errors keep their meaning.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use weft_certs::verify;

use super::PING;
use crate::authority::Chain;
use crate::objects::host_port::HostPort;

/// How long finding the address, connecting and the handshake may take, each: a link heals within two seconds.
const STEP: Duration = Duration::from_secs(1);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// Why there is no channel. Each is a state of its own for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The name does not resolve.
    #[error("the name {0} does not resolve")]
    Resolve(HostPort, #[source] io::Error),
    /// No address answers.
    #[error("{0} does not answer")]
    Connect(HostPort, #[source] io::Error),
    /// Who is there cannot prove to be the peer.
    #[error("who answers at {0} is not the peer's control plane")]
    Stranger(HostPort, #[source] io::Error),
    /// The handshake failed for another reason.
    #[error("the TLS handshake with {0} failed")]
    Tls(HostPort, #[source] io::Error),
    /// HTTP/2 did not begin.
    #[error("{0} does not speak gRPC")]
    Speak(HostPort, #[source] tonic::transport::Error),
}

impl DialError {
    /// In one word: what would have to be mended.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Resolve(..) => "name",
            Self::Connect(..) => "port",
            Self::Stranger(..) => "identity",
            Self::Tls(..) => "tls",
            Self::Speak(..) => "protocol",
        }
    }
}

/// Why a connection broke, as TLS says it: gRPC says only that it did. A peer that does not take our certificate says so when
/// the handshake is over on our side (RFC 8446, section 4.4.2).
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    /// The first one, if there was any.
    pub(super) fn said(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: &io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            said.get_or_insert_with(|| format!("TLS alert {alert:?}"));
        }
    }
}

/// Opens a channel with what `tls` expects. What breaks it later is noted.
pub(super) async fn channel(at: &HostPort, tls: Arc<ClientConfig>, fault: &Fault) -> Result<Channel, DialError> {
    let io = Noted {
        io: connect(at, tls).await?,
        fault: fault.clone(),
    };
    let speak = |error| DialError::Speak(at.clone(), error);
    // The scheme says nothing here: TLS lies below.
    let endpoint = Endpoint::from_shared(format!("http://{at}")).map_err(speak)?;
    endpoint
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .connect_timeout(STEP)
        .connect_with_connector(Once(Arc::new(Mutex::new(Some(io)))))
        .await
        .map_err(speak)
}

/// Connects, and shakes hands as `config` expects.
pub(super) async fn connect(at: &HostPort, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialError> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let resolve = |error| DialError::Resolve(at.clone(), error);
    let looked = timeout(STEP, tokio::net::lookup_host(at.to_string())).await;
    let addresses = looked.map_err(|_| resolve(late()))?.map_err(resolve)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    // A name has few addresses, and another may answer where one does not.
    for address in addresses.take(ADDRESSES) {
        let tcp = timeout(STEP, TcpStream::connect(address)).await.map_err(|_| late());
        match tcp.and_then(|tcp| tcp) {
            Ok(tcp) => {
                // A batch is a few packets that somebody waits for. Without it everything still works.
                let _ = tcp.set_nodelay(true);
                // Whom to expect is not a name but an identity: the verifier has it.
                let name = ServerName::from(address.ip());
                let shaken = timeout(STEP, TlsConnector::from(config).connect(name, tcp)).await;
                let shaken = shaken.map_err(|_| late()).and_then(|shaken| shaken);
                return shaken.map_err(|error| match is_stranger(&error) {
                    true => DialError::Stranger(at.clone(), readable(error)),
                    false => DialError::Tls(at.clone(), error),
                });
            }
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect(at.clone(), last))
}

fn is_stranger(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_some_and(verify::is_certificate_error)
}

/// In the words of our verifier, where the reason is its own: TLS shows that as Rust's debug output.
fn readable(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(own))) => {
            io::Error::other(Chain(own.0.as_ref()).to_string())
        }
        _ => error,
    }
}

/// Hands over one connection, once: a channel that lost it is of no use any more.
#[derive(Clone)]
struct Once(Arc<Mutex<Option<Noted>>>);

/// A connection that notes why it broke.
struct Noted {
    io: TlsStream<TcpStream>,
    fault: Fault,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, into);
        if let Poll::Ready(Err(error)) = &read {
            self.fault.note(error);
        }
        read
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl Service<Uri> for Once {
    type Response = TokioIo<Noted>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let io = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready(io.map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
