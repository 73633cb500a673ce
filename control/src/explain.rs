//! Explain: where a request would go, and why. Pure: the compiler's resources in, the model's decisions out.
//!
//! Nothing is decided here a second time: what is found is compiled as it is for a proxy ([`crate::compile`]), the rule is
//! picked and the places are weighed by `weft_model`, as a proxy does it. Only the words are made here.

use std::path::PathBuf;

use http::HeaderMap;
use serde::Serialize;
use weft_model::destination::{Lookup, Protocol, Service, Target};
use weft_model::endpoint::Place;
use weft_model::filter::Scheme;
use weft_model::name::ObjectRef;
use weft_model::route::{RequestHead, Rule};
use weft_model::stream::Streams;

use crate::compile::ledger::Ledger;
use crate::compile::{self, policies};
use crate::index::{Index, Name, Part, is_of_requests};

mod heard;
mod names;
mod places;
mod words;

pub(crate) use heard::told;
pub use heard::{Heard, hear};
pub use places::{Behind, Tier};

/// A request, and who would make it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The caller's namespace.
    pub namespace: String,
    /// The caller: a pod, or the name of what owns it. `None`: any pod of the namespace that lies nowhere in particular.
    pub from: Option<String>,
    /// The scheme: decides the port that a redirect may leave out.
    pub scheme: Scheme,
    /// What is called.
    pub target: Target,
    /// The authority, as it was written.
    pub authority: String,
    /// The method.
    pub method: http::Method,
    /// The path, without the query.
    pub path: String,
    /// The query, without the question mark.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// It is no request, but a stream of bytes, TLS or not: what follows of method, path and headers does not count.
    pub stream: bool,
    /// The server name that a TLS stream asks for.
    pub server_name: Option<String>,
}

/// Where a request would go, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who calls.
    pub from: Caller,
    /// What is called: `name:reviews:80`.
    pub target: String,
    /// Names that stand for others and were followed, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The Service's port: `shop/reviews:80`; of one without an address of its own without the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What is declared of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// An object that belongs here is invalid, and what acts instead is known to proxies only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Clusters from which something is imported, and of which is not known here what they export: none of their endpoints is
    /// among the candidates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<String>,
    /// The rules in order of precedence, up to the one that matches.
    pub rules: Vec<Seen>,
    /// What is done.
    pub verdict: Verdict,
}

/// Who calls.
#[derive(Clone, Debug, Serialize)]
pub struct Caller {
    /// The namespace.
    pub namespace: String,
    /// The pod. Empty: none in particular.
    pub pod: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Whether it has a sidecar. Without one, no rule acts on it.
    pub meshed: bool,
}

/// Where an object says something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// `HTTPRoute shop/reviews`.
    pub object: String,
    /// `spec.rules[0]`.
    pub field: String,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// One rule that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Which.
    pub said: Said,
    /// Its name, or empty.
    pub name: String,
    /// What it matches, for people.
    pub wants: String,
    /// Whether the request is like that.
    pub matches: bool,
    /// Why not, or empty.
    pub why: String,
}

/// What is done with the request.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "does", rename_all = "camelCase")]
pub enum Verdict {
    /// Passed on as it is: nothing of the mesh.
    Outside,
    /// Refused, after a wait: an address of the mesh's own networks that nothing has.
    Unknown,
    /// The name is one of a Service that there is not, and does not resolve.
    NoSuchService {
        /// `shop/reviews`.
        service: String,
        /// Services that the namespace has, at most 12.
        has: Vec<String>,
    },
    /// Refused: something of the mesh, but not this port.
    NoSuchPort {
        /// Why.
        reason: String,
    },
    /// Refused: a stream that is no HTTP, where only that is taken.
    NotHttp,
    /// Sent to this very pod.
    Pod {
        /// `shop/reviews-1`, or `shop/reviews-1 of cluster west`.
        pod: String,
    },
    /// Sent to one of the pods of a headless Service: the one whose address the client takes of those that its name has.
    OneOf {
        /// `shop/db-0`, at most a few.
        pods: Vec<String>,
        /// How many there are.
        number: usize,
    },
    /// Refused: routes are attached, and none matches.
    NoMatch {
        /// The status of the answer; 0: a stream, which is closed.
        status: u16,
    },
    /// Answered with another place.
    Redirect {
        /// The status of the answer.
        status: u16,
        /// Its `Location`.
        location: String,
    },
    /// Forwarded.
    Forward(Box<Forward>),
}

