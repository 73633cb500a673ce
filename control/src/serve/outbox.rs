//! What one proxy has, and the one state that waits to be sent to it.
//!
//! The hub puts changes in whenever they happen; they coalesce by resource, so a proxy that does not read costs one state,
//! however much changes meanwhile. The stream takes them out when the last batch is acknowledged. What the proxy has
//! already is not sent again. Removals are taken only when nothing else waits: make before break.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use weft_proto::resource::Kind;

use super::wire::{self, Made, Name};

/// What is taken for the size of what has no content.
const SMALL: usize = 64;

/// A version's hash.
pub(crate) type Hash = [u8; 16];

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// What the proxy has, or will have once it reads what was taken; or may have.
    has: HashMap<Name, Has>,
    /// Versions that it refused: not sent again until there is another, or it asks.
    refused: HashMap<Name, Hash>,
    pending: BTreeMap<Name, Change>,
    /// The epoch that what is taken now is said in.
    epoch: u64,
}

/// What a proxy has of a resource.
#[derive(Clone, Copy, Debug)]
struct Has {
    hash: Hash,
    /// If not, it may have this no more, or never have taken it, or not know what it has: what it is to have is sent in any case.
    is_sure: bool,
}

/// What is to become of a resource at the proxy.
#[derive(Clone, Debug)]
enum Change {
    Set(Arc<Made>),
    Hold(Arc<str>),
    Remove,
}

/// One resource of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) name: Name,
    /// What the proxy has afterwards. `None`: nothing.
    pub(crate) hash: Option<Hash>,
    /// An encoded `Resource`.
    pub(crate) bytes: Bytes,
}

impl Has {
    fn sure(hash: Hash) -> Self {
        Self { hash, is_sure: true }
    }
}

impl Outbox {
    /// For a proxy that says it has this.
    pub(crate) fn new(has: HashMap<Name, Hash>) -> Self {
        let has = has.into_iter().map(|(name, hash)| (name, Has::sure(hash)));
        Self {
            has: has.collect(),
            ..Self::default()
        }
    }

