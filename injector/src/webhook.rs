//! `weft injector`: the admission webhook that gives pods their sidecar.
//!
//! | room | what happens there |
//! |---|---|
//! | [`config`] | settings |
//! | `serve` | HTTPS: a review in, the answer out, everything bounded |
//! | `namespaces` | the Namespace of a pod, as fresh as the question |
//! | `pair`, `rotation` | the webhook's own CA and certificate, and when they are replaced (pure) |
//! | `keeper` | those two in the cluster: the Secret, and the caBundle of the webhook's configuration |
//! | `metrics`, `app` | what is counted, and how the rooms are joined |

pub mod config;

mod app;
mod keeper;
mod metrics;
mod namespaces;
mod pair;
mod rotation;
mod serve;
mod stored;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use weft_daemon::drain::Ended;
use weft_daemon::log::{self, Switch};
use weft_daemon::{exit, signal};

use config::Settings;

/// Threads that answer reviews.
const THREADS: usize = 2;

/// What can be typed, for references.
pub fn command() -> clap::Command {
    <Settings as clap::CommandFactory>::command()
}

/// Runs the webhook until SIGTERM or SIGINT. `args` begin with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::try_parse_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            // Help and version are asked for; they go to stdout. If that is closed, nobody reads the rest either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    let log = match log::start() {
        Ok(log) => log,
        Err(error) => return failed(&error.into(), exit::USAGE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("serve")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(settings, log.switch())),
        Err(error) => failed(&error.into(), exit::FAILURE),
    }
}

async fn run(settings: Settings, log: Switch) -> ExitCode {
    let signals = match signal::Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&error.into(), exit::FAILURE),
    };
    let grace = settings.drain;
    let app = match app::App::start(settings, log).await {
        Ok(app) => app,
        Err(error) => return failed(&error, exit::FAILURE),
    };
    let ended = signals.end(app.drain, grace).await;
    drop(app.admin);
    match ended {
        Ended::Gently => tracing::info!("ended"),
        Ended::ByForce(left) => tracing::warn!(?left, "ended by force"),
    }
    ExitCode::from(exit::OK)
}

fn failed(error: &anyhow::Error, code: u8) -> ExitCode {
    // Not through the log: this is the answer to whoever started the process. If stderr is closed, the code remains.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("weft-injector: {error:#}\n"));
    ExitCode::from(code)
}
