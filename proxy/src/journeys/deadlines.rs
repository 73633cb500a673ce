//! How long requests may take: by their rule, and by what gRPC's clients say.

use std::time::{Duration, Instant};

use weft_model::reason::Reason;
use weft_model::route::Timeouts;

use super::script::*;
use super::world::*;

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(60);

fn request(limit: Duration) -> Timeouts {
    Timeouts {
        request: Some(limit),
        backend_request: None,
    }
}

fn one_try(limit: Duration) -> Timeouts {
    Timeouts {
        request: None,
        backend_request: Some(limit),
    }
}

#[test]
fn an_app_that_does_not_answer_in_time_is_not_waited_for() {
    story(async {
        let table = [
            (request(SHORT), Reason::RequestDeadline),
            (one_try(SHORT), Reason::BackendDeadline),
            (
                Timeouts {
                    request: Some(SHORT),
                    backend_request: Some(LONG),
                },
                Reason::RequestDeadline,
            ),
        ];
        for (timeouts, reason) in table {
            for speaks in BOTH {
                let (app, got) = scripted_app(speaks, &[Does::Nothing]).await;
                let client = client_of(&World::new(), &[app], |rule| rule.timeouts = timeouts).await;
                let began = Instant::now();
                let seen = ask(&client, speaks, "/", &[], "asked").await;
                assert_eq!((seen.status, seen.whole), (504, true), "{seen:?}");
                assert!(seen.header("proxy-status").contains(reason.code()), "{seen:?}");
                assert!((SHORT..LONG).contains(&began.elapsed()));
                assert_eq!((got.borrow().len(), client.refusals(reason)), (1, 1));
            }
            let (app, got) = scripted_app(Speaks::H2, &[Does::Nothing]).await;
            let client = client_of(&World::new(), &[app], |rule| rule.timeouts = timeouts).await;
            let seen = call(&client, &[]).await;
            assert_eq!(
                (seen.status, seen.grpc(), got.borrow().len()),
                (200, Some(4), 1),
                "{seen:?}"
            );
        }
    });
}

#[test]
fn an_app_that_answers_in_time_is_heard() {
    story(async {
        for timeouts in [request(LONG), one_try(LONG)] {
            for speaks in BOTH {
                let (app, _) = scripted_app(speaks, &[Does::Status(201)]).await;
                let client = client_of(&World::new(), &[app], |rule| rule.timeouts = timeouts).await;
                let seen = ask(&client, speaks, "/", &[], "asked").await;
                assert_eq!((seen.status, seen.whole, &seen.body[..]), (201, true, &b"said"[..]));
            }
        }
    });
}

