//! A file's bytes in, objects and problems out. Knows nothing of directories or time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::Writer;
use super::yaml::{self, Document};
use crate::objects::kinds::Scope;
use crate::objects::names::{is_label, is_service_name, is_subdomain};
use crate::objects::near::near;
use crate::objects::{Kinds, Object, Origin, Problem, Severity, Standing};

/// Bytes of one file. An object of Kubernetes is at most 1.5 MiB.
pub(super) const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The fields of a List.
const LIST_FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];

/// What a file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// The objects, in order, with the hash of their content.
    pub(super) objects: Vec<Written>,
    /// What is wrong with it, but not so wrong that it could not be read.
    pub(super) problems: Vec<Problem>,
}

/// An object of a file. Of a user's file: without uid and resource version.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// The object.
    pub(super) object: Object,
    /// SHA-256 of its content, in hex.
    pub(super) hash: String,
}

/// Reads a file.
///
/// # Errors
/// What makes the file unreadable as a whole: its former objects are to be kept.
pub(super) fn read(path: &Path, bytes: &[u8], writer: Writer, kinds: &Kinds) -> Result<Reading, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1;
        let line = u32::try_from(line).ok();
        vec![Problem::of_file(
            path,
            line,
            "the text is not UTF-8",
            "save the file as UTF-8",
        )]
    })?;
    let mut reading = Reading::default();
    let mut faults = Vec::new();
    for document in documents(path, text, writer).map_err(|problem| vec![*problem])? {
        for document in spread(document) {
            let place = Place { path, document };
            match place.object(kinds) {
                Ok(Taken::Object(written)) => reading.objects.push(*written),
                Ok(Taken::Left(problem)) => reading.problems.extend(problem),
                Err(problem) => faults.push(*problem),
            }
        }
    }
    if faults.is_empty() { Ok(reading) } else { Err(faults) }
}

/// An object from content that was kept of it. `None`: it is not one.
pub(super) fn restored(path: &Path, value: Value, kinds: &Kinds) -> Option<Written> {
    let place = Place {
        path,
        document: Document {
            value,
            line: 1,
            lines: BTreeMap::new(),
        },
    };
    match place.object(kinds) {
        Ok(Taken::Object(written)) => Some(*written),
        _ => None,
    }
}

fn documents(path: &Path, text: &str, writer: Writer) -> Result<Vec<Document>, Box<Problem>> {
    let json = path.extension().is_some_and(|extension| extension == "json");
    let whole = |value| {
        vec![Document {
            value,
            line: 1,
            lines: BTreeMap::new(),
        }]
    };
    if json && writer == Writer::Machine {
        return serde_json::from_str(text).map(whole).map_err(|error| {
            let line = u32::try_from(error.line()).ok();
            Box::new(Problem::of_file(path, line, format!("no JSON: {error}"), ""))
        });
    }
    let documents = yaml::documents(text);
    match (json, documents) {
        // YAML has all of JSON but escaped surrogate pairs; without them there are lines.
        (true, Err(fault)) => serde_json::from_str(text).map(whole).map_err(|_| fault),
        (_, documents) => documents,
    }
    .map_err(|fault| Box::new(Problem::of_file(path, Some(fault.line), fault.message, fault.fix)))
}

