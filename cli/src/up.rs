//! `weft up`.

pub(crate) mod clusters;

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_daemon::settings::Variable;
use weft_daemon::{exit, log};
use weft_local::client::Client;
use weft_local::source::{Source, Sources};
use weft_local::state::StateDir;
use weft_local::up::{self, Settings};

use self::clusters::{Networks, Places};
use crate::args::UpArgs;
use crate::demo::tied;

/// How long `--detach` waits for the mesh to be ready.
const READY_PATIENCE: Duration = Duration::from_secs(120);
/// The most that standard input may say: as much as a file of manifests.
const STDIN_MAX: u64 = 8 << 20;
const POLL: Duration = Duration::from_millis(100);
/// The addresses of pods, of both families.
pub(crate) const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/64"];
/// The addresses of Services.
pub(crate) const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// What of Weft's own variables goes on to the mesh's processes, beside OpenTelemetry's.
const PASSED_ON: [&str; 3] = [log::FILTER.name, log::FORMAT.name, "WEFT_ACCESS_LOG"];
/// Where the collector of traces is, as this machine sees it: the first that is set counts.
pub(crate) const COLLECTOR: [Variable; 2] = [
    Variable {
        name: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        value: "`http://HOST:PORT`",
        default: "OTEL_EXPORTER_OTLP_ENDPOINT",
        by: "`weft up`",
        meaning: "Where traces of the mesh go: a collector that this machine reaches, OTLP over gRPC without TLS.",
    },
    Variable {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT",
        value: "`http://HOST:PORT`",
        default: "no traces",
        by: "`weft up`",
        meaning: "The same. Pods reach it through a relay on their node's address, which proxies get as theirs.",
    },
];
/// Tells a process that it is the one that was left in the background.
const DETACHED: &str = "WEFT_DETACHED";

/// Runs a mesh until it ends, or several clusters. No thread exists yet.
pub(crate) fn main(args: UpArgs) -> ExitCode {
    let detach = args.detach && std::env::var_os(DETACHED).is_none();
    match settings(&args) {
        Ok(all) if detach => match in_the_background(&all) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("weft up: {error:#}");
                ExitCode::from(exit::FAILURE)
            }
        },
        Ok(all) => in_the_foreground(&all),
        Err(error) => {
            eprintln!("weft up: {error:#}");
            ExitCode::from(exit::USAGE)
        }
    }
}

fn in_the_foreground(all: &[Settings]) -> ExitCode {
    let tie = match tied::to_parent(|variable| std::env::var_os(variable)) {
        Ok(tie) => tie,
        Err(error) => {
            eprintln!("weft up: tying the mesh to its demo: {error}");
            return ExitCode::from(exit::FAILURE);
        }
    };
    let code = up::run(all);
    if let Some(tie) = tie {
        tie.clean_up();
    }
    code
}

/// The settings of the one mesh, or of each of several clusters.
fn settings(args: &UpArgs) -> Result<Vec<Settings>> {
    match &args.places {
        Places::One(paths) => {
            let name = &args.mesh.name;
            let trust_domain = args.trust_domain.clone();
            let settings = mesh(args, name, paths, networks(args)?)?;
            Ok(vec![Settings {
                trust_domain: trust_domain.unwrap_or(settings.trust_domain),
                ..settings
            }])
        }
        Places::Several(clusters) => {
            let names: Vec<String> = clusters.iter().map(|(name, _)| name.clone()).collect();
            let among = clusters::among(&names, args.flat, args.overlapping_networks);
            let each = clusters.iter().zip(among);
            let each = each.map(|((name, paths), (among, networks))| -> Result<Settings> {
                Ok(Settings {
                    among: Some(among),
                    ..mesh(args, name, paths, networks)?
                })
            });
            each.collect()
        }
    }
}

/// The networks of a mesh that is alone.
fn networks(args: &UpArgs) -> Result<Networks> {
    let (pods_v4, pods_v6) = ranges(&args.pod_cidr, PODS, "--pod-cidr")?;
    let (services_v4, services_v6) = ranges(&args.service_cidr, SERVICES, "--service-cidr")?;
    let overlap4 = pods_v4.contains(&services_v4) || services_v4.contains(&pods_v4);
    let overlap6 = pods_v6.contains(&services_v6) || services_v6.contains(&pods_v6);
    ensure!(!overlap4 && !overlap6, "--pod-cidr and --service-cidr overlap");
    // A range that is too small would only be noticed pod by pod.
    ensure!(
        services_v4.prefix_len() <= 27,
        "--service-cidr {services_v4} is too small: take at most /27"
    );
    ensure!(
        services_v6.prefix_len() <= 123,
        "--service-cidr {services_v6} is too small: take at most /123"
    );
    Ok(Networks {
        pods: (pods_v4, pods_v6),
        services: (services_v4, services_v6),
    })
}

