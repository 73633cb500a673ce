//! Discover: one batch, from the wire into the state.
//!
//! In: the resources of a batch. Out: the state changed by all that is valid, and a refusal for each that is not. First
//! everything is decoded and checked on its own, then what refers to something that would not be there is refused, and only
//! then anything changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_model::destination::{Lookup, Service, Target};
use weft_model::endpoint::EndpointSet;
use weft_model::inbound::Inbound;
use weft_model::version::Version;
use weft_proto::discovery;
use weft_proto::discovery::resource::State as Said;
use weft_proto::resource::field::EXPORTED_MAX;
use weft_proto::resource::name::{BUNDLES, GATEWAY, INBOUND, MESH};
use weft_proto::resource::{self, Body, Change, Exported, FieldError, Kind, Name, TrustRoots};

use super::state::{Found, Held, Mesh, Note, Wire};
use super::store::Store;

/// Resources that the proxy takes, for each destination that it may follow: a Service, and endpoint sets for its backends.
const RESOURCES_PER_DESTINATION: usize = 16;

/// What one batch is about to change.
#[derive(Debug, Default)]
pub(super) struct Staged {
    lookups: BTreeMap<Target, Held<Lookup>>,
    services: BTreeMap<String, Held<Service>>,
    endpoints: BTreeMap<String, Held<EndpointSet>>,
    inbound: Option<Held<Inbound>>,
    gateway: Option<Held<Vec<String>>>,
    exported: BTreeMap<String, Held<Exported>>,
    mesh: Option<Held<resource::Mesh>>,
    pub(super) bundles: Option<Held<TrustBundles>>,
    removed: Vec<Name>,
    held: Vec<(Name, String)>,
    refused: Vec<Refused>,
}

/// A resource that was not taken, and why.
#[derive(Debug)]
pub(super) struct Refused {
    /// As it came, which may be no name at all.
    pub(super) name: Option<discovery::ResourceName>,
    pub(super) version: Option<discovery::Version>,
    pub(super) error: FieldError,
}

impl Store {
    /// Decodes and checks one resource by itself.
    pub(super) fn stage(&self, staged: &mut Staged, resource: discovery::Resource, epoch: u64) {
        let (name, version) = (resource.name.clone(), resource.version.clone());
        if let Err(error) = self.take(staged, resource, epoch) {
            staged.refused.push(Refused { name, version, error });
        }
    }

    /// Whether a version may follow the one that is held.
    fn check(&self, name: &Name, version: &Version, epoch: u64) -> Result<(), FieldError> {
        if epoch < self.state.epoch {
            let reason = format!("epoch {epoch} has ended: epoch {} is held", self.state.epoch);
            return Err(FieldError::new("epoch", reason));
        }
        let Some(held) = self.wire(name).filter(|held| held.epoch == epoch) else {
            return Ok(());
        };
        let Some(older) = version.older_than(&held.version) else {
            return Ok(());
        };
        let at = held
            .version
            .sources
            .iter()
            .find(|source| source.uid == older.uid)
            .map(|source| source.resource_version);
        Err(FieldError::new(
            "version.sources",
            format!(
                "{} is at resource version {} here and at {} in what is held",
                older.object,
                older.resource_version,
                at.unwrap_or_default()
            ),
        ))
    }

    fn take(&self, staged: &mut Staged, resource: discovery::Resource, epoch: u64) -> Result<(), FieldError> {
        let requires = resource.requires.clone();
        let body = match &resource.state {
            // A copy: a piece of what was received keeps the whole batch in memory.
            Some(Said::Body(body)) => Bytes::copy_from_slice(body),
            _ => Bytes::new(),
        };
        let update = resource::from_wire(resource).map_err(|refusal| {
            let discovery::Refusal {
                field,
                reason,
                missing_features,
                ..
            } = *refusal;
            FieldError {
                field,
                reason,
                missing: missing_features,
            }
        })?;
        let name = update.name;
        self.check(&name, &update.version, epoch)?;
        match update.change {
            Change::Hold(reason) => staged.held.push((name, reason)),
            // Without them nothing could be decided, so nothing would be safe.
            Change::Removed if is_one_of_its_kind(name.kind) => {
                return Err(FieldError::new("removed", "this cannot be taken away, only replaced"));
            }
            Change::Removed => staged.removed.push(name),
            Change::Body(decoded) => {
                self.check_room(staged, &name)?;
                let wire = Wire {
                    version: update.version,
                    epoch,
                    requires,
                    body,
                };
                self.put(staged, name, *decoded, Arc::new(wire))?;
            }
        }
        Ok(())
    }

