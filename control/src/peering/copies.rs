//! What is known of peers, in pieces that fit into objects of an API server: for a process that begins anew where there is no state
//! directory any more, as each new pod on Kubernetes does. The replica that leads keeps them there (`cluster/peers.rs`).
//!
//! What a peer exports is spread over the pieces by its names, so that a change of one thing writes one piece again. Each piece can
//! be read without the others, says of which ClusterPeer it is, and is judged like anything that a peer says. Where there is no
//! room for all, the endpoints of the largest ports are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message as _;
use tokio::sync::watch;
use weft_proto::discovery::{Kind, Resource};

use super::kept::{self, Said};
use crate::objects::peer::Peer;
use crate::serve::hub::Heard;

/// In how many pieces a peer's exports are.
pub(crate) const PIECES: usize = 8;
/// The largest piece: with all of them, 4 MiB of each peer. An object of an API server holds 1 MiB.
pub(crate) const PIECE_MAX: usize = 512 << 10;
/// What of a piece is not resources: whose it is, and a hash.
const FRAME: usize = 1024;

/// What is to be kept of all peers, by cluster. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies(watch::Sender<BTreeMap<String, Arc<PeerCopy>>>);

/// What is to be kept of one peer.
#[derive(Debug, PartialEq)]
pub(crate) struct PeerCopy {
    /// The uid of its ClusterPeer.
    pub(crate) uid: String,
    /// Its newest roots, and where its gateways are.
    head: Said,
    /// What it exports, what comes first first. `None`: not all of that has come yet, and what is kept may be more.
    resources: Option<Vec<Resource>>,
}

impl Copies {
    /// All of them, as they change.
    pub(crate) fn follow(&self) -> watch::Receiver<BTreeMap<String, Arc<PeerCopy>>> {
        self.0.subscribe()
    }

    /// This is known of a peer now. `complete`: all that it exports is in it, or it exports so much that it is left out.
    pub(super) fn put(&self, peer: &Peer, said: &Said, complete: bool) {
        // What another process has kept may have newer roots than the object, and could not be had.
        if !complete && said.bundle.is_none() {
            return;
        }
        self.0.send_if_modified(|all| {
            let before = all.get(&peer.cluster).filter(|before| before.uid == peer.uid);
            let resources = match complete {
                // Of one that exports more than is kept there is nothing, also not what it exported once.
                true => Some(fitting(&said.resources)),
                false => before.and_then(|before| before.resources.clone()),
            };
            let mut head = said.frame();
            (head.bundle, head.gateways) = (said.bundle.clone(), said.gateways.clone());
            let copy = PeerCopy {
                uid: peer.uid.clone(),
                head,
                resources,
            };
            let differs = before.is_none_or(|before| **before != copy);
            if differs {
                all.insert(peer.cluster.clone(), Arc::new(copy));
            }
            differs
        });
    }

    /// Of a cluster that is no peer any more nothing is kept.
    pub(super) fn remove(&self, cluster: &str) {
        self.0.send_if_modified(|all| all.remove(cluster).is_some());
    }
}

impl PeerCopy {
    /// Who it is, as it is kept.
    pub(crate) fn head(&self) -> Vec<u8> {
        kept::encoded(&self.head)
    }

    /// Whether all that it exports has come.
    pub(crate) fn is_whole(&self) -> bool {
        self.resources.is_some()
    }

    /// What it exports, as it is kept: so many bytes in each piece, at most. `None`: not all of it has come yet.
    pub(crate) fn pieces(&self, room: usize) -> Option<Vec<Vec<u8>>> {
        let mut pieces = vec![self.head.frame(); PIECES];
        let mut left = [room.saturating_sub(FRAME); PIECES];
        for resource in self.resources.as_ref()? {
            let (at, size) = (place(resource), size(resource));
            if let Some(after) = left[at].checked_sub(size) {
                left[at] = after;
                pieces[at].resources.push(resource.clone());
            }
        }
        Some(pieces.iter().map(kept::encoded).collect())
    }
}

/// What was kept of a peer, of what there is of its pieces. `None`: nothing.
pub(super) fn restored(pieces: &[Vec<u8>], peer: &Peer) -> Option<Heard> {
    let of_peer = pieces.iter().filter_map(|piece| kept::decoded(piece)?.heard(peer));
    of_peer.reduce(|mut all, one| {
        all.resources.extend(one.resources);
        all.gateways.extend(one.gateways);
        all.bundle = all.bundle.or(one.bundle);
        all
    })
}

