//! What is told of other clusters: how the link to each is, what is taken from it, what it is told of, and who follows.

use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use weft_certs::bundle::Bundle;
use weft_proto::resource::{Cluster, Kind, name};

use super::{FederationStatus, RefusalStatus, rfc3339};
use crate::index::Remote;
use crate::objects::peer::Peer;
use crate::serve::hub::{Hub, LinkState, Subject, Tried, Trusted};

/// One peer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerStatus {
    pub(crate) cluster: String,
    pub(crate) trust_domain: String,
    pub(crate) control_plane: String,
    pub(crate) network: String,
    /// Whether its pods are in our network, and dialled directly.
    pub(crate) flat: bool,
    /// Its federation endpoints and gateways, as its ClusterPeer has them.
    pub(crate) endpoints: Vec<String>,
    pub(crate) gateways: Vec<String>,
    /// How many entries its `imports` has: without any, nothing is taken from it.
    pub(crate) imports: usize,
    /// What it says of itself, once it is heard.
    pub(crate) said: Option<SaidStatus>,
    /// Networks of its pods that overlap with those of ours, where both are to be one: then none of its endpoints is taken.
    pub(crate) overlaps: Vec<String>,
    /// What came of trying its gateways from here, where its pods are reached through them.
    pub(crate) gateways_tried: Vec<GatewayStatus>,
    /// The number of the newest bundle that is known of it.
    pub(crate) bundle_sequence: u64,
    /// How far that has come with our own proxies.
    pub(crate) bundle_here: Option<TrustedStatus>,
    /// How far our own bundle has come there, as its replicas say.
    pub(crate) bundle_there: Option<TrustedStatus>,
    /// What came of asking its bundle endpoint, where its ClusterPeer has one.
    pub(crate) bundle_endpoint: Option<BundleEndpointStatus>,
    /// The link by which its exports come.
    pub(crate) link: LinkStatus,
    pub(crate) imported: Vec<ImportedStatus>,
    /// What it said that it may not, where it has not said anything better since; at most a few.
    pub(crate) refused: Vec<RefusalStatus>,
    /// How often it did, since this process began.
    pub(crate) refused_total: u64,
    /// The replicas of its control plane that follow us.
    pub(crate) followers: Vec<FollowerStatus>,
}

/// How far a trust bundle has come in a cluster.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrustedStatus {
    /// The sequence that its control plane holds.
    pub(crate) sequence: u64,
    /// Its proxies that are connected, and how many of them decide by that one.
    pub(crate) proxies: usize,
    pub(crate) acknowledged: usize,
    /// The sequence that all of these have reached.
    pub(crate) reached: u64,
}

/// What came of asking a bundle endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BundleEndpointStatus {
    pub(crate) url: String,
    /// When a bundle last came from there.
    pub(crate) fetched: Option<String>,
    /// Why none came, or it was not taken: `name`, `port`, `identity`, `tls`, `protocol`, `slow`, `redirect`, `status`, `format`,
    /// `sequence`, or empty; and the same for people.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
}

/// What came of trying a gateway of a peer, from where the control plane is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayStatus {
    /// As the ClusterPeer names it.
    pub(crate) gateway: String,
    /// When it was tried last.
    pub(crate) tried: String,
    /// Why it cannot be reached: `name`, `port`, or empty; and the same for people.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
}

/// What a peer says of itself.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SaidStatus {
    pub(crate) network: String,
    pub(crate) gateways: Vec<String>,
    pub(crate) pod_networks: Vec<String>,
}

/// How the link to a peer is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkStatus {
    /// `Connecting`, `Connected`, `Stale` or `Forgotten`.
    pub(crate) state: &'static str,
    pub(crate) since: Option<String>,
    pub(crate) endpoint: String,
    /// Why it is not connected: `name`, `port`, `identity`, `tls`, `protocol`, `slow`, `refused`, `version`, `message`, `stream`,
    /// `ended`, or empty; and the same for people.
    pub(crate) fault: &'static str,
    pub(crate) reason: String,
    pub(crate) heard: Option<String>,
    /// Whether all that it exports has come since this process began: until then nothing is taken for gone.
    pub(crate) complete: bool,
}

/// A Service that is taken from a peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImportedStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) endpoints: usize,
}

/// A replica of a peer's control plane that follows us.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FollowerStatus {
    pub(crate) build: String,
    pub(crate) since: String,
    /// How far its clock is ahead of ours, in milliseconds.
    pub(crate) skew_ms: Option<i64>,
    /// The Services that it is told of, and has acknowledged.
    pub(crate) exported: Vec<String>,
    /// What it would not take.
    pub(crate) refusals: Vec<RefusalStatus>,
}

