//! What is said of policies: whether their targets are there, and whether anything comes of what they say.

use super::{ConditionType, Report};
use crate::index::policy::PolicyTarget;
use crate::index::{Index, Kept, Name, Part, Policy};
use crate::objects::Severity;

/// Why a policy does not act as written: reason, field, message and fix.
type Finding = (&'static str, String, String, &'static str);

/// What is said of a policy of either kind.
pub(super) fn policy<'a>(index: &Index, kept: &'a Kept<Policy>) -> Report<'a> {
    let mut report = Report::new(&kept.object);
    let refused = report.refused(kept);
    if let (false, Some(policy)) = (refused, kept.form()) {
        let targets = policy.targets.iter();
        let overruled: Vec<Finding> = targets
            .flat_map(|target| overruled(index, kept, policy, target))
            .collect();
        let idle = idle(index, policy);
        // Of one target nothing is said twice.
        let all = policy.targets.len() * policy.parts().count();
        let nothing = idle.first().filter(|_| idle.len() == all);
        match overruled.first().or(nothing) {
            Some((reason, field, message, _)) => {
                report.condition(ConditionType::Accepted, false, reason, field, message.clone());
            }
            None => {
                let message = match idle.is_empty() {
                    true => "it acts as written",
                    false => "it acts, but for what has no effect",
                };
                report.condition(ConditionType::Accepted, true, "Accepted", "", message.to_owned());
            }
        }
        if let Some((reason, field, message, _)) = idle.first().filter(|_| nothing.is_none()) {
            let more = match idle.len() {
                1 => String::new(),
                all => format!(", and {} more", all - 1),
            };
            let message = format!("{field} has no effect: {message}{more}");
            report.condition(ConditionType::PartiallyInvalid, true, reason, field, message);
        }
        if policy.parts().next().is_none() {
            let message = "says nothing of its targets, so nothing comes of it".to_owned();
            report.condition(
                ConditionType::PartiallyInvalid,
                true,
                "NoEffect",
                "spec",
                message.clone(),
            );
            let fix = "write timeouts, retry, retryConstraint, locality or balancer (docs/routes.md)";
            report.problem(Severity::Warning, "spec", message, fix);
        }
        for (_, field, message, fix) in overruled {
            report.problem(Severity::Warning, &field, message, fix);
        }
        for (_, field, message, fix) in idle {
            report.problem(Severity::Warning, &field, format!("has no effect: {message}"), fix);
        }
    }
    report.unknown(kept);
    report
}

/// What a policy says in vain, of whichever target that is there.
fn idle(index: &Index, policy: &Policy) -> Vec<Finding> {
    let pairs = policy
        .targets
        .iter()
        .flat_map(|target| policy.parts().map(move |part| (target, part)));
    let idle = pairs.filter_map(|(target, part)| {
        let idle = index.idle(target, part)?;
        Some((idle.reason, format!("spec.{}", part.field()), idle.message, idle.fix))
    });
    idle.collect()
}

/// What keeps a policy from acting on one of its targets.
fn overruled(index: &Index, kept: &Kept<Policy>, policy: &Policy, target: &PolicyTarget) -> Vec<Finding> {
    let (object, section) = (&target.object, target.section.as_deref());
    let name = Name::new(object.namespace.as_str(), object.name.as_str());
    let route = index.routes.get(object);
    let there = match object.kind.as_str() {
        "Service" => index.services.contains_key(&name),
        _ => route.is_some(),
    };
    if !there {
        let (field, message) = (format!("{}.name", target.field), format!("there is no {object}"));
        return vec![("TargetNotFound", field, message, "name an object of this namespace")];
    }
    let rules = route.and_then(|route| route.form()).map(|route| &route.rules);
    if let (Some(section), Some(rules)) = (section, rules)
        && !rules.iter().any(|rule| rule.name == section)
    {
        let field = format!("{}.sectionName", target.field);
        let message = format!("{object} has no rule named {section:?}");
        return vec![("TargetNotFound", field, message, "the name of one of its rules")];
    }
    let other = |part: Part| {
        let (acting, _) = index.acting(object, section, part)?;
        (acting.reference() != kept.object.reference()).then(|| {
            let (field, acting) = (part.field(), acting.reference());
            let message = format!("{acting} acts: it says {field} of {object} as well, and comes first");
            let fix = "say it in one policy for each target";
            ("Conflicted", format!("spec.{field}"), message, fix)
        })
    };
    policy.parts().filter_map(other).collect()
}
