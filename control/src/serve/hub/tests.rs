//! What the hub puts into outboxes.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use weft_certs::bundle::TrustBundles;
use weft_model::identity::TrustDomain;
use weft_proto::resource::{self, FieldError};

use super::*;
use crate::index::{self, Settings};
use crate::objects::Object;
use crate::status::Way;

fn object(
    kind: &str,
    api_version: &str,
    name: &str,
    version: u64,
    labels: &[(&str, &str)],
    rest: &Value,
) -> Arc<Object> {
    let mut raw = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
    raw.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Arc::new(Object {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        resource_version: version,
        generation: 0,
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        annotations: Default::default(),
        raw,
        origin: None,
    })
}

fn pod(name: &str, ip: &str) -> Arc<Object> {
    let rest = json!({
        "spec": {"serviceAccountName": "web", "initContainers": [{"name": "weft-proxy"}], "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": ip},
    });
    object("Pod", "v1", name, 1, &[("app", "web")], &rest)
}

fn slice(version: u64, ips: &[&str]) -> Arc<Object> {
    let endpoint = |ip: &&str| json!({"addresses": [ip], "conditions": {"ready": true}});
    let rest = json!({
        "addressType": "IPv4",
        "endpoints": ips.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080}],
    });
    object(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        "reviews-v4",
        version,
        &[("kubernetes.io/service-name", "reviews")],
        &rest,
    )
}

fn hub(state: &std::path::Path) -> Hub {
    let trust_domain = TrustDomain::new("test.weft.internal").unwrap();
    let index = Index::new(Settings {
        trust_domain: trust_domain.clone(),
        cluster: "c".to_owned(),
        network: "c".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: vec!["10.244.0.0/16".parse().unwrap()],
        outside: Vec::new(),
    });
    let bundles = Arc::new(TrustBundles::new([]).unwrap());
    let facts = Facts {
        trust_domain,
        cluster: "c".to_owned(),
        discovery_wait: Duration::from_secs(3),
        bundles,
        network: "c".to_owned(),
        gateways: Vec::new(),
        federation_endpoints: Vec::new(),
        bundle_endpoint: None,
        control_plane: "spiffe://td/ns/weft-system/sa/weft-control".parse().unwrap(),
    };
    let mut hub = Hub::new(index, facts, Epoch::open(state).unwrap(), 3);
    let service = json!({"spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "reviews"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let service = object("Service", "v1", "reviews", 1, &[], &service);
    hub.replace(&Snapshot {
        objects: vec![pod("web-1", "10.244.0.1"), service, slice(2, &["10.244.0.9"])],
        ..Snapshot::default()
    });
    hub
}

fn join(hub: &mut Hub, targets: &[&str]) -> (ProxyId, Arc<Outlet>) {
    join_with(hub, targets, Vec::new())
}

fn join_with(hub: &mut Hub, targets: &[&str], held: Vec<(Name, Hash)>) -> (ProxyId, Arc<Outlet>) {
    let who = Who {
        subject: Subject::Pod(index::Name::new("shop", "web-1")),
        uid: "uid-web-1".to_owned(),
        build: String::new(),
        features: Vec::new(),
        since: SystemTime::UNIX_EPOCH,
        skew_ms: None,
    };
    hub.join(Join {
        who,
        epoch: 0,
        held,
        targets: targets.iter().map(|t| t.parse().unwrap()).collect(),
    })
}

fn change(hub: &mut Hub, object: Arc<Object>) {
    hub.apply(&Changes {
        upserts: vec![object],
        ..Changes::default()
    });
}

#[test]
fn a_thousand_changes_wait_as_one_for_a_proxy_that_does_not_read() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let (_, outlet) = join(&mut hub, &["10.96.0.7:80"]);
    assert_eq!(outlet.outbox().take(usize::MAX).len(), 6);
    for n in 0..1000 {
        change(&mut hub, slice(10 + n, &[&format!("10.244.1.{}", n % 200)]));
    }
    assert_eq!(outlet.outbox().waiting(), 1);
    let taken = outlet.outbox().take(usize::MAX);
    assert_eq!(taken[0].0.name.kind, Kind::Endpoints);
    assert_eq!(taken.len(), 1);
}

#[test]
fn only_those_concerned_are_woken() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let (_, outlet) = join(&mut hub, &[]);
    outlet.outbox().take(usize::MAX);
    change(&mut hub, slice(10, &["10.244.1.1"]));
    assert_eq!(outlet.outbox().waiting(), 0);
}

