//! Admin: what the proxy believes, as JSON in a stable order, without secrets.
//!
//! Two views. The full one has everything. The one by names leaves out what differs between two proxies that believe the
//! same of the same mesh (addresses, ids, versions, ages), and names pods and Services instead: the two print the same.

mod rules;

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use weft_certs::bundle::TrustBundles;
use weft_model::destination::{Lookup, Protocol, Service, Target};
use weft_model::endpoint::{Endpoint, EndpointSet, Place};
use weft_model::inbound::{Inbound, Mode};
use weft_model::version::Version;

use crate::discover::Beliefs;
use crate::discover::state::{Held, State, Wire};

/// Which of the two views.
#[derive(Clone, Copy)]
struct View {
    by_names: bool,
}

/// The whole of it.
pub(super) fn describe(beliefs: &Beliefs, by_names: bool) -> Value {
    let mut all = state(&beliefs.state(), by_names);
    if !by_names {
        all["connected"] = json!(beliefs.is_connected());
        all["config_age_seconds"] = json!(beliefs.config_age().as_secs());
    }
    all
}

pub(super) fn state(state: &State, by_names: bool) -> Value {
    let view = View { by_names };
    let mut all = json!({
        "identity": state.credential.as_ref().map(|credential| {
            let ends = credential.not_after().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            view.with(json!({ "identity": credential.identity().to_string() }), || json!({
                "generation": credential.generation(),
                "not_after_unix": ends,
                "key": credential.key().public().fingerprint(),
            }))
        }),
        "bundles": bundles(state, view),
        "mesh": state.mesh.held.as_ref().map(|held| view.versioned(held, json!({
            "trust_domain": held.value.trust_domain.to_string(),
            "cluster": held.value.cluster,
            "inside": networks(&held.value.inside, view),
            "outside": networks(&held.value.outside, view),
            "discovery_wait_ms": held.value.discovery_wait.as_millis() as u64,
        }))),
        "inbound": state.inbound.as_ref().map(|held| view.versioned(held, inbound(&held.value))),
        "targets": targets(state, view),
        "services": services(state, view),
        "endpoints": endpoint_sets(state, view),
        "notes": state.notes.iter().map(|(name, note)| json!({
            "resource": if by_names { name.kind.to_string() } else { name.to_string() },
            "field": note.field,
            "reason": note.reason,
        })).collect::<Vec<_>>(),
    });
    if !by_names {
        all["epoch"] = json!(state.epoch);
        all["generation"] = json!(state.generation);
    }
    all
}

impl View {
    /// Adds what only the full view has.
    fn with(self, mut value: Value, more: impl FnOnce() -> Value) -> Value {
        if !self.by_names
            && let (Some(value), Value::Object(more)) = (value.as_object_mut(), more())
        {
            value.extend(more);
        }
        value
    }

    fn versioned<T>(self, held: &Held<T>, value: Value) -> Value {
        self.with(value, || json!({ "version": version(&held.wire) }))
    }
}

fn version(wire: &Wire) -> Value {
    let Version { hash, sources } = &wire.version;
    let sources: Vec<_> = sources
        .iter()
        .map(
            |source| json!({ "object": source.object, "uid": source.uid, "resource_version": source.resource_version }),
        )
        .collect();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "hash": hash, "epoch": wire.epoch, "sources": sources })
}

/// The view by names leaves single addresses out: they are those of pods.
fn networks(networks: &[ipnet::IpNet], view: View) -> Vec<String> {
    let shown = networks
        .iter()
        .filter(|network| !view.by_names || network.prefix_len() < network.max_prefix_len());
    shown.map(ToString::to_string).collect()
}

/// The roots that are trusted: the credential's own, which are the stream's as soon as there are any.
fn bundles(state: &State, view: View) -> Value {
    let trusted = state.credential.as_ref().map(|credential| credential.bundles());
    let Some(bundles): Option<&TrustBundles> = trusted
        .or(state.bundles.as_ref().map(|held| &held.value))
        .map(|bundles| &**bundles)
    else {
        return json!([]);
    };
    let bundle = |bundle: &weft_certs::bundle::Bundle| {
        let roots = bundle.roots().iter().map(|root| fingerprint(root));
        let value = json!({ "trust_domain": bundle.trust_domain().to_string(), "roots": roots.collect::<Vec<_>>() });
        view.with(value, || json!({ "sequence": bundle.sequence() }))
    };
    bundles.iter().map(bundle).collect()
}

