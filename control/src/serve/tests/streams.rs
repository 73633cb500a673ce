//! What proxies are sent, when, and what not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tonic::{Code, Status};
use weft_proto::discovery::{self, Subscribe, Unsubscribe, from_proxy::Message, resource::State};
use weft_proto::resource::name::target_to_wire;
use weft_proto::resource::{Kind, Name};

use super::mesh::{LONG, Mesh, Proxy, condition, hello, object, target};

const REVIEWS: &str = "10.96.0.7:80";

fn kinds(changes: &[(Name, &'static str)]) -> BTreeSet<Kind> {
    changes.iter().map(|(name, _)| name.kind).collect()
}

#[tokio::test]
async fn a_proxy_is_told_what_it_needs_and_nothing_else() {
    let mesh = Mesh::running().await;
    mesh.service("ratings", "10.96.0.8");
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    let changes = proxy.take().await;
    let all = BTreeSet::from([
        Kind::Lookup,
        Kind::Service,
        Kind::Endpoints,
        Kind::Inbound,
        Kind::Bundles,
        Kind::Mesh,
    ]);
    assert_eq!(kinds(&changes), all);
    assert!(
        changes
            .iter()
            .all(|(name, what)| *what == "body" && !name.key.contains("ratings")),
        "{changes:?}"
    );
    // Another one, on demand: in one batch, with all that it refers to.
    proxy
        .say(Message::Subscribe(Subscribe {
            targets: vec![target_to_wire(&target("10.96.0.8:80"))],
        }))
        .await;
    let changes = proxy.until(Kind::Service, "body").await;
    assert!(
        changes
            .iter()
            .any(|(name, _)| name.kind == Kind::Service && name.key.contains("ratings")),
        "{changes:?}"
    );
    assert!(
        kinds(&changes).is_superset(&BTreeSet::from([Kind::Lookup, Kind::Endpoints])),
        "{changes:?}"
    );
    // And gone again.
    proxy
        .say(Message::Unsubscribe(Unsubscribe {
            targets: vec![target_to_wire(&target("10.96.0.8:80"))],
        }))
        .await;
    let changes = proxy.until(Kind::Lookup, "removed").await;
    assert!(
        changes
            .iter()
            .all(|(name, what)| *what == "removed" && name.key.contains("ratings") || name.kind == Kind::Lookup),
        "{changes:?}"
    );
    assert!(proxy.held.keys().any(|name| name.key.contains("reviews")));
}

#[track_caller]
fn refused(status: &Status, code: Code, part: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(part), "{status:?}");
}

#[tokio::test]
async fn nobody_without_the_pods_own_certificate_gets_its_configuration() {
    let mesh = Mesh::running().await;
    let stranger = Proxy::open(mesh.stranger().await, hello("web-1", &[])).await;
    refused(&stranger.err().unwrap(), Code::Unauthenticated, "certificate");
    let web = mesh.web().await;
    for (pod, part) in [("reviews-1", "runs as reviews"), ("gone-1", "not known")] {
        let mut proxy = Proxy::open(mesh.caller(&web).await, hello(pod, &[REVIEWS]))
            .await
            .unwrap();
        refused(&proxy.next().await.unwrap_err(), Code::PermissionDenied, part);
    }
    let mut other_namespace = hello("web-1", &[]);
    other_namespace.pod.as_mut().unwrap().namespace = "bank".to_owned();
    let mut proxy = Proxy::open(mesh.caller(&web).await, other_namespace).await.unwrap();
    refused(&proxy.next().await.unwrap_err(), Code::PermissionDenied, "namespace");
    let mut other_uid = hello("web-1", &[]);
    other_uid.pod.as_mut().unwrap().uid = "another".to_owned();
    let mut proxy = Proxy::open(mesh.caller(&web).await, other_uid).await.unwrap();
    refused(&proxy.next().await.unwrap_err(), Code::PermissionDenied, "uid");
    assert!(mesh.status().await["proxies"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_change_reaches_those_concerned_as_one_batch() {
    let mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    proxy.take().await;
    mesh.route("/v1");
    let changes = proxy.until(Kind::Service, "body").await;
    assert!(!kinds(&changes).contains(&Kind::Inbound), "{changes:?}");
    let started = Instant::now();
    mesh.slice(&["reviews-1"], 100);
    let changes = proxy.take().await;
    assert_eq!(kinds(&changes), BTreeSet::from([Kind::Endpoints]), "{changes:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_a_proxy_holds_is_not_sent_again() {
    let mut mesh = Mesh::running().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[REVIEWS]))
        .await
        .unwrap();
    proxy.take().await;
    let again = proxy.hello_again("web-1", &[REVIEWS]);
    // The same holds across a restart of the control plane.
    for restart in [false, true] {
        if restart {
            mesh.stop().await;
            mesh.start().await;
        }
        let mut proxy = Proxy::open(mesh.caller(&web).await, again.clone()).await.unwrap();
        let batch = proxy.next().await.unwrap();
        assert!(batch.resources.is_empty(), "{:?}", batch.resources);
        assert_eq!(batch.epoch, 1);
    }
    // What it holds and does not need any more is taken away; what has changed is sent.
    mesh.slice(&["reviews-2"], 100);
    mesh.until(|_| mesh.path("objects").exists()).await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, again).await.unwrap();
    let changes = proxy.until(Kind::Endpoints, "body").await;
    assert_eq!(kinds(&changes), BTreeSet::from([Kind::Endpoints]));
}

#[tokio::test]
async fn a_second_stream_of_a_pod_replaces_the_first() {
    let mesh = Mesh::running().await;
    let web = mesh.web().await;
    let mut first = Proxy::open(mesh.caller(&web).await, hello("web-1", &[])).await.unwrap();
    first.take().await;
    let mut second = Proxy::open(mesh.caller(&web).await, hello("web-1", &[])).await.unwrap();
    second.take().await;
    refused(&first.next().await.unwrap_err(), Code::Aborted, "another stream");
    assert_eq!(mesh.status().await["proxies"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pod_cannot_speak_for_another_of_its_account() {
    let mut mesh = Mesh::new();
    mesh.pod("web-2", "web", "10.244.0.22", 20);
    mesh.start().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-2", &[])).await.unwrap();
    refused(
        &proxy.next().await.unwrap_err(),
        Code::PermissionDenied,
        "has the address 10.244.0.22",
    );
    assert!(mesh.status().await["proxies"].as_array().unwrap().is_empty());
    mesh.stop().await;
    mesh.settings.address_check = crate::config::AddressCheck::Warn;
    mesh.start().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-2", &[])).await.unwrap();
    proxy.take().await;
}

#[tokio::test]
async fn the_stream_ends_with_the_leaf() {
    let mut mesh = Mesh::new();
    mesh.settings.leaf_lifetime = Duration::from_secs(2);
    mesh.start().await;
    let mut proxy = mesh.web_proxy(&[]).await;
    proxy.take().await;
    refused(&proxy.next().await.unwrap_err(), Code::Unauthenticated, "certificate");
}

#[tokio::test]
async fn one_that_does_not_acknowledge_is_cut_and_delays_nobody() {
    let mut mesh = Mesh::new();
    mesh.settings.ack_wait = Duration::from_secs(2);
    mesh.start().await;
    mesh.pod("slow-1", "web", "127.0.0.1", 70);
    let web = mesh.web().await;
    mesh.until(|_| true).await;
    let mut slow = Proxy::open(mesh.caller(&web).await, hello("slow-1", &[REVIEWS]))
        .await
        .unwrap();
    slow.next().await.unwrap();
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[REVIEWS]))
        .await
        .unwrap();
    proxy.take().await;
    for (n, pods) in [&["reviews-1"][..], &["reviews-2"], &["reviews-1", "reviews-2"]]
        .into_iter()
        .enumerate()
    {
        mesh.slice(pods, 100 + n as u64);
        let changes = proxy.take().await;
        assert_eq!(kinds(&changes), BTreeSet::from([Kind::Endpoints]));
    }
    // Only one batch ever came, and then the end.
    assert!(slow.next().await.is_err());
    mesh.until(|status| {
        status["proxies"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["pod"] == "slow-1" && p["connected"] == false)
    })
    .await;
    assert!(
        mesh.get("/metrics")
            .await
            .contains("weft_control_streams_ended_total{reason=\"stalled\"} 1")
    );
}

#[tokio::test]
async fn one_that_does_not_acknowledge_in_time_gets_the_sum_of_all_changes() {
    let mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    let first = proxy.next().await.unwrap();
    for n in 0..20 {
        mesh.slice(&[["reviews-1", "reviews-2"][n % 2]], 100 + n as u64);
        mesh.route(&format!("/v{n}"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rules = |status: &serde_json::Value| object(status, "HTTPRoute", "reviews")["subscribers"] == 1;
    mesh.until(rules).await;
    proxy.ack(first.nonce, Vec::new()).await;
    let mut names = BTreeSet::new();
    let collect = async {
        loop {
            names.extend(proxy.take().await.into_iter().map(|(name, _)| name));
        }
    };
    tokio::select! {
        () = collect => {}
        _ = mesh.until(|status| condition(object(status, "HTTPRoute", "reviews"), "Applied")["status"] == "True") => {}
    }
    assert!(proxy.nonce < 8, "{}", proxy.nonce);
    assert_eq!(
        names.iter().map(|name| name.kind).collect::<BTreeSet<_>>(),
        BTreeSet::from([Kind::Service, Kind::Endpoints])
    );
}

#[tokio::test]
async fn many_proxies_are_back_soon_after_a_restart_and_nothing_is_sent_twice() {
    const PROXIES: usize = 100;
    let mut mesh = Mesh::new();
    for n in 0..PROXIES {
        mesh.pod(&format!("many-{n}"), "web", "127.0.0.1", 1000 + n as u64);
    }
    mesh.start().await;
    let web = mesh.web().await;
    let mut again = Vec::new();
    for n in 0..PROXIES {
        let pod = format!("many-{n}");
        let mut proxy = Proxy::open(mesh.caller(&web).await, hello(&pod, &[REVIEWS]))
            .await
            .unwrap();
        proxy.take().await;
        again.push(proxy.hello_again(&pod, &[REVIEWS]));
    }
    mesh.stop().await;
    mesh.start().await;
    let started = Instant::now();
    let mut back = tokio::task::JoinSet::new();
    for hello in again {
        let caller = mesh.caller(&web).await;
        back.spawn(async move {
            let mut proxy = Proxy::open(caller, hello).await.unwrap();
            (proxy.take().await, proxy)
        });
    }
    let back = back.join_all().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(
        back.iter()
            .all(|(changes, proxy)| changes.is_empty() && proxy.epoch == 1)
    );
    assert!(
        mesh.get("/metrics")
            .await
            .contains("weft_control_resources_sent_total 0")
    );
}

#[tokio::test]
async fn a_proxy_that_is_ahead_begins_a_new_epoch_only_when_looking_again_does_not_help() {
    let mut mesh = Mesh::running().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[REVIEWS]))
        .await
        .unwrap();
    proxy.take().await;
    // A file that was written just now: the watch may not have seen it, but looking again does.
    mesh.slice(&["reviews-1"], 500);
    let mut ahead = proxy.hello_again("web-1", &[REVIEWS]);
    for source in ahead
        .held
        .iter_mut()
        .flat_map(|held| &mut held.version.as_mut().unwrap().sources)
    {
        if source.object == "EndpointSlice shop/reviews-v4" {
            source.resource_version = 500;
        }
    }
    let mut proxy = Proxy::open(mesh.caller(&web).await, ahead.clone()).await.unwrap();
    proxy.take().await;
    assert_eq!(proxy.epoch, 1);
    // The same files, but resource versions of a later life: a state directory that was restored.
    ahead.epoch = 7;
    for source in ahead
        .held
        .iter_mut()
        .flat_map(|held| &mut held.version.as_mut().unwrap().sources)
    {
        source.resource_version += 1000;
    }
    let mut proxy = Proxy::open(mesh.caller(&web).await, ahead).await.unwrap();
    proxy.take().await;
    assert_eq!(proxy.epoch, 8);
    mesh.stop().await;
    mesh.start().await;
    assert_eq!(mesh.status().await["epoch"], 8);
}

#[tokio::test]
async fn one_proxy_cannot_poison_the_epoch_nor_have_everything_read_again_and_again() {
    let mesh = Mesh::running().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[REVIEWS]))
        .await
        .unwrap();
    proxy.take().await;
    let honest = proxy.hello_again("web-1", &[REVIEWS]);
    let mut last = honest.clone();
    last.epoch = u64::MAX;
    let mut proxy = Proxy::open(mesh.caller(&web).await, last).await.unwrap();
    refused(
        &proxy.next().await.unwrap_err(),
        Code::InvalidArgument,
        "epoch 18446744073709551615",
    );
    assert_eq!(mesh.status().await["epoch"], 1);
    let mut ahead = honest.clone();
    let mut ended = None;
    for _ in 0..6 {
        for held in &mut ahead.held {
            let sources = &mut held.version.as_mut().unwrap().sources;
            sources.iter_mut().for_each(|source| source.resource_version = u64::MAX);
        }
        let mut proxy = Proxy::open(mesh.caller(&web).await, ahead.clone()).await.unwrap();
        match proxy.next().await {
            Ok(batch) => ahead.epoch = batch.epoch,
            Err(status) => ended = Some(status),
        }
    }
    refused(&ended.unwrap(), Code::Unavailable, "call again");
    let epoch = mesh.status().await["epoch"].as_u64().unwrap();
    assert!(epoch <= 5, "{epoch}");
    // Others come in all the same.
    let mut proxy = Proxy::open(mesh.caller(&web).await, honest).await.unwrap();
    proxy.take().await;
}

#[tokio::test]
async fn a_lost_state_directory_is_noticed_by_its_proxies() {
    let mut mesh = Mesh::new();
    mesh.route("/v0");
    mesh.start().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[REVIEWS]))
        .await
        .unwrap();
    proxy.take().await;
    for n in 1..4 {
        mesh.route(&format!("/v{n}"));
        proxy.until(Kind::Service, "body").await;
    }
    let again = proxy.hello_again("web-1", &[REVIEWS]);
    mesh.stop().await;
    for entry in std::fs::read_dir(mesh.path("state")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    mesh.start().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, again).await.unwrap();
    proxy.take().await;
    assert_eq!(proxy.epoch, 2);
}

