//! What an app dialled, and what is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_model::destination::{Lookup, Protocol, Target};
use weft_model::name::ServicePort;

use super::key::ServiceKey;
use super::ledger::Ledger;
use super::{Compiled, endpoints, ports, remote};
use crate::federation::derived::derived_name;
use crate::index::{Index, Kept, Name, Topic};

/// How long a negative answer may be used. A proxy that is subscribed hears of a change at once; this bounds what one
/// believes that has lost the control plane.
const NEGATIVE: Duration = Duration::from_secs(5);
const OUTSIDE: Lookup = Lookup::Outside { ttl: NEGATIVE };

/// What is at a target, for a client of this namespace. `None`: not known yet.
pub(super) fn lookup(index: &Index, target: &Target, client: &str) -> Compiled<Option<Lookup>> {
    let mut ledger = Ledger::default();
    let value = match target {
        Target::Address(address) => {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            at_address(index, address, client, &mut ledger)
        }
        Target::Host { host, port } => match service_of_host(host, client, &index.settings.cluster_domain) {
            Some(name) => Some(at_service(index, &name, *port, client, &mut ledger).unwrap_or(OUTSIDE)),
            None => Some(OUTSIDE),
        },
    };
    ledger.close(value)
}

fn at_address(index: &Index, address: SocketAddr, client: &str, ledger: &mut Ledger) -> Option<Lookup> {
    let (ip, port) = (address.ip(), address.port());
    ledger.topic(Topic::Address(ip));
    let services: Vec<&Name> = index.services_by_ip.of(&ip).collect();
    let has_port = |name: &&Name| {
        let service = index.services.get(*name).and_then(|kept| kept.form());
        service.is_some_and(|service| service.port(port).is_some())
    };
    // Two Services at one address are a mistake; then the one that has the port answers.
    let service = services
        .iter()
        .copied()
        .find(has_port)
        .or_else(|| services.first().copied());
    if let Some(lookup) = service.and_then(|name| at_service(index, name, port, client, ledger)) {
        return Some(lookup);
    }
    if let Some(name) = index.pod_at(ip) {
        return Some(direct(index, name, address, ledger));
    }
    match remote::at(index, address, ledger) {
        Some((endpoint, protocol)) => Some(Lookup::Direct {
            endpoint: Arc::new(endpoint),
            protocol,
        }),
        // Perhaps a pod that is new, and that we have not heard of: whoever calls waits for that, and plaintext is not sent.
        None if index.expects(ip) => None,
        None => Some(OUTSIDE),
    }
}

/// A pod, which is in the mesh or positively not. One of which that cannot be told is refused.
fn direct(index: &Index, name: &Name, address: SocketAddr, ledger: &mut Ledger) -> Lookup {
    let refused = |reason| Lookup::NoSuchPort {
        reason,
        service: None,
        ttl: NEGATIVE,
    };
    let kept = index.pods.get(name);
    ledger.hold(kept.and_then(Kept::hold));
    let Some((object, pod)) = kept.and_then(|kept| kept.valid.as_ref()) else {
        return refused(format!("the Pod {name} is invalid"));
    };
    let Some(endpoint) = endpoints::of_pod(index, object, pod, address, false, ledger) else {
        let account = &pod.service_account;
        return refused(format!(
            "the Pod {name} has no identity: its service account {account:?} makes none"
        ));
    };
    let protocol = ports::of_pod(index, name, pod, ledger)
        .remove(&address.port())
        .map(|port| port.protocol);
    Lookup::Direct {
        endpoint: Arc::new(endpoint),
        protocol: protocol.unwrap_or(Protocol::Undeclared),
    }
}

/// `None`: there is no such Service, or none that the mesh serves.
fn at_service(index: &Index, name: &Name, port: u16, client: &str, ledger: &mut Ledger) -> Option<Lookup> {
    ledger.topic(Topic::Service(name.clone()));
    let kept = index.services.get(name)?;
    ledger.hold(kept.hold());
    let refused = |reason| Lookup::NoSuchPort {
        reason,
        service: Some(ServicePort {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            port,
        }),
        ttl: NEGATIVE,
    };
    let Some((object, service)) = &kept.valid else {
        return Some(refused(format!("the Service {name} is invalid")));
    };
    if service.external {
        return None;
    }
    ledger.source(object);
    if service.port(port).is_none() {
        let reason = format!("the Service {name} has no TCP port {port}");
        return Some(refused(reason));
    }
    let client = acts_on(index, name, client).then(|| client.to_owned());
    Some(Lookup::Service(
        ServiceKey {
            service: name.clone(),
            port,
            client,
        }
        .to_string(),
    ))
}

/// Whether routes of a namespace act on a Service of another one.
fn acts_on(index: &Index, service: &Name, namespace: &str) -> bool {
    service.namespace != namespace
        && index
            .routes_by_service
            .of(service)
            .any(|route| route.namespace == namespace)
}

/// The domain of what clusters export (KEP-1645).
const CLUSTERSET: &str = ".svc.clusterset.local";

/// The Service that a host name means to a client of this namespace: `svc`, `svc.ns`, `svc.ns.svc`,
/// `svc.ns.svc.cluster.local`; of `svc.ns.svc.clusterset.local` the one that is derived from the import.
pub(super) fn service_of_host(host: &str, namespace: &str, cluster_domain: &str) -> Option<Name> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if let Some(front) = host.strip_suffix(CLUSTERSET) {
        let (service, namespace) = front.split_once('.').filter(|(_, rest)| !rest.contains('.'))?;
        let of = Name::new(namespace, service);
        return Some(Name::new(namespace, derived_name(&of)));
    }
    let front = host
        .strip_suffix(cluster_domain)
        .and_then(|front| front.strip_suffix('.'));
    let parts: Vec<&str> = front.unwrap_or(&host).split('.').collect();
    match (parts[..].as_ref(), front.is_some()) {
        ([service], false) => Some(Name::new(namespace, *service)),
        ([service, namespace], false) | ([service, namespace, "svc"], _) => Some(Name::new(*namespace, *service)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_mean_what_the_search_domains_make_of_them() {
        let of = |host| service_of_host(host, "web", "cluster.local").map(|name| name.to_string());
        for (host, want) in [
            ("reviews", Some("web/reviews")),
            ("reviews.shop", Some("shop/reviews")),
            ("reviews.shop.svc", Some("shop/reviews")),
            ("reviews.shop.svc.cluster.local", Some("shop/reviews")),
            ("Reviews.Shop.svc.cluster.local.", Some("shop/reviews")),
            ("reviews.shop.cluster.local", None),
            ("pod.reviews.shop.svc.cluster.local", None),
            ("www.example.org", None),
            ("cluster.local", Some("local/cluster")),
            // printf shop/reviews | sha256sum
            ("reviews.shop.svc.clusterset.local", Some("shop/weft-import-c1c97e5699")),
            ("db-0.east.reviews.shop.svc.clusterset.local", None),
            ("reviews.svc.clusterset.local", None),
        ] {
            assert_eq!(of(host).as_deref(), want, "{host}");
        }
    }
}
