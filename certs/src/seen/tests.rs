use std::time::Duration;

use super::*;
use crate::testing::{DAY, Forger, Mesh, good_leaf};

const WEB: &str = "spiffe://a/ns/shop/sa/web";

fn after(span: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + span)
}

fn count(seen: &Seen) -> usize {
    seen.chains.lock().unwrap().len()
}

#[test]
fn a_chain_is_remembered_for_its_side_and_gives_the_same_identity() {
    let forger = Forger::new();
    let chain = forger.leaf(&good_leaf(WEB)).chain;
    let seen = Seen::new(forger.bundles("a"));
    let (leaf, rest) = chain.split_first().unwrap();
    for _ in 0..3 {
        let identity = seen.verify(leaf, rest, Side::Client, UnixTime::now()).unwrap();
        assert_eq!(identity, WEB.parse().unwrap());
        assert_eq!(seen.peer_identity(&chain, Side::Client).unwrap(), identity);
        assert_eq!(count(&seen), 1);
    }
    seen.verify(leaf, rest, Side::Server, UnixTime::now()).unwrap();
    assert_eq!(count(&seen), 2, "what a chain may be used for depends on the side");
}

#[test]
fn a_chain_that_was_seen_is_refused_once_its_leaf_has_ended() {
    let mesh = Mesh::new("a");
    let chain = mesh.credential("web").chain().to_vec();
    let seen = Seen::new(mesh.bundles());
    assert!(seen.verify(&chain[0], &[], Side::Client, UnixTime::now()).is_ok());
    let error = seen.verify(&chain[0], &[], Side::Client, after(2 * DAY)).unwrap_err();
    assert!(
        matches!(error, VerifyError::Chain(_, webpki::Error::CertExpired { .. })),
        "{error}"
    );
    assert!(seen.verify(&chain[0], &[], Side::Client, UnixTime::now()).is_ok());
}

#[test]
fn a_chain_that_was_seen_is_refused_once_an_intermediate_has_ended() {
    let forger = Forger::new();
    let chain = forger.deep_leaf(&good_leaf(WEB), 1, 0).chain;
    let seen = Seen::new(forger.bundles("a"));
    let (leaf, rest) = chain.split_first().unwrap();
    assert!(seen.verify(leaf, rest, Side::Client, UnixTime::now()).is_ok());
    let ends = std::iter::once(leaf)
        .chain(rest)
        .filter_map(validity)
        .map(|(_, until)| until);
    let past = UnixTime::since_unix_epoch(Duration::from_secs(ends.min().unwrap() + 1));
    assert!(seen.verify(leaf, rest, Side::Client, past).is_err());
}

#[test]
fn what_is_vouched_for_whatever_the_time_is_verified_by_the_time_and_the_side() {
    let mesh = Mesh::new("a");
    let chain = mesh.credential("web").chain().to_vec();
    let seen = Seen::new(mesh.bundles());
    for _ in 0..2 {
        assert!(seen.vouches_for(&chain, Side::Client, after(2 * DAY)));
        assert_eq!(count(&seen), 1);
    }
    assert!(seen.verify(&chain[0], &[], Side::Client, after(2 * DAY)).is_err());
    let stranger = Mesh::new("b").credential("web").chain().to_vec();
    assert!(!seen.vouches_for(&stranger, Side::Client, UnixTime::now()));
    assert_eq!(count(&seen), 1);
    // What was seen of one side says nothing of the other.
    seen.verify(&chain[0], &[], Side::Server, UnixTime::now()).unwrap();
    assert_eq!(count(&seen), 2);
}

#[test]
fn what_does_not_verify_is_not_remembered() {
    let (forger, stranger) = (Forger::new(), Forger::new());
    let seen = Seen::new(forger.bundles("a"));
    let chain = stranger.leaf(&good_leaf(WEB)).chain;
    for _ in 0..2 {
        assert!(
            seen.verify(&chain[0], &chain[1..], Side::Client, UnixTime::now())
                .is_err()
        );
    }
    assert_eq!(count(&seen), 0);
}

#[test]
fn other_bundles_begin_with_nothing_seen() {
    let mesh = Mesh::new("a");
    let (web, reviews) = (mesh.credential("web"), mesh.credential("reviews"));
    assert!(web.peer_identity(reviews.chain(), Side::Server).is_ok());
    let stranger = Mesh::new("a");
    let web = web.with_bundles(stranger.bundles(), 2);
    let verdict = crate::verify::verify(reviews.chain(), web.bundles(), Side::Server, UnixTime::now());
    assert!(verdict.is_err(), "its root is not theirs");
}

#[test]
fn no_more_is_remembered_than_the_bound() {
    let forger = Forger::new();
    let chain = forger.leaf(&good_leaf(WEB)).chain;
    let seen = Seen::new(forger.bundles("a"));
    for n in 0..SEEN_MAX {
        let mut key = [0; digest::SHA256_OUTPUT_LEN];
        key[..8].copy_from_slice(&n.to_be_bytes());
        let identity = WEB.parse().unwrap();
        seen.chains.lock().unwrap().insert(
            key,
            Chain {
                identity,
                valid: (0, 0),
            },
        );
    }
    assert!(
        seen.verify(&chain[0], &chain[1..], Side::Client, UnixTime::now())
            .is_ok()
    );
    assert!(count(&seen) <= SEEN_MAX);
}
