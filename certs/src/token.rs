//! Service-account tokens bound to a pod, with Kubernetes' claims: signed where `weft up` plays the kubelet, and verified
//! by the control plane against the issuer's published keys (RFC 7515, 7517, 7519).
//!
//! What a token says is believed only after its signature; and it says who the pod is, not that the caller is that pod:
//! that the pod exists, runs as this account and has the caller's address is for the control plane to check.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::file::{self, Put};
use crate::key::{Key, KeyError};

/// The audience of the tokens that proxies show to the control plane.
pub const AUDIENCE: &str = "weft";
/// The largest token that is looked at. Kubernetes' have about 1.2 KiB.
pub const TOKEN_MAX: usize = 16 * 1024;
/// The most keys that an issuer may publish.
pub const KEYS_MAX: usize = 32;
/// How far an issuer's clock may be ahead. None is given to tokens that have ended.
const LEEWAY: Duration = Duration::from_secs(10);

/// An object of the cluster, by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedObject {
    /// The object's name.
    pub name: String,
    /// The object's uid.
    #[serde(default)]
    pub uid: String,
}

/// Whom a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The namespace of pod and service account.
    pub namespace: String,
    /// The service account.
    pub service_account: NamedObject,
    /// The pod that it is bound to.
    pub pod: NamedObject,
    /// The pod's node, where the issuer says it.
    pub node: Option<NamedObject>,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// Whom it is for.
    pub bearer: Bearer,
    /// When it was made.
    pub issued_at: SystemTime,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is no JWT, or its claims are not those of a service account.
    #[error("not a service-account token: {0}")]
    Form(&'static str),
    /// None of the issuer's keys made it.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// Another issuer.
    #[error("the token was issued by {found:?}, not by {expected:?}")]
    Issuer {
        /// The one that was expected.
        expected: String,
        /// The one that it names.
        found: String,
    },
    /// Another audience.
    #[error("the token is for the audience {found:?}, not for {expected:?}")]
    Audience {
        /// The one that was expected.
        expected: String,
        /// The ones that it names.
        found: Vec<String>,
    },
    /// It has ended.
    #[error("the token has ended")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet: one of the clocks is wrong")]
    NotYet,
    /// It is not bound to a pod.
    #[error("the token is not bound to a pod: it must come from a projected volume")]
    NoPod,
}

/// Why there is no signer, or no key set.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The key cannot be used.
    #[error("the token signing key cannot be used")]
    Key(#[source] KeyError),
    /// The key's file cannot be used.
    #[error("cannot use the token signing key's file")]
    Io(#[source] io::Error),
    /// The key set is none, or has too many keys.
    #[error("not a JSON Web Key Set of at most {KEYS_MAX} keys: {0}")]
    Keys(String),
    /// The library failed.
    #[error("cannot sign the token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// The keys that an issuer publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    keys: JwkSet,
}

impl Jwks {
    /// Reads a JSON Web Key Set. Keys of kinds that are not used here are left out.
    pub fn from_json(text: &[u8]) -> Result<Self, IssuerError> {
        let mut keys: JwkSet = serde_json::from_slice(text).map_err(|error| IssuerError::Keys(error.to_string()))?;
        if keys.keys.len() > KEYS_MAX {
            return Err(IssuerError::Keys(format!("{} keys", keys.keys.len())));
        }
        keys.keys.retain(|key| algorithm(key).is_some());
        Ok(Self { keys })
    }

    /// Writes the key set.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.keys).expect("a key set is JSON")
    }

    /// The keys of several issuers' sets, or of one across its rotation.
    pub fn joined(sets: impl IntoIterator<Item = Self>) -> Self {
        let keys = sets.into_iter().flat_map(|set| set.keys.keys).take(KEYS_MAX).collect();
        Self { keys: JwkSet { keys } }
    }
}

/// The one algorithm that a key is for. It comes from the key, never from the token: else a token could choose to be
/// checked with a public key taken for a shared secret.
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    if key
        .common
        .public_key_use
        .as_ref()
        .is_some_and(|usage| *usage != PublicKeyUse::Signature)
    {
        return None;
    }
    let algorithm = match &key.algorithm {
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P384 => Algorithm::ES384,
        // What kube-apiserver uses by default.
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let named = key.common.key_algorithm.map(|named| named.to_string());
    named
        .is_none_or(|named| named == format!("{algorithm:?}"))
        .then_some(algorithm)
}

/// Signs tokens as an API server does.
pub struct Signer {
    issuer: String,
    kid: String,
    key: EncodingKey,
    public: Jwk,
}

const KEY_FILE: &str = "token-key.pem";

