//! `weft wait`: until an object acts, as its status on the API server says.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use weft_control::objects::near::near;
use weft_daemon::exit;

use crate::args;
use crate::cluster::api::{self, Answer};
use crate::table::clean;
use crate::target::{self, WayArgs};

/// Whose conditions count.
const CONTROLLER: &str = "weft.dev/mesh";
/// The kinds that have them: what people write (beside the kind itself), group, plural, and versions, the best first.
pub(crate) const KINDS: [(&str, &str, &str, &[&str]); 7] = [
    ("httproute", GATEWAY, "httproutes", &["v1"]),
    ("grpcroute", GATEWAY, "grpcroutes", &["v1"]),
    ("tcproute", GATEWAY, "tcproutes", &["v1", "v1alpha2"]),
    ("tlsroute", GATEWAY, "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
    ("servicesubset", "weft.dev", "servicesubsets", &["v1alpha1"]),
    ("trafficpolicy", "weft.dev", "trafficpolicies", &["v1alpha1"]),
    (
        "xbackendtrafficpolicy",
        "gateway.networking.x-k8s.io",
        "xbackendtrafficpolicies",
        &["v1alpha1"],
    ),
];
const GATEWAY: &str = "gateway.networking.k8s.io";
/// An answer is waited for so long, and no longer than there is time.
const ANSWER: Duration = Duration::from_secs(15);
/// An answer has this time even when there is none left, so that everything is looked at once.
const ONCE: Duration = Duration::from_secs(1);
/// A watch that ends is begun again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// The API server ends a watch after this.
const WATCH: Duration = Duration::from_secs(240);

/// Wait until a route, subset or policy acts.
///
/// Applied: every proxy that is connected and needs the object decides by it as it is written now, or no proxy needs it. What
/// counts is what the control plane has said of the object's latest generation; of a route, for every Service that is its
/// parent. While it waits nothing is printed; when the time is over, what is missing, and who lags.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl apply -f route.yaml && weft wait -n shop httproute/reviews
  weft wait httproute/reviews --for applied --timeout 10s
  weft wait trafficpolicy/reviews --for accepted --context staging

Exit codes: 0 it is so, 1 there is no such object or the API server can't be asked, 64 wrong usage, 75 it is not so within the
timeout.")]
pub(crate) struct WaitArgs {
    /// The object: httproute, grpcroute, tcproute, tlsroute, servicesubset, trafficpolicy or xbackendtrafficpolicy, and its name.
    #[arg(value_name = "KIND/NAME", value_parser = object)]
    object: Wanted,
    /// What is waited for.
    #[arg(long = "for", value_name = "WHAT", default_value = "applied")]
    what: What,
    /// How long, such as 30s or 2m; 0s looks once.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = patience)]
    timeout: Duration,
    /// The object's namespace. [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", value_parser = args::namespace)]
    namespace: Option<String>,
    #[command(flatten)]
    way: WayArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Every connected proxy that needs it decides by it.
    Applied,
    /// The control plane acts on it.
    Accepted,
    /// All that it refers to is there.
    ResolvedRefs,
}

impl What {
    fn condition(self) -> &'static str {
        match self {
            Self::Applied => "Applied",
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
        }
    }
}

/// An object, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    kind: usize,
    name: String,
}

