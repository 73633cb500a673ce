//! What is exported, to whom, and who may call it.

use weft_certs::authority::Authority;
use weft_proto::resource::{Change, Kind, Name as Resource, Update};

use super::*;

fn roots(domain: &str) -> String {
    let domain = TrustDomain::new(domain).unwrap();
    let authority = Authority::create(domain, std::time::SystemTime::now()).unwrap();
    authority.bundle(1).to_pem().replace('\n', "\n        ")
}

pub(super) fn peer(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: {name}, uid: uid-{name}}}\nspec:\n  \
         trustDomain: {name}.td\n  endpoints: ['{name}.example:15013']\n  network: one\n  trustBundle:\n    roots: |\n        {}\n{more}",
        roots(&format!("{name}.td"))
    )
}

pub(super) fn export(name: &str) -> String {
    format!(
        "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{name: {name}, namespace: shop, uid: uid-export-{name}}}\n"
    )
}

fn everything() -> Vec<Selection> {
    vec![Selection::new(["*".to_owned()].into(), Default::default())]
}

fn told(world: &World, peer: &str) -> Vec<String> {
    let told = exports_to(&world.index, peer, &everything());
    told.value.iter().map(ToString::to_string).collect()
}

fn foreign(world: &World, pod: &str) -> Vec<(u16, Vec<String>)> {
    let inbound = inbound(&world.index, "shop", pod).unwrap().value;
    let domains = |port: &weft_model::inbound::InboundPort| port.foreign.iter().map(ToString::to_string).collect();
    inbound.ports.iter().map(|port| (port.port, domains(port))).collect()
}

#[test]
fn a_service_is_told_of_to_the_peers_that_its_export_is_for_and_their_workloads_may_call_its_ports() {
    let base = shop() + &peer("a", "") + &peer("b", "  exports: []\n");
    let mut world = World::new(&base);
    let pods = foreign(&world, "p1");
    assert!(pods.iter().all(|(_, foreign)| foreign.is_empty()), "{pods:?}");
    assert!(told(&world, "a").is_empty());

    let before = (
        exports_to(&world.index, "a", &everything()).topics,
        inbound(&world.index, "shop", "p1").unwrap().topics,
    );
    let changed = world.edit(&export("reviews"));
    assert!(changed.topics.intersection(&before.0).next().is_some());
    assert!(changed.topics.intersection(&before.1).next().is_some());
    assert_eq!(told(&world, "a"), ["shop/reviews"]);
    assert!(told(&world, "b").is_empty() && told(&world, "c").is_empty());
    let may = foreign(&world, "p1");
    assert!(
        may.iter().any(|(_, foreign)| foreign == &["a.td".to_owned()]),
        "{may:?}"
    );

    // Who imports nothing of it is not told.
    let none = vec![Selection::new(["other".to_owned()].into(), Default::default())];
    assert!(exports_to(&world.index, "a", &none).value.is_empty());

    // Narrowed: not told, and not to be called any more.
    let topics = inbound(&world.index, "shop", "p1").unwrap().topics;
    let changed = world.edit(&peer("a", "  exports: [{namespaces: [other]}]\n"));
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert!(told(&world, "a").is_empty());
    assert!(foreign(&world, "p1").iter().all(|(_, foreign)| foreign.is_empty()));
}

#[test]
fn only_meshed_pods_are_exported_with_what_the_other_side_needs_to_know_of_them() {
    let world = World::new(&(shop() + &peer("a", "") + &export("reviews")));
    let name = Name::new("shop", "reviews");
    let said = super::super::export(&world.index, &name).unwrap().value;
    assert!(!said.headless && said.ports.iter().any(|port| port.port == 80));
    let behind = exported(&world.index, &name, 80).unwrap().value;
    let local = world.set("shop/reviews:80");
    let meshed = local.iter().filter(|address| !address.contains('!')).count();
    assert!(meshed > 0);
    assert_eq!(behind.endpoints.len(), meshed, "{local:?}");
    assert!(
        behind
            .endpoints
            .iter()
            .all(|one| one.endpoint.identity.is_some() && !one.labels.is_empty())
    );
    assert!(exported(&world.index, &name, 81).is_none());
    assert!(
        exported(&world.index, &Name::new("shop", "ratings"), 80).is_none(),
        "not exported"
    );
}

