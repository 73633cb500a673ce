//! Everything that is looked at, read once: what is judged is one state of the cluster, as far as a cluster has one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Value, json};
use weft_injector::annotations::INJECT_LABEL;
use weft_injector::sidecar::PROXY;

use crate::cluster::api::{Answer, Api};
use crate::wait::KINDS;

/// The CRDs that matter: of the Gateway API, of MCS, ours.
pub(super) const CRDS: [&str; 9] = [
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "tcproutes.gateway.networking.k8s.io",
    "tlsroutes.gateway.networking.k8s.io",
    "serviceexports.multicluster.x-k8s.io",
    "serviceimports.multicluster.x-k8s.io",
    "servicesubsets.weft.dev",
    "trafficpolicies.weft.dev",
    "clusterpeers.weft.dev",
];
/// What an installation makes, as reviews of access name it: verb, group, resource, and whether in Weft's own namespace.
const INSTALLS: [(&str, &str, &str, bool); 14] = [
    ("create", "", "namespaces", false),
    ("create", "apiextensions.k8s.io", "customresourcedefinitions", false),
    ("create", "rbac.authorization.k8s.io", "clusterroles", false),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", false),
    (
        "create",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
    ),
    ("create", "rbac.authorization.k8s.io", "roles", true),
    ("create", "rbac.authorization.k8s.io", "rolebindings", true),
    ("create", "", "serviceaccounts", true),
    ("create", "", "services", true),
    ("create", "apps", "deployments", true),
    ("create", "policy", "poddisruptionbudgets", true),
    // `kubectl apply --server-side` patches, also what is not there yet.
    ("patch", "", "namespaces", false),
    ("patch", "rbac.authorization.k8s.io", "clusterroles", false),
    ("patch", "apps", "deployments", true),
];
/// By ServiceAccount: verb, group, resource, name, and whether in Weft's own namespace.
type Right = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
);
/// What Weft itself must be allowed.
const RUNS: [Right; 10] = [
    ("weft-control", "watch", "", "pods", "", false),
    ("weft-control", "watch", "", "services", "", false),
    ("weft-control", "watch", "discovery.k8s.io", "endpointslices", "", false),
    (
        "weft-control",
        "watch",
        "gateway.networking.k8s.io",
        "httproutes",
        "",
        false,
    ),
    (
        "weft-control",
        "create",
        "authentication.k8s.io",
        "tokenreviews",
        "",
        false,
    ),
    ("weft-control", "create", "", "configmaps", "", false),
    ("weft-control", "get", "", "secrets", "weft-authority", true),
    ("weft-injector", "get", "", "namespaces", "", false),
    (
        "weft-injector",
        "patch",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        "weft-injector",
        false,
    ),
    ("weft-injector", "update", "", "secrets", "weft-webhook", true),
];

/// What it must be allowed besides where Services are shared with other clusters.
const SHARES: [Right; 3] = [
    (
        "weft-control",
        "create",
        "multicluster.x-k8s.io",
        "serviceimports",
        "",
        false,
    ),
    ("weft-control", "create", "", "services", "", false),
    (
        "weft-control",
        "create",
        "discovery.k8s.io",
        "endpointslices",
        "",
        false,
    ),
];

/// What was seen of a cluster.
pub(super) struct Seen {
    pub(super) namespace: String,
    pub(super) now: SystemTime,
    /// `/version`.
    pub(super) version: Value,
    /// How far the API server's clock is ahead, in seconds.
    pub(super) ahead: Option<i64>,
    /// CRDs by name.
    pub(super) crds: BTreeMap<&'static str, Answer>,
    /// Reviews of access: what was asked, and whether it is allowed. `None`: nobody may ask.
    pub(super) access: Vec<(String, Option<bool>)>,
    /// Objects of Weft's own, by kind and name.
    pub(super) own: BTreeMap<&'static str, Answer>,
    /// All Namespaces.
    pub(super) namespaces: Answer,
    /// What is in those with a label of ours.
    pub(super) meshed: Vec<Meshed>,
    /// The pods of all Namespaces that have a proxy.
    pub(super) proxied: Answer,
    /// Routes, subsets and policies of all Namespaces, by the plural of their kind.
    pub(super) written: BTreeMap<&'static str, Answer>,
}

impl Seen {
    /// A cluster of which nothing was looked at yet.
    pub(super) fn nothing(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            now: SystemTime::now(),
            version: Value::Null,
            ahead: None,
            crds: BTreeMap::new(),
            access: Vec::new(),
            own: BTreeMap::new(),
            namespaces: Answer::Missing,
            meshed: Vec::new(),
            proxied: Answer::Missing,
            written: BTreeMap::new(),
        }
    }
}

/// What is in a labelled namespace.
#[derive(Clone)]
pub(super) struct Meshed {
    pub(super) name: String,
    pub(super) namespace: Value,
    pub(super) pods: Answer,
    pub(super) policies: Answer,
    pub(super) services: Answer,
    pub(super) ingresses: Answer,
    pub(super) trust: Answer,
}

