//! Tables of places and of spill-over, and what holds for any.

use proptest::prelude::*;

use super::*;

fn place(text: &str) -> Place {
    let mut parts = text.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Place {
        cluster: next(),
        region: next(),
        zone: next(),
    }
}

#[track_caller]
fn check_tier(prefer: Prefer, here: &str, there: &str, want: u8) {
    let locality = Locality {
        prefer,
        ..Locality::default()
    };
    assert_eq!(
        locality.tier(&place(here), &place(there)),
        Tier(want),
        "{prefer:?} {here} -> {there}"
    );
}

#[test]
fn the_same_zone_is_nearest_then_the_same_region() {
    check_tier(Prefer::Zone, "c/eu/1", "c/eu/1", 0);
    check_tier(Prefer::Zone, "c/eu/1", "c/eu/2", 1);
    check_tier(Prefer::Zone, "c/eu/1", "c/us/1", 2);
    check_tier(Prefer::Zone, "c/eu/1", "d/eu/1", 3);
    check_tier(Prefer::Zone, "c/eu/1", "d/us/1", 4);
}

#[test]
fn a_preference_for_regions_does_not_see_zones() {
    check_tier(Prefer::Region, "c/eu/1", "c/eu/2", 0);
    check_tier(Prefer::Region, "c/eu/1", "c/us/1", 1);
    check_tier(Prefer::Region, "c/eu/1", "d/eu/1", 2);
    check_tier(Prefer::Region, "c/eu/1", "d/us/1", 3);
}

#[test]
fn without_a_preference_all_of_the_own_cluster_are_near() {
    for there in ["c/eu/1", "c/us/1", "c//"] {
        check_tier(Prefer::None, "c/eu/1", there, 0);
    }
    for there in ["d/eu/1", "d/us/9", "//"] {
        check_tier(Prefer::None, "c/eu/1", there, 1);
    }
}

#[test]
fn an_unknown_place_is_never_near() {
    check_tier(Prefer::Zone, "c//", "c//", 2);
    check_tier(Prefer::Zone, "c//1", "c//1", 2);
    check_tier(Prefer::Zone, "c/eu/", "c/eu/", 1);
    check_tier(Prefer::Zone, "c/eu/1", "c/eu/", 1);
    check_tier(Prefer::Zone, "c/eu/1", "c//1", 2);
    check_tier(Prefer::Region, "c//", "c//", 1);
}

#[track_caller]
fn check_shares(tiers: &[(usize, usize)], want: &[u32]) {
    assert_eq!(Locality::default().shares(tiers), want, "{tiers:?}");
}

#[test]
fn a_healthy_tier_takes_everything() {
    check_shares(&[(10, 10), (10, 10)], &[10_000, 0]);
    check_shares(&[(10, 7), (10, 10)], &[10_000, 0]);
    check_shares(&[(1, 1)], &[10_000]);
}

#[test]
fn below_the_threshold_traffic_spills_over_in_proportion() {
    check_shares(&[(70, 35), (10, 10)], &[7143, 2857]);
    check_shares(&[(100, 35), (10, 10)], &[5000, 5000]);
    check_shares(&[(100, 7), (10, 10)], &[1000, 9000]);
    check_shares(&[(10, 0), (10, 10)], &[0, 10_000]);
    check_shares(&[(100, 35), (100, 35), (10, 10)], &[5000, 2500, 2500]);
}

#[test]
fn what_the_last_tier_could_not_take_comes_back() {
    check_shares(&[(100, 35)], &[10_000]);
    check_shares(&[(100, 35), (100, 35)], &[6667, 3333]);
    check_shares(&[(100, 35), (10, 0)], &[10_000, 0]);
}

#[test]
fn a_tier_without_endpoints_is_passed_over() {
    check_shares(&[(0, 0), (10, 10)], &[0, 10_000]);
    check_shares(&[(0, 0), (100, 35), (10, 10)], &[0, 5000, 5000]);
    check_shares(&[(10, 10), (0, 0)], &[10_000, 0]);
}

#[test]
fn with_nothing_healthy_all_share_by_number() {
    check_shares(&[(3, 0), (1, 0)], &[7500, 2500]);
    check_shares(&[(1, 0), (1, 0), (1, 0)], &[3333, 3334, 3333]);
    check_shares(&[(1, 0), (0, 0)], &[10_000, 0]);
}

#[test]
fn without_endpoints_nothing_is_shared() {
    check_shares(&[], &[]);
    check_shares(&[(0, 0), (0, 0)], &[0, 0]);
}

#[test]
fn the_threshold_is_settable() {
    let shares = |percent| {
        Locality {
            spill_below_percent: percent,
            ..Locality::default()
        }
        .shares(&[(2, 1), (1, 1)])
    };
    assert_eq!(shares(50), [10_000, 0]);
    assert_eq!(shares(100), [5000, 5000]);
    assert_eq!(shares(0), [10_000, 0], "as 1");
    assert_eq!(shares(1000), [5000, 5000], "as 100");
}