fn object(text: &str) -> Result<Wanted, String> {
    let known = || KINDS.map(|(kind, ..)| kind).join(", ");
    let Some((kind, name)) = text.split_once('/') else {
        return Err(format!("KIND/NAME, where KIND is one of {}", known()));
    };
    let lower = kind.to_ascii_lowercase();
    let same = |(singular, _, plural, _): &(&str, &str, &str, &[&str])| lower == *singular || lower == *plural;
    let Some(kind) = KINDS.iter().position(same) else {
        return Err(format!("{kind:?} has no status of Weft's; there are {}", known()));
    };
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    match (1..=253).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(Wanted {
            kind,
            name: name.to_owned(),
        }),
        false => Err(format!("{name:?} is no name of an object")),
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    const MOST: Duration = Duration::from_secs(24 * 3600);
    match weft_daemon::settings::duration(text) {
        Ok(patience) if patience > MOST => Err("at most 24h".to_owned()),
        Ok(patience) => Ok(patience),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits, and says what is missing if that takes too long.
pub(crate) async fn main(args: WaitArgs) -> Result<ExitCode> {
    let deadline = Instant::now() + args.timeout;
    // Only the object is asked for, nothing of Weft's own namespace.
    let cluster = target::cluster(&args.way, "weft-system").await?;
    let namespace = args.namespace.as_deref().unwrap_or(cluster.namespace());
    let (kind, _, _, versions) = KINDS[args.object.kind];
    let name = format!("{kind} {namespace}/{}", args.object.name);
    let mut missing = Missing::default();
    for version in versions {
        let place = Place::new(&args.object, version, namespace);
        // What is known when the time is over stays in `missing`. At least once everything is looked at.
        let waited = wait(cluster.api().client(), &place, args.what, deadline, &mut missing).await;
        match waited.with_context(|| name.clone())? {
            Waited::So => return Ok(ExitCode::from(exit::OK)),
            Waited::NoKind => {}
            Waited::NoObject => {
                if let Some(said) = cluster.no_namespace(namespace).await {
                    bail!("{name}: {said}");
                }
                let there = cluster.api().list(&place.all).await;
                bail!("{name}: {}", none(&args.object.name, there.ok()));
            }
            Waited::TooLate => {
                let (what, patience) = (args.what.condition(), args.timeout);
                eprintln!("weft wait: {name} is not {what} within {patience:?}: {missing}");
                return Ok(ExitCode::from(exit::TIMEOUT));
            }
        }
    }
    let (_, group, plural, _) = KINDS[args.object.kind];
    bail!("the API server has no {plural}.{group}: `weft check` says how to install what is missing")
}

/// What is said where there is none of a name, and what there is.
fn none(name: &str, there: Option<Answer>) -> String {
    let there = there
        .iter()
        .filter_map(Answer::object)
        .filter_map(Value::as_array)
        .flatten();
    let names = there.filter_map(|object| object["metadata"]["name"].as_str());
    match near(name, names) {
        Some(near) => format!("there is none of that name (did you mean {near}?)"),
        None => "there is none of that name".to_owned(),
    }
}

/// Where one object is listed and watched.
struct Place {
    list: String,
    /// Where all objects of the kind are, beside it.
    all: String,
    /// What allows to.
    role: String,
}

impl Place {
    fn new(of: &Wanted, version: &str, namespace: &str) -> Self {
        let (_, group, plural, _) = KINDS[of.kind];
        let name = &of.name;
        let all = format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}");
        Self {
            list: format!("{all}?fieldSelector=metadata.name%3D{name}"),
            all,
            role: format!("a Role in {namespace} that allows `list` and `watch` on {plural}.{group}"),
        }
    }

    fn watch(&self, version: &str) -> String {
        let list = &self.list;
        let seconds = WATCH.as_secs();
        format!("{list}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}")
    }
}

/// What waiting came to.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// It is so.
    So,
    /// The API server does not serve this version of the kind.
    NoKind,
    /// There is no object of that name.
    NoObject,
    /// The time is over.
    TooLate,
}

/// Looks, and then watches, again and again: a watch may end at any time.
async fn wait(client: &Client, place: &Place, what: What, deadline: Instant, missing: &mut Missing) -> Result<Waited> {
    let mut looked = false;
    loop {
        let list = Request::get(&place.list).body(Vec::new())?;
        let left = deadline.saturating_duration_since(Instant::now());
        let answered = timeout(left.clamp(ONCE, ANSWER), client.request::<Value>(list)).await;
        let is_late = answered.is_err();
        let list = match answered.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into()))) {
            Ok(list) => list,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Waited::NoKind),
            Err(kube::Error::Api(status)) if status.code == 401 => bail!("{}", api::UNKNOWN),
            Err(kube::Error::Api(status)) if status.code == 403 => bail!("{} (fix: {})", status.message, place.role),
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                bail!("the API server refused: {} {}", status.code, status.message)
            }
            Err(error) => {
                let is_over = Instant::now() + AGAIN >= deadline;
                if is_over && !is_late && !looked {
                    return Err(error).context("asking the API server");
                }
                *missing = Missing(vec![format!("the API server can't be asked: {error}")]);
                if is_over {
                    return Ok(Waited::TooLate);
                }
                // It may be away for a moment only.
                sleep(AGAIN).await;
                continue;
            }
        };
        looked = true;
        let Some(object) = list["items"].get(0) else {
            return Ok(Waited::NoObject);
        };
        *missing = Missing::of(object, what)?;
        if missing.is_nothing() {
            return Ok(Waited::So);
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let watched = timeout_at(deadline, watch(client, &place.watch(version), what, missing)).await;
        match watched {
            Ok(so) => {
                if so? {
                    return Ok(Waited::So);
                }
            }
            Err(_) => return Ok(Waited::TooLate),
        }
        if Instant::now() + AGAIN >= deadline {
            return Ok(Waited::TooLate);
        }
        sleep(AGAIN).await;
    }
}

