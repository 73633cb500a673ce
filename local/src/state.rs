//! Where a mesh keeps what outlives a command: its state directory.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_daemon::settings::Variable;

/// Where the state of meshes is.
pub const STATE_DIR: Variable = Variable {
    name: "WEFT_STATE_DIR",
    value: "a directory",
    default: "`$XDG_STATE_HOME/weft`, else `~/.local/state/weft`",
    by: "`weft up` and every verb that asks a mesh",
    meaning: "Where local meshes keep keys, logs and sockets, each in a directory of its name. (The variable of the same name \
              of a proxy and of a control plane is theirs alone.)",
};

/// The state directory of one mesh. Only its owner may enter it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDir {
    base: PathBuf,
    path: PathBuf,
}

impl StateDir {
    /// That of the mesh of this name: below `$WEFT_STATE_DIR`, else below `$XDG_STATE_HOME/weft`, else below
    /// `~/.local/state/weft`. `variable` reads the environment.
    pub fn of(mesh: &str, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set(STATE_DIR.name).unwrap_or_else(|| {
            let home = || set("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".local/state");
            set("XDG_STATE_HOME")
                .filter(|path| path.is_absolute())
                .unwrap_or_else(home)
                .join("weft")
        });
        let base = std::path::absolute(&base).unwrap_or(base);
        Self::within(&base, mesh)
    }

    /// That of the mesh of this name, where the directory of all meshes is known.
    pub fn within(base: &Path, mesh: &str) -> Self {
        Self {
            path: base.join(mesh),
            base: base.to_owned(),
        }
    }

    /// Makes it, and those below it that only the owner may enter.
    ///
    /// # Errors
    /// It can't be made.
    pub fn make(&self) -> io::Result<()> {
        for path in [
            self.base.clone(),
            self.path.clone(),
            self.keys(),
            self.logs(),
            self.control(),
        ] {
            private(&path)?;
        }
        Ok(())
    }

    /// The directory that holds those of all meshes.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finished objects.
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// The control plane's own.
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// The key that service-account tokens are signed with.
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// `logs/<namespace>/<pod>/<container>.log`.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// emptyDir volumes.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// What came by standard input.
    pub fn stdin(&self) -> PathBuf {
        self.path.join("stdin")
    }

    /// Where a running mesh is asked.
    pub fn socket(&self) -> PathBuf {
        self.path.join("api.sock")
    }

    /// Where the links of a cluster among several are cut and healed.
    pub fn links(&self) -> PathBuf {
        self.path.join("links.sock")
    }

    /// Held by a running mesh.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }
}

/// Makes a directory, with its parents, that only its owner may enter.
fn private(path: &Path) -> io::Result<()> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("making {}: {error}", path.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(explain)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(env: &[(&str, &str)], want: &str) {
        let variable = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into());
        assert_eq!(StateDir::of("shop", variable).path(), Path::new(want));
    }

    #[test]
    fn the_most_particular_variable_says_where_it_is() {
        check(&[("HOME", "/home/ada")], "/home/ada/.local/state/weft/shop");
        check(
            &[("HOME", "/home/ada"), ("XDG_STATE_HOME", "/state")],
            "/state/weft/shop",
        );
        check(
            &[
                ("HOME", "/home/ada"),
                ("XDG_STATE_HOME", "/state"),
                ("WEFT_STATE_DIR", "/w"),
            ],
            "/w/shop",
        );
        check(
            &[("HOME", "/home/ada"), ("XDG_STATE_HOME", "relative")],
            "/home/ada/.local/state/weft/shop",
        );
    }

    #[test]
    fn nobody_else_may_enter_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::of("shop", |name| {
            (name == "WEFT_STATE_DIR").then(|| directory.path().join("base").into())
        });
        state.make().unwrap();
        for path in [state.base(), state.path(), &state.keys()] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o700,
                "{}",
                path.display()
            );
        }
    }
}
