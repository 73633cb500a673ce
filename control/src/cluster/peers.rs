//! What is known of other clusters, kept by the replica that leads, for a control plane that begins anew while they are away: a pod
//! loses its state directory. `weft-peers` has who each of them is, `weft-peers-0` and so on what it exports, a key for each peer.
//!
//! What bounds it: eight pieces of each peer, which share the room of the ConfigMaps with those of the others; and a write of what
//! has changed each ten seconds. What a peer of the same name was before is never read as this one's (`peering/copies.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::api::{Api, Fault};
use super::pause::Pause;
use super::shown::Shown;
use super::{Cluster, patiently};
use crate::objects::Object;
use crate::peering::{Copies, PIECE_MAX, PIECES, PeerCopy};

/// The ConfigMap of who they are; the others have a number behind it.
const CONFIG_MAP: &str = "weft-peers";
/// What all peers together have in one ConfigMap, which holds 1 MiB with what else is kept of it.
const ROOM: usize = 960 << 10;
/// What has changed is written at most so often.
const SPACING: Duration = Duration::from_secs(10);
/// Whether all is still there is looked at again after this.
const LOOK: Duration = Duration::from_secs(300);

/// The task.
pub(super) struct Peers {
    pub(super) api: Api,
    pub(super) namespace: String,
    pub(super) shown: Arc<Shown>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) copies: Copies,
}

/// What the ConfigMaps have: of each a digest by key.
type There = Vec<BTreeMap<String, Vec<u8>>>;

impl Cluster {
    /// What was kept of peers, by cluster. What cannot be had is told in the log: then they are waited for.
    pub(crate) async fn peers(&self, namespace: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
        const WHAT: &str = "what is known of other clusters";
        let maps = patiently(WHAT, async || read(&self.api, namespace).await).await;
        let maps = maps.unwrap_or_else(|error| {
            tracing::warn!(error = %crate::authority::Chain(&error), "what other clusters had said is not known");
            Vec::new()
        });
        let mut all: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (cluster, piece) in maps.into_iter().flatten() {
            all.entry(cluster).or_default().push(piece);
        }
        all
    }
}

impl Peers {
    /// Keeps it, for ever.
    pub(super) async fn run(self) {
        let (mut copies, mut leads) = (self.copies.follow(), self.leads.clone());
        let (mut there, mut pause) = (None, Pause::default());
        loop {
            copies.mark_unchanged();
            let leading = *leads.borrow_and_update();
            let kept = match leading && self.shown.has_begun() {
                true => self.keep(&mut there).await,
                false => {
                    there = None;
                    Ok(())
                }
            };
            let next = match kept {
                Ok(()) => {
                    pause.reset();
                    LOOK
                }
                Err(fault) => {
                    if pause.is_first() {
                        tracing::warn!(error = %fault, "what is known of other clusters is not kept");
                    }
                    there = None;
                    pause.draw()
                }
            };
            tokio::select! {
                _ = copies.changed() => {}
                _ = leads.changed() => {}
                () = sleep(next) => there = None,
            }
            sleep(SPACING).await;
        }
    }

    /// Writes what is not there as it should be, and removes what is of no peer any more.
    async fn keep(&self, known: &mut Option<There>) -> Result<(), Fault> {
        if known.is_none() {
            let digests = |map: BTreeMap<String, Vec<u8>>| map.into_iter().map(|(key, piece)| (key, short(&piece)));
            let maps = read(&self.api, &self.namespace).await?;
            *known = Some(maps.into_iter().map(|map| digests(map).collect()).collect());
        }
        let Some(there) = known else { return Ok(()) };
        // Also one that does not act now: what it was is kept for when it does again.
        let peers = self.shown.of_kind("ClusterPeer");
        let copies = self.copies.follow().borrow().clone();
        for peer in &peers {
            if let Some(copy) = copies.get(&peer.name).filter(|copy| copy.uid == peer.uid) {
                self.write(there, peer, copy, (ROOM / peers.len()).min(PIECE_MAX))
                    .await?;
            }
        }
        for (number, map) in there.iter_mut().enumerate() {
            let is_gone = |cluster: &String| !peers.iter().any(|peer| peer.name == **cluster);
            let gone: Vec<String> = map.keys().filter(|cluster| is_gone(cluster)).cloned().collect();
            for cluster in gone {
                self.apply(number, &cluster, None).await?;
                map.remove(&cluster);
            }
        }
        Ok(())
    }