/// Watches until it is so (true), or until the watch ends.
async fn watch(client: &Client, path: &str, what: What, missing: &mut Missing) -> Result<bool> {
    let request = Request::get(path).body(Vec::new())?;
    let Ok(events) = client.request_events::<Value>(request).await else {
        return Ok(false);
    };
    let mut events = std::pin::pin!(events);
    while let Some(Ok(event)) = events.next().await {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                *missing = Missing::of(&object, what)?;
                if missing.is_nothing() {
                    return Ok(true);
                }
            }
            WatchEvent::Deleted(_) => bail!("it was deleted"),
            WatchEvent::Bookmark(_) => {}
            // What is known is too old.
            WatchEvent::Error(_) => return Ok(false),
        }
    }
    Ok(false)
}

/// What is missing until it is so, for people.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing(Vec<String>);

impl Missing {
    fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// What is missing of an object.
    ///
    /// # Errors
    /// It is none that the mesh acts on.
    fn of(object: &Value, what: What) -> Result<Self> {
        let generation = object["metadata"]["generation"].as_u64().unwrap_or_default();
        let status = &object["status"];
        let of = |conditions: &Value, whose: &str| missing(conditions, generation, what, whose);
        let entries = |list: &str| {
            let ours = status[list].as_array().cloned().unwrap_or_default();
            ours.into_iter()
                .filter(|entry| entry["controllerName"] == CONTROLLER)
                .collect::<Vec<_>>()
        };
        let found = match object["kind"].as_str().unwrap_or_default() {
            kind if kind.ends_with("Route") => {
                let parents = object["spec"]["parentRefs"].as_array().cloned().unwrap_or_default();
                let services: Vec<&Value> = parents.iter().filter(|parent| parent["kind"] == "Service").collect();
                if services.is_empty() {
                    bail!("it names no Service as a parent (spec.parentRefs), so the mesh does not act on it");
                }
                services_only(&parents)?;
                let ours = entries("parents");
                let missing = services.iter().filter_map(|parent| {
                    let entry = ours.iter().find(|entry| is_of(&entry["parentRef"], parent));
                    let whose = format!("for Service {}", parent["name"].as_str().unwrap_or_default());
                    of(entry.map_or(&Value::Null, |entry| &entry["conditions"]), &whose)
                });
                missing.collect()
            }
            "XBackendTrafficPolicy" => match entries("ancestors") {
                ours if ours.is_empty() => of(&Value::Null, "").into_iter().collect(),
                ours => ours.iter().filter_map(|entry| of(&entry["conditions"], "")).collect(),
            },
            _ => of(&status["conditions"], "").into_iter().collect(),
        };
        Ok(Self(found))
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("the API server has not answered"),
            all => f.write_str(&clean(&all.join("; "))),
        }
    }
}

/// That every parent of the kind Service has the group of Services: one that is left out is that of Gateways.
fn services_only(parents: &[Value]) -> Result<()> {
    for (i, parent) in parents
        .iter()
        .enumerate()
        .filter(|(_, parent)| parent["kind"] == "Service")
    {
        let group = parent["group"].as_str().unwrap_or(GATEWAY);
        if !matches!(group, "" | "core") {
            bail!(
                "spec.parentRefs[{i}].group is {group}, which has no Services, so the mesh does not act on it (fix: group: \"\")"
            );
        }
    }
    Ok(())
}

/// Whether an entry of the status is of this parentRef.
fn is_of(entry: &Value, parent: &Value) -> bool {
    ["name", "namespace", "sectionName", "port"]
        .iter()
        .all(|field| entry[field] == parent[field])
}

