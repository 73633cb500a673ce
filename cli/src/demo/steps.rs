//! The steps: each does something as a user would, and holds what it saw against what it expected.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::collector::Collector;
use super::jaeger::Jaeger;
use super::mesh::{Mesh, region_of};
use super::{Step, tree};

const MUTUAL_TLS: &str = "mutual TLS with both identities";
const SPLIT: &str = "a 90/10 split by version";
const PINNED: &str = "a header that pins version 2";
const REGION: &str = "a region preferred, then lost, and back";
const STRICT: &str = "plaintext from outside the mesh";
const HEADLESS: &str = "the control plane killed";
const TRACE: &str = "the trace of one request";

/// The step beside the others, where Jaeger runs.
pub(super) const JAEGER: &str = "the trace of one request in Jaeger";

/// The steps' names, in order.
pub(super) const TITLES: [&str; 7] = [MUTUAL_TLS, SPLIT, PINNED, REGION, STRICT, HEADLESS, TRACE];

/// What visitors ask for.
const REVIEWS: &str = "http://reviews/reviews/1";
const PRODUCT: &str = "http://web/products/1";
const CALLS: u32 = 2_000;
/// Percentage points that 2,000 calls may lie beside 90: chance alone goes farther once in 150,000 demos.
const SPLIT_MARGIN: f64 = 3.0;
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Runs the step of this name.
pub(super) async fn run(title: &'static str, mesh: &Mesh, collector: &Collector) -> Result<Step> {
    match title {
        MUTUAL_TLS => mutual_tls(mesh).await,
        SPLIT => split(mesh).await,
        PINNED => pinned(mesh).await,
        REGION => region(mesh).await,
        STRICT => strict(mesh).await,
        HEADLESS => headless(mesh).await,
        _ => trace(mesh, collector).await,
    }
}

/// One way of calling: the address and the visitor's options.
pub(super) async fn visit(mesh: &Mesh, url: &str, options: &[&str]) -> Result<Value> {
    mesh.exec("shop", "visitor", &[&["visitor", url], options].concat())
        .await
}

