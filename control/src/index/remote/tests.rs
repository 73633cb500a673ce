//! What a peer may say, and what comes of what it may not.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use weft_certs::authority::Authority;
use weft_model::endpoint::{Endpoint, EndpointId, EndpointKey, Place};
use weft_model::identity::TrustDomain;
use weft_model::version::{Source, Version};
use weft_proto::resource::bundles::TrustRoots;
use weft_proto::resource::federation::{ExportedEndpoint, ExportedPort};
use weft_proto::resource::name::CLUSTER;

use super::*;
use crate::index::{Own, Settings};
use crate::manifests::{Changes, Snapshot};

fn object(kind: &str, name: &str, rest: &Value) -> Arc<Object> {
    let mut raw = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}});
    raw.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    Arc::new(Object {
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        namespace: if kind == "ClusterPeer" || kind == "Node" {
            String::new()
        } else {
            "shop".to_owned()
        },
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        resource_version: 1,
        generation: 0,
        labels: raw
            .pointer("/metadata/labels")
            .map(|all| serde_json::from_value(all.clone()).unwrap())
            .unwrap_or_default(),
        annotations: BTreeMap::new(),
        raw,
        origin: None,
    })
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

struct World {
    index: Index,
    authority: Authority,
}

/// A cluster `b` that imports from the cluster `a` what is of the namespace shop, with the label `team: x`.
fn world(network: &str) -> World {
    let mut index = Index::new(Settings {
        trust_domain: domain("b"),
        cluster: "b".to_owned(),
        network: "wire".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: vec!["10.96.0.0/16".parse().unwrap()],
        outside: Vec::new(),
    });
    let authority = Authority::create(domain("a"), SystemTime::now()).unwrap();
    let peer = json!({"apiVersion": "weft.dev/v1alpha1", "spec": {
        "trustDomain": "a",
        "trustBundle": {"sequence": 5, "roots": authority.bundle(5).to_pem()},
        "endpoints": ["a.example:15013"],
        "network": network,
        "imports": [{"namespaces": ["shop"], "labels": {"team": "x"}}],
    }});
    let node = json!({"spec": {"podCIDR": "10.244.0.0/24"}, "status": {"addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"}]}});
    let pod = json!({"spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running", "podIP": "10.1.0.5"}});
    let slice = json!({"metadata": {"name": "kubernetes", "namespace": "shop", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}],
        "endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": true}}]});
    index.replace(&Snapshot {
        objects: vec![
            object("ClusterPeer", "a", &peer),
            object("Node", "node-1", &node),
            object("Pod", "web-1", &pod),
            object("EndpointSlice", "kubernetes", &slice),
        ],
        ..Snapshot::default()
    });
    assert!(index.peer("a").is_some());
    World { index, authority }
}

fn export(name: &str) -> Export {
    Export {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        headless: false,
        ports: vec![ExportedPort {
            name: "http".to_owned(),
            port: 80,
            app_protocol: String::new(),
            protocol: weft_model::destination::Protocol::Http,
            transport: weft_proto::resource::federation::Transport::Tcp,
        }],
        created_ms: 1,
        affinity_seconds: None,
        ip_families: Vec::new(),
        internal_traffic_policy: String::new(),
        traffic_distribution: String::new(),
        labels: BTreeMap::from([("team".to_owned(), "x".to_owned())]),
        annotations: BTreeMap::new(),
    }
}

fn endpoint(ip: &str) -> ExportedEndpoint {
    ExportedEndpoint {
        endpoint: Endpoint {
            key: EndpointKey {
                id: EndpointId(7),
                port: 8080,
            },
            address: format!("{ip}:8080").parse().unwrap(),
            identity: Some("spiffe://a/ns/shop/sa/reviews".parse().unwrap()),
            namespace: "shop".to_owned(),
            pod: "reviews-1".to_owned(),
            workload: "reviews".to_owned(),
            version: "v1".to_owned(),
            place: Place {
                region: "eu".to_owned(),
                zone: "eu-1".to_owned(),
                cluster: "a".to_owned(),
            },
            draining: false,
            gateways: None,
            source: Source {
                object: "Pod shop/reviews-1".to_owned(),
                uid: "u".to_owned(),
                resource_version: 1,
            },
        },
        hostname: String::new(),
        labels: BTreeMap::new(),
    }
}

