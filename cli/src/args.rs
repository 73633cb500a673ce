//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::check::CheckArgs;
use crate::demo::DemoArgs;
use crate::explain::RouteArgs;
use crate::federation::ClusterArgs;
use crate::inject::InjectArgs;
use crate::install::InstallArgs;
use crate::link::LinkArgs;
use crate::target::TargetArgs;
use crate::uninstall::UninstallArgs;
use crate::up::clusters::Places;
use crate::validate::ValidateArgs;
use crate::wait::WaitArgs;

/// Weft: a service mesh.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    about = "Weft, a service mesh: mutual TLS, routing by version and region, metrics and traces, without changing an app",
    after_help = "Examples:
  weft demo                                  # a working mesh, step by step
  weft up -f ./manifests                     # run Kubernetes manifests as a mesh on this machine
  weft status                                # what runs, and which proxies have which configuration
  weft exec -n shop web -- curl -s http://reviews/
  weft down
  weft completion bash                       # or zsh, fish

Exit codes: 0 it worked, 1 it failed, 64 wrong usage, 65 wrong manifests, 75 not ready in time, 79 of
`weft check` and `weft cluster check`: something is wrong; of `weft exec`: the command's."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Up(UpArgs),
    Demo(DemoArgs),
    Status(StatusArgs),
    Validate(ValidateArgs),
    Inject(InjectArgs),
    Route(RouteArgs),
    Exec(ExecArgs),
    Logs(LogsArgs),
    Proxy(ProxyArgs),
    AccessLog(AccessLogArgs),
    PortForward(ForwardArgs),
    Down(DownArgs),
    Install(InstallArgs),
    Uninstall(UninstallArgs),
    Check(CheckArgs),
    Cluster(ClusterArgs),
    Link(LinkArgs),
    Wait(WaitArgs),
    Completion(CompletionArgs),
    Man(ManArgs),
    /// Role: the control plane (see `weft control --help`).
    Control(RoleArgs),
    /// Role: passes other clusters' connections on, unopened (see `weft gateway --help`).
    Gateway(RoleArgs),
    /// Role: redirects a pod's traffic to its proxy (see `weft init --help`).
    Init(RoleArgs),
    /// Role: the admission webhook that gives pods their sidecar (see `weft injector --help`).
    Injector(RoleArgs),
}

/// Which mesh.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshArgs {
    /// The mesh's name. Meshes of different names run side by side.
    #[arg(long, env = "WEFT_MESH", value_name = "NAME", default_value = weft_local::up::DEFAULT_MESH, value_parser = mesh_name)]
    pub(crate) name: String,
}

/// Run Kubernetes manifests as a mesh on this machine.
///
/// Namespace, Node, ServiceAccount, Pod, Deployment, StatefulSet, DaemonSet, Job, Service, ConfigMap, Secret, HTTPRoute,
/// GRPCRoute, TCPRoute, TLSRoute, ServiceSubset, TrafficPolicy, ClusterPeer and ServiceExport are understood (docs/manifests.md
/// has the fields); `image` is not used: containers run programs of this machine. Files are watched, and the running mesh
/// follows; standard input is read once. Nothing of this machine's network is touched.
///
/// With --cluster it is several clusters: each with a control plane, a root, a trust domain (NAME.weft.internal), networks and
/// a state directory of its own, and each a mesh of its name to the other commands (`weft status --name NAME`). Their nodes have
/// addresses on a common wire (`nodeAddresses` of `weft status -o json`), by which pods of the others reach Services of type
/// LoadBalancer, and the control plane. They end together.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft up -f ./shop
  weft up -f ./shop -f ./extra.yaml
  kustomize build ./shop | weft up -f -
  weft up -f ./shop --name second --pod-cidr 10.245.0.0/16
  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 weft up -f ./shop    # traces to a collector on this machine
  weft up -f ./shop --detach && weft status && weft down
  weft up --cluster east -f ./east --cluster west -f ./west
  weft up --cluster east -f ./east --cluster west -f ./west --flat    # pods reach each other's addresses, too