#[tokio::test]
async fn hello_comes_first_and_once() {
    let mesh = Mesh::running().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[])).await.unwrap();
    proxy.take().await;
    proxy.say(Message::Hello(hello("web-1", &[]))).await;
    refused(&proxy.next().await.unwrap_err(), Code::InvalidArgument, "Hello");
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[])).await.unwrap();
    proxy.take().await;
    proxy.ack(99, Vec::new()).await;
    refused(&proxy.next().await.unwrap_err(), Code::InvalidArgument, "not in flight");
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[])).await.unwrap();
    proxy.take().await;
    proxy
        .say(Message::Subscribe(Subscribe {
            targets: vec![discovery::Target { target: None }],
        }))
        .await;
    refused(&proxy.next().await.unwrap_err(), Code::InvalidArgument, "targets[0]");
}

#[tokio::test]
async fn answers_do_not_wait_for_the_pace_of_changes() {
    let mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[]).await;
    proxy.take().await;
    let started = Instant::now();
    for n in 1..=40 {
        let targets = vec![target_to_wire(&target(&format!("10.97.0.{n}:80")))];
        proxy.say(Message::Subscribe(Subscribe { targets })).await;
        proxy.until(Kind::Lookup, "body").await;
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_storm_of_changes_is_paced() {
    let mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[REVIEWS]).await;
    proxy.take().await;
    let started = Instant::now();
    let storm = async {
        for n in 0..200u64 {
            mesh.slice(&[["reviews-1", "reviews-2"][n as usize % 2]], 1000 + n);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut batches = 0;
    let count = async {
        loop {
            proxy.take().await;
            batches += 1;
        }
    };
    tokio::select! {
        () = storm => {}
        () = count => {}
    }
    let most = started.elapsed().as_millis() / 50 + 2;
    assert!(batches <= most && batches > 1, "{batches} of {most}");
}

#[tokio::test]
async fn the_control_planes_own_end_is_told() {
    let mut mesh = Mesh::running().await;
    let mut proxy = mesh.web_proxy(&[]).await;
    proxy.take().await;
    let started = Instant::now();
    let (ended, ()) = tokio::join!(proxy.next(), mesh.stop());
    refused(&ended.unwrap_err(), Code::Unavailable, "ending");
    assert!(started.elapsed() < LONG);
}

#[tokio::test]
async fn an_object_that_was_bad_before_a_restart_takes_nothing_away() {
    let mut mesh = Mesh::new();
    mesh.route("/v1");
    mesh.start().await;
    let web = mesh.web().await;
    let mut proxy = Proxy::open(mesh.caller(&web).await, hello("web-1", &[REVIEWS]))
        .await
        .unwrap();
    proxy.take().await;
    mesh.stop().await;
    let route = std::fs::read_to_string(mesh.path("user/route.yaml")).unwrap();
    mesh.manifest("route.yaml", &route.replace("PathPrefix", "PathSuffix"));
    mesh.start().await;
    let mut again = Proxy::open(mesh.caller(&web).await, proxy.hello_again("web-1", &[REVIEWS]))
        .await
        .unwrap();
    let batch = again.next().await.unwrap();
    let of_service: Vec<_> = batch
        .resources
        .iter()
        .filter(|r| r.name.as_ref().unwrap().kind == Kind::Service.to_wire() as i32)
        .collect();
    assert!(
        of_service.iter().all(|r| matches!(r.state, Some(State::Hold(_)))),
        "{of_service:?}"
    );
    assert!(
        batch
            .resources
            .iter()
            .all(|r| !matches!(r.state, Some(State::Removed(_)))),
        "{:?}",
        batch.resources
    );
    again.ack(batch.nonce, Vec::new()).await;
    // Endpoints that what is held refers to stay current.
    mesh.slice(&["reviews-2"], 200);
    assert_eq!(kinds(&again.take().await), BTreeSet::from([Kind::Endpoints]));
    // One that has nothing gets the Service without the route.
    mesh.pod("web-2", "web", "127.0.0.1", 201);
    let mut fresh = Proxy::open(mesh.caller(&web).await, hello("web-2", &[REVIEWS]))
        .await
        .unwrap();
    let changes = fresh.take().await;
    assert!(
        changes
            .iter()
            .any(|(name, what)| name.kind == Kind::Service && *what == "body"),
        "{changes:?}"
    );
    // Mended: everybody gets it.
    mesh.manifest("route.yaml", &route.replace("value: /v1", "value: /v2"));
    again.until(Kind::Service, "body").await;
    fresh.until(Kind::Service, "body").await;
}
