//! What a container sees as `/`: the host's file system under a private layer, with everything private or dangerous
//! replaced.
//!
//! In: a [`RootPlan`], in a new mount namespace, as root. Out: the calling process is in the new root, and the old one
//! is out of reach. What the container writes outside its volumes goes to a tmpfs that dies with it, so neither the host
//! nor another container sees it, whoever it runs as.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use super::layer::{self, Item, NEW_ROOT, unescape};
use super::{Context, attach_tree, bind, bind_recursive, clone_tree, harmless, proc, read_only, tmpfs};
use crate::ids::Ids;
use crate::sandbox::BIN_DIR;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// As container runtimes do: state of the kernel that even an unprivileged root must not change, or read.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const PROC_HIDDEN: [&str; 6] = ["acpi", "kcore", "keys", "latency_stats", "timer_list", "sched_debug"];

/// What to build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootPlan {
    /// Directories that appear empty.
    pub(crate) masks: Vec<PathBuf>,
    /// Files of `/etc` to replace: absolute path and text.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// A directory to make, for its owner alone: the home of the user.
    pub(crate) home: (PathBuf, u32, u32),
    /// Volumes.
    pub(crate) binds: Vec<Bind>,
    /// Whether `/` itself can't be written.
    pub(crate) read_only: bool,
}

/// A volume, or a part of one, and where it shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// As the supervisor sees it.
    pub(crate) source: PathBuf,
    /// Below `source`; never leaves it, whatever links the volume holds.
    pub(crate) sub_path: Option<PathBuf>,
    /// As the container sees it.
    pub(crate) target: PathBuf,
    /// Whether writing is refused.
    pub(crate) read_only: bool,
    /// Whether a missing `sub_path` is made, as a directory.
    pub(crate) create: bool,
}

/// Builds the root and moves into it.
pub(crate) fn enter(plan: &RootPlan) -> io::Result<()> {
    // Copies of what the old root has and the new one needs: afterwards no path leads there.
    let binds = plan.binds.iter().map(source_tree).collect::<io::Result<Vec<_>>>()?;
    let programs = clone_tree(File::open(BIN_DIR).context(BIN_DIR)?.as_fd(), true)?;
    let cgroup = File::open("/sys/fs/cgroup")
        .and_then(|dir| clone_tree(dir.as_fd(), true))
        .ok();
    let devices = DEVICES.map(|name| clone_tree(open_path(&Path::new("/dev").join(name))?.as_fd(), false));
    let writable = layer::lay(&items(plan, &binds)?, &plan.masks)?;
    // Before the old ones are out of sight: in a user namespace only who sees them may have new ones.
    kernel_dirs(Path::new(NEW_ROOT), cgroup.as_ref())?;
    pivot(Path::new(NEW_ROOT))?;

    private_dirs()?;
    for (name, device) in DEVICES.iter().zip(devices) {
        place(&device?, &Path::new("/dev").join(name))?;
    }
    let masks: Vec<_> = plan.masks.iter().filter(|mask| mask.is_dir()).collect();
    for mask in &masks {
        tmpfs(mask, "mode=0755,size=16k")?;
    }
    place(&programs, Path::new(BIN_DIR))?;
    make_home(&plan.home)?;
    // Before the volumes, which may cover these very places, and after all that had to be made.
    for path in writable.iter().filter(|_| plan.read_only) {
        read_only(path)?;
    }
    for (bind, tree) in plan.binds.iter().zip(&binds) {
        place(tree, &bind.target)?;
        if bind.read_only {
            read_only(&bind.target)?
        } else {
            harmless(&bind.target)?
        }
    }
    // Only now: a volume of Weft's own containers may lie below a mask.
    for mask in masks {
        read_only(mask)?;
    }
    Ok(())
}

/// What the layers hold from the beginning: files of `/etc`, and what volumes are mounted on.
fn items(plan: &RootPlan, binds: &[OwnedFd]) -> io::Result<Vec<Item>> {
    let mut items: Vec<Item> = plan.files.iter().map(|(path, text)| Item::file(path, text)).collect();
    for (bind, tree) in plan.binds.iter().zip(binds) {
        items.extend(Item::point(
            &bind.target,
            is_dir(tree).context("a volume")?,
            &plan.masks,
        ));
    }
    Ok(items)
}

fn is_dir(tree: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode).is_dir())
}

fn make_home((home, uid, gid): &(PathBuf, u32, u32)) -> io::Result<()> {
    fs::create_dir_all(home).context("making the home directory")?;
    std::os::unix::fs::chown(home, Some(*uid), Some(*gid)).context("giving the home directory away")?;
    fs::set_permissions(home, fs::Permissions::from_mode(0o700)).context("restricting the home directory")
}

