use std::net::Ipv4Addr;
use std::pin::Pin;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use weft_daemon::drain::Drain;

use super::*;
use crate::webhook::pair::Pair;

const NAME: &str = "weft-injector.weft-system.svc";

/// A webhook whose API server knows the Namespace shop, fails for the Namespace broken, and knows once only once, without a label.
struct Fixture {
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    metrics: Arc<Metrics>,
    _drain: Drain,
}

impl Fixture {
    async fn new(per_address: usize) -> Self {
        let asked = std::sync::atomic::AtomicBool::new(false);
        let fetch = move |name: String| {
            let again = name == "once" && asked.swap(true, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async move {
                let labels = json!({"weft.dev/inject": "enabled"});
                match name.as_str() {
                    _ if again => Err("connection refused".to_owned()),
                    "broken" => Err("connection refused".to_owned()),
                    "once" => Ok(Some(json!({"metadata": {"name": name}}))),
                    _ => Ok(Some(json!({"metadata": {"name": name, "labels": labels}}))),
                }
            }) as Pin<Box<dyn Future<Output = _> + Send>>
        };
        let metrics = Arc::new(Metrics::default());
        let namespaces = Namespaces::new(Box::new(fetch));
        let webhook = Webhook::new(
            InjectSettings::default(),
            "weft-system".to_owned(),
            namespaces,
            metrics.clone(),
        );
        let lifetime = Duration::from_secs(600);
        let pair = Pair::make(&[NAME.to_owned()], lifetime, std::time::SystemTime::now()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pair.ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, tasks) = Drain::new();
        let (_, tls) = watch::channel(Some(pair.serve().unwrap()));
        let bounds = Bounds {
            connections: 16,
            per_address,
        };
        let serving = serve(Arc::new(webhook), listener, tls, bounds, Duration::ZERO, tasks.clone());
        tasks.spawn(serving);
        Self {
            address,
            client: Arc::new(client),
            metrics,
            _drain: drain,
        }
    }

    async fn connect(&self) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(self.client.clone()).connect(name, stream).await
    }

    /// What comes back for these bytes, until the end.
    async fn said(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn post(&self, body: &[u8]) -> String {
        let head = format!(
            "POST /inject?timeout=5s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.said(&[head.as_bytes(), body].concat()).await
    }

    async fn review(&self, namespace: &str) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "operation": "CREATE", "namespace": namespace,
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "object": {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}]}},
            },
        });
        let answer = self.post(review.to_string().as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_review_is_answered_and_the_connection_ends() {
    let answer = Fixture::new(16).await.review("shop").await;
    assert_eq!(answer["response"]["uid"], "1");
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
}

#[tokio::test]
async fn without_its_namespace_a_pod_is_refused_and_never_left_alone() {
    let answer = Fixture::new(16).await.review("broken").await;
    assert_eq!(answer["response"]["allowed"], false);
    assert_eq!(answer["response"]["status"]["code"], 503);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("connection refused"), "{message}");
}

#[tokio::test]
async fn the_last_known_namespace_leaves_no_pod_alone() {
    let fixture = Fixture::new(16).await;
    let answer = fixture.review("once").await;
    assert_eq!(answer["response"], json!({"uid": "1", "allowed": true}));
    let answer = fixture.review("once").await;
    assert_eq!(answer["response"]["status"]["code"], 503);
}

#[tokio::test]
async fn a_large_body_is_taken_and_announced_ones_that_do_not_come_hold_nothing_up() {
    let fixture = Fixture::new(16).await;
    let head = "POST /inject HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 3145728\r\n\r\n";
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = fixture.connect().await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "1", "operation": "UPDATE", "more": "x".repeat(4 * USUAL)},
    });
    let answer = timeout(ARRIVAL, fixture.post(review.to_string().as_bytes())).await;
    assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_of_too_many_values_is_refused() {
    let fixture = Fixture::new(16).await;
    let answer = fixture.post(r#"[{"":0},"#.repeat(100_000).as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("values"),
        "{answer}"
    );
}

#[tokio::test]
async fn one_address_sends_two_large_bodies_at_once_and_others_meanwhile() {
    let addresses = Addresses::<Large>::new(8);
    let places = [0, 1].map(|_| addresses.take("192.0.2.1".parse().unwrap()).unwrap());
    let _first = places[0].shared.0.acquire().await.unwrap();
    let _second = places[1].shared.0.acquire().await.unwrap();
    assert!(places[0].shared.0.try_acquire().is_err());
    let other = addresses.take("192.0.2.2".parse().unwrap()).unwrap();
    assert!(other.shared.0.try_acquire().is_ok());
}

#[tokio::test]
async fn the_clusters_own_namespaces_are_left_alone() {
    let fixture = Fixture::new(16).await;
    for namespace in ["kube-system", "weft-system"] {
        let answer = fixture.review(namespace).await;
        assert_eq!(answer["response"], json!({"uid": "1", "allowed": true}), "{namespace}");
    }
}

#[tokio::test]
async fn what_is_no_review_gets_a_status_that_says_so() {
    let fixture = Fixture::new(16).await;
    let of_json = "content-type: application/json\r\n";
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "404"),
        ("GET /inject HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "405"),
        (
            "POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
            "415",
        ),
        (
            format!("POST /inject HTTP/1.1\r\nhost: x\r\n{of_json}content-length: 2\r\n\r\n{{}}"),
            "400",
        ),
        (
            format!("POST /inject HTTP/1.1\r\nhost: x\r\n{of_json}content-length: 3145729\r\n\r\n"),
            "413",
        ),
        (
            format!("POST /inject HTTP/1.1\r\nhost: x\r\n{of_json}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            "411",
        ),
    ] {
        let answer = fixture.said(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    let text = fixture.metrics.text(
        &weft_daemon::log::start_with("off", weft_daemon::log::Format::Text)
            .unwrap()
            .switch(),
    );
    assert!(
        text.finish()
            .contains("weft_injector_reviews_total{outcome=\"malformed\"} 6")
    );
}

#[tokio::test]
async fn one_address_has_no_more_connections_than_its_share() {
    let fixture = Fixture::new(2).await;
    let (first, second) = (fixture.connect().await.unwrap(), fixture.connect().await.unwrap());
    assert!(fixture.connect().await.is_err(), "a third one is served");
    drop((first, second));
    // The server has seen their ends once it takes another one.
    while fixture.connect().await.is_err() {
        tokio::task::yield_now().await;
    }
}
