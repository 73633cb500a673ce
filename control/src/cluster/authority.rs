//! The mesh's root on a cluster: the Secret `weft-authority`, made once, or supplied.

use std::time::SystemTime;

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use weft_certs::authority::Authority;
use weft_model::identity::TrustDomain;

use super::{Cluster, ClusterError, Pause, patiently};
use crate::authority::Chain;

/// The Secret of the authority, in the control plane's namespace.
pub(crate) const SECRET: &str = "weft-authority";
/// Another replica may make it at the same moment, or somebody remove it: then it is looked at again.
const ATTEMPTS: usize = 3;
/// For so many looks, about a minute, a supplied one may be late.
const WAITS: usize = 12;

impl Cluster {
    /// The authority of the Secret, which is made if it is not there; one that is supplied is waited for.
    ///
    /// # Errors
    /// The API server is away or refuses, or the Secret holds no authority of this trust domain.
    pub(crate) async fn authority(
        &self,
        namespace: &str,
        trust_domain: &TrustDomain,
        supplied: bool,
    ) -> Result<Authority, ClusterError> {
        const READ: &str = "reading the Secret of the authority";
        const MAKE: &str = "making the Secret of the authority";
        let all = format!("/api/v1/namespaces/{namespace}/secrets");
        let path = format!("{all}/{SECRET}");
        let what = format!("the Secret {namespace}/{SECRET}");
        let mut pause = Pause::default();
        for _ in 0..if supplied { WAITS } else { ATTEMPTS } {
            let found = patiently(READ, async || match self.api.get(&path).await {
                Ok(secret) => Ok(Some(secret)),
                Err(fault) if fault.is_missing() => Ok(None),
                Err(fault) => Err(fault),
            });
            if let Some(secret) = found.await? {
                return read(&secret, trust_domain, SystemTime::now())
                    .map_err(|why| ClusterError::Object { what, why });
            }
            if supplied {
                tracing::warn!(namespace, secret = SECRET, "the authority is not supplied yet");
                pause.wait().await;
                continue;
            }
            let secret = new(namespace, trust_domain).map_err(|why| ClusterError::Object {
                what: what.clone(),
                why,
            })?;
            match self.api.create(&all, &secret).await {
                Ok(_) => tracing::info!(namespace, secret = SECRET, "made the authority of the mesh"),
                // Theirs is the authority.
                Err(fault) if fault.is_conflict() || fault.is_away() => {}
                Err(fault) => return Err(ClusterError::Fault(MAKE, fault)),
            }
        }
        Err(ClusterError::Object {
            what,
            why: match supplied {
                true => "it is to be supplied, and is not there".to_owned(),
                false => "it is gone as soon as it is made".to_owned(),
            },
        })
    }
}

fn new(namespace: &str, trust_domain: &TrustDomain) -> Result<Value, String> {
    let made = Authority::create_pem(trust_domain, SystemTime::now());
    let (root, key) = made.map_err(|error| Chain(&error).to_string())?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": SECRET, "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "weft", "app.kubernetes.io/part-of": "weft"}
        },
        "data": {
            "tls.crt": ByteString(root.clone().into_bytes()),
            "tls.key": ByteString(key.as_bytes().to_vec()),
            "ca.crt": ByteString(root.into_bytes())
        }
    }))
}

/// Reads a Secret as Kubernetes and cert-manager lay it out: the issuing certificate and what leads to the root in `tls.crt`,
/// its key in `tls.key`, the root in `ca.crt`.
fn read(secret: &Value, trust_domain: &TrustDomain, now: SystemTime) -> Result<Authority, String> {
    let field = |name: &str| -> Result<Option<Vec<u8>>, String> {
        let data: Option<ByteString> = serde_json::from_value(secret["data"][name].clone())
            .map_err(|_| format!("{name} is no base64"))
            .or_else(|error| {
                if secret["data"][name].is_null() {
                    Ok(None)
                } else {
                    Err(error)
                }
            })?;
        Ok(data.map(|ByteString(bytes)| bytes).filter(|bytes| !bytes.is_empty()))
    };
    let needed = |name: &str| {
        field(name)?.ok_or_else(|| format!("{name} is missing: it must be of the type kubernetes.io/tls, or removed"))
    };
    let (mut certificates, key) = (needed("tls.crt")?, needed("tls.key")?);
    if let Some(root) = field("ca.crt")? {
        certificates.push(b'\n');
        certificates.extend(root);
    }
    let authority = Authority::supplied(trust_domain.clone(), &certificates, &key).map_err(|error| {
        format!(
            "{}. It needs a CA's certificate in tls.crt, its ECDSA P-256 key as PKCS #8 in tls.key, and its root in ca.crt; \
             of cert-manager: isCA: true, privateKey: {{algorithm: ECDSA, size: 256, encoding: PKCS8}}",
            Chain(&error)
        )
    })?;
    if authority.not_after() <= now {
        return Err("its certificate has ended: renew it".to_owned());
    }
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::super::tests::server;
    use super::*;
    use std::time::Duration;

    fn domain() -> TrustDomain {
        TrustDomain::new("test.weft.internal").unwrap()
    }

    #[test]
    fn what_is_made_can_be_read_and_what_is_none_says_why() {
        let secret = new("weft-system", &domain()).unwrap();
        let now = SystemTime::now();
        let authority = read(&secret, &domain(), now).unwrap();
        assert_eq!(authority.trust_domain(), &domain());

        let later = now + Duration::from_secs(11 * 365 * 24 * 3600);
        assert!(read(&secret, &domain(), later).unwrap_err().contains("has ended"));
        let other = TrustDomain::new("other.weft.internal").unwrap();
        assert!(
            read(&secret, &other, now)
                .unwrap_err()
                .contains("not of other.weft.internal")
        );
        for (field, value, why) in [
            ("tls.key", Value::Null, "tls.key is missing"),
            ("tls.crt", json!("?"), "tls.crt is no base64"),
            ("tls.key", json!("aGVsbG8="), "PKCS #8"),
        ] {
            let mut bad = secret.clone();
            bad["data"][field] = value;
            let error = read(&bad, &domain(), now).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn of_two_replicas_that_make_the_secret_at_once_both_end_with_the_same() {
        let (mut server, api) = server();
        let cluster = Cluster { api };
        let theirs = new("weft-system", &domain()).unwrap();
        let serve = async {
            server.next().await.refuse(404, "NotFound");
            let made = server.next().await;
            assert_eq!(
                (made.method.as_str(), &made.body["type"]),
                ("POST", &json!("kubernetes.io/tls"))
            );
            made.refuse(409, "AlreadyExists");
            server.next().await.answer(200, &theirs);
        };
        let domain = domain();
        let (authority, ()) = tokio::join!(cluster.authority("weft-system", &domain, false), serve);
        let read = read(&theirs, &domain, SystemTime::now()).unwrap();
        assert_eq!(authority.unwrap().root(), read.root());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_supplied_is_waited_for_and_never_made() {
        let (mut server, api) = server();
        let cluster = Cluster { api };
        let theirs = new("weft-system", &domain()).unwrap();
        let serve = async {
            for _ in 0..3 {
                let asked = server.next().await;
                assert_eq!(asked.method, "GET");
                asked.refuse(404, "NotFound");
            }
            server.next().await.answer(200, &theirs);
        };
        let domain = domain();
        let (authority, ()) = tokio::join!(cluster.authority("weft-system", &domain, true), serve);
        assert!(authority.is_ok());
    }
}
