//! Certificate signing requests (PKCS #10, RFC 2986): made by a proxy, checked by the authority.
//!
//! A request conveys a public key and the proof that the caller holds the private one. Nothing else in it is ever read:
//! subject, names, CA flags and usages are for the authority to decide (CVE-2022-40716).

use rcgen::{CertificateParams, DistinguishedName};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::key::{Key, KeyError, PublicKey};

/// The largest request that is looked at. Ours have about 200 bytes.
pub const CSR_MAX: usize = 4096;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The request could not be made.
    #[error("cannot make a certificate request")]
    Make(#[source] rcgen::Error),
    /// The request is larger than [`CSR_MAX`].
    #[error("the certificate request has {0} bytes, and {CSR_MAX} is the limit")]
    TooLarge(usize),
    /// The bytes are no request.
    #[error("not a PKCS #10 certificate request")]
    Form,
    /// The key is of a type that is not allowed.
    #[error("the certificate request's key is refused")]
    Key(#[source] KeyError),
    /// The request is not signed by its own key.
    #[error("the certificate request is not signed by the key in it")]
    Signature,
}

/// Makes a request for a key: DER, with an empty subject and nothing asked for.
pub fn make(key: &Key) -> Result<Vec<u8>, CsrError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let pair = key.to_pair().map_err(CsrError::Key)?;
    let request = params.serialize_request(&pair.0).map_err(CsrError::Make)?;
    Ok(request.der().to_vec())
}

/// Checks a request's proof of possession, and gives its key: all that is taken from it.
pub fn check(der: &[u8]) -> Result<PublicKey, CsrError> {
    if der.len() > CSR_MAX {
        return Err(CsrError::TooLarge(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Form)?;
    if !rest.is_empty() {
        return Err(CsrError::Form);
    }
    // The type before the signature, so that nobody makes us verify with a 16,384-bit RSA key.
    let key = PublicKey::from_spki(request.certification_request_info.subject_pki.raw).map_err(CsrError::Key)?;
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, DnType, IsCa, KeyUsagePurpose, SanType};

    use super::*;

    #[test]
    fn a_request_gives_its_key() {
        let key = Key::generate().unwrap();
        assert_eq!(&check(&make(&key).unwrap()).unwrap(), key.public());
    }

    #[test]
    fn a_request_of_ours_says_nothing_but_its_key() {
        let der = make(&Key::generate().unwrap()).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        assert_eq!(request.requested_extensions().map_or(0, Iterator::count), 0);
    }

    #[test]
    fn what_else_a_request_says_is_not_taken() {
        let key = Key::generate().unwrap();
        let mut params = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names.push(SanType::URI(
            "spiffe://mesh/ns/weft-system/sa/weft-control".try_into().unwrap(),
        ));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let der = params.serialize_request(&key.to_pair().unwrap().0).unwrap();
        // The result has room for a key and nothing else; authority's tests show the leaf made of it.
        assert_eq!(&check(der.der()).unwrap(), key.public());
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let der = make(&Key::generate().unwrap()).unwrap();
        let other = Key::generate().unwrap().public().spki();
        let spki = Key::generate().unwrap().public().spki().len();
        // Another key of the same type, put where the first one was.
        let own = X509CertificationRequest::from_der(&der)
            .unwrap()
            .1
            .certification_request_info
            .subject_pki
            .raw
            .to_vec();
        assert_eq!(own.len(), spki);
        let at = der.windows(own.len()).position(|window| window == own).unwrap();
        let mut forged = der.clone();
        forged[at..at + own.len()].copy_from_slice(&other);
        assert!(matches!(check(&forged), Err(CsrError::Signature)));
    }

    #[test]
    fn a_request_with_a_key_of_another_type_is_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_RSA_SHA256] {
            let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let der = CertificateParams::default().serialize_request(&pair).unwrap();
            assert!(matches!(check(der.der()), Err(CsrError::Key(_))), "{algorithm:?}");
        }
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let der = CertificateParams::default().serialize_request(&pair).unwrap();
            assert!(check(der.der()).is_ok(), "{algorithm:?}");
        }
    }

    #[test]
    fn garbage_trailing_bytes_and_large_requests_are_refused() {
        let der = make(&Key::generate().unwrap()).unwrap();
        assert!(matches!(check(b""), Err(CsrError::Form)));
        assert!(matches!(check(&der[..der.len() - 1]), Err(CsrError::Form)));
        let mut longer = der.clone();
        longer.push(0);
        assert!(matches!(check(&longer), Err(CsrError::Form)));
        longer.resize(CSR_MAX + 1, 0);
        assert!(matches!(check(&longer), Err(CsrError::TooLarge(_))));
    }
}
