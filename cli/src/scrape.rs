//! Asks the proxies of a mesh for their metrics, and adds up what they have counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use weft_local::api::Target;
use weft_local::client::Client;

use crate::http;
use crate::traffic::{Calls, Service, read};

/// The proxy's port for metrics.
const METRICS_PORT: u16 = 15020;
/// Proxies asked at once.
const AT_ONCE: usize = 16;

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
pub(crate) async fn traffic(client: &Client, status: &Value, window: Option<Duration>) -> Traffic {
    let pods = pods(status);
    let mut before = BTreeMap::new();
    if let Some(window) = window {
        before = ask_all(client, &pods).await;
        tokio::time::sleep(window).await;
    }
    let mut after = ask_all(client, &pods).await;
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
    traffic
}

/// The pods with a proxy that runs, and for how long: `namespace/name`, seconds.
pub(crate) fn pods(status: &Value) -> Vec<(String, f64)> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let list = status["pods"].as_array().map_or(&[][..], Vec::as_slice);
    let meshed = list.iter().filter(|pod| !pod["proxyPid"].is_null());
    let pods = meshed.filter_map(|pod| {
        let containers = pod["containers"].as_array()?;
        let proxy = containers.iter().find(|container| container["pid"] == pod["proxyPid"]);
        let age = proxy
            .and_then(|proxy| proxy["since"].as_f64())
            .map_or(0.0, |since| (now - since).max(0.0));
        Some((format!("{}/{}", pod["namespace"].as_str()?, pod["name"].as_str()?), age))
    });
    pods.collect()
}

async fn ask_all(client: &Client, pods: &[(String, f64)]) -> BTreeMap<String, Option<Counted>> {
    let asked = pods
        .iter()
        .map(|(pod, age)| async move { (pod.clone(), ask(client, pod, *age).await) });
    stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
}

/// `None`: it does not answer. It may have ended just now.
async fn ask(client: &Client, pod: &str, age: f64) -> Option<Counted> {
    let (namespace, name) = pod.split_once('/')?;
    let target = Target {
        namespace: namespace.to_owned(),
        pod: name.to_owned(),
        container: None,
    };
    let stream = client.dial(&target, METRICS_PORT).await.ok()?;
    let text = http::get(stream, "/metrics").await.ok()?;
    Some(Counted {
        calls: read(&text),
        at: Instant::now(),
        age,
    })
}
