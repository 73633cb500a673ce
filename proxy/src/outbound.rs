//! Outbound: the life of a connection that this pod's app opens.
//!
//! In: a connection that the redirect sent here. Out: the same bytes or requests, at the endpoint that discovery, routes and
//! balancing chose, over mutual TLS with exactly the identity that must be there; or a refusal with its reason. The rooms
//! come in this order: origin, discover, detect, then for each request [`requests`] (route, balance, connect, forward), or
//! for the whole stream [`streams`] (balance, connect, answer, forward).

pub mod attempt;
mod dial;
mod mirrors;
pub mod reach;
pub mod requests;
pub mod streams;
mod through;
mod tries;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::uri::Authority;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use weft_model::destination::{Protocol, Target};
use weft_model::reason::Reason;

use crate::answer::Early;
use crate::detect::{self, Detected};
use crate::http::limits::Limits;
use crate::http::server::{ServeContext, serve as serve_http};
use crate::io::Io;
use crate::observe::metrics::Direction;
use crate::observe::verdicts::{Found as FoundBy, Verdict};
use crate::refuse;
use crate::route::{Found, Service};
use crate::worker::Worker;

use requests::Requests;
use streams::Stream;

/// An app's own keep-alive connection may be idle for so long: as without a mesh, it is the app that closes it.
const APP_IDLE: Duration = Duration::from_secs(3600);

/// Serves one connection to its end. What goes wrong is counted by its reason.
pub async fn serve(worker: &Rc<Worker>, socket: TcpStream, client: SocketAddr) {
    let Ok(destination) = worker.origins.outbound.of(&socket) else {
        return worker.metrics.refused(Reason::ClientClosed, Direction::Outbound);
    };
    let io = Io::plain(socket);
    if worker.is_own_listener(destination) {
        worker.metrics.refused(Reason::OwnListener, Direction::Outbound);
        return refuse::close(&io);
    }
    tracing::debug!(%client, %destination, "outbound connection");
    if let Err((io, reason)) = connection(worker, io, destination).await {
        tracing::debug!(%client, %destination, %reason, "outbound connection refused");
        let context = context(worker, destination);
        refuse::connection(io, reason, Direction::Outbound, worker, destination, context).await;
    }
}

/// The rooms in their order. An error gives the stream back, to be told why.
async fn connection(worker: &Rc<Worker>, mut io: Io, destination: SocketAddr) -> Result<(), (Io, Reason)> {
    let target = Target::Address(destination);
    let begun = Instant::now();
    let (service, generation, detected, name, trial) = loop {
        let service = match worker.find(&target).await {
            Ok(Found::Service(service)) => service,
            Ok(Found::Outside) => {
                streams::outside(worker, io, destination).await;
                return Ok(());
            }
            Err(reason) => return Err((io, reason)),
        };
        // Of the same moment: nothing was waited for since the service was found.
        let generation = worker.generation();
        let mut trial = None;
        let detected = match detect(worker, &mut io, (&target, begun), &service, &mut trial).await {
            Ok(detected) => detected,
            Err(reason) => return Err((io, reason)),
        };
        let name = match detected {
            // Boxed: few streams go by their name.
            Detected::Opaque if service.by_server_name() => {
                Box::pin(streams::server_name(
                    worker,
                    &mut io,
                    begun + patience(worker, &service),
                ))
                .await
            }
            _ => None,
        };
        // Detection may have waited for long, and what was decided meanwhile is said to hold: then it is looked up anew.
        // A trial connection has carried nothing yet, and what the app has said is kept.
        if generation == worker.generation() {
            break (service, generation, detected, name, trial);
        }
    };
    worker
        .seen
        .note(Direction::Outbound, destination, verdict(&detected, &service, &io));
    let version = match detected {
        Detected::Http(version) => version,
        Detected::Opaque => return streams::opaque(worker, io, &target, &service, name.as_deref()).await,
        Detected::Dialled(upstream) => {
            if let Some(flight) = trial {
                Stream { io: upstream, flight }.pump(io).await;
            }
            return Ok(());
        }
    };
    drop(trial);
    let context = context(worker, destination);
    let requests = Rc::new(Requests::new(worker.clone(), target, service, generation));
    if let Err(error) = serve_http(io, version, requests, context).await {
        tracing::debug!(%destination, %error, "outbound HTTP connection ended");
    }
    Ok(())
}

/// What the app speaks: as declared, else by the bytes. A trial connection's accounts are left in `trial`.
async fn detect(
    worker: &Rc<Worker>,
    io: &mut Io,
    (target, begun): (&Target, Instant),
    service: &Rc<Service>,
    trial: &mut Option<streams::Flight>,
) -> Result<Detected, Reason> {
    match service.protocol {
        Protocol::Opaque | Protocol::Tls => Ok(Detected::Opaque),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            let version = detect::version(io, APP_IDLE).await.map_err(|_| Reason::ClientClosed)?;
            version.map(Detected::Http).ok_or(Reason::NotHttp)
        }
        Protocol::Undeclared => {
            let Target::Address(destination) = *target else {
                return Ok(Detected::Opaque);
            };
            let dial = async || -> Result<Io, detect::ProtocolError> {
                if service.by_server_name() {
                    sleep_until(begun + patience(worker, service)).await;
                }
                let dialled = streams::dial(worker, target, service, None, Early::nothing()).await;
                let stream = dialled.map_err(detect::ProtocolError::Dial)?;
                *trial = Some(stream.flight);
                Ok(stream.io)
            };
            let waits = detect::Waits {
                silence: worker.settings.detect_wait,
                pause: worker.settings.detect_wait,
            };
            let detected = detect::protocol(io, destination, waits, &worker.server_first, dial).await;
            match detected.map_err(|error| error.reason())? {
                // The client has spoken after all, and may say a name that leads elsewhere.
                Detected::Dialled(server)
                    if service.by_server_name() && server.ahead().is_empty() && !io.ahead().is_empty() =>
                {
                    *trial = None;
                    Ok(Detected::Opaque)
                }
                detected => Ok(detected),
            }
        }
    }
}

/// How long a client may be silent whose first bytes, by the name that they ask for, decide where they go: as long as a
/// ClientHello may take, before it goes where streams without a name do; for ever, nearly, where no such place is.
fn patience(worker: &Worker, service: &Service) -> Duration {
    match service.takes_nameless() {
        true => worker.settings.handshake_timeout,
        false => APP_IDLE,
    }
}

/// What was found out, and how.
fn verdict(detected: &Detected, service: &Service, client: &Io) -> Verdict {
    let found = match (service.protocol, detected) {
        (Protocol::Undeclared, detected) => detected.found(client),
        _ => FoundBy::Declared,
    };
    let protocol = detected.version();
    Verdict { protocol, found }
}

/// What HTTP is served with.
fn context(worker: &Worker, destination: SocketAddr) -> ServeContext {
    ServeContext {
        limits: Limits {
            idle_time: APP_IDLE,
            ..Limits::default()
        },
        closing: worker.outbound_closing.clone(),
        origin: crate::http::Origin::Outside,
        authority: Authority::try_from(destination.to_string()).ok(),
    }
}