fn behind(endpoints: Vec<ExportedEndpoint>) -> Exported {
    Exported {
        namespace: "shop".to_owned(),
        service: "reviews".to_owned(),
        port: 80,
        endpoints,
    }
}

fn cluster(world: &World, sequence: u64) -> Cluster {
    let roots = world.authority.bundle(sequence);
    Cluster {
        name: "a".to_owned(),
        network: "wire".to_owned(),
        gateways: Vec::new(),
        pod_networks: Vec::new(),
        bundle: TrustRoots {
            trust_domain: domain("a"),
            roots: roots.roots().iter().map(|root| root.to_vec().into()).collect(),
            sequence,
        },
    }
}

fn update(kind: Kind, key: &str, body: Body) -> Update {
    Update {
        name: resource::Name::new(kind, key),
        version: Version {
            hash: [1; 16],
            sources: Vec::new(),
        },
        change: Change::Body(Box::new(body)),
    }
}

fn of_export(said: Export) -> Update {
    update(
        Kind::Export,
        &format!("{}/{}", said.namespace, said.name),
        Body::Export(said),
    )
}

fn of_exported(said: Exported) -> Update {
    let key = format!("{}/{}:{}", said.namespace, said.service, said.port);
    update(Kind::Exported, &key, Body::Exported(said))
}

fn of_cluster(said: Cluster) -> Update {
    update(Kind::Cluster, CLUSTER, Body::Cluster(said))
}

#[test]
fn what_is_the_peers_own_and_imported_is_taken_whatever_comes_first() {
    let mut world = world("wire");
    let said = vec![
        of_exported(behind(vec![endpoint("10.245.0.1")])),
        of_export(export("reviews")),
        of_cluster(cluster(&world, 6)),
    ];
    let (refused, changed) = world.index.hear("a", said);
    assert!(refused.is_empty(), "{refused:?}");
    let topics = [
        Topic::Endpoints(Name::new("shop", "reviews")),
        Topic::Address("10.245.0.1".parse().unwrap()),
    ];
    assert!(topics.iter().all(|topic| changed.topics.contains(topic)), "{changed:?}");
    let (_, peer, remote) = world.index.heard_of("a").unwrap();
    assert_eq!((remote.exports.len(), remote.endpoints(), remote.held.len()), (1, 1, 3));
    assert_eq!(
        world.index.bundle_of(peer).sequence(),
        5,
        "the newer one is to be taken"
    );
    assert_eq!(world.index.offers(), ["a"]);
    assert_eq!(
        world.index.take_offer("a").topics.into_iter().collect::<Vec<_>>(),
        [Topic::Peers]
    );
    let peer = world.index.peer("a").unwrap();
    assert_eq!(world.index.bundle_of(peer).sequence(), 6);
    assert_eq!(world.index.remotes_at("10.245.0.1".parse().unwrap()).count(), 1);

    let changed = world.index.forget("a");
    assert!(topics.iter().all(|topic| changed.topics.contains(topic)), "{changed:?}");
    let (_, peer, remote) = world.index.heard_of("a").unwrap();
    assert_eq!((remote.exports.len(), remote.endpoints(), remote.held.len()), (0, 0, 0));
    assert!(world.index.remote_addresses().next().is_none());
    assert_eq!(world.index.bundle_of(peer).sequence(), 6, "who it is stays");
}

