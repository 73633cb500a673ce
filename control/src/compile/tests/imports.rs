//! Routes that name a ServiceImport: as a backend, and as what is called (GEP-1748).

use super::federation::{export, hear, hear_as, import_service, peer};
use super::*;
use crate::federation::derived::derived_name;
use crate::index::ParentStatus;

/// Kinds of routes, each with a name for the port of reviews that suits it.
const KINDS: [(&str, &str); 4] = [
    ("HTTPRoute", "http"),
    ("GRPCRoute", "grpc"),
    ("TCPRoute", "x"),
    ("TLSRoute", "x"),
];
const FRONT: &str = "10.96.0.9:80";
const IMPORT: &str = "10.96.7.7:80";

/// A route with this parent and this backend.
fn route_of(kind: &str, namespace: &str, parent: &str, backend: &str) -> String {
    let hosts = if kind == "TLSRoute" {
        "  hostnames: [a.example]\n"
    } else {
        ""
    };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: r}}\n\
         spec:\n  parentRefs: [{{{parent}}}]\n{hosts}  rules:\n  - backendRefs: [{{{backend}}}]\n"
    )
}

fn derived() -> String {
    derived_name(&Name::new("shop", "reviews"))
}

/// The shop, where another Service is called, and the cluster `a`, from which reviews is imported.
fn world(port: &str) -> World {
    let yaml = shop()
        + &service_of("shop", "front", "10.96.0.9", &[(port, 80)])
        + &peer("a", "  imports: [{namespaces: [shop]}]\n");
    World::new(&yaml.replace("{name: http,", &format!("{{name: {port},")))
}

const OF_FRONT: &str = "group: '', kind: Service, name: front, namespace: shop";
const BACKEND: &str = "group: multicluster.x-k8s.io, kind: ServiceImport, name: reviews, namespace: shop, port: 80";
const PARENT: &str = "group: multicluster.x-k8s.io, kind: ServiceImport, name: reviews, namespace: shop";

/// Where the only backend of the only rule leads, of requests or of streams.
#[track_caller]
fn only_place(service: &Service) -> BackendPlace {
    let of_requests = service
        .rules
        .iter()
        .flat_map(|rules| &rules.rules)
        .map(|rule| &rule.backends);
    let of_streams = service
        .streams
        .iter()
        .flat_map(|streams| &streams.rules)
        .map(|rule| &rule.backends);
    let all: Vec<_> = of_requests.chain(of_streams).flatten().collect();
    let [only] = &all[..] else { panic!("{all:?}") };
    assert_eq!(only.service.name, "reviews", "it is known by its own name");
    only.place.clone()
}

fn place() -> BackendPlace {
    BackendPlace::Endpoints("shop/reviews:80+import".to_owned())
}

#[test]
fn every_kind_of_route_sends_to_an_import_whether_its_derived_service_is_there_or_not() {
    for (kind, port) in KINDS {
        let mut world = world(port);
        world.edit(&route_of(kind, "shop", OF_FRONT, BACKEND));
        let before = world.service(FRONT, "web");
        let BackendPlace::Unresolved(why) = only_place(&before.value) else {
            panic!("{kind}")
        };
        assert_eq!(
            why,
            "there is no ServiceImport shop/reviews: no cluster exports that Service to this one"
        );
        let said = |world: &World| {
            let condition = world.condition((kind, "shop", "r"), ConditionType::ResolvedRefs);
            (condition.status, condition.reason, condition.field)
        };
        let field = "spec.rules[0].backendRefs[0].name".to_owned();
        assert_eq!(said(&world), (false, "BackendNotFound".to_owned(), field), "{kind}");

        let changed = hear_as(&mut world, "a", "10.250.0.1:8080", |said| {
            said.ports[0].name = port.to_owned()
        });
        assert!(changed.topics.intersection(&before.topics).next().is_some(), "{kind}");
        let now = world.service(FRONT, "web");
        assert_eq!(only_place(&now.value), place(), "{kind}");
        assert!(
            now.sources.iter().any(|source| source.object == "ClusterPeer a"),
            "{kind}"
        );
        assert_eq!(said(&world), (true, "ResolvedRefs".to_owned(), String::new()), "{kind}");
        assert_eq!(
            world.set("shop/reviews:80+import"),
            ["10.250.0.1:8080"],
            "ours is not exported"
        );

        let changed = world.delete("ClusterPeer", "", "a");
        assert!(changed.topics.intersection(&now.topics).next().is_some(), "{kind}");
        assert!(matches!(
            only_place(&world.service(FRONT, "web").value),
            BackendPlace::Unresolved(_)
        ));
        assert_eq!(world.set("shop/reviews:80+import"), [""; 0]);
    }
}

