//! Time and memory.

use tokio::time::Instant;

use super::*;

use crate::http::limits::BODY_TIME;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const GOT: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_is_refused() {
    local(async {
        let start = Instant::now();
        let (mut client, proxy) = proxy(HttpVersion::H1, Vec::new());
        tokio::time::sleep(20 * SECOND).await;
        // A byte a second: the clock starts with the first and does not start again.
        let mut answer = String::new();
        let (mut reading, mut writing) = tokio::io::split(&mut client);
        let drip = async {
            for byte in GET.bytes() {
                let _ = writing.write_all(&[byte]).await;
                tokio::time::sleep(SECOND).await;
            }
        };
        let read = async {
            let mut all = [0; 4096];
            let n = reading.read(&mut all).await.unwrap();
            answer = String::from_utf8_lossy(&all[..n]).into_owned();
            start.elapsed().as_secs()
        };
        let when = tokio::select! { biased; when = read => when, () = drip => unreachable!("it is cut off first") };
        assert_eq!(when, 25);
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n") && answer.contains("request-timeout"),
            "{answer}"
        );
        assert!(matches!(
            proxy.ended().await,
            Err(ConnError::Refused(Reason::RequestTimeout))
        ));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    for served in [false, true] {
        local(async {
            let (mut client, proxy, mut server) = h1_pair();
            tokio::time::sleep(59 * SECOND).await;
            let mut since = 59;
            if served {
                send(&mut client, GET).await;
                expect(&mut server, GOT).await;
                send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                expect(&mut client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                tokio::time::sleep(58 * SECOND).await;
                since = 58;
            }
            expect_silence(&mut client).await;
            let start = Instant::now();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert!(start.elapsed() <= (60 - since) * SECOND && rest.is_empty());
            drop(client);
            proxy.ended().await.unwrap();
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_and_a_busy_one_is_not() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let (_, mut respond) = server.accept().await;
        tokio::time::sleep(600 * SECOND).await;
        respond.send_response(::http::Response::new(()), true).unwrap();
        response.await.unwrap();
        drop(server);
        let start = Instant::now();
        proxy.ended().await.unwrap();
        assert!((60..=70).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    })
    .await;
}

/// Takes as much as it can be given, of a body without end.
async fn pour(io: &mut Io, taken: &mut usize) {
    while let Ok(Ok(n)) = timeout(SECOND, io.write(&[b'x'; 1024])).await {
        *taken += n;
        assert!(*taken < 10_000_000, "nothing holds it back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_holds_little_and_not_for_ever() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n").await;
        let mut taken = 0;
        pour(&mut server, &mut taken).await;
        let held = taken - 2 * PIPE.min(taken / 2);
        assert!(
            held <= 64 * 1024,
            "{held} bytes are held for a client that reads nothing"
        );
        let start = Instant::now();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert!((25..=62).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::ClientClosed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_chunks_slowly_holds_little() {
    local(async {
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, "HTTP/1.1 200 OK\r\n\r\n").await;
        let mut taken = 0;
        pour(&mut server, &mut taken).await;
        assert!(taken - 2 * PIPE <= 64 * 1024, "{taken}");
        let mut some = vec![0; taken];
        client.read_exact(&mut some).await.unwrap();
        let before = taken;
        pour(&mut server, &mut taken).await;
        assert!(
            taken > before && taken - before <= 64 * 1024,
            "what is read makes room: {before} {taken}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_reads_nothing_holds_little_and_not_for_ever() {
    local(async {
        let (mut client, proxy, server) = h1_pair();
        send(
            &mut client,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n",
        )
        .await;
        let mut taken = 0;
        pour(&mut client, &mut taken).await;
        assert!(taken - 2 * PIPE <= 64 * 1024, "{taken}");
        let mut answer = [0; 12];
        timeout(70 * SECOND, client.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"HTTP/1.1 502");
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::UpstreamClosed);
        drop(server);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_holds_its_windows_and_no_more() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let (_, mut respond) = server.accept().await;
        let mut down = respond.send_response(::http::Response::new(()), false).unwrap();
        let _unread = response.await.unwrap();
        let mut taken = 0;
        down.reserve_capacity(1024);
        while let Ok(Some(Ok(n))) = timeout(SECOND, poll_fn(|cx| down.poll_capacity(cx))).await {
            down.send_data(Bytes::from(vec![0; n.min(1024)]), false).unwrap();
            taken += n.min(1024);
            assert!(taken < 1_000_000, "nothing holds it back");
            down.reserve_capacity(1024);
        }
        // The client's own window of 64 KiB, and as much in the proxy, beside what the h2 crate may queue for sending.
        assert!(taken <= (64 + 64 + 32 + 8) * 1024, "{taken}");
        let reset = timeout(70 * SECOND, poll_fn(|cx| down.poll_reset(cx)))
            .await
            .expect("not for ever")
            .unwrap();
        assert_eq!(reset, ::h2::Reason::CANCEL);
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::ClientClosed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_streams_go_on_beside_one_that_nobody_reads() {
    local(async {
        let (upstream, mut server) = h2_upstream().await;
        let (client, _proxy) = proxy(HttpVersion::H2, vec![upstream]);
        let shaken = ::h2::client::Builder::new()
            .initial_connection_window_size(1024 * 1024)
            .handshake::<_, Bytes>(client)
            .await;
        let (mut client, connection) = shaken.unwrap();
        spawn_local(async move { drop(connection.await) });
        let (response, _up) = client.send_request(request("GET", "/big", &[]), true).unwrap();
        let (_, mut respond) = server.accept().await;
        let mut big = respond.send_response(::http::Response::new(()), false).unwrap();
        big.send_data(Bytes::from(vec![0; 1_000_000]), true).unwrap();
        let _unread = response.await.unwrap();
        for _ in 0..50 {
            client = client.ready().await.unwrap();
            let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
            let (_, mut respond) = server.accept().await;
            let mut small = respond.send_response(::http::Response::new(()), false).unwrap();
            small.send_data(Bytes::from(vec![1; 200]), true).unwrap();
            let mut body = timeout(SECOND, response)
                .await
                .expect("it is not held up")
                .unwrap()
                .into_body();
            assert_eq!(read_body(&mut body).await.unwrap().0.len(), 200);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_closes_connections_between_requests() {
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        proxy.closing.begin();
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        )
        .await;
        expect_end(&mut client).await;
        drop(client);
        proxy.ended().await.unwrap();
    })
    .await;
    local(async {
        let (mut client, proxy, mut server) = h1_pair();
        tokio::time::sleep(SECOND).await;
        proxy.closing.begin();
        tokio::time::sleep(SECOND).await;
        // A request that was on its way is answered all the same.
        send(&mut client, GET).await;
        expect(&mut server, GOT).await;
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        expect(
            &mut client,
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
        .await;
    })
    .await;
    local(async {
        let (mut client, proxy) = proxy(HttpVersion::H1, Vec::new());
        proxy.closing.begin();
        let start = Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(start.elapsed() <= 3 * SECOND && rest.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_says_goaway_and_finishes_its_streams() {
    local(async {
        let (mut client, proxy, mut server) = h2_pair().await;
        let (response, _up) = client.send_request(request("GET", "/", &[]), true).unwrap();
        let (_, mut respond) = server.accept().await;
        proxy.closing.begin();
        tokio::time::sleep(20 * SECOND).await;
        assert!(client.clone().ready().await.is_err(), "no new streams");
        respond.send_response(::http::Response::new(()), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        timeout(10 * SECOND, proxy.ended()).await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_between_requests_holds_no_buffer() {
    let (near, mut far) = Io::pipe(PIPE);
    let mut connection = crate::http::h1::Connection::new(near);
    for _ in 0..3 {
        far.write_all(GET.as_bytes()).await.unwrap();
        let head = poll_fn(|cx| connection.poll_request(cx, Origin::Outside))
            .await
            .unwrap()
            .unwrap();
        connection.send_response(
            &ResponseHead::new(::http::StatusCode::OK),
            &head.method,
            head.version,
            true,
        );
        connection.finish(None).unwrap();
        poll_fn(|cx| connection.poll_flush(cx)).await.unwrap();
        assert!(connection.may_go_on());
        let waits = poll_fn(|cx| Poll::Ready(connection.poll_request(cx, Origin::Outside).is_pending())).await;
        assert!(waits);
        assert_eq!(connection.held(), 0);
        let mut seen = [0; 64];
        assert!(far.read(&mut seen).await.unwrap() > 0);
    }
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
const POSTED: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n";

/// A client whom the mesh does not know, or one that it does, and an app.
fn known_or_not(stranger: bool) -> (Io, Proxy, Io) {
    let (upstream, app) = h1_upstream();
    let limits = Limits {
        body_time: stranger.then_some(BODY_TIME),
        ..Limits::default()
    };
    let (client, proxy) = proxy_within(limits, Origin::Outside, HttpVersion::H1, vec![upstream]);
    (client, proxy, app)
}

#[tokio::test(start_paused = true)]
async fn a_strangers_body_has_to_come() {
    local(async {
        let (mut client, proxy, mut app) = known_or_not(true);
        send(&mut client, POST).await;
        expect(&mut app, POSTED).await;
        // What comes is waited for.
        for _ in 0..3 {
            tokio::time::sleep(BODY_TIME - SECOND).await;
            send(&mut client, "x").await;
            expect(&mut app, "x").await;
        }
        let start = Instant::now();
        let mut answer = [0; 12];
        timeout(2 * BODY_TIME, client.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (&answer, start.elapsed().as_secs()),
            (b"HTTP/1.1 408", BODY_TIME.as_secs())
        );
        // The app sees that the request is not whole, and its connection serves no other.
        expect_end(&mut app).await;
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::RequestTimeout);
    })
    .await;
    local(async {
        let (upstream, mut app) = h2_upstream().await;
        let limits = Limits {
            body_time: Some(BODY_TIME),
            ..Limits::default()
        };
        let (client, _proxy) = proxy_within(limits, Origin::Outside, HttpVersion::H2, vec![upstream]);
        let mut client = h2_client(client).await;
        let (response, _up) = client.send_request(request("POST", "/", &[]), false).unwrap();
        let (_seen, mut respond) = app.accept().await;
        let response = timeout(2 * BODY_TIME, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 408);
        let reset = timeout(SECOND, poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
        assert_eq!(reset.unwrap(), ::h2::Reason::CANCEL);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_strangers_body_may_wait_while_it_is_answered() {
    local(async {
        let (mut client, proxy, mut app) = known_or_not(true);
        send(&mut client, POST).await;
        expect(&mut app, POSTED).await;
        tokio::time::sleep(BODY_TIME - SECOND).await;
        send(&mut app, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        expect(&mut client, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..3 {
            tokio::time::sleep(BODY_TIME - SECOND).await;
            send(&mut app, "1\r\nx\r\n").await;
            expect(&mut client, "1\r\nx\r\n").await;
        }
        // But a response that says nothing more is no excuse, and does not look whole.
        tokio::time::sleep(BODY_TIME + SECOND).await;
        expect_end(&mut client).await;
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::ClientClosed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_known_or_waits_for_the_app_or_has_a_tunnel_may_be_silent() {
    local(async {
        let (mut client, _proxy, mut app) = known_or_not(false);
        send(&mut client, POST).await;
        expect(&mut app, POSTED).await;
        tokio::time::sleep(100 * BODY_TIME).await;
        send(&mut client, "x").await;
        expect(&mut app, "x").await;
    })
    .await;
    local(async {
        let (mut client, _proxy, mut app) = known_or_not(true);
        send(&mut client, GET).await;
        expect(&mut app, GOT).await;
        tokio::time::sleep(100 * BODY_TIME).await;
        send(&mut app, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        expect(&mut client, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    local(async {
        let (mut client, _proxy, mut app) = known_or_not(true);
        let ask = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
        send(&mut client, ask).await;
        expect(&mut app, ask).await;
        let switched = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
        send(&mut app, switched).await;
        expect(&mut client, switched).await;
        tokio::time::sleep(100 * BODY_TIME).await;
        send(&mut client, "x").await;
        expect(&mut app, "x").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_said_all_may_wait_for_long_and_not_for_ever() {
    local(async {
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let (mut client, _proxy, mut server) = h1_pair();
        send(&mut client, ask).await;
        client.shutdown().await.unwrap();
        expect(&mut server, GOT).await;
        tokio::time::sleep(3500 * SECOND).await;
        send(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        // What it is sent shows that it is there.
        tokio::time::sleep(3500 * SECOND).await;
        send(&mut server, "still").await;
        let mut all = String::new();
        client.read_to_string(&mut all).await.unwrap();
        assert!(all.ends_with("\r\n\r\nstill"), "{all}");

        let (mut client, proxy, mut server) = h1_pair();
        send(&mut client, ask).await;
        client.shutdown().await.unwrap();
        expect(&mut server, GOT).await;
        let start = Instant::now();
        assert_eq!(server.read(&mut [0; 9]).await.unwrap_or(0), 0);
        assert!(
            (3599..=3602).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(proxy.service.outcome().unwrap_err().reason, Reason::ClientClosed);
    })
    .await;
}