#[test]
fn what_only_gateways_dialled_is_judged_when_networks_become_one() {
    let mut world = world("elsewhere");
    let said = vec![
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.1.0.5"), endpoint("10.245.0.1")])),
    ];
    assert!(world.index.hear("a", said).0.is_empty());
    let (object, _, _) = world.index.heard_of("a").unwrap();
    let mut flat = Object::clone(object);
    flat.raw["spec"]["network"] = json!("wire");
    world.index.apply(&crate::manifests::Changes {
        upserts: vec![Arc::new(flat)],
        ..Default::default()
    });
    let (_, _, remote) = world.index.heard_of("a").unwrap();
    assert_eq!(remote.endpoints(), 1, "one of the addresses is one of ours");
    let name = resource::Name::new(Kind::Exported, "shop/reviews:80");
    assert_eq!(remote.held[&name], [0; 16], "so the peer says it again");
    let other: Vec<IpAddr> = world.index.remote_addresses().collect();
    assert_eq!(other, ["10.245.0.1".parse::<IpAddr>().unwrap()]);
}

/// What the peer says of itself, with these networks of its pods.
fn in_networks(world: &World, networks: &[&str]) -> Update {
    of_cluster(Cluster {
        pod_networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
        ..cluster(world, 6)
    })
}

#[test]
fn of_a_peer_whose_networks_overlap_with_ours_in_one_network_no_endpoint_is_dialled() {
    let mut world = world("wire");
    let dialled = |world: &World| {
        world
            .index
            .remote_addresses()
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>()
    };
    let reviews = Topic::Endpoints(Name::new("shop", "reviews"));
    let address = Topic::Address("10.245.0.1".parse().unwrap());
    let said = vec![
        in_networks(&world, &["10.245.0.0/16", "10.244.0.0/16"]),
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.245.0.1"), endpoint("10.244.0.9")])),
    ];
    let (refused, _) = world.index.hear("a", said);
    assert!(
        refused.is_empty(),
        "all of it is refused, and not each alone: {refused:?}"
    );
    let (_, peer, remote) = world.index.heard_of("a").unwrap();
    assert!(!world.index.dials(peer, remote));
    assert_eq!(remote.overlaps, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(dialled(&world), [""; 0], "nor one at an address that is none of ours");

    // Once they overlap no more, what is theirs alone is dialled, and each address is judged for itself again.
    let (_, changed) = world.index.hear("a", vec![in_networks(&world, &["10.245.0.0/16"])]);
    assert!(
        changed.topics.contains(&reviews) && changed.topics.contains(&address),
        "{changed:?}"
    );
    assert_eq!(dialled(&world), ["10.245.0.1"]);

    // A node of ours with such pods comes later: it counts all the same, and so does its end.
    let node = object("Node", "node-2", &json!({"spec": {"podCIDRs": ["10.245.0.0/24"]}}));
    let mut changed = Changed::default();
    world.index.upsert(&node, &mut changed);
    assert!(
        changed.topics.contains(&reviews) && changed.topics.contains(&Topic::PodNetworks),
        "{changed:?}"
    );
    assert_eq!(dialled(&world), [""; 0]);
    let mut changed = Changed::default();
    world.index.delete(&node.reference(), &mut changed);
    assert!(changed.topics.contains(&reviews), "{changed:?}");
    assert_eq!(dialled(&world), ["10.245.0.1"]);
}

#[test]
fn networks_that_overlap_are_no_matter_where_gateways_are_between() {
    let mut world = world("other");
    let said = in_networks(&world, &["10.244.0.0/16"]);
    world.index.hear("a", vec![said]);
    assert!(world.index.heard_of("a").unwrap().2.overlaps.is_empty());
}

#[test]
fn where_no_node_says_where_pods_are_addresses_are_judged_one_by_one() {
    let mut world = world("wire");
    let nameless = object("Node", "node-1", &json!({}));
    world.index.upsert(&nameless, &mut Changed::default());
    assert_eq!(world.index.pod_networks(), []);
    let said = vec![
        in_networks(&world, &["10.1.0.0/16"]),
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.1.0.5"), endpoint("10.1.0.6")])),
    ];
    let (refused, _) = world.index.hear("a", said);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].1.reason.contains("10.1.0.5"), "{refused:?}");
    let dialled: Vec<String> = world.index.remote_addresses().map(|ip| ip.to_string()).collect();
    assert_eq!(dialled, ["10.1.0.6"]);
}

