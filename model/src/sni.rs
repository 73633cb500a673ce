//! SNI names between proxies: they route, and never authorise.
//!
//! `p<port>.<endpoint>.<service>.<namespace>.svc.<trust-domain>`, or for a pod addressed directly
//! `p<port>.<endpoint>.<namespace>.pod.<trust-domain>`.

use crate::endpoint::{EndpointId, EndpointKey};
use crate::identity::TrustDomain;

/// A DNS label's longest (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;

/// What an SNI name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni<'a> {
    /// An endpoint reached through a Service.
    Service {
        /// The endpoint.
        key: EndpointKey,
        /// The Service's name.
        service: &'a str,
        /// The Service's namespace.
        namespace: &'a str,
        /// The trust domain of the identity that is expected there.
        trust_domain: TrustDomain,
    },
    /// A pod addressed directly.
    Pod {
        /// The endpoint.
        key: EndpointKey,
        /// The pod's namespace.
        namespace: &'a str,
        /// The trust domain of the identity that is expected there.
        trust_domain: TrustDomain,
    },
}

/// The SNI of an endpoint reached through a Service.
pub fn of_service(key: EndpointKey, service: &str, namespace: &str, trust_domain: &str) -> String {
    format!("p{}.{}.{service}.{namespace}.svc.{trust_domain}", key.port, key.id)
}

/// The SNI of a pod addressed directly.
pub fn of_pod(key: EndpointKey, namespace: &str, trust_domain: &str) -> String {
    format!("p{}.{}.{namespace}.pod.{trust_domain}", key.port, key.id)
}

/// Reads exactly what [`of_service`] and [`of_pod`] write, and nothing else. A Service in a namespace called `pod` reads like
/// a pod of a trust domain that begins with `svc.`: it is taken for the Service, and the endpoint's key is the same.
pub fn parse(name: &str) -> Option<Sni<'_>> {
    let (port, rest) = name.strip_prefix('p')?.split_once('.')?;
    let (id, rest) = rest.split_once('.')?;
    let key = EndpointKey {
        id: endpoint_id(id)?,
        port: self::port(port)?,
    };
    let (first, rest) = rest.split_once('.')?;
    let (second, rest) = rest.split_once('.')?;
    if let Some(trust_domain) = rest.strip_prefix("svc.") {
        return Some(Sni::Service {
            key,
            service: label(first)?,
            namespace: label(second)?,
            trust_domain: TrustDomain::new(trust_domain).ok()?,
        });
    }
    (second == "pod").then_some(())?;
    Some(Sni::Pod {
        key,
        namespace: label(first)?,
        trust_domain: TrustDomain::new(rest).ok()?,
    })
}

/// 1 to 65535, as numbers are printed.
fn port(text: &str) -> Option<u16> {
    let digits = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// 16 hex digits in lower case.
fn endpoint_id(text: &str) -> Option<EndpointId> {
    let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u64::from_str_radix(text, 16).ok().map(EndpointId))?
}

