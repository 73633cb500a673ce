//! What it costs that clusters share Services: how soon a change in one is known in another, what control planes use for
//! that, and what an east-west gateway adds to a connection.

pub mod changes;
pub mod follow;
pub mod passage;
pub mod world;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::table::figure;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Services of each of three clusters, all exported.
    pub services: usize,
    /// Endpoints of each of them.
    pub endpoints: usize,
    /// Changes per second, in all clusters together.
    pub rate: u32,
    /// For how long.
    pub seconds: u32,
    /// Rounds of what passes a gateway; the median is shown.
    pub rounds: u32,
    /// MiB of a stream.
    pub mib: u32,
}

/// Measures all of it. `binaries`: the directory with `weft` and this program.
///
/// # Errors
/// Something could not be started, or did not do what it is measured at.
pub fn run(size: Size, binaries: &Path) -> Result<Value> {
    eprintln!(
        "three control planes, {} Services x {} endpoints each",
        size.services, size.endpoints
    );
    let changes = changes::run(size, &binaries.join("weft"))?;
    let passage = passage::run(size, binaries)?;
    Ok(json!({"changes": changes, "gateway": passage}))
}

/// The same for people.
pub fn text(figures: &Value) -> String {
    let (changes, gateway) = (&figures["changes"], &figures["gateway"]);
    let number = |value: &Value| figure(value.as_f64().unwrap_or(f64::NAN));
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<46} {value}");
    };
    let size = ["clusters", "services", "endpoints"].map(|key| changes[key].to_string());
    line("clusters x Services x endpoints", size.join(" x "));
    line("filled after", format!("{} s", number(&changes["secondsToFill"])));
    let rate = &changes["changesPerSecond"];
    for (name, key) in [
        ("in the same cluster", "ownCluster"),
        ("across the link", "acrossTheLink"),
    ] {
        let [p50, p99, max] = ["p50Ms", "p99Ms", "maxMs"].map(|which| number(&changes[key][which]));
        let told = format!("p50 {p50} ms, p99 {p99} ms, max {max} ms of {}", changes[key]["count"]);
        line(&format!("{rate} changes/s, known {name}"), told);
    }
    let missed = format!("{} late, {} never told", changes["late"], changes["neverTold"]);
    line("changes missed", missed);
    for (at, of) in changes["controlPlanes"].as_array().into_iter().flatten().enumerate() {
        let [cpu, each, mib] = ["cpuOfOneCore", "cpuMsPerChange", "residentMiB"].map(|key| number(&of[key]));
        let before = number(&changes["residentMiBBeforeLinks"][at]);
        let said = format!("{cpu} of a core, {each} CPU-ms per change, {mib} MiB ({before} before links)");
        line(&format!("control plane {}", at + 1), said);
    }
    let rows = gateway["throughGateways"].as_object();
    for (name, through) in rows.into_iter().flatten() {
        let direct = &gateway["oneNetwork"][name];
        let cell = |of: &Value| match of["median"].is_number() {
            true => format!(
                "{} [{}-{}]",
                number(&of["median"]),
                number(&of["min"]),
                number(&of["max"])
            ),
            false => "-".to_owned(),
        };
        line(name, format!("direct {:<22} gateway {}", cell(direct), cell(through)));
    }
    out
}

/// The middle of numbers in any order, and the one that 99 of 100 do not exceed.
fn percentiles(values: &mut [f64]) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = values.len().checked_sub(1)?;
        values.get((last as f64 * share).ceil() as usize).copied()
    };
    Some((at(0.5)?, at(0.99)?))
}

#[cfg(test)]
mod tests {
    use super::percentiles;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut values: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        assert_eq!(percentiles(&mut values), Some((501.0, 991.0)));
        assert_eq!(percentiles(&mut [7.0]), Some((7.0, 7.0)));
        assert_eq!(percentiles(&mut []), None);
    }
}
