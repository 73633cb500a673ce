//! What a pod accepts.

use weft_model::destination::Protocol;
use weft_model::inbound::Mode;

use super::*;

fn namespace(mode: &str) -> String {
    let annotations = if mode.is_empty() {
        String::new()
    } else {
        format!(", annotations: {{config.weft.dev/inbound: {mode}}}")
    };
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop{annotations}}}\n")
}

fn with_mode(mode: &str) -> String {
    let pod = pod("shop", "p1", "10.244.0.1", "v1", "na", true);
    if mode.is_empty() {
        pod
    } else {
        pod.replace(
            "uid: uid-p1",
            &format!("uid: uid-p1, annotations: {{config.weft.dev/inbound: {mode}}}"),
        )
    }
}

#[test]
fn a_pod_may_only_tighten_and_what_is_not_understood_is_strict() {
    for (of_namespace, of_pod, want, problems) in [
        ("", "", Mode::Permissive, 0),
        ("permissive", "", Mode::Permissive, 0),
        ("strict", "", Mode::Strict, 0),
        ("", "strict", Mode::Strict, 0),
        ("strict", "strict", Mode::Strict, 0),
        ("strict", "permissive", Mode::Strict, 1),
        ("permissive", "permissive", Mode::Permissive, 0),
        ("Strict", "", Mode::Strict, 1),
        ("disabled", "permissive", Mode::Strict, 2),
        ("", "off", Mode::Strict, 1),
    ] {
        let world = World::new(&(shop() + &namespace(of_namespace) + &with_mode(of_pod)));
        let inbound = inbound(&world.index, "shop", "p1").unwrap();
        assert_eq!(inbound.value.mode, want, "{of_namespace} {of_pod}");
        assert_eq!(world.problems().len(), problems, "{:?}", world.problems());
    }
}

#[test]
fn a_namespaces_annotation_reaches_its_pods() {
    let mut world = World::new(&(shop() + &namespace("")));
    let topics = inbound(&world.index, "shop", "p1").unwrap().topics;
    let changed = world.edit(&namespace("strict"));
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(inbound(&world.index, "shop", "p1").unwrap().value.mode, Mode::Strict);
    world.edit(&namespace(""));
    assert_eq!(
        inbound(&world.index, "shop", "p1").unwrap().value.mode,
        Mode::Permissive
    );
    let changed = world.delete("Namespace", "", "shop");
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(
        inbound(&world.index, "shop", "p1").unwrap().value.mode,
        Mode::Strict,
        "a namespace that is not known may be a strict one"
    );
    assert!(
        world.problems()[0].contains("the Namespace shop is not known"),
        "{:?}",
        world.problems()
    );
}

#[test]
fn ports_are_those_that_services_lead_to_ready_or_not() {
    let grpc = service_of("shop", "g", "10.96.0.2", &[("grpc", 90)])
        + &slice(
            "shop",
            "g",
            ("grpc", 9090),
            &[("p1", "10.244.0.1", ", conditions: {ready: false}")],
        );
    let alias = service_of("shop", "alias", "10.96.0.3", &[("x", 80)])
        + &slice("shop", "alias", ("x", 8080), &[("p1", "10.244.0.1", "")]);
    let dispute = service_of("shop", "dispute", "10.96.0.4", &[("tcp", 1)])
        + &slice("shop", "dispute", ("tcp", 9090), &[("p1", "10.244.0.1", "")]);
    let world = World::new(&(shop() + &grpc + &alias));
    let ports = |world: &World| {
        let inbound = inbound(&world.index, "shop", "p1").unwrap().value;
        inbound
            .ports
            .iter()
            .map(|port| (port.port, port.protocol, port.services.join(",")))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ports(&world),
        [
            (8080, Protocol::Http, "alias,reviews".to_owned()),
            (9090, Protocol::Grpc, "g".to_owned())
        ]
    );
    let mut world = world;
    let topics = inbound(&world.index, "shop", "p1").unwrap().topics;
    let changed = world.edit(&dispute);
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(
        ports(&world)[1],
        (9090, Protocol::Undeclared, "dispute,g".to_owned()),
        "they disagree: the bytes decide"
    );
    assert!(inbound(&world.index, "shop", "nobody").is_none());
}

#[test]
fn a_route_that_names_a_port_declares_it_for_the_pods_behind_it() {
    let service = service_of("shop", "g", "10.96.0.2", &[("x", 90)])
        + &slice("shop", "g", ("x", 9090), &[("p1", "10.244.0.1", "")]);
    let mut world = World::new(&(shop() + &service));
    let topics = inbound(&world.index, "shop", "p1").unwrap().topics;
    let protocol = |world: &World| {
        inbound(&world.index, "shop", "p1")
            .unwrap()
            .value
            .port(9090)
            .unwrap()
            .protocol
    };
    assert_eq!(protocol(&world), Protocol::Undeclared);
    let by = |namespace: &str| {
        route("GRPCRoute", namespace, "r", &rule(""))
            .replace("name: reviews}]\n  rules", "name: g, port: 90}]\n  rules")
    };
    world.edit(&by("web"));
    assert_eq!(
        protocol(&world),
        Protocol::Undeclared,
        "a consumer's route is for its own clients"
    );
    let changed = world.edit(&by("shop"));
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(protocol(&world), Protocol::Grpc);
}

#[test]
fn the_workload_is_the_owners_name() {
    let owned = |owner: &str, labels: &str| {
        let pod = pod("shop", "p1", "10.244.0.1", "v1", "na", true);
        let pod = pod.replace("uid: uid-p1", &format!("uid: uid-p1, ownerReferences: [{owner}]"));
        let world = World::new(&(shop() + &pod.replace("labels: {", &format!("labels: {{{labels}"))));
        inbound(&world.index, "shop", "p1").unwrap().value.workload.name
    };
    assert_eq!(
        owned(
            "{kind: ReplicaSet, name: reviews-v1-5d9, controller: true}",
            "pod-template-hash: 5d9, "
        ),
        "reviews-v1"
    );
    assert_eq!(
        owned("{kind: ReplicaSet, name: reviews-v1-5d9, controller: true}", ""),
        "reviews-v1-5d9"
    );
    assert_eq!(owned("{kind: Deployment, name: reviews-v1}", ""), "reviews-v1");
    assert_eq!(owned("", ""), "shop-app");
    assert_eq!(owned("", "app.kubernetes.io/name: web, "), "web");
}
