//! Instructions and heap allocations per request: figures that a busy machine doesn't change.
//!
//! Both sidecars run under callgrind (valgrind), with one connection and one request at a time; the figure is the slope
//! between two runs, so that starting and ending cost nothing.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Lab, printed};
use crate::pairs::{HTTP1, HTTP2, Pair, Side};
use crate::second::Second;

/// Requests of the two runs.
const RUNS: [u32; 2] = [1_000, 3_000];

/// The allocator's entries: jemalloc's, and the C library's for what is written in C.
const ALLOCATORS: [&str; 10] = [
    "_rjem_malloc",
    "_rjem_mallocx",
    "_rjem_calloc",
    "_rjem_realloc",
    "_rjem_rallocx",
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];

/// What one request costs one sidecar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Instructions in user mode.
    pub instructions: f64,
    /// Calls of the allocator.
    pub allocations: f64,
}

/// One line of the result.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Whose sidecar.
    pub side: Side,
    /// What a request costs it.
    pub cost: Cost,
}

/// Counts. `weft`: the binary, with symbols. `keep`: a directory for callgrind's files, which callgrind_annotate reads.
pub fn count(weft: &Path, keep: Option<&Path>) -> Result<Vec<Line>> {
    let lab = Lab::up(weft, &[], |scratch| Pair::Weft.manifests(scratch, None))?;
    let mut lines = Vec::new();
    for (protocol, port, option) in [("HTTP/1.1", HTTP1, "--h1"), ("HTTP/2", HTTP2, "--no-tls-proto=h2c")] {
        let mut runs = Vec::new();
        for requests in RUNS {
            runs.push(run(&lab, port, option, requests, keep)?);
        }
        let [few, many] = runs.as_slice() else { continue };
        for (side, (few, many)) in [Side::Client, Side::Server].into_iter().zip(few.iter().zip(many)) {
            let cost = slope(*few, *many);
            lines.push(Line { protocol, side, cost });
        }
    }
    Ok(lines)
}

fn slope(few: Cost, many: Cost) -> Cost {
    let requests = f64::from(RUNS[1] - RUNS[0]);
    Cost {
        instructions: (many.instructions - few.instructions) / requests,
        allocations: (many.allocations - few.allocations) / requests,
    }
}

/// What both sidecars, client's and server's, used from start to end with so many requests between.
fn run(lab: &Lab, port: u16, option: &str, requests: u32, keep: Option<&Path>) -> Result<[Cost; 2]> {
    let state = format!("{port}-{requests}");
    let out = format!("/tmp/callgrind-{state}");
    let file = format!("--callgrind-out-file={out}");
    let under = ["valgrind", "-q", "--tool=callgrind", &file];
    let server = Second::take_over(lab, Pair::Weft, Side::Server, &under, &state)?;
    let client = Second::take_over(lab, Pair::Weft, Side::Client, &under, &state)?;
    let url = format!("http://server:{port}/");
    let count = requests.to_string();
    let said = lab.exec("weft", "client", &["h2load", "-n", &count, "-c1", "-m1", option, &url])?;
    ensure!(
        said.contains(&format!(" {requests} succeeded, 0 failed, 0 errored, 0 timeout")),
        "requests failed: {said}"
    );
    client.end()?;
    server.end()?;
    let cost = |side: Side| {
        let text = read(lab, side, &out)?;
        if let Some(keep) = keep {
            std::fs::write(keep.join(format!("callgrind-{}-{state}", side.pod())), &text)?;
        }
        parse(&text)
    };
    Ok([cost(Side::Client)?, cost(Side::Server)?])
}

/// Reads callgrind's file, which lies in the `/tmp` of the proxy's container.
fn read(lab: &Lab, side: Side, out: &str) -> Result<String> {
    let pid = Pair::Weft.sidecar(lab, side)?.context("there is no sidecar")?;
    let output = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-m", "--", "cat", out])
        .output()?;
    printed("reading callgrind's file", output)
}

/// Reads what callgrind wrote (valgrind's manual, "Callgrind Format Specification").
fn parse(text: &str) -> Result<Cost> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut instructions, mut allocations, mut callee) = (None, 0_u64, "");
    for line in text.lines() {
        if let Some(total) = line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")) {
            instructions = total
                .split_whitespace()
                .next()
                .and_then(|number| number.parse::<u64>().ok());
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = named(name, &mut names);
        } else if let Some(name) = line.strip_prefix("fn=") {
            named(name, &mut names);
        } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| ALLOCATORS.contains(&callee)) {
            let count = calls.split_whitespace().next().context("a count of calls")?;
            allocations += count.parse::<u64>()?;
        }
    }
    ensure!(allocations > 0, "no allocation was seen: has the binary its symbols?");
    Ok(Cost {
        instructions: instructions.context("callgrind wrote no total")? as f64,
        allocations: allocations as f64,
    })
}

/// `(12) name` gives a name its number, and `(12)` stands for it later.
fn named<'a>(text: &'a str, names: &mut HashMap<&'a str, &'a str>) -> &'a str {
    let Some((number, name)) = text.split_once(')') else {
        return text;
    };
    // Recursion and threads are told apart behind a quote.
    let name = name.trim().split('\'').next().unwrap_or_default();
    if name.is_empty() {
        return names.get(number).copied().unwrap_or_default();
    }
    names.insert(number, name);
    name
}

impl std::fmt::Display for Line {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cost {
            instructions,
            allocations,
        } = self.cost;
        let (protocol, pod) = (self.protocol, self.side.pod());
        write!(
            out,
            "{protocol}, {pod}'s sidecar: {instructions:.0} instructions, {allocations:.1} allocations per request"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_allocator_are_summed_by_name_and_number() {
        let text = "events: Ir\nfn=(1) main\n1 10\ncfn=(2) _rjem_malloc\ncalls=3 0\n1 30\nfn=(3) other\ncfn=(2)\ncalls=4 0\n\
                    1 40\ncfn=(4) free\ncalls=9 0\n1 9\ntotals: 5000\n";
        let cost = parse(text).unwrap();
        assert_eq!((cost.instructions, cost.allocations), (5000.0, 7.0));
    }

    #[test]
    fn a_file_without_symbols_is_an_error() {
        assert!(parse("fn=(1) 0x1234\ntotals: 5\n").is_err());
    }

    #[test]
    fn a_slope_leaves_start_and_end_out() {
        let run = |instructions: f64, allocations: f64| Cost {
            instructions,
            allocations,
        };
        assert_eq!(slope(run(1e6, 500.0), run(3e6, 1500.0)), run(1000.0, 0.5));
    }
}
