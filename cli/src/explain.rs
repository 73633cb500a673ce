//! `weft route explain`: where a request would go, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use http::header::CONTENT_TYPE;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Value, json};
use weft_control::explain::{Explanation, Forward, Question, Said, Seen, Verdict, explain};
use weft_control::index::{Index, Settings};
use weft_control::manifests::{Changes, Manifests, Settings as ManifestSettings, Snapshot, Writer, parse};
use weft_control::objects::{Kinds, Object, ObjectRef, Severity};
use weft_daemon::exit;
use weft_local::source::{Source, Sources};
use weft_model::destination::Target;
use weft_model::filter::Scheme;
use weft_model::identity::TrustDomain;

use crate::args::{MeshArgs, Output};
use crate::paper::{self, PathArgs};
use crate::target::client;
use crate::{up, yaml};

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
/// their weights, and the places behind them as the caller sees them. With -f from manifests alone, as if every pod that they
/// ask for were ready; else from what a running mesh knows now.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft route explain -n shop --from web http://reviews/
  weft route explain -n shop --from web -H 'x-user: tester' http://reviews/7
  weft route explain -f ./manifests -n shop --from web -X POST 'http://reviews/7?beta=1' -o json
  weft route explain -n shop --from reviews grpc://ratings:7070/shop.Ratings/Get

