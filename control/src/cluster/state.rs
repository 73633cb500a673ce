//! The epoch on a cluster: the ConfigMap `weft-state`. Replicas share it, and it only rises.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::api::{Api, CALL, Fault};
use super::{Cluster, ClusterError, patiently};

/// The ConfigMap of the epoch, in the control plane's namespace.
pub(crate) const CONFIG_MAP: &str = "weft-state";
/// Other replicas write as rarely as this one.
const ATTEMPTS: usize = 5;

/// Keeps the epoch, for a thread that has no other way to wait.
#[derive(Clone)]
pub(crate) struct Keeper {
    api: Api,
    namespace: String,
    /// Where requests run: never the runtime of whoever waits here.
    runtime: Handle,
}

impl Cluster {
    /// The epoch that is kept, and what keeps a new one. A new cluster begins with 1.
    pub(crate) async fn epoch(&self, namespace: &str) -> Result<(u64, Keeper), ClusterError> {
        const WHAT: &str = "keeping the epoch";
        let kept = patiently(WHAT, async || raise(&self.api, namespace, 1).await).await?;
        let keeper = Keeper {
            api: self.api.clone(),
            namespace: namespace.to_owned(),
            runtime: Handle::current(),
        };
        Ok((kept, keeper))
    }
}

impl Keeper {
    /// Makes the kept epoch at least this, and returns it: another replica may be further. Blocks, for some seconds at most.
    pub(crate) fn raise(&self, to: u64) -> Result<u64, Fault> {
        let (tell, told) = sync_channel(1);
        let (api, namespace) = (self.api.clone(), self.namespace.clone());
        // Not one of the process's tasks: somebody waits for it right here, and it ends by its deadlines.
        self.runtime.spawn(async move {
            let _ = tell.send(raise(&api, &namespace, to).await); // Too late: nobody waits any more.
        });
        told.recv_timeout(CALL + Duration::from_secs(1))
            .unwrap_or_else(|error| {
                let why = match error {
                    RecvTimeoutError::Timeout => "no answer in time",
                    RecvTimeoutError::Disconnected => "the process is ending",
                };
                Err(Fault::Away(why.to_owned()))
            })
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

async fn raise(api: &Api, namespace: &str, to: u64) -> Result<u64, Fault> {
    let all = format!("/api/v1/namespaces/{namespace}/configmaps");
    let path = format!("{all}/{CONFIG_MAP}");
    let mut last = Fault::Away("it was changed by others again and again".to_owned());
    for _ in 0..ATTEMPTS {
        let written = match api.get(&path).await {
            Ok(mut map) => {
                let kept = kept(&map);
                if kept >= to {
                    return Ok(kept);
                }
                map["data"]["epoch"] = json!(to.to_string());
                // It names its resource version: of two that write at once, one is refused and looks again.
                api.replace(&path, &map).await
            }
            Err(fault) if fault.is_missing() => api.create(&all, &new(namespace, to)).await,
            Err(fault) => return Err(fault),
        };
        match written {
            Ok(_) => return Ok(to),
            Err(fault) if fault.is_conflict() => last = fault,
            Err(fault) => return Err(fault),
        }
    }
    Err(last)
}

/// The epoch that a ConfigMap holds. One that holds none is written anew: proxies say which epochs they have seen.
fn kept(map: &Value) -> u64 {
    let text = map["data"]["epoch"].as_str().unwrap_or_default();
    text.trim().parse().unwrap_or_else(|_| {
        tracing::warn!(text, "the ConfigMap {CONFIG_MAP} holds no epoch: it begins anew");
        0
    })
}

fn new(namespace: &str, epoch: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": CONFIG_MAP, "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"}
        },
        "data": {"epoch": epoch.to_string()}
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::server;
    use super::*;

    fn map(epoch: &str, version: &str) -> Value {
        let mut map = new("weft-system", 1);
        map["data"]["epoch"] = json!(epoch);
        map["metadata"]["resourceVersion"] = json!(version);
        map
    }

    #[tokio::test]
    async fn the_epoch_of_another_replica_is_never_lowered() {
        let (mut server, api) = server();
        let serve = async {
            server.next().await.answer(200, &map("3", "10"));
            let write = server.next().await;
            assert_eq!(write.body["metadata"]["resourceVersion"], "10");
            write.refuse(409, "Conflict");
            server.next().await.answer(200, &map("9", "11"));
        };
        let (raised, ()) = tokio::join!(raise(&api, "weft-system", 5), serve);
        assert_eq!(raised.unwrap(), 9);
    }

    #[tokio::test]
    async fn a_cluster_without_one_begins_with_what_is_asked_for() {
        let (mut server, api) = server();
        let serve = async {
            server.next().await.refuse(404, "NotFound");
            let made = server.next().await;
            assert_eq!(
                (made.method.as_str(), &made.body["data"]["epoch"]),
                ("POST", &json!("1"))
            );
            let body = made.body.clone();
            made.answer(201, &body);
        };
        let (raised, ()) = tokio::join!(raise(&api, "weft-system", 1), serve);
        assert_eq!(raised.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_epoch_that_cannot_be_kept_is_none() {
        let (mut server, api) = server();
        let serve = async { server.next().await.refuse(403, "Forbidden") };
        let (raised, ()) = tokio::join!(raise(&api, "weft-system", 2), serve);
        assert!(matches!(raised, Err(Fault::Refused { code: 403, .. })));
    }
}
