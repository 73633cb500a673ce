//! DaemonSets.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use weft_control::objects::{Object, Problem, Severity, decode};

use super::deployment::amount;
use super::raw::NumberOrName;
use super::selector::{Selector, Wrong};
use super::{Template, Workload};

/// A DaemonSet.
#[derive(Clone, Debug)]
pub struct DaemonSet {
    /// As it was written.
    pub object: Arc<Object>,
    /// What its pods are made from.
    pub template: Template,
    /// For how long a pod is ready before it counts.
    pub min_ready: Duration,
    /// How many of its pods may be unavailable while they are replaced.
    unavailable: NumberOrName,
}

#[derive(Deserialize)]
struct Raw {
    spec: RawSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    min_ready_seconds: u32,
    #[serde(default)]
    update_strategy: Strategy,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Strategy {
    #[serde(default)]
    rolling_update: Rolling,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rolling {
    max_unavailable: Option<NumberOrName>,
}

impl DaemonSet {
    /// Reads a DaemonSet. None: it can't be honoured, and the problems say why.
    pub fn read(object: &Arc<Object>, problems: &mut Vec<Problem>) -> Option<Self> {
        let raw = match decode::<Raw>(&object.raw) {
            Ok(decoded) => decoded.value.spec,
            Err(error) => {
                let fix = error.fix();
                problems.push(object.problem(Severity::Error, &error.field, error.message, fix));
                return None;
            }
        };
        let written = object.raw.pointer("/spec/template").cloned().unwrap_or_default();
        let template = Template::of_workload(object, &written, Workload::DaemonSet, problems)?;
        let unavailable = raw.update_strategy.rolling_update.max_unavailable;
        let unavailable = unavailable.unwrap_or(NumberOrName::Number(1));
        match check(&raw.selector, &template, &unavailable) {
            Ok(()) => Some(Self {
                object: object.clone(),
                template,
                min_ready: Duration::from_secs(u64::from(raw.min_ready_seconds)),
                unavailable,
            }),
            Err((field, message, fix)) => {
                problems.push(object.problem(Severity::Error, &field, message, fix));
                None
            }
        }
    }

    /// How many of its pods may be unavailable while they are replaced, on so many nodes.
    pub fn unavailable(&self, nodes: usize) -> usize {
        // As Kubernetes: rounded up, and one at least.
        amount(&self.unavailable, nodes, true).unwrap_or(1).max(1)
    }
}

fn check(selector: &Selector, template: &Template, unavailable: &NumberOrName) -> Result<(), Wrong> {
    selector.check(&template.labels)?;
    if amount(unavailable, 1, true).is_none() {
        let field = "spec.updateStrategy.rollingUpdate.maxUnavailable".to_owned();
        let fix = "take a number, or a percentage like \"25%\"";
        return Err((field, format!("{unavailable} is no amount"), fix));
    }
    Ok(())
}
