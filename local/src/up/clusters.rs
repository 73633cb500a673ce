//! Several clusters beside each other: one sandbox around all, in which the middle of the wire between them lies, and in it
//! a sandbox for each, as it would be if it were alone.
//!
//! In: the clusters' [`Settings`]. Out: they run until one of them ends, by an order, by itself or because it can't start:
//! then all of them do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::IpNet;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use weft_daemon::{exit, log};

use super::{Among, SUPERVISOR as MESH, Settings, links, room};
use crate::net::router::Router;
use crate::sandbox::{Inside, Mode, Outside, Sandbox};

/// The name by which [`crate::stage::main`] knows [`supervise`].
pub const SUPERVISOR: &str = "clusters";
/// So many fit on the wire, and on one machine.
pub const MOST: usize = 8;

/// What the supervisor of several clusters works with.
struct Middle {
    router: Router,
    outside: Outside,
    /// Where the collector of traces is reached from here.
    collector: Option<SocketAddr>,
}

/// The supervisor of several clusters: runs inside the sandbox around all of them until the first one ends.
pub fn supervise(inside: Inside) -> ExitCode {
    let arguments = inside.arguments.iter();
    let all: Option<Vec<Settings>> = arguments
        .map(|text| serde_json::from_str(text.to_str()?).ok())
        .collect();
    let Some(all) = all else {
        eprintln!("weft up: the supervisor was started without settings");
        return ExitCode::from(exit::FAILURE);
    };
    // Kept until the end, so that the last lines are written.
    let _log = log::start();
    match serve(&all, inside) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft up: {error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn serve(all: &[Settings], inside: Inside) -> Result<u8> {
    // All on this thread: the clusters die with the one that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mode = inside.mode.clone();
    println!("the clusters' rights are from: {mode}");
    let middle = runtime.block_on(middle(all, inside))?;
    let rooms = all.iter().map(|settings| enter(settings, &middle, &mode, &runtime));
    let rooms: Vec<Sandbox> = rooms.collect::<Result<_>>()?;
    runtime.block_on(attend(all, middle, rooms))
}

async fn middle(all: &[Settings], inside: Inside) -> Result<Middle> {
    let outside = inside.listen().context("listening to the outside")?;
    let router = Router::new().await.context("making the wire between the clusters")?;
    let mut collector = None;
    if all.iter().any(|settings| settings.collector.is_some()) {
        // The clusters' own listeners are joined to this one, and it to the collector.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for traces")?;
        collector = Some(listener.local_addr().context("listening for traces")?);
        outside.relay(listener).context("relaying traces")?;
    }
    Ok(Middle {
        router,
        outside,
        collector,
    })
}

/// Makes the sandbox of one cluster, with its end of the wire, and starts it.
fn enter(settings: &Settings, middle: &Middle, mode: &Mode, runtime: &Runtime) -> Result<Sandbox> {
    let context = || format!("cluster {}", settings.mesh);
    let among = settings.among.as_ref().context("it has no place among others");
    let among: &Among = among.with_context(context)?;
    let one = std::slice::from_ref(settings);
    let room = room(one, MESH, middle.collector, Some(mode.clone())).with_context(context)?;
    let flat = reached(settings);
    Sandbox::enter_wired(&room, |namespace| {
        runtime.block_on(middle.router.plug(among.number, &namespace, &flat))
    })
    .with_context(context)
}

/// The networks of a cluster's pods, as far as others reach them as they are.
fn reached(settings: &Settings) -> Vec<IpNet> {
    match &settings.among {
        Some(among) if !among.flat.is_empty() => vec![settings.pods_v4.into(), settings.pods_v6.into()],
        _ => Vec::new(),
    }
}

/// Serves all clusters until every one has ended, which one's end asks of the others. Returns the exit code of the first
/// one that failed.
async fn attend(all: &[Settings], middle: Middle, rooms: Vec<Sandbox>) -> Result<u8> {
    let _links = links::listen(all, middle.router).context("listening for orders about links")?;
    let stops: Vec<Arc<Notify>> = rooms.iter().map(|_| Arc::default()).collect();
    let mut running = JoinSet::new();
    for (mut room, stop) in rooms.into_iter().zip(stops.iter().cloned()) {
        running.spawn(async move {
            room.serve(&stop).await?;
            room.code()
        });
    }
    let (mut code, mut stopping) = (exit::OK, false);
    loop {
        tokio::select! {
            () = middle.outside.stop_requested(), if !stopping => {}
            ended = running.join_next() => match ended {
                None => return Ok(code),
                Some(ended) => {
                    let ended = ended.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
                        tracing::error!("serving a cluster: {error:#}");
                        exit::FAILURE
                    });
                    code = if code == exit::OK { ended } else { code };
                }
            }
        }
        if !std::mem::replace(&mut stopping, true) {
            for stop in &stops {
                stop.notify_one();
            }
        }
    }
}
