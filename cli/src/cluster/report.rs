//! The state of everything on a cluster, as `weft status -o json` prints it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use weft_control::index::Settings;
use weft_control::objects::Object;
use weft_injector::annotations::INJECT_LABEL;
use weft_local::cluster::Review;
use weft_local::manifest::Key;
use weft_model::identity::TrustDomain;

use super::api::Answer;
use super::objects::object;
use super::pods::{self, has_ended, is_meshed, list, word};
use super::services;
use super::{Cluster, JOBS, NAMESPACES, NODES, PODS, SERVICES, control};
use crate::mesh::Scope;
use crate::scrape::few;

/// Namespaces whose pods are asked for at once.
const AT_ONCE: usize = 8;
/// Kinds of routes, which may declare what a port speaks.
pub(super) const ROUTES: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"];

/// Callers of other namespaces that are asked: each takes a way through the API server.
const CALLERS_MAX: usize = 200;
/// What is missing where they are not.
const UNASKED: &str = "no traffic, and no protocols as they saw them, of callers in other namespaces";

impl Cluster {
    /// The state of everything in a scope; of all namespaces that are in the mesh, or have a pod that is. What could not be
    /// found out, and is not the most of it, is told in `missing`.
    pub(crate) async fn status(&self, scope: &Scope) -> Result<Value> {
        let namespace = scope.namespace();
        let (said, nodes, pods, services, jobs, routes) = tokio::join!(
            self.control("/status"),
            self.list(&NODES, None),
            self.list(&PODS, namespace),
            self.list(&SERVICES, namespace),
            self.list(&JOBS, namespace),
            self.objects(|kind| ROUTES.contains(&kind), namespace),
        );
        let (pods, services) = (pods?, services?);
        let mut missing = Vec::new();
        let nodes = optional("no regions and zones", nodes, &mut missing);
        let nodes: Vec<Value> = nodes.iter().map(pods::node).collect();
        let jobs = optional("no Jobs", jobs, &mut missing);
        let routes = optional("no protocols that routes declare", routes, &mut missing);
        let declared = Declared::new(&services, routes);
        let (namespaces, shown) = match namespace {
            Some(namespace) => {
                let own = self.namespace_object(namespace).await;
                let own = optional("no protocols that its annotations declare", own, &mut missing);
                (own, BTreeSet::from([namespace.to_owned()]))
            }
            None => {
                let all = self.list(&NAMESPACES, None).await;
                let all = optional("only namespaces with proxies", all, &mut missing);
                let shown = meshed(&all, &pods);
                (all, shown)
            }
        };
        let is_shown = |object: &&Value| shown.contains(word(&object["metadata"]["namespace"]));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut all = said.unwrap_or_else(|error| self.silent(&error));
        all["context"] = json!(self.context);
        all["trustDomain"] = all["mesh"]["trustDomain"].clone();
        all["federation"] = all["mesh"]["federation"].take();
        all["mesh"] = all["mesh"]["cluster"].clone();
        all["pods"] = pods.iter().filter(is_shown).map(|pod| pods::pod(pod, &nodes)).collect();
        let told = |service: &Value| {
            let own = |namespace: &&Value| namespace["metadata"]["name"] == service["metadata"]["namespace"];
            let namespace = namespaces.iter().find(own);
            let declared = |port, annotated| declared.of(service, port, annotated);
            services::service(service, &pods, namespace, declared)
        };
        all["services"] = services.iter().filter(is_shown).map(told).collect();
        let told = |job: &Value| pods::job(job, now.as_secs_f64());
        all["jobs"] = jobs.iter().filter(is_shown).map(told).collect();
        add_nodes(&mut all);
        all["nodes"] = json!(nodes);
        for problem in all["problems"].as_array_mut().into_iter().flatten() {
            problem["text"] = json!(weft_local::api::problem_text(problem));
        }
        all["missing"] = json!(missing);
        Ok(all)
    }

    /// Adds, to the `pods` of a state that was asked for one namespace, those with a proxy in all others: whoever calls across
    /// namespaces counts it there. The control plane knows where there are any.
    pub(crate) async fn add_callers(&self, namespace: &str, status: &mut Value) {
        let mut missing = Vec::new();
        let others = match others(namespace, status) {
            Ok(others) => others,
            Err(why) => {
                missing.push(format!("{UNASKED}: {why}"));
                BTreeSet::new()
            }
        };
        let asked = others.iter().map(|other| self.list(&PODS, Some(other)));
        let asked: Vec<Result<Vec<Value>>> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        let mut pods = Vec::new();
        let mut refused: Vec<(&str, anyhow::Error)> = Vec::new();
        for (other, found) in others.iter().zip(asked) {
            match found {
                Ok(found) => pods.extend(found.into_iter().filter(|pod| is_meshed(pod) && !has_ended(pod))),
                Err(why) => refused.push((other, why)),
            }
        }
        if let Some((_, why)) = refused.first() {
            let names: Vec<String> = refused.iter().map(|(other, _)| (*other).to_owned()).collect();
            missing.push(format!("{UNASKED} ({}): {why:#}", few(&names)));
        }
        let pods: Vec<Value> = pods.iter().map(|pod| pods::pod(pod, list(&status["nodes"]))).collect();
        for (field, more) in [
            ("pods", pods),
            ("missing", missing.into_iter().map(Value::from).collect()),
        ] {
            if let Some(all) = status[field].as_array_mut() {
                all.extend(more);
            }
        }
    }

