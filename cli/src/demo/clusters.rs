//! The walk through two clusters: each step does something as a user would, and holds what it saw against what it expected.
//!
//! The caller is in the west. Both clusters have reviews; web is in the east alone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Step;
use super::manifests::{EAST, WEB_EXPORT, WEST};
use super::mesh::{Mesh, program};
use super::steps::{PATIENCE, POLL, failures, number, visit};

const LINKED: &str = "two clusters linked by two documents";
const BOTH: &str = "a Service that both clusters have";
const FAILOVER: &str = "failover to the other cluster and back";
const ONLY: &str = "a Service that only the other cluster has";
const CUT: &str = "the link cut, and healed";

/// The steps' names, in order.
pub(super) const TITLES: [&str; 5] = [LINKED, BOTH, FAILOVER, ONLY, CUT];

/// What visitors ask for, by the names of one cluster and of both.
const REVIEWS: &str = "http://reviews/reviews/1";
const REVIEWS_OF_ALL: &str = "http://reviews.shop.svc.clusterset.local/reviews/1";
const WEB: &str = "http://web/products/1";
const WEB_OF_ALL: &str = "http://web.shop.svc.clusterset.local/products/1";
const CALLS: u64 = 100;

/// The clusters, with their manifests. `name`: the demo's.
pub(super) fn meshes(name: &str) -> [(String, &'static [(&'static str, &'static str)]); 2] {
    [(format!("{name}-west"), WEST), (format!("{name}-east"), EAST)]
}

/// Runs the step of this name.
pub(super) async fn run(title: &'static str, west: &Mesh, east: &Mesh) -> Result<Step> {
    match title {
        LINKED => linked(west, east).await,
        BOTH => both(west, east).await,
        FAILOVER => failover(west, east).await,
        ONLY => only(west, east).await,
        _ => cut(west, east).await,
    }
}

async fn linked(west: &Mesh, east: &Mesh) -> Result<Step> {
    for (here, there) in [(west, east), (east, west)] {
        let export = ["cluster", "export-peer", "--imports", "shop", "--name", there.name()];
        here.write("peer.yaml", &program(&export).await?)?;
    }
    let began = Instant::now();
    for mesh in [west, east] {
        let check = ["cluster", "check", "--name", mesh.name()];
        let mut said = program(&check).await;
        while said.is_err() && began.elapsed() < PATIENCE {
            sleep(POLL).await;
            said = program(&check).await;
        }
        said?;
        until(mesh, "take what the other one shares", |status| {
            is_imported(status, "reviews")
        })
        .await?;
    }
    let took = began.elapsed().as_secs_f64();
    let domains = [trust_domain(west).await?, trust_domain(east).await?];
    Ok(Step {
        name: LINKED,
        did: "gave each cluster what `weft cluster export-peer` prints of the other: a name, addresses, and its root's certificate"
            .to_owned(),
        expected: "`weft cluster check` is green on both sides, and each keeps a root and a trust domain of its own".to_owned(),
        saw: format!("both green {took:.1} s after the second document; {} and {}", domains[0], domains[1]),
        ok: domains[0] != domains[1],
        drawing: vec![],
    })
}

async fn trust_domain(mesh: &Mesh) -> Result<String> {
    let status = mesh.status().await?;
    Ok(status["trustDomain"].as_str().unwrap_or_default().to_owned())
}

async fn both(west: &Mesh, east: &Mesh) -> Result<Step> {
    let mut saw = Vec::new();
    let mut ok = true;
    for (name, url) in [
        ("reviews", REVIEWS),
        ("reviews.shop.svc.clusterset.local", REVIEWS_OF_ALL),
    ] {
        let tally = visit(west, url, &["--count", &CALLS.to_string()]).await?;
        let by = answered(&tally, west, east).await?;
        ok &= by == "west" && number(&tally["ok"]) == CALLS;
        saw.push(format!(
            "{name}: {} from the {by}{}",
            number(&tally["ok"]),
            failures(&tally)
        ));
    }
    Ok(Step {
        name: BOTH,
        did: format!("visitor, in the west, called reviews {CALLS} times by either of its names"),
        expected: format!("{CALLS} answers each, from the west: its own pods come first, the east's stand behind them"),
        saw: saw.join("; "),
        ok,
        drawing: vec![],
    })
}

async fn failover(west: &Mesh, east: &Mesh) -> Result<Step> {
    let load = visit(
        west,
        REVIEWS_OF_ALL,
        &["--rate", "100", "--count", "100000", "--seconds", "9"],
    );
    let change = async {
        sleep(Duration::from_secs(1)).await;
        west.edit("shop.yaml", "replicas: ", "replicas: 0 # was ")?;
        until(west, "lose its reviews", |status| ready(status, "reviews-") == Some(0)).await?;
        let lost = visit(west, REVIEWS, &["--count", &CALLS.to_string()]).await?;
        let (lost, who) = (answered(&lost, west, east).await?, identities(west).await?);
        west.edit("shop.yaml", "replicas: 0 # was ", "replicas: ")?;
        until(west, "have its reviews again", |status| {
            ready(status, "reviews-") == Some(2)
        })
        .await?;
        anyhow::Ok((lost, who))
    };
    let (load, change) = tokio::join!(load, change);
    let (load, (lost, (client, server))) = (load?, change?);
    let back = visit(west, REVIEWS, &["--count", &CALLS.to_string()]).await?;
    let back = answered(&back, west, east).await?;
    let (calls, ok) = (number(&load["calls"]), number(&load["ok"]));
    let across = client.contains(west.name()) && server.contains(east.name());
    Ok(Step {
        name: FAILOVER,
        did: "took the west's reviews away and gave them back, under 100 calls/s from the west".to_owned(),
        expected: "the east answers meanwhile, by mutual TLS from pod to pod through its gateway; no failed call"
            .to_owned(),
        saw: format!(
            "{lost}, then {back}; {client} called, {server} answered; {} of {calls} calls failed{}",
            calls - ok,
            failures(&load)
        ),
        ok: lost == "east" && back == "west" && across && calls == ok && calls > 0,
        drawing: vec![],
    })
}

/// Who calls reviews, and who answers, as the app that answers sees it.
async fn identities(west: &Mesh) -> Result<(String, String)> {
    let headers = visit(west, "http://reviews/headers", &[]).await?;
    let cert = headers["last"]["body"]["x-forwarded-client-cert"].as_str();
    let cert = cert.unwrap_or("no certificate");
    let part = |name: &str| {
        cert.split(';')
            .find_map(|part| part.strip_prefix(name))
            .unwrap_or("nobody")
            .to_owned()
    };
    Ok((part("URI="), part("By=")))
}

async fn only(west: &Mesh, east: &Mesh) -> Result<Step> {
    let mut answers = Vec::new();
    for url in [WEB, WEB_OF_ALL] {
        answers.push(visit(west, url, &["--count", &CALLS.to_string()]).await?);
    }
    let (file, text) = WEB_EXPORT;
    east.remove(file)?;
    until(west, "give web up", |status| !is_imported(status, "web")).await?;
    let without = visit(west, WEB, &["--fresh"]).await?;
    east.write(file, text)?;
    until(west, "take web again", |status| is_imported(status, "web")).await?;
    let again = visit(west, WEB, &["--fresh", "--count", &CALLS.to_string()]).await?;
    answers.push(again);
    let by = answered(&answers[0], west, east).await?;
    let good: Vec<u64> = answers.iter().map(|tally| number(&tally["ok"])).collect();
    let gone = match number(&without["ok"]) {
        0 => without["failures"][0].as_str().unwrap_or_default().to_owned(),
        _ => "it still answered".to_owned(),
    };
    Ok(Step {
        name: ONLY,
        did: format!(
            "visitor called web {CALLS} times by either name; then the east took its ServiceExport away and gave it back"
        ),
        expected: "the east's web answers as if it were here; without the export there is no such Service".to_owned(),
        saw: format!(
            "{} and {} from the {by}; then: {gone}; then {} again{}",
            good[0],
            good[1],
            good[2],
            answers.iter().map(failures).collect::<String>()
        ),
        ok: good.iter().all(|good| *good == CALLS) && by == "east" && number(&without["ok"]) == 0,
        drawing: vec![],
    })
}

async fn cut(west: &Mesh, east: &Mesh) -> Result<Step> {
    let load = visit(west, REVIEWS, &["--rate", "100", "--count", "100000", "--seconds", "9"]);
    let change = async {
        sleep(Duration::from_secs(1)).await;
        program(&["link", "cut", west.name(), east.name()]).await?;
        until(west, "notice", |status| state(status) == "Stale").await?;
        let kept = is_imported(&west.status().await?, "web");
        program(&["link", "heal", west.name(), east.name()]).await?;
        let began = Instant::now();
        until(west, "hear the other one again", |status| state(status) == "Connected").await?;
        anyhow::Ok((kept, began.elapsed()))
    };
    let (load, change) = tokio::join!(load, change);
    let (load, (kept, healed)) = (load?, change?);
    let after = visit(west, WEB, &["--count", &CALLS.to_string()]).await?;
    let (calls, ok, across) = (number(&load["calls"]), number(&load["ok"]), number(&after["ok"]));
    Ok(Step {
        name: CUT,
        did: "cut the link (`weft link cut`) until the west called it stale, and healed it, under 100 calls/s"
            .to_owned(),
        expected:
            "no failed call in the west; what the east shares is kept, marked stale, and works when the link is healed"
                .to_owned(),
        saw: format!(
            "{} of {calls} calls failed{}; web was {}; connected {:.1} s after the healing, {across} of {CALLS} calls of web answered{}",
            calls - ok,
            failures(&load),
            if kept { "kept" } else { "gone" },
            healed.as_secs_f64(),
            failures(&after)
        ),
        ok: kept && calls == ok && calls > 0 && across == CALLS,
        drawing: vec![],
    })
}

/// Waits until a cluster's status is so.
async fn until(mesh: &Mesh, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if wanted(&mesh.status().await?) {
            return Ok(());
        }
        sleep(POLL).await;
    }
    bail!("{} did not {what} within {PATIENCE:?}", mesh.name())
}

