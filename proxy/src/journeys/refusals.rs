//! What is turned away, and how it is told.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::destination::{Lookup, Protocol};
use weft_model::name::ServicePort;
use weft_model::reason::Reason;
use weft_model::route::Rules;

use super::routes::{backend, prefix, rule};
use super::world::*;
use crate::observe::access::write::describe;

#[test]
fn strict_tells_plaintext_http_why_and_closes_the_rest() {
    story(async {
        let server = World::new()
            .told("reviews")
            .strict()
            .start(app("reviews").await, nobody().await)
            .await;
        let answer = Client::to(server.inbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 403);
        assert!(answer.head.contains("plaintext-refused"), "{answer:?}");
        for bytes in [&b"\x00\x01\x02\x03"[..], b"PING\r\n", FOREIGN_HELLO] {
            let mut socket = TcpStream::connect(server.inbound).await.unwrap();
            socket.write_all(bytes).await.unwrap();
            let mut rest = Vec::new();
            let read = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "{read:?} {rest:?}");
        }
        assert_eq!(server.refusals(Reason::PlaintextRefused), 4);
    });
}

/// The beginning of a ClientHello that never gets longer, and then something that is none.
const FOREIGN_HELLO: &[u8] = &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0];

#[test]
fn permissive_takes_plaintext_as_from_nobody() {
    story(async {
        let server = World::new()
            .told("reviews")
            .start(app("reviews").await, nobody().await)
            .await;
        let forged = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://demo/ns/a/sa/b\r\n\r\n";
        let answer = Client::to(server.inbound).await.send(forged).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("x-forwarded-client-cert"), "{answer:?}");
        assert!(server.metrics().contains("mutual_tls=\"false\""));
    });
}

#[test]
fn what_discovery_does_not_know_is_refused_with_the_reason() {
    story(async {
        let world = World::new();
        let unknown: SocketAddr = "10.1.1.1:80".parse().unwrap();
        let client = world.told("web").start(nobody().await, unknown).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.head.contains("discovery-timeout"), "{answer:?}");

        let mut told = world.told("web");
        let ttl = std::time::Duration::from_secs(60);
        told.lookup(
            "10.1.1.1:80",
            Lookup::NoSuchPort {
                reason: "reviews has no port 80".into(),
                service: Some(ServicePort {
                    namespace: "shop".into(),
                    name: "reviews".into(),
                    port: 80,
                }),
                ttl,
            },
        );
        let client = told.start(nobody().await, unknown).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert!(answer.head.contains("no-such-port"), "{answer:?}");
        assert_eq!(failures(&client, "reviews"), [("503".to_owned(), 1)]);
    });
}

/// The requests to a Service that failed, by their status.
fn failures(pod: &Pod, service: &str) -> Vec<(String, u64)> {
    let value =
        |line: &str, label: &str| Some(line.split_once(&format!("{label}=\""))?.1.split('"').next()?.to_owned());
    let text = pod.metrics();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("http_client_request_duration_seconds_count{"));
    let failed = lines.filter(|line| value(line, "destination_service").as_deref() == Some(service));
    let counted = failed.filter_map(|line| {
        let count = line.rsplit_once(' ')?.1.parse::<f64>().ok()? as u64;
        Some((value(line, "http_response_status_code")?, count))
    });
    counted.collect()
}

#[test]
fn what_no_rule_matches_and_what_leads_nowhere_counts_for_the_service_that_was_called() {
    story(async {
        let world = World::new();
        let mut told = world.told("web");
        let rules = vec![rule(prefix("/v1"), vec![backend(1, None)])];
        told.service(Protocol::Http, Some(Rules { rules }));
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        client.access.set(true);
        let mut connection = Client::to(client.outbound).await;
        for (path, status, reason, route) in [
            ("/", 404, "no-route", None),
            ("/v1", 500, "backend-unresolved", Some("/v1/*")),
        ] {
            let answer = connection.get(path).await.unwrap();
            assert_eq!(answer.status, status);
            let next = std::future::poll_fn(|cx| client.entries.borrow_mut().poll_recv(cx));
            let line = describe(&next.await.expect("the log stands"));
            assert_eq!(line["error.type"], reason, "{line}");
            assert_eq!(line["weft.destination.service"], "shop/reviews", "{line}");
            assert_eq!(line.get("http.route").and_then(|route| route.as_str()), route, "{line}");
            assert_eq!(line.get("weft.route.object").is_some(), route.is_some(), "{line}");
        }
        let mut failed = failures(&client, "reviews");
        failed.sort();
        assert_eq!(failed, [("404".to_owned(), 1), ("500".to_owned(), 1)]);
        assert_eq!(failures(&client, ""), [], "{}", client.metrics());
    });
}

#[test]
fn a_connection_to_our_own_listener_is_closed() {
    story(async {
        let world = World::new();
        let own: SocketAddr = "127.0.0.1:15006".parse().unwrap();
        let pod = world.told("web").start(own, "127.0.0.1:15001".parse().unwrap()).await;
        for listener in [pod.inbound, pod.outbound] {
            let mut socket = TcpStream::connect(listener).await.unwrap();
            // Reset or ended: nothing comes.
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
        assert_eq!(pod.refusals(Reason::OwnListener), 2);
    });
}

#[test]
fn an_app_that_does_not_listen_is_named() {
    story(async {
        let world = World::new();
        let server = world.told("reviews").start(nobody().await, nobody().await).await;
        let answer = Client::to(server.inbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 502);
        assert!(answer.head.contains("app-unreachable"), "{answer:?}");
    });
}
