//! The kernel's account of a process, from `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time of a process so far, all its threads, in user and kernel mode. The kernel's unit is 1/100 s, and what is
/// below that is kept and counted later: over a second of work the error is below one percent.
pub fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: the process is gone"))?;
    // The name in parentheses may contain anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a field of stat")?.parse()?) };
    // utime and stime are fields 14 and 15; the first after the name is field 3.
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    let all = ticks(11)? + ticks(12)?;
    Ok(Duration::from_secs_f64(all as f64 / per_second as f64))
}

/// Resident memory of a process, in KiB.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("{path}: the process is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?;
    Ok(number.parse()?)
}

/// CPU time of the whole machine and of its idle part since it started.
pub fn machine() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let idle = ticks.get(3).context("idle")? + ticks.get(4).context("iowait")?;
    Ok((ticks.iter().sum(), idle))
}

/// The processes below one, and itself.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&parent) = all.get(at) {
        at += 1;
        let Ok(children) = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) else {
            continue;
        };
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

/// Whether a process is below another one.
pub fn is_below(pid: u32, ancestor: u32) -> bool {
    let parent = |pid: u32| -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        line.trim().parse().ok()
    };
    std::iter::successors(Some(pid), |&pid| parent(pid).filter(|&parent| parent != 0)).any(|pid| pid == ancestor)
}

/// The processes of this machine that run `weft ROLE`.
pub fn of_role(role: &str) -> Result<Vec<u32>> {
    let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).nth(1) == Some(role.as_bytes())
    };
    Ok(all.filter(is_it).collect())
}

/// The command of a process: the base name of the first word.
pub fn command(pid: u32) -> Option<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = words.split(|&byte| byte == 0).next()?;
    let first = String::from_utf8_lossy(first);
    Some(first.rsplit('/').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_memory_a_name_and_grows_older() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 100);
        assert!(command(pid).unwrap().starts_with("weft_bench"));
        assert_eq!(family(pid)[0], pid);
        let before = cpu(pid).unwrap();
        let began = std::time::Instant::now();
        let mut sum = 0_u64;
        while began.elapsed() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu(pid).unwrap() > before);
        let (all, idle) = machine().unwrap();
        assert!(all > idle);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(cpu(u32::MAX).unwrap_err().to_string().contains("gone"));
        assert!(resident(u32::MAX).is_err());
    }
}
