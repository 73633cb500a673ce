//! SPIFFE bundles: a trust domain's roots as a JWK Set, as bundle endpoints serve them ("The SPIFFE Trust Domain and Bundle"
//! section 4; "X.509-SVID" section 6; RFC 7517).
//!
//! Whose bundle it is stands nowhere in it: the caller knows, from whom it was asked for and from nothing else.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use weft_model::identity::TrustDomain;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::bundle::{self, Bundle, BundleError};

/// The largest bundle that is read, in bytes.
pub const BUNDLE_BYTES_MAX: usize = 64 * 1024;
/// The longest that a hint is taken for. Whoever says more asks for no other care than whoever says this.
const HINT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The use of a key that X.509-SVIDs are verified with.
const X509_SVID: &str = "x509-svid";
/// The types of keys that there are certificates of (RFC 7518 section 6.1, RFC 8037 section 2).
const KEY_TYPES: [&str; 3] = ["EC", "RSA", "OKP"];

/// Why a text is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum SpiffeError {
    /// It is larger than [`BUNDLE_BYTES_MAX`].
    #[error("the bundle has {0} bytes, and {BUNDLE_BYTES_MAX} is the limit")]
    TooLarge(usize),
    /// It is no JSON.
    #[error("the bundle is not JSON")]
    Json(#[source] serde_json::Error),
    /// A field is wrong: `keys[2].x5c[0]`.
    #[error("{field} {reason}")]
    Field {
        /// Which, as a path in the bundle.
        field: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The roots are too few or too many.
    #[error("the bundle's roots cannot be used")]
    Roots(#[source] BundleError),
}

/// Writes a bundle. `refresh_hint`: how often to ask for it. A root whose key is of a type that JWK has no name for is left
/// out: nobody could verify with it.
pub fn to_json(bundle: &Bundle, refresh_hint: Duration) -> String {
    let keys: Vec<Value> = bundle.roots().iter().filter_map(jwk).collect();
    let set = json!({
        "spiffe_sequence": bundle.sequence(),
        "spiffe_refresh_hint": refresh_hint.as_secs().max(1),
        "keys": keys,
    });
    format!("{set:#}")
}

/// Reads the bundle of a trust domain, and how often to ask for it, if it says. Without `spiffe_sequence` its number is 0.
/// Keys of other types and for other uses are left out, as the specification says, and so are those without a certificate.
pub fn from_json(trust_domain: TrustDomain, text: &[u8]) -> Result<(Bundle, Option<Duration>), SpiffeError> {
    if text.len() > BUNDLE_BYTES_MAX {
        return Err(SpiffeError::TooLarge(text.len()));
    }
    let set: Value = serde_json::from_slice(text).map_err(SpiffeError::Json)?;
    let set = set.as_object().ok_or_else(|| wrong("the bundle", "is not an object"))?;
    let sequence = number(set, "spiffe_sequence")?.unwrap_or(0);
    let hint = number(set, "spiffe_refresh_hint")?.filter(|seconds| *seconds > 0);
    let keys = match set.get("keys") {
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err(wrong("keys", "is not a list")),
        None => return Err(wrong("keys", "is missing")),
    };
    let mut roots = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        roots.extend(root(&format!("keys[{place}]"), key)?);
    }
    let bundle = Bundle::new(trust_domain, roots, sequence).map_err(SpiffeError::Roots)?;
    Ok((bundle, hint.map(|seconds| Duration::from_secs(seconds).min(HINT_MAX))))
}

/// The root that a key stands for. `None`: it stands for something else.
fn root(at: &str, key: &Value) -> Result<Option<CertificateDer<'static>>, SpiffeError> {
    let key = key.as_object().ok_or_else(|| wrong(at, "is not an object"))?;
    if text(at, key, "use")? != X509_SVID || !KEY_TYPES.contains(&text(at, key, "kty")?) {
        return Ok(None);
    }
    let certificates = match key.get("x5c") {
        Some(Value::Array(certificates)) => certificates,
        Some(_) => return Err(wrong(format!("{at}.x5c"), "is not a list")),
        None => return Ok(None),
    };
    // All but the first are to be ignored (X.509-SVID section 6.2).
    let Some(first) = certificates.first() else {
        return Ok(None);
    };
    let wrong = |reason| wrong(format!("{at}.x5c[0]"), reason);
    let coded = first.as_str().ok_or_else(|| wrong("is not a text"))?;
    let der = STANDARD.decode(coded).map_err(|_| wrong("is not base64"))?;
    let root = CertificateDer::from(der);
    bundle::anchor(&root).map_err(wrong)?;
    Ok(Some(root))
}

