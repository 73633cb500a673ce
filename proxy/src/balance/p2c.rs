//! The power of two choices, and the numbers that chance needs.

use std::cell::Cell;

/// A worker's source of chance: SplitMix64, seeded once. Good enough to spread load, and nothing else may rest on it.
#[derive(Debug)]
pub struct Chance {
    state: Cell<u64>,
}

impl Chance {
    /// Numbers that follow from the seed.
    pub fn new(seed: u64) -> Self {
        Self { state: Cell::new(seed) }
    }

    /// A number from all of `u64`.
    pub fn draw(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`. 0 if `n` is 0.
    pub fn below(&self, n: usize) -> usize {
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// A number from 0 up to, not including, 1.
    pub fn unit(&self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Of two different places below `n`, drawn at random, the one that costs less; the only one if `n` is 1.
pub fn choose(n: usize, chance: &Chance, cost: impl Fn(usize) -> f64) -> Option<usize> {
    match n {
        0 => None,
        1 => Some(0),
        _ => {
            let one = chance.below(n);
            // The second from the n-1 others.
            let other = (one + 1 + chance.below(n - 1)) % n;
            Some(if cost(other) < cost(one) { other } else { one })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_is_never_chosen_and_the_others_all_are() {
        let chance = Chance::new(7);
        let costs = [3.0, 1.0, 2.0, 9.0];
        let mut hits = [0_u32; 4];
        for _ in 0..10_000 {
            hits[choose(4, &chance, |i| costs[i]).unwrap()] += 1;
        }
        assert_eq!(hits[3], 0);
        assert!(hits[1] > hits[2] && hits[2] > hits[0] && hits[0] > 0, "{hits:?}");
    }

    #[test]
    fn equals_share_evenly() {
        let chance = Chance::new(1);
        let mut hits = [0_u32; 3];
        for _ in 0..30_000 {
            hits[choose(3, &chance, |_| 1.0).unwrap()] += 1;
        }
        assert!(hits.iter().all(|n| (9_500..10_500).contains(n)), "{hits:?}");
    }

    #[test]
    fn nothing_to_choose_from_is_none() {
        assert_eq!(choose(0, &Chance::new(1), |_| 0.0), None);
        assert_eq!(choose(1, &Chance::new(1), |_| 0.0), Some(0));
    }
}
