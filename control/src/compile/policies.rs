//! What policies and rules say of requests and of traffic, and who says it.
//!
//! Of requests (time limits, retries): a route's rule itself, then a policy on the rule, then one on the route, then one on
//! the Service that is called. Of traffic (places, choice of endpoint, retry budget): a policy on the Service that it goes to.

use weft_model::name::ObjectRef;
use weft_model::route::{Retry, Timeouts};
use weft_model::traffic::Traffic;

use super::ledger::Ledger;
use crate::index::{Index, Limits, Name, Part, Policy, Rule};

/// A rule of a route: the route, the rule's place in it, and what it says.
pub(crate) type Place<'a> = (&'a ObjectRef, usize, &'a Rule);

/// Time limits and retries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Retry>,
    /// Who says what: the object, and the field.
    pub(crate) said: Vec<(Part, ObjectRef, String)>,
}

/// What policies name that are about a Service: itself, or what it is derived from an import of.
fn targeted(index: &Index, service: &Name) -> ObjectRef {
    let import = index.import_behind(service);
    service_object(import.as_ref().unwrap_or(service))
}

/// A Service as an object.
pub(crate) fn service_object(name: &Name) -> ObjectRef {
    ObjectRef {
        kind: "Service".to_owned(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

/// What holds for the requests of a rule, or (`None`) of a Service without routes.
pub(crate) fn terms(index: &Index, service: &Name, rule: Option<Place<'_>>, ledger: &mut Ledger) -> Terms {
    let service = targeted(index, service);
    hold(index, &service, ledger);
    if let Some((route, ..)) = rule {
        hold(index, route, ledger);
    }
    let mut terms = Terms::default();
    let mut limits = Limits::default();
    if let Some((limit, _)) = say(index, &service, rule, Part::Request, ledger, &mut terms) {
        limits.request = limit.request;
    }
    if let Some((limit, _)) = say(index, &service, rule, Part::BackendRequest, ledger, &mut terms) {
        limits.backend_request = limit.backend_request;
    }
    terms.retry = say(index, &service, rule, Part::Retry, ledger, &mut terms).and_then(|(_, retry)| retry);
    // Zero switches a limit off.
    terms.timeouts = Timeouts {
        request: limits.request.filter(|limit| !limit.is_zero()),
        backend_request: limits.backend_request.filter(|limit| !limit.is_zero()),
    };
    terms
}

/// What the first says that says anything of this.
fn say(
    index: &Index,
    service: &ObjectRef,
    rule: Option<Place<'_>>,
    part: Part,
    ledger: &mut Ledger,
    terms: &mut Terms,
) -> Option<(Limits, Option<Retry>)> {
    if let Some((route, i, rule)) = rule
        && says(rule, part)
    {
        let field = format!("spec.rules[{i}].{}", part.field());
        terms.said.push((part, route.clone(), field));
        return Some((rule.limits, rule.retry.clone()));
    }
    let of_rule = rule.and_then(|(route, _, rule)| {
        let named = Some(rule.name.as_str()).filter(|name| !name.is_empty());
        let by_name = named.and_then(|name| index.acting(route, Some(name), part));
        by_name.or_else(|| index.acting(route, None, part))
    });
    let (object, policy) = of_rule.or_else(|| index.acting(service, None, part))?;
    ledger.source(object);
    terms
        .said
        .push((part, object.reference(), format!("spec.{}", part.field())));
    Some((policy.limits, policy.retry.clone()))
}

fn says(rule: &Rule, part: Part) -> bool {
    match part {
        Part::Request => rule.limits.request.is_some(),
        Part::BackendRequest => rule.limits.backend_request.is_some(),
        Part::Retry => rule.retry.is_some(),
        Part::RetryBudget | Part::Locality | Part::Balance => false,
    }
}

/// How traffic to a Service is spread.
pub(crate) fn traffic(index: &Index, service: &Name, ledger: &mut Ledger) -> Traffic {
    let service = targeted(index, service);
    hold(index, &service, ledger);
    let mut acting = |part: Part| -> Option<&Policy> {
        let (object, policy) = index.acting(&service, None, part)?;
        ledger.source(object);
        Some(policy)
    };
    let locality = acting(Part::Locality).and_then(|policy| policy.locality.clone());
    let balance = acting(Part::Balance).and_then(|policy| policy.balance);
    let retry_budget = acting(Part::RetryBudget).and_then(|policy| policy.retry_budget);
    Traffic {
        locality: locality.unwrap_or_default(),
        balance: balance.unwrap_or_default(),
        retry_budget: retry_budget.unwrap_or_default(),
    }
}

/// Policies that are invalid, and of which nothing valid is known.
fn hold(index: &Index, target: &ObjectRef, ledger: &mut Ledger) {
    for policy in index.policies_by_target.of(target) {
        ledger.hold(index.policies.get(policy).and_then(|kept| kept.hold()));
    }
}
