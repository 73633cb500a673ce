//! Everything that a mesh promises holds without root too, in both modes.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use weft_tests::host::{Host, processes_with, until};
use weft_tests::mesh::weft_bin;
use weft_tests::shop::shop;
use weft_tests::{Mesh, User};

use crate::{sandbox, wire};

/// `weft demo`, run by somebody.
#[track_caller]
fn demo_passes(user: &User, mode: &str) {
    let before = Host::now();
    let name = format!("demo-{mode}-{}", std::process::id());
    let output = user.weft().args(["demo", "--json", "--name", &name]).output();
    let output = output.expect("weft demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let steps: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(output.status.success(), "{steps:#}\n{said}");
    assert_eq!(steps["steps"].as_array().map(Vec::len), Some(7));
    assert_eq!(processes_with(&name), Vec::<String>::new());
    assert_eq!(Host::now(), before);
}

#[test]
fn the_demo_sees_what_it_expects_as_a_user_with_one_user() {
    demo_passes(&User::single(), "single");
}

#[test]
fn the_demo_sees_what_it_expects_as_a_user_with_many_users() {
    demo_passes(&User::multi(), "multi");
}

/// A shop, and what holds of it under root.
#[track_caller]
fn shop_keeps_its_promises(user: User, mode: &str) {
    let before = Host::now();
    let mesh = shop().run_by(user).up();
    let first: Vec<String> = mesh.log().lines().take(3).map(str::to_owned).collect();
    assert!(first.iter().any(|line| line.contains(mode)), "{first:#?}");
    assert_eq!(mesh.status()["mode"], mode);
    sandbox::neither_forges_nor_edits(&mesh);
    sandbox::has_no_rights_and_its_own_places(&mesh);
    sandbox::sees_no_keys(&mesh);
    assert_eq!(mesh.exec_ok("shop", "visitor", &["id", "-un"]), "app\n");
    let tally = mesh.visit("shop", "visitor", "http://reviews/reviews/1", &["--count", "2000"]);
    let share = tally.none_failed().version("v1") as f64 / tally.calls() as f64;
    assert!((share - 0.9).abs() <= 0.03, "{share}");
    let pinned = ["--count", "100", "-H", "x-canary: 1"];
    let tally = mesh.visit("shop", "visitor", "http://reviews/reviews/1", &pinned);
    assert_eq!(tally.none_failed().version("v2"), 100);
    let name = mesh.name().to_owned();
    let (code, said) = mesh.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(processes_with(&name), Vec::<String>::new());
    assert_eq!(Host::now(), before);
}

#[test]
fn apps_can_do_no_more_and_routes_no_less_with_one_user() {
    shop_keeps_its_promises(User::single(), "single");
}

#[test]
fn apps_can_do_no_more_and_routes_no_less_with_many_users() {
    shop_keeps_its_promises(User::multi(), "multi");
}

#[test]
fn nothing_of_an_app_crosses_the_wire_in_clear_without_root() {
    wire::nothing_in_clear(wire::nothing_but_places().run_by(User::single()), "10.244.");
}

/// Keeps what it writes as a user that is not the mesh's own.
const KEEPS: &str = r#"apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      securityContext: {runAsUser: 1000}
      containers:
        - name: db
          command: [sh, -c, "mkdir -p /data/mine && echo kept > /data/mine/file && exec sleep infinity"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;

#[test]
fn what_pods_of_other_users_kept_goes_with_the_mesh() {
    let mesh = Mesh::builder().file("db.yaml", KEEPS).run_by(User::multi()).up();
    let state = mesh.status()["state"].as_str().expect("a state directory").to_owned();
    let volumes = Path::new(&state).join("volumes");
    until("it keeps something", || {
        volumes.join("claims/default/data-db-0/mine/file").exists()
    });
    kill(mesh.pid(), Signal::SIGINT).expect("weft up runs");
    until("it has ended", || mesh.log().contains("ended: "));
    assert!(!volumes.exists(), "{}", mesh.log());
    assert!(mesh.log().contains("but its logs and keys\n"), "{}", mesh.log());
}

#[test]
fn a_killed_mesh_of_a_user_leaves_no_process() {
    let before = Host::now();
    let name = format!("killed-user-{}", std::process::id());
    let mesh = shop().named(&name).run_by(User::single()).up();
    kill(mesh.pid(), Signal::SIGKILL).expect("weft up runs");
    drop(mesh);
    until("its processes are gone", || processes_with(&name).is_empty());
    assert_eq!(Host::now(), before);
}

#[test]
fn a_user_of_many_that_is_not_in_the_range_is_refused_by_field() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: far}\nspec:\n  securityContext: {runAsUser: 70000}\n  \
               containers: [{name: c, command: [sleep, infinity]}]\n";
    let mesh = Mesh::builder()
        .file("pod.yaml", pod)
        .run_by(User::multi())
        .without_waiting()
        .up();
    until("it says why the pod does not start", || {
        mesh.log().contains("runAsUser")
    });
    let said = mesh.log();
    assert!(said.contains("70000") && said.contains("/etc/subuid"), "{said}");
}

#[test]
fn a_machine_that_allows_no_user_namespace_is_named_with_its_fix() {
    let dir = tempfile::tempdir().expect("a directory");
    // A user namespace has limits of its own: the host's stay as they are.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-sys_admin \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(weft_bin())
        .args(["up", "--name", "limited", "-f"])
        .arg(dir.path())
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the limit of user namespaces, 0,") && said.contains("sysctl -w user.max_user_namespaces"),
        "{said}"
    );
}