    /// Nothing that is received grows without a bound.
    fn check_room(&self, staged: &Staged, name: &Name) -> Result<(), FieldError> {
        if name.kind == Kind::Exported {
            return self.check_room_to_pass(staged, name);
        }
        let is_new = matches!(name.kind, Kind::Service | Kind::Endpoints) && self.wire(name).is_none();
        let here = self.state.services.len() + self.state.endpoints.len();
        let coming = staged.services.len() + staged.endpoints.len();
        if is_new && here + coming >= self.limit.saturating_mul(RESOURCES_PER_DESTINATION) {
            return Err(FieldError::new(
                "name",
                "is one more than the proxy may hold (WEFT_SUBSCRIPTIONS)",
            ));
        }
        Ok(())
    }

    fn check_room_to_pass(&self, staged: &Staged, name: &Name) -> Result<(), FieldError> {
        let here = self.state.passes.as_ref().map_or(0, |passes| passes.exported.len());
        if self.wire(name).is_none() && here + staged.exported.len() >= EXPORTED_MAX {
            let reason = format!("is one more than a gateway takes: {EXPORTED_MAX}");
            return Err(FieldError::new("name", reason));
        }
        Ok(())
    }

    fn put(&self, staged: &mut Staged, name: Name, body: Body, wire: Arc<Wire>) -> Result<(), FieldError> {
        let key = name.key;
        match body {
            Body::Lookup(lookup) => {
                let target = key
                    .parse()
                    .map_err(|_| FieldError::new("name.key", "is no destination"))?;
                staged.lookups.insert(
                    target,
                    Held {
                        value: Arc::new(lookup),
                        wire,
                    },
                );
            }
            Body::Service(service) => {
                staged.services.insert(
                    key,
                    Held {
                        value: Arc::new(service),
                        wire,
                    },
                );
            }
            Body::Endpoints(endpoints) => {
                staged.endpoints.insert(
                    key,
                    Held {
                        value: Arc::new(endpoints),
                        wire,
                    },
                );
            }
            Body::Inbound(inbound) => {
                staged.inbound = Some(Held {
                    value: Arc::new(inbound),
                    wire,
                })
            }
            Body::Bundles(bundles) => {
                let value = Arc::new(self.check_bundles(bundles)?);
                staged.bundles = Some(Held { value, wire });
            }
            Body::Mesh(mesh) => {
                staged.mesh = Some(Held {
                    value: Arc::new(mesh),
                    wire,
                })
            }
            Body::Gateway(keys) if self.state.passes.is_some() => {
                let value = Arc::new(keys);
                staged.gateway = Some(Held { value, wire });
            }
            Body::Exported(exported) if self.state.passes.is_some() => {
                let value = Arc::new(exported);
                staged.exported.insert(key, Held { value, wire });
            }
            Body::Cluster(_) | Body::Export(_) | Body::Exported(_) | Body::Gateway(_) => {
                let reason = "is for other clusters and gateways, and not for this proxy";
                return Err(FieldError::new("name.kind", reason));
            }
        }
        Ok(())
    }

    /// Bundles never go back, and never forget who vouches for us. Another cluster's, which somebody wrote down, may be mended.
    fn check_bundles(&self, bundles: Vec<TrustRoots>) -> Result<TrustBundles, FieldError> {
        let bundles = roots(bundles)?;
        let trust = self.trust().cloned().unwrap_or_default();
        let credential = self.state.credential.as_ref();
        let own = credential.map(|credential| credential.identity().trust_domain());
        let updated = trust
            .corrected(bundles, own)
            .map_err(|error| FieldError::new("bundles", error.to_string()))?;
        if let Some(own) = own
            && updated.get(own).is_none()
        {
            return Err(FieldError::new(
                "bundles",
                format!("have none of our own trust domain {own}"),
            ));
        }
        Ok(updated)
    }

