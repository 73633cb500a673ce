//! What a TrafficPolicy and an XBackendTrafficPolicy mean, and which of several acts.

use std::sync::Arc;

use serde_json::Value;
use weft_model::locality::Locality;
use weft_model::name::ObjectRef;
use weft_model::route::{Retry, RetryBudget};
use weft_model::traffic::Balance;

use super::kept::{Formed, Refusal};
use super::patience::{self, Limits};
use super::route::age;
use super::{Index, spread};
use crate::objects::kinds::GATEWAY_GROUP;
use crate::objects::names::is_subdomain;
use crate::objects::weft::{
    BackendTrafficPolicy, BackendTrafficPolicySpec, TargetRef, TrafficPolicy, TrafficPolicySpec,
};
use crate::objects::{Object, decode};

/// Targets of one policy.
const TARGETS_MAX: usize = 64;

/// What is said of traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) targets: Vec<PolicyTarget>,
    pub(crate) limits: Limits,
    pub(crate) retry: Option<Retry>,
    pub(crate) retry_budget: Option<RetryBudget>,
    pub(crate) locality: Option<Locality>,
    pub(crate) balance: Option<Balance>,
}

/// What a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyTarget {
    /// A Service, an HTTPRoute or a GRPCRoute.
    pub(crate) object: ObjectRef,
    /// The name of a rule of the route.
    pub(crate) section: Option<String>,
    /// `spec.targetRefs[0]`.
    pub(crate) field: String,
}

/// One thing that a policy may say. Policies that say different things of one target stand side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Request,
    BackendRequest,
    Retry,
    RetryBudget,
    Locality,
    Balance,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Request,
        Self::BackendRequest,
        Self::Retry,
        Self::RetryBudget,
        Self::Locality,
        Self::Balance,
    ];

    /// Below `spec`, and below a rule of a route where it has the same.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Request => "timeouts.request",
            Self::BackendRequest => "timeouts.backendRequest",
            Self::Retry => "retry",
            Self::RetryBudget => "retryConstraint",
            Self::Locality => "locality",
            Self::Balance => "balancer",
        }
    }

    /// Whether it is said of Services only: it is about what is behind them, and not about requests.
    pub(super) fn is_of_services(self) -> bool {
        matches!(self, Self::RetryBudget | Self::Locality | Self::Balance)
    }
}

impl Policy {
    /// Reads a policy object of either kind.
    pub(crate) fn of(object: &Object) -> Formed<Self> {
        match object.kind.as_str() {
            "XBackendTrafficPolicy" => of_experiment(object),
            _ => of_ours(object),
        }
    }

    /// Whether it says something of this.
    pub(crate) fn says(&self, part: Part) -> bool {
        match part {
            Part::Request => self.limits.request.is_some(),
            Part::BackendRequest => self.limits.backend_request.is_some(),
            Part::Retry => self.retry.is_some(),
            Part::RetryBudget => self.retry_budget.is_some(),
            Part::Locality => self.locality.is_some(),
            Part::Balance => self.balance.is_some(),
        }
    }

    /// What it says something of.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(|part| self.says(*part))
    }
}

/// The objects that an invalid policy may be about, as far as it can be told.
pub(crate) fn possible_targets(object: &Object) -> Vec<ObjectRef> {
    let entries = object.raw.pointer("/spec/targetRefs").and_then(Value::as_array);
    let text = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
    let named = entries.into_iter().flatten().filter_map(|entry| {
        let kind = text(entry, "kind").filter(|kind| matches!(kind.as_str(), "Service" | "HTTPRoute" | "GRPCRoute"))?;
        Some(ObjectRef {
            kind,
            // A policy's targets are in its own namespace, whatever an invalid one says.
            namespace: object.namespace.clone(),
            name: text(entry, "name")?,
        })
    });
    named.take(TARGETS_MAX).collect()
}

fn of_ours(object: &Object) -> Formed<Policy> {
    let decoded = decode::<TrafficPolicy>(&object.raw).map_err(|error| vec![Refusal::from(error)])?;
    let TrafficPolicySpec {
        target_refs,
        timeouts,
        retry,
        retry_constraint,
        locality,
        balancer,
    } = decoded.value.spec;
    let mut refusals = Vec::new();
    let retry = retry.map(|retry| patience::retry_of_policy(&retry, "spec.retry", &mut refusals));
    let budget = retry_constraint.map(|budget| patience::budget(&budget, "spec.retryConstraint", &mut refusals));
    let policy = Policy {
        targets: targets(object, &target_refs, true, &mut refusals),
        limits: patience::limits(timeouts.as_ref(), "spec.timeouts", &mut refusals),
        retry,
        retry_budget: budget,
        locality: locality.map(|locality| spread::locality(&locality, "spec.locality", &mut refusals)),
        balance: balancer.and_then(|name| spread::balance(&name, "spec.balancer", &mut refusals)),
    };
    let route = policy.targets.iter().find(|target| target.object.kind != "Service");
    if let Some(route) = route {
        for part in policy.parts().filter(|part| part.is_of_services()) {
            let (field, other) = (part.field(), &route.object.kind);
            let message = format!("{field} is said of Services, and {} is an {other}", route.field);
            refusals.push(Refusal::value(
                format!("spec.{field}"),
                message,
                "write a policy of its own for the Service",
            ));
        }
    }
    match refusals.is_empty() {
        true => Ok((policy, decoded.unknown)),
        false => Err(refusals),
    }
}

