//! Probes: asked from the node's side, judged as kubelet judges them.
//!
//! In: a [`Probe`] and where its pod is. Out: a stream of [`Verdict`]s while the container runs.

mod grpc;
pub(crate) mod http;
mod judge;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use self::judge::{Judge, Verdict};
use crate::container::{self, ExecPlan, ExecStdio, InitPlan};
use crate::spec::{Probe, ProbeAction};

/// Until its first success a probe is also tried between its periods, so that a pod is known to be up when it is; these
/// attempts never count as failures.
const EAGER: Duration = Duration::from_millis(50);

/// What probes of a container need to know.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) init: Arc<InitPlan>,
}

/// Asks again and again, and reports what changes, until dropped or until the startup probe has its one answer. `said`
/// gets the verdict and why.
pub(crate) async fn watch<F: Future<Output = ()>>(
    probe: &Probe,
    mut judge: Judge,
    target: &Target,
    mut said: impl FnMut(Verdict, String) -> F,
) {
    sleep(probe.initial_delay).await;
    let mut due = Instant::now();
    let mut eager = EAGER;
    loop {
        let counts = Instant::now() >= due;
        if counts {
            due = Instant::now() + probe.period;
        }
        let answer = ask(probe, target).await;
        let (well, why) = match answer {
            Ok(()) => (true, String::new()),
            Err(why) => (false, why),
        };
        let verdict = if well || counts { judge.record(well) } else { None };
        if let Some(verdict) = verdict {
            said(verdict, why).await;
            if judge.is_final() {
                return;
            }
        }
        let rest = due.saturating_duration_since(Instant::now());
        if judge.is_eager() {
            sleep(eager.min(rest)).await;
            eager = (eager * 2).min(probe.period);
        } else {
            sleep(rest).await;
        }
    }
}

/// One attempt; an error says what went wrong.
pub(crate) async fn ask(probe: &Probe, target: &Target) -> Result<(), String> {
    let limit = probe.timeout;
    let asked = async {
        match &probe.action {
            ProbeAction::Http {
                host,
                port,
                path,
                https,
                headers,
            } => {
                let host = host.clone().unwrap_or_else(|| target.address.to_string());
                http::get(&http::Get {
                    host,
                    port: *port,
                    path: path.clone(),
                    https: *https,
                    headers,
                    within: None,
                })
                .await
            }
            ProbeAction::Tcp { host, port } => {
                let host = host.clone().unwrap_or_else(|| target.address.to_string());
                TcpStream::connect((host.as_str(), *port))
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            ProbeAction::Grpc { port, service } => grpc::check(SocketAddr::new(target.address, *port), service).await,
            ProbeAction::Exec { command } => exec(command, target).await,
        }
    };
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

/// Runs a command in a container; an error says what went wrong.
pub(crate) async fn exec(command: &[String], target: &Target) -> Result<(), String> {
    let plan = ExecPlan {
        container: None,
        command: command.to_vec(),
        env: Vec::new(),
        stdio: ExecStdio::Fds {
            stdin: None,
            stdout: None,
            stderr: None,
        },
    };
    let started = container::exec(Arc::clone(&target.pidfd), Arc::clone(&target.init), plan).await;
    match started.map_err(|error| error.to_string())?.wait().await {
        0 => Ok(()),
        code => Err(format!("exit code {code}")),
    }
}
