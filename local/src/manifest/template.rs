//! What pods are made from: a Pod's own manifest, or a workload's template.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_control::objects::{Object, Problem, Severity, decode};

use super::raw;
use super::{DEFAULT_ACCOUNT, Workload, check};

/// What pods are made from.
#[derive(Clone, Debug)]
pub struct Template {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec`, as it was written.
    pub spec: Value,
    /// The same, decoded.
    pub view: Arc<raw::PodSpec>,
    /// Changes with what pods are made from (of a Pod: with its `spec` only, because its metadata may change while it
    /// runs). Fit for a label.
    pub hash: String,
    /// What stands before `spec` in a field's name: empty, or `spec.template.`.
    pub prefix: &'static str,
}

/// Before the fields of a workload's template.
const PREFIX: &str = "spec.template.";

impl Template {
    /// That of a Pod. None: it can't be honoured, and the problems say why.
    pub fn of_pod(object: &Arc<Object>, problems: &mut Vec<Problem>) -> Option<Self> {
        let (spec, view) = read(object, &object.raw, "", None, problems)?;
        let hash = hash(&spec.to_string());
        let (labels, annotations) = (object.labels.clone(), object.annotations.clone());
        Some(Self {
            labels,
            annotations,
            spec,
            view,
            hash,
            prefix: "",
        })
    }

    /// That of a workload: its `spec.template`, to which its kind may have added something.
    pub fn of_workload(
        object: &Arc<Object>,
        template: &Value,
        kind: Workload,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let labels = text_map(
            object,
            &template["metadata"]["labels"],
            "spec.template.metadata.labels",
            problems,
        );
        let annotations = &template["metadata"]["annotations"];
        let annotations = text_map(object, annotations, "spec.template.metadata.annotations", problems);
        let (spec, view) = read(object, template, PREFIX, Some(kind), problems)?;
        let (labels, annotations) = (labels?, annotations?);
        let hash = hash(&json!([labels, annotations, spec]).to_string());
        Some(Self {
            labels,
            annotations,
            spec,
            view,
            hash,
            prefix: PREFIX,
        })
    }

    /// That of a workload as a cluster takes it, whether a mesh on this machine could run it or not. None: the object is no
    /// workload, or says nothing of pods that can be read.
    pub fn unchecked(object: &Object) -> Option<Self> {
        let template = &object.raw["spec"]["template"];
        let view = decode::<raw::Pod>(template).ok()?.value.spec;
        let texts = |map: &Value| {
            let all = map.as_object().into_iter().flatten();
            all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        Some(Self {
            labels: texts(&template["metadata"]["labels"]),
            annotations: texts(&template["metadata"]["annotations"]),
            spec: template["spec"].clone(),
            view: Arc::new(view),
            hash: String::new(),
            prefix: PREFIX,
        })
    }

    /// The name of the service account that its pods run as.
    pub fn service_account(&self) -> &str {
        let view = &self.view;
        let name = view.service_account_name.as_deref().or(view.service_account.as_deref());
        name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_ACCOUNT)
    }
}

fn read(
    object: &Arc<Object>,
    pod: &Value,
    prefix: &'static str,
    kind: Option<Workload>,
    problems: &mut Vec<Problem>,
) -> Option<(Value, Arc<raw::PodSpec>)> {
    let view = match decode::<raw::Pod>(pod) {
        Ok(decoded) => decoded.value.spec,
        Err(error) => {
            let field = format!("{prefix}{}", error.field);
            let fix = match hint(&field) {
                "" => error.fix(),
                hint => hint,
            };
            problems.push(object.problem(Severity::Error, &field, error.message, fix));
            return None;
        }
    };
    let mistakes = check::pod(&view, kind);
    let sound = mistakes.is_empty();
    problems.extend(mistakes.into_iter().map(|mistake| {
        let field = format!("{prefix}{}", mistake.field);
        object.problem(Severity::Error, &field, mistake.message, mistake.fix)
    }));
    sound.then(|| (pod["spec"].clone(), Arc::new(view)))
}

/// The commonest mistake: YAML takes `8080` and `true` for a number and a truth value.
fn hint(field: &str) -> &'static str {
    if field.contains("env[") || field.contains("labels") || field.contains("args[") || field.contains("command[") {
        "put it in quotes"
    } else if field.ends_with(".command") || field.ends_with(".args") {
        "write a list of words, such as [sleep, infinity]"
    } else {
        ""
    }
}

fn text_map(
    object: &Object,
    map: &Value,
    field: &str,
    problems: &mut Vec<Problem>,
) -> Option<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (key, value) in map.as_object().into_iter().flatten() {
        let Some(text) = value.as_str() else {
            let field = format!("{field}[{key}]");
            problems.push(object.problem(
                Severity::Error,
                &field,
                format!("{value} is no text"),
                "put it in quotes",
            ));
            return None;
        };
        out.insert(key.clone(), text.to_owned());
    }
    Some(out)
}

/// Ten characters without vowels, as Kubernetes makes `pod-template-hash`: they never form a word. 64 bits of FNV-1a, so
/// it is the same in every build.
pub(super) fn hash(text: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let letter = |hash: &mut u64| {
        let letter = LETTERS[(*hash % 27) as usize];
        *hash /= 27;
        char::from(letter)
    };
    (0..10).map(|_| letter(&mut hash)).collect()
}
