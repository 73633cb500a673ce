//! Refuse: what is turned away learns why.
//!
//! In: a connection that will not be served, and the reason. Out: an HTTP response to each request where it speaks HTTP,
//! else a reset. Counted by reason, once for each request or connection.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;
use weft_model::destination::Target;
use weft_model::name::ServicePort;
use weft_model::reason::Reason;

use crate::detect;
use crate::http::exchange::Exchange;
use crate::http::server::{RequestService, ServeContext, serve};
use crate::io::Io;
use crate::observe::access::Line;
use crate::observe::metrics::{Direction, Labels, Series};
use crate::outcome::{self, Asked};
use crate::worker::Worker;

/// Answers every request with the same reason.
#[derive(Debug)]
struct Refusing {
    reason: Reason,
    direction: Direction,
    worker: Rc<Worker>,
    /// Where an app's connection was going: what it asks for counts for the Service there. `None` on inbound.
    dialled: Option<Target>,
}

impl RequestService for Refusing {
    async fn handle(&self, exchange: &mut Exchange<'_>) {
        self.worker.metrics.refused(self.reason, self.direction);
        exchange.log(self.worker.line(self.direction));
        if let Some(dialled) = &self.dialled {
            let to = self.worker.tables().called(dialled);
            let series = series(&self.worker, to.as_ref(), "");
            let outcome = outcome::failed(self.reason);
            Asked::of(exchange).count(&series, outcome, None, Instant::now());
            exchange.note(|entry| entry.of(&series));
        }
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
        dialled: matches!(direction, Direction::Outbound).then_some(Target::Address(other)),
    });
    // How it ends concerns nobody any more.
    let _ = serve(io, version, service, context).await;
}

/// The series of what an app asked for and reaches no endpoint. `to`: the Service that it called; `template`: of the rule that
/// it fell under, or empty.
pub fn series(worker: &Worker, to: Option<&ServicePort>, template: &str) -> Rc<Series> {
    let tables = worker.tables();
    let labels = tables.inbound().map(|own| match to {
        Some(service) => Labels {
            destination_service: service.name.as_str().into(),
            destination_namespace: service.namespace.as_str().into(),
            ..Labels::outside(own)
        },
        None => Labels::outside(own),
    });
    worker.metrics.series(&labels.unwrap_or_default(), template)
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
    io.break_off();
}
