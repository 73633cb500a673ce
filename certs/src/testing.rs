//! For this crate's tests: meshes, hostile certificates, and handshakes in memory.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, ResolvesClientCert, Resumption};
use rustls::crypto::{aws_lc_rs, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::OffsetDateTime;
use weft_model::identity::{Identity, TrustDomain};

use crate::authority::Authority;
use crate::bundle::{Bundle, TrustBundles};
use crate::credential::Credential;
use crate::key::Key;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// One trust domain with its authority.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::new(trust_domain).unwrap();
        Self {
            authority: Authority::create(trust_domain, SystemTime::now()).unwrap(),
        }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        self.authority.bundle(1)
    }

    pub(crate) fn bundles(&self) -> Arc<TrustBundles> {
        Arc::new(TrustBundles::new([self.bundle()]).unwrap())
    }

    pub(crate) fn identity(&self, service_account: &str) -> Identity {
        Identity::new(self.authority.trust_domain().clone(), "shop", service_account).unwrap()
    }

    pub(crate) fn credential(&self, service_account: &str) -> Credential {
        self.credential_with(service_account, self.bundles())
    }

    pub(crate) fn credential_with(&self, service_account: &str, bundles: Arc<TrustBundles>) -> Credential {
        self.credential_at(service_account, bundles, DAY, SystemTime::now())
    }

    pub(crate) fn credential_at(
        &self,
        service_account: &str,
        bundles: Arc<TrustBundles>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Credential {
        let key = Key::generate().unwrap();
        let leaf = self
            .authority
            .issue(key.public(), &self.identity(service_account), lifetime, now)
            .unwrap();
        Credential::new(leaf.chain, key, bundles, 1).unwrap()
    }
}

/// A root that signs whatever it is told to.
pub(crate) struct Forger {
    pub(crate) root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain and its key, as an attacker has them.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A leaf as the authority makes them: the tests change one thing of it.
pub(crate) fn good_leaf(identity: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(identity)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = OffsetDateTime::from(SystemTime::now() - Duration::from_secs(60));
    params.not_after = OffsetDateTime::from(SystemTime::now() + DAY);
    params
}

pub(crate) fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Forger {
    pub(crate) fn new() -> Self {
        let (params, key) = (ca("forger"), KeyPair::generate().unwrap());
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            root,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn bundle(&self, trust_domain: &str) -> Bundle {
        Bundle::new(TrustDomain::new(trust_domain).unwrap(), [self.root.clone()], 1).unwrap()
    }

    pub(crate) fn bundles(&self, trust_domain: &str) -> Arc<TrustBundles> {
        Arc::new(TrustBundles::new([self.bundle(trust_domain)]).unwrap())
    }

    pub(crate) fn leaf(&self, params: &CertificateParams) -> Forged {
        self.leaf_of(params, KeyPair::generate().unwrap())
    }

    pub(crate) fn leaf_of(&self, params: &CertificateParams, key: KeyPair) -> Forged {
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Forged {
            chain: vec![leaf],
            key: key.serialize_der().into(),
        }
    }

    /// A leaf below so many intermediates, each longer by `padding` bytes.
    pub(crate) fn deep_leaf(&self, params: &CertificateParams, intermediates: usize, padding: usize) -> Forged {
        let mut chain = Vec::new();
        let mut issuer: Option<Issuer<'static, KeyPair>> = None;
        for level in 0..intermediates {
            let key = KeyPair::generate().unwrap();
            let mut params = ca(&format!("intermediate {level}"));
            if padding > 0 {
                params.subject_alt_names = vec![uri(&format!("urn:{}", "x".repeat(padding)))];
            }
            let signed = params.signed_by(&key, issuer.as_ref().unwrap_or(&self.issuer)).unwrap();
            chain.insert(0, signed.der().clone());
            issuer = Some(Issuer::new(params, key));
        }
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, issuer.as_ref().unwrap_or(&self.issuer)).unwrap();
        chain.insert(0, leaf.der().clone());
        Forged {
            chain,
            key: key.serialize_der().into(),
        }
    }
}

impl Forged {
    fn certified(&self) -> Arc<CertifiedKey> {
        let key = aws_lc_rs::sign::any_supported_type(&self.key.clone_key().into()).unwrap();
        Arc::new(CertifiedKey::new(self.chain.clone(), key))
    }

    /// A client that shows this chain and takes any server.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        stranger(Arc::new(Shows(Some(self.certified()))), None)
    }

    /// A server that shows this chain and takes any client.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(Some(self.certified()))));
        Arc::new(config)
    }
}

/// Shows one chain, or none, whatever is asked.
#[derive(Debug)]
pub(crate) struct Shows(pub(crate) Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// A client of rustls' defaults, which takes any server.
pub(crate) fn stranger(
    shows: Arc<dyn ResolvesClientCert>,
    sessions: Option<Arc<ClientSessionMemoryCache>>,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAnyone))
        .with_client_cert_resolver(shows);
    if let Some(sessions) = sessions {
        config.resumption = Resumption::store(sessions);
    }
    Arc::new(config)
}

#[derive(Debug)]
struct TakesAnyone;

impl ServerCertVerifier for TakesAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &aws_lc_rs::default_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

pub(crate) struct Connected {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
}

/// A handshake in memory, and a byte each way after it. The error is that of the side that refused.
pub(crate) fn connect(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<Connected, Error> {
    let name = ServerName::try_from("p8080.00000000000000ff.reviews.shop.svc.a").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    client.writer().write_all(b"?").unwrap();
    server.writer().write_all(b"!").unwrap();
    // Each turn moves what is there; a handshake takes three.
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let mut byte = [0];
    server.reader().read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"?");
    client.reader().read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
    Ok(Connected { client, server })
}
