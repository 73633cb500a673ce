//! The thread that reads: events of the file system in, deltas out.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher};

use super::emptied::Emptied;
use super::merge::{Delta, FileKey, Merged};
use super::read::{MAX_BYTES, read};
use super::still::{Restless, Stamp};
use super::watches::Watches;
use super::{Selection, Shared, Writer};
use crate::objects::{Problem, Severity};

/// How long a person's file must have been still. Editors write in several steps.
const STILL: Duration = Duration::from_millis(100);
/// How long the start waits for files that are being written.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Events that may wait. More than that, and everything is listed instead.
const EVENTS: usize = 4096;
/// Files of one directory.
const MAX_FILES: usize = 200_000;
/// Subdirectories within each other.
const MAX_DEPTH: usize = 32;
/// Subdirectories in all.
const MAX_DIRECTORIES: usize = 20_000;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Signal {
    /// Something happened to a path.
    Path(PathBuf),
    /// To end.
    Stop,
}

/// What the thread knows.
pub(super) struct Reader {
    merged: Merged,
    directories: Vec<PathBuf>,
    /// The same, as events name them.
    absolute: Vec<PathBuf>,
    stamps: std::collections::BTreeMap<FileKey, Stamp>,
    restless: Restless,
    emptied: Emptied,
    watches: Watches,
    overflow: Arc<AtomicBool>,
    signals: Receiver<Signal>,
    shared: Arc<Shared>,
}

impl Reader {
    /// Begins to watch, and reads everything once. Returns also the sender that can end the thread.
    pub(super) fn start(
        merged: Merged,
        directories: Vec<PathBuf>,
        shared: Arc<Shared>,
    ) -> Result<(Self, SyncSender<Signal>), (PathBuf, io::Error)> {
        let (sender, signals) = sync_channel(EVENTS);
        let overflow = Arc::new(AtomicBool::new(false));
        let mut reader = Self {
            merged,
            absolute: directories.iter().map(|path| absolute(path)).collect(),
            directories,
            stamps: std::collections::BTreeMap::new(),
            restless: Restless::default(),
            emptied: Emptied::default(),
            watches: Watches::new(watcher(sender.clone(), Arc::clone(&overflow))),
            overflow,
            signals,
            shared,
        };
        for index in 0..reader.directories.len() {
            reader
                .list(index, Instant::now())
                .map_err(|error| (reader.directories[index].clone(), error))?;
        }
        reader.first_reading();
        Ok((reader, sender))
    }

