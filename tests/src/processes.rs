//! Processes of a mesh, by what they were started with.

use std::fs;

use nix::unistd::Pid;

/// A process and all below it.
#[must_use]
pub fn below(pid: Pid) -> Vec<Pid> {
    let parents = parents();
    let (mut found, mut waiting) = (Vec::new(), vec![pid]);
    while let Some(pid) = waiting.pop() {
        found.push(pid);
        waiting.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == pid)
                .map(|(child, _)| *child),
        );
    }
    found
}

/// All processes, each with its parent. (`/proc/…/children` leaves some out where another one ends meanwhile, says proc(5).)
fn parents() -> Vec<(Pid, Pid)> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let number = |text: &str| text.parse().ok().map(Pid::from_raw);
    let each = all.filter_map(|entry| {
        let pid = number(entry.file_name().to_str()?)?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name, in parentheses, may have any character in it.
        let (_, rest) = stat.rsplit_once(')')?;
        Some((pid, number(rest.split_whitespace().nth(1)?)?))
    });
    each.collect()
}

/// The words of a process's command line. Empty: it is gone.
#[must_use]
pub fn words(pid: Pid) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Those of these that play a role of `weft`.
#[must_use]
pub fn of_role(all: Vec<Pid>, role: &str) -> Vec<Pid> {
    let plays = |pid: &Pid| words(*pid).get(1).is_some_and(|word| word == role);
    all.into_iter().filter(plays).collect()
}

/// A field of a process's `/proc/…/status`, in KiB: `VmRSS`, `VmHWM`.
#[track_caller]
#[must_use]
pub fn memory(pid: Pid, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| *name == field);
    let number = found.and_then(|(_, value)| value.trim().strip_suffix(" kB")?.parse().ok());
    number.unwrap_or_else(|| panic!("{field} of {pid}"))
}
