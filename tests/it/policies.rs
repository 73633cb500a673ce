//! Policies act, and what acts can be explained.

use std::process::Command;

use serde_json::Value;
use weft_tests::Mesh;
use weft_tests::mesh::weft_bin;
use weft_tests::shop::shop;

/// All that callers in the west ask of reviews goes to the east.
const EASTWARD: &str = "
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: a-eastward, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: reviews}]
  balancer: RoundRobin
  locality:
    distribute:
      - from: west
        to: [{region: east, weight: 1}]
";

/// A guest's own word on calls to reviews: version 2 only.
const GUEST: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: guest, labels: {weft.dev/inject: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: guest, namespace: guest}
spec: {nodeName: west-1, containers: [{name: visitor, command: [visitor]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: guest, namespace: guest}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop}]
  rules:
    - backendRefs: [{group: weft.dev, kind: ServiceSubset, name: reviews-v2, namespace: shop, port: 80}]
";

const URL: &str = "http://reviews.shop/reviews/1";

fn explained(mesh: &Mesh, namespace: &str, from: &str) -> Value {
    let mut command = mesh.command("status");
    // The mesh is named behind both words.
    let envs: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = Command::new(weft_bin());
    command.envs(envs).args(["route", "explain", "--name", mesh.name()]);
    command.args(["-n", namespace, "--from", from, "-o", "json", URL]);
    let output = command.output().expect("weft route explain runs");
    let said = serde_json::from_slice(&output.stdout);
    said.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_consumers_route_and_the_places_of_a_policy_act_and_are_explained_as_they_act() {
    let mesh = shop().file("guest.yaml", GUEST).up();
    let of_shop = mesh.visit("shop", "visitor", URL, &["--count", "200"]);
    assert!(of_shop.none_failed().version("v1") > 100);
    assert!(
        of_shop.pods().iter().all(|pod| pod.contains("west")),
        "{:?}",
        of_shop.pods()
    );
    let of_guest = mesh.visit("guest", "guest", URL, &["--count", "100"]);
    assert_eq!(of_guest.none_failed().version("v2"), 100);
    let said = explained(&mesh, "guest", "guest");
    assert_eq!(said["rules"][0]["said"]["object"], "HTTPRoute guest/guest");
    assert_eq!(said["verdict"]["backends"][0]["subset"], "reviews-v2");
    let said = explained(&mesh, "shop", "visitor");
    assert_eq!(said["rules"][1]["said"]["object"], "HTTPRoute shop/reviews");
    assert_eq!(said["verdict"]["backends"][0]["percent"], 90.0);

    mesh.write("eastward.yaml", EASTWARD);
    mesh.until("all proxies go by the policy", |status| {
        let objects = status["objects"].as_array().map_or(&[][..], Vec::as_slice);
        let policy = objects.iter().find(|object| object["name"] == "a-eastward");
        let applied = |condition: &Value| condition["type"] == "Applied" && condition["reason"] == "Acknowledged";
        policy.is_some_and(|policy| {
            policy["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(applied))
        })
    });
    for (namespace, pod) in [("shop", "visitor"), ("guest", "guest")] {
        let tally = mesh.visit(namespace, pod, URL, &["--count", "100"]);
        let pods = tally.none_failed().pods();
        assert!(pods.iter().all(|pod| pod.contains("east")), "{pods:?}");
        let said = explained(&mesh, namespace, pod);
        let behind = &said["verdict"]["backends"][0]["behind"];
        assert_eq!(behind["said"]["object"], "TrafficPolicy shop/a-eastward", "{said:#}");
        assert_eq!(behind["tiers"][0]["places"][0], "east/east-a");
        assert_eq!(behind["tiers"][0]["percent"], 100.0);
    }
}