/// As much of this as there ever is room for: what is exported, and of the endpoints behind it the smallest sets first, so that most
/// Services have some.
fn fitting(resources: &[Resource]) -> Vec<Resource> {
    let key = |resource: &Resource| resource.name.as_ref().map(|name| name.key.clone());
    let mut all: Vec<&Resource> = resources.iter().collect();
    all.sort_by_cached_key(|resource| (is_endpoints(resource), size(resource), key(resource)));
    let mut room = PIECES * PIECE_MAX;
    let fits = all.into_iter().take_while(|resource| {
        let left = room.checked_sub(size(resource));
        room = left.unwrap_or(0);
        left.is_some()
    });
    fits.cloned().collect()
}

fn is_endpoints(resource: &Resource) -> bool {
    let kind = resource.name.as_ref().map(|name| name.kind);
    kind == Some(Kind::Exported.into())
}

/// The piece that it is in.
fn place(resource: &Resource) -> usize {
    let key = resource.name.as_ref().map_or("", |name| &name.key);
    usize::from(digest(&SHA256, key.as_bytes()).as_ref()[0]) % PIECES
}

/// What it takes in a piece, with its tag and length.
fn size(resource: &Resource) -> usize {
    resource.encoded_len() + 8
}

/// For the tests of what is kept elsewhere.
#[cfg(test)]
pub(crate) mod testing {
    use std::time::SystemTime;

    use weft_certs::authority::Authority;
    use weft_model::identity::TrustDomain;
    use weft_proto::discovery::{ResourceName, resource::State};

    use super::*;
    use crate::peering::kept::tests::peer;

    pub(super) fn authority() -> Authority {
        Authority::create(TrustDomain::new("one").unwrap(), SystemTime::UNIX_EPOCH).unwrap()
    }

    pub(super) fn resource(kind: Kind, key: &str, bytes: usize) -> Resource {
        Resource {
            name: Some(ResourceName {
                kind: kind.into(),
                key: key.to_owned(),
            }),
            state: Some(State::Body(vec![7; bytes].into())),
            ..Resource::default()
        }
    }

    pub(super) fn keys(heard: &Heard) -> Vec<String> {
        let names = heard.resources.iter().filter_map(|resource| resource.name.as_ref());
        let mut keys: Vec<String> = names.map(|name| name.key.clone()).collect();
        keys.sort();
        keys
    }

    /// The peer `a` exports these Services.
    pub(crate) fn put(copies: &Copies, uid: &str, services: &[&str]) {
        let peer = peer(uid, &authority());
        let exports = services.iter().map(|key| resource(Kind::Export, key, 10));
        let heard = Heard {
            resources: exports.collect(),
            ..Heard::default()
        };
        copies.put(&peer, &Said::of(&peer, heard), true);
    }

    /// A peer exports so many bytes.
    pub(crate) fn put_bytes(copies: &Copies, cluster: &str, uid: &str, bytes: usize) {
        let mut peer = peer(uid, &authority());
        peer.cluster = cluster.to_owned();
        let exported = (0..bytes / 4096).map(|at| resource(Kind::Exported, &format!("shop/s{at}:80"), 4096));
        let heard = Heard {
            resources: exported.collect(),
            ..Heard::default()
        };
        copies.put(&peer, &Said::of(&peer, heard), true);
    }

