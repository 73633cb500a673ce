//! What clusters share: ClusterPeers, ServiceExports and ServiceImports in their tables, and which of them act.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::kept::{Formed, Refusal, guarded};
use super::route::age;
use super::{Changed, Index, Kept, Name, Settings, Topic};
use crate::federation::derived;
use crate::objects::mcs::{ServiceExport, ServiceImport};
use crate::objects::peer::Peer;
use crate::objects::{FieldError, Object};

/// Why nothing is exported though a ServiceExport says so, in words of the Multi-Cluster Services API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unexported {
    /// `NoService` or `InvalidServiceType`.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
    /// What would be right.
    pub(super) fix: &'static str,
}

impl Index {
    /// The peers that act, by the names of their clusters.
    pub fn peers(&self) -> impl Iterator<Item = (&str, &Peer)> {
        let names = self.peers.keys();
        names.filter_map(|name| Some((name.as_str(), self.peer(name)?)))
    }

    /// The peers whose objects are there, and have not been valid since this process began: what they would say is not known.
    pub(crate) fn peers_without_form(&self) -> impl Iterator<Item = &str> {
        let without = self.peers.iter().filter(|(_, kept)| kept.form().is_none());
        without.map(|(name, _)| name.as_str())
    }

    /// The Services whose ServiceExports are invalid, and may have been valid before this process began: whether they are exported is
    /// not known.
    pub(crate) fn exports_without_form(&self) -> impl Iterator<Item = &Name> {
        let without = self.exports.iter().filter(|(_, kept)| kept.hold().is_some());
        without.map(|(name, _)| name)
    }

    /// When a peer was last heard of while it was not connected, as the API server has it. Of a file's object nothing is believed.
    pub(crate) fn last_heard(&self, cluster: &str) -> Option<SystemTime> {
        let object = &self.peers.get(cluster)?.object;
        let said = object.raw["status"]["lastHeard"].as_str()?;
        let heard = OffsetDateTime::parse(said, &Rfc3339).ok()?;
        object.origin.is_none().then(|| heard.into())
    }

    /// The peer of this name, if it acts: it is, or was, valid, and no older one has its trust domain.
    pub fn peer(&self, cluster: &str) -> Option<&Peer> {
        let peer = self.peers.get(cluster)?.form()?;
        self.rival(cluster).is_none().then_some(peer)
    }

    /// What is exported: of each ServiceExport that acts the name, which is the Service's too.
    pub fn exports(&self) -> impl Iterator<Item = (&Name, &ServiceExport)> {
        let names = self.exports.keys();
        names.filter_map(|name| Some((name, self.export(name)?)))
    }

    /// The export of a Service, if it has one and can be exported.
    pub fn export(&self, service: &Name) -> Option<&ServiceExport> {
        let export = self.exports.get(service)?.form()?;
        self.unexported(service).is_none().then_some(export)
    }

    /// The peer that acts instead of this one: it has the same trust domain, of which only one cluster can be known.
    pub(super) fn rival(&self, cluster: &str) -> Option<&str> {
        let domain = &self.peers.get(cluster)?.form()?.trust_domain;
        let same = self.peers_by_domain.of(domain);
        let acts = same.min_by_key(|name| self.peers.get(*name).map(|kept| age(&kept.object)))?;
        (acts != cluster).then_some(acts.as_str())
    }

    /// Why a ServiceExport exports nothing.
    pub(super) fn unexported(&self, service: &Name) -> Option<Unexported> {
        let reason = "NoService";
        let Some(kept) = self.services.get(service) else {
            let message = format!("there is no Service {service}");
            let fix = "a ServiceExport has the namespace and the name of the Service that it exports";
            return Some(Unexported { reason, message, fix });
        };
        // Two clusters would keep it alive for each other.
        if derived::is_import(&kept.object) {
            let message = format!("the Service {service} is here only because other clusters export it");
            let fix = "bring a Service of your own to this cluster, or remove the ServiceExport";
            return Some(Unexported { reason, message, fix });
        }
        let Some(form) = kept.form() else {
            let message = format!("the Service {service} is invalid");
            let fix = "mend the Service";
            return Some(Unexported { reason, message, fix });
        };
        form.external.then(|| Unexported {
            reason: "InvalidServiceType",
            message: format!("the Service {service} is of type ExternalName, which has nothing to export"),
            fix: "write the same ExternalName Service in the other cluster, as KEP-1645 has it",
        })
    }

