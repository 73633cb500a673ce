//! What is invalid is held.

use super::*;

const BROKEN: &str = "  - matches: 7\n";

#[test]
fn a_broken_edit_leaves_the_old_split_and_its_sources() {
    let split = |weights: (u32, u32)| {
        let backend = |name: &str, weight: u32| {
            format!("{{group: weft.dev, kind: ServiceSubset, name: {name}, port: 80, weight: {weight}}}")
        };
        route(
            "HTTPRoute",
            "shop",
            "r",
            &format!(
                "  - backendRefs: [{}, {}]\n",
                backend("v1", weights.0),
                backend("v2", weights.1)
            ),
        )
    };
    let mut world = World::new(&(shop() + &split((90, 10))));
    world.edit(&route("HTTPRoute", "shop", "r", BROKEN));
    assert_eq!(world.split(REVIEWS), ["shop/reviews:80#v1 90", "shop/reviews:80#v2 10"]);
    let compiled = world.service(REVIEWS, "web");
    let source = compiled
        .sources
        .iter()
        .find(|source| source.object == "HTTPRoute shop/r")
        .unwrap();
    assert_eq!(source.resource_version, 1, "of the form that acts");
    assert!(compiled.hold.is_none(), "what is held is known here");
    world.edit(&split((50, 50)));
    assert_eq!(world.split(REVIEWS), ["shop/reviews:80#v1 50", "shop/reviews:80#v2 50"]);
    assert!(
        world
            .condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted)
            .status
    );
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn a_route_that_is_broken_from_the_start_is_held_on_the_wire_and_acts_as_absent() {
    let mut world = World::new(&(shop() + &route("HTTPRoute", "shop", "r", BROKEN)));
    let compiled = world.service(REVIEWS, "web");
    assert!(
        compiled
            .hold
            .unwrap()
            .starts_with("HTTPRoute shop/r: spec.rules[0].matches: ")
    );
    assert!(compiled.value.rules.is_none());
    let other = World::new(
        &(shop()
            + &service_of("shop", "other", "10.96.0.2", &[("http", 80)])
            + &route("HTTPRoute", "shop", "r", BROKEN)),
    );
    assert!(
        other.service("10.96.0.2:80", "web").hold.is_none(),
        "others are not concerned"
    );
    world.delete("HTTPRoute", "shop", "r");
    assert!(world.service(REVIEWS, "web").hold.is_none());
}

#[test]
fn a_route_that_comes_broken_later_holds_nothing() {
    let mut world = World::new(&shop());
    world.edit(&route("HTTPRoute", "shop", "r", BROKEN));
    let compiled = world.service(REVIEWS, "web");
    assert!(compiled.hold.is_none() && compiled.value.rules.is_none());
    let condition = world.condition(("HTTPRoute", "shop", "r"), ConditionType::Accepted);
    assert!(condition.message.ends_with("it does not act"), "{condition:?}");
}

#[test]
fn a_broken_consumers_route_is_held_for_its_own_clients_only() {
    let world = World::new(&(shop() + &route("HTTPRoute", "web", "r", BROKEN)));
    assert!(world.service(REVIEWS, "web").hold.is_some());
    assert!(world.service(REVIEWS, "other").hold.is_none());
}

#[test]
fn a_subset_that_is_broken_from_the_start_holds_the_set_and_the_rules_that_name_it() {
    let broken = "---\napiVersion: weft.dev/v1alpha1\nkind: ServiceSubset\nmetadata: {namespace: shop, name: v9}\nspec: {service: reviews, selector: {matchLabels: {version: v1}}}\n";
    let by = route(
        "HTTPRoute",
        "shop",
        "r",
        "  - backendRefs: [{group: weft.dev, kind: ServiceSubset, name: v9, port: 80}]\n",
    );
    let world = World::new(&(shop() + broken + &by));
    assert!(world.service(REVIEWS, "web").hold.is_some());
    assert!(endpoint_set(&world.index, "shop/reviews:80#v9").unwrap().hold.is_some());
    assert!(
        world.problems()[0].contains("right under selector"),
        "{:?}",
        world.problems()
    );

    let good = broken.replace("{matchLabels: {version: v1}}", "{version: v1}");
    let mut world = World::new(&(shop() + &good + &by));
    world.edit(broken);
    assert_eq!(world.set("shop/reviews:80#v9").len(), 2, "the last good one acts");
    assert!(world.service(REVIEWS, "web").hold.is_none());
}

#[test]
fn a_service_that_is_broken_from_the_start_is_held_at_its_address_and_is_never_outside() {
    let broken = service_of("shop", "bad", "10.96.0.9", &[("http", 80)]).replace("port: 80", "port: eighty");
    let world = World::new(&(shop() + &broken));
    for target in ["10.96.0.9:80", "name:bad.shop:80"] {
        let compiled = lookup(&world.index, &target.parse().unwrap(), "web");
        assert!(
            compiled.hold.is_some() && matches!(compiled.value, Some(Lookup::NoSuchPort { .. })),
            "{target}"
        );
    }
    assert!(service(&world.index, "shop/bad:80").unwrap().hold.is_some());
    assert!(endpoint_set(&world.index, "shop/bad:80").unwrap().hold.is_some());

    let mut world = World::new(&shop());
    world.edit(&service_of("shop", "reviews", "10.96.0.1", &[("http", 80)]).replace("port: 80", "port: eighty"));
    assert_eq!(world.set("shop/reviews:80").len(), 3);
    assert_eq!(world.problems().len(), 1);
}

#[test]
fn deleting_a_route_opens_the_service_again() {
    let mut world = World::new(&(shop() + &route("HTTPRoute", "shop", "r", &rule("{path: {type: Exact, value: /a}}"))));
    assert_eq!(world.route(REVIEWS, "web", "GET /b"), "404");
    world.delete("HTTPRoute", "shop", "r");
    assert!(world.service(REVIEWS, "web").value.rules.is_none());
}
