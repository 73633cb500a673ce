//! Where a sandbox gets its rights from: root, or a user namespace with many users or with one.
//!
//! In: who runs this, and what the machine has set up for them. Out: the [`Mode`]s to try, best first; the maps of a user
//! namespace, written from outside; and, where the kernel refuses, the cause with its fix.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::unistd::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities, no_new_privs};
use serde::{Deserialize, Serialize};

use crate::iptables::search_path;
use crate::mounts::Context;

/// Where a sandbox gets the rights to make its namespaces from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// From root.
    Root,
    /// From a user namespace with a range of users and groups: user 0 is the caller.
    Multi {
        /// From `/etc/subuid`.
        users: SubIds,
        /// From `/etc/subgid`.
        groups: SubIds,
    },
    /// From a user namespace with one user, the caller.
    Single {
        /// Why there are no more, with the fix.
        why: String,
    },
}

/// A range of users or groups of the host that somebody may use in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubIds {
    /// The first, as the host numbers it.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// All that manifests name by custom must exist: "nobody" is 65534, and containers that name nobody are 65532.
const LEAST: u32 = 65_534;
/// What a fix can always be.
const ELSE: &str = "or run the same command with sudo";

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "root"),
            Self::Multi { users, .. } => {
                let count = users.count;
                write!(
                    f,
                    "no root; a user namespace with {count} users of /etc/subuid (mode multi)"
                )
            }
            Self::Single { why } => write!(f, "no root; a user namespace with one user, as {why} (mode single)"),
        }
    }
}

impl Mode {
    /// One word, for programs: `root`, `multi` or `single`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Multi { .. } => "multi",
            Self::Single { .. } => "single",
        }
    }

    /// What to try, best first.
    pub(super) fn choices() -> Vec<Self> {
        if is_root() {
            return vec![Self::Root];
        }
        match multi() {
            Ok(multi) => vec![multi, Self::Single { why: String::new() }],
            Err(why) => vec![Self::Single { why }],
        }
    }

    /// Writes the maps of the user namespace that the process `pid` has just made.
    pub(super) fn map(&self, pid: u32) -> io::Result<()> {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        match self {
            Self::Root => Ok(()),
            Self::Multi { users, groups } => {
                run("newuidmap", pid, user, *users)?;
                run("newgidmap", pid, group, *groups)
            }
            Self::Single { .. } => {
                let process = PathBuf::from(format!("/proc/{pid}"));
                let write = |file: &str, text: &str| {
                    fs::write(process.join(file), text).context(&format!("writing the user namespace's {file}"))
                };
                write("setgroups", "deny")?;
                write("uid_map", &format!("0 {user} 1"))?;
                write("gid_map", &format!("0 {group} 1"))
            }
        }
    }
}

/// Whether namespaces can be made without a user namespace.
pub(crate) fn is_root() -> bool {
    let may = || capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_ADMIN));
    geteuid().is_root() && may()
}

/// The mode with many users, or what it lacks, as the end of "a user namespace with one user, as ...".
fn multi() -> Result<Mode, String> {
    if no_new_privs().is_ok_and(|set| set) {
        return Err("no_new_privs is set on this process, and newuidmap could do nothing".to_owned());
    }
    for tool in ["newuidmap", "newgidmap"] {
        if find(tool).is_none() {
            return Err(format!(
                "{tool} is missing: for more, install the package uidmap (apt-get install uidmap)"
            ));
        }
    }
    let user = geteuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name_of(&passwd, user);
    let range = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        sub_ids(&text, name, user).ok_or_else(|| {
            let who = name.map_or_else(|| user.to_string(), str::to_owned);
            format!("{path} has no line that gives {who} {LEAST} or more: for more, as root `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}`")
        })
    };
    Ok(Mode::Multi {
        users: range("/etc/subuid")?,
        groups: range("/etc/subgid")?,
    })
}

fn find(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|directory| directory.join(tool))
        .find(|path| path.is_file())
}

/// Has a range mapped by the tool that may do so.
fn run(tool: &str, pid: u32, own: u32, range: SubIds) -> io::Result<()> {
    let path = find(tool).ok_or_else(|| io::Error::other(format!("{tool} is missing")))?;
    let words = [pid, 0, own, 1, 1, range.first, range.count].map(|number| number.to_string());
    let output = Command::new(path)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context(tool)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{tool} failed ({})",
        said.trim().replace('\n', "; ")
    )))
}

/// The name of a user in `/etc/passwd`.
fn name_of(passwd: &str, user: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then_some(name)
    })
}

