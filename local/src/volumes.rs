//! The volumes of a pod, on the supervisor's side: made before its containers, gone after them.
//!
//! Files given by value lie as kubelet lays them: `<volume>/<name>` leads to `..data/<name>`, and `..data` to a
//! directory with all files of one version. One rename swaps the version, so a reader sees all of the old or all of the
//! new.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::mount::{UnmountFlags, unmount};

use crate::ids::Ids;
use crate::mounts::{self, Context};
use crate::spec::{FileEntry, PodPlan, Volume, VolumeSource};

/// Where volumes that live in memory lie.
const MEMORY: &str = "/run/weft/volumes";
/// Beside the directories of pods, whose uids are never this.
const CLAIMS: &str = "claims";
/// A volume in memory whose size nobody set.
const MEMORY_SIZE: u64 = 256 << 20;

/// Removes the volumes of all pods, claims too, with the directory that they lie in.
pub(crate) fn remove_all(disk: &Path) -> io::Result<()> {
    match fs::remove_dir_all(disk) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The volumes of one pod. Dropping them removes them.
#[derive(Debug)]
pub(crate) struct Volumes {
    /// In memory: files, and emptyDirs with `medium: Memory`.
    memory: PathBuf,
    /// On disk: other emptyDirs.
    disk: PathBuf,
    /// Where directories lie that outlive the pod.
    claims: PathBuf,
    list: Vec<Volume>,
    fs_group: Option<u32>,
    ids: Ids,
    /// Held while files are swapped: one version at a time.
    swap: Mutex<()>,
}

impl Volumes {
    /// Makes all volumes of a pod; those on disk below `disk`.
    pub(crate) fn make(pod: &PodPlan, disk: &Path, ids: &Ids) -> io::Result<Self> {
        let volumes = Self {
            memory: Path::new(MEMORY).join(&pod.uid),
            disk: disk.join(&pod.uid),
            claims: disk.join(CLAIMS).join(&pod.namespace),
            list: pod.volumes.clone(),
            fs_group: ids.owner(pod.fs_group),
            ids: ids.clone(),
            swap: Mutex::new(()),
        };
        for volume in &volumes.list {
            volumes
                .make_one(volume)
                .context(&format!("making the volume {:?}", volume.name))?;
        }
        Ok(volumes)
    }

    /// No volumes, for plans without mounts.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let nowhere = PathBuf::from("/nonexistent");
        Self {
            memory: nowhere.clone(),
            claims: nowhere.clone(),
            disk: nowhere,
            list: Vec::new(),
            fs_group: None,
            ids: Ids::default(),
            swap: Mutex::new(()),
        }
    }

    /// Where a volume lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self
            .list
            .iter()
            .find(|volume| volume.name == name)
            .map(|volume| &volume.source)
        {
            Some(VolumeSource::Bind { path }) => path.clone(),
            Some(VolumeSource::EmptyDir { memory: false, .. }) => self.disk.join(name),
            Some(VolumeSource::Claim { name }) => self.claims.join(name),
            _ => self.memory.join(name),
        }
    }

    fn make_one(&self, volume: &Volume) -> io::Result<()> {
        let path = self.path(&volume.name);
        match &volume.source {
            VolumeSource::EmptyDir { memory, size_limit } => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                if *memory {
                    let size = size_limit.unwrap_or(MEMORY_SIZE).max(4096);
                    mounts::tmpfs(&path, &format!("mode=0777,size={size}"))?;
                }
                self.open_to_all(&path)
            }
            VolumeSource::Claim { .. } => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                self.open_to_all(&path)
            }
            VolumeSource::Files { files, owner } => {
                DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(0o755))?;
                swap_files(&path, files, self.ids.owner(*owner), self.fs_group)
            }
            VolumeSource::Bind { path } => fs::metadata(path).map(|_| ()).context(&path.display().to_string()),
        }
    }

    /// As in Kubernetes: anyone of the pod, and what is made there belongs to the volume's group.
    fn open_to_all(&self, path: &Path) -> io::Result<()> {
        chown(path, None, self.fs_group)?;
        let mode = if self.fs_group.is_some() { 0o2777 } else { 0o777 };
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Replaces the files of a volume all at once. `None` if there is no such volume of files.
    pub(crate) fn update(&self, name: &str, files: &[FileEntry]) -> Option<io::Result<()>> {
        let volume = self.list.iter().find(|volume| volume.name == name)?;
        let VolumeSource::Files { owner, .. } = &volume.source else {
            return None;
        };
        if let Some(file) = files.iter().find(|file| !file.is_well_placed()) {
            let message = format!("{}: must be a relative path without `..`", file.path.display());
            return Some(Err(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        let _one = self.swap.lock().unwrap_or_else(PoisonError::into_inner);
        Some(swap_files(
            &self.path(name),
            files,
            self.ids.owner(*owner),
            self.fs_group,
        ))
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        // What can't be removed now goes with the sandbox (memory) or at the next start (disk).
        for volume in &self.list {
            if matches!(volume.source, VolumeSource::EmptyDir { memory: true, .. }) {
                let _ = unmount(self.path(&volume.name), UnmountFlags::DETACH);
            }
        }
        let _ = fs::remove_dir_all(&self.memory);
        let _ = fs::remove_dir_all(&self.disk);
    }
}

/// Writes a new version beside the present one and swaps them; on an error the present one stays.
fn swap_files(volume: &Path, files: &[FileEntry], owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let data = volume.join("..data");
    let old = fs::read_link(&data).ok();
    let number = old
        .as_deref()
        .and_then(|name| name.to_str()?.strip_prefix("..v")?.parse::<u64>().ok())
        .unwrap_or(0);
    let name = format!("..v{}", number + 1);
    let version = volume.join(&name);
    // A version that was begun and never swapped in.
    remove_if_there(&version)?;
    let made = write_version(&version, files, owner, group).and_then(|()| {
        let link = volume.join("..data_new");
        remove_if_there(&link)?;
        symlink(&name, &link)?;
        fs::rename(&link, &data)
    });
    if let Err(error) = made {
        let _ = fs::remove_dir_all(&version); // the error counts, not what is left of it
        return Err(error);
    }
    let tops: BTreeSet<&std::ffi::OsStr> = files.iter().filter_map(|file| first(&file.path)).collect();
    for top in &tops {
        match symlink(Path::new("..data").join(top), volume.join(top)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?.file_name();
        if !entry.to_string_lossy().starts_with("..") && !tops.contains(entry.as_os_str()) {
            fs::remove_file(volume.join(entry))?;
        }
    }
    // The version before stays until the next update: a reader may be on its way through it.
    for entry in fs::read_dir(volume)? {
        let entry = entry?.file_name();
        let is_version = entry.to_string_lossy().starts_with("..v");
        if is_version && entry != *name && old.as_ref().is_none_or(|old| entry != *old.as_os_str()) {
            remove_if_there(&volume.join(entry))?;
        }
    }
    Ok(())
}

fn write_version(version: &Path, files: &[FileEntry], owner: Option<u32>, group: Option<u32>) -> io::Result<()> {
    make_dir(version)?;
    for file in files {
        let path = version.join(&file.path);
        for dir in file.path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let dir = version.join(dir);
            if !dir.exists() {
                make_dir(&dir)?;
            }
        }
        let step = format!("writing {}", file.path.display());
        fs::write(&path, &file.bytes).context(&step)?;
        chown(&path, owner, group).context(&step)?;
        // As kubelet does, the volume's group can read what the owner can.
        let mode = if group.is_some() {
            file.mode | (file.mode >> 3 & 0o040)
        } else {
            file.mode
        };
        fs::set_permissions(&path, Permissions::from_mode(mode & 0o777)).context(&step)?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn first(path: &Path) -> Option<&std::ffi::OsStr> {
    path.components().find_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, text: &str) -> FileEntry {
        FileEntry {
            path: path.into(),
            mode: 0o640,
            bytes: text.into(),
        }
    }

    fn swap(dir: &Path, files: &[FileEntry]) {
        swap_files(dir, files, None, None).unwrap();
    }

    #[test]
    fn all_files_change_at_once_and_all_but_the_last_version_go() {
        let dir = tempfile::tempdir().unwrap();
        swap(dir.path(), &[entry("a", "1"), entry("deep/b", "1"), entry("gone", "1")]);
        let before = fs::read_link(dir.path().join("..data")).unwrap();
        let held = fs::File::open(dir.path().join("a")).unwrap();
        swap(dir.path(), &[entry("a", "2"), entry("deep/b", "2")]);
        assert_ne!(fs::read_link(dir.path().join("..data")).unwrap(), before);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "2");
        assert_eq!(fs::read_to_string(dir.path().join("deep/b")).unwrap(), "2");
        assert_eq!(io::read_to_string(held).unwrap(), "1");
        swap(dir.path(), &[entry("a", "3"), entry("deep/b", "3")]);
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["..data", "..v2", "..v3", "a", "deep"]);
    }

    #[test]
    fn a_version_that_can_not_be_written_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        swap(dir.path(), &[entry("a", "1")]);
        // The same name as a file and as a directory.
        assert!(swap_files(dir.path(), &[entry("a", "2"), entry("a/b", "2")], None, None).is_err());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        swap(dir.path(), &[entry("a", "3")]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
    }

    #[test]
    fn modes_are_kept_and_the_group_may_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = entry("a", "1");
        file.mode = 0o400;
        swap(dir.path(), std::slice::from_ref(&file));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("a")), 0o400);
        let gid = rustix::process::getgid().as_raw();
        swap_files(dir.path(), &[file], None, Some(gid)).unwrap();
        assert_eq!(mode(&dir.path().join("a")), 0o440);
    }
}
