use super::*;
use crate::redirect::{Exempt, MARK};

fn settings() -> InjectSettings {
    InjectSettings {
        image: "weft:test".to_owned(),
        command: vec!["weft".to_owned()],
        control_address: "weft-control.weft-system.svc.cluster.local:15012".to_owned(),
        exempt: Exempt::Mark(MARK),
        proxy_env: vec![(
            "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
            "http://10.0.0.1:4317".to_owned(),
        )],
        ..InjectSettings::default()
    }
}

fn meshed() -> Value {
    json!({"metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}}})
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "web-1", "labels": {"app": "web"}},
        "spec": {
            "initContainers": [{"name": "wait", "command": ["true"]}],
            "containers": [{
                "name": "app", "command": ["web"], "ports": [{"containerPort": 8080, "name": "http"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
            }],
        },
    })
}

#[track_caller]
fn injected(pod: &Value) -> Value {
    match inject(pod, &meshed(), &settings()) {
        Decision::Inject(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(pod: &Value, field: &str) {
    match inject(pod, &meshed(), &settings()) {
        Decision::Refuse(reason) => assert!(reason.contains(field), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sidecar_comes_before_the_users_init_containers() {
    let pod = injected(&pod());
    let names: Vec<&Value> = pod["spec"]["initContainers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, [&json!("weft-init"), &json!("weft-proxy"), &json!("wait")]);
    assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
}

#[test]
fn a_second_pass_is_an_empty_patch() {
    let once = injected(&pod());
    assert!(diff(&once, &injected(&once)).0.is_empty());
}

#[test]
fn every_field_that_the_user_wrote_is_still_there() {
    let mut before = pod();
    before["spec"]["futureField"] = json!({"deep": [1, 2]});
    before["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let after = injected(&before);
    assert_eq!(after["spec"]["futureField"], before["spec"]["futureField"]);
    assert_eq!(after["spec"]["volumes"][0], before["spec"]["volumes"][0]);
    assert_eq!(
        after["spec"]["containers"][0]["command"],
        before["spec"]["containers"][0]["command"]
    );
}

#[test]
fn an_unlabelled_namespace_and_an_opted_out_pod_are_left_alone() {
    let unlabelled = json!({"metadata": {"name": "plain"}});
    assert_eq!(
        inject(&pod(), &unlabelled, &settings()),
        Decision::Skip(Skip::NamespaceNotLabelled)
    );
    let mut out = pod();
    out["metadata"]["labels"][INJECT_LABEL] = json!("disabled");
    assert_eq!(inject(&out, &meshed(), &settings()), Decision::Skip(Skip::OptedOut));
}

#[test]
fn what_cannot_be_redirected_is_refused_by_field() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod);
        pod
    };
    refused(
        &with(&|pod| pod["spec"]["hostNetwork"] = json!(true)),
        "spec.hostNetwork",
    );
    refused(
        &with(&|pod| pod["spec"]["os"] = json!({"name": "windows"})),
        "spec.os.name",
    );
    refused(
        &with(&|pod| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"})),
        "spec.nodeSelector",
    );
    refused(&with(&|pod| affine(pod, &[&["windows"]])), "spec.affinity");
    refused(
        &with(&|pod| pod["spec"]["securityContext"] = json!({"runAsUser": 1882})),
        "spec.securityContext.runAsUser",
    );
    refused(
        &with(&|pod| pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1882})),
        "spec.containers[0].securityContext.runAsUser",
    );
    refused(
        &with(&|pod| pod["spec"]["containers"][0]["name"] = json!("istio-proxy")),
        "another mesh",
    );
    for own in OWN_PORTS {
        refused(
            &with(&|pod| pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(own)),
            "spec.containers[0].ports[0].containerPort",
        );
    }
    refused(
        &with(&|pod| pod["metadata"]["labels"][INJECT_LABEL] = json!("yes")),
        INJECT_LABEL,
    );
}

/// Requires a node of one of these systems, term by term.
fn affine(pod: &mut Value, terms: &[&[&str]]) {
    let term = |values| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": values}]});
    let terms: Vec<Value> = terms.iter().map(term).collect();
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": terms});
}

#[test]
fn a_pod_that_may_run_on_linux_is_none_for_windows() {
    for terms in [
        &[&["linux"][..]][..],
        &[&["windows"], &["linux"]],
        &[&["windows", "linux"]],
        &[],
    ] {
        let mut pod = pod();
        affine(&mut pod, terms);
        injected(&pod);
    }
}

#[test]
fn a_port_of_udp_and_a_pod_without_a_sidecar_may_have_the_sidecars_numbers() {
    let mut udp = pod();
    udp["spec"]["containers"][0]["ports"][0] = json!({"containerPort": 15006, "protocol": "UDP"});
    injected(&udp);
    let mut out = pod();
    out["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(15006);
    out["metadata"]["labels"][INJECT_LABEL] = json!("disabled");
    assert_eq!(inject(&out, &meshed(), &settings()), Decision::Skip(Skip::OptedOut));
}

#[test]
fn annotations_tune_and_mistyped_ones_are_refused() {
    let mut tuned = pod();
    tuned["metadata"]["annotations"] = json!({"config.weft.dev/skip-outbound-ports": "25, 587"});
    let args = injected(&tuned)["spec"]["initContainers"][0]["args"].clone();
    assert_eq!(
        args,
        json!(["init", "--exempt-mark=22341", "--skip-outbound-ports=25,587"])
    );
    for (key, value) in [
        ("skip-outbound-ports", "smtp"),
        ("skip-inbound-ports", "http"),
        ("opaque-ports", "redis"),
        ("skip-outbound-port", "25"),
        ("workers", "0"),
        ("access-log", "yes"),
        ("log-level", "nonsense=="),
        ("inbound", "Strict"),
        ("inbound", ""),
    ] {
        tuned["metadata"]["annotations"] = json!({ format!("config.weft.dev/{key}"): value });
        refused(&tuned, key);
    }
}

#[test]
fn a_namespaces_annotations_are_for_its_pods_and_a_pods_own_count_before_them() {
    let namespace = |annotations: Value| json!({"metadata": {"name": "shop", "labels": {INJECT_LABEL: "enabled"}, "annotations": annotations}});
    let log = |pod: &Value| {
        let namespace = namespace(json!({"config.weft.dev/access-log": "on", "config.weft.dev/inbound": "strict"}));
        let Decision::Inject(pod) = inject(pod, &namespace, &settings()) else {
            panic!("not injected")
        };
        let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap().clone();
        let set = env.into_iter().filter(|var| var["name"] == "WEFT_ACCESS_LOG");
        set.map(|var| var["value"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(log(&pod()), ["on"]);
    let mut quiet = pod();
    quiet["metadata"]["annotations"] = json!({"config.weft.dev/access-log": "off"});
    assert_eq!(log(&quiet), ["off"]);
    let mistyped = namespace(json!({"config.weft.dev/acess-log": "on"}));
    let Decision::Refuse(why) = inject(&pod(), &mistyped, &settings()) else {
        panic!("not refused")
    };
    assert!(
        why.contains("the Namespace's annotation config.weft.dev/acess-log"),
        "{why}"
    );
    for mode in ["Strict", ""] {
        let Decision::Refuse(why) = inject(
            &pod(),
            &namespace(json!({"config.weft.dev/inbound": mode})),
            &settings(),
        ) else {
            panic!("not refused: {mode:?}")
        };
        let said = format!("the Namespace's annotation config.weft.dev/inbound: {mode:?} is not permissive or strict");
        assert_eq!(why, said);
    }
}

#[test]
fn in_kubernetes_the_proxy_has_no_capability() {
    let settings = InjectSettings {
        exempt: Exempt::Uid(PROXY_UID),
        ..settings()
    };
    let Decision::Inject(pod) = inject(&pod(), &meshed(), &settings) else {
        panic!("not injected")
    };
    let proxy = &pod["spec"]["initContainers"][1];
    assert_eq!(
        proxy["securityContext"]["capabilities"],
        json!({"drop": ["ALL"], "add": []})
    );
    assert!(!proxy["env"].to_string().contains("WEFT_MARK"));
}

#[test]
fn the_workload_is_the_deployment_behind_the_replica_set() {
    let owned = json!({"metadata": {
        "labels": {"pod-template-hash": "7d9f"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "reviews-v1-7d9f", "controller": true}],
    }});
    assert_eq!(workload(&owned), "reviews-v1");
    for (kind, name, workload) in [
        ("Job", "nightly-29948160", "nightly"),
        ("Job", "import-20261122", "import-20261122"),
        ("Job", "import-2", "import-2"),
        ("StatefulSet", "nightly-29948160", "nightly-29948160"),
    ] {
        let owner = json!([{"kind": kind, "name": name, "controller": true}]);
        assert_eq!(
            super::workload(&json!({"metadata": {"ownerReferences": owner}})),
            workload
        );
    }
    assert_eq!(workload(&pod()), "web");
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let mut all = super::containers(&pod["spec"]).map(|(_, container)| container);
    all.find(|container| container["name"] == name).expect("the container")
}

fn variable(pod: &Value, name: &str) -> Option<String> {
    let env = container(pod, "weft-proxy")["env"].as_array().unwrap();
    let mut same = env.iter().filter(|variable| variable["name"] == name);
    let value = same.next()?["value"].as_str().map(str::to_owned);
    assert_eq!(same.next(), None, "{name} stands twice");
    value
}

#[test]
fn a_later_review_leaves_what_others_did_and_takes_in_what_they_added() {
    let mut between = injected(&pod());
    let proxy = &mut between["spec"]["initContainers"][1];
    proxy["image"] = json!("mirror.example/weft:test");
    proxy["resources"] = json!({"limits": {"cpu": "1"}});
    proxy["terminationMessagePath"] = json!("/dev/termination-log");
    let token = json!({"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    proxy["volumeMounts"].as_array_mut().unwrap().push(token);
    let late = json!({"name": "late", "livenessProbe": {"tcpSocket": {"port": 9000}}});
    between["spec"]["containers"].as_array_mut().unwrap().push(late);

    let after = injected(&between);
    let proxy = container(&after, "weft-proxy");
    assert_eq!(proxy["image"], "mirror.example/weft:test");
    assert_eq!(proxy["resources"]["limits"]["cpu"], "1");
    assert_eq!(proxy["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(
        proxy["volumeMounts"].as_array().unwrap().len(),
        3,
        "no token for the API server"
    );
    let path = &container(&after, "late")["livenessProbe"]["httpGet"]["path"];
    assert_eq!(path, "/probe/late/liveness");
    let probes: Value = serde_json::from_str(&variable(&after, "WEFT_PROBES").unwrap()).unwrap();
    assert_eq!(probes["late"]["liveness"], json!({"tcpSocket": {"port": 9000}}));
    assert_eq!(
        probes["app"]["readiness"]["httpGet"]["port"], 8080,
        "the first ones are kept"
    );
    assert_eq!(injected(&after), after);
}

#[test]
fn a_container_that_others_put_first_comes_after_ours_and_finds_the_proxy() {
    let once = injected(&pod());
    let mut between = once.clone();
    let list = between["spec"]["initContainers"].as_array_mut().unwrap();
    list[1]["image"] = json!("mirror.example/weft:test");
    list.insert(
        0,
        json!({"name": "first", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 9000}}}),
    );
    let after = injected(&between);
    let list = after["spec"]["initContainers"].as_array().unwrap();
    let names: Vec<&Value> = list.iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["weft-init", "weft-proxy", "first", "wait"]);
    assert_eq!(list[1]["image"], "mirror.example/weft:test", "as it is");
    assert_eq!(list[2]["startupProbe"]["httpGet"]["path"], "/probe/first/startup");
    assert_eq!(injected(&after), after);
}

#[test]
fn hooks_that_are_gone_are_no_hooks_of_the_proxy() {
    let mut hooked = pod();
    hooked["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"httpGet": {"port": "http", "path": "/bye"}}});
    let mut once = injected(&hooked);
    assert!(variable(&once, "WEFT_HOOKS").is_some());
    once["spec"]["containers"][0]["lifecycle"] = json!(null);
    let after = injected(&once);
    assert_eq!(variable(&after, "WEFT_HOOKS"), None);
    assert!(variable(&after, "WEFT_PROBES").is_some());
}

#[test]
fn the_token_of_hooks_is_kept_by_a_second_review() {
    let mut hooked = pod();
    hooked["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"httpGet": {"port": "http", "path": "/bye"}}});
    let Decision::Inject(once) = inject_with(&hooked, &meshed(), &settings(), 1) else {
        panic!("not injected")
    };
    assert!(
        variable(&once, "WEFT_HOOKS")
            .unwrap()
            .contains(r#""token":"00000000000000000000000000000001""#)
    );
    let Decision::Inject(twice) = inject_with(&once, &meshed(), &settings(), 2) else {
        panic!("not injected")
    };
    assert_eq!(once, twice);
}

#[test]
fn a_sidecar_of_another_version_or_of_other_settings_is_replaced() {
    let old = injected(&pod());
    let newer = InjectSettings {
        image: "weft:newer".to_owned(),
        ..settings()
    };
    let Decision::Inject(after) = inject(&old, &meshed(), &newer) else {
        panic!("not injected")
    };
    assert_eq!(container(&after, "weft-proxy")["image"], "weft:newer");
    assert_eq!(after["spec"]["initContainers"].as_array().unwrap().len(), 3);
    assert_eq!(after["spec"]["volumes"].as_array().unwrap().len(), 3);
    assert!(
        variable(&after, "WEFT_PROBES").unwrap().contains("8080"),
        "the originals go on"
    );
    let mut tuned = old.clone();
    tuned["metadata"]["annotations"]["config.weft.dev/workers"] = json!("2");
    assert_eq!(variable(&injected(&tuned), "WEFT_WORKERS").as_deref(), Some("2"));
}

#[test]
fn resources_and_sampling_are_those_of_the_annotations_else_of_the_settings() {
    let settings = InjectSettings {
        resources: crate::settings::Resources {
            cpu_request: Some("10m".to_owned()),
            memory_limit: Some("1Gi".to_owned()),
            ..Default::default()
        },
        proxy_env: crate::settings::sampling("1").to_vec(),
        ..settings()
    };
    let mut tuned = pod();
    tuned["metadata"]["annotations"] = json!({
        "config.weft.dev/proxy-cpu-request": "50m", "config.weft.dev/proxy-cpu-limit": "2",
        "config.weft.dev/trace-sampling": "0.25",
    });
    for (pod, resources, share) in [
        (
            pod(),
            json!({"requests": {"cpu": "10m"}, "limits": {"memory": "1Gi"}}),
            "1",
        ),
        (
            tuned,
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
            "0.25",
        ),
    ] {
        let Decision::Inject(after) = inject(&pod, &meshed(), &settings) else {
            panic!("not injected")
        };
        assert_eq!(container(&after, "weft-proxy")["resources"], resources);
        assert_eq!(container(&after, "weft-init")["resources"], resources);
        assert_eq!(variable(&after, "OTEL_TRACES_SAMPLER_ARG").as_deref(), Some(share));
    }
}

#[test]
fn an_inbound_port_is_left_alone_only_where_plaintext_is_taken() {
    let with = |mode: Option<&str>| {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"config.weft.dev/skip-inbound-ports": "9090"});
        if let Some(mode) = mode {
            pod["metadata"]["annotations"]["config.weft.dev/inbound"] = json!(mode);
        }
        pod
    };
    for mode in [None, Some("permissive")] {
        let after = injected(&with(mode));
        let args = container(&after, "weft-init")["args"].to_string();
        assert!(args.contains("--skip-inbound-ports=9090"), "{args}");
        assert!(warnings(&with(mode), &meshed())[0].contains("9090"));
    }
    refused(&with(Some("strict")), "skip-inbound-ports");
    let mut strict = meshed();
    strict["metadata"]["annotations"] = json!({"config.weft.dev/inbound": "strict"});
    let decision = inject(&with(Some("permissive")), &strict, &settings());
    assert!(
        matches!(decision, Decision::Refuse(_)),
        "a pod only tightens: {decision:?}"
    );
}

#[test]
fn names_of_ours_and_mirrors_are_told_apart() {
    let mut taken = pod();
    taken["spec"]["volumes"] = json!([{"name": "weft-token", "emptyDir": {}}]);
    refused(&taken, "spec.volumes[0]");
    let mut taken = pod();
    taken["spec"]["containers"][0]["name"] = json!("weft-proxy");
    refused(&taken, "spec.containers[0]");
    // A mark does not make them ours.
    taken["metadata"]["annotations"] = json!({"weft.dev/proxy-version": "1", "weft.dev/sidecar": "0"});
    refused(&taken, "spec.containers[0]");
    let mut marked = injected(&pod());
    marked["metadata"]["annotations"]
        .as_object_mut()
        .unwrap()
        .remove("weft.dev/sidecar");
    marked["spec"]["initContainers"][1]["env"] = json!([]);
    refused(&marked, "spec.initContainers[0]");
    let mut mirror = pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(inject(&mirror, &meshed(), &settings()), Decision::Skip(Skip::Mirror));
}

#[test]
fn probes_that_the_proxy_cannot_read_are_refused_by_field() {
    let mut odd = pod();
    odd["spec"]["containers"][0]["readinessProbe"]["httpGet"]["httpHeaders"] = json!([{"name": "a", "value": 1}]);
    refused(
        &odd,
        "spec.containers: container app: readinessProbe.httpGet.httpHeaders[0].value",
    );
}

#[test]
fn probes_that_no_variable_holds_are_refused() {
    let mut large = pod();
    large["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] = json!("/".repeat(200_000));
    refused(&large, "WEFT_PROBES");
}

#[test]
fn a_copy_of_a_meshed_pod_that_has_lost_its_annotations_gets_its_sidecar_anew() {
    let meshed = injected(&pod());
    // As `kubectl debug --copy-to` makes it, by its profile `general`.
    let mut copy = meshed.clone();
    copy["metadata"] = json!({"name": "copy"});
    let app = copy["spec"]["containers"][0].as_object_mut().unwrap();
    app.remove("readinessProbe");
    let after = injected(&copy);
    let names = |pod: &Value, list: &str| {
        let items = pod["spec"][list].as_array().unwrap().iter();
        items.map(|item| item["name"].clone()).collect::<Vec<_>>()
    };
    for list in ["initContainers", "containers", "volumes"] {
        assert_eq!(names(&after, list), names(&meshed, list), "{list}");
    }
    assert_eq!(variable(&after, "WEFT_PROBES").as_deref(), Some("{}"));
    assert_eq!(injected(&after), after);

    // What is only named like ours is somebody else's.
    copy["spec"]["initContainers"][1]["args"] = json!(["serve"]);
    refused(&copy, "spec.initContainers[0]: the name");
}

#[test]
fn a_probe_that_asks_a_sidecar_which_is_gone_is_refused() {
    let mut stripped = injected(&pod());
    stripped["spec"]["initContainers"].as_array_mut().unwrap().drain(..2);
    stripped["spec"].as_object_mut().unwrap().remove("volumes");
    refused(&stripped, "readinessProbe.httpGet: asks the sidecar");
}

#[test]
fn variables_that_the_kubelet_makes_of_services_do_not_move_the_proxys_ports() {
    let pod = injected(&pod());
    for (name, port) in [
        ("WEFT_OUTBOUND_PORT", "15001"),
        ("WEFT_INBOUND_PORT", "15006"),
        ("WEFT_ADMIN_PORT", "15020"),
        ("WEFT_LOCAL_ADMIN_PORT", "15021"),
    ] {
        assert_eq!(variable(&pod, name).as_deref(), Some(port), "{name}");
    }
}
