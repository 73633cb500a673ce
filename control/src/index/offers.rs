//! The bundles that peers offer, by the link and by their bundle endpoints: judged when they come, and taken when whoever knows
//! the time says so. Of several that wait the newest is left.

use weft_certs::bundle::Bundle;
use weft_proto::resource::field::FieldError;

use super::judge::Judge;
use super::{Changed, Index, Topic};

impl Index {
    /// A peer shows its bundle elsewhere than on the link. Returns whether it is news; then it waits to be taken.
    pub(crate) fn offer(&mut self, cluster: &str, bundle: Bundle) -> Result<bool, FieldError> {
        let mut remote = self.remotes.remove(cluster).unwrap_or_default();
        let own = self.pod_networks();
        let judged = match self.peer(cluster) {
            None => Err(FieldError::new("", "no ClusterPeer that acts names this cluster")),
            Some(peer) => {
                let judge = Judge {
                    index: self,
                    peer,
                    own: &own,
                    dials: false,
                };
                judge.bundle(&bundle, &remote)
            }
        };
        if judged == Ok(true) {
            remote.offered = Some(bundle);
        }
        if self.peers.contains_key(cluster) {
            self.remotes.insert(cluster.to_owned(), remote);
        }
        judged
    }

    /// The peers whose bundles wait to be taken.
    pub(crate) fn offers(&self) -> Vec<String> {
        let waiting = self.remotes.iter().filter(|(_, remote)| remote.offered.is_some());
        waiting.map(|(cluster, _)| cluster.clone()).collect()
    }

    /// What a peer has offered counts from now on.
    pub(crate) fn take_offer(&mut self, cluster: &str) -> Changed {
        let mut changed = Changed::default();
        if let Some(remote) = self.remotes.get_mut(cluster)
            && let Some(bundle) = remote.offered.take()
        {
            remote.bundle = Some(bundle);
            changed.topics.insert(Topic::Peers);
        }
        changed
    }

    /// The newest bundle that a peer has told of, whether it counts yet or not.
    pub(crate) fn told_bundle(&self, cluster: &str) -> Option<&Bundle> {
        let remote = self.remotes.get(cluster)?;
        remote.offered.as_ref().or(remote.bundle.as_ref())
    }
}
