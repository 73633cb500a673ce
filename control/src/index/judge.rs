//! What a peer may say: of its own objects only, of what we import only, and only so much. Whatever it says beside that is
//! refused, object by object, with the field and the reason.

use std::net::IpAddr;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use weft_certs::bundle::Bundle;
use weft_proto::resource::field::FieldError;
use weft_proto::resource::name::exported;
use weft_proto::resource::{self, Cluster, Export, Exported, Kind};

use super::{Index, Name, Remote};
use crate::federation::derived;
use crate::objects::peer::Peer;

/// Services that are taken from one peer.
const EXPORTS_MAX: usize = 10_000;
/// Endpoints that are taken from one peer, over all Services.
const ENDPOINTS_MAX: usize = 100_000;
/// Bytes of all that is held of one peer, as it travels: 100,000 endpoints with their labels have about half as many. Less than
/// is read back from a state directory.
const BYTES_MAX: usize = 60 << 20;

/// Judges what one peer says.
pub(super) struct Judge<'a> {
    pub(super) index: &'a Index,
    pub(super) peer: &'a Peer,
    /// Where our own pods are.
    pub(super) own: &'a [IpNet],
    /// Whether its pods are dialled at their addresses.
    pub(super) dials: bool,
}

/// In which order the parts of a batch are taken in: what is gone makes room, and an export comes before what is behind it.
pub(crate) fn turn(is_gone: bool, kind: Kind) -> u8 {
    match kind {
        _ if is_gone => 0,
        Kind::Cluster => 1,
        Kind::Export => 2,
        _ => 3,
    }
}

