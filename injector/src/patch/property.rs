//! Whatever a pod says, injection adds to it and takes nothing away; and whatever arrives as a review, it is answered.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::review::{self, Subject};

/// How many of each. A debug build takes too long for all; `./x test` runs them in a release build.
const PODS: u32 = if cfg!(debug_assertions) { 300 } else { 2_000 };
const REVIEWS: usize = if cfg!(debug_assertions) { 10_000 } else { 100_000 };

/// What a pod may have of names.
fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,8}[a-z0-9]"
}

/// Any JSON, a few levels deep: what this version knows nothing of.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn action() -> impl Strategy<Value = Value> {
    let port = 1..=65535_u16;
    prop_oneof![
        (port.clone(), "/[ -~]{0,12}", any::<bool>()).prop_map(|(port, path, tls)| {
            let scheme = if tls { "HTTPS" } else { "HTTP" };
            json!({"httpGet": {"port": port, "path": path, "scheme": scheme, "httpHeaders": [{"name": "a", "value": "$(B)"}]}})
        }),
        port.clone().prop_map(|port| json!({"tcpSocket": {"port": port}})),
        (port, proptest::option::of(name())).prop_map(|(port, service)| match service {
            Some(service) => json!({"grpc": {"port": port, "service": service}}),
            None => json!({"grpc": {"port": port}}),
        }),
        Just(json!({"exec": {"command": ["true"]}})),
    ]
}

fn probe() -> impl Strategy<Value = Value> {
    (action(), proptest::option::of(1..60_u32), anything()).prop_map(|(mut probe, timeout, more)| {
        if let Some(timeout) = timeout {
            probe["timeoutSeconds"] = json!(timeout);
        }
        probe["periodSeconds"] = json!(3);
        probe["futureField"] = more;
        probe
    })
}

fn container() -> impl Strategy<Value = Value> {
    let some_probe = || proptest::option::of(probe());
    let parts = (some_probe(), some_probe(), some_probe(), proptest::option::of(action()));
    (name(), parts, anything(), any::<bool>()).prop_map(|(name, (ready, live, startup, hook), more, sidecar)| {
        let mut container = json!({"name": name, "image": "app", "futureField": more});
        let fields = [
            ("readinessProbe", ready),
            ("livenessProbe", live),
            ("startupProbe", startup),
        ];
        for (field, probe) in fields {
            if let Some(probe) = probe {
                container[field] = probe;
            }
        }
        if let Some(hook) = hook {
            container["lifecycle"] = json!({"preStop": hook, "postStart": {"exec": {"command": ["a"]}}});
        }
        if sidecar {
            container["restartPolicy"] = json!("Always");
        }
        container
    })
}

/// Containers with names of their own.
fn containers(least: usize) -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(container(), least..4).prop_map(|mut containers| {
        for (number, container) in containers.iter_mut().enumerate() {
            container["name"] = json!(format!("{}-{number}", container["name"].as_str().unwrap()));
        }
        containers
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let lists = (containers(0), containers(1), proptest::collection::vec(name(), 0..3));
    let metadata = (proptest::option::of(name()), anything(), any::<bool>());
    (lists, metadata, anything()).prop_map(|((init, mut main, volumes), (app, more, annotated), spec)| {
        for container in &mut main {
            container["name"] = json!(format!("m-{}", container["name"].as_str().unwrap()));
        }
        let volumes: Vec<Value> = volumes
            .iter()
            .map(|name| json!({"name": name, "emptyDir": {}}))
            .collect();
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-", "futureField": more},
            "spec": {"containers": main, "initContainers": init, "volumes": volumes, "futureField": spec},
        });
        if let Some(app) = app {
            pod["metadata"]["labels"] = json!({"app": app});
        }
        if annotated {
            pod["metadata"]["annotations"] = json!({"example.com/a": "b", "config.weft.dev/workers": "2"});
        }
        pod
    })
}

fn shop() -> Value {
    json!({"metadata": {"name": "shop", "labels": {INJECT_LABEL: "enabled"}}})
}

/// A patched pod with all that injection did undone, by what the proxy was told.
fn undone(mut pod: Value) -> Value {
    let kept = Originals::read(&proxy_env(&pod["spec"]), 0);
    for list in ["initContainers", "containers"] {
        let items = pod["spec"][list].as_array_mut().unwrap();
        items.retain(|item| !sidecar::is_ours(&item["name"]));
        for item in items {
            let name = item["name"].as_str().unwrap().to_owned();
            let kinds = [
                ("readinessProbe", &kept.probes, "readiness"),
                ("livenessProbe", &kept.probes, "liveness"),
                ("startupProbe", &kept.probes, "startup"),
            ];
            for (field, of, kind) in kinds {
                if let Some(original) = of.get(&name).and_then(|kinds| kinds.get(kind)) {
                    let probe = item[field].as_object_mut().unwrap();
                    assert_eq!(probe.remove("httpGet").unwrap().get("host"), None);
                    probe.extend(original.as_object().unwrap().clone());
                }
            }
            if let Some(original) = kept.hooks.get(&name).and_then(|kinds| kinds.get("preStop")) {
                item["lifecycle"]["preStop"] = original.clone();
            }
        }
    }
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    volumes.retain(|item| !sidecar::is_ours(&item["name"]));
    let metadata = pod["metadata"].as_object_mut().unwrap();
    let annotations = metadata["annotations"].as_object_mut().unwrap();
    annotations.remove(VERSION_ANNOTATION).unwrap();
    annotations.remove(SIDECAR_ANNOTATION).unwrap();
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    pod
}

