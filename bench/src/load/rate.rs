//! Requests at a fixed rate. A request that is late because those before it were slow counts from when it was to be
//! sent, or the slow ones would hide each other (coordinated omission).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{http, resolved};

/// Before the first request: every connection is open by then.
const HEAD_START: Duration = Duration::from_millis(200);

/// Sends, and gives the quantiles of latency in microseconds.
pub(super) fn run(server: &str, rate: u32, connections: u32, seconds: u32) -> Result<Value> {
    ensure!(rate > 0 && connections > 0 && seconds > 0, "nothing to send");
    let server = resolved(server)?;
    let clients: Vec<http::Client> = (0..connections)
        .map(|_| {
            let mut client = http::Client::dial(server)?;
            client.get(http::GET)?;
            Ok(client)
        })
        .collect::<Result<_>>()?;
    let began = Instant::now() + HEAD_START;
    let all = rate * seconds;
    let each = Duration::from_secs(1) / rate;
    let (mut latencies, mut failed) = (Vec::new(), 0_u64);
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(0..)
            .map(|(client, first)| {
                scope.spawn(move || one(client, began, each, (first..all).step_by(connections as usize)))
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok((took, errors)) => {
                    latencies.extend(took);
                    failed += errors;
                }
                Err(_) => failed += 1,
            }
        }
    });
    latencies.sort_unstable();
    let at = |share: f64| quantile(&latencies, share).as_secs_f64() * 1e6;
    Ok(json!({
        "done": latencies.len(), "failed": failed, "seconds": began.elapsed().as_secs_f64(),
        "p50": at(0.5), "p99": at(0.99), "p999": at(0.999),
    }))
}

fn one(
    mut client: http::Client,
    began: Instant,
    each: Duration,
    turns: impl Iterator<Item = u32>,
) -> (Vec<Duration>, u64) {
    let mut took = Vec::new();
    for turn in turns {
        let due = began + each * turn;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if client.get(http::GET).is_err() {
            return (took, 1);
        }
        took.push(due.elapsed());
    }
    (took, 0)
}

/// The smallest of sorted values that so large a share is not above (nearest rank).
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let sorted: Vec<Duration> = (1..=1000).map(Duration::from_micros).collect();
        assert_eq!(quantile(&sorted, 0.5), Duration::from_micros(500));
        assert_eq!(quantile(&sorted, 0.99), Duration::from_micros(990));
        assert_eq!(quantile(&sorted, 0.999), Duration::from_micros(999));
        assert_eq!(quantile(&sorted, 1.0), Duration::from_micros(1000));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
