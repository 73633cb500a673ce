//! Real pods on this machine: real namespaces, real processes, as root and without. Each story runs in a sandbox of its own.
//!
//! This program is also what the sandbox and its containers re-execute, and (called as `app`) the application inside.

mod app;
mod host;
mod lifecycle;
mod network;
mod output;
mod rights;
mod servers;
mod story;
mod user;
mod volumes;

use std::process::ExitCode;
use std::time::Instant;

use story::Story;
use user::{Place, Teller};

/// The stories told inside a sandbox, by name.
const STORIES: &[(&str, Story)] = &[
    ("pods_talk_to_each_other_over_ipv4_and_ipv6", |stage| {
        Box::pin(network::pods_talk(stage))
    }),
    ("pods_can_not_reach_the_host", |stage| {
        Box::pin(network::host_is_unreachable(stage))
    }),
    ("a_connection_can_be_opened_from_within_a_pod", |stage| {
        Box::pin(network::dial(stage))
    }),
    ("the_relay_reaches_its_one_address", |stage| {
        Box::pin(network::relay(stage))
    }),
    ("pods_keep_finding_the_node_while_others_come_and_go", |stage| {
        Box::pin(network::node_stays(stage))
    }),
    ("twenty_pods_start_quickly", |stage| {
        Box::pin(network::twenty_pods(stage))
    }),
    ("an_app_has_no_rights", |stage| Box::pin(rights::app(stage))),
    ("wefts_own_containers_keep_what_they_are_given", |stage| {
        Box::pin(rights::weft(stage))
    }),
    ("what_a_container_writes_is_its_own", |stage| {
        Box::pin(rights::views(stage))
    }),
    ("the_host_s_secrets_are_out_of_sight", |stage| {
        Box::pin(rights::hidden(stage))
    }),
    ("containers_start_in_order", |stage| Box::pin(lifecycle::order(stage))),
    ("containers_end_in_reverse", |stage| Box::pin(lifecycle::reverse(stage))),
    ("a_job_completes_without_its_sidecar", |stage| {
        Box::pin(lifecycle::job(stage))
    }),
    ("a_container_that_dies_is_started_again_at_once", |stage| {
        Box::pin(lifecycle::restart(stage))
    }),
    ("probes_gate_and_restart", |stage| Box::pin(lifecycle::probes(stage))),
    ("a_pod_that_will_not_end_is_killed_after_its_grace", |stage| {
        Box::pin(lifecycle::grace(stage))
    }),
    ("hooks_run_after_the_start_and_before_the_end", |stage| {
        Box::pin(lifecycle::hooks(stage))
    }),
    ("what_a_claim_holds_outlives_its_pod", |stage| {
        Box::pin(lifecycle::claims(stage))
    }),
    ("orphans_are_reaped", |stage| Box::pin(lifecycle::orphans(stage))),
    ("a_command_that_is_not_there_is_said_so", |stage| {
        Box::pin(lifecycle::missing(stage))
    }),
    ("commands_run_in_a_container", |stage| Box::pin(lifecycle::exec(stage))),
    ("logs_can_be_followed", |stage| Box::pin(lifecycle::logs(stage))),
    ("output_can_be_opened_by_its_name", |stage| {
        Box::pin(output::by_name(stage))
    }),
    ("output_that_is_somebody_s_file_stays_theirs", |stage| {
        Box::pin(output::not_ours(stage))
    }),
    ("volumes_are_what_they_say", |stage| Box::pin(volumes::kinds(stage))),
    ("volumes_live_as_long_as_their_pod", |stage| {
        Box::pin(volumes::life(stage))
    }),
    ("files_are_replaced_all_at_once", |stage| {
        Box::pin(volumes::update(stage))
    }),
    ("a_volume_s_links_do_not_lead_out", |stage| {
        Box::pin(volumes::links(stage))
    }),
    ("redis_runs", |stage| Box::pin(servers::redis(stage))),
    ("postgresql_runs", |stage| Box::pin(servers::postgresql(stage))),
    ("nginx_runs", |stage| Box::pin(servers::nginx(stage))),
    (host::STAY, |stage| Box::pin(host::stay(stage))),
];

type Test = fn() -> anyhow::Result<()>;

/// The stories told from outside.
const OUTSIDE: &[(&str, Test)] = &[
    ("nothing_is_left_after_kill_9", host::nothing_is_left_after_kill_9),
    ("an_orderly_end_leaves_nothing", host::an_orderly_end_leaves_nothing),
];

fn main() -> ExitCode {
    if let Some(code) = weft_local::stage::main(std::env::args_os(), &[("story", story::supervise)]) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[0].ends_with("/app") || arguments[0] == "app" {
        return app::main(&arguments[1..]);
    }
    if arguments.get(1).is_some_and(|word| word == "host") {
        return host::main(&arguments[2..]);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("these tests make namespaces: run them as root (sudo -E cargo test -p weft-local)");
        return ExitCode::FAILURE;
    }
    run(&arguments[1..])
}

/// Runs all stories whose names contain one of the words given (options of cargo's test runner are ignored).
fn run(words: &[String]) -> ExitCode {
    let wanted: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let told = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let (mut passed, mut failed) = (0, Vec::<String>::new());
    let mut note = |name: &str, began: Instant, result: anyhow::Result<()>| {
        let took = began.elapsed();
        match result {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({took:.2?})");
            }
            Err(error) => {
                failed.push(name.to_owned());
                println!("test {name} ... FAILED ({took:.2?})\n{error:#}");
            }
        }
    };
    let place = match Place::make() {
        Ok(place) => place,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    for (name, _) in STORIES.iter().filter(|(name, _)| told(name) && *name != host::STAY) {
        for teller in [Teller::Root, Teller::Single, Teller::Multi] {
            let began = Instant::now();
            note(&format!("{name} ({teller:?})"), began, tell(name, &place, teller));
        }
    }
    for (name, test) in OUTSIDE.iter().filter(|(name, _)| told(name)) {
        note(name, Instant::now(), test());
    }
    println!("\ntest result: {passed} passed; {} failed", failed.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Tells one story in a process of its own.
fn tell(name: &str, place: &Place, teller: Teller) -> anyhow::Result<()> {
    let output = place.command(teller).args(["host", name]).output()?;
    if !output.status.success() {
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        anyhow::bail!("{}\n{stdout}{stderr}", output.status);
    }
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}
