//! Lifecycle hooks of a container (`lifecycle.postStart`, `lifecycle.preStop`).
//!
//! In: a hook and where its container is. Out: whether it went well. A GET goes to the app from within the pod: nothing of
//! it crosses the wire, so a pod of the mesh that takes mutual TLS only has it answered, and nobody else has a way in.

use tokio::time::sleep;

use crate::net::PodNet;
use crate::probe::{self, Target, http};
use crate::spec::Hook;

/// Runs a hook once. An error says what went wrong. It takes as long as it takes: who waits bounds it.
pub(super) async fn run(hook: &Hook, target: &Target, net: &PodNet) -> Result<(), String> {
    match hook {
        Hook::Exec { command } => probe::exec(command, target).await,
        Hook::Sleep(time) => {
            sleep(*time).await;
            Ok(())
        }
        Hook::Http {
            host,
            port,
            path,
            https,
            headers,
        } => {
            http::get(&http::Get {
                // Another host than the pod's own is asked from the node, as a kubelet would.
                within: host.is_none().then(|| net.clone()),
                host: host.clone().unwrap_or_else(|| target.address.to_string()),
                port: *port,
                path: path.clone(),
                https: *https,
                headers,
            })
            .await
        }
    }
}
