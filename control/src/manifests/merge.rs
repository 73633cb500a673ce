//! Many files in, one set of objects out: which file's object counts, and what is said of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::read::{Reading, Written};
use super::versions::Versions;
use super::{Directory, Selection, Writer};
use crate::objects::{Object, ObjectRef, Problem, Severity, uid_of};

/// A file: the place of its directory in the settings, and its name. Their order decides between duplicates.
pub(super) type FileKey = (usize, String);

/// An object's place: whether a person wrote it, the file, and the place in the file. The first counts.
type Place = (bool, FileKey, usize);

/// The files, and what follows from them.
#[derive(Debug)]
pub(super) struct Merged {
    directories: Vec<Directory>,
    versions: Versions,
    files: BTreeMap<FileKey, Reading>,
    /// The files with something to say, of very many perhaps.
    noted: BTreeSet<FileKey>,
    faults: BTreeMap<FileKey, Vec<Problem>>,
    places: BTreeMap<ObjectRef, BTreeSet<Place>>,
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    duplicates: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Files that are gone, and are waited for in case that they only move.
    leaving: BTreeSet<FileKey>,
    /// What happened to it as a whole.
    store: Vec<Problem>,
}

/// What changed: an object, or `None` if it is gone.
pub(super) type Delta = BTreeMap<ObjectRef, Option<Arc<Object>>>;

impl Merged {
    pub(super) fn new(directories: Vec<Directory>, versions: Versions) -> Self {
        Self {
            directories,
            versions,
            files: BTreeMap::new(),
            noted: BTreeSet::new(),
            faults: BTreeMap::new(),
            places: BTreeMap::new(),
            objects: BTreeMap::new(),
            duplicates: BTreeMap::new(),
            leaving: BTreeSet::new(),
            store: Vec::new(),
        }
    }

    pub(super) fn directory(&self, key: &FileKey) -> &Directory {
        &self.directories[key.0]
    }

    pub(super) fn selection(&self, index: usize) -> &Selection {
        &self.directories[index].files
    }

    pub(super) fn path(&self, key: &FileKey) -> PathBuf {
        self.directories[key.0].path.join(&key.1)
    }

    /// What people know a file as.
    pub(super) fn shown(&self, key: &FileKey) -> PathBuf {
        match &self.directories[key.0].files {
            Selection::One { shown: Some(shown), .. } => shown.clone(),
            _ => self.path(key),
        }
    }

