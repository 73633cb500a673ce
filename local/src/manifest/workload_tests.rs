//! Tests of what is said of StatefulSets, DaemonSets, Jobs and the environment of containers.

use serde_json::{Value, json};

use super::tests::object;
use super::*;
use crate::spec::{Dns, Hook, ProbeAction, VolumeSource};

fn template(more: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "command": ["c"]}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"labels": {"app": "a"}}, "spec": spec})
}

fn workload(kind: Workload, mut spec: Value) -> Arc<Object> {
    if kind != Workload::Job && spec.get("selector").is_none() {
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
    }
    object(json!({"apiVersion": kind.api_version(), "kind": kind.as_str(),
        "metadata": {"name": "w", "namespace": "default"}, "spec": spec}))
}

fn said(kind: Workload, spec: Value) -> Vec<String> {
    let (_, problems) = Reader::default().read(&[workload(kind, spec)]);
    problems.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(kind: Workload, spec: Value, wanted: &str) {
    let said = said(kind, spec);
    let wanted = format!("{} default/w: {wanted}", kind.as_str());
    assert!(
        said.iter().any(|said| said.starts_with(&wanted)),
        "{wanted:?} is not among {said:#?}"
    );
}

#[test]
fn what_a_workload_may_not_ask_for_is_refused_by_name() {
    let plain = || template(&json!({}));
    use Workload::{DaemonSet, StatefulSet};
    let cases = [
        (
            StatefulSet,
            json!({"template": plain(), "selector": {}}),
            "spec.selector: selects nothing",
        ),
        (
            StatefulSet,
            json!({"template": plain(), "updateStrategy": {"type": "OnDelete"}}),
            "spec.updateStrategy.type: \"OnDelete\" is not honoured here",
        ),
        (
            StatefulSet,
            json!({"template": plain(), "updateStrategy": {"rollingUpdate": {"partition": 1}}}),
            "spec.updateStrategy.rollingUpdate: is not honoured here",
        ),
        (
            StatefulSet,
            json!({"template": plain(), "volumeClaimTemplates": [{"metadata": {"name": "a"}}, {"metadata": {"name": "a"}}]}),
            "spec.volumeClaimTemplates[1].metadata.name: \"a\" is there twice",
        ),
        (
            StatefulSet,
            json!({"template": plain(), "replicas": 5000}),
            "spec.replicas: 5000 are more than 1000",
        ),
        (
            StatefulSet,
            json!({"template": template(&json!({"restartPolicy": "Never"}))}),
            "spec.template.spec.restartPolicy: a StatefulSet's pods are always restarted",
        ),
        (
            StatefulSet,
            json!({"template": template(&json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]}))}),
            "spec.template.spec.volumes[0].persistentVolumeClaim: is not honoured here",
        ),
        (
            DaemonSet,
            json!({"template": plain(), "updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}),
            "spec.updateStrategy.rollingUpdate.maxSurge: is not honoured here",
        ),
        (
            DaemonSet,
            json!({"template": plain(), "updateStrategy": {"rollingUpdate": {"maxUnavailable": "some"}}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: ",
        ),
    ];
    for (kind, spec, wanted) in cases {
        refused(kind, spec, wanted);
    }
}

#[test]
fn what_a_job_may_not_ask_for_is_refused_by_name() {
    use Workload::Job;
    let plain = || template(&json!({}));
    let cases = [
        (
            Job,
            json!({"template": plain()}),
            "spec.template.spec.restartPolicy: a Job's pods end",
        ),
        (
            Job,
            json!({"template": template(&json!({"restartPolicy": "Never"})), "completionMode": "Indexed"}),
            "spec.completionMode: \"Indexed\" is not honoured here",
        ),
        (
            Job,
            json!({"template": template(&json!({"restartPolicy": "Never"})), "suspend": true}),
            "spec.suspend: is not honoured here",
        ),
        (
            Job,
            json!({"template": template(&json!({"restartPolicy": "Never"})), "podFailurePolicy": {"rules": []}}),
            "spec.podFailurePolicy: is not honoured here",
        ),
        (
            Job,
            json!({"template": template(&json!({"restartPolicy": "Never"})), "completions": 2000}),
            "spec.completions: 2000 are more than 1000",
        ),
    ];
    for (kind, spec, wanted) in cases {
        refused(kind, spec, wanted);
    }
}

#[test]
fn a_stateful_set_without_its_headless_service_is_a_warning() {
    let set = || {
        workload(
            Workload::StatefulSet,
            json!({"template": template(&json!({})), "serviceName": "db"}),
        )
    };
    let service = |ip: &str| {
        object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "default"},
            "spec": {"clusterIP": ip, "selector": {"app": "a"}, "ports": [{"port": 80}]}}),
        )
    };
    let said = |objects: &[Arc<Object>]| {
        let (_, problems) = Reader::default().read(objects);
        problems
            .iter()
            .map(|problem| (problem.severity, problem.message.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        said(&[set()]),
        [(
            Severity::Warning,
            "there is no Service default/db, so the pods have no names such as w-0.db".to_owned()
        )]
    );
    assert_eq!(said(&[set(), service("10.96.0.9")]).len(), 1);
    assert_eq!(said(&[set(), service("None")]), []);
}

/// The plan of a pod with this specification, beside a ConfigMap and a Secret.
fn plan(spec: &Value) -> Result<crate::spec::PodPlan, Missing> {
    let object = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec});
    let text = |pairs: &[(&str, &str)]| {
        let files = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Arc::new(files.collect::<Files>())
    };
    let config_maps = BTreeMap::from([(Key::new("default", "map"), text(&[("a", "1"), ("B=", "2")]))]);
    let secrets = BTreeMap::from([(Key::new("default", "secret"), text(&[("a", "3"), ("c", "4")]))]);
    pod::plan(
        &object,
        &Facts {
            dns: Dns::default(),
            config_maps: &config_maps,
            secrets: &secrets,
            trust: None,
            tokens: &BTreeMap::new(),
            ours: &BTreeSet::new(),
        },
    )
}

