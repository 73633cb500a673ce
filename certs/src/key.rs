//! Key pairs: ECDSA on P-256, in and out as PKCS #8.
//!
//! The encoded key is wiped when dropped. What the cryptographic library keeps inside it wipes by itself; copies on the
//! stack of a signature are beyond our reach.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::PublicKeyData as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// A key pair. Neither `Debug` nor an error ever shows it.
#[derive(Clone)]
pub struct Key {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

/// A public key of an allowed type: ECDSA on P-256 or P-384, or Ed25519.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub(crate) info: rcgen::SubjectPublicKeyInfo,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random generator or the library failed.
    #[error("cannot make a key")]
    Make(#[source] rcgen::Error),
    /// The bytes are no PKCS #8 key of ECDSA P-256.
    #[error("not a PKCS #8 private key of ECDSA P-256")]
    Form,
    /// The type of key is not allowed.
    #[error("the key is neither ECDSA P-256, ECDSA P-384 nor Ed25519")]
    Type,
}

impl Key {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeyError::Make)?;
        Self::from_pair(&Wiped(pair))
    }

    /// Reads a key from PKCS #8, DER (RFC 5208).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_pair(&pair(der)?)
    }

    /// Reads a key from the first `PRIVATE KEY` section of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let der = Zeroizing::new(PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| KeyError::Form)?);
        Self::from_pkcs8(der.secret_pkcs8_der())
    }

    /// The key as PKCS #8, DER. Secret.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key as PKCS #8, PEM. Secret; wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let pair = Wiped(
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(&self.pkcs8[..]),
                &rcgen::PKCS_ECDSA_P256_SHA256,
            )
            .expect("read once before"),
        );
        Zeroizing::new(pair.0.serialize_pem())
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key as rustls takes it.
    pub(crate) fn to_rustls(&self) -> Zeroizing<PrivateKeyDer<'static>> {
        Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec())))
    }

    /// The key as rcgen takes it.
    pub(crate) fn to_pair(&self) -> Result<Wiped, KeyError> {
        pair(&self.pkcs8)
    }

    fn from_pair(pair: &Wiped) -> Result<Self, KeyError> {
        let pkcs8 = Zeroizing::new(pair.0.serialize_der());
        let public = PublicKey::from_spki(&pair.0.subject_public_key_info())?;
        Ok(Self { pkcs8, public })
    }
}

/// The longest SubjectPublicKeyInfo of an allowed type is P-384's with 120 bytes.
const SPKI_MAX: usize = 256;

impl PublicKey {
    /// Takes a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), if its type is allowed and it is a valid key.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        if der.len() > SPKI_MAX {
            return Err(KeyError::Type);
        }
        let info = rcgen::SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Type)?;
        let algorithm = info.algorithm();
        let length = info.der_bytes().len();
        // Uncompressed points (SEC 1 section 2.3.3) and Ed25519's 32 bytes: nothing else that decodes is taken.
        let allowed = (algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 && length == 65)
            || (algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 && length == 97)
            || (algorithm == &rcgen::PKCS_ED25519 && length == 32);
        if !allowed {
            return Err(KeyError::Type);
        }
        Ok(Self { info })
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> Vec<u8> {
        self.info.subject_public_key_info()
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in hex: a name for the key.
    pub fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.spki()).as_ref())
    }
}

/// A key pair of rcgen that is wiped when dropped: rcgen keeps the encoded key, and leaves the wiping to its users.
pub(crate) struct Wiped(pub(crate) rcgen::KeyPair);

impl Drop for Wiped {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

fn pair(der: &[u8]) -> Result<Wiped, KeyError> {
    rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &rcgen::PKCS_ECDSA_P256_SHA256)
        .map(Wiped)
        .map_err(|_| KeyError::Form)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_der_and_pem() {
        let key = Key::generate().unwrap();
        assert_eq!(Key::from_pkcs8(key.pkcs8()).unwrap().public(), key.public());
        assert_eq!(Key::from_pem(key.to_pem().as_bytes()).unwrap().public(), key.public());
    }

    #[test]
    fn two_keys_differ() {
        assert_ne!(Key::generate().unwrap().public(), Key::generate().unwrap().public());
    }

    #[test]
    fn garbage_and_other_types_are_no_key() {
        assert!(matches!(Key::from_pkcs8(b"no"), Err(KeyError::Form)));
        assert!(matches!(Key::from_pem(b"no"), Err(KeyError::Form)));
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(matches!(Key::from_pkcs8(other.serialized_der()), Err(KeyError::Form)));
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let key = Key::generate().unwrap();
        let shown = format!("{key:?}");
        assert!(shown.starts_with("Key { public: PublicKey("), "{shown}");
        assert!(!shown.contains(&format!("{:?}", &key.pkcs8()[40..48])));
    }
}