/// Swaps the roots and lets go of the old one: nothing of it can be reached by any path any more.
fn pivot(new: &Path) -> io::Result<()> {
    std::env::set_current_dir(new).context("entering the new root")?;
    rustix::process::pivot_root(".", ".").context("changing to the new root")?;
    unmount(".", UnmountFlags::DETACH).context("letting go of the old root")?;
    std::env::set_current_dir("/").context("entering the new root")
}

fn private_dirs() -> io::Result<()> {
    // `/run` belongs to nobody in particular here: any user of the container may keep its pid files there.
    for (dir, options) in [("/tmp", "mode=1777,size=512m"), ("/run", "mode=1777,size=64m")] {
        fs::create_dir_all(dir).context(dir)?;
        tmpfs(Path::new(dir), options)?;
    }
    for dir in ["/run/lock", "/run/home"] {
        fs::create_dir_all(dir).context(dir)?;
    }
    fs::set_permissions("/run/lock", fs::Permissions::from_mode(0o1777)).context("/run/lock")?;
    tmpfs(Path::new("/dev"), "mode=0755,size=64k")?;
    for dir in ["/dev/pts", "/dev/shm"] {
        fs::create_dir_all(dir).context(dir)?;
    }
    tmpfs(Path::new("/dev/shm"), "mode=1777,size=256m")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    // Terminals belong to the group tty, where it exists.
    let options = match Ids::here()?.have_group(5) {
        true => c"newinstance,ptmxmode=0666,mode=0620,gid=5",
        false => c"newinstance,ptmxmode=0666,mode=0620",
    };
    mount("devpts", "/dev/pts", "devpts", flags, Some(options)).context("mounting /dev/pts")?;
    let links = [
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (to, link) in links {
        symlink(to, link).context(link)?;
    }
    Ok(())
}

/// `/proc` of this pid namespace and `/sys` of this network namespace, both unable to change the kernel.
fn kernel_dirs(root: &Path, cgroup: Option<&OwnedFd>) -> io::Result<()> {
    let own = root.join("proc");
    proc(&own)?;
    for name in PROC_READ_ONLY {
        let path = own.join(name);
        if path.exists() {
            bind_recursive(&path, &path)?;
            read_only(&path)?;
        }
    }
    for name in PROC_HIDDEN {
        let path = own.join(name);
        if path.is_dir() {
            tmpfs(&path, "mode=0555,size=4k").and_then(|()| read_only(&path))?;
        } else if path.exists() {
            bind(Path::new("/dev/null"), &path)?;
        }
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("sysfs", root.join("sys"), "sysfs", flags, None)
        .context("mounting /sys (a container that masks its own /sys must be run with --privileged)")?;
    let place = root.join("sys/fs/cgroup");
    if let Some(tree) = cgroup
        && attach_tree(tree, &place).is_ok()
    {
        read_only_below(&place)?;
    }
    Ok(())
}

/// Makes a mount and all mounts below it read-only.
fn read_only_below(top: &Path) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?;
    for path in table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape) {
        if path.starts_with(top) {
            read_only(&path)?;
        }
    }
    Ok(())
}

/// A copy of the mount at a bind's source, taken while the old root is still there.
fn source_tree(bind: &Bind) -> io::Result<OwnedFd> {
    let step = |source: &Path| format!("opening {} for {}", source.display(), bind.target.display());
    let source = open_path(&bind.source).context(&step(&bind.source))?;
    let Some(sub) = &bind.sub_path else {
        return clone_tree(source.as_fd(), false);
    };
    // The volume's contents may be a container's: its links must not lead out.
    let beneath = || {
        openat2(
            &source,
            sub,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH,
        )
    };
    let found = match beneath() {
        Err(rustix::io::Errno::NOENT) if bind.create => {
            make_dirs(source.as_fd(), sub).context(&step(sub))?;
            beneath()
        }
        found => found,
    };
    clone_tree(found.context(&step(sub))?.as_fd(), false)
}

/// Makes directories below `top`, step by step, without following links.
fn make_dirs(top: std::os::fd::BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mut dir = top.try_clone_to_owned()?;
    for part in path {
        match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        dir = rustix::fs::openat(&dir, part, flags, Mode::empty())?;
    }
    Ok(())
}

/// Attaches `tree` at `target`, making a directory or an empty file to attach it to.
fn place(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let step = format!("making {}", target.display());
    if is_dir(tree).context(&step)? {
        fs::create_dir_all(target).context(&step)?;
    } else if !target.exists() {
        fs::create_dir_all(target.parent().unwrap_or(Path::new("/"))).context(&step)?;
        File::create(target).context(&step)?;
    }
    attach_tree(tree, target)
}

fn open_path(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH.bits().cast_signed();
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .context(&format!("opening {}", path.display()))
}
