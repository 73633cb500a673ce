//! The API server: objects in, and the little that the control plane writes there.
//!
//! | file | what happens there |
//! |---|---|
//! | [`api`] | requests, each with a deadline and a bound |
//! | [`kinds`], [`discover`] | which kinds are followed, and in which version they are served |
//! | [`follow`] | list, watch, list again: one task for each kind |
//! | [`object`] | one object, without what nobody reads |
//! | [`shown`] | all objects, and what of them the desk has not taken yet |
//! | [`reviews`] | tokens, reviewed |
//! | [`authority`], [`state`] | the mesh's root, and the epoch |
//! | [`lease`] | which replica writes to the cluster |
//! | [`duties`] | what that one keeps there: [`trust`] bundles, [`events`] on [`unmeshed`] pods and [`secured`] namespaces, [`statuses`] of objects, what [`imports`] come to, what is known of [`peers`] |
//! | [`conditions`] | what such a status is to say |
//! | [`replicas`] | which proxies have what, of all replicas together |
//! | [`told`] | how all that is doing, in status and metrics |
//! | [`pause`] | how long to wait before trying again |
//!
//! What its ServiceAccount needs, and why. In all namespaces:
//!
//! | API group | resources | verbs | for |
//! |---|---|---|---|
//! | core | namespaces, nodes, pods, services | list, watch | who there is, and where |
//! | discovery.k8s.io | endpointslices | list, watch | what is behind a Service |
//! | gateway.networking.k8s.io | httproutes, grpcroutes, tcproutes, tlsroutes | list, watch | routes |
//! | gateway.networking.x-k8s.io | xbackendtrafficpolicies | list, watch | retry budgets |
//! | weft.dev | servicesubsets, trafficpolicies | list, watch | subsets and policies |
//! | weft.dev | clusterpeers | list, watch | other clusters |
//! | multicluster.x-k8s.io | serviceexports, serviceimports | list, watch | what is shared with them |
//! | gateway.networking.k8s.io, gateway.networking.x-k8s.io, weft.dev, multicluster.x-k8s.io | the status of each of these | patch | conditions |
//! | core | services | create, patch, delete | what imports are called by |
//! | multicluster.x-k8s.io | serviceimports | create, patch, delete | what is imported |
//! | discovery.k8s.io | endpointslices | create, patch, delete | what of it clients outside the mesh reach |
//! | core | namespaces named kube-system | get | the trust domain begins with its uid (not where one is set) |
//! | apiextensions.k8s.io | customresourcedefinitions named as the above kinds with one | get | whether a kind that is not served was removed |
//! | authentication.k8s.io | tokenreviews | create | whose a token is |
//! | core | configmaps | create | the trust bundle of each labelled namespace |
//! | core | configmaps named weft-trust | list, watch, patch, delete | the same, kept as it must be |
//! | events.k8s.io | events | create | pods without a sidecar are told of, and namespaces that refuse it |
//!
//! In its own namespace:
//!
//! | API group | resources | verbs | for |
//! |---|---|---|---|
//! | core | secrets | create | the authority, made once (not where it is supplied) |
//! | core | secrets named weft-authority | get | the same, at each start |
//! | core | configmaps named weft-state | get, update | the epoch |
//! | core | configmaps named weft-replicas | list, watch, patch | what the proxies of each replica have acknowledged |
//! | core | configmaps named weft-peers, and weft-peers-0 to weft-peers-7 | get, patch | what is known of other clusters |
//! | coordination.k8s.io | leases | create | which replica writes |
//! | coordination.k8s.io | leases named weft-control | get, update | the same |
//!
//! Discovery (`GET /apis`) is open to every ServiceAccount (`system:discovery`).

use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::{Body, ConfigExt as _};
use tokio::sync::watch;
use tower::{BoxError, ServiceBuilder};
use weft_daemon::drain::Tasks;
use weft_model::identity::TrustDomain;

use crate::peering::PIECES;

mod api;
mod authority;
mod conditions;
mod discover;
mod duties;
mod events;
mod follow;
mod imports;
mod kinds;
mod lease;
mod object;
mod pause;
mod peers;
mod replicas;
mod reviews;
mod secured;
mod shown;
mod state;
mod statuses;
mod told;
mod trust;
mod unmeshed;

pub(crate) use api::{Api, Fault};
pub(crate) use duties::{Duties, DutiesStatus};
pub(crate) use kinds::Kind;
pub(crate) use pause::Pause;
pub(crate) use reviews::Reviews;
pub(crate) use shown::Shown;
pub(crate) use state::Keeper;
pub(crate) use told::{KindStatus, status, write};

