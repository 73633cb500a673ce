//! `weft cluster`: links to other clusters, from either side.
//!
//! | file | what happens there |
//! |---|---|
//! | `export` | the ClusterPeer by which another cluster knows this one (pure) |
//! | `links` | how the links are, in tables (pure) |
//! | `findings`, `faults` | what is wrong with them, and what to do (pure) |
//! | `document` | a ClusterPeer before it is applied: read, judged beside this cluster (pure) |
//! | `look` | who answers at its endpoints, and whether anybody does at its gateways |
//!
//! What is known of a link is what this cluster's control plane says: of its own link to the peer, and of the peer's to it.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::sleep;
use weft_control::objects::host_port::HostPort;
use weft_control::objects::peer::Peer;
use weft_daemon::exit;

use crate::check::Format;
use crate::check::finding::{self, Report, note};
use crate::mesh::Mesh;
use crate::status::text::{list, width, word};
use crate::target::{self, TargetArgs};
use crate::{args, http, paper, yaml};

mod document;
mod export;
mod faults;
mod findings;
mod links;
mod look;

/// What is read of one document.
const DOCUMENT_MAX: u64 = 1 << 20;
/// How long it is waited for what may pass by itself: a broken link is tried anew within two seconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same of a link that is younger than this: an attempt that was made while the other side took its document may hang for five.
const YOUNG: Duration = Duration::from_secs(8);
/// How often it is looked at meanwhile.
const AGAIN: Duration = Duration::from_millis(250);

/// Link this cluster with others: who it is, how its links are, what is wrong with them.
///
/// Two clusters are linked by two ClusterPeers, one in each. docs/federation.md has the fields.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft cluster export-peer --context east | kubectl --context west apply -f -
  weft cluster status
  weft cluster check
  weft cluster check -f west.yaml")]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    verb: ClusterVerb,
}

#[derive(Debug, Subcommand)]
enum ClusterVerb {
    ExportPeer(ExportArgs),
    Status(LinksArgs),
    Check(CheckArgs),
}

/// Whose links.
#[derive(Clone, Debug, Default, Args)]
struct WhoseArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// A control plane that runs by itself, by its admin socket (WEFT_ADMIN_SOCKET).
    #[arg(long, value_name = "PATH", conflicts_with_all = ["name", "context", "kubeconfig"])]
    socket: Option<PathBuf>,
}

/// Who is asked.
enum Whom {
    /// A control plane that runs by itself.
    Socket(PathBuf),
    /// That of a mesh.
    Mesh(Mesh),
}

impl Whom {
    /// Whether it is a mesh of `weft up`.
    fn is_of_this_machine(&self) -> bool {
        matches!(self, Self::Mesh(Mesh::Local(_)))
    }
}

/// Print the ClusterPeer by which another cluster knows this one.
///
/// It holds nothing secret: name, trust domain, the roots' certificates, and where this cluster is reached. What is taken from
/// this cluster (imports), and what it is told (exports), is for the other side to decide.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft cluster export-peer --context east | kubectl --context west apply -f -
  weft cluster export-peer --name east > west/peer-east.yaml
  weft cluster export-peer --endpoint weft.east.example:15013 --imports shop

Exit codes: 0 it was printed, 1 this cluster can't be asked, or has nothing by which others reach it, 64 wrong usage.")]
struct ExportArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// Where others reach this cluster's control plane. Can be given several times. [default: its WEFT_FEDERATION_ENDPOINTS, else where
    /// its Service weft-federation is reached]
    #[arg(long = "endpoint", value_name = "HOST:PORT", value_parser = endpoint)]
    endpoints: Vec<String>,
    /// An east-west gateway of this cluster, as others reach it. Can be given several times. [default: its WEFT_GATEWAYS, else where its
    /// Service weft-gateway is reached]
    #[arg(long = "gateway", value_name = "HOST:PORT", value_parser = endpoint)]
    gateways: Vec<String>,
    /// A namespace of which the other side takes what this cluster exports; * for all. Can be given several times. [default:
    /// none, and nothing is taken]
    #[arg(long, value_name = "NAMESPACE", value_parser = namespace)]
    imports: Vec<String>,
    /// As YAML, or as JSON.
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Written,
}

/// Show the links to other clusters, what is imported and exported, and how fresh it is.
///
/// HEARD says how long ago the peer was last heard of: what is imported is that old. While a link is connected that is now.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft cluster status
  weft cluster status --context staging
  weft cluster status -o json | jq '.peers[] | {cluster, state: .link.state, reason: .link.reason}'")]
struct LinksArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// As text for people, or as JSON or YAML for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Shown,
}