async fn mutual_tls(mesh: &Mesh) -> Result<Step> {
    let headers = visit(mesh, "http://reviews/headers", &[]).await?;
    let cert = headers["last"]["body"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or("no certificate")
        .to_owned();
    let part = |name: &str| {
        cert.split(';')
            .find_map(|part| part.strip_prefix(name))
            .unwrap_or("nobody")
            .to_owned()
    };
    let (server, client) = (part("By="), part("URI="));
    Ok(Step {
        name: MUTUAL_TLS,
        did: "visitor asked reviews for the headers that it got".to_owned(),
        expected: "both sides proved who they are: …/sa/visitor called, …/sa/reviews answered".to_owned(),
        saw: format!("{client} called, {server} answered"),
        ok: client.ends_with("/ns/shop/sa/visitor") && server.ends_with("/ns/shop/sa/reviews"),
        drawing: vec![],
    })
}

async fn split(mesh: &Mesh) -> Result<Step> {
    let count = CALLS.to_string();
    let tally = visit(mesh, REVIEWS, &["--count", &count]).await?;
    let share = 100.0 * number(&tally["versions"]["v1"]) as f64 / f64::from(CALLS);
    Ok(Step {
        name: SPLIT,
        did: format!("visitor called reviews {CALLS} times; an HTTPRoute weighs version 1 with 90, version 2 with 10"),
        expected: format!("{CALLS} answers, 90 ± {SPLIT_MARGIN} % of them from version 1"),
        saw: format!(
            "{} answers, {share:.1} % from version 1{}",
            number(&tally["ok"]),
            failures(&tally)
        ),
        ok: number(&tally["ok"]) == u64::from(CALLS) && (share - 90.0).abs() <= SPLIT_MARGIN,
        drawing: vec![],
    })
}

async fn pinned(mesh: &Mesh) -> Result<Step> {
    let tally = visit(mesh, REVIEWS, &["--count", "200", "-H", "x-canary: 1"]).await?;
    Ok(Step {
        name: PINNED,
        did: "visitor called reviews 200 times with `x-canary: 1`".to_owned(),
        expected: "200 answers, all from version 2".to_owned(),
        saw: format!(
            "{} answers, {} from version 2{}",
            number(&tally["ok"]),
            number(&tally["versions"]["v2"]),
            failures(&tally)
        ),
        ok: number(&tally["ok"]) == 200 && number(&tally["versions"]["v2"]) == 200,
        drawing: vec![],
    })
}

async fn region(mesh: &Mesh) -> Result<Step> {
    let before = regions(mesh, &visit(mesh, REVIEWS, &["--count", "100"]).await?).await?;
    // Load for as long as the region goes and comes back.
    let load = visit(mesh, REVIEWS, &["--rate", "100", "--count", "100000", "--seconds", "9"]);
    let change = async {
        sleep(Duration::from_secs(1)).await;
        mesh.edit("reviews.yaml", "replicas: ", "replicas: 0 # was ")?;
        gone(mesh, true).await?;
        let lost = regions(mesh, &visit(mesh, REVIEWS, &["--count", "100"]).await?).await?;
        mesh.edit("reviews.yaml", "replicas: 0 # was ", "replicas: ")?;
        gone(mesh, false).await?;
        anyhow::Ok(lost)
    };
    let (load, lost) = tokio::join!(load, change);
    let (load, lost) = (load?, lost?);
    let after = regions(mesh, &visit(mesh, REVIEWS, &["--count", "100"]).await?).await?;
    let (calls, ok) = (number(&load["calls"]), number(&load["ok"]));
    Ok(Step {
        name: REGION,
        did: "took all reviews pods of the west away and gave them back, under 100 calls/s from the west".to_owned(),
        expected: "west, then east, then west; no failed call".to_owned(),
        saw: format!(
            "{before}, then {lost}, then {after}; {} of {calls} calls failed{}",
            calls - ok,
            failures(&load)
        ),
        ok: before == "west" && lost == "east" && after == "west" && calls == ok && calls > 0,
        drawing: vec![],
    })
}

/// Waits until the west has no reviews pods, or all of them, ready.
async fn gone(mesh: &Mesh, gone: bool) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let status = mesh.status().await?;
        let pods = status["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
        let west: Vec<_> = pods
            .iter()
            .filter(|p| p["region"] == "west" && p["name"].as_str().is_some_and(|name| name.starts_with("reviews-")))
            .collect();
        if gone && west.is_empty() || !gone && west.len() == 3 && west.iter().all(|pod| pod["ready"] == true) {
            return Ok(());
        }
        sleep(POLL).await;
    }
    anyhow::bail!(
        "the pods of the west did not {} within {PATIENCE:?}",
        if gone { "go" } else { "come back" }
    )
}

/// The regions of the pods that answered: `west`, or `east and west`.
async fn regions(mesh: &Mesh, tally: &Value) -> Result<String> {
    let status = mesh.status().await?;
    let pods = tally["pods"].as_object().context("no pods in the tally")?;
    let regions: std::collections::BTreeSet<&str> = pods.keys().map(|pod| region_of(&status, pod)).collect();
    Ok(regions.into_iter().collect::<Vec<_>>().join(" and "))
}

async fn strict(mesh: &Mesh) -> Result<Step> {
    let tally = mesh
        .exec("street", "stranger", &["visitor", "http://reviews.shop/reviews/1"])
        .await?;
    let status = tally["last"]["status"].as_u64().unwrap_or(0);
    let why = tally["failures"][0].as_str().unwrap_or_default().to_owned();
    Ok(Step {
        name: STRICT,
        did: "stranger, a pod without a sidecar, called reviews in the strict namespace".to_owned(),
        expected: "403, and Proxy-Status names the reason plaintext-refused".to_owned(),
        saw: format!("{status}, {why}"),
        ok: status == 403 && why.contains("plaintext-refused"),
        drawing: vec![],
    })
}

