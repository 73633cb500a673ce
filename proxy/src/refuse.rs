//! Refuse: what is turned away learns why.
//!
//! In: a connection that will not be served, and the reason. Out: an HTTP response to each request where it speaks HTTP,
//! else a reset. Counted by reason, once for each request or connection.

use std::net::SocketAddr;
use std::rc::Rc;

use weft_model::reason::Reason;

use crate::accept::reset;
use crate::detect;
use crate::http::exchange::Exchange;
use crate::http::server::{RequestService, ServeContext, serve};
use crate::io::Io;
use crate::observe::access::Line;
use crate::observe::metrics::Direction;
use crate::outcome;
use crate::worker::Worker;

/// Answers every request with the same reason.
#[derive(Debug)]
struct Refusing {
    reason: Reason,
    direction: Direction,
    worker: Rc<Worker>,
}

impl RequestService for Refusing {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        self.worker.metrics.refused(self.reason, self.direction);
        exchange.log(self.worker.line(self.direction));
        exchange.note(|entry| entry.ended(outcome::failed(self.reason), (0, 0)));
        exchange.refuse(self.reason).await;
    }

    fn refused(&self, reason: Reason) {
        self.worker.metrics.refused(reason, self.direction);
    }
}

/// Turns a connection away. `other`: who dialled on inbound, what was dialled on outbound.
pub async fn connection(
    mut io: Io,
    reason: Reason,
    direction: Direction,
    worker: &Rc<Worker>,
    other: SocketAddr,
    context: ServeContext,
) {
    if reason == Reason::ClientClosed {
        // It went before it said anything, as port checks do: nothing was refused.
        return;
    }
    let Some(version) = detect::could_be_told(&mut io, worker.settings.detect_wait).await else {
        unheard(worker, reason, direction, Some(other));
        return close(&io);
    };
    let service = Rc::new(Refusing {
        reason,
        direction,
        worker: worker.clone(),
    });
    // How it ends concerns nobody any more.
    let _ = serve(io, version, service, context).await;
}

/// Counts what is refused without a word.
pub fn unheard(worker: &Worker, reason: Reason, direction: Direction, other: Option<SocketAddr>) {
    worker.metrics.refused(reason, direction);
    let mut line = worker.line(direction);
    Line::note(&mut line, |entry| {
        other.into_iter().for_each(|other| entry.to(other));
        entry.ended(outcome::failed_stream(reason), (0, 0));
    });
}

/// Ends a stream with a reset, so that the other side does not take it for an orderly end.
pub fn close(io: &Io) {
    if let Some(socket) = io.socket() {
        reset(socket);
    }
}
