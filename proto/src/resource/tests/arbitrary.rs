//! Any valid noun of the model.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use weft_model::destination::{Lookup, Protocol, Service, Target};
use weft_model::endpoint::{BackendPlace, Endpoint, EndpointId, EndpointKey, EndpointSet, Place};
use weft_model::filter::{Filters, HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Scheme};
use weft_model::identity::{Identity, TrustDomain};
use weft_model::inbound::{Inbound, InboundPort, Mode, Workload};
use weft_model::locality::{Distribution, Locality, Prefer, Share};
use weft_model::name::{ObjectRef, ServicePort};
use weft_model::pattern;
use weft_model::policy::Policy;
use weft_model::route::{Backend, Match, PathMatch, Retry, RetryBudget, Rule, Rules, Timeouts, ValueMatch};
use weft_model::stream::{StreamRule, Streams};
use weft_model::traffic::{Balance, Traffic};
use weft_model::version::{Source, Version};

use super::super::{Mesh, TrustRoots};

fn name() -> impl Strategy<Value = String> + Clone {
    "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?"
}

fn name_or_empty() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), name()]
}

fn word() -> impl Strategy<Value = String> {
    "[!-~]{0,20}"
}

fn text() -> impl Strategy<Value = String> {
    "[ -~äöü☃]{0,40}"
}

fn port() -> std::ops::RangeInclusive<u16> {
    1..=u16::MAX
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)).to_canonical()),
    ]
    .prop_filter("one machine", |ip| !ip.is_unspecified() && !ip.is_multicast())
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (ip(), port()).prop_map(SocketAddr::from)
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "([a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9])?\\.){0,4}[a-z]([a-z0-9-]{0,10}[a-z0-9])?"
        .prop_map(|name| TrustDomain::new(&name).unwrap())
}

fn identity() -> impl Strategy<Value = Identity> {
    (trust_domain(), name(), name()).prop_map(|(domain, ns, sa)| Identity::new(domain, &ns, &sa).unwrap())
}

fn place() -> impl Strategy<Value = Place> {
    (word(), word(), word()).prop_map(|(region, zone, cluster)| Place { region, zone, cluster })
}

fn source() -> impl Strategy<Value = Source> {
    (text(), "[!-~]{1,40}", any::<u64>()).prop_map(|(object, uid, resource_version)| Source {
        object,
        uid,
        resource_version,
    })
}

pub(super) fn version() -> impl Strategy<Value = Version> {
    (any::<[u8; 16]>(), vec(source(), 0..5)).prop_map(|(hash, mut sources)| {
        sources.sort_by(|one, other| one.uid.cmp(&other.uid));
        Version { hash, sources }
    })
}

pub(super) fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        address().prop_map(Target::Address),
        (name(), port()).prop_map(|(host, port)| Target::Host { host, port }),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    use Protocol::{Grpc, Http, Http2, Opaque, Tls, Undeclared};
    prop::sample::select(vec![Undeclared, Http, Http2, Grpc, Opaque, Tls])
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let names = (name(), name(), word(), word());
    (
        any::<u64>(),
        address(),
        option::of(identity()),
        names,
        place(),
        any::<bool>(),
        source(),
    )
        .prop_map(
            |(id, address, identity, (namespace, pod, workload, version), place, draining, source)| Endpoint {
                key: EndpointKey {
                    id: EndpointId(id),
                    port: address.port(),
                },
                address,
                gateways: None,
                identity,
                namespace,
                pod,
                workload,
                version,
                place,
                draining,
                source,
            },
        )
}

/// An endpoint of another network, behind one of so many groups of gateways.
fn endpoint_behind(groups: Vec<Arc<[SocketAddr]>>) -> impl Strategy<Value = Endpoint> {
    (endpoint(), option::of(prop::sample::select(groups))).prop_map(|(endpoint, gateways)| Endpoint {
        gateways: gateways.filter(|_| endpoint.identity.is_some()),
        ..endpoint
    })
}

fn endpoints() -> impl Strategy<Value = Vec<Arc<Endpoint>>> {
    let groups = vec(vec(address(), 1..4).prop_map(Arc::from), 1..4);
    groups.prop_flat_map(|groups| vec(endpoint_behind(groups).prop_map(Arc::new), 0..8))
}

pub(super) fn endpoint_set() -> impl Strategy<Value = EndpointSet> {
    (name(), name(), port(), name_or_empty(), endpoints()).prop_map(|(namespace, service, port, subset, endpoints)| {
        EndpointSet {
            namespace,
            service,
            port,
            subset,
            endpoints,
        }
    })
}

fn ttl() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::MAX),
        (1..=u64::from(u32::MAX)).prop_map(Duration::from_secs)
    ]
}

pub(super) fn lookup() -> impl Strategy<Value = Lookup> {
    prop_oneof![
        "[!-~]{1,60}".prop_map(Lookup::Service),
        (endpoint(), protocol()).prop_map(|(endpoint, protocol)| Lookup::Direct {
            endpoint: Arc::new(endpoint),
            protocol
        }),
        ttl().prop_map(|ttl| Lookup::Outside { ttl }),
        (text(), prop::option::of(service_port()), ttl()).prop_map(|(reason, service, ttl)| Lookup::NoSuchPort {
            reason,
            service,
            ttl
        }),
    ]
}

