//! Inbound: the life of a connection that others open to this pod.
//!
//! In: a connection that the redirect sent here. Out: the same bytes or requests at the app, from the pod's own address, once
//! it is known who calls and that it may; or a refusal with its reason. The rooms come in this order: origin, mtls (who
//! calls), admit, detect, then forward: [`requests`] for HTTP; for the rest, [`answer`] the peer's proxy, then bytes.

pub mod requests;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::uri::Authority;
use tokio::net::TcpStream;
use weft_model::destination::Protocol;
use weft_model::identity::Identity;
use weft_model::inbound::Mode;
use weft_model::policy::Caller;
use weft_model::reason::Reason;

use crate::accept::Slot;
use crate::admit::admit;
use crate::answer;
use crate::detect::{self, Detected, ProtocolError, Waits};
use crate::forward::tcp::pump;
use crate::http::limits::Limits;
use crate::http::server::{ServeContext, serve as serve_http};
use crate::io::Io;
use crate::mtls::{self, Hello, Hop};
use crate::observe::access::Line;
use crate::observe::metrics::{Direction, Labels};
use crate::observe::verdicts::{Found, Verdict};
use crate::outcome::{moved, stream_ended};
use crate::refuse;
use crate::trust::{self, Proof};
use crate::worker::Worker;

use requests::Requests;

/// A peer's pool closes what is idle; this is for a peer that does not.
const PEER_IDLE: Duration = Duration::from_secs(300);
/// How long a stream may be silent under permissive before the app is dialled, to see whether it speaks first. Long enough
/// for a peer's ClientHello that was lost to come again (TCP repeats it after 200 ms, and after 400 ms more): else the app's
/// greeting would go to a peer in plaintext. Peers do not wait for it, because they say what they carry.
const GREETING_WAIT: Duration = Duration::from_secs(1);

/// A stream, and what is known of who opened it.
#[derive(Debug)]
struct Arrived {
    io: Io,
    caller: Caller,
    /// What a peer's proxy says that it carries. `None`: no proxy said anything.
    hop: Option<Hop>,
    /// What proves who called. `None`: nothing was shown.
    proof: Option<Proof>,
    /// Whether the caller's proxy waits to be told that the app has taken the stream.
    unanswered: bool,
}

/// Where a stream comes from and where it goes.
#[derive(Clone, Copy, Debug)]
struct Journey<'a> {
    client: Option<SocketAddr>,
    /// The app's port, at the pod's own address.
    app: SocketAddr,
    /// Its place among all connections. `None`: it came from within.
    slot: Option<&'a Slot>,
}

/// The pipe from our own outbound side holds so much in each direction.
const PIPE: usize = 64 * 1024;

/// A connection that will not be served.
#[derive(Debug)]
struct Refused {
    reason: Reason,
    told: Told,
}

/// Who is told why a connection will not be served.
#[derive(Debug)]
enum Told {
    /// Nobody: it is gone, or to be.
    Nobody,
    /// The client, where it speaks HTTP.
    Client(Io),
    /// The proxy of a client that speaks something else.
    Proxy(Io),
}

/// Serves one connection to its end. What goes wrong is counted by its reason.
pub async fn serve(worker: &Rc<Worker>, socket: TcpStream, client: SocketAddr, slot: &Slot) {
    let Ok(app) = worker.origins.inbound.of(&socket) else {
        return worker.metrics.refused(Reason::ClientClosed, Direction::Inbound);
    };
    let io = Io::plain(socket);
    if worker.is_own_listener(app) || !worker.settings.pod_ips.contains(&app.ip()) {
        worker.metrics.refused(Reason::OwnListener, Direction::Inbound);
        return refuse::close(&io);
    }
    let journey = Journey {
        client: Some(client),
        app,
        slot: Some(slot),
    };
    match identify(worker, io, journey).await {
        Ok(arrived) => finish(worker, arrived, journey).await,
        Err(refused) => turn_away(worker, refused, journey).await,
    }
}

/// Takes over a stream that the outbound side of this very pod opens to an endpoint that is this pod: as one of mutual TLS,
/// admission and answer included. An error says that another endpoint may be tried.
pub fn from_self(worker: &Rc<Worker>, app: SocketAddr) -> Result<Io, Reason> {
    let credential = worker.credential()?;
    let (ours, theirs) = Io::pipe(PIPE);
    let arrived = Arrived {
        io: theirs,
        caller: Caller::Verified(credential.identity().clone()),
        hop: Some(Hop::Tcp),
        proof: None,
        unanswered: true,
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let journey = Journey {
            client: None,
            app,
            slot: None,
        };
        finish(&worker, arrived, journey).await;
    });
    Ok(ours)
}

