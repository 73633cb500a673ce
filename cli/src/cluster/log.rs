//! What a container printed, from the API server.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::io::{AsyncRead, AsyncReadExt};
use http::Request;
use tokio::time::timeout;
use weft_local::api::Target;

use super::Cluster;
use super::api::UNKNOWN;

/// The beginning of a log is waited for so long. What follows may take its time.
const PATIENCE: Duration = Duration::from_secs(15);
/// Read at once.
const CHUNK: usize = 64 << 10;

/// What of a log is meant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogAsk {
    /// Go on as more is printed.
    pub(crate) follow: bool,
    /// Only the last lines.
    pub(crate) tail: Option<usize>,
    /// With the time of each line.
    pub(crate) timestamps: bool,
}

/// A log that is read.
pub(crate) struct Log {
    body: Box<dyn AsyncRead + Send + Unpin>,
}

impl Log {
    /// More of it. Empty: that was all.
    pub(crate) async fn next(&mut self) -> std::io::Result<Vec<u8>> {
        let mut chunk = vec![0; CHUNK];
        let read = self.body.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok(chunk)
    }
}

impl Cluster {
    /// The log of a container.
    ///
    /// # Errors
    /// It may not be read, or there is none; for people.
    pub(crate) async fn log(&self, target: &Target, ask: LogAsk) -> Result<Log> {
        let (namespace, pod) = (&target.namespace, &target.pod);
        let request = Request::get(path(target, ask)).body(Vec::new())?;
        let begun = timeout(PATIENCE, self.api.client().request_stream(request)).await;
        let begun = begun
            .map_err(|_| anyhow!("the API server did not begin the log of {namespace}/{pod} within {PATIENCE:?}"))?;
        match begun {
            Ok(body) => Ok(Log { body: Box::new(body) }),
            Err(kube::Error::Api(status)) if status.code == 401 => bail!("{UNKNOWN}"),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                bail!(
                    "{} (fix: a Role in {namespace} that allows `get` on pods/log)",
                    status.message
                )
            }
            Err(kube::Error::Api(status)) => bail!("{}", status.message),
            Err(error) => Err(error).with_context(|| format!("reading the log of {namespace}/{pod}")),
        }
    }
}

fn path(target: &Target, ask: LogAsk) -> String {
    let Target {
        namespace,
        pod,
        container,
    } = target;
    let mut path = format!(
        "/api/v1/namespaces/{namespace}/pods/{pod}/log?follow={}&timestamps={}",
        ask.follow, ask.timestamps
    );
    if let Some(container) = container {
        path.push_str(&format!("&container={container}"));
    }
    if let Some(tail) = ask.tail {
        path.push_str(&format!("&tailLines={tail}"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_asked_for_with_what_was_typed() {
        let target = Target {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            container: Some("weft-proxy".to_owned()),
        };
        let ask = LogAsk {
            follow: true,
            tail: Some(3),
            timestamps: false,
        };
        assert_eq!(
            path(&target, ask),
            "/api/v1/namespaces/shop/pods/web-1/log?follow=true&timestamps=false&container=weft-proxy&tailLines=3"
        );
    }
}
