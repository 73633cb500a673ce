//! One object of an API server, as the rooms behind take it: without what nobody here reads.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::kinds::Kind;
use crate::federation::derived::IMPORT_LABEL;
use crate::objects::pod::INIT_CONTAINER;
use crate::objects::{Object, ObjectRef, Problem, Severity};

/// What `kubectl apply` leaves on objects: the whole object once more.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What of a container anybody here reads.
const OF_CONTAINERS: [&str; 3] = ["name", "ports", "restartPolicy"];

/// Reads an object. Of one that names itself, what is wrong with it goes with its name.
pub(super) fn read(kind: &Kind, version: &str, mut raw: Value) -> Result<Object, (Option<ObjectRef>, Box<Problem>)> {
    let text = |raw: &Value, field: &str| raw["metadata"][field].as_str().unwrap_or_default().to_owned();
    let reference = ObjectRef {
        kind: kind.kind.clone(),
        namespace: text(&raw, "namespace"),
        name: text(&raw, "name"),
    };
    let refuse = |reference: Option<ObjectRef>, field: &str, message: String, fix: &str| {
        let problem = Problem {
            file: None,
            line: None,
            object: reference.clone(),
            field: field.to_owned(),
            message,
            fix: fix.to_owned(),
            severity: Severity::Error,
        };
        Err((reference, Box::new(problem)))
    };
    let (uid, written) = (text(&raw, "uid"), text(&raw, "resourceVersion"));
    if reference.name.is_empty() || kind.namespaced == reference.namespace.is_empty() || uid.is_empty() {
        let message = format!(
            "the API server has sent a {} without its name, namespace or uid",
            kind.kind
        );
        return refuse(None, "metadata", message, "");
    }
    // Comparable numbers since KEP-5504; a storage that has others cannot tell proxies what is newer.
    let Some(resource_version) = written.parse().ok().filter(|number| *number > 0) else {
        let message =
            format!("{written:?} is no number, so nobody can tell whether it is newer than what proxies hold");
        let fix = "use an API server whose resource versions are numbers (KEP-5504)";
        return refuse(Some(reference), "metadata.resourceVersion", message, fix);
    };
    lighten(&kind.kind, &mut raw);
    let api_version = kind.api_version(version);
    if let Value::Object(fields) = &mut raw {
        // Items of a list leave them out.
        fields.insert("apiVersion".to_owned(), api_version.clone().into());
        fields.insert("kind".to_owned(), kind.kind.clone().into());
    }
    Ok(Object {
        api_version,
        kind: reference.kind,
        namespace: reference.namespace,
        name: reference.name,
        uid,
        resource_version,
        generation: raw["metadata"]["generation"].as_u64().unwrap_or_default(),
        labels: texts(&raw["metadata"]["labels"]),
        annotations: texts(&raw["metadata"]["annotations"]),
        raw,
        origin: None,
    })
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let all = value.as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Takes away what is large and nobody reads: a cluster has many pods, and their environments may hold secrets.
fn lighten(kind: &str, raw: &mut Value) {
    // Whose such an object is, and what of it, decides whether it is written.
    let is_import = raw["metadata"]["labels"][IMPORT_LABEL] == "true";
    if let Some(metadata) = raw["metadata"].as_object_mut().filter(|_| !is_import) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    fn at<'a>(raw: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
        raw.get_mut(field).and_then(Value::as_object_mut)
    }
    match kind {
        "Node" => {
            if let Some(status) = at(raw, "status") {
                status.retain(|field, _| field == "addresses");
            }
        }
        "Pod" => {
            if let Some(spec) = at(raw, "spec") {
                for field in ["volumes", "tolerations", "affinity", "topologySpreadConstraints"] {
                    spec.remove(field);
                }
                for field in ["containers", "initContainers", "ephemeralContainers"] {
                    let containers = spec.get_mut(field).and_then(Value::as_array_mut);
                    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                        // Of Weft's own, they say which ports have no sidecar. Those of others may hold secrets.
                        let args = container.get("name").is_some_and(|name| name == INIT_CONTAINER);
                        let kept = |field: &str| OF_CONTAINERS.contains(&field) || (args && field == "args");
                        container.retain(|field, _| kept(field));
                    }
                }
            }
            if let Some(status) = at(raw, "status") {
                status.retain(|field, _| matches!(field.as_str(), "phase" | "podIP" | "podIPs"));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::pod::Pod;
    use serde_json::json;

    fn kind(name: &str) -> Kind {
        Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
    }

    #[test]
    fn an_object_keeps_its_unknown_fields_and_loses_what_is_nobodys_business() {
        let raw = json!({
            "metadata": {
                "name": "r", "namespace": "shop", "uid": "u", "resourceVersion": "7", "generation": 2,
                "managedFields": [{}], "annotations": {LAST_APPLIED: "{}", "a": "b"}
            },
            "spec": {"sepc": 1}
        });
        let object = read(&kind("HTTPRoute"), "v1beta1", raw).unwrap();
        assert_eq!(object.api_version, "gateway.networking.k8s.io/v1beta1");
        assert_eq!((object.resource_version, object.generation), (7, 2));
        assert_eq!(object.annotations.len(), 1);
        assert_eq!(object.raw["metadata"].get("managedFields"), None);
        assert_eq!(object.raw["spec"]["sepc"], 1);
        assert_eq!(object.raw["kind"], "HTTPRoute");
    }

    #[test]
    fn who_owns_what_is_kept_of_what_imports_come_to_and_of_nothing_else() {
        let raw = |labels: Value| {
            json!({"metadata": {
                "name": "s", "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": labels,
                "managedFields": [{}], "annotations": {LAST_APPLIED: "{}"}
            }})
        };
        let service = |labels: Value| read(&kind("Service"), "v1", raw(labels)).unwrap();
        let ours = service(json!({IMPORT_LABEL: "true"}));
        assert_eq!(
            (ours.annotations.len(), &ours.raw["metadata"]["managedFields"]),
            (1, &json!([{}]))
        );
        let other = service(json!({IMPORT_LABEL: "false"}));
        assert!(other.annotations.is_empty() && other.raw["metadata"]["managedFields"].is_null());
    }

    #[test]
    fn a_pods_environment_is_not_kept() {
        let raw = json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
            "spec": {"nodeName": "n", "containers": [{"name": "app", "env": [{"value": "secret"}], "ports": []}]},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{}]}
        });
        let object = read(&kind("Pod"), "v1", raw).unwrap();
        assert_eq!(object.raw["spec"]["containers"], json!([{"name": "app", "ports": []}]));
        assert_eq!(object.raw["status"], json!({"podIP": "10.0.0.1"}));
        assert_eq!(object.raw["spec"]["nodeName"], "n");
    }

    #[test]
    fn ports_that_a_pod_leaves_alone_are_known_and_no_other_arguments_are() {
        let args = json!(["init", "--exempt-uid=1882", "--skip-inbound-ports=9100,9101"]);
        let raw = json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
            "spec": {
                "initContainers": [{"name": "weft-init", "args": args, "env": []}, {"name": "other", "args": ["secret"]}],
                "containers": [{"name": "app", "args": ["secret"]}]
            }
        });
        let object = read(&kind("Pod"), "v1", raw).unwrap();
        assert_eq!(Pod::of(&object).unwrap().skip_inbound, [9100, 9101]);
        assert!(!object.raw.to_string().contains("secret"), "{}", object.raw);
    }

    #[test]
    fn a_resource_version_that_is_no_number_is_a_problem_of_its_object() {
        for version in ["", "0", "abc", "-1", "18446744073709551616"] {
            let raw = json!({"metadata": {"name": "s", "namespace": "shop", "uid": "u", "resourceVersion": version}});
            let (reference, problem) = read(&kind("Service"), "v1", raw).unwrap_err();
            assert_eq!(reference.unwrap().to_string(), "Service shop/s");
            assert_eq!(problem.field, "metadata.resourceVersion", "{version:?}");
        }
        for raw in [
            json!({}),
            json!({"metadata": {"name": "s", "uid": "u", "resourceVersion": "1"}}),
            json!(7),
        ] {
            assert!(read(&kind("Service"), "v1", raw).unwrap_err().0.is_none());
        }
    }
}