Exit codes: 0 the mesh ended as it was asked to, 1 it could not start or failed, 64 wrong usage, 130 a second signal ended it at
once. With --detach: 0 it is ready, 75 it is not ready within 120 s and goes on in the background; else as above.")]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) places: Places,
    /// Of several clusters, route the networks of pods to each other. Without it only the nodes reach each other, and pods of
    /// one cluster those of another only by what its node serves.
    #[arg(long, requires = "cluster", conflicts_with = "overlapping_networks")]
    pub(crate) flat: bool,
    /// Give several clusters the same addresses of pods and Services, instead of ranges of their own.
    #[arg(long, requires = "cluster")]
    pub(crate) overlapping_networks: bool,
    /// Read the subdirectories of directories, too.
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    /// Leave the mesh running in the background, and return when it is ready. `weft down` ends it; of several clusters, all.
    #[arg(long)]
    pub(crate) detach: bool,
    /// The addresses of pods; once for IPv4, once for IPv6. [default: 10.244.0.0/16 and fd00:10:244::/64]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', conflicts_with = "cluster")]
    pub(crate) pod_cidr: Vec<IpNet>,
    /// The addresses of Services; once for IPv4, once for IPv6. [default: 10.96.0.0/16 and fd00:10:96::/112]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', conflicts_with = "cluster")]
    pub(crate) service_cidr: Vec<IpNet>,
    /// The trust domain of the mesh's identities. [default: NAME.weft.internal]
    #[arg(long, value_name = "DOMAIN", conflicts_with = "cluster")]
    pub(crate) trust_domain: Option<String>,
    /// How long certificates live, such as 24h or 10s. Proxies renew after two thirds. [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(crate) leaf_lifetime: Option<String>,
}

/// End a mesh.
///
/// Its pods end in order, as in Kubernetes; what does not end in time is killed. Its logs and keys stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft down
  weft down --name second")]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
}

/// Show pods, services, traffic, routes and proxies of a mesh.
///
/// Pods with the pids of proxy and containers, addresses, readiness, region and version; services, and what each of their ports
/// speaks: as declared (by `appProtocol`, the port's name, or a route), or as proxies found out (from the client's first bytes,
/// or because the server spoke first); what each service got of traffic, as the proxies of its callers saw it (each attempt at an endpoint; 5xx, no answer, and gRPC statuses that say
/// that the server failed are no success); routes with what was refused and why, and which proxies have acknowledged which
/// version.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft status
  weft status -n shop -o wide
  weft status --context staging -A                # a cluster
  weft status --window 10s                        # the traffic of the next 10 seconds
  weft status -o json | jq '.pods[] | {name, ready, addresses}'
  weft status -o json --window 5s | jq .traffic")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Only this namespace. [default: all; of a cluster, that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// All namespaces of the mesh.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// As text for people (wide: with more columns, never broken into lines), or as JSON or YAML for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
    /// Measure traffic from now on for this long, such as 10s, instead of since the proxies started. JSON and YAML have
    /// `traffic` only with this.
    #[arg(long, value_name = "DURATION", value_parser = window)]
    pub(crate) window: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Wide,
    Json,
    Yaml,
}

/// Print the completion of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft completion bash > ~/.local/share/bash-completion/completions/weft
  weft completion zsh > ~/.zfunc/_weft              # with ~/.zfunc in $fpath
  weft completion fish > ~/.config/fish/completions/weft.fish
  source <(weft completion bash)                    # for this shell only")]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Write manual pages.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft man --dir ~/.local/share/man/man1 && man weft-up")]
pub(crate) struct ManArgs {
    /// The directory for them, which is made.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Which pod.
#[derive(Clone, Debug, Args)]
pub(crate) struct PodArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    /// The pod's namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    /// The pod: its name, the beginning of its name, or deploy/NAME, sts/NAME, ds/NAME or job/NAME for any pod of that.
    #[arg(value_name = "POD")]
    pub(crate) pod: String,
}

