//! `weft` behaves as people expect of such a tool.

use std::process::Command;

use weft_tests::mesh::weft_bin;
use weft_tests::shop::shop;

fn weft(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(weft_bin()).args(args).output().expect("weft runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What a command prints on a terminal.
fn on_a_terminal(variable: &str, args: &str) -> String {
    let command = format!("{variable} {} {args}", weft_bin().display());
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .output()
        .expect("script runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_mistyped_verb_is_told_what_was_probably_meant() {
    let (code, _, said) = weft(&["stauts"]);
    assert_eq!(code, Some(64));
    assert!(said.contains("'status'"), "{said}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    assert!(on_a_terminal("", "--help").contains('\u{1b}'));
    assert!(!on_a_terminal("NO_COLOR=1", "--help").contains('\u{1b}'));
    assert!(!weft(&["--help"]).1.contains('\u{1b}'));
}

#[test]
fn bash_takes_the_completion_and_completes_a_verb() {
    let script = format!(
        "source <({} completion bash); COMP_WORDS=(weft stat); COMP_CWORD=1; _weft weft stat weft; echo \"${{COMPREPLY[@]}}\"",
        weft_bin().display()
    );
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "status", "{said}");
}

#[test]
fn a_mistyped_pod_is_told_what_was_probably_meant_and_the_status_counts_calls() {
    let mesh = shop().up();
    let said = |args: &[&str]| String::from_utf8_lossy(&mesh.weft("exec", args).stderr).into_owned();
    assert!(said(&["-n", "shop", "vistor", "--", "true"]).contains("did you mean \"visitor\"?"));
    assert!(said(&["visitor", "--", "true"]).contains("-n shop"));

    mesh.visit("shop", "visitor", "http://reviews/reviews/1", &["--count", "300"])
        .none_failed();
    let output = mesh.weft("status", ["-n", "shop"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let reviews = text
        .lines()
        .find(|line| line.contains("100.00 %") && line.contains("reviews"));
    assert!(reviews.is_some_and(|line| line.contains(" 300 ")), "{text}");
    assert!(text.contains("TRAFFIC SINCE THE PROXIES STARTED"), "{text}");

    // Within a window only what comes in it counts.
    let calls = mesh.visit_beside(
        "shop",
        "visitor",
        "http://reviews/reviews/1",
        &["--rate", "50", "--count", "1000", "--seconds", "6"],
    );
    let output = mesh.weft("status", ["-o", "json", "--window", "2s"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    calls.tally().none_failed();
    let services = status["traffic"]["services"].as_array().expect("services");
    let reviews = services
        .iter()
        .find(|service| service["name"] == "reviews")
        .expect("reviews");
    let rate = reviews["callsPerSecond"].as_f64().expect("a rate");
    assert!((30.0..=70.0).contains(&rate), "{reviews:#}");
    assert_eq!(reviews["successRate"], 1.0);
    assert!(
        reviews["p50Seconds"].as_f64() <= reviews["p99Seconds"].as_f64(),
        "{reviews:#}"
    );

    let yaml = mesh.weft("status", ["-o", "yaml"]);
    let read = "import sys, json, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut python = Command::new("/usr/bin/python3");
    let mut child = { python.args(["-c", read]) }
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 runs");
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), &yaml.stdout).expect("python3 reads");
    let output = child.wait_with_output().expect("python3 ends");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the YAML is read");
    assert_eq!(value["mesh"], mesh.name());
    assert_eq!(value["pods"].as_array().map(Vec::len), Some(10));
}
