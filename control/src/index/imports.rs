//! Imports: what the exports of one Service come to, of whichever clusters they are (KEP-1645).
//!
//! An import is there as long as some cluster exports the Service to this one, itself included, whether its ServiceImport object
//! is there yet or not: that object only shows it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Index, Name, Topic};
use crate::federation::merge::{self, Conflict, Merged};
use crate::federation::{derived, exported, said};
use crate::objects::Object;
use crate::objects::peer::Peer;

impl Index {
    /// What this cluster exports of a Service.
    pub(crate) fn own_export(&self, name: &Name) -> Option<merge::Export> {
        let (_, service, export) = self.exported(name)?;
        exported::export(&self.settings.cluster, service, export).ok()
    }

    /// What the exports of one Service come to: of this cluster, and of the peers that it is imported from. `None`: there are
    /// none, so there is no import.
    pub(crate) fn merged(&self, name: &Name) -> Option<Merged> {
        let peers = self.remotes().filter_map(|(_, peer, remote)| {
            let export = remote.export_of(peer, name)?;
            Some(said::by_peer(&peer.cluster, export))
        });
        let all: Vec<merge::Export> = self.own_export(name).into_iter().chain(peers).collect();
        merge::merge(&all)
    }

    /// The condition `Conflict` of what this cluster exports. `None`: it exports nothing of it, or nothing can be said yet. A peer
    /// that has not been heard of since this process began may export the Service too, in another way; that there is no conflict
    /// would be said too early.
    pub(super) fn conflict(&self, name: &Name) -> Option<Conflict> {
        self.exported(name)?;
        let conflict = self.merged(name)?.conflict;
        let may_come = |(cluster, peer): (&str, &Peer)| {
            let heard = self.remotes.get(cluster).and_then(|remote| remote.cluster.as_ref());
            heard.is_none() && peer.may_import_from(&name.namespace)
        };
        let known = conflict.status || !self.peers().any(may_come);
        known.then_some(conflict)
    }

    /// The objects of this cluster that an import comes of: of what a peer says, the ClusterPeer that lets it in.
    pub(crate) fn sources_of_import(&self, name: &Name) -> Vec<&Arc<Object>> {
        let own = self.exported(name).into_iter();
        let own = own.flat_map(|(export, service, _)| [export, service]);
        let peers = self.remotes().filter_map(|(object, peer, remote)| {
            remote.export_of(peer, name)?;
            Some(object)
        });
        own.chain(peers).collect()
    }

    /// The Services that are exported: by this cluster, or by the peers that they are imported from.
    pub(crate) fn imported(&self) -> BTreeSet<Name> {
        let own = self.exports().map(|(name, _)| name.clone());
        let mut all: BTreeSet<Name> = own.filter(|name| !self.is_system(&name.namespace)).collect();
        for (_, peer, remote) in self.remotes() {
            let names = remote.exports.keys();
            all.extend(names.filter(|name| remote.export_of(peer, name).is_some()).cloned());
        }
        all
    }

    /// Whether this cluster has a Service of this name, other than for an import.
    pub(crate) fn has_own(&self, name: &Name) -> bool {
        self.services
            .get(name)
            .is_some_and(|kept| !derived::is_import(&kept.object))
    }

    /// The Service that a Service is derived from an import of.
    pub(crate) fn import_behind(&self, service: &Name) -> Option<Name> {
        let (object, _) = self.services.get(service)?.valid.as_ref()?;
        derived::imported(object)
    }

    /// Whether a Service of this name is here only because other clusters export it.
    pub(crate) fn is_of_import_alone(&self, service: &Name) -> bool {
        let valid = self.services.get(service).and_then(|kept| kept.valid.as_ref());
        valid.is_some_and(|(object, _)| derived::is_import(object))
    }
}

/// What an import depends on.
pub(crate) fn topics_of_import(name: &Name) -> [Topic; 3] {
    [
        Topic::Import(name.clone()),
        Topic::Export(name.clone()),
        Topic::Service(name.clone()),
    ]
}
