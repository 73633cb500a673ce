//! The same stories without root: as a user of no name, with one user in the sandbox; or, with lines for it in account
//! files that are there for the story only, with many.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Nobody's number on any machine.
const UID: &str = "64123";
/// Shows other account files in place of the host's to one command only, in a mount namespace of its own.
const SHOW: &str =
    r#"dir=$1; shift; for file in passwd subuid subgid; do mount --bind "$dir/$file" "/etc/$file"; done; exec "$@""#;

/// Who tells a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teller {
    Root,
    /// A user with no more than one user in a user namespace.
    Single,
    /// A user with a range of them.
    Multi,
}

/// A copy of this program where anybody may run it, and the account files.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in("/var/tmp")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        std::fs::copy("/proc/self/exe", dir.path().join("stories"))?;
        let passwd = std::fs::read_to_string("/etc/passwd")?;
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text);
        write("passwd", &format!("{passwd}teller:x:{UID}:{UID}::/:/bin/sh\n"))?;
        write("subuid", "teller:700000:65536\n")?;
        write("subgid", "teller:700000:65536\n")?;
        // Bound over, and so there must be something.
        for file in ["/etc/subuid", "/etc/subgid"] {
            anyhow::ensure!(
                Path::new(file).exists(),
                "{file} is missing: install the package uidmap"
            );
        }
        Ok(Self { dir })
    }

    /// This program, run by a teller.
    pub(crate) fn command(&self, teller: Teller) -> Command {
        let program = self.dir.path().join("stories");
        match teller {
            Teller::Root => Command::new(program),
            Teller::Single => without_root(Command::new("setpriv"), &program),
            Teller::Multi => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-c", SHOW, "sh"]);
                command.arg(self.dir.path()).arg("setpriv");
                without_root(command, &program)
            }
        }
    }
}

fn without_root(mut setpriv: Command, program: &PathBuf) -> Command {
    setpriv.args(["--reuid", UID, "--regid", UID, "--clear-groups", "--inh-caps=-all"]);
    setpriv.arg(program);
    setpriv
}
