//! Stories of starting, ending and starting again.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weft_local::logs::Reader;
use weft_local::pod::{ContainerState, ExecPlan, ExecStdio, Phase};
use weft_local::spec::{Hook, Mount, PodPlan, Probe, ProbeAction, RestartPolicy, Volume, VolumeSource};

use crate::story::{Stage, container, exec as run, pid_of, pod, refused, said, until, well};

/// A volume that all containers share, at `/shared`.
fn share(plan: &mut PodPlan) {
    let source = VolumeSource::EmptyDir {
        memory: true,
        size_limit: None,
    };
    plan.volumes.push(Volume {
        name: "shared".into(),
        source,
    });
    let mount = Mount {
        volume: "shared".into(),
        path: "/shared".into(),
        sub_path: None,
        read_only: false,
    };
    for container in plan.init_containers.iter_mut().chain(&mut plan.containers) {
        container.mounts.push(mount.clone());
    }
}

/// Writes when it starts and when it is asked to end.
fn diary(name: &str) -> String {
    let end = format!("trap 'echo -{name} >> /shared/diary; exit 0' TERM");
    format!("{end}; echo +{name} >> /shared/diary; while :; do sleep 0.05; done")
}

fn quick(action: ProbeAction) -> Probe {
    Probe {
        period: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        ..Probe::new(action)
    }
}

pub(crate) async fn order(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("ordered", &["sh", "-c", &diary("main")]);
    plan.init_containers = vec![
        container("one", &["sh", "-c", "sleep 0.2; echo one >> /shared/diary"]),
        container(
            "side",
            &[
                "sh",
                "-c",
                &format!("(sleep 0.3; touch /shared/up) & {}", diary("side")),
            ],
        ),
        container("tail", &["sh", "-c", &diary("tail")]),
        container("two", &["sh", "-c", "test -e /shared/up && echo two >> /shared/diary"]),
    ];
    plan.init_containers[1].sidecar = true;
    plan.init_containers[2].sidecar = true;
    let command = ["test", "-e", "/shared/up"].map(str::to_owned).to_vec();
    plan.init_containers[1].startup = Some(Probe {
        failure_threshold: 50,
        ..quick(ProbeAction::Exec { command })
    });
    share(&mut plan);
    let pod = stage.ready(plan).await?;
    let seen = until(&pod, "initialized", |status| status.initialized).await?;
    ensure!(
        seen.phase == Phase::Running && seen.containers.iter().all(|one| one.restarts == 0),
        "{seen:#?}"
    );
    // Main and tail sidecar write side by side with others; the diary is read once all have written.
    let mut diary = String::new();
    let began = Instant::now();
    while !diary.contains("+main") && began.elapsed() < Duration::from_secs(10) {
        diary = well(&pod, &["cat", "/shared/diary"]).await?;
    }
    let lines: Vec<_> = diary.lines().filter(|line| *line != "+tail").collect();
    ensure!(lines == ["one", "+side", "two", "+main"], "{diary}");
    Ok(())
}

pub(crate) async fn reverse(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("reversed", &["sh", "-c", &diary("main")]);
    // The diary ends with the volume: its last lines are read by the sidecar that outlives all.
    let watch = "trap 'cat /shared/diary; exit 0' TERM; while :; do sleep 0.05; done";
    plan.init_containers = vec![
        container("watcher", &["sh", "-c", watch]),
        container("side", &["sh", "-c", &diary("side")]),
        container("tail", &["sh", "-c", &diary("tail")]),
    ];
    for init in &mut plan.init_containers {
        init.sidecar = true;
    }
    share(&mut plan);
    let pod = stage.ready(plan).await?;
    while well(&pod, &["cat", "/shared/diary"]).await?.lines().count() < 3 {}
    pod.stop(None).await;
    let ends = said(&pod, "watcher")?;
    let ends: Vec<_> = ends.lines().filter(|line| line.starts_with('-')).collect();
    ensure!(ends == ["-main", "-tail", "-side"], "{ends:?}");
    Ok(())
}

