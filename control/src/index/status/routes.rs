//! What is said of routes: whether they are attached, and whether what they send requests to is there.

use super::{Condition, ConditionType, Report, parents};
use crate::index::backend::BackendKind;
use crate::index::doubts::{self, Doubt};
use crate::index::{Index, Kept, Route, spelling};
use crate::objects::Severity;

/// What would make an import be there.
const IMPORT_FIX: &str = "write a ServiceExport of it in a cluster that has the Service, and let the ClusterPeer of that cluster \
                          import its namespace";

/// What is said of a route.
pub(super) fn route<'a>(index: &Index, kept: &'a Kept<Route>) -> Report<'a> {
    let mut report = Report::new(&kept.object);
    let refused = report.refused(kept);
    let Some(route) = kept.form() else {
        report.parents = parents::of(&report, None);
        return report;
    };
    let unattached = (!refused).then(|| attached(index, route, &mut report));
    let backends = route.rules.iter().flat_map(|rule| rule.references());
    let mut resolved = true;
    for backend in backends {
        let Err(unresolved) = index.resolve(backend).0 else {
            continue;
        };
        let field = format!("{}.{}", backend.field, unresolved.part);
        if std::mem::take(&mut resolved) {
            let message = unresolved.message.clone();
            report.condition(ConditionType::ResolvedRefs, false, unresolved.reason, &field, message);
        }
        let lost = match route.about.is_of_streams() {
            true => "its share of the streams is refused",
            false if backend.field.contains(".requestMirror") => "no copies are sent there",
            false => "its share of the requests is answered with 500",
        };
        let message = format!("{}: {lost}", unresolved.message);
        let exists = "name a Service, a ServiceSubset or a ServiceImport that exists, and a port of it";
        let fix = match (&backend.kind, unresolved.reason) {
            (_, "InvalidKind") if unresolved.message.starts_with("ServiceSubset ") => {
                "write group: weft.dev beside kind: ServiceSubset".to_owned()
            }
            (_, "InvalidKind") if unresolved.message.starts_with("ServiceImport ") => {
                "write group: multicluster.x-k8s.io beside kind: ServiceImport".to_owned()
            }
            (BackendKind::Import, _) if unresolved.part == "name" => IMPORT_FIX.to_owned(),
            (BackendKind::Import, _) => "name a TCP port that a cluster exports of it".to_owned(),
            (BackendKind::Subset, _) => spelling::or_near(exists, &backend.name, &index.subsets),
            _ => spelling::or_near(exists, &backend.name, &index.services),
        };
        report.problem(Severity::Warning, &field, message, &fix);
    }
    if resolved {
        report.condition(
            ConditionType::ResolvedRefs,
            true,
            "ResolvedRefs",
            "",
            "all backends are there".to_owned(),
        );
    }
    if !refused {
        for Doubt { field, message, fix } in doubts::of_route(route, &kept.object) {
            report.condition(
                ConditionType::PartiallyInvalid,
                true,
                "NoEffect",
                &field,
                message.clone(),
            );
            report.problem(Severity::Warning, &field, message, &fix);
        }
    }
    report.unknown(kept);
    report.parents = parents::of(&report, unattached.as_deref());
    report
}

/// Says whether a route is attached to its parents. Returns those that it is not attached to: their fields, and why.
fn attached(index: &Index, route: &Route, report: &mut Report<'_>) -> Vec<(String, Condition)> {
    if route.parents.is_empty() {
        let (field, message) = (
            "spec.parentRefs",
            "no parent is a Service or a ServiceImport, so the mesh does not act on it".to_owned(),
        );
        report.condition(
            ConditionType::Accepted,
            false,
            "NoMatchingParent",
            field,
            message.clone(),
        );
        report.problem(Severity::Notice, field, message, "group: \"\", kind: Service");
        return Vec::new();
    }
    let refused: Vec<_> = route
        .parents
        .iter()
        .filter_map(|parent| {
            let why = index.refuses_parent(&report.object.namespace, &route.about, parent)?;
            Some((parent, why))
        })
        .collect();
    match refused.first() {
        None => report.condition(
            ConditionType::Accepted,
            true,
            "Accepted",
            "",
            "it acts as written".to_owned(),
        ),
        Some((parent, why)) => {
            let field = format!("{}.{}", parent.field, why.part);
            report.condition(ConditionType::Accepted, false, why.reason, &field, why.message.clone());
        }
    }
    let mut unattached = Vec::new();
    for (parent, why) in refused {
        let field = format!("{}.{}", parent.field, why.part);
        let said = report.said(ConditionType::Accepted, false, why.reason, &field, why.message.clone());
        unattached.push((parent.field.clone(), said));
        let fix = match why.reason {
            "UnsupportedProtocol" => "name another port, or change what the port is declared as".to_owned(),
            _ if parent.import.is_some() && why.part == "name" => IMPORT_FIX.to_owned(),
            _ if parent.import.is_some() => "name a TCP port that a cluster exports of it".to_owned(),
            _ => spelling::or_near(
                "name a Service that exists, and a port of it",
                &parent.service,
                &index.services,
            ),
        };
        report.problem(Severity::Warning, &field, why.message, &fix);
    }
    unattached
}
