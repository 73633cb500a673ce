//! Other tries that a rule has made, and those that its Service's budget does not allow.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::spawn_local;
use weft_model::destination::Protocol;
use weft_model::endpoint::Endpoint;
use weft_model::reason::Reason;
use weft_model::route::{Retry, RetryBudget, Rule, Rules, Timeouts};
use weft_model::traffic::Traffic;

use super::routes::{backend, prefix, rule};
use super::script::*;
use super::world::*;

const SHORT: Duration = Duration::from_millis(500);

fn retry(attempts: u32) -> Retry {
    Retry {
        attempts,
        backoff: Duration::ZERO,
        codes: vec![503],
        grpc_statuses: vec![14],
    }
}

fn twice(rule: &mut Rule) {
    rule.retry = Some(retry(2));
}

fn each_in(limit: Duration) -> impl Fn(&mut Rule) {
    move |rule| {
        twice(rule);
        rule.timeouts.backend_request = Some(limit);
    }
}

/// What an app does, one call after the other; what its client sees; how often it was called.
#[test]
fn a_request_is_tried_again_as_its_rule_says_and_no_more() {
    use Does::{Breaks, Status};
    story(async {
        let table: [(&[Does], u16, usize); 9] = [
            (&[Status(200)], 200, 1),
            (&[Status(503), Status(200)], 200, 2),
            (&[Status(503), Status(503), Status(200)], 200, 3),
            // The last one's response is passed on as it is.
            (&[Status(503), Status(503), Status(503), Status(200)], 503, 3),
            // Not one that is retried.
            (&[Status(500), Status(200)], 500, 1),
            (&[Status(503), Status(404)], 404, 2),
            (&[Breaks, Status(200)], 200, 2),
            (&[Breaks, Status(503), Status(201)], 201, 3),
            (&[Breaks], 502, 3),
        ];
        for speaks in BOTH {
            for (script, status, calls) in table {
                // Over HTTP/2 the app's reset is passed on, which is no response.
                if speaks == Speaks::H2 && script == [Breaks] {
                    continue;
                }
                let (app, got) = scripted_app(speaks, script).await;
                let client = client_of(&World::new(), &[app], twice).await;
                let seen = ask(&client, speaks, "/", &[], "asked").await;
                assert_eq!(
                    (seen.status, got.borrow().len()),
                    (status, calls),
                    "{speaks:?} {script:?}"
                );
                assert!(seen.whole, "{speaks:?} {script:?}");
                assert!(
                    got.borrow().iter().all(|(_, body)| body == "asked"),
                    "{:?}",
                    got.borrow()
                );
            }
        }
    });
}

#[test]
fn a_request_whose_rule_has_no_retry_is_not_tried_again() {
    story(async {
        for speaks in BOTH {
            let (app, got) = scripted_app(speaks, &[Does::Status(503), Does::Status(200)]).await;
            let client = client_of(&World::new(), &[app], |_| {}).await;
            let seen = ask(&client, speaks, "/", &[], "asked").await;
            assert_eq!((seen.status, got.borrow().len()), (503, 1));
            assert!(!client.metrics().contains("weft_retries_total{"));
        }
        let (app, got) = scripted_app(Speaks::H1, &[Does::Breaks, Does::Status(200)]).await;
        let client = client_of(&World::new(), &[app], |_| {}).await;
        let seen = ask(&client, Speaks::H1, "/", &[], "asked").await;
        assert_eq!((seen.status, got.borrow().len()), (502, 1));
    });
}