    /// The files that are known, readable or not.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileKey> {
        self.files
            .keys()
            .chain(self.faults.keys().filter(|key| !self.files.contains_key(*key)))
    }

    /// A file was read, or (`None`) is gone.
    pub(super) fn file(&mut self, key: &FileKey, reading: Option<Reading>) -> Delta {
        self.faults.remove(key);
        match reading.as_ref().is_some_and(|reading| !reading.problems.is_empty()) {
            true => self.noted.insert(key.clone()),
            false => self.noted.remove(key),
        };
        let mut touched = BTreeSet::new();
        let old = match reading {
            Some(new) => {
                let user = self.directory(key).writer == Writer::User;
                for (i, written) in new.objects.iter().enumerate() {
                    let object = written.object.reference();
                    self.places
                        .entry(object.clone())
                        .or_default()
                        .insert((user, key.clone(), i));
                    touched.insert(object);
                }
                let places = new.objects.len();
                let old = self.files.insert(key.clone(), new);
                old.map(|old| (old, places))
            }
            None => self.files.remove(key).map(|old| (old, 0)),
        };
        if let Some((old, _)) = old {
            for (i, written) in old.objects.iter().enumerate() {
                let object = written.object.reference();
                self.forget_place(&object, key, i);
                touched.insert(object);
            }
        }
        touched.into_iter().filter_map(|object| self.settle(object)).collect()
    }

    /// A file cannot be read: its objects stay. Where none are known, since the process just began, what the state
    /// directory remembers of them counts.
    pub(super) fn unreadable(&mut self, key: &FileKey, problems: Vec<Problem>) -> Delta {
        let delta = match self.files.contains_key(key) {
            true => Delta::new(),
            false => {
                let (path, kinds) = (self.path(key), self.directory(key).kinds.clone());
                let remembered = self.versions.of_file(&path).into_iter();
                let objects: Vec<Written> = remembered
                    .filter_map(|value| super::read::restored(&self.shown(key), value, &kinds))
                    .collect();
                match objects.is_empty() {
                    true => Delta::new(),
                    false => self.file(
                        key,
                        Some(Reading {
                            objects,
                            problems: Vec::new(),
                        }),
                    ),
                }
            }
        };
        self.faults.insert(key.clone(), problems);
        delta
    }

    /// These files are gone, though their objects still count: a file that moves is no object that is written twice.
    pub(super) fn leaving(&mut self, files: BTreeSet<FileKey>) {
        self.leaving = files;
    }

    /// A directory cannot be listed, or can again (`None`).
    pub(super) fn directory_fault(&mut self, index: usize, problem: Option<Problem>) {
        let key = (index, String::new());
        match problem {
            Some(problem) => self.faults.insert(key, vec![problem]),
            None => self.faults.remove(&key),
        };
    }

    /// All files have been read for the first time: whatever else is remembered was deleted meanwhile.
    pub(super) fn complete(&mut self) {
        let known: BTreeSet<String> = self.objects.keys().map(version_key).collect();
        self.versions.retain(|key| known.contains(key));
    }

    /// Keeps the versions that were given out. To be called before a delta is shown to anyone.
    pub(super) fn save(&mut self) {
        self.store.clear();
        if let Err(error) = self.versions.save() {
            let path = self.versions.path().map(PathBuf::from).unwrap_or_default();
            tracing::error!(error = &error as &dyn std::error::Error, path = %path.display(), "resource versions not kept");
            let message = format!("resource versions could not be kept: {error}");
            self.store.push(Problem::of_file(
                path,
                None,
                message,
                "make room, or make the state directory writable",
            ));
        }
    }

    #[cfg(test)]
    pub(super) fn objects(&self) -> &BTreeMap<ObjectRef, Arc<Object>> {
        &self.objects
    }

    /// All problems, in order of file and line.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let readable = self.noted.iter().filter(|key| !self.faults.contains_key(*key));
        let mut problems: Vec<Problem> = readable
            .filter_map(|key| self.files.get(key))
            .flat_map(|reading| reading.problems.iter().cloned())
            .collect();
        let leaves = |object: &ObjectRef| {
            let places = self.places.get(object).into_iter().flatten();
            places.into_iter().any(|(_, key, _)| self.leaving.contains(key))
        };
        let duplicates = self.duplicates.iter().filter(|(object, _)| !leaves(object));
        problems.extend(
            self.faults
                .values()
                .chain(duplicates.map(|(_, problems)| problems))
                .chain([&self.store])
                .flatten()
                .cloned(),
        );
        problems.sort();
        problems
    }

    /// Forgets a place, unless the file's new reading has the same object there.
    fn forget_place(&mut self, object: &ObjectRef, key: &FileKey, i: usize) {
        let still = self.files.get(key).and_then(|reading| reading.objects.get(i));
        if still.is_some_and(|written| written.object.reference() == *object) {
            return;
        }
        let user = self.directory(key).writer == Writer::User;
        if let Some(places) = self.places.get_mut(object) {
            places.remove(&(user, key.clone(), i));
            if places.is_empty() {
                self.places.remove(object);
            }
        }
    }

    fn written(&self, place: &Place) -> Option<&Written> {
        self.files
            .get(&place.1)
            .and_then(|reading| reading.objects.get(place.2))
    }

    /// Decides which of an object's places counts. `None`: nothing changed.
    fn settle(&mut self, object: ObjectRef) -> Option<(ObjectRef, Option<Arc<Object>>)> {
        let places: Vec<Place> = self.places.get(&object).into_iter().flatten().cloned().collect();
        self.note_duplicates(&object, &places);
        let Some(first) = places.first() else {
            self.versions.forget(&version_key(&object));
            return self.objects.remove(&object).map(|_| (object, None));
        };
        let written = self.written(first)?.clone();
        let mut new = written.object;
        if first.0 || new.uid.is_empty() || new.resource_version == 0 {
            let file = self.path(&first.1);
            new.uid = uid_of(&new.kind, &new.namespace, &new.name);
            new.resource_version = self
                .versions
                .number(&version_key(&object), &written.hash, &file, &new.raw);
        } else {
            self.versions.forget(&version_key(&object));
            // People know the file that they wrote themselves, not the machine's.
            let own = places
                .iter()
                .find(|place| place.0)
                .and_then(|place| self.written(place));
            if let Some(own) = own {
                new.origin.clone_from(&own.object.origin);
            }
        }
        if self.objects.get(&object).is_some_and(|old| **old == new) {
            return None;
        }
        let new = Arc::new(new);
        self.objects.insert(object.clone(), Arc::clone(&new));
        Some((object, Some(new)))
    }

    fn note_duplicates(&mut self, object: &ObjectRef, places: &[Place]) {
        self.duplicates.remove(object);
        let mut problems = Vec::new();
        for user in [false, true] {
            let mut same = places.iter().filter(|place| place.0 == user);
            let Some(first) = same.next().and_then(|place| self.written(place)) else {
                continue;
            };
            let Some(acts) = &first.object.origin else {
                continue;
            };
            for other in same.filter_map(|place| self.written(place)) {
                let message = format!("is written twice; the one at {acts} acts");
                let problem = other
                    .object
                    .problem(Severity::Error, "metadata.name", message, "keep one of the two");
                problems.push(problem);
            }
        }
        if !problems.is_empty() {
            self.duplicates.insert(object.clone(), problems);
        }
    }
}

