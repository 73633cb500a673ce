//! The host's side of the stories: starting sandboxes, and looking at what they leave.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use weft_local::sandbox::{Sandbox, Settings};

use crate::story::{Stage, pid_of, pod};

/// The story that says what it started, and stays until it is asked to end.
pub(crate) const STAY: &str = "stay";

/// Runs one story in a sandbox.
pub(crate) fn main(words: &[String]) -> ExitCode {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory"); // `/tmp` is private anyway
    let (outside, arguments) = match prepare(&words[0], dir.path()) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut all = vec![words[0].clone(), dir.path().to_string_lossy().into_owned()];
    all.extend(arguments);
    let settings = Settings {
        hostname: "story".into(),
        supervisor: "story".into(),
        arguments: all.into_iter().map(Into::into).collect(),
        aliases: vec!["app".into()],
        programs: Vec::new(),
        keep: vec![dir.path().to_owned()],
        relay: outside.as_ref().and_then(|listener| listener.local_addr().ok()),
        within: None,
    };
    let sandbox = match Sandbox::enter(&settings) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // Threads only now: what is inside would die with the one that started it.
    if let Some(listener) = outside {
        std::thread::spawn(move || serve(&listener));
    }
    sandbox.run()
}

/// What a story needs of the host: a listener, and words.
fn prepare(story: &str, dir: &Path) -> anyhow::Result<(Option<TcpListener>, Vec<String>)> {
    if story.contains("relay") {
        return Ok((Some(TcpListener::bind("127.0.0.1:0")?), Vec::new()));
    }
    if !story.contains("reach_the_host") {
        return Ok((None, Vec::new()));
    }
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    // Kept until the process ends.
    std::mem::forget(std::os::unix::net::UnixListener::bind(dir.join("host.sock"))?);
    let mut words = vec![port.to_string()];
    let output = Command::new("ip")
        .args(["-o", "addr", "show"])
        .output()
        .context("running ip")?;
    for line in String::from_utf8(output.stdout)?.lines() {
        let address = line.split_whitespace().nth(3).and_then(|word| word.split('/').next());
        words.extend(
            address
                .filter(|address| !address.starts_with("fe80"))
                .map(str::to_owned),
        );
    }
    ensure!(words.len() > 1, "this host has no address");
    let known: SocketAddr = format!("127.0.0.1:{port}").parse()?;
    std::net::TcpStream::connect(known).context("the host reaches itself")?;
    Ok((Some(listener), words))
}

fn serve(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        let mut text = String::new();
        if stream.read_to_string(&mut text).is_ok() {
            let _ = write!(stream, "the host says {text}");
        }
    }
}

/// Two pods with volumes, and the host's numbers of all their processes on stdout.
pub(crate) async fn stay(stage: Stage) -> anyhow::Result<()> {
    let mut pids = Vec::new();
    for name in ["one", "two"] {
        let pod = stage
            .ready(pod(name, &["sh", "-c", "sleep 1000 & exec app sleep"]))
            .await?;
        pids.push(pid_of(&pod.status().borrow(), "main").context("a number")?.to_string());
    }
    println!("{}", pids.join(" "));
    stage.outside.stop_requested().await;
    println!("asked to end");
    Ok(())
}

/// What the tests must not change.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    namespaces: BTreeSet<String>,
    mounts: String,
    links: String,
    rules: String,
}

impl Traces {
    fn take() -> anyhow::Result<Self> {
        let mut namespaces = BTreeSet::new();
        for process in std::fs::read_dir("/proc")?.flatten() {
            for kind in ["net", "mnt", "pid"] {
                let link = std::fs::read_link(process.path().join("ns").join(kind));
                namespaces.extend(link.ok().map(|link| link.to_string_lossy().into_owned()));
            }
        }
        let run = |program: &str, words: &[&str]| {
            Command::new(program)
                .args(words)
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        Ok(Self {
            namespaces,
            mounts: std::fs::read_to_string("/proc/self/mountinfo")?,
            links: run("ip", &["-o", "link"])? + &run("ip", &["netns"])?,
            rules: run("ip", &["route"])? + &run("ip", &["-6", "route"])?,
        })
    }

    /// Waits until all is as it was.
    fn wait_back(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let now = Self::take()?;
            // Others may end, or start, processes meanwhile; what is new must not stay.
            let new: Vec<_> = now.namespaces.difference(&self.namespaces).cloned().collect();
            if new.is_empty() && now.mounts == self.mounts && now.links == self.links && now.rules == self.rules {
                return Ok(());
            }
            ensure!(began.elapsed() < Duration::from_secs(10), "left: {new:?}\n{now:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The host's side of a sandbox, as a process, with the numbers of what runs inside.
fn start_staying() -> anyhow::Result<(Child, BufReader<ChildStdout>, Vec<u32>)> {
    let mut host = Command::new("/proc/self/exe")
        .args(["host", STAY])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(host.stdout.take().context("its stdout")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let pids = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()
        .context(line)?;
    for pid in &pids {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).context("the number is the host's")?;
        ensure!(["sh", "app"].contains(&name.trim()), "{pid} is {name}");
    }
    ensure!(pids.len() == 2, "two pods");
    Ok((host, stdout, pids))
}

fn end(mut host: Child, pids: &[u32], signal: Signal, before: &Traces) -> anyhow::Result<std::process::ExitStatus> {
    ensure!(
        Traces::take()?.namespaces.difference(&before.namespaces).count() > 2,
        "namespaces were made"
    );
    kill_process(Pid::from_child(&host), signal)?;
    let status = host.wait()?;
    let began = Instant::now();
    while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "processes are left: {pids:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    before.wait_back()?;
    Ok(status)
}

pub(crate) fn nothing_is_left_after_kill_9() -> anyhow::Result<()> {
    let before = Traces::take()?;
    let (host, mut stdout, pids) = start_staying()?;
    end(host, &pids, Signal::KILL, &before)?;
    // Nobody is left who could write to it.
    stdout.read_to_string(&mut String::new())?;
    Ok(())
}

pub(crate) fn an_orderly_end_leaves_nothing() -> anyhow::Result<()> {
    let before = Traces::take()?;
    let (host, mut stdout, pids) = start_staying()?;
    let status = end(host, &pids, Signal::INT, &before)?;
    ensure!(status.success(), "{status}");
    let mut said = String::new();
    stdout.read_to_string(&mut said)?;
    ensure!(said == "asked to end\n", "{said}");
    Ok(())
}
