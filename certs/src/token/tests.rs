//! Tokens: one that passes, and one refused for each reason.

use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    time(1_800_000_000)
}

fn object(name: &str, uid: &str) -> NamedObject {
    NamedObject {
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

fn bearer() -> Bearer {
    Bearer {
        namespace: "shop".to_owned(),
        service_account: object("web", "sa-uid"),
        pod: object("web-1", "pod-uid"),
        node: Some(object("node-1", "node-uid")),
    }
}

fn signer() -> Signer {
    Signer::new(ISSUER, &Key::generate().unwrap()).unwrap()
}

fn check(signer: &Signer, token: &str, at: SystemTime) -> Result<TokenClaims, TokenError> {
    verify(&signer.jwks(), ISSUER, AUDIENCE, token, at)
}

/// A token of the signer's key with claims of any shape.
fn signed(signer: &Signer, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:web", "aud": ["weft"],
        "exp": 1_800_003_600_u64, "iat": 1_800_000_000_u64, "nbf": 1_800_000_000_u64, "jti": "some-id",
        "kubernetes.io": {
            "namespace": "shop", "serviceaccount": {"name": "web", "uid": "sa-uid"},
            "pod": {"name": "web-1", "uid": "pod-uid"}, "node": {"name": "node-1", "uid": "node-uid"},
        },
    });
    change(&mut claims);
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(signer.kid.clone());
    jsonwebtoken::encode(&header, &claims, &signer.key).unwrap()
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Value)) -> TokenError {
    let signer = signer();
    assert!(
        check(&signer, &signed(&signer, |_| {}), now()).is_ok(),
        "unchanged, it passes"
    );
    check(&signer, &signed(&signer, change), now()).unwrap_err()
}

#[test]
fn a_token_says_whom_it_is_for() {
    let signer = signer();
    let token = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    let claims = check(&signer, &token, now()).unwrap();
    assert_eq!(
        claims,
        TokenClaims {
            bearer: bearer(),
            issued_at: now(),
            expires_at: now() + HOUR
        }
    );
    assert!(
        check(&signer, &format!("{token}\n"), now()).is_ok(),
        "a file may end with a line break"
    );
}

#[test]
fn kubernetes_own_shape_is_read() {
    let signer = signer();
    let claims = check(&signer, &signed(&signer, |_| {}), now()).unwrap();
    assert_eq!(claims.bearer, bearer());
    let single = signed(&signer, |claims| claims["aud"] = json!("weft"));
    assert!(check(&signer, &single, now()).is_ok(), "one audience may be a string");
    let several = signed(&signer, |claims| claims["aud"] = json!(["other", "weft"]));
    assert!(check(&signer, &several, now()).is_ok());
    let without_node = signed(&signer, |claims| {
        claims["kubernetes.io"].as_object_mut().unwrap().remove("node");
    });
    assert_eq!(check(&signer, &without_node, now()).unwrap().bearer.node, None);
}

#[test]
fn keys_come_back_from_json() {
    let signer = signer();
    let text = signer.jwks().to_json();
    assert!(!text.contains("\"d\""), "the private part stays here");
    let keys = Jwks::from_json(text.as_bytes()).unwrap();
    assert_eq!(keys, signer.jwks());
    let token = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    assert!(verify(&keys, ISSUER, AUDIENCE, &token, now()).is_ok());
}

#[test]
fn a_token_ends_to_the_second() {
    let signer = signer();
    let token = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    let second = Duration::from_secs(1);
    assert!(check(&signer, &token, now() + HOUR - second).is_ok());
    assert_eq!(check(&signer, &token, now() + HOUR), Err(TokenError::Expired));
    assert_eq!(check(&signer, &token, now() + 100 * HOUR), Err(TokenError::Expired));
}

#[test]
fn a_token_of_the_future_is_refused() {
    let signer = signer();
    let token = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    assert!(check(&signer, &token, now() - LEEWAY).is_ok());
    assert_eq!(
        check(&signer, &token, now() - LEEWAY - Duration::from_secs(1)),
        Err(TokenError::NotYet)
    );
    assert_eq!(
        refused(|claims| claims["nbf"] = json!(1_800_000_600_u64)),
        TokenError::NotYet
    );
    assert_eq!(
        refused(|claims| claims["iat"] = json!(1_800_000_600_u64)),
        TokenError::NotYet
    );
}

