//! What an API server or a cluster would say of a manifest, or nobody would, and what is hardly meant: labels that are none,
//! quantities that are none, variables from objects that are not there, selectors that select nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use weft_control::objects::names::{LABEL_VALUE_MAX, is_label_value};
use weft_control::objects::{Object, Problem, Severity};

use super::check::Mistake;
use super::facts::TRUST_CONFIG_MAP;
use super::raw::Container;
use super::{Desired, Key, Template, resources};
use crate::cluster::system;

/// Where labels are, and what pods or objects are chosen by.
const LABELS: [&str; 5] = [
    "metadata.labels",
    "spec.selector",
    "spec.selector.matchLabels",
    "spec.template.metadata.labels",
    "spec.template.spec.nodeSelector",
];

/// Labels whose values are none.
pub(super) fn labels(object: &Object) -> Vec<Problem> {
    let mut problems = Vec::new();
    for place in LABELS {
        let pointer = format!("/{}", place.replace('.', "/"));
        let fields = object.raw.pointer(&pointer).and_then(Value::as_object);
        for (key, value) in fields.into_iter().flatten() {
            let Some(value) = value.as_str().filter(|value| !is_label_value(value)) else {
                continue;
            };
            let fix = format!(
                "take letters, digits, '-', '_' and '.', at most {LABEL_VALUE_MAX}; first and last a letter or a digit"
            );
            let message = format!("{value:?} is no value of a label");
            problems.push(object.problem(Severity::Error, &format!("{place}[{key}]"), message, fix));
        }
    }
    problems
}

/// Of a container: quantities that are none.
pub(super) fn container(container: &Container, path: &str) -> Vec<Mistake> {
    let mistake = |field: String, message: String, fix: &str| Mistake {
        field,
        message,
        fix: fix.to_owned(),
    };
    let mut out = Vec::new();
    let all = [
        ("limits", &container.resources.limits),
        ("requests", &container.resources.requests),
    ];
    for (list, (name, value)) in all
        .into_iter()
        .flat_map(|(list, all)| all.iter().map(move |one| (list, one)))
    {
        if !resources::is_quantity(value) {
            let field = format!("{path}.resources.{list}[{name}]");
            let fix = "write it like 500m, 64M, 64Mi or 2";
            out.push(mistake(field, format!("{value} is no quantity"), fix));
        }
    }
    out
}

/// Variables from ConfigMaps and Secrets that are not there: the field, what is wrong, and the fix.
pub(super) fn lost_variables(object: &Object, template: &Template, desired: &Desired) -> Vec<(String, String, String)> {
    let there = |kind: &str, name: &str| {
        let key = Key::new(&object.namespace, name);
        match kind {
            "Secret" => desired.secrets.contains_key(&key),
            _ => desired.config_maps.contains_key(&key) || name == TRUST_CONFIG_MAP,
        }
    };
    let spec = &template.view;
    let lists = [
        ("initContainers", &spec.init_containers),
        ("containers", &spec.containers),
    ];
    let containers = lists.into_iter().flat_map(|(list, all)| {
        all.iter()
            .enumerate()
            .map(move |(i, one)| (format!("spec.{list}[{i}]"), one))
    });
    let mut lost = Vec::new();
    let mut look = |field: String, kind: &str, name: &str, optional: bool| {
        if !optional && !there(kind, name) {
            let message = format!("there is no {kind} {name:?} in the namespace {}", object.namespace);
            let fix = format!("add a {kind} of that name, or write optional: true");
            lost.push((format!("{field}.name"), message, fix));
        }
    };
    for (path, container) in containers {
        for (i, source) in container.env_from.iter().enumerate() {
            if let Some(map) = &source.config_map_ref {
                look(
                    format!("{path}.envFrom[{i}].configMapRef"),
                    "ConfigMap",
                    &map.name,
                    map.optional,
                );
            }
            if let Some(secret) = &source.secret_ref {
                look(
                    format!("{path}.envFrom[{i}].secretRef"),
                    "Secret",
                    &secret.name,
                    secret.optional,
                );
            }
        }
        let sources = container.env.iter().enumerate();
        for (i, from) in sources.filter_map(|(i, var)| Some((i, var.value_from.as_ref()?))) {
            let field = format!("{path}.env[{i}].valueFrom");
            if let Some(map) = &from.config_map_key_ref {
                look(format!("{field}.configMapKeyRef"), "ConfigMap", &map.name, map.optional);
            }
            if let Some(secret) = &from.secret_key_ref {
                look(format!("{field}.secretKeyRef"), "Secret", &secret.name, secret.optional);
            }
        }
    }
    lost
}