#[test]
fn destinations_over_the_limit_are_left_out() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let (id, _) = join(&mut hub, &["10.96.0.7:80"]);
    let target = |n: u8| Target::Address((IpAddr::from([10, 0, 0, n]), 80).into());
    assert_eq!(hub.subscribe(id, vec![target(1), target(2), target(3), target(4)]), 2);
    // One that is followed already is not one more.
    assert_eq!(hub.subscribe(id, vec![target(1)]), 0);
    hub.unsubscribe(id, &[target(1), target(2)]);
    assert_eq!(hub.subscribe(id, vec![target(3)]), 0);
}

#[test]
fn what_is_asked_for_is_answered_even_where_it_was_known() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let (id, outlet) = join(&mut hub, &["10.96.0.7:80"]);
    outlet.outbox().take(usize::MAX);
    hub.subscribe(id, vec!["10.96.0.7:80".parse().unwrap()]);
    let taken = outlet.outbox().take(usize::MAX);
    assert_eq!(
        taken.iter().map(|(sent, _)| sent.name.kind).collect::<Vec<_>>(),
        [Kind::Lookup]
    );
    // A suspicion is not a question: nothing is sent that the proxy has.
    hub.refresh(id);
    assert!(outlet.outbox().take(usize::MAX).is_empty());
}

#[test]
fn nothing_is_left_of_proxies_that_are_gone() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    for _ in 0..3 * GONE_MAX {
        let (id, _) = join(&mut hub, &["10.96.0.7:80"]);
        hub.leave(id);
    }
    assert_eq!(
        (hub.cache.entries().count(), hub.proxies.len(), hub.gone.len()),
        (0, 0, 1)
    );
}

#[test]
fn an_address_of_the_meshs_networks_is_answered_when_something_is_there_and_taken_back_when_it_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let (_, outlet) = join(&mut hub, &["10.244.5.5:80"]);
    let lookups = || {
        let taken = outlet.outbox().take(usize::MAX);
        let lookups = taken.into_iter().filter(|(sent, _)| sent.name.kind == Kind::Lookup);
        lookups.map(|(sent, _)| sent.hash.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(lookups(), Vec::<bool>::new(), "whoever calls waits");
    change(&mut hub, pod("web-2", "10.244.5.5"));
    assert_eq!(lookups(), [true]);
    hub.apply(&Changes {
        deletes: vec![pod("web-2", "10.244.5.5").reference()],
        ..Changes::default()
    });
    assert_eq!(lookups(), [false], "removed");
    change(&mut hub, pod("web-3", "10.244.5.5"));
    assert_eq!(lookups(), [true]);
}

#[test]
fn a_proxy_does_not_follow_what_it_only_says_that_it_holds() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let broken = json!({"spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": "eighty"}]}});
    let mut objects: Vec<Arc<Object>> = vec![pod("web-1", "10.244.0.1")];
    objects.push(object("Service", "v1", "bad", 1, &[], &broken));
    // As after a restart: what proxies have of the Service is held, and what that may refer to is kept for them.
    hub.index = Index::new(hub.index.settings.clone());
    hub.replace(&Snapshot {
        objects,
        ..Snapshot::default()
    });
    let name = |key: &str| Name::new(Kind::Service, key);
    let held = vec![
        (Name::new(Kind::Lookup, "10.96.0.9:80"), [1; 16]),
        (name("shop/bad:80"), [1; 16]),
        (name("shop/old:80@shop"), [1; 16]),
        (name("bank/vault:80@bank"), [1; 16]),
        (name("nonsense"), [1; 16]),
    ];
    let (id, _) = join_with(&mut hub, &["10.96.0.9:80"], held);
    let needs = &hub.proxies[&id].needs;
    assert!(needs.contains_key(&name("shop/bad:80")) && needs.contains_key(&name("shop/old:80@shop")));
    assert!(!needs.contains_key(&name("bank/vault:80@bank")) && !needs.contains_key(&name("nonsense")));
    // And no more of it than its destinations can need.
    let many = (0..1000u32).map(|n| (Name::new(Kind::Endpoints, format!("shop/s{n}:80")), [1; 16]));
    let (id, _) = join_with(&mut hub, &[], many.collect());
    assert_eq!(hub.proxies[&id].acked.len(), 3 * HELD_PER_TARGET);
}

