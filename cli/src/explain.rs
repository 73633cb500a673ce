//! `weft route explain`: where a request would go, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use http::header::CONTENT_TYPE;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Value, json};
use weft_control::explain::{Explanation, Question, Verdict, explain, hear};
use weft_control::index::{Index, Settings};
use weft_control::manifests::{Changes, Manifests, Settings as ManifestSettings, Snapshot, Writer, parse};
use weft_control::objects::{Kinds, Object, ObjectRef, Severity};
use weft_daemon::exit;
use weft_local::client::Client;
use weft_local::cluster::offline::Offline;
use weft_local::manifest::{DEFAULT_NAMESPACE, Workload};
use weft_local::source::{Source, Sources};
use weft_model::destination::Target;
use weft_model::filter::Scheme;
use weft_model::identity::TrustDomain;

use crate::args::Output;
use crate::cluster::Cluster;
use crate::mesh::Mesh;
use crate::paper::{self, PathArgs};
use crate::target::{self, TargetArgs};
use crate::{up, yaml};

mod text;

/// Questions about routes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft route explain -n shop --from web http://reviews/
  weft route explain -f ./manifests -n shop --from web tcp://redis:6379")]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    verb: RouteVerb,
}

#[derive(Debug, Subcommand)]
enum RouteVerb {
    Explain(ExplainArgs),
}

/// Explain where a request would go, and why.
///
/// Which rule of which object matches, and why those before it do not; what is done to the request; the candidates with
/// their weights, and the places behind them as the caller sees them, also those of other clusters. With -f from manifests
/// alone, as if every pod that they ask for were ready; else from what a running mesh knows now, or from a cluster's objects.
/// With -f and a cluster (--context, --kubeconfig) as if the manifests were applied there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft route explain -n shop --from web http://reviews/
  weft route explain -n shop --from web -H 'x-user: tester' http://reviews/7
  weft route explain -f ./manifests -n shop --from web -X POST 'http://reviews/7?beta=1' -o json
  weft route explain -n shop --from reviews grpc://ratings:7070/shop.Ratings/Get
  weft route explain --context staging -n shop --from pod/web -f new-route.yaml http://reviews/

Exit codes: 0 it is known what happens to the request, also where it is refused (no rule matches, no such port, a closed
connection): the answer says so, as `verdict` with -o json; 1 there is no such caller or Service, a headless Service has no
pods, or the mesh cannot be asked; 64 wrong usage.")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The caller's namespace. [default: default; of a cluster, that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The caller: a pod (pod/web, too), the beginning of its name, or the name of its Deployment. [default: nobody in particular]
    #[arg(long, value_name = "POD")]
    from: Option<String>,
    /// A header of the request. Can be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The server name that tls:// asks for. [default: the host]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// The method. [default: GET, for grpc:// POST]
    #[arg(short = 'X', long = "method", value_name = "METHOD")]
    method: Option<Method>,
    #[command(flatten)]
    paths: PathArgs,
    /// As text for people, or as JSON or YAML for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
    /// What is called: `http://HOST[:PORT]/PATH`, `grpc://HOST:PORT/SERVICE/METHOD`, `tcp://HOST:PORT` or `tls://HOST:PORT`.
    #[arg(value_name = "URL")]
    url: Uri,
}

