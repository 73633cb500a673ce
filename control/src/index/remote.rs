//! What other clusters export, as far as we take it: kept by peer, and never mixed with our own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_certs::bundle::Bundle;
use weft_model::network::Networks;
use weft_proto::discovery;
use weft_proto::resource::field::FieldError;
use weft_proto::resource::{self, Body, Change, Cluster, Export, Exported, Kind, Update};

use super::judge::{Judge, turn};
use super::{Changed, Index, Name, Topic};
use crate::objects::Object;
use crate::objects::mcs::ServiceExport;
use crate::objects::peer::Peer;

/// The version of what was taken in part only: no body has it.
const IN_PART: [u8; 16] = [0; 16];

/// What one peer has told us.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remote {
    /// What it says of itself.
    pub(crate) cluster: Option<Cluster>,
    /// Networks of its pods that overlap with those of ours, where both are to be one: then an address says nothing of whose
    /// pod has it, and none of them is dialled.
    pub(crate) overlaps: Vec<IpNet>,
    /// The bundle of its trust domain that it told last, where that is newer than what its object says.
    pub(crate) bundle: Option<Bundle>,
    /// A newer one that does not count yet: each change of a bundle goes to all proxies.
    pub(super) offered: Option<Bundle>,
    pub(crate) exports: BTreeMap<Name, Export>,
    /// By Service and port.
    pub(crate) exported: BTreeMap<(Name, u16), Exported>,
    /// The addresses of its gateways, as our ClusterPeer names them. `None`: none is known.
    gateways: Option<Arc<[SocketAddr]>>,
    /// Endpoints over all Services, and bytes of all that is held, by resource.
    endpoints: usize,
    sizes: BTreeMap<resource::Name, usize>,
    bytes: usize,
    /// The versions of all this, to go on with where a stream ended.
    pub(crate) held: BTreeMap<resource::Name, [u8; 16]>,
}

impl Remote {
    /// An export that we import.
    pub(crate) fn export_of(&self, peer: &Peer, name: &Name) -> Option<&Export> {
        let export = self.exports.get(name)?;
        (!is_system(&name.namespace) && peer.is_imported(&name.namespace, &export.labels)).then_some(export)
    }

    /// All that is said of the addresses behind a Service.
    fn touch_addresses(&self, service: &Name, changed: &mut Changed) {
        let of = self.exported.range((service.clone(), 0)..=(service.clone(), u16::MAX));
        of.flat_map(|(_, exported)| addresses(exported))
            .for_each(|ip| touch_address(ip, changed));
    }

    fn body(&self, name: &resource::Name) -> Option<Body> {
        if name.kind == Kind::Cluster {
            return self.cluster.clone().map(Body::Cluster);
        }
        let (namespace, service, port) = resource::name::exported(&name.key)?;
        let service = Name::new(namespace, service);
        match port {
            None => self.exports.get(&service).cloned().map(Body::Export),
            Some(port) => self.exported.get(&(service, port)).cloned().map(Body::Exported),
        }
    }

    /// How many endpoints there are, over all Services.
    pub(crate) fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// How many bytes are held beside those of a resource.
    pub(super) fn bytes_beside(&self, name: &resource::Name) -> usize {
        self.bytes - self.sizes.get(name).copied().unwrap_or_default()
    }
}