#[test]
fn the_address_of_one_peers_pod_is_no_other_ones() {
    let mut world = world("wire");
    let of_a = vec![
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.245.0.1")])),
    ];
    assert!(world.index.hear("a", of_a).0.is_empty());
    let roots = Authority::create(domain("c"), SystemTime::now()).unwrap().bundle(1);
    let (object, _, _) = world.index.heard_of("a").unwrap();
    let mut peer = Object::clone(object);
    (peer.name, peer.uid) = ("c".to_owned(), "uid-c".to_owned());
    peer.raw["spec"]["trustDomain"] = "c".into();
    peer.raw["spec"]["trustBundle"] = json!({"sequence": 1, "roots": roots.to_pem()});
    world.index.apply(&crate::manifests::Changes {
        upserts: vec![Arc::new(peer)],
        ..Default::default()
    });
    let of_c = || {
        let mut same = endpoint("10.245.0.1");
        same.endpoint.identity = Some("spiffe://c/ns/shop/sa/reviews".parse().unwrap());
        same.endpoint.place.cluster = "c".to_owned();
        vec![of_export(export("reviews")), of_exported(behind(vec![same]))]
    };
    let (refused, _) = world.index.hear("c", of_c());
    assert!(refused[0].1.to_string().contains("a pod of a"), "{refused:?}");
    assert_eq!(world.index.heard_of("c").unwrap().2.endpoints(), 0);
    world.index.forget("a");
    assert!(world.index.hear("c", of_c()).0.is_empty());
}

#[test]
fn a_peer_takes_no_more_room_than_it_has() {
    let mut world = world("wire");
    let long = |n: u32| {
        let value = |k: u32| (format!("k{k}"), "x".repeat(4000));
        Export {
            annotations: (0..64).map(value).collect(),
            ..export(&format!("s{n}"))
        }
    };
    let (refused, _) = world.index.hear("a", (0..300).map(|n| of_export(long(n))).collect());
    let (_, _, remote) = world.index.heard_of("a").unwrap();
    assert!(!refused.is_empty() && remote.exports.len() + refused.len() == 300);
    // What goes makes room.
    let gone = |n: u32| Update {
        name: resource::Name::new(Kind::Export, format!("shop/s{n}")),
        version: Version::default(),
        change: Change::Removed,
    };
    let (refused, _) = world.index.hear("a", vec![of_export(long(299)), gone(0)]);
    assert!(refused.is_empty(), "{refused:?}");
}

/// What a peer says beside an export of reviews, and the field that it is refused for.
#[track_caller]
fn refused(network: &str, said: impl FnOnce(&World) -> Update, field: &str) {
    let mut world = world(network);
    let said = said(&world);
    let name = said.name.clone();
    let (refused, _) = world.index.hear("a", vec![of_export(export("reviews")), said]);
    let of: Vec<_> = refused
        .iter()
        .map(|(name, error)| (name, error.field.as_str()))
        .collect();
    assert_eq!(of, [(&name, field)], "{refused:?}");
    let (_, _, remote) = world.index.heard_of("a").unwrap();
    assert!(!remote.held.contains_key(&name) && remote.endpoints() == 0);
    assert!(world.index.remote_addresses().next().is_none());
}

