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

use super::{Context, attach_tree, bind, bind_recursive, clone_tree, harmless, proc, read_only, tmpfs};
use crate::sandbox::BIN_DIR;

/// Where the new root is put together, and where its writable layer lies; mounted on in this namespace only.
const NEW_ROOT: &str = "/run/weft/root";
const LAYER: &str = "/run/weft/layer";
/// What one container may write outside its volumes.
const LAYER_OPTIONS: &str = "mode=0755,size=1g";
/// These come new, or not at all.
const REPLACED: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];
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
    layer_host(&plan.masks)?;
    pivot(Path::new(NEW_ROOT))?;

    private_dirs()?;
    for (name, device) in DEVICES.iter().zip(devices) {
        place(&device?, &Path::new("/dev").join(name))?;
    }
    kernel_dirs(cgroup.as_ref())?;
    for (path, text) in &plan.files {
        replace_file(path, text)?;
    }
    let masks: Vec<_> = plan.masks.iter().filter(|mask| mask.is_dir()).collect();
    for mask in &masks {
        tmpfs(mask, "mode=0755,size=16k")?;
    }
    place(&programs, Path::new(BIN_DIR))?;
    make_home(&plan.home)?;
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
    if plan.read_only {
        read_only(Path::new("/"))
    } else {
        Ok(())
    }
}

/// The host's file systems at [`NEW_ROOT`], each under a writable layer or read-only.
fn layer_host(masks: &[PathBuf]) -> io::Result<()> {
    let (new, layer) = (Path::new(NEW_ROOT), Path::new(LAYER));
    for dir in [new, layer] {
        fs::create_dir_all(dir).context(&format!("making {}", dir.display()))?;
    }
    tmpfs(layer, LAYER_OPTIONS)?;
    let table = fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?;
    for (index, host) in host_mounts(&table, masks).into_iter().enumerate() {
        let target = if host.path == Path::new("/") {
            new.to_owned()
        } else {
            inside(new, &host.path)
        };
        let done = if host.layered {
            overlay(&host.path, &target, &layer.join(index.to_string()))
        } else {
            bind(&host.path, &target).and_then(|()| read_only(&target))
        };
        // Without `/` there is no root; a mount below it that can't be shown is simply not there.
        if index == 0 {
            done.context("layering the host's file system (overlayfs is needed)")?;
        }
    }
    Ok(())
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
    mount(
        "devpts",
        "/dev/pts",
        "devpts",
        flags,
        Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
    )
    .context("mounting /dev/pts")?;
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
fn kernel_dirs(cgroup: Option<&OwnedFd>) -> io::Result<()> {
    proc(Path::new("/proc"))?;
    for name in PROC_READ_ONLY {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind_recursive(&path, &path)?;
            read_only(&path)?;
        }
    }
    for name in PROC_HIDDEN {
        let path = Path::new("/proc").join(name);
        if path.is_dir() {
            tmpfs(&path, "mode=0555,size=4k").and_then(|()| read_only(&path))?;
        } else if path.exists() {
            bind(Path::new("/dev/null"), &path)?;
        }
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("sysfs", "/sys", "sysfs", flags, None).context("mounting /sys")?;
    if let Some(tree) = cgroup
        && attach_tree(tree, Path::new("/sys/fs/cgroup")).is_ok()
    {
        read_only_below(Path::new("/sys/fs/cgroup"))?;
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

/// Replaces a file, or a link, of the host in this container's view.
fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    // A link, such as resolv.conf often is, leads to a place that isn't there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(&format!("replacing {}", path.display()));
        }
        _ => {}
    }
    fs::write(path, text).context(&format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).context(&format!("writing {}", path.display()))
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
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree).context(&step)?.st_mode).is_dir() {
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

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// `lower` under a writable layer.
fn overlay(lower: &Path, target: &Path, layer: &Path) -> io::Result<()> {
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir_all(dir).context("making a layer")?;
    }
    let mode = fs::metadata(lower).context("the mode of a mount")?.permissions();
    fs::set_permissions(&upper, mode).context("the mode of a layer")?;
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let data = std::ffi::CString::new(data)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("overlay", target, "overlay", flags, Some(data.as_c_str())).context(&format!("layering {}", lower.display()))
}

/// A mount of the host that containers see.
#[derive(Debug, PartialEq, Eq)]
struct HostMount {
    path: PathBuf,
    /// Under a writable layer, rather than read-only.
    layered: bool,
}

/// The mounts of the host that containers see, `/` first, parents before children, from `/proc/self/mountinfo`.
fn host_mounts(table: &str, masks: &[PathBuf]) -> Vec<HostMount> {
    let mut mounts: Vec<HostMount> = Vec::new();
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (Some(root), Some(path), Some(options)) = (fields.nth(3), fields.next(), fields.next()) else {
            continue;
        };
        let Some(kind) = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        let path = unescape(path);
        let hidden =
            REPLACED.iter().any(|top| path.starts_with(top)) || masks.iter().any(|mask| path.starts_with(mask));
        if hidden {
            continue;
        }
        // A later mount on the same place covers the earlier one.
        mounts.retain(|earlier| earlier.path != path);
        let text = path.to_string_lossy();
        let is_file = root != "/" && path.is_file();
        let writable = options.split(',').any(|option| option == "rw");
        let layered = path == Path::new("/")
            || (is_disk(kind) && writable && !is_file && !text.contains([':', ',', '\\']) && !text.contains('"'));
        mounts.push(HostMount { path, layered });
    }
    mounts.sort_by_key(|mount| mount.path.components().count());
    mounts
}

/// File systems that can be the lower part of a layer; others (network, FUSE, virtual) are shown read-only.
fn is_disk(kind: &str) -> bool {
    matches!(
        kind,
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" | "tmpfs" | "overlay" | "zfs" | "bcachefs"
    )
}

/// mountinfo writes blanks as `\040`.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:6 / /sys rw - sysfs sysfs rw
25 24 0:7 / /sys/fs/cgroup rw - cgroup2 cgroup rw
30 22 254:1 / /home rw - ext4 /dev/vdb rw
31 30 0:44 / /home/al\\040ice/net rw - nfs4 server:/ rw
32 22 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
33 22 0:50 / /run rw - tmpfs tmpfs rw
34 22 0:51 / /var/lib/weft rw - tmpfs tmpfs rw
";

    #[test]
    fn disks_are_layered_and_kernel_directories_left_out() {
        let mounts = host_mounts(TABLE, &["/var/lib/weft".into()]);
        let want = [
            ("/", true),
            ("/home", true),
            ("/home/al ice/net", false),
            ("/snap/core/1", false),
        ];
        let got: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.path.to_str().unwrap(), mount.layered))
            .collect();
        assert_eq!(got, want);
    }
}