#[test]
fn behind_an_import_are_the_endpoints_of_all_clusters_that_export_it_and_policies_of_the_service_act() {
    let mut world = world("http");
    hear(&mut world, "a", "10.250.0.1:8080");
    let before = endpoint_set(&world.index, "shop/reviews:80+import").unwrap();
    let changed = world.edit(&export("reviews"));
    assert!(changed.topics.intersection(&before.topics).next().is_some());
    assert_eq!(world.set("shop/reviews:80+import"), world.set("shop/reviews:80"));
    assert_eq!(world.set("shop/reviews:80+import").len(), 4);
    world.edit(&route_of("HTTPRoute", "shop", OF_FRONT, BACKEND));
    world.edit(
        "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {namespace: shop, name: p}\n\
         spec: {targetRefs: [{kind: Service, name: reviews}], locality: {prefer: None}}\n",
    );
    let service = world.service(FRONT, "web").value;
    let traffic = service.rules.unwrap().rules[0].backends[0].traffic.clone();
    assert_eq!(traffic.unwrap().locality.prefer, weft_model::locality::Prefer::None);
    // Called at its clusterset address, it is spread in the same way.
    world.edit(&import_service(&derived(), "10.96.7.7", "http"));
    let called = world.service(IMPORT, "web");
    assert_eq!(called.value.locality.prefer, weft_model::locality::Prefer::None);
    let changed = world.delete("TrafficPolicy", "shop", "p");
    assert!(changed.topics.intersection(&called.topics).next().is_some());
    assert_ne!(
        world.service(IMPORT, "web").value.locality.prefer,
        weft_model::locality::Prefer::None
    );
}

#[test]
fn a_backend_that_is_no_import_or_has_not_that_port_is_said_to_lead_nowhere() {
    let mut world = world("http");
    hear(&mut world, "a", "10.250.0.1:8080");
    for (backend, reason, part, fix) in [
        (
            BACKEND.replace("port: 80", "port: 81"),
            "BackendNotFound",
            "port",
            "a cluster exports",
        ),
        (
            BACKEND.replace("name: reviews", "name: ratings"),
            "BackendNotFound",
            "name",
            "write a ServiceExport",
        ),
        (
            BACKEND.replace("namespace: shop", "namespace: web"),
            "BackendNotFound",
            "name",
            "write a ServiceExport",
        ),
        (
            BACKEND.replace("group: multicluster.x-k8s.io, ", ""),
            "InvalidKind",
            "kind",
            "group: multicluster.x-k8s.io",
        ),
        (
            BACKEND.replace("multicluster.x-k8s.io", "multicluster.k8s.io"),
            "InvalidKind",
            "kind",
            "group: multicluster",
        ),
    ] {
        world.edit(&route_of("HTTPRoute", "shop", OF_FRONT, &backend));
        let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::ResolvedRefs);
        let field = format!("spec.rules[0].backendRefs[0].{part}");
        assert_eq!(
            (condition.status, condition.reason.as_str(), condition.field),
            (false, reason, field),
            "{backend}"
        );
        assert!(condition.fix.contains(fix), "{backend}: {}", condition.fix);
        let service = world.service(FRONT, "web").value;
        assert!(matches!(
            service.rules.unwrap().rules[0].backends[0].place,
            BackendPlace::Unresolved(_)
        ));
    }
}

/// As for Services: a mesh's routes need no ReferenceGrant.
#[test]
fn an_import_of_another_namespace_is_a_backend_without_leave() {
    let mut world = world("http");
    hear(&mut world, "a", "10.250.0.1:8080");
    world.edit("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n");
    world.edit(&route_of("HTTPRoute", "web", OF_FRONT, BACKEND));
    assert_eq!(only_place(&world.service(FRONT, "web").value), place());
    let mirror = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {namespace: web, name: r}\n\
         spec:\n  parentRefs: [{group: '', kind: Service, name: front, namespace: shop}]\n  rules:\n  - filters:\n    \
         - {type: RequestMirror, requestMirror: {backendRef: {group: multicluster.x-k8s.io, kind: ServiceImport, name: reviews, namespace: shop, port: 80}}}\n    \
         backendRefs: [{name: reviews, namespace: shop, port: 80}]\n";
    world.edit(mirror);
    let rules = world.service(FRONT, "web").value.rules.unwrap();
    assert_eq!(rules.rules[0].filters.mirrors[0].place, place());
}

