//! A running mesh and a pod of it, from arguments.

use weft_local::api::Target;
use weft_local::client::Client;
use weft_local::state::StateDir;

use crate::args::{MeshArgs, PodArgs};

/// How to ask a mesh.
pub(crate) fn client(mesh: &MeshArgs) -> Client {
    Client::new(
        &mesh.name,
        StateDir::of(&mesh.name, |variable| std::env::var_os(variable)),
    )
}

/// Which container is meant.
pub(crate) fn target(pod: &PodArgs, container: Option<String>) -> Target {
    Target {
        namespace: pod.namespace.clone(),
        pod: pod.pod.clone(),
        container,
    }
}