/// An endpoint between two others is refused for this field, and the others count.
#[track_caller]
fn refused_endpoint(change: impl FnOnce(&mut ExportedEndpoint), field: &str) {
    let mut wrong = endpoint("10.245.0.2");
    change(&mut wrong);
    let mut world = world("wire");
    let all = vec![endpoint("10.245.0.1"), wrong, endpoint("10.245.0.3")];
    let said = vec![of_export(export("reviews")), of_exported(behind(all))];
    let (refused, _) = world.index.hear("a", said);
    let fields: Vec<&str> = refused.iter().map(|(_, error)| error.field.as_str()).collect();
    assert_eq!(fields, [format!("endpoints[1].endpoint.{field}")], "{refused:?}");
    let (_, _, remote) = world.index.heard_of("a").unwrap();
    assert_eq!(remote.endpoints(), 2);
    let dialled: Vec<String> = world.index.remote_addresses().map(|ip| ip.to_string()).collect();
    assert_eq!(dialled, ["10.245.0.1", "10.245.0.3"]);
}

#[test]
fn what_is_refused_in_part_is_said_again_and_taken_up_once_it_is_allowed() {
    let mut world = world("wire");
    let said = || {
        of_exported(behind(vec![
            endpoint("10.1.0.5"),
            endpoint("10.245.0.1"),
            endpoint("10.1.0.5"),
        ]))
    };
    let (refused, _) = world.index.hear("a", vec![of_export(export("reviews")), said()]);
    let [(name, error)] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(error.field, "endpoints[0].endpoint.ip");
    assert!(
        error.reason.ends_with("; and one more endpoint is refused"),
        "{}",
        error.reason
    );
    let held = |world: &World| world.index.heard_of("a").unwrap().2.held[name];
    assert_eq!(held(&world), [0; 16], "no version that the peer could have");
    // It is among what is kept for the next process all the same.
    assert_eq!(world.index.said("a").len(), 2);
    world.index.apply(&crate::manifests::Changes {
        deletes: vec![object("Pod", "web-1", &json!({})).reference()],
        ..Default::default()
    });
    assert!(world.index.hear("a", vec![said()]).0.is_empty());
    assert_eq!(
        (held(&world), world.index.heard_of("a").unwrap().2.endpoints()),
        ([1; 16], 3)
    );
}

#[test]
fn endpoints_that_are_not_the_peers_own_are_refused() {
    refused_endpoint(|one| one.endpoint.identity = None, "identity");
    let identities = [
        "spiffe://b/ns/shop/sa/reviews",
        "spiffe://c/ns/shop/sa/reviews",
        "spiffe://a.b/ns/shop/sa/reviews",
    ];
    for identity in identities {
        refused_endpoint(
            |one| one.endpoint.identity = Some(identity.parse().unwrap()),
            "identity",
        );
    }
    let other = "spiffe://a/ns/weft-system/sa/weft-control";
    refused_endpoint(|one| one.endpoint.identity = Some(other.parse().unwrap()), "namespace");
    refused_endpoint(|one| one.endpoint.namespace = "other".to_owned(), "namespace");
    for cluster in ["b", "c", ""] {
        refused_endpoint(|one| one.endpoint.place.cluster = cluster.to_owned(), "cluster");
    }
}

#[test]
fn endpoints_at_addresses_of_our_own_or_of_a_machine_itself_are_refused() {
    for ip in [
        "127.0.0.1",
        "127.1.2.3",
        "169.254.169.254",
        "0.1.2.3",
        "255.255.255.255",
        "[::1]",
        "[fe80::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.1.1]",
    ] {
        refused_endpoint(|one| one.endpoint.address = format!("{ip}:8080").parse().unwrap(), "ip");
        let mut wrong = endpoint("10.245.0.2");
        wrong.endpoint.address = format!("{ip}:8080").parse().unwrap();
        let mut world = world("elsewhere");
        let said = vec![of_export(export("reviews")), of_exported(behind(vec![wrong]))];
        let (refused, _) = world.index.hear("a", said);
        assert_eq!(refused[0].1.field, "endpoints[0].endpoint.ip");
        assert_eq!(world.index.heard_of("a").unwrap().2.endpoints(), 0);
    }
    // A Service's, one of a node's pods, a pod of ours, a node, the API server.
    for ip in [
        "10.96.0.1",
        "10.244.0.77",
        "10.1.0.5",
        "192.0.2.1",
        "192.0.2.9",
        "[::ffff:10.1.0.5]",
    ] {
        refused_endpoint(|one| one.endpoint.address = format!("{ip}:8080").parse().unwrap(), "ip");
    }
}

