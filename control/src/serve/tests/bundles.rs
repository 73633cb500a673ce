//! Trust bundles between control planes: shown, fetched, and acknowledged across the link.

use std::net::SocketAddr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_certs::authority::Authority;
use weft_certs::bundle::Bundle;
use weft_certs::credential::bootstrap_client_config;
use weft_certs::spiffe;
use weft_proto::resource::Kind;

use super::federation::{IMPORTS, endpoints, link, link_at, peer, two};
use super::mesh::{LONG, Mesh};

/// What the bundle endpoint of a mesh answers to a request, by somebody who knows its roots and shows no certificate.
async fn asked(mesh: &Mesh, request: &str) -> String {
    let config = bootstrap_client_config(mesh.bundles(), &mesh.control_plane(), &[b"h2", b"http/1.1"]);
    let tcp = TcpStream::connect(mesh.bundle()).await.unwrap();
    let name = ServerName::try_from("bundle.example").unwrap();
    let mut tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LONG, tls.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trust_bundle_is_shown_to_anybody_who_gets_it_and_to_no_other_method() {
    let mesh = Mesh::running().await;
    for path in ["/", "/bundle"] {
        let answer = asked(&mesh, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let (bundle, hint) = spiffe::from_json(mesh.trust_domain(), body.as_bytes()).unwrap();
        assert_eq!(Some(&bundle), mesh.bundles().get(&mesh.trust_domain()));
        assert_eq!(hint, Some(Duration::from_secs(60)));
    }
    for method in ["POST", "PUT", "HEAD", "DELETE"] {
        let request = format!("{method} / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let answer = asked(&mesh, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET"),
            "{answer}"
        );
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    assert!(!asked(&mesh, &long).await.contains("keys"));
}

/// A bundle endpoint of the control plane of a mesh that shows this bundle.
async fn shows(mesh: &Mesh, bundle: &Bundle) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(mesh.control().server_config_open(&[b"http/1.1"]));
    let text = spiffe::to_json(bundle, Duration::from_secs(3600));
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut tls) = acceptor.accept(tcp).await {
                let _ = tls.read(&mut [0; 1024]).await;
                let _ = tls.write_all(answer.as_bytes()).await;
                let _ = tls.shutdown().await;
            }
        }
    });
    at
}

/// What the status of b says of the bundle endpoint of a.
fn endpoint(status: &Value) -> &Value {
    &peer(status, "a")["bundleEndpoint"]
}

fn with_endpoint(at: SocketAddr) -> String {
    format!("  bundleEndpoint: https://{at}/bundle\n{IMPORTS}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_fetched_from_the_other_control_plane_while_the_link_is_down() {
    let (mut a, mut b) = (Mesh::of("a", "10.244.0"), Mesh::of("b", "10.245.0"));
    a.start().await;
    b.start().await;
    let nowhere = "127.0.0.1:1".parse().unwrap();
    link_at(&b, &a, nowhere, 0, &with_endpoint(a.bundle()));
    let status = b.until(|status| peer(status, "a")["bundleSequence"] == 1).await;
    assert_ne!(peer(&status, "a")["link"]["state"], "Connected");
    let status = b.until(|status| endpoint(status)["fetched"].is_string()).await;
    assert_eq!(endpoint(&status)["fault"], "", "{status:#}");

    // Also after a restart while nothing of the peer is reached. It is kept a moment later.
    let kept = b.path("state/peers/a");
    b.until(|_| kept.exists()).await;
    a.stop().await;
    b.stop().await;
    b.start().await;
    assert_eq!(peer(&b.status().await, "a")["bundleSequence"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_goes_back_or_differs_under_its_number_is_refused_with_the_reason() {
    let (mut a, mut b) = (Mesh::of("a", "10.244.0"), Mesh::of("b", "10.245.0"));
    a.start().await;
    b.start().await;
    let other = Authority::create(a.trust_domain(), std::time::SystemTime::now()).unwrap();
    let own = Bundle::clone(a.bundles().get(&a.trust_domain()).unwrap());
    let older = Bundle::new(a.trust_domain(), own.roots().to_vec(), 3).unwrap();
    for (bundle, reason) in [(older, "never goes back"), (other.bundle(4), "roots are others")] {
        let at = shows(&a, &bundle).await;
        link_at(&b, &a, "127.0.0.1:1".parse().unwrap(), 4, &with_endpoint(at));
        let refused = |status: &Value| {
            let said = endpoint(status)["reason"].as_str().unwrap_or_default();
            said.contains(reason)
        };
        let status = b.until(refused).await;
        assert_eq!(endpoint(&status)["fault"], "sequence");
        assert_eq!(peer(&status, "a")["bundleSequence"], 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exporter_is_told_how_far_its_bundle_has_come_with_the_others_proxies() {
    let (a, b) = two().await;
    let there = |status: &Value| peer(status, "b")["bundleThere"].clone();
    let status = a.until(|status| there(status)["sequence"] == 1).await;
    assert_eq!(there(&status)["proxies"], 0, "{status:#}");
    // A proxy that has not acknowledged yet.
    let mut web = b.web_proxy(&[]).await;
    let status = a.until(|status| there(status)["proxies"] == 1).await;
    assert_eq!(
        (&there(&status)["acknowledged"], &there(&status)["reached"]),
        (&0.into(), &0.into())
    );
    assert_eq!(status["mesh"]["federation"]["bundleReached"], 0);
    web.until(Kind::Bundles, "body").await;
    let status = a.until(|status| there(status)["acknowledged"] == 1).await;
    assert_eq!(there(&status)["reached"], 1);
    assert_eq!(status["mesh"]["federation"]["bundleReached"], 1);
    assert_eq!(peer(&b.status().await, "a")["bundleHere"]["acknowledged"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_peer_of_the_same_name_does_not_inherit_what_was_kept() {
    let (mut a, mut b) = two().await;
    b.until(|status| peer(status, "a")["imported"][0]["endpoints"] == 2)
        .await;
    a.stop().await;
    b.until(|status| peer(status, "a")["link"]["state"] == "Stale").await;
    b.stop().await;
    // While nobody looks, the ClusterPeer is another one's.
    let mut c = Mesh::of("c", "10.246.0");
    c.start().await;
    c.settings.cluster = "a".to_owned();
    link(&b, &c, IMPORTS);
    b.start().await;
    let status = b.status().await;
    assert_eq!(peer(&status, "a")["trustDomain"], "c.weft.internal");
    assert_eq!(peer(&status, "a")["imported"], Value::Array(Vec::new()));
    assert_ne!(peer(&status, "a")["link"]["state"], "Stale");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_peers_gateways_are_is_known_before_their_names_are_looked_up_again() {
    let (mut a, mut b) = two().await;
    link(&b, &a, &format!("{IMPORTS}  gateways: [\"127.0.0.1:15443\"]\n"));
    let rewrite = |b: &Mesh, from: &str, to: &str| {
        let text = std::fs::read_to_string(b.path("user/peer-a.yaml")).unwrap();
        assert!(text.contains(from), "{text}");
        b.manifest("peer-a.yaml", &text.replace(from, to));
    };
    rewrite(&b, "network: wire", "network: elsewhere");
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    endpoints(&mut web, 4).await;
    drop(web);
    a.stop().await;
    b.until(|status| peer(status, "a")["link"]["state"] == "Stale").await;
    b.stop().await;
    // Its name does not resolve any more.
    rewrite(&b, "127.0.0.1:15443", "gateway.invalid:15443");
    b.start().await;
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    endpoints(&mut web, 4).await;
}
