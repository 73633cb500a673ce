//! The tie between a demo and its mesh: the mesh ends with the demo, also where the demo gets no chance to end it.
//!
//! In: variables that [`with_this_process`] sets and `weft up` reads. Out: SIGTERM for `weft up` when its parent is gone,
//! which is an orderly end of the mesh, and after it the demo's directory removed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, getpid, getppid};

/// The process that the mesh ends with.
const DEMO: &str = "WEFT_DEMO_PID";
/// The demo's directory of manifests and logs.
const DIRECTORY: &str = "WEFT_DEMO_DIR";

/// A process tied to its parent.
pub(crate) struct Tie {
    demo: Pid,
    directory: PathBuf,
}

/// What ties a child of this process to it. `directory`: removed with the mesh if this process can't do it any more.
pub(super) fn with_this_process(directory: &Path) -> [(&'static str, OsString); 2] {
    [
        (DEMO, getpid().to_string().into()),
        (DIRECTORY, directory.as_os_str().to_owned()),
    ]
}

/// Ties this process to the demo that started it, if one did. Call it before the mesh exists.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn to_parent(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Tie>, Errno> {
    let pid = variable(DEMO).and_then(|pid| pid.to_str()?.parse().ok());
    let (Some(pid), Some(directory)) = (pid, variable(DIRECTORY)) else {
        return Ok(None);
    };
    let tie = Tie {
        demo: Pid::from_raw(pid),
        directory: directory.into(),
    };
    set_pdeathsig(Signal::SIGTERM)?;
    if tie.is_torn() {
        // It was gone before the kernel knew of the tie.
        tie.clean_up();
        raise(Signal::SIGTERM)?;
    }
    Ok(Some(tie))
}

impl Tie {
    fn is_torn(&self) -> bool {
        getppid() != self.demo
    }

    /// Removes what the demo left, unless it lives and does so itself. Call it when the mesh has ended.
    pub(crate) fn clean_up(&self) {
        if self.is_torn() {
            // Somebody may have removed it.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tie(demo: Pid) -> (tempfile::TempDir, Tie) {
        let directory = tempfile::tempdir().unwrap();
        let tie = Tie {
            demo,
            directory: directory.path().to_owned(),
        };
        (directory, tie)
    }

    #[test]
    fn a_process_that_no_demo_started_is_not_tied() {
        assert!(to_parent(|_| None).unwrap().is_none());
    }

    #[test]
    fn the_directory_of_a_demo_that_lives_is_its_own_to_remove() {
        let (directory, tie) = tie(getppid());
        tie.clean_up();
        assert!(directory.path().exists());
    }

    #[test]
    fn the_directory_of_a_demo_that_is_gone_is_removed() {
        let (directory, tie) = tie(Pid::from_raw(i32::MAX));
        tie.clean_up();
        assert!(!directory.path().exists());
    }
}