/// Services and ServiceSubsets that select none of the pods that the manifests ask for.
pub(super) fn selections(objects: &[Arc<Object>], desired: &Desired) -> Vec<Problem> {
    let mut problems = Vec::new();
    // The control plane's own pod is nobody's manifest.
    let services = desired
        .services
        .values()
        .filter(|service| service.object.namespace != system::NAMESPACE);
    for service in services.filter(|service| !service.selector.is_empty()) {
        if selected(&service.object.namespace, &service.selector, desired)
            .next()
            .is_none()
        {
            let message = "selects no pod of these manifests";
            let fix = "take the labels of a pod template in the same namespace";
            problems.push(service.object.problem(Severity::Notice, "spec.selector", message, fix));
        }
    }
    for subset in objects.iter().filter(|object| object.kind == "ServiceSubset") {
        let named = subset.raw["spec"]["service"].as_str().unwrap_or_default();
        let Some(service) = desired.services.get(&Key::new(&subset.namespace, named)) else {
            continue;
        };
        let own = subset.raw["spec"]["selector"].as_object();
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let own: BTreeMap<String, String> = own.into_iter().flatten().filter_map(text).collect();
        let mut pods = selected(&subset.namespace, &service.selector, desired).peekable();
        if !service.selector.is_empty() && pods.peek().is_some() && !pods.any(|template| chooses(&own, template)) {
            let message = format!("selects none of the pods of the Service {named}");
            let fix = "take labels that some of the Service's pods have";
            problems.push(subset.problem(Severity::Notice, "spec.selector", message, fix));
        }
    }
    problems
}

fn chooses(selector: &BTreeMap<String, String>, template: &Template) -> bool {
    selector
        .iter()
        .all(|(name, value)| template.labels.get(name) == Some(value))
}

/// What pods of a namespace are made from that a selector chooses.
fn selected<'a>(
    namespace: &'a str,
    selector: &'a BTreeMap<String, String>,
    desired: &'a Desired,
) -> impl Iterator<Item = &'a Template> {
    let pods = desired.pods.values().map(|pod| (&pod.object, &pod.template));
    let here = desired.workloads().chain(pods);
    here.filter(move |(object, template)| object.namespace == namespace && chooses(selector, template))
        .map(|(_, template)| template)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::Reader;
    use crate::manifest::tests::object;

    fn said(objects: Vec<Value>) -> Vec<String> {
        let objects: Vec<Arc<Object>> = objects.into_iter().map(object).collect();
        let (_, problems) = Reader::default().read(&objects);
        problems
            .iter()
            .map(|p| format!("{} {}: {}", p.severity, p.field, p.message))
            .collect()
    }

    fn pod(labels: Value, container: Value) -> Value {
        let mut own = json!({"name": "c", "command": ["c"]});
        if let (Value::Object(own), Value::Object(more)) = (&mut own, container) {
            own.extend(more);
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "labels": labels},
            "spec": {"containers": [own]}})
    }

    #[test]
    fn labels_and_quantities_that_kubernetes_would_not_take_are_errors() {
        let one = |labels: Value, container: Value| said(vec![pod(labels, container)]);
        assert_eq!(
            one(json!({"version": "v1 beta"}), json!({})),
            ["error metadata.labels[version]: \"v1 beta\" is no value of a label"]
        );
        assert_eq!(
            one(json!({}), json!({"resources": {"limits": {"memory": "64MB"}}})),
            ["error spec.containers[0].resources.limits[memory]: \"64MB\" is no quantity"]
        );
        let resources = json!({"limits": {"cpu": 2, "memory": "1.5Gi"}, "requests": {"cpu": "100m", "memory": "1e6"}});
        assert_eq!(
            one(json!({"a": "", "b": "v1.2_x-3"}), json!({"resources": resources})),
            [""; 0]
        );
    }

    #[test]
    fn variables_from_what_is_not_there_are_an_error_unless_they_are_optional() {
        let env = |optional: bool| {
            let container = json!({
                "envFrom": [{"secretRef": {"name": "s", "optional": optional}}],
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": optional}}}],
            });
            pod(json!({}), container)
        };
        assert_eq!(
            said(vec![env(false)]),
            [
                "error spec.containers[0].envFrom[0].secretRef.name: there is no Secret \"s\" in the namespace default",
                "error spec.containers[0].env[0].valueFrom.configMapKeyRef.name: there is no ConfigMap \"m\" in the namespace default",
            ]
        );
        assert_eq!(said(vec![env(true)]), [""; 0]);
        let of = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}});
        assert_eq!(said(vec![env(false), of("Secret", "s"), of("ConfigMap", "m")]), [""; 0]);
    }

    #[test]
    fn a_selector_that_selects_nothing_is_a_notice() {
        let service = |app: &str| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
                "spec": {"selector": {"app": app}, "ports": [{"port": 80}]}})
        };
        let subset = |version: &str| {
            json!({"apiVersion": "weft.dev/v1alpha1", "kind": "ServiceSubset", "metadata": {"name": "v", "namespace": "default"},
                "spec": {"service": "s", "selector": {"version": version}}})
        };
        let pod = || pod(json!({"app": "web", "version": "v1"}), json!({}));
        assert_eq!(said(vec![service("web"), subset("v1"), pod()]), [""; 0]);
        assert_eq!(
            said(vec![service("wbe"), pod()]),
            ["notice spec.selector: selects no pod of these manifests"]
        );
        assert_eq!(
            said(vec![service("web"), subset("v2"), pod()]),
            ["notice spec.selector: selects none of the pods of the Service s"]
        );
    }
}
