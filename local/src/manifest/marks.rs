//! Weft's own annotations and labels on what a user writes: those that are mistyped, and those that nothing reads where they
//! stand. Without a word, the first would be a mesh that is not what its manifests say.

use serde_json::Value;
use weft_control::objects::{Object, Problem, Severity};
use weft_injector::annotations::{INJECT_LABEL, PREFIX, Tune, VERSION_ANNOTATION, mistake};

/// What labels of ours begin with.
const LABELS: &str = "weft.dev/";

/// What is wrong with the marks of an object.
pub(super) fn read(object: &Object) -> Vec<Problem> {
    let own = &object.raw["metadata"];
    if matches!(object.kind.as_str(), "Namespace" | "Pod") {
        return of(object, own, "metadata");
    }
    let mut problems = Vec::new();
    let template = &object.raw["spec"]["template"]["metadata"];
    problems.extend(of(object, template, "spec.template.metadata"));
    let has_pods = object.raw["spec"]["template"].is_object();
    for (map, key) in marks(own) {
        let fix = match has_pods {
            true => format!("write it in spec.template.metadata.{map}"),
            false => "write it on a Namespace or a Pod".to_owned(),
        };
        let message = format!("nothing reads it on a {}", object.kind);
        problems.push(object.problem(Severity::Warning, &format!("metadata.{map}[{key}]"), message, fix));
    }
    problems
}

/// Those of ours: in which map, and the key.
fn marks(metadata: &Value) -> impl Iterator<Item = (&'static str, &str)> {
    let keys = |map: &'static str| {
        metadata[map]
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(key, _)| (map, key.as_str()))
    };
    let ours = |(_, key): &(&str, &str)| key.starts_with(PREFIX) || key.starts_with(LABELS);
    keys("annotations").chain(keys("labels")).filter(ours)
}