fn regex() -> impl Strategy<Value = pattern::Regex> {
    prop::sample::select(vec!["", "a", "/v[12]/.*", "a|ab", r"\w+", "(?i)x", "^a$", r"\)"])
        .prop_map(|text| pattern::whole(text).unwrap())
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![text().prop_map(ValueMatch::Exact), regex().prop_map(ValueMatch::Regex)]
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        "/[!-~]{0,30}".prop_map(PathMatch::Exact),
        "/[!-~]{0,30}".prop_map(PathMatch::Prefix),
        regex().prop_map(PathMatch::Regex),
    ]
}

fn matches() -> impl Strategy<Value = Match> {
    let header = ("[a-z][a-z0-9-]{0,15}", value())
        .prop_map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value));
    let method = "[A-Z]{1,10}".prop_map(|method| Method::from_bytes(method.as_bytes()).unwrap());
    let query = ("[!-~ä]{1,15}", value());
    (
        option::of(path()),
        vec(header, 0..3),
        vec(query, 0..3),
        option::of(method),
        any::<bool>(),
    )
        .prop_map(|(path, headers, query, method, grpc)| Match {
            path,
            headers,
            query,
            method,
            grpc,
        })
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    (name(), name(), port()).prop_map(|(namespace, name, port)| ServicePort { namespace, name, port })
}

fn backend() -> impl Strategy<Value = Backend> {
    (
        0..=1_000_000_u32,
        backend_place(),
        service_port(),
        name_or_empty(),
        filters(),
        option::of(traffic().prop_map(Arc::new)),
    )
        .prop_map(|(weight, place, service, subset, filters, traffic)| Backend {
            weight,
            place,
            service,
            subset,
            filters,
            traffic,
        })
}

fn backend_place() -> impl Strategy<Value = BackendPlace> {
    prop_oneof![
        "[!-~]{1,60}".prop_map(BackendPlace::Endpoints),
        text().prop_map(BackendPlace::Unresolved),
    ]
}

fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    ("[a-z][a-z0-9-]{0,15}", "[!-~]([ -~]{0,20}[!-~])?").prop_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(&value).unwrap())
    })
}

fn changes() -> impl Strategy<Value = HeaderChanges> {
    let remove = vec(header().prop_map(|(name, _)| name), 0..3);
    (remove, vec(header(), 0..3), vec(header(), 0..3)).prop_map(|(remove, set, add)| HeaderChanges { remove, set, add })
}

fn path_change() -> impl Strategy<Value = PathChange> {
    let path = "/[a-z0-9/%._-]{0,20}";
    prop_oneof![
        path.prop_map(PathChange::Full),
        (path, path).prop_map(|(from, to)| PathChange::Prefix { from, to }),
    ]
}

fn filters() -> impl Strategy<Value = Filters> {
    let rewrite = (option::of(name()), option::of(path_change())).prop_map(|(host, path)| Rewrite { host, path });
    let traffic = option::of(traffic().prop_map(Arc::new));
    let mirror = (backend_place(), service_port(), name_or_empty(), 0..=100_u32, traffic).prop_map(
        |(place, service, subset, numerator, traffic)| Mirror {
            place,
            service,
            subset,
            numerator,
            denominator: 100,
            traffic,
        },
    );
    (changes(), changes(), option::of(rewrite), vec(mirror, 0..2)).prop_map(
        |(request_headers, response_headers, rewrite, mirrors)| Filters {
            request_headers,
            response_headers,
            rewrite,
            mirrors,
        },
    )
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = prop::sample::select(vec![None, Some(Scheme::Http), Some(Scheme::Https)]);
    let status = prop::sample::select(vec![301, 302, 303, 307, 308]);
    (
        scheme,
        option::of(name()),
        option::of(port()),
        option::of(path_change()),
        status,
    )
        .prop_map(|(scheme, host, port, path, status)| Redirect {
            scheme,
            host,
            port,
            path,
            status,
        })
}

fn millis() -> impl Strategy<Value = Duration> {
    (1..100_000_u64).prop_map(Duration::from_millis)
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    (option::of(millis()), option::of(millis())).prop_map(|(request, backend_request)| Timeouts {
        request,
        backend_request,
    })
}

fn retry() -> impl Strategy<Value = Retry> {
    (0..10_u32, millis(), vec(400..600_u16, 0..3), vec(1..17_u16, 0..3)).prop_map(
        |(attempts, backoff, codes, grpc_statuses)| Retry {
            attempts,
            backoff,
            codes,
            grpc_statuses,
        },
    )
}

fn budget() -> impl Strategy<Value = RetryBudget> {
    (0..=100_u32, millis(), 0..1000_u32, millis()).prop_map(|(percent, interval, min_retries, min_interval)| {
        RetryBudget {
            percent,
            interval,
            min_retries,
            min_interval,
        }
    })
}