impl Arrived {
    /// Tells the caller's proxy, where it waits to be told, that the app has taken the stream.
    async fn answer(&mut self) -> Result<(), Reason> {
        if std::mem::take(&mut self.unanswered) {
            answer::taken(&mut self.io).await.map_err(|_| Reason::ClientClosed)?;
        }
        Ok(())
    }

    fn refused(self, reason: Reason) -> Refused {
        let told = match self.unanswered {
            true => Told::Proxy(self.io),
            false => Told::Client(self.io),
        };
        Refused { reason, told }
    }
}

impl Refused {
    fn unheard(reason: Reason) -> Self {
        let told = Told::Nobody;
        Self { reason, told }
    }
}

/// The rooms in their order, once it is known who calls: for as long as a root vouches for the caller.
async fn finish(worker: &Rc<Worker>, mut arrived: Arrived, journey: Journey<'_>) {
    let mut proof = arrived.proof.take();
    let passed = tokio::select! {
        // Biased: when a root is gone and bytes have come, the bytes must not get to the app first.
        biased;
        () = trust::void(&mut proof) => Err(Refused::unheard(Reason::TlsFailed)),
        passed = pass(worker, arrived, journey) => passed,
    };
    if let Err(refused) = passed {
        turn_away(worker, refused, journey).await;
    }
}

/// Admit, detect, forward. Not cancel safe: dropping it ends the connection.
async fn pass(worker: &Rc<Worker>, mut arrived: Arrived, journey: Journey<'_>) -> Result<(), Refused> {
    let port = journey.app.port();
    // Admit: whoever it is, as nobody knows or as verified.
    if let Err(reason) = admit(&worker.tables(), port, arrived.caller.clone()) {
        return Err(arrived.refused(reason));
    }
    let was_silent = arrived.hop.is_none() && arrived.io.ahead().is_empty();
    // Detect: as the peer says, as declared, else by the bytes.
    let detected = match detect(worker, &mut arrived, journey).await {
        Err(reason) => return Err(arrived.refused(reason)),
        Ok(_) if was_silent && mtls::may_be_hello(arrived.io.ahead()) => {
            // A slow peer's ClientHello after all: it is identified now, and admitted anew. Boxed: rare.
            let identified = Box::pin(identify(worker, arrived.io, journey)).await?;
            Box::pin(finish(worker, identified, journey)).await;
            return Ok(());
        }
        Ok(detected) => detected,
    };
    let found = verdict(worker, &arrived, &detected, port);
    worker.seen.note(Direction::Inbound, journey.app, found);
    forward(worker, arrived, detected, journey).await
}

/// Forward, to the app. Not cancel safe: dropping it ends the connection.
async fn forward(
    worker: &Rc<Worker>,
    arrived: Arrived,
    detected: Detected,
    journey: Journey<'_>,
) -> Result<(), Refused> {
    match detected {
        Detected::Http(version) => {
            let context = context(worker, &arrived.caller, arrived.hop, journey.app);
            let requests = Rc::new(Requests::new(
                worker.clone(),
                arrived.caller,
                journey.client,
                journey.app,
            ));
            if let Err(error) = serve_http(arrived.io, version, requests, context).await {
                tracing::debug!(app = %journey.app, %error, "inbound HTTP connection ended");
            }
            Ok(())
        }
        Detected::Opaque => match dial_app(worker, journey.app).await {
            Ok(app) => stream(worker, arrived, app, journey).await,
            Err(reason) => Err(arrived.refused(reason)),
        },
        Detected::Dialled(app) => stream(worker, arrived, app, journey).await,
    }
}

