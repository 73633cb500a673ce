//! Connect, to one endpoint: TCP, then mutual TLS with exactly the identity that discovery named.
//!
//! In: an endpoint and what the stream will carry. Out: a stream on which nothing was sent yet; health, metrics and discovery
//! have heard how it went. Plaintext only where discovery positively says that there is no identity; a failed handshake
//! never falls back to it.

use std::rc::Rc;

use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::reason::Reason;

use crate::balance::health::Failure;
use crate::balance::{Balancer, Remote};
use crate::connect::{Carries, ConnectError};
use crate::io::Io;
use crate::mtls::{self, Hop};
use crate::observe::metrics::Direction;
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
    remote: &Remote,
    hop: Hop,
    carries: Carries,
) -> Result<Reached, ConnectError> {
    let result = open(worker, remote, hop, carries).await;
    let now = Instant::now();
    match result {
        Ok(reached) => {
            if hop != Hop::Tcp {
                balancer.connected(remote, now);
            }
            Ok(reached)
        }
        Err(error) => {
            failed(worker, target, balancer, remote, error, now);
            Err(error)
        }
    }
}

async fn open(worker: &Rc<Worker>, remote: &Remote, hop: Hop, carries: Carries) -> Result<Reached, ConnectError> {
    let endpoint = &remote.endpoint;
    let Some(expected) = &endpoint.identity else {
        let socket = worker.dialer.tcp(endpoint.address, None).await?;
        carries.tune(&socket)?;
        return Ok(Reached {
            io: Io::plain(socket),
            leaf: 0,
            proof: None,
        });
    };
    let credential = worker.credential().map_err(|_| ConnectError::NoCertificate)?;
    let sni = remote.sni.clone().ok_or(ConnectError::Tls)?;
    let socket = worker.dialer.tcp(endpoint.address, None).await?;
    carries.tune(&socket)?;
    let within = worker.settings.peer_handshake_timeout;
    let (io, chain) = mtls::originate(socket, &credential, sni, expected, hop, within).await?;
    Ok(Reached {
        io,
        leaf: credential.generation(),
        proof: Some(Proof::new(&worker.trust, chain)),
    })
}

fn failed(worker: &Worker, target: &Target, balancer: &Balancer, remote: &Remote, error: ConnectError, now: Instant) {
    let endpoint = &remote.endpoint;
    tracing::debug!(endpoint = %endpoint.key, pod = %endpoint.pod, address = %endpoint.address, %error, "connect failed");
    let failure = match error {
        ConnectError::Refused | ConnectError::Closed | ConnectError::Identity => Failure::Proof,
        ConnectError::Timeout | ConnectError::Failed(_) | ConnectError::Tls => Failure::Doubt,
        // Our own lack says nothing of the endpoint.
        ConnectError::NoCertificate => return balancer.untried(remote, now),
    };
    if error == ConnectError::Identity {
        worker.metrics.refused(Reason::IdentityMismatch, Direction::Outbound);
        worker.view.suspect(target);
    }
    balancer.failed(remote, failure, error.reason(), now);
}

/// Connects to an endpoint whose ejection has lasted long enough, so that no request has to try it.
pub fn probe(worker: &Rc<Worker>, target: &Target, balancer: &Rc<Balancer>) {
    let Some(remote) = balancer.due_for_probe(Instant::now()) else {
        return;
    };
    let (worker, target, balancer) = (worker.clone(), target.clone(), balancer.clone());
    tokio::task::spawn_local(async move {
        // Health has heard how it went; the connection itself is of no use.
        let _ = reach(&worker, &target, &balancer, &remote, Hop::H1, Carries::Heads).await;
    });
}