async fn headless(mesh: &Mesh) -> Result<Step> {
    let status = mesh.status().await?;
    let old = control_pid(&status).context("weft status names no pid of the control plane")?;
    let load = visit(mesh, PRODUCT, &["--rate", "100", "--count", "100000", "--seconds", "4"]);
    let killed = async {
        sleep(Duration::from_secs(1)).await;
        kill(Pid::from_raw(old), Signal::SIGKILL).context("killing the control plane")?;
        // A program that starts now makes a new connection to a service that its proxy knows.
        visit(mesh, REVIEWS, &["--count", "50"]).await
    };
    let (load, new) = tokio::join!(load, killed);
    let (load, new) = (load?, new?);
    let (calls, ok, fresh) = (number(&load["calls"]), number(&load["ok"]), number(&new["ok"]));
    Ok(Step {
        name: HEADLESS,
        did: format!("killed the control plane (pid {old}) with -9 under 100 calls/s through three pods"),
        expected: "no failed call, and 50 more over new connections succeed".to_owned(),
        saw: format!(
            "{} of {calls} calls failed, {fresh} of 50 new ones succeeded{}",
            calls - ok,
            failures(&load)
        ),
        ok: calls == ok && calls > 0 && fresh == 50,
        drawing: vec![],
    })
}

fn control_pid(status: &Value) -> Option<i32> {
    status["control"]["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
}

/// An id for a trace, of this moment.
fn trace_id() -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(format!("{:032x}", now.as_nanos()))
}

/// Out of visitor, in and out of web, in and out of reviews, into ratings.
const SPANS: usize = 6;

async fn trace(mesh: &Mesh, collector: &Collector) -> Result<Step> {
    let id = trace_id()?;
    let parent = format!("traceparent: 00-{id}-00f067aa0ba902b7-01");
    let answered = visit(mesh, PRODUCT, &["-H", &parent]).await?;
    let began = Instant::now();
    let mut spans = collector.trace(&id);
    while spans.len() < SPANS && began.elapsed() < PATIENCE {
        sleep(POLL).await;
        spans = collector.trace(&id);
    }
    let depth = tree::depth(&spans);
    Ok(Step {
        name: TRACE,
        did: "visitor called web, which called reviews over HTTP, which called ratings over gRPC".to_owned(),
        expected: format!("{SPANS} spans in one line: out of one proxy, into the next, over three hops"),
        saw: format!("{} spans, {depth} deep{}", spans.len(), failures(&answered)),
        ok: number(&answered["ok"]) == 1 && spans.len() == SPANS && depth == SPANS,
        drawing: tree::draw(&spans),
    })
}

/// One more trace, as Jaeger's API has it, with the link to it.
pub(super) async fn in_jaeger(mesh: &Mesh, jaeger: &Jaeger) -> Result<Step> {
    let id = trace_id()?;
    let parent = format!("traceparent: 00-{id}-00f067aa0ba902b7-01");
    let answered = visit(mesh, PRODUCT, &["-H", &parent]).await?;
    let began = Instant::now();
    // A trace that has not come yet is an error to Jaeger.
    let mut seen = jaeger.spans(&id).await.unwrap_or_default();
    while seen.0 < SPANS && began.elapsed() < PATIENCE {
        sleep(POLL).await;
        seen = jaeger.spans(&id).await.unwrap_or_default();
    }
    let (spans, children) = seen;
    Ok(Step {
        name: JAEGER,
        did: "visitor called web once more, and Jaeger's API was asked for the trace".to_owned(),
        expected: format!("{SPANS} spans, all but the first with their parent among them"),
        saw: format!(
            "{spans} spans, {children} with their parent{}: {}",
            failures(&answered),
            jaeger.link(&id)
        ),
        ok: number(&answered["ok"]) == 1 && spans == SPANS && children == SPANS - 1,
        drawing: vec![],
    })
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The first failure's words, if there are any.
pub(super) fn failures(tally: &Value) -> String {
    tally["failures"][0]
        .as_str()
        .map(|why| format!(" (first failure: {why})"))
        .unwrap_or_default()
}
