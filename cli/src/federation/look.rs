//! Who answers at an endpoint: its certificate is looked at, and nothing else. No connection comes of it, whoever it is: the
//! handshake is ended when the certificate is there.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_control::objects::host_port::HostPort;

/// How long the name, the connection and the handshake may take, each.
const STEP: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;

/// How far it came.
#[derive(Debug)]
pub(super) enum Answer {
    /// The name has no address.
    NoName(io::Error),
    /// No address answers.
    NoPort(io::Error),
    /// It speaks no TLS as the mesh does.
    NoTls(io::Error),
    /// It answers, and was not asked for more.
    Open,
    /// It shows these certificates, the leaf first.
    Shows(Vec<CertificateDer<'static>>),
}

/// Looks at an endpoint, from here. `speaks`: what is spoken there, as its ALPN token.
pub(super) async fn at(endpoint: &HostPort, speaks: &[u8]) -> Answer {
    match connected(endpoint).await {
        Ok((tcp, name)) => shaken(tcp, name, speaks).await,
        Err(answer) => answer,
    }
}

/// Looks whether anything answers at a gateway, from here: it has no certificate of its own to show.
pub(super) async fn gateway(gateway: &HostPort) -> Answer {
    connected(gateway).await.map_or_else(|answer| answer, |_| Answer::Open)
}

async fn connected(endpoint: &HostPort) -> Result<(TcpStream, ServerName<'static>), Answer> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let looked = timeout(STEP, lookup_host(endpoint.to_string()))
        .await
        .unwrap_or_else(|_| Err(late()));
    let addresses = match looked {
        Ok(addresses) => addresses,
        Err(error) => return Err(Answer::NoName(error)),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.take(ADDRESSES) {
        match timeout(STEP, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(late()))
        {
            Ok(tcp) => return Ok((tcp, ServerName::from(address.ip()))),
            Err(error) => last = error,
        }
    }
    Err(Answer::NoPort(last))
}

async fn shaken(tcp: TcpStream, name: ServerName<'static>, speaks: &[u8]) -> Answer {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let eye = Arc::new(Eye {
        provider: provider.clone(),
        seen: OnceLock::new(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3");
    // Nobody is trusted by it: see `Eye`.
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(eye.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![speaks.to_vec()];
    let shaken = timeout(STEP, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await;
    match (eye.seen.get(), shaken) {
        (Some(chain), _) => Answer::Shows(chain.clone()),
        (None, Ok(Err(error))) => Answer::NoTls(error),
        (None, Ok(Ok(_)) | Err(_)) => Answer::NoTls(io::ErrorKind::TimedOut.into()),
    }
}

/// Keeps what a server shows, and refuses every server.
#[derive(Debug)]
struct Eye {
    provider: Arc<CryptoProvider>,
    seen: OnceLock<Vec<CertificateDer<'static>>>,
}

fn refused() -> Error {
    Error::General("it was only looked at".to_owned())
}

impl ServerCertVerifier for Eye {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(leaf)
            .chain(intermediates)
            .map(|der| der.clone().into_owned());
        self.seen.get_or_init(|| chain.collect());
        Err(refused())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    async fn listener() -> (TcpListener, HostPort) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        (listener, endpoint)
    }

    #[tokio::test]
    async fn the_certificate_of_who_answers_is_seen_and_no_connection_comes_of_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(Vec::new())
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let der = leaf.der().clone();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let (listener, endpoint) = listener().await;
        let serve = async {
            let (tcp, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map(|_| ())
        };
        let (answer, served) = tokio::join!(at(&endpoint, b"h2"), serve);
        assert!(matches!(answer, Answer::Shows(chain) if chain == [der]));
        assert!(served.is_err(), "the handshake must not end well");
    }

    #[tokio::test]
    async fn who_speaks_no_tls_and_who_is_not_there_are_told_apart() {
        let (listener, endpoint) = listener().await;
        let serve = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(at(&endpoint, b"h2"), serve);
        assert!(matches!(answer, Answer::NoTls(_)), "{answer:?}");
        assert!(matches!(gateway(&endpoint).await, Answer::Open), "no TLS is asked for");
        drop(listener);
        assert!(matches!(at(&endpoint, b"h2").await, Answer::NoPort(_)));
        assert!(matches!(gateway(&endpoint).await, Answer::NoPort(_)));
        let nowhere = "weft.invalid:15013".parse().unwrap();
        assert!(matches!(at(&nowhere, b"h2").await, Answer::NoName(_)));
    }
}