/// The objects of a `List`, or of a list of one kind (`DeploymentList`), each with its own lines; another document is one
/// object. Lists may hold lists: YAML's depth is bounded.
fn spread(mut document: Document) -> Vec<Document> {
    let word = |field: &str| document.value[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (word("apiVersion"), word("kind"));
    let of = kind.strip_suffix("List");
    let (Some(of), true) = (of, document.value["items"].is_array()) else {
        // A list of nothing may be written so.
        let known = |key: &String| LIST_FIELDS.contains(&key.as_str());
        let only_known = document
            .value
            .as_object()
            .is_some_and(|fields| fields.keys().all(known));
        let empty = kind == "List" && document.value["items"].is_null() && only_known;
        return if empty { vec![] } else { vec![document] };
    };
    let Value::Array(items) = document.value["items"].take() else {
        return vec![];
    };
    let mut lines: Vec<BTreeMap<String, u32>> = vec![BTreeMap::new(); items.len()];
    let mut begins = vec![document.line; items.len()];
    for (pointer, line) in std::mem::take(&mut document.lines) {
        let Some(below) = pointer.strip_prefix("/items/") else {
            continue;
        };
        let (index, rest) = below.split_at(below.find('/').unwrap_or(below.len()));
        let Some(index) = index.parse::<usize>().ok().filter(|index| *index < items.len()) else {
            continue;
        };
        match rest.is_empty() {
            true => begins[index] = line,
            false => _ = lines[index].insert(rest.to_owned(), line),
        }
    }
    let objects = items
        .into_iter()
        .zip(lines)
        .zip(begins)
        .map(|((mut value, lines), line)| {
            if let (Value::Object(object), false) = (&mut value, of.is_empty()) {
                // An API server leaves them out where the list says them.
                object.entry("apiVersion").or_insert_with(|| api_version.clone().into());
                object.entry("kind").or_insert_with(|| of.into());
            }
            Document { value, line, lines }
        });
    objects.flat_map(spread).collect()
}

enum Taken {
    Object(Box<Written>),
    Left(Option<Problem>),
}

struct Place<'a> {
    path: &'a Path,
    document: Document,
}

