//! Meshed namespaces whose Pod Security refuses every pod with a sidecar: said by an event there, before pods fail.

use std::sync::Arc;

use serde_json::json;
use weft_model::pod_security::{self, ENFORCE_LABEL, Refusal};

use super::events::{Event, Subject};
use super::shown::Shown;
use super::trust::{is_ending, is_meshed};
use crate::objects::Object;

/// Such a namespace.
#[derive(Debug)]
pub(super) struct Secured {
    namespace: Arc<Object>,
    refusal: Refusal,
}

/// Finds them all. `own`: Weft's own namespace.
pub(super) fn find(shown: &Shown, own: &str) -> Vec<Secured> {
    let namespaces = shown.of_kind("Namespace").into_iter();
    let meshed = namespaces.filter(|namespace| is_meshed(namespace, own) && !is_ending(namespace));
    let refusing = meshed.filter_map(|namespace| {
        let level = namespace.labels.get(ENFORCE_LABEL).map(String::as_str);
        let refusal = pod_security::refusal(&namespace.name, level)?;
        Some(Secured { namespace, refusal })
    });
    refusing.collect()
}

impl Subject for Secured {
    fn key(&self) -> String {
        format!("{}/{}", self.namespace.uid, self.refusal.what)
    }

    fn event(&self) -> Event {
        let namespace = &self.namespace;
        Event {
            namespace: namespace.name.clone(),
            reason: "PodSecurityRefusesSidecar",
            note: format!("{}. Until then its pods fail.", self.refusal),
            // With a namespace, so that it may be an event of that one: people look there.
            regarding: json!({
                "apiVersion": "v1", "kind": "Namespace", "namespace": namespace.name, "name": namespace.name,
                "uid": namespace.uid, "resourceVersion": namespace.resource_version.to_string()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Kind;
    use super::super::trust::INJECT_LABEL;
    use super::*;

    #[test]
    fn meshed_namespaces_whose_pods_will_be_refused_are_told_of_with_the_fix() {
        let kind = Kind::all().into_iter().find(|kind| kind.kind == "Namespace").unwrap();
        let shown = Shown::new(&[]);
        let namespace = |name: &str, inject: &str, level: &str| {
            let labels = json!({INJECT_LABEL: inject, ENFORCE_LABEL: level});
            let metadata = json!({"name": name, "uid": name, "resourceVersion": "1", "labels": labels});
            super::super::object::read(&kind, "v1", json!({"metadata": metadata}))
        };
        let all = vec![
            namespace("refuses", "enabled", "baseline"),
            namespace("allows", "enabled", "privileged"),
            namespace("other", "disabled", "restricted"),
            namespace("weft-system", "enabled", "restricted"),
        ];
        shown.listed(&kind, "v1", 1, 0, all);
        let found = find(&shown, "weft-system");
        let [secured] = found.as_slice() else {
            panic!("{found:?}");
        };
        let event = secured.event();
        assert_eq!(
            (event.namespace.as_str(), event.reason),
            ("refuses", "PodSecurityRefusesSidecar")
        );
        assert!(event.note.contains("kubectl label ns refuses"), "{}", event.note);
    }
}
