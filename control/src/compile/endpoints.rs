//! The endpoints behind a Service's port: EndpointSlices joined with the pods that they name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use weft_model::endpoint::{Endpoint, EndpointId, EndpointKey, EndpointSet, GlobalKey, Place};
use weft_model::identity::Identity;

use super::Compiled;
use super::key::SetKey;
use super::ledger::{Ledger, source_of};
use super::remote::{self, By};
use crate::index::{Index, Name, Subset, Topic, topics_of_import};
use crate::objects::pod::Pod;
use crate::objects::service::SliceEndpoint;
use crate::objects::{Object, service::Service};

/// What a proxy takes in one set.
const ENDPOINTS_MAX: usize = 16_384;

/// An endpoint, and what a slice says of it beside.
pub(super) struct Found {
    pub(super) endpoint: Endpoint,
    /// Of a headless Service: the pod's host name, or empty.
    pub(super) hostname: String,
    /// Whether its address is its pod's first: a pod of two families has one key.
    primary: bool,
}

/// The set behind a key. `None`: there is none.
pub(super) fn set(index: &Index, key: &SetKey) -> Option<Compiled<EndpointSet>> {
    let mut ledger = Ledger::default();
    let SetKey {
        service: name,
        port,
        subset,
        import,
    } = key;
    ledger.topics([Topic::Service(name.clone()), Topic::Endpoints(name.clone())]);
    let import = match import {
        true => Some(name.clone()),
        // Whoever names the derived Service as a backend means what it is of.
        false => index.import_behind(name),
    };
    let of = import.as_ref().unwrap_or(name);
    let empty = EndpointSet {
        namespace: of.namespace.clone(),
        service: of.name.clone(),
        port: *port,
        subset: subset.clone().unwrap_or_default(),
        endpoints: Vec::new(),
    };
    let subset = match subset {
        None => None,
        Some(subset) => {
            let subset = Name::new(name.namespace.as_str(), subset.as_str());
            ledger.topic(Topic::Subset(subset.clone()));
            let kept = index.subsets.get(&subset)?;
            ledger.hold(kept.hold());
            let Some((object, subset)) = &kept.valid else {
                return kept.hold().map(|_| ledger.close(empty));
            };
            ledger.source(object);
            Some(subset).filter(|subset| subset.service == *name).map(Some)?
        }
    };
    let endpoints = match &import {
        Some(of) => of_import(index, of, *port, subset, &mut ledger),
        None => {
            let kept = index.services.get(name)?;
            ledger.hold(kept.hold());
            let Some((object, service)) = &kept.valid else {
                return kept.hold().map(|_| ledger.close(empty));
            };
            ledger.source(object);
            let port_name = &service.port(*port)?.name;
            let found = members(index, name, service, port_name, subset, &mut ledger);
            let by = match index.is_of_import_alone(name) {
                // Its ports are the import's, and where they had no name they may have got one.
                true => By::Number(*port),
                false => By::Name(port_name),
            };
            bounded(name, found, remote::members(index, name, by, subset, &mut ledger))
        }
    };
    Some(ledger.close(EndpointSet { endpoints, ..empty }))
}

/// The endpoints behind a port of an import: of this cluster those that it exports, behind the same port, and of the others
/// those that they do. Where nobody exports any more, there are none.
fn of_import(index: &Index, of: &Name, port: u16, subset: Option<&Subset>, ledger: &mut Ledger) -> Vec<Arc<Endpoint>> {
    ledger.topics(topics_of_import(of));
    ledger.topic(Topic::Endpoints(of.clone()));
    let own = index.exported(of).and_then(|(export, object, _)| {
        let service = index.services.get(of)?.form()?;
        ledger.source(export);
        ledger.source(object);
        Some((service, &service.port(port)?.name))
    });
    let found = own.map(|(service, port_name)| members(index, of, service, port_name, subset, ledger));
    let remote = remote::members(index, of, By::Number(port), subset, ledger);
    bounded(of, found.unwrap_or_default(), remote)
}

