//! Serve: one worker's listeners, from the first connection to the last.
//!
//! In: listeners, and how far the process has come. Out: a local task per connection, which tells the inbound or the outbound
//! story. On draining, inbound connections are told to end, listeners go on, and outbound connections last as long as the
//! app's containers use them. It lasts a moment even if nothing is left: others hear of the pod's end only with a delay, and
//! dial meanwhile; once the pod's network is gone nobody tells them anything.

use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::accept::{Slots, accept};
use crate::observe::metrics::Direction;
use crate::worker::Worker;
use crate::{inbound, outbound};

/// How often, at most, those are told to end who came while the process drains.
const CLOSE_AGAIN: Duration = Duration::from_millis(100);

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
    let nothing_left = async {
        linger(&worker).await;
        inbound.all_free().await;
        outbound.all_free().await;
    };
    let nothing_left = async {
        tokio::select! {
            () = nothing_left => {}
            never = close_again(&worker) => match never {},
        }
    };
    tokio::select! {
        () = nothing_left => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Ended) => {}
    }
}

/// Answers for as long as others may not have heard yet.
async fn linger(worker: &Worker) {
    worker.close_inbound();
    tokio::time::sleep(worker.settings.drain_min).await;
    worker.close_inbound();
}

/// Tells those to end who came after all others had been told, for ever.
async fn close_again(worker: &Worker) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(worker.settings.drain_min.max(CLOSE_AGAIN)).await;
        worker.close_inbound();
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
