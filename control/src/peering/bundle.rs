//! A peer's trust bundle, from its bundle endpoint (SPIFFE Federation, profile `https_spiffe`): the second way by which its new
//! roots come, which goes also while the link is broken.
//!
//! Who answers there has to be the peer's control plane, by the roots that are known of its trust domain already (section
//! 5.2.2.4). Redirects are not followed (section 7.5.1).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};
use weft_certs::bundle::Bundle;
use weft_certs::spiffe::{self, BUNDLE_BYTES_MAX, SpiffeError};
use weft_model::identity::TrustDomain;

use super::dial;
use super::kept::News;
use crate::authority::{Chain, Issuer};
use crate::objects::host_port::HostPort;
use crate::objects::peer::Peer;
use crate::serve::bundle::ALPN;
use crate::serve::desk::{Closed, Desk};
use crate::serve::hub::Fetched;

/// What one look may take in all.
const LOOK: Duration = Duration::from_secs(10);
/// How often a bundle is fetched whose server says nothing of it, and the least and the most often, whatever it says.
const REFRESH: Duration = Duration::from_secs(300);
const REFRESH_MIN: Duration = Duration::from_secs(10);
const REFRESH_MAX: Duration = Duration::from_secs(3600);
/// The first and the longest pause after a look that failed.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The head of an answer, in bytes.
const HEAD_MAX: usize = 16 * 1024;

/// Why no bundle came. Each is a state of its own for people.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Dial(#[from] dial::DialError),
    #[error("{0} does not answer in time")]
    Slow(Uri),
    #[error("{0} does not speak HTTP/1.1")]
    Speak(Uri, #[source] hyper::Error),
    #[error("{0} leads on to {1:?}, and who is meant has to be written: redirects are not followed")]
    Redirect(Uri, String),
    #[error("{0} answers {1}")]
    Status(Uri, StatusCode),
    #[error("what {0} answers has more than {BUNDLE_BYTES_MAX} bytes")]
    TooLarge(Uri),
    #[error("what {0} answers is cut short")]
    Cut(Uri, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("what {0} answers is no trust bundle")]
    Format(Uri, #[source] SpiffeError),
}

impl FetchError {
    /// In one word: what would have to be mended.
    const fn word(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.word(),
            Self::Slow(_) => "slow",
            Self::Speak(..) | Self::Cut(..) => "protocol",
            Self::Redirect(..) => "redirect",
            Self::Status(..) => "status",
            Self::TooLarge(_) | Self::Format(..) => "format",
        }
    }
}

/// Fetches a peer's bundle for ever, as often as its server asks for. A peer without a bundle endpoint is left alone.
pub(super) async fn follow(peer: Peer, desk: Desk, issuer: Arc<Issuer>, news: News) {
    let Some(url) = &peer.bundle_endpoint else { return };
    let mut fetched = Fetched::default();
    let mut pause = PAUSE_MIN;
    loop {
        // Anew each time: roots that came meanwhile vouch for it, too.
        let tls = issuer
            .federation()
            .client_config_expecting(&peer.control_plane, &[ALPN]);
        let looked = fetch(url, &peer.trust_domain, tls, LOOK).await;
        let wait = match looked {
            Ok((bundle, hint)) => {
                pause = PAUSE_MIN;
                match offer(&peer, &desk, bundle, &mut fetched, &news).await {
                    Ok(()) => hint.unwrap_or(REFRESH).clamp(REFRESH_MIN, REFRESH_MAX),
                    Err(Closed) => return,
                }
            }
            Err(error) => {
                note(&peer, &mut fetched, error.word(), Chain(&error).to_string());
                let wait = pause;
                pause = (pause * 2).min(PAUSE_MAX);
                wait
            }
        };
        if desk.fetched(&peer.cluster, fetched.clone()).await.is_err() {
            return;
        }
        // Of several replicas, and several clusters, each at its own time.
        sleep(wait.mul_f64(0.75 + rand::random::<f64>() / 4.0)).await;
    }
}

/// Offers a bundle that came. It may be refused.
async fn offer(peer: &Peer, desk: &Desk, bundle: Bundle, fetched: &mut Fetched, news: &News) -> Result<(), Closed> {
    fetched.last = Some(SystemTime::now());
    let sequence = bundle.sequence();
    match desk.offer(&peer.cluster, bundle).await? {
        Ok(is_news) => {
            (fetched.fault, fetched.reason) = ("", String::new());
            if is_news {
                tracing::info!(
                    peer = peer.cluster,
                    sequence,
                    "the bundle endpoint shows a newer trust bundle"
                );
                news.tell();
            }
        }
        Err(error) => note(peer, fetched, "sequence", format!("{} {}", error.field, error.reason)),
    }
    Ok(())
}

fn note(peer: &Peer, fetched: &mut Fetched, fault: &'static str, reason: String) {
    if fetched.reason != reason {
        tracing::warn!(
            peer = peer.cluster,
            reason,
            "no trust bundle is taken from the bundle endpoint"
        );
    }
    (fetched.fault, fetched.reason) = (fault, reason);
}

/// Asks once, with what `tls` expects of who answers.
async fn fetch(
    url: &Uri,
    trust_domain: &TrustDomain,
    tls: Arc<ClientConfig>,
    within: Duration,
) -> Result<(Bundle, Option<Duration>), FetchError> {
    let text = timeout(within, ask(url, tls))
        .await
        .map_err(|_| FetchError::Slow(url.clone()))??;
    spiffe::from_json(trust_domain.clone(), &text).map_err(|error| FetchError::Format(url.clone(), error))
}

async fn ask(url: &Uri, tls: Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    let io = dial::connect(&at(url), tls).await?;
    let speak = |error| FetchError::Speak(url.clone(), error);
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_MAX);
    let (mut sender, connection) = client.handshake(TokioIo::new(io)).await.map_err(speak)?;
    let path = url.path_and_query().map_or("/", PathAndQuery::as_str);
    let host = url.authority().map_or("", http::uri::Authority::as_str);
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .expect("both are parts of a URL");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(speak)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                let to = response.headers().get(header::LOCATION);
                let to = to.and_then(|to| to.to_str().ok()).unwrap_or_default();
                return Err(FetchError::Redirect(url.clone(), to.chars().take(256).collect()));
            }
            status => return Err(FetchError::Status(url.clone(), status)),
        }
        match Limited::new(response.into_body(), BUNDLE_BYTES_MAX).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(url.clone())),
            Err(error) => Err(FetchError::Cut(url.clone(), error)),
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased; // the answer, if it is there, whatever becomes of the connection
        answer = &mut exchange => return answer,
        // How it ended, the exchange says.
        _ = connection => {}
    }
    exchange.await
}

/// Where the server of a URL is, which was judged when its object was read.
fn at(url: &Uri) -> HostPort {
    let port = url.port_u16().unwrap_or(443);
    let at = format!("{}:{port}", url.host().unwrap_or_default());
    at.parse().expect("the URL of a bundle endpoint has a host and a port")
}

#[cfg(test)]
mod tests;
