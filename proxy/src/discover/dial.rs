//! Discover: the proxy's own connections, to the control plane and to the collector.
//!
//! In: a host and port, and whom to expect there. Out: a gRPC channel over exactly one connection, which carries the mark.
//! The connection is made before the channel, so that its errors keep their meaning and nothing is sent to a stranger.

use std::future::{Ready, ready};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use weft_certs::verify;

use crate::connect::{ConnectError, Dialer};
use crate::io::Io;
use crate::tls;

/// How long finding the address, connecting and the handshake may take, each.
const STEP: Duration = Duration::from_secs(5);
/// How often a silent connection is asked whether the other side is still there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve, or is none.
    #[error("finding the address of {0}")]
    Resolve(String, #[source] io::Error),
    /// No address answers.
    #[error("connecting to {0}")]
    Connect(String, #[source] ConnectError),
    /// Who is there is not whom we expect. Nothing was sent but the handshake's first message.
    #[error("{0} is not who it must be")]
    Stranger(String, #[source] io::Error),
    /// The handshake failed for another reason.
    #[error("the handshake with {0} failed")]
    Tls(String, #[source] io::Error),
    /// HTTP/2 did not begin.
    #[error("speaking to {0}")]
    Speak(String, #[source] tonic::transport::Error),
}

/// Opens a channel. `at`: `host:port`. With a TLS configuration, the identity that it expects is verified first.
pub(crate) async fn channel(mark: Option<u32>, at: &str, tls: Option<Arc<ClientConfig>>) -> Result<Channel, DialError> {
    let io = connect(mark, at, tls).await?;
    let speak = |error| DialError::Speak(at.to_owned(), error);
    // The scheme says nothing here: TLS lies below.
    let endpoint = Endpoint::from_shared(format!("http://{at}")).map_err(speak)?;
    endpoint
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_timeout(STEP)
        .connect_with_connector(Once(Arc::new(Mutex::new(Some(io)))))
        .await
        .map_err(speak)
}

async fn connect(mark: Option<u32>, at: &str, config: Option<Arc<ClientConfig>>) -> Result<Io, DialError> {
    let resolve = |error| DialError::Resolve(at.to_owned(), error);
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let addresses = timeout(STEP, tokio::net::lookup_host(at))
        .await
        .map_err(|_| resolve(late()))?
        .map_err(resolve)?;
    let dialer = Dialer {
        mark,
        connect_timeout: STEP,
        handshake_timeout: STEP,
    };
    let mut last = None;
    // A name has few addresses, and another may answer where one does not.
    for address in addresses.take(4) {
        match dialer.tcp(address, None).await {
            Ok(socket) => {
                let Some(config) = config else {
                    return Ok(Io::plain(socket));
                };
                let host = at
                    .rsplit_once(':')
                    .map_or(at, |(host, _)| host)
                    .trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_owned());
                let name = name.map_err(|error| resolve(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let shaken = timeout(STEP, tls::connect(config, name, socket))
                    .await
                    .map_err(|_| late());
                let shaken = shaken.and_then(|shaken| shaken);
                return shaken.map(|shaken| Io::tls(shaken.stream)).map_err(|error| {
                    if is_stranger(&error) {
                        DialError::Stranger(at.to_owned(), error)
                    } else {
                        DialError::Tls(at.to_owned(), error)
                    }
                });
            }
            Err(error) => last = Some(error),
        }
    }
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    Err(last.map_or_else(|| resolve(none), |error| DialError::Connect(at.to_owned(), error)))
}

fn is_stranger(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_some_and(verify::is_certificate_error)
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // tonic prints some causes within the error that they caused.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Hands over one connection, once: a channel that lost it is of no use any more.
#[derive(Clone)]
struct Once(Arc<Mutex<Option<Io>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<Io>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Io>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let io = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready(io.map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
