//! `visitor`: calls an address again and again, and says what came back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::app;

/// Calls an address again and again, and prints what came back as one line of JSON. Without an address: waits to be ended.
#[derive(Debug, Parser)]
#[command(name = "visitor")]
struct Args {
    /// The address to call.
    url: Option<String>,
    /// How many calls.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Calls per second. 0: as fast as answers come, one after the other.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Stop after this many seconds, however many calls are left.
    #[arg(long)]
    seconds: Option<u64>,
    /// A header to send: `name: value`.
    #[arg(long = "header", short = 'H')]
    headers: Vec<String>,
    /// A new connection for each call, and the name looked up anew.
    #[arg(long)]
    fresh: bool,
    /// Calls that may be under way at once.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
}

/// What came back of all calls.
struct Tally {
    began: Instant,
    statuses: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    pods: BTreeMap<String, u64>,
    failures: Vec<String>,
    slowest: Duration,
    last: Value,
}

/// Runs the program.
pub fn main(args: Vec<OsString>) -> ExitCode {
    app::start(args, run)
}

async fn run(args: Args) -> Result<()> {
    let Some(url) = args.url.clone() else {
        return app::told_to_end().await;
    };
    ensure!(args.at_once > 0, "--at-once must be at least 1");
    let headers = parse_headers(&args.headers)?;
    let client = app::client();
    let end = args
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let pause = (args.rate > 0).then(|| Duration::from_secs(1) / args.rate);
    let mut ticks = tokio::time::interval(pause.unwrap_or(Duration::from_secs(1)));
    let mut tally = Tally::new();
    let mut calls = JoinSet::new();
    for _ in 0..args.count {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        if pause.is_some() {
            ticks.tick().await;
        }
        while calls.len() >= if pause.is_some() { args.at_once } else { 1 } {
            tally.take(calls.join_next().await);
        }
        let client = if args.fresh { app::client() } else { client.clone() };
        let (url, headers) = (url.clone(), headers.clone());
        calls.spawn(async move {
            let began = Instant::now();
            (app::get(&client, &url, &headers).await, began.elapsed())
        });
    }
    while !calls.is_empty() {
        tally.take(calls.join_next().await);
    }
    println!("{}", tally.json());
    Ok(())
}

type Called = (Result<(http::StatusCode, HeaderMap, bytes::Bytes)>, Duration);

impl Tally {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            statuses: BTreeMap::new(),
            versions: BTreeMap::new(),
            pods: BTreeMap::new(),
            failures: Vec::new(),
            slowest: Duration::ZERO,
            last: Value::Null,
        }
    }

    fn take(&mut self, called: Option<Result<Called, tokio::task::JoinError>>) {
        let Some(Ok((answer, took))) = called else {
            return;
        };
        self.slowest = self.slowest.max(took);
        let (status, headers, body) = match answer {
            Ok(answer) => answer,
            Err(error) => return self.fail("none", format!("{error:#}")),
        };
        let body = serde_json::from_slice::<Value>(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        if !status.is_success() {
            let why = headers
                .get("proxy-status")
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            self.fail(status.as_str(), json!({"proxy-status": why, "body": body}).to_string());
        } else {
            *self.statuses.entry(status.as_str().to_owned()).or_default() += 1;
        }
        // `web` wraps the answer of `reviews`; called directly it stands by itself.
        let reviews = body.get("reviews").unwrap_or(&body);
        for (field, counts) in [("version", &mut self.versions), ("pod", &mut self.pods)] {
            if let Some(value) = reviews.get(field).and_then(Value::as_str) {
                *counts.entry(value.to_owned()).or_default() += 1;
            }
        }
        self.last = json!({"status": status.as_u16(), "body": body});
    }

    fn fail(&mut self, status: &str, why: String) {
        *self.statuses.entry(status.to_owned()).or_default() += 1;
        // The first few tell the story.
        if self.failures.len() < 5 {
            let at = self.began.elapsed();
            self.failures.push(format!("after {at:.1?}: {why}"));
        }
    }

    fn json(&self) -> Value {
        json!({
            "calls": self.statuses.values().sum::<u64>(),
            "ok": self.statuses.iter().filter(|(status, _)| status.starts_with('2')).map(|(_, n)| n).sum::<u64>(),
            "statuses": self.statuses,
            "versions": self.versions,
            "pods": self.pods,
            "failures": self.failures,
            "slowest_ms": self.slowest.as_millis() as u64,
            "last": self.last,
        })
    }
}

fn parse_headers(lines: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("--header {line:?}: write `name: value`"))?;
        let name: HeaderName = name
            .trim()
            .parse()
            .with_context(|| format!("--header {line:?}: the name"))?;
        let value: HeaderValue = value
            .trim()
            .parse()
            .with_context(|| format!("--header {line:?}: the value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}
