//! What policies say, of what, and which of them acts.

use std::time::Duration;

use weft_model::locality::{Distribution, Prefer, Share};
use weft_model::route::{RetryBudget, Rule};
use weft_model::traffic::Balance;

use super::*;

const SERVICE: &str = "{group: '', kind: Service, name: reviews}";
const ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const BACKENDS: &str = "backendRefs: [{name: reviews, port: 80}]";

fn policy(name: &str, target: &str, says: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{targetRefs: [{target}], {says}}}\n"
    )
}

fn experiment(name: &str, says: &str) -> String {
    policy(name, SERVICE, says)
        .replace("weft.dev/v1alpha1", "gateway.networking.x-k8s.io/v1alpha1")
        .replace("TrafficPolicy", "XBackendTrafficPolicy")
}

/// The rules of Service `reviews`, with a route of these rules and these policies.
#[track_caller]
fn rules(route_rules: &str, policies: &[String]) -> Vec<Arc<Rule>> {
    let route = match route_rules {
        "" => String::new(),
        rules => route("HTTPRoute", "shop", "r", rules),
    };
    let world = World::new(&(shop() + &route + &policies.concat()));
    assert_eq!(world.problems(), Vec::<String>::new());
    let rules = world.service(REVIEWS, "web").value.rules;
    rules.map(|rules| rules.rules).unwrap_or_default()
}

fn limits(rule: &Rule) -> (Option<u64>, Option<u64>, Option<u32>) {
    let seconds = |limit: Option<Duration>| limit.map(|limit| limit.as_secs());
    (
        seconds(rule.timeouts.request),
        seconds(rule.timeouts.backend_request),
        rule.retry.as_ref().map(|retry| retry.attempts),
    )
}

#[test]
fn a_rules_own_words_come_before_a_policy_on_its_name_on_the_route_and_on_the_service() {
    let on_service = policy(
        "s",
        SERVICE,
        "timeouts: {request: 90s, backendRequest: 9s}, retry: {attempts: 9}",
    );
    let on_route = policy("r", ROUTE, "timeouts: {request: 80s}, retry: {attempts: 8}");
    let named = ROUTE.replace("name: r", "name: r, sectionName: first");
    let on_rule = policy("n", &named, "retry: {attempts: 7}");
    let all = [on_service, on_route, on_rule];
    let route = format!(
        "  - name: first\n    matches: [{{path: {{value: /first}}}}]\n    {BACKENDS}\n  - timeouts: {{request: 0s}}\n    retry: {{attempts: 0}}\n    {BACKENDS}\n"
    );
    let rules = rules(&route, &all);
    assert_eq!(limits(&rules[0]), (Some(80), Some(9), Some(7)));
    assert_eq!(limits(&rules[1]), (None, Some(9), Some(0)), "zero is a word of its own");
}

#[test]
fn a_policy_on_a_service_without_routes_holds_for_everything_that_goes_there() {
    let says = "timeouts: {request: 3s}, retry: {grpcStatuses: [UNAVAILABLE, 4], codes: [503]}";
    let rules = rules("", &[policy("p", SERVICE, says)]);
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].route, reference("TrafficPolicy", "shop", "p"));
    assert_eq!(limits(&rules[0]), (Some(3), None, Some(2)));
    assert_eq!(rules[0].retry.as_ref().unwrap().grpc_statuses, [4, 14]);
    assert_eq!(
        rules[0].backends[0].place,
        BackendPlace::Endpoints("shop/reviews:80".to_owned())
    );
    let locality_only = self::rules("", &[policy("p", SERVICE, "locality: {prefer: Region}")]);
    assert!(locality_only.is_empty(), "nothing is said of requests");
}

