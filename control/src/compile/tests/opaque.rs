//! Ports that an annotation says carry mere bytes: what pods take there, and what clients send.

use weft_model::destination::Protocol::{self, Grpc, Http, Opaque, Tls, Undeclared};

use super::*;

const DB: &str = "10.96.0.9:6379";
const OPAQUE: &str = "config.weft.dev/opaque-ports";

/// Service `db` of `shop`, of whose port nothing but its name is declared, before the shop's pods `p1` and `p2`.
fn db(name: &str) -> String {
    let pods = [
        ("p1", "10.244.0.1", ""),
        ("p2", "10.244.0.2", ", conditions: {ready: false}"),
    ];
    let service = service_of("shop", "db", "10.96.0.9", &[(name, 6379)]);
    service + &slice("shop", "db", (name, 6379), &pods)
}

/// Another Service before the same port of `p1`.
fn other(name: &str) -> String {
    let service = service_of("shop", "other", "10.96.0.8", &[(name, 1)]);
    service + &slice("shop", "other", (name, 6379), &[("p1", "10.244.0.1", "")])
}

/// The pod `p1`, annotated.
fn p1(ports: &str) -> String {
    let pod = pod("shop", "p1", "10.244.0.1", "v1", "na", true);
    pod.replace(
        "uid: uid-p1",
        &format!("uid: uid-p1, annotations: {{{OPAQUE}: '{ports}'}}"),
    )
}

fn plain_p1() -> String {
    pod("shop", "p1", "10.244.0.1", "v1", "na", true)
}

fn namespace(ports: Option<&str>) -> String {
    let annotations = ports.map(|ports| format!(", annotations: {{{OPAQUE}: '{ports}'}}"));
    let annotations = annotations.unwrap_or_default();
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop{annotations}}}\n")
}

/// A route of some kind on `db`, which names its port or doesn't.
fn on_db(kind: &str, namespace: &str, names_port: bool) -> String {
    let (version, more) = match kind {
        "TCPRoute" => ("v1alpha2", ""),
        "TLSRoute" => ("v1alpha2", "hostnames: [a.example], "),
        _ => ("v1", ""),
    };
    let port = if names_port { ", port: 6379" } else { "" };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: r-{}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, name: db{port}}}], \
         {more}rules: [{{backendRefs: [{{name: db, namespace: shop, port: 6379}}]}}]}}\n",
        kind.to_ascii_lowercase()
    )
}

/// What clients of `db` in a namespace are told.
#[track_caller]
fn told(world: &World, client: &str) -> Protocol {
    world.service(DB, client).value.protocol
}

/// What a pod takes at a port.
#[track_caller]
fn takes(world: &World, pod: &str, port: u16) -> Protocol {
    let inbound = inbound(&world.index, "shop", pod).unwrap().value;
    inbound.port(port).map(|port| port.protocol).unwrap_or_default()
}

