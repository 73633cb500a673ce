//! App: joins the rooms into one process, from exec to exit.
//!
//! The main thread becomes the back thread: discovery, identity, admin, the export of traces, signals. Each worker is a
//! thread of its own, which opens its listeners as soon as it knows who we are, what we accept and what is inside the mesh;
//! until then the redirect leads to a closed port, and nothing leaves the pod.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::LocalSet;
use weft_daemon::admin::Listener;
use weft_daemon::ready::{Gate, Ready};
use weft_daemon::signal::Signals;
use weft_daemon::{exit, log, settings};

use crate::accept::bind;
use crate::config::Settings;
use crate::connect::Dialer;
use crate::discover::{self, View};
use crate::gateway::Gateway;
use crate::gateway::bounds::{Limits, Open};
use crate::gateway::follow::{Followed, Tables};
use crate::observe::access::{self, Access, AccessLog, Switch};
use crate::observe::export::Exporter;
use crate::observe::metrics::{Metrics, Registry};
use crate::observe::trace::{Sampler, Tracer, Tracing};
use crate::observe::verdicts::{Seen, Verdicts};
use crate::origin::Origin;
use crate::probe::{Hooks, Probes};
use crate::serve::{Listeners, Phase, serve};
use crate::worker::{Observe, Origins, Worker};
use crate::{admin, discover::Beliefs};

/// File descriptors that are not for connections: listeners, the control plane, files, and of admin what there is where nobody
/// floods it. Where somebody does, its servers and the workers wait out a lack of descriptors.
const RESERVED_FILES: u64 = 64;
/// What the last spans and threads may take once it is over.
const LAST: Duration = Duration::from_secs(3);

/// What the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What one worker thread is given.
struct Crew {
    settings: Arc<Settings>,
    view: View,
    registry: Arc<Registry>,
    tracing: Option<Tracing>,
    access: Access,
    verdicts: Verdicts,
    phase: watch::Receiver<Phase>,
    slots: usize,
    /// Of an east-west gateway: where connections may go.
    passes: Option<Followed>,
    /// Its connections, of all workers.
    open: Open,
    /// Says that it listens.
    listening: mpsc::Sender<()>,
}

/// What was typed, as what it means.
struct Meant {
    probes: Probes,
    hooks: Hooks,
    sampler: Sampler,
    collector: Option<String>,
}

/// `weft proxy`: reads the settings, serves until it is told to end. `args` begins with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::try_parse_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            let wrong = error.use_stderr();
            // Where stderr is gone, nobody reads.
            let _ = error.print();
            return ExitCode::from(if wrong { exit::USAGE } else { exit::OK });
        }
    };
    let log = match log::start() {
        Ok(log) => log,
        Err(error) => return usage(&[error.to_string()]),
    };
    let meant = match mean(&settings) {
        Ok(meant) => meant,
        Err(mistakes) => return usage(&mistakes),
    };
    let result = run(settings, meant);
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "the proxy ends");
    }
    drop(log);
    ExitCode::from(if result.is_ok() { exit::OK } else { exit::FAILURE })
}

fn usage(mistakes: &[String]) -> ExitCode {
    for mistake in mistakes {
        eprintln!("weft-proxy: {mistake}");
    }
    ExitCode::from(exit::USAGE)
}

/// Checks all that clap cannot, and reports every mistake at once.
fn mean(settings: &Settings) -> Result<Meant, Vec<String>> {
    let mut mistakes = Vec::new();
    let address = settings.pod_ips.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into());
    let dialer = Dialer::new(settings);
    let probes = Probes::new(&settings.probes.0, address, dialer).map_err(|error| error.to_string());
    let hooks = Hooks::new(&settings.hooks.0, address, dialer).map_err(|error| error.to_string());
    let sampler = Sampler::parse(&settings.traces_sampler, &settings.traces_sampler_arg);
    if settings.workers == 0 {
        mistakes.push("WEFT_WORKERS 0 must be at least 1".to_owned());
    }
    match (probes, hooks, sampler) {
        (Ok(probes), Ok(hooks), Ok(sampler)) if mistakes.is_empty() => Ok(Meant {
            probes,
            hooks,
            sampler,
            collector: traced(settings.otlp_endpoint.as_deref().unwrap_or_default()),
        }),
        (probes, hooks, sampler) => {
            let wrong = [probes.err(), hooks.err(), sampler.err()];
            mistakes.extend(wrong.into_iter().flatten());
            Err(mistakes)
        }
    }
}

