use serde_json::json;

use super::*;

fn review(object: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop", "dryRun": true,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": object,
        },
    })
}

fn pod() -> Value {
    json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app", "image": "app"}]}})
}

fn shop() -> Value {
    json!({"metadata": {"name": "shop", "labels": {INJECT_LABEL: "enabled"}}})
}

fn read_value(review: &Value) -> Result<Review, String> {
    read(review.to_string().as_bytes())
}

fn answered(verdict: Verdict) -> Value {
    serde_json::from_slice(&answer("705ab4f5", verdict).unwrap()).unwrap()
}

#[test]
fn a_pod_is_found_in_its_review_and_the_patch_goes_back_as_base64() {
    let Review { uid, subject } = read_value(&review(pod())).unwrap();
    let Subject::Pod { namespace, pod } = subject else {
        panic!("{subject:?}")
    };
    assert_eq!(
        (uid.as_str(), namespace.as_str(), name(&pod)),
        ("705ab4f5", "shop", "web-")
    );

    let answer = answered(judge(&pod, &shop(), &InjectSettings::default(), 7));
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5");
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = BASE64.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    assert_eq!(after["spec"]["initContainers"][1]["name"], "weft-proxy");

    let again = answered(judge(&after, &shop(), &InjectSettings::default(), 7));
    assert_eq!(
        again["response"],
        json!({"uid": "705ab4f5", "allowed": true}),
        "nothing is left to change"
    );
}

#[test]
fn a_refusal_says_why() {
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let answer = answered(judge(&host, &shop(), &InjectSettings::default(), 7));
    assert_eq!(answer["response"]["allowed"], false);
    assert_eq!(answer["response"]["status"]["code"], 422);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("spec.hostNetwork"), "{message}");
}

#[test]
fn what_is_no_pod_to_be_made_is_let_through() {
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("subResource", json!("ephemeralcontainers")),
        (
            "resource",
            json!({"group": "apps", "version": "v1", "resource": "deployments"}),
        ),
        ("resource", json!(null)),
    ] {
        let mut review = review(pod());
        review["request"][field] = value;
        assert_eq!(read_value(&review).unwrap().subject, Subject::Other, "{field}");
    }
}

#[test]
fn a_review_without_its_pod_is_broken_and_not_let_through() {
    for object in [json!(null), json!([]), json!({"metadata": {}}), json!({"spec": {}})] {
        let Subject::Broken(why) = read_value(&review(object)).unwrap().subject else {
            panic!("let through")
        };
        assert!(why.contains("request.object"), "{why}");
    }
}

#[test]
fn a_namespace_is_one_dns_label_or_the_review_is_broken() {
    let of = |namespace: Value| {
        let mut review = review(pod());
        review["request"]["namespace"] = namespace;
        read_value(&review).unwrap().subject
    };
    let longest = "a".repeat(63);
    for good in ["a", "shop-1", &longest] {
        assert!(matches!(of(json!(good)), Subject::Pod { .. }), "{good}");
    }
    let longer = "a".repeat(64);
    for bad in [
        "",
        "../secrets",
        "shop/pods",
        "-a",
        "a-",
        "A",
        "a.b",
        "a?b",
        "a\n",
        &longer,
    ] {
        assert!(matches!(of(json!(bad)), Subject::Broken(_)), "{bad}");
    }
    assert!(matches!(of(json!(null)), Subject::Broken(_)));
}

#[test]
fn a_body_of_many_values_is_refused_before_it_is_read() {
    // Not JSON at its end: that is not reached.
    let many = [r#"[{"":0},"#.repeat(VALUES_MAX / 2).as_bytes(), b"!"].concat();
    assert!(read(&many).unwrap_err().contains("values"));
    let text = json!({"a": [1, 2], "b": "[,{\\\",["}).to_string();
    assert_eq!(values(text.as_bytes()), 5, "{text}");
}

#[test]
fn what_is_no_review_is_told_by_field() {
    assert!(read(b"{").unwrap_err().contains("not JSON"));
    assert!(read("[".repeat(10_000).as_bytes()).unwrap_err().contains("recursion"));
    for (pointer, field) in [
        ("/apiVersion", "apiVersion"),
        ("/kind", "kind"),
        ("/request", "request"),
        ("/request/uid", "request.uid"),
    ] {
        let mut review = review(pod());
        *review.pointer_mut(pointer).unwrap() = json!("");
        let error = read_value(&review).unwrap_err();
        assert!(error.starts_with(&format!("{field}:")), "{error}");
    }
}

#[test]
fn a_label_that_does_nothing_is_told() {
    let mut labelled = pod();
    labelled["metadata"]["labels"] = json!({INJECT_LABEL: "enabled"});
    let plain = json!({"metadata": {"name": "plain"}});
    let verdict = judge(&labelled, &plain, &InjectSettings::default(), 7);
    assert_eq!(verdict.outcome, Outcome::Skipped);
    assert!(verdict.warnings[0].contains("no effect"), "{verdict:?}");
    let verdict = judge(&pod(), &plain, &InjectSettings::default(), 7);
    assert_eq!(verdict.warnings, Vec::<String>::new());
}

#[test]
fn the_last_known_namespace_only_adds() {
    let settings = InjectSettings::default();
    let by_last_known = |pod: &Value, namespace: &Value| judge_by_last_known(pod, namespace, &settings, 7);
    let mut skips = pod();
    skips["metadata"]["annotations"] = json!({"config.weft.dev/skip-inbound-ports": "9090"});
    let mut out = skips.clone();
    out["metadata"]["labels"] = json!({INJECT_LABEL: "disabled"});

    let plain = json!({"metadata": {"name": "shop"}});
    assert!(by_last_known(&pod(), &plain).unwrap_err().contains("injected"));
    assert!(
        by_last_known(&skips, &shop())
            .unwrap_err()
            .contains("skip-inbound-ports")
    );
    for fine in [pod(), out] {
        assert_eq!(by_last_known(&fine, &shop()), Ok(judge(&fine, &shop(), &settings, 7)));
    }
}

#[test]
fn a_level_that_refuses_the_redirect_is_warned_of() {
    let mut strict = shop();
    strict["metadata"]["labels"][weft_model::pod_security::ENFORCE_LABEL] = json!("baseline");
    let verdict = judge(&pod(), &strict, &InjectSettings::default(), 7);
    assert!(matches!(verdict.outcome, Outcome::Injected(_)));
    assert!(verdict.warnings[0].contains("NET_ADMIN"), "{verdict:?}");
}

#[test]
fn the_clusters_own_namespaces_and_wefts_are_exempt() {
    for name in ["kube-system", "kube-public", "kube-node-lease", "weft-system"] {
        assert!(is_exempt(name, "weft-system"), "{name}");
    }
    assert!(!is_exempt("shop", "weft-system"));
}

#[test]
fn long_texts_are_cut_between_characters() {
    let cut = cut("ü".repeat(400), WARNING_MAX);
    assert!(cut.len() <= WARNING_MAX && cut.ends_with("ü..."), "{cut}");
}