    /// Refuses what refers to something that would not be there: the last good version stays, and its references with it.
    pub(super) fn refuse_dangling(&self, staged: &mut Staged) {
        let Staged {
            services,
            endpoints,
            lookups,
            refused,
            ..
        } = staged;
        services.retain(|key, service| {
            let there = |key: &str| self.state.endpoints.contains_key(key) || endpoints.contains_key(key);
            let Some((field, missing)) = missing_endpoints(&service.value, there) else {
                return true;
            };
            let reason = format!("refers to the endpoint set {missing:?}, which is not here");
            refused.push(Refused::of(
                &Name::new(Kind::Service, key),
                &service.wire.version,
                FieldError::new(field, reason),
            ));
            false
        });
        lookups.retain(|target, lookup| {
            let Lookup::Service(key) = &*lookup.value else {
                return true;
            };
            if self.state.services.contains_key(key) || services.contains_key(key) {
                return true;
            }
            let reason = format!("refers to the Service {key:?}, which is not here");
            let error = FieldError::new("service", reason);
            refused.push(Refused::of(&Name::lookup(target), &lookup.wire.version, error));
            false
        });
    }

    /// Changes the state. Gives what was refused.
    pub(super) fn settle(&mut self, staged: Staged, now: Instant) -> Vec<Refused> {
        for (key, held) in staged.endpoints {
            self.good(Kind::Endpoints, &key);
            replace(&mut self.state.endpoints, key, held);
        }
        for (key, held) in staged.services {
            self.good(Kind::Service, &key);
            replace(&mut self.state.services, key, held);
        }
        self.settle_lookups(staged.lookups, now);
        self.settle_passes(staged.gateway, staged.exported);
        if let Some(inbound) = staged.inbound {
            self.good(Kind::Inbound, INBOUND);
            self.state.inbound = Some(inbound);
        }
        if let Some(mesh) = staged.mesh {
            self.good(Kind::Mesh, MESH);
            let (networks, discovery_wait) = (Arc::new(mesh.value.networks()), mesh.value.discovery_wait);
            self.state.mesh = Mesh {
                networks,
                discovery_wait,
                held: Some(mesh),
            };
        }
        if let Some(bundles) = staged.bundles {
            self.good(Kind::Bundles, BUNDLES);
            self.set_trust(bundles.value.clone());
            self.state.bundles = Some(bundles);
        }
        for (name, reason) in staged.held {
            if self.wire(&name).is_some() {
                self.state.notes.insert(
                    name,
                    Note {
                        field: String::new(),
                        reason,
                    },
                );
            }
        }
        for name in staged.removed {
            self.state.notes.remove(&name);
            match (name.kind, name.key.parse::<Target>()) {
                (Kind::Lookup, Ok(target)) => drop(self.state.lookups.remove(&target)),
                (Kind::Exported, _) => {
                    let passes = self.state.passes.as_mut();
                    passes.map(|passes| passes.exported.remove(&name.key));
                }
                _ => _ = self.doomed.insert(name),
            }
        }
        for refused in &staged.refused {
            let Ok(name) = Name::from_wire(refused.name.clone()) else {
                continue;
            };
            // Bounded: only what is held has a note, beside the few kinds of which there is one each.
            if self.wire(&name).is_some() || is_one_of_its_kind(name.kind) {
                self.state.notes.insert(name, Note::of(&refused.error));
            }
        }
        self.sweep();
        staged.refused
    }

    fn settle_lookups(&mut self, lookups: BTreeMap<Target, Held<Lookup>>, now: Instant) {
        for (target, lookup) in lookups {
            self.good(Kind::Lookup, &target.to_string());
            // The answer to a question that was taken back meanwhile.
            let Some(follow) = self.follows.get(&target) else {
                continue;
            };
            let used = follow.used.clone();
            self.state.lookups.insert(
                target,
                Found {
                    lookup,
                    heard: now,
                    used,
                },
            );
        }
    }

    /// What a gateway passes. It reads the keys with what they lead to, so whatever comes first leads nowhere by itself.
    fn settle_passes(&mut self, gateway: Option<Held<Vec<String>>>, exported: BTreeMap<String, Held<Exported>>) {
        for (key, held) in exported {
            self.good(Kind::Exported, &key);
            if let Some(passes) = &mut self.state.passes {
                replace(&mut passes.exported, key, held);
            }
        }
        if let Some(gateway) = gateway {
            self.good(Kind::Gateway, GATEWAY);
            if let Some(passes) = &mut self.state.passes {
                passes.gateway = Some(gateway);
            }
        }
    }