/// Answers a question about routes.
pub(crate) async fn main(args: RouteArgs) -> Result<ExitCode> {
    let RouteVerb::Explain(args) = args.verb;
    let mut question = match question(&args) {
        Ok(question) => question,
        Err(error) => {
            eprintln!("weft route explain: {error:#}");
            return Ok(ExitCode::from(exit::USAGE));
        }
    };
    let (mut index, mesh) = if !args.paths.paths.is_empty() && !target::means_cluster(&args.target.way) {
        (offline(&args)?, None)
    } else {
        let mesh = target::mesh(&args.target).await?;
        mesh.namespace(args.namespace.as_deref())
            .clone_into(&mut question.namespace);
        let index = match &mesh {
            Mesh::Local(client) => running(client).await?,
            Mesh::Cluster(cluster) => on_cluster(cluster, &args, &question.namespace).await?,
        };
        (index, Some(mesh))
    };
    let mut explanation = explain(&index, &question).map_err(|why| anyhow!(why))?;
    if let Some(mesh) = &mesh
        && !explanation.unheard.is_empty()
    {
        match mesh.heard(&namespaces(&question, &explanation)).await {
            Ok(heard) => hear(&mut index, &heard),
            Err(why) => eprintln!("warning: what other clusters export can't be asked: {why:#}"),
        }
        explanation = explain(&index, &question).map_err(|why| anyhow!(why))?;
    }
    match args.output {
        Output::Json => paper::print(&format!("{:#}\n", serde_json::to_value(&explanation)?)),
        Output::Yaml => paper::print(&yaml::text(&serde_json::to_value(&explanation)?)),
        Output::Text | Output::Wide => paper::print(&text::text(&explanation)),
    }
    let resolves = match &explanation.verdict {
        Verdict::NoSuchService { .. } => false,
        Verdict::OneOf { pods, .. } => !pods.is_empty(),
        _ => true,
    };
    Ok(if resolves { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The namespaces of which other clusters may export something that matters: those of the Services on the way, and of the name that
/// is called, whose Service may be there because of them only.
fn namespaces(question: &Question, explanation: &Explanation) -> BTreeSet<String> {
    let backends = match &explanation.verdict {
        Verdict::Forward(forward) => &forward.backends[..],
        _ => &[],
    };
    let services = backends
        .iter()
        .map(|backend| &backend.service)
        .chain(&explanation.service);
    let of_services = services.filter_map(|service| Some(service.split_once('/')?.0));
    let labels: Vec<&str> = match &question.target {
        // Of a pod's name the third is the namespace.
        Target::Host { host, .. } => host.split('.').skip(1).take(3).collect(),
        Target::Address(_) => Vec::new(),
    };
    let all = of_services.chain(labels).chain([question.namespace.as_str()]);
    all.map(str::to_owned).collect()
}

/// What a running mesh's control plane reads, read once more.
async fn running(client: &Client) -> Result<Index> {
    let status = client.status().await?;
    let text = |name: &str| status[name].as_str().map(str::to_owned);
    let sources: Sources = serde_json::from_value(status["sources"].clone()).context("the mesh's manifests")?;
    let place = |place: &Source| match &place.file {
        Some(file) => place.directory.join(file),
        None => place.directory.clone(),
    };
    let mut paths: Vec<PathBuf> = sources.places.iter().map(place).collect();
    paths.push(client.state().objects());
    let trust_domain = text("trustDomain").context("the mesh did not say its trust domain")?;
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new(&trust_domain)?,
        cluster: text("mesh").unwrap_or_default(),
        network: status["federation"]["network"]
            .as_str()
            .map(str::to_owned)
            .or(text("mesh"))
            .unwrap_or_default(),
        cluster_domain: weft_local::dns::DOMAIN.to_owned(),
        inside: ["podNetworks", "serviceNetworks"]
            .iter()
            .flat_map(|name| status[*name].as_array().into_iter().flatten())
            .filter_map(|network| network.as_str()?.parse().ok())
            .collect(),
        outside: Vec::new(),
    });
    let manifests = Manifests::open(ManifestSettings::control(&paths, sources.recursive, None))?;
    let now = manifests.snapshot();
    let held = held(&now, client.acting().await?);
    let older = held.iter().map(|object| (object.reference(), object.clone()));
    let mut first: BTreeMap<ObjectRef, Arc<Object>> = now
        .objects
        .iter()
        .map(|object| (object.reference(), object.clone()))
        .collect();
    first.extend(older);
    index.replace(&Snapshot {
        objects: first.into_values().collect(),
        ..Snapshot::default()
    });
    // What is refused as it is now stays in the form that the mesh has of it. A file that cannot be read says nothing.
    let edited = |object: &&Arc<Object>| held.iter().any(|held| held.reference() == object.reference());
    index.apply(&Changes {
        upserts: now.objects.iter().filter(edited).cloned().collect(),
        ..Changes::default()
    });
    warn_of_refused(&index, &held);
    Ok(index)
}

/// What the mesh has of routes and policies in another form than the files say now.
fn held(now: &Snapshot, acting: Vec<Value>) -> Vec<Arc<Object>> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": acting}).to_string();
    let acting = parse(Path::new("mesh.json"), &list, Writer::User, &Kinds::control()).unwrap_or_default();
    let written: BTreeMap<ObjectRef, &Value> = now
        .objects
        .iter()
        .map(|object| (object.reference(), &object.raw))
        .collect();
    let differs = acting
        .objects
        .into_iter()
        .filter(|object| written.get(&object.reference()) != Some(&&object.raw));
    differs
        .map(|object| {
            // It stands nowhere any more.
            Arc::new(Object {
                origin: None,
                ..Object::clone(&object)
            })
        })
        .collect()
}

/// What a cluster's control plane reads, with manifests as if they were applied. An object that is refused is not looked at: which
/// form of it acts, only proxies know.
async fn on_cluster(cluster: &Cluster, args: &ExplainArgs, namespace: &str) -> Result<Index> {
    // Manifests may bring it along.
    if args.paths.paths.is_empty() {
        cluster.expect_namespace(namespace).await?;
    }
    let knowledge = cluster.knowledge().await?;
    let mut index = Index::new(knowledge.settings.clone());
    let paper = paper::beside(&args.paths, namespace, knowledge)?;
    if !args.paths.paths.is_empty() {
        tell_errors(&paper);
    }
    index.replace(&Snapshot {
        objects: paper.finished,
        ..Snapshot::default()
    });
    Ok(index)
}

fn tell_errors(paper: &Offline) {
    let errors = paper.problems.iter();
    for problem in errors.filter(|problem| problem.severity == Severity::Error) {
        eprintln!("error: {problem}");
    }
}

