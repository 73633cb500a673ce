//! What status and metrics tell.

use std::time::Duration;

use serde_json::Value;
use weft_proto::discovery;
use weft_proto::resource::Kind;

use super::mesh::{Mesh, condition, object};

const REVIEWS: &str = "10.96.0.7:80";

fn route(status: &Value) -> &Value {
    object(status, "HTTPRoute", "reviews")
}

#[tokio::test]
async fn applied_means_that_everybody_who_needs_it_decides_by_it() {
    let mesh = Mesh::running().await;
    mesh.route("/v1");
    let status = mesh
        .until(|status| condition(route(status), "Applied")["status"] == "True")
        .await;
    assert_eq!(condition(route(&status), "Applied")["reason"], "NoSubscribers");
    assert_eq!(route(&status)["subscribers"], 0);

    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    let batch = proxy.next().await.unwrap();
    let status = mesh.until(|status| route(status)["subscribers"] == 1).await;
    assert_eq!(condition(route(&status), "Applied")["status"], "False");
    assert_eq!(route(&status)["waiting"], serde_json::json!(["shop/web-1"]));

    proxy.ack(batch.nonce, Vec::new()).await;
    let status = mesh
        .until(|status| condition(route(status), "Applied")["status"] == "True")
        .await;
    assert_eq!(route(&status)["applied"], 1);
    assert_eq!(condition(route(&status), "Applied")["reason"], "Acknowledged");
    let seen = &status["proxies"][0];
    assert_eq!(
        (&seen["pod"], &seen["connected"], &seen["build"]),
        (&"web-1".into(), &true.into(), &"0.0-test".into())
    );
    assert!(
        seen["resources"]
            .as_array()
            .unwrap()
            .iter()
            .all(|resource| resource["acked"] == true),
        "{seen:#}"
    );
    assert!(seen["since"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_good_version_and_names_object_and_field() {
    let mesh = Mesh::running().await;
    mesh.route("/v1");
    mesh.until(|status| !route(status).is_null()).await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    proxy.take().await;
    mesh.until(|status| route(status)["applied"] == 1).await;
    let good = std::fs::read_to_string(mesh.path("user/route.yaml")).unwrap();
    mesh.manifest("route.yaml", &good.replace("PathPrefix", "PathSuffix"));
    let status = mesh
        .until(|status| condition(route(status), "Accepted")["status"] == "False")
        .await;
    let accepted = condition(route(&status), "Accepted");
    assert_eq!(accepted["field"], "spec.rules[0].matches[0].path.type", "{accepted:#}");
    assert!(route(&status)["file"].as_str().unwrap().ends_with("route.yaml"));
    assert_eq!(condition(route(&status), "Applied")["reason"], "NotAccepted");
    let problems = status["problems"].as_array().unwrap();
    assert!(
        problems
            .iter()
            .any(|p| p["object"] == "HTTPRoute shop/reviews" && p["severity"] == "error" && p["line"].is_u64()),
        "{problems:#?}"
    );
    // Nothing was sent: the next thing to come is the mended one.
    mesh.manifest("route.yaml", &good.replace("value: /v1", "value: /v2"));
    let changes = proxy.take().await;
    assert!(
        changes
            .iter()
            .all(|(name, what)| name.kind == Kind::Service && *what == "body"),
        "{changes:?}"
    );
    mesh.until(|status| condition(route(status), "Applied")["status"] == "True")
        .await;
}

#[tokio::test]
async fn a_file_that_cannot_be_parsed_is_told_of_and_keeps_its_objects() {
    let mesh = Mesh::running().await;
    mesh.route("/v1");
    mesh.until(|status| !route(status).is_null()).await;
    mesh.manifest("route.yaml", "kind: [unclosed");
    let file = |status: &Value| {
        let problems = status["problems"].as_array().unwrap();
        problems.iter().any(|problem| {
            problem["file"]
                .as_str()
                .is_some_and(|file| file.ends_with("route.yaml"))
        })
    };
    let status = mesh.until(file).await;
    assert_eq!(condition(route(&status), "Accepted")["status"], "True");
}

#[tokio::test]
async fn what_a_proxy_refuses_is_named_and_not_repeated() {
    let mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    proxy.take().await;
    mesh.route("/v1");
    let batch = proxy.next().await.unwrap();
    let service = batch
        .resources
        .iter()
        .find(|r| r.name.as_ref().unwrap().kind == Kind::Service.to_wire() as i32)
        .unwrap();
    let refusal = discovery::Refusal {
        name: service.name.clone(),
        version: service.version.clone(),
        field: "rules[0].match.path".to_owned(),
        reason: "is odd\u{1b}[31m".to_owned(),
        missing_features: Vec::new(),
    };
    proxy.ack(batch.nonce, vec![refusal]).await;
    let refused = |status: &Value| {
        status["proxies"][0]["refusals"]
            .as_array()
            .is_some_and(|refusals| refusals.len() == 1)
    };
    let status = mesh.until(refused).await;
    let told = &status["proxies"][0]["refusals"][0];
    assert_eq!(told["object"], "HTTPRoute shop/reviews");
    assert_eq!(told["field"], "rules[0].match.path");
    assert_eq!(told["reason"], "is odd[31m");
    assert_eq!(condition(route(&status), "Applied")["status"], "False");
    assert_eq!(route(&status)["waiting"], serde_json::json!(["shop/web-1"]));
    // Something else changes: the refused version does not come again, a new one does.
    mesh.slice(&["reviews-1"], 300);
    let changes = proxy.take().await;
    assert!(
        changes.iter().all(|(name, _)| name.kind == Kind::Endpoints),
        "{changes:?}"
    );
    mesh.route("/v2");
    let changes = proxy.until(Kind::Service, "body").await;
    assert!(!changes.is_empty());
    mesh.until(|status| condition(route(status), "Applied")["status"] == "True")
        .await;
    assert!(
        mesh.status().await["proxies"][0]["refusals"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn what_the_version_before_a_refused_one_refers_to_stays_and_stays_current() {
    let mut mesh = Mesh::new();
    mesh.service("ratings", "10.96.0.8");
    mesh.route_to("/v1", "ratings");
    mesh.start().await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    let changes = proxy.take().await;
    let ratings = |changes: &[(weft_proto::resource::Name, &str)], what: &str| {
        changes
            .iter()
            .any(|(name, change)| name.kind == Kind::Endpoints && name.key.contains("ratings") && *change == what)
    };
    assert!(ratings(&changes, "body"), "{changes:?}");
    mesh.route_to("/v2", "reviews");
    let batch = proxy.next().await.unwrap();
    let [service] = &batch.resources[..] else {
        panic!("{:?}", batch.resources)
    };
    let (name, version) = (service.name.clone(), service.version.clone());
    let refusal = discovery::Refusal {
        name,
        version,
        field: "rules".to_owned(),
        ..Default::default()
    };
    proxy.ack(batch.nonce, vec![refusal]).await;
    mesh.until(|status| {
        status["proxies"][0]["refusals"]
            .as_array()
            .is_some_and(|refusals| !refusals.is_empty())
    })
    .await;
    // The old version goes on, and so do changes of the endpoints that it refers to.
    mesh.service("ratings", "10.96.0.9");
    mesh.slice(&["reviews-1"], 300);
    loop {
        let changes = proxy.take().await;
        assert!(!ratings(&changes, "removed"), "{changes:?}");
        if changes.iter().any(|(name, _)| name.key.contains("reviews")) {
            break;
        }
    }
    // A version that it takes ends that.
    mesh.route_to("/v3", "reviews");
    loop {
        if ratings(&proxy.take().await, "removed") {
            break;
        }
    }
}

#[tokio::test]
async fn a_proxy_that_has_gone_is_told_of_until_its_pod_is_gone_too() {
    let mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    proxy.take().await;
    mesh.until(|status| status["proxies"][0]["resources"][0]["acked"] == true)
        .await;
    drop(proxy);
    let status = mesh.until(|status| status["proxies"][0]["connected"] == false).await;
    assert_eq!(status["proxies"][0]["pod"], "web-1");
    assert!(!status["proxies"][0]["resources"].as_array().unwrap().is_empty());
    mesh.delete("Pod", "web-1");
    mesh.until(|status| status["proxies"].as_array().unwrap().is_empty())
        .await;
}

#[tokio::test]
async fn admin_tells_of_readiness_and_figures() {
    let mesh = Mesh::running().await;
    assert_eq!(mesh.get("/live").await, "live\n");
    assert_eq!(mesh.get("/ready").await, "ready\n");
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    proxy.take().await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while !mesh
            .get("/metrics")
            .await
            .contains("weft_control_acknowledgements_total 1")
        {}
    })
    .await
    .unwrap();
    let metrics = mesh.get("/metrics").await;
    for line in [
        "weft_control_proxies_connected 1",
        "weft_control_batches_sent_total 1",
        "weft_control_resources_sent_total 6",
        "weft_control_epoch 1",
        "weft_control_problems 0",
        "weft_control_compile_duration_seconds_count",
        "weft_leaf_expiry_seconds",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn what_the_mesh_is_called_is_told_without_everything_in_it() {
    let mesh = Mesh::running().await;
    let all = mesh.status().await;
    let view: Value = serde_json::from_str(&mesh.get("/status?view=mesh").await).unwrap();
    let fields: Vec<&String> = view.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["build", "epoch", "mesh"]);
    assert!(
        view["mesh"]["trustDomain"].is_string() && view["mesh"] == all["mesh"],
        "{view:#}"
    );
}
