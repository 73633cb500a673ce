//! How old the objects are that we know, to tell whether a proxy is ahead of us.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_model::version::Source;

use crate::manifests::{Changes, Snapshot};
use crate::objects::{Kinds, Object, ObjectRef};

/// Resource versions of objects, and the highest of each kind (they are comparable within a kind, KEP-5504).
#[derive(Debug, Default)]
pub(crate) struct Ages {
    objects: HashMap<ObjectRef, Age>,
    /// By kind that is followed: of all that was ever seen, so that an object which is gone does not make us look old.
    highest: HashMap<String, u64>,
}

#[derive(Debug)]
struct Age {
    uid: String,
    resource_version: u64,
}

impl Ages {
    /// Takes changes in.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        for object in &changes.upserts {
            self.put(object);
        }
        for gone in &changes.deletes {
            self.objects.remove(gone);
        }
    }

    /// Takes in all that there is. What was highest is forgotten: this is the list that counts.
    pub(crate) fn replace(&mut self, snapshot: &Snapshot) {
        let kinds = Kinds::control();
        let followed = kinds.understood().map(|(_, kind, ..)| (kind.to_owned(), 0));
        *self = Self {
            objects: HashMap::new(),
            highest: followed.collect(),
        };
        for object in &snapshot.objects {
            self.put(object);
        }
    }

    /// All that was last taken in is as new as these lists, by kind: the newest of a kind may be gone from it, and nothing that
    /// lives tells of that. Other kinds are not there, so that nobody knows better of them.
    pub(crate) fn listed(&mut self, lists: &BTreeMap<String, u64>) {
        self.highest.retain(|kind, _| lists.contains_key(kind));
        for (kind, version) in lists {
            let highest = self.highest.entry(kind.clone()).or_default();
            *highest = (*version).max(*highest);
        }
    }

    /// Whether somebody who knows this source knows something newer than we do. An object that we do not know counts if it
    /// is newer than all of its kind that we do: else it was deleted. One of a kind that we do not follow never counts.
    pub(crate) fn behind(&self, source: &Source) -> bool {
        let Some((kind, name)) = source.object.split_once(' ') else {
            return false;
        };
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let reference = ObjectRef {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let Some(highest) = self.highest.get(kind) else {
            return false;
        };
        let ours = match self.objects.get(&reference) {
            Some(age) if age.uid == source.uid => age.resource_version,
            _ => *highest,
        };
        source.resource_version > ours
    }

    fn put(&mut self, object: &Arc<Object>) {
        let highest = self.highest.entry(object.kind.clone()).or_default();
        *highest = object.resource_version.max(*highest);
        let age = Age {
            uid: object.uid.clone(),
            resource_version: object.resource_version,
        };
        self.objects.insert(object.reference(), age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object(kind: &str, name: &str, resource_version: u64) -> Arc<Object> {
        Arc::new(Object {
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            resource_version,
            generation: 0,
            labels: Default::default(),
            annotations: Default::default(),
            raw: Value::Null,
            origin: None,
        })
    }

    fn source(object: &str, uid: &str, resource_version: u64) -> Source {
        Source {
            object: object.to_owned(),
            uid: uid.to_owned(),
            resource_version,
        }
    }

    #[test]
    fn only_what_is_newer_than_ours_is_ahead() {
        let mut ages = Ages::default();
        ages.replace(&Snapshot::default());
        let upserts = vec![
            object("Service", "a", 5),
            object("Service", "b", 9),
            object("Pod", "p", 100),
        ];
        ages.apply(&Changes {
            upserts,
            ..Changes::default()
        });
        for (object, uid, version, behind) in [
            ("Service shop/a", "uid-a", 5, false),
            ("Service shop/a", "uid-a", 6, true),
            // Another object of the same name, and one that is gone: as old as its kind.
            ("Service shop/a", "other", 9, false),
            ("Service shop/a", "other", 10, true),
            ("Service shop/gone", "uid-gone", 9, false),
            ("Service shop/gone", "uid-gone", 50, true),
            ("HTTPRoute shop/r", "uid-r", 1, true),
            ("nonsense", "x", 1, false),
            // Nobody follows these, so nobody can say how new they are.
            ("Secret shop/s", "uid-s", u64::MAX, false),
        ] {
            assert_eq!(
                ages.behind(&source(object, uid, version)),
                behind,
                "{object} {uid} {version}"
            );
        }
    }

    #[test]
    fn the_newest_of_a_kind_may_be_deleted() {
        let mut ages = Ages::default();
        ages.apply(&Changes {
            upserts: vec![object("Service", "a", 5)],
            ..Changes::default()
        });
        ages.apply(&Changes {
            deletes: vec![object("Service", "a", 5).reference()],
            ..Changes::default()
        });
        assert!(!ages.behind(&source("Service shop/a", "uid-a", 5)));
        ages.replace(&Snapshot::default());
        assert!(ages.behind(&source("Service shop/a", "uid-a", 5)));
    }

    #[test]
    fn a_list_tells_how_new_it_is_also_where_the_newest_object_is_gone() {
        let mut ages = Ages::default();
        ages.replace(&Snapshot {
            objects: vec![object("HTTPRoute", "a", 500)],
            ..Snapshot::default()
        });
        let deleted = source("HTTPRoute shop/gone", "uid-gone", 900);
        assert!(ages.behind(&deleted), "the newest that lives is older");
        ages.listed(&BTreeMap::from([("HTTPRoute".to_owned(), 950)]));
        assert!(!ages.behind(&deleted));
        let later = source("HTTPRoute shop/later", "uid-later", 951);
        assert!(ages.behind(&later), "a store that was restored");
        // One that lives is compared by itself.
        assert!(ages.behind(&source("HTTPRoute shop/a", "uid-a", 501)));
        // The API server has no such kind.
        assert!(!ages.behind(&source("TCPRoute shop/t", "uid-t", 7)));
    }
}
