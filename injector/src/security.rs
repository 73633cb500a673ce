//! Pod Security: whether a Namespace's level refuses what injection adds, told before its pods fail.

use serde_json::Value;
use weft_model::pod_security::{self, ENFORCE_LABEL, Refusal};

/// Why pods with a sidecar are refused in this Namespace, an object of the API, with the fix.
pub fn refusal(namespace: &Value) -> Option<Refusal> {
    let metadata = &namespace["metadata"];
    let name = metadata["name"].as_str().unwrap_or("NAMESPACE");
    pod_security::refusal(name, metadata["labels"][ENFORCE_LABEL].as_str())
}
