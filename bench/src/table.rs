//! What was measured: medians, ranges and ratios, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::pairs::Pair;

/// A figure: what it is and what is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Its place in the table.
    pub place: u32,
    /// What is measured.
    pub name: &'static str,
    /// In what.
    pub unit: &'static str,
    /// Whether more is better.
    pub more: bool,
}

/// All figures of all runs.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<Row, BTreeMap<&'static str, Vec<f64>>>,
}

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// Summarises. `None`: there is nothing.
pub fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let median = match sorted.len() % 2 {
        0 => f64::midpoint(*sorted.get(middle - 1)?, upper),
        _ => upper,
    };
    Some(Summary { median, min, max })
}

impl Table {
    /// Adds a figure.
    pub fn add(&mut self, row: Row, pair: Pair, value: f64) {
        let of_row = self.rows.entry(row).or_default();
        of_row.entry(pair.namespace()).or_default().push(value);
    }

    fn summary(&self, row: &Row, pair: Pair) -> Option<Summary> {
        summary(self.rows.get(row)?.get(pair.namespace())?)
    }

    /// Weft's median over the peer's, so that below 1 is better.
    pub fn ratio(&self, row: &Row, peer: Pair) -> Option<f64> {
        let (ours, theirs) = (self.summary(row, Pair::Weft)?, self.summary(row, peer)?);
        let (over, under) = if row.more { (theirs, ours) } else { (ours, theirs) };
        (under.median > 0.0).then(|| over.median / under.median)
    }

    /// For people.
    pub fn text(&self, pairs: &[Pair]) -> String {
        let mut out = String::new();
        let name = |row: &Row| format!("{} [{}]", row.name, row.unit);
        let wide = self.rows.keys().map(|row| name(row).len()).max().unwrap_or(0);
        let peer = pairs
            .iter()
            .copied()
            .find(|pair| !matches!(pair, Pair::Direct | Pair::Weft));
        let _ = write!(out, "{:wide$}", "");
        for pair in pairs {
            let _ = write!(out, "  {:>27}", pair.to_string());
        }
        if let Some(peer) = peer {
            let _ = write!(out, "  weft:{peer}");
        }
        out.push('\n');
        for row in self.rows.keys() {
            let _ = write!(out, "{:wide$}", name(row));
            for &pair in pairs {
                let cell = self.summary(row, pair).map_or_else(|| "-".to_owned(), cell);
                let _ = write!(out, "  {cell:>27}");
            }
            if let Some(ratio) = peer.and_then(|peer| self.ratio(row, peer)) {
                let worse = if ratio > 1.0 { "  worse" } else { "" };
                let _ = write!(out, "  {ratio:>10.2}{worse}");
            }
            out.push('\n');
        }
        out
    }

    /// For programs: every value of every run.
    pub fn json(&self, about: Value) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(
                |(row, values)| json!({"name": row.name, "unit": row.unit, "moreIsBetter": row.more, "values": values}),
            )
            .collect();
        json!({"about": about, "rows": rows})
    }
}

fn cell(summary: Summary) -> String {
    let Summary { median, min, max } = summary;
    format!("{} [{}-{}]", figure(median), figure(min), figure(max))
}

/// Three digits that mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Row = Row {
        place: 1,
        name: "CPU",
        unit: "us",
        more: false,
    };
    const SPEED: Row = Row {
        place: 2,
        name: "requests",
        unit: "1/s",
        more: true,
    };

    #[test]
    fn a_median_is_the_middle_one() {
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[3.0, 1.0, 2.0]).unwrap().median, 2.0);
        let even = summary(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((even.median, even.min, even.max), (2.5, 1.0, 4.0));
    }

    #[test]
    fn a_ratio_below_one_is_better_whatever_is_measured() {
        let mut table = Table::default();
        for (row, ours, theirs) in [(CPU, 10.0, 20.0), (SPEED, 300.0, 100.0)] {
            table.add(row, Pair::Weft, ours);
            table.add(row, Pair::Envoy, theirs);
            assert!(table.ratio(&row, Pair::Envoy).unwrap() < 1.0);
        }
        table.add(CPU, Pair::Weft, 50.0);
        assert!(table.text(&[Pair::Weft, Pair::Envoy]).contains("worse"));
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!([1234.5, 12.34, 1.234].map(figure), ["1234", "12.3", "1.23"]);
    }
}