/// Where traces go. No pod is worth less than its traces: a proxy that can't read it goes without them, and says so.
fn traced(endpoint: &str) -> Option<String> {
    let collector = Some(endpoint).filter(|endpoint| !endpoint.is_empty())?;
    match settings::collector(collector) {
        Ok(collector) => Some(collector),
        Err(error) => {
            tracing::warn!(%error, "OTEL_EXPORTER_OTLP_ENDPOINT can't be read, so there are no traces");
            None
        }
    }
}

fn run(settings: Settings, meant: Meant) -> anyhow::Result<()> {
    let slots = slots(&settings);
    tracing::info!(build = env!("CARGO_PKG_VERSION"), slots, ?settings, "weft proxy");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    LocalSet::new().block_on(&runtime, back(Arc::new(settings), meant, slots))
}

/// The back thread, and what joins it to the workers.
async fn back(settings: Arc<Settings>, meant: Meant, slots: usize) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("taking signals")?;
    let (registry, ready, shutdown) = (Registry::new(), Ready::new(), Arc::new(Notify::new()));
    let (back, beliefs, views) = discover::start(&settings, &registry, &ready);
    let gate = ready.gate("listeners");
    let public = admin::public(ready, registry.clone(), beliefs.clone(), meant.probes, meant.hooks);
    let public = public.serve(vec![wildcard(settings.admin_port).await?]);
    let told = shutdown.clone();
    let (switch, verdicts) = (Switch::new(settings.access_log), Verdicts::default());
    let local = admin::local(beliefs.clone(), verdicts.clone(), switch.clone(), move || {
        told.notify_one()
    });
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.local_admin_port));
    let local = local.serve(vec![listener(here).await?]);

    let (access, entries) = Access::new(switch);
    let written = access::write::start(entries, io::stdout()).context("starting the access log")?;
    let (over, exporter_ends) = oneshot::channel();
    let exporter = meant
        .collector
        .map(|collector| exporter(collector, meant.sampler, &settings, &beliefs, &registry));
    let (tracing, exporter) = exporter.unzip();
    let exporter = exporter.map(|exporter| tokio::task::spawn_local(exporter.run(ended(exporter_ends))));
    let (phase, phases) = watch::channel(Phase::Running);
    let (listening, mut heard) = mpsc::channel(settings.workers);
    let (tables, passes) = settings.gateway.then(|| Tables::new(&beliefs.state())).unzip();
    let (open, tables) = (Open::default(), follow(tables, beliefs.clone()));
    let crews = views.into_iter().map(|view| Crew {
        settings: settings.clone(),
        view,
        registry: registry.clone(),
        tracing: tracing.clone(),
        access: access.clone(),
        verdicts: verdicts.clone(),
        phase: phases.clone(),
        slots,
        passes: passes.clone(),
        open: open.clone(),
        listening: listening.clone(),
    });
    let threads = crews.enumerate().map(|(number, crew)| spawn(number, crew));
    let mut threads = Threads(threads.collect::<io::Result<_>>().context("starting a worker")?);
    drop((listening, access));

    let life = live(
        &settings,
        &mut signals,
        &shutdown,
        &mut threads,
        &gate,
        open_when_listening(&gate, &mut heard, settings.workers),
        &phase,
    );
    let result = tokio::select! {
        result = life => result,
        () = back.run() => Err(anyhow::anyhow!("discovery has ended")),
        never = public => match never {},
        never = local => match never {},
        never = tables => match never {},
    };
    // An error says that there is no exporter.
    let _ = over.send(());
    if let Some(exporter) = exporter {
        let _ = tokio::time::timeout(LAST, exporter).await;
    }
    written.wait(LAST_LINES);
    result
}

