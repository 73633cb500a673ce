//! Whom to trust, in every namespace of the mesh, and in Weft's own for the gateways: the ConfigMap `weft-trust`, from which
//! proxies read the roots before they know anybody.
//!
//! It is made where the namespace is labelled, and in Weft's own, mended when it is edited, made anew when it is deleted, and removed when the
//! label is gone and no meshed pod is left. One of that name that is not ours stays as it is, and is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::api::{Api, Fault};
use super::kinds::Kind;
use super::shown::Shown;
use crate::objects::Object;
use crate::objects::pod::Pod;

/// The ConfigMap in each namespace of the mesh.
pub(crate) const CONFIG_MAP: &str = "weft-trust";
/// The label of a namespace whose pods are part of the mesh.
pub(super) const INJECT_LABEL: &str = "weft.dev/inject";
/// Namespaces of the cluster itself, which injection leaves alone.
const CLUSTERS_OWN: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The label by which ours is known.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What proxies are to know.
pub(super) struct Trust {
    pub(super) api: Api,
    /// The files of the ConfigMap.
    pub(super) data: BTreeMap<String, String>,
    /// Weft's own namespace.
    pub(super) own: String,
}

/// What is to be done for one namespace.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Make,
    Mend,
    Remove { uid: String },
    Report,
}

/// Whether what could not be done may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Again {
    /// All is done that can be.
    No,
    /// Something was refused, or is left: other things may well succeed meanwhile.
    Later,
    /// The API server is away.
    Away,
}

impl Trust {
    /// The ConfigMaps of that name, and no others.
    pub(super) fn maps() -> Kind {
        Kind {
            group: String::new(),
            kind: "ConfigMap".to_owned(),
            versions: vec!["v1".to_owned()],
            namespaced: true,
            query: format!("fieldSelector=metadata.name%3D{CONFIG_MAP}&"),
            within: None,
        }
    }

    /// Does what is to be done now, for as long as this replica leads and the API server answers. What `failed` before comes
    /// last, and only if it is time to `retry`: it must not keep others waiting. Returns what could not be done, by namespace.
    pub(super) async fn keep(
        &self,
        shown: &Shown,
        maps: &Shown,
        leads: &watch::Receiver<bool>,
        (failed, retry): (&BTreeMap<String, String>, bool),
    ) -> (BTreeMap<String, String>, Again) {
        let (mut failures, mut again) = (BTreeMap::new(), Again::No);
        let deeds = self.deeds(&shown.of_kind("Namespace"), &maps.of_kind("ConfigMap"), shown);
        let mut deeds: Vec<(String, Deed)> = deeds.into_iter().collect();
        deeds.sort_by_key(|(namespace, _)| failed.contains_key(namespace));
        for (namespace, deed) in deeds {
            let (before, stop) = (failed.get(&namespace), again == Again::Away || !*leads.borrow());
            if deed != Deed::Report && (stop || (before.is_some() && !retry)) {
                again = again.max(Again::Later);
                failures.extend(before.map(|why| (namespace, why.clone())));
                continue;
            }
            let done = self.act(&namespace, &deed).await;
            match done {
                Ok(()) if deed == Deed::Report => {
                    let why = format!(
                        "the ConfigMap {namespace}/{CONFIG_MAP} is not Weft's (label {MANAGED_BY}), and is left as it is: \
                         pods that are made here do not start; rename or delete it"
                    );
                    failures.insert(namespace, why);
                }
                Ok(()) => tracing::info!(namespace, ?deed, "kept the trust bundle"),
                // It is made or gone already, and will be shown.
                Err(fault) if fault.is_conflict() || fault.is_missing() => {}
                Err(fault) => {
                    // 500 is also what a webhook that fails makes of it, for one namespace alone.
                    let away = fault.is_away() && !matches!(fault, Fault::Refused { code: 500, .. });
                    again = again.max(if away { Again::Away } else { Again::Later });
                    failures.insert(namespace, fault.to_string());
                }
            }
        }
        (failures, again)
    }

