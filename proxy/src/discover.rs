//! Discover: what is there, as the control plane streams it.
//!
//! Runs on the back thread, beside the workers. A restart finds what an earlier process left on the tmpfs (the last good
//! configuration, leaf and key), and serves at once; what cannot be read is discarded, and the proxy is then not ready until
//! it has asked anew.
//!
//! | file | what it is |
//! |---|---|
//! | [`state`] | everything that the proxy believes, as one immutable value |
//! | [`view`] | the workers' side: look up, wait, follow changes |
//! | `store`, `stage` | how the next state follows from the last one and a batch: pure |
//! | `client` | joins stream, store, workers and snapshot |
//! | `link`, `dial` | one stream, and the connection that it needs |

mod client;
pub(crate) mod dial;
mod link;
mod stage;
pub mod state;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod view;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use weft_certs::credential::Credential;
use weft_certs::renew::Life;
use weft_daemon::ready::Ready;
use weft_proto::discovery::Pod;

use crate::config::Settings;
use crate::identity::issue::Trust;
use crate::identity::{self, Issuer};
use crate::observe::metrics::{Gauge, Registry, table};
use crate::snapshot;
use client::{Client, Following, Gates, Meters};
use dial::chain;
pub(crate) use stage::roots;
pub use state::State;
use store::Store;
pub use view::View;

/// What runs on the back thread: discovery and identity.
#[derive(Debug)]
pub struct Back {
    client: Client,
    issuer: Issuer,
    identity: identity::Meters,
    current: Option<(Arc<Credential>, Life)>,
}

/// What the proxy believes, for the admin server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Beliefs {
    shared: Arc<view::Shared>,
    meters: Arc<BeliefMeters>,
}

#[derive(Debug)]
struct BeliefMeters {
    leaf_expiry: Gauge,
    config_age: Gauge,
    connected: Gauge,
    subscriptions: Gauge,
}

/// Takes up what an earlier process left, and makes a view for each worker. Call it on the back thread's runtime. Adds the
/// gates `certificate` and `configuration`; they are open when it returns, if what was left suffices.
pub fn start(settings: &Settings, registry: &Arc<Registry>, ready: &Ready) -> (Back, Beliefs, Vec<View>) {
    let gates = Gates {
        certificate: ready.gate("certificate"),
        configuration: ready.gate("configuration"),
    };
    let (mut store, confirmed) = restored(settings);
    let current = stored_credential(settings, &mut store);
    gates.certificate.set(store.state().credential.is_some());
    gates.configuration.set(store.state().is_configured());
    let writer = registry.writer();
    let meters = BeliefMeters {
        leaf_expiry: writer.gauge(&table::LEAF_EXPIRY, &[]),
        config_age: writer.gauge(&table::CONFIG_AGE, &[]),
        connected: writer.gauge(&table::CONNECTED, &[]),
        subscriptions: writer.gauge(&table::SUBSCRIPTIONS, &[]),
    };
    let first = store.state().clone();
    let confirmed = confirmed.unwrap_or_else(SystemTime::now);
    let (shared, asks, views) = view::channel(first, settings.workers, confirmed);
    shared.set_leaf_end(current.as_ref().map(|(_, life)| life.end().into()));
    let beliefs = Beliefs {
        shared: shared.clone(),
        meters: Arc::new(meters),
    };
    let client = Client {
        store,
        shared,
        asks,
        settings: Following {
            address: settings.control_address.clone(),
            mark: settings.mark,
            trust_dir: settings.trust_dir.clone(),
            state_dir: settings.state_dir.clone(),
            pod: Pod {
                namespace: settings.pod_namespace.clone(),
                name: settings.pod_name.clone(),
                uid: settings.pod_uid.clone(),
            },
        },
        renew_now: Arc::default(),
        gates,
        meters: Meters::new(registry.writer()),
        link: None,
        open_at: Instant::now(),
        pause: Duration::from_millis(100),
        reopen_at: None,
        snapshot_at: None,
    };
    let identity = identity::Meters::new(&writer);
    (
        Back {
            client,
            issuer: Issuer::new(settings),
            identity,
            current,
        },
        beliefs,
        views,
    )
}

