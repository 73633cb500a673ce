//! What is said of ClusterPeers and ServiceExports.

use super::{ConditionType, Report};
use crate::index::federation::Unexported;
use crate::index::{Index, Kept, Name};
use crate::objects::Severity;
use crate::objects::mcs::ServiceExport;
use crate::objects::peer::Peer;

/// Clusters that one message names; the others are counted.
const TOLD_MAX: usize = 4;

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
    let mut nothing = None;
    if !report.refused_as(r#type, kept) {
        match index.unexported(name) {
            Some(Unexported { reason, message, fix }) => {
                let field = "metadata.name";
                report.condition(r#type, false, reason, field, message.clone());
                report.problem(Severity::Warning, field, message.clone(), fix);
                nothing = Some(message);
            }
            None => report.condition(r#type, true, "Valid", "", "the Service can be exported".to_owned()),
        }
    }
    ready(index, name, nothing, &mut report);
    if let Some(conflict) = index.conflict(name) {
        if conflict.status {
            let fix = "write the same in all of these clusters, or leave it at what the oldest export says";
            report.problem(Severity::Warning, "", conflict.message.clone(), fix);
        }
        let (r#type, reason) = (ConditionType::Conflict, &conflict.reason);
        report.condition(r#type, conflict.status, reason, "", conflict.message);
    }
    report.unknown(kept);
    report
}

/// Whether other clusters can have what is exported: each takes it for itself. `nothing`: why there is nothing to export.
fn ready(index: &Index, name: &Name, nothing: Option<String>, report: &mut Report<'_>) {
    let (r#type, field) = (ConditionType::Ready, "metadata.namespace");
    let Some((_, service, _)) = index.exported(name) else {
        let message = match nothing {
            Some(why) => format!("nothing is exported: {why}"),
            None if index.is_system(&name.namespace) => {
                let message = format!("{} is each cluster's own: nothing of it is shared", name.namespace);
                let fix = "export a Service of another namespace";
                report.problem(Severity::Warning, field, message.clone(), fix);
                message
            }
            None => "nothing is exported: no valid form of it is known".to_owned(),
        };
        return report.condition(r#type, false, "Failed", "", message);
    };
    let peers = index.peers();
    let told: Vec<&str> = peers
        .filter(|(_, peer)| peer.is_told(&name.namespace, &service.labels))
        .map(|(cluster, _)| cluster)
        .collect();
    let more = match told.len().saturating_sub(TOLD_MAX) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let message = match told.is_empty() {
        true => "it can be had, and no ClusterPeer is told of it".to_owned(),
        false => format!("it can be had by {}{more}", told[..told.len().min(TOLD_MAX)].join(", ")),
    };
    report.condition(r#type, true, "Ready", "", message);
}
