//! What filters, timeouts and retries of routes become, and what is refused and why.

use std::time::Duration;

use weft_model::filter::PathChange;
use weft_model::route::{Rule, Rules};
use weft_model::traffic::Balance;

use super::routes::refused;
use super::*;

const BACKENDS: &str = "backendRefs: [{name: reviews, port: 80}]";

/// The only rule of an HTTPRoute with these parts, and what a proxy must honour for it.
#[track_caller]
fn compiled(parts: &str) -> (Arc<Rule>, Vec<String>) {
    let world = World::new(&(shop() + &route("HTTPRoute", "shop", "r", &format!("  - {parts}\n"))));
    assert_eq!(world.problems(), Vec::<String>::new());
    let service = world.service(REVIEWS, "web");
    let requires = requires(&service);
    let rules = service.value.rules.expect("routes").rules;
    assert_eq!(rules.len(), 1);
    (rules[0].clone(), requires)
}

#[test]
fn headers_are_changed_as_written() {
    let (rule, requires) = compiled(&format!(
        "filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-A, value: a}}], add: [{{name: x-b, value: b}}], remove: [X-C]}}}},
       {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-d, value: d}}]}}}}]
    {BACKENDS}"
    ));
    let changes = &rule.filters.request_headers;
    assert_eq!(changes.set[0].0, "x-a");
    assert_eq!(changes.add[0].1, "b");
    assert_eq!(changes.remove[0], "x-c");
    assert_eq!(rule.filters.response_headers.set[0].0, "x-d");
    assert_eq!(requires, ["filters/1", "http-routes/1"]);
}

#[test]
fn a_replaced_prefix_is_that_of_the_match() {
    let (rule, _) = compiled(&format!(
        "matches: [{{path: {{value: /old}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{hostname: other.example, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}]
    {BACKENDS}"
    ));
    let rewrite = rule.filters.rewrite.clone().unwrap();
    assert_eq!(rewrite.host.as_deref(), Some("other.example"));
    assert_eq!(
        rewrite.path,
        Some(PathChange::Prefix {
            from: "/old".to_owned(),
            to: "/new".to_owned()
        })
    );
}

#[test]
fn a_redirect_is_302_where_nothing_else_is_said() {
    let (rule, _) = compiled("filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443}}]");
    let redirect = rule.redirect.clone().unwrap();
    assert_eq!((redirect.status, redirect.port), (302, Some(8443)));
    assert!(rule.backends.is_empty());
}

#[test]
fn a_mirror_has_a_set_of_its_own_in_the_same_batch() {
    let parts = "filters: [{type: RequestMirror, requestMirror: {backendRef: {group: weft.dev, kind: ServiceSubset, name: v2, port: 80}, percent: 50}}]
    backendRefs: [{group: weft.dev, kind: ServiceSubset, name: v1, port: 80}]";
    let (rule, requires) = compiled(parts);
    let mirror = &rule.filters.mirrors[0];
    assert_eq!(
        (mirror.numerator, mirror.denominator, mirror.subset.as_str()),
        (50, 100, "v2")
    );
    assert_eq!(requires, ["http-routes/1", "mirror/1"]);
    let world = World::new(&(shop() + &route("HTTPRoute", "shop", "r", &format!("  - {parts}\n"))));
    let closure = closure(&world.index, &REVIEWS.parse().unwrap(), "web");
    let keys: Vec<&str> = closure.endpoints.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["shop/reviews:80", "shop/reviews:80#v1", "shop/reviews:80#v2"]);
}

#[test]
fn copies_are_spread_as_the_mirrors_own_service_says() {
    let other = service_of("shop", "other", "10.96.0.2", &[("http", 80)]);
    let mirrored = "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}}}]\n    backendRefs: [{name: reviews, port: 80}]\n";
    let policy = |name: &str, service: &str, balancer: &str| {
        let target = format!("{{group: '', kind: Service, name: {service}}}");
        let head = format!("metadata: {{name: {name}, namespace: shop}}");
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\n{head}\nspec: {{targetRefs: [{target}], balancer: {balancer}}}\n"
        )
    };
    let route = route("HTTPRoute", "shop", "r", mirrored);
    let of_both = policy("a", "reviews", "RoundRobin") + &policy("b", "other", "Random");
    let mut world = World::new(&(shop() + &other + &route + &of_both));
    assert_eq!(world.problems(), Vec::<String>::new());
    let service = world.service(REVIEWS, "web");
    assert!(requires(&service).contains(&"backend-traffic/1".to_owned()));
    let of_mirror = |rules: Option<Rules>| rules.unwrap().rules[0].filters.mirrors[0].traffic.clone();
    assert_eq!(of_mirror(service.value.rules).unwrap().balance, Balance::Random);
    let changed = world.edit(&policy("b", "other", "RoundRobin"));
    assert!(changed.topics.iter().any(|topic| service.topics.contains(topic)));
    assert_eq!(of_mirror(world.service(REVIEWS, "web").value.rules), None);
}

