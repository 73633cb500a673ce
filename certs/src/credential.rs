//! A credential: leaf, key and trust bundles, and the TLS configurations made of them.
//!
//! TLS 1.3 only, X25519MLKEM768 first, AES-128-GCM first, and nothing of a connection outlives it: no tickets, no stored
//! sessions, no early data. A resumed session would skip the peer's certificate, and so outlive a removed root.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_model::identity::Identity;

use crate::bundle::TrustBundles;
use crate::key::{Key, KeyError};
use crate::seen::Seen;
use crate::verify::{self, Side, Verifier, VerifyError};

/// A leaf, its key, and whom to trust: immutable. Renewal and new bundles make a new one with a higher generation.
pub struct Credential {
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    certified: Arc<SingleCertAndKey>,
    seen: Arc<Seen>,
    generation: u64,
    not_before: SystemTime,
    not_after: SystemTime,
    /// Made once per list of ALPN tokens. Locked for a look-up per handshake; no request comes near it.
    servers: Kept<(Clients, Vec<Vec<u8>>), ServerConfig>,
    clients: Kept<Vec<Vec<u8>>, ClientConfig>,
}

/// Configurations that were made, by what they were made for.
type Kept<K, C> = Mutex<Vec<(K, Arc<C>)>>;

/// Whether clients must show a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    Must,
    May,
    /// They are not asked for one.
    Unasked,
}

/// The most configurations that are kept. There is a handful of ALPN lists; what is beyond is made
/// anew.
const CONFIGS_MAX: usize = 16;

