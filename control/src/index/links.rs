//! Which things lead to which others.

use std::collections::{BTreeMap, BTreeSet};

/// A relation between two kinds of things. Empty sets are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Links<K, V> {
    links: BTreeMap<K, BTreeSet<V>>,
}

impl<K: Ord, V: Ord> Default for Links<K, V> {
    fn default() -> Self {
        Self { links: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Ord> Links<K, V> {
    pub(crate) fn link(&mut self, from: &K, to: V) {
        self.links.entry(from.clone()).or_default().insert(to);
    }

    pub(crate) fn unlink(&mut self, from: &K, to: &V) {
        if let Some(set) = self.links.get_mut(from) {
            set.remove(to);
            if set.is_empty() {
                self.links.remove(from);
            }
        }
    }

    /// What a thing leads to, in order.
    pub(crate) fn of(&self, from: &K) -> impl Iterator<Item = &V> {
        self.links.get(from).into_iter().flatten()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.links.keys()
    }
}
