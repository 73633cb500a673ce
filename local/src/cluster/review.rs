//! What the control plane will say of the user's objects: its own index is asked, here and now.
//!
//! In: the user's objects, each time that they change. Out: problems with file, line, object, field and fix. The control
//! plane itself says the same in its status; here nobody has to wait for it, and a first start can be refused.

use std::sync::Arc;

use serde_json::{Value, json};
use weft_control::compile;
use weft_control::index::{Index, Settings};
use weft_control::manifests::Snapshot;
use weft_control::objects::{Object, Problem, Severity, uid_of};
use weft_model::destination::Protocol;

use crate::manifest::{Key, Template};
use crate::source::Sources;

/// Where the annotations of a pod are, in its own object and in a workload.
const ANNOTATIONS: &str = "metadata.annotations";
/// What the mesh reads begins so.
const OURS: &str = "config.weft.dev/";
/// Subdirectories that are looked at for manifests that nobody reads.
const MOST_ENTRIES: usize = 1000;

/// Reads objects again and again as the control plane does: it, too, remembers the last good form of each.
pub struct Review {
    index: Index,
}

impl Review {
    /// Has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            index: Index::new(settings),
        }
    }

    /// What is wrong with the user's objects, all of them taken together, and with what their workloads make pods from.
    pub fn problems<'a>(
        &mut self,
        objects: &[Arc<Object>],
        workloads: impl Iterator<Item = (&'a Arc<Object>, &'a Template)>,
    ) -> Vec<Problem> {
        let made: Vec<(Made<'_>, Arc<Object>)> = workloads.filter_map(pod_of).collect();
        let mut all = objects.to_vec();
        all.extend(made.iter().map(|(_, pod)| pod.clone()));
        self.index.replace(&Snapshot {
            objects: all,
            ..Snapshot::default()
        });
        let problems = self.index.problems().into_iter();
        let of = |problem: &Problem| {
            let object = problem.object.as_ref()?;
            made.iter().find(|(_, pod)| pod.reference() == *object)
        };
        problems
            .filter_map(|problem| match of(&problem) {
                None => Some(problem),
                // Of what a workload makes, the rest is checked where workloads are read.
                Some(_) if !problem.field.starts_with(ANNOTATIONS) => None,
                Some(((object, template), _)) => {
                    let field = format!("{}{}", template.prefix, problem.field);
                    Some(object.problem(problem.severity, &field, problem.message, problem.fix))
                }
            })
            .collect()
    }

    /// What the user wrote of routes and policies, in the form that acts.
    pub fn acting(&self) -> Vec<Value> {
        let objects = self.index.acting_objects().into_iter();
        objects.map(|object| object.raw.clone()).collect()
    }

    /// What is declared of a Service's port, and by what: `appProtocol`, the port's `name`, routes, or the annotation of pods
    /// (`annotated`: one behind the port has it); as `weft status` has it.
    pub fn told(&self, service: &Key, port: u16, app_protocol: Option<&str>, annotated: bool) -> Option<Value> {
        let (protocol, routes) = self.declared(service, port, annotated)?;
        let by = match (&routes[..], app_protocol) {
            ([], Some(_)) => "appProtocol".to_owned(),
            ([], None) => "name".to_owned(),
            (routes, _) => routes.join(", "),
        };
        Some(json!({"protocol": protocol, "by": by}))
    }

    /// What is declared of a Service's port, in a word, and by what, if not by the Service itself. `None`: nothing is.
    fn declared(&self, service: &Key, port: u16, annotated: bool) -> Option<(&'static str, Vec<String>)> {
        let (protocol, routes) = compile::declared(&self.index, &service.namespace, &service.name, port, annotated);
        let word = match protocol {
            Protocol::Undeclared => return None,
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
            Protocol::Opaque => "opaque",
            Protocol::Tls => "tls",
        };
        Some((word, routes))
    }
}

/// A workload, and what its pods are made from.
type Made<'a> = (&'a Arc<Object>, &'a Template);

/// A pod as a workload will make it, if its template has annotations that the mesh reads. Its name is none that a pod can
/// have.
fn pod_of<'a>((object, template): Made<'a>) -> Option<(Made<'a>, Arc<Object>)> {
    let annotations = &template.annotations;
    if !annotations.keys().any(|key| key.starts_with(OURS)) {
        return None;
    }
    let (namespace, name) = (&object.namespace, format!("{}/{}", object.kind, object.name));
    let raw = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
        "spec": template.spec,
    });
    let pod = Object {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        uid: uid_of("Pod", namespace, &name),
        namespace: namespace.clone(),
        name,
        resource_version: object.resource_version,
        generation: 0,
        labels: template.labels.clone(),
        annotations: annotations.clone(),
        raw,
        origin: None,
    };
    Some(((object, template), Arc::new(pod)))
}

/// What several readers of the same objects found, in order: once where they say something of the same field.
pub fn combined(mut problems: Vec<Problem>) -> Vec<Problem> {
    let field = |p: &Problem| (p.file.clone(), p.line, p.object.clone(), p.field.clone());
    // The worst first: it is the one that stays.
    problems.sort_by_cached_key(|problem| (field(problem), problem.severity));
    problems.dedup_by(|a, b| a.file.is_some() && field(a) == field(b));
    problems
}