impl Signer {
    /// A signer with a key of its own.
    pub fn new(issuer: &str, key: &Key) -> Result<Self, IssuerError> {
        let kid = key.public().fingerprint();
        let encoding = EncodingKey::from_ec_der(key.pkcs8());
        let mut public = Jwk::from_encoding_key(&encoding, Algorithm::ES256).map_err(IssuerError::Sign)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            issuer: issuer.to_owned(),
            kid,
            key: encoding,
            public,
        })
    }

    /// A signer with the key of a directory, which is made if it is not there. The directory becomes 0700.
    pub fn load_or_create(directory: &Path, issuer: &str) -> Result<Self, IssuerError> {
        let path = directory.join(KEY_FILE);
        file::private_directory(directory).map_err(IssuerError::Io)?;
        if file::read(&path, TOKEN_MAX as u64).map_err(IssuerError::Io)?.is_none() {
            let key = Key::generate().map_err(IssuerError::Key)?;
            match file::write(&path, key.to_pem().as_bytes(), Put::New) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(IssuerError::Io(error));
                }
                _ => {}
            }
        }
        let text = file::read(&path, TOKEN_MAX as u64)
            .map_err(IssuerError::Io)?
            .unwrap_or_default();
        Self::new(issuer, &Key::from_pem(&text).map_err(IssuerError::Key)?)
    }

    /// The keys to publish.
    pub fn jwks(&self) -> Jwks {
        Jwks {
            keys: JwkSet {
                keys: vec![self.public.clone()],
            },
        }
    }

    /// Signs a token for a bearer.
    pub fn sign(
        &self,
        bearer: &Bearer,
        audience: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, IssuerError> {
        let issued = seconds(now);
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: subject(&bearer.namespace, &bearer.service_account.name),
            aud: Audiences::Many(vec![audience.to_owned()]),
            exp: issued.saturating_add(lifetime.as_secs()),
            iat: issued,
            nbf: Some(issued),
            kubernetes: Some(Kubernetes {
                namespace: bearer.namespace.clone(),
                serviceaccount: bearer.service_account.clone(),
                pod: Some(bearer.pod.clone()),
                node: bearer.node.clone(),
            }),
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(IssuerError::Sign)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("issuer", &self.issuer)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// Verifies a token: signed by one of the issuer's keys, of this issuer, for this audience, valid now, bound to a pod.
pub fn verify(
    keys: &Jwks,
    issuer: &str,
    audience: &str,
    token: &str,
    now: SystemTime,
) -> Result<TokenClaims, TokenError> {
    let claims = signed_claims(keys, token.trim())?;
    if claims.iss != issuer {
        return Err(TokenError::Issuer {
            expected: issuer.to_owned(),
            found: claims.iss,
        });
    }
    checked(claims, audience, now)
}

/// What a token says of itself, signed by whomever: only to explain why somebody else, who knows the keys, has refused it.
/// Nothing may be allowed because of it.
pub fn unverified(audience: &str, token: &str, now: SystemTime) -> Result<TokenClaims, TokenError> {
    if token.len() > TOKEN_MAX {
        return Err(TokenError::Form("it is too large"));
    }
    let token = jsonwebtoken::dangerous::insecure_decode::<Claims>(token.trim()).map_err(|error| refusal(&error))?;
    checked(token.claims, audience, now)
}

fn checked(claims: Claims, audience: &str, now: SystemTime) -> Result<TokenClaims, TokenError> {
    let audiences = claims.aud.list();
    if !audiences.iter().any(|found| found == audience) {
        return Err(TokenError::Audience {
            expected: audience.to_owned(),
            found: audiences,
        });
    }
    let now = seconds(now);
    if now >= claims.exp {
        return Err(TokenError::Expired);
    }
    if claims.iat.max(claims.nbf.unwrap_or(0)) > now.saturating_add(LEEWAY.as_secs()) {
        return Err(TokenError::NotYet);
    }
    let bound = claims.kubernetes.ok_or(TokenError::NoPod)?;
    let pod = bound.pod.ok_or(TokenError::NoPod)?;
    if pod.name.is_empty() || pod.uid.is_empty() {
        return Err(TokenError::NoPod);
    }
    if claims.sub != subject(&bound.namespace, &bound.serviceaccount.name) {
        return Err(TokenError::Form("subject and bound service account differ"));
    }
    let bearer = Bearer {
        namespace: bound.namespace,
        service_account: bound.serviceaccount,
        pod,
        node: bound.node,
    };
    Ok(TokenClaims {
        bearer,
        issued_at: time(claims.iat),
        expires_at: time(claims.exp),
    })
}

/// The claims of a token whose signature one of the keys confirms.
fn signed_claims(keys: &Jwks, token: &str) -> Result<Claims, TokenError> {
    if token.len() > TOKEN_MAX {
        return Err(TokenError::Form("it is too large"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Form("its header cannot be read"))?;
    if header.crit.is_some() {
        return Err(TokenError::Form("it has critical extensions, and none is known here"));
    }
    let mut last = TokenError::UnknownKey;
    for key in &keys.keys.keys {
        // A token without a key id is tried with each; one with a key id only with that key.
        if header.kid.is_some() && header.kid != key.common.key_id {
            continue;
        }
        let Some(algorithm) = algorithm(key) else {
            continue;
        };
        let Ok(decoding) = DecodingKey::from_jwk(key) else {
            continue;
        };
        let mut validation = Validation::new(algorithm);
        // The library would ask the system's clock. Claims are checked above, with the clock that we were given.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        match jsonwebtoken::decode::<Claims>(token, &decoding, &validation) {
            Ok(token) => return Ok(token.claims),
            Err(error) => last = refusal(&error),
        }
    }
    Err(last)
}

fn refusal(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::Signature,
        _ => TokenError::Form("its claims are not those of a service account"),
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audiences,
    exp: u64,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: NamedObject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<NamedObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NamedObject>,
}

/// One or several (RFC 7519 section 4.1.3).
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

fn subject(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
