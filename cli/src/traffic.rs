//! What Services get of traffic, from the metrics of the proxies that call them.
//!
//! In: texts of `/metrics`. Out: per Service the calls, how many of them succeeded, how many a second, and how long they
//! took. A call is one attempt at an endpoint, as the calling proxy counts them (docs/metrics.md); calls from outside of
//! the mesh are not among them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_model::reason::Reason;

/// The histograms of calls: HTTP's, and gRPC's.
const HTTP: &str = "http_client_request_duration_seconds";
const RPC: &str = "rpc_client_call_duration_seconds";
/// The statuses of gRPC that say that the server has failed, as OpenTelemetry sees it.
const RPC_FAILED: [&str; 6] = [
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

/// Namespace and name of a Service.
pub(crate) type Service = (String, String);

/// The calls to a Service that one proxy has counted, or several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calls {
    /// All of them.
    all: f64,
    /// Those that succeeded.
    ok: f64,
    /// Upper bounds in seconds, ascending, and the calls that took no longer.
    buckets: Vec<(f64, f64)>,
    /// A second; a sum over proxies, each by its own time.
    rate: f64,
}

/// The calls that a proxy has counted, by Service.
pub(crate) fn read(metrics: &str) -> BTreeMap<Service, Calls> {
    let mut found: BTreeMap<Service, Calls> = BTreeMap::new();
    for (name, labels, value) in metrics.lines().filter_map(sample) {
        let Some((metric, part)) = name.rsplit_once('_').filter(|(metric, _)| [HTTP, RPC].contains(metric)) else {
            continue;
        };
        let label = |name: &str| {
            labels
                .iter()
                .find(|(label, _)| *label == name)
                .map_or("", |(_, value)| value.as_str())
        };
        let service = label("destination_service");
        if service.is_empty() || label("direction") != "outbound" {
            continue;
        }
        let calls = found
            .entry((label("destination_namespace").to_owned(), service.to_owned()))
            .or_default();
        match part {
            "count" => {
                calls.all += value;
                let status = label(if metric == HTTP {
                    "http_response_status_code"
                } else {
                    "rpc_response_status_code"
                });
                // Nobody but the mesh answers so: no rule of the Service's routes is for the request.
                let unrouted = label("error_type") == Reason::NoRoute.code();
                if succeeded(metric == HTTP, status) && !unrouted {
                    calls.ok += value;
                }
            }
            "bucket" => {
                if let Some(bound) = bound(label("le")) {
                    calls.add_bucket(bound, value);
                }
            }
            _ => {}
        }
    }
    found
}

fn succeeded(http: bool, status: &str) -> bool {
    match http {
        true => status.parse().is_ok_and(|status: u16| status < 500),
        false => !status.is_empty() && !RPC_FAILED.contains(&status),
    }
}

fn bound(le: &str) -> Option<f64> {
    if le == "+Inf" {
        Some(f64::INFINITY)
    } else {
        le.parse().ok()
    }
}