    /// What is taken from now on is said in this epoch, which ends what was refused in those before: that may have been only
    /// because it was older.
    pub(crate) fn enter(&mut self, epoch: u64) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.refused.clear();
        }
    }

    /// The epoch that what is taken now is said in.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The proxy is to have this.
    pub(crate) fn set(&mut self, made: Arc<Made>) {
        self.pending.insert(made.name.clone(), Change::Set(made));
    }

    /// The proxy is to keep what it has of this.
    pub(crate) fn hold(&mut self, name: Name, reason: Arc<str>) {
        self.pending.insert(name, Change::Hold(reason));
    }

    /// The proxy is not to have this any more. It may forget it at once, so a later [`Outbox::set`] is sent in any case.
    pub(crate) fn remove(&mut self, name: &Name) {
        self.refused.remove(name);
        self.pending.remove(name);
        // Until it is told so it has it.
        if let Some(has) = self.has.get_mut(name) {
            has.is_sure = false;
            self.pending.insert(name.clone(), Change::Remove);
        }
    }

    /// The proxy may not know (any more) what it has of this: it is sent in any case.
    pub(crate) fn forget(&mut self, name: &Name) {
        if let Some(has) = self.has.get_mut(name) {
            has.is_sure = false;
        }
        self.refused.remove(name);
    }

    /// The proxy did not take this version, which was said in that epoch: it still has the one before, whatever that is.
    pub(crate) fn refused(&mut self, name: &Name, epoch: u64, hash: Hash, before: Option<Hash>) {
        // It was removed, or forgotten, while this was on its way: what comes of it is sent in any case.
        if self.has.get(name).is_some_and(|has| !has.is_sure) {
            return;
        }
        // Something newer may have been taken for it meanwhile? No: one batch is in flight at a time.
        match before {
            Some(before) => drop(self.has.insert(name.clone(), Has::sure(before))),
            None => self.forget(name),
        }
        // Another epoch began while it was on its way: it waits here to be said again.
        if epoch == self.epoch {
            self.refused.insert(name.clone(), hash);
        }
    }

    /// The proxy asks again: what it refused is sent once more.
    pub(crate) fn ask_again(&mut self, name: &Name) {
        self.refused.remove(name);
    }

    /// What the proxy has of this.
    pub(crate) fn has(&self, name: &Name) -> Option<Hash> {
        let has = self.has.get(name).filter(|has| has.is_sure);
        has.map(|has| has.hash)
    }

    /// How many removals wait.
    pub(crate) fn removals(&self) -> usize {
        let removals = self.pending.values().filter(|change| matches!(change, Change::Remove));
        removals.count()
    }

    /// How many resources wait.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Takes the next batch, of about `bytes` or less: whole closures, what others refer to first. Returns with each
    /// resource what the proxy had before. Empty: there is nothing that it does not have.
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<(Sent, Option<Hash>)> {
        self.drop_unneeded();
        let sets: Vec<Name> = self
            .pending
            .iter()
            .filter(|(_, change)| !matches!(change, Change::Remove))
            .map(|(name, _)| name.clone())
            .collect();
        let names = match sets.is_empty() {
            // What refers to others goes before them.
            true => self.pending.keys().rev().take(bytes / SMALL + 1).cloned().collect(),
            false => self.closures(sets, bytes),
        };
        let taken = names.into_iter().filter_map(|name| self.take_one(name)).collect();
        // One that came with much, of which it is to have little, does not keep the room.
        if self.pending.is_empty() && self.has.capacity() > 4 * self.has.len() + SMALL {
            self.has.shrink_to_fit();
        }
        taken
    }

    fn take_one(&mut self, name: Name) -> Option<(Sent, Option<Hash>)> {
        let before = self.has(&name);
        let sent = match self.pending.remove(&name)? {
            Change::Set(made) => Sent {
                name,
                hash: Some(made.version.hash),
                bytes: made.bytes.clone(),
            },
            Change::Hold(reason) => {
                let bytes = wire::hold(&name, &before?, &reason);
                Sent {
                    name,
                    hash: before,
                    bytes,
                }
            }
            Change::Remove => Sent {
                bytes: wire::removed(&name),
                name,
                hash: None,
            },
        };
        match sent.hash {
            Some(hash) => self.has.insert(sent.name.clone(), Has::sure(hash)),
            None => self.has.remove(&sent.name),
        };
        Some((sent, before))
    }

    /// Forgets what waits but would tell the proxy nothing.
    fn drop_unneeded(&mut self) {
        let Self {
            has, refused, pending, ..
        } = self;
        pending.retain(|name, change| {
            let has = has.get(name).filter(|has| has.is_sure).map(|has| &has.hash);
            match change {
                Change::Set(made) => {
                    let hash = Some(&made.version.hash);
                    has != hash && refused.get(name) != hash
                }
                Change::Hold(_) => has.is_some(),
                Change::Remove => true,
            }
        });
        refused.retain(|name, hash| match pending.get(name) {
            Some(Change::Set(made)) => made.version.hash == *hash,
            _ => true,
        });
    }

    /// As many of these as fit, in order; each with all that waits and that it refers to, or that refers to it.
    fn closures(&self, sets: Vec<Name>, bytes: usize) -> Vec<Name> {
        let size = |name: &Name| match &self.pending[name] {
            Change::Set(made) => made.bytes.len(),
            Change::Hold(_) | Change::Remove => SMALL,
        };
        if sets.iter().map(size).sum::<usize>() <= bytes {
            return sets;
        }
        let mut neighbours: HashMap<&Name, Vec<&Name>> = HashMap::new();
        for name in &sets {
            let Change::Set(made) = &self.pending[name] else {
                continue;
            };
            if matches!(name.kind, Kind::Cluster | Kind::Gateway) {
                // It refers to all that there is, and nothing of that needs it: each part of it counts alone.
                continue;
            }
            for referred in made
                .refers
                .iter()
                .filter(|referred| self.pending.contains_key(referred))
            {
                neighbours.entry(name).or_default().push(referred);
                neighbours.entry(referred).or_default().push(name);
            }
        }
        let mut taken: BTreeSet<&Name> = BTreeSet::new();
        let mut total = 0;
        for start in &sets {
            if taken.contains(start) {
                continue;
            }
            let mut closure = BTreeSet::from([start]);
            let mut open = vec![start];
            while let Some(name) = open.pop() {
                open.extend(
                    neighbours
                        .get(name)
                        .into_iter()
                        .flatten()
                        .filter(|next| closure.insert(next)),
                );
            }
            total += closure.iter().map(|name| size(name)).sum::<usize>();
            if total > bytes && !taken.is_empty() {
                break;
            }
            taken.extend(closure);
        }
        taken
            .into_iter()
            .filter(|name| !matches!(self.pending[*name], Change::Remove))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::version::Version;

    fn made(kind: Kind, key: &str, content: u8, refers: &[&Name]) -> Arc<Made> {
        let version = Version {
            hash: [content; 16],
            sources: Vec::new(),
        };
        let refers = refers.iter().map(|name| (*name).clone()).collect();
        Arc::new(Made::new(
            Name::new(kind, key),
            version,
            Vec::new(),
            refers,
            Bytes::from(vec![content; 1000]),
        ))
    }

    fn service(key: &str, content: u8, refers: &[&Name]) -> Arc<Made> {
        made(Kind::Service, key, content, refers)
    }

    fn keys(taken: &[(Sent, Option<Hash>)]) -> Vec<&str> {
        taken.iter().map(|(sent, _)| sent.name.key.as_ref()).collect()
    }

    #[test]
    fn a_thousand_changes_for_one_that_does_not_read_are_one() {
        let mut outbox = Outbox::default();
        for n in 0..1000u32 {
            outbox.set(service("a", (n % 256) as u8, &[]));
            outbox.set(service("b", 7, &[]));
        }
        assert_eq!(outbox.waiting(), 2);
        let taken = outbox.take(usize::MAX);
        assert_eq!(keys(&taken), ["a", "b"]);
        assert_eq!(taken[0].0.hash, Some([231; 16]));
        assert_eq!(outbox.waiting(), 0);
    }

    #[test]
    fn what_the_proxy_has_is_not_sent_again() {
        let held = HashMap::from([(Name::new(Kind::Service, "a"), [1; 16])]);
        let mut outbox = Outbox::new(held);
        outbox.set(service("a", 1, &[]));
        assert!(outbox.take(usize::MAX).is_empty());
        // There and back again before anybody looked: nothing to say.
        outbox.set(service("a", 2, &[]));
        outbox.set(service("a", 1, &[]));
        assert!(outbox.take(usize::MAX).is_empty());
        outbox.set(service("a", 2, &[]));
        let taken = outbox.take(usize::MAX);
        assert_eq!((taken[0].0.hash, taken[0].1), (Some([2; 16]), Some([1; 16])));
    }

    #[test]
    fn removals_wait_until_all_else_was_taken() {
        let held = HashMap::from([(Name::new(Kind::Endpoints, "old"), [1; 16])]);
        let mut outbox = Outbox::new(held);
        outbox.remove(&Name::new(Kind::Endpoints, "old"));
        outbox.set(service("a", 2, &[]));
        assert_eq!(keys(&outbox.take(usize::MAX)), ["a"]);
        let taken = outbox.take(usize::MAX);
        assert_eq!(keys(&taken), ["old"]);
        assert_eq!(taken[0].0.hash, None);
        assert!(outbox.take(usize::MAX).is_empty());
    }

    #[test]
    fn what_returned_and_was_removed_again_before_anybody_read_of_it_is_removed() {
        let name = Name::new(Kind::Service, "a");
        let mut outbox = Outbox::new(HashMap::from([(name.clone(), [1; 16])]));
        outbox.remove(&name);
        outbox.set(service("a", 2, &[]));
        outbox.remove(&name);
        assert_eq!(outbox.removals(), 1);
        // Held, it stays as it is there, and goes when that is over.
        outbox.hold(name.clone(), "why".into());
        assert!(outbox.take(usize::MAX).is_empty());
        outbox.remove(&name);
        let taken = outbox.take(usize::MAX);
        assert_eq!((keys(&taken), taken[0].0.hash), (vec!["a"], None));
        outbox.remove(&name);
        assert_eq!(outbox.removals(), 0, "it is told once");
    }

    #[test]
    fn what_was_refused_when_it_was_about_to_be_removed_is_sent_when_it_returns() {
        for (was_held, is_told) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut outbox = Outbox::default();
            for content in if was_held { 1..3 } else { 2..3 } {
                outbox.set(service("a", content, &[]));
                outbox.take(usize::MAX);
            }
            let name = Name::new(Kind::Service, "a");
            outbox.remove(&name);
            outbox.refused(&name, 0, [2; 16], was_held.then_some([1; 16]));
            if is_told {
                assert_eq!(outbox.take(usize::MAX)[0].0.hash, None);
            }
            outbox.set(service("a", 2, &[]));
            assert_eq!(keys(&outbox.take(usize::MAX)), ["a"]);
            // Refused once more, it is not sent a third time.
            outbox.refused(&name, 0, [2; 16], None);
            outbox.set(service("a", 2, &[]));
            assert!(outbox.take(usize::MAX).is_empty());
        }
    }

    #[test]
    fn what_refers_to_others_is_removed_before_them() {
        let names = [Name::new(Kind::Endpoints, "a"), Name::new(Kind::Service, "a")];
        let mut outbox = Outbox::new(names.clone().map(|name| (name, [1; 16])).into());
        names.iter().for_each(|name| outbox.remove(name));
        let mut next = || outbox.take(0).remove(0).0.name.kind;
        assert_eq!([next(), next()], [Kind::Service, Kind::Endpoints]);
    }

    #[test]
    fn many_removals_are_several_batches() {
        let names = (0..1000).map(|n: u32| Name::new(Kind::Endpoints, n.to_string()));
        let mut outbox = Outbox::new(names.clone().map(|name| (name, [1; 16])).collect());
        names.for_each(|name| outbox.remove(&name));
        let sizes: Vec<usize> = std::iter::from_fn(|| Some(outbox.take(400 * SMALL).len()))
            .take_while(|size| *size > 0)
            .collect();
        assert_eq!(sizes, [401, 401, 198]);
        assert!(outbox.has.capacity() < SMALL, "nor is their room kept");
    }

    #[test]
    fn what_was_removed_is_sent_when_it_returns_even_unchanged() {
        let name = Name::new(Kind::Service, "a");
        let mut outbox = Outbox::new(HashMap::from([(name.clone(), [1; 16])]));
        outbox.remove(&name);
        outbox.set(service("a", 1, &[]));
        assert_eq!(keys(&outbox.take(usize::MAX)), ["a"]);
    }

    #[test]
    fn what_came_and_went_unseen_leaves_nothing() {
        let mut outbox = Outbox::default();
        for n in 0..1000 {
            let made = service(&n.to_string(), 1, &[]);
            outbox.set(made.clone());
            outbox.remove(&made.name);
        }
        assert_eq!((outbox.waiting(), outbox.has.len()), (0, 0));
    }

    #[test]
    fn holding_needs_something_to_hold() {
        let name = Name::new(Kind::Service, "a");
        let mut outbox = Outbox::default();
        outbox.hold(name.clone(), "bad".into());
        assert!(outbox.take(usize::MAX).is_empty());
        let mut outbox = Outbox::new(HashMap::from([(name.clone(), [1; 16])]));
        outbox.hold(name.clone(), "bad".into());
        assert_eq!(outbox.take(usize::MAX)[0].0.hash, Some([1; 16]));
        assert_eq!(outbox.has(&name), Some([1; 16]));
    }

    #[test]
    fn what_was_refused_is_sent_again_only_changed_or_asked_for() {
        let name = Name::new(Kind::Service, "a");
        let mut outbox = Outbox::new(HashMap::from([(name.clone(), [1; 16])]));
        outbox.set(service("a", 2, &[]));
        let (sent, before) = outbox.take(usize::MAX).remove(0);
        outbox.refused(&name, 0, sent.hash.unwrap(), before);
        assert_eq!(outbox.has(&name), Some([1; 16]));
        outbox.set(service("a", 2, &[]));
        assert!(outbox.take(usize::MAX).is_empty());
        outbox.ask_again(&name);
        outbox.set(service("a", 2, &[]));
        assert_eq!(outbox.take(usize::MAX).len(), 1);
        outbox.refused(&name, 0, [2; 16], Some([1; 16]));
        outbox.set(service("a", 3, &[]));
        assert_eq!(outbox.take(usize::MAX)[0].0.hash, Some([3; 16]));
    }

    #[test]
    fn what_was_refused_in_an_epoch_that_has_ended_is_sent_again() {
        let name = Name::new(Kind::Service, "a");
        let mut outbox = Outbox::new(HashMap::from([(name.clone(), [1; 16])]));
        outbox.enter(1);
        outbox.set(service("a", 2, &[]));
        outbox.take(usize::MAX);
        outbox.refused(&name, 1, [2; 16], Some([1; 16]));
        outbox.enter(2);
        outbox.set(service("a", 2, &[]));
        assert_eq!(outbox.take(usize::MAX)[0].0.hash, Some([2; 16]));
        // Also where the refusal comes only after the new epoch has begun.
        outbox.enter(3);
        outbox.set(service("a", 2, &[]));
        outbox.refused(&name, 2, [2; 16], Some([1; 16]));
        assert_eq!(outbox.take(usize::MAX)[0].0.hash, Some([2; 16]));
        outbox.refused(&name, 3, [2; 16], Some([1; 16]));
        outbox.set(service("a", 2, &[]));
        assert!(outbox.take(usize::MAX).is_empty());
    }

    #[test]
    fn batches_are_split_between_closures_and_never_within() {
        let mut outbox = Outbox::default();
        for n in 0..10u8 {
            let endpoints: Vec<_> = (0..3)
                .map(|e| made(Kind::Endpoints, &format!("{n}.{e}"), n, &[]))
                .collect();
            let names: Vec<&Name> = endpoints.iter().map(|made| &made.name).collect();
            outbox.set(service(&n.to_string(), n, &names));
            endpoints.into_iter().for_each(|made| outbox.set(made));
        }
        let mut batches = 0;
        while outbox.waiting() > 0 {
            let taken = outbox.take(10_000);
            let services: Vec<_> = taken
                .iter()
                .filter(|(sent, _)| sent.name.kind == Kind::Service)
                .collect();
            assert_eq!(taken.len(), services.len() * 4);
            assert!(
                taken[..services.len() * 3]
                    .iter()
                    .all(|(sent, _)| sent.name.kind == Kind::Endpoints)
            );
            for (sent, _) in services {
                let of_service = format!("{}.", sent.name.key);
                assert_eq!(
                    keys(&taken).iter().filter(|key| key.starts_with(&of_service)).count(),
                    3
                );
            }
            batches += 1;
        }
        assert_eq!(batches, 5);
        // One that is larger than the limit goes alone and whole.
        let big = made(Kind::Endpoints, "big", 1, &[]);
        outbox.set(service("s", 1, &[&big.name]));
        outbox.set(big);
        assert_eq!(outbox.take(10).len(), 2);
    }
}