pub(crate) async fn job(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod(
        "job",
        &["sh", "-c", "test -e /shared/again || { touch /shared/again; exit 3; }"],
    );
    plan.restart_policy = RestartPolicy::OnFailure;
    plan.init_containers = vec![container("side", &["app", "sleep"])];
    plan.init_containers[0].sidecar = true;
    share(&mut plan);
    let pod = stage.start(plan).await?;
    let seen = until(&pod, "ended", |status| status.ended).await?;
    ensure!(seen.phase == Phase::Succeeded, "{seen:#?}");
    let main = &seen.containers[1];
    ensure!(
        main.restarts == 1 && main.last.as_ref().is_some_and(|last| last.exit_code == 3),
        "{main:#?}"
    );
    let mut never = crate::story::pod("never", &["sh", "-c", "kill -ABRT $$"]);
    never.restart_policy = RestartPolicy::Never;
    let pod = stage.start(never).await?;
    let seen = until(&pod, "ended", |status| status.ended).await?;
    let ContainerState::Terminated(end) = &seen.containers[0].state else {
        anyhow::bail!("{seen:#?}")
    };
    ensure!(
        seen.phase == Phase::Failed && (end.exit_code, end.signal) == (134, Some(6)),
        "{seen:#?}"
    );
    Ok(())
}

pub(crate) async fn restart(stage: Stage) -> anyhow::Result<()> {
    let pod = stage.ready(pod("mortal", &["app", "sleep"])).await?;
    let before = pid_of(&pod.status().borrow(), "main").context("it runs")?;
    ensure!(before > 0, "a number of the host");
    let began = Instant::now();
    crate::story::kill_main(&pod).await?;
    let seen = until(&pod, "ready again", |status| {
        status.ready && status.containers[0].restarts == 1
    })
    .await?;
    ensure!(
        began.elapsed() < Duration::from_millis(900),
        "it took {:?}",
        began.elapsed()
    );
    ensure!(pid_of(&seen, "main").is_some_and(|after| after != before), "{seen:#?}");
    let last = seen.containers[0].last.as_ref().context("how it ended")?;
    ensure!(last.signal == Some(9) && last.exit_code == 137, "{last:?}");
    // Again and again, it waits.
    crate::story::kill_main(&pod).await?;
    let waits = |state: &ContainerState| {
        matches!(
            state,
            ContainerState::Waiting {
                reason: "CrashLoopBackOff",
                ..
            }
        )
    };
    until(&pod, "waiting", |status| waits(&status.containers[0].state)).await?;
    until(&pod, "ready again", |status| {
        status.ready && status.containers[0].restarts == 2
    })
    .await?;
    Ok(())
}

pub(crate) async fn probes(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("probed", &["app", "listen-later", "/shared/listen", "8080"]);
    share(&mut plan);
    plan.containers[0].readiness = Some(quick(ProbeAction::Tcp { host: None, port: 8080 }));
    let command = ["test", "!", "-e", "/shared/sick"].map(str::to_owned).to_vec();
    plan.containers[0].liveness = Some(Probe {
        failure_threshold: 2,
        ..quick(ProbeAction::Exec { command })
    });
    let pod = stage.start(plan).await?;
    let seen = until(&pod, "running", |status| status.phase == Phase::Running).await?;
    ensure!(
        !seen.ready && seen.containers[0].started,
        "it does not listen yet: {seen:#?}"
    );
    well(&pod, &["touch", "/shared/listen"]).await?;
    until(&pod, "ready", |status| status.ready).await?;
    // The volume outlives the container, so the sickness has to be taken away with it.
    well(&pod, &["sh", "-c", "rm /shared/listen; touch /shared/sick"]).await?;
    let seen = until(&pod, "restarted", |status| status.containers[0].restarts >= 1).await?;
    ensure!(!seen.ready, "{seen:#?}");
    until(&pod, "running", |status| pid_of(status, "main").is_some()).await?;
    run(&pod, &["sh", "-c", "rm /shared/sick; touch /shared/listen"]).await?;
    until(&pod, "ready again", |status| status.ready).await?;
    // A startup probe that never succeeds.
    let mut plan = crate::story::pod("stuck", &["app", "sleep"]);
    plan.containers[0].startup = Some(Probe {
        failure_threshold: 2,
        ..quick(ProbeAction::Http {
            host: None,
            port: 8080,
            path: "/".into(),
            https: false,
            headers: Vec::new(),
        })
    });
    let pod = stage.start(plan).await?;
    let seen = until(&pod, "restarted", |status| status.containers[0].restarts >= 1).await?;
    ensure!(!seen.ready && !seen.containers[0].started, "{seen:#?}");
    Ok(())
}

pub(crate) async fn grace(stage: Stage) -> anyhow::Result<()> {
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 1; done";
    let pod = stage.ready(pod("stubborn", &["sh", "-c", deaf])).await?;
    let path = pod.log("main").context("a log")?;
    tokio::time::timeout(Duration::from_secs(10), Reader::open(&path, None, false)?.follow())
        .await
        .context("it is deaf")??;
    let (began, grace) = (Instant::now(), Duration::from_millis(500));
    pod.stop(Some(grace)).await;
    let took = began.elapsed();
    ensure!(took >= grace && took < grace + Duration::from_secs(1), "{took:?}");
    ensure!(pod.status().borrow().ended);
    ensure!(run(&pod, &["true"]).await.is_err(), "nothing of it runs");
    let polite = stage.ready(crate::story::pod("polite", &["app", "sleep"])).await?;
    let began = Instant::now();
    polite.stop(None).await;
    ensure!(
        began.elapsed() < Duration::from_secs(1),
        "it was asked and ended, in {:?}",
        began.elapsed()
    );
    Ok(())
}

