//! What is said of ClusterPeers and ServiceExports.

use super::{ConditionType, Report};
use crate::index::federation::Unexported;
use crate::index::{Index, Kept, Name};
use crate::objects::Severity;
use crate::objects::mcs::ServiceExport;
use crate::objects::peer::Peer;

pub(super) fn peer<'a>(index: &Index, kept: &'a Kept<Peer>) -> Report<'a> {
    let mut report = Report::new(&kept.object);
    let refused = report.refused(kept);
    match index.rival(&kept.object.name) {
        Some(rival) if !refused => {
            let (name, field) = (&kept.object.name, "spec.trustDomain");
            let message = format!("the ClusterPeer {rival} acts, and {name} does not: both have this trust domain");
            report.condition(ConditionType::Accepted, false, "Conflicted", field, message.clone());
            let fix = "remove one of the two, or give one of the clusters another trust domain, with a root of its own";
            report.problem(Severity::Error, field, message, fix);
        }
        _ if !refused => {
            let message = "it acts as written".to_owned();
            report.condition(ConditionType::Accepted, true, "Accepted", "", message);
        }
        _ => {}
    }
    report.unknown(kept);
    report
}

pub(super) fn export<'a>(index: &Index, name: &Name, kept: &'a Kept<ServiceExport>) -> Report<'a> {
    let mut report = Report::new(&kept.object);
    let r#type = ConditionType::Valid;
    if !report.refused_as(r#type, kept) {
        match index.unexported(name) {
            Some(Unexported { reason, message, fix }) => {
                let field = "metadata.name";
                report.condition(r#type, false, reason, field, message.clone());
                report.problem(Severity::Warning, field, message, fix);
            }
            None => report.condition(r#type, true, "Valid", "", "the Service can be exported".to_owned()),
        }
    }
    report.unknown(kept);
    report
}
