//! Which places are preferred and how an endpoint is chosen: a TrafficPolicy's words in, the model's out.

use weft_model::locality::{Distribution, Locality, Prefer, SPILL_BELOW_PERCENT, Share};
use weft_model::traffic::Balance;

use super::kept::Refusal;
use crate::objects::weft::{DistributionSpec, LocalitySpec, PreferSpec, ShareSpec};

/// Regions of a failover.
const FAILOVER_MAX: usize = 16;
/// Distributions, and shares of one.
const SHARES_MAX: usize = 32;
const WEIGHT_MAX: i64 = 1_000_000;
/// The longest name of a region or zone: that of a label.
const PLACE_MAX: usize = 63;

/// Reads a locality that stands in `field`.
pub(crate) fn locality(written: &LocalitySpec, field: &str, refusals: &mut Vec<Refusal>) -> Locality {
    let LocalitySpec {
        prefer,
        spill_below_percent,
        failover,
        distribute,
    } = written;
    let spill_below_percent = spill_below_percent.unwrap_or(SPILL_BELOW_PERCENT);
    if !(1..=100).contains(&spill_below_percent) {
        let message = format!("{spill_below_percent} is no share");
        refusals.push(Refusal::value(
            format!("{field}.spillBelowPercent"),
            message,
            "from 1 to 100",
        ));
    }
    if *prefer == PreferSpec::None && !failover.is_empty() {
        let message = "without a preference no region is left first";
        let fix = "prefer: Zone or Region, or remove failover";
        refusals.push(Refusal::value(format!("{field}.failover"), message, fix));
    }
    at_most(failover.len(), FAILOVER_MAX, &format!("{field}.failover"), refusals);
    for (i, region) in failover.iter().enumerate() {
        let field = format!("{field}.failover[{i}]");
        place(region, &field, refusals);
        if failover[..i].contains(region) {
            let message = format!("the region {region:?} stands twice");
            refusals.push(Refusal::value(field, message, "keep the first"));
        }
    }
    at_most(distribute.len(), SHARES_MAX, &format!("{field}.distribute"), refusals);
    let distribute = distribute.iter().enumerate().take(SHARES_MAX);
    Locality {
        prefer: match prefer {
            PreferSpec::Zone => Prefer::Zone,
            PreferSpec::Region => Prefer::Region,
            PreferSpec::None => Prefer::None,
        },
        spill_below_percent,
        failover: failover.clone(),
        distribute: distribute
            .map(|(i, each)| distribution(each, &format!("{field}.distribute[{i}]"), refusals))
            .collect(),
    }
}

fn distribution(written: &DistributionSpec, field: &str, refusals: &mut Vec<Refusal>) -> Distribution {
    let DistributionSpec { from, to } = written;
    if !from.is_empty() {
        place(from, &format!("{field}.from"), refusals);
    }
    at_most(to.len(), SHARES_MAX, &format!("{field}.to"), refusals);
    if to.iter().all(|share| share.weight == 0) {
        let message = "no place has a weight, so nothing would go anywhere";
        refusals.push(Refusal::value(
            format!("{field}.to"),
            message,
            "give some place a weight",
        ));
    }
    let shares = to.iter().enumerate().take(SHARES_MAX);
    let shares = shares.map(|(i, ShareSpec { region, zone, weight })| {
        let field = format!("{field}.to[{i}]");
        place(region, &format!("{field}.region"), refusals);
        if !zone.is_empty() {
            place(zone, &format!("{field}.zone"), refusals);
        }
        if !(0..=WEIGHT_MAX).contains(weight) {
            let (message, fix) = (format!("{weight} is no weight"), format!("from 0 to {WEIGHT_MAX}"));
            refusals.push(Refusal::value(format!("{field}.weight"), message, fix));
        }
        Share {
            region: region.clone(),
            zone: zone.clone(),
            weight: u32::try_from(*weight).unwrap_or(0),
        }
    });
    Distribution {
        from: from.clone(),
        to: shares.collect(),
    }
}

/// Reads how an endpoint is chosen.
pub(crate) fn balance(name: &str, field: &str, refusals: &mut Vec<Refusal>) -> Option<Balance> {
    let known = Balance::ALL.into_iter().find(|balance| balance.as_str() == name);
    if known.is_none() {
        let message = format!("{name:?} is no balancer");
        let fix = format!("one of {}", Balance::ALL.map(Balance::as_str).join(", "));
        refusals.push(Refusal::value(field, message, fix));
    }
    known
}

/// Checks the name of a region or zone: the value of a Node's label.
fn place(name: &str, field: &str, refusals: &mut Vec<Refusal>) {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > PLACE_MAX || !name.bytes().all(valid) {
        let message = format!("{name:?} is no name of a place");
        refusals.push(Refusal::value(field, message, "as the Nodes' labels write it"));
    }
}

fn at_most(count: usize, most: usize, field: &str, refusals: &mut Vec<Refusal>) {
    if count > most {
        let message = format!("has {count} entries, and {most} is the limit");
        refusals.push(Refusal::value(field, message, "remove some"));
    }
}
