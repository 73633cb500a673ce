//! Whether what an object refers to is there.

use std::sync::Arc;

use weft_model::destination::Protocol;

use super::backend::{Backend, BackendKind};
use super::route::{About, Parent};
use super::{Index, Name, Topic, topics_of_import};
use crate::federation::derived::derived_service;
use crate::objects::Object;
use crate::objects::cluster::OPAQUE_PORTS_ANNOTATION;
use crate::objects::service::{Service, ServicePort};

/// What a backend resolves to.
#[derive(Clone, Debug)]
pub(crate) struct Resolved<'a> {
    pub(crate) service: Name,
    /// The ServiceSubset's name.
    pub(crate) subset: Option<String>,
    /// It is the Service in all clusters that export it, and in no other.
    pub(crate) import: bool,
    /// The objects that say so.
    pub(crate) objects: Vec<&'a Arc<Object>>,
}

/// Why a reference leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    /// One word of the Gateway API.
    pub(crate) reason: &'static str,
    /// The part of the reference that is wrong: `name`, `port`, `kind`.
    pub(crate) part: &'static str,
    /// For people.
    pub(crate) message: String,
    /// What it leads to is invalid, and may have been valid before this process began.
    pub(crate) hold: Option<String>,
}

impl Index {
    /// What a backend leads to, with the topics that the answer depends on.
    pub(crate) fn resolve(&self, backend: &Backend) -> (Result<Resolved<'_>, Unresolved>, Vec<Topic>) {
        match &backend.kind {
            BackendKind::Service => {
                let topics = vec![Topic::Service(backend.name.clone())];
                let resolved = self
                    .resolve_service(&backend.name, backend.port)
                    .map(|object| Resolved {
                        service: backend.name.clone(),
                        subset: None,
                        import: false,
                        objects: vec![object],
                    });
                (resolved, topics)
            }
            BackendKind::Subset => {
                let mut topics = vec![Topic::Subset(backend.name.clone())];
                let Some(kept) = self.subsets.get(&backend.name) else {
                    let message = format!("there is no ServiceSubset {}", backend.name);
                    return (Err(Unresolved::not_found("name", message)), topics);
                };
                let Some((object, subset)) = &kept.valid else {
                    let message = format!("the ServiceSubset {} is invalid", backend.name);
                    return (
                        Err(Unresolved {
                            hold: kept.hold(),
                            ..Unresolved::not_found("name", message)
                        }),
                        topics,
                    );
                };
                topics.push(Topic::Service(subset.service.clone()));
                let resolved = self
                    .resolve_service(&subset.service, backend.port)
                    .map(|service| Resolved {
                        service: subset.service.clone(),
                        subset: Some(backend.name.name.clone()),
                        import: false,
                        objects: vec![object, service],
                    });
                (resolved, topics)
            }
            BackendKind::Import => {
                let resolved = self.resolve_import(&backend.name, backend.port);
                (resolved, topics_of_import(&backend.name).to_vec())
            }
            BackendKind::Other(kind) => {
                let message = format!("{kind} cannot be a backend here");
                (
                    Err(Unresolved {
                        reason: "InvalidKind",
                        part: "kind",
                        message,
                        hold: None,
                    }),
                    Vec::new(),
                )
            }
        }
    }

    fn resolve_service(&self, name: &Name, port: u16) -> Result<&Arc<Object>, Unresolved> {
        let Some(kept) = self.services.get(name) else {
            return Err(Unresolved::not_found("name", format!("there is no Service {name}")));
        };
        let Some((object, service)) = &kept.valid else {
            let message = format!("the Service {name} is invalid");
            return Err(Unresolved {
                hold: kept.hold(),
                ..Unresolved::not_found("name", message)
            });
        };
        if service.external {
            let message = format!("the Service {name} is of type ExternalName, and has no endpoints");
            return Err(Unresolved::not_found("name", message));
        }
        match service.port(port) {
            Some(_) => Ok(object),
            None => Err(Unresolved::not_found(
                "port",
                format!("the Service {name} has no TCP port {port}"),
            )),
        }
    }

