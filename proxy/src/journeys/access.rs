//! The access log of journeys: one line on each side for each request and each opaque stream.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::destination::Protocol;
use weft_model::route::Rules;

use super::routes::{backend, prefix, rule};
use super::world::*;
use crate::observe::access::write::describe;

/// The next line of a pod's log.
async fn line(pod: &Pod) -> Value {
    let next = std::future::poll_fn(|cx| pod.entries.borrow_mut().poll_recv(cx));
    describe(&next.await.expect("the log stands"))
}

fn is_quiet(pod: &Pod) -> bool {
    pod.entries.borrow_mut().try_recv().is_err()
}

/// A client and a server whose logs are on, with a route between them.
async fn pair(world: &World, app: std::net::SocketAddr, protocol: Protocol) -> (Pod, Pod) {
    let server = world.told("reviews").strict().start(app, nobody().await).await;
    let mut told = world.told("web");
    told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
    let rules = vec![rule(prefix("/"), vec![backend(1, Some("all"))])];
    told.service(protocol, Some(Rules { rules }));
    let client = told.start(nobody().await, VIP.parse().unwrap()).await;
    client.access.set(true);
    server.access.set(true);
    (client, server)
}

#[test]
fn a_request_has_a_line_at_its_caller_and_one_at_its_app() {
    story(async {
        let world = World::new();
        let (client, server) = pair(&world, app("reviews").await, Protocol::Undeclared).await;
        let mut connection = Client::to(client.outbound).await;
        connection.post("/42?token=secret", "body").await.unwrap();
        let (at_client, at_server) = (line(&client).await, line(&server).await);
        for said in [&at_client, &at_server] {
            for (field, want) in [
                ("http.request.method", json!("POST")),
                ("url.path", json!("/42")),
                ("server.address", json!("reviews")),
                ("http.response.status_code", json!(200)),
                ("http.request.body.size", json!(4)),
                (
                    "weft.source.identity",
                    json!("spiffe://demo.weft.internal/ns/shop/sa/web"),
                ),
                (
                    "weft.destination.identity",
                    json!("spiffe://demo.weft.internal/ns/shop/sa/reviews"),
                ),
            ] {
                assert_eq!(said[field], want, "{field} of {said}");
            }
            assert!(!said.to_string().contains("secret"), "{said}");
            assert_eq!(said.get("error.type"), None, "{said}");
        }
        assert_eq!(
            (&at_client["weft.direction"], &at_client["weft.tries"]),
            (&json!("outbound"), &json!(1))
        );
        assert_eq!(at_client["weft.endpoint.pod"], "shop/pod-1");
        assert!(
            at_client["weft.route.object"]
                .as_str()
                .unwrap()
                .starts_with("HTTPRoute "),
            "{at_client}"
        );
        assert_eq!(at_server["weft.direction"], "inbound");
        assert!(at_server["network.peer.port"].is_u64(), "{at_server}");
        assert!(is_quiet(&client) && is_quiet(&server), "one line each");
        // Switched off under a connection that stands.
        client.access.set(false);
        server.access.set(false);
        connection.get("/").await.unwrap();
        assert!(is_quiet(&client) && is_quiet(&server));
    });
}

#[test]
fn what_is_refused_has_a_line_with_its_reason() {
    story(async {
        let world = World::new();
        let (client, server) = pair(&world, nobody().await, Protocol::Undeclared).await;
        assert_eq!(Client::to(client.outbound).await.get("/").await.unwrap().status, 502);
        for said in [line(&client).await, line(&server).await] {
            assert_eq!(said["weft.reason"], "app-unreachable", "{said}");
            assert_eq!(
                (&said["error.type"], &said["http.response.status_code"]),
                (&json!("app-unreachable"), &json!(502))
            );
        }
        let answer = Client::to(client.outbound)
            .await
            .send("GET / HTTP/1.1\r\nhost: a b\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(answer.status, 400);
        let said = line(&client).await;
        assert_eq!(
            (&said["weft.reason"], said.get("url.path")),
            (&json!("bad-request"), None),
            "{said}"
        );
        // Who is not let in leaves a line too.
        let answer = Client::to(server.inbound).await.get("/secret").await.unwrap();
        assert_eq!(answer.status, 403);
        let said = line(&server).await;
        assert_eq!(
            (&said["weft.reason"], &said["url.path"]),
            (&json!("plaintext-refused"), &json!("/secret"))
        );
        assert_eq!(said.get("weft.source.identity"), None, "nobody is verified: {said}");
    });
}

#[test]
fn a_stream_has_a_line_when_it_ends() {
    story(async {
        let world = World::new();
        let listener = listen().await;
        let (client, server) = pair(&world, listener.local_addr().unwrap(), Protocol::Opaque).await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        connection.write_all(b"question").await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        app.read_exact(&mut [0; 8]).await.unwrap();
        app.write_all(b"answer").await.unwrap();
        connection.read_exact(&mut [0; 6]).await.unwrap();
        assert!(is_quiet(&client) && is_quiet(&server), "it has not ended");
        drop((connection, app));
        for said in [line(&client).await, line(&server).await] {
            assert_eq!(
                (&said["weft.stream.sent"], &said["weft.stream.received"]),
                (&json!(8), &json!(6)),
                "{said}"
            );
            assert_eq!(
                said["weft.source.identity"],
                "spiffe://demo.weft.internal/ns/shop/sa/web"
            );
            assert_eq!(
                said["weft.destination.identity"],
                "spiffe://demo.weft.internal/ns/shop/sa/reviews"
            );
            assert_eq!((said.get("url.path"), said.get("weft.reason")), (None, None));
        }
    });
}
