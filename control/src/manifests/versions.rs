//! Resource versions of a user's objects: one counter, kept in the state directory, so that an unchanged object keeps its
//! number across restarts and a changed one always rises. What each object last said is kept beside its number, so that a
//! restart while a file cannot be read takes nothing away.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file in the state directory.
const FILE: &str = "versions.json";

/// The counter and what it counted.
#[derive(Debug)]
pub(super) struct Versions {
    path: Option<PathBuf>,
    kept: Kept,
    dirty: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    /// The number that the next change gets.
    next: u64,
    /// By `Kind/namespace/name`.
    objects: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    version: u64,
    hash: String,
    file: PathBuf,
    object: Value,
}

impl Versions {
    /// Opens what a state directory holds; `None`: begins in memory. What cannot be understood is put aside, and numbers
    /// then go on from `later`, which must be above all that could have been given out.
    pub(super) fn open(state_dir: Option<&Path>, later: u64) -> io::Result<Self> {
        let empty = |next| Kept {
            next,
            objects: BTreeMap::new(),
        };
        let Some(directory) = state_dir else {
            return Ok(Self {
                path: None,
                kept: empty(1),
                dirty: false,
            });
        };
        fs::create_dir_all(directory)?;
        let path = directory.join(FILE);
        let kept = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(kept) => kept,
                Err(error) => {
                    let aside = path.with_extension("json.unreadable");
                    tracing::warn!(%error, path = %path.display(), "resource versions unreadable, put aside");
                    fs::rename(&path, aside)?;
                    empty(later)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => empty(1),
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: Some(path),
            kept,
            dirty: false,
        })
    }

    /// The number of an object with this content: a new one, if the content is new.
    pub(super) fn number(&mut self, key: &str, hash: &str, file: &Path, object: &Value) -> u64 {
        match self.kept.objects.get_mut(key) {
            Some(entry) if entry.hash == hash => {
                if entry.file != file {
                    file.clone_into(&mut entry.file);
                    self.dirty = true;
                }
                entry.version
            }
            _ => {
                let version = self.kept.next;
                self.kept.next += 1;
                let entry = Entry {
                    version,
                    hash: hash.to_owned(),
                    file: file.to_owned(),
                    object: object.clone(),
                };
                self.kept.objects.insert(key.to_owned(), entry);
                self.dirty = true;
                version
            }
        }
    }

    /// The object is gone. The counter never goes back, so it gets a higher number if it returns.
    pub(super) fn forget(&mut self, key: &str) {
        self.dirty |= self.kept.objects.remove(key).is_some();
    }

    /// Forgets all objects but these.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let before = self.kept.objects.len();
        self.kept.objects.retain(|key, _| keep(key));
        self.dirty |= self.kept.objects.len() != before;
    }

    /// What the objects of a file last said.
    pub(super) fn of_file(&self, file: &Path) -> Vec<Value> {
        self.kept
            .objects
            .values()
            .filter(|entry| entry.file == file)
            .map(|entry| entry.object.clone())
            .collect()
    }

    /// Writes what changed: aside, then renamed. To be called before a new number is shown to anyone: a number that was
    /// forgotten in a crash would be given out twice.
    pub(super) fn save(&mut self) -> io::Result<()> {
        let (true, Some(path)) = (self.dirty, &self.path) else {
            return Ok(());
        };
        let aside = path.with_extension("json.new");
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)?;
        file.write_all(&serde_json::to_vec(&self.kept)?)?;
        file.sync_data()?;
        fs::rename(&aside, path)?;
        self.dirty = false;
        Ok(())
    }

    /// Where they are kept.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(versions: &mut Versions, key: &str, hash: &str) -> u64 {
        versions.number(key, hash, Path::new("a.yaml"), &json!({"hash": hash}))
    }

    #[test]
    fn unchanged_objects_keep_their_number_across_restarts_and_changes_rise() {
        let directory = tempfile::tempdir().unwrap();
        let mut versions = Versions::open(Some(directory.path()), 1000).unwrap();
        let (a, b) = (number(&mut versions, "a", "1"), number(&mut versions, "b", "1"));
        assert!(a < b);
        versions.save().unwrap();
        let mut again = Versions::open(Some(directory.path()), 1000).unwrap();
        assert_eq!(number(&mut again, "a", "1"), a);
        assert!(number(&mut again, "a", "2") > b);
        assert_eq!(
            again.of_file(Path::new("a.yaml")),
            [json!({"hash": "2"}), json!({"hash": "1"})]
        );
    }

    #[test]
    fn an_object_that_returns_has_a_higher_number_although_it_is_the_same() {
        let mut versions = Versions::open(None, 1000).unwrap();
        let first = number(&mut versions, "a", "1");
        versions.forget("a");
        assert!(number(&mut versions, "a", "1") > first);
    }

    #[test]
    fn unreadable_versions_are_put_aside_and_numbers_go_on_above() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{").unwrap();
        let mut versions = Versions::open(Some(directory.path()), 1000).unwrap();
        assert_eq!(number(&mut versions, "a", "1"), 1000);
        assert!(directory.path().join("versions.json.unreadable").exists());
    }
}
