//! Stories of what containers may do and see.

use anyhow::ensure;
use weft_local::spec::{Capability, Mount, PROXY_UID, Privilege, Volume, VolumeSource};

use crate::story::{Stage, pod, refused, well};

pub(crate) async fn app(stage: Stage) -> anyhow::Result<()> {
    let me = stage.ready(pod("app", &["app", "sleep"])).await?;
    ensure!(well(&me, &["id", "-un"]).await? == "app");
    ensure!(well(&me, &["id", "-u"]).await? == "65532");
    ensure!(well(&me, &["hostname"]).await? == "app");
    let mut root = pod("root", &["app", "sleep"]);
    root.containers[0].user = Some(0);
    let root = stage.ready(root).await?;
    for pod in [&me, &root] {
        let status = well(pod, &["cat", "/proc/self/status"]).await?;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(
                status.contains(&format!("{set}:\t0000000000000000")),
                "{set} of {}: {status}",
                pod.plan().name
            );
        }
        ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
        let main = well(pod, &["sh", "-c", "cat /proc/$(pgrep -o -P 1)/status"]).await?;
        ensure!(
            main.contains("CapEff:\t0000000000000000") && main.contains("NoNewPrivs:\t1"),
            "{main}"
        );
        ensure!(
            refused(pod, &["app", "mark"]).await?.contains("not permitted"),
            "the mark can't be forged"
        );
        // Root of a user namespace of its own is nobody in the pod's network.
        refused(pod, &["unshare", "-Ur", "app", "mark"]).await?;
        refused(pod, &["unshare", "-Ur", "iptables", "-t", "nat", "-F"]).await?;
        refused(pod, &["iptables", "-t", "nat", "-F"]).await?;
        refused(pod, &["ip", "link", "set", "eth0", "down"]).await?;
        refused(pod, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).await?;
        refused(pod, &["sh", "-c", "echo h > /proc/sysrq-trigger"]).await?;
        refused(pod, &["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).await?;
        refused(pod, &["kill", "-9", "1"]).await.or_else(|error| {
            // The kernel shields pid 1 from inside: no error, no effect.
            ensure!(pod.status().borrow().containers[0].restarts == 0, "{error}");
            anyhow::Ok(String::new())
        })?;
        // What is allowed: low ports, and ping.
        let listens = "app echo 81 & sleep 0.3; app say 127.0.0.1:81 hello; kill $!";
        ensure!(
            well(pod, &["sh", "-c", listens])
                .await?
                .contains("127.0.0.1 says hello")
        );
    }
    let mut bad = pod("bad", &["true"]);
    bad.containers[0].user = Some(PROXY_UID);
    ensure!(stage.start(bad).await.is_err(), "an app may not run as the proxy");
    Ok(())
}

pub(crate) async fn weft(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("meshed", &["app", "sleep"]);
    let mut init = crate::story::container(
        "weft-init",
        &["sh", "-c", "iptables -t nat -N WEFT && ip6tables -t nat -N WEFT"],
    );
    init.user = Some(0);
    init.privilege = Privilege::Weft(vec![Capability::NetAdmin, Capability::NetRaw]);
    let mut proxy = crate::story::container(
        "weft-proxy",
        &["sh", "-c", "app mark && echo marked; id -u; exec app sleep"],
    );
    proxy.sidecar = true;
    proxy.user = Some(PROXY_UID);
    proxy.privilege = Privilege::Weft(vec![Capability::NetRaw]);
    plan.init_containers = vec![init, proxy];
    let pod = stage.ready(plan).await?;
    // What a container says does not change the pod's status, so it is looked at again and again.
    let (mut said, began) = (String::new(), std::time::Instant::now());
    while said.lines().count() < 2 && began.elapsed() < std::time::Duration::from_secs(10) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        said = crate::story::said(&pod, "weft-proxy")?;
    }
    let uid = if stage.single { "0" } else { "1882" };
    ensure!(said == format!("marked\n{uid}\n"), "{said}");
    let rules = pod
        .net()
        .run(|| std::process::Command::new("iptables-save").args(["-t", "nat"]).output())
        .await?;
    ensure!(String::from_utf8_lossy(&rules.stdout).contains(":WEFT"), "{rules:?}");
    // The app beside them has none of it.
    refused(&pod, &["app", "mark"]).await?;
    refused(&pod, &["iptables", "-t", "nat", "-F", "WEFT"]).await?;
    Ok(())
}

