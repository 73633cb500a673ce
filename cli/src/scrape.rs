//! Asks the proxies of a mesh, all within a time; for their metrics, and adds up what they have counted.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use weft_injector::sidecar::PROXY;

use crate::mesh::Mesh;
use crate::traffic::{Calls, Service, read};

/// The proxy's port for metrics.
const METRICS_PORT: u16 = 15020;
/// Says how long a proxy's certificate lasts. It has no labels.
const EXPIRY: &str = "weft_leaf_expiry_seconds ";
/// Proxies asked at once.
const AT_ONCE: usize = 16;
/// A proxy that does not answer in this time is not waited for: what the others say is worth more.
const NEAR: Duration = Duration::from_secs(3);
/// The same of one on a cluster, to which the API server has to make a way first.
const FAR: Duration = Duration::from_secs(10);
/// All of them have this time.
const ALL: Duration = Duration::from_secs(30);
/// As many pods are named in one line.
const NAMED: usize = 5;

/// What the proxies of a mesh have counted.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// By Service.
    pub(crate) services: BTreeMap<Service, Calls>,
    /// Pods whose proxies did not answer.
    pub(crate) silent: Vec<String>,
}

/// What one proxy has counted, and when it was asked.
struct Counted {
    calls: BTreeMap<Service, Calls>,
    at: Instant,
    /// Seconds that it had been running.
    age: f64,
}

/// Asks the proxies of the pods in `status`: what they have counted since they started, or within `window` from now.
pub(crate) async fn traffic(mesh: &Mesh, status: &Value, window: Option<Duration>) -> Traffic {
    let pods = pods(status);
    let mut before = BTreeMap::new();
    if let Some(window) = window {
        before = ask_all(mesh, &pods).await;
        tokio::time::sleep(window).await;
    }
    let mut after = ask_all(mesh, &pods).await;
    let mut traffic = Traffic::default();
    for (pod, _) in &pods {
        let Some(Some(now)) = after.remove(pod) else {
            traffic.silent.push(pod.clone());
            continue;
        };
        let before = before.get(pod).and_then(Option::as_ref);
        // One that only the second look found has counted from its start, which was within the window.
        let seconds = match (window, before) {
            (Some(_), Some(before)) => now.at.duration_since(before.at).as_secs_f64(),
            (Some(window), None) => window.as_secs_f64(),
            (None, _) => now.age,
        };
        for (service, calls) in now.calls {
            let old = before.and_then(|before| before.calls.get(&service));
            traffic
                .services
                .entry(service)
                .or_default()
                .add(&calls.since(old, seconds));
        }
    }
    traffic.silent.sort();
    traffic
}

/// How long the certificates of the proxies in `status` last, in seconds, by `namespace/name`; and the pods whose proxies did not
/// answer.
pub(crate) async fn expiries(mesh: &Mesh, status: &Value) -> (BTreeMap<String, f64>, Vec<String>) {
    let pods = pods(status);
    let answers = each(mesh, &pods, async |pod, _| expiry(&metrics(mesh, pod).await?)).await;
    let (mut left, mut silent) = (BTreeMap::new(), Vec::new());
    for (pod, answer) in answers {
        match answer {
            Some(seconds) => drop(left.insert(pod, seconds)),
            None => silent.push(pod),
        }
    }
    silent.sort();
    (left, silent)
}

/// Seconds that a proxy's certificate lasts, as its metrics say.
fn expiry(metrics: &str) -> Option<f64> {
    let mut values = metrics.lines().filter_map(|line| line.strip_prefix(EXPIRY));
    values.next()?.trim().parse().ok()
}

/// The pods with a proxy that runs, and for how long: `namespace/name`, seconds. Those that are ready come first: of the others
/// the node may be gone.
pub(crate) fn pods(status: &Value) -> Vec<(String, f64)> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let list = status["pods"].as_array().map_or(&[][..], Vec::as_slice);
    let mut pods: Vec<&Value> = list.iter().collect();
    pods.sort_by_key(|pod| pod["ready"] != true);
    let pods = pods.into_iter().filter_map(|pod| {
        let mut containers = pod["containers"].as_array()?.iter();
        let proxy = containers.find(|container| container["name"] == PROXY && container["state"] == "running")?;
        let age = proxy["since"].as_f64().map_or(0.0, |since| (now - since).max(0.0));
        Some((format!("{}/{}", pod["namespace"].as_str()?, pod["name"].as_str()?), age))
    });
    pods.collect()
}

