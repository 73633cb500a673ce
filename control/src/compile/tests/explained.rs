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