/// What is missing until a condition is true of this generation.
fn missing(conditions: &Value, generation: u64, what: What, whose: &str) -> Option<String> {
    let wanted = what.condition();
    let conditions = conditions.as_array().cloned().unwrap_or_default();
    let condition = conditions.iter().find(|condition| condition["type"] == wanted);
    let mut said = String::new();
    match condition {
        Some(condition) if condition["observedGeneration"].as_u64() == Some(generation) => {
            if condition["status"] == "True" {
                return None;
            }
            let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            let _ = write!(said, "{}: {}", text(condition, "reason"), text(condition, "message"));
            // Why it is not accepted is in that condition.
            let refused = conditions
                .iter()
                .find(|each| each["type"] == "Accepted" && each["status"] == "False");
            if let Some(refused) = refused.filter(|_| wanted == "Applied") {
                let _ = write!(said, " ({}: {})", text(refused, "reason"), text(refused, "message"));
            }
        }
        _ => {
            let _ = write!(
                said,
                "the control plane has not said anything of generation {generation} (is weft-control running?)"
            );
        }
    }
    Some(match whose {
        "" => said,
        whose => format!("{whose}: {said}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(r#type: &str, status: &str, generation: u64) -> Value {
        json!({
            "type": r#type, "status": status, "observedGeneration": generation, "reason": "Waiting",
            "message": "1 of 2 proxies that need it do not decide by it yet: shop/web-1"
        })
    }

    fn route(controller: &str, conditions: &[Value]) -> Value {
        let parent = json!({"group": "", "kind": "Service", "name": "web", "port": 80});
        json!({
            "kind": "HTTPRoute", "metadata": {"generation": 2}, "spec": {"parentRefs": [parent]},
            "status": {"parents": [{"parentRef": parent, "controllerName": controller, "conditions": conditions}]}
        })
    }

    #[track_caller]
    fn of(object: &Value) -> String {
        Missing::of(object, What::Applied).unwrap().0.join("; ")
    }

    #[test]
    fn it_is_so_when_it_is_said_of_the_latest_generation() {
        assert_eq!(of(&route(CONTROLLER, &[condition("Applied", "True", 2)])), "");
        let old = of(&route(CONTROLLER, &[condition("Applied", "True", 1)]));
        assert!(old.contains("has not said anything of generation 2"), "{old}");
        let waiting = of(&route(CONTROLLER, &[condition("Applied", "False", 2)]));
        assert!(waiting.contains("for Service web: Waiting: 1 of 2") && waiting.contains("shop/web-1"));
    }

    #[test]
    fn what_others_say_does_not_count_and_every_parent_does() {
        assert_ne!(of(&route("example.net/mesh", &[condition("Applied", "True", 2)])), "");
        let mut two = route(CONTROLLER, &[condition("Applied", "True", 2)]);
        let other = json!({"group": "", "kind": "Service", "name": "other"});
        two["spec"]["parentRefs"].as_array_mut().unwrap().push(other);
        assert!(of(&two).starts_with("for Service other"), "{}", of(&two));
    }

    #[test]
    fn a_route_of_a_gateway_is_none_of_ours() {
        let gateway = json!({"kind": "HTTPRoute", "spec": {"parentRefs": [{"kind": "Gateway", "name": "g"}]}});
        assert!(Missing::of(&gateway, What::Applied).is_err());
    }

    #[test]
    fn a_parent_that_is_a_service_of_another_group_is_named_with_what_mends_it() {
        let mut wrong = route(CONTROLLER, &[]);
        let mut said_of = |group: Value| {
            wrong["spec"]["parentRefs"][0]["group"] = group;
            Missing::of(&wrong, What::Applied).map_err(|error| error.to_string())
        };
        for group in [json!(GATEWAY), Value::Null] {
            let said = said_of(group).unwrap_err();
            assert!(
                said.starts_with("spec.parentRefs[0].group is gateway") && said.contains("group: \"\""),
                "{said}"
            );
        }
        assert!(said_of(json!("core")).is_ok() && said_of(json!("")).is_ok());
    }

    /// Waits no time at all for an API server at an address.
    async fn look_at(address: std::net::SocketAddr) -> Result<Waited> {
        let client = Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        let wanted = object("httproute/web").unwrap();
        let place = Place::new(&wanted, "v1", "shop");
        wait(&client, &place, What::Applied, Instant::now(), &mut Missing::default()).await
    }

    #[tokio::test]
    async fn an_api_server_that_does_not_answer_in_time_is_too_late_and_one_that_is_not_there_is_an_error() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let began = Instant::now();
        assert_eq!(look_at(address).await.unwrap(), Waited::TooLate);
        assert!(began.elapsed() < ANSWER / 2, "{:?}", began.elapsed());
        drop(listener);
        assert!(look_at(address).await.is_err());
    }

    #[test]
    fn a_mistyped_name_is_told_with_the_one_that_was_meant() {
        let there = || Some(Answer::Is(json!([{"metadata": {"name": "reviews"}}])));
        assert!(none("review", there()).ends_with("(did you mean reviews?)"));
        assert_eq!(none("web", there()), "there is none of that name");
        assert_eq!(none("review", None), "there is none of that name");
    }

    #[test]
    fn our_own_kinds_have_conditions_themselves() {
        let policy = |status: &str| {
            let conditions = [condition("Applied", status, 1)];
            json!({"kind": "TrafficPolicy", "metadata": {"generation": 1}, "status": {"conditions": conditions}})
        };
        assert_eq!(of(&policy("True")), "");
        assert_ne!(of(&policy("Unknown")), "");
    }

    #[test]
    fn an_object_is_named_by_its_kind_in_any_spelling() {
        for text in ["httproute/web", "HTTPRoute/web", "httproutes/web"] {
            assert_eq!(object(text).unwrap().kind, 0, "{text}");
        }
        for wrong in ["web", "pod/web", "httproute/", "httproute/a/b", "httproute/A"] {
            assert!(object(wrong).is_err(), "{wrong}");
        }
        assert_eq!(patience("0s"), Ok(Duration::ZERO));
        assert!(patience("25h").is_err() && patience("soon").is_err());
    }
}
