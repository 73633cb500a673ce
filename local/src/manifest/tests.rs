use std::fs;

use serde_json::{Value, json};
use weft_control::manifests::{Directory, Manifests, Settings, Writer};
use weft_control::objects::uid_of;

use super::*;
use crate::spec::{Dns, PodPlan, Privilege, ProbeAction, VolumeSource};

/// An object that no file holds.
pub(crate) fn object(raw: Value) -> Arc<Object> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&raw["kind"]), text(&raw["metadata"]["name"]));
    let namespace = text(&raw["metadata"]["namespace"]);
    let map = |map: &Value| {
        map.as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), text(v)))
            .collect()
    };
    Arc::new(Object {
        api_version: text(&raw["apiVersion"]),
        uid: uid_of(&kind, &namespace, &name),
        kind,
        namespace,
        name,
        resource_version: 1,
        generation: 0,
        labels: map(&raw["metadata"]["labels"]),
        annotations: map(&raw["metadata"]["annotations"]),
        raw,
        origin: None,
    })
}

/// One document of YAML as JSON: read by the reader of manifests, dressed as a ConfigMap and undressed again.
pub(crate) fn yaml(text: &str) -> Value {
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    let objects = read_files(&[("x.yaml", &format!("{head}{text}"))]).0;
    objects[0].raw.clone()
}

fn read_files(files: &[(&str, &str)]) -> (Vec<Arc<Object>>, Vec<Problem>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let directory = Directory {
        path: directory.path().to_owned(),
        files: weft_control::manifests::Selection::Here,
        writer: Writer::User,
        kinds: kinds(),
    };
    let manifests = Manifests::open(Settings {
        directories: vec![directory],
        state_dir: None,
    })
    .unwrap();
    let snapshot = manifests.snapshot();
    (snapshot.objects, snapshot.problems.to_vec())
}

/// Reads one file; what is wrong, as people see it, without the directory.
fn problems(text: &str) -> Vec<String> {
    let (objects, mut problems) = read_files(&[("shop.yaml", text)]);
    problems.extend(Reader::default().read(&objects).1);
    let shown = problems.iter().map(|problem| {
        let line = problem.line.map(|line| format!("{line}: ")).unwrap_or_default();
        format!(
            "{line}{}: {}: {} (fix: {})",
            problem.object.as_ref().unwrap(),
            problem.field,
            problem.message,
            problem.fix
        )
    });
    shown.collect()
}

#[track_caller]
fn refused(text: &str, wanted: &str) {
    let problems = problems(text);
    assert!(
        problems.iter().any(|problem| problem.starts_with(wanted)),
        "{wanted:?} is not among {problems:#?}"
    );
}

fn pod_with(spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  {spec}\n  containers:\n  - name: app\n    command: [web]\n    {container}\n"
    )
}

#[test]
fn what_changes_behaviour_and_is_not_honoured_is_an_error_at_its_line() {
    let pod = |spec: &str, field: &str, message: &str| {
        refused(
            &pod_with(spec, "args: []"),
            &format!("5: Pod default/web: spec.{field}: {message}"),
        );
    };
    pod(
        "hostNetwork: true",
        "hostNetwork",
        "is not honoured here (fix: remove it; a local pod has a network",
    );
    pod("hostPID: true", "hostPID", "is not honoured here");
    pod(
        "dnsPolicy: None",
        "dnsPolicy",
        "\"None\" is not honoured here, only \"ClusterFirst\"",
    );
    pod(
        "volumes: [{name: v, hostPath: {path: /etc}}]",
        "volumes[0].hostPath",
        "is not honoured here (fix: take emptyDir",
    );
    pod(
        "securityContext: {runAsUser: 1882}",
        "securityContext.runAsUser",
        "1882 is the proxy's own",
    );
    pod(
        "securityContext: {runAsUser: 0}",
        "securityContext.runAsUser",
        "a local container can't run as root",
    );
    pod(
        "ephemeralContainers: [{name: d}]",
        "ephemeralContainers",
        "is not honoured here (fix: remove it; use `weft exec`)",
    );
    pod(
        "hostNetwrok: true",
        "hostNetwrok",
        "there is no such field (fix: did you mean hostNetwork?",
    );
    pod(
        "restartPolicy: Sometimes",
        "restartPolicy",
        "\"Sometimes\" is not honoured here",
    );
}

