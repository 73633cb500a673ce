//! What a ServiceSubset means.

use std::collections::BTreeMap;

use super::Name;
use super::kept::{Formed, Refusal};
use crate::objects::names::is_service_name;
use crate::objects::weft::{ServiceSubset, ServiceSubsetSpec};
use crate::objects::{Object, decode};

/// Regions of one subset.
const ENTRIES_MAX: usize = 64;

/// A part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) service: Name,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) regions: Vec<String>,
}

impl Subset {
    /// Reads a ServiceSubset object.
    pub(crate) fn of(object: &Object) -> Formed<Self> {
        let decoded = decode::<ServiceSubset>(&object.raw).map_err(|error| {
            let fix = match error.field.as_str() {
                "spec.selector.matchLabels" | "spec.selector.matchExpressions" => {
                    "write the labels right under selector, as a Service does"
                }
                _ => "",
            };
            vec![Refusal {
                fix: fix.to_owned(),
                ..Refusal::from(error)
            }]
        })?;
        let ServiceSubsetSpec {
            service,
            selector,
            regions,
        } = decoded.value.spec;
        let mut refusals = Vec::new();
        if !is_service_name(&service) {
            let message = format!("{service:?} is no name of a Service");
            refusals.push(Refusal::value(
                "spec.service",
                message,
                "the name of a Service of this namespace",
            ));
        }
        if regions.len() > ENTRIES_MAX || regions.iter().any(String::is_empty) {
            let message = format!("has more than {ENTRIES_MAX} entries, or an empty one");
            refusals.push(Refusal::value(
                "spec.regions",
                message,
                "names of regions, as the Nodes' labels write them",
            ));
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let service = Name {
            namespace: object.namespace.clone(),
            name: service,
        };
        Ok((
            Self {
                service,
                selector,
                regions,
            },
            decoded.unknown,
        ))
    }

    /// Whether a pod with these labels in this region belongs to it.
    pub(crate) fn has(&self, labels: &BTreeMap<String, String>, region: &str) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && (self.regions.is_empty() || self.regions.iter().any(|wanted| wanted == region))
    }
}
