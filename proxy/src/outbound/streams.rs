//! Outbound, opaque: one stream to one endpoint, for as long as it lasts; another endpoint where not a byte reached the app.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::endpoint::GlobalKey;
use weft_model::reason::Reason;

use crate::answer::{Early, NotTaken};
use crate::balance::health::Failure;
use crate::balance::{Balancer, InFlight, Remote};
use crate::connect::Carries;
use crate::forward::tcp::{Flow, pump};
use crate::inbound;
use crate::io::Io;
use crate::mtls::{self, Hop};
use crate::observe::access::Line;
use crate::observe::metrics::{Direction, Labels, Series};
use crate::outbound::attempt::Failed;
use crate::outbound::reach::{probe, reach};
use crate::outcome::{failed_stream, moved, stream_ended};
use crate::refuse;
use crate::route::Service;
use crate::trust::{self, Proof};
use crate::worker::Worker;

/// Endpoints that one stream tries at most.
const ATTEMPTS: usize = 3;
/// How long an answer may take beyond the time that the endpoint's proxy gives its app to accept a connection.
const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// A connection to an endpoint, with its accounts.
#[derive(Debug)]
pub struct Stream {
    /// The connection.
    pub io: Io,
    /// Its accounts.
    pub flight: Flight,
}

/// What counts a stream. Dropped without having been pumped, it counts as nothing but load that has ended.
#[derive(Debug)]
pub struct Flight {
    _load: InFlight,
    worker: Rc<Worker>,
    /// What proves who is there. `None`: nothing was shown.
    proof: Option<Proof>,
    series: Rc<Series>,
    remote: Rc<Remote>,
    /// Endpoints that were tried.
    tries: usize,
    /// What the client had said before the endpoint's app took the stream, in bytes. They were sent.
    early: u64,
}

/// Balances, connects and forwards one stream. `name`: the server name that it asks for. An error gives it back, to be told why.
pub async fn opaque(
    worker: &Rc<Worker>,
    mut io: Io,
    target: &Target,
    service: &Rc<Service>,
    name: Option<&str>,
) -> Result<(), (Io, Reason)> {
    match dial(worker, target, service, name, Early::of(&mut io)).await {
        Ok(stream) => {
            stream.pump(io).await;
            Ok(())
        }
        Err(reason) => Err((io, reason)),
    }
}

/// The server name that the client's TLS asks for. `None`: it is no TLS, says none, or nothing until `due`. Cancel safe.
pub async fn server_name(worker: &Worker, io: &mut Io, due: Instant) -> Option<String> {
    let silence = due.saturating_duration_since(Instant::now());
    let whole = worker.settings.handshake_timeout;
    // A client that fails here fails again where its bytes are passed on.
    mtls::server_name(io, silence, whole).await.unwrap_or_default()
}

/// Connects to the app of an endpoint of a service, as an opaque stream: one endpoint after the other, until an app takes
/// the stream, or something of `early` may have reached one. Cancel safe where `early` is nothing.
pub async fn dial(
    worker: &Rc<Worker>,
    target: &Target,
    service: &Rc<Service>,
    name: Option<&str>,
    mut early: Early<'_>,
) -> Result<Stream, Reason> {
    let balancer = service.opaque(name, worker.endpoints.chance.draw())?;
    probe(worker, target, &balancer);
    let mut tried: Vec<GlobalKey> = Vec::with_capacity(ATTEMPTS);
    let mut reason = Reason::NoEndpoints;
    while tried.len() < ATTEMPTS {
        let Some(picked) = balancer.pick(&tried, Instant::now()) else {
            break;
        };
        let remote = picked.remote;
        tried.push(remote.key);
        let load = remote.begin();
        let attempt = Attempt {
            worker,
            target,
            balancer: &balancer,
            remote: &remote,
        };
        // Boxed: it is over once bytes are passed on, for as long as that lasts.
        let taken = match Box::pin(attempt.run(&mut early)).await {
            Ok(taken) => taken,
            Err(failed) if failed.again => {
                reason = failed.reason;
                continue;
            }
            Err(failed) => return Err(failed.reason),
        };
        let tables = worker.tables();
        let own = tables.inbound().map(|own| &**own);
        let series = remote.series(&worker.metrics, own, service.no_template());
        return Ok(Stream {
            io: taken.io,
            flight: Flight {
                _load: load,
                worker: worker.clone(),
                proof: taken.proof,
                series,
                early: taken.early,
                tries: tried.len(),
                remote,
            },
        });
    }
    Err(reason)
}

/// One endpoint, for one stream.
#[derive(Clone, Copy, Debug)]
struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    target: &'a Target,
    balancer: &'a Balancer,
    remote: &'a Rc<Remote>,
}

/// A stream that an endpoint's app has taken.
#[derive(Debug)]
struct Taken {
    io: Io,
    proof: Option<Proof>,
    early: u64,
}

