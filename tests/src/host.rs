//! What of the host a mesh must not touch.

use std::collections::BTreeSet;
use std::process::Command;

/// The host's network and the processes of Weft on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    namespaces: String,
    links: String,
    routes: String,
    rules: String,
    mounts: BTreeSet<String>,
}

impl Host {
    /// Looks at the host as it is now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            namespaces: run("ip", &["netns", "list"]),
            links: run("ip", &["-o", "link", "show"]),
            routes: run("ip", &["route", "show", "table", "all"]),
            rules: run("iptables-save", &[]) + &run("ip6tables-save", &[]),
            mounts: std::fs::read_to_string("/proc/self/mounts")
                .expect("mounts")
                .lines()
                .map(str::to_owned)
                .collect(),
        }
        .without_counters()
    }

    fn without_counters(mut self) -> Self {
        let plain = |line: &&str| !line.starts_with('#') && !line.starts_with(':');
        self.rules = self.rules.lines().filter(plain).collect::<Vec<_>>().join("\n");
        self
    }
}

/// The processes whose command line has this word (a mesh's name).
#[must_use]
pub fn processes_with(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    let own = std::process::id();
    lines
        .filter(|(pid, line)| *pid != own && line.contains(word))
        .map(|(pid, line)| format!("{pid} {line}"))
        .collect()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits, bounded, until something is so.
#[track_caller]
pub fn until(what: &str, so: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !so() {
        assert!(
            began.elapsed() < std::time::Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The host's own addresses, loopback left out.
#[must_use]
pub fn addresses() -> Vec<String> {
    let lines = run("ip", &["-o", "addr", "show", "scope", "global"]);
    let address = |line: &str| Some(line.split_whitespace().nth(3)?.split('/').next()?.to_owned());
    lines.lines().filter_map(address).collect()
}
