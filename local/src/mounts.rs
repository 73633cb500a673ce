//! Mounts, one step each, with errors that name the step.

mod layer;
pub(crate) mod root;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, StatVfsMountFlags, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, move_mount, open_tree,
};

/// Adds the step to an error, as `step: cause`.
pub(crate) trait Context<T> {
    /// The same result; an error says what was tried.
    fn context(self, step: &str) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, step: &str) -> io::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            io::Error::new(error.kind(), format!("{step}: {error}"))
        })
    }
}

/// From here on nothing that is mounted shows outside, nor the other way round.
pub(crate) fn make_private() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("making the mounts private")
}

/// A new tmpfs with these options (`mode=`, `size=`).
pub(crate) fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let data = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", target, "tmpfs", flags, Some(data.as_c_str()))
        .context(&format!("mounting a tmpfs on {}", target.display()))
}

/// A new `/proc` of the pid namespace that this process is in.
pub(crate) fn proc(target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", target, "proc", flags, None)
        .context("mounting /proc (a container that masks its own /proc must be run with --privileged, or with --security-opt systempaths=unconfined)")
}

/// `source` shows at `target` too.
pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount_bind(source, target).context(&format!("binding {} to {}", source.display(), target.display()))
}

/// `source` and all that is mounted below it shows at `target` too.
pub(crate) fn bind_recursive(source: &Path, target: &Path) -> io::Result<()> {
    mount_bind_recursive(source, target).context(&format!("binding {} to {}", source.display(), target.display()))
}

/// An open program shows, read-only, at `target`, which is made.
pub(crate) fn bind_program(program: &File, target: &Path) -> io::Result<()> {
    File::create(target).context(&format!("making {}", target.display()))?;
    bind(Path::new(&format!("/proc/self/fd/{}", program.as_raw_fd())), target)?;
    read_only(target)
}

/// Nothing can be written through this mount any more.
pub(crate) fn read_only(target: &Path) -> io::Result<()> {
    restrict(target, MountFlags::RDONLY).context(&format!("making {} read-only", target.display()))
}

/// No devices and no set-uid programs through this mount any more.
pub(crate) fn harmless(target: &Path) -> io::Result<()> {
    restrict(target, MountFlags::empty()).context(&format!("restricting {}", target.display()))
}

fn restrict(target: &Path, more: MountFlags) -> io::Result<()> {
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | more;
    // What restricts the mount already stays: in a user namespace the kernel lets nobody take it back.
    let now = statvfs(target)?.f_flag;
    for (had, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        if now.contains(had) {
            flags |= flag;
        }
    }
    Ok(mount_remount(target, flags, c"")?)
}

/// A copy of the mount that `at` (an open file or directory) is on, from there downwards, not attached anywhere.
pub(crate) fn clone_tree(at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(at, c"", flags).context("copying a mount (Linux 5.2 or newer is needed)")
}

/// Attaches such a copy.
pub(crate) fn attach_tree(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, c"", CWD, target, flags).context(&format!("mounting {}", target.display()))
}
