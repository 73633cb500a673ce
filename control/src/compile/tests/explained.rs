//! Explanations are what proxies do.

use serde_json::Value;
use weft_model::filter::Scheme;

use super::*;
use crate::explain::{Question, explain};

fn question(target: &str) -> Question {
    Question {
        namespace: "web".to_owned(),
        from: None,
        scheme: Scheme::Http,
        target: target.parse().unwrap(),
        authority: "reviews".to_owned(),
        method: Method::GET,
        path: "/".to_owned(),
        query: None,
        headers: HeaderMap::new(),
        stream: false,
        server_name: None,
    }
}

#[track_caller]
fn answer(world: &World, question: &Question) -> Value {
    serde_json::to_value(explain(&world.index, question).unwrap()).unwrap()
}

/// A shop of whose port nothing is declared, with a route of requests and one of TLS.
fn both() -> World {
    let shop = shop().replace("{name: http, port: 80}", "{name: x, port: 80}");
    let tls = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {namespace: shop, name: t}\nspec: {parentRefs: [{group: '', kind: Service, name: reviews}], hostnames: [a.example], rules: [{backendRefs: [{group: weft.dev, kind: ServiceSubset, name: v1, port: 80}]}]}\n";
    World::new(&(shop + tls + &route("HTTPRoute", "shop", "h", &rule(""))))
}

#[test]
fn a_stream_on_an_undeclared_port_falls_under_routes_of_streams_and_a_request_under_the_others() {
    let world = both();
    let request = answer(&world, &question(REVIEWS));
    assert_eq!(request["rules"][0]["said"]["object"], "HTTPRoute shop/h");
    assert_eq!(request["verdict"]["stream"], false);
    let stream = |name: Option<&str>| {
        let server_name = name.map(str::to_owned);
        let question = Question {
            stream: true,
            server_name,
            ..question(REVIEWS)
        };
        answer(&world, &question)
    };
    let named = stream(Some("a.example"));
    assert_eq!(named["rules"][0]["said"]["object"], "TLSRoute shop/t");
    assert_eq!(named["verdict"]["backends"][0]["subset"], "v1");
    assert_eq!(named["verdict"]["stream"], true);
    let plain = stream(None);
    assert_eq!(
        (&plain["verdict"]["does"], &plain["verdict"]["status"]),
        (&"noMatch".into(), &0.into())
    );
}

#[test]
fn a_stream_on_a_port_without_routes_of_streams_goes_to_the_service_whatever_routes_of_requests_say() {
    let shop = shop().replace("{name: http, port: 80}", "{name: x, port: 80}");
    let world = World::new(&(shop + &route("HTTPRoute", "shop", "h", &rule("{path: {value: /only}}"))));
    let question = Question {
        stream: true,
        ..question(REVIEWS)
    };
    let said = answer(&world, &question);
    assert_eq!(said["verdict"]["does"], "forward", "{said:#}");
    assert_eq!(said["rules"], Value::Array(Vec::new()));
}

#[test]
fn a_stream_on_a_port_that_takes_http_only_is_refused() {
    let world = World::new(&shop());
    for target in [REVIEWS, "10.244.0.1:8080"] {
        let question = Question {
            stream: true,
            ..question(target)
        };
        assert_eq!(answer(&world, &question)["verdict"]["does"], "notHttp", "{target}");
    }
    assert_eq!(answer(&world, &question("10.244.0.1:8080"))["verdict"]["does"], "pod");
}

#[test]
fn a_query_parameter_is_there_however_it_is_written() {
    let wants = "{queryParams: [{name: 'a b', value: x}]}";
    let world = World::new(&(shop() + &route("HTTPRoute", "shop", "h", &rule(wants))));
    let why = |query: &str| {
        let question = Question {
            query: Some(query.to_owned()),
            ..question(REVIEWS)
        };
        answer(&world, &question)["rules"][0]["why"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(why("a%20b=y"), "the query parameter a b is not = \"x\"");
    assert_eq!(why("a+b=y"), "the query parameter a b is not = \"x\"");
    assert_eq!(why("ab=y"), "there is no query parameter a b");
    assert_eq!(why("a+b=x"), "");
}

/// What is behind an import or a Service is named with its cluster, where that is another one.
#[test]
fn pods_of_other_clusters_are_named_with_their_cluster() {
    use super::federation::{hear, hear_as, import_service, peer};
    let derived = crate::federation::derived::derived_name(&Name::new("shop", "reviews"));
    let base = shop() + &peer("a", "  imports: [{namespaces: [shop]}]\n");
    let mut world = World::new(&(base + &import_service(&derived, "10.96.7.7", "http")));
    hear(&mut world, "a", "10.250.0.1:8080");
    let behind = |world: &World, target: &str| {
        answer(world, &question(target))["verdict"]["backends"][0]["behind"]["tiers"].clone()
    };
    let tiers = behind(&world, REVIEWS).to_string();
    assert!(
        tiers.contains("shop/p3 of cluster a") && tiers.contains("\"shop/p2\""),
        "{tiers}"
    );
    assert!(tiers.contains("a/a1 of cluster a"), "{tiers}");
    let last = behind(&world, REVIEWS).as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["endpoints"], &last["pods"][0]),
        (&1.into(), &"shop/p3 of cluster a".into())
    );
    assert_eq!(last["percent"], 0.0, "as long as ours are well");
    // By the name that all clusters have for it.
    let by_name = answer(&world, &question("name:reviews.shop.svc.clusterset.local:80"));
    assert_eq!(by_name["service"], "shop/reviews:80");
    assert_eq!(
        by_name["verdict"]["backends"][0]["behind"]["tiers"][0]["pods"][0],
        "shop/p3 of cluster a"
    );
    // The pod itself.
    let pod = answer(&world, &question("10.250.0.1:8080"));
    assert_eq!(pod["verdict"]["pod"], "shop/p3 of cluster a");
    let own = answer(&world, &question("10.244.0.1:8080"));
    assert_eq!(own["verdict"]["pod"], "shop/p1");
    // Without an address.
    hear_as(&mut world, "a", "10.250.0.1:8080", |said| said.headless = true);
    let none = import_service(&derived, "None", "http").replace(", clusterIPs: ['None']", "");
    world.edit(&none);
    let one_of = answer(&world, &question("name:reviews.shop.svc.clusterset.local:80"));
    assert_eq!(
        one_of["verdict"]["pods"],
        serde_json::json!(["shop/p3 of cluster a"]),
        "{one_of}"
    );
}
