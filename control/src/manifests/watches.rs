//! Which directories are watched for changes: those that are read, each by itself, up to a limit.
//!
//! In: the directories that a listing enters. Out: watches for them, and how soon a listing is due again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Directories that are watched. A user of a common Linux has 8192 watches at least, for all processes together.
pub(super) const WATCHES_MAX: usize = 2048;
/// How often directories are listed although they are watched: file systems exist that tell nothing.
const SWEEP_WATCHED: Duration = Duration::from_secs(5);
/// How often directories are listed that cannot be watched.
const SWEEP_UNWATCHED: Duration = Duration::from_millis(500);
/// As many directories are listed in a few milliseconds. More are listed no more often than watched ones.
const SOON_MAX: usize = 256;

/// The watches of a reader.
#[derive(Debug)]
pub(super) struct Watches<W = RecommendedWatcher> {
    /// `None`: this system has none.
    watcher: Option<W>,
    /// By path: the directory that was there.
    watched: BTreeMap<PathBuf, Which>,
    /// What the present listing has entered, and how much of it is not watched.
    entered: BTreeSet<PathBuf>,
    unwatched: usize,
    /// The limit, or the failure, was told.
    told: bool,
}

/// A directory, told from one that took its place: its inode, which file systems give out again, and when that was made,
/// where they know it.
type Which = (u64, Option<SystemTime>);

impl<W: Watcher> Watches<W> {
    pub(super) fn new(watcher: Option<W>) -> Self {
        Self {
            watcher,
            watched: BTreeMap::new(),
            entered: BTreeSet::new(),
            unwatched: 0,
            told: false,
        }
    }

    /// A listing of everything begins.
    pub(super) fn begin(&mut self) {
        self.entered.clear();
        self.unwatched = 0;
    }

    /// It enters a directory, and will list it next: what comes afterwards is an event.
    pub(super) fn enter(&mut self, path: &Path) {
        if !self.entered.insert(path.to_owned()) {
            return;
        }
        let Some(watcher) = &mut self.watcher else {
            self.unwatched += 1;
            return;
        };
        let which = fs::metadata(path).ok();
        let which = which.map(|directory| (directory.ino(), directory.created().ok()));
        if which.is_some() && which.as_ref() == self.watched.get(path) {
            return;
        }
        if self.watched.remove(path).is_some() {
            let _ = watcher.unwatch(path); // It may have gone, and the watch with it.
        }
        let failed = match which {
            Some(_) if self.watched.len() >= WATCHES_MAX => Some(format!(
                "{WATCHES_MAX} directories are watched, and {} is one more: changes in the others are seen within seconds; \
                 name the directories that hold manifests",
                path.display()
            )),
            Some(which) => match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.to_owned(), which);
                    None
                }
                Err(error) => Some(failure(path, &error)),
            },
            None => Some(format!("{} is not there", path.display())),
        };
        if let Some(why) = failed {
            self.unwatched += 1;
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(%why, "not all directories are watched, the others are listed instead");
            }
        }
    }

    /// The listing has seen everything: what it did not enter is watched no more.
    pub(super) fn end(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let entered = &self.entered;
        self.watched.retain(|path, _| {
            let stays = entered.contains(path);
            if !stays {
                let _ = watcher.unwatch(path); // It may have gone, and the watch with it.
            }
            stays
        });
    }

    #[cfg(test)]
    pub(super) fn paths(&self) -> Vec<&Path> {
        self.watched.keys().map(PathBuf::as_path).collect()
    }

    /// How soon the next listing is due, if nothing happens.
    pub(super) fn sweep_after(&self) -> Duration {
        match self.unwatched > 0 && self.entered.len() <= SOON_MAX {
            true => SWEEP_UNWATCHED,
            false => SWEEP_WATCHED,
        }
    }
}

fn failure(path: &Path, error: &notify::Error) -> String {
    let fix = match error.kind {
        ErrorKind::MaxFilesWatch => {
            ": this user's inotify watches are used up (sysctl -w fs.inotify.max_user_watches=…)"
        }
        _ => "",
    };
    format!("{}: {error}{fix}", path.display())
}

#[cfg(test)]
mod tests {
    use notify::{Config, EventHandler, WatcherKind};

    use super::*;

    /// Notes what is watched, and has room for a few.
    #[derive(Debug, Default)]
    struct Notes {
        watched: BTreeSet<PathBuf>,
        room: usize,
    }

    impl Watcher for Notes {
        fn new<F: EventHandler>(_: F, _: Config) -> notify::Result<Self> {
            Ok(Self::default())
        }

        fn watch(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
            assert_eq!(mode, RecursiveMode::NonRecursive);
            if self.watched.len() >= self.room {
                return Err(notify::Error::new(ErrorKind::MaxFilesWatch));
            }
            self.watched.insert(path.to_owned());
            Ok(())
        }

        fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
            self.watched.remove(path);
            Ok(())
        }

        fn kind() -> WatcherKind {
            WatcherKind::NullWatcher
        }
    }

    fn watches(room: usize) -> Watches<Notes> {
        Watches::new(Some(Notes {
            room,
            ..Notes::default()
        }))
    }

    fn enter(watches: &mut Watches<Notes>, root: &Path, names: impl IntoIterator<Item = usize>) {
        watches.begin();
        for name in names {
            let path = root.join(name.to_string());
            fs::create_dir_all(&path).unwrap();
            watches.enter(&path);
        }
        watches.end();
    }

    fn seen(watches: &Watches<Notes>) -> usize {
        watches.watcher.as_ref().unwrap().watched.len()
    }

    #[test]
    fn what_is_listed_is_watched_and_what_is_not_any_more_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut watches = watches(usize::MAX);
        enter(&mut watches, directory.path(), 0..3);
        assert_eq!((seen(&watches), watches.sweep_after()), (3, SWEEP_WATCHED));
        enter(&mut watches, directory.path(), 1..2);
        assert_eq!(seen(&watches), 1);
    }

    #[test]
    fn there_is_a_limit_and_what_is_beyond_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let mut watches = watches(usize::MAX);
        enter(&mut watches, directory.path(), 0..WATCHES_MAX + 1);
        assert_eq!((seen(&watches), watches.unwatched), (WATCHES_MAX, 1));
        assert!(watches.told);
        assert_eq!(
            watches.sweep_after(),
            SWEEP_WATCHED,
            "a large tree is not listed twice a second"
        );
    }

    #[test]
    fn a_few_directories_that_cannot_be_watched_are_listed_often() {
        let directory = tempfile::tempdir().unwrap();
        let mut watches = watches(1);
        enter(&mut watches, directory.path(), 0..2);
        assert_eq!((watches.unwatched, watches.sweep_after()), (1, SWEEP_UNWATCHED));
        let said = failure(directory.path(), &notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(said.contains("max_user_watches"), "{said}");
        // Room again, at the next listing.
        watches.watcher.as_mut().unwrap().room = 2;
        enter(&mut watches, directory.path(), 0..2);
        assert_eq!((watches.unwatched, watches.sweep_after()), (0, SWEEP_WATCHED));
    }
}
