//! The shop's manifests: as they lie in the repository, and as a Kubernetes cluster takes them.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

/// By file, in the order in which they are applied.
pub(super) const ALL: [(&str, &str); 7] = [
    ("cluster.yaml", include_str!("../../../shop/manifests/cluster.yaml")),
    ("web.yaml", include_str!("../../../shop/manifests/web.yaml")),
    ("reviews.yaml", include_str!("../../../shop/manifests/reviews.yaml")),
    (
        "reviews-east.yaml",
        include_str!("../../../shop/manifests/reviews-east.yaml"),
    ),
    ("ratings.yaml", include_str!("../../../shop/manifests/ratings.yaml")),
    ("visitors.yaml", include_str!("../../../shop/manifests/visitors.yaml")),
    ("routes.yaml", include_str!("../../../shop/manifests/routes.yaml")),
];
/// Those of the two clusters, which have no regions.
pub(super) const WEST: &[(&str, &str)] = &[
    ("shop.yaml", include_str!("../../../shop/clusters/shop.yaml")),
    ("ratings.yaml", include_str!("../../../shop/manifests/ratings.yaml")),
    ("visitor.yaml", include_str!("../../../shop/clusters/visitor.yaml")),
];
pub(super) const EAST: &[(&str, &str)] = &[
    ("shop.yaml", include_str!("../../../shop/clusters/shop.yaml")),
    ("ratings.yaml", include_str!("../../../shop/manifests/ratings.yaml")),
    ("web.yaml", include_str!("../../../shop/clusters/web.yaml")),
    WEB_EXPORT,
];
/// What makes web of the east the west's, too.
pub(super) const WEB_EXPORT: (&str, &str) = (
    "web-export.yaml",
    include_str!("../../../shop/clusters/web-export.yaml"),
);
/// The image of the shop's programs, as `./x image shop` makes it.
const IMAGE: &str = concat!("weft.dev/shop:", env!("CARGO_PKG_VERSION"));
const REGION: &str = "topology.kubernetes.io/region";

/// Prints them. `kubernetes`: for a cluster.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn print(kubernetes: bool) -> Result<()> {
    for (file, text) in ALL {
        if kubernetes {
            for object in for_cluster(text)? {
                crate::paper::print(&format!("---\n{}", crate::yaml::text(&object)));
            }
        } else {
            crate::paper::print(&format!("---\n# {file}\n{text}\n"));
        }
    }
    Ok(())
}

/// Without nodes, which a cluster has, and with the image, which `weft up` needs none of. A pod that names its node is put
/// into the west, as that node is. Where pods are to be they only prefer: they run where no node is labelled so, too.
fn for_cluster(text: &str) -> Result<Vec<Value>> {
    let read = weft_control::manifests::values(text);
    let mut objects = read.map_err(|(line, why)| anyhow!("line {line}: {why}"))?;
    objects.retain(|object| object["kind"] != "Node");
    for object in &mut objects {
        let spec = match object["kind"].as_str() {
            Some("Pod") => object.pointer_mut("/spec"),
            _ => object.pointer_mut("/spec/template/spec"),
        };
        let Some(spec) = spec.and_then(Value::as_object_mut) else {
            continue;
        };
        if spec.remove("nodeName").is_some() {
            spec.insert("nodeSelector".to_owned(), json!({REGION: "west"}));
        }
        if let Some(selector) = spec.remove("nodeSelector") {
            spec.insert("affinity".to_owned(), preferring(&selector));
        }
        let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            container["image"] = json!(IMAGE);
        }
    }
    Ok(objects)
}

/// The affinity of a pod that would rather be on nodes with these labels.
fn preferring(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    let expressions: Vec<Value> = labels
        .map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}))
        .collect();
    let term = json!({"weight": 100, "preference": {"matchExpressions": expressions}});
    json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_cluster_without_such_places_every_pod_runs_all_the_same() {
        let all: Vec<Value> = ALL.iter().flat_map(|(_, text)| for_cluster(text).unwrap()).collect();
        let text = serde_json::to_string(&all).unwrap();
        assert!(!text.contains("nodeSelector") && !text.contains("required"), "{text}");
        assert_eq!(text.matches("nodeAffinity").count(), 7, "{text}");
    }

    #[test]
    fn for_a_cluster_every_container_has_its_image_and_no_pod_names_a_node() {
        let all: Vec<Value> = ALL.iter().flat_map(|(_, text)| for_cluster(text).unwrap()).collect();
        assert!(all.iter().all(|object| object["kind"] != "Node"));
        let text = serde_json::to_string(&all).unwrap();
        assert!(!text.contains("nodeName"), "{text}");
        let containers: Vec<&Value> = ["/spec/containers", "/spec/template/spec/containers"]
            .into_iter()
            .flat_map(|path| all.iter().filter_map(move |object| object.pointer(path)))
            .flat_map(|containers| containers.as_array().unwrap())
            .collect();
        assert_eq!(containers.len(), 8, "{containers:?}");
        assert!(containers.iter().all(|container| container["image"] == IMAGE));
    }
}