    /// The Services that are known of the peer `a` again.
    pub(crate) fn known(pieces: &[Vec<u8>], uid: &str) -> Vec<String> {
        restored(pieces, &peer(uid, &authority())).map_or_else(Vec::new, |heard| keys(&heard))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::testing::{self, authority, keys, resource};
    use super::*;
    use crate::peering::kept::tests::peer;

    fn said(peer: &Peer, resources: Vec<Resource>) -> Said {
        let gateways: Vec<SocketAddr> = vec!["192.0.2.1:15443".parse().unwrap()];
        let heard = Heard {
            resources,
            bundle: Some(authority().bundle(7)),
            gateways,
        };
        Said::of(peer, heard)
    }

    fn copy(copies: &Copies) -> Arc<PeerCopy> {
        copies.follow().borrow()["a"].clone()
    }

    /// All that is kept of a copy.
    fn all(copy: &PeerCopy) -> Vec<Vec<u8>> {
        let pieces = copy.pieces(PIECE_MAX).unwrap_or_default();
        std::iter::once(copy.head()).chain(pieces).collect()
    }

    #[test]
    fn what_is_known_of_a_peer_comes_back_from_its_pieces_and_for_the_same_object_only() {
        let (copies, peer_a) = (Copies::default(), peer("u", &authority()));
        let exports = (0..50).map(|n| resource(Kind::Export, &format!("shop/s{n:02}"), 100));
        copies.put(&peer_a, &said(&peer_a, exports.collect()), true);
        let mut kept = all(&copy(&copies));
        assert_eq!(kept.len(), 1 + PIECES);
        let heard = restored(&kept, &peer_a).unwrap();
        assert_eq!((keys(&heard).len(), heard.gateways.len()), (50, 1));
        assert_eq!(heard.bundle.unwrap().sequence(), 7);
        assert!(restored(&kept, &peer("another", &authority())).is_none());
        assert!(restored(&[], &peer_a).is_none());
        // One that is damaged takes nothing from the others.
        kept[3].pop();
        let heard = restored(&kept, &peer_a).unwrap();
        assert!((1..50).contains(&keys(&heard).len()) && heard.bundle.is_some());
    }

    #[test]
    fn a_change_of_one_thing_changes_one_piece() {
        let (copies, peer) = (Copies::default(), peer("u", &authority()));
        let exports = |bytes| {
            let exports = (0..50).map(|n| resource(Kind::Export, &format!("shop/s{n:02}"), 100));
            let changed = resource(Kind::Exported, "shop/s07:80", bytes);
            said(&peer, exports.chain([changed]).collect())
        };
        copies.put(&peer, &exports(10), true);
        let before = copy(&copies).pieces(PIECE_MAX).unwrap();
        copies.put(&peer, &exports(20), true);
        let after = copy(&copies).pieces(PIECE_MAX).unwrap();
        assert_eq!(before.iter().zip(&after).filter(|(one, other)| one != other).count(), 1);
    }

    #[test]
    fn where_there_is_no_room_for_all_the_largest_sets_of_endpoints_are_left_out() {
        let (copies, peer) = (Copies::default(), peer("u", &authority()));
        let sets = (0..40).map(|n| resource(Kind::Exported, &format!("shop/s{n:02}:80"), 1000 * (n + 1)));
        let exports = (0..40).map(|n| resource(Kind::Export, &format!("shop/s{n:02}"), 100));
        copies.put(&peer, &said(&peer, sets.chain(exports).collect()), true);
        for room in [4000, 60_000, PIECE_MAX] {
            let pieces = copy(&copies).pieces(room).unwrap();
            assert!(pieces.iter().all(|piece| piece.len() <= room), "{room}");
            let heard = keys(&restored(&pieces, &peer).unwrap());
            assert_eq!(heard.iter().filter(|key| !key.contains(':')).count(), 40, "{room}");
            assert_eq!(heard.len() == 80, room == PIECE_MAX, "{room}: {}", heard.len());
            assert!(heard.contains(&"shop/s00:80".to_owned()), "{room}");
        }
        // However much there is, so much is held.
        let large = (0..100).map(|n| resource(Kind::Exported, &format!("shop/s{n:02}:80"), 100_000));
        copies.put(&peer, &said(&peer, large.collect()), true);
        let held: usize = copy(&copies).resources.iter().flatten().map(size).sum();
        assert!(held <= PIECES * PIECE_MAX && held > 3 << 20, "{held}");
    }

    #[test]
    fn what_is_not_all_there_does_not_take_the_place_of_what_was() {
        let (copies, peer) = (Copies::default(), peer("u", &authority()));
        let one = || vec![resource(Kind::Export, "shop/a", 10)];
        copies.put(&peer, &Said::of(&peer, Heard::default()), false);
        assert!(copies.follow().borrow().is_empty(), "nothing is known of it at all");
        copies.put(&peer, &said(&peer, one()), false);
        assert!(
            copy(&copies).pieces(PIECE_MAX).is_none(),
            "its roots and gateways alone"
        );
        copies.put(&peer, &said(&peer, one()), true);
        copies.put(&peer, &said(&peer, Vec::new()), false);
        assert_eq!(keys(&restored(&all(&copy(&copies)), &peer).unwrap()), ["shop/a"]);
        copies.put(&peer, &said(&peer, Vec::new()), true);
        assert!(keys(&restored(&all(&copy(&copies)), &peer).unwrap()).is_empty());
        copies.remove("a");
        assert!(copies.follow().borrow().is_empty());
    }

    #[test]
    fn of_a_peer_that_comes_to_export_more_than_is_kept_nothing_old_is_left() {
        let copies = Copies::default();
        let kept = || {
            let all = copies.follow().borrow().clone();
            let pieces = all["a"].pieces(PIECE_MAX).unwrap();
            testing::known(&pieces, "u").len()
        };
        testing::put_bytes(&copies, "a", "u", 3 << 20);
        assert!(kept() > 700);
        testing::put_bytes(&copies, "a", "u", 17 << 20);
        assert_eq!(kept(), 0);
    }
}
