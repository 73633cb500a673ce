//! Outbound, opaque: one stream to one endpoint, for as long as it lasts.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::endpoint::EndpointKey;
use weft_model::reason::Reason;

use crate::balance::InFlight;
use crate::connect::{Carries, ConnectError};
use crate::forward::tcp::pump;
use crate::inbound;
use crate::io::Io;
use crate::mtls::{Chain, Hop};
use crate::observe::metrics::{Direction, Labels, Series};
use crate::outbound::reach::{probe, reach};
use crate::outcome::{moved, stream_ended};
use crate::refuse;
use crate::route::Service;
use crate::worker::Worker;

/// Endpoints that one stream tries at most.
const ATTEMPTS: usize = 3;

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
    chain: Option<Chain>,
    series: Rc<Series>,
}

/// Balances, connects and forwards one stream. An error gives it back, to be told why.
pub async fn opaque(worker: &Rc<Worker>, io: Io, target: &Target, service: &Rc<Service>) -> Result<(), (Io, Reason)> {
    match dial(worker, target, service).await {
        Ok(stream) => {
            stream.pump(io).await;
            Ok(())
        }
        Err(reason) => Err((io, reason)),
    }
}

/// Connects to an endpoint of a service, as an opaque stream: one after the other until one can be connected to.
pub async fn dial(worker: &Rc<Worker>, target: &Target, service: &Rc<Service>) -> Result<Stream, Reason> {
    let balancer = service.opaque()?;
    probe(worker, target, &balancer);
    let mut tried: Vec<EndpointKey> = Vec::with_capacity(ATTEMPTS);
    let mut reason = Reason::NoEndpoints;
    while tried.len() < ATTEMPTS {
        let Some(picked) = balancer.pick(&tried, Instant::now()) else {
            break;
        };
        let remote = picked.remote;
        tried.push(remote.endpoint.key);
        let load = remote.begin();
        let reached = if worker.is_self(&remote.endpoint) {
            inbound::from_self(worker, remote.endpoint.address)
                .await
                .map(|io| (io, None))
        } else {
            let reached = reach(worker, target, &balancer, &remote, Hop::Tcp, Carries::Bodies).await;
            reached
                .map(|reached| (reached.io, reached.chain))
                .map_err(ConnectError::reason)
        };
        match reached {
            Ok((io, chain)) => {
                let tables = worker.tables();
                let own = tables.inbound().map(|own| &**own);
                let series = remote.series(&worker.metrics, own, service.no_template());
                return Ok(Stream {
                    io,
                    flight: Flight {
                        _load: load,
                        worker: worker.clone(),
                        chain,
                        series,
                    },
                });
            }
            Err(failed) => reason = failed,
        }
    }
    Err(reason)
}

impl Stream {
    /// Moves bytes until both sides have ended, or no root vouches any more for who is there.
    pub async fn pump(self, client: Io) {
        let Flight {
            worker, chain, series, ..
        } = &self.flight;
        let open = series.open_tcp();
        let pumped = pump(client, self.io, |flow, bytes| moved(&open, flow, bytes));
        let outcome = match chain {
            None => pumped.await,
            Some(chain) => tokio::select! {
                outcome = pumped => outcome,
                () = Box::pin(worker.disowned(chain)) => {
                    worker.metrics.refused(Reason::TlsFailed, Direction::Outbound);
                    return open.finish(Err(Reason::TlsFailed));
                }
            },
        };
        stream_ended(outcome, open, Direction::Outbound);
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
    match worker.dialer.tcp(destination, None).await {
        Ok(socket) => {
            let open = series.open_tcp();
            let outcome = pump(client, Io::plain(socket), |flow, bytes| moved(&open, flow, bytes)).await;
            stream_ended(outcome, open, Direction::Outbound);
        }
        Err(error) => {
            worker.metrics.refused(error.reason(), Direction::Outbound);
            refuse::close(&client);
        }
    }
}