/// How a request is forwarded.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// It is a stream, and not a request: what is refused is closed, without a status.
    pub stream: bool,
    /// What is done to the request and its response, one sentence each.
    pub filters: Vec<String>,
    /// Time limits and retries, and who says so.
    pub terms: Vec<Term>,
    /// The candidates.
    pub backends: Vec<Backend>,
}

/// A time limit, or retries.
#[derive(Clone, Debug, Serialize)]
pub struct Term {
    /// For people.
    pub what: String,
    /// Who says so. `None`: nobody, it is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}

/// A candidate.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// `shop/reviews:80`.
    pub service: String,
    /// The ServiceSubset, or empty.
    pub subset: String,
    /// Its weight.
    pub weight: u32,
    /// Its share of the requests, in percent.
    pub percent: f64,
    /// What is done to requests that go there, and to their responses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// It does not resolve: its share is answered with 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<String>,
    /// What is behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
}

/// Explains a request.
///
/// # Errors
/// There is no such caller: for people.
pub fn explain(index: &Index, question: &Question) -> Result<Explanation, String> {
    let (from, here) = caller(index, question)?;
    let (target, aliases) = names::follow(index, &question.target, &question.namespace);
    let lookup = compile::lookup(index, target.as_ref().unwrap_or(&question.target), &question.namespace);
    let mut explanation = Explanation {
        from,
        target: question.target.to_string(),
        aliases,
        service: None,
        protocol: None,
        held: lookup.hold,
        unheard: unheard(index),
        rules: Vec::new(),
        verdict: Verdict::Unknown,
    };
    let Some(target) = target else {
        explanation.verdict = Verdict::Outside;
        return Ok(explanation);
    };
    if names::headless(index, &target, (&question.namespace, &here), &mut explanation) {
        return Ok(explanation);
    }
    match lookup.value {
        None => {}
        Some(Lookup::Outside { .. }) => {
            explanation.verdict = nameless(index, &target, &question.namespace).unwrap_or(Verdict::Outside);
        }
        Some(Lookup::NoSuchPort { reason, .. }) => explanation.verdict = Verdict::NoSuchPort { reason },
        Some(Lookup::Direct { endpoint, protocol }) => {
            explanation.protocol = Some(words::protocol(protocol));
            let pod = places::pod(&endpoint, &here);
            explanation.verdict = match question.stream && is_of_requests(protocol) {
                true => Verdict::NotHttp,
                false => Verdict::Pod { pod },
            };
        }
        Some(Lookup::Service(key)) => {
            if let Some(service) = compile::service(index, &key) {
                explanation.held = explanation.held.or(service.hold);
                of_service(index, question, &here, &service.value, &mut explanation);
            }
        }
    }
    Ok(explanation)
}

/// The peers that something is imported from, and that were not heard.
fn unheard(index: &Index) -> Vec<String> {
    let peers = index.peers().filter(|(_, peer)| !peer.imports.is_empty());
    let unheard = peers.filter(|(cluster, _)| {
        let heard = index.heard_of(cluster);
        heard.is_none_or(|(.., remote)| remote.cluster.is_none())
    });
    unheard.map(|(cluster, _)| cluster.to_owned()).collect()
}