/// The notice that a directory has no manifests.
pub(super) fn nothing(sources: &Sources) -> Problem {
    let directories = sources.places.iter().filter(|place| place.file.is_none());
    let entries = directories.filter_map(|place| std::fs::read_dir(&place.directory).ok());
    let mut entries = entries.flat_map(|entries| entries.take(MOST_ENTRIES).flatten());
    let nested = !sources.recursive && entries.any(|entry| entry.path().is_dir());
    Problem {
        file: None,
        line: None,
        object: None,
        field: String::new(),
        message: format!(
            "no manifests found in {sources} (looked for *.yaml, *.yml, *.json{})",
            if nested {
                "; not in subdirectories, which takes -R"
            } else {
                ""
            }
        ),
        fix: "write one there: it is read at once".to_owned(),
        severity: Severity::Notice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Reader;
    use crate::manifest::tests::object;

    fn review() -> Review {
        Review::new(Settings {
            trust_domain: weft_model::identity::TrustDomain::new("test.weft.internal").unwrap(),
            cluster: "test".to_owned(),
            network: "test".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: vec![],
            outside: vec![],
        })
    }

    fn service() -> Arc<Object> {
        object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"ports": [{"port": 80}]}}),
        )
    }

    fn route(backend: &str) -> Arc<Object> {
        object(
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]}}),
        )
    }

    fn said(review: &mut Review, objects: &[Arc<Object>]) -> Vec<String> {
        let (desired, _) = Reader::default().read(objects);
        review
            .problems(objects, desired.workloads())
            .iter()
            .map(|problem| format!("{} {}", problem.object.as_ref().unwrap(), problem.field))
            .collect()
    }

    #[test]
    fn an_edited_route_is_told_when_it_is_refused_and_no_more_when_it_is_mended() {
        let mut review = review();
        assert_eq!(said(&mut review, &[service(), route("web")]), [""; 0]);
        assert_eq!(
            said(&mut review, &[service(), route("nobody")]),
            ["HTTPRoute shop/web spec.rules[0].backendRefs[0].name"]
        );
        assert_eq!(said(&mut review, &[service(), route("web")]), [""; 0]);
    }

    #[test]
    fn an_annotation_of_a_template_is_told_of_its_deployment() {
        let deployment = |mode: &str| {
            object(
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                    "metadata": {"labels": {"app": "web"}, "annotations": {"config.weft.dev/inbound": mode}},
                    "spec": {"containers": [{"name": "c", "command": ["c"]}]}}}}),
            )
        };
        assert_eq!(
            said(&mut review(), &[deployment("sometimes")]),
            ["Deployment default/web spec.template.metadata.annotations[config.weft.dev/inbound]"]
        );
        assert_eq!(said(&mut review(), &[deployment("strict")]), [""; 0]);
    }

    #[test]
    fn what_an_annotation_says_of_a_port_is_told_with_its_name_unless_a_route_declares_it() {
        let key = Key::new("shop", "web");
        let mut review = review();
        said(&mut review, &[service()]);
        assert_eq!(review.told(&key, 80, None, false), None);
        let annotated = json!({"protocol": "opaque", "by": "config.weft.dev/opaque-ports"});
        assert_eq!(review.told(&key, 80, None, true), Some(annotated));
        let mut named = route("web").raw.clone();
        named["spec"]["parentRefs"][0]["port"] = json!(80);
        said(&mut review, &[service(), object(named)]);
        let declared = json!({"protocol": "http", "by": "HTTPRoute shop/web"});
        assert_eq!(review.told(&key, 80, None, true), Some(declared));
    }

    #[test]
    fn of_two_readers_the_one_that_says_worse_is_heard() {
        let problem = |severity| {
            let mut problem = Problem::of_file("/m/a.yaml", Some(3), severity_word(severity), "");
            problem.severity = severity;
            problem
        };
        let all = combined(vec![problem(Severity::Warning), problem(Severity::Error)]);
        assert_eq!(all, [problem(Severity::Error)]);
        let none = |message: &str| Problem {
            file: None,
            message: message.to_owned(),
            ..problem(Severity::Notice)
        };
        assert_eq!(
            combined(vec![none("a"), none("b")]).len(),
            2,
            "of no file: each is its own"
        );
    }

    fn severity_word(severity: Severity) -> String {
        severity.to_string()
    }

    #[test]
    fn an_empty_directory_says_what_was_looked_for() {
        let directory = tempfile::tempdir().unwrap();
        let said = nothing(&Sources::directory(directory.path())).to_string();
        assert!(said.contains("looked for *.yaml, *.yml, *.json)"), "{said}");
        std::fs::create_dir(directory.path().join("base")).unwrap();
        let said = nothing(&Sources::directory(directory.path())).to_string();
        assert!(said.contains("takes -R"), "{said}");
    }
}