impl Attempt<'_> {
    /// Connects, and waits for the answer: plaintext has none. Health has heard how it went.
    async fn run(self, early: &mut Early<'_>) -> Result<Taken, Failed> {
        let Self {
            worker,
            target,
            balancer,
            remote,
        } = self;
        if worker.is_self(&remote.endpoint) {
            let mut io = inbound::from_self(worker, remote.endpoint.address).map_err(Failed::unsent)?;
            let early = self.answer(&mut io, early).await.map_err(failed)?;
            return Ok(Taken { io, proof: None, early });
        }
        let reached = reach(worker, target, balancer, remote, Hop::Tcp, Carries::Bodies).await;
        let mut reached = reached.map_err(|error| Failed::unsent(error.reason()))?;
        let answer = match reached.proof {
            Some(_) => self.answer(&mut reached.io, early).await,
            None => Ok(0),
        };
        let now = Instant::now();
        match answer {
            Ok(early) => {
                balancer.connected(remote, now);
                Ok(Taken {
                    io: reached.io,
                    proof: reached.proof,
                    early,
                })
            }
            Err(error) => {
                match error {
                    NotTaken::Refused { reason, .. } if reason == Reason::AppUnreachable => {
                        balancer.failed(remote, Failure::Proof, reason, now);
                    }
                    NotTaken::Lost { reason, .. } => balancer.failed(remote, Failure::Doubt, reason, now),
                    // Says nothing of the endpoint, or that it is well.
                    NotTaken::Refused { .. } | NotTaken::Client(_) => {}
                }
                Err(failed(error))
            }
        }
    }

    async fn answer(&self, io: &mut Io, early: &mut Early<'_>) -> Result<u64, NotTaken> {
        let within = self.worker.settings.connect_timeout + ANSWER_SLACK;
        let answer = early.answer(io, within).await;
        if let Err(error) = &answer {
            let endpoint = &self.remote.endpoint;
            let (reason, again) = (error.reason(), error.again());
            tracing::debug!(endpoint = %endpoint.key, pod = %endpoint.pod, %reason, again, "stream not taken");
        }
        answer
    }
}

fn failed(error: NotTaken) -> Failed {
    Failed {
        reason: error.reason(),
        again: error.again(),
        granted: None,
    }
}

impl Stream {
    /// Moves bytes until both sides have ended, or no root vouches any more for who is there.
    pub async fn pump(mut self, client: Io) {
        let Flight {
            worker,
            proof,
            series,
            remote,
            tries,
            early,
            ..
        } = &mut self.flight;
        let mut line = worker.line(Direction::Outbound);
        Line::note(&mut line, |entry| {
            entry.of(series);
            (0..*tries).for_each(|_| entry.tries(&remote.endpoint));
        });
        let open = series.open_tcp();
        moved(&open, Flow::Up, *early);
        let sums = [Cell::new(*early), Cell::new(0)];
        let pumped = pump(client, self.io, |flow, bytes| {
            let sum = &sums[usize::from(flow == Flow::Down)];
            sum.set(sum.get() + bytes);
            moved(&open, flow, bytes);
        });
        let mut outcome = tokio::select! {
            // Biased: what comes from somebody who is not trusted any more must not get to the app first.
            biased;
            () = trust::void(proof) => {
                worker.metrics.refused(Reason::TlsFailed, Direction::Outbound);
                let bytes = (sums[0].get(), sums[1].get());
                Line::note(&mut line, |entry| entry.ended(failed_stream(Reason::TlsFailed), bytes));
                return open.finish(Err(Reason::TlsFailed));
            }
            outcome = pumped => outcome,
        };
        outcome.up += *early;
        stream_ended(outcome, open, Direction::Outbound, &mut line);
    }
}

/// Passes a stream on to where it was going: there is nothing of the mesh.
pub async fn outside(worker: &Rc<Worker>, client: Io, destination: SocketAddr) {
    let labels = worker
        .tables()
        .inbound()
        .map(|own| Labels::outside(own))
        .unwrap_or_default();
    let series = worker.metrics.series(&labels, "");
    let mut line = worker.line(Direction::Outbound);
    Line::note(&mut line, |entry| {
        entry.of(&series);
        entry.to(destination);
    });
    match worker.dialer.tcp(destination, None).await {
        Ok(socket) => {
            let open = series.open_tcp();
            let outcome = pump(client, Io::plain(socket), |flow, bytes| moved(&open, flow, bytes)).await;
            stream_ended(outcome, open, Direction::Outbound, &mut line);
        }
        Err(error) => {
            Line::note(&mut line, |entry| entry.ended(failed_stream(error.reason()), (0, 0)));
            worker.metrics.refused(error.reason(), Direction::Outbound);
            refuse::close(&client);
        }
    }
}