#[test]
fn a_policy_on_a_grpc_route_gives_it_the_retries_that_it_has_no_field_for() {
    let target = "{group: gateway.networking.k8s.io, kind: GRPCRoute, name: g}";
    let grpc = route("GRPCRoute", "shop", "g", &format!("  - {BACKENDS}\n"));
    let policy = policy("p", target, "retry: {grpcStatuses: [UNAVAILABLE], attempts: 1}");
    let world = World::new(&(shop() + &grpc + &policy));
    assert_eq!(world.problems(), Vec::<String>::new());
    let service = world.service(REVIEWS, "web");
    assert!(requires(&service).contains(&"retry/1".to_owned()));
    let rules = service.value.rules.unwrap().rules;
    assert_eq!(rules[0].retry.as_ref().unwrap().grpc_statuses, [14]);
}

#[test]
fn traffic_is_spread_as_the_backends_own_service_says() {
    let other = service_of("shop", "other", "10.96.0.2", &[("http", 80)]);
    let route = route(
        "HTTPRoute",
        "shop",
        "r",
        "  - backendRefs: [{name: reviews, port: 80}, {name: other, port: 80}]\n",
    );
    let of_reviews = policy("a", SERVICE, "balancer: RoundRobin");
    let of_other = policy(
        "b",
        &SERVICE.replace("reviews", "other"),
        "locality: {failover: [b]}, retryConstraint: {budget: {percent: 0}, minRetryRate: {count: 3, interval: 2s}}",
    );
    let world = World::new(&(shop() + &other + &route + &of_reviews + &of_other));
    assert_eq!(world.problems(), Vec::<String>::new());
    let service = world.service(REVIEWS, "web");
    assert_eq!(service.value.balance, Balance::RoundRobin);
    let all = requires(&service);
    assert_eq!(
        all,
        [
            "backend-traffic/1",
            "balance/1",
            "http-routes/1",
            "locality/1",
            "places/1"
        ]
    );
    let backends = &service.value.rules.unwrap().rules[0].backends;
    assert_eq!(backends[0].traffic, None);
    let traffic = backends[1].traffic.as_ref().unwrap();
    assert_eq!(
        (traffic.balance, &traffic.locality.failover[..]),
        (Balance::PeakEwma, &["b".to_owned()][..])
    );
    assert_eq!(
        traffic.retry_budget,
        RetryBudget {
            percent: 0,
            min_retries: 3,
            min_interval: Duration::from_secs(2),
            ..RetryBudget::default()
        }
    );
}

#[test]
fn a_policy_of_a_backends_service_reaches_those_who_call_another() {
    let other = service_of("shop", "other", "10.96.0.2", &[("http", 80)]);
    let route = route("HTTPRoute", "shop", "r", "  - backendRefs: [{name: other, port: 80}]\n");
    let mut world = World::new(&(shop() + &other + &route));
    let topics = world.service(REVIEWS, "web").topics;
    let changed = world.edit(&policy("p", &SERVICE.replace("reviews", "other"), "balancer: Random"));
    assert!(changed.topics.iter().any(|topic| topics.contains(topic)));
    let rules = world.service(REVIEWS, "web").value.rules.unwrap().rules;
    assert_eq!(rules[0].backends[0].traffic.as_ref().unwrap().balance, Balance::Random);
    let changed = world.edit(&policy("p", ROUTE, "timeouts: {request: 1s}"));
    assert!(
        changed.topics.iter().any(|topic| topics.contains(topic)),
        "on the route"
    );
}

#[test]
fn places_are_read_as_written() {
    let says = "locality: {prefer: Region, failover: [us, asia], distribute: [{from: eu, to: [{region: eu, zone: a, weight: 80}, {region: us, weight: 20}]}]}";
    let world = World::new(&(shop() + &policy("p", SERVICE, says)));
    assert_eq!(world.problems(), Vec::<String>::new());
    let locality = world.service(REVIEWS, "web").value.locality;
    assert_eq!((locality.prefer, locality.failover.len()), (Prefer::Region, 2));
    let share = |region: &str, zone: &str, weight| Share {
        region: region.to_owned(),
        zone: zone.to_owned(),
        weight,
    };
    let want = Distribution {
        from: "eu".to_owned(),
        to: vec![share("eu", "a", 80), share("us", "", 20)],
    };
    assert_eq!(locality.distribute, [want]);
}

