//! Pod objects, as an API server would hold them: from a template, a name and a node. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_control::objects::uid_of;

use crate::manifest::{Key, Owner, Template, Workload};

/// What a pod object is built from.
pub(super) struct Blueprint<'a> {
    /// What its kind of pod is made from.
    pub template: &'a Template,
    /// Namespace and name.
    pub key: &'a Key,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// The workload that owns it.
    pub owner: Option<&'a Owner>,
    /// The Service that gives it a name of its own, if it is one of a StatefulSet's.
    pub service: Option<&'a str>,
    /// The node.
    pub node: &'a str,
    /// When it was made.
    pub created: SystemTime,
}

/// The pod object, not injected yet.
pub(super) fn object(blueprint: &Blueprint<'_>) -> Value {
    let Blueprint {
        template,
        key,
        uid,
        owner,
        service,
        node,
        created,
    } = blueprint;
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(key.name));
    metadata.insert("namespace".to_owned(), json!(key.namespace));
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("creationTimestamp".to_owned(), json!(rfc3339(*created)));
    metadata.insert("labels".to_owned(), json!(labels(template, *owner, &key.name)));
    metadata.insert("annotations".to_owned(), json!(template.annotations));
    if let Some(owner) = owner {
        let (kind, name) = controller(owner, template);
        let uid = uid_of(kind, &owner.key.namespace, &name);
        let reference = json!([{
            "apiVersion": owner.kind.api_version(), "kind": kind, "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }]);
        metadata.insert("ownerReferences".to_owned(), reference);
    }
    let mut spec = template.spec.clone();
    spec["nodeName"] = json!(node);
    spec["serviceAccountName"] = json!(template.service_account());
    if owner.is_some_and(|owner| owner.kind == Workload::StatefulSet) {
        spec["hostname"] = json!(key.name);
        if let Some(service) = service.filter(|service| !service.is_empty()) {
            spec["subdomain"] = json!(service);
        }
        for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
            if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
                volume["persistentVolumeClaim"]["claimName"] = json!(format!("{claim}-{}", key.name));
            }
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// The labels of a pod: the template's, and those that controllers add.
pub(super) fn labels(template: &Template, owner: Option<&Owner>, name: &str) -> BTreeMap<String, String> {
    let mut labels = template.labels.clone();
    let Some(owner) = owner else { return labels };
    let mut add = |key: &str, value: String| drop(labels.insert(key.to_owned(), value));
    match owner.kind {
        Workload::Deployment => add("pod-template-hash", template.hash.clone()),
        Workload::StatefulSet => {
            add("statefulset.kubernetes.io/pod-name", name.to_owned());
            let index = name.rsplit('-').next().unwrap_or_default();
            add("apps.kubernetes.io/pod-index", index.to_owned());
            add(
                "controller-revision-hash",
                format!("{}-{}", owner.key.name, template.hash),
            );
        }
        Workload::DaemonSet => add("controller-revision-hash", template.hash.clone()),
        Workload::Job => {
            let uid = uid_of("Job", &owner.key.namespace, &owner.key.name);
            for prefix in ["batch.kubernetes.io/", ""] {
                add(&format!("{prefix}job-name"), owner.key.name.clone());
                add(&format!("{prefix}controller-uid"), uid.clone());
            }
        }
    }
    labels
}

/// What a pod's owner reference names.
fn controller(owner: &Owner, template: &Template) -> (&'static str, String) {
    match owner.kind {
        Workload::Deployment => ("ReplicaSet", replica_set(&owner.key, template)),
        kind => (kind.as_str(), owner.key.name.clone()),
    }
}

/// The name of a pod whose name is of no consequence: `<deployment>-<hash>-<five letters>`, `<job>-<five letters>`, cut
/// where a label would be too long.
pub(super) fn pod_name(owner: &Owner, template: &Template, random: u64) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix = (0..5).scan(random, |left, _| {
        let letter = LETTERS[(*left % 27) as usize];
        *left /= 27;
        Some(char::from(letter))
    });
    let (_, set) = controller(owner, template);
    let cut: String = set.chars().take(57).collect();
    format!("{}-{}", cut.trim_end_matches(['-', '.']), suffix.collect::<String>())
}

fn replica_set(deployment: &Key, template: &Template) -> String {
    format!("{}-{}", deployment.name, template.hash)
}

/// A version 4 UUID (RFC 9562) of these bits.
pub(super) fn uuid(random: u128) -> String {
    let bits = (random & !(0xf000 << 64) & !(0xc000 << 48)) | (0x4000 << 64) | (0x8000 << 48);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A time as objects write it: whole seconds, in UTC.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time)
        .replace_nanosecond(0)
        .expect("0 is a number of nanoseconds");
    time.format(&Rfc3339).unwrap_or_default()
}
