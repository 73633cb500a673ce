//! Which places are preferred, and when traffic spills over.

use crate::endpoint::Place;

/// Below this share of healthy endpoints a tier spills over, unless a TrafficPolicy says otherwise.
pub const SPILL_BELOW_PERCENT: u32 = 70;

/// A Service's locality policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// What is preferred.
    pub prefer: Prefer,
    /// A tier takes all traffic while at least this share of its endpoints (in percent) is healthy.
    pub spill_below_percent: u32,
    /// The regions in which traffic goes on, in this order, where the caller's own has too little; then all others.
    pub failover: Vec<String>,
    /// Shares by place instead of a preference, for callers of some regions. The first that fits counts.
    pub distribute: Vec<Distribution>,
}

/// How the traffic of one region's callers is distributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// The callers' region. Empty: any.
    pub from: String,
    /// Where it goes. An endpoint belongs to the first that fits; one that none fits takes traffic when no other is left.
    pub to: Vec<Share>,
}

/// The share of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The region.
    pub region: String,
    /// The zone. Empty: all of them.
    pub zone: String,
    /// Shares are weighed against each other; 0 takes nothing.
    pub weight: u32,
}

/// How close traffic is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Same zone, then same region, then the rest, then other clusters.
    #[default]
    Zone,
    /// Same region, then the rest, then other clusters.
    Region,
    /// No preference among the own cluster's; then other clusters.
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
            failover: Vec::new(),
            distribute: Vec::new(),
        }
    }
}

impl Share {
    fn has(&self, place: &Place) -> bool {
        self.region == place.region && (self.zone.is_empty() || self.zone == place.zone)
    }
}

impl Locality {
    /// The tier of an endpoint at `there` for a client at `here`. An unknown place is never near.
    pub fn tier(&self, here: &Place, there: &Place) -> Tier {
        if let Some(shares) = self.distribution(here) {
            return Tier(index(shares, |share| share.has(there)));
        }
        let own_cluster = here.cluster == there.cluster;
        let own_region = !here.region.is_empty() && here.region == there.region;
        let own_zone = own_region && !here.zone.is_empty() && here.zone == there.zone;
        let (near, elsewhere) = (own_cluster && own_region, || {
            self.elsewhere(own_cluster, own_region, there)
        });
        Tier(match self.prefer {
            Prefer::None if own_cluster => 0,
            Prefer::None => 1,
            Prefer::Region if near => 0,
            Prefer::Region => elsewhere().saturating_add(1),
            Prefer::Zone if near && own_zone => 0,
            Prefer::Zone if near => 1,
            Prefer::Zone => elsewhere().saturating_add(2),
        })
    }

    /// How far away an endpoint is that is not in the caller's own region of its own cluster. Other clusters stand behind the
    /// own one. Where an order of regions is given, that comes first: another cluster's endpoints in the caller's region, then
    /// each region of the list, then all others, and of each the own cluster's first.
    fn elsewhere(&self, own_cluster: bool, own_region: bool, there: &Place) -> u8 {
        let listed = index(&self.failover, |region| *region == there.region);
        match (self.failover.is_empty(), own_cluster, own_region) {
            (true, true, _) => 0,
            (true, false, true) => 1,
            (true, false, false) => 2,
            (false, false, true) => 0,
            (false, own_cluster, _) => listed.saturating_mul(2).saturating_add(if own_cluster { 1 } else { 2 }),
        }
    }

    /// The farthest tier that an endpoint of the own cluster can be in for a client at `here`.
    pub fn farthest(&self, here: &Place) -> Tier {
        let near = match (self.distribution(here), self.prefer) {
            (Some(shares), _) => return Tier(index(shares, |_| false)),
            (None, Prefer::None) => return Tier(0),
            (None, Prefer::Region) => 1,
            (None, Prefer::Zone) => 2,
        };
        let unlisted = Place::default();
        Tier(self.elsewhere(true, false, &unlisted).saturating_add(near))
    }

    /// The shares of places for a client at `here`, where they are weighed and not preferred.
    pub fn distribution(&self, here: &Place) -> Option<&[Share]> {
        let fits = |each: &&Distribution| each.from.is_empty() || each.from == here.region;
        self.distribute.iter().find(fits).map(|each| each.to.as_slice())
    }

    /// The share of traffic for each tier, in parts of 10,000, for a client at `here`: from the tiers that have endpoints,
    /// nearest first, with how many each has and how many of them are healthy.
    ///
    /// By preference as [`Locality::shares`] has it. Where shares are distributed, each place takes its weight while its
    /// healthy share is at least the threshold, and less in proportion below it; the others take the rest by their weights.
    /// Where none with a weight has anything healthy, what is healthy shares by its number.
    pub fn split(&self, here: &Place, tiers: &[(Tier, usize, usize)]) -> Vec<u32> {
        let counts: Vec<(usize, usize)> = tiers.iter().map(|(_, all, healthy)| (*all, *healthy)).collect();
        let Some(shares) = self.distribution(here) else {
            return self.shares(&counts);
        };
        let healthy: usize = counts.iter().map(|(_, healthy)| healthy).sum();
        let weight = |tier: &Tier| shares.get(usize::from(tier.0)).map_or(0, |share| share.weight);
        let weighed =
            |(tier, all, healthy): &(Tier, usize, usize)| f64::from(weight(tier)) * self.ability(*all, *healthy);
        if tiers.iter().map(weighed).sum::<f64>() > 0.0 {
            return parts(tiers.iter().map(weighed));
        }
        match (counts.iter().map(|(all, _)| all).sum(), healthy) {
            (0_usize, _) => vec![0; tiers.len()],
            (_, 0) => parts(counts.iter().map(|(all, _)| *all as f64)),
            _ => parts(counts.iter().map(|(_, healthy)| *healthy as f64)),
        }
    }

    /// How much of what reaches a tier it takes: all of it while its healthy share is at least the threshold.
    fn ability(&self, all: usize, healthy: usize) -> f64 {
        let threshold = f64::from(self.spill_below_percent.clamp(1, 100)) / 100.0;
        let alive = match all {
            0 => 0.0,
            all => healthy.min(all) as f64 / all as f64,
        };
        (alive / threshold).min(1.0)
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
        let mut left = 1.0_f64;
        parts(tiers.iter().map(|&(all, healthy)| {
            let take = left * self.ability(all, healthy);
            left -= take;
            take
        }))
    }
}

/// The place of the first that fits, or behind the last.
fn index<T>(all: &[T], fits: impl Fn(&T) -> bool) -> u8 {
    let at = all.iter().position(fits).unwrap_or(all.len());
    u8::try_from(at).unwrap_or(u8::MAX)
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
