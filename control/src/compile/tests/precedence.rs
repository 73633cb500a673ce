//! Which rule wins.

use super::*;

/// Rules, most specific last; each request must fall under the rule of the given index, in whatever order they stand.
#[track_caller]
fn wins(kind: &str, matches: &[&str], cases: &[(&str, usize)]) {
    let forwards: Vec<usize> = (0..matches.len()).collect();
    let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
    for order in [forwards, backwards] {
        let rules: String = order.iter().map(|&i| rule(matches[i])).collect();
        let world = World::new(&(shop() + &route(kind, "shop", "r", &rules)));
        assert_eq!(world.problems(), Vec::<String>::new());
        for (request, want) in cases {
            let place = order.iter().position(|i| i == want).unwrap();
            assert_eq!(
                world.route(REVIEWS, "web", request),
                format!("r#{place}"),
                "{request} in order {order:?}"
            );
        }
    }
}

#[test]
fn exact_paths_come_before_longer_prefixes_before_shorter_before_patterns_before_everything() {
    wins(
        "HTTPRoute",
        &[
            "",
            "{path: {type: RegularExpression, value: '/a.*'}}",
            "{path: {value: /a}}",
            "{path: {type: PathPrefix, value: /a/b/}}",
            "{path: {type: Exact, value: /a/b}}",
        ],
        &[
            ("GET /x", 0),
            ("GET /abc", 1),
            ("GET /a", 2),
            ("GET /a/x", 2),
            ("GET /a/b/c", 3),
            ("GET /a/b/", 3),
            ("GET /a/b", 4),
        ],
    );
}

#[test]
fn among_equal_paths_the_method_comes_first_then_more_headers_then_more_parameters() {
    wins(
        "HTTPRoute",
        &[
            "{path: {value: /a}}",
            "{path: {value: /a}, queryParams: [{name: q, value: '1'}]}",
            "{path: {value: /a}, queryParams: [{name: q, value: '1'}, {name: r, value: '1'}]}",
            "{path: {value: /a}, headers: [{name: x, value: '1'}]}",
            "{path: {value: /a}, headers: [{name: x, value: '1'}, {name: Y, value: '1'}]}",
            "{path: {value: /a}, method: POST}",
        ],
        &[
            ("GET /a", 0),
            ("GET /a?q=1", 1),
            ("GET /a?q=1&r=1", 2),
            ("GET /a?q=1&r=1 x:1", 3),
            ("GET /a?q=1 x:1 y:1", 4),
            ("POST /a?q=1 x:1 y:1", 5),
        ],
    );
}

#[test]
fn grpc_methods_come_before_services_before_method_names_before_everything() {
    let grpc = "content-type:application/grpc";
    wins(
        "GRPCRoute",
        &[
            "",
            "{method: {method: Get}}",
            "{method: {type: RegularExpression, service: 'a\\.[A-Z]+'}}",
            "{method: {service: a.S}}",
            "{method: {service: a.S, method: Get}}",
            "{method: {service: a.S, method: Get}, headers: [{name: x, value: '1'}]}",
        ],
        &[
            (&format!("POST /b.T/Put {grpc}"), 0),
            (&format!("POST /b.T/Get {grpc}"), 1),
            (&format!("POST /a.U/Get {grpc}"), 2),
            (&format!("POST /a.S/Put {grpc}"), 3),
            (&format!("POST /a.S/Get {grpc}"), 4),
            (&format!("POST /a.S/Get {grpc} x:1"), 5),
        ],
    );
}