/// "MUST be interpreted as routing to Multi-Cluster endpoints across the ClusterSet"; and of the ports of those clusters,
/// "network traffic to a conflicting port should only be directed to endpoints from constituent services that actually expose
/// the port".
#[test]
fn behind_a_port_of_an_import_are_only_clusters_that_expose_that_port() {
    let yaml = shop()
        + &export("reviews")
        + &peer("a", "  imports: [{namespaces: [shop]}]\n")
        + &peer("b", "  imports: [{namespaces: [shop]}]\n");
    let mut world = World::new(&yaml);
    let own = world.set("shop/reviews:80+import").len();
    assert_eq!(own, 3);
    // The same name, and another number.
    hear_as(&mut world, "a", "10.250.0.1:8080", |said| {
        said.ports[0].port = 4242;
        said.created_ms = 2;
    });
    assert_eq!(world.set("shop/reviews:80+import").len(), own);
    // Another name, and the same number: it is exposed there.
    hear_as(&mut world, "b", "10.251.0.1:8080", |said| {
        said.ports[0].name = "web".to_owned();
        said.created_ms = 3;
    });
    assert!(
        world
            .set("shop/reviews:80+import")
            .contains(&"10.251.0.1:8080".to_owned())
    );
    assert!(
        !world
            .set("shop/reviews:80+import")
            .contains(&"10.250.0.1:8080".to_owned())
    );
}

/// What is said of a route for each parent.
fn parents(world: &World, kind: &str, namespace: &str) -> Vec<ParentStatus> {
    let of = reference(kind, namespace, "r");
    let all = world.index.statuses();
    all.into_iter().find(|status| status.object == of).unwrap().parents
}

