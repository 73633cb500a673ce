//! Where requests go, and what is refused and why.

use super::*;

fn backends(lines: &[&str]) -> String {
    route(
        "HTTPRoute",
        "shop",
        "r",
        &format!("  - backendRefs: [{}]\n", lines.join(", ")),
    )
}

fn subset(name: &str, more: &str) -> String {
    format!("{{group: weft.dev, kind: ServiceSubset, name: {name}, port: 80{more}}}")
}

#[test]
fn weights_default_to_one_and_subsets_are_sets_of_their_own() {
    let world = World::new(
        &(shop()
            + &backends(&[
                &subset("v1", ", weight: 90"),
                &subset("v2", ", weight: 10"),
                "{name: reviews, port: 80}",
            ])),
    );
    assert_eq!(
        world.split(REVIEWS),
        ["shop/reviews:80#v1 90", "shop/reviews:80#v2 10", "shop/reviews:80 1"]
    );
    assert_eq!(world.problems(), Vec::<String>::new());
    let compiled = world.service(REVIEWS, "web");
    assert_eq!(requires(&compiled), ["http-routes/1"]);
    let closure = closure(&world.index, &REVIEWS.parse().unwrap(), "web");
    let keys: Vec<&str> = closure.endpoints.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(
        keys,
        ["shop/reviews:80", "shop/reviews:80#v1", "shop/reviews:80#v2"],
        "all in one batch"
    );
}

#[test]
fn without_routes_everything_goes_to_the_service_and_no_feature_is_needed() {
    let compiled = World::new(&shop()).service(REVIEWS, "web");
    assert!(compiled.value.rules.is_none() && requires(&compiled).is_empty());
    assert_eq!(compiled.value.endpoints, "shop/reviews:80");
}

#[test]
fn a_backend_that_does_not_resolve_answers_500_for_its_share_until_it_is_there() {
    let mut world = World::new(
        &(shop()
            + &backends(&[
                "{name: reviews, port: 80, weight: 3}",
                "{name: nowhere, port: 80}",
                "{name: reviews, port: 81}",
                "{kind: Secret, name: s}",
                &subset("v9", ""),
            ])),
    );
    assert_eq!(
        world.split(REVIEWS),
        [
            "shop/reviews:80 3",
            "500 1: there is no Service shop/nowhere",
            "500 1: the Service shop/reviews has no TCP port 81",
            "500 1: Secret cannot be a backend here",
            "500 1: there is no ServiceSubset shop/v9",
        ]
    );
    let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::ResolvedRefs);
    assert_eq!(
        (condition.status, condition.reason.as_str()),
        (false, "BackendNotFound")
    );
    assert_eq!(condition.field, "spec.rules[0].backendRefs[1].name");
    assert!(
        world
            .condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted)
            .status
    );
    assert_eq!(world.problems().len(), 4);

    let topics = world.service(REVIEWS, "web").topics;
    let changed = world.edit(&service_of("shop", "nowhere", "10.96.0.9", &[("http", 80)]));
    assert!(
        changed.topics.intersection(&topics).next().is_some(),
        "the route is compiled again"
    );
    assert_eq!(world.split(REVIEWS)[1], "shop/nowhere:80 1");
}