#[test]
fn a_call_is_tried_again_as_long_as_no_message_has_come() {
    use Does::{GrpcHead, GrpcMessage, GrpcTrailers, Status};
    story(async {
        let table: [(&[Does], u16, usize); 8] = [
            (&[GrpcHead(14), GrpcMessage(0)], 0, 2),
            (&[GrpcTrailers(14), GrpcMessage(0)], 0, 2),
            (
                &[GrpcTrailers(14), GrpcHead(14), GrpcTrailers(14), GrpcMessage(0)],
                14,
                3,
            ),
            // A message has been passed on.
            (&[GrpcMessage(14), GrpcMessage(0)], 14, 1),
            // Not those that are retried.
            (&[GrpcHead(5), GrpcMessage(0)], 5, 1),
            (&[GrpcTrailers(0), GrpcMessage(0)], 0, 1),
            (&[GrpcTrailers(13), GrpcMessage(0)], 13, 1),
            // HTTP's own status counts as well.
            (&[Status(503), GrpcMessage(0)], 0, 2),
        ];
        for (script, status, calls) in table {
            let (app, got) = scripted_app(Speaks::H2, script).await;
            let client = client_of(&World::new(), &[app], twice).await;
            let seen = call(&client, &[]).await;
            assert_eq!(
                (seen.grpc(), got.borrow().len()),
                (Some(status), calls),
                "{script:?}: {seen:?}"
            );
            assert!(seen.whole, "{script:?}");
        }
    });
}

#[test]
fn a_message_comes_through_where_its_trailers_might_have_been_tried_again() {
    story(async {
        let (app, _) = scripted_app(Speaks::H2, &[Does::Begins]).await;
        let client = client_of(&World::new(), &[app], |rule| {
            twice(rule);
            rule.timeouts.request = Some(SHORT);
        })
        .await;
        let seen = call(&client, &[]).await;
        assert_eq!((seen.grpc(), &seen.body[..]), (Some(4), &b"said"[..]), "{seen:?}");
    });
}

#[test]
fn a_try_that_takes_too_long_is_made_again_until_the_deadline() {
    story(async {
        for speaks in BOTH {
            let (app, got) = scripted_app(speaks, &[Does::Nothing, Does::Status(200)]).await;
            let client = client_of(&World::new(), &[app], each_in(SHORT)).await;
            let seen = ask(&client, speaks, "/", &[], "asked").await;
            assert_eq!((seen.status, got.borrow().len()), (200, 2), "{seen:?}");

            let (app, got) = scripted_app(speaks, &[Does::Nothing]).await;
            let client = client_of(&World::new(), &[app], each_in(SHORT)).await;
            let seen = ask(&client, speaks, "/", &[], "asked").await;
            assert!(seen.header("proxy-status").contains("backend-deadline"), "{seen:?}");
            assert_eq!((seen.status, got.borrow().len()), (504, 3));

            let (app, got) = scripted_app(speaks, &[Does::Nothing, Does::Nothing, Does::Status(200)]).await;
            let client = client_of(&World::new(), &[app], |rule| {
                twice(rule);
                rule.timeouts = Timeouts {
                    request: Some(SHORT * 3 / 2),
                    backend_request: Some(SHORT),
                };
            })
            .await;
            let seen = ask(&client, speaks, "/", &[], "asked").await;
            assert!(seen.header("proxy-status").contains("request-deadline"), "{seen:?}");
            assert_eq!((seen.status, got.borrow().len()), (504, 2));
        }
    });
}

