//! Stories of volumes.

use anyhow::ensure;
use weft_local::spec::{FileEntry, Mount, PodPlan, Volume, VolumeSource};

use crate::story::{Stage, pod, refused, said, until, well};

fn file(path: &str, text: &str) -> FileEntry {
    FileEntry {
        path: path.into(),
        mode: 0o644,
        bytes: text.into(),
    }
}

fn mount(plan: &mut PodPlan, name: &str, path: &str, sub_path: Option<&str>, source: VolumeSource) {
    if plan.volumes.iter().all(|volume| volume.name != name) {
        plan.volumes.push(Volume {
            name: name.into(),
            source,
        });
    }
    let sub_path = sub_path.map(Into::into);
    plan.containers[0].mounts.push(Mount {
        volume: name.into(),
        path: path.into(),
        sub_path,
        read_only: false,
    });
}

pub(crate) async fn kinds(stage: Stage) -> anyhow::Result<()> {
    let disk = || VolumeSource::EmptyDir {
        memory: false,
        size_limit: None,
    };
    let files = || VolumeSource::Files {
        files: vec![file("a.conf", "a"), file("deep/b", "b")],
        owner: None,
    };
    let mut plan = pod("web", &["app", "sleep"]);
    plan.fs_group = Some(4242);
    mount(
        &mut plan,
        "memory",
        "/memory",
        None,
        VolumeSource::EmptyDir {
            memory: true,
            size_limit: Some(1 << 20),
        },
    );
    mount(&mut plan, "disk", "/srv/new/place", None, disk());
    mount(&mut plan, "disk", "/srv/part", Some("part/of"), disk());
    mount(&mut plan, "files", "/etc/web", None, files());
    mount(&mut plan, "files", "/var/run/web/b", Some("deep/b"), files());
    let pod = stage.ready(plan).await?;
    ensure!(well(&pod, &["stat", "-f", "-c", "%T", "/memory"]).await? == "tmpfs");
    ensure!(well(&pod, &["stat", "-f", "-c", "%T", "/srv/new/place"]).await? != "tmpfs");
    refused(&pod, &["dd", "if=/dev/zero", "of=/memory/big", "bs=1M", "count=2"]).await?;
    well(
        &pod,
        &[
            "sh",
            "-c",
            "rm -f /memory/big; echo x > /memory/file; echo y > /srv/new/place/file",
        ],
    )
    .await?;
    if !stage.single {
        ensure!(
            well(&pod, &["stat", "-c", "%g", "/srv/new/place/file"]).await? == "4242",
            "the volume's group"
        );
        well(&pod, &["sh", "-c", "id -G | grep -qw 4242"]).await?;
    }
    well(&pod, &["test", "-d", "/srv/new/place/part/of"]).await?;
    ensure!(well(&pod, &["cat", "/etc/web/a.conf", "/etc/web/deep/b", "/var/run/web/b"]).await? == "abb");
    refused(&pod, &["sh", "-c", "echo x > /etc/web/a.conf"]).await?;
    Ok(())
}

pub(crate) async fn life(stage: Stage) -> anyhow::Result<()> {
    let empty = |memory| VolumeSource::EmptyDir {
        memory,
        size_limit: None,
    };
    let mut plan = pod("web", &["app", "sleep"]);
    mount(&mut plan, "memory", "/memory", None, empty(true));
    mount(&mut plan, "disk", "/srv/new/place", None, empty(false));
    let pod = stage.ready(plan).await?;
    well(
        &pod,
        &["sh", "-c", "echo x > /memory/file; echo y > /srv/new/place/file"],
    )
    .await?;
    crate::story::kill_main(&pod).await?;
    until(&pod, "back", |status| {
        status.ready && status.containers[0].restarts == 1
    })
    .await?;
    ensure!(well(&pod, &["cat", "/memory/file", "/srv/new/place/file"]).await? == "x\ny");
    let left = stage.dir.join("volumes/uid-web");
    ensure!(left.exists());
    pod.stop(None).await;
    ensure!(!left.exists(), "the volumes are left");
    ensure!(
        !std::path::Path::new("/srv/new").exists(),
        "the host has the mount point"
    );
    Ok(())
}

pub(crate) async fn update(stage: Stage) -> anyhow::Result<()> {
    let both = |text: &str| vec![file("a", text), file("b", text)];
    let mut plan = pod("reader", &["sh", "-c", "app pair /conf/a /conf/b; exec app sleep"]);
    mount(
        &mut plan,
        "conf",
        "/conf",
        None,
        VolumeSource::Files {
            files: both("0"),
            owner: None,
        },
    );
    let pod = stage.ready(plan).await?;
    for version in 1..300 {
        pod.update_volume("conf", &both(&version.to_string())).await?;
    }
    pod.update_volume("conf", &both("end")).await?;
    let began = std::time::Instant::now();
    while !said(&pod, "main")?.contains("end") {
        ensure!(began.elapsed().as_secs() < 10, "{}", said(&pod, "main")?);
        tokio::task::yield_now().await;
    }
    ensure!(said(&pod, "main")? == "reading\nthe end\n", "{}", said(&pod, "main")?);
    ensure!(pod.update_volume("other", &[]).await.is_err());
    Ok(())
}

pub(crate) async fn links(stage: Stage) -> anyhow::Result<()> {
    let disk = || VolumeSource::EmptyDir {
        memory: false,
        size_limit: None,
    };
    let mut plan = pod("sly", &["app", "sleep"]);
    plan.init_containers = vec![crate::story::container("plant", &["ln", "-s", "/etc", "/data/way"])];
    mount(&mut plan, "data", "/data", None, disk());
    plan.init_containers[0].mounts = plan.containers[0].mounts.clone();
    mount(&mut plan, "data", "/out", Some("way"), disk());
    let pod = stage.start(plan).await?;
    let seen = until(&pod, "restarting", |status| status.containers[1].restarts > 0).await?;
    let last = seen.containers[1]
        .last
        .as_ref()
        .map(|last| last.message.clone())
        .unwrap_or_default();
    ensure!(last.contains("/out"), "{last}");
    Ok(())
}
