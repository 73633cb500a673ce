//! A whole run: rounds of all pairs in turn, each round in a mesh of its own.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::envoy;
use crate::lab::Lab;
use crate::measure::{self, Size};
use crate::pairs::Pair;
use crate::table::Table;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Beside direct and Weft: this one.
    pub against: Option<Pair>,
    /// How often.
    pub rounds: u32,
    /// How much load.
    pub size: Size,
}

/// Runs all rounds. `binaries`: the directory with `weft`, `weft-proxy` and this program.
pub fn run(plan: Plan, binaries: &Path) -> Result<(Table, Vec<Pair>)> {
    let mut pairs = vec![Pair::Direct, Pair::Weft];
    pairs.extend(plan.against);
    let (weft, bench) = (binaries.join("weft"), binaries.join("weft-bench"));
    let envoy = match plan.against {
        Some(Pair::Envoy) => Some((envoy::binary()?, envoy::Secrets::new()?)),
        _ => None,
    };
    let mut table = Table::default();
    measure::binary(&binaries.join("weft-proxy"), Pair::Weft, &mut table)?;
    let mut programs = vec![bench.as_path()];
    if let Some((binary, _)) = &envoy {
        measure::binary(binary, Pair::Envoy, &mut table)?;
        programs.push(binary);
    }
    for round in 0..plan.rounds {
        let manifests = |scratch: &Path| {
            let secrets = envoy.as_ref().map(|(_, secrets)| secrets);
            let one = |pair: &Pair| pair.manifests(scratch, secrets.filter(|_| *pair == Pair::Envoy));
            pairs.iter().map(one).collect::<String>()
        };
        let lab = Lab::up(&weft, &programs, manifests)?;
        pairs.iter().try_for_each(|pair| pair.prepare(&lab))?;
        // The order is another one in every second round: what is first finds a cooler machine.
        let mut order = pairs.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for pair in order {
            eprintln!("round {} of {}: {pair}", round + 1, plan.rounds);
            measure::all(&lab, pair, plan.size, &mut table)?;
        }
        if plan.against == Some(Pair::Envoy) {
            envoy::encrypts(&lab)?;
        }
    }
    Ok((table, pairs))
}

/// On what it was measured.
pub fn about(plan: Plan, others: f64) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let debian = read("/etc/os-release");
    let system = debian.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json!({
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model.unwrap_or_default().trim(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "system": system.unwrap_or_default().trim_matches('"'),
        "weft": env!("CARGO_PKG_VERSION"),
        "envoy": plan.against.map(|_| envoy::VERSION),
        "rounds": plan.rounds,
        "seconds": plan.size.seconds,
        "othersCpuShareBefore": others,
    })
}
