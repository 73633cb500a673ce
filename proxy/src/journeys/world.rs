//! The world that journeys happen in: an authority, pods with proxies, apps.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clap::Parser as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::Instant;
use weft_certs::authority::Authority;
use weft_certs::bundle::TrustBundles;
use weft_certs::credential::Credential;
use weft_certs::key::Key;
use weft_model::destination::{Lookup, Protocol, Service, Target};
use weft_model::endpoint::{Endpoint, EndpointId, EndpointKey, EndpointSet, Place};
use weft_model::identity::{Identity, TrustDomain};
use weft_model::inbound::{Inbound, InboundPort, Mode, Workload};
use weft_model::locality::Locality;
use weft_model::name::ServicePort;
use weft_model::network::Networks;
use weft_model::reason::Reason;
use weft_model::route::{RetryBudget, Rules};
use weft_model::traffic::Balance;
use weft_model::version::{Source, Version};

use crate::config::Settings;
use crate::discover::State;
use crate::discover::state::{Found, Held, Mesh, Wire};
use crate::discover::view::{self, Shared};
use crate::observe::access::{Access, AccessLog, Entry, Switch};
use crate::observe::metrics::{Metrics, Registry};
use crate::observe::trace::Tracer;
use crate::observe::verdicts::{Seen, Verdicts};
use crate::origin::Origin;
use crate::serve::{Listeners, Phase, serve};
use crate::worker::{Observe, Origins, Worker};

/// The service that clients dial.
pub(super) const VIP: &str = "10.96.0.7:80";

/// Who can vouch for whom.
pub(super) struct World {
    authority: Authority,
    bundles: Arc<TrustBundles>,
}

/// A pod's proxy, and what its control plane would say to it.
pub(super) struct Pod {
    pub(super) worker: Rc<Worker>,
    /// Where the redirect would send what the app dials.
    pub(super) outbound: SocketAddr,
    /// Where the redirect would send what others dial.
    pub(super) inbound: SocketAddr,
    pub(super) phase: watch::Sender<Phase>,
    /// Ends when the worker does.
    pub(super) served: JoinHandle<()>,
    /// The access log's switch, and its entries.
    pub(super) access: Switch,
    pub(super) entries: RefCell<mpsc::Receiver<Box<Entry>>>,
    pub(super) verdicts: Verdicts,
    registry: Arc<Registry>,
    shared: Arc<Shared>,
}

/// What a pod is told.
pub(super) struct Told {
    pub(super) state: State,
    /// How long a handshake may take.
    handshake: &'static str,
}

/// Runs a story on one thread, as a worker does.
pub(super) fn story(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), story)
            .await
            .expect("the story comes to its end");
    });
}

impl World {
    pub(super) fn new() -> Self {
        Self::of("demo.weft.internal")
    }

    pub(super) fn of(trust_domain: &str) -> Self {
        let authority = Authority::create(TrustDomain::new(trust_domain).unwrap(), SystemTime::now()).unwrap();
        let bundles = Arc::new(TrustBundles::new([authority.bundle(1)]).unwrap());
        Self { authority, bundles }
    }

    pub(super) fn trust_domain(&self) -> TrustDomain {
        self.authority.trust_domain().clone()
    }

    pub(super) fn identity(&self, service_account: &str) -> Identity {
        Identity::new(self.trust_domain(), "shop", service_account).unwrap()
    }

    pub(super) fn credential(&self, service_account: &str) -> Arc<Credential> {
        let key = Key::generate().unwrap();
        let identity = self.identity(service_account);
        let leaf = self
            .authority
            .issue(key.public(), &identity, Duration::from_secs(3600), SystemTime::now())
            .unwrap();
        Arc::new(Credential::new(leaf.chain, key, self.bundles.clone(), 1).unwrap())
    }

