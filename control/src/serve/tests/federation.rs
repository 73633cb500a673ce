//! Two control planes that follow each other.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::timeout;
use tonic::Code;
use weft_proto::discovery::{self, Hello, resource::State};
use weft_proto::federation::federation_client::FederationClient;
use weft_proto::resource::{Body, Kind};

use super::mesh::{LONG, Mesh, Proxy};

/// The ClusterPeer by which `to` knows `peer`.
pub(super) fn link(to: &Mesh, peer: &Mesh, more: &str) {
    link_at(to, peer, peer.federation(), 1, more);
}

/// The same with another federation endpoint, and another number of its bundle.
pub(super) fn link_at(to: &Mesh, peer: &Mesh, at: SocketAddr, sequence: u64, more: &str) {
    let roots = std::fs::read_to_string(peer.path("state/trust/roots.pem")).unwrap();
    let roots = roots.replace('\n', "\n      ");
    let (name, domain) = (&peer.settings.cluster, peer.trust_domain());
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata:\n  name: {name}\nspec:\n  trustDomain: {domain}\n  \
         trustBundle:\n    sequence: {sequence}\n    roots: |\n      {roots}\n  endpoints: [\"{at}\"]\n  network: wire\n{more}"
    );
    to.manifest(&format!("peer-{name}.yaml"), &text);
}

pub(super) const IMPORTS: &str = "  imports:\n  - namespaces: [shop]\n";

fn export(mesh: &Mesh, service: &str) {
    let text = format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata:\n  name: {service}\n  namespace: shop\n"
    );
    mesh.manifest(&format!("export-{service}.yaml"), &text);
}

/// Two clusters that know each other; the first exports reviews.
pub(super) async fn two() -> (Mesh, Mesh) {
    let (mut a, mut b) = (Mesh::of("a", "10.244.0"), Mesh::of("b", "10.245.0"));
    a.start().await;
    b.start().await;
    export(&a, "reviews");
    link(&a, &b, "");
    link(&b, &a, IMPORTS);
    (a, b)
}

pub(super) fn peer<'a>(status: &'a Value, name: &str) -> &'a Value {
    let peers = status["peers"].as_array().unwrap();
    peers
        .iter()
        .find(|peer| peer["cluster"] == name)
        .unwrap_or(&Value::Null)
}

fn imports(status: &Value, from: &str) -> Vec<(String, u64)> {
    let imported = peer(status, from)["imported"].as_array().cloned().unwrap_or_default();
    let each = |one: &Value| {
        (
            one["name"].as_str().unwrap().to_owned(),
            one["endpoints"].as_u64().unwrap(),
        )
    };
    imported.iter().map(each).collect()
}