fn list<'a>(status: &'a Value, field: &str) -> &'a [Value] {
    status[field].as_array().map_or(&[], Vec::as_slice)
}

fn is_imported(status: &Value, service: &str) -> bool {
    list(status, "imports")
        .iter()
        .any(|import| import["name"] == service && import["ready"] == true)
}

/// How the link to the other cluster is.
fn state(status: &Value) -> &str {
    status["peers"][0]["link"]["state"].as_str().unwrap_or_default()
}

/// How many pods of this beginning there are. `None`: one of them is not ready.
fn ready(status: &Value, prefix: &str) -> Option<usize> {
    let is_one = |pod: &&Value| pod["name"].as_str().is_some_and(|name| name.starts_with(prefix));
    let mut pods = list(status, "pods").iter().filter(is_one);
    pods.try_fold(0, |count, pod| (pod["ready"] == true).then_some(count + 1))
}

/// The clusters of the pods that answered: `west`, or `east and west`.
async fn answered(tally: &Value, west: &Mesh, east: &Mesh) -> Result<String> {
    let statuses = [("west", west.status().await?), ("east", east.status().await?)];
    let of = |pod: &String| {
        let runs = |status: &Value| list(status, "pods").iter().any(|one| one["name"] == *pod);
        statuses
            .iter()
            .find(|(_, status)| runs(status))
            .map_or("?", |(place, _)| *place)
    };
    let pods = tally["pods"].as_object().into_iter().flatten().map(|(pod, _)| of(pod));
    let places: BTreeSet<&str> = pods.collect();
    Ok(match places.is_empty() {
        true => "nowhere".to_owned(),
        false => places.into_iter().collect::<Vec<_>>().join(" and "),
    })
}
