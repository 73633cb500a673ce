//! Gateway: where connections may go.
//!
//! In: the endpoint sets of what is exported, and our own trust domain. Out: for an SNI name that a client has sent, the one
//! address that it may be passed on to, or none. Immutable: whatever changes makes another table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::endpoint::{Endpoint, EndpointKey, EndpointSet};
use weft_model::identity::TrustDomain;
use weft_model::sni::Sni;
use weft_proto::resource::Exported;

use crate::discover::State;

/// The endpoints of all exported Services.
#[derive(Debug)]
pub struct Table {
    trust_domain: TrustDomain,
    /// By endpoint: the exported Services that it is behind. Few have more than one.
    endpoints: HashMap<EndpointKey, Vec<Behind>>,
}

/// An endpoint, behind one Service.
#[derive(Debug)]
struct Behind {
    namespace: Arc<str>,
    service: Arc<str>,
    address: SocketAddr,
}

impl Table {
    /// Of what the control plane says that a gateway passes. Before it says who we are: nothing.
    pub fn of(state: &State) -> Self {
        let own = state.mesh.held.as_ref().map(|held| held.value.trust_domain.clone());
        let passes = state.passes.iter();
        let keys = passes
            .clone()
            .flat_map(|passes| &passes.gateway)
            .flat_map(|held| held.value.iter());
        let exported = passes.flat_map(|passes| {
            let keys = keys.clone();
            keys.filter_map(|key| passes.exported.get(key))
        });
        let sets: Vec<EndpointSet> = exported.map(|held| set(&held.value)).collect();
        match own {
            Some(trust_domain) => Self::new(trust_domain, &sets),
            None => Self {
                trust_domain: TrustDomain::new("none").expect("a constant"),
                endpoints: HashMap::new(),
            },
        }
    }

    /// Of what is exported. Only what is our own, and here, is taken up: an endpoint with an identity of our trust domain
    /// that is not itself behind gateways. The rest is passed over, so that nobody is led on from here to a third network.
    pub fn new<'a>(trust_domain: TrustDomain, exported: impl IntoIterator<Item = &'a EndpointSet>) -> Self {
        let mut endpoints = HashMap::<EndpointKey, Vec<Behind>>::new();
        for set in exported {
            let (namespace, service) = (Arc::from(set.namespace.as_str()), Arc::from(set.service.as_str()));
            for endpoint in set.endpoints.iter().filter(|endpoint| is_ours(endpoint, &trust_domain)) {
                let behind = endpoints.entry(endpoint.key).or_default();
                // One pod's port is behind several ports and subsets of a Service.
                if !behind.iter().any(|known| known.is_of(&namespace, &service)) {
                    behind.push(Behind {
                        namespace: Arc::clone(&namespace),
                        service: Arc::clone(&service),
                        address: endpoint.address,
                    });
                }
            }
        }
        Self {
            trust_domain,
            endpoints,
        }
    }

    /// Where a connection goes that asks for this name. `None`: nowhere, since it isn't of our trust domain, isn't that of
    /// a Service, or isn't exactly that of an endpoint which is there now of a Service that is exported.
    pub fn find(&self, sni: &Sni<'_>) -> Option<SocketAddr> {
        let Sni::Service {
            key,
            service,
            namespace,
            trust_domain,
        } = sni
        else {
            return None;
        };
        if *trust_domain != self.trust_domain {
            return None;
        }
        let mut behind = self.endpoints.get(key)?.iter();
        behind
            .find(|known| known.is_of(namespace, service))
            .map(|known| known.address)
    }
}

fn set(exported: &Exported) -> EndpointSet {
    let endpoints = exported.endpoints.iter().map(|one| Arc::new(one.endpoint.clone()));
    EndpointSet {
        namespace: exported.namespace.clone(),
        service: exported.service.clone(),
        port: exported.port,
        subset: String::new(),
        endpoints: endpoints.collect(),
    }
}

