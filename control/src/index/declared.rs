//! What is declared of a Service's port: by the Service itself, else by the kinds of the routes that are attached to it.

use std::sync::Arc;

use weft_model::destination::Protocol;

use super::route::{About, Route};
use super::{Index, Name, takes_routes};
use crate::objects::Object;
use crate::objects::service::{Service, ServicePort};

/// What is declared of a port, and which routes say so.
#[derive(Clone, Debug)]
pub(crate) struct Declared<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) said_by: Vec<&'a Arc<Object>>,
    /// The Service, or a route of its own namespace that names the port, says that requests come, perhaps beside streams.
    pub(crate) of_requests: bool,
    /// Neither says so, and the annotation of a pod behind it says that there are none: no route of requests acts.
    pub(crate) annotated: bool,
}

/// What routes of one side have to say: the Service's own namespace, or a client's.
#[derive(Clone, Debug, Default)]
struct Heard<'a> {
    /// By routes of requests that name the port.
    named: Protocol,
    /// Routes of requests are attached, whether they name the port or not.
    requests: bool,
    /// By routes of streams.
    streams: Protocol,
    said_by: Vec<&'a Arc<Object>>,
}

impl Index {
    /// What is declared of a Service's port, as a client of this namespace sees it (`None`: as anybody else does). Routes of
    /// other namespaces declare it for their own clients only, and can't declare away that it is HTTP, as bytes the pods take
    /// no requests there; nor that it is bytes by annotation, for as requests the pods are not to look at them.
    pub(crate) fn declared(
        &self,
        name: &Name,
        service: &Service,
        port: &ServicePort,
        client: Option<&str>,
    ) -> Declared<'_> {
        if port.protocol != Protocol::Undeclared {
            return self.declared_at_pods(name, service, port);
        }
        let mut heard = self.heard(name, service, port, &name.namespace);
        let of_requests = heard.named != Protocol::Undeclared;
        let annotated = !of_requests && self.is_opaque_behind(name, port);
        if let Some(client) = client.filter(|client| *client != name.namespace) {
            let mut more = self.heard(name, service, port, client);
            if is_of_requests(heard.protocol()) {
                more.streams = Protocol::Undeclared;
            }
            heard.add(more);
        }
        if annotated {
            heard.no_requests();
        }
        Declared {
            protocol: match heard.protocol() {
                Protocol::Undeclared if annotated => Protocol::Opaque,
                protocol => protocol,
            },
            said_by: heard.said_by,
            of_requests,
            annotated,
        }
    }

    /// What the pods behind a Service's port are told of it, but for what their own annotations say.
    pub(crate) fn declared_at_pods(&self, name: &Name, service: &Service, port: &ServicePort) -> Declared<'_> {
        let heard = match port.protocol {
            Protocol::Undeclared => self.heard(name, service, port, &name.namespace),
            _ => Heard::default(),
        };
        let protocol = match port.protocol {
            Protocol::Undeclared => heard.protocol(),
            protocol => protocol,
        };
        Declared {
            protocol,
            of_requests: is_of_requests(port.protocol) || heard.named != Protocol::Undeclared,
            said_by: heard.said_by,
            annotated: false,
        }
    }

    /// What routes of a namespace say of a port.
    fn heard(&self, name: &Name, service: &Service, port: &ServicePort, namespace: &str) -> Heard<'_> {
        let mut heard = Heard::default();
        if !takes_routes(service) {
            return heard;
        }
        for reference in self.routes_by_service.of(name) {
            let valid = self.routes.get(reference).and_then(|kept| kept.valid.as_ref());
            if let Some((object, route)) = valid.filter(|_| reference.namespace == namespace) {
                heard.route(object, route, name, port);
            }
        }
        heard
    }
}

impl<'a> Heard<'a> {
    fn route(&mut self, object: &'a Arc<Object>, route: &Route, name: &Name, port: &ServicePort) {
        let parents = route.parents.iter().filter(|parent| parent.service == *name);
        let mut covering = parents.filter(|parent| parent.covers(port.port, &port.name)).peekable();
        if covering.peek().is_none() {
            return;
        }
        let names_it = covering.any(|parent| parent.names_port());
        match &route.about {
            About::Tcp if self.streams == Protocol::Undeclared => self.streams = Protocol::Opaque,
            About::Tcp => {}
            About::Tls(_) => self.streams = Protocol::Tls,
            about @ (About::Http | About::Grpc) => {
                self.requests = true;
                if !names_it {
                    return;
                }
                let kind = match about {
                    About::Grpc => Protocol::Grpc,
                    _ => Protocol::Http,
                };
                self.named = both(self.named, kind);
            }
        }
        self.said_by.push(object);
    }

    fn add(&mut self, other: Self) {
        self.named = match other.named {
            Protocol::Undeclared => self.named,
            named => both(self.named, named),
        };
        self.requests |= other.requests;
        self.streams = match (self.streams, other.streams) {
            (Protocol::Undeclared, streams) | (streams, Protocol::Undeclared) => streams,
            (Protocol::Tls, _) | (_, Protocol::Tls) => Protocol::Tls,
            (streams, _) => streams,
        };
        self.said_by.extend(other.said_by);
    }

    /// Leaves out what routes of requests say.
    fn no_requests(&mut self) {
        (self.named, self.requests) = (Protocol::Undeclared, false);
        let of_streams = |object: &&Arc<Object>| matches!(object.kind.as_str(), "TCPRoute" | "TLSRoute");
        self.said_by.retain(of_streams);
    }

    fn protocol(&self) -> Protocol {
        match (self.requests, self.streams) {
            (_, Protocol::Undeclared) => self.named,
            // Only routes of streams: whatever comes is one.
            (false, streams) => streams,
            // Routes of both: the bytes decide which of them act.
            (true, _) => Protocol::Undeclared,
        }
    }
}

/// Whether nothing but requests is taken there.
pub(crate) fn is_of_requests(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
}

/// Routes of both kinds: HTTP of either version, told by the preface.
fn both(before: Protocol, kind: Protocol) -> Protocol {
    match before {
        Protocol::Undeclared => kind,
        before if before == kind => kind,
        _ => Protocol::Http,
    }
}
