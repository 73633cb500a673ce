//! What is exported: which Services to which peer, each as the MCS API has it, and the endpoints behind its ports.

use std::collections::BTreeMap;

use weft_model::destination::Protocol;
use weft_model::identity::TrustDomain;
use weft_proto::resource::federation::{Export, Exported, ExportedEndpoint};
use weft_proto::resource::field::{EXPORTED_MAX, LABELS_MAX};

use super::endpoints;
use super::ledger::Ledger;
use super::{Compiled, ports};
use crate::federation::said;
use crate::index::{Index, Name, Topic};
use crate::objects::peer::Selection;
use crate::objects::service::Service;

/// Services that are exported to one peer.
const EXPORTS_MAX: usize = 10_000;

/// The Services that are exported to a peer, of those that it imports. A peer of which nothing valid is known gets nothing.
pub(super) fn to_peer(index: &Index, cluster: &str, imports: &[Selection]) -> Compiled<Vec<Name>> {
    let mut ledger = Ledger::default();
    ledger.topics([Topic::Peers, Topic::Exports]);
    let Some(peer) = index.peer(cluster) else {
        return ledger.close(Vec::new());
    };
    // Whether there is a Service of each name and what its labels are counts too, and what the export says.
    for name in index.exports.keys() {
        ledger.topics([Topic::Service(name.clone()), Topic::Export(name.clone())]);
    }
    let wanted = |name: &Name, labels| imports.iter().any(|selection| selection.takes(&name.namespace, labels));
    let all = index.exports().filter(|(name, export)| {
        let told = index.exported(name);
        let told = told.is_some_and(|(_, service, _)| peer.is_told(&name.namespace, &service.labels));
        told && wanted(name, &export.labels)
    });
    let mut all: Vec<Name> = all.map(|(name, _)| name.clone()).collect();
    if all.len() > EXPORTS_MAX {
        tracing::error!(
            cluster,
            services = all.len(),
            limit = EXPORTS_MAX,
            "exported Services left out"
        );
        all.truncate(EXPORTS_MAX);
    }
    ledger.close(all)
}

/// The ports of all Services that are exported to any peer: what a gateway passes.
pub(super) fn passed(index: &Index) -> Compiled<Vec<String>> {
    let mut ledger = Ledger::default();
    ledger.topics([Topic::Peers, Topic::Exports]);
    let mut all = Vec::new();
    for name in index.exports.keys() {
        if told(index, name, &mut ledger).is_empty() {
            continue;
        }
        let service = index.services.get(name).and_then(|kept| kept.form());
        let ports = service.into_iter().flat_map(|service| &service.ports);
        all.extend(ports.map(|port| format!("{name}:{}", port.port)));
    }
    all.truncate(EXPORTED_MAX);
    ledger.close(all)
}

/// The trust domains to which a Service is exported: their workloads may call its pods.
pub(super) fn told(index: &Index, name: &Name, ledger: &mut Ledger) -> Vec<TrustDomain> {
    ledger.topics([Topic::Peers, Topic::Export(name.clone()), Topic::Service(name.clone())]);
    let Some((object, service, _)) = index.exported(name) else {
        return Vec::new();
    };
    let peers = index.peers().map(|(_, peer)| peer);
    let told = peers.filter(|peer| peer.is_told(&name.namespace, &service.labels));
    let told: Vec<TrustDomain> = told.map(|peer| peer.trust_domain.clone()).collect();
    if !told.is_empty() {
        ledger.source(object);
    }
    told
}

/// An exported Service. `None`: it is not exported (any more).
pub(super) fn export(index: &Index, name: &Name) -> Option<Compiled<Export>> {
    let mut ledger = Ledger::default();
    ledger.topics([Topic::Export(name.clone()), Topic::Service(name.clone())]);
    let (object, written, _) = index.exported(name)?;
    let service = index.services.get(name)?.form()?;
    ledger.source(object);
    ledger.source(written);
    let declared = |port: u16| match service.port(port) {
        Some(port) => ports::of_service(index, name, service, port, None, &mut Ledger::default()),
        None => Protocol::Undeclared,
    };
    let export = index.own_export(name)?;
    Some(ledger.close(said::to_peers(name, export, declared)))
}

/// The endpoints behind a port of an exported Service: of this cluster, and of the mesh.
pub(super) fn exported(index: &Index, name: &Name, port: u16) -> Option<Compiled<Exported>> {
    let mut ledger = Ledger::default();
    ledger.topics([
        Topic::Export(name.clone()),
        Topic::Service(name.clone()),
        Topic::Endpoints(name.clone()),
    ]);
    let (_, written, _) = index.exported(name)?;
    let service: &Service = index.services.get(name)?.form()?;
    ledger.source(written);
    let port_name = &service.port(port)?.name;
    let found = endpoints::local(index, name, service, port_name, &mut ledger);
    let meshed = found.into_iter().filter(|found| found.endpoint.identity.is_some());
    let endpoint = |found: endpoints::Found| ExportedEndpoint {
        labels: labels(index, &found.endpoint.namespace, &found.endpoint.pod),
        hostname: found.hostname,
        endpoint: found.endpoint,
    };
    let endpoints = meshed.map(endpoint).collect();
    Some(ledger.close(Exported {
        namespace: name.namespace.clone(),
        service: name.name.clone(),
        port,
        endpoints,
    }))
}

/// A pod's labels, as far as they can travel.
fn labels(index: &Index, namespace: &str, pod: &str) -> BTreeMap<String, String> {
    let object = index
        .pods
        .get(&Name::new(namespace, pod))
        .and_then(|kept| kept.valid.as_ref());
    let labels = object.into_iter().flat_map(|(object, _)| &object.labels);
    // Of its own template, which nobody selects by: it changes with each roll-out.
    let labels = labels.filter(|(key, _)| *key != "pod-template-hash" && *key != "controller-revision-hash");
    labels
        .take(LABELS_MAX)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
