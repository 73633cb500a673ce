//! SNI names between proxies: they route, and never authorise.
//!
//! `p<port>.<endpoint>.<service>.<namespace>.svc.<trust-domain>`, or for a pod addressed directly
//! `p<port>.<endpoint>.<namespace>.pod.<trust-domain>`.

use crate::endpoint::EndpointKey;

/// The SNI of an endpoint reached through a Service.
pub fn of_service(key: EndpointKey, service: &str, namespace: &str, trust_domain: &str) -> String {
    format!(
        "p{}.{}.{service}.{namespace}.svc.{trust_domain}",
        key.port, key.id
    )
}

/// The SNI of a pod addressed directly.
pub fn of_pod(key: EndpointKey, namespace: &str, trust_domain: &str) -> String {
    format!("p{}.{}.{namespace}.pod.{trust_domain}", key.port, key.id)
}
