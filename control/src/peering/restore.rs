//! What was known of a peer before this process began: of the state directory, or, where that has nothing of what it exports, of what
//! another process has kept elsewhere.

use std::time::SystemTime;

use super::{Links, copies};
use crate::objects::peer::Peer;
use crate::serve::desk::Desk;
use crate::serve::hub::{Heard, LinkState};

/// Takes in what was known of a peer before this process began. Returns whether what it exports is known by that as well as it can
/// be without the peer.
pub(super) async fn restore(links: &Links, peer: &Peer) -> bool {
    let cluster = peer.cluster.as_str();
    let pieces = links.elsewhere.get(cluster);
    let elsewhere = pieces.and_then(|pieces| copies::restored(pieces, peer));
    let has_more = elsewhere.as_ref().is_some_and(|known| !known.resources.is_empty());
    let mut bare = None;
    if let Some((heard, said)) = links.kept.read(cluster) {
        // A process that has not heard the peer yet keeps where its gateways are: that hides nothing of what it exports.
        let is_bare = said.resources.is_empty() && !said.is_cut;
        match said.heard(peer) {
            Some(known) if is_bare && has_more => bare = Some((heard, known)),
            Some(known) => return take_in(&links.desk, peer, known, heard).await,
            None => links.kept.remove(cluster),
        }
    }
    let Some(known) = elsewhere else { return false };
    let link = links.desk.link_of(cluster).await.ok().flatten();
    let of_file = bare.as_ref().map(|(heard, _)| *heard);
    // The file of a process that never heard it says so.
    let of_file = of_file.filter(|heard| *heard > SystemTime::UNIX_EPOCH);
    // Where neither its object nor the file says when it was last heard of, that was when the process before this one ended.
    let heard = link.and_then(|link| link.heard).max(of_file);
    take_in(&links.desk, peer, known, heard.unwrap_or_else(SystemTime::now)).await;
    if let Some((_, newer)) = bare {
        // Its newest roots, and where its gateways are. If the desk has ended, so does the process.
        let _ = links.desk.restore(cluster, newer).await;
    }
    // There may be more of it than there was room for.
    false
}

