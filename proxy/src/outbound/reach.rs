//! Connect, to one endpoint: TCP, then mutual TLS with exactly the identity that discovery named.
//!
//! In: an endpoint and what the stream will carry. Out: a stream on which nothing was sent yet; health, metrics and
//! discovery have heard how it went. Plaintext only where discovery positively says that there is no identity; a failed
//! handshake never falls back to it. An endpoint of another network is reached `through` one of its gateways, and must be
//! who it is all the same.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::identity::Identity;
use weft_model::reason::Reason;

use crate::balance::gateways::Due;
use crate::balance::health::Failure;
use crate::balance::{Balancer, Remote};
use crate::connect::{Carries, ConnectError};
use crate::io::Io;
use crate::mtls::{self, Hop};
use crate::observe::metrics::Direction;
use crate::outbound::through::{probe as probe_gateway, through};
use crate::trust::Proof;
use crate::worker::Worker;

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Reached {
    /// The stream.
    pub io: Io,
    /// The generation of our leaf that it rests on. 0: plaintext.
    pub leaf: u64,
    /// What proves who is there. `None`: plaintext.
    pub proof: Option<Proof>,
}

/// Why there is no connection, by how far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was dialled: our own lack.
    Own(ConnectError),
    /// What was dialled did not answer.
    Dial(ConnectError),
    /// It did, and then there was no mutual TLS with the endpoint.
    Shake(ConnectError),
}

/// The generation of leaf that a connection to this endpoint has to rest on.
pub fn leaf_for(worker: &Worker, remote: &Remote) -> Result<u64, ConnectError> {
    match &remote.endpoint.identity {
        None => Ok(0),
        Some(_) => Ok(worker
            .credential()
            .map_err(|_| ConnectError::NoCertificate)?
            .generation()),
    }
}

/// Connects to an endpoint. Health has heard that it is well, except for an opaque stream: what is at the end of that only
/// its answer says. Not cancel safe.
pub async fn reach(
    worker: &Rc<Worker>,
    target: &Target,
    balancer: &Balancer,
    remote: &Rc<Remote>,
    hop: Hop,
    carries: Carries,
) -> Result<Reached, ConnectError> {
    let result = open(worker, target, remote, (hop, carries)).await;
    let now = Instant::now();
    match result {
        Ok(reached) => {
            if hop != Hop::Tcp {
                balancer.connected(remote, now);
            }
            Ok(reached)
        }
        Err(fault) => {
            failed(balancer, remote, fault, now);
            Err(fault.error())
        }
    }
}

async fn open(
    worker: &Rc<Worker>,
    target: &Target,
    remote: &Rc<Remote>,
    (hop, carries): (Hop, Carries),
) -> Result<Reached, Fault> {
    let endpoint = &remote.endpoint;
    match (&endpoint.identity, &remote.gateways) {
        (Some(expected), None) => {
            let way = Way {
                worker,
                target,
                remote,
                expected,
                hop,
                carries,
            };
            way.open(endpoint.address).await
        }
        // Boxed: few endpoints are in another network.
        (Some(expected), Some(gateways)) => {
            let way = Way {
                worker,
                target,
                remote,
                expected,
                hop,
                carries,
            };
            Box::pin(through(way, gateways)).await
        }
        // Refused where it is received. Said twice, because plaintext must never leave our network.
        (None, Some(_)) => Err(Fault::Own(ConnectError::Tls)),
        (None, None) => {
            let socket = worker.dialer.tcp(endpoint.address, None).await.map_err(Fault::Dial)?;
            carries.tune(&socket).map_err(|error| Fault::Dial(error.into()))?;
            Ok(Reached {
                io: Io::plain(socket),
                leaf: 0,
                proof: None,
            })
        }
    }
}

/// What a connection of mutual TLS is for, whatever is dialled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) target: &'a Target,
    pub(super) remote: &'a Rc<Remote>,
    pub(super) expected: &'a Identity,
    pub(super) hop: Hop,
    pub(super) carries: Carries,
}

impl Way<'_> {
    /// Dials an address, and requires the endpoint's identity there. Another one is counted, and discovery asked again.
    pub(super) async fn open(self, to: SocketAddr) -> Result<Reached, Fault> {
        let worker = self.worker;
        let credential = worker
            .credential()
            .map_err(|_| Fault::Own(ConnectError::NoCertificate))?;
        let sni = self.remote.sni.clone().ok_or(Fault::Own(ConnectError::Tls))?;
        let socket = worker.dialer.tcp(to, None).await.map_err(Fault::Dial)?;
        self.carries.tune(&socket).map_err(|error| Fault::Dial(error.into()))?;
        let within = worker.settings.peer_handshake_timeout;
        let shaken = mtls::originate(socket, &credential, sni, self.expected, self.hop, within).await;
        let (io, chain) = shaken.map_err(|error| {
            if error == ConnectError::Identity {
                worker.metrics.refused(Reason::IdentityMismatch, Direction::Outbound);
                worker.view.suspect(self.target);
            }
            Fault::Shake(error)
        })?;
        Ok(Reached {
            io,
            leaf: credential.generation(),
            proof: Some(Proof::new(&worker.trust, chain)),
        })
    }
}

impl Fault {
    pub(super) fn error(self) -> ConnectError {
        match self {
            Self::Own(error) | Self::Dial(error) | Self::Shake(error) => error,
        }
    }

    /// What it proves of who is to blame. `None`: nothing.
    pub(super) fn proves(self) -> Option<Failure> {
        match self.error() {
            ConnectError::Refused | ConnectError::Closed | ConnectError::Identity => Some(Failure::Proof),
            ConnectError::Timeout | ConnectError::Failed(_) | ConnectError::Tls => Some(Failure::Doubt),
            // Our own lack says nothing of the endpoint.
            ConnectError::NoCertificate => None,
        }
    }
}

fn failed(balancer: &Balancer, remote: &Remote, fault: Fault, now: Instant) {
    let (endpoint, error) = (&remote.endpoint, fault.error());
    tracing::debug!(endpoint = %endpoint.key, pod = %endpoint.pod, address = %endpoint.address, %error, "connect failed");
    let of_gateways = remote.gateways.is_some() && matches!(fault, Fault::Dial(_));
    match fault.proves() {
        // The gateways' health has heard of it, and that is the endpoint's as well.
        Some(failure) if !of_gateways => balancer.failed(remote, failure, error.reason(), now),
        _ => balancer.untried(remote, now),
    }
}

/// Connects to an endpoint whose ejection has lasted long enough, or through such a gateway, so that no request has to try
/// it.
pub fn probe(worker: &Rc<Worker>, target: &Target, balancer: &Rc<Balancer>) {
    let Some(due) = balancer.due_for_probe(Instant::now()) else {
        return;
    };
    let (worker, target, balancer) = (worker.clone(), target.clone(), balancer.clone());
    match due {
        Due::Endpoint(remote) => {
            _ = tokio::task::spawn_local(async move {
                // Health has heard how it went; the connection itself is of no use.
                let _ = reach(&worker, &target, &balancer, &remote, Hop::H1, Carries::Heads).await;
            })
        }
        Due::Gateway(remote, gateway) => probe_gateway(&worker, &target, &remote, gateway),
    }
}
