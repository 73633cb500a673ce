//! Whether what a policy says of a target has anything to act on.

use weft_model::destination::Protocol;
use weft_model::name::ObjectRef;

use super::backend::BackendKind;
use super::policy::{Part, PolicyTarget};
use super::resolve::takes_routes;
use super::route::About;
use super::{Index, Name};
use crate::objects::service::{Service, ServicePort};

/// Why a part of a policy has no effect on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Idle {
    /// One word of the Gateway API.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
    /// What would be right.
    pub(super) fix: &'static str,
}

impl Index {
    /// Why nothing comes of what a policy says of a target that is there. `None`: something does.
    pub(super) fn idle(&self, target: &PolicyTarget, part: Part) -> Option<Idle> {
        let PolicyTarget { object, .. } = target;
        if object.kind != "Service" {
            return self.idle_route(object);
        }
        let name = Name::new(object.namespace.as_str(), object.name.as_str());
        let service = self.services.get(&name)?.form()?;
        let idle = |message: String, fix| {
            let reason = "Invalid";
            Some(Idle { reason, message, fix })
        };
        if service.external {
            let message = format!("{object} is of type ExternalName, and calls to it are passed on as they are");
            return idle(message, "name a Service with a cluster address");
        }
        if service.ports.is_empty() {
            return idle(format!("{object} has no TCP port"), "name a Service with a TCP port");
        }
        match part.is_of_services() {
            // What a route sends there is spread as it says, even where the Service has no address.
            true if takes_routes(service) || self.is_backend(&name) => None,
            false if takes_routes(service) => self.idle_requests(&name, service),
            of_services => {
                let more = match of_services {
                    true => ", and no route sends anything there",
                    false => "",
                };
                let message = format!("{object} has no cluster address of its own, so no call to it can be told{more}");
                idle(message, "give the Service a cluster address (no clusterIP: None)")
            }
        }
    }

    /// What is said of requests, on a Service of which no port takes any.
    fn idle_requests(&self, name: &Name, service: &Service) -> Option<Idle> {
        if service
            .ports
            .iter()
            .any(|port| self.takes_requests(name, service, port))
        {
            return None;
        }
        Some(Idle {
            reason: "UnsupportedProtocol",
            message: format!("it is about requests, and every port of {name} is declared as no HTTP"),
            fix: "remove it, or declare the port as HTTP (appProtocol: http)",
        })
    }

    /// Whether requests on a port are seen as such, by whatever client.
    fn takes_requests(&self, name: &Name, service: &Service, port: &ServicePort) -> bool {
        let opaque = |protocol| matches!(protocol, Protocol::Opaque | Protocol::Tls);
        let declared = self.declared(name, service, port, None);
        if opaque(port.protocol) || declared.annotated {
            return false;
        }
        // A consumer's route of requests makes the bytes decide, for its own clients.
        let mut routes = self
            .routes_by_service
            .of(name)
            .filter_map(|route| self.routes.get(route)?.form());
        let of_requests = routes.any(|route| {
            let mut parents = route.parents.iter();
            matches!(route.about, About::Http | About::Grpc)
                && parents.any(|parent| parent.service == *name && parent.covers(port.port, &port.name))
        });
        of_requests || !opaque(declared.protocol)
    }

    /// A route that is attached to nothing acts on no request.
    fn idle_route(&self, object: &ObjectRef) -> Option<Idle> {
        let route = self.routes.get(object)?.form()?;
        let attached = |parent| self.refuses_parent(&object.namespace, &route.about, parent).is_none();
        if route.parents.iter().any(attached) {
            return None;
        }
        Some(Idle {
            reason: "Invalid",
            message: format!("{object} is attached to no Service, so it acts on nothing"),
            fix: "mend the route: see what is said of its parentRefs",
        })
    }

    /// Whether a route sends anything to a Service, or copies.
    fn is_backend(&self, name: &Name) -> bool {
        let routes = self.routes.values().filter_map(|kept| kept.form());
        let mut backends = routes.flat_map(|route| &route.rules).flat_map(|rule| rule.references());
        backends.any(|backend| match backend.kind {
            BackendKind::Service | BackendKind::Import => backend.name == *name,
            BackendKind::Subset => {
                let subset = self.subsets.get(&backend.name).and_then(|kept| kept.form());
                subset.is_some_and(|subset| subset.service == *name)
            }
            BackendKind::Other(_) => false,
        })
    }
}