/// The proxy takes all that waits for it, and acknowledges it.
fn acknowledge(hub: &mut Hub, id: ProxyId, outlet: &Outlet) {
    let taken = outlet.outbox().take(usize::MAX);
    let settled = taken.into_iter().map(|(sent, _)| Settled {
        name: sent.name,
        has: sent.hash,
        refused: None,
    });
    hub.settle(id, settled.collect());
}

#[test]
fn a_new_epoch_is_told_after_what_is_older_and_says_again_what_was_refused() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let (id, outlet) = join(&mut hub, &["10.96.0.7:80"]);
    acknowledge(&mut hub, id, &outlet);
    // A store was restored, and proxies refuse what is older, as the epoch is the same.
    change(&mut hub, slice(1, &["10.244.1.1"]));
    let (sent, before) = outlet.outbox().take(usize::MAX).remove(0);
    outlet.outbox().refused(&sent.name, 1, sent.hash.unwrap(), before);
    hub.begin_epoch(1).unwrap();
    assert_eq!(outlet.outbox().epoch(), 1, "what waits is not of the new one");
    hub.tell_epoch();
    let mut outbox = outlet.outbox();
    assert_eq!(outbox.epoch(), 2);
    let again: Vec<Name> = outbox.take(usize::MAX).into_iter().map(|(sent, _)| sent.name).collect();
    assert_eq!(again, [sent.name]);
}

fn route(version: u64, header: &str) -> Arc<Object> {
    let set = json!([{"name": "mark", "value": header}]);
    let filter = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}});
    let rule = json!({"filters": [filter], "backendRefs": [{"name": "reviews", "port": 80}]});
    let parent = json!({"group": "", "kind": "Service", "name": "reviews"});
    let rest = json!({"spec": {"parentRefs": [parent], "rules": [rule]}});
    object("HTTPRoute", "gateway.networking.k8s.io/v1", "r", version, &[], &rest)
}

#[test]
fn who_needs_a_route_has_it_when_it_has_acknowledged_what_was_made_of_it() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    change(&mut hub, route(20, "a"));
    let holders = |hub: &Hub| {
        let verdict = hub.verdicts().of.into_iter().find(|verdict| verdict.object.name == "r");
        let holders = verdict.expect("a verdict").holders;
        (holders.subscribers, holders.waiting.names, holders.apart.names)
    };
    let none = Vec::<String>::new;
    let web = || vec!["shop/web-1".to_owned()];
    assert_eq!(holders(&hub), (0, none(), none()));
    let (id, outlet) = join(&mut hub, &["10.96.0.7:80"]);
    assert_eq!(holders(&hub), (1, web(), none()));
    acknowledge(&mut hub, id, &outlet);
    assert_eq!(holders(&hub), (1, none(), none()));

    // What changes nothing for proxies, as a write of its status, needs no acknowledgement; an edit does.
    change(&mut hub, route(21, "a"));
    assert_eq!(holders(&hub), (1, none(), none()));
    change(&mut hub, route(22, "b"));
    assert_eq!(holders(&hub), (1, web(), none()));
    acknowledge(&mut hub, id, &outlet);
    assert_eq!(holders(&hub), (1, none(), none()));

    // Whoever is gone has what it had, until its pod is gone or it is back.
    hub.leave(id);
    assert_eq!(holders(&hub), (0, none(), none()));
    change(&mut hub, route(23, "c"));
    assert_eq!(holders(&hub), (0, none(), web()));
    let (id, _) = join(&mut hub, &["10.96.0.7:80"]);
    assert_eq!(holders(&hub), (1, web(), none()));
    hub.leave(id);
    assert_eq!(holders(&hub), (0, none(), web()), "it never had it");
    hub.apply(&Changes {
        deletes: vec![pod("web-1", "10.244.0.1").reference()],
        ..Changes::default()
    });
    assert_eq!(holders(&hub), (0, none(), none()));
}

