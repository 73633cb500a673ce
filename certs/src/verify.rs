//! Who is on the other side: a certificate chain in, a SPIFFE identity out, or a reason to hang up.
//!
//! The identity is the leaf's one URI name. Its trust domain picks the bundle that the chain is verified against, and no
//! other root counts: a root can vouch for its own trust domain only. Common names and DNS names mean nothing here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weft_model::identity::{Identity, IdentityError, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::bundle::TrustBundles;
use crate::seen::Seen;

/// The most certificates in a chain, the leaf included.
pub const CHAIN_MAX: usize = 4;
/// The most bytes in a chain.
pub const CHAIN_BYTES_MAX: usize = 16 * 1024;

/// The signatures that count, in certificates and in handshakes. No RSA: nothing of ours makes one, and verifying it is
/// where odd keys become expensive.
pub(crate) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki::aws_lc_rs::ECDSA_P256_SHA256,
        webpki::aws_lc_rs::ECDSA_P256_SHA384,
        webpki::aws_lc_rs::ECDSA_P384_SHA256,
        webpki::aws_lc_rs::ECDSA_P384_SHA384,
        webpki::aws_lc_rs::ED25519,
    ],
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
        ),
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[webpki::aws_lc_rs::ECDSA_P384_SHA384],
        ),
        (SignatureScheme::ED25519, &[webpki::aws_lc_rs::ED25519]),
    ],
};

/// Why a peer's certificates were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    Missing,
    /// The chain is longer or larger than is looked at.
    #[error(
        "the chain has {certificates} certificates and {bytes} bytes: {CHAIN_MAX} and {CHAIN_BYTES_MAX} are the limits"
    )]
    TooLarge {
        /// How many certificates.
        certificates: usize,
        /// How many bytes.
        bytes: usize,
    },
    /// The leaf is no certificate, or not one for a workload: the reason says which rule it breaks.
    #[error("the leaf {0}")]
    Leaf(&'static str),
    /// The leaf has no URI name, or several.
    #[error("the leaf has {0} URI names, and exactly one is an identity")]
    Names(usize),
    /// The leaf's URI name is no identity of a mesh.
    #[error("the leaf's URI name is no identity")]
    Identity(#[source] IdentityError),
    /// There is no bundle for the leaf's trust domain.
    #[error("no trust bundle of {0} is known")]
    UnknownTrustDomain(TrustDomain),
    /// The chain does not lead to a root of the leaf's trust domain, or is not valid now.
    #[error("the chain does not verify against the bundle of {0}")]
    Chain(TrustDomain, #[source] webpki::Error),
    /// A verified identity, but not the one that was expected.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// The one that was expected.
        expected: Box<Identity>,
        /// The one that was found.
        found: Box<Identity>,
    },
}

/// Which side of a connection the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer is the server.
    Server,
    /// The peer is the client.
    Client,
}

/// What a leaf says, read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) spki: Vec<u8>,
}

/// Verifies a chain, leaf first, and gives the identity that it proves.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    side: Side,
    now: UnixTime,
) -> Result<Identity, VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::Missing)?;
    verify_parts(leaf, intermediates, bundles, side, now)
}

/// The identity in the chain of a connection whose handshake one of this crate's configurations has completed. It reads
/// only: before a handshake, or after another configuration's, the answer proves nothing.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, VerifyError> {
    Ok(read_leaf(chain.first().ok_or(VerifyError::Missing)?)?.identity)
}

/// When the leaf of a chain ends. Reads only, as [`peer_identity`].
pub fn peer_not_after(chain: &[CertificateDer<'_>]) -> Result<SystemTime, VerifyError> {
    Ok(read_leaf(chain.first().ok_or(VerifyError::Missing)?)?.not_after)
}

/// Whether a handshake failed because of the peer's certificate: another identity, none, or one that does not verify.
pub fn is_certificate_error(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented
    )
}

pub(crate) fn verify_parts(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    side: Side,
    now: UnixTime,
) -> Result<Identity, VerifyError> {
    let certificates = 1 + intermediates.len();
    let bytes = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
    if certificates > CHAIN_MAX || bytes > CHAIN_BYTES_MAX {
        return Err(VerifyError::TooLarge { certificates, bytes });
    }
    let identity = read_leaf(leaf)?.identity;
    let trust_domain = identity.trust_domain();
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| VerifyError::UnknownTrustDomain(trust_domain.clone()))?;
    let failed = |error| VerifyError::Chain(trust_domain.clone(), error);
    // The leaf's own usages are checked in `read_leaf`, and stricter; this is for what lies above it.
    let usage = match side {
        Side::Server => webpki::KeyUsage::server_auth(),
        Side::Client => webpki::KeyUsage::client_auth(),
    };
    webpki::EndEntityCert::try_from(leaf)
        .map_err(failed)?
        .verify_for_usage(ALGORITHMS.all, bundle.anchors(), intermediates, now, usage, None, None)
        .map_err(failed)?;
    Ok(identity)
}