fn accepted(parent: &ParentStatus) -> (bool, &str, &str) {
    let mut all = parent.conditions.iter();
    let found = all
        .find(|condition| condition.r#type == ConditionType::Accepted)
        .unwrap();
    (found.status, &found.reason, &found.field)
}

#[test]
fn a_route_on_an_import_acts_on_calls_to_its_clusterset_address_and_on_no_others() {
    for (kind, port) in KINDS {
        let mut world = world(port);
        world.edit(&import_service(&derived(), "10.96.7.7", port));
        let before = world.service(IMPORT, "web");
        let changed = world.edit(&route_of(kind, "shop", PARENT, BACKEND));
        assert!(changed.topics.intersection(&before.topics).next().is_some(), "{kind}");
        let told = parents(&world, kind, "shop");
        assert_eq!(told.len(), 1);
        assert_eq!(
            (&told[0].reference["group"], &told[0].reference["kind"]),
            (&"multicluster.x-k8s.io".into(), &"ServiceImport".into())
        );
        assert_eq!(
            accepted(&told[0]),
            (false, "NoMatchingParent", "spec.parentRefs[0].name"),
            "{kind}: nobody exports it"
        );

        hear_as(&mut world, "a", "10.250.0.1:8080", |said| {
            said.ports[0].name = port.to_owned()
        });
        assert_eq!(
            accepted(&parents(&world, kind, "shop")[0]),
            (true, "Accepted", ""),
            "{kind}"
        );
        assert_eq!(only_place(&world.service(IMPORT, "web").value), place(), "{kind}");
        // It is told by name as well.
        let by_name = world.lookup("name:reviews.shop.svc.clusterset.local:80", "web");
        assert_eq!(by_name, world.lookup(IMPORT, "web"), "{kind}");
        // "When a ServiceImport is specified as a parent, meshes will intercept traffic destined for the ClusterSetIP."
        let now = world.service(REVIEWS, "web").value;
        assert!(now.rules.is_none() && now.streams.is_none(), "{kind}");
    }
}

/// Like `.clusterset.local` and `.cluster.local`: who means the Service names the Service, also where it is here only because
/// others export it, and may be somebody's own tomorrow.
#[test]
fn a_route_on_an_import_leaves_the_service_of_its_own_name_alone_and_one_on_that_leaves_the_import() {
    let base = shop();
    let without = base.replace("name: reviews, namespace", "name: other, namespace");
    let yaml = without.replace(
        "namespace: shop, name: reviews}\nspec: {clusterIP: 10.96.0.1,",
        "namespace: shop, name: other}\nspec: {clusterIP: 10.96.0.2,",
    ) + &peer("a", "  imports: [{namespaces: [shop]}]\n")
        + &import_service(&derived(), "10.96.7.7", "http")
        + &import_service("reviews", "10.96.7.8", "unnamed");
    let mut world = World::new(&yaml);
    hear_as(&mut world, "a", "10.250.0.1:8080", |said| {
        said.ports[0].name = String::new()
    });
    assert_eq!(
        world.set("shop/reviews:80"),
        ["10.250.0.1:8080"],
        "by number: the name is given here"
    );
    let acts = |world: &World| [IMPORT, "10.96.7.8:80"].map(|at| world.service(at, "web").value.rules.is_some());
    world.edit(&route_of("HTTPRoute", "shop", PARENT, BACKEND));
    assert_eq!(acts(&world), [true, false]);
    world.edit(&route_of(
        "HTTPRoute",
        "shop",
        "group: '', kind: Service, name: reviews",
        BACKEND,
    ));
    assert_eq!(acts(&world), [false, true]);
}

#[test]
fn a_route_is_attached_to_a_port_of_an_import_that_there_is_and_one_without_an_address_has_none() {
    let mut world = world("http");
    world.edit(&import_service(&derived(), "10.96.7.7", "http"));
    hear(&mut world, "a", "10.250.0.1:8080");
    for (parent, kind, want) in [
        (format!("{PARENT}, port: 80"), "HTTPRoute", (true, "Accepted", "")),
        (
            format!("{PARENT}, sectionName: http"),
            "HTTPRoute",
            (true, "Accepted", ""),
        ),
        (
            format!("{PARENT}, port: 81"),
            "HTTPRoute",
            (false, "NoMatchingParent", "spec.parentRefs[0].port"),
        ),
        (
            format!("{PARENT}, port: 80"),
            "TCPRoute",
            (false, "UnsupportedProtocol", "spec.parentRefs[0].port"),
        ),
    ] {
        world.edit(&route_of(kind, "shop", &parent, BACKEND));
        assert_eq!(accepted(&parents(&world, kind, "shop")[0]), want, "{parent} {kind}");
        world.delete(kind, "shop", "r");
    }
    // What is not the API's is another controller's business.
    world.edit(&route_of(
        "HTTPRoute",
        "shop",
        &PARENT.replace("multicluster.x-k8s.io", "net.example"),
        BACKEND,
    ));
    assert!(parents(&world, "HTTPRoute", "shop").is_empty());
    hear_as(&mut world, "a", "10.250.0.1:8080", |said| said.headless = true);
    world.edit(&route_of("HTTPRoute", "shop", PARENT, BACKEND));
    let told = &parents(&world, "HTTPRoute", "shop")[0];
    assert_eq!(accepted(told), (false, "NoMatchingParent", "spec.parentRefs[0].name"));
    assert!(told.conditions[0].message.contains("no cluster address"), "{told:?}");
}

#[test]
fn a_consumers_route_on_an_import_acts_on_its_own_namespace_only() {
    let mut world = world("http");
    world.edit(&import_service(&derived(), "10.96.7.7", "http"));
    hear(&mut world, "a", "10.250.0.1:8080");
    world.edit(&route_of("HTTPRoute", "web", PARENT, BACKEND));
    assert_eq!(
        accepted(&parents(&world, "HTTPRoute", "web")[0]),
        (true, "Accepted", "")
    );
    assert!(world.service(IMPORT, "web").value.rules.is_some());
    assert!(world.service(IMPORT, "other").value.rules.is_none());
}

/// A route that was never valid since the start is held where it may have acted: on the import that it names.
#[test]
fn a_broken_route_on_an_import_is_held_there() {
    let yaml =
        shop() + &import_service(&derived(), "10.96.7.7", "http") + &route_of("HTTPRoute", "shop", PARENT, BACKEND);
    let world = World::new(&yaml.replace("- backendRefs:", "- matches: 7\n    backendRefs:"));
    assert!(world.service(IMPORT, "web").hold.is_some());
    assert!(world.service(REVIEWS, "web").hold.is_none());
}