#[test]
fn a_backend_may_be_in_another_namespace_without_a_grant() {
    let other = service_of("other", "b", "10.96.0.7", &[("http", 90)]);
    let world = World::new(&(shop() + &other + &backends(&["{name: b, namespace: other, port: 90}"])));
    assert_eq!(world.split(REVIEWS), ["other/b:90 1"]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn a_parent_is_a_port_by_number_or_name_or_all_of_them() {
    let two = service_of("shop", "two", "10.96.0.2", &[("http", 80), ("http-admin", 81)]);
    for (parent, ports) in [
        ("", "80 81"),
        (", port: 81", "81"),
        (", sectionName: http-admin", "81"),
        (", port: 80, sectionName: http-admin", ""),
    ] {
        let route = route("HTTPRoute", "shop", "r", &rule(""))
            .replace("name: reviews}]\n  rules", &format!("name: two{parent}}}]\n  rules"));
        let world = World::new(&(shop() + &two + &route));
        let routed = [80, 81]
            .into_iter()
            .filter(|port| world.service(&format!("10.96.0.2:{port}"), "web").value.rules.is_some());
        assert_eq!(
            routed.map(|port| port.to_string()).collect::<Vec<_>>().join(" "),
            ports,
            "{parent}"
        );
        assert_eq!(
            world
                .condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted)
                .status,
            !ports.is_empty()
        );
    }
}

#[test]
fn a_parent_that_cannot_be_had_is_named() {
    for (parent, reason, field) in [
        (
            "{group: '', kind: Service, name: nowhere}",
            "NoMatchingParent",
            "spec.parentRefs[0].name",
        ),
        (
            "{group: '', kind: Service, name: reviews, port: 99}",
            "NoMatchingParent",
            "spec.parentRefs[0].port",
        ),
        (
            "{group: '', kind: Service, name: headless}",
            "NoMatchingParent",
            "spec.parentRefs[0].name",
        ),
        (
            "{group: '', kind: Service, name: db}",
            "UnsupportedProtocol",
            "spec.parentRefs[0].port",
        ),
        ("{name: gateway}", "NoMatchingParent", "spec.parentRefs"),
    ] {
        let route = route("HTTPRoute", "shop", "r", &rule(""))
            .replace("{group: '', kind: Service, namespace: shop, name: reviews}", parent);
        let headless = service_of("shop", "headless", "None", &[("http", 80)]);
        let db = service_of("shop", "db", "10.96.0.3", &[("tcp-db", 5432)]);
        let world = World::new(&(shop() + &headless + &db + &route));
        let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted);
        assert_eq!(
            (condition.status, condition.reason.as_str(), condition.field.as_str()),
            (false, reason, field)
        );
        assert_eq!(world.problems().len(), 1);
    }
}

/// A route whose rules are refused: field, and a word of the message.
#[track_caller]
pub(super) fn refused(kind: &str, rules: &str, field: &str, words: &str) {
    let good = route(kind, "shop", "r", &rule(""));
    let mut world = World::new(&(shop() + &good));
    world.edit(&route(kind, "shop", "r", rules));
    let condition = world.condition((kind, "shop", "r"), ConditionType::Accepted);
    assert!(!condition.status && condition.message.contains(words), "{condition:?}");
    assert_eq!(condition.field, field);
    assert!(
        condition.message.ends_with("version 1 of it still acts"),
        "{condition:?}"
    );
    assert!(!world.problems().is_empty());
    // Held: the last good form goes on.
    assert_eq!(world.split(REVIEWS), ["shop/reviews:80 1"]);
}

#[test]
fn an_invalid_match_is_refused_by_field_and_the_last_good_route_stays() {
    let http = |matches: &str, field: &str, words: &str| {
        refused("HTTPRoute", &rule(matches), &format!("spec.rules[0].{field}"), words)
    };
    http(
        "{path: {type: RegularExpression, value: '('}}",
        "matches[0].path.value",
        "regular expression",
    );
    http("{path: {type: Sufix, value: /a}}", "matches[0].path.type", "Sufix");
    http("{path: {value: a}}", "matches[0].path.value", "absolute");
    http("{path: {value: '/a?b=c'}}", "matches[0].path.value", "no request");
    http("{path: {value: /a/../b}}", "matches[0].path.value", "no request");
    http("{method: FETCH}", "matches[0].method", "FETCH");
    http("{method: GET}, {method: get}", "matches[1].method", "get");
    http(
        "{headers: [{name: X, value: a}, {name: x, value: b}]}",
        "matches[0].headers[1].name",
        "twice",
    );
    http(
        "{headers: [{name: 'a b', value: a}]}",
        "matches[0].headers[0].name",
        "no name",
    );
    http(
        "{headers: [{name: a, type: Prefix, value: a}]}",
        "matches[0].headers[0].type",
        "Prefix",
    );
    http(
        "{headers: [{name: a, type: RegularExpression, value: '['}]}",
        "matches[0].headers[0].value",
        "regular expression",
    );
    http(
        "{queryParams: [{name: q, value: a}, {name: q, value: b}]}",
        "matches[0].queryParams[1].name",
        "twice",
    );
    http("{headers: [{name: a}]}", "matches[0].headers[0]", "value");
}

#[test]
fn an_invalid_grpc_match_is_refused_by_field_and_the_last_good_route_stays() {
    let grpc = |matches: &str, field: &str, words: &str| {
        refused("GRPCRoute", &rule(matches), &format!("spec.rules[0].{field}"), words)
    };
    grpc("{method: {}}", "matches[0].method", "neither");
    grpc("{method: {service: a/b}}", "matches[0].method.service", "no name");
    grpc("{method: {method: a.b}}", "matches[0].method.method", "no name");
    grpc(
        "{method: {type: RegularExpression, method: '('}}",
        "matches[0].method.method",
        "regular expression",
    );
}

