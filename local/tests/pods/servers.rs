//! Stories of servers as Debian packages them, run as anybody.

use std::time::Duration;

use anyhow::ensure;
use weft_local::spec::{FileEntry, Mount, Probe, ProbeAction, Volume, VolumeSource};

use crate::story::{Stage, pod, well};

fn quick(action: ProbeAction) -> Probe {
    let timeout = Duration::from_secs(5);
    Probe {
        period: Duration::from_millis(200),
        timeout,
        ..Probe::new(action)
    }
}

pub(crate) async fn redis(stage: Stage) -> anyhow::Result<()> {
    let mut plan = pod("redis", &["redis-server", "--save", "", "--protected-mode", "no"]);
    plan.containers[0].working_dir = Some("/tmp".into());
    plan.containers[0].readiness = Some(quick(ProbeAction::Tcp { host: None, port: 6379 }));
    let pod = stage.ready(plan).await?;
    ensure!(well(&pod, &["redis-cli", "ping"]).await? == "PONG");
    Ok(())
}

pub(crate) async fn postgresql(stage: Stage) -> anyhow::Result<()> {
    // It refuses root, and wants a passwd entry.
    let start = "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); initdb -D /data/db -A trust >/dev/null \
                 && exec postgres -D /data/db -h '*' -k /tmp";
    let mut plan = pod("postgresql", &["sh", "-c", start]);
    let source = VolumeSource::EmptyDir {
        memory: false,
        size_limit: None,
    };
    plan.volumes = vec![Volume {
        name: "data".into(),
        source,
    }];
    plan.containers[0].mounts = vec![Mount {
        volume: "data".into(),
        path: "/data".into(),
        sub_path: None,
        read_only: false,
    }];
    let ask = ["pg_isready", "-h", "127.0.0.1"].map(str::to_owned).to_vec();
    plan.containers[0].readiness = Some(quick(ProbeAction::Exec { command: ask }));
    let pod = stage.ready(plan).await?;
    let ask = [
        "psql",
        "-h",
        "127.0.0.1",
        "-U",
        "app",
        "postgres",
        "-Atc",
        "select 6 * 7",
    ];
    ensure!(well(&pod, &ask).await? == "42");
    Ok(())
}

pub(crate) async fn nginx(stage: Stage) -> anyhow::Result<()> {
    let text = "error_log stderr; pid /run/nginx.pid; events {}\nhttp { access_log off; \
                client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; \
                uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;\n\
                server { listen 80; listen [::]:80; location / { return 200 'hello from $hostname'; } } }\n";
    let command = [
        "nginx",
        "-e",
        "stderr",
        "-c",
        "/etc/web/nginx.conf",
        "-g",
        "daemon off;",
    ];
    let mut plan = pod("nginx", &command);
    let files = vec![FileEntry {
        path: "nginx.conf".into(),
        mode: 0o644,
        bytes: text.into(),
    }];
    plan.volumes = vec![Volume {
        name: "conf".into(),
        source: VolumeSource::Files { files, owner: None },
    }];
    plan.containers[0].mounts = vec![Mount {
        volume: "conf".into(),
        path: "/etc/web".into(),
        sub_path: None,
        read_only: false,
    }];
    let (host, path) = (None, "/".to_owned());
    let get = ProbeAction::Http {
        host,
        port: 80,
        path,
        https: false,
        headers: Vec::new(),
    };
    plan.containers[0].readiness = Some(quick(get));
    let pod = stage.ready(plan).await?;
    let text = well(&pod, &["curl", "-s", "http://127.0.0.1/"]).await?;
    ensure!(text == "hello from nginx", "{text}");
    Ok(())
}