fn mesh(args: &UpArgs, name: &str, paths: &[PathBuf], networks: Networks) -> Result<Settings> {
    let state = StateDir::of(name, |variable| std::env::var_os(variable));
    Ok(Settings {
        manifests: sources(paths, args.recursive, &state.stdin())?,
        stdin: standard_input(paths)?,
        state,
        trust_domain: format!("{name}.weft.internal"),
        mesh: name.to_owned(),
        pods_v4: networks.pods.0,
        pods_v6: networks.pods.1,
        services_v4: networks.services.0,
        services_v6: networks.services.1,
        leaf_lifetime: args.leaf_lifetime.clone(),
        collector: collector()?,
        env: environment(),
        detached: args.detach,
        aliases: shop::PROGRAMS
            .iter()
            .chain(&["weft-proxy", "weft-control"])
            .map(|name| (*name).to_owned())
            .collect(),
        among: None,
    })
}

/// The places of manifests, by their full paths. `stdin`: the directory that standard input is kept in.
pub(crate) fn sources(given: &[PathBuf], recursive: bool, stdin: &Path) -> Result<Sources> {
    let places = given.iter().map(|path| place(path, stdin)).collect::<Result<_>>()?;
    Ok(Sources::new(places, recursive))
}

fn place(given: &Path, stdin: &Path) -> Result<Source> {
    if given == Path::new("-") {
        return Ok(Source::stdin(stdin));
    }
    let shown = given.display();
    let path = std::path::absolute(given).with_context(|| format!("-f {shown}"))?;
    let kind = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!("-f {shown}: there is no such file or directory"),
        _ => anyhow!(error).context(format!("-f {shown}")),
    })?;
    if kind.is_dir() {
        return Ok(Source::directory(
            path.canonicalize().with_context(|| format!("-f {shown}"))?,
        ));
    }
    ensure!(
        kind.is_file(),
        "-f {shown} is neither a file nor a directory: what comes from a pipe is given as -f -"
    );
    // The name stays as it was given, for it may be a link that is turned elsewhere.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        bail!("-f {shown}: a file's name must be UTF-8");
    };
    Ok(Source::file(
        parent.canonicalize().with_context(|| format!("-f {shown}"))?,
        name,
    ))
}

/// What standard input says, if `-f -` was given.
pub(crate) fn standard_input(given: &[PathBuf]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    if given.iter().any(|path| path == Path::new("-")) {
        io::stdin()
            .lock()
            .take(STDIN_MAX + 1)
            .read_to_end(&mut text)
            .context("-f -: reading standard input")?;
        ensure!(
            text.len() as u64 <= STDIN_MAX,
            "-f -: more than {} MiB: give it as files",
            STDIN_MAX >> 20
        );
    }
    Ok(text)
}

/// One range of each family, from what was given and what was not.
fn ranges(given: &[IpNet], [v4, v6]: [&str; 2], flag: &str) -> Result<(Ipv4Net, Ipv6Net)> {
    let (mut fours, mut sixes) = (vec![], vec![]);
    for net in given {
        ensure!(
            net.trunc() == *net,
            "{flag} {net}: bits behind the prefix are set; take {}",
            net.trunc()
        );
        match net {
            IpNet::V4(net) => fours.push(*net),
            IpNet::V6(net) => sixes.push(*net),
        }
    }
    ensure!(
        fours.len() <= 1 && sixes.len() <= 1,
        "{flag}: give at most one range of each family"
    );
    let v4 = v4.parse().context("the default range")?;
    let v6 = v6.parse().context("the default range")?;
    Ok((fours.pop().unwrap_or(v4), sixes.pop().unwrap_or(v6)))
}

/// The collector that this environment names.
fn collector() -> Result<Option<SocketAddr>> {
    let set = COLLECTOR.iter().find_map(|variable| {
        Some((
            variable.name,
            std::env::var(variable.name).ok().filter(|value| !value.is_empty())?,
        ))
    });
    let Some((name, endpoint)) = set else { return Ok(None) };
    let wrong = || format!("{name}={endpoint}: take the form http://HOST:4317 (OTLP over gRPC, without TLS)");
    let Some(rest) = endpoint.strip_prefix("http://") else {
        bail!(wrong())
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:4317")
    };
    let mut addresses = authority.to_socket_addrs().with_context(wrong)?;
    // A name of this machine may have both families, and collectors listen on IPv4 by default.
    let all: Vec<SocketAddr> = addresses.by_ref().collect();
    Ok(all.iter().find(|address| address.is_ipv4()).or(all.first()).copied())
}