/// Looks at a cluster.
pub(super) async fn look(api: &Api, namespace: &str, pre: bool) -> Result<Seen> {
    let (version, ahead) = api.version().await?;
    let mut seen = Seen {
        version,
        ahead,
        ..Seen::nothing(namespace)
    };
    for name in CRDS {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        seen.crds.insert(name, api.get(&path).await?);
    }
    if pre {
        for (verb, group, resource, inside) in INSTALLS {
            let attributes = json!({
                "verb": verb, "group": group, "resource": resource, "namespace": if inside { namespace } else { "" },
            });
            let what = format!(
                "{verb} {resource}{}",
                if inside {
                    format!(" in {namespace}")
                } else {
                    String::new()
                }
            );
            let object = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            });
            let allowed = allowed(api, "selfsubjectaccessreviews", &object).await?;
            seen.access.push((what, allowed));
        }
        return Ok(seen);
    }
    own(api, &mut seen).await?;
    meshed(api, &mut seen).await?;
    seen.proxied = match api.list("/api/v1/pods").await? {
        Answer::Is(Value::Array(pods)) => Answer::Is(pods.into_iter().filter(is_proxied).collect()),
        other => other,
    };
    for (_, group, plural, versions) in KINDS {
        for version in versions {
            let answer = api.list(&format!("/apis/{group}/{version}/{plural}")).await?;
            let is_missing = answer == Answer::Missing;
            seen.written.insert(plural, answer);
            if !is_missing {
                break;
            }
        }
    }
    Ok(seen)
}

fn is_proxied(pod: &Value) -> bool {
    let lists = ["initContainers", "containers"];
    let mut all = lists
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten());
    all.any(|container| container["name"] == PROXY)
}

async fn allowed(api: &Api, resource: &str, object: &Value) -> Result<Option<bool>> {
    let answer = api
        .review(&format!("/apis/authorization.k8s.io/v1/{resource}"), object)
        .await?;
    Ok(answer.object().map(|review| review["status"]["allowed"] == true))
}

async fn own(api: &Api, seen: &mut Seen) -> Result<()> {
    let namespace = seen.namespace.clone();
    let core = format!("/api/v1/namespaces/{namespace}");
    let apps = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let webhooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    let of = |service: &str| format!("{slices}?labelSelector=kubernetes.io/service-name%3D{service}");
    for (name, path) in [
        ("Namespace", core.clone()),
        ("Deployment weft-control", format!("{apps}/weft-control")),
        ("Deployment weft-injector", format!("{apps}/weft-injector")),
        (
            "pods",
            format!("{core}/pods?labelSelector=app.kubernetes.io/name%3Dweft"),
        ),
        ("webhook", format!("{webhooks}/weft-injector")),
        ("Secret weft-webhook", format!("{core}/secrets/weft-webhook")),
        ("Secret weft-authority", format!("{core}/secrets/weft-authority")),
        ("endpoints of weft-control", of("weft-control")),
        ("endpoints of weft-injector", of("weft-injector")),
        ("Service weft-federation", format!("{core}/services/weft-federation")),
        ("Service weft-gateway", format!("{core}/services/weft-gateway")),
        ("Deployment weft-gateway", format!("{apps}/weft-gateway")),
    ] {
        seen.own.insert(name, api.get(&path).await?);
    }
    let peers = api.list("/apis/weft.dev/v1alpha1/clusterpeers").await?;
    seen.own.insert("ClusterPeers", peers);
    let shares = seen.own["Service weft-federation"].object().is_some();
    let shared: &[Right] = if shares { &SHARES } else { &[] };
    for (account, verb, group, resource, name, inside) in RUNS.iter().chain(shared).copied() {
        let object = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{namespace}:{account}"),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
                "resourceAttributes": {
                    "verb": verb, "group": group, "resource": resource, "name": name,
                    "namespace": if inside { namespace.as_str() } else { "" },
                },
            },
        });
        let what = format!("{account} may {verb} {resource} {name}");
        seen.access.push((
            what.trim_end().to_owned(),
            allowed(api, "subjectaccessreviews", &object).await?,
        ));
    }
    Ok(())
}

async fn meshed(api: &Api, seen: &mut Seen) -> Result<()> {
    seen.namespaces = api.list("/api/v1/namespaces").await?;
    let all = seen
        .namespaces
        .object()
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for namespace in all {
        if namespace["metadata"]["labels"][INJECT_LABEL].is_null() {
            continue;
        }
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let core = format!("/api/v1/namespaces/{name}");
        let networking = format!("/apis/networking.k8s.io/v1/namespaces/{name}");
        seen.meshed.push(Meshed {
            pods: api.list(&format!("{core}/pods")).await?,
            policies: api.list(&format!("{networking}/networkpolicies")).await?,
            services: api.list(&format!("{core}/services")).await?,
            ingresses: api.list(&format!("{networking}/ingresses")).await?,
            trust: api.get(&format!("{core}/configmaps/weft-trust")).await?,
            name,
            namespace,
        });
    }
    Ok(())
}