/// Why leaf, key and bundles are no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The leaf is none of the mesh.
    #[error("the certificate is not one of a workload")]
    Leaf(#[source] VerifyError),
    /// The key is not the leaf's.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// The key cannot be used.
    #[error("the key cannot be used")]
    Key(#[source] KeyError),
    /// rustls does not take the key.
    #[error("the key cannot be used for TLS")]
    Tls(#[source] rustls::Error),
}

impl Credential {
    /// Puts a credential together: the chain with the leaf first and without the root. The key must be the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Key,
        bundles: Arc<TrustBundles>,
        generation: u64,
    ) -> Result<Self, CredentialError> {
        let leaf = chain.first().ok_or(CredentialError::Leaf(VerifyError::Missing))?;
        let leaf = verify::read_leaf(leaf).map_err(CredentialError::Leaf)?;
        if leaf.spki != key.public().spki() {
            return Err(CredentialError::OtherKey);
        }
        let signing = aws_lc_rs::sign::any_ecdsa_type(&key.to_rustls()).map_err(CredentialError::Tls)?;
        let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain.clone(), signing)));
        Ok(Self {
            identity: leaf.identity,
            chain,
            key,
            certified,
            seen: Arc::new(Seen::new(bundles)),
            generation,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            servers: Mutex::default(),
            clients: Mutex::default(),
        })
    }

    /// The same leaf and key with other bundles.
    pub fn with_bundles(&self, bundles: Arc<TrustBundles>, generation: u64) -> Self {
        Self {
            identity: self.identity.clone(),
            chain: self.chain.clone(),
            key: self.key.clone(),
            certified: self.certified.clone(),
            seen: Arc::new(Seen::new(bundles)),
            generation,
            not_before: self.not_before,
            not_after: self.not_after,
            servers: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// Whether a peer with the same bundles would accept this credential now.
    pub fn verify(&self, now: SystemTime) -> Result<(), VerifyError> {
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        verify::verify(&self.chain, self.bundles(), Side::Server, now).map(|_| ())
    }

    /// Who this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's key. Secret.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whom this trusts.
    pub fn bundles(&self) -> &Arc<TrustBundles> {
        self.seen.bundles()
    }

    /// The identity in the chain of a connection whose handshake one of this credential's configurations has completed:
    /// [`verify::peer_identity`], without reading what was read for the handshake.
    pub fn peer_identity(&self, chain: &[CertificateDer<'_>], side: Side) -> Result<Identity, VerifyError> {
        self.seen.peer_identity(chain, side)
    }

    /// Whether the bundles vouch for the chain of a connection that exists already. That its leaf has ended since does not
    /// matter: whom it belonged to was proved while it was valid.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>], side: Side) -> bool {
        self.seen.vouches_for(chain, side, UnixTime::now())
    }

    /// Which renewal this is: pools are keyed by it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// From when the leaf is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the leaf is valid, by the wall clock.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// For serving peers that must show a certificate. Whom to admit is for the caller: [`verify::peer_identity`].
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        self.server(Clients::Must, alpn)
    }

    /// For serving callers that may show no certificate at all, as those who want their first one. One that they do show
    /// must verify.
    pub fn server_config_optional(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        self.server(Clients::May, alpn)
    }

    /// For serving anybody: no certificate is asked for.
    pub fn server_config_open(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        self.server(Clients::Unasked, alpn)
    }

    /// For dialling peers: any identity of a trusted domain passes, so the caller checks it before it sends a byte
    /// ([`Self::peer_identity`]).
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        kept(&self.clients, owned(alpn), || {
            self.client(Verifier::any(self.seen.clone()), alpn)
        })
    }

    /// For dialling exactly one identity: any other fails the handshake, before our own certificate is shown. Not kept:
    /// made per call, which costs little beside a handshake.
    pub fn client_config_expecting(&self, expected: &Identity, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        Arc::new(self.client(Verifier::only(self.seen.clone(), expected.clone()), alpn))
    }

    fn server(&self, clients: Clients, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        kept(&self.servers, (clients, owned(alpn)), || {
            let builder = ServerConfig::builder_with_provider(PROVIDER.clone())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has suites of TLS 1.3");
            let verified = |verifier| builder.clone().with_client_cert_verifier(Arc::new(verifier));
            let builder = match clients {
                Clients::Must => verified(Verifier::any(self.seen.clone())),
                Clients::May => verified(Verifier::optional(self.seen.clone())),
                Clients::Unasked => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(self.certified.clone());
            config.alpn_protocols = owned(alpn);
            // The default keeps sessions and gives tickets, and a resumed session never shows its certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config.max_early_data_size = 0;
            // The proxy seals and opens records itself.
            config.enable_secret_extraction = true;
            config
        })
    }

    fn client(&self, verifier: Verifier, alpn: &[&[u8]]) -> ClientConfig {
        let mut config = client_builder(verifier).with_client_cert_resolver(self.certified.clone());
        finish_client(&mut config, alpn);
        config
    }
}

fn kept<K: PartialEq, C>(configs: &Kept<K, C>, key: K, make: impl FnOnce() -> C) -> Arc<C> {
    let mut configs = configs.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, config)) = configs.iter().find(|(other, _)| *other == key) {
        return config.clone();
    }
    let config = Arc::new(make());
    if configs.len() < CONFIGS_MAX {
        configs.push((key, config.clone()));
    }
    config
}

/// For fetching the first certificate: shows none, and accepts exactly the control plane's identity.
pub fn bootstrap_client_config(bundles: Arc<TrustBundles>, expected: &Identity, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config =
        client_builder(Verifier::only(Arc::new(Seen::new(bundles)), expected.clone())).with_no_client_auth();
    finish_client(&mut config, alpn);
    Arc::new(config)
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client_builder(verifier: Verifier) -> ClientBuilder {
    ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
}

fn finish_client(config: &mut ClientConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = owned(alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_secret_extraction = true;
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|token| token.to_vec()).collect()
}

/// Named explicitly everywhere: a process-wide default could come from any crate in the tree.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
    Arc::new(CryptoProvider {
        // AES-128 first: a fifth cheaper per byte than AES-256, and its key is not what an attacker would go for.
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        signature_verification_algorithms: verify::ALGORITHMS,
        ..aws_lc_rs::default_provider()
    })
});

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("identity", &self.identity)
            .field("generation", &self.generation)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
