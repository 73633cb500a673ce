//! Deployments.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use weft_control::objects::{Object, Problem, Severity, decode};

use super::raw::NumberOrName;
use super::selector::Selector;
use super::{Template, Workload};

/// A Deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// As it was written.
    pub object: Arc<Object>,
    /// What its pods are made from.
    pub template: Template,
    /// How many, and how they are replaced.
    pub rollout: Rollout,
    /// For how long a pod is ready before it counts.
    pub min_ready: Duration,
}

/// How many pods a Deployment has, and how they are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// How many there are to be.
    pub replicas: usize,
    /// How many more there may be meanwhile.
    pub surge: usize,
    /// How many of them may be unavailable meanwhile.
    pub unavailable: usize,
    /// All old ones go before the first new one comes.
    pub recreate: bool,
}

/// More than one machine can hold.
pub(super) const MOST_REPLICAS: u32 = 1000;

#[derive(Deserialize)]
struct Raw {
    spec: RawSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    replicas: Option<u32>,
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    strategy: RawStrategy,
    #[serde(default)]
    min_ready_seconds: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStrategy {
    r#type: Option<String>,
    #[serde(default)]
    rolling_update: RawRolling,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRolling {
    max_surge: Option<NumberOrName>,
    max_unavailable: Option<NumberOrName>,
}

impl Deployment {
    /// Reads a Deployment. None: it can't be honoured, and the problems say why.
    pub fn read(object: &Arc<Object>, problems: &mut Vec<Problem>) -> Option<Self> {
        let written = object.raw.pointer("/spec/template").cloned().unwrap_or_default();
        let template = Template::of_workload(object, &written, Workload::Deployment, problems);
        let mut wrong = |field: &str, message: String, fix: &str| {
            problems.push(object.problem(Severity::Error, field, message, fix));
            None
        };
        let RawSpec {
            replicas,
            selector,
            strategy,
            min_ready_seconds,
        } = match decode::<Raw>(&object.raw) {
            Ok(decoded) => decoded.value.spec,
            Err(error) => {
                let fix = error.fix();
                return wrong(&error.field, error.message, fix);
            }
        };
        let template = template?;
        if let Err((field, message, fix)) = selector.check(&template.labels) {
            return wrong(&field, message, fix);
        }
        let replicas = replicas.unwrap_or(1);
        if replicas > MOST_REPLICAS {
            return wrong(
                "spec.replicas",
                format!("{replicas} are more than {MOST_REPLICAS}"),
                "take fewer",
            );
        }
        match rollout(replicas as usize, &strategy) {
            Ok(rollout) => {
                let min_ready = Duration::from_secs(u64::from(min_ready_seconds));
                Some(Self {
                    object: object.clone(),
                    template,
                    rollout,
                    min_ready,
                })
            }
            Err((field, message)) => wrong(field, message, "take a number, or a percentage like \"25%\""),
        }
    }
}

/// Kubernetes' defaults: a quarter more, rounded up; a quarter fewer, rounded down.
fn rollout(replicas: usize, strategy: &RawStrategy) -> Result<Rollout, (&'static str, String)> {
    let recreate = match strategy.r#type.as_deref() {
        Some("Recreate") => true,
        None | Some("RollingUpdate") => false,
        Some(other) => {
            return Err((
                "spec.strategy.type",
                format!("{other:?} is neither RollingUpdate nor Recreate"),
            ));
        }
    };
    let quarter = NumberOrName::Name("25%".to_owned());
    let share = |value: &Option<NumberOrName>, up: bool, field: &'static str| {
        let value = value.as_ref().unwrap_or(&quarter);
        amount(value, replicas, up).ok_or_else(|| (field, format!("{value} is no amount")))
    };
    let rolling = &strategy.rolling_update;
    let surge = share(&rolling.max_surge, true, "spec.strategy.rollingUpdate.maxSurge")?;
    let unavailable = share(
        &rolling.max_unavailable,
        false,
        "spec.strategy.rollingUpdate.maxUnavailable",
    )?;
    // Neither more nor fewer: nothing could ever change. Kubernetes then lets one be unavailable.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Ok(Rollout {
        replicas,
        surge,
        unavailable,
        recreate,
    })
}

/// So many, or a share of so many.
pub(super) fn amount(value: &NumberOrName, of: usize, up: bool) -> Option<usize> {
    match value {
        NumberOrName::Number(number) => Some(*number as usize),
        NumberOrName::Name(text) => {
            let percent: usize = text.strip_suffix('%')?.parse().ok()?;
            let hundredths = of.checked_mul(percent)?;
            Some(if up { hundredths.div_ceil(100) } else { hundredths / 100 })
        }
    }
}
