//! Container logs: written by the runtime, read by anyone who may read the files.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, as Kubernetes' container runtimes write it (`P`: the line
//! goes on in the next one). A file that has grown to [`FILE_LIMIT`] is renamed to `<name>.log.1` and begun anew.

use std::io;
use std::path::{Path, PathBuf};

/// Bytes after which a log file is rotated; two files at most are kept.
pub const FILE_LIMIT: u64 = 10 << 20;

/// The log file of a container below the logs' directory.
pub fn file(logs: &Path, namespace: &str, pod: &str, container: &str) -> PathBuf {
    logs.join(namespace).join(pod).join(format!("{container}.log"))
}

/// Reads a log, its rotated part first, and goes on as it grows.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// Opens a log that begins `tail` lines before its present end (or at its beginning). `timestamps` keeps the time
    /// in front of each line.
    ///
    /// # Errors
    /// There is no such file.
    pub fn open(path: &Path, tail: Option<usize>, timestamps: bool) -> io::Result<Self> {
        let _ = (path, tail, timestamps);
        todo!()
    }

    /// The next bytes to show (whole lines), empty if there are none now.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn next(&mut self) -> io::Result<Vec<u8>> {
        todo!()
    }

    /// Like [`Reader::next`], but waits until there is something. Cancel safe.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn follow(&mut self) -> io::Result<Vec<u8>> {
        todo!()
    }
}