fn version_key(object: &ObjectRef) -> String {
    format!("{}/{}/{}", object.kind, object.namespace, object.name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifests::read::read;
    use crate::objects::Kinds;

    fn merged() -> Merged {
        let directory = |path: &str, writer| Directory {
            path: path.into(),
            files: Selection::Here,
            writer,
            kinds: Kinds::control(),
        };
        let directories = vec![directory("user", Writer::User), directory("objects", Writer::Machine)];
        Merged::new(directories, Versions::open(None, 1).unwrap())
    }

    fn put(merged: &mut Merged, key: (usize, &str), text: &str) -> Delta {
        let key = (key.0, key.1.to_owned());
        let (path, writer) = (merged.path(&key), merged.directory(&key).writer);
        match read(&path, text.as_bytes(), writer, &Kinds::control()) {
            Ok(reading) => merged.file(&key, Some(reading)),
            Err(problems) => merged.unreadable(&key, problems),
        }
    }

    fn service(name: &str, port: u16) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports: [{{port: {port}}}]\n---\n")
    }

    fn port(merged: &Merged, name: &str) -> Option<u64> {
        let object = merged.objects().values().find(|object| object.name == name)?;
        object.raw.pointer("/spec/ports/0/port")?.as_u64()
    }

    #[test]
    fn only_what_changed_is_told() {
        let mut merged = merged();
        assert_eq!(
            put(&mut merged, (0, "a.yaml"), &(service("a", 1) + &service("b", 1))).len(),
            2
        );
        let delta = put(&mut merged, (0, "a.yaml"), &(service("a", 1) + &service("b", 2)));
        assert_eq!(
            delta.keys().map(|object| object.name.as_str()).collect::<Vec<_>>(),
            ["b"]
        );
        let delta = put(&mut merged, (0, "a.yaml"), &service("b", 2));
        assert!(
            delta.values().filter(|change| change.is_none()).count() == 1,
            "{delta:?}"
        );
        assert_eq!((port(&merged, "a"), port(&merged, "b")), (None, Some(2)));
    }

    #[test]
    fn of_duplicates_the_first_by_file_name_acts_and_both_are_named() {
        let mut merged = merged();
        put(&mut merged, (0, "b.yaml"), &service("a", 2));
        put(&mut merged, (0, "a.yaml"), &(service("x", 1) + &service("a", 1)));
        assert_eq!(port(&merged, "a"), Some(1));
        let [problem] = &merged.problems()[..] else {
            panic!("{:?}", merged.problems())
        };
        assert_eq!(
            problem.to_string(),
            "user/b.yaml:4: Service default/a: metadata.name: is written twice; the one at user/a.yaml:8 acts (fix: keep one of the two)"
        );
        merged.file(&(0, "a.yaml".to_owned()), None);
        assert_eq!(port(&merged, "a"), Some(2));
        assert!(merged.problems().is_empty());
    }

    #[test]
    fn a_file_that_moves_is_nothing_that_is_written_twice() {
        let mut merged = merged();
        put(&mut merged, (0, "b.yaml"), &service("a", 1));
        merged.leaving(BTreeSet::from([(0, "b.yaml".to_owned())]));
        put(&mut merged, (0, "c.yaml"), &service("a", 1));
        assert!(merged.problems().is_empty(), "{:?}", merged.problems());
        merged.leaving(BTreeSet::new());
        assert_eq!(merged.problems().len(), 1, "it is there after all");
    }

    #[test]
    fn an_unreadable_file_keeps_its_objects_until_it_is_gone() {
        let mut merged = merged();
        put(&mut merged, (0, "a.yaml"), &service("a", 1));
        assert!(put(&mut merged, (0, "a.yaml"), "a: b: c").is_empty());
        assert_eq!(port(&merged, "a"), Some(1));
        assert_eq!(merged.problems().len(), 1);
        assert_eq!(merged.file(&(0, "a.yaml".to_owned()), None).len(), 1);
        assert!(merged.objects().is_empty() && merged.problems().is_empty());
    }

    #[test]
    fn one_broken_document_keeps_the_whole_file_as_it_was() {
        let mut merged = merged();
        put(&mut merged, (0, "a.yaml"), &(service("a", 1) + &service("b", 1)));
        put(
            &mut merged,
            (0, "a.yaml"),
            &(service("a", 2) + &service("b", 2).replace("kind", "knd")),
        );
        assert_eq!((port(&merged, "a"), port(&merged, "b")), (Some(1), Some(1)));
    }

    #[test]
    fn a_namespace_whose_version_is_mistyped_is_kept_as_it_was() {
        let text =
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {config.weft.dev/inbound: strict}}\n";
        let mut merged = merged();
        put(&mut merged, (0, "a.yaml"), text);
        assert!(put(&mut merged, (0, "a.yaml"), &text.replace("v1\n", "v2\n")).is_empty());
        assert_eq!((merged.objects().len(), merged.problems().len()), (1, 1));
    }

    #[test]
    fn what_a_machine_wrote_takes_the_place_of_the_users_but_people_are_shown_their_own_file() {
        let mut merged = merged();
        put(&mut merged, (0, "a.yaml"), &service("a", 1));
        let machine = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "uid": "u", "resourceVersion": "7"}, "spec": {"ports": [{"port": 2}]}}"#;
        put(&mut merged, (1, "s.json"), machine);
        let object = merged.objects().values().next().unwrap();
        assert_eq!((object.uid.as_str(), object.resource_version), ("u", 7));
        assert_eq!(object.origin.as_ref().unwrap().file, Path::new("user/a.yaml"));
        assert_eq!(port(&merged, "a"), Some(2));
        assert!(merged.problems().is_empty());
    }

    #[test]
    fn a_users_uid_and_resource_version_are_not_believed() {
        let mut merged = merged();
        put(
            &mut merged,
            (0, "a.yaml"),
            &service("a", 1).replace("  name: a", "  name: a\n  uid: x\n  resourceVersion: '9'"),
        );
        let object = merged.objects().values().next().unwrap();
        assert_eq!(object.uid, uid_of("Service", "default", "a"));
        assert_eq!(object.resource_version, 1);
    }

    #[test]
    fn a_restart_while_a_file_is_unreadable_takes_nothing_away() {
        let state = tempfile::tempdir().unwrap();
        let open = || {
            let mut merged = merged();
            merged.versions = Versions::open(Some(state.path()), 1).unwrap();
            merged
        };
        let mut before = open();
        put(&mut before, (0, "a.yaml"), &service("a", 1));
        put(&mut before, (0, "b.yaml"), &service("b", 1));
        before.save();
        let number = before.objects().values().next().unwrap().resource_version;

        let mut after = open();
        put(&mut after, (0, "a.yaml"), "a: b: c");
        after.complete();
        assert_eq!(port(&after, "a"), Some(1));
        assert_eq!(after.objects().values().next().unwrap().resource_version, number);
        assert_eq!(port(&after, "b"), None, "its file was deleted meanwhile");
        assert_eq!(after.problems().len(), 1);
    }
}
