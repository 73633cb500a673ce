//! What detection says of journeys, for `/config`.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_model::destination::Protocol;

use super::world::*;

#[test]
fn each_side_says_what_was_spoken_and_how_it_was_found() {
    story(async {
        let world = World::new();
        let reviews = app("reviews").await;
        let server = world.told("reviews").start(reviews, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        Client::to(client.outbound).await.get("/").await.unwrap();
        let said = |direction, destination: &str, protocol, found| json!([{"direction": direction, "destination": destination, "protocol": protocol, "found": found}]);
        assert_eq!(
            client.verdicts.describe(),
            said("outbound", VIP, "http/1", "client-bytes")
        );
        let at = reviews.to_string();
        assert_eq!(server.verdicts.describe(), said("inbound", &at, "http/1", "peer"));
        client.tell(|told| _ = told.service(Protocol::Http, None)).await;
        Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(client.verdicts.describe(), said("outbound", VIP, "http/1", "declared"));
        // A stranger, who says nothing of what it speaks.
        Client::to(server.inbound).await.get("/").await.unwrap();
        assert_eq!(
            server.verdicts.describe(),
            said("inbound", &at, "http/1", "client-bytes")
        );
    });
}

#[test]
fn a_server_that_speaks_first_is_said_to() {
    story(async {
        let world = World::new();
        let listener = listen().await;
        let app = listener.local_addr().unwrap();
        let server = world.told("reviews").start(app, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut connection = TcpStream::connect(client.outbound).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
        connection.read_exact(&mut [0; 24]).await.unwrap();
        let said = client.verdicts.describe();
        assert_eq!(
            (&said[0]["protocol"], &said[0]["found"]),
            (&json!("opaque"), &json!("server-first")),
            "{said}"
        );
        connection.write_all(b"QUIT\r\n").await.unwrap();
        socket.read_exact(&mut [0; 6]).await.unwrap();
    });
}
