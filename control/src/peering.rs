//! Other clusters: each peer is called, and what it exports is followed.
//!
//! | file | what happens there |
//! |---|---|
//! | [`link`] | one peer: connect, say what is held, take in what comes, acknowledge; again, for ever |
//! | [`batch`] | what it says at once: its order, and how much of it is decoded at a time |
//! | [`bundle`] | a peer's trust bundle, from its bundle endpoint: also while the link is broken |
//! | [`gateways`] | where a peer's gateways are, and whether they answer |
//! | [`dial`] | a connection to a peer's control plane, and whom to expect there |
//! | [`kept`] | what is known of a peer, for when this process begins anew while the link is broken |
//! | [`copies`] | the same for another process in its place, in pieces that an API server takes |
//! | [`restore`] | what is taken in of that |
//!
//! What a peer may say is judged where it is taken in (`index/judge.rs`); how the links are is kept by the hub, for status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use weft_certs::bundle::Bundle;
use weft_daemon::drain::Tasks;

use crate::authority::Issuer;
use crate::objects::peer::Peer;
use crate::serve::desk::Desk;
use crate::serve::hub::Linked;

mod batch;
mod bundle;
mod copies;
mod dial;
mod gateways;
mod kept;
mod link;
mod restore;

#[cfg(test)]
pub(crate) use copies::testing;
pub(crate) use copies::{Copies, PIECE_MAX, PIECES};
pub(crate) use kept::Kept;
use kept::News;

/// How often a silent connection between control planes is asked whether the other side is still there, and how long that may
/// take: a cut that swallows packets is noticed after twice this.
pub(crate) const PING: Duration = Duration::from_secs(2);

/// A link that runs, and what it was begun with.
struct Running {
    peer: Peer,
    bundle: Bundle,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// Follows all peers as they come and go.
pub(crate) struct Links {
    /// Our own cluster's name.
    pub(crate) cluster: String,
    /// The network of our own pods.
    pub(crate) network: String,
    pub(crate) desk: Desk,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) kept: Kept,
    /// What is to be kept elsewhere as well, on a cluster.
    pub(crate) copies: Option<Copies>,
    /// What was kept there of each peer before this process began.
    pub(crate) elsewhere: BTreeMap<String, Vec<Vec<u8>>>,
}

/// Proxies are served when the peers have been heard of which nothing was kept, or after this.
const FIRST: Duration = Duration::from_secs(3);

impl Links {
    /// Takes in what was known of the peers before this process began, and begins to follow them. Returns when all were heard
    /// of which nothing was kept, or soon after: a proxy must not be told that their endpoints are gone, only because they are
    /// not known yet.
    pub(crate) async fn begin(mut self, tasks: &Tasks) {
        let (heard, mut hears) = watch::channel(BTreeSet::new());
        // What it answers now is of all objects that there are.
        let _ = self.desk.figures().await;
        let linked = self.desk.linked().borrow().clone();
        let mut unknown: Vec<String> = Vec::new();
        for (cluster, peer) in &linked.peers {
            if !restore::restore(&self, peer).await {
                unknown.push(cluster.clone());
            }
        }
        self.elsewhere.clear();
        tasks.named("links").spawn(self.follow(heard, tasks.clone()));
        let all = hears.wait_for(|heard| unknown.iter().all(|cluster| heard.contains(cluster)));
        // Late or not: what comes later reaches proxies as any change does.
        let _ = timeout(FIRST, all).await;
    }

    async fn follow(self, heard: watch::Sender<BTreeSet<String>>, tasks: Tasks) {
        let links = async {
            let mut linked = self.desk.linked();
            let mut running: BTreeMap<String, Running> = BTreeMap::new();
            loop {
                let now = linked.borrow_and_update().clone();
                if let Err(error) = self.issuer.link(&now.bundles) {
                    tracing::error!(%error, "the peers' trust bundles are not taken");
                }
                self.adjust(&now, &mut running, &heard);
                if linked.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = tasks.draining() => {}
            () = links => {}
        }
    }

    /// Ends the links of peers that are gone or others by now, and begins those that are missing.
    fn adjust(&self, now: &Linked, running: &mut BTreeMap<String, Running>, heard: &watch::Sender<BTreeSet<String>>) {
        // Of a cluster that is no peer any more nothing stays, should one of its name come again.
        let gone = running.keys().filter(|name| !now.peers.contains_key(*name));
        gone.for_each(|name| {
            self.kept.remove(name);
            self.copies.iter().for_each(|copies| copies.remove(name));
        });
        running.retain(|name, link| {
            let bundle = now.bundles.get(&link.peer.trust_domain);
            // What was proved by a root that is gone counts no more; by one that is new it counts as before.
            let Some(bundle) = bundle.filter(|bundle| bundle.has_all_of(&link.bundle)) else {
                return false;
            };
            link.bundle = bundle.clone();
            now.peers.get(name) == Some(&link.peer)
        });
        for (name, peer) in &now.peers {
            let Some(bundle) = now
                .bundles
                .get(&peer.trust_domain)
                .filter(|_| !running.contains_key(name))
            else {
                continue;
            };
            let link = Running {
                peer: peer.clone(),
                bundle: bundle.clone(),
                _tasks: self.begin_one(peer, heard),
            };
            running.insert(name.clone(), link);
        }
    }

    fn begin_one(&self, peer: &Peer, heard: &watch::Sender<BTreeSet<String>>) -> [AbortOnDropHandle<()>; 3] {
        let news = News::default();
        let link = link::Link::new(self, peer, heard.clone(), news.clone());
        // Where pods are dialled directly, or nothing is taken, nobody needs them.
        let passes = peer.network != self.network && !peer.imports.is_empty();
        let gateways = gateways::follow(peer.clone(), passes, self.desk.clone(), news.clone());
        let bundle = bundle::follow(peer.clone(), self.desk.clone(), self.issuer.clone(), news);
        [
            AbortOnDropHandle::new(tokio::spawn(link.run())),
            AbortOnDropHandle::new(tokio::spawn(gateways)),
            AbortOnDropHandle::new(tokio::spawn(bundle)),
        ]
    }
}
