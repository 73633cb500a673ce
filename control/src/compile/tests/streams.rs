//! What TCPRoutes and TLSRoutes become.

use weft_model::destination::Protocol;

use super::*;

/// A route of streams on Service `reviews` of `shop`.
fn of_streams(kind: &str, namespace: &str, name: &str, more: &str, backends: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, name: reviews}}], {more}rules: [{{backendRefs: [{backends}]}}]}}\n"
    )
}

/// The shop, with a port of whose name nothing follows.
fn plain() -> String {
    let shop = shop().replace("{name: http, port: 80}", "{name: x, port: 80}");
    shop.replace("{name: http, port: 8080}", "{name: x, port: 8080}")
}

const V1: &str = "{group: weft.dev, kind: ServiceSubset, namespace: shop, name: v1, port: 80, weight: 90}";
const V2: &str = "{group: weft.dev, kind: ServiceSubset, namespace: shop, name: v2, port: 80, weight: 10}";

/// `ROUTE HOST KEY WEIGHT…` of the rules for streams.
fn streams(world: &World, client: &str) -> Vec<String> {
    let streams = world.service(REVIEWS, client).value.streams.expect("routes of streams");
    let rule = |rule: &Arc<weft_model::stream::StreamRule>| {
        let backends = rule.backends.iter().map(|backend| match &backend.place {
            BackendPlace::Endpoints(key) => format!("{key} {}", backend.weight),
            BackendPlace::Unresolved(why) => format!("refused {}: {why}", backend.weight),
        });
        let host = rule.host.as_deref().unwrap_or("any");
        format!(
            "{} {host}: {}",
            rule.route.name,
            backends.collect::<Vec<_>>().join(", ")
        )
    };
    streams.rules.iter().map(rule).collect()
}

#[test]
fn a_tcp_route_splits_streams_by_weight_and_declares_the_port() {
    let world = World::new(&(plain() + &of_streams("TCPRoute", "shop", "r", "", &format!("{V1}, {V2}"))));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(
        streams(&world, "web"),
        ["r any: shop/reviews:80#v1 90, shop/reviews:80#v2 10"]
    );
    let service = world.service(REVIEWS, "web");
    assert_eq!(service.value.protocol, Protocol::Opaque);
    assert!(service.value.rules.is_none());
    assert_eq!(requires(&service), ["stream-routes/1"]);
    let closure = closure(&world.index, &REVIEWS.parse().unwrap(), "web");
    let keys: Vec<&str> = closure.endpoints.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["shop/reviews:80", "shop/reviews:80#v1", "shop/reviews:80#v2"]);
}

#[test]
fn tls_routes_are_told_apart_by_server_names_the_more_exact_first_and_tcp_takes_the_rest() {
    let tls = |name: &str, hosts: &str, backend: &str| {
        of_streams("TLSRoute", "shop", name, &format!("hostnames: [{hosts}], "), backend)
    };
    let routes = [
        of_streams("TCPRoute", "shop", "rest", "", V2),
        tls("star", "'*.example', '*.b.example'", V1),
        tls("whole", "a.example", V2),
    ];
    let world = World::new(&(plain() + &routes.concat()));
    assert_eq!(world.problems(), Vec::<String>::new());
    let names: Vec<String> = streams(&world, "web")
        .iter()
        .map(|rule| rule.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        ["whole a.example", "star *.b.example", "star *.example", "rest any"]
    );
    assert_eq!(world.service(REVIEWS, "web").value.protocol, Protocol::Tls);
}

#[test]
fn a_consumers_route_of_streams_acts_on_its_own_namespace_only_and_comes_first() {
    let producer = of_streams("TCPRoute", "shop", "producer", "", V1);
    let consumer = of_streams("TCPRoute", "web", "consumer", "", V2);
    let world = World::new(&(plain() + &producer + &consumer));
    assert!(streams(&world, "web")[0].starts_with("consumer"));
    assert_eq!(streams(&world, "other").len(), 1);
    assert!(streams(&world, "other")[0].starts_with("producer"));
    let alone = World::new(&(plain() + &consumer));
    assert!(alone.service(REVIEWS, "other").value.streams.is_none());
    assert_eq!(alone.service(REVIEWS, "other").value.protocol, Protocol::Undeclared);
}

#[test]
fn beside_routes_of_requests_the_bytes_decide_and_both_act() {
    let http = route("HTTPRoute", "shop", "h", &rule(""));
    let world = World::new(&(plain() + &http + &of_streams("TCPRoute", "shop", "t", "", V1)));
    let service = world.service(REVIEWS, "web").value;
    assert_eq!(service.protocol, Protocol::Undeclared);
    assert!(service.rules.is_some() && service.streams.is_some());
}

