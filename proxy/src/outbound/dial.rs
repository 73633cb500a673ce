//! Outbound: connections for requests, which come to be without the request that asked for them as well.
//!
//! In: an endpoint, and what asks for a connection. Out: one that a request can be sent on. A connection that is still being
//! made when its request gives up is finished all the same: health hears how it went, and the next request finds it in the
//! pool. Else an endpoint whose node is gone would never be found out by requests that wait for less than a connection may
//! take, and one that is merely far would never be reached. At most one is left so for each endpoint.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;
use weft_model::destination::Target;

use crate::balance::{Balancer, Remote, Straggler};
use crate::connect::{Carries, ConnectError};
use crate::http::client::{H1Client, H2Client, handshake_h1, handshake_h2};
use crate::http::limits::Limits;
use crate::mtls::Hop;
use crate::outbound::reach::reach;
use crate::pool::Ticket;
use crate::trust;
use crate::worker::Worker;

/// A connection that is to be made.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) worker: Rc<Worker>,
    pub(super) target: Target,
    pub(super) balancer: Rc<Balancer>,
    pub(super) remote: Rc<Remote>,
    /// Whoever waits for it may give up before it is there.
    pub(super) outlives: bool,
}

/// Somebody who waits for a connection that goes on being made when he is gone.
struct Waiting {
    task: JoinHandle<()>,
    remote: Rc<Remote>,
    /// The task's place among those left behind, once it is one.
    place: Rc<Cell<Option<Straggler>>>,
}

impl Dial {
    /// For HTTP/1.1; and the generation of our leaf that it rests on.
    pub(super) async fn h1(self, carries: Carries) -> Result<(H1Client, u64), ConnectError> {
        if !self.outlives {
            return self.open_h1(carries).await;
        }
        let remote = self.remote.clone();
        let kept = remote.clone();
        let keep = move |made: Result<(H1Client, u64), _>| {
            if let Ok((client, leaf)) = made {
                kept.pool.put_h1(client, leaf, carries, Instant::now());
            }
        };
        outliving(remote, async move { self.open_h1(carries).await }, keep).await
    }

    /// For HTTP/2, whoever shares it; and the generation of our leaf that it rests on.
    pub(super) async fn h2(self, ticket: Ticket) -> Result<(H2Client, u64), ConnectError> {
        let (remote, outlives) = (self.remote.clone(), self.outlives);
        let dial = async move {
            let dialled = self.open_h2().await;
            let shared = dialled.as_ref().map(|(client, leaf)| (client, *leaf));
            ticket.dialled(shared.map_err(|error| *error), Instant::now());
            dialled
        };
        match outlives {
            false => dial.await,
            // One that comes too late is in the pool already.
            true => outliving(remote, dial, drop).await,
        }
    }

    async fn open_h1(&self, carries: Carries) -> Result<(H1Client, u64), ConnectError> {
        let (worker, target, balancer, remote) = (&self.worker, &self.target, &self.balancer, &self.remote);
        let reached = reach(worker, target, balancer, remote, Hop::H1, carries).await?;
        Ok((handshake_h1(reached.io, reached.proof), reached.leaf))
    }

    async fn open_h2(&self) -> Result<(H2Client, u64), ConnectError> {
        // The other side reads whatever comes: it bounds streams by their windows, not by TCP's.
        let carries = Carries::Heads;
        let (worker, target, balancer, remote) = (&self.worker, &self.target, &self.balancer, &self.remote);
        let reached = reach(worker, target, balancer, remote, Hop::H2, carries).await?;
        let (client, driver) = handshake_h2(reached.io, Limits::default())
            .await
            .map_err(|_| ConnectError::Closed)?;
        let mut proof = reached.proof;
        spawn_local(async move {
            tokio::select! {
                // Biased: what comes from somebody who is not trusted any more must not get to the app first.
                biased;
                () = trust::void(&mut proof) => {}
                // How it ends is told to each stream.
                _ = driver.run() => {}
            }
        });
        Ok((client, reached.leaf))
    }
}

/// Makes a connection in a task of its own, and waits for it. `keep`: what is done with one for which nobody waits any more.
/// Cancel safe.
async fn outliving<T: 'static>(
    remote: Rc<Remote>,
    dial: impl Future<Output = Result<T, ConnectError>> + 'static,
    keep: impl FnOnce(Result<T, ConnectError>) + 'static,
) -> Result<T, ConnectError> {
    let (tell, told) = oneshot::channel();
    let place = Rc::new(Cell::new(None));
    let held = place.clone();
    let task = spawn_local(async move {
        if let Err(made) = tell.send(dial.await) {
            keep(made);
        }
        drop(held);
    });
    let _waiting = Waiting { task, remote, place };
    // The task ends without a word only where the worker ends.
    told.await.unwrap_or(Err(ConnectError::Closed))
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match self.remote.straggler() {
            Some(straggler) if !self.task.is_finished() => self.place.set(Some(straggler)),
            _ => self.task.abort(),
        }
    }
}
