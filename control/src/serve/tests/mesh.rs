//! The harness: a mesh of files, a control plane over it, and callers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use weft_certs::authority::Authority;
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::credential::{Credential, bootstrap_client_config};
use weft_certs::csr;
use weft_certs::key::Key;
use weft_certs::token::{AUDIENCE, Bearer, NamedObject, Signer};
use weft_daemon::drain::Drain;
use weft_daemon::log::{self, Format};
use weft_model::destination::Target;
use weft_model::identity::{Identity, TrustDomain};
use weft_proto::discovery::discovery_client::DiscoveryClient;
use weft_proto::discovery::{
    self, Batch, FromControl, FromProxy, Hello, from_control, from_proxy::Message, resource::State,
};
use weft_proto::identity::identity_client::IdentityClient;
use weft_proto::identity::{IssueRequest, IssueResponse};
use weft_proto::resource::name::{held_to_wire, target_to_wire};
use weft_proto::resource::{Kind, Name};

use crate::app::{App, Rest};
use crate::config::Settings;

pub(super) const ISSUER: &str = "https://issuer.test";
const TRUST_DOMAIN: &str = "test.weft.internal";
/// Nothing that is waited for takes so long.
pub(super) const LONG: Duration = Duration::from_secs(20);

/// A directory with manifests, state and keys, and the control plane over it while it runs.
pub(super) struct Mesh {
    pub(super) directory: TempDir,
    pub(super) signer: Signer,
    pub(super) settings: Settings,
    /// The first three bytes of its pods' addresses.
    pods: &'static str,
    running: Option<(Drain, Rest)>,
}

/// A caller's connection.
pub(super) type Caller = Channel;

/// A discovery stream, from the proxy's side.
pub(super) struct Proxy {
    pub(super) say: mpsc::Sender<FromProxy>,
    pub(super) hear: Streaming<FromControl>,
    /// What it holds, as a proxy would.
    pub(super) held: std::collections::BTreeMap<Name, weft_model::version::Version>,
    pub(super) epoch: u64,
    pub(super) nonce: u64,
}

impl Mesh {
    /// A mesh with the pods web-1 (service account web), reviews-1 and reviews-2, and the Service reviews.
    pub(super) fn new() -> Self {
        Self::of("local", "10.244.0")
    }