    /// What a pod of this service account is told: permissive, with one service at [`VIP`] that has no endpoints.
    pub(super) fn told(&self, service_account: &str) -> Told {
        let workload = Workload {
            namespace: "shop".into(),
            name: service_account.into(),
            service_account: service_account.into(),
            ..Workload::default()
        };
        let inbound = Inbound {
            mode: Mode::Permissive,
            ports: vec![],
            policies: vec![],
            workload,
        };
        let mesh = weft_proto::resource::Mesh {
            trust_domain: self.authority.trust_domain().clone(),
            cluster: "demo".into(),
            inside: vec![],
            outside: vec![],
            discovery_wait: Duration::from_millis(200),
        };
        let mut told = Told {
            state: State {
                generation: 1,
                epoch: 1,
                lookups: HashMap::new(),
                services: HashMap::new(),
                endpoints: HashMap::new(),
                inbound: Some(held(inbound)),
                passes: None,
                mesh: Mesh {
                    networks: Arc::new(Networks::default()),
                    discovery_wait: Duration::from_millis(200),
                    held: Some(held(mesh)),
                },
                bundles: None,
                credential: Some(self.credential(service_account)),
                notes: BTreeMap::new(),
            },
            handshake: "500ms",
        };
        told.service(Protocol::Undeclared, None);
        told.endpoints("all", vec![]);
        told
    }

    /// A pod's port as discovery would name it: reached at `inbound`, where the redirect of the peer would catch it.
    pub(super) fn endpoint(&self, id: u64, inbound: SocketAddr, service_account: Option<&str>) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            key: EndpointKey {
                id: EndpointId(id),
                port: 8080,
            },
            address: inbound,
            gateways: None,
            identity: service_account.map(|name| self.identity(name)),
            namespace: "shop".into(),
            pod: format!("pod-{id}"),
            workload: "reviews".into(),
            version: "v1".into(),
            place: Place::default(),
            draining: false,
            source: Source::default(),
        })
    }
}

pub(super) fn held<T>(value: T) -> Held<T> {
    let wire = Wire {
        version: Version::default(),
        epoch: 1,
        requires: vec![],
        body: Bytes::new(),
    };
    Held {
        value: Arc::new(value),
        wire: Arc::new(wire),
    }
}

impl Told {
    /// The service at [`VIP`].
    pub(super) fn service(&mut self, protocol: Protocol, rules: Option<Rules>) -> &mut Self {
        let service = Service {
            port: ServicePort {
                namespace: "shop".into(),
                name: "reviews".into(),
                port: 80,
            },
            protocol,
            rules,
            endpoints: "all".into(),
            locality: Locality::default(),
            streams: None,
            balance: Balance::default(),
            retry_budget: RetryBudget::default(),
        };
        self.state.services.insert("reviews".into(), held(service));
        self.lookup(VIP, Lookup::Service("reviews".into()))
    }

    pub(super) fn lookup(&mut self, address: &str, lookup: Lookup) -> &mut Self {
        let found = Found {
            lookup: held(lookup),
            heard: Instant::now(),
            used: Arc::default(),
        };
        self.state
            .lookups
            .insert(Target::Address(address.parse().unwrap()), found);
        self
    }

    pub(super) fn endpoints(&mut self, key: &str, endpoints: Vec<Arc<Endpoint>>) -> &mut Self {
        let set = EndpointSet {
            namespace: "shop".into(),
            service: "reviews".into(),
            port: 80,
            subset: String::new(),
            endpoints,
        };
        self.state.endpoints.insert(key.into(), held(set));
        self
    }

    pub(super) fn inbound(&mut self, change: impl FnOnce(&mut Inbound)) -> &mut Self {
        let mut inbound = Inbound::clone(&self.state.inbound.as_ref().unwrap().value);
        change(&mut inbound);
        self.state.inbound = Some(held(inbound));
        self
    }