/// Asks the proxies of these pods, some at once. `None`: no answer in the time that one has, or all have.
pub(crate) async fn each<T>(
    mesh: &Mesh,
    pods: &[(String, f64)],
    ask: impl AsyncFn(&str, f64) -> Option<T>,
) -> Vec<(String, Option<T>)> {
    let one = match mesh {
        Mesh::Local(_) => NEAR,
        Mesh::Cluster(_) => FAR,
    };
    within(pods, ask, one, ALL).await
}

/// Names for one line: of many the first, and how many more there are.
pub(crate) fn few(names: &[String]) -> String {
    match names.split_at_checked(NAMED) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

async fn within<T>(
    pods: &[(String, f64)],
    ask: impl AsyncFn(&str, f64) -> Option<T>,
    one: Duration,
    all: Duration,
) -> Vec<(String, Option<T>)> {
    let (ask, end) = (&ask, Instant::now() + all);
    let asked = pods.iter().map(|(pod, age)| async move {
        let now = Instant::now();
        let answer = match now < end {
            true => timeout_at(end.min(now + one), ask(pod, *age)).await.ok().flatten(),
            false => None,
        };
        (pod.clone(), answer)
    });
    stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
}

async fn ask_all(mesh: &Mesh, pods: &[(String, f64)]) -> BTreeMap<String, Option<Counted>> {
    let answers = each(mesh, pods, async |pod, age| ask(mesh, pod, age).await).await;
    answers.into_iter().collect()
}

/// `None`: it does not answer. It may have ended just now.
async fn ask(mesh: &Mesh, pod: &str, age: f64) -> Option<Counted> {
    Some(Counted {
        calls: read(&metrics(mesh, pod).await?),
        at: Instant::now(),
        age,
    })
}

async fn metrics(mesh: &Mesh, pod: &str) -> Option<String> {
    let (namespace, name) = pod.split_once('/')?;
    mesh.get(namespace, name, METRICS_PORT, "/metrics").await.ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn proxies_that_do_not_answer_keep_nobody_waiting_however_many_they_are() {
        let named = |name: &str| (format!("shop/{name}"), 0.0);
        let mut pods: Vec<(String, f64)> = (0..AT_ONCE * 100).map(|n| named(&n.to_string())).collect();
        pods.insert(0, named("well"));
        let ask = async |pod: &str, _| match pod {
            "shop/well" => Some(()),
            _ => std::future::pending().await,
        };
        let (one, all) = (Duration::from_millis(10), Duration::from_millis(40));
        let began = Instant::now();
        let answers = within(&pods, ask, one, all).await;
        // One after another they would take 1 s.
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        assert_eq!(answers.len(), pods.len());
        let well: Vec<&String> = answers
            .iter()
            .filter(|(_, answer)| answer.is_some())
            .map(|(pod, _)| pod)
            .collect();
        assert_eq!(well, ["shop/well"]);
    }

    #[test]
    fn of_many_names_the_first_are_told_and_how_many_more_there_are() {
        let names: Vec<String> = (1..=7).map(|n| format!("p{n}")).collect();
        assert_eq!(few(&names), "p1, p2, p3, p4, p5 and 2 more");
        assert_eq!(few(&names[..5]), "p1, p2, p3, p4, p5");
        assert_eq!(few(&[]), "");
    }

    #[test]
    fn pods_that_are_ready_are_asked_before_others() {
        let pod = |name: &str, ready: bool| {
            let containers = json!([{"name": PROXY, "state": "running"}]);
            json!({"namespace": "shop", "name": name, "ready": ready, "containers": containers})
        };
        let status = json!({"pods": [pod("a", false), pod("b", true), pod("c", true)]});
        let names: Vec<String> = pods(&status).into_iter().map(|(pod, _)| pod).collect();
        assert_eq!(names, ["shop/b", "shop/c", "shop/a"]);
    }

    #[test]
    fn how_long_a_certificate_lasts_stands_in_the_metrics() {
        let text = "# TYPE weft_leaf_expiry_seconds gauge\nweft_leaf_expiry_seconds 86279.9\nother 1\n";
        assert_eq!((expiry(text), expiry("other 1\n")), (Some(86279.9), None));
    }
}