#[test]
fn another_audience_is_refused() {
    let signer = signer();
    let token = signer
        .sign(&bearer(), "https://kubernetes.default.svc", HOUR, now())
        .unwrap();
    assert!(matches!(
        check(&signer, &token, now()),
        Err(TokenError::Audience { .. })
    ));
    for audience in [json!([]), json!("weft2"), json!(["WEFT"]), json!(["weft "])] {
        assert!(matches!(
            refused(|claims| claims["aud"] = audience),
            TokenError::Audience { .. }
        ));
    }
}

#[test]
fn another_issuer_is_refused() {
    let error = refused(|claims| claims["iss"] = json!("https://kubernetes.default.svc"));
    assert!(matches!(error, TokenError::Issuer { .. }));
}

#[test]
fn a_token_that_is_not_bound_to_a_pod_is_refused() {
    let unbound = refused(|claims| {
        claims["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    });
    assert_eq!(unbound, TokenError::NoPod);
    let bare = refused(|claims| {
        claims.as_object_mut().unwrap().remove("kubernetes.io");
    });
    assert_eq!(bare, TokenError::NoPod);
    assert_eq!(
        refused(|claims| claims["kubernetes.io"]["pod"]["uid"] = json!("")),
        TokenError::NoPod
    );
    assert_eq!(
        refused(|claims| claims["kubernetes.io"]["pod"] = json!({"name": "web-1"})),
        TokenError::NoPod
    );
}

#[test]
fn subject_and_binding_must_agree() {
    for subject in [
        "system:serviceaccount:shop:admin",
        "system:serviceaccount:other:web",
        "system:node:shop:web",
        "",
    ] {
        assert!(
            matches!(refused(|claims| claims["sub"] = json!(subject)), TokenError::Form(_)),
            "{subject}"
        );
    }
}

#[test]
fn claims_of_another_shape_are_refused() {
    for claim in ["iss", "sub", "aud", "exp", "iat"] {
        let error = refused(|claims| {
            claims.as_object_mut().unwrap().remove(claim);
        });
        assert!(matches!(error, TokenError::Form(_)), "{claim}: {error:?}");
    }
    for value in [json!("soon"), json!(-1), json!(null), json!(1e40)] {
        assert!(matches!(refused(|claims| claims["exp"] = value), TokenError::Form(_)));
    }
}

#[test]
fn a_changed_token_is_refused() {
    let signer = signer();
    let token = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let other = signer
        .sign(
            &Bearer {
                namespace: "bank".to_owned(),
                ..bearer()
            },
            AUDIENCE,
            HOUR,
            now(),
        )
        .unwrap();
    let claims_of_other = format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2]);
    assert_eq!(check(&signer, &claims_of_other, now()), Err(TokenError::Signature));
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(check(&signer, &unsigned, now()), Err(TokenError::Signature));
    for garbage in ["", ".", "..", "a.b.c", parts[0], &token[..token.len() / 3]] {
        assert!(check(&signer, garbage, now()).is_err(), "{garbage:?}");
    }
    let huge = format!("{token}{}", "A".repeat(TOKEN_MAX));
    assert_eq!(check(&signer, &huge, now()), Err(TokenError::Form("it is too large")));
}

#[test]
fn a_key_that_is_not_published_is_refused() {
    let (ours, theirs) = (signer(), signer());
    let token = theirs.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    assert_eq!(check(&ours, &token, now()), Err(TokenError::UnknownKey));
    // The same with our key's name on it.
    let forged = Signer {
        kid: ours.kid.clone(),
        ..theirs
    };
    let token = forged.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    assert_eq!(check(&ours, &token, now()), Err(TokenError::Signature));
    let none = Jwks::from_json(br#"{"keys": []}"#).unwrap();
    assert_eq!(
        verify(&none, ISSUER, AUDIENCE, &token, now()),
        Err(TokenError::UnknownKey)
    );
}

#[test]
fn a_token_cannot_choose_how_it_is_checked() {
    let signer = signer();
    let claims = json!({"iss": ISSUER, "sub": "system:serviceaccount:shop:web", "aud": "weft",
        "exp": 1_900_000_000_u64, "iat": 1_800_000_000_u64});
    // The public key as a shared secret: it works where the token's own header says how to check it.
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(signer.kid.clone());
    let secret = EncodingKey::from_secret(signer.jwks().to_json().as_bytes());
    let token = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert_eq!(check(&signer, &token, now()), Err(TokenError::Signature));
    // `{"alg":"none"}` in base64url.
    let good = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    assert!(check(&signer, &none, now()).is_err());
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(signer.kid.clone());
    header.crit = Some(vec!["exp".to_owned()]);
    let critical = jsonwebtoken::encode(&header, &claims, &signer.key).unwrap();
    assert!(matches!(check(&signer, &critical, now()), Err(TokenError::Form(_))));
}

#[test]
fn shared_secrets_and_unknown_keys_in_a_set_are_left_out() {
    let signer = signer();
    let mut set: Value = serde_json::from_str(&signer.jwks().to_json()).unwrap();
    let keys = set["keys"].as_array_mut().unwrap();
    keys.push(json!({"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"}));
    keys.push(json!({"kty": "quantum", "q": "?", "kid": "new"}));
    let mut for_encryption = keys[0].clone();
    for_encryption["use"] = json!("enc");
    keys.push(for_encryption);
    assert_eq!(Jwks::from_json(set.to_string().as_bytes()).unwrap(), signer.jwks());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("shared".to_owned());
    let token = jsonwebtoken::encode(&header, &json!({}), &EncodingKey::from_secret(b"secret")).unwrap();
    let keys = Jwks::from_json(set.to_string().as_bytes()).unwrap();
    assert_eq!(
        verify(&keys, ISSUER, AUDIENCE, &token, now()),
        Err(TokenError::UnknownKey)
    );
}

#[test]
fn an_rsa_key_of_a_kube_apiserver_is_taken() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    // The library wants PKCS #1, which lies in PKCS #8 behind a head of 26 bytes.
    let key = EncodingKey::from_rsa_der(&pair.serialized_der()[26..]);
    let mut public = Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
    public.common.key_id = Some("rsa".to_owned());
    let signer = Signer {
        issuer: ISSUER.to_owned(),
        kid: "rsa".to_owned(),
        key,
        public,
    };
    let es256 = signer.sign(&bearer(), AUDIENCE, HOUR, now());
    assert!(es256.is_err(), "an RSA key makes no ES256");
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("rsa".to_owned());
    let claims = json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:web", "aud": ["weft"],
        "exp": 1_800_003_600_u64, "iat": 1_800_000_000_u64,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "sa-uid"},
            "pod": {"name": "web-1", "uid": "pod-uid"}},
    });
    let token = jsonwebtoken::encode(&header, &claims, &signer.key).unwrap();
    assert!(check(&signer, &token, now()).is_ok());
}

