//! The objects that a local cluster writes for its control plane: `objects/` in the state directory.
//!
//! In: all objects as they are to be now. Out: one JSON file each, written aside (a dot-file) and renamed, with uid and
//! `resourceVersion`; files of objects that are gone are removed. What did not change is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_control::objects::uid_of;

/// The directory of finished objects.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    written: BTreeMap<String, String>,
    counter: Counter,
}

/// Numbers that rise, also across restarts.
#[derive(Debug)]
struct Counter {
    path: PathBuf,
    next: u64,
    /// Numbers below this one are ours to give without writing.
    reserved: u64,
}

/// How many numbers are reserved with one write: after a crash as many are skipped at most.
const RESERVE: u64 = 10_000;

impl Store {
    /// Opens the directory and empties it: the pods of an earlier run are gone.
    ///
    /// # Errors
    /// The directory or the counter can't be used.
    pub fn open(directory: &Path, counter: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(directory)?;
        let counter = Counter::open(counter)?;
        Ok(Self {
            directory: directory.to_owned(),
            written: BTreeMap::new(),
            counter,
        })
    }

    /// Makes the directory say exactly this, in this order: what an object refers to comes before it.
    ///
    /// # Errors
    /// A file can't be written; the next call tries again.
    pub fn sync(&mut self, objects: Vec<Value>) -> io::Result<()> {
        let mut present = BTreeSet::new();
        for mut object in objects {
            let file = file_name(&object);
            complete(&mut object);
            let text = object.to_string();
            present.insert(file.clone());
            if self.written.get(&file) == Some(&text) {
                continue;
            }
            object["metadata"]["resourceVersion"] = json!(self.counter.take()?.to_string());
            let aside = self.directory.join(format!(".{file}"));
            fs::write(&aside, format!("{object:#}\n"))?;
            fs::rename(&aside, self.directory.join(&file))?;
            self.written.insert(file, text);
        }
        let gone: Vec<String> = self
            .written
            .keys()
            .filter(|file| !present.contains(*file))
            .cloned()
            .collect();
        for file in gone {
            match fs::remove_file(self.directory.join(&file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.written.remove(&file)),
            }
        }
        Ok(())
    }
}

/// What an API server would add.
fn complete(object: &mut Value) {
    if object["metadata"]["uid"].is_null() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let uid = uid_of(
            &text(&object["kind"]),
            &text(&metadata["namespace"]),
            &text(&metadata["name"]),
        );
        object["metadata"]["uid"] = json!(uid);
    }
}

/// `pod.shop.web-1.json`. Names of objects hold no slash.
fn file_name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let kind = text(&object["kind"]).to_ascii_lowercase();
    format!(
        "{kind}.{}.{}.json",
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
    .replace('/', "_")
}

impl Counter {
    fn open(path: &Path) -> io::Result<Self> {
        let next = match fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let why = format!("{} holds no number: remove the mesh's state directory", path.display());
                io::Error::new(io::ErrorKind::InvalidData, why)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 1,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path: path.to_owned(),
            next,
            reserved: next,
        })
    }

    fn take(&mut self) -> io::Result<u64> {
        if self.next >= self.reserved {
            let reserved = self.next + RESERVE;
            weft_daemon::file::replace(&self.path, 0o600, reserved.to_string().as_bytes())?;
            self.reserved = reserved;
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool) -> Value {
        json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": name}, "status": {"ready": ready}})
    }

    fn version(directory: &Path, file: &str) -> u64 {
        let text = fs::read_to_string(directory.join(file)).unwrap();
        let object: Value = serde_json::from_str(&text).unwrap();
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    fn files(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_directory_says_what_there_is_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (objects, counter) = (directory.path().join("objects"), directory.path().join("versions"));
        let mut store = Store::open(&objects, &counter).unwrap();
        store.sync(vec![pod("a", true), pod("b", true)]).unwrap();
        assert_eq!(files(&objects), ["pod.shop.a.json", "pod.shop.b.json"]);
        store.sync(vec![pod("b", true)]).unwrap();
        assert_eq!(files(&objects), ["pod.shop.b.json"]);
    }

    #[test]
    fn only_what_changed_is_written_and_its_version_rises() {
        let directory = tempfile::tempdir().unwrap();
        let (objects, counter) = (directory.path().join("objects"), directory.path().join("versions"));
        let mut store = Store::open(&objects, &counter).unwrap();
        store.sync(vec![pod("a", true), pod("b", true)]).unwrap();
        let (a, b) = (
            version(&objects, "pod.shop.a.json"),
            version(&objects, "pod.shop.b.json"),
        );
        store.sync(vec![pod("a", true), pod("b", false)]).unwrap();
        assert_eq!(version(&objects, "pod.shop.a.json"), a);
        assert!(version(&objects, "pod.shop.b.json") > b);
    }

    #[test]
    fn versions_rise_across_restarts_and_old_objects_are_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let (objects, counter) = (directory.path().join("objects"), directory.path().join("versions"));
        Store::open(&objects, &counter)
            .unwrap()
            .sync(vec![pod("a", true)])
            .unwrap();
        let first = version(&objects, "pod.shop.a.json");
        let mut again = Store::open(&objects, &counter).unwrap();
        assert_eq!(files(&objects), Vec::<String>::new());
        again.sync(vec![pod("a", true)]).unwrap();
        assert!(version(&objects, "pod.shop.a.json") > first);
    }
}
