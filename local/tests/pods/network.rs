//! Stories of addresses and connections.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_local::spec::{Probe, ProbeAction};

use crate::story::{Stage, at, exec, pod, well};

/// A pod that echoes on a port, ready when it listens.
fn echo(name: &str, port: u16) -> weft_local::spec::PodPlan {
    let mut plan = pod(name, &["app", "echo", &port.to_string()]);
    let probe = Probe {
        period: Duration::from_millis(100),
        ..Probe::new(ProbeAction::Tcp { host: None, port })
    };
    plan.containers[0].readiness = Some(probe);
    plan
}

pub(crate) async fn pods_talk(stage: Stage) -> anyhow::Result<()> {
    // Port 80 is one that only root may open elsewhere.
    let (server, client) = tokio::try_join!(
        stage.ready(echo("server", 80)),
        stage.ready(pod("client", &["app", "sleep"]))
    )?;
    ensure!(
        server.net().addresses().v6.is_some(),
        "this machine has IPv6 switched off"
    );
    for (to, from) in server.net().addresses().all().zip(client.net().addresses().all()) {
        let answer = well(&client, &["app", "say", &at(to, 80), "hello"]).await?;
        ensure!(answer == format!("{from} says hello"), "{answer}");
    }
    let alone = well(
        &client,
        &["sh", "-c", "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | xargs"],
    )
    .await?;
    ensure!(alone == "lo eth0" || alone == "eth0 lo", "links of the pod: {alone}");
    client.stop(None).await;
    server.stop(None).await;
    Ok(())
}

pub(crate) async fn host_is_unreachable(stage: Stage) -> anyhow::Result<()> {
    let pod = stage.ready(pod("curious", &["app", "sleep"])).await?;
    ensure!(
        stage.words.len() > 2,
        "the host has a port and addresses: {:?}",
        stage.words
    );
    let port = stage.words[0].parse()?;
    for ip in &stage.words[1..] {
        let (code, text) = exec(&pod, &["app", "say", &at(ip.parse()?, port), "hello"]).await?;
        ensure!(
            code != 0 && !text.contains("the host"),
            "the host answered at {ip}: {text}"
        );
        ensure!(!text.contains("timed out"), "{ip} is not refused, but silent: {text}");
    }
    // Nor by a socket in the file system: the host's own are not there.
    let path = stage.dir.join("host.sock");
    ensure!(path.exists(), "the host listens on {}", path.display());
    let (code, text) = exec(&pod, &["ls", &path.to_string_lossy()]).await?;
    ensure!(code != 0, "{text}");
    Ok(())
}

pub(crate) async fn dial(stage: Stage) -> anyhow::Result<()> {
    let server = stage.ready(echo("server", 8080)).await?;
    let mut stream = server.dial(8080).await?;
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer == "127.0.0.1 says hello", "{answer}");
    ensure!(server.dial(8081).await.is_err(), "nothing listens there");
    Ok(())
}

pub(crate) async fn relay(stage: Stage) -> anyhow::Result<()> {
    let pod = stage.ready(pod("client", &["app", "sleep"])).await?;
    let ip = IpAddr::V4(stage.net.gateway_v4());
    let listener = std::net::TcpListener::bind((ip, 0))?;
    let port = listener.local_addr()?.port();
    stage.outside.relay(listener)?;
    let answer = well(&pod, &["app", "say", &at(ip, port), "spans"]).await?;
    ensure!(answer == "the host says spans", "{answer}");
    // A second listener is not a second way out.
    let second = std::net::TcpListener::bind((ip, 0))?;
    let port = second.local_addr()?.port();
    stage.outside.relay(second)?;
    let (code, text) = exec(&pod, &["app", "say", &at(ip, port), "spans"]).await?;
    ensure!(code != 0 || !text.contains("the host"), "{text}");
    Ok(())
}

pub(crate) async fn node_stays(stage: Stage) -> anyhow::Result<()> {
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(stage.net.pod().await?);
    }
    let pod = stage.ready(pod("client", &["app", "sleep"])).await?;
    let node = IpAddr::V4(stage.net.gateway_v4());
    let listener = tokio::net::TcpListener::bind((node, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The pod notices if nothing comes.
            let _ = stream.write_all(b"the node is here").await;
        }
    });
    let call = ["app", "say", &at(node, port), ""];
    ensure!(well(&pod, &call).await? == "the node is here");
    let links = links_of_the_node()?;
    let gone = others.len();
    drop(others);
    // The kernel takes a namespace's links down in its own time.
    while links_of_the_node()? + gone > links {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The pod remembers the node's link-layer address: it must not have been one of theirs.
    ensure!(well(&pod, &call).await? == "the node is here");
    Ok(())
}

fn links_of_the_node() -> anyhow::Result<usize> {
    Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?.lines().count())
}

pub(crate) async fn twenty_pods(stage: Stage) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut nets = Vec::new();
    for _ in 0..20 {
        nets.push(stage.net.pod().await?);
    }
    let networks = began.elapsed();
    let began = Instant::now();
    let mut pods = Vec::new();
    for (index, net) in nets.into_iter().enumerate() {
        pods.push(
            stage
                .runtime
                .start(pod(&format!("pod{index}"), &["app", "sleep"]), net)
                .await?,
        );
    }
    for pod in &pods {
        crate::story::until(pod, "ready", |status| status.ready).await?;
    }
    let processes = began.elapsed();
    println!("    20 networks in {networks:.2?}, 20 containers in {processes:.2?}");
    let v4: std::collections::BTreeSet<_> = pods.iter().map(|pod| pod.net().addresses().v4).collect();
    ensure!(v4.len() == 20, "addresses are unique: {v4:?}");
    let first = pods.first().context("a pod")?.net().addresses();
    ensure!(first.v4 != stage.net.gateway_v4(), "the node keeps its own");
    Ok(())
}
