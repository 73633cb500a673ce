//! Handshakes in memory between this crate's configurations, and against strangers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{ClientSessionMemoryCache, ResolvesClientCert};
use rustls::{Error, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme};

use super::*;
use crate::bundle::TrustBundles;
use crate::testing::{Connected, DAY, Forger, Mesh, Shows, connect, good_leaf, stranger};
use crate::verify::{Side, is_certificate_error, peer_identity};

const ALPN: &[&[u8]] = &[weft_model::alpn::H1];

fn refused(result: Result<Connected, Error>) -> Error {
    let error = result.err().expect("the handshake must fail");
    assert!(is_certificate_error(&error), "{error:?}");
    error
}

#[test]
fn both_sides_see_who_the_other_is() {
    let mesh = Mesh::new("a");
    let (web, reviews) = (mesh.credential("web"), mesh.credential("reviews"));
    let connected = connect(web.client_config(ALPN), reviews.server_config(ALPN)).unwrap();
    let (client, server) = (connected.client, connected.server);
    assert_eq!(
        peer_identity(client.peer_certificates().unwrap()).unwrap(),
        mesh.identity("reviews")
    );
    assert_eq!(
        peer_identity(server.peer_certificates().unwrap()).unwrap(),
        mesh.identity("web")
    );
    let shown = client.peer_certificates().unwrap();
    assert_eq!(
        web.peer_identity(shown, Side::Server).unwrap(),
        mesh.identity("reviews")
    );
    assert_eq!(server.alpn_protocol(), Some(weft_model::alpn::H1));
}

