//! Processes of the mesh's own that were given settings which they do not take.

use weft_daemon::exit;
use weft_injector::sidecar::PROXY;

use super::record::Record;
use super::{Cluster, News};
use crate::pod::{ContainerState, ContainerStatus};

impl Cluster {
    /// Tells of the control plane or a sidecar that ended because of its settings: they come from `weft up`, and the next try
    /// would end likewise.
    pub(super) fn tell_refused(&self) {
        let refused = self
            .records
            .values()
            .filter(|record| !record.deleting)
            .find_map(|record| {
                let mut containers = record.status.containers.iter();
                let container = containers.find(|container| is_refused(record, container))?;
                Some(News::Refused {
                    pod: record.key.clone(),
                    container: container.name.clone(),
                })
            });
        if let Some(news) = refused {
            self.say(news);
        }
    }
}

fn is_refused(record: &Record, container: &ContainerStatus) -> bool {
    let ours = record.system || container.name == PROXY;
    let now = match &container.state {
        ContainerState::Terminated(ended) => Some(ended),
        _ => None,
    };
    let ended = now.or(container.last.as_ref());
    ours && ended.is_some_and(|ended| ended.exit_code == i32::from(exit::USAGE))
}
