//! A CPU quota for processes, by the kernel's own means: a control group of either version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Pid;

/// The period of a quota, in microseconds: what Kubernetes sets for `limits.cpu`.
const PERIOD: u32 = 100_000;

/// A control group with a process that runs for a part of each period at most. Beside it in the group another is always busy
/// and uses up what is left, so it is felt by a process that needs little, too: for most of each period it stands still.
/// Dropping it lets the process go.
#[derive(Debug)]
pub struct Quota {
    group: PathBuf,
    process: Pid,
    busy: Child,
}

impl Quota {
    /// Holds a process, all its threads, to this many percent of one core.
    #[track_caller]
    #[must_use]
    pub fn of(process: Pid, percent: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = root();
        let group = root.join(format!("weft-test-{}-{count}", std::process::id()));
        fs::create_dir(&group)
            .unwrap_or_else(|error| panic!("{}: {error}: this test needs a CPU quota", group.display()));
        // It ends with the test, however that ends.
        let busy = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sh", "-c", "while :; do :; done"])
            .spawn()
            .expect("setpriv is missing: apt-get install util-linux");
        let quota = Self { group, process, busy };
        let time = PERIOD / 100 * percent;
        if root.join("cpu.cfs_quota_us").exists() {
            quota.set("cpu.cfs_period_us", &PERIOD.to_string());
            quota.set("cpu.cfs_quota_us", &time.to_string());
        } else {
            quota.set("cpu.max", &format!("{time} {PERIOD}"));
        }
        for process in [process.to_string(), quota.busy.id().to_string()] {
            quota.set("cgroup.procs", &process);
        }
        quota
    }

    /// In how many periods they stood still.
    #[track_caller]
    pub fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.group.join("cpu.stat")).expect("the group's statistics");
        let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("no nr_throttled: {stat}"))
    }

    #[track_caller]
    fn set(&self, file: &str, value: &str) {
        let path = self.group.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{value} to {}: {error}", path.display()));
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        if let Err(error) = self.busy.kill().and_then(|()| self.busy.wait()) {
            eprintln!("the busy process stays: {error}");
        }
        // It may have ended.
        let _ = fs::write(root().join("cgroup.procs"), self.process.to_string());
        if let Err(error) = fs::remove_dir(&self.group) {
            eprintln!("{} stays: {error}", self.group.display());
        }
    }
}

/// Where groups with a quota can be made: version 1's own tree, or version 2's.
#[track_caller]
fn root() -> &'static Path {
    const V1: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"];
    const V2: &str = "/sys/fs/cgroup";
    if let Some(root) = V1
        .map(Path::new)
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists())
    {
        return root;
    }
    let controllers = fs::read_to_string(Path::new(V2).join("cgroup.controllers")).unwrap_or_default();
    assert!(
        controllers.split_whitespace().any(|name| name == "cpu"),
        "this test needs a CPU quota: mount a cgroup tree with the controller cpu on {V2}"
    );
    fs::write(Path::new(V2).join("cgroup.subtree_control"), "+cpu")
        .unwrap_or_else(|error| panic!("this test needs a CPU quota: {V2}/cgroup.subtree_control: {error}"));
    Path::new(V2)
}