#[test]
fn of_two_policies_that_say_the_same_the_older_acts_and_the_other_says_so() {
    let (a, b) = (
        policy("a", SERVICE, "balancer: Random"),
        policy("b", SERVICE, "balancer: RoundRobin, locality: {prefer: None}"),
    );
    let world = World::new(&(shop() + &a + &b));
    let service = world.service(REVIEWS, "web").value;
    assert_eq!(
        (service.balance, service.locality.prefer),
        (Balance::Random, Prefer::None)
    );
    let condition = world.condition(("TrafficPolicy", "shop", "b"), ConditionType::Accepted);
    assert_eq!(
        (condition.status, condition.reason.as_str(), condition.field.as_str()),
        (false, "Conflicted", "spec.balancer")
    );
    assert!(
        world
            .condition(("TrafficPolicy", "shop", "a"), ConditionType::Accepted)
            .status
    );
}

#[test]
fn the_experiments_policy_is_read_and_ours_wins_over_it() {
    let says = "retryConstraint: {budget: {percent: 50, interval: 1m}}";
    let budget = |world: &World| world.service(REVIEWS, "web").value.retry_budget.percent;
    let mut world = World::new(&(shop() + &experiment("a", says)));
    assert_eq!((world.problems(), budget(&world)), (Vec::new(), 50));
    world.edit(&policy("z", SERVICE, "retryConstraint: {budget: {percent: 10}}"));
    assert_eq!(budget(&world), 10);
    let condition = world.condition(("XBackendTrafficPolicy", "shop", "a"), ConditionType::Accepted);
    assert_eq!(condition.reason, "Conflicted");
    assert!(
        condition.message.contains("TrafficPolicy shop/z"),
        "{}",
        condition.message
    );
}

#[test]
fn a_target_or_a_rule_that_is_not_there_is_said() {
    for (target, field) in [
        (SERVICE.replace("reviews", "nobody"), "spec.targetRefs[0].name"),
        (ROUTE.replace("name: r", "name: nobody"), "spec.targetRefs[0].name"),
        (
            ROUTE.replace("name: r", "name: r, sectionName: no"),
            "spec.targetRefs[0].sectionName",
        ),
    ] {
        let route = route("HTTPRoute", "shop", "r", &rule(""));
        let world = World::new(&(shop() + &route + &policy("p", &target, "retry: {attempts: 1}")));
        let condition = world.condition(("TrafficPolicy", "shop", "p"), ConditionType::Accepted);
        assert_eq!(
            (condition.reason.as_str(), condition.field.as_str()),
            ("TargetNotFound", field)
        );
    }
}

