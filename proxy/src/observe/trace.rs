//! Observe: traces.
//!
//! In: the headers of a request (W3C Trace Context, else B3). Out: spans in a bounded queue to the exporter, and the headers that the
//! next hop sees. Whether a request is sampled is decided before anything is allocated; one that is not costs the parsing of
//! its `traceparent`.

pub mod b3;
pub mod context;
pub mod sampler;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, Version};
use tokio::sync::mpsc;
use weft_model::reason::Reason;

use super::metrics::{Counter, Labels, Writer, rpc_method, series, table};
use b3::B3;
pub use context::Begun;
use context::{Context, TRACEPARENT, TRACESTATE};
pub use sampler::Sampler;

/// Spans that may wait for the exporter: at 1,000 requests a second those of two seconds, which is a few batches.
pub const QUEUE: usize = 4096;

/// What all workers' tracers share.
#[derive(Clone, Debug)]
pub struct Tracing {
    sampler: Sampler,
    queue: mpsc::Sender<Finished>,
}

/// Makes one worker's spans.
#[derive(Debug)]
pub struct Tracer {
    /// `None`: there is nowhere to send spans to, so headers pass untouched.
    tracing: Option<Rc<Worker>>,
}

#[derive(Debug)]
struct Worker {
    tracing: Tracing,
    dropped: Counter,
    /// SplitMix64: ids need to be unlike each other, not unpredictable.
    random: Cell<u64>,
}

/// The request that a span is about.
#[derive(Clone, Copy, Debug)]
pub struct What<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, without the query.
    pub path: &'a str,
    /// The authority: `:authority` or `Host`.
    pub authority: Option<&'a str>,
    /// The version spoken on the side that is measured.
    pub version: Version,
    /// The matched rule's path template ([`super::metrics::route_template`]), or empty.
    pub route: &'a str,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Who talks to whom.
    pub labels: &'a Labels,
    /// The address of the other side: the caller's on a server span, the endpoint's on a client span.
    pub peer: Option<SocketAddr>,
    /// Whether that is an address of another network, which a gateway leads to.
    pub gateway: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The response's status. 0: none was given.
    pub status: u16,
    /// gRPC's status, if it said one.
    pub grpc_status: Option<u16>,
    /// Why Weft made the response itself, or cut it.
    pub error: Option<Reason>,
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// The inbound proxy's.
    Server,
    /// The outbound proxy's, one for each attempt.
    Client,
}

/// A sampled span that has not ended. Dropped without [`Span::finish`], it ends as cancelled.
#[derive(Debug)]
pub struct Span {
    worker: Rc<Worker>,
    begun: Instant,
    /// Taken when it ends.
    data: Option<Box<Finished>>,
}

/// A span on its way to the collector.
#[derive(Debug)]
pub struct Finished {
    pub(super) kind: SpanKind,
    pub(super) context: Context,
    /// All zero: a root.
    pub(super) parent: [u8; 8],
    pub(super) start: SystemTime,
    pub(super) took: std::time::Duration,
    pub(super) method: &'static str,
    pub(super) path: Box<str>,
    pub(super) authority: Box<str>,
    pub(super) version: &'static str,
    pub(super) route: Box<str>,
    /// `pkg.Service/Method`, if it is gRPC.
    pub(super) rpc_method: Option<Box<str>>,
    pub(super) labels: Labels,
    pub(super) peer: Option<SocketAddr>,
    pub(super) gateway: bool,
    pub(super) resend: u32,
    pub(super) outcome: Outcome,
    pub(super) cancelled: bool,
}

impl Tracing {
    /// For spans that go to the exporter, and its end of the queue.
    pub fn new(sampler: Sampler) -> (Self, mpsc::Receiver<Finished>) {
        let (queue, spans) = mpsc::channel(QUEUE);
        (Self { sampler, queue }, spans)
    }
}

impl Tracer {
    /// For one worker. `None`: tracing is off.
    pub fn new(tracing: Option<&Tracing>, writer: &Writer) -> Self {
        let tracing = tracing.map(|tracing| {
            Rc::new(Worker {
                tracing: tracing.clone(),
                dropped: writer.counter(&table::TRACES_DROPPED, &["queue"]),
                random: Cell::new(rand::random()),
            })
        });
        Self { tracing }
    }

    /// Reads a request's trace context and decides whether it is sampled: once for each request, before its attempts.
    pub fn begin(&self, headers: &HeaderMap) -> Begun {
        let Some(worker) = &self.tracing else { return Begun::Off };
        let sampler = &worker.tracing.sampler;
        let (parent, b3) = (Context::read(headers), B3::read(headers));
        let form = b3.map(|b3| b3.form);
        match (parent, b3) {
            (Some(parent), _) => Begun::Child {
                parent,
                sampled: sampler.with_parent(&parent),
                b3: form,
            },
            (None, Some(B3 { parent, sampled, .. })) => {
                let trace = parent.map_or_else(|| worker.trace_id(), |parent| parent.trace);
                let sampled = sampler.with_decision(&trace, sampled);
                match parent {
                    Some(parent) => Begun::Child {
                        parent,
                        sampled,
                        b3: form,
                    },
                    None => Begun::Root {
                        trace,
                        sampled,
                        b3: form,
                    },
                }
            }
            (None, None) => {
                let trace = worker.trace_id();
                let sampled = sampler.without_parent(&trace);
                Begun::Root {
                    trace,
                    sampled,
                    b3: form,
                }
            }
        }
    }

