//! The EndpointSlices behind the Services that an import comes to: for clients outside the mesh, which dial pods themselves, and for the
//! names of headless ones, which are their pods' addresses.
//!
//! As KEP-1645 has them, one cluster's endpoints in slices of their own. An endpoint stays in the slice that it is in: a change
//! of one writes one slice, however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::derived::{IMPORT_LABEL, SERVICE_NAME_LABEL, derived_name};
use crate::index::Name;
use crate::objects::{Object, service};

/// The label that names the cluster that endpoints are of (KEP-1645).
pub(crate) const SOURCE_CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";
/// The label that says who keeps an EndpointSlice, and its value for ours.
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "imports.weft.dev";
/// Endpoints of one slice, as Kubernetes' own controller has it.
const ENDPOINTS_MAX: usize = 100;

/// What of one cluster is behind an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backends {
    /// The cluster.
    pub(crate) cluster: String,
    /// Its pods, by their addresses.
    pub(crate) pods: BTreeMap<IpAddr, Backend>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Its TCP ports, by the numbers of the import's ports: a cluster whose Service has another number by a port's name is not behind
    /// that port (KEP-1645, "Service Port").
    pub(crate) ports: BTreeMap<u16, u16>,
    /// Its host name before a headless Service, or empty.
    pub(crate) hostname: String,
    /// Where it is, or empty.
    pub(crate) zone: String,
    /// It ends, and takes new connections only where nothing else does.
    pub(crate) draining: bool,
}

/// The EndpointSlices that are there: which addresses each of them has, by its name.
pub(crate) type There = BTreeMap<String, Vec<IpAddr>>;

/// Endpoints that can be in one slice: of one cluster, one family, and with the same ports.
type Alike<'a> = (&'a str, bool, &'a BTreeMap<u16, u16>);

/// Whether an EndpointSlice is one of ours: what is behind an import is known from other clusters, not from it.
pub(crate) fn is_slice(object: &Object) -> bool {
    object
        .labels
        .get(MANAGED_BY_LABEL)
        .is_some_and(|value| value == MANAGER)
}

/// The EndpointSlices behind a Service of an import, by their names. `service`: its name, and its ports as it has them.
pub(crate) fn slices(
    of: &Name,
    (service, ports_there): (&str, &Value),
    backends: &[Backends],
    there: &There,
) -> BTreeMap<String, Value> {
    let mut alike: BTreeMap<Alike<'_>, BTreeMap<IpAddr, &Backend>> = BTreeMap::new();
    for one in backends {
        for (ip, backend) in &one.pods {
            let key = (one.cluster.as_str(), ip.is_ipv6(), &backend.ports);
            alike.entry(key).or_default().insert(*ip, backend);
        }
    }
    let mut all = BTreeMap::new();
    for (key, endpoints) in alike {
        let (cluster, is_v6, ports) = key;
        let ports = slice_ports(ports_there, ports);
        if ports.is_empty() {
            continue;
        }
        for (name, endpoints) in packed(&prefix(of, service, key), endpoints, there) {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": of.namespace, "name": name,
                    "labels": {
                        service::SERVICE_NAME_LABEL: service, SERVICE_NAME_LABEL: of.name,
                        SOURCE_CLUSTER_LABEL: cluster, MANAGED_BY_LABEL: MANAGER, IMPORT_LABEL: "true",
                    },
                },
                "addressType": if is_v6 { "IPv6" } else { "IPv4" },
                "ports": ports,
                "endpoints": endpoints.into_iter().map(endpoint).collect::<Vec<_>>(),
            });
            all.insert(name, slice);
        }
    }
    all
}