impl Calls {
    fn add_bucket(&mut self, bound: f64, count: f64) {
        match self.buckets.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bound, count)),
        }
    }

    /// The calls since `before`, which took `seconds`. A proxy that has started again meanwhile has counted from 0.
    pub(crate) fn since(&self, before: Option<&Self>, seconds: f64) -> Self {
        let none = Self::default();
        let before = before.filter(|before| before.all <= self.all).unwrap_or(&none);
        let old = |bound: f64| {
            let found = before.buckets.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
            found.map_or(0.0, |(_, count)| *count)
        };
        let all = self.all - before.all;
        Self {
            all,
            ok: self.ok - before.ok,
            buckets: self
                .buckets
                .iter()
                .map(|(bound, count)| (*bound, count - old(*bound)))
                .collect(),
            rate: if seconds > 0.0 { all / seconds } else { 0.0 },
        }
    }

    /// Adds what another proxy has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.ok += other.ok;
        self.rate += other.rate;
        for (bound, count) in &other.buckets {
            self.add_bucket(*bound, *count);
        }
    }

    /// The time that this part of the calls did not exceed, in seconds: within a bucket as if its calls were spread evenly,
    /// as Prometheus does it. None without calls. [`f64::INFINITY`]: longer than the last bound.
    fn quantile(&self, part: f64) -> Option<f64> {
        let total = self
            .buckets
            .last()
            .map(|(_, count)| *count)
            .filter(|total| *total > 0.0)?;
        let rank = part * total;
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= rank {
                if bound.is_infinite() {
                    return Some(f64::INFINITY);
                }
                let share = if *count > counted {
                    (rank - counted) / (count - counted)
                } else {
                    0.0
                };
                return Some(below + (bound - below) * share);
            }
            (below, counted) = (*bound, *count);
        }
        None
    }

    /// As `weft status -o json` has it. Null: there were no calls, or they took longer than the last bound.
    pub(crate) fn json(&self, (namespace, name): &Service) -> Value {
        let finite = |part| self.quantile(part).filter(|seconds| seconds.is_finite());
        let success = (self.all > 0.0).then(|| self.ok / self.all);
        json!({
            "namespace": namespace, "name": name, "calls": self.all, "successRate": success,
            "callsPerSecond": self.rate, "p50Seconds": finite(0.5), "p99Seconds": finite(0.99),
        })
    }

    /// The same for people: calls, success rate, calls a second, p50, p99.
    pub(crate) fn cells(&self) -> [String; 5] {
        let success = if self.all > 0.0 {
            format!("{:.2} %", floor(100.0 * self.ok / self.all))
        } else {
            String::new()
        };
        let rate = format!("{:.1}", self.rate);
        [
            format!("{:.0}", self.all),
            success,
            rate,
            self.time(0.5),
            self.time(0.99),
        ]
    }

    fn time(&self, part: f64) -> String {
        let last = self
            .buckets
            .iter()
            .rev()
            .find(|(bound, _)| bound.is_finite())
            .map_or(0.0, |(bound, _)| *bound);
        match self.quantile(part) {
            None => String::new(),
            Some(seconds) if seconds.is_infinite() => format!("over {last} s"),
            Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
            Some(seconds) => format!("{seconds:.2} s"),
        }
    }
}

/// One failure in a million is not 100 %.
fn floor(percent: f64) -> f64 {
    (percent * 100.0).floor() / 100.0
}

/// A label and its value.
type Label<'a> = (&'a str, String);

/// A line of Prometheus' text format: name, labels, value. None: a comment, or nothing that we print.
fn sample(line: &str) -> Option<(&str, Vec<Label<'_>>, f64)> {
    let (name, rest) = line.split_once('{')?;
    let (mut labels, mut rest) = (Vec::new(), rest);
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(value) = rest.strip_prefix('}') {
            let value = value.split_whitespace().next()?.parse().ok()?;
            return Some((name, labels, value));
        }
        let (label, quoted) = rest.split_once("=\"")?;
        let (value, after) = unquoted(quoted)?;
        labels.push((label, value));
        rest = after;
    }
}