#[test]
fn a_route_of_requests_that_names_the_port_leaves_it_to_the_bytes_where_streams_have_routes_too() {
    let named = |kind: &str, namespace: &str, name: &str| {
        route(kind, namespace, name, &rule(""))
            .replace("name: reviews}]\n  rules", "name: reviews, port: 80}]\n  rules")
    };
    let tls = of_streams("TLSRoute", "shop", "t", "hostnames: [a.example], ", V1);
    let http = named("HTTPRoute", "shop", "h");
    for streams in [of_streams("TCPRoute", "shop", "t", "", V1), tls] {
        for requests in [http.clone(), named("GRPCRoute", "shop", "h")] {
            let world = World::new(&(plain() + &requests + &streams));
            assert_eq!(world.problems(), Vec::<String>::new());
            let service = world.service(REVIEWS, "web").value;
            assert_eq!(service.protocol, Protocol::Undeclared);
            assert!(service.rules.is_some() && service.streams.is_some());
            let inbound = inbound(&world.index, "shop", "p1").unwrap().value;
            assert_eq!(inbound.ports[0].protocol, Protocol::Undeclared);
        }
    }
    let alone = World::new(&(plain() + &http));
    assert_eq!(alone.service(REVIEWS, "web").value.protocol, Protocol::Http);
}

/// The pods take no bytes there, for they would carry requests past what looks at each.
#[test]
fn a_consumer_cannot_declare_away_that_a_producers_route_says_http() {
    let http = route("HTTPRoute", "shop", "h", &rule(""))
        .replace("name: reviews}]\n  rules", "name: reviews, port: 80}]\n  rules");
    let streams = of_streams("TCPRoute", "web", "t", "", V1);
    let world = World::new(&(plain() + &http + &streams));
    assert_eq!(world.service(REVIEWS, "web").value.protocol, Protocol::Http);
    let condition = world.condition(("TCPRoute", "web", "t"), ConditionType::Accepted);
    assert_eq!(
        (condition.status, condition.reason.as_str()),
        (false, "UnsupportedProtocol")
    );
    assert!(
        condition.message.contains("by HTTPRoute shop/h"),
        "{}",
        condition.message
    );
    // Both of the consumer's own namespace: for its own clients the bytes decide.
    let world =
        World::new(&(plain() + &http.replace("namespace: shop, name: h", "namespace: web, name: h") + &streams));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.service(REVIEWS, "web").value.protocol, Protocol::Undeclared);
}

#[test]
fn a_route_of_streams_on_a_port_that_is_declared_as_http_does_not_act_and_says_so() {
    let world = World::new(&(shop() + &of_streams("TCPRoute", "shop", "t", "", V1)));
    let condition = world.condition(("TCPRoute", "shop", "t"), ConditionType::Accepted);
    assert_eq!(
        (condition.status, condition.reason.as_str()),
        (false, "UnsupportedProtocol")
    );
    assert!(condition.message.contains("as HTTP"), "{}", condition.message);
}

#[test]
fn what_a_route_of_streams_cannot_say_is_refused_by_field() {
    for (kind, yaml, field, words) in [
        (
            "TLSRoute",
            of_streams("TLSRoute", "shop", "t", "", V1),
            "spec.hostnames",
            "1 to 16",
        ),
        (
            "TLSRoute",
            of_streams("TLSRoute", "shop", "t", "hostnames: [A.example], ", V1),
            "spec.hostnames[0]",
            "no name",
        ),
        (
            "TCPRoute",
            of_streams("TCPRoute", "shop", "t", "hostnames: [a.example], ", V1),
            "spec.hostnames",
            "no names",
        ),
        (
            "TCPRoute",
            of_streams("TCPRoute", "shop", "t", "", ""),
            "spec.rules[0].backendRefs",
            "no backend",
        ),
        (
            "TCPRoute",
            of_streams("TCPRoute", "shop", "t", "", V1).replace("rules: [", "rules: [{backendRefs: []}, "),
            "spec.rules",
            "exactly one",
        ),
        (
            "TCPRoute",
            of_streams(
                "TCPRoute",
                "shop",
                "t",
                "",
                &V1.replace("weight: 90", "filters: [{type: CORS}]"),
            ),
            "spec.rules[0].backendRefs[0].filters",
            "about requests",
        ),
        (
            "TCPRoute",
            of_streams("TCPRoute", "shop", "t", "", &V1.replace("90", "-1")),
            "spec.rules[0].backendRefs[0].weight",
            "no weight",
        ),
    ] {
        let world = World::new(&(shop() + &yaml));
        let condition = world.condition((kind, "shop", "t"), ConditionType::Accepted);
        assert_eq!(
            (condition.status, condition.field.as_str()),
            (false, field),
            "{}",
            condition.message
        );
        assert!(condition.message.contains(words), "{}", condition.message);
    }
}