/// The conditions of policy `p` that are not as one would like, as `TYPE REASON FIELD`, and its problems' fields.
fn in_vain(yaml: &str) -> (Vec<String>, Vec<String>) {
    let world = World::new(yaml);
    let wanted = reference("TrafficPolicy", "shop", "p");
    let statuses = world.index.statuses();
    let status = statuses.iter().find(|status| status.object == wanted).unwrap();
    let bad = status
        .conditions
        .iter()
        .filter(|condition| condition.status == (condition.r#type == ConditionType::PartiallyInvalid));
    let bad = bad.map(|bad| format!("{} {} {}", bad.r#type.as_str(), bad.reason, bad.field));
    let problems = world.index.problems().into_iter();
    let problems = problems.filter(|problem| problem.object.as_ref() == Some(&wanted));
    (bad.collect(), problems.map(|problem| problem.field).collect())
}

const ALL_PARTS: &str = "timeouts: {request: 1s}, retry: {attempts: 1}, balancer: Random";

#[test]
fn what_a_policy_says_in_vain_of_a_service_is_said() {
    let says = policy("p", SERVICE, ALL_PARTS);
    let all = ["spec.timeouts.request", "spec.retry", "spec.balancer"];
    let nothing = |yaml: &str| {
        let (bad, mut problems) = in_vain(&format!("{yaml}{says}"));
        problems.reverse();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(
            all.iter().all(|field| problems.iter().any(|problem| problem == field)),
            "{problems:?}"
        );
        bad[0].clone()
    };
    let external = "spec: {type: ExternalName, externalName: a.example, ports: [{name: http, port: 80}]}";
    let cluster = "spec: {clusterIP: 10.96.0.1, clusterIPs: ['10.96.0.1'], ports: [{name: http, port: 80}]}";
    assert!(shop().contains(cluster));
    let headless = shop().replace(cluster, "spec: {clusterIP: None, ports: [{name: http, port: 80}]}");
    assert_eq!(nothing(&headless), "Accepted Invalid spec.timeouts.request");
    assert_eq!(
        nothing(&shop().replace(cluster, external)),
        "Accepted Invalid spec.timeouts.request"
    );
    // A route of another Service may send to it: what is about its endpoints acts then.
    let other = service_of("shop", "other", "10.96.0.2", &[("http", 80)]);
    let to_it = route("HTTPRoute", "shop", "r", &rule("")).replace("shop, name: reviews}]\n", "shop, name: other}]\n");
    let (bad, problems) = in_vain(&format!("{headless}{other}{to_it}{says}"));
    assert_eq!(bad, ["PartiallyInvalid Invalid spec.timeouts.request"]);
    assert_eq!(problems, ["spec.retry", "spec.timeouts.request"]);
}

#[test]
fn what_a_policy_says_of_requests_where_none_are_seen_is_said() {
    let says = policy("p", SERVICE, ALL_PARTS);
    let of = |port: &str, more: &str| {
        let shop = shop().replace("{name: http, port: 80}", port);
        in_vain(&format!("{shop}{more}{says}"))
    };
    let vain = (
        vec!["PartiallyInvalid UnsupportedProtocol spec.timeouts.request".to_owned()],
        vec!["spec.retry".to_owned(), "spec.timeouts.request".to_owned()],
    );
    assert_eq!(of("{name: tcp, port: 80}", ""), vain);
    assert_eq!(of("{name: x, port: 80, appProtocol: tls}", ""), vain);
    let stream = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {namespace: shop, name: t}\nspec: {parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{backendRefs: [{name: reviews, port: 80}]}]}\n";
    assert_eq!(of("{name: x, port: 80}", stream), vain);
    let acts = (Vec::new(), Vec::new());
    let both = format!("{stream}{}", route("HTTPRoute", "shop", "r", &rule("")));
    assert_eq!(of("{name: x, port: 80}", &both), acts);
    assert_eq!(of("{name: x, port: 80}", ""), acts);
    assert_eq!(of("{name: tcp, port: 81}, {name: http, port: 80}", ""), acts);
}

#[test]
fn a_policy_on_a_route_that_is_attached_to_nothing_says_so() {
    let lost = route("HTTPRoute", "shop", "r", &rule("")).replace("shop, name: reviews}]\n", "shop, name: nobody}]\n");
    let (bad, problems) = in_vain(&(shop() + &lost + &policy("p", ROUTE, "retry: {attempts: 1}")));
    assert_eq!(bad, ["Accepted Invalid spec.retry"]);
    assert_eq!(problems, ["spec.retry"]);
}

#[test]
fn what_has_no_effect_and_what_is_not_understood_are_one_condition() {
    let shop = shop().replace("{name: http, port: 80}", "{name: tcp, port: 80}");
    let (bad, problems) = in_vain(&(shop + &policy("p", SERVICE, &format!("{ALL_PARTS}, tiemouts: {{}}"))));
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert!(problems.contains(&"spec.tiemouts".to_owned()), "{problems:?}");
}

#[track_caller]
fn refused(yaml: &str, field: &str, words: &str) {
    let kind = if yaml.contains("XBackend") {
        "XBackendTrafficPolicy"
    } else {
        "TrafficPolicy"
    };
    let world = World::new(&(shop() + &route("HTTPRoute", "shop", "r", &rule("")) + yaml));
    let condition = world.condition((kind, "shop", "p"), ConditionType::Accepted);
    assert_eq!(
        (condition.status, condition.field.as_str()),
        (false, field),
        "{}",
        condition.message
    );
    assert!(condition.message.contains(words), "{}", condition.message);
    let problem = &world.index.problems()[0];
    assert!(!problem.fix.is_empty(), "{problem}");
}

#[test]
fn every_field_of_a_policy_has_its_bounds() {
    for (says, field, words) in [
        ("timeouts: {request: fast}", "spec.timeouts.request", "no duration"),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "spec.timeouts.backendRequest",
            "longer",
        ),
        ("retry: {attempts: 101}", "spec.retry.attempts", "101"),
        ("retry: {codes: [399]}", "spec.retry.codes[0]", "399"),
        ("retry: {grpcStatuses: [OK]}", "spec.retry.grpcStatuses[0]", "OK"),
        (
            "retry: {grpcStatuses: [unavailable]}",
            "spec.retry.grpcStatuses[0]",
            "unavailable",
        ),
        ("retry: {grpcStatuses: [17]}", "spec.retry.grpcStatuses[0]", "17"),
        ("retry: {backoff: -1s}", "spec.retry.backoff", "no duration"),
        (
            "retryConstraint: {budget: {percent: 101}}",
            "spec.retryConstraint.budget.percent",
            "101",
        ),
        (
            "retryConstraint: {budget: {interval: 2h}}",
            "spec.retryConstraint.budget.interval",
            "bounds",
        ),
        (
            "retryConstraint: {minRetryRate: {count: 0}}",
            "spec.retryConstraint.minRetryRate.count",
            "0",
        ),
        (
            "retryConstraint: {minRetryRate: {interval: 0s}}",
            "spec.retryConstraint.minRetryRate.interval",
            "bounds",
        ),
        ("locality: {failover: [a, a]}", "spec.locality.failover[1]", "twice"),
        ("locality: {failover: ['a b']}", "spec.locality.failover[0]", "no name"),
        (
            "locality: {prefer: None, failover: [a]}",
            "spec.locality.failover",
            "preference",
        ),
        (
            "locality: {distribute: [{to: []}]}",
            "spec.locality.distribute[0].to",
            "no place",
        ),
        (
            "locality: {distribute: [{to: [{region: a, weight: -1}]}]}",
            "spec.locality.distribute[0].to[0].weight",
            "-1",
        ),
        ("balancer: Fastest", "spec.balancer", "Fastest"),
    ] {
        refused(&policy("p", SERVICE, says), field, words);
    }
}

#[test]
fn what_a_policy_may_be_about_is_checked() {
    refused(
        &policy("p", ROUTE, "balancer: Random"),
        "spec.balancer",
        "said of Services",
    );
    refused(&policy("p", "", "balancer: Random"), "spec.targetRefs", "1 to 64");
    let twice = format!("{SERVICE}, {SERVICE}");
    refused(&policy("p", &twice, "balancer: Random"), "spec.targetRefs[1]", "twice");
    let port = SERVICE.replace("reviews", "reviews, sectionName: http");
    refused(
        &policy("p", &port, "balancer: Random"),
        "spec.targetRefs[0].sectionName",
        "all ports",
    );
    refused(
        &experiment("p", "sessionPersistence: {}"),
        "spec.sessionPersistence",
        "not honoured",
    );
    let route = experiment("p", "retryConstraint: {}").replace(SERVICE, ROUTE);
    refused(&route, "spec.targetRefs[0].kind", "HTTPRoute");
}
