//! The desk, for whoever follows other clusters: what peers say, how the links to them are, and how far bundles have come.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::oneshot;
use weft_certs::bundle::Bundle;
use weft_proto::resource::{self, FieldError, Update};

use super::{Closed, Desk, Question, Thread};
use crate::explain;
use crate::objects::peer::Peer;
use crate::serve::cache::ProxyId;
use crate::serve::hub::{Fetched, Heard, LinkState, Tried, Trusted};
use crate::serve::outbox::Hash;

/// What is asked and said of one peer.
pub(super) enum OfPeer {
    Peer {
        cluster: String,
        answer: oneshot::Sender<Option<Peer>>,
    },
    Hear {
        cluster: String,
        updates: Vec<Update>,
        unread: Vec<(resource::Name, FieldError)>,
        answer: oneshot::Sender<Vec<(resource::Name, FieldError)>>,
    },
    Held {
        cluster: String,
        answer: oneshot::Sender<Vec<(resource::Name, Hash)>>,
    },
    Forget(String),
    Gateways {
        cluster: String,
        addresses: Vec<SocketAddr>,
    },
    Heard {
        cluster: String,
        answer: oneshot::Sender<Heard>,
    },
    Told {
        namespaces: BTreeSet<String>,
        answer: oneshot::Sender<Vec<explain::Heard>>,
    },
    Restore {
        cluster: String,
        heard: Heard,
        answer: oneshot::Sender<()>,
    },
    Offer {
        cluster: String,
        bundle: Bundle,
        answer: oneshot::Sender<Result<bool, FieldError>>,
    },
    Fetched {
        cluster: String,
        fetched: Fetched,
    },
    Tried {
        cluster: String,
        tried: Vec<Tried>,
    },
    Trusted {
        cluster: String,
        answer: oneshot::Sender<Option<Trusted>>,
    },
    HearTrusted {
        id: ProxyId,
        trusted: Trusted,
    },
    LinkOf {
        cluster: String,
        answer: oneshot::Sender<Option<LinkState>>,
    },
    Link {
        cluster: String,
        state: LinkState,
    },
}

impl Desk {
    /// The peer of this name, if it acts.
    pub(crate) async fn peer(&self, cluster: &str) -> Result<Option<Peer>, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Peer { cluster, answer }).await
    }

    /// A peer says what it exports; some of it could not be read. Returns what was refused beside that.
    pub(crate) async fn hear(
        &self,
        cluster: &str,
        updates: Vec<Update>,
        unread: Vec<(resource::Name, FieldError)>,
    ) -> Result<Vec<(resource::Name, FieldError)>, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Hear {
            cluster,
            updates,
            unread,
            answer,
        })
        .await
    }

    /// What is held of a peer, to go on from there.
    pub(crate) async fn held(&self, cluster: &str) -> Result<Vec<(resource::Name, Hash)>, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Held { cluster, answer }).await
    }

    /// The addresses of a peer's gateways are these now.
    pub(crate) async fn set_gateways(&self, cluster: &str, addresses: Vec<SocketAddr>) -> Result<(), Closed> {
        let cluster = cluster.to_owned();
        self.tell_of_peer(OfPeer::Gateways { cluster, addresses }).await
    }

    /// What a peer has said counts no more.
    pub(crate) async fn forget(&self, cluster: &str) -> Result<(), Closed> {
        self.tell_of_peer(OfPeer::Forget(cluster.to_owned())).await
    }

    /// What is known of a peer, to be kept.
    pub(crate) async fn heard(&self, cluster: &str) -> Result<Heard, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Heard { cluster, answer }).await
    }

    /// What is known of all peers, as far as it is of these namespaces, for whoever explains.
    pub(crate) async fn told(&self, namespaces: BTreeSet<String>) -> Result<Vec<explain::Heard>, Closed> {
        self.ask_of_peer(|answer| OfPeer::Told { namespaces, answer }).await
    }

    /// Takes in what was known of a peer before this process began.
    pub(crate) async fn restore(&self, cluster: &str, heard: Heard) -> Result<(), Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Restore { cluster, heard, answer })
            .await
    }

    /// A peer shows its bundle at its bundle endpoint. Returns whether it is news, or why it is refused.
    pub(crate) async fn offer(&self, cluster: &str, bundle: Bundle) -> Result<Result<bool, FieldError>, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Offer {
            cluster,
            bundle,
            answer,
        })
        .await
    }

    /// What came of asking a peer's bundle endpoint.
    pub(crate) async fn fetched(&self, cluster: &str, fetched: Fetched) -> Result<(), Closed> {
        let cluster = cluster.to_owned();
        self.tell_of_peer(OfPeer::Fetched { cluster, fetched }).await
    }

    /// What came of trying a peer's gateways.
    pub(crate) async fn tried(&self, cluster: &str, tried: Vec<Tried>) -> Result<(), Closed> {
        let cluster = cluster.to_owned();
        self.tell_of_peer(OfPeer::Tried { cluster, tried }).await
    }

    /// How far the bundle of a peer has come with our proxies. `None`: it is no peer.
    pub(crate) async fn trusted(&self, cluster: &str) -> Result<Option<Trusted>, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::Trusted { cluster, answer }).await
    }

    /// A replica of a peer's control plane says how far our bundle has come there.
    pub(crate) async fn hear_trusted(&self, id: ProxyId, trusted: Trusted) -> Result<(), Closed> {
        self.tell_of_peer(OfPeer::HearTrusted { id, trusted }).await
    }

    /// How the link to a peer was, when that was last told.
    pub(crate) async fn link_of(&self, cluster: &str) -> Result<Option<LinkState>, Closed> {
        let cluster = cluster.to_owned();
        self.ask_of_peer(|answer| OfPeer::LinkOf { cluster, answer }).await
    }

    /// How the link to a peer is.
    pub(crate) async fn link(&self, cluster: &str, state: LinkState) -> Result<(), Closed> {
        let cluster = cluster.to_owned();
        self.tell_of_peer(OfPeer::Link { cluster, state }).await
    }

    async fn tell_of_peer(&self, question: OfPeer) -> Result<(), Closed> {
        self.tell(Question::OfPeer(question)).await
    }

    async fn ask_of_peer<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> OfPeer) -> Result<T, Closed> {
        self.ask(|answer| Question::OfPeer(question(answer))).await
    }
}

