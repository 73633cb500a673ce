//! SNI names between proxies: they route, and never authorise.
//!
//! `p<port>.<endpoint>.<service>.<namespace>.svc.<trust-domain>`, or for a pod addressed directly
//! `p<port>.<endpoint>.<namespace>.pod.<trust-domain>`.

use crate::endpoint::EndpointKey;

/// The SNI of an endpoint reached through a Service.
pub fn of_service(key: EndpointKey, service: &str, namespace: &str, trust_domain: &str) -> String {
    format!("p{}.{}.{service}.{namespace}.svc.{trust_domain}", key.port, key.id)
}

/// The SNI of a pod addressed directly.
pub fn of_pod(key: EndpointKey, namespace: &str, trust_domain: &str) -> String {
    format!("p{}.{}.{namespace}.pod.{trust_domain}", key.port, key.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::EndpointId;
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
}
