//! The kinds that are followed: where the API server serves them, and in which version they are read.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::objects::kinds::Scope;
use crate::objects::{Kinds, Object};

/// A kind that is followed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// The API group; empty for the core group.
    pub(super) group: String,
    /// `HTTPRoute`.
    pub(super) kind: String,
    /// The versions that are understood, the best first.
    pub(super) versions: Vec<String>,
    pub(super) namespaced: bool,
    /// Which of its objects: a query that ends with `&`, or nothing.
    pub(super) query: String,
    /// Only those of this namespace.
    pub(super) within: Option<String>,
}

/// Which versions of which kinds the API server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    versions: BTreeMap<(String, String), Vec<String>>,
}

impl Kind {
    /// The kinds that the control plane acts on.
    pub(crate) fn all() -> Vec<Self> {
        let kinds = Kinds::control();
        let all = kinds.understood().map(|(group, kind, versions, scope)| Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            versions: versions.to_vec(),
            namespaced: scope == Scope::Namespaced,
            query: String::new(),
            within: None,
        });
        all.collect()
    }

    /// Whether every API server serves it, without a CRD.
    pub(super) fn is_core(&self) -> bool {
        matches!(self.group.as_str(), "" | "discovery.k8s.io")
    }

    /// The version to read: the best that is served. `None`: none is.
    pub(super) fn version(&self, served: &Served) -> Option<&str> {
        if self.is_core() {
            return self.versions.first().map(String::as_str);
        }
        let served = served.versions.get(&(self.group.clone(), self.kind.clone()))?;
        let mut understood = self.versions.iter();
        understood.find(|version| served.contains(version)).map(String::as_str)
    }

    /// `gateway.networking.k8s.io/v1`.
    pub(super) fn api_version(&self, version: &str) -> String {
        match self.group.as_str() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// The path of all its objects.
    pub(super) fn path(&self, version: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let (version, plural) = (self.api_version(version), self.plural());
        match &self.within {
            Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{version}/{plural}"),
        }
    }

    /// The path of the status of an object of this kind. `None`: it is of another kind.
    pub(super) fn status_of(&self, object: &Object) -> Option<String> {
        let same = self.kind == object.kind && self.group == object.group();
        let (_, version) = object.api_version.split_once('/')?;
        let (root, plural) = (self.api_version(version), self.plural());
        let (namespace, name) = (&object.namespace, &object.name);
        same.then(|| match self.namespaced {
            true => format!("/apis/{root}/namespaces/{namespace}/{plural}/{name}/status"),
            false => format!("/apis/{root}/{plural}/{name}/status"),
        })
    }

    /// The path of its CustomResourceDefinition.
    pub(super) fn definition(&self) -> String {
        format!(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}.{}",
            self.plural(),
            self.group
        )
    }

    /// Whether its CustomResourceDefinition serves a version that is understood. One that lists none says nothing of it.
    pub(super) fn is_served(&self, definition: &Value) -> bool {
        let Some(versions) = definition["spec"]["versions"].as_array() else {
            return true;
        };
        let mut served = versions.iter().filter(|version| version["served"] == true);
        served.any(|version| self.versions.iter().any(|ours| version["name"] == ours.as_str()))
    }

    /// The resource's name. All kinds that are followed are regular.
    fn plural(&self) -> String {
        let lower = self.kind.to_ascii_lowercase();
        match lower.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{lower}s"),
        }
    }
}

impl Served {
    /// Reads a document of aggregated discovery (KEP-3352). `None`: it is none.
    pub(super) fn read(document: &Value) -> Option<Self> {
        if document["kind"] != "APIGroupDiscoveryList" {
            return None;
        }
        let mut versions: BTreeMap<_, Vec<String>> = BTreeMap::new();
        let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for group in each(&document["items"]) {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in each(&group["versions"]) {
                for resource in each(&version["resources"]) {
                    let kind = resource["responseKind"]["kind"].as_str().unwrap_or_default();
                    let key = (name.to_owned(), kind.to_owned());
                    let version = version["version"].as_str().unwrap_or_default();
                    versions.entry(key).or_default().push(version.to_owned());
                }
            }
        }
        Some(Self { versions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(name: &str) -> Kind {
        Kind::all().into_iter().find(|kind| kind.kind == name).unwrap()
    }

    #[test]
    fn paths_are_those_of_the_api_server() {
        for (name, version, path) in [
            ("Pod", "v1", "/api/v1/pods"),
            ("EndpointSlice", "v1", "/apis/discovery.k8s.io/v1/endpointslices"),
            ("HTTPRoute", "v1", "/apis/gateway.networking.k8s.io/v1/httproutes"),
            ("TrafficPolicy", "v1alpha1", "/apis/weft.dev/v1alpha1/trafficpolicies"),
            ("ClusterPeer", "v1alpha1", "/apis/weft.dev/v1alpha1/clusterpeers"),
            (
                "ServiceExport",
                "v1beta1",
                "/apis/multicluster.x-k8s.io/v1beta1/serviceexports",
            ),
        ] {
            assert_eq!(kind(name).path(version), path);
        }
    }

    #[test]
    fn the_status_of_an_object_is_below_it_with_a_namespace_or_without() {
        let object = |kind: &str, api_version: &str, namespace: &str| Object {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: "b".to_owned(),
            uid: "u".to_owned(),
            resource_version: 1,
            generation: 1,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            raw: Value::Null,
            origin: None,
        };
        let peer = object("ClusterPeer", "weft.dev/v1alpha1", "");
        let path = "/apis/weft.dev/v1alpha1/clusterpeers/b/status";
        assert_eq!(kind("ClusterPeer").status_of(&peer).as_deref(), Some(path));
        let export = object("ServiceExport", "multicluster.x-k8s.io/v1alpha1", "shop");
        let path = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/shop/serviceexports/b/status";
        assert_eq!(kind("ServiceExport").status_of(&export).as_deref(), Some(path));
        assert_eq!(kind("ServiceExport").status_of(&peer), None);
    }

    #[test]
    fn of_the_served_versions_the_best_that_is_understood_is_read() {
        let of = |versions: &[&str]| {
            let version =
                |version: &&str| json!({"version": version, "resources": [{"responseKind": {"kind": "TCPRoute"}}]});
            let versions: Vec<Value> = versions.iter().map(version).collect();
            let group = json!({"metadata": {"name": "gateway.networking.k8s.io"}, "versions": versions});
            let served = Served::read(&json!({"kind": "APIGroupDiscoveryList", "items": [group]})).unwrap();
            kind("TCPRoute").version(&served).map(str::to_owned)
        };
        assert_eq!(of(&["v1alpha2", "v1"]).as_deref(), Some("v1"));
        assert_eq!(of(&["v1alpha2"]).as_deref(), Some("v1alpha2"));
        assert_eq!(of(&["v9"]), None);
        assert_eq!(kind("Pod").version(&Served::default()), Some("v1"));
        assert_eq!(Served::read(&json!({"kind": "APIGroupList"})), None);
    }
}