impl Place<'_> {
    fn problem(&self, field: &str, message: impl Into<String>, fix: impl Into<String>) -> Box<Problem> {
        let line = self
            .document
            .lines
            .get(&crate::objects::pointer_of(field))
            .copied()
            .unwrap_or(self.document.line);
        let mut problem = Problem::of_file(self.path, Some(line), message, fix);
        field.clone_into(&mut problem.field);
        Box::new(problem)
    }

    fn text(&self, pointer: &str) -> Result<&str, Box<Problem>> {
        let field = pointer[1..].replace('/', ".");
        match self.document.value.pointer(pointer) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            None | Some(Value::Null) => Err(self.problem(&field, "is missing", "every object needs it")),
            Some(_) => Err(self.problem(&field, "is no text", "put it in quotes")),
        }
    }

    fn object(self, kinds: &Kinds) -> Result<Taken, Box<Problem>> {
        if !self.document.value.is_object() {
            return Err(self.problem(
                "",
                "is no Kubernetes object",
                "an object has apiVersion, kind and metadata",
            ));
        }
        let api_version = self.text("/apiVersion")?.to_owned();
        let kind = self.text("/kind")?.to_owned();
        if kind == "List" {
            return Err(self.no_list());
        }
        let scope = match kinds.standing(&api_version, &kind) {
            Standing::Understood(scope) => scope,
            Standing::Elsewhere => return Ok(Taken::Left(None)),
            // It is there, but cannot be read: not the same as gone.
            standing @ Standing::Version { .. } => return Err(Box::new(self.left(&standing, &api_version, &kind))),
            standing => {
                return Ok(Taken::Left(Some(self.left_or_meant(
                    &standing,
                    kinds,
                    &api_version,
                    &kind,
                ))));
            }
        };
        let name = self.name(&kind)?;
        let namespace = match (scope, self.document.value.pointer("/metadata/namespace")) {
            (Scope::Cluster, _) => String::new(),
            (Scope::Namespaced, None | Some(Value::Null)) => kinds.namespace().to_owned(),
            (Scope::Namespaced, Some(Value::String(namespace))) if is_label(namespace) => namespace.clone(),
            (Scope::Namespaced, Some(_)) => {
                return Err(self.problem(
                    "metadata.namespace",
                    "is no name of a namespace",
                    "a-z, 0-9 and '-', at most 63",
                ));
            }
        };
        let metadata = |field: &str| self.document.value.pointer(&format!("/metadata/{field}"));
        let number = |field| metadata(field).and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
        let object = Object {
            labels: self.texts("labels")?,
            annotations: self.texts("annotations")?,
            uid: metadata("uid").and_then(Value::as_str).unwrap_or_default().to_owned(),
            resource_version: number("resourceVersion").unwrap_or_default(),
            generation: number("generation").unwrap_or_default(),
            api_version,
            kind,
            namespace,
            name,
            origin: Some(Origin {
                file: self.path.to_owned(),
                line: self.document.line,
                lines: Arc::new(self.document.lines),
            }),
            raw: self.document.value,
        };
        let hash = digest(&SHA256, object.raw.to_string().as_bytes());
        let hash = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Taken::Object(Box::new(Written { object, hash })))
    }

    /// What is wrong with a List that has no items.
    fn no_list(&self) -> Box<Problem> {
        let keys = self
            .document
            .value
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.keys());
        let mistyped = keys
            .filter(|key| !LIST_FIELDS.contains(&key.as_str()))
            .find(|key| near(key, ["items"]).is_some());
        match mistyped {
            Some(key) => self.problem(key, "is no field of a List", "did you mean items?"),
            None => self.problem("items", "is no list", "write the objects below it, one item each"),
        }
    }

    /// What is said of an object that is left, with what may be meant by its kind.
    fn left_or_meant(&self, standing: &Standing, kinds: &Kinds, api_version: &str, kind: &str) -> Problem {
        let mut left = self.left(standing, api_version, kind);
        let unknown = matches!(standing, Standing::Unknown | Standing::NotHonoured);
        if let Some(meant) = kinds.meant(api_version, kind).filter(|_| unknown) {
            // What is only mistyped was to act.
            left.severity = left.severity.min(Severity::Warning);
            left.fix = meant;
        }
        left
    }

    fn name(&self, kind: &str) -> Result<String, Box<Problem>> {
        let name = self.text("/metadata/name")?;
        let (valid, rule) = match kind {
            "Service" => (
                is_service_name(name),
                "a-z, 0-9 and '-', beginning with a letter, at most 63",
            ),
            "Namespace" => (is_label(name), "a-z, 0-9 and '-', at most 63"),
            _ => (is_subdomain(name), "a-z, 0-9, '-' and '.', each part at most 63"),
        };
        match valid {
            true => Ok(name.to_owned()),
            false => Err(self.problem("metadata.name", format!("{name:?} is no name of a {kind}"), rule)),
        }
    }

    /// Labels or annotations.
    fn texts(&self, field: &str) -> Result<BTreeMap<String, String>, Box<Problem>> {
        let path = format!("metadata.{field}");
        match self.document.value.pointer(&format!("/metadata/{field}")) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(fields)) => fields
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key.clone(), text.clone())),
                    Value::Null => Ok((key.clone(), String::new())),
                    other => {
                        let fix = format!("put it in quotes: \"{other}\"");
                        Err(self.problem(&format!("{path}[{key}]"), "is no text", fix))
                    }
                })
                .collect(),
            Some(_) => Err(self.problem(&path, "is no mapping", "names and values")),
        }
    }

    fn left(&self, standing: &Standing, api_version: &str, kind: &str) -> Problem {
        let name = |pointer| {
            self.document
                .value
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (severity, field, message, fix) = match standing {
            Standing::Version { understood } => (
                Severity::Error,
                "apiVersion",
                format!("{api_version} of {kind} is not understood"),
                format!("apiVersion: {}", understood.join(" or ")),
            ),
            Standing::NotHonoured => (
                Severity::Error,
                "kind",
                format!("{kind} ({api_version}) is not honoured by this version of Weft"),
                "remove it, or use a version that honours it".to_owned(),
            ),
            Standing::NotEnforced => {
                let message = format!("nothing enforces a {kind} here");
                (
                    Severity::Warning,
                    "kind",
                    message,
                    "do not rely on it in a local mesh".to_owned(),
                )
            }
            other => (
                Severity::Notice,
                "kind",
                format!("{kind} ({api_version}) is not understood and is ignored"),
                match other {
                    Standing::Missing(instead) => (*instead).to_owned(),
                    _ => String::new(),
                },
            ),
        };
        Problem {
            object: Some(crate::objects::ObjectRef {
                kind: kind.to_owned(),
                namespace: name("/metadata/namespace"),
                name: name("/metadata/name"),
            }),
            severity,
            ..*self.problem(field, message, fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Result<Reading, Vec<Problem>> {
        read(Path::new("a.yaml"), text.as_bytes(), Writer::User, &Kinds::control())
    }

    #[track_caller]
    fn refused(text: &str, want: &str) {
        let problems = user(text).unwrap_err();
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
    }

    #[test]
    fn an_object_is_read_with_its_names_and_lines() {
        let text =
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels: {x: y}\nspec:\n  ports:\n  - port: 80\n";
        let reading = user(text).unwrap();
        let object = &reading.objects[0].object;
        assert_eq!((object.namespace.as_str(), object.name.as_str()), ("default", "a"));
        assert_eq!(object.labels["x"], "y");
        let problem = object.problem(Severity::Error, "spec.ports[0].targetPort", "is odd", "make it even");
        assert_eq!(
            problem.to_string(),
            "a.yaml:8: Service default/a: spec.ports[0].targetPort: is odd (fix: make it even)"
        );
    }

    #[test]
    fn a_namespace_has_no_namespace() {
        let reading = user("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}\n").unwrap();
        assert_eq!(reading.objects[0].object.namespace, "");
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_line() {
        refused(
            "apiVersion: v1\nkind: Service\nmetadata: {}\n",
            "a.yaml:1: metadata.name: is missing (fix: every object needs it)",
        );
        refused(
            "a: 1\n",
            "a.yaml:1: apiVersion: is missing (fix: every object needs it)",
        );
        refused(
            "---\n- 1\n",
            "a.yaml:2: is no Kubernetes object (fix: an object has apiVersion, kind and metadata)",
        );
        refused(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: A\n",
            "a.yaml:4: metadata.name: \"A\" is no name of a Service (fix: a-z, 0-9 and '-', beginning with a letter, at most 63)",
        );
        refused(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    version: 1\n",
            "a.yaml:6: metadata.labels[version]: is no text (fix: put it in quotes: \"1\")",
        );
        let bad = read(Path::new("a.yaml"), b"a: 1\nb: \xff\n", Writer::User, &Kinds::control()).unwrap_err();
        assert_eq!(
            bad[0].to_string(),
            "a.yaml:2: the text is not UTF-8 (fix: save the file as UTF-8)"
        );
    }

    #[test]
    fn the_items_of_a_list_are_objects_with_lines_of_their_own() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: a\n  spec:\n    ports:\n    - port: 80\n\
            - apiVersion: v1\n  kind: ServiceList\n  items:\n  - metadata:\n      name: b\n";
        let reading = user(text).unwrap();
        let names: Vec<_> = reading
            .objects
            .iter()
            .map(|w| w.object.reference().to_string())
            .collect();
        assert_eq!(names, ["Service default/a", "Service default/b"]);
        let said = |i: usize, field: &str| {
            let problem = reading.objects[i].object.problem(Severity::Error, field, "is odd", "");
            problem.to_string()
        };
        assert_eq!(
            said(0, "spec.ports[0].port"),
            "a.yaml:10: Service default/a: spec.ports[0].port: is odd"
        );
        assert_eq!(
            said(1, "metadata.name"),
            "a.yaml:15: Service default/b: metadata.name: is odd"
        );
    }

    #[test]
    fn an_item_that_is_no_object_is_refused_at_its_line_and_an_empty_list_is_no_fault() {
        let list = "apiVersion: v1\nkind: List\nitems:\n";
        refused(
            &format!("{list}- apiVersion: v1\n  kind: Service\n  metadata:\n    name: A\n"),
            "a.yaml:7: metadata.name: \"A\" is no name of a Service (fix: a-z, 0-9 and '-', beginning with a letter, at most 63)",
        );
        refused(
            &format!("{list}- 1\n"),
            "a.yaml:4: is no Kubernetes object (fix: an object has apiVersion, kind and metadata)",
        );
        refused(
            "apiVersion: v1\nkind: List\nitems: {}\n",
            "a.yaml:3: items: is no list (fix: write the objects below it, one item each)",
        );
        assert!(user(&format!("{list}  []\n")).unwrap().objects.is_empty());
        assert!(user(list).unwrap().objects.is_empty());
    }

    #[test]
    fn a_mistyped_kind_group_or_list_is_answered_with_what_is_meant() {
        let of = |api: &str, kind: &str| {
            let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\n");
            let problem = user(&text).unwrap().problems.remove(0);
            (problem.severity, problem.fix)
        };
        assert_eq!(
            of("apps/v1", "Deploymnet"),
            (Severity::Warning, "did you mean kind: Deployment?".to_owned())
        );
        assert_eq!(
            of("apps/v1", "Service").1,
            "did you mean kind: Service with apiVersion: v1?"
        );
        assert_eq!(of("weft.dev/v1alpha1", "TraficPolicy").0, Severity::Error);
        assert_eq!(
            of("weft.dev/v1alpha1", "TraficPolicy").1,
            "did you mean kind: TrafficPolicy?"
        );
        assert_eq!(
            of("serving.knative.dev/v1", "Service"),
            (Severity::Notice, String::new())
        );
        refused(
            "apiVersion: v1\nkind: List\nitem:\n- a: 1\n",
            "a.yaml:3: item: is no field of a List (fix: did you mean items?)",
        );
    }

    #[test]
    fn a_forgotten_line_between_two_objects_is_named() {
        refused(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\napiVersion: v1\nkind: Namespace\n",
            "a.yaml:4: the key \"apiVersion\" is given twice (fix: write --- in a line of its own before each further object)",
        );
    }

    #[test]
    fn kinds_that_are_not_understood_are_named() {
        let of = |api: &str, kind: &str| {
            let text = format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\n");
            let reading = user(&text).unwrap();
            assert!(reading.objects.is_empty());
            reading
                .problems
                .iter()
                .map(|problem| (problem.severity, problem.to_string()))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("apps/v1", "Deployment"), []);
        let [(Severity::Notice, text)] = &of("batch/v1", "CronJob")[..] else {
            panic!()
        };
        assert_eq!(
            text,
            "a.yaml:2: CronJob b/a: kind: CronJob (batch/v1) is not understood and is ignored (fix: write its jobTemplate as a \
             Job)"
        );
        // What changes nothing here is not worth a word.
        for (api, kind) in [
            ("policy/v1", "PodDisruptionBudget"),
            ("gateway.networking.k8s.io/v1", "ReferenceGrant"),
            ("rbac.authorization.k8s.io/v1", "Role"),
        ] {
            assert_eq!(of(api, kind), [], "{kind}");
        }
        for kind in ["AccessPolicy", "EgressPolicy", "ClusterLink", "Nonsense"] {
            assert_eq!(of("weft.dev/v1alpha1", kind)[0].0, Severity::Error, "{kind}");
        }
        for (api, kind) in [
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("security.istio.io/v1", "AuthorizationPolicy"),
            ("cilium.io/v2", "CiliumNetworkPolicy"),
        ] {
            assert_eq!(of(api, kind)[0].0, Severity::Warning, "{kind}");
        }
        assert_eq!(of("serving.knative.dev/v1", "Service")[0].0, Severity::Notice);
    }

    #[test]
    fn a_version_of_a_known_kind_that_is_not_understood_is_a_fault() {
        refused(
            "apiVersion: v2\nkind: Namespace\nmetadata: {name: a}\n",
            "a.yaml:1: Namespace a: apiVersion: v2 of Namespace is not understood (fix: apiVersion: v1)",
        );
        refused(
            "apiVersion: weft.dev/v2\nkind: ServiceSubset\nmetadata: {name: a, namespace: b}\n",
            "a.yaml:1: ServiceSubset b/a: apiVersion: weft.dev/v2 of ServiceSubset is not understood (fix: apiVersion: weft.dev/v1alpha1)",
        );
    }

    #[test]
    fn json_with_surrogates_is_read_too() {
        let text =
            r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {"x": "\ud83d\ude00"}}}"#;
        let reading = read(Path::new("a.json"), text.as_bytes(), Writer::User, &Kinds::control()).unwrap();
        assert_eq!(reading.objects[0].object.annotations["x"], "😀");
    }
}