fn offline(args: &ExplainArgs) -> Result<Index> {
    let name = target::name(&args.target)?;
    let paper = paper::read(&args.paths, &name)?;
    tell_errors(&paper);
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new(&format!("{name}.weft.internal"))?,
        cluster: name.clone(),
        network: name,
        cluster_domain: weft_local::dns::DOMAIN.to_owned(),
        inside: [up::PODS, up::SERVICES]
            .concat()
            .iter()
            .filter_map(|network| network.parse().ok())
            .collect(),
        outside: Vec::new(),
    });
    index.replace(&Snapshot {
        objects: paper.finished,
        ..Snapshot::default()
    });
    Ok(index)
}

/// A running mesh keeps the last good form of what is refused now.
fn warn_of_refused(index: &Index, held: &[Arc<Object>]) {
    let errors = index.problems().into_iter();
    for problem in errors.filter(|problem| problem.severity == Severity::Error) {
        let is_held = |object: &ObjectRef| held.iter().any(|held| held.reference() == *object);
        let acts = match problem.object.as_ref().is_some_and(is_held) {
            true => "its last good form acts",
            false => "the mesh may keep an older form of it, which is not looked at here",
        };
        eprintln!("warning: {problem}; {acts}");
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("take the form 'name: value'")?;
    let name = name.trim().parse::<HeaderName>().map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    Ok((name, value))
}

fn question(args: &ExplainArgs) -> Result<Question> {
    let url = &args.url;
    let stream = matches!(url.scheme_str(), Some("tcp" | "tls"));
    let (scheme, grpc) = match url.scheme_str() {
        Some("http" | "tcp" | "tls") => (Scheme::Http, false),
        Some("grpc") => (Scheme::Http, true),
        Some("https") => {
            bail!("{url}: the app's own TLS is passed on as it is, and no rule sees what is in it; take tls://")
        }
        _ => bail!(
            "{url}: take the form http://HOST[:PORT]/PATH, grpc://HOST:PORT/SERVICE/METHOD, tcp:// or tls://HOST:PORT"
        ),
    };
    let authority: Authority = url.authority().context("the URL has no host")?.clone();
    let port = match authority.port_u16() {
        Some(0) => bail!("{url}: 0 is no port"),
        Some(port) => port,
        None if grpc || stream => bail!("{url}: name the port"),
        None => Scheme::Http.port(),
    };
    let mut headers: HeaderMap = HeaderMap::new();
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    for (name, value) in &args.headers {
        headers.append(name, value.clone());
    }
    let default = if grpc { Method::POST } else { Method::GET };
    Ok(Question {
        namespace: args.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        from: args.from.as_deref().map(|from| bare(from).to_owned()),
        scheme,
        target: target(authority.host(), port)?,
        authority: authority.to_string(),
        method: args.method.clone().unwrap_or(default),
        path: match url.path() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        },
        query: url.query().map(str::to_owned),
        headers,
        stream,
        server_name: (url.scheme_str() == Some("tls"))
            .then(|| args.server_name.clone().unwrap_or(authority.host().to_owned())),
    })
}

/// `web` of `pod/web` and `deploy/web`.
fn bare(from: &str) -> &str {
    let pod = from.strip_prefix("pod/").or_else(|| from.strip_prefix("pods/"));
    pod.or_else(|| Workload::named(from).map(|(_, name)| name))
        .unwrap_or(from)
}

/// What is called: an address, or a name.
fn target(host: &str, port: u16) -> Result<Target> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<std::net::IpAddr>() {
        return Ok(Target::Address((ip, port).into()));
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    format!("name:{host}:{port}")
        .parse()
        .map_err(|_| anyhow!("{host:?} is no host name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_may_be_written_with_its_kind() {
        assert_eq!(
            ["web", "pod/web", "deploy/web", "sts/db", "x/y"].map(bare),
            ["web", "web", "web", "db", "x/y"]
        );
    }

    #[test]
    fn other_clusters_are_asked_for_the_namespaces_of_all_services_on_the_way() {
        let mut index = Index::new(Settings {
            trust_domain: TrustDomain::new("td").unwrap(),
            cluster: "east".to_owned(),
            network: "east".to_owned(),
            cluster_domain: weft_local::dns::DOMAIN.to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        let shop = "apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{backendRefs: [{name: reviews, namespace: store, port: 80}]}]
";
        index.replace(&parse(Path::new("shop.yaml"), shop, Writer::User, &Kinds::control()).unwrap());
        let of = |target: &str| {
            let question = Question {
                namespace: "web".to_owned(),
                from: None,
                scheme: Scheme::Http,
                target: target.parse().unwrap(),
                authority: String::new(),
                method: Method::GET,
                path: "/".to_owned(),
                query: None,
                headers: HeaderMap::new(),
                stream: false,
                server_name: None,
            };
            namespaces(&question, &explain(&index, &question).unwrap())
        };
        let by_name = of("name:reviews.shop:80");
        assert_eq!(by_name, ["shop", "store", "web"].map(str::to_owned).into());
        assert!(of("name:ratings.other.svc.clusterset.local:80").contains("other"));
    }
}
