//! The figures, one function each: make the load, read the accounts before and after.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::account;
use crate::lab::{Lab, until_says};
use crate::load::IDLE_FIRST;
use crate::pairs::{BYTES, HTTP1, HTTP2, Pair, SIDES, Side};
use crate::second;
use crate::table::{Row, Table};

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Seconds of each closed loop.
    pub seconds: u32,
    /// MiB of a stream.
    pub mib: u32,
    /// Idle connections.
    pub idle: u32,
}

/// Open loop: low enough that nobody is saturated.
const RATE: u32 = 1000;
const MIB_PER_GIB: f64 = 1024.0;

const fn row(place: u32, name: &'static str, unit: &'static str, more: bool) -> Row {
    Row {
        place,
        name,
        unit,
        more,
    }
}

const BINARY: Row = row(220, "binary, stripped", "MB", false);

/// The rows of one kind of load that saturates.
struct Saturated {
    client: Row,
    server: Row,
    speed: Row,
}

const SATURATED_1: Saturated = Saturated {
    client: row(10, "HTTP/1.1 CPU, client's sidecar", "us/request", false),
    server: row(11, "HTTP/1.1 CPU, server's sidecar", "us/request", false),
    speed: row(12, "HTTP/1.1 64 connections", "requests/s", true),
};
const SATURATED_2: Saturated = Saturated {
    client: row(20, "HTTP/2 CPU, client's sidecar", "us/request", false),
    server: row(21, "HTTP/2 CPU, server's sidecar", "us/request", false),
    speed: row(22, "HTTP/2 8 connections x 16", "requests/s", true),
};
const STREAM: Saturated = Saturated {
    client: row(50, "stream CPU, client's sidecar", "CPU-s/GiB", false),
    server: row(51, "stream CPU, server's sidecar", "CPU-s/GiB", false),
    speed: row(52, "stream", "MiB/s", true),
};
const CONNECT: Saturated = Saturated {
    client: row(60, "connection CPU, client's sidecar", "us/connection", false),
    server: row(61, "connection CPU, server's sidecar", "us/connection", false),
    speed: row(62, "new connections", "connections/s", true),
};

/// What a load came to: how much was done, in how many seconds.
struct Done {
    count: f64,
    seconds: f64,
}

/// Takes all figures of one pair.
pub fn all(lab: &Lab, pair: Pair, size: Size, table: &mut Table) -> Result<()> {
    // At rest first: nothing has been asked yet.
    for (side, at) in SIDES.into_iter().zip([0, 1]) {
        if let Some(pid) = pair.sidecar(lab, side)? {
            let names = ["memory at rest, client's sidecar", "memory at rest, server's sidecar"];
            let row = row(200 + at, names[at as usize], "MiB", false);
            table.add(row, pair, account::resident(pid)? as f64 / 1024.0);
        }
    }
    let http1 = pair.address(lab, HTTP1)?;
    let http2 = pair.address(lab, HTTP2)?;
    let bytes = pair.address(lab, BYTES)?;
    // Before any load, which would leave memory behind that idle connections could use.
    idle(lab, pair, &http1, size, table)?;
    for (address, option) in [(&http1, "--http1.1"), (&http2, "--http2-prior-knowledge")] {
        let url = format!("http://{address}/");
        let answer = lab.exec(pair.namespace(), "client", &["curl", "-si", "-m5", option, &url])?;
        let status = answer.lines().next().unwrap_or_default();
        ensure!(status.contains(" 200"), "{pair}: {url} is answered with {answer}");
    }
    wrk(lab, pair, &http1, 1)?;
    saturated(lab, pair, &SATURATED_1, 1e6, table, || {
        wrk(lab, pair, &http1, size.seconds)
    })?;
    h2load(lab, pair, &http2, 1)?;
    saturated(lab, pair, &SATURATED_2, 1e6, table, || {
        h2load(lab, pair, &http2, size.seconds)
    })?;
    rate(lab, pair, &http1, size, table)?;
    let stream = ["stream", &bytes, "--mib", &size.mib.to_string()];
    saturated(lab, pair, &STREAM, MIB_PER_GIB, table, || load(lab, pair, &stream))?;
    let connect = ["connect", &bytes, "--seconds", &size.seconds.to_string()];
    saturated(lab, pair, &CONNECT, 1e6, table, || load(lab, pair, &connect))?;
    if let Some(took) = second::start(lab, pair)? {
        table.add(row(210, "from exec to ready", "ms", false), pair, took);
    }
    Ok(())
}

/// The size of a binary.
pub fn binary(path: &std::path::Path, pair: Pair, table: &mut Table) -> Result<()> {
    let size = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    table.add(BINARY, pair, size as f64 / 1e6);
    Ok(())
}

fn cpu(lab: &Lab, pair: Pair) -> Result<[Option<f64>; 2]> {
    let of = |side: Side| -> Result<Option<f64>> {
        let pid = pair.sidecar(lab, side)?;
        pid.map(|pid| account::cpu(pid).map(|time| time.as_secs_f64()))
            .transpose()
    };
    Ok([of(Side::Client)?, of(Side::Server)?])
}

/// Makes a load, and notes what each sidecar used for one of what was done, in units of `1 / scale` seconds.
fn saturated(
    lab: &Lab,
    pair: Pair,
    rows: &Saturated,
    scale: f64,
    table: &mut Table,
    load: impl FnOnce() -> Result<Done>,
) -> Result<()> {
    let before = cpu(lab, pair)?;
    let done = load()?;
    let after = cpu(lab, pair)?;
    ensure!(done.count > 0.0, "{}: nothing was done", rows.speed.name);
    for (row, (before, after)) in [rows.client, rows.server]
        .into_iter()
        .zip(before.into_iter().zip(after))
    {
        if let (Some(before), Some(after)) = (before, after) {
            table.add(row, pair, (after - before) / done.count * scale);
        }
    }
    table.add(rows.speed, pair, done.count / done.seconds);
    Ok(())
}