/// The endpoints of a set, in order of key. Each cluster speaks of its own, by whatever keys; and others get the room that this one
/// leaves.
fn bounded(name: &Name, local: BTreeMap<EndpointKey, Found>, remote: Vec<Endpoint>) -> Vec<Arc<Endpoint>> {
    let own = local.into_values().map(|found| found.endpoint);
    let mut all: BTreeMap<GlobalKey, Endpoint> = own.map(|endpoint| (endpoint.global_key(), endpoint)).collect();
    for endpoint in remote {
        if all.len() >= ENDPOINTS_MAX && !all.contains_key(&endpoint.global_key()) {
            tracing::error!(service = %name, limit = ENDPOINTS_MAX, "endpoints of other clusters left out");
            break;
        }
        all.entry(endpoint.global_key()).or_insert(endpoint);
    }
    let mut endpoints: Vec<Arc<Endpoint>> = all.into_values().map(Arc::new).collect();
    if endpoints.len() > ENDPOINTS_MAX {
        tracing::error!(service = %name, endpoints = endpoints.len(), limit = ENDPOINTS_MAX, "endpoints left out");
        endpoints.truncate(ENDPOINTS_MAX);
    }
    endpoints
}

/// The endpoints of this cluster behind a port of a Service, in order of key.
pub(super) fn local(index: &Index, name: &Name, service: &Service, port_name: &str, ledger: &mut Ledger) -> Vec<Found> {
    members(index, name, service, port_name, None, ledger)
        .into_values()
        .collect()
}

fn members(
    index: &Index,
    name: &Name,
    service: &Service,
    port_name: &str,
    subset: Option<&Subset>,
    ledger: &mut Ledger,
) -> BTreeMap<EndpointKey, Found> {
    let mut found: BTreeMap<EndpointKey, Found> = BTreeMap::new();
    for slice_name in index.slices_by_service.of(name) {
        let Some((object, slice)) = index.slices.get(slice_name).and_then(|kept| kept.valid.as_ref()) else {
            continue;
        };
        ledger.source(object);
        for (_, port) in slice.ports.iter().filter(|(name, _)| name == port_name) {
            for written in &slice.endpoints {
                let Some(draining) = draining(written, service.publish_not_ready) else {
                    continue;
                };
                let Some(new) = member(index, object, written, *port, draining, subset, ledger) else {
                    continue;
                };
                match found.get(&new.endpoint.key) {
                    // Serving before draining, then the pod's own first choice of family.
                    Some(old) if (!old.endpoint.draining, old.primary) >= (!draining, new.primary) => {}
                    _ => _ = found.insert(new.endpoint.key, new),
                }
            }
        }
    }
    found
}

/// Whether an endpoint is draining. `None`: it takes no traffic at all.
fn draining(endpoint: &SliceEndpoint, publish_not_ready: bool) -> Option<bool> {
    match (
        endpoint.terminating,
        endpoint.ready || publish_not_ready,
        endpoint.serving,
    ) {
        (false, true, _) => Some(false),
        (true, _, true) => Some(true),
        _ => None,
    }
}

