//! Whose an object is, by its field managers (`metadata.managedFields`), and how a Service is given up to somebody else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::plan::DIGEST;
use crate::cluster::object::LAST_APPLIED;
use crate::federation::derived::{self, IMPORT_LABEL, SERVICE_NAME_LABEL};
use crate::objects::Object;

/// Who writes what imports come to.
pub(super) const MANAGER: &str = "weft-control-imports";
/// What a port carries where nobody says it.
const TCP: &str = "TCP";

/// A port of a Service: no two have the same.
type PortKey = (u64, String);

/// Whether it was us who made it. The label alone says nothing: anybody may have copied it.
pub(super) fn is_ours(object: &Object) -> bool {
    derived::is_import(object) && managers(object).any(|entry| entry["manager"] == MANAGER)
}

/// Whether somebody else says anything of what a Service is. What controllers say of its status does not make it theirs.
pub(super) fn is_claimed(service: &Object) -> bool {
    others(service).any(|entry| !entry["fieldsV1"]["f:spec"].is_null())
}

/// The patch (RFC 6902) by which a Service becomes somebody else's: without our mark and our name, and without ports of ours that
/// they do not have. Nothing that they might rely on is touched: who applies from the client's side owns only what differs from
/// what was there, and knows the rest by the annotation `last-applied-configuration`.
pub(super) fn give_up(service: &Object) -> Value {
    let metadata = &service.raw["metadata"];
    let theirs: Vec<&Value> = others(service).collect();
    let mut patch = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": service.uid}),
        json!({"op": "replace", "path": "/metadata/resourceVersion", "value": service.resource_version.to_string()}),
        json!({"op": "replace", "path": "/metadata/managedFields", "value": theirs}),
    ];
    for (field, key) in [
        ("labels", IMPORT_LABEL),
        ("labels", SERVICE_NAME_LABEL),
        ("annotations", DIGEST),
    ] {
        if !metadata[field][key].is_null() {
            let key = key.replace('~', "~0").replace('/', "~1");
            patch.push(json!({"op": "remove", "path": format!("/metadata/{field}/{key}")}));
        }
    }
    let wanted = wanted(service);
    if let Some(ports) = their_ports(service, &wanted) {
        patch.push(json!({"op": "replace", "path": "/spec/ports", "value": ports}));
    }
    let is_theirs = |field: &str| {
        let owned = |entry: &&Value| !entry["fieldsV1"]["f:spec"][format!("f:{field}")].is_null();
        !wanted[field].is_null() || theirs.iter().any(owned)
    };
    if service.raw["spec"]["sessionAffinity"] == "ClientIP" && !is_theirs("sessionAffinity") {
        patch.push(json!({"op": "replace", "path": "/spec/sessionAffinity", "value": "None"}));
        patch.push(json!({"op": "remove", "path": "/spec/sessionAffinityConfig"}));
    }
    patch.into()
}

fn managers(object: &Object) -> impl Iterator<Item = &Value> {
    object.raw["metadata"]["managedFields"].as_array().into_iter().flatten()
}

fn others(object: &Object) -> impl Iterator<Item = &Value> {
    managers(object).filter(|entry| entry["manager"] != MANAGER)
}

/// What was last applied from a client's side: its `spec`.
fn wanted(service: &Object) -> Value {
    let text = service.annotations.get(LAST_APPLIED);
    let applied: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    applied.map(|mut applied| applied["spec"].take()).unwrap_or_default()
}

