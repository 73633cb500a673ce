//! Refuse: what is turned away learns why.
//!
//! In: a connection that will not be served, and the reason. Out: an HTTP response to each request where it speaks HTTP,
//! else a reset. Counted by reason, once for each request or connection.

use std::rc::Rc;
use std::time::Duration;

use weft_model::reason::Reason;

use crate::accept::reset;
use crate::detect;
use crate::http::exchange::Exchange;
use crate::http::server::{RequestService, ServeContext, serve};
use crate::io::Io;
use crate::observe::metrics::{Direction, Metrics};

/// Answers every request with the same reason.
#[derive(Debug)]
struct Refusing {
    reason: Reason,
    direction: Direction,
    metrics: Rc<Metrics>,
}

impl RequestService for Refusing {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        self.metrics.refused(self.reason, self.direction);
        exchange.refuse(self.reason).await;
    }

    fn refused(&self, reason: Reason) {
        self.metrics.refused(reason, self.direction);
    }
}

/// Turns a connection away. `silence`: how long it may take until it shows whether it speaks HTTP.
pub async fn connection(
    mut io: Io,
    reason: Reason,
    direction: Direction,
    metrics: &Rc<Metrics>,
    silence: Duration,
    context: ServeContext,
) {
    if reason == Reason::ClientClosed {
        // It went before it said anything, as port checks do: nothing was refused.
        return;
    }
    let Some(version) = detect::could_be_told(&mut io, silence).await else {
        metrics.refused(reason, direction);
        return close(&io);
    };
    let service = Rc::new(Refusing {
        reason,
        direction,
        metrics: metrics.clone(),
    });
    // How it ends concerns nobody any more.
    let _ = serve(io, version, service, context).await;
}

/// Ends a stream with a reset, so that the other side does not take it for an orderly end.
pub fn close(io: &Io) {
    if let Some(socket) = io.socket() {
        reset(socket);
    }
}
