//! What imports come to now: what the API server is to have of each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_proto::resource::Exported;
use weft_proto::resource::federation::Transport;

use crate::compile;
use crate::federation::merge::Merged;
use crate::federation::slices::{Backend, Backends};
use crate::index::{Index, Name, Remote};
use crate::objects::peer::Peer;
use crate::serve::hub::{Hub, Link, LinkState};

/// A peer that is linked for so long has said all that it exports.
const PATIENCE: Duration = Duration::from_secs(300);

/// All imports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// In order of name.
    pub(crate) imports: Vec<Import>,
    /// Peers that anything may be imported from.
    pub(crate) peers: BTreeSet<String>,
    /// Peers of which it is not known yet what they export: a process that has just begun must not take for gone what it has not
    /// heard of.
    pub(crate) unheard: BTreeSet<String>,
    /// This cluster, and the Services of which it is not known whether it exports them: the ServiceExport is invalid, and may have
    /// been valid before.
    pub(crate) cluster: String,
    pub(crate) unclear: BTreeSet<Name>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    /// The namespace and name of the Service, wherever it is.
    pub(crate) service: Name,
    pub(crate) merged: Merged,
    /// What clients outside the mesh reach of it.
    pub(crate) backends: Vec<Backends>,
    /// Clusters whose endpoints they do not reach: those of other networks.
    pub(crate) apart: BTreeSet<String>,
}

impl Wanted {
    /// Whether it may be that a cluster exports more of a Service than is known.
    pub(crate) fn is_unheard(&self, cluster: &str, service: &Name) -> bool {
        self.unheard.contains(cluster) || (cluster == self.cluster && self.unclear.contains(service))
    }

    /// Whether it may be that any does.
    pub(crate) fn may_be_more(&self, service: &Name) -> bool {
        !self.unheard.is_empty() || self.unclear.contains(service)
    }
}

impl Hub {
    pub(crate) fn wanted(&self) -> Wanted {
        let index = &self.index;
        let imports = index.imported().into_iter().filter_map(|name| import(index, name));
        let peers = index
            .peers()
            .filter(|(name, peer)| is_unheard(peer.keep_for, self.links.get(*name)));
        let peers = peers.map(|(name, _)| name).chain(index.peers_without_form());
        let sources = index.peers().filter(|(_, peer)| !peer.imports.is_empty());
        Wanted {
            imports: imports.collect(),
            peers: sources.map(|(name, _)| name.to_owned()).collect(),
            unheard: peers.map(str::to_owned).collect(),
            cluster: index.settings.cluster.clone(),
            unclear: index.exports_without_form().cloned().collect(),
        }
    }
}

fn import(index: &Index, service: Name) -> Option<Import> {
    let merged = index.merged(&service)?;
    let (mut backends, mut apart) = (Vec::new(), BTreeSet::new());
    backends.extend(own(index, &service));
    for (_, peer, remote) in index.remotes() {
        if remote.export_of(peer, &service).is_none() {
            continue;
        }
        match index.dials(peer, remote) {
            true => backends.push(of_peer(peer, remote, &service)),
            false => _ = apart.insert(peer.cluster.clone()),
        }
    }
    Some(Import {
        service,
        merged,
        backends,
        apart,
    })
}

/// What this cluster exports of it.
fn own(index: &Index, name: &Name) -> Option<Backends> {
    index.exported(name)?;
    let ports = &index.services.get(name)?.form()?.ports;
    let mut own = Backends {
        cluster: index.settings.cluster.clone(),
        pods: BTreeMap::new(),
    };
    for port in ports {
        let exported = compile::exported(index, name, port.port);
        let exported = exported.iter().map(|compiled| &compiled.value);
        exported.for_each(|exported| put(&mut own, port.port, exported));
    }
    Some(own)
}

/// What a peer exports of it.
fn of_peer(peer: &Peer, remote: &Remote, name: &Name) -> Backends {
    let mut all = Backends {
        cluster: peer.cluster.clone(),
        pods: BTreeMap::new(),
    };
    let ports = remote.exports.get(name).into_iter().flat_map(|export| &export.ports);
    for port in ports.filter(|port| port.transport == Transport::Tcp) {
        let exported = remote.exported.get(&(name.clone(), port.port));
        exported
            .into_iter()
            .for_each(|exported| put(&mut all, port.port, exported));
    }
    all
}

fn put(to: &mut Backends, port: u16, exported: &Exported) {
    for one in &exported.endpoints {
        let address = one.endpoint.address;
        let backend = to.pods.entry(address.ip()).or_insert_with(|| Backend {
            ports: BTreeMap::new(),
            hostname: one.hostname.clone(),
            zone: one.endpoint.place.zone.clone(),
            draining: one.endpoint.draining,
        });
        backend.ports.insert(port, address.port());
    }
}

/// Whether it may be that a peer exports more than is known. What it never says while its endpoints would be kept is gone.
fn is_unheard(keep_for: Duration, link: Option<&LinkState>) -> bool {
    let Some(link) = link else { return true };
    match link.state {
        Link::Connecting => link.since.elapsed().unwrap_or_default() < keep_for,
        // One that is linked says it within seconds, unless it is of a version that does not tell. What was kept from before this
        // process began may lack what came last.
        Link::Connected | Link::Stale => {
            let waited = link.linked.map(|at| at.elapsed().unwrap_or_default());
            !link.complete && waited.is_none_or(|waited| waited < keep_for.min(PATIENCE))
        }
        Link::Forgotten => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::serve::hub::Lasting;

    #[test]
    fn a_peer_is_heard_when_all_that_it_exports_has_come_or_nothing_is_kept_of_it_any_more() {
        let hour = Duration::from_secs(3600);
        let link = |state: Link, complete: bool, ago: Duration| LinkState {
            state,
            since: SystemTime::now() - ago,
            endpoint: String::new(),
            fault: "",
            reason: String::new(),
            lasting: Lasting::default(),
            heard: None,
            complete,
            linked: (state == Link::Connected).then(|| SystemTime::now() - ago),
        };
        let unheard = |state, complete, ago| is_unheard(hour, Some(&link(state, complete, ago)));
        assert!(is_unheard(hour, None));
        assert!(unheard(Link::Connecting, false, hour / 2) && !unheard(Link::Connecting, false, hour * 2));
        // A link that is slow, or breaks within its first batches, has not brought everything.
        for state in [Link::Connected, Link::Stale] {
            assert!(unheard(state, false, PATIENCE / 2) && !unheard(state, true, Duration::ZERO));
        }
        assert!(unheard(Link::Stale, false, hour * 2), "the link's own state ends that");
        // One that never tells keeps nobody waiting for ever, also not by ending each stream before that.
        assert!(!unheard(Link::Connected, false, PATIENCE * 2));
        let mut ends = link(Link::Stale, false, hour / 2);
        for state in [Link::Connected, Link::Stale, Link::Connected] {
            ends.enter(state, "", String::new());
            assert!(is_unheard(hour, Some(&ends)));
        }
        ends.linked = ends.linked.map(|at| at - PATIENCE);
        for state in [Link::Stale, Link::Connected, Link::Stale] {
            ends.enter(state, "", String::new());
            assert!(!is_unheard(hour, Some(&ends)));
        }
        assert!(!unheard(Link::Forgotten, false, Duration::ZERO));
    }
}