fn wrk(lab: &Lab, pair: Pair, address: &str, seconds: u32) -> Result<Done> {
    let url = format!("http://{address}/");
    let said = lab.exec(
        pair.namespace(),
        "client",
        &["wrk", "-t1", "-c64", &format!("-d{seconds}s"), &url],
    )?;
    ensure!(
        !said.contains("Non-2xx") && !said.contains("Socket errors"),
        "requests failed: {said}"
    );
    // "  151935 requests in 2.00s, 177.76MB read"
    let line = said
        .lines()
        .find(|line| line.contains(" requests in "))
        .context("wrk's count")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let count = words.first().context("wrk's count")?.parse()?;
    let seconds = words.get(3).context("wrk's time")?.trim_end_matches("s,").parse()?;
    Ok(Done { count, seconds })
}

fn h2load(lab: &Lab, pair: Pair, address: &str, seconds: u32) -> Result<Done> {
    let url = format!("http://{address}/");
    let said = lab.exec(
        pair.namespace(),
        "client",
        &["h2load", "-c8", "-m16", "-t1", "-D", &seconds.to_string(), &url],
    )?;
    // "requests: 12345 total, 12345 started, 12345 done, 12345 succeeded, 0 failed, 0 errored, 0 timeout"
    let line = said
        .lines()
        .find(|line| line.starts_with("requests: "))
        .context("h2load's count")?;
    ensure!(
        line.contains(" 0 failed, 0 errored, 0 timeout"),
        "requests failed: {line}"
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words
        .iter()
        .position(|word| *word == "succeeded,")
        .context("h2load's count")?;
    let count = words.get(at - 1).context("h2load's count")?.parse()?;
    Ok(Done {
        count,
        seconds: f64::from(seconds),
    })
}

fn bench(lab: &Lab) -> String {
    lab.scratch().join("weft-bench").display().to_string()
}

fn said(text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text.trim().lines().last().unwrap_or_default())?;
    ensure!(value["failed"] == 0, "some failed: {value}");
    Ok(value)
}

fn load(lab: &Lab, pair: Pair, args: &[&str]) -> Result<Done> {
    let bench = bench(lab);
    let args = [&[bench.as_str(), "load"], args].concat();
    let said = said(&lab.exec(pair.namespace(), "client", &args)?)?;
    Ok(Done {
        count: said["done"].as_f64().context("a count")?,
        seconds: said["seconds"].as_f64().context("a time")?,
    })
}

fn rate(lab: &Lab, pair: Pair, address: &str, size: Size, table: &mut Table) -> Result<()> {
    let (rate, seconds) = (RATE.to_string(), (size.seconds * 2).to_string());
    let args = ["load", "rate", address, "--rate", &rate, "--seconds", &seconds];
    let bench = bench(lab);
    let before = cpu(lab, pair)?;
    let said = said(&lab.exec(pair.namespace(), "client", &[&[bench.as_str()], &args[..]].concat())?)?;
    let after = cpu(lab, pair)?;
    let count = said["done"].as_f64().context("a count")?;
    let names = [
        "1000 requests/s: CPU, client's sidecar",
        "1000 requests/s: CPU, server's sidecar",
    ];
    for (at, (before, after)) in (0..).zip(before.into_iter().zip(after)) {
        if let (Some(before), Some(after)) = (before, after) {
            let row = row(30 + at, names[at as usize], "us/request", false);
            table.add(row, pair, (after - before) / count * 1e6);
        }
    }
    for (at, (name, key)) in (0..).zip([
        ("1000 requests/s: p50", "p50"),
        ("1000 requests/s: p99", "p99"),
        ("1000 requests/s: p99.9", "p999"),
    ]) {
        table.add(row(40 + at, name, "us", false), pair, said[key].as_f64().context(key)?);
    }
    Ok(())
}

fn idle(lab: &Lab, pair: Pair, address: &str, size: Size, table: &mut Table) -> Result<()> {
    let count = size.idle.to_string();
    let memory = || -> Result<[Option<f64>; 2]> {
        let of = |side| -> Result<Option<f64>> {
            let pid = pair.sidecar(lab, side)?;
            pid.map(|pid| account::resident(pid).map(|kib| kib as f64)).transpose()
        };
        Ok([of(Side::Client)?, of(Side::Server)?])
    };
    if pair == Pair::Direct {
        return Ok(());
    }
    let bench = bench(lab);
    let args = [bench.as_str(), "load", "idle", address, "--connections", &count];
    let mut child = lab
        .command(pair.namespace(), "client", &args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // The first ones bring code and buffers in that are there once, however many connections there are.
    until_says(&mut child, "begun")?;
    let before = memory()?;
    let counted = size.idle - size.idle / IDLE_FIRST;
    writeln!(child.stdin.as_mut().context("its standard input")?)?;
    until_says(&mut child, "open")?;
    let after = memory()?;
    // Its standard input ends, and so does it.
    drop(child.stdin.take());
    ensure!(child.wait()?.success(), "the idle connections did not end well");
    // Of the server's sidecar nothing is to be seen: the client's carries them all over a few connections.
    if let (Some(before), Some(after)) = (before.first().copied().flatten(), after.first().copied().flatten()) {
        let row = row(205, "idle HTTP/1.1 connection, client's sidecar", "KiB", false);
        table.add(row, pair, (after - before).max(0.0) / f64::from(counted));
    }
    Ok(())
}