/// What a peer exports, heard: the same Service with a pod of this world, of another cluster.
pub(super) fn hear(world: &mut World, cluster: &str, address: &str) -> Changed {
    hear_as(world, cluster, address, |_| {})
}

/// The same, of an export in which something is different.
pub(super) fn hear_as(world: &mut World, cluster: &str, address: &str, change: impl FnOnce(&mut Export)) -> Changed {
    let name = Name::new("shop", "reviews");
    let settings = Settings {
        trust_domain: TrustDomain::new(&format!("{cluster}.td")).unwrap(),
        cluster: cluster.to_owned(),
        ..settings()
    };
    let other = World::with(settings, &(shop() + &export("reviews")));
    let mut said = super::super::export(&other.index, &name).unwrap().value;
    change(&mut said);
    let mut behind = exported(&other.index, &name, 80).unwrap().value;
    behind.endpoints.truncate(1);
    behind.endpoints[0].endpoint.address = address.parse().unwrap();
    behind.port = said.ports[0].port;
    let behind_key = format!("shop/reviews:{}", behind.port);
    let update = |kind, key: &str, body| Update {
        name: Resource::new(kind, key),
        version: Default::default(),
        change: Change::Body(Box::new(body)),
    };
    let updates = vec![
        update(Kind::Export, "shop/reviews", Body::Export(said)),
        update(Kind::Exported, &behind_key, Body::Exported(behind)),
    ];
    let (refused, changed) = world.index.hear(cluster, updates);
    assert!(refused.is_empty(), "{refused:?}");
    changed
}

#[test]
fn what_a_peer_exports_stands_behind_the_service_of_that_name_as_long_as_it_is_imported() {
    let imports = |namespace: &str| format!("  imports: [{{namespaces: [{namespace}]}}]\n");
    let mut world = World::new(&(shop() + &peer("a", &imports("shop"))));
    let before = endpoint_set(&world.index, "shop/reviews:80").unwrap();
    let changed = hear(&mut world, "a", "10.250.0.1:8080");
    assert!(changed.topics.intersection(&before.topics).next().is_some());
    let all = world.set("shop/reviews:80");
    assert_eq!(all.len(), before.value.endpoints.len() + 1);
    assert!(all.contains(&"10.250.0.1:8080".to_owned()), "{all:?}");
    // Dialled directly, it has its identity, and not that of anything of ours.
    match world.lookup("10.250.0.1:8080", "web") {
        Lookup::Direct { endpoint, .. } => {
            assert_eq!(endpoint.place.cluster, "a");
            assert!(
                endpoint
                    .identity
                    .as_ref()
                    .unwrap()
                    .to_string()
                    .starts_with("spiffe://a.td/")
            );
        }
        other => panic!("{other:?}"),
    }

    let changed = world.edit(&peer("a", &imports("other")));
    assert!(changed.topics.intersection(&before.topics).next().is_some());
    assert_eq!(world.set("shop/reviews:80").len(), all.len() - 1);
    let changed = world.edit(&peer("a", &imports("shop")));
    assert!(changed.topics.intersection(&before.topics).next().is_some());
    assert_eq!(world.set("shop/reviews:80"), all);

    let topics = endpoint_set(&world.index, "shop/reviews:80").unwrap().topics;
    let changed = world.delete("ClusterPeer", "", "a");
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(world.set("shop/reviews:80").len(), all.len() - 1);
    assert!(!matches!(world.lookup("10.250.0.1:8080", "web"), Lookup::Direct { .. }));
}

/// A Service that is here because of an import of reviews.
pub(super) fn import_service(name: &str, ip: &str, port: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, uid: uid-{name}, labels: \
         {{weft.dev/import: 'true', multicluster.kubernetes.io/service-name: reviews}}}}\n\
         spec: {{clusterIP: {ip}, clusterIPs: ['{ip}'], ports: [{{name: {port}, port: 80}}]}}\n"
    )
}