impl Index {
    /// Takes in what a peer says. What it may not say is refused, each resource alone; whatever else came with it counts.
    pub(crate) fn hear(
        &mut self,
        cluster: &str,
        mut updates: Vec<Update>,
    ) -> (Vec<(resource::Name, FieldError)>, Changed) {
        let mut changed = Changed::default();
        if self.peer(cluster).is_none() {
            let stranger = || FieldError::new("", "no ClusterPeer that acts names this cluster");
            return (
                updates.into_iter().map(|update| (update.name, stranger())).collect(),
                changed,
            );
        }
        let mut remote = self.remotes.remove(cluster).unwrap_or_default();
        let own = self.pod_networks();
        let mut refused = Vec::new();
        // What is gone makes room; and an export comes before what is behind it.
        updates.sort_by_key(|update| turn(matches!(update.change, Change::Removed), update.name.kind));
        for update in updates {
            let name = update.name.clone();
            match self.hear_one((cluster, &own), &mut remote, update, &mut changed) {
                Ok(None) => {}
                Ok(Some(in_part)) => refused.push((name, in_part)),
                Err(error) => {
                    // Not the last good: a peer that breaks a limit, or speaks of what is not its own, loses that object.
                    self.lose(cluster, &mut remote, &name, &mut changed);
                    refused.push((name, error));
                }
            }
        }
        self.remotes.insert(cluster.to_owned(), remote);
        (refused, changed)
    }

    /// Takes in one thing that a peer says. Returns what of it is refused where the rest of it counts.
    fn hear_one(
        &mut self,
        (cluster, own): (&str, &[IpNet]),
        remote: &mut Remote,
        update: Update,
        changed: &mut Changed,
    ) -> Result<Option<FieldError>, FieldError> {
        let Update { name, version, change } = update;
        let body = match change {
            // What its source was is still the best that is known.
            Change::Hold(_) => return Ok(None),
            Change::Removed => {
                self.lose(cluster, remote, &name, changed);
                return Ok(None);
            }
            Change::Body(body) => *body,
        };
        let peer = self.peer(cluster);
        let peer = peer.ok_or_else(|| FieldError::new("", "no ClusterPeer that acts names this cluster"))?;
        let dials = self.dials(peer, remote);
        let judge = Judge {
            index: self,
            peer,
            own,
            dials,
        };
        let size = resource::encode(&body).bytes.len();
        judge.size(&name, size, remote)?;
        let mut in_part = None;
        match body {
            Body::Cluster(said) => {
                if let Some(bundle) = judge.cluster(&said, remote)? {
                    remote.offered = Some(bundle);
                }
                let overlaps = self.overlaps(peer, Some(&said), own);
                remote.cluster = Some(said);
                if remote.overlaps != overlaps {
                    remote.overlaps = overlaps;
                    self.relink(cluster, own, remote, changed);
                }
            }
            Body::Export(said) => {
                let service = judge.export(&name, &said, remote)?;
                if remote.exports.get(&service) != Some(&said) {
                    remote.touch_addresses(&service, changed);
                    touch_export(&service, changed);
                    remote.exports.insert(service, said);
                }
            }
            Body::Exported(mut said) => {
                let key = judge.exported(&name, &said, remote)?;
                in_part = judge.keep_allowed(&mut said);
                self.lose(cluster, remote, &name, changed);
                if dials {
                    self.link_remote(cluster, &key, &said, changed);
                }
                changed.topics.insert(Topic::Endpoints(key.0.clone()));
                remote.endpoints += said.endpoints.len();
                remote.exported.insert(key, said);
            }
            _ => {
                let reason = format!("{} is not for other clusters to say", name.kind);
                return Err(FieldError::new("name.kind", reason));
            }
        }
        remote.bytes = remote.bytes_beside(&name) + size;
        remote.sizes.insert(name.clone(), size);
        // What was refused in part is not what the peer has said: it says it again when a stream begins anew.
        let hash = if in_part.is_none() { version.hash } else { IN_PART };
        remote.held.insert(name, hash);
        Ok(in_part)
    }

