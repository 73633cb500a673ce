//! The control plane of Weft: Kubernetes objects in, streams of resources out.
//!
//! | room | what happens there |
//! |---|---|
//! | [`objects`] | Kubernetes objects, typed views of them, problems |
//! | [`manifests`] | directories of files, read and watched |
//! | `cluster` | an API server: objects followed, identities asked for, what the mesh needs kept there |
//! | `source` | the one or the other |
//! | [`index`] | objects by what they mean for each other (pure) |
//! | [`compile`] | index in, resources out (pure) |
//! | [`federation`] | what exports of several clusters come to, and the objects that an import becomes (pure) |
//! | [`explain`] | where a request would go, and why (pure) |
//! | `serve` | certificates and streams out, to proxies and to other clusters |
//! | `peering` | what other clusters export, followed |
//! | `authority` | the mesh's root, and the control plane's own certificate |
//! | `remembered` | what acts after a restart as it did before, also where it is invalid by then |
//! | `epoch` | within which resources never get older |
//! | `status`, `admin` | what is told to people and scrapers |
//! | `config`, `app` | settings, and how the rooms are joined |

pub mod objects;

pub mod manifests;

mod cluster;
mod source;

pub mod index;

pub mod compile;

pub mod federation;

pub mod explain;

mod authority;
mod epoch;
mod remembered;
mod serve;

mod peering;

mod admin;
mod status;

mod app;
mod config;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use weft_daemon::drain::Ended;
use weft_daemon::log::{self, Switch};
use weft_daemon::{exit, signal};

pub use cluster::peer_maps;
pub use config::{AddressCheck, RenewByLeaf, Settings, leaf_lifetime};

/// Threads that serve proxies. The desk and the watch of the manifests have their own.
const SERVING_THREADS: usize = 2;

/// Runs the control plane until SIGTERM or SIGINT. `args` begins with the program's name.
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
        Err(error) => return failed(&error, exit::USAGE),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVING_THREADS)
        .thread_name("serve")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(settings, log.switch())),
        Err(error) => failed(&error, exit::FAILURE),
    }
}

async fn run(settings: Settings, log: Switch) -> ExitCode {
    let mut signals = match signal::Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&error, exit::FAILURE),
    };
    let grace = settings.drain;
    let started = tokio::select! {
        started = app::App::start(settings, log) => started,
        // It may wait for an API server.
        () = signals.next() => return ExitCode::from(exit::OK),
    };
    let app = match started {
        Ok(app) => app,
        Err(error) => return failed(&error, exit::FAILURE),
    };
    let app::App { drain, desk_end, rest } = app;
    let ended = tokio::select! {
        ended = signals.end(drain, grace) => ended,
        _ = desk_end => {
            tracing::error!("the desk has ended: there is nothing to serve");
            return ExitCode::from(exit::FAILURE);
        }
    };
    drop(rest);
    match ended {
        Ended::Gently => tracing::info!("ended"),
        Ended::ByForce(left) => tracing::warn!(?left, "ended by force"),
    }
    ExitCode::from(exit::OK)
}

fn failed(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    // Not through the log: this is the answer to whoever started the process. If stderr is closed, the code remains.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("weft-control: {}\n", authority::Chain(error)),
    );
    ExitCode::from(code)
}