    /// The same, of a cluster of this name, whose trust domain follows from it, and whose pods have such addresses.
    pub(super) fn of(cluster: &str, pods: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["objects", "user"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let signer = Signer::new(ISSUER, &Key::generate().unwrap()).unwrap();
        std::fs::write(path("jwks.json"), signer.jwks().to_json()).unwrap();
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        let (user, objects, state, jwks) = (text("user"), text("objects"), text("state"), text("jwks.json"));
        let trust_domain = match cluster {
            "local" => TRUST_DOMAIN.to_owned(),
            cluster => format!("{cluster}.weft.internal"),
        };
        let flags = [
            "weft-control",
            "--manifests",
            &user,
            "--manifests",
            &objects,
            "--state-dir",
            &state,
            "--token-jwks",
            &jwks,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--federation-listen",
            "127.0.0.1:0",
            "--bundle-listen",
            "127.0.0.1:0",
            "--trust-domain",
            &trust_domain,
            "--cluster",
            cluster,
            "--network",
            "wire",
            "--token-issuer",
            ISSUER,
            "--pod-wait",
            "500ms",
            "--drain",
            "1s",
        ];
        let settings = <Settings as clap::Parser>::try_parse_from(flags).unwrap();
        let mesh = Self {
            directory,
            signer,
            settings,
            pods,
            running: None,
        };
        mesh.object(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "uid": "uid-shop", "resourceVersion": "9"},
        }));
        mesh.pod("web-1", "web", "127.0.0.1", 10);
        mesh.pod("reviews-1", "reviews", &format!("{pods}.11"), 11);
        mesh.pod("reviews-2", "reviews", &format!("{pods}.12"), 12);
        mesh.slice(&["reviews-1", "reviews-2"], 13);
        mesh.service("reviews", "10.96.0.7");
        mesh
    }

    /// The same, and it runs.
    pub(super) async fn running() -> Self {
        let mut mesh = Self::new();
        mesh.start().await;
        mesh
    }

    pub(super) async fn start(&mut self) {
        // One for all tests of this process; `WEFT_LOG` chooses.
        let log = log::start_with(&std::env::var("WEFT_LOG").unwrap_or("off".to_owned()), Format::Text).unwrap();
        let app = App::start(self.settings.clone(), log.switch()).await.unwrap();
        std::mem::forget(log);
        self.running = Some((app.drain, app.rest));
    }

    pub(super) async fn stop(&mut self) {
        let (drain, rest) = self.running.take().unwrap();
        drain.end(Duration::from_secs(5)).await;
        drop(rest);
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn rest(&self) -> &Rest {
        &self.running.as_ref().unwrap().1
    }

    /// Writes an object as a machine does.
    pub(super) fn object(&self, object: &Value) {
        let name = format!(
            "{}-{}.json",
            object["kind"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap()
        );
        weft_daemon::file::replace(&self.path("objects").join(name), 0o644, object.to_string().as_bytes()).unwrap();
    }

    pub(super) fn delete(&self, kind: &str, name: &str) {
        std::fs::remove_file(self.path("objects").join(format!("{kind}-{name}.json"))).unwrap();
    }

    /// Writes a manifest as a person does.
    pub(super) fn manifest(&self, file: &str, text: &str) {
        std::fs::write(self.path("user").join(file), text).unwrap();
    }

    pub(super) fn pod(&self, name: &str, account: &str, ip: &str, version: u64) {
        self.object(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
                "labels": {"app": account}},
            "spec": {"serviceAccountName": account, "nodeName": "node-1",
                "initContainers": [{"name": "weft-proxy", "restartPolicy": "Always"}], "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        }));
    }

    /// The endpoints of the Service reviews.
    pub(super) fn slice(&self, pods: &[&str], version: u64) {
        let endpoint = |pod: &&str| {
            json!({
                "addresses": [format!("{}.1{}", self.pods, pod.rsplit('-').next().unwrap())],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "node-1",
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod, "uid": format!("uid-{pod}")},
            })
        };
        self.object(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "reviews-v4", "namespace": "shop", "uid": "uid-slice", "resourceVersion": version.to_string(),
                "labels": {"kubernetes.io/service-name": "reviews"}},
            "addressType": "IPv4",
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }));
    }

    pub(super) fn service(&self, name: &str, ip: &str) {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: shop\nspec:\n  clusterIP: {ip}\n  \
             clusterIPs: [{ip}]\n  selector: {{app: {name}}}\n  ports:\n  - {{name: http, port: 80, targetPort: 8080, appProtocol: http}}\n"
        );
        self.manifest(&format!("service-{name}.yaml"), &text);
    }

    /// A route of the Service reviews with one rule for a path.
    pub(super) fn route(&self, path: &str) {
        self.route_to(path, "reviews");
    }

    /// The same, to another Service.
    pub(super) fn route_to(&self, path: &str, backend: &str) {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: reviews\n  namespace: shop\nspec:\n  \
             parentRefs:\n  - {{group: '', kind: Service, name: reviews, port: 80}}\n  rules:\n  - matches:\n    - path: {{type: PathPrefix, value: {path}}}\n    \
             backendRefs:\n    - {{name: {backend}, port: 80}}\n"
        );
        self.manifest("route.yaml", &text);
    }

    pub(super) fn bundles(&self) -> Arc<TrustBundles> {
        let pem = std::fs::read(self.path("state/trust/roots.pem")).unwrap();
        Arc::new(TrustBundles::new([Bundle::from_pem(self.trust_domain(), &pem, 1).unwrap()]).unwrap())
    }

    pub(super) fn trust_domain(&self) -> TrustDomain {
        self.settings.trust_domain.clone().unwrap()
    }

    pub(super) fn control_plane(&self) -> Identity {
        Identity::control_plane(self.trust_domain(), "weft-system").unwrap()
    }

    /// Where other clusters call.
    pub(super) fn federation(&self) -> SocketAddr {
        self.rest().federation.unwrap()
    }

    /// Where the trust bundle is shown.
    pub(super) fn bundle(&self) -> SocketAddr {
        self.rest().bundle.unwrap()
    }

    /// A connection that shows no certificate.
    pub(super) async fn stranger(&self) -> Caller {
        dial(
            self.rest().address,
            bootstrap_client_config(self.bundles(), &self.control_plane(), &[b"h2"]),
        )
        .await
    }

    /// A connection that shows a certificate.
    pub(super) async fn caller(&self, credential: &Credential) -> Caller {
        dial(
            self.rest().address,
            credential.client_config_expecting(&self.control_plane(), &[b"h2"]),
        )
        .await
    }

    /// The same at another port.
    pub(super) async fn caller_at(&self, address: SocketAddr, credential: &Credential) -> Caller {
        let trusts = credential.with_bundles(self.bundles(), 1);
        dial(address, trusts.client_config_expecting(&self.control_plane(), &[b"h2"])).await
    }

    /// A certificate of the control plane itself: whoever has the authority's key can make one.
    pub(super) fn control(&self) -> Credential {
        self.credential_of(&self.control_plane())
    }

    /// A certificate of anybody.
    pub(super) fn credential_of(&self, identity: &Identity) -> Credential {
        let state = self.path("state/authority");
        let authority = Authority::load_or_create(&state, &self.trust_domain(), SystemTime::now()).unwrap();
        let key = Key::generate().unwrap();
        let leaf = authority
            .issue(key.public(), identity, Duration::from_secs(60), SystemTime::now())
            .unwrap();
        Credential::new(leaf.chain, key, self.bundles(), 1).unwrap()
    }

    /// A token as the kubelet would project it into a pod.
    pub(super) fn token(&self, pod: &str, account: &str) -> String {
        self.token_for(pod, account, AUDIENCE, Duration::from_secs(3600), SystemTime::now())
    }

    pub(super) fn token_for(
        &self,
        pod: &str,
        account: &str,
        audience: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> String {
        sign(&self.signer, pod, account, audience, lifetime, now)
    }

    /// Asks for a certificate with a key of its own.
    pub(super) async fn issue(&self, caller: Caller, token: String) -> Result<(Key, IssueResponse), Status> {
        let key = Key::generate().unwrap();
        let request = IssueRequest {
            csr: csr::make(&key).unwrap().into(),
            token,
        };
        let response = timeout(LONG, IdentityClient::new(caller).issue(request))
            .await
            .expect("an answer")?;
        Ok((key, response.into_inner()))
    }

    /// The certificate of web-1.
    pub(super) async fn web(&self) -> Credential {
        let (key, response) = self
            .issue(self.stranger().await, self.token("web-1", "web"))
            .await
            .unwrap();
        self.credential(key, &response)
    }

    pub(super) fn credential(&self, key: Key, response: &IssueResponse) -> Credential {
        let chain = response
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        Credential::new(chain, key, self.bundles(), 1).unwrap()
    }

    /// The stream of web-1, which follows these targets.
    pub(super) async fn web_proxy(&self, targets: &[&str]) -> Proxy {
        Proxy::open(self.caller(&self.web().await).await, hello("web-1", targets))
            .await
            .unwrap()
    }

    /// What admin says.
    pub(super) async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = TcpStream::connect(self.rest().admin).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(super) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await).unwrap()
    }

    /// Waits until status is as wanted.
    pub(super) async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waited = timeout(LONG, async {
            loop {
                last = self.status().await;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("status stays {last:#}"));
        last
    }
}

