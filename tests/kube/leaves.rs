//! A cluster leaves the host as it was, however it ends.

use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_tests::host::{Host, processes_with, until};
use weft_tests::kube::{said, x_cluster};

/// What a cluster of that name leaves outside of its namespaces while it runs.
fn traces(name: &str) -> Vec<String> {
    let find = Command::new("find")
        .args(["/sys/fs/cgroup", "-path", &format!("*/weft-clusters/{name}")])
        .output();
    let cgroups = String::from_utf8_lossy(&find.expect("find runs").stdout).into_owned();
    let clusters = std::env::var("WEFT_CLUSTERS").unwrap_or_else(|_| "/var/tmp/weft-clusters".to_owned());
    let state = format!("{clusters}/{name}");
    let mut traces = processes_with(&state);
    traces.extend(cgroups.lines().map(str::to_owned));
    traces.extend(Path::new(&state).exists().then_some(state));
    traces
}

/// Settings of the whole kernel that kubelet and kube-proxy would like to change.
fn kernel() -> Vec<String> {
    let names = [
        "vm.overcommit_memory",
        "vm.panic_on_oom",
        "kernel.panic",
        "kernel.panic_on_oops",
        "kernel.keys.root_maxkeys",
        "kernel.keys.root_maxbytes",
        "net.ipv4.ip_forward",
        "net.netfilter.nf_conntrack_max",
        "net.netfilter.nf_conntrack_buckets",
    ];
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
    names
        .iter()
        .map(|name| format!("{name} = {:?}", read(name).ok()))
        .collect()
}

#[track_caller]
fn down(name: &str) {
    let output = x_cluster(["down", name]).output().expect("./x runs");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn down_leaves_the_host_as_it_was() {
    let name = format!("down{}", std::process::id());
    let (before, settings) = (Host::now(), kernel());
    let up = x_cluster(["up", &name, "--nodes", "1", "--bare"])
        .output()
        .expect("./x runs");
    assert!(up.status.success(), "{}", said(&up));
    assert_eq!(
        Host::now(),
        before,
        "a running cluster is nothing of the host's network and mounts"
    );
    assert_eq!(kernel(), settings, "nor of its kernel's settings");
    assert!(!traces(&name).is_empty());
    down(&name);
    assert_eq!(traces(&name), Vec::<String>::new());
    assert_eq!(Host::now(), before);
}

#[test]
fn what_a_killed_start_left_is_cleaned_up() {
    let name = format!("killed{}", std::process::id());
    let before = Host::now();
    let mut up = x_cluster(["up", &name, "--nodes", "1", "--bare"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("./x runs");
    until("the API server starts", || {
        processes_with(&format!("/{name}/pki"))
            .iter()
            .any(|line| line.contains("kube-apiserver"))
    });
    kill(Pid::from_raw(i32::try_from(up.id()).expect("a pid")), Signal::SIGKILL).expect("it runs");
    up.wait().expect("it ended");
    down(&name);
    assert_eq!(traces(&name), Vec::<String>::new());
    assert_eq!(Host::now(), before);
}
