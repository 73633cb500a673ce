//! The mesh's root on a cluster: the Secret `weft-authority`, made once, or supplied.

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use serde_json::{Value, json};
use weft_certs::authority::Authority;
use weft_model::identity::TrustDomain;

use super::{Cluster, ClusterError, Pause, patiently};
use crate::authority::{Chain, Issuer, Renewal};

/// The Secret of the authority, in the control plane's namespace.
pub(crate) const SECRET: &str = "weft-authority";
/// Another replica may make it at the same moment, or somebody remove it: then it is looked at again.
const ATTEMPTS: usize = 3;
/// For so many looks, about a minute, a supplied one may be late.
const WAITS: usize = 12;
/// The Secret is looked at again after this: whoever supplies it renews it long before it ends.
const AGAIN: Duration = Duration::from_secs(300);

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

impl Cluster {
    /// Goes on with what the Secret says, for ever: its issuing certificate ends and is renewed, as by cert-manager. One of
    /// another root is not taken: nobody would trust what it issues.
    pub(crate) async fn follow_authority(&self, namespace: &str, issuer: &Issuer) {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{SECRET}");
        let mut seen = None;
        loop {
            tokio::time::sleep(AGAIN).await;
            let secret = match self.api.get(&path).await {
                Ok(secret) => secret,
                Err(fault) => {
                    tracing::debug!(error = %fault, "the authority's Secret is not read again");
                    continue;
                }
            };
            let version = secret["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            if version == seen {
                continue;
            }
            match read(&secret, issuer.trust_domain(), SystemTime::now()).map(|authority| issuer.renew(authority)) {
                Ok(Renewal::Same) => {}
                Ok(Renewal::Taken) => tracing::info!(namespace, secret = SECRET, "issues with the renewed certificate"),
                Ok(Renewal::OtherRoot) => tracing::error!(
                    namespace,
                    secret = SECRET,
                    "has another root, which no proxy trusts: goes on with what was there at the start"
                ),
                Err(why) => tracing::error!(
                    namespace,
                    secret = SECRET,
                    why,
                    "is no authority any more: goes on with what it was"
                ),
            }
            seen = version;
        }
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

    /// A Secret as cert-manager writes it, of an intermediate of its own that ends after so many days.
    fn supplied(root: &(rcgen::Certificate, rcgen::KeyPair), days: i64, version: &str) -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = authority_params(days)
            .signed_by(&key, &rcgen::Issuer::from_ca_cert_der(root.0.der(), &root.1).unwrap())
            .unwrap();
        let data = |text: String| ByteString(text.into_bytes());
        json!({
            "metadata": {"name": SECRET, "resourceVersion": version}, "type": "kubernetes.io/tls",
            "data": {
                "tls.crt": data(certificate.pem()), "tls.key": data(key.serialize_pem()), "ca.crt": data(root.0.pem())
            }
        })
    }

    fn authority_params(days: i64) -> rcgen::CertificateParams {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - time::Duration::days(1), now + time::Duration::days(days));
        params
    }

    fn root() -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        (authority_params(3650).self_signed(&key).unwrap(), key)
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_issuing_certificate_is_taken_and_one_of_another_root_is_not() {
        let (mut server, api) = server();
        let cluster = Cluster { api };
        let ours = root();
        let first = read(&supplied(&ours, 30, "1"), &domain(), SystemTime::now()).unwrap();
        let issuer = Issuer::new(first, "weft-system", Duration::from_secs(3600)).unwrap();
        let days = || {
            issuer
                .authority()
                .not_after()
                .duration_since(SystemTime::now())
                .unwrap()
                .as_secs()
                / 86_400
        };
        assert_eq!(days(), 29);
        let mut answer = async |secret: Value| server.next().await.answer(200, &secret);
        let serve = async {
            answer(supplied(&ours, 90, "2")).await;
            // Asked again: what was said before has been acted on.
            answer(supplied(&root(), 300, "3")).await;
            assert_eq!(days(), 89);
            answer(json!({"metadata": {"resourceVersion": "4"}})).await;
            answer(supplied(&ours, 90, "2")).await;
        };
        tokio::select! {
            () = cluster.follow_authority("weft-system", &issuer) => {}
            () = serve => {}
        }
        assert_eq!(days(), 89);
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
