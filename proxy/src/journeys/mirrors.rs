//! Copies of requests.

use std::sync::Arc;

use weft_model::endpoint::BackendPlace;
use weft_model::filter::{Mirror, PathChange, Rewrite};
use weft_model::locality::{Distribution, Locality, Share};
use weft_model::name::ServicePort;
use weft_model::route::Rule;
use weft_model::traffic::Traffic;

use super::script::*;
use super::world::*;

fn mirror(rule: &mut Rule, numerator: u32, key: Option<&str>) {
    mirror_spread(rule, numerator, key, None);
}

fn mirror_spread(rule: &mut Rule, numerator: u32, key: Option<&str>, traffic: Option<Arc<Traffic>>) {
    let place = match key {
        Some(key) => BackendPlace::Endpoints(key.into()),
        None => BackendPlace::Unresolved("it is gone".into()),
    };
    let service = ServicePort {
        namespace: "shop".into(),
        name: "shadow".into(),
        port: 80,
    };
    rule.filters.mirrors.push(Mirror {
        place,
        service,
        subset: String::new(),
        numerator,
        denominator: 100,
        traffic,
    });
}

/// Waits until so many copies came to this.
async fn copies(client: &Pod, outcome: &str, count: usize) {
    let want = format!(
        "weft_mirrors_total{{destination_namespace=\"shop\",destination_service=\"shadow\",outcome=\"{outcome}\"}} {count}"
    );
    while !client.metrics().lines().any(|line| line == want) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn a_mirror_gets_the_request_as_it_came_and_its_answer_goes_nowhere() {
    story(async {
        for speaks in BOTH {
            let world = World::new();
            let (app, got) = scripted_app(speaks, &[Does::Status(200)]).await;
            let (shadow, copied) = scripted_app(speaks, &[Does::Status(500)]).await;
            let shadow = world.told("shadow").strict().start(shadow, nobody().await).await;
            let endpoint = world.endpoint(9, shadow.inbound, Some("shadow"));
            let client = client_told(
                &world,
                &[app],
                |rule| {
                    mirror(rule, 100, Some("shadow"));
                    mirror(rule, 0, Some("shadow"));
                    let path = Some(PathChange::Full("/rewritten".into()));
                    rule.filters.rewrite = Some(Rewrite { host: None, path });
                },
                |told| _ = told.endpoints("shadow", vec![endpoint]),
            )
            .await;
            for (n, body) in ["", "asked", &"x".repeat(60_000)].into_iter().enumerate() {
                let seen = ask(&client, speaks, "/as/it/came?q=1", &[("x-kept", "1")], body).await;
                assert_eq!((seen.status, &seen.body[..]), (200, &b"said"[..]));
                copies(&client, "sent", n + 1).await;
                let (head, copy) = copied.borrow()[n].clone();
                assert!(head.contains("/as/it/came?q=1") && head.contains("x-kept: 1"), "{head}");
                assert!(head.contains("reviews") && head.contains("ns/shop/sa/web"), "{head}");
                assert_eq!(copy, body);
                assert!(got.borrow()[n].0.contains("/rewritten"));
            }
            assert_eq!((got.borrow().len(), copied.borrow().len()), (3, 3));
        }
    });
}

#[test]
fn copies_go_to_the_places_that_the_mirrors_own_service_prefers() {
    story(async {
        let world = World::new();
        let (app, _) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let (near, of_near) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let (far, of_far) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let near = world.endpoint(8, near, None);
        let mut far = world.endpoint(9, far, None);
        Arc::make_mut(&mut far).place.region = "far".into();
        // The Service that is called prefers what is near, as all do by default.
        let distribute = vec![Distribution {
            from: String::new(),
            to: vec![Share {
                region: "far".into(),
                zone: String::new(),
                weight: 1,
            }],
        }];
        let locality = Locality {
            distribute,
            ..Locality::default()
        };
        let own = Arc::new(Traffic {
            locality,
            ..Traffic::default()
        });
        let change = |rule: &mut Rule| mirror_spread(rule, 100, Some("shadow"), Some(own));
        let told = |told: &mut Told| _ = told.endpoints("shadow", vec![near, far]);
        let client = client_told(&world, &[app], change, told).await;
        for n in 0..5 {
            assert_eq!(ask(&client, Speaks::H1, "/", &[], "").await.status, 200);
            copies(&client, "sent", n + 1).await;
        }
        assert_eq!((of_near.borrow().len(), of_far.borrow().len()), (0, 5));
    });
}

#[test]
fn a_copy_that_cannot_be_sent_is_dropped_and_the_request_goes_on() {
    story(async {
        for speaks in BOTH {
            let world = World::new();
            let (app, got) = scripted_app(speaks, &[Does::Status(200)]).await;
            let (shadow, copied) = scripted_app(speaks, &[Does::Nothing]).await;
            let endpoint = world.endpoint(9, shadow, None);
            let change = |rule: &mut Rule| mirror(rule, 100, Some("shadow"));
            let client = client_told(&world, &[app], change, |told| {
                _ = told.endpoints("shadow", vec![endpoint])
            })
            .await;
            // Too large.
            let large = "x".repeat(70_000);
            assert_eq!(ask(&client, speaks, "/", &[], &large).await.status, 200);
            copies(&client, "dropped", 1).await;
            assert!(copied.borrow().is_empty());
            // Too many: the mirror answers none.
            for _ in 0..70 {
                assert_eq!(ask(&client, speaks, "/", &[], "").await.status, 200);
            }
            copies(&client, "dropped", 7).await;
            assert_eq!(got.borrow().len(), 71);
        }
        // Nowhere to go, and nobody there.
        let (app, _) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let client = client_of(&World::new(), &[app], |rule| mirror(rule, 100, None)).await;
        assert_eq!(ask(&client, Speaks::H1, "/", &[], "").await.status, 200);
        copies(&client, "dropped", 1).await;
        let world = World::new();
        let gone = vec![world.endpoint(9, nobody().await, None)];
        let change = |rule: &mut Rule| mirror(rule, 100, Some("shadow"));
        let client = client_told(&world, &[app], change, |told| _ = told.endpoints("shadow", gone)).await;
        assert_eq!(ask(&client, Speaks::H1, "/", &[], "").await.status, 200);
        copies(&client, "failed", 1).await;
    });
}

#[test]
fn bodies_that_are_slow_to_come_keep_no_other_copy_from_being_sent() {
    story(async {
        let (app, _) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let (shadow, copied) = scripted_app(Speaks::H1, &[Does::Status(200)]).await;
        let endpoint = World::new().endpoint(9, shadow, None);
        let change = |rule: &mut Rule| mirror(rule, 100, Some("shadow"));
        let client = client_told(&World::new(), &[app], change, |told| {
            _ = told.endpoints("shadow", vec![endpoint])
        })
        .await;
        let mut slow = Vec::new();
        for _ in 0..100 {
            let mut connection = Client::to(client.outbound).await;
            let begins = "POST /slow HTTP/1.1\r\nhost: reviews\r\ncontent-length: 2\r\n\r\na";
            tokio::io::AsyncWriteExt::write_all(&mut connection.socket, begins.as_bytes())
                .await
                .unwrap();
            slow.push(connection);
        }
        assert_eq!(ask(&client, Speaks::H1, "/whole", &[], "asked").await.status, 200);
        copies(&client, "sent", 1).await;
        assert!(copied.borrow()[0].0.contains("/whole"));
        // And what was slow is copied once it is whole.
        assert_eq!(slow.remove(0).send("b").await.unwrap().status, 200);
        copies(&client, "sent", 2).await;
        assert_eq!(copied.borrow()[1].1, "ab");
    });
}
