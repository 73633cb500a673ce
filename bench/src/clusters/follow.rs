//! A caller that subscribes to every Service, as a proxy does, and says when it is told what.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::credential::{Credential, bootstrap_client_config};
use weft_certs::csr;
use weft_certs::key::Key;
use weft_certs::token::{AUDIENCE, Bearer, NamedObject};
use weft_model::endpoint::EndpointSet;
use weft_model::identity::{Identity, TrustDomain};
use weft_proto::discovery::discovery_client::DiscoveryClient;
use weft_proto::discovery::{
    Ack, Batch, FromControl, FromProxy, Hello, Pod, from_control, from_proxy::Message, resource::State,
};
use weft_proto::identity::IssueRequest;
use weft_proto::identity::identity_client::IdentityClient;
use weft_proto::resource::name::target_to_wire;
use weft_proto::resource::{Body, Kind};

use super::world::{Cluster, NAMESPACE, PATIENCE, PORT, cluster_ip};

const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// A batch holds the sets of all Services at first.
const BATCH_MAX: usize = 64 << 20;

/// One set of endpoints, when it came: the Service's name, and the endpoints of each cluster.
pub struct Told {
    /// When.
    pub at: Instant,
    /// Of which Service.
    pub service: String,
    /// How many endpoints of each cluster, by its name.
    pub endpoints: Vec<(String, usize)>,
}

/// The stream of one caller.
pub struct Follower {
    say: mpsc::Sender<FromProxy>,
    hear: Streaming<FromControl>,
}

impl Follower {
    /// Gets a certificate, and subscribes to all Services.
    ///
    /// # Errors
    /// The control plane does not answer, or refuses.
    pub async fn open(cluster: &Cluster, services: usize) -> Result<Self> {
        let domain = TrustDomain::new(&format!("{}.bench", cluster.name))?;
        let bundle = Bundle::from_pem(domain.clone(), &cluster.roots()?, 1)?;
        let bundles = Arc::new(TrustBundles::new([bundle])?);
        let control = Identity::control_plane(domain, "weft-system")?;
        let stranger = bootstrap_client_config(bundles.clone(), &control, &[b"h2"]);
        let key = Key::generate()?;
        let request = IssueRequest {
            csr: csr::make(&key)?.into(),
            token: token(cluster)?,
        };
        let mut identity = IdentityClient::new(dial(cluster.discovery, stranger));
        let issued = timeout(PATIENCE, identity.issue(request)).await??.into_inner();
        let chain = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec()));
        let credential = Credential::new(chain.collect(), key, bundles, 1)?;
        let config = credential.client_config_expecting(&control, &[b"h2"]);
        let (say, said) = mpsc::channel(64);
        let hello = Some(Message::Hello(hello(services)?));
        say.send(FromProxy { message: hello }).await?;
        let mut discovery = DiscoveryClient::new(dial(cluster.discovery, config)).max_decoding_message_size(BATCH_MAX);
        let hear = timeout(PATIENCE, discovery.discover(ReceiverStream::new(said))).await??;
        let hear = hear.into_inner();
        Ok(Self { say, hear })
    }

    /// The sets of the next batch, which it acknowledges.
    ///
    /// # Errors
    /// The stream ends.
    pub async fn next(&mut self) -> Result<Vec<Told>> {
        let heard = self.hear.message().await?.context("the stream ended")?;
        let at = Instant::now();
        let Some(from_control::Message::Batch(batch)) = heard.message else {
            return Ok(Vec::new());
        };
        let ack = Message::Ack(Ack {
            nonce: batch.nonce,
            refusals: Vec::new(),
        });
        self.say.send(FromProxy { message: Some(ack) }).await?;
        Ok(sets(batch).map(|set| told(at, &set)).collect())
    }
}

fn token(cluster: &Cluster) -> Result<String> {
    let named = |name: &str| NamedObject {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
    };
    let bearer = Bearer {
        namespace: NAMESPACE.to_owned(),
        service_account: named("caller"),
        pod: named("caller"),
        node: None,
    };
    Ok(cluster
        .signer
        .sign(&bearer, AUDIENCE, TOKEN_LIFETIME, SystemTime::now())?)
}

fn hello(services: usize) -> Result<Hello> {
    let target = |service: usize| Ok(target_to_wire(&format!("{}:{PORT}", cluster_ip(service)).parse()?));
    let features = weft_model::feature::SUPPORTED.iter();
    Ok(Hello {
        pod: Some(Pod {
            namespace: NAMESPACE.to_owned(),
            name: "caller".to_owned(),
            uid: "uid-caller".to_owned(),
        }),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        features: features.map(|feature| (*feature).to_owned()).collect(),
        targets: (0..services).map(target).collect::<Result<_>>()?,
        ..Hello::default()
    })
}

fn sets(batch: Batch) -> impl Iterator<Item = EndpointSet> {
    batch.resources.into_iter().filter_map(|resource| {
        let kind = Kind::from_wire(resource.name?.kind).ok()?;
        match (resource.state?, kind) {
            (State::Body(body), Kind::Endpoints) => match weft_proto::resource::decode(kind, &body) {
                Ok(Body::Endpoints(set)) => Some(set),
                _ => None,
            },
            _ => None,
        }
    })
}

fn told(at: Instant, set: &EndpointSet) -> Told {
    let mut endpoints: Vec<(String, usize)> = Vec::new();
    for endpoint in &set.endpoints {
        let cluster = &endpoint.place.cluster;
        match endpoints.iter_mut().find(|(name, _)| name == cluster) {
            Some((_, count)) => *count += 1,
            None => endpoints.push((cluster.clone(), 1)),
        }
    }
    Told {
        at,
        service: set.service.clone(),
        endpoints,
    }
}

fn dial(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("weft-control").map_err(std::io::Error::other)?;
            TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://weft.bench").connect_with_connector_lazy(connector)
}
