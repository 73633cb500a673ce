//! A mesh leaves the host as it was, however it ends.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use weft_tests::Mesh;
use weft_tests::host::{Host, processes_with, until};
use weft_tests::mesh::weft_bin;
use weft_tests::shop::shop;

#[test]
fn ctrl_c_ends_everything_says_so_and_leaves_the_host_as_it_was() {
    let before = Host::now();
    let mesh = shop().up();
    let name = mesh.name().to_owned();
    let (code, said) = mesh.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ended"), "{said}");
    assert_eq!(processes_with(&name), Vec::<String>::new());
    assert_eq!(Host::now(), before);
}

#[test]
fn a_killed_mesh_leaves_nothing_and_starts_again() {
    let before = Host::now();
    let name = format!("killed-{}", std::process::id());
    let mesh = shop().named(&name).up();
    kill(mesh.pid(), Signal::SIGKILL).expect("weft up runs");
    drop(mesh);
    until("its processes are gone", || processes_with(&name).is_empty());
    assert_eq!(Host::now(), before);

    let again = shop().named(&name).up();
    again
        .visit("shop", "visitor", "http://web/products/1", &[])
        .none_failed();
    assert_eq!(again.end().0, Some(0));
    assert_eq!(Host::now(), before);
}

#[test]
fn two_meshes_run_side_by_side() {
    let (one, two) = (shop().up(), shop().up());
    for mesh in [&one, &two] {
        mesh.visit("shop", "visitor", "http://web/products/1", &["--count", "20"])
            .none_failed();
    }
    assert_eq!(one.end().0, Some(0));
    two.visit("shop", "visitor", "http://web/products/1", &["--count", "20"])
        .none_failed();
}

#[test]
fn a_second_mesh_of_the_same_name_is_refused() {
    let mesh = shop().up();
    let output = mesh.weft("up", ["-f", mesh.manifests().to_str().expect("a path")]);
    assert_ne!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(mesh.name()) && said.contains("running"), "{said}");
}

#[test]
fn the_demo_sees_what_it_expects_in_every_step() {
    let before = Host::now();
    let name = format!("demo-{}", std::process::id());
    let output = Command::new(weft_tests::mesh::weft_bin())
        .args(["demo", "--json", "--name", &name])
        .output();
    let output = output.expect("weft demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let steps: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(output.status.success(), "{steps:#}\n{said}");
    let steps = steps["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 7);
    assert!(steps.iter().all(|step| step["ok"] == true), "{steps:#?}");
    assert_eq!(Host::now(), before);
}

#[test]
fn the_demo_of_two_clusters_sees_what_it_expects_in_every_step() {
    let before = Host::now();
    let name = format!("demo2-{}", std::process::id());
    let output = Command::new(weft_tests::mesh::weft_bin())
        .args(["demo", "--clusters", "2", "--json", "--name", &name])
        .output();
    let output = output.expect("weft demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let steps: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(output.status.success(), "{steps:#}\n{said}");
    let steps = steps["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 5);
    assert!(steps.iter().all(|step| step["ok"] == true), "{steps:#?}");
    assert_eq!(processes_with(&name), Vec::<String>::new());
    assert_eq!(Host::now(), before);
}

#[test]
fn the_demo_refuses_the_name_of_a_mesh_that_runs_and_leaves_that_one_alone() {
    let mesh = shop().up();
    let before = mesh.control_pids();
    let output = mesh.weft("demo", [] as [&str; 0]);
    let (out, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!((output.status.code(), &*out), (Some(1), ""), "{said}");
    assert!(
        said.contains("is already running") && said.lines().count() == 1,
        "{said}"
    );
    assert!(!before.is_empty());
    assert_eq!(mesh.control_pids(), before);
}

#[test]
fn a_killed_demo_takes_its_mesh_and_its_directory_with_it() {
    let before = Host::now();
    let name = format!("demo-killed-{}", std::process::id());
    let directories = || {
        let all = std::fs::read_dir(std::env::temp_dir()).expect("the temporary directory");
        let names = all.flatten().map(|entry| entry.file_name());
        let prefix = format!("weft-{name}-");
        names.filter(|name| name.to_string_lossy().starts_with(&prefix)).count()
    };
    let mut demo = Command::new(weft_bin())
        .args(["demo", "--name", &name])
        .stdout(Stdio::null())
        .spawn()
        .expect("weft demo runs");
    let runs = || {
        let status = Command::new(weft_bin()).args(["status", "--name", &name]).output();
        status.is_ok_and(|output| output.status.success())
    };
    until("the mesh runs", runs);
    assert_eq!(directories(), 1);
    demo.kill().expect("weft demo runs");
    demo.wait().expect("weft demo ends");
    until("its processes are gone", || processes_with(&name).is_empty());
    assert_eq!(directories(), 0);
    assert_eq!(Host::now(), before);
}

#[test]
fn the_demo_s_manifests_run_as_they_are_printed() {
    let printed = Command::new(weft_bin())
        .args(["demo", "--print-manifests"])
        .output()
        .expect("weft demo");
    let text = String::from_utf8(printed.stdout).expect("text");
    let mesh = Mesh::builder().file("shop.yaml", &text).up();
    assert_eq!(mesh.pods("").len(), 10);
    mesh.visit("shop", "visitor", "http://web/products/1", &["--count", "10"])
        .none_failed();
}
