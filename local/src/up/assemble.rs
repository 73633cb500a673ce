//! Inside the sandbox: the parts of a mesh, put together, and taken apart again.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use weft_control::manifests::{Manifests, Settings as ManifestSettings};
use weft_control::objects::{Object, Problem};
use weft_daemon::drain::{Drain, Tasks};
use weft_daemon::{exit, log};
use weft_injector::redirect::{Exempt, MARK};
use weft_injector::settings::InjectSettings;

use super::tell::counted;
use super::{Settings, imports, tell};
use crate::api::Server;
use crate::cluster::addresses::ServiceAddresses;
use crate::cluster::system::{
    ADMIN_SOCKET, BUNDLE_PORT, CONTROL, CONTROL_UID, FEDERATION_PORT, GATEWAY_PORT, KEY_SET, NAMESPACE, System,
};
use crate::cluster::{Cluster, Handle, NEWS, Parts, Request, Review, combined, is_fatal};
use crate::dns;
use crate::ids::Ids;
use crate::manifest::{self, Files, Reader};
use crate::net::wire::WireEnd;
use crate::net::{Net, NetSettings};
use crate::objects::Store;
use crate::runtime::{Backoff, Runtime, Settings as RuntimeSettings};
use crate::sandbox::{Inside, Mode, Outside};
use crate::source::Sources;
use crate::token::Tokens;
use crate::volumes;

/// Where proxies find the relay to the collector, at the node's own address.
const COLLECTOR_PORT: u16 = 4317;
/// The trust bundle's files, as the control plane writes them.
const TRUST: [&str; 3] = ["roots.pem", "trust-domain", "control-namespace"];
/// How often the bundle is looked at: before there is one, pods wait for it; afterwards it changes once in years.
const TRUST_FIRST: Duration = Duration::from_millis(20);
const TRUST_AGAIN: Duration = Duration::from_secs(1);
/// What pods are given to end, and tasks after them.
const END_PODS: Duration = Duration::from_secs(8);
const END_TASKS: Duration = Duration::from_secs(1);

