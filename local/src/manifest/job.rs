//! Jobs.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use weft_control::objects::{Object, Problem, Severity, decode};

use super::deployment::MOST_REPLICAS;
use super::template::hash;
use super::{Template, Workload};

/// A Job. Its template's hash changes with anything of it: an edited Job is run anew.
#[derive(Clone, Debug)]
pub struct Job {
    /// As it was written.
    pub object: Arc<Object>,
    /// What its pods are made from.
    pub template: Template,
    /// How many pods have to succeed. `None`: when one has, no more are made.
    pub completions: Option<usize>,
    /// How many pods run at once.
    pub parallelism: usize,
    /// How many failures are too many.
    pub backoff_limit: usize,
    /// A container that fails is started again in its pod.
    pub restarts: bool,
    /// How long all of it may take.
    pub deadline: Option<Duration>,
    /// How long its pods stay when it is over. `None`: until the manifest goes.
    pub ttl: Option<Duration>,
}

/// Kubernetes' own.
const BACKOFF_LIMIT: u32 = 6;

#[derive(Deserialize)]
struct Raw {
    spec: RawSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    completions: Option<u32>,
    parallelism: Option<u32>,
    backoff_limit: Option<u32>,
    active_deadline_seconds: Option<u32>,
    ttl_seconds_after_finished: Option<u32>,
}

impl Job {
    /// Reads a Job. None: it can't be honoured, and the problems say why.
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
        let mut template = Template::of_workload(object, &written, Workload::Job, problems)?;
        for (field, number) in [("completions", raw.completions), ("parallelism", raw.parallelism)] {
            if let Some(number) = number.filter(|number| *number > MOST_REPLICAS) {
                let message = format!("{number} are more than {MOST_REPLICAS}");
                problems.push(object.problem(Severity::Error, &format!("spec.{field}"), message, "take fewer"));
                return None;
            }
        }
        template.hash = hash(&json!([template.hash, object.raw["spec"]]).to_string());
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let completions = match (raw.completions, raw.parallelism) {
            (Some(completions), _) => Some(completions as usize),
            (None, None) => Some(1),
            // A queue of work, which the pods share.
            (None, Some(_)) => None,
        };
        Some(Self {
            object: object.clone(),
            restarts: template.view.restart_policy.as_deref() == Some("OnFailure"),
            template,
            completions,
            parallelism: raw.parallelism.unwrap_or(1) as usize,
            backoff_limit: raw.backoff_limit.unwrap_or(BACKOFF_LIMIT) as usize,
            deadline: raw.active_deadline_seconds.map(seconds),
            ttl: raw.ttl_seconds_after_finished.map(seconds),
        })
    }
}