fn of_experiment(object: &Object) -> Formed<Policy> {
    let decoded = decode::<BackendTrafficPolicy>(&object.raw).map_err(|error| vec![Refusal::from(error)])?;
    let BackendTrafficPolicySpec {
        target_refs,
        retry_constraint,
        session_persistence,
    } = decoded.value.spec;
    let mut refusals = Vec::new();
    if session_persistence.is_some() {
        refusals.push(Refusal::value(
            "spec.sessionPersistence",
            "sessionPersistence is not honoured by this version of Weft",
            "remove sessionPersistence",
        ));
    }
    let policy = Policy {
        targets: targets(object, &target_refs, false, &mut refusals),
        retry_budget: retry_constraint.map(|budget| patience::budget(&budget, "spec.retryConstraint", &mut refusals)),
        ..Policy::default()
    };
    match refusals.is_empty() {
        true => Ok((policy, decoded.unknown)),
        false => Err(refusals),
    }
}

fn targets(
    object: &Object,
    written: &[TargetRef],
    may_be_routes: bool,
    refusals: &mut Vec<Refusal>,
) -> Vec<PolicyTarget> {
    if written.is_empty() || written.len() > TARGETS_MAX {
        let message = format!("must have 1 to {TARGETS_MAX} entries");
        let fix = match object.raw.pointer("/spec/targetRef").is_some() {
            true => "write targetRefs, a list, instead of targetRef",
            false => "name what the policy is about",
        };
        refusals.push(Refusal::value("spec.targetRefs", message, fix));
    }
    let mut targets: Vec<PolicyTarget> = Vec::new();
    for (i, target) in written.iter().enumerate().take(TARGETS_MAX) {
        let field = format!("spec.targetRefs[{i}]");
        let Some(target) = read_target(object, target, field, may_be_routes, refusals) else {
            continue;
        };
        let same = |other: &PolicyTarget| (&other.object, &other.section) == (&target.object, &target.section);
        if targets.iter().any(same) {
            let message = format!("{} is named twice", target.object);
            refusals.push(Refusal::value(target.field, message, "keep one of the two"));
            continue;
        }
        targets.push(target);
    }
    targets
}

fn read_target(
    object: &Object,
    written: &TargetRef,
    field: String,
    may_be_routes: bool,
    refusals: &mut Vec<Refusal>,
) -> Option<PolicyTarget> {
    let TargetRef {
        group,
        kind,
        name,
        section_name,
    } = written;
    let is_service = matches!(group.as_str(), "" | "core") && kind == "Service";
    let is_route = may_be_routes && group == GATEWAY_GROUP && matches!(kind.as_str(), "HTTPRoute" | "GRPCRoute");
    let (part, message, fix) = if !is_service && !is_route {
        let message = format!("a {} is not about {kind} of the group {group:?}", object.kind);
        let fix = match may_be_routes {
            true => "group: \"\", kind: Service; or group: gateway.networking.k8s.io, kind: HTTPRoute or GRPCRoute",
            false => "group: \"\", kind: Service",
        };
        ("kind", message, fix)
    } else if !is_subdomain(name) {
        let message = format!("{name:?} is no name of a {kind}");
        ("name", message, "the name of an object of this namespace")
    } else if is_service && section_name.is_some() {
        let message = "a policy is about all ports of a Service".to_owned();
        ("sectionName", message, "remove it")
    } else if section_name.as_deref().is_some_and(str::is_empty) {
        ("sectionName", "is empty".to_owned(), "the name of a rule, or remove it")
    } else {
        return Some(PolicyTarget {
            object: ObjectRef {
                kind: kind.clone(),
                namespace: object.namespace.clone(),
                name: name.clone(),
            },
            section: section_name.clone(),
            field,
        });
    };
    refusals.push(Refusal::value(format!("{field}.{part}"), message, fix));
    None
}

impl Index {
    /// The policy that acts where several may say something of a target, or of one section of it: of ours the oldest, then
    /// the oldest of the Gateway API's experiment.
    pub(crate) fn acting(
        &self,
        target: &ObjectRef,
        section: Option<&str>,
        part: Part,
    ) -> Option<(&Arc<Object>, &Policy)> {
        let about = |policy: &Policy| {
            let mut targets = policy.targets.iter();
            policy.says(part) && targets.any(|each| each.object == *target && each.section.as_deref() == section)
        };
        let all = self.policies_by_target.of(target);
        let valid = all.filter_map(|name| self.policies.get(name)?.valid.as_ref());
        valid
            .filter(|(_, policy)| about(policy))
            .min_by_key(|(object, _)| (object.kind != "TrafficPolicy", age(object)))
            .map(|(object, policy)| (object, policy))
    }
}
