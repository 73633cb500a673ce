//! Manifests: directories of YAML and JSON files, read and watched.
//!
//! In: directories. Out: objects with their lines, changes as they happen, and problems. Only files that changed are read
//! again; a file that cannot be read keeps its objects. What the objects mean is the index's business.

use std::path::PathBuf;
use std::sync::Arc;

use crate::objects::{Kinds, Object, ObjectRef, Problem};

/// A directory to read.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Where it is. Its files `*.yaml`, `*.yml` and `*.json` are read; subdirectories are not.
    pub path: PathBuf,
    /// Who writes it.
    pub writer: Writer,
    /// The kinds that are taken from it.
    pub kinds: Kinds,
}

/// Who writes a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A person: files are read when they have been still for a while, with lines; uid and resource version are ours.
    User,
    /// A machine: files appear whole (renamed into place), and objects carry their uid and resource version. An object
    /// from here takes the place of a user's of the same name.
    Machine,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directories, in order of precedence among those of one writer.
    pub directories: Vec<Directory>,
    /// Where the resource versions of a user's objects are kept (`versions.json`). `None`: in memory only.
    pub state_dir: Option<PathBuf>,
}

/// All objects and problems at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The objects, in order of their names.
    pub objects: Vec<Arc<Object>>,
    /// What is wrong, in order of file and line.
    pub problems: Arc<[Problem]>,
}

/// What changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// New and changed objects.
    pub upserts: Vec<Arc<Object>>,
    /// Objects that are gone.
    pub deletes: Vec<ObjectRef>,
    /// What is wrong now: all of it.
    pub problems: Arc<[Problem]>,
}

/// Why directories cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory is not there, or not readable.
    #[error("reading the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The resource versions cannot be kept.
    #[error("keeping resource versions in {path}")]
    Versions {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The thread that reads the files did not start.
    #[error("starting the thread that watches manifests")]
    Thread(#[source] std::io::Error),
}

/// Watched directories. Dropping it ends the watch.
#[derive(Debug)]
pub struct Manifests {}

impl Settings {
    /// What the control plane reads from these directories. One called `objects` is written by a machine (`local`); where
    /// there is one, Pods of the user's files are left to that machine.
    pub fn control(_directories: &[PathBuf], _state_dir: Option<PathBuf>) -> Self {
        todo!()
    }
}

impl Manifests {
    /// Reads the directories and begins to watch them. Blocks while files are read.
    ///
    /// # Errors
    /// A directory is not readable, or the versions cannot be kept. Bad files are problems, not errors.
    pub fn open(_settings: Settings) -> Result<Self, OpenError> {
        todo!()
    }

    /// All objects and problems now.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// Waits for changes since the last call (the first: since [`Manifests::open`]). `None`: there will be no more.
    /// Cancel safe.
    pub async fn changed(&mut self) -> Option<Changes> {
        todo!()
    }
}