#[test]
fn endpoints_at_addresses_by_which_others_reach_this_cluster_are_refused_for_as_long_as_they_are() {
    let balanced = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalIPs": ["198.51.100.1"],
        "ports": [{"port": 443}]}, "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.2"}, {"hostname": "lb.example"}]}}});
    let reached = ["198.51.100.3:15443", "[2001:db8::7]:15013", "gateway.example:15443"].map(str::to_owned);
    let apply = |world: &mut World, changes: Changes| drop(world.index.apply(&changes));
    let mut world = world("wire");
    world.index = world.index.owning(Own::new("weft-system", reached.iter()));
    let service = object("Service", "gateway", &balanced);
    let upserts = vec![service.clone()];
    apply(
        &mut world,
        Changes {
            upserts,
            ..Changes::default()
        },
    );
    let is_refused = |world: &mut World, ip: &str| {
        let mut one = endpoint("10.245.0.2");
        one.endpoint.address = format!("{ip}:8080").parse().unwrap();
        let said = vec![of_export(export("reviews")), of_exported(behind(vec![one]))];
        let (refused, _) = world.index.hear("a", said);
        refused
            .iter()
            .any(|(_, error)| error.reason.contains("others reach this cluster"))
    };
    for ip in [
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.3",
        "[2001:db8::7]",
        "[::ffff:198.51.100.3]",
    ] {
        assert!(is_refused(&mut world, ip), "{ip}");
    }
    assert!(!is_refused(&mut world, "198.51.100.4"));

    apply(
        &mut world,
        Changes {
            deletes: vec![service.reference()],
            ..Changes::default()
        },
    );
    assert!(!is_refused(&mut world, "198.51.100.2") && is_refused(&mut world, "198.51.100.3"));
}

#[test]
fn the_namespace_of_the_control_plane_is_shared_by_no_cluster_whatever_it_is_called() {
    let into = |namespace: &str, world: &mut World| {
        let said = Export {
            namespace: namespace.to_owned(),
            ..export("web")
        };
        world.index.hear("a", vec![of_export(said)]).0.len()
    };
    let mut world = world("wire");
    assert_eq!(into("shop", &mut world), 0);
    world.index = world.index.owning(Own::new("shop", std::iter::empty()));
    assert_eq!(into("shop", &mut world), 1);
    assert_eq!(into("weft-system", &mut world), 1, "it may be the peer's");
}

#[test]
fn an_address_that_only_a_gateway_dials_may_be_one_of_ours() {
    let mut world = world("elsewhere");
    let said = vec![
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.1.0.5")])),
    ];
    let (refused, _) = world.index.hear("a", said);
    assert!(refused.is_empty(), "{refused:?}");
    assert!(world.index.remote_addresses().next().is_none(), "nobody here dials it");
}

#[test]
fn services_that_are_not_imported_or_not_what_they_are_called_are_refused() {
    let named = |name: &str, namespace: &str| Export {
        namespace: namespace.to_owned(),
        ..export(name)
    };
    refused("wire", |_| of_export(named("reviews", "kube-system")), "namespace");
    let unlabelled = Export {
        labels: BTreeMap::new(),
        ..export("ratings")
    };
    refused("wire", |_| of_export(unlabelled), "namespace");
    for system in ["kube-system", "kube-public", "weft-system"] {
        refused("wire", |_| of_export(named("dns", system)), "namespace");
    }
    refused(
        "wire",
        |_| update(Kind::Export, "shop/ratings", Body::Export(export("other"))),
        "name",
    );
    // It would stand where the address of another import leads.
    refused("wire", |_| of_export(export("weft-import-c1c97e5699")), "name");
    let of = |service: &str, port| Exported {
        service: service.to_owned(),
        port,
        ..behind(Vec::new())
    };
    refused("wire", |_| of_exported(of("ratings", 80)), "namespace");
    refused("wire", |_| of_exported(of("reviews", 81)), "port");
    let other = update(Kind::Exported, "shop/reviews:80", Body::Exported(of("ratings", 80)));
    refused("wire", |_| other, "service");
}