/// An endpoint of a slice. `None`: it is not in the subset, or its pod is not known (yet): what is not known is not
/// plaintext.
fn member(
    index: &Index,
    slice: &Arc<Object>,
    written: &SliceEndpoint,
    port: u16,
    draining: bool,
    subset: Option<&Subset>,
    ledger: &mut Ledger,
) -> Option<Found> {
    let address = SocketAddr::new(written.address.to_canonical(), port);
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return None;
    }
    let name = match &written.pod {
        Some(pod) => Some(Name::new(pod.namespace.as_str(), pod.name.as_str())),
        None => index.pod_at(address.ip()).cloned(),
    };
    let Some(name) = name else {
        let labels = BTreeMap::new();
        let endpoint = of_address(index, slice, written, address, draining);
        let wanted = subset.is_none_or(|subset| subset.has(&labels, &endpoint.place.region));
        return wanted.then_some(Found {
            endpoint,
            hostname: String::new(),
            primary: true,
        });
    };
    let (object, pod) = index.pods.get(&name)?.valid.as_ref()?;
    let named = written.pod.as_ref().map(|pod| pod.uid.as_str()).unwrap_or_default();
    let same = (named.is_empty() || named == object.uid) && pod.ips.iter().any(|ip| ip.to_canonical() == address.ip());
    if !same || pod.finished {
        return None;
    }
    if let Some(subset) = subset
        && !subset.has(&object.labels, &index.place(&pod.node).region)
    {
        return None;
    }
    let endpoint = of_pod(index, object, pod, address, draining, ledger)?;
    Some(Found {
        endpoint,
        hostname: written.hostname.clone(),
        primary: pod.ips.first().is_some_and(|ip| ip.to_canonical() == address.ip()),
    })
}

/// A port of a pod. `None`: it should have an identity, and has none that can be written.
pub(super) fn of_pod(
    index: &Index,
    object: &Arc<Object>,
    pod: &Pod,
    address: SocketAddr,
    draining: bool,
    ledger: &mut Ledger,
) -> Option<Endpoint> {
    let identity = match pod.injected && !pod.skip_inbound.contains(&address.port()) {
        true => {
            let trust_domain = index.settings.trust_domain.clone();
            Some(Identity::new(trust_domain, &object.namespace, &pod.service_account).ok()?)
        }
        false => None,
    };
    // Nodes are no sources: they report every few minutes, and an older place is a worse choice but never a wrong one.
    ledger.source(object);
    Some(Endpoint {
        key: EndpointKey {
            id: endpoint_id(&index.settings.cluster, &object.uid),
            port: address.port(),
        },
        address,
        gateways: None,
        identity,
        namespace: object.namespace.clone(),
        pod: object.name.clone(),
        workload: word(&pod.workload),
        version: word(&pod.version),
        place: place(index, &pod.node),
        draining,
        source: source_of(object),
    })
}

/// Something that is no pod of this cluster: known by its address, and positively not in the mesh.
fn of_address(
    index: &Index,
    slice: &Arc<Object>,
    written: &SliceEndpoint,
    address: SocketAddr,
    draining: bool,
) -> Endpoint {
    let mut place = place(index, &written.node);
    if place.zone.is_empty() {
        place.zone = word(&written.zone);
    }
    Endpoint {
        key: EndpointKey {
            id: endpoint_id(
                &index.settings.cluster,
                &format!("{}/{}", slice.namespace, address.ip()),
            ),
            port: address.port(),
        },
        address,
        gateways: None,
        identity: None,
        namespace: slice.namespace.clone(),
        pod: address_name(address.ip()),
        workload: String::new(),
        version: String::new(),
        place,
        draining,
        source: source_of(slice),
    }
}

/// The first 8 bytes, big endian, of SHA-256 over `<cluster>/<pod uid>`.
pub(super) fn endpoint_id(cluster: &str, uid: &str) -> EndpointId {
    let hash = digest(&SHA256, format!("{cluster}/{uid}").as_bytes());
    EndpointId(
        hash.as_ref()
            .iter()
            .take(8)
            .fold(0, |id, byte| id << 8 | u64::from(*byte)),
    )
}

/// A name for something that has only an address, in the form of a DNS name.
fn address_name(ip: IpAddr) -> String {
    let name = format!("ip-{}", ip.to_string().replace([':', '.'], "-"));
    name.trim_end_matches('-').to_owned()
}

pub(super) fn place(index: &Index, node: &str) -> Place {
    let Place { region, zone, cluster } = index.place(node);
    Place {
        region: word(&region),
        zone: word(&zone),
        cluster,
    }
}

/// A word that a proxy takes for telemetry. API servers let nothing else through; files might.
pub(super) fn word(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(253).collect()
}