    /// Forgets one thing that a peer said.
    fn lose(&mut self, cluster: &str, remote: &mut Remote, name: &resource::Name, changed: &mut Changed) {
        remote.held.remove(name);
        remote.bytes -= remote.sizes.remove(name).unwrap_or_default();
        let Some((namespace, service, port)) = resource::name::exported(&name.key) else {
            return;
        };
        let service = Name::new(namespace, service);
        match (name.kind, port) {
            (Kind::Export, None) => {
                remote.touch_addresses(&service, changed);
                remote.exports.remove(&service);
                changed.topics.insert(Topic::Import(service.clone()));
            }
            (Kind::Exported, Some(port)) => {
                let key = (service.clone(), port);
                if let Some(gone) = remote.exported.remove(&key) {
                    remote.endpoints -= gone.endpoints.len();
                    self.unlink_remote(cluster, &key, &gone, changed);
                }
            }
            _ => return,
        }
        changed.topics.insert(Topic::Endpoints(service));
    }

    /// A peer's endpoints are not known any more: the link was broken for too long. Who it is stays: its newest roots, and
    /// where its gateways are.
    pub(crate) fn forget(&mut self, cluster: &str) -> Changed {
        let kept = self.remotes.get(cluster).map(|remote| Remote {
            bundle: remote.bundle.clone(),
            offered: remote.offered.clone(),
            gateways: remote.gateways.clone(),
            ..Remote::default()
        });
        let changed = self.drop_remote(cluster);
        if let Some(kept) = kept {
            self.remotes.insert(cluster.to_owned(), kept);
        }
        changed
    }

    /// Nothing of a peer is known any more: its object is gone, or is another's.
    pub(super) fn drop_remote(&mut self, cluster: &str) -> Changed {
        let mut changed = Changed::default();
        if let Some(remote) = self.remotes.remove(cluster) {
            for (key, exported) in &remote.exported {
                self.unlink_remote(cluster, key, exported, &mut changed);
            }
            remote.exports.keys().for_each(|name| touch_export(name, &mut changed));
            let services = remote.exported.keys().map(|(name, _)| name);
            changed.topics.extend(services.cloned().map(Topic::Endpoints));
            changed.topics.insert(Topic::Peers);
        }
        changed
    }

    /// After a change of a ClusterPeer: what it told may be imported by now, or not any more, or be reached another way.
    pub(super) fn touch_remote(&mut self, cluster: &str, changed: &mut Changed) {
        let Some(mut remote) = self.remotes.remove(cluster) else {
            return;
        };
        let own = self.pod_networks();
        let peer = self.peer(cluster);
        remote.overlaps = peer.map_or_else(Vec::new, |peer| self.overlaps(peer, remote.cluster.as_ref(), &own));
        self.relink(cluster, &own, &mut remote, changed);
        self.remotes.insert(cluster.to_owned(), remote);
    }

    /// The networks of our own pods are others by now: those of peers may overlap with them, or not any more.
    pub(super) fn touch_pod_networks(&mut self, changed: &mut Changed) {
        changed.topics.insert(Topic::PodNetworks);
        if self.remotes.is_empty() {
            return;
        }
        let own = self.pod_networks();
        let differs = |(_, peer, remote): &(&Arc<Object>, &Peer, &Remote)| {
            self.overlaps(peer, remote.cluster.as_ref(), &own) != remote.overlaps
        };
        let all = self.remotes().filter(differs);
        let all: Vec<String> = all.map(|(_, peer, _)| peer.cluster.clone()).collect();
        for cluster in all {
            self.touch_remote(&cluster, changed);
        }
    }

    /// What a peer has told is reached another way by now, or not at all.
    fn relink(&mut self, cluster: &str, own: &[IpNet], remote: &mut Remote, changed: &mut Changed) {
        for (key, exported) in &remote.exported {
            self.unlink_remote(cluster, key, exported, changed);
        }
        let dials = self.peer(cluster).is_some_and(|peer| self.dials(peer, remote));
        if dials && let Some(peer) = self.peer(cluster) {
            // What was not dialled so far, or by gateways only, is dialled here from now on.
            let judge = Judge {
                index: self,
                peer,
                own,
                dials,
            };
            for ((name, port), exported) in &mut remote.exported {
                let before = exported.endpoints.len();
                if judge.keep_allowed(exported).is_some() {
                    remote.endpoints -= before - exported.endpoints.len();
                    let name = resource::Name::new(Kind::Exported, format!("{name}:{port}"));
                    remote.held.insert(name, IN_PART);
                }
            }
        }
        if dials {
            for (key, exported) in &remote.exported {
                self.link_remote(cluster, key, exported, changed);
            }
        }
        remote.exports.keys().for_each(|name| touch_export(name, changed));
    }

