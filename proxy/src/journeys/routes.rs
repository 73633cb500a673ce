//! Rules, from the route to the endpoint.

use std::sync::Arc;

use weft_model::destination::Protocol;
use weft_model::endpoint::BackendPlace;
use weft_model::filter::Filters;
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::route::{Backend, Match, PathMatch, Rule, Rules, Timeouts, ValueMatch};

use super::world::*;

pub(super) fn backend(weight: u32, key: Option<&str>) -> Backend {
    Backend {
        weight,
        place: match key {
            Some(key) => BackendPlace::Endpoints(key.into()),
            None => BackendPlace::Unresolved("Service shop/none does not exist".into()),
        },
        service: ServicePort {
            namespace: "shop".into(),
            name: "reviews".into(),
            port: 80,
        },
        subset: key.unwrap_or_default().into(),
        filters: Filters::default(),
        traffic: None,
    }
}

pub(super) fn rule(matches: Match, backends: Vec<Backend>) -> Arc<Rule> {
    let route = ObjectRef {
        kind: "HTTPRoute".into(),
        namespace: "shop".into(),
        name: "reviews".into(),
    };
    Arc::new(Rule {
        route,
        index: 0,
        name: String::new(),
        matches,
        backends,
        redirect: None,
        filters: Filters::default(),
        timeouts: Timeouts::default(),
        retry: None,
    })
}

pub(super) fn prefix(path: &str) -> Match {
    Match {
        path: Some(PathMatch::Prefix(path.into())),
        ..Match::default()
    }
}

#[test]
fn weights_headers_and_misses_hold_and_change_under_a_connection() {
    story(async {
        let world = World::new();
        let (v1, v2) = (app("v1").await, app("v2").await);
        let mut told = world.told("web");
        told.endpoints("v1", vec![world.endpoint(1, v1, None)]);
        told.endpoints("v2", vec![world.endpoint(2, v2, None)]);
        let pinned = Match {
            headers: vec![("x-user".parse().unwrap(), ValueMatch::Exact("tester".into()))],
            ..prefix("/reviews")
        };
        let rules = |one, two| Rules {
            rules: vec![
                rule(pinned.clone(), vec![backend(1, Some("v2"))]),
                rule(
                    prefix("/reviews"),
                    vec![backend(one, Some("v1")), backend(two, Some("v2"))],
                ),
                rule(prefix("/broken"), vec![backend(1, None)]),
            ],
        };
        told.service(Protocol::Http, Some(rules(90, 10)));
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut connection = Client::to(client.outbound).await;

        let v2s = split(&mut connection).await;
        assert!((60..140).contains(&v2s), "about a tenth of 1000: {v2s}");
        client
            .tell(|told| _ = told.service(Protocol::Http, Some(rules(50, 50))))
            .await;
        let v2s = split(&mut connection).await;
        assert!((430..570).contains(&v2s), "about half of 1000: {v2s}");

        let pinned = "GET /reviews/1 HTTP/1.1\r\nhost: reviews\r\nx-user: tester\r\n\r\n";
        for _ in 0..20 {
            assert!(connection.send(pinned).await.unwrap().body.starts_with("v2\n"));
        }
        let miss = connection.get("/other").await.unwrap();
        assert!(miss.status == 404 && miss.head.contains("no-route"), "{miss:?}");
        let broken = connection.get("/broken").await.unwrap();
        assert!(
            broken.status == 500 && broken.head.contains("backend-unresolved"),
            "{broken:?}"
        );
        assert!(
            client.metrics().contains("http_route=\"/reviews/*\""),
            "{}",
            client.metrics()
        );
    });
}

async fn split(connection: &mut Client) -> usize {
    let mut v2s = 0;
    for _ in 0..1000 {
        let answer = connection.get("/reviews").await.unwrap();
        assert_eq!(answer.status, 200);
        v2s += usize::from(answer.body.starts_with("v2\n"));
    }
    v2s
}
