//! What is known of other clusters, kept by the replica that leads, for a control plane that begins anew while they are away: a pod
//! loses its state directory. `weft-peers` has who each of them is, `weft-peers-0` and so on what it exports, a key for each peer.
//!
//! What bounds it: eight pieces of each peer, which share the room of the ConfigMaps with those of the others; and the bytes that are
//! written, since an API server keeps each version of an object for minutes. What a peer of the same name was before is never read as
//! this one's (`peering/copies.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::api::{Api, Fault};
use super::pause::Pause;
use super::shown::Shown;
use super::{Cluster, patiently};
use crate::peering::{Copies, PIECE_MAX, PIECES};

/// The ConfigMap of who they are; the others have a number behind it.
const CONFIG_MAP: &str = "weft-peers";
/// What all peers together have in one ConfigMap, which holds 1 MiB with what else is kept of it.
const ROOM: usize = 960 << 10;
/// Who writes them. Whichever replica leads.
const MANAGER: &str = "weft-control-peers";
/// What has changed is written at most so often, and in the long run so many bytes in a second: all of it each two minutes.
const SPACING: Duration = Duration::from_secs(10);
const BYTES_PER_SECOND: usize = 64 << 10;
/// Whether all is still there is looked at again after this, whatever changes meanwhile.
const LOOK: Duration = Duration::from_secs(300);

/// The task.
pub(super) struct Peers {
    pub(super) api: Api,
    pub(super) namespace: String,
    pub(super) shown: Arc<Shown>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) copies: Copies,
}

/// What a ConfigMap has: a piece of each peer.
type Pieces = BTreeMap<String, Vec<u8>>;

/// What is known of the ConfigMaps.
struct Known {
    /// Of each what it has. `None`: that is not known.
    maps: Vec<Option<Pieces>>,
    /// All of it is looked at again then.
    until: Instant,
}

