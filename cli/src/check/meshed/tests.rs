use serde_json::json;

use super::*;

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": {
            "name": name, "annotations": {VERSION_ANNOTATION: VERSION}, "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-6d4cf56db6"}],
        },
        "spec": {"initContainers": [{"name": INIT}, {"name": PROXY}], "containers": [{"name": "app"}]},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [
                {"name": INIT, "state": {"terminated": {"exitCode": 0}}},
                {"name": PROXY, "started": true, "state": {"running": {}}},
            ],
        },
    });
    change(&mut pod);
    pod
}

fn shop(pods: Vec<Value>, policies: Vec<Value>) -> Meshed {
    let data = json!({"roots.pem": "-----BEGIN CERTIFICATE-----", "control-namespace": "weft-system"});
    Meshed {
        name: "shop".to_owned(),
        namespace: json!({"metadata": {"name": "shop", "labels": {INJECT_LABEL: "enabled"}}}),
        pods: Answer::Is(pods.into()),
        policies: Answer::Is(policies.into()),
        services: Answer::Is(json!([])),
        ingresses: Answer::Is(json!([])),
        trust: Answer::Is(json!({"data": data})),
    }
}

#[track_caller]
fn check(shop: Meshed, wrong: &[&str]) {
    check_all(vec![shop], Answer::Is(json!([])), wrong);
}

