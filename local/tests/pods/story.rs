//! The stage of a story: a network, a runtime, and short words for pods.

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::AsyncReadExt;
use weft_local::net::{Net, NetSettings};
use weft_local::pod::{ContainerState, ExecPlan, ExecStdio, PodHandle, PodStatus};
use weft_local::runtime::{Backoff, Runtime, Settings};
use weft_local::sandbox::{Inside, Mode, Outside};
use weft_local::spec::{ContainerPlan, Dns, PodPlan, Privilege, RestartPolicy};

/// A story: it fails with an error that says what was seen.
pub(crate) type Story = fn(Stage) -> Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// Longest that anything here takes; reached only by what is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a story works with.
pub(crate) struct Stage {
    pub(crate) net: Net,
    pub(crate) runtime: Runtime,
    pub(crate) dir: PathBuf,
    pub(crate) words: Vec<String>,
    pub(crate) outside: Outside,
    /// There is one user only: all files are its own, and it has no other groups.
    pub(crate) single: bool,
}

/// The supervisor of a story: `arguments` are its name, its directory and its words.
pub(crate) fn supervise(inside: Inside) -> ExitCode {
    let words: Vec<String> = inside
        .arguments
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let told = runtime.block_on(async {
        let (_, story) = crate::STORIES
            .iter()
            .find(|(name, _)| *name == words[0])
            .context("no such story")?;
        let dir = PathBuf::from(&words[1]);
        let net = Net::new(NetSettings {
            v4: "10.244.0.0/16".parse()?,
            v6: Some("fd00:10:244::/64".parse()?),
            node_addresses: vec!["10.96.0.10".parse()?],
            wire: None,
        })
        .await?;
        let backoff = Backoff {
            first: Duration::from_millis(200),
            ..Backoff::default()
        };
        let settings = Settings {
            logs: dir.join("logs"),
            volumes: dir.join("volumes"),
            masks: vec![dir.clone()],
            backoff,
        };
        let stage = Stage {
            net,
            runtime: Runtime::new(settings)?,
            dir,
            words: words[2..].to_vec(),
            single: matches!(inside.mode, Mode::Single { .. }),
            outside: inside.listen()?,
        };
        story(stage).await
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A pod with one container that runs `command`.
pub(crate) fn pod(name: &str, command: &[&str]) -> PodPlan {
    PodPlan {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        hostname: name.into(),
        full_name: None,
        dns: Dns {
            nameservers: vec!["10.96.0.10".parse().expect("an address")],
            ..Dns::default()
        },
        host_aliases: Vec::new(),
        init_containers: Vec::new(),
        containers: vec![container("main", command)],
        volumes: Vec::new(),
        restart_policy: RestartPolicy::Always,
        grace: Duration::from_secs(10),
        fs_group: None,
    }
}

/// A container that runs `command`.
pub(crate) fn container(name: &str, command: &[&str]) -> ContainerPlan {
    ContainerPlan {
        name: name.into(),
        sidecar: false,
        command: command.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
        working_dir: None,
        mounts: Vec::new(),
        startup: None,
        readiness: None,
        liveness: None,
        post_start: None,
        pre_stop: None,
        user: None,
        group: None,
        groups: Vec::new(),
        read_only_root: false,
        privilege: Privilege::App,
    }
}

impl Stage {
    /// Starts a pod.
    pub(crate) async fn start(&self, plan: PodPlan) -> anyhow::Result<PodHandle> {
        Ok(self.runtime.start(plan, self.net.pod().await?).await?)
    }

    /// Starts a pod and waits until it is ready.
    pub(crate) async fn ready(&self, plan: PodPlan) -> anyhow::Result<PodHandle> {
        let pod = self.start(plan).await?;
        until(&pod, "ready", |status| status.ready).await?;
        Ok(pod)
    }
}

/// Waits until a pod's status is as wanted.
pub(crate) async fn until(
    pod: &PodHandle,
    what: &str,
    wanted: impl Fn(&PodStatus) -> bool,
) -> anyhow::Result<PodStatus> {
    let mut status = pod.status();
    let seen = tokio::time::timeout(PATIENCE, status.wait_for(wanted))
        .await
        .map(|seen| seen.map(|seen| seen.clone()));
    match seen {
        Ok(seen) => Ok(seen?),
        Err(_) => bail!(
            "{} is never {what}: {:#?}\n{}",
            pod.plan().name,
            *pod.status().borrow(),
            all_logs(pod)
        ),
    }
}

/// All that a pod has said.
pub(crate) fn all_logs(pod: &PodHandle) -> String {
    let read = |name: &String| std::fs::read_to_string(pod.log(name)?).ok();
    let names: Vec<_> = pod.plan().all_containers().map(|one| one.name.clone()).collect();
    names
        .iter()
        .filter_map(|name| Some(format!("--- {name}\n{}", read(name)?)))
        .collect()
}

/// What a container has said, without times.
pub(crate) fn said(pod: &PodHandle, container: &str) -> anyhow::Result<String> {
    let path = pod.log(container).context("no such container")?;
    let mut reader = weft_local::logs::Reader::open(&path, None, false)?;
    let mut text = String::new();
    loop {
        let some = reader.next()?;
        if some.is_empty() {
            return Ok(text);
        }
        text += &String::from_utf8(some)?;
    }
}

/// The host's number of a container's process.
pub(crate) fn pid_of(status: &PodStatus, container: &str) -> Option<u32> {
    let found = status.containers.iter().find(|one| one.name == container)?;
    if let ContainerState::Running { pid, .. } = found.state {
        Some(pid)
    } else {
        None
    }
}

/// Runs a command in the first main container: exit code, and what it said on both streams.
pub(crate) async fn exec(pod: &PodHandle, command: &[&str]) -> anyhow::Result<(i32, String)> {
    let (theirs, ours) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let plan = ExecPlan {
        container: None,
        command: command.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
        stdio: ExecStdio::Fds {
            stdin: None,
            stdout: Some(theirs.try_clone()?.into()),
            stderr: Some(theirs.into()),
        },
    };
    let mut running = pod.exec(plan).await?;
    let mut text = String::new();
    let all = async {
        ours.read_to_string(&mut text).await?;
        anyhow::Ok(running.wait().await)
    };
    let code = tokio::time::timeout(PATIENCE, all)
        .await
        .with_context(|| format!("{command:?} does not end"))??;
    Ok((code, text))
}

/// Runs a command that must succeed; what it said, trimmed.
pub(crate) async fn well(pod: &PodHandle, command: &[&str]) -> anyhow::Result<String> {
    let (code, text) = exec(pod, command).await?;
    ensure!(code == 0, "{command:?}: exit code {code}: {text}");
    Ok(text.trim().to_owned())
}

/// Kills the main process of a pod's first container, from inside: pid 1 is what watches over it.
pub(crate) async fn kill_main(pod: &PodHandle) -> anyhow::Result<()> {
    let (code, text) = exec(pod, &["sh", "-c", "kill -9 $(pgrep -o -P 1)"]).await?;
    // The killer is in the container too, and may end with it before it has ended by itself.
    ensure!(code == 0 || code == 137, "exit code {code}: {text}");
    Ok(())
}

/// Runs a command that must fail; what it said.
pub(crate) async fn refused(pod: &PodHandle, command: &[&str]) -> anyhow::Result<String> {
    let (code, text) = exec(pod, command).await?;
    ensure!(code != 0, "{command:?} was allowed: {text}");
    Ok(text)
}

/// Address and port as one word.
pub(crate) fn at(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