#[test]
fn connections_are_tls_1_3_with_a_post_quantum_exchange_and_aes_128() {
    let mesh = Mesh::new("a");
    let (web, reviews) = (mesh.credential("web"), mesh.credential("reviews"));
    let connected = connect(web.client_config(ALPN), reviews.server_config(ALPN)).unwrap();
    assert_eq!(connected.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(
        connected.client.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519MLKEM768
    );
    let suite = connected.server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(
        connected.client.handshake_kind(),
        Some(HandshakeKind::Full),
        "no second round trip for the group"
    );
}

#[test]
fn every_trust_domain_makes_a_server_name_that_can_be_dialled() {
    use rustls_pki_types::ServerName;
    use weft_model::endpoint::{EndpointId, EndpointKey};
    let longest = format!("{}.{}", "x".repeat(63), "y".repeat(26));
    let key = EndpointKey {
        id: EndpointId(u64::MAX),
        port: u16::MAX,
    };
    let label = "s".repeat(63);
    for name in ["a", "a_b", "1.a", "0123456789ab.weft.internal", &longest] {
        let trust_domain = weft_model::identity::TrustDomain::new(name).unwrap();
        let sni = weft_model::sni::of_service(key, &label, &label, trust_domain.as_str());
        assert!(ServerName::try_from(sni).is_ok(), "{name}");
    }
}

#[test]
fn no_common_alpn_token_fails_and_never_falls_back() {
    let mesh = Mesh::new("a");
    let (web, reviews) = (mesh.credential("web"), mesh.credential("reviews"));
    let result = connect(web.client_config(&[b"weft-h9/1"]), reviews.server_config(ALPN));
    assert_eq!(result.err().unwrap(), Error::NoApplicationProtocol);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new("a");
    let bare = bootstrap_client_config(mesh.bundles(), &mesh.identity("reviews"), ALPN);
    let result = connect(bare, mesh.credential("reviews").server_config(ALPN));
    assert_eq!(result.err().unwrap(), Error::NoCertificatesPresented);
}

#[test]
fn where_certificates_are_optional_none_is_fine_and_a_bad_one_is_not() {
    let mesh = Mesh::new("a");
    let control = mesh.credential("weft-control");
    let server = control.server_config_optional(ALPN);
    let bare = bootstrap_client_config(mesh.bundles(), control.identity(), ALPN);
    let connected = connect(bare, server.clone()).unwrap();
    assert!(connected.server.peer_certificates().is_none());
    let connected = connect(mesh.credential("web").client_config(ALPN), server.clone()).unwrap();
    assert_eq!(
        peer_identity(connected.server.peer_certificates().unwrap()).unwrap(),
        mesh.identity("web")
    );
    let forged = Forger::new().leaf(&good_leaf("spiffe://a/ns/shop/sa/web"));
    refused(connect(forged.client(), server));
}

#[test]
fn the_first_certificate_is_asked_for_from_the_control_plane_alone() {
    let mesh = Mesh::new("a");
    let control = mesh.identity("weft-control");
    let client = || bootstrap_client_config(mesh.bundles(), &control, ALPN);
    assert!(connect(client(), mesh.credential("weft-control").server_config_optional(ALPN)).is_ok());
    let error = refused(connect(client(), mesh.credential("web").server_config_optional(ALPN)));
    assert!(
        format!("{error:?}").contains("Unexpected"),
        "a workload's certificate gets no token: {error:?}"
    );
    refused(connect(
        client(),
        Mesh::new("a").credential("weft-control").server_config_optional(ALPN),
    ));
}

#[test]
fn another_identity_than_the_expected_one_is_refused() {
    let mesh = Mesh::new("a");
    let (web, reviews) = (mesh.credential("web"), mesh.credential("reviews"));
    let config = web.client_config_expecting(&mesh.identity("reviews"), ALPN);
    assert!(connect(config, reviews.server_config(ALPN)).is_ok());
    let config = web.client_config_expecting(&mesh.identity("ratings"), ALPN);
    refused(connect(config, reviews.server_config(ALPN)));
}

#[test]
fn a_foreign_trust_domain_is_verified_against_its_own_bundle() {
    let (a, b) = (Mesh::new("a"), Mesh::new("b"));
    let both = Arc::new(TrustBundles::new([a.bundle(), b.bundle()]).unwrap());
    let (web, reviews) = (
        a.credential_with("web", both.clone()),
        b.credential_with("reviews", both),
    );
    let connected = connect(web.client_config(ALPN), reviews.server_config(ALPN)).unwrap();
    assert_eq!(
        peer_identity(connected.server.peer_certificates().unwrap()).unwrap(),
        a.identity("web")
    );
}

#[test]
fn an_unknown_trust_domain_is_refused_by_both_sides() {
    let (a, b) = (Mesh::new("a"), Mesh::new("b"));
    let both = Arc::new(TrustBundles::new([a.bundle(), b.bundle()]).unwrap());
    let knows_both = b.credential_with("reviews", both);
    let knows_a = a.credential("web");
    refused(connect(knows_a.client_config(ALPN), knows_both.server_config(ALPN)));
    refused(connect(knows_both.client_config(ALPN), knows_a.server_config(ALPN)));
}

#[test]
fn a_root_vouches_for_no_other_trust_domain() {
    let (mesh, forger) = (Mesh::new("a"), Forger::new());
    let both = Arc::new(TrustBundles::new([mesh.bundle(), forger.bundle("b")]).unwrap());
    let victim = mesh.credential_with("web", both);
    let honest = forger.leaf(&good_leaf("spiffe://b/ns/shop/sa/web"));
    assert!(connect(honest.client(), victim.server_config(&[])).is_ok());
    assert!(connect(victim.client_config(&[]), honest.server()).is_ok());
    let forged = forger.leaf(&good_leaf("spiffe://a/ns/shop/sa/web"));
    refused(connect(forged.client(), victim.server_config(&[])));
    refused(connect(victim.client_config(&[]), forged.server()));
}

#[test]
fn a_leaf_that_has_ended_is_refused_by_both_sides() {
    let mesh = Mesh::new("a");
    let yesterday = SystemTime::now() - DAY - DAY;
    let ended = mesh.credential_at("web", mesh.bundles(), DAY, yesterday);
    let reviews = mesh.credential("reviews");
    refused(connect(ended.client_config(ALPN), reviews.server_config(ALPN)));
    refused(connect(reviews.client_config(ALPN), ended.server_config(ALPN)));
}

#[test]
fn a_removed_root_is_refused_from_the_next_handshake_on() {
    let (old, new) = (Mesh::new("a"), Mesh::new("a"));
    let reviews = old.credential("reviews");
    let web = old.credential("web");
    assert!(connect(web.client_config(ALPN), reviews.server_config(ALPN)).is_ok());
    let rotated = reviews.with_bundles(new.bundles(), 2);
    refused(connect(web.client_config(ALPN), rotated.server_config(ALPN)));
    assert_eq!((rotated.generation(), rotated.identity()), (2, reviews.identity()));
}

#[test]
fn configurations_are_made_once_per_token_list() {
    let mesh = Mesh::new("a");
    let web = mesh.credential("web");
    assert!(Arc::ptr_eq(&web.client_config(ALPN), &web.client_config(ALPN)));
    assert!(Arc::ptr_eq(&web.server_config(ALPN), &web.server_config(ALPN)));
    assert!(!Arc::ptr_eq(&web.client_config(ALPN), &web.client_config(&[])));
    assert!(!Arc::ptr_eq(
        &web.server_config(ALPN),
        &web.server_config_optional(ALPN)
    ));
    for n in 0..100_u8 {
        web.client_config(&[&[n + 1]]);
    }
    assert_eq!(web.clients.lock().unwrap().len(), CONFIGS_MAX);
}

#[test]
fn a_key_that_is_not_the_leafs_makes_no_credential() {
    let mesh = Mesh::new("a");
    let chain = mesh.credential("web").chain().to_vec();
    let result = Credential::new(chain, Key::generate().unwrap(), mesh.bundles(), 1);
    assert!(matches!(result, Err(CredentialError::OtherKey)));
    let result = Credential::new(Vec::new(), Key::generate().unwrap(), mesh.bundles(), 1);
    assert!(matches!(result, Err(CredentialError::Leaf(VerifyError::Missing))));
}

// ---------------------------------------------------------------------------------------------- resumption

/// Shows its certificate as long as it is told to. One resolver for all connections: rustls resumes only with the same.
#[derive(Debug)]
struct Forgetful {
    shows: Shows,
    remembers: AtomicBool,
}

impl ResolvesClientCert for Forgetful {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.remembers
            .load(Ordering::SeqCst)
            .then(|| ResolvesClientCert::resolve(&self.shows, hints, schemes))?
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Resumer {
    certificate: Arc<Forgetful>,
    config: Arc<ClientConfig>,
}

/// A client that keeps all sessions that it is given.
fn resumer(credential: &Credential) -> Resumer {
    let key = aws_lc_rs::sign::any_ecdsa_type(&credential.key().to_rustls()).unwrap();
    let shows = Shows(Some(Arc::new(CertifiedKey::new(credential.chain().to_vec(), key))));
    let certificate = Arc::new(Forgetful {
        shows,
        remembers: AtomicBool::new(true),
    });
    let config = stranger(certificate.clone(), Some(Arc::new(ClientSessionMemoryCache::new(32))));
    Resumer { certificate, config }
}

/// The server's configuration as rustls' defaults would have it: what `server_config` must not be.
fn resuming_server(credential: &Credential) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&credential.server_config(&[]));
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(32);
    config.send_tls13_tickets = 2;
    Arc::new(config)
}