/// What the status of a ClusterPeer that acts says beside what is said of any object.
#[derive(Clone, Debug)]
pub(crate) struct PeerVerdict {
    /// How the link is. `None`: nobody has tried it yet.
    pub(crate) link: Option<LinkState>,
    /// How long what it exports is kept while the link is broken.
    pub(crate) keep_for: Duration,
    /// Services that are taken from it, and that it is told of.
    pub(crate) imported: usize,
    pub(crate) exported: usize,
    /// How its pods are reached, once that is known.
    pub(crate) way: Option<Way>,
    /// Why it is not the cluster that the object names, though its control plane is.
    pub(crate) unlike: Option<String>,
    /// The newest bundle that is known of it: sequence and PEM.
    pub(crate) bundle: (u64, String),
}

/// How the pods of a peer are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// They are dialled at their addresses.
    Direct,
    /// Through its gateways.
    Gateways,
    /// Not at all: they are in another network, and no gateway is named.
    NoGateways,
    /// The same, and nobody here calls them: nothing is imported from it.
    NothingImported,
    /// Not at all: they are to be in our network, where these of theirs overlap with ours.
    Overlaps(Vec<String>),
}

impl Hub {
    /// What the status of a ClusterPeer is to say. `None`: it does not act.
    pub(super) fn peer_verdict(&self, cluster: &str) -> Option<PeerVerdict> {
        let index = &self.index;
        let peer = index.peer(cluster)?;
        let told = index.exports().filter(|(name, _)| {
            let service = index.exported(name).map(|(_, service, _)| service);
            service.is_some_and(|service| peer.is_told(&name.namespace, &service.labels))
        });
        let remote = index.heard_of(cluster).map(|(_, _, remote)| remote);
        let way = self.way(peer, remote);
        let taken = remote.into_iter().flat_map(|remote| {
            let names = remote.exports.keys();
            names.filter(|name| remote.export_of(peer, name).is_some())
        });
        let bundle = index.bundle_of(peer);
        Some(PeerVerdict {
            link: self.links.get(cluster).cloned(),
            keep_for: peer.keep_for,
            imported: taken.count(),
            exported: told.count(),
            way,
            unlike: self.unlike(cluster),
            bundle: (bundle.sequence(), bundle.to_pem()),
        })
    }

    pub(super) fn federation_status(&self) -> FederationStatus {
        let facts = self.facts();
        let own = facts.bundles.get(&facts.trust_domain);
        FederationStatus {
            cluster: facts.cluster.clone(),
            trust_domain: facts.trust_domain.to_string(),
            control_plane: facts.control_plane.to_string(),
            network: facts.network.clone(),
            endpoints: facts.federation_endpoints.clone(),
            gateways: facts.gateways.clone(),
            bundle_endpoint: facts.bundle_endpoint.clone(),
            bundle_sequence: own.map_or(0, Bundle::sequence),
            bundle_here: self.trusted_here().into(),
            bundle_reached: self.trusted_everywhere(),
            roots: own.map(Bundle::to_pem).unwrap_or_default(),
        }
    }

    pub(super) fn peer_statuses(&self) -> Vec<PeerStatus> {
        self.index.peers().map(|(_, peer)| self.peer_status(peer)).collect()
    }

    fn peer_status(&self, peer: &Peer) -> PeerStatus {
        let remote = self.index.heard_of(&peer.cluster).map(|(_, _, remote)| remote);
        let faults = self.faults.get(&peer.cluster);
        let now = faults.into_iter().flat_map(|faults| &faults.now);
        let refused = now.map(|(name, error)| RefusalStatus {
            object: name.to_string(),
            field: error.field.clone(),
            reason: error.reason.clone(),
        });
        PeerStatus {
            cluster: peer.cluster.clone(),
            trust_domain: peer.trust_domain.to_string(),
            control_plane: peer.control_plane.to_string(),
            network: peer.network.clone(),
            flat: self.index.is_flat(peer),
            endpoints: peer.endpoints.iter().map(ToString::to_string).collect(),
            gateways: peer.gateways.iter().map(ToString::to_string).collect(),
            imports: peer.imports.len(),
            said: remote.and_then(|remote| remote.cluster.as_ref()).map(said),
            overlaps: remote.map(|remote| texts(&remote.overlaps)).unwrap_or_default(),
            gateways_tried: self.gateways_tried(peer),
            bundle_sequence: self.index.bundle_of(peer).sequence(),
            bundle_here: self.trusted(&peer.cluster).map(Into::into),
            bundle_there: self.trusted_by(&peer.cluster).map(Into::into),
            bundle_endpoint: self.bundle_endpoint_status(peer),
            link: self.link_status(peer),
            imported: remote.map(|remote| imported(peer, remote)).unwrap_or_default(),
            refused: refused.collect(),
            refused_total: faults.map_or(0, |faults| faults.total),
            followers: self.follower_statuses(&peer.cluster),
        }
    }

    /// Why a peer is another than its ClusterPeer names, as it says of itself.
    fn unlike(&self, cluster: &str) -> Option<String> {
        let faults = self.faults.get(cluster)?;
        let (_, error) = faults
            .now
            .iter()
            .find(|(said, _)| (said.kind, &*said.key) == (Kind::Cluster, name::CLUSTER))?;
        let is_itself = !["name", "trust_domain"].contains(&error.field.as_str());
        (!is_itself).then(|| format!("{} {}", error.field, error.reason))
    }