#[test]
fn several_sets_are_one_across_a_rotation() {
    let (old, new) = (signer(), signer());
    let keys = Jwks::joined([old.jwks(), new.jwks()]);
    for signer in [&old, &new] {
        let token = signer.sign(&bearer(), AUDIENCE, HOUR, now()).unwrap();
        assert!(verify(&keys, ISSUER, AUDIENCE, &token, now()).is_ok());
    }
}

#[test]
fn what_is_no_key_set_is_refused() {
    for text in ["", "{}", "[]", "{\"keys\": 1}"] {
        assert!(Jwks::from_json(text.as_bytes()).is_err(), "{text}");
    }
    let many = json!({"keys": vec![json!({"kty": "quantum"}); KEYS_MAX + 1]});
    assert!(Jwks::from_json(many.to_string().as_bytes()).is_err());
}

#[test]
fn the_signing_key_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let token = Signer::load_or_create(&path, ISSUER)
        .unwrap()
        .sign(&bearer(), AUDIENCE, HOUR, now())
        .unwrap();
    let again = Signer::load_or_create(&path, ISSUER).unwrap();
    assert!(check(&again, &token, now()).is_ok());
    std::fs::write(path.join(KEY_FILE), "damaged").unwrap();
    assert!(matches!(
        Signer::load_or_create(&path, ISSUER),
        Err(IssuerError::Key(_))
    ));
}

#[test]
fn debug_does_not_show_the_key() {
    let shown = format!("{:?}", signer());
    assert!(
        shown.starts_with("Signer { issuer: ") && !shown.contains("key:"),
        "{shown}"
    );
}