    /// Has the pod trust the roots of these worlds, all of one trust domain, and of no other.
    pub(super) fn trust(&mut self, generation: u64, worlds: &[&World]) {
        let first = worlds[0].authority.trust_domain().clone();
        let bundles = worlds.iter().map(|world| world.authority.bundle(generation));
        let roots = bundles.flat_map(|bundle| bundle.roots().to_vec());
        let bundle = weft_certs::bundle::Bundle::new(first, roots.collect::<Vec<_>>(), generation).unwrap();
        let bundles = Arc::new(TrustBundles::new([bundle]).unwrap());
        let credential = self.state.credential.take().unwrap();
        self.state.credential = Some(Arc::new(credential.with_bundles(bundles, generation)));
    }

    /// Has the pod know the roots of these worlds, each of its own trust domain.
    pub(super) fn know(&mut self, worlds: &[&World]) -> &mut Self {
        let bundles = worlds.iter().map(|world| world.authority.bundle(1));
        let bundles = Arc::new(TrustBundles::new(bundles).unwrap());
        let credential = self.state.credential.take().unwrap();
        self.state.credential = Some(Arc::new(credential.with_bundles(bundles, 1)));
        self
    }

    /// Handshakes may take so long that a busy machine is no reason for one to fail.
    pub(super) fn patient(&mut self) -> &mut Self {
        self.handshake = "10s";
        self
    }

    pub(super) fn strict(&mut self) -> &mut Self {
        self.inbound(|inbound| inbound.mode = Mode::Strict)
    }

    pub(super) fn declare(&mut self, port: u16, protocol: Protocol) -> &mut Self {
        let declared = InboundPort {
            port,
            protocol,
            foreign: vec![],
            services: vec!["reviews".into()],
        };
        self.inbound(|inbound| inbound.ports.push(declared))
    }

    /// Starts a proxy that is told this. `app`: where its inbound connections were going; `dials`: where its app's were.
    pub(super) async fn start(&self, app: SocketAddr, dials: SocketAddr) -> Pod {
        let settings = Settings::try_parse_from([
            "weft-proxy",
            "--pod-ips",
            &app.ip().to_string(),
            "--pod-name",
            &format!("pod-of-{app}"),
            "--pod-namespace",
            "shop",
            "--handshake-timeout",
            self.handshake,
            "--peer-handshake-timeout",
            self.handshake,
            "--drain-min",
            "300ms",
        ]);
        let registry = Registry::new();
        let metrics = Rc::new(Metrics::new(&registry));
        let tracer = Tracer::new(None, &registry.writer());
        let (shared, questions, mut views) = view::channel(self.state.clone(), 1, SystemTime::now());
        // Nobody answers what is not told.
        std::mem::forget(questions);
        let origins = Origins {
            inbound: Origin::Fixed(app),
            outbound: Origin::Fixed(dials),
        };
        let (switch, verdicts) = (Switch::default(), Verdicts::default());
        let (access, entries) = Access::new(switch.clone());
        let observe = Observe {
            metrics,
            tracer,
            access: AccessLog::new(&access, &registry.writer()),
            seen: Seen::new(verdicts.clone()),
        };
        let worker = Worker::new(Arc::new(settings.unwrap()), views.remove(0), observe, origins);
        let (inbound, outbound) = (listen().await, listen().await);
        let (inbound_at, outbound_at) = (inbound.local_addr().unwrap(), outbound.local_addr().unwrap());
        let (phase, phases) = watch::channel(Phase::Running);
        let listeners = Listeners {
            inbound: vec![inbound],
            outbound: vec![outbound],
            slots: 1000,
        };
        let served = spawn_local(serve(worker.clone(), listeners, phases));
        Pod {
            worker,
            outbound: outbound_at,
            inbound: inbound_at,
            phase,
            served,
            access: switch,
            entries: RefCell::new(entries),
            verdicts,
            registry,
            shared,
        }
    }
}