/// The endpoints of reviews as a proxy is told of them, once there are so many: cluster and identity.
pub(super) async fn endpoints(proxy: &mut Proxy, count: usize) -> Vec<(String, String)> {
    let told = timeout(LONG, async {
        loop {
            let batch = proxy.next().await.unwrap();
            proxy.ack(batch.nonce, Vec::new()).await;
            for resource in batch.resources {
                let Some(State::Body(body)) = resource.state else {
                    continue;
                };
                let kind = Kind::from_wire(resource.name.unwrap().kind).unwrap();
                let Ok(Body::Endpoints(set)) = weft_proto::resource::decode(kind, &body) else {
                    continue;
                };
                if set.endpoints.len() == count {
                    let each = |one: &std::sync::Arc<weft_model::endpoint::Endpoint>| {
                        (one.place.cluster.clone(), one.identity.as_ref().unwrap().to_string())
                    };
                    return set.endpoints.iter().map(each).collect();
                }
            }
        }
    });
    told.await.unwrap_or_else(|_| panic!("never {count} endpoints"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_exports_stands_behind_the_other_ones_own_endpoints_and_goes_with_the_export() {
    let (a, b) = two().await;
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    let mut all = endpoints(&mut web, 4).await;
    all.sort();
    let identity = |cluster: &str| format!("spiffe://{cluster}.weft.internal/ns/shop/sa/reviews");
    let of = |cluster: &str| (cluster.to_owned(), identity(cluster));
    assert_eq!(all, [of("a"), of("a"), of("b"), of("b")]);

    // One of the exporter's pods goes, and then the export.
    a.slice(&["reviews-1"], 20);
    assert_eq!(endpoints(&mut web, 3).await.len(), 3);
    std::fs::remove_file(a.path("user/export-reviews.yaml")).unwrap();
    let left = endpoints(&mut web, 2).await;
    assert!(left.iter().all(|(cluster, _)| cluster == "b"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_exported_to_a_peer_and_imported_from_it_comes() {
    let (a, b) = two().await;
    a.service("ratings", "10.96.0.8");
    export(&a, "ratings");
    let status = b.until(|status| imports(status, "a").len() == 2).await;
    assert_eq!(
        imports(&status, "a"),
        [("ratings".to_owned(), 0), ("reviews".to_owned(), 2)]
    );
    // Not told any more.
    link(&a, &b, "  exports:\n  - namespaces: [other]\n");
    b.until(|status| imports(status, "a").is_empty()).await;
    link(&a, &b, "");
    b.until(|status| imports(status, "a").len() == 2).await;
    // Not taken any more.
    link(&b, &a, "  imports:\n  - namespaces: [other]\n");
    b.until(|status| imports(status, "a").is_empty()).await;
    // What is exported is not imported by that.
    let status = a.status().await;
    assert!(imports(&status, "b").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_keeps_what_was_heard_and_heals() {
    let (mut a, b) = two().await;
    b.until(|status| imports(status, "a") == [("reviews".to_owned(), 2)])
        .await;
    let at = a.federation();
    a.stop().await;
    let status = b.until(|status| peer(status, "a")["link"]["state"] == "Stale").await;
    assert_eq!(imports(&status, "a"), [("reviews".to_owned(), 2)]);
    assert_eq!(
        peer(&status, "a")["link"]["complete"],
        true,
        "all that it exports had come"
    );
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    assert_eq!(endpoints(&mut web, 4).await.len(), 4);

    a.slice(&["reviews-1"], 30);
    a.settings.federation_listen = Some(at);
    a.start().await;
    assert_eq!(endpoints(&mut web, 3).await.len(), 3);
    b.until(|status| peer(status, "a")["link"]["state"] == "Connected")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_counts_still_when_the_control_plane_begins_anew_while_the_link_is_broken() {
    let (mut a, mut b) = two().await;
    b.until(|status| imports(status, "a") == [("reviews".to_owned(), 2)])
        .await;
    a.stop().await;
    // The end of the link has it kept.
    b.until(|status| peer(status, "a")["link"]["state"] == "Stale").await;
    b.stop().await;
    b.start().await;
    let status = b.status().await;
    assert_eq!(
        imports(&status, "a"),
        [("reviews".to_owned(), 2)],
        "before any proxy is served"
    );
    assert_eq!(peer(&status, "a")["link"]["state"], "Stale");
    assert_eq!(peer(&status, "a")["link"]["complete"], false, "there may be more");
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    assert_eq!(endpoints(&mut web, 4).await.len(), 4);

    // But not what is not imported any more.
    b.stop().await;
    let text = std::fs::read_to_string(b.path("user/peer-a.yaml")).unwrap();
    b.manifest("peer-a.yaml", &text.replace("[shop]", "[other]"));
    b.start().await;
    assert!(imports(&b.status().await, "a").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_forgotten_when_the_link_was_broken_for_as_long_as_they_are_kept() {
    let (mut a, b) = two().await;
    link(&b, &a, &format!("{IMPORTS}  keepFor: 1s\n"));
    b.until(|status| imports(status, "a") == [("reviews".to_owned(), 2)])
        .await;
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    assert_eq!(endpoints(&mut web, 4).await.len(), 4);
    a.stop().await;
    assert_eq!(endpoints(&mut web, 2).await.len(), 2);
    b.until(|status| peer(status, "a")["link"]["state"] == "Forgotten")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_one_any_more_is_forgotten_at_once() {
    let (_a, b) = two().await;
    let mut web = b.web_proxy(&["10.96.0.7:80"]).await;
    assert_eq!(endpoints(&mut web, 4).await.len(), 4);
    std::fs::remove_file(b.path("user/peer-a.yaml")).unwrap();
    assert_eq!(endpoints(&mut web, 2).await.len(), 2);
    assert_eq!(peer(&b.status().await, "a"), &Value::Null);
}

/// What comes of following `mesh` with a credential, as a cluster of this name.
async fn follow(mesh: &Mesh, credential: &weft_certs::credential::Credential, cluster: &str) -> Result<(), Code> {
    follow_as(mesh, credential, cluster, "one").await.map(|_| ())
}

/// The same as one of its replicas. The stream goes on for as long as what is returned lives.
async fn follow_as(
    mesh: &Mesh,
    credential: &weft_certs::credential::Credential,
    cluster: &str,
    instance: &str,
) -> Result<tonic::Streaming<discovery::FromControl>, Code> {
    let hello = Hello {
        peer: Some(discovery::Peer {
            cluster: cluster.to_owned(),
            instance: instance.to_owned(),
            ..discovery::Peer::default()
        }),
        ..Hello::default()
    };
    follow_with(mesh, credential, hello).await
}

/// The same with these words.
async fn follow_with(
    mesh: &Mesh,
    credential: &weft_certs::credential::Credential,
    hello: Hello,
) -> Result<tonic::Streaming<discovery::FromControl>, Code> {
    let channel = mesh.caller_at(mesh.federation(), credential).await;
    let message = discovery::FromProxy {
        message: Some(discovery::from_proxy::Message::Hello(hello)),
    };
    let stay = tokio_stream::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending());
    let followed = timeout(LONG, FederationClient::new(channel).follow(stay))
        .await
        .unwrap();
    let mut stream = followed.map_err(|status| status.code())?.into_inner();
    let first = timeout(LONG, stream.message()).await.unwrap();
    first.map(|_| stream).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_says_more_at_once_than_is_read_is_told_so() {
    let (a, b) = two().await;
    let is_known = |status: &Value| {
        peer(status, "b")["followers"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    };
    a.until(is_known).await;
    let hello = Hello {
        peer: Some(discovery::Peer {
            cluster: "b".to_owned(),
            instance: "large".to_owned(),
            ..discovery::Peer::default()
        }),
        held: vec![discovery::Held::default(); 600_000],
        ..Hello::default()
    };
    let said = follow_with(&a, &b.control(), hello).await;
    assert_eq!(said.err(), Some(Code::ResourceExhausted));
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_replicas_of_a_cluster_follow_and_no_more() {
    let (a, b) = two().await;
    a.until(|status| {
        peer(status, "b")["followers"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    })
    .await;
    let control = b.control();
    // They have a budget together: an address may not open more in one second.
    let mut held = Vec::new();
    for n in 0..15 {
        held.push(follow_as(&a, &control, "b", &n.to_string()).await.unwrap());
    }
    let more = follow_as(&a, &control, "b", "more").await;
    assert_eq!(more.unwrap_err(), Code::ResourceExhausted);
    // One that comes again takes its own place.
    held.push(follow_as(&a, &control, "b", "3").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_control_plane_that_a_peer_names_may_follow() {
    let (a, b) = two().await;
    a.until(|status| peer(status, "b") != &Value::Null).await;
    // A workload of the peer: its certificate is verified, and is not the control plane's.
    let web = b.web().await;
    assert_eq!(follow(&a, &web, "b").await, Err(Code::PermissionDenied));
    // One of our own: our roots vouch for nobody there.
    let own = a.web().await;
    assert!(follow(&a, &own, "b").await.is_err());
    // The peer's control plane, by another name than its own.
    let control = b.control();
    assert_eq!(follow(&a, &control, "c").await, Err(Code::PermissionDenied));
    assert_eq!(follow(&a, &control, "b").await, Ok(()));
    // And not when it is no peer any more.
    std::fs::remove_file(a.path("user/peer-b.yaml")).unwrap();
    a.until(|status| peer(status, "b") == &Value::Null).await;
    assert!(follow(&a, &control, "b").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_told_the_peers_roots_apart_from_their_own() {
    let (a, b) = two().await;
    let mut web = b.web_proxy(&[]).await;
    let told = timeout(LONG, async {
        loop {
            let batch = web.next().await.unwrap();
            web.ack(batch.nonce, Vec::new()).await;
            for resource in batch.resources {
                let Some(State::Body(body)) = resource.state else {
                    continue;
                };
                let kind = Kind::from_wire(resource.name.unwrap().kind).unwrap();
                let Ok(Body::Bundles(bundles)) = weft_proto::resource::decode(kind, &body) else {
                    continue;
                };
                if bundles.len() == 2 {
                    return bundles;
                }
            }
        }
    });
    let bundles = told.await.expect("the bundles of both");
    let own = b.trust_domain();
    assert!(bundles.iter().any(|bundle| bundle.trust_domain == own));
    assert!(bundles.iter().any(|bundle| bundle.trust_domain == a.trust_domain()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_what_is_exported_and_a_sidecar_is_no_gateway() {
    let (a, _b) = two().await;
    a.until(|status| peer(status, "b") != &Value::Null).await;
    a.object(&serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "gateway-1", "namespace": "weft-system", "uid": "uid-gateway-1", "resourceVersion": "50"},
        "spec": {"serviceAccountName": "weft-gateway", "containers": [{"name": "gateway"}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]},
    }));
    let hello = |namespace: &str, name: &str| Hello {
        pod: Some(discovery::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        }),
        gateway: true,
        ..Hello::default()
    };
    let identity = "spiffe://a.weft.internal/ns/weft-system/sa/weft-gateway"
        .parse()
        .unwrap();
    let caller = a.caller(&a.credential_of(&identity)).await;
    let mut gateway = Proxy::open(caller, hello("weft-system", "gateway-1")).await.unwrap();
    let told = gateway.until(Kind::Exported, "body").await;
    let told: Vec<(Kind, &str)> = told.iter().map(|(name, _)| (name.kind, name.key.as_str())).collect();
    assert!(told.contains(&(Kind::Exported, "shop/reviews:80")), "{told:?}");
    assert!(told.contains(&(Kind::Gateway, "gateway")), "{told:?}");
    assert!(
        told.iter()
            .all(|(kind, _)| !matches!(kind, Kind::Inbound | Kind::Lookup)),
        "{told:?}"
    );
    // Nothing is passed that is exported to nobody.
    std::fs::remove_file(a.path("user/export-reviews.yaml")).unwrap();
    gateway.until(Kind::Exported, "removed").await;

    let mut sidecar = Proxy::open(a.caller(&a.web().await).await, hello("shop", "web-1"))
        .await
        .unwrap();
    assert_eq!(sidecar.next().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_know_us_is_told_apart_from_one_that_is_away() {
    let (mut a, mut b) = (Mesh::of("a", "10.244.0"), Mesh::of("b", "10.245.0"));
    a.start().await;
    b.start().await;
    link(&b, &a, IMPORTS);
    let of = |status: &Value| {
        peer(status, "a")["link"]["fault"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let status = b.until(|status| of(status) == "refused").await;
    let reason = peer(&status, "a")["link"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("does not take this cluster's certificate"), "{reason}");
    a.stop().await;
    b.until(|status| of(status) == "port").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_it_holds_what_it_is_not_told_hears_only_that_it_is_gone() {
    let (a, b) = two().await;
    link(&a, &b, "  exports: []\n");
    a.until(|status| {
        peer(status, "b")["followers"][0]["exported"]
            .as_array()
            .is_some_and(Vec::is_empty)
    })
    .await;
    let channel = a.caller_at(a.federation(), &b.control()).await;
    let held = |kind: Kind, key: &str| {
        let version = weft_model::version::Version {
            hash: [1; 16],
            sources: Vec::new(),
        };
        weft_proto::resource::name::held_to_wire(&weft_proto::resource::Name::new(kind, key), &version)
    };
    let hello = Hello {
        peer: Some(discovery::Peer {
            cluster: "b".to_owned(),
            instance: "liar".to_owned(),
            ..discovery::Peer::default()
        }),
        held: vec![
            held(Kind::Export, "shop/reviews"),
            held(Kind::Exported, "shop/reviews:80"),
        ],
        ..Hello::default()
    };
    let (say, said) = tokio::sync::mpsc::channel(4);
    let tell = |message| discovery::FromProxy { message: Some(message) };
    say.send(tell(discovery::from_proxy::Message::Hello(hello)))
        .await
        .unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut stream = FederationClient::new(channel)
        .follow(messages)
        .await
        .unwrap()
        .into_inner();
    let mut gone = 0;
    while gone < 2 {
        let heard = timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
        let Some(discovery::from_control::Message::Batch(batch)) = heard.message else {
            continue;
        };
        let mut refusals = Vec::new();
        for resource in batch.resources {
            let kind = Kind::from_wire(resource.name.as_ref().unwrap().kind).unwrap();
            match resource.state {
                Some(State::Removed(_)) => gone += 1,
                // It takes nothing, so that all that it had would be kept for a proxy.
                _ if kind == Kind::Cluster => refusals.push(discovery::Refusal {
                    name: resource.name,
                    version: resource.version,
                    ..discovery::Refusal::default()
                }),
                other => panic!("{kind}: {other:?}"),
            }
        }
        let ack = discovery::Ack {
            nonce: batch.nonce,
            refusals,
        };
        say.send(tell(discovery::from_proxy::Message::Ack(ack))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_first_batches_of_a_stream_the_last_one_says_that_it_is() {
    let (a, b) = two().await;
    // As large as each may be.
    let text = "x".repeat(3_900);
    for n in 0..100 {
        let service = format!("s{n:02}");
        a.service(&service, &format!("10.96.2.{n}"));
        a.manifest(
            &format!("export-{service}.yaml"),
            &format!(
                "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {service}, namespace: shop}}\n\
                 spec: {{exportedAnnotations: {{a: {text}, b: {text}, c: {text}, d: {text}}}}}\n"
            ),
        );
    }
    let status = b.until(|status| imports(status, "a").len() == 101).await;
    assert_eq!(peer(&status, "a")["link"]["complete"], true);

    let channel = a.caller_at(a.federation(), &b.control()).await;
    let hello = Hello {
        peer: Some(discovery::Peer {
            cluster: "b".to_owned(),
            instance: "new".to_owned(),
            imports: vec![discovery::Selection {
                namespaces: vec!["shop".to_owned()],
                ..discovery::Selection::default()
            }],
            ..discovery::Peer::default()
        }),
        ..Hello::default()
    };
    let (say, said) = tokio::sync::mpsc::channel(4);
    let tell = |message| discovery::FromProxy { message: Some(message) };
    say.send(tell(discovery::from_proxy::Message::Hello(hello)))
        .await
        .unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(said);
    let followed = FederationClient::new(channel).follow(messages).await;
    let mut stream = followed.unwrap().into_inner();
    let (mut complete, mut exports) = (Vec::new(), 0);
    while !complete.contains(&true) {
        let heard = timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
        let Some(discovery::from_control::Message::Batch(batch)) = heard.message else {
            continue;
        };
        let kinds = batch
            .resources
            .iter()
            .map(|resource| resource.name.as_ref().unwrap().kind);
        exports += kinds
            .filter(|kind| Kind::from_wire(*kind).unwrap() == Kind::Export)
            .count();
        complete.push(batch.complete);
        let ack = discovery::Ack {
            nonce: batch.nonce,
            ..discovery::Ack::default()
        };
        say.send(tell(discovery::from_proxy::Message::Ack(ack))).await.unwrap();
    }
    assert_eq!((complete, exports), (vec![false, true], 101));
}

/// What `b` tells whoever plays its API server, once it is so.
async fn told(b: &Mesh, wanted: impl Fn(&Value) -> bool) -> Value {
    let told = timeout(LONG, async {
        let mut known = String::new();
        loop {
            let said = b.get(&format!("/imports?known={known}")).await;
            let told: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
            if wanted(&told) {
                return told;
            }
            told["version"].as_str().unwrap().clone_into(&mut known);
        }
    });
    told.await.expect("never so")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_is_told_as_objects_and_a_service_that_is_here_only_for_that_is_never_exported() {
    let (a, b) = two().await;
    a.service("ratings", "10.96.0.8");
    export(&a, "ratings");
    export(&b, "ratings");
    let names = |told: &Value| -> Vec<String> {
        let services = told["services"].as_array().unwrap().iter();
        services
            .map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = told(&b, |told| told["imports"].as_array().is_some_and(|all| all.len() == 2)).await;
    let derived = |service: &str| crate::federation::derived::derived_name(&crate::index::Name::new("shop", service));
    assert_eq!(
        names(&first),
        [derived("ratings"), "ratings".to_owned(), derived("reviews")],
        "b has reviews of its own"
    );
    assert_eq!(first["imports"][0]["status"]["conditions"][0]["reason"], "Pending");
    let clusters = |told: &Value| told["imports"][0]["status"]["clusters"].clone();
    let only_a = serde_json::json!([{"cluster": "a"}]);
    assert_eq!(clusters(&first), only_a);
    let endpoints = first["endpoints"].as_array().unwrap().iter();
    let mut reached: Vec<&str> = endpoints.map(|one| one["pod"].as_str().unwrap()).collect();
    reached.sort_unstable();
    assert_eq!(reached, ["reviews-1", "reviews-2"], "they share a network");

    // Its Services get addresses, as an API server gives them.
    let services = first["services"].as_array().unwrap().iter();
    for (service, ip) in services.zip(["10.96.1.1", "10.96.1.2", "10.96.1.3"]) {
        let mut service = service.clone();
        service["spec"]["clusterIP"] = ip.into();
        service["spec"]["clusterIPs"] = serde_json::json!([ip]);
        service["metadata"]["resourceVersion"] = "30".into();
        b.object(&service);
    }
    let after = told(&b, |told| told["imports"][0]["spec"]["ips"][0] == "10.96.1.1").await;
    assert_eq!(after["imports"][0]["status"]["conditions"][0]["reason"], "Ready");
    assert_eq!(
        after["services"], first["services"],
        "what they became changes nothing of them"
    );
    assert_eq!(clusters(&after), only_a, "b's own ServiceExport has no Service");
}
