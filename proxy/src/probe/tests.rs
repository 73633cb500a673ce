use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

const DIALER: Dialer = Dialer {
    mark: None,
    connect_timeout: Duration::from_millis(500),
    handshake_timeout: Duration::from_millis(500),
};

fn probes(json: &str) -> Probes {
    Probes::new(json, Ipv4Addr::LOCALHOST.into(), DIALER).unwrap()
}

/// An app that gives one answer and keeps what it was asked.
async fn app(answer: &'static str) -> (u16, tokio::task::JoinHandle<(String, SocketAddr)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let (mut stream, from) = listener.accept().await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut text).await.unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        (String::from_utf8(text).unwrap(), from)
    });
    (port, asked)
}

async fn http(get: &str, answer: &'static str) -> (Finding, String) {
    let (port, asked) = app(answer).await;
    let get = get.replace("PORT", &port.to_string());
    let probes = probes(&format!("{{\"web\": {{\"readiness\": {{\"httpGet\": {get}}}}}}}"));
    let finding = probes.run("/probe/web/readiness").await;
    (finding, asked.await.unwrap().0)
}

#[tokio::test]
async fn an_app_that_is_well_is_well() {
    let get = r#"{"port": PORT, "path": "/healthz?full=1", "httpHeaders": [{"name": "X-Probe", "value": "yes"}, {"name": "Host", "value": "web.test"}]}"#;
    let (finding, asked) = http(get, "HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n").await;
    assert_eq!(finding, Finding::Well(StatusCode::NO_CONTENT));
    assert!(
        asked.starts_with("GET /healthz?full=1 HTTP/1.1\r\nhost: web.test\r\n"),
        "{asked}"
    );
    assert!(asked.contains("\r\nX-Probe: yes\r\n"), "{asked}");
    assert!(asked.contains("\r\nuser-agent: kube-probe/"), "{asked}");
}

