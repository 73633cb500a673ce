//! Private files: written aside, flushed, and put in place whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a directory that only its owner may enter, unless it is there.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory that only its owner may enter, or makes an existing one so.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    directory(path)?;
    let mode = fs::metadata(path)?.mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// How a file is put in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// Over whatever is there.
    Replace,
    /// Only if there is nothing: else `AlreadyExists`.
    New,
}

/// Writes a file of mode 0600 beside its place, flushes it to the disk and puts it there in one step.
pub(crate) fn write(path: &Path, content: &[u8], put: Put) -> io::Result<()> {
    let directory = path
        .parent()
        .ok_or_else(|| io::Error::other("the path has no directory"))?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("the path has no file name"))?
        .to_string_lossy();
    // The process id keeps processes apart, and the number the threads of one.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let aside = directory.join(format!(".{name}.{}.{number}", std::process::id()));
    let result = write_aside(&aside, content).and_then(|()| match put {
        Put::Replace => fs::rename(&aside, path),
        Put::New => fs::hard_link(&aside, path),
    });
    if put == Put::New || result.is_err() {
        // Best effort: what stays behind is never read.
        let _ = fs::remove_file(&aside);
    }
    result?;
    File::open(directory)?.sync_all()
}

fn write_aside(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Reads a file whole, if it exists and is at most so large. One that others could read or write is refused: its secret
/// is none any more.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(io::Error::other(format!(
            "its mode is {mode:04o}, and others may not touch it: chmod 600"
        )));
    }
    if metadata.len() > limit {
        return Err(io::Error::other(format!(
            "it has {} bytes, and {limit} is the limit",
            metadata.len()
        )));
    }
    // Room for all at once: a buffer that grows leaves copies of the secret behind.
    let mut content = zeroize::Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, b"one", Put::New).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path, 100).unwrap().unwrap().as_slice(), b"one");
        write(&path, b"two", Put::Replace).unwrap();
        assert_eq!(read(&path, 100).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn new_does_not_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, b"one", Put::New).unwrap();
        assert_eq!(
            write(&path, b"two", Put::New).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(read(&path, 100).unwrap().unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write(&path, b"one", Put::New).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path, 100).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_large_file_is_refused_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(read(&path, 100).unwrap().is_none());
        write(&path, &[0; 101], Put::New).unwrap();
        assert!(read(&path, 100).is_err());
    }

    #[test]
    fn a_directory_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        private_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }
}