pub(crate) async fn orphans(stage: Stage) -> anyhow::Result<()> {
    let pod = stage.ready(pod("parent", &["app", "sleep"])).await?;
    well(&pod, &["sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.05 &) ; done"]).await?;
    let began = Instant::now();
    loop {
        let all = well(&pod, &["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; true"]).await?;
        if !all.contains(") Z ") && !all.contains("(sleep)") {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "zombies: {all}");
    }
}

pub(crate) async fn missing(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("missing", &["no-such-program", "--help"]);
    plan.restart_policy = RestartPolicy::Never;
    let pod = stage.start(plan).await?;
    let seen = until(&pod, "ended", |status| status.ended).await?;
    let ContainerState::Terminated(end) = &seen.containers[0].state else {
        anyhow::bail!("{seen:#?}")
    };
    ensure!(
        end.reason == "StartError" && end.message.contains("no-such-program"),
        "{end:?}"
    );
    ensure!(said(&pod, "main")?.contains("no-such-program"));
    let mut plan = crate::story::pod("nowhere", &["true"]);
    plan.restart_policy = RestartPolicy::Never;
    plan.containers[0].working_dir = Some("/no/such/dir".into());
    let pod = stage.start(plan).await?;
    let seen = until(&pod, "ended", |status| status.ended).await?;
    let ContainerState::Terminated(end) = &seen.containers[0].state else {
        anyhow::bail!("{seen:#?}")
    };
    ensure!(end.message.contains("workingDir /no/such/dir"), "{end:?}");
    Ok(())
}

pub(crate) async fn exec(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("web", &["app", "sleep"]);
    plan.containers[0].env = vec![("COLOUR".into(), "blue".into())];
    plan.containers[0].working_dir = Some("/usr".into());
    let pod = stage.ready(plan).await?;
    ensure!(well(&pod, &["sh", "-c", "echo $COLOUR; pwd; echo $HOSTNAME"]).await? == "blue\n/usr\nweb");
    ensure!(run(&pod, &["sh", "-c", "exit 7"]).await?.0 == 7);
    ensure!(run(&pod, &["sh", "-c", "kill -9 $$"]).await?.0 == 137);
    ensure!(run(&pod, &["no-such-program"]).await?.0 == 127);
    ensure!(run(&pod, &["/etc/passwd"]).await?.0 == 126);
    refused(&pod, &["test", "-t", "0"]).await?;
    let terminal = ExecPlan {
        container: Some("main".into()),
        command: ["sh", "-c", "tty; stty size; read line; echo got $line; exit 5"]
            .map(str::to_owned)
            .to_vec(),
        env: vec![("TERM".into(), "xterm".into())],
        stdio: ExecStdio::Terminal { rows: 33, columns: 77 },
    };
    let mut running = pod.exec(terminal).await?;
    let text = talk(running.terminal.take().context("a terminal")?, "hello\n").await?;
    ensure!(
        text.contains("/dev/pts/0") && text.contains("33 77") && text.contains("got hello"),
        "{text}"
    );
    ensure!(running.wait().await == 5);
    ensure!(
        pod.exec(plan_for("other"))
            .await
            .is_err_and(|error| error.to_string().contains("it has main"))
    );
    drop(pod.exec(plan_for("main")).await?);
    let began = Instant::now();
    while run(&pod, &["pgrep", "-x", "sleep"]).await?.0 == 0 {
        ensure!(began.elapsed() < Duration::from_secs(5), "a dropped command goes on");
    }
    Ok(())
}

fn plan_for(container: &str) -> ExecPlan {
    ExecPlan {
        container: Some(container.into()),
        command: vec!["sleep".into(), "1000".into()],
        env: Vec::new(),
        stdio: ExecStdio::Fds {
            stdin: None,
            stdout: None,
            stderr: None,
        },
    }
}

/// Says `line` on a terminal, and reads until its other end is closed.
async fn talk(terminal: OwnedFd, line: &str) -> anyhow::Result<String> {
    let line = line.to_owned();
    // A terminal is no socket: reading it blocks, and ends with an error.
    let work = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut file = std::fs::File::from(terminal);
        file.write_all(line.as_bytes())?;
        let (mut all, mut chunk) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = file.read(&mut chunk) {
            all.extend_from_slice(&chunk[..read]);
        }
        anyhow::Ok(String::from_utf8_lossy(&all).into_owned())
    });
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .context("the terminal does not end")??
}

