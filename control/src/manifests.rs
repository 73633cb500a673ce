//! Manifests: directories of YAML and JSON files, read and watched.
//!
//! In: directories. Out: objects with their lines, changes as they happen, and problems. Only files that changed are read
//! again; a file that cannot be read keeps its objects. What the objects mean is the index's business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::objects::{Kinds, Object, ObjectRef, Problem, uid_of};

mod emptied;
mod merge;
mod read;
mod still;
mod versions;
mod watch;
mod watches;
mod yaml;

use merge::{Delta, Merged};
use versions::Versions;
use watch::{Reader, Signal};

/// A directory to read.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Which of its files are read.
    pub files: Selection,
    /// Who writes it.
    pub writer: Writer,
    /// The kinds that are taken from it.
    pub kinds: Kinds,
}

/// Which files of a directory are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// `*.yaml`, `*.yml` and `*.json`, but not in its subdirectories.
    #[default]
    Here,
    /// Those in its subdirectories, too; symbolic links to directories are not followed.
    Below,
    /// One file, whatever its name ends with.
    One {
        /// Its name.
        name: String,
        /// What people know it as, if that is not its path: standard input is kept in a file.
        shown: Option<PathBuf>,
    },
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
pub struct Manifests {
    shared: Arc<Shared>,
    stop: SyncSender<Signal>,
    thread: Option<JoinHandle<()>>,
}

