//! Tables from YAML to compiled resources.

mod endpoints;
mod explained;
mod federation;
mod filters;
mod holds;
mod imports;
mod inbound;
mod opaque;
mod policies;
mod precedence;
mod property;
mod routes;
mod streams;

use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use weft_model::destination::{Lookup, Service, Target};
use weft_model::endpoint::BackendPlace;
use weft_model::endpoint::EndpointSet;
use weft_model::identity::TrustDomain;
use weft_model::route::RequestHead;
use weft_proto::resource::Body;

use super::*;
use crate::index::{Changed, Condition, ConditionType};
use crate::manifests::{Changes, Writer, parse};
use crate::objects::{Kinds, ObjectRef, Origin};

/// An index, edited by YAML.
struct World {
    index: Index,
    version: u64,
}

/// With networks of its own for pods and services.
fn closed() -> Settings {
    Settings {
        inside: ["10.244.0.0/16", "10.96.0.0/16"]
            .map(|network| network.parse().unwrap())
            .to_vec(),
        ..settings()
    }
}

fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::new("td").unwrap(),
        cluster: "one".to_owned(),
        network: "one".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        inside: Vec::new(),
        outside: Vec::new(),
    }
}

/// What a proxy must honour to act on a service.
fn requires(service: &Compiled<Service>) -> Vec<String> {
    Body::Service(service.value.clone()).requires()
}

/// All that one subscription needs.
struct Closure {
    lookup: Compiled<Option<Lookup>>,
    service: Option<(String, Compiled<Service>)>,
    endpoints: Vec<(String, Compiled<EndpointSet>)>,
}

fn closure(index: &Index, target: &Target, client: &str) -> Closure {
    let lookup = lookup(index, target, client);
    let key = match &lookup.value {
        Some(Lookup::Service(key)) => Some(key.clone()),
        _ => None,
    };
    let service = key.and_then(|key| service(index, &key).map(|service| (key, service)));
    let rules = service
        .iter()
        .flat_map(|(_, service)| &service.value.rules)
        .flat_map(|rules| &rules.rules);
    let backends = rules.flat_map(|rule| rule.endpoint_sets()).map(str::to_owned);
    let streams = service.iter().flat_map(|(_, service)| &service.value.streams);
    let streams = streams.flat_map(|streams| streams.endpoint_sets()).map(str::to_owned);
    let backends = backends.chain(streams);
    let own = service.iter().map(|(_, service)| service.value.endpoints.clone());
    let keys: BTreeSet<String> = backends.chain(own).collect();
    let endpoints = keys
        .into_iter()
        .filter_map(|key| endpoint_set(index, &key).map(|set| (key, set)));
    let endpoints = endpoints.collect();
    Closure {
        lookup,
        service,
        endpoints,
    }
}

impl World {
    /// What there is when the process begins.
    fn new(yaml: &str) -> Self {
        Self::with(settings(), yaml)
    }

    fn with(settings: Settings, yaml: &str) -> Self {
        let mut world = Self {
            index: Index::new(settings),
            version: 0,
        };
        let objects = world.objects(yaml);
        world.index.replace(&Snapshot {
            objects,
            ..Snapshot::default()
        });
        world
    }

    fn objects(&mut self, yaml: &str) -> Vec<Arc<Object>> {
        let snapshot = parse(Path::new("a.yaml"), yaml, Writer::Machine, &Kinds::control()).unwrap();
        self.version += 1;
        let numbered = |object: Arc<Object>| {
            let mut object = Arc::unwrap_or_clone(object);
            object.resource_version = self.version;
            Arc::new(object)
        };
        snapshot.objects.into_iter().map(numbered).collect()
    }

