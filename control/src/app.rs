//! Builds the rooms, joins them, and runs them until a signal comes.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::Router;
use weft_daemon::admin::Listener;
use weft_daemon::drain::{Drain, Tasks};
use weft_daemon::log::Switch;
use weft_daemon::ready::Ready;
use weft_model::identity::TrustDomain;
use weft_proto::identity::identity_server::IdentityServer;

use crate::admin;
use crate::authority::{Issuer, IssuerError};
use crate::cluster::{Cluster, ClusterError, Duties, Kind, Reviews, Shown};
use crate::config::Settings;
use crate::epoch::{Epoch, EpochError};
use crate::index::{self, Index, Own};
use crate::manifests::{self, OpenError};
use crate::peering;
use crate::serve::bundle;
use crate::serve::cache::Facts;
use crate::serve::desk::{CompileTimes, Desk, DeskEnd};
use crate::serve::discovery::{self, Callers, Discovery, DiscoveryServer, FederationServer};
use crate::serve::hub::Hub;
use crate::serve::identity::{self, Identities, REQUEST_MAX};
use crate::serve::listen::{self, Connection, Door};
use crate::serve::metrics::Metrics;
use crate::serve::tokens::{TokenKeys, Tokens};
use crate::source::Source;

/// The trust domain of a mesh that was given no other, without an API server.
const TRUST_DOMAIN: &str = "local.weft.internal";
/// The suffix of the names of Services.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// A proxy that is gone without a word is noticed after twice this.
const PING: Duration = Duration::from_secs(15);
/// Connections of other clusters: a few for each replica of each peer.
const PEER_CONNECTIONS: usize = 1024;
/// Connections of those who ask for the trust bundle, in all and of one address: each asks once in a minute, and goes.
const BUNDLE_CONNECTIONS: usize = 256;
const BUNDLE_PER_ADDRESS: usize = 16;

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The state directory cannot be made or used.
    #[error("the state directory {0}")]
    State(PathBuf, #[source] io::Error),
    /// The epoch cannot be read or kept.
    #[error("the epoch")]
    Epoch(#[source] EpochError),
    /// There is no authority, or no own certificate.
    #[error("certificates")]
    Issuer(#[source] IssuerError),
    /// The API server does not give what the control plane begins with.
    #[error("the cluster")]
    Cluster(#[source] ClusterError),
    /// The manifests cannot be read.
    #[error("manifests")]
    Manifests(#[source] OpenError),
    /// The desk has ended before there was anything to serve.
    #[error("the objects could not be taken in; the log says why")]
    Desk,
    /// An address or socket cannot be listened on.
    #[error("listening on {0}")]
    Listen(String, #[source] io::Error),
}

/// A control plane that runs.
#[derive(Debug)]
pub(crate) struct App {
    /// Ends its tasks.
    pub(crate) drain: Drain,
    /// Without the desk there is nothing to serve.
    pub(crate) desk_end: DeskEnd,
    pub(crate) rest: Rest,
}

/// What goes on while tasks drain, and ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Where identity and discovery listen.
    #[cfg(test)]
    pub(crate) address: SocketAddr,
    /// Where admin listens.
    #[cfg(test)]
    pub(crate) admin: SocketAddr,
    /// Where other clusters call.
    #[cfg(test)]
    pub(crate) federation: Option<SocketAddr>,
    /// Where the trust bundle is shown.
    #[cfg(test)]
    pub(crate) bundle: Option<SocketAddr>,
    /// Serves admin.
    _admin: JoinSet<()>,
    /// Ends the desk.
    _end: DropGuard,
}

impl App {
    /// Starts everything. Listens before it returns.
    pub(crate) async fn start(settings: Settings, log: Switch) -> Result<Self, StartError> {
        prepare_state(&settings.state_dir).map_err(|error| StartError::State(settings.state_dir.clone(), error))?;
        let cluster = match settings.kubernetes {
            true => Some(Cluster::find().await.map_err(StartError::Cluster)?),
            false => None,
        };
        let trust_domain = trust_domain(&settings, cluster.as_ref()).await?;
        let issuer = Arc::new(open_issuer(&settings, &trust_domain, cluster.as_ref()).await?);
        let epoch = open_epoch(&settings, cluster.as_ref()).await?;
        issuer.publish(&settings.state_dir).map_err(StartError::Issuer)?;

        let ready = Ready::new();
        let (known, serving) = (ready.gate("objects"), ready.gate("listener"));
        let (drain, tasks) = Drain::new();
        let shown = cluster.as_ref().map(|cluster| cluster.follow(Kind::all(), &tasks));
        let end = CancellationToken::new();
        let times = Arc::new(CompileTimes::default());
        let (desk, mut desk_end) = open_desk(&settings, &issuer, epoch, shown.clone(), times.clone(), end.clone())?;

        let copies = cluster.as_ref().map(|_| peering::Copies::default());
        let duties = match (&cluster, &shown, &copies) {
            (Some(cluster), Some(shown), Some(copies)) => {
                Some(begin_duties(cluster, &settings, &issuer, shown, &desk, copies, &tasks))
            }
            _ => None,
        };
        let metrics = Arc::new(Metrics::default());
        let sources = admin::Sources {
            desk: desk.clone(),
            ready,
            metrics: metrics.clone(),
            times,
            issuer: issuer.clone(),
            shown: shown.clone(),
            duties: duties.clone(),
            log,
        };
        let (admin, admin_tasks) = serve_admin(&settings, &sources).await?;
        if let Some(shown) = &shown {
            // A proxy must not be told that what it holds is gone, only because it is not listed yet.
            tokio::select! {
                () = shown.all_listed() => {}
                _ = &mut desk_end => return Err(StartError::Desk),
            }
        }
        known.open();
        let tokens = tokens(&settings, cluster.as_ref());
        let control_namespace = settings.control_namespace.clone();
        let bundle = show_bundle(&settings, &issuer, &metrics, &tasks).await?;
        let kept = cluster.as_ref().zip(copies);
        let federation = federate(&settings, &desk, &issuer, &metrics, kept, &tasks).await?;
        let address = serve_proxies(settings, desk, issuer.clone(), tokens, metrics, &tasks).await?;
        serving.open();
        if let Some(duties) = &duties {
            duties.serving();
        }
        let own = tasks.named("certificates");
        own.spawn(keep_certificates(cluster, control_namespace, issuer, own.clone()));
        tracing::info!(%address, %admin, ?federation, ?bundle, "serving");
        let rest = Rest {
            #[cfg(test)]
            address,
            #[cfg(test)]
            admin,
            #[cfg(test)]
            federation,
            #[cfg(test)]
            bundle,
            _admin: admin_tasks,
            _end: end.drop_guard(),
        };
        Ok(Self { drain, desk_end, rest })
    }
}

/// Begins what the control plane does in a cluster beside serving its proxies.
fn begin_duties(
    cluster: &Cluster,
    settings: &Settings,
    issuer: &Issuer,
    shown: &Arc<Shown>,
    desk: &Desk,
    copies: &peering::Copies,
    tasks: &Tasks,
) -> Duties {
    let data = issuer.published().map(|(name, text)| (name.to_owned(), text));
    let imports = settings.federation_listen.is_some().then_some(settings.imports);
    let peers = (imports, copies.clone());
    let namespace = &settings.control_namespace;
    Duties::begin(cluster, namespace, data.into(), shown.clone(), desk, peers, tasks)
}

/// The trust domain: as it was set, else the cluster's own.
async fn trust_domain(settings: &Settings, cluster: Option<&Cluster>) -> Result<TrustDomain, StartError> {
    match (&settings.trust_domain, cluster) {
        (Some(set), _) => Ok(set.clone()),
        (None, Some(cluster)) => cluster.trust_domain().await.map_err(StartError::Cluster),
        (None, None) => Ok(TrustDomain::new(TRUST_DOMAIN).expect("a constant")),
    }
}

/// The authority: of the state directory, or of the cluster's Secret.
async fn open_issuer(
    settings: &Settings,
    trust_domain: &TrustDomain,
    cluster: Option<&Cluster>,
) -> Result<Issuer, StartError> {
    let (namespace, lifetime) = (&settings.control_namespace, settings.leaf_lifetime);
    let issuer = match cluster {
        Some(cluster) => {
            let authority = cluster
                .authority(namespace, trust_domain, settings.supplied_authority)
                .await;
            Issuer::new(authority.map_err(StartError::Cluster)?, namespace, lifetime)
        }
        None => Issuer::open(&settings.state_dir, trust_domain, namespace, lifetime),
    };
    issuer.map_err(StartError::Issuer)
}

/// What tokens are checked with.
fn tokens(settings: &Settings, cluster: Option<&Cluster>) -> Tokens {
    match cluster {
        Some(cluster) => Tokens::Reviews(Reviews::new(cluster.api.clone())),
        None => Tokens::Keys(TokenKeys::new(
            settings.token_jwks.clone(),
            settings.token_issuer.clone(),
        )),
    }
}

/// Renews the own certificate, and goes on with a renewed authority, until tasks drain.
async fn keep_certificates(cluster: Option<Cluster>, namespace: String, issuer: Arc<Issuer>, tasks: Tasks) {
    let authority = async {
        match cluster {
            Some(cluster) => cluster.follow_authority(&namespace, &issuer).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tasks.draining() => {}
        () = issuer.keep_renewed() => {}
        () = authority => {}
    }
}

/// The epoch: of the state directory, or of the cluster's ConfigMap.
async fn open_epoch(settings: &Settings, cluster: Option<&Cluster>) -> Result<Epoch, StartError> {
    match cluster {
        Some(cluster) => {
            let kept = cluster.epoch(&settings.control_namespace).await;
            let (current, keeper) = kept.map_err(StartError::Cluster)?;
            Ok(Epoch::kept(current, keeper))
        }
        None => Epoch::open(&settings.state_dir).map_err(StartError::Epoch),
    }
}

/// The directory is this user's, but others may pass through it to `trust/`.
fn prepare_state(state: &Path) -> io::Result<()> {
    if state.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o711).create(state)?;
    std::fs::set_permissions(state, Permissions::from_mode(0o711))
}

fn open_desk(
    settings: &Settings,
    issuer: &Issuer,
    epoch: Epoch,
    shown: Option<Arc<Shown>>,
    times: Arc<CompileTimes>,
    end: CancellationToken,
) -> Result<(Desk, DeskEnd), StartError> {
    let index = Index::new(index::Settings {
        trust_domain: issuer.trust_domain().clone(),
        cluster: settings.cluster.clone(),
        network: settings.network().to_owned(),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        inside: settings.networks.clone(),
        outside: settings.outside.clone(),
    });
    let reached = settings.federation_endpoints.iter().chain(&settings.gateways);
    let index = index.owning(Own::new(&settings.control_namespace, reached));
    let facts = Facts {
        trust_domain: issuer.trust_domain().clone(),
        cluster: settings.cluster.clone(),
        discovery_wait: settings.discovery_wait,
        bundles: issuer.bundles().clone(),
        network: settings.network().to_owned(),
        gateways: settings.gateways.clone(),
        federation_endpoints: settings.federation_endpoints.clone(),
        bundle_endpoint: settings.bundle_endpoint.clone(),
        control_plane: issuer.credential().identity().clone(),
    };
    let hub = Hub::new(index, facts, epoch, settings.subscriptions).remembering(&settings.state_dir);
    let directories = || {
        Source::directories(manifests::Settings::control(
            &settings.manifests,
            settings.recursive,
            Some(settings.state_dir.clone()),
        ))
    };
    let source = shown.map_or_else(directories, |shown| Ok(Source::cluster(shown)));
    Desk::open(hub, source.map_err(StartError::Manifests)?, times, end).map_err(StartError::Manifests)
}

async fn serve_admin(settings: &Settings, sources: &admin::Sources) -> Result<(SocketAddr, JoinSet<()>), StartError> {
    let failed = |error| StartError::Listen(settings.admin.to_string(), error);
    let tcp = Listener::tcp(settings.admin).await.map_err(failed)?;
    let address = tcp.address().unwrap_or(settings.admin);
    let mut listeners = vec![tcp];
    if let Some(path) = &settings.admin_socket {
        let failed = |error| StartError::Listen(path.display().to_string(), error);
        listeners.push(Listener::unix(path).map_err(failed)?);
    }
    let routes = admin::routes(sources);
    let mut serving = JoinSet::new();
    serving.spawn(async move { match routes.serve(listeners).await {} });
    Ok((address, serving))
}

async fn serve_proxies(
    settings: Settings,
    desk: Desk,
    issuer: Arc<Issuer>,
    tokens: Tokens,
    metrics: Arc<Metrics>,
    tasks: &Tasks,
) -> Result<SocketAddr, StartError> {
    let failed = |error| StartError::Listen(settings.listen.to_string(), error);
    let listener = weft_daemon::listen::tcp(settings.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let limits = listen::Limits {
        connections: settings.connections,
        per_address: settings.connections_per_address,
    };
    let connections = listen::connections(listener, Door::Proxies, issuer.clone(), limits, metrics.clone(), tasks);

    let rules = identity::Rules {
        address_check: settings.address_check,
        renew_by_leaf: settings.renew_by_leaf,
        pod_wait: settings.pod_wait,
    };
    let identities = Identities::new(desk.clone(), issuer.clone(), tokens, rules, metrics.clone());
    let rules = discovery::Rules {
        control_namespace: settings.control_namespace.clone(),
        ack_wait: settings.ack_wait,
        pod_wait: settings.pod_wait,
        targets_max: settings.subscriptions,
        address_check: settings.address_check,
    };
    let callers = Callers::Pods(issuer.trust_domain().clone());
    let discovery = Discovery::new(desk, callers, metrics, tasks, rules);
    let router = server(PING)
        .add_service(IdentityServer::new(identities).max_decoding_message_size(REQUEST_MAX))
        .add_service(DiscoveryServer(Arc::new(discovery)));
    tasks.named("server").spawn(serve(connections, router, tasks.clone()));
    Ok(address)
}

/// Links with other clusters: they follow what is exported here, where that is listened for, and this one what they export. On
/// Kubernetes what they say is kept in the API server.
async fn federate(
    settings: &Settings,
    desk: &Desk,
    issuer: &Arc<Issuer>,
    metrics: &Arc<Metrics>,
    kept: Option<(&Cluster, peering::Copies)>,
    tasks: &Tasks,
) -> Result<Option<SocketAddr>, StartError> {
    let address = match settings.federation_listen {
        Some(at) => Some(serve_peers(at, settings, desk, issuer, metrics, tasks).await?),
        None => None,
    };
    let elsewhere = match &kept {
        Some((cluster, _)) => cluster.peers(&settings.control_namespace).await,
        None => BTreeMap::new(),
    };
    let links = peering::Links {
        cluster: settings.cluster.clone(),
        network: settings.network().to_owned(),
        desk: desk.clone(),
        issuer: issuer.clone(),
        kept: peering::Kept::of(&settings.state_dir),
        copies: kept.map(|(_, copies)| copies),
        elsewhere,
    };
    links.begin(tasks).await;
    Ok(address)
}

/// Shows our own trust bundle, where that is listened for.
async fn show_bundle(
    settings: &Settings,
    issuer: &Arc<Issuer>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(at) = settings.bundle_listen else {
        return Ok(None);
    };
    let failed = |error| StartError::Listen(at.to_string(), error);
    let listener = weft_daemon::listen::tcp(at).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let limits = listen::Limits {
        connections: BUNDLE_CONNECTIONS,
        per_address: BUNDLE_PER_ADDRESS,
    };
    let connections = listen::connections(listener, Door::Anybody, issuer.clone(), limits, metrics.clone(), tasks);
    let tasks = tasks.named("bundle endpoint");
    tasks.spawn(bundle::serve(connections, issuer.clone(), tasks.clone()));
    Ok(Some(address))
}

/// Listens for other clusters, which follow what is exported to them.
async fn serve_peers(
    at: SocketAddr,
    settings: &Settings,
    desk: &Desk,
    issuer: &Arc<Issuer>,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<SocketAddr, StartError> {
    let failed = |error| StartError::Listen(at.to_string(), error);
    let listener = weft_daemon::listen::tcp(at).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let limits = listen::Limits {
        connections: PEER_CONNECTIONS,
        per_address: settings.connections_per_address,
    };
    let connections = listen::connections(listener, Door::Clusters, issuer.clone(), limits, metrics.clone(), tasks);
    let rules = discovery::Rules {
        control_namespace: settings.control_namespace.clone(),
        ack_wait: settings.ack_wait,
        pod_wait: settings.pod_wait,
        targets_max: settings.subscriptions,
        address_check: settings.address_check,
    };
    let discovery = Discovery::new(desk.clone(), Callers::Peers, metrics.clone(), tasks, rules);
    let router = server(peering::PING).add_service(FederationServer(Arc::new(discovery)));
    tasks
        .named("federation")
        .spawn(serve(connections, router, tasks.clone()));
    Ok(address)
}

fn server(ping: Duration) -> Server {
    Server::builder()
        .max_concurrent_streams(16)
        .http2_keepalive_interval(Some(ping))
        .http2_keepalive_timeout(Some(ping))
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
}

async fn serve(connections: tokio::sync::mpsc::Receiver<io::Result<Connection>>, router: Router, tasks: Tasks) {
    let served = router
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move { tasks.draining().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the server ended");
    }
}
