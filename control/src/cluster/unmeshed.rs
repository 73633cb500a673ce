//! Pods that should have a sidecar and have none: made before their namespace was labelled, or while nobody injected. Their
//! plaintext is why a strict neighbour refuses them, so it is said: in status, in a metric, and by an event on the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::events::{Event, Subject};
use super::shown::Shown;
use super::trust::{INJECT_LABEL, is_ending, is_meshed};
use crate::objects::Object;
use crate::objects::pod::Pod;

/// The annotation of what the API server shows of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Pods that are named for a namespace; the others are counted.
const NAMED_MAX: usize = 20;
/// Namespaces that are told apart; the pods of others are counted together, as `other`.
pub(crate) const NAMESPACES_MAX: usize = 200;

/// The pods of one namespace that should have a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unmeshed {
    pub(crate) namespace: String,
    pub(crate) count: usize,
    /// Some of them.
    pub(crate) pods: Vec<String>,
}

/// A pod that should have a sidecar.
#[derive(Debug)]
pub(super) struct Bare {
    pod: Arc<Object>,
    workload: String,
}

/// Finds them, and remembers what pods are that have not changed: most have not.
#[derive(Default)]
pub(super) struct Finder {
    /// By uid: the resource version, and the workload of one that should have a sidecar and has none.
    seen: BTreeMap<String, (u64, Option<String>)>,
}

impl Finder {
    /// Finds them all. `own`: Weft's own namespace.
    pub(super) fn find(&mut self, shown: &Shown, own: &str) -> Vec<Bare> {
        let mut before = std::mem::take(&mut self.seen);
        let pods = pods_of_meshed_namespaces(shown, own).into_iter();
        let found = pods.filter_map(|pod| {
            let same = before
                .remove(&pod.uid)
                .filter(|(version, _)| *version == pod.resource_version);
            let (_, workload) = same.unwrap_or_else(|| (pod.resource_version, bare(&pod)));
            self.seen
                .insert(pod.uid.clone(), (pod.resource_version, workload.clone()));
            Some(Bare {
                workload: workload?,
                pod,
            })
        });
        found.collect()
    }
}

fn pods_of_meshed_namespaces(shown: &Shown, own: &str) -> Vec<Arc<Object>> {
    let namespaces = shown.of_kind("Namespace");
    let meshed = namespaces
        .iter()
        .filter(|namespace| is_meshed(namespace, own) && !is_ending(namespace));
    let meshed: std::collections::BTreeSet<&str> = meshed.map(|namespace| namespace.name.as_str()).collect();
    if meshed.is_empty() {
        return Vec::new();
    }
    let pods = shown.of_kind("Pod").into_iter();
    pods.filter(|pod| meshed.contains(pod.namespace.as_str())).collect()
}

/// The workload of a pod of a meshed namespace, if it should have a sidecar and has none.
fn bare(object: &Object) -> Option<String> {
    let opted_out = object.labels.get(INJECT_LABEL).is_some_and(|value| value == "disabled");
    let pod = Pod::of(object).ok()?;
    // The kubelet has started the pod of a file of its node before anybody was asked.
    let of_file = object.annotations.contains_key(MIRROR);
    if opted_out || of_file || pod.injected || pod.host_network || pod.finished || is_ending(object) {
        return None;
    }
    Some(pod.workload)
}

/// The same by namespace, bounded.
pub(super) fn by_namespace(found: &[Bare]) -> Vec<Unmeshed> {
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for bare in found {
        all.entry(&bare.pod.namespace).or_default().push(bare.pod.name.clone());
    }
    let mut told: Vec<Unmeshed> = Vec::new();
    let mut other = 0;
    for (namespace, mut pods) in all {
        if told.len() == NAMESPACES_MAX {
            other += pods.len();
            continue;
        }
        let count = pods.len();
        pods.truncate(NAMED_MAX);
        let namespace = namespace.to_owned();
        told.push(Unmeshed { namespace, count, pods });
    }
    if other > 0 {
        told.push(Unmeshed {
            namespace: "other".to_owned(),
            count: other,
            pods: Vec::new(),
        });
    }
    told
}

/// One event for each owner of such pods, on one of them.
impl Subject for Bare {
    fn key(&self) -> String {
        owner(&self.pod)
    }

