//! The kernel's packet filter, by the tools that this machine has for it.
//!
//! In: rules as text. Out: the rules in place, all at once.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Hands text to `iptables-restore --noflush`, or its sibling, in the calling thread's network namespace.
pub(crate) fn restore(tool: &str, rules: &str) -> io::Result<()> {
    let mut command = Command::new(tool);
    command
        .env("PATH", search_path())
        .args(["--noflush", "--wait", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{tool}: {}", said.trim())));
    }
    Ok(())
}

/// PATH, with the directories of administrators' tools, which that of a user lacks on Debian.
pub(crate) fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}
