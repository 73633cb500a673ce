//! Which imports become objects: each takes an address or two of the range that all Services of this cluster have theirs of, so what
//! peers can cause of them is bounded, for all together and for each.
//!
//! Half of the bound is in equal shares, one for each peer, and the other half is for whoever comes first. What is there stays. What
//! this cluster exports itself is its own choice, and does not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::Name;
use crate::status::Import;

/// What finds no room.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) imports: BTreeSet<Name>,
    /// The same by peer: how many, and the first of them.
    pub(super) by_peer: BTreeMap<String, (usize, Name)>,
}

/// What imports of peers have by now.
struct Room<'a> {
    /// What each peer may have whatever the others have, and what is for all of them beside that.
    share: usize,
    common: usize,
    had: BTreeMap<&'a str, usize>,
    /// How much of what is for all is had.
    taken: usize,
}

/// What of these imports finds no room. `peers`: those that anything is imported from; `there`: imports that have objects; `most`: how
/// many imports of peers may have some.
pub(super) fn over<'a>(
    imports: impl Iterator<Item = &'a Import> + Clone,
    peers: &BTreeSet<String>,
    there: &BTreeSet<&Name>,
    most: usize,
) -> Over {
    let share = most / 2 / peers.len().max(1);
    let mut room = Room {
        share,
        common: most - share * peers.len(),
        had: BTreeMap::new(),
        taken: 0,
    };
    let all: BTreeSet<&Name> = imports.clone().map(|import| &import.service).collect();
    // What is there of a peer that is not heard yet, or on its way out.
    room.taken += there.iter().filter(|name| !all.contains(**name)).count();
    let own = |import: &Import| import.merged.clusters.iter().any(|cluster| !peers.contains(cluster));
    let of_peers = imports.filter(|import| !own(import));
    let (stay, new): (Vec<&Import>, Vec<&Import>) = of_peers.partition(|import| there.contains(&import.service));
    for import in stay {
        if let Some(peer) = room.least(import) {
            room.take(peer);
        }
    }
    let mut over = Over::default();
    for import in new {
        let Some(peer) = room.least(import) else { continue };
        match room.has_for(peer) {
            true => room.take(peer),
            false => over.add(peer, &import.service),
        }
    }
    over
}

impl<'a> Room<'a> {
    /// Of the peers that export it, the one that has the least: it has the most room.
    fn least(&self, import: &'a Import) -> Option<&'a str> {
        let peers = import.merged.clusters.iter().map(String::as_str);
        peers.min_by_key(|peer| self.had.get(peer))
    }

    fn has_for(&self, peer: &str) -> bool {
        let had = self.had.get(peer).copied().unwrap_or_default();
        had < self.share || self.taken < self.common
    }

    fn take(&mut self, peer: &'a str) {
        let had = self.had.entry(peer).or_default();
        *had += 1;
        self.taken += usize::from(*had > self.share);
    }
}

impl Over {
    fn add(&mut self, peer: &str, import: &Name) {
        self.imports.insert(import.clone());
        let first = || (0, import.clone());
        self.by_peer.entry(peer.to_owned()).or_insert_with(first).0 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::merged;
    use super::*;

    fn imports(of: &[(&str, usize, &[&str])]) -> Vec<Import> {
        let import = |name: String, clusters: &[&str]| Import {
            service: Name::new("shop", name),
            merged: merged(clusters),
            backends: Vec::new(),
            apart: BTreeSet::new(),
        };
        let all = of.iter().flat_map(|(prefix, count, clusters)| {
            let names = (0..*count).map(move |n| format!("{prefix}{n:03}"));
            names.map(move |name| import(name, clusters))
        });
        all.collect()
    }

    /// How many of each peer find no room, of `west` and `east` together `most`.
    fn left_out(of: &[(&str, usize, &[&str])], there: &[&str], most: usize) -> BTreeMap<String, usize> {
        let all = imports(of);
        let peers = ["east", "west"].map(str::to_owned).into();
        let there: Vec<Name> = there.iter().map(|name| Name::new("shop", *name)).collect();
        let over = over(all.iter(), &peers, &there.iter().collect(), most);
        let by_peer = over.by_peer.into_iter().map(|(peer, (count, _))| (peer, count));
        let by_peer: BTreeMap<String, usize> = by_peer.collect();
        assert_eq!(by_peer.values().sum::<usize>(), over.imports.len());
        by_peer
    }

    fn only(peer: &str, count: usize) -> BTreeMap<String, usize> {
        [(peer.to_owned(), count)].into()
    }

    #[test]
    fn what_fits_has_room_and_what_is_beyond_has_none() {
        assert!(left_out(&[("w", 30, &["west"])], &[], 40).is_empty());
        // A peer alone has its share and all that is for everybody.
        assert_eq!(left_out(&[("w", 31, &["west"])], &[], 40), only("west", 1));
        assert_eq!(left_out(&[("w", 3, &["west"])], &[], 0), only("west", 3));
    }

    #[test]
    fn a_peer_that_takes_all_it_can_leaves_each_other_one_its_share() {
        let both: &[(&str, usize, &[&str])] = &[("a", 500, &["west"]), ("z", 10, &["east"])];
        assert_eq!(left_out(both, &[], 40), only("west", 470));
        // Nor does it use up another's share by exporting the same names.
        let same: &[(&str, usize, &[&str])] = &[("a", 500, &["west"]), ("z", 10, &["east", "west"])];
        assert_eq!(left_out(same, &[], 40), only("west", 470));
    }

    #[test]
    fn what_is_there_stays_also_when_there_is_less_room_than_it_has() {
        let all: &[(&str, usize, &[&str])] = &[("w", 3, &["west"])];
        assert_eq!(left_out(all, &["w001", "w002"], 2), only("west", 1));
        assert!(left_out(all, &["w000", "w001", "w002"], 0).is_empty());
        // What is kept of a peer that is not heard yet counts.
        assert_eq!(left_out(all, &["e1", "e2", "e3"], 4), only("west", 2));
        assert!(left_out(all, &[], 4).is_empty());
    }

    #[test]
    fn what_this_cluster_exports_itself_has_room_in_any_case_and_takes_none() {
        let all: &[(&str, usize, &[&str])] = &[("o", 50, &["here", "west"]), ("w", 3, &["west"])];
        assert!(left_out(all, &[], 4).is_empty());
        assert_eq!(left_out(all, &[], 2), only("west", 1));
    }
}