fn container(more: &Value) -> Value {
    let mut container = json!({"name": "c", "command": ["c"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    json!({"containers": [container]})
}

#[test]
fn whole_maps_and_secrets_come_first_and_single_variables_win() {
    let spec = container(&json!({
        "envFrom": [
            {"configMapRef": {"name": "map"}},
            {"prefix": "S_", "secretRef": {"name": "secret"}},
            {"secretRef": {"name": "nobody", "optional": true}},
        ],
        "env": [{"name": "a", "value": "own"}, {"name": "X", "value": "$(S_c)$(a)"}],
    }));
    let env = plan(&spec).unwrap().containers[0].env.clone();
    let value = |name: &str| {
        env.iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(
        [value("a"), value("S_a"), value("S_c"), value("X"), value("B=")],
        [Some("own"), Some("3"), Some("4"), Some("4own"), None]
    );
    let missing = plan(&container(&json!({"envFrom": [{"configMapRef": {"name": "nobody"}}]}))).unwrap_err();
    assert_eq!(missing.field, "spec.containers[0].envFrom[0].configMapRef.name");
}

#[test]
fn hooks_and_grpc_probes_are_carried_out_as_written() {
    let spec = container(&json!({
        "ports": [{"name": "http", "containerPort": 8080}],
        "lifecycle": {"postStart": {"exec": {"command": ["a"]}}, "preStop": {"httpGet": {"path": "bye", "port": "http"}}},
        "livenessProbe": {"grpc": {"port": 7070, "service": "shop"}},
    }));
    let container = plan(&spec).unwrap().containers[0].clone();
    let command = vec!["a".to_owned()];
    assert_eq!(container.post_start, Some(Hook::Exec { command }));
    let Some(Hook::Http { port, path, host, .. }) = container.pre_stop else {
        panic!("{:?}", container.pre_stop)
    };
    assert_eq!((port, path.as_str(), host), (8080, "/bye", None));
    let (port, service) = (7070, "shop".to_owned());
    assert_eq!(
        container.liveness.map(|probe| probe.action),
        Some(ProbeAction::Grpc { port, service })
    );
}

#[test]
fn each_claim_of_a_stateful_set_is_a_volume_of_its_own_making() {
    let spec = json!({
        "template": template(&json!({"containers": [{"name": "c", "command": ["c"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]})),
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
    });
    let (desired, problems) = Reader::default().read(&[workload(Workload::StatefulSet, spec)]);
    assert_eq!(problems, []);
    let set = &desired.stateful_sets[&Key::new("default", "w")];
    let volumes = plan(&set.template.spec).unwrap().volumes;
    let name = "data".to_owned();
    assert_eq!(volumes[0].source, VolumeSource::Claim { name });
}