fn tiers() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let tier = (0..200_usize).prop_flat_map(|all| (Just(all), 0..=all));
    proptest::collection::vec(tier, 1..5)
}

proptest! {
    #[test]
    fn shares_sum_to_the_whole_and_go_where_somebody_is(tiers in tiers(), percent in 0..=120_u32) {
        let shares = Locality { spill_below_percent: percent, ..Locality::default() }.shares(&tiers);
        let endpoints: usize = tiers.iter().map(|tier| tier.0).sum();
        let healthy: usize = tiers.iter().map(|tier| tier.1).sum();
        prop_assert_eq!(shares.iter().sum::<u32>(), if endpoints == 0 { 0 } else { 10_000 });
        for (share, (all, alive)) in shares.iter().zip(&tiers) {
            let able = if healthy > 0 { *alive > 0 } else { *all > 0 };
            prop_assert!(able || *share == 0, "{:?} {:?}", tiers, shares);
        }
    }

    #[test]
    fn a_tier_that_loses_an_endpoint_never_gains_traffic(tiers in tiers(), at in any::<proptest::sample::Index>()) {
        let at = at.index(tiers.len());
        // Losing the last healthy endpoint of all is the one exception: then all share by number.
        let healthy: usize = tiers.iter().map(|tier| tier.1).sum();
        prop_assume!(tiers[at].1 > 0 && healthy > 1);
        let before = Locality::default().shares(&tiers);
        let mut fewer = tiers.clone();
        fewer[at].1 -= 1;
        let after = Locality::default().shares(&fewer);
        prop_assert!(after[at] <= before[at], "{:?}: {:?} -> {:?}", tiers, before, after);
    }
}

#[test]
fn beyond_the_own_region_the_regions_of_the_failover_come_in_their_order_and_of_each_the_own_cluster_first() {
    let locality = |prefer| Locality {
        prefer,
        failover: vec!["us".to_owned(), "asia".to_owned()],
        ..Locality::default()
    };
    for (prefer, there, want) in [
        (Prefer::Zone, "c/eu/1", 0),
        (Prefer::Zone, "c/eu/2", 1),
        (Prefer::Zone, "d/eu/1", 2),
        (Prefer::Zone, "c/us/1", 3),
        (Prefer::Zone, "d/us/1", 4),
        (Prefer::Zone, "c/asia/1", 5),
        (Prefer::Zone, "c/africa/1", 7),
        (Prefer::Zone, "d/africa/1", 8),
        (Prefer::Region, "c/eu/2", 0),
        (Prefer::Region, "d/eu/2", 1),
        (Prefer::Region, "c/asia/1", 4),
        (Prefer::Region, "c/africa/1", 6),
    ] {
        let tier = locality(prefer).tier(&place("c/eu/1"), &place(there));
        assert_eq!(tier, Tier(want), "{prefer:?} {there}");
        assert!(tier <= locality(prefer).farthest(&place("c/eu/1")) || there.starts_with('d'));
    }
}

fn distributed() -> Locality {
    let share = |region: &str, zone: &str, weight| Share {
        region: region.to_owned(),
        zone: zone.to_owned(),
        weight,
    };
    Locality {
        distribute: vec![Distribution {
            from: "eu".to_owned(),
            to: vec![
                share("eu", "1", 60),
                share("eu", "", 10),
                share("us", "", 30),
                share("asia", "", 0),
            ],
        }],
        ..Locality::default()
    }
}

#[test]
fn a_distribution_weighs_places_for_the_callers_of_its_region_only() {
    let (locality, here) = (distributed(), place("c/eu/1"));
    for (there, want) in [
        ("c/eu/1", 0),
        ("c/eu/2", 1),
        ("c/us/9", 2),
        ("c/asia/1", 3),
        ("c/mars/1", 4),
    ] {
        assert_eq!(locality.tier(&here, &place(there)), Tier(want), "{there}");
    }
    assert_eq!(locality.farthest(&here), Tier(4));
    assert_eq!(
        locality.tier(&place("c/us/1"), &place("c/us/1")),
        Tier(0),
        "by preference"
    );
    let tiers = |counts: [(usize, usize); 5]| {
        let tiers = (0_u8..)
            .zip(counts)
            .map(|(tier, (all, healthy))| (Tier(tier), all, healthy));
        locality.split(&here, &tiers.collect::<Vec<_>>())
    };
    let all = (4, 4);
    assert_eq!(tiers([all; 5]), [6000, 1000, 3000, 0, 0]);
    assert_eq!(tiers([(4, 0), all, all, all, all]), [0, 2500, 7500, 0, 0]);
    // Half of 70 %: five sevenths of its weight, of 82.86 in all.
    assert_eq!(tiers([(4, 2), all, all, all, all])[0], 5172);
    assert_eq!(tiers([(4, 0), (4, 0), (4, 0), all, (12, 4)]), [0, 0, 0, 5000, 5000]);
    assert_eq!(tiers([(4, 0), (4, 0), (4, 0), (4, 0), (4, 0)]), [2000; 5]);
    assert_eq!(locality.split(&here, &[]), [0_u32; 0]);
}