/// The addresses of an EndpointSlice.
pub(crate) fn addresses(slice: &Object) -> Vec<IpAddr> {
    let endpoints = slice.raw["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok())
        .collect()
}

/// The ports as the Service calls them. An EndpointSlice has the name of the Service's port, which is how the two are
/// matched. Of other protocols no endpoints are known.
fn slice_ports(service: &Value, ports: &BTreeMap<u16, u16>) -> Vec<Value> {
    let all = service.as_array().into_iter().flatten();
    let tcp = all.filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"));
    let port = |of: &Value| {
        let number = u16::try_from(of["port"].as_u64()?).ok()?;
        let mut port = json!({"name": of["name"].as_str().unwrap_or_default(), "protocol": "TCP"});
        port["port"] = (*ports.get(&number)?).into();
        if let Some(protocol) = of["appProtocol"].as_str() {
            port["appProtocol"] = protocol.into();
        }
        Some(port)
    };
    tcp.filter_map(port).collect()
}

/// How the names of slices begin that can have the same endpoints. Those of the own name are called by the derived one as well: theirs
/// may be as long as a name can be.
fn prefix(of: &Name, service: &str, (cluster, is_v6, ports): Alike<'_>) -> String {
    let hash = digest(&SHA256, format!("{cluster} {is_v6} {ports:?}").as_bytes());
    let hex: String = hash.as_ref()[..5].iter().map(|byte| format!("{byte:02x}")).collect();
    let own = if service == of.name { "own-" } else { "" };
    format!("{}-{own}{hex}-", derived_name(of))
}

/// Endpoints in slices of at most [`ENDPOINTS_MAX`]: where they are already, else where there is room, else in new ones.
fn packed<'a>(
    prefix: &str,
    mut left: BTreeMap<IpAddr, &'a Backend>,
    there: &There,
) -> BTreeMap<String, Vec<(IpAddr, &'a Backend)>> {
    let mut packed: BTreeMap<String, BTreeMap<IpAddr, &Backend>> = BTreeMap::new();
    let ours = there.range(prefix.to_owned()..);
    for (name, addresses) in ours.take_while(|(name, _)| name.starts_with(prefix)) {
        let addresses: BTreeSet<&IpAddr> = addresses.iter().collect();
        let stay = addresses.into_iter().take(ENDPOINTS_MAX);
        let stay: BTreeMap<_, _> = stay.filter_map(|ip| left.remove_entry(ip)).collect();
        // One of which nothing stays is free for others.
        if !stay.is_empty() {
            packed.insert(name.clone(), stay);
        }
    }
    let mut number = 0_usize;
    while !left.is_empty() {
        let room = packed.entry(format!("{prefix}{number}")).or_default();
        while room.len() < ENDPOINTS_MAX
            && let Some((ip, backend)) = left.pop_first()
        {
            room.insert(ip, backend);
        }
        number += 1;
    }
    let listed = |(name, endpoints): (String, BTreeMap<_, _>)| (name, endpoints.into_iter().collect());
    packed.into_iter().map(listed).collect()
}