/// Signs a token.
pub(super) fn sign(
    signer: &Signer,
    pod: &str,
    account: &str,
    audience: &str,
    lifetime: Duration,
    now: SystemTime,
) -> String {
    let named = |name: &str| NamedObject {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
    };
    let bearer = Bearer {
        namespace: "shop".to_owned(),
        service_account: named(account),
        pod: named(pod),
        node: None,
    };
    signer.sign(&bearer, audience, lifetime, now).unwrap()
}

async fn dial(address: SocketAddr, config: Arc<ClientConfig>) -> Caller {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("weft-control").unwrap();
            TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://weft.test").connect_with_connector_lazy(connector)
}

/// The object in status, by kind and name.
pub(super) fn object<'a>(status: &'a Value, kind: &str, name: &str) -> &'a Value {
    let objects = status["objects"].as_array().unwrap();
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["name"] == name)
        .unwrap_or(&Value::Null)
}

/// The status of an object's condition.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

pub(super) fn target(address: &str) -> Target {
    address.parse().unwrap()
}

pub(super) fn hello(pod: &str, targets: &[&str]) -> Hello {
    let claimed = discovery::Pod {
        namespace: "shop".to_owned(),
        name: pod.to_owned(),
        uid: format!("uid-{pod}"),
    };
    Hello {
        pod: Some(claimed),
        build: "0.0-test".to_owned(),
        features: weft_model::feature::SUPPORTED
            .iter()
            .map(|feature| (*feature).to_owned())
            .collect(),
        epoch: 0,
        held: Vec::new(),
        targets: targets.iter().map(|address| target_to_wire(&target(address))).collect(),
        peer: None,
        gateway: false,
    }
}

