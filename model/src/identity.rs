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
    #[error("trust domain {0:?} must be 1 to {TRUST_DOMAIN_MAX} characters of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// The string does not have the form of an identity of the mesh.
    #[error("{0:?} is not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
    Form(String),
}

impl TrustDomain {
    /// Checks and takes a trust domain.
    ///
    /// SPIFFE allows a little more: here each must be able to end an SNI name, or its endpoints could not be dialled.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let last_is_number = name
            .rsplit('.')
            .next()
            .is_none_or(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if name.len() > TRUST_DOMAIN_MAX || !name.split('.').all(is_label) || last_is_number {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A DNS label (RFC 1035 section 2.3.1, with `_` and digits anywhere) in lower case.
fn is_label(label: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(valid)
}

impl Identity {
    /// Puts an identity together. Fails where a part could not be written in a SPIFFE ID.
    pub fn new(trust_domain: TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
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
    pub fn control_plane(trust_domain: TrustDomain, namespace: &str) -> Result<Self, IdentityError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_domains_are_what_can_end_an_sni_name() {
        let long = format!("{}.{}", "a".repeat(63), "b".repeat(26));
        for good in [
            "a",
            "mesh.weft.internal",
            "0123456789ab.weft.internal",
            "a_b",
            "a-b",
            "1.a",
            "a1",
            &long,
        ] {
            assert_eq!(TrustDomain::new(good).unwrap().as_str(), good);
        }
        let (longer, label) = (format!("{long}c"), "a".repeat(64));
        let bad = [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "A", "ä", "a b", "a/b", "a:1", "1", "a.1", "a\0",
        ];
        for bad in bad.into_iter().chain([longer.as_str(), label.as_str()]) {
            assert!(
                matches!(TrustDomain::new(bad), Err(IdentityError::TrustDomain(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_identity_is_read_as_it_is_printed() {
        let text = "spiffe://mesh.weft.internal/ns/shop/sa/reviews";
        let identity: Identity = text.parse().unwrap();
        assert_eq!(identity.to_string(), text);
        assert_eq!(identity.trust_domain().as_str(), "mesh.weft.internal");
        assert_eq!((identity.namespace(), identity.service_account()), ("shop", "reviews"));
    }

    #[test]
    fn what_is_nearly_an_identity_is_none() {
        let bad = [
            "",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://a/ns/b",
            "spiffe://a/ns/b/sa/",
            "spiffe://a/ns//sa/c",
            "spiffe:///ns/b/sa/c",
            "spiffe://a/ns/b/sa/c/",
            "spiffe://a/ns/b/sa/c/d",
            "spiffe://a//ns/b/sa/c",
            "spiffe://a/NS/b/sa/c",
            "SPIFFE://a/ns/b/sa/c",
            "http://a/ns/b/sa/c",
            "spiffe://A/ns/b/sa/c",
            "spiffe://a/ns/../sa/c",
            "spiffe://a/ns/b/sa/.",
            "spiffe://a/ns/b/sa/c?d",
            "spiffe://a/ns/b/sa/c#d",
            "spiffe://a/ns/b/sa/%63",
            "spiffe://a:1/ns/b/sa/c",
            "spiffe://u@a/ns/b/sa/c",
            " spiffe://a/ns/b/sa/c",
            "spiffe://a/ns/b/sa/c\0",
            "spiffe://a/ns/b/sa/c\n",
            "spiffe://a/sa/b/ns/c",
        ];
        for bad in bad {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_that_could_not_be_written_are_refused() {
        let domain = || TrustDomain::new("a").unwrap();
        assert!(Identity::new(domain(), "shop", "web").is_ok());
        let long = "x".repeat(254);
        for bad in ["", ".", "..", "a/b", "a b", "ä", long.as_str()] {
            assert!(Identity::new(domain(), bad, "web").is_err(), "{bad:?}");
            assert!(Identity::new(domain(), "shop", bad).is_err(), "{bad:?}");
        }
        let control = Identity::control_plane(domain(), "weft-system").unwrap();
        assert_eq!(control.to_string(), "spiffe://a/ns/weft-system/sa/weft-control");
    }
}