/// The ClusterPeer of the cluster `a`, and the authority of that.
fn peer_a(hub: &mut Hub) -> weft_certs::authority::Authority {
    let trust_domain = TrustDomain::new("a.internal").unwrap();
    let authority = weft_certs::authority::Authority::create(trust_domain, SystemTime::now()).unwrap();
    let rest = json!({"metadata": {"name": "a"}, "spec": {
        "trustDomain": "a.internal", "endpoints": ["a.example:15013"],
        "trustBundle": {"sequence": 1, "roots": authority.bundle(1).to_pem()},
    }});
    let mut object = Object::clone(&object("ClusterPeer", "weft.dev/v1alpha1", "a", 1, &[], &rest));
    object.namespace = String::new();
    change(hub, Arc::new(object));
    assert!(hub.index.peer("a").is_some());
    authority
}

#[test]
fn that_a_peer_has_no_gateways_is_wrong_only_where_anything_is_imported_from_it() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    peer_a(&mut hub);
    let way = |hub: &Hub| {
        let of_peer = hub.verdicts().of.into_iter().find_map(|verdict| verdict.peer);
        of_peer.expect("it acts").way
    };
    assert_eq!(way(&hub), Some(Way::NothingImported));
    let mut object = Object::clone(&hub.index.peers["a"].object);
    object.resource_version = 2;
    object.raw["spec"]["imports"] = json!([{"namespaces": ["shop"]}]);
    change(&mut hub, Arc::new(object.clone()));
    assert_eq!(way(&hub), Some(Way::NoGateways));
    object.resource_version = 3;
    object.raw["spec"]["gateways"] = json!(["gateway.a.example:15443"]);
    change(&mut hub, Arc::new(object));
    assert_eq!(way(&hub), Some(Way::Gateways));
}

/// A process that begins with the ClusterPeer of the cluster `a`, and this status of it. `file`: it is of one.
fn begin_with_peer(status: &Value, file: bool) -> (tempfile::TempDir, Hub) {
    let state = tempfile::tempdir().unwrap();
    let mut first = hub(state.path());
    peer_a(&mut first);
    let mut object = Object::clone(&first.index.peers["a"].object);
    object.raw["status"] = status.clone();
    object.origin = file.then(|| crate::objects::Origin {
        file: "peer.yaml".into(),
        line: 1,
        lines: Arc::default(),
    });
    let mut hub = hub(state.path());
    hub.is_young = true;
    hub.replace(&Snapshot {
        objects: vec![Arc::new(object)],
        ..Snapshot::default()
    });
    (state, hub)
}

#[test]
fn when_a_peer_was_last_heard_of_is_known_from_its_status_and_not_from_a_file() {
    let ago = |seconds| crate::status::rfc3339(SystemTime::now() - Duration::from_secs(seconds));
    let link = |status: &Value, file| {
        let (_state, hub) = begin_with_peer(status, file);
        let unheard = hub.wanted().unheard.contains("a");
        hub.links.get("a").map(|link| (link.state, link.complete, unheard))
    };
    let heard = |seconds| json!({"lastHeard": ago(seconds)});
    assert_eq!(link(&heard(3600), false), Some((Link::Stale, false, true)));
    // It was away for longer than anything is kept.
    assert_eq!(link(&heard(25 * 3600), false), Some((Link::Forgotten, false, false)));
    assert_eq!(link(&heard(3600), true), None, "copied into a file");
    for nothing in [json!({}), json!({"lastHeard": "yesterday"}), json!({"lastHeard": 7})] {
        assert_eq!(link(&nothing, false), None);
    }
}

