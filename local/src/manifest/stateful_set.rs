//! StatefulSets.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use weft_control::objects::names::is_label;
use weft_control::objects::{Object, Problem, Severity, decode};

use super::deployment::MOST_REPLICAS;
use super::selector::{Selector, Wrong};
use super::{Template, Workload};

/// A StatefulSet.
#[derive(Clone, Debug)]
pub struct StatefulSet {
    /// As it was written.
    pub object: Arc<Object>,
    /// What its pods are made from; a volume for each of its claims is in it.
    pub template: Template,
    /// How many pods there are to be.
    pub replicas: u32,
    /// The number of the first.
    pub start: u32,
    /// Pods come and go all at once, not one after the other.
    pub parallel: bool,
    /// For how long a pod is ready before it counts.
    pub min_ready: Duration,
    /// The Service that gives its pods their names; empty: none.
    pub service: String,
}

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
    service_name: String,
    pod_management_policy: Option<String>,
    #[serde(default)]
    min_ready_seconds: u32,
    #[serde(default)]
    ordinals: Ordinals,
    #[serde(default)]
    volume_claim_templates: Vec<ClaimTemplate>,
}

#[derive(Default, Deserialize)]
struct Ordinals {
    #[serde(default)]
    start: u32,
}

#[derive(Deserialize)]
struct ClaimTemplate {
    metadata: ClaimMetadata,
}

#[derive(Deserialize)]
struct ClaimMetadata {
    name: String,
}

impl StatefulSet {
    /// Reads a StatefulSet. None: it can't be honoured, and the problems say why.
    pub fn read(object: &Arc<Object>, problems: &mut Vec<Problem>) -> Option<Self> {
        let raw = match decode::<Raw>(&object.raw) {
            Ok(decoded) => decoded.value.spec,
            Err(error) => {
                let fix = error.fix();
                problems.push(object.problem(Severity::Error, &error.field, error.message, fix));
                return None;
            }
        };
        let mut whole = object.raw.pointer("/spec/template").cloned().unwrap_or_default();
        let claims: Vec<&str> = raw
            .volume_claim_templates
            .iter()
            .map(|c| c.metadata.name.as_str())
            .collect();
        let template = claimed(&mut whole, &claims)
            .map_err(|(field, message, fix)| problems.push(object.problem(Severity::Error, &field, message, fix)))
            .ok()
            .and_then(|()| Template::of_workload(object, &whole, Workload::StatefulSet, problems))?;
        match check(&raw, &template) {
            Ok(()) => Some(Self {
                object: object.clone(),
                template,
                replicas: raw.replicas.unwrap_or(1),
                start: raw.ordinals.start,
                parallel: raw.pod_management_policy.as_deref() == Some("Parallel"),
                min_ready: Duration::from_secs(u64::from(raw.min_ready_seconds)),
                service: raw.service_name,
            }),
            Err((field, message, fix)) => {
                problems.push(object.problem(Severity::Error, &field, message, fix));
                None
            }
        }
    }

    /// The numbers of its pods.
    pub fn ordinals(&self) -> std::ops::Range<u32> {
        self.start..self.start.saturating_add(self.replicas)
    }
}

fn check(raw: &RawSpec, template: &Template) -> Result<(), Wrong> {
    raw.selector.check(&template.labels)?;
    let replicas = raw.replicas.unwrap_or(1);
    if replicas > MOST_REPLICAS {
        let message = format!("{replicas} are more than {MOST_REPLICAS}");
        return Err(("spec.replicas".to_owned(), message, "take fewer"));
    }
    if !raw.service_name.is_empty() && !is_label(&raw.service_name) {
        let message = format!("{:?} is no name of a Service", raw.service_name);
        return Err((
            "spec.serviceName".to_owned(),
            message,
            "take a-z, 0-9 and '-', at most 63",
        ));
    }
    Ok(())
}

/// Gives a template a volume for each claim; one of the same name is replaced, as by Kubernetes' controller.
fn claimed(template: &mut Value, claims: &[&str]) -> Result<(), Wrong> {
    if claims.is_empty() {
        return Ok(());
    }
    if !template["spec"].is_object() {
        return Ok(()); // said where the template is read
    }
    let mut volumes = template["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    volumes.retain(|volume| !claims.iter().any(|claim| volume["name"] == *claim));
    for (i, claim) in claims.iter().enumerate() {
        if claims[..i].contains(claim) {
            let field = format!("spec.volumeClaimTemplates[{i}].metadata.name");
            return Err((field, format!("{claim:?} is there twice"), "take another"));
        }
        volumes.push(json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
    }
    template["spec"]["volumes"] = json!(volumes);
    Ok(())
}
