//! Which places are preferred, and when traffic spills over.

use crate::endpoint::Place;

/// Below this share of healthy endpoints a tier spills over, unless a TrafficPolicy says otherwise.
pub const SPILL_BELOW_PERCENT: u32 = 70;

/// A Service's locality policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// What is preferred.
    pub prefer: Prefer,
    /// A tier takes all traffic while at least this share of its endpoints (in percent) is healthy.
    pub spill_below_percent: u32,
}

/// How close traffic is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Same zone, then same region, then the rest.
    #[default]
    Zone,
    /// Same region, then the rest.
    Region,
    /// No preference.
    None,
}

/// How far an endpoint is from a client, by preference: 0 is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier(pub u8);

impl Default for Locality {
    fn default() -> Self {
        Self {
            prefer: Prefer::Zone,
            spill_below_percent: SPILL_BELOW_PERCENT,
        }
    }
}

impl Locality {
    /// The tier of an endpoint at `there` for a client at `here`. An unknown place is never near.
    pub fn tier(&self, here: &Place, there: &Place) -> Tier {
        let same_region = !here.region.is_empty() && here.region == there.region && here.cluster == there.cluster;
        let same_zone = same_region && !here.zone.is_empty() && here.zone == there.zone;
        Tier(match self.prefer {
            Prefer::None => 0,
            Prefer::Region => u8::from(!same_region),
            Prefer::Zone if same_zone => 0,
            Prefer::Zone if same_region => 1,
            Prefer::Zone => 2,
        })
    }

    /// The share of traffic for each tier, in parts of 10,000, from the number of endpoints and of healthy ones in each
    /// tier, nearest first.
    ///
    /// A tier whose healthy share is at least the threshold takes everything that reaches it; one below takes
    /// `healthy share / threshold` of it, and the rest goes on to the next tier. What the last tier could not take is
    /// given back to the tiers that have healthy endpoints, in proportion. With no healthy endpoint anywhere, all tiers
    /// with endpoints share by their number (panic: better a doubtful endpoint than none).
    pub fn shares(&self, tiers: &[(usize, usize)]) -> Vec<u32> {
        let total: usize = tiers.iter().map(|(all, _)| all).sum();
        let healthy: usize = tiers.iter().map(|(_, healthy)| healthy).sum();
        if total == 0 {
            return vec![0; tiers.len()];
        }
        if healthy == 0 {
            return parts(tiers.iter().map(|(all, _)| *all as f64));
        }
        let threshold = f64::from(self.spill_below_percent.clamp(1, 100)) / 100.0;
        let mut left = 1.0_f64;
        parts(tiers.iter().map(|&(all, healthy)| {
            let alive = if all == 0 {
                0.0
            } else {
                healthy.min(all) as f64 / all as f64
            };
            let take = left * (alive / threshold).min(1.0);
            left -= take;
            take
        }))
    }
}

/// Splits 10,000 in proportion. The running sums are rounded, not the parts: so the parts sum to 10,000 exactly, nothing
/// stays nothing, and a part never grows because its own number shrank.
fn parts(numbers: impl Iterator<Item = f64>) -> Vec<u32> {
    const WHOLE: f64 = 10_000.0;
    let sums: Vec<f64> = numbers
        .scan(0.0, |sum, number| {
            *sum += number;
            Some(*sum)
        })
        .collect();
    let Some(&total) = sums.last() else {
        return Vec::new();
    };
    let mut before = 0;
    let part = |sum: f64| {
        let here = (sum / total * WHOLE).round() as u32;
        let part = here - before;
        before = here;
        part
    };
    sums.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests;