/// A quoted text to its end, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(part: &str, status: &str, more: &str, value: u32) -> String {
        format!(
            "{HTTP}_{part}{{direction=\"outbound\",destination_namespace=\"shop\",destination_service=\"reviews\",\
             http_response_status_code=\"{status}\"{more}}} {value}\n"
        )
    }

    fn reviews() -> Service {
        ("shop".to_owned(), "reviews".to_owned())
    }

    fn calls(buckets: &[(f64, f64)]) -> Calls {
        let all = buckets.last().unwrap().1;
        Calls {
            all,
            ok: all,
            buckets: buckets.to_vec(),
            rate: 0.0,
        }
    }

    #[test]
    fn only_answers_below_500_and_the_callers_grpc_statuses_are_successes() {
        let text = [
            line("count", "200", "", 90),
            line("count", "404", ",error_type=\"404\"", 5),
            line("count", "503", "", 2),
            line("count", "404", ",error_type=\"no-route\"", 1),
        ]
        .concat()
            + &line("count", "", "", 2);
        let found = read(&text);
        assert_eq!((found[&reviews()].all, found[&reviews()].ok), (100.0, 95.0));
        assert!(succeeded(false, "NOT_FOUND") && !succeeded(false, "UNAVAILABLE") && !succeeded(false, ""));
    }

    #[test]
    fn what_a_pod_serves_and_what_goes_to_no_service_is_left_out() {
        let text = line("count", "200", "", 1).replace("outbound", "inbound")
            + &line("count", "200", "", 1).replace("\"reviews\"", "\"\"")
            + "# HELP x y\nweft_refusals_total{reason=\"x\"} 4\nplain 1\n";
        assert!(read(&text).is_empty());
    }

    #[test]
    fn series_of_a_service_add_up_bucket_by_bucket() {
        let text = line("bucket", "200", ",le=\"0.005\"", 4)
            + &line("bucket", "200", ",le=\"+Inf\"", 5)
            + &line("bucket", "503", ",le=\"0.005\"", 0)
            + &line("bucket", "503", ",le=\"+Inf\"", 1);
        assert_eq!(read(&text)[&reviews()].buckets, [(0.005, 4.0), (f64::INFINITY, 6.0)]);
    }

    #[test]
    fn a_quantile_lies_within_its_bucket_as_prometheus_says() {
        let calls = calls(&[(0.1, 10.0), (0.2, 30.0), (0.5, 40.0), (f64::INFINITY, 40.0)]);
        // histogram_quantile(0.5, …): rank 20 of 40 is half of the second bucket.
        assert!((calls.quantile(0.5).unwrap() - 0.15).abs() < 1e-12);
        assert!((calls.quantile(0.25).unwrap() - 0.1).abs() < 1e-12);
        assert!((calls.quantile(0.99).unwrap() - (0.2 + 0.3 * 9.6 / 10.0)).abs() < 1e-12);
        assert_eq!(Calls::default().quantile(0.5), None);
    }

    #[test]
    fn what_took_longer_than_the_last_bound_is_said_so() {
        let calls = calls(&[(0.1, 1.0), (10.0, 2.0), (f64::INFINITY, 100.0)]);
        assert_eq!(calls.quantile(0.5), Some(f64::INFINITY));
        assert_eq!(calls.time(0.5), "over 10 s");
        assert_eq!(calls.json(&reviews())["p50Seconds"], Value::Null);
    }

    #[test]
    fn a_window_is_the_difference_and_a_proxy_that_started_again_begins_at_nothing() {
        let before = calls(&[(0.1, 10.0), (f64::INFINITY, 10.0)]);
        let after = calls(&[(0.1, 14.0), (f64::INFINITY, 20.0)]);
        let window = after.since(Some(&before), 2.0);
        assert_eq!(window.buckets, [(0.1, 4.0), (f64::INFINITY, 10.0)]);
        assert_eq!((window.all, window.rate), (10.0, 5.0));
        assert_eq!(before.since(Some(&after), 2.0).all, 10.0);
        let mut sum = window.clone();
        sum.add(&window);
        assert_eq!((sum.all, sum.rate, sum.buckets[0].1), (20.0, 10.0, 8.0));
    }

    #[test]
    fn one_failure_in_a_million_is_not_all_well() {
        let calls = Calls {
            all: 1e6,
            ok: 1e6 - 1.0,
            ..Calls::default()
        };
        assert_eq!(calls.cells()[1], "99.99 %");
    }

    #[test]
    fn labels_are_read_with_their_quotes() {
        let (name, labels, value) = sample(r#"m_count{a="x\"y\\z",b=""} 3 123"#).unwrap();
        assert_eq!((name, value), ("m_count", 3.0));
        assert_eq!(labels, [("a", "x\"y\\z".to_owned()), ("b", String::new())]);
        assert!(sample("m{a=\"never ends").is_none() && sample("m 1").is_none());
    }
}