    fn event(&self) -> Event {
        let Self { pod, workload } = self;
        let note = format!(
            "This pod of {workload} has no Weft sidecar, though its namespace is labelled {INJECT_LABEL}: enabled. It was made \
             before that, or while the injector was away; others of its kind may be like it. Restart it (kubectl rollout \
             restart), or label its template {INJECT_LABEL}: disabled."
        );
        Event {
            namespace: pod.namespace.clone(),
            reason: "NotMeshed",
            note,
            regarding: json!({
                "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
                "resourceVersion": pod.resource_version.to_string()
            }),
        }
    }
}

/// What the pod's like have in common: their controller, else the pod itself.
fn owner(pod: &Object) -> String {
    let owners = pod.raw["metadata"]["ownerReferences"].as_array();
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    let uid = controller.and_then(|owner| owner["uid"].as_str());
    uid.unwrap_or(&pod.uid).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::events::Teller;
    use super::super::kinds::Kind;
    use super::super::tests::server;
    use super::*;

    fn kind(name: &str) -> Kind {
        Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
    }

    /// What is found in a labelled namespace with these pods: name, labels, spec, status.
    fn found(pods: &[(&str, Value, Value, Value)]) -> Vec<Bare> {
        let (namespaces, kind) = (kind("Namespace"), kind("Pod"));
        let shown = Shown::new(&[]);
        let labels = json!({INJECT_LABEL: "enabled"});
        let metadata = json!({"name": "shop", "uid": "u", "resourceVersion": "1", "labels": labels});
        let namespace = super::super::object::read(&namespaces, "v1", json!({"metadata": metadata}));
        shown.listed(&namespaces, "v1", 1, 0, vec![namespace]);
        let read = pods.iter().map(|(name, labels, spec, status)| {
            let owner = json!([{"kind": "ReplicaSet", "name": "web", "uid": "owner", "controller": true}]);
            let metadata = json!({"name": name, "namespace": "shop", "uid": name, "resourceVersion": "2",
                                  "labels": labels, "ownerReferences": owner});
            let raw = json!({"metadata": metadata, "spec": spec, "status": status});
            super::super::object::read(&kind, "v1", raw)
        });
        shown.listed(&kind, "v1", 2, 0, read.collect());
        let mut finder = Finder::default();
        let found = finder.find(&shown, "weft-system");
        // Nothing changed: the same again, from memory.
        assert_eq!(by_namespace(&finder.find(&shown, "weft-system")), by_namespace(&found));
        found
    }

    #[test]
    fn only_pods_that_should_have_a_sidecar_and_have_none_are_found() {
        let app = || json!({"containers": [{"name": "app"}]});
        let running = || json!({"phase": "Running"});
        let found = found(&[
            ("bare", json!({}), app(), running()),
            ("out", json!({INJECT_LABEL: "disabled"}), app(), running()),
            ("done", json!({}), app(), json!({"phase": "Succeeded"})),
            (
                "host",
                json!({}),
                json!({"hostNetwork": true, "containers": []}),
                running(),
            ),
            (
                "meshed",
                json!({}),
                json!({"containers": [], "initContainers": [{"name": "weft-proxy"}]}),
                running(),
            ),
        ]);
        let told = by_namespace(&found);
        let pods = vec!["bare".to_owned()];
        assert_eq!(
            told,
            [Unmeshed {
                namespace: "shop".to_owned(),
                count: 1,
                pods
            }]
        );
    }

    #[tokio::test]
    async fn an_owner_is_told_once() {
        let app = || json!({"containers": [{"name": "app"}]});
        let found = found(&[("a", json!({}), app(), json!({})), ("b", json!({}), app(), json!({}))]);
        assert_eq!(found.len(), 2);
        let (mut server, api) = server();
        let mut teller = Teller::default();
        let serve = async {
            let event = server.next().await;
            assert_eq!(event.path, "/apis/events.k8s.io/v1/namespaces/shop/events");
            assert_eq!(event.body["regarding"]["name"], "a");
            event.answer(201, &json!({}));
        };
        let (told, ()) = tokio::join!(teller.tell(&api, &found), serve);
        assert_eq!(told, Ok(false));
        assert_eq!(teller.tell(&api, &found).await, Ok(false), "not a second request");
    }
}