/// The first range of `/etc/subuid` or `/etc/subgid` (see subuid(5)) that a user has, if it is long enough.
fn sub_ids(text: &str, name: Option<&str>, user: u32) -> Option<SubIds> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        let is_ours = Some(who) == name || who.parse() == Ok(user);
        (is_ours && count >= LEAST).then_some(SubIds { first, count })
    })
}

/// Why the kernel refused a user namespace, or the others within it, with the fix.
pub(super) fn explain(step: &str, error: Errno) -> io::Error {
    let setting = |path: &str| fs::read_to_string(Path::new("/proc/sys").join(path)).ok();
    io::Error::other(format!("{step}: {}: {}", error.desc(), cause(error, setting)))
}

/// The cause, as far as the kernel's settings tell it.
fn cause(error: Errno, setting: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
    let sysctl = |name: &str, value: &str| format!("as root `sysctl -w {name}={value}`, {ELSE}");
    if is("kernel/unprivileged_userns_clone", "0") {
        let fix = sysctl("kernel.unprivileged_userns_clone", "1");
        return format!("user namespaces are for root only on this machine: {fix}");
    }
    if error == Errno::ENOSPC || is("user/max_user_namespaces", "0") {
        let limit = setting("user/max_user_namespaces").unwrap_or_default();
        let fix = sysctl("user.max_user_namespaces", "15000");
        return format!("the limit of user namespaces, {}, is reached: {fix}", limit.trim());
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        let fix = sysctl("kernel.apparmor_restrict_unprivileged_userns", "0");
        return format!("AppArmor restricts user namespaces on this machine: {fix}");
    }
    match error {
        Errno::EINVAL | Errno::ENOSYS => {
            "this kernel has no user namespaces (CONFIG_USER_NS): run the same command with sudo".to_owned()
        }
        Errno::EUSERS => "user namespaces are nested too deep: run it outside of the inner ones".to_owned(),
        _ => format!(
            "a container's seccomp profile, or a chroot, may forbid user namespaces: run it outside of them, {ELSE}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_by_name_or_number_if_it_is_long_enough() {
        let text = "# people\nada:100000:65536\nbob:165536:1000\n1003:300000:65536\n";
        let range = |first| Some(SubIds { first, count: 65536 });
        assert_eq!(sub_ids(text, Some("ada"), 1001), range(100_000));
        assert_eq!(sub_ids(text, Some("bob"), 1002), None);
        assert_eq!(sub_ids(text, None, 1003), range(300_000));
        assert_eq!(sub_ids(text, None, 1004), None);
        assert_eq!(sub_ids("ada:x:y\nada", Some("ada"), 1001), None);
    }

    #[test]
    fn a_user_has_the_name_that_the_account_file_gives() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1001:1001::/home/ada:/bin/sh\n";
        assert_eq!(name_of(passwd, 1001), Some("ada"));
        assert_eq!(name_of(passwd, 4), None);
    }

    #[track_caller]
    fn check(error: Errno, settings: &[(&str, &str)], want: &[&str]) {
        let setting = |path: &str| {
            settings
                .iter()
                .find(|(name, _)| *name == path)
                .map(|(_, value)| (*value).to_owned())
        };
        let said = cause(error, setting);
        for part in want {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }

    #[test]
    fn every_refusal_names_its_cause_and_its_fix() {
        let off = ("kernel/unprivileged_userns_clone", "0\n");
        check(
            Errno::EPERM,
            &[off],
            &["root only", "kernel.unprivileged_userns_clone=1", "sudo"],
        );
        let none = ("user/max_user_namespaces", "0\n");
        check(
            Errno::ENOSPC,
            &[none],
            &["limit of user namespaces, 0,", "user.max_user_namespaces=15000"],
        );
        let on = ("kernel/unprivileged_userns_clone", "1\n");
        let armor = ("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        check(
            Errno::EACCES,
            &[on, armor],
            &["AppArmor", "apparmor_restrict_unprivileged_userns=0"],
        );
        check(Errno::EPERM, &[], &["seccomp", "chroot", "sudo"]);
        check(Errno::EINVAL, &[], &["CONFIG_USER_NS", "sudo"]);
        check(Errno::EUSERS, &[], &["nested"]);
    }

    #[test]
    fn a_mode_says_what_it_is() {
        let range = SubIds {
            first: 100_000,
            count: 65_536,
        };
        let multi = Mode::Multi {
            users: range,
            groups: range,
        };
        assert!(multi.to_string().contains("65536 users of /etc/subuid"), "{multi}");
        let single = Mode::Single {
            why: "newuidmap is missing".to_owned(),
        };
        assert!(
            single.to_string().contains("one user, as newuidmap is missing"),
            "{single}"
        );
    }
}