impl Pod {
    /// Tells it something new, and waits until it decides by it.
    pub(super) async fn tell(&self, change: impl FnOnce(&mut Told)) {
        let mut told = Told {
            state: State::clone(&self.worker.tables().state),
            handshake: "500ms",
        };
        change(&mut told);
        told.state.generation += 1;
        let generation = told.state.generation;
        self.shared.states.send_replace(Arc::new(told.state));
        while self.worker.generation() < generation {
            tokio::task::yield_now().await;
        }
    }

    /// How often it refused for a reason.
    pub(super) fn refusals(&self, reason: Reason) -> u64 {
        let text = self.registry.text().finish();
        let code = format!("reason=\"{}\"", reason.code());
        let lines = text
            .lines()
            .filter(|line| line.starts_with("weft_refusals_total{") && line.contains(&code));
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>() as u64
    }

    /// All that it counts.
    pub(super) fn metrics(&self) -> String {
        self.registry.text().finish()
    }
}

pub(super) async fn listen() -> TcpListener {
    TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).await.unwrap()
}

/// An address where nobody listens, and nobody will: its port is kept until the process ends.
pub(super) async fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// An app that answers each HTTP/1.1 request with its name, the request's head, and its body.
pub(super) async fn app(name: &'static str) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            spawn_local(serve_app(socket, name));
        }
    });
    address
}

/// Holds an app's answer back.
#[derive(Default)]
pub(super) struct HeldAnswer {
    pub(super) asked: Notify,
    pub(super) answer: Notify,
}

/// An app that takes one request, and answers it when it is told.
pub(super) async fn held_app() -> (Rc<HeldAnswer>, SocketAddr) {
    let (listener, held) = (listen().await, Rc::new(HeldAnswer::default()));
    let address = listener.local_addr().unwrap();
    let told = held.clone();
    spawn_local(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_head(&mut socket, &mut Vec::new()).await.unwrap();
        told.asked.notify_one();
        told.answer.notified().await;
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    (held, address)
}

/// An app that answers each request, once its head is there, with the same bytes.
pub(super) async fn scripted(response: &'static str) -> SocketAddr {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut buffer = Vec::new();
                while let Some(head) = read_head(&mut socket, &mut buffer).await {
                    let length = content_length(&head);
                    while buffer.len() < length {
                        socket.read_buf(&mut buffer).await.unwrap();
                    }
                    buffer.drain(..length);
                    socket.write_all(response.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

async fn serve_app(mut socket: TcpStream, name: &'static str) {
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(&mut socket, &mut buffer).await else {
            return;
        };
        let length = content_length(&head);
        while buffer.len() < length {
            if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = buffer.drain(..length).collect();
        let answer = format!("{name}\n{head}{}", String::from_utf8_lossy(&body));
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        if socket.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads a head up to its empty line; the rest stays in the buffer.
pub(super) async fn read_head(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return Some(String::from_utf8(head).unwrap());
        }
        if socket.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

pub(super) fn content_length(head: &str) -> usize {
    let line = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")
            .map(str::to_owned)
    });
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// A client's HTTP/1.1 connection.
pub(super) struct Client {
    pub(super) socket: TcpStream,
    buffer: Vec<u8>,
}

/// A response, as text.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Client {
    pub(super) async fn to(address: SocketAddr) -> Self {
        Self {
            socket: TcpStream::connect(address).await.unwrap(),
            buffer: Vec::new(),
        }
    }

    /// Asks for a path. `None`: the connection ended.
    pub(super) async fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: reviews\r\n\r\n"))
            .await
    }

    pub(super) async fn post(&mut self, path: &str, body: &str) -> Option<Answer> {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nhost: reviews\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    pub(super) async fn send(&mut self, request: &str) -> Option<Answer> {
        self.socket.write_all(request.as_bytes()).await.ok()?;
        let head = read_head(&mut self.socket, &mut self.buffer).await?;
        let length = content_length(&head);
        while self.buffer.len() < length {
            if self.socket.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
        let body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Answer { status, head, body })
    }
}
