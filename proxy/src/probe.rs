//! Probes: behind a redirect the kernel completes every handshake, so the kubelet asks the proxy, and the proxy asks the app.
//!
//! In: `/probe/<container>/<kind>`, and the original probes as the injector kept them. Out: the answer's status only, so that
//! the path is no way in for others. The app is asked at, and from, the pod's own address. Lifecycle hooks go the same way.

mod grpc;
mod hook;
mod redirect;
mod tls;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connect::Dialer;

pub use hook::Hooks;

/// How much of an answer is read: the status line is in the first bytes.
const ANSWER_MAX: usize = 4096;

/// Who asks: as the kubelet of the oldest version that there may be, since apps know a probe by that.
const USER_AGENT: &str = concat!("kube-probe/1.29 weft/", env!("CARGO_PKG_VERSION"));

/// The app's own probes.
#[derive(Debug)]
pub struct Probes {
    probes: HashMap<String, HashMap<String, Probe>>,
    address: IpAddr,
    dialer: Dialer,
    user_agent: &'static str,
}

/// Why the settings' probes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// Not the JSON that the injector writes.
    #[error("{0} is not the JSON that the injector writes: {1}")]
    Json(&'static str, serde_json::Error),
}

/// One probe, as in the pod's manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    /// Seconds.
    #[serde(default = "one")]
    timeout_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    port: u16,
    #[serde(default)]
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Clone, Debug, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
struct TcpSocket {
    port: u16,
}

#[derive(Clone, Debug, Deserialize)]
struct Grpc {
    port: u16,
    /// Whom to ask about. Kubernetes writes null, or nothing, for the server as a whole.
    service: Option<String>,
}

fn one() -> u64 {
    1
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The app is well. For HTTP, its status.
    Well(StatusCode),
    /// The app is not.
    Ill(StatusCode, String),
    /// There is no such probe.
    Unknown,
}

impl Probes {
    /// Reads what the injector kept. `address`: the pod's own.
    pub fn new(json: &str, address: IpAddr, dialer: Dialer) -> Result<Self, ProbesError> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let probes = serde_json::from_str(json).map_err(|error| ProbesError::Json("WEFT_PROBES", error))?;
        Ok(Self {
            probes,
            address,
            dialer,
            user_agent: USER_AGENT,
        })
    }

    /// Runs the probe of a path: `/probe/<container>/<kind>`. Never longer than the probe allows.
    pub async fn run(&self, path: &str) -> Finding {
        let mut parts = path.trim_start_matches('/').split('/');
        let (Some("probe"), Some(container), Some(kind), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Finding::Unknown;
        };
        let Some(probe) = self.probes.get(container).and_then(|kinds| kinds.get(kind)) else {
            return Finding::Unknown;
        };
        let bound = Duration::from_secs(probe.timeout_seconds.clamp(1, 3600));
        match timeout(bound, self.ask(probe)).await {
            Ok(finding) => finding,
            Err(_) => Finding::Ill(
                StatusCode::GATEWAY_TIMEOUT,
                format!("no answer within {} s", bound.as_secs()),
            ),
        }
    }

    async fn ask(&self, probe: &Probe) -> Finding {
        if let Some(get) = &probe.http_get {
            return self.http(get).await;
        }
        let answered = match (&probe.tcp_socket, &probe.grpc) {
            (Some(tcp), _) => self.dial(tcp.port).await.map(drop),
            (None, Some(grpc)) => self.grpc(grpc).await,
            (None, None) => {
                let reason = "this version runs probes of kind httpGet, tcpSocket and grpc only";
                return Finding::Ill(StatusCode::NOT_IMPLEMENTED, reason.to_owned());
            }
        };
        match answered {
            Ok(()) => Finding::Well(StatusCode::OK),
            Err(reason) => Finding::Ill(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }

    async fn grpc(&self, grpc: &Grpc) -> Result<(), String> {
        let stream = self.dial(grpc.port).await?;
        let authority = SocketAddr::new(self.address, grpc.port).to_string();
        grpc::check(stream, &authority, grpc.service.as_deref().unwrap_or_default()).await
    }

    async fn http(&self, get: &HttpGet) -> Finding {
        match self.get(get, 0).await {
            // As the kubelet judges: 200 to 399.
            Ok(status) if (200..400).contains(&status.as_u16()) => Finding::Well(status),
            Ok(status) => Finding::Ill(status, format!("the app answered {}", status.as_u16())),
            Err((status, reason)) => Finding::Ill(status, reason),
        }
    }

    /// The status that the app answers with in the end, once `rest` bytes more are read, or all. The error: a status and the
    /// reason.
    async fn get(&self, get: &HttpGet, rest: usize) -> Result<StatusCode, (StatusCode, String)> {
        let mut get = Cow::Borrowed(get);
        for _ in 0..redirect::ASKED_MAX {
            let Answered { status, location } = self.get_once(&get, rest).await?;
            match location.and_then(|location| redirect::next(&get, self.address, &location)) {
                Some(next) => get = Cow::Owned(next),
                None => return Ok(status),
            }
        }
        let reason = format!("the app redirects more than {} times", redirect::ASKED_MAX);
        Err((StatusCode::BAD_GATEWAY, reason))
    }

    async fn get_once(&self, get: &HttpGet, rest: usize) -> Result<Answered, (StatusCode, String)> {
        let dialled = self.dial(get.port).await;
        let mut stream = dialled.map_err(|reason| (StatusCode::SERVICE_UNAVAILABLE, reason))?;
        let head = self.head(get);
        let head = head.map_err(|reason| (StatusCode::INTERNAL_SERVER_ERROR, reason))?;
        let answered = match get.scheme.eq_ignore_ascii_case("https") {
            false => exchange(&mut stream, &head, rest).await,
            true => match tls::connect(stream, &get.host, self.address).await {
                Ok(mut stream) => exchange(&mut stream, &head, rest).await,
                Err(error) => {
                    let reason = format!("the app's TLS: {error}");
                    return Err((StatusCode::BAD_GATEWAY, reason));
                }
            },
        };
        answered.map_err(|error| (StatusCode::BAD_GATEWAY, format!("the app's answer: {error}")))
    }

    /// The request's head. Refuses what would smuggle a second line in.
    fn head(&self, get: &HttpGet) -> Result<String, String> {
        let own = SocketAddr::new(self.address, get.port).to_string();
        let named = |name: &str| {
            get.http_headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
        };
        let host = named("host").map_or(if get.host.is_empty() { own.as_str() } else { &get.host }, |header| {
            &header.value
        });
        let path = if get.path.starts_with('/') {
            get.path.clone()
        } else {
            format!("/{}", get.path)
        };
        for (what, text) in [("path", path.as_str()), ("host", host)] {
            if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
                return Err(format!(
                    "the probe's {what} {text:?} has characters that HTTP does not allow"
                ));
            }
        }
        let mut head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        if named("user-agent").is_none() {
            head.push_str(&format!("user-agent: {}\r\n", self.user_agent));
        }
        if named("accept").is_none() {
            head.push_str("accept: */*\r\n");
        }
        for Header { name, value } in &get.http_headers {
            if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("connection") {
                continue;
            }
            http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header's name"))?;
            http::HeaderValue::from_str(value).map_err(|_| format!("{value:?} is no header's value"))?;
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Ok(head)
    }

    async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        let app = SocketAddr::new(self.address, port);
        self.dialer
            .tcp(app, Some(self.address))
            .await
            .map_err(|error| format!("{app}: {error}"))
    }
}

