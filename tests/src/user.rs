//! Users without any right, for meshes that need none: nobody's number, a home of their own, and a copy of the binary.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::mesh::weft_bin;

/// Nobody's number on any machine.
const UID: u32 = 64_123;
/// Where its range begins.
const SUB: u32 = 700_000;
/// Shows other account files in place of the host's to one command only, in a mount namespace of its own.
const SHOW: &str =
    r#"dir=$1; shift; for file in passwd subuid subgid; do mount --bind "$dir/$file" "/etc/$file"; done; exec "$@""#;

/// Somebody who is not root.
#[derive(Debug)]
pub struct User {
    dir: TempDir,
    many: bool,
}

impl User {
    /// One who can have no other user in a user namespace.
    #[track_caller]
    pub fn single() -> Self {
        Self::make(false)
    }

    /// One whom the account files give a range of users. Only what this user runs sees these files: the host's stay as they
    /// are.
    #[track_caller]
    pub fn multi() -> Self {
        for file in ["/etc/subuid", "/etc/subgid", "/usr/bin/newuidmap"] {
            assert!(
                Path::new(file).exists(),
                "{file} is missing: install the package uidmap"
            );
        }
        Self::make(true)
    }

    #[track_caller]
    fn make(many: bool) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        assert!(
            !passwd.contains(&format!(":{UID}:")),
            "{UID} is somebody's on this machine"
        );
        let dir = tempfile::Builder::new()
            .prefix("weft-user-")
            .tempdir()
            .expect("a directory");
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
        open(dir.path());
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("an account file");
        write("passwd", &format!("{passwd}tester:x:{UID}:{UID}::/:/bin/sh\n"));
        write("subuid", &format!("tester:{SUB}:65536\n"));
        write("subgid", &format!("tester:{SUB}:65536\n"));
        let user = Self { dir, many };
        fs::create_dir(user.home()).expect("a home");
        user.give(&user.home());
        fs::copy(weft_bin(), user.dir.path().join("weft")).expect("a copy of the binary");
        open(&user.dir.path().join("weft"));
        user
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Makes a file or directory this user's.
    #[track_caller]
    pub fn give(&self, path: &Path) {
        chown(path, Some(UID), Some(UID)).expect("root may give");
    }

    /// `weft`, run by this user with nothing of the caller's environment.
    #[must_use]
    pub fn weft(&self) -> Command {
        let mut command = if self.many {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", SHOW, "sh"]);
            command.arg(self.dir.path()).arg("setpriv");
            command
        } else {
            Command::new("setpriv")
        };
        let id = UID.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"]);
        command.arg(self.dir.path().join("weft"));
        command
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.current_dir(self.dir.path());
        command
    }
}