impl Judge<'_> {
    /// What the peer says of itself. Returns its bundle where that is news.
    pub(super) fn cluster(&self, said: &Cluster, remote: &Remote) -> Result<Option<Bundle>, FieldError> {
        let peer = self.peer;
        if said.name != peer.cluster {
            let reason = format!("is {:?}, and the ClusterPeer is {:?}", said.name, peer.cluster);
            return Err(FieldError::new("name", reason));
        }
        if said.bundle.trust_domain != peer.trust_domain {
            let reason = format!(
                "is {}, and the peer's is {}",
                said.bundle.trust_domain, peer.trust_domain
            );
            return Err(FieldError::new("trust_domain", reason));
        }
        let roots = said.bundle.roots.iter().map(|root| CertificateDer::from(root.to_vec()));
        let bundle = Bundle::new(peer.trust_domain.clone(), roots, said.bundle.sequence)
            .map_err(|error| FieldError::new("bundle.roots", error.to_string()))?;
        Ok(self.bundle(&bundle, remote)?.then_some(bundle))
    }

    /// Whether a bundle of the peer is news. It never goes back, also not behind one that waits to be taken.
    pub(super) fn bundle(&self, bundle: &Bundle, remote: &Remote) -> Result<bool, FieldError> {
        let told = [&remote.bundle, &remote.offered].into_iter().flatten();
        let told = told.filter(|told| told.trust_domain() == bundle.trust_domain());
        let newest = told.chain([&self.peer.bundle]).max_by_key(|known| known.sequence());
        let held = newest.unwrap_or(&self.peer.bundle);
        if bundle.sequence() < held.sequence() {
            let reason = format!(
                "is {}, and {} is held: it never goes back",
                bundle.sequence(),
                held.sequence()
            );
            return Err(FieldError::new("bundle.sequence", reason));
        }
        if bundle.sequence() == held.sequence() && bundle.roots() != held.roots() {
            let reason = format!("is {} as before, and the roots are others", bundle.sequence());
            return Err(FieldError::new("bundle.sequence", reason));
        }
        Ok(bundle.sequence() > held.sequence())
    }

    /// Whether there is room for a resource of so many bytes.
    pub(super) fn size(&self, name: &resource::Name, size: usize, remote: &Remote) -> Result<(), FieldError> {
        if remote.bytes_beside(name) + size > BYTES_MAX {
            let reason = format!("{} MiB of one peer are held, and no more", BYTES_MAX >> 20);
            return Err(FieldError::new("", reason));
        }
        Ok(())
    }

    /// A Service that the peer exports.
    pub(super) fn export(&self, name: &resource::Name, said: &Export, remote: &Remote) -> Result<Name, FieldError> {
        let service = Name::new(said.namespace.as_str(), said.name.as_str());
        if name.key != service.to_string() {
            return Err(FieldError::new(
                "name",
                format!("is not that of the resource: {}", name.key),
            ));
        }
        if self.index.is_system(&said.namespace) {
            let reason = format!("{} is each cluster's own: nothing of it is shared", said.namespace);
            return Err(FieldError::new("namespace", reason));
        }
        // The address of another import would lead to this one.
        if derived::is_derived(&said.name) {
            let reason = format!("{service} has a name that is kept for what imports come to");
            return Err(FieldError::new("name", reason));
        }
        if !self.peer.is_imported(&said.namespace, &said.labels) {
            return Err(not_imported(&service, &self.peer.cluster));
        }
        if remote.exports.len() >= EXPORTS_MAX && !remote.exports.contains_key(&service) {
            let reason = format!("{EXPORTS_MAX} Services of one peer are taken, and no more");
            return Err(FieldError::new("", reason));
        }
        Ok(service)
    }

    /// The endpoints behind a port of such a Service, but for each of them ([`Self::keep_allowed`]).
    pub(super) fn exported(
        &self,
        name: &resource::Name,
        said: &Exported,
        remote: &Remote,
    ) -> Result<(Name, u16), FieldError> {
        let service = Name::new(said.namespace.as_str(), said.service.as_str());
        if exported(&name.key) != Some((&said.namespace, &said.service, Some(said.port))) {
            return Err(FieldError::new(
                "service",
                format!("is not that of the resource: {}", name.key),
            ));
        }
        let Some(export) = remote.export_of(self.peer, &service) else {
            return Err(not_imported(&service, &self.peer.cluster));
        };
        if !export.ports.iter().any(|port| port.port == said.port) {
            let reason = format!("is {}, which {service} does not export", said.port);
            return Err(FieldError::new("port", reason));
        }
        let key = (service, said.port);
        let before = remote.exported.get(&key).map_or(0, |before| before.endpoints.len());
        if remote.endpoints() - before + said.endpoints.len() > ENDPOINTS_MAX {
            let reason = format!("{ENDPOINTS_MAX} endpoints of one peer are taken, and no more");
            return Err(FieldError::new("endpoints", reason));
        }
        Ok(key)
    }

    /// Leaves out the endpoints that the peer may not speak of, each for itself. Returns why the first of them is refused.
    pub(super) fn keep_allowed(&self, said: &mut Exported) -> Option<FieldError> {
        let (mut at, mut refused, mut first) = (0, 0, None);
        let namespace = said.namespace.clone();
        said.endpoints.retain(|one| {
            let error = self.endpoint(&namespace, &one.endpoint).err();
            refused += usize::from(error.is_some());
            let allowed = error.is_none();
            first = first
                .take()
                .or(error.map(|error| error.within_element("endpoints", at)));
            at += 1;
            allowed
        });
        if let Some(first) = first.as_mut().filter(|_| refused > 1) {
            let more = match refused - 1 {
                1 => "one more endpoint is refused".to_owned(),
                more => format!("{more} more endpoints are refused"),
            };
            first.reason = format!("{}; and {more}", first.reason);
        }
        first
    }

    fn endpoint(&self, namespace: &str, endpoint: &weft_model::endpoint::Endpoint) -> Result<(), FieldError> {
        let peer = self.peer;
        let wrong = |field: &str, reason: String| Err(FieldError::new(format!("endpoint.{field}"), reason));
        let Some(identity) = &endpoint.identity else {
            return wrong(
                "identity",
                "is missing: plaintext does not go between clusters".to_owned(),
            );
        };
        if *identity.trust_domain() != peer.trust_domain {
            return wrong(
                "identity",
                format!("is {identity}, and the peer's trust domain is {}", peer.trust_domain),
            );
        }
        if identity.namespace() != namespace || endpoint.namespace != namespace {
            return wrong("namespace", format!("is not {namespace}, which the Service is of"));
        }
        if endpoint.place.cluster != peer.cluster {
            let reason = format!("is {:?}, and the peer is {:?}", endpoint.place.cluster, peer.cluster);
            return wrong("cluster", reason);
        }
        match self.refuses_address(endpoint.address.ip()) {
            Some(reason) => wrong("ip", format!("is {}, {reason}", endpoint.address.ip())),
            None => Ok(()),
        }
    }

    /// Why no pod of another cluster can have an address.
    fn refuses_address(&self, ip: IpAddr) -> Option<String> {
        let ip = ip.to_canonical();
        if is_of_a_machine_itself(ip) {
            return Some("which never leaves a machine or its link".to_owned());
        }
        if !self.dials {
            // It is only the gateway's business, or nobody's, and may well be one of ours: networks overlap.
            return None;
        }
        let networks = self.index.settings.inside.iter();
        if let Some(network) = networks.chain(self.own).find(|network: &&IpNet| network.contains(&ip)) {
            return Some(format!("which is in this cluster's own network {network}"));
        }
        let index = self.index;
        let is_ours = index.pod_at(ip).is_some() || index.services_by_ip.of(&ip).next().is_some();
        if is_ours || index.is_of_node(ip) || index.slices_by_ip.of(&ip).next().is_some() {
            return Some("which is one of this cluster's own".to_owned());
        }
        if index.is_reached_at(ip) {
            return Some("at which others reach this cluster".to_owned());
        }
        let mut others = index.remotes_at(ip).map(|(cluster, ..)| cluster);
        let other = others.find(|cluster| *cluster != self.peer.cluster)?;
        Some(format!("which is that of a pod of {other}"))
    }
}

fn not_imported(service: &Name, cluster: &str) -> FieldError {
    let reason =
        format!("{service} is not imported: no entry of imports of ClusterPeer {cluster} takes it, with its labels");
    FieldError::new("namespace", reason)
}

/// Loopback, link-local and the like.
fn is_of_a_machine_itself(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast() || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}
