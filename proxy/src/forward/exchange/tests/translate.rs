//! HTTP/1.1 on one side, HTTP/2 on the other.

use super::*;

/// An HTTP/1.1 client before an HTTP/2 server.
async fn up() -> (Io, Proxy, Server) {
    let (upstream, server) = h2_upstream().await;
    let (client, proxy) = proxy(HttpVersion::H1, vec![upstream]);
    (client, proxy, server)
}

/// An HTTP/2 client before an HTTP/1.1 server.
async fn down() -> (SendRequest<Bytes>, Proxy, Io) {
    let (upstream, server) = h1_upstream();
    let (client, proxy) = proxy(HttpVersion::H2, vec![upstream]);
    (h2_client(client).await, proxy, server)
}

#[tokio::test(start_paused = true)]
async fn http1_goes_on_as_http2() {
    local(async {
        let (mut client, proxy, mut server) = up().await;
        for _ in 0..2 {
            send(&mut client, "POST /x?y HTTP/1.1\r\nHost: b:81\r\nConnection: x-a\r\nX-A: b\r\nX-C: d\r\nContent-Length: 2\r\n\r\nhi")
                .await;
            let (seen, mut respond) = server.accept().await;
            assert_eq!(seen.uri().to_string(), "http://b:81/x?y");
            let mut names: Vec<_> = seen.headers().keys().map(::http::HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["content-length", "x-c"]);
            assert_eq!(read_body(&mut seen.into_body()).await.unwrap().0, b"hi");
            let head = ::http::Response::builder().status(201).header("content-length", "3").header("x-e", "f");
            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
            data(&mut body, "yes", true);
            expect(&mut client, "HTTP/1.1 201 Created\r\nx-e: f\r\ncontent-length: 3\r\n\r\nyes").await;
        }
        assert_eq!(proxy.service.outcomes.borrow().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn chunks_become_data_and_trailers_come_back() {
    local(async {
        let (mut client, _proxy, mut server) = up().await;
        send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
            .await;
        let (seen, mut respond) = server.accept().await;
        assert_eq!(seen.headers()["te"], "trailers");
        let mut asked = seen.into_body();
        assert_eq!(asked.data().await.unwrap().unwrap(), "hi");
        send(&mut client, "0\r\nX-Sum: 2\r\n\r\n").await;
        assert!(asked.data().await.is_none());
        assert_eq!(asked.trailers().await.unwrap().unwrap()["x-sum"], "2");
        let mut body = respond.send_response(::http::Response::new(()), false).unwrap();
        data(&mut body, "yes", false);
        body.send_trailers(trailers(&[("x-sum", "3")])).unwrap();
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nx-sum: 3\r\n\r\n",
        )
        .await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http2_goes_on_as_http1() {
    local(async {
        let (mut client, proxy, mut server) = down().await;
        let headers = [
            ("cookie", "a=b"),
            ("x-c", "d"),
            ("cookie", "e=f"),
            ("te", "trailers"),
            ("x-weft-a", "b"),
            ("x_weft_a", "b"),
            ("x_forwarded_client_cert", "URI=spiffe://x/ns/y/sa/z"),
        ];
        let (response, mut up) = client.send_request(request("POST", "/x?y", &headers), false).unwrap();
        data(&mut up, "hi", false);
        expect(
            &mut server,
            "POST /x?y HTTP/1.1\r\nhost: a\r\ncookie: a=b; e=f\r\nx-c: d\r\ntransfer-encoding: chunked\r\n\
             te: trailers\r\nconnection: te\r\n\r\n2\r\nhi\r\n",
        )
        .await;
        up.send_trailers(trailers(&[("x-sum", "2")])).unwrap();
        expect(&mut server, "0\r\nx-sum: 2\r\n\r\n").await;
        send(
            &mut server,
            "HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nX-Sum: 3\r\n\
             X_Forwarded_Client_Cert: a\r\n\r\n",
        )
        .await;
        let response = response.await.unwrap();
        assert!(response.headers().is_empty(), "{:?}", response.headers());
        let (body, end) = read_body(&mut response.into_body()).await.unwrap();
        assert_eq!((body.as_slice(), end), (&b"yes"[..], Some(trailers(&[("x-sum", "3")]))));
        assert!(proxy.service.outcome().unwrap().reusable);

        let headers = [("content-length", "2")];
        let (response, mut up) = client.send_request(request("PUT", "/", &headers), false).unwrap();
        data(&mut up, "hi", true);
        expect(&mut server, "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await;
        let response = response.await.unwrap();
        assert_eq!(response.headers()["content-length"], "3");
        assert_eq!(read_body(&mut response.into_body()).await.unwrap().0, b"yes");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn responses_without_bodies_end_with_their_heads() {
    local(async {
        let (mut client, _proxy, mut server) = down().await;
        for (method, answer, length) in [
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", Some("500")),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
            (
                "GET",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                Some("5"),
            ),
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("0")),
        ] {
            client = client.ready().await.unwrap();
            let (response, _up) = client.send_request(request(method, "/", &[]), true).unwrap();
            expect(&mut server, &format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            send(&mut server, answer).await;
            let response = timeout(SECOND, response).await.unwrap().unwrap();
            assert!(response.body().is_end_stream(), "{answer:?}");
            assert_eq!(
                response
                    .headers()
                    .get("content-length")
                    .map(|value| value.to_str().unwrap()),
                length
            );
        }
    })
    .await;
    local(async {
        let (mut client, _proxy, mut server) = up().await;
        send(&mut client, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut respond) = server.accept().await;
        let head = ::http::Response::builder()
            .header("content-length", "500")
            .body(())
            .unwrap();
        respond.send_response(head, true).unwrap();
        expect(&mut client, "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n").await;
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut respond) = server.accept().await;
        respond
            .send_response(::http::Response::builder().status(204).body(()).unwrap(), true)
            .unwrap();
        expect(&mut client, "HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_and_expectations_cross_over() {
    local(async {
        let (mut client, _proxy, mut server) = up().await;
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .await;
        let (seen, mut respond) = server.accept().await;
        assert_eq!(seen.headers()["expect"], "100-continue");
        respond
            .send_informational(::http::Response::builder().status(100).body(()).unwrap())
            .unwrap();
        expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
        send(&mut client, "hi").await;
        assert_eq!(read_body(&mut seen.into_body()).await.unwrap().0, b"hi");
        respond.send_response(::http::Response::new(()), true).unwrap();
        expect(&mut client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    local(async {
        let (mut client, _proxy, mut server) = down().await;
        let (mut response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        expect(&mut server, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        send(
            &mut server,
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let interim = timeout(SECOND, poll_fn(|cx| response.poll_informational(cx)))
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(interim.status().as_u16(), 103);
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_never_asked_of_http2() {
    local(async {
        let (mut client, proxy, _server) = up().await;
        send(
            &mut client,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 500");
        assert!(!proxy.service.outcome().unwrap_err().replayable);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connect_by_http2_becomes_a_tunnel_by_http1() {
    local(async {
        let (mut client, proxy, mut server) = down().await;
        let connect = Request::builder().method("CONNECT").uri("b:80").body(()).unwrap();
        let (response, mut up) = client.send_request(connect, false).unwrap();
        data(&mut up, "early", false);
        expect(&mut server, "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n").await;
        expect_silence(&mut server).await;
        send(&mut server, "HTTP/1.1 200 OK\r\n\r\n").await;
        let mut body = response.await.unwrap().into_body();
        expect(&mut server, "early").await;
        send(&mut server, "hello").await;
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
        data(&mut up, "", true);
        expect_end(&mut server).await;
        send(&mut server, "bye").await;
        drop(server);
        assert_eq!(body.data().await.unwrap().unwrap(), "bye");
        expect_last(&mut body).await;
        assert!(proxy.service.outcome().unwrap().upgraded);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_go_away_cancel_on_the_other_side() {
    local(async {
        let (mut client, _proxy, mut server) = up().await;
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut respond) = server.accept().await;
        drop(client);
        let reset = timeout(SECOND, poll_fn(|cx| respond.poll_reset(cx)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reset, ::h2::Reason::CANCEL);
    })
    .await;
    local(async {
        let (mut client, _proxy, mut server) = down().await;
        let (_response, mut up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        expect(&mut server, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        up.send_reset(::h2::Reason::CANCEL);
        expect_end(&mut server).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_cut_short_never_looks_whole() {
    local(async {
        let (mut client, _proxy, mut server) = down().await;
        let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        expect(&mut server, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        send(
            &mut server,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        )
        .await;
        let mut body = response.await.unwrap().into_body();
        drop(server);
        let error = read_body(&mut body).await.unwrap_err();
        assert_eq!(error.reason(), Some(::h2::Reason::INTERNAL_ERROR));
    })
    .await;
    local(async {
        let (mut client, _proxy, mut server) = up().await;
        send(&mut client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut respond) = server.accept().await;
        let mut body = respond.send_response(::http::Response::new(()), false).unwrap();
        data(&mut body, "ab", false);
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        )
        .await;
        body.send_reset(::h2::Reason::INTERNAL_ERROR);
        expect_end(&mut client).await;
    })
    .await;
}