/// What the reading thread shows.
#[derive(Debug, Default)]
struct Shared {
    /// Held for copies and comparisons only, never over a wait.
    shown: Mutex<Shown>,
    news: Notify,
    /// The consumer is gone.
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Shown {
    objects: BTreeMap<ObjectRef, Arc<Object>>,
    problems: Arc<[Problem]>,
    /// What the consumer has not taken yet: at most one entry for each object.
    pending: Delta,
    pending_problems: bool,
    closed: bool,
}

impl Settings {
    /// What the control plane reads from these directories and files. A directory called `objects` is written by a machine
    /// (`local`); where there is one, Pods of the user's files are left to that machine. `recursive`: the user's
    /// subdirectories, too.
    pub fn control(paths: &[PathBuf], recursive: bool, state_dir: Option<PathBuf>) -> Self {
        let machine = |path: &PathBuf| path.file_name().is_some_and(|name| name == "objects");
        let any_machine = paths.iter().any(machine);
        let directory = |path: &PathBuf| match machine(path) {
            true => Directory {
                path: path.clone(),
                files: Selection::Here,
                writer: Writer::Machine,
                kinds: Kinds::control(),
            },
            false => {
                let kinds = Kinds::control();
                let kinds = if any_machine { kinds.elsewhere("", "Pod") } else { kinds };
                let (path, files) = Selection::of(path, recursive);
                Directory {
                    path,
                    files,
                    writer: Writer::User,
                    kinds,
                }
            }
        };
        Self {
            directories: paths.iter().map(directory).collect(),
            state_dir,
        }
    }
}

impl Selection {
    /// The directory and its files that a path means: a directory, or one file. A file may be gone for the moment, then its
    /// name tells.
    pub fn of(path: &Path, recursive: bool) -> (PathBuf, Self) {
        let is_file = path.is_file() || (!path.exists() && watch::is_manifest(path));
        let (Some(name), true) = (path.file_name().and_then(|name| name.to_str()), is_file) else {
            let files = if recursive { Self::Below } else { Self::Here };
            return (path.to_owned(), files);
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let name = name.to_owned();
        (
            parent.unwrap_or(Path::new(".")).to_owned(),
            Self::One { name, shown: None },
        )
    }
}

impl Manifests {
    /// Reads the directories and begins to watch them. Blocks while files are read, and, for at most two seconds, while a
    /// user's file is being written.
    ///
    /// # Errors
    /// A directory is not readable, or the versions cannot be kept. Bad files are problems, not errors.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let Settings { directories, state_dir } = settings;
        // If the counter is lost, seconds since 1970 are above all that it can have counted to.
        let later = SystemTime::UNIX_EPOCH.elapsed().map_or(1 << 32, |age| age.as_secs());
        let versions = Versions::open(state_dir.as_deref(), later).map_err(|source| OpenError::Versions {
            path: state_dir.unwrap_or_default(),
            source,
        })?;
        let paths: Vec<PathBuf> = directories.iter().map(|directory| directory.path.clone()).collect();
        let shared = Arc::new(Shared::default());
        let (reader, stop) = Reader::start(Merged::new(directories, versions), paths, Arc::clone(&shared))
            .map_err(|(path, source)| OpenError::Directory { path, source })?;
        shared.lock().forget_pending();
        let thread = std::thread::Builder::new().name("weft-manifests".to_owned());
        let thread = thread.spawn(move || reader.run()).map_err(OpenError::Thread)?;
        Ok(Self {
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// All objects and problems now.
    pub fn snapshot(&self) -> Snapshot {
        let shown = self.shared.lock();
        Snapshot {
            objects: shown.objects.values().cloned().collect(),
            problems: Arc::clone(&shown.problems),
        }
    }

    /// Waits for changes since the last call (the first: since [`Manifests::open`]). `None`: there will be no more.
    /// Cancel safe.
    pub async fn changed(&mut self) -> Option<Changes> {
        loop {
            let news = self.shared.news.notified();
            {
                let mut shown = self.shared.lock();
                if !shown.pending.is_empty() || shown.pending_problems {
                    return Some(shown.take());
                }
                if shown.closed {
                    return None;
                }
            }
            news.await;
        }
    }
}

/// What the documents of a YAML text say, whatever that is, but for empty ones.
///
/// # Errors
/// It cannot be read: the line, and what is wrong with the fix.
pub fn values(text: &str) -> Result<Vec<serde_json::Value>, (u32, String)> {
    let documents =
        yaml::documents(text).map_err(|fault| (fault.line, format!("{} ({})", fault.message, fault.fix)))?;
    Ok(documents.into_iter().map(|document| document.value).collect())
}

/// Reads one text, as a file of this name and with these bytes would be read, without a directory: for checks, and for what
/// comes from elsewhere than a file. Objects without a uid or resource version get the uid of their name, and version 1.
///
/// # Errors
/// Why the text cannot be read.
pub fn parse(path: &Path, text: impl AsRef<[u8]>, writer: Writer, kinds: &Kinds) -> Result<Snapshot, Vec<Problem>> {
    let reading = read::read(path, text.as_ref(), writer, kinds)?;
    let finish = |written: read::Written| {
        let mut object = written.object;
        if writer == Writer::User || object.uid.is_empty() {
            object.uid = uid_of(&object.kind, &object.namespace, &object.name);
        }
        if writer == Writer::User || object.resource_version == 0 {
            object.resource_version = 1;
        }
        Arc::new(object)
    };
    Ok(Snapshot {
        objects: reading.objects.into_iter().map(finish).collect(),
        problems: reading.problems.into(),
    })
}

impl Drop for Manifests {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Only to wake it: where the channel is full, the thread is awake.
        let _ = self.stop.try_send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            // At most one reading of what is due. Whoever opens the same state directory next must find it written.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        // No code panics while it holds the lock; what is behind it is consistent either way.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, delta: Delta, problems: Vec<Problem>) {
        let mut shown = self.lock();
        if shown.problems[..] != problems[..] {
            shown.problems = problems.into();
            shown.pending_problems = true;
        } else if delta.is_empty() {
            return;
        }
        for (name, object) in delta {
            match &object {
                Some(object) => shown.objects.insert(name.clone(), Arc::clone(object)),
                None => shown.objects.remove(&name),
            };
            shown.pending.insert(name, object);
        }
        drop(shown);
        self.news.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }
}

impl Shown {
    fn forget_pending(&mut self) {
        self.pending.clear();
        self.pending_problems = false;
    }