/// What of this environment is for proxies and the control plane too. Where traces go is decided by the relay.
fn environment() -> Vec<(String, String)> {
    let ours = |name: &str| PASSED_ON.contains(&name);
    let telemetry =
        |name: &str| name.starts_with("OTEL_") && !name.ends_with("_ENDPOINT") && name != "OTEL_SERVICE_NAME";
    // What is no UTF-8 is nothing that these read.
    let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os()
        .filter_map(utf8)
        .filter(|(name, _)| ours(name) || telemetry(name))
        .collect()
}

/// Starts the same command again in the background, and waits until its meshes are ready.
fn in_the_background(all: &[Settings]) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = all
        .iter()
        .map(|settings| Client::new(&settings.mesh, settings.state.clone()));
    let clients: Vec<Client> = clients.collect();
    for (settings, client) in all.iter().zip(&clients) {
        // Else it would be taken for the one that is started.
        ensure!(runtime.block_on(client.status()).is_err(), up::already(&settings.mesh));
        settings.state.make()?;
    }
    let first = all.first().context("there is nothing to start")?;
    let path = first.state.path().join("up.log");
    let log = std::fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("starting the mesh")?;
    if let Some(mut stdin) = child.stdin.take() {
        // At most one of them reads it. One that has ended already says why below.
        let _ = all.iter().try_for_each(|settings| stdin.write_all(&settings.stdin));
    }
    let is_ready = |client: &Client| {
        runtime
            .block_on(client.status())
            .is_ok_and(|status| status["ready"] == true)
    };
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            eprint!("{}", said(&path));
            return Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)));
        }
        if clients.iter().all(is_ready) {
            print!("{}", said(&path));
            println!("{}", run_on(all, &first.mesh));
            return Ok(ExitCode::SUCCESS);
        }
        if began.elapsed() > READY_PATIENCE {
            eprint!("{}", said(&path));
            eprintln!(
                "weft up: not ready after {READY_PATIENCE:?}; it goes on in the background: see `weft status --name {}`",
                first.mesh
            );
            return Ok(ExitCode::from(exit::TIMEOUT));
        }
        std::thread::sleep(POLL);
    }
}

/// Who runs on, and how that is ended.
fn run_on(all: &[Settings], first: &str) -> String {
    let names: Vec<&str> = all.iter().map(|settings| settings.mesh.as_str()).collect();
    match names[..] {
        [one] => format!("mesh {one} runs in the background; end it with `weft down --name {one}`"),
        _ => format!(
            "the meshes {} run in the background; end them with `weft down --name {first}`",
            names.join(", ")
        ),
    }
}

fn said(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_files_and_standard_input_are_places_and_what_is_not_there_is_named() {
        let state = StateDir::of("m", |_| Some("/state".into()));
        let of = |path: &str| place(Path::new(path), &state.stdin());
        let said = |path: &str| of(path).unwrap_err().to_string();
        assert_eq!(
            said("/nowhere/at/all"),
            "-f /nowhere/at/all: there is no such file or directory"
        );
        assert!(said("/dev/null").contains("neither a file nor a directory"));
        assert_eq!(of("/etc").unwrap(), Source::directory("/etc"));
        assert_eq!(of("/etc/passwd").unwrap(), Source::file("/etc", "passwd"));
        assert_eq!(of("-").unwrap(), Source::stdin(state.stdin()));
    }

    #[test]
    fn one_range_of_each_family_is_given_or_taken() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let (v4, v6) = ranges(&[net("100.64.0.0/16")], ["10.244.0.0/16", "fd00::/64"], "--pod-cidr").unwrap();
        assert_eq!(
            (v4.to_string(), v6.to_string()),
            ("100.64.0.0/16".into(), "fd00::/64".into())
        );
        let twice = [net("10.0.0.0/8"), net("10.0.0.0/8")];
        assert!(ranges(&twice, ["10.244.0.0/16", "fd00::/64"], "--pod-cidr").is_err());
        let said = ranges(&[net("10.0.0.1/8")], ["10.244.0.0/16", "fd00::/64"], "--pod-cidr")
            .unwrap_err()
            .to_string();
        assert!(said.contains("10.0.0.0/8"), "{said}");
    }
}
