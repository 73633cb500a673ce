//! The authority of one trust domain: a root (or a supplied issuing certificate) and its key, which issue leaves.
//!
//! A leaf holds the caller's public key and what the authority decides: one URI name, both TLS usages, a random serial.
//! The key lies in a directory that only its owner may enter, written once and never replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use weft_model::identity::{Identity, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::bundle::{Bundle, BundleError, certificates_to_pem, may_issue};
use crate::file::{self, Put};
use crate::key::{Key, KeyError, PublicKey, Wiped};

/// How long a root lives: ten years.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long before its making a certificate is valid, for clocks that are slow.
pub const BACKDATE: Duration = Duration::from_secs(120);
/// The shortest lifetime of a leaf.
pub const LEAF_LIFETIME_MIN: Duration = Duration::from_secs(1);
/// The longest lifetime of a leaf: thirty days.
pub const LEAF_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

const FILE: &str = "authority.pem";
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// From the issuing certificate to the root, the root twice.
const CHAIN_MAX: usize = 5;

/// Issues the leaves of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    /// What goes between leaf and root, leaf's issuer first. Empty where the root itself issues.
    intermediates: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// A leaf and what leads from it to the root.
#[derive(Clone, Debug)]
pub struct IssuedLeaf {
    /// The leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// Why the authority could not be loaded, or did not issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not one of an authority, or not of this trust domain. The file is never replaced by itself: it may
    /// hold the only key of a running mesh.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A supplied issuer that cannot be one.
    #[error("the supplied issuer: {0}")]
    Supplied(String),
    /// The cryptographic library failed.
    #[error("cannot make the certificate")]
    Make(#[source] rcgen::Error),
    /// The random generator failed.
    #[error("no random bytes")]
    Random,
    /// The key cannot be made.
    #[error("cannot make the authority's key")]
    Key(#[source] KeyError),
    /// The identity is of another trust domain.
    #[error("{identity} is not of {trust_domain}, which is all that this authority vouches for")]
    Foreign {
        /// The identity that was asked for.
        identity: Box<Identity>,
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// The lifetime is out of bounds.
    #[error("a leaf's lifetime must be between 1 s and 30 days, and {0:?} is not")]
    Lifetime(Duration),
    /// The issuing certificate itself has ended.
    #[error("the authority's own certificate has ended")]
    Ended,
}

impl Authority {
    /// Makes a new root.
    pub fn create(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let key = Key::generate().map_err(AuthorityError::Key)?;
        let root = self_sign(&trust_domain, &key, now)?;
        Self::assemble(trust_domain, root, Vec::new(), &key).map_err(AuthorityError::Supplied)
    }

    /// Makes a new root and its key, PEM both, to be kept somewhere and then taken with [`Authority::supplied`]. The key is
    /// wiped when dropped.
    pub fn create_pem(
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(String, zeroize::Zeroizing<String>), AuthorityError> {
        let key = Key::generate().map_err(AuthorityError::Key)?;
        let root = self_sign(trust_domain, &key, now)?;
        Ok((certificates_to_pem(&[root]), key.to_pem()))
    }

    /// Loads the authority of a directory, or makes a new one there. The directory becomes 0700, its file is 0600. Where
    /// two processes make one at once, both end with the same.
    pub fn load_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let path = directory.join(FILE);
        let failed = |source| AuthorityError::Io {
            path: path.clone(),
            source,
        };
        file::private_directory(directory).map_err(|source| AuthorityError::Io {
            path: directory.to_owned(),
            source,
        })?;
        if let Some(text) = file::read(&path, FILE_BYTES_MAX).map_err(failed)? {
            return Self::parse(&path, trust_domain, &text);
        }
        let key = Key::generate().map_err(AuthorityError::Key)?;
        let root = self_sign(trust_domain, &key, now)?;
        let text = zeroize::Zeroizing::new(certificates_to_pem(&[root]) + &key.to_pem());
        match file::write(&path, text.as_bytes(), Put::New) {
            Ok(()) => {}
            // Somebody else was faster: theirs is the authority.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        match file::read(&path, FILE_BYTES_MAX).map_err(failed)? {
            Some(text) => Self::parse(&path, trust_domain, &text),
            None => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }

    /// Takes a supplied issuer: PEM certificates from the issuing one to the root, and the issuing one's key (PKCS #8,
    /// ECDSA P-256). The issuing one and the root may be the same, and one that is written twice in a row counts once.
    pub fn supplied(trust_domain: TrustDomain, certificates: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let key = Key::from_pem(key).map_err(|error| AuthorityError::Supplied(error.to_string()))?;
        Self::from_certificates(trust_domain, certificates, &key).map_err(AuthorityError::Supplied)
    }

    /// Issues a leaf for a key and an identity, for so long from now, or until the authority itself ends. The caller has
    /// made sure that the key's holder is the identity.
    pub fn issue(
        &self,
        key: &PublicKey,
        identity: &Identity,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<IssuedLeaf, AuthorityError> {
        if *identity.trust_domain() != self.trust_domain {
            let (identity, trust_domain) = (Box::new(identity.clone()), self.trust_domain.clone());
            return Err(AuthorityError::Foreign { identity, trust_domain });
        }
        if !(LEAF_LIFETIME_MIN..=LEAF_LIFETIME_MAX).contains(&lifetime) {
            return Err(AuthorityError::Lifetime(lifetime));
        }
        if now >= self.not_after {
            return Err(AuthorityError::Ended);
        }
        // Whole seconds, as the certificate will say.
        let not_after = whole_seconds((now + lifetime).min(self.not_after));
        let not_before = whole_seconds(now - BACKDATE);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(&identity.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::from(not_before);
        params.not_after = OffsetDateTime::from(not_after);
        let leaf = params
            .signed_by(&key.info, &self.issuer)
            .map_err(AuthorityError::Make)?;
        let mut chain = Vec::with_capacity(1 + self.intermediates.len());
        chain.push(leaf.der().clone());
        chain.extend(self.intermediates.iter().cloned());
        Ok(IssuedLeaf {
            chain,
            not_before,
            not_after,
        })
    }

    /// Whom it vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root, DER.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// When the issuing certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The bundle of the trust domain with this root alone.
    pub fn bundle(&self, sequence: u64) -> Bundle {
        Bundle::new(self.trust_domain.clone(), [self.root.clone()], sequence).expect("checked when assembled")
    }

    fn parse(path: &Path, trust_domain: &TrustDomain, text: &[u8]) -> Result<Self, AuthorityError> {
        let parsed = Key::from_pem(text)
            .map_err(|error| error.to_string())
            .and_then(|key| Self::from_certificates(trust_domain.clone(), text, &key));
        parsed.map_err(|reason| AuthorityError::File {
            path: path.to_owned(),
            reason: format!("{reason}; restore the file, or remove it to begin a new mesh with a new root"),
        })
    }

    fn from_certificates(trust_domain: TrustDomain, text: &[u8], key: &Key) -> Result<Self, String> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(CHAIN_MAX + 1).collect();
        let mut certificates = certificates.map_err(|_| "the certificates are no PEM text".to_owned())?;
        if certificates.len() > CHAIN_MAX {
            return Err(format!(
                "more than {CHAIN_MAX} certificates: there must be one chain, to one root"
            ));
        }
        certificates.dedup();
        let root = certificates.pop().ok_or("there is no certificate")?;
        if certificates.len() > 2 {
            return Err("more than three certificates between leaf and root".to_owned());
        }
        Self::assemble(trust_domain, root, certificates, key)
    }

    /// Puts an authority together, and checks that its parts belong to each other.
    fn assemble(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        intermediates: Vec<CertificateDer<'static>>,
        key: &Key,
    ) -> Result<Self, String> {
        Bundle::new(trust_domain.clone(), [root.clone()], 0).map_err(|error: BundleError| error.to_string())?;
        let issuing = intermediates.first().unwrap_or(&root);
        let (_, parsed) = X509Certificate::from_der(issuing).map_err(|_| "not an X.509 certificate")?;
        may_issue(&parsed).map_err(|reason| format!("the issuing certificate: {reason}"))?;
        if parsed.public_key().raw != key.public().spki() {
            return Err("the key is not that of the issuing certificate".to_owned());
        }
        let (_, parsed_root) = X509Certificate::from_der(&root).map_err(|_| "the root is not an X.509 certificate")?;
        if let Some(other) = other_trust_domain(&parsed_root, &trust_domain) {
            return Err(format!("the root is that of {other}, not of {trust_domain}"));
        }
        let not_after = OffsetDateTime::from_unix_timestamp(parsed.validity().not_after.timestamp())
            .map_err(|_| "the issuing certificate's end is out of range")?;
        let pair = take_pair(key)?;
        let issuer = Issuer::from_ca_cert_der(issuing, pair).map_err(|error| error.to_string())?;
        let authority = Self {
            trust_domain,
            root,
            intermediates,
            not_after: not_after.into(),
            issuer,
        };
        if authority.intermediates.is_empty() {
            return Ok(authority);
        }
        authority.check_supplied(not_after.into())
    }

    /// Issues a leaf and verifies it as a peer would: the surest check that a supplied chain is whole.
    fn check_supplied(self, not_after: SystemTime) -> Result<Self, String> {
        let now = not_after - Duration::from_secs(60);
        let identity =
            Identity::new(self.trust_domain.clone(), "weft-system", "self-test").map_err(|e| e.to_string())?;
        let key = Key::generate().map_err(|error| error.to_string())?;
        let leaf = self
            .issue(key.public(), &identity, LEAF_LIFETIME_MIN, now)
            .map_err(|error| error.to_string())?;
        let bundles = crate::bundle::TrustBundles::new([self.bundle(0)]).map_err(|error| error.to_string())?;
        let at = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_err(|error| error.to_string())?;
        let at = rustls_pki_types::UnixTime::since_unix_epoch(at);
        match crate::verify::verify(&leaf.chain, &bundles, crate::verify::Side::Server, at) {
            Ok(_) => Ok(self),
            Err(error) => Err(format!("a leaf of it would not verify: {error}")),
        }
    }
}

/// The key pair lives as long as the authority, inside rcgen's issuer. It is the process's own key: it is not wiped.
fn take_pair(key: &Key) -> Result<rcgen::KeyPair, String> {
    rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key.pkcs8().into(), &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| error.to_string())
}

fn self_sign(
    trust_domain: &TrustDomain,
    key: &Key,
    now: SystemTime,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let pair: Wiped = key.to_pair().map_err(AuthorityError::Key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name(trust_domain));
    // The SPIFFE ID of the trust domain itself (X.509-SVID section 4.2): names the domain in full.
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    params.not_before = OffsetDateTime::from(whole_seconds(now - BACKDATE));
    params.not_after = OffsetDateTime::from(whole_seconds(now + ROOT_LIFETIME));
    Ok(params.self_signed(&pair.0).map_err(AuthorityError::Make)?.der().clone())
}

/// For people only. X.509 allows 64 characters (RFC 5280, ub-common-name); a trust domain may have 90.
fn common_name(trust_domain: &TrustDomain) -> String {
    format!("weft {trust_domain}").chars().take(64).collect()
}

/// The trust domain that a root names, if it is another one. A root that names none (a supplied one) is for any.
fn other_trust_domain(root: &X509Certificate<'_>, ours: &TrustDomain) -> Option<String> {
    let names = root.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri
            .strip_prefix("spiffe://")
            .filter(|name| *name != ours.as_str())
            .map(str::to_owned),
        _ => None,
    })
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.try_into().map_err(AuthorityError::Make)?))
}

/// 128 random bits (RFC 5280 section 4.1.2.2 allows 159).
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Random)?;
    Ok(SerialNumber::from_slice(&bytes))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
