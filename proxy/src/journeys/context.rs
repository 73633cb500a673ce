//! What apps say to each other about a request, from an app through two proxies to an app.

use super::script::client_of;
use super::world::*;

#[test]
fn baggage_and_state_pass_unchanged() {
    story(async {
        let client = client_of(&World::new(), &[app("reviews").await], |_| {}).await;
        let lines = [
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "baggage: userId=alice;prop=1,serverNode=DF%2028 , isProduction=false",
            "baggage: this is = no list",
            &format!("baggage: long={}", "x".repeat(8000)),
        ];
        let asks = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{}\r\n\r\n", lines.join("\r\n"));
        let answer = Client::to(client.outbound).await.send(&asks).await.unwrap();
        for line in lines {
            assert!(answer.body.contains(&format!("{line}\r\n")), "{line} in {answer:?}");
        }
    });
}

#[test]
fn baggage_that_is_too_large_or_hidden_is_refused() {
    story(async {
        let client = client_of(&World::new(), &[app("reviews").await], |_| {}).await;
        let asks = format!(
            "GET / HTTP/1.1\r\nhost: reviews\r\nbaggage: a={}\r\n\r\n",
            "x".repeat(70_000)
        );
        let answer = Client::to(client.outbound).await.send(&asks).await.unwrap();
        assert_eq!(answer.status, 431, "{answer:?}");
        for name in ["baggage", "tracestate", "b3", "x-b3-traceid"] {
            let asks = format!("GET / HTTP/1.1\r\nhost: reviews\r\nconnection: {name}\r\n{name}: 1\r\n\r\n");
            let answer = Client::to(client.outbound).await.send(&asks).await.unwrap();
            assert_eq!(answer.status, 400, "{name}: {answer:?}");
        }
    });
}
