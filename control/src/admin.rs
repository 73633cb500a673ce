//! What people, probes and scrapers ask: `/status`, `/heard`, `/metrics`, `/ready`, `/live`. It only tells; nothing here changes
//! anything. `/status` shows the whole mesh, so it is for this machine (or pod) only: a workload elsewhere must not read
//! through it what is none of its business.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::json;
use weft_daemon::admin::{self, Admin, Response};
use weft_daemon::log::{self, Switch};
use weft_daemon::prometheus::Text;
use weft_daemon::ready::Ready;

use crate::authority::Issuer;
use crate::cluster::{self, Duties, Shown};
use crate::serve::desk::{COMPILE_BUCKETS, CompileTimes, Desk};
use crate::serve::metrics::Metrics;

/// Whoever waits for other imports asks again after so long.
const IMPORTS_WAIT: Duration = Duration::from_secs(20);

/// Where the answers come from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) desk: Desk,
    pub(crate) ready: Ready,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) times: Arc<CompileTimes>,
    pub(crate) issuer: Arc<Issuer>,
    /// The API server's objects, where they come from one.
    pub(crate) shown: Option<Arc<Shown>>,
    /// What is kept there.
    pub(crate) duties: Option<Duties>,
    pub(crate) log: Switch,
}

/// The routes.
pub(crate) fn routes(sources: &Sources) -> Admin {
    let (for_status, for_metrics, ready) = (sources.clone(), sources.clone(), sources.ready.clone());
    let (for_imports, for_heard) = (sources.clone(), sources.clone());
    Admin::new()
        .get("/live", |_| admin::text(StatusCode::OK, "live\n"))
        .get("/ready", move |_| ready.response())
        .get_async("/status", move |request| {
            let mesh_only = admin::query(&request, "view") == Some("mesh");
            status(for_status.clone(), admin::is_local(&request), mesh_only)
        })
        .get_async("/imports", move |request| {
            let known = admin::query(&request, "known").unwrap_or_default().to_owned();
            imports(for_imports.clone(), admin::is_local(&request), known)
        })
        .get_async("/heard", move |request| {
            let namespaces = admin::query(&request, "namespaces").unwrap_or_default().split(',');
            let namespaces = namespaces.map(str::to_owned).collect();
            heard(for_heard.clone(), admin::is_local(&request), namespaces)
        })
        .get_async("/metrics", move |_| metrics(for_metrics.clone()))
}

/// `mesh_only`: what the mesh is called, without its objects and proxies.
async fn status(sources: Sources, local: bool, mesh_only: bool) -> Response {
    if !local {
        return not_here();
    }
    match sources.desk.status().await {
        Ok(status) if mesh_only => {
            let (epoch, build, mesh) = (status.epoch, &status.build, &status.mesh);
            admin::json(StatusCode::OK, &json!({"epoch": epoch, "build": build, "mesh": mesh}))
        }
        Ok(mut status) => {
            status.source = sources.shown.as_deref().map(cluster::status);
            status.cluster = sources.duties.as_ref().map(Duties::status);
            admin::json(StatusCode::OK, &status)
        }
        Err(closed) => admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}\n")),
    }
}

/// What is imported, for whoever plays the API server: once it is another than what is known there, or after a while. Before
/// the peers were heard, what is not known yet must not look as if it were gone.
async fn imports(sources: Sources, local: bool, known: String) -> Response {
    if !local {
        return not_here();
    }
    if !sources.ready.is_ready() {
        return sources.ready.response();
    }
    match sources.desk.imports(&known, IMPORTS_WAIT).await {
        Ok(imports) => admin::json(StatusCode::OK, &imports),
        Err(closed) => admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}\n")),
    }
}

/// What other clusters export of some namespaces, for `weft route explain`.
async fn heard(sources: Sources, local: bool, namespaces: BTreeSet<String>) -> Response {
    if !local {
        return not_here();
    }
    match sources.desk.told(namespaces).await {
        Ok(heard) => admin::json(StatusCode::OK, &heard),
        Err(closed) => admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}\n")),
    }
}

fn not_here() -> Response {
    admin::text(
        StatusCode::FORBIDDEN,
        "only from this machine: by the unix socket, or from loopback\n",
    )
}

async fn metrics(sources: Sources) -> Response {
    let figures = match sources.desk.figures().await {
        Ok(figures) => figures,
        Err(closed) => return admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}\n")),
    };
    let mut text = Text::new();
    for (name, help, value) in [
        (
            "weft_control_proxies_connected",
            "Proxies with a discovery stream.",
            figures.connected,
        ),
        (
            "weft_control_resources",
            "Distinct resources that a proxy is subscribed to.",
            figures.resources,
        ),
        (
            "weft_control_subscriptions",
            "Subscriptions of proxies to resources.",
            figures.subscriptions,
        ),
        (
            "weft_control_resources_waiting",
            "Resources that wait to be sent, over all proxies.",
            figures.waiting,
        ),
        (
            "weft_control_resources_refused",
            "Versions that a proxy refused and has nothing better for.",
            figures.refused,
        ),
        (
            "weft_control_objects_not_accepted",
            "Objects that are not accepted.",
            figures.not_accepted,
        ),
        (
            "weft_control_problems",
            "Problems with objects and files.",
            figures.problems,
        ),
    ] {
        text.gauge(name, help).sample(&[], value);
    }
    text.gauge("weft_control_epoch", "The epoch of resource versions.")
        .sample(&[], figures.epoch);
    sources.metrics.write(&mut text);
    write_cluster(&mut text, &sources);
    write_compile_times(&mut text, &sources.times);
    write_expiries(&mut text, &sources.issuer);
    text.counter("weft_panics_total", "Panics that cost a task.")
        .sample(&[], log::panics());
    text.counter(
        "weft_log_lines_dropped_total",
        "Log lines dropped because stderr was too slow.",
    )
    .sample(&[], sources.log.dropped());
    text.response()
}

fn write_expiries(text: &mut Text, issuer: &Issuer) {
    let left = |end: SystemTime| end.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
    text.gauge("weft_leaf_expiry_seconds", "Seconds until the own certificate ends.")
        .sample(&[], left(issuer.credential().not_after()));
    text.gauge(
        "weft_authority_expiry_seconds",
        "Seconds until the certificate that issues all others ends.",
    )
    .sample(&[], left(issuer.authority().not_after()));
}

fn write_cluster(text: &mut Text, sources: &Sources) {
    if let Some(shown) = &sources.shown {
        cluster::write(shown, text);
    }
    if let Some(duties) = &sources.duties {
        duties.write(text);
    }
}

fn write_compile_times(text: &mut Text, times: &CompileTimes) {
    let read = |n: usize| times.buckets[n].load(Ordering::Relaxed);
    let buckets = COMPILE_BUCKETS.iter().enumerate().map(|(n, bound)| (*bound, read(n)));
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds since the start, for a sum of seconds"
    )]
    let sum = times.micros.load(Ordering::Relaxed) as f64 / 1e6;
    text.histogram(
        "weft_control_compile_duration_seconds",
        "Time from a change of objects to changed resources.",
    )
    .histogram_sample(&[], buckets, read(COMPILE_BUCKETS.len()), sum);
}