impl Back {
    /// Runs, for ever.
    pub async fn run(self) {
        let Self {
            client,
            issuer,
            identity,
            current,
        } = self;
        let (news, heard) = mpsc::channel(1);
        let renew_now: Arc<Notify> = client.renew_now.clone();
        let issue = async |current| issuer.issue(current).await;
        let keep = identity::keep(issue, current, &renew_now, &news, &identity);
        tokio::join!(client.run(heard), keep);
    }
}

impl Beliefs {
    /// Everything that is believed now.
    pub fn state(&self) -> Arc<State> {
        self.shared.states.borrow().clone()
    }

    /// Waits for what is newer than this generation. Cancel safe.
    pub async fn newer(&self, than: u64) -> Arc<State> {
        let mut states = self.shared.states.subscribe();
        match states.wait_for(|state| state.generation > than).await {
            Ok(state) => state.clone(),
            // The sender is kept here.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the stream to the control plane is up.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// How long ago the control plane confirmed the configuration last, this process or an earlier one being told: nothing,
    /// while the stream is up. Where nothing was confirmed yet, since the process began.
    pub fn config_age(&self) -> Duration {
        self.shared.config_age()
    }

    /// Sets the gauges that are times, and forgets the metrics of Services that are gone. Called before a scrape, by the back
    /// thread.
    pub fn measure(&self, registry: &Registry) {
        self.meters.leaf_expiry.set(self.shared.leaf_left().as_secs_f64());
        self.meters.config_age.set(self.config_age().as_secs_f64());
        self.meters.connected.set(if self.is_connected() { 1.0 } else { 0.0 });
        self.meters
            .subscriptions
            .set(self.shared.followed.load(std::sync::atomic::Ordering::Relaxed) as f64);
        let state = self.state();
        let known: HashSet<(&str, &str, Option<&str>)> = state
            .endpoints
            .values()
            .map(|held| &*held.value)
            .flat_map(|set| [None, Some(&*set.subset)].map(|subset| (&*set.namespace, &*set.service, subset)))
            .collect();
        registry.forget_services(|namespace, service, subset| known.contains(&(namespace, service, subset)));
    }
}

/// A store with the last good configuration, if there is one, and when the control plane confirmed it last.
fn restored(settings: &Settings) -> (Store, Option<SystemTime>) {
    let fresh = || {
        let store = Store::new(settings.discovery_wait, settings.subscriptions);
        match settings.gateway {
            true => store.of_gateway(),
            false => store,
        }
    };
    let mut store = fresh();
    match snapshot::load(&settings.state_dir, &mut store, Instant::now(), SystemTime::now()) {
        Ok(confirmed) => (store, confirmed),
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "discarding the snapshot: not ready until the control plane has answered"
            );
            (fresh(), None)
        }
    }
}

/// The credential that an earlier process left, if peers would still accept it.
fn stored_credential(settings: &Settings, store: &mut Store) -> Option<(Arc<Credential>, Life)> {
    let trust = match store.trust() {
        Some(trust) => trust.clone(),
        None => Trust::read(&settings.trust_dir).ok()?.bundles,
    };
    let now = SystemTime::now();
    match weft_certs::store::load(&settings.state_dir, trust, 0, now) {
        Ok(Some(credential)) => {
            let valid_for = credential.not_after().duration_since(now).unwrap_or_default();
            let life = Life {
                received: Instant::now().into_std(),
                valid_for,
            };
            let shown = store.set_credential(Some(&credential))?;
            tracing::info!(identity = %shown.identity(), ?valid_for, "using the certificate of an earlier process");
            Some((shown, life))
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "discarding the stored certificate: not ready until there is a new one"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