    /// Until it is told to stop, or nobody listens any more.
    pub(super) fn run(mut self) {
        let mut sweep = Instant::now() + self.watches.sweep_after();
        loop {
            let until = self.restless.next().map_or(sweep, |due| due.min(sweep));
            match self
                .signals
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                _ if self.shared.stop.load(Ordering::Acquire) => break,
                Ok(Signal::Path(path)) => {
                    let mut paths = BTreeSet::from([path]);
                    // Bounded by the channel; many events of one file are one touch.
                    for signal in self.signals.try_iter().take(EVENTS) {
                        match signal {
                            Signal::Stop => return,
                            Signal::Path(path) => paths.insert(path),
                        };
                    }
                    paths.iter().for_each(|path| self.path_event(path));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.overflow.swap(false, Ordering::AcqRel) || Instant::now() >= sweep {
                self.sweep();
                sweep = Instant::now() + self.watches.sweep_after();
            }
            self.read_due();
        }
    }

    /// Reads all files that were listed; waits, bounded, for those that are being written.
    fn first_reading(&mut self) {
        let end = Instant::now() + START_PATIENCE;
        let mut delta = Delta::new();
        while let Some(next) = self.restless.next() {
            std::thread::sleep(next.min(end).saturating_duration_since(Instant::now()));
            let late = Instant::now() >= end;
            let now = if late { next.max(end) + STILL } else { Instant::now() };
            for (key, stamp) in self.restless.due(now) {
                self.read(key, stamp, late, &mut delta);
            }
        }
        self.merged.complete();
        self.publish(delta);
    }

    fn read_due(&mut self) {
        let mut delta = Delta::new();
        for (key, stamp) in self.restless.due(Instant::now()) {
            self.read(key, stamp, false, &mut delta);
        }
        self.publish(delta);
    }

    /// Shows what changed, after it is certain that its numbers are kept.
    fn publish(&mut self, delta: Delta) {
        self.merged.save();
        self.merged.leaving(self.restless.gone());
        self.shared.publish(delta, self.merged.problems());
    }

    fn sweep(&mut self) {
        self.watches.begin();
        let mut whole = true;
        for index in 0..self.directories.len() {
            let problem = self.list(index, Instant::now()).err().map(|error| {
                let (message, fix) = match error.kind() {
                    io::ErrorKind::NotFound => ("the directory is not there", "make it again"),
                    _ => ("the directory cannot be read", "make it readable again"),
                };
                let message = format!("{message}, objects that were not removed before are kept: {error}");
                Problem::of_file(&self.directories[index], None, message, fix)
            });
            whole &= problem.is_none();
            self.merged.directory_fault(index, problem);
        }
        if whole {
            self.watches.end();
        }
    }

    /// Lists a directory, and touches what differs from what was read. What it goes through is watched first: so nothing
    /// comes between.
    fn list(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let mut names = Vec::new();
        match self.merged.selection(index) {
            // Only to know that it can be read.
            Selection::One { name, .. } => {
                self.watches.enter(&self.directories[index]);
                fs::metadata(&self.directories[index])?;
                names.extend(self.directories[index].join(name).is_file().then(|| name.clone()));
            }
            files => {
                let depth = if *files == Selection::Below { MAX_DEPTH } else { 0 };
                let watches = &mut self.watches;
                // And the directory itself.
                let mut left = MAX_DIRECTORIES + 1;
                let mut enter = |path: &Path| {
                    watches.enter(path);
                    let enters = left > 0;
                    left = left.saturating_sub(1);
                    enters
                };
                names_in(&self.directories[index], "", depth, &mut enter, &mut names)?;
            }
        }
        let seen: BTreeSet<FileKey> = names.into_iter().map(|name| (index, name)).collect();
        for key in &seen {
            self.look(key, now);
        }
        let gone: Vec<FileKey> = self
            .merged
            .files()
            .filter(|key| key.0 == index && !key.1.is_empty() && !seen.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.look(&key, now);
        }
        Ok(())
    }

    fn path_event(&mut self, path: &Path) {
        let path = absolute(path);
        for index in 0..self.absolute.len() {
            let Ok(below) = path.strip_prefix(&self.absolute[index]) else {
                continue;
            };
            match name_of(below, self.merged.selection(index)) {
                Some(name) => {
                    let key = (index, name);
                    let stamp = self.stamp(&key);
                    let patience = self.patience(&key, stamp);
                    self.restless.touch(key, stamp, Instant::now(), patience);
                }
                // A subdirectory that came or went brings its files with it, of which nothing else tells.
                None if *self.merged.selection(index) == Selection::Below && !path.is_file() => {
                    self.overflow.store(true, Ordering::Release);
                }
                None => {}
            }
        }
    }

    /// Touches a file if it looks different from what was read.
    fn look(&mut self, key: &FileKey, now: Instant) {
        let stamp = self.stamp(key);
        if self.restless.waits(key) || (stamp.is_some() && stamp.as_ref() == self.stamps.get(key)) {
            return;
        }
        let patience = match self.patience(key, stamp) {
            patience if stamp.is_some() && !patience.is_zero() => patience.saturating_sub(self.age(key)),
            patience => patience,
        };
        self.restless.touch(key.clone(), stamp, now, patience);
    }

    /// How long a file is to be still. One that is gone: longer, so that a file that moves is found at its new place
    /// before its objects are missed.
    fn patience(&self, key: &FileKey, stamp: Option<Stamp>) -> Duration {
        match (self.merged.directory(key).writer, stamp) {
            (Writer::Machine, _) => Duration::ZERO,
            (Writer::User, Some(_)) => STILL,
            (Writer::User, None) => 2 * STILL,
        }
    }

    /// How long ago a file was written, as its own time says.
    fn age(&self, key: &FileKey) -> Duration {
        let modified = fs::metadata(self.merged.path(key)).and_then(|metadata| metadata.modified());
        let age = modified
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.unwrap_or(STILL) // A time in the future says nothing.
    }

    fn stamp(&self, key: &FileKey) -> Option<Stamp> {
        let metadata = fs::metadata(self.merged.path(key)).ok()?;
        metadata.is_file().then(|| Stamp::of(&metadata))
    }

    /// Reads a file that has been still, or finds that it is gone or has moved on meanwhile.
    fn read(&mut self, key: FileKey, expected: Option<Stamp>, late: bool, delta: &mut Delta) {
        let (path, shown) = (self.merged.path(&key), self.merged.shown(&key));
        let stamp = self.stamp(&key);
        if stamp != expected && !late {
            let patience = self.patience(&key, stamp);
            return self.restless.touch(key, stamp, Instant::now(), patience);
        }
        let Some(stamp) = stamp else {
            self.stamps.remove(&key);
            self.emptied.forget(&key);
            delta.extend(self.merged.file(&key, None));
            return;
        };
        let result = load(&path).map_err(|message| vec![Problem::of_file(&shown, None, message, "make it readable")]);
        if self.stamp(&key) != Some(stamp) && !late {
            let patience = self.patience(&key, Some(stamp));
            return self.restless.touch(key, None, Instant::now(), patience);
        }
        let blank = result.as_ref().is_ok_and(|bytes| bytes.trim_ascii().is_empty());
        let emptied = blank && self.merged.says_something(&key);
        let wait = emptied.then(|| self.emptied.wait(&key, Instant::now())).flatten();
        if let Some(wait) = wait.filter(|_| !late) {
            return self.restless.touch(key, Some(stamp), Instant::now(), wait);
        }
        self.emptied.forget(&key);
        self.stamps.insert(key.clone(), stamp);
        let directory = self.merged.directory(&key);
        let mut reading = result.and_then(|bytes| read(&shown, &bytes, directory.writer, &directory.kinds));
        if let (true, Ok(reading)) = (emptied, &mut reading) {
            let message = "has become empty: what it asked for is gone";
            let mut problem = Problem::of_file(&shown, None, message, "remove the file, if this is meant");
            problem.severity = Severity::Warning;
            reading.problems.push(problem);
        }
        delta.extend(match reading {
            Ok(reading) => self.merged.file(&key, Some(reading)),
            Err(problems) => self.merged.unreadable(&key, problems),
        });
    }
}

impl Drop for Reader {
    /// However the thread ends: whoever waits for changes is to know that none will come.
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The path of a directory as events have it: they join the current directory and what was given.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The name of a file by its path below a watched directory. `None`: it is none that is read.
fn name_of(below: &Path, files: &Selection) -> Option<String> {
    match files {
        Selection::One { name, .. } => (below == Path::new(name)).then(|| name.clone()),
        Selection::Here => below.to_str().filter(|name| !name.contains('/')).and_then(named),
        Selection::Below => {
            let (directories, name) = match below.to_str()?.rsplit_once('/') {
                Some((directories, name)) => (directories, name),
                None => ("", below.to_str()?),
            };
            let hidden = directories.split('/').any(|part| part.starts_with('.'));
            (!hidden && named(name).is_some()).then(|| below.to_str().map(str::to_owned))?
        }
    }
}

/// The names of the files that are to be read, in subdirectories down to this depth. `enter` hears of each directory before
/// it is read, and says whether there is room for it.
fn names_in(
    directory: &Path,
    prefix: &str,
    depth: usize,
    enter: &mut dyn FnMut(&Path) -> bool,
    out: &mut Vec<String>,
) -> io::Result<()> {
    let path = match prefix {
        "" => directory.to_owned(),
        _ => directory.join(prefix),
    };
    if !enter(&path) {
        let message = format!("it has more than {MAX_DIRECTORIES} subdirectories: name those that hold manifests");
        return Err(io::Error::other(message));
    }
    for entry in fs::read_dir(path)?.take(MAX_FILES) {
        let entry = entry?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        let path = match prefix {
            "" => text.to_owned(),
            _ => format!("{prefix}/{text}"),
        };
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && depth > 0 && !text.starts_with('.') {
            match names_in(directory, &path, depth - 1, enter, out) {
                // It may have gone meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else if named(text).is_some() && out.len() < MAX_FILES {
            out.push(path);
        }
    }
    Ok(())
}

/// A file's bytes, or why not, for people.
fn load(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(format!("is larger than {} MiB", MAX_BYTES / 1024 / 1024)),
        false => Ok(bytes),
    }
}

/// The name of a file that is to be read. Dot-files, and what editors leave (`a.yaml~`, `#a.yaml#`, `4913`), are not.
fn named(name: &str) -> Option<String> {
    let ours = is_manifest(Path::new(name));
    (ours && !name.starts_with(['.', '#', '~'])).then(|| name.to_owned())
}

/// Whether a file's name ends as those of manifests do.
pub(super) fn is_manifest(path: &Path) -> bool {
    let end = path.extension().and_then(OsStr::to_str);
    end.is_some_and(|end| matches!(end, "yaml" | "yml" | "json")) && path.file_stem().is_some()
}

/// A watcher whose events never block it. `None`: this system has none.
fn watcher(sender: SyncSender<Signal>, overflow: Arc<AtomicBool>) -> Option<RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else {
            return overflow.store(true, Ordering::Release);
        };
        if event.need_rescan() {
            overflow.store(true, Ordering::Release);
        }
        // Reading, ours included, is no change.
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && event.kind != written {
            return;
        }
        for path in event.paths {
            if let Err(TrySendError::Full(_)) = sender.try_send(Signal::Path(path)) {
                overflow.store(true, Ordering::Release);
            }
        }
    };
    notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::warn!(%error, "files cannot be watched, directories are listed instead"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::Directory;
    use super::super::versions::Versions;
    use super::*;
    use crate::objects::Kinds;

    #[test]
    fn an_event_is_about_a_file_that_was_asked_for() {
        let one = Selection::One {
            name: "shop".to_owned(),
            shown: None,
        };
        for (below, files, want) in [
            ("a.yaml", &Selection::Here, true),
            ("base/a.yaml", &Selection::Here, false),
            ("base/a.yaml", &Selection::Below, true),
            (".git/a.yaml", &Selection::Below, false),
            ("base/notes.md", &Selection::Below, false),
            ("shop", &one, true),
            ("a.yaml", &one, false),
        ] {
            let found = name_of(Path::new(below), files);
            assert_eq!(found.as_deref(), want.then_some(below), "{below} {files:?}");
        }
    }

    #[test]
    fn a_path_means_a_directory_or_one_file_that_may_be_gone_for_the_moment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let one = |name: &str| Selection::One {
            name: name.to_owned(),
            shown: None,
        };
        fs::write(path.join("shop"), "").unwrap();
        for (given, files) in [("shop", one("shop")), ("gone.yaml", one("gone.yaml"))] {
            assert_eq!(Selection::of(&path.join(given), true), (path.to_owned(), files));
        }
        assert_eq!(Selection::of(path, false).1, Selection::Here);
        assert_eq!(Selection::of(path, true).1, Selection::Below);
        assert_eq!(Selection::of(&path.join("gone"), false).1, Selection::Here);
    }

