//! HTTP/1.1 on both sides.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const GOT: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SEEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test(start_paused = true)]
async fn requests_pass_one_after_another_over_the_same_connections() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        for _ in 0..3 {
            send(
                &mut client,
                "POST /x?y HTTP/1.1\r\nHost: a\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello",
            )
            .await;
            expect(
                &mut server,
                "POST /x?y HTTP/1.1\r\nhost: a\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello",
            )
            .await;
            send(
                &mut server,
                "HTTP/1.1 201 Made\r\nX-C: d\r\nContent-Length: 3\r\n\r\nyes",
            )
            .await;
            expect(
                &mut client,
                "HTTP/1.1 201 Created\r\nx-c: d\r\ncontent-length: 3\r\n\r\nyes",
            )
            .await;
            let done = proxy.service.outcome().unwrap();
            assert_eq!((done.status, done.request_bytes, done.response_bytes), (201, 5, 3));
            assert!(done.reusable && !done.upgraded);
            proxy.service.outcomes.borrow_mut().clear();
        }
        drop(client);
        proxy.ended().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_sent_ahead_are_answered_in_their_order() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, &GET.repeat(3)).await;
        for _ in 0..3 {
            expect(&mut server, GOT).await;
            expect_silence(&mut server).await;
            send(&mut server, OK).await;
            expect(&mut client, SEEN).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn chunks_and_trailers_pass_both_ways_and_are_framed_anew() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n").await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nte: trailers\r\nconnection: te\r\n\r\n3\r\nabc\r\n",
        )
        .await;
        send(&mut client, "0002\r\nde\r\n0\r\nX-Sum: 5\r\nX-Weft-A: b\r\nContent-Length: 9\r\n\r\n").await;
        expect(&mut server, "2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n").await;
        send(&mut server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        expect(&mut client, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
        send(&mut server, "0\r\nX-Sum: 1\r\nX-Forwarded-Client-Cert: b\r\n\r\n").await;
        expect(&mut client, "0\r\nx-sum: 1\r\n\r\n").await;
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_expected_100_comes_from_the_app_and_nobody_else() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        )
        .await;
        expect_silence(&mut client).await;
        send(&mut server, "HTTP/1.1 100 Continue\r\n\r\n").await;
        expect(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
        send(&mut client, "hi").await;
        expect(&mut server, "hi").await;
        send(&mut server, OK).await;
        expect(&mut client, SEEN).await;
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_instead_of_a_100_closes_the_connection() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        )
        .await;
        send(
            &mut server,
            "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        let closes = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        expect(&mut client, closes).await;
        expect_end(&mut client).await;
        assert!(!proxy.service.outcome().unwrap().reusable);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_pass_but_not_without_end() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
        expect(&mut client, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
        send(&mut server, OK).await;
        expect(&mut client, SEEN).await;
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, &"HTTP/1.1 102 Processing\r\n\r\n".repeat(33)).await;
        let body = "weft: upstream-protocol: The response broke the protocol.\n";
        let refusal = bad_gateway(body, "upstream-protocol", "http_protocol_error");
        expect(&mut client, &("HTTP/1.1 102 Processing\r\n\r\n".repeat(32) + &refusal)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn responses_without_bodies_leave_the_connection_in_step() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        expect(&mut server, "HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await;
        expect(&mut client, "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n").await;
        for (answer, seen) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
            (
                "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
            ),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            ),
        ] {
            send(&mut client, GET).await;
            expect(&mut server, GOT).await;
            send(&mut server, answer).await;
            expect(&mut client, seen).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_old_client_gets_a_body_that_ends_with_the_connection() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        expect(&mut server, "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n").await;
        send(
            &mut server,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
        )
        .await;
        send(&mut client, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        expect(&mut server, "GET / HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n").await;
        send(
            &mut server,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        )
        .await;
        assert_eq!(
            read_all(&mut client).await,
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_with_the_servers_connection_is_chunked_for_the_client() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, "HTTP/1.0 200 OK\r\n\r\nsome").await;
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
        )
        .await;
        drop(server);
        expect(&mut client, "0\r\n\r\n").await;
        assert!(!proxy.service.outcome().unwrap().reusable);
        send(&mut client, GET).await;
        let mut refused = [0; 12];
        client.read_exact(&mut refused).await.unwrap();
        assert_eq!(&refused, b"HTTP/1.1 503");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_makes_a_tunnel_that_half_closes() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(
            &mut client,
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
        )
        .await;
        expect(
            &mut server,
            "GET /ws HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        )
        .await;
        expect_silence(&mut server).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        send(&mut server, switch).await;
        let switched = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhello";
        expect(&mut client, switched).await;
        expect(&mut server, "early").await;
        send(&mut client, "GET / HTTP/1.1\r\n\r\n").await;
        expect(&mut server, "GET / HTTP/1.1\r\n\r\n").await;
        client.shutdown().await.unwrap();
        expect_end(&mut server).await;
        send(&mut server, "still here").await;
        expect(&mut client, "still here").await;
        drop(server);
        expect_end(&mut client).await;
        let done = proxy.service.outcome().unwrap();
        assert_eq!((done.status, done.request_bytes, done.response_bytes), (101, 23, 15));
        assert!(done.upgraded && !done.reusable);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_is_declined_is_an_ordinary_response() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(
            &mut client,
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await;
        expect(
            &mut server,
            "GET /ws HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        )
        .await;
        send(&mut server, OK).await;
        expect(&mut client, SEEN).await;
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(
            &mut server,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        )
        .await;
        let answer = "HTTP/1.1 502 Bad Gateway\r\n";
        let mut seen = vec![0; answer.len()];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), answer);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_connect_waits_for_the_tunnel() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(
            &mut client,
            "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\nGET /secret HTTP/1.1\r\n\r\n",
        )
        .await;
        expect(&mut server, "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n").await;
        expect_silence(&mut server).await;
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        expect(&mut client, "HTTP/1.1 200 OK\r\n\r\n").await;
        expect(&mut server, "GET /secret HTTP/1.1\r\n\r\n").await;
        drop(client);
        expect_end(&mut server).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_refused_connect_is_the_next_request() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(
            &mut client,
            &format!("CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n{GET}"),
        )
        .await;
        expect(&mut server, "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n").await;
        send(
            &mut server,
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        expect(
            &mut client,
            "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        expect(&mut server, GOT).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_may_begin_before_the_request_has_ended() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
        )
        .await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
        )
        .await;
        send(
            &mut server,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n",
        )
        .await;
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nA\r\n",
        )
        .await;
        send(&mut client, "1\r\nb\r\n").await;
        expect(&mut server, "1\r\nb\r\n").await;
        send(&mut server, "1\r\nB\r\n").await;
        expect(&mut client, "1\r\nB\r\n").await;
        send(&mut client, "0\r\n\r\n").await;
        expect(&mut server, "0\r\n\r\n").await;
        send(&mut server, "0\r\n\r\n").await;
        expect(&mut client, "0\r\n\r\n").await;
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_ends_early_reaches_a_client_that_goes_on_writing() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\nxx",
        )
        .await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\nxx",
        )
        .await;
        send(
            &mut server,
            "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno",
        )
        .await;
        expect(
            &mut client,
            "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\n\r\nno",
        )
        .await;
        expect_end(&mut server).await;
        let mut taken = 0;
        while timeout(10 * SECOND, client.write_all(&[0; 1000]))
            .await
            .is_ok_and(|written| written.is_ok())
        {
            taken += 1000;
            assert!(taken < 1_000_000, "a body that nobody wants is read to its end");
        }
        assert!(!proxy.service.outcome().unwrap().reusable);
        proxy.ended().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_cancels_its_request() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        drop(client);
        expect_end(&mut server).await;
        let error = proxy.service.outcome().unwrap_err();
        assert_eq!(
            (error.reason, error.replayable, error.answered),
            (Reason::ClientClosed, false, true)
        );
    })
    .await;
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
        )
        .await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf",
        )
        .await;
        drop(client);
        expect_end(&mut server).await;
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::ClientClosed);
    })
    .await;
}