fn is_ours(endpoint: &Endpoint, trust_domain: &TrustDomain) -> bool {
    let identity = endpoint.identity.as_ref();
    endpoint.gateways.is_none() && identity.is_some_and(|identity| identity.trust_domain() == trust_domain)
}

impl Behind {
    fn is_of(&self, namespace: &str, service: &str) -> bool {
        (&*self.namespace, &*self.service) == (namespace, service)
    }
}

#[cfg(test)]
mod tests {
    use weft_model::endpoint::EndpointId;
    use weft_model::identity::Identity;
    use weft_model::sni;

    use super::*;
    use crate::discover::testing;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn endpoint(id: u64, trust_domain: &str) -> Endpoint {
        let key = EndpointKey {
            id: EndpointId(id),
            port: 9080,
        };
        Endpoint {
            key,
            address: ([10, 244, 0, id as u8], 9080).into(),
            identity: Some(Identity::new(domain(trust_domain), "shop", "reviews").unwrap()),
            ..testing::endpoint("reviews", 1)
        }
    }

    fn set(service: &str, endpoints: Vec<Endpoint>) -> EndpointSet {
        EndpointSet {
            namespace: "shop".into(),
            service: service.into(),
            port: 80,
            subset: String::new(),
            endpoints: endpoints.into_iter().map(Arc::new).collect(),
        }
    }

    fn find(table: &Table, name: &str) -> Option<u8> {
        let address = table.find(&sni::parse(name).expect("a name of the mesh"))?;
        match address {
            SocketAddr::V4(address) => Some(address.ip().octets()[3]),
            SocketAddr::V6(_) => None,
        }
    }

    #[test]
    fn only_the_name_of_an_endpoint_that_is_exported_leads_anywhere() {
        let behind_both = endpoint(3, "one");
        let exported = [
            set("reviews", vec![endpoint(1, "one"), endpoint(2, "one")]),
            set("ratings", vec![behind_both.clone()]),
            set("ratings-too", vec![behind_both]),
        ];
        let table = Table::new(domain("one"), &exported);
        for (name, leads) in [
            ("p9080.0000000000000001.reviews.shop.svc.one", Some(1)),
            ("p9080.0000000000000002.reviews.shop.svc.one", Some(2)),
            ("p9080.0000000000000003.ratings.shop.svc.one", Some(3)),
            ("p9080.0000000000000003.ratings-too.shop.svc.one", Some(3)),
            // Another Service, namespace, trust domain, pod, port, form.
            ("p9080.0000000000000001.ratings.shop.svc.one", None),
            ("p9080.0000000000000003.reviews.shop.svc.one", None),
            ("p9080.0000000000000001.reviews.other.svc.one", None),
            ("p9080.0000000000000001.reviews.shop.svc.two", None),
            ("p9080.0000000000000001.reviews.shop.svc.one.two", None),
            ("p9080.0000000000000004.reviews.shop.svc.one", None),
            ("p9081.0000000000000001.reviews.shop.svc.one", None),
            ("p9080.0000000000000001.shop.pod.one", None),
        ] {
            assert_eq!(find(&table, name), leads, "{name}");
        }
    }

    #[test]
    fn what_is_not_ours_is_not_led_to() {
        let plaintext = Endpoint {
            identity: None,
            ..endpoint(1, "one")
        };
        let behind = Endpoint {
            gateways: Some([([192, 0, 2, 1], 15_443).into()].into()),
            ..endpoint(2, "one")
        };
        let exported = [set(
            "reviews",
            vec![plaintext, behind, endpoint(3, "two"), endpoint(4, "one")],
        )];
        let table = Table::new(domain("one"), &exported);
        let leads = |id: u64| find(&table, &format!("p9080.{id:016x}.reviews.shop.svc.one"));
        assert_eq!([1, 2, 3, 4].map(leads), [None, None, None, Some(4)]);
        assert_eq!(find(&table, "p9080.0000000000000003.reviews.shop.svc.two"), None);
    }
}