#[test]
fn a_mirror_that_does_not_resolve_is_said_and_the_rest_acts() {
    let parts = format!(
        "filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: nowhere, port: 80}}}}}}]
    {BACKENDS}"
    );
    let world = World::new(&(shop() + &route("HTTPRoute", "shop", "r", &format!("  - {parts}\n"))));
    let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::ResolvedRefs);
    assert_eq!(
        (condition.status, condition.field.as_str()),
        (false, "spec.rules[0].filters[0].requestMirror.backendRef.name")
    );
    assert_eq!(world.split(REVIEWS), ["shop/reviews:80 1"]);
}

#[test]
fn timeouts_and_retries_are_read_and_zero_is_none() {
    let (rule, requires) = compiled(&format!(
        "timeouts: {{request: 1m30s, backendRequest: 500ms}}
    retry: {{codes: [503, 500, 503], attempts: 3, backoff: 100ms}}
    {BACKENDS}"
    ));
    assert_eq!(rule.timeouts.request, Some(Duration::from_secs(90)));
    assert_eq!(rule.timeouts.backend_request, Some(Duration::from_millis(500)));
    let retry = rule.retry.clone().unwrap();
    assert_eq!((retry.attempts, retry.codes), (3, vec![500, 503]));
    assert_eq!(retry.backoff, Duration::from_millis(100));
    assert_eq!(requires, ["http-routes/1", "retry/1", "timeouts/1"]);
    let (rule, requires) = compiled(&format!(
        "timeouts: {{request: 0s, backendRequest: 10s}}\n    {BACKENDS}"
    ));
    assert_eq!((rule.timeouts.request, requires.len()), (None, 2));
    let (rule, requires) = compiled(&format!("timeouts: {{request: 0s}}\n    {BACKENDS}"));
    assert_eq!((rule.timeouts.request, requires.len()), (None, 1));
}

#[track_caller]
fn refused_filter(filters: &str, field: &str, words: &str) {
    let rules = format!("  - filters: [{filters}]\n    {BACKENDS}\n");
    refused("HTTPRoute", &rules, &format!("spec.rules[0].{field}"), words);
}

#[test]
fn an_invalid_change_of_a_header_is_refused_by_field() {
    let headers = |changes: &str, field: &str, words: &str| {
        refused_filter(
            &format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{changes}}}}}"),
            &format!("filters[0].requestHeaderModifier.{field}"),
            words,
        );
    };
    headers("set: [{name: a b, value: c}]", "set[0].name", "no name");
    headers("set: [{name: a, value: ''}]", "set[0].value", "no value");
    headers(
        "add: [{name: a, value: b}, {name: A, value: c}]",
        "add[1].name",
        "twice",
    );
    headers("remove: [Host]", "remove[0]", "host");
    headers("remove: [Expect]", "remove[0]", "expect");
    headers(
        "set: [{name: Content-Length, value: '1'}]",
        "set[0].name",
        "content-length",
    );
    headers(
        "set: [{name: X-Weft-Source, value: '1'}]",
        "set[0].name",
        "x-weft-source",
    );
}