    fn take(&mut self) -> Changes {
        self.pending_problems = false;
        let mut changes = Changes {
            problems: Arc::clone(&self.problems),
            ..Changes::default()
        };
        for (name, object) in std::mem::take(&mut self.pending) {
            match object {
                Some(object) => changes.upserts.push(object),
                None => changes.deletes.push(name),
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn open(directory: &Path, writer: Writer) -> Manifests {
        let directories = vec![Directory {
            path: directory.to_owned(),
            files: Selection::Here,
            writer,
            kinds: Kinds::control(),
        }];
        Manifests::open(Settings {
            directories,
            state_dir: None,
        })
        .unwrap()
    }

    fn service(name: &str, port: u16) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
    }

    /// Changes, until they are like this.
    async fn until(manifests: &mut Manifests, mut like: impl FnMut(&Changes) -> bool) -> Changes {
        let wait = async {
            loop {
                let changes = manifests.changed().await.expect("the thread lives");
                if like(&changes) {
                    return changes;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("a change within 20 s")
    }

    #[tokio::test]
    async fn edits_additions_and_deletions_are_seen_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), service("a", 1)).unwrap();
        fs::write(directory.path().join("b.yaml"), service("b", 1)).unwrap();
        let mut manifests = open(directory.path(), Writer::User);
        assert_eq!(manifests.snapshot().objects.len(), 2);

        fs::write(directory.path().join("a.yaml"), service("a", 2)).unwrap();
        fs::write(directory.path().join(".hidden.yaml"), service("h", 2)).unwrap();
        let changes = until(&mut manifests, |_| true).await;
        assert_eq!(
            changes
                .upserts
                .iter()
                .map(|object| object.name.as_str())
                .collect::<Vec<_>>(),
            ["a"]
        );
        assert_eq!(changes.upserts[0].resource_version, 3);

        fs::write(directory.path().join("c.yaml"), service("c", 1)).unwrap();
        until(&mut manifests, |changes| {
            changes.upserts.iter().any(|object| object.name == "c")
        })
        .await;
        fs::remove_file(directory.path().join("b.yaml")).unwrap();
        until(&mut manifests, |changes| {
            changes.deletes.iter().any(|object| object.name == "b")
        })
        .await;
        assert_eq!(manifests.snapshot().objects.len(), 2);
    }

    #[tokio::test]
    async fn a_broken_edit_keeps_the_objects_and_is_a_problem_until_it_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, service("a", 1)).unwrap();
        let mut manifests = open(directory.path(), Writer::User);
        fs::write(&file, "a: b: c").unwrap();
        let changes = until(&mut manifests, |changes| !changes.problems.is_empty()).await;
        assert!(changes.deletes.is_empty() && changes.upserts.is_empty());
        assert_eq!(manifests.snapshot().objects.len(), 1);
        fs::write(&file, service("a", 2)).unwrap();
        until(&mut manifests, |changes| {
            changes.problems.is_empty() && changes.upserts.len() == 1
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_moves_takes_its_objects_along() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("b.yaml"), service("a", 1)).unwrap();
        let mut manifests = open(directory.path(), Writer::User);
        fs::rename(directory.path().join("b.yaml"), directory.path().join("c.yaml")).unwrap();
        let moved = |changes: &Changes| {
            assert!(changes.deletes.is_empty() && changes.problems.is_empty(), "{changes:?}");
            changes
                .upserts
                .iter()
                .any(|object| object.origin.as_ref().unwrap().file.ends_with("c.yaml"))
        };
        let changes = until(&mut manifests, moved).await;
        assert_eq!(changes.upserts[0].resource_version, 1);
    }

    #[tokio::test]
    async fn what_a_machine_renames_into_place_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut manifests = open(directory.path(), Writer::Machine);
        let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "9"}}"#;
        fs::write(directory.path().join(".pod"), pod).unwrap();
        fs::rename(directory.path().join(".pod"), directory.path().join("pod.json")).unwrap();
        let changes = until(&mut manifests, |changes| !changes.upserts.is_empty()).await;
        assert_eq!(
            (changes.upserts[0].uid.as_str(), changes.upserts[0].resource_version),
            ("u", 9)
        );
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let directories = vec![Directory {
            path: "/nonexistent".into(),
            files: Selection::Here,
            writer: Writer::User,
            kinds: Kinds::control(),
        }];
        let error = Manifests::open(Settings {
            directories,
            state_dir: None,
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "reading the directory /nonexistent");
    }

    #[test]
    fn pods_of_a_user_are_left_to_the_machine_that_runs_them() {
        let of = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            Settings::control(&paths, false, None).directories[0]
                .kinds
                .standing("v1", "Pod")
        };
        assert!(matches!(of(&["user"]), crate::objects::Standing::Understood(_)));
        assert_eq!(of(&["user", "state/objects"]), crate::objects::Standing::Elsewhere);
        assert!(matches!(
            of(&["state/objects"]),
            crate::objects::Standing::Understood(_)
        ));
    }
}