#[test]
fn a_service_whose_labels_end_its_import_loses_its_endpoints() {
    let mut world = world("wire");
    let said = vec![
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.245.0.1")])),
    ];
    assert!(world.index.hear("a", said).0.is_empty());
    let unlabelled = Export {
        labels: BTreeMap::new(),
        ..export("reviews")
    };
    let (refused, _) = world.index.hear("a", vec![of_export(unlabelled)]);
    assert_eq!(refused.len(), 1);
    let (_, peer, remote) = world.index.heard_of("a").unwrap();
    assert!(remote.export_of(peer, &Name::new("shop", "reviews")).is_none());
}

#[test]
fn what_is_not_for_a_peer_to_say_is_refused() {
    let bundles = |world: &World| update(Kind::Bundles, "bundles", Body::Bundles(vec![cluster(world, 9).bundle]));
    refused("wire", bundles, "name.kind");
    let set = weft_model::endpoint::EndpointSet {
        namespace: "shop".to_owned(),
        service: "reviews".to_owned(),
        port: 80,
        subset: String::new(),
        endpoints: Vec::new(),
    };
    refused(
        "wire",
        |_| update(Kind::Endpoints, "shop/reviews:80", Body::Endpoints(set)),
        "name.kind",
    );
}

#[test]
fn a_bundle_is_of_the_peers_own_trust_domain_and_never_goes_back() {
    let of = |change: fn(&mut Cluster, &World)| {
        move |world: &World| {
            let mut said = cluster(world, 6);
            change(&mut said, world);
            of_cluster(said)
        }
    };
    refused("wire", of(|said, _| said.name = "b".to_owned()), "name");
    refused(
        "wire",
        of(|said, _| said.bundle.trust_domain = domain("b")),
        "trust_domain",
    );
    refused(
        "wire",
        of(|said, _| said.bundle.trust_domain = domain("c")),
        "trust_domain",
    );
    refused(
        "wire",
        of(|said, _| said.bundle.roots = vec![vec![1, 2, 3].into()]),
        "bundle.roots",
    );
    refused("wire", of(|said, _| said.bundle.sequence = 4), "bundle.sequence");
    let another = |said: &mut Cluster, _: &World| {
        let other = Authority::create(domain("a"), SystemTime::now()).unwrap();
        said.bundle.roots = vec![other.root().to_vec().into()];
        said.bundle.sequence = 5;
    };
    refused("wire", of(another), "bundle.sequence");
    // Nor behind what the channel itself has said.
    let mut world = world("wire");
    let newer = of_cluster(cluster(&world, 9));
    assert!(world.index.hear("a", vec![newer]).0.is_empty());
    let older = of_cluster(cluster(&world, 8));
    let (refused, _) = world.index.hear("a", vec![older.clone()]);
    assert_eq!(
        refused[0].1.field, "bundle.sequence",
        "it waits, and is the newest all the same"
    );
    world.index.take_offer("a");
    let (refused, _) = world.index.hear("a", vec![older]);
    assert_eq!(refused[0].1.field, "bundle.sequence");
    let (_, peer, _) = world.index.heard_of("a").unwrap();
    assert_eq!(world.index.bundle_of(peer).sequence(), 9);
}

