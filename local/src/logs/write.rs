//! The writing half: two pipes of a container into one file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdout};
use tokio_util::task::TaskTracker;

use super::{FILE_LIMIT, rotated};

/// Longest part of a line that is written at once; a longer one goes on in the next.
const PART: usize = 16 << 10;

/// A container's log. Cheap to clone; all clones write to the same file.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    /// Held for one line: lines of the two streams don't mix.
    open: Arc<Mutex<Open>>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl LogFile {
    /// Opens a log, at its end if it is there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, FILE_LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            open: Arc::new(Mutex::new(Open {
                path: path.to_owned(),
                file,
                size,
                limit,
            })),
        })
    }

    /// Writes down what comes from these pipes until they end, also if nobody waits for that.
    pub(crate) fn collect(&self, stdout: ChildStdout, stderr: ChildStderr) -> TaskTracker {
        let (out, err) = (self.clone(), self.clone());
        let written = TaskTracker::new();
        written.spawn(async move { out.copy(stdout, "stdout").await });
        written.spawn(async move { err.copy(stderr, "stderr").await });
        written.close();
        written
    }

    async fn copy(&self, mut from: impl AsyncRead + Unpin, stream: &str) {
        let mut held: Vec<u8> = Vec::new();
        let mut chunk = vec![0; PART];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            held.extend_from_slice(&chunk[..read]);
            let mut rest = held.as_slice();
            while let Some((line, whole, after)) = next_line(rest) {
                self.write(stream, whole, line);
                rest = after;
            }
            held = rest.to_vec();
        }
        if !held.is_empty() {
            self.write(stream, true, &held);
        }
    }

    /// Writes one line; a full disk loses it, and never stops the container.
    pub(crate) fn write(&self, stream: &str, whole: bool, line: &[u8]) {
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let tag = if whole { "F" } else { "P" };
        let mut text = format!("{now} {stream} {tag} ").into_bytes();
        text.extend_from_slice(line);
        text.push(b'\n');
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = open.append(&text) {
            tracing::warn!(path = %open.path.display(), %error, "a log line is lost");
        }
    }
}

impl Open {
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + text.len() as u64 > self.limit {
            std::fs::rename(&self.path, rotated(&self.path))?;
            self.file = append(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(text)?;
        self.size += text.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The first line (without its end), whether it is whole, and what follows it; `None` if more has to come first.
fn next_line(bytes: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    match bytes.iter().take(PART).position(|byte| *byte == b'\n') {
        Some(end) => Some((&bytes[..end], true, &bytes[end + 1..])),
        None if bytes.len() >= PART => Some((&bytes[..PART], false, &bytes[PART..])),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_written_whole_and_long_ones_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns/pod/web.log");
        let log = LogFile::open(&path).unwrap();
        let text = format!("one\n\n{}two\nend", "x".repeat(PART));
        log.copy(text.as_bytes(), "stdout").await;
        let written = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = written.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let long = format!("stdout P {}", "x".repeat(PART));
        assert_eq!(
            lines,
            [
                "stdout F one",
                "stdout F ",
                long.as_str(),
                "stdout F two",
                "stdout F end"
            ]
        );
    }

    #[test]
    fn a_full_file_is_rotated_and_only_one_old_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.log");
        let log = LogFile::with_limit(&path, 200).unwrap();
        for number in 0..50 {
            log.write("stdout", true, format!("line {number}").as_bytes());
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= 200);
        assert!(std::fs::metadata(rotated(&path)).unwrap().len() <= 200);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("line 49\n"));
    }
}