fn endpoint((ip, backend): (IpAddr, &Backend)) -> Value {
    let draining = backend.draining;
    let mut endpoint = json!({
        "addresses": [ip.to_string()],
        "conditions": {"ready": !draining, "serving": true, "terminating": draining},
    });
    if !backend.hostname.is_empty() {
        endpoint["hostname"] = backend.hostname.as_str().into();
    }
    if !backend.zone.is_empty() {
        endpoint["zone"] = backend.zone.as_str().into();
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::derived::derived_service;
    use crate::federation::merge::{
        Conflict, ImportType, InternalTrafficPolicy, IpFamily, Merged, Port, Protocol, SessionAffinity,
    };

    const DERIVED: &str = "weft-import-c1c97e5699";

    fn reviews() -> Name {
        Name::new("shop", "reviews")
    }

    /// The ports of the derived Service of an import that has these.
    fn of(ports: &[(&str, u16, Protocol)]) -> Value {
        let port = |(name, port, protocol): &(&str, u16, Protocol)| Port {
            name: (*name).to_owned(),
            port: *port,
            protocol: *protocol,
            app_protocol: None,
        };
        let merged = Merged {
            kind: ImportType::ClusterSetIP,
            ports: ports.iter().map(port).collect(),
            session_affinity: SessionAffinity::None,
            ip_families: vec![IpFamily::V4],
            internal_traffic_policy: InternalTrafficPolicy::Cluster,
            traffic_distribution: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            clusters: BTreeSet::from(["west".to_owned()]),
            conflict: Conflict {
                status: false,
                reason: String::new(),
                message: String::new(),
            },
        };
        derived_service(&reviews(), &merged)["spec"]["ports"].take()
    }

    fn http() -> Value {
        of(&[("http", 80, Protocol::Tcp)])
    }

    fn pod(ports: &[(u16, u16)]) -> Backend {
        Backend {
            ports: ports.iter().copied().collect(),
            ..Backend::default()
        }
    }

    fn ip(n: usize) -> IpAddr {
        IpAddr::from([10, 1, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()])
    }

    fn west(pods: impl Iterator<Item = (IpAddr, Backend)>) -> [Backends; 1] {
        [Backends {
            cluster: "west".to_owned(),
            pods: pods.collect(),
        }]
    }

    fn there(slices: &BTreeMap<String, Value>) -> There {
        let of = |slice: &Value| {
            let endpoints = slice["endpoints"].as_array().unwrap().iter();
            let ip = |endpoint: &Value| endpoint["addresses"][0].as_str().unwrap().parse().unwrap();
            endpoints.map(ip).collect()
        };
        slices.iter().map(|(name, slice)| (name.clone(), of(slice))).collect()
    }

    fn sizes(slices: &BTreeMap<String, Value>) -> Vec<usize> {
        there(slices).values().map(Vec::len).collect()
    }

    #[test]
    fn a_slice_says_whose_endpoints_it_has_and_behind_which_service() {
        let backend = Backend {
            hostname: "reviews-0".to_owned(),
            zone: "eu-1a".to_owned(),
            draining: true,
            ..pod(&[(80, 8080)])
        };
        let all = slices(
            &reviews(),
            (DERIVED, &http()),
            &west([(ip(7), backend)].into_iter()),
            &There::new(),
        );
        let (name, slice) = all.first_key_value().unwrap();
        assert_eq!(all.len(), 1);
        assert!(
            name.starts_with("weft-import-c1c97e5699-") && name.ends_with("-0"),
            "{name}"
        );
        let expected = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": name, "labels": {
                "kubernetes.io/service-name": "weft-import-c1c97e5699",
                "multicluster.kubernetes.io/service-name": "reviews",
                "multicluster.kubernetes.io/source-cluster": "west",
                "endpointslice.kubernetes.io/managed-by": "imports.weft.dev",
                "weft.dev/import": "true",
            }},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": ["10.1.0.7"], "hostname": "reviews-0", "zone": "eu-1a",
                "conditions": {"ready": false, "serving": true, "terminating": true},
            }],
        });
        assert_eq!(*slice, expected);
    }

    #[test]
    fn a_service_of_the_own_name_has_slices_of_its_own_with_the_same_endpoints() {
        let backends = west((0..101).map(|n| (ip(n), pod(&[(80, 8080)]))));
        let of = |service: &str, there: &There| slices(&reviews(), (service, &http()), &backends, there);
        let both = [of(DERIVED, &There::new()), of("reviews", &There::new())];
        let names = both.iter().flat_map(BTreeMap::keys);
        let names: BTreeSet<&String> = names.collect();
        assert_eq!(names.len(), 4, "{names:?}");
        let all: There = both.iter().flat_map(there).collect();
        for (service, slices) in [DERIVED, "reviews"].into_iter().zip(&both) {
            let behind = |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service;
            assert!(slices.values().all(behind) && sizes(slices) == [100, 1]);
            assert_eq!(of(service, &all), *slices, "they are not mixed up");
        }
    }

    #[test]
    fn endpoints_of_another_cluster_family_or_port_are_in_slices_of_their_own() {
        let v6: IpAddr = "fd00::7".parse().unwrap();
        let pods = [
            (ip(1), pod(&[(80, 8080)])),
            (ip(2), pod(&[(80, 9090)])),
            (v6, pod(&[(80, 8080)])),
        ];
        let east = Backends {
            cluster: "east".to_owned(),
            pods: [(ip(1), pod(&[(80, 8080)]))].into(),
        };
        let [west] = west(pods.into_iter());
        let all = slices(&reviews(), (DERIVED, &http()), &[east, west], &There::new());
        assert_eq!(sizes(&all), [1, 1, 1, 1]);
        let of_v6 = all.values().find(|slice| slice["addressType"] == "IPv6").unwrap();
        assert_eq!(of_v6["endpoints"][0]["addresses"][0], "fd00::7");
    }

    #[test]
    fn ports_are_called_as_the_derived_service_calls_them_and_only_tcp_has_endpoints() {
        let ports = of(&[
            ("", 80, Protocol::Tcp),
            ("dns", 53, Protocol::Udp),
            ("b", 81, Protocol::Tcp),
        ]);
        let backend = pod(&[(80, 8080), (53, 53)]);
        let all = slices(
            &reviews(),
            (DERIVED, &ports),
            &west([(ip(1), backend)].into_iter()),
            &There::new(),
        );
        let slice = all.values().next().unwrap();
        assert_eq!(
            slice["ports"],
            json!([{"name": "unnamed", "port": 8080, "protocol": "TCP"}])
        );

        let only = [(ip(1), pod(&[(53, 53)]))];
        assert!(slices(&reviews(), (DERIVED, &ports), &west(only.into_iter()), &There::new()).is_empty());
        let all = slices(
            &reviews(),
            (DERIVED, &of(&[("", 80, Protocol::Tcp)])),
            &west([(ip(1), pod(&[(80, 8080)]))].into_iter()),
            &There::new(),
        );
        let slice = all.values().next().unwrap();
        assert_eq!(slice["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
    }

    #[test]
    fn behind_a_port_is_who_has_its_number_by_whatever_name_and_nobody_who_has_its_name_alone() {
        let ports = |backend: Backend| {
            let all = slices(
                &reviews(),
                (DERIVED, &http()),
                &west([(ip(1), backend)].into_iter()),
                &There::new(),
            );
            all.into_values().next().map(|slice| slice["ports"].clone())
        };
        let number = ports(pod(&[(80, 8080), (81, 8081)]));
        assert_eq!(number, Some(json!([{"name": "http", "port": 8080, "protocol": "TCP"}])));
        assert_eq!(ports(pod(&[(81, 8081)])), None);
    }

    #[test]
    fn a_slice_has_a_hundred_endpoints_at_most_and_each_stays_in_the_one_that_it_is_in() {
        let of = |which: &mut dyn Iterator<Item = usize>, there: &There| {
            let pods = which.map(|n| (ip(n), pod(&[(80, 8080)])));
            slices(&reviews(), (DERIVED, &http()), &west(pods), there)
        };
        let first = of(&mut (0..250), &There::new());
        assert_eq!(sizes(&first), [100, 100, 50]);

        // One is gone and one is new: of three slices two stay as they are.
        let second = of(&mut (0..251).filter(|n| *n != 5), &there(&first));
        let differ = second.iter().filter(|(name, slice)| first[*name] != **slice).count();
        assert_eq!((sizes(&second), differ), (vec![100, 100, 50], 1));

        // One of which nothing is left goes, and its name is free.
        let third = of(&mut (100..250), &there(&second));
        assert_eq!(sizes(&third).iter().sum::<usize>(), 150);
        assert_eq!(third.len(), 2);
        assert!(of(&mut (0..0), &there(&third)).is_empty());
    }
}
