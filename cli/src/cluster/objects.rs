//! The objects of a cluster as the control plane sees them, for questions that are answered here.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weft_control::index::Settings;
use weft_control::objects::{Kinds, Object, Scope};
use weft_model::identity::TrustDomain;

use super::api::Answer;
use super::pods::{list, word};
use super::{Cluster, Path};

/// What `kubectl apply` leaves on objects: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is known of a cluster.
pub(crate) struct Knowledge {
    /// What its mesh is called.
    pub(crate) settings: Settings,
    /// Everything that the control plane acts on.
    pub(crate) objects: Vec<Arc<Object>>,
}

impl Cluster {
    /// Everything that the control plane acts on, and what the mesh is called.
    ///
    /// # Errors
    /// Something may not be listed: what is not known might change every answer.
    pub(crate) async fn knowledge(&self) -> Result<Knowledge> {
        let (settings, objects) = tokio::join!(self.settings(), self.objects(|_| true, None));
        Ok(Knowledge {
            settings: settings?,
            objects: objects?,
        })
    }

    /// The objects of some of the kinds that the control plane acts on. A kind that the API server does not serve has none.
    pub(super) async fn objects(
        &self,
        wanted: impl Fn(&str) -> bool,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<Object>>> {
        let kinds = Kinds::control();
        let mut all = Vec::new();
        for (group, kind, versions, scope) in kinds.understood().filter(|(_, kind, ..)| wanted(kind)) {
            let namespace = namespace.filter(|_| scope == Scope::Namespaced);
            let plural = plural(kind);
            for version in versions {
                let api_version = api_version(group, version);
                let root = if group.is_empty() { "/api" } else { "/apis" };
                let root = format!("{root}/{api_version}");
                let path = Path {
                    root: &root,
                    plural: &plural,
                };
                match self.api.list(&path.within(namespace)).await? {
                    Answer::Is(items) => {
                        let objects = list(&items)
                            .iter()
                            .filter_map(|raw| object(&api_version, kind, raw.clone()));
                        all.extend(objects.map(Arc::new));
                        break;
                    }
                    Answer::Missing => {}
                    Answer::Forbidden(why) => bail!("{why} (fix: {})", path.role(namespace)),
                }
            }
        }
        Ok(all)
    }

    /// What the mesh is called, as its control plane says.
    async fn settings(&self) -> Result<Settings> {
        let said = self.control("/status?view=mesh").await?;
        let mesh = &said["mesh"];
        if mesh.is_null() {
            bail!(
                "the control plane does not say what the mesh is called: {}",
                word(&said["control"]["reason"])
            );
        }
        let networks = |field: &str| {
            list(&mesh[field])
                .iter()
                .filter_map(|network| word(network).parse().ok())
                .collect()
        };
        Ok(Settings {
            trust_domain: TrustDomain::new(word(&mesh["trustDomain"])).context("the control plane's trust domain")?,
            cluster: word(&mesh["cluster"]).to_owned(),
            network: word(&mesh["federation"]["network"]).to_owned(),
            cluster_domain: word(&mesh["clusterDomain"]).to_owned(),
            inside: networks("inside"),
            outside: networks("outside"),
        })
    }
}

/// `gateway.networking.k8s.io/v1`, `v1`.
fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// The name of a kind's resource. All kinds that the control plane acts on are regular.
fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{lower}s"),
    }
}

/// An object of a list, whose items leave out what they are. `None`: it has no name.
pub(super) fn object(api_version: &str, kind: &str, mut raw: Value) -> Option<Object> {
    let fields = raw.as_object_mut()?;
    fields.insert("apiVersion".to_owned(), api_version.into());
    fields.insert("kind".to_owned(), kind.into());
    let metadata = fields.get_mut("metadata")?.as_object_mut()?;
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let metadata = &raw["metadata"];
    let text = |field: &str| word(&metadata[field]).to_owned();
    let name = Some(text("name")).filter(|name| !name.is_empty())?;
    Some(Object {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: text("namespace"),
        name,
        uid: text("uid"),
        resource_version: word(&metadata["resourceVersion"]).parse().unwrap_or_default(),
        generation: metadata["generation"].as_u64().unwrap_or_default(),
        labels: texts(&metadata["labels"]),
        annotations: texts(&metadata["annotations"]),
        origin: None,
        raw,
    })
}

fn texts(map: &Value) -> BTreeMap<String, String> {
    let all = map.as_object().into_iter().flatten();
    all.map(|(key, value)| (key.clone(), word(value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_that_the_control_plane_acts_on_has_the_path_of_its_resource() {
        let named: Vec<String> = Kinds::control()
            .understood()
            .map(|(_, kind, ..)| plural(kind))
            .collect();
        for resource in [
            "pods",
            "endpointslices",
            "httproutes",
            "trafficpolicies",
            "xbackendtrafficpolicies",
        ] {
            assert!(
                named.iter().any(|name| name == resource),
                "{resource} is not in {named:?}"
            );
        }
        assert_eq!(api_version("", "v1"), "v1");
        assert_eq!(api_version("weft.dev", "v1alpha1"), "weft.dev/v1alpha1");
    }

    #[test]
    fn an_item_of_a_list_becomes_an_object_without_what_nobody_wrote() {
        let raw = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "generation": 2,
            "labels": {"app": "web"}, "annotations": {LAST_APPLIED: "{}"}, "managedFields": [{}]}, "spec": {}});
        let web = object("v1", "Service", raw).unwrap();
        assert_eq!(web.reference().to_string(), "Service shop/web");
        assert_eq!((web.resource_version, web.generation, web.uid.as_str()), (7, 2, "u"));
        assert_eq!((web.labels["app"].as_str(), web.annotations.len()), ("web", 0));
        assert!(web.raw["metadata"].get("managedFields").is_none());
        assert_eq!(web.raw["kind"], "Service");
        assert!(object("v1", "Service", json!({"metadata": {}})).is_none());
    }
}