#[track_caller]
fn check_all(meshed: Vec<Meshed>, namespaces: Answer, wrong: &[&str]) {
    let seen = Seen {
        namespaces,
        meshed,
        ..Seen::nothing("weft-system")
    };
    let mut report = Report::default();
    super::check(&seen, &mut report);
    let said = report.json();
    let said: Vec<String> = said["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each.to_string())
        .collect();
    assert_eq!(said.len(), wrong.len(), "{said:#?}");
    for (said, wanted) in said.iter().zip(wrong) {
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn a_meshed_namespace_that_is_well_has_no_findings() {
    check(shop(vec![pod("web-1", |_| {})], vec![]), &[]);
}

#[test]
fn of_the_clusters_own_namespaces_only_the_label_is_told() {
    let mut system = shop(
        vec![pod("web-1", |pod| pod["spec"]["initContainers"] = json!([]))],
        vec![],
    );
    system.name = "kube-system".to_owned();
    check(system, &["kubectl label namespace kube-system weft.dev/inject-"]);
}

#[test]
fn a_pod_without_its_proxy_is_named_with_what_makes_it_anew() {
    let bare = |pod: &mut Value| pod["spec"]["initContainers"] = json!([]);
    check(
        shop(vec![pod("web-1", bare)], vec![]),
        &["kubectl -n shop rollout restart deployment web"],
    );
    let of_no_deployment = |pod: &mut Value| {
        bare(pod);
        pod["metadata"]["labels"] = json!({"app": "web"});
    };
    check(
        shop(vec![pod("web-1", of_no_deployment)], vec![]),
        &["kubectl -n shop delete pod web-1, which its ReplicaSet web-6d4cf56db6 makes anew"],
    );
    let of_nobody = |pod: &mut Value| {
        bare(pod);
        pod["metadata"]["ownerReferences"] = Value::Null;
    };
    check(
        shop(vec![pod("web-1", of_nobody)], vec![]),
        &["kubectl -n shop delete pod web-1, and apply its manifest again: no controller makes it anew"],
    );
    let left_out = |pod: &mut Value| {
        bare(pod);
        pod["metadata"]["labels"][INJECT_LABEL] = json!("disabled");
    };
    check(shop(vec![pod("web-1", left_out)], vec![]), &["left out of the mesh"]);
    let ended = |pod: &mut Value| {
        bare(pod);
        pod["status"]["phase"] = json!("Succeeded");
    };
    check(shop(vec![pod("job-1", ended)], vec![]), &[]);
}

#[test]
fn a_port_that_passes_the_proxy_by_is_told_and_is_wrong_in_a_strict_namespace() {
    let skips = |pod: &mut Value| {
        pod["spec"]["initContainers"][0]["args"] = json!(["init", "--skip-inbound-ports=9090,9091"]);
    };
    check(shop(vec![pod("web-1", skips)], vec![]), &["connections to 9090,9091"]);
    let mut strict = shop(vec![pod("web-1", skips), pod("web-2", |_| {})], vec![]);
    strict.namespace["metadata"]["annotations"] = json!({"config.weft.dev/inbound": "strict"});
    check(strict, &["kubectl -n shop rollout restart deployment web"]);
}

#[test]
fn what_keeps_a_proxy_from_running_is_told() {
    let failed =
        |pod: &mut Value| pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(1);
    check(
        shop(vec![pod("web-1", failed)], vec![]),
        &["could not set the redirect's rules"],
    );
    let waits = |pod: &mut Value| {
        pod["status"]["initContainerStatuses"][1]["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
    };
    check(
        shop(vec![pod("web-1", waits)], vec![]),
        &["weft-proxy does not run: ImagePullBackOff"],
    );
    let old = |pod: &mut Value| pod["metadata"]["annotations"][VERSION_ANNOTATION] = json!("0.0.9");
    check(
        shop(vec![pod("web-1", old)], vec![]),
        &["1 of its pods have a proxy 0.0.9"],
    );
}

#[test]
fn what_is_wrong_with_a_namespace_is_told_with_the_command_that_mends_it() {
    let mut refused = shop(vec![], vec![]);
    refused.namespace["metadata"]["labels"][weft_model::pod_security::ENFORCE_LABEL] = json!("baseline");
    check(refused, &["refuses NET_ADMIN"]);

    let mut mistyped = shop(vec![], vec![]);
    mistyped.namespace["metadata"]["labels"][INJECT_LABEL] = json!("true");
    check(mistyped, &["which means nothing"]);

    let mut untrusted = shop(vec![], vec![]);
    untrusted.trust = Answer::Missing;
    check(untrusted, &["weft-trust"]);

    let mut elsewhere = shop(vec![], vec![]);
    elsewhere.trust =
        Answer::Is(json!({"data": {"roots.pem": "-----BEGIN CERTIFICATE-----", "control-namespace": "mesh"}}));
    check(elsewhere, &["weft check -n mesh"]);
}

fn policy(selector: Value, egress: Value) -> Value {
    let spec = json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": egress});
    json!({"metadata": {"name": "deny"}, "spec": spec})
}

#[test]
fn denied_egress_is_told_unless_the_control_plane_is_allowed() {
    let denied = || policy(json!({}), json!([]));
    check(shop(vec![], vec![denied()]), &["networkPolicy.egressNamespaces={shop}"]);
    // What the chart makes for such a namespace suffices.
    let values = json!({"networkPolicy": {"egressNamespaces": ["shop"]}});
    let mut all = crate::install::WEFT.defaults().unwrap();
    all["networkPolicy"]["egressNamespaces"] = values["networkPolicy"]["egressNamespaces"].clone();
    let rendered = crate::install::WEFT.render(&all, "weft-system").unwrap();
    let objects = crate::install::documents(&rendered).unwrap();
    let shipped = objects
        .into_iter()
        .find(|object| object["metadata"]["name"] == "weft-egress")
        .unwrap();
    check(shop(vec![], vec![denied(), shipped.clone()]), &[]);

    let mut of_another = shipped;
    of_another["spec"]["egress"][1]["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] =
        json!("injector");
    check(shop(vec![], vec![denied(), of_another]), &["denies egress"]);
    let anywhere = |ports: Value| policy(json!({}), json!([{"ports": ports}]));
    check(
        shop(
            vec![],
            vec![denied(), anywhere(json!([{"port": 15000, "endPort": 15999}]))],
        ),
        &[],
    );
    check(
        shop(
            vec![],
            vec![denied(), anywhere(json!([{"port": 15012, "protocol": "UDP"}]))],
        ),
        &["denies egress"],
    );
    check(
        shop(vec![], vec![denied(), anywhere(json!([{"port": 443}]))]),
        &["denies egress"],
    );
    let beside = policy(json!({}), json!([{"to": [{"podSelector": {}}]}]));
    check(shop(vec![], vec![denied(), beside]), &["denies egress"]);
    let of_some = policy(json!({"matchLabels": {"app": "web"}}), json!([{}]));
    check(shop(vec![], vec![denied(), of_some]), &["denies egress"]);
}

#[test]
fn a_policy_of_some_pods_is_named_and_the_charts_policy_of_all_pods_is_not_offered() {
    let of_web = |egress: Value| policy(json!({"matchLabels": {"app": "web"}}), egress);
    let web = || vec![pod("web-1", |_| {}), pod("web-2", |_| {})];
    check(shop(web(), vec![of_web(json!([{}]))]), &[]);
    check(
        shop(web(), vec![of_web(json!([{"ports": [{"port": 443}]}]))]),
        &["denies egress to 2 of its pods, and none lets them reach port 15012"],
    );
    let also = policy(
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}),
        json!([{"ports": [{"port": 15012}]}]),
    );
    check(shop(web(), vec![of_web(json!([])), also]), &[]);
    let another = policy(
        json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
        json!([]),
    );
    check(shop(web(), vec![another]), &[]);
    let unmeshed = pod("web-1", |pod| {
        pod["spec"]["initContainers"] = json!([]);
        pod["spec"]["hostNetwork"] = json!(true);
    });
    check(
        shop(vec![unmeshed], vec![of_web(json!([]))]),
        &["its node's own network"],
    );
}

#[test]
fn the_fix_names_all_namespaces_that_need_the_charts_policy_or_have_it() {
    let denied = || policy(json!({}), json!([]));
    let mut fenced = policy(json!({}), json!([{"ports": [{"port": 15012}]}]));
    fenced["metadata"] = json!({"name": "weft-egress", "labels": {"app.kubernetes.io/part-of": "weft"}});
    let named = |name: &str, policies: Vec<Value>| Meshed {
        name: name.to_owned(),
        ..shop(vec![], policies)
    };
    let all = vec![
        named("shop", vec![denied()]),
        named("open", vec![]),
        named("bank", vec![denied()]),
        named("till", vec![denied(), fenced]),
    ];
    let fix = "--set 'networkPolicy.egressNamespaces={shop,bank,till}'";
    check_all(all, Answer::Is(json!([])), &[fix, fix]);
}

#[test]
fn what_may_not_be_read_is_not_called_well() {
    let mut unread = shop(vec![], vec![]);
    unread.policies = Answer::Forbidden("no".to_owned());
    check(unread, &["you may not list its NetworkPolicies"]);
    check_all(
        vec![],
        Answer::Forbidden("no".to_owned()),
        &["which namespaces are labelled"],
    );
}

#[test]
fn a_strict_namespace_that_the_outside_is_led_to_is_told() {
    let mut strict = shop(vec![], vec![]);
    let services = json!([
        {"metadata": {"name": "inside"}, "spec": {"type": "ClusterIP"}},
        {"metadata": {"name": "web"}, "spec": {"type": "NodePort"}},
    ]);
    strict.services = Answer::Is(services);
    strict.ingresses = Answer::Is(json!([{"metadata": {"name": "front"}}]));
    strict.namespace["metadata"]["annotations"] = json!({"config.weft.dev/inbound": "strict"});
    let permissive = Meshed {
        namespace: shop(vec![], vec![]).namespace,
        ..strict.clone()
    };
    check(permissive, &[]);
    check(strict, &["Service shop/web", "Ingress shop/front"]);
}