const CLOSED: &str = "weft: upstream-closed: The connection ended before a response began.\n";

fn bad_gateway(body: &str, code: &str, error: &str) -> String {
    format!(
        "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain; charset=utf-8\r\n\
         proxy-status: weft; error={error}; details=\"{code}\"\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_before_it_answers_is_named_and_not_asked_again() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        drop(server);
        expect(
            &mut client,
            &bad_gateway(CLOSED, "upstream-closed", "connection_terminated"),
        )
        .await;
        let error = proxy.service.outcome().unwrap_err();
        assert_eq!(
            (error.reason, error.replayable, error.answered),
            (Reason::UpstreamClosed, false, false)
        );
        send(&mut client, GET).await;
        let mut next = [0; 12];
        client.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"HTTP/1.1 503", "the client's connection goes on");
    })
    .await;
}

/// One request over a connection, which the server closes when the next one comes.
async fn race(method: &str, want_replay: bool) {
    let (first, mut server) = h1_upstream();
    let (second, mut other) = h1_upstream();
    let (mut client, proxy) = proxy(HttpVersion::H1, vec![first, second]);
    send(&mut client, GET).await;
    expect(&mut server, GOT).await;
    send(&mut server, OK).await;
    expect(&mut client, SEEN).await;
    proxy.service.outcomes.borrow_mut().clear();
    let body = if method == "GET" { "" } else { "Content-Length: 2\r\n" };
    let text = if method == "GET" { "" } else { "hi" };
    send(
        &mut client,
        &format!("{method} / HTTP/1.1\r\nHost: a\r\n{body}\r\n{text}"),
    )
    .await;
    let seen = format!("{method} / HTTP/1.1\r\nhost: a\r\n{}\r\n{text}", body.to_lowercase());
    expect(&mut server, &seen).await;
    drop(server);
    if want_replay {
        expect(&mut other, &seen).await;
        send(&mut other, OK).await;
        expect(&mut client, SEEN).await;
    } else {
        expect(
            &mut client,
            &bad_gateway(CLOSED, "upstream-closed", "connection_terminated"),
        )
        .await;
        expect_silence(&mut other).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_closes_under_a_request_costs_nothing_where_the_method_allows_it() {
    local(race("GET", true)).await;
    local(race("PUT", true)).await;
    local(race("DELETE", true)).await;
    local(race("POST", false)).await;
    local(race("PATCH", false)).await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_found_closed_costs_nothing_whatever_the_method() {
    local(async {
        let (first, mut server) = h1_upstream();
        let (second, mut other) = h1_upstream();
        let (mut client, _proxy) = proxy(HttpVersion::H1, vec![first, second]);
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, OK).await;
        expect(&mut client, SEEN).await;
        drop(server);
        send(&mut client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
        expect(&mut other, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_cut_short_never_looks_whole() {
    for (answer, seen) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        ),
    ] {
        local(async {
            let (mut client, proxy, mut server) = h1_pair();
            send(&mut client, GET).await;
            expect(&mut server, GOT).await;
            send(&mut server, answer).await;
            expect(&mut client, seen).await;
            drop(server);
            expect_end(&mut client).await;
            let error = proxy.service.outcome().unwrap_err();
            assert_eq!(
                (error.reason, error.answered, error.status),
                (Reason::UpstreamClosed, true, Some(200))
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_the_protocol_is_refused_and_goes_no_further() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        )
        .await;
        expect(
            &mut server,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        )
        .await;
        send(&mut client, "0x3\r\nabc\r\n").await;
        expect_end(&mut server).await;
        let answer = read_all(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && answer.contains("connection: close"),
            "{answer}"
        );
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::BadRequest);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_the_protocol_is_refused() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\n\n",
    ] {
        local(async {
            let (mut client, _proxy, mut server) = h1_pair();
            send(&mut client, GET).await;
            expect(&mut server, GOT).await;
            send(&mut server, answer).await;
            let body = "weft: upstream-protocol: The response broke the protocol.\n";
            expect(
                &mut client,
                &bad_gateway(body, "upstream-protocol", "http_protocol_error"),
            )
            .await;
            expect_end(&mut server).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused_with_its_reason_and_counted() {
    for (bytes, status, reason) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "400 Bad Request",
            Reason::BadRequest,
        ),
        (
            &"x".repeat(70_000)[..],
            "431 Request Header Fields Too Large",
            Reason::HeadersTooLarge,
        ),
    ] {
        local(async {
            let (mut client, proxy) = proxy(HttpVersion::H1, Vec::new());
            // The proxy answers before it has taken all of it.
            let (mut reading, mut writing) = tokio::io::split(&mut client);
            let mut answer = String::new();
            let (_, read) = tokio::join!(writing.write_all(bytes.as_bytes()), reading.read_to_string(&mut answer));
            read.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert!(
                answer.contains(&format!("details=\"{reason}\"")) && answer.contains("connection: close"),
                "{answer}"
            );
            assert_eq!(*proxy.service.refusals.borrow(), [reason]);
            assert!(matches!(proxy.ended().await, Err(ConnError::Refused(why)) if why == reason));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_whose_body_has_come_leaves_the_connection_open() {
    local(async {
        let (mut client, proxy) = proxy(HttpVersion::H1, Vec::new());
        for body in [
            "Content-Length: 2\r\n\r\nhi",
            "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "\r\n",
        ] {
            send(&mut client, &format!("POST / HTTP/1.1\r\nHost: a\r\n{body}")).await;
            let text = "weft: no-endpoints: The backend has no endpoints.\n";
            let want = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
                 proxy-status: weft; error=destination_unavailable; details=\"no-endpoints\"\r\n\
                 content-length: {}\r\n\r\n{text}",
                text.len()
            );
            expect(&mut client, &want).await;
        }
        drop(client);
        proxy.ended().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_head_request_has_a_length_and_no_body() {
    local(async {
        let (mut client, _proxy) = proxy(HttpVersion::H1, Vec::new());
        send(&mut client, "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let answer = read_all(&mut client).await;
        assert!(
            answer.contains("content-length: ") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_body_passes_whole_both_ways() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let exchange = async {
            let (mut reading, mut writing) = tokio::io::split(&mut client);
            let request = async {
                writing
                    .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
                    .await
                    .unwrap();
                writing.write_all(&body).await.unwrap();
            };
            let response = async {
                let mut head = vec![0; "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".len()];
                reading.read_exact(&mut head).await.unwrap();
                let mut chunked = Vec::new();
                while !chunked.ends_with(b"\r\n0\r\n\r\n") {
                    let mut piece = [0; 5000];
                    let n = reading.read(&mut piece).await.unwrap();
                    assert!(n > 0);
                    chunked.extend_from_slice(&piece[..n]);
                }
                let mut all = Vec::new();
                let mut rest = &chunked[..];
                loop {
                    let end = rest.windows(2).position(|w| w == b"\r\n").unwrap();
                    let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
                    if size == 0 {
                        break all;
                    }
                    all.extend_from_slice(&rest[end + 2..end + 2 + size]);
                    rest = &rest[end + 4 + size..];
                }
            };
            tokio::join!(request, response).1
        };
        let echo = async {
            let mut head = vec![0; "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n".len()];
            server.read_exact(&mut head).await.unwrap();
            server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut left = 1_000_000;
            let mut piece = [0; 3000];
            while left > 0 {
                let n = server.read(&mut piece).await.unwrap();
                server.write_all(&piece[..n]).await.unwrap();
                left -= n;
            }
            drop(server);
        };
        let (seen, ()) = tokio::join!(exchange, echo);
        assert!(seen == body, "the body came back changed");
    })
    .await;
}