    /// What is to be done, by namespace.
    fn deeds(&self, namespaces: &[Arc<Object>], maps: &[Arc<Object>], shown: &Shown) -> BTreeMap<String, Deed> {
        let maps: BTreeMap<&str, &Arc<Object>> = maps.iter().map(|map| (map.namespace.as_str(), map)).collect();
        let mut deeds = BTreeMap::new();
        let mut unlabelled = BTreeMap::new();
        for namespace in namespaces.iter().filter(|namespace| !is_ending(namespace)) {
            let map = maps.get(namespace.name.as_str());
            let is_wanted = namespace.name == self.own || is_meshed(namespace, &self.own);
            let deed = match (is_wanted, map) {
                (true, None) => Deed::Make,
                (true, Some(map)) if !is_ours(map) => Deed::Report,
                (true, Some(map)) if !self.says(map) => Deed::Mend,
                (false, Some(map)) if is_ours(map) => {
                    let uid = map.uid.clone();
                    unlabelled.insert(namespace.name.clone(), Deed::Remove { uid });
                    continue;
                }
                _ => continue,
            };
            deeds.insert(namespace.name.clone(), deed);
        }
        if !unlabelled.is_empty() {
            let used = with_meshed_pods(shown, &unlabelled);
            deeds.extend(
                unlabelled
                    .into_iter()
                    .filter(|(namespace, _)| !used.contains(namespace)),
            );
        }
        deeds
    }

    async fn act(&self, namespace: &str, deed: &Deed) -> Result<(), Fault> {
        let all = format!("/api/v1/namespaces/{namespace}/configmaps");
        let path = format!("{all}/{CONFIG_MAP}");
        match deed {
            // Not applied: that would take over one that somebody else makes at this moment.
            Deed::Make => self.api.create(&all, &self.map(namespace)).await.map(drop),
            Deed::Mend => self.api.apply(&path, &self.map(namespace)).await.map(drop),
            Deed::Remove { uid } => self.api.delete(&path, uid).await,
            Deed::Report => Ok(()),
        }
    }

    fn map(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP, "namespace": namespace,
                "labels": {MANAGED_BY: "weft", "app.kubernetes.io/part-of": "weft"}
            },
            "data": self.data
        })
    }

    /// Whether a ConfigMap says what it must. What others add is nobody's business.
    fn says(&self, map: &Object) -> bool {
        self.data
            .iter()
            .all(|(name, text)| map.raw["data"][name] == text.as_str())
    }
}

/// Whether a namespace's pods are part of the mesh. The cluster's own and Weft's own are not, whatever their labels: for those
/// the API server does not ask the webhook.
pub(super) fn is_meshed(namespace: &Object, own: &str) -> bool {
    let exempt = namespace.name == own || CLUSTERS_OWN.contains(&namespace.name.as_str());
    let label = namespace.labels.get(INJECT_LABEL);
    !exempt && label.is_some_and(|value| value == "enabled")
}

/// Whether an object is on its way out: nothing can be made in such a namespace.
pub(super) fn is_ending(object: &Object) -> bool {
    !object.raw["metadata"]["deletionTimestamp"].is_null()
}

fn is_ours(map: &Object) -> bool {
    map.labels.get(MANAGED_BY).is_some_and(|value| value == "weft")
}

