//! What other clusters export, behind the Services of this one: a Service of the same namespace and name is the same Service
//! (namespace sameness, KEP-1645).

use std::net::{IpAddr, SocketAddr};

use weft_model::destination::Protocol;
use weft_model::endpoint::{Endpoint, EndpointKey};
use weft_proto::resource::federation::{ExportedPort, Transport};

use super::ledger::Ledger;
use crate::index::{Index, Name, Subset};

/// Which port of an export is meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum By<'a> {
    /// That of this name, as every EndpointSlice has it: what stands behind a Service of this cluster.
    Name(&'a str),
    /// The TCP port of this number: what is called of an import. Clusters that have another port of that name do not expose it
    /// (KEP-1645, "Service Port").
    Number(u16),
}

/// The endpoints of other clusters behind a port of a Service.
pub(super) fn members<'a>(
    index: &'a Index,
    name: &'a Name,
    by: By<'a>,
    subset: Option<&'a Subset>,
    ledger: &mut Ledger,
) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for (object, peer, remote) in index.remotes() {
        let Some(export) = remote.export_of(peer, name) else {
            continue;
        };
        // Of the peer's own objects nothing is a source: their ages are those of another store.
        ledger.source(object);
        let is_meant = |port: &&ExportedPort| match by {
            By::Name(name) => port.name == name,
            By::Number(number) => (port.transport, port.port) == (Transport::Tcp, number),
        };
        let Some(port) = export.ports.iter().find(is_meant) else {
            continue;
        };
        let exported = remote.exported.get(&(name.clone(), port.port));
        let wanted = exported
            .into_iter()
            .flat_map(|exported| &exported.endpoints)
            .filter(|one| subset.is_none_or(|subset| subset.has(&one.labels, &one.endpoint.place.region)));
        let gateways = match (index.dials(peer, remote), index.is_flat(peer)) {
            (true, _) => None,
            // Whose pod is at an address nobody knows.
            (false, true) => continue,
            // Without one there is no way there.
            (false, false) => match index.gateways_of(&peer.cluster) {
                Some(gateways) => Some(gateways.clone()),
                None => continue,
            },
        };
        all.extend(wanted.map(|one| Endpoint {
            gateways: gateways.clone(),
            ..one.endpoint.clone()
        }));
    }
    all
}

/// The endpoint of another cluster at an address that pods of this one reach, with what is declared of its port.
pub(super) fn at(index: &Index, address: SocketAddr, ledger: &mut Ledger) -> Option<(Endpoint, Protocol)> {
    if index.is_of_node(address.ip()) || index.slices_by_ip.of(&address.ip()).next().is_some() {
        return None;
    }
    let all = index.remotes_at(address.ip()).filter_map(|(cluster, name, number)| {
        let (object, peer, remote) = index.heard_of(cluster)?;
        let export = remote.export_of(peer, name)?;
        let exported = remote.exported.get(&(name.clone(), number))?;
        let mut at = exported.endpoints.iter();
        let one = at.find(|one| one.endpoint.address.ip() == address.ip())?;
        let declared = export.ports.iter().find(|port| port.port == number);
        Some((object, one, declared.filter(|_| one.endpoint.address == address)))
    });
    // Several exports may lead to one pod: that of the port that was dialled says what is spoken there.
    let (object, one, declared) = all.max_by_key(|(.., declared)| declared.is_some())?;
    ledger.source(object);
    let endpoint = Endpoint {
        key: EndpointKey {
            port: address.port(),
            ..one.endpoint.key
        },
        address,
        ..one.endpoint.clone()
    };
    Some((endpoint, declared.map_or(Protocol::Undeclared, |port| port.protocol)))
}

/// The addresses of other clusters' endpoints that pods of this one dial.
pub(super) fn addresses(index: &Index) -> impl Iterator<Item = IpAddr> {
    index.remote_addresses()
}
