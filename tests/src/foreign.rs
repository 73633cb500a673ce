//! A cluster that the test plays: a root of its own, and a control plane that says what the test wants.
//!
//! It lives on threads in the network of another process, where a real control plane reaches it. In: streams of
//! `weft.federation.v1`, as [`Session`]s. Out: batches ([`Session`]), and calls of its own ([`caller`]), also by the hundred
//! ([`crowd`]).

use std::fs::File;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use rustls::ServerConfig;
use tokio::io::{copy_bidirectional, duplex};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::discovery::{Ack, Batch, FromControl, FromProxy, Hello, Resource, from_control, from_proxy};
use weft_proto::federation::federation_server::{Federation, FederationServer};

pub mod caller;
pub mod crowd;
pub mod root;

use root::{Leaf, Root};

/// Nothing that is waited for takes so long.
const LONG: Duration = Duration::from_secs(20);
/// What is buffered of a connection between TLS and gRPC.
const BUFFER: usize = 1 << 20;
/// How often a number of things is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The cluster.
pub struct Foreign {
    /// Its name.
    pub name: String,
    /// What vouches for whom it likes.
    pub root: Root,
    shared: Arc<Shared>,
    streams: blocking::Receiver<Session>,
    runtime: Runtime,
}

/// What the server does with those who come.
struct Shared {
    shows: Mutex<Arc<ServerConfig>>,
    refuses: Mutex<Option<Status>>,
    streams: blocking::Sender<Session>,
}

/// A stream that a real control plane has opened. Dropping it ends the stream.
pub struct Session {
    /// What it said first.
    pub hello: Hello,
    say: mpsc::Sender<Result<FromControl, Status>>,
    acks: blocking::Receiver<Ack>,
    nonce: u64,
}

/// Enters the network of a process, with the thread that calls this.
fn enter(pid: Pid) {
    let network = File::open(format!("/proc/{pid}/ns/net")).expect("the process runs");
    setns(network, CloneFlags::CLONE_NEWNET).expect("the test is root's");
}

/// A runtime, all threads of which are in the network of a process. What is done by it has to be spawned.
fn runtime(network: Pid) -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(move || enter(network))
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Does something by a runtime, and waits for what comes of it.
#[track_caller]
fn by<T: Send + 'static>(runtime: &Runtime, work: impl Future<Output = T> + Send + 'static) -> T {
    let (say, said) = blocking::channel();
    runtime.spawn(async move {
        // Whoever waited may have had enough.
        let _ = say.send(work.await);
    });
    said.recv_timeout(2 * LONG).expect("within its time")
}

impl Foreign {
    /// A cluster of this name, whose control plane answers at a port in the network of a process.
    #[must_use]
    pub fn new(name: &str, network: Pid, port: u16) -> Self {
        let root = Root::new(&format!("{name}.weft.internal"));
        let (streams, opened) = blocking::channel();
        let shared = Arc::new(Shared {
            shows: Mutex::new(root.leaf(&Leaf::of(&[&root.control()])).server()),
            refuses: Mutex::default(),
            streams,
        });
        let runtime = runtime(network);
        let bind = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        let listener = by(&runtime, bind).expect("the port is free");
        runtime.spawn(serve(listener, shared.clone()));
        Self {
            name: name.to_owned(),
            root,
            shared,
            streams: opened,
            runtime,
        }
    }

    /// The ClusterPeer by which others know it, at an endpoint, with more fields of its spec.
    #[must_use]
    pub fn document(&self, endpoint: &str, more: &str) -> String {
        let (name, domain) = (&self.name, &self.root.trust_domain);
        let roots = self.root.pem().trim_end().replace('\n', "\n      ");
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: {name}}}\nspec:\n  trustDomain: {domain}\n  \
             endpoints: [\"{endpoint}\"]\n  trustBundle:\n    sequence: 5\n    roots: |\n      {roots}\n{more}"
        )
    }

    /// From now on its control plane shows another certificate, to those who call anew.
    pub fn show(&self, config: Arc<ServerConfig>) {
        *self.shared.shows.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// From now on it refuses streams so, or takes them.
    pub fn refuse(&self, status: Option<Status>) {
        *self.shared.refuses.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// The stream that is open now, or the next one.
    #[track_caller]
    #[must_use]
    pub fn session(&self) -> Session {
        let began = Instant::now();
        let mut last = None;
        loop {
            last = self.streams.try_iter().last().or(last);
            if let Some(open) = last.take_if(|session| !session.is_over()) {
                return open;
            }
            assert!(began.elapsed() < LONG, "nobody follows {}", self.name);
            std::thread::sleep(POLL);
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let (put, connections) = mpsc::unbounded_channel();
    let answers = FederationServer::new(Answers(shared.clone()));
    let served = Server::builder().add_service(answers);
    tokio::spawn(served.serve_with_incoming(UnboundedReceiverStream::new(connections)));
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            continue;
        };
        let (put, config) = (
            put.clone(),
            shared.shows.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        );
        tokio::spawn(async move {
            // Who does not take the certificate is seen by what the other side says of it.
            let Ok(mut tls) = TlsAcceptor::from(config).accept(tcp).await else {
                return;
            };
            let (mut near, far) = duplex(BUFFER);
            if put.send(std::io::Result::Ok(far)).is_ok() {
                // Either side may end it as it likes.
                let _ = copy_bidirectional(&mut tls, &mut near).await;
            }
        });
    }
}

struct Answers(Arc<Shared>);

#[tonic::async_trait]
impl Federation for Answers {
    type FollowStream = ReceiverStream<Result<FromControl, Status>>;

    async fn follow(&self, request: Request<Streaming<FromProxy>>) -> Result<Response<Self::FollowStream>, Status> {
        let refuses = self.0.refuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(status) = refuses {
            return Err(status);
        }
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|first| first.message);
        let Some(from_proxy::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no Hello"));
        };
        let (say, said) = mpsc::channel(4);
        let (ack, acks) = blocking::channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                if let Some(from_proxy::Message::Ack(one)) = message.message
                    && ack.send(one).is_err()
                {
                    return;
                }
            }
        });
        let session = Session {
            hello,
            say,
            acks,
            nonce: 0,
        };
        // The test may be over.
        let _ = self.0.streams.send(session);
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

impl Session {
    /// Ends it.
    pub fn end(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.say = closed;
    }

    /// Whether the other side has ended it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.say.is_closed()
    }

    /// Says these things together, with the next nonce, and waits for what the other side says to them. `None`: it ended the
    /// stream.
    #[track_caller]
    pub fn say(&mut self, resources: Vec<Resource>) -> Option<Ack> {
        self.nonce += 1;
        self.say_as(self.nonce, resources)
    }

    /// The same with a nonce of one's own choice.
    #[track_caller]
    pub fn say_as(&mut self, nonce: u64, resources: Vec<Resource>) -> Option<Ack> {
        let batch = Batch {
            nonce,
            epoch: 0,
            resources,
            complete: true,
        };
        self.send(Some(from_control::Message::Batch(batch)));
        match self.acks.recv_timeout(LONG) {
            Ok(ack) => {
                assert_eq!(ack.nonce, nonce, "another batch was acknowledged");
                Some(ack)
            }
            Err(blocking::RecvTimeoutError::Disconnected) => None,
            Err(blocking::RecvTimeoutError::Timeout) => panic!("neither an answer nor an end"),
        }
    }

    /// Sends a message, whatever becomes of it.
    pub fn send(&mut self, message: Option<from_control::Message>) {
        // What is over is seen by what does not come back.
        let _ = self.say.blocking_send(Ok(FromControl { message }));
    }
}
