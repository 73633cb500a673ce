//! A pod of a cluster by what people type.

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use weft_injector::sidecar::PROXY;
use weft_local::api::Target;
use weft_local::find::{self, Candidate};
use weft_local::manifest::{Key, Owner, Workload};

use super::pods::{is_ready, list, word};
use super::{Cluster, PODS};

impl Cluster {
    /// Namespace, name and container of the pod that is meant. The container is the proxy if none is named.
    ///
    /// # Errors
    /// There is none, or several; for people.
    pub(crate) async fn find(&self, target: &Target) -> Result<(String, String, String)> {
        let namespace = &target.namespace;
        let pods = self.list(&PODS, Some(namespace)).await?;
        if pods.is_empty() {
            self.expect_namespace(namespace).await?;
        }
        let found = meant(namespace, &target.pod, &pods)?;
        let container = container(found, target.container.as_deref())?;
        Ok((
            namespace.clone(),
            word(&found["metadata"]["name"]).to_owned(),
            container,
        ))
    }
}

/// The pod that is meant, of those of a namespace. One that ends is meant only by its whole name: it drains, and what it says
/// of that is asked for.
fn meant<'a>(namespace: &str, pod: &str, pods: &'a [Value]) -> Result<&'a Value> {
    let exact = ["pod/", "pods/"]
        .iter()
        .find_map(|kind| pod.strip_prefix(kind))
        .unwrap_or(pod);
    let live: Vec<&Value> = pods
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() || pod["metadata"]["name"] == exact)
        .collect();
    let candidates: Vec<Candidate<'_>> = live
        .iter()
        .map(|pod| Candidate {
            namespace,
            name: word(&pod["metadata"]["name"]),
            owner: owner(namespace, pod),
            ready: is_ready(pod),
            order: 0,
            own: false,
        })
        .collect();
    let podless = |owner: &Owner| {
        let mut owners: Vec<String> = candidates
            .iter()
            .filter_map(|candidate| candidate.owner.as_ref().map(ToString::to_string))
            .collect();
        owners.sort();
        owners.dedup();
        match owners.is_empty() {
            true => format!("there is no pod of {owner}: the namespace has none"),
            false => format!(
                "there is no pod of {owner}; the namespace has those of {}",
                owners.join(", ")
            ),
        }
    };
    let at = find::pod(namespace, pod, &candidates, podless).map_err(|why| anyhow!(why))?;
    Ok(live[at])
}

/// What made a pod; a Deployment does it through a ReplicaSet, whose name the pod's label completes.
fn owner(namespace: &str, pod: &Value) -> Option<Owner> {
    let mut owners = list(&pod["metadata"]["ownerReferences"]).iter();
    let owner = owners.find(|owner| owner["controller"] == true)?;
    let kind = match word(&owner["kind"]) {
        "ReplicaSet" => Workload::Deployment,
        "StatefulSet" => Workload::StatefulSet,
        "DaemonSet" => Workload::DaemonSet,
        "Job" => Workload::Job,
        _ => return None,
    };
    let key = Key::new(namespace, weft_injector::patch::workload(pod));
    Some(Owner { kind, key })
}

/// The container that is meant: the proxy, if none is named.
fn container(pod: &Value, named: Option<&str>) -> Result<String> {
    let spec = &pod["spec"];
    let all = list(&spec["containers"]).iter().chain(list(&spec["initContainers"]));
    let names: Vec<&str> = all.map(|container| word(&container["name"])).collect();
    let of = format!(
        "{}/{}",
        word(&pod["metadata"]["namespace"]),
        word(&pod["metadata"]["name"])
    );
    match named {
        None if names.contains(&PROXY) => Ok(PROXY.to_owned()),
        None => bail!(
            "pod {of} has no sidecar (fix: label its namespace weft.dev/inject=enabled and restart it); its containers are: {}",
            names.join(", ")
        ),
        Some(named) if names.contains(&named) => Ok(named.to_owned()),
        Some(named) => bail!("pod {of} has no container {named:?}; it has {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, kind: &str, owner: &str) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"pod-template-hash": "5d8"},
                "ownerReferences": [{"controller": true, "kind": kind, "name": owner}]},
            "spec": {"containers": [{"name": "web"}], "initContainers": [{"name": PROXY}]},
        })
    }

    #[test]
    fn a_pod_is_found_as_in_a_local_mesh() {
        let mut ending = pod("web-5d8-c", "ReplicaSet", "web-5d8");
        ending["metadata"]["deletionTimestamp"] = json!("now");
        let pods = [
            ending,
            pod("web-5d8-b", "ReplicaSet", "web-5d8"),
            pod("db-0", "StatefulSet", "db"),
            pod("dbx", "Job", "dbx"),
        ];
        let found = |typed: &str| meant("shop", typed, &pods).map(|pod| word(&pod["metadata"]["name"]).to_owned());
        assert_eq!(found("web").unwrap(), "web-5d8-b");
        assert_eq!(found("deploy/web").unwrap(), "web-5d8-b");
        assert_eq!(found("sts/db").unwrap(), "db-0");
        assert_eq!(found("pod/db-0").unwrap(), "db-0");
        assert_eq!(found("web-5d8-c").unwrap(), "web-5d8-c");
        assert_eq!(found("pod/web-5d8-c").unwrap(), "web-5d8-c");
        assert!(found("db").unwrap_err().to_string().contains("may be any of"));
        let missing = found("deploy/wbe").unwrap_err().to_string();
        assert!(
            missing.contains("no pod of Deployment shop/wbe") && missing.contains("Deployment shop/web"),
            "{missing}"
        );
    }

    #[test]
    fn the_container_is_the_proxy_unless_another_is_named() {
        let web = pod("web", "Job", "web");
        assert_eq!(container(&web, None).unwrap(), PROXY);
        assert_eq!(container(&web, Some("web")).unwrap(), "web");
        assert!(
            container(&web, Some("x"))
                .unwrap_err()
                .to_string()
                .contains("it has web, weft-proxy")
        );
        let mut plain = web;
        plain["spec"]["initContainers"] = json!([]);
        let said = container(&plain, None).unwrap_err().to_string();
        assert!(said.contains("no sidecar") && !said.contains("-c "), "{said}");
    }
}