proptest! {
    #![proptest_config(ProptestConfig { cases: PODS, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_patched_pod_is_the_users_own_with_a_sidecar_and_a_second_patch_is_empty(pod in pod(), token in any::<u128>()) {
        let settings = InjectSettings::default();
        let Decision::Inject(after) = inject_with(&pod, &shop(), &settings, token) else {
            panic!("not injected")
        };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &diff(&pod, &after)).unwrap();
        prop_assert_eq!(&patched, &*after, "the patch leads elsewhere");
        prop_assert_eq!(undone(patched), pod);
        let again = inject_with(&after, &shop(), &settings, !token);
        prop_assert_eq!(again, Decision::Inject(after));
    }
}

/// A pod that uses about everything that injection looks at.
fn seed() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop", "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": {
                "metadata": {
                    "generateName": "web-7d9f-", "labels": {"app": "web", "pod-template-hash": "7d9f"},
                    "annotations": {
                        "config.weft.dev/skip-outbound-ports": "25,587", "config.weft.dev/proxy-cpu-limit": "1",
                        "config.weft.dev/inbound": "permissive", "config.weft.dev/skip-inbound-ports": "9090",
                    },
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-7d9f", "controller": true}],
                },
                "spec": {
                    "securityContext": {"runAsUser": 1000},
                    "initContainers": [{"name": "wait", "command": ["true"], "restartPolicy": "Always"}],
                    "containers": [{
                        "name": "app", "ports": [{"containerPort": 8080, "name": "http"}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "timeoutSeconds": 2},
                        "livenessProbe": {"grpc": {"port": 8080, "service": "a"}},
                        "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}},
                    }],
                    "volumes": [{"name": "data", "emptyDir": {}}],
                },
            },
        },
    })
}

/// Puts something odd at one place of a value.
fn odd(value: &mut Value, random: &mut StdRng) {
    if random.random_range(0..8) != 0 {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let place = random.random_range(0..map.len());
                return map
                    .values_mut()
                    .nth(place)
                    .into_iter()
                    .for_each(|inner| odd(inner, random));
            }
            Value::Array(list) if !list.is_empty() => {
                let place = random.random_range(0..list.len());
                return odd(&mut list[place], random);
            }
            _ => {}
        }
    }
    *value = match random.random_range(0..9) {
        0 => Value::Null,
        1 => json!([]),
        2 => json!({}),
        3 => json!(-1),
        4 => json!(u64::MAX),
        5 => json!("\u{0}\u{fffd}$(A) ".repeat(3)),
        6 => json!([null, {"name": null}, [[]], 1.5]),
        7 => json!({"name": ["weft-proxy"], "httpGet": [], "port": {}}),
        _ => json!(["weft-proxy", "weft-init", "disabled", "1882"][random.random_range(0..4)]),
    };
}

/// A review as nobody would write it.
fn mutated(seeds: &[Value], random: &mut StdRng) -> Vec<u8> {
    let mut review = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(0..4) {
        let anywhere = random.random_range(0..10) == 0;
        match review.pointer_mut("/request/object") {
            Some(object) if !anywhere => odd(object, random),
            _ => odd(&mut review, random),
        }
    }
    let mut bytes = review.to_string().into_bytes();
    for _ in 0..random.random_range(0..3_usize).saturating_sub(1) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] = random.random(),
            1 => bytes.truncate(at + 1),
            2 => bytes.insert(at, b"{}[]\",:\\"[random.random_range(0..8)]),
            _ => {
                bytes.remove(at);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn mutated_reviews_are_answered_or_told_what_they_are() {
    let mut random = StdRng::seed_from_u64(6);
    let settings = InjectSettings::default();
    let mut second = seed();
    let Decision::Inject(once) = inject_with(&second["request"]["object"], &shop(), &settings, 7) else {
        panic!("the seed is not injected")
    };
    second["request"]["object"] = *once;
    let seeds = [seed(), second];
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for _ in 0..REVIEWS {
        let body = mutated(&seeds, &mut random);
        let outcome = match review::read(&body) {
            Err(_) => "malformed",
            Ok(review) => match review.subject {
                Subject::Other | Subject::Broken(_) => "no pod",
                Subject::Pod { pod, .. } => {
                    let verdict = review::judge(&pod, &shop(), &settings, 9);
                    let word = verdict.outcome.word();
                    review::answer(&review.uid, verdict).unwrap();
                    word
                }
            },
        };
        *counts.entry(outcome).or_default() += 1;
    }
    // Each way was gone often, or the mutations find nothing.
    for outcome in ["malformed", "no pod", "injected", "unchanged", "refused"] {
        assert!(
            counts.get(outcome).is_some_and(|count| *count > REVIEWS / 200),
            "{outcome}: {counts:?}"
        );
    }
}
