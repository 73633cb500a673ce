//! Where a user's manifests come from: directories, single files, and standard input, which is kept in a file.
//!
//! In: what `-f` named. Out: what the readers of manifests open, and what people know it as.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use weft_control::manifests::{Directory, Selection, Writer};
use weft_control::objects::Kinds;

/// What people call standard input.
const STDIN: &str = "stdin";
/// The file that standard input is kept in.
const STDIN_FILE: &str = "stdin.yaml";
/// Files that are looked at for whether they can be read; the control plane names the others itself.
const MOST_FILES: usize = 10_000;
/// Subdirectories within each other that are looked at.
const MOST_DEPTH: usize = 32;

/// A place of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The directory.
    pub directory: PathBuf,
    /// The only file of it, if one was named.
    pub file: Option<String>,
    /// It is standard input.
    pub stdin: bool,
}

/// All places of a mesh's manifests. Printed as people wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The places, in order.
    pub places: Vec<Source>,
    /// Subdirectories count, too (`-R`).
    pub recursive: bool,
}

impl Source {
    /// All files of a directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self {
            directory: path.into(),
            file: None,
            stdin: false,
        }
    }

    /// One file.
    pub fn file(directory: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            file: Some(name.into()),
            stdin: false,
        }
    }

    /// Standard input, which is kept in this directory.
    pub fn stdin(directory: impl Into<PathBuf>) -> Self {
        Self {
            stdin: true,
            ..Self::file(directory, STDIN_FILE)
        }
    }

    /// What people know it as.
    pub fn shown(&self) -> PathBuf {
        match (&self.file, self.stdin) {
            (_, true) => STDIN.into(),
            (Some(file), false) => self.directory.join(file),
            (None, false) => self.directory.clone(),
        }
    }

    /// Whether everything that another place holds is held by this one.
    fn covers(&self, other: &Self, recursive: bool) -> bool {
        let below = match recursive {
            true => other.directory.starts_with(&self.directory),
            false => other.directory == self.directory,
        };
        let read_here = |file: &String| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|end| file.ends_with(&format!(".{end}")))
        };
        match &self.file {
            Some(_) => self == other,
            None => below && !other.stdin && other.file.as_ref().is_none_or(read_here),
        }
    }

    fn selection(&self, recursive: bool) -> Selection {
        match &self.file {
            Some(name) => Selection::One {
                name: name.clone(),
                shown: self.stdin.then(|| self.shown()),
            },
            None if recursive => Selection::Below,
            None => Selection::Here,
        }
    }

    /// The control plane runs as a user of its own, and must be able to read what the user wrote.
    fn readable(&self, recursive: bool) -> Result<()> {
        let shown = self.directory.display();
        let context = || format!("reading {shown}");
        if let Some(file) = &self.file {
            let path = self.directory.join(file);
            if mode(&self.directory).with_context(context)? & 0o001 == 0 {
                bail!(
                    "{shown} can't be entered by the control plane, which runs as a user of its own: chmod o+x {shown}"
                );
            }
            // One that is gone by now is no matter.
            return others_read(&path);
        }
        let mut left = MOST_FILES;
        directory_readable(&self.directory, if recursive { MOST_DEPTH } else { 0 }, &mut left)
    }
}

fn mode(path: &Path) -> std::io::Result<u32> {
    fs::metadata(path).map(|metadata| metadata.permissions().mode())
}

fn others_read(path: &Path) -> Result<()> {
    if mode(path).is_ok_and(|mode| mode & 0o004 == 0) {
        let path = path.display();
        bail!("{path} can't be read by the control plane, which runs as a user of its own: chmod o+r {path}");
    }
    Ok(())
}

fn directory_readable(directory: &Path, depth: usize, left: &mut usize) -> Result<()> {
    let shown = directory.display();
    let context = || format!("reading {shown}");
    if mode(directory).with_context(context)? & 0o005 != 0o005 {
        bail!("{shown} can't be read by the control plane, which runs as a user of its own: chmod o+rx {shown}");
    }
    for entry in fs::read_dir(directory).with_context(context)?.take(*left) {
        let entry = entry.with_context(context)?;
        *left = left.saturating_sub(1);
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if depth > 0 && !hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            directory_readable(&path, depth - 1, left)?;
        }
        let end = path.extension().and_then(|end| end.to_str());
        if !hidden && end.is_some_and(|end| matches!(end, "yaml" | "yml" | "json")) {
            others_read(&path)?;
        }
    }
    Ok(())
}