    /// The Namespace of this name, if there is one.
    async fn namespace_object(&self, name: &str) -> Result<Vec<Value>> {
        match self.api.get(&format!("{}/{name}", NAMESPACES.within(None))).await? {
            Answer::Is(namespace) => Ok(vec![namespace]),
            Answer::Missing => Ok(Vec::new()),
            Answer::Forbidden(why) => bail!("{why}"),
        }
    }

    /// What is said where the control plane can't be asked.
    fn silent(&self, error: &anyhow::Error) -> Value {
        let mut all = control::union(Vec::new());
        all["control"] = json!({
            "namespace": self.control_namespace, "ready": false, "answers": false, "reason": format!("{error:#}"), "replicas": [],
        });
        all
    }
}

/// What the rest does without; that it is missing, and why, is told.
fn optional<T>(what: &str, found: Result<Vec<T>>, missing: &mut Vec<String>) -> Vec<T> {
    found.unwrap_or_else(|error| {
        missing.push(format!("{what}: {error:#}"));
        Vec::new()
    })
}

/// What the ports of Services declare, by themselves and by routes: in the words that a local mesh has for it.
struct Declared {
    review: Review,
}

impl Declared {
    fn new(services: &[Value], routes: Vec<Arc<Object>>) -> Self {
        // Nothing that is asked here depends on what the mesh is called.
        let mut review = Review::new(Settings {
            trust_domain: TrustDomain::new("cluster.local").expect("a constant"),
            cluster: String::new(),
            network: String::new(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        let services = services
            .iter()
            .filter_map(|raw| object("v1", "Service", raw.clone()).map(Arc::new));
        let all: Vec<Arc<Object>> = services.chain(routes).collect();
        review.problems(&all, std::iter::empty());
        Self { review }
    }

    fn of(&self, service: &Value, port: u16, annotated: bool) -> Option<Value> {
        let (metadata, spec) = (&service["metadata"], &service["spec"]);
        let key = Key::new(word(&metadata["namespace"]), word(&metadata["name"]));
        let written = list(&spec["ports"]).iter().find(|written| written["port"] == port);
        let app_protocol = written.and_then(|written| written["appProtocol"].as_str());
        self.review.told(&key, port, app_protocol, annotated)
    }
}

/// The namespaces that are in the mesh, or have a pod that is.
fn meshed(namespaces: &[Value], pods: &[Value]) -> BTreeSet<String> {
    let labelled = namespaces
        .iter()
        .filter(|namespace| namespace["metadata"]["labels"][INJECT_LABEL] == "enabled")
        .map(|namespace| &namespace["metadata"]["name"]);
    let having = pods
        .iter()
        .filter(|pod| is_meshed(pod))
        .map(|pod| &pod["metadata"]["namespace"]);
    labelled.chain(having).map(|name| word(name).to_owned()).collect()
}

/// The namespaces with proxies, but for one. `Err`: why their pods are not asked.
fn others(namespace: &str, status: &Value) -> Result<BTreeSet<String>, String> {
    if status["control"]["answers"] == false {
        return Err("the control plane does not say where they are".to_owned());
    }
    let elsewhere = |proxy: &&Value| !["", namespace].contains(&word(&proxy["namespace"]));
    let all = || list(&status["proxies"]).iter().filter(elsewhere);
    // Pods that ended may be many more than those that run.
    let there = all().filter(|proxy| proxy["connected"] == true).count();
    if there > CALLERS_MAX {
        return Err(format!(
            "{there} proxies are connected there; -A asks them all, and needs `list` in all namespaces"
        ));
    }
    Ok(all().map(|proxy| word(&proxy["namespace"]).to_owned()).collect())
}

/// Where each proxy is.
fn add_nodes(all: &mut Value) {
    let pods = all["pods"].take();
    for proxy in all["proxies"].as_array_mut().into_iter().flatten() {
        let same = |pod: &&Value| pod["namespace"] == proxy["namespace"] && pod["name"] == proxy["pod"];
        proxy["node"] = pods::list(&pods)
            .iter()
            .find(same)
            .map_or(Value::Null, |pod| pod["node"].clone());
    }
    all["pods"] = pods;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_looked_for_where_there_are_proxies_and_not_twice_in_the_namespace_that_is_asked_for() {
        let proxies =
            json!([{"namespace": "shop"}, {"namespace": "edge"}, {"namespace": "edge"}, {"namespace": "ops"}]);
        let found = others("shop", &json!({"proxies": proxies})).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["edge", "ops"]);
        let why = others("shop", &json!({"proxies": [], "control": {"answers": false}})).unwrap_err();
        assert!(why.contains("does not say"), "{why}");
    }

    #[test]
    fn callers_are_asked_where_so_many_run_however_many_ended_or_are_in_the_namespace_itself() {
        let of = |connected: usize| {
            let proxy = |namespace, connected| json!({"namespace": namespace, "connected": connected});
            let own = vec![proxy("shop", true); CALLERS_MAX];
            let ended = vec![proxy("batch", false); CALLERS_MAX];
            let proxies = [own, ended, vec![proxy("edge", true); connected]].concat();
            others("shop", &json!({"proxies": proxies}))
        };
        assert_eq!(of(CALLERS_MAX), Ok(["batch", "edge"].map(str::to_owned).into()));
        let why = of(CALLERS_MAX + 1).unwrap_err();
        assert!(why.starts_with("201 proxies are connected there; -A"), "{why}");
    }
}