/// Makes a gateway's tables, for ever.
async fn follow(tables: Option<Tables>, beliefs: Beliefs) -> Infallible {
    match tables {
        Some(tables) => tables.run(beliefs).await,
        None => pending().await,
    }
}

/// The life of the process: until it is told to end, and then until nothing is left or the grace period is over.
async fn live(
    settings: &Settings,
    signals: &mut Signals,
    shutdown: &Notify,
    threads: &mut Threads,
    gate: &Gate,
    ready: impl Future<Output = ()>,
    phase: &watch::Sender<Phase>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = signals.next() => {}
        () = shutdown.notified() => {}
        failed = threads.any_failed() => return Err(failed),
        () = ready => {}
    }
    tracing::info!(grace = ?settings.drain, "draining");
    if settings.gateway {
        // Whoever leads connections here may go by that alone; a pod's own callers are told by their control plane.
        gate.close();
    }
    phase.send_replace(Phase::Draining);
    tokio::select! {
        () = threads.all_done() => tracing::info!("everything has ended"),
        () = tokio::time::sleep(settings.drain) => tracing::info!("the grace period is over"),
        () = signals.next() => tracing::info!("told again: ending at once"),
    }
    phase.send_replace(Phase::Ended);
    Ok(())
}

/// Opens the gate once every worker listens. Never returns: being ready ends nothing.
async fn open_when_listening(gate: &Gate, heard: &mut mpsc::Receiver<()>, workers: usize) {
    for _ in 0..workers {
        if heard.recv().await.is_none() {
            return pending().await;
        }
    }
    gate.open();
    tracing::info!("listening");
    pending().await
}

async fn ended(over: oneshot::Receiver<()>) {
    // An error says that nobody can tell any more.
    let _ = over.await;
}

fn exporter(
    collector: String,
    sampler: Sampler,
    settings: &Settings,
    beliefs: &Beliefs,
    registry: &Arc<Registry>,
) -> (Tracing, Exporter) {
    let (tracing, spans) = Tracing::new(sampler);
    let exporter = Exporter::new(collector, settings, beliefs.clone(), spans, &registry.writer());
    (tracing, exporter)
}

/// The workers' threads: each tells how it ended.
struct Threads(Vec<oneshot::Receiver<io::Result<()>>>);

impl Threads {
    /// Waits until one ends although nobody told it to.
    async fn any_failed(&mut self) -> anyhow::Error {
        let (ended, _, _) = futures_util::future::select_all(&mut self.0).await;
        match ended {
            Ok(Err(error)) => anyhow::Error::new(error).context("a worker cannot serve"),
            Ok(Ok(())) | Err(_) => anyhow::anyhow!("a worker has ended"),
        }
    }

    /// Waits until all have ended.
    async fn all_done(&mut self) {
        futures_util::future::join_all(&mut self.0).await;
    }
}

fn spawn(number: usize, crew: Crew) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (done, ended) = oneshot::channel();
    let thread = thread::Builder::new().name(format!("weft-worker-{number}"));
    thread.spawn(move || {
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| {
                let local = LocalSet::new();
                local.block_on(&runtime, work(crew))
            });
        // Whoever asked may be gone: then the process ends anyway.
        let _ = done.send(result);
    })?;
    Ok(ended)
}

