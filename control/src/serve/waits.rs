//! How many callers are waited for at once: in all, and of one namespace, so that none takes the others' share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// In all.
const ALL: usize = 2048;
/// Of one namespace: a large Deployment that starts at once. The others ask again a little later.
const OF_ONE: usize = 256;

/// Those who wait, by namespace. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Arc<Mutex<BTreeMap<String, usize>>>);

/// One who waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    waits: Waits,
    namespace: String,
}

impl Waits {
    /// Begins to wait. `None`: too many do.
    pub(crate) fn enter(&self, namespace: &str) -> Option<Turn> {
        let mut waits = self.lock();
        let of_one = waits.get(namespace).copied().unwrap_or(0);
        if of_one >= OF_ONE || waits.values().sum::<usize>() >= ALL {
            return None;
        }
        waits.insert(namespace.to_owned(), of_one + 1);
        Some(Turn {
            waits: self.clone(),
            namespace: namespace.to_owned(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waits = self.waits.lock();
        match waits.get_mut(&self.namespace) {
            Some(of_one) if *of_one > 1 => *of_one -= 1,
            _ => _ = waits.remove(&self.namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_takes_the_share_of_others_and_who_ends_makes_room() {
        let waits = Waits::default();
        let mut turns: Vec<Turn> = (0..OF_ONE).map(|_| waits.enter("greedy").unwrap()).collect();
        assert!(waits.enter("greedy").is_none());
        assert!(waits.enter("other").is_some());
        turns.pop();
        assert!(waits.enter("greedy").is_some());
        for n in 0..ALL {
            turns.extend(waits.enter(&n.to_string()));
        }
        assert_eq!(turns.len(), ALL);
        assert!(waits.enter("late").is_none());
        drop(turns);
        assert!(waits.lock().is_empty());
    }
}
