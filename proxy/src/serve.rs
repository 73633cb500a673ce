//! Serve: one worker's listeners, from the first connection to the last.
//!
//! In: listeners, and how far the process has come. Out: a local task per connection, which tells the inbound or the outbound
//! story. On draining, inbound connections are told to end, listeners go on, and outbound connections last as long as the
//! app's containers use them.

use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::accept::{Slots, accept};
use crate::observe::metrics::Direction;
use crate::worker::Worker;
use crate::{inbound, outbound};

/// The listeners of one worker.
#[derive(Debug)]
pub struct Listeners {
    /// Where the redirect sends what others dial here.
    pub inbound: Vec<TcpListener>,
    /// Where the redirect sends what the app dials.
    pub outbound: Vec<TcpListener>,
    /// Connections held at once, per direction.
    pub slots: usize,
}

/// How far the process has come, as told to workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    #[default]
    Running,
    /// Finishing what there is.
    Draining,
    /// Over: what is left is dropped.
    Ended,
}

/// Serves until the process ends: by itself once it drains and nothing is left. To be run within a `LocalSet`.
pub async fn serve(worker: Rc<Worker>, listeners: Listeners, mut phase: watch::Receiver<Phase>) {
    let inbound = Slots::new(listeners.slots, Direction::Inbound, worker.metrics.clone());
    let outbound = Slots::new(listeners.slots, Direction::Outbound, worker.metrics.clone());
    spawn_local(worker.clone().follow());
    spawn_local(worker.clone().sweep());
    for listener in listeners.inbound {
        spawn_local(serve_inbound(worker.clone(), listener, inbound.clone()));
    }
    for listener in listeners.outbound {
        spawn_local(serve_outbound(worker.clone(), listener, outbound.clone()));
    }
    // An error says that whoever decides is gone: then it is over as well.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    worker.inbound_closing.begin();
    let nothing_left = async {
        inbound.all_free().await;
        outbound.all_free().await;
    };
    tokio::select! {
        () = nothing_left => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Ended) => {}
    }
}

async fn serve_inbound(worker: Rc<Worker>, listener: TcpListener, slots: Rc<Slots>) {
    let each = |socket, client, slot| {
        let worker = worker.clone();
        spawn_local(async move {
            inbound::serve(&worker, socket, client, &slot).await;
        });
    };
    accept(&listener, &slots, each).await;
}

async fn serve_outbound(worker: Rc<Worker>, listener: TcpListener, slots: Rc<Slots>) {
    let each = |socket, client, slot| {
        let worker = worker.clone();
        spawn_local(async move {
            let _slot = slot;
            outbound::serve(&worker, socket, client).await;
        });
    };
    accept(&listener, &slots, each).await;
}