/// mTLS: who calls. A stream that says nothing yet, or nothing of ours, is plaintext.
async fn identify(worker: &Rc<Worker>, mut io: Io, journey: Journey<'_>) -> Result<Arrived, Refused> {
    let within = worker.dialer.handshake_timeout;
    let strict = worker
        .tables()
        .inbound()
        .is_none_or(|inbound| inbound.mode == Mode::Strict);
    // Strict never looks at who speaks first, so nothing is to be learnt from silence.
    let silence = if strict { within } else { GREETING_WAIT };
    let Ok(hello) = mtls::hello(&mut io, silence, within).await else {
        return Err(Refused::unheard(Reason::ClientClosed));
    };
    match hello {
        Hello::Mesh => {
            let credential = match worker.credential() {
                Ok(credential) => credential,
                Err(reason) => {
                    let told = Told::Client(io);
                    return Err(Refused { reason, told });
                }
            };
            let handshake = Box::pin(mtls::terminate(io, &credential, within));
            let terminated = handshake.await.map_err(|error| {
                tracing::debug!(error = &error as &dyn std::error::Error, "inbound handshake failed");
                Refused::unheard(Reason::TlsFailed)
            })?;
            if let Some(slot) = journey.slot {
                slot.is_of_peer();
            }
            Ok(Arrived {
                io: terminated.io,
                caller: Caller::Verified(terminated.peer),
                hop: Some(terminated.hop),
                proof: Some(Proof::new(&worker.trust, terminated.chain)),
                unanswered: terminated.hop == Hop::Tcp,
            })
        }
        Hello::Foreign | Hello::Plaintext | Hello::Silent | Hello::Ended => {
            if journey.slot.is_some_and(|slot| !slot.is_of_stranger()) {
                // Not told why: that would take the time and the place that it must not have.
                refuse::close(&io);
                return Err(Refused::unheard(Reason::Overloaded));
            }
            Ok(Arrived {
                io,
                caller: Caller::Plaintext,
                hop: None,
                proof: None,
                unanswered: false,
            })
        }
    }
}

/// Detect. Mere bytes of a peer are looked at as those of a stranger, unless the port is declared to carry such: their client
/// would else say itself who calls. Where nothing was said yet, a peer's ClientHello may still come: the caller looks.
async fn detect(worker: &Rc<Worker>, arrived: &mut Arrived, journey: Journey<'_>) -> Result<Detected, Reason> {
    let declared = worker
        .tables()
        .inbound()
        .and_then(|inbound| inbound.port(journey.app.port()))
        .map(|p| p.protocol);
    let idle = match (arrived.hop, declared) {
        // As bytes, HTTP would reach the app with whatever the peer's app says of its caller. Each request is answered by
        // itself then, so the stream is taken.
        (Some(Hop::Tcp), Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc)) => {
            arrived.answer().await?;
            PEER_IDLE
        }
        // A peer may have been told that these are bytes by a route of its own namespace, and the app's parser knows nothing
        // of that. Boxed: it is over once bytes are passed on.
        (Some(Hop::Tcp), Some(Protocol::Undeclared) | None) => return Box::pin(look(worker, arrived, journey)).await,
        (Some(hop), _) => return Ok(hop.http().map_or(Detected::Opaque, Detected::Http)),
        (None, _) => worker.settings.idle_timeout,
    };
    let io = &mut arrived.io;
    let is_opaque = matches!(declared, Some(Protocol::Opaque | Protocol::Tls));
    match declared {
        Some(Protocol::Opaque | Protocol::Tls) if !io.ahead().is_empty() => Ok(Detected::Opaque),
        Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc) => {
            match detect::version(io, idle).await.map_err(|_| Reason::ClientClosed)? {
                Some(version) => Ok(Detected::Http(version)),
                None if mtls::may_be_hello(io.ahead()) => Ok(Detected::Opaque),
                None => Err(Reason::NotHttp),
            }
        }
        _ => {
            // The silence that means something has passed already, in `identify`.
            let waits = Waits {
                silence: Duration::ZERO,
                pause: worker.settings.detect_wait,
            };
            let dial = async || dial_app(worker, journey.app).await.map_err(ProtocolError::Dial);
            let detected = detect::protocol(io, journey.app, waits, &worker.server_first, dial).await;
            let detected = detected.map_err(|error| error.reason())?;
            if is_opaque {
                // Whatever it looks like.
                io.watch_first_line(false);
                return Ok(match detected {
                    Detected::Http(_) => Detected::Opaque,
                    detected => detected,
                });
            }
            Ok(detected)
        }
    }
}

/// Detect, in what a peer carries as bytes to a port of which nothing is declared. Nobody waits for it: the app is dialled and
/// the peer told so first, and a greeting passes as soon as it comes.
async fn look(worker: &Rc<Worker>, arrived: &mut Arrived, journey: Journey<'_>) -> Result<Detected, Reason> {
    let mut app = Some(dial_app(worker, journey.app).await?);
    arrived.answer().await?;
    let waits = Waits {
        silence: Duration::ZERO,
        pause: worker.settings.detect_wait,
    };
    let dial = async || app.take().ok_or(ProtocolError::Dial(Reason::Internal));
    let detected = detect::protocol(&mut arrived.io, journey.app, waits, &worker.server_first, dial).await;
    match detected.map_err(|error| error.reason())? {
        Detected::Opaque => Ok(app.map_or(Detected::Opaque, Detected::Dialled)),
        detected => Ok(detected),
    }
}

