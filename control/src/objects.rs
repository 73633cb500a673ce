//! Objects: Kubernetes objects as they were written, and typed views of the parts that the mesh acts on.
//!
//! In: JSON values with the place that they came from. Out: [`Object`]s, views that are decoded one object at a time
//! ([`decode()`]), and [`Problem`]s that name object, file, line, field and fix. Nothing here knows of files being watched
//! or of what an object means for its neighbours.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
pub use weft_model::name::ObjectRef;

pub mod cluster;
#[cfg(test)]
mod crd;
pub mod decode;
pub mod duration;
pub mod filter;
pub mod host_port;
pub mod kinds;
pub mod mcs;
pub mod names;
pub mod near;
pub mod peer;
pub mod pod;
pub mod problem;
pub mod route;
pub mod service;
mod strangers;
pub mod weft;

pub use decode::{DecodeError, Decoded, FieldError, decode};
pub use kinds::{Kinds, Scope, Standing};
pub use problem::{Problem, Severity};

/// A Kubernetes object, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `gateway.networking.k8s.io/v1`, or `v1` for the core group.
    pub api_version: String,
    /// `HTTPRoute`, `Service`, …
    pub kind: String,
    /// Empty for objects without a namespace. A namespaced object that names none is in `default`.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// Unique in space and time; see [`uid_of`] for objects of a user's files.
    pub uid: String,
    /// Rises with every change of this object. Comparable among objects of one kind (KEP-5504).
    pub resource_version: u64,
    /// Rises with changes of the specification only; 0 where nobody counts it. For reports.
    pub generation: u64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// The whole object. Its metadata are as they were written.
    pub raw: Value,
    /// Where it was written. `None`: it came from an API server.
    pub origin: Option<Origin>,
}

/// Where an object was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line of the file, from 1, at which the object begins.
    pub line: u32,
    /// The lines of its fields, by JSON pointer. Empty where nobody will ask (files that a machine wrote).
    pub lines: Arc<BTreeMap<String, u32>>,
}

impl Object {
    /// Kind, namespace and name.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// The API group: `gateway.networking.k8s.io`, or empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// `metadata.creationTimestamp`, if it has one. RFC 3339 in UTC, so that text order is time order.
    pub fn created(&self) -> Option<&str> {
        self.raw.pointer("/metadata/creationTimestamp").and_then(Value::as_str)
    }

    /// Begins a problem with this object: the line is that of the field.
    pub fn problem(
        &self,
        severity: Severity,
        field: &str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        Problem {
            object: Some(self.reference()),
            file: self.origin.as_ref().map(|origin| origin.file.clone()),
            line: self.origin.as_ref().map(|origin| origin.line_of_field(field)),
            field: field.to_owned(),
            message: message.into(),
            fix: fix.into(),
            severity,
        }
    }
}

impl Origin {
    /// The line of the field at a JSON pointer (`/spec/rules/0`, RFC 6901): of the nearest parent that was written, if
    /// the field itself was not; of the object, at last.
    pub fn line_of(&self, pointer: &str) -> u32 {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return *line;
            }
            match pointer.rfind('/') {
                Some(end) if !pointer.is_empty() => pointer = &pointer[..end],
                _ => return self.line,
            }
        }
    }

    /// The line of a field as people write it: `spec.rules[0].matches[1].path.type`, `metadata.labels[a.b/c]`.
    pub fn line_of_field(&self, field: &str) -> u32 {
        self.line_of(&pointer_of(field))
    }
}

/// The JSON pointer (RFC 6901) of a field as people write it.
pub fn pointer_of(field: &str) -> String {
    let mut pointer = String::with_capacity(field.len() + 1);
    let mut push = |part: &str| {
        if !part.is_empty() {
            pointer.push('/');
            pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
    };
    let mut rest = field;
    while let Some(at) = rest.find(['.', '[']) {
        push(&rest[..at]);
        let bracket = rest.as_bytes()[at] == b'[';
        rest = &rest[at + 1..];
        if bracket && let Some(end) = rest.find(']') {
            push(&rest[..end]);
            rest = &rest[end + 1..];
        }
    }
    push(rest);
    pointer
}

/// The uid of an object that nobody gave one: a hash of kind, namespace and name, in the form of a UUID.
pub fn uid_of(kind: &str, namespace: &str, name: &str) -> String {
    let hash = digest(&SHA256, format!("{kind}/{namespace}/{name}").as_bytes());
    let hex: String = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