impl Cluster {
    /// What was kept of peers, by cluster. What cannot be had is told in the log: then they are waited for.
    pub(crate) async fn peers(&self, namespace: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
        const WHAT: &str = "what is known of other clusters";
        let maps = patiently(WHAT, async || read_all(&self.api, namespace).await).await;
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

impl Known {
    fn nothing() -> Self {
        Self {
            maps: vec![None; 1 + PIECES],
            until: Instant::now() + LOOK,
        }
    }
}

impl Peers {
    /// Keeps it, for ever.
    pub(super) async fn run(self) {
        let (mut copies, mut leads) = (self.copies.follow(), self.leads.clone());
        let (mut known, mut pause) = (Known::nothing(), Pause::default());
        loop {
            copies.mark_unchanged();
            // Another replica that led, however shortly, may have written.
            let was_another = leads.has_changed().unwrap_or(true);
            let leading = *leads.borrow_and_update() && self.shown.has_begun();
            if was_another || !leading || known.until <= Instant::now() {
                known = Known::nothing();
            }
            let (bytes, fault) = match leading {
                true => self.keep(&mut known.maps).await,
                false => (0, None),
            };
            let again = match fault {
                None => {
                    pause.reset();
                    known.until
                }
                Some(fault) => {
                    if pause.is_first() {
                        tracing::warn!(error = %fault, "what is known of other clusters is not kept");
                    }
                    Instant::now() + pause.draw()
                }
            };
            tokio::select! {
                _ = copies.changed() => {}
                _ = leads.changed() => known.until = Instant::now(),
                () = sleep_until(again) => {}
            }
            sleep(spacing(bytes)).await;
        }
    }

    /// Writes the ConfigMaps that are not as they should be. Returns how many bytes it has sent, also in vain, and what went wrong.
    /// One that cannot be written keeps no other from it; one that cannot be read does, for what it has is not known.
    async fn keep(&self, known: &mut [Option<Pieces>]) -> (usize, Option<Fault>) {
        for (number, map) in known.iter_mut().enumerate() {
            if map.is_some() {
                continue;
            }
            match read(&self.api, &self.namespace, number).await {
                Ok(pieces) => *map = Some(pieces),
                Err(fault) => return (0, Some(fault)),
            }
        }
        let wanted = self.wanted(known.iter().flatten().cloned().collect());
        let (mut bytes, mut failed) = (0, None);
        for (number, (there, wanted)) in known.iter_mut().zip(wanted).enumerate() {
            if there.as_ref() == Some(&wanted) {
                continue;
            }
            // With slow answers a round may outlast the lease.
            if !*self.leads.borrow() {
                break;
            }
            bytes += size(&wanted);
            match self.apply(number, &wanted).await {
                Ok(_) => *there = Some(wanted),
                Err(fault) => {
                    // It may have been written all the same.
                    *there = None;
                    failed = failed.or(Some(fault));
                }
            }
        }
        (bytes, failed)
    }

    /// What the ConfigMaps should have, by what they have: of a peer that has not said all that it exports, what was kept stays.
    fn wanted(&self, mut all: Vec<Pieces>) -> Vec<Pieces> {
        // Also one that does not act now: what it was is kept for when it does again.
        let peers = self.shown.of_kind("ClusterPeer");
        let copies = self.copies.follow().borrow().clone();
        let copies: Vec<_> = peers
            .iter()
            .filter_map(|peer| {
                copies
                    .get_key_value(&peer.name)
                    .filter(|(_, copy)| copy.uid == peer.uid)
            })
            .collect();
        for map in &mut all {
            map.retain(|cluster, _| peers.iter().any(|peer| peer.name == *cluster));
        }
        let Some((heads, maps)) = all.split_first_mut() else {
            return all;
        };
        for (cluster, copy) in &copies {
            heads.remove(*cluster);
            let head = copy.head();
            if size(heads) + head.len() <= ROOM {
                heads.insert((*cluster).clone(), head);
            }
            if copy.is_whole() {
                maps.iter_mut().for_each(|map| drop(map.remove(*cluster)));
            }
        }
        let share = (ROOM / peers.len().max(1)).min(PIECE_MAX);
        for (cluster, copy) in copies {
            // Of those that are not written now there may be more than their share.
            let taken = maps.iter().map(size).max().unwrap_or_default();
            let pieces = copy.pieces(share.min(ROOM.saturating_sub(taken))).into_iter().flatten();
            for (map, piece) in maps.iter_mut().zip(pieces) {
                map.insert(cluster.clone(), piece);
            }
        }
        all
    }

    async fn apply(&self, number: usize, pieces: &Pieces) -> Result<Value, Fault> {
        let name = name(number);
        let data: BTreeMap<&String, ByteString> = pieces
            .iter()
            .map(|(cluster, piece)| (cluster, ByteString(piece.clone())))
            .collect();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": name, "namespace": self.namespace,
                "labels": {"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"},
            },
            "binaryData": data,
        });
        self.api.apply_as(&path(&self.namespace, &name), MANAGER, &map).await
    }
}

/// How long the next write waits after one of so many bytes.
fn spacing(bytes: usize) -> Duration {
    let seconds = u64::try_from(bytes / BYTES_PER_SECOND).unwrap_or(u64::MAX);
    SPACING.max(Duration::from_secs(seconds))
}

fn size(pieces: &Pieces) -> usize {
    pieces.values().map(Vec::len).sum()
}

/// What the ConfigMaps have now, one after the other.
async fn read_all(api: &Api, namespace: &str) -> Result<Vec<Pieces>, Fault> {
    let mut maps = Vec::new();
    for number in 0..=PIECES {
        maps.push(read(api, namespace, number).await?);
    }
    Ok(maps)
}

/// What one of them has now.
async fn read(api: &Api, namespace: &str, number: usize) -> Result<Pieces, Fault> {
    let map = match api.get(&path(namespace, &name(number))).await {
        Err(fault) if fault.is_missing() => Value::Null,
        map => map?,
    };
    let pieces = map["binaryData"].as_object().into_iter().flatten();
    let pieces = pieces.filter_map(|(cluster, piece)| {
        let ByteString(piece) = serde_json::from_value(piece.clone()).ok()?;
        Some((cluster.clone(), piece))
    });
    Ok(pieces.collect())
}

