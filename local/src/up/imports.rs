//! What is imported from other clusters, followed at the control plane and told to the cluster.
//!
//! In: the control plane's admin socket. Out: [`Request::Imports`], where anything is another than it was. While the control
//! plane is away, or does not know yet, everything stays as it was.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use crate::api;
use crate::cluster::{Handle, Request};

/// How long it is waited for a control plane that is away.
const AGAIN: Duration = Duration::from_millis(200);
/// No more often than this, however fast things change: all of it comes each time.
const PACE: Duration = Duration::from_millis(20);

/// Follows until the cluster is gone.
pub(super) async fn follow(socket: PathBuf, cluster: Handle) {
    let mut known = String::new();
    loop {
        match api::imports(&socket, &known).await {
            Ok(told) if told.version == known => {}
            Ok(told) => {
                known.clone_from(&told.version);
                if !cluster.send(Request::Imports(Box::new(told))).await {
                    return;
                }
                sleep(PACE).await;
            }
            Err(error) => {
                tracing::debug!(%error, "asking the control plane what is imported");
                sleep(AGAIN).await;
            }
        }
    }
}
