//! Views of Namespace, Node and ServiceAccount: all that matters of them is in their metadata.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use weft_model::endpoint::Place;
use weft_model::inbound::Mode;

use super::Object;

/// The annotation of a Namespace or Pod that says whether plaintext is accepted.
pub const INBOUND_ANNOTATION: &str = "config.weft.dev/inbound";
/// The annotation of a Namespace or Pod that names the pods' ports at which mere bytes come.
pub const OPAQUE_PORTS_ANNOTATION: &str = "config.weft.dev/opaque-ports";
/// Ports that one annotation may name.
const OPAQUE_PORTS_MAX: usize = 64;
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

/// The ports of pods that an object's annotation says carry mere bytes. `None`: it says nothing.
///
/// # Errors
/// It is no list of ports, or one of more than 64: the value, as it was written. Whoever acts on it takes it as absent.
pub fn opaque_ports(object: &Object) -> Option<Result<BTreeSet<u16>, String>> {
    let value = object.annotations.get(OPAQUE_PORTS_ANNOTATION)?;
    Some(read_ports(value).ok_or_else(|| value.clone()))
}

/// The ports of a pod that carry mere bytes: by the value of its own annotation, else of its Namespace's.
pub fn opaque_ports_of(pod: Option<&str>, namespace: Option<&str>) -> BTreeSet<u16> {
    let own = pod.and_then(read_ports);
    own.or_else(|| namespace.and_then(read_ports)).unwrap_or_default()
}

fn read_ports(value: &str) -> Option<BTreeSet<u16>> {
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let ports: Option<Vec<u16>> = items.map(|item| Some(item.parse::<NonZeroU16>().ok()?.get())).collect();
    let ports = ports.filter(|ports| ports.len() <= OPAQUE_PORTS_MAX)?;
    Some(BTreeSet::from_iter(ports))
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