/// The ConfigMap of who peers are, and then those of what they export.
pub(super) fn name(number: usize) -> String {
    match number.checked_sub(1) {
        None => CONFIG_MAP.to_owned(),
        Some(piece) => format!("{CONFIG_MAP}-{piece}"),
    }
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
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
        /// A ConfigMap that may not be written.
        refused: Option<&'static str>,
        /// Which were read, and how many bytes were sent to be written, also in vain.
        read: Vec<String>,
        sent: usize,
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
                refused: None,
                read: Vec::new(),
                sent: 0,
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
                self.read.push(name.clone());
                match self.maps.get(&name) {
                    Some(map) => asked.answer(200, &json!({"binaryData": map})),
                    None => asked.refuse(404, "NotFound"),
                }
                return None;
            }
            assert_eq!(asked.method, "PATCH");
            assert_eq!(asked.query.split('&').next(), Some("fieldManager=weft-control-peers"));
            let keys = asked.body["binaryData"].as_object().cloned().unwrap_or_default();
            let bytes = |piece: &Value| serde_json::from_value::<ByteString>(piece.clone()).unwrap().0.len();
            let bytes: usize = keys.values().map(bytes).sum();
            self.sent += bytes;
            if bytes > 1 << 20 {
                asked.refuse(422, "Invalid");
                return Some(format!("{name} is too large"));
            }
            if self.refused == Some(name.as_str()) {
                asked.refuse(403, "Forbidden");
                return None;
            }
            self.maps.insert(name.clone(), keys.into_iter().collect());
            asked.answer(200, &json!({}));
            Some(name)
        }

        /// What is written until nothing is for a while.
        async fn written(&mut self) -> Vec<String> {
            let mut written = Vec::new();
            while let Ok(asked) = tokio::time::timeout(LOOK - SPACING, self.server.next()).await {
                written.extend(self.answer(asked));
            }
            written
        }

        /// What is written in this time, while something changes whenever it may be written.
        async fn written_in(&mut self, time: Duration, mut change: impl FnMut(usize)) -> Vec<String> {
            let (end, mut written, mut changes) = (Instant::now() + time, Vec::new(), 0);
            let mut next = tokio::time::interval(SPACING);
            while Instant::now() < end {
                tokio::select! {
                    asked = self.server.next() => written.extend(self.answer(asked)),
                    _ = next.tick() => {
                        change(changes);
                        changes += 1;
                    }
                }
            }
            written
        }

        /// Answers so many requests.
        async fn serve(&mut self, requests: usize) {
            for _ in 0..requests {
                let asked = self.server.next().await;
                self.answer(asked);
            }
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
        assert_eq!(world.written().await, ["weft-peers", "weft-peers-3"]);
        assert_eq!(world.maps["weft-peers-3"].keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(world.maps["weft-peers"]["a"], kept);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn large_peers_make_room_for_each_other_and_for_one_that_is_not_heard() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        let all = |peers: &[&str]| peers.iter().map(|&peer| peer.to_owned()).collect::<Vec<String>>();
        let fits = |written: &[String]| written.len() > PIECES && written.iter().all(|one| !one.contains("too large"));
        for peer in ["b", "c"] {
            world.peer(peer, peer);
            testing::put_bytes(&copies, peer, peer, 4 << 20);
        }
        let task = world.task(&leads, &copies);
        let written = world.written().await;
        assert!(fits(&written), "{written:?}");
        world.peer("a", "a");
        testing::put_bytes(&copies, "a", "a", 4 << 20);
        let written = world.written().await;
        assert!(fits(&written), "{written:?}");
        assert_eq!(
            world.maps["weft-peers-0"].clone().into_keys().collect::<Vec<_>>(),
            all(&["a", "b", "c"])
        );
        task.abort();

        // Another process has heard of one of them only: the others keep what they have, and it has what they leave.
        let copies = Copies::default();
        for peer in ["d", "e", "f"] {
            world.peer(peer, peer);
        }
        testing::put_bytes(&copies, "d", "d", 4 << 20);
        let before = world.maps.clone();
        let task = world.task(&leads, &copies);
        let written = world.written().await;
        assert!(fits(&written), "{written:?}");
        assert_eq!(world.maps["weft-peers-0"]["b"], before["weft-peers-0"]["b"]);
        assert!(world.maps["weft-peers-0"].contains_key("d"));
        task.abort();
    }

    #[test]
    fn much_is_written_seldom() {
        assert_eq!(spacing(4096), SPACING);
        assert_eq!(spacing(8 << 20), Duration::from_secs(128));
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
    async fn while_one_is_refused_the_others_are_written_and_no_more_often_than_without_it() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        world.peer("a", "u");
        world.refused = Some("weft-peers-3");
        let task = world.task(&leads, &copies);
        let time = LOOK - SPACING;
        let change = |changes: usize| testing::put_bytes(&copies, "a", "u", [6, 7, 8][changes % 3] << 19);
        let written = world.written_in(time, change).await;
        let count = |all: &[String], name: &str| all.iter().filter(|one| *one == name).count();
        let (first, last) = (count(&written, "weft-peers-0"), count(&written, "weft-peers-7"));
        assert!(first > 1 && last > 1, "{written:?}");
        // What is sent in vain counts as well. Of the first round and the last one not all of the pause is in this time.
        let bound = usize::try_from(time.as_secs()).unwrap() * BYTES_PER_SECOND + 2 * PIECES * PIECE_MAX;
        assert!(world.sent < bound, "{} of {bound}", world.sent);
        // Only what is not known is read again.
        assert_eq!(count(&world.read, "weft-peers-0"), 1);
        assert!(count(&world.read, "weft-peers-3") > 1);
        world.refused = None;
        world.written().await;
        assert!(world.maps.contains_key("weft-peers-3"));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_has_deleted_is_there_again_also_while_a_peer_changes_all_the_time() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        world.peer("a", "u");
        testing::put(&copies, "u", &[]);
        let task = world.task(&leads, &copies);
        world.serve(2 * (1 + PIECES)).await;
        world.maps.remove("weft-peers");
        let change = |changes: usize| {
            let services = &["shop/reviews", "shop/ratings"][..1 + changes % 2];
            testing::put(&copies, "u", services);
        };
        let heads = |written: &[String]| written.iter().filter(|name| *name == "weft-peers").count();
        let written = world.written_in(LOOK - 2 * SPACING, change).await;
        assert_eq!(heads(&written), 0, "it is not looked at yet");
        let written = world.written_in(5 * SPACING, change).await;
        assert_eq!(heads(&written), 1);
        assert!(world.maps.contains_key("weft-peers"));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_replica_has_written_that_led_shortly_is_seen() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        world.peer("a", "u");
        testing::put(&copies, "u", &["shop/reviews"]);
        let task = world.task(&leads, &copies);
        world.serve(2 * (1 + PIECES)).await;
        testing::put(&copies, "u", &["shop/reviews", "shop/ratings"]);
        // The task waits for when it may write that.
        tokio::time::sleep(SPACING / 2).await;
        leads.send_replace(false);
        world.maps.remove("weft-peers");
        leads.send_replace(true);
        let written = world.written().await;
        assert_eq!((written.len(), written[0].as_str()), (2, "weft-peers"), "{written:?}");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_no_more_ends_in_the_middle_and_goes_on_from_what_is_there_when_it_leads_again() {
        let mut world = World::new();
        let (leads, copies) = (watch::Sender::new(true), Copies::default());
        world.peer("a", "u");
        testing::put(&copies, "u", &["shop/reviews"]);
        let task = world.task(&leads, &copies);
        world.serve(1 + PIECES).await;
        let asked = world.server.next().await;
        leads.send_replace(false);
        assert_eq!(world.answer(asked).as_deref(), Some("weft-peers"));
        assert!(world.written().await.is_empty());
        leads.send_replace(true);
        assert_eq!(world.written().await.len(), PIECES);
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
