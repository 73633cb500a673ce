//! Programs that pods run although they were built for the tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Copies of programs, where any user of any container may run them: homes and what lies below them are closed to others, and
/// `/tmp` is each container's own.
#[derive(Debug)]
pub struct Programs(TempDir);

/// Fails where one of these is not on this machine, and names its package: what a pod lacks only shows in its log.
#[track_caller]
pub fn needed(files: &[(&str, &str)]) {
    for (file, package) in files {
        assert!(Path::new(file).exists(), "{file} is missing: apt-get install {package}");
    }
}

impl Programs {
    /// Copies these. They are removed when this is dropped.
    #[track_caller]
    #[must_use]
    pub fn of(programs: &[impl AsRef<Path>]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("weft-test-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/var/tmp")
            .expect("a directory");
        for program in programs.iter().map(AsRef::as_ref) {
            let to = dir.path().join(program.file_name().expect("a program's name"));
            fs::copy(program, &to).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        Self(dir)
    }

    /// Where one of them is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
