//! The pod's own fields, as `fieldRef` names them.

use serde_json::Value;

/// What `env` may refer to, for people.
pub const IN_ENV: &str = "metadata.name, metadata.namespace, metadata.uid, metadata.labels['…'], metadata.annotations['…'], \
                          spec.nodeName, spec.serviceAccountName, status.podIP, status.podIPs, status.hostIP, status.hostIPs";
/// What volumes may refer to, for people.
pub const IN_VOLUMES: &str = "metadata.name, metadata.namespace, metadata.uid, metadata.labels, metadata.annotations, \
                              metadata.labels['…'], metadata.annotations['…']";

/// Whether `env` may refer to this field.
pub fn in_env(path: &str) -> bool {
    subscript(path).is_some()
        || matches!(
            path,
            "metadata.name"
                | "metadata.namespace"
                | "metadata.uid"
                | "spec.nodeName"
                | "spec.serviceAccountName"
                | "status.podIP"
                | "status.podIPs"
                | "status.hostIP"
                | "status.hostIPs"
        )
}

/// Whether a volume may refer to this field.
pub fn in_volumes(path: &str) -> bool {
    subscript(path).is_some()
        || matches!(
            path,
            "metadata.name" | "metadata.namespace" | "metadata.uid" | "metadata.labels" | "metadata.annotations"
        )
}

/// `metadata.labels['x']` → `labels`, `x`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.strip_prefix("metadata.")?.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    (matches!(map, "labels" | "annotations") && !key.is_empty()).then_some((map, key))
}

/// The value of a field of a pod (its object, with `spec.nodeName` and `status` filled in). A label that is not there is
/// empty, as in Kubernetes.
pub fn value(pod: &Value, path: &str) -> String {
    let metadata = &pod["metadata"];
    if let Some((map, key)) = subscript(path) {
        return text(&metadata[map][key]);
    }
    let listed = |list: &Value| {
        let ips = list.as_array().into_iter().flatten().map(|entry| text(&entry["ip"]));
        ips.collect::<Vec<_>>().join(",")
    };
    match path {
        "metadata.labels" | "metadata.annotations" => lines(&metadata[&path["metadata.".len()..]]),
        "status.podIPs" => listed(&pod["status"]["podIPs"]),
        "status.hostIPs" => listed(&pod["status"]["hostIPs"]),
        _ => match path.split_once('.') {
            Some((part, field)) => text(&pod[part][field]),
            None => String::new(),
        },
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `key="value"`, one a line, in order, as kubelet writes them.
fn lines(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let mut lines: Vec<String> = pairs.map(|(key, value)| format!("{key}={:?}", text(value))).collect();
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_as_kubernetes_names_them() {
        let pod = json!({
            "metadata": {"name": "web-1", "uid": "u", "labels": {"a/b": "x", "app": "web"}, "annotations": {"n": "say \"hi\""}},
            "spec": {"nodeName": "n1"},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        });
        for (path, want) in [
            ("metadata.name", "web-1"),
            ("metadata.labels['a/b']", "x"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a/b=\"x\"\napp=\"web\""),
            ("metadata.annotations", "n=\"say \\\"hi\\\"\""),
            ("spec.nodeName", "n1"),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd00::1"),
        ] {
            assert_eq!(value(&pod, path), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_known_is_known_not_to_be() {
        for path in [
            "metadata",
            "metadata.labels",
            "metadata.labels['']",
            "metadata.labels[x]",
            "spec.hostname",
            "limits.cpu",
        ] {
            assert!(!in_env(path), "{path}");
        }
        assert!(in_env("metadata.labels['x']") && in_volumes("metadata.labels") && !in_volumes("status.podIP"));
    }
}
