//! ClusterPeers and ServiceExports as they last were valid, kept in the state directory: one that is invalid while this process
//! begins still acts as it did before. What a cluster shares must not end, nor what it takes, because a restart came between a
//! mistake and its mending.
//!
//! A file for each object, named by a hash of what it is, for names must lead nowhere else. What cannot be read is as good as
//! nothing, and is told in the log; so is what cannot be written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_model::name::ObjectRef;

use crate::index::{Changed, Index};
use crate::manifests::{Changes, Snapshot};
use crate::objects::Object;

/// Objects that are remembered; of one more than that nothing is known after a restart.
const OBJECTS_MAX: usize = 20_000;
/// The largest file that is read. An API server takes no object that is larger.
const BYTES_MAX: u64 = 4 << 20;

/// What is remembered, and where.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    directory: PathBuf,
    /// What the files have, by the names of the files.
    written: BTreeMap<String, Arc<Object>>,
    /// Whether files of objects that went before this process began are gone.
    is_swept: bool,
}

/// An object in its file. Its name and labels are in its metadata.
#[derive(Serialize, Deserialize)]
struct Written<T> {
    uid: String,
    resource_version: u64,
    generation: u64,
    namespace: String,
    raw: T,
}

impl Remembered {
    /// Below a state directory.
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            directory: state.join("remembered"),
            written: BTreeMap::new(),
            is_swept: false,
        }
    }

    /// Takes in all that there is when the process begins: before what is invalid now, as it last was valid.
    pub(crate) fn begin(&self, index: &mut Index, snapshot: &Snapshot) -> Changed {
        let ours = || snapshot.objects.iter().filter(|object| is_ours(&object.kind));
        let before: BTreeMap<ObjectRef, Arc<Object>> = ours()
            .filter_map(|object| Some((object.reference(), Arc::new(self.read(object)?))))
            .collect();
        let objects = snapshot.objects.iter();
        let objects = objects.map(|object| before.get(&object.reference()).unwrap_or(object).clone());
        let mut changed = index.replace(&Snapshot {
            objects: objects.collect(),
            ..Snapshot::default()
        });
        let now = ours().filter(|object| before.contains_key(&object.reference()));
        let now = index.apply(&Changes {
            upserts: now.cloned().collect(),
            ..Changes::default()
        });
        changed.topics.extend(now.topics);
        changed
    }

    /// Remembers what acts by now, and forgets what is gone. `whole`: no file is there that cannot be read, so what is not known
    /// is not there.
    pub(crate) fn keep(&mut self, index: &Index, whole: bool) {
        let mut there = BTreeSet::new();
        for object in index.remembered().take(OBJECTS_MAX) {
            let name = file_name(&object.reference());
            let is_written = self
                .written
                .get(&name)
                .is_some_and(|before| Arc::ptr_eq(before, object));
            if is_written || self.write(&name, object) {
                self.written.insert(name.clone(), object.clone());
            }
            there.insert(name);
        }
        let gone: Vec<String> = self
            .written
            .keys()
            .filter(|name| !there.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            remove(&self.directory.join(&name));
            self.written.remove(&name);
        }
        if whole && !self.is_swept {
            self.sweep(&there);
            self.is_swept = true;
        }
    }

    fn write(&self, name: &str, object: &Object) -> bool {
        let Object {
            uid,
            resource_version,
            generation,
            namespace,
            raw,
            ..
        } = object;
        let written = Written {
            uid: uid.clone(),
            resource_version: *resource_version,
            generation: *generation,
            namespace: namespace.clone(),
            raw,
        };
        let path = self.directory.join(name);
        let done = serde_json::to_vec(&written)
            .map_err(io::Error::other)
            .and_then(|bytes| {
                // After a restart most of it is there already.
                if std::fs::read(&path).is_ok_and(|before| before == bytes) {
                    return Ok(());
                }
                std::fs::create_dir_all(&self.directory)?;
                // Not waited for until it is on disk: there may be thousands, and proxies wait. One that was cut off is as good
                // as none.
                let aside = self.directory.join(format!(".{name}.new"));
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&aside)?;
                file.write_all(&bytes)?;
                std::fs::rename(&aside, &path)
            });
        if let Err(error) = &done {
            let object = object.reference();
            tracing::warn!(%object, %error, "how it is now will not be known after a restart");
        }
        done.is_ok()
    }

    /// Removes the files of objects that went before this process began.
    fn sweep(&self, there: &BTreeSet<String>) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let gone = entry.file_name().to_str().is_some_and(|name| !there.contains(name));
            if gone {
                remove(&entry.path());
            }
        }
    }

    /// An object as it last was valid, if it is of the same life: one that was made anew under its name is another.
    fn read(&self, object: &Object) -> Option<Object> {
        let path = self.directory.join(file_name(&object.reference()));
        let read = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > BYTES_MAX => Err(io::Error::other("the file is larger than is read")),
            Ok(_) => std::fs::read(&path)
                .and_then(|bytes| serde_json::from_slice::<Written<Value>>(&bytes).map_err(io::Error::other)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error),
        };
        let written = read
            .inspect_err(
                |error| tracing::warn!(file = %path.display(), %error, "an object's last valid form is not known"),
            )
            .ok()?;
        (written.uid == object.uid && written.namespace == object.namespace).then(|| written.object(object))
    }
}

impl Written<Value> {
    fn object(self, now: &Object) -> Object {
        let texts = |field: &str| {
            let all = self.raw["metadata"][field].as_object().into_iter().flatten();
            all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        Object {
            api_version: self.raw["apiVersion"].as_str().unwrap_or_default().to_owned(),
            kind: now.kind.clone(),
            namespace: self.namespace,
            name: now.name.clone(),
            uid: self.uid,
            resource_version: self.resource_version,
            generation: self.generation,
            labels: texts("labels"),
            annotations: texts("annotations"),
            // It stands nowhere any more.
            origin: None,
            raw: self.raw,
        }
    }
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file) {
        tracing::warn!(file = %file.display(), %error, "what is gone is still remembered");
    }
}

fn is_ours(kind: &str) -> bool {
    matches!(kind, "ClusterPeer" | "ServiceExport")
}

fn file_name(of: &ObjectRef) -> String {
    let hash = digest(&SHA256, of.to_string().as_bytes());
    hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