/// The supervisor of a mesh: runs inside the sandbox until it is asked to stop.
pub fn supervise(inside: Inside) -> ExitCode {
    // The control plane reads what is written here as another user.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let settings: Option<Settings> = inside
        .arguments
        .first()
        .and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let Some(settings) = settings else {
        eprintln!("weft up: the supervisor was started without settings");
        return ExitCode::from(exit::FAILURE);
    };
    // Kept until the end, so that the last lines are written.
    let _log = log::start();
    // Several clusters write into one log. All that one does is on this thread, and what is entered here stands in its lines.
    let named = settings.among.as_ref();
    let _entered = named.map(|_| tracing::info_span!("cluster", name = settings.mesh).entered());
    // All on this thread: what pods run dies with the thread that started it.
    let ran = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime");
    let (kept, prefix) = (settings.state.volumes(), settings.prefix());
    let ran = ran.and_then(|runtime| runtime.block_on(serve(settings, inside)));
    // Here, and not outside: of a user namespace's other users the files are nobody else's to remove. Whoever still writes is
    // about to be killed, and what it leaves is named there.
    let _ = volumes::remove_all(&kept);
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{prefix}weft up: {error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

async fn serve(settings: Settings, inside: Inside) -> Result<ExitCode> {
    let began = Instant::now();
    let mode = inside.mode.clone();
    let outside = inside.listen().context("listening to the outside")?;
    let manifests = open_manifests(&settings.manifests)?;
    let mut review = review(&settings)?;
    let problems = check(&mut review, &manifests, settings.among.is_some());
    if problems.iter().any(is_fatal) {
        let prefix = settings.prefix();
        for problem in &problems {
            eprintln!("{prefix}{}: {problem}", problem.severity);
        }
        let errors = problems.iter().filter(|problem| is_fatal(problem)).count();
        eprintln!(
            "{prefix}weft up: {} in {}; nothing was started",
            counted(errors, "error"),
            settings.manifests
        );
        return Ok(ExitCode::from(exit::DATA));
    }
    println!("mesh {}: manifests from {}", settings.mesh, settings.manifests);
    // Of several clusters it is told once.
    if settings.among.is_none() {
        println!("its rights are from: {mode}");
    }

    let (drain, tasks) = Drain::new();
    let down = Arc::new(Notify::new());
    let (refusal, refused) = oneshot::channel();
    let (cluster, ended) = assemble(
        &settings,
        (&outside, &mode),
        (manifests, review),
        (began, refusal),
        &tasks,
        down.clone(),
    )
    .await?;
    let mut code = ExitCode::SUCCESS;
    tokio::select! {
        () = outside.stop_requested() => {}
        () = down.notified() => {}
        Ok(why) = refused => {
            eprintln!("{}weft up: {why}", settings.prefix());
            code = ExitCode::from(exit::USAGE);
        }
        _ = ended => anyhow::bail!("the cluster's task ended by itself"),
    }
    println!("ending mesh {}", settings.mesh);
    let (sender, gone) = oneshot::channel();
    let end = async {
        cluster.send(Request::End(sender)).await;
        gone.await
    };
    if tokio::time::timeout(END_PODS, end).await.is_err() {
        // The sandbox takes with it whatever does not end.
        tracing::warn!("pods did not end in time, and are killed");
    }
    drain.end(END_TASKS).await;
    Ok(code)
}

fn open_manifests(sources: &Sources) -> Result<Manifests> {
    Ok(Manifests::open(ManifestSettings {
        directories: sources.directories(&manifest::kinds()),
        state_dir: None,
    })?)
}

/// How the control plane will read the manifests.
///
/// # Errors
/// The mesh's trust domain is none.
fn review(settings: &Settings) -> Result<Review> {
    let trust_domain = weft_model::identity::TrustDomain::new(&settings.trust_domain).with_context(|| {
        format!(
            "the trust domain {:?}: take another --name or --trust-domain",
            settings.trust_domain
        )
    })?;
    Ok(Review::new(weft_control::index::Settings {
        trust_domain,
        cluster: settings.mesh.clone(),
        network: settings.mesh.clone(),
        cluster_domain: dns::DOMAIN.to_owned(),
        inside: Vec::new(),
        outside: Vec::new(),
    }))
}

/// Everything that is wrong with the manifests before the start: files, our kinds, and the control plane's.
fn check(review: &mut Review, manifests: &Manifests, among: bool) -> Vec<Problem> {
    let snapshot = manifests.snapshot();
    let (desired, found) = Reader::new(among).read(&snapshot.objects);
    let refused = review.problems(&snapshot.objects, desired.workloads());
    combined([snapshot.problems.to_vec(), found, refused].concat())
}

async fn assemble(
    settings: &Settings,
    (outside, mode): (&Outside, &Mode),
    (manifests, review): (Manifests, Review),
    (began, refusal): (Instant, oneshot::Sender<String>),
    tasks: &Tasks,
    down: Arc<Notify>,
) -> Result<(Handle, oneshot::Receiver<()>)> {
    let state = &settings.state;
    let (net, addresses) = network(settings).await?;
    let node: Vec<IpAddr> = [Some(net.gateway_v4().into()), net.gateway_v6().map(IpAddr::from)]
        .into_iter()
        .flatten()
        .collect();

    let (zone, zones) = watch::channel(Arc::default());
    let listen: Vec<IpAddr> = addresses.dns().into_iter().chain(node.iter().copied()).collect();
    dns::serve(&listen, zones, tasks).context("listening for DNS queries")?;
    let collector = relay(settings, outside, &node)?;

    let tokens = Arc::new(Tokens::open(&state.keys()).context("opening the key for tokens")?);
    let on_wire = net.on_wire();
    let system = system(settings, &addresses, node, &on_wire)?;
    control_directory(&system, &tokens.key_set())?;
    empty(&state.logs())?;
    let runtime = Runtime::new(runtime_settings(settings)).context("preparing the runtime")?;
    let (news, told) = mpsc::channel(NEWS);
    tasks
        .named("news")
        .spawn(tell::tell(settings.clone(), began, told, refusal));
    let parts = Parts {
        name: settings.mesh.clone(),
        runtime,
        net,
        store: Store::open(&state.objects(), &state.path().join("resource-version")).context("opening objects/")?,
        addresses,
        tokens,
        inject: inject(settings, collector),
        system: system.clone(),
        review,
        zone,
        news,
    };
    let (cluster, handle, requests) = Cluster::new(parts, tasks);
    let (ending, ended) = oneshot::channel();
    tasks.named("cluster").spawn(async move {
        cluster.run(requests).await;
        // Whoever waits may have gone.
        let _ = ending.send(());
    });
    feed(handle.clone(), manifests, system.control.clone(), tasks).await;
    if settings.among.is_some() {
        let socket = system.control.join(ADMIN_SOCKET);
        tasks.named("imports").spawn(imports::follow(socket, handle.clone()));
    }
    let server = Server {
        cluster: handle.clone(),
        about: about(settings, mode, &on_wire),
        control: system.control.join(ADMIN_SOCKET),
        system: Arc::new(system),
        down,
    };
    server
        .listen(&state.socket(), tasks)
        .with_context(|| format!("listening on {}", state.socket().display()))?;
    Ok((handle, ended))
}

/// The bridge, and the addresses of Services.
async fn network(settings: &Settings) -> Result<(Net, ServiceAddresses)> {
    let file = settings.state.path().join("addresses.json");
    let addresses = ServiceAddresses::open(settings.services_v4, Some(settings.services_v6), &file);
    let mut addresses = addresses.context("reading the addresses of services")?;
    let wanted = NetSettings {
        v4: settings.pods_v4,
        v6: Some(settings.pods_v6),
        node_addresses: addresses.dns(),
        wire: settings.among.as_ref().map(|among| WireEnd {
            number: among.number,
            flat: among.flat.clone(),
        }),
    };
    let net = Net::new(wanted).await.context("making the mesh's network")?;
    if net.gateway_v6().is_none() {
        let prefix = settings.prefix();
        eprintln!("{prefix}notice: IPv6 is switched off on this machine; the mesh has IPv4 only");
        addresses.without_v6();
    }
    Ok((net, addresses))
}

fn runtime_settings(settings: &Settings) -> RuntimeSettings {
    RuntimeSettings {
        logs: settings.state.logs(),
        volumes: settings.state.volumes(),
        masks: vec![settings.state.base().to_owned()],
        // On one machine a person waits for the next try.
        backoff: Backoff {
            first: Duration::from_secs(1),
            most: Duration::from_secs(10),
            reset: Duration::from_secs(60),
        },
    }
}

/// `on_wire`: the addresses by which other clusters reach this one's node.
fn about(settings: &Settings, mode: &Mode, on_wire: &[IpAddr]) -> serde_json::Value {
    let mut about = json!({
        "mesh": settings.mesh, "mode": mode.name(), "trustDomain": settings.trust_domain, "manifests": settings.manifests.to_string(), "sources": settings.manifests,
        "state": settings.state.path(),
        "podNetworks": [settings.pods_v4.to_string(), settings.pods_v6.to_string()],
        "serviceNetworks": [settings.services_v4.to_string(), settings.services_v6.to_string()],
    });
    if let Some(among) = &settings.among {
        let endpoints = on_wire
            .iter()
            .map(|ip| SocketAddr::new(*ip, FEDERATION_PORT).to_string());
        about["clusters"] = json!(among.names);
        about["network"] = json!(among.network);
        about["nodeAddresses"] = json!(on_wire);
        about["federationEndpoints"] = json!(endpoints.collect::<Vec<_>>());
    }
    about
}

/// The control plane's arguments besides its directories.
fn control_arguments(settings: &Settings, on_wire: &[IpAddr]) -> Vec<String> {
    let networks = [
        settings.pods_v4.to_string(),
        settings.pods_v6.to_string(),
        settings.services_v4.to_string(),
        settings.services_v6.to_string(),
    ];
    let mut flags = vec![
        format!("--trust-domain={}", settings.trust_domain),
        format!("--cluster={}", settings.mesh),
        format!("--control-namespace={NAMESPACE}"),
        format!("--networks={}", networks.join(",")),
    ];
    if let Some(among) = &settings.among {
        let at = |port: u16| {
            let all = on_wire.iter().map(|ip| SocketAddr::new(*ip, port).to_string());
            all.collect::<Vec<_>>().join(",")
        };
        flags.push(format!("--network={}", among.network));
        flags.push(format!("--federation-listen=[::]:{FEDERATION_PORT}"));
        flags.push(format!("--federation-endpoints={}", at(FEDERATION_PORT)));
        flags.push(format!("--bundle-listen=[::]:{BUNDLE_PORT}"));
        if let Some(first) = on_wire.first() {
            flags.push(format!(
                "--bundle-endpoint=https://{}",
                SocketAddr::new(*first, BUNDLE_PORT)
            ));
        }
        if among.flat.is_empty() {
            flags.push(format!("--gateways={}", at(GATEWAY_PORT)));
        }
    }
    flags.extend(settings.manifests.recursive.then(|| "--recursive".to_owned()));
    flags.extend(
        settings
            .leaf_lifetime
            .iter()
            .map(|lifetime| format!("--leaf-lifetime={lifetime}")),
    );
    flags
}

fn system(settings: &Settings, addresses: &ServiceAddresses, node: Vec<IpAddr>, on_wire: &[IpAddr]) -> Result<System> {
    // Without root it is the user's own process: it can read what the user can, and what it leaves the user can remove.
    let is_host = Ids::here().context("reading which users there are")?.are_all();
    Ok(System {
        user: if is_host { CONTROL_UID } else { 0 },
        manifests: settings.manifests.clone(),
        objects: settings.state.objects(),
        control: settings.state.control(),
        flags: control_arguments(settings, on_wire),
        federated: settings.among.is_some(),
        gateways: settings.among.as_ref().is_some_and(|among| among.flat.is_empty()),
        env: settings
            .env
            .iter()
            .filter(|(name, _)| name.starts_with("WEFT_LOG"))
            .cloned()
            .collect(),
        dns: addresses.dns(),
        node,
        pods: vec![settings.pods_v4.into(), settings.pods_v6.into()],
    })
}

fn inject(settings: &Settings, collector: Option<String>) -> InjectSettings {
    let mut proxy_env = settings.env.clone();
    proxy_env.extend(collector.map(|endpoint| ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)));
    InjectSettings {
        image: format!("weft:{}", env!("CARGO_PKG_VERSION")),
        command: vec!["weft".to_owned()],
        control_address: format!("{CONTROL}.{NAMESPACE}.svc.{}:15012", dns::DOMAIN),
        exempt: Exempt::Mark(MARK),
        proxy_env,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InjectSettings::default()
    }
}

/// Lets proxies reach the collector of traces. Returns the address that they use.
fn relay(settings: &Settings, outside: &Outside, node: &[IpAddr]) -> Result<Option<String>> {
    let (Some(_), Some(address)) = (settings.collector, node.first()) else {
        return Ok(None);
    };
    let listener = TcpListener::bind((*address, COLLECTOR_PORT)).context("listening for traces")?;
    outside.relay(listener).context("relaying traces")?;
    Ok(Some(format!("http://{address}:{COLLECTOR_PORT}")))
}

/// The control plane's directory, which is its own, with the keys that it checks tokens with.
fn control_directory(system: &System, keys: &str) -> Result<()> {
    let path = &system.control;
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .context("its directory")?;
    weft_daemon::file::replace(&path.join(KEY_SET), 0o644, keys.as_bytes()).context("writing the keys for tokens")?;
    chown(path, Some(system.user), Some(system.user)).context("giving the control plane its directory")?;
    // An earlier mesh's would be asked in vain.
    match fs::remove_file(path.join(ADMIN_SOCKET)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("removing an old socket"),
        _ => Ok(()),
    }
}

/// Empties a directory: the logs of pods that are gone.
fn empty(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("emptying {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Tells the cluster what the user's files and the control plane's trust bundle say, now and whenever they change.
async fn feed(cluster: Handle, mut manifests: Manifests, control: PathBuf, tasks: &Tasks) {
    let tell = |objects: Vec<Arc<Object>>, problems: Vec<Problem>| Request::Manifests(objects, problems);
    let first = manifests.snapshot();
    cluster.send(tell(first.objects, first.problems.to_vec())).await;
    let trusting = cluster.clone();
    tasks.named("manifests").spawn(async move {
        while manifests.changed().await.is_some() {
            let now = manifests.snapshot();
            if !cluster.send(tell(now.objects, now.problems.to_vec())).await {
                return;
            }
        }
    });
    tasks.named("trust").spawn(async move {
        let mut last = None;
        loop {
            let files = bundle(&control.join("trust"));
            if files.is_some() && files != last {
                last = files;
                let files = Arc::new(last.clone().unwrap_or_default());
                if !trusting.send(Request::Trust(files)).await {
                    return;
                }
            }
            tokio::time::sleep(if last.is_some() { TRUST_AGAIN } else { TRUST_FIRST }).await;
        }
    });
}

/// The trust bundle, once all of it is there.
fn bundle(directory: &Path) -> Option<Files> {
    let read = |name: &&str| Some(((*name).to_owned(), fs::read(directory.join(name)).ok()?));
    TRUST.iter().map(read).collect()
}
