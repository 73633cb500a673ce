//! The host's file systems, each under a writable layer of the container's own, or read-only.
//!
//! In: the host's mounts, what the layers hold from the beginning. Out: all of it below [`NEW_ROOT`]. In a user namespace
//! the kernel layers no directory that has mounts of the host below it, as `/` always has: such a directory is put
//! together anew, entry by entry, so that each of them can be layered.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::{Context, bind, read_only, tmpfs};
use crate::ids::Ids;

/// Where the new root is put together, and where its writable layers lie; mounted on in this namespace only.
pub(super) const NEW_ROOT: &str = "/run/weft/root";
const LAYER: &str = "/run/weft/layer";
/// What one container may write outside its volumes.
const LAYER_OPTIONS: &str = "mode=0755,size=1g";
/// These come new, or not at all.
const REPLACED: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];
/// A directory with more entries is left out where it had to be put together entry by entry.
const ENTRIES: usize = 512;

/// What a layer holds from the beginning, at its place in the container.
#[derive(Debug)]
pub(super) struct Item {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    /// In place of the host's.
    Text(String),
    /// To mount something on.
    Point { is_dir: bool },
}

impl Item {
    /// A file in place of the host's; the host's may be a link that leads nowhere here.
    pub(super) fn file(path: &Path, text: &str) -> Self {
        let directory = resolve(path.parent().unwrap_or(Path::new("/")));
        Self {
            path: directory.join(path.file_name().unwrap_or_default()),
            what: What::Text(text.to_owned()),
        }
    }

    /// Something to mount on, if the host has nothing there, and the place is not among those that come new.
    pub(super) fn point(path: &Path, is_dir: bool, masks: &[PathBuf]) -> Option<Self> {
        let path = resolve(path);
        let made_later = is_replaced(&path) || masks.iter().any(|mask| path.starts_with(mask));
        (!made_later && fs::symlink_metadata(&path).is_err()).then_some(Self {
            path,
            what: What::Point { is_dir },
        })
    }
}

/// Where a path leads on the host, as far as it exists there.
fn resolve(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            return missing.iter().rev().fold(found, |path: PathBuf, name| path.join(name));
        }
        missing.extend(ancestor.file_name());
    }
    path.to_owned()
}

/// Puts the host's file systems together below [`NEW_ROOT`]. Returns where something can be written now, as the container
/// will see it.
pub(super) fn lay(items: &[Item], masks: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let (new, layer) = (Path::new(NEW_ROOT), Path::new(LAYER));
    for dir in [new, layer] {
        fs::create_dir_all(dir).context(&format!("making {}", dir.display()))?;
    }
    tmpfs(layer, LAYER_OPTIONS)?;
    let table = fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?;
    let mut layers = Layers {
        items,
        masks,
        paths: mount_points(&table),
        // Elsewhere only root of the host can note what the layer hides.
        options: if Ids::here()?.are_all() { "" } else { ",userxattr" },
        count: 0,
        made: Vec::new(),
    };
    for host in host_mounts(&table, masks) {
        let is_root = host.path == Path::new("/");
        // One that another file takes the place of: resolv.conf of a container, say.
        if items.iter().any(|item| item.path == host.path) {
            continue;
        }
        let done = match host.layered {
            true => layers.cover(&host.path),
            false => show(&host.path),
        };
        // Without `/` there is no root; a mount below it that can't be shown is simply not there.
        if is_root {
            done.context("layering the host's file system")?;
        }
    }
    for item in items {
        if let What::Text(text) = &item.what
            && fs::read_to_string(inside(&item.path)).ok().as_ref() != Some(text)
        {
            let path = item.path.display();
            return Err(io::Error::other(format!(
                "{path} can't be replaced: its file system is shown read-only"
            )));
        }
    }
    Ok(layers.made)
}

struct Layers<'a> {
    items: &'a [Item],
    masks: &'a [PathBuf],
    /// Where anything is mounted on the host.
    paths: Vec<PathBuf>,
    options: &'static str,
    /// Layers begun; each has a directory of that number.
    count: usize,
    /// The directories of the host that have a layer.
    made: Vec<PathBuf>,
}

