//! HTTP/2 on both sides, gRPC above all.

use super::*;

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];

fn grpc_head() -> ::http::Response<()> {
    ::http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_passes_with_its_trailers() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (response, mut up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        data(&mut up, "question", true);
        let (seen, mut respond) = server.accept().await;
        assert_eq!(
            (seen.method().as_str(), seen.uri().to_string().as_str()),
            ("POST", "http://a/s/m")
        );
        assert_eq!(seen.headers()["te"], "trailers");
        let mut body = seen.into_body();
        assert_eq!(read_body(&mut body).await.unwrap(), (b"question".to_vec(), None));
        let mut down = respond.send_response(grpc_head(), false).unwrap();
        data(&mut down, "answer", false);
        let reserved = [("x-weft-a", "b"), ("x_weft_a", "b"), ("x_forwarded_client_cert", "c")];
        down.send_trailers(trailers(&[&[("grpc-status", "5")][..], &reserved].concat()))
            .unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let (answer, end) = read_body(&mut response.into_body()).await.unwrap();
        assert_eq!(
            (answer.as_slice(), end),
            (&b"answer"[..], Some(trailers(&[("grpc-status", "5")])))
        );
        let done = proxy.service.outcome().unwrap();
        assert_eq!(
            (done.status, done.grpc_status, done.request_bytes, done.response_bytes),
            (200, Some(5), 8, 6)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_of_trailers_alone_says_its_status() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (response, mut up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        data(&mut up, "", true);
        let (_, mut respond) = server.accept().await;
        let mut head = grpc_head();
        head.headers_mut().insert("grpc-status", "12".parse().unwrap());
        respond.send_response(head, true).unwrap();
        let response = response.await.unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(proxy.service.outcome().unwrap().grpc_status, Some(12));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn both_sides_stream_at_once() {
    local(async {
        let (mut client, _proxy, mut server) = h2_pair().await;
        let (response, mut up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        let (seen, mut respond) = server.accept().await;
        let mut asked = seen.into_body();
        let mut down = respond.send_response(grpc_head(), false).unwrap();
        let mut told = timeout(SECOND, response)
            .await
            .expect("the head comes before the body ends")
            .unwrap()
            .into_body();
        for _ in 0..100 {
            data(&mut up, "ping", false);
            assert_eq!(timeout(SECOND, asked.data()).await.unwrap().unwrap().unwrap(), "ping");
            data(&mut down, "pong", false);
            assert_eq!(timeout(SECOND, told.data()).await.unwrap().unwrap().unwrap(), "pong");
        }
        data(&mut up, "", true);
        expect_last(&mut asked).await;
        down.send_trailers(trailers(&[("grpc-status", "0")])).unwrap();
        expect_last(&mut told).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn request_trailers_pass() {
    local(async {
        let (mut client, _proxy, mut server) = h2_pair().await;
        let (_response, mut up) = client.send_request(request("POST", "/", &[]), false).unwrap();
        data(&mut up, "x", false);
        up.send_trailers(trailers(&[("x-sum", "1")])).unwrap();
        let (seen, _respond) = server.accept().await;
        let (body, end) = read_body(&mut seen.into_body()).await.unwrap();
        assert_eq!((body.as_slice(), end), (&b"x"[..], Some(trailers(&[("x-sum", "1")]))));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_cancelled_at_the_app() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (_response, mut up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        let (seen, mut respond) = server.accept().await;
        up.send_reset(::h2::Reason::CANCEL);
        let error = read_body(&mut seen.into_body()).await.unwrap_err();
        assert_eq!(error.reason(), Some(::h2::Reason::CANCEL));
        let reset = timeout(SECOND, poll_fn(|cx| respond.poll_reset(cx)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reset, ::h2::Reason::CANCEL);
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::ClientClosed);
    })
    .await;
    local(async {
        let (mut client, _proxy, mut server) = h2_pair().await;
        let (response, mut up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let (_seen, mut respond) = server.accept().await;
        let mut down = respond.send_response(grpc_head(), false).unwrap();
        let _open = response.await.unwrap();
        up.send_reset(::h2::Reason::ENHANCE_YOUR_CALM);
        let reset = timeout(SECOND, poll_fn(|cx| down.poll_reset(cx)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            reset,
            ::h2::Reason::ENHANCE_YOUR_CALM,
            "after the request has ended, and while the response runs"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_apps_reset_reaches_the_client_as_it_is() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (response, _up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        let (_seen, mut respond) = server.accept().await;
        respond.send_reset(::h2::Reason::ENHANCE_YOUR_CALM);
        let error = timeout(SECOND, response).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(::h2::Reason::ENHANCE_YOUR_CALM));
        let outcome = proxy.service.outcome().unwrap_err();
        assert!(outcome.answered && !outcome.replayable);

        let (response, _up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        let (_seen, mut respond) = server.accept().await;
        let mut down = respond.send_response(grpc_head(), false).unwrap();
        data(&mut down, "half", false);
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        down.send_reset(::h2::Reason::INTERNAL_ERROR);
        let error = timeout(SECOND, body.data()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(::h2::Reason::INTERNAL_ERROR));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_server_dies_in_the_middle_ends_as_unavailable() {
    local(async {
        let (mut client, _proxy, mut server) = h2_pair().await;
        let (response, _up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        let (_seen, mut respond) = server.accept().await;
        let mut down = respond.send_response(grpc_head(), false).unwrap();
        data(&mut down, "half", false);
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        server.kill();
        let (_, end) = read_body(&mut body).await.unwrap();
        assert_eq!(end.unwrap()["grpc-status"], "14");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_gets_a_status_and_its_reason() {
    local(async {
        let (client, _proxy) = proxy(HttpVersion::H2, Vec::new());
        let mut client = h2_client(client).await;
        let (response, _up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        let response = timeout(SECOND, response).await.unwrap().unwrap();
        assert!(response.body().is_end_stream(), "trailers only");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(
            response.headers()["grpc-message"],
            "weft: no-endpoints: The backend has no endpoints."
        );

        let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 503);
        let error = "weft; error=destination_unavailable; details=\"no-endpoints\"";
        assert_eq!(response.headers()["proxy-status"], error);
        let (body, _) = read_body(&mut response.into_body()).await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&body),
            "weft: no-endpoints: The backend has no endpoints.\n"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_peer_refuses_unseen_goes_to_another_with_its_body() {
    local(async {
        let (first, mut one) = h2_upstream().await;
        let (second, mut other) = h2_upstream().await;
        let (client, proxy) = proxy(HttpVersion::H2, vec![first, second]);
        let mut client = h2_client(client).await;
        let (response, mut up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        data(&mut up, "question", true);
        let (seen, mut respond) = one.accept().await;
        let _ = read_body(&mut seen.into_body()).await.unwrap();
        respond.send_reset(::h2::Reason::REFUSED_STREAM);
        let (seen, mut respond) = other.accept().await;
        assert_eq!(read_body(&mut seen.into_body()).await.unwrap().0, b"question");
        respond.send_response(grpc_head(), true).unwrap();
        response.await.unwrap();
        let outcomes = proxy.service.outcomes.borrow();
        assert!(outcomes[0].as_ref().is_err_and(|error| error.replayable) && outcomes[1].is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_sent_once_more_has_its_trailers_again() {
    for text in ["question", ""] {
        local(async {
            let (first, mut one) = h2_upstream().await;
            let (second, mut other) = h2_upstream().await;
            let (third, mut last) = h1_upstream();
            let (client, _proxy) = proxy(HttpVersion::H2, vec![first, second, third]);
            let mut client = h2_client(client).await;
            let (_response, mut up) = client.send_request(request("POST", "/", &[]), false).unwrap();
            data(&mut up, text, false);
            up.send_trailers(trailers(&[("x-sum", "1")])).unwrap();
            for server in [&mut one, &mut other] {
                let (seen, mut respond) = server.accept().await;
                let (body, end) = read_body(&mut seen.into_body()).await.unwrap();
                assert_eq!(
                    (body.as_slice(), end),
                    (text.as_bytes(), Some(trailers(&[("x-sum", "1")])))
                );
                respond.send_reset(::h2::Reason::REFUSED_STREAM);
            }
            let chunk = if text.is_empty() { "" } else { "8\r\nquestion\r\n" };
            let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            expect(&mut last, &format!("{head}{chunk}0\r\nx-sum: 1\r\n\r\n")).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_body_that_was_taken_is_not_sent_twice() {
    local(async {
        let (first, mut one) = h2_upstream().await;
        let (second, _other) = h2_upstream().await;
        let (client, proxy) = proxy(HttpVersion::H2, vec![first, second]);
        let mut client = h2_client(client).await;
        let (response, mut up) = client.send_request(request("POST", "/s/m", GRPC), false).unwrap();
        up.send_data(Bytes::from(vec![0; 20_000]), true).unwrap();
        let (seen, mut respond) = one.accept().await;
        let _ = read_body(&mut seen.into_body()).await.unwrap();
        respond.send_reset(::h2::Reason::REFUSED_STREAM);
        assert_eq!(response.await.unwrap().headers()["grpc-status"], "14");
        assert!(!proxy.service.outcome().unwrap_err().replayable);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_gets_no_new_calls_and_finishes_the_old() {
    local(async {
        let (first, mut one) = h2_upstream().await;
        let (second, mut other) = h2_upstream().await;
        let (client, _proxy) = proxy(HttpVersion::H2, vec![first, second]);
        let mut client = h2_client(client).await;
        let (old, _up) = client.send_request(request("GET", "/old", &[]), true).unwrap();
        let (_, mut respond) = one.accept().await;
        one.stop();
        tokio::time::sleep(SECOND / 10).await;
        // The service asks `other` next, and then `one` again.
        for path in ["/1", "/2", "/3"] {
            let (new, _up) = client.send_request(request("GET", path, &[]), true).unwrap();
            let (seen, mut respond) = other.accept().await;
            assert_eq!(seen.uri().path(), path);
            respond.send_response(grpc_head(), true).unwrap();
            new.await.unwrap();
        }
        respond.send_response(grpc_head(), true).unwrap();
        old.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_pass() {
    local(async {
        let (mut client, _proxy, mut server) = h2_pair().await;
        let (mut response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let (_, mut respond) = server.accept().await;
        let hints = ::http::Response::builder()
            .status(103)
            .header("link", "</a>")
            .body(())
            .unwrap();
        respond.send_informational(hints).unwrap();
        let interim = timeout(SECOND, poll_fn(|cx| response.poll_informational(cx)))
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            (interim.status().as_u16(), interim.headers()["link"].as_bytes()),
            (103, &b"</a>"[..])
        );
        respond.send_response(grpc_head(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_no_place_in_http2_or_is_ambiguous_is_refused() {
    local(async {
        let (client, proxy) = proxy(HttpVersion::H2, Vec::new());
        let mut client = h2_client(client).await;
        let mut ask = async |request| {
            let (response, _up) = client.send_request(request, true).unwrap();
            timeout(SECOND, response)
                .await
                .unwrap()
                .map(|response| response.status().as_u16())
        };
        for headers in [
            &[("host", "b")][..],
            &[("host", "a"), ("host", "a")],
            &[("content-length", "5")],
            &[("content-length", "x")],
        ] {
            let answer = ask(request("GET", "/", headers)).await;
            // Some of it the `h2` crate refuses by itself, with a reset.
            assert!(matches!(answer, Ok(400) | Err(_)), "{headers:?} {answer:?}");
        }
        for path in ["/..", "/a/../..", "/%2e%2e/x", "/x%00", "/a\\b"] {
            let mut bad = request("GET", "/", &[]);
            if let Ok(uri) = format!("http://a{path}").parse() {
                *bad.uri_mut() = uri;
                assert!(matches!(ask(bad).await, Ok(400) | Err(_)), "{path}");
            }
        }
        assert!(
            proxy
                .service
                .refusals
                .borrow()
                .iter()
                .all(|reason| *reason == Reason::BadRequest)
        );
        assert!(proxy.service.refusals.borrow().len() >= 6);
        assert_eq!(
            ask(request("GET", "/a/../b;c%2F", &[("host", "A")])).await.unwrap(),
            503
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn resets_without_end_close_the_connection() {
    local(async {
        let (upstream, mut server) = h2_upstream().await;
        let (client, proxy) = proxy(HttpVersion::H2, vec![upstream]);
        let mut client = h2_client(client).await;
        spawn_local(async move {
            let mut unanswered = Vec::new();
            while let Some(stream) = server.streams.recv().await {
                unanswered.push(stream);
            }
        });
        let mut pairs = 0;
        while let Ok(ready) = client.clone().ready().await {
            client = ready;
            let Ok((_response, mut up)) = client.send_request(request("GET", "/", &[]), true) else {
                break;
            };
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            up.send_reset(::h2::Reason::CANCEL);
            pairs += 1;
            assert!(pairs < 1000, "a flood of resets goes on");
        }
        assert!(pairs >= 20, "a few cancellations are allowed: {pairs}");
        assert!(proxy.ended().await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_cancel_some_of_many_are_left_alone() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        spawn_local(async move {
            while let Some((seen, mut respond)) = server.streams.recv().await {
                if seen.uri().path() == "/answered" {
                    let _ = respond.send_response(grpc_head(), true);
                }
            }
        });
        for _ in 0..300 {
            client = client.ready().await.unwrap();
            let (response, _up) = client.send_request(request("GET", "/answered", &[]), true).unwrap();
            response.await.unwrap();
            let (response, _up) = client.send_request(request("GET", "/answered", &[]), true).unwrap();
            response.await.unwrap();
            let (_response, mut up) = client.send_request(request("GET", "/cancelled", &[]), true).unwrap();
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            up.send_reset(::h2::Reason::CANCEL);
        }
        assert!(!proxy.task.is_finished());
    })
    .await;
}
