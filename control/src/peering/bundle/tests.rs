//! A client of a bundle endpoint, and real servers that are what they should be or not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use weft_certs::authority::Authority;
use weft_certs::bundle::TrustBundles;
use weft_certs::credential::Credential;
use weft_certs::key::Key;
use weft_model::identity::Identity;

use super::*;

/// Nothing that ends takes so long.
const LONG: Duration = Duration::from_secs(20);

fn authority(domain: &str) -> Authority {
    Authority::create(TrustDomain::new(domain).unwrap(), SystemTime::now()).unwrap()
}

fn control(authority: &Authority) -> Identity {
    Identity::control_plane(authority.trust_domain().clone(), "weft-system").unwrap()
}

/// A certificate of this identity, for whoever trusts these.
fn credential(authority: &Authority, identity: &Identity, trusts: &[&Authority]) -> Credential {
    let key = Key::generate().unwrap();
    let leaf = authority
        .issue(key.public(), identity, Duration::from_secs(60), SystemTime::now())
        .unwrap();
    let bundles = TrustBundles::new(trusts.iter().map(|one| one.bundle(1))).unwrap();
    Credential::new(leaf.chain, key, Arc::new(bundles), 1).unwrap()
}

/// A server that shows this certificate and answers each request with these bytes.
async fn server(shows: &Credential, answer: Vec<u8>) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(shows.server_config_open(&[ALPN]));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            // As far as the head of a request without a body; and who has read enough goes before all is said.
            let mut head = [0; 1024];
            let _ = tls.read(&mut head).await;
            let _ = tls.write_all(&answer).await;
            let _ = tls.shutdown().await;
        }
    });
    format!("https://{at}/bundle").parse().unwrap()
}

fn response(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What comes of asking a server at `url` for the bundle of `peer`, of whom and of nobody else a bundle is known.
async fn ask_for(peer: &Authority, url: &Uri) -> Result<(Bundle, Option<Duration>), FetchError> {
    let own = authority("own");
    let tls = credential(&own, &control(&own), &[peer]).client_config_expecting(&control(peer), &[ALPN]);
    fetch(url, peer.trust_domain(), tls, LONG).await
}

/// What comes of an answer of the peer's control plane.
async fn answered(answer: impl FnOnce(&Authority) -> Vec<u8>) -> Result<(Bundle, Option<Duration>), FetchError> {
    let peer = authority("peer");
    let url = server(&credential(&peer, &control(&peer), &[&peer]), answer(&peer)).await;
    ask_for(&peer, &url).await
}

#[tokio::test]
async fn a_bundle_comes_with_its_number_and_how_often_to_ask() {
    let peer = authority("peer");
    let text = spiffe::to_json(&peer.bundle(7), Duration::from_secs(60));
    let answer = response("200 OK\r\ncontent-type: application/json", text.as_bytes());
    let url = server(&credential(&peer, &control(&peer), &[&peer]), answer).await;
    let (bundle, hint) = ask_for(&peer, &url).await.unwrap();
    assert_eq!((bundle, hint), (peer.bundle(7), Some(Duration::from_secs(60))));
}

#[tokio::test]
async fn who_cannot_prove_to_be_the_peers_control_plane_is_not_asked() {
    let (peer, other) = (authority("peer"), authority("other"));
    let web = Identity::new(peer.trust_domain().clone(), "shop", "web").unwrap();
    let impostor = authority("peer");
    for (authority, identity, what) in [
        (&other, control(&other), "of another trust domain"),
        (&peer, web, "a workload of the peer"),
        (&impostor, control(&peer), "of another root"),
    ] {
        let text = spiffe::to_json(&peer.bundle(7), Duration::from_secs(60));
        let shows = credential(authority, &identity, &[authority]);
        let url = server(&shows, response("200 OK", text.as_bytes())).await;
        let error = ask_for(&peer, &url).await.unwrap_err();
        assert_eq!(error.word(), "identity", "{what}: {error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_bundle_is_named_by_what_is_wrong_with_it() {
    let chunks = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let endless = [
        &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..],
        &chunks,
        &chunks,
    ];
    let long_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(HEAD_MAX));
    for (answer, word, says) in [
        (response("200 OK", &[b' '; BUNDLE_BYTES_MAX + 1]), "format", "65536"),
        (endless.concat(), "format", "65536"),
        (response("200 OK", b"<html>"), "format", "no trust bundle"),
        (response("200 OK", b"{\"keys\": []}"), "format", "no trust bundle"),
        (response("404 Not Found", b""), "status", "404"),
        (response("204 No Content", b""), "status", "204"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(),
            "protocol",
            "cut short",
        ),
        (b"SSH-2.0-OpenSSH_9.7\r\n".to_vec(), "protocol", "HTTP/1.1"),
        (long_head.into_bytes(), "protocol", "HTTP/1.1"),
        (Vec::new(), "protocol", "HTTP/1.1"),
    ] {
        let error = answered(|_| answer).await.unwrap_err();
        let said = Chain(&error).to_string();
        assert!(error.word() == word && said.contains(says), "{word}, {says}: {said}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("https://{}/", listener.local_addr().unwrap());
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let error = answered(|_| response(&format!("{status}\r\nlocation: {to}"), b""))
            .await
            .unwrap_err();
        assert_eq!(error.word(), "redirect");
        assert!(error.to_string().contains(&to), "{error}");
    }
    let dialled = listener.into_std().unwrap();
    assert!(dialled.accept().is_err(), "nobody has come: it would block");
}

#[tokio::test]
async fn who_says_nothing_and_who_is_not_there_are_told_apart() {
    let peer = authority("peer");
    let own = authority("own");
    let tls = || credential(&own, &control(&own), &[&peer]).client_config_expecting(&control(&peer), &[ALPN]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let short = Duration::from_millis(50);
    let error = fetch(&url, peer.trust_domain(), tls(), short).await.unwrap_err();
    assert_eq!(error.word(), "slow");
    drop(listener);
    let error = fetch(&url, peer.trust_domain(), tls(), LONG).await.unwrap_err();
    assert_eq!(error.word(), "port");
}

#[test]
fn the_port_of_a_url_is_443_if_it_names_none() {
    for (url, want) in [
        ("https://peer.example", "peer.example:443"),
        ("https://peer.example:8443/bundle", "peer.example:8443"),
        ("https://[2001:db8::7]:1/", "[2001:db8::7]:1"),
    ] {
        assert_eq!(at(&url.parse().unwrap()).to_string(), want);
    }
}
