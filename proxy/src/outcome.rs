//! Observe: the outcome of one request or stream, in the words of metrics and traces.
//!
//! In: a request's head before it is forwarded, and how it went. Out: one record in its series, and the end of its span.

use std::net::SocketAddr;

use http::uri::{Authority, PathAndQuery};
use http::{Method, Version};
use tokio::time::Instant;
use weft_model::reason::Reason;

use crate::detect::why_read_failed;
use crate::forward::tcp::{Ended, Flow, Outcome as Streamed};
use crate::http::exchange::{Done, Exchange};
use crate::http::refuse::grpc_code;
use crate::observe::access::Line;
use crate::observe::metrics::{Direction, HttpCall, Labels, OpenTcp, RpcCall, Series};
use crate::observe::trace::{Outcome, Span, What};

/// What is remembered of a request for its record. Cheap: nothing is copied but reference counts.
#[derive(Clone, Debug)]
pub struct Asked {
    method: Method,
    target: Option<PathAndQuery>,
    authority: Option<Authority>,
    version: Version,
    grpc: bool,
    started: Instant,
}

impl Asked {
    /// Takes down what was asked.
    pub fn of(exchange: &Exchange<'_>) -> Self {
        let head = exchange.head();
        Self {
            method: head.method.clone(),
            target: head.target.clone(),
            authority: head.authority.clone(),
            version: head.version,
            grpc: head.is_grpc(),
            started: exchange.started(),
        }
    }

    /// The request as a span sees it.
    pub fn what<'a>(&'a self, labels: &'a Labels, route: &'a str, peer: Option<SocketAddr>) -> What<'a> {
        What {
            method: &self.method,
            path: self.path(),
            authority: self.authority.as_ref().map(Authority::as_str),
            version: self.version,
            route,
            grpc: self.grpc,
            labels,
            peer,
            gateway: false,
        }
    }

    /// Counts it, once it has ended. `span`: an example of it, if it is sampled.
    pub fn count(&self, series: &Series, outcome: Outcome, span: Option<&Span>, now: Instant) {
        let trace = span.and_then(Span::context);
        let took = now.saturating_duration_since(self.started);
        if self.grpc {
            series.rpc(&RpcCall {
                path: self.path(),
                status: outcome.grpc_status,
                error: outcome.error,
                took,
                trace,
            });
        } else {
            let Outcome { status, error, .. } = outcome;
            series.http(&HttpCall {
                method: &self.method,
                version: self.version,
                status,
                error,
                took,
                trace,
            });
        }
    }

    /// Whether it is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }
}

/// The outcome of an exchange that came to its end.
pub fn done(done: &Done) -> Outcome {
    Outcome {
        status: done.status,
        grpc_status: done.grpc_status,
        error: None,
    }
}

/// The outcome of an exchange that was refused, or cut after it had begun.
pub fn failed(reason: Reason) -> Outcome {
    Outcome {
        status: reason.status(),
        grpc_status: Some(grpc_code(reason)),
        error: Some(reason),
    }
}

/// The outcome of a stream that failed: it has no status.
pub fn failed_stream(reason: Reason) -> Outcome {
    Outcome {
        error: Some(reason),
        ..Outcome::default()
    }
}

/// Ends a span, if there is one.
pub fn finish(span: Option<Span>, outcome: Outcome) {
    if let Some(span) = span {
        span.finish(outcome);
    }
}

/// Counts the bytes of a stream as they move.
pub fn moved(open: &OpenTcp, flow: Flow, bytes: u64) {
    match flow {
        Flow::Up => open.up(bytes),
        Flow::Down => open.down(bytes),
    }
}

/// Counts how a stream ended, and notes it in its line of the access log.
pub fn stream_ended(outcome: Streamed, open: OpenTcp, direction: Direction, line: &mut Option<Line>) {
    let ended = match outcome.ended {
        Ended::Cleanly => Ok(()),
        Ended::Downstream(error) => Err(why_read_failed(&error)),
        Ended::Upstream(_) => Err(Reason::UpstreamClosed),
    };
    let reason = ended.err();
    Line::note(line, |entry| {
        let ended = reason.map_or_else(Outcome::default, failed_stream);
        entry.ended(ended, (outcome.up, outcome.down));
    });
    tracing::debug!(
        up = outcome.up,
        down = outcome.down,
        ?ended,
        direction = direction.as_str(),
        "stream ended"
    );
    open.finish(ended);
}
