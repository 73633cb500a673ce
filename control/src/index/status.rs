//! What is said of objects: conditions, and problems for people.

use weft_model::inbound::Mode;

use super::doubts::{self, Doubt};
use super::kept::{Kept, Refusal};
use super::spelling;
use super::{Condition, ConditionType, Index, ObjectStatus, ParentStatus};
use crate::objects::cluster::{INBOUND_ANNOTATION, inbound_mode};
use crate::objects::{Object, Problem, Severity};

mod federation;
mod opaque;
mod parents;
mod policies;
mod routes;

/// What one object gets: its conditions and its problems.
struct Report<'a> {
    object: &'a Object,
    conditions: Vec<Condition>,
    problems: Vec<Problem>,
    parents: Vec<ParentStatus>,
}

/// `all`: not only of objects whose status is written.
pub(super) fn statuses(index: &Index, all: bool) -> Vec<ObjectStatus> {
    let with = reports(index, all)
        .into_iter()
        .filter(|report| !report.conditions.is_empty())
        .map(Report::with_fixes);
    let mut statuses: Vec<ObjectStatus> = with
        .map(
            |Report {
                 object,
                 mut conditions,
                 parents,
                 ..
             }| {
                conditions.sort_by_key(|condition| condition.r#type);
                ObjectStatus {
                    object: object.reference(),
                    origin: object.origin.clone(),
                    conditions,
                    parents,
                }
            },
        )
        .collect();
    statuses.sort_by(|a, b| a.object.cmp(&b.object));
    statuses
}

pub(super) fn problems(index: &Index) -> Vec<Problem> {
    let mut problems: Vec<Problem> = reports(index, true)
        .into_iter()
        .flat_map(|report| report.problems)
        .collect();
    problems.sort();
    problems
}

fn reports(index: &Index, all: bool) -> Vec<Report<'_>> {
    let mut reports = Vec::new();
    if all {
        reports.extend(index.namespaces.values().map(|object| namespace(object)));
        reports.extend(index.pods.values().map(|kept| pod(index, kept)));
        reports.extend(index.services.values().map(service));
        reports.extend(index.slices.values().map(plain));
        reports.extend(index.imports.values().map(plain));
    }
    reports.extend(index.routes.values().map(|kept| routes::route(index, kept)));
    reports.extend(index.subsets.values().map(|kept| subset(index, kept)));
    reports.extend(index.policies.values().map(|kept| policies::policy(index, kept)));
    reports.extend(index.peers.values().map(|kept| federation::peer(index, kept)));
    let exports = index.exports.iter();
    reports.extend(exports.map(|(name, kept)| federation::export(index, name, kept)));
    reports
}