#[test]
fn a_response_that_has_begun_is_cut_so_that_it_shows() {
    story(async {
        for timeouts in [request(SHORT), one_try(SHORT)] {
            for speaks in BOTH {
                let (app, _) = scripted_app(speaks, &[Does::Begins]).await;
                let client = client_of(&World::new(), &[app], |rule| rule.timeouts = timeouts).await;
                let seen = ask(&client, speaks, "/", &[], "asked").await;
                assert_eq!((seen.status, seen.whole, &seen.body[..]), (200, false, &b"said"[..]));
            }
            let (app, _) = scripted_app(Speaks::H2, &[Does::Begins]).await;
            let client = client_of(&World::new(), &[app], |rule| rule.timeouts = timeouts).await;
            let seen = call(&client, &[]).await;
            assert_eq!(
                (seen.grpc(), seen.whole, &seen.body[..]),
                (Some(4), true, &b"said"[..]),
                "{seen:?}"
            );
        }
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_in_time_is_not_waited_for() {
    story(async {
        // It takes the connection and never shakes hands: longer than the rule allows, shorter than a handshake may take.
        let silent = listen().await;
        let world = World::new();
        let endpoint = world.endpoint(1, silent.local_addr().unwrap(), Some("reviews"));
        let client = client_told(
            &world,
            &[],
            |rule| rule.timeouts = request(SHORT),
            |told| _ = told.endpoints("all", vec![endpoint]),
        )
        .await;
        for speaks in BOTH {
            let seen = ask(&client, speaks, "/", &[], "asked").await;
            assert!(seen.header("proxy-status").contains("request-deadline"), "{seen:?}");
        }
    });
}

#[test]
fn a_tunnel_lasts_longer_than_a_request_may() {
    story(async {
        let upgraded = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        let app = scripted(upgraded).await;
        let client = client_of(&World::new(), &[app], |rule| rule.timeouts = request(SHORT)).await;
        let mut connection = Client::to(client.outbound).await;
        let asks = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        assert_eq!(connection.send(asks).await.unwrap().status, 101);
        let mut byte = [0];
        let more = tokio::io::AsyncReadExt::read(&mut connection.socket, &mut byte);
        assert!(tokio::time::timeout(2 * SHORT, more).await.is_err(), "nothing ends it");
        // The app takes every head for a request, and says the same again.
        assert_eq!(connection.send("still\r\n\r\n").await.unwrap().status, 101);
    });
}

#[test]
fn a_calls_own_deadline_holds_and_the_app_hears_what_is_left() {
    story(async {
        let world = World::new();
        // What the client says, what the rule says, whether the app is in time.
        let table = [
            ("150m", Timeouts::default()),
            ("150m", request(LONG)),
            ("60S", request(SHORT)),
        ];
        for (said, timeouts) in table {
            let (app, got) = scripted_app(Speaks::H2, &[Does::Nothing]).await;
            let client = client_of(&world, &[app], |rule| rule.timeouts = timeouts).await;
            let seen = call(&client, &[("grpc-timeout", said)]).await;
            assert_eq!(seen.grpc(), Some(4), "{said} {timeouts:?}: {seen:?}");
            assert!(seen.header("grpc-message").contains("request-deadline"), "{seen:?}");
            let left = left(&got.borrow()[0].0);
            assert!(left <= 150_000, "{said} {timeouts:?}: {left} microseconds");
        }
        let (app, got) = scripted_app(Speaks::H2, &[Does::GrpcMessage(0)]).await;
        let client = client_of(&world, &[app], |_| {}).await;
        assert_eq!(call(&client, &[("grpc-timeout", "10S")]).await.grpc(), Some(0));
        let left = left(&got.borrow()[0].0);
        assert!((1..10_000_000).contains(&left), "{left}");
        // What is no deadline is left to the app, and one that is not said is not made up.
        assert_eq!(call(&client, &[("grpc-timeout", "soon")]).await.grpc(), Some(0));
        assert!(got.borrow()[1].0.contains("grpc-timeout: soon"));
        assert_eq!(call(&client, &[]).await.grpc(), Some(0));
        assert!(!got.borrow()[2].0.contains("grpc-timeout"));
        // Nor does it mean anything to a request that is not gRPC.
        let plain = ask(&client, Speaks::H2, "/", &[("grpc-timeout", "1n")], "").await;
        assert_eq!(plain.status, 200);
        assert!(got.borrow()[3].0.contains("grpc-timeout: 1n"));
    });
}

/// The microseconds that an app was told, all of these being short enough to be told so.
fn left(head: &str) -> u64 {
    let line = head.lines().find_map(|line| line.strip_prefix("grpc-timeout: "));
    let line = line.expect("the app is told");
    let (number, unit) = line.split_at(line.len() - 1);
    let unit = match unit {
        "n" => return number.parse::<u64>().unwrap() / 1000,
        "u" => 1,
        "m" => 1000,
        _ => 1_000_000,
    };
    number.parse::<u64>().unwrap() * unit
}

#[test]
fn an_endpoint_that_hangs_is_left_for_one_that_answers() {
    story(async {
        for timeouts in [request(SHORT), one_try(SHORT)] {
            for speaks in BOTH {
                let (hangs, _) = scripted_app(speaks, &[Does::Nothing]).await;
                let (answers, _) = scripted_app(speaks, &[Does::Status(200)]).await;
                let client = client_of(&World::new(), &[hangs, answers], |rule| rule.timeouts = timeouts).await;
                let mut late = 0;
                for _ in 0..20 {
                    late += usize::from(ask(&client, speaks, "/", &[], "asked").await.status == 504);
                }
                assert!(late <= 5, "{speaks:?} {timeouts:?}: {late} of 20 were late");
            }
        }
    });
}

#[test]
fn an_endpoint_that_no_request_can_wait_for_is_found_out_all_the_same() {
    story(async {
        for speaks in BOTH {
            // Both take connections and never shake hands: longer than the rule allows.
            let (one, other) = (listen().await, listen().await);
            let world = World::new();
            let endpoints = vec![
                world.endpoint(1, one.local_addr().unwrap(), Some("reviews")),
                world.endpoint(2, other.local_addr().unwrap(), Some("reviews")),
            ];
            let rule = |rule: &mut weft_model::route::Rule| rule.timeouts = request(SHORT);
            let client = client_told(&world, &[], rule, |told| _ = told.endpoints("all", endpoints)).await;
            let ejected = || {
                let counted = client.metrics();
                let line = counted
                    .lines()
                    .find(|line| line.starts_with("weft_endpoint_ejections_total{"));
                line.is_some_and(|line| line.contains("connect-timeout"))
            };
            while !ejected() {
                assert_eq!(ask(&client, speaks, "/", &[], "asked").await.status, 504);
            }
        }
    });
}

#[test]
fn a_connection_that_comes_too_late_for_its_request_is_there_for_the_next() {
    story(async {
        for speaks in BOTH {
            let (app, _) = scripted_app(speaks, &[Does::Status(200)]).await;
            let world = World::new();
            let server = world.told("reviews").strict().start(app, nobody().await).await;
            let far = far_off(server.inbound, 2 * SHORT).await;
            let endpoint = world.endpoint(1, far, Some("reviews"));
            let rule = |rule: &mut weft_model::route::Rule| rule.timeouts = request(SHORT);
            let client = client_told(&world, &[], rule, |told| _ = told.endpoints("all", vec![endpoint])).await;
            let mut late = 0;
            while ask(&client, speaks, "/", &[], "asked").await.status == 504 {
                late += 1;
                assert!(late < 5, "{speaks:?}");
            }
            assert!(late > 0, "{speaks:?}");
        }
    });
}

/// Passes connections on, their first bytes after a while.
async fn far_off(to: std::net::SocketAddr, wait: Duration) -> std::net::SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}