    #[test]
    fn directories_have_one_name_however_they_were_written() {
        let here = std::env::current_dir().unwrap();
        for given in ["manifests", "./manifests", "manifests/"] {
            assert_eq!(absolute(Path::new(given)), here.join("manifests"), "{given}");
        }
        assert_eq!(absolute(Path::new("/srv/./manifests")), Path::new("/srv/manifests"));
    }

    #[test]
    fn of_subdirectories_those_are_watched_that_are_read_also_when_they_come_later() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for below in ["base/deep", ".git/objects/aa", "base/.cache"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        let settings = Directory {
            path: root.to_owned(),
            files: Selection::Below,
            writer: Writer::User,
            kinds: Kinds::control(),
        };
        let merged = Merged::new(vec![settings], Versions::open(None, 1).unwrap());
        let started = Reader::start(merged, vec![root.to_owned()], Arc::default());
        let (mut reader, _stop) = started.map_err(|(_, error)| error).unwrap();
        let base = root.join("base");
        assert_eq!(reader.watches.paths(), [root, &base, &base.join("deep")]);
        fs::remove_dir_all(&base).unwrap();
        fs::create_dir(root.join("next")).unwrap();
        reader.sweep();
        assert_eq!(reader.watches.paths(), [root, &root.join("next")]);
        fs::write(root.join("next/a.yaml"), "").unwrap();
        let seen = |signal| matches!(signal, Signal::Path(path) if path == root.join("next/a.yaml"));
        let mut events = std::iter::from_fn(|| reader.signals.recv_timeout(START_PATIENCE).ok());
        assert!(events.any(seen), "what comes to a new directory is an event");
    }