/// What a client is told that dials a pod itself.
#[track_caller]
fn direct(world: &World, target: &str) -> Protocol {
    match world.lookup(target, "web") {
        Lookup::Direct { protocol, .. } => protocol,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_undeclared_port_is_opaque_at_the_annotated_pod_and_to_clients_of_all_its_pods() {
    let world = World::new(&(shop() + &db("x") + &p1("6379, 9092")));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!([told(&world, "shop"), told(&world, "web")], [Opaque, Opaque]);
    assert_eq!(
        [takes(&world, "p1", 6379), direct(&world, "10.244.0.1:6379")],
        [Opaque, Opaque]
    );
    assert_eq!(
        [takes(&world, "p2", 6379), direct(&world, "10.244.0.2:6379")],
        [Undeclared, Undeclared],
        "an annotation is for its own pod: the others look at what comes"
    );
    assert_eq!(
        [takes(&world, "p1", 9092), direct(&world, "10.244.0.1:9092")],
        [Opaque, Opaque],
        "also where no Service leads"
    );
    assert_eq!(takes(&world, "p1", 8080), Http);
    let one = World::new(&(shop() + &db("x") + &p1("8080")));
    assert_eq!([told(&one, "web"), takes(&one, "p1", 6379)], [Undeclared, Undeclared]);
    assert_eq!(takes(&one, "p1", 8080), Http);
}

#[test]
fn a_pod_that_only_its_address_leads_to_counts_and_so_does_one_that_is_not_ready() {
    let by_address = db("x").replace(", targetRef: {kind: Pod, namespace: shop, name: p1, uid: uid-p1}", "");
    assert!(by_address.contains("'10.244.0.1']}"), "{by_address}");
    let world = World::new(&(shop() + &by_address + &p1("6379")));
    assert_eq!([told(&world, "web"), takes(&world, "p1", 6379)], [Opaque, Opaque]);
    let p2 = p1("6379").replace("p1", "p2").replace("10.244.0.1", "10.244.0.2");
    let world = World::new(&(shop() + &db("x") + &p2));
    assert_eq!([told(&world, "web"), takes(&world, "p2", 6379)], [Opaque, Opaque]);
}

#[test]
fn what_a_service_declares_counts_before_the_annotation() {
    for (name, want) in [("http", Http), ("grpc", Grpc), ("tls", Tls), ("tcp", Opaque)] {
        let world = World::new(&(shop() + &db(name) + &p1("6379")));
        assert_eq!([told(&world, "web"), takes(&world, "p1", 6379)], [want, want], "{name}");
    }
}

#[test]
fn what_another_service_declares_of_the_pods_port_counts_too_and_both_sides_know() {
    for (name, client, pod) in [
        ("x", Opaque, Opaque),
        ("http", Undeclared, Http),
        ("tls", Opaque, Tls),
        ("tcp", Opaque, Opaque),
    ] {
        let world = World::new(&(shop() + &db("x") + &other(name) + &p1("6379")));
        assert_eq!(
            [told(&world, "web"), takes(&world, "p1", 6379)],
            [client, pod],
            "{name}"
        );
    }
    let both = World::new(&(shop() + &db("tls") + &other("tcp") + &p1("6379")));
    assert_eq!(
        takes(&both, "p1", 6379),
        Opaque,
        "whatever they disagree about, it is no HTTP"
    );
    let both = World::new(&(shop() + &db("http") + &other("tcp") + &p1("6379")));
    assert_eq!(
        takes(&both, "p1", 6379),
        Undeclared,
        "they disagree about that: the bytes decide"
    );
}

#[test]
fn of_routes_those_of_requests_that_name_the_port_count_before_the_annotation() {
    let (named, unnamed) = (true, false);
    for (routes, shop_told, web_told, taken) in [
        (vec![("HTTPRoute", "shop", named)], Http, Http, Http),
        (vec![("GRPCRoute", "shop", named)], Grpc, Grpc, Grpc),
        (vec![("HTTPRoute", "shop", unnamed)], Opaque, Opaque, Opaque),
        (vec![("TCPRoute", "shop", unnamed)], Opaque, Opaque, Opaque),
        (vec![("TLSRoute", "shop", named)], Tls, Tls, Tls),
        (
            vec![("HTTPRoute", "shop", unnamed), ("TCPRoute", "shop", named)],
            Opaque,
            Opaque,
            Opaque,
        ),
        (
            vec![("HTTPRoute", "shop", unnamed), ("TLSRoute", "shop", named)],
            Tls,
            Tls,
            Opaque,
        ),
        (
            vec![("HTTPRoute", "shop", named), ("TCPRoute", "shop", named)],
            Undeclared,
            Undeclared,
            Undeclared,
        ),
        (vec![("HTTPRoute", "web", named)], Opaque, Opaque, Opaque),
        (vec![("HTTPRoute", "web", unnamed)], Opaque, Opaque, Opaque),
        (vec![("TLSRoute", "web", named)], Opaque, Tls, Opaque),
        (
            vec![("TCPRoute", "shop", named), ("HTTPRoute", "web", named)],
            Opaque,
            Opaque,
            Opaque,
        ),
        (
            vec![("HTTPRoute", "shop", named), ("TCPRoute", "web", named)],
            Http,
            Http,
            Http,
        ),
    ] {
        let yaml: String = routes
            .iter()
            .map(|(kind, namespace, named)| on_db(kind, namespace, *named))
            .collect();
        let world = World::new(&(shop() + &db("x") + &yaml + &p1("6379")));
        let said = [told(&world, "shop"), told(&world, "web"), takes(&world, "p1", 6379)];
        assert_eq!(said, [shop_told, web_told, taken], "{routes:?}");
    }
}

#[test]
fn a_route_of_requests_that_the_annotation_stops_says_so() {
    let said = |namespace: &str, names_port: bool| {
        let world = World::new(&(shop() + &db("x") + &on_db("HTTPRoute", namespace, names_port) + &p1("6379")));
        let condition = world.condition(("HTTPRoute", namespace, "r-httproute"), ConditionType::Accepted);
        (condition.status, condition.reason, condition.message)
    };
    for (namespace, names_port) in [("shop", false), ("web", false), ("web", true)] {
        let (accepted, reason, message) = said(namespace, names_port);
        assert_eq!(
            (accepted, reason.as_str()),
            (false, "UnsupportedProtocol"),
            "{namespace} {names_port}"
        );
        assert!(
            message.contains(&format!("by the annotation {OPAQUE} of its pods")),
            "{message}"
        );
    }
    assert!(said("shop", true).0, "this one declares the port");
}

#[test]
fn a_policy_about_requests_has_nothing_to_act_on_at_a_port_that_is_opaque() {
    let policy = "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {namespace: shop, name: t}\n\
                  spec: {targetRefs: [{kind: Service, name: db}], timeouts: {request: 1s}}\n";
    let accepted = |world: &World| {
        world
            .condition(("TrafficPolicy", "shop", "t"), ConditionType::Accepted)
            .status
    };
    let mut world = World::new(&(shop() + &db("x") + policy));
    assert!(accepted(&world) && world.service(DB, "web").value.rules.is_some());
    world.edit(&p1("6379"));
    assert!(!accepted(&world) && world.service(DB, "web").value.rules.is_none());
}

/// What depends on the annotation of `p1` alone: clients of `db`, those of the pod, and the pod.
fn dependents(world: &World) -> [BTreeSet<Topic>; 3] {
    let of_pod = lookup(&world.index, &"10.244.0.1:6379".parse().unwrap(), "web").topics;
    let inbound = inbound(&world.index, "shop", "p1").unwrap().topics;
    [world.service(DB, "web").topics, of_pod, inbound]
}

#[track_caller]
fn touched(changed: &Changed, dependents: &[BTreeSet<Topic>]) {
    for topics in dependents {
        let common = changed.topics.intersection(topics).next();
        assert!(common.is_some(), "{topics:?} of {:?}", changed.topics);
    }
}

#[test]
fn a_pods_annotation_that_comes_or_goes_is_heard_of_by_the_pod_and_by_clients() {
    let mut world = World::new(&(shop() + &db("x")));
    let dependents = dependents(&world);
    for (pod, want) in [
        (p1("6379"), Opaque),
        (plain_p1(), Undeclared),
        (p1("6379"), Opaque),
        (p1("1"), Undeclared),
        (p1("6379"), Opaque),
    ] {
        touched(&world.edit(&pod), &dependents);
        assert_eq!([told(&world, "web"), takes(&world, "p1", 6379)], [want, want]);
    }
    let service = Topic::Service(Name::new("shop", "db"));
    let again = world.edit(&p1("6379"));
    assert!(
        !again.topics.contains(&service),
        "nothing new is said of the port: {again:?}"
    );
    touched(&world.delete("Pod", "shop", "p1"), &dependents[..1]);
    assert_eq!(told(&world, "web"), Undeclared);
}

#[test]
fn a_namespaces_annotation_is_for_its_pods_and_a_pods_own_counts_before_it() {
    let mut world = World::new(&(shop() + &db("x")));
    let dependents = dependents(&world);
    for (ports, want) in [
        (Some("6379"), Opaque),
        (None, Undeclared),
        (Some("1,6379"), Opaque),
        (Some("1"), Undeclared),
        (Some("6379"), Opaque),
    ] {
        touched(&world.edit(&namespace(ports)), &dependents);
        let said = [
            told(&world, "web"),
            takes(&world, "p1", 6379),
            takes(&world, "p2", 6379),
        ];
        assert_eq!(said, [want; 3], "{ports:?}");
    }
    world.edit(&p1(""));
    let said = [
        told(&world, "web"),
        takes(&world, "p1", 6379),
        takes(&world, "p2", 6379),
    ];
    assert_eq!(said, [Opaque, Undeclared, Opaque], "its own says that there are none");
    world.edit(&plain_p1());
    touched(&world.delete("Namespace", "", "shop"), &dependents);
    assert_eq!(
        [told(&world, "web"), takes(&world, "p1", 6379)],
        [Undeclared, Undeclared]
    );
}

#[test]
fn what_else_it_depends_on_is_heard_of_too() {
    let mut world = World::new(&(shop() + &db("x") + &p1("6379")));
    let clients = [world.service(DB, "web").topics];
    let alone = slice("shop", "db", ("x", 6379), &[("p2", "10.244.0.2", "")]);
    for (edit, want) in [
        (other("http"), Undeclared),
        (other("x"), Opaque),
        (alone, Undeclared),
        (db("x"), Opaque),
        (on_db("HTTPRoute", "shop", true), Http),
        (on_db("HTTPRoute", "shop", false), Opaque),
        (
            on_db("HTTPRoute", "shop", true).replace("name: db, port: 6379", "name: other, port: 1"),
            Undeclared,
        ),
    ] {
        touched(&world.edit(&edit), &clients);
        assert_eq!(told(&world, "web"), want, "{edit}");
    }
    touched(&world.delete("Service", "shop", "other"), &clients);
    assert_eq!(told(&world, "web"), Opaque);
    touched(&world.delete("EndpointSlice", "shop", "db-1"), &clients);
    assert_eq!(told(&world, "web"), Undeclared);
}

#[test]
fn a_value_that_cannot_be_read_counts_as_absent_and_is_told() {
    let many = ["1"; 65].join(",");
    for odd in ["redis", "0", "70000", "6379;1", "-1", &many] {
        let world = World::new(&(shop() + &db("x") + &p1(odd)));
        assert_eq!(
            [told(&world, "web"), takes(&world, "p1", 6379)],
            [Undeclared, Undeclared],
            "{odd}"
        );
        let problems = world.problems();
        assert!(
            problems.len() == 1 && problems[0].contains(&format!("metadata.annotations[{OPAQUE}]")),
            "{problems:?}"
        );
        let condition = world.condition(("Pod", "shop", "p1"), ConditionType::PartiallyInvalid);
        assert_eq!(
            (condition.status, condition.reason.as_str()),
            (true, "UnsupportedValue")
        );
        assert!(
            condition.message.ends_with("it counts as absent"),
            "{}",
            condition.message
        );
        let world = World::new(&(shop() + &db("x") + &namespace(Some("6379")) + &p1(odd)));
        assert_eq!(takes(&world, "p1", 6379), Opaque, "the Namespace's counts");
        let world = World::new(&(shop() + &db("x") + &namespace(Some(odd))));
        assert_eq!(takes(&world, "p1", 6379), Undeclared);
        world.condition(("Namespace", "", "shop"), ConditionType::PartiallyInvalid);
    }
    for good in ["", " ", "6379", " 6379 ,, 1", &many[2..]] {
        let world = World::new(&(shop() + &p1(good)));
        assert_eq!(world.problems(), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn people_are_told_that_the_annotation_says_it() {
    let said =
        |yaml: &str, annotated: bool| declared(&World::new(&(shop() + yaml)).index, "shop", "db", 6379, annotated);
    let opaque = (Opaque, vec![OPAQUE.to_owned()]);
    assert_eq!(said(&(db("x") + &p1("6379")), false), opaque);
    assert_eq!(said(&db("x"), true), opaque, "of pods that somebody else knows");
    assert_eq!(said(&db("x"), false), (Undeclared, vec![]));
    assert_eq!(said(&db("http"), true), (Http, vec![]));
    let route = on_db("HTTPRoute", "shop", true);
    assert_eq!(
        said(&(db("x") + &route), true),
        (Http, vec!["HTTPRoute shop/r-httproute".to_owned()])
    );
    let routes = route + &on_db("TCPRoute", "shop", true);
    assert_eq!(said(&(db("x") + &routes + &p1("6379")), true).0, Undeclared);
}
