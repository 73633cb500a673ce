//! Objects in namespaces that are not there, of which nothing runs by itself.
//!
//! In: all objects, and what the manifests ask for. Out: problems, and what pods read (ConfigMaps, Secrets,
//! ServiceAccounts) left out, as an API server would. Those that run are sifted in [`super::together`]; what only the
//! control plane acts on is its own to judge, and gets a warning.

use std::sync::Arc;

use weft_control::objects::{Object, Problem, Severity};

use super::{Desired, Key};

/// Leaves them out, and says so.
pub(super) fn leave_out(objects: &[Arc<Object>], desired: &mut Desired) -> Vec<Problem> {
    let lost = |object: &&Arc<Object>| !object.namespace.is_empty() && !desired.has_namespace(&object.namespace);
    let lost: Vec<&Arc<Object>> = objects.iter().filter(lost).collect();
    lost.into_iter().filter_map(|object| one(object, desired)).collect()
}

fn one(object: &Arc<Object>, desired: &mut Desired) -> Option<Problem> {
    let key = Key::new(&object.namespace, &object.name);
    let message = format!("there is no Namespace {:?}", key.namespace);
    let (severity, message) = match object.kind.as_str() {
        "Service" | "Pod" | "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => return None,
        "ConfigMap" | "Secret" | "ServiceAccount" => (Severity::Error, message),
        _ => (Severity::Warning, format!("{message}: a cluster would refuse it")),
    };
    match object.kind.as_str() {
        "ConfigMap" => {
            desired.config_maps.remove(&key);
        }
        "Secret" => {
            desired.secrets.remove(&key);
        }
        "ServiceAccount" => {
            desired.service_accounts.remove(&key);
        }
        _ => {}
    }
    let fix = "add a Namespace object of that name";
    Some(object.problem(severity, "metadata.namespace", message, fix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::Reader;
    use crate::manifest::tests::object;

    #[test]
    fn every_kind_in_a_namespace_that_is_not_there_is_told_of_and_what_pods_read_is_left_out() {
        let of = |version: &str, kind: &str| {
            object(json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "shop"}}))
        };
        let kinds = [
            of("v1", "ConfigMap"),
            of("v1", "Secret"),
            of("v1", "ServiceAccount"),
            of("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ];
        let counts = |desired: &Desired| {
            let maps = (desired.config_maps.len(), desired.secrets.len());
            (maps, desired.service_accounts.len())
        };
        let (desired, problems) = Reader::default().read(&kinds);
        let said: Vec<(Severity, &str)> = problems.iter().map(|p| (p.severity, p.field.as_str())).collect();
        let [error, warning] = [Severity::Error, Severity::Warning].map(|severity| (severity, "metadata.namespace"));
        assert_eq!(said, [error, error, error, warning]);
        assert_eq!(counts(&desired), ((0, 0), 0));

        // Every cluster has this one.
        let theirs =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "kube-system"}});
        assert_eq!(Reader::default().read(&[object(theirs)]).1, []);

        let namespace = object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
        let (desired, problems) = Reader::default().read(&[&kinds[..], &[namespace]].concat());
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(counts(&desired), ((1, 1), 1));
    }
}