impl Layers<'_> {
    /// Shows a directory of the host under a layer.
    fn cover(&mut self, dir: &Path) -> io::Result<()> {
        match self.overlay(dir) {
            Err(_) if self.has_mounts_below(dir) => self.rebuild(dir),
            // Kernels before 5.11 layer nothing in a user namespace: better to be read than not to be there.
            Err(error) if !self.options.is_empty() => show(dir).map_err(|_| error),
            done => done,
        }
    }

    fn has_mounts_below(&self, dir: &Path) -> bool {
        self.paths.iter().any(|path| path != dir && path.starts_with(dir))
    }

    /// A new directory for a layer, with a directory's mode.
    fn layer(&mut self, like: &Path) -> io::Result<PathBuf> {
        let layer = Path::new(LAYER).join(self.count.to_string());
        self.count += 1;
        for dir in [layer.join("upper"), layer.join("work")] {
            fs::create_dir_all(dir).context("making a layer")?;
        }
        copy_mode(like, &layer.join("upper")).context("the mode of a layer")?;
        Ok(layer)
    }

    fn overlay(&mut self, dir: &Path) -> io::Result<()> {
        let step = format!("layering {}", dir.display());
        if dir.to_string_lossy().contains([':', ',', '\\', '"']) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, step));
        }
        let layer = self.layer(dir)?;
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        self.furnish(dir, &upper, |_| true)?;
        let data = format!(
            "lowerdir={},upperdir={},workdir={}{}",
            dir.display(),
            upper.display(),
            work.display(),
            self.options
        );
        let data = std::ffi::CString::new(data)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let target = inside(dir);
        mount("overlay", &target, "overlay", flags, Some(data.as_c_str())).context(&step)?;
        self.made.push(dir.to_owned());
        Ok(())
    }

    /// Puts a directory together anew: each entry covered by itself.
    fn rebuild(&mut self, dir: &Path) -> io::Result<()> {
        let step = format!("putting {} together", dir.display());
        let entries = fs::read_dir(dir).context(&step)?.take(ENTRIES + 1);
        let entries: Vec<_> = entries.collect::<io::Result<_>>().context(&step)?;
        if entries.len() > ENTRIES {
            return Err(io::Error::other(format!("{step}: it has more than {ENTRIES} entries")));
        }
        let new = self.layer(dir)?.join("upper");
        // What belongs into a directory that the host has is put there when that is covered.
        self.furnish(dir, &new, |below| !below.is_dir())?;
        bind(&new, &inside(dir)).context(&step)?;
        self.made.push(dir.to_owned());
        for entry in entries {
            // One that can't be shown is simply not there.
            if let Err(error) = self.entry(&entry.path(), entry.file_type()?) {
                tracing::debug!(path = %entry.path().display(), %error, "not shown to a container");
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, kind: fs::FileType) -> io::Result<()> {
        let target = inside(path);
        if fs::symlink_metadata(&target).is_ok() {
            return Ok(()); // furnished
        }
        if kind.is_symlink() {
            return symlink(fs::read_link(path)?, &target);
        }
        let comes_by_itself = self.paths.iter().any(|mounted| mounted == path);
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_mode(path, &target)?;
            let comes_new = is_replaced(path) || self.masks.iter().any(|mask| path == mask);
            return if comes_new || comes_by_itself {
                Ok(())
            } else {
                self.cover(path)
            };
        }
        if kind.is_file() {
            File::create(&target)?;
            return if comes_by_itself { Ok(()) } else { show(path) };
        }
        Ok(())
    }

    /// Puts into the layer `upper` of `dir` what it has to hold. `wanted`: whether this layer is to hold what is in that
    /// entry of `dir`.
    fn furnish(&self, dir: &Path, upper: &Path, wanted: impl Fn(&Path) -> bool) -> io::Result<()> {
        for item in self.items {
            let Some(below) = item.path.strip_prefix(dir).ok().filter(|below| *below != Path::new("")) else {
                continue;
            };
            let is_direct = below.components().count() == 1;
            let first = below.components().next().map(|first| dir.join(first));
            if !is_direct && !first.is_some_and(|first| wanted(&first)) {
                continue;
            }
            let parents: Vec<_> = below
                .ancestors()
                .skip(1)
                .filter(|path| *path != Path::new(""))
                .collect();
            for parent in parents.into_iter().rev() {
                make_dir(&dir.join(parent), &upper.join(parent))?;
            }
            let place = upper.join(below);
            let made = match &item.what {
                What::Text(text) => fs::write(&place, text)
                    .and_then(|()| fs::set_permissions(&place, fs::Permissions::from_mode(0o644))),
                What::Point { is_dir: true } => make_dir(&item.path, &place),
                What::Point { is_dir: false } => File::create(&place).map(drop),
            };
            made.context(&format!("making {}", item.path.display()))?;
        }
        Ok(())
    }
}

/// A directory with the mode of the host's, or what is usual.
fn make_dir(like: &Path, place: &Path) -> io::Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    fs::create_dir(place)?;
    match like.is_dir() {
        true => copy_mode(like, place),
        false => fs::set_permissions(place, fs::Permissions::from_mode(0o755)),
    }
}

fn copy_mode(from: &Path, to: &Path) -> io::Result<()> {
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

/// Shows a file or directory of the host as it is, read-only.
fn show(path: &Path) -> io::Result<()> {
    let target = inside(path);
    bind(path, &target)?;
    read_only(&target)
}

/// The place in the new root.
pub(super) fn inside(path: &Path) -> PathBuf {
    Path::new(NEW_ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn is_replaced(path: &Path) -> bool {
    REPLACED.iter().any(|top| path.starts_with(top))
}

fn mount_points(table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect()
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
        let hidden = is_replaced(&path) || masks.iter().any(|mask| path.starts_with(mask));
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
pub(super) fn unescape(path: &str) -> PathBuf {
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