/// One worker's life.
async fn work(crew: Crew) -> io::Result<()> {
    let Crew {
        settings,
        view,
        registry,
        tracing,
        access,
        verdicts,
        mut phase,
        slots,
        passes,
        open,
        listening,
    } = crew;
    tokio::select! {
        () = complete(&view) => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return Ok(()),
    }
    let observe = Observe {
        metrics: Rc::new(Metrics::new(&registry)),
        tracer: Tracer::new(tracing.as_ref(), &registry.writer()),
        access: AccessLog::new(&access, &registry.writer()),
        seen: Seen::new(verdicts),
    };
    drop(access);
    if let Some(passes) = passes {
        let listeners = vec![dual(settings.gateway_port)?];
        // An error says that nobody waits any more.
        let _ = listening.send(()).await;
        let limits = Limits::new(&settings, slots);
        let gateway = Gateway::new(passes.table, Dialer::of_gateway(&settings), limits, open, &registry);
        pass_on(gateway, &view, passes.generation, listeners, phase).await;
        return Ok(());
    }
    let origins = Origins {
        inbound: Origin::Socket,
        outbound: Origin::Socket,
    };
    let listeners = Listeners {
        inbound: inbound(&settings)?,
        outbound: outbound(&settings)?,
        slots,
    };
    let worker = Worker::new(settings, view, observe, origins);
    // An error says that nobody waits any more.
    let _ = listening.send(()).await;
    serve(worker, listeners, phase).await;
    Ok(())
}

/// Waits until it is known who we are, what we accept and what is inside. Nothing is decided meanwhile, so every state that
/// comes is applied as it is.
async fn complete(view: &View) {
    let mut state = view.state();
    loop {
        view.applied(state.generation);
        if state.is_complete() {
            return;
        }
        state = view.newer(state.generation).await;
    }
}

/// A gateway's part of a worker: what may be passed on follows what the control plane says. `generation`: of what is believed,
/// which one its table is of.
async fn pass_on(
    gateway: Rc<Gateway>,
    view: &View,
    mut generation: watch::Receiver<u64>,
    listeners: Vec<TcpListener>,
    phase: watch::Receiver<Phase>,
) {
    // What is said to be decided by here is in the table.
    let known = view.state().generation;
    let _ = generation.wait_for(|generation| *generation >= known).await;
    let follow = async {
        loop {
            // Each connection looks into the table that is there: the newest.
            view.applied(*generation.borrow_and_update());
            if generation.changed().await.is_err() {
                return pending().await;
            }
        }
    };
    tokio::select! {
        () = gateway.serve(listeners, phase) => {}
        () = follow => {}
    }
}

fn inbound(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    Ok(vec![dual(settings.inbound_port)?])
}

/// Listens on both families, or on v4 where there is no other.
fn dual(port: u16) -> io::Result<TcpListener> {
    let dual = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    dual.or_else(|error| match no_v6(&error) {
        true => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        false => Err(error),
    })
}

fn outbound(settings: &Settings) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![bind(SocketAddr::from((Ipv4Addr::LOCALHOST, settings.outbound_port)))?];
    match bind(SocketAddr::from((Ipv6Addr::LOCALHOST, settings.outbound_port))) {
        Ok(v6) => listeners.push(v6),
        Err(error) if no_v6(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

/// Whether IPv6 is off here: then there is only v4 to serve.
fn no_v6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL)
    )
}

async fn wildcard(port: u16) -> anyhow::Result<Listener> {
    match Listener::tcp(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(error) if no_v6(&error) => listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await,
        Err(error) => Err(error).with_context(|| format!("listening on port {port}")),
    }
}

async fn listener(address: SocketAddr) -> anyhow::Result<Listener> {
    Listener::tcp(address)
        .await
        .with_context(|| format!("listening on {address}"))
}

/// How many connections one worker holds per direction: each takes two files. The limit on files is raised as far as it may.
fn slots(settings: &Settings) -> usize {
    if settings.connections > 0 {
        return settings.connections;
    }
    let files = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Err(_) => 1024,
    };
    let files = files.min(1 << 20);
    let each = (files / 2).saturating_sub(RESERVED_FILES) / settings.workers as u64;
    usize::try_from(each.max(16)).unwrap_or(16)
}