    async fn write(&self, there: &mut There, peer: &Object, copy: &PeerCopy, room: usize) -> Result<(), Fault> {
        let pieces = copy.pieces(room).unwrap_or_default();
        for (number, piece) in std::iter::once(copy.head()).chain(pieces).enumerate() {
            let digest = short(&piece);
            if there[number].get(&peer.name) != Some(&digest) {
                self.apply(number, &peer.name, Some(piece)).await?;
                there[number].insert(peer.name.clone(), digest);
            }
        }
        Ok(())
    }

    /// Writes one key, or removes it. Each peer has a field manager of its own, so that no other's goes with it. One that removes its
    /// key says nothing else either: it would be kept for ever as the manager of that.
    async fn apply(&self, number: usize, cluster: &str, piece: Option<Vec<u8>>) -> Result<Value, Fault> {
        let name = name(number);
        let mut map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": self.namespace}
        });
        if let Some(piece) = piece {
            map["metadata"]["labels"] =
                json!({"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"});
            map["binaryData"] = json!({cluster: ByteString(piece)});
        }
        let manager = format!("weft-control-peer-{cluster}");
        self.api.apply_as(&path(&self.namespace, &name), &manager, &map).await
    }
}

/// What the ConfigMaps have now, one after the other.
async fn read(api: &Api, namespace: &str) -> Result<Vec<BTreeMap<String, Vec<u8>>>, Fault> {
    let mut maps = Vec::new();
    for number in 0..=PIECES {
        let map = match api.get(&path(namespace, &name(number))).await {
            Err(fault) if fault.is_missing() => Value::Null,
            map => map?,
        };
        let pieces = map["binaryData"].as_object().into_iter().flatten();
        let pieces = pieces.filter_map(|(cluster, piece)| {
            let ByteString(piece) = serde_json::from_value(piece.clone()).ok()?;
            Some((cluster.clone(), piece))
        });
        maps.push(pieces.collect());
    }
    Ok(maps)
}

/// The ConfigMap of who peers are, and then those of what they export.
fn name(number: usize) -> String {
    match number.checked_sub(1) {
        None => CONFIG_MAP.to_owned(),
        Some(piece) => format!("{CONFIG_MAP}-{piece}"),
    }
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
}