pub(crate) async fn views(stage: Stage) -> anyhow::Result<()> {
    let mut root = pod("root", &["app", "sleep"]);
    root.containers[0].user = Some(0);
    let (root, other) = tokio::try_join!(stage.ready(root), stage.ready(pod("other", &["app", "sleep"])))?;
    // Root of a container writes where it likes; nobody else sees it.
    for path in [
        "/etc/weft-was-here",
        "/usr/weft-was-here",
        "/tmp/weft-was-here",
        "/run/weft-was-here",
    ] {
        well(&root, &["sh", "-c", &format!("echo x > {path} && cat {path}")]).await?;
        refused(&other, &["ls", path]).await?;
        ensure!(!std::path::Path::new(path).exists(), "{path} is on the host");
    }
    let host = std::fs::read_to_string("/etc/passwd")?;
    if stage.single {
        // All that a container sees is its only user's; but what it sees is its own.
        well(&other, &["sh", "-c", "echo x >> /etc/passwd"]).await?;
        refused(&root, &["grep", "-x", "x", "/etc/passwd"]).await?;
    } else {
        refused(&other, &["sh", "-c", "echo x > /etc/passwd"]).await?;
    }
    ensure!(std::fs::read_to_string("/etc/passwd")? == host);
    // Its own places, and its own programs first.
    well(
        &other,
        &["sh", "-c", "echo x > $HOME/file && test $(stat -c %a $HOME) = 700"],
    )
    .await?;
    well(
        &other,
        &[
            "sh",
            "-c",
            "echo x > /tmp/file; echo x > /run/file.pid; echo x > /dev/shm/file; echo x > /dev/null",
        ],
    )
    .await?;
    ensure!(well(&other, &["sh", "-c", "command -v weft"]).await? == "/run/weft/bin/weft");
    refused(&root, &["sh", "-c", "echo x > /run/weft/bin/weft"]).await?;
    ensure!(well(&other, &["cat", "/etc/resolv.conf"]).await? == "nameserver 10.96.0.10");
    ensure!(well(&other, &["cat", "/etc/hostname"]).await? == "other");
    let own = other.net().addresses().v4.to_string();
    ensure!(
        well(&other, &["getent", "hosts", "other"]).await?.contains("other"),
        "its own name resolves"
    );
    ensure!(well(&other, &["grep", &own, "/etc/hosts"]).await?.contains("other"));
    // Only its own processes.
    let processes = well(&other, &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).await?;
    ensure!(processes.parse::<u32>()? < 10, "{processes} processes");
    let mut frozen = pod("frozen", &["app", "sleep"]);
    frozen.containers[0].user = Some(0);
    frozen.containers[0].read_only_root = true;
    let frozen = stage.ready(frozen).await?;
    refused(&frozen, &["sh", "-c", "echo x > /etc/file"]).await?;
    well(&frozen, &["sh", "-c", "echo x > /tmp/file"]).await?;
    Ok(())
}

pub(crate) async fn hidden(stage: Stage) -> anyhow::Result<()> {
    std::fs::write(stage.dir.join("secret"), "key")?;
    std::fs::create_dir_all(stage.dir.join("shown"))?;
    std::fs::write(stage.dir.join("shown/file"), "seen")?;
    let mut root = pod("root", &["app", "sleep"]);
    root.containers[0].user = Some(0);
    let root = stage.ready(root).await?;
    let dir = stage.dir.to_string_lossy().into_owned();
    ensure!(
        well(&root, &["ls", "-A", &dir]).await?.is_empty(),
        "the state directory shows"
    );
    refused(&root, &["sh", "-c", "ls /run/weft/host-proc || ls /run/weft/volumes"]).await?;
    // The host's own processes can't be seen, nor entered.
    refused(&root, &["ls", "/proc/1/root/"]).await?;
    // One of Weft's own sees the directory that it is given, and no other.
    let mut control = pod("control", &["app", "sleep"]);
    control.volumes = vec![Volume {
        name: "v".into(),
        source: VolumeSource::Bind {
            path: stage.dir.join("shown"),
        },
    }];
    control.containers[0].privilege = Privilege::Weft(Vec::new());
    control.containers[0].mounts = vec![Mount {
        volume: "v".into(),
        path: stage.dir.join("shown"),
        sub_path: None,
        read_only: true,
    }];
    let control = stage.ready(control).await?;
    ensure!(well(&control, &["cat", &format!("{dir}/shown/file")]).await? == "seen");
    refused(&control, &["cat", &format!("{dir}/secret")]).await?;
    refused(&control, &["sh", "-c", &format!("echo x > {dir}/shown/file")]).await?;
    Ok(())
}
