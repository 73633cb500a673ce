//! SIGTERM or SIGINT once: gently; twice: now.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::drain::{Drain, Ended};

/// The signals that end a process, from now on in our hands.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// Takes both signals. Needs a tokio runtime. Do this early: before, a signal kills.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either signal. Cancel safe.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a signal, then ends the tasks: gently within `grace`, or at once on a second signal.
    pub async fn end(mut self, drain: Drain, grace: Duration) -> Ended {
        self.next().await;
        tracing::info!(grace_seconds = grace.as_secs(), "draining");
        let running = drain.running();
        tokio::select! {
            biased; // whoever signals twice does not want to wait
            () = self.next() => Ended::ByForce(running),
            ended = drain.end(grace) => ended,
        }
    }
}