impl Proxy {
    pub(super) async fn open(caller: Caller, hello: Hello) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(64);
        say.send(FromProxy {
            message: Some(Message::Hello(hello)),
        })
        .await
        .unwrap();
        let mut client = DiscoveryClient::new(caller).max_decoding_message_size(64 << 20);
        let hear = timeout(LONG, client.discover(ReceiverStream::new(said)))
            .await
            .expect("an answer")?
            .into_inner();
        Ok(Self {
            say,
            hear,
            held: Default::default(),
            epoch: 0,
            nonce: 0,
        })
    }

    pub(super) async fn say(&self, message: Message) {
        self.say.send(FromProxy { message: Some(message) }).await.unwrap();
    }

    /// The next batch, not acknowledged.
    pub(super) async fn next(&mut self) -> Result<Batch, Status> {
        let heard = timeout(LONG, self.hear.message()).await.expect("something")?;
        match heard.and_then(|heard| heard.message) {
            Some(from_control::Message::Batch(batch)) => Ok(batch),
            None => Err(Status::ok("the stream ended")),
        }
    }

    pub(super) async fn ack(&self, nonce: u64, refusals: Vec<discovery::Refusal>) {
        self.say(Message::Ack(discovery::Ack { nonce, refusals })).await;
    }

    /// Takes the next batch in, acknowledges it, and gives the names of what it changed.
    pub(super) async fn take(&mut self) -> Vec<(Name, &'static str)> {
        let batch = self.next().await.unwrap();
        self.ack(batch.nonce, Vec::new()).await;
        (self.epoch, self.nonce) = (batch.epoch, batch.nonce);
        let mut changes = Vec::new();
        for resource in batch.resources {
            let name = Name::from_wire(resource.name).unwrap();
            let version = weft_proto::resource::name::version_from_wire(resource.version);
            let change = match resource.state.unwrap() {
                State::Body(body) => {
                    weft_proto::resource::decode(name.kind, &body).unwrap();
                    self.held.insert(name.clone(), version.unwrap());
                    "body"
                }
                State::Hold(_) => "hold",
                State::Removed(_) => {
                    self.held.remove(&name);
                    "removed"
                }
            };
            changes.push((name, change));
        }
        changes
    }

    /// Takes batches until one changes a resource of this kind.
    pub(super) async fn until(&mut self, kind: Kind, change: &str) -> Vec<(Name, &'static str)> {
        loop {
            let changes = self.take().await;
            if changes.iter().any(|(name, what)| name.kind == kind && *what == change) {
                return changes;
            }
        }
    }

    /// A Hello that says what is held.
    pub(super) fn hello_again(&self, pod: &str, targets: &[&str]) -> Hello {
        let held = self
            .held
            .iter()
            .map(|(name, version)| held_to_wire(name, version))
            .collect();
        Hello {
            held,
            epoch: self.epoch,
            ..hello(pod, targets)
        }
    }
}