/// A name that can only be one of a Service, and is of none: it has no dot, or ends in a namespace that there is.
fn nameless(index: &Index, target: &Target, namespace: &str) -> Option<Verdict> {
    const MOST: usize = 12;
    let Target::Host { host, .. } = target else {
        return None;
    };
    let name = compile::service_of_host(host, namespace, &index.settings.cluster_domain)?;
    let first = Name::new(name.namespace.as_str(), "");
    let here = index.services.range(first..).map(|(other, _)| other);
    let here: Vec<String> = here
        .take_while(|other| other.namespace == name.namespace)
        .map(|other| other.name.clone())
        .collect();
    let is_ours = !host.contains('.') || host.contains(".svc") || !here.is_empty();
    (is_ours && !here.contains(&name.name)).then(|| Verdict::NoSuchService {
        service: name.to_string(),
        has: here.into_iter().take(MOST).collect(),
    })
}

/// Who calls, and from where.
fn caller(index: &Index, question: &Question) -> Result<(Caller, Place), String> {
    let namespace = &question.namespace;
    let Some(wanted) = &question.from else {
        let place = Place {
            cluster: index.settings.cluster.clone(),
            ..Place::default()
        };
        let caller = Caller {
            namespace: namespace.clone(),
            pod: String::new(),
            region: String::new(),
            zone: String::new(),
            meshed: true,
        };
        return Ok((caller, place));
    };
    let here = || {
        let first = Name::new(namespace.as_str(), "");
        let pods = index.pods.range(first..);
        pods.take_while(|(name, _)| name.namespace == *namespace)
            .filter_map(|(name, kept)| Some((name, kept.form()?)))
    };
    let exact = here().find(|(name, _)| name.name == *wanted);
    let owned = || here().find(|(_, pod)| pod.workload == *wanted);
    let begun = || here().find(|(name, _)| name.name.starts_with(wanted.as_str()));
    let Some((name, pod)) = exact.or_else(owned).or_else(begun) else {
        let names: Vec<&str> = here().map(|(name, _)| name.name.as_str()).take(12).collect();
        return Err(match names.is_empty() {
            true => format!("there is no pod {wanted:?}: the namespace {namespace} has none (-n chooses another)"),
            false => format!(
                "there is no pod {wanted:?} in the namespace {namespace}; it has {}",
                names.join(", ")
            ),
        });
    };
    let place = index.place(&pod.node);
    let caller = Caller {
        namespace: namespace.clone(),
        pod: name.name.clone(),
        region: place.region.clone(),
        zone: place.zone.clone(),
        meshed: pod.injected,
    };
    Ok((caller, place))
}

fn of_service(index: &Index, question: &Question, here: &Place, service: &Service, into: &mut Explanation) {
    into.service = Some(service.port.to_string());
    into.protocol = Some(words::protocol(service.protocol));
    let head = RequestHead {
        method: &question.method,
        path: &question.path,
        query: question.query.as_deref(),
        headers: &question.headers,
    };
    if question.stream && is_of_requests(service.protocol) {
        into.verdict = Verdict::NotHttp;
        return;
    }
    // Of what nothing is declared, the bytes tell.
    let opaque = question.stream || matches!(service.protocol, Protocol::Opaque | Protocol::Tls);
    if let Some(streams) = service.streams.as_ref().filter(|_| opaque) {
        into.verdict = of_streams(index, question, here, service, streams, &mut into.rules);
        return;
    }
    let Some(rules) = service.rules.as_ref().filter(|_| !opaque) else {
        into.verdict = Verdict::Forward(Box::new(Forward {
            stream: opaque,
            filters: Vec::new(),
            terms: Vec::new(),
            backends: vec![places::whole(index, service, here)],
        }));
        return;
    };
    let picked = rules.pick(&head);
    for rule in &rules.rules {
        let other = rule.matches.mismatch(&head);
        into.rules.push(Seen {
            said: said_by_rule(index, rule),
            name: rule.name.clone(),
            wants: words::wants(&rule.matches),
            matches: other.is_none(),
            why: other.map(|other| words::why(&other, &head)).unwrap_or_default(),
        });
        if other.is_none() {
            break;
        }
    }
    into.verdict = match picked {
        None => {
            let grpc = weft_model::route::is_grpc(&question.headers);
            Verdict::NoMatch {
                status: if grpc { 200 } else { 404 },
            }
        }
        Some(rule) => of_rule(index, question, here, service, rule),
    };
}