/// An app that answers one request after the other, each with the next of these. Gives what it was asked for.
async fn app_of(answers: Vec<String>) -> (Probes, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut text).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            let text = String::from_utf8(text).unwrap();
            asked.push(text.split(' ').nth(1).unwrap().to_owned());
        }
        asked
    });
    let get = format!(r#"{{"port": {port}, "path": "/healthz"}}"#);
    (
        probes(&format!(r#"{{"web": {{"readiness": {{"httpGet": {get}}}}}}}"#)),
        asked,
    )
}

fn redirect_to(place: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nserver: x\r\nlocation: {place}\r\n\r\n")
}

#[tokio::test]
async fn what_counts_is_the_end_of_redirects_that_stay_on_the_host() {
    let answers = vec![redirect_to("/status"), "HTTP/1.1 500 Oh\r\n\r\n".to_owned()];
    let (probes, asked) = app_of(answers).await;
    let finding = probes.run("/probe/web/readiness").await;
    assert!(
        matches!(finding, Finding::Ill(StatusCode::INTERNAL_SERVER_ERROR, _)),
        "{finding:?}"
    );
    assert_eq!(asked.await.unwrap(), ["/healthz", "/status"]);

    let (probes, _) = app_of(vec![redirect_to("https://login.test/")]).await;
    let finding = probes.run("/probe/web/readiness").await;
    assert_eq!(finding, Finding::Well(StatusCode::FOUND));

    let (probes, asked) = app_of(vec![redirect_to("/healthz"); 10]).await;
    let finding = probes.run("/probe/web/readiness").await;
    assert!(
        matches!(&finding, Finding::Ill(StatusCode::BAD_GATEWAY, reason) if reason.contains("more than 10 times")),
        "{finding:?}"
    );
    assert_eq!(asked.await.unwrap().len(), 10);
}

#[tokio::test]
async fn an_app_that_is_ill_answers_with_its_status() {
    for (answer, status) in [
        ("HTTP/1.1 500 Oh\r\n\r\n", 500),
        ("HTTP/1.1 404 No\r\n\r\n", 404),
        ("HTTP/1.0 503 x\r\n\r\n", 503),
    ] {
        let (finding, _) = http(r#"{"port": PORT}"#, answer).await;
        let Finding::Ill(found, _) = finding else {
            panic!("{finding:?}")
        };
        assert_eq!(found.as_u16(), status);
    }
    let (finding, _) = http(r#"{"port": PORT}"#, "SSH-2.0-OpenSSH\r\n").await;
    assert!(
        matches!(finding, Finding::Ill(StatusCode::BAD_GATEWAY, _)),
        "{finding:?}"
    );
}

#[tokio::test]
async fn a_closed_port_fails_both_kinds_of_probe() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let both = format!(
        r#"{{"web": {{"readiness": {{"tcpSocket": {{"port": {port}}}}}, "liveness": {{"httpGet": {{"port": {port}}}}}}}}}"#
    );
    let probes = probes(&both);
    assert_eq!(probes.run("/probe/web/readiness").await, Finding::Well(StatusCode::OK));
    drop(listener);
    for kind in ["readiness", "liveness"] {
        let finding = probes.run(&format!("/probe/web/{kind}")).await;
        assert!(
            matches!(finding, Finding::Ill(StatusCode::SERVICE_UNAVAILABLE, _)),
            "{finding:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_says_nothing_fails_within_the_probes_own_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probes = probes(&format!(
        r#"{{"web": {{"startup": {{"httpGet": {{"port": {port}}}, "timeoutSeconds": 7}}}}}}"#
    ));
    // Paused time runs only where nothing else does, so the dial is over when the clock moves.
    let probes = Probes {
        dialer: Dialer {
            connect_timeout: Duration::from_secs(3600),
            ..DIALER
        },
        ..probes
    };
    let finding = probes.run("/probe/web/startup").await;
    assert_eq!(
        finding,
        Finding::Ill(StatusCode::GATEWAY_TIMEOUT, "no answer within 7 s".to_owned())
    );
}

#[tokio::test]
async fn the_path_is_no_way_in() {
    let probes = probes(r#"{"web": {"readiness": {"tcpSocket": {"port": 1}}}}"#);
    for path in [
        "/probe/web/liveness",
        "/probe/db/readiness",
        "/probe/web",
        "/probe/web/readiness/x",
        "/probe//",
        "/other/web/readiness",
        "/probe/web/../web/readiness",
    ] {
        assert_eq!(probes.run(path).await, Finding::Unknown, "{path}");
    }
}

#[tokio::test]
async fn a_probe_cannot_smuggle_a_second_request_in() {
    for get in [
        r#"{"port": 1, "path": "/x\r\nhost: evil"}"#,
        r#"{"port": 1, "path": "/x HTTP/1.1"}"#,
        r#"{"port": 1, "path": "/x\ny"}"#,
        r#"{"port": 1, "httpHeaders": [{"name": "a", "value": "b\r\nc: d"}]}"#,
        r#"{"port": 1, "httpHeaders": [{"name": "a b", "value": "c"}]}"#,
        r#"{"port": 1, "host": "x\r\ny: z"}"#,
    ] {
        let get: HttpGet = serde_json::from_str(get).unwrap();
        assert!(probes("{}").head(&get).is_err(), "{get:?}");
    }
}

#[tokio::test]
async fn what_this_version_does_not_run_fails_and_says_so() {
    let probes = probes(r#"{"web": {"readiness": {"exec": {"command": ["true"]}}}}"#);
    let finding = probes.run("/probe/web/readiness").await;
    assert!(
        matches!(finding, Finding::Ill(StatusCode::NOT_IMPLEMENTED, _)),
        "{finding:?}"
    );
}

/// An app over TLS with a certificate that nobody here trusts. Gives which name it was asked for.
async fn tls_app(answer: &'static str) -> (u16, tokio::task::JoinHandle<Option<String>>) {
    use crate::discover::testing::{authority, credential, identity};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = credential(&authority(), &identity("shop", "web"), Duration::from_secs(60), 1);
    let acceptor = tokio_rustls::TlsAcceptor::from(own.server_config_optional(&[]));
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut text).await.unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        name
    });
    (port, asked)
}

#[tokio::test]
async fn an_app_whose_tls_ends_at_1_2_is_probed_too() {
    use crate::discover::testing::{authority, credential, identity};
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject as _;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = credential(&authority(), &identity("shop", "web"), Duration::from_secs(60), 1);
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            own.chain().to_vec(),
            PrivateKeyDer::from_pem_slice(own.key().to_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let app = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    assert_eq!(https(port, "").await, Finding::Well(StatusCode::OK));
    app.await.unwrap();
}

async fn https(port: u16, host: &str) -> Finding {
    let get = format!(r#"{{"port": {port}, "scheme": "HTTPS", "host": "{host}"}}"#);
    let probes = probes(&format!(r#"{{"web": {{"liveness": {{"httpGet": {get}}}}}}}"#));
    probes.run("/probe/web/liveness").await
}

#[tokio::test]
async fn over_tls_any_certificate_will_do_but_not_any_status() {
    let (port, asked) = tls_app("HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(https(port, "web.test").await, Finding::Well(StatusCode::OK));
    assert_eq!(asked.await.unwrap().as_deref(), Some("web.test"));
    let (port, asked) = tls_app("HTTP/1.1 500 Oh\r\n\r\n").await;
    let finding = https(port, "").await;
    assert!(
        matches!(finding, Finding::Ill(StatusCode::INTERNAL_SERVER_ERROR, _)),
        "{finding:?}"
    );
    assert_eq!(asked.await.unwrap(), None, "an address is no name");
}

#[tokio::test]
async fn an_app_that_does_not_speak_tls_fails_a_probe_over_https() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Until the other side has gone.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let finding = https(port, "").await;
    assert!(
        matches!(&finding, Finding::Ill(StatusCode::BAD_GATEWAY, reason) if reason.contains("TLS")),
        "{finding:?}"
    );
    app.await.unwrap();
}

/// What a gRPC app answers.
#[derive(Clone)]
struct Reply {
    head: http::Response<()>,
    body: bytes::Bytes,
    /// `None`: the head is all.
    trailers: Option<http::HeaderMap>,
}

fn says(status: grpc::ServingStatus) -> Reply {
    let body = grpc::framed(&grpc::HealthCheckResponse { status: status.into() });
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    Reply {
        head: http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap(),
        body,
        trailers: Some(trailers),
    }
}

fn fails(status: &str) -> Reply {
    let head = http::Response::builder().header("grpc-status", status);
    Reply {
        head: head.body(()).unwrap(),
        body: bytes::Bytes::new(),
        trailers: None,
    }
}

/// A gRPC app that gives one answer and hangs up at once. What it was asked: the path and the service.
async fn grpc_app(reply: Reply) -> (u16, tokio::task::JoinHandle<(String, String)>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let path = request.uri().path().to_owned();
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let mut body = request.into_body();
        let read = async {
            let mut read = bytes::BytesMut::new();
            while let Some(piece) = body.data().await {
                read.extend_from_slice(&piece.unwrap());
            }
            read
        };
        let read = tokio::select! {
            read = read => read,
            _ = connection.accept() => panic!("one call only"),
        };
        let service = <grpc::HealthCheckRequest as prost::Message>::decode(&read[5..])
            .unwrap()
            .service;
        let alone = reply.trailers.is_none();
        let mut body = respond.send_response(reply.head, alone).unwrap();
        if let Some(trailers) = reply.trailers {
            body.send_data(reply.body, false).unwrap();
            body.send_trailers(trailers).unwrap();
        }
        connection.graceful_shutdown();
        while connection.accept().await.is_some() {}
        (path, service)
    });
    (port, asked)
}

async fn ask_grpc(port: u16, service: &str) -> Finding {
    let probes = probes(&format!(
        r#"{{"web": {{"readiness": {{"grpc": {{"port": {port}, "service": {service}}}}}}}}}"#
    ));
    probes.run("/probe/web/readiness").await
}

#[tokio::test]
async fn a_grpc_app_that_serves_is_well() {
    for (service, named) in [("null", ""), (r#""shop.Ratings""#, "shop.Ratings")] {
        let (port, asked) = grpc_app(says(grpc::ServingStatus::Serving)).await;
        assert_eq!(ask_grpc(port, service).await, Finding::Well(StatusCode::OK));
        let asked = asked.await.unwrap();
        assert_eq!(asked, ("/grpc.health.v1.Health/Check".to_owned(), named.to_owned()));
    }
}

#[tokio::test]
async fn a_grpc_app_that_says_anything_else_is_ill() {
    let serving = says(grpc::ServingStatus::Serving);
    let mut compressed = serving.clone();
    compressed.body = [&[1], &serving.body[1..]].concat().into();
    let mut cut = serving.clone();
    cut.body = serving.body.slice(..4);
    let mut endless = serving.clone();
    endless.body = vec![0; 5000].into();
    let mut forbidden = serving.clone();
    *forbidden.head.status_mut() = StatusCode::FORBIDDEN;
    let mut silent = serving.clone();
    silent.trailers = Some(http::HeaderMap::new());
    let mut internal = serving.clone();
    internal
        .trailers
        .as_mut()
        .unwrap()
        .insert("grpc-status", http::HeaderValue::from_static("13"));
    for (reply, why) in [
        (says(grpc::ServingStatus::NotServing), "NotServing"),
        (says(grpc::ServingStatus::Unknown), "Unknown"),
        (fails("12"), "does not implement"),
        (fails("5"), "gRPC status 5"),
        (internal, "gRPC status 13"),
        (forbidden, "HTTP 403"),
        (silent, "no gRPC status"),
        (compressed, "not one message"),
        (cut, "not one message"),
        (endless, "app's answer"),
    ] {
        let (port, asked) = grpc_app(reply).await;
        let finding = ask_grpc(port, "null").await;
        assert!(
            matches!(&finding, Finding::Ill(StatusCode::SERVICE_UNAVAILABLE, reason) if reason.contains(why)),
            "{why}: {finding:?}"
        );
        asked.abort();
    }
}

#[tokio::test]
async fn an_app_that_does_not_speak_http2_fails_a_grpc_probe() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let finding = ask_grpc(port, "null").await;
    assert!(
        matches!(finding, Finding::Ill(StatusCode::SERVICE_UNAVAILABLE, _)),
        "{finding:?}"
    );
    app.await.unwrap();
    let finding = ask_grpc(port, "null").await;
    assert!(
        matches!(&finding, Finding::Ill(_, reason) if reason.contains("refused")),
        "{finding:?}"
    );
}

#[test]
fn settings_that_are_not_the_injectors_are_refused() {
    assert!(Probes::new("{\"web\": 1}", Ipv4Addr::LOCALHOST.into(), DIALER).is_err());
    assert!(Probes::new("", Ipv4Addr::LOCALHOST.into(), DIALER).is_ok());
}
