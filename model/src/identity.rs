//! Who a workload is: SPIFFE IDs.

use std::fmt;
use std::str::FromStr;

/// The longest trust domain that Weft accepts, so that an SNI name with it stays within DNS limits.
pub const TRUST_DOMAIN_MAX: usize = 90;

/// A trust domain: the name of one root of trust (SPIFFE ID standard, section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: TrustDomain,
    namespace: String,
    service_account: String,
}

/// Why a string is no SPIFFE ID of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain is empty, too long, or has a character that is not `[a-z0-9._-]`.
    #[error(
        "trust domain {0:?} must be 1 to {TRUST_DOMAIN_MAX} characters of a-z, 0-9, '.', '-' and '_'"
    )]
    TrustDomain(String),
    /// The string does not have the form of an identity of the mesh.
    #[error("{0:?} is not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
    Form(String),
}

impl TrustDomain {
    /// Checks and takes a trust domain.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let valid =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > TRUST_DOMAIN_MAX || !name.bytes().all(valid) {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Identity {
    /// Puts an identity together. Fails where a part could not be written in a SPIFFE ID.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        let valid = |s: &str| {
            !s.is_empty()
                && s.len() <= 253
                && s != "."
                && s != ".."
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !valid(namespace) || !valid(service_account) {
            return Err(IdentityError::Form(format!(
                "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
            )));
        }
        Ok(Self {
            trust_domain,
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }

    /// The control plane's own identity in a trust domain (`design`: `ns/weft-system/sa/weft-control` by default).
    pub fn control_plane(
        trust_domain: TrustDomain,
        namespace: &str,
    ) -> Result<Self, IdentityError> {
        Self::new(trust_domain, namespace, "weft-control")
    }

    /// The root of trust that vouches for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let form = || IdentityError::Form(s.to_owned());
        let rest = s.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts[..] else {
            return Err(form());
        };
        Self::new(TrustDomain::new(trust_domain)?, namespace, service_account)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}