    pub(super) fn peer_change(&mut self, name: &str, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.peers.remove(name);
        let of = |kept: &Kept<Peer>| kept.form().map(|peer| (peer.trust_domain.clone(), peer.uid.clone()));
        let was = old.as_ref().and_then(of);
        let before = was.as_ref().map(|(domain, _)| domain.clone());
        if let Some(peer) = old.as_ref().and_then(Kept::form) {
            self.peers_by_domain.unlink(&peer.trust_domain, &peer.cluster);
        }
        if let Some(object) = object {
            let formed = guarded(object, |object| read_peer(object, &self.settings));
            let before = old.as_ref().and_then(Kept::form);
            let formed = formed.and_then(|(peer, unknown)| goes_on(peer, before).map(|peer| (peer, unknown)));
            let kept = Kept::new(Arc::clone(object), formed, old, self.initial);
            if let Some(peer) = kept.form() {
                self.peers_by_domain.link(&peer.trust_domain, name.to_owned());
            }
            self.peers.insert(name.to_owned(), kept);
        }
        let is = self.peers.get(name).and_then(of);
        let domain = is.as_ref().map(|(domain, _)| domain.clone());
        match is.is_some() && is == was {
            true => self.touch_remote(name, changed),
            // What it has said was of a trust domain that is not its own any more, or of another peer of the same name.
            false => changed.topics.extend(self.drop_remote(name).topics),
        }
        // Others of the same trust domain may act by now, or not any more.
        let rivals = before
            .iter()
            .chain(&domain)
            .flat_map(|domain| self.peers_by_domain.of(domain));
        let rivals: BTreeSet<String> = rivals.filter(|rival| *rival != name).cloned().collect();
        for rival in rivals {
            self.touch_remote(&rival, changed);
        }
        changed.topics.insert(Topic::Peers);
    }

    pub(super) fn export_change(&mut self, name: Name, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.exports.remove(&name);
        let was = old.as_ref().is_some_and(|kept| kept.form().is_some());
        if let Some(object) = object {
            let formed = guarded(object, |object| {
                ServiceExport::of(object).map_err(|error| vec![error.into()])
            });
            let kept = Kept::new(Arc::clone(object), formed, old, self.initial);
            self.exports.insert(name.clone(), kept);
        }
        let is = self.exports.get(&name).is_some_and(|kept| kept.form().is_some());
        if was != is {
            changed.topics.insert(Topic::Exports);
        }
        changed.topics.insert(Topic::Export(name));
    }

    pub(super) fn import_change(&mut self, name: Name, object: Option<&Arc<Object>>, changed: &mut Changed) {
        let old = self.imports.remove(&name);
        if let Some(object) = object {
            let read = |object: &Object| match ServiceImport::of(object) {
                Ok(import) => Ok((import, Vec::new())),
                Err(error) => Err(vec![error.into()]),
            };
            let kept = Kept::new(Arc::clone(object), guarded(object, read), old, self.initial);
            self.imports.insert(name.clone(), kept);
        }
        changed.topics.insert(Topic::Import(name));
    }
}

/// A ClusterPeer after what it was before. Its bundle never goes back: whoever holds a newer one would refuse it.
fn goes_on(peer: Peer, before: Option<&Peer>) -> Result<Peer, Vec<Refusal>> {
    let same = |before: &&Peer| before.uid == peer.uid && before.trust_domain == peer.trust_domain;
    let (now, held) = (
        peer.bundle.sequence(),
        before.filter(same).map_or(0, |before| before.bundle.sequence()),
    );
    if now >= held {
        return Ok(peer);
    }
    let name = &peer.cluster;
    let message = format!("the bundle of the peer {name} has sequence {now}, and {held} is held: it never goes back");
    let fix = format!(
        "delete the ClusterPeer {name}, wait some seconds, and apply what the other cluster prints (weft cluster export-peer): it has begun anew, \
         or was written here with a higher number than it has; else the document is an old one, and what it prints now is right"
    );
    Err(vec![Refusal::value("spec.trustBundle.sequence", message, fix)])
}

/// Reads a ClusterPeer. This cluster is none of its own peers, and no other can have its trust domain: neither could tell the
/// other's identities from its own.
fn read_peer(object: &Object, settings: &Settings) -> Formed<Peer> {
    let Settings {
        trust_domain, cluster, ..
    } = settings;
    let refusals = |all: Vec<FieldError>| all.into_iter().map(Refusal::from).collect::<Vec<_>>();
    let (peer, unknown) = Peer::of(object).map_err(refusals)?;
    let mut refused = Vec::new();
    if peer.cluster == *cluster {
        let message =
            format!("the ClusterPeer {cluster} has the name of this cluster, {cluster}: a peer is another one");
        let fix = "the name of the other cluster, in which this is to be applied; of two clusters of one name, one needs another before it is \
                   linked (WEFT_CLUSTER, `cluster` of the charts)";
        refused.push(Refusal::value("metadata.name", message, fix));
    }
    if peer.trust_domain == *trust_domain {
        let name = &peer.cluster;
        let message = format!("the peer {name} has the trust domain of this cluster, {cluster}: {trust_domain}");
        let fix = "give one of the two another trust domain, with a root of its own";
        refused.push(Refusal::value("spec.trustDomain", message, fix));
    }
    match refused.is_empty() {
        true => Ok((peer, unknown)),
        false => Err(refused),
    }
}

impl From<FieldError> for Refusal {
    fn from(FieldError { field, message, fix }: FieldError) -> Self {
        Self::value(field, message, fix)
    }
}

#[cfg(test)]
mod tests;
