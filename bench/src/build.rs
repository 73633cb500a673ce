//! The binary that is measured: built here, in the profile that is shipped, and no other.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The profile that is shipped and measured.
const PROFILE: &str = "dist";

/// Builds `weft` and `weft-proxy` in the profile that is shipped, and gives the directory that they lie in.
pub fn build() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let directory = here.parent().context("the benchmark's own directory")?;
    ensure!(
        directory.file_name().is_some_and(|name| name == PROFILE),
        "this is a build of another profile than the one that is shipped; run: cargo run --profile {PROFILE} -p weft-bench"
    );
    eprintln!("building weft and weft-proxy in profile {PROFILE} (the first time takes some minutes)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--profile",
            PROFILE,
            "-p",
            "weft",
            "-p",
            "weft-proxy",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .context("cargo")?;
    ensure!(status.success(), "cargo build failed");
    Ok(directory.to_owned())
}
