//! Internal headers: what proxies say to each other, and nobody else may say or see.

use super::*;

const POST: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nX-Weft-A: b\r\nX-Weft-Unsent: draining\r\nContent-Length: 2\r\n\r\nhi";
const PLAIN: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
const UNSENT: &str = "HTTP/1.1 503 Busy\r\nX-Weft-Unsent: draining\r\nContent-Length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What leads to a peer whose identity was verified.
fn peer(mut upstream: Upstream) -> Upstream {
    match &mut upstream {
        Upstream::H1(client) => client.peer = true,
        Upstream::H2(client) => client.peer = true,
    }
    upstream
}

fn unsent(reason: &str) -> ::http::Response<()> {
    let head = ::http::Response::builder().status(503).header("x-weft-unsent", reason);
    head.body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_says_to_this_proxy_does_not_reach_the_app() {
    local(async {
        let (upstream, mut app) = h1_upstream();
        let (mut client, _proxy) = proxy_for(Origin::Mesh, HttpVersion::H1, vec![upstream]);
        send(&mut client, POST).await;
        expect(&mut app, PLAIN).await;
    })
    .await;
    local(async {
        let (upstream, mut app) = h2_upstream().await;
        let (client, _proxy) = proxy_for(Origin::Mesh, HttpVersion::H2, vec![upstream]);
        let mut client = h2_client(client).await;
        let headers = [("x-weft-a", "b"), ("x-weft-unsent", "draining"), ("x-c", "d")];
        let (_response, _up) = client.send_request(request("GET", "/", &headers), true).unwrap();
        let (seen, _respond) = app.accept().await;
        let names: Vec<_> = seen.headers().keys().map(::http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-c"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_proxies_say_reaches_a_verified_peer() {
    local(async {
        let (upstream, mut other) = h1_upstream();
        let (mut client, _proxy) = proxy_for(Origin::Mesh, HttpVersion::H1, vec![peer(upstream)]);
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nX-Weft-A: b\r\n\r\n").await;
        expect(&mut other, "GET / HTTP/1.1\r\nhost: a\r\nx-weft-a: b\r\n\r\n").await;
    })
    .await;
    // But not where an app says it.
    local(async {
        let (upstream, mut other) = h1_upstream();
        let (mut client, _proxy) = proxy(HttpVersion::H1, vec![peer(upstream)]);
        send(&mut client, POST).await;
        expect(&mut other, PLAIN).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_peer_did_not_pass_on_goes_to_another_with_its_body() {
    local(async {
        let ((first, mut one), (second, mut other)) = (h1_upstream(), h1_upstream());
        let (mut client, proxy) = proxy(HttpVersion::H1, vec![peer(first), peer(second)]);
        send(&mut client, PLAIN).await;
        expect(&mut one, PLAIN).await;
        send(&mut one, UNSENT).await;
        expect(&mut other, PLAIN).await;
        send(&mut other, OK).await;
        expect(&mut client, OK).await;
        let outcomes = proxy.service.outcomes.borrow();
        let error = outcomes[0].as_ref().unwrap_err();
        assert!(error.replayable && error.reason == Reason::Draining && outcomes[1].is_ok());
    })
    .await;
    local(async {
        let ((first, mut one), (second, mut other)) = (h2_upstream().await, h2_upstream().await);
        let (client, proxy) = proxy(HttpVersion::H2, vec![peer(first), peer(second)]);
        let mut client = h2_client(client).await;
        let (response, mut up) = client.send_request(request("POST", "/", &[]), false).unwrap();
        data(&mut up, "hi", true);
        let (seen, mut respond) = one.accept().await;
        assert_eq!(read_body(&mut seen.into_body()).await.unwrap().0, b"hi");
        respond.send_response(unsent("app-unreachable"), true).unwrap();
        let (seen, mut respond) = other.accept().await;
        assert_eq!(read_body(&mut seen.into_body()).await.unwrap().0, b"hi");
        respond.send_response(::http::Response::new(()), true).unwrap();
        let response = timeout(SECOND, response).await.expect("it is answered").unwrap();
        assert_eq!(response.status(), 200);
        let error = proxy.service.outcomes.borrow_mut().remove(0).unwrap_err();
        assert!(error.replayable && error.reason == Reason::AppUnreachable);
    })
    .await;
}

/// Whoever leads the request there, and whatever it answers: the client gets `seen`, and nobody else the request.
async fn answered_once(first: Upstream, mut one: Io, body: &str, answer: &str, seen: &str) {
    let (second, mut other) = h1_upstream();
    let (mut client, proxy) = proxy(HttpVersion::H1, vec![first, peer(second)]);
    let post = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut reading, mut writing) = tokio::io::split(&mut one);
    let take = async {
        let mut all = vec![0; post.len()];
        reading.read_exact(&mut all).await.unwrap();
        writing.write_all(answer.as_bytes()).await.unwrap();
    };
    let both = async { tokio::join!(client.write_all(post.as_bytes()), take).0.unwrap() };
    timeout(SECOND, both).await.expect("it is taken");
    expect(&mut client, seen).await;
    expect_silence(&mut other).await;
    proxy.service.outcome().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_app_that_says_it_did_not_get_a_request_is_not_believed() {
    local(async {
        let (upstream, app) = h1_upstream();
        answered_once(upstream, app, "hi", UNSENT, BUSY).await;
    })
    .await;
    local(async {
        let ((first, mut app), (second, mut other)) = (h2_upstream().await, h2_upstream().await);
        let (client, proxy) = proxy(HttpVersion::H2, vec![first, peer(second)]);
        let mut client = h2_client(client).await;
        let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let (_, mut respond) = app.accept().await;
        respond.send_response(unsent("draining"), true).unwrap();
        let response = timeout(SECOND, response).await.expect("it is answered").unwrap();
        assert_eq!((response.status().as_u16(), response.headers().len()), (503, 0));
        assert!(other.streams.try_recv().is_err());
        proxy.service.outcome().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_believed_only_what_can_be_acted_upon() {
    let hints = "HTTP/1.1 103 Early Hints\r\nX-Weft-A: b\r\n\r\n";
    let seen_hints = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let large = "x".repeat(20_000);
    for (body, answer, seen) in [
        // No reason that we know.
        ("hi", UNSENT.replace("draining", "tired"), BUSY.to_owned()),
        // The name of another.
        ("hi", UNSENT.replace("X-Weft-Unsent", "X_Weft_Unsent"), BUSY.to_owned()),
        // Something was told to the client before.
        ("hi", format!("{hints}{UNSENT}"), format!("{seen_hints}{BUSY}")),
        // Trailers are no head.
        (
            "hi",
            "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Weft-Unsent: draining\r\n\r\n".to_owned(),
            "HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        // More was taken than is kept.
        (&large, UNSENT.to_owned(), BUSY.to_owned()),
    ] {
        local(async {
            let (upstream, one) = h1_upstream();
            answered_once(peer(upstream), one, body, &answer, &seen).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_peer_is_told_that_its_request_was_not_passed_on() {
    for (origin, reason, told) in [
        (Origin::Mesh, Reason::AppUnreachable, true),
        (Origin::Mesh, Reason::Draining, true),
        (Origin::Mesh, Reason::UpstreamClosed, false),
        (Origin::Mesh, Reason::PlaintextRefused, false),
        (Origin::Outside, Reason::AppUnreachable, false),
        (Origin::Outside, Reason::Draining, false),
    ] {
        local(async {
            let (mut client, near) = Io::pipe(PIPE);
            let context = ServeContext {
                limits: Limits::default(),
                closing: Closing::new(),
                origin,
                authority: None,
            };
            spawn_local(serve(near, HttpVersion::H1, Rc::new(Refusing(reason)), context));
            send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            let answer = read_all(&mut client).await;
            let line = format!("x-weft-unsent: {}\r\n", reason.code());
            assert_eq!(answer.contains(&line), told, "{origin:?} {answer}");
            assert_eq!(answer.contains("x-weft-"), told, "{origin:?} {answer}");
        })
        .await;
    }
}

/// Answers every request with this reason.
struct Refusing(Reason);

impl RequestService for Refusing {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        exchange.refuse(self.0).await;
    }
}