#[test]
fn behind_an_import_is_what_peers_export_and_of_this_cluster_what_is_exported() {
    let of = Name::new("shop", "reviews");
    let derived = crate::federation::derived::derived_name(&of);
    let import = import_service(&derived, "10.96.7.7", "http");
    let mut world = World::new(&(shop() + &peer("a", "  imports: [{namespaces: [shop]}]\n") + &import));
    hear(&mut world, "a", "10.250.0.1:8080");
    let key = format!("shop/{derived}:80");
    assert_eq!(world.set(&key), ["10.250.0.1:8080"], "ours is not exported");
    let topics = endpoint_set(&world.index, &key).unwrap().topics;
    let changed = world.edit(&export("reviews"));
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(world.set(&key), world.set("shop/reviews:80"));
    // It is called by the name that the other side knows.
    let called = world.service("10.96.7.7:80", "web").value;
    assert_eq!(
        (called.port.name.as_str(), called.endpoints.as_str()),
        ("reviews", "shop/reviews:80+import")
    );
    assert_eq!(world.set(&called.endpoints), world.set(&key));
    assert_eq!(endpoint_set(&world.index, &key).unwrap().value.service, "reviews");
    // A Service that only says so is not one.
    world.edit(&import.replace(&derived, "weft-import-0123456789"));
    assert_eq!(world.set("shop/weft-import-0123456789:80"), [""; 0]);
}

#[test]
fn whoever_explains_from_objects_alone_has_the_endpoints_of_other_clusters_from_a_control_plane() {
    for network in ["one", "other"] {
        let imports =
            peer("a", "  imports: [{namespaces: [shop]}]\n").replace("network: one", &format!("network: {network}"));
        let mut world = World::new(&(shop() + &imports));
        hear(&mut world, "a", "10.250.0.1:8080");
        world.index.set_gateways("a", &["192.0.2.1:15443".parse().unwrap()]);
        let told = |namespace: &str| {
            let told = crate::explain::told(&world.index, &[namespace.to_owned()].into(), |_| true);
            let text = serde_json::to_string(&told).unwrap();
            serde_json::from_str::<Vec<crate::explain::Heard>>(&text).unwrap()
        };
        let mut objects = World::new(&(shop() + &imports));
        crate::explain::hear(&mut objects.index, &told("other"));
        assert_ne!(
            objects.set("shop/reviews:80"),
            world.set("shop/reviews:80"),
            "not asked for"
        );
        crate::explain::hear(&mut objects.index, &told("shop"));
        assert_eq!(objects.set("shop/reviews:80"), world.set("shop/reviews:80"));
        assert_eq!(
            endpoint_set(&objects.index, "shop/reviews:80").unwrap().value,
            endpoint_set(&world.index, "shop/reviews:80").unwrap().value,
            "with their gateways"
        );
    }
}

#[test]
fn what_is_in_another_network_is_behind_its_gateways_and_nowhere_without_them() {
    let elsewhere = |more: &str| {
        let text = peer("a", &format!("  imports: [{{namespaces: [shop]}}]\n{more}"));
        text.replace("network: one", "network: other")
    };
    let mut world = World::new(&(shop() + &elsewhere("")));
    let own = world.set("shop/reviews:80").len();
    hear(&mut world, "a", "10.244.0.1:8080");
    assert_eq!(world.set("shop/reviews:80").len(), own, "no way there is known");
    let topics = endpoint_set(&world.index, "shop/reviews:80").unwrap().topics;
    let gateways = ["192.0.2.1:15443".parse().unwrap(), "192.0.2.2:15443".parse().unwrap()];
    let changed = world.index.set_gateways("a", &gateways);
    assert!(changed.topics.intersection(&topics).next().is_some());
    let set = endpoint_set(&world.index, "shop/reviews:80").unwrap().value;
    let behind: Vec<_> = set.endpoints.iter().filter_map(|one| one.gateways.as_deref()).collect();
    assert_eq!((set.endpoints.len(), behind), (own + 1, vec![&gateways[..]]));
    assert_eq!(Body::Endpoints(set).requires(), ["gateways/1"]);
    // Its address is one of ours, and leads to ours.
    match world.lookup("10.244.0.1:8080", "web") {
        Lookup::Direct { endpoint, .. } => assert_eq!(endpoint.place.cluster, "one"),
        other => panic!("{other:?}"),
    }
    assert!(world.index.set_gateways("c", &gateways).topics.is_empty(), "no peer");
}