impl<'a> Report<'a> {
    fn new(object: &'a Object) -> Self {
        Self {
            object,
            conditions: Vec::new(),
            problems: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// One condition of each type: what comes second is told with the first.
    fn condition(&mut self, r#type: ConditionType, status: bool, reason: &str, field: &str, message: String) {
        if let Some(first) = self.conditions.iter_mut().find(|first| first.r#type == r#type) {
            first.message.push_str("; ");
            first.message.push_str(&message);
            return;
        }
        let condition = self.said(r#type, status, reason, field, message);
        self.conditions.push(condition);
    }

    fn said(&self, r#type: ConditionType, status: bool, reason: &str, field: &str, message: String) -> Condition {
        Condition {
            r#type,
            status,
            reason: reason.to_owned(),
            message,
            field: field.to_owned(),
            fix: String::new(),
            observed_generation: self.object.generation,
        }
    }

    /// Says with each condition what would be right: what the problem of its field says.
    fn with_fixes(mut self) -> Self {
        let Self {
            conditions,
            parents,
            problems,
            ..
        } = &mut self;
        let of_parents = parents.iter_mut().flat_map(|parent| &mut parent.conditions);
        for condition in conditions.iter_mut().chain(of_parents) {
            let same = problems.iter().find(|problem| problem.field == condition.field);
            if let Some(problem) = same.filter(|_| !condition.field.is_empty()) {
                problem.fix.clone_into(&mut condition.fix);
            }
        }
        self
    }

    fn problem(&mut self, severity: Severity, field: &str, message: String, fix: &str) {
        self.problems.push(self.object.problem(severity, field, message, fix));
    }

    /// Accepted=False for an object that is refused. Returns whether it is.
    fn refused<T>(&mut self, kept: &Kept<T>) -> bool {
        self.refused_as(ConditionType::Accepted, kept)
    }

    /// The same, said by another condition.
    fn refused_as<T>(&mut self, r#type: ConditionType, kept: &Kept<T>) -> bool {
        let Some(Refusal {
            reason, field, message, ..
        }) = kept.refusals.first()
        else {
            return false;
        };
        let more = match kept.refusals.len() {
            1 => String::new(),
            all => format!(", and {} more", all - 1),
        };
        let acts = match (&kept.valid, kept.from_before) {
            (Some((valid, _)), _) => format!("version {} of it still acts", valid.resource_version),
            (None, true) => "proxies keep what they have of it".to_owned(),
            (None, false) => "it does not act".to_owned(),
        };
        self.condition(r#type, false, reason, field, format!("{message}{more}; {acts}"));
        for Refusal {
            field, message, fix, ..
        } in &kept.refusals
        {
            self.problem(Severity::Error, field, message.clone(), fix);
        }
        true
    }

    /// PartiallyInvalid=True for fields that nothing understands.
    fn unknown<T>(&mut self, kept: &Kept<T>) {
        let Some(first) = kept.unknown.first() else {
            return;
        };
        let message = format!(
            "fields that are not understood are ignored: {}",
            kept.unknown.join(", ")
        );
        self.condition(ConditionType::PartiallyInvalid, true, "UnknownField", first, message);
        for field in &kept.unknown {
            let (message, fix) = spelling::unknown(&self.object.kind, field);
            self.problem(Severity::Warning, field, message, &fix);
        }
    }
}

/// An object of which nothing is said unless it is invalid.
fn plain<T>(kept: &Kept<T>) -> Report<'_> {
    let mut report = Report::new(&kept.object);
    report.refused(kept);
    report
}

fn service(kept: &Kept<crate::objects::service::Service>) -> Report<'_> {
    let mut report = plain(kept);
    for Doubt { field, message, fix } in doubts::of_service(&kept.object) {
        report.problem(Severity::Notice, &field, message, &fix);
    }
    report
}

const INBOUND_FIX: &str = "strict or permissive";

fn namespace(object: &Object) -> Report<'_> {
    let mut report = Report::new(object);
    if let Some(Err(value)) = inbound_mode(object) {
        bad_mode(&mut report, &value);
    }
    opaque::read(&mut report);
    report
}

fn bad_mode(report: &mut Report<'_>, value: &str) {
    let field = format!("metadata.annotations[{INBOUND_ANNOTATION}]");
    let message = format!("{value:?} is neither strict nor permissive; it counts as strict");
    report.condition(
        ConditionType::PartiallyInvalid,
        true,
        "UnsupportedValue",
        &field,
        message.clone(),
    );
    report.problem(Severity::Error, &field, message, INBOUND_FIX);
}

fn pod<'a>(index: &Index, kept: &'a Kept<crate::objects::pod::Pod>) -> Report<'a> {
    let mut report = plain(kept);
    let namespace = &kept.object.namespace;
    if kept.form().is_some_and(|pod| pod.injected) && !index.namespaces.contains_key(namespace) {
        let message = format!("the Namespace {namespace} is not known, so its pods accept no plaintext");
        report.problem(
            Severity::Warning,
            "metadata.namespace",
            message,
            "write the Namespace, or mend its apiVersion and kind",
        );
    }
    match inbound_mode(&kept.object) {
        Some(Err(value)) => bad_mode(&mut report, &value),
        Some(Ok(Mode::Permissive)) if index.namespace_mode(&kept.object.namespace) == Mode::Strict => {
            let field = format!("metadata.annotations[{INBOUND_ANNOTATION}]");
            let message = "the namespace is strict, and a pod may only tighten: it stays strict".to_owned();
            report.condition(
                ConditionType::PartiallyInvalid,
                true,
                "UnsupportedValue",
                &field,
                message.clone(),
            );
            report.problem(
                Severity::Warning,
                &field,
                message,
                "remove the annotation, or make the namespace permissive",
            );
        }
        _ => {}
    }
    opaque::read(&mut report);
    report
}

fn subset<'a>(index: &Index, kept: &'a Kept<super::Subset>) -> Report<'a> {
    let mut report = Report::new(&kept.object);
    if !report.refused(kept) {
        report.condition(
            ConditionType::Accepted,
            true,
            "Accepted",
            "",
            "it acts as written".to_owned(),
        );
    }
    if let Some(subset) = kept.form() {
        match index.services.contains_key(&subset.service) {
            true => {
                let message = "the Service is there".to_owned();
                report.condition(ConditionType::ResolvedRefs, true, "ResolvedRefs", "", message);
            }
            false => {
                let message = format!("there is no Service {}", subset.service);
                report.condition(
                    ConditionType::ResolvedRefs,
                    false,
                    "TargetNotFound",
                    "spec.service",
                    message.clone(),
                );
                report.problem(
                    Severity::Warning,
                    "spec.service",
                    message,
                    &spelling::or_near("name a Service of this namespace", &subset.service, &index.services),
                );
            }
        }
    }
    report.unknown(kept);
    report
}

impl Index {
    /// Whether pods of a namespace accept plaintext. What cannot be understood is strict, and so is a namespace that is not
    /// known: its pods are in the mesh because its label says so, so there is one, and it may say strict.
    pub(crate) fn namespace_mode(&self, namespace: &str) -> Mode {
        let Some(object) = self.namespaces.get(namespace) else {
            return Mode::Strict;
        };
        inbound_mode(object).map_or(Mode::Permissive, |mode| mode.unwrap_or(Mode::Strict))
    }
}