fn locality() -> impl Strategy<Value = Locality> {
    let share = (word(), word(), 0..=1_000_000_u32).prop_map(|(region, zone, weight)| Share { region, zone, weight });
    let distribution = (word(), vec(share, 0..3)).prop_map(|(from, to)| Distribution { from, to });
    let prefer = prop::sample::select(vec![Prefer::Zone, Prefer::Region, Prefer::None]);
    (prefer, 1..=100_u32, vec(word(), 0..3), vec(distribution, 0..3)).prop_map(
        |(prefer, spill_below_percent, failover, distribute)| Locality {
            prefer,
            spill_below_percent,
            failover,
            distribute,
        },
    )
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let balance = prop::sample::select(Balance::ALL.to_vec());
    (locality(), balance, budget()).prop_map(|(locality, balance, retry_budget)| Traffic {
        locality,
        balance,
        retry_budget,
    })
}

fn object() -> impl Strategy<Value = ObjectRef> {
    ("[A-Za-z]{1,12}", name_or_empty(), name()).prop_map(|(kind, namespace, name)| ObjectRef { kind, namespace, name })
}

fn rule() -> impl Strategy<Value = Rule> {
    let seen = (object(), any::<u32>(), word(), matches(), vec(backend(), 0..4));
    let done = (option::of(redirect()), filters(), timeouts(), option::of(retry()));
    (seen, done).prop_map(
        |((route, index, name, matches, backends), (redirect, filters, timeouts, retry))| Rule {
            route,
            index,
            name,
            matches,
            backends,
            redirect,
            filters,
            timeouts,
            retry,
        },
    )
}

fn streams() -> impl Strategy<Value = Streams> {
    let host = prop_oneof![name(), name().prop_map(|name| format!("*.{name}"))];
    let rule = (object(), any::<u32>(), word(), option::of(host), vec(backend(), 0..3));
    let rule = rule.prop_map(|(route, index, name, host, backends)| {
        Arc::new(StreamRule {
            route,
            index,
            name,
            host,
            backends,
        })
    });
    vec(rule, 0..3).prop_map(|rules| Streams { rules })
}

pub(super) fn service() -> impl Strategy<Value = Service> {
    let rules = vec(rule().prop_map(Arc::new), 0..4).prop_map(|rules| Rules { rules });
    (
        service_port(),
        protocol(),
        option::of(rules),
        "[!-~]{1,60}",
        traffic(),
        option::of(streams()),
    )
        .prop_map(|(port, protocol, rules, endpoints, traffic, streams)| Service {
            port,
            protocol,
            rules,
            streams,
            endpoints,
            locality: traffic.locality,
            balance: traffic.balance,
            retry_budget: traffic.retry_budget,
        })
}

/// Policies as this version writes them: what they require is what it lacks.
fn policy() -> impl Strategy<Value = Policy> {
    (object(), vec("[a-z]{1,10}/9", 0..3), vec(port(), 0..3)).prop_map(|(object, missing, ports)| Policy {
        object,
        missing,
        ports,
    })
}

pub(super) fn inbound() -> impl Strategy<Value = Inbound> {
    let ports = (port(), protocol(), vec(trust_domain(), 0..3), vec(word(), 0..3)).prop_map(
        |(port, protocol, foreign, services)| InboundPort {
            port,
            protocol,
            foreign,
            services,
        },
    );
    let workload =
        (name(), word(), word(), name(), place()).prop_map(|(namespace, name, version, service_account, place)| {
            Workload {
                namespace,
                name,
                version,
                service_account,
                place,
            }
        });
    let mode = prop::sample::select(vec![Mode::Permissive, Mode::Strict]);
    (mode, vec(ports, 0..4), vec(policy(), 0..4), workload).prop_map(|(mode, ports, policies, workload)| Inbound {
        mode,
        ports,
        policies,
        workload,
    })
}

pub(super) fn bundles() -> impl Strategy<Value = Vec<TrustRoots>> {
    let roots = vec(vec(any::<u8>(), 1..50).prop_map(bytes::Bytes::from), 1..4);
    let bundle = (trust_domain(), roots, any::<u64>()).prop_map(|(trust_domain, roots, sequence)| TrustRoots {
        trust_domain,
        roots,
        sequence,
    });
    vec(bundle, 0..4).prop_map(|mut bundles| {
        bundles.sort_by(|one, other| one.trust_domain.cmp(&other.trust_domain));
        bundles.dedup_by(|one, other| one.trust_domain == other.trust_domain);
        bundles
    })
}

fn network() -> impl Strategy<Value = IpNet> {
    (ip(), 0..=128_u8).prop_map(|(ip, length)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length.min(longest)).unwrap()
    })
}

pub(super) fn mesh() -> impl Strategy<Value = Mesh> {
    (
        trust_domain(),
        word(),
        vec(network(), 0..4),
        vec(network(), 0..4),
        1..=60_000_u64,
    )
        .prop_map(|(trust_domain, cluster, inside, outside, wait)| Mesh {
            trust_domain,
            cluster,
            inside,
            outside,
            discovery_wait: Duration::from_millis(wait),
        })
}