    /// All that is held of what a peer has said, as it would say it.
    pub(crate) fn said(&self, cluster: &str) -> Vec<discovery::Resource> {
        self.said_of(cluster, |_| true)
    }

    /// The same of some of it.
    pub(crate) fn said_of(&self, cluster: &str, wanted: impl Fn(&resource::Name) -> bool) -> Vec<discovery::Resource> {
        let Some(remote) = self.remotes.get(cluster) else {
            return Vec::new();
        };
        let names = remote.held.keys().filter(|name| wanted(name));
        let said = names.filter_map(|name| {
            let body = remote.body(name)?;
            Some(resource::to_wire(
                name,
                Vec::new(),
                body.requires(),
                &resource::encode(&body),
            ))
        });
        said.collect()
    }

    /// The peers that act and have told us something, by name.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = (&Arc<Object>, &Peer, &Remote)> {
        self.remotes.keys().filter_map(|cluster| self.heard_of(cluster))
    }

    /// One of them.
    pub(crate) fn heard_of(&self, cluster: &str) -> Option<(&Arc<Object>, &Peer, &Remote)> {
        let remote = self.remotes.get(cluster)?;
        let peer = self.peer(cluster)?;
        let (object, _) = self.peers.get(cluster)?.valid.as_ref()?;
        Some((object, peer, remote))
    }

    /// An export that acts: its object, the Service's, and what it says.
    pub(crate) fn exported(&self, name: &Name) -> Option<(&Arc<Object>, &Arc<Object>, &ServiceExport)> {
        let export = self.export(name).filter(|_| !self.is_system(&name.namespace))?;
        let (object, _) = self.exports.get(name)?.valid.as_ref()?;
        let (service, _) = self.services.get(name)?.valid.as_ref()?;
        Some((object, service, export))
    }

    /// The bundles of the peers' trust domains: each the newest that is known.
    pub(crate) fn foreign_bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.peers().map(|(_, peer)| self.bundle_of(peer))
    }

    /// The newest bundle of a peer's trust domain.
    pub(crate) fn bundle_of<'a>(&'a self, peer: &'a Peer) -> &'a Bundle {
        let told = self
            .remotes
            .get(&peer.cluster)
            .and_then(|remote| remote.bundle.as_ref());
        // The trust domain of the object may be another by now.
        let told = told.filter(|told| *told.trust_domain() == peer.trust_domain);
        match told {
            Some(told) if told.sequence() > peer.bundle.sequence() => told,
            _ => &peer.bundle,
        }
    }

    /// The Services' ports that an address of another cluster is behind: of pods that ours reach directly. What of it is still
    /// imported is for whoever asks to see.
    pub(crate) fn remotes_at(&self, ip: IpAddr) -> impl Iterator<Item = (&str, &Name, u16)> {
        let all: Vec<_> = self.remotes_by_ip.of(&ip).collect();
        all.into_iter()
            .map(|(cluster, name, port)| (cluster.as_str(), name, *port))
    }

    /// The addresses of other clusters' pods that ours reach directly.
    pub(crate) fn remote_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.remotes_by_ip.keys().copied()
    }

    /// The addresses of a peer's gateways are these now.
    pub(crate) fn set_gateways(&mut self, cluster: &str, addresses: &[SocketAddr]) -> Changed {
        let mut changed = Changed::default();
        if self.peer(cluster).is_none() {
            return changed;
        }
        let remote = self.remotes.entry(cluster.to_owned()).or_default();
        let addresses: Option<Arc<[SocketAddr]>> = (!addresses.is_empty()).then(|| addresses.into());
        if remote.gateways != addresses {
            remote.gateways = addresses;
            changed
                .topics
                .extend(remote.exports.keys().cloned().map(Topic::Endpoints));
        }
        changed
    }

    /// The addresses of a peer's gateways. `None`: none is known.
    pub(crate) fn gateways_of(&self, cluster: &str) -> Option<&Arc<[SocketAddr]>> {
        self.remotes.get(cluster)?.gateways.as_ref()
    }

    /// Whether the pods of a peer are in our own network.
    pub(crate) fn is_flat(&self, peer: &Peer) -> bool {
        peer.network == self.settings.network
    }

    /// Whether the pods of a peer are dialled at their addresses: they are in our own network, and the addresses are theirs alone.
    pub(crate) fn dials(&self, peer: &Peer, remote: &Remote) -> bool {
        self.is_flat(peer) && remote.overlaps.is_empty()
    }

    /// The networks of a peer's pods, as it says, that overlap with those of ours, where both are to be one.
    fn overlaps(&self, peer: &Peer, said: Option<&Cluster>, own: &[IpNet]) -> Vec<IpNet> {
        let theirs = said
            .filter(|_| self.is_flat(peer))
            .map_or(&[][..], |said| &said.pod_networks);
        let overlaps = |one: &&IpNet| own.iter().any(|own| own.contains(*one) || one.contains(own));
        theirs.iter().filter(overlaps).copied().collect()
    }

    /// Where our pods are, as the Nodes say. Where none does nothing is known, and addresses are judged one by one.
    pub(crate) fn pod_networks(&self) -> Vec<IpNet> {
        let of_nodes = self.nodes.values().flat_map(|(object, _)| node_networks(object));
        IpNet::aggregate(&of_nodes.collect::<Vec<IpNet>>())
    }

    fn link_remote(&mut self, cluster: &str, key: &(Name, u16), exported: &Exported, changed: &mut Changed) {
        for ip in addresses(exported) {
            self.remotes_by_ip.link(&ip, (cluster.to_owned(), key.0.clone(), key.1));
            touch_address(ip, changed);
        }
    }

    fn unlink_remote(&mut self, cluster: &str, key: &(Name, u16), exported: &Exported, changed: &mut Changed) {
        let to = (cluster.to_owned(), key.0.clone(), key.1);
        for ip in addresses(exported) {
            self.remotes_by_ip.unlink(&ip, &to);
            touch_address(ip, changed);
        }
    }
}

/// Whether a namespace is each cluster's own by its name. Where this control plane is, its setting says ([`Index::is_system`]).
pub(super) fn is_system(namespace: &str) -> bool {
    namespace == "weft-system" || namespace.starts_with("kube-")
}

/// What a peer exports of a Service is another by now.
fn touch_export(name: &Name, changed: &mut Changed) {
    changed
        .topics
        .extend([Topic::Import(name.clone()), Topic::Endpoints(name.clone())]);
}

fn addresses(exported: &Exported) -> impl Iterator<Item = IpAddr> {
    exported
        .endpoints
        .iter()
        .map(|one| one.endpoint.address.ip().to_canonical())
}

fn touch_address(ip: IpAddr, changed: &mut Changed) {
    changed.topics.insert(Topic::Address(ip));
    if !Networks::default().contains(ip) {
        changed.topics.insert(Topic::Networks);
    }
}

/// The networks of the pods of a Node.
pub(super) fn node_networks(node: &Object) -> Vec<IpNet> {
    let one = node.raw.pointer("/spec/podCIDR").into_iter();
    let many = node.raw.pointer("/spec/podCIDRs").and_then(|all| all.as_array());
    let all = one.chain(many.into_iter().flatten());
    all.filter_map(|text| text.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
