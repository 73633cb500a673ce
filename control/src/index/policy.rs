//! What a ServiceSubset and a TrafficPolicy mean.

use std::collections::BTreeMap;

use weft_model::locality::{Locality, Prefer, SPILL_BELOW_PERCENT};

use super::Name;
use super::kept::{Formed, Refusal};
use crate::objects::names::is_service_name;
use crate::objects::weft::{PreferSpec, ServiceSubset, ServiceSubsetSpec, TargetRef, TrafficPolicy, TrafficPolicySpec};
use crate::objects::{Object, decode};

/// Services of one policy, and regions of one subset.
const ENTRIES_MAX: usize = 64;

/// A part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) service: Name,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) regions: Vec<String>,
}

/// How traffic to Services is spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) targets: Vec<Name>,
    /// `None`: the policy says nothing of it.
    pub(crate) locality: Option<Locality>,
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

impl Policy {
    /// Reads a TrafficPolicy object.
    pub(crate) fn of(object: &Object) -> Formed<Self> {
        let decoded = decode::<TrafficPolicy>(&object.raw).map_err(|error| vec![Refusal::from(error)])?;
        let TrafficPolicySpec { target_refs, locality } = decoded.value.spec;
        let mut refusals = Vec::new();
        if target_refs.is_empty() || target_refs.len() > ENTRIES_MAX {
            let message = format!("must have 1 to {ENTRIES_MAX} entries");
            refusals.push(Refusal::value(
                "spec.targetRefs",
                message,
                "name the Services that the policy is about",
            ));
        }
        for (i, TargetRef { group, kind, name }) in target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{i}]");
            if !matches!(group.as_str(), "" | "core") || kind != "Service" {
                let message = format!("a TrafficPolicy is about Services, and not about {kind}");
                refusals.push(Refusal::value(
                    format!("{field}.kind"),
                    message,
                    "group: \"\", kind: Service",
                ));
            } else if !is_service_name(name) {
                let message = format!("{name:?} is no name of a Service");
                refusals.push(Refusal::value(
                    format!("{field}.name"),
                    message,
                    "the name of a Service of this namespace",
                ));
            }
        }
        let locality = locality.map(|written| {
            let spill_below_percent = written.spill_below_percent.unwrap_or(SPILL_BELOW_PERCENT);
            if !(1..=100).contains(&spill_below_percent) {
                let message = format!("{spill_below_percent} is no share");
                refusals.push(Refusal::value(
                    "spec.locality.spillBelowPercent",
                    message,
                    "from 1 to 100",
                ));
            }
            let prefer = match written.prefer {
                PreferSpec::Zone => Prefer::Zone,
                PreferSpec::Region => Prefer::Region,
                PreferSpec::None => Prefer::None,
            };
            Locality {
                prefer,
                spill_below_percent,
            }
        });
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let name = |target: TargetRef| Name {
            namespace: object.namespace.clone(),
            name: target.name,
        };
        Ok((
            Self {
                targets: target_refs.into_iter().map(name).collect(),
                locality,
            },
            decoded.unknown,
        ))
    }
}
