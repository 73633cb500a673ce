//! `weft`: the people's tool, and every role of the mesh in one binary.
//!
//! In: arguments, and the name by which it was called. Out: an exit code (0, 1, 64 usage, 65 bad data; of `weft exec`: the
//! command's). The order of the questions below matters: the hidden stages come before anything could start a thread.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;
use weft_daemon::exit;

mod access_log;
mod args;
mod demo;
mod down;
mod exec;
mod explain;
mod forward;
mod generate;
mod http;
mod logs;
mod paper;
mod protocols;
mod scrape;
#[cfg(test)]
mod settings;
mod status;
mod table;
mod target;
mod traffic;
mod up;
mod validate;
mod yaml;

use args::{Cli, Verb};

// The proxy is one of the roles, and what an allocator costs decides what a stream costs.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let supervisors: [(&str, weft_local::sandbox::Supervisor); 1] =
        [(weft_local::up::SUPERVISOR, weft_local::up::supervise)];
    if let Some(code) = weft_local::stage::main(std::env::args_os(), &supervisors) {
        return code;
    }
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(OsStr::to_str)
        .unwrap_or("weft");
    if let Some(code) = shop::run(called, args.clone()) {
        return code;
    }
    if let Some(code) = called.strip_prefix("weft-").and_then(|name| role(name, &args, 1)) {
        return code;
    }
    if let Some(code) = args
        .get(1)
        .and_then(|name| name.to_str())
        .and_then(|name| role(name, &args, 2))
    {
        return code;
    }
    match Cli::try_parse_from(&args) {
        Ok(cli) => run(cli),
        Err(error) => {
            // Help and version are asked for. If stdout is closed, nobody reads the rest either.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
        }
    }
}

/// Runs a role of the mesh, with the arguments behind its name.
fn role(name: &str, args: &[OsString], skip: usize) -> Option<ExitCode> {
    let called = OsString::from(format!("weft {name}"));
    let args = || std::iter::once(called.clone()).chain(args.iter().skip(skip).cloned());
    match name {
        "proxy" => Some(weft_proxy::main(args())),
        "control" => Some(weft_control::main(args())),
        "init" => Some(weft_injector::init::main(args())),
        _ => None,
    }
}

fn run(cli: Cli) -> ExitCode {
    let done = match cli.verb {
        Verb::Up(args) => return up::main(args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Validate(args) => validate::main(&args),
        Verb::Route(args) => asking(explain::main(args)),
        Verb::Down(args) => asking(down::main(args)),
        Verb::Status(args) => asking(status::main(args)),
        Verb::Exec(args) => asking(exec::main(args)),
        Verb::Logs(args) => asking(logs::main(args)),
        Verb::AccessLog(args) => asking(access_log::main(args)),
        Verb::PortForward(args) => asking(forward::main(args)),
        Verb::Completion(args) => generate::completion(&args),
        Verb::Man(args) => generate::man(&args),
        // Taken by their names before the arguments were read.
        Verb::Proxy(_) | Verb::Control(_) | Verb::Init(_) => Ok(ExitCode::from(exit::USAGE)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("weft: {error:#}");
        ExitCode::from(exit::FAILURE)
    })
}

/// Runs a verb that asks a running mesh.
fn asking(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A thread may be reading standard input, and nobody can tell it to stop.
    runtime.shutdown_background();
    done
}