/// Run a command in a container, as the container's user.
///
/// In a terminal of its own if standard input and output are one. The exit code is the command's.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft exec -n shop web -- curl -s http://reviews/
  weft exec -n shop deploy/reviews-v1 -c weft-proxy -- curl -s http://127.0.0.1:15021/config
  weft exec -n shop web -- sh")]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) pod: PodArgs,
    /// The container. [default: the pod's first]
    #[arg(short, long, value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    /// No terminal, even if standard input is one.
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// Which pod, of a mesh on this machine or of a cluster's.
#[derive(Clone, Debug, Args)]
pub(crate) struct MeshPodArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The pod's namespace. [default: default; of a cluster, that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// The pod: its name, the beginning of its name, or deploy/NAME, sts/NAME, ds/NAME or job/NAME for any pod of that.
    #[arg(value_name = "POD")]
    pub(crate) pod: String,
}

/// Show what a container printed.
///
/// On a cluster it is the proxy unless another is named: `kubectl logs` has those of the app.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft logs -n shop web
  weft logs -n shop web -c weft-proxy -f
  weft logs --context staging -n shop deploy/web --tail 20")]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) pod: MeshPodArgs,
    /// The container. [default: the pod's first; on a cluster weft-proxy]
    #[arg(short, long, value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    /// Go on as it prints more.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines.
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// With the time of each line.
    #[arg(long)]
    pub(crate) timestamps: bool,
}

/// Switch a pod's access log on or off, without a restart.
///
/// The proxy writes one line of JSON for each request and each opaque stream to its standard output, until it is switched off
/// or ends: `weft logs POD -c weft-proxy` shows them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft access-log -n shop web on
  weft logs -n shop web -c weft-proxy -f
  weft access-log -n shop web          # says whether it is on")]
pub(crate) struct AccessLogArgs {
    #[command(flatten)]
    pub(crate) pod: PodArgs,
    /// On or off. [default: only say which it is]
    #[arg(value_name = "STATE")]
    pub(crate) state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    On,
    Off,
}

/// Bring a pod's ports to this machine's loopback.
///
/// The connection is made from within the pod, as from a process of its own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft port-forward -n shop web 8080:80
  weft port-forward -n shop web 8080          # the same port on both sides
  weft port-forward -n shop web :80           # any free port, which is printed")]
pub(crate) struct ForwardArgs {
    #[command(flatten)]
    pub(crate) pod: PodArgs,
    /// The port here and the port in the pod. `:REMOTE` takes any free port here.
    #[arg(value_name = "LOCAL:REMOTE", required = true, value_parser = ports)]
    pub(crate) ports: Vec<(u16, u16)>,
}

/// Show the proxies of a mesh, and what they know.
///
/// (Without list or config the program `weft` is a proxy itself, the data plane beside an app; a plugin of kubectl never is.)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft proxy list -A
  weft proxy config -n shop deploy/web
  weft proxy config --context staging -n shop web -o json | jq .inbound")]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    pub(crate) verb: ProxyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyVerb {
    List(ProxyListArgs),
    Config(ProxyConfigArgs),
}

/// List the proxies: where they are, since when they are connected, what they have acknowledged, how long their certificate lasts.
///
/// A proxy has acknowledged a version when every worker of it decides by it. With -o wide each resource has its version.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft proxy list
  weft proxy list --context staging -A -o wide
  weft proxy list -A -o json | jq '.proxies[] | select(.certificateSecondsLeft < 3600)'")]
