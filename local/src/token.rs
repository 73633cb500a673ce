//! Service-account tokens, as kubelet asks an API server for them: bound to one pod, renewed while it runs.
//!
//! In: a pod and what its volumes ask for. Out: tokens, and when the next one is due. The key lies in the mesh's state
//! directory (`keys/`); the control plane gets only the public half ([`Tokens::key_set`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use weft_certs::token::{Bearer, IssuerError, NamedObject, Signer};
use weft_control::objects::uid_of;

use crate::manifest::raw::TokenSource;

/// Who issues the tokens of a cluster (Kubernetes' own default).
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs tokens.
#[derive(Debug)]
pub struct Tokens {
    signer: Signer,
}

/// A pod's tokens, so that a volume that is looked at again holds the same ones until they are due.
#[derive(Debug, Default)]
pub struct PodTokens {
    /// By audience and lifetime in seconds.
    tokens: BTreeMap<(String, u64), String>,
    due: BTreeMap<(String, u64), Instant>,
}

impl Tokens {
    /// Opens or makes the signing key.
    ///
    /// # Errors
    /// The directory or the key can't be used.
    pub fn open(keys: &Path) -> Result<Self, IssuerError> {
        Ok(Self {
            signer: Signer::load_or_create(keys, ISSUER)?,
        })
    }

    /// The JSON Web Key Set that tokens are checked with.
    pub fn key_set(&self) -> String {
        self.signer.jwks().to_json()
    }

    fn sign(&self, pod: &Value, audience: &str, lifetime: Duration, now: SystemTime) -> Result<String, IssuerError> {
        let text = |part: &str, field: &str| pod[part][field].as_str().unwrap_or_default().to_owned();
        let namespace = text("metadata", "namespace");
        let account = text("spec", "serviceAccountName");
        let node = text("spec", "nodeName");
        let bearer = Bearer {
            service_account: NamedObject {
                uid: uid_of("ServiceAccount", &namespace, &account),
                name: account,
            },
            pod: NamedObject {
                name: text("metadata", "name"),
                uid: text("metadata", "uid"),
            },
            node: (!node.is_empty()).then(|| NamedObject {
                uid: uid_of("Node", "", &node),
                name: node,
            }),
            namespace,
        };
        self.signer.sign(&bearer, audience, lifetime, now)
    }
}

impl PodTokens {
    /// Signs what is not held yet, or is due, for all that a pod's volumes ask for. True: something is new.
    ///
    /// # Errors
    /// The signer's.
    pub fn refresh(
        &mut self,
        tokens: &Tokens,
        pod: &Value,
        sources: &[TokenSource],
        now: (Instant, SystemTime),
    ) -> Result<bool, IssuerError> {
        let mut new = false;
        for source in sources {
            let lifetime = Duration::from_secs(source.seconds());
            let key = (source.audience().to_owned(), lifetime.as_secs());
            if self.due.get(&key).is_some_and(|due| *due > now.0) {
                continue;
            }
            let token = tokens.sign(pod, &key.0, lifetime, now.1)?;
            // At 80 % of its life, as kubelet does.
            self.due.insert(key.clone(), now.0 + lifetime * 4 / 5);
            self.tokens.insert(key, token);
            new = true;
        }
        Ok(new)
    }

    /// All tokens, by audience and lifetime in seconds.
    pub fn all(&self) -> &BTreeMap<(String, u64), String> {
        &self.tokens
    }

    /// When the next one is due.
    pub fn due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_certs::token::{Jwks, verify};

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "u1"},
            "spec": {"serviceAccountName": "web", "nodeName": "n1"},
        })
    }

    fn source(audience: &str) -> TokenSource {
        TokenSource {
            audience: audience.to_owned(),
            expiration_seconds: Some(3600),
            path: "token".to_owned(),
        }
    }

    #[test]
    fn a_token_says_which_pod_it_is_bound_to() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        let mut held = PodTokens::default();
        let now = SystemTime::now();
        held.refresh(&tokens, &pod(), &[source("weft")], (Instant::now(), now))
            .unwrap();
        let keys = Jwks::from_json(tokens.key_set().as_bytes()).unwrap();
        let token = &held.all()[&("weft".to_owned(), 3600)];
        let claims = verify(&keys, ISSUER, "weft", token, now).unwrap();
        assert_eq!(
            claims.bearer.pod,
            NamedObject {
                name: "web-1".into(),
                uid: "u1".into()
            }
        );
        assert_eq!(claims.bearer.service_account.name, "web");
        assert!(verify(&keys, ISSUER, "other", token, now).is_err());
    }

    #[test]
    fn a_token_is_kept_until_four_fifths_of_its_life_and_then_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        let mut held = PodTokens::default();
        let (start, clock) = (Instant::now(), SystemTime::now());
        let mut at = |seconds: u64| {
            let later = Duration::from_secs(seconds);
            held.refresh(&tokens, &pod(), &[source("weft")], (start + later, clock + later))
                .unwrap()
        };
        assert!(at(0));
        assert!(!at(2879));
        assert!(at(2880));
    }

    #[test]
    fn the_key_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first = Tokens::open(directory.path()).unwrap().key_set();
        assert_eq!(Tokens::open(directory.path()).unwrap().key_set(), first);
    }
}
