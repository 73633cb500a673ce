//! The pod patch: a pod and its namespace in, the patched pod or the reason why not out. Pure and idempotent: a patched pod
//! comes back unchanged.

use serde_json::{Map, Value, json};

pub use crate::annotations::INJECT_LABEL;
use crate::annotations::{self, Tune, VERSION_ANNOTATION};
use crate::probes::{self, Originals};
use crate::redirect::{ADMIN_PORT, Exempt, INBOUND_PORT, LOCAL_ADMIN_PORT, OUTBOUND_PORT, PROXY_UID, RedirectSettings};
use crate::settings::InjectSettings;
use crate::sidecar;

/// Sidecars of other meshes: two redirects in one pod would fight.
const FOREIGN: [&str; 5] = [
    "istio-proxy",
    "linkerd-proxy",
    "kuma-sidecar",
    "consul-dataplane",
    "envoy-sidecar",
];

/// Where the sidecar listens.
const OWN_PORTS: [u16; 4] = [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT, LOCAL_ADMIN_PORT];

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The pod with its sidecar.
    Inject(Box<Value>),
    /// Left as it is; why.
    Skip(Skip),
    /// A pod that can't be meshed and must not run unmeshed in this namespace; for people: why, and the fix.
    Refuse(String),
}

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The namespace has no label `weft.dev/inject: enabled`.
    NamespaceNotLabelled,
    /// The pod has the label `weft.dev/inject: disabled`.
    OptedOut,
}

/// Decides about a pod of a namespace, both as their objects.
pub fn inject(pod: &Value, namespace: &Value, settings: &InjectSettings) -> Decision {
    if label(namespace) != Some("enabled") {
        return Decision::Skip(Skip::NamespaceNotLabelled);
    }
    match label(pod) {
        Some("disabled") => return Decision::Skip(Skip::OptedOut),
        Some("enabled") | None => {}
        Some(other) => {
            return Decision::Refuse(format!(
                "label {INJECT_LABEL}: {other:?} is neither \"enabled\" nor \"disabled\""
            ));
        }
    }
    if let Some(reason) = obstacle(pod) {
        return Decision::Refuse(reason);
    }
    match patched(pod, namespace, settings) {
        Ok(pod) => Decision::Inject(Box::new(pod)),
        Err(reason) => Decision::Refuse(reason),
    }
}

/// The JSON Patch (RFC 6902) from one pod to another.
pub fn diff(before: &Value, after: &Value) -> json_patch::Patch {
    json_patch::diff(before, after)
}

fn label(object: &Value) -> Option<&str> {
    object["metadata"]["labels"].get(INJECT_LABEL)?.as_str()
}

/// Why a pod can't be meshed.
fn obstacle(pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let opt_out = format!("or opt the pod out with the label {INJECT_LABEL}: disabled");
    if spec["hostNetwork"] == json!(true) {
        return Some(format!(
            "spec.hostNetwork: a pod on the host's network can't be redirected; remove it, {opt_out}"
        ));
    }
    if spec["os"]["name"] == json!("windows") {
        return Some(format!("spec.os.name: Windows pods can't be redirected; {opt_out}"));
    }
    let pod_uid = &spec["securityContext"]["runAsUser"];
    for (path, container) in containers(spec) {
        if sidecar::is_ours(&container["name"]) {
            continue;
        }
        let uid = container["securityContext"].get("runAsUser").unwrap_or(pod_uid);
        if *uid == json!(PROXY_UID) {
            return Some(format!(
                "{path}.securityContext.runAsUser: {PROXY_UID} is the proxy's own uid; take another"
            ));
        }
        let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_tcp = |port: &Value| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        let taken = |port: &Value| OWN_PORTS.iter().any(|own| port["containerPort"] == json!(own));
        if let Some(at) = ports.iter().position(|port| is_tcp(port) && taken(port)) {
            return Some(format!(
                "{path}.ports[{at}].containerPort: {} is the sidecar's own; take another, {opt_out}",
                ports[at]["containerPort"]
            ));
        }
        let name = container["name"].as_str().unwrap_or_default();
        if FOREIGN.contains(&name) {
            return Some(format!(
                "{path}: {name} is the sidecar of another mesh; inject only one, {opt_out}"
            ));
        }
    }
    None
}

fn containers(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(move |list| {
        let items = spec[list].as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .enumerate()
            .map(move |(i, container)| (format!("spec.{list}[{i}]"), container))
    })
}