#[test]
fn a_bundle_that_is_shown_elsewhere_is_judged_like_that_of_the_link() {
    let mut world = world("wire");
    let other = Authority::create(domain("a"), SystemTime::now()).unwrap();
    let of = |world: &World, sequence| world.authority.bundle(sequence);
    assert_eq!(world.index.offer("a", of(&world, 5)), Ok(false), "the same again");
    let field = |judged: Result<bool, FieldError>| judged.unwrap_err().field;
    assert_eq!(field(world.index.offer("a", other.bundle(5))), "bundle.sequence");
    assert_eq!(field(world.index.offer("a", of(&world, 4))), "bundle.sequence");
    assert!(world.index.offers().is_empty());
    assert_eq!(world.index.offer("a", of(&world, 6)), Ok(true));
    assert_eq!(world.index.offer("a", other.bundle(7)), Ok(true), "the newest is left");
    assert_eq!(field(world.index.offer("a", of(&world, 6))), "bundle.sequence");
    world.index.take_offer("a");
    let peer = world.index.peer("a").unwrap();
    assert_eq!(world.index.bundle_of(peer), &other.bundle(7));
    assert_eq!(field(world.index.offer("z", of(&world, 8))), "");
}

#[test]
fn another_object_of_the_same_name_is_another_peer() {
    let mut world = world("wire");
    world.index.hear("a", vec![of_cluster(cluster(&world, 6))]);
    world.index.take_offer("a");
    let (object, ..) = world.index.heard_of("a").unwrap();
    let mut again = Object::clone(object);
    again.resource_version += 1;
    let upsert = |again: &Object| crate::manifests::Changes {
        upserts: vec![Arc::new(again.clone())],
        ..Default::default()
    };
    world.index.apply(&upsert(&again));
    assert!(world.index.heard_of("a").is_some(), "the same one, changed");
    again.uid = "another".to_owned();
    world.index.apply(&upsert(&again));
    assert!(world.index.heard_of("a").is_none());
    let peer = world.index.peer("a").unwrap();
    assert_eq!(world.index.bundle_of(peer).sequence(), 5, "what its object says");
}

#[test]
fn more_than_the_limits_is_refused_and_takes_no_room() {
    let mut world = world("wire");
    let many = (0..10_001).map(|n| of_export(export(&format!("s{n}"))));
    let (refused, _) = world.index.hear("a", many.collect());
    assert_eq!(refused.len(), 1);
    assert_eq!(world.index.heard_of("a").unwrap().2.exports.len(), 10_000);

    let mut world = self::world("wire");
    let each = |n: u32| {
        let mut one = endpoint(&std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).to_string());
        one.endpoint.key.id = EndpointId(u64::from(n));
        one
    };
    for service in 0..8_u32 {
        let name = format!("s{service}");
        let said = Exported {
            service: name.clone(),
            ..behind((0..16_000).map(|n| each(service * 16_000 + n)).collect())
        };
        let (refused, _) = world.index.hear("a", vec![of_export(export(&name)), of_exported(said)]);
        assert_eq!(refused.len(), usize::from(service >= 6), "{service}");
    }
    assert_eq!(world.index.heard_of("a").unwrap().2.endpoints(), 96_000);
}

#[test]
fn a_stranger_is_not_heard() {
    let mut world = world("wire");
    let (refused, changed) = world.index.hear("c", vec![of_export(export("reviews"))]);
    assert_eq!(refused.len(), 1);
    assert!(world.index.heard_of("c").is_none() && changed.topics.is_empty());
}

#[test]
fn what_was_refused_takes_the_place_of_nothing_else() {
    let mut world = world("wire");
    let said = vec![
        of_export(export("reviews")),
        of_exported(behind(vec![endpoint("10.245.0.1")])),
    ];
    assert!(world.index.hear("a", said).0.is_empty());
    let (refused, _) = world
        .index
        .hear("a", vec![of_exported(behind(vec![endpoint("127.0.0.1")]))]);
    assert_eq!(refused.len(), 1);
    let (_, _, remote) = world.index.heard_of("a").unwrap();
    assert_eq!(
        remote.endpoints(),
        0,
        "it loses that endpoint, and what was said before does not come back"
    );
    assert_eq!(remote.exports.len(), 1, "and only that");
}
