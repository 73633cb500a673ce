//! Container logs: written by the runtime, read by anyone who may read the files.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, as Kubernetes' container runtimes write it (`P`: the line
//! goes on in the next one). A file that has grown to [`FILE_LIMIT`] is renamed to `<name>.log.1` and begun anew.

mod end;
mod read;
mod write;

use std::path::{Path, PathBuf};

pub use self::end::end;
pub use self::read::Reader;
pub(crate) use self::write::LogFile;

/// Bytes after which a log file is rotated; two files at most are kept.
pub const FILE_LIMIT: u64 = 10 << 20;

/// The log file of a container below the logs' directory.
pub fn file(logs: &Path, namespace: &str, pod: &str, container: &str) -> PathBuf {
    logs.join(namespace).join(pod).join(format!("{container}.log"))
}

/// The file's rotated part.
fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}
