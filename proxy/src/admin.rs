//! Admin: what people, probes and scrapers may ask.
//!
//! Two servers. The one on the pod's address answers only what harms nobody: readiness, liveness, metrics, the app's probes.
//! The one on the loopback, which only the pod's own containers reach, shows what the proxy believes and ends it.

mod config;

use std::sync::Arc;

use http::{Method, StatusCode};
use weft_daemon::admin::{self, Admin, Response};
use weft_daemon::prometheus;
use weft_daemon::ready::Ready;

use crate::discover::Beliefs;
use crate::observe::access::Switch;
use crate::observe::metrics::{Counter, Gauge, Registry, table};
use crate::observe::verdicts::Verdicts;
use crate::probe::{Finding, Hooks, Probes};

/// The server on the pod's address: `/ready`, `/live`, `/metrics`, `/probe/<container>/<kind>`,
/// `/hook/<token>/<container>/<kind>`.
pub fn public(ready: Ready, registry: Arc<Registry>, beliefs: Beliefs, probes: Probes, hooks: Hooks) -> Admin {
    let process = Process::new(&registry);
    let (probes, hooks) = (Arc::new(probes), Arc::new(hooks));
    Admin::new()
        .get("/ready", move |_| ready.response())
        .get("/live", |_| admin::text(StatusCode::OK, "live\n"))
        .get("/metrics", move |request| {
            beliefs.measure(&registry);
            process.measure(&registry);
            match prometheus::wants_open_metrics(request) {
                true => registry.open_metrics().response(),
                false => registry.text().response(),
            }
        })
        .get_patient("/probe/*", move |request| {
            let probes = probes.clone();
            async move {
                match *request.method() {
                    Method::GET => probed(probes.run(request.uri().path()).await),
                    _ => only_get(),
                }
            }
        })
        .get_patient("/hook/*", move |request| {
            let hooks = hooks.clone();
            async move {
                match *request.method() {
                    Method::GET => hooked(hooks.run(request.uri().path()).await),
                    _ => only_get(),
                }
            }
        })
}

/// The server on the loopback: `GET /config`, `GET /access-log`, `POST /access-log/on` and `/off`, `POST /shutdown`.
/// `shutdown` begins the end and returns at once.
pub fn local(
    beliefs: Beliefs,
    verdicts: Verdicts,
    access: Switch,
    shutdown: impl Fn() + Send + Sync + 'static,
) -> Admin {
    let (asked, on, off) = (access.clone(), access.clone(), access);
    Admin::new()
        .get("/config", move |request| {
            if admin::query(request, "view") == Some("detected") {
                return admin::json(StatusCode::OK, &serde_json::json!({ "detected": verdicts.describe() }));
            }
            let by_names = admin::query(request, "view") == Some("names");
            let mut all = config::describe(&beliefs, by_names);
            if !by_names {
                all["detected"] = verdicts.describe();
            }
            admin::json(StatusCode::OK, &all)
        })
        .get("/access-log", move |_| switched(&asked))
        .post("/access-log/on", move |_| {
            on.set(true);
            switched(&on)
        })
        .post("/access-log/off", move |_| {
            off.set(false);
            switched(&off)
        })
        .post("/shutdown", move |_| {
            shutdown();
            admin::text(StatusCode::OK, "ending\n")
        })
}

fn switched(access: &Switch) -> Response {
    admin::text(StatusCode::OK, if access.is_on() { "on\n" } else { "off\n" })
}

/// The kubelet takes any answer for a hook that has run, so one that could not be run gets none.
fn hooked(done: Option<Result<StatusCode, String>>) -> Response {
    match done {
        Some(Ok(status)) => admin::text(status, ""),
        Some(Err(error)) => {
            tracing::warn!(error, "a lifecycle hook could not be run");
            admin::hang_up()
        }
        None => admin::text(StatusCode::NOT_FOUND, "there is no such path\n"),
    }
}

fn only_get() -> Response {
    admin::text(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method\n")
}

/// The app's status and nothing else of what it said.
fn probed(finding: Finding) -> Response {
    match finding {
        Finding::Well(status) => admin::text(status, "well\n"),
        Finding::Ill(status, reason) => {
            // It may quote the app: that is for who may read logs, and not for whoever reaches the port.
            tracing::debug!(%status, reason, "a probe found the app ill");
            admin::text(status, "ill\n")
        }
        Finding::Unknown => admin::text(StatusCode::NOT_FOUND, "there is no such probe\n"),
    }
}

/// The process's own figures. Written by the back thread alone.
#[derive(Debug)]
struct Process {
    cpu: Counter,
    memory: Gauge,
    series: Gauge,
}

impl Process {
    fn new(registry: &Arc<Registry>) -> Self {
        let writer = registry.writer();
        writer.gauge(&table::BUILD, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        Self {
            cpu: writer.counter(&table::CPU, &[]),
            memory: writer.gauge(&table::MEMORY, &[]),
            series: writer.gauge(&table::SERIES, &[]),
        }
    }

    fn measure(&self, registry: &Registry) {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike as _;
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            self.cpu.set(u64::try_from(micros).unwrap_or(0).saturating_mul(1000));
        }
        // Pages: total, resident, …
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let resident = pages
            .as_deref()
            .and_then(|pages| pages.split(' ').nth(1))
            .and_then(|pages| pages.parse::<f64>().ok());
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        if let (Some(resident), Some(page)) = (resident, page) {
            self.memory.set(resident * page as f64);
        }
        self.series.set(registry.series() as f64);
    }
}

#[cfg(test)]
mod tests;