/// Reads a leaf, and checks all that can be checked of it alone (SPIFFE X.509-SVID, sections 2 to 4).
pub(crate) fn read_leaf(der: &CertificateDer<'_>) -> Result<Leaf, VerifyError> {
    if der.len() > CHAIN_BYTES_MAX {
        return Err(VerifyError::TooLarge {
            certificates: 1,
            bytes: der.len(),
        });
    }
    let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| VerifyError::Leaf("is not an X.509 certificate"))?;
    if !rest.is_empty() {
        return Err(VerifyError::Leaf("is followed by other bytes"));
    }
    let constraints = leaf
        .basic_constraints()
        .map_err(|_| VerifyError::Leaf("has unreadable basic constraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(VerifyError::Leaf("is a CA's"));
    }
    let usage = leaf
        .key_usage()
        .map_err(|_| VerifyError::Leaf("has unreadable key usages"))?;
    // SPIFFE requires the extension of a leaf (X.509-SVID section 4.3).
    let usage = usage
        .map(|usage| usage.value)
        .ok_or(VerifyError::Leaf("has no key usages"))?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(VerifyError::Leaf("may sign certificates"));
    }
    if !usage.digital_signature() {
        return Err(VerifyError::Leaf("may not sign handshakes"));
    }
    let extended = leaf
        .extended_key_usage()
        .map_err(|_| VerifyError::Leaf("has unreadable extended key usages"))?;
    if !extended.is_some_and(|extended| extended.value.client_auth && extended.value.server_auth) {
        return Err(VerifyError::Leaf("is not for both servers and clients"));
    }
    Ok(Leaf {
        identity: leaf_identity(&leaf)?,
        not_before: time(leaf.validity().not_before.timestamp()),
        not_after: time(leaf.validity().not_after.timestamp()),
        spki: leaf.public_key().raw.to_vec(),
    })
}

/// The leaf's one URI name. webpki's iterator of names leaves out those that it cannot read; here each one counts.
fn leaf_identity(leaf: &X509Certificate<'_>) -> Result<Identity, VerifyError> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| VerifyError::Leaf("has unreadable names"))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names[..]);
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(VerifyError::Leaf("has unreadable names"));
    }
    let uris = names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    let uris: Vec<&str> = uris.collect();
    let [uri] = uris[..] else {
        return Err(VerifyError::Names(uris.len()));
    };
    uri.parse().map_err(VerifyError::Identity)
}

pub(crate) fn time(seconds: i64) -> SystemTime {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn check_expected(found: Identity, expected: Option<&Identity>) -> Result<Identity, VerifyError> {
    match expected {
        Some(expected) if *expected != found => Err(VerifyError::Unexpected {
            expected: Box::new(expected.clone()),
            found: Box::new(found),
        }),
        _ => Ok(found),
    }
}

/// The verifier of both sides' configurations.
pub(crate) struct Verifier {
    seen: Arc<Seen>,
    /// The one identity that is accepted. `None`: any that verifies, and the caller looks at it.
    expected: Option<Identity>,
    /// Whether a client may show no certificate at all.
    optional: bool,
}

impl Verifier {
    /// Any identity that verifies.
    pub(crate) fn any(seen: Arc<Seen>) -> Self {
        Self {
            seen,
            expected: None,
            optional: false,
        }
    }

    /// Exactly one identity.
    pub(crate) fn only(seen: Arc<Seen>, expected: Identity) -> Self {
        Self {
            seen,
            expected: Some(expected),
            optional: false,
        }
    }

    /// Any client that verifies, and clients that show no certificate at all.
    pub(crate) fn optional(seen: Arc<Seen>) -> Self {
        Self {
            seen,
            expected: None,
            optional: true,
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.seen
            .verify(leaf, intermediates, side, now)
            .and_then(|found| check_expected(found, self.expected.as_ref()))
            .map(|_| ())
            .map_err(|error| rustls::Error::InvalidCertificate(certificate_error(error)))
    }
}

/// Never reached, as no configuration of this crate speaks TLS 1.2; and if it were, refused.
fn tls12_refused() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken in the mesh".to_owned())
}

/// Keeps our error as the source, except where rustls has an alert of its own for it, which tells the peer more.
fn certificate_error(error: VerifyError) -> CertificateError {
    match error {
        VerifyError::Chain(_, webpki::Error::CertExpired { time, not_after }) => {
            CertificateError::ExpiredContext { time, not_after }
        }
        VerifyError::Chain(_, webpki::Error::CertNotValidYet { time, not_before }) => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        VerifyError::Chain(_, webpki::Error::UnknownIssuer) | VerifyError::UnknownTrustDomain(_) => {
            CertificateError::UnknownIssuer
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The server name routes; it never authorises, so it is not compared with anything.
        self.check(end_entity, intermediates, Side::Server, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Workloads have one certificate: hints would only cost bytes and tell strangers our roots.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Side::Client, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("seen", &self.seen)
            .field("expected", &self.expected)
            .finish()
    }
}

#[cfg(test)]
mod tests;
