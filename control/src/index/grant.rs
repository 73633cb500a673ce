//! What a ReferenceGrant means, and whether a reference into another namespace is allowed.
//!
//! What goes to the very Service that was called needs no grant: a consumer's route that only looks at its own calls sends
//! them nowhere new (so the Gateway API's conformance suite has it, MeshConsumerRoute). GEP-1294 leaves it to a mesh whether
//! other references need one; here they do, as HTTPRoute's own reference says.

use std::sync::Arc;

use super::backend::{Backend, BackendKind};
use super::kept::{Formed, Kept, Refusal};
use super::resolve::Unresolved;
use super::{Index, Name};
use crate::objects::grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
use crate::objects::kinds::{GATEWAY_GROUP, WEFT_GROUP};
use crate::objects::{Object, decode};

/// Entries of either list (Gateway API).
const ENTRIES_MAX: usize = 16;

/// A namespace's leave to refer to what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

impl Grant {
    /// Reads a ReferenceGrant object.
    pub(crate) fn of(object: &Object) -> Formed<Self> {
        let decoded = decode::<ReferenceGrant>(&object.raw).map_err(|error| vec![Refusal::from(error)])?;
        let ReferenceGrantSpec { from, to } = decoded.value.spec;
        let mut refusals = Vec::new();
        for (field, entries) in [("spec.from", from.len()), ("spec.to", to.len())] {
            if !(1..=ENTRIES_MAX).contains(&entries) {
                let message = format!("has {entries} entries, and needs 1 to {ENTRIES_MAX}");
                refusals.push(Refusal::value(field, message, "write several grants"));
            }
        }
        match refusals.is_empty() {
            true => Ok((Self { from, to }, decoded.unknown)),
            false => Err(refusals),
        }
    }

    fn allows(&self, backend: &Backend) -> bool {
        let from = |from: &GrantFrom| {
            (from.group.as_str(), &from.kind, &from.namespace)
                == (GATEWAY_GROUP, &backend.from.kind, &backend.from.namespace)
        };
        let to = |to: &GrantTo| {
            let kind = match backend.kind {
                BackendKind::Service => matches!(to.group.as_str(), "" | "core") && to.kind == "Service",
                BackendKind::Subset => to.group == WEFT_GROUP && to.kind == "ServiceSubset",
                BackendKind::Other(_) => false,
            };
            kind && to.name.as_ref().is_none_or(|name| *name == backend.name.name)
        };
        self.from.iter().any(from) && self.to.iter().any(to)
    }
}

impl Index {
    /// The grant that allows a backend of another namespace, if it needs one. `called`: the Service that is called.
    pub(super) fn allowed(&self, backend: &Backend, called: Option<&Name>) -> Result<Option<&Arc<Object>>, Unresolved> {
        let namespace = &backend.name.namespace;
        if *namespace == backend.from.namespace || called.is_some_and(|called| self.is_of(backend, called)) {
            return Ok(None);
        }
        let grants = || {
            let all = self.grants.range(Name::new(namespace.as_str(), "")..);
            all.take_while(|(name, _)| name.namespace == *namespace)
                .map(|(_, kept)| kept)
        };
        let valid = grants().filter_map(|kept| kept.valid.as_ref());
        let mut allowing = valid.filter(|(_, grant)| grant.allows(backend));
        if let Some((object, _)) = allowing.next() {
            return Ok(Some(object));
        }
        let what = match backend.kind {
            BackendKind::Subset => "ServiceSubset",
            _ => "Service",
        };
        let (kind, from) = (&backend.from.kind, &backend.from.namespace);
        let name = &backend.name.name;
        Err(Unresolved {
            reason: "RefNotPermitted",
            part: "namespace",
            message: format!(
                "no ReferenceGrant in the namespace {namespace} lets {kind}s of {from} refer to the {what} {name}"
            ),
            // One that was valid before this process began may have allowed it.
            hold: grants().find_map(Kept::hold),
        })
    }

    /// Whether a backend is a Service, or a part of it.
    fn is_of(&self, backend: &Backend, service: &Name) -> bool {
        match backend.kind {
            BackendKind::Service => backend.name == *service,
            BackendKind::Subset => {
                let subset = self.subsets.get(&backend.name).and_then(Kept::form);
                subset.is_some_and(|subset| subset.service == *service)
            }
            BackendKind::Other(_) => false,
        }
    }
}
