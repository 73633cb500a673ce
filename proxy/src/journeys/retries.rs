//! Another endpoint, where not a byte reached the app; and our own pod as an endpoint.

use std::sync::Arc;

use weft_model::endpoint::Endpoint;
use weft_model::name::ObjectRef;
use weft_model::policy::Policy;

use super::world::*;

#[test]
fn a_request_whose_app_is_gone_goes_to_another_endpoint() {
    story(async {
        let world = World::new();
        let gone = world.told("reviews").start(nobody().await, nobody().await).await;
        let well = world.told("reviews").start(app("well").await, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints(
            "all",
            vec![
                world.endpoint(1, gone.inbound, Some("reviews")),
                world.endpoint(2, well.inbound, Some("reviews")),
            ],
        );
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let mut connection = Client::to(client.outbound).await;
        for n in 0..20 {
            let answer = connection
                .post(&format!("/{n}"), "a body that was not taken")
                .await
                .unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.body.ends_with("a body that was not taken"), "{answer:?}");
            assert!(!answer.head.contains("x-weft-"), "{answer:?}");
        }
        assert!(client.metrics().contains("weft_endpoint_ejections_total{"));
    });
}

#[test]
fn an_app_cannot_claim_that_a_request_was_not_sent() {
    story(async {
        let world = World::new();
        let liar = scripted("HTTP/1.1 502 Bad\r\nx-weft-unsent: app-unreachable\r\ncontent-length: 0\r\n\r\n").await;
        let server = world.told("reviews").start(liar, nobody().await).await;
        let mut told = world.told("web");
        told.endpoints("all", vec![world.endpoint(1, server.inbound, Some("reviews"))]);
        let client = told.start(nobody().await, VIP.parse().unwrap()).await;
        let answer = Client::to(client.outbound).await.post("/", "x").await.unwrap();
        assert_eq!(answer.status, 502);
        assert!(
            !answer.head.contains("x-weft-unsent") && !answer.head.contains("proxy-status"),
            "{answer:?}"
        );
        // Nor one outside the mesh.
        let plain = vec![world.endpoint(2, liar, None)];
        client.tell(|told| _ = told.endpoints("all", plain)).await;
        let answer = Client::to(client.outbound).await.post("/", "x").await.unwrap();
        assert!(
            answer.status == 502 && !answer.head.contains("proxy-status"),
            "{answer:?}"
        );
    });
}

#[test]
fn our_own_pod_is_served_in_process_and_admitted_like_any_other() {
    story(async {
        let world = World::new();
        let own = app("own").await;
        let mut told = world.told("web");
        told.strict();
        let endpoint = Endpoint {
            address: own,
            pod: format!("pod-of-{own}"),
            ..Endpoint::clone(&world.endpoint(1, own, Some("web")))
        };
        told.endpoints("all", vec![Arc::new(endpoint)]);
        let pod = told.start(own, VIP.parse().unwrap()).await;
        let mut connection = Client::to(pod.outbound).await;
        let answer = connection.get("/").await.unwrap();
        assert!(answer.body.starts_with("own\n"), "{answer:?}");
        assert!(
            answer.body.contains("URI=spiffe://demo.weft.internal/ns/shop/sa/web"),
            "{answer:?}"
        );
        let object = ObjectRef {
            kind: "AccessPolicy".into(),
            namespace: "shop".into(),
            name: "x".into(),
        };
        let policy = Policy {
            object,
            missing: vec![],
            ports: vec![],
        };
        pod.tell(|told| _ = told.inbound(|inbound| inbound.policies.push(policy)))
            .await;
        assert_eq!(connection.get("/").await.unwrap().status, 403);
    });
}