/// The first 16 bytes of a certificate's SHA-256.
fn fingerprint(der: &[u8]) -> String {
    weft_proto::resource::hash(der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn inbound(inbound: &Inbound) -> Value {
    let ports = inbound.ports.iter().map(|port| {
        let value = json!({
            "port": port.port,
            "protocol": protocol(port.protocol),
            "foreign": strings(&port.foreign),
            "services": port.services,
        });
        (port.port, value)
    });
    let policies = inbound
        .policies
        .iter()
        .map(|policy| json!({ "object": policy.object.to_string(), "missing": policy.missing, "ports": policy.ports }));
    let workload = &inbound.workload;
    json!({
        "mode": match inbound.mode { Mode::Permissive => "permissive", Mode::Strict => "strict" },
        "ports": ports.collect::<BTreeMap<_, _>>().into_values().collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
        "workload": {
            "namespace": workload.namespace,
            "name": workload.name,
            "version": workload.version,
            "service_account": workload.service_account,
            "place": place(&workload.place),
        },
    })
}

fn targets(state: &State, view: View) -> Value {
    let mut all: Vec<(String, Value)> = state
        .lookups
        .iter()
        .map(|(target, found)| {
            let (name, what) = lookup(state, target, &found.lookup.value, view);
            let value = view.with(what, || {
                json!({
                    "target": target.to_string(),
                    "heard_seconds_ago": found.heard.elapsed().as_secs(),
                    "version": version(&found.lookup.wire),
                })
            });
            (name, value)
        })
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    if view.by_names {
        // A Service's addresses of both families are one name.
        all.dedup();
    }
    all.into_iter().map(|(_, value)| value).collect()
}

/// A name to sort by, and what is there.
fn lookup(state: &State, target: &Target, lookup: &Lookup, view: View) -> (String, Value) {
    let full = |name: String| if view.by_names { name } else { target.to_string() };
    match lookup {
        Lookup::Service(key) => {
            let service = state.services.get(key).map(|held| held.value.port.to_string());
            let value = json!({ "lookup": "service", "service": service });
            (
                full(format!("service {}", service.unwrap_or_default())),
                view.with(value, || json!({ "key": key })),
            )
        }
        Lookup::Direct {
            endpoint: there,
            protocol: declared,
        } => {
            let name = format!("pod {}/{}:{}", there.namespace, there.pod, there.key.port);
            (
                full(name),
                json!({ "lookup": "direct", "endpoint": endpoint(there, view), "protocol": protocol(*declared) }),
            )
        }
        Lookup::Outside { ttl } => {
            let value = json!({ "lookup": "outside", "target": target.to_string() });
            (
                full(format!("outside {target}")),
                view.with(value, || json!({ "ttl_seconds": ttl.as_secs() })),
            )
        }
        Lookup::NoSuchPort { reason, ttl, .. } => {
            let value = json!({ "lookup": "no-such-port", "reason": reason });
            (
                full(format!("no-such-port {reason}")),
                view.with(value, || json!({ "ttl_seconds": ttl.as_secs() })),
            )
        }
    }
}

fn services(state: &State, view: View) -> Value {
    let described = state.services.iter().map(|(key, held)| {
        let value = view.versioned(held, service(state, &held.value));
        (
            (held.value.port.clone(), key),
            view.with(value, || json!({ "key": key })),
        )
    });
    described.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn service(state: &State, service: &Service) -> Value {
    let rules = service.rules.as_ref().map(|rules| {
        rules
            .rules
            .iter()
            .map(|each| rules::rule(state, each))
            .collect::<Vec<_>>()
    });
    json!({
        "service": service.port.to_string(),
        "protocol": protocol(service.protocol),
        "locality": rules::locality(&service.locality),
        "balancer": service.balance.as_str(),
        "endpoints": set_name(state, &service.endpoints),
        "rules": rules,
        "streams": service.streams.as_ref().map(|streams| {
            streams.rules.iter().map(|rule| rules::stream(state, rule)).collect::<Vec<_>>()
        }),
        "retry_budget": rules::budget(&service.retry_budget),
    })
}

/// `shop/reviews:80`, and `shop/reviews:80 subset v2` for a subset.
fn set_name(state: &State, key: &str) -> Value {
    match state.endpoints.get(key) {
        Some(held) => json!(name_of(&held.value)),
        None => Value::Null,
    }
}

fn name_of(set: &EndpointSet) -> String {
    let EndpointSet {
        namespace,
        service,
        port,
        subset,
        ..
    } = set;
    let subset = if subset.is_empty() {
        String::new()
    } else {
        format!(" subset {subset}")
    };
    format!("{namespace}/{service}:{port}{subset}")
}

fn endpoint_sets(state: &State, view: View) -> Value {
    let described = state.endpoints.iter().map(|(key, held)| {
        let mut members: Vec<&Endpoint> = held.value.endpoints.iter().map(|endpoint| &**endpoint).collect();
        members.sort_by_key(|there| (&there.namespace, &there.pod, there.key.port, there.address));
        let name = name_of(&held.value);
        let members: Vec<_> = members.into_iter().map(|there| endpoint(there, view)).collect();
        let value = view.versioned(held, json!({ "set": name, "endpoints": members }));
        ((name, key), view.with(value, || json!({ "key": key })))
    });
    described.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn endpoint(there: &Endpoint, view: View) -> Value {
    let value = json!({
        "namespace": there.namespace,
        "pod": there.pod,
        "port": there.key.port,
        "identity": there.identity.as_ref().map(ToString::to_string),
        "workload": there.workload,
        "version": there.version,
        "place": place(&there.place),
        "draining": there.draining,
        "behind_gateways": there.gateways.is_some(),
    });
    view.with(value, || {
        json!({
            "id": there.key.id.to_string(),
            "address": there.address.to_string(),
            "gateways": strings(there.gateways.as_deref().unwrap_or_default()),
        })
    })
}

fn place(place: &Place) -> Value {
    json!({ "region": place.region, "zone": place.zone, "cluster": place.cluster })
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Undeclared => "undeclared",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Opaque => "opaque",
        Protocol::Tls => "tls",
    }
}

fn strings<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}
