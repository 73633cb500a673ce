//! Programs that are built from Go modules of a fixed version, once, and kept beside other caches of the user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the programs of this name and version are. `build` makes them in an empty directory, if they are not there yet.
#[track_caller]
pub fn built(name: &str, version: &str, programs: &[&str], build: impl FnOnce(&Path)) -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let cache = cache.expect("HOME is set").join("weft");
    let to = cache.join(format!("{name}-{version}"));
    if programs.iter().all(|name| to.join(name).exists()) {
        return to;
    }
    // Elsewhere first: what is cut short is not taken for whole.
    fs::create_dir_all(&cache).expect("the cache");
    let made = tempfile::tempdir_in(&cache).expect("a directory");
    build(made.path());
    fs::create_dir_all(&to).expect("the cache");
    for name in programs {
        fs::rename(made.path().join(name), to.join(name)).expect("a program that was built");
    }
    to
}

/// `go install` of a module's packages at a version, into a directory.
#[track_caller]
pub fn install(packages: &[&str], version: &str, to: &Path) {
    let packages = packages.iter().map(|package| format!("{package}@{version}"));
    let mut go = go(to);
    go.arg("install").args(packages).env("GOBIN", to);
    assert!(go.status().expect("go ran").success(), "go could not install {go:?}");
}

/// Copies the sources of a module at a version to a place of their own, where they can be written.
#[track_caller]
pub fn source(module: &str, version: &str, to: &Path) {
    let module = format!("{module}@{version}");
    let output = go(to.parent().expect("it lies somewhere"))
        .args(["mod", "download", "-json", &module])
        .output()
        .expect("go ran");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let from = said["Dir"]
        .as_str()
        .unwrap_or_else(|| panic!("go could not download {module}: {said}"));
    let copied = Command::new("cp")
        .args(["-r", "--no-preserve=mode", from])
        .arg(to)
        .status()
        .expect("cp");
    assert!(copied.success(), "the sources of {module} can be copied");
}

/// Builds a package of a module's sources.
#[track_caller]
pub fn build(source: &Path, package: &str, to: &Path) {
    let mut go = go(source);
    go.args(["build", "-o"]).arg(to).arg(package);
    assert!(go.status().expect("go ran").success(), "go could not build {package}");
}

fn go(directory: &Path) -> Command {
    let known = Command::new("go").arg("version").output();
    assert!(
        known.is_ok_and(|known| known.status.success()),
        "go is missing: install Go 1.25 or newer (https://go.dev/dl)"
    );
    let mut go = Command::new("go");
    // Pods share no library with what builds their programs.
    go.env("CGO_ENABLED", "0").current_dir(directory);
    go
}