impl Sources {
    /// These places, each once: what another one holds already is left out.
    pub fn new(given: Vec<Source>, recursive: bool) -> Self {
        let mut places: Vec<Source> = Vec::new();
        for place in given {
            if places.iter().any(|other| other.covers(&place, recursive)) {
                continue;
            }
            places.retain(|other| !place.covers(other, recursive));
            places.push(place);
        }
        Self { places, recursive }
    }

    /// One directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::new(vec![Source::directory(path)], false)
    }

    /// What a reader of manifests opens, for these kinds.
    pub fn directories(&self, kinds: &Kinds) -> Vec<Directory> {
        let directory = |place: &Source| Directory {
            path: place.directory.clone(),
            files: place.selection(self.recursive),
            writer: Writer::User,
            kinds: kinds.clone(),
        };
        self.places.iter().map(directory).collect()
    }

    /// Keeps the text of standard input where the readers look for it, if it is one of the places.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep_stdin(&self, text: &[u8]) -> Result<()> {
        for place in self.places.iter().filter(|place| place.stdin) {
            let directory = &place.directory;
            let context = || format!("keeping standard input in {}", directory.display());
            fs::create_dir_all(directory).with_context(context)?;
            // The directory above is the owner's alone; the control plane sees this one by itself.
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).with_context(context)?;
            weft_daemon::file::replace(&directory.join(STDIN_FILE), 0o644, text).with_context(context)?;
        }
        Ok(())
    }

    /// Whether the control plane will be able to read them all.
    ///
    /// # Errors
    /// The first that it can't, and the fix.
    pub fn readable(&self) -> Result<()> {
        self.places.iter().try_for_each(|place| place.readable(self.recursive))
    }

    /// A place that can be edited.
    pub fn editable(&self) -> Option<PathBuf> {
        self.places.iter().find(|place| !place.stdin).map(Source::shown)
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self
            .places
            .iter()
            .map(|place| place.shown().display().to_string())
            .collect();
        f.write_str(&shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_twice_is_read_once() {
        let (shop, base) = (Source::directory("/shop"), Source::directory("/shop/base"));
        let file = Source::file("/shop", "a.yaml");
        let odd = Source::file("/shop", "a.txt");
        let stdin = Source::stdin("/shop");
        let all = vec![
            file.clone(),
            base.clone(),
            shop.clone(),
            file,
            odd.clone(),
            stdin.clone(),
        ];
        assert_eq!(
            Sources::new(all.clone(), false).places,
            [base, shop.clone(), odd.clone(), stdin.clone()]
        );
        assert_eq!(Sources::new(all, true).places, [shop, odd, stdin]);
    }

    #[test]
    fn places_are_shown_as_people_wrote_them() {
        let sources = Sources::new(
            vec![
                Source::directory("/shop"),
                Source::file("/etc", "a.yaml"),
                Source::stdin("/state"),
            ],
            false,
        );
        assert_eq!(sources.to_string(), "/shop, /etc/a.yaml, stdin");
        assert_eq!(sources.editable().as_deref(), Some(Path::new("/shop")));
        assert_eq!(Sources::new(vec![Source::stdin("/state")], false).editable(), None);
    }

    #[test]
    fn what_the_control_plane_could_not_read_is_named_with_its_fix() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        fs::create_dir(&base).unwrap();
        let file = base.join("pod.yaml");
        fs::write(&file, "").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let said = |place: Source, recursive| {
            let sources = Sources::new(vec![place], recursive);
            sources
                .readable()
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        set(directory.path(), 0o700);
        assert!(said(Source::directory(directory.path()), false).contains("chmod o+rx"));
        set(directory.path(), 0o755);
        set(&base, 0o755);
        set(&file, 0o600);
        assert_eq!(said(Source::directory(directory.path()), false), "");
        assert!(said(Source::directory(directory.path()), true).contains("chmod o+r "));
        assert!(said(Source::file(&base, "pod.yaml"), false).contains("chmod o+r "));
        set(&file, 0o644);
        assert_eq!(said(Source::directory(directory.path()), true), "");
        set(&base, 0o700);
        assert!(said(Source::file(&base, "pod.yaml"), false).contains("chmod o+x "));
    }
}
