//! Who may refer to what is in another namespace.

use super::*;

/// A grant of the namespace `other`.
fn grant(name: &str, from: &str, to: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{namespace: other, name: {name}}}\nspec: {{from: [{{{from}}}], to: [{{{to}}}]}}\n"
    )
}

const FROM: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop";
const TO: &str = "group: '', kind: Service";

fn other() -> String {
    service_of("other", "b", "10.96.0.7", &[("http", 90)])
        + "---\napiVersion: weft.dev/v1alpha1\nkind: ServiceSubset\nmetadata: {namespace: other, name: half}\nspec: {service: b}\n"
}

/// A route of the namespace `shop` on its `reviews`.
fn sends_to(backends: &str) -> String {
    route("HTTPRoute", "shop", "r", &format!("  - backendRefs: [{backends}]\n"))
}

const B: &str = "{name: b, namespace: other, port: 90}";
const HALF: &str = "{group: weft.dev, kind: ServiceSubset, name: half, namespace: other, port: 90}";

#[test]
fn a_backend_in_another_namespace_needs_a_grant_and_its_share_is_500_without() {
    let yaml = shop() + &other() + &sends_to(&format!("{B}, {{name: reviews, port: 80, weight: 3}}"));
    let mut world = World::new(&yaml);
    let refused = "500 1: no ReferenceGrant in the namespace other lets HTTPRoutes of shop refer to the Service b";
    assert_eq!(world.split(REVIEWS), [refused, "shop/reviews:80 3"]);
    let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::ResolvedRefs);
    assert_eq!(
        (condition.status, condition.reason.as_str(), condition.field.as_str()),
        (false, "RefNotPermitted", "spec.rules[0].backendRefs[0].namespace")
    );
    assert!(
        world.problems()[0].contains("answered with 500"),
        "{:?}",
        world.problems()
    );
    assert!(world.index.problems()[0].fix.contains("write a ReferenceGrant"));

    let topics = world.service(REVIEWS, "web").topics;
    let changed = world.edit(&grant("g", FROM, TO));
    assert!(
        changed.topics.intersection(&topics).next().is_some(),
        "it is compiled again"
    );
    assert_eq!(world.split(REVIEWS), ["other/b:90 1", "shop/reviews:80 3"]);
    assert_eq!(world.problems(), Vec::<String>::new());
    let sources = world.service(REVIEWS, "web").sources;
    assert!(sources.iter().any(|source| source.object == "ReferenceGrant other/g"));

    let changed = world.delete("ReferenceGrant", "other", "g");
    assert!(changed.topics.intersection(&topics).next().is_some());
    assert_eq!(world.split(REVIEWS)[0], refused, "what was granted is taken back");
}

#[test]
fn a_grant_allows_what_it_names_and_nothing_else() {
    for (from, to, backend, allowed) in [
        (FROM, TO, B, true),
        (FROM, "group: core, kind: Service, name: b", B, true),
        (FROM, "group: '', kind: Service, name: c", B, false),
        (FROM, "group: '', kind: Secret", B, false),
        (&*FROM.replace("namespace: shop", "namespace: web"), TO, B, false),
        (&*FROM.replace("HTTPRoute", "GRPCRoute"), TO, B, false),
        (&*FROM.replace("gateway.networking.k8s.io", "''"), TO, B, false),
        (FROM, TO, HALF, false),
        (FROM, "group: weft.dev, kind: ServiceSubset", HALF, true),
        (FROM, "group: weft.dev, kind: ServiceSubset, name: half", B, false),
    ] {
        let world = World::new(&(shop() + &other() + &sends_to(backend) + &grant("g", from, to)));
        let split = world.split(REVIEWS);
        assert_eq!(
            split[0].starts_with("other/b:90"),
            allowed,
            "{from} {to} {backend}: {split:?}"
        );
    }
}

#[test]
fn a_grant_of_another_namespace_allows_nothing_here() {
    let elsewhere = grant("g", FROM, TO).replace("namespace: other, name: g", "namespace: shop, name: g");
    let world = World::new(&(shop() + &other() + &sends_to(B) + &elsewhere));
    assert!(world.split(REVIEWS)[0].starts_with("500 1: no ReferenceGrant"));
}