pub(crate) async fn logs(stage: Stage) -> anyhow::Result<()> {
    let command = "echo out; echo err >&2; read line < /shared/pipe; echo $line";
    let mut plan = pod(
        "talker",
        &["sh", "-c", &format!("mkfifo /shared/pipe; {command}; exec app sleep")],
    );
    share(&mut plan);
    let pod = stage.ready(plan).await?;
    let path = pod.log("main").context("a log")?;
    let mut reader = Reader::open(&path, None, false)?;
    let mut text = Vec::new();
    let all = async {
        while text.iter().filter(|byte| **byte == b'\n').count() < 2 {
            text.extend(reader.follow().await?);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .context("two lines")??;
    let mut lines: Vec<_> = std::str::from_utf8(&text)?.lines().collect();
    lines.sort_unstable(); // two pipes: either may be read first
    ensure!(lines == ["err", "out"], "{lines:?}");
    well(&pod, &["sh", "-c", "echo later > /shared/pipe"]).await?;
    let later = tokio::time::timeout(Duration::from_secs(10), reader.follow())
        .await
        .context("a third")??;
    ensure!(later == b"later\n", "{later:?}");
    Ok(())
}

pub(crate) async fn hooks(stage: Stage) -> anyhow::Result<()> {
    let shell = |script: &str| Hook::Exec {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
    };
    let mut plan = pod("hooked", &["sh", "-c", &diary("main")]);
    // The diary ends with the volume: its last lines are read by the sidecar that outlives all.
    let watch = "trap 'cat /shared/diary; exit 0' TERM; while :; do sleep 0.05; done";
    plan.init_containers = vec![container("watcher", &["sh", "-c", watch])];
    plan.init_containers[0].sidecar = true;
    plan.containers[0].post_start = Some(shell("sleep 0.3; echo started >> /shared/diary"));
    plan.containers[0].pre_stop = Some(shell("echo leaving >> /shared/diary; sleep 0.3"));
    share(&mut plan);
    let pod = stage.ready(plan).await?;
    let diary = well(&pod, &["cat", "/shared/diary"]).await?;
    ensure!(diary.contains("started"), "ready before its hook was over: {diary}");
    pod.stop(None).await;
    let told = said(&pod, "watcher")?;
    let last: Vec<_> = told
        .lines()
        .filter(|line| ["leaving", "-main"].contains(line))
        .collect();
    ensure!(last == ["leaving", "-main"], "{told}");

    // A hook that fails ends the container, which is started again; one that never ends does not keep the pod for ever.
    let mut failing = crate::story::pod(
        "failing",
        &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"],
    );
    failing.containers[0].post_start = Some(shell("exit 7"));
    let pod = stage.start(failing).await?;
    let seen = until(&pod, "started again", |status| status.containers[0].restarts > 0).await?;
    let last = seen.containers[0].last.as_ref().context("an end")?;
    ensure!(
        last.reason == "PostStartHookError" && last.exit_code != 0 && last.message.contains("exit code 7"),
        "{last:?}"
    );
    pod.stop(Some(Duration::ZERO)).await;
    let mut endless = crate::story::pod(
        "endless",
        &[
            "sh",
            "-c",
            "trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done",
        ],
    );
    endless.containers[0].pre_stop = Some(Hook::Sleep(Duration::from_secs(600)));
    endless.grace = Duration::from_millis(500);
    let pod = stage.ready(endless).await?;
    let began = Instant::now();
    pod.stop(None).await;
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    ensure!(said(&pod, "main")?.contains("asked"), "it was not asked to end");
    Ok(())
}

pub(crate) async fn claims(stage: Stage) -> anyhow::Result<()> {
    let claimed = |name: &str| {
        let mut plan = crate::story::pod(name, &["app", "sleep"]);
        plan.volumes.push(Volume {
            name: "data".into(),
            source: VolumeSource::Claim {
                name: "data-db-0".into(),
            },
        });
        plan.containers[0].mounts.push(Mount {
            volume: "data".into(),
            path: "/data".into(),
            sub_path: None,
            read_only: false,
        });
        plan
    };
    let first = stage.ready(claimed("first")).await?;
    well(&first, &["sh", "-c", "echo kept > /data/file"]).await?;
    first.stop(None).await;
    let second = stage.ready(claimed("second")).await?;
    ensure!(well(&second, &["cat", "/data/file"]).await?.trim() == "kept");
    Ok(())
}
