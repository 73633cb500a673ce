//! Pod objects, as an API server would hold them: from a template, a name and a node. Pure.

use std::time::SystemTime;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_control::objects::uid_of;

use crate::manifest::{Key, Template};

/// What a pod object is built from.
pub(super) struct Blueprint<'a> {
    /// What its kind of pod is made from.
    pub template: &'a Template,
    /// Namespace and name.
    pub key: &'a Key,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// The Deployment that owns it.
    pub owner: Option<&'a Key>,
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
        node,
        created,
    } = blueprint;
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(key.name));
    metadata.insert("namespace".to_owned(), json!(key.namespace));
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("creationTimestamp".to_owned(), json!(rfc3339(*created)));
    metadata.insert("labels".to_owned(), json!(labels(template, *owner)));
    metadata.insert("annotations".to_owned(), json!(template.annotations));
    if let Some(owner) = owner {
        let set = replica_set(owner, template);
        let uid = uid_of("ReplicaSet", &owner.namespace, &set);
        let reference = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }]);
        metadata.insert("ownerReferences".to_owned(), reference);
    }
    let mut spec = template.spec.clone();
    spec["nodeName"] = json!(node);
    spec["serviceAccountName"] = json!(template.service_account());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

/// The labels of a pod: the template's, and its hash where a Deployment owns it.
pub(super) fn labels(template: &Template, owner: Option<&Key>) -> std::collections::BTreeMap<String, String> {
    let mut labels = template.labels.clone();
    if owner.is_some() {
        labels.insert("pod-template-hash".to_owned(), template.hash.clone());
    }
    labels
}

/// The name of a Deployment's pod: `<deployment>-<hash>-<five letters>`, cut where a label would be too long.
pub(super) fn pod_name(deployment: &Key, template: &Template, random: u64) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix = (0..5).scan(random, |left, _| {
        let letter = LETTERS[(*left % 27) as usize];
        *left /= 27;
        Some(char::from(letter))
    });
    let set = replica_set(deployment, template);
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