fn patched(pod: &Value, namespace: &Value, settings: &InjectSettings) -> Result<Value, String> {
    let tuned = Tuned::read(pod, namespace)?;
    let redirect = RedirectSettings {
        exempt: settings.exempt,
        ..tuned.redirect
    };
    let known = known_probes(&pod["spec"]);
    let mut pod = pod.clone();
    let workload = workload(&pod);
    let spec = pod
        .get_mut("spec")
        .and_then(Value::as_object_mut)
        .ok_or("spec: missing")?;

    let mut originals = Map::new();
    for list in ["initContainers", "containers"] {
        let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        items.retain(|container| !sidecar::is_ours(&container["name"]));
        originals.extend(
            items
                .iter_mut()
                .filter_map(|container| probes::rewrite(container, &known)),
        );
    }
    let first = [
        sidecar::init_container(settings, &redirect),
        sidecar::proxy_container(settings, &workload, &Value::Object(originals), &tuned.env),
    ];
    list_mut(spec, "initContainers")?.splice(0..0, first);
    let volumes = list_mut(spec, "volumes")?;
    volumes.retain(|volume| !sidecar::is_ours(&volume["name"]));
    volumes.extend(sidecar::volumes());

    let metadata = pod
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or("metadata: missing")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    annotations[VERSION_ANNOTATION] = json!(settings.version);
    Ok(pod)
}

fn list_mut<'a>(spec: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Vec<Value>, String> {
    let list = spec.entry(name).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut()
        .ok_or_else(|| format!("spec.{name}: must be a list"))
}

/// The originals that an earlier pass kept in the proxy's container.
fn known_probes(spec: &Value) -> Originals {
    let proxy = containers(spec)
        .map(|(_, container)| container)
        .find(|c| c["name"] == json!(sidecar::PROXY));
    let env = proxy
        .and_then(|proxy| proxy["env"].as_array())
        .map(Vec::as_slice)
        .unwrap_or_default();
    let text = env
        .iter()
        .find(|var| var["name"] == json!("WEFT_PROBES"))
        .and_then(|var| var["value"].as_str());
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The best name of what the pod belongs to, before the control plane says it.
pub fn workload(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    let owner = metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|o| o["controller"] == json!(true));
    let labels = &metadata["labels"];
    if let Some(owner) = owner {
        let name = owner["name"].as_str().unwrap_or_default();
        let hash = labels["pod-template-hash"].as_str();
        let deployment = hash
            .and_then(|hash| name.strip_suffix(hash))
            .and_then(|name| name.strip_suffix('-'));
        return deployment.unwrap_or(name).to_owned();
    }
    let label = ["app.kubernetes.io/name", "app"]
        .iter()
        .find_map(|key| labels[*key].as_str());
    let generate = metadata["generateName"].as_str().map(|name| name.trim_end_matches('-'));
    label
        .or_else(|| metadata["name"].as_str())
        .or(generate)
        .unwrap_or("unknown")
        .to_owned()
}

/// What the annotations of a pod and of its Namespace say.
struct Tuned {
    redirect: RedirectSettings,
    env: Vec<(String, String)>,
}

impl Tuned {
    /// Unknown annotations under our prefix and values that can't be read are refused: a typing error must not go unseen.
    fn read(pod: &Value, namespace: &Value) -> Result<Self, String> {
        check(namespace, "the Namespace's annotation")?;
        check(pod, "annotation")?;
        let text = |tune: Tune| {
            let key = format!("{}{}", annotations::PREFIX, tune.name());
            let of = |object: &'_ Value| object["metadata"]["annotations"][&key].as_str().map(str::to_owned);
            of(pod).or_else(|| of(namespace))
        };
        let mut tuned = Self {
            redirect: RedirectSettings {
                exempt: Exempt::Uid(PROXY_UID),
                skip_outbound_ports: vec![],
                skip_outbound_subnets: vec![],
            },
            env: vec![],
        };
        for tune in Tune::ALL {
            let Some(text) = text(tune) else { continue };
            let unread = || {
                format!(
                    "annotation {}{}: {text:?} can't be read",
                    annotations::PREFIX,
                    tune.name()
                )
            };
            let mut variable = |name: &str| tuned.env.push((name.to_owned(), text.clone()));
            match tune {
                Tune::SkipOutboundPorts => {
                    tuned.redirect.skip_outbound_ports = annotations::list(&text).ok_or_else(unread)?;
                }
                Tune::SkipOutboundSubnets => {
                    tuned.redirect.skip_outbound_subnets = annotations::list(&text).ok_or_else(unread)?;
                }
                Tune::AccessLog => variable("WEFT_ACCESS_LOG"),
                Tune::LogLevel => variable("WEFT_LOG"),
                Tune::Workers => variable("WEFT_WORKERS"),
                // Read by the control plane.
                Tune::Inbound => {}
            }
        }
        Ok(tuned)
    }
}

fn check(object: &Value, what: &str) -> Result<(), String> {
    for (key, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
        if let Some(mistake) = annotations::mistake(key, value.as_str().unwrap_or_default()) {
            let fix = if mistake.fix.is_empty() {
                String::new()
            } else {
                format!("; {}", mistake.fix)
            };
            return Err(format!("{what} {key}: {}{fix}", mistake.message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::MARK;

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
            version: "0.1.0".to_owned(),
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
            &with(&|pod| pod["spec"]["securityContext"] = json!({"runAsUser": 1882})),
            "spec.initContainers[0]",
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
            ("skip-inbound-ports", "80"),
            ("skip-outbound-port", "25"),
            ("workers", "0"),
            ("access-log", "yes"),
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
        assert_eq!(workload(&pod()), "web");
    }
}