#[test]
fn rustls_defaults_would_resume_without_a_certificate() {
    // The danger is real: without this, the tests below could pass because the client never resumes anything.
    let mesh = Mesh::new("a");
    let (server, client) = (
        resuming_server(&mesh.credential("reviews")),
        resumer(&mesh.credential("web")),
    );
    assert!(connect(client.config.clone(), server.clone()).is_ok());
    client.certificate.remembers.store(false, Ordering::SeqCst);
    let resumed = connect(client.config.clone(), server).unwrap();
    assert_eq!(resumed.server.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn a_resumed_session_without_a_certificate_is_refused() {
    let mesh = Mesh::new("a");
    let (server, client) = (
        mesh.credential("reviews").server_config(&[]),
        resumer(&mesh.credential("web")),
    );
    let first = connect(client.config.clone(), server.clone()).unwrap();
    assert_eq!(first.client.tls13_tickets_received(), 0, "no ticket is ever given");
    client.certificate.remembers.store(false, Ordering::SeqCst);
    let result = connect(client.config.clone(), server);
    assert_eq!(result.err().unwrap(), Error::NoCertificatesPresented);
}

#[test]
fn a_session_that_is_offered_is_ignored() {
    let mesh = Mesh::new("a");
    let (reviews, client) = (mesh.credential("reviews"), resumer(&mesh.credential("web")));
    // Tickets of another server with the same name and certificate, so that the client does offer sessions to ours.
    for remembers in [true, false] {
        client.certificate.remembers.store(true, Ordering::SeqCst);
        let first = connect(client.config.clone(), resuming_server(&reviews)).unwrap();
        assert_eq!(first.client.tls13_tickets_received(), 2);
        client.certificate.remembers.store(remembers, Ordering::SeqCst);
        let second = connect(client.config.clone(), reviews.server_config(&[]));
        if remembers {
            assert_eq!(second.unwrap().server.handshake_kind(), Some(HandshakeKind::Full));
        } else {
            assert_eq!(second.err().unwrap(), Error::NoCertificatesPresented);
        }
    }
}

#[test]
fn our_clients_resume_nothing_either() {
    let mesh = Mesh::new("a");
    let (server, web) = (resuming_server(&mesh.credential("reviews")), mesh.credential("web"));
    for _ in 0..3 {
        let connected = connect(web.client_config(&[]), server.clone()).unwrap();
        assert_eq!(connected.client.handshake_kind(), Some(HandshakeKind::Full));
    }
    assert!(!web.client_config(&[]).enable_early_data);
    assert_eq!(web.server_config(&[]).max_early_data_size, 0);
}
