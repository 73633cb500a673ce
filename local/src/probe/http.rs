//! One GET of a probe, as kubelet makes it.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::net::PodNet;

/// As Go's client, and so kubelet.
const REDIRECTS: usize = 10;
/// A head longer than this is no answer to a probe.
const HEAD_LIMIT: usize = 64 << 10;

/// What to get.
#[derive(Debug, Clone)]
pub(crate) struct Get<'a> {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) https: bool,
    pub(crate) headers: &'a [(String, String)],
    /// From within this pod, whatever the host; else from the node's side.
    pub(crate) within: Option<PodNet>,
}

/// Status 200 to 399 is success. Redirects are followed on the same host; one that leads elsewhere is success as it is.
pub(crate) async fn get(get: &Get<'_>) -> Result<(), String> {
    let mut path = get.path.clone();
    for _ in 0..=REDIRECTS {
        let head = exchange(get, &path).await.map_err(|error| error.to_string())?;
        let (status, location) = parse(&head).ok_or("the answer is not HTTP")?;
        match (status, location) {
            (300..=399, Some(location)) => match same_host(get, &location) {
                Some(next) => path = next,
                None => return Ok(()),
            },
            (200..=399, _) => return Ok(()),
            _ => return Err(format!("status {status}")),
        }
    }
    Err(format!("more than {REDIRECTS} redirects"))
}

async fn exchange(get: &Get<'_>, path: &str) -> io::Result<Vec<u8>> {
    let stream = match &get.within {
        Some(pod) => pod.dial(get.port).await?,
        None => TcpStream::connect((get.host.as_str(), get.port)).await?,
    };
    let request = request(get, path);
    if !get.https {
        return talk(stream, &request).await;
    }
    let name = ServerName::try_from(get.host.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await?;
    talk(stream, &request).await
}

fn request(get: &Get<'_>, path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let named = |name: &str| get.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    let mut request = format!("GET {slash}{path} HTTP/1.1\r\n");
    if !named("host") {
        let host = if get.host.contains(':') {
            format!("[{}]", get.host)
        } else {
            get.host.clone()
        };
        request += &format!("Host: {host}:{}\r\n", get.port);
    }
    if !named("user-agent") {
        request += "User-Agent: kube-probe/weft\r\n";
    }
    if !named("accept") {
        request += "Accept: */*\r\n";
    }
    for (key, value) in get.headers {
        request += &format!("{key}: {value}\r\n");
    }
    request + "Connection: close\r\n\r\n"
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 || head.len() + read > HEAD_LIMIT {
            break;
        }
        head.extend_from_slice(&chunk[..read]);
    }
    Ok(head)
}

/// Status and Location of a whole head.
fn parse(head: &[u8]) -> Option<(u16, Option<String>)> {
    let text = String::from_utf8_lossy(head);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let location = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    Some((status, location))
}

/// The path that a redirect leads to, if it stays on this host, port and scheme.
fn same_host(get: &Get<'_>, location: &str) -> Option<String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(location.to_owned());
    }
    let scheme = if get.https { "https://" } else { "http://" };
    let rest = location.strip_prefix(scheme)?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let host = if get.host.contains(':') {
        format!("[{}]", get.host)
    } else {
        get.host.clone()
    };
    (authority == format!("{host}:{}", get.port)).then(|| path.to_owned())
}

fn tls() -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Anyone(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Believes any certificate: Kubernetes' HTTPS probes ask whether the server answers, not who it is. Nothing secret is
/// sent, and nothing but the status is taken.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one request after the other with these heads; what was asked comes back.
    async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                asked.push(String::from_utf8_lossy(&request[..read]).into_owned());
                stream
                    .write_all(answer.replace("PORT", &port.to_string()).as_bytes())
                    .await
                    .unwrap();
            }
            asked
        });
        (port, served)
    }

    async fn probe(answers: &[&str], headers: &[(String, String)]) -> (Result<(), String>, Vec<String>) {
        let (port, served) = server(
            answers
                .iter()
                .map(|answer| format!("HTTP/1.1 {answer}\r\n\r\n"))
                .collect(),
        )
        .await;
        let result = get(&Get {
            host: "127.0.0.1".into(),
            port,
            path: "/ok?a=b".into(),
            https: false,
            headers,
            within: None,
        })
        .await;
        (result, served.await.unwrap())
    }

    #[tokio::test]
    async fn the_status_decides() {
        for (answer, well) in [
            ("200 OK", true),
            ("204 No Content", true),
            ("304 Same", true),
            ("400 Bad", false),
        ] {
            assert_eq!(probe(&[answer], &[]).await.0.is_ok(), well, "{answer}");
        }
        assert_eq!(probe(&["503 Away"], &[]).await.0, Err("status 503".into()));
    }

    #[tokio::test]
    async fn the_request_is_what_the_manifest_says() {
        let headers = [
            ("Host".to_owned(), "web.example".to_owned()),
            ("X-A".to_owned(), "1".to_owned()),
        ];
        let (_, asked) = probe(&["200 OK"], &headers).await;
        assert!(asked[0].starts_with("GET /ok?a=b HTTP/1.1\r\n"), "{asked:?}");
        assert_eq!(asked[0].matches("Host:").count(), 1);
        assert!(asked[0].contains("Host: web.example\r\n") && asked[0].contains("X-A: 1\r\n"));
    }

    #[tokio::test]
    async fn over_tls_any_certificate_will_do_but_not_any_status() {
        let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        for (answer, well) in [("200 OK", true), ("500 Error", false)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let get = Get {
                host: "127.0.0.1".into(),
                port,
                path: "/".into(),
                https: true,
                headers: &[],
                within: None,
            };
            let serve = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                let _request = stream.read(&mut [0; 1024]).await.unwrap();
                let head = format!("HTTP/1.1 {answer}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            };
            let (result, ()) = tokio::join!(super::get(&get), serve);
            assert_eq!(result.is_ok(), well, "{answer}: {result:?}");
        }
    }

    #[tokio::test]
    async fn redirects_are_followed_on_this_host_only() {
        let (well, asked) = probe(
            &[
                "302 F\r\nLocation: /a",
                "301 M\r\nlocation: http://127.0.0.1:PORT/b",
                "500 E",
            ],
            &[],
        )
        .await;
        assert_eq!(well, Err("status 500".into()));
        assert!(asked[1].starts_with("GET /a ") && asked[2].starts_with("GET /b "));
        assert_eq!(
            probe(&["302 F\r\nLocation: http://other.example/"], &[]).await.0,
            Ok(())
        );
    }
}