    fn resolve_import(&self, name: &Name, port: u16) -> Result<Resolved<'_>, Unresolved> {
        let Some(merged) = self.merged(name) else {
            return Err(Unresolved::not_found("name", no_import(name)));
        };
        match merged.tcp(port) {
            Some(_) => Ok(Resolved {
                service: name.clone(),
                subset: None,
                import: true,
                objects: self.sources_of_import(name),
            }),
            None => Err(Unresolved::not_found(
                "port",
                format!("the ServiceImport {name} has no TCP port {port}"),
            )),
        }
    }

    /// Why a route of a namespace cannot be attached to a parent: the part of the reference, the reason and a message.
    pub(crate) fn refuses_parent(&self, namespace: &str, about: &About, parent: &Parent) -> Option<Unresolved> {
        let refused = |part, message| Unresolved {
            reason: "NoMatchingParent",
            part,
            message,
            hold: None,
        };
        let (name, named) = (&parent.service, parent.named());
        let derived;
        let service = match &parent.import {
            None => self.services.get(name).and_then(|kept| kept.form()),
            Some(of) => match self.merged(of) {
                None => return Some(refused("name", no_import(of))),
                // As the Service that is derived from it is to be, whether it is there yet or not.
                Some(merged) => {
                    derived = Service::of_document(&derived_service(of, &merged)).ok();
                    derived.as_ref()
                }
            },
        };
        let Some(service) = service else {
            let message = match &parent.import {
                None => format!("there is no {}", named.trim_start_matches("the ")),
                Some(_) => format!("what {named} comes to can be no Service"),
            };
            return Some(refused("name", message));
        };
        if !takes_routes(service) {
            let message = format!("{named} has no cluster address of its own, so no call to it can be told");
            return Some(refused("name", message));
        }
        let covered: Vec<&ServicePort> = service
            .ports
            .iter()
            .filter(|declared| parent.covers(declared.port, &declared.name))
            .collect();
        if covered.is_empty() {
            let part = if parent.port.is_some() { "port" } else { "sectionName" };
            let wanted = parent
                .port
                .map(|port| port.to_string())
                .or_else(|| parent.section.clone())
                .unwrap_or_default();
            return Some(refused(part, format!("{named} has no such TCP port: {wanted}")));
        }
        self.refuses_kind(namespace, about, (name, service), parent, &covered)
    }

    /// Why a route of this kind does not act on the ports of a Service that it covers.
    fn refuses_kind(
        &self,
        namespace: &str,
        about: &About,
        (name, service): (&Name, &Service),
        parent: &Parent,
        covered: &[&ServicePort],
    ) -> Option<Unresolved> {
        let streams = about.is_of_streams();
        // What routes declare is in the way of routes of streams from elsewhere only; in one namespace both act.
        let protocol = |port: &ServicePort| {
            let declared = self.declared(name, service, port, None);
            match declared.annotated || (streams && namespace != name.namespace) {
                true => declared.protocol,
                false => port.protocol,
            }
        };
        let other = |declared: &&ServicePort| match protocol(declared) {
            Protocol::Undeclared => false,
            Protocol::Opaque | Protocol::Tls => !streams,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => streams,
        };
        let (is, what) = match streams {
            true => ("as HTTP", "of streams"),
            false => ("as no HTTP", "of HTTP"),
        };
        match covered.iter().find(|declared| other(declared)) {
            Some(declared) if parent.names_port() || covered.iter().all(other) => {
                let port = declared.port;
                let all = self.declared(name, service, declared, None);
                let by = match all.said_by.first() {
                    _ if all.annotated => format!(" by the annotation {OPAQUE_PORTS_ANNOTATION} of its pods"),
                    Some(route) => format!(" by {}", route.reference()),
                    None => String::new(),
                };
                let name = parent.import.as_ref().unwrap_or(name);
                let message = format!("port {port} of {name} is declared {is}{by}, so a route {what} can't act");
                Some(Unresolved {
                    reason: "UnsupportedProtocol",
                    part: "port",
                    message,
                    hold: None,
                })
            }
            _ => None,
        }
    }
}

fn no_import(name: &Name) -> String {
    format!("there is no ServiceImport {name}: no cluster exports that Service to this one")
}

/// Whether routes act on a Service: mesh routes match its cluster address (GEP-1294), and not its name.
pub(crate) fn takes_routes(service: &Service) -> bool {
    !service.headless && !service.external
}

impl Unresolved {
    fn not_found(part: &'static str, message: String) -> Self {
        Self {
            reason: "BackendNotFound",
            part,
            message,
            hold: None,
        }
    }
}
