//! The reading half.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rotated;

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Read at once, so that a reader of a large log holds little of it.
const CHUNK: usize = 64 << 10;

/// Reads a log, its rotated part first, and goes on as it grows.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    /// The file that follows when `file` has been read: set while that is the rotated part.
    next: Option<File>,
    /// Lines to leave out at the beginning.
    skip: usize,
    timestamps: bool,
    held: Vec<u8>,
    /// The line begun goes on (`P`): no time in front of the next part.
    within: bool,
}

impl Reader {
    /// Opens a log that begins `tail` lines before its present end (or at its beginning). `timestamps` keeps the time
    /// in front of each line.
    ///
    /// # Errors
    /// There is no such file.
    pub fn open(path: &Path, tail: Option<usize>, timestamps: bool) -> io::Result<Self> {
        let current = File::open(path)?;
        let (file, next) = match File::open(rotated(path)) {
            Ok(older) => (older, Some(current)),
            Err(_) => (current, None),
        };
        let new = |file, next, skip| Self {
            path: path.to_owned(),
            file,
            next,
            skip,
            timestamps,
            held: Vec::new(),
            within: false,
        };
        let Some(tail) = tail else {
            return Ok(new(file, next, 0));
        };
        let mut counted = new(file, next, 0);
        let mut lines = 0;
        loop {
            let some = counted.next()?;
            if some.is_empty() {
                break;
            }
            lines += some.iter().filter(|byte| **byte == b'\n').count();
        }
        let mut again = Self::open(path, None, timestamps)?;
        again.skip = lines.saturating_sub(tail);
        Ok(again)
    }

    /// The next bytes to show (whole lines), empty if there are none now.
    ///
    /// # Errors
    /// The file can't be read.
    #[expect(
        clippy::should_implement_trait,
        reason = "an empty answer is not the end of a log that grows"
    )]
    pub fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut chunk = Vec::new();
            (&mut self.file).take(CHUNK as u64).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                if let Some(next) = self.next.take() {
                    self.file = next;
                    continue;
                }
                if !self.reopen_if_rotated()? {
                    return Ok(Vec::new());
                }
                continue;
            }
            self.held.extend_from_slice(&chunk);
            let shown = self.show();
            if !shown.is_empty() {
                return Ok(shown);
            }
        }
    }

    /// Like [`Reader::next`], but waits until there is something. Cancel safe.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn follow(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let some = self.next()?;
            if !some.is_empty() {
                return Ok(some);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Goes on in the new file once the present one has been renamed and read to its end.
    fn reopen_if_rotated(&mut self) -> io::Result<bool> {
        let Ok(there) = std::fs::metadata(&self.path) else {
            return Ok(false);
        };
        let here = self.file.metadata()?;
        if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
            return Ok(false);
        }
        if self.file.stream_position()? < here.len() {
            return Ok(true); // it grew just before it was renamed
        }
        self.file = File::open(&self.path)?;
        self.file.seek(SeekFrom::Start(0))?;
        Ok(true)
    }

    /// The whole lines held, as they are to be shown.
    fn show(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        let end = self
            .held
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let held: Vec<u8> = self.held.drain(..end).collect();
        for line in held.split_inclusive(|byte| *byte == b'\n') {
            let mut fields = line.splitn(4, |byte| *byte == b' ');
            let (Some(time), Some(_stream), Some(tag), Some(text)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue; // a line cut short by a full disk
            };
            let whole = tag == b"F";
            if self.skip == 0 {
                if self.timestamps && !self.within {
                    shown.extend_from_slice(time);
                    shown.push(b' ');
                }
                shown.extend_from_slice(if whole {
                    text
                } else {
                    text.strip_suffix(b"\n").unwrap_or(text)
                });
            } else if whole {
                self.skip -= 1;
            }
            self.within = !whole;
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{OpenOptions, rename, write};
    use std::io::Write;

    use super::*;

    const OLD: &str = "t1 stdout F one\nt2 stderr F two\n";
    const NEW: &str = "t3 stdout P thr\nt4 stdout F ee\n";

    fn files() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        write(rotated(&path), OLD).unwrap();
        write(&path, NEW).unwrap();
        (dir, path)
    }

    #[track_caller]
    fn all(reader: &mut Reader) -> String {
        let mut shown = Vec::new();
        loop {
            let some = reader.next().unwrap();
            if some.is_empty() {
                return String::from_utf8(shown).unwrap();
            }
            shown.extend(some);
        }
    }

    #[test]
    fn the_rotated_part_comes_first_and_parts_are_joined() {
        let (_dir, path) = files();
        assert_eq!(all(&mut Reader::open(&path, None, false).unwrap()), "one\ntwo\nthree\n");
        assert_eq!(
            all(&mut Reader::open(&path, None, true).unwrap()),
            "t1 one\nt2 two\nt3 three\n"
        );
        assert_eq!(all(&mut Reader::open(&path, Some(2), false).unwrap()), "two\nthree\n");
        assert_eq!(all(&mut Reader::open(&path, Some(0), false).unwrap()), "");
    }

    #[tokio::test]
    async fn what_is_written_later_is_followed_across_a_rotation() {
        let (_dir, path) = files();
        let mut reader = Reader::open(&path, Some(0), false).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"t5 stdout F four\n").unwrap();
        rename(&path, rotated(&path)).unwrap();
        file.write_all(b"t6 stdout F five\n").unwrap();
        write(&path, "t7 stdout F six\n").unwrap();
        let mut shown = Vec::new();
        while !shown.ends_with(b"six\n") {
            shown.extend(reader.follow().await.unwrap());
        }
        assert_eq!(shown, b"four\nfive\nsix\n");
    }

    #[test]
    fn a_log_that_is_not_there_is_an_error() {
        assert!(Reader::open(Path::new("/nonexistent/web.log"), None, false).is_err());
    }
}