/// What was found out, and how.
fn verdict(worker: &Worker, arrived: &Arrived, detected: &Detected, port: u16) -> Verdict {
    let tables = worker.tables();
    let declared = tables
        .inbound()
        .and_then(|own| own.port(port))
        .map(|port| port.protocol);
    let found = match (arrived.hop, declared) {
        // It says that these are bytes.
        (Some(Hop::Tcp), Some(Protocol::Undeclared) | None) if detected.version().is_some() => Found::ClientBytes,
        (Some(_), _) => Found::Peer,
        (None, Some(Protocol::Undeclared) | None) => detected.found(&arrived.io),
        (None, Some(_)) => Found::Declared,
    };
    let protocol = detected.version();
    Verdict { protocol, found }
}

/// Connects to the app at, and from, the pod's own address.
async fn dial_app(worker: &Rc<Worker>, app: SocketAddr) -> Result<Io, Reason> {
    let socket = worker.dialer.tcp(app, Some(app.ip())).await;
    socket.map(Io::plain).map_err(|_| Reason::AppUnreachable)
}

/// Forward, opaque: one stream for as long as it lasts. Admitted anew, because its first bytes may have been waited for.
async fn stream(worker: &Rc<Worker>, mut arrived: Arrived, app: Io, journey: Journey<'_>) -> Result<(), Refused> {
    let (tables, at) = (worker.tables(), journey.app);
    if let Err(reason) = admit(&tables, at.port(), arrived.caller.clone()) {
        return Err(arrived.refused(reason));
    }
    if let Err(reason) = arrived.answer().await {
        return Err(arrived.refused(reason));
    }
    let labels = tables
        .inbound()
        .map(|own| Labels::inbound(own, at.port(), &arrived.caller))
        .unwrap_or_default();
    drop(tables);
    let series = worker.metrics.series(&labels, "");
    let mut line = worker.line(Direction::Inbound);
    Line::note(&mut line, |entry| {
        entry.of(&series);
        entry.called_by(verified(&arrived.caller), journey.client);
    });
    let open = series.open_tcp();
    let outcome = pump(arrived.io, app, |flow, bytes| moved(&open, flow, bytes)).await;
    stream_ended(outcome, open, Direction::Inbound, &mut line);
    Ok(())
}

/// Who calls, if that is proven.
fn verified(caller: &Caller) -> Option<&Identity> {
    match caller {
        Caller::Verified(identity) => Some(identity),
        Caller::Plaintext => None,
    }
}

/// Refuses, with the reason where the other side can hear it.
async fn turn_away(worker: &Rc<Worker>, Refused { reason, told }: Refused, journey: Journey<'_>) {
    tracing::debug!(client = ?journey.client, app = %journey.app, %reason, "inbound connection refused");
    let io = match told {
        Told::Client(io) => io,
        Told::Proxy(io) => {
            refuse::unheard(worker, reason, Direction::Inbound, journey.client);
            // Boxed: what is refused is to cost those nothing that are served.
            return Box::pin(answer::refuse(io, reason)).await;
        }
        Told::Nobody => return refuse::unheard(worker, reason, Direction::Inbound, journey.client),
    };
    let context = context(worker, &Caller::Plaintext, None, journey.app);
    let client = journey.client.unwrap_or(journey.app);
    refuse::connection(io, reason, Direction::Inbound, worker, client, context).await;
}

/// What HTTP is served with.
fn context(worker: &Worker, caller: &Caller, hop: Option<Hop>, app: SocketAddr) -> ServeContext {
    // What a peer carries as mere bytes are the words of its app, not its own.
    let origin = match hop {
        Some(Hop::H1 | Hop::H2) => crate::http::Origin::Mesh,
        Some(Hop::Tcp) | None => crate::http::Origin::Outside,
    };
    let idle_time = match caller {
        Caller::Verified(_) => PEER_IDLE,
        Caller::Plaintext => worker.settings.idle_timeout,
    };
    ServeContext {
        limits: Limits {
            idle_time,
            // A stranger may not trickle a body for ever; a peer's app may stream as slowly as it likes.
            body_time: matches!(caller, Caller::Plaintext).then_some(crate::http::limits::BODY_TIME),
            ..Limits::default()
        },
        closing: worker.inbound_closing(),
        origin,
        authority: Authority::try_from(app.to_string()).ok(),
    }
}