#[test]
fn what_a_container_may_not_ask_for_is_an_error_at_its_line() {
    let container = |text: &str, field: &str, message: &str| {
        let wanted = format!("9: Pod default/web: spec.containers[0].{field}: {message}");
        refused(&pod_with("hostNetwork: false", text), &wanted);
    };
    container(
        "securityContext: {privileged: true}",
        "securityContext.privileged",
        "is not honoured here",
    );
    container(
        "securityContext: {capabilities: {add: [SYS_TIME]}}",
        "securityContext.capabilities.add[0]",
        "SYS_TIME is not given",
    );
    container("envFrom: [{prefix: x}]", "envFrom[0]", "needs exactly one source");
    container(
        "lifecycle: {preStop: {tcpSocket: {port: 1}}}",
        "lifecycle.preStop.tcpSocket",
        "is not honoured here",
    );
    container(
        "readinessProbe: {grpc: {port: 0}}",
        "readinessProbe.grpc.port",
        "0 is no port",
    );
    container(
        "env: [{name: A, value: 8080}]",
        "env[0].value",
        "invalid type: integer `8080`, expected a string (fix: put it in quotes)",
    );
    container(
        "env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.hostname}}}]",
        "env[0].valueFrom.fieldRef.fieldPath",
        "\"spec.hostname\" is not known",
    );
    container(
        "ports: [{containerPort: 80, hostPort: 80}]",
        "ports[0].hostPort",
        "is not honoured here",
    );
    container(
        "volumeMounts: [{name: v, mountPath: /v}]",
        "volumeMounts[0].name",
        "there is no volume \"v\"",
    );
    container(
        "livenessProbe: {tcpSocket: {port: web}}",
        "livenessProbe.tcpSocket.port",
        "names no port of this container",
    );
    container(
        "readinessProbe: {periodSeconds: 1}",
        "readinessProbe",
        "a probe needs exactly one of",
    );
}

#[test]
fn what_is_harmless_passes_and_images_are_mentioned_once() {
    let text = pod_with(
        "affinity: {}\n  tolerations: [{operator: Exists}]\n  enableServiceLinks: false\n  imagePullSecrets: [{name: x}]",
        "image: nginx:1\n    imagePullPolicy: Always\n    resources: {limits: {cpu: 1}}\n    terminationMessagePath: /x\n    securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}, privileged: false}\n  - name: two\n    command: [x]\n    image: b",
    );
    let (objects, none) = read_files(&[("shop.yaml", &text)]);
    assert!(none.is_empty(), "{none:?}");
    let (desired, problems) = Reader::default().read(&objects);
    assert_eq!(
        problems.iter().map(|p| p.severity).collect::<Vec<_>>(),
        [Severity::Notice]
    );
    assert!(problems[0].message.starts_with("2 containers name an image"));
    assert_eq!(desired.pods.len(), 1);
}

#[test]
fn services_and_deployments_are_checked_by_field() {
    let service = |spec: &str, wanted: &str| {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n");
        refused(&text, &format!("4: Service default/s: {wanted}"));
    };
    service(
        "{type: ExternalName, externalName: 10.0.0.1}",
        "spec.externalName: \"10.0.0.1\" is no name",
    );
    service("{ports: []}", "spec.ports: a Service needs a port");
    service(
        "{ports: [{port: 80}, {port: 81}]}",
        "spec.ports[0]: one of several ports needs a name",
    );
    service(
        "{ports: [{port: 80, protocol: SCTP}]}",
        "spec.ports[0].protocol: \"SCTP\" is not honoured here",
    );
    service(
        "{ports: [{port: 80, targetPort: 70000}]}",
        "spec.ports[0].targetPort: 70000 is no port",
    );
    service(
        "{clusterIP: x, ports: [{port: 80}]}",
        "spec.clusterIP: \"x\" is no IP address",
    );
    let deployment = |spec: &str, labels: &str, wanted: &str| {
        let text = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  {spec}\n  template:\n    metadata: {{labels: {{{labels}}}}}\n    spec: {{containers: [{{name: c, command: [c]}}]}}\n"
        );
        refused(&text, &format!("5: Deployment default/d: {wanted}"));
    };
    let (selector, label) = ("selector: {matchLabels: {app: web}}", "app: web");
    deployment(
        selector,
        "app: other",
        "spec.selector.matchLabels: the template has no label app: web",
    );
    deployment("selector: {}", label, "spec.selector: selects nothing");
    let expression = "selector: {matchExpressions: [{key: x, operator: Exists}]}";
    deployment(
        expression,
        label,
        "spec.selector.matchExpressions[0]: the template's labels don't match",
    );
    let paused = "{replicas: 1, paused: true, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, command: [c]}]}}}";
    let text = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec: {paused}\n");
    refused(&text, "4: Deployment default/d: spec.paused: is not honoured here");
}

