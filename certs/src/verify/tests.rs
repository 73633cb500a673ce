//! Hostile chains, each a good one with one thing changed. Each is refused as a server's and as a client's.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::{CertificateError, Error};

use super::*;
use crate::testing::{Forged, Forger, Mesh, connect, good_leaf, uri};

const WEB: &str = "spiffe://a/ns/shop/sa/web";

fn now() -> UnixTime {
    UnixTime::now()
}

fn check(forger: &Forger, chain: &[CertificateDer<'_>]) -> Result<Identity, VerifyError> {
    let bundles = forger.bundles("a");
    let server = verify(chain, &bundles, Side::Server, now());
    let client = verify(chain, &bundles, Side::Client, now());
    assert_eq!(server.as_ref().ok(), client.as_ref().ok(), "both sides verify alike");
    server
}

#[track_caller]
fn refused(change: impl FnOnce(&mut CertificateParams)) -> VerifyError {
    let forger = Forger::new();
    assert!(
        check(&forger, &forger.leaf(&good_leaf(WEB)).chain).is_ok(),
        "unchanged, it verifies"
    );
    let mut params = good_leaf(WEB);
    change(&mut params);
    let forged = forger.leaf(&params);
    refused_in_handshakes(&forger, &forged);
    check(&forger, &forged.chain).unwrap_err()
}

/// A mesh whose bundle is the forger's root: its members must refuse the leaf in either role.
#[track_caller]
fn refused_in_handshakes(forger: &Forger, forged: &Forged) {
    let mesh = Mesh::new("a");
    let victim = mesh.credential_with("reviews", forger.bundles("a"));
    for result in [
        connect(forged.client(), victim.server_config(&[])),
        connect(victim.client_config(&[]), forged.server()),
    ] {
        let error = result.err().expect("the handshake must fail");
        assert!(matches!(error, Error::InvalidCertificate(_)), "{error:?}");
    }
}

#[test]
fn a_good_chain_proves_its_identity() {
    let forger = Forger::new();
    let chain = forger.leaf(&good_leaf(WEB)).chain;
    assert_eq!(check(&forger, &chain).unwrap(), WEB.parse().unwrap());
    assert_eq!(peer_identity(&chain).unwrap(), WEB.parse().unwrap());
    assert!(peer_not_after(&chain).unwrap() > SystemTime::now());
}

#[test]
fn no_certificate_is_no_identity() {
    assert_eq!(
        verify(&[], &Forger::new().bundles("a"), Side::Client, now()),
        Err(VerifyError::Missing)
    );
    assert_eq!(peer_identity(&[]), Err(VerifyError::Missing));
}

#[test]
fn two_uri_names_are_refused() {
    let error = refused(|params| params.subject_alt_names.push(uri("spiffe://a/ns/shop/sa/admin")));
    assert_eq!(error, VerifyError::Names(2));
    let error = refused(|params| params.subject_alt_names.insert(0, uri("https://example.com/")));
    assert_eq!(error, VerifyError::Names(2));
    let error = refused(|params| params.subject_alt_names.push(uri(WEB)));
    assert_eq!(error, VerifyError::Names(2), "the same name twice");
}

#[test]
fn a_uri_name_that_cannot_be_read_counts_too() {
    // webpki leaves a name out that is not UTF-8, and would see one name here.
    let error = refused(|params| {
        params.subject_alt_names.clear();
        let mut names = vec![0x30, 0x00];
        for name in [WEB.as_bytes(), b"\xff\xfe"] {
            names.extend([0x86, u8::try_from(name.len()).unwrap()]);
            names.extend(name);
        }
        names[1] = u8::try_from(names.len() - 2).unwrap();
        params
            .custom_extensions
            .push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
    });
    assert_eq!(error, VerifyError::Leaf("has unreadable names"));
}

#[test]
fn no_uri_name_is_refused_and_other_names_mean_nothing() {
    assert_eq!(
        refused(|params| params.subject_alt_names.clear()),
        VerifyError::Names(0)
    );
    let error = refused(|params| {
        params.subject_alt_names = vec![SanType::DnsName("web.shop.svc.a".try_into().unwrap())];
        params.distinguished_name.push(rcgen::DnType::CommonName, WEB);
    });
    assert_eq!(error, VerifyError::Names(0));
    // Beside the one identity, a DNS name neither helps nor hurts.
    let forger = Forger::new();
    let mut params = good_leaf(WEB);
    params
        .subject_alt_names
        .push(SanType::DnsName("reviews.shop.svc.a".try_into().unwrap()));
    assert_eq!(
        check(&forger, &forger.leaf(&params).chain).unwrap(),
        WEB.parse().unwrap()
    );
}

#[test]
fn names_that_are_nearly_identities_are_refused() {
    let names = [
        "spiffe://a/ns/shop/sa/",
        "spiffe://a/ns//sa/web",
        "spiffe://a/ns/shop/sa/web/",
        "spiffe://a/ns/shop/sa/web?x",
        "spiffe://a/ns/shop/sa/web#x",
        "spiffe://a/ns/shop/sa/we%62",
        "spiffe://a/ns/../sa/web",
        "spiffe://a/ns/shop/sa/web\0.evil",
        "spiffe://a:443/ns/shop/sa/web",
        "spiffe://user@a/ns/shop/sa/web",
        "spiffe://A/ns/shop/sa/web",
        "SPIFFE://a/ns/shop/sa/web",
        "https://a/ns/shop/sa/web",
        "spiffe://a",
        "spiffe://a/",
        "spiffe:///ns/shop/sa/web",
        " spiffe://a/ns/shop/sa/web",
        "spiffe://a/ns/shop/sa/web ",
        "spiffe://a/ns/shop/sa/web/ns/shop/sa/admin",
    ];
    for name in names {
        let error = refused(|params| params.subject_alt_names = vec![uri(name)]);
        assert!(matches!(error, VerifyError::Identity(_)), "{name:?}: {error:?}");
    }
}

#[test]
fn a_ca_is_no_leaf() {
    let error = refused(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_eq!(error, VerifyError::Leaf("is a CA's"));
    let error = refused(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_eq!(error, VerifyError::Leaf("may sign certificates"));
}

#[test]
fn a_leaf_must_be_for_both_sides() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    for usages in [vec![], vec![ClientAuth], vec![ServerAuth], vec![CodeSigning], vec![Any]] {
        let error = refused(|params| params.extended_key_usages = usages);
        assert_eq!(error, VerifyError::Leaf("is not for both servers and clients"));
    }
}

#[test]
fn a_leaf_must_be_for_signatures() {
    assert_eq!(
        refused(|params| params.key_usages.clear()),
        VerifyError::Leaf("has no key usages")
    );
    let error = refused(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(error, VerifyError::Leaf("may not sign handshakes"));
}

#[test]
fn a_leaf_counts_only_in_its_time() {
    let ended = refused(|params| params.not_after = time::OffsetDateTime::now_utc() - Duration::from_secs(5));
    assert!(
        matches!(ended, VerifyError::Chain(_, webpki::Error::CertExpired { .. })),
        "{ended:?}"
    );
    let early = refused(|params| params.not_before = time::OffsetDateTime::now_utc() + Duration::from_secs(600));
    assert!(
        matches!(early, VerifyError::Chain(_, webpki::Error::CertNotValidYet { .. })),
        "{early:?}"
    );
    assert!(
        matches!(certificate_error(ended), CertificateError::ExpiredContext { .. }),
        "the peer learns why"
    );
}

#[test]
fn a_chain_of_another_root_is_refused() {
    let (ours, theirs) = (Forger::new(), Forger::new());
    // The same subject as our root, and another key.
    let forged = theirs.leaf(&good_leaf(WEB));
    assert!(matches!(check(&ours, &forged.chain), Err(VerifyError::Chain(..))));
    refused_in_handshakes(&ours, &forged);
    let selfmade = {
        let (params, key) = (good_leaf(WEB), KeyPair::generate().unwrap());
        vec![params.self_signed(&key).unwrap().der().clone()]
    };
    assert!(matches!(check(&ours, &selfmade), Err(VerifyError::Chain(..))));
}

#[test]
fn the_bundle_is_that_of_the_leafs_own_trust_domain() {
    let (ours, theirs) = (Forger::new(), Forger::new());
    let bundles = TrustBundles::new([ours.bundle("a"), theirs.bundle("b")]).unwrap();
    let check = |forger: &Forger, name| verify(&forger.leaf(&good_leaf(name)).chain, &bundles, Side::Client, now());
    assert!(check(&ours, WEB).is_ok());
    assert!(check(&theirs, "spiffe://b/ns/shop/sa/web").is_ok());
    assert!(
        matches!(check(&theirs, WEB), Err(VerifyError::Chain(..))),
        "their root, our name"
    );
    assert!(
        matches!(check(&ours, "spiffe://b/ns/shop/sa/web"), Err(VerifyError::Chain(..))),
        "our root, their name"
    );
    let unknown = check(&ours, "spiffe://c/ns/shop/sa/web");
    assert_eq!(
        unknown,
        Err(VerifyError::UnknownTrustDomain(TrustDomain::new("c").unwrap()))
    );
}

#[test]
fn intermediates_are_followed_up_to_the_limit() {
    let forger = Forger::new();
    for intermediates in 0..CHAIN_MAX {
        let forged = forger.deep_leaf(&good_leaf(WEB), intermediates, 0);
        assert!(check(&forger, &forged.chain).is_ok(), "{intermediates}");
    }
    let forged = forger.deep_leaf(&good_leaf(WEB), CHAIN_MAX, 0);
    assert!(matches!(
        check(&forger, &forged.chain),
        Err(VerifyError::TooLarge { certificates: 5, .. })
    ));
    refused_in_handshakes(&forger, &forged);
}

#[test]
fn large_chains_are_not_looked_at() {
    let forger = Forger::new();
    let forged = forger.deep_leaf(&good_leaf(WEB), 2, CHAIN_BYTES_MAX / 2);
    assert!(matches!(
        check(&forger, &forged.chain),
        Err(VerifyError::TooLarge { certificates: 3, .. })
    ));
    refused_in_handshakes(&forger, &forged);
}

#[test]
fn a_leaf_cannot_issue_another_leaf() {
    let forger = Forger::new();
    let key = KeyPair::generate().unwrap();
    let params = good_leaf("spiffe://a/ns/shop/sa/mallory");
    let mallory = forger.leaf_of(
        &params,
        KeyPair::from_pkcs8_der_and_sign_algo(&key.serialize_der().into(), &rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
    );
    let victim_key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let forged = good_leaf(WEB).signed_by(&victim_key, &issuer).unwrap().der().clone();
    let chain = [forged, mallory.chain[0].clone()];
    assert!(matches!(check(&forger, &chain), Err(VerifyError::Chain(..))));
}

#[test]
fn a_key_of_another_type_is_refused() {
    let forger = Forger::new();
    let forged = forger.leaf_of(&good_leaf(WEB), KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap());
    refused_in_handshakes_by_anyone(&forger, &forged);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let other = forger.leaf_of(&good_leaf(WEB), KeyPair::generate_for(algorithm).unwrap());
        let victim = Mesh::new("a").credential_with("reviews", forger.bundles("a"));
        assert!(
            connect(other.client(), victim.server_config(&[])).is_ok(),
            "{algorithm:?}"
        );
    }
}

/// The chain is fine; the handshake's signature is what is not spoken here.
fn refused_in_handshakes_by_anyone(forger: &Forger, forged: &Forged) {
    let victim = Mesh::new("a").credential_with("reviews", forger.bundles("a"));
    assert!(connect(forged.client(), victim.server_config(&[])).is_err());
    assert!(connect(victim.client_config(&[]), forged.server()).is_err());
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let forger = Forger::new();
    let good = forger.leaf(&good_leaf(WEB)).chain.remove(0);
    for cut in 0..good.len() {
        assert!(check(&forger, &[good[..cut].to_vec().into()]).is_err(), "cut at {cut}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(check(&forger, &[longer.into()]).is_err());
    for at in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 0x55;
        assert!(check(&forger, &[flipped.into()]).is_err(), "flipped at {at}");
    }
}