/// Find what is wrong with the links to other clusters, from both sides as far as this one knows.
///
/// Of each peer: this cluster's link to it and its link to this one, clocks, versions, networks, and what is imported. With -f,
/// a ClusterPeer before it is applied: its fields, whether it fits this cluster, and who answers at its endpoints and gateways.
/// What may pass by itself, as right after linking, is waited for a few seconds before it is told.
///
/// A line begins with ✓ where all is well, with ✗ where something is wrong, and with ! where something is worth knowing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft cluster check
  weft cluster check --context west -f east.yaml
  weft cluster export-peer --context east | weft cluster check --context west -f -
  weft cluster check -o json | jq '.findings[] | {where, what, fix}'

Exit codes: 0 nothing is wrong, 1 this cluster can't be asked (with -f that is told, and the document is checked by itself), 64 wrong
usage, 79 something is wrong.")]
struct CheckArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// Check the ClusterPeers of a file, or of standard input (-), instead of those that are there.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    file: Option<PathBuf>,
    /// As text for people, or as JSON for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Written {
    Yaml,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shown {
    Text,
    Json,
    Yaml,
}

fn endpoint(text: &str) -> Result<String, String> {
    let read: Result<HostPort, _> = text.parse();
    read.map(|read| read.to_string()).map_err(|error| error.to_string())
}

fn namespace(text: &str) -> Result<String, String> {
    match text {
        "*" => Ok(text.to_owned()),
        name => args::namespace(name).map_err(|error| format!("{error}, or is *")),
    }
}

/// Does what was asked.
pub(crate) async fn main(args: ClusterArgs) -> Result<ExitCode> {
    match args.verb {
        ClusterVerb::ExportPeer(args) => export_peer(args).await,
        ClusterVerb::Status(args) => show(args).await,
        ClusterVerb::Check(args) => check(args).await,
    }
}

