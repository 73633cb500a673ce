//! In which order the deeds that are due are done: each import in its turn, a few deeds of each. So whatever one peer changes all the
//! time, others wait for a turn and not for its end.

use std::collections::BTreeMap;

use super::plan::Deed;
use crate::index::Name;

/// Deeds of one import that come before it is the next one's turn: what an import has in one network. Only EndpointSlices are more.
const SHARE: usize = 8;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The import of the last deed that was tried: a round begins behind it, so that none waits for ever.
    last: Option<Name>,
}

impl Turns {
    /// All that is due, in order. What is of one import stays in the order that it is in.
    pub(super) fn ordered(&self, due: Vec<Deed>) -> Vec<Deed> {
        let mut seen: BTreeMap<Name, usize> = BTreeMap::new();
        let keyed = due.into_iter().map(|deed| {
            let before = seen.entry(deed.of.clone()).or_default();
            let round = *before / SHARE;
            *before += 1;
            let is_behind = self.last.as_ref().is_none_or(|last| deed.of > *last);
            ((round, !is_behind, deed.of.clone()), deed)
        });
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
        keyed.into_iter().map(|(_, deed)| deed).collect()
    }

    /// A deed of this import was the last one that was tried.
    pub(super) fn took(&mut self, import: Name) {
        self.last = Some(import);
    }
}

#[cfg(test)]
mod tests {
    use weft_model::name::ObjectRef;

    use super::super::plan::Act;
    use super::*;

    fn deed(import: &str, object: usize) -> Deed {
        Deed {
            of: Name::new("shop", import),
            object: ObjectRef {
                kind: "EndpointSlice".to_owned(),
                namespace: "shop".to_owned(),
                name: format!("{import}{object}"),
            },
            path: String::new(),
            seen: None,
            act: Act::Delete,
        }
    }

    fn names(deeds: &[Deed]) -> Vec<&str> {
        deeds.iter().map(|deed| deed.object.name.as_str()).collect()
    }

    #[test]
    fn a_round_begins_behind_the_import_that_was_tried_last_and_comes_round_to_it() {
        let mut turns = Turns::default();
        let all = || vec![deed("a", 0), deed("a", 1), deed("b", 0), deed("c", 0)];
        assert_eq!(names(&turns.ordered(all())), ["a0", "a1", "b0", "c0"]);
        turns.took(Name::new("shop", "a"));
        assert_eq!(names(&turns.ordered(all())), ["b0", "c0", "a0", "a1"]);
        // It may be gone by now.
        turns.took(Name::new("shop", "bb"));
        assert_eq!(names(&turns.ordered(all())), ["c0", "a0", "a1", "b0"]);
        turns.took(Name::new("shop", "z"));
        assert_eq!(names(&turns.ordered(all())), ["a0", "a1", "b0", "c0"]);
    }

    #[test]
    fn an_import_of_very_many_objects_does_not_keep_the_next_one_waiting_for_all_of_them() {
        let many = (0..20).map(|object| deed("a", object));
        let due = many.chain([deed("b", 0)]).collect();
        let ordered = Turns::default().ordered(due);
        let at = |name: &str| names(&ordered).iter().position(|other| *other == name);
        assert_eq!(at("b0"), Some(SHARE));
        assert_eq!((at("a7"), at("a8"), at("a19")), (Some(7), Some(9), Some(20)));
    }
}
