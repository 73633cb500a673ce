//! A root that vouches for whatever it is asked to, and the certificates that come of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;

/// The root of a trust domain, as it says.
pub struct Root {
    /// The trust domain.
    pub trust_domain: String,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf says.
#[derive(Clone, Debug)]
pub struct Leaf {
    names: Vec<String>,
    valid: (SystemTime, SystemTime),
}

/// A certificate, and the key that belongs to it.
#[derive(Debug)]
pub struct Shown {
    /// The leaf alone: it is the root's own.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: PrivateKeyDer<'static>,
}

impl Leaf {
    /// One that is valid now, with these URI names.
    #[must_use]
    pub fn of(names: &[&str]) -> Self {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            valid: (now - hour, now + hour),
        }
    }

    /// The same, valid from so long after now, or before, until an hour later.
    #[must_use]
    pub fn valid_from(self, hours: i32) -> Self {
        let (now, apart) = (SystemTime::now(), Duration::from_secs(3600) * hours.unsigned_abs());
        let from = if hours < 0 { now - apart } else { now + apart };
        Self {
            valid: (from, from + Duration::from_secs(3600)),
            ..self
        }
    }
}

impl Root {
    /// A new one.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(&[&format!("spiffe://{trust_domain}")]);
        params.distinguished_name.push(DnType::CommonName, trust_domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("a root");
        Self {
            trust_domain: trust_domain.to_owned(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// The identity of its control plane.
    #[must_use]
    pub fn control(&self) -> String {
        format!("spiffe://{}/ns/weft-system/sa/weft-control", self.trust_domain)
    }

    /// The root, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The root, DER.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }

    /// A leaf that says what it is asked to.
    #[must_use]
    pub fn leaf(&self, leaf: &Leaf) -> Shown {
        let (key, params) = (KeyPair::generate().expect("a key"), of(leaf));
        let signed = params.signed_by(&key, &self.issuer).expect("a leaf");
        Shown::new(signed.der().clone(), &key)
    }
}

impl Shown {
    fn new(leaf: CertificateDer<'static>, key: &KeyPair) -> Self {
        Self {
            chain: vec![leaf],
            key: PrivateKeyDer::try_from(key.serialize_der()).expect("its key"),
        }
    }

    /// A leaf that vouches for itself.
    #[must_use]
    pub fn by_itself(leaf: &Leaf) -> Self {
        let key = KeyPair::generate().expect("a key");
        let signed = of(leaf).self_signed(&key).expect("a leaf");
        Self::new(signed.der().clone(), &key)
    }

    /// A server that shows it, and takes every client.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.expect("the key is the leaf's");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

fn named(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = |name: &&str| SanType::URI((*name).try_into().expect("an URI"));
    params.subject_alt_names = names.iter().map(uri).collect();
    params
}

fn of(leaf: &Leaf) -> CertificateParams {
    let names: Vec<&str> = leaf.names.iter().map(String::as_str).collect();
    let mut params = named(&names);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (leaf.valid.0.into(), leaf.valid.1.into());
    params
}
