//! What a reference to a backend names, before anyone looked whether it is there.

use super::Name;
use super::kept::Refusal;
use crate::objects::Object;
use crate::objects::kinds::{MULTICLUSTER_GROUP, WEFT_GROUP};
use crate::objects::names::is_subdomain;

/// Where requests go, before anyone looked whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) kind: BackendKind,
    pub(crate) name: Name,
    pub(crate) port: u16,
    /// `spec.rules[0].backendRefs[1]`.
    pub(crate) field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Service,
    Subset,
    /// A ServiceImport: the Service in all clusters that export it.
    Import,
    /// Group and kind of something that cannot be a backend here.
    Other(String),
}

/// A reference as it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference<'a> {
    pub(crate) group: Option<&'a str>,
    pub(crate) kind: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) port: Option<i64>,
}

/// Reads a reference that stands in `field` of an object.
pub(crate) fn read(
    object: &Object,
    field: String,
    written: Reference<'_>,
    refusals: &mut Vec<Refusal>,
) -> Option<Backend> {
    let before = refusals.len();
    let kind = match (written.group.unwrap_or_default(), written.kind.unwrap_or("Service")) {
        ("" | "core", "Service") => BackendKind::Service,
        (WEFT_GROUP, "ServiceSubset") => BackendKind::Subset,
        (MULTICLUSTER_GROUP, "ServiceImport") => BackendKind::Import,
        ("", kind) => BackendKind::Other(kind.to_owned()),
        (group, kind) => BackendKind::Other(format!("{kind} of {group}")),
    };
    let namespace = written.namespace.unwrap_or(&object.namespace);
    for (part, value) in [("name", written.name), ("namespace", namespace)] {
        if !is_subdomain(value) {
            let message = format!("{value:?} is no name of an object");
            let fix = "a-z, 0-9, '-' and '.'";
            refusals.push(Refusal::value(format!("{field}.{part}"), message, fix));
        }
    }
    let port = match (&kind, written.port) {
        // What cannot be a backend has no need of a port.
        (BackendKind::Other(_), None) => Some(0),
        (_, port) => read_port(port, &field, refusals),
    };
    if refusals.len() > before {
        return None;
    }
    Some(Backend {
        kind,
        name: Name::new(namespace, written.name),
        port: port?,
        field,
    })
}

fn read_port(port: Option<i64>, field: &str, refusals: &mut Vec<Refusal>) -> Option<u16> {
    let valid = port.and_then(|port| u16::try_from(port).ok());
    if let Some(port) = valid.filter(|&port| port != 0) {
        return Some(port);
    }
    let message = match port {
        Some(port) => format!("{port} is no port"),
        None => "is missing".to_owned(),
    };
    let fix = "the Service's port, from 1 to 65535";
    refusals.push(Refusal::value(format!("{field}.port"), message, fix));
    None
}
