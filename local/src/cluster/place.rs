//! Which node a pod is on. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_control::objects::Object;

use crate::manifest::Template;

/// The node of a mesh whose manifests have none.
pub(super) const ONLY_NODE: &str = "local";

/// Labels that every machine of a cluster has somehow, and that say nothing on one machine.
const EVERYWHERE: [&str; 5] = [
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
];

/// Chooses a node: the one that the pod names, or the one of those that its selector allows with the fewest pods, the
/// first in order of names where several have as few. `pods`: how many pods there are on a node, its like counted first.
///
/// # Errors
/// There is no such node: field, what is wrong, and the fix.
pub(super) fn place(
    template: &Template,
    nodes: &BTreeMap<String, Arc<Object>>,
    pods: impl Fn(&str) -> (usize, usize),
) -> Result<String, (&'static str, String, &'static str)> {
    let named = template.view.node_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = named {
        return match nodes.contains_key(name) || (nodes.is_empty() && name == ONLY_NODE) {
            true => Ok(name.to_owned()),
            false => Err((
                "spec.nodeName",
                format!("there is no Node {name:?}"),
                "add a Node object of that name",
            )),
        };
    }
    let empty = BTreeMap::new();
    let fits = |labels: &BTreeMap<String, String>, name: &str| {
        template
            .view
            .node_selector
            .iter()
            .all(|(key, value)| match key.as_str() {
                "kubernetes.io/hostname" => labels.get(key).map_or(name, String::as_str) == value,
                key if EVERYWHERE.contains(&key) && !labels.contains_key(key) => true,
                key => labels.get(key) == Some(value),
            })
    };
    let mut candidates: Vec<&str> = nodes
        .iter()
        .filter(|(name, node)| fits(&node.labels, name))
        .map(|(name, _)| name.as_str())
        .collect();
    if nodes.is_empty() && fits(&empty, ONLY_NODE) {
        candidates.push(ONLY_NODE);
    }
    let fewest = candidates.into_iter().min_by_key(|name| (pods(name), *name));
    fewest.map(str::to_owned).ok_or_else(|| {
        let message = "no Node has these labels".to_owned();
        (
            "spec.nodeSelector",
            message,
            "add them to a Node object, or change the selector",
        )
    })
}