fn short(piece: &[u8]) -> Vec<u8> {
    digest(&SHA256, piece).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::super::kinds::Kind;
    use super::super::object;
    use super::super::tests::{Asked, Server, server};
    use super::*;
    use crate::peering::testing;

    /// An API server that has these ConfigMaps, and does what it is told.
    struct World {
        server: Server,
        api: Api,
        maps: BTreeMap<String, BTreeMap<String, Value>>,
        shown: Arc<Shown>,
    }

    impl World {
        fn new() -> Self {
            let (server, api) = server();
            let kind = peers();
            let shown = Arc::new(Shown::new(std::slice::from_ref(&kind)));
            shown.listed(&kind, "v1alpha1", 1, 0, Vec::new());
            assert!(shown.take().is_some());
            Self {
                server,
                api,
                maps: BTreeMap::new(),
                shown,
            }
        }

        fn peer(&self, name: &str, uid: &str) {
            let metadata = json!({"name": name, "uid": uid, "resourceVersion": "2"});
            let kind = peers();
            self.shown
                .put(&kind, object::read(&kind, "v1alpha1", json!({"metadata": metadata})));
        }

        fn task(&self, leads: &watch::Sender<bool>, copies: &Copies) -> JoinHandle<()> {
            let peers = Peers {
                api: self.api.clone(),
                namespace: "weft-system".to_owned(),
                shown: self.shown.clone(),
                leads: leads.subscribe(),
                copies: copies.clone(),
            };
            tokio::task::spawn(peers.run())
        }

        fn answer(&mut self, asked: Asked) -> Option<String> {
            let name = asked.path.rsplit('/').next().unwrap().to_owned();
            if asked.method == "GET" {
                match self.maps.get(&name) {
                    Some(map) => asked.answer(200, &json!({"binaryData": map})),
                    None => asked.refuse(404, "NotFound"),
                }
                return None;
            }
            assert_eq!(asked.method, "PATCH");
            let manager = asked.query.split('&').next().unwrap();
            let peer = manager
                .strip_prefix("fieldManager=weft-control-peer-")
                .unwrap()
                .to_owned();
            let map = self.maps.entry(name.clone()).or_default();
            map.remove(&peer);
            let keys = asked.body["binaryData"].as_object().cloned().unwrap_or_default();
            map.extend(keys);
            asked.answer(200, &json!({}));
            Some(format!("{name} {peer}"))
        }

        /// What is written until nothing is for a while.
        async fn written(&mut self) -> Vec<String> {
            let mut written = Vec::new();
            while let Ok(asked) = tokio::time::timeout(SPACING * 2, self.server.next()).await {
                written.extend(self.answer(asked));
            }
            written
        }

        async fn read(&mut self) -> BTreeMap<String, Vec<Vec<u8>>> {
            let cluster = Cluster { api: self.api.clone() };
            let serve = async {
                for _ in 0..=PIECES {
                    let asked = self.server.next().await;
                    assert_eq!(self.answer(asked), None);
                }
            };
            tokio::join!(cluster.peers("weft-system"), serve).0
        }
    }

    fn peers() -> Kind {
        Kind::all().into_iter().find(|kind| kind.kind == "ClusterPeer").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_has_said_is_there_for_the_next_control_plane_and_what_changes_is_written_again() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(false), Copies::default());
        world.peer("a", "u");
        testing::put(&copies, "u", &["shop/reviews"]);
        let task = world.task(&leads, &copies);
        assert!(world.written().await.is_empty(), "another replica leads");
        leads.send_replace(true);
        assert_eq!(world.written().await.len(), 1 + PIECES);
        let read = world.read().await;
        assert_eq!(testing::known(&read["a"], "u"), ["shop/reviews"]);
        assert!(testing::known(&read["a"], "another").is_empty());

        testing::put(&copies, "u", &["shop/reviews", "shop/ratings"]);
        assert_eq!(world.written().await.len(), 1, "one piece has changed");
        let read = world.read().await;
        assert_eq!(testing::known(&read["a"], "u"), ["shop/ratings", "shop/reviews"]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_stays_for_a_peer_that_is_not_heard_and_goes_with_one_that_is_gone() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        let kept = json!(ByteString(b"what another process wrote".to_vec()));
        for name in ["weft-peers", "weft-peers-3"] {
            let keys = ["a", "gone"].map(|peer| (peer.to_owned(), kept.clone()));
            world.maps.insert(name.to_owned(), keys.into());
        }
        world.peer("a", "u");
        // Known by the name alone: its object is another by now.
        testing::put(&copies, "before", &["shop/reviews"]);
        let task = world.task(&leads, &copies);
        assert_eq!(world.written().await, ["weft-peers gone", "weft-peers-3 gone"]);
        assert_eq!(world.maps["weft-peers"]["a"], kept);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_tried_again() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        world.peer("a", "u");
        testing::put(&copies, "u", &[]);
        let task = world.task(&leads, &copies);
        for _ in 0..2 {
            world.server.next().await.refuse(403, "Forbidden");
        }
        assert_eq!(world.written().await.len(), 1 + PIECES);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_begins_without_what_it_may_not_read() {
        let (mut server, api) = server();
        let cluster = Cluster { api };
        let serve = async { server.next().await.refuse(403, "Forbidden") };
        let (read, ()) = tokio::join!(cluster.peers("weft-system"), serve);
        assert!(read.is_empty());
    }
}