#[test]
fn strangers_to_the_cluster_are_named() {
    refused(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: nowhere}\nspec: {ports: [{port: 80}]}\n",
        "3: Service nowhere/s: metadata.namespace: there is no Namespace \"nowhere\"",
    );
    refused(
        &pod_with("serviceAccountName: nobody", "args: []"),
        "5: Pod default/web: spec.serviceAccountName: there is no ServiceAccount \"nobody\"",
    );
}

#[test]
fn an_object_that_becomes_bad_keeps_its_last_form() {
    let good = read_files(&[("shop.yaml", &pod_with("hostname: one", "args: []"))]).0;
    let bad = read_files(&[("shop.yaml", &pod_with("hostNetwork: true", "args: []"))]).0;
    let mut reader = Reader::default();
    let (first, _) = reader.read(&good);
    let (second, problems) = reader.read(&bad);
    assert!(!problems.is_empty());
    let key = Key::new("default", "web");
    assert_eq!(second.pods[&key].template.hash, first.pods[&key].template.hash);
    assert!(reader.read(&[]).0.pods.is_empty(), "what is deleted is gone");
    assert!(reader.read(&bad).0.pods.is_empty(), "what never was good is not there");
}

#[test]
fn a_template_changes_its_hash_with_labels_and_a_pod_does_not() {
    let deployment = |labels: &str| {
        let text = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{{labels}}}}}\n    spec: {{containers: [{{name: c, command: [c]}}]}}\n"
        );
        let objects = read_files(&[("d.yaml", &text)]).0;
        let (desired, problems) = Reader::default().read(&objects);
        assert!(problems.is_empty(), "{problems:?}");
        desired.deployments[&Key::new("default", "d")].clone()
    };
    let (one, two) = (deployment("app: web"), deployment("app: web, version: v2"));
    assert_ne!(one.template.hash, two.template.hash);
    assert_eq!(
        one.rollout,
        Rollout {
            replicas: 1,
            surge: 1,
            unavailable: 0,
            recreate: false
        }
    );
    let pod = |metadata: &str| {
        let text = pod_with("hostname: x", "args: []").replace("{name: web}", metadata);
        let objects = read_files(&[("p.yaml", &text)]).0;
        Reader::default().read(&objects).0.pods[&Key::new("default", "web")]
            .template
            .hash
            .clone()
    };
    assert_eq!(pod("{name: web}"), pod("{name: web, labels: {a: b}}"));
}

fn plan_of(pod: &Value, maps: &BTreeMap<Key, Arc<Files>>, ours: &[&str]) -> Result<PodPlan, Missing> {
    let tokens = BTreeMap::from([(("weft".to_owned(), 3600), "signed".to_owned())]);
    let ours = ours.iter().map(|name| (*name).to_owned()).collect();
    pod::plan(
        pod,
        &Facts {
            dns: Dns::default(),
            config_maps: maps,
            secrets: maps,
            trust: None,
            tokens: &tokens,
            ours: &ours,
        },
    )
}

fn running(spec: Value) -> Value {
    json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
        "spec": spec,
        "status": {"podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]},
    })
}

#[test]
fn the_environment_is_expanded_in_order() {
    let maps = BTreeMap::from([(
        Key::new("shop", "settings"),
        Arc::new(Files::from([("level".to_owned(), b"high".to_vec())])),
    )]);
    let pod = running(json!({"containers": [{
        "name": "app", "command": ["serve", "$(URL)"], "args": ["--$(NONE)", "$$(URL)"],
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
            {"name": "URL", "value": "http://$(NAME)/$(LATER)"},
            {"name": "LATER", "value": "x"},
        ],
    }]}));
    let container = &plan_of(&pod, &maps, &[]).unwrap().containers[0];
    assert_eq!(
        container.command,
        ["serve", "http://web-1/$(LATER)", "--$(NONE)", "$(URL)"]
    );
    let env: Vec<_> = container
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let url = ("URL", "http://web-1/$(LATER)");
    assert_eq!(
        env,
        [
            ("NAME", "web-1"),
            ("IPS", "10.244.0.2,fd00::2"),
            ("LEVEL", "high"),
            url,
            ("LATER", "x")
        ]
    );
    assert_eq!(container.privilege, Privilege::App);
}

