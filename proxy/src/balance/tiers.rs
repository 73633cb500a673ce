//! Which endpoints may be chosen, by how near they are.
//!
//! In: each endpoint's tier, whether it drains and whether it is well. Out: for each tier the places that may be chosen and
//! its share of the traffic (`weft_model::locality` decides it).

use weft_model::endpoint::Place;
use weft_model::locality::{Locality, Tier};

use crate::balance::p2c::Chance;

/// What is looked at of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// How far it is.
    pub tier: Tier,
    /// Chosen only when nothing else is left.
    pub draining: bool,
    /// Not ejected.
    pub well: bool,
}

/// The tiers of one set of endpoints at one moment.
#[derive(Debug, Default)]
pub struct Tiers {
    tiers: Vec<Open>,
    /// Whether there is nothing better than endpoints that are not well.
    pub panic: bool,
}

/// One tier.
#[derive(Debug)]
struct Open {
    tier: Tier,
    /// Places in the set.
    places: Vec<u32>,
    share: u32,
}

impl Tiers {
    /// Sorts endpoints into tiers. What is left when nothing is well: those that drain and are well; then all.
    pub fn new(locality: &Locality, here: &Place, seen: &[Seen]) -> Self {
        let may_serve = |s: &Seen| !s.draining;
        if seen.iter().any(|s| may_serve(s) && s.well) {
            return Self::of((locality, here), seen, may_serve, |s| s.well, false);
        }
        if seen.iter().any(|s| s.well) {
            return Self::of((locality, here), seen, |s| s.well, |_| true, false);
        }
        Self::of((locality, here), seen, |_| true, |_| true, true)
    }

    fn of(
        (locality, here): (&Locality, &Place),
        seen: &[Seen],
        counts: impl Fn(&Seen) -> bool,
        open: impl Fn(&Seen) -> bool,
        panic: bool,
    ) -> Self {
        let mut present: Vec<Tier> = seen.iter().filter(|s| counts(s)).map(|s| s.tier).collect();
        present.sort_unstable();
        present.dedup();
        let tiers: Vec<(Tier, usize, Vec<u32>)> = present
            .into_iter()
            .map(|tier| {
                let of_it = |s: &Seen| s.tier == tier && counts(s);
                let all = seen.iter().filter(|s| of_it(s)).count();
                let places = (0..)
                    .zip(seen)
                    .filter(|(_, s)| of_it(s) && open(s))
                    .map(|(i, _)| i)
                    .collect();
                (tier, all, places)
            })
            .collect();
        let counts: Vec<(Tier, usize, usize)> = tiers
            .iter()
            .map(|(tier, all, places)| (*tier, *all, places.len()))
            .collect();
        let shares = locality.split(here, &counts);
        let tiers = tiers
            .into_iter()
            .zip(shares)
            .map(|((tier, _, places), share)| Open { tier, places, share });
        let mut tiers: Vec<Open> = tiers.collect();
        let takes = |open: &Open| open.share > 0 && !open.places.is_empty();
        // What is weighed with 0 takes nothing, not even what another place did not. What is merely far does.
        if locality.distribution(here).is_some() && tiers.iter().any(takes) {
            tiers.retain(takes);
        }
        Self { tiers, panic }
    }

    /// Draws a tier by its share, then asks `choose` for one of its places; where that finds none, the other tiers are
    /// asked, nearest first.
    pub fn draw(&self, chance: &Chance, mut choose: impl FnMut(&[u32]) -> Option<u32>) -> Option<(Tier, u32)> {
        let total: usize = self.tiers.iter().map(|open| open.share as usize).sum();
        let drawn = match self.tiers.as_slice() {
            [] => return None,
            [_] => 0,
            _ => {
                let mut left = chance.below(total);
                let place = self.tiers.iter().position(|open| {
                    let here = left < open.share as usize;
                    left = left.saturating_sub(open.share as usize);
                    here
                });
                place.unwrap_or(0)
            }
        };
        let others = self
            .tiers
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != drawn)
            .map(|(_, open)| open);
        let mut in_turn = self.tiers.get(drawn).into_iter().chain(others);
        in_turn.find_map(|open| choose(&open.places).map(|place| (open.tier, place)))
    }

    /// The nearest tier that has endpoints.
    pub fn nearest(&self) -> Option<Tier> {
        self.tiers.first().map(|open| open.tier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Seen = Seen {
        tier: Tier(0),
        draining: false,
        well: true,
    };

    fn hits(seen: &[Seen]) -> Vec<u32> {
        let tiers = Tiers::new(&Locality::default(), &Place::default(), seen);
        let chance = Chance::new(3);
        let mut hits = vec![0; seen.len()];
        for _ in 0..10_000 {
            let (_, place) = tiers
                .draw(&chance, |places| places.get(chance.below(places.len())).copied())
                .unwrap();
            hits[place as usize] += 1;
        }
        hits
    }

    #[test]
    fn the_nearest_tier_takes_all_while_it_is_well() {
        let far = Seen { tier: Tier(2), ..WELL };
        assert_eq!(hits(&[WELL, WELL, far])[2], 0);
    }

    #[test]
    fn a_tier_half_ill_spills_over_in_proportion() {
        let ill = Seen { well: false, ..WELL };
        let far = Seen { tier: Tier(1), ..WELL };
        // 50 % well, threshold 70 %: five sevenths stay.
        let hits = hits(&[WELL, ill, far]);
        assert_eq!(hits[1], 0);
        assert!((6_900..7_400).contains(&hits[0]), "{hits:?}");
    }

    #[test]
    fn a_tier_that_is_lost_leaves_all_to_the_next() {
        let ill = Seen { well: false, ..WELL };
        let far = Seen { tier: Tier(2), ..WELL };
        assert_eq!(hits(&[ill, far]), [0, 10_000]);
    }

    #[test]
    fn draining_endpoints_serve_only_when_nothing_else_is_left() {
        let draining = Seen { draining: true, ..WELL };
        let ill = Seen { well: false, ..WELL };
        assert_eq!(hits(&[draining, WELL]), [0, 10_000]);
        assert_eq!(hits(&[draining, ill]), [10_000, 0]);
    }

    #[test]
    fn with_none_well_all_are_tried() {
        let ill = Seen { well: false, ..WELL };
        let hits = hits(&[ill, ill]);
        assert!(hits.iter().all(|n| *n > 4_000), "{hits:?}");
        assert!(Tiers::new(&Locality::default(), &Place::default(), &[ill]).panic);
    }

    #[test]
    fn no_endpoints_no_choice() {
        assert_eq!(
            Tiers::new(&Locality::default(), &Place::default(), &[]).draw(&Chance::new(1), |_| Some(0)),
            None
        );
    }
}