async fn export_peer(args: ExportArgs) -> Result<ExitCode> {
    let mut status = ask(&args.whose).await?;
    if !args.gateways.is_empty() {
        status["federation"]["gateways"] = json!(args.gateways);
    }
    let peer = export::peer(&status, &args.endpoints, &args.imports).map_err(anyhow::Error::msg)?;
    match args.output {
        Written::Yaml => paper::print(&export::text(&peer)),
        Written::Json => paper::print(&format!("{peer:#}\n")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(args: LinksArgs) -> Result<ExitCode> {
    let status = ask(&args.whose).await?;
    match args.output {
        Shown::Text => paper::print(&links::text(&status, SystemTime::now(), width())),
        Shown::Json => paper::print(&format!("{:#}\n", links::told(&status))),
        Shown::Yaml => paper::print(&yaml::text(&links::told(&status))),
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(args: CheckArgs) -> Result<ExitCode> {
    let mut report = Report::default();
    match &args.file {
        None => findings::check(&settled(&args.whose).await?, &mut report),
        Some(path) => check_document(path, &args.whose, &mut report).await?,
    }
    match args.output {
        Format::Json => paper::print(&format!("{:#}\n", report.json())),
        Format::Text => paper::print(&report.text(finding::coloured())),
    }
    Ok(ExitCode::from(if report.is_well() { exit::OK } else { exit::FINDINGS }))
}

/// What the control plane says, once nothing of it may pass by itself, or after a while.
async fn settled(whose: &WhoseArgs) -> Result<Value> {
    let begun = Instant::now();
    let whom = whom(whose).await?;
    let mut status = said(&whom).await?;
    loop {
        // What was written into a mesh's directory a moment ago is read in a moment.
        let is_unread = whom.is_of_this_machine() && findings::is_alone(&status);
        let begins = findings::is_beginning(&status, SystemTime::now(), YOUNG);
        let may_pass = match begun.elapsed() {
            waited if waited < PATIENCE => is_unread || begins || findings::is_settling(&status),
            waited if waited < YOUNG => begins,
            _ => false,
        };
        if !may_pass {
            break;
        }
        sleep(AGAIN).await;
        status = said(&whom).await?;
    }
    tell_missing(&status);
    Ok(status)
}

/// Checks a document, beside this cluster if that can be asked: its fields can be wrong by themselves.
async fn check_document(path: &Path, whose: &WhoseArgs, report: &mut Report) -> Result<()> {
    let text = read(path)?;
    let (is_of_this_machine, status) = match whom(whose).await {
        Ok(whom) => (whom.is_of_this_machine(), said(&whom).await),
        Err(why) => (false, Err(why)),
    };
    if let Ok(status) = &status {
        tell_missing(status);
    }
    let peers = document::check(path, &text, status.as_ref().ok(), report);
    match is_of_this_machine {
        true => report.tell("who answers there".to_owned(), vec![undialled()]),
        false => dial(&peers, status.as_ref().ok(), report).await,
    }
    if let Err(why) = status {
        let fix = "name the cluster in which it is to be applied: --name, --context or --socket";
        let what = format!("can't be asked, so nothing was compared with it: {why:#}");
        report.tell("this cluster", vec![note("this cluster", what, fix)]);
    }
    Ok(())
}

/// Dials whatever documents name, from here.
async fn dial(peers: &[Peer], status: Option<&Value>, report: &mut Report) {
    for peer in peers {
        for endpoint in &peer.endpoints {
            look(peer, "spec.endpoints", endpoint, b"h2", report).await;
        }
        let gateways = match document::needs_gateways(peer, status) {
            true => &peer.gateways[..],
            false => &[],
        };
        for gateway in gateways {
            let answer = look::gateway(gateway).await;
            tell(peer, "spec.gateways", gateway, &answer, report);
        }
        if let Some(endpoint) = document::bundle_endpoint(peer) {
            look(peer, "spec.bundleEndpoint", &endpoint, b"http/1.1", report).await;
        }
    }
}

/// Clusters of `weft up` reach each other from their nodes, and not from the machine that these are on.
fn undialled() -> finding::Finding {
    let what = "its endpoints and gateways were not dialled: a mesh of `weft up` reaches them from its node, and not from here";
    note(
        "this document",
        what,
        "apply it; `weft cluster check` says what comes of it",
    )
}

async fn look(peer: &Peer, field: &'static str, at: &HostPort, speaks: &[u8], report: &mut Report) {
    let answer = look::at(at, speaks).await;
    tell(peer, field, at, &answer, report);
}

fn tell(peer: &Peer, field: &'static str, at: &HostPort, answer: &look::Answer, report: &mut Report) {
    let (title, findings) = document::answer(peer, field, at, answer, SystemTime::now());
    report.tell(title, findings);
}

fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => io::stdin().lock().take(DOCUMENT_MAX + 1).read_to_string(&mut text),
        false => std::fs::File::open(path)
            .with_context(|| format!("-f {shown}"))?
            .take(DOCUMENT_MAX + 1)
            .read_to_string(&mut text),
    };
    let bytes = read.with_context(|| format!("-f {shown}"))?;
    if bytes as u64 > DOCUMENT_MAX {
        bail!("-f {shown}: more than {} MiB", DOCUMENT_MAX >> 20);
    }
    Ok(text)
}

/// What the control plane that is meant says of this cluster and its links.
async fn ask(whose: &WhoseArgs) -> Result<Value> {
    let status = said(&whom(whose).await?).await?;
    tell_missing(&status);
    Ok(status)
}

fn tell_missing(status: &Value) {
    for missing in list(&status["missing"]).iter().filter_map(Value::as_str) {
        // Who has closed standard error does not want to know.
        let _ = writeln!(io::stderr(), "weft cluster: {missing}");
    }
}

async fn whom(whose: &WhoseArgs) -> Result<Whom> {
    Ok(match &whose.socket {
        Some(path) => Whom::Socket(path.clone()),
        None => Whom::Mesh(target::mesh(&whose.target).await?),
    })
}

async fn said(whom: &Whom) -> Result<Value> {
    let status = match whom {
        Whom::Socket(path) => by_socket(path).await?,
        Whom::Mesh(mesh) => mesh.links().await?,
    };
    match (&status["federation"], status["control"]["answers"].as_bool()) {
        (Value::Object(_), _) => Ok(status),
        (_, Some(true)) => bail!("the control plane is of a version that knows of no other clusters (fix: upgrade it)"),
        _ => match word(&status["control"]["reason"]) {
            reason if reason.is_empty() => {
                bail!("the control plane does not answer (fix: `weft status` says how it is)")
            }
            reason => bail!("the control plane does not answer: {reason}"),
        },
    }
}

async fn by_socket(path: &Path) -> Result<Value> {
    let shown = path.display();
    let stream = UnixStream::connect(path)
        .await
        .with_context(|| format!("--socket {shown}: no control plane is there"))?;
    let text = http::get(stream, "/status", http::NEAR)
        .await
        .with_context(|| format!("--socket {shown}"))?;
    let mut status: Value = serde_json::from_str(&text).context("the control plane's status can't be read")?;
    ensure!(
        status["mesh"].is_object(),
        "--socket {shown}: what answers there is no control plane"
    );
    status["federation"] = status["mesh"]["federation"].take();
    status["control"] = json!({"answers": true, "build": status["build"].take()});
    Ok(status)
}