#[test]
fn copies_and_streams_need_a_grant_too() {
    let mirror = "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, namespace: other, port: 90}}}]\n    backendRefs: [{name: reviews, port: 80}]\n";
    let yaml = shop() + &other() + &route("HTTPRoute", "shop", "r", mirror);
    let place = |yaml: &str| {
        let rules = World::new(yaml).service(REVIEWS, "web").value.rules.unwrap().rules;
        rules[0].filters.mirrors[0].place.clone()
    };
    assert!(matches!(place(&yaml), BackendPlace::Unresolved(why) if why.contains("no ReferenceGrant")));
    let granted = BackendPlace::Endpoints("other/b:90".to_owned());
    assert_eq!(place(&(yaml + &grant("g", FROM, TO))), granted);

    let stream = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {namespace: shop, name: t}\nspec: {parentRefs: [{group: '', kind: Service, name: reviews}], rules: [{backendRefs: [{name: b, namespace: other, port: 90}]}]}\n";
    let plain = shop().replace("{name: http, port: 80}", "{name: x, port: 80}");
    let yaml = plain + &other() + stream;
    let place = |yaml: &str| {
        let streams = World::new(yaml).service(REVIEWS, "web").value.streams.unwrap();
        streams.rules[0].backends[0].place.clone()
    };
    assert!(matches!(place(&yaml), BackendPlace::Unresolved(why) if why.contains("lets TCPRoutes of shop")));
    assert_eq!(
        place(&(yaml + &grant("g", &FROM.replace("HTTPRoute", "TCPRoute"), TO))),
        granted
    );
}

/// As the Gateway API's conformance suite has it (MeshConsumerRoute).
#[test]
fn what_goes_to_the_service_that_was_called_needs_no_grant() {
    let to_itself = [
        "{name: reviews, namespace: shop, port: 80}",
        "{group: weft.dev, kind: ServiceSubset, name: v1, namespace: shop, port: 80}",
    ];
    for backend in to_itself {
        let rules = format!("  - backendRefs: [{backend}]\n");
        let world = World::new(&(shop() + &route("HTTPRoute", "web", "consumer", &rules)));
        assert_eq!(world.problems(), Vec::<String>::new());
        let rules = world.service(REVIEWS, "web").value.rules.unwrap().rules;
        assert!(
            matches!(rules[0].backends[0].place, BackendPlace::Endpoints(_)),
            "{rules:?}"
        );
    }
}

/// A route that is attached to both must not lead everybody's calls of one to the other.
#[test]
fn to_be_attached_to_a_service_is_no_grant_for_calls_of_another() {
    let two = "[{group: '', kind: Service, namespace: shop, name: reviews}, {group: '', kind: Service, namespace: other, name: b}]";
    let route = sends_to(B).replace("[{group: '', kind: Service, namespace: shop, name: reviews}]", two);
    let world = World::new(&(shop() + &other() + &route));
    assert!(world.split(REVIEWS)[0].starts_with("500 1: no ReferenceGrant"));
    let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::ResolvedRefs);
    assert_eq!(condition.reason, "RefNotPermitted");
    let rules = world.service("10.96.0.7:90", "shop").value.rules.unwrap().rules;
    let place = &rules[0].backends[0].place;
    assert_eq!(*place, BackendPlace::Endpoints("other/b:90".to_owned()));
}

#[test]
fn nothing_is_said_of_what_is_there_to_those_who_may_not_refer_to_it() {
    let of = |backend: &str| World::new(&(shop() + &other() + &sends_to(backend))).split(REVIEWS);
    let said = |name: &str| of(&format!("{{name: {name}, namespace: other, port: 90}}"))[0].replace(name, "NAME");
    assert_eq!(said("b1"), said("b"));
}

#[test]
fn a_grant_that_is_wrong_is_named_and_its_last_good_form_acts() {
    let good = grant("g", FROM, TO);
    let mut world = World::new(&(shop() + &other() + &sends_to(B) + &good));
    for (bad, field) in [
        (good.replace("to: [{group: '', kind: Service}]", "to: []"), "spec.to"),
        (good.replace(", namespace: shop}", "}"), "spec.from[0]"),
        (good.replace("spec: {from: ", "spec: {form: "), "spec"),
    ] {
        world.edit(&bad);
        let condition = world.condition(("ReferenceGrant", "other", "g"), ConditionType::Accepted);
        assert_eq!((condition.status, condition.field.as_str()), (false, field));
        assert_eq!(world.split(REVIEWS), ["other/b:90 1"]);
    }
    let world = World::new(&(shop() + &other() + &sends_to(B) + &good.replace("to: [", "to: [7, ")));
    assert!(
        world.split(REVIEWS)[0].starts_with("500 1: "),
        "never valid: it allows nothing"
    );
    let hold = world.service(REVIEWS, "web").hold.unwrap();
    assert!(hold.starts_with("ReferenceGrant other/g: spec.to[0]"), "{hold}");
}