fn of_streams(
    index: &Index,
    question: &Question,
    here: &Place,
    service: &Service,
    streams: &Streams,
    seen: &mut Vec<Seen>,
) -> Verdict {
    let name = question.server_name.as_deref();
    let picked = streams.pick(name);
    let looked_at = picked.map_or(streams.rules.len(), |picked| picked + 1);
    for (i, rule) in streams.rules.iter().enumerate().take(looked_at) {
        let matches = Some(i) == picked;
        seen.push(Seen {
            said: said(index, &rule.route, &format!("spec.rules[{}]", rule.index)),
            name: rule.name.clone(),
            wants: rule
                .host
                .as_ref()
                .map_or("any stream".to_owned(), |host| format!("server name {host}")),
            matches,
            why: match (matches, name) {
                (true, _) => String::new(),
                (false, Some(name)) => format!("the server name is {name}"),
                (false, None) => "it is no TLS, or names no server".to_owned(),
            },
        });
    }
    match picked.and_then(|picked| streams.rules.get(picked)) {
        None => Verdict::NoMatch { status: 0 },
        Some(rule) => Verdict::Forward(Box::new(Forward {
            stream: true,
            filters: Vec::new(),
            terms: Vec::new(),
            backends: places::backends(index, service, &rule.backends, here),
        })),
    }
}

fn of_rule(index: &Index, question: &Question, here: &Place, service: &Service, rule: &Rule) -> Verdict {
    if let Some(redirect) = &rule.redirect {
        let (path, query) = (question.path.as_str(), question.query.as_deref());
        let location = redirect.location(question.scheme, &question.authority, service.port.port, path, query);
        return Verdict::Redirect {
            status: redirect.status,
            location,
        };
    }
    Verdict::Forward(Box::new(Forward {
        stream: false,
        filters: words::filters(&rule.filters),
        terms: terms(index, service, rule),
        backends: places::backends(index, service, &rule.backends, here),
    }))
}

/// Where the rule stands.
fn said_by_rule(index: &Index, rule: &Rule) -> Said {
    match index.routes.contains_key(&rule.route) {
        true => said(index, &rule.route, &format!("spec.rules[{}]", rule.index)),
        // A policy's, where there is no route.
        false => said(index, &rule.route, "spec"),
    }
}

fn terms(index: &Index, service: &Service, rule: &Rule) -> Vec<Term> {
    let name = Name::new(service.port.namespace.as_str(), service.port.name.as_str());
    let route = index.routes.get(&rule.route).and_then(|kept| kept.form());
    let at = rule.index as usize;
    let place = route.and_then(|route| Some((&rule.route, at, route.rules.get(at)?)));
    let said = policies::terms(index, &name, place, &mut Ledger::default()).said;
    let mut terms = Vec::new();
    let mut add = |what: Option<String>, part: Part| {
        let by = said.iter().find(|(said, ..)| *said == part);
        terms.extend(what.map(|what| Term {
            what,
            said: by.map(|(_, object, field)| self::said(index, object, field)),
        }));
    };
    add(rule.timeouts.request.map(words::request), Part::Request);
    add(
        rule.timeouts.backend_request.map(words::backend_request),
        Part::BackendRequest,
    );
    add(rule.retry.as_ref().map(words::retry), Part::Retry);
    terms
}

/// Where a field of an object stands.
fn said(index: &Index, object: &ObjectRef, field: &str) -> Said {
    let origin = index.object(object).and_then(|object| object.origin.as_ref());
    Said {
        object: object.to_string(),
        field: field.to_owned(),
        file: origin.map(|origin| origin.file.clone()),
        line: origin.map(|origin| origin.line_of_field(field)),
    }
}

#[cfg(test)]
mod tests;