#[test]
fn an_invalid_filter_is_refused_by_field_and_the_last_good_route_stays() {
    refused_filter("{type: Nonsense}", "filters[0].type", "Nonsense");
    refused_filter(
        "{type: RequestHeaderModifier}",
        "filters[0].requestHeaderModifier",
        "missing",
    );
    refused_filter(
        "{type: URLRewrite, urlRewrite: {}, cors: {}}",
        "filters[0].cors",
        "another type",
    );
    refused_filter(
        "{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}",
        "filters[1].type",
        "twice",
    );
    refused_filter(
        "{type: URLRewrite, urlRewrite: {hostname: 'a:80'}}",
        "filters[0].urlRewrite.hostname",
        "no host name",
    );
    refused_filter(
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}}",
        "filters[0].urlRewrite.path.replaceFullPath",
        "no path",
    );
    refused_filter(
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}",
        "filters[0].urlRewrite.path.replaceFullPath",
        "missing",
    );
    refused_filter(
        "{type: RequestRedirect, requestRedirect: {}}",
        "backendRefs",
        "sends nowhere",
    );
    refused_filter(
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/<a>'}}}",
        "filters[0].urlRewrite.path.replaceFullPath",
        "no path",
    );
}

#[test]
fn an_invalid_mirror_is_refused_by_field() {
    let mirror = |mirror: &str, field: &str, words: &str| {
        refused_filter(
            &format!("{{type: RequestMirror, requestMirror: {{{mirror}}}}}"),
            &format!("filters[0].requestMirror{field}"),
            words,
        );
    };
    let to = "backendRef: {name: reviews, port: 80}";
    mirror(&format!("{to}, percent: 101"), ".percent", "no share");
    mirror(
        &format!("{to}, fraction: {{numerator: 1, denominator: 0}}"),
        ".fraction",
        "no share",
    );
    mirror(&format!("{to}, percent: 1, fraction: {{numerator: 1}}"), "", "both");
    mirror("backendRef: {name: reviews}", ".backendRef.port", "missing");
}

#[test]
fn an_invalid_redirect_timeout_or_retry_is_refused_by_field() {
    let redirect = |redirect: &str, field: &str, words: &str| {
        let rules = format!("  - filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]\n");
        let field = format!("spec.rules[0].filters[0].requestRedirect.{field}");
        refused("HTTPRoute", &rules, &field, words);
    };
    redirect("scheme: ftp", "scheme", "ftp");
    redirect("port: 0", "port", "0");
    redirect("statusCode: 200", "statusCode", "200");
    let part = |part: &str, field: &str, words: &str| {
        let rules = format!("  - {part}\n    {BACKENDS}\n");
        refused("HTTPRoute", &rules, &format!("spec.rules[0].{field}"), words);
    };
    part("timeouts: {request: 1d}", "timeouts.request", "no duration");
    part(
        "timeouts: {request: 1s, backendRequest: 2s}",
        "timeouts.backendRequest",
        "longer",
    );
    part("retry: {codes: [200]}", "retry.codes[0]", "200");
    part("retry: {attempts: -1}", "retry.attempts", "-1");
    part("retry: {backoff: 1x}", "retry.backoff", "no duration");
    let exact = "matches: [{path: {type: Exact, value: /a}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]";
    part(exact, "matches", "prefix");
}

#[test]
fn a_grpc_route_changes_headers_and_mirrors_and_nothing_else() {
    let grpc = |filter: &str, words: &str| {
        let rules = format!("  - filters: [{filter}]\n    {BACKENDS}\n");
        refused("GRPCRoute", &rules, "spec.rules[0].filters[0].type", words);
    };
    grpc("{type: URLRewrite, urlRewrite: {}}", "URLRewrite");
    grpc("{type: RequestRedirect, requestRedirect: {}}", "RequestRedirect");
    let rules = format!(
        "  - filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{remove: [a]}}}}]\n    {BACKENDS}\n"
    );
    let world = World::new(&(shop() + &route("GRPCRoute", "shop", "r", &rules)));
    assert_eq!(world.problems(), Vec::<String>::new());
}

/// Each example of the page, beside the first, which the others are about.
#[test]
fn every_example_of_the_page_about_routes_is_accepted_as_it_stands() {
    let page = include_str!("../../../../docs/routes.md");
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() > 9, "{}", examples.len());
    for example in &examples[1..] {
        let world = World::new(&format!("{}---\n{example}", examples[0]));
        assert_eq!(world.problems(), Vec::<String>::new(), "{example}");
        for status in world.index.statuses() {
            for condition in status.conditions {
                let good = condition.status != (condition.r#type == ConditionType::PartiallyInvalid);
                assert!(good, "{condition:?}\n{example}");
            }
        }
    }
}
