//! Who gets a certificate, and who does not.

use std::time::{Duration, SystemTime};

use tonic::{Code, Status};
use weft_certs::credential::Credential;
use weft_certs::csr;
use weft_certs::key::Key;
use weft_certs::token::{AUDIENCE, Signer};
use weft_proto::identity::IssueRequest;
use weft_proto::identity::identity_client::IdentityClient;

use super::mesh::{ISSUER, LONG, Mesh, sign};
use crate::config::{AddressCheck, RenewByLeaf};

const HOUR: Duration = Duration::from_secs(3600);

#[track_caller]
fn refused(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(status.metadata().get("weft-reason").unwrap(), reason, "{status:?}");
    assert!(status.message().starts_with(reason), "{status:?}");
}

#[tokio::test]
async fn a_pod_with_its_token_gets_the_identity_of_its_service_account() {
    let mesh = Mesh::running().await;
    let web = mesh.web().await;
    assert_eq!(web.identity().to_string(), "spiffe://test.weft.internal/ns/shop/sa/web");
    web.verify(SystemTime::now()).unwrap();
    // And renews with leaf and token.
    let (key, again) = mesh
        .issue(mesh.caller(&web).await, mesh.token("web-1", "web"))
        .await
        .unwrap();
    assert_eq!(mesh.credential(key, &again).identity(), web.identity());
    assert!(again.valid_for_ms > 23 * 3_600_000 && again.valid_for_ms <= 24 * 3_600_000);
    let metrics = mesh.get("/metrics").await;
    assert!(
        metrics.contains("weft_control_issuances_total{result=\"issued\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("weft_control_issuances_total{result=\"renewed\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn tokens_that_are_not_for_this_are_refused() {
    let mesh = Mesh::running().await;
    let now = SystemTime::now();
    let stranger = mesh.stranger().await;
    let forged = Signer::new(ISSUER, &Key::generate().unwrap()).unwrap();
    let other = Signer::new("https://other.test", &Key::generate().unwrap()).unwrap();
    let signed = |audience, issued| mesh.token_for("web-1", "web", audience, HOUR, issued);
    for (reason, token) in [
        ("token-audience", signed("vault", now)),
        ("token-expired", signed(AUDIENCE, now - 2 * HOUR)),
        // Of the future, of another key, of another issuer, and nonsense.
        ("token-refused", signed(AUDIENCE, now + HOUR)),
        ("token-refused", sign(&forged, "web-1", "web", AUDIENCE, HOUR, now)),
        ("token-refused", sign(&other, "web-1", "web", AUDIENCE, HOUR, now)),
        ("token-refused", "a.b.c".to_owned()),
    ] {
        let status = mesh.issue(stranger.clone(), token).await.map(|_| reason).unwrap_err();
        refused(&status, Code::Unauthenticated, reason);
    }
    refused(
        &mesh.issue(stranger, String::new()).await.map(|_| ()).unwrap_err(),
        Code::Unauthenticated,
        "token-missing",
    );
}

#[tokio::test]
async fn a_token_is_good_for_its_own_pod_only() {
    let mesh = Mesh::running().await;
    let stranger = mesh.stranger().await;
    for (pod, account, reason) in [
        ("gone-1", "web", "pod-unknown"),
        ("web-1", "reviews", "pod-mismatch"),
        // It is there, but elsewhere: a token replayed from another pod.
        ("reviews-1", "reviews", "address-mismatch"),
    ] {
        let status = mesh
            .issue(stranger.clone(), mesh.token(pod, account))
            .await
            .map(|_| ())
            .unwrap_err();
        refused(&status, Code::PermissionDenied, reason);
    }
}

#[tokio::test]
async fn a_pod_of_the_same_name_is_another_pod() {
    let mesh = Mesh::running().await;
    let token = mesh.token("web-1", "web").clone();
    let mut pod: serde_json::Value =
        serde_json::from_slice(&std::fs::read(mesh.path("objects/Pod-web-1.json")).unwrap()).unwrap();
    pod["metadata"]["uid"] = "another".into();
    pod["metadata"]["resourceVersion"] = "99".into();
    mesh.object(&pod);
    let stranger = mesh.stranger().await;
    let waited = tokio::time::timeout(LONG, async {
        // The change takes its time to be seen.
        while mesh.issue(stranger.clone(), token.clone()).await.is_ok() {}
    });
    waited.await.unwrap();
    let status = mesh.issue(stranger, token).await.map(|_| ()).unwrap_err();
    refused(&status, Code::PermissionDenied, "pod-mismatch");
}

#[tokio::test]
async fn a_pod_that_is_not_known_yet_is_waited_for() {
    let mut mesh = Mesh::new();
    mesh.settings.pod_wait = LONG;
    mesh.start().await;
    let stranger = mesh.stranger().await;
    let issued = mesh.issue(stranger, mesh.token("late-1", "web"));
    let appears = async { mesh.pod("late-1", "web", "127.0.0.1", 50) };
    let (issued, ()) = tokio::join!(issued, appears);
    issued.unwrap();
}

#[tokio::test]
async fn another_address_is_let_pass_only_where_the_operator_says_so() {
    let mut mesh = Mesh::new();
    mesh.settings.address_check = AddressCheck::Warn;
    mesh.start().await;
    mesh.issue(mesh.stranger().await, mesh.token("reviews-1", "reviews"))
        .await
        .unwrap();
    assert!(
        mesh.get("/metrics")
            .await
            .contains("weft_control_addresses_tolerated_total 1")
    );
    // Who it is still counts.
    let status = mesh
        .issue(mesh.stranger().await, mesh.token("reviews-1", "web"))
        .await
        .map(|_| ())
        .unwrap_err();
    refused(&status, Code::PermissionDenied, "pod-mismatch");
}

#[tokio::test]
async fn a_leaf_is_no_way_to_another_identity() {
    let mesh = Mesh::running().await;
    mesh.pod("admin-1", "admin", "127.0.0.1", 60);
    let (key, response) = mesh
        .issue(mesh.stranger().await, mesh.token("admin-1", "admin"))
        .await
        .unwrap();
    let admin = mesh.credential(key, &response);
    let status = mesh
        .issue(mesh.caller(&admin).await, mesh.token("web-1", "web"))
        .await
        .map(|_| ())
        .unwrap_err();
    refused(&status, Code::PermissionDenied, "leaf-mismatch");
    // And alone it renews nothing while tokens can be checked.
    let status = mesh
        .issue(mesh.caller(&admin).await, String::new())
        .await
        .map(|_| ())
        .unwrap_err();
    refused(&status, Code::Unauthenticated, "token-missing");
}

#[tokio::test]
async fn a_leaf_renews_itself_while_no_token_can_be_checked_if_the_operator_lets_it() {
    let mut mesh = Mesh::running().await;
    let web = mesh.web().await;
    mesh.stop().await;
    mesh.settings.token_jwks = None;
    for (rule, allowed) in [(RenewByLeaf::Unverifiable, true), (RenewByLeaf::Never, false)] {
        mesh.settings.renew_by_leaf = rule;
        mesh.start().await;
        for token in [String::new(), mesh.token("web-1", "web")] {
            let renewed = mesh.issue(mesh.caller(&web).await, token.clone()).await;
            match renewed {
                Ok((key, response)) => {
                    assert!(allowed);
                    assert_eq!(mesh.credential(key, &response).identity(), web.identity());
                }
                Err(status) => {
                    assert!(!allowed, "{status:?}");
                    refused(&status, Code::Unavailable, "token-unverifiable");
                }
            }
            let status = mesh.issue(mesh.stranger().await, token).await.map(|_| ()).unwrap_err();
            refused(&status, Code::Unavailable, "token-unverifiable");
        }
        mesh.stop().await;
    }
}

/// What comes of a renewal by the leaf alone, from 127.0.0.1, at a control plane that begins with what there is.
async fn renewed(mesh: &mut Mesh, leaf: &Credential, check: AddressCheck) -> Result<(), Status> {
    mesh.settings.address_check = check;
    mesh.start().await;
    let renewed = mesh.issue(mesh.caller(leaf).await, String::new()).await;
    mesh.stop().await;
    renewed.map(|_| ())
}

#[tokio::test]
async fn a_leaf_alone_renews_only_at_a_pod_of_its_account() {
    let mut mesh = Mesh::running().await;
    let web = mesh.web().await;
    mesh.stop().await;
    mesh.settings.token_jwks = None;
    renewed(&mut mesh, &web, AddressCheck::Enforce).await.unwrap();

    // Its pod is elsewhere: whoever calls has its leaf and key, and is none of its account.
    mesh.pod("web-1", "web", "127.0.0.9", 61);
    let status = renewed(&mut mesh, &web, AddressCheck::Enforce).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "address-mismatch");
    renewed(&mut mesh, &web, AddressCheck::Warn).await.unwrap();

    mesh.delete("Pod", "web-1");
    let status = renewed(&mut mesh, &web, AddressCheck::Warn).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "pod-unknown");
}

#[tokio::test]
async fn requests_that_are_none_or_too_many_are_refused() {
    let mesh = Mesh::running().await;
    let mut client = IdentityClient::new(mesh.stranger().await);
    let request = IssueRequest {
        csr: vec![0x30; 300].into(),
        token: mesh.token("web-1", "web"),
    };
    refused(
        &client.issue(request.clone()).await.unwrap_err(),
        Code::InvalidArgument,
        "csr-invalid",
    );
    let too_large = IssueRequest {
        csr: vec![0; 64 * 1024].into(),
        ..request
    };
    assert_eq!(client.issue(too_large).await.unwrap_err().code(), Code::OutOfRange);
    let csr: bytes::Bytes = csr::make(&Key::generate().unwrap()).unwrap().into();
    let mut last = None;
    for _ in 0..20 {
        let request = IssueRequest {
            csr: csr.clone(),
            token: mesh.token("web-1", "web"),
        };
        last = client.issue(request).await.err();
        if last.is_some() {
            break;
        }
    }
    refused(&last.unwrap(), Code::ResourceExhausted, "rate-limited");
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_no_more() {
    let mut mesh = Mesh::new();
    mesh.settings.connections_per_address = 2;
    mesh.start().await;
    let held = [mesh.web().await, mesh.web().await];
    let callers = [mesh.caller(&held[0]).await, mesh.caller(&held[1]).await];
    drop(held);
    let mut answered = 0;
    for caller in callers.iter().chain([&mesh.stranger().await]) {
        let issued = mesh
            .issue(caller.clone(), "nonsense".to_owned())
            .await
            .map(|_| ())
            .unwrap_err();
        answered += usize::from(issued.code() == Code::Unauthenticated);
    }
    // The two strangers that fetched the certificates may not have been let go yet.
    assert!(answered <= 2, "{answered}");
    assert!(
        mesh.get("/metrics")
            .await
            .contains("turned_away_total{reason=\"address-limit\"}")
    );
}