Exit codes: 0 it is known what happens to the request, also where it is refused (no rule matches, no such port, a closed
connection): the answer says so, as `verdict` with -o json; 1 there is no such caller or Service, a headless Service has no
pods, or the mesh cannot be asked; 64 wrong usage.")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    mesh: MeshArgs,
    /// The caller's namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// The caller: a pod, the beginning of its name, or the name of its Deployment. [default: nobody in particular]
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
    let question = match question(&args) {
        Ok(question) => question,
        Err(error) => {
            eprintln!("weft route explain: {error:#}");
            return Ok(ExitCode::from(exit::USAGE));
        }
    };
    let index = match args.paths.paths.is_empty() {
        true => running(&args.mesh).await?,
        false => offline(&args)?,
    };
    let explanation = explain(&index, &question).map_err(|why| anyhow!(why))?;
    match args.output {
        Output::Json => paper::print(&format!("{:#}\n", serde_json::to_value(&explanation)?)),
        Output::Yaml => paper::print(&yaml::text(&serde_json::to_value(&explanation)?)),
        Output::Text | Output::Wide => paper::print(&text(&explanation)),
    }
    let resolves = match &explanation.verdict {
        Verdict::NoSuchService { .. } => false,
        Verdict::OneOf { pods, .. } => !pods.is_empty(),
        _ => true,
    };
    Ok(if resolves { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a running mesh's control plane reads, read once more.
async fn running(mesh: &MeshArgs) -> Result<Index> {
    let client = client(mesh);
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

fn offline(args: &ExplainArgs) -> Result<Index> {
    let name = &args.mesh.name;
    let paper = paper::read(&args.paths, name)?;
    let errors = paper
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    for problem in errors {
        eprintln!("error: {problem}");
    }
    let mut index = Index::new(Settings {
        trust_domain: TrustDomain::new(&format!("{name}.weft.internal"))?,
        cluster: name.clone(),
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
        namespace: args.namespace.clone(),
        from: args.from.clone(),
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

fn text(explanation: &Explanation) -> String {
    let mut out = String::new();
    let Explanation {
        from,
        target,
        aliases,
        service,
        protocol,
        held,
        rules,
        verdict,
    } = explanation;
    let place = [from.region.as_str(), from.zone.as_str()].join("/");
    let place = match place.trim_matches('/') {
        "" => String::new(),
        place => format!(" in {place}"),
    };
    let pod = if from.pod.is_empty() { "any pod" } else { &from.pod };
    // A String takes all that is written to it, here and below.
    let _ = writeln!(out, "from     {}/{pod}{place}", from.namespace);
    if !from.meshed {
        let _ = writeln!(
            out,
            "         it has no sidecar: nothing of what follows acts on its calls"
        );
    }
    let what = target.strip_prefix("name:").unwrap_or(target);
    let of = service.as_ref().map(|service| format!(" = Service {service}"));
    let protocol = protocol.map(|protocol| format!(" ({protocol})"));
    let _ = writeln!(
        out,
        "to       {what}{}{}",
        of.unwrap_or_default(),
        protocol.unwrap_or_default()
    );
    for alias in aliases {
        let _ = writeln!(out, "         {alias}");
    }
    if let Some(held) = held {
        let _ = writeln!(out, "held     {held}: proxies keep what they have");
    }
    for seen in rules {
        rule(&mut out, seen);
    }
    outcome(&mut out, verdict, rules.is_empty());
    clean_lines(&out)
}

/// What becomes of it.
fn outcome(out: &mut String, verdict: &Verdict, no_rules: bool) {
    match verdict {
        Verdict::Outside => out.push_str("outcome  nothing of the mesh: it is passed on as it is\n"),
        Verdict::Unknown => out.push_str(
            "outcome  refused after a wait (unknown-address): it lies in the mesh's networks, and no Service or pod has it\n",
        ),
        Verdict::NoSuchService { service, has } => {
            let has = match &has[..] {
                [] => "; the namespace has none".to_owned(),
                has => format!("; the namespace has {}", has.join(", ")),
            };
            _ = writeln!(out, "outcome  the name does not resolve: there is no Service {service}{has}");
        }
        Verdict::NoSuchPort { reason } => _ = writeln!(out, "outcome  refused: {reason}"),
        Verdict::NotHttp => out.push_str("outcome  refused: the port takes HTTP only, and this is none (not-http)\n"),
        Verdict::Pod { pod } => _ = writeln!(out, "outcome  to the pod {pod} itself; routes act on Services"),
        Verdict::OneOf { pods, number } => one_of(out, pods, *number),
        Verdict::NoMatch { status: 0 } => {
            out.push_str("outcome  closed: routes of streams are attached, and none matches\n");
        }
        Verdict::NoMatch { .. } => {
            out.push_str("outcome  refused: routes are attached, and none matches (404; gRPC: UNIMPLEMENTED)\n")
        }
        Verdict::Redirect { status, location } => {
            _ = writeln!(out, "outcome  redirected: {status}, Location: {location}")
        }
        Verdict::Forward(forward) => forwarded(out, forward, no_rules),
    }
}

fn one_of(out: &mut String, pods: &[String], number: usize) {
    if pods.is_empty() {
        return out.push_str("outcome  the name does not resolve: the Service is headless, and no such pod is ready\n");
    }
    let more = match number.saturating_sub(pods.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let pods = pods.join(", ");
    let _ = writeln!(
        out,
        "outcome  to the pod whose address the client takes: the Service is headless, and its name has {pods}{more}"
    );
    out.push_str("         routes and places act on Services with an address; mutual TLS is spoken all the same\n");
}

/// What manifests say must not drive a terminal.
fn clean_lines(text: &str) -> String {
    let safe = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    text.chars().map(safe).collect()
}

fn rule(out: &mut String, seen: &Seen) {
    let mark = if seen.matches { "rule     " } else { "not      " };
    let name = match seen.name.as_str() {
        "" => String::new(),
        name => format!(" {name:?}"),
    };
    let _ = writeln!(out, "{mark}{}{name}: {}", at(&seen.said), seen.wants);
    if !seen.matches {
        let _ = writeln!(out, "         {}", seen.why);
    }
}

/// `HTTPRoute shop/reviews spec.rules[0] (routes.yaml:7)`.
fn at(said: &Said) -> String {
    let place = match (&said.file, said.line) {
        (Some(file), Some(line)) => format!(" ({}:{line})", file.display()),
        _ => String::new(),
    };
    format!("{} {}{place}", said.object, said.field)
}

fn forwarded(out: &mut String, forward: &Forward, no_rules: bool) {
    if no_rules {
        out.push_str("rule     none: no route acts here, everything goes to the Service\n");
    }
    for filter in &forward.filters {
        let _ = writeln!(out, "filter   {filter}");
    }
    for term in &forward.terms {
        let by = term.said.as_ref().map(|said| format!(", by {}", at(said)));
        let _ = writeln!(out, "terms    {}{}", term.what, by.unwrap_or_default());
    }
    if forward.backends.iter().all(|backend| backend.weight == 0) {
        let how = if forward.stream { "closed" } else { "refused with 500" };
        let _ = writeln!(out, "outcome  {how}: the rule has no backend with a weight");
    }
    for backend in &forward.backends {
        let subset = match backend.subset.as_str() {
            "" => String::new(),
            subset => format!(" subset {subset}"),
        };
        let share = format!("{:.1}% (weight {})", backend.percent, backend.weight);
        let _ = writeln!(out, "backend  {}{subset}: {share}", backend.service);
        for filter in &backend.filters {
            let _ = writeln!(out, "           filter {filter}");
        }
        if let Some(why) = &backend.unresolved {
            let how = if forward.stream { "closed" } else { "answered with 500" };
            let _ = writeln!(out, "           its share is {how}: {why}");
        }
        let Some(behind) = &backend.behind else { continue };
        let by = behind.said.as_ref().map(|said| format!(", by {}", at(said)));
        let _ = writeln!(out, "           places: {}{}", behind.locality, by.unwrap_or_default());
        let _ = writeln!(out, "           {}; retries {}", behind.balancer, behind.retry_budget);
        if behind.tiers.is_empty() {
            let how = if forward.stream { "closed" } else { "answered with 503" };
            let _ = writeln!(out, "           no endpoint: its share is {how}");
        }
        for tier in &behind.tiers {
            let more = match tier.endpoints.saturating_sub(tier.pods.len()) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let (places, pods) = (tier.places.join(", "), tier.pods.join(", "));
            let _ = writeln!(
                out,
                "           tier {} {:.1}%: {places}: {pods}{more}",
                tier.tier, tier.percent
            );
        }
    }
}