#[test]
fn an_invalid_backend_is_refused_by_field_and_the_last_good_route_stays() {
    let backend = |backend: &str, field: &str, words: &str| {
        refused(
            "HTTPRoute",
            &format!("  - backendRefs: [{backend}]\n"),
            &format!("spec.rules[0].backendRefs[0].{field}"),
            words,
        );
    };
    backend("{name: reviews}", "port", "missing");
    backend("{name: reviews, port: 70000}", "port", "70000");
    backend("{name: reviews, port: 80, weight: -1}", "weight", "-1");
    backend("{name: reviews, port: 80, weight: 1000001}", "weight", "1000001");
    backend("{name: reviews, port: '80'}", "port", "expected i64");
    backend("{name: Reviews, port: 80}", "name", "no name");
    backend(
        "{name: reviews, port: 80, filters: [{type: RequestRedirect}]}",
        "filters[0].type",
        "RequestRedirect",
    );
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    for (part, field, reason) in [
        (
            "filters: [{type: CORS, cors: {}}]",
            "filters[0].type",
            "IncompatibleFilters",
        ),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]",
            "filters[0].type",
            "IncompatibleFilters",
        ),
        ("sessionPersistence: {}", "sessionPersistence", "UnsupportedValue"),
    ] {
        let field = format!("spec.rules[0].{field}");
        let bad = route("HTTPRoute", "shop", "r", &format!("{}    {part}\n", rule("")));
        let mut world = World::new(&(shop() + &backends(&[&subset("v1", ""), &subset("v2", "")])));
        world.edit(&bad);
        let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted);
        assert_eq!(
            (condition.status, condition.reason.as_str(), condition.field.as_str()),
            (false, reason, field.as_str())
        );
        assert_eq!(
            world.split(REVIEWS),
            ["shop/reviews:80#v1 1", "shop/reviews:80#v2 1"],
            "the old split stays"
        );
    }
    let hosts = route("HTTPRoute", "shop", "r", &rule("")).replace("  rules:", "  hostnames: [a.example]\n  rules:");
    let world = World::new(&(shop() + &hosts));
    assert_eq!(
        world
            .condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted)
            .field,
        "spec.hostnames"
    );
}

#[test]
fn unknown_fields_are_reported_and_the_rest_acts() {
    let odd = route(
        "HTTPRoute",
        "shop",
        "r",
        &format!("{}    backendRef: [x]\n", rule("{path: {value: /a, regexp: x}}")),
    );
    let world = World::new(&(shop() + &odd));
    let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::PartiallyInvalid);
    assert_eq!((condition.status, condition.reason.as_str()), (true, "UnknownField"));
    assert!(
        condition.message.contains("spec.rules[0].backendRef")
            && condition.message.contains("spec.rules[0].matches[0].path.regexp")
    );
    assert!(
        world
            .condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted)
            .status
    );
    assert_eq!(world.route(REVIEWS, "web", "GET /a/b"), "r#0");
    assert_eq!(world.problems().len(), 2);
}

#[test]
fn problems_name_file_and_exact_line() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: reviews\n  namespace: shop\nspec:\n  parentRefs:\n  - group: ''\n    kind: Service\n    name: reviews\n  rules:\n  - matches:\n    - method: GET\n    - path:\n        type: Glob\n        value: /a\n";
    let parsed = parse(
        Path::new("dir/routes.yaml"),
        format!("{}---\n{text}", shop()),
        Writer::User,
        &Kinds::control(),
    )
    .unwrap();
    let offset = shop().lines().count() + 1;
    let problems = check(settings(), &parsed.objects);
    assert_eq!(
        problems[0].to_string(),
        format!(
            "dir/routes.yaml:{}: HTTPRoute shop/reviews: spec.rules[0].matches[1].path.type: \"Glob\" is no type of path match (fix: Exact, PathPrefix or RegularExpression)",
            offset + 15
        )
    );
    let Some(Origin { line, .. }) = &parsed.objects.last().unwrap().origin else {
        panic!()
    };
    assert_eq!(*line as usize, offset + 1);
}

