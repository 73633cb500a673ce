//! `weft access-log`: switches a pod's access log while it runs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_local::api::Target;

use crate::args::{AccessLogArgs, State};
use crate::paper;
use crate::target::{client, target};

/// The port of the proxy's admin server on the pod's loopback.
const PORT: u16 = 15021;
/// How long the proxy may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// What an answer may have, in bytes.
const ANSWER_MAX: u64 = 4096;

/// Prints which it is: `on` or `off`.
pub(crate) async fn main(args: AccessLogArgs) -> Result<ExitCode> {
    let client = client(&args.pod.mesh);
    let (namespace, pod, container) = client.find(&target(&args.pod, None)).await?;
    let target = Target {
        namespace,
        pod,
        container: Some(container),
    };
    let asks = match args.state {
        None => "GET /access-log",
        Some(State::On) => "POST /access-log/on",
        Some(State::Off) => "POST /access-log/off",
    };
    let whose = format!("the proxy of {}/{}", target.namespace, target.pod);
    let socket = client.dial(&target, PORT).await;
    let socket = match socket {
        Err(_) if !is_meshed(&client.status().await?, &target) => bail!(
            "pod {}/{} has no sidecar: label its namespace weft.dev/inject: enabled, and restart it",
            target.namespace,
            target.pod
        ),
        socket => socket.with_context(|| format!("{whose} does not listen on 127.0.0.1:{PORT} in its pod"))?,
    };
    let answer = timeout(ANSWER, ask(socket, asks)).await;
    let answer = answer.with_context(|| format!("{whose} does not answer"))?;
    match answer
        .with_context(|| format!("asking {whose}"))?
        .split_once("\r\n\r\n")
    {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => paper::print(body),
        Some((head, _)) => bail!("{whose} answers {:?}", head.lines().next().unwrap_or_default()),
        None => bail!("{whose} ends without an answer"),
    }
    Ok(ExitCode::SUCCESS)
}

fn is_meshed(status: &Value, target: &Target) -> bool {
    let pods = status["pods"].as_array().into_iter().flatten();
    let mut same = pods.filter(|pod| pod["namespace"] == target.namespace && pod["name"] == target.pod);
    same.any(|pod| pod["meshed"] == true)
}

async fn ask(mut socket: TcpStream, asks: &str) -> std::io::Result<String> {
    let request = format!("{asks} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}