/// To the API server, or to whatever balances several.
const CONNECT: Duration = Duration::from_secs(5);
/// A peer that is gone without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What the control plane needs before it can serve anybody is asked for so often, while the API server is away.
const ATTEMPTS: u32 = 12;

/// Why there is no way to the API server, or not what the control plane begins with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// Nothing says where it is.
    #[error("neither KUBECONFIG nor a pod's service account leads to an API server")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// What says where it is is wrong.
    #[error("the configuration of the API server")]
    Client(#[source] Box<kube::Error>),
    /// It does not give what is needed.
    #[error("{0}")]
    Fault(&'static str, #[source] Fault),
    /// What it gives makes no sense.
    #[error("{what}: {why}")]
    Object {
        /// Which object.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
}

/// An API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) api: Api,
}

impl Cluster {
    /// The one that `KUBECONFIG` leads to, else the one of the cluster that this pod is in. Nothing is asked of it yet.
    pub(crate) async fn find() -> Result<Self, ClusterError> {
        let config = Config::infer()
            .await
            .map_err(|error| ClusterError::Config(Box::new(error)))?;
        let client = client(&config).map_err(|error| ClusterError::Client(Box::new(error)))?;
        Ok(Self { api: Api::new(client) })
    }

    /// Follows these kinds for as long as tasks run.
    pub(crate) fn follow(&self, kinds: Vec<Kind>, tasks: &Tasks) -> Arc<Shown> {
        let shown = Arc::new(Shown::new(&kinds));
        let tasks = tasks.named("objects");
        let until_draining = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let draining = tasks.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = draining.draining() => {}
                    () = work => {}
                }
            })
        };
        let served = watch::Sender::new(None);
        let defined: Vec<Kind> = kinds.iter().filter(|kind| !kind.is_core()).cloned().collect();
        for kind in kinds {
            let follow = follow::Follow {
                api: self.api.clone(),
                kind,
                shown: shown.clone(),
                served: served.subscribe(),
                looks: shown.looks(),
            };
            until_draining(Box::pin(follow.run()));
        }
        if !defined.is_empty() {
            until_draining(Box::pin(discover::run(
                self.api.clone(),
                served,
                defined,
                shown.clone(),
            )));
        }
        shown
    }

    /// The trust domain of a mesh that was given no other: it begins with twelve digits of the cluster's own id.
    pub(crate) async fn trust_domain(&self) -> Result<TrustDomain, ClusterError> {
        const WHAT: &str = "the Namespace kube-system, whose uid is the cluster's id";
        let path = "/api/v1/namespaces/kube-system";
        let namespace = patiently(WHAT, || self.api.get(path)).await?;
        let uid = namespace["metadata"]["uid"].as_str().unwrap_or_default();
        trust_domain_of(uid).ok_or_else(|| ClusterError::Object {
            what: WHAT.to_owned(),
            why: format!("the uid {uid:?} has no twelve hexadecimal digits: set --trust-domain"),
        })
    }
}

/// The names of the ConfigMaps in which what other clusters have said is kept: who they are, and in pieces what they export.
pub fn peer_maps() -> impl Iterator<Item = String> {
    (0..=PIECES).map(peers::name)
}

/// A client without kube's own retries and log lines: whoever asks here decides what a failure is worth.
fn client(config: &Config) -> Result<kube::Client, kube::Error> {
    // Several providers may be linked in. An error says that one is chosen already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(tls));
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}

/// Asks again while the API server is away, for about a minute. `what` completes a sentence of the log.
///
/// # Errors
/// It refuses, or is away for longer.
pub(crate) async fn patiently<T>(
    what: &'static str,
    ask: impl AsyncFn() -> Result<T, Fault>,
) -> Result<T, ClusterError> {
    let mut pause = Pause::default();
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match ask().await {
            Err(fault) if fault.is_away() && left > 0 => {
                tracing::warn!(what, error = %fault, "asking again");
                pause.wait().await;
            }
            answer => return answer.map_err(|fault| ClusterError::Fault(what, fault)),
        }
    }
}

fn trust_domain_of(uid: &str) -> Option<TrustDomain> {
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    let lower = digits.to_ascii_lowercase();
    (lower.len() == 12).then(|| TrustDomain::new(&format!("{lower}.weft.internal")).ok())?
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod names {
    use super::*;

    #[test]
    fn the_trust_domain_is_the_clusters_own() {
        let of = |uid: &str| trust_domain_of(uid).map(|domain| domain.to_string());
        let expected = Some("0f3a9c4e1b2d.weft.internal".to_owned());
        assert_eq!(of("0f3a9c4e-1b2d-4c5e-8f70-112233445566"), expected);
        assert_eq!(of("0f3a"), None);
    }
}