#[test]
fn a_ports_protocol_is_what_the_service_declares_else_what_a_route_that_names_it_says() {
    let service = |ports: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: s}}\nspec: {{clusterIP: 10.96.0.2, ports: [{ports}]}}\n"
        )
    };
    let named = |kind: &str, port: &str| {
        route(kind, "shop", kind.to_lowercase().as_str(), &rule(""))
            .replace("name: reviews}]\n  rules", &format!("name: s{port}}}]\n  rules"))
    };
    use weft_model::destination::Protocol as P;
    for (ports, routes, want) in [
        ("{port: 80}", String::new(), P::Undeclared),
        ("{port: 80, appProtocol: http}", String::new(), P::Http),
        ("{port: 80, appProtocol: kubernetes.io/h2c}", String::new(), P::Http2),
        ("{port: 80, appProtocol: kubernetes.io/ws}", String::new(), P::Http),
        ("{port: 80, appProtocol: grpc}", String::new(), P::Grpc),
        ("{port: 80, appProtocol: https}", String::new(), P::Tls),
        ("{port: 80, appProtocol: tcp, name: http-x}", String::new(), P::Opaque),
        (
            "{port: 80, appProtocol: example.org/odd, name: http-x}",
            String::new(),
            P::Undeclared,
        ),
        ("{port: 80, name: http}", String::new(), P::Http),
        ("{port: 80, name: http2-x}", String::new(), P::Http2),
        ("{port: 80, name: grpc-x}", String::new(), P::Grpc),
        ("{port: 80, name: tls-x}", String::new(), P::Tls),
        ("{port: 80, name: tcp}", String::new(), P::Opaque),
        ("{port: 80, name: httpx}", String::new(), P::Undeclared),
        ("{port: 80}", named("HTTPRoute", ", port: 80"), P::Http),
        ("{port: 80}", named("GRPCRoute", ", port: 80"), P::Grpc),
        (
            "{port: 80}",
            named("GRPCRoute", ", port: 80") + &named("HTTPRoute", ", port: 80"),
            P::Http,
        ),
        ("{port: 80}", named("GRPCRoute", ""), P::Undeclared),
        (
            "{port: 80, appProtocol: http}",
            named("GRPCRoute", ", port: 80"),
            P::Http,
        ),
    ] {
        let world = World::new(&(shop() + &service(ports) + &routes));
        assert_eq!(
            world.service("10.96.0.2:80", "web").value.protocol,
            want,
            "{ports} {routes}"
        );
    }
}

#[test]
fn a_traffic_policy_sets_the_locality_and_the_oldest_acts() {
    let policy = |name: &str, locality: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: reviews}}], locality: {locality}}}\n"
        )
    };
    use weft_model::locality::{Locality, Prefer};
    let mut world = World::new(&shop());
    assert_eq!(world.service(REVIEWS, "web").value.locality, Locality::default());
    world.edit(&policy("b", "{prefer: Region, spillBelowPercent: 50}"));
    let compiled = world.service(REVIEWS, "web");
    assert_eq!(
        compiled.value.locality,
        Locality {
            prefer: Prefer::Region,
            spill_below_percent: 50,
            ..Locality::default()
        }
    );
    assert_eq!(requires(&compiled), ["locality/1"]);
    world.edit(&policy("a", "{prefer: None}"));
    assert_eq!(world.service(REVIEWS, "web").value.locality.prefer, Prefer::None);
    assert_eq!(
        world
            .condition(("TrafficPolicy", "shop", "b"), ConditionType::Accepted)
            .reason,
        "Conflicted"
    );
    world.delete("TrafficPolicy", "shop", "a");
    for (bad, field) in [
        ("{spillBelowPercent: 0}", "spec.locality.spillBelowPercent"),
        ("{prefer: Nearest}", "spec.locality.prefer"),
    ] {
        world.edit(&policy("b", bad));
        let condition = world.condition(("TrafficPolicy", "shop", "b"), ConditionType::Accepted);
        assert_eq!((condition.status, condition.field.as_str()), (false, field));
        assert_eq!(
            world.service(REVIEWS, "web").value.locality.prefer,
            Prefer::Region,
            "held"
        );
    }
}

#[test]
fn the_demos_manifests_have_no_mistakes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shop/manifests");
    let mut objects = Vec::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let parsed = parse(&path, &text, Writer::User, &Kinds::control()).unwrap();
        assert_eq!(parsed.problems[..], []);
        objects.extend(parsed.objects);
    }
    assert!(objects.iter().any(|object| object.kind == "HTTPRoute"));
    // `local` gives Services their addresses, so here they have none; nothing else is amiss.
    assert_eq!(check(settings(), &objects), []);
}
