//! The first message of a federation stream: which cluster calls, what it imports, and what it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use weft_proto::discovery::{self, Hello};
use weft_proto::resource::field::SELECTIONS_MAX;

use super::hello::{held, word, words};
use super::{End, Stream};
use crate::objects::peer::Selection;
use crate::serve::hub::{Follower, Join, Subject, Trusted, Who};

impl Stream {
    /// Whether the cluster that a Hello names may follow, and as what. Its control plane must be the one that the ClusterPeer of
    /// that name says: the certificate was verified by the roots of its own trust domain, and proves that.
    pub(super) async fn peer_joins(&self, hello: Hello) -> Result<Join, End> {
        let caller = hello.peer.ok_or_else(|| End::broken("Hello names no peer"))?;
        let identity = &self.leaf.identity;
        let cluster = word(caller.cluster);
        let instance = word(caller.instance);
        let peer = self.discovery.desk.peer(&cluster).await?;
        let Some(peer) = peer.filter(|peer| peer.control_plane == *identity) else {
            // Which clusters are peers is none of a stranger's business.
            let message = format!("{identity} is not the control plane that a ClusterPeer {cluster} names here");
            return Err(End::refused(&message));
        };
        let (held, _) = held(hello.held, usize::MAX);
        self.discovery.may_follow(&cluster, held.len())?;
        let follower = Follower {
            cluster: peer.cluster.clone(),
            instance,
            control_plane: identity.clone(),
            imports: selections(caller.imports)?,
        };
        let who = Who {
            subject: Subject::Peer(Arc::new(follower)),
            uid: String::new(),
            build: word(hello.build),
            features: words(hello.features),
            since: SystemTime::now(),
            skew_ms: skew(caller.now_unix_ms),
        };
        Ok(Join {
            who,
            // Ours is none of another cluster's business, and it does not raise it.
            epoch: 0,
            held: held.into_iter().collect(),
            targets: Vec::new(),
        })
    }
}

/// How far a clock is ahead of ours, in milliseconds.
fn skew(now_unix_ms: u64) -> Option<i64> {
    let ours = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?
        .as_millis();
    i64::try_from(now_unix_ms).ok()?.checked_sub(i64::try_from(ours).ok()?)
}

/// How far our bundle has come with the caller's proxies.
pub(super) fn trusted(said: &discovery::Trusted) -> Trusted {
    let count = |wire: u32| usize::try_from(wire).unwrap_or(usize::MAX);
    Trusted {
        sequence: said.sequence,
        proxies: count(said.proxies),
        acknowledged: count(said.acknowledged),
        reached: said.reached.min(said.sequence),
    }
}

fn selections(wire: Vec<discovery::Selection>) -> Result<Vec<Selection>, End> {
    if wire.len() > SELECTIONS_MAX || wire.iter().any(|one| one.namespaces.len() > SELECTIONS_MAX) {
        let message = format!("imports: {SELECTIONS_MAX} entries, each of so many namespaces, are the limit");
        return Err(End::broken(&message));
    }
    let read = |one: discovery::Selection| {
        let namespaces: BTreeSet<String> = one.namespaces.into_iter().collect();
        Selection::new(namespaces, one.labels.into_iter().take(SELECTIONS_MAX).collect())
    };
    Ok(wire.into_iter().map(read).collect())
}