/// The ports that somebody else has named. `None`: all of them, or none, of which a Service cannot be.
fn their_ports(service: &Object, wanted: &Value) -> Option<Vec<Value>> {
    let key = |port: &Value| -> Option<PortKey> {
        let protocol = port["protocol"].as_str().unwrap_or(TCP);
        Some((port["port"].as_u64()?, protocol.to_owned()))
    };
    let applied = wanted["ports"].as_array().into_iter().flatten().filter_map(key);
    let owned = others(service)
        .filter_map(|entry| entry["fieldsV1"]["f:spec"]["f:ports"].as_object())
        .flat_map(|ports| ports.keys())
        // `k:{"port":80,"protocol":"TCP"}`
        .filter_map(|name| key(&serde_json::from_str(name.strip_prefix("k:")?).ok()?));
    let theirs: BTreeSet<PortKey> = applied.chain(owned).collect();
    let ports = service.raw["spec"]["ports"].as_array()?;
    let is_theirs = |port: &&Value| key(port).is_some_and(|key| theirs.contains(&key));
    let kept: Vec<Value> = ports.iter().filter(is_theirs).cloned().collect();
    (!kept.is_empty() && kept.len() < ports.len()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::imports::tests::service;

    fn managed(entries: &Value, more: Value) -> Object {
        let mut raw = json!({
            "metadata": {
                "name": "reviews", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "labels": {IMPORT_LABEL: "true", SERVICE_NAME_LABEL: "reviews", "mine": "x"},
                "managedFields": entries,
            },
            "spec": {"ports": [
                {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "grpc", "port": 90, "protocol": "TCP"},
            ]},
        });
        let annotations = more["annotations"].clone();
        if !annotations.is_null() {
            raw["metadata"]["annotations"] = annotations;
        }
        service(raw)
    }

    fn ours() -> Value {
        let ports = json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}, "k:{\"port\":90,\"protocol\":\"TCP\"}": {}});
        json!({"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:ports": ports}}})
    }

    fn of(manager: &str, spec: Value) -> Value {
        json!({"manager": manager, "operation": "Update", "fieldsV1": {"f:spec": spec}})
    }

    #[test]
    fn what_bears_the_label_is_ours_only_if_we_have_applied_it() {
        assert!(is_ours(&managed(&json!([ours()]), Value::Null)));
        assert!(!is_ours(&managed(&json!([of("kubectl", json!({}))]), Value::Null)));
        let mut bare = managed(&json!([ours()]), Value::Null);
        bare.labels.clear();
        assert!(!is_ours(&bare));
    }

    #[test]
    fn a_service_is_anothers_who_owns_anything_of_its_spec_and_nobodys_who_does_not() {
        let status = json!({"manager": "cloud", "subresource": "status", "fieldsV1": {"f:status": {}}});
        let labels = json!({"manager": "kubectl-label", "fieldsV1": {"f:metadata": {"f:labels": {}}}});
        assert!(!is_claimed(&managed(&json!([ours(), status, labels]), Value::Null)));
        let claimed = json!([ours(), of("kubectl-client-side-apply", json!({"f:selector": {}}))]);
        assert!(is_claimed(&managed(&claimed, Value::Null)));
    }

    #[test]
    fn what_is_given_up_keeps_what_the_new_owner_has_and_loses_what_only_we_had() {
        let theirs = of(
            "kubectl",
            json!({"f:selector": {}, "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:targetPort": {}}}}),
        );
        let patch = give_up(&managed(&json!([ours(), theirs]), Value::Null));
        let at = |path: &str| patch.as_array().unwrap().iter().find(|op| op["path"] == path);
        assert_eq!(at("/metadata/managedFields").unwrap()["value"], json!([theirs]));
        assert_eq!(at("/metadata/resourceVersion").unwrap()["value"], "7");
        assert!(at("/metadata/labels/weft.dev~1import").is_some() && at("/metadata/labels/mine").is_none());
        assert_eq!(
            at("/spec/ports").unwrap()["value"],
            json!([{"name": "http", "port": 80, "protocol": "TCP"}])
        );
    }

    #[test]
    fn ports_that_were_there_already_are_known_by_what_was_applied_from_the_clients_side() {
        let theirs = of("kubectl-client-side-apply", json!({"f:selector": {}}));
        let applied =
            |ports: Value| json!({"annotations": {LAST_APPLIED: json!({"spec": {"ports": ports}}).to_string()}});
        let ports = |more: Value| {
            let patch = give_up(&managed(&json!([ours(), theirs]), more));
            let op = patch.as_array().unwrap().iter().find(|op| op["path"] == "/spec/ports");
            op.map(|op| op["value"][0]["port"].clone())
        };
        assert_eq!(ports(applied(json!([{"port": 90}]))), Some(json!(90)));
        assert_eq!(
            ports(applied(json!([{"port": 90}, {"port": 80, "protocol": "TCP"}]))),
            None
        );
        // Of no port at all there is no Service.
        assert_eq!(ports(Value::Null), None);
    }
}