    /// What came of trying those of its gateways that it has now, where any are needed.
    fn gateways_tried(&self, peer: &Peer) -> Vec<GatewayStatus> {
        let needed = !self.index.is_flat(peer) && !peer.imports.is_empty();
        let tried = self.tried.get(&peer.cluster).into_iter().flatten();
        let now = tried.filter(|tried| needed && peer.gateways.contains(&tried.gateway));
        let status = |tried: &Tried| GatewayStatus {
            gateway: tried.gateway.to_string(),
            tried: rfc3339(tried.at),
            fault: tried.fault,
            reason: tried.reason.clone(),
        };
        now.map(status).collect()
    }

    /// How the pods of a peer are reached. `None`: it is to be in our network, and has not said where its pods are.
    fn way(&self, peer: &Peer, remote: Option<&Remote>) -> Option<Way> {
        let overlaps = remote.map_or(&[][..], |remote| &remote.overlaps);
        let has_said = remote.is_some_and(|remote| remote.cluster.is_some());
        match (self.index.is_flat(peer), overlaps) {
            (false, _) if !peer.gateways.is_empty() => Some(Way::Gateways),
            (false, _) if peer.imports.is_empty() => Some(Way::NothingImported),
            (false, _) => Some(Way::NoGateways),
            (true, []) => has_said.then_some(Way::Direct),
            (true, overlaps) => Some(Way::Overlaps(texts(overlaps))),
        }
    }

    fn bundle_endpoint_status(&self, peer: &Peer) -> Option<BundleEndpointStatus> {
        let url = peer.bundle_endpoint.as_ref()?.to_string();
        let fetched = self.fetched.get(&peer.cluster).cloned().unwrap_or_default();
        Some(BundleEndpointStatus {
            url,
            fetched: fetched.last.map(rfc3339),
            fault: fetched.fault,
            reason: fetched.reason,
        })
    }

    fn link_status(&self, peer: &Peer) -> LinkStatus {
        let Some(link) = self.links.get(&peer.cluster) else {
            return LinkStatus {
                state: "Connecting",
                since: None,
                endpoint: peer.endpoints.first().map(ToString::to_string).unwrap_or_default(),
                fault: "",
                reason: String::new(),
                heard: None,
                complete: false,
            };
        };
        LinkStatus {
            state: link.state.word(),
            since: Some(rfc3339(link.since)),
            endpoint: link.endpoint.clone(),
            fault: link.fault,
            reason: link.reason.clone(),
            heard: link.heard.map(rfc3339),
            complete: link.complete,
        }
    }

    fn follower_statuses(&self, cluster: &str) -> Vec<FollowerStatus> {
        let of_cluster = self.proxies.values().filter(|proxy| match &proxy.who.subject {
            Subject::Peer(follower) => follower.cluster == cluster,
            Subject::Pod(_) | Subject::Gateway(_) => false,
        });
        let status = |proxy: &crate::serve::hub::Proxy| {
            let mut exported: Vec<String> = proxy
                .acked
                .keys()
                .filter(|name| name.kind == Kind::Export)
                .map(|name| name.key.to_string())
                .collect();
            exported.sort();
            let refusals = proxy.refusals.values().map(|refused| RefusalStatus {
                object: refused.object.clone(),
                field: refused.field.clone(),
                reason: refused.reason.clone(),
            });
            FollowerStatus {
                build: proxy.who.build.clone(),
                since: rfc3339(proxy.who.since),
                skew_ms: proxy.who.skew_ms,
                exported,
                refusals: refusals.collect(),
            }
        };
        of_cluster.map(status).collect()
    }
}

impl From<Trusted> for TrustedStatus {
    fn from(trusted: Trusted) -> Self {
        let Trusted {
            sequence,
            proxies,
            acknowledged,
            reached,
        } = trusted;
        Self {
            sequence,
            proxies,
            acknowledged,
            reached,
        }
    }
}

fn said(said: &Cluster) -> SaidStatus {
    SaidStatus {
        network: said.network.clone(),
        gateways: said.gateways.clone(),
        pod_networks: texts(&said.pod_networks),
    }
}

fn texts(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

fn imported(peer: &Peer, remote: &Remote) -> Vec<ImportedStatus> {
    let taken = remote
        .exports
        .keys()
        .filter(|name| remote.export_of(peer, name).is_some());
    let status = |name: &crate::index::Name| {
        let ports = remote.exported.iter().filter(|((service, _), _)| service == name);
        ImportedStatus {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            endpoints: ports
                .map(|(_, exported)| exported.endpoints.len())
                .max()
                // Of networks that overlap none is taken.
                .filter(|_| remote.overlaps.is_empty())
                .unwrap_or_default(),
        }
    };
    taken.map(status).collect()
}
