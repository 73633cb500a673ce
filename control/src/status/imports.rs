//! What is imported, and the Services that it becomes, for whoever plays the API server.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use weft_proto::resource;

use crate::federation::derived;
use crate::index::{Index, Name};
use crate::serve::hub::Hub;

/// `GET /imports`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Imports {
    /// Another one where anything of it is.
    pub(crate) version: String,
    /// Services as the API server is to have them: those that imports are called by, and those of a name that only other
    /// clusters have.
    pub(crate) services: Vec<Value>,
}

impl Hub {
    pub(crate) fn imports(&self) -> Imports {
        let services = services(&self.index);
        let text = Value::from(services.clone()).to_string();
        let hash = resource::hash(text.as_bytes());
        Imports {
            version: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            services,
        }
    }
}

/// The Services that imports become, in order of name.
fn services(index: &Index) -> Vec<Value> {
    let remotes = index.remotes();
    let names: BTreeSet<&Name> = remotes
        .flat_map(|(_, peer, remote)| {
            let names = remote.exports.keys();
            names
                .filter(|name| remote.export_of(peer, name).is_some())
                .collect::<Vec<_>>()
        })
        .collect();
    let mut all = Vec::new();
    for name in names {
        let Some(merged) = index.merged(name) else { continue };
        all.push(derived::derived_service(name, &merged));
        if !index.has_own(name) {
            all.push(derived::own_service(name, &merged));
        }
    }
    all
}
