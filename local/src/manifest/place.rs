//! Which node a pod is on. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_control::objects::Object;

use super::Template;

/// The node of a mesh whose manifests have none.
pub(crate) const ONLY_NODE: &str = "local";

/// Labels that every machine of a cluster has somehow, and that say nothing on one machine.
const EVERYWHERE: [&str; 5] = [
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
];
/// Nodes that are named in a fix.
const MOST_NAMED: usize = 12;

/// A pod for which there is no node: the field, what is wrong, and the fix.
pub(crate) type Nowhere = (&'static str, String, String);

/// Chooses a node: the one that the pod names, or the one of those that its selector allows with the fewest pods, the
/// first in order of names where several have as few. `pods`: how many pods there are on a node, its like counted first.
///
/// # Errors
/// There is no such node: field, what is wrong, and the fix.
pub(crate) fn place(
    template: &Template,
    nodes: &BTreeMap<String, Arc<Object>>,
    pods: impl Fn(&str) -> (usize, usize),
) -> Result<String, Nowhere> {
    let named = template.view.node_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = named {
        return match nodes.contains_key(name) || (nodes.is_empty() && name == ONLY_NODE) {
            true => Ok(name.to_owned()),
            false => Err((
                "spec.nodeName",
                format!("there is no Node {name:?}"),
                format!("take {}, or add a Node object of that name", known(nodes)),
            )),
        };
    }
    let candidates = allowed(template, nodes);
    let fewest = candidates.into_iter().min_by_key(|name| (pods(name), *name));
    fewest.map(str::to_owned).ok_or_else(|| {
        let selector = &template.view.node_selector;
        let wanted: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (
            "spec.nodeSelector",
            format!("no Node has all of these labels: {}", wanted.join(", ")),
            format!(
                "label {}, add a Node object with these labels, or change the selector",
                known(nodes)
            ),
        )
    })
}

/// The nodes that a pod's name of a node, or its selector, allows; in order of their names.
pub(crate) fn allowed<'a>(template: &Template, nodes: &'a BTreeMap<String, Arc<Object>>) -> Vec<&'a str> {
    let selector = &template.view.node_selector;
    let named = template.view.node_name.as_deref().filter(|name| !name.is_empty());
    let empty = BTreeMap::new();
    let fits = |labels: &BTreeMap<String, String>, name: &str| {
        selector.iter().all(|(key, value)| match key.as_str() {
            "kubernetes.io/hostname" => labels.get(key).map_or(name, String::as_str) == value,
            key if EVERYWHERE.contains(&key) && !labels.contains_key(key) => true,
            key => labels.get(key) == Some(value),
        })
    };
    let mut candidates: Vec<&str> = nodes
        .iter()
        .filter(|(name, node)| fits(&node.labels, name) && named.is_none_or(|named| named == name.as_str()))
        .map(|(name, _)| name.as_str())
        .collect();
    if nodes.is_empty() && fits(&empty, ONLY_NODE) {
        candidates.push(ONLY_NODE);
    }
    candidates
}

/// The nodes that there are, for people.
fn known(nodes: &BTreeMap<String, Arc<Object>>) -> String {
    let mut names: Vec<&str> = nodes.keys().map(String::as_str).take(MOST_NAMED).collect();
    if names.is_empty() {
        names.push(ONLY_NODE);
    }
    let more = match nodes.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" or {more} more"),
    };
    let of = if names.len() == 1 {
        "the only Node, "
    } else {
        "one of the Nodes "
    };
    format!("{of}{}{more}", names.join(", "))
}
