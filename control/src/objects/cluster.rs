//! Views of Namespace, Node and ServiceAccount: all that matters of them is in their metadata.

use weft_model::endpoint::Place;
use weft_model::inbound::Mode;

use super::Object;

/// The annotation of a Namespace or Pod that says whether plaintext is accepted.
pub const INBOUND_ANNOTATION: &str = "config.weft.dev/inbound";
/// The region of a Node.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// The zone of a Node.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What an object's annotation says of plaintext. `None`: nothing.
///
/// # Errors
/// The value is neither `strict` nor `permissive`: the value, as it was written. Whoever acts on it acts strict.
pub fn inbound_mode(object: &Object) -> Option<Result<Mode, String>> {
    let value = object.annotations.get(INBOUND_ANNOTATION)?;
    Some(match value.as_str() {
        "strict" => Ok(Mode::Strict),
        "permissive" => Ok(Mode::Permissive),
        _ => Err(value.clone()),
    })
}

/// Where a Node is.
pub fn place(node: &Object, cluster: &str) -> Place {
    let label = |name: &str| node.labels.get(name).cloned().unwrap_or_default();
    Place {
        region: label(REGION_LABEL),
        zone: label(ZONE_LABEL),
        cluster: cluster.to_owned(),
    }
}