#[test]
fn whether_a_service_is_exported_is_not_known_while_its_export_is_invalid_since_before_the_process_began() {
    let export = |version, labels: &Value| {
        let rest = json!({"spec": {"exportedLabels": labels}});
        let api = "multicluster.x-k8s.io/v1beta1";
        object("ServiceExport", api, "reviews", version, &[], &rest)
    };
    let (broken, valid) = (export(1, &json!({"tier": 1})), export(2, &json!({"tier": "front"})));
    let state = tempfile::tempdir().unwrap();
    let mut begun = hub(state.path());
    begun.index = Index::new(begun.index.settings.clone());
    begun.replace(&Snapshot {
        objects: vec![broken.clone()],
        ..Snapshot::default()
    });
    let name = index::Name::new("shop", "reviews");
    assert!(begun.wanted().is_unheard("c", &name));
    assert!(!begun.wanted().is_unheard("c", &index::Name::new("shop", "ratings")));
    change(&mut begun, valid);
    assert!(!begun.wanted().is_unheard("c", &name));
    // One that came since has never been exported.
    let mut later = hub(state.path());
    change(&mut later, broken);
    assert!(!later.wanted().is_unheard("c", &name));
}

/// The sequence of the bundle of the cluster `a` that counts.
fn counts(hub: &Hub) -> u64 {
    hub.index.bundle_of(hub.index.peer("a").unwrap()).sequence()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_raises_its_bundle_all_the_time_is_heard_every_ten_seconds_and_the_newest_counts() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let authority = peer_a(&mut hub);
    let mut taken = Vec::new();
    let mut due = None;
    // A new one each 100 ms, for half a minute.
    for sequence in 2..302 {
        hub.offer("a", authority.bundle(sequence)).unwrap();
        due = hub.take_bundles(tokio::time::Instant::now());
        taken.push(counts(&hub));
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    taken.dedup();
    assert_eq!(taken, [2, 102, 202], "one in ten seconds: the newest of that time");
    // What came last is not lost, though nothing more comes.
    tokio::time::sleep_until(due.expect("there is more")).await;
    assert_eq!(hub.take_bundles(tokio::time::Instant::now()), None);
    assert_eq!(counts(&hub), 301);
}

#[test]
fn how_far_a_bundle_has_come_is_told_by_what_the_proxies_have_acknowledged() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    let authority = peer_a(&mut hub);
    let of = |sequence, proxies, acknowledged, reached| {
        Some(Trusted {
            sequence,
            proxies,
            acknowledged,
            reached,
        })
    };
    assert_eq!(hub.trusted("a"), of(1, 0, 0, 1), "nobody is behind");
    assert_eq!(hub.trusted("b"), None);
    let (id, outlet) = join(&mut hub, &[]);
    let acknowledge = |hub: &mut Hub| {
        let sent = outlet.outbox().take(usize::MAX);
        let settled = sent.into_iter().map(|(sent, _)| Settled {
            name: sent.name,
            has: sent.hash,
            refused: None,
        });
        hub.settle(id, settled.collect());
    };
    assert_eq!(hub.trusted("a"), of(1, 1, 0, 0));
    acknowledge(&mut hub);
    assert_eq!(hub.trusted("a"), of(1, 1, 1, 1));
    hub.offer("a", authority.bundle(5)).unwrap();
    assert_eq!(hub.trusted("a"), of(1, 1, 1, 1), "it does not count yet");
    hub.take_bundles(tokio::time::Instant::now());
    assert_eq!(hub.trusted("a"), of(5, 1, 0, 1));
    acknowledge(&mut hub);
    assert_eq!(hub.trusted("a"), of(5, 1, 1, 5));
    hub.leave(id);
    assert_eq!(hub.trusted("a"), of(5, 0, 0, 5));
}

/// A replica of the control plane of the cluster `a`.
fn replica(hub: &mut Hub, instance: &str) -> ProxyId {
    replica_with(hub, instance, Vec::new())
}