#[test]
fn a_grpc_route_takes_grpc_only_and_its_patterns_cover_the_whole_of_a_name() {
    let rules = rule("{method: {type: RegularExpression, service: 'a|b', method: 'Get'}}");
    let world = World::new(&(shop() + &route("GRPCRoute", "shop", "r", &rules)));
    for (request, want) in [
        ("POST /a/Get content-type:application/grpc", "r#0"),
        ("POST /b/Get content-type:application/grpc+proto", "r#0"),
        ("POST /ab/Get content-type:application/grpc", "404"),
        ("POST /a/GetAll content-type:application/grpc", "404"),
        ("POST /a/b/Get content-type:application/grpc", "404"),
        ("POST /a/Get content-type:application/json", "404"),
    ] {
        assert_eq!(world.route(REVIEWS, "web", request), want, "{request}");
    }
}

#[test]
fn routes_of_both_kinds_stand_side_by_side() {
    let http = route("HTTPRoute", "shop", "h", &rule(""));
    let grpc = route("GRPCRoute", "shop", "g", &rule(""));
    let world = World::new(&(shop() + &http + &grpc));
    assert_eq!(
        world.route(REVIEWS, "web", "POST /a/b content-type:application/grpc"),
        "g#0"
    );
    assert_eq!(world.route(REVIEWS, "web", "POST /a/b content-type:text/plain"), "h#0");
}

#[test]
fn of_equal_matches_the_older_route_wins_then_the_name_then_the_order_of_rules() {
    let aged = |name: &str, created: &str| {
        let route = route("HTTPRoute", "shop", name, &(rule("") + &rule("")));
        match created {
            "" => route,
            created => route.replace(
                &format!("name: {name}}}"),
                &format!("name: {name}, creationTimestamp: '{created}'}}"),
            ),
        }
    };
    let first = |routes: &[String]| World::new(&(shop() + &routes.concat())).route(REVIEWS, "web", "GET /");
    assert_eq!(first(&[aged("a", ""), aged("b", "")]), "a#0");
    assert_eq!(
        first(&[aged("a", "2026-02-01T00:00:00Z"), aged("b", "2026-01-01T00:00:00Z")]),
        "b#0"
    );
    assert_eq!(first(&[aged("a", ""), aged("b", "2026-01-01T00:00:00Z")]), "b#0");
}

#[test]
fn editing_a_route_does_not_change_who_wins() {
    let (a, b) = (
        route("HTTPRoute", "shop", "a", &rule("")),
        route("HTTPRoute", "shop", "b", &rule("")),
    );
    let mut world = World::new(&(shop() + &a + &b));
    world.edit(&a);
    assert_eq!(world.route(REVIEWS, "web", "GET /"), "a#0");
}

#[test]
fn routes_of_the_clients_namespace_act_there_only_and_come_before_those_of_the_service() {
    let producer = route(
        "HTTPRoute",
        "shop",
        "producer",
        &(rule("{path: {type: Exact, value: /a}}") + &rule("")),
    );
    let consumer = route(
        "HTTPRoute",
        "web",
        "consumer",
        &rule("{headers: [{name: x, value: '1'}]}"),
    );
    let world = World::new(&(shop() + &producer + &consumer));
    for (client, request, want) in [
        ("web", "GET /a x:1", "consumer#0"),
        ("web", "GET /a", "producer#0"),
        ("other", "GET /a x:1", "producer#0"),
        ("shop", "GET /a x:1", "producer#0"),
    ] {
        assert_eq!(world.route(REVIEWS, client, request), want, "{client} {request}");
    }
    assert_eq!(
        world.lookup(REVIEWS, "web"),
        Lookup::Service("shop/reviews:80@web".to_owned())
    );
    assert_eq!(
        world.lookup(REVIEWS, "other"),
        Lookup::Service("shop/reviews:80".to_owned())
    );
}

#[test]
fn a_consumers_route_alone_leaves_other_namespaces_without_routes() {
    let world = World::new(
        &(shop()
            + &route(
                "HTTPRoute",
                "web",
                "consumer",
                &rule("{path: {type: Exact, value: /a}}"),
            )),
    );
    assert!(world.service(REVIEWS, "other").value.rules.is_none());
    assert_eq!(world.route(REVIEWS, "web", "GET /b"), "404");
}