/// Takes in what was known of a peer when it was last heard of. Returns whether what it exported still counts.
async fn take_in(desk: &Desk, peer: &Peer, mut known: Heard, heard: SystemTime) -> bool {
    let cluster = peer.cluster.as_str();
    let is_fresh = heard.elapsed().unwrap_or_default() < peer.keep_for;
    if !is_fresh {
        // Who it is stays: its newest roots, and where its gateways are.
        known.resources.clear();
    }
    // If the desk has ended, so does the process.
    if desk.restore(cluster, known).await.is_err() || !is_fresh {
        return false;
    }
    let _ = desk.link(cluster, LinkState::before(heard, peer.keep_for)).await;
    tracing::info!(peer = cluster, "what a peer had said is known again");
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;
    use tempfile::TempDir;
    use tokio_util::sync::CancellationToken;
    use weft_certs::authority::Authority;
    use weft_model::identity::TrustDomain;
    use weft_proto::resource::{self, Body, Export, Kind, Name};

    use super::*;
    use crate::authority::Issuer;
    use crate::epoch::Epoch;
    use crate::index::{Index, Settings};
    use crate::manifests;
    use crate::peering::kept::Said;
    use crate::peering::{Copies, Kept, PIECE_MAX};
    use crate::serve::cache::Facts;
    use crate::serve::hub::{Hub, Link};
    use crate::source::Source;

    /// A control plane of the cluster `b` that knows the peer `a`, and nothing of what that exports.
    struct World {
        state: TempDir,
        links: Links,
        peer: Peer,
        newer: weft_certs::bundle::Bundle,
        _end: CancellationToken,
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn hub(state: &Path, issuer: &Issuer) -> Hub {
        let index = Index::new(Settings {
            trust_domain: domain("b"),
            cluster: "b".to_owned(),
            network: "b".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            inside: Vec::new(),
            outside: Vec::new(),
        });
        let facts = Facts {
            trust_domain: domain("b"),
            cluster: "b".to_owned(),
            discovery_wait: Duration::from_secs(3),
            bundles: issuer.bundles().clone(),
            network: "b".to_owned(),
            gateways: Vec::new(),
            federation_endpoints: Vec::new(),
            bundle_endpoint: None,
            control_plane: issuer.credential().identity().clone(),
        };
        Hub::new(index, facts, Epoch::open(state).unwrap(), 3)
    }

    fn world() -> World {
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::create(domain("a"), SystemTime::now()).unwrap();
        let objects = state.path().join("objects");
        std::fs::create_dir(&objects).unwrap();
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "ClusterPeer",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1"},
            "spec": {
                "trustDomain": "a", "endpoints": ["a.example:15013"], "keepFor": "1h",
                "trustBundle": {"sequence": 1, "roots": authority.bundle(1).to_pem()},
                "imports": [{"namespaces": ["shop"]}],
            },
        });
        std::fs::write(objects.join("a.json"), object.to_string()).unwrap();
        let issuer = Issuer::open(state.path(), &domain("b"), "weft-system", Duration::from_secs(60)).unwrap();
        let source = Source::directories(manifests::Settings::control(&[objects], false, None)).unwrap();
        let end = CancellationToken::new();
        let hub = hub(state.path(), &issuer);
        let (desk, _) = Desk::open(hub, source, Arc::default(), end.clone()).unwrap();
        let peer = desk.linked().borrow().peers["a"].clone();
        let links = Links {
            cluster: "b".to_owned(),
            network: "b".to_owned(),
            desk,
            issuer: Arc::new(issuer),
            kept: Kept::of(state.path()),
            copies: None,
            elsewhere: BTreeMap::new(),
        };
        World {
            state,
            links,
            peer,
            newer: authority.bundle(3),
            _end: end,
        }
    }

    impl World {
        /// What another process knew of the peer: two Services, newer roots, and a gateway.
        fn heard(&self) -> Heard {
            let export = |name: &str| {
                let name = Name::new(Kind::Export, format!("shop/{name}"));
                let body = Body::Export(Export {
                    namespace: "shop".to_owned(),
                    name: name.key.trim_start_matches("shop/").to_owned(),
                    headless: false,
                    ports: Vec::new(),
                    created_ms: 1,
                    affinity_seconds: None,
                    ip_families: Vec::new(),
                    internal_traffic_policy: String::new(),
                    traffic_distribution: String::new(),
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                });
                resource::to_wire(&name, Vec::new(), body.requires(), &resource::encode(&body))
            };
            Heard {
                resources: vec![export("reviews"), export("ratings")],
                bundle: Some(self.newer.clone()),
                gateways: vec!["192.0.2.1:15443".parse().unwrap()],
            }
        }

        /// The same as it is kept elsewhere.
        fn elsewhere(&self, peer: &Peer) -> Vec<Vec<u8>> {
            let copies = Copies::default();
            copies.put(peer, &Said::of(peer, self.heard()), true);
            let copy = copies.follow().borrow()["a"].clone();
            let pieces = copy.pieces(PIECE_MAX).unwrap();
            std::iter::once(copy.head()).chain(pieces).collect()
        }

        /// How many resources, the sequence of which bundle, and how many gateways are known; and how the link is.
        async fn known(&self) -> (usize, Option<u64>, usize, Option<(Link, bool)>) {
            let heard = self.links.desk.heard("a").await.unwrap();
            let link = self.links.desk.link_of("a").await.unwrap();
            (
                heard.resources.len(),
                heard.bundle.map(|bundle| bundle.sequence()),
                heard.gateways.len(),
                link.map(|link| (link.state, link.complete)),
            )
        }
    }

    const STALE: Option<(Link, bool)> = Some((Link::Stale, false));

    #[tokio::test]
    async fn a_process_without_a_state_directory_knows_what_another_one_has_kept_elsewhere() {
        let mut world = world();
        let pieces = world.elsewhere(&world.peer);
        world.links.elsewhere.insert("a".to_owned(), pieces);
        assert!(!restore(&world.links, &world.peer).await, "the peer may know more");
        assert_eq!(world.known().await, (2, Some(3), 1, STALE));
    }

    #[tokio::test]
    async fn what_was_kept_of_another_peer_of_its_name_is_nothing() {
        let mut world = world();
        let mut another = world.peer.clone();
        another.uid = "before".to_owned();
        let pieces = world.elsewhere(&another);
        world.links.elsewhere.insert("a".to_owned(), pieces);
        assert!(!restore(&world.links, &world.peer).await);
        assert_eq!(world.known().await, (0, None, 0, None));
    }

    #[tokio::test]
    async fn of_a_peer_that_was_away_for_longer_than_anything_is_kept_its_roots_and_gateways_stay() {
        let mut world = world();
        let pieces = world.elsewhere(&world.peer);
        world.links.elsewhere.insert("a".to_owned(), pieces);
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        let before = LinkState::before(long_ago, world.peer.keep_for);
        world.links.desk.link("a", before).await.unwrap();
        assert!(!restore(&world.links, &world.peer).await);
        assert_eq!(world.known().await, (0, Some(3), 1, Some((Link::Forgotten, false))));
    }

    #[tokio::test]
    async fn the_state_directory_comes_before_what_is_kept_elsewhere() {
        let mut world = world();
        let pieces = world.elsewhere(&world.peer);
        world.links.elsewhere.insert("a".to_owned(), pieces);
        let mut heard = world.heard();
        heard.resources.pop();
        let said = Said::of(&world.peer, heard);
        Kept::of(world.state.path())
            .write("a", &said, Some(SystemTime::now()))
            .unwrap();
        assert!(restore(&world.links, &world.peer).await);
        assert_eq!(world.known().await, (1, Some(3), 1, STALE));
    }

    /// What a process knows that has not heard the peer yet: where its gateways are.
    fn bare(peer: &Peer) -> Said {
        let heard = Heard {
            gateways: vec!["192.0.2.2:15443".parse().unwrap(), "192.0.2.3:15443".parse().unwrap()],
            ..Heard::default()
        };
        Said::of(peer, heard)
    }

    #[tokio::test]
    async fn a_state_file_without_anything_that_the_peer_exports_does_not_hide_what_is_kept_elsewhere() {
        for heard in [Some(SystemTime::now()), None] {
            let mut world = world();
            let pieces = world.elsewhere(&world.peer);
            world.links.elsewhere.insert("a".to_owned(), pieces);
            world.links.kept.write("a", &bare(&world.peer), heard).unwrap();
            assert!(!restore(&world.links, &world.peer).await, "the peer may know more");
            assert_eq!(
                world.known().await,
                (2, Some(3), 2, STALE),
                "its gateways are those of the file"
            );
        }
    }

    #[tokio::test]
    async fn where_nothing_is_kept_elsewhere_a_state_file_without_exports_is_what_is_known() {
        let world = world();
        world
            .links
            .kept
            .write("a", &bare(&world.peer), Some(SystemTime::now()))
            .unwrap();
        assert!(restore(&world.links, &world.peer).await);
        assert_eq!(world.known().await, (0, None, 2, STALE));
    }

    #[tokio::test]
    async fn what_is_kept_elsewhere_is_not_newer_than_a_state_file_says_that_the_peer_was_heard() {
        let mut world = world();
        let pieces = world.elsewhere(&world.peer);
        world.links.elsewhere.insert("a".to_owned(), pieces);
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        world.links.kept.write("a", &bare(&world.peer), Some(long_ago)).unwrap();
        assert!(!restore(&world.links, &world.peer).await);
        assert_eq!(world.known().await, (0, Some(3), 2, None));
    }

    #[tokio::test]
    async fn of_a_peer_that_exports_too_much_for_the_state_file_nothing_old_is_taken_from_elsewhere() {
        let mut world = world();
        let pieces = world.elsewhere(&world.peer);
        world.links.elsewhere.insert("a".to_owned(), pieces);
        let mut said = bare(&world.peer);
        said.is_cut = true;
        world.links.kept.write("a", &said, Some(SystemTime::now())).unwrap();
        assert!(!restore(&world.links, &world.peer).await);
        assert_eq!(world.known().await, (0, None, 2, None));
    }
}
