//! Processes of a mesh, by what they were started with.

use std::fs;

use nix::unistd::Pid;

/// A process and all below it.
#[must_use]
pub fn below(pid: Pid) -> Vec<Pid> {
    let (mut found, mut waiting) = (Vec::new(), vec![pid]);
    while let Some(pid) = waiting.pop() {
        found.push(pid);
        waiting.extend(children(pid));
    }
    found
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

/// The processes right below one.
#[must_use]
pub fn children(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .map(Pid::from_raw)
                .collect::<Vec<_>>()
        })
        .collect()
}