    fn edit(&mut self, yaml: &str) -> Changed {
        let upserts = self.objects(yaml);
        self.index.apply(&Changes {
            upserts,
            ..Changes::default()
        })
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Changed {
        let deletes = vec![reference(kind, namespace, name)];
        self.index.apply(&Changes {
            deletes,
            ..Changes::default()
        })
    }

    #[track_caller]
    fn lookup(&self, target: &str, client: &str) -> Lookup {
        self.answer(target, client).expect("an answer")
    }

    #[track_caller]
    fn answer(&self, target: &str, client: &str) -> Option<Lookup> {
        lookup(&self.index, &target.parse::<Target>().unwrap(), client).value
    }

    /// The closure of a target that is a Service's port.
    #[track_caller]
    fn service(&self, target: &str, client: &str) -> Compiled<Service> {
        closure(&self.index, &target.parse().unwrap(), client)
            .service
            .expect("a Service")
            .1
    }

    /// `ADDRESS` of the endpoints of a set, `!` after those without an identity, `~` after those that drain.
    #[track_caller]
    fn set(&self, key: &str) -> Vec<String> {
        let set: EndpointSet = endpoint_set(&self.index, key).expect("a set").value;
        let mut all: Vec<String> = set
            .endpoints
            .iter()
            .map(|endpoint| {
                let plain = if endpoint.identity.is_none() { "!" } else { "" };
                let draining = if endpoint.draining { "~" } else { "" };
                format!("{}{plain}{draining}", endpoint.address)
            })
            .collect();
        all.sort();
        all
    }

    /// `ROUTE#RULE` that a request falls under, or `404`.
    #[track_caller]
    fn route(&self, target: &str, client: &str, request: &str) -> String {
        let rules = self.service(target, client).value.rules.expect("routes");
        let mut words = request.split(' ');
        let method: Method = words.next().unwrap().parse().unwrap();
        let (path, query) = match words.next().unwrap().split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (request.split(' ').nth(1).unwrap().to_owned(), None),
        };
        let mut headers = HeaderMap::new();
        for header in words {
            let (name, value) = header.split_once(':').unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let head = RequestHead {
            method: &method,
            path: &path,
            query: query.as_deref(),
            headers: &headers,
        };
        rules
            .pick(&head)
            .map_or("404".to_owned(), |rule| format!("{}#{}", rule.route.name, rule.index))
    }

    /// `BACKEND WEIGHT` of all backends of a Service's only rule.
    #[track_caller]
    fn split(&self, target: &str) -> Vec<String> {
        let service = self.service(target, "client").value;
        let rules = service.rules.expect("routes").rules;
        assert_eq!(rules.len(), 1, "{rules:?}");
        rules[0]
            .backends
            .iter()
            .map(|backend| match &backend.place {
                BackendPlace::Endpoints(key) => format!("{key} {}", backend.weight),
                BackendPlace::Unresolved(why) => format!("500 {}: {why}", backend.weight),
            })
            .collect()
    }

    #[track_caller]
    fn condition(&self, object: (&str, &str, &str), r#type: ConditionType) -> Condition {
        let wanted = reference(object.0, object.1, object.2);
        let status = self
            .index
            .statuses()
            .into_iter()
            .find(|status| status.object == wanted)
            .expect("a status");
        status
            .conditions
            .into_iter()
            .find(|condition| condition.r#type == r#type)
            .expect("a condition")
    }

    fn problems(&self) -> Vec<String> {
        self.index.problems().iter().map(ToString::to_string).collect()
    }
}

fn reference(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// A pod of the mesh, or (`mesh` false) not.
fn pod(namespace: &str, name: &str, ip: &str, version: &str, node: &str, mesh: bool) -> String {
    let proxy = if mesh {
        ", initContainers: [{name: weft-init}, {name: weft-proxy}]"
    } else {
        ""
    };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, uid: uid-{name}, labels: {{app: {namespace}-app, version: {version}}}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: sa-{name}, containers: [{{name: app}}]{proxy}}}\n\
         status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
    )
}

/// A Service with the ports `NAME:PORT`.
fn service_of(namespace: &str, name: &str, ip: &str, ports: &[(&str, u16)]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|(name, port)| format!("{{name: {name}, port: {port}}}"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{clusterIP: {ip}, clusterIPs: ['{ip}'], ports: [{}]}}\n",
        ports.join(", ")
    )
}

/// A slice with the port `NAME:PORT` of pods `(name, ip, more)`.
fn slice(namespace: &str, service: &str, port: (&str, u16), pods: &[(&str, &str, &str)]) -> String {
    let endpoint = |(name, ip, more): &(&str, &str, &str)| {
        format!(
            "  - {{addresses: ['{ip}'], targetRef: {{kind: Pod, namespace: {namespace}, name: {name}, uid: uid-{name}}}{more}}}\n"
        )
    };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: {namespace}, name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{{name: {}, port: {}}}]\nendpoints:\n{}",
        port.0,
        port.1,
        pods.iter().map(endpoint).collect::<String>()
    )
}

/// A route of some kind on Service `reviews` of `shop`, with this YAML under `rules:` (indented by two).
fn route(kind: &str, namespace: &str, name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, namespace: shop, name: reviews}}]\n  rules:\n{rules}"
    )
}

/// A rule that sends everything that matches to `reviews`.
fn rule(matches: &str) -> String {
    let matches = if matches.is_empty() {
        String::new()
    } else {
        format!("    matches: [{matches}]\n")
    };
    format!("  - name: r\n{matches}    backendRefs: [{{name: reviews, namespace: shop, port: 80}}]\n")
}

/// Service `reviews` of `shop` at 10.96.0.1:80, and three pods: v1 in regions a and b, v2 in region a.
fn shop() -> String {
    let node = |name: &str, region: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {region}1}}}}\n"
        )
    };
    let subset = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: ServiceSubset\nmetadata: {{namespace: shop, name: {name}}}\nspec: {{service: reviews, {spec}}}\n"
        )
    };
    [
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned(),
        node("na", "a"),
        node("nb", "b"),
        service_of("shop", "reviews", "10.96.0.1", &[("http", 80)]),
        pod("shop", "p1", "10.244.0.1", "v1", "na", true),
        pod("shop", "p2", "10.244.0.2", "v1", "nb", true),
        pod("shop", "p3", "10.244.0.3", "v2", "na", true),
        slice(
            "shop",
            "reviews",
            ("http", 8080),
            &[
                ("p1", "10.244.0.1", ""),
                ("p2", "10.244.0.2", ""),
                ("p3", "10.244.0.3", ""),
            ],
        ),
        subset("v1", "selector: {version: v1}"),
        subset("v2", "selector: {version: v2}"),
        subset("in-b", "regions: [b]"),
        subset("v1-in-a", "selector: {version: v1}, regions: [a]"),
    ]
    .concat()
}

const REVIEWS: &str = "10.96.0.1:80";