fn replica_with(hub: &mut Hub, instance: &str, held: Vec<(Name, Hash)>) -> ProxyId {
    let follower = Follower {
        cluster: "a".to_owned(),
        instance: instance.to_owned(),
        control_plane: "spiffe://a.internal/ns/weft-system/sa/weft-control".parse().unwrap(),
        imports: Vec::new(),
    };
    assert_eq!(hub.may_follow(&follower, held.len()), Ok(()));
    let who = Who {
        subject: Subject::Peer(Arc::new(follower)),
        uid: String::new(),
        build: String::new(),
        features: Vec::new(),
        since: SystemTime::UNIX_EPOCH,
        skew_ms: None,
    };
    let join = Join {
        who,
        epoch: 0,
        held,
        targets: Vec::new(),
    };
    hub.join(join).0
}

#[test]
fn a_peer_that_says_it_is_another_is_told_so_and_one_whose_bundle_goes_back_is_not() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    peer_a(&mut hub);
    let mut unlike = |field: &str| {
        // However much of it is refused.
        let refused = |n: u32| {
            (
                resource::Name::new(Kind::Exported, format!("shop/s{n}:80")),
                FieldError::new("endpoints", "x"),
            )
        };
        hub.hear("a", Vec::new(), &(0..100).map(refused).collect::<Vec<_>>());
        let error = FieldError::new(field, "is \"b\", and the ClusterPeer is \"a\"");
        hub.hear(
            "a",
            Vec::new(),
            &[(resource::Name::new(Kind::Cluster, "cluster"), error)],
        );
        let verdict = hub.verdicts().of.into_iter().find_map(|verdict| verdict.peer);
        hub.faults.clear();
        verdict.expect("it acts").unlike
    };
    assert_eq!(unlike("bundle.sequence"), None);
    assert_eq!(
        unlike("name").as_deref(),
        Some("name is \"b\", and the ClusterPeer is \"a\"")
    );
}

#[test]
fn of_very_many_refusals_the_first_are_kept_whole() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    peer_a(&mut hub);
    let id = replica(&mut hub, "1");
    let name = |n: usize| Name::new(Kind::Export, format!("shop/s{n}"));
    let refused = |n: usize| Settled {
        name: name(n),
        has: None,
        refused: Some(([0; 16], "é".repeat(512), "é".repeat(512))),
    };
    // Again, it is no more.
    for _ in 0..2 {
        let needs = (0..100).map(|n| (name(n), Item::referred(&name(n)).unwrap()));
        hub.proxies.get_mut(&id).unwrap().needs.extend(needs);
        // And of what it does not need nothing is kept.
        hub.settle(id, (0..200).map(refused).collect());
        let kept = hub.proxies[&id].refusals.values();
        let kept: Vec<usize> = kept.map(|one| one.reason.len() + one.field.len()).collect();
        assert_eq!(kept.len(), 100);
        assert_eq!(kept.iter().filter(|length| **length == 2048).count(), 64);
        assert_eq!(kept.iter().filter(|length| **length == 2 * (64 + 3)).count(), 36);
    }
}

#[test]
fn of_what_a_peer_holds_and_is_not_told_nothing_is_kept_but_that_it_is_to_go() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    peer_a(&mut hub);
    let held = |n: u32| {
        let other = (0..n).map(|n| (Name::new(Kind::Exported, format!("x/s{n}:80")), [1; 16]));
        let own = (Name::new(Kind::Cluster, "cluster"), [1; 16]);
        other.chain([own]).collect::<Vec<_>>()
    };
    let first = replica_with(&mut hub, "1", held(100_000));
    let one = &hub.proxies[&first];
    assert_eq!(one.outlet.outbox().removals(), 100_000);
    assert!(one.acked.len() <= 1 && one.inherited.len() <= 1);
    let other = Follower {
        cluster: "a".to_owned(),
        instance: "2".to_owned(),
        control_plane: "spiffe://a.internal/ns/weft-system/sa/weft-control".parse().unwrap(),
        imports: Vec::new(),
    };
    assert_eq!(hub.may_follow(&other, 100_000), Ok(()));
    assert_eq!(hub.may_follow(&other, 100_001), Err(Unwelcome::Laden(100_000)));
    // A batch of them goes at a time, and then there is room.
    let outlet = one.outlet.clone();
    while outlet.outbox().waiting() > 0 {
        assert!(!outlet.outbox().take(1 << 20).is_empty());
    }
    assert_eq!(hub.may_follow(&other, 100_001), Ok(()));
}

