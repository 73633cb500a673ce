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
    let probes = probes(
        r#"{"web": {"readiness": {"grpc": {"port": 1}}, "liveness": {"httpGet": {"port": 1, "scheme": "HTTPS"}}}}"#,
    );
    for kind in ["readiness", "liveness"] {
        let finding = probes.run(&format!("/probe/web/{kind}")).await;
        assert!(
            matches!(finding, Finding::Ill(StatusCode::NOT_IMPLEMENTED, _)),
            "{finding:?}"
        );
    }
}

#[test]
fn settings_that_are_not_the_injectors_are_refused() {
    assert!(Probes::new("{\"web\": 1}", Ipv4Addr::LOCALHOST.into(), DIALER).is_err());
    assert!(Probes::new("", Ipv4Addr::LOCALHOST.into(), DIALER).is_ok());
}