#[test]
fn what_would_wait_beyond_the_deadline_is_not_waited_for() {
    story(async {
        let (app, got) = scripted_app(Speaks::H1, &[Does::Status(503)]).await;
        let client = client_of(&World::new(), &[app], |rule| {
            // Anything up to ten seconds, of which one is left.
            rule.retry = Some(Retry {
                backoff: Duration::from_secs(100_000),
                ..retry(1)
            });
            rule.timeouts.request = Some(Duration::from_secs(1));
        })
        .await;
        for _ in 0..5 {
            let began = Instant::now();
            let seen = ask(&client, Speaks::H1, "/", &[], "").await;
            // The response is passed on, at once as a rule; never is it thrown away for a try that comes too late.
            assert_eq!((seen.status, &seen.body[..]), (503, &b"said"[..]), "{seen:?}");
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        assert!(
            got.borrow().len() < 10,
            "chance has every wait be short once in 100,000 times"
        );
    });
}

#[test]
fn another_endpoint_is_preferred() {
    story(async {
        for speaks in BOTH {
            let (bad, bads) = scripted_app(speaks, &[Does::Status(503)]).await;
            let (good, goods) = scripted_app(speaks, &[Does::Status(200)]).await;
            let client = client_of(&World::new(), &[bad, good], twice).await;
            for _ in 0..10 {
                let before = bads.borrow().len();
                assert_eq!(ask(&client, speaks, "/", &[], "").await.status, 200);
                assert!(bads.borrow().len() - before <= 1, "the same one was tried twice");
            }
            assert_eq!(goods.borrow().len(), 10);
        }
    });
}

#[test]
fn a_body_that_outgrew_the_buffer_is_not_sent_twice() {
    story(async {
        for speaks in BOTH {
            for (size, status, calls) in [(16 * 1024, 200, 2), (17 * 1024, 503, 1)] {
                let (app, got) = scripted_app(speaks, &[Does::Status(503), Does::Status(200)]).await;
                let client = client_of(&World::new(), &[app], twice).await;
                let body = "x".repeat(size);
                let seen = ask(&client, speaks, "/", &[], &body).await;
                assert_eq!((seen.status, got.borrow().len()), (status, calls), "{speaks:?} {size}");
                assert!(got.borrow().iter().all(|(_, got)| *got == body));
            }
        }
    });
}

#[test]
fn the_budget_of_a_service_bounds_its_tries_and_is_kept_over_changes() {
    story(async {
        let (app, got) = scripted_app(Speaks::H1, &[Does::Status(503)]).await;
        let world = World::new();
        let budget = |percent, min_retries| {
            let hour = Duration::from_secs(3600);
            let budget = RetryBudget {
                percent,
                min_retries,
                interval: hour,
                min_interval: hour,
            };
            move |told: &mut Told| {
                let mut service = weft_model::destination::Service::clone(&told.state.services["reviews"].value);
                service.retry_budget = budget;
                told.state.services.insert("reviews".into(), held(service));
            }
        };
        let client = client_told(&world, &[app], twice, budget(0, 3)).await;
        let ask = async || ask(&client, Speaks::H1, "/", &[], "").await.status;
        for _ in 0..10 {
            assert_eq!(ask().await, 503);
        }
        assert_eq!(got.borrow().len(), 13);
        let counted = client.metrics();
        let of = "destination_namespace=\"shop\",destination_service=\"reviews\"";
        assert!(
            counted.contains(&format!("weft_retries_total{{{of},reason=\"http-503\"}} 3")),
            "{counted}"
        );
        // Two are refused with the second request, and one with each of the others.
        let denied = counted
            .lines()
            .find(|line| line.starts_with("weft_retries_denied_total{"));
        assert!(denied.is_some_and(|line| !line.ends_with(" 0")), "{counted}");

        // Half of the ten requests so far, and of those that come: three have been made.
        client.tell(budget(50, 0)).await;
        assert_eq!(ask().await, 503);
        assert_eq!(got.borrow().len(), 13 + 1 + 2);
        client.tell(budget(0, 0)).await;
        assert_eq!(ask().await, 503);
        assert_eq!(got.borrow().len(), 13 + 1 + 2 + 1);
    });
}

#[test]
fn the_budget_is_that_of_the_service_that_a_request_goes_to() {
    story(async {
        let (app, got) = scripted_app(Speaks::H1, &[Does::Status(503)]).await;
        let world = World::new();
        let hour = Duration::from_secs(3600);
        let budget = RetryBudget {
            percent: 0,
            min_retries: 3,
            interval: hour,
            min_interval: hour,
        };
        // The Service that is called allows more; its rule sends to another, which does not.
        let told = move |told: &mut Told| {
            let mut service = weft_model::destination::Service::clone(&told.state.services["reviews"].value);
            for rule in service.rules.iter_mut().flat_map(|rules| &mut rules.rules) {
                for backend in &mut Arc::make_mut(rule).backends {
                    backend.service.name = "other".to_owned();
                    backend.traffic = Some(Arc::new(Traffic {
                        retry_budget: budget,
                        ..Traffic::default()
                    }));
                }
            }
            told.state.services.insert("reviews".into(), held(service));
        };
        let client = client_told(&world, &[app], twice, told).await;
        for _ in 0..10 {
            assert_eq!(ask(&client, Speaks::H1, "/", &[], "").await.status, 503);
        }
        assert_eq!(got.borrow().len(), 13);
        let counted = client.metrics();
        assert!(
            counted.contains("weft_retries_total{destination_namespace=\"shop\",destination_service=\"other\""),
            "{counted}"
        );
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_tried_again_where_there_is_no_other() {
    story(async {
        let world = World::new();
        let endpoint = world.endpoint(1, nobody().await, Some("reviews"));
        let told = |told: &mut Told| _ = told.endpoints("all", vec![endpoint.clone()]);
        let client = client_told(&world, &[], twice, told).await;
        let seen = ask(&client, Speaks::H1, "/", &[], "").await;
        assert_eq!(seen.status, 502, "{seen:?}");
        assert!(
            client.metrics().contains("reason=\"connect-failed\"} 2"),
            "{}",
            client.metrics()
        );
        assert_eq!(client.refusals(Reason::ConnectFailed), 1);
    });
}

#[test]
fn an_endpoint_outside_the_mesh_and_our_own_pod_are_tried_again_like_any_other() {
    use Does::{Breaks, Status};
    story(async {
        let world = World::new();
        for speaks in BOTH {
            for (script, status, calls) in [
                (&[Breaks, Status(200)][..], 200, 2),
                (&[Status(503), Breaks, Status(200)], 200, 3),
                (&[Status(404)], 404, 1),
            ] {
                let (app, got) = scripted_app(speaks, script).await;
                let plain = vec![world.endpoint(1, app, None)];
                let client = client_told(&world, &[], twice, |told| _ = told.endpoints("all", plain)).await;
                let seen = ask(&client, speaks, "/", &[], "asked").await;
                assert_eq!(
                    (seen.status, got.borrow().len()),
                    (status, calls),
                    "{speaks:?} {script:?}"
                );

                let (app, got) = scripted_app(speaks, script).await;
                let own = own_pod(&world, app).await;
                let seen = ask(&own, speaks, "/", &[], "asked").await;
                assert_eq!(
                    (seen.status, got.borrow().len()),
                    (status, calls),
                    "{speaks:?} {script:?}"
                );
                // Nobody was refused where another try was made, in either direction.
                assert_eq!(own.refusals(Reason::UpstreamClosed), 0);
            }
        }
    });
}

/// A pod whose Service leads to itself.
async fn own_pod(world: &World, app: SocketAddr) -> Pod {
    let endpoint = Endpoint {
        address: app,
        pod: format!("pod-of-{app}"),
        ..Endpoint::clone(&world.endpoint(1, app, Some("web")))
    };
    let mut told = world.told("web");
    told.endpoints("all", vec![Arc::new(endpoint)]);
    let mut only = Rule::clone(&rule(prefix("/"), vec![backend(1, Some("all"))]));
    twice(&mut only);
    let rules = vec![Arc::new(only)];
    told.service(Protocol::Undeclared, Some(Rules { rules }));
    told.start(app, VIP.parse().unwrap()).await
}

#[test]
fn connections_go_on_after_another_try() {
    story(async {
        let (app, got) = scripted_app(
            Speaks::H1,
            &[
                Does::Status(503),
                Does::Status(200),
                Does::Status(503),
                Does::Status(201),
            ],
        )
        .await;
        let (app, connections) = counted(app).await;
        let world = World::new();
        let plain = vec![world.endpoint(1, app, None)];
        let client = client_told(&world, &[], twice, |told| _ = told.endpoints("all", plain)).await;
        let mut connection = Client::to(client.outbound).await;
        for status in [200, 201, 201] {
            let answer = connection.post("/", "asked").await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (status, "said"));
        }
        assert_eq!(got.borrow().len(), 5);
        // What nobody wanted of a response was read, so that its connection could be kept.
        assert_eq!(connections.get(), 1);
    });
}

/// Stands before an app, and counts connections.
async fn counted(app: SocketAddr) -> (SocketAddr, Rc<Cell<usize>>) {
    let (listener, count) = (listen().await, Rc::new(Cell::new(0)));
    let (address, counting) = (listener.local_addr().unwrap(), count.clone());
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counting.set(counting.get() + 1);
            let mut app = TcpStream::connect(app).await.unwrap();
            spawn_local(async move { tokio::io::copy_bidirectional(&mut socket, &mut app).await });
        }
    });
    (address, count)
}