#[test]
fn a_missing_reference_is_waited_for_by_field() {
    let pod = running(json!({
        "containers": [{"name": "app", "command": ["x"]}],
        "volumes": [{"name": "v", "configMap": {"name": "later"}}],
    }));
    let missing = plan_of(&pod, &BTreeMap::new(), &[]).unwrap_err();
    assert_eq!(
        (missing.field.as_str(), missing.message.as_str()),
        ("spec.volumes[0].configMap.name", "there is no ConfigMap \"later\"")
    );
    let maps = BTreeMap::from([(
        Key::new("shop", "later"),
        Arc::new(Files::from([("a".to_owned(), b"1".to_vec())])),
    )]);
    let plan = plan_of(&pod, &maps, &[]).unwrap();
    let VolumeSource::Files { files, .. } = &plan.volumes[0].source else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (files[0].path.to_str(), files[0].bytes.as_slice()),
        (Some("a"), &b"1"[..])
    );
}

#[test]
fn a_token_is_readable_by_its_container_alone() {
    let pod = running(json!({
        "initContainers": [{
            "name": "weft-proxy", "command": ["weft"], "args": ["proxy"], "restartPolicy": "Always",
            "securityContext": {"runAsUser": 1882, "capabilities": {"add": ["NET_RAW"]}},
            "startupProbe": {"httpGet": {"path": "/ready", "port": 15020}, "periodSeconds": 1},
            "volumeMounts": [{"name": "token", "mountPath": "/t"}],
        }],
        "containers": [{"name": "app", "command": ["x"]}],
        "volumes": [{"name": "token", "projected": {"sources": [
            {"serviceAccountToken": {"audience": "weft", "expirationSeconds": 3600, "path": "token"}}]}}],
    }));
    let plan = plan_of(&pod, &BTreeMap::new(), &["weft-proxy"]).unwrap();
    let VolumeSource::Files { files, owner } = &plan.volumes[0].source else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (files[0].mode, *owner, files[0].bytes.as_slice()),
        (0o600, Some(1882), &b"signed"[..])
    );
    let proxy = &plan.init_containers[0];
    assert!(proxy.sidecar);
    assert_eq!(proxy.privilege, Privilege::Weft(vec![crate::spec::Capability::NetRaw]));
    let probe = proxy.startup.as_ref().unwrap();
    assert!(matches!(&probe.action, ProbeAction::Http { port: 15020, path, .. } if path == "/ready"));
    assert_eq!(plan.validate(), Ok(()));
    // The same containers in a user's own pod get nothing.
    assert_eq!(
        plan_of(&pod, &BTreeMap::new(), &[]).unwrap().init_containers[0].privilege,
        Privilege::App
    );
}

#[test]
fn names_of_what_weft_adds_are_taken() {
    let text = pod_with("volumes: [{name: weft-state, emptyDir: {}}]", "args: []");
    refused(
        &text,
        "5: Pod default/web: spec.volumes[0].name: \"weft-state\" is the name of what Weft itself adds",
    );
    let text = pod_with("hostname: x", "args: []").replace("name: app", "name: weft-proxy");
    refused(
        &text,
        "7: Pod default/web: spec.containers[0].name: \"weft-proxy\" is the name",
    );
}

#[test]
fn secrets_are_decoded_and_never_repeated_when_wrong() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let objects = read_files(&[(
        "s.yaml",
        &format!("{secret}data: {{a: aGVsbG8=}}\nstringData: {{b: plain}}\n"),
    )])
    .0;
    let (desired, _) = Reader::default().read(&objects);
    let files = &desired.secrets[&Key::new("default", "s")];
    assert_eq!(
        (files["a"].as_slice(), files["b"].as_slice()),
        (&b"hello"[..], &b"plain"[..])
    );
    let said = problems(&format!("{secret}data:\n  a: p4ssword!\n"));
    assert!(
        said[0].starts_with("5: Secret default/s: data[a]: is no Base64") && !said[0].contains("p4ssword"),
        "{said:?}"
    );
}