    /// The server span of a request to this pod's app, if it is sampled.
    pub fn server(&self, begun: Begun, what: &What<'_>) -> Option<Span> {
        self.span(begun, what, SpanKind::Server, 0)
    }

    /// The client span of one attempt, if the request is sampled. `resend`: how many attempts there were before.
    pub fn client(&self, begun: Begun, what: &What<'_>, resend: u32) -> Option<Span> {
        self.span(begun, what, SpanKind::Client, resend)
    }

    /// Writes the trace context that the next hop sees: the span's, or the decision not to sample a trace that would begin
    /// here, so that every hop keeps to it. Otherwise the headers stay as they came.
    pub fn carry(&self, begun: Begun, span: Option<&Span>, headers: &mut HeaderMap) {
        match (begun, span) {
            (Begun::Off, _) | (Begun::Child { b3: None, .. }, None) => {}
            (Begun::Child { b3: Some(form), .. }, None) => {
                // Left to us, and decided: else each hop would decide anew, and some of a trace would be seen.
                if Context::read(headers).is_none() && B3::read(headers).is_some_and(|b3| b3.sampled.is_none()) {
                    form.decide_against(headers);
                }
            }
            (Begun::Child { b3, .. }, Some(span)) => {
                // A state belongs to the parent that it came with (Trace Context section 3.4).
                if Context::read(headers).is_none() {
                    headers.remove(TRACESTATE);
                }
                span.inject(b3, headers);
            }
            (Begun::Root { trace, b3, .. }, span) => {
                // The same. What of B3 cannot be read would begin another trace at whoever reads it less strictly.
                headers.remove(TRACESTATE);
                match b3 {
                    None => b3::remove(headers),
                    Some(form) if span.is_none() => form.deny(headers),
                    Some(_) => {}
                }
                match (span, &self.tracing) {
                    (Some(span), _) => span.inject(b3, headers),
                    (None, Some(worker)) => {
                        let context = Context {
                            trace,
                            span: worker.span_id(),
                            flags: 0,
                        };
                        headers.insert(TRACEPARENT, context.header());
                    }
                    (None, None) => {}
                }
            }
        }
    }

    fn span(&self, begun: Begun, what: &What<'_>, kind: SpanKind, resend: u32) -> Option<Span> {
        let worker = self.tracing.as_ref()?;
        let (trace, parent, flags) = match begun {
            Begun::Child {
                parent, sampled: true, ..
            } => (parent.trace, parent.span, parent.flags | context::SAMPLED),
            Begun::Root {
                trace, sampled: true, ..
            } => (trace, [0; 8], context::SAMPLED),
            _ => return None,
        };
        let data = Finished {
            kind,
            context: Context {
                trace,
                span: worker.span_id(),
                flags,
            },
            parent,
            start: SystemTime::now(),
            took: std::time::Duration::ZERO,
            method: series::method_label(what.method),
            path: what.path.into(),
            authority: what.authority.unwrap_or_default().into(),
            version: series::version(what.version),
            route: what.route.into(),
            rpc_method: what.grpc.then(|| rpc_method(what.path).unwrap_or("_OTHER").into()),
            labels: what.labels.clone(),
            peer: what.peer,
            gateway: what.gateway,
            resend,
            outcome: Outcome::default(),
            cancelled: true,
        };
        Some(Span {
            worker: worker.clone(),
            begun: Instant::now(),
            data: Some(Box::new(data)),
        })
    }
}

impl Span {
    /// Makes this span the parent of what the next hop does. `b3`: beside `traceparent` in this form too.
    fn inject(&self, b3: Option<b3::Form>, headers: &mut HeaderMap) {
        if let Some(data) = &self.data {
            headers.insert(TRACEPARENT, data.context.header());
            if let Some(form) = b3 {
                form.write(&data.context, data.parent, headers);
            }
        }
    }

    /// Trace and span.
    pub fn context(&self) -> Option<Context> {
        self.data.as_ref().map(|data| data.context)
    }

    /// Ends it.
    pub fn finish(mut self, outcome: Outcome) {
        if let Some(data) = &mut self.data {
            data.outcome = outcome;
            data.cancelled = false;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut data) = self.data.take() else { return };
        data.took = self.begun.elapsed();
        // The exporter looks into the queue by itself, so this wakes nobody; a full queue costs the span.
        if self.worker.tracing.queue.try_send(*data).is_err() {
            self.worker.dropped.add(1);
        }
    }
}

impl Worker {
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Never all zero, which would be invalid.
    fn span_id(&self) -> [u8; 8] {
        self.random().max(1).to_be_bytes()
    }

    fn trace_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random().to_be_bytes());
        id[8..].copy_from_slice(&self.random().max(1).to_be_bytes());
        id
    }
}

impl Finished {
    /// Low cardinality (semantic conventions): never a path that a request said.
    pub(super) fn name(&self) -> String {
        match &self.rpc_method {
            // A method that the app does not know could be anything.
            Some(_) if self.outcome.grpc_status == Some(12) => "_OTHER".to_owned(),
            Some(method) => method.clone().into_string(),
            None => {
                let method = if self.method == "_OTHER" { "HTTP" } else { self.method };
                if self.route.is_empty() {
                    method.to_owned()
                } else {
                    format!("{method} {}", self.route)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
