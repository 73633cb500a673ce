//! A port of a pod's loopback, by the API server's port-forward: the kubelet dials it from within the pod, so that what only the
//! pod's own containers reach is reached, too.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::client::UpgradeConnectionError;
use kube::{Api, Error};
use tokio::time::timeout;

use super::Cluster;
use super::api::UNKNOWN;
use crate::http;

/// From the request to a connection into the pod.
const CONNECT: Duration = Duration::from_secs(10);
/// From then to the end of the answer: a control plane's may have megabytes, and the way may be long.
const ANSWER: Duration = Duration::from_secs(30);
/// A port that can't be used says so by then, if it has not said so before.
const AFTERWORD: Duration = Duration::from_millis(500);

impl Cluster {
    /// What the HTTP server at a port of a pod's loopback answers to `GET path`.
    ///
    /// # Errors
    /// What is missing: a permission, the pod, something that listens; for people.
    pub(crate) async fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String> {
        let api: Api<Pod> = Api::namespaced(self.api.client().clone(), namespace);
        let forwarded = timeout(CONNECT, api.portforward(pod, &[port])).await;
        let forwarded = forwarded.map_err(|_| {
            anyhow!("the API server did not lead to port {port} of {namespace}/{pod} within {CONNECT:?} (fix: look at its node)")
        })?;
        let mut forwarded = forwarded.map_err(|error| refused(error, namespace, pod))?;
        let stream = forwarded.take_stream(port).context("port-forward without a stream")?;
        let error = forwarded.take_error(port);
        let answer = http::get(stream, path, ANSWER).await;
        let at = || format!("port {port} of {namespace}/{pod}");
        match (answer, error) {
            (Ok(answer), _) => Ok(answer),
            (Err(why), None) => Err(why).with_context(at),
            (Err(why), Some(error)) => match timeout(AFTERWORD, error).await {
                Ok(Some(said)) => bail!("nothing answers at {}: {}", at(), said.trim()),
                Ok(None) | Err(_) => Err(why).with_context(at),
            },
        }
    }
}

/// Why there is no port-forward, and what to do.
fn refused(error: Error, namespace: &str, pod: &str) -> anyhow::Error {
    let status = match &error {
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => status.as_u16(),
        Error::Api(status) => status.code,
        _ => 0,
    };
    match status {
        401 => anyhow!(UNKNOWN),
        403 => anyhow!(
            "you may not forward ports of the pod {namespace}/{pod} (fix: a Role in {namespace} that allows `get` and \
             `create` on pods/portforward)"
        ),
        404 => anyhow!("there is no pod {namespace}/{pod} any more (fix: ask again)"),
        _ => anyhow::Error::new(error).context(format!("forwarding a port of the pod {namespace}/{pod}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_forward_is_told_what_allows_it() {
        let forbidden = UpgradeConnectionError::ProtocolSwitch(::http::StatusCode::FORBIDDEN);
        let said = refused(Error::UpgradeConnection(forbidden), "shop", "web-1").to_string();
        assert!(
            said.contains("Role in shop") && said.contains("pods/portforward"),
            "{said}"
        );
        let gone = UpgradeConnectionError::ProtocolSwitch(::http::StatusCode::NOT_FOUND);
        assert!(
            refused(Error::UpgradeConnection(gone), "shop", "web-1")
                .to_string()
                .contains("no pod shop/web-1")
        );
    }
}
