//! A real Jaeger beside the demo: started on free ports of the loopback, fed with all spans, asked for a trace, ended.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::http;

/// The name under which Jaeger's all-in-one of version 1 is installed.
const PROGRAM: &str = "jaeger-all-in-one";
/// Where people look for Jaeger's page.
const PAGE_PORT: u16 = 16686;
const START_TIME: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);
/// Exports under way to Jaeger. More are dropped: the demo's own view does not wait for Jaeger.
const EXPORTS: usize = 1024;

/// A running Jaeger. Dropping it ends it.
pub(super) struct Jaeger {
    page: SocketAddr,
    exports: mpsc::Sender<ExportTraceServiceRequest>,
    child: Child,
}

impl Jaeger {
    /// Starts Jaeger, and waits until it answers.
    pub(super) async fn start() -> Result<Self> {
        let program = find(|name| std::env::var_os(name)).with_context(|| {
            format!("{PROGRAM} is neither on the PATH nor in the cache: `./x jaeger` builds it, or install Jaeger's all-in-one 1.76")
        })?;
        let page = free(PAGE_PORT).await?;
        let otlp = free(0).await?;
        let mut command = Command::new(&program);
        command.arg(format!("--query.http-server.host-port={page}"));
        command.arg(format!("--collector.otlp.grpc.host-port={otlp}"));
        // It listens on all of these, wanted or not.
        for flag in [
            "query.grpc-server",
            "collector.otlp.http",
            "collector.grpc-server",
            "collector.http-server",
            "admin.http",
        ] {
            command.arg(format!("--{flag}.host-port={}", free(0).await?));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C is for the demo, which then ends Jaeger.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let (exports, queue) = mpsc::channel(EXPORTS);
        let mut jaeger = Self { page, exports, child };
        jaeger.answers().await?;
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{otlp}"))?.connect_lazy();
        // Ends with the last sender.
        tokio::spawn(feed(TraceServiceClient::new(channel), queue));
        Ok(jaeger)
    }

    async fn answers(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.get("/api/services").await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("Jaeger ended with {status} before it answered");
            }
            if began.elapsed() > START_TIME {
                bail!("Jaeger does not answer at {} within {START_TIME:?}", self.page);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends it, and waits until it has ended: its ports are free then.
    pub(super) async fn end(mut self) {
        if let Err(error) = self.child.kill().await {
            eprintln!("weft demo: Jaeger could not be ended: {error}");
        }
    }

    /// Where spans for it go.
    pub(super) fn exports(&self) -> mpsc::Sender<ExportTraceServiceRequest> {
        self.exports.clone()
    }

    /// Where people find a trace.
    pub(super) fn link(&self, trace: &str) -> String {
        format!("http://{}/trace/{trace}", self.page)
    }

    /// How many spans Jaeger has of a trace, and how many of them have a parent in it.
    pub(super) async fn spans(&self, trace: &str) -> Result<(usize, usize)> {
        let answer: Value = serde_json::from_str(&self.get(&format!("/api/traces/{trace}")).await?)?;
        let spans = answer["data"][0]["spans"].as_array().cloned().unwrap_or_default();
        let is_known = |id: &Value| spans.iter().any(|span| span["spanID"] == *id);
        let has_parent = |span: &&Value| {
            let references = span["references"].as_array().into_iter().flatten();
            { references }.any(|reference| reference["refType"] == "CHILD_OF" && is_known(&reference["spanID"]))
        };
        Ok((spans.len(), spans.iter().filter(has_parent).count()))
    }

    async fn get(&self, path: &str) -> Result<String> {
        http::get(TcpStream::connect(self.page).await?, path, http::NEAR).await
    }
}

async fn feed(
    mut client: TraceServiceClient<tonic::transport::Channel>,
    mut queue: mpsc::Receiver<ExportTraceServiceRequest>,
) {
    while let Some(export) = queue.recv().await {
        // Jaeger may be ending; what it has, the demo asks it for.
        let _ = client.export(export).await;
    }
}

/// This port of the loopback if nobody has it, else any.
async fn free(wanted: u16) -> Result<SocketAddr> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("looking for a free port")?,
    };
    Ok(listener.local_addr()?)
}

/// The program: on the PATH, else the newest in the cache, where `./x jaeger` puts it.
fn find(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .map(|dir| dir.join(PROGRAM))
        .find(|path| path.is_file());
    on_path.or_else(|| {
        let home = || variable("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = variable("XDG_CACHE_HOME")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .or_else(home)?;
        let versions = std::fs::read_dir(cache.join("weft")).ok()?.flatten();
        let is_jaeger = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("jaeger-");
        let found = versions
            .filter(|entry| is_jaeger(&entry.file_name()))
            .map(|entry| entry.path().join(PROGRAM));
        found.filter(|path| path.is_file()).max()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jaeger_is_taken_from_the_path_before_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cache) = (dir.path().join("bin"), dir.path().join(".cache/weft/jaeger-v1.76.0"));
        let variable = |name: &str| match name {
            "PATH" => Some(path.clone().into_os_string()),
            "HOME" => Some(dir.path().as_os_str().to_owned()),
            _ => None,
        };
        assert_eq!(find(variable), None);
        for place in [&cache, &path] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join(PROGRAM), "").unwrap();
            assert_eq!(find(variable), Some(place.join(PROGRAM)));
        }
    }
}
