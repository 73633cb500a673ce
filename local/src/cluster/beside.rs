//! Manifests beside what a cluster has already: what its control plane would say of them.
//!
//! In: files, and the objects of a cluster. Out: what is wrong with the former, and the objects as they would be. What only a
//! mesh on this machine could not run is no matter here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_control::index::Settings;
use weft_control::manifests::{OpenError, Snapshot};
use weft_control::objects::{Object, ObjectRef};

use super::offline::{Offline, gather};
use super::{Review, combined};
use crate::manifest::{Template, kinds};
use crate::source::Sources;

/// Reads manifests as if they were applied, in `namespace` where they name none, to a cluster that has these objects. Without
/// any place: what is wrong with the cluster's own.
///
/// # Errors
/// A directory is not readable. What is wrong with what files say is a problem, and no error.
pub fn read(
    sources: &Sources,
    stdin: &[u8],
    namespace: &str,
    settings: Settings,
    there: Vec<Arc<Object>>,
) -> Result<Offline, OpenError> {
    let only_there = sources.places.is_empty();
    let written = match only_there {
        true => Snapshot::default(),
        false => gather(sources, stdin, &kinds().within(namespace))?,
    };
    let mut all: BTreeMap<ObjectRef, Arc<Object>> =
        there.into_iter().map(|object| (object.reference(), object)).collect();
    let mut files = BTreeSet::new();
    for object in written.objects {
        let object = applied(&object, &all);
        files.insert(object.reference());
        all.insert(object.reference(), Arc::new(object));
    }
    let finished: Vec<Arc<Object>> = all.into_values().collect();
    let is_asked = |object: &ObjectRef| only_there || files.contains(object);
    let workloads: Vec<(Arc<Object>, Template)> = finished
        .iter()
        .filter(|object| is_asked(&object.reference()))
        .filter_map(|object| Some((object.clone(), Template::unchecked(object)?)))
        .collect();
    let workloads = workloads.iter().map(|(object, template)| (object, template));
    let mut problems = Review::new(settings).problems(&finished, workloads);
    problems.retain(|problem| problem.object.as_ref().is_some_and(is_asked));
    let read = finished.iter().filter(|object| is_asked(&object.reference())).count();
    Ok(Offline {
        problems: combined([written.problems.to_vec(), problems].concat()),
        read,
        finished,
    })
}

/// An object of a file as it would be once it was applied: as old as the one that is there.
fn applied(object: &Object, there: &BTreeMap<ObjectRef, Arc<Object>>) -> Object {
    let mut object = object.clone();
    if let Some(before) = there.get(&object.reference()) {
        object.uid.clone_from(&before.uid);
        let created = &before.raw["metadata"]["creationTimestamp"];
        if !created.is_null() {
            object.raw["metadata"]["creationTimestamp"] = created.clone();
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_model::identity::TrustDomain;

    use super::*;
    use crate::manifest::tests::object;
    use crate::source::Source;

    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web}\nspec:\n  \
                         parentRefs: [{group: '', kind: Service, name: web}]\n  rules: [{backendRefs: [{name: BACKEND, port: 80}]}]\n";
    const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {a: b}}\n  \
                              template:\n    metadata: {labels: {a: b}, annotations: {config.weft.dev/inbound: MODE}}\n    \
                              spec: {containers: [{name: c, image: any}]}\n";

    fn service(name: &str) -> Arc<Object> {
        let created = "2026-01-01T00:00:00Z";
        object(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created}, "spec": {"ports": [{"port": 80}]}}))
    }

    fn route(backend: &str) -> Arc<Object> {
        let spec: Value = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]});
        object(
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "old", "namespace": "shop"}, "spec": spec}),
        )
    }

    fn beside(files: &str, there: &[Arc<Object>]) -> (usize, Vec<String>) {
        let sources = match files.is_empty() {
            true => Sources::default(),
            false => Sources::new(vec![Source::stdin("/nowhere")], false),
        };
        let settings = Settings {
            trust_domain: TrustDomain::new("td").unwrap(),
            cluster: "one".to_owned(),
            network: "one".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        };
        let paper = read(&sources, files.as_bytes(), "shop", settings, there.to_vec()).unwrap();
        let said = paper.problems.iter().map(|problem| {
            let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{object} {}", problem.field)
        });
        (paper.read, said.collect())
    }

    #[test]
    fn a_route_refers_to_what_the_cluster_has_in_the_namespace_where_it_would_be_applied() {
        let there = [service("web"), service("reviews")];
        assert_eq!(beside(&ROUTE.replace("BACKEND", "reviews"), &there), (1, Vec::new()));
        let (_, said) = beside(&ROUTE.replace("BACKEND", "nobody"), &there);
        assert_eq!(said, ["HTTPRoute shop/web spec.rules[0].backendRefs[0].name"]);
    }

    #[test]
    fn what_is_wrong_on_the_cluster_already_is_told_only_where_that_is_asked() {
        let there = [service("web"), route("nobody")];
        assert_eq!(beside(&ROUTE.replace("BACKEND", "web"), &there), (1, Vec::new()));
        assert_eq!(
            beside("", &there),
            (
                2,
                vec!["HTTPRoute shop/old spec.rules[0].backendRefs[0].name".to_owned()]
            )
        );
    }

    #[test]
    fn what_is_written_twice_and_what_is_wrong_with_a_file_is_told_in_the_namespace_where_it_would_be_applied() {
        let web = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";
        let named = |namespace: &str| web.replace("{name: web}", &format!("{{name: web, namespace: {namespace}}}"));
        let (_, said) = beside(&format!("{web}---\n{}", named("shop")), &[]);
        assert_eq!(said, ["Service shop/web metadata.name"]);
        let (read, said) = beside(&format!("{web}---\n{}", named("default")), &[]);
        assert_eq!((read, said), (2, Vec::new()));
    }

    #[test]
    fn a_workload_that_only_a_cluster_can_run_is_no_mistake_and_its_annotations_are_read() {
        assert_eq!(beside(&DEPLOYMENT.replace("MODE", "strict"), &[]), (1, Vec::new()));
        let (_, said) = beside(&DEPLOYMENT.replace("MODE", "sometimes"), &[]);
        assert_eq!(
            said,
            ["Deployment shop/web spec.template.metadata.annotations[config.weft.dev/inbound]"]
        );
    }
}