    /// Takes away what the control plane removed and nothing refers to (any more).
    pub(super) fn sweep(&mut self) {
        if self.doomed.is_empty() {
            return;
        }
        let state = &mut self.state;
        let used: BTreeSet<&str> = state
            .lookups
            .values()
            .filter_map(|found| match &*found.lookup.value {
                Lookup::Service(key) => Some(key.as_str()),
                _ => None,
            })
            .collect();
        let gone = |kind, key: &str| self.doomed.contains(&Name::new(kind, key));
        state
            .services
            .retain(|key, _| used.contains(key.as_str()) || !gone(Kind::Service, key));
        let used: BTreeSet<&str> = state
            .services
            .values()
            .flat_map(|held| references(&held.value))
            .map(|(_, key)| key)
            .collect();
        let doomed: Vec<String> = state
            .endpoints
            .keys()
            .filter(|key| !used.contains(key.as_str()) && gone(Kind::Endpoints, key))
            .cloned()
            .collect();
        for key in doomed {
            state.endpoints.remove(&key);
        }
        self.doomed.retain(|name| match name.kind {
            Kind::Service => state.services.contains_key(&name.key),
            Kind::Endpoints => state.endpoints.contains_key(&name.key),
            _ => false,
        });
        let (services, endpoints) = (&state.services, &state.endpoints);
        state.notes.retain(|name, _| match name.kind {
            Kind::Service => services.contains_key(&name.key),
            Kind::Endpoints => endpoints.contains_key(&name.key),
            _ => true,
        });
    }

    /// A good version came: nothing is wrong with it any more, and it is wanted.
    fn good(&mut self, kind: Kind, key: &str) {
        let name = Name::new(kind, key);
        self.state.notes.remove(&name);
        self.doomed.remove(&name);
    }
}

impl Refused {
    fn of(name: &Name, version: &Version, error: FieldError) -> Self {
        Self {
            name: Some(name.to_wire()),
            version: Some(resource::name::version_to_wire(version)),
            error,
        }
    }

    /// The kind, if it is one that is known here.
    pub(super) fn kind(&self) -> Option<Kind> {
        self.name.as_ref().and_then(|name| Kind::from_wire(name.kind).ok())
    }

    /// The key, as it came.
    pub(super) fn key(&self) -> &str {
        self.name.as_ref().map_or("", |name| &name.key)
    }
}

/// Roots from the wire, each of which must be a CA's certificate.
pub(crate) fn roots(bundles: Vec<TrustRoots>) -> Result<Vec<Bundle>, FieldError> {
    let bundle = |(index, bundle): (usize, TrustRoots)| {
        let roots = bundle.roots.iter().map(|root| CertificateDer::from(root.to_vec()));
        Bundle::new(bundle.trust_domain, roots, bundle.sequence)
            .map_err(|error| FieldError::new("roots", error.to_string()).within_element("bundles", index))
    };
    bundles.into_iter().enumerate().map(bundle).collect()
}

/// Whether there is one of this kind, which can only be replaced: without it nothing could be decided.
fn is_one_of_its_kind(kind: Kind) -> bool {
    matches!(kind, Kind::Inbound | Kind::Bundles | Kind::Mesh | Kind::Gateway)
}

/// Puts a resource in place. One with the same content keeps its value, so that whoever compares pointers sees no change.
fn replace<T>(all: &mut HashMap<String, Held<T>>, key: String, mut held: Held<T>) {
    if let Some(old) = all.get(&key)
        && old.wire.version.hash == held.wire.version.hash
    {
        held.value = old.value.clone();
    }
    all.insert(key, held);
}

/// The endpoint sets that a Service refers to, with the index of the rule that does.
fn references(service: &Service) -> impl Iterator<Item = (Option<usize>, &str)> {
    let own = (!service.endpoints.is_empty()).then_some((None, service.endpoints.as_str()));
    let rules = service.rules.iter().flat_map(|rules| rules.rules.iter().enumerate());
    let of_rules = rules.flat_map(|(index, rule)| rule.endpoint_sets().map(move |key| (Some(index), key)));
    let streams = service.streams.iter().flat_map(|streams| streams.endpoint_sets());
    own.into_iter().chain(of_rules).chain(streams.map(|key| (None, key)))
}

fn missing_endpoints(service: &Service, there: impl Fn(&str) -> bool) -> Option<(String, String)> {
    let (at, key) = references(service).find(|(_, key)| !there(key))?;
    let field = match at {
        None => "endpoints".to_owned(),
        Some(rule) => format!("rules[{rule}]"),
    };
    Some((field, key.to_owned()))
}
