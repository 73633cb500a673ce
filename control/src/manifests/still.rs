//! Which files are due to be read: those that changed and have been still since. Pure; time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use super::merge::FileKey;

/// What a file looks like from outside. Two different contents under one stamp would need the same size, and two writes
/// within one tick of the kernel's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Files that changed, each with what it looked like when it last did.
#[derive(Debug, Default)]
pub(super) struct Restless {
    files: BTreeMap<FileKey, (Option<Stamp>, Instant)>,
}

impl Restless {
    /// Something happened to a file: it now looks like this (`None`: it is not there), and is to be still for `patience`.
    pub(super) fn touch(&mut self, key: FileKey, stamp: Option<Stamp>, now: Instant, patience: Duration) {
        self.files.insert(key, (stamp, now + patience));
    }

    /// When the next file may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.files.values().map(|(_, due)| *due).min()
    }

    /// The files that are due, with what they looked like when they last changed. If one looks different by now, it is
    /// to be touched again.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(FileKey, Option<Stamp>)> {
        let due = self.files.extract_if(.., |_, (_, due)| *due <= now);
        due.map(|(key, (stamp, _))| (key, stamp)).collect()
    }

    /// The files that are gone, as far as is known, and wait to be taken for gone.
    pub(super) fn gone(&self) -> BTreeSet<FileKey> {
        let gone = self.files.iter().filter(|(_, (stamp, _))| stamp.is_none());
        gone.map(|(key, _)| key.clone()).collect()
    }

    /// Whether a file waits to be read.
    pub(super) fn waits(&self, key: &FileKey) -> bool {
        self.files.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn key(name: &str) -> FileKey {
        (0, name.to_owned())
    }

    #[test]
    fn a_file_is_due_when_it_has_been_still() {
        let (mut files, start) = (Restless::default(), Instant::now());
        files.touch(key("a"), None, start, PATIENCE);
        files.touch(key("b"), None, start + PATIENCE / 2, PATIENCE);
        assert_eq!(files.next(), Some(start + PATIENCE));
        assert_eq!(files.due(start + PATIENCE / 2), []);
        assert_eq!(files.due(start + PATIENCE), [(key("a"), None)]);
        assert_eq!(files.due(start + PATIENCE), []);
        assert!(files.waits(&key("b")));
    }

    #[test]
    fn a_file_that_goes_on_changing_is_not_due() {
        let (mut files, start) = (Restless::default(), Instant::now());
        for step in 0..10 {
            files.touch(key("a"), None, start + step * PATIENCE / 2, PATIENCE);
            assert_eq!(files.due(start + step * PATIENCE / 2 + PATIENCE / 4), []);
        }
    }
}
