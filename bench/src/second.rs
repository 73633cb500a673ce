//! Another proxy in a pod, beside the one that is there: to time its start, or to run it under valgrind.
//!
//! It enters all namespaces of the first, has its environment, uid and only capability, and listens on ports of its own.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::account;
use crate::lab::{Lab, inside, printed};
use crate::pairs::{Pair, Side};

/// How far its ports are from the first's.
const APART: u16 = 10_000;
const PORTS: [(&str, u16); 4] = [
    ("WEFT_OUTBOUND_PORT", 15_001),
    ("WEFT_INBOUND_PORT", 15_006),
    ("WEFT_ADMIN_PORT", 15_020),
    ("WEFT_LOCAL_ADMIN_PORT", 15_021),
];
/// What exempts the first and the second proxy's own connections from the redirect.
const FIRST_MARK: u32 = 0x5745;
const SECOND_MARK: u32 = 0x5746;
const PROXY_UID: &str = "1882";
const ENVOY_UID: &str = "1337";

/// Milliseconds from exec to ready, of a sidecar without any state. `None`: there is no sidecar.
pub fn start(lab: &Lab, pair: Pair) -> Result<Option<f64>> {
    let Some(pid) = pair.sidecar(lab, Side::Client)? else {
        return Ok(None);
    };
    let bench = lab.scratch().join("weft-bench").display().to_string();
    let mut command = match pair {
        Pair::Envoy => {
            let mut command = enter(pid, ENVOY_UID);
            let envoy = lab.scratch().join("envoy").display().to_string();
            let script = format!(
                "sed 's/: 150/: 160/' /tmp/envoy.yaml > /tmp/second.yaml && exec {bench} load start 127.0.0.1:16000 -- \
                 {envoy} -c /tmp/second.yaml --concurrency 1 --log-level warn --disable-hot-restart"
            );
            command.args(["sh", "-c", &script]);
            command
        }
        Pair::Direct | Pair::Weft => {
            let address = lab.address(pair.namespace(), "client")?;
            let mut command = enter(pid, PROXY_UID);
            command.args([&bench, "load", "start", &format!("{address}:{}", 15_020 + APART), "--"]);
            command.args(["/run/weft/bin/weft-proxy"]);
            environment(&mut command, pid, "start")?;
            command
        }
    };
    let said = printed("starting a second sidecar", command.output()?)?;
    let value: Value = serde_json::from_str(said.trim().lines().last().unwrap_or_default())?;
    Ok(Some(value["ms"].as_f64().context("milliseconds")?))
}

/// A command in all namespaces of a process, as this user and with nothing but CAP_NET_RAW.
fn enter(pid: u32, uid: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args([
        "-t",
        &pid.to_string(),
        "-a",
        "--",
        "setpriv",
        "--reuid",
        uid,
        "--regid",
        uid,
        "--clear-groups",
    ]);
    command.args(["--inh-caps", "-all,+net_raw", "--ambient-caps", "-all,+net_raw", "--"]);
    command.stdin(Stdio::null());
    command
}

/// The first's environment, but for ports and state.
fn environment(command: &mut Command, pid: u32, state: &str) -> Result<()> {
    let path = format!("/proc/{pid}/environ");
    let all = fs::read(&path).context(path)?;
    command.env_clear();
    for variable in all.split(|&byte| byte == 0) {
        if let Some((name, value)) = String::from_utf8_lossy(variable).split_once('=') {
            command.env(name, value);
        }
    }
    for (name, port) in PORTS {
        command.env(name, (port + APART).to_string());
    }
    command.env("WEFT_STATE_DIR", format!("/tmp/second-{state}"));
    Ok(())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// Lets the second's own connections pass the redirect, `-I`, and takes that back, `-D`.
fn exempt(first: u32, change: &str) -> Result<()> {
    let mark = SECOND_MARK.to_string();
    for command in ["iptables", "ip6tables"] {
        let rule = [
            "-t", "nat", change, "OUTPUT", "-m", "mark", "--mark", &mark, "-j", "RETURN",
        ];
        inside(first, &[&[command][..], &rule[..]].concat(), "")?;
    }
    Ok(())
}

/// The control plane serves one proxy of a pod, and two would take turns to push each other out. So the first is kept
/// from it, `-A`, and let to it again, `-D`; meanwhile it serves on with what it knows.
fn keep_from_control(first: u32, change: &str) -> Result<()> {
    let mark = FIRST_MARK.to_string();
    for command in ["iptables", "ip6tables"] {
        let rule = [
            command, change, "OUTPUT", "-p", "tcp", "--dport", "15012", "-m", "mark", "--mark", &mark,
        ];
        inside(
            first,
            &[&rule[..], &["-j", "REJECT", "--reject-with", "tcp-reset"]].concat(),
            "",
        )?;
    }
    Ok(())
}

/// A second proxy that has taken the pod's traffic over. Dropping it kills it.
pub struct Second {
    child: Child,
    first: u32,
    rules: String,
}

impl Second {
    /// Starts one under another program (valgrind, say), and hands the pod's traffic to it once it is ready.
    pub fn take_over(lab: &Lab, pair: Pair, side: Side, under: &[&str], state: &str) -> Result<Self> {
        let first = pair.sidecar(lab, side)?.context("there is no sidecar")?;
        let mut command = enter(first, PROXY_UID);
        command.args(under).arg("/run/weft/bin/weft-proxy");
        environment(&mut command, first, state)?;
        command.env("WEFT_MARK", SECOND_MARK.to_string());
        exempt(first, "-I")?;
        keep_from_control(first, "-A")?;
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let rules = inside(first, &["iptables-save", "-t", "nat"], "")?;
        let mut second = Self { child, first, rules };
        let address = lab.address(pair.namespace(), side.pod())?;
        second.wait(&format!("http://{address}:{}/ready", 15_020 + APART))?;
        let moved = second
            .rules
            .replace("--to-ports 15001", &format!("--to-ports {}", 15_001 + APART))
            .replace("--to-ports 15006", &format!("--to-ports {}", 15_006 + APART));
        ensure!(
            moved != second.rules,
            "the redirect rules are not the expected ones: {moved}"
        );
        inside(first, &["iptables-restore"], &moved)?;
        Ok(second)
    }

    fn wait(&mut self, ready: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(120);
        while inside(self.first, &["curl", "-sf", "-m1", ready], "").is_err() {
            ensure!(
                self.child.try_wait()?.is_none(),
                "the second proxy ended: {}",
                self.said()
            );
            ensure!(Instant::now() < end, "the second proxy is not ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            // What can't be read is not said.
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
        }
        said
    }

    /// Gives the traffic back, ends it in peace, and gives what it wrote to standard error.
    pub fn end(mut self) -> Result<String> {
        inside(self.first, &["iptables-restore"], &self.rules)?;
        // nsenter waits for the process that it started in the pod's pid namespace.
        let last = account::family(self.child.id())
            .last()
            .copied()
            .context("the second proxy")?;
        signal(last, Signal::SIGTERM)?;
        let said = self.said();
        self.child.wait()?;
        Ok(said)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        for pid in account::family(self.child.id()).into_iter().rev() {
            // It may be gone.
            let _ = signal(pid, Signal::SIGKILL);
        }
        // The pod may be gone as well.
        let _ = keep_from_control(self.first, "-D");
        let _ = exempt(self.first, "-D");
        // Reaped, or it was before.
        let _ = self.child.wait();
    }
}