fn text<'a>(at: &str, key: &'a Map<String, Value>, name: &str) -> Result<&'a str, SpiffeError> {
    let field = || format!("{at}.{name}");
    match key.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(field(), "is not a text")),
        None => Err(wrong(field(), "is missing")),
    }
}

fn number(set: &Map<String, Value>, name: &str) -> Result<Option<u64>, SpiffeError> {
    let Some(value) = set.get(name) else {
        return Ok(None);
    };
    let number = value.as_u64();
    number
        .map(Some)
        .ok_or_else(|| wrong(name, "is not a whole number from 0 to 18446744073709551615"))
}

fn wrong(field: impl Into<String>, reason: &'static str) -> SpiffeError {
    let field = field.into();
    SpiffeError::Field { field, reason }
}

/// A root as a key. It has no `kid` (X.509-SVID section 6.1).
fn jwk(root: &CertificateDer<'_>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    let mut key = public_key(certificate.public_key())?;
    let members = key.as_object_mut()?;
    members.insert("use".to_owned(), json!(X509_SVID));
    members.insert("x5c".to_owned(), json!([STANDARD.encode(root)]));
    Some(key)
}

/// The parameters of a public key (RFC 7518 sections 6.2 and 6.3, RFC 8037 section 2).
fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Option<Value> {
    const ED25519: &str = "1.3.101.112";
    let coded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            let number = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                coded(bytes.get(zeros..).unwrap_or_default())
            };
            Some(json!({ "kty": "RSA", "n": number(key.modulus), "e": number(key.exponent) }))
        }
        PublicKey::EC(point) => {
            let curve = match info
                .algorithm
                .parameters
                .as_ref()?
                .as_oid()
                .ok()?
                .to_id_string()
                .as_str()
            {
                "1.2.840.10045.3.1.7" => "P-256",
                "1.3.132.0.34" => "P-384",
                "1.3.132.0.35" => "P-521",
                _ => return None,
            };
            // Uncompressed (SEC 1 section 2.3.3): 4, then both coordinates.
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            Some(json!({ "kty": "EC", "crv": curve, "x": coded(x), "y": coded(y) }))
        }
        _ if info.algorithm.algorithm.to_id_string() == ED25519 => {
            Some(json!({ "kty": "OKP", "crv": "Ed25519", "x": coded(&info.subject_public_key.data) }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::authority::Authority;
    use crate::bundle::ROOTS_MAX;
    use crate::key::Key;

    const HINT: Duration = Duration::from_secs(300);

    fn domain() -> TrustDomain {
        TrustDomain::new("example.org").unwrap()
    }

    fn roots(n: usize) -> Vec<CertificateDer<'static>> {
        let create = || Authority::create(domain(), SystemTime::now()).unwrap();
        (0..n).map(|_| create().bundle(0).roots()[0].clone()).collect()
    }

    /// A self-signed CA certificate with a key of this algorithm.
    fn root_with(algorithm: &'static rcgen::SignatureAlgorithm) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        params.self_signed(&key).unwrap().der().clone()
    }

    fn leaf() -> CertificateDer<'static> {
        let authority = Authority::create(domain(), SystemTime::now()).unwrap();
        let identity = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
        let key = Key::generate().unwrap();
        let leaf = authority.issue(key.public(), &identity, HINT, SystemTime::now());
        leaf.unwrap().chain[0].clone()
    }

    fn x509(root: &CertificateDer<'_>) -> Value {
        json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(root)] })
    }

    fn read(set: &Value) -> Result<(Bundle, Option<Duration>), SpiffeError> {
        from_json(domain(), set.to_string().as_bytes())
    }

    #[track_caller]
    fn refused(set: &Value, want: &str) {
        let error = read(set).unwrap_err();
        let field = match &error {
            SpiffeError::Field { field, .. } => field.as_str(),
            _ => "",
        };
        assert_eq!(field, want, "{error}");
    }

    #[test]
    fn a_bundle_comes_back() {
        let mut all = roots(2);
        all.extend([&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519].map(root_with));
        let bundle = Bundle::new(domain(), all, u64::MAX).unwrap();
        let text = to_json(&bundle, HINT);
        let (read, hint) = from_json(domain(), text.as_bytes()).unwrap();
        assert_eq!((read, hint), (bundle, Some(HINT)));
    }

    #[test]
    fn a_key_is_written_as_the_specifications_say() {
        let bundle = Bundle::new(domain(), roots(1), 7).unwrap();
        let set: Value = serde_json::from_str(&to_json(&bundle, HINT)).unwrap();
        assert_eq!(set["spiffe_sequence"], 7);
        assert_eq!(set["spiffe_refresh_hint"], 300);
        let key = set["keys"][0].as_object().unwrap();
        let mut names: Vec<&str> = key.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["crv", "kty", "use", "x", "x5c", "y"], "and no kid");
        assert_eq!(
            (&key["kty"], &key["crv"], &key["use"]),
            (&json!("EC"), &json!("P-256"), &json!("x509-svid"))
        );
        assert_eq!(key["x5c"], json!([STANDARD.encode(&bundle.roots()[0])]));
        // The coordinates are those of the certificate's key.
        let (_, certificate) = X509Certificate::from_der(&bundle.roots()[0]).unwrap();
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let point = [&[4][..], &coordinate("x"), &coordinate("y")].concat();
        assert_eq!(&point[..], &*certificate.public_key().subject_public_key.data);
        // A hint of nothing would have clients ask without a pause.
        let set: Value = serde_json::from_str(&to_json(&bundle, Duration::ZERO)).unwrap();
        assert_eq!(set["spiffe_refresh_hint"], 1);
    }

    #[test]
    fn what_spire_serves_is_read() {
        let all = roots(2);
        let set = json!({
            "keys": [
                {
                    "use": "x509-svid",
                    "kty": "EC",
                    "crv": "P-256",
                    "x": "fK-wKTnKL7KFLM27lqq5DC-bxrVaH6rDV-IcCSEOeL4",
                    "y": "wq-g3TQWxYlV51TCPH030yXsRxvujD4hUUaIQrXk4KI",
                    "x5c": [STANDARD.encode(&all[0])],
                },
                {
                    "use": "x509-svid",
                    "kty": "RSA",
                    "n": "sEp2",
                    "e": "AQAB",
                    "x5c": [STANDARD.encode(&all[1]), "what follows is to be ignored"],
                },
                { "use": "jwt-svid", "kty": "EC", "kid": "C6vs25welZOx6WksNYfb", "crv": "P-256", "x": "", "y": "" },
            ],
            "spiffe_refresh_hint": 600,
            "spiffe_sequence": 4,
            "something_else": { "that": ["is", "ignored"] },
        });
        let (bundle, hint) = read(&set).unwrap();
        assert_eq!(bundle, Bundle::new(domain(), all, 4).unwrap());
        assert_eq!(hint, Some(Duration::from_secs(600)));
    }

    #[test]
    fn what_is_not_known_is_ignored_and_what_is_missing_has_a_default() {
        let root = roots(1).remove(0);
        let with = |key: Value| json!({ "keys": [key, x509(&root)] });
        for other in [
            json!({ "kty": "EC", "use": "jwt-svid" }),
            json!({ "kty": "EC", "use": "wit-svid", "x5c": ["?"] }),
            json!({ "kty": "EC", "use": "X509-SVID", "x5c": ["?"] }),
            json!({ "kty": "EC", "use": "", "x5c": 7 }),
            json!({ "kty": "AKP", "use": "x509-svid", "x5c": ["?"] }),
            json!({ "kty": "EC", "use": "x509-svid" }),
            json!({ "kty": "EC", "use": "x509-svid", "x5c": [] }),
        ] {
            let (bundle, hint) = read(&with(other.clone())).unwrap();
            assert_eq!(bundle.roots(), std::slice::from_ref(&root), "{other}");
            assert_eq!((bundle.sequence(), hint), (0, None));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let all = roots(1);
        let root = &all[0];
        let changed = |name: &str, value: Value| {
            let mut key = x509(root);
            key[name] = value;
            json!({ "keys": [x509(root), key] })
        };
        let without = |name: &str| {
            let mut key = x509(root);
            key.as_object_mut().unwrap().remove(name);
            json!({ "keys": [x509(root), key] })
        };
        refused(&json!([]), "the bundle");
        refused(&json!({}), "keys");
        refused(&json!({ "keys": { "0": x509(root) } }), "keys");
        refused(&json!({ "keys": [x509(root), "key"] }), "keys[1]");
        refused(&without("use"), "keys[1].use");
        refused(&without("kty"), "keys[1].kty");
        refused(&changed("use", json!(["x509-svid"])), "keys[1].use");
        refused(&changed("kty", json!(null)), "keys[1].kty");
        refused(&changed("x5c", json!(STANDARD.encode(root))), "keys[1].x5c");
        let mut trailing = root.to_vec();
        trailing.push(0);
        let leaf = leaf();
        for certificate in [
            json!(7),
            json!("?"),
            json!(URL_SAFE_NO_PAD.encode(root)),
            json!(format!("-----BEGIN CERTIFICATE-----\n{}", STANDARD.encode(root))),
            json!(""),
            json!(STANDARD.encode(b"not DER")),
            json!(STANDARD.encode(&trailing)),
            json!(STANDARD.encode(&leaf)),
        ] {
            refused(&changed("x5c", json!([certificate])), "keys[1].x5c[0]");
        }
        for name in ["spiffe_sequence", "spiffe_refresh_hint"] {
            for value in [json!(-1), json!(1.5), json!("1"), json!(null), json!(1e30)] {
                let mut set = json!({ "keys": [x509(root)] });
                set[name] = value;
                refused(&set, name);
            }
        }
    }

    #[test]
    fn a_hint_is_bounded() {
        let all = roots(1);
        for (hint, want) in [(0, None), (1, Some(Duration::from_secs(1))), (u64::MAX, Some(HINT_MAX))] {
            let set = json!({ "keys": [x509(&all[0])], "spiffe_refresh_hint": hint });
            assert_eq!(read(&set).unwrap().1, want);
        }
    }

    #[test]
    fn a_bundle_is_bounded() {
        let root = roots(1).remove(0);
        let keys = |n: usize| json!({ "keys": vec![x509(&root); n] });
        assert!(matches!(
            read(&keys(0)),
            Err(SpiffeError::Roots(BundleError::Count { count: 0, .. }))
        ));
        assert!(read(&keys(ROOTS_MAX)).is_ok());
        assert!(matches!(
            read(&keys(ROOTS_MAX + 1)),
            Err(SpiffeError::Roots(BundleError::Count { .. }))
        ));
        let mut text = keys(1).to_string().into_bytes();
        text.resize(BUNDLE_BYTES_MAX, b' ');
        assert!(from_json(domain(), &text).is_ok());
        text.push(b' ');
        assert!(matches!(from_json(domain(), &text), Err(SpiffeError::TooLarge(_))));
        let deep = "[".repeat(BUNDLE_BYTES_MAX);
        assert!(matches!(
            from_json(domain(), deep.as_bytes()),
            Err(SpiffeError::Json(_))
        ));
        assert!(matches!(from_json(domain(), b"{"), Err(SpiffeError::Json(_))));
    }
}