    #[test]
    fn a_subdirectory_that_is_made_anew_is_watched_anew() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let base = root.join("base");
        fs::create_dir(&base).unwrap();
        let settings = Directory {
            path: root.to_owned(),
            files: Selection::Below,
            writer: Writer::User,
            kinds: Kinds::control(),
        };
        let merged = Merged::new(vec![settings], Versions::open(None, 1).unwrap());
        let started = Reader::start(merged, vec![root.to_owned()], Arc::default());
        let (mut reader, _stop) = started.map_err(|(_, error)| error).unwrap();
        // As a rule it gets the inode of the old one.
        fs::remove_dir(&base).unwrap();
        fs::create_dir(&base).unwrap();
        reader.sweep();
        fs::write(base.join("a.yaml"), "").unwrap();
        let seen = |signal| matches!(signal, Signal::Path(path) if path == base.join("a.yaml"));
        let mut events = std::iter::from_fn(|| reader.signals.recv_timeout(START_PATIENCE).ok());
        assert!(events.any(seen), "what comes to a new directory is an event");
    }

    #[test]
    fn a_tree_without_end_is_refused_by_name_of_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let mut left = 2;
        for below in ["a", "b"] {
            fs::create_dir(directory.path().join(below)).unwrap();
        }
        let mut enter = |_: &Path| {
            left -= 1;
            left > 0
        };
        let error = names_in(directory.path(), "", 1, &mut enter, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("more than 20000 subdirectories"), "{error}");
    }

    #[test]
    fn only_manifests_are_read() {
        for name in ["a.yaml", "b.yml", "c.json", "a.b.yaml"] {
            assert_eq!(named(name).as_deref(), Some(name));
        }
        for name in [
            ".a.yaml",
            ".a.yaml.swp",
            "a.yaml~",
            "#a.yaml#",
            "4913",
            "README.md",
            "yaml",
            "a.yaml.tmp",
            "~a.yaml",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
    }
}
