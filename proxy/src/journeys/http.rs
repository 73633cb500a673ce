//! Requests, from an app through two proxies to an app.

use super::world::*;

use weft_model::reason::Reason;

#[test]
fn a_request_goes_from_app_to_app_over_mutual_tls() {
    story(async {
        let world = World::new();
        let reviews = app("reviews").await;
        let server = world.told("reviews").strict().start(reviews, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;

        let mut connection = Client::to(client.outbound).await;
        for path in ["/one", "/two"] {
            let answer = connection.get(path).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(
                answer.body.starts_with(&format!("reviews\nGET {path} HTTP/1.1\r\n")),
                "{answer:?}"
            );
            let caller = "x-forwarded-client-cert: By=spiffe://demo.weft.internal/ns/shop/sa/reviews;\
                          URI=spiffe://demo.weft.internal/ns/shop/sa/web";
            assert!(answer.body.contains(caller), "{answer:?}");
        }
        let answer = connection.post("/three", "body").await.unwrap();
        assert!(answer.body.ends_with("body"), "{answer:?}");
        let counted = server.metrics();
        let inbound = counted
            .lines()
            .find(|line| line.starts_with("http_server_request_duration_seconds_count"));
        let inbound = inbound.expect("inbound requests are counted");
        for label in [
            "source_workload=\"web\"",
            "mutual_tls=\"true\"",
            "destination_workload=\"reviews\"",
        ] {
            assert!(inbound.contains(label), "{inbound}");
        }
    });
}

#[test]
fn an_endpoint_that_refuses_is_passed_over_and_ejected() {
    story(async {
        let world = World::new();
        let server = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let mut told = world.told("web");
        let dead = world.endpoint(1, nobody().await, Some("reviews"));
        told.endpoints("all", vec![dead, world.endpoint(2, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        for n in 0..20 {
            let answer = Client::to(client.outbound)
                .await
                .post(&format!("/{n}"), "x")
                .await
                .unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let ejections = client.metrics();
        assert!(ejections.contains("weft_endpoint_ejections_total{"), "{ejections}");
    });
}

#[test]
fn another_identity_at_the_endpoint_is_never_spoken_to() {
    story(async {
        let world = World::new();
        let wrong = world
            .told("intruder")
            .start(app("intruder").await, nobody().await)
            .await;
        let right = world.told("reviews").start(app("reviews").await, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, wrong.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;

        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 502);
        assert!(answer.head.contains("identity-mismatch"), "{answer:?}");
        assert!(client.refusals(Reason::IdentityMismatch) > 0);

        let both = vec![
            world.endpoint(1, wrong.inbound, Some("reviews")),
            world.endpoint(2, right.inbound, Some("reviews")),
        ];
        client.tell(|told| _ = told.endpoints("all", both)).await;
        for _ in 0..10 {
            let answer = Client::to(client.outbound).await.get("/").await.unwrap();
            assert!(answer.body.starts_with("reviews\n"), "{answer:?}");
        }
    });
}

#[test]
fn a_certificate_of_another_authority_is_never_spoken_to() {
    story(async {
        let (world, foreign) = (World::new(), World::new());
        let server = foreign
            .told("reviews")
            .start(app("reviews").await, nobody().await)
            .await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 502, "the same names under another root are another mesh");
    });
}

#[test]
fn a_changed_configuration_holds_from_the_next_request_of_the_same_connection() {
    story(async {
        let world = World::new();
        let one = world.told("reviews").start(app("one").await, nobody().await).await;
        let two = world.told("reviews").start(app("two").await, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, one.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut connection = Client::to(client.outbound).await;
        assert!(connection.get("/").await.unwrap().body.starts_with("one\n"));
        let moved = vec![world.endpoint(2, two.inbound, Some("reviews"))];
        client.tell(|told| _ = told.endpoints("all", moved)).await;
        assert!(connection.get("/").await.unwrap().body.starts_with("two\n"));
        // The inbound side likewise: what is not admitted any more is refused on the connection that exists.
        let policy = weft_model::policy::Policy {
            object: weft_model::name::ObjectRef {
                kind: "AccessPolicy".into(),
                namespace: "shop".into(),
                name: "x".into(),
            },
            missing: vec!["something-new/1".into()],
            ports: vec![],
        };
        two.tell(|told| _ = told.inbound(|inbound| inbound.policies.push(policy)))
            .await;
        let answer = connection.get("/").await.unwrap();
        assert_eq!(answer.status, 403, "{answer:?}");
    });
}

#[test]
fn without_endpoints_the_reason_is_told() {
    story(async {
        let client = World::new()
            .told("web")
            .start(nobody().await, VIP.parse().unwrap())
            .await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.head.contains("no-endpoints"), "{answer:?}");
        assert_eq!(client.refusals(Reason::NoEndpoints), 1);
    });
}

#[test]
fn plaintext_goes_only_where_discovery_says_there_is_no_identity() {
    story(async {
        let world = World::new();
        let plain = app("plain").await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, plain, None)]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert!(answer.body.starts_with("plain\n"));
        assert!(!answer.body.contains("x-forwarded-client-cert"), "{answer:?}");
        // The same app, expected to have an identity: refused, and never in plaintext.
        let expected = vec![world.endpoint(2, plain, Some("reviews"))];
        client.tell(|told| _ = told.endpoints("all", expected)).await;
        let answer = Client::to(client.outbound).await.get("/").await.unwrap();
        assert_eq!(
            answer.status, 504,
            "the app waits for HTTP, and never gets any: {answer:?}"
        );
    });
}

#[test]
fn draining_lets_a_request_finish_and_then_ends() {
    story(async {
        let world = World::new();
        let (held, app) = held_app().await;
        let mut server = world.told("reviews").start(app, nobody().await).await;
        let mut connection = Client::to(server.inbound).await;
        let request = connection.get("/");
        let drain = async {
            held.asked.notified().await;
            server.phase.send_replace(crate::serve::Phase::Draining);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(!server.served.is_finished(), "a request is under way");
            held.answer.notify_one();
        };
        let (answer, ()) = tokio::join!(request, drain);
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200);
        assert!(
            answer.head.to_ascii_lowercase().contains("connection: close"),
            "{answer:?}"
        );
        (&mut server.served).await.unwrap();
    });
}

#[test]
fn draining_answers_those_who_have_not_heard_yet_and_then_ends() {
    story(async {
        let mut server = World::new()
            .told("reviews")
            .start(app("reviews").await, nobody().await)
            .await;
        let mut connection = Client::to(server.inbound).await;
        assert_eq!(connection.get("/").await.unwrap().status, 200);
        let begun = std::time::Instant::now();
        server.phase.send_replace(crate::serve::Phase::Draining);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(
            !server.served.is_finished(),
            "nothing is under way, and others still dial"
        );
        // Whoever dials now is answered, as often as it asks; as is whoever has a connection.
        let mut late = Client::to(server.inbound).await;
        assert_eq!(late.get("/").await.unwrap().status, 200);
        assert_eq!(late.get("/").await.unwrap().status, 200);
        let last = connection.get("/").await.unwrap();
        assert!(
            last.status == 200 && last.head.to_ascii_lowercase().contains("connection: close"),
            "{last:?}"
        );
        (&mut server.served).await.unwrap();
        assert!(connection.get("/").await.is_none(), "an idle connection is closed");
        assert!(begun.elapsed() >= server.worker.settings.drain_min);
    });
}

#[test]
fn a_connection_that_was_silent_while_the_configuration_changed_goes_by_the_new_one() {
    story(async {
        let world = World::new();
        let old = listen().await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, old.local_addr().unwrap(), None)]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut connection = Client::to(client.outbound).await;
        // Detection has dialled: what is at the destination was found before the change.
        let _trial = old.accept().await.unwrap();
        let new = app("new").await;
        client
            .tell(|told| _ = told.endpoints("all", vec![world.endpoint(2, new, None)]))
            .await;
        let answer = connection.get("/").await.unwrap();
        assert!(answer.body.starts_with("new\n"), "{answer:?}");
    });
}
