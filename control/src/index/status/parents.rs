//! What is said of a route for each of its parents. The mesh is the controller of Services and ServiceImports; other parents have
//! others.

use serde_json::{Map, Value};

use super::super::route::{PARENTS_MAX, ParentKind};
use super::{Condition, ConditionType, ParentStatus, Report};

/// What a parentRef is known by (Gateway API, RouteParentStatus).
const FIELDS: [&str; 6] = ["group", "kind", "namespace", "name", "sectionName", "port"];

/// What is said for each Service and ServiceImport among the parents. `unattached`: the fields of those that the route is not attached to.
/// `None`: the route is refused as a whole.
pub(super) fn of(report: &Report<'_>, unattached: Option<&[(String, Condition)]>) -> Vec<ParentStatus> {
    let written = report.object.raw.pointer("/spec/parentRefs").and_then(Value::as_array);
    let written = written.into_iter().flatten().enumerate().take(PARENTS_MAX);
    let mut parents: Vec<ParentStatus> = Vec::new();
    for (i, entry) in written.filter(|(_, entry)| is_ours(entry)) {
        let reference = reference(entry);
        if parents.iter().any(|parent| parent.reference == reference) {
            continue;
        }
        let field = format!("spec.parentRefs[{i}]");
        let accepted = unattached.map(|unattached| {
            let why = unattached.iter().find(|(of, _)| *of == field);
            why.map_or_else(|| acts(report), |(_, why)| why.clone())
        });
        parents.push(ParentStatus {
            reference,
            conditions: conditions(report, accepted),
        });
    }
    parents
}

fn acts(report: &Report<'_>) -> Condition {
    let message = "it acts as written".to_owned();
    report.said(ConditionType::Accepted, true, "Accepted", "", message)
}

/// The conditions of the whole route, but for what is said of this parent only.
fn conditions(report: &Report<'_>, accepted: Option<Condition>) -> Vec<Condition> {
    let mut conditions = report.conditions.clone();
    if let Some(accepted) = accepted {
        conditions.retain(|condition| condition.r#type != ConditionType::Accepted);
        conditions.push(accepted);
    }
    let accepted = conditions
        .iter()
        .any(|condition| condition.r#type == ConditionType::Accepted && condition.status);
    // The Gateway API: it must not be set for a route that is not accepted.
    conditions.retain(|condition| accepted || condition.r#type != ConditionType::PartiallyInvalid);
    conditions.sort_by_key(|condition| condition.r#type);
    conditions
}

fn is_ours(entry: &Value) -> bool {
    ParentKind::of(entry["group"].as_str(), entry["kind"].as_str()).is_some()
}

fn reference(entry: &Value) -> Value {
    let fields = FIELDS.iter().filter_map(|field| {
        let value = entry.get(*field).filter(|value| !value.is_null())?;
        Some(((*field).to_owned(), value.clone()))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}