fn of(object: &Object, metadata: &Value, path: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (map, key) in marks(metadata) {
        let Some(text) = metadata[map][key].as_str() else {
            continue;
        };
        if key == VERSION_ANNOTATION {
            continue; // of a pod that was injected already
        }
        let (message, fix) = match map {
            _ if map == "annotations" && key == INJECT_LABEL => {
                ("it is a label".to_owned(), format!("write it in {path}.labels"))
            }
            _ if map == "labels" && key.starts_with(PREFIX) => (
                "it is an annotation".to_owned(),
                format!("write it in {path}.annotations"),
            ),
            _ if key != INJECT_LABEL && !key.starts_with(PREFIX) => (
                "Weft has no mark of this name".to_owned(),
                format!("remove it, or take the label {INJECT_LABEL}"),
            ),
            // What its value is, is told by those who act on it.
            "annotations" if Tune::of(key) == Some(Tune::Inbound) => continue,
            "annotations" => match mistake(key, text) {
                Some(wrong) if wrong.fix.is_empty() => {
                    let fix = Tune::of(key).map(|tune| format!("take {}", tune.value().replace('`', "")));
                    (wrong.message, fix.unwrap_or_default())
                }
                Some(wrong) => (wrong.message, wrong.fix),
                None => continue,
            },
            _ if matches!(text, "enabled" | "disabled") => continue,
            _ => (
                format!("{text:?} is neither \"enabled\" nor \"disabled\""),
                "enabled or disabled".to_owned(),
            ),
        };
        problems.push(object.problem(Severity::Error, &format!("{path}.{map}[{key}]"), message, fix));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_control::objects::cluster::opaque_ports;

    use super::*;
    use crate::manifest::tests::object;

    #[track_caller]
    fn check(raw: Value, want: &[&str]) {
        let said = read(&object(raw)).into_iter();
        let said: Vec<String> = said
            .map(|p| format!("{} {} (fix: {})", p.severity, p.field, p.fix))
            .collect();
        assert_eq!(said, want);
    }

    fn deployment(own: Value, template: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": own, "spec": {"template": {"metadata": template}}})
    }

    #[test]
    fn what_is_right_says_nothing() {
        let right = json!({
            "labels": {INJECT_LABEL: "enabled", "app": "web"},
            "annotations": {"config.weft.dev/access-log": "on", "config.weft.dev/inbound": "strict", "a": "b"},
        });
        check(json!({"kind": "Namespace", "metadata": right}), &[]);
        check(deployment(json!({"name": "web"}), right), &[]);
    }

    #[test]
    fn a_namespace_that_is_mistyped_is_an_error_and_not_a_namespace_without_a_mesh() {
        check(
            json!({"kind": "Namespace", "metadata": {"labels": {INJECT_LABEL: "true"}}}),
            &["error metadata.labels[weft.dev/inject] (fix: enabled or disabled)"],
        );
        check(
            json!({"kind": "Namespace", "metadata": {"annotations": {"config.weft.dev/acces-log": "on"}}}),
            &[
                "error metadata.annotations[config.weft.dev/acces-log] (fix: remove it, or take one of access-log, inbound, \
               log-level, opaque-ports, proxy-cpu-limit, proxy-cpu-request, proxy-memory-limit, proxy-memory-request, skip-inbound-ports, \
               skip-outbound-ports, skip-outbound-subnets, trace-sampling, workers)",
            ],
        );
    }

    #[test]
    fn a_mark_of_another_name_or_in_the_other_map_is_an_error() {
        check(
            json!({"kind": "Namespace", "metadata": {"labels": {"weft.dev/injct": "enabled"}}}),
            &["error metadata.labels[weft.dev/injct] (fix: remove it, or take the label weft.dev/inject)"],
        );
        check(
            json!({"kind": "Namespace", "metadata": {"labels": {"config.weft.dev/inbound": "strict"}}}),
            &["error metadata.labels[config.weft.dev/inbound] (fix: write it in metadata.annotations)"],
        );
        check(
            json!({"kind": "Pod", "metadata": {"annotations": {INJECT_LABEL: "disabled"}}}),
            &["error metadata.annotations[weft.dev/inject] (fix: write it in metadata.labels)"],
        );
    }

    #[test]
    fn opaque_ports_are_read_alike_by_injection_and_by_the_control_plane() {
        let (most, more) = (["1"; 64].join(","), ["1"; 65].join(","));
        for (text, good) in [
            ("6379", true),
            (" 6379 , 9092,", true),
            ("", true),
            (&most, true),
            (&more, false),
            ("0", false),
            ("65536", false),
            ("redis", false),
            ("6379-6400", false),
        ] {
            let key = "config.weft.dev/opaque-ports";
            let raw = json!({"kind": "Namespace", "metadata": {"annotations": {key: text}}});
            let namespace = object(raw);
            assert_eq!(mistake(key, text).is_none(), good, "{text}");
            assert_eq!(opaque_ports(&namespace).unwrap().is_ok(), good, "{text}");
            let said = read(&namespace).pop().map(|problem| (problem.field, problem.fix));
            let told = (
                format!("metadata.annotations[{key}]"),
                "take container ports, separated by commas; at most 64".to_owned(),
            );
            assert_eq!(said, (!good).then_some(told), "{text}");
        }
    }

    #[test]
    fn a_value_is_an_error_in_a_template_and_an_annotation_beside_the_template_a_warning() {
        check(
            deployment(json!({}), json!({"annotations": {"config.weft.dev/workers": "many"}})),
            &["error spec.template.metadata.annotations[config.weft.dev/workers] (fix: take a number from 1 to 255)"],
        );
        check(
            deployment(
                json!({"annotations": {"config.weft.dev/inbound": "strict"}, "labels": {INJECT_LABEL: "disabled"}}),
                json!({}),
            ),
            &[
                "warning metadata.annotations[config.weft.dev/inbound] (fix: write it in spec.template.metadata.annotations)",
                "warning metadata.labels[weft.dev/inject] (fix: write it in spec.template.metadata.labels)",
            ],
        );
        check(
            json!({"kind": "Service", "metadata": {"annotations": {"config.weft.dev/inbound": "strict"}}}),
            &["warning metadata.annotations[config.weft.dev/inbound] (fix: write it on a Namespace or a Pod)"],
        );
    }
}