/// Those of some namespaces that have pods whose proxies may read the ConfigMap again.
fn with_meshed_pods<T>(shown: &Shown, of: &BTreeMap<String, T>) -> BTreeSet<String> {
    let pods = shown.of_kind("Pod");
    let of = pods.iter().filter(|object| of.contains_key(&object.namespace));
    let meshed = of.filter(|object| {
        // One that cannot be read may well be one.
        Pod::of(object).map_or(true, |pod| pod.injected && !pod.finished)
    });
    meshed.map(|object| object.namespace.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::server;
    use super::*;

    fn trust() -> Trust {
        let data = BTreeMap::from([("roots.pem".to_owned(), "R".to_owned())]);
        let own = "weft-system".to_owned();
        Trust {
            api: server().1,
            data,
            own,
        }
    }

    fn object(kind: &Kind, namespace: &str, name: &str, more: Value) -> Object {
        let mut raw = json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"}});
        if !namespace.is_empty() {
            raw["metadata"]["namespace"] = json!(namespace);
        }
        for (field, value) in more.as_object().unwrap() {
            match raw[field].as_object_mut() {
                Some(fields) => fields.extend(value.as_object().unwrap().clone()),
                None => raw[field] = value.clone(),
            }
        }
        super::super::object::read(kind, "v1", raw)
            .map_err(|(_, problem)| problem)
            .unwrap()
    }

    fn kind(name: &str) -> Kind {
        Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
    }

    fn namespace(name: &str, metadata: Value) -> Arc<Object> {
        Arc::new(object(&kind("Namespace"), "", name, json!({"metadata": metadata})))
    }

    fn map(namespace: &str, roots: &str, labels: Value) -> Arc<Object> {
        let more = json!({"metadata": {"labels": labels}, "data": {"roots.pem": roots, "more": "x"}});
        Arc::new(object(&Trust::maps(), namespace, CONFIG_MAP, more))
    }

    fn ours() -> Value {
        json!({MANAGED_BY: "weft"})
    }

    fn labelled() -> Value {
        json!({"labels": {INJECT_LABEL: "enabled"}})
    }

    #[tokio::test]
    async fn each_labelled_namespace_and_our_own_get_it_and_no_foreign_one_is_touched() {
        let ending = json!({"labels": {INJECT_LABEL: "enabled"}, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let namespaces = [
            namespace("new", labelled()),
            namespace("good", labelled()),
            namespace("edited", labelled()),
            namespace("foreign", labelled()),
            namespace("ending", ending),
            namespace("plain", json!({})),
            namespace("kube-system", labelled()),
            namespace("weft-system", json!({})),
            namespace("off", json!({"labels": {INJECT_LABEL: "disabled"}})),
        ];
        let maps = [
            map("good", "R", ours()),
            map("edited", "X", ours()),
            map("foreign", "X", json!({})),
            map("plain", "X", json!({})),
        ];
        let shown = Shown::new(&[]);
        let deeds = trust().deeds(&namespaces, &maps, &shown);
        let expected = [
            ("edited", Deed::Mend),
            ("foreign", Deed::Report),
            ("new", Deed::Make),
            ("weft-system", Deed::Make),
        ];
        assert_eq!(deeds, expected.map(|(name, deed)| (name.to_owned(), deed)).into());
    }

    #[tokio::test]
    async fn who_is_not_answered_is_asked_of_no_more_and_what_failed_comes_last() {
        let (mut server, api) = server();
        let kind = kind("Namespace");
        let shown = Arc::new(Shown::new(std::slice::from_ref(&kind)));
        let all = ["a", "b", "c"].map(|name| Ok(object(&kind, "", name, json!({"metadata": labelled()}))));
        shown.listed(&kind, "v1", 1, 0, all.into());
        let keep = |failed: BTreeMap<String, String>| {
            let trust = Trust {
                own: String::new(),
                api: api.clone(),
                data: BTreeMap::new(),
            };
            let (shown, (_, leads)) = (shown.clone(), watch::channel(true));
            tokio::task::spawn(async move { trust.keep(&shown, &Shown::new(&[]), &leads, (&failed, true)).await })
        };
        let first = keep(BTreeMap::new());
        server.next().await.refuse(503, "ServiceUnavailable");
        let (failures, again) = first.await.unwrap();
        assert_eq!((failures.len(), again), (1, Again::Away));

        let second = keep(failures);
        for (name, code) in [("b", 201), ("c", 403), ("a", 201)] {
            let asked = server.next().await;
            assert_eq!(asked.path, format!("/api/v1/namespaces/{name}/configmaps"));
            asked.answer(code, &json!({}));
        }
        let (failures, again) = second.await.unwrap();
        assert_eq!((failures.len(), again), (1, Again::Later));
        assert!(failures.contains_key("c"));
    }

    #[tokio::test]
    async fn it_stays_where_a_meshed_pod_is_left() {
        let namespaces = [namespace("empty", json!({})), namespace("used", json!({}))];
        let maps = [map("empty", "R", ours()), map("used", "R", ours())];
        let pods = kind("Pod");
        let shown = Shown::new(std::slice::from_ref(&pods));
        let pod = |namespace: &str, container: &str| {
            let spec = json!({"spec": {"containers": [{"name": container}]}});
            Ok(object(&pods, namespace, "p", spec))
        };
        shown.listed(&pods, "v1", 1, 0, vec![pod("used", "weft-proxy"), pod("empty", "app")]);
        let deeds = trust().deeds(&namespaces, &maps, &shown);
        let uid = format!("uid-{CONFIG_MAP}");
        assert_eq!(deeds, BTreeMap::from([("empty".to_owned(), Deed::Remove { uid })]));
    }
}