/// The name of a Service or a Namespace (RFC 1123 section 2.1, in lower case).
fn label(text: &str) -> Option<&str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let valid = (1..=LABEL_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    valid.then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::TRUST_DOMAIN_MAX;

    const KEY: EndpointKey = EndpointKey {
        id: EndpointId(0xff),
        port: 8080,
    };

    #[test]
    fn names_have_the_form_that_gateways_route_by() {
        let service = of_service(KEY, "reviews", "shop", "mesh.weft.internal");
        assert_eq!(service, "p8080.00000000000000ff.reviews.shop.svc.mesh.weft.internal");
        assert_eq!(
            of_pod(KEY, "shop", "mesh.weft.internal"),
            "p8080.00000000000000ff.shop.pod.mesh.weft.internal"
        );
    }

    #[test]
    fn the_longest_name_is_within_dns_limits() {
        let key = EndpointKey {
            id: EndpointId(u64::MAX),
            port: u16::MAX,
        };
        let (label, trust_domain) = ("a".repeat(63), "a".repeat(TRUST_DOMAIN_MAX));
        assert!(of_service(key, &label, &label, &trust_domain).len() <= 253);
    }

    #[test]
    fn both_forms_are_read() {
        let trust_domain = TrustDomain::new("mesh.weft.internal").unwrap();
        let service = "p8080.00000000000000ff.reviews.shop.svc.mesh.weft.internal";
        assert_eq!(
            parse(service),
            Some(Sni::Service {
                key: KEY,
                service: "reviews",
                namespace: "shop",
                trust_domain: trust_domain.clone(),
            })
        );
        assert_eq!(
            parse("p8080.00000000000000ff.shop.pod.mesh.weft.internal"),
            Some(Sni::Pod {
                key: KEY,
                namespace: "shop",
                trust_domain,
            })
        );
    }

    #[test]
    fn what_is_nearly_a_name_is_none() {
        let long = "a".repeat(LABEL_MAX + 1);
        let (long_service, long_domain) = (
            format!("p1.00000000000000ff.{long}.shop.svc.a"),
            format!("p1.00000000000000ff.reviews.shop.svc.{}", "a.".repeat(45) + "b"),
        );
        let bad = [
            "",
            "p",
            "p.00000000000000ff.reviews.shop.svc.a",
            "8080.00000000000000ff.reviews.shop.svc.a",
            "p0.00000000000000ff.reviews.shop.svc.a",
            "p08.00000000000000ff.reviews.shop.svc.a",
            "p+8.00000000000000ff.reviews.shop.svc.a",
            "p-8.00000000000000ff.reviews.shop.svc.a",
            "p65536.00000000000000ff.reviews.shop.svc.a",
            "p99999999999999999999.00000000000000ff.reviews.shop.svc.a",
            "p٨.00000000000000ff.reviews.shop.svc.a",
            "P8080.00000000000000ff.reviews.shop.svc.a",
            "p8080.ff.reviews.shop.svc.a",
            "p8080.0000000000000ff.reviews.shop.svc.a",
            "p8080.000000000000000ff.reviews.shop.svc.a",
            "p8080.00000000000000FF.reviews.shop.svc.a",
            "p8080.+0000000000000ff.reviews.shop.svc.a",
            "p8080.00000000000000fg.reviews.shop.svc.a",
            "p8080.00000000000000ff",
            "p8080.00000000000000ff.reviews.shop",
            "p8080.00000000000000ff.reviews.shop.svc",
            "p8080.00000000000000ff.reviews.shop.svc.",
            "p8080.00000000000000ff.reviews.shop.SVC.a",
            "p8080.00000000000000ff.reviews.shop.svc.A",
            "p8080.00000000000000ff.reviews.shop.svc.a.",
            "p8080.00000000000000ff.reviews.shop.svc..a",
            "p8080.00000000000000ff.reviews.shop.svc.a/b",
            "p8080.00000000000000ff.reviews.shop.svc.10",
            "p8080.00000000000000ff.reviews.shop.svcs.a",
            "p8080.00000000000000ff.reviews.shop.ns.svc.a",
            "p8080.00000000000000ff.Reviews.shop.svc.a",
            "p8080.00000000000000ff.-reviews.shop.svc.a",
            "p8080.00000000000000ff.reviews-.shop.svc.a",
            "p8080.00000000000000ff.re_views.shop.svc.a",
            "p8080.00000000000000ff..shop.svc.a",
            "p8080.00000000000000ff.reviews..svc.a",
            "p8080.00000000000000ff.shop.pod",
            "p8080.00000000000000ff.shop.pod.",
            "p8080.00000000000000ff.shop.Pod.a",
            "p8080.00000000000000ff.SHOP.pod.a",
            "p8080.00000000000000ff..pod.a",
            "p8080.00000000000000ff.pod.a",
            " p8080.00000000000000ff.reviews.shop.svc.a",
            "p8080.00000000000000ff.reviews.shop.svc.a\0",
            "p8080.00000000000000ff.reviews.shop.svc.a\n",
            &long_service,
            &long_domain,
        ];
        for bad in bad {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_service_of_a_namespace_called_pod_is_a_service() {
        let name = of_service(KEY, "reviews", "pod", "a");
        assert!(matches!(
            parse(&name),
            Some(Sni::Service {
                service: "reviews",
                namespace: "pod",
                ..
            })
        ));
    }

    fn key() -> impl Strategy<Value = EndpointKey> {
        (any::<u64>(), 1..=u16::MAX).prop_map(|(id, port)| EndpointKey {
            id: EndpointId(id),
            port,
        })
    }

    fn object() -> impl Strategy<Value = String> {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    }

    fn trust_domain() -> impl Strategy<Value = TrustDomain> {
        "([a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?\\.){0,4}[a-z]([a-z0-9-]{0,10}[a-z0-9])?"
            .prop_map(|name| TrustDomain::new(&name).unwrap())
    }

    proptest! {
        #[test]
        fn a_service_s_name_is_read_as_it_was_written(
            key in key(),
            service in object(),
            namespace in object(),
            trust_domain in trust_domain(),
        ) {
            let name = of_service(key, &service, &namespace, trust_domain.as_str());
            let (service, namespace) = (service.as_str(), namespace.as_str());
            prop_assert_eq!(parse(&name), Some(Sni::Service { key, service, namespace, trust_domain }));
        }

        #[test]
        fn a_pod_s_name_is_read_as_it_was_written(
            key in key(),
            namespace in object(),
            trust_domain in trust_domain().prop_filter("a Service's", |name| !name.as_str().starts_with("svc.")),
        ) {
            let name = of_pod(key, &namespace, trust_domain.as_str());
            let namespace = namespace.as_str();
            prop_assert_eq!(parse(&name), Some(Sni::Pod { key, namespace, trust_domain }));
        }

        #[test]
        fn what_is_read_is_what_would_have_been_written(
            key in key(),
            service in object(),
            namespace in object(),
            trust_domain in trust_domain(),
            pod in any::<bool>(),
            at in any::<prop::sample::Index>(),
            byte in prop::sample::select(b"aZ09.-_p \0/".to_vec()),
        ) {
            let mut name = match pod {
                true => of_pod(key, &namespace, trust_domain.as_str()),
                false => of_service(key, &service, &namespace, trust_domain.as_str()),
            };
            let at = at.index(name.len());
            name.replace_range(at..=at, &char::from(byte).to_string());
            // A byte was changed: it is refused, or it is another name, written as it would be.
            let written = parse(&name).map(|sni| match sni {
                Sni::Service { key, service, namespace, trust_domain } => {
                    of_service(key, service, namespace, trust_domain.as_str())
                }
                Sni::Pod { key, namespace, trust_domain } => of_pod(key, namespace, trust_domain.as_str()),
            });
            if let Some(written) = written {
                prop_assert_eq!(written, name);
            }
        }
    }
}