#[test]
fn our_bundle_has_come_as_far_as_the_last_of_a_peers_replicas_says() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    peer_a(&mut hub);
    let said = |acknowledged, reached| Trusted {
        sequence: 3,
        proxies: 2,
        acknowledged,
        reached,
    };
    assert_eq!(
        (hub.trusted_by("a"), hub.trusted_everywhere()),
        (None, 0),
        "nobody has said"
    );
    let (one, other) = (replica(&mut hub, "one"), replica(&mut hub, "other"));
    hub.hear_trusted(one, said(2, 3));
    assert_eq!(hub.trusted_by("a"), None, "one has not said");
    hub.hear_trusted(other, said(1, 2));
    let want = Trusted {
        sequence: 3,
        proxies: 4,
        acknowledged: 3,
        reached: 2,
    };
    assert_eq!(hub.trusted_by("a"), Some(want));
    hub.leave(one);
    hub.leave(other);
    assert_eq!(hub.trusted_by("a"), None, "what was said counts as long as the link");
}

#[test]
fn who_may_follow_is_decided_when_it_joins() {
    let state = tempfile::tempdir().unwrap();
    let mut hub = hub(state.path());
    peer_a(&mut hub);
    let follower = |instance: &str, domain: &str| Follower {
        cluster: "a".to_owned(),
        instance: instance.to_owned(),
        control_plane: format!("spiffe://{domain}/ns/weft-system/sa/weft-control")
            .parse()
            .unwrap(),
        imports: Vec::new(),
    };
    for n in 0..16 {
        replica(&mut hub, &n.to_string());
    }
    assert_eq!(
        hub.may_follow(&follower("more", "a.internal"), 0),
        Err(Unwelcome::Crowded(16))
    );
    assert_eq!(
        hub.may_follow(&follower("3", "a.internal"), 0),
        Ok(()),
        "in its own place"
    );
    assert_eq!(
        hub.may_follow(&follower("3", "b.internal"), 0),
        Err(Unwelcome::Stranger)
    );
    let gone = crate::index::Index::new(hub.index.settings.clone());
    hub.index = gone;
    assert_eq!(
        hub.may_follow(&follower("3", "a.internal"), 0),
        Err(Unwelcome::Stranger)
    );
}

#[test]
fn what_is_shared_is_shared_after_a_restart_too_though_its_object_is_invalid_by_then() {
    let kept = tempfile::tempdir().unwrap();
    let export = |version, labels: &Value| {
        let rest = json!({"spec": {"exportedLabels": labels}});
        object(
            "ServiceExport",
            "multicluster.x-k8s.io/v1beta1",
            "reviews",
            version,
            &[],
            &rest,
        )
    };
    let begin = |export: &Arc<Object>| {
        let state = tempfile::tempdir().unwrap();
        let mut hub = hub(state.path()).remembering(kept.path());
        let service = hub.index.services[&index::Name::new("shop", "reviews")].object.clone();
        hub.is_young = true;
        hub.replace(&Snapshot {
            objects: vec![service, export.clone()],
            ..Snapshot::default()
        });
        hub
    };
    let tier = |hub: &Hub| {
        let export = hub.index.export(&index::Name::new("shop", "reviews"));
        export.map(|export| export.labels["tier"].clone())
    };
    let (broken, valid) = (export(9, &json!({"tier": 1})), export(1, &json!({"tier": "front"})));
    assert_eq!(tier(&begin(&broken)), None, "it was never valid");
    let mut first = begin(&valid);
    let of = |object: &Arc<Object>| Changes {
        upserts: vec![object.clone()],
        ..Changes::default()
    };
    first.apply(&of(&export(2, &json!({"tier": "back"}))));
    first.apply(&of(&broken));
    assert_eq!(tier(&begin(&broken)).as_deref(), Some("back"));
    // What is deleted is not remembered.
    let mut second = begin(&broken);
    second.apply(&Changes {
        deletes: vec![broken.reference()],
        ..Changes::default()
    });
    assert_eq!(tier(&begin(&broken)), None);
}
