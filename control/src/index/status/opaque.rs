//! What is said of an annotation of opaque ports.

use super::{ConditionType, Report};
use crate::objects::Severity;
use crate::objects::cluster::{OPAQUE_PORTS_ANNOTATION, opaque_ports};

/// Characters of a value that are repeated.
const SHOWN_MAX: usize = 80;

/// Says that the annotation of opaque ports can't be read, if it can't.
pub(super) fn read(report: &mut Report<'_>) {
    let Some(Err(value)) = opaque_ports(report.object) else {
        return;
    };
    let field = format!("metadata.annotations[{OPAQUE_PORTS_ANNOTATION}]");
    let shown: String = value.chars().take(SHOWN_MAX).collect();
    let message = format!("{shown:?} is no list of at most 64 ports; it counts as absent");
    let (r#type, reason) = (ConditionType::PartiallyInvalid, "UnsupportedValue");
    report.condition(r#type, true, reason, &field, message.clone());
    report.problem(
        Severity::Error,
        &field,
        message,
        "ports from 1 to 65535, separated by commas",
    );
}