impl Thread {
    /// The answer may come too late for whoever asked: then nobody needs it.
    pub(super) fn act_of_peer(&mut self, question: OfPeer) {
        let hub = &mut self.hub;
        match question {
            OfPeer::Peer { cluster, answer } => drop(answer.send(hub.index.peer(&cluster).cloned())),
            OfPeer::Held { cluster, answer } => drop(answer.send(hub.held(&cluster))),
            OfPeer::Told { namespaces, answer } => {
                let is_whole = |cluster: &str| hub.links.get(cluster).is_some_and(LinkState::is_whole);
                drop(answer.send(explain::told(&hub.index, &namespaces, is_whole)));
            }
            OfPeer::Heard { cluster, answer } => drop(answer.send(hub.heard(&cluster))),
            OfPeer::LinkOf { cluster, answer } => drop(answer.send(hub.links.get(&cluster).cloned())),
            OfPeer::Link { cluster, state } => {
                if hub.link(cluster, state) {
                    self.changed();
                }
            }
            OfPeer::Fetched { cluster, fetched } => hub.fetched(cluster, fetched),
            OfPeer::Tried { cluster, tried } => hub.tried(cluster, tried),
            OfPeer::Trusted { cluster, answer } => drop(answer.send(hub.trusted(&cluster))),
            OfPeer::HearTrusted { id, trusted } => hub.hear_trusted(id, trusted),
            OfPeer::Hear {
                cluster,
                updates,
                unread,
                answer,
            } => {
                let started = Instant::now();
                let refused = hub.hear(&cluster, updates, &unread);
                self.times.observe(started.elapsed());
                self.take_bundles();
                drop(answer.send(refused));
            }
            OfPeer::Restore { cluster, heard, answer } => {
                hub.restore(&cluster, heard);
                self.changed();
                let _ = answer.send(());
            }
            OfPeer::Offer {
                cluster,
                bundle,
                answer,
            } => {
                let offered = hub.offer(&cluster, bundle);
                self.take_bundles();
                drop(answer.send(offered));
            }
            OfPeer::Forget(cluster) => {
                hub.forget(&cluster);
                self.changed();
            }
            OfPeer::Gateways { cluster, addresses } => {
                if hub.set_gateways(&cluster, &addresses) {
                    self.changed();
                }
            }
        }
    }
}