pub(crate) struct ProxyListArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Only this namespace. [default: all; of a cluster, that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// All namespaces of the mesh.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// As text for people (wide: with more columns, never broken into lines), or as JSON or YAML for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

/// Show what a pod's proxy knows: its identity, what it accepts, where it has been asked to go, and the endpoints there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft proxy config -n shop web
  weft proxy config -n shop deploy/web -o json | jq '.endpoints[].endpoints[].address'")]
pub(crate) struct ProxyConfigArgs {
    #[command(flatten)]
    pub(crate) pod: MeshPodArgs,
    /// As text for people, or all of it as JSON or YAML.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

/// What a role takes is read by the role.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RoleArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

pub(crate) fn mesh_name(name: &str) -> Result<String, String> {
    // A variable that is set to nothing counts as one that is not set.
    let unset = || std::env::var_os("WEFT_MESH").is_some_and(|value| value.is_empty());
    if name.is_empty() && unset() {
        return Ok(weft_local::up::DEFAULT_MESH.to_owned());
    }
    match is_name(name) {
        true => Ok(name.to_owned()),
        false => Err("a mesh's name has 1 to 40 characters of a-z, 0-9 and '-'".to_owned()),
    }
}

/// Reads the name of one of several clusters.
pub(crate) fn cluster_name(name: &str) -> Result<String, String> {
    match is_name(name) {
        true => Ok(name.to_owned()),
        false => Err("a cluster's name has 1 to 40 characters of a-z, 0-9 and '-'".to_owned()),
    }
}

/// Whether it can be part of a path and of a trust domain.
fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

/// Reads the name of a namespace, whosever it is.
pub(crate) fn namespace(name: &str) -> Result<String, String> {
    match weft_control::objects::names::is_label(name) {
        true => Ok(name.to_owned()),
        false => Err("a namespace has 1 to 63 characters of a-z, 0-9 and '-'".to_owned()),
    }
}

fn lifetime(value: &str) -> Result<String, String> {
    // The control plane takes it as it is written here, and would refuse it only once it starts.
    weft_control::leaf_lifetime(value).map(|_| value.to_owned())
}

fn window(value: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(3600);
    match weft_daemon::settings::duration(value) {
        Ok(window) if window > MOST => Err("at most 1h".to_owned()),
        Ok(window) if window.is_zero() => Err("longer than nothing, such as 10s".to_owned()),
        Ok(window) => Ok(window),
        Err(error) => Err(error.to_string()),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
    let (local, remote) = match text.split_once(':') {
        Some(("", remote)) => (0, port(remote)?),
        Some((local, remote)) => (port(local)?, port(remote)?),
        None => (port(text)?, port(text)?),
    };
    if remote == 0 {
        Err("0 is no port of a pod".to_owned())
    } else {
        Ok((local, remote))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_may_have_flags_of_its_own() {
        let cli = Cli::try_parse_from([
            "weft", "exec", "--name", "x", "-n", "shop", "web", "--", "ls", "-l", "--help",
        ]);
        let Ok(Cli { verb: Verb::Exec(exec) }) = cli else {
            panic!("{cli:?}")
        };
        assert_eq!(exec.command, ["ls", "-l", "--help"]);
        assert_eq!(exec.pod.mesh.name, "x");
    }

    #[test]
    fn ports_are_pairs_or_one_for_both() {
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        assert_eq!(ports("8080"), Ok((8080, 8080)));
        assert_eq!(ports("0:80"), Ok((0, 80)));
        assert_eq!(ports(":80"), Ok((0, 80)));
        for wrong in ["", ":", "80:", ":0", "80:0", "0", "70000", "a:b", "1:2:3"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_route_is_waited_for_in_any_namespace_though_weft_itself_is_not_put_into_each() {
        for namespace in ["default", "kube-system", "shop"] {
            let waits = Cli::try_parse_from(["weft", "wait", "-n", namespace, "httproute/web"]);
            assert!(waits.is_ok(), "{namespace}: {waits:?}");
        }
        assert!(Cli::try_parse_from(["weft", "wait", "-n", "Shop", "httproute/web"]).is_err());
        assert!(Cli::try_parse_from(["weft", "check", "-n", "default"]).is_err());
    }

    #[test]
    fn names_that_make_no_directory_or_trust_domain_are_refused() {
        assert!(mesh_name("demo-2").is_ok());
        for wrong in ["", "Demo", "a/b", "..", "-a", "a_b", &"a".repeat(41)] {
            assert!(mesh_name(wrong).is_err(), "{wrong}");
        }
    }
}
