//! Stories of what containers print.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, ensure};
use weft_local::logs::Reader;
use weft_local::pod::{ExecPlan, ExecStdio, PodHandle};

use crate::story::{Stage, container, pod};

/// As nginx does with `access_log /dev/stdout`.
const BY_NAME: &str = "echo out >> /dev/stdout && echo err >> /dev/stderr && echo fd >> /proc/self/fd/1";

/// Runs a shell's command with these as input and output: its exit code.
async fn exec(pod: &PodHandle, script: &str, stdio: [Option<OwnedFd>; 3]) -> anyhow::Result<i32> {
    let [stdin, stdout, stderr] = stdio;
    let plan = ExecPlan {
        container: None,
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        stdio: ExecStdio::Fds { stdin, stdout, stderr },
    };
    let mut running = pod.exec(plan).await?;
    tokio::time::timeout(Duration::from_secs(10), running.wait())
        .await
        .with_context(|| format!("{script:?} does not end"))
}

/// Waits for the first lines of a container.
async fn lines(pod: &PodHandle, container: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let mut reader = Reader::open(&pod.log(container).context("a log")?, None, false)?;
    let mut text = Vec::new();
    let all = async {
        while text.iter().filter(|byte| **byte == b'\n').count() < count {
            text.extend(reader.follow().await?);
        }
        anyhow::Ok(())
    };
    let all = tokio::time::timeout(Duration::from_secs(10), all).await;
    let text = String::from_utf8_lossy(&text);
    all.with_context(|| format!("{container} says no {count} lines: {text}"))??;
    Ok(text.lines().map(str::to_owned).collect())
}

pub(crate) async fn by_name(stage: Stage) -> anyhow::Result<()> {
    for user in [None, Some(4242), Some(0)] {
        let name = user.map_or("app".to_owned(), |uid| format!("user-{uid}"));
        let mut plan = pod(&name, &["sh", "-c", &format!("{BY_NAME}; exec app sleep")]);
        plan.init_containers = vec![container("init", &["sh", "-c", BY_NAME])];
        plan.init_containers[0].user = user;
        plan.containers[0].user = user;
        let pod = stage.ready(plan).await?;
        let (mut reader, writer) = io::pipe()?;
        let (stdin, feeder) = io::pipe()?;
        drop(feeder);
        let script = format!("cat /dev/stdin && {BY_NAME}");
        let fds = [
            Some(stdin.into()),
            Some(writer.try_clone()?.into()),
            Some(writer.into()),
        ];
        let code = exec(&pod, &script, fds).await?;
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        ensure!((code, text.as_str()) == (0, "out\nerr\nfd\n"), "{name}: {code}: {text}");
        for container in ["init", "main"] {
            let mut lines = lines(&pod, container, 3).await?;
            lines.sort_unstable(); // two pipes: either may be read first
            ensure!(lines == ["err", "fd", "out"], "{name}, {container}: {lines:?}");
        }
    }
    Ok(())
}

pub(crate) async fn not_ours(stage: Stage) -> anyhow::Result<()> {
    let pod = stage.ready(pod("app", &["app", "sleep"])).await?;
    let fifo = stage.dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let paths = [stage.dir.join("file"), fifo];
    File::create(&paths[0])?;
    for path in paths {
        let file = File::options().read(true).write(true).open(&path)?;
        let before = file.metadata()?;
        let fds = [None, Some(file.try_clone()?.into()), None];
        ensure!(exec(&pod, "echo written", fds).await? == 0);
        let after = file.metadata()?;
        ensure!(
            (before.uid(), before.mode()) == (after.uid(), after.mode()),
            "{after:?}"
        );
        ensure!(after.uid() == 0, "{after:?}");
    }
    Ok(())
}
