//! How soon a change in one cluster is known to callers in it and in the others, and what the control planes use for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::follow::{Follower, Told};
use super::world::{Cluster, PATIENCE, service_name};
use super::{Size, percentiles};
use crate::account;

/// How many clusters there are.
const CLUSTERS: u8 = 3;
const POLL: Duration = Duration::from_millis(100);
/// After the last change, somebody may still be told of it.
const SETTLE: Duration = Duration::from_secs(5);

/// Changes that somebody has yet to hear of: by cluster and Service.
#[derive(Default)]
struct Open {
    changes: BTreeMap<(String, String), Change>,
    /// Milliseconds until a caller of the same cluster was told.
    own: Vec<f64>,
    /// The same of callers of other clusters.
    across: Vec<f64>,
    /// Of how many changes somebody was not told before the next one of the same Service.
    late: usize,
}

struct Change {
    at: Instant,
    endpoints: usize,
    /// Clusters whose callers have yet to be told.
    deaf: Vec<String>,
}

impl Open {
    fn begin(&mut self, cluster: &str, service: String, endpoints: usize, all: &[Cluster]) {
        let change = Change {
            at: Instant::now(),
            endpoints,
            deaf: all.iter().map(|cluster| cluster.name.clone()).collect(),
        };
        let before = self.changes.insert((cluster.to_owned(), service), change);
        self.late += usize::from(before.is_some());
    }

    /// A caller of cluster `here` is told.
    fn told(&mut self, here: &str, told: Told) {
        for (cluster, endpoints) in told.endpoints {
            let of = (cluster, told.service.clone());
            let Some(change) = self.changes.get_mut(&of) else {
                continue;
            };
            let Some(at) = change.deaf.iter().position(|deaf| deaf == here) else {
                continue;
            };
            if change.endpoints != endpoints {
                continue;
            }
            change.deaf.remove(at);
            let took = told.at.saturating_duration_since(change.at).as_secs_f64() * 1e3;
            let list = if of.0 == here { &mut self.own } else { &mut self.across };
            list.push(took);
            if change.deaf.is_empty() {
                self.changes.remove(&of);
            }
        }
    }
}

/// Runs it.
///
/// # Errors
/// A control plane does not start, the clusters do not link, or a caller's stream ends.
pub fn run(size: Size, weft: &Path) -> Result<Value> {
    let clusters: Vec<Cluster> = (1..=CLUSTERS)
        .map(|number| Cluster::start(weft, number, size))
        .collect::<Result<_>>()?;
    for cluster in &clusters {
        cluster.roots()?;
    }
    let alone = resident(&clusters)?;
    let filled = link(&clusters, size)?;
    eprintln!("all is known everywhere after {filled:.1} s");
    let (mut open, control_planes) = measure(&clusters, size)?;
    let shown = |values: &mut [f64]| {
        let (p50, p99) = percentiles(values).context("nobody was told of any change")?;
        anyhow::Ok(json!({"p50Ms": p50, "p99Ms": p99, "maxMs": values.last(), "count": values.len()}))
    };
    Ok(json!({
        "clusters": CLUSTERS, "services": size.services, "endpoints": size.endpoints, "changesPerSecond": size.rate,
        "seconds": size.seconds, "secondsToFill": filled, "residentMiBBeforeLinks": alone,
        "ownCluster": shown(&mut open.own)?, "acrossTheLink": shown(&mut open.across)?,
        "late": open.late, "neverTold": open.changes.len(), "controlPlanes": control_planes,
    }))
}

fn resident(clusters: &[Cluster]) -> Result<Vec<f64>> {
    let of = |cluster: &Cluster| Ok(account::resident(cluster.pid())? as f64 / 1024.0);
    clusters.iter().map(of).collect()
}

/// Links all with all, and waits until each knows everything of the others. In: seconds.
fn link(clusters: &[Cluster], size: Size) -> Result<f64> {
    let began = Instant::now();
    for here in clusters {
        for there in clusters.iter().filter(|there| there.name != here.name) {
            here.link(there)?;
        }
    }
    let services = (clusters.len() - 1) * size.services;
    let all = (services, services * size.endpoints);
    for cluster in clusters {
        loop {
            match cluster.imported() {
                Ok(imported) if imported == all => break,
                _ if began.elapsed() < PATIENCE => thread::sleep(POLL),
                imported => bail!("{} has {imported:?} of {all:?}", cluster.name),
            }
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Changes, and what callers and control planes made of them.
fn measure(clusters: &[Cluster], size: Size) -> Result<(Open, Vec<Value>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let followers = runtime.block_on(followers(clusters, size))?;
    let open = Arc::new(Mutex::new(Open::default()));
    let (before, began) = (cpu(clusters)?, Instant::now());
    let end = began + Duration::from_secs(u64::from(size.seconds));
    let changed = thread::scope(|scope| {
        let changing = scope.spawn(|| change(clusters, size, end, &open));
        runtime.block_on(hear(followers, end + SETTLE, &open))?;
        changing.join().map_err(|_| anyhow!("the changes ended in a panic"))?
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut figures = Vec::new();
    for ((cluster, before), after) in clusters.iter().zip(before).zip(cpu(clusters)?) {
        let used = (after - before).as_secs_f64();
        figures.push(json!({
            "cpuOfOneCore": used / seconds, "cpuMsPerChange": used * 1e3 / f64::from(changed),
            "residentMiB": account::resident(cluster.pid())? as f64 / 1024.0,
        }));
    }
    let open = std::mem::take(&mut *open.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((open, figures))
}

fn cpu(clusters: &[Cluster]) -> Result<Vec<Duration>> {
    clusters.iter().map(|cluster| account::cpu(cluster.pid())).collect()
}

/// One caller in each cluster, that has been told everything there is.
async fn followers(clusters: &[Cluster], size: Size) -> Result<Vec<(String, Follower)>> {
    let mut followers = Vec::new();
    for cluster in clusters {
        let mut follower = Follower::open(cluster, size.services).await?;
        let mut whole = BTreeSet::new();
        while whole.len() < size.services {
            for told in timeout(PATIENCE, follower.next()).await?? {
                let all = |count: &(String, usize)| count.1 == size.endpoints;
                if told.endpoints.len() == clusters.len() && told.endpoints.iter().all(all) {
                    whole.insert(told.service);
                }
            }
        }
        followers.push((cluster.name.clone(), follower));
    }
    Ok(followers)
}

/// Makes changes at the rate until the end, and says how many: an endpoint of a Service goes, or comes back.
fn change(clusters: &[Cluster], size: Size, end: Instant, open: &Mutex<Open>) -> Result<u32> {
    let began = Instant::now();
    for number in 0.. {
        let due = began + Duration::from_secs(1) * number / size.rate;
        if due >= end {
            return Ok(number);
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (turn, at) = (number as usize / clusters.len(), number as usize % clusters.len());
        let (service, without) = (turn % size.services, 1 - turn / size.services % 2);
        let cluster = clusters.get(at).context("a cluster")?;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open.begin(&cluster.name, service_name(service), size.endpoints - without, clusters);
        drop(open);
        cluster.endpoints(service, without)?;
    }
    Ok(0)
}

/// Notes what each caller is told.
async fn hear(followers: Vec<(String, Follower)>, end: Instant, open: &Arc<Mutex<Open>>) -> Result<()> {
    let mut all = JoinSet::new();
    for (here, mut follower) in followers {
        let open = open.clone();
        all.spawn(async move {
            while let Ok(told) = timeout_at(end.into(), follower.next()).await {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                told?.into_iter().for_each(|told| open.told(&here, told));
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    Ok(())
}