/// What the app answered.
struct Answered {
    status: StatusCode,
    /// Where it points to, if that is what the status says.
    location: Option<String>,
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    head: &str,
    rest: usize,
) -> std::io::Result<Answered> {
    stream.write_all(head.as_bytes()).await?;
    let (mut buffer, mut read) = ([0; ANSWER_MAX], 0);
    loop {
        let count = stream.read(&mut buffer[read..]).await?;
        read += count;
        let is_last = count == 0 || read == ANSWER_MAX;
        let mut headers = [httparse::EMPTY_HEADER; 0];
        let mut response = httparse::Response::new(&mut headers);
        // The headers do not matter, so having no room for them is no error once the status is known.
        let parsed = response.parse(&buffer[..read]);
        if let Some(code) = response.code
            && (parsed.is_ok() || parsed == Err(httparse::Error::TooManyHeaders))
        {
            let invalid = |_| std::io::Error::from(std::io::ErrorKind::InvalidData);
            let status = StatusCode::from_u16(code).map_err(invalid)?;
            let mut location = None;
            if redirect::leads_on(status) {
                match find_location(&buffer[..read]) {
                    // It stands in the rest of the head, as far as that is read.
                    None if !is_last => continue,
                    found => location = found.flatten(),
                }
            }
            let mut left = rest;
            while left > 0 {
                match stream.read(&mut buffer).await {
                    Ok(count) if count > 0 => left = left.saturating_sub(count),
                    // The status counts, however the rest ends.
                    _ => break,
                }
            }
            return Ok(Answered { status, location });
        }
        if parsed.is_err() || is_last {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
}

/// The header `Location` of a head. `None`: the head is not all there yet.
fn find_location(head: &[u8]) -> Option<Option<String>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Partial) => None,
        // What can't be read leads nowhere.
        Err(_) => Some(None),
        Ok(httparse::Status::Complete(_)) => {
            let mut all = response.headers.iter();
            let header = all.find(|header| header.name.eq_ignore_ascii_case("location"));
            Some(header.and_then(|header| std::str::from_utf8(header.value).ok().map(str::to_owned)))
        }
    }
}

#[cfg(test)]
mod tests;
