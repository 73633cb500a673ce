//! Pod Security: whether a Namespace's level refuses what injection adds, told before its pods fail.

use serde_json::Value;

/// The label by which a Namespace enforces a level.
pub const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// Why pods with a sidecar are refused in this Namespace, with the fix; `None` where nothing stands in the way.
///
/// `baseline` and `restricted` allow no container to add NET_ADMIN and NET_RAW, which the redirect needs for the moment in
/// which its rules are written.
pub fn refusal(namespace: &Value) -> Option<String> {
    let metadata = &namespace["metadata"];
    let level = metadata["labels"][ENFORCE_LABEL].as_str()?;
    if !matches!(level, "baseline" | "restricted") {
        return None;
    }
    let name = metadata["name"].as_str().unwrap_or("NAMESPACE");
    // Warnings are cut at 256 bytes, so the fix comes early.
    Some(format!(
        "Pod Security {level:?} of this Namespace refuses NET_ADMIN and NET_RAW, which weft-init needs; \
         fix: kubectl label ns {name} {ENFORCE_LABEL}=privileged --overwrite"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn levels_that_refuse_the_redirect_are_told_with_the_fix() {
        for (level, refused) in [("baseline", true), ("restricted", true), ("privileged", false)] {
            let namespace = json!({"metadata": {"name": "a".repeat(63), "labels": {ENFORCE_LABEL: level}}});
            let said = refusal(&namespace);
            assert_eq!(said.is_some(), refused, "{level}");
            if let Some(said) = said {
                assert!(
                    said.contains("=privileged --overwrite") && said.len() <= 256,
                    "{}",
                    said.len()
                );
            }
        }
        assert_eq!(refusal(&json!({"metadata": {"name": "plain"}})), None);
    }
}
